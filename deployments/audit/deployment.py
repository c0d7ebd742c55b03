"""`AuditSink`: the log as a Serve deployment, exactly one replica."""

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from deployments.audit.entries import Sealing
from deployments.audit.settings import AuditSettings
from deployments.audit.sink import Sink
from deployments.audit.writer import LogLocked, LogWriter
from deployments.clock import Clock, SystemClock

_log = logging.getLogger("gatehouse.audit")
_LOCK_POLL_S = 0.1
_CLOSE_S = 60.0


def open_writer(
    directory: Path, settings: AuditSettings, code_version: str, clock: Clock, sealing: Sealing | None = None
) -> LogWriter:
    """The writer of the log in `directory`; waits for a predecessor that is about to leave.

    Raises `LogLocked` after `lock_timeout_s`, `CorruptLog` or `OSError` at once. Blocks the thread.
    """
    deadline_s = clock.monotonic_s() + settings.lock_timeout_s
    while True:
        try:
            return LogWriter(directory, settings, code_version, clock, sealing=sealing)
        except LogLocked:
            if clock.monotonic_s() >= deadline_s:
                raise
            time.sleep(_LOCK_POLL_S)


class AuditSink(Sink):
    """Serve class. A log that may not be opened fails the constructor, hence the replica's start."""

    def __init__(self, directory: str, settings: AuditSettings, code_version: str, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        path = Path(directory)
        super().__init__(path, settings, clock, partial(open_writer, path, settings, code_version, clock))
        _log.info("audit log open: %d records in %s", self.size, directory)

    async def __del__(self) -> None:
        """Serve awaits this when it stops the replica: a last checkpoint, and the lock for whoever comes next."""
        if hasattr(self, "_log"):
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self.close()
