"""From files to a log one may append to, or a refusal. Numbered steps; nothing is changed, not even a torn tail.

Nobody truncates: whoever finds a torn tail may itself have been overtaken, and what it cuts off may by then be part of
the log. The segment that the next writer begins says where the one before ends.
"""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from deployments.audit.chain import GENESIS, leaf_hash, link
from deployments.audit.files import SYSTEM_DISK, Disk
from deployments.audit.head import EMPTY, HEAD_FILE, BadHead, read_head
from deployments.audit.seals import Seal, digest, read_seal
from deployments.audit.segment import Damage, Frame, Lineage, Stretch, read_lineage, scan_frames, segment_paths
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


@dataclass(frozen=True, slots=True)
class Recovered:
    """A log that may be appended to, by a segment of its own that begins at `size`.

    `epoch` is the highest that wrote to it. `torn_bytes` lie behind the last whole record of the newest segment,
    `surplus_bytes` behind the ends of older ones and in stray segments: no part of the log. `unsealed` are segments
    without a seal that fits, with the seal they should have.
    """

    size: int
    head: bytes
    epoch: int
    stretches: tuple[Stretch, ...]
    torn_bytes: int
    surplus_bytes: int
    unsealed: tuple[tuple[Path, Seal], ...]
    is_new: bool


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the writer has to know of a stored record."""

    event_id: str
    name: str
    code_version: str
    epoch: int
    """Of `log.opened`; 0 of everything else."""


def envelope(segment: str, found: Frame) -> Envelope:
    """The envelope of a stored record, or `CorruptLog`."""
    try:
        decoded: object = json.loads(found.payload)
    except (ValueError, RecursionError) as error:
        raise CorruptLog(segment, found.offset, "the record is not JSON") from error
    if not isinstance(decoded, dict):
        raise CorruptLog(segment, found.offset, "the record is not a JSON object")
    record = cast("dict[str, object]", decoded)
    if record.get("sequence") != found.sequence:
        raise CorruptLog(segment, found.offset, "the record names another place than its frame")
    event_id, name, code_version = record.get("event_id"), record.get("name"), record.get("code_version")
    if not isinstance(event_id, str) or not isinstance(name, str) or not isinstance(code_version, str):
        raise CorruptLog(segment, found.offset, "the record has no event id, name or code version")
    data = record.get("data")
    epoch = cast("dict[str, object]", data).get("epoch") if name == "log.opened" and isinstance(data, dict) else 0
    return Envelope(event_id, name, code_version, epoch if isinstance(epoch, int) else 0)


def _recorded(directory: Path, disk: Disk) -> AuditHead | None:
    """The recorded head; None of a log that was never begun. `CorruptLog` when records are there without one."""
    try:
        return read_head(directory / HEAD_FILE, disk)
    except FileNotFoundError:
        if not any(_size(path, disk) for path in segment_paths(directory, disk)):
            return None
    # Another writer may have begun the log between these two looks; then its head is there before its records are.
    try:
        return read_head(directory / HEAD_FILE, disk)
    except FileNotFoundError:
        raise CorruptLog(HEAD_FILE, 0, "the recorded head is missing although the log has records") from None


def recover(directory: Path, disk: Disk = SYSTEM_DISK) -> Recovered:
    """Check every byte of the log in `directory`; a missing log is an empty one. Reads only.

    The caller has taken an epoch, so that nothing which is acknowledged from now on can be missed here. Raises
    `CorruptLog` for anything but a torn tail, `OSError` when the disk does not answer.
    """
    # 1. The recorded head. It is written before the first record, so a log without one has lost it.
    try:
        recorded = _recorded(directory, disk)
    except BadHead as error:
        raise CorruptLog(HEAD_FILE, 0, f"the recorded head cannot be read: {error}") from error
    is_new = recorded is None
    recorded = recorded or EMPTY

    # 2. Every segment that belongs to the log: by its seal, or frame by frame. A seal that led to a contradiction is
    #    no evidence: then all frames decide.
    order = read_lineage(directory, disk)
    try:
        survey = Survey(recorded, disk, trust_seals=True)
        survey.read(order)
    except CorruptLog:
        survey = Survey(recorded, disk, trust_seals=False)
        survey.read(order)

    # 3. Not shorter than, and equal to, what was recorded.
    if survey.head_at_recorded_size is None:
        raise CorruptLog(HEAD_FILE, 0, f"the log has {survey.size} records, but {recorded.size} were acknowledged")
    if survey.head_at_recorded_size.hex() != recorded.head_hash:
        raise CorruptLog(HEAD_FILE, 0, f"the first {recorded.size} records are not the acknowledged ones")
    return Recovered(
        size=survey.size,
        head=survey.head,
        epoch=survey.epoch,
        stretches=tuple(
            replace(stretch, end=survey.size if stretch.end is None else stretch.end) for stretch in order.stretches
        ),
        torn_bytes=survey.torn_bytes,
        surplus_bytes=survey.surplus_bytes,
        unsealed=tuple(survey.unsealed),
        is_new=is_new,
    )


def _size(path: Path, disk: Disk) -> int:
    descriptor = disk.open(path, os.O_RDONLY)
    try:
        return disk.size(descriptor)
    finally:
        disk.close(descriptor)


@dataclass(slots=True)
class Survey:
    """Reads the log in order; where it stands so far. Only seals of what was read whole are trusted, if at all."""

    recorded: AuditHead
    disk: Disk
    trust_seals: bool
    size: int = 0
    head: bytes = GENESIS
    head_at_recorded_size: bytes | None = None
    epoch: int = 0
    torn_bytes: int = 0
    surplus_bytes: int = 0
    unsealed: list[tuple[Path, Seal]] = field(default_factory=list[tuple[Path, Seal]])

    def read(self, order: Lineage) -> None:
        """All stretches of the log; `CorruptLog` or `OSError`."""
        self._advance(0, GENESIS)
        for stretch in order.stretches:
            self.read_stretch(stretch)
        self.surplus_bytes += sum(_size(path, self.disk) for path in order.strays)

    def read_stretch(self, stretch: Stretch) -> None:
        """The next stretch; `CorruptLog` or `OSError`."""
        if stretch.first != self.size:
            raise CorruptLog(stretch.path.name, 0, f"the segment should start at record {self.size}")
        self.epoch = max(self.epoch, stretch.epoch)
        descriptor = self.disk.open(stretch.path, os.O_RDONLY)
        try:
            if not (self.trust_seals and self._take_sealed(stretch, descriptor)):
                self._take_frames(stretch, descriptor)
        finally:
            self.disk.close(descriptor)

    def _advance(self, size: int, head: bytes) -> None:
        self.size, self.head = size, head
        if size == self.recorded.size:
            self.head_at_recorded_size = head

    def _take_sealed(self, stretch: Stretch, descriptor: int) -> bool:
        """Go past a segment whose bytes its seal confirms; False when there is no such seal."""
        seal = read_seal(stretch.path, self.disk)
        if seal is None or seal.first != stretch.first or stretch.end not in (None, seal.end):
            return False
        if seal.first < self.recorded.size < seal.end:
            return False  # the head in between is known to the frames only
        surplus = self.disk.size(descriptor) - seal.size
        if surplus < 0 or (surplus and not stretch.fenced):
            return False
        if digest(descriptor, seal.size, self.disk) != seal.sha256:
            return False
        first, last = (next(scan_frames(descriptor, at, self.disk), None) for at in (0, seal.last))
        if not isinstance(first, Frame) or (first.sequence, first.previous) != (self.size, self.head):
            return False
        if not isinstance(last, Frame) or (last.sequence, last.end) != (seal.end - 1, seal.size):
            return False
        self.surplus_bytes += surplus
        self._advance(seal.end, link(last.previous, leaf_hash(last.payload)))
        return True

    def _take_frames(self, stretch: Stretch, descriptor: int) -> None:
        """Check a segment frame by frame: dense, linked, each a record that names its place."""
        name, last, end = stretch.path.name, 0, 0
        self._from_disk(descriptor)
        size = self.disk.size(descriptor)
        for found in scan_frames(descriptor, disk=self.disk, limit=size):
            if self.size == stretch.end:
                break
            if isinstance(found, Damage):
                # A torn tail: at the end of the newest segment, with no whole frame after it. Anything else is
                # corruption; to stop reading there would drop acknowledged records.
                if stretch.end is not None or not found.may_be_torn:
                    raise CorruptLog(name, found.offset, f"{found.reason}, and later records follow")
                self.torn_bytes = size - found.offset
                break
            if found.sequence != self.size:
                raise CorruptLog(name, found.offset, f"record {self.size} should be here")
            if found.previous != self.head:
                raise CorruptLog(name, found.offset, "the link to the record before is broken")
            self.epoch = max(self.epoch, envelope(name, found).epoch)
            last, end = found.offset, found.end
            self._advance(self.size + 1, link(self.head, leaf_hash(found.payload)))
        if stretch.end is not None:
            if self.size != stretch.end:
                raise CorruptLog(name, end, f"record {self.size} should be here, and later records follow")
            surplus = size - end
            if surplus and not stretch.fenced:
                raise CorruptLog(name, end, "bytes follow the last record although the same writer went on elsewhere")
            self.surplus_bytes += surplus
        # A writer that is no longer the writer may have written up to now: what was read must outlive this machine.
        self.disk.fsync(descriptor)
        found = digest(descriptor, end, self.disk)
        if end and found is not None:
            seal = Seal(stretch.first, self.size - stretch.first, end, last, found)
            self.unsealed.append((stretch.path, seal))

    def _from_disk(self, descriptor: int) -> None:
        """See the file as the disk has it.

        After a failed fsync the page cache may show bytes that never reached the disk, and a process that starts
        afterwards would take them for durable. So: write back what is dirty, forget what is cached, read again.
        """
        self.disk.fsync(descriptor)
        self.disk.forget(descriptor)
