"""Gatehouse with a scripted upstream behind it and a counting proxy before it, once for the whole tier."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from serve_app.config import ROOT, load_serve_file
from serve_app.prepare import vocabulary_dir
from tests.conformance.counter import Counter
from tests.conformance.drivers import Clients, Place, fresh_home
from tests.conformance.house import House
from tests.conformance.results import Results
from tests.conformance.task import Task
from tests.conformance.upstream import LARGE, SMALL, WINDOW, Upstream
from tests.serve.conftest import CONFIG, free_port, start, stop

NOTE = "the note says 4713"
MOST_OPEN = 6
"""Requests a key may have open at once in this tier."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "conformance: the real clients against a scripted model server (minutes)")
    config.addinivalue_line("markers", "slow: starts the demonstration engines as well")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.conformance)
            item.add_marker(pytest.mark.timeout(900))
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture(scope="session")
def house(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    workspaces = folder / "workspaces"
    workspaces.mkdir()
    port = free_port()
    config = write_config(folder, upstream.url, port, workspaces)
    stack = start(config, port, folder / "state", folder / "output.txt")
    front = Counter("127.0.0.1", port)
    yield House(stack, upstream, front, workspaces)
    front.close()
    stop(stack.process)


def write_config(folder: Path, upstream_url: str, port: int, workspaces: Path) -> Path:
    """Profile S with kind `openai` for both tiers. The breaker stays closed: the cases break things on purpose."""

    def model(tier: str, name: str, there: str) -> dict[str, object]:
        patient = {"first_byte_s": 1000.0, "read_s": 1000.0, "request_deadline_s": 1200.0}
        return {
            "tier": tier,
            "engine": {
                "kind": "openai", "model": name, "revision": "scripted-1", "base_url": upstream_url,
                "upstream_model": there, "max_model_len": WINDOW, "breaker": {"failures": 10_000}, **patient,
            },
        }  # fmt: skip

    arguments: dict[str, object] = {
        "profile": "s",
        "state_dir": str(folder / "state"),
        "vocabulary_dir": str(vocabulary_dir(load_serve_file(CONFIG).app)),
        "models": [model("20b", "gpt-oss-20b", SMALL), model("120b", "gpt-oss-120b", LARGE)],
        "tenancy": {"max_concurrent_requests": MOST_OPEN},
        "gate": {"bundle": str(write_policy(folder, workspaces))},
    }
    document = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {"name": "gatehouse", "route_prefix": "/", "import_path": "serve_app.app:build", "args": arguments}
        ],
    }
    path = folder / "serve.conformance.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def write_policy(folder: Path, workspaces: Path) -> Path:
    """The default bundle with the line an operator adds: agents work in these folders."""
    policies = folder / "policies"
    shutil.copytree(ROOT / "configs" / "policies", policies)
    targets = policies / "targets.yaml"
    inside = f'{{match: ["{workspaces}", "{workspaces}/*"], env: nonprod, workspace: true}}'
    line = '    - {match: [".", "./*", "/workspace", "/workspace/*"], env: nonprod, workspace: true}\n'
    text = targets.read_text()
    assert line in text
    targets.write_text(text.replace(line, f"{line}    - {inside}\n"))
    return policies / "default.yaml"


@pytest.fixture(scope="session")
def clients() -> Clients:
    return Clients(Path(os.environ.get("GATEHOUSE_CLIENTS", ROOT / ".cache" / "clients")).resolve())


@pytest.fixture(scope="session")
def results() -> Iterator[Results]:
    kept = Results(ROOT / ".cache" / "conformance" / "results.json")
    yield kept
    kept.write()


@pytest.fixture
def task(house: House, clients: Clients, results: Results, tmp_path: Path):
    @contextmanager
    def begin(name: str, case: str, *key_options: str, default_timers: bool = False) -> Iterator[Task]:
        with results.case(name, case) as row:
            client = clients[name]
            row.version = client.version()
            folder = house.workspace(f"{case}-{name}")
            (folder / "note.txt").write_text(NOTE)
            (folder / "doomed.txt").write_text("doomed")
            key = house.key(f"{case}-{name}", *key_options)
            place = Place(fresh_home(tmp_path / "home"), folder, house.front.url, key, default_timers=default_timers)
            yield Task(house, client, row, folder, place, house.front.mark())

    return begin
