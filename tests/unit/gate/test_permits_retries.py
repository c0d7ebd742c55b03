"""Redeeming again after a lost answer: whoever took the execution gets its answer again, and nobody else ever does."""

import asyncio
import gc
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from deployments.errors import (
    ApprovalConflict,
    AuditInDoubt,
    AuditRefused,
    AuditUnavailable,
    Forbidden,
    GatehouseError,
    NotFound,
)
from deployments.gate import permit_rows
from deployments.gate.database import fetch
from deployments.gate.office import PermitOffice
from deployments.gate.permit_rows import PermitRow
from deployments.gate.schema import permits
from deployments.gate.settings import GateSettings
from deployments.ports import AuditEvent, IssuedPermit, PermitState, Receipt, Risk
from tests.unit.gate.desks import BreakableAudit
from tests.unit.gate.permit_office import AGENT, BOB, MATE, RUNNER, Office, ask_for, ended
from tests.unit.gate.test_crashes import FULL, Breaking, LostProcess

NONCE, OTHER = "n" * 43, "o" * 43
CRASHES = 1 if FULL else 3
"""Every await is broken off in the full run, every third one here."""


class Log(BreakableAudit):
    """Also a log that is silent (nothing is written, and nobody knows), or behind which the process dies."""

    silent = False
    deadly = False

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        if self.silent:
            raise AuditInDoubt("no answer")
        receipts = await super().append(events)
        if self.deadly:
            raise LostProcess
        return receipts


class At(Office):
    """An office over that log."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.log = self.audit = Log()
        self.desk, self.office = self.other()

    async def take(
        self, permit: IssuedPermit, nonce: str | None = NONCE, office: PermitOffice | None = None, **changes: Any
    ) -> IssuedPermit:
        asked: dict[str, Any] = {"who": AGENT, "digest": permit.ask.action_digest, "audience": RUNNER, **changes}
        office = office or self.office
        return await office.redeem(asked["who"], permit.permit_id, asked["digest"], asked["audience"], nonce)

    def redeemed(self) -> list[AuditEvent]:
        return list(self.audit.named("permit.redeemed"))

    async def frozen(self) -> bool:
        return await self.desk.freezer.is_frozen(AGENT.key_id)


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[At]:
    office = At(tmp_path)
    await office.open()
    yield office
    await office.close()


# --- the same runner -------------------------------------------------------------------------------------------------


async def test_a_lost_answer_is_given_again_and_recorded_once(at: At) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    first = await at.take(permit)
    at.clock.advance(60_000)
    _desk, elsewhere = at.other()
    assert [await at.take(permit), await at.take(permit, office=elsewhere)] == [first, first]
    assert (first.state, first.token) == (PermitState.REDEEMED, "")
    (event,) = at.redeemed()
    assert (event.data["redeemer"], NONCE in str(event)) == (_digest(NONCE), False)
    assert (at.bypasses(), await at.frozen()) == ([], False)
    assert (await at.office.report(AGENT, permit.permit_id, ended())).state is PermitState.REPORTED


async def test_the_store_holds_no_nonce_that_could_be_used(at: At) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    await at.take(permit)
    (row,) = await fetch(at.stores[0].engine, select(permits.c.body))
    assert NONCE not in str(row.body)
    with pytest.raises(ApprovalConflict):  # what a reader of the store or of the log has is no nonce
        await at.take(permit, _digest(NONCE))


def _digest(nonce: str) -> str:
    return sha256(nonce.encode()).hexdigest()


# --- somebody else, or too late --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [(NONCE, OTHER), (NONCE, None), (None, NONCE), (None, None)],
    ids=["another", "none", "only-the-second", "neither"],
)
async def test_a_second_use_under_anything_else_is_a_replay(at: At, first: str | None, second: str | None) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    await at.take(permit, first)
    with pytest.raises(ApprovalConflict, match="used already"):
        await at.take(permit, second)
    assert (at.bypasses(), await at.frozen(), len(at.redeemed())) == (["permit_replayed"], True, 1)


async def test_after_the_report_the_nonce_is_good_for_nothing(at: At) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    await at.take(permit)
    await at.office.report(AGENT, permit.permit_id, ended())
    with pytest.raises(ApprovalConflict, match="used already"):
        await at.take(permit)
    assert (at.bypasses(), await at.frozen()) == (["permit_replayed"], True)


@pytest.mark.parametrize(
    ("changes", "late_ms", "kind", "error"),
    [
        ({"who": MATE}, 0, "permit_invalid", ApprovalConflict),
        ({"digest": "0" * 64}, 0, "permit_mismatch", ApprovalConflict),
        ({"audience": "another"}, 0, "permit_mismatch", ApprovalConflict),
        ({}, 300_000, "permit_expired", ApprovalConflict),
    ],
    ids=["another-key", "another-call", "another-runner", "too-late"],
)
async def test_the_nonce_is_good_for_this_call_and_runner_as_long_as_the_permit_is(
    at: At, changes: dict[str, Any], late_ms: int, kind: str, error: type[GatehouseError]
) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    await at.take(permit)
    at.clock.advance(late_ms)
    with pytest.raises(error):
        await at.take(permit, **changes)
    assert at.bypasses() == [kind]


async def test_whoever_was_frozen_meanwhile_gets_no_answer_again(at: At) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    await at.take(permit)
    await at.desk.freeze(BOB, AGENT.key_id, "suspicious")
    with pytest.raises(Forbidden):
        await at.take(permit)


async def test_the_nonce_of_one_permit_opens_no_other(at: At) -> None:
    first, second = [await at.office.issue(AGENT, ask_for(command)) for command in ("ls", "pwd")]
    await at.take(first)
    await at.take(second, OTHER)
    with pytest.raises(ApprovalConflict):
        await at.take(second)
    with pytest.raises(NotFound):
        await at.office.redeem(AGENT, "prm_guessed", first.ask.action_digest, RUNNER, NONCE)


# --- without an answer of the log ------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [True, False])
async def test_in_doubt_the_answer_waits_for_a_certain_record(at: At, written: bool) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    at.log.lose, at.log.silent = written, not written
    for _ in range(2):
        with pytest.raises(AuditInDoubt):
            await at.take(permit)
    at.log.lose = at.log.silent = False
    at.log.down = True
    with pytest.raises(AuditUnavailable):
        await at.take(permit)
    at.log.down = False
    at.clock.advance(5_000)
    assert len(at.redeemed()) == written
    assert (await at.take(permit)).state is PermitState.REDEEMED
    (event,) = at.redeemed()
    assert event.at_ms == at.clock.now_ms() - 5_000
    assert at.bypasses() == []


async def test_in_doubt_nobody_else_gets_it_either(at: At) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    at.log.silent = True
    with pytest.raises(AuditInDoubt):
        await at.take(permit)
    at.log.silent = False
    with pytest.raises(ApprovalConflict):
        await at.take(permit, OTHER)
    assert at.redeemed() == []


@pytest.mark.parametrize(
    ("again", "wins"), [(NONCE, True), (OTHER, False), (None, False)], ids=["the-same", "another", "none"]
)
async def test_what_the_log_has_is_final_when_the_process_died_before_it_could_say_so(
    at: At, again: str | None, wins: bool
) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    at.log.deadly = True
    with pytest.raises(LostProcess):
        await at.take(permit)
    at.log.deadly = False
    assert (await at.office.permit(AGENT, permit.permit_id)).state is PermitState.ISSUED
    at.clock.advance(1_000)
    _desk, elsewhere = at.other()
    if wins:
        assert (await at.take(permit, again, elsewhere)).state is PermitState.REDEEMED
    else:
        with pytest.raises(ApprovalConflict, match="used already"):
            await at.take(permit, again, elsewhere)
    assert (len(at.redeemed()), at.bypasses()) == (1, [] if wins else ["permit_replayed"])
    (row,) = [permit_rows.read(each) for each in await fetch(at.stores[0].engine, select(permits))]
    assert (row.redeemed_ms, row.redeemer) == (at.clock.now_ms() - 1_000, _digest(NONCE)), "as it is on record"
    assert (await at.office.permit(AGENT, permit.permit_id)).state is PermitState.REDEEMED


async def test_a_log_that_refuses_for_another_reason_lets_nothing_happen(at: At) -> None:
    permit = await at.office.issue(AGENT, ask_for())

    async def refuse(events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        raise AuditRefused("no such event")

    at.log.append = refuse  # type: ignore[method-assign]
    with pytest.raises(AuditRefused):
        await at.take(permit)
    del at.log.append
    assert (await at.take(permit)).state is PermitState.REDEEMED


# --- races and crashes -----------------------------------------------------------------------------------------------


async def test_of_many_runners_that_all_ask_again_one_wins_every_time(at: At) -> None:
    at.settings = GateSettings(freeze_on=())
    offices = [at.other()[1] for _ in range(2)]
    for number in range(8):
        permit = await at.office.issue(AGENT, ask_for(f"echo {number}"))
        nonces = [secrets.token_urlsafe(32) for _ in range(6)]

        async def ask(place: int, permit: IssuedPermit = permit, nonces: list[str] = nonces) -> tuple[str, bool]:
            nonce = nonces[place % len(nonces)]
            try:
                return nonce, (await at.take(permit, nonce, offices[place % 2])).state is PermitState.REDEEMED
            except ApprovalConflict:
                return nonce, False

        answers = await asyncio.gather(*(ask(place) for place in range(36)))
        winners = Counter(nonce for nonce, won in answers if won)
        assert list(winners.values()) == [6]
        assert Counter(won for _, won in answers) == {True: 6, False: 30}
    assert len(at.redeemed()) == 8


async def _result(breaking: Breaking) -> object:
    return await breaking


# A driver that is interrupted anywhere leaves connections to the garbage collector, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("error", [LostProcess, asyncio.CancelledError])
async def test_a_crash_at_any_await_loses_no_execution_and_gives_none_twice(at: At, error: type[BaseException]) -> None:
    at.settings = GateSettings(freeze_on=())
    place, broken = 1, 0
    while True:
        permit = await at.office.issue(AGENT, ask_for(f"echo {place}"))
        _desk, dying = at.other()
        breaking = Breaking(at.take(permit, NONCE, dying), place, error)
        with suppress(Exception, asyncio.CancelledError):
            await asyncio.create_task(_result(breaking))
        await at.stores.pop().close()
        gc.collect()
        begun = len([event for event in at.redeemed() if event.data["permit_id"] == permit.permit_id])
        _desk, elsewhere = at.other()
        if begun:  # it is this runner's for good, whether or not it was told
            with pytest.raises(ApprovalConflict):
                await at.take(permit, OTHER, elsewhere)
        assert (await at.take(permit, NONCE, elsewhere)).state is PermitState.REDEEMED
        with pytest.raises(ApprovalConflict):
            await at.take(permit, OTHER, elsewhere)
        await at.stores.pop().close()
        assert len([event for event in at.redeemed() if event.data["permit_id"] == permit.permit_id]) == 1
        if not breaking.reached:
            break
        place, broken = place + CRASHES, broken + 1
    assert broken >= 2, "redeeming waits for nothing, so nothing was broken"


async def test_a_row_of_an_older_version_is_read(at: At) -> None:
    permit = await at.office.issue(AGENT, ask_for("git commit -m x", Risk.R1))
    await at.take(permit, None)
    row = (await fetch(at.stores[0].engine, select(permits)))[0]

    class Older:
        def __getattr__(self, name: str) -> object:
            found = getattr(row, name)
            return found.replace(',"redeemer":null', "") if name == "body" else found

    assert '"redeemer":null' in row.body
    found = permit_rows.read(Older())  # type: ignore[arg-type]
    assert isinstance(found, PermitRow)
    assert found.redeemer is None
