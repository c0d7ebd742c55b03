"""The only writer of the log: one file, one thread, one fdatasync for all that waited meanwhile.

`LogWriter` is the synchronous half (files), `GroupCommit` the asynchronous one (who waits for what). Order within a
batch: look up event ids, assign places, write, fdatasync, publish, acknowledge. Before the fdatasync nothing is
visible to anybody.
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deployments.audit.chain import leaf_hash, link
from deployments.audit.files import make_directory, sync_directory, write_all
from deployments.audit.head import write_head
from deployments.audit.record import encode, validate
from deployments.audit.recover import LogIndex, head_of, recover
from deployments.audit.segment import SEGMENTS_DIR, frame, segment_name, segment_paths
from deployments.audit.settings import AuditSettings
from deployments.clock import Clock
from deployments.errors import AuditRefused, AuditUnavailable
from deployments.ports import SYSTEM_TENANT, AuditEvent, AuditHead, Receipt

LOCK_FILE = "lock"
_log = logging.getLogger(__name__)


class EventConflict(AuditRefused):
    """An event id came back with other content. Either a producer is broken or somebody forges events."""


class LogLocked(Exception):
    """Another process writes this log."""

    def __init__(self, directory: str, holder: str) -> None:
        super().__init__(directory, holder)
        self.directory = directory
        self.holder = holder

    def __str__(self) -> str:
        return f"the audit log in {self.directory} is being written by process {self.holder}; there is one writer."


def lock_log(directory: Path) -> int:
    """A descriptor that holds the writer's lock until it is closed, or `LogLocked`.

    The lock is the kernel's (`flock`): it goes when its process goes, however that ends. It fences writers on one
    machine, so the log must not lie on a file system that several machines mount.
    """
    make_directory(directory)
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise LogLocked(str(directory), holder) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


class LogWriter:
    """Files and index of an open log. Not thread-safe: one thread at a time.

    Opening recovers the log, takes the next epoch and records it as `log.opened`. After any `OSError` the writer is
    failed for good: a second fsync on the same descriptor may report success for pages that the kernel has dropped.
    """

    def __init__(
        self,
        directory: Path,
        settings: AuditSettings,
        code_version: str,
        clock: Clock,
        fdatasync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        """Open for writing. Raises `LogLocked`, `CorruptLog`, or `OSError`."""
        self._directory = directory
        self._settings = settings
        self._code_version = code_version
        self._fdatasync = fdatasync
        self._segment: int | None = None
        self._segment_bytes = 0
        self.failure: str | None = None
        self._lock = lock_log(directory)
        try:
            recovered = recover(directory)
            self._index: LogIndex = recovered.index
            self._head = head_of(recovered.index)
            self._open_last_segment()
            before = self.head()
            opened = AuditEvent(
                event_id=f"log.opened:{recovered.epochs + 1}",
                name="log.opened",
                at_ms=clock.now_ms(),
                tenant=SYSTEM_TENANT,
                principal="audit-sink",
                data={
                    "epoch": recovered.epochs + 1,
                    "size": before.size,
                    "head_hash": before.head_hash,
                    "torn_bytes": recovered.torn_bytes,
                },
            )
            [outcome] = self.commit([[opened]])
            if isinstance(outcome, AuditUnavailable):
                raise outcome
            self.record_head()
        except BaseException:
            self.close()
            raise

    def head(self) -> AuditHead:
        """Where the log stands: everything up to here is on disk. Safe to call from any thread."""
        return self._head

    def commit(self, calls: Sequence[Sequence[AuditEvent]]) -> "list[list[Receipt] | AuditUnavailable]":
        """Append the valid events of several callers with one fdatasync; per caller all its receipts or its error.

        Raises `AuditUnavailable` when the disk fails: then nobody is acknowledged, now or later.
        """
        if self.failure is not None:
            raise AuditUnavailable(self.failure)
        batch = _Batch(self._index, self._code_version)
        outcomes = [batch.take(events) for events in calls]
        if batch.frames:
            try:
                self._roll_when_full()
                self._write(b"".join(batch.frames))
            except OSError as error:
                self._fail(error)
                raise AuditUnavailable("The audit log cannot be written; it needs an operator.") from error
            for event_id, leaf in batch.new:
                self._index.add(event_id, self._code_version, leaf)
            self._head = head_of(self._index)
        return outcomes

    def record_head(self) -> None:
        """Write the recorded head; `AuditUnavailable` when the disk fails."""
        if self.failure is not None:
            raise AuditUnavailable(self.failure)
        try:
            write_head(self._directory, self.head())
        except OSError as error:
            self._fail(error)
            raise AuditUnavailable("The audit log cannot be written; it needs an operator.") from error

    def close(self) -> None:
        """Give up the files and the lock. Idempotent; acknowledged records are safe without it."""
        for descriptor in (self._segment, self._lock):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._segment, self._lock = None, -1
        self.failure = self.failure or "The audit log is closed."

    def _fail(self, error: OSError) -> None:
        self.failure = f"The audit log stopped: {error.strerror or type(error).__name__} (errno {error.errno})."

    def _open_last_segment(self) -> None:
        paths = segment_paths(self._directory)
        if not paths:
            self._create_segment()
            return
        self._segment = os.open(paths[-1], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._segment_bytes = os.fstat(self._segment).st_size

    def _create_segment(self) -> None:
        folder = self._directory / SEGMENTS_DIR
        make_directory(folder)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        segment = os.open(folder / segment_name(self._index.size), flags, 0o600)
        try:
            os.fsync(segment)
            sync_directory(folder)
        except OSError:
            os.close(segment)
            raise
        if self._segment is not None:
            os.close(self._segment)
        self._segment, self._segment_bytes = segment, 0

    def _roll_when_full(self) -> None:
        if self._segment_bytes >= self._settings.segment_bytes:
            self._create_segment()

    def _write(self, data: bytes) -> None:
        if self._segment is None:
            raise OSError("no segment is open")
        write_all(self._segment, data)
        self._fdatasync(self._segment)
        self._segment_bytes += len(data)


class _Batch:
    """The records of one write: assigned and framed, not yet on disk."""

    def __init__(self, index: LogIndex, code_version: str) -> None:
        self._index = index
        self._code_version = code_version
        self._head = index.head
        self._places: dict[str, int] = {}
        self.new: list[tuple[str, bytes]] = []
        self.frames: list[bytes] = []

    def take(self, events: Sequence[AuditEvent]) -> list[Receipt] | AuditUnavailable:
        """Receipts that become true once the batch is on disk; an error leaves no trace of this caller's events."""
        before = len(self.new), self._head
        receipts: list[Receipt] = []
        try:
            for event in events:
                receipts.append(self._known(event) or self._add(event))
        except AuditRefused as error:
            count, self._head = before
            for event_id, _ in self.new[count:]:
                del self._places[event_id]
            del self.new[count:], self.frames[count:]
            return error
        return receipts

    def _add(self, event: AuditEvent) -> Receipt:
        place = self._index.size + len(self.new)
        payload = encode(event, place, self._code_version)
        leaf = leaf_hash(payload)
        self.frames.append(frame(place, self._head, payload))
        self.new.append((event.event_id, leaf))
        self._places[event.event_id] = place
        self._head = link(self._head, leaf)
        return Receipt(place, leaf)

    def _known(self, event: AuditEvent) -> Receipt | None:
        """The receipt of an event that was appended before; `EventConflict` when its content was another."""
        place = self._index.places.get(event.event_id)
        if place is not None:
            leaf, version = self._index.leaf(place), self._index.version_at(place)
        else:
            place = self._places.get(event.event_id)
            if place is None:
                return None
            leaf, version = self.new[place - self._index.size][1], self._code_version
        if leaf_hash(encode(event, place, version)) != leaf:
            raise EventConflict(f"The audit log refuses event '{event.name}': its id was used for other content.")
        return Receipt(place, leaf)


@dataclass(frozen=True, slots=True)
class _Waiting:
    events: Sequence[AuditEvent]
    done: "asyncio.Future[list[Receipt]]"


class GroupCommit:
    """Lets many callers share the writer: a batch is what queued during the last fdatasync; there is no linger.

    Belongs to one event loop; the worker starts with the first append.
    """

    def __init__(self, writer: LogWriter, settings: AuditSettings) -> None:
        self._writer = writer
        self._settings = settings
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._queued_events = 0
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit-writer")
        self._closed = False

    @property
    def queued_events(self) -> int:
        """Events that wait for their batch."""
        return self._queued_events

    @property
    def failure(self) -> str | None:
        """Why nothing is acknowledged any more, or None."""
        if self._closed:
            return "The audit log is closed."
        return self._writer.failure

    def head(self) -> AuditHead:
        """Where the acknowledged log stands."""
        return self._writer.head()

    async def append(self, events: Sequence[AuditEvent]) -> list[Receipt]:
        """Receipts in order once all events are on disk; `AuditUnavailable` (and its kinds) otherwise.

        A caller that is cancelled while it waits may find its events in the log; appending them again is harmless.
        """
        for event in events:
            validate(event)
        if not events:
            return []
        if self.failure is not None:
            raise AuditUnavailable(self.failure)
        if self._queued_events + len(events) > self._settings.max_queued_events:
            raise AuditUnavailable("The audit log is overloaded: too many events wait to be written.")
        waiting = _Waiting(events, asyncio.get_running_loop().create_future())
        self._queued_events += len(events)
        self._queue.put_nowait(waiting)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="audit-writer")
        return await waiting.done

    async def close(self) -> None:
        """Write what waits, record the head, give up the lock. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._worker is not None and not self._worker.done():
            await self._queue.join()
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        if self._writer.failure is None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._writer.record_head)
        self._thread.shutdown()
        self._writer.close()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        interval_s = self._settings.head_interval_ms / 1000
        head_due_s: float | None = None
        while True:
            batch = await self._next_batch(head_due_s)
            if batch:
                await self._commit(batch)
                head_due_s = head_due_s or loop.time() + interval_s
            if head_due_s is not None and loop.time() >= head_due_s and self._writer.failure is None:
                head_due_s = None
                # A failure is kept by the writer: the next append and the health check report it.
                await asyncio.gather(
                    loop.run_in_executor(self._thread, self._writer.record_head), return_exceptions=True
                )

    async def _next_batch(self, until_s: float | None) -> list[_Waiting]:
        """What waits now, at most one batch; empty when nothing came until `until_s` of the loop's clock."""
        try:
            async with asyncio.timeout_at(until_s):
                batch = [await self._queue.get()]
        except TimeoutError:
            return []
        count = len(batch[0].events)
        while count < self._settings.max_batch_events and not self._queue.empty():
            batch.append(self._queue.get_nowait())
            count += len(batch[-1].events)
        return batch

    async def _commit(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        calls = [waiting.events for waiting in batch]
        try:
            outcomes = await loop.run_in_executor(self._thread, self._writer.commit, calls)
        except AuditUnavailable as error:
            outcomes = [error] * len(batch)
        except Exception as error:
            # Whatever it was, the batch is in doubt: stop for good rather than leave its callers waiting.
            _log.exception("the audit log stopped on an unexpected error")
            self._writer.failure = f"The audit log stopped on an unexpected {type(error).__name__}."
            outcomes = [AuditUnavailable(self._writer.failure)] * len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            self._queued_events -= len(waiting.events)
            self._queue.task_done()
            if waiting.done.done():
                continue  # its caller was cancelled
            if isinstance(outcome, AuditUnavailable):
                waiting.done.set_exception(outcome)
            else:
                waiting.done.set_result(outcome)
