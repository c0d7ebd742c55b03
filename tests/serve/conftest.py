"""The real thing: `gatehouse up` in a process of its own, with real engines on CPU, once for the whole tier."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import pytest
import yaml

from serve_app.config import ROOT, load_serve_file
from serve_app.prepare import models_dir, prepare, vocabulary_dir

CONFIG = ROOT / "configs" / "serve.local.yaml"
_START_S = 600.0
_STOP_S = 90.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.serve)
            item.add_marker(pytest.mark.timeout(900))
            item.add_marker(pytest.mark.filterwarnings("default"))  # vLLM's imports warn about a lot


@pytest.fixture(scope="session")
def prepared() -> dict[str, str]:
    """Model name -> expanded checkpoint, kept in the checkout's .gatehouse between runs."""
    os.chdir(ROOT)
    return dict(prepare(load_serve_file(CONFIG).app))


@pytest.fixture(scope="session")
def demo_models(prepared: dict[str, str]) -> dict[str, Path]:
    return {name: Path(path) for name, path in prepared.items()}


@pytest.fixture(scope="session", name="vocabulary_dir")
def _vocabulary_dir(prepared: dict[str, str]) -> Path:
    del prepared
    return vocabulary_dir(load_serve_file(CONFIG).app)


def free_port() -> int:
    """A port that nobody is given by accident: below the ephemeral range, so that the ingress serves it directly."""
    for port in random.sample(range(10_000, 30_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


@dataclass
class Stack:
    """A running Gatehouse."""

    url: str
    key: str
    state: Path
    config: Path
    process: "subprocess.Popen[str]"
    output: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "GATEHOUSE_URL": self.url, "GATEHOUSE_STATE_DIR": str(self.state)}

    def cli(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "serve_app", *arguments], capture_output=True, text=True, timeout=120, check=check,
            env=self.environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def sdk(self) -> openai.OpenAI:
        return openai.OpenAI(api_key=self.key, base_url=f"{self.url}/v1", max_retries=0, timeout=120)

    def http(self, **headers: str) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}", **headers}, timeout=120)

    def operator(self) -> httpx2.Client:
        key = (self.state / "operator.key").read_text().strip()
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=60)

    def engines(self) -> dict[str, dict]:
        with self.operator() as http:
            return {each["model"]: each for each in http.get("/v1/admin/engines").raise_for_status().json()["data"]}


def write_config(folder: Path, prepared: dict[str, str], port: int) -> Path:
    """The local profile with a state directory of its own; vocabulary and checkpoints are shared."""
    document = yaml.safe_load(CONFIG.read_text())
    app = load_serve_file(CONFIG).app
    state = folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    (state / "models").symlink_to(models_dir(app))
    (state / "vocabulary").symlink_to(vocabulary_dir(app))
    del prepared
    document["http_options"]["port"] = port
    document["applications"][0]["args"]["state_dir"] = str(state)
    config = folder / "serve.test.yaml"
    config.write_text(yaml.safe_dump(document))
    return config


def start(config: Path, port: int, state: Path, output: Path) -> Stack:
    with output.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve_app", "up", "--config", str(config)], stdout=sink, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, text=True, start_new_session=True, env={**os.environ, "COLUMNS": "400"},
        )  # fmt: skip
    deadline = time.monotonic() + _START_S
    while "is ready" not in output.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            stop(process)
            pytest.fail(f"gatehouse up did not start:\n{output.read_text()}")
        time.sleep(0.3)
    key = re.search(r"\bgh-\S+", output.read_text())
    return Stack(f"http://127.0.0.1:{port}", key.group(0) if key else "", state, config, process, output)


def stop(process: "subprocess.Popen[str]") -> int:
    """Ctrl-C, then wait; whatever is left of the process group is killed and counted against the test."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
    return process.returncode


def processes_of(session: int) -> list[str]:
    """Command lines of what still runs in a process session (zombies do not run)."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if int(stat[3]) == session and stat[0] != "Z":
            found.append(command)
    return found


def wait_gone(session: int) -> None:
    deadline = time.monotonic() + 60
    while left := processes_of(session):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.2)


@pytest.fixture(scope="session")
def stack(prepared: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    port = free_port()
    config = write_config(folder, prepared, port)
    running = start(config, port, folder / "state", folder / "output.txt")
    yield running
    code = stop(running.process)
    assert code == 0, running.output.read_text()
    assert running.output.read_text().endswith("stopped.\n")
    wait_gone(running.process.pid)
