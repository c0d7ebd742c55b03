from collections.abc import Iterator

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
