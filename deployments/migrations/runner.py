"""Bringing the tables of a feature to the revision of this code, and back. The rules are in docs/backup.md, ADR 22.

Everything that a command does is one transaction: on PostgreSQL under an advisory lock, so that replicas which start
together wait for the one that migrates; on SQLite under the file's write lock. What fails leaves everything as it was.

Beside Alembic's version table there is `gatehouse_schema`: which revisions' code works with the tables as they are. So
an earlier version can tell an upgrade that it may go on with from one that it must refuse.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    insert,
    select,
    text,
)
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from deployments.errors import PartUnavailable

Feature: TypeAlias = Literal["tenancy", "gate", "responses", "difficulty", "rollout"]
FEATURES: Final[tuple[Feature, ...]] = get_args(Feature)

_HERE: Final = Path(__file__).parent
_LOCK: Final = 0x67617465686F7573  # "gatehous"; of one database, whatever the feature
_LOCK_TIMEOUT_S: Final = 10
_BUSY_TIMEOUT_MS: Final = _LOCK_TIMEOUT_S * 1_000
_turn: Final = threading.Lock()  # what Alembic calls `op` and `context` is one per process

_schema = Table(
    "gatehouse_schema",
    MetaData(),
    Column("feature", String(32), primary_key=True),
    Column("works_with", Text, nullable=False),  # revisions, the newest last
)


class SchemaError(PartUnavailable):
    """The tables are not what this code needs, and cannot be made so. The text says why and what to do."""


@dataclass(frozen=True)
class Migrations:
    """The revisions of one feature: Python files in `directory`, each naming the one before it."""

    feature: str
    directory: Path = field(repr=False)

    @property
    def version_table(self) -> str:
        """Where the feature's present revision is written. Features may share a database."""
        return f"alembic_version_{self.feature}"

    @cached_property
    def breaking(self) -> dict[str, bool]:
        """Every revision, oldest first, with whether it stops the code of the revision before from working."""
        scripts = ScriptDirectory.from_config(self.config()).walk_revisions()
        return {
            script.revision: bool(getattr(script.module, "breaks_previous", False)) for script in reversed([*scripts])
        }

    @property
    def head(self) -> str:
        """The revision that this code works with."""
        return [*self.breaking][-1]

    def works_with(self, revision: str) -> list[str]:
        """The revisions whose code works with tables of this one: back to the last that broke something."""
        found: list[str] = []
        for each, breaks in self.breaking.items():
            found = [each] if breaks else [*found, each]
            if each == revision:
                break
        return found

    def config(self, connection: Connection | None = None) -> Config:
        """Alembic's view of it."""
        config = Config(attributes={"connection": connection, "version_table": self.version_table})
        config.set_main_option("script_location", _escaped(_HERE))
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", _escaped(self.directory))
        return config


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a feature's tables are. `present` None: they were never migrated, or do not exist.

    `behind`: the revisions an upgrade would apply. `newer`: of a later version of Gatehouse; `usable` says if this code
    works with them nevertheless.
    """

    feature: str
    present: str | None
    head: str
    behind: tuple[str, ...]
    newer: bool
    usable: bool


def migrations(feature: Feature) -> Migrations:
    """The revisions that come with this code."""
    return Migrations(feature, _HERE / feature)


async def migrate(engine: AsyncEngine, feature: Feature) -> None:
    """Bring a feature's tables to this code's revision, creating them if need be. For the start of a replica.

    Raises `SchemaError`, and `SQLAlchemyError` or `OSError` when the database does not answer.
    """
    await asyncio.to_thread(upgrade, engine.url, migrations(feature))


def upgrade(url: str | URL, chain: Migrations, to: str | None = None) -> tuple[str, ...]:
    """Apply what is missing up to a revision, by default this code's; which ones that was. Raises what `migrate` does.

    Tables that a later version has migrated are left alone if they say that this code works with them.
    """
    with _transaction(url) as connection:
        standing = _standing(connection, chain)
        if standing.newer and not standing.usable:
            raise SchemaError(
                f"The tables of {chain.feature} are at revision {standing.present}, which a later version of Gatehouse "
                f"made and this one, at {chain.head}, does not know: start that version, or take the tables back with "
                "its `gatehouse db downgrade`."
            )
        behind = standing.behind
        if to is not None:
            behind = behind[: behind.index(to) + 1] if to in behind else ()
        if behind:
            with _applying(chain, "upgraded"):
                command.upgrade(chain.config(connection), behind[-1])
                _declare(connection, chain, behind[-1])
        return behind


def downgrade(url: str | URL, chain: Migrations, to: str | None) -> tuple[str, ...]:
    """Take back every revision after `to`, the newest first; None: all of them, and with them every row.

    Returns what was taken back. Nobody may use the tables meanwhile.
    """
    known = [*chain.breaking]
    if to is not None and to not in known:
        raise SchemaError(f"There is no revision {to} of {chain.feature}; there are {', '.join(known)}.")
    with _transaction(url) as connection:
        present = _standing(connection, chain)
        if present.newer:
            raise SchemaError(
                f"The tables of {chain.feature} are at revision {present.present}, which this version does not know: "
                "only the version that made it can take it back."
            )
        at = -1 if present.present is None else known.index(present.present)
        gone = known[0 if to is None else known.index(to) + 1 : at + 1]
        if gone:
            with _applying(chain, "taken back"):
                command.downgrade(chain.config(connection), to or "base")
                _declare(connection, chain, to)
        return tuple(reversed(gone))


def standing(url: str | URL, chain: Migrations) -> Standing:
    """Where a feature's tables are; changes nothing. A SQLite file that does not exist is not created."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        return Standing(chain.feature, None, chain.head, tuple(chain.breaking), newer=False, usable=False)
    with _engine(parsed, "BEGIN") as engine, engine.connect() as connection:
        return _standing(connection, chain)


def _standing(connection: Connection, chain: Migrations) -> Standing:
    context = MigrationContext.configure(connection, opts={"version_table": chain.version_table})
    present = context.get_current_revision()
    known = [*chain.breaking]
    if present is None or present in known:
        behind = tuple(known[0 if present is None else known.index(present) + 1 :])
        return Standing(chain.feature, present, chain.head, behind, newer=False, usable=not behind)
    works_with = connection.execute(
        select(_schema.c.works_with).where(_schema.c.feature == chain.feature)
    ).scalar_one_or_none()
    usable = works_with is not None and chain.head in works_with.split()
    return Standing(chain.feature, present, chain.head, (), newer=True, usable=usable)


def _declare(connection: Connection, chain: Migrations, revision: str | None) -> None:
    """Write down which code works with the tables from now on."""
    _schema.create(connection, checkfirst=True)
    connection.execute(delete(_schema).where(_schema.c.feature == chain.feature))
    if revision is not None:
        connection.execute(
            insert(_schema).values(feature=chain.feature, works_with=" ".join(chain.works_with(revision)))
        )


@contextmanager
def _applying(chain: Migrations, verb: str) -> Generator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines() or [type(error).__name__]
        raise SchemaError(
            f"The tables of {chain.feature} could not be {verb}, and are as they were: {reason[0]}"
        ) from error


@contextmanager
def _transaction(url: str | URL) -> Generator[Connection]:
    """A transaction that nobody else's migration runs beside."""
    with _turn, _engine(make_url(url), "BEGIN IMMEDIATE") as engine, engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            # From here on whoever waits for a table holds up everybody who wants it after us.
            connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'"))
        yield connection


@contextmanager
def _engine(url: URL, begin: str) -> Generator[Engine]:
    """A blocking engine for the URL of an asynchronous one. SQLite begins its transactions with `begin`."""
    sqlite = url.get_backend_name() == "sqlite"
    engine = create_engine(url.set(drivername="sqlite") if sqlite else url, poolclass=NullPool, hide_parameters=True)

    def configure(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        assert isinstance(connection, sqlite3.Connection)  # noqa: S101 - what SQLAlchemy opens for this URL
        connection.isolation_level = None  # else Python ends the transaction at the first DDL
        connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}").close()
        connection.execute("PRAGMA synchronous=FULL").close()

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    if sqlite:
        event.listen(engine, "connect", configure)
        event.listen(engine, "begin", start)
    try:
        yield engine
    finally:
        engine.dispose()


def _escaped(path: Path) -> str:
    """A path as Alembic's configuration takes it, which would interpolate a percent sign."""
    return str(path).replace("%", "%%")
