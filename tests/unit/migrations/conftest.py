from pathlib import Path

import pytest
from sqlalchemy import make_url

from deployments.store import sqlite_url
from tests.unit.gate.databases import fresh_database


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, as the configuration would have it."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "store.db")
    return fresh_database(request.getfixturevalue("postgres"))


@pytest.fixture
def another_url(url: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A second one of the same kind."""
    if make_url(url).get_backend_name() == "sqlite":
        return sqlite_url(tmp_path / "other.db")
    return fresh_database(request.getfixturevalue("postgres"))
