"""What the facts mean: a line for each question of the on-call checklist. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from serve_app.status.facts import AuditFacts, Facts, Kept, Maybe, Unseen

FAILED_OBJECTIVE: Final = 0.005
SLOW_OBJECTIVE: Final = 0.05
"""Shares of bad requests that the objectives allow, as in `configs/alerts/slo.rules.yaml`."""

_FEWEST: Final = 20  # requests, before a share of them means something
_PAGE_BURN: Final = 14.4
_TICKET_BURN: Final = 1.0
_APPROVAL_S: Final = 900.0
_CANARY_S: Final = 120.0
_NOTICE_S: Final = 60.0
_CHECKPOINT_S: Final = 30.0
_EXPORT_S: Final = 900.0
_BACKLOG: Final = 1_000
_DISK_BYTES: Final = 2**30
_DAY_MS: Final = 86_400_000
_BACKUP_DAYS: Final = 2
_DRILL_DAYS: Final = 31
_CLOCK_MS: Final = 300_000  # by which clocks of one site may differ
_VITAL: Final = frozenset({"ledger", "router", "gate", "audit"})


class State(IntEnum):
    """How it is with something; also the exit status. What nobody saw is `UNSEEN`, and makes nothing worse."""

    UNSEEN = -1
    OK = 0
    DEGRADED = 1
    DOWN = 2


@dataclass(frozen=True, slots=True)
class Line:
    """One question: its answer, and what to do about it (empty: nothing)."""

    topic: str
    state: State
    seen: str
    advice: str = ""


def judge(facts: Facts) -> Sequence[Line]:
    """A line for each question, in the order in which one would look."""
    topics: Sequence[Callable[[Facts], Line]] = (
        _server,
        _parts,
        _engines,
        _tiers,
        _errors,
        _latency,
        _burn,
        _alerts,
        _approvals,
        _gate,
        _audit,
        _budgets,
        _rollouts,
        _backup,
        _restored,
        _running,
    )
    return [topic(facts) for topic in topics]


def overall(lines: Sequence[Line]) -> State:
    """The worst of what was seen; `OK` when nothing was wrong, or nothing seen but that it answers."""
    return max((line.state for line in lines if line.state is not State.UNSEEN), default=State.OK)


# --- what answers --------------------------------------------------------------------------------------------------


def _server(facts: Facts) -> Line:
    if facts.alive:
        return Line("server", State.OK, f"{facts.url} answers")
    if facts.odd is not None:
        said = f"{facts.url} answers {facts.odd} to /healthz"
        return Line("server", State.DOWN, said, "what stands before it? is the URL right?")
    return Line(
        "server", State.DOWN, f"nothing answers at {facts.url}", "gatehouse doctor; is it running, is the URL right?"
    )


def _parts(facts: Facts) -> Line:
    parts = facts.parts
    if isinstance(parts, Unseen):
        return _unseen("parts", parts)
    down = [name for name, state in parts.items() if state != "ready"]
    if not down:
        return Line("parts", State.OK, f"all {len(parts)} ready")
    engines = [name for name in parts if name.startswith("engine:")]
    no_engine = bool(engines) and all(name in down for name in engines)
    bad = no_engine or bool(_VITAL & set(down))
    return Line("parts", State.DOWN if bad else State.DEGRADED, f"down: {', '.join(down)}", "INC-02; the replica's log")


def _engines(facts: Facts) -> Line:
    if isinstance(facts.engines, Unseen):
        return _unseen("engines", facts.engines)
    seen = ", ".join(
        f"{each.model} {each.revision} {each.running} running"
        if each.state == "ready"
        else f"{each.model} {each.state}"
        for each in facts.engines
    )
    down = [each for each in facts.engines if each.state != "ready"]
    if not down:
        return Line("engines", State.OK, seen)
    state = State.DOWN if len(down) == len(facts.engines) else State.DEGRADED
    return Line("engines", state, seen, "INC-02")


def _tiers(facts: Facts) -> Line:
    if isinstance(facts.tiers, Unseen):
        return _unseen("tiers", facts.tiers)
    words = {
        tier: "down" if not each.up else "cold" if each.cold else "full" if each.full else f"queue {each.pressure:.0%}"
        for tier, each in facts.tiers.items()
    }
    seen = ", ".join(f"{tier} {word}" for tier, word in words.items())
    down = [tier for tier, each in facts.tiers.items() if not each.up]
    if down:
        return Line("tiers", State.DOWN if len(down) == len(words) else State.DEGRADED, seen, "INC-02")
    if any(each.full or each.pressure > 0.9 for each in facts.tiers.values()):
        return Line("tiers", State.DEGRADED, seen, "INC-01; gatehouse tenants list")
    return Line("tiers", State.OK, seen)


# --- objectives ----------------------------------------------------------------------------------------------------


def _errors(facts: Facts) -> Line:
    served = facts.served
    if isinstance(served, Unseen):
        return _unseen("errors", served)
    if served.asked == 0:
        return Line("errors", State.OK, "no request since the ingress started")
    share = served.failed / served.asked
    seen = (
        f"{share:.2%} of {served.asked:.0f} requests failed since the ingress started ({FAILED_OBJECTIVE:.1%} allowed)"
    )
    bad = share > FAILED_OBJECTIVE and served.asked >= _FEWEST
    return _since_start("errors", bad, seen, "INC-02; GatehouseStreamsBreak", facts)


def _latency(facts: Facts) -> Line:
    served = facts.served
    if isinstance(served, Unseen):
        return _unseen("latency", served)
    if served.p95_s is None:
        return Line("latency", State.OK, "no stream since the ingress started")
    share = served.slow / served.begun
    seen = f"first token p95 {served.p95_s:.2g} s, {share:.1%} later than 5 s ({SLOW_OBJECTIVE:.0%} allowed)"
    bad = share > SLOW_OBJECTIVE and served.begun >= _FEWEST
    return _since_start("latency", bad, seen, "INC-01", facts)


def _since_start(topic: str, bad: bool, seen: str, advice: str, facts: Facts) -> Line:
    """A figure since the ingress started. It may be old: where Prometheus knows the last hours, they decide."""
    if not bad:
        return Line(topic, State.OK, seen)
    if isinstance(facts.burn, Unseen):
        return Line(topic, State.DEGRADED, seen, advice)
    return Line(topic, State.OK, f"{seen}; when that was: budget burn")


def _burn(facts: Facts) -> Line:
    burn = facts.burn
    if isinstance(burn, Unseen):
        return _unseen("budget burn", burn)
    rates = [
        ("failures", "1 h", burn.failed_1h, FAILED_OBJECTIVE),
        ("failures", "3 d", burn.failed_3d, FAILED_OBJECTIVE),
        ("slowness", "1 h", burn.slow_1h, SLOW_OBJECTIVE),
        ("slowness", "3 d", burn.slow_3d, SLOW_OBJECTIVE),
    ]
    known = [(what, span, share / allowed) for what, span, share, allowed in rates if share is not None]
    if not known:
        return Line("budget burn", State.OK, "no failure and no first token in three days")
    seen = ", ".join(f"{what} {rate:.2g}x in {span}" for what, span, rate in known)
    fast = any(rate > _PAGE_BURN for _, span, rate in known if span == "1 h")
    steady = any(rate > _TICKET_BURN for _, span, rate in known if span == "3 d")
    return Line("budget burn", State.DEGRADED if fast or steady else State.OK, seen, "INC-01 or INC-02" if fast else "")


def _alerts(facts: Facts) -> Line:
    if isinstance(facts.alerts, Unseen):
        return _unseen("alerts", facts.alerts)
    told = [each for each in facts.alerts if each.severity != "info"]
    if not told:
        return Line("alerts", State.OK, "none fires")
    seen = ", ".join(f"{each.name} ({each.incident or each.severity})" for each in told)
    return Line("alerts", State.DEGRADED, seen, "docs/observability.md has a step for each")


# --- evidence and people -------------------------------------------------------------------------------------------


def _approvals(facts: Facts) -> Line:
    queue = facts.queue
    if isinstance(queue, Unseen):
        return _unseen("approvals", queue)
    if not queue.up:
        return Line("approvals", State.DOWN, "the approval store does not answer", "the PolicyGate's log, the database")
    oldest = "" if queue.oldest_s is None else f", the oldest for {_span(queue.oldest_s)}"
    seen = f"{queue.waiting} wait{oldest}; {queue.unreported} unreported, {queue.frozen} keys frozen"
    if queue.frozen:
        return Line("approvals", State.DEGRADED, seen, "INC-04; gatehouse approvals frozen")
    if queue.oldest_s is not None and queue.oldest_s > _APPROVAL_S:
        return Line("approvals", State.DEGRADED, seen, "call the approvers; gatehouse approvals list --state PENDING")
    if queue.notices_oldest_s is not None and queue.notices_oldest_s > _NOTICE_S:
        late = f"{seen}; notices late by {_span(queue.notices_oldest_s)}"
        return Line("approvals", State.DEGRADED, late, "the PolicyGate's log names the receiver")
    if queue.unreported:
        return Line("approvals", State.DEGRADED, seen, "gatehouse approvals report")
    return Line("approvals", State.OK, seen)


def _gate(facts: Facts) -> Line:
    canary = facts.canary
    if isinstance(canary, Unseen):
        return _unseen("gate", canary)
    if canary.escaped:
        return Line(
            "gate", State.DOWN, "a synthetic dangerous call was let through", "INC-04: take agents off the ingress"
        )
    if canary.at_s == 0:
        return Line("gate", State.DEGRADED, "its canary has not been sent yet")
    age_s = facts.now_ms / 1000 - canary.at_s
    if not canary.held:
        return Line(
            "gate", State.DEGRADED, "a dangerous call cannot be put before humans now", "GET /healthz/approvals"
        )
    if age_s > _CANARY_S:
        return Line("gate", State.DEGRADED, f"its canary is {_span(age_s)} old", "GatehouseGateCanaryMissing")
    return Line("gate", State.OK, f"its canary was held {_span(max(0.0, age_s))} ago")


def _audit(facts: Facts) -> Line:
    audit = facts.audit
    if isinstance(audit, Unseen):
        return _unseen("audit", audit)
    said = "; ".join(audit.problems)
    if not audit.up:
        return Line("audit", State.DOWN, said or "nothing is acknowledged: no tool call leaves", "docs/audit.md")
    age = None if audit.export_age_s is None else _span(audit.export_age_s)
    export = "no export" if age is None else f"exported {age} ago" if audit.exported else f"not exported for {age}"
    covered = f"{audit.unsealed} after the last checkpoint"
    kept = f"{audit.records} records, {covered}, {audit.backlog} waiting, {audit.dropped} lost"
    seen = f"{kept}; {_witness(audit)}, {export}"
    late = (
        audit.problems
        or audit.witness_stale
        or audit.dropped
        or audit.backlog > _BACKLOG
        or audit.checkpoint_late_s > _CHECKPOINT_S
        or audit.disk_free_bytes < _DISK_BYTES
        or (audit.export_age_s or 0.0) > _EXPORT_S
    )
    if not late:
        return Line("audit", State.OK, seen)
    free = f"; {audit.disk_free_bytes / 2**30:.1f} GiB free"
    return Line("audit", State.DEGRADED, f"{seen}{free}" + (f"; {said}" if said else ""), "docs/audit.md")


def _witness(audit: AuditFacts) -> str:
    if audit.witnesses == 0:
        return "no witness"
    age = "never" if audit.witness_age_s is None else f"{_span(audit.witness_age_s)} ago"
    return f"witnessed {age}" + (" (too long)" if audit.witness_stale else "")


def _budgets(facts: Facts) -> Line:
    budgets = facts.budgets
    if isinstance(budgets, Unseen):
        return _unseen("budgets", budgets)
    seen = f"{budgets.spent} spent ({budgets.spent_hard} of them hard), {budgets.near} nearly"
    if budgets.spent_hard:
        return Line("budgets", State.DEGRADED, seen, "gatehouse budgets list")
    return Line("budgets", State.OK, seen)


# --- ways back -----------------------------------------------------------------------------------------------------


def _rollouts(facts: Facts) -> Line:
    rollouts = facts.rollouts
    if isinstance(rollouts, Unseen):
        return _unseen("rollouts", rollouts)
    if not rollouts:
        return Line("rollouts", State.OK, "none under way")
    seen = ", ".join(
        f"{each.rollout_id} of {each.target}: "
        f"{'going back' if each.going_back else 'held' if each.held else each.state} at {each.share_percent} %"
        for each in rollouts
    )
    bad = any(each.held or each.going_back for each in rollouts)
    return Line("rollouts", State.DEGRADED if bad else State.OK, seen, "gatehouse rollout status" if bad else "")


def _backup(facts: Facts) -> Line:
    return _kept("last backup", facts.backup, facts.now_ms, _BACKUP_DAYS, "gatehouse backup")


def _restored(facts: Facts) -> Line:
    return _kept("last restore drill", facts.restored, facts.now_ms, _DRILL_DAYS, "gatehouse drill restore")


def _kept(topic: str, found: Maybe[Kept], now_ms: int, days: int, command: str) -> Line:
    if isinstance(found, Unseen):
        return Line(topic, State.UNSEEN, found.why, command)
    age_ms = now_ms - found.at_ms
    if age_ms < -_CLOCK_MS:  # it would be the newest for as long as that
        return Line(
            topic, State.DEGRADED, f"dated {_span(-age_ms / 1000)} after now, {found.where}: a clock is wrong", command
        )
    seen = f"{_span(max(0, age_ms) / 1000)} ago, {found.where}"
    if not found.good:
        return Line(topic, State.DEGRADED, f"{seen}: it did not verify", command)
    if age_ms > days * _DAY_MS:
        return Line(topic, State.DEGRADED, seen, command)
    return Line(topic, State.OK, seen)


def _running(facts: Facts) -> Line:
    running = facts.running
    if isinstance(running, Unseen):
        return _unseen("version", running)
    since_s = max(0.0, (facts.now_ms - running.since_ms) / 1000)
    return Line(
        "version",
        State.OK,
        f"{running.version}, profile {running.profile}, for {_span(since_s)}; configuration "
        f"{running.config_digest[:12]}, policy {running.policy_digest[:12]}",
    )


def _unseen(topic: str, found: Unseen) -> Line:
    return Line(topic, State.UNSEEN, found.why)


def _span(seconds: float) -> str:
    """A length of time, to two figures that matter."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86_400:.0f} d"
