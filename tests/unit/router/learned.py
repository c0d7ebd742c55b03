"""Snapshots made by hand, small enough to check by hand."""

from array import array

from router.calibrate import IDENTITY, Curve
from router.features import read
from router.hashing import hashed
from router.heads import Head, Scale
from router.snapshot import serialise
from router.structure import NAMES

BITS = 12
LENGTH = Scale("length", NAMES.index("length"), 4.0, 0.5, None, 7.0)
CLAUSES = Scale("clauses", NAMES.index("clauses"), 0.5, 0.25)
KNOWN = "prove the big theorem, step by step, for every river and every engine"
CURVE = Curve((-1.0, 0.0, 2.0), (-1.5, -0.5, 1.0))
LOW = Curve((-0.5, 0.0, 0.5), (-0.6, -0.1, 0.3), slope=0.0)


def numbers(text: str) -> frozenset[int]:
    return hashed(read(text).words, BITS)[1]


def words_of(weights: dict[str, float]) -> "array[float]":
    table = array("f", bytes(4 << BITS))
    for word, weight in weights.items():
        (number,) = hashed((word,), BITS)[0]
        table[number] = weight
    return table


def seen(text: str = KNOWN) -> bytes:
    table = bytearray(1 << BITS)
    for number in hashed(read(text).words, BITS)[0]:
        table[number] = 1
    return bytes(table)


def difficulty_bytes(calibration: Curve = CURVE, known: str = KNOWN) -> bytes:
    head = Head("difficulty", -0.3, (0.5, 0.25), words_of({"prove": 0.75, "river": -0.5}), calibration)
    return serialise("by hand", BITS, (LENGTH, CLAUSES), (head,), seen(known))


def two_heads_bytes(weak_bias: float = -0.2, strong_bias: float = 1.0) -> bytes:
    weak = Head("weak", weak_bias, (-0.5, -0.25), words_of({"prove": -1.0}), CURVE)
    strong = Head("strong", strong_bias, (-0.125, 0.0), words_of({"prove": 0.5}), IDENTITY)
    return serialise("by hand", BITS, (LENGTH, CLAUSES), (weak, strong), seen(), gain_low=LOW)
