"""One execution: a process group of its own, bounded in time and output, and gone when it is over."""

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from deployments.clock import Clock
from deployments.tasks import begun
from serve_app.runner.network import Isolation
from serve_app.runner.profile import CannotRun, Prepared, limited
from serve_app.runner.settings import RunnerSettings

_CHUNK_BYTES = 64 * 1024
_GRACE_S = 2.0
"""Between the polite signal and the one that nobody survives; and how long pipes may stay open after the end."""

STDOUT, STDERR = 1, 2


@dataclass(frozen=True, slots=True)
class Ended:
    """How an execution ended. `exit_code` is negative for a signal.

    `output_digest` is SHA-256 (32 bytes) over all that came out of both pipes, in the order of its arrival;
    `dropped_bytes` is what of it was beyond the cap, and not handed on.
    """

    exit_code: int
    timed_out: bool
    output_digest: bytes
    printed_bytes: int
    dropped_bytes: int
    started_ms: int
    ended_ms: int

    @property
    def status(self) -> int:
        """The exit status that a shell would have."""
        if self.timed_out:
            return 124
        return 128 - self.exit_code if self.exit_code < 0 else self.exit_code


class _Output:
    """What both pipes carry: handed on up to a cap, hashed to the end."""

    def __init__(self, cap_bytes: int, sink: Callable[[int, bytes], None]) -> None:
        self._cap_bytes = cap_bytes
        self._sink = sink
        self.hash = hashlib.sha256()
        self.printed_bytes = 0
        self.dropped_bytes = 0

    def take(self, stream: int, data: bytes) -> None:
        self.hash.update(data)
        room = max(0, self._cap_bytes - self.printed_bytes)
        self.printed_bytes += len(data)
        self.dropped_bytes += max(0, len(data) - room)
        if room:
            self._sink(stream, data[:room])


async def execute(
    prepared: Prepared,
    settings: RunnerSettings,
    clock: Clock,
    sink: Callable[[int, bytes], None],
    timeout_s: float,
    isolation: Isolation | None = None,
) -> Ended:
    """Run a command to its end. `sink` gets (1 or 2, bytes) as they come. `CannotRun` when it does not begin.

    Whatever the end is, success, time, or a cancelled caller, nothing of its process group outlives it.
    """
    argv = [*(isolation.prefix if isolation is not None else ()), *limited(prepared.argv, settings)]
    output = _Output(settings.output_bytes, sink)
    started_ms = clock.now_ms()
    async with _Pipe() as out, _Pipe() as err:
        try:
            # Pipes of our own: asyncio's would let `wait` wait for whoever else holds them.
            process = await begun(  # asyncio itself would end the leader alone, and it may have started others
                asyncio.create_subprocess_exec(
                    *argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out.theirs,
                    stderr=err.theirs,
                    cwd=prepared.cwd,
                    env=dict(prepared.env),
                    start_new_session=True,
                    close_fds=True,
                ),
                _end,
            )
        except (OSError, ValueError):
            raise CannotRun("the command could not be started", 126) from None
        out.started()
        err.started()
        timed_out = False
        async with asyncio.TaskGroup() as readers:
            reading = [
                readers.create_task(_read(pipe.reader, number, output))
                for number, pipe in ((STDOUT, out), (STDERR, err))
            ]
            try:
                async with asyncio.timeout(timeout_s):
                    await process.wait()
            except TimeoutError:
                timed_out = True
            finally:
                await asyncio.shield(_end(process))
                # A process that left the group may hold a pipe for ever; what it prints from now on is nobody's.
                _done, late = await asyncio.wait(reading, timeout=_GRACE_S)
                for task in late:
                    task.cancel()
    return Ended(
        exit_code=process.returncode if process.returncode is not None else -signal.SIGKILL,
        timed_out=timed_out,
        output_digest=output.hash.digest(),
        printed_bytes=output.printed_bytes,
        dropped_bytes=output.dropped_bytes,
        started_ms=started_ms,
        ended_ms=clock.now_ms(),
    )


class _Pipe:
    """A pipe from a command to us; `theirs` is the end for the command, until it has started."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader(limit=_CHUNK_BYTES)
        self.theirs = -1
        self._transport: asyncio.ReadTransport | None = None

    async def __aenter__(self) -> "_Pipe":
        ours, self.theirs = os.pipe()
        file = os.fdopen(ours, "rb", 0)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self.reader), file)
        return self

    def started(self) -> None:
        """The command has its end; ours of it must not keep the pipe open."""
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    async def __aexit__(self, *_: object) -> None:
        self.started()
        if self._transport is not None:
            self._transport.close()


async def _read(stream: asyncio.StreamReader, number: int, output: _Output) -> None:
    while data := await stream.read(_CHUNK_BYTES):
        output.take(number, data)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the whole group: politely if its leader still runs, then for certain."""
    if process.returncode is None:
        _signal(process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(_GRACE_S):
                await process.wait()
        except TimeoutError:
            pass
    _signal(process.pid, signal.SIGKILL)
    await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
    except PermissionError:  # the leader is gone, and another account's process has taken the number
        return
