"""The graph of the tier `serve`, started once more for what stops, kills and degrades it."""

from pathlib import Path

import pytest

from tests.serve import conftest

prepared, stack = conftest.prepared, conftest.stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.drills)
            item.add_marker(pytest.mark.timeout(900))
            item.add_marker(pytest.mark.filterwarnings("default"))
