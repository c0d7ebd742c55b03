"""Approvals and permits while two policies are live: what was asked of one is never answered by the other."""

import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.errors import ApprovalConflict, GateUnavailable
from deployments.gate.binding import ActionBinding
from deployments.gate.live import BELIEVED_S, CHANGED, MOVED, NOBODY_SAYS
from deployments.gate.office import OVERTAKEN
from deployments.gate.settings import Running
from deployments.ports import (
    SYSTEM_TENANT,
    Approval,
    ApprovalState,
    KeyId,
    Permit,
    PermitAsk,
    PermitState,
    Principal,
    Proposal,
    Risk,
    SessionId,
    TenantId,
)
from deployments.slices import is_candidates
from tests.unit.gate.desks import ARGUMENTS
from tests.unit.gate.test_approvals import AGENT, BOB, CAROL, PLAN, proposal, seen
from tests.unit.gate.two_policies import CANDIDATE, CONFIGURED, REVISION, TwoPolicies, session_of, split

SHARE = 25
MINE, THEIRS = session_of(False, SHARE), session_of(True, SHARE)
RUNNER = "runner-1"


@pytest.fixture
async def at(store_url: str, tmp_path: Path) -> AsyncIterator[TwoPolicies]:
    world = await TwoPolicies(store_url, tmp_path / "keys").open()
    world.rollout.share = SHARE
    yield world
    await world.close()


_numbers = itertools.count(1)


def call(
    policy: str = CANDIDATE, session: SessionId = THEIRS, risk: Risk = Risk.R2, tenant: TenantId | None = None
) -> Proposal:
    """The call as its session emits it once more."""
    made = proposal(next(_numbers), risk, policy, session=session)
    return made if tenant is None else replace(made, tenant=tenant)


async def waiting(at: TwoPolicies, policy: str = CANDIDATE, session: SessionId = THEIRS) -> Approval:
    found = await at.desk.propose(call(policy, session))
    assert isinstance(found, Approval)
    return await at.desk.plan(AGENT, found.approval_id, "CHG-1", PLAN)


async def approved(at: TwoPolicies, policy: str = CANDIDATE, session: SessionId = THEIRS) -> Approval:
    found = await waiting(at, policy, session)
    return await at.desk.vote(BOB, found.approval_id, seen(found), True, "")


async def state(at: TwoPolicies, approval: Approval) -> ApprovalState:
    return (await at.desk.get(None, approval.approval_id)).state


def no_alarm(at: TwoPolicies) -> None:
    """Nothing of what a rollout does is an attempt to get around the gate."""
    assert at.audit.named("bypass.attempted") == []
    assert at.audit.named("incident.opened") == []
    assert at.audit.named("principal.frozen") == []


# --- approvals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "session"), [(CONFIGURED, MINE), (CANDIDATE, THEIRS)])
async def test_each_policy_has_its_own_sessions_approved(at: TwoPolicies, policy: str, session: SessionId) -> None:
    await approved(at, policy, session)
    assert isinstance(await at.desk.propose(call(policy, session)), Permit)
    consumed = at.audit.named("permit.consumed")[0]
    assert consumed.data["policy_digest"] == policy


async def test_what_the_candidate_held_cannot_be_approved_after_its_rollback(at: TwoPolicies) -> None:
    held = await waiting(at)
    at.rollout.share = 0
    with pytest.raises(ApprovalConflict) as refused:
        await at.desk.vote(BOB, held.approval_id, seen(held), True, "")
    assert str(refused.value) == MOVED
    assert await state(at, held) is ApprovalState.STALE
    assert [event.data["state"] for event in at.audit.named("approval.stale")] == ["STALE"]
    no_alarm(at)


async def test_what_was_approved_under_the_candidate_does_not_leave_after_its_rollback(at: TwoPolicies) -> None:
    """Neither by a replica that has not heard of it, nor by one that judges by the configured policy again."""
    late = await approved(at)
    at.rollout.share = 0
    again = await at.desk.propose(call())
    assert isinstance(again, Approval)
    assert again.state is ApprovalState.NEEDS_PLAN
    assert await state(at, late) is ApprovalState.STALE
    at.rollout.share = SHARE
    other = await approved(at, session=session_of(True, 5))
    at.rollout.share = 0
    fresh = await at.desk.propose(call(CONFIGURED, session_of(True, 5)))
    assert isinstance(fresh, Approval)
    assert fresh.proposal.policy_digest == CONFIGURED
    assert await state(at, other) is ApprovalState.STALE
    no_alarm(at)


async def test_what_the_configured_policy_held_is_stale_once_its_session_is_the_candidate_s(at: TwoPolicies) -> None:
    at.rollout.share = 5
    session = next(each for each in (SessionId(f"s{n}") for n in range(10_000)) if _moves(each))
    held = await waiting(at, CONFIGURED, session)
    at.rollout.share = SHARE
    with pytest.raises(ApprovalConflict, match="no longer judged"):
        await at.desk.vote(BOB, held.approval_id, seen(held), True, "")
    assert await state(at, held) is ApprovalState.STALE


def _moves(session: SessionId) -> bool:
    """Whether a session becomes the candidate's between 5 % and 25 %."""
    return is_candidates(split(SHARE), "acme", session) and not is_candidates(split(5), "acme", session)


async def test_a_session_that_comes_back_finds_nothing_of_before(at: TwoPolicies) -> None:
    held = await approved(at)
    at.rollout.share = 0
    assert isinstance(await at.desk.propose(call(CONFIGURED)), Approval)
    at.rollout.share = SHARE
    again = await at.desk.propose(call())
    assert isinstance(again, Approval)
    assert (again.state, again.votes) == (ApprovalState.NEEDS_PLAN, ())
    assert await state(at, held) is ApprovalState.STALE


async def test_without_its_candidate_a_replica_knows_what_is_gone(at: TwoPolicies) -> None:
    held = await waiting(at)
    alone = at.another(candidate=False)
    with pytest.raises(ApprovalConflict) as refused:
        await alone.vote(BOB, held.approval_id, seen(held), True, "")
    assert str(refused.value) == CHANGED
    assert at.rollout.asked > 0


async def test_without_a_candidate_nobody_asks(at: TwoPolicies) -> None:
    alone, before = at.another(candidate=False), at.rollout.asked
    await alone.propose(call(CONFIGURED))
    await alone.sweep()
    assert at.rollout.asked == before


async def test_the_sweep_ends_what_a_rollback_has_left_behind(at: TwoPolicies) -> None:
    moved, kept = await waiting(at), await waiting(at, CONFIGURED, MINE)
    unknown = await at.desk.propose(call("d" * 64, SessionId("of another replica")))
    assert isinstance(unknown, Approval)
    await at.desk.sweep()
    assert await state(at, moved) is ApprovalState.PENDING
    at.rollout.share = 0
    at.rollout.down = True
    at.clock.advance(round(BELIEVED_S * 1000))
    await at.desk.sweep()
    assert await state(at, moved) is ApprovalState.PENDING, "nobody says so"
    at.rollout.down = False
    at.clock.advance(1000)
    await at.desk.sweep()
    assert await state(at, moved) is ApprovalState.STALE
    assert await state(at, kept) is ApprovalState.PENDING
    assert await state(at, unknown) is ApprovalState.NEEDS_PLAN, "another replica may just have begun with it"
    no_alarm(at)


async def test_while_nobody_says_who_judges_nothing_of_the_candidate_leaves_and_nothing_is_lost(
    at: TwoPolicies,
) -> None:
    held, mine = await approved(at), await approved(at, CONFIGURED, MINE)
    at.rollout.down = True
    at.clock.advance(round(BELIEVED_S * 1000))
    with pytest.raises(GateUnavailable) as refused:
        await at.desk.propose(call())
    assert str(refused.value) == NOBODY_SAYS
    assert await state(at, held) is ApprovalState.APPROVED
    assert isinstance(await at.desk.propose(call(CONFIGURED, MINE)), Permit), "the configured policy stands in"
    assert await state(at, mine) is ApprovalState.CONSUMED
    at.rollout.down = False
    at.clock.advance(1000)
    assert isinstance(await at.desk.propose(call()), Permit)


async def test_the_last_word_holds_for_a_moment(at: TwoPolicies) -> None:
    await approved(at)
    at.rollout.down = True
    at.clock.advance(round(BELIEVED_S * 1000) - 1000)
    assert isinstance(await at.desk.propose(call()), Permit)


async def test_a_replica_that_never_heard_anything_lets_nothing_of_the_candidate_leave(at: TwoPolicies) -> None:
    await approved(at)
    at.rollout.down = True
    with pytest.raises(GateUnavailable):
        await at.another().propose(call())


async def test_a_rollback_between_the_votes_and_the_call_is_seen(at: TwoPolicies) -> None:
    """The controller is asked again after the ledger was: in between, everything may have changed."""
    held = await approved(at)
    good = at.ledger.holders

    async def slow(key_ids: Sequence[KeyId]) -> Sequence[Principal]:
        found = await good(key_ids)
        at.rollout.share = 0
        return found

    at.ledger.holders = slow
    desk = at.another()
    assert isinstance(await desk.propose(call()), Approval)
    assert await state(at, held) is ApprovalState.STALE
    assert at.audit.named("permit.consumed") == []


async def test_who_approves_is_what_the_policy_of_the_session_says(at: TwoPolicies) -> None:
    for policy, session, roles in ((CANDIDATE, THEIRS, ("sre",)), (CONFIGURED, MINE, ())):
        found = await at.desk.propose(call(policy, session, Risk.R3))
        assert isinstance(found, Approval)
        assert found.proposal.approver_roles == roles


async def test_the_canary_may_try_a_policy_that_has_no_session(at: TwoPolicies) -> None:
    at.rollout.share = 0
    system = replace(AGENT, tenant=SYSTEM_TENANT)
    found = await at.desk.propose(call(tenant=SYSTEM_TENANT))
    assert isinstance(found, Approval)
    assert (await at.desk.cancel(system, found.approval_id, "")).state is ApprovalState.CANCELLED


async def test_tenants_with_names_of_their_own_have_a_digest_for_each_policy(store_url: str, tmp_path: Path) -> None:
    mine, theirs = "d" * 64, "e" * 64
    at = await TwoPolicies(store_url, tmp_path / "keys", {"acme": (mine, theirs)}).open()
    at.rollout.share = SHARE
    try:
        await approved(at, theirs, THEIRS)
        assert isinstance(await at.desk.propose(call(theirs)), Permit)
        await approved(at, mine, MINE)
        assert isinstance(await at.desk.propose(call(mine, MINE)), Permit)
        plain = await at.desk.propose(call(CANDIDATE, THEIRS))  # the bundle without the tenant's names
        assert isinstance(plain, Approval)
        with pytest.raises(ApprovalConflict):
            await at.desk.plan(AGENT, plain.approval_id, "CHG-1", PLAN)
    finally:
        await at.close()


# --- what is on record -----------------------------------------------------------------------------------------------


async def test_every_policy_that_judges_somebody_is_on_record_at_the_start(store_url: str, tmp_path: Path) -> None:
    at = await TwoPolicies(store_url, tmp_path / "keys", {"acme": ("d" * 64, "e" * 64)}).open()
    try:
        at.audit.down = True
        await at.desk.open("default", Running(change_id="CHG-4"))
        assert at.audit.names() == []
        at.audit.down = False
        await at.desk.sweep()
        await at.desk.open("default", Running())
        await at.another().open("default", Running())
        told = at.audit.named("policy.changed")
        assert [event.data["policy_digest"] for event in told] == [CONFIGURED, "d" * 64, CANDIDATE, "e" * 64]
        assert [event.data.get("revision") for event in told] == [None, None, REVISION, REVISION]
        assert [event.data["rule_set"] for event in told] == ["default", "default", "next", "next"]
        assert [event.tenant for event in told] == ["system", "acme", "system", "acme"]
        await at.emit(policy="e" * 64)
        await at.emit(policy="d" * 64)
        assert at.broken_rules() == {}
    finally:
        await at.close()


# --- permits ---------------------------------------------------------------------------------------------------------


def ask(risk: Risk, policy: str = CANDIDATE, session: SessionId = THEIRS, number: int = 1) -> PermitAsk:
    """What the API asks for a call that the gate has released by itself."""
    arguments = '{"command":"git status"}'
    binding = ActionBinding(f"{number:032x}", AGENT.tenant, AGENT.key_id, session, "run", arguments, policy)
    planned = risk is not Risk.R0
    return PermitAsk(
        gate_call_id=binding.gate_call_id,
        action_digest=binding.action_digest(),
        session=session,
        tool="run",
        arguments=arguments,
        risk=risk,
        policy_digest=policy,
        audience=RUNNER,
        change_id="standing" if planned else None,
        rollback_digest="5" * 64 if planned else None,
    )


async def test_a_read_that_was_released_under_the_candidate_may_be_executed_after_its_rollback(
    at: TwoPolicies,
) -> None:
    permit = await at.office.issue(AGENT, ask(Risk.R0))
    at.rollout.share = 0
    taken = await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    assert taken.state is PermitState.REDEEMED


@pytest.mark.parametrize(
    ("policy", "session", "before", "after"),
    [(CANDIDATE, THEIRS, SHARE, 0), (CONFIGURED, THEIRS, 0, SHARE)],
    ids=["rolled back", "rolled out"],
)
async def test_a_change_is_not_executed_once_another_policy_judges_its_session(
    at: TwoPolicies, policy: str, session: SessionId, before: int, after: int
) -> None:
    at.rollout.share = before
    permit = await at.office.issue(AGENT, ask(Risk.R1, policy, session))
    at.rollout.share = after
    with pytest.raises(ApprovalConflict) as refused:
        await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    assert str(refused.value) == OVERTAKEN
    assert (await at.office.permit(AGENT, permit.permit_id)).state is PermitState.ISSUED
    with pytest.raises(ApprovalConflict):
        await at.office.issue(AGENT, ask(Risk.R1, policy, session, 2))
    assert at.audit.names() == ["permit.issued"]
    no_alarm(at)


async def test_a_permit_for_a_change_waits_while_nobody_says_who_judges(at: TwoPolicies) -> None:
    permit = await at.office.issue(AGENT, ask(Risk.R1))
    at.rollout.down = True
    at.clock.advance(round(BELIEVED_S * 1000))
    with pytest.raises(GateUnavailable):
        await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    at.rollout.down = False
    at.clock.advance(1000)
    taken = await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    assert taken.state is PermitState.REDEEMED
    no_alarm(at)


async def test_who_was_told_that_it_may_is_told_the_same_again(at: TwoPolicies) -> None:
    """What is on record as taken was taken under its own policy: a lost answer is no second execution."""
    permit = await at.office.issue(AGENT, ask(Risk.R1))
    nonce = "n" * 32
    await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER, nonce)
    at.rollout.share = 0
    again = await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER, nonce)
    assert again.state is PermitState.REDEEMED


async def test_an_approved_call_that_left_under_the_candidate_is_not_claimed_after_its_rollback(
    at: TwoPolicies,
) -> None:
    await approved(at)
    assert isinstance(await at.desk.propose(call()), Permit)
    at.rollout.share = 0
    with pytest.raises(ApprovalConflict) as refused:
        await at.office.claim(AGENT, "shell", ARGUMENTS, RUNNER)
    assert str(refused.value) == OVERTAKEN
    at.rollout.share = SHARE
    claimed = await at.office.claim(AGENT, "shell", ARGUMENTS, RUNNER)
    at.rollout.share = 0
    with pytest.raises(ApprovalConflict):
        await at.office.redeem(AGENT, claimed.permit_id, claimed.ask.action_digest, RUNNER)
    no_alarm(at)


async def test_a_policy_that_is_not_configured_any_more_executes_nothing(at: TwoPolicies) -> None:
    with pytest.raises(ApprovalConflict):
        await at.office.issue(AGENT, ask(Risk.R1, "d" * 64))
    read = await at.office.issue(AGENT, ask(Risk.R0, "d" * 64))
    assert read.state is PermitState.ISSUED


async def test_two_people_for_the_highest_class_whichever_policy(at: TwoPolicies) -> None:
    held = await at.desk.propose(call(CONFIGURED, MINE, Risk.R3))
    assert isinstance(held, Approval)
    held = await at.desk.plan(AGENT, held.approval_id, "CHG-1", PLAN)
    held = await at.desk.vote(BOB, held.approval_id, seen(held), True, "")
    assert held.state is ApprovalState.PENDING
    held = await at.desk.vote(CAROL, held.approval_id, seen(held), True, "")
    assert isinstance(await at.desk.propose(call(CONFIGURED, MINE, Risk.R3)), Permit)
