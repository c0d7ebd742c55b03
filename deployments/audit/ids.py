"""Which event ids the log has, and where: an SQLite file that is derived from the log and never believed.

A hit only says where to look: the record there decides. What an index could do wrong is to miss an id, so at every
start it is compared with the log (the head at the place up to which it is complete) and with itself (SQLite's own
check, and sums over all columns); if anything is odd, it is built again from the segments.

One connection, exclusive: SQLite before 3.51.3 can damage a WAL database that several connections write to. An index
whose last user did not close it is copied first, because that user may still live and write into the old file.
"""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import TypeVar

from deployments.audit.chain import GENESIS, leaf_hash, link
from deployments.audit.recover import CorruptLog, envelope
from deployments.audit.segment import Frame
from deployments.audit.stored import Placed, StoredLog

IDS_FILE = "ids.db"
_VERSION = 1
_KEY = Struct(">qq")
_QUERY_IDS = 500
_CHUNK_RECORDS = 100_000  # of a rebuild, about 20 MB
_FLUSH_RECORDS = 512
_MAX_PENDING = 16_384
_LOW_32 = 0xFFFFFFFF

_CREATE = """
CREATE TABLE ids (hi INTEGER NOT NULL, lo INTEGER NOT NULL, sequence INTEGER NOT NULL, offset INTEGER NOT NULL,
                  PRIMARY KEY (hi, lo)) WITHOUT ROWID;
CREATE TABLE covers (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL, head BLOB NOT NULL,
                     closed INTEGER NOT NULL, rows INTEGER NOT NULL, sequences INTEGER NOT NULL,
                     offsets INTEGER NOT NULL, hi_low INTEGER NOT NULL, hi_high INTEGER NOT NULL,
                     lo_low INTEGER NOT NULL, lo_high INTEGER NOT NULL);
"""
_SUMS = """
SELECT count(*), ifnull(sum(sequence), 0), ifnull(sum(offset), 0),
       ifnull(sum(hi & 4294967295), 0), ifnull(sum((hi >> 32) & 4294967295), 0),
       ifnull(sum(lo & 4294967295), 0), ifnull(sum((lo >> 32) & 4294967295), 0) FROM ids
"""

T = TypeVar("T")
_Key = tuple[int, int]
_Row = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record is: its sequence, and the byte of its segment at which its frame begins."""

    sequence: int
    offset: int


class IndexFailed(OSError):
    """The index does not work, or does not fit the log."""


class _Unusable(Exception):
    """The index on disk is not one of this log; it is built again."""


def _key(event_id: str) -> _Key:
    """The first 16 bytes of the id's SHA-256, as two integers."""
    return _KEY.unpack_from(sha256(event_id.encode(errors="surrogatepass")).digest())


class EventIndex:
    """The open index. What is added waits in memory, a bounded number of records, until `flush` stores it.

    Not thread-safe. Every method raises `IndexFailed` when the database fails; then the index is worth nothing any
    more, and `discard` makes the next start build it again.
    """

    def __init__(self, path: Path, log: StoredLog, size: int, head: bytes) -> None:
        """Open the index of a log of `size` records with this head. `CorruptLog` when the log has an id twice."""
        self._path = path
        self._pending: dict[_Key, tuple[Place, bytes]] = {}
        self._covered, self._head, self._sums = 0, GENESIS, (0,) * 7
        try:
            self._db = self._reopen(log, size, head)
            self.was_rebuilt = False
        except (_Unusable, sqlite3.Error):
            self._db = _database_errors(self._create)
            self.was_rebuilt = size > 0
        try:
            _database_errors(lambda: self._catch_up(log, size))
        except BaseException:
            self._db.close()
            raise

    # --- use -------------------------------------------------------------------------------------------------------

    @property
    def is_crowded(self) -> bool:
        """True while too much waits in memory, because the disk has no room for it."""
        return len(self._pending) >= 2 * _MAX_PENDING

    def find(self, event_ids: Collection[str]) -> dict[str, Place]:
        """Where those of the ids are that the log has. The record there must be compared: only it is evidence."""
        found: dict[str, Place] = {}
        asked: dict[_Key, str] = {}
        for event_id in event_ids:
            key = _key(event_id)
            if key in self._pending:
                found[event_id] = self._pending[key][0]
            else:
                asked[key] = event_id
        keys = iter(asked)
        while some := list(islice(keys, _QUERY_IDS)):
            for hi, lo, sequence, offset in _database_errors(lambda keys=some: self._rows(keys)):
                if (hi, lo) in asked:
                    found[asked[hi, lo]] = Place(sequence, offset)
        return found

    def add(self, event_id: str, place: Place, head: bytes) -> None:
        """Note the next record of the log; `head` is the log's after it."""
        self._pending[_key(event_id)] = (place, head)

    def flush(self, everything: bool = False) -> None:
        """Store some of what waits, so that memory stays bounded. A full disk is no error: `is_crowded` tells."""
        count = len(self._pending)
        if not everything:
            if count < _FLUSH_RECORDS:
                return
            count = max(_FLUSH_RECORDS, count - _MAX_PENDING)
        some = list(islice(self._pending.items(), count))
        if not some:
            return
        last, head = some[-1][1]
        try:
            self._store([(hi, lo, at.sequence, at.offset) for (hi, lo), (at, _) in some], last.sequence + 1, head)
        except sqlite3.Error as error:
            if _is_full(error):
                return
            raise _failed(error) from error
        for key, _ in some:
            del self._pending[key]

    def close(self) -> None:
        """Store everything and say so in the file. Idempotent."""
        try:
            self.flush(everything=True)
            _database_errors(lambda: self._db.execute("UPDATE covers SET closed = 1"))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Give up the file as it is: the next start will look at it closely."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def discard(self) -> None:
        """Delete the file: the next start builds it again."""
        self.abandon()
        _remove(self._path)

    # --- files -----------------------------------------------------------------------------------------------------

    def _reopen(self, log: StoredLog, size: int, head: bytes) -> sqlite3.Connection:
        """The stored index if it is sound and this log's."""
        if not self._path.exists():
            raise _Unusable
        db = _connect(self._path)
        try:
            if not self._read_cover(db):
                copy = self._path.with_name(self._path.name + ".new")
                _remove(copy)
                _new_file(copy)
                with contextlib.closing(_connect(copy)) as target:
                    db.backup(target)
                db.close()
                # A write-ahead log of the old file would be replayed into the new one.
                _remove(self._path)
                copy.replace(self._path)
                db = _connect(self._path)
                self._read_cover(db)
            if self._covered > size or self._head != _head_at(log, self._covered, size, head):
                raise _Unusable
            if db.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
                raise _Unusable
            if db.execute(_SUMS).fetchone() != self._sums or self._sums[0] != self._covered:
                raise _Unusable
            db.execute("UPDATE covers SET closed = 0")
        except BaseException:
            db.close()
            raise
        return db

    def _read_cover(self, db: sqlite3.Connection) -> bool:
        """Up to where the index says it is complete; whether its last user closed it."""
        if db.execute("PRAGMA user_version").fetchone() != (_VERSION,):
            raise _Unusable
        found: Sequence[object] | None = db.execute("SELECT * FROM covers").fetchone()
        if found is None:
            raise _Unusable
        _, size, head, closed, *sums = found
        if not isinstance(size, int) or not isinstance(head, bytes) or not all(isinstance(sum_, int) for sum_ in sums):
            raise _Unusable
        self._covered, self._head = size, head
        self._sums = tuple(sum_ for sum_ in sums if isinstance(sum_, int))
        return closed == 1

    def _create(self) -> sqlite3.Connection:
        """An empty index in a new file; whoever still has the old one open keeps that."""
        _remove(self._path)
        _new_file(self._path)
        self._covered, self._head, self._sums = 0, GENESIS, (0,) * 7
        db = _connect(self._path)
        try:
            db.executescript(_CREATE)
            db.execute("INSERT INTO covers VALUES (1, 0, ?, 0, 0, 0, 0, 0, 0, 0, 0)", (GENESIS,))
            db.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            db.close()
            raise
        return db

    def _catch_up(self, log: StoredLog, size: int) -> None:
        """Index the records that the log has and the index has not."""
        frames = log.frames(self._covered, size)
        while chunk := _chunk(frames):
            try:
                rows = sorted(chunk.rows)
                self._store(rows, chunk.size, chunk.head)
            except sqlite3.IntegrityError:
                raise self._twice(chunk, log) from None

    def _twice(self, chunk: "_Chunk", log: StoredLog) -> CorruptLog:
        """Which record has the id of an earlier one."""
        seen: set[_Key] = {(hi, lo) for hi, lo, *_ in self._known(chunk.rows)}
        for hi, lo, sequence, offset in chunk.rows:
            if (hi, lo) in seen:
                [placed] = log.frames(sequence, sequence + 1)
                return CorruptLog(placed.path.name, offset, "the event id occurs twice")
            seen.add((hi, lo))
        return CorruptLog(self._path.name, 0, "the index of event ids contradicts the log")

    def _known(self, rows: Iterable[_Row]) -> Iterator[_Row]:
        keys = iter([(hi, lo) for hi, lo, *_ in rows])
        while some := list(islice(keys, _QUERY_IDS)):
            wanted = set(some)
            yield from (row for row in self._rows(some) if row[:2] in wanted)

    def _rows(self, keys: Sequence[_Key]) -> list[_Row]:
        marks = ",".join("?" * len(keys))
        return self._db.execute(
            f"SELECT hi, lo, sequence, offset FROM ids WHERE hi IN ({marks})",  # noqa: S608 - question marks only
            [hi for hi, _ in keys],
        ).fetchall()

    def _store(self, rows: Sequence[_Row], size: int, head: bytes) -> None:
        """Insert rows and move the mark, in one transaction."""
        sums = tuple(old + new for old, new in zip(self._sums, _sums(rows), strict=True))
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT INTO ids VALUES (?, ?, ?, ?)", rows)
            self._db.execute(
                "UPDATE covers SET size = ?, head = ?, rows = ?, sequences = ?, offsets = ?, hi_low = ?, hi_high = ?, "
                "lo_low = ?, lo_high = ?",
                (size, head, *sums),
            )
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._covered, self._head, self._sums = size, head, sums


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows of consecutive records, in log order, and where the log stands after the last."""

    rows: list[_Row]
    size: int
    head: bytes


def _chunk(frames: Iterator[Placed]) -> _Chunk | None:
    rows: list[_Row] = []
    last: Frame | None = None
    for placed in islice(frames, _CHUNK_RECORDS):
        last = placed.frame
        rows.append((*_key(envelope(placed.path.name, last).event_id), last.sequence, last.offset))
    if last is None:
        return None
    return _Chunk(rows, last.sequence + 1, link(last.previous, leaf_hash(last.payload)))


def _head_at(log: StoredLog, size: int, log_size: int, log_head: bytes) -> bytes:
    """Head of the log when it had `size` records."""
    if size == log_size:
        return log_head
    return next(log.frames(size, size + 1)).frame.previous


def _sums(rows: Sequence[_Row]) -> tuple[int, ...]:
    return (
        len(rows),
        sum(row[2] for row in rows),
        sum(row[3] for row in rows),
        sum(row[0] & _LOW_32 for row in rows),
        sum(row[0] >> 32 & _LOW_32 for row in rows),
        sum(row[1] & _LOW_32 for row in rows),
        sum(row[1] >> 32 & _LOW_32 for row in rows),
    )


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        # Keys come in random order, so each row that is stored writes a page: small ones.
        db.execute("PRAGMA page_size = 1024")
        db.execute("PRAGMA wal_autocheckpoint = 4000")
        # Exclusive first: then the write-ahead log needs no shared memory and nobody else gets in.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -16384")
    except BaseException:
        db.close()
        raise
    return db


def _new_file(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _failed(error: sqlite3.Error) -> IndexFailed:
    code = errno.ENOSPC if _is_full(error) else errno.EIO
    return IndexFailed(code, f"the index of event ids: {os.strerror(code)}")


def _database_errors(do: Callable[[], T]) -> T:
    try:
        return do()
    except sqlite3.Error as error:
        raise _failed(error) from error
