"""Tasks that outlive whoever began them: kept alive, and ended without being cut off."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

_T = TypeVar("_T")
_LONGEST_CLOSE_S = 10.0


async def to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Do all of `work`, also when the caller is cancelled: then as much later as the work takes.

    A driver that is cancelled can leave SQLite locked.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def begun(begins: Coroutine[Any, Any, _T], undo: Callable[[_T], Coroutine[Any, Any, None]]) -> _T:
    """What `begins` gives. A caller that is cancelled meanwhile waits for it and undoes it: nothing of it is left."""
    task = asyncio.create_task(begins)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await to_its_end(_undone(task, undo))
        raise


async def _undone(task: asyncio.Task[_T], undo: Callable[[_T], Coroutine[Any, Any, None]]) -> None:
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        await undo(task.result())


class Tasks:
    """Begun and not forgotten before they are done: an event loop alone holds no task alive."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, _T], context: Context | None = None) -> asyncio.Task[_T]:
        """A task that does `work`, in `context` or in a copy of the caller's."""
        task = asyncio.create_task(work, context=context)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def drain(self) -> None:
        """Return when nothing runs any more, nor anything that was begun meanwhile."""
        while self._running:
            await asyncio.wait(set(self._running))


class Opening:
    """Work to be done once before all other: concurrent first callers share it, a failed one is tried again."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None

    async def done(self) -> None:
        """Return when it is done, or raise what it raises."""
        if self._task is None or (self._task.done() and self._task.exception() is not None):
            self._task = asyncio.create_task(self._work())
        await asyncio.shield(self._task)

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._task is not None:
            await _ended([self._task])


class Rounds:
    """Work that is done again and again until it is closed, between two rounds and never within one.

    A driver that is cancelled while it connects leaves the connection to its thread, which opens the file after
    everybody has gone; one that is cancelled within a statement may lose it.
    """

    def __init__(self) -> None:
        self._closed = False
        self._loops: list[asyncio.Task[None]] = []
        self._wakes: list[asyncio.Event] = []

    def begin(self, work: Callable[[], Awaitable[float | None]], wake: asyncio.Event | None = None) -> None:
        """Do `work` now, and again so many seconds later as it says, or sooner when `wake` is set; None: only then.

        What it raises ends the loop, and `check` says it.
        """
        wake = wake or asyncio.Event()
        self._wakes.append(wake)
        self._loops.append(asyncio.create_task(self._repeat(work, wake)))

    def check(self) -> None:
        """Raise when a loop has ended, with what ended it."""
        for loop in self._loops:
            if loop.done():
                loop.result()

    async def close(self) -> None:
        """End all loops when the rounds under way are done, ten seconds from now at the latest."""
        self._closed = True
        for wake in self._wakes:
            wake.set()
        await _ended(self._loops)

    async def _repeat(self, work: Callable[[], Awaitable[float | None]], wake: asyncio.Event) -> None:
        while not self._closed:
            wake.clear()
            pause_s = await work()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await wake.wait()


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=_LONGEST_CLOSE_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
