"""The log on disk: how a record is framed, which segment files belong to the log, and how bytes are read back.

```
<dir>/segments/<first sequence>-<epoch>-<after>.seg   frames of the records from that sequence on; 20 digits each
<dir>/segments/<first sequence>.seg                   as older versions named them: epoch 0
frame = magic 4 | payload length 4 | sequence 8 | previous head 32 | CRC-32 4 | payload      (big-endian)
```

The CRC covers everything else in the frame and finds accidents; the previous head links each record to all before it
and finds intent. The magic starts with 0xFF, which never occurs in UTF-8, so no payload can imitate a frame.

Each opening of the log takes a higher epoch and starts a segment of its own, which names the epoch that it goes on
from (`after`). Where it begins, that epoch ends: bytes behind, be they torn or whole records, came from a writer that
was the writer no more. They were never acknowledged and belong to nobody (`Stretch.fenced`). Nor do epochs that nobody
went on from: their writers were overtaken while they opened the log (`Lineage.strays`).
"""

import re
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from deployments.audit.chain import HASH_BYTES
from deployments.audit.files import SYSTEM_DISK, Disk
from deployments.audit.record import MAX_RECORD_BYTES

MAGIC = b"\xffGH1"
_PREFIX = struct.Struct(f">4sIQ{HASH_BYTES}s")
_CRC = struct.Struct(">I")
HEADER_BYTES = _PREFIX.size + _CRC.size
SEGMENTS_DIR = "segments"
_NAME = re.compile(r"([0-9]{20})(?:-([0-9]{20})-([0-9]{20}))?\.seg")
_CHUNK_BYTES = 1 << 20
_MAX_FRAME_BYTES = HEADER_BYTES + MAX_RECORD_BYTES


@dataclass(frozen=True, slots=True)
class Frame:
    """One record as stored. `offset` and `end` are byte positions in its segment."""

    sequence: int
    previous: bytes
    payload: bytes
    offset: int
    end: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Where reading a segment stopped short of its end, and why.

    `may_be_torn` says that an interrupted write explains it: no whole frame follows.
    """

    offset: int
    reason: str
    may_be_torn: bool


def frame(sequence: int, previous: bytes, payload: bytes) -> bytes:
    """The bytes of one record on disk."""
    prefix = _PREFIX.pack(MAGIC, len(payload), sequence, previous)
    return prefix + _CRC.pack(crc32(payload, crc32(prefix))) + payload


# --- names -------------------------------------------------------------------------------------------------------


def segment_name(first_sequence: int, epoch: int, after: int | None = None) -> str:
    """File name of the segment that the writer of `epoch` begins at this sequence.

    `after`: the epoch that it goes on from, None: the one before. Only the first segment of an epoch is asked.
    """
    return f"{first_sequence:020d}-{epoch:020d}-{max(epoch - 1, 0) if after is None else after:020d}.seg"


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    first: int
    epoch: int
    after: int


def _place(name: str) -> _Place | None:
    found = _NAME.fullmatch(name)
    return None if found is None else _Place(int(found[1]), int(found[2] or 0), int(found[3] or 0))


def first_sequence(path: Path) -> int | None:
    """The sequence in a segment's file name, or None when the name is not a segment's."""
    found = _place(path.name)
    return None if found is None else found.first


def segment_epoch(path: Path) -> int | None:
    """The epoch in a segment's file name, 0 in an old one's; None when the name is not a segment's."""
    found = _place(path.name)
    return None if found is None else found.epoch


def segment_paths(directory: Path, disk: Disk = SYSTEM_DISK) -> list[Path]:
    """All segment files of a log by first sequence, then epoch; also those that do not belong to it (`lineage`)."""
    folder = directory / SEGMENTS_DIR
    return [folder / name for name in sorted(disk.names(folder)) if _place(name) is not None]


@dataclass(frozen=True, slots=True)
class Stretch:
    """The part of one segment that belongs to the log: the records from `first` up to, not including, `end`.

    `end` None is the newest segment: it reaches as far as its frames do. `fenced`: a later opening took over at `end`,
    so bytes behind it mean nothing; without it they are corruption.
    """

    path: Path
    first: int
    epoch: int
    end: int | None
    fenced: bool


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which segments are the log, in order, and which are strays: begun by a writer that was the writer no more."""

    stretches: tuple[Stretch, ...]
    strays: tuple[Path, ...]


def lineage(paths: Iterable[Path]) -> Lineage:
    """Sort the segment files of a log. Reads names only: whether each stretch holds its records is for who reads it.

    The newest epoch is the log's end; each epoch says which one it goes on from. That is the one which its writer
    found to be the newest, after it had stopped all earlier ones from acknowledging anything.
    """
    by_epoch: dict[int, list[tuple[_Place, Path]]] = {}
    for path in paths:
        place = _place(path.name)
        if place is not None:
            by_epoch.setdefault(place.epoch, []).append((place, path))
    own: list[tuple[_Place, Path]] = []
    epoch, bound = max(by_epoch, default=0), sys.maxsize
    while epoch in by_epoch:
        placed = sorted(by_epoch[epoch])
        own = [each for each in placed if each[0].first < bound] + own
        opening = placed[0][0]
        bound = min(bound, opening.first)
        epoch = opening.after if opening.after < epoch else -1
    stretches = [
        Stretch(path, place.first, place.epoch, following.first, following.epoch > place.epoch)
        for (place, path), (following, _) in zip(own, own[1:], strict=False)
    ]
    stretches += [Stretch(path, place.first, place.epoch, None, False) for place, path in own[-1:]]
    belongs = {path for _, path in own}
    strays = (path for placed in by_epoch.values() for _, path in sorted(placed) if path not in belongs)
    return Lineage(tuple(stretches), tuple(strays))


def read_lineage(directory: Path, disk: Disk = SYSTEM_DISK) -> Lineage:
    """The lineage of the log in `directory`."""
    return lineage(segment_paths(directory, disk))


# --- frames ------------------------------------------------------------------------------------------------------


def _frame_at(data: bytes, at: int, base: int = 0) -> Frame | str:
    """The frame at `data[at:]`, or why there is none. `base`: where in the segment `data` begins."""
    body = at + HEADER_BYTES
    if len(data) < body:
        return "the frame header is cut off"
    magic, length, sequence, previous = _PREFIX.unpack_from(data, at)
    if magic != MAGIC:
        return "no frame starts here"
    if length > MAX_RECORD_BYTES:
        return f"the frame claims {length} bytes, more than any record has"
    end = body + length
    if len(data) < end:
        return "the record is cut off"
    payload = data[body:end]
    (crc,) = _CRC.unpack_from(data, at + _PREFIX.size)
    if crc != crc32(payload, crc32(data[at : at + _PREFIX.size])):
        return "the CRC does not match"
    return Frame(sequence, previous, payload, base + at, base + end)


def _frame_follows(data: bytes, offset: int) -> bool:
    """True when a whole frame starts anywhere after `offset`."""
    found = data.find(MAGIC, offset + 1)
    while found >= 0:
        if isinstance(_frame_at(data, found), Frame):
            return True
        found = data.find(MAGIC, found + 1)
    return False


def read_frames(data: bytes, offset: int = 0) -> Iterator[Frame | Damage]:
    """The frames of one segment in order, from the one at `offset` on; a `Damage`, if any, comes last."""
    while offset < len(data):
        found = _frame_at(data, offset)
        if isinstance(found, str):
            yield Damage(offset=offset, reason=found, may_be_torn=not _frame_follows(data, offset))
            return
        yield found
        offset = found.end


def scan_frames(
    descriptor: int, offset: int = 0, disk: Disk = SYSTEM_DISK, limit: int = sys.maxsize
) -> Iterator[Frame | Damage]:
    """What `read_frames` answers, of the first `limit` bytes of an open file and with about a MiB in memory.

    A file that somebody still writes to needs a `limit`. `OSError` when it cannot be read.
    """
    data, at, base, ended = b"", 0, offset, False
    while True:
        if not ended and len(data) - at < _MAX_FRAME_BYTES:
            base, data, at = base + at, data[at:], 0
            more = _chunk(descriptor, base + len(data), disk, limit)
            data, ended = data + more, not more
            continue
        if at == len(data):
            return
        found = _frame_at(data, at, base)
        if isinstance(found, str):
            rest = data[at:] + b"".join(_chunks(descriptor, base + len(data), disk, limit))
            yield Damage(offset=base + at, reason=found, may_be_torn=not _frame_follows(rest, 0))
            return
        yield found
        at = found.end - base


def _chunk(descriptor: int, offset: int, disk: Disk, limit: int) -> bytes:
    return disk.read(descriptor, min(_CHUNK_BYTES, max(limit - offset, 0)), offset)


def _chunks(descriptor: int, offset: int, disk: Disk, limit: int) -> Iterator[bytes]:
    while more := _chunk(descriptor, offset, disk, limit):
        yield more
        offset += len(more)
