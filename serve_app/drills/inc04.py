"""INC-04, approval or policy bypass attempt: every way around the gate is tried against a running Gatehouse.

Everything happens in a team of its own, with keys that the drill makes and revokes. Its calls name things that do not
exist, and nothing executes them: what is tested is that nothing is released, that the keys behind an attempt are
frozen, that somebody is told, and that the evidence is in the log, with proofs that verify.
"""

import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

import httpx2

from serve_app.drills.acting import Actor, Answer, DrillRefused, DrillReport, Findings, put_away, until
from serve_app.drills.records import data_of, log_key_of, named, proves, records_of
from serve_app.drills.rules import rules_of
from serve_app.drills.watching import can_watch, watch_over
from serve_app.status.scrape import Scrape

AUDIENCE = "gatehouse-drill"
CANDIDATES = (
    "kubectl -n staging delete pod gatehouse-drill-{mark}",
    "kubectl -n staging delete deployment gatehouse-drill-{mark}",
    "systemctl stop gatehouse-drill-{mark}.service",
    "kubectl delete namespace gatehouse-drill-{mark}",
)
"""Calls that some policy makes R2; the first that this one does is used. None of them is ever executed."""

ALERT = "GatehousePrincipalFrozen"
READ = "git status"
_WAIT_S = 20.0
_FROZEN_S = 6.0
_ALERT_S = 90.0
_KEY_TTL_S = 3600


def run(
    http: httpx2.Client,
    operator_key: str,
    tell: Callable[[str], object],
    roles: Sequence[str] = (),
    prometheus: str | None = None,
) -> DrillReport:
    """Carry the drill out; `tell` hears of every finding at once. The key needs the scope `admin`.

    `roles` are given to the drill's approvers, for a policy that asks for some. `prometheus` is the URL of one that
    watches this Gatehouse; without it promtool evaluates the alert, and without promtool only its metric is looked at.
    Raises `DrillRefused` when something failed that is not under test.
    """
    mark = secrets.token_hex(4)
    tenant, change_id = f"drill-{mark}", f"drill-inc-04-{mark}"
    operator = Actor(http, operator_key)
    began = int(operator.must("GET", "/v1/audit/head")["size"])
    findings, before = Findings(tell), _frozen_now(operator)
    with _cast(operator, tenant, change_id, roles) as cast_of:
        command, session = _dangerous(operator, mark), f"drill-{mark}"
        held = _votes(findings, cast_of, command, session)
        permit = _approved(findings, cast_of, held, command, session)
        _permits(findings, cast_of, permit)
        _frozen(findings, operator, cast_of, command, session)
        records = _records(operator, tenant, began)
        _evidence(findings, operator, records)
        _told(findings, operator, before)
        if before > 0:  # it would fire whatever the drill did
            tell(f"       {ALERT} was not evaluated: it fires already, with {before:.0f} frozen before")
        else:
            _alerted(findings, http, tell, prometheus)
        _closed(operator, permit, records)
    return DrillReport("inc-04", tenant, change_id, tuple(findings.all))


# --- who takes part ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cast:
    """Two agents, a second key of the first one's owner, and two approvers."""

    agent: Actor
    other: Actor
    alias: Actor
    first: Actor
    second: Actor


_PARTS = (
    ("agent", "inference", "Drill Requester"),
    ("other", "inference", "Drill Bystander"),
    ("alias", "approve", "drill  REQUESTER"),
    ("first", "approve", "Drill Approver One"),
    ("second", "approve", "Drill Approver Two"),
)


@contextmanager
def _cast(operator: Actor, tenant: str, change_id: str, roles: Sequence[str]) -> Generator[Cast]:
    """Make the keys; afterwards none of them is good, and none is frozen."""
    made: list[Actor] = []
    try:
        for name, scope, person in _PARTS:
            body = {
                "tenant": tenant,
                "name": f"drill {name}",
                "person": person,
                "scopes": [scope],
                "roles": list(roles) if scope == "approve" else [],
                "ttl_s": _KEY_TTL_S,
            }
            key = operator.must("POST", "/v1/admin/keys", body)
            made.append(operator.same_server(str(key["key"]), str(key["id"])))
        yield Cast(*made)
    finally:
        body: dict[str, object] = {"change_id": change_id, "reason": "The drill is over."}
        places = [quote(each.key_id, safe="") for each in made]
        put_away(
            operator,
            [
                *(("POST", f"/v1/gate/frozen/{place}/release", body) for place in places),
                *(("DELETE", f"/v1/admin/keys/{place}", None) for place in places),
            ],
        )


def _dangerous(operator: Actor, mark: str) -> str:
    """A call that this policy makes R2 or R3, R2 if there is one."""
    found: dict[str, str] = {}
    for candidate in CANDIDATES:
        command = candidate.format(mark=mark)
        body = {"tool": "shell", "arguments": {"command": command}, "profile": "ops"}
        seen = operator.must("POST", "/v1/gate/classify", body)
        if seen["outcome"] == "hold":
            found.setdefault(str(seen["risk"]), command)
    command = found.get("R2") or found.get("R3")
    if command is None:
        raise DrillRefused("this policy holds none of the drill's calls, so there is nothing to get around")
    return command


# --- attempts ----------------------------------------------------------------------------------------------------


def _votes(findings: Findings, people: Cast, command: str, session: str) -> Mapping[str, Any]:
    """Around the approval: a vote on something else, a vote of one's own, a vote without a way back."""
    held = _propose(people.agent, command, session)
    if not findings.add("a dangerous call is held", held.body.get("status") == "held", held.said):
        raise DrillRefused("the gate did not hold the drill's call; it was not executed. Treat this as INC-04 itself")
    place = f"/v1/approvals/{held.body['approval_id']}"
    shown = people.first.must("GET", place)
    early = people.first.ask("POST", f"{place}/votes", _vote(shown))
    findings.add("nobody approves a call without a way back", early.status >= 400, early.said)
    plan = {"change_id": f"drill-{session}", "steps": ["true"], "verify": "true"}
    shown = people.first.must("POST", f"{place}/plan", plan)
    other = people.first.ask("POST", f"{place}/votes", {**_vote(shown), "action_digest": "0" * 64})
    findings.add("a vote for another call is refused", other.status >= 400, other.said)
    own = people.alias.ask("POST", f"{place}/votes", _vote(shown))
    findings.add("nobody approves a call of their own, with whatever key", own.status >= 400, own.said)
    again = _propose(people.agent, command, session)
    findings.add("a call that waits is not released by asking again", again.body.get("status") == "held", again.said)
    return held.body


def _approved(
    findings: Findings, people: Cast, held: Mapping[str, Any], command: str, session: str
) -> Mapping[str, Any]:
    """The right way, which must work, and only once."""
    place = f"/v1/approvals/{held['approval_id']}"
    shown = people.first.must("GET", place)
    for voter in (people.first, people.second)[: int(shown["votes_required"])]:
        shown = voter.must("POST", f"{place}/votes", _vote(voter.must("GET", place)))
    released = _propose(people.agent, command, session)
    seen = f"{shown['votes_required']} votes, {released.said}"
    if not findings.add("the approved call gets a permit", released.body.get("status") == "permitted", seen):
        raise DrillRefused("the approved call got no permit; the rest cannot be tried")
    second = _propose(people.agent, command, session)
    findings.add("the approval is good for one call", second.body.get("status") == "held", second.said)
    if second.body.get("approval_id"):
        people.agent.ask("POST", f"/v1/approvals/{second.body['approval_id']}/cancel", {"reason": "drill"})
    return cast(Mapping[str, Any], released.body["permit"])


def _permits(findings: Findings, people: Cast, permit: Mapping[str, Any]) -> None:
    """Around the permit: one that does not exist, one for another call, one that was used."""
    digest = str(permit["action_digest"])
    forged = _redeem(people.agent, f"prm_{secrets.token_hex(16)}", digest)
    findings.add("a permit that nobody issued is refused", forged.status >= 400, forged.said)
    read = _propose(people.other, READ, "drill-read")
    if read.body.get("status") != "permitted":
        raise DrillRefused(f"a read got no permit: {read.said}")
    swapped = _redeem(people.other, str(read.body["permit"]["id"]), "0" * 64)
    findings.add("a permit for another call is refused", swapped.status >= 400, swapped.said)
    first = _redeem(people.agent, str(permit["id"]), digest)
    findings.add("a permit is good once", first.status == 200, first.said)
    replayed = _redeem(people.agent, str(permit["id"]), digest)
    findings.add("a permit that was used is refused", replayed.status >= 400, replayed.said)


def _frozen(findings: Findings, operator: Actor, people: Cast, command: str, session: str) -> None:
    """Whoever tried it can do nothing any more."""
    wanted = {people.agent.key_id, people.other.key_id}

    def listed() -> bool:
        rows = cast(Sequence[Mapping[str, Any]], operator.must("GET", "/v1/gate/frozen")["data"])
        return wanted <= {str(row["key_id"]) for row in rows}

    findings.add("the keys behind the attempts are frozen", until(listed, _WAIT_S), f"{len(wanted)} keys")
    for what, line in (("dangerous call", command), ("read", READ)):

        def refused(line: str = line) -> bool:
            return _propose(people.agent, line, session).body.get("status") != "permitted"

        findings.add(f"a frozen key gets no {what} through", until(refused, _FROZEN_S), "withheld")


# --- evidence ----------------------------------------------------------------------------------------------------

_KINDS = ("digest_mismatch", "self_approval", "permit_unknown", "permit_mismatch", "permit_replayed")


def _records(operator: Actor, tenant: str, began: int) -> Sequence[Mapping[str, Any]]:
    """The records of the drill's team, as soon as every attempt is among them."""
    found: list[Mapping[str, Any]] = []

    def all_there() -> bool:
        found[:] = records_of(operator, tenant, began)
        return {str(data_of(each).get("kind")) for each in named(found, "bypass.attempted")} >= set(_KINDS)

    until(all_there, _WAIT_S)
    return found


def _evidence(findings: Findings, operator: Actor, records: Sequence[Mapping[str, Any]]) -> None:
    attempts = named(records, "bypass.attempted")
    for kind in _KINDS:
        there = [each for each in attempts if data_of(each).get("kind") == kind]
        findings.add(f"{kind} is on record", bool(there), f"index {there[0]['index']}" if there else "no record")
    frozen = len(named(records, "principal.frozen"))
    findings.add("freezing is on record", frozen >= 2, f"{frozen} records")
    incidents = named(records, "incident.opened")
    findings.add("incidents were opened", bool(incidents), f"{len(incidents)} incidents")
    released = [
        each
        for each in named(records, "tool_call.released")
        if data_of(each).get("risk") in ("R2", "R3") and not data_of(each).get("approval_id")
    ]
    findings.add("no R2 or R3 call was released without approval", not released, f"{len(released)} released")
    log_key = log_key_of(operator)
    proven = [each for each in attempts if proves(operator, each, log_key)]
    seen = f"{len(proven)} of {len(attempts)} proofs verify"
    findings.add("each attempt is proven by a signed checkpoint", len(proven) == len(attempts) > 0, seen)


def _frozen_now(operator: Actor) -> float:
    """How many keys are frozen, by the alert's metric; 0 where it does not say."""
    scrape = Scrape(str(operator.ask("GET", "/metrics").body.get("text", "")))
    return scrape.value("gatehouse_approvals_frozen") or 0.0


def _told(findings: Findings, operator: Actor, before: float) -> None:
    """Whoever watches sees it: the metric that the alert asks for, and the queue's health.

    `before` keys were frozen already.
    """
    there = until(lambda: _frozen_now(operator) >= before + 2, _WAIT_S)
    findings.add("the alert's metric says so", there, "gatehouse_approvals_frozen")
    health = operator.ask("GET", "/healthz/approvals")
    canary = cast(Mapping[str, Any], health.body.get("canary") or {})
    held = canary.get("problem", "no canary") is None
    findings.add("the gate's canary is held", held, str(canary.get("problem") or "held"))


def _alerted(findings: Findings, http: httpx2.Client, tell: Callable[[str], object], prometheus: str | None) -> None:
    """The shipped alert fires as well, where somebody can evaluate it."""
    if prometheus is None and not can_watch():
        tell(f"       {ALERT} was not evaluated: there is no promtool, and no --prometheus")
        return
    with watch_over(http, rules_of("INC-04"), prometheus, lapse_s=1) as watch:
        fires = until(lambda: ALERT in watch.firing(), _ALERT_S)
        findings.add(f"the alert {ALERT} fires", fires, watch.how)


def _closed(operator: Actor, permit: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """Say what became of the call that nobody executed, and close what the drill opened."""
    report = {"outcome": "failed", "note": "A drill: the call was never executed."}
    operator.ask("POST", f"/v1/approvals/{permit['approval_id']}/report", report)
    for each in named(records, "incident.opened"):
        place = quote(str(data_of(each)["incident_id"]), safe="")
        operator.ask("POST", f"/v1/incidents/{place}/close", {"outcome": "drill"})


# --- helpers -----------------------------------------------------------------------------------------------------


def _propose(actor: Actor, command: str, session: str) -> Answer:
    """Offer a call to the gate, as a runner does."""
    body = {"tool": "shell", "arguments": {"command": command}, "audience": AUDIENCE, "session": session}
    return actor.ask("POST", "/v1/gate/calls", body)


def _vote(shown: Mapping[str, Any]) -> dict[str, object]:
    return {
        "decision": "approve",
        "reason": "drill",
        "action_digest": shown["action_digest"],
        "display_digest": shown["display_digest"],
    }


def _redeem(actor: Actor, permit_id: str, digest: str) -> Answer:
    # Each with a nonce of its own: a second one under another is a replay, not a runner that asks for a lost answer.
    body = {"action_digest": digest, "audience": AUDIENCE, "nonce": secrets.token_urlsafe(32)}
    return actor.ask("POST", f"/v1/permits/{permit_id}/redeem", body)
