import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.unit.gate.databases import binaries, private_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of this run alone; its databases are made by `fresh_database`."""
    programs = binaries()
    if programs is None:
        pytest.skip("there is no PostgreSQL server on this machine (initdb was not found): apt-get install postgresql")
    with private_postgres(programs) as url:
        yield url


@pytest.fixture
async def told_workers() -> AsyncIterator[None]:
    """Keeps the loop until aiosqlite's threads of this test have told it that they ended.

    One that could not open its file, or whose caller was cancelled, ends after the call; a closed loop cannot be told.
    """
    before = set(threading.enumerate())
    yield
    while any("_connection_worker_thread" in each.name for each in set(threading.enumerate()) - before):
        await asyncio.sleep(0.01)
