"""`gatehouse bench gate`: what the gate adds to a released tool call on this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deployments.gate.grammar import BundleError
from serve_app.bench.gate import UNLOGGED, GateBench, GatePlan, bench
from serve_app.bench.load import BenchRefused
from serve_app.bench.report import number
from serve_app.cli.client import fail

_console = Console(highlight=False)


def gate(
    bundle: Annotated[
        str, typer.Option("--bundle", help="A bundle's name in configs/policies, or its file.")
    ] = "default",
    calls: Annotated[int, typer.Option(min=1, max=1_000_000, help="Per row.")] = 2_000,
    clients: Annotated[list[int] | None, typer.Option(min=1, max=1024, help="At once; repeat for several.")] = None,
    directory: Annotated[Path, typer.Option("--dir", help="On the disk to measure; emptied afterwards.")] = Path(
        ".gatehouse/bench/gate"
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the full result.")] = None,
) -> None:
    """Measure the time from a complete call to its verdict, with and without the log's disk, beside a text filter.

    Exit status: 0 measured, 2 not run.
    """
    plan = GatePlan(directory, bundle, calls, tuple(clients or (1, 8)))
    try:
        with _console.status("") as shown:
            result = bench(plan, shown.update)
    except BenchRefused as error:
        fail(str(error), 2)
    except BundleError as error:
        fail(f"the bundle is refused: {error}.", 2)
    except OSError as error:
        fail(f"{error.filename or directory} cannot be used: {error.strerror}.", 2)
    _console.print(_table(result))
    lines = [
        f"{result.commands} read-only commands of the policy's examples. In brackets: ratio of p50 to '{UNLOGGED}'.",
        f"Machine: {result.machine.sentence}.",
        *(f"Missed: {each}." for each in result.missed()),
    ]
    for line in lines:
        _console.print(line, markup=False, soft_wrap=True)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
        _console.print(f"Written to {json_file}.", markup=False, soft_wrap=True)


def _table(result: GateBench) -> Table:
    table = Table(
        "", "text", "clients", "p50 ms", "p99 ms", "max ms", "calls/s", "CPU ms", "released",
        title="From the complete call to its verdict", title_justify="left",
    )  # fmt: skip
    base = {(row.clients, row.reading): row.spread.p50 for row in result.rows if row.subject == UNLOGGED}
    for row in result.rows:
        ratio = "" if row.subject == UNLOGGED else f" ({row.spread.p50 / base[row.clients, row.reading]:.2g}x)"
        table.add_row(
            row.subject,
            row.reading,
            str(row.clients),
            number(row.spread.p50) + ratio,
            number(row.spread.p99),
            number(row.spread.max),
            number(row.per_s),
            number(1000 * row.cpu_s / row.calls),
            str(row.released),
        )
    return table


def register(app: typer.Typer) -> None:
    """Add the command to the `bench` app."""
    app.command("gate")(gate)
