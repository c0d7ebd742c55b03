"""What a flooding tenant does to a quiet one: the time to the first token, alone and beside a flood.

One server with three engines on token clocks, alike but for the order in which they take requests: `fair` as it is by
default, `counters` without the reserve of seats, `fifo` as an engine does by itself. In alternating rounds the quiet
tenant sends requests at random moments to each of them, alone and while another tenant keeps many times as many
requests open as the engine has seats. Both speak HTTP to the gateway, with keys of their own.

A flood also takes processor time from everything on its machine, the load's own client included. So there is a control:
the same flood at another engine of the same server. What is slower than beside that one is the queue's doing.
`simulate` leaves gateway and processor out: replicas with their queues alone, on an event loop whose time jumps to
whatever is due next. Its figures are exact, the same on every machine, and there in seconds.
"""

import asyncio
import importlib
import json
import random
import selectors
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
import httpx2
import yaml

from deployments.engine.replica import EngineReplica
from deployments.engine.synthetic import SyntheticSettings, TokenClock
from deployments.errors import GatehouseError
from deployments.ports import EngineCall, RequestId, SessionId, TenantId
from serve_app.bench.affinity import Server, free_port
from serve_app.bench.load import BenchRefused, Shape, client_session, poisson_schedule, request_body
from serve_app.bench.plot import require_matplotlib
from serve_app.bench.stats import Spread, percentile, spread
from serve_app.bench.stream import OK, EventReader, Sample, stream_once
from serve_app.config import ROOT, find

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "fair": {},
    "counters": {"reserve": 0.0},
    "fifo": {"enabled": False},
}
_REVISION = "bench-1"
_PATH = "/v1/chat/completions"
_CREATED = 201
_REQUEST_S = 600.0
_COLOURS: Mapping[str, str] = {"fair": "#0072b2", "counters": "#e69f00", "fifo": "#d55e00"}


@dataclass(frozen=True, slots=True)
class FairnessPlan:
    """`seats` of each engine; `flood` requests of the other tenant open per seat, of 0.5 to 1.5 `flood_tokens` each.

    The quiet tenant sends `requests` a round, `rate` a second on average, of `quiet_tokens`. `first_token_ms` and
    `token_ms` are the engines' pace; `settle_s` is how long a flood lasts before anything is measured.
    """

    seats: int = 16
    flood: int = 20
    requests: int = 25
    rate: float = 1.0
    rounds: int = 2
    quiet_tokens: int = 16
    flood_tokens: int = 60
    prompt_tokens: int = 64
    first_token_ms: float = 200.0
    token_ms: float = 60.0
    settle_s: float = 8.0
    seed: int = 1
    variants: tuple[str, ...] = tuple(VARIANTS)

    def __post_init__(self) -> None:
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown or not self.variants:
            raise BenchRefused(f"the orders to compare are of {', '.join(VARIANTS)}.")


@dataclass(slots=True)
class Seen:
    """What one order showed over all rounds. `flood_tokens` ended within `flood_s` seconds of measured floods."""

    alone: list[Sample] = field(default_factory=list[Sample])
    control: list[Sample] = field(default_factory=list[Sample])
    flooded: list[Sample] = field(default_factory=list[Sample])
    flood_tokens: int = 0
    flood_s: float = 0.0
    flood_failed: int = 0


@dataclass(frozen=True, slots=True)
class FairnessFigures:
    """One order. None where no request was complete.

    `moved` is the change of the 95th percentile from `alone`, 0.2 for a fifth more; `moved_by_queue` that from
    `control`, where the flood was at another engine.
    """

    alone_ms: Spread | None
    control_ms: Spread | None
    flooded_ms: Spread | None
    alone_p95_ms: float | None
    control_p95_ms: float | None
    flooded_p95_ms: float | None
    moved: float | None
    moved_by_queue: float | None
    failed: int
    flood_tokens_per_s: float
    flood_failed: int


def first_tokens_ms(samples: Sequence[Sample]) -> list[float]:
    """Times to the first token of complete replies, ascending."""
    return sorted(sample.ttft_s * 1000 for sample in samples if sample.ok and sample.ttft_s is not None)


def figures(seen: Seen) -> FairnessFigures:
    """The figures of one order."""
    alone, control, flooded = (first_tokens_ms(each) for each in (seen.alone, seen.control, seen.flooded))
    p95s = [percentile(each, 0.95) if each else None for each in (alone, control, flooded)]
    return FairnessFigures(
        alone_ms=spread(alone),
        control_ms=spread(control),
        flooded_ms=spread(flooded),
        alone_p95_ms=p95s[0],
        control_p95_ms=p95s[1],
        flooded_p95_ms=p95s[2],
        moved=_change(p95s[0], p95s[2]),
        moved_by_queue=_change(p95s[1], p95s[2]),
        failed=sum(not sample.ok for sample in (*seen.alone, *seen.flooded)),
        flood_tokens_per_s=seen.flood_tokens / seen.flood_s if seen.flood_s else 0.0,
        flood_failed=seen.flood_failed,
    )


def _change(before: float | None, after: float | None) -> float | None:
    return None if not before or after is None else after / before - 1


def engine_block(plan: FairnessPlan, name: str) -> dict[str, Any]:
    """The `engine` block of an order: a token clock with room for the whole flood."""
    return {
        "kind": "synthetic", "model": name, "revision": _REVISION, "max_num_seqs": plan.seats,
        "first_token_ms": plan.first_token_ms, "token_ms": plan.token_ms, "num_cpus": 0.1,
        "max_queued": 2 * plan.seats * (plan.flood + 1), "fair": dict(VARIANTS[name]),
    }  # fmt: skip


def serve_document(base: Mapping[str, Any], plan: FairnessPlan, port: int, state_dir: str) -> dict[str, Any]:
    """The local profile with one token clock for each order, and room for the whole flood."""
    document: dict[str, Any] = json.loads(json.dumps(base))
    document["http_options"]["port"] = port
    args = document["applications"][0]["args"]
    args["state_dir"] = state_dir
    args["min_memory_gib"] = 0
    args["tenancy"] = {**args.get("tenancy", {}), "max_concurrent_requests": 4096}
    args["models"] = []
    for name in plan.variants:
        engine = engine_block(plan, name)
        args["models"].append({"engine": engine} if args["models"] else {"tier": "20b", "engine": engine})
    return document


Send = Callable[[str, str, Shape, int], Awaitable[Sample]]
"""One request: of a tenant, to an engine, of a shape, with a number."""


async def measure(send: Send, plan: FairnessPlan, tell: Callable[[str], None]) -> dict[str, Seen]:
    """Alternating rounds. Never two floods at once."""
    seen = {name: Seen() for name in plan.variants}
    warm = Shape(prompt_tokens=plan.prompt_tokens, max_tokens=4, salt="warm ")
    for name in plan.variants:
        for tenant in ("flood", "quiet"):
            await send(tenant, name, warm, 0)
    for number in range(plan.rounds):
        turn = number % len(plan.variants)
        for name in (*plan.variants[turn:], *plan.variants[:turn]):
            run, own = _Round(send, plan, name, number), seen[name]
            own.alone += await run.quiet("alone")
            other = plan.variants[(plan.variants.index(name) + 1) % len(plan.variants)]
            if other != name:
                own.control += await run.beside_a_flood(other, Seen())
            own.flooded += await run.beside_a_flood(name, own)
            so_far = figures(own)
            p95s = (so_far.alone_p95_ms, so_far.control_p95_ms, so_far.flooded_p95_ms)
            words = ", ".join("-" if each is None else f"{each:.0f}" for each in p95s)
            tell(f"round {number + 1}, {name}: p95 in ms alone, beside a flood elsewhere, beside a flood here: {words}")
    return seen


def over_http(session: aiohttp.ClientSession, url: str, keys: Mapping[str, str]) -> Send:
    """Requests to a gateway; `keys` are those of `quiet` and `flood`."""

    async def send(tenant: str, name: str, shape: Shape, number: int) -> Sample:
        body = request_body(shape, name, number)
        return await stream_once(session, url + _PATH, keys[tenant], body, timeout_s=_REQUEST_S)

    return send


def to_replicas(plan: FairnessPlan) -> Send:
    """Requests to replicas in this process, each with its queue and its engine, and nothing else. On their loop."""
    engines: dict[str, EngineReplica] = {}
    for name in plan.variants:
        settings = SyntheticSettings.model_validate(engine_block(plan, name))
        engines[name] = EngineReplica(TokenClock(settings, _LoopClock()), settings, _LoopClock(), 0.0)

    async def send(tenant: str, name: str, shape: Shape, number: int) -> Sample:
        clock = asyncio.get_running_loop().time
        body = json.dumps(request_body(shape, name, number)).encode()
        call = EngineCall(_PATH, {}, body, RequestId(f"{tenant}-{number}"), SessionId(tenant), tenant=TenantId(tenant))
        reader, began_s, ttft_s, ending = EventReader(), clock(), None, OK
        try:
            async with aclosing(engines[name].call(call)) as items:
                async for item in items:
                    if isinstance(item, bytes) and reader.feed(item) and ttft_s is None:
                        ttft_s = clock() - began_s
        except GatehouseError as error:
            ending = error.code
        tokens = reader.usage.get("completion_tokens")
        return Sample(ending, 200, began_s, ttft_s, clock() - began_s, events=reader.events, output_tokens=tokens)

    return send


class _Round:
    """One round of one order."""

    def __init__(self, send: Send, plan: FairnessPlan, name: str, number: int) -> None:
        self._send, self._plan, self._name, self._number = send, plan, name, number
        self._clock = asyncio.get_running_loop().time

    async def quiet(self, what: str) -> list[Sample]:
        """The quiet tenant's requests, at the same moments in every round of every order."""
        plan = self._plan
        shape = Shape(prompt_tokens=plan.prompt_tokens, max_tokens=plan.quiet_tokens, salt=f"{what} {self._number} ")
        times = poisson_schedule(random.Random(f"{plan.seed}:{self._number}"), plan.rate, plan.requests, None)
        began_s = self._clock()

        async def one(number: int, at_s: float) -> Sample:
            await asyncio.sleep(max(0.0, began_s + at_s - self._clock()))
            return await self._send("quiet", self._name, shape, number)

        return list(await asyncio.gather(*(one(number, at_s) for number, at_s in enumerate(times))))

    async def beside_a_flood(self, where: str, flooded: Seen) -> list[Sample]:
        """The same while another tenant keeps its requests open at the engine `where`.

        `flooded` gets what the flood was given once it had settled.
        """
        plan, ended = self._plan, list[Sample]()

        async def flood(stream: int) -> None:
            rng = random.Random(f"{plan.seed}:{self._number}:{stream}")
            for number in range(1_000_000):
                tokens = max(1, round(plan.flood_tokens * rng.uniform(0.5, 1.5)))
                shape = Shape(prompt_tokens=plan.prompt_tokens, max_tokens=tokens, salt=f"flood {stream} ")
                sample = await self._send("flood", where, shape, number)
                ended.append(sample)
                if not sample.ok:  # as a client that honours `retry-after`
                    await asyncio.sleep(1.0)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(flood(stream)) for stream in range(plan.flood * plan.seats)]
            await asyncio.sleep(plan.settle_s)
            ended.clear()
            began_s = self._clock()
            quiet = await self.quiet("flooded" if where == self._name else "control")
            flooded.flood_s += self._clock() - began_s
            flooded.flood_tokens += sum(sample.tokens for sample in ended if sample.ok)
            flooded.flood_failed += sum(not sample.ok for sample in ended)
            for task in tasks:
                task.cancel()
        return quiet


def make_keys(url: str, operator_key: str) -> dict[str, str]:
    """A key of the tenant `quiet` and one of `flood`, by name; raises `BenchRefused` when the server makes none."""
    made: dict[str, str] = {}
    for tenant in ("quiet", "flood"):
        headers = {"authorization": f"Bearer {operator_key}"}
        reply = httpx2.post(f"{url}/v1/admin/keys", json={"tenant": tenant, "name": "bench"}, headers=headers)
        if reply.status_code != _CREATED:
            raise BenchRefused(f"the server made no key: status {reply.status_code}.")
        made[tenant] = str(cast(Mapping[str, Any], reply.json())["key"])
    return made


def compare(
    plan: FairnessPlan, out: Path, environment: Mapping[str, str], tell: Callable[[str], None]
) -> dict[str, Seen]:
    """Start the server, measure, stop it. Its configuration, state and log go to `out`.

    Raises `BenchRefused` when it does not start.
    """
    base = cast(dict[str, Any], yaml.safe_load(find("configs/serve.local.yaml").read_text(encoding="utf-8")))
    state = (out / "state").resolve()
    state.mkdir(parents=True, exist_ok=True)
    local = ROOT / ".gatehouse"
    for name in ("models", "vocabulary"):
        if (local / name).exists() and not (state / name).exists():
            (state / name).symlink_to(local / name)
    port = free_port()
    config = out.resolve() / "serve.yaml"
    config.write_text(yaml.safe_dump(serve_document(base, plan, port, str(state)), sort_keys=False), encoding="utf-8")
    tell(f"starting the server, log in {config.with_name('server.log')}")
    with Server(config, port, state, environment) as server:
        keys = make_keys(server.url, (state / "operator.key").read_text(encoding="utf-8").strip())

        async def run() -> dict[str, Seen]:
            async with client_session() as session:
                return await measure(over_http(session, server.url, keys), plan, tell)

        return asyncio.run(run())


def simulate(plan: FairnessPlan, tell: Callable[[str], None]) -> dict[str, Seen]:
    """The same without a server, in simulated time."""

    async def run() -> dict[str, Seen]:
        return await measure(to_replicas(plan), plan, tell)

    with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        return runner.run(run())


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: it says how long it was to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now."""
        self.passed_s += timeout or 0.0
        return super().select(0)


class _JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop on which work takes no time and waiting is over at once."""

    def __init__(self) -> None:
        self._jumps = _JumpingSelector()
        super().__init__(self._jumps)

    def time(self) -> float:
        """Simulated seconds."""
        return self._jumps.passed_s


class _LoopClock:
    """The running loop's time as both clocks."""

    def now_ms(self) -> int:
        """Its milliseconds."""
        return int(self.monotonic_s() * 1000)

    def monotonic_s(self) -> float:
        """Its seconds."""
        return asyncio.get_running_loop().time()


def to_json(plan: FairnessPlan, seen: Mapping[str, Seen]) -> dict[str, Any]:
    """Plain data for a JSON file: the plan, the figures, and every time to a first token in ms."""
    return {
        "plan": asdict(plan),
        "figures": {name: asdict(figures(each)) for name, each in seen.items()},
        "ttft_ms": {
            name: {
                "alone": first_tokens_ms(each.alone),
                "control": first_tokens_ms(each.control),
                "flooded": first_tokens_ms(each.flooded),
            }
            for name, each in seen.items()
        },
    }


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Write the SVG of what `to_json` gave: the share of requests whose first token came within a time."""
    require_matplotlib()
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    plan, times = result["plan"], cast(Mapping[str, Mapping[str, Sequence[float]]], result["ttft_ms"])
    with matplotlib.rc_context({"svg.hashsalt": "gatehouse", "svg.fonttype": "none", "font.size": 9}):
        figure, axis = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
        asked = f"{plan['flood']} requests per seat open, {plan['seats']} seats"
        figure.suptitle(f"A quiet tenant's first token beside a flood of another one: {asked}", x=0.01, ha="left")
        for name, by_case in times.items():
            for case, style in (("alone", ":"), ("control", "--"), ("flooded", "-")):
                values = by_case[case]
                if not values:
                    continue
                shares = [100 * (number + 1) / len(values) for number in range(len(values))]
                label = f"{name}, {case}"
                axis.step(values, shares, style, where="post", color=_COLOURS[name], label=label, linewidth=1.5)
        axis.axhline(95, color="#999999", linewidth=0.8, linestyle="--")
        axis.set_xscale("log")
        axis.set_xlabel("time to the first token, ms")
        axis.set_ylabel("requests, %")
        axis.legend(fontsize=8, loc="lower right")
        axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
