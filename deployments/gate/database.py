"""The gate's way to its database: whatever fails there is a store that does not answer.

What was begun there is brought to its end although whoever asked for it goes away. A driver that is cancelled within a
statement can leave its connection half way: SQLite then stays locked for everybody.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import Executable, Row, Select, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deployments.errors import GateUnavailable
from deployments.tasks import to_its_end

SILENT = "The approval store does not answer."


async def fetch(engine: AsyncEngine, query: "Select[tuple[object, ...]]") -> "Sequence[Row[tuple[object, ...]]]":
    """The rows of a query, or `GateUnavailable`."""
    return await to_its_end(_fetch(engine, query))


async def _fetch(engine: AsyncEngine, query: "Select[tuple[object, ...]]") -> "Sequence[Row[tuple[object, ...]]]":
    try:
        async with engine.connect() as connection:
            return (await connection.execute(query)).all()
    except (SQLAlchemyError, OSError) as error:
        raise GateUnavailable(SILENT) from error


def insert_once(engine: AsyncEngine, table: Table, **values: object) -> Executable:
    """A row, unless one with the same key is there already: then nothing is changed."""
    if engine.dialect.name == "postgresql":
        return postgresql.insert(table).values(**values).on_conflict_do_nothing()
    return sqlite.insert(table).values(**values).on_conflict_do_nothing()


async def commit(engine: AsyncEngine, *changes: Executable) -> int:
    """Make changes in one transaction, to their end; how many rows the last one changed, or `GateUnavailable`."""
    return await to_its_end(_commit(engine, changes))


async def _commit(engine: AsyncEngine, changes: Sequence[Executable]) -> int:
    count = 0
    async with writing(engine) as connection:
        for change in changes:
            count = await changed(connection, change)
    return count


async def changed(connection: AsyncConnection, statement: Executable) -> int:
    """Make a change; how many rows it changed."""
    # Without the option an INSERT that fetches a generated key has no count on PostgreSQL.
    done = await connection.execute(statement, execution_options={"preserve_rowcount": True})
    return done.rowcount


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection, None]:
    """A transaction that commits when its block ends well; `GateUnavailable` when the store fails.

    To be used within `to_its_end`.
    """
    try:
        async with engine.begin() as connection:
            yield connection
    except (SQLAlchemyError, OSError) as error:
        raise GateUnavailable(SILENT) from error
