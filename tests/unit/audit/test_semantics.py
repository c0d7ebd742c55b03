"""What records must mean: each rule by hand, and every change of one record in flows recorded from the real gate."""

import asyncio
import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from deployments.audit.record import fields_of, to_object
from deployments.audit.semantics import DAY_MS, Bodies, Check, Meaning, Noticed
from deployments.audit.verify import verify
from deployments.ports import AuditEvent, JsonValue
from tests.unit.audit.handmade import (
    KEY,
    GatedFlow,
    announced,
    entries_of,
    lay_segments,
    lay_tiles,
    made,
    opened,
)
from tests.unit.audit.logs import D1, D2, D3, event
from tests.unit.audit.recorded import record_flows

_CHECKS = ("releases", "approvals", "plans", "reports", "policies")
_Record = dict[str, JsonValue]


def _records(events: Sequence[AuditEvent]) -> list[_Record]:
    return [to_object(item, place, "test") for place, item in enumerate(events)]


def _judged(records: Sequence[_Record], grace_s: int = 900) -> tuple[dict[str, Check], Noticed]:
    """The checks that failed, and what was noticed."""
    checks, noticed = {name: Check(number, name) for number, name in enumerate(_CHECKS)}, Noticed()
    meaning = Meaning(checks, noticed, grace_s)
    for index, record in enumerate(records):
        meaning.take(index, record, fields_of(record))
    meaning.finish()
    return {name: check for name, check in checks.items() if check.failures}, noticed


def _failed(*events: AuditEvent, grace_s: int = 900) -> dict[str, str | None]:
    return {name: check.detail for name, check in _judged(_records(events), grace_s)[0].items()}


def later(seconds: int = 3_600) -> AuditEvent:
    """A record after which every report is overdue."""
    return event("route.decided", f"later:{seconds}", at_ms=1 + seconds * 1_000, route_id="r", model="m", tier="t",
                 effort="low", reason="default", policy_digest=D1)  # fmt: skip


def test_an_approved_call_with_plan_and_report_is_sound() -> None:
    assert _failed(announced(), *GatedFlow().whole(), later()) == {}
    assert _failed(announced(), *GatedFlow("R3").whole(["alice", "bob"]), later()) == {}


def test_a_call_that_a_runner_executes_and_takes_back_is_sound() -> None:
    assert _failed(announced(), *_signed()(GatedFlow()), later()) == {}
    assert _failed(announced(), *_back()(GatedFlow()), later()) == {}


def test_reads_and_standing_plans_need_no_approval() -> None:
    assert _failed(announced(), *_call("R0", "release", "released")(GatedFlow())) == {}
    assert _failed(announced(), *_call("R1", "release", "released", standing_plan="CHG-1")(GatedFlow())) == {}


# --- rules, one by one -------------------------------------------------------------------------------------------


def _without(*names: str) -> Callable[[GatedFlow], list[AuditEvent]]:
    return lambda flow: [item for item in flow.whole() if item.name not in names]


def _with(*extra: Callable[[GatedFlow], AuditEvent], before: str = "") -> Callable[[GatedFlow], list[AuditEvent]]:
    """The honest flow with further events before the one named, or at the end."""

    def build(flow: GatedFlow) -> list[AuditEvent]:
        events = flow.whole()
        place = next((place for place, item in enumerate(events) if item.name == before), len(events))
        return [*events[:place], *(make(flow) for make in extra), *events[place:]]

    return build


def _changed(name: str, **changes: JsonValue) -> Callable[[GatedFlow], list[AuditEvent]]:
    """The honest flow with other fields in one event."""

    def build(flow: GatedFlow) -> list[AuditEvent]:
        return [
            made(item.name, item.event_id, {**item.data, **changes}) if item.name == name else item
            for item in flow.whole()
        ]

    return build


def _moved(name: str, before: str) -> Callable[[GatedFlow], list[AuditEvent]]:
    """The honest flow with one event earlier."""

    def build(flow: GatedFlow) -> list[AuditEvent]:
        moved = next(item for item in flow.whole() if item.name == name)
        rest = [item for item in flow.whole() if item.name != name]
        place = next(place for place, item in enumerate(rest) if item.name == before)
        return [*rest[:place], moved, *rest[place:]]

    return build


def _step(name: str, suffix: str = ":more", **data: JsonValue) -> Callable[[GatedFlow], AuditEvent]:
    return lambda flow: flow.step(name, suffix, **data)


def _call(risk: str, outcome: str, *steps: str, **released: JsonValue) -> Callable[[GatedFlow], list[AuditEvent]]:
    """A call without an approval."""

    def build(_: GatedFlow) -> list[AuditEvent]:
        flow = GatedFlow(risk)
        fields: dict[str, JsonValue] = {"gate_call_id": "call_1", "tool": "shell", "risk": risk}
        events = [
            flow.proposed(),
            made("tool_call.classified", "c", {**fields, "outcome": outcome, "policy_digest": D3}),
        ]
        for number, step in enumerate(steps):
            more: dict[str, JsonValue] = {}
            if step == "released":
                more = {"action_digest": D1, "profile": "ops", "change_id": "CHG-1", "rollback_digest": D2, **released}
            events.append(made(f"tool_call.{step}", f"{step}:{number}", {**fields, **more}))
        return events

    return build


def _second_release(flow: GatedFlow) -> list[AuditEvent]:
    other = GatedFlow(flow.risk, "call_2", flow.approval, flow.digest)
    return [*flow.whole(), other.proposed(), other.classified(), other.released()]


def _other_permit(flow: GatedFlow) -> list[AuditEvent]:
    """Two approved calls; the report of one names the permit of the other."""
    other = GatedFlow("R2", "call_2", "apr_2", D2)
    return [*flow.whole(), *other.whole()[:-1], other.reported(approval_id="apr_1", outcome="unknown")]


def _r3(*voters: str) -> Callable[[GatedFlow], list[AuditEvent]]:
    return lambda _: GatedFlow("R3").whole(voters)


def _one_person_twice(_: GatedFlow) -> list[AuditEvent]:
    flow = GatedFlow("R3")
    whole = flow.whole(["alice"])
    return [*whole[:6], flow.step("approval.voted", ":again", voter="alice", approve=True), *whole[6:]]


def _two_plans(flow: GatedFlow) -> list[AuditEvent]:
    """Another plan, after the grant."""
    plan = flow.step("approval.planned", ":other", change_id="CHG-2", rollback_digest=D3)
    whole = [item for item in flow.whole() if item.name not in {"permit.consumed", "tool_call.released"}]
    consumed = flow.step("permit.consumed", change_id="CHG-2", rollback_digest=D3)
    return [*whole[:-1], plan, consumed, flow.released(change_id="CHG-2", rollback_digest=D3), flow.reported()]


def _lower_approval(_: GatedFlow) -> list[AuditEvent]:
    """An R2 call that is released by the approval of an R1 call with the same fingerprint."""
    low, high = GatedFlow("R1"), GatedFlow("R2", "call_2")
    asked = low.requested(fingerprint=D3)
    first = [low.proposed(), low.classified(), asked, low.planned(), low.voted("alice"), low.granted(), low.consumed()]
    return [*first, high.proposed(), high.classified(), high.released(fingerprint=D3), high.reported()]


def _rollback(**changes: JsonValue) -> Callable[[GatedFlow], AuditEvent]:
    fields: dict[str, JsonValue] = {
        "change_id": "CHG-1", "approval_id": "apr_1", "outcome": "succeeded", "source": "api", **changes,
    }  # fmt: skip
    return lambda _: made("rollback.reported", f"rollback:{changes}", fields)


def _report(**changes: JsonValue) -> Callable[[GatedFlow], AuditEvent]:
    return lambda flow: made(
        "action.reported", f"report:{changes}", {**flow.reported().data, "outcome": "unknown", **changes}
    )


_Changes = Mapping[str, Mapping[str, JsonValue]]


def _executed(flow: GatedFlow, of: _Changes, **fields: JsonValue) -> list[AuditEvent]:
    """A permit that is issued, redeemed and reported; `of` are other fields of one of the three."""
    reported = {**flow.reported().data, "source": "runner", **fields}
    for name in ("risk", "rollback_of", "rollback_digest"):
        reported.pop(name, None)
    events: dict[str, dict[str, JsonValue]] = {
        "permit.issued": fields, "permit.redeemed": fields, "action.reported": reported,
    }  # fmt: skip
    return [made(name, f"{fields['permit_id']}:{name}", {**data, **of.get(name, {})}) for name, data in events.items()]


def _signed(
    before: str = "", twice: str = "", without: str = "", of: _Changes | None = None, **issued: JsonValue
) -> Callable[[GatedFlow], list[AuditEvent]]:
    """An approved call that a runner executes: issued `before` an event, one event `twice`, or `without` one."""

    def build(flow: GatedFlow) -> list[AuditEvent]:
        honest: dict[str, JsonValue] = {
            "permit_id": "prm_1", "action_digest": D1, "gate_call_id": "call_1", "approval_id": "apr_1", "risk": "R2",
        }  # fmt: skip
        rest = flow.whole()[:-1]
        events = _executed(flow, {"permit.issued": {} if twice else issued, **(of or {})}, **honest)
        again = [made(each.name, "again", {**each.data, **issued}) for each in events if each.name == twice]
        events = [each for each in events if each.name != without]
        if before:
            place = next(place for place, item in enumerate(rest) if item.name == before)
            return [*rest[:place], events[0], *rest[place:], *events[1:]]
        return [*rest, *events, *again]

    return build


def _back(of: _Changes | None = None, **issued: JsonValue) -> Callable[[GatedFlow], list[AuditEvent]]:
    """The same, taken back by the one step of its plan."""

    def build(flow: GatedFlow) -> list[AuditEvent]:
        step: dict[str, JsonValue] = {
            "permit_id": "prm_2", "action_digest": D3, "gate_call_id": "call_step", "approval_id": "apr_1",
            "risk": "R2", "rollback_of": "prm_1", "rollback_digest": D2,
        }  # fmt: skip
        events = _executed(flow, {"permit.issued": issued, **(of or {})}, **step)
        return [*_signed()(flow), *events, _rollback(source="runner", permit_id="prm_1")(flow)]

    return build


_RULES: list[tuple[Callable[[GatedFlow], list[AuditEvent]], str, str]] = [
    # calls
    (_with(lambda flow: flow.proposed(), before="tool_call.held"), "releases", "proposed twice"),
    (_without("tool_call.proposed"), "releases", "classified that was never proposed"),
    (_without("tool_call.proposed", "tool_call.classified"), "releases", "held that was never proposed"),
    (_without("tool_call.classified"), "releases", "held that was never classified"),
    (_with(lambda flow: flow.classified(), before="tool_call.held"), "releases", "classified twice"),
    (_call("R0", "perhaps", "released"), "releases", "an outcome that there is not"),
    (_changed("tool_call.held", risk="R1"), "releases", "classified R2 was held as R1"),
    (_changed("tool_call.released", risk="R1"), "releases", "classified R2 was released as R1"),
    (_changed("tool_call.classified", action_digest=D2), "releases", "held with another action than was classified"),
    (_changed("tool_call.released", policy_digest=D2), "releases", "under another policy than it was classified"),
    (_changed("tool_call.classified", profile="coding"), "releases", "under another profile than it was classified"),
    (_call("R0", "release", "held"), "releases", "held whose classification was 'release'"),
    (_call("R0", "release", "denied"), "releases", "denied whose classification was 'release'"),
    (_call("R0", "forbid", "released"), "releases", "released whose classification was 'forbid'"),
    (_call("R0", "release", "released", "released"), "releases", "a call was released twice"),
    (_call("R0", "forbid", "denied", "released"), "releases", "whose classification was 'forbid'"),
    (_call("R0", "release", "withheld", "released"), "releases", "released after it was withheld"),
    (_call("R0", "release", "released", "withheld"), "releases", "withheld after it was released"),
    (_with(lambda flow: flow.held(), before="approval.voted"), "releases", "a call was held twice"),
    (_moved("tool_call.held", "approval.requested"), "releases", "held for an approval that was never requested"),
    (_changed("tool_call.held", action_digest=D2), "releases", "held for an approval of another action"),
    (_changed("tool_call.held", votes_required=2), "releases", "held for another number of votes"),
    (_call("FORBIDDEN", "release", "released"), "releases", "class FORBIDDEN was released"),
    (_call("FORBIDDEN", "release", "released", profile="observe"), "releases", "class FORBIDDEN was released"),
    (_changed("tool_call.released", change_id=None), "releases", "without change_id and rollback_digest"),
    (_changed("tool_call.released", rollback_digest=None), "releases", "without change_id and rollback_digest"),
    (_call("R2", "hold", "released"), "releases", "R2 was released without a granted approval"),
    (_call("R1", "needs_plan", "released"), "releases", "R1 was released without a granted approval"),
    (_call("R0", "hold", "released"), "releases", "R0 was released without a granted approval"),
    (_changed("tool_call.released", approval_id="apr_9"), "releases", "without a granted approval"),
    (_without("approval.granted"), "releases", "without a granted approval"),
    (_without("permit.consumed"), "releases", "without consuming its permit"),
    (_changed("tool_call.released", action_digest=D2), "releases", "another action than was approved"),
    (_lower_approval, "releases", "R2 was released by an approval of R1"),
    (_second_release, "releases", "one approval released two calls"),
    (_r3("alice"), "releases", "R3 was released with 1 distinct voters"),
    # approvals
    (_with(_step("approval.requested", risk="R2", votes_required=1)), "approvals", "requested twice"),
    (_changed("approval.requested", votes_required=0), "approvals", "R2 asks for 0 votes"),
    (_changed("approval.requested", gate_call_id="call_9"), "approvals", "for a call that was never classified"),
    (_changed("approval.requested", gate_call_id="call_1", risk="R3", votes_required=2), "approvals", "another class"),
    (_changed("approval.requested", gate_call_id="call_1", policy_digest=D1), "approvals", "under another policy"),
    (_without("approval.requested"), "approvals", "never requested"),
    (_changed("approval.voted", action_digest=D2), "approvals", "names another action than was requested"),
    (_changed("permit.consumed", risk="R3"), "approvals", "names another class than was requested"),
    (_changed("approval.granted", votes_required=2), "approvals", "names another number of votes than was requested"),
    (_with(_step("approval.rejected"), before="approval.granted"), "approvals", "rejected without a vote against it"),
    (_with(_step("approval.cancelled"), before="approval.granted"), "approvals", "after approval.cancelled"),
    (_with(_step("approval.expired"), before="permit.consumed"), "approvals", "after approval.expired"),
    (_with(_step("approval.stale"), before="permit.consumed"), "approvals", "after approval.stale"),
    (_with(_step("approval.expired")), "approvals", "after the permit was consumed"),
    (lambda _: GatedFlow("R2").whole(["rita"]), "approvals", "R2 was voted on by its own requester"),
    (_r3("alice", "rita"), "approvals", "R3 was voted on by its own requester"),
    (_changed("approval.voted", votes=2), "approvals", "counts 2 votes, and 1 are recorded"),
    (_changed("approval.granted", votes=2), "approvals", "counts 2 votes, and 1 are recorded"),
    (_changed("approval.granted", voters=["alice", "bob"]), "approvals", "a voter whose vote is not recorded"),
    (_changed("permit.consumed", voters=["bob"]), "approvals", "a voter whose vote is not recorded"),
    (_without("approval.voted"), "approvals", "granted with 0 distinct voters"),
    (_r3("alice"), "approvals", "R3 was granted with 1 distinct voters"),
    (_one_person_twice, "approvals", "R3 was granted with 1 distinct voters"),
    (_changed("approval.voted", approve=False), "approvals", "approval.granted after a vote against it"),
    (_without("approval.granted"), "approvals", "permit.consumed without a granted approval"),
    (_signed(before="permit.consumed"), "approvals", "issued under an approval that was not consumed"),
    (_signed(approval_id="apr_9"), "approvals", "issued under an approval that was not consumed"),
    (_signed(approval_id=None, gate_call_id="call_9"), "approvals", "issued for a call that was never released"),
    (_signed(before="tool_call.released", approval_id=None), "approvals", "for a call that was never released"),
    (_signed(action_digest=D2), "approvals", "issued for another action than was classified"),
    (_signed(risk="FORBIDDEN"), "approvals", "issued for a call of class FORBIDDEN"),
    (_signed(twice="permit.issued"), "approvals", "issued twice under one id"),
    (_signed(twice="permit.issued", permit_id="prm_2"), "approvals", "two permits were issued for one call"),
    (_signed(twice="permit.redeemed"), "approvals", "a permit was redeemed twice"),
    (_signed(of={"permit.redeemed": {"action_digest": D2}}), "approvals", "redeemed for another action"),
    (_signed(of={"permit.redeemed": {"permit_id": "prm_9"}}), "approvals", "for a permit that was never issued"),
    (_signed(of={"action.reported": {"permit_id": "prm_9"}}), "reports", "an execution that was never begun"),
    (_signed(without="permit.redeemed"), "reports", "for an execution that was never begun"),
    (_signed(of={"action.reported": {"action_digest": D2}}), "reports", "for another action than the permit is for"),
    (_signed(of={"action.reported": {"gate_call_id": "call_2"}}), "reports", "for another action than the permit"),
    (_signed(twice="action.reported"), "reports", "action.reported twice for one permit"),
    (_back(rollback_of="prm_9"), "approvals", "to take back what was never executed"),
    (_back(risk="R3"), "approvals", "a higher class than the call that was approved"),
    (_back(rollback_digest=D1), "approvals", "a step of a way back is of another plan"),
    (_back(gate_call_id="call_1"), "approvals", "two permits were issued for one call"),
    (_back(of={"permit.redeemed": {"action_digest": D2}}), "approvals", "redeemed for another action"),
    (_back(of={"action.reported": {"action_digest": D2}}), "reports", "for another action than the permit is for"),
    (_with(_step("permit.consumed")), "approvals", "a permit was consumed twice"),
    # plans
    (_without("approval.planned"), "plans", "a vote was given before the rollback plan was recorded"),
    (_without("approval.planned", "approval.voted"), "plans", "granted without a plan recorded before"),
    (_without("approval.planned", "approval.voted", "approval.granted"), "plans", "consumed without a plan"),
    (_call("R1", "release", "released"), "plans", "R1 was released without a plan recorded before"),
    (_changed("approval.planned", change_id=""), "plans", "recorded without a change id"),
    (_changed("approval.granted", change_id="CHG-2"), "plans", "granted under another change id"),
    (_changed("permit.consumed", rollback_digest=D3), "plans", "consumed with another rollback plan"),
    (_changed("tool_call.released", change_id="CHG-2"), "plans", "R2 was released under another change id"),
    (_changed("tool_call.released", rollback_digest=D3), "plans", "R2 was released with another rollback plan"),
    (_two_plans, "approvals", "permit.consumed without a granted approval"),
    (_call("R2", "release", "released", standing_plan="CHG-1"), "plans", "R2 was released under a standing plan"),
    (_call("R1", "release", "released", standing_plan="CHG-2"), "plans", "another change than its standing plan"),
    # reports
    (_without("action.reported"), "reports", "neither a report nor an alert follows"),
    (_moved("action.reported", "permit.consumed"), "reports", "for a call that was never released"),
    (_changed("action.reported", outcome="great"), "reports", "an outcome that there is not"),
    (_changed("action.reported", outcome="not_needed"), "reports", "an outcome that there is not"),
    (_changed("action.reported", gate_call_id="call_9"), "reports", "for a call that was never proposed"),
    (_changed("action.reported", approval_id="apr_9"), "reports", "for a permit that was never consumed"),
    (_other_permit, "reports", "for a call that another permit released"),
    (_changed("action.reported", action_digest=D3), "reports", "names another action"),
    (_changed("action.reported", risk="R1"), "reports", "names another class"),
    (_changed("action.reported", policy_digest=D1), "reports", "names another policy"),
    (_changed("action.reported", change_id="CHG-2"), "reports", "names another change"),
    (_with(_report(outcome="failed")), "reports", "action.reported again, after 'succeeded'"),
    (_with(_rollback(outcome="unknown")), "reports", "an outcome that there is not"),
    (_with(_rollback(approval_id="apr_9")), "reports", "for a permit that was never consumed"),
    (_with(_rollback(change_id="CHG-2")), "reports", "names another change"),
    (_with(_rollback(rollback_digest=D1)), "reports", "names another rollback plan"),
    (_with(_rollback(), _rollback(outcome="failed")), "reports", "rollback.reported again, after 'succeeded'"),
    # policies
    (_changed("tool_call.classified", policy_digest=D2), "policies", "under a policy that was never announced"),
    (_with(lambda _: announced(D1, D2)), "policies", "follows one that was never announced"),
]


@pytest.mark.parametrize(("build", "check", "says"), _RULES, ids=[f"{n}: {rule[2]}" for n, rule in enumerate(_RULES)])
def test_a_flow_that_means_something_forbidden_is_named(
    build: Callable[[GatedFlow], list[AuditEvent]], check: str, says: str
) -> None:
    failed = _judged(_records([announced(), *build(GatedFlow()), later()]))[0]
    assert check in failed, {name: found.detail for name, found in failed.items()}
    assert says in str(failed[check].detail)


@pytest.mark.parametrize("name", ["approval.voted", "approval.granted", "permit.consumed"])
@pytest.mark.parametrize(
    ("field", "says"),
    [("gate_call_id", "names another call"), ("fingerprint", "names another fingerprint"), ("policy_digest", "policy")],
)
def test_every_step_of_an_approval_names_the_same_call(name: str, field: str, says: str) -> None:
    honest: dict[str, JsonValue] = {"gate_call_id": "call_1", "fingerprint": D2, "policy_digest": D3}
    flow = GatedFlow()
    sound = [
        made(item.name, item.event_id, {**item.data, **honest}) if item.name.startswith("approval.") else item
        for item in flow.whole()
    ]
    assert _failed(announced(), *sound) == {}
    other: JsonValue = "call_9" if field == "gate_call_id" else D1
    forged = [
        made(item.name, item.event_id, {**item.data, field: other}) if item.name == name else item for item in sound
    ]
    assert says in str(_failed(announced(), *forged)["approvals"])


def test_every_step_of_an_approved_release_must_come_in_order() -> None:
    # Swapping a pair of neighbours breaks a rule, except where neither depends on the other.
    independent = {
        ("tool_call.classified", "approval.requested"),
        ("tool_call.held", "approval.planned"),
        ("tool_call.released", "action.reported"),
    }
    events = GatedFlow().whole()
    for place, (one, two) in enumerate(pairwise(events)):
        if (one.name, two.name) not in independent:
            assert _failed(announced(), *events[:place], two, one, *events[place + 2 :], later()), (one.name, two.name)


def test_a_call_that_came_again_is_released_by_its_fingerprint() -> None:
    flow, again = GatedFlow(), GatedFlow(call="call_2", digest=D2)
    asked = [flow.proposed(), flow.classified(), flow.requested(fingerprint=D3, gate_call_id="call_1"), flow.held()]
    granted = [flow.planned(), flow.voted("alice"), flow.granted()]
    repeated = [again.proposed(), again.classified(), flow.consumed(), again.released(fingerprint=D3)]
    assert _failed(announced(), *asked, *granted, *repeated, again.reported(), later()) == {}
    # The report may name the call that asked for the approval instead.
    assert _failed(announced(), *asked, *granted, *repeated, flow.reported(), later()) == {}
    assert "releases" in _failed(announced(), *asked, *granted, *repeated[:-1], again.released(fingerprint=D1))


def test_a_request_that_nobody_consumed_reports_nothing() -> None:
    flow = GatedFlow()
    asked = [flow.proposed(), flow.classified(), flow.requested(gate_call_id="call_1"), flow.held()]
    assert "never consumed" in str(_failed(announced(), *asked, flow.reported())["reports"])


def test_the_observe_profile_is_counted_and_not_judged() -> None:
    failed, noticed = _judged(
        _records([announced(), *_call("R3", "release", "released", profile="observe")(GatedFlow())])
    )
    assert (failed, noticed.observed_releases) == ({}, 1)


def test_approvals_of_another_tenant_do_not_count() -> None:
    flow = GatedFlow()
    events = [
        made(item.name, item.event_id, item.data, tenant="other" if item.name.startswith("approval") else "acme")
        for item in flow.whole()
    ]
    assert set(_failed(announced(), *events)) == {"releases", "approvals", "plans", "reports"}


def test_a_vote_after_the_request_has_expired_does_not_count() -> None:
    flow = GatedFlow()
    events = flow.whole()
    events[2] = flow.requested(expires_ms=1_000)
    events[5] = made("approval.voted", "late", flow.voted("alice").data, 61_001)
    assert "after the request had expired" in str(_failed(announced(), *events)["approvals"])
    events[5] = made("approval.voted", "clocks differ", flow.voted("alice").data, 61_000)
    assert _failed(announced(), *events) == {}


def test_a_young_permit_may_be_unreported() -> None:
    events = [announced(), *GatedFlow().whole()[:-1]]
    failed, noticed = _judged(_records([*events, later(899)]))
    assert (failed, noticed.reports_due) == ({}, 1)
    assert "reports" in _failed(*events, later(900))
    assert "reports" in _failed(*events, later(10), grace_s=10)
    assert "reports" in _failed(*events, later(900), later(1))  # the newest time, wherever it is


@pytest.mark.parametrize(("kind", "approval", "told"), [
    ("action_unreported", "apr_1", True),
    ("other", "apr_1", False),
    ("action_unreported", "apr_2", False),
])  # fmt: skip
def test_an_alert_stands_for_the_report(kind: str, approval: str, told: bool) -> None:
    alert = event(
        "incident.opened", "i", at_ms=2, incident_id="inc_1", kind=kind, severity="medium", approval_id=approval
    )
    failed, noticed = _judged(_records([announced(), *GatedFlow().whole()[:-1], alert, later()]))
    assert (not failed) is told
    assert noticed.incidents_open == 1


def test_a_report_that_was_unknown_may_be_said_again() -> None:
    flow = GatedFlow()
    events = [announced(), *flow.whole()[:-1], flow.reported(outcome="unknown")]
    assert _failed(*events, _report(outcome="failed")(flow)) == {}
    assert _failed(*events, _rollback(outcome="failed")(flow), _rollback()(flow)) == {}


def test_a_rollback_may_be_reported_for_a_change_alone() -> None:
    assert _failed(event("rollback.reported", "r", change_id="CHG-1", outcome="succeeded", source="api")) == {}


def test_a_closed_incident_is_not_open() -> None:
    opening = event("incident.opened", "i", incident_id="inc_1", kind="other", severity="low")
    closing = event("incident.closed", "c", incident_id="inc_1")
    assert _judged(_records([opening, closing]))[1].incidents_open == 0


def test_bypass_attempts_are_counted_by_kind() -> None:
    events = [event("bypass.attempted", f"b:{n}", kind=kind) for n, kind in enumerate(("digest_mismatch",) * 2)]
    assert _judged(_records(events))[1].bypass_attempts == {"digest_mismatch": 2}


def test_calls_without_an_outcome_are_counted() -> None:
    flow = GatedFlow("R0")
    events = [announced(), flow.proposed(), flow.classified()]
    assert _judged(_records(events))[1].calls_without_outcome == 1
    denied = _call("R0", "forbid", "denied")(flow)
    assert _judged(_records([announced(), *denied]))[1].calls_without_outcome == 0


# --- policies ----------------------------------------------------------------------------------------------------


def test_a_log_that_announces_no_policy_is_counted_and_not_judged() -> None:
    failed, noticed = _judged(_records([*GatedFlow().whole(), later()]))
    assert (failed, noticed.policies_unannounced) == ({}, 1)


def test_an_announcement_that_waited_for_the_log_may_come_late() -> None:
    flow = GatedFlow("R0")
    classified = made("tool_call.classified", "c", flow.classified().data, 5_000)
    failed, noticed = _judged(_records([announced(D1), flow.proposed(), classified, announced(D3, D1, at_ms=65_000)]))
    assert (failed, noticed.policies_announced_late) == ({}, 1)
    after = [announced(D1), flow.proposed(), classified, announced(D3, D1, at_ms=65_001)]
    assert "announced only afterwards" in str(_failed(*after)["policies"])


def test_a_configuration_follows_one_that_was_announced() -> None:
    loaded = event("config.loaded", "l", tenant="system", config_digest=D1)
    changed = event("config.changed", "c", tenant="system", config_digest=D2, previous_digest=D1)
    assert _failed(loaded, changed) == {}
    assert "config.changed follows" in str(_failed(event("config.loaded", "l", config_digest=D3), changed)["policies"])
    assert _failed(changed) == {}  # the first that this log knows of


def test_a_policy_in_a_loaded_configuration_is_announced() -> None:
    loaded = event("config.loaded", "l", tenant="system", config_digest=D1, policy_digest=D3)
    failed, noticed = _judged(_records([loaded, *GatedFlow().whole()]))
    assert (failed, noticed.policies_announced_late, noticed.policies_unannounced) == ({}, 0, 0)


def test_records_of_the_older_envelope_owe_no_report_and_no_announcement() -> None:
    def old(record: _Record) -> _Record:
        found = copy.deepcopy(record)
        data = fields_of(found)
        for name in ("change_id", "policy_digest"):
            del found[name]
        return {**found, "data": data}

    events = GatedFlow().whole()[:-1]
    records = [old(record) for record in _records(events)]
    [new] = _records([announced(D1)])
    failed, noticed = _judged([*records, new, *_records([later()])])
    assert failed == {}
    assert (noticed.permits_before_reports, noticed.policies_unannounced) == (1, 1)


# --- bodies ------------------------------------------------------------------------------------------------------

BLOB, BODY_KEY = "b" * 64, "k1"


def _body(at_ms: int = 5, tenant: str = "acme", blob: str = BLOB) -> AuditEvent:
    body: JsonValue = {"blob": blob, "key_id": BODY_KEY, "bytes": 3, "masked": 0}
    fields: dict[str, JsonValue] = {**later().data, "prompt_commit": D1, "prompt_body": body}
    return made("route.decided", f"body:{blob}", fields, at_ms, tenant)


def _looked_up(events: Sequence[AuditEvent], there: bool | None) -> tuple[Bodies, Check]:
    check = Check(20, "bodies")
    bodies = Bodies(check, lambda digest: there)
    for index, record in enumerate(_records(events)):
        bodies.take(index, record, fields_of(record))
    bodies.finish()
    return bodies, check


def test_a_body_that_is_there_is_counted() -> None:
    bodies, check = _looked_up([_body()], True)
    assert (bodies.present, bodies.shredded, bodies.pruned, check.failures) == (1, 0, 0, 0)


@pytest.mark.parametrize(("there", "says"), [(None, "no record says that it was deleted"), (False, "its digest")])
def test_a_body_that_is_gone_or_damaged_is_a_finding(there: bool | None, says: str) -> None:
    check = _looked_up([later(), _body()], there)[1]
    assert (check.failures, check.first_index) == (1, 1)
    assert says in str(check.detail)


@pytest.mark.parametrize(
    ("tenant", "key", "shredded"), [("acme", BODY_KEY, 1), ("acme", "k2", 0), ("other", BODY_KEY, 0)]
)
@pytest.mark.parametrize("there", [None, True])
def test_a_body_whose_key_was_shredded_is_neither_good_nor_bad(
    tenant: str, key: str, shredded: int, there: bool | None
) -> None:
    shred = event("tenant.shredded", "s", tenant=tenant, key_ids=[key])
    bodies, check = _looked_up([_body(), shred], there)
    assert bodies.shredded == shredded
    assert bodies.present == (1 - shredded if there else 0)
    assert bool(check.failures) is (there is None and not shredded)


@pytest.mark.parametrize(("tenant", "days", "pruned"), [("acme", 30, 1), ("acme", 31, 0), ("other", 30, 0)])
def test_a_body_older_than_a_recorded_pruning_may_be_gone(tenant: str, days: int, pruned: int) -> None:
    prune = event("bodies.pruned", "p", at_ms=5 + 30 * DAY_MS, tenant=tenant, bodies=1, days=days)
    bodies, check = _looked_up([_body(), prune], None)
    assert (bodies.pruned, check.failures) == (pruned, 1 - pruned)


# --- recorded flows, and everything that can be done to one record of them ---------------------------------------

_FLOWS = 204
_MEANS_NOTHING_ALONE = {
    # A transition may be recorded again when the first attempt failed after its record.
    ("again", "approval.granted"), ("again", "approval.planned"), ("again", "approval.voted"),
    # Operators open incidents by hand; ids are theirs.
    ("again", "incident.opened"), ("change_id", "incident.opened"), ("gate_call_id", "incident.opened"),
    ("policy_digest", "incident.opened"),
    # The last record of its flow: nothing that is left depends on it. Only a checkpoint or a receipt misses it.
    ("delete", "approval.cancelled"), ("delete", "approval.expired"), ("delete", "approval.rejected"),
    ("delete", "approval.granted"), ("delete", "rollback.reported"), ("delete", "action.reported"),
    # Said once, by one record: a requester's name, a plan that was never granted, a vote that decided nothing.
    ("requester_person", "approval.requested"), ("change_id", "approval.planned"),
    ("rollback_digest", "approval.planned"), ("voter", "approval.voted"),
    # The text of a standing plan is in the policy, not in the log.
    ("rollback_digest", "tool_call.released"),
}  # fmt: skip
_INDEPENDENT = {
    ("action.reported", "rollback.reported"), ("approval.granted", "tool_call.proposed"),
    ("approval.planned", "tool_call.proposed"), ("tool_call.classified", "approval.requested"),
    ("tool_call.classified", "permit.consumed"), ("tool_call.classified", "tool_call.proposed"),
    ("tool_call.held", "approval.cancelled"), ("tool_call.held", "approval.planned"),
    ("tool_call.held", "approval.voted"), ("tool_call.held", "tool_call.withheld"),
    ("tool_call.released", "action.reported"), ("tool_call.released", "incident.opened"),
    ("tool_call.withheld", "approval.cancelled"),
}  # fmt: skip
_REDIGESTED: dict[str, Callable[[JsonValue], JsonValue]] = {
    **dict.fromkeys(("action_digest", "policy_digest", "rollback_digest", "fingerprint"), lambda _: "e" * 64),
    **dict.fromkeys(("change_id", "approval_id", "gate_call_id", "voter", "requester_person", "outcome"),
                    lambda _: "other"),
    "profile": lambda profile: "ops" if profile == "observe" else "observe",
    "risk": lambda risk: "R0" if risk == "R1" else "R1",
    "approve": lambda approve: not approve,
    "votes_required": lambda votes: 0 if votes else 1,
    "voters": lambda _: ["mallory"],
}  # fmt: skip


def _put(record: _Record, field: str, value: JsonValue) -> _Record:
    found = copy.deepcopy(record)
    place = found if field in {"change_id", "policy_digest"} else found["data"]
    assert isinstance(place, dict)
    place[field] = value
    return found


_Mutant = tuple[str, str | tuple[str, str], list[_Record]]


def _mutants(flow: Sequence[_Record]) -> list[_Mutant]:
    """Every deletion, repetition, swap of neighbours, and change of one field that binds records to each other."""
    found: list[_Mutant] = []
    for place, record in enumerate(flow):
        name, before, after = str(record["name"]), list(flow[:place]), list(flow[place + 1 :])
        found.append(("delete", name, [*before, *after]))
        found.append(("again", name, [*before, record, record, *after]))
        if after:
            found.append(("swap", (name, str(after[0]["name"])), [*before, after[0], record, *after[1:]]))
        fields = fields_of(record)
        found += [
            (field, name, [*before, _put(record, field, change(fields[field])), *after])
            for field, change in _REDIGESTED.items()
            if fields.get(field) is not None
        ]
    return found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[AuditEvent], list[list[AuditEvent]]]:
    return asyncio.run(record_flows(tmp_path_factory.mktemp("gate") / "gate.db", _FLOWS))


def _end(flow: Sequence[AuditEvent]) -> AuditEvent:
    return later((flow[-1].at_ms - 1) // 1_000 + 7_200)


def test_what_the_real_gate_records_is_sound(recorded: tuple[list[AuditEvent], list[list[AuditEvent]]]) -> None:
    opening, flows = recorded
    assert len(flows) >= 200
    assert len({event.name for flow in flows for event in flow}) >= 17
    for flow in flows:
        assert _failed(*opening, *flow, _end(flow)) == {}, [item.name for item in flow]
    assert _failed(*opening, *(item for flow in flows for item in flow), _end(flows[-1])) == {}


def test_every_change_of_a_recorded_flow_is_named(recorded: tuple[list[AuditEvent], list[list[AuditEvent]]]) -> None:
    opening, flows = recorded
    before = _records([announced("9" * 64), *opening])
    survived: Counter[tuple[str, str | tuple[str, str]]] = Counter()
    total = 0
    for flow in flows:
        end = _records([_end(flow)])
        honest = _records(flow)
        _, untouched = _judged([*before, *honest, *end])
        for change, what, records in _mutants(honest):
            failed, noticed = _judged([*before, *records, *end])
            total += 1
            if not failed and noticed == untouched:
                survived[change, what] += 1
    assert total >= 10_000
    allowed = _MEANS_NOTHING_ALONE | {("swap", pair) for pair in _INDEPENDENT}
    assert set(survived) - allowed == set()
    assert allowed - set(survived) == set(), "these are found out, so they are no exceptions"


def test_a_checkpoint_names_every_change_also_of_records_that_mean_nothing_alone(
    recorded: tuple[list[AuditEvent], list[list[AuditEvent]]], tmp_path: Path
) -> None:
    opening, flows = recorded
    for number, flow in enumerate(flows[:12]):
        honest = [opened(), announced("9" * 64), *opening, *flow]
        entries = entries_of(honest)
        directory = tmp_path / str(number)
        lay_segments(directory, entries)
        lay_tiles(directory, entries, [len(entries)])
        assert verify(directory, keys=[str(KEY.verifier)]).ok
        begin = len(honest) - len(flow)
        forgeries = [[*honest[:place], *honest[place + 1 :]] for place in range(begin, len(honest))]
        forgeries += [
            [*honest[:place], honest[place + 1], honest[place], *honest[place + 2 :]]
            for place in range(begin, len(honest) - 1)
        ]
        for forgery in forgeries:
            lay_segments(directory, entries_of(forgery))
            assert "roots" in {check.name for check in verify(directory).checks if check.failures}
