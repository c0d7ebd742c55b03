"""Opening the state store: one SQLAlchemy engine per feature, on SQLite or PostgreSQL."""

import asyncio
import sqlite3
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

_BUSY_TIMEOUT_MS = 10_000


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """True when this SQLite may use WAL with several connections.

    Before 3.51.3, and in the withdrawn 3.52.0, resetting the WAL can corrupt the database.
    """
    return version >= (3, 51, 3) and version[:2] != (3, 52)


def sqlite_url(path: Path) -> str:
    """The store URL of a SQLite file."""
    return f"sqlite+aiosqlite:///{path}"


def open_store(url: str) -> AsyncEngine:
    """An engine for `url` (`sqlite+aiosqlite:///...` or `postgresql+...://...`); connects on first use.

    A SQLite file's directory is created with mode 0700, and every commit is on disk when it returns
    (`synchronous=FULL`). One process owns a SQLite file. Raises `sqlalchemy.exc.ArgumentError` for an URL that is none.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_async_engine(parsed, pool_pre_ping=True)
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_async_engine(parsed)
    journal = "WAL" if wal_is_safe(sqlite3.sqlite_version_info) else "DELETE"

    def configure(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={_BUSY_TIMEOUT_MS}",
            f"journal_mode={journal}",
            "synchronous=FULL",
            "foreign_keys=ON",
            "secure_delete=ON",  # what was deleted is not left in the file; some builds of SQLite do not by themselves
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine.sync_engine, "connect", configure)
    return engine


def writers_turn(engine: AsyncEngine) -> AbstractAsyncContextManager[None]:
    """What to hold while writing: SQLite has one writer, PostgreSQL has as many as come.

    Waiting here is fair and in order, waiting in the database is neither.
    """
    return asyncio.Lock() if engine.dialect.name == "sqlite" else nullcontext()
