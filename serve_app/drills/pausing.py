"""Stops processes for a while, and lets them go on whatever becomes of the drill.

A process of its own sends both signals: it lets them go when its time is over, or when the pipe from the drill closes,
so a drill that is killed leaves nothing stopped. This file is also that process' script, on the standard library alone.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

_STOPPED = b"stopped\n"


class NotPaused(Exception):
    """The processes could not be stopped."""


@contextmanager
def paused(pids: Sequence[int], longest_s: float) -> Generator[None]:
    """Stop `pids` for as long as the block lasts, `longest_s` at most; `NotPaused` when that is not possible."""
    process = subprocess.Popen(  # noqa: S603 - our interpreter, our file, numbers
        [sys.executable, "-I", "-S", __file__, str(longest_s), *map(str, pids)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C in the terminal is not for it
    )
    try:
        if process.stdout is None or process.stdout.readline() != _STOPPED:
            raise NotPaused("the processes could not be stopped")
        yield
    finally:
        process.communicate()  # closes the pipe; returns when they go on


def _main(arguments: Sequence[str]) -> int:
    longest_s, pids = float(arguments[0]), [int(each) for each in arguments[1:]]
    ends = time.monotonic() + longest_s  # noqa: TID251 - a script of its own
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        sys.stdout.buffer.write(_STOPPED)
        sys.stdout.buffer.flush()
        select.select([sys.stdin], [], [], max(0.0, ends - time.monotonic()))  # noqa: TID251
    except (OSError, BrokenPipeError):
        return 1
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except OSError:
                continue
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
