from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.clock import FixedClock
from deployments.ports import Responses
from deployments.responses.keeper import ResponseKeeper
from deployments.responses.settings import ResponsesSettings
from deployments.responses.store import ResponseRows
from deployments.store import open_store, sqlite_url
from tests.fakes_responses import InMemoryResponses
from tests.unit.responses.samples import SETTINGS


@dataclass
class World:
    """A store and its clock. `make` opens another one under other settings, on the same data where there is some."""

    kept: Responses
    clock: FixedClock
    make: Callable[[ResponsesSettings], Responses]


@pytest.fixture
async def open_rows(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[ResponseRows]]]:
    """Opens the tables of one file; each call is a process of its own, as far as the database can tell."""
    opened: list[ResponseRows] = []

    async def make() -> ResponseRows:
        opened.append(ResponseRows(open_store(sqlite_url(tmp_path / "responses.db"))))
        await opened[-1].open()
        return opened[-1]

    yield make
    for rows in opened:
        await rows.close()


@pytest.fixture
async def rows(open_rows: Callable[[], Awaitable[ResponseRows]]) -> ResponseRows:
    return await open_rows()


@pytest.fixture(params=["database", "memory"])
async def world(request: pytest.FixtureRequest, rows: ResponseRows) -> World:
    clock = FixedClock()

    def make(settings: ResponsesSettings) -> Responses:
        if request.param == "memory":
            return InMemoryResponses(clock, settings)
        return ResponseKeeper(rows, clock, settings)

    return World(make(SETTINGS), clock, make)
