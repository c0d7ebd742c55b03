"""Looking into a database from outside: its tables as the backend tells them, and its rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    Boolean,
    Connection,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    create_engine,
    inspect,
    make_url,
    text,
)
from sqlalchemy.pool import NullPool

Rows = dict[str, list[dict[str, Any]]]


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        parsed = parsed.set(drivername="sqlite")
    engine = create_engine(parsed, poolclass=NullPool)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def ours(name: str) -> bool:
    """Not a table of the migrations themselves."""
    return not name.startswith(("alembic_", "gatehouse_schema"))


def shape(url: str) -> dict[str, Any]:
    """Every table with its columns, keys, constraints and indexes, in no order of columns."""
    with connected(url) as connection:
        inspector = inspect(connection)
        return {
            name: {
                "columns": {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in inspector.get_columns(name)
                },
                "key": inspector.get_pk_constraint(name)["constrained_columns"],
                "unique": sorted(each["column_names"] for each in inspector.get_unique_constraints(name)),
                "indexes": {
                    each["name"]: (
                        each["column_names"],
                        bool(each["unique"]),
                        str(each.get("dialect_options", {}).get(f"{connection.dialect.name}_where")),
                    )
                    for each in inspector.get_indexes(name)
                },
            }
            for name in inspector.get_table_names()
            if ours(name)
        }


def revisions(url: str) -> dict[str, str]:
    """What the version tables say."""
    with connected(url) as connection:
        names = [name for name in inspect(connection).get_table_names() if name.startswith("alembic_")]
        return {
            name: found
            for name in names
            for found in connection.execute(text(f"SELECT version_num FROM {name}")).scalars()  # noqa: S608
        }


def rows(url: str) -> Rows:
    """All rows of all tables."""
    with connected(url) as connection:
        return {
            table.name: [dict(row) for row in connection.execute(table.select()).mappings()]
            for table in tables(connection)
        }


def tables(connection: Connection) -> list[Table]:
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if ours(table.name)]


def fill(url: str, count: int = 3) -> Rows:
    """Put rows into every table that is there; all rows afterwards."""
    with connected(url) as connection:
        for table in tables(connection):
            connection.execute(table.insert(), [_row(table, number) for number in range(count)])
    return rows(url)


def _row(table: Table, number: int) -> dict[str, object]:
    return {column.name: _value(column.type, f"{column.name}-{number}", number + 1) for column in table.columns}


def _value(kind: object, words: str, number: int) -> object:
    match kind:
        case Boolean():
            return number % 2 == 0
        case Float():
            return number + 0.5
        case Integer():
            return number
        case LargeBinary():
            return words.encode()
        case _:
            return words[-16:]
