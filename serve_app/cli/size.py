"""`gatehouse size`: how much hardware a load needs, by arithmetic and by simulation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from deployments.engine.options import EngineSettings
from serve_app.bench.load import BenchRefused
from serve_app.bench.plot import require_matplotlib
from serve_app.cli.client import fail
from serve_app.cli.size_check import check
from serve_app.cli.size_text import console, duration_s, numbers, tokens, whole, write
from serve_app.config import ConfigError, find, load_serve_file
from serve_app.sizing.constants import ADDRESSES, CASES, EFFICIENCIES, GIB, GPUS, MODELS, SOURCES, Case, Gpu
from serve_app.sizing.memory import activation_bytes, full_bytes, window_bytes
from serve_app.sizing.plan import Demand, Option, cost, options
from serve_app.sizing.plot import draw_sweep
from serve_app.sizing.scenarios import CannotSize, Row, rows, scenario
from serve_app.sizing.simulate import simulate
from serve_app.sizing.workload import Workload

app = typer.Typer(help="How much hardware a load needs: arithmetic, and a simulator.", invoke_without_command=True)
_PROFILE_GPUS = {"s": "l4", "m": "l40s", "l": "h100"}
_Hit = Annotated[float, typer.Option(min=0, max=1, help="Share of turns that find their prefix in the cache.")]
_Think = Annotated[str, typer.Option(help="Between an answer and the next turn, as 10s: tools, people.")]


@app.callback()
def size(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help=f"Of {', '.join(MODELS)}.")] = "gpt-oss-120b",
    sessions: Annotated[int, typer.Option(min=1, max=1_000_000, help="Agents at work.")] = 50,
    context: Annotated[str, typer.Option(help="Tokens of a request with its answer, as 32k.")] = "32k",
    output: Annotated[str, typer.Option(help="Tokens of an answer, as 500.")] = "500",
    hit: _Hit = 0.8,
    think: _Think = "10s",
    ttft: Annotated[str, typer.Option(help="Target for the first token, 95th percentile.")] = "2s",
    itl: Annotated[str, typer.Option(help="Target for the gap between tokens, mean.")] = "50ms",
    gpu: Annotated[str, typer.Option(help=f"Of {', '.join(GPUS)}; several with commas.")] = "h100",
    gpu_hour: Annotated[str, typer.Option(help="Your price of a card's hour: 2.5, or h100=2.5,l40s=1.2.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for machines.")] = False,
    sources: Annotated[bool, typer.Option("--sources", help="Where the constants come from.")] = False,
) -> None:
    """GPUs for a model, a number of agents and targets: a range, from the cautious to the hopeful case.

    Computed from the checkpoint's layout and the cards' data sheets, not measured. Prices are yours or none.
    """
    if ctx.invoked_subcommand is not None:
        return
    if sources:
        for name, text in SOURCES.items():
            console.print(f"[{name}] {text}", markup=False, soft_wrap=True)
            for address in ADDRESSES.get(name, ()):
                console.print(f"    {address}", markup=False, soft_wrap=True)
        return
    known = MODELS.get(model)
    if known is None:
        fail(f"--model is one of {', '.join(MODELS)}.", 2)
    try:
        demand = Demand(
            sessions, tokens(context), tokens(output), hit, duration_s(think), duration_s(ttft), duration_s(itl)
        )
        cards = _gpus(gpu)
        prices = card_prices(gpu_hour, [each.name for each in cards])
    except ValueError as error:
        fail(f"{error}.", 2)
    if demand.context > known.positions:
        fail(f"{model} has a window of {known.positions:,} tokens: --context cannot be {demand.context:,}.", 2)
    found = {each.name: options(known, each, demand) for each in cards}
    if as_json:
        typer.echo(json.dumps(_plan_json(model, demand, found, prices), indent=1))
    else:
        _show_plan(model, demand, found, prices)
    if not any(option.replicas for each in found.values() for option in each):
        raise typer.Exit(1)


def card_prices(text: str, cards: Sequence[str]) -> dict[str, float]:
    """Card -> price of an hour, for the cards that have one; one number is for all of them."""
    prices: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, given, value = part.rpartition("=")
        try:
            price = float(value)
        except ValueError:
            raise ValueError(f"'{part}' is not a price, as 2.5 or h100=2.5") from None
        if not 0 < price < 1e6:
            raise ValueError(f"'{part}' is not a price of an hour")
        if given and name not in GPUS:
            raise ValueError(f"there is no card '{name}': there are {', '.join(GPUS)}")
        prices |= {name: price} if given else dict.fromkeys(cards, price)
    return prices


def _gpus(text: str) -> list[Gpu]:
    names = list(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in GPUS]
    if unknown or not names:
        raise ValueError(f"--gpu is of {', '.join(GPUS)}")
    return [GPUS[name] for name in names]


def _plan_json(
    model: str, demand: Demand, found: Mapping[str, Sequence[Option]], prices: Mapping[str, float]
) -> dict[str, Any]:
    def one(option: Option) -> dict[str, Any]:
        cards, price = option.range(), prices.get(option.shape.gpu.name)
        return {
            "tensor_parallel": option.shape.tensor_parallel,
            "step_tokens": option.shape.step_tokens,
            "seats": option.shape.seats,
            "tight": option.tight,
            "fit": asdict(option.fit) | {"activation_bytes": _activations(option)},
            "cases": {
                case: {
                    "replicas": option.replicas.get(case),
                    "gpus": option.cards(case),
                    "why_not": option.why_not.get(case),
                    "predicted": asdict(option.predicted[case]),
                }
                for case in CASES
            },
            "gpus": cards,
            "cost": asdict(cost(cards, price)) if cards and price else None,
        }

    known = MODELS[model]
    return {
        "model": model,
        "demand": asdict(demand),
        "request_cache_bytes": {
            "full_layers": full_bytes(known, demand.context),
            "window_layers": window_bytes(known, demand.context),
        },
        "open_requests": demand.open_requests,
        "requests_per_s": demand.rate,
        "efficiencies": {case: asdict(each) for case, each in EFFICIENCIES.items()},
        "gpus": {name: [one(option) for option in each] for name, each in found.items()},
    }


def _show_plan(model: str, demand: Demand, found: Mapping[str, Sequence[Option]], prices: Mapping[str, float]) -> None:
    console.print(
        f"{model}: {demand.sessions} agents ask {demand.rate:.2f} times a second, {demand.open_requests} requests are "
        f"open at once, of {demand.context:,} tokens each, {demand.hit:.0%} of a prompt cached where there is room. "
        f"First token within {demand.ttft_s:g} s (p95), a token every {demand.itl_s * 1e3:g} ms.",
        soft_wrap=True,
    )
    known = MODELS[model]
    in_cache = full_bytes(known, demand.context), window_bytes(known, demand.context)
    console.print(
        f"A request's cache: {in_cache[0] / 2**20:,.0f} MiB in {known.full_layers} layers of full attention, "
        f"{in_cache[1] / 2**20:,.1f} MiB in {known.window_layers} with a window of {known.window} tokens.",
        soft_wrap=True,
    )
    table = Table(
        "a replica", "GiB a GPU: weights", "reserve (activations)", "cache", "requests that fit", "replicas", "GPUs",
        "first token, s", "gap, ms",
    )  # fmt: skip
    for name, each in found.items():
        if not each:
            table.add_row(name, "-", "-", "-", "fewer than two on 8 GPUs")
        for option in each:
            table.add_row(*_cells(option))
    console.print(table)
    for name, each in found.items():
        for option in each:
            price, cards = prices.get(name), option.range()
            if price is not None and cards is not None:
                money = cost(cards, price)
                console.print(
                    f"{option.shape.tensor_parallel} x {name}: {_between(*money.hour, '{:,.2f}')} an hour, "
                    f"{_between(*money.month, '{:,.0f}')} a month, by your price of {price:g}.",
                    soft_wrap=True,
                )
            for case, why in option.why_not.items():
                console.print(f"{option.shape.tensor_parallel} x {name}, {case} case: {why}.", soft_wrap=True)
            if option.tight:
                share = option.fit.cache_share
                console.print(
                    f"{option.shape.tensor_parallel} x {name}: only {share:.0%} of the card is left for the cache; "
                    "the engine may not start.",
                    soft_wrap=True,
                )
    console.print(
        "Ranges run from the hopeful to the cautious case, 'or none' where no number meets a case; times are those of "
        "the middle one. Nothing was measured "
        "on these cards: docs/sizing.md says how far to trust this. A replica more keeps the targets when one is lost.",
        soft_wrap=True,
    )
    if not prices.keys() & found.keys():
        console.print("No prices are assumed: give yours with --gpu-hour.", soft_wrap=True)


def _activations(option: Option) -> int:
    shape = option.shape
    return activation_bytes(shape.model, shape.tensor_parallel, shape.step_tokens, shape.seats)


def _cells(option: Option) -> list[str]:
    held, cards, mid = option.fit, option.range(), option.predicted["mid"]
    counts = [option.replicas[case] for case in CASES if case in option.replicas]
    return [
        f"{option.shape.tensor_parallel} x {option.shape.gpu.name}",
        f"{held.weights_bytes / GIB:.1f}",
        f"{held.reserve_bytes / GIB:.1f} ({_activations(option) / GIB:.1f})",
        f"{held.cache_bytes / GIB:.1f}",
        str(held.sequences),
        _between(min(counts), max(counts)) + (" or none" if option.why_not else "") if counts else "none will do",
        _between(*cards) if cards else "-",
        f"{mid.ttft_s:.2f}" if "mid" in option.replicas else "-",
        f"{mid.itl_s * 1e3:.0f}" if "mid" in option.replicas else "-",
    ]


def _between(low: float, high: float, form: str = "{:,}") -> str:
    return form.format(low) if low == high else f"{form.format(low)} to {form.format(high)}"


@app.command("simulate")
def simulate_profile(
    config: Annotated[str, typer.Argument(help="A Serve config file.")] = "configs/serve.m.yaml",
    sessions: Annotated[str, typer.Option(help="Agents always at work; several numbers with commas.")] = "10,50",
    rate: Annotated[str, typer.Option(help="Instead: sessions that come, per second; with commas.")] = "",
    bursty: Annotated[
        bool, typer.Option("--bursty", help="With --rate: four times faster and slower in turns.")
    ] = False,
    gpu: Annotated[str, typer.Option(help="Default: the card that the profile names.")] = "",
    turns: Annotated[float, typer.Option(min=1, help="Of a session, mean.")] = 10.0,
    first: Annotated[str, typer.Option(help="Tokens of a session's first prompt.")] = "6000",
    more: Annotated[str, typer.Option(help="Tokens that each further turn adds.")] = "1500",
    output: Annotated[str, typer.Option(help="Tokens of an answer, mean.")] = "400",
    think: _Think = "10s",
    large: Annotated[float, typer.Option(min=0, max=1, help="Share of sessions that the router sends to 120b.")] = 0.2,
    escalation: Annotated[float, typer.Option(min=0, max=1, help="Share of 20b's answers asked again of 120b.")] = 0.05,
    hit: _Hit = 0.8,
    cold_start: Annotated[str, typer.Option(help="Until a new replica is ready.")] = "5min",
    length: Annotated[str, typer.Option(help="Simulated time.")] = "30min",
    warm_up: Annotated[str, typer.Option(help="Of it, what counts nowhere.")] = "10min",
    seed: Annotated[int, typer.Option(min=0)] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the full result.")] = None,
    plot: Annotated[Path | None, typer.Option(help="File for a PNG; needs the extra `bench`.")] = None,
) -> None:
    """Run a profile's whole system on simulated cards, in the low, middle and high case."""
    try:
        if plot is not None:
            require_matplotlib()
        file = load_serve_file(find(config))
        card, *others = _gpus(gpu or _PROFILE_GPUS.get(file.app.profile, "h100"))
        if others:
            raise ValueError("a simulation is of one --gpu")
        engines = {
            each.tier.value: each.engine
            for each in file.app.models
            if each.tier is not None and isinstance(each.engine, EngineSettings)
        }
        length_s, warm_up_s = duration_s(length), duration_s(warm_up)
        windows = [engine.max_model_len or tokens("128k") for engine in engines.values()]
        shared: dict[str, Any] = {
            "turns": turns, "first_tokens": tokens(first), "turn_tokens": tokens(more), "output": tokens(output),
            "think_s": duration_s(think), "large": large, "escalation": escalation,
            "most_context": min(windows, default=tokens("128k")), "arrivals": "bursty" if bursty else "poisson",
        }  # fmt: skip
        ingresses = file.app.ingress_replicas.replicas
        sweep: dict[str, dict[Case, list[Row]]] = {}
        for label, load in _loads(sessions, rate, shared).items():
            sweep[label] = {}
            for case in CASES:
                run = scenario(
                    f"{label}, {case}", engines, card, case, load, cold_start_s=duration_s(cold_start), hit=hit,
                    duration_s=length_s, warm_up_s=warm_up_s, seed=seed, ingresses=ingresses,
                )  # fmt: skip
                sweep[label][case] = rows(simulate(run), length_s)
    except (BenchRefused, CannotSize, ConfigError) as error:
        fail(str(error), 2)
    except ValueError as error:
        fail(f"{error}.", 2)
    _show_sweep(sweep, f"{file.path.name} on {card.name}")
    if json_file is not None:
        write(json_file, {"config": file.path.name, "gpu": card.name, "seed": seed, "workload": shared,
                           "results": {label: {case: [asdict(row) for row in each] for case, each in by_case.items()}
                                       for label, by_case in sweep.items()}})  # fmt: skip
    if plot is not None:
        title = f"{file.path.name} on {card.name}, simulated; line: middle case, band: all three"
        try:
            draw_sweep(sweep, plot, title)
        except (OSError, ValueError) as error:  # no such place, or no format by that name
            fail(f"{plot} cannot be drawn: {error}.")
        console.print(f"Written to {plot}.", soft_wrap=True)


def _loads(sessions: str, rate: str, shared: Mapping[str, Any]) -> dict[str, Workload]:
    if rate:
        return {f"{each:g}/s": Workload(sessions_per_s=each, **shared) for each in numbers(rate)}
    return {f"{each}": Workload(population=each, **shared) for each in whole(sessions)}


def _show_sweep(sweep: Mapping[str, Mapping[Case, Sequence[Row]]], title: str) -> None:
    table = Table(
        "load", "case", "tier", "requests/s", "refused", "first token p50 s", "p95", "gap mean ms", "p99", "tokens/s",
        "cached", "replicas", title=title, title_justify="left",
    )  # fmt: skip
    for label, by_case in sweep.items():
        for case, each in by_case.items():
            for row in each:
                table.add_row(
                    label, case, row.tier, f"{row.offered_per_s:.2f}", f"{row.refused:.1%}", _seconds(row.ttft_p50_s),
                    _seconds(row.ttft_p95_s), f"{row.itl_mean_s * 1e3:.1f}", f"{row.itl_p99_s * 1e3:.0f}",
                    f"{row.tokens_per_s:,.0f}", f"{row.hit:.0%}", f"{row.replicas:.1f}",
                )  # fmt: skip
    console.print(table)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


app.command()(check)
