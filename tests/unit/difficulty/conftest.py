from pathlib import Path

import pytest

from deployments.store import sqlite_url
from tests.unit.gate.databases import fresh_database


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "router.db")


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "router.db")
    return fresh_database(request.getfixturevalue("postgres"))
