"""`AuditSink`: the log as a Serve deployment, exactly one replica."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from deployments.audit.settings import AuditSettings
from deployments.audit.writer import GroupCommit, LogLocked, LogWriter
from deployments.clock import Clock, SystemClock
from deployments.errors import AuditUnavailable
from deployments.ports import AuditEvent, AuditHead, Receipt

_log = logging.getLogger(__name__)
_LOCK_POLL_S = 0.1


def open_writer(directory: Path, settings: AuditSettings, code_version: str, clock: Clock) -> LogWriter:
    """The writer of the log in `directory`; waits for a predecessor that is about to leave.

    Raises `LogLocked` after `lock_timeout_s`, `CorruptLog` or `OSError` at once. Blocks the thread.
    """
    deadline_s = clock.monotonic_s() + settings.lock_timeout_s
    while True:
        try:
            return LogWriter(directory, settings, code_version, clock)
        except LogLocked:
            if clock.monotonic_s() >= deadline_s:
                raise
            time.sleep(_LOCK_POLL_S)


class AuditSink:
    """Implements `ports.Audit`. A log that may not be opened fails the constructor, hence the replica's start."""

    def __init__(self, directory: str, settings: AuditSettings, code_version: str, clock: Clock | None = None) -> None:
        writer = open_writer(Path(directory), settings, code_version, clock or SystemClock())
        self._log = GroupCommit(writer, settings)
        _log.info("audit log open: %d records in %s", writer.head().size, directory)

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        """Receipts in order, once all events are on disk; else `AuditUnavailable`."""
        return await self._log.append(events)

    async def head(self) -> AuditHead:
        """Where the log stands."""
        if self._log.failure is not None:
            raise AuditUnavailable(self._log.failure)
        return self._log.head()

    async def check_health(self) -> None:
        """Raise when nothing can be acknowledged any more: a fresh process must recover the log."""
        if self._log.failure is not None:
            raise AuditUnavailable(self._log.failure)

    async def close(self) -> None:
        """Write what waits and give up the lock."""
        await self._log.close()
