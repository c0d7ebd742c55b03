"""Seals of finished segments: what a segment holds, so that a start need not decode it again.

`<segment>.seal` lies beside `<segment>.seg`. It is derived, and it finds accidents: a flipped bit in the segment
misses the digest, a flipped bit in the seal misses its own. Wherever a seal does not fit, the frames decide.
"""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import cast

from deployments.audit.files import SYSTEM_DISK, Disk, read_all, replace_file

_SCHEMA = "gatehouse.audit-seal/1"
_CHUNK_BYTES = 1 << 20
_TYPES = {"first": int, "count": int, "size": int, "last": int, "sha256": str}


@dataclass(frozen=True, slots=True)
class Seal:
    """The first `size` bytes of a segment: their SHA-256 (hex), and the `count` records from `first` on in them.

    The frame of the last of them begins at byte `last`. Heads are not here: the frames have them.
    """

    first: int
    count: int
    size: int
    last: int
    sha256: str

    @property
    def end(self) -> int:
        """The sequence after the last record."""
        return self.first + self.count


def seal_path(segment: Path) -> Path:
    """Where the seal of a segment lies."""
    return segment.with_suffix(".seal")


def write_seal(segment: Path, seal: Seal, writer: str, disk: Disk = SYSTEM_DISK) -> None:
    """Store a seal durably. `writer` tells apart who may do so at the same time."""
    text = _text(seal)
    replace_file(seal_path(segment), f"{text}\n{_check(text)}\n".encode(), disk, f".{writer}.new")


def read_seal(segment: Path, disk: Disk = SYSTEM_DISK) -> Seal | None:
    """The seal of a segment, or None when there is none or it is damaged."""
    try:
        lines = read_all(seal_path(segment), disk).decode("ascii").split("\n")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    if len(lines) != 3 or lines[2] or _check(lines[0]) != lines[1]:
        return None
    try:
        found: object = json.loads(lines[0])
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    fields = cast("dict[str, object]", found)
    if fields.pop("schema", None) != _SCHEMA or fields.keys() != _TYPES.keys():
        return None
    if any(type(fields[name]) is not kind for name, kind in _TYPES.items()):
        return None
    return Seal(**fields)  # pyright: ignore[reportArgumentType]


def digest(descriptor: int, size: int, disk: Disk = SYSTEM_DISK) -> str | None:
    """SHA-256 (hex) of the first `size` bytes of an open file, None when it is shorter."""
    found, offset = sha256(), 0
    while offset < size:
        part = disk.read(descriptor, min(_CHUNK_BYTES, size - offset), offset)
        if not part:
            return None
        found.update(part)
        offset += len(part)
    return found.hexdigest()


def _text(seal: Seal) -> str:
    return json.dumps({"schema": _SCHEMA, **asdict(seal)}, separators=(",", ":"))


def _check(text: str) -> str:
    return sha256(text.encode()).hexdigest()
