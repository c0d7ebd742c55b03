"""`gatehouse audit`: verify and read a log from its files. No server, no Ray."""

import json
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.audit.read import read_records
from deployments.audit.segment import segment_paths
from deployments.audit.verify import Unusable, verify

app = typer.Typer(help="Verify and read the audit log, offline.", no_args_is_help=True)

_Log = Annotated[Path, typer.Argument(help="The log's directory, for example .gatehouse/audit.")]
_Name = Annotated[str | None, typer.Option(help="Only events of this name, for example tool_call.held.")]
_RequestId = Annotated[str | None, typer.Option("--request-id", help="Only events of this request.")]
_Json = Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")]


@app.command("verify")
def verify_log(
    path: _Log,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", "--head", help="A head kept elsewhere, as GET /v1/audit/head returned it."),
    ] = None,
) -> None:
    """Check every record and what the records mean; print a JSON summary.

    Exit status: 0 all checks pass, 1 the evidence is broken, 2 there is nothing usable to check.
    """
    try:
        report = verify(path, checkpoint)
    except (Unusable, OSError) as error:
        _unusable(str(error))
    typer.echo(json.dumps(report.to_json(), indent=2))
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def show(
    path: _Log,
    limit: Annotated[int, typer.Option(min=1, help="At most so many records.")] = 50,
    name: _Name = None,
    request_id: _RequestId = None,
    newest: Annotated[bool, typer.Option("--newest/--oldest", help="Which end to show.")] = True,
    as_json: _Json = False,
) -> None:
    """Print records, oldest first; by default the newest 50."""
    if not segment_paths(path):
        _unusable(f"there is no audit log at {path}: it has no segment files.")
    wanted = (
        record
        for record in read_records(path)
        if name in (None, record.get("name")) and request_id in (None, record.get("request_id"))
    )
    records: Iterable[dict[str, Any]] = deque(wanted, maxlen=limit) if newest else islice(wanted, limit)
    if as_json:
        for record in records:
            typer.echo(json.dumps(record, ensure_ascii=False))
        return
    table = Table("index", "time", "event", "tenant", "principal", "request", "data")
    for record in records:
        time = datetime.fromtimestamp(record["at_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        data = " ".join(f"{field}={_short(value)}" for field, value in record["data"].items() if value is not None)
        cells = str(record["sequence"]), time, record["name"], record["tenant"], record["principal"]
        table.add_row(*map(escape, (*cells, record["request_id"] or "-", data)))
    Console().print(table)


def _unusable(message: str) -> NoReturn:
    # Not `client.fail`: verifying must work where neither the configuration nor an HTTP client can be loaded.
    typer.echo(f"gatehouse: {message}", err=True)
    raise typer.Exit(2)


def _short(value: object) -> str:
    """A value for a table cell; digests keep their first 12 digits, control characters are escaped."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return f"{text[:12]}..." if len(text) == 64 else text
