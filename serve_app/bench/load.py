"""Closed and open loops of streamed requests. Every loop is bounded in count and in time, and draws from a seed."""

import asyncio
import ipaddress
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp

from serve_app.bench.machine import cpu_between, cpu_seconds
from serve_app.bench.stream import Sample, stream_once

Api = Literal["chat", "completions", "responses", "messages"]
PATHS: dict[Api, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
NOT_SENT = "not sent: too many open"
MAX_REQUESTS = 1_000_000
_MAX_OPEN = 2048
# fmt: off
_WORDS = (
    "pod", "node", "service", "deploy", "log", "error", "retry", "queue", "cache", "token", "build", "test", "branch",
    "commit", "merge", "review", "port", "host", "route", "policy", "audit", "gate", "engine", "model", "prompt",
    "answer", "stream", "batch", "memory", "disk", "network", "latency", "limit", "budget", "key", "team", "owner",
)
# fmt: on


class BenchRefused(Exception):
    """A benchmark that is not run; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server under load. `pids` are the roots of its process trees on this machine, for its CPU time."""

    name: str
    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """What every request looks like: about `prompt_tokens` of text, different from its first word on.

    `salt` begins every prompt: servers in front of the same engine get one each, or the second one would find the
    prompts of the first in the prefix cache. `ignore_eos` asks vLLM for exactly `max_tokens` tokens; only on
    completions, as chat needs the model's own end.
    """

    api: Api = "chat"
    prompt_tokens: int = 64
    max_tokens: int = 64
    temperature: float = 0.0
    ignore_eos: bool = False
    seed: int = 1
    timeout_s: float = 300.0
    salt: str = ""

    def __post_init__(self) -> None:
        if self.ignore_eos and self.api != "completions":
            raise BenchRefused("ignore_eos breaks the format of chat answers: use --api completions with it.")


@dataclass(frozen=True, slots=True)
class Level:
    """One load: `streams` requests always open (closed loop), or `rate` arrivals per second (open loop).

    It ends after `requests` requests or `duration_s` seconds, whichever is first; at least one is given.
    """

    streams: int | None = None
    rate: float | None = None
    requests: int | None = None
    duration_s: float | None = None

    def __post_init__(self) -> None:
        if (self.streams is None) == (self.rate is None):
            raise BenchRefused("a level has either a number of streams or a rate.")
        if (self.streams is not None and self.streams < 1) or (self.rate is not None and self.rate <= 0):
            raise BenchRefused("streams and rates are positive.")
        if self.requests is None and self.duration_s is None:
            raise BenchRefused("a level needs an end: a number of requests or a duration.")
        if self.requests is not None and not 1 <= self.requests <= MAX_REQUESTS:
            raise BenchRefused(f"a level has 1 to {MAX_REQUESTS} requests.")
        if self.duration_s is not None and self.duration_s <= 0:
            raise BenchRefused("a duration is positive.")

    @property
    def label(self) -> str:
        """`8 streams` or `2.5 req/s`."""
        if self.rate is not None:
            return f"{self.rate:g} req/s"
        return "1 stream" if self.streams == 1 else f"{self.streams} streams"


@dataclass(frozen=True, slots=True)
class Window:
    """What one level did to one server once. `cpu` has seconds by kind of process of the server.

    `client_cpu_s` is this process's own; `late_s` the longest that an open loop sent after its schedule.
    """

    samples: tuple[Sample, ...]
    wall_s: float
    client_cpu_s: float
    cpu: dict[str, float] = field(default_factory=dict[str, float])
    late_s: float = 0.0


Done = Callable[[Sample], None]
_One = Callable[[int], Awaitable[None]]


def require_loopback(url: str, allow_remote: bool) -> None:
    """Raise `BenchRefused` for an address that is not this machine, unless the operator says so."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BenchRefused(f"{url} is not an http address.")
    host = parts.hostname
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not allow_remote:
        raise BenchRefused(f"{host} is not this machine: pass --allow-remote if you may load it.")


def prompt(shape: Shape, number: int) -> str:
    """The text of request `number`: the same for every run, and no prefix of another one's."""
    rng = random.Random(f"{shape.seed}:{number}")
    return f"{shape.salt}{number} " + " ".join(rng.choices(_WORDS, k=max(1, shape.prompt_tokens - 2)))


def request_body(shape: Shape, model: str, number: int) -> dict[str, Any]:
    """Request `number`, streamed and with its usage at the end. Reasoning is asked for, and nothing is stored."""
    body: dict[str, Any] = {"model": model, "temperature": shape.temperature, "stream": True}
    text = prompt(shape, number)
    turn = [{"role": "user", "content": text}]
    match shape.api:
        case "responses":
            return body | {"max_output_tokens": shape.max_tokens, "input": text, "store": False}
        case "messages":
            return body | {"max_tokens": shape.max_tokens, "messages": turn, "thinking": {"type": "adaptive"}}
        case "chat" | "completions":
            body |= {"max_tokens": shape.max_tokens, "stream_options": {"include_usage": True}}
    if shape.api == "chat":
        return body | {"messages": turn}
    return body | {"prompt": text} | ({"ignore_eos": True} if shape.ignore_eos else {})


def poisson_schedule(rng: random.Random, rate: float, requests: int | None, duration_s: float | None) -> list[float]:
    """Arrival times in seconds from 0 on, with exponential gaps of mean `1 / rate`; ends at either limit."""
    times: list[float] = []
    at_s = 0.0
    for _ in range(requests or MAX_REQUESTS):
        at_s += rng.expovariate(rate)
        if duration_s is not None and at_s > duration_s:
            break
        times.append(at_s)
    return times


def client_session() -> AbstractAsyncContextManager[aiohttp.ClientSession]:
    """A session without a limit on connections; they are kept alive between requests, as agents do."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), read_bufsize=1 << 20)


async def run_level(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    shape: Shape,
    level: Level,
    first_number: int = 0,
    on_done: Done = lambda sample: None,
) -> Window:
    """Load one server with one level and wait for its last reply; requests are numbered from `first_number` on."""
    clock = asyncio.get_running_loop().time
    samples: list[Sample] = []
    before, client_before = cpu_seconds(endpoint.pids), time.process_time()
    started_s = clock()

    async def one(number: int) -> None:
        url, body = endpoint.url + PATHS[shape.api], request_body(shape, endpoint.model, number)
        sample = await stream_once(session, url, endpoint.key, body, timeout_s=shape.timeout_s)
        samples.append(sample)
        on_done(sample)

    late_s = 0.0
    if level.streams is not None:
        await _closed(one, level, first_number, started_s)
    else:
        late_s = await _open(one, level, shape, first_number, started_s, samples)
    wall_s = clock() - started_s
    client_cpu_s = time.process_time() - client_before
    return Window(tuple(samples), wall_s, client_cpu_s, cpu_between(before, cpu_seconds(endpoint.pids)), late_s)


async def _closed(one: _One, level: Level, first_number: int, started_s: float) -> None:
    clock = asyncio.get_running_loop().time
    ends_s = float("inf") if level.duration_s is None else started_s + level.duration_s
    numbers: Iterator[int] = itertools.islice(itertools.count(first_number), level.requests or MAX_REQUESTS)

    async def stream() -> None:
        while clock() < ends_s:
            number = next(numbers, None)
            if number is None:
                return
            await one(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(level.streams or 1):
            group.create_task(stream())


async def _open(
    one: _One, level: Level, shape: Shape, first_number: int, started_s: float, samples: list[Sample]
) -> float:
    clock = asyncio.get_running_loop().time
    rng = random.Random(f"{shape.seed}:{first_number}:{level.rate}")
    times = poisson_schedule(rng, level.rate or 1.0, level.requests, level.duration_s)
    late_s, running = 0.0, set[asyncio.Task[None]]()
    async with asyncio.TaskGroup() as group:
        for number, at_s in enumerate(times, first_number):
            await asyncio.sleep(max(0.0, started_s + at_s - clock()))
            late_s = max(late_s, clock() - started_s - at_s)
            if len(running) >= _MAX_OPEN:
                samples.append(Sample(NOT_SENT, 0, clock(), None, 0.0))
                continue
            task = group.create_task(_run(one, number))
            running.add(task)
            task.add_done_callback(running.discard)
    return late_s


def levels(
    streams: Sequence[int], rates: Sequence[float], requests: int | None, duration_s: float | None
) -> list[Level]:
    """One level per number of streams and per rate, all with the same end."""
    return [Level(streams=each, requests=requests, duration_s=duration_s) for each in streams] + [
        Level(rate=each, requests=requests, duration_s=duration_s) for each in rates
    ]


async def _run(one: _One, number: int) -> None:
    await one(number)
