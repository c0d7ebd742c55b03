"""Two persons, their roles and their keys: whose votes count on the day of the release, and what they sign."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest

from deployments.clock import FixedClock
from deployments.errors import ApprovalConflict, Forbidden, GateUnavailable
from deployments.gate import states
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.display import escaped, planned, unplanned
from deployments.gate.settings import GateSettings
from deployments.ports import (
    Approval,
    ApprovalId,
    ApprovalState,
    KeyId,
    Permit,
    Principal,
    Risk,
    RollbackPlan,
    Scope,
    TenantId,
)
from tests.unit.gate.desks import World, without
from tests.unit.gate.test_approvals import AGENT, ANN_TOO, BOB, CAROL, DAN, PLAN, person, proposal, seen

SRE = frozenset({"sre"})


@pytest.fixture
async def at(store_url: str) -> AsyncIterator[World]:
    world = await World(store_url).open()
    yield world
    await world.close()


# --- votes that count no more ----------------------------------------------------------------------------------------

LAPSES: list[tuple[str, Callable[[Principal], Principal | None]]] = [
    ("revoked or expired", lambda _: None),
    ("may approve no more", lambda key: without(key, Scope.APPROVE)),
    ("of another person", lambda key: replace(key, person="eve")),
    ("of nobody", lambda key: replace(key, person=None)),
    ("of the requester now", lambda key: replace(key, person="Ann")),
    ("of another tenant", lambda key: replace(key, tenant=TenantId("other"))),
]


@pytest.mark.parametrize("change", [change for _, change in LAPSES], ids=[name for name, _ in LAPSES])
async def test_a_vote_counts_at_the_release_or_not_at_all(
    at: World, change: Callable[[Principal], Principal | None]
) -> None:
    approval = await at.approved()
    now = change(BOB)
    del at.ledger.keys[BOB.key_id]
    if now is not None:
        at.ledger.keys[BOB.key_id] = now
    again = await at.emit()
    assert isinstance(again, Approval)
    assert (again.approval_id, again.state, again.votes) == (approval.approval_id, ApprovalState.PENDING, ())
    assert (again.plan, again.change_id) == (approval.plan, "CHG-1"), "what was planned stays planned"
    (event,) = at.audit.named("approval.reopened")
    assert (event.data["voters"], event.data["votes"]) == ([], 0)
    after = await at.vote(again, CAROL)
    assert after.state is ApprovalState.APPROVED
    permit = await at.emit()
    assert isinstance(permit, Permit)
    assert permit.voters == ("carol",)
    assert at.broken_rules() == {}


async def test_one_of_two_votes_that_lapses_is_replaced_by_a_third_persons(at: World) -> None:
    approval = await at.approved(Risk.R3)
    del at.ledger.keys[CAROL.key_id]
    again = await at.emit(Risk.R3)
    assert isinstance(again, Approval)
    assert (again.state, [vote.person for vote in again.votes]) == (ApprovalState.PENDING, ["bob"])
    with pytest.raises(ApprovalConflict, match="voted already"):
        await at.vote(again, BOB)
    after = await at.vote(again, DAN)
    assert after.state is ApprovalState.APPROVED
    permit = await at.emit(Risk.R3)
    assert isinstance(permit, Permit)
    assert (permit.approval_id, permit.voters) == (approval.approval_id, ("bob", "dan"))
    assert at.broken_rules() == {}


async def test_a_role_that_is_gone_takes_its_vote_with_it(store_url: str) -> None:
    at = await World(store_url, {Risk.R2: ("sre", "dba")}).open()
    boss = replace(BOB, roles=SRE)
    at.ledger.keys[BOB.key_id] = boss
    await at.vote(await at.planned(), boss)
    at.ledger.keys[BOB.key_id] = replace(BOB, roles=frozenset({"intern"}))
    assert isinstance(await at.emit(), Approval)
    at.ledger.keys[BOB.key_id] = replace(BOB, roles=frozenset({"dba"}))
    found = await at.emit()
    assert isinstance(found, Approval), "a vote that was dropped does not come back by itself"
    await at.vote(found, at.ledger.keys[BOB.key_id])
    assert isinstance(await at.emit(), Permit)
    assert at.broken_rules() == {}
    await at.close()


async def test_a_frozen_voters_vote_counts_no_more(at: World) -> None:
    approval = await at.approved()
    await at.desk.freeze(CAROL, BOB.key_id, "")
    again = await at.emit()
    assert isinstance(again, Approval)
    assert (again.approval_id, again.state) == (approval.approval_id, ApprovalState.PENDING)


async def test_without_the_ledger_no_vote_counts(at: World) -> None:
    approval = await at.approved()
    at.ledger.down = True
    with pytest.raises(GateUnavailable, match="whose keys"):
        await at.emit()
    assert (await at.desk.get(None, approval.approval_id)).state is ApprovalState.APPROVED
    assert at.audit.named("permit.consumed") == []
    at.ledger.down = False
    assert isinstance(await at.emit(), Permit)


async def test_a_ledger_that_does_not_answer_is_one_that_says_no(at: World) -> None:
    async def silent(_: Sequence[KeyId]) -> Sequence[Principal]:
        await asyncio.Event().wait()
        return ()

    await at.approved()
    settings = GateSettings(ledger_timeout_s=0.01)
    desk = ApprovalDesk(at.stores[0], at.audit, at.clock, settings, proposal().policy_digest, holders=silent)
    with pytest.raises(GateUnavailable):
        await at.emit(desk=desk)
    assert at.audit.named("permit.consumed") == []


async def test_a_ledger_that_answers_for_keys_that_nobody_asked_about_gives_nothing_away(at: World) -> None:
    async def generous(_: Sequence[KeyId]) -> Sequence[Principal]:
        return [CAROL]

    await at.approved()
    desk = ApprovalDesk(at.stores[0], at.audit, at.clock, at.settings, proposal().policy_digest, holders=generous)
    assert isinstance(await at.emit(desk=desk), Approval)


async def test_nobody_waits_for_the_ledger_but_whoever_asked(at: World) -> None:
    """A request that is ended while the ledger is asked is not released by the late answer."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(_: Sequence[KeyId]) -> Sequence[Principal]:
        asked.set()
        await answer.wait()
        return [BOB]

    approval = await at.approved()
    desk = ApprovalDesk(at.stores[0], at.audit, at.clock, at.settings, proposal().policy_digest, holders=slow)
    releasing = asyncio.create_task(at.emit(desk=desk))
    await asked.wait()
    assert (await desk.cancel(AGENT, approval.approval_id, "")).state is ApprovalState.CANCELLED
    answer.set()
    found = await releasing
    assert isinstance(found, Approval)
    assert found.approval_id != approval.approval_id


async def test_an_r1_call_asks_nobody_about_votes(at: World) -> None:
    at.ledger.down = True
    await at.planned(Risk.R1)
    assert isinstance(await at.emit(Risk.R1), Permit)


async def test_a_reopening_without_a_record_does_not_happen(at: World) -> None:
    approval = await at.approved()
    del at.ledger.keys[BOB.key_id]
    made = replace(proposal(99), call_id="call_99999999")
    at.audit.down = True
    with pytest.raises(Exception, match="audit log is down"):
        await at.desk.propose(made)
    at.audit.down = False
    assert (await at.desk.get(None, approval.approval_id)).state is ApprovalState.APPROVED
    found = await at.desk.propose(made)
    assert isinstance(found, Approval)
    assert found.state is ApprovalState.PENDING


# --- two persons -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["ann", " ANN", "\uff41nn", "\u00e1nn", "\u03b1\u03b7\u03b7"], ids=ascii)
async def test_nobody_is_their_own_second_person(at: World, alias: str) -> None:
    with pytest.raises(ApprovalConflict, match="second person"):
        await at.vote(await at.planned(), person(alias, key="key_alias"))
    assert at.audit.named("bypass.attempted")[0].data["kind"] == "self_approval"


async def test_a_second_account_is_not_a_second_person(at: World) -> None:
    approval = await at.vote(await at.planned(Risk.R3), BOB)
    for alias in ("b\u00f6b", "\u0432o\u0432", "BOB"):
        with pytest.raises((ApprovalConflict, Forbidden)):
            await at.vote(approval, person(alias, key="key_alias"))
    assert (await at.desk.get(None, approval.approval_id)).state is ApprovalState.PENDING


async def test_a_shared_key_is_not_a_second_person(at: World) -> None:
    approval = await at.vote(await at.planned(Risk.R3), BOB)
    with pytest.raises(ApprovalConflict, match="voted already"):
        await at.vote(approval, person("zoe", key=BOB.key_id))


@pytest.mark.parametrize("name", ["\u0430nn", "bo\u200bb"])
async def test_a_name_that_poses_as_another_does_not_vote(at: World, name: str) -> None:
    with pytest.raises(Forbidden, match="a person's name"):
        await at.vote(await at.planned(), person(name, key="key_posing"))


async def test_a_persons_other_key_is_still_the_person(at: World) -> None:
    with pytest.raises(ApprovalConflict, match="second person"):
        await at.vote(await at.planned(), ANN_TOO)


# --- roles -----------------------------------------------------------------------------------------------------------


async def test_the_policy_says_which_roles_approve(store_url: str) -> None:
    at = await World(store_url, {Risk.R3: ("sre", "dba")}).open()
    plain = await at.opened()
    assert plain.proposal.approver_roles == ()
    found = await at.planned(Risk.R3, arguments='{"command":"kubectl delete namespace prod"}')
    assert found.proposal.approver_roles == ("sre", "dba")
    assert (await at.desk.get(None, found.approval_id)) == found, "the roles are stored"
    assert at.audit.named("approval.requested")[-1].data["roles"] == ["sre", "dba"]
    with pytest.raises(Forbidden, match="roles sre, dba"):
        await at.vote(found, BOB)
    found = await at.vote(found, replace(BOB, roles=SRE))
    with pytest.raises(Forbidden):
        await at.vote(found, replace(CAROL, roles=frozenset({"SRE"})))
    assert (await at.vote(found, replace(CAROL, roles=frozenset({"dba", "x"})))).state is ApprovalState.APPROVED
    await at.close()


# --- what is signed --------------------------------------------------------------------------------------------------


async def test_the_plan_is_part_of_what_is_signed(at: World) -> None:
    opened = await at.opened()
    found = await at.desk.plan(AGENT, opened.approval_id, "CHG-1", PLAN)
    text = found.proposal.display
    assert found.proposal.display_digest == hashlib.sha256(text.encode()).hexdigest()
    assert text.startswith(opened.proposal.display)
    assert "change id:  CHG-1\n" in text
    assert "rollback 1: kubectl create namespace staging\nrollback 2: restore the backup\n" in text
    assert "verify:     kubectl get namespace staging\n" in text
    with pytest.raises(ApprovalConflict, match="digests"):
        await at.desk.vote(BOB, found.approval_id, seen(opened), True, "")
    assert at.audit.named("bypass.attempted") == [], "who looked before the plan was there made a plain mistake"
    assert at.audit.named("approval.planned")[0].data["display_digest"] == found.proposal.display_digest
    voted = await at.vote(found)
    assert at.audit.named("approval.voted")[0].data["display_digest"] == voted.proposal.display_digest


async def test_what_a_request_asks_for_is_part_of_what_is_signed(at: World) -> None:
    found = await at.opened(Risk.R3)
    assert f"request:    {found.approval_id}\n" in found.proposal.display
    assert "approvers:  2\n" in found.proposal.display
    assert "expires:    2026-01-01 00:10:00Z\n" in found.proposal.display
    assert found.proposal.display.startswith("what an approver sees\n")


@pytest.mark.parametrize("text", ["a\nverify:     nothing", "a\x1b[2J", "a\u202eb", "\u0430"])
async def test_nothing_in_a_plan_forges_a_field_or_hides(text: str) -> None:
    shown = planned("x\n", "CHG-1", RollbackPlan((text,), text)).text
    assert shown.count("\nverify:     ") == 1
    assert escaped(shown) == shown
    assert ("CYRILLIC SMALL LETTER A" in shown) is (text == "\u0430")


@pytest.mark.parametrize("before", ["x\n", "x\nchange id:  CHG-1\n", "one\ntwo\n"])
def test_what_was_shown_before_the_plan_can_be_told(before: str) -> None:
    after = planned(before, "CHG-1", PLAN)
    assert unplanned(after.text, "CHG-1", PLAN).text == before
    assert unplanned(after.text, "CHG-1", PLAN).digest == hashlib.sha256(before.encode()).hexdigest()


async def test_a_request_of_an_older_version_is_voted_on_as_it_was_shown() -> None:
    """Its display has neither plan nor expiry; the vote echoes its digest all the same."""
    old = Approval(
        approval_id=ApprovalId("apr_old"),
        state=ApprovalState.PENDING,
        proposal=proposal(),
        votes_required=1,
        votes=(),
        change_id="CHG-1",
        plan=PLAN,
        created_ms=0,
        expires_ms=FixedClock().now_ms() + 1,
    )
    assert states.voted(old, BOB, seen(old), True, "", 0).state is ApprovalState.APPROVED


# --- the end of a request --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reach", ["opened", "planned", "approved"])
async def test_whoever_approves_may_end_a_request_now(at: World, reach: str) -> None:
    approval: Approval = await getattr(at, reach)()
    with pytest.raises(Forbidden):
        await at.desk.expire(AGENT, approval.approval_id, "")
    ended = await at.desk.expire(CAROL, approval.approval_id, "superseded")
    assert ended.state is ApprovalState.EXPIRED
    event = at.audit.events[-1]
    assert (event.name, event.principal) == ("approval.expired", CAROL.key_id)
    with pytest.raises(ApprovalConflict):
        await at.desk.expire(CAROL, approval.approval_id, "again")
    found = await at.emit()
    assert isinstance(found, Approval)
    assert found.approval_id != approval.approval_id
    assert at.broken_rules() == {}


async def test_what_was_approved_under_an_older_policy_is_not_released_by_a_late_replica(at: World) -> None:
    """The desk has the new policy; an ingress replica that has not still proposes under the old one."""
    approval = await at.approved()
    desk = at.another("b" * 64)
    found = await at.emit(desk=desk)
    assert isinstance(found, Approval)
    assert found.approval_id != approval.approval_id
    assert (await at.desk.get(None, approval.approval_id)).state is ApprovalState.STALE
