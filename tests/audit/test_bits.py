"""Every truncation and every flipped bit of a log of 1,000 records.

Each is shown to the reader that recovery is made of, with the state it has when it comes to the segment concerned, so
that three million damaged logs can be tried; every thousandth goes through `recover` as a whole, seals included.
"""

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from deployments.audit.chain import GENESIS, leaf_hash, link
from deployments.audit.files import Disk
from deployments.audit.head import EMPTY, HEAD_FILE, write_head
from deployments.audit.recover import CorruptLog, Survey, recover
from deployments.audit.seals import seal_path
from deployments.audit.segment import Frame, Lineage, Stretch, read_frames, read_lineage
from deployments.audit.settings import AuditSettings
from deployments.ports import AuditHead
from tests.unit.audit.disks import MemoryDisk
from tests.unit.audit.logs import routed, write_log

LOG = Path("/log")
RECORDS = 1_000
SETTINGS = AuditSettings(segment_bytes=2_048, lock_timeout_s=0.0, head_interval_ms=60_000)
WHOLE_EVERY = 997


@dataclass(frozen=True)
class Segment:
    """One segment: its bytes, its seal, and where the log stands before each of its frames and after the last."""

    stretch: Stretch
    data: bytes
    seal: bytes
    frames: tuple[Frame, ...]
    heads: tuple[bytes, ...]

    @property
    def is_last(self) -> bool:
        return self.stretch.end is None

    def whole(self, size: int) -> int:
        """Records that are whole in the first `size` bytes."""
        return sum(each.end <= size for each in self.frames)


def _segments() -> list[Segment]:
    with TemporaryDirectory() as name:
        write_log(Path(name), [routed(number) for number in range(RECORDS - 1)], SETTINGS)
        found: list[Segment] = []
        head = GENESIS
        for stretch in read_lineage(Path(name)).stretches:
            data = stretch.path.read_bytes()
            frames = tuple(each for each in read_frames(data) if isinstance(each, Frame))
            heads = [head]
            for each in frames:
                heads.append(link(heads[-1], leaf_hash(each.payload)))
            head = heads[-1]
            moved = Stretch(LOG / "segments" / stretch.path.name, stretch.first, stretch.epoch, stretch.end, False)
            found.append(Segment(moved, data, seal_path(stretch.path).read_bytes(), frames, tuple(heads)))
        return found


def _disk(segments: list[Segment]) -> MemoryDisk:
    disk = MemoryDisk()
    disk.make_directory(LOG)
    disk.make_directory(LOG / "segments")
    for segment in segments:
        disk.put(segment.stretch.path, segment.data)
        disk.put(seal_path(segment.stretch.path), segment.seal)
    write_head(LOG, EMPTY, disk)
    return disk


class _OneFile:
    """A disk with one file, for the three steps that reading it takes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self, *_: object) -> int:
        return 0

    def size(self, _: int) -> int:
        return len(self._data)

    def read(self, _: int, count: int, offset: int) -> bytes:
        return self._data[offset : offset + count]

    def nothing(self, _: int) -> None:
        return

    close = fsync = forget = nothing


def _read(data: bytes, segment: Segment, stretch: Stretch) -> Survey:
    """What recovery does when it comes to this segment and its seal does not fit."""
    disk = cast("Disk", _OneFile(data))
    survey = Survey(AuditHead(0, GENESIS.hex()), disk, trust_seals=False, size=stretch.first, head=segment.heads[0])
    survey.read_stretch(stretch)
    return survey


def _flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    for offset in range(len(data)):
        for bit in range(8):
            yield offset, data[:offset] + bytes([data[offset] ^ (1 << bit)]) + data[offset + 1 :]


def _flip_all(segments: list[Segment], number: int) -> Counter[str]:
    """Every bit of one segment: refused, or a tail that was torn off the very end of the log."""
    segment, seen = segments[number], Counter[str]()
    path, last = segment.stretch.path, segment.frames[-1]
    for offset, damaged in _flips(segment.data):
        try:
            survey = _read(damaged, segment, segment.stretch)
        except CorruptLog:
            seen["refused"] += 1
        else:
            assert segment.is_last, f"{path.name}, byte {offset}: damage inside the log was taken for a tail"
            assert offset >= last.offset
            assert (survey.size, survey.head) == (last.sequence, segment.heads[-2])
            assert survey.torn_bytes == len(segment.data) - last.offset
            seen["torn"] += 1
    return seen


def _cut_all(segments: list[Segment], number: int) -> Counter[str]:
    """Every length of one segment: with nothing after it the longest whole prefix, with segments after it refused."""
    segment, seen = segments[number], Counter[str]()
    stretch = segment.stretch
    as_last = Stretch(stretch.path, stretch.first, stretch.epoch, None, False)
    for size in range(len(segment.data)):
        survey = _read(segment.data[:size], segment, as_last)
        whole = segment.whole(size)
        assert (survey.size, survey.head) == (stretch.first + whole, segment.heads[whole])
        assert survey.torn_bytes == size - (segment.frames[whole - 1].end if whole else 0)
        seen["recovered"] += 1
        if segment.is_last:
            continue
        try:
            _read(segment.data[:size], segment, stretch)
        except CorruptLog:
            seen["refused"] += 1
        else:
            raise AssertionError(f"{stretch.path.name} cut to {size} bytes was accepted although the log goes on")
    return seen


def _over_all(what: "partial[Counter[str]]", segments: int) -> Counter[str]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        return sum(pool.map(what, range(segments), chunksize=8), Counter[str]())


def test_every_flipped_bit_of_a_log_of_a_thousand_records_is_found() -> None:
    segments = _segments()
    assert sum(len(segment.frames) for segment in segments) == RECORDS
    assert len(segments) >= 3
    seen = _over_all(partial(_flip_all, segments), len(segments))
    print(dict(seen))
    assert seen.total() == 8 * sum(len(segment.data) for segment in segments)
    assert seen["torn"] == 8 * (len(segments[-1].data) - segments[-1].frames[-1].offset)


def test_a_log_of_a_thousand_records_cut_at_every_byte_recovers_exactly() -> None:
    segments = _segments()
    seen = _over_all(partial(_cut_all, segments), len(segments))
    print(dict(seen))
    assert seen["recovered"] == sum(len(segment.data) for segment in segments)
    assert seen["refused"] == seen["recovered"] - len(segments[-1].data)


def test_whole_logs_with_a_flipped_bit_or_a_cut_end_are_recovered_or_refused() -> None:
    segments = _segments()
    disk, tried = _disk(segments), Counter[str]()
    heads = {segment.stretch.first: segment.heads for segment in segments}
    for segment in segments:
        for number, (offset, damaged) in enumerate(_flips(segment.data)):
            if number % WHOLE_EVERY:
                continue
            disk.put(segment.stretch.path, damaged)
            tail = segment.is_last and offset >= segment.frames[-1].offset
            try:
                recovered = recover(LOG, disk)
            except CorruptLog:
                assert not tail
                tried["refused"] += 1
            else:
                assert tail
                assert recovered.size == RECORDS - 1
                tried["torn"] += 1
        disk.put(segment.stretch.path, segment.data)
    write_head(LOG, EMPTY, disk)
    for segment in reversed(segments):
        for size in range(0, len(segment.data), WHOLE_EVERY // 3):
            disk.put(segment.stretch.path, segment.data[:size])
            whole = segment.whole(size)
            recovered = recover(LOG, disk)
            assert recovered.size == segment.stretch.first + whole
            assert recovered.head == heads[segment.stretch.first][whole]
            tried["cut"] += 1
        disk.remove(segment.stretch.path)
    print(dict(tried))
    assert min(tried["refused"], tried["cut"]) > 1_000
    assert HEAD_FILE in disk.names(LOG)
    assert Lineage((), ()) == read_lineage(LOG, disk)
