"""`gatehouse size check`: the simulator beside a real server on a token clock."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Final

import aiohttp
import typer
from rich.table import Table

from serve_app.bench.load import (
    BenchRefused,
    Endpoint,
    Level,
    Shape,
    Window,
    client_session,
    require_loopback,
    run_level,
)
from serve_app.bench.machine import machine
from serve_app.bench.stats import figures
from serve_app.cli.client import fail
from serve_app.cli.size_text import console, duration_s, numbers, whole, write
from serve_app.config import environment
from serve_app.sizing.check import ClockServer, Compared, Probe, Run, compare, fitted

_ROUNDS: Final = 12  # of each size of burst


def check(
    seats: Annotated[int, typer.Option(min=2, help="max_num_seqs of the server's engine.")],
    first_token_ms: Annotated[float, typer.Option(min=0, help="Of its token clock.")],
    token_ms: Annotated[float, typer.Option(min=0, help="Of its token clock.")],
    url: Annotated[str, typer.Option(help="A server with one replica of kind synthetic.")] = "http://127.0.0.1:8000",
    model: Annotated[str, typer.Option(help="Its name.")] = "syn-20b",
    key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "GATEHOUSE_KEY",
    max_tokens: Annotated[int, typer.Option(min=1, max=131_072, help="Of every answer.")] = 64,
    streams: Annotated[str, typer.Option(help="Closed loop: numbers of streams, with commas.")] = "4,8,16",
    rate: Annotated[str, typer.Option(help="Open loop: arrivals per second, with commas.")] = "2.75,4.4",
    length: Annotated[str, typer.Option(help="Of an open level.")] = "90s",
    per_stream: Annotated[int, typer.Option(min=2, max=1000, help="Requests per stream of a closed level.")] = 8,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the full result.")] = None,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Load a server that is not here.")] = False,
) -> None:
    """Load a real server on a token clock, simulate the same, and show how far the simulator is off."""
    try:
        require_loopback(url, allow_remote)
        closed = whole(streams) if streams else []
        levels = [Level(streams=each, requests=each * per_stream) for each in closed]
        levels += [Level(rate=each, duration_s=duration_s(length)) for each in (numbers(rate) if rate else [])]
    except BenchRefused as error:
        fail(str(error), 2)
    except ValueError as error:
        fail(f"{error}.", 2)
    endpoint = Endpoint("server", url.rstrip("/"), model, environment().get(key_env, "").strip() or None)
    try:
        probes, runs = asyncio.run(measure(endpoint, Shape("chat", 64, max_tokens), levels, seats))
    except BenchRefused as error:
        fail(str(error))
    path = fitted(probes, first_token_ms / 1e3, token_ms / 1e3)
    server = ClockServer(seats, first_token_ms / 1e3, token_ms / 1e3, max_tokens, path)
    compared = compare(server, runs)
    console.print(machine().sentence, markup=False, soft_wrap=True)
    console.print(
        f"By probes of one token: a request waits {path.calls_s * 1e3:.1f} ms for calls and takes "
        f"{path.request_s * 1e3:.1f} ms of the path, a token {path.token_s * 1e3:.2f} ms.",
        soft_wrap=True,
    )
    table = Table("level", "figure", "measured", "simulated", "error")
    for each in compared:
        table.add_row(each.level, each.name, _figure(each.real), _figure(each.simulated), _error(each))
    console.print(table)
    if json_file is not None:
        write(json_file, {"machine": machine().to_json(), "server": asdict(server),
                           "probes": [asdict(each) for each in probes],
                           "compared": [asdict(each) | {"error": each.error} for each in compared]})  # fmt: skip


async def measure(
    endpoint: Endpoint, shape: Shape, levels: Sequence[Level], seats: int
) -> tuple[list[Probe], dict[str, Run]]:
    """Probes for what the path costs, every level, and the probes once more: what drifts meanwhile is in both halves.

    `BenchRefused` where the server does not answer.
    """
    runs: dict[str, Run] = {}
    async with client_session() as session:
        await run_level(session, endpoint, shape, Level(streams=4, requests=8))
        probes = await _probes(session, endpoint, shape, seats, 1_000_000)
        for number, level in enumerate(levels, 2):
            window = await run_level(session, endpoint, shape, level, number * 1_000_000)
            sent_s = tuple(sorted(sample.started_s for sample in window.samples))
            runs[level.label] = Run(level, figures([window]), sent_s)
        probes += await _probes(session, endpoint, shape, seats, (len(levels) + 2) * 1_000_000)
    return probes, runs


async def _probes(
    session: aiohttp.ClientSession, endpoint: Endpoint, shape: Shape, seats: int, first_number: int
) -> list[Probe]:
    """Bursts beside nobody, and single requests beside answers that run; never more than have a seat at once."""
    one, numbers_of = replace(shape, max_tokens=1), itertools.count(first_number, 1000)
    probes: list[Probe] = []
    for together in sorted({1, (seats + 1) // 2, seats}):
        burst = Level(streams=together, requests=together)
        windows = [await run_level(session, endpoint, one, burst, next(numbers_of)) for _ in range(_ROUNDS)]
        probes.append(_probe(windows, together, 0))
    single = Level(streams=1, requests=1)
    for running in sorted({seats // 2, seats - 1}):
        answers = run_level(
            session, endpoint, shape, Level(streams=running, requests=4 * running), next(numbers_of)
        )  # fmt: skip
        beside = asyncio.create_task(answers)
        windows = [await run_level(session, endpoint, one, single, next(numbers_of))]
        while not beside.done():
            windows.append(await run_level(session, endpoint, one, single, next(numbers_of)))
        await beside
        probes.append(_probe(windows, 1, running))
    return probes


def _probe(windows: Sequence[Window], together: int, running: int) -> Probe:
    seen = figures(windows)
    if seen.ttft_ms is None:
        raise BenchRefused(f"no request was answered: {', '.join(seen.errors) or 'nothing came'}.")
    return Probe(together, running, seen.ttft_ms.p50 / 1e3)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _error(each: Compared) -> str:
    return "-" if each.error is None else f"{each.error:+.1%}"
