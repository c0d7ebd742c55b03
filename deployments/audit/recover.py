"""From files to a log one may append to, or a refusal. Numbered steps; nothing is ever repaired but a torn tail."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from deployments.audit.chain import GENESIS, HASH_BYTES, leaf_hash, link
from deployments.audit.files import make_directory
from deployments.audit.head import EMPTY, HEAD_FILE, BadHead, read_head, write_head
from deployments.audit.segment import SEGMENTS_DIR, Damage, Frame, first_sequence, read_frames, segment_paths
from deployments.ports import AuditHead


class CorruptLog(Exception):
    """The log on disk is not what was acknowledged. Gatehouse does not write to it and no flag overrides that."""

    def __init__(self, segment: str, offset: int, reason: str) -> None:
        super().__init__(segment, offset, reason)
        self.segment = segment
        self.offset = offset
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"refusing to open the audit log: {self.segment}, byte {self.offset}: {self.reason}. Restore the log from "
            "a copy; see docs/adr/0004-audit-record-and-chain.md."
        )


@dataclass(slots=True)
class LogIndex:
    """What the writer keeps in memory of the log: leaf hashes, and where each event id is. About 200 B a record."""

    leaves: bytearray = field(default_factory=bytearray)
    places: dict[str, int] = field(default_factory=dict[str, int])
    versions: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    head: bytes = GENESIS

    @property
    def size(self) -> int:
        """Number of records."""
        return len(self.leaves) // HASH_BYTES

    def leaf(self, index: int) -> bytes:
        """Leaf hash of a record."""
        return bytes(self.leaves[index * HASH_BYTES : (index + 1) * HASH_BYTES])

    def version_at(self, index: int) -> str:
        """The code version that wrote a record."""
        return next(version for first, version in reversed(self.versions) if first <= index)

    def add(self, event_id: str, code_version: str, leaf: bytes) -> int:
        """Append a record; its index."""
        index = self.size
        self.places[event_id] = index
        self.leaves += leaf
        self.head = link(self.head, leaf)
        if not self.versions or self.versions[-1][1] != code_version:
            self.versions.append((index, code_version))
        return index


@dataclass(frozen=True, slots=True)
class Recovered:
    """A log that may be appended to. `epochs` is how often it was opened before; `torn_bytes` were cut off now."""

    index: LogIndex
    torn_bytes: int
    epochs: int


def _envelope(path: Path, found: Frame) -> tuple[str, str, str]:
    """Event id, name and code version of a stored record, or `CorruptLog`."""
    try:
        decoded: object = json.loads(found.payload)
    except (ValueError, RecursionError) as error:
        raise CorruptLog(path.name, found.offset, "the record is not JSON") from error
    if not isinstance(decoded, dict):
        raise CorruptLog(path.name, found.offset, "the record is not a JSON object")
    record = cast("dict[str, object]", decoded)
    if record.get("sequence") != found.sequence:
        raise CorruptLog(path.name, found.offset, "the record names another place than its frame")
    texts = record.get("event_id"), record.get("name"), record.get("code_version")
    if not all(isinstance(text, str) for text in texts):
        raise CorruptLog(path.name, found.offset, "the record has no event id, name or code version")
    return cast("tuple[str, str, str]", texts)


def _read_from_disk(path: Path) -> bytes:
    """The file as the disk has it.

    After a failed fsync the page cache may show bytes that never reached the disk, and a process that starts afterwards
    would take them for durable. So: write back what is dirty, forget what is cached, read again.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return path.read_bytes()


def _truncate(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def recover(directory: Path) -> Recovered:
    """Check the log in `directory` and make it appendable; a missing log is created empty.

    The caller holds the writer's lock. Raises `CorruptLog` for anything but a torn tail, `OSError` when the disk does
    not answer.
    """
    # 1. The recorded head. It is written before the first record, so a log without one has lost it.
    head_path = directory / HEAD_FILE
    paths = segment_paths(directory)
    try:
        recorded = read_head(head_path)
    except FileNotFoundError:
        if any(path.stat().st_size for path in paths):
            raise CorruptLog(HEAD_FILE, 0, "the recorded head is missing although the log has records") from None
        make_directory(directory / SEGMENTS_DIR)
        write_head(directory, EMPTY)
        recorded = EMPTY
    except BadHead as error:
        raise CorruptLog(HEAD_FILE, 0, f"the recorded head cannot be read: {error}") from error

    # 2. Every frame of every segment: dense, linked, each event id once.
    index, torn_bytes, epochs = LogIndex(), 0, 0
    head_at_recorded_size = GENESIS if recorded.size == 0 else None
    for path in paths:
        if first_sequence(path) != index.size:
            raise CorruptLog(path.name, 0, f"the segment should start at record {index.size}")
        data = _read_from_disk(path) if path == paths[-1] else path.read_bytes()
        for found in read_frames(data):
            match found:
                case Damage():
                    # 3. A torn tail: at the end of the last segment, with no whole frame after it. Anything else is
                    #    corruption; cutting there would drop acknowledged records.
                    if path != paths[-1] or not found.may_be_torn:
                        raise CorruptLog(path.name, found.offset, f"{found.reason}, and later records follow")
                    torn_bytes = len(data) - found.offset
                case Frame():
                    if found.sequence != index.size:
                        raise CorruptLog(path.name, found.offset, f"record {index.size} should be here")
                    if found.previous != index.head:
                        raise CorruptLog(path.name, found.offset, "the link to the record before is broken")
                    event_id, name, code_version = _envelope(path, found)
                    if event_id in index.places:
                        raise CorruptLog(path.name, found.offset, "the event id occurs twice")
                    index.add(event_id, code_version, leaf_hash(found.payload))
                    epochs += name == "log.opened"
                    if index.size == recorded.size:
                        head_at_recorded_size = index.head

    # 4. Not shorter than, and equal to, what was recorded. Only then is a torn tail cut off.
    if head_at_recorded_size is None:
        raise CorruptLog(HEAD_FILE, 0, f"the log has {index.size} records, but {recorded.size} were acknowledged")
    if head_at_recorded_size.hex() != recorded.head_hash:
        raise CorruptLog(HEAD_FILE, 0, f"the first {recorded.size} records are not the acknowledged ones")
    if torn_bytes:
        _truncate(paths[-1], paths[-1].stat().st_size - torn_bytes)
    return Recovered(index=index, torn_bytes=torn_bytes, epochs=epochs)


def head_of(index: LogIndex) -> AuditHead:
    """Where the log stands."""
    return AuditHead(size=index.size, head_hash=index.head.hex())
