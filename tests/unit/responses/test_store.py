"""What only the database does: restarts, replicas that write at once, the sums, the sweep, and what its text tells."""

import asyncio
import logging
import re
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from deployments.clock import FixedClock
from deployments.errors import NotFound, PartUnavailable, QuotaExceeded
from deployments.ports import Responses, ResponseStatus, StoredResponse, TenantId
from deployments.responses import keeper as keeper_module
from deployments.responses.keeper import ResponseKeeper, pack
from deployments.responses.settings import ResponsesSettings
from deployments.responses.store import ROW_BYTES, ResponseRows, Standing
from deployments.store import open_store, sqlite_url
from tests.fakes_responses import InMemoryResponses
from tests.unit.responses.samples import ACME, GLOBEX, NOW_MS, SETTINGS, message, response, running

Open = Callable[[], Awaitable[ResponseRows]]


def _keeper(rows: ResponseRows, clock: FixedClock | None = None, **settings: Any) -> ResponseKeeper:
    return ResponseKeeper(rows, clock or FixedClock(), SETTINGS.model_copy(update=settings))


def _read(directory: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(directory / "responses.db") as connection:
        found = connection.execute(query).fetchall()
    connection.close()
    return found


def _sums_are_right(directory: Path) -> bool:
    """What is counted is what is there."""
    counted = _read(directory, "SELECT tenant, responses, bytes FROM response_totals ORDER BY tenant")
    there = dict.fromkeys((row[0] for row in counted), (0, 0))
    there |= {
        row[0]: row[1:]
        for row in _read(
            directory,
            "SELECT tenant, sum(state <> 'deleted'), sum(bytes) FROM responses GROUP BY tenant ORDER BY tenant",
        )
    }
    return counted == [(tenant, *sums) for tenant, sums in there.items()]


class Interrupted(ResponseRows):
    """Rows that change between a writer's look and its write: `meanwhile` runs once, right after the look."""

    meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None

    async def standing(self, tenant: TenantId, response_id: str) -> Standing | None:
        found = await super().standing(tenant, response_id)
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            await act()
        return found


@pytest.fixture
async def interrupted(tmp_path: Path, rows: ResponseRows) -> Any:
    made = Interrupted(open_store(sqlite_url(tmp_path / "responses.db")))
    yield made
    await made.close()


def test_the_keeper_and_the_fake_are_the_port(rows: ResponseRows) -> None:
    kept: Responses = _keeper(rows)
    fake: Responses = InMemoryResponses()
    assert kept is not fake


# --- restarts ----------------------------------------------------------------------------------------------------


async def test_a_restart_keeps_everything(open_rows: Open) -> None:
    first = await open_rows()
    clock = FixedClock()
    before = _keeper(first, clock)
    await before.put(response("resp_1"))
    await before.put(response("resp_2", previous_id="resp_1"))
    await before.put(running("resp_3"))
    await before.put(running("resp_4"))
    await before.delete(ACME, "resp_4")
    await first.close()
    after = _keeper(await open_rows(), clock)
    assert len(await after.conversation(ACME, "resp_2")) == 4
    assert await after.beat(ACME, "resp_3")
    await after.put(response("resp_4"))
    with pytest.raises(NotFound):
        await after.get(ACME, "resp_4")


async def test_a_response_whose_replica_died_with_the_store_fails_after_the_restart(open_rows: Open) -> None:
    first = await open_rows()
    clock = FixedClock()
    await _keeper(first, clock).put(running())
    await first.close()
    clock.advance(30_001)
    assert (await _keeper(await open_rows(), clock).get(ACME, "resp_1")).status is ResponseStatus.FAILED


async def test_replicas_that_open_at_once_all_open(tmp_path: Path) -> None:
    made = [ResponseRows(open_store(sqlite_url(tmp_path / "responses.db"))) for _ in range(4)]
    await asyncio.gather(*(each.open() for each in made))
    assert all([await each.ready() for each in made])
    for each in made:
        await each.close()


# --- writers at once ---------------------------------------------------------------------------------------------


async def test_a_final_response_wins_over_progress_that_was_decided_before_it(
    tmp_path: Path, rows: ResponseRows, interrupted: Interrupted
) -> None:
    same = {"id": "resp_1", "output": []}  # and of the same size, so that only the status tells them apart
    await _keeper(rows).put(running(body=same))
    interrupted.meanwhile = lambda: _keeper(rows).put(response(background=True, body=same))
    await _keeper(interrupted).put(running(body=same))
    assert (await _keeper(rows).get(ACME, "resp_1")).status is ResponseStatus.COMPLETED
    assert _sums_are_right(tmp_path)


async def test_a_deletion_wins_over_a_final_response_that_was_decided_before_it(
    tmp_path: Path, rows: ResponseRows, interrupted: Interrupted
) -> None:
    await _keeper(rows).put(running())
    interrupted.meanwhile = lambda: _keeper(rows).delete(ACME, "resp_1")
    await _keeper(interrupted).put(response(background=True))
    with pytest.raises(NotFound):
        await _keeper(rows).get(ACME, "resp_1")
    assert _sums_are_right(tmp_path)


async def test_a_deletion_that_met_progress_counts_what_it_deleted(
    tmp_path: Path, rows: ResponseRows, interrupted: Interrupted
) -> None:
    await _keeper(rows).put(running())
    interrupted.meanwhile = lambda: _keeper(rows).put(running(input=(message("user", "x" * 5000),)))
    await _keeper(interrupted).delete(ACME, "resp_1")
    assert _read(tmp_path, "SELECT responses, bytes FROM response_totals") == [(0, ROW_BYTES)]


async def test_a_turn_that_is_deleted_while_its_conversation_is_read_is_not_found(rows: ResponseRows) -> None:
    class Forgetful(ResponseRows):
        async def turns(self, *arguments: Any) -> Any:
            await _keeper(rows).delete(ACME, "resp_1")
            return await super().turns(*arguments)

    await _keeper(rows).put(response("resp_1"))
    await _keeper(rows).put(response("resp_2", previous_id="resp_1"))
    with pytest.raises(NotFound, match="'resp_2'"):
        await _keeper(Forgetful(rows._engine)).conversation(ACME, "resp_2")


async def test_of_two_deletions_one_finds_nothing(rows: ResponseRows, interrupted: Interrupted) -> None:
    await _keeper(rows).put(running())
    interrupted.meanwhile = lambda: _keeper(rows).delete(ACME, "resp_1")
    with pytest.raises(NotFound):
        await _keeper(interrupted).delete(ACME, "resp_1")


async def test_two_writers_that_both_create_a_response_make_one(
    tmp_path: Path, rows: ResponseRows, interrupted: Interrupted
) -> None:
    interrupted.meanwhile = lambda: _keeper(rows).put(response())
    await _keeper(interrupted).put(running())
    assert (await _keeper(rows).get(ACME, "resp_1")).status is ResponseStatus.COMPLETED
    assert _sums_are_right(tmp_path)


async def test_two_writers_that_reuse_an_expired_id_make_one(
    tmp_path: Path, rows: ResponseRows, interrupted: Interrupted
) -> None:
    clock = FixedClock()
    await _keeper(rows, clock).put(running(expires_ms=NOW_MS + 1000))
    clock.advance(1000)
    interrupted.meanwhile = lambda: _keeper(rows, clock).put(response())
    await _keeper(interrupted, clock).put(running())
    assert (await _keeper(rows, clock).get(ACME, "resp_1")).status is ResponseStatus.COMPLETED
    assert _sums_are_right(tmp_path)


async def test_a_sign_of_life_that_comes_before_the_verdict_saves_the_response(rows: ResponseRows) -> None:
    clock = FixedClock()

    class Beaten(ResponseRows):
        async def move(self, tenant: TenantId, response_id: str, *rest: Any) -> None:
            assert await rows.beat(tenant, response_id, clock.now_ms())
            await super().move(tenant, response_id, *rest)

    late = Beaten(rows._engine)
    await _keeper(rows, clock).put(running())
    clock.advance(30_001)
    assert (await _keeper(late, clock).get(ACME, "resp_1")).status is ResponseStatus.IN_PROGRESS


async def test_a_response_that_ends_while_it_is_cancelled_is_answered_as_it_ended(rows: ResponseRows) -> None:
    class Ending(ResponseRows):
        async def move(self, *arguments: Any) -> None:
            await _keeper(rows).put(response(background=True))
            await super().move(*arguments)

    await _keeper(rows).put(running())
    found = await _keeper(Ending(rows._engine)).cancel(ACME, "resp_1")
    assert (found.status, found.body["status"]) == (ResponseStatus.COMPLETED, "completed")


@pytest.mark.parametrize("seed", range(3))
async def test_replicas_that_write_at_once_agree_on_one_end_and_on_the_sums(
    tmp_path: Path, open_rows: Open, seed: int
) -> None:
    replicas = [_keeper(await open_rows()) for _ in range(2)]
    ends = [response(background=True, input=("x" * (seed + 1) * 100,)), response(status="failed", background=True)]
    calls: list[Coroutine[Any, Any, object]] = []
    for turn in range(6):
        kept = replicas[turn % 2]
        calls.append(kept.put(running(input=("y" * turn * 50,))))
        calls.append(kept.put(ends[(turn + seed) % 2]))
    await asyncio.gather(*calls)
    found = await replicas[0].get(ACME, "resp_1")
    assert found.status.final
    assert found == await replicas[1].get(ACME, "resp_1")
    assert _sums_are_right(tmp_path)


async def test_replicas_together_never_pass_the_quota(tmp_path: Path, open_rows: Open) -> None:
    replicas = [_keeper(await open_rows(), max_responses_per_tenant=3) for _ in range(2)]
    done = await asyncio.gather(
        *(replicas[turn % 2].put(response(f"resp_{turn}")) for turn in range(8)), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in done) == ["NoneType"] * 3 + ["QuotaExceeded"] * 5
    assert _read(tmp_path, "SELECT responses FROM response_totals") == [(3,)]
    assert _sums_are_right(tmp_path)


# --- quotas ------------------------------------------------------------------------------------------------------


async def test_a_tenant_above_a_lowered_quota_may_still_replace_by_less(rows: ResponseRows) -> None:
    await _keeper(rows).put(running("resp_1", input=("x" * 5000,)))
    await _keeper(rows).put(response("resp_2"))
    lowered = _keeper(rows, max_responses_per_tenant=1, max_bytes_per_tenant=1024)
    await lowered.put(response("resp_1", background=True))
    assert (await lowered.get(ACME, "resp_1")).status is ResponseStatus.COMPLETED
    with pytest.raises(QuotaExceeded):
        await lowered.put(response("resp_3"))


async def test_a_response_whose_time_is_over_is_not_stored(tmp_path: Path, rows: ResponseRows) -> None:
    await _keeper(rows).put(response(expires_ms=NOW_MS))
    assert _read(tmp_path, "SELECT * FROM responses") == []


async def test_a_refused_response_leaves_no_trace_in_the_sums(tmp_path: Path, rows: ResponseRows) -> None:
    await _keeper(rows).put(response("resp_1"))
    with pytest.raises(QuotaExceeded):
        await _keeper(rows, max_responses_per_tenant=1).put(response("resp_2"))
    assert _read(tmp_path, "SELECT response_id FROM responses") == [("resp_1",)]
    assert _sums_are_right(tmp_path)


async def test_a_first_response_beyond_the_quota_is_refused(rows: ResponseRows) -> None:
    with pytest.raises(QuotaExceeded):
        await _keeper(rows, max_bytes_per_tenant=100).put(response())


async def test_the_store_is_smaller_than_what_it_is_charged_for(tmp_path: Path, rows: ResponseRows) -> None:
    large = response(input=(message("user", "the same words " * 10_000),))
    await _keeper(rows).put(large)
    [(charged, stored)] = _read(tmp_path, "SELECT bytes, length(frame) + length(output) + length(input) FROM responses")
    assert charged == pack(large, SETTINGS).bytes > 150_000
    assert stored < 5_000


# --- the sweep ---------------------------------------------------------------------------------------------------


async def test_the_sweep_removes_what_expired_and_nothing_else(tmp_path: Path, rows: ResponseRows) -> None:
    clock = FixedClock()
    kept = _keeper(rows, clock)
    for tenant in (ACME, GLOBEX):
        await kept.put(response("resp_1", tenant=tenant, expires_ms=NOW_MS + 1000))
        await kept.put(running("resp_2", tenant=tenant, expires_ms=NOW_MS + 1000))
        await kept.put(response("resp_3", tenant=tenant, expires_ms=NOW_MS + 1001))
        await kept.put(response("resp_4", tenant=tenant, expires_ms=NOW_MS + 1001))
        await kept.delete(tenant, "resp_1")
        await kept.delete(tenant, "resp_3")
    clock.advance(1000)
    assert await kept.sweep() == 4
    assert _read(tmp_path, "SELECT DISTINCT response_id FROM responses") == [("resp_3",), ("resp_4",)]
    assert _sums_are_right(tmp_path)


async def test_nothing_to_sweep_is_nothing_swept(rows: ResponseRows) -> None:
    await _keeper(rows).put(response())
    assert await _keeper(rows).sweep() == 0


async def test_one_sweep_removes_so_much_and_the_next_one_the_rest(
    rows: ResponseRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "SWEEP_ROWS", 2)
    monkeypatch.setattr(keeper_module, "SWEEP_BATCHES", 2)
    clock = FixedClock()
    kept = _keeper(rows, clock)
    for turn in range(7):
        await kept.put(response(f"resp_{turn}", expires_ms=NOW_MS + 1000 + turn))
    clock.advance(2000)
    assert [await kept.sweep(), await kept.sweep(), await kept.sweep()] == [4, 3, 0]
    assert _sums_are_right(tmp_path)


async def test_replicas_that_sweep_at_once_count_every_row_once(tmp_path: Path, open_rows: Open) -> None:
    clock = FixedClock()
    replicas = [_keeper(await open_rows(), clock) for _ in range(2)]
    for turn in range(5):
        await replicas[0].put(response(f"resp_{turn}", expires_ms=NOW_MS + 1000))
    clock.advance(1000)
    assert sum(await asyncio.gather(*(kept.sweep() for kept in replicas))) == 5
    assert _sums_are_right(tmp_path)


async def test_a_full_tenant_is_swept_before_it_is_refused(rows: ResponseRows, tmp_path: Path) -> None:
    clock = FixedClock()
    kept = _keeper(rows, clock, max_responses_per_tenant=1)
    await kept.put(response("resp_1", expires_ms=NOW_MS + 1000))
    await kept.put(response("resp_1", tenant=GLOBEX, expires_ms=NOW_MS + 1000))
    clock.advance(1000)
    await kept.put(response("resp_2"))
    assert _read(tmp_path, "SELECT tenant, response_id FROM responses ORDER BY tenant") == [
        ("acme", "resp_2"),
        ("globex", "resp_1"),
    ]


# --- what is asked and what is told ------------------------------------------------------------------------------


async def test_every_statement_on_responses_names_the_tenant(rows: ResponseRows) -> None:
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(" ".join(statement.split()))

    event.listen(rows._engine.sync_engine, "before_cursor_execute", note)
    clock = FixedClock()
    kept = _keeper(rows, clock, max_responses_per_tenant=4)
    for each in (running("resp_1"), running("resp_2"), response("resp_3"), response("resp_4", previous_id="resp_3")):
        await kept.put(each)
    await kept.put(running("resp_1"))
    await kept.get(ACME, "resp_1")
    await kept.beat(ACME, "resp_1")
    await kept.cancel(ACME, "resp_1")
    await kept.conversation(ACME, "resp_4")
    await kept.delete(ACME, "resp_1")
    clock.advance(31_000)
    await kept.get(ACME, "resp_2")
    clock.advance(3_600_000)
    await kept.put(response("resp_2", created_ms=clock.now_ms()))
    await kept.sweep()
    changing = [each for each in statements if re.match(r"(SELECT|UPDATE|DELETE|WITH)", each)]
    kinds = {each.split()[0] for each in changing}
    unscoped = {each for each in changing if not re.search(r"tenant = \?", each)}
    assert kinds == {"SELECT", "UPDATE", "DELETE", "WITH"}
    # The sweep asks whose turn it is, and learns no more than that.
    assert len(unscoped) == 1
    assert unscoped.pop().startswith("SELECT responses.tenant FROM responses WHERE responses.expires_ms <= ?")


def _broken(error: Exception) -> Callable[..., None]:
    def fail(*_arguments: object) -> None:
        raise error

    return fail


SECRET = "the words of a client"
CALLS: dict[str, Callable[[ResponseKeeper], Awaitable[object]]] = {
    "put": lambda kept: kept.put(response()),
    "get": lambda kept: kept.get(ACME, "resp_1"),
    "delete": lambda kept: kept.delete(ACME, "resp_1"),
    "cancel": lambda kept: kept.cancel(ACME, "resp_1"),
    "beat": lambda kept: kept.beat(ACME, "resp_1"),
    "conversation": lambda kept: kept.conversation(ACME, "resp_1"),
    "sweep": lambda kept: kept.sweep(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [OperationalError(SECRET, (SECRET,), Exception(SECRET)), OSError(SECRET)])
async def test_a_database_that_fails_is_unavailable_and_its_text_goes_nowhere(
    rows: ResponseRows, call: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    event.listen(rows._engine.sync_engine, "before_cursor_execute", _broken(error))
    with caplog.at_level(logging.DEBUG, "gatehouse"), pytest.raises(PartUnavailable) as caught:
        await CALLS[call](_keeper(rows))
    assert SECRET not in str(caught.value) + caplog.text
    assert caught.value.__suppress_context__
    assert not await _keeper(rows).ready()


@pytest.mark.parametrize("column", ["frame", "output", "input"])
async def test_a_damaged_row_is_unavailable(tmp_path: Path, rows: ResponseRows, column: str) -> None:
    await _keeper(rows).put(response())
    with sqlite3.connect(tmp_path / "responses.db") as connection:
        connection.execute(f"UPDATE responses SET {column} = x'00'")  # noqa: S608
    connection.close()
    with pytest.raises(PartUnavailable):
        await _keeper(rows).get(ACME, "resp_1")


async def test_a_store_that_always_loses_gives_up(rows: ResponseRows) -> None:
    class Losing(ResponseRows):
        async def standing(self, tenant: TenantId, response_id: str) -> Standing | None:
            return Standing(keeper_module.State.IN_PROGRESS, NOW_MS + 1, 7)

    losing = _keeper(Losing(rows._engine))
    late: StoredResponse = response()
    with pytest.raises(PartUnavailable):
        await losing.put(late)
    with pytest.raises(PartUnavailable):
        await losing.delete(ACME, "resp_1")


def test_settings_are_strict() -> None:
    with pytest.raises(ValueError, match="ttl_s"):
        ResponsesSettings.model_validate({"ttl_s": "3600"})
    with pytest.raises(ValueError, match="unknown"):
        ResponsesSettings.model_validate({"unknown": 1})
    with pytest.raises(ValueError, match="ttl_s"):
        ResponsesSettings(ttl_s=366 * 86_400)
