"""The gate's way to its database: whatever fails there is a store that does not answer."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import Row, Select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deployments.errors import GateUnavailable

_SILENT = "The approval store does not answer."


async def fetch(engine: AsyncEngine, query: "Select[tuple[object, ...]]") -> "Sequence[Row[tuple[object, ...]]]":
    """The rows of a query, or `GateUnavailable`."""
    try:
        async with engine.connect() as connection:
            return (await connection.execute(query)).all()
    except (SQLAlchemyError, OSError) as error:
        raise GateUnavailable(_SILENT) from error


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection, None]:
    """A transaction that commits when its block ends well; `GateUnavailable` when the store fails."""
    try:
        async with engine.begin() as connection:
            yield connection
    except (SQLAlchemyError, OSError) as error:
        raise GateUnavailable(_SILENT) from error
