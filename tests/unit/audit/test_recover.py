"""Truncation at every byte and damage of every byte of a log in three segments."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deployments.audit.chain import GENESIS, leaf_hash, link
from deployments.audit.head import EMPTY, HEAD_FILE, write_head
from deployments.audit.recover import CorruptLog, recover
from deployments.audit.segment import HEADER_BYTES, MAGIC, SEGMENTS_DIR, frame, read_frames, segment_paths
from deployments.audit.verify import verify
from tests.unit.audit.logs import frames_of, open_log, raw_frames, replace_frames, routed, write_log


@pytest.fixture
def log() -> Iterator[Path]:
    # Thousands of recoveries, each with its fsync: in memory where the machine has such a place.
    memory = Path("/dev/shm")  # noqa: S108 - a fresh private directory in it
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        write_log(Path(name), [routed(number) for number in range(6)])
        assert len(segment_paths(Path(name))) == 3
        yield Path(name)


def _forget_head(log: Path) -> None:
    write_head(log, EMPTY)


def _cuts(log: Path) -> Iterator[tuple[list[Path], Path, int, int]]:
    """Every way to lose the end: (paths before, the cut one, its length, whole records left), from the end on."""
    paths = segment_paths(log)
    for number in reversed(range(len(paths))):
        before = sum(len(frames_of(path)) for path in paths[:number])
        ends = [found.end for found in frames_of(paths[number])]
        for length in reversed(range(paths[number].stat().st_size)):
            yield paths[:number], paths[number], length, before + sum(end <= length for end in ends)
        paths[number].unlink()


def test_a_log_cut_at_any_byte_recovers_its_longest_valid_prefix(log: Path) -> None:
    _forget_head(log)
    hashes = [GENESIS]
    for path in segment_paths(log):
        for found in frames_of(path):
            hashes.append(link(hashes[-1], leaf_hash(found.payload)))
    cut_bytes = 0
    for _, path, length, records in _cuts(log):
        whole = path.read_bytes()
        path.write_bytes(whole[:length])
        recovered = recover(log)
        assert (recovered.index.size, recovered.index.head) == (records, hashes[records])
        assert path.stat().st_size == length - recovered.torn_bytes
        assert recovered.torn_bytes < len(whole)
        path.write_bytes(whole[:length])
        cut_bytes += 1
    assert cut_bytes > 2_000


def test_a_log_cut_at_any_byte_below_its_recorded_head_is_refused(log: Path) -> None:
    for _, path, length, records in _cuts(log):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(CorruptLog, match=rf"has {records} records, but 7 were acknowledged"):
            recover(log)
        assert path.stat().st_size == length  # refused means untouched


def test_any_damaged_byte_is_refused_and_fails_verification(log: Path) -> None:
    for path in segment_paths(log):
        whole = path.read_bytes()
        for offset in range(len(whole)):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ (1 << offset % 8)]) + whole[offset + 1 :])
            with pytest.raises(CorruptLog):
                recover(log)
            assert not verify(log).ok, f"{path.name} byte {offset}"
        path.write_bytes(whole)
    assert verify(log).ok


def test_without_a_head_damage_is_a_tail_only_in_the_last_record(log: Path) -> None:
    _forget_head(log)
    paths = segment_paths(log)
    last = frames_of(paths[-1])[-1]
    for path in paths:
        whole = path.read_bytes()
        for offset in range(0, len(whole), 3):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :])
            if path == paths[-1] and offset >= last.offset:
                assert recover(log).index.size == 6
            else:
                with pytest.raises(CorruptLog):
                    recover(log)
        path.write_bytes(whole)


def test_every_damaged_byte_of_the_recorded_head_is_noticed(log: Path) -> None:
    whole = (log / HEAD_FILE).read_bytes()
    start, end = whole.index(b'"size"'), whole.rindex(b'"') + 1
    for offset in range(start, end):
        (log / HEAD_FILE).write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x02]) + whole[offset + 1 :])
        with pytest.raises(CorruptLog):
            recover(log)


def test_a_missing_head_beside_records_is_refused(log: Path) -> None:
    (log / HEAD_FILE).unlink()
    with pytest.raises(CorruptLog, match=r"head.json, byte 0: the recorded head is missing"):
        recover(log)


def test_a_missing_segment_is_refused(log: Path) -> None:
    segment_paths(log)[1].unlink()
    with pytest.raises(CorruptLog, match="should start at record 3"):
        recover(log)


def test_an_empty_last_segment_is_a_crash_right_after_rolling(log: Path) -> None:
    (log / SEGMENTS_DIR / f"{7:020d}.seg").touch()
    assert recover(log).index.size == 7
    writer = open_log(log)
    assert writer.head().size == 8
    writer.close()
    assert verify(log).ok


def test_a_torn_tail_is_cut_off_and_recorded(log: Path) -> None:
    last = segment_paths(log)[-1]
    with last.open("ab") as file:
        file.write(MAGIC + b"\x00\x00")
    writer = open_log(log)
    writer.close()
    report = verify(log)
    assert report.ok
    assert report.records == 8
    assert b'"torn_bytes":6' in raw_frames(log)[-1]


def test_records_after_damage_are_never_taken_for_a_tail(log: Path) -> None:
    _forget_head(log)
    last = segment_paths(log)[-1]
    whole, record = last.read_bytes(), raw_frames(log)[0]
    last.write_bytes(whole + MAGIC + record)
    with pytest.raises(CorruptLog, match="later records follow"):
        recover(log)


def test_a_record_appended_twice_is_refused(log: Path) -> None:
    found = frames_of(segment_paths(log)[0])[1]
    frames = raw_frames(log)
    head = recover(log).index.head
    replace_frames(log, [*frames, frame(len(frames), head, found.payload)])
    with pytest.raises(CorruptLog, match="another place"):
        recover(log)


def _forge(log: Path, places: list[int], payloads: list[bytes], link_from: int = 0) -> None:
    """A log whose CRCs are right and whose recorded head is lost; links are right from record `link_from` on."""
    head, frames = GENESIS, list[bytes]()
    for place, payload in zip(places, payloads, strict=True):
        frames.append(frame(place, head if len(frames) >= link_from else bytes(31) + b"x", payload))
        head = link(head, leaf_hash(payload))
    replace_frames(log, frames)
    _forget_head(log)


def test_a_log_without_a_trustworthy_head_still_refuses_what_its_links_show(log: Path) -> None:
    payloads = [found.payload for path in segment_paths(log) for found in frames_of(path)]
    places = list(range(7))
    _forge(log, places, payloads)
    assert recover(log).index.size == 7
    _forge(log, places, payloads, link_from=1)
    with pytest.raises(CorruptLog, match="link to the record before is broken"):
        recover(log)
    _forge(log, [0, 1, 3, 4, 5, 6], payloads[:2] + payloads[3:])
    with pytest.raises(CorruptLog, match="record 2 should be here"):
        recover(log)
    twice = payloads[2].replace(b'"sequence":2', b'"sequence":7')
    _forge(log, [*places, 7], [*payloads, twice])
    with pytest.raises(CorruptLog, match="event id occurs twice"):
        recover(log)


def test_no_payload_imitates_a_frame() -> None:
    # 0xFF does not occur in UTF-8: whatever text a record holds, the magic is not in it.
    with pytest.raises(UnicodeDecodeError):
        MAGIC.decode()
    assert next(read_frames(frame(0, GENESIS, b"{}"))).end == HEADER_BYTES + 2  # pyright: ignore[reportAttributeAccessIssue]
