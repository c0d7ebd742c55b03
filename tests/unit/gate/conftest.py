from pathlib import Path

import pytest

from deployments.gate.bundle import load_bundle
from deployments.gate.classify import Classifier
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import ShellReader
from deployments.store import sqlite_url
from tests.unit.gate.databases import fresh_database


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture(scope="session")
def classifier(bundle: Bundle) -> Classifier:
    # A busy machine must not turn a slow parser into a test that passes for the wrong reason.
    return Classifier(bundle, ShellReader(timeout_s=20.0))


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "gate.db")
    return fresh_database(request.getfixturevalue("postgres"))
