"""`gatehouse up` where Ray has trouble: an agent that is slow to start, and one that ends.

Ray's agents are Python: what they are to do is in a `sitecustomize` of theirs alone.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.serve.conftest import free_port, write_config
from tests.serve.test_graph import wait_until

LATE = "time.sleep(3600)"
ENDS = "threading.Thread(target=wait_and_end, daemon=True).start()"
SITE = """import os, sys, threading, time

def wait_and_end():
    while not os.path.exists({signal!r}):
        time.sleep(0.05)
    os._exit(3)

if any(each.endswith("dashboard/agent.py") for each in sys.orig_argv):
    {does}
"""


@dataclass
class Started:
    process: "subprocess.Popen[bytes]"
    output: Path
    ray: Path

    def wait_for_ray(self) -> None:
        wait_until(lambda: "local, logs in" in self.output.read_text() or self.process.poll() is not None, 300)
        assert "local, logs in" in self.output.read_text()

    def family(self) -> list[psutil.Process]:
        """Every process of this start, whoever its parent is now: each of Ray's names the folder of this test."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                said = [*process.cmdline(), process.environ().get("RAY_TMPDIR", "")]
            except psutil.Error:
                continue
            if process.pid != self.process.pid and any(str(self.ray) in each for each in said):
                found.append(process)
        return found


@pytest.fixture(name="starting")
def _starting(
    prepared: dict[str, str], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("up")
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(signal=str(folder / "end"), does=request.param))
    port = free_port()
    config = write_config(folder, prepared, port)
    ray = tmp_path_factory.mktemp("r")  # short: Ray's sockets lie in it
    environment = {**os.environ, "COLUMNS": "400", "PYTHONPATH": str(site), "RAY_TMPDIR": str(ray)}
    output = folder / "output.txt"
    with output.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve_app", "up", "--config", str(config)], stdout=sink, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
    started = Started(process, output, ray)
    yield started
    for each in [*started.family(), process]:
        each.kill()
    process.wait()


@pytest.mark.parametrize("starting", [LATE], ids=["late"], indirect=True)
def test_ray_comes_up_without_waiting_for_its_agent(starting: Started) -> None:
    starting.wait_for_ray()
    starting.process.send_signal(signal.SIGTERM)
    assert starting.process.wait(300) == 0, starting.output.read_text()
    assert starting.output.read_text().endswith("stopping ...\nstopped.\n")
    assert "SIGTERM" not in starting.output.read_text()
    assert starting.family() == []


@pytest.mark.parametrize("starting", [ENDS], ids=["ends"], indirect=True)
def test_a_node_that_ends_during_the_start_is_the_end_of_it(starting: Started) -> None:
    starting.wait_for_ray()
    (starting.output.parent / "end").touch()
    assert starting.process.wait(300) == 1, starting.output.read_text()
    assert "raylet" in starting.output.read_text()
    wait_until(lambda: starting.family() == [], 60)
