import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest

from deployments._metrics import RayQueueMeter
from deployments.clock import FixedClock
from deployments.engine.bridge import AsgiBridge
from deployments.engine.deployment import UpstreamEngine
from deployments.engine.fair import Bounds, Room
from deployments.engine.replica import EngineReplica
from deployments.engine.seating import Seating
from deployments.engine.settings import FairSettings, FlushSettings
from deployments.engine.synthetic import SyntheticSettings, TokenClock
from deployments.engine.upstream import UpstreamReplica
from deployments.engine.upstream_settings import UpstreamSettings
from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout
from deployments.limits import Priority, Share
from deployments.ports import EngineCall, EngineItem, EngineStart, RequestId, SessionId, TenantId

CHAT = "/v1/chat/completions"
EXACT = FairSettings(lookahead=0, reserve=0)
LOW = Share(priority=Priority.LOW)


class Counts:
    """A `QueueMeter` that can be looked at."""

    def __init__(self) -> None:
        self.now = Counter[Priority]()
        self.seated: list[tuple[Priority, float]] = []
        self.refusals = Counter[Priority]()
        self.reminders = 0

    def waiting(self, priority: Priority, change: int) -> None:
        self.now[priority] += change

    def remind(self) -> None:
        self.reminders += 1

    def waited(self, priority: Priority, seconds: float) -> None:
        self.seated.append((priority, seconds))

    def refused(self, priority: Priority) -> None:
        self.refusals[priority] += 1

    def aborted(self, seconds: float) -> None:
        pass


def call(tenant: str = "a", path: str = CHAT, share: Share | None = None, **body: object) -> EngineCall:
    content = json.dumps({"model": "syn", "messages": [{"role": "user", "content": "hi"}]} | body).encode()
    return EngineCall(
        path, {}, content, RequestId("r"), SessionId("s"), tenant=TenantId(tenant), share=share or Share()
    )


def seating(
    seats: int = 1, requests: int = 10, settings: FairSettings = EXACT, meter: Counts | None = None
) -> tuple[Seating, FixedClock]:
    clock = FixedClock()
    return Seating(settings, Bounds(requests), lambda: Room(seats), clock, meter), clock


class Guest:
    """Somebody who takes a seat, and gives it up when told."""

    def __init__(self, where: Seating, asks: EngineCall, deadline_s: float = 60) -> None:
        self.seated = asyncio.Event()
        self.leaves = asyncio.Event()
        self.task = asyncio.create_task(self._run(where, asks, deadline_s))

    async def _run(self, where: Seating, asks: EngineCall, deadline_s: float) -> None:
        async with where.seat(asks, deadline_s):
            self.seated.set()
            await self.leaves.wait()

    async def leave(self) -> None:
        self.leaves.set()
        await self.task


async def waiting(where: Seating, count: int) -> None:
    while where.waiting != count:
        await asyncio.sleep(0)


async def test_a_seat_goes_to_the_tenant_whose_turn_it_is() -> None:
    where, _ = seating()
    first = Guest(where, call("a"))
    await first.seated.wait()
    flood = [Guest(where, call("a")) for _ in range(5)]
    await waiting(where, 5)
    quiet = Guest(where, call("b"))
    await waiting(where, 6)
    await first.leave()
    await quiet.seated.wait()
    assert not any(guest.seated.is_set() for guest in flood)
    for guest in (quiet, *flood):
        await guest.leave()
    assert (where.waiting, where.waiting_tokens) == (0, 0)


async def test_whoever_hangs_up_leaves_the_queue() -> None:
    meter = Counts()
    where, _ = seating(meter=meter)
    first, second, third = (Guest(where, call()) for _ in range(3))
    await first.seated.wait()
    await waiting(where, 2)
    assert meter.now[Priority.NORMAL] == 2
    second.task.cancel()
    await waiting(where, 1)
    await first.leave()
    await third.seated.wait()
    await third.leave()
    assert meter.now[Priority.NORMAL] == 0
    assert len(meter.seated) == 2


async def test_a_seat_given_to_somebody_who_has_just_hung_up_is_not_lost() -> None:
    where, _ = seating()
    first, second, third = (Guest(where, call()) for _ in range(3))
    await first.seated.wait()
    await waiting(where, 2)
    first.leaves.set()
    while not first.task.done():  # the second one has the seat, and has not run since
        await asyncio.sleep(0)
        second.task.cancel()
    await third.seated.wait()
    await third.leave()
    assert second.task.cancelled()


async def test_a_full_queue_refuses_the_newest_of_whoever_has_most_waiting() -> None:
    meter = Counts()
    where, _ = seating(requests=4, meter=meter)
    guests = [Guest(where, call("a", share=LOW)) for _ in range(4)]
    await waiting(where, 3)
    quiet = Guest(where, call("b"))
    with pytest.raises(EngineOverloaded) as caught:
        await guests[3].task
    assert caught.value.retry_after_s == 2
    with pytest.raises(EngineOverloaded):
        await Guest(where, call("a", share=LOW)).task
    assert meter.refusals == {Priority.LOW: 2}
    for guest in (guests[0], quiet, *guests[1:3]):
        await guest.leave()


async def test_a_refused_tenant_is_told_how_long_its_own_queue_is() -> None:
    where, clock = seating(requests=8)
    for _ in range(60):  # what one request takes is learnt
        guest = Guest(where, call("a"))
        await guest.seated.wait()
        clock.advance(30_000)
        await guest.leave()
    flood = [Guest(where, call("a")) for _ in range(8)]
    await waiting(where, 7)
    with pytest.raises(EngineOverloaded) as caught:
        await Guest(where, call("a")).task
    assert caught.value.retry_after_s == 60  # seven of half a minute: at most a minute is said
    for guest in flood:
        await guest.leave()


async def test_waiting_has_a_deadline() -> None:
    where, _ = seating()
    first = Guest(where, call())
    await first.seated.wait()
    with pytest.raises(EngineTimeout):
        await Guest(where, call(), deadline_s=0).task
    assert where.waiting == 0
    await first.leave()


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/chat/completions/render"])
async def test_what_the_tokeniser_answers_needs_no_seat(path: str) -> None:
    where, _ = seating()
    first, asks = Guest(where, call()), Guest(where, call(path=path))
    await first.seated.wait()
    await asks.seated.wait()
    await asks.leave()
    await first.leave()


async def test_without_the_queue_everybody_enters() -> None:
    where, _ = seating(settings=FairSettings(enabled=False))
    guests = [Guest(where, call()) for _ in range(5)]
    for guest in guests:
        await guest.seated.wait()
        await guest.leave()


async def test_keys_of_one_tenant_take_turns() -> None:
    where, _ = seating()
    first = Guest(where, call())
    await first.seated.wait()
    batch = [Guest(where, replace(call(), lane="batch")) for _ in range(3)]
    await waiting(where, 3)
    patient = Guest(where, replace(call(), lane="person", patient=True))
    person = Guest(where, replace(call(), lane="person"))
    await waiting(where, 5)
    await first.leave()
    for guest in (batch[0], patient, person):
        await guest.seated.wait()
        await guest.leave()
    for guest in batch[1:]:
        await guest.leave()


def usage(**counts: int) -> bytes:
    return b'data: {"choices":[],"usage":' + json.dumps(counts).encode() + b"}\n\n"


@pytest.mark.parametrize(
    ("pieces", "work"),
    [
        ([usage(prompt_tokens=1000, completion_tokens=3), b"data: [DONE]\n\n"], 1000 + 12),
        ([usage(prompt_tokens=1000, completion_tokens=3, cached_tokens=900)], 100 + 90 + 12),
        (
            [usage(prompt_tokens=1000, completion_tokens=3)[:40], usage(prompt_tokens=1000, completion_tokens=3)[40:]],
            1012,
        ),
        ([b'data: {"type":"message_delta","usage":{"input_tokens":50,"output_tokens":2}}\n\n'], 58),
        ([b'{"text":"\\"prompt_tokens\\": 999999"}', usage(prompt_tokens=7, completion_tokens=1)], 11),
    ],
    ids=["stream", "cached", "in two pieces", "messages", "words of an answer"],
)
async def test_the_engines_own_counts_are_what_is_charged(pieces: list[bytes], work: int) -> None:
    where, _ = seating()
    async with where.seat(call("a"), 60) as seat:
        seat.hear(EngineStart(200, ()))
        for piece in pieces:
            seat.hear(piece)
    assert where._queue.counter(TenantId("a")) == work


async def test_an_answer_that_breaks_off_is_charged_as_far_as_it_was_heard() -> None:
    where, _ = seating()
    with pytest.raises(EngineFailed):
        await _breaks_off(where, call("a"))
    assert where._queue.counter(TenantId("a")) == len(call("a").body) // 4 + 4 * 3


async def _breaks_off(where: Seating, asks: EngineCall) -> None:
    async with where.seat(asks, 60) as seat:
        seat.hear(b"data: 1\n\ndata: 2\n\n")
        seat.hear(b"data: 3\n\n")
        raise EngineFailed("The model stopped.")


@dataclass
class Metric:
    """A metric of Ray's that remembers what it was told: tags -> values."""

    name: str
    told: dict[tuple[str, ...], list[float]] = field(default_factory=dict[tuple[str, ...], list[float]])

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.told.setdefault(tuple(tags.values()), []).append(value)

    observe = set

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        self.set(value, tags or {})


async def test_metrics_name_the_model_and_the_priority_and_no_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Metric] = {}

    def make(name: str, *rest: object) -> Metric:
        assert rest[-1] == (("model",) if name == "gatehouse_abort_seconds" else ("model", "priority"))
        return made.setdefault(name, Metric(name))

    fakes = SimpleNamespace(Gauge=make, Histogram=make, Counter=make)
    monkeypatch.setattr("deployments._metrics.metrics", fakes)
    clock = FixedClock()
    where = Seating(EXACT, Bounds(2), lambda: Room(1), clock, RayQueueMeter("m"))
    first, second = Guest(where, call("secret-a")), Guest(where, call("secret-a", share=LOW))
    await first.seated.wait()
    await waiting(where, 1)
    with pytest.raises(EngineOverloaded):
        await Guest(where, call("secret-a", share=LOW)).task
    where.remind()  # Ray's gauges last for seconds only
    clock.advance(1500)
    await first.leave()
    await second.leave()
    assert made["gatehouse_queue_waiting"].told == {
        ("m", "high"): [0],
        ("m", "normal"): [1, 0, 0],
        ("m", "low"): [1, 1, 0],
    }
    assert made["gatehouse_queue_seconds"].told == {("m", "normal"): [0.0], ("m", "low"): [1.5]}
    assert made["gatehouse_queue_refused"].told == {("m", "low"): [1.0]}


# --- in front of engines -------------------------------------------------------------------------------------------


def replica(meter: Counts | None = None, **fields: object) -> tuple[TokenClock, EngineReplica]:
    settings = SyntheticSettings.model_validate(
        {
            "model": "syn",
            "revision": "r1",
            "first_token_ms": 0.0,
            "token_ms": 60_000.0,
            "flush": FlushSettings(few_ms=0),
            "fair": EXACT,
        }
        | fields
    )
    core = TokenClock(settings, FixedClock())
    return core, EngineReplica(core, settings, FixedClock(), 0.0, meter)


async def test_a_queue_in_which_nothing_moves_is_told_whenever_serve_asks_for_the_replicas_health() -> None:
    counts = Counts()
    _, engine = replica(counts)
    for asked in (1, 2):
        await engine.check_health()
        assert counts.reminders == asked


class Reader:
    """Reads a reply in a task of its own, as Serve does."""

    def __init__(self, items: AsyncGenerator[EngineItem, None]) -> None:
        self.items: list[EngineItem] = []
        self.task = asyncio.create_task(self._run(items))

    async def _run(self, items: AsyncGenerator[EngineItem, None]) -> None:
        async for item in items:
            self.items.append(item)

    async def begun(self) -> None:
        while not self.items and not self.task.done():
            await asyncio.sleep(0)


async def test_a_replica_gives_its_engine_what_it_has_seats_for_and_counts_the_rest() -> None:
    core, engine = replica(max_num_seqs=2, max_queued=5)
    readers = [Reader(engine.call(call(stream=True))) for _ in range(5)]
    await readers[1].begun()
    assert (core.load().running, core.load().waiting) == (2, 0)
    stats = engine.record_autoscaling_stats()
    assert (stats["unfinished"], stats["running"], stats["waiting"]) == (5.0, 2.0, 3.0)
    assert stats["queued_tokens"] > 0
    assert (await engine.info()).running == 5
    with pytest.raises(EngineOverloaded):
        await Reader(engine.call(call())).task
    quiet = Reader(engine.call(call("b", stream=True)))  # in place of the newest of the others
    with pytest.raises(EngineOverloaded):
        await readers[4].task
    readers[0].task.cancel()
    await quiet.begun()
    assert quiet.items[0] == EngineStart(200, (("content-type", "text/event-stream; charset=utf-8"),))
    for reader in (quiet, *readers[1:4]):
        reader.task.cancel()
    while core.load().unfinished or engine.record_autoscaling_stats()["unfinished"]:
        await asyncio.sleep(0)


async def test_whoever_waits_for_an_engine_that_dies_is_told() -> None:
    core, engine = replica(max_num_seqs=1)
    first, second = (Reader(engine.call(call(stream=True))) for _ in range(2))
    await first.begun()
    core.shutdown()
    first.task.cancel()
    with pytest.raises(EngineFailed):
        await second.task


async def test_an_app_that_fails_gives_its_seat_back() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError(scope["path"])

    core, engine = replica(max_num_seqs=1)
    core._bridge = AsgiBridge(app, FlushSettings(few_ms=0))
    for _ in range(3):
        with pytest.raises(EngineFailed):
            await Reader(engine.call(call())).task
    assert engine.record_autoscaling_stats()["unfinished"] == 0.0


class Upstream(UpstreamEngine):
    """Over a server that a test plays. Serve awaits the destructor, the interpreter does not."""

    async def over(self, replica: UpstreamReplica | None) -> None:
        await self._replica.aclose()
        if replica is not None:
            self._replica = replica

    def __del__(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Nothing."""


async def test_an_upstream_has_as_many_seats_as_connections() -> None:
    """The upstream's own queue is not ours to see, so requests wait here while all connections are taken."""
    open_now, most, go = 0, 0, asyncio.Event()

    async def answer(request: httpx2.Request) -> httpx2.Response:
        nonlocal open_now, most
        del request
        open_now += 1
        most = max(most, open_now)
        await go.wait()
        open_now -= 1
        choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        reply = json.dumps({"object": "chat.completion", "id": "1", "choices": [choice]}).encode()
        return httpx2.Response(200, headers={"content-type": "application/json"}, stream=httpx2.ByteStream(reply))

    settings = UpstreamSettings.model_validate(
        {"model": "up", "revision": "r1", "base_url": "http://127.0.0.1:9/v1", "max_connections": 2, "max_queued": 4}
    )
    engine = Upstream.__new__(Upstream)
    await cast(Any, engine).__init__(settings, dict, FixedClock())
    await engine.over(UpstreamReplica(settings, None, FixedClock(), httpx2.MockTransport(answer)))
    readers = [Reader(engine.call(call())) for _ in range(4)]
    while most < 2:
        await asyncio.sleep(0)
    assert engine.record_autoscaling_stats()["waiting"] == 2.0
    with pytest.raises(EngineOverloaded):
        await Reader(engine.call(call())).task
    go.set()
    for reader in readers:
        await reader.task
        assert isinstance(reader.items[0], EngineStart)
    assert most == 2
    assert engine.record_autoscaling_stats()["unfinished"] == 0.0
    await engine.over(None)
