"""The log as static files (C2SP tlog-tiles): which tiles there are, writing them and reading hashes back.

```
tile/<L>/<N>[.p/<W>]        256 hashes of complete subtrees of 256**L leaves; a partial tile has W of them
tile/entries/<N>[.p/<W>]    256 entries, each after its length (2 bytes, big-endian)
```

`N` is written in groups of three digits: 1234067 is `x001/x234/067`. Tiles never change once written. A tree of `s`
leaves has `s // 256**L` hashes at level L, and its rightmost tiles are partial; a log keeps those of every size it
signed a checkpoint for, until the full tile exists.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from struct import Struct
from typing import Protocol, Self

from deployments.audit.files import make_directory, replace_file, sync_directory, write_all
from deployments.audit.merkle import HASH_BYTES, MAX_SIZE, Frontier, HashAt, leaf_hash, node_hash

TILE_LEVELS = 8  # levels of the binary tree that one tile spans
TILE_WIDTH = 1 << TILE_LEVELS
TILE_BYTES = TILE_WIDTH * HASH_BYTES
MAX_ENTRY_BYTES = 0xFFFF
_MAX_LEVEL = 63
_LENGTH = Struct(">H")
_TEMPORARY = ".new"
_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([0-9]{1,3}))?")

TileFile = tuple[str, bytes]
"""A path as above, and what the file holds."""


class BadTile(ValueError):
    """A path that names no tile, or a tile that is missing or does not hold what it must."""


class TileConflict(Exception):
    """Other bytes are stored under the path: two histories of one log. Nothing was written."""


# --- names -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TileName:
    """What a path means. `level` None is a bundle of entries; `width` 256 is a full tile."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """The one path of this tile."""
        digits = str(self.index)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{'entries' if self.level is None else self.level}/{number}{partial}"


def parse_path(path: str) -> TileName:
    """What a path means, or `BadTile`. Only the one spelling of each name passes, so no path leads elsewhere."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise BadTile("the path names no tile")
    level, number, width = match.groups()
    name = TileName(
        level=None if level == "entries" else int(level),
        index=int(number.replace("x", "").replace("/", "")),
        width=TILE_WIDTH if width is None else int(width),
    )
    if (name.level or 0) > _MAX_LEVEL or name.index > MAX_SIZE or not 1 <= name.width <= TILE_WIDTH:
        raise BadTile("the path names no tile")
    if name.path != path:
        raise BadTile("the path is not the tile's only spelling")
    return name


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Path of a tile of hashes."""
    return TileName(level, index, width).path


def entries_path(index: int, width: int = TILE_WIDTH) -> str:
    """Path of a bundle of entries."""
    return TileName(None, index, width).path


# --- stores ------------------------------------------------------------------------------------------------------


class TileStore(Protocol):
    """Where tiles lie. Paths are those of this module; others are `BadTile`."""

    def read(self, path: str) -> bytes | None:
        """The file, or None when there is none."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Store a file durably. Storing the same bytes again is no change; other bytes are `TileConflict`."""
        ...


class DirectoryStore:
    """Tiles as files under a directory, for one writing process and any number of readers."""

    def __init__(self, directory: Path, suffix: str = _TEMPORARY) -> None:
        """The directory appears with the first write.

        `suffix` ends in `.new` and marks files that are not whole yet. Two processes that may write at once, although
        only one should, need two.
        """
        self._directory = directory
        self._suffix = suffix
        self._unsynced: dict[Path, None] = {}  # folders whose new names may not be on disk yet, in order

    def read(self, path: str) -> bytes | None:
        """The file, or None when there is none. `BadTile` or `OSError`."""
        return self._read(self._file(path))

    def write(self, path: str, data: bytes) -> None:
        """Temporary file, fsync, rename, fsync of the directory. `BadTile`, `TileConflict` or `OSError`."""
        file = self._file(path)
        stored = self._read(file)
        if stored is None:
            make_directory(file.parent)
            replace_file(file, data, suffix=self._suffix)
        elif stored == data:
            # An earlier process may have died between its rename and its fsync of the directory.
            sync_directory(file.parent)
        else:
            raise TileConflict(f"{path} is stored with other bytes")

    def replace_all(self, files: Iterable[TileFile]) -> list[str]:
        """Store a batch durably, with one fsync for each file and each folder. `BadTile` or `OSError`.

        For whoever can make the tiles again from the log: other bytes under a path are replaced, and the paths where
        that happened are the answer. After an error any part of the batch may be stored; storing it again is right.
        """
        others: list[str] = []
        written: list[tuple[Path, Path]] = []
        for path, data in files:
            file = self._file(path)
            stored = self._read(file)
            if stored != data:
                if stored is not None:
                    others.append(path)
                self._make(file.parent)
                temporary = file.with_name(file.name + self._suffix)
                _write_file(temporary, data)
                written.append((temporary, file))
            # Also for equal bytes: an earlier attempt may have ended between its rename and its fsync of the folder.
            self._unsynced[file.parent] = None
        for temporary, file in written:
            temporary.replace(file)
        for folder in list(self._unsynced):
            sync_directory(folder)
            del self._unsynced[folder]
        return others

    def drop_partials(self, path: str, keep: Collection[int] = ()) -> int:
        """Delete the partial tiles that a full tile replaces, but those of the widths in `keep`; how many.

        None, while the full tile is not stored.
        """
        file = self._file(path)
        folder = file.with_name(f"{file.name}.p")
        if not file.is_file() or not folder.is_dir():
            return 0
        kept = {str(width) for width in keep}
        partials = [partial for partial in folder.iterdir() if partial.name not in kept]
        for partial in partials:
            partial.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
        return len(partials)

    def drop(self, path: str) -> None:
        """Delete a file, if it is there. For tiles of no tree that was ever signed. `BadTile` or `OSError`."""
        self._file(path).unlink(missing_ok=True)

    def partials(self) -> Iterator[TileName]:
        """Every partial tile that is stored, in no order. What else lies there is passed over."""
        for folder in self._folders():
            if folder.name.endswith(".p"):
                for name in sorted(os.listdir(folder)):
                    try:
                        yield parse_path((folder / name).relative_to(self._directory).as_posix())
                    except BadTile:
                        continue

    def settle(self) -> None:
        """After an earlier process: remove what it did not finish writing, make every name durable. `OSError`."""
        for folder in self._folders():
            for name in os.listdir(folder):
                if name.endswith(_TEMPORARY):
                    (folder / name).unlink()
            sync_directory(folder)
        if self._directory.is_dir():
            sync_directory(self._directory)

    def _folders(self) -> Iterator[Path]:
        for folder, _, _ in os.walk(self._directory / "tile"):
            yield Path(folder)

    def _make(self, folder: Path) -> None:
        """Create a folder and its parents; the caller syncs what is in `_unsynced`."""
        if folder.is_dir():
            return
        self._make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        self._unsynced[folder.parent] = None

    def _file(self, path: str) -> Path:
        return self._directory / parse_path(path).path

    @staticmethod
    def _read(file: Path) -> bytes | None:
        try:
            return file.read_bytes()
        except FileNotFoundError:
            return None


def _write_file(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- reading -----------------------------------------------------------------------------------------------------


def _tile_root(hashes: bytes) -> bytes:
    """The root over a power of two of concatenated hashes."""
    nodes = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
    while len(nodes) > 1:
        nodes = [node_hash(left, right) for left, right in zip(nodes[::2], nodes[1::2], strict=True)]
    return nodes[0]


def parse_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle, or `BadTile` when it does not end with an entry."""
    entries: list[bytes] = []
    offset = 0
    while offset < len(data):
        body = offset + _LENGTH.size
        if body > len(data):
            raise BadTile("a bundle of entries ends within a length")
        (length,) = _LENGTH.unpack_from(data, offset)
        offset = body + length
        if offset > len(data):
            raise BadTile("a bundle of entries ends within an entry")
        entries.append(data[body:offset])
    return entries


def narrower(name: TileName, data: bytes) -> bytes:
    """What the partial tile `name` holds, cut from a wider tile of its place. `BadTile` when that is not wider."""
    if name.level is not None:
        if len(data) < name.width * HASH_BYTES:
            raise BadTile(f"{name.path} is not within the tile")
        return data[: name.width * HASH_BYTES]
    entries = parse_bundle(data)
    if len(entries) < name.width:
        raise BadTile(f"{name.path} is not within the bundle")
    return data[: sum(_LENGTH.size + len(entry) for entry in entries[: name.width])]


class TileReader:
    """Hashes and entries of trees whose tiles are in a store. Threads may share it.

    Keeps the `cached` newest used tiles of hashes in memory, at most 8 KiB each. Every method raises `BadTile` for
    tiles that are missing or of the wrong length, and what the store raises. It does not check hashes against a root:
    proofs made from it do that.
    """

    def __init__(self, store: TileStore, cached: int = 256) -> None:
        """Nothing is read yet."""
        self._store = store
        self._hashes = lru_cache(maxsize=cached)(self._read_hashes)

    def at(self, size: int) -> HashAt:
        """The `HashAt` of the tree of `size` leaves; `ValueError` for a subtree that is not complete there."""

        def hash_at(level: int, index: int) -> bytes:
            if level < 0 or index < 0 or (index + 1) << level > size:
                raise ValueError("the subtree is not complete in a tree of this size")
            tile_level, height = divmod(level, TILE_LEVELS)
            first = index << height
            tile, offset = divmod(first, TILE_WIDTH)
            hashes = self.tile(tile_level, tile, size)
            return _tile_root(hashes[offset * HASH_BYTES : (offset + (1 << height)) * HASH_BYTES])

        return hash_at

    def tile(self, level: int, index: int, size: int) -> bytes:
        """A tile of hashes as the tree of `size` leaves has it; `ValueError` when it has none."""
        return self._hashes(level, index, _width(level, index, size))

    def entries(self, begin: int, end: int, size: int) -> Iterator[bytes]:
        """Entries `begin` to `end` of the tree of `size` leaves, checked against their leaf hashes in the tiles."""
        if not 0 <= begin <= end <= size:
            raise ValueError("the range is not in a tree of this size")
        for bundle in range(begin // TILE_WIDTH, -(-end // TILE_WIDTH)):
            first = bundle * TILE_WIDTH
            hashes = self.tile(0, bundle, size)
            width = len(hashes) // HASH_BYTES
            entries = parse_bundle(self._read(TileName(None, bundle, width))[0])
            if len(entries) < width:
                raise BadTile("a bundle has fewer entries than the tree")
            for offset in range(max(begin - first, 0), min(end - first, width)):
                if leaf_hash(entries[offset]) != hashes[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]:
                    raise BadTile(f"entry {first + offset} does not have the leaf hash of its place")
                yield entries[offset]

    def _read_hashes(self, level: int, index: int, width: int) -> bytes:
        data, stored_width = self._read(TileName(level, index, width))
        if len(data) != stored_width * HASH_BYTES:
            raise BadTile(f"{TileName(level, index, stored_width).path} has the wrong length")
        return data[: width * HASH_BYTES]

    def _read(self, name: TileName) -> tuple[bytes, int]:
        """A tile and its stored width: a partial tile may be gone once the full one is there."""
        data = self._store.read(name.path)
        if data is not None:
            return data, name.width
        data = self._store.read(TileName(name.level, name.index).path)
        if data is None:
            raise BadTile(f"{name.path} is missing")
        return data, TILE_WIDTH


def _width(level: int, index: int, size: int) -> int:
    """How many hashes a tile has in a tree of `size` leaves; `ValueError` when it does not exist."""
    width = min((size >> TILE_LEVELS * level) - index * TILE_WIDTH, TILE_WIDTH)
    if width < 1 or index < 0:
        raise ValueError("a tree of this size does not have the tile")
    return width


# --- writing -----------------------------------------------------------------------------------------------------


class TileWriter:
    """A growing tree that hands out its tiles as they fill. Holds the rightmost tiles, and does no I/O of its own.

    Store what `append` and `partials` answer before the checkpoint of that size leaves.
    """

    def __init__(self) -> None:
        """The writer of the empty tree."""
        self._frontier = Frontier()
        self._levels: list[bytearray] = []
        self._entries: list[bytes] = []

    @classmethod
    def resume(cls, store: TileStore, size: int, root: bytes) -> Self:
        """The writer of a tree whose tiles, the partial ones of this size included, are in the store.

        Raises `BadTile` when they are not, or have another root.
        """
        reader = TileReader(store)
        writer = cls()
        writer._frontier = Frontier.at(size, reader.at(size))
        if writer.root() != root:
            raise BadTile("the stored tiles have another root than the log")
        level, count = 0, size
        while count:
            index, width = divmod(count, TILE_WIDTH)
            writer._levels.append(bytearray(reader.tile(level, index, size) if width else b""))
            level, count = level + 1, index
        for entry in reader.entries(size - size % TILE_WIDTH, size, size):
            writer._entries.append(_LENGTH.pack(len(entry)) + entry)
        return writer

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._frontier.size

    def root(self) -> bytes:
        """The tree's root; 32 bytes."""
        return self._frontier.root()

    def append(self, entry: bytes, leaf: bytes) -> list[TileFile]:
        """Add an entry and its leaf hash, which the caller vouches for. Answers the files that are full now.

        `ValueError`, and nothing is added, for an entry above 65,535 bytes: its length would not fit.
        """
        if len(entry) > MAX_ENTRY_BYTES:
            raise ValueError(f"an entry has at most {MAX_ENTRY_BYTES} bytes")
        completed = self._frontier.append(leaf)
        last = self._frontier.size - 1
        full: list[TileFile] = []
        self._entries.append(_LENGTH.pack(len(entry)) + entry)
        if len(self._entries) == TILE_WIDTH:
            full.append((entries_path(last // TILE_WIDTH), b"".join(self._entries)))
            self._entries.clear()
        # Every eighth level of the binary tree is a level of tiles.
        for level, digest in enumerate(completed[::TILE_LEVELS]):
            if level == len(self._levels):
                self._levels.append(bytearray())
            tile = self._levels[level]
            tile += digest
            if len(tile) == TILE_BYTES:
                full.append((tile_path(level, last >> TILE_LEVELS * (level + 1)), bytes(tile)))
                tile.clear()
        return full

    def extend(self, records: Iterable[tuple[bytes, bytes]]) -> list[TileFile]:
        """Add a batch of entries with their leaf hashes, in order; the files that are full now."""
        return [file for entry, leaf in records for file in self.append(entry, leaf)]

    def partials(self) -> list[TileFile]:
        """The partial tiles of the present size: what a checkpoint of it needs beside the full tiles."""
        size = self._frontier.size
        files: list[TileFile] = []
        if self._entries:
            files.append((entries_path(size // TILE_WIDTH, len(self._entries)), b"".join(self._entries)))
        for level, tile in enumerate(self._levels):
            if tile:
                index = size >> TILE_LEVELS * (level + 1)
                files.append((tile_path(level, index, len(tile) // HASH_BYTES), bytes(tile)))
        return files
