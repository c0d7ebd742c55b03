"""A soak: saturating load for a long time, with hang-ups, slow readers and one killed engine, and what must hold.

A closed loop of `streams` clients asks for short and long answers, most of them streamed. Every decision comes from a
seeded generator. Rules for one reply are in `soak_replies.py`, for memory in `soak_memory.py`; here are the load, the
kill, the wait for leaked requests, and the verdicts.
"""

import asyncio
import itertools
import os
import random
import signal
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import aiohttp

from serve_app.bench.load import BenchRefused, require_loopback
from serve_app.bench.soak_memory import (
    Bounds,
    Sample,
    Trend,
    process_tree,
    take_sample,
    thinned,
    total_pss,
    total_rss,
    tree_slope,
    trends,
)
from serve_app.bench.soak_replies import Ending, Reply, StreamWatch, judge_refusal, judge_whole

_MIB = 2**20
_GRACE_S = 30.0  # for requests in flight when the time is up; then they are hung up
_SLOW_LIMIT_S = 45.0  # a slow reader reads at full speed after this, so that every request is bounded
_SLOW_BUFFER = 4096  # bytes: a small window makes slowness reach the server
_LONGEST_PAUSE_S = 60.0
_WORKERS = ("replica ", "VLLM::")
_SHORT = ("Who are you?", "hello", "What is 7 times 8?", "Thank you")
_LONG = ("Count to one hundred", "Count to fifty")


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """What to do. `kill_after_s` needs `admin_key` and `pid`, the server's process on this machine.

    Shares are in [0, 1]: `disconnects`, `whole` (not streamed) and `long` of the requests, `slow_readers` of the
    clients, so that slow ones do not take the seats of those that make the load. The run ends after `duration_s`, or
    `max_requests` requests, whichever comes first. `drain_s` is how long the engines may take to report no running
    request once the load has stopped. `request_seeds` puts a `seed` into every request: vLLM 0.29 on CPU ends when a
    seeded request's prompt is split over two steps, so it is off unless asked for.
    """

    url: str
    key: str = field(repr=False)
    duration_s: float = 1800.0
    streams: int = 48
    model: str = "auto"
    disconnects: float = 0.2
    slow_readers: float = 0.15
    whole: float = 0.2
    long: float = 0.3
    short_tokens: int = 24
    long_tokens: int = 400
    seed: int = 1
    request_seeds: bool = False
    max_requests: int = 1_000_000
    request_timeout_s: float = 300.0
    kill_after_s: float | None = None
    restart_s: float = 300.0
    admin_key: str | None = field(default=None, repr=False)
    pid: int | None = None
    sample_s: float = 10.0
    drain_s: float = 15.0
    bounds: Bounds = Bounds()


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request to make. At most one of the two ways to hang up is set."""

    number: int
    question: str
    max_tokens: int
    streamed: bool
    pause_s: float | None
    hang_up_events: int | None
    hang_up_s: float | None


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine as GET /v1/admin/engines shows it; `pids` are its replica's and its core's, on the server's machine."""

    model: str
    ready: bool
    running: int
    pid: int
    core_pids: tuple[int, ...]

    @property
    def pids(self) -> frozenset[int]:
        """All its processes."""
        return frozenset({self.pid, *self.core_pids})


@dataclass(frozen=True, slots=True)
class Kill:
    """The killed engine: what was killed and when, in seconds after the start; `back_s` counts from the kill.

    `pids` are all its processes, which end with the one that was killed.
    """

    model: str
    pid: int
    pids: tuple[int, ...]
    core: bool
    at_s: float
    back_s: float | None


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold. `passed` is None when it could not be judged."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class SoakProgress:
    """How far the run is, for a progress bar."""

    elapsed_s: float
    requests: int
    faults: int
    phase: str


@dataclass(frozen=True, slots=True)
class SoakReport:
    """Everything a run found. `endings` counts by kind of request and ending; `memory` is in MiB by sample.

    The slopes of the whole tree are MiB/hour after warm-up; a restarted process moves them, so they are not judged.
    """

    plan: Mapping[str, Any]
    elapsed_s: float
    requests: int
    output_tokens: int
    events: int
    endings: Mapping[str, Mapping[str, int]]
    details: Mapping[str, int]
    peak_running: int
    leaked: int | None
    drained_s: float | None
    kill: Kill | None
    longest_pause_s: float
    memory: Sequence[Mapping[str, float]]
    tree_rss_slope: float | None
    tree_pss_slope: float | None
    trends: Sequence[Trend]
    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        """True when no check failed; a check that could not be judged does not fail."""
        return all(check.passed is not False for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file; holds no key."""
        return asdict(self) | {"passed": self.passed}


def check_plan(plan: SoakPlan, allow_remote: bool) -> None:
    """Raise `BenchRefused` for a plan that must not run."""
    require_loopback(plan.url, allow_remote)
    if plan.kill_after_s is None:
        return
    require_loopback(plan.url, allow_remote=False)  # its process ids would mean other processes here
    if plan.admin_key is None or plan.pid is None:
        raise BenchRefused("killing an engine needs the operator's key and the process id of `gatehouse up`.")
    if plan.kill_after_s >= plan.duration_s:
        raise BenchRefused("the engine must be killed before the run ends.")


def draw(rng: random.Random, number: int, plan: SoakPlan, slow: bool) -> Ticket:
    """The next request of a client, which reads with pauses when it is `slow`."""
    is_long = rng.random() < plan.long
    question = rng.choice(_LONG if is_long else _SHORT)
    tokens = rng.randint(max(1, plan.long_tokens // 2), plan.long_tokens) if is_long else plan.short_tokens
    streamed = rng.random() >= plan.whole
    hangs_up = rng.random() < plan.disconnects
    events = seconds = None
    if hangs_up and streamed and rng.random() < 0.8:
        events = rng.randint(0, tokens)
    elif hangs_up:
        seconds = rng.uniform(0.0, 1.0)  # often before the first byte
    return Ticket(
        number=number,
        question=question,
        max_tokens=tokens,
        streamed=streamed,
        pause_s=rng.uniform(0.02, 0.4) if slow and streamed else None,
        hang_up_events=events,
        hang_up_s=seconds,
    )


def body_of(ticket: Ticket, plan: SoakPlan) -> dict[str, Any]:
    """The chat request of a ticket."""
    body: dict[str, Any] = {
        "model": plan.model,
        "messages": [{"role": "user", "content": ticket.question}],
        "max_tokens": ticket.max_tokens,
        "temperature": 0.7,
    }
    if plan.request_seeds:
        body["seed"] = ticket.number
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if ticket.streamed else {})


def engines_of(value: object) -> list[Engine]:
    """The reply of GET /v1/admin/engines; an engine that is down has no process ids."""
    data = cast(list[dict[str, Any]], cast(dict[str, Any], value)["data"])
    return [
        Engine(
            model=str(each["model"]),
            ready=each["state"] == "ready",
            running=int(each.get("running", 0)),
            pid=int(each.get("pid", 0)),
            core_pids=tuple(int(pid) for pid in each.get("core_pids", ())),
        )
        for each in data
    ]


def victim_of(engines: Sequence[Engine], tree: Sequence[int]) -> tuple[Engine, int]:
    """The busiest engine, and which of its processes to kill: its core, or the replica where it has none.

    Raises `BenchRefused` unless that process belongs to `tree`: a process id of another machine must hit nobody here.
    """
    ready = [engine for engine in engines if engine.ready]
    if not ready:
        raise BenchRefused("no engine is ready, so none can be killed.")
    victim = max(ready, key=lambda engine: engine.running)
    pid = (*victim.core_pids, victim.pid)[0]
    if pid not in tree:
        raise BenchRefused(f"the processes of {victim.model} are not below the given process id.")
    return victim, pid


class _Tally:
    """Counts of a run; nothing here grows with its length."""

    def __init__(self) -> None:
        self.endings: dict[str, Counter[str]] = {"streamed": Counter(), "whole": Counter()}
        self.details: Counter[str] = Counter()
        self.requests = self.faults = self.output_tokens = self.events = 0
        self.bad_streams = self.bad_wholes = self.bad_refusals = 0
        self.last_complete_s = 0.0
        self.pauses: list[tuple[float, float]] = []

    def add(self, ticket: Ticket, reply: Reply, at_s: float) -> None:
        self.requests += 1
        self.output_tokens += reply.output_tokens
        self.events += reply.events
        self.endings["streamed" if ticket.streamed else "whole"][reply.ending.value] += 1
        if reply.detail:
            self.details[f"{reply.ending.value}: {reply.detail}"] += 1
        if reply.fault:
            self.faults += 1
            if reply.status not in (0, 200):
                self.bad_refusals += 1
            elif ticket.streamed:
                self.bad_streams += 1
            else:
                self.bad_wholes += 1
        if reply.ending is Ending.COMPLETE:
            self.note_pause(at_s)

    def note_pause(self, at_s: float) -> None:
        if at_s - self.last_complete_s > 1.0:
            self.pauses = sorted([*self.pauses, (self.last_complete_s, at_s)], key=lambda p: p[0] - p[1])[:20]
        self.last_complete_s = at_s

    def count(self, ending: Ending) -> int:
        return sum(counter[ending.value] for counter in self.endings.values())


def longest_pause(pauses: Sequence[tuple[float, float]], away: tuple[float, float] | None) -> float:
    """The longest time in seconds without a complete answer, leaving out what overlaps with `away`."""
    worst = 0.0
    for start_s, end_s in pauses:
        overlap = max(0.0, min(end_s, away[1]) - max(start_s, away[0])) if away is not None else 0.0
        worst = max(worst, end_s - start_s - overlap)
    return worst


class Soak:
    """One run."""

    def __init__(self, plan: SoakPlan, tell: Callable[[SoakProgress], None] = lambda progress: None) -> None:
        """`tell` is called about once a second."""
        self._plan = plan
        self._tell = tell
        self._rng = random.Random(plan.seed)
        self._numbers = itertools.count()
        self._tally = _Tally()
        self._samples: list[Sample] = []
        self._kill: Kill | None = None
        self._kill_fault = ""
        self._peak_running = 0
        self._phase = "load"
        self._started_s = 0.0

    async def run(self) -> SoakReport:
        """Load, kill, drain, judge. Raises `BenchRefused` when the server does not answer at the start."""
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            fast = await stack.enter_async_context(_session(None, 2**16))
            slow = await stack.enter_async_context(_session(_SLOW_BUFFER, _SLOW_BUFFER))
            await self._first_look(fast)
            self._started_s = loop.time()
            watchers = [asyncio.create_task(work) for work in (self._report_progress(), self._sample())]
            try:
                async with asyncio.TaskGroup() as group:
                    slow_clients = round(self._plan.streams * self._plan.slow_readers)
                    for index in range(self._plan.streams):
                        is_slow = index < slow_clients
                        group.create_task(self._client(slow if is_slow else fast, is_slow))
                    if self._plan.admin_key is not None:
                        group.create_task(self._look_at_engines(fast))
                    if self._plan.kill_after_s is not None:
                        group.create_task(self._kill_one(fast, self._plan.kill_after_s))
                elapsed_s = self._now()
                self._tally.note_pause(max(self._tally.last_complete_s, min(elapsed_s, self._plan.duration_s)))
                self._phase = "drain"
                leaked, drained_s = await self._drain(fast)
                ready = await self._ready(fast)
            finally:
                for watcher in watchers:
                    watcher.cancel()
                await asyncio.gather(*watchers, return_exceptions=True)
        return self._judge(elapsed_s, leaked, drained_s, ready)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._started_s

    async def _first_look(self, session: aiohttp.ClientSession) -> None:
        try:
            async with session.get(f"{self._plan.url}/healthz") as reply:
                if reply.status != 200:
                    raise BenchRefused(f"{self._plan.url} answers {reply.status} when asked whether it lives.")
            if self._plan.admin_key is not None:
                await self._engines(session)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BenchRefused(f"no Gatehouse answers at {self._plan.url} ({type(error).__name__}).") from None
        if self._plan.pid is not None and not process_tree(self._plan.pid):
            raise BenchRefused(f"there is no process {self._plan.pid}.")

    async def _client(self, session: aiohttp.ClientSession, slow: bool) -> None:
        until_s = self._plan.duration_s
        while self._now() < until_s:
            number = next(self._numbers)
            if number >= self._plan.max_requests:
                return
            ticket = draw(self._rng, number, self._plan, slow)
            reply = await self._ask(session, ticket)
            self._tally.add(ticket, reply, self._now())
            if reply.ending is Ending.REFUSED or reply.fault:
                wait_s = min(5.0, max(0.2, reply.retry_after_s))
                await asyncio.sleep(min(wait_s, max(0.0, until_s - self._now())))

    async def _ask(self, session: aiohttp.ClientSession, ticket: Ticket) -> Reply:
        """One request to its end. Time up or hang-up: the connection is closed and nothing is judged."""
        remaining_s = self._plan.duration_s + _GRACE_S - self._now()
        own_s = ticket.hang_up_s if ticket.hang_up_s is not None else remaining_s
        timeout_s = max(0.0, min(own_s, remaining_s, self._plan.request_timeout_s))
        watch = StreamWatch()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(session, ticket, watch)
        except TimeoutError:
            ours = timeout_s < self._plan.request_timeout_s
            detail = "the time was up" if ours and ticket.hang_up_s is None else ""
            return Reply(Ending.HUNG_UP if ours else Ending.TIMEOUT, detail=detail, events=watch.events)
        except aiohttp.ClientPayloadError:
            return Reply(Ending.CUT, 200, "the body broke off", watch.events)
        except (aiohttp.ClientError, OSError) as error:
            return Reply(Ending.CONNECTION, 0, type(error).__name__, watch.events)

    async def _exchange(self, session: aiohttp.ClientSession, ticket: Ticket, watch: StreamWatch) -> Reply:
        headers = {"authorization": f"Bearer {self._plan.key}", "x-session-id": f"soak-{ticket.number % 64}"}
        body = body_of(ticket, self._plan)
        async with session.post(f"{self._plan.url}/v1/chat/completions", json=body, headers=headers) as reply:
            if reply.status != 200:
                lower = {name.lower(): value for name, value in reply.headers.items()}
                return judge_refusal(reply.status, lower, await reply.read())
            if not ticket.streamed:
                return judge_whole(await reply.read())
            slept_s = 0.0
            async for data in reply.content.iter_any():
                watch.feed(data)
                if ticket.hang_up_events is not None and watch.events >= ticket.hang_up_events:
                    reply.close()
                    return Reply(Ending.HUNG_UP, 200, events=watch.events)
                if ticket.pause_s is not None and slept_s < _SLOW_LIMIT_S:
                    slept_s += ticket.pause_s
                    await asyncio.sleep(ticket.pause_s)
            return watch.end()

    async def _engines(self, session: aiohttp.ClientSession) -> list[Engine]:
        headers = {"authorization": f"Bearer {self._plan.admin_key}"}
        async with session.get(f"{self._plan.url}/v1/admin/engines", headers=headers) as reply:
            if reply.status in (401, 403):
                raise BenchRefused("the operator's key is not accepted.")
            reply.raise_for_status()
            return engines_of(await reply.json())

    async def _seen(self, session: aiohttp.ClientSession) -> list[Engine]:
        """The engines, or none while the server cannot say."""
        try:
            return await self._engines(session)
        except (BenchRefused, aiohttp.ClientError, TimeoutError):
            return []

    async def _look_at_engines(self, session: aiohttp.ClientSession) -> None:
        while (left_s := self._plan.duration_s - self._now()) > 0 and not self._spent:
            running = sum(engine.running for engine in await self._seen(session))
            self._peak_running = max(self._peak_running, running)
            await asyncio.sleep(min(left_s, 2.0))

    @property
    def _spent(self) -> bool:
        return self._tally.requests >= self._plan.max_requests

    async def _kill_one(self, session: aiohttp.ClientSession, after_s: float) -> None:
        while self._now() < after_s:
            if self._spent:
                return
            await asyncio.sleep(min(0.5, max(0.0, after_s - self._now())))
        while True:  # an engine that is away at this moment comes back, and is killed then
            try:
                victim, pid = victim_of(await self._engines(session), process_tree(cast(int, self._plan.pid)))
                os.kill(pid, signal.SIGKILL)
                break
            except (BenchRefused, OSError, aiohttp.ClientError, TimeoutError) as error:
                self._kill_fault = str(error) if isinstance(error, BenchRefused) else type(error).__name__
            if self._spent or self._now() >= self._plan.duration_s:
                return
            await asyncio.sleep(1.0)
        at_s = self._now()
        dead = Kill(victim.model, pid, tuple(sorted(victim.pids)), pid != victim.pid, at_s, None)
        self._kill = dead
        while self._now() - at_s < self._plan.restart_s:
            for engine in await self._seen(session):
                if engine.model == victim.model and engine.ready and pid not in engine.pids:
                    self._kill = replace(dead, back_s=self._now() - at_s)
                    return
            await asyncio.sleep(0.5)

    async def _drain(self, session: aiohttp.ClientSession) -> tuple[int | None, float | None]:
        """Requests that engines still report after `drain_s`, and when the last one was gone."""
        if self._plan.admin_key is None:
            return None, None
        start_s = self._now()
        while True:
            engines = await self._seen(session)
            running = sum(engine.running for engine in engines)
            took_s = self._now() - start_s
            if engines and running == 0 and all(engine.ready for engine in engines):
                return 0, took_s
            if took_s > self._plan.drain_s:
                return running, None
            await asyncio.sleep(0.5)

    async def _ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self._plan.url}/readyz") as reply:
                return reply.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _sample(self) -> None:
        while self._plan.pid is not None:
            sample = await asyncio.to_thread(take_sample, self._plan.pid, self._now(), Path("/proc"))
            self._samples.append(sample)
            await asyncio.sleep(self._plan.sample_s)

    async def _report_progress(self) -> None:
        while True:
            self._tell(SoakProgress(self._now(), self._tally.requests, self._tally.faults, self._phase))
            await asyncio.sleep(1.0)

    def _judge(self, elapsed_s: float, leaked: int | None, drained_s: float | None, ready: bool) -> SoakReport:
        plan, tally = self._plan, self._tally
        samples = thinned(self._samples)
        made = trends(samples, plan.bounds)
        away = None
        if self._kill is not None:
            back_s = self._kill.back_s if self._kill.back_s is not None else elapsed_s
            away = (self._kill.at_s, self._kill.at_s + back_s)
        pause_s = longest_pause(tally.pauses, away)
        hidden = {"key": None, "admin_key": None}
        return SoakReport(
            plan=asdict(plan) | hidden,
            elapsed_s=elapsed_s,
            requests=tally.requests,
            output_tokens=tally.output_tokens,
            events=tally.events,
            endings={kind: dict(counter) for kind, counter in tally.endings.items()},
            details=dict(tally.details.most_common(30)),
            peak_running=self._peak_running,
            leaked=leaked,
            drained_s=drained_s,
            kill=self._kill,
            longest_pause_s=pause_s,
            memory=[
                {
                    "at_s": round(sample.at_s, 1),
                    "processes": len(sample.processes),
                    "rss_mib": round(total_rss(sample) / _MIB, 1),
                    "pss_mib": round(total_pss(sample) / _MIB, 1),
                    "files": sum(use.files for use in sample.processes.values()),
                }
                for sample in self._samples
            ],
            tree_rss_slope=tree_slope(samples, total_rss, plan.bounds),
            tree_pss_slope=tree_slope(samples, total_pss, plan.bounds),
            trends=made,
            checks=[
                _held("every stream ends with [DONE] or an error event", tally.bad_streams),
                _held("every other answer is whole", tally.bad_wholes),
                _held("every refusal is OpenAI's error object, with retry-after on 429 and 503", tally.bad_refusals),
                Check(
                    "answers keep coming",
                    tally.count(Ending.COMPLETE) > 0 and pause_s <= _LONGEST_PAUSE_S,
                    f"{tally.count(Ending.COMPLETE)} complete; longest pause {pause_s:.1f} s, at most "
                    f"{_LONGEST_PAUSE_S:.0f} s while no engine was away",
                ),
                leak_check(leaked, drained_s, plan.drain_s),
                *([] if plan.kill_after_s is None else [kill_check(self._kill, self._kill_fault, plan.restart_s)]),
                *([] if plan.pid is None else [ended_check(self._samples, self._kill)]),
                Check("the server is ready at the end", ready, "GET /readyz"),
                *memory_checks(made, plan.bounds),
            ],
        )


def leak_check(leaked: int | None, drained_s: float | None, bound_s: float) -> Check:
    """Whether the engines report no request once nobody asks any more."""
    name = "no leaked request"
    if leaked is None:
        return Check(name, None, "not checked: no operator's key was given")
    if drained_s is None:
        return Check(name, False, f"{leaked} still running, or an engine not ready, {bound_s:.0f} s after the load")
    return Check(name, True, f"0 running {drained_s:.1f} s after the load")


def kill_check(kill: Kill | None, fault: str, bound_s: float) -> Check:
    """Whether the killed engine is back."""
    name = "the killed engine comes back"
    if kill is None:
        return Check(name, False, f"nothing was killed: {fault}" if fault else "the run ended before the kill")
    what = f"{kill.model}, {'core' if kill.core else 'replica'} process, killed at {kill.at_s:.0f} s"
    if kill.back_s is None:
        return Check(name, False, f"{what}: not ready again within {bound_s:.0f} s")
    return Check(name, True, f"{what}: ready again after {kill.back_s:.1f} s")


def ended_check(samples: Sequence[Sample], kill: Kill | None) -> Check:
    """Whether every replica and engine process lived to the end, except the ones that we killed."""
    last: frozenset[int] = frozenset(samples[-1].processes) if samples else frozenset()
    ours: frozenset[int] = frozenset(kill.pids) if kill is not None else frozenset()
    ended = {
        pid: use.kind
        for sample in samples
        for pid, use in sample.processes.items()
        if use.kind.startswith(_WORKERS) and pid not in last and pid not in ours
    }
    detail = ", ".join(f"{kind} ({pid})" for pid, kind in sorted(ended.items()))
    return Check("no replica ends by itself", not ended, f"ended: {detail}" if ended else "none but what we killed")


def memory_checks(made: Sequence[Trend], bounds: Bounds) -> list[Check]:
    """Whether memory and open files of every process that lived long enough are flat."""
    judged = [trend for trend in made if trend.verdict != "too short to judge"]
    if not judged:
        short = f"not judged: no process was seen for {bounds.warm_up_s + bounds.judge_s:.0f} s"
        return [Check("memory is flat", None, short), Check("open files are flat", None, short)]
    checks: list[Check] = []
    for name, bad, bound in (
        ("memory is flat", "memory grows", f"{bounds.mib_per_hour:g} MiB/hour or {bounds.share:.0%} over the run"),
        ("open files are flat", "open files grow", f"{bounds.files} over the run"),
    ):
        worse = [f"{trend.kind} ({trend.pid})" for trend in judged if trend.verdict == bad]
        detail = f"grows: {', '.join(worse)}" if worse else f"{len(judged)} processes"
        checks.append(Check(name, not worse, f"{detail}; bound {bound}"))
    return checks


def _held(name: str, broken: int) -> Check:
    return Check(name, broken == 0, "always" if broken == 0 else f"broken {broken} times")


def _session(receive_buffer: int | None, read_buffer: int) -> aiohttp.ClientSession:
    """A session that opens a connection for every request: an idle one that the server closes is no fault of it."""

    def make(address: Any) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        if receive_buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        return made

    connector = aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=make)
    timeout = aiohttp.ClientTimeout(total=None, connect=30.0)
    return aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=read_buffer)
