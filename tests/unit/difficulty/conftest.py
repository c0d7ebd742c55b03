from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.store import sqlite_url
from tests.unit.gate.databases import binaries, fresh_database, private_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
    with private_postgres(programs) as url:
        yield url


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "router.db")


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "router.db")
    return fresh_database(request.getfixturevalue("postgres"))
