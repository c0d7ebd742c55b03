"""A trained snapshot as bytes: heads, scales and knots, parsed strictly and known by its digest.

Layout: one line `gatehouse-router-snapshot 1`, one line of canonical JSON (sorted keys, no blanks, the header), then
the payload: the bit map of the hashed words that training met (2^bits / 8 bytes), and for each head 2^bits weights as
little-endian half floats. The header holds the payload's SHA-256. Every snapshot has exactly one spelling, so equal
snapshots have equal bytes and one digest. What is damaged, cut short, too long, not finite or not known is refused.
"""

import hashlib
import json
import math
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, cast

from router.calibrate import Curve
from router.heads import Head, Scale
from router.structure import NAMES

MAGIC: Final = b"gatehouse-router-snapshot 1\n"
DIFFICULTY: Final = "difficulty"
WEAK: Final = "weak"
STRONG: Final = "strong"
_HEADS: Final = ((DIFFICULTY,), (WEAK, STRONG))
_BITS: Final = (8, 20)
_MOST_HEADER_BYTES: Final = 1_000_000
_MOST_KNOTS: Final = 1_000
_MOST_NAME_CHARS: Final = 120
_LARGEST: Final = 1e4


class SnapshotError(Exception):
    """Bytes that are no snapshot; the message says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Heads that were trained together, immutable once read.

    `heads` are either (difficulty,) or (weak, strong). `names` are those of `scales`. `seen` has one byte for each of
    the 2^bits numbers, 1 where training met a word of that number, else 0. `gain_low` is the lower bound
    that was found for a predicted gain, both in [-1, 1]; None when there is no gain. `digest` is the SHA-256 hex of
    the bytes.
    """

    title: str
    bits: int
    scales: tuple[Scale, ...]
    heads: tuple[Head, ...]
    seen: bytes
    gain_low: Curve | None
    digest: str

    @property
    def names(self) -> tuple[str, ...]:
        """The features in the order of the weights."""
        return tuple(scale.name for scale in self.scales)

    def head(self, name: str) -> Head | None:
        """The head called `name`, if it has one."""
        return next((head for head in self.heads if head.name == name), None)


def serialise(
    title: str,
    bits: int,
    scales: Sequence[Scale],
    heads: Sequence[Head],
    seen: bytes,
    gain_low: Curve | None = None,
) -> bytes:
    """The one spelling of a snapshot. Weights of words are rounded to half floats; `SnapshotError` if one overflows."""

    def plain(values: Sequence[float]) -> list[float]:
        return [float(value) for value in values]

    try:
        payload = _packed(seen) + b"".join(struct.pack(f"<{len(head.words)}e", *head.words) for head in heads)
    except (OverflowError, struct.error) as error:
        raise SnapshotError("a weight does not fit into a half float") from error
    header = {
        "title": title,
        "bits": bits,
        "scales": [
            [scale.name, float(scale.mean), float(scale.deviation), _maybe(scale.low), _maybe(scale.high)]
            for scale in scales
        ],
        "heads": [
            {
                "name": head.name,
                "bias": float(head.bias),
                "weights": plain(head.weights),
                "calibration": [plain(head.calibration.xs), plain(head.calibration.ys)],
            }
            for head in heads
        ],
        "gain_low": None if gain_low is None else [plain(gain_low.xs), plain(gain_low.ys)],
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
    }
    data = MAGIC + _canonical(header) + b"\n" + payload
    parse(data)  # what cannot be read back must not be written
    return data


def _maybe(value: float | None) -> float | None:
    return None if value is None else float(value)


def parse(data: bytes) -> Snapshot:
    """The snapshot in `data`; `SnapshotError` when any of it is not as the layout says."""
    if not data.startswith(MAGIC):
        raise SnapshotError("not a router snapshot of version 1")
    end = data.find(b"\n", len(MAGIC), len(MAGIC) + _MOST_HEADER_BYTES)
    if end < 0:
        raise SnapshotError("the header does not end")
    line, payload = data[len(MAGIC) : end], data[end + 1 :]
    header = _header(line)
    bits = _integer(header["bits"], "bits", *_BITS)
    scales = _scales(header["scales"])
    shapes = _list(header["heads"], "heads", len(_HEADS[-1]))
    block = 2 << bits
    seen_bytes = (1 << bits) // 8
    if len(payload) != seen_bytes + block * len(shapes):
        raise SnapshotError("the payload is cut short or too long")
    if hashlib.sha256(payload).hexdigest() != _text(header["payload_sha256"], "payload_sha256"):
        raise SnapshotError("the payload is not what the header says (SHA-256)")
    starts = range(seen_bytes, len(payload), block)
    heads = tuple(
        _head(shape, payload[start : start + block], len(scales)) for shape, start in zip(shapes, starts, strict=True)
    )
    if tuple(head.name for head in heads) not in _HEADS:
        raise SnapshotError("heads are neither (difficulty) nor (weak, strong)")
    two = len(heads) == len(_HEADS[-1])
    if two is (header["gain_low"] is None):
        raise SnapshotError("gain_low goes with two heads, and only with them")
    return Snapshot(
        title=_text(header["title"], "title"),
        bits=bits,
        scales=scales,
        heads=heads,
        seen=b"".join(map(_BITS_OF.__getitem__, payload[:seen_bytes])),
        gain_low=_curve(header["gain_low"], "gain_low", slope=0.0, rising=1.0) if two else None,
        digest=hashlib.sha256(data).hexdigest(),
    )


_BITS_OF: Final = tuple(bytes(byte >> place & 1 for place in range(8)) for byte in range(256))
_BYTE_OF: Final = {bits: byte for byte, bits in enumerate(_BITS_OF)}


def _packed(seen: bytes) -> bytes:
    """Eight of the bytes 0 and 1 as the bits of one, the first as the lowest."""
    try:
        return bytes(_BYTE_OF[seen[start : start + 8]] for start in range(0, len(seen), 8))
    except KeyError as error:
        raise SnapshotError("`seen` holds something else than 0 and 1") from error


_KEYS: Final = frozenset({"title", "bits", "scales", "heads", "gain_low", "payload_sha256"})
_HEAD_KEYS: Final = frozenset({"name", "bias", "weights", "calibration"})


def _canonical(value: object) -> bytes:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise SnapshotError("a number is not finite") from error


def _header(line: bytes) -> Mapping[str, object]:
    try:
        found: object = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise SnapshotError("the header is not JSON") from error
    header = _mapping(found, "header", _KEYS)
    if _canonical(header) != line:
        raise SnapshotError("the header is not in its one spelling")
    return header


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _scales(value: object) -> tuple[Scale, ...]:
    scales: list[Scale] = []
    for entry in _list(value, "scales", len(NAMES)):
        parts = _list(entry, "scale", 5)
        if len(parts) != 5:
            raise SnapshotError("a scale has five parts")
        name = _text(parts[0], "scale")
        if name not in NAMES or any(name == scale.name for scale in scales):
            raise SnapshotError("a scale's feature is unknown or named twice")
        low, high = (None if part is None else _number(part, "range") for part in parts[3:])
        if low is not None and high is not None and low > high:
            raise SnapshotError("a range ends before it begins")
        deviation = _number(parts[2], "deviation")
        if deviation < 1e-6:
            raise SnapshotError("a deviation is not positive")
        scales.append(Scale(name, NAMES.index(name), _number(parts[1], "mean"), deviation, low, high))
    return tuple(scales)


def _head(value: object, block: bytes, features: int) -> Head:
    shape = _mapping(value, "head", _HEAD_KEYS)
    weights = tuple(_number(part, "weight") for part in _list(shape["weights"], "weights", features))
    if len(weights) != features:
        raise SnapshotError("a head needs one weight per scale")
    words = array("f", struct.unpack(f"<{len(block) // 2}e", block))
    if not all(map(math.isfinite, words)):
        raise SnapshotError("a word's weight is not finite")
    return Head(
        name=_text(shape["name"], "name"),
        bias=_number(shape["bias"], "bias"),
        weights=weights,
        words=words,
        calibration=_curve(shape["calibration"], "calibration", slope=1.0, rising=_LARGEST),
    )


def _curve(value: object, name: str, *, slope: float, rising: float) -> Curve:
    """A curve whose values lie within `rising` of 0."""
    parts = _list(value, name, 2)
    if len(parts) != 2:
        raise SnapshotError(f"{name} has two lists")
    xs, ys = (tuple(_number(part, name) for part in _list(side, name, _MOST_KNOTS)) for side in parts)
    if len(xs) != len(ys) or (not xs and slope == 0.0):
        raise SnapshotError(f"{name} needs as many values as knots")
    if any(a >= b for a, b in zip(xs, xs[1:], strict=False)) or any(a > b for a, b in zip(ys, ys[1:], strict=False)):
        raise SnapshotError(f"{name} does not rise")
    if any(abs(y) > rising for y in ys):
        raise SnapshotError(f"{name} leaves its range")
    return Curve(xs, ys, slope)


def _mapping(value: object, name: str, keys: frozenset[str]) -> Mapping[str, object]:
    if not isinstance(value, dict) or cast("dict[str, object]", value).keys() != keys:
        raise SnapshotError(f"{name} has not exactly the keys {', '.join(sorted(keys))}")
    return cast("dict[str, object]", value)


def _list(value: object, name: str, most: int) -> Sequence[object]:
    if not isinstance(value, list) or len(cast("list[object]", value)) > most:
        raise SnapshotError(f"{name} is not a list of at most {most}")
    return cast("list[object]", value)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_NAME_CHARS:
        raise SnapshotError(f"{name} is not a short text")
    return value


def _number(value: object, name: str) -> float:
    if not isinstance(value, float) or not abs(value) <= _LARGEST:
        raise SnapshotError(f"{name} is not a decimal number within {_LARGEST:g} of 0")
    return value


def _integer(value: object, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SnapshotError(f"{name} is not a whole number from {low} to {high}")
    return value
