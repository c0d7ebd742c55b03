"""Truncation at every byte and damage of every byte of a log in three segments; seals; fenced segments."""

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deployments.audit.chain import GENESIS, leaf_hash, link
from deployments.audit.files import SystemDisk
from deployments.audit.head import EMPTY, HEAD_FILE, write_head
from deployments.audit.record import encode
from deployments.audit.recover import CorruptLog, recover
from deployments.audit.seals import read_seal, seal_path, write_seal
from deployments.audit.segment import (
    HEADER_BYTES,
    MAGIC,
    SEGMENTS_DIR,
    Frame,
    first_sequence,
    frame,
    read_frames,
    segment_paths,
)
from deployments.audit.verify import verify
from deployments.audit.writer import LogWriter
from deployments.clock import FixedClock
from tests.unit.audit.disks import MemoryDisk, stepped
from tests.unit.audit.logs import SMALL, frames_of, open_log, raw_frames, replace_frames, routed, write_log


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
        assert (recovered.size, recovered.head) == (records, hashes[records])
        assert path.read_bytes() == whole[:length]  # nothing is cut off: the next segment says where this one ends
        assert recovered.torn_bytes == length - max(
            [0, *(found.end for found in read_frames(whole) if isinstance(found, Frame) and found.end <= length)]
        )
        cut_bytes += 1
        path.write_bytes(whole[:length])
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
                assert recover(log).size == 6
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


def test_a_log_that_another_writer_begins_at_the_same_moment_is_read_with_its_head(log: Path) -> None:
    looks: list[str] = []

    def before(step: str, arguments: tuple[object, ...]) -> object:
        if step == "open" and str(arguments[0]).endswith(HEAD_FILE):
            looks.append(step)
            if len(looks) == 1:  # not there yet; what is there at the next look came in between
                raise FileNotFoundError(HEAD_FILE)
        return None

    found, expected = recover(log, stepped(before)), recover(log)
    assert len(looks) == 2
    assert (found.size, found.head, found.is_new) == (expected.size, expected.head, False)


def test_a_missing_segment_is_refused(log: Path) -> None:
    segment_paths(log)[1].unlink()
    with pytest.raises(CorruptLog, match="record 3 should be here, and later records follow"):
        recover(log)


def test_an_empty_last_segment_is_a_crash_right_after_rolling(log: Path) -> None:
    (log / SEGMENTS_DIR / f"{7:020d}.seg").touch()
    assert recover(log).size == 7
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
    head = recover(log).head
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
    assert recover(log).size == 7
    _forge(log, places, payloads, link_from=1)
    with pytest.raises(CorruptLog, match="link to the record before is broken"):
        recover(log)
    _forge(log, [0, 1, 3, 4, 5, 6], payloads[:2] + payloads[3:])
    with pytest.raises(CorruptLog, match="record 2 should be here"):
        recover(log)
    twice = payloads[2].replace(b'"sequence":2', b'"sequence":7')
    _forge(log, [*places, 7], [*payloads, twice])
    with pytest.raises(CorruptLog, match="event id occurs twice"):
        open_log(log)


def test_no_payload_imitates_a_frame() -> None:
    # 0xFF does not occur in UTF-8: whatever text a record holds, the magic is not in it.
    with pytest.raises(UnicodeDecodeError):
        MAGIC.decode()
    assert next(read_frames(frame(0, GENESIS, b"{}"))).end == HEADER_BYTES + 2  # pyright: ignore[reportAttributeAccessIssue]


# --- seals -------------------------------------------------------------------------------------------------------


class _Counting(SystemDisk):
    """Counts the segments that are read frame by frame: recovery forgets what memory has of them first."""

    def __init__(self) -> None:
        self.forgotten = 0

    def forget(self, descriptor: int) -> None:
        self.forgotten += 1
        super().forget(descriptor)


def _segments_read_frame_by_frame(log: Path) -> int:
    disk = _Counting()
    recover(log, disk)
    return disk.forgotten


def test_sealed_segments_are_not_decoded_again(log: Path) -> None:
    assert _segments_read_frame_by_frame(log) == 0
    seal_path(segment_paths(log)[1]).unlink()
    assert _segments_read_frame_by_frame(log) == 1
    open_log(log).close()
    assert _segments_read_frame_by_frame(log) == 0  # the next writer seals what has no seal


def test_a_flipped_bit_of_a_sealed_segment_is_refused(log: Path) -> None:
    path = segment_paths(log)[0]
    whole = path.read_bytes()
    for offset in range(len(whole)):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ (1 << offset % 8)]) + whole[offset + 1 :])
        with pytest.raises(CorruptLog, match=path.name):
            recover(log)


def test_every_damaged_byte_of_a_seal_is_noticed_and_the_frames_decide(log: Path) -> None:
    sealed = segment_paths(log)[0]
    path, size = seal_path(sealed), recover(log).size
    whole = path.read_bytes()
    for offset in range(len(whole)):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x01]) + whole[offset + 1 :])
        recovered = recover(log)
        assert recovered.size == size
        assert [segment for segment, _ in recovered.unsealed] == [sealed]
    open_log(log).close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("wrong", [{"last": 0}, {"last": 7}, {"count": 2}, {"first": 1}, {"size": 421}])
def test_a_seal_that_lies_is_overruled_by_the_frames_and_written_again(log: Path, wrong: dict[str, object]) -> None:
    path = segment_paths(log)[0]
    right = read_seal(path)
    assert right is not None
    write_seal(path, replace(right, **wrong), "test")  # type: ignore[arg-type]
    assert recover(log).size == 7
    open_log(log).close()
    assert read_seal(path) == right


def test_a_seal_says_nothing_about_bytes_behind_it(log: Path) -> None:
    first, *_, last = segment_paths(log)
    for path in (first, last):
        whole = path.read_bytes()
        path.write_bytes(whole + MAGIC)
        if path == last:
            assert recover(log).torn_bytes == len(MAGIC)
        else:
            with pytest.raises(CorruptLog):
                recover(log)
        path.write_bytes(whole)


# --- fenced segments ---------------------------------------------------------------------------------------------


def test_bytes_behind_a_fenced_segment_are_surplus_whatever_they_are(log: Path) -> None:
    last = segment_paths(log)[-1]
    record = raw_frames(log)[-1]
    open_log(log).close()
    whole = last.read_bytes()
    for late in (b"torn", record[: len(record) // 2], record, b"\x00" * 100 + record):
        for sealed in (True, False):
            last.write_bytes(whole + late)
            if not sealed:
                seal_path(last).unlink(missing_ok=True)
            recovered = recover(log)
            assert (recovered.size, recovered.surplus_bytes) == (8, len(late))


def test_damage_before_the_end_of_a_fenced_segment_is_corruption(log: Path) -> None:
    last = segment_paths(log)[-1]
    open_log(log).close()
    whole = last.read_bytes()
    for offset in range(0, len(whole), 7):
        last.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x20]) + whole[offset + 1 :])
        with pytest.raises(CorruptLog, match=last.name):
            recover(log)
        last.write_bytes(whole[:offset])
        with pytest.raises(CorruptLog, match=last.name):
            recover(log)


def test_what_recovery_built_on_is_durable(tmp_path: Path) -> None:
    # A writer that is being overtaken may finish a record between the first sync of recovery and its reading.
    memory, ids, log = MemoryDisk(), tmp_path / "ids.db", Path("/log")
    old = LogWriter(log, SMALL, "test", FixedClock(), disk=memory, ids=tmp_path / "old.db")
    segment = Path("/log/segments") / next(name for name in memory.names(Path("/log/segments")) if name.endswith("seg"))
    size = memory.size(memory.open(segment, 0))
    payload = encode(routed(1), 1, "test")
    late = frame(1, bytes.fromhex(old.head().head_hash), payload)
    pending = [late]

    def before(step: str, arguments: tuple[object, ...]) -> None:
        if step == "forget" and pending:
            descriptor = memory.open(segment, os.O_WRONLY | os.O_APPEND)
            memory.write(descriptor, pending.pop())

    new = LogWriter(log, SMALL, "test", FixedClock(), disk=stepped(before, memory), ids=ids)
    assert memory.size(memory.open(segment, 0)) == size + len(late)
    [[receipt]] = new.commit([[routed(2)]])  # type: ignore[misc]
    assert receipt.index == 3  # 0 and 2 are the openings, 1 was adopted

    class _Unlucky(random.Random):
        def random(self) -> float:
            return 1.0

        def randint(self, a: int, b: int) -> int:
            return a

    memory.power_cut(_Unlucky())
    again = LogWriter(log, SMALL, "test", FixedClock(), disk=memory, ids=ids)
    assert [entry.leaf for entry in again.read(1, 2)] == [leaf_hash(payload)]
    assert again.commit([[routed(2)]]) == [[receipt]]


def test_a_log_of_an_older_version_is_gone_on_with(log: Path) -> None:
    for path in segment_paths(log):
        seal_path(path).unlink()
        path.rename(path.with_name(f"{first_sequence(path):020d}.seg"))
    shutil.rmtree(log / "epochs")
    (log / "ids.db").unlink()
    writer = open_log(log)
    assert writer.epoch == 2  # its records show one opening
    assert [receipt.index for [receipt] in writer.commit([[routed(0)], [routed(9)]])] == [1, 8]  # type: ignore[misc]
    writer.close()
    assert verify(log).ok
    again = open_log(log)
    assert again.epoch == 3
    again.close()
