"""What a command in the foreground must not leave behind: its processes, and itself when it hangs."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_LOOK_S = 0.1
_LOOKS = 50


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its number and when it was born, since numbers are used again."""

    pid: int
    born: str


def family(root: int, mark: str = "", proc: Path = _PROC) -> list[Process]:
    """Everything that descends from `root`, and every other process with `mark` in its command line; not `root` itself.

    A process whose parent has ended belongs to nobody any more: only its command line says whose it was. Raises
    `ValueError` for the number 0.
    """
    if root < 1:  # number 1 is this process itself in a container
        raise ValueError("every process descends from this one")
    found: dict[int, Process] = {}
    parents: dict[int, int] = {}
    marked: set[int] = set()
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        fields = _stat(entry)
        if len(fields) < 20 or fields[0] in "ZX":
            continue
        pid = int(entry.name)
        found[pid] = Process(pid, fields[19])
        parents[pid] = int(fields[1])
        if mark and mark.encode() in _command(entry):
            marked.add(pid)
    return [found[pid] for pid in found if pid != root and (pid in marked or _descends(pid, root, parents))]


def _descends(pid: int, root: int, parents: dict[int, int]) -> bool:
    seen: set[int] = set()
    while pid in parents and pid not in seen:  # the table is read while it changes: it may hold a circle
        seen.add(pid)
        pid = parents[pid]
        if pid == root:
            return True
    return False


def alive(processes: Iterable[Process], proc: Path = _PROC) -> list[Process]:
    """Which of them are still running."""
    left: list[Process] = []
    for process in processes:
        fields = _stat(proc / str(process.pid))
        if len(fields) >= 20 and fields[0] not in "ZX" and fields[19] == process.born:
            left.append(process)
    return left


def end_all(known: Sequence[Process], look: Callable[[], Sequence[Process]], patience_s: float) -> None:
    """`end` the processes in `known` and those that `look` finds, until it finds none.

    A process that is about to end may begin others until it does. One that outlives being killed is left to the system
    after `_LOOKS` looks.
    """
    end(list({*known, *look()}), patience_s)
    for _ in range(_LOOKS):
        found = look()
        if not found:
            return
        end(found, 0.0)
        time.sleep(_LOOK_S)


def end(processes: Sequence[Process], patience_s: float) -> int:
    """Wait for the processes to end, and kill those that have not; returns how many had to be killed."""
    ends_s = time.monotonic() + patience_s  # noqa: TID251 - a bound, for processes of this machine
    left = alive(processes)
    while left and time.monotonic() < ends_s:  # noqa: TID251
        time.sleep(_LOOK_S)
        left = alive(left)
    for process in left:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    return len(left)


def _stat(folder: Path) -> list[str]:
    """The fields of `stat` from the third on: state, parent, ...; empty when the process is gone."""
    try:
        return (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _command(folder: Path) -> bytes:
    try:
        return (folder / "cmdline").read_bytes()
    except OSError:
        return b""


class LastResort:
    """Ends this process when its main thread does not, though it should: a thread beside it.

    The main thread of `gatehouse up` calls into Ray, which may never return, and what does not return cannot be
    interrupted. Each phase has a `reason`: what speaks against going on, or None. The main thread asks for it too and
    leaves in order; only where it has not done so `grace_s` seconds later, `finish` is called with the reason.
    """

    def __init__(self, finish: Callable[[str], None], look_s: float = 0.5) -> None:
        self._finish = finish
        self._look_s = look_s
        self._changed = threading.Condition()
        self._reason: Callable[[], str | None] | None = None
        self._grace_s = 0.0
        self._phase = 0
        threading.Thread(target=self._run, name="last-resort", daemon=True).start()

    def watch(self, reason: Callable[[], str | None] | None, grace_s: float = 0.0) -> None:
        """Begin a phase; without a reason nothing is watched."""
        with self._changed:
            self._reason, self._grace_s = reason, grace_s
            self._phase += 1
            self._changed.notify()

    def _run(self) -> None:
        phase, since_s = -1, None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._reason is not None)
                if self._phase != phase:
                    phase, since_s = self._phase, None
                reason, grace_s = self._reason, self._grace_s
            found = reason() if reason is not None else None
            now_s = time.monotonic()  # noqa: TID251 - elapsed time, of a command on a console
            since_s = None if found is None else now_s if since_s is None else since_s
            with self._changed:
                if self._phase != phase:
                    continue
                if found is not None and since_s is not None and now_s - since_s >= grace_s:
                    self._finish(found)  # under the lock: the main thread can no longer begin another phase
                    return
                self._changed.wait(self._look_s)
