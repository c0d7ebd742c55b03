"""A snapshot is read as it was written, or not at all."""

import hashlib
import json
import math
import struct
from array import array
from collections.abc import Callable

import pytest

from router.calibrate import Curve
from router.heads import Head, Scale
from router.snapshot import MAGIC, SnapshotError, parse, serialise
from tests.unit.router.learned import BITS, CLAUSES, CURVE, LENGTH, LOW, difficulty_bytes, seen, two_heads_bytes

Header = dict[str, object]


def taken_apart(data: bytes) -> tuple[Header, bytes]:
    line, payload = data[len(MAGIC) :].split(b"\n", 1)
    return json.loads(line), payload


def put_together(header: Header, payload: bytes) -> bytes:
    return MAGIC + json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n" + payload


def resigned(header: Header, payload: bytes) -> bytes:
    return put_together({**header, "payload_sha256": hashlib.sha256(payload).hexdigest()}, payload)


def test_what_was_written_is_read_and_written_again_alike():
    data = two_heads_bytes()
    snapshot = parse(data)
    assert snapshot.digest == hashlib.sha256(data).hexdigest()
    assert (snapshot.title, snapshot.bits, snapshot.names) == ("by hand", BITS, ("length", "clauses"))
    assert [head.name for head in snapshot.heads] == ["weak", "strong"]
    assert snapshot.scales == (LENGTH, CLAUSES)
    assert (snapshot.heads[0].calibration, snapshot.gain_low) == (CURVE, LOW)
    assert snapshot.seen == seen()
    again = serialise(snapshot.title, snapshot.bits, snapshot.scales, snapshot.heads, snapshot.seen, snapshot.gain_low)
    assert again == data


def test_words_are_kept_to_half_precision():
    head = parse(difficulty_bytes()).heads[0]
    assert sorted(set(head.words)) == [-0.5, 0.0, 0.75]
    table = array("f", bytes(4 << BITS))
    table[7] = 0.1
    kept = parse(serialise("x", BITS, (), (Head("difficulty", 0.0, (), table),), seen())).heads[0].words[7]
    assert kept != table[7]
    assert math.isclose(kept, 0.1, rel_tol=2**-11)


def test_any_changed_byte_is_noticed():
    data = difficulty_bytes()
    digest = parse(data).digest
    for place in [*range(0, 1_200), *range(1_200, len(data), 97)]:
        changed = bytearray(data)
        changed[place] ^= 1
        try:
            assert parse(bytes(changed)).digest != digest
        except SnapshotError:
            continue


@pytest.mark.parametrize("cut", [0, 5, len(MAGIC), 60, -1])
def test_a_snapshot_cut_short_is_refused(cut: int):
    with pytest.raises(SnapshotError):
        parse(difficulty_bytes()[:cut])


def test_bytes_after_the_end_are_refused():
    with pytest.raises(SnapshotError, match="too long"):
        parse(difficulty_bytes() + b"\x00")


HEAD = {"name": "difficulty", "bias": 0.0, "weights": [0.5, 0.25], "calibration": [[], []]}


def with_head(**changes: object) -> Callable[[Header], Header]:
    return lambda header: {**header, "heads": [{**HEAD, **changes}]}


def with_field(**changes: object) -> Callable[[Header], Header]:
    return lambda header: {**header, **changes}


def without(name: str) -> Callable[[Header], Header]:
    return lambda header: {key: value for key, value in header.items() if key != name}


SCALE = ["length", 4.0, 0.5, None, 7.0]
DAMAGE = {
    "title empty": with_field(title=""),
    "title no text": with_field(title=7),
    "title long": with_field(title="x" * 121),
    "title missing": without("title"),
    "bits text": with_field(bits="12"),
    "bits true": with_field(bits=True),
    "bits small": with_field(bits=7),
    "bits large": with_field(bits=21),
    "bits other": with_field(bits=13),
    "unknown key": with_field(more=1),
    "scales no list": with_field(scales={}),
    "scale short": with_field(scales=[SCALE[:4], SCALE]),
    "scale unknown": with_field(scales=[["beauty", *SCALE[1:]], SCALE]),
    "scale twice": with_field(scales=[SCALE, SCALE]),
    "scale mean text": with_field(scales=[["clauses", "0", 1.0, None, None], SCALE]),
    "scale deviation zero": with_field(scales=[["clauses", 0.0, 0.0, None, None], SCALE]),
    "scale deviation below zero": with_field(scales=[["clauses", 0.0, -1.0, None, None], SCALE]),
    "scale whole number": with_field(scales=[["clauses", 0, 1.0, None, None], SCALE]),
    "range backwards": with_field(scales=[["clauses", 0.0, 1.0, 2.0, 1.0], SCALE]),
    "range huge": with_field(scales=[["clauses", 0.0, 1.0, 2.0, 1e5], SCALE]),
    "heads none": with_field(heads=[]),
    "heads no list": with_field(heads=HEAD),
    "heads no mapping": with_field(heads=[1]),
    "head key missing": with_field(heads=[{key: HEAD[key] for key in ("name", "bias", "weights")}]),
    "head unknown": with_head(name="beauty"),
    "head alone": with_head(name="weak"),
    "bias text": with_head(bias="0"),
    "bias true": with_head(bias=True),
    "bias huge": with_head(bias=1e5),
    "weights few": with_head(weights=[0.5]),
    "weights many": with_head(weights=[0.5, 0.25, 0.1]),
    "weights no number": with_head(weights=[0.5, None]),
    "calibration one list": with_head(calibration=[[]]),
    "calibration uneven": with_head(calibration=[[0.0], [0.0, 1.0]]),
    "calibration falls": with_head(calibration=[[0.0, 1.0], [1.0, 0.0]]),
    "calibration stands": with_head(calibration=[[1.0, 1.0], [0.0, 1.0]]),
    "calibration text": with_head(calibration=[["0"], [0.0]]),
    "gain without heads": with_field(gain_low=[[0.0], [0.0]]),
    "digest no text": with_field(payload_sha256=1),
    "digest other": with_field(payload_sha256="0" * 64),
    "digest missing": without("payload_sha256"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_header_is_refused(damage: Callable[[Header], Header]):
    header, payload = taken_apart(difficulty_bytes())
    parse(put_together(header, payload))
    with pytest.raises(SnapshotError):
        parse(put_together(damage(header), payload))


@pytest.mark.parametrize(
    "gain_low",
    [None, [], [[], []], [[0.0], []], [[0.0], [1.5]], [[0.0, 0.0], [0.0, 0.1]], [[0.0, 1.0], [0.1, 0.0]]],
    ids=["none", "empty", "no knots", "uneven", "above 1", "stands", "falls"],
)
def test_two_heads_need_a_bound_that_rises_within_its_range(gain_low: object):
    header, payload = taken_apart(two_heads_bytes())
    with pytest.raises(SnapshotError):
        parse(put_together({**header, "gain_low": gain_low}, payload))


def test_heads_in_another_order_are_refused():
    header, payload = taken_apart(two_heads_bytes())
    heads = header["heads"]
    assert isinstance(heads, list)
    with pytest.raises(SnapshotError, match="neither"):
        parse(put_together({**header, "heads": heads[::-1]}, payload))


@pytest.mark.parametrize("line", [b"{}", b"[]", b"nonsense", b'{"a":NaN}', b"[" * 10_000, b""], ids=str)
def test_a_header_of_another_kind_is_refused(line: bytes):
    _, payload = taken_apart(difficulty_bytes())
    with pytest.raises(SnapshotError):
        parse(MAGIC + line + b"\n" + payload)


def test_a_header_has_one_spelling():
    header, payload = taken_apart(difficulty_bytes())
    spaced = MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n" + payload
    with pytest.raises(SnapshotError, match="one spelling"):
        parse(spaced)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "minus inf"])
def test_weights_that_are_not_finite_are_refused(weight: float):
    header, payload = taken_apart(difficulty_bytes())
    spoilt = payload[:-2] + struct.pack("<e", weight)
    with pytest.raises(SnapshotError, match="finite"):
        parse(resigned(header, spoilt))


def test_what_could_not_be_read_back_is_not_written():
    table = array("f", bytes(4 << BITS))
    head = Head("difficulty", math.nan, (), table)
    with pytest.raises(SnapshotError):
        serialise("x", BITS, (), (head,), seen())
    table[0] = 1e6
    with pytest.raises(SnapshotError, match="half float"):
        serialise("x", BITS, (), (Head("difficulty", 0.0, (), table),), seen())
    with pytest.raises(SnapshotError, match="0 and 1"):
        serialise("x", BITS, (), (), b"\x02" * (1 << BITS))
    falling = Curve((0.0, 1.0), (1.0, 0.0))
    with pytest.raises(SnapshotError, match="rise"):
        serialise("x", BITS, (), (Head("difficulty", 0.0, (), array("f", bytes(4 << BITS)), falling),), seen())
    with pytest.raises(SnapshotError, match="unknown"):
        serialise("x", BITS, (Scale("beauty", 0, 0.0, 1.0),), (), seen())
