"""Durable records, read back from the segments."""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.audit.chain import leaf_hash
from deployments.audit.entries import Entry
from deployments.audit.files import SYSTEM_DISK, Disk
from deployments.audit.recover import CorruptLog
from deployments.audit.segment import Frame, Stretch, scan_frames

_MARK_EVERY = 256
_MARKED_SEGMENTS = 16


@dataclass(frozen=True, slots=True)
class Placed:
    """A frame and the segment it is in."""

    path: Path
    frame: Frame


class StoredLog:
    """The records of a recovered log, and of what its writer adds. Safe to use from several threads.

    In memory: the name of each segment, and for the few that were read last the offset of every 256th record.
    """

    def __init__(self, stretches: Sequence[Stretch], disk: Disk = SYSTEM_DISK) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        own = [stretch for stretch in stretches if stretch.end is None or stretch.end > stretch.first]
        self._firsts = [stretch.first for stretch in own]
        self._paths = [stretch.path for stretch in own]
        self._marks: OrderedDict[Path, list[int]] = OrderedDict()

    def begin(self, first: int, path: Path) -> None:
        """The writer goes on in another segment."""
        with self._lock:
            self._firsts.append(first)
            self._paths.append(path)

    def read(self, begin: int, end: int) -> Iterator[Entry]:
        """The records from index `begin` up to, not including, `end`. `CorruptLog` or `OSError` when one is damaged."""
        for placed in self.frames(begin, end):
            found = placed.frame
            yield Entry(found.sequence, found.payload, leaf_hash(found.payload))

    def frames(self, begin: int, end: int) -> Iterator[Placed]:
        """As `read`, with what is around each record on disk."""
        if begin >= end:
            return
        with self._lock:
            number = bisect_right(self._firsts, begin) - 1
            firsts, paths = self._firsts[number:], self._paths[number:]
        for first, path, following in zip(firsts, paths, [*firsts[1:], end], strict=True):
            if begin >= end:
                return
            for found in self._in_segment(path, first, begin, min(following, end)):
                yield Placed(path, found)
            begin = following

    def at(self, sequence: int, offset: int) -> Frame | None:
        """The frame of record `sequence` if it lies at `offset` of its segment, else None. `OSError`."""
        with self._lock:
            path = self._paths[bisect_right(self._firsts, sequence) - 1]
        descriptor = self._disk.open(path, os.O_RDONLY)
        try:
            found = next(scan_frames(descriptor, offset, self._disk), None)
        finally:
            self._disk.close(descriptor)
        return found if isinstance(found, Frame) and found.sequence == sequence else None

    def _in_segment(self, path: Path, first: int, begin: int, end: int) -> Iterator[Frame]:
        number, offset = self._mark_before(path, begin - first)
        sequence = first + number
        descriptor = self._disk.open(path, os.O_RDONLY)
        try:
            scan = scan_frames(descriptor, offset, self._disk)
            while sequence < end:
                found = next(scan, None)
                if not isinstance(found, Frame) or found.sequence != sequence:
                    reason = "its end" if found is None else "another one" if isinstance(found, Frame) else found.reason
                    at = offset if found is None else found.offset
                    raise CorruptLog(path.name, at, f"record {sequence} was here and is now damaged: {reason}")
                self._mark(path, sequence - first, found.offset)
                if sequence >= begin:
                    yield found
                sequence, offset = sequence + 1, found.end
        finally:
            self._disk.close(descriptor)

    def _mark_before(self, path: Path, number: int) -> tuple[int, int]:
        """The nearest record at or before the `number`-th of a segment whose offset is known, and that offset."""
        with self._lock:
            marks = self._marks.setdefault(path, [0])
            self._marks.move_to_end(path)
            while len(self._marks) > _MARKED_SEGMENTS:
                self._marks.popitem(last=False)
            mark = min(number // _MARK_EVERY, len(marks) - 1)
            return mark * _MARK_EVERY, marks[mark]

    def _mark(self, path: Path, number: int, offset: int) -> None:
        if number % _MARK_EVERY:
            return
        with self._lock:
            marks = self._marks.get(path)
            if marks is not None and len(marks) == number // _MARK_EVERY:
                marks.append(offset)
