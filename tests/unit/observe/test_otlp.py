"""What a collector receives by OTLP over HTTP, as Jaeger and Langfuse take it: read by the protocol's own parser."""

import gzip
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from deployments.ports import EngineCall, EngineStart, RequestId, SessionId
from serve_app.api.factory import create_api
from serve_app.app import make_tracing
from serve_app.observe.settings import TracingSettings
from serve_app.tracing import Tracing
from tests.fakes import (
    BASE,
    KEY,
    SSE_START,
    RuleGate,
    ScriptedEngine,
    Silence,
    World,
    call_chunk,
    chunk,
    json_reply,
    sse,
    stream_reply,
)
from tests.unit.ingress.test_chat_stream import hold_dangerous
from tests.unit.observe.test_tracing import ANSWER, BODY, PARENT, PROMPT, TRACE

pytestmark = pytest.mark.enable_socket


@contextmanager
def collector(received: list[tuple[str, str | None, bytes]]) -> Iterator[str]:
    """A collector's address; what it gets: path, credentials, body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.headers["content-type"] == "application/x-protobuf"
            received.append((self.path, self.headers.get("authorization"), body))
            content = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


Received = list[tuple[str, str | None, bytes]]


async def exported(
    received: Received, world: World, asked: Mapping[str, Any] = BODY, path: str = "/v1/traces", status: int = 200
) -> dict[str, Span]:
    """The spans of one request as a collector got them, by name."""
    with collector(received) as url:
        tracing = make_tracing(TracingSettings(endpoint=f"{url}{path}", service="edge"))
        assert isinstance(tracing, Tracing)
        setattr(world, "engine", tracing.engine(BASE, world.engine))  # noqa: B010 - it is no scripted one any more
        for name in ("difficulty", "ledger", "gate"):
            setattr(world, name, getattr(tracing, name)(getattr(world, name)))
        surface = world.surface()
        transport = httpx2.ASGITransport(tracing.app(create_api(surface)))
        headers = {"authorization": f"Bearer {KEY}", "traceparent": PARENT}
        async with httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers) as http:
            assert (await http.post("/v1/chat/completions", json=asked)).status_code == status
        await surface.journey.drain()
        tracing.close()  # sends what waits
    spans = dict[str, Span]()
    for _, _, body in received:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            [service] = [each.value.string_value for each in resource.resource.attributes if each.key == "service.name"]
            assert service == "edge"
            for scope in resource.scope_spans:
                assert scope.schema_url == "https://opentelemetry.io/schemas/1.37.0"
                for span in scope.spans:
                    assert span.trace_id.hex() == TRACE
                    spans[span.name] = span
        assert PROMPT.encode() not in body
        assert ANSWER.encode() not in body
        assert b"hunter" not in body
        assert KEY.encode() not in body
    return spans


def told(span: Span) -> dict[str, object]:
    """The attributes of a span, in Python's own types."""
    values = dict[str, object]()
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        assert kind is not None
        found = getattr(each.value, kind)
        values[each.key] = [item.string_value for item in found.values] if kind == "array_value" else found
    return values


@pytest.mark.parametrize("path", ["/v1/traces", "/api/public/otel/v1/traces"], ids=["jaeger", "langfuse"])
async def test_a_request_s_trace_arrives_whole_and_says_nothing_of_its_words(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20cGs6c2s=")
    received: Received = []
    asked = {**BODY, "temperature": 0.5, "max_tokens": 64, "stop": ["hunter3"], "response_format": {"type": "text"}}
    spans = await exported(received, World(ScriptedEngine(json_reply(ANSWER, finish="length"))), asked, path)
    assert {(where, credentials) for where, credentials, _ in received} == {(path, "Basic cGs6c2s=")}
    assert spans.keys() == {"POST /v1/chat/completions", "route", f"chat {BASE}"}
    assert told(spans["POST /v1/chat/completions"])["gatehouse.audit.index"] == 0
    call = told(spans[f"chat {BASE}"])
    assert {name: value for name, value in call.items() if name.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gatehouse",
        "gen_ai.request.model": BASE,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 64,
        "gen_ai.output.type": "text",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": BASE,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 5,
    }
    assert "error.type" not in call
    assert spans[f"chat {BASE}"].kind == Span.SPAN_KIND_CLIENT


async def test_a_stream_s_call_says_how_it_ended() -> None:
    pieces = sse(chunk(content=ANSWER[:7]), chunk(content=ANSWER[7:]), chunk(finish="stop"))
    world = World(ScriptedEngine(stream_reply(pieces[:50], pieces[50:200], pieces[200:])))
    call = (await exported([], world, {**BODY, "stream": True}))[f"chat {BASE}"]
    found = told(call)
    assert found["gen_ai.response.finish_reasons"] == ["stop"]
    assert found["gen_ai.response.id"] == "chatcmpl-1"
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (11, 5)
    assert (found["gatehouse.outcome"], call.status.code) == ("completed", Status.STATUS_CODE_UNSET)


async def test_a_held_call_is_the_gate_s_doing_and_no_failure_of_the_model() -> None:
    reply = stream_reply(sse(call_chunk(0, "shell", '{"command":"delete hunter4"}'), chunk(finish="tool_calls")))
    spans = await exported([], World(ScriptedEngine(reply), gate=RuleGate(hold_dangerous)), {**BODY, "stream": True})
    call, gate = told(spans[f"chat {BASE}"]), told(spans["gate"])
    assert gate["gatehouse.gate.decisions"] == ["held"]
    assert call["gen_ai.response.finish_reasons"] == ["tool_calls"]  # the model's own; the client is told `stop`
    assert call["gatehouse.outcome"] == "completed"
    assert not {"error.type", "gatehouse.aborted"} & call.keys()


FAILURES: dict[str, tuple[ScriptedEngine, bool, int, str]] = {
    "status": (ScriptedEngine([EngineStart(503, ()), b'{"error":{"message":"hunter5"}}']), False, 503, "503"),
    "error event": (
        ScriptedEngine([SSE_START, sse(chunk(content="par"), {"error": {"message": "hunter5", "code": 500}})]),
        True, 200, "upstream_error",
    ),
    "given up": (
        ScriptedEngine([SSE_START, sse(chunk(content="par"), chunk(finish="abort"), "[DONE]")]), True, 200,
        "upstream_error",
    ),
    "cut": (ScriptedEngine([SSE_START, sse(chunk(content="par"))]), True, 200, "_OTHER"),
    "unreadable": (ScriptedEngine([SSE_START, sse(chunk(content="par")), b"data: hunter5\n\n"]), True, 200, "_OTHER"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
async def test_a_call_that_failed_says_so_by_a_code(name: str) -> None:
    engine, stream, status, code = FAILURES[name]
    spans = await exported([], World(engine), {**BODY, "stream": stream}, status=status)
    call = spans[f"chat {BASE}"]
    found = told(call)
    assert (found["error.type"], call.status.code, call.status.message) == (code, Status.STATUS_CODE_ERROR, "")
    assert "gatehouse.aborted" not in found
    assert not call.events


async def test_a_call_whose_client_went_away_is_no_failure_either() -> None:
    received: Received = []
    engine = ScriptedEngine([SSE_START, sse(chunk(content="par")), Silence()])
    with collector(received) as url:
        tracing = make_tracing(TracingSettings(endpoint=f"{url}/v1/traces"))
        assert isinstance(tracing, Tracing)
        call = EngineCall("/v1/chat/completions", {}, b"{}", RequestId("r1"), SessionId("s1"))
        items = tracing.engine(BASE, engine).call(call)
        assert isinstance(await anext(items), EngineStart)
        await anext(items)
        await items.aclose()
        tracing.close()
    [(_, _, body)] = received
    [span] = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    found = told(span)
    assert (found["gatehouse.aborted"], span.status.code) == (True, Status.STATUS_CODE_UNSET)
    assert found["gen_ai.response.id"] == "chatcmpl-1"
    assert not {"error.type", "gen_ai.response.finish_reasons"} & found.keys()
