"""One Gatehouse after the other, for each kind of database; every test has a tenant of its own in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tenants.databases import server
from tests.tenants.graph import Graph, running
from tests.unit.gate.databases import binaries, fresh_database


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.tenants)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        with running(folder, None, None) as made:
            yield made
        return
    programs = binaries()
    if programs is None:
        pytest.skip("there is no PostgreSQL server on this machine (initdb was not found)")
    with server(programs) as postgres, running(folder, postgres, fresh_database(postgres.url)) as made:
        yield made
