"""Copies of the log that outlive this machine: a static log (C2SP tlog-tiles) in a directory or a locked bucket.

```
tile/...                  as in the log; written once
checkpoints/<20 digits>   the signed note of each exported size; written once
log.vkey                  the log's key and its witnesses', one a line
checkpoint                the newest note, with the cosignatures it had
checkpoint.witnessed      the newest note that a quorum of witnesses had signed, if there is one
```

Tiles are written before the checkpoints that need them, so what lies there is a valid log at every moment. Nothing is
copied that does not lead to the signed root: a lock would keep the damage for years. The copy also remembers: a log
that has fewer records than its copy, or others, was rolled back, and nothing is written over what the copy knows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct
from threading import Lock

from deployments.audit.layout import CHECKPOINT_FILE, CHECKPOINTS_DIR, KEYS_FILE, WITNESSED_FILE
from deployments.audit.merkle import HASH_BYTES, Frontier, root_of
from deployments.audit.notes import (
    BadKey,
    BadNote,
    BadSignature,
    Checkpoint,
    Note,
    VerifierKey,
    parse_checkpoint,
    parse_note,
    parse_verifier_key,
    verify_note,
)
from deployments.audit.s3 import SCHEME, S3Target
from deployments.audit.settings import ExportSettings
from deployments.audit.targets import DirectoryTarget, ExportFailed, ExportRefused, Files, Target
from deployments.audit.tiles import (
    TILE_LEVELS,
    TILE_WIDTH,
    BadTile,
    TileConflict,
    TileName,
    TileReader,
    entries_path,
    parse_bundle,
    parse_path,
    tile_path,
)
from deployments.clock import Clock

_LENGTH = Struct(">H")
_READ_ATTEMPTS = 3


def open_target(settings: ExportSettings, clock: Clock) -> Target:
    """The store that the settings name; nothing is read or written yet. `ExportFailed`."""
    if settings.target.startswith(SCHEME):
        return S3Target(settings, clock)
    return DirectoryTarget(Path(settings.target))


def checkpoint_name(size: int) -> str:
    """File name of an exported checkpoint; names sort by size."""
    return f"{size:020d}"


# --- a log as files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A checkpoint that the log's key signed, and its note."""

    checkpoint: Checkpoint
    note: Note

    @property
    def size(self) -> int:
        """How many records it covers."""
        return self.checkpoint.size


def read_keys(files: Files) -> tuple[VerifierKey, ...]:
    """The keys that lie with a log, its own first; at least one. Whoever wrote the log could write them, too."""
    data = files.read(KEYS_FILE)
    if data is None:
        raise ExportFailed(f"{KEYS_FILE} is missing")
    try:
        keys = tuple(parse_verifier_key(line) for line in data.decode().splitlines() if line)
    except (UnicodeDecodeError, BadKey) as error:
        raise ExportRefused(f"{KEYS_FILE} cannot be read: {error}") from error
    if not keys:
        raise ExportFailed(f"{KEYS_FILE} is empty")
    return keys


def signed_head(data: bytes, key: VerifierKey, what: str) -> SignedHead:
    """The head in a note, or `ExportRefused` unless `key` signed it. `what` names it in the message."""
    try:
        note = parse_note(data)
        verify_note(note, [key])
        checkpoint = parse_checkpoint(note.text)
    except BadSignature as error:
        raise ExportRefused(f"{what} is not signed by the log's key {key.name}") from error
    except BadNote as error:
        raise ExportRefused(f"{what} cannot be read: {error}") from error
    if checkpoint.origin != key.name:
        raise ExportRefused(f"{what} is of another log: {checkpoint.origin}")
    return SignedHead(checkpoint, note)


class _Tiles:
    """Files as a `TileStore` that nobody writes to. The log may grow meanwhile, and drop partial tiles as it does."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def read(self, path: str) -> bytes | None:
        data = self._files.read(path)
        name = parse_path(path)
        if data is not None or name.width == TILE_WIDTH:
            return data
        # Whatever the newest checkpoint has in this place begins with what is wanted. It may be gone again by now.
        for _ in range(_READ_ATTEMPTS):
            note = self._files.read(CHECKPOINT_FILE)
            size = 0 if note is None else _size_in(note, "the log")
            width = (size >> TILE_LEVELS * (name.level or 0)) - name.index * TILE_WIDTH
            if not name.width < width < TILE_WIDTH:
                return None
            data = self._files.read(replace(name, width=width).path)
            if data is not None:
                return _first(data, name)
        return None

    def write(self, path: str, data: bytes) -> None:
        raise TypeError("this log is only read")


def _first(data: bytes, name: TileName) -> bytes:
    """The beginning of a wider tile."""
    return bundle_of(parse_bundle(data)[: name.width]) if name.level is None else data[: name.width * HASH_BYTES]


def bundle_of(entries: Iterable[bytes]) -> bytes:
    """Entries as they lie in a bundle: each after its length in 2 bytes."""
    return b"".join(_LENGTH.pack(len(entry)) + entry for entry in entries)


class Tree:
    """The tiles of one signed head, each checked against its root before it is answered.

    Every method raises `BadTile` for what is missing or does not lead to the root, and what the files raise.
    """

    def __init__(self, files: Files, head: SignedHead) -> None:
        """Checks the right edge, and with it all partial tiles."""
        self.size = head.size
        self.reader = TileReader(_Tiles(files))
        if self.root(self.size) != head.checkpoint.root:
            raise BadTile("the tiles have another root than the checkpoint")

    def root(self, size: int) -> bytes:
        """The root of the first `size` leaves."""
        return Frontier.at(size, self.reader.at(self.size)).root()

    def full(self, level: int, index: int) -> bytes:
        """A full tile of hashes, which its hash one level up covers. Ask for the levels above it, too."""
        data = self.reader.tile(level, index, self.size)
        root = root_of(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))
        if root != self.reader.at(self.size)(TILE_LEVELS * (level + 1), index):
            raise BadTile(f"{tile_path(level, index)} does not lead to the checkpoint's root")
        return data

    def bundle(self, begin: int, end: int) -> bytes:
        """A bundle of entries, each with the leaf hash that its place has in the tiles."""
        return bundle_of(self.reader.entries(begin, end, self.size))

    def check(self) -> None:
        """Every full tile of hashes. With `reader.entries`, all of the log is then known to lead to the root."""
        for bundle in range(self.size // TILE_WIDTH):
            for level, index in filled_by(bundle):
                self.full(level, index)


def filled_by(bundle: int) -> Iterator[tuple[int, int]]:
    """The tiles of hashes, by level and index, that are full once the bundle of this number is."""
    level, count = 0, bundle + 1
    yield level, bundle
    while count % TILE_WIDTH == 0:
        level, count = level + 1, count // TILE_WIDTH
        yield level, count - 1


# --- copying -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExportStatus:
    """How far the copy reaches, seconds since log and copy last agreed, and why the last attempt failed, if it did.

    Before they first have, `size` is None and `age_s` counts from the start: what never begins is late, too.
    """

    size: int | None
    age_s: float
    failure: str | None


class Exporter:
    """Copies a log to a target. `run_once` belongs to one thread at a time; `status` to any."""

    def __init__(self, target: Target, clock: Clock) -> None:
        """Nothing is read yet."""
        self._target = target
        self._clock = clock
        self._lock = Lock()
        self._size: int | None = None
        self._agreed_s = clock.monotonic_s()
        self._failure: str | None = None
        self._bundles = 0  # full bundles that failed attempts have stored, with their tiles
        self._keys: bytes | None = None

    def status(self) -> ExportStatus:
        """Where the export stands."""
        with self._lock:
            return ExportStatus(self._size, self._clock.monotonic_s() - self._agreed_s, self._failure)

    def newest(self) -> bytes | None:
        """The largest note that the copy knows, unverified; None before the first. `ExportFailed`, `ExportRefused`.

        A checkpoint that was put back to an older one does not hide the ones that cannot be replaced.
        """
        note = self._target.read(CHECKPOINT_FILE)
        known = "" if note is None else checkpoint_name(_size_in(note, self._target.name))
        later = self._target.last(CHECKPOINTS_DIR, known)
        return note if later is None else self._target.read(f"{CHECKPOINTS_DIR}/{later}")

    def compare(self, log: Files, key: VerifierKey | None = None) -> int | None:
        """How many records the copy knows, all of which the log has; None for an empty copy. Nothing is written.

        `ExportRefused` when they are not one history, `ExportFailed` when that cannot be found out now.
        """
        key = key or read_keys(log)[0]
        head = _newest_head(log, key)
        try:
            known = self._compare(head, Tree(log, head), key)
        except BadTile as error:
            raise ExportFailed(f"the log's tiles: {error}") from error
        return None if known is None else known.size

    def run_once(self, log: Files, key: VerifierKey | None = None, everything: bool = False) -> int:
        """Copy what the target lacks of the log's newest checkpoint; the number of records it covers.

        `key` is the log's, None for the first in its `log.vkey`. `everything` offers all tiles anew and so finds
        changed ones in the target; otherwise those below its own newest checkpoint are taken to be there.
        `ExportRefused` when log and target contradict each other, `ExportFailed` when it could not be done now.
        """
        try:
            size = self._run(log, key, everything)
        except (ExportFailed, ExportRefused) as error:
            self._set(None, str(error))
            raise
        except BadTile as error:
            self._set(None, f"the log's tiles: {error}")
            raise ExportFailed(f"the log's tiles: {error}") from error
        except TileConflict as error:
            self._set(None, f"{self._target.name}: {error}")
            raise ExportRefused(f"{self._target.name}: {error}; two histories of one log, or a damaged copy") from error
        self._set(size, None)
        return size

    def _set(self, size: int | None, failure: str | None) -> None:
        with self._lock:
            self._failure = failure
            if size is not None:
                self._size, self._agreed_s = size, self._clock.monotonic_s()

    def _run(self, log: Files, key: VerifierKey | None, everything: bool) -> int:
        # 1. What the log claims. The older note is read first, so that it cannot be the newer one.
        keys = log.read(KEYS_FILE)
        key = key or read_keys(log)[0]
        witnessed_note = log.read(WITNESSED_FILE)
        head = _newest_head(log, key)
        tree = Tree(log, head)
        # 2. What the copy knows: never more records, never others.
        known = self._compare(head, tree, key)
        # 3. Full tiles, the ones below before the ones above.
        start = 0 if known is None else known.size // TILE_WIDTH
        for bundle in range(0 if everything else max(start, self._bundles), head.size // TILE_WIDTH):
            self._put_full(tree, bundle)
            self._bundles = bundle + 1
        # 4. Each checkpoint after its partial tiles.
        witnessed = None
        if witnessed_note is not None:
            witnessed = self._put_witnessed(witnessed_note, key, head, tree)
        if known is None or everything or known.size < head.size:
            self._put_checkpoint(head, tree)
        # 5. What changes, last.
        if keys is not None and keys != self._keys:
            self._target.replace(KEYS_FILE, keys)
            self._keys = keys
        self._replace_note(CHECKPOINT_FILE, head, key)
        if witnessed is not None:
            self._target.replace(WITNESSED_FILE, witnessed)
        self._bundles = 0
        return head.size

    def _compare(self, head: SignedHead, tree: Tree, key: VerifierKey) -> SignedHead | None:
        """What the copy knows, or `ExportRefused` unless the log begins with that."""
        name, note = self._target.name, self.newest()
        if note is None:
            return None
        known = signed_head(note, key, f"the checkpoint in {name}")
        if known.size > head.size:
            raise ExportRefused(
                f"{name} knows {known.size} records of the log, which has a checkpoint of {head.size} only: the log "
                "was rolled back. Restore it from this copy"
            )
        if tree.root(known.size) != known.checkpoint.root:
            raise ExportRefused(f"the first {known.size} records of the log are not those that {name} knows")
        return known

    def _put_full(self, tree: Tree, bundle: int) -> None:
        hashes = [(tile_path(level, index), tree.full(level, index)) for level, index in filled_by(bundle)]
        entries = tree.bundle(bundle * TILE_WIDTH, (bundle + 1) * TILE_WIDTH)
        for path, data in [(entries_path(bundle), entries), *hashes]:
            self._target.put_new(path, data)
            self._target.filled(path)

    def _put_witnessed(self, note: bytes, key: VerifierKey, head: SignedHead, tree: Tree) -> bytes | None:
        """Put what the newest note with a quorum's cosignatures needs; the note, if the target lacks it."""
        witnessed = signed_head(note, key, "the log's witnessed checkpoint")
        if witnessed.size > head.size or tree.root(witnessed.size) != witnessed.checkpoint.root:
            raise ExportRefused(f"the log's checkpoint does not extend its witnessed one of {witnessed.size} records")
        stored = self._target.read(WITNESSED_FILE)
        if stored == note or (stored is not None and _size_in(stored, self._target.name) > witnessed.size):
            return None
        if witnessed.size < head.size:
            self._put_checkpoint(witnessed, tree)
        return note

    def _put_checkpoint(self, head: SignedHead, tree: Tree) -> None:
        for path, data in _partials(tree, head.size):
            self._target.put_new(path, data)
        path = f"{CHECKPOINTS_DIR}/{checkpoint_name(head.size)}"
        try:
            self._target.put_new(path, head.note.to_bytes())
        except TileConflict:
            # The same checkpoint may have had fewer cosignatures then.
            stored = self._target.read(path)
            if stored is None or not stored.startswith(f"{head.note.text}\n".encode()):
                raise

    def _replace_note(self, path: str, head: SignedHead, key: VerifierKey) -> None:
        """Replace a note by a newer one, or by one with more cosignatures."""
        data, stored = head.note.to_bytes(), self._target.read(path)
        if stored == data:
            return
        if stored is not None:
            before = signed_head(stored, key, f"{path} in {self._target.name}")
            if before.size == head.size and len(before.note.signatures) >= len(head.note.signatures):
                return
        self._target.replace(path, data)


def _newest_head(log: Files, key: VerifierKey) -> SignedHead:
    note = log.read(CHECKPOINT_FILE)
    if note is None:
        raise ExportFailed("the log has no checkpoint yet")
    return signed_head(note, key, "the log's checkpoint")


def _partials(tree: Tree, size: int) -> Iterator[tuple[str, bytes]]:
    """The partial tiles of a checkpoint, cut from the newest ones: the log may have dropped its own."""
    width = size % TILE_WIDTH
    if width:
        yield entries_path(size // TILE_WIDTH, width), tree.bundle(size - width, size)
    level, count = 0, size
    while count:
        index, width = divmod(count, TILE_WIDTH)
        if width:
            yield tile_path(level, index, width), tree.reader.tile(level, index, tree.size)[: width * HASH_BYTES]
        level, count = level + 1, index


def _size_in(note: bytes, name: str) -> int:
    try:
        return parse_checkpoint(parse_note(note).text).size
    except BadNote as error:
        raise ExportRefused(f"the checkpoint in {name} cannot be read: {error}") from error
