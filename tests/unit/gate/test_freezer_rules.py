"""Freezing and releasing keys, one rule at a time: who may, what is written, and whose words they are."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Executable

from deployments.clock import FixedClock
from deployments.errors import ApprovalConflict, Forbidden, GateUnavailable, NotFound
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.freezer import MAX_LISTED, MAX_REASON, Freezer, Says
from deployments.gate.frozen_view import FrozenView, Standing
from deployments.gate.holders import Holders
from deployments.gate.states import MAX_CHANGE_ID
from deployments.ports import AuditEvent, BodyField, Frozen, KeyId, Principal, Scope, keeps_nothing
from deployments.store import open_store, sqlite_url
from tests.fakes_gate import InMemoryApprovals
from tests.unit.gate.desks import World
from tests.unit.gate.test_approvals import AGENT, BOB, CAROL, POLICY, ROOT, person

ADMIN = person("ada", Scope.ADMIN, tenant="operators")
NEIGHBOUR = person("nina", tenant="other")


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[World]:
    world = await World(sqlite_url(tmp_path / "gate.db")).open()
    world.ledger.keys[NEIGHBOUR.key_id] = NEIGHBOUR
    yield world
    await world.close()


async def keys(at: World) -> list[KeyId]:
    return [each.key_id for each in await at.desk.frozen()]


# --- what is known ---------------------------------------------------------------------------------------------------


async def test_frozen_keys_are_listed_the_newest_first_then_by_name(at: World) -> None:
    for key_id in (CAROL.key_id, BOB.key_id, AGENT.key_id):
        await at.desk.freeze(ROOT, key_id, f"why {key_id}")
        at.clock.advance(0 if key_id == CAROL.key_id else 10)
    assert await keys(at) == [AGENT.key_id, BOB.key_id, CAROL.key_id]
    assert (await at.desk.frozen())[0] == Frozen(
        AGENT.key_id, AGENT.tenant, "manual", f"why {AGENT.key_id}", at.clock.now_ms() - 10
    )
    freezer = at.desk.freezer
    assert (await freezer.count(), await freezer.which([BOB.key_id, KeyId("key_x")])) == (3, {BOB.key_id})
    with pytest.raises(Forbidden, match="^principal_frozen"):
        await freezer.check(BOB.key_id)
    await freezer.check(KeyId("key_x"))


async def test_of_nobody_is_known_without_the_store_that_nobody_is_frozen(at: World, tmp_path: Path) -> None:
    nowhere = open_store(sqlite_url(tmp_path / "missing" / "gate.db"))
    lost = Freezer(nowhere, at.desk.say, Holders(at.ledger.holders, 5.0), at.clock, keeps_nothing)
    assert await lost.which([]) == frozenset()
    for asking in (lost.which([AGENT.key_id]), lost.is_frozen(AGENT.key_id), lost.check(AGENT.key_id), lost.count()):
        with pytest.raises(GateUnavailable):
            await asking
    await nowhere.dispose()


# --- freezing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "whom", "may"),
    [
        (BOB, AGENT, True),
        (BOB, NEIGHBOUR, False),
        (ADMIN, NEIGHBOUR, True),
        (replace(BOB, scopes=frozenset({Scope.APPROVE, Scope.ADMIN})), NEIGHBOUR, True),
        (replace(BOB, scopes=frozenset({Scope.INFERENCE, Scope.APPROVE})), AGENT, True),
    ],
    ids=["approver", "approver-elsewhere", "administrator-elsewhere", "both", "approver-and-more"],
)
async def test_an_approver_freezes_at_home_and_an_administrator_everywhere(
    at: World, who: Principal, whom: Principal, may: bool
) -> None:
    if may:
        assert (await at.desk.freeze(who, whom.key_id, "")).tenant == whom.tenant
    else:
        with pytest.raises(NotFound):
            await at.desk.freeze(who, whom.key_id, "")
    assert await keys(at) == [whom.key_id] * may


async def test_a_key_that_only_asks_freezes_nobody_and_learns_nothing(at: World) -> None:
    asking = replace(AGENT, scopes=frozenset({Scope.INFERENCE, Scope.AUDIT_READ}))
    for key_id in (BOB.key_id, KeyId("key_nobody")):
        with pytest.raises(Forbidden, match="neither approves"):
            await at.desk.freeze(asking, key_id, "")


async def test_the_record_of_a_freeze_says_who_froze_whom_and_for_what_kind(at: World) -> None:
    at.clock.advance(7)
    made = await at.desk.freeze(BOB, AGENT.key_id, "")
    (event,) = at.audit.named("principal.frozen")
    assert re.fullmatch(rf"{AGENT.key_id}\.frozen\.[0-9a-f]{{16}}", event.event_id)
    assert (event.at_ms, event.tenant, event.principal) == (made.since_ms, AGENT.tenant, BOB.key_id)
    assert (event.data, event.bodies) == ({"key_id": AGENT.key_id, "kind": "manual"}, {})
    assert made == Frozen(AGENT.key_id, AGENT.tenant, "manual", "", at.clock.now_ms())


async def test_the_record_of_a_freeze_by_policy_says_why_and_names_the_key_itself(at: World) -> None:
    await at.desk.bypass(AGENT, "permit_replayed", {}, "e1")
    (event,) = at.audit.named("principal.frozen")
    reason = "by policy, after an attempt to bypass the gate: permit_replayed"
    assert event.data == {"key_id": AGENT.key_id, "kind": "permit_replayed", "reason": reason}
    assert (event.principal, event.bodies) == (AGENT.key_id, {})


async def test_a_reason_is_shown_on_one_line_and_cut_and_kept_whole_where_words_are_kept(at: World) -> None:
    desk = ApprovalDesk(
        at.stores[0], at.audit, at.clock, at.settings, POLICY, lambda tenant: tenant == "acme",
        holders=at.ledger.holders,
    )  # fmt: skip
    reason = "a\nb" + "x" * 400
    made = await desk.freeze(BOB, AGENT.key_id, reason)
    assert made.reason == ("a\\nb" + "x" * 400)[:MAX_REASON]
    assert (await desk.frozen())[0].reason == made.reason
    await desk.unfreeze(ROOT, AGENT.key_id, "CHG-9", "looked\nat it")
    words = [event.bodies[BodyField.REASON].data for event in at.audit.events]
    assert words == [reason.encode(), b"looked\nat it"]


async def test_a_frozen_key_stays_as_it_was_frozen(at: World) -> None:
    await at.desk.freeze(BOB, CAROL.key_id, "another")
    first = await at.desk.freeze(BOB, AGENT.key_id, "first")
    at.clock.advance(10)
    assert await at.desk.freeze(ROOT, AGENT.key_id, "second") == first
    assert len(at.audit.named("principal.frozen")) == 2


# --- releasing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change_id", ["x", "x" * MAX_CHANGE_ID], ids=["short", "longest"])
async def test_a_release_is_recorded_with_its_change_and_whoever_made_it(at: World, change_id: str) -> None:
    await at.desk.freeze(BOB, CAROL.key_id, "")
    await at.desk.freeze(BOB, AGENT.key_id, "")
    at.clock.advance(9)
    await at.desk.unfreeze(ADMIN, AGENT.key_id, change_id, "")
    assert await keys(at) == [CAROL.key_id], "the other one was frozen in the same moment"
    (event,) = at.audit.named("principal.unfrozen")
    assert re.fullmatch(rf"{AGENT.key_id}\.unfrozen\.[0-9a-f]{{16}}", event.event_id)
    assert (event.at_ms, event.tenant, event.principal) == (at.clock.now_ms(), AGENT.tenant, ADMIN.key_id)
    assert event.data == {"key_id": AGENT.key_id, "change_id": change_id, "reporter": "ada"}
    assert event.bodies == {}


@pytest.mark.parametrize(
    ("who", "key_id", "change_id", "error", "says"),
    [
        (CAROL, AGENT.key_id, "CHG-9", Forbidden, "scope 'admin'"),
        (replace(ADMIN, key_id=AGENT.key_id), AGENT.key_id, "CHG-9", Forbidden, "cannot release itself"),
        (ADMIN, AGENT.key_id, "", ApprovalConflict, "change id is needed"),
        (ADMIN, AGENT.key_id, " \t", ApprovalConflict, "change id is needed"),
        (ADMIN, AGENT.key_id, "x" * (MAX_CHANGE_ID + 1), ApprovalConflict, "change id is needed"),
        (ADMIN, CAROL.key_id, "CHG-9", NotFound, "not frozen"),
    ],
    ids=["approver", "itself", "none", "blank", "long", "free"],
)
async def test_a_release_that_is_refused_releases_nobody(
    at: World, who: Principal, key_id: KeyId, change_id: str, error: type[Exception], says: str
) -> None:
    await at.desk.freeze(BOB, AGENT.key_id, "")
    with pytest.raises(error, match=says):
        await at.desk.unfreeze(who, key_id, change_id, "")
    assert (await keys(at), at.audit.named("principal.unfrozen")) == ([AGENT.key_id], [])


async def test_a_release_does_not_undo_a_freeze_that_came_after_it_was_looked_at(at: World) -> None:
    await at.desk.freeze(BOB, AGENT.key_id, "first")

    async def late(event: AuditEvent, *changes: Executable) -> bool:
        await at.desk.unfreeze(ROOT, AGENT.key_id, "CHG-8", "")
        at.clock.advance(1)
        await at.desk.freeze(BOB, AGENT.key_id, "second")
        return await at.desk.say(event, *changes)

    with pytest.raises(ApprovalConflict, match="just been released or frozen"):
        await freezer(at, late).unfreeze(ADMIN, AGENT.key_id, "CHG-9", "")
    assert [each.reason for each in await at.desk.frozen()] == ["second"]
    assert [event.data["change_id"] for event in at.audit.named("principal.unfrozen")] == ["CHG-8"]


async def test_a_freeze_that_was_second_and_finds_the_key_free_again_says_what_it_meant(at: World) -> None:
    async def late(event: AuditEvent, *changes: Executable) -> bool:
        await at.desk.freeze(ROOT, AGENT.key_id, "first")
        told = await at.desk.say(event, *changes)
        await at.desk.unfreeze(ADMIN, AGENT.key_id, "CHG-8", "")
        return told

    made = await freezer(at, late).freeze(BOB, AGENT.key_id, "second")
    assert (made.reason, await keys(at), len(at.audit.named("principal.frozen"))) == ("second", [], 1)


def freezer(at: World, say: Says) -> Freezer:
    return Freezer(at.stores[0].engine, say, Holders(at.ledger.holders, 5.0), at.clock, keeps_nothing)


# --- what a replica knows --------------------------------------------------------------------------------------------


class Asked(InMemoryApprovals):
    """Counts how often it is asked who is frozen."""

    asked = 0

    async def frozen(self) -> Sequence[Frozen]:
        self.asked += 1
        await asyncio.sleep(0)  # whoever else wants to know comes now
        return await super().frozen()


def viewed() -> tuple[FixedClock, Asked, FrozenView]:
    clock = FixedClock()
    approvals = Asked(clock)
    return clock, approvals, FrozenView(approvals, clock)


def freeze(approvals: Asked, *key_ids: KeyId) -> None:
    approvals.frozen_keys.update({each: Frozen(each, AGENT.tenant, "manual", "", 0) for each in key_ids})


async def test_a_freeze_and_a_release_reach_a_replica_within_two_seconds() -> None:
    clock, approvals, view = viewed()
    assert await view.of(AGENT.key_id) is Standing.FREE
    freeze(approvals, AGENT.key_id)
    clock.advance(1_999)
    assert (await view.of(AGENT.key_id), approvals.asked) == (Standing.FREE, 1)
    clock.advance(1)
    assert (await view.of(AGENT.key_id), await view.of(BOB.key_id)) == (Standing.FROZEN, Standing.FREE)
    approvals.frozen_keys.clear()
    clock.advance(2_000)
    assert (await view.of(AGENT.key_id), approvals.asked) == (Standing.FREE, 3)


async def test_many_at_once_ask_once() -> None:
    clock, approvals, view = viewed()
    for asked in (1, 2):
        assert set(await asyncio.gather(*(view.of(AGENT.key_id) for _ in range(8)))) == {Standing.FREE}
        assert approvals.asked == asked
        clock.advance(2_000)


async def test_a_silent_store_is_believed_for_ten_seconds_and_asked_again_each_second() -> None:
    clock, approvals, view = viewed()
    freeze(approvals, BOB.key_id)
    approvals.down = True
    assert [await view.of(AGENT.key_id) for _ in range(2)] == [Standing.UNKNOWN] * 2
    assert approvals.asked == 1
    approvals.down = False
    clock.advance(999)
    assert (await view.of(AGENT.key_id), approvals.asked) == (Standing.UNKNOWN, 1)
    clock.advance(1)
    assert (await view.of(AGENT.key_id), approvals.asked) == (Standing.FREE, 2)
    approvals.down = True
    clock.advance(9_999)
    assert await view.of(AGENT.key_id) is Standing.FREE
    clock.advance(1)
    assert (await view.of(AGENT.key_id), await view.of(BOB.key_id)) == (Standing.UNKNOWN, Standing.FROZEN)
    assert approvals.asked == 3


async def test_whoever_is_not_on_a_list_that_was_cut_is_not_free() -> None:
    _, approvals, view = viewed()
    freeze(approvals, *(KeyId(f"key_{number}") for number in range(MAX_LISTED)))
    assert (await view.of(KeyId("key_0")), await view.of(AGENT.key_id)) == (Standing.FROZEN, Standing.UNKNOWN)
    _, approvals, view = viewed()
    freeze(approvals, *(KeyId(f"key_{number}") for number in range(MAX_LISTED - 1)))
    assert await view.of(AGENT.key_id) is Standing.FREE
