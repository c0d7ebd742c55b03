"""Traces: which spans a request leaves, what they say, and that no word of a prompt is among it."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx2
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed; traces were not tried")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from deployments.errors import EngineFailed
from deployments.ingress.trail import Recorder
from deployments.ports import SYSTEM_TENANT, AuditEvent, EngineCall, EngineItem, ModelId
from serve_app.api.factory import create_api
from serve_app.observe.settings import TracingSettings
from serve_app.tracing import Tracing
from tests.fakes import (
    BASE,
    KEY,
    STRONG,
    RuleGate,
    ScriptedEngine,
    World,
    call_chunk,
    chunk,
    json_reply,
    sse,
    stream_reply,
)
from tests.unit.ingress.test_chat_stream import hold_dangerous

PROMPT, ANSWER = "my password is hunter2", "never tell hunter3"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
BODY = {"model": "auto", "messages": [{"role": "user", "content": PROMPT}]}


class Traced:
    """A world whose parts are traced into memory."""

    def __init__(self, world: World, ratio: float = 1.0) -> None:
        self.memory = InMemorySpanExporter()
        self.tracing = tracing = Tracing(TracingSettings(ratio=ratio), SimpleSpanProcessor(self.memory))
        self.world = world
        self.engine = world.engine
        for name, model in (("engine", BASE), ("strong", STRONG)):
            setattr(world, name, tracing.engine(model, getattr(world, name)))
        for name in ("difficulty", "gate", "ledger"):
            setattr(world, name, getattr(tracing, name)(getattr(world, name)))
        self.surface = world.surface()

    async def post(self, body: Mapping[str, Any] = BODY, path: str = "/v1/chat/completions", **headers: str) -> int:
        transport = httpx2.ASGITransport(self.tracing.app(create_api(self.surface)), raise_app_exceptions=False)
        auth = {"authorization": f"Bearer {KEY}", **headers}
        async with httpx2.AsyncClient(transport=transport, base_url="http://test", headers=auth) as http:
            reply = await http.post(path, json=body)
        await self.surface.journey.drain()
        return reply.status_code

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.memory.get_finished_spans()}

    @property
    def text(self) -> str:
        return "\n".join(span.to_json() for span in self.memory.get_finished_spans())


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


async def test_the_parts_of_a_request_are_below_it_and_it_names_its_audit_index() -> None:
    traced = Traced(World(ScriptedEngine(json_reply(ANSWER))))
    assert await traced.post() == 200
    spans = traced.spans
    assert spans.keys() == {"POST /v1/chat/completions", "route", f"chat {BASE}"}
    request, route, engine = spans["POST /v1/chat/completions"], spans["route"], spans[f"chat {BASE}"]
    assert (request.kind, request.parent) == (SpanKind.SERVER, None)
    assert request.context is not None
    for below in (route, engine):
        assert below.parent is not None
        assert below.parent.span_id == request.context.span_id
    (decided, _) = traced.world.audit.events
    assert decided.name == "route.decided"
    told = attributes(request)
    assert told["gatehouse.audit.index"] == 0
    assert told["gatehouse.route.id"] == decided.data["route_id"] == attributes(route)["gatehouse.route.id"]
    assert (told["http.response.status_code"], told["gen_ai.response.model"]) == (200, BASE)


async def test_a_call_of_an_engine_speaks_the_genai_conventions() -> None:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names

    traced = Traced(World(ScriptedEngine(json_reply(ANSWER))))
    await traced.post()
    span = traced.spans[f"chat {BASE}"]
    told = attributes(span)
    assert span.kind is SpanKind.CLIENT
    assert told[names.GEN_AI_OPERATION_NAME] == "chat"
    assert told[names.GEN_AI_PROVIDER_NAME] == "gatehouse"
    assert told[names.GEN_AI_REQUEST_MODEL] == told[names.GEN_AI_RESPONSE_MODEL] == BASE
    assert (told[names.GEN_AI_USAGE_INPUT_TOKENS], told[names.GEN_AI_USAGE_OUTPUT_TOKENS]) == (11, 5)
    assert told["gatehouse.outcome"] == "completed"
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.37.0"


async def test_streams_are_traced_to_their_end() -> None:
    traced = Traced(World(ScriptedEngine(stream_reply(sse(chunk(content=ANSWER), chunk(finish="stop"))))))
    await traced.post({**BODY, "stream": True})
    span, request = traced.spans[f"chat {BASE}"], traced.spans["POST /v1/chat/completions"]
    assert attributes(span)["gen_ai.usage.output_tokens"] == 5
    assert span.end_time is not None
    assert request.end_time is not None
    assert span.end_time <= request.end_time


async def test_a_callers_trace_is_continued_and_handed_to_the_engine() -> None:
    traced = Traced(World(ScriptedEngine(json_reply(ANSWER))))
    await traced.post(traceparent=PARENT, tracestate="vendor=1")
    request, span = traced.spans["POST /v1/chat/completions"], traced.spans[f"chat {BASE}"]
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == "00f067aa0ba902b7"
    (call,) = traced.engine.calls
    assert span.context is not None
    assert call.headers["traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert call.headers["tracestate"] == "vendor=1"


async def test_an_unreadable_traceparent_begins_a_trace_of_its_own() -> None:
    traced = Traced(World(ScriptedEngine(json_reply(ANSWER))))
    assert await traced.post(traceparent="00-nonsense") == 200
    assert traced.spans["POST /v1/chat/completions"].parent is None


async def test_nobody_else_decides_how_much_is_traced() -> None:
    traced = Traced(World(ScriptedEngine(json_reply(ANSWER))), ratio=0.0)
    assert await traced.post(traceparent=PARENT) == 200
    assert traced.spans == {}
    (call,) = traced.engine.calls
    assert call.headers["traceparent"].startswith(f"00-{TRACE}-")
    assert call.headers["traceparent"].endswith("-00")


@pytest.mark.parametrize("flag", ["00", "01"])
@pytest.mark.parametrize(("drawn", "traced_ids"), [(0, 1), (2**128 - 1, 0)], ids=["drawn", "not drawn"])
async def test_a_caller_can_neither_force_nor_prevent_a_trace(
    monkeypatch: pytest.MonkeyPatch, flag: str, drawn: int, traced_ids: int
) -> None:
    monkeypatch.setattr("serve_app.tracing.randbits", lambda bits: drawn)
    for chosen in ("1".zfill(32), "f" * 32):  # what a share by the caller's id would always take, and never
        traced = Traced(World(ScriptedEngine(json_reply(ANSWER))), ratio=0.5)
        assert await traced.post(traceparent=f"00-{chosen}-00f067aa0ba902b7-{flag}") == 200
        assert len([name for name in traced.spans if name.startswith("POST ")]) == traced_ids


async def test_verdicts_of_the_gate_have_their_audit_indexes() -> None:
    reply = stream_reply(sse(call_chunk(0, "shell", '{"command":"ls"}'), chunk(finish="tool_calls")))
    traced = Traced(World(ScriptedEngine(reply), gate=RuleGate(hold_dangerous)))
    await traced.post({**BODY, "stream": True})
    told = attributes(traced.spans["gate"])
    assert tuple(told["gatehouse.gate.decisions"]) == ("released",)
    assert len(told["gatehouse.audit.indexes"]) == 1


async def test_what_fails_is_told_by_its_code_and_not_by_its_text() -> None:
    class Broken(ScriptedEngine):
        async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
            del call
            raise EngineFailed(PROMPT)
            yield b""

    traced = Traced(World(Broken([])))
    assert await traced.post() == 503
    span, request = traced.spans[f"chat {BASE}"], traced.spans["POST /v1/chat/completions"]
    assert attributes(span)["error.type"] == "upstream_error"
    assert span.status.status_code is request.status.status_code is StatusCode.ERROR
    assert span.events == ()
    assert PROMPT not in traced.text


async def test_no_word_of_a_request_or_an_answer_is_in_a_trace() -> None:
    reply = stream_reply(
        sse(chunk(content=ANSWER), call_chunk(0, "shell", '{"command":"cat hunter4"}'), chunk(finish="tool_calls"))
    )
    traced = Traced(World(ScriptedEngine(reply), gate=RuleGate(hold_dangerous)))
    tools = [{"type": "function", "function": {"name": "shell", "description": "hunter5", "parameters": {}}}]
    assert (
        await traced.post({**BODY, "stream": True, "tools": tools, "user": "hunter6"}, **{"x-request-id": "hunter7"})
        == 200
    )
    assert traced.spans.keys() >= {"gate", "route"}
    assert "hunter" not in traced.text
    assert KEY not in traced.text
    assert "acme" not in traced.text


async def test_probes_and_scrapes_leave_no_trace() -> None:
    traced = Traced(World(ScriptedEngine(json_reply(ANSWER))))
    transport = httpx2.ASGITransport(traced.tracing.app(create_api(traced.surface)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/v1/responses/resp_hunter2")).status_code == 401
    assert traced.spans == {}


async def test_a_record_is_traced_with_its_index() -> None:
    traced = Traced(World(ScriptedEngine([])))
    world = traced.world
    recorder = traced.tracing.recorder(Recorder(world.audit, world.clock, 1.0))
    data = {"config_digest": "0" * 64, "profile": "local", "version": "1", "policy_digest": "0" * 64, "models": ["m:1"]}
    receipt = await recorder.record(
        AuditEvent(event_id="e1", name="config.loaded", at_ms=1, tenant=SYSTEM_TENANT, principal="system", data=data)
    )
    assert receipt is not None
    told = attributes(traced.spans["audit"])
    assert told == {"gatehouse.audit.event": "config.loaded", "gatehouse.audit.index": receipt.index}
    assert recorder.backlog == 0  # what is not traced is the recorder's own


def test_an_endpoint_with_a_password_is_refused() -> None:
    with pytest.raises(ValueError, match="endpoint"):
        TracingSettings(endpoint="http://user:secret@collector:4318/v1/traces")


def test_models_are_wrapped_without_losing_what_they_are() -> None:
    traced = Traced(World(ScriptedEngine([])))
    assert traced.tracing.engine(ModelId("m"), traced.engine).cold() is False
