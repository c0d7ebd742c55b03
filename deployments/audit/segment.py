"""The log on disk: how a record is framed, how segment files are named, and how bytes are read back.

```
<dir>/segments/00000000000000000000.seg   frames of the records from that index on
frame = magic 4 | payload length 4 | sequence 8 | previous head 32 | CRC-32 4 | payload      (big-endian)
```

The CRC covers everything else in the frame and finds accidents; the previous head links each record to all before it
and finds intent. The magic starts with 0xFF, which never occurs in UTF-8, so no payload can imitate a frame.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from deployments.audit.chain import HASH_BYTES
from deployments.audit.record import MAX_RECORD_BYTES

MAGIC = b"\xffGH1"
_PREFIX = struct.Struct(f">4sIQ{HASH_BYTES}s")
_CRC = struct.Struct(">I")
HEADER_BYTES = _PREFIX.size + _CRC.size
SEGMENTS_DIR = "segments"
_SUFFIX = ".seg"


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


def segment_name(first_sequence: int) -> str:
    """File name of the segment whose first record has this sequence; names sort in log order."""
    return f"{first_sequence:020d}{_SUFFIX}"


def first_sequence(path: Path) -> int | None:
    """The sequence in a segment's file name, or None when the name is not a segment's."""
    digits = path.name.removesuffix(_SUFFIX)
    if path.suffix != _SUFFIX or len(digits) != 20 or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits)


def segment_paths(directory: Path) -> list[Path]:
    """All segment files of a log, in log order."""
    folder = directory / SEGMENTS_DIR
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if first_sequence(path) is not None)


def _frame_at(data: bytes, offset: int) -> Frame | str:
    """The frame at `offset`, or why there is none."""
    body = offset + HEADER_BYTES
    if len(data) < body:
        return "the frame header is cut off"
    magic, length, sequence, previous = _PREFIX.unpack_from(data, offset)
    if magic != MAGIC:
        return "no frame starts here"
    if length > MAX_RECORD_BYTES:
        return f"the frame claims {length} bytes, more than any record has"
    end = body + length
    if len(data) < end:
        return "the record is cut off"
    payload = data[body:end]
    (crc,) = _CRC.unpack_from(data, offset + _PREFIX.size)
    if crc != crc32(payload, crc32(data[offset : offset + _PREFIX.size])):
        return "the CRC does not match"
    return Frame(sequence=sequence, previous=previous, payload=payload, offset=offset, end=end)


def _frame_follows(data: bytes, offset: int) -> bool:
    """True when a whole frame starts anywhere after `offset`."""
    found = data.find(MAGIC, offset + 1)
    while found >= 0:
        if isinstance(_frame_at(data, found), Frame):
            return True
        found = data.find(MAGIC, found + 1)
    return False


def read_frames(data: bytes) -> Iterator[Frame | Damage]:
    """The frames of one segment in order; a `Damage`, if any, comes last."""
    offset = 0
    while offset < len(data):
        found = _frame_at(data, offset)
        if isinstance(found, str):
            yield Damage(offset=offset, reason=found, may_be_torn=not _frame_follows(data, offset))
            return
        yield found
        offset = found.end
