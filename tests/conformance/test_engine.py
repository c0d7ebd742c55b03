"""One answer per client from a real engine: the demonstration models on CPU, through the router."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.config import load_serve_file
from serve_app.prepare import prepare
from tests.conformance.cases import COMMAND_LINES
from tests.conformance.counter import Counter
from tests.conformance.drivers import Clients, Place, fresh_home
from tests.conformance.results import Results
from tests.serve.conftest import CONFIG, ROOT, Stack, free_port, start, stop, write_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    os.chdir(ROOT)
    prepared = dict(prepare(load_serve_file(CONFIG).app))
    folder = tmp_path_factory.mktemp("demo")
    port = free_port()
    config = write_config(folder, prepared, port)
    running = start(config, port, folder / "state", folder / "output.txt")
    yield running
    stop(running.process)


@pytest.fixture(scope="module")
def front(demo: Stack) -> Iterator[Counter]:
    counter = Counter("127.0.0.1", int(demo.url.rpartition(":")[2]))
    yield counter
    counter.close()


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_a_client_gets_an_answer_from_an_engine(
    name: str, demo: Stack, front: Counter, clients: Clients, results: Results, tmp_path: Path
) -> None:
    with results.case(name, "engine") as row:
        client = clients[name]
        row.version = client.version()
        folder = fresh_home(tmp_path / "work")
        mark = front.mark()
        place = Place(fresh_home(tmp_path / "home"), folder, front.url, demo.key, "auto")
        ran = client.run(place, "Who are you?", client.configure(place))
        sent = [each for each in front.generating(mark) if each.model == place.model]
        row.requests, row.statuses = len(sent), [each.status for each in sent]
        row.exit_code, row.seconds = ran.exit_code, round(ran.seconds, 1)
        if name == "claude-code":  # its first request alone is longer than the window of the demonstration models
            assert row.statuses == [400]
            assert "too long" in ran.text
        else:
            assert ran.exit_code == 0
            assert set(row.statuses) == {200}
            assert ran.output.strip()
