"""How the drills of INC-01 to INC-03 go: a team of their own, an incident on record, a failure, an alert, the way back.

The failure itself is each drill's own. What is expected of every one: nobody but the drill made the alert fire, it
fires while the failure lasts, the system works again afterwards, and all of it is in the log under a change id.
"""

import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

import httpx2

from serve_app.drills.acting import Actor, DrillRefused, DrillReport, Findings, put_away, until
from serve_app.drills.records import log_key_of, named, proves, records_of
from serve_app.drills.rules import Rules, rules_of
from serve_app.drills.watching import Watch, watch_over

_KEY_TTL_S = 3600
_PROVEN_S = 20.0
_WELL = 200
RUNBOOK = "docs/runbook.md"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator asks of a drill.

    `model`: which one fails, null for the drill's choice. `prometheus`: the URL of one that watches this Gatehouse and
    has the rules; null: promtool, with `lapse_s` seconds for each one recorded. `wait_s`: how long the failure is kept
    up at most. `production`: the operator knows that it is, and then `change_id` is the change that allows it.
    """

    model: str | None = None
    prometheus: str | None = None
    lapse_s: int = 15
    wait_s: float = 300.0
    production: bool = False
    change_id: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A drill: its incident, the alert that must fire, and what the runbook says to do first."""

    incident: str
    alert: str
    section: str
    steps: Sequence[str]

    @property
    def name(self) -> str:
        """As the command line says it."""
        return self.incident.lower()


@dataclass(frozen=True, slots=True)
class Stage:
    """What a drill's failure works with. `agent` may ask models; `verifier` may judge answers as well."""

    operator: Actor
    agent: Actor
    verifier: Actor
    wishes: Wishes
    findings: Findings
    facts: dict[str, Any]
    fires: Callable[[], bool]


Failure = Callable[[Stage], None]
"""Fails something until `fires()` or until the time is over, sees that it works again, and says what it found."""


def conduct(
    plan: Plan, http: httpx2.Client, operator_key: str, tell: Callable[[str], object], wishes: Wishes, fail: Failure
) -> DrillReport:
    """Carry a drill out; `tell` hears of every finding at once. The key needs the scope `admin`.

    Raises `DrillRefused` when it cannot be, and when nobody may carry it out here.
    """
    if wishes.production and wishes.change_id is None:
        raise DrillRefused("a drill in production needs the change that allows it: --change-id")
    mark = secrets.token_hex(4)
    tenant = f"drill-{mark}"
    change_id = wishes.change_id or f"drill-{plan.name}-{mark}"
    operator = Actor(http, operator_key)
    _ready(operator)
    began = int(operator.must("GET", "/v1/audit/head")["size"])
    findings, facts = Findings(tell), dict[str, Any]()
    rules = rules_of(plan.incident)
    with _keys(operator, tenant) as (agent, verifier):
        _allowed(agent, wishes)
        with watch_over(http, rules, wishes.prometheus, wishes.lapse_s) as watch:
            facts["watch"] = watch.how
            before = watch.firing()
            if plan.alert in before:
                raise DrillRefused(f"{plan.alert} fires already: look after that first")
            with _incident(plan, operator, tenant, change_id) as outcome:
                seen = _Seen(watch, plan.alert)
                stage = Stage(operator, agent, verifier, wishes, findings, facts, seen)
                fail(stage)
                _detected(plan, rules, seen, before, findings, facts)
                outcome.append("detected" if seen.fired_s is not None else "undetected")
    if wishes.change_id is None:
        body = {"outcome": "succeeded", "rollback_status": "succeeded", "tenant": tenant, "title": f"{plan.name} drill"}
        operator.must("POST", f"/v1/changes/{quote(change_id, safe='')}/close", body)
    _recorded(operator, tenant, change_id, began, closed=wishes.change_id is None, findings=findings)
    tell(f"       runbook: {RUNBOOK}, {plan.section}; first: {'; '.join(plan.steps)}")
    facts["runbook"] = {"document": RUNBOOK, "section": plan.section, "steps": [*plan.steps]}
    return DrillReport(plan.name, tenant, change_id, tuple(findings.all), facts)


class _Seen:
    """Asks the watch, and remembers since when the alert fires."""

    def __init__(self, watch: Watch, alert: str) -> None:
        self._watch = watch
        self._alert = alert
        self._began_s = time.perf_counter()
        self.fired_s: float | None = None
        self.names: set[str] = set()

    def __call__(self) -> bool:
        if self.fired_s is not None:
            return True
        self.names |= self._watch.firing()
        if self._alert in self.names and self.fired_s is None:
            self.fired_s = time.perf_counter() - self._began_s
        return self.fired_s is not None


def _ready(operator: Actor) -> None:
    """`DrillRefused` while a part does not answer: nobody needs a second failure then, nor could tell them apart."""
    answer = operator.ask("GET", "/readyz")
    if answer.status != _WELL:
        parts = cast(Mapping[str, Any], answer.body.get("parts") or {})
        down = ", ".join(sorted(name for name, state in parts.items() if state != "ready")) or answer.said
        raise DrillRefused(f"this Gatehouse is not ready ({down}): look after that first")


def _allowed(agent: Actor, wishes: Wishes) -> None:
    """`DrillRefused` for a Gatehouse that serves real models, unless the operator has said that this is meant."""
    cards = cast(Sequence[Mapping[str, Any]], agent.must("GET", "/v1/models")["data"])
    real = [str(card["id"]) for card in cards if not card.get("demonstration", False)]
    if real and not wishes.production:
        raise DrillRefused(
            f"this Gatehouse serves {', '.join(real)}, so people may depend on it. In an agreed window, say "
            "--production and --change-id"
        )


@contextmanager
def _keys(operator: Actor, tenant: str) -> Generator[tuple[Actor, Actor]]:
    """A key that asks and one that judges; afterwards neither is good."""
    made: list[Actor] = []
    try:
        for name, roles in (("agent", []), ("verifier", ["verifier"])):
            body: dict[str, object] = {
                "tenant": tenant,
                "name": f"drill {name}",
                "person": f"Drill {name.capitalize()}",
                "scopes": ["inference"],
                "roles": roles,
                "ttl_s": _KEY_TTL_S,
            }
            key = operator.must("POST", "/v1/admin/keys", body)
            made.append(operator.same_server(str(key["key"]), str(key["id"])))
        yield made[0], made[1]
    finally:
        put_away(operator, [("DELETE", f"/v1/admin/keys/{quote(each.key_id, safe='')}", None) for each in made])


@contextmanager
def _incident(plan: Plan, operator: Actor, tenant: str, change_id: str) -> Generator[list[str]]:
    """An incident on record, closed whatever becomes of the drill. What is put into the list is its outcome."""
    body = {"kind": "drill", "severity": "low", "title": f"Drill {plan.incident}", "change_id": change_id}
    opened = operator.must("POST", "/v1/incidents", {**body, "tenant": tenant})
    outcome: list[str] = []
    try:
        yield outcome
    finally:
        place = quote(str(opened["id"]), safe="")
        said = outcome[-1] if outcome else "broken_off"
        # The log may be what has failed: what happened with the drill is more important than why this did not work.
        operator.ask(
            "POST", f"/v1/incidents/{place}/close", {"outcome": said, "change_id": change_id, "tenant": tenant}
        )


def _detected(
    plan: Plan, rules: Rules, seen: _Seen, before: Set[str], findings: Findings, facts: dict[str, Any]
) -> None:
    others = sorted(seen.names - {plan.alert} - before)
    after_s = seen.fired_s
    took = "it did not" if after_s is None else f"after {after_s:.0f} s"
    findings.add(f"the alert {plan.alert} fires", after_s is not None, f"{took}; {facts['watch']}")
    alert = rules.alerts[plan.alert]
    facts["alert"] = {
        "name": plan.alert,
        "severity": alert.severity,
        "summary": alert.summary,
        "runbook": alert.runbook,
        "after_s": None if after_s is None else round(after_s, 1),
        "others": others,
    }


def _recorded(operator: Actor, tenant: str, change_id: str, began: int, *, closed: bool, findings: Findings) -> None:
    """The evidence: the incident and the change are in the log, and proofs lead from them to a signed checkpoint."""
    wanted = {"incident.opened", "incident.closed"} | ({"change.closed"} if closed else set[str]())
    found: list[Mapping[str, Any]] = []

    def all_there() -> bool:
        mine = [each for each in records_of(operator, tenant, began) if each["record"].get("change_id") == change_id]
        found[:] = [each for name in sorted(wanted) for each in named(mine, name)]
        return {str(each["record"]["name"]) for each in found} == wanted

    there = until(all_there, _PROVEN_S)
    findings.add(f"it is on record under {change_id}", there, f"{len(found)} records of {tenant}")
    log_key = log_key_of(operator)
    proven = [each for each in found if proves(operator, each, log_key)]
    seen = f"{len(proven)} of {len(found)} proofs verify"
    findings.add("the records are proven by a signed checkpoint", len(proven) == len(found) > 0, seen)
