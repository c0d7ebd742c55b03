"""What a collector receives by OTLP over HTTP, as Jaeger and Langfuse take it: read by the protocol's own parser."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from serve_app.api.factory import create_api
from serve_app.app import make_tracing
from serve_app.observe.settings import TracingSettings
from serve_app.tracing import Tracing
from tests.fakes import BASE, KEY, ScriptedEngine, World, json_reply
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


@pytest.mark.parametrize("path", ["/v1/traces", "/api/public/otel/v1/traces"], ids=["jaeger", "langfuse"])
async def test_a_request_s_trace_arrives_whole_and_says_nothing_of_its_words(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20cGs6c2s=")
    received: list[tuple[str, str | None, bytes]] = []
    with collector(received) as url:
        tracing = make_tracing(TracingSettings(endpoint=f"{url}{path}", service="edge"))
        assert isinstance(tracing, Tracing)
        world = World(ScriptedEngine(json_reply(ANSWER)))
        world.engine, world.difficulty = tracing.engine(BASE, world.engine), tracing.difficulty(world.difficulty)
        world.ledger = tracing.ledger(world.ledger)
        surface = world.surface()
        transport = httpx.ASGITransport(tracing.app(create_api(surface)))
        headers = {"authorization": f"Bearer {KEY}", "traceparent": PARENT}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as http:
            assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200
        await surface.journey.drain()
        tracing.close()  # sends what waits
    assert {(where, credentials) for where, credentials, _ in received} == {(path, "Basic cGs6c2s=")}
    spans = dict[str, dict[str, object]]()
    for _, _, body in received:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            [service] = [each.value.string_value for each in resource.resource.attributes if each.key == "service.name"]
            assert service == "edge"
            for scope in resource.scope_spans:
                assert scope.schema_url == "https://opentelemetry.io/schemas/1.37.0"
                for span in scope.spans:
                    assert span.trace_id.hex() == TRACE
                    spans[span.name] = {
                        each.key: each.value.int_value if each.value.HasField("int_value") else each.value.string_value
                        for each in span.attributes
                    }
        assert PROMPT.encode() not in body
        assert ANSWER.encode() not in body
    assert spans.keys() == {"POST /v1/chat/completions", "route", f"chat {BASE}"}
    assert spans["POST /v1/chat/completions"]["gatehouse.audit.index"] == 0
    assert spans[f"chat {BASE}"]["gen_ai.usage.output_tokens"] == 5
