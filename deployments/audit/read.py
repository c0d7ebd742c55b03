"""Reading a log without checking it: for people who want to look, not for evidence.

A log is a live one (`segments/`) or an export (`tile/` and checkpoints); `read_entries` reads both.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from deployments.audit.head import HEAD_FILE, BadHead, read_head
from deployments.audit.layout import CHECKPOINT_FILE
from deployments.audit.notes import BadNote, Checkpoint, parse_checkpoint, parse_note
from deployments.audit.segment import Damage, Frame, Stretch, read_lineage, scan_frames, segment_paths
from deployments.audit.tiles import TILE_WIDTH, BadTile, DirectoryStore, entries_path, parse_bundle
from deployments.ports import JsonValue

TILES_DIR = "tile"

NumberedEntry = tuple[int, bytes]
"""A record's index and its canonical bytes."""


class NoLog(Exception):
    """There is no log at the path."""


def is_export(directory: Path) -> bool:
    """True for tiles without segments; `NoLog` when there is neither."""
    if not directory.is_dir():
        raise NoLog(f"there is no audit log at {directory}: it is not a directory.")
    if segment_paths(directory):
        return False
    if (directory / TILES_DIR).is_dir() or (directory / CHECKPOINT_FILE).is_file():
        return True
    raise NoLog(f"there is no audit log at {directory}: it has no segment files and no tiles.")


def newest_checkpoint(directory: Path) -> Checkpoint | None:
    """What the newest note of a log or an export says, its signatures unverified; None where it says nothing."""
    try:
        return parse_checkpoint(parse_note((directory / CHECKPOINT_FILE).read_bytes()).text)
    except (FileNotFoundError, BadNote):
        return None


def read_records(directory: Path, begin: int = 0) -> Iterator[dict[str, JsonValue]]:
    """The records from an index on, in order, up to the first place that cannot be read."""
    for _, payload in read_entries(directory, begin):
        try:
            yield cast("dict[str, JsonValue]", json.loads(payload))
        except ValueError:
            return


def read_entries(directory: Path, begin: int = 0) -> Iterator[NumberedEntry]:
    """The entries from an index on, in order, up to the first place that cannot be read. `NoLog` or `OSError`.

    A log being written may be read. An export is read up to its newest checkpoint.
    """
    if is_export(directory):
        yield from _bundles(directory, begin)
    else:
        yield from _segments(directory, begin)


def _bundles(directory: Path, begin: int) -> Iterator[NumberedEntry]:
    checkpoint = newest_checkpoint(directory)
    size = 0 if checkpoint is None else checkpoint.size
    for bundle in range(begin // TILE_WIDTH, -(-size // TILE_WIDTH)):
        first = bundle * TILE_WIDTH
        try:
            entries = read_bundle(directory, bundle, min(size - first, TILE_WIDTH))
        except BadTile:
            return
        for index, entry in enumerate(entries, start=first):
            if index >= begin:
                yield index, entry


def read_bundle(directory: Path, bundle: int, width: int) -> list[bytes]:
    """The first `width` entries of a bundle, from the partial tile of that width or from the full one, or `BadTile`."""
    store = DirectoryStore(directory)
    data = store.read(entries_path(bundle, width))
    if data is None:
        data = store.read(entries_path(bundle))
    if data is None:
        raise BadTile(f"{entries_path(bundle, width)} is missing")
    entries = parse_bundle(data)
    if len(entries) < width:
        raise BadTile(f"{entries_path(bundle, width)} has {len(entries)} entries")
    return entries[:width]


def _segments(directory: Path, begin: int) -> Iterator[NumberedEntry]:
    for stretch in read_lineage(directory).stretches:
        if stretch.end is not None and stretch.end <= begin:
            continue
        with stretch.path.open("rb") as file:
            for found in scan_frames(file.fileno()):
                if stretch.end is not None and not (isinstance(found, Frame) and found.sequence < stretch.end):
                    break
                if isinstance(found, Damage):
                    return
                if found.sequence >= begin:
                    yield found.sequence, found.payload


def follow_entries(directory: Path, begin: int, wait: Callable[[], None]) -> Iterator[NumberedEntry]:
    """The entries from an index on, and then every new one, without end; `wait` is called when there is none yet.

    Shows only what the recorded head covers, so that nothing appears which a crash could take back. Goes on where one
    segment ends and the next one begins. `NoLog` for an export, which does not grow by segments.
    """
    if is_export(directory):
        raise NoLog(f"{directory} is an export, which nobody writes to: read it with `show`.")
    position = _Position(begin)
    while True:
        end = durable_size(directory)
        if position.index < end:
            before = position.index
            yield from position.advance(directory, end)
            if position.index > before:
                continue
        wait()


def shown_size(directory: Path) -> int:
    """How many records a log or an export has by its recorded head or its newest checkpoint. `NoLog`."""
    if not is_export(directory):
        return durable_size(directory)
    checkpoint = newest_checkpoint(directory)
    return 0 if checkpoint is None else checkpoint.size


def durable_size(directory: Path) -> int:
    """How many records a live log shows: those its recorded head covers."""
    try:
        return read_head(directory / HEAD_FILE).size
    except (FileNotFoundError, BadHead):
        return 0


class _Position:
    """Where a follower stands: the next index, and the byte of its segment."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._path: Path | None = None
        self._offset = 0

    def advance(self, directory: Path, end: int) -> Iterator[NumberedEntry]:
        """The entries up to `end`, as far as the present segment has them."""
        stretch = self._stretch(directory)
        if stretch is None:
            return
        if stretch.path != self._path:
            self._path, self._offset = stretch.path, 0
        end = end if stretch.end is None else min(end, stretch.end)
        with stretch.path.open("rb") as file:
            for found in scan_frames(file.fileno(), self._offset):
                if isinstance(found, Damage) or found.sequence >= end:
                    return
                self._offset = found.end
                if found.sequence >= self.index:
                    self.index = found.sequence + 1
                    yield found.sequence, found.payload

    def _stretch(self, directory: Path) -> Stretch | None:
        """The part of the log that has the next index."""
        stretches = read_lineage(directory).stretches
        return next((found for found in reversed(stretches) if found.first <= self.index), None)
