"""Lists for a terminal: a table where it fits, a paragraph per row where it does not. No cell is ever cut."""

import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from deployments.gate.display import escaped

_WIDE = 1_000_000
_INDENT = "  "


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None) -> None:
    """Print rows under their columns, the first of which is an id. Rows are text, and as long as `columns`.

    Whatever could move the cursor or look like another line is escaped, as it is where a call is shown for approval.
    Ids are there to be pasted, so nothing gives way for the width of a terminal: rows that do not fit become paragraphs
    with the id alone on its line. What is not a terminal gets the whole table, one line for each row.
    """
    console = console or Console()
    table = Table(*columns)
    rows = [[one_line(cell) for cell in row] for row in rows]
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    wide = Console(width=_WIDE)
    needed = Measurement.get(wide, wide.options, table).maximum
    if not console.is_terminal:
        Console(file=console.file, width=needed).print(table)
    elif needed <= console.width:
        console.print(table)
    else:
        for row in rows:
            typer.echo(row[0], console.file)
            typer.echo(_paragraph(columns[1:], row[1:], console.width), console.file)


def moment(at_ms: int | None) -> str:
    """A moment, in milliseconds since the epoch, as lists show it: UTC, to the second; `-` for none."""
    return "-" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def one_line(text: str) -> str:
    """Text that stays on its line: nothing in it moves the cursor or begins another one."""
    return escaped(text).replace("\n", "\\n")


def _paragraph(names: Sequence[str], cells: Sequence[str], width: int) -> str:
    text = ", ".join(f"{name} {cell}" for name, cell in zip(names, cells, strict=True))
    return textwrap.fill(
        text, max(width, len(_INDENT) + 1), initial_indent=_INDENT, subsequent_indent=_INDENT,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
