"""The same load on several servers of this machine, in alternating short rounds, so that drift meets all alike."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from deployments.engine.options import EngineSettings
from serve_app.bench.load import BenchRefused, Endpoint, Level, Shape, Window, client_session, run_level
from serve_app.bench.machine import Machine, available_gib, cpu_between, cpu_seconds, machine
from serve_app.bench.stats import Figures, figures, ratio_ranges, ratios
from serve_app.bench.targets import NEEDS_GIB, TARGETS, Server, Site, TargetFailed, launch

BASE = "vllm"
_SPARE_GIB = 1.5
_IDLE_S = 10.0
_LEVEL_NUMBERS = 1_000_000
_ROUND_NUMBERS = 10_000
Tell = Callable[[str], None]
Runs = dict[str, dict[str, list[Window]]]
"""Level label -> server -> one window per round."""


@dataclass(frozen=True, slots=True)
class ComparePlan:
    """What is compared: every level on every target, `rounds` times. `interleave`: all servers up at once."""

    targets: tuple[str, ...]
    levels: tuple[Level, ...]
    shape: Shape = Shape()
    rounds: int = 3
    warm_up: int = 8
    interleave: bool = True

    def __post_init__(self) -> None:
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets:
            raise BenchRefused(f"targets are {', '.join(TARGETS)}; not '{','.join(unknown)}'.")
        if len(set(self.targets)) != len(self.targets):
            raise BenchRefused("a target is named twice.")
        if not self.levels or self.rounds < 1:
            raise BenchRefused("a comparison needs a level and a round.")


@dataclass(slots=True)
class Comparison:
    """What came of it. `not_run` says why a target is missing, `notes` what a reader must know.

    `idle` is each server's CPU without a request, as a share of one core.
    """

    plan: ComparePlan
    machine: Machine
    runs: Runs = field(default_factory=dict[str, dict[str, list[Window]]])
    not_run: dict[str, str] = field(default_factory=dict[str, str])
    differs: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[str] = field(default_factory=list[str])
    idle: dict[str, float] = field(default_factory=dict[str, float])

    def figures(self) -> dict[str, dict[str, Figures]]:
        """Level -> server -> figures of all rounds together."""
        return {
            label: {name: figures(windows) for name, windows in by_name.items() if windows}
            for label, by_name in self.runs.items()
        }

    def ranges(self, label: str) -> dict[str, dict[str, tuple[float, float] | None]]:
        """Server -> metric -> lowest and highest ratio of one round to the bare server; empty without that one."""
        windows = self.runs[label]
        base = windows.get(BASE)
        return {} if not base else {name: ratio_ranges(each, base) for name, each in windows.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file: figures, ratios to the bare server, and every round by itself."""
        results: dict[str, Any] = {}
        for label, by_name in self.figures().items():
            base = by_name.get(BASE)
            windows, ranges = self.runs[label], self.ranges(label)
            results[label] = {
                name: {
                    "figures": each.to_json(),
                    "ratio_to_vllm": None if base is None else ratios(each, base),
                    "ratio_range_over_rounds": ranges.get(name),
                    "rounds": [figures([window]).to_json() for window in windows[name]],
                }
                for name, each in by_name.items()
            }
        return {
            "machine": self.machine.to_json(),
            "plan": asdict(self.plan),
            "differs": self.differs,
            "not_run": self.not_run,
            "notes": self.notes,
            "idle_share_of_a_core": self.idle,
            "results": results,
        }


def order(names: Sequence[str], round_number: int) -> list[str]:
    """Whose turn it is when: every round begins with another server, so that none is always first or last."""
    shift = round_number % len(names) if names else 0
    return [*names[shift:], *names[:shift]]


def numbers_from(level: int, round_number: int) -> int:
    """The first request number of a round: no prompt comes twice on one server, all servers get the same."""
    return level * _LEVEL_NUMBERS + (round_number + 1) * _ROUND_NUMBERS


def compare(
    plan: ComparePlan,
    engine: EngineSettings,
    block: Mapping[str, Any],
    site: Site,
    tell: Tell,
    step: Callable[[], None] = lambda: None,
) -> Comparison:
    """Start the targets, measure, stop them. `block` is Gatehouse's engine; `step` is called after every window.

    A target that cannot start is left out and named in the result. Every server is stopped, whatever happens.
    """
    result = Comparison(plan, machine())
    needed = sum(NEEDS_GIB[name] for name in _with_base(plan.targets)) + _SPARE_GIB
    free = available_gib()
    together = plan.interleave and needed <= free
    if plan.interleave and not together:
        result.notes.append(
            f"measured one after the other: all servers at once need {needed:.1f} GiB and {free:.1f} GiB are free; "
            "ratios then hold the drift of the machine too"
        )
        tell(result.notes[-1])
    groups = [list(plan.targets)] if together else [[name] for name in plan.targets]
    for group in groups:
        with ExitStack() as stack:
            servers = _start(group, engine, block, site, result, stack, tell)
            endpoints = {
                name: server.endpoint(servers[BASE].pid if name == "litellm" else None)
                for name, server in servers.items()
                if name in group
            }
            if endpoints:
                asyncio.run(_measure(plan, endpoints, result, tell, step))
    result.notes += _doubts(result)
    return result


def _with_base(targets: Sequence[str]) -> list[str]:
    """The targets and, where one needs it, the bare server; that one first."""
    base = [BASE] if BASE in targets or "litellm" in targets else []
    return base + [name for name in targets if name != BASE]


def _start(
    group: Sequence[str],
    engine: EngineSettings,
    block: Mapping[str, Any],
    site: Site,
    result: Comparison,
    stack: ExitStack,
    tell: Tell,
) -> dict[str, Server]:
    servers: dict[str, Server] = {}
    for name in _with_base(group):
        upstream = servers[BASE].plan.url if BASE in servers else None
        try:
            server = Server(launch(name, engine, block, site, upstream), site.out)
            tell(f"starting {name} ...")
            stack.callback(server.stop)
            server.start()
        except TargetFailed as error:
            result.not_run[name] = str(error).splitlines()[0]
            tell(f"not run: {error}")
            continue
        tell(f"{name} is ready after {server.ready_after_s:.0f} s")
        servers[name] = server
        if server.plan.differs:
            result.differs[name] = server.plan.differs
    return servers


async def _measure(
    plan: ComparePlan, endpoints: Mapping[str, Endpoint], result: Comparison, tell: Tell, step: Callable[[], None]
) -> None:
    async with client_session() as session:
        for name, endpoint in endpoints.items():
            await _warm_up(plan, session, name, endpoint, tell)
        result.idle |= await idle_shares(endpoints, _IDLE_S)
        for number, level in enumerate(plan.levels):
            windows = result.runs.setdefault(level.label, {})
            for round_number in range(plan.rounds):
                for name in order(list(endpoints), round_number):
                    first = numbers_from(number, round_number)
                    window = await run_level(session, endpoints[name], shape_for(plan.shape, name), level, first)
                    windows.setdefault(name, []).append(window)
                    step()


async def idle_shares(endpoints: Mapping[str, Endpoint], duration_s: float) -> dict[str, float]:
    """CPU of every server over `duration_s` without a request, as a share of one core: what it costs to be up."""
    clock = asyncio.get_running_loop().time
    before = {name: cpu_seconds(endpoint.pids) for name, endpoint in endpoints.items()}
    began_s = clock()
    await asyncio.sleep(duration_s)
    elapsed_s = clock() - began_s
    return {
        name: sum(cpu_between(before[name], cpu_seconds(endpoint.pids)).values()) / elapsed_s
        for name, endpoint in endpoints.items()
    }


async def _warm_up(
    plan: ComparePlan, session: aiohttp.ClientSession, name: str, endpoint: Endpoint, tell: Tell
) -> None:
    """Requests that count nowhere: alone first, then as many at once as the largest level has."""
    widest = max((level.streams or 8 for level in plan.levels), default=1)
    shape = shape_for(plan.shape, name)
    failed = 0
    for first, level in enumerate((Level(streams=1, requests=plan.warm_up), Level(streams=widest, requests=widest))):
        window = await run_level(session, endpoint, shape, level, first * 1000)
        failed += sum(not sample.ok for sample in window.samples)
    if failed:
        tell(f"{failed} requests of the warm-up of {name} failed")


def shape_for(shape: Shape, name: str) -> Shape:
    """The same requests but for the first letter, which keeps servers out of each other's prefix cache."""
    return replace(shape, salt="abcdefgh"[TARGETS.index(name)])


def _doubts(result: Comparison) -> list[str]:
    """What makes the figures worth less; empty when nothing does."""
    found: list[str] = []
    for label, by_name in result.figures().items():
        base = by_name.get(BASE)
        for name, each in by_name.items():
            if each.client_cpu_share > 0.6:
                found.append(f"{label}, {name}: the client itself used {each.client_cpu_share:.0%} of a core")
            if each.errors:
                found.append(f"{label}, {name}: {each.requests - each.complete} of {each.requests} requests failed")
            if base is not None and base.tokens_per_reply and each.complete:
                share = each.tokens_per_reply / base.tokens_per_reply
                if abs(share - 1) > 0.05:
                    found.append(f"{label}, {name}: replies have {share:.2f} times the tokens of vllm's")
    return found


def out_folder(path: Path) -> Path:
    """The folder for results, made when it is missing."""
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()
