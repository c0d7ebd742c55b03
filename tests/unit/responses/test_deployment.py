import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from deployments.clients import ResponsesClient
from deployments.clock import FixedClock
from deployments.errors import NotFound, PartUnavailable
from deployments.ports import Responses, ResponseStatus
from deployments.responses.deployment import ResponseStore
from deployments.store import sqlite_url
from tests.unit.responses.samples import ACME, NOW_MS, SETTINGS, response, running


class Method:
    """What a handle's attribute looks like."""

    def __init__(self, call: Any) -> None:
        self.remote = call


class Handle:
    """A handle on a deployment that lives here."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self._target, name))


def _store(directory: Path, clock: FixedClock | None = None) -> ResponseStore:
    return ResponseStore(sqlite_url(directory / "responses.db"), SETTINGS, clock or FixedClock())


def _rows(directory: Path) -> int:
    connection = sqlite3.connect(directory / "responses.db")
    [(rows,)] = connection.execute("SELECT count(*) FROM responses").fetchall()
    connection.close()
    return int(rows)


async def test_the_client_asks_every_question_of_the_port(tmp_path: Path) -> None:
    store = _store(tmp_path)
    client: Responses = ResponsesClient(Handle(store), 30.0)
    assert await client.ready()
    await client.put(running("resp_1"))
    await client.put(response("resp_2"))
    assert await client.beat(ACME, "resp_1")
    assert (await client.cancel(ACME, "resp_1")).status is ResponseStatus.CANCELLED
    assert (await client.get(ACME, "resp_2")).response_id == "resp_2"
    assert len(await client.conversation(ACME, "resp_2")) == 2
    await client.delete(ACME, "resp_2")
    with pytest.raises(NotFound):
        await client.get(ACME, "resp_2")
    await store.close()


async def test_first_calls_that_come_at_once_share_one_opening(tmp_path: Path) -> None:
    store = _store(tmp_path)
    await asyncio.gather(*(store.put(response(f"resp_{turn}")) for turn in range(3)), store.check_health())
    assert _rows(tmp_path) == 3
    await store.close()


@pytest.mark.usefixtures("told_workers")
async def test_a_store_that_could_not_open_is_unhealthy_and_tries_again(tmp_path: Path) -> None:
    (tmp_path / "responses.db").mkdir()
    store = _store(tmp_path)
    with pytest.raises(PartUnavailable):
        await store.check_health()
    (tmp_path / "responses.db").rmdir()
    await store.check_health()
    await store.put(response())
    await store.close()


async def test_a_store_sweeps_what_expired_while_it_was_down(tmp_path: Path) -> None:
    clock = FixedClock()
    first = _store(tmp_path, clock)
    await first.put(response(expires_ms=NOW_MS + 1000))
    await first.close()
    clock.advance(1000)
    second = _store(tmp_path, clock)
    await second.check_health()
    async with asyncio.timeout(30):
        while _rows(tmp_path):
            await asyncio.sleep(0.02)
    await second.check_health()
    await second.close()
