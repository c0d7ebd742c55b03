"""`gatehouse bench soak|affinity|fairness|gpu`: the long runs and the ones that start servers of their own."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from serve_app.cli.client import fail
from serve_app.config import environment

_console = Console(highlight=False)
_Remote = Annotated[bool, typer.Option("--allow-remote", help="Load a server that is not this machine.")]
_Json = Annotated[Path | None, typer.Option("--json", help="File for the full result.")]


def soak(
    url: Annotated[str, typer.Option(help="A running Gatehouse.")] = "http://127.0.0.1:8000",
    key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "GATEHOUSE_KEY",
    model: Annotated[str, typer.Option(help="Model name, or auto.")] = "auto",
    minutes: Annotated[float, typer.Option(min=0.05, max=1440)] = 30.0,
    streams: Annotated[int, typer.Option(min=1, max=1024, help="Clients that always have a request open.")] = 48,
    disconnects: Annotated[float, typer.Option(min=0, max=1, help="Share of requests that we hang up on.")] = 0.2,
    slow_readers: Annotated[float, typer.Option(min=0, max=1, help="Share of clients that read with pauses.")] = 0.15,
    long_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Limit of a long answer.")] = 400,
    kill_engine_after: Annotated[float | None, typer.Option(min=0, help="Seconds; SIGKILL of one engine.")] = None,
    admin_key_file: Annotated[Path | None, typer.Option(help="The operator's key: leaks, restarts.")] = None,
    pid: Annotated[int | None, typer.Option(min=2, help="Process of `gatehouse up`, for memory and kills.")] = None,
    max_requests: Annotated[int, typer.Option(min=1, max=10_000_000)] = 1_000_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the run's own decisions.")] = 1,
    request_seeds: Annotated[bool, typer.Option(help="Put a seed into every request; not for vLLM on CPU.")] = False,
    json_file: _Json = None,
    allow_remote: _Remote = False,
) -> None:
    """Saturate a server for a long time and check that nothing leaks, breaks off or grows."""
    from serve_app.bench.load import BenchRefused
    from serve_app.bench.soak import Soak, SoakPlan, SoakProgress, check_plan

    plan = SoakPlan(
        url=url.rstrip("/"),
        key=key_from(environment(), key_env),
        duration_s=minutes * 60,
        streams=streams,
        model=model,
        disconnects=disconnects,
        slow_readers=slow_readers,
        long_tokens=long_tokens,
        seed=seed,
        request_seeds=request_seeds,
        max_requests=max_requests,
        kill_after_s=kill_engine_after,
        admin_key=None if admin_key_file is None else _read(admin_key_file),
        pid=pid,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    try:
        check_plan(plan, allow_remote)
        with Progress(*columns, console=_console, transient=True) as bar:
            task = bar.add_task("soak", total=plan.duration_s, note="")

            def tell(now: SoakProgress) -> None:
                note = f"{now.requests} requests, {now.faults} faults"
                done_s = min(now.elapsed_s, plan.duration_s)
                bar.update(task, completed=done_s, description=now.phase, note=note)

            report = asyncio.run(Soak(plan, tell).run())
    except BenchRefused as error:
        fail(str(error), 2)
    if json_file is not None:
        _write(json_file, report.to_json())
    endings = Table("ending", "streamed", "whole", title="Requests", title_justify="left")
    for ending in sorted({name for counter in report.endings.values() for name in counter}):
        endings.add_row(ending, *(str(report.endings[kind].get(ending, 0)) for kind in ("streamed", "whole")))
    _console.print(endings)
    for detail, count in report.details.items():
        _console.print(f"  {count} x {detail}", markup=False)
    if report.trends:
        table = Table("process", "pid", "span s", "MiB", "peak RSS", "MiB/h", "RSS MiB/h", "files", "verdict")
        for trend in report.trends[:16]:
            table.add_row(
                trend.kind,
                str(trend.pid),
                f"{trend.span_s:.0f}",
                f"{trend.first_mib:.0f} -> {trend.last_mib:.0f}",
                f"{trend.peak_rss_mib:.0f}",
                _signed(trend.anonymous_slope),
                _signed(trend.rss_slope),
                f"{trend.files_first} -> {trend.files_last}",
                trend.verdict,
            )
        _console.print(table)
        first, last = report.memory[0], report.memory[-1]
        _console.print(
            f"Tree: RSS {first['rss_mib']:.0f} -> {last['rss_mib']:.0f} MiB ({_signed(report.tree_rss_slope)}/h), "
            f"PSS {first['pss_mib']:.0f} -> {last['pss_mib']:.0f} MiB ({_signed(report.tree_pss_slope)}/h)."
        )
    verdicts = Table("check", "", "what was seen", title="Checks", title_justify="left")
    for check in report.checks:
        word = {True: "[green]held[/green]", False: "[red]BROKEN[/red]", None: "not judged"}[check.passed]
        verdicts.add_row(check.name, word, check.detail)
    _console.print(verdicts)
    rate = report.requests / report.elapsed_s if report.elapsed_s else 0.0
    _console.print(
        f"{report.requests} requests in {report.elapsed_s:.0f} s ({rate:.1f}/s), {report.output_tokens} tokens, "
        f"at most {report.peak_running} running in the engines."
    )
    if not report.passed:
        raise typer.Exit(1)


def affinity(
    out: Annotated[Path, typer.Option(help="Folder for configurations, logs and results.")] = Path(
        ".gatehouse/bench/affinity"
    ),
    url: Annotated[str | None, typer.Option(help="Measure this server only, and start none.")] = None,
    key_env: Annotated[str, typer.Option(help="With --url: variable that holds the key.")] = "GATEHOUSE_KEY",
    model: Annotated[str, typer.Option()] = "demo-20b",
    replicas: Annotated[int, typer.Option(min=2, max=8)] = 2,
    sessions: Annotated[int, typer.Option(min=1, max=1000)] = 24,
    turns: Annotated[int, typer.Option(min=2, max=50)] = 6,
    prefix_tokens: Annotated[int, typer.Option(min=16, max=100_000, help="About; of the first turn.")] = 1500,
    concurrency: Annotated[int, typer.Option(min=1, max=64)] = 4,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    json_file: _Json = None,
    allow_remote: _Remote = False,
) -> None:
    """Measure the prefix-cache hit rate of multi-turn sessions, with and without session affinity."""
    from serve_app.bench.affinity import AffinityPlan, AffinityRun, compare, measure
    from serve_app.bench.load import BenchRefused

    plan = AffinityPlan(
        model=model,
        sessions=sessions,
        turns=turns,
        prefix_tokens=prefix_tokens,
        concurrency=concurrency,
        seed=seed,
    )
    runs: list[AffinityRun] = []
    try:
        if url is not None:
            key = key_from(environment(), key_env)
            runs.append(asyncio.run(measure(url.rstrip("/"), key, plan, "the given server", allow_remote)))
        else:
            runs += compare(plan, replicas, out, environment(), lambda line: _console.print(line, markup=False))
    except BenchRefused as error:
        fail(str(error), 2)
    table = Table(
        "server", "turns", "prompt tokens", "cached", "hit rate", "missed", "TTFT p50 ms", "TTFT p90 ms", "failed"
    )
    for run in runs:
        table.add_row(
            run.label,
            str(run.turns),
            str(run.prompt_tokens),
            str(run.cached_tokens),
            f"{run.hit_rate:.1%}",
            str(run.missed),
            f"{run.ttft_p50_ms:.0f}",
            f"{run.ttft_p90_ms:.0f}",
            str(run.failed),
        )
    _console.print(table)
    _console.print("Turns after the first of each session.")
    if json_file is not None:
        _write(json_file, {"runs": [run.to_json() for run in runs]})
    if any(run.failed for run in runs):
        raise typer.Exit(1)


def gpu(
    models: Annotated[str, typer.Option(help="20b, 120b, or both.")] = "20b,120b",
    out: Annotated[Path, typer.Option(help="Folder for checkpoints without weights, logs and results.")] = Path(
        ".gatehouse/bench/gpu"
    ),
    streams: Annotated[str, typer.Option(help="Numbers of streams, separated by commas.")] = "1,8,32",
    requests: Annotated[int, typer.Option(min=1, max=10_000, help="Per stream and level.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, max=10, help="How often the servers take turns.")] = 2,
    prompt_tokens: Annotated[int, typer.Option(min=1, max=65_536)] = 1024,
    max_tokens: Annotated[int, typer.Option(min=2, max=16_384)] = 256,
    plan_only: Annotated[bool, typer.Option("--plan", help="Print what would run, and run nothing.")] = False,
) -> None:
    """Real gpt-oss architectures with dummy weights on a CUDA device: bare vLLM against Gatehouse."""
    from serve_app.bench.gpu import gpu_suite, plan_lines, suite_of
    from serve_app.bench.load import BenchRefused

    def tell(line: str) -> None:
        _console.print(line, markup=False, soft_wrap=True)

    try:
        suite = suite_of(models, streams, requests, rounds, prompt_tokens, max_tokens)
        if plan_only:
            for line in plan_lines(suite, out):
                tell(line)
            return
        result = gpu_suite(suite, out, environment(), tell)
    except BenchRefused as error:
        fail(str(error), 2)
    for line in result.table():
        tell(line)


def fairness(
    out: Annotated[Path, typer.Option(help="Folder for configuration, state, log and results.")] = Path(
        ".gatehouse/bench/fairness"
    ),
    orders: Annotated[str, typer.Option(help="Of fair, counters, fifo, with commas.")] = "fair,counters,fifo",
    seats: Annotated[int, typer.Option(min=1, max=256, help="Requests that an engine works on at once.")] = 16,
    flood: Annotated[int, typer.Option(min=1, max=100, help="Open requests of the flooding tenant, per seat.")] = 20,
    requests: Annotated[int, typer.Option(min=2, max=10_000, help="Of the quiet tenant, per round and order.")] = 25,
    rate: Annotated[float, typer.Option(min=0.01, max=100, help="Of those, per second (Poisson).")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, max=50)] = 2,
    quiet_tokens: Annotated[int, typer.Option(min=1, max=8192, help="Length of the quiet tenant's answers.")] = 16,
    flood_tokens: Annotated[int, typer.Option(min=2, max=8192, help="Mean length of the flood's answers.")] = 60,
    first_token_ms: Annotated[float, typer.Option(min=0, help="Of the token clocks.")] = 200.0,
    token_ms: Annotated[float, typer.Option(min=0, help="Of the token clocks.")] = 60.0,
    simulated: Annotated[bool, typer.Option("--simulated", help="Replicas alone, in simulated time.")] = False,
    plot: Annotated[Path | None, typer.Option(help="File for an SVG; needs the extra `bench`.")] = None,
) -> None:
    """A quiet tenant's first token, alone and while another tenant floods, by the order of the queue."""
    from serve_app.bench.fairness import FairnessPlan, compare, draw, figures, simulate, to_json
    from serve_app.bench.load import BenchRefused
    from serve_app.bench.machine import machine
    from serve_app.bench.plot import require_matplotlib

    def tell(line: str) -> None:
        _console.print(line, markup=False, soft_wrap=True)

    try:
        if plot is not None:
            require_matplotlib()
        plan = FairnessPlan(
            seats=seats,
            flood=flood,
            requests=requests,
            rate=rate,
            rounds=rounds,
            quiet_tokens=quiet_tokens,
            flood_tokens=flood_tokens,
            first_token_ms=first_token_ms,
            token_ms=token_ms,
            variants=tuple(name.strip() for name in orders.split(",") if name.strip()),
        )
        where = machine()
        tell(where.sentence)
        out.mkdir(parents=True, exist_ok=True)
        seen = simulate(plan, tell) if simulated else compare(plan, out, environment(), tell)
    except BenchRefused as error:
        fail(str(error), 2)
    result = {"machine": where.to_json(), **to_json(plan, seen)}
    _write(out / "fairness.json", result)
    if plot is not None:
        draw(result, plot)
    table = Table(
        "order", "p95 alone, ms", "flood elsewhere", "flood here", "moved", "by the queue", "failed", "flood tokens/s"
    )
    for name, each in ((name, figures(one)) for name, one in seen.items()):
        p95s = (each.alone_p95_ms, each.control_p95_ms, each.flooded_p95_ms)
        changes = (each.moved, each.moved_by_queue)
        table.add_row(
            name,
            *("-" if value is None else f"{value:.0f}" for value in p95s),
            *("-" if value is None else f"{value:+.0%}" for value in changes),
            str(each.failed),
            f"{each.flood_tokens_per_s:.0f}",
        )
    _console.print(table)


def register(app: typer.Typer) -> None:
    """Add the commands to the `bench` app."""
    app.command("fairness")(fairness)
    app.command("soak")(soak)
    app.command("affinity")(affinity)
    app.command("gpu")(gpu)


def key_from(variables: Mapping[str, str], name: str) -> str:
    """The key in an environment variable; ends the process with one sentence when there is none."""
    key = variables.get(name, "").strip()
    if not key:
        fail(f"no key: set {name} to a key of the server.", 2)
    return key


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}.", 2)


def _write(file: Path, value: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    _console.print(f"Written to {file}.", soft_wrap=True)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"
