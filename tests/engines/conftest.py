"""Real engines: the adapter's contract, a tier that scales, weights that are rolled out. Minutes, hence a tier."""

from pathlib import Path

import pytest

from tests.serve.conftest import _vocabulary_dir, demo_models, prepared

__all__ = ["_vocabulary_dir", "demo_models", "prepared"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.engines)
            item.add_marker(pytest.mark.timeout(900))
            item.add_marker(pytest.mark.filterwarnings("default"))  # vLLM's imports warn about a lot
