"""The statements on the table of permits: each condition decides by itself, and touches one permit alone."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from deployments.gate import permit_rows, permit_store
from deployments.gate.commands import claim_key
from deployments.gate.database import commit, fetch
from deployments.gate.permit_rows import PermitRow, new_permit_id
from deployments.gate.permit_store import PermitStore
from deployments.gate.schema import consumptions, frozen_keys, permits
from deployments.ports import ApprovalId, KeyId, PermitState, Risk
from tests.unit.gate.permit_office import AGENT, Office, ask_for

NOW = 1_000_000
APPROVAL = ApprovalId("apr_1")
ISSUED, REDEEMED, REPORTED, EXPIRED = (
    PermitState.ISSUED, PermitState.REDEEMED, PermitState.REPORTED, PermitState.EXPIRED
)  # fmt: skip


class Table:
    """A store over one file, and rows in it."""

    def __init__(self, office: Office) -> None:
        self.engine = office.stores[0].engine
        self.store = PermitStore(self.engine)

    async def put(self, row: PermitRow | None = None, **columns: object) -> PermitRow:
        """A row as the office would write it, or with columns that it would not."""
        row = row or made()
        await commit(self.engine, insert(permits).values(**{**permit_rows.columns(row), **columns}))
        return row

    async def states(self) -> dict[str, str]:
        return {str(row.permit_id): str(row.state) for row in await fetch(self.engine, select(permits))}

    async def freeze(self, key_id: str) -> None:
        row = {"key_id": key_id, "tenant": "acme", "kind": "manual", "reason": "", "since_ms": NOW}
        await commit(self.engine, insert(frozen_keys).values(**row))

    async def consumed(self, approval_id: str, reported: str | None) -> None:
        row = {"approval_id": approval_id, "call_key": approval_id, "gate_call_id": approval_id, "consumed_ms": NOW}
        await commit(self.engine, insert(consumptions).values(**row, rollbacks=0, reported=reported))

    async def claimable(self) -> list[str]:
        key = claim_key(AGENT.tenant, AGENT.key_id, "run", made().ask.arguments)
        return [row.permit_id for row in await self.store.claimable(AGENT.tenant, AGENT.key_id, key, NOW)]

    async def move(self, before: PermitRow, after: PermitRow, now_ms: int = NOW) -> bool:
        async with self.store.moving(before, after, now_ms) as connection:
            return connection is not None

    async def add(self, row: PermitRow) -> bool:
        async with self.store.adding(row) as connection:
            return connection is not None


def made(state: PermitState = ISSUED, audience: str = "", command: str = "git push") -> PermitRow:
    ask = replace(ask_for(command, Risk.R2, audience=audience), approval_id=APPROVAL)
    return PermitRow(
        permit_id=new_permit_id(), state=state, tenant=AGENT.tenant, key_id=AGENT.key_id, ask=ask, issued_ms=NOW - 10,
        expires_ms=NOW + 1, redeemed_ms=None if state is ISSUED else NOW, exec_profile="", plan=None, outcome=None,
    )  # fmt: skip


def step_of(permit_id: str, step: int, **changes: object) -> PermitRow:
    row = made(audience="runner")
    return replace(row, ask=replace(row.ask, rollback_of=permit_id, step=step), **changes)


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[Table]:
    office = Office(tmp_path)
    await office.open()
    yield Table(office)
    await office.close()


# --- looking ---------------------------------------------------------------------------------------------------------


async def test_a_permit_is_found_by_its_id_and_by_its_call_under_its_approval(table: Table) -> None:
    first, second = [await table.put() for _ in range(2)]
    assert await table.store.get(second.permit_id) == second
    assert await table.store.get("prm_x") is None
    found = [await table.store.of_call(APPROVAL, each.ask.gate_call_id) for each in (first, second)]
    assert found == [first, second]
    assert await table.store.of_call(ApprovalId("apr_2"), first.ask.gate_call_id) is None
    assert await table.store.of_call(APPROVAL, "0" * 32) is None


async def test_what_waits_to_be_claimed_is_listed_the_oldest_first(table: Table) -> None:
    late, early = await table.put(), await table.put(replace(made(), issued_ms=NOW - 11))
    assert await table.claimable() == [early.permit_id, late.permit_id]


@pytest.mark.parametrize(
    "columns",
    [
        {"claim_key": "0" * 64}, {"tenant": "rival"}, {"key_id": "key_mia"}, {"state": "REVOKED"},
        {"audience": "runner"}, {"rollback_of": "prm_1"}, {"expires_ms": NOW},
    ],
    ids=["call", "tenant", "key", "state", "claimed", "step", "late"],
)  # fmt: skip
async def test_what_is_not_this_keys_or_not_ready_is_not_claimable(table: Table, columns: dict[str, object]) -> None:
    await table.put(None, **columns)
    assert await table.claimable() == []


async def test_a_call_that_was_reported_is_not_claimable_and_no_other_report_hides_it(table: Table) -> None:
    row = await table.put()
    await table.consumed("apr_2", "succeeded")
    assert await table.claimable() == [row.permit_id]
    await table.consumed(APPROVAL, None)
    assert await table.claimable() == [row.permit_id]
    done = replace(made(), ask=replace(made().ask, approval_id=ApprovalId("apr_2")))
    await table.put(done)
    assert await table.claimable() == [row.permit_id]


async def test_an_execution_is_late_from_the_millisecond_on(table: Table) -> None:
    due = await table.put(made(REDEEMED, "runner"))
    await table.put(made(REPORTED, "runner"))
    await table.put(made(REDEEMED, "runner"), alerted_ms=NOW)
    assert list(await table.store.unreported(NOW - 1)) == []
    assert list(await table.store.unreported(NOW)) == [due]


async def test_only_the_frozen_key_is_frozen(table: Table) -> None:
    await table.freeze("key_mia")
    assert (await table.store.frozen(KeyId("key_mia")), await table.store.frozen(AGENT.key_id)) == (True, False)


# --- moving ----------------------------------------------------------------------------------------------------------


async def test_a_move_changes_one_permit_once(table: Table) -> None:
    row = await table.put(made(audience="runner"))
    other = await table.put(made(audience="runner"), action_digest=row.ask.action_digest)
    await table.freeze("key_mia")
    after = replace(row, state=REDEEMED, redeemed_ms=NOW)
    assert [await table.move(row, after), await table.move(row, after)] == [True, False]
    assert await table.states() == {row.permit_id: "REDEEMED", other.permit_id: "ISSUED"}
    assert await table.store.get(row.permit_id) == after


async def test_a_permit_that_nobody_has_claimed_is_claimed_once(table: Table) -> None:
    row = await table.put()
    after = replace(row, ask=replace(row.ask, audience="runner"))
    assert [await table.move(row, after), await table.move(row, after)] == [True, False]
    assert await table.store.get(row.permit_id) == after


@pytest.mark.parametrize("what", ["state", "digest", "late", "claimed", "unclaimed", "frozen"])
async def test_a_move_of_anything_else_changes_nothing(table: Table, what: str) -> None:
    row = made(audience="" if what == "claimed" else "runner")
    before, after = row, replace(row, state=REDEEMED, redeemed_ms=NOW)
    if what == "digest":
        after = replace(after, ask=replace(after.ask, action_digest="0" * 64))
    if what == "unclaimed":
        before = replace(row, ask=replace(row.ask, audience=""))
    columns = {"state": {"state": "REVOKED"}, "claimed": {"audience": "runner"}}.get(what, {})
    await table.put(row, **columns)
    if what == "frozen":
        await table.freeze(AGENT.key_id)
    states = await table.states()
    assert not await table.move(before, after, NOW + 1 if what == "late" else NOW)
    assert await table.states() == states


async def test_a_step_takes_the_room_of_one_that_nobody_took_in_time(table: Table) -> None:
    old = await table.put(step_of("prm_0", 0))
    others = [await table.put(step_of("prm_0", 1)), await table.put(step_of("prm_1", 0))]
    assert not await table.add(step_of("prm_0", 0, issued_ms=NOW))
    new = step_of("prm_0", 0, issued_ms=NOW + 1, expires_ms=NOW + 9)
    assert await table.add(new)
    assert await table.states() == {
        old.permit_id: "EXPIRED", new.permit_id: "ISSUED", **{each.permit_id: "ISSUED" for each in others}
    }  # fmt: skip
    assert [row.permit_id for row in await table.store.steps_of("prm_0")] == [
        *sorted((old.permit_id, others[0].permit_id)), new.permit_id
    ]  # fmt: skip


async def test_a_step_that_was_taken_gives_no_room_however_late_it_is(table: Table) -> None:
    taken = await table.put(step_of("prm_0", 0, state=REDEEMED, redeemed_ms=NOW))
    assert not await table.add(step_of("prm_0", 0, issued_ms=NOW + 100, expires_ms=NOW + 109))
    assert await table.states() == {taken.permit_id: "REDEEMED"}


# --- ending ----------------------------------------------------------------------------------------------------------


async def test_a_report_and_an_alert_are_of_one_permit_and_made_once(table: Table) -> None:
    row, other = [await table.put(made(REDEEMED, "runner")) for _ in range(2)]
    alert = permit_store.alerted(row, NOW)
    assert [await table.store.finish(alert), await table.store.finish(alert)] == [True, False]
    assert list(await table.store.unreported(NOW)) == [other]
    done = permit_store.reported(replace(row, state=REPORTED, outcome="failed"))
    assert [await table.store.finish(done), await table.store.finish(done)] == [True, False]
    assert await table.states() == {row.permit_id: "REPORTED", other.permit_id: "REDEEMED"}
    late = await table.put(made(REPORTED, "runner"))
    assert not await table.store.finish(permit_store.alerted(late, NOW))
