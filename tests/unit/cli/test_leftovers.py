"""What a command in the foreground leaves behind: nothing, not even itself."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from serve_app.cli.leftovers import LastResort, Process, alive, end, end_all, family

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
PARENT = (
    f"import subprocess, sys; command = [sys.executable, '-c', {SLEEP!r}, *sys.argv[1:]]; "
    "print(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
)


@pytest.fixture(name="sleeper")
def _sleeper() -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


def test_a_child_is_of_the_family_and_ends(sleeper: "subprocess.Popen[str]") -> None:
    found = [each for each in family(os.getpid()) if each.pid == sleeper.pid]
    assert len(found) == 1
    assert alive(found) == found
    assert end(found, 0.0) == 1
    assert sleeper.wait() == -signal.SIGKILL
    assert alive(found) == []


def test_what_has_ended_is_not_killed(sleeper: "subprocess.Popen[str]") -> None:
    found = [each for each in family(os.getpid()) if each.pid == sleeper.pid]
    sleeper.terminate()
    sleeper.wait()
    assert end(found, 60.0) == 0


def test_an_orphan_is_known_by_its_command_line_alone() -> None:
    mark = f"session_of_{os.getpid()}"
    said = subprocess.run([sys.executable, "-c", PARENT, mark], capture_output=True, text=True, check=True, timeout=60)
    orphan = int(said.stdout)
    others = family(os.getpid())
    found = [each for each in family(os.getpid(), mark) if each not in others]
    assert [each.pid for each in found] == [orphan]
    assert end(found, 0.0) == 1
    assert end(found, 60.0) == 0


def test_nobody_is_killed_for_a_number_that_is_used_again(sleeper: "subprocess.Popen[str]") -> None:
    found = [each for each in family(os.getpid()) if each.pid == sleeper.pid]
    former = [type(each)(each.pid, "1") for each in found]
    assert end(former, 0.0) == 0
    assert sleeper.poll() is None


def test_what_is_begun_while_the_others_end_is_ended_too() -> None:
    begun: list[subprocess.Popen[str]] = []

    def look() -> list[Process]:
        if len(begun) < 3:  # a family that has another member at each of the first looks
            begun.append(subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.DEVNULL, text=True))
        ours = {process.pid for process in begun}  # no other test's
        return [each for each in family(os.getpid()) if each.pid in ours]

    end_all((), look, 0.0)
    assert [each.wait(60) for each in begun] == [-signal.SIGKILL] * 3
    assert look() == []


def test_nobody_asks_for_the_family_of_the_system() -> None:
    with pytest.raises(ValueError, match="every process"):
        family(0)


def test_what_is_no_longer_found_is_ended_as_it_was_known(sleeper: "subprocess.Popen[str]") -> None:
    known = [each for each in family(os.getpid()) if each.pid == sleeper.pid]
    end_all(known, list, 0.0)
    assert sleeper.wait(60) == -signal.SIGKILL


class _Finished:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.event = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.event.set()


def test_the_last_resort_comes_with_its_reason() -> None:
    finished = _Finished()
    LastResort(finished, look_s=0.001).watch(lambda: "too late")
    assert finished.event.wait(60)
    assert finished.reasons == ["too late"]


def test_the_last_resort_waits_for_a_reason_and_asks_again() -> None:
    finished, asked = _Finished(), iter([None, None, "too late"])
    LastResort(finished, look_s=0.001).watch(lambda: next(asked))
    assert finished.event.wait(60)
    assert finished.reasons == ["too late"]


def test_the_last_resort_leaves_a_phase_that_is_over_alone() -> None:
    finished, asked = _Finished(), threading.Event()

    def former() -> str:
        asked.set()
        return "of the former phase"

    resort = LastResort(finished, look_s=0.001)
    resort.watch(former, grace_s=3600.0)
    assert asked.wait(60)
    resort.watch(None)
    resort.watch(lambda: "of this phase")
    assert finished.event.wait(60)
    assert finished.reasons == ["of this phase"]
