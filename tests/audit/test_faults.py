"""Every system call of opening and appending fails once: behind the seam on a strict disk, and under strace."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.audit.verify import verify
from tests.unit.audit.faults import FAULTS, calls_of_a_life, live_with_fault
from tests.unit.audit.logs import entries_of, open_log, routed


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A place for the indexes, in memory where there is some: none of them is what is tested here."""
    memory = Path("/dev/shm") / f"audit-faults-{os.getpid()}"  # noqa: S108 - removed below
    folder = memory if memory.parent.is_dir() else tmp_path
    folder.mkdir(exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("power_cut", [False, True], ids=["restart", "power cut"])
@pytest.mark.parametrize("fault", FAULTS)
def test_whichever_call_fails_nothing_acknowledged_is_lost(scratch: Path, fault: str, power_cut: bool) -> None:
    calls = calls_of_a_life(scratch / "clean.db")
    seen: Counter[str] = Counter()
    chosen = [at for at, call in enumerate(calls) if fault != "short" or call == "write"]
    for at in chosen:
        hit, hurt = live_with_fault(at, FAULTS[fault], scratch / f"{at}.db", power_cut)
        assert hit is not None
        seen[f"{hit}: {'stopped' if hurt else 'went on'}"] += 1
    print(fault, dict(sorted(seen.items())))
    assert seen.total() == len(chosen) > 20
    if fault != "short":
        assert seen["fdatasync: went on"] == 0  # nobody goes on after a failed sync of the log
    else:
        assert all(key.endswith("went on") for key in seen)  # a short write is finished, not an error


# --- strace ------------------------------------------------------------------------------------------------------

_WRITER = r"""
import os, sys
from pathlib import Path
from deployments.errors import AuditUnavailable
from tests.unit.audit.logs import open_log, routed
writer = open_log(Path(sys.argv[1]))
for number in range(12):
    events = [routed(number), routed(number + 1)]
    [outcome] = writer.commit([events])
    if isinstance(outcome, AuditUnavailable):
        raise outcome
    for event, receipt in zip(events, outcome):
        os.write(1, f"{event.event_id} {receipt.index} {receipt.leaf_hash.hex()}\n".encode())
writer.record_head()
writer.close()
os.write(1, b"done\n")
"""
# Which errors each call is made to fail with, and every how-many-th of its instances: together some 130 processes.
_ERRORS = {
    "fdatasync": {"EIO": 1, "ENOSPC": 4},
    "fsync": {"EIO": 1},
    "write": {"EIO": 5, "ENOSPC": 12, "EINTR": 12},
    "pwrite64": {"EIO": 2},
    "pread64": {"EIO": 4},
    "openat": {"EIO": 20},
    "getdents64": {"EIO": 8},
    "rename": {"EIO": 1},
    "unlink": {"EIO": 2},
    "mkdir": {"EIO": 1},
    "flock": {"EIO": 1},
    "ftruncate": {"EIO": 1},
    "statfs": {"EIO": 4},
}
_CALL = re.compile(r"^\d+ +(\w+)\(.*", re.MULTILINE)


def _strace(log: Path, trace: Path, *arguments: str) -> tuple[int, list[str], list[str]]:
    """Run the writer under strace: its exit status, what it printed, and its calls with the paths they are on."""
    log.mkdir()
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", f"trace={','.join(_ERRORS)}", *arguments]
    run = subprocess.run(
        [*command, sys.executable, "-B", "-c", _WRITER, str(log)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if not run.stdout and "INJECTED" not in trace.read_text():
        raise AssertionError(run.stderr)
    return run.returncode, run.stdout.splitlines(), [found[0] for found in _CALL.finditer(trace.read_text())]


def _can_trace(trace: Path) -> str | None:
    if shutil.which("strace") is None:
        return "strace is not installed"
    run = subprocess.run(
        ["strace", "-o", str(trace), "-e", "inject=fdatasync:error=EIO", "true"], capture_output=True, check=False
    )
    return None if run.returncode == 0 else "strace may not trace here"


def _name(call: str) -> str:
    return call.split("(", 1)[0].split()[-1]


def test_the_kernel_failing_any_call_on_the_log_loses_nothing_acknowledged(tmp_path: Path) -> None:
    trace, log = tmp_path / "trace", tmp_path / "log"
    problem = _can_trace(trace)
    if problem is not None:
        print(f"skipped: {problem}")
        pytest.skip(problem)
    status, lines, calls = _strace(log, trace)
    assert (status, lines[-1]) == (0, "done")
    shutil.rmtree(log)
    start = next(number for number, call in enumerate(calls) if str(log) in call)
    before, total = Counter(map(_name, calls[:start])), Counter(map(_name, calls))
    seen: Counter[str] = Counter()
    for call, errors in _ERRORS.items():
        for error, every in errors.items():
            for at in range(before[call] + 1, total[call] + 1, every):
                seen[_one_run(log, trace, call, error, at)] += 1
                shutil.rmtree(log)
    print(dict(seen))
    assert seen.total() > 100
    assert seen["stopped"] > 50


def _one_run(log: Path, trace: Path, call: str, error: str, at: int) -> str:
    what = f"{call} number {at} with {error}"
    status, lines, calls = _strace(log, trace, "-e", f"inject={call}:error={error}:when={at}")
    hit = next((number for number, each in enumerate(calls) if "(INJECTED)" in each), None)
    if hit is None:
        return "not reached"
    if error == "EINTR":
        assert (status, lines[-1]) == (0, "done"), what  # Python repeats what a signal interrupted
    if call == "fdatasync" and ".seg>" in calls[hit]:
        assert status != 0, what
        synced = calls[hit].split("(", 1)[1].split(")", 1)[0]
        assert not [
            each for each in calls[hit + 1 :] if _name(each) in {"write", "fdatasync", "fsync"} and synced in each
        ]
    writer = open_log(log)
    entries = list(writer.read(0, writer.head().size))
    for line in lines:
        if line == "done":
            continue
        event_id, index, leaf = line.split()
        assert f'"event_id":"{event_id}"' in entries[int(index)].payload.decode(), what
        assert entries[int(index)].leaf.hex() == leaf, what
    for number in range(13):
        [outcome] = writer.commit([[routed(number)]])
        assert isinstance(outcome, list), what
    writer.close()
    ids = [str(json.loads(entry.payload)["event_id"]) for entry in entries_of(log)]
    assert len(ids) == len(set(ids)) >= 14, what
    assert verify(log).ok, what
    return "stopped" if status else "went on"
