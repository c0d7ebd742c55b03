"""The only writer of the log: one file, one thread, one fdatasync for all that waited meanwhile.

`LogWriter` is the synchronous half (files), `GroupCommit` the asynchronous one (who waits for what). Order within a
batch: look up event ids, assign places, write, fdatasync, look for a later writer, publish, acknowledge; then, with
nobody waiting, hand the records to the tree and index their ids. Before the fdatasync nothing is visible to anybody.
"""

import asyncio
import contextlib
import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from deployments.audit.canonical import canonical
from deployments.audit.chain import leaf_hash, link
from deployments.audit.entries import Entry, OpenedLog, Sealing
from deployments.audit.fence import Fence, Fenced
from deployments.audit.files import SYSTEM_DISK, Disk, make_directory, read_all, sync_directory, write_all
from deployments.audit.head import EMPTY, write_head
from deployments.audit.ids import IDS_FILE, EventIndex, IndexFailed, Place
from deployments.audit.record import HOISTED, encode, to_object, validate
from deployments.audit.recover import CorruptLog, Recovered, recover
from deployments.audit.seals import Seal, write_seal
from deployments.audit.segment import SEGMENTS_DIR, frame, segment_epoch, segment_name, segment_paths
from deployments.audit.settings import AuditSettings
from deployments.audit.stored import StoredLog
from deployments.clock import Clock
from deployments.errors import AuditDiskFull, AuditInDoubt, AuditOverloaded, AuditRefused, AuditUnavailable
from deployments.ports import SYSTEM_TENANT, AuditEvent, AuditHead, JsonValue, Receipt

LOCK_FILE = "lock"
_LAST_WORDS_BYTES = 1 << 20
_TEMPORARY = re.compile(r".*\.([0-9]{1,20})\.new")
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


def lock_log(directory: Path, disk: Disk = SYSTEM_DISK) -> int:
    """A descriptor that holds the writer's lock until it is closed, or `LogLocked`.

    The lock is the kernel's (`flock`): it goes when its process goes, however that ends. It tells a second process on
    this machine at once; what keeps the log whole where it does not reach is the epoch (`fence.py`).
    """
    make_directory(directory, disk)
    descriptor = disk.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    try:
        disk.lock(descriptor)
    except BlockingIOError:
        disk.close(descriptor)
        holder = read_all(directory / LOCK_FILE, disk)[:32].decode("ascii", "replace").strip() or "unknown"
        raise LogLocked(str(directory), holder) from None
    try:
        disk.truncate(descriptor, 0)
        write_all(descriptor, f"{os.getpid()}\n".encode(), disk)
    except OSError:
        disk.close(descriptor)
        raise
    return descriptor


Outcome = list[Receipt] | AuditUnavailable


class LogWriter:
    """Files and index of an open log. Not thread-safe, but for `head`, `read`, `epoch` and `failure`.

    Opening takes the next epoch, recovers the log and records that as `log.opened` in a segment of its own. After any
    `OSError` the writer is failed for good: a second fsync on the same descriptor may report success for pages that
    the kernel has dropped. It does not cut off what a failed write left, since a later writer may have built on it.
    """

    def __init__(
        self,
        directory: Path,
        settings: AuditSettings,
        code_version: str,
        clock: Clock,
        *,
        sealing: Sealing | None = None,
        disk: Disk = SYSTEM_DISK,
        ids: Path | None = None,
    ) -> None:
        """Open for writing. Raises `LogLocked`, `CorruptLog`, `Fenced`, or `OSError`.

        `sealing` gets what is durable. `ids` is where the index of event ids lies, if not beside the log; it may get
        lost.
        """
        self._directory = directory
        self._settings = settings
        self._code_version = code_version
        self._clock = clock
        self._sealing = sealing
        self._disk = disk
        self._segment: _Segment | None = None
        self._ids: EventIndex | None = None
        self._unsettled: list[Entry] = []
        self._unsealed: list[tuple[Path, Seal]] = []
        self._degradations, self._is_degraded = 0, False
        self.failure: str | None = None
        self._lock: int | None = lock_log(directory, disk)
        try:
            self._fence, recovered = _take_over(directory, disk)
            self.recovered = recovered
            self._stored = StoredLog(recovered.stretches, disk)
            self._after = max((stretch.epoch for stretch in recovered.stretches), default=0)
            self._size, self._chain = recovered.size, recovered.head
            self._head = AuditHead(self._size, self._chain.hex())
            try:
                if sealing is not None:
                    size = self._size
                    sealing.open(OpenedLog(directory, size, self.epoch, lambda begin: self._stored.read(begin, size)))
                self._ids = EventIndex(ids or directory / IDS_FILE, self._stored, self._size, self._chain)
                self.index_was_rebuilt = self._ids.was_rebuilt
            except CorruptLog:
                self._fence.check()  # not if a later writer has gone on meanwhile
                raise
            if recovered.is_new:
                write_head(directory, EMPTY, disk, self._name)
            self._begin_segment()
            # Whoever created these may have died before their names were durable.
            sync_directory(directory, disk)
            sync_directory(directory.parent, disk)
            self._record_opening(recovered)
            self.record_head()
            self._unsealed += recovered.unsealed
            self.settle()
            self._sweep()
        except BaseException:
            self.close()
            raise

    @property
    def epoch(self) -> int:
        """Which opening of the log this is."""
        return self._fence.epoch

    def head(self) -> AuditHead:
        """Where the log stands: everything up to here is on disk. Safe to call from any thread."""
        return self._head

    def read(self, begin: int, end: int) -> Iterator[Entry]:
        """The durable records from index `begin` up to, not including, `end`. Safe to call from any thread.

        Raises `CorruptLog` or `OSError` when one cannot be read any more.
        """
        return self._stored.read(max(begin, 0), min(end, self._head.size))

    def find(self, event_ids: Collection[str]) -> dict[str, Entry]:
        """The records of those of the events that the log has. `AuditUnavailable` when it cannot be read."""
        ids = self._index()
        with _Failing(self):
            found = ids.find(event_ids)
            return {event_id: self._stored_record(event_id, place) for event_id, place in found.items()}

    def free_bytes(self) -> int:
        """Room on the log's disk. Safe to call from any thread; `OSError`."""
        return self._disk.free_bytes(self._directory)

    # --- appending -------------------------------------------------------------------------------------------------

    def commit(self, calls: Sequence[Sequence[AuditEvent]]) -> list[Outcome]:
        """`append`, then `settle`."""
        outcomes = self.append(calls)
        self.settle()
        return outcomes

    def append(self, calls: Sequence[Sequence[AuditEvent]]) -> list[Outcome]:
        """Append the valid events of several callers with one fdatasync; per caller all its receipts or its error.

        Raises `AuditUnavailable` when the disk fails or another writer took over: then nobody is acknowledged, now or
        later. `settle` must follow, once those who wait have their answers.
        """
        ids = self._index()
        with _Failing(self):
            known = self.find({event.event_id for events in calls for event in events})
            batch = _Batch(self._size, self._chain, self._code_version, known)
            outcomes = [batch.take(events) for events in calls]
            if not batch.records:
                self._fence.check()  # the receipt of a stored record is an acknowledgement, too
            elif self._has_room(ids, batch):
                self._is_degraded = False
                self._write(batch)
            else:
                self._fence.check()
                outcomes = [batch.without_room(outcome) for outcome in outcomes]
                self._record_degraded()
        return outcomes

    def settle(self) -> None:
        """What nobody waits for: hand durable records to the tree, index their ids, seal finished segments."""
        entries, self._unsettled = self._unsettled, []
        if entries and self._sealing is not None:
            self._sealing.take(entries)
        if self.failure is not None:
            return
        with _Failing(self):
            self._index().flush()
        self._write_seals()

    def record_head(self) -> None:
        """Write the recorded head; `AuditUnavailable` when the disk fails or another writer took over."""
        self._index()
        with _Failing(self):
            self._fence.check()
            write_head(self._directory, self.head(), self._disk, self._name)

    def close(self) -> None:
        """Give up the files and the lock. Idempotent; acknowledged records are safe without it."""
        try:
            if self.failure is None and self._ids is not None and self._segment is not None:
                self._finish_segment()
                self.settle()
        except AuditUnavailable:
            _log.warning("the audit log failed while it was closed: %s", self.failure)
        if self._ids is not None:
            self._close_index(self._ids)
        for descriptor in (None if self._segment is None else self._segment.descriptor, self._lock):
            if descriptor is not None:
                self._disk.close(descriptor)
        self._segment, self._lock, self._ids = None, None, None
        self.failure = self.failure or "The audit log is closed."

    def discard_index(self) -> None:
        """Give up the index of event ids for good: the next start builds it from the log."""
        if self._ids is not None:
            ids, self._ids = self._ids, None
            ids.discard()

    # --- steps -----------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return str(self._fence.epoch)

    def _index(self) -> EventIndex:
        if self.failure is not None or self._ids is None:
            raise AuditUnavailable(self.failure or "The audit log is not open.")
        return self._ids

    def _stored_record(self, event_id: str, place: Place) -> Entry:
        found = self._stored.at(place.sequence, place.offset) if place.sequence < self._size else None
        if found is None or json.loads(found.payload).get("event_id") != event_id:
            raise IndexFailed(errno.EIO, "the index of event ids does not fit the log")
        return Entry(found.sequence, found.payload, leaf_hash(found.payload))

    def _has_room(self, ids: EventIndex, batch: "_Batch") -> bool:
        free = self._disk.free_bytes(self._directory)
        return free - batch.size_bytes >= self._settings.min_free_bytes and not ids.is_crowded

    def _record_degraded(self) -> None:
        """Say in the log that its disk is full, once until there is room again, with room that is kept for this."""
        if self._is_degraded or self._disk.free_bytes(self._directory) < _LAST_WORDS_BYTES:
            return
        self._is_degraded = True
        self._degradations += 1
        self._record_own("log.degraded", f"{self.epoch}:{self._degradations}", {"reason": "the disk is full"})

    def _record_opening(self, found: Recovered) -> None:
        with _Failing(self):
            data: dict[str, JsonValue] = {
                "epoch": self.epoch,
                "size": found.size,
                "head_hash": found.head.hex(),
                "torn_bytes": found.torn_bytes,
            }
            self._record_own("log.opened", str(self.epoch), data)

    def _record_own(self, name: str, event_id: str, data: Mapping[str, JsonValue]) -> None:
        event = AuditEvent(
            event_id=f"{name}:{event_id}",
            name=name,
            at_ms=self._clock.now_ms(),
            tenant=SYSTEM_TENANT,
            principal="audit-sink",
            data=data,
        )
        batch = _Batch(self._size, self._chain, self._code_version, {})
        outcome = batch.take([event])
        if isinstance(outcome, AuditUnavailable):
            raise outcome
        self._write(batch)

    def _write(self, batch: "_Batch") -> None:
        """Make a batch durable; unless somebody else is the writer by then, it is the log now."""
        if self._current().size >= self._settings.segment_bytes:
            self._finish_segment()
            self._begin_segment()
        segment = self._current()
        data = b"".join(record.frame for record in batch.records)
        write_all(segment.descriptor, data, self._disk)
        self._disk.fdatasync(segment.descriptor)
        self._fence.check()
        ids, offset = self._index(), segment.size
        for record in batch.records:
            ids.add(record.event_id, Place(record.entry.index, offset), record.chain)
            segment.last = offset
            offset += len(record.frame)
            self._unsettled.append(record.entry)
        segment.digest.update(data)
        segment.size = offset
        self._size, self._chain = batch.size, batch.chain
        self._head = AuditHead(self._size, self._chain.hex())

    # --- segments --------------------------------------------------------------------------------------------------

    def _current(self) -> "_Segment":
        if self._segment is None:
            raise OSError(errno.EBADF, "no segment is open")
        return self._segment

    def _begin_segment(self) -> None:
        folder = self._directory / SEGMENTS_DIR
        make_directory(folder, self._disk)
        path = folder / segment_name(self._size, self.epoch, self._after)
        descriptor = self._disk.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        self._segment = _Segment(path, descriptor, self._size)
        self._disk.fsync(descriptor)
        sync_directory(folder, self._disk)
        self._stored.begin(self._size, path)
        self._after = self.epoch

    def _finish_segment(self) -> None:
        """Close the current segment; its seal is written later."""
        segment, self._segment = self._current(), None
        self._disk.close(segment.descriptor)
        if self._size > segment.first:
            count, digest = self._size - segment.first, segment.digest.hexdigest()
            self._unsealed.append((segment.path, Seal(segment.first, count, segment.size, segment.last, digest)))

    def _write_seals(self) -> None:
        while self._unsealed:
            path, seal = self._unsealed.pop()
            try:
                write_seal(path, seal, self._name, self._disk)
            except OSError as error:
                # Without a seal the next start reads the frames.
                _log.warning("the seal of %s could not be written: %s", path.name, error.strerror)

    def _sweep(self) -> None:
        """Delete what earlier writers began to write beside the segments and never renamed."""
        with contextlib.suppress(OSError):
            for folder in (self._directory, self._directory / SEGMENTS_DIR):
                for name in self._disk.names(folder):
                    found = _TEMPORARY.fullmatch(name)
                    if found is not None and int(found[1]) < self.epoch:
                        self._disk.remove(folder / name)

    def _close_index(self, ids: EventIndex) -> None:
        if self.failure is not None:
            ids.abandon()
            return
        try:
            ids.close()
        except OSError as error:
            _log.warning("the index of event ids was not closed: %s", error.strerror)


class _Digest(Protocol):
    """A running SHA-256."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(slots=True)
class _Segment:
    """The segment that is written to: its bytes that are part of the log, their last frame, and their digest so far."""

    path: Path
    descriptor: int
    first: int
    size: int = 0
    last: int = 0
    digest: _Digest = field(default_factory=hashlib.sha256)


class _Failing:
    """What goes wrong inside stops the writer for good. What it was writing may be found on disk by the next one."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        match error:
            case Fenced():
                self._writer.failure = str(error)
            case CorruptLog():
                self._writer.failure = f"The audit log is damaged: {error.segment}, byte {error.offset}."
                raise AuditInDoubt(self._writer.failure) from error
            case IndexFailed():
                self._writer.discard_index()
                self._writer.failure = f"The audit log stopped: {error.strerror}; the next start builds it again."
                raise AuditInDoubt("The audit log cannot be written; a new process will repair it.") from error
            case OSError():
                reason = error.strerror or type(error).__name__
                self._writer.failure = f"The audit log stopped: {reason} (errno {error.errno})."
                raise AuditInDoubt("The audit log cannot be written; it needs an operator.") from error
            case _:
                pass


@dataclass(frozen=True, slots=True)
class _Record:
    """One record of a batch: what readers get, its bytes on disk, and the head of the log after it."""

    event_id: str
    entry: Entry
    frame: bytes
    chain: bytes


class _Batch:
    """The records of one write: assigned and framed, not yet on disk. `known`: what the log has of their event ids."""

    def __init__(self, size: int, chain: bytes, code_version: str, known: Mapping[str, Entry]) -> None:
        self._begin, self._chain = size, chain
        self._code_version = code_version
        self._known = known
        self._places: dict[str, int] = {}
        self.records: list[_Record] = []

    @property
    def size(self) -> int:
        """Records in the log after this batch."""
        return self._begin + len(self.records)

    @property
    def chain(self) -> bytes:
        """Head of the log after this batch."""
        return self.records[-1].chain if self.records else self._chain

    @property
    def size_bytes(self) -> int:
        """What it takes on disk."""
        return sum(len(record.frame) for record in self.records)

    def take(self, events: Sequence[AuditEvent]) -> Outcome:
        """Receipts that become true once the batch is on disk; an error leaves no trace of this caller's events."""
        before = len(self.records)
        receipts: list[Receipt] = []
        try:
            for event in events:
                receipts.append(self._stored(event) or self._add(event))
        except AuditRefused as error:
            for record in self.records[before:]:
                del self._places[record.event_id]
            del self.records[before:]
            return error
        return receipts

    def without_room(self, outcome: Outcome) -> Outcome:
        """What a caller gets when the batch cannot be written: receipts only of what the log had before."""
        if isinstance(outcome, AuditUnavailable) or all(receipt.index < self._begin for receipt in outcome):
            return outcome
        return AuditDiskFull("The audit log's disk is full; nothing was appended.")

    def _add(self, event: AuditEvent) -> Receipt:
        place = self.size
        payload = encode(event, place, self._code_version)
        leaf = leaf_hash(payload)
        entry = Entry(place, payload, leaf)
        self.records.append(_Record(event.event_id, entry, frame(place, self.chain, payload), link(self.chain, leaf)))
        self._places[event.event_id] = place
        return Receipt(place, leaf)

    def _stored(self, event: AuditEvent) -> Receipt | None:
        """The receipt of an event that was appended before; `EventConflict` when its content was another."""
        entry = self._known.get(event.event_id)
        if entry is None:
            place = self._places.get(event.event_id)
            if place is None:
                return None
            entry = self.records[place - self._begin].entry
        if not _is_of(event, entry.payload):
            raise EventConflict(f"The audit log refuses event '{event.name}': its id was used for other content.")
        return Receipt(entry.index, entry.leaf)


def _is_of(event: AuditEvent, payload: bytes) -> bool:
    """True when a stored record is of this event, whichever version of the code stored it."""
    stored = cast("dict[str, JsonValue]", json.loads(payload))
    place, version = cast("int", stored["sequence"]), cast("str", stored["code_version"])
    if encode(event, place, version) == payload:
        return True
    if any(name in stored for name in HOISTED):
        return False
    older = to_object(event, place, version)
    for name in HOISTED:
        del older[name]
    return canonical({**older, "data": dict(event.data)}) == payload


def _take_over(directory: Path, disk: Disk) -> tuple[Fence, Recovered]:
    """Become the writer, then read what that means to go on from."""
    above = _named_epoch(directory, disk)
    while True:
        fence = Fence.take(directory, above, disk)
        try:
            recovered = recover(directory, disk)
        except CorruptLog:
            fence.check()  # a log that a later writer changes meanwhile may look like anything
            raise
        if recovered.epoch < fence.epoch:
            return fence, recovered
        # A log of an older version counts its epochs in its records; or a later writer was here already.
        above = recovered.epoch


def _named_epoch(directory: Path, disk: Disk) -> int:
    """The highest epoch that a segment's name shows."""
    return max((segment_epoch(path) or 0 for path in segment_paths(directory, disk)), default=0)


def _nothing() -> None:
    """Passes."""


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
            raise AuditOverloaded("The audit log is overloaded: too many events wait to be written.")
        waiting = _Waiting(events, asyncio.get_running_loop().create_future())
        self._queued_events += len(events)
        self._queue.put_nowait(waiting)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="audit-writer")
        return await waiting.done

    async def settled(self) -> None:
        """Return when the sealer has taken every record that is acknowledged now."""
        await asyncio.get_running_loop().run_in_executor(self._thread, _nothing)  # the thread settles before it goes on

    async def find(self, event_ids: Collection[str]) -> dict[str, Entry]:
        """The durable records of those of the events that the log has; `AuditUnavailable`."""
        if self.failure is not None:
            raise AuditUnavailable(self.failure)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._writer.find, event_ids)

    async def close(self) -> None:
        """Write what waits, record the head, give up the lock. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._worker is not None and not self._worker.done():
            await self._queue.join()
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        with contextlib.suppress(AuditUnavailable):  # it is closed as it is; what was acknowledged is on disk
            self._writer.record_head()
        self._writer.close()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        interval_s = self._settings.head_interval_ms / 1000
        head_due_s: float | None = None
        while True:
            batch = await self._next_batch(head_due_s)
            if batch:
                await loop.run_in_executor(self._thread, self._commit, loop, batch)
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

    def _commit(self, loop: asyncio.AbstractEventLoop, batch: list[_Waiting]) -> None:
        """On the writer's thread: append, wake those who wait, and only then do what nobody waits for."""
        outcomes: Sequence[Outcome]
        try:
            outcomes = self._writer.append([waiting.events for waiting in batch])
        except AuditUnavailable as error:
            outcomes = [error] * len(batch)
        except Exception as error:
            outcomes = [self._stop(error)] * len(batch)
        loop.call_soon_threadsafe(self._deliver, batch, outcomes)
        try:
            self._writer.settle()
        except AuditUnavailable:
            _log.warning("the audit log stopped: %s", self._writer.failure)
        except Exception as error:
            self._stop(error)

    def _stop(self, error: Exception) -> AuditUnavailable:
        """Whatever it was, what is being written is in doubt: stop for good rather than leave callers waiting."""
        _log.exception("the audit log stopped on an unexpected error")
        self._writer.failure = f"The audit log stopped on an unexpected {type(error).__name__}."
        return AuditUnavailable(self._writer.failure)

    def _deliver(self, batch: list[_Waiting], outcomes: Sequence[Outcome]) -> None:
        for waiting, outcome in zip(batch, outcomes, strict=True):
            self._queued_events -= len(waiting.events)
            self._queue.task_done()
            if waiting.done.done():
                continue  # its caller was cancelled
            if isinstance(outcome, AuditUnavailable):
                waiting.done.set_exception(outcome)
            else:
                waiting.done.set_result(outcome)
