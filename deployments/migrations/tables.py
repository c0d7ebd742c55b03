"""What a baseline does: make a database have the tables of a metadata, whatever it had of them before."""

from sqlalchemy import DDL, Connection, Dialect, MetaData, inspect
from sqlalchemy.schema import CreateColumn


def bring_up(connection: Connection, metadata: MetaData) -> None:
    """Create what is missing: tables, columns and indexes. Nothing is dropped, and no row is lost.

    Before there were migrations, each start did this; a database of that time may have any part of the tables.
    """
    metadata.create_all(connection)
    inspector = inspect(connection)
    present = {name: {column["name"] for column in inspector.get_columns(name)} for name in metadata.tables}
    for statement in missing_columns(metadata, present, connection.dialect):
        connection.execute(DDL(statement))
    for table in metadata.sorted_tables:
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def missing_columns(metadata: MetaData, present: dict[str, set[str]], dialect: Dialect) -> list[str]:
    """The statements that add to tables, given with the columns they have, those that the metadata has more.

    Such a column is nullable or has a default: rows can do without it, and so can an earlier version that writes again.
    """
    quote = dialect.identifier_preparer
    return [
        f"ALTER TABLE {quote.format_table(table)} ADD COLUMN {CreateColumn(column).compile(dialect=dialect)}"
        for table in metadata.sorted_tables
        for column in table.columns
        if table.name in present and column.name not in present[table.name]
    ]
