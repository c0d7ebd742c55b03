"""What a drill does to processes: it stops them for a while, and never those of somebody else."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from serve_app.drills import engines, pausing
from serve_app.drills.acting import Actor, DrillRefused, until
from serve_app.drills.engines import engine_of, kill, replaced
from serve_app.drills.pausing import NotPaused, paused

TITLE = "ray::ServeReplica:gatehouse:Engine:demo-20b:r1"


@pytest.fixture
def engine() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that calls itself an engine's replica and does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", TITLE], stdin=subprocess.PIPE)
    title = Path(f"/proc/{process.pid}/cmdline")
    assert until(lambda: TITLE.encode() in title.read_bytes(), 30, 0.01)  # it has none for a moment after it was made
    yield process
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.communicate()


def state(pid: int) -> str:
    """T: stopped, Z: dead."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def actor(rows: list[dict[str, Any]]) -> Actor:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/v1/admin/engines"
        return httpx2.Response(200, json={"data": rows})

    return Actor(httpx2.Client(base_url="http://gatehouse", transport=httpx2.MockTransport(answer)), "gh-key")


def row(pid: int, **changes: Any) -> dict[str, Any]:
    told = {"model": "demo-20b", "revision": "r1", "kind": "vllm", "state": "ready", "pid": pid, "core_pids": []}
    return told | changes


def test_a_pause_ends_with_its_block(engine: "subprocess.Popen[bytes]") -> None:
    with paused([engine.pid], 60):
        assert until(lambda: state(engine.pid) == "T", 30)
    assert until(lambda: state(engine.pid) != "T", 30)


def test_a_pause_ends_by_itself(engine: "subprocess.Popen[bytes]") -> None:
    with paused([engine.pid], 0.2):
        assert until(lambda: state(engine.pid) != "T", 30)


def test_a_pause_ends_with_a_drill_that_is_killed(engine: "subprocess.Popen[bytes]") -> None:
    script = (
        "import sys\nfrom serve_app.drills.pausing import paused\n"
        "with paused([int(sys.argv[1])], 600):\n    print('paused', flush=True)\n    sys.stdin.read()\n"
    )
    drill = subprocess.Popen(
        [sys.executable, "-c", script, str(engine.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=Path(pausing.__file__).parents[2],
    )  # fmt: skip
    assert drill.stdout is not None
    assert drill.stdout.readline() == b"paused\n"
    assert until(lambda: state(engine.pid) == "T", 30)
    drill.kill()
    drill.communicate()
    assert until(lambda: state(engine.pid) != "T", 30)


def test_what_is_not_there_cannot_be_paused(engine: "subprocess.Popen[bytes]") -> None:
    engine.kill()
    engine.wait()
    with pytest.raises(NotPaused), paused([engine.pid], 60):
        pytest.fail("it was not stopped")


def test_an_engine_is_killed_and_its_successor_is_found(engine: "subprocess.Popen[bytes]") -> None:
    rows = [row(engine.pid)]
    operator = actor(rows)
    found = engine_of(operator, None)
    assert (found.pid, found.computing) == (engine.pid, (engine.pid,))
    kill(found)
    assert engine.wait(30) == -signal.SIGKILL
    assert replaced(operator, found) is None
    rows[:] = [{"model": "demo-20b", "state": "down"}]
    assert replaced(operator, found) is None
    rows[:] = [row(engine.pid + 1)]
    after = replaced(operator, found)
    assert after is not None
    assert after.pid == engine.pid + 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "demo-120b"}, "does not run on this machine"),
        ({"revision": "r2"}, "does not run on this machine"),
        ({"pid": 2**22 + 1}, "does not run on this machine"),
        ({"core_pids": [2**22 + 1]}, "does not run on this machine"),
        ({"kind": "openai"}, "another server"),
        ({"state": "down"}, "is down already"),
    ],
    ids=["another model", "another revision", "another machine", "another core", "another server", "down"],
)
def test_no_process_is_touched_that_is_not_the_engines(
    engine: "subprocess.Popen[bytes]", changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(DrillRefused, match=said):
        engine_of(actor([row(engine.pid) | changes]), None)
    assert engine.poll() is None


def test_no_process_of_another_account_is_touched(
    engine: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(DrillRefused, match="another account"):
        engine_of(actor([row(engine.pid)]), None)


def test_a_process_that_took_the_number_of_the_engine_is_not_killed(engine: "subprocess.Popen[bytes]") -> None:
    found = engine_of(actor([row(engine.pid)]), None)
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with pytest.raises(DrillRefused, match="does not run on this machine"):
            kill(type(found)(found.model, found.revision, found.kind, stranger.pid, ()))
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()


def test_a_model_that_nobody_serves_is_refused() -> None:
    with pytest.raises(DrillRefused, match="no engine serves other"):
        engine_of(actor([row(1)]), "other")
