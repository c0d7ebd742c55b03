"""Answers that are held back, hang-ups that are paid, and what the router is told on the way."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace

import pytest

from deployments.errors import EngineFailed, EngineOverloaded, PartUnavailable
from deployments.ingress.informed import InformedDifficulty
from deployments.ingress.journey import Ask, Head
from deployments.ingress.route_meter import Uncounted
from deployments.ingress.settings import IngressSettings
from deployments.ingress.tiers import Tiers
from deployments.ports import (
    AttemptOutcome,
    CascadeReport,
    Dialect,
    EngineCall,
    EngineItem,
    Feedback,
    RequestId,
    RouteAsk,
    RouteDecision,
    RouteFacts,
    Tier,
)
from tests.cascading import (
    ASKED,
    QUESTION,
    RIGHT,
    TOOLS,
    WRONG,
    Asking,
    Reading,
    nothing_is_owed,
    settled,
    streamed,
    world,
)
from tests.fakes import (
    BASE,
    JSON_START,
    KEY,
    SSE_START,
    STRONG,
    RuleGate,
    Script,
    ScriptedEngine,
    Silence,
    call_chunk,
    chunk,
    json_reply,
    sse,
    stream_reply,
)
from tests.unit.ingress.test_chat_stream import SECRET, hold_dangerous

SOON = IngressSettings(first_byte_s=0.01, record_delay_s=0)
BUFFERED: dict[str, object] = {**ASKED, "stream": True, "route": {"cascade": True, "buffer": True}}
MESSAGES: dict[str, object] = {**BUFFERED, "max_tokens": 900}


class Gated(ScriptedEngine):
    """Answers once it is told to."""

    def __init__(self, *scripts: Script) -> None:
        super().__init__(*scripts)
        self.go = asyncio.Event()

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        self.open += 1
        try:
            await self.go.wait()
        finally:
            self.open -= 1
        async for item in super().call(call):
            yield item


def items_of(
    here: Asking, body: Mapping[str, object], dialect: Dialect = Dialect.CHAT, **headers: str
) -> AsyncGenerator[Head | bytes, None]:
    ask = Ask(dialect, RequestId("req_1"), KEY, headers, body)  # type: ignore[arg-type]
    return here.surface().journey.answer(ask)


async def rest_of(items: AsyncGenerator[Head | bytes, None]) -> bytes:
    return b"".join([item async for item in items if isinstance(item, bytes)])


# --- the status of a stream that is held back


async def begun(engine: Gated) -> None:
    """On a busy machine the head may be sent before the engine is asked."""
    while not engine.open:
        await asyncio.sleep(0)
    assert engine.open == 1


async def test_a_stream_that_is_held_back_begins_before_its_checks_are_done() -> None:
    engine = Gated(streamed(WRONG))
    here = Asking(engine, strong=ScriptedEngine(streamed(RIGHT)), settings=SOON)
    items = items_of(here, BUFFERED)
    head = await anext(items)
    assert isinstance(head, Head)
    assert head.stream
    assert (head.headers["x-gatehouse-cascade"], head.headers["x-gatehouse-model"]) == ("pending", BASE)
    assert "x-gatehouse-audit-index" in head.headers
    await begun(engine)
    assert head.reply().keepalive(60).startswith(b"data: ")  # an event that clients' timers count
    engine.go.set()
    said = await rest_of(items)
    await settled(here)
    assert RIGHT.encode() in said
    assert WRONG.encode() not in said
    assert said.endswith(b"data: [DONE]\n\n")
    assert nothing_is_owed(here)


async def test_what_became_of_it_is_told_to_who_asks_why_also_when_it_was_kept() -> None:
    engine = Gated(streamed(RIGHT))
    here = Asking(engine, settings=SOON)
    items = items_of(here, BUFFERED)
    await anext(items)
    engine.go.set()
    await rest_of(items)
    await settled(here)
    (attempt,) = here.difficulty.attempts
    assert attempt.cascade == CascadeReport(attempt.cascade.route_id, "kept", None, "unknown")


async def test_a_quick_one_has_its_word_in_the_headers() -> None:
    here = world(streamed(WRONG), strong=streamed(RIGHT))
    items = items_of(here, BUFFERED)
    head = await anext(items)
    assert isinstance(head, Head)
    assert head.headers["x-gatehouse-cascade"] == "escalated"
    await rest_of(items)


@pytest.mark.parametrize("error", [EngineFailed("broken"), EngineOverloaded("busy", 2)], ids=["failed", "busy"])
async def test_a_failure_before_the_head_is_a_status_and_after_it_breaks_the_stream(error: Exception) -> None:
    early = items_of(world([SSE_START, error]), BUFFERED)
    with pytest.raises(type(error)):
        await anext(early)
    engine = Gated([SSE_START, error])
    here = Asking(engine, settings=SOON)
    late = items_of(here, BUFFERED)
    assert isinstance(await anext(late), Head)
    engine.go.set()
    with pytest.raises(type(error)):
        await rest_of(late)
    await settled(here)
    assert nothing_is_owed(here)
    assert engine.open == 0


async def test_who_leaves_a_stream_that_is_held_back_stops_the_engine() -> None:
    engine = Gated(streamed(WRONG))
    here = Asking(engine, settings=SOON)
    items = items_of(here, BUFFERED)
    await anext(items)
    await begun(engine)
    await items.aclose()
    await settled(here)
    assert engine.open == 0
    assert here.strong.calls == []
    assert nothing_is_owed(here)


async def test_who_leaves_once_it_is_settled_stops_what_was_not_heard() -> None:
    """A reply too long to be held goes on streaming after its check was given up."""
    long = [SSE_START, sse(chunk(role="assistant", content="")), sse(chunk(content="x" * 400)), Silence()]
    settings = SOON.model_copy(update={"cascade": SOON.cascade.model_copy(update={"max_answer_bytes": 64})})
    engine = Gated(long)
    here = Asking(engine, settings=settings)
    items = items_of(here, BUFFERED)
    await anext(items)
    engine.go.set()
    await anext(items)
    await items.aclose()
    await settled(here)
    assert engine.open == 0


@pytest.mark.parametrize("keepalives", [0, 1])
async def test_a_dialect_with_a_first_event_of_its_own_has_it_once(keepalives: int) -> None:
    engine = Gated(streamed(WRONG))
    here = Asking(engine, strong=ScriptedEngine(streamed(RIGHT)), settings=SOON)
    items = items_of(here, MESSAGES, Dialect.MESSAGES)
    head = await anext(items)
    assert isinstance(head, Head)
    said = b"".join(head.reply().keepalive(60) for _ in range(keepalives))
    engine.go.set()
    said += await rest_of(items)
    assert said.count(b"event: message_start") == said.count(b"event: message_stop") == 1
    assert said.index(b"message_start") < said.index(RIGHT.encode())
    assert WRONG.encode() not in said


# --- the larger tier's time


@dataclass
class Capped(Asking):
    """A tenant whose larger tier's time is counted."""

    def __post_init__(self) -> None:
        class Counting(Reading):
            async def route(self, ask: RouteAsk) -> RouteDecision:
                return replace(await super().route(ask), facts=RouteFacts("general", capped=True), watched=False)

        self.difficulty = Counting()
        self.difficulty.tier = Tier.STRONG


async def test_a_hang_up_tells_how_long_the_larger_tier_was_at_work() -> None:
    here = Capped(ScriptedEngine(), strong=ScriptedEngine([SSE_START, sse(chunk(content="one")), Silence()]))
    items = items_of(here, {"model": "auto", "messages": ASKED["messages"], "stream": True})
    assert isinstance(await anext(items), Head)
    await anext(items)
    here.clock.advance(1_500)
    await items.aclose()
    await settled(here)
    (attempt,) = here.difficulty.attempts
    assert (attempt.tier, attempt.outcome, attempt.ms) == (Tier.STRONG, AttemptOutcome.ABORTED, 1_500)
    (used,) = here.ledger.settled.values()
    assert used.estimated
    assert used.output_tokens > 0


async def test_what_is_counted_of_a_cascade_is_the_second_attempt_alone() -> None:
    class Slow(ScriptedEngine):
        def __init__(self, ms: int, *scripts: Script) -> None:
            super().__init__(*scripts)
            self.ms = ms

        async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
            here.clock.advance(self.ms)
            async for item in super().call(call):
                yield item

    here = Capped(Slow(700, json_reply(WRONG)), strong=Slow(40, json_reply(RIGHT)))
    here.difficulty.tier = Tier.BASE
    items = items_of(here, ASKED)
    await anext(items)
    await rest_of(items)
    await settled(here)
    told = [(each.tier, each.outcome, each.ms) for each in here.difficulty.attempts]
    assert told == [(Tier.BASE, AttemptOutcome.VERIFIER_FAILED, 700), (Tier.STRONG, AttemptOutcome.OK, 40)]


async def test_a_hang_up_on_the_smaller_tier_is_nobody_s_business() -> None:
    here = Capped(ScriptedEngine([JSON_START, Silence()]))
    here.difficulty.tier = Tier.BASE
    asking = asyncio.create_task(anext(items_of(here, {"model": "auto", "messages": ASKED["messages"]})))
    while not here.engine.open:
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await settled(here)
    assert here.difficulty.attempts == []


# --- what a cascade tells


async def test_a_cascade_that_rose_tells_both_decisions() -> None:
    here = world()
    items = items_of(here, ASKED)
    await anext(items)
    await rest_of(items)
    await settled(here)
    first, second = here.difficulty.attempts
    assert second.cascade is None
    report = first.cascade
    assert report is not None
    assert (report.word, report.verdict, report.error_code) == ("escalated", "fail", None)
    assert "arithmetic:false_equation" in report.findings
    assert report.second is not None
    assert (report.second.model, report.second.reason) == (STRONG, "cascade_escalated")
    assert QUESTION not in repr(report)


async def test_a_cascade_whose_larger_model_failed_tells_that() -> None:
    here = world(strong=[EngineOverloaded("busy", 2)])
    items = items_of(here, ASKED)
    await anext(items)
    await rest_of(items)
    await settled(here)
    report = here.difficulty.attempts[0].cascade
    assert report is not None
    assert (report.word, report.why, report.verdict, report.error_code) == (
        "refused", "engine", "fail", "server_is_overloaded",
    )  # fmt: skip
    assert report.second is not None
    assert report.second.model == STRONG


# --- what the router is told before


async def test_the_router_hears_how_the_tiers_are_and_how_long_the_caller_waits() -> None:
    heard: list[RouteAsk] = []

    @dataclass
    class Meter(Uncounted):
        seen: list[str] = field(default_factory=list)

        def decided(self, decision: RouteDecision, seconds: float) -> None:
            self.seen.append(f"{decision.reason} {seconds:.3f}")

        def failed(self, code: str, seconds: float) -> None:
            self.seen.append(code)

        def told(self, said: Feedback) -> None:
            self.seen.append(said.event_id)

    here = world(json_reply(RIGHT))
    here.surface()
    journey, meter = here.surface().journey, Meter()
    states = journey._tier_states
    assert isinstance(states, Tiers)

    class Slow(Reading):
        async def route(self, ask: RouteAsk) -> RouteDecision:
            heard.append(ask)
            here.clock.advance(3)
            if len(heard) == 3:
                raise PartUnavailable("down")
            return await super().route(ask)

    asked = InformedDifficulty(Slow(), states.view, meter, here.clock)
    journey._difficulty = asked
    states.begin(STRONG, True).failed(EngineOverloaded("busy", 9))
    items = items_of(here, ASKED, **{"x-stainless-timeout": "2"})
    await anext(items)
    await rest_of(items)
    assert (heard[0].left_ms, heard[0].tiers[Tier.STRONG].full, heard[0].tiers[Tier.BASE].up) == (2_000, True, True)
    await asked.route(replace(heard[0], dry_run=True))
    assert heard[1].tiers[Tier.STRONG].full
    with pytest.raises(PartUnavailable):
        await asked.route(heard[0])
    assert meter.seen == ["default 0.003", PartUnavailable.code]  # a dry run is not counted


async def test_a_second_attempt_that_would_come_too_late_is_known_to_be() -> None:
    here = world()
    journey = here.surface().journey
    for _ in range(5):
        call = journey._tier_states.begin(STRONG, False)
        here.clock.advance(3_000)
        call.completed()
    ask = Ask(Dialect.CHAT, RequestId("r"), KEY, {"x-stainless-timeout": "10"}, ASKED)  # type: ignore[arg-type]
    asked = here.codecs[Dialect.CHAT].read({"model": "auto", "messages": ASKED["messages"]})  # type: ignore[dict-item]
    began_s = here.clock.monotonic_s()
    assert not journey._late(ask, asked, began_s, STRONG)
    here.clock.advance(7_001)
    assert journey._late(ask, asked, began_s, STRONG)
    assert not journey._late(ask, asked, began_s, BASE)  # nobody knows how long it takes
    assert not journey._late(replace(ask, headers={}), asked, began_s, STRONG)


async def test_what_is_set_aside_is_what_answers_here_need_and_cuts_none() -> None:
    start, data = json_reply("hi")
    whole = json.loads(data)  # type: ignore[arg-type]
    whole["usage"]["completion_tokens"] = 3_000
    here = world([start, json.dumps(whole).encode()])
    plain = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
    for number in range(21):
        items = items_of(here, plain if number < 20 else {**plain, "max_tokens": 9})
        await anext(items)
        await rest_of(items)
        await settled(here)
    reserved = [grant.reserved_tokens for grant in here.ledger.grants.values()]
    items = items_of(here, plain)
    await anext(items)
    await rest_of(items)
    learned = list(here.ledger.grants.values())[-1].reserved_tokens
    assert set(reserved[:20]) == {1_025}
    assert reserved[20] == 10
    assert learned == 3_001
    assert "max_tokens" not in here.engine.body
    assert "max_completion_tokens" not in here.engine.body


async def test_the_time_in_which_a_human_was_waited_for_is_no_work_of_the_model() -> None:
    class Nobody:
        """An approval store that answers nobody for a minute."""

        async def frozen(self) -> list[object]:
            return []

        async def get(self, *_: object) -> object:
            here.clock.advance(60_000)
            raise PartUnavailable("down")

    call = stream_reply(sse(call_chunk(0, "shell", SECRET), chunk(finish="tool_calls")))
    settings = SOON.model_copy(update={"hold_poll_s": 0.001})
    here = Capped(
        ScriptedEngine(), strong=ScriptedEngine(call), gate=RuleGate(hold_dangerous), approvals=Nobody(),
        settings=settings,
    )  # fmt: skip
    here.surface()
    here.ledger.keys.clear()
    here.ledger.add_key(KEY, hold_s=30)
    items = items_of(here, {"model": "auto", "messages": ASKED["messages"], "tools": TOOLS, "stream": True})
    await anext(items)
    assert SECRET.encode() not in await rest_of(items)
    await settled(here)
    (attempt,) = here.difficulty.attempts
    assert (attempt.outcome, attempt.ms) == (AttemptOutcome.OK, 0)
    (end,) = [dict(event.data) for event in here.audit.events if event.name == "generation.finished"]
    assert end["duration_ms"] == 60_000
