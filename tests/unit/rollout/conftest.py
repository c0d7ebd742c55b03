from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.rollout.store import RolloutStore
from deployments.store import open_store, sqlite_url
from tests.unit.gate.databases import fresh_database


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A database with the tables of rollouts."""
    if request.param == "sqlite":
        url = sqlite_url(tmp_path / "rollout.db")
    else:
        url = fresh_database(request.getfixturevalue("postgres"))
    engine = open_store(url)
    await RolloutStore(engine).open()
    yield engine
    await engine.dispose()
