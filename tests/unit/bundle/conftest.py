import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.bundle.tiny import VOCABULARY, World, copy_of, write_key, write_world


@pytest.fixture(scope="session")
def tiny_vocabulary() -> Iterator[None]:
    """For the tests here a vocabulary of one token is the right one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve_app.demo.vocabulary.VOCABULARY_SHA256", hashlib.sha256(VOCABULARY).hexdigest())
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_vocabulary: None) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def made(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that no test changes."""
    target = tmp_path_factory.mktemp("made") / "bundle"
    world.make(target)
    return target


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return copy_of(made, tmp_path)


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public key of somebody else."""
    return write_key(tmp_path_factory.mktemp("stranger"), "stranger")[2]
