"""INC-04: what an attempt to bypass the gate leads to, and how a frozen key is released."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from hashlib import sha256

import pytest
from sqlalchemy import select

from deployments.errors import ApprovalConflict, Forbidden, GateUnavailable, NotFound
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.database import fetch
from deployments.gate.schema import notices
from deployments.gate.settings import FREEZE_ON, GateSettings
from deployments.ports import (
    ActionOutcome,
    Approval,
    ApprovalState,
    BodyField,
    CallResult,
    GateContext,
    KeyId,
    ModelId,
    Permit,
    Principal,
    Refusal,
    RequestId,
    Risk,
    RouteId,
    Scope,
    SessionId,
    TenantId,
)
from tests.unit.gate.desks import World
from tests.unit.gate.test_approvals import AGENT, BOB, CAROL, PLAN, POLICY, ROOT, person, seen

HOUR_MS = 3_600_000


@pytest.fixture
async def at(store_url: str) -> AsyncIterator[World]:
    world = await World(store_url).open()
    yield world
    await world.close()


def context(principal: Principal = AGENT) -> GateContext:
    return GateContext(
        RequestId("req_next"), principal, SessionId("s1"), ModelId("demo-20b"), RouteId("rt_2"), frozenset()
    )


def ran(number: int = 1, denied: bool = False) -> CallResult:
    """The conversation brings the result of a call that was never released."""
    refusal = Refusal(f"{number:032x}", "shell", Risk.R2, "The call was held.", denied=denied)
    return CallResult(f"call_{number:08x}", sha256(b"x").digest(), ActionOutcome.SUCCEEDED, 0, refusal)


async def frozen(at: World) -> dict[KeyId, str]:
    return {each.key_id: each.kind for each in await at.desk.frozen()}


# --- by policy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("denied", "kind"), [(False, "held_call_executed"), (True, "denied_call_executed")])
async def test_a_call_that_ran_without_a_release_freezes_its_key(at: World, denied: bool, kind: str) -> None:
    await at.desk.observe(context(), [ran(denied=denied)])
    assert await frozen(at) == {AGENT.key_id: kind}
    assert at.audit.names() == ["bypass.attempted", "principal.frozen", "incident.opened"]
    told, froze, incident = at.audit.events
    assert (told.data["kind"], froze.data["kind"], incident.data["kind"]) == (kind, kind, "bypass")
    assert (incident.data["severity"], incident.principal) == ("high", AGENT.key_id)
    messages = await fetch(at.stores[0].engine, select(notices.c.notice_id).order_by(notices.c.place))
    assert [row.notice_id for row in messages] == [f"msg_{event.event_id}" for event in at.audit.events]


@pytest.mark.parametrize("kind", FREEZE_ON)
async def test_every_kind_of_the_policy_freezes(at: World, kind: str) -> None:
    await at.desk.bypass(AGENT, kind, {"reason": "as the runner saw it"}, "e1")
    assert await frozen(at) == {AGENT.key_id: kind}
    assert await at.desk.freezer.is_frozen(AGENT.key_id)
    assert not await at.desk.freezer.is_frozen(BOB.key_id)


@pytest.mark.parametrize("kind", ["self_approval", "digest_mismatch", "permit_unknown", "permit_expired"])
async def test_a_kind_that_executes_nothing_is_recorded_and_freezes_nobody(at: World, kind: str) -> None:
    await at.desk.bypass(AGENT, kind, {}, "e1")
    assert await frozen(at) == {}
    assert at.audit.names() == ["bypass.attempted", "incident.opened"]


async def test_the_policy_can_want_more_or_nothing(store_url: str) -> None:
    for kinds, kind, expected in (([], "held_call_executed", False), (["self_approval"], "self_approval", True)):
        world = World(store_url)
        world.settings = GateSettings.model_validate({"freeze_on": kinds})
        desk = (await world.open()).another()
        await desk.bypass(BOB, kind, {}, f"e_{kind}")
        assert (await desk.freezer.is_frozen(BOB.key_id)) is expected
        await world.close()


def test_a_kind_that_does_not_exist_is_no_policy() -> None:
    with pytest.raises(ValueError, match="freeze_on"):
        GateSettings.model_validate({"freeze_on": ["everything"]})
    assert GateSettings.model_validate({"freeze_on": ["self_approval"]}).freeze_on == ("self_approval",)


async def test_many_attempts_are_many_records_and_one_incident_an_hour(at: World) -> None:
    for number in range(20):
        await at.desk.observe(context(), [ran(number)])
    assert len(at.audit.named("bypass.attempted")) == 20
    assert len(at.audit.named("incident.opened")) == 1
    assert len(at.audit.named("principal.frozen")) == 1
    await at.desk.observe(context(), [ran(3)])
    assert len(at.audit.named("bypass.attempted")) == 20, "a client that repeats itself adds nothing"
    at.clock.advance(HOUR_MS)
    await at.desk.observe(context(), [ran(21)])
    assert len(at.audit.named("incident.opened")) == 2
    await at.desk.observe(context(replace(AGENT, key_id=BOB.key_id)), [ran(22)])
    assert len(at.audit.named("incident.opened")) == 3, "each key has its own"


async def test_attempts_at_once_at_two_replicas_lose_no_record(at: World) -> None:
    desks = (at.desk, at.another())
    await asyncio.gather(*(desks[n % 2].bypass(AGENT, "permit_invalid", {}, f"e{n}") for n in range(40)))
    assert len(at.audit.named("bypass.attempted")) == 40
    assert len(at.audit.named("principal.frozen")) == 1
    assert len(at.audit.named("incident.opened")) == 1


async def test_a_key_is_frozen_although_the_log_is_down(at: World) -> None:
    at.audit.down = True
    await at.desk.bypass(AGENT, "permit_invalid", {}, "e1")
    assert await frozen(at) == {AGENT.key_id: "permit_invalid"}
    assert at.audit.events == []
    at.audit.down = False
    await at.desk.sweep()
    assert at.audit.names() == ["bypass.attempted", "principal.frozen", "incident.opened"]
    await at.desk.sweep()
    assert len(at.audit.events) == 3


# --- what a frozen key may not ---------------------------------------------------------------------------------------


async def test_a_frozen_key_gets_no_call_released_not_even_an_approved_one(at: World) -> None:
    approval = await at.approved()
    await at.desk.freeze(BOB, AGENT.key_id, "")
    with pytest.raises(Forbidden, match="principal_frozen"):
        await at.emit()
    assert (await at.desk.get(None, approval.approval_id)).state is ApprovalState.APPROVED
    await at.desk.unfreeze(ROOT, AGENT.key_id, "CHG-9", "")
    assert isinstance(await at.emit(), Permit)


async def test_a_freeze_that_comes_while_the_ledger_is_asked_is_in_time(at: World) -> None:
    await at.approved()

    async def freezing(key_ids: Sequence[KeyId]) -> Sequence[Principal]:
        await at.desk.bypass(AGENT, "permit_invalid", {}, "e1")
        return await at.ledger.holders(key_ids)

    desk = ApprovalDesk(at.stores[0], at.audit, at.clock, at.settings, POLICY, holders=freezing)
    with pytest.raises(Forbidden, match="principal_frozen"):
        await at.emit(desk=desk)
    assert at.audit.named("permit.consumed") == []


async def test_a_frozen_key_neither_votes_nor_plans(at: World) -> None:
    opened = await at.opened()
    await at.desk.freeze(CAROL, BOB.key_id, "")
    with pytest.raises(Forbidden, match="principal_frozen"):
        await at.desk.plan(BOB, opened.approval_id, "CHG-1", PLAN)
    approval = await at.desk.plan(AGENT, opened.approval_id, "CHG-1", PLAN)
    with pytest.raises(Forbidden, match="principal_frozen"):
        await at.vote(approval, BOB)
    assert [event.data["kind"] for event in at.audit.named("bypass.attempted")] == ["frozen_principal"]
    assert (await at.desk.get(None, approval.approval_id)).votes == ()
    assert (await at.vote(approval, CAROL)).state is ApprovalState.APPROVED


async def test_a_frozen_key_may_still_withdraw_and_report(at: World) -> None:
    approval = await at.approved()
    assert isinstance(await at.emit(), Permit)
    other = await at.opened(arguments='{"command":"kubectl delete namespace other"}')
    await at.desk.freeze(BOB, AGENT.key_id, "")
    assert (await at.desk.cancel(AGENT, other.approval_id, "")).state is ApprovalState.CANCELLED
    found = await at.desk.report(AGENT, approval.approval_id, ActionOutcome.FAILED, 1, "")
    assert found.reported is ActionOutcome.FAILED


# --- by hand ---------------------------------------------------------------------------------------------------------


async def test_an_approver_freezes_a_key_of_the_own_tenant(at: World) -> None:
    made = await at.desk.freeze(BOB, AGENT.key_id, "it went\nastray\x1b")
    assert (made.kind, made.tenant, made.reason) == ("manual", AGENT.tenant, "it went\\nastray\\x1b")
    assert await at.desk.freeze(CAROL, AGENT.key_id, "again") == made
    (event,) = at.audit.named("principal.frozen")
    assert (event.principal, event.data["kind"]) == (BOB.key_id, "manual")
    assert "reason" not in event.data, "a human's words are a commitment"
    assert event.bodies[BodyField.REASON].data is None
    assert at.audit.named("incident.opened") == []


@pytest.mark.parametrize(
    ("who", "whom", "error"),
    [
        (person("ann", Scope.INFERENCE), AGENT.key_id, Forbidden),
        (person("rita", Scope.AUDIT_READ), AGENT.key_id, Forbidden),
        (person("eve", tenant="other"), AGENT.key_id, NotFound),
        (BOB, KeyId("key_nobody"), NotFound),
    ],
)
async def test_who_may_not_freeze(at: World, who: Principal, whom: KeyId, error: type[Exception]) -> None:
    with pytest.raises(error):
        await at.desk.freeze(who, whom, "")
    assert await frozen(at) == {}


async def test_without_the_ledger_nobody_knows_whose_key_it_is(at: World) -> None:
    at.ledger.down = True
    with pytest.raises(GateUnavailable):
        await at.desk.freeze(BOB, AGENT.key_id, "")


async def test_a_frozen_key_is_released_by_another_administrator_under_a_change(at: World) -> None:
    await at.desk.freeze(BOB, AGENT.key_id, "")
    own = replace(AGENT, scopes=frozenset({Scope.ADMIN}))
    for who, change_id, error in (
        (BOB, "CHG-9", Forbidden),
        (own, "CHG-9", Forbidden),
        (ROOT, "  ", ApprovalConflict),
        (ROOT, "x" * 129, ApprovalConflict),
    ):
        with pytest.raises(error):
            await at.desk.unfreeze(who, AGENT.key_id, change_id, "")
    assert await frozen(at) == {AGENT.key_id: "manual"}
    await at.desk.unfreeze(ROOT, AGENT.key_id, "CHG-9", "looked at it")
    assert await frozen(at) == {}
    (event,) = at.audit.named("principal.unfrozen")
    assert (event.data["change_id"], event.data["reporter"], event.tenant) == ("CHG-9", "root", AGENT.tenant)
    assert BodyField.REASON in event.bodies
    with pytest.raises(NotFound):
        await at.desk.unfreeze(ROOT, AGENT.key_id, "CHG-9", "")


async def test_a_released_key_is_frozen_again_by_a_new_attempt_and_not_by_the_old_one(at: World) -> None:
    await at.desk.observe(context(), [ran(1)])
    await at.desk.unfreeze(ROOT, AGENT.key_id, "CHG-9", "")
    await at.desk.observe(context(), [ran(1)])
    assert await frozen(at) == {}, "the client repeats what was looked into"
    await at.desk.observe(context(), [ran(2)])
    assert await frozen(at) == {AGENT.key_id: "held_call_executed"}


async def test_a_release_and_a_new_freeze_at_once_leave_one_story(at: World) -> None:
    await at.desk.freeze(BOB, AGENT.key_id, "")
    other = at.another()
    found = await asyncio.gather(
        at.desk.unfreeze(ROOT, AGENT.key_id, "CHG-9", ""),
        other.unfreeze(replace(ROOT, key_id=KeyId("key_root_2")), AGENT.key_id, "CHG-9", ""),
        return_exceptions=True,
    )
    assert [type(each) for each in found].count(type(None)) == 1
    assert len(at.audit.named("principal.unfrozen")) == 1


async def test_what_an_administrator_of_another_tenant_tries_is_put_on_the_own_key(at: World) -> None:
    """A vote on a foreign tenant's request: its record is that tenant's, the frozen key the voter's."""
    at.settings = GateSettings(freeze_on=("digest_mismatch",))
    approval = await at.planned()
    assert isinstance(approval, Approval)
    desk = at.another()
    with pytest.raises(ApprovalConflict):
        await desk.vote(ROOT, approval.approval_id, replace(seen(approval), display="0" * 64), True, "")
    (each,) = await desk.frozen()
    assert (each.key_id, each.tenant) == (ROOT.key_id, TenantId("operators"))
    assert at.audit.named("bypass.attempted")[0].tenant == "acme"
    assert at.audit.named("principal.frozen")[0].tenant == "operators"
