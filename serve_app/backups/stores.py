"""Copies of the state store: of SQLite by its online backup, of PostgreSQL by pg_dump; both while Gatehouse runs."""

import shutil
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, func, inspect, select, table, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from deployments.migrations.runner import Feature, migrations, standing
from deployments.store import sqlite_url
from serve_app.backups.manifest import BackupError

_BUSY_TIMEOUT_S = 30.0
_PROGRAM_TIMEOUT_S = 3_600
_INSTALLED = Path("/usr/lib/postgresql")


def revisions(url: str, features: Sequence[Feature]) -> dict[str, str | None]:
    """The revision of each feature's tables in a database."""
    return {feature: standing(url, migrations(feature)).present for feature in features}


# --- SQLite ----------------------------------------------------------------------------------------------------------


def copy_sqlite(source: Path, target: Path) -> dict[str, int]:
    """Copy a database file that may be in use, as it is at one moment; the rows by table. `BackupError`.

    Writers wait while the pages are read, as they wait for each other.
    """
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(source))}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT_S)) as live,
            closing(sqlite3.connect(target)) as copy,
        ):
            live.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
    except sqlite3.Error as error:
        raise BackupError(f"{source.name} cannot be copied: {error}.") from error
    return count_sqlite(target)


def count_sqlite(path: Path) -> dict[str, int]:
    """The rows of each table of a file that nobody uses; `BackupError` when its pages do not fit together."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchall()
            if found != [("ok",)]:
                raise BackupError(f"{path.name} is damaged: {found[0][0]}.")
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            return {
                name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608 - a table's name
                for (name,) in names
                if not name.startswith("sqlite_")
            }
    except sqlite3.Error as error:
        raise BackupError(f"{path.name} cannot be read: {error}.") from error


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def dump_postgres(url: str, target: Path, environment: Mapping[str, str]) -> dict[str, int]:
    """Dump the database of a URL, as it is at one moment; the rows by table at that moment. `BackupError`."""
    engine = create_engine(make_url(url), poolclass=NullPool, isolation_level="REPEATABLE READ", hide_parameters=True)
    try:
        with engine.connect() as connection:
            snapshot: str = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
            counts = _count(connection)
            options = ("--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}", f"--file={target}")
            _run("pg_dump", url, options, environment)
            return counts
    except SQLAlchemyError as error:
        raise BackupError(f"the database does not answer ({type(error).__name__}).") from error
    finally:
        engine.dispose()


def restore_postgres(dump: Path, url: str, environment: Mapping[str, str]) -> None:
    """Fill the empty database of a URL from a dump: all of it or nothing. `BackupError`."""
    if found := count_postgres(url):
        raise BackupError(f"the database has {len(found)} tables already; a restore needs an empty one.")
    options = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", str(dump))
    _run("pg_restore", url, options, environment)


def count_postgres(url: str) -> dict[str, int]:
    """The rows of each table of a database. `BackupError`."""
    engine = create_engine(make_url(url), poolclass=NullPool, hide_parameters=True)
    try:
        with engine.connect() as connection:
            return _count(connection)
    except SQLAlchemyError as error:
        raise BackupError(f"the database does not answer ({type(error).__name__}).") from error
    finally:
        engine.dispose()


def is_whole_dump(dump: Path, environment: Mapping[str, str]) -> None:
    """`BackupError` unless pg_restore can read the table of contents."""
    _run("pg_restore", None, ("--list", str(dump)), environment)


def _count(connection: Connection) -> dict[str, int]:
    names = sorted(inspect(connection).get_table_names())
    return {name: connection.execute(select(func.count()).select_from(table(name))).scalar_one() for name in names}


def _run(program: str, url: str | None, options: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run one of PostgreSQL's programs. Its first complaint is the error's text; no argument holds the password."""
    bare, password = (None, None) if url is None else _libpq(make_url(url))
    where = () if bare is None else (f"--dbname={bare}",)
    secret = {} if password is None else {"PGPASSWORD": password}
    try:
        done = subprocess.run(  # noqa: S603 - a program of PostgreSQL's, and no shell
            [_program(program), *where, *options],
            env={**environment, **secret},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROGRAM_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackupError(f"{program} cannot be run: {error}.") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it gave no reason"]
        raise BackupError(f"{program} failed: {lines[0]}")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        installed = sorted(_INSTALLED.glob(f"*/bin/{name}"), key=lambda path: float(path.parent.parent.name))
        if not installed:
            raise BackupError(f"there is no {name} on this machine: install PostgreSQL's client programs.")
        found = str(installed[-1])
    return found


def _libpq(url: URL) -> tuple[str, str | None]:
    """The URL as PostgreSQL's own programs take it, and the password that is not in it."""
    query = {name: value for name, value in url.query.items() if name != "password"}
    bare = URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
    given = url.query.get("password", url.password)
    return bare.render_as_string(hide_password=False), given if given is None else str(given)


def counted(kind: str, where: str) -> dict[str, int]:
    """The rows by table of a restored store: of a SQLite file's path or a database's URL."""
    return count_sqlite(Path(where)) if kind == "sqlite" else count_postgres(where)


def url_of(kind: str, where: str) -> str:
    """The URL of a restored store."""
    return sqlite_url(Path(where)) if kind == "sqlite" else where
