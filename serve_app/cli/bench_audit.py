"""`gatehouse bench audit`: the audit log beside SQLite on this machine's disk."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from serve_app.bench.audit import ROW, AuditBench, AuditPlan, Loop, bench, ratios
from serve_app.bench.load import BenchRefused
from serve_app.bench.report import number
from serve_app.cli.client import fail

_console = Console(highlight=False)


def audit(
    clients: Annotated[int, typer.Option(min=1, max=4096, help="Closed loop: clients that wait for each ack.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.05, max=3600, help="Per loop.")] = 10.0,
    rate: Annotated[float, typer.Option(min=0, max=100_000, help="Open loop: events per second; 0: none.")] = 2_000.0,
    events: Annotated[int | None, typer.Option(min=1, max=10_000_000, help="Per loop, in place of seconds.")] = None,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="How often the subjects take turns.")] = 1,
    directory: Annotated[Path, typer.Option("--dir", help="On the disk to measure; emptied afterwards.")] = Path(
        ".gatehouse/bench/audit"
    ),
    seed: Annotated[int, typer.Option(min=0)] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the full result.")] = None,
) -> None:
    """Measure acknowledged events per second and the time to each acknowledgement, beside SQLite in WAL mode.

    Exit status: 0 measured, 1 an acknowledged record was not found afterwards, 2 not run.
    """
    plan = AuditPlan(directory, clients, seconds, rate, events, rounds, seed)
    try:
        with _console.status("") as shown:
            result = asyncio.run(bench(plan, shown.update))
    except BenchRefused as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"{error.filename or directory} cannot be used: {error.strerror}.", 2)
    for loop in ("closed", "open"):
        if any(each.loop == loop for each in result.figures):
            _console.print(_table(result, loop))
    disk = result.disk
    for line in (
        f"In brackets: ratio to {ROW}. Records of {result.record_bytes:.0f} bytes on average.",
        f"The disk alone ({result.file_system}), one record and fdatasync at a time: p50 {number(disk.p50)} ms, "
        f"p99 {number(disk.p99)} ms. SQLite {result.sqlite}.",
        f"Machine: {result.machine.sentence}.",
        result.verdict() or "",
    ):
        _console.print(line, markup=False, soft_wrap=True)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
        _console.print(f"Written to {json_file}.", markup=False, soft_wrap=True)
    if result.lost:
        fail(f"{result.lost} acknowledged records were not found afterwards.")


def _table(result: AuditBench, loop: Loop) -> Table:
    plan = result.plan
    title = f"Closed loop, {plan.clients} clients" if loop == "closed" else f"Open loop, {plan.rate:.0f} events/s"
    table = Table(
        "", "acked/s", "rounds", "p50 ms", "p95 ms", "p99 ms", "max ms", "CPU us/event", "acked", "not acked", "lost",
        title=title, title_justify="left",
    )  # fmt: skip
    compared = ratios(result, loop)
    for name in plan.subjects:
        each = result.of(name, loop)
        if each is None:
            continue
        ratio, ack = compared.get(name), each.ack_ms
        table.add_row(
            name,
            number(each.acked_per_s) + (f" ({number(ratio['rate'])}x)" if ratio else ""),
            " to ".join(dict.fromkeys(map(number, each.per_s))),
            "-" if ack is None else number(ack.p50) + (f" ({_small(ratio['p50'])}x)" if ratio else ""),
            "-" if ack is None else number(ack.p95),
            "-" if ack is None else number(ack.p99) + (f" ({_small(ratio['p99'])}x)" if ratio else ""),
            "-" if ack is None else number(ack.max),
            number(each.cpu_us_per_event),
            str(each.acked),
            str(each.offered - each.acked),
            str(each.lost),
        )
    return table


def _small(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < 0.1 else number(ratio)


def register(app: typer.Typer) -> None:
    """Add the command to the `bench` app."""
    app.command("audit")(audit)
