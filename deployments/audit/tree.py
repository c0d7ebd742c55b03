"""The log's tree on its disk: compared with what is known of the log, stored tile by tile, put right from the log.

Tiles are derived data: the records in the segments and the signed roots are the evidence. A stored tile that says
anything else, while the segments lead to every signed root, is damage and is written again.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from deployments.audit.checkpoints import Known
from deployments.audit.entries import Entry
from deployments.audit.signing import RefusedLog
from deployments.audit.tiles import (
    TILE_LEVELS,
    TILE_WIDTH,
    BadTile,
    DirectoryStore,
    TileFile,
    TileName,
    TileReader,
    TileWriter,
    narrower,
    parse_path,
)

_PENDING_BYTES = 16 * 2**20
_RESTORE = "No flag overrides this. Restore the log from a copy or an export that has these records."
_log = logging.getLogger(__name__)

ReadLog = Callable[[int], Iterator[Entry]]


class LogTree:
    """The tree over the records taken so far. What it holds in memory does not depend on the length of the log.

    One thread at a time, but for `reader` and `file`.
    """

    def __init__(self, directory: Path, suffix: str = ".new") -> None:
        """Of the log in `directory`; nothing is read yet. `suffix` is as for `DirectoryStore`."""
        self._store = DirectoryStore(directory, suffix)
        self._writer = TileWriter()
        self._full: list[TileFile] = []  # full tiles that are not on disk yet
        self._partials: frozenset[str] = frozenset()  # partial tiles of the last `save`
        self._filled: dict[str, None] = {}  # full tiles on disk whose partial ones may still lie there
        self.reader = TileReader(self._store)

    @property
    def size(self) -> int:
        """Number of records."""
        return self._writer.size

    def root(self) -> bytes:
        """The root over them; 32 bytes."""
        return self._writer.root()

    def file(self, path: str, size: int) -> bytes | None:
        """A stored tile that the tree of `size` leaves has; None for any other path. `OSError`."""
        try:
            name = parse_path(path)
        except BadTile:
            return None
        end = name.index * TILE_WIDTH + name.width
        return self._store.read(path) if end <= _hashes(name.level, size) else None

    # --- opening -------------------------------------------------------------------------------------------------

    def open(self, size: int, read: ReadLog, known: Sequence[Known], keep: Collection[int]) -> list[str]:
        """Read the whole log, compare it with every known checkpoint, then put its tiles right.

        `RefusedLog` for a log that is shorter than a checkpoint or has another root at its size: nothing is written.
        `OSError` when the disk fails. Else what was put right, in sentences. `keep` are tree sizes whose partial tiles
        stay.
        """
        # 1. The log is as long as the longest checkpoint.
        for found in known:
            if found.checkpoint.size > size:
                raise RefusedLog(
                    found.place,
                    f"the log signed a checkpoint of {found.checkpoint.size} records, but only {size} are here. "
                    f"{_RESTORE}",
                )
        # 2. It has the root of each. Damaged tiles wait in memory meanwhile.
        damaged, unsaved = self._compare(size, read, known)
        # 3. Too many for that: once more, now that the records are known to be the signed ones.
        if unsaved:
            self._rewrite(size, read)
        self._save_full()
        # 4. Partial tiles, and names that an earlier process may not have made durable.
        damaged += self._sweep(keep)
        self._store.settle()
        return [f"{damaged} stored tiles were damaged or missing and were made again."] if damaged else []

    def _compare(self, size: int, read: ReadLog, known: Sequence[Known]) -> tuple[int, bool]:
        """How many tiles of signed records are not what they must be; True when some are not in memory any more."""
        at: dict[int, list[Known]] = {}
        for found in known:
            at.setdefault(found.checkpoint.size, []).append(found)
        signed = max(at, default=0)
        damaged, unsaved = 0, False
        for entry in _in_order(read, size):
            full = self._writer.append(entry.payload, entry.leaf)
            for found in at.get(self.size, ()):
                if found.checkpoint.root != self.root():
                    raise RefusedLog(
                        found.place,
                        f"the log signed a checkpoint of {self.size} records, but the first {self.size} records here "
                        f"are others. {_RESTORE}",
                    )
            if full:
                wrong = self._stored_otherwise(full)
                damaged += len(wrong) if self.size <= signed else 0
                self._full += wrong
                if _bytes(self._full) > _PENDING_BYTES:
                    if self.size >= signed:
                        self._save_full()
                    else:
                        self._full.clear()
                        unsaved = True
        return damaged, unsaved

    def _rewrite(self, size: int, read: ReadLog) -> None:
        writer, wrong = TileWriter(), list[TileFile]()
        for entry in _in_order(read, size):
            wrong += self._stored_otherwise(writer.append(entry.payload, entry.leaf))
            if _bytes(wrong) > _PENDING_BYTES:
                self._store.replace_all(wrong)
                wrong.clear()
        self._store.replace_all(wrong)

    def _stored_otherwise(self, files: Iterable[TileFile]) -> list[TileFile]:
        return [(path, data) for path, data in files if self._store.read(path) != data]

    def _sweep(self, keep: Collection[int]) -> int:
        """Check the stored partial tiles, drop those that nobody needs; how many were not what they must be."""
        edge = {parse_path(path).level: data for path, data in self._writer.partials()}
        wanted = {name.path: narrower(name, edge[name.level]) for size in keep for name in self._at_edge(size, edge)}
        damaged = sum(self._store.read(path) is None for path in wanted)
        damaged += len(self._store.replace_all(wanted.items()))
        for name in self._store.partials():
            index, width = divmod(_hashes(name.level, self.size), TILE_WIDTH)
            if name.index < index:
                full = TileName(name.level, name.index).path
                kept = _widths(full, keep)
                self._store.drop_partials(full, kept)
                if name.width not in kept:
                    continue
                self._filled[full] = None
                wider = self._store.read(full)
            elif name.index == index and name.width <= width:
                wider = edge[name.level]
            else:
                # Of records that are not here and were never signed.
                self._store.drop(name.path)
                damaged += 1
                continue
            if wider is not None:
                damaged += len(self._store.replace_all([(name.path, narrower(name, wider))]))
        return damaged

    def _at_edge(self, size: int, levels: Iterable[int | None]) -> Iterator[TileName]:
        """The partial tiles of an older tree that are partial in this one, too."""
        for level in levels:
            index, width = divmod(_hashes(level, size), TILE_WIDTH)
            if width and index == _hashes(level, self.size) // TILE_WIDTH:
                yield TileName(level, index, width)

    # --- growing -------------------------------------------------------------------------------------------------

    def extend(self, entries: Iterable[Entry]) -> None:
        """Add records that are on disk, in order."""
        for entry in entries:
            if entry.index != self.size:
                raise ValueError(f"record {self.size} should come next, not record {entry.index}")
            self._full += self._writer.append(entry.payload, entry.leaf)

    def save(self) -> list[str]:
        """Store every tile that the present size needs. After an `OSError` nothing is forgotten: save again.

        Answers the paths that held other bytes: tiles beyond every signed tree, left by a disk that lost records.
        """
        partials = self._writer.partials()
        new = [file for file in partials if file[0] not in self._partials]
        others = self._store.replace_all([*self._full, *new])
        self._filled.update(dict.fromkeys(path for path, _ in self._full))
        self._full.clear()
        self._partials = frozenset(path for path, _ in partials)
        return others

    def drop(self, keep: Collection[int]) -> None:
        """Delete the partial tiles that full ones replace, but those of the trees of the sizes in `keep`."""
        for full in list(self._filled):
            kept = _widths(full, keep)
            try:
                self._store.drop_partials(full, kept)
            except OSError as error:
                # Nothing is lost by a file too many; the next opening tries again.
                _log.warning("partial tiles of %s cannot be deleted: %s", full, error.strerror)
            if not kept:
                del self._filled[full]

    def _save_full(self) -> None:
        self._store.replace_all(self._full)
        self._full.clear()


def _in_order(read: ReadLog, size: int) -> Iterator[Entry]:
    """The log's records, all of them and no more."""
    index = 0
    for entry in read(0):
        if index == size:
            return
        if entry.index != index:
            raise RefusedLog("segments", f"record {index} should come next, not record {entry.index}. {_RESTORE}")
        yield entry
        index += 1
    if index != size:
        raise RefusedLog("segments", f"the log has {size} records, but only {index} can be read. {_RESTORE}")


def _hashes(level: int | None, size: int) -> int:
    """How many hashes a level of tiles has, or how many entries, in a tree of `size` leaves."""
    return size >> TILE_LEVELS * (level or 0)


def _widths(full: str, sizes: Collection[int]) -> set[int]:
    """The widths that a full tile has in trees of these sizes, where it is a partial one."""
    name = parse_path(full)
    widths = {_hashes(name.level, size) - name.index * TILE_WIDTH for size in sizes}
    return {width for width in widths if 0 < width < TILE_WIDTH}


def _bytes(files: Iterable[TileFile]) -> int:
    return sum(len(data) for _, data in files)
