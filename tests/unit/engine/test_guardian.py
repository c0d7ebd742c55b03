import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.engine import guardian
from deployments.engine.guardian import Guardian, started

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
]


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEP)
    yield process
    process.kill()
    process.wait()


def replica(victim: subprocess.Popen[bytes], last_words: str) -> None:
    """A process that guards `victim` and then ends as `last_words` say."""
    code = (
        f"import os, sys; from deployments.engine.guardian import Guardian; g = Guardian([{victim.pid}]); {last_words}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(guardian.__file__).parents[2], check=False, timeout=30)


def test_a_replica_that_is_killed_takes_its_core_along(victim: subprocess.Popen[bytes]) -> None:
    replica(victim, "os.kill(os.getpid(), 9)")
    assert victim.wait(timeout=30) == -15


def test_a_core_that_ignores_the_request_is_killed() -> None:
    deaf = subprocess.Popen(DEAF, stdout=subprocess.PIPE)
    assert deaf.stdout is not None
    deaf.stdout.readline()
    replica(deaf, "os.kill(os.getpid(), 9)")
    assert deaf.wait(timeout=30) == -9
    deaf.stdout.close()


def test_a_guardian_that_was_released_does_nothing(victim: subprocess.Popen[bytes]) -> None:
    guard = Guardian([victim.pid])
    guard.release()
    guard.release()
    assert victim.poll() is None


def test_a_process_that_got_the_number_of_another_is_left_alone(victim: subprocess.Popen[bytes]) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", guardian.__file__, f"{victim.pid}:1"], input=b"", timeout=30)
    assert done.returncode == 0
    assert victim.poll() is None
    assert started(victim.pid) not in {"", "1"}
