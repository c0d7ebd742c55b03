"""Processes as tests see them: whether one lives, and a caller that is cancelled while it starts one."""

import asyncio
import subprocess
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest


def alive(pid: int) -> bool:
    """False for one that is gone, and for one that only waits to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the latter of one that ends while it is read
        return False
    return state not in "ZX"


async def cut_off(work: Coroutine[Any, Any, object], told: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Cancel `work` when the process that it starts runs, and its loop has yet to hear of it.

    The pid that this process has written to `told`. `work` has ended when this returns.
    """
    started = asyncio.Event()

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            started.set()

    monkeypatch.setattr(subprocess, "Popen", Popen)
    task = asyncio.create_task(work)
    await started.wait()
    pid = _pid_in(told)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return pid


def _pid_in(told: Path) -> int:
    """Blocks, and with it the loop: it must not hear of the process meanwhile."""
    while not (told.exists() and told.read_text().endswith("\n")):
        time.sleep(0.01)
    return int(told.read_text())
