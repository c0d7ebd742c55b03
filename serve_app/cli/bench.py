"""`gatehouse bench`: load on a server that runs, and comparisons of servers that it starts itself."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from serve_app.bench.compare import ComparePlan, Comparison, compare, out_folder
from serve_app.bench.load import (
    PATHS,
    Api,
    BenchRefused,
    Endpoint,
    Level,
    Shape,
    Window,
    client_session,
    levels,
    require_loopback,
    run_level,
)
from serve_app.bench.machine import machine
from serve_app.bench.plot import draw, require_matplotlib
from serve_app.bench.report import compare_tables, markdown, run_lines, run_table
from serve_app.bench.stats import Figures, figures
from serve_app.bench.targets import (
    Interpreters,
    Site,
    TargetFailed,
    demo_engine,
    gatehouse_engine,
    private_folder,
    synthetic_engine,
)  # fmt: skip
from serve_app.cli.client import fail
from serve_app.config import ConfigError, environment, find, load_serve_file
from serve_app.prepare import models_dir, prepare, vocabulary_dir

app = typer.Typer(help="Measure: load, comparison, endurance.", no_args_is_help=True)
_console = Console(highlight=False)
_MODEL = "demo-20b"
_T = TypeVar("_T", int, float)
_Api = Annotated[str, typer.Option(help="chat or completions.")]
_Apis = Annotated[str, typer.Option(help="Of chat, completions, responses, messages; several with commas.")]
_Prompt = Annotated[int, typer.Option(min=2, max=131_072, help="About; every prompt is another one.")]
_Tokens = Annotated[int, typer.Option(min=1, max=131_072, help="Limit of an answer.")]
_IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Exactly --max-tokens; completions on vLLM only.")]


@app.command()
def run(
    url: Annotated[str, typer.Option(help="The server's address, without /v1.")] = "http://127.0.0.1:8000",
    model: Annotated[str, typer.Option(help="Model name, or auto.")] = "auto",
    key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "GATEHOUSE_KEY",
    api: _Apis = "chat",
    streams: Annotated[str, typer.Option(help="Closed loop: numbers of streams, with commas; '' for none.")] = "1,8,32",
    rate: Annotated[str, typer.Option(help="Open loop: arrivals per second (Poisson), with commas.")] = "",
    requests: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Per level; default 64.")] = None,
    duration: Annotated[float | None, typer.Option(min=0.1, max=86_400, help="Seconds per level.")] = None,
    prompt_tokens: _Prompt = 64,
    max_tokens: _Tokens = 64,
    ignore_eos: _IgnoreEos = False,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.0,
    warm_up: Annotated[int, typer.Option(min=0, max=10_000, help="Requests that count nowhere.")] = 4,
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Seconds per request.")] = 300.0,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    pid: Annotated[list[int] | None, typer.Option(help="Root of the server's processes, for CPU; repeatable.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the full result.")] = None,
    plot: Annotated[Path | None, typer.Option(help="File for a PNG; needs the extra `bench`.")] = None,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Load a server that is not here.")] = False,
) -> None:
    """Load one server, closed loop and open loop, and report latencies, throughput, errors and CPU."""
    try:
        require_loopback(url, allow_remote)
        if plot is not None:
            require_matplotlib()
        apis = dict.fromkeys(part.strip() for part in api.split(","))
        shapes = {
            each: Shape(_api(each), prompt_tokens, max_tokens, temperature, ignore_eos, seed, timeout,
                        f"{each} " if len(apis) > 1 else "")
            for each in apis
        }  # fmt: skip
        count = 64 if requests is None and duration is None else requests
        plan = levels(_numbers(streams, int), _numbers(rate, float), count, duration)
        if not plan:
            raise BenchRefused("nothing to do: give --streams or --rate.")
    except BenchRefused as error:
        fail(str(error), 2)
    key = environment().get(key_env, "").strip() or None
    endpoint = Endpoint("server", url.rstrip("/"), model, key, tuple(pid or ()))
    where = machine()
    _console.print(where.sentence, markup=False, soft_wrap=True)
    with _progress() as bar:
        windows = asyncio.run(_run_levels(endpoint, shapes, plan, warm_up, bar))
    measured = {label: figures([window]) for label, window in windows.items()}
    for label, each in measured.items():
        _console.print(run_table(label, each))
        for line in run_lines(each):
            _console.print(line, markup=False, soft_wrap=True)
    if json_file is not None:
        result = {label: each.to_json() for label, each in measured.items()}
        _write(json_file, {"machine": where.to_json(), "url": url, "model": model, "results": result})
    if plot is not None:
        draw({label: {"server": each} for label, each in measured.items()}, plot, f"{model} at {url}")
        _console.print(f"Written to {plot}.", soft_wrap=True)
    if not any(each.complete for each in measured.values()):
        fail("no request was answered completely.")


async def _run_levels(
    endpoint: Endpoint, shapes: Mapping[str, Shape], plan: list[Level], warm_up: int, bar: Progress
) -> dict[str, Window]:
    """A window per level, or per level and API when several are compared: one after the other, at the same load."""
    windows: dict[str, Window] = {}
    async with client_session() as session:
        for shape in shapes.values():
            if warm_up:
                await run_level(session, endpoint, shape, Level(streams=min(warm_up, 4), requests=warm_up))
        for number, level in enumerate(plan, 1):
            for api, shape in shapes.items():
                label = level.label if len(shapes) == 1 else f"{level.label}, {api}"
                task = bar.add_task(label, total=level.requests)

                def done(sample: object, task: TaskID = task) -> None:
                    del sample
                    bar.advance(task)

                windows[label] = await run_level(session, endpoint, shape, level, number * 1_000_000, done)
    return windows


@app.command("compare")
def compare_servers(
    targets: Annotated[str, typer.Option(help="Of vllm, gatehouse, ray-llm, litellm.")] = "vllm,gatehouse",
    streams: Annotated[str, typer.Option(help="Numbers of streams, with commas.")] = "1,8,32",
    rate: Annotated[str, typer.Option(help="Open loop: arrivals per second (Poisson), with commas.")] = "",
    requests: Annotated[int, typer.Option(min=1, max=9_000, help="Per level, round and server; at least.")] = 16,
    per_stream: Annotated[int, typer.Option(min=1, max=100, help="Requests per stream and round; at least.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, max=50)] = 3,
    api: _Api = "chat",
    prompt_tokens: _Prompt = 64,
    max_tokens: _Tokens = 64,
    ignore_eos: _IgnoreEos = False,
    warm_up: Annotated[int, typer.Option(min=1, max=1000)] = 8,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    engine: Annotated[str, typer.Option(help="vllm, or synthetic: Gatehouse on a token clock.")] = "vllm",
    first_token_ms: Annotated[float, typer.Option(min=0, help="Of the token clock.")] = 0.0,
    token_ms: Annotated[float, typer.Option(min=0, help="Of the token clock.")] = 10.0,
    interleave: Annotated[bool, typer.Option(help="All servers up at once, in alternating rounds.")] = True,
    ray_llm_python: Annotated[str | None, typer.Option(help="An interpreter that imports ray.serve.llm.")] = None,
    litellm_python: Annotated[str | None, typer.Option(help="The interpreter of LiteLLM's environment.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for results and logs.")] = Path("bench"),
    plot: Annotated[bool, typer.Option(help="Draw compare.png; needs the extra `bench`.")] = True,
) -> None:
    """Start servers on the demonstration model, one load for all in alternating rounds, figures and ratios."""
    try:
        if plot:
            require_matplotlib()
        if engine not in ("vllm", "synthetic"):
            raise BenchRefused("--engine is vllm or synthetic.")
        closed = [Level(streams=each, requests=max(requests, each * per_stream)) for each in _numbers(streams, int)]
        opened = [Level(rate=each, requests=requests) for each in _numbers(rate, float)]
        if api not in ("chat", "completions"):
            raise BenchRefused("--api is chat or completions: not every server compared speaks more.")
        shape = Shape(api, prompt_tokens, max_tokens, ignore_eos=ignore_eos, seed=seed)
        named = tuple(name.strip() for name in targets.split(",") if name.strip())
        plan = ComparePlan(named, (*closed, *opened), shape, rounds, warm_up, interleave)
        file = load_serve_file(find("configs/serve.local.yaml"))
        sources = prepare(file.app)
    except (BenchRefused, ConfigError) as error:
        fail(str(error), 2)
    settings = demo_engine(sources[_MODEL])
    block = gatehouse_engine(settings) if engine == "vllm" else synthetic_engine(first_token_ms, token_ms)
    folder = out_folder(out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the servers are stopped on the way out
    with private_folder() as state, _progress() as bar:
        site = Site(
            out=folder,
            state=Path(state),
            models=models_dir(file.app).resolve(),
            vocabulary=vocabulary_dir(file.app).resolve(),
            interpreters=Interpreters(sys.executable, ray_llm_python, litellm_python),
            environment=environment(),
        )
        task = bar.add_task("windows", total=len(plan.levels) * rounds * len(plan.targets))
        try:
            result = compare(plan, settings, block, site, _tell, lambda: bar.advance(task))
        except TargetFailed as error:
            fail(str(error))
    _show(result, folder, plot)
    if result.not_run and not result.runs:
        fail("no server could be started.")


def _show(result: Comparison, folder: Path, plot: bool) -> None:
    _write(folder / "compare.json", result.to_json())
    (folder / "compare.md").write_text(markdown(result), encoding="utf-8")
    for table in compare_tables(result):
        _console.print(table)
    for name, text in result.differs.items():
        _console.print(f"{name}: {text}", markup=False, soft_wrap=True)
    for name, share in result.idle.items():
        _console.print(f"{name} uses {share:.1%} of a core without a request", markup=False, soft_wrap=True)
    for name, reason in result.not_run.items():
        _console.print(f"{name} was not run: {reason}", markup=False, soft_wrap=True)
    for note in result.notes:
        _console.print(f"note: {note}", markup=False, soft_wrap=True)
    measured: dict[str, dict[str, Figures]] = result.figures()
    if plot and measured:
        where = result.machine
        draw(measured, folder / "compare.png", f"{_MODEL} on {where.cpu}, {where.cores} cores")
        _console.print(f"Written to {folder / 'compare.png'}.", soft_wrap=True)


def _tell(line: str) -> None:
    _console.print(line, markup=False, soft_wrap=True)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_console,
        transient=True,
    )


def _api(text: str) -> Api:
    if text not in PATHS:
        raise BenchRefused(f"--api is one of {', '.join(PATHS)}.")
    return text


def _numbers(text: str, kind: Callable[[str], _T]) -> list[_T]:
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise BenchRefused(f"'{text}' is not a list of numbers with commas.") from None


def _write(file: Path, value: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    _console.print(f"Written to {file}.", soft_wrap=True)
