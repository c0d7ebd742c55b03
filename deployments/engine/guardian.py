"""Ends the engine's core process when the replica dies without a chance to do so.

vLLM's core process does not notice that its parent is gone: measured with 0.29, a replica that is killed hard (SIGKILL,
the kernel's or Ray's out-of-memory killer) leaves it running with all its memory, on a GPU too, and the replica that
Serve starts in its place finds the device full. So a small process of its own waits at a pipe whose other end only the
replica holds. The end of the pipe is the end of the replica, however it came.

This file is also the script of that process: it runs without the package, on the standard library alone.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_RELEASED = b"r"
_GRACE_S = 5.0
_LOOK_S = 0.1


def started(pid: int) -> str:
    """When process `pid` started, in the kernel's own words; empty when there is no such process, or no `/proc`.

    Together with the number it names one process: numbers are used again.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


class Guardian:
    """Guards `pids` from now on until `release`."""

    def __init__(self, pids: Sequence[int]) -> None:
        guarded = [f"{pid}:{started(pid)}" for pid in pids]
        self._process = subprocess.Popen(  # noqa: S603 - our interpreter, our file, numbers
            [sys.executable, "-I", "-S", __file__, *guarded],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
        )

    def release(self) -> None:
        """The processes have been stopped in order; nothing is left to do. May be called again."""
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            try:
                pipe.write(_RELEASED)
                pipe.close()
            except BrokenPipeError:
                pass
            self._process.wait()


def _alive(guarded: Sequence[tuple[int, str]]) -> list[int]:
    return [pid for pid, start in guarded if started(pid) == start and _exists(pid)]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _main(arguments: Sequence[str]) -> None:
    guarded = [(int(pid), start) for pid, _, start in (argument.partition(":") for argument in arguments)]
    if sys.stdin.buffer.read() == _RELEASED:
        return
    _send(_alive(guarded), signal.SIGTERM)
    for _ in range(round(_GRACE_S / _LOOK_S)):
        if not _alive(guarded):
            return
        time.sleep(_LOOK_S)
    _send(_alive(guarded), signal.SIGKILL)


if __name__ == "__main__":
    _main(sys.argv[1:])
