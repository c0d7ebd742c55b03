"""`gatehouse status`: the on-call checklist on one screen."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Annotated, Final

import httpx2
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.clock import SystemClock
from serve_app.cli.tables import one_line
from serve_app.config import client_environment
from serve_app.status.facts import Unseen
from serve_app.status.judging import Line, State, judge, overall
from serve_app.status.reading import Reader

_TIMEOUT_S: Final = 15.0
_WIDE: Final = 200
_COLOURS: Final = {State.OK: "green", State.DEGRADED: "yellow", State.DOWN: "red", State.UNSEEN: "dim"}
_WORDS: Final = {State.OK: "ok", State.DEGRADED: "degraded", State.DOWN: "down", State.UNSEEN: "not seen"}


def status(
    prometheus: Annotated[
        str | None, typer.Option(help="The URL of a Prometheus that scrapes this Gatehouse: alerts and budget burn.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """What somebody on call wants to know. Changes nothing, and says which parts it could not see.

    With the scope `admin` or `audit-read` it sees more than without a key. Figures of requests are those of the one
    ingress replica that answers. Exit status: 0 ok, 1 degraded, 2 down.
    """
    environment = client_environment(None)
    try:
        http = httpx2.Client(base_url=environment.url, timeout=_TIMEOUT_S)
    except httpx2.InvalidURL:
        typer.echo(f"gatehouse: {environment.url} is no URL.", err=True)
        raise typer.Exit(2) from None
    with http:
        facts = Reader(http, environment.key).facts(
            SystemClock().now_ms(), prometheus, environment.key_file.resolve().parent
        )
    lines = judge(facts)
    worst = overall(lines)
    if as_json:
        said = [{**asdict(line), "state": _WORDS[line.state]} for line in lines]
        unseen = [line.topic for line in lines if line.state is State.UNSEEN]
        raw = {each.name: _raw(getattr(facts, each.name)) for each in fields(facts)}
        typer.echo(json.dumps({"status": _WORDS[worst], "unseen": unseen, "lines": said, "facts": raw}, default=asdict))
    else:
        _show(lines, worst)
    raise typer.Exit(int(worst))


def _raw(value: object) -> object:
    return {"unseen": value.why} if isinstance(value, Unseen) else value


def _show(lines: Sequence[Line], worst: State) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for line in lines:
        advice = f" -> {line.advice}" if line.advice and line.state is not State.OK else ""
        mark = f"[{_COLOURS[line.state]}]{_WORDS[line.state]}[/]"
        table.add_row(line.topic, mark, escape(one_line(f"{line.seen}{advice}")))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    console.print(table)
    unseen = [line.topic for line in lines if line.state is State.UNSEEN]
    told = f" Not seen: {', '.join(unseen)}." if unseen else ""
    console.print(f"\nGatehouse is [{_COLOURS[worst]}]{_WORDS[worst]}[/].{told}", soft_wrap=True)
