"""Scripted ports: an engine that plays what a test wrote down, and the surface around it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.clock import FixedClock
from deployments.gate.canary import Canary
from deployments.ingress.acting import Acting
from deployments.ingress.advice import Advisor
from deployments.ingress.dialects.codecs import make_codecs
from deployments.ingress.dialects.values import Codec, Framing
from deployments.ingress.egress import Reach
from deployments.ingress.inquiry import Inquiries
from deployments.ingress.journey import Journey, RoutedModel
from deployments.ingress.revisions import RevisedEngine, Revisions
from deployments.ingress.settings import IngressSettings
from deployments.ingress.settling import Settler
from deployments.ingress.shadowing import Shadows
from deployments.ingress.surface import ServedModel, Surface
from deployments.ingress.trail import Recorder
from deployments.ingress.window import Window
from deployments.ports import (
    Attempt,
    Dialect,
    Engine,
    EngineCall,
    EngineInfo,
    EngineItem,
    EngineStart,
    Feedback,
    GateContext,
    JsonValue,
    ModelId,
    QueueHealth,
    Receipt,
    Released,
    Risk,
    RouteAsk,
    RouteDecision,
    RouteId,
    RouteRequest,
    TenantId,
    Tier,
    ToolCall,
    ToolResult,
    Verdict,
)
from deployments.rollouts import Rollouts
from router.types import Effort
from serve_app.api.metrics import Counters
from tests.fakes_audit import InMemoryAudit
from tests.fakes_ledger import InMemoryLedger
from tests.fakes_permits import InMemoryPermits
from tests.fakes_responses import InMemoryResponses
from tests.fakes_rollouts import InMemoryRollouts

BASE, STRONG = ModelId("demo-20b"), ModelId("demo-120b")
CANDIDATE = "c" * 64
JSON_START = EngineStart(200, (("content-type", "application/json"),))
SSE_START = EngineStart(200, (("content-type", "text/event-stream; charset=utf-8"),))
KEY = "gh-test-key"
FRAMING = Framing("0" * 32, BASE, 1_767_225_600, Effort.MEDIUM)


@dataclass(frozen=True, slots=True)
class Silence:
    """The engine says nothing until it is closed."""


Script = Sequence[EngineItem | Exception | Silence]


class ScriptedEngine:
    """Implements `ports.Engine`: plays one script per call, the last one again and again."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.calls: list[EngineCall] = []
        self.open = 0
        self.aborted = 0
        self.is_cold = False

    def cold(self) -> bool:
        return self.is_cold

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        self.calls.append(call)
        script = self.scripts[min(len(self.calls), len(self.scripts)) - 1]
        self.open += 1
        finished = False
        try:
            for item in script:
                await asyncio.sleep(0)
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, Silence):
                    await asyncio.Event().wait()
                else:
                    yield item
            finished = True
        finally:
            self.open -= 1
            self.aborted += not finished

    async def info(self) -> EngineInfo:
        return EngineInfo(BASE, "r1", "vllm", 1, (2,), self.open, 0, 4096, 1.0)

    @property
    def body(self) -> dict[str, JsonValue]:
        """The last body the engine was given."""
        return json.loads(self.calls[-1].body)


class GatedEngine(ScriptedEngine):
    """Says nothing before `go` is set."""

    def __init__(self, *scripts: Script) -> None:
        super().__init__(*scripts)
        self.go = asyncio.Event()

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        await self.go.wait()
        async for item in super().call(call):
            yield item


class ChoosingDifficulty:
    """Implements `ports.Difficulty`: honours an explicit model, else answers `tier`."""

    def __init__(self) -> None:
        self.tier = Tier.BASE
        self.watches = True
        self.asks: list[RouteAsk] = []
        self.attempts: list[Attempt] = []

    async def route(self, ask: RouteAsk) -> RouteDecision:
        self.asks.append(ask)
        model = ask.model or (BASE if self.tier is Tier.BASE else STRONG)
        return RouteDecision(
            RouteId(f"rt_{len(self.asks)}"), model, self.tier, ask.request.requested_effort or Effort.MEDIUM, "r1",
            "default", ("default",), 0.25, "0" * 64, self.watches,
        )  # fmt: skip

    async def observe(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    async def explain(self, tenant: TenantId, route_id: RouteId) -> RouteDecision:
        raise AssertionError("not asked in these tests")

    async def feedback(self, said: Feedback) -> None:
        raise AssertionError("not told in these tests")

    async def ready(self) -> bool:
        return True


class RuleGate:
    """Implements `ports.Gate` with one function of the call; without one everything is released as R0."""

    def __init__(self, rule: Callable[[ToolCall], Verdict] | None = None) -> None:
        self.rule = rule or release
        self.judged: list[ToolCall] = []
        self.observed: list[ToolResult] = []

    async def judge(self, context: GateContext, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
        del context
        self.judged += calls
        return [self.rule(call) for call in calls]

    async def observe(self, context: GateContext, results: Sequence[ToolResult]) -> None:
        del context
        self.observed += results


def release(call: ToolCall) -> Released:
    """R0, with the arguments as they are."""
    return Released(call, call.arguments, Risk.R0, ("read_only",), Receipt(7, b"\x07" * 32))


def read_request(body: Mapping[str, JsonValue]) -> RouteRequest:
    """Nothing of the text matters to `ChoosingDifficulty`."""
    del body
    return RouteRequest(turns=())


class Ready:
    """A part that only answers probes."""

    async def ready(self) -> bool:
        return True

    async def health(self) -> QueueHealth:
        return QueueHealth(waiting=0, oldest_s=None, approved_unused=0, unreported=0, frozen=0)


@dataclass
class World:
    """One surface and every fake behind it."""

    engine: ScriptedEngine
    strong: ScriptedEngine = field(default_factory=lambda: ScriptedEngine(json_reply("strong")))
    gate: RuleGate = field(default_factory=RuleGate)
    permits: InMemoryPermits = field(default_factory=InMemoryPermits)
    settings: IngressSettings = field(default_factory=lambda: IngressSettings(record_delay_s=0))
    limit: int = 4096
    strong_is_local: bool = True
    ledger: InMemoryLedger = field(default_factory=InMemoryLedger)
    difficulty: ChoosingDifficulty = field(default_factory=ChoosingDifficulty)
    audit: InMemoryAudit = field(default_factory=InMemoryAudit)
    clock: FixedClock = field(default_factory=FixedClock)
    approvals: Any = field(default_factory=lambda: Ready())
    responses: InMemoryResponses = field(default_factory=InMemoryResponses)
    codecs: Mapping[Dialect, Codec] = field(default_factory=make_codecs)
    extra_models: tuple[RoutedModel, ...] = ()
    classifier: object = None
    rollouts: Any = None
    second: ScriptedEngine | None = None
    """The engine of `CANDIDATE`, a second revision of the base model."""
    _surface: Surface | None = None

    def surface(self) -> Surface:
        """The surface, made once."""
        self._surface = self._surface or self._make()
        return self._surface

    def _make(self) -> Surface:
        self.ledger.add_key(KEY)
        counters = Counters()
        recorder = Recorder(self.audit, self.clock, self.settings.audit_timeout_s)
        engines: dict[ModelId, Engine] = {BASE: self.engine, STRONG: self.strong}
        rollouts: Rollouts = self.rollouts or InMemoryRollouts(self.clock)
        self.rollouts, revisions = rollouts, None
        second = {} if self.second is None else {BASE: self.second}
        if self.second is not None:
            engines[BASE] = RevisedEngine({"r1": self.engine, CANDIDATE: self.second}, "r1")
            revisions = Revisions(rollouts, {BASE: ("r1", CANDIDATE)}, self.clock, self.settings.rollout_stale_s)
        engines |= dict.fromkeys((each.model for each in self.extra_models), self.engine)
        readers = dict.fromkeys(Dialect, read_request)
        windows = {model: Window(self.limit, lambda text: len(text.split())) for model in engines}
        routed = (
            RoutedModel(Tier.BASE, BASE, "r1", True),
            RoutedModel(Tier.STRONG, STRONG, "r1", self.strong_is_local),
            *self.extra_models,
        )
        journey = Journey(
            ledger=self.ledger,
            difficulty=self.difficulty,
            engines=engines,
            gate=self.gate,
            approvals=self.approvals,
            recorder=recorder,
            codecs=self.codecs,
            readers=readers,
            windows=windows,
            meter=counters,
            settings=self.settings,
            clock=self.clock,
            models=routed,
            revisions=revisions,
            shadows=None if revisions is None else Shadows(second, revisions, self.clock),
            acting=Acting(self.settings.act_as),
        )
        tiers = [(each.tier, Reach(each.model, each.local)) for each in routed if each.tier is not None]
        models = tuple(
            ServedModel(model, tier, "vllm", "r1", self.limit, True, 1_767_225_600)
            for model, tier in ((BASE, "20b"), (STRONG, "120b"))
        )
        return Surface(
            journey, Inquiries(self.ledger, Settler(self.ledger, self.clock), engines, windows, routed),
            self.ledger, self.difficulty, self.approvals, self.audit, self.responses, self.codecs, engines,
            models, readers, recorder, counters, self.settings, self.clock, self.classifier, self.gate, self.permits,
            Advisor(engines, tiers, self.ledger, self.approvals, self.clock, self.settings.advice),
            Canary(self.gate, self.approvals, self.clock, self.settings.canary_s), rollouts,
            candidates=second, revisions=revisions,
        )  # fmt: skip


def sse(*chunks: Mapping[str, object] | str) -> bytes:
    """Events as vLLM writes them."""
    return b"".join(
        b"data: " + (c if isinstance(c, str) else json.dumps(c, separators=(",", ":"), ensure_ascii=False)).encode()
        + b"\n\n"
        for c in chunks
    )  # fmt: skip


def chunk(index: int = 0, finish: str | None = None, **delta: object) -> dict[str, object]:
    """One `chat.completion.chunk` in vLLM 0.29's shape."""
    choice: dict[str, object] = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    if finish is not None:
        choice["stop_reason"] = None
    return {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "demo-20b", "choices": [choice]
    }  # fmt: skip


USAGE: dict[str, object] = {
    "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "demo-20b", "choices": [],
    "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16,
              "prompt_tokens_details": {"cached_tokens": 4}},
}  # fmt: skip


def call_chunk(
    index: int, name: str | None = None, arguments: str = "", call_id: str | None = None
) -> dict[str, object]:
    """A tool-call delta; `name` and `call_id` on the first one."""
    function: dict[str, object] = {"arguments": arguments}
    piece: dict[str, object] = {"index": index, "function": function}
    if name is not None:
        function["name"] = name
        piece |= {"id": call_id or f"call_{index}", "type": "function"}
    return chunk(tool_calls=[piece])


def json_reply(content: str | None, calls: Sequence[Mapping[str, object]] = (), finish: str = "stop") -> Script:
    """A whole `chat.completion`."""
    message: dict[str, object] = {"role": "assistant", "content": content, "reasoning": "thinking", "refusal": None}
    if calls:
        message["tool_calls"] = list(calls)
    body = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "demo-20b",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
    }  # fmt: skip
    return [JSON_START, json.dumps(body).encode()]


def stream_reply(*events: bytes) -> Script:
    """A stream that ends properly."""
    return [SSE_START, *events, sse(USAGE, "[DONE]")]
