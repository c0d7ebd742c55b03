"""Traces of requests by OpenTelemetry: one span for the request, and one for each part that works for it.

    POST /v1/chat/completions          the request; audit index, route, status
    |- route                           the router's decision
    |- chat demo-20b                   a call of an engine; GenAI attributes, usage when it is settled
    |- gate                            the verdicts on tool calls, with their audit indexes
    `- audit                           a record, with its index

Names follow the GenAI semantic conventions as of `SCHEMA`. Of bodies only numbers, a reply's id and the reasons of its
ends are read (`observe/calls.py`): no word of a prompt, an answer or a tool call can reach a span, and no key, tenant
or session does. What fails is told by its code alone.

The parts are wrapped, so nothing but `app.py` knows that there are traces. OpenTelemetry is imported only where it is
wanted: the extra `otel`, which engines bring along, too.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping, MutableMapping, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from secrets import randbits
from time import time_ns
from typing import Any, Final, cast

from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from deployments.errors import name_of
from deployments.ingress.surface import AsgiApp
from deployments.ingress.trail import Recorder
from deployments.ports import (
    AuditEvent,
    Difficulty,
    Engine,
    EngineCall,
    EngineItem,
    Gate,
    GateContext,
    Grant,
    Ledger,
    ModelId,
    Receipt,
    RouteAsk,
    RouteDecision,
    Served,
    ToolCall,
    Usage,
    Verdict,
    Withheld,
)
from serve_app.observe.calls import Answered, asked
from serve_app.observe.settings import TracingSettings

SCHEMA: Final = "https://opentelemetry.io/schemas/1.37.0"
PROVIDER: Final = "gatehouse"
_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_PATHS: Final = frozenset({*_OPERATIONS, "/v1/responses", "/v1/messages", "/v1/route", "/v1/gate/calls"})
"""What is traced: work for clients. Probes, scrapes and administration are not."""
_HEADERS: Final = {
    b"x-gatehouse-model": "gen_ai.response.model",
    b"x-gatehouse-tier": "gatehouse.tier",
    b"x-gatehouse-route-id": "gatehouse.route.id",
    b"x-gatehouse-route-reason": "gatehouse.route.reason",
    b"x-gatehouse-route-effort": "gatehouse.route.effort",
    b"x-gatehouse-cascade": "gatehouse.cascade",
}
_INDEX: Final = b"x-gatehouse-audit-index"
_SERVER_ERROR: Final = 500
_ID_BITS: Final = 128
_FAILED: Final = "failed"
_UNKNOWN: Final = "_OTHER"  # the conventions' word for a failure without a name of its own
_TRACE_HEADERS: Final = frozenset({b"traceparent", b"tracestate"})
_WIRE: Final = TraceContextTextMapPropagator()

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


@dataclass(slots=True)
class _Inference:
    """A call of an engine whose usage is not known yet. `ended_ns` None: it goes on.

    `outcome` is what became of the request by it; `failed`: its span says why already; `left`: nobody read to its end.
    """

    model: ModelId
    span: Span
    ended_ns: int | None = None
    settled: bool = False
    outcome: str = ""
    failed: bool = False
    left: bool = False

    def close(self) -> None:
        """End the span, as of when the call was over, once nobody will tell more of it."""
        if self.settled and self.ended_ns is not None:
            if self.outcome == _FAILED and not self.failed:  # the reply came, and could not be taken for an answer
                _broken(self.span, _UNKNOWN)
            elif self.left and not self.failed:
                self.span.set_attribute("gatehouse.aborted", True)
            self.span.end(self.ended_ns)


_INFERENCES: ContextVar[list[_Inference] | None] = ContextVar("gatehouse_inferences", default=None)


class _OwnShare(TraceIdRatioBased):
    """A share of requests. Neither the flag of a caller's trace nor its id, which the caller chose, is asked."""

    def should_sample(self, parent_context: Context | None, trace_id: int, *rest: Any, **more: Any) -> SamplingResult:
        return super().should_sample(parent_context, randbits(_ID_BITS), *rest, **more)


class Tracing:
    """Wraps the parts of an ingress replica. Does nothing to what they answer or raise."""

    def __init__(self, settings: TracingSettings, processor: SpanProcessor) -> None:
        share = _OwnShare(settings.ratio)
        sampler = ParentBased(root=share, remote_parent_sampled=share, remote_parent_not_sampled=share)
        resource = Resource({"service.name": settings.service})  # `create` would add what the environment says
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("gatehouse", schema_url=SCHEMA)

    def close(self) -> None:
        """Send what waits, for a few seconds at most; blocks."""
        self._provider.shutdown()

    def start(self, name: str, kind: SpanKind = SpanKind.INTERNAL, context: Context | None = None) -> Span:
        """A span below `context`, or below the request that this task works for."""
        return self._tracer.start_span(name, context, kind)

    @contextmanager
    def span(self, name: str) -> Generator[Span]:
        """A span around work; its failure is told by code."""
        span = self.start(name)
        try:
            yield span
        except BaseException as error:
            fail(span, error)
            raise
        finally:
            span.end()

    def difficulty(self, inner: Difficulty) -> Difficulty:
        """The router, traced."""
        return cast(Difficulty, _Difficulty(self, inner))

    def engine(self, model: ModelId, inner: Engine) -> Engine:
        """An engine, traced; it is told of the trace."""
        return cast(Engine, _Engine(self, inner, model))

    def gate(self, inner: Gate) -> Gate:
        """The gate, traced."""
        return cast(Gate, _Gate(self, inner))

    def ledger(self, inner: Ledger) -> Ledger:
        """The ledger: its settlements say what calls of engines have used."""
        return cast(Ledger, _Ledger(self, inner))

    def recorder(self, inner: Recorder) -> Recorder:
        """The audit trail of requests, traced."""
        return cast(Recorder, _Recorder(self, inner))

    def app(self, inner: AsgiApp) -> AsgiApp:
        """The HTTP app; a caller's `traceparent` is continued."""
        return _Http(self, inner)


def to_collector(settings: TracingSettings, endpoint: str) -> Tracing:
    """What traces an ingress replica and sends it by OTLP over HTTP. Needs the exporter of the extra `otel`."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return Tracing(settings, BatchSpanProcessor(cast(SpanExporter, OTLPSpanExporter(endpoint=endpoint))))


def fail(span: Span, error: BaseException) -> None:
    """Mark a span as failed. Texts of errors may hold prompts: only the code, or the class, is kept."""
    if isinstance(error, Exception):
        _broken(span, name_of(error))
    else:  # whoever waited for it went away
        span.set_attribute("gatehouse.aborted", True)


def _broken(span: Span, code: str) -> None:
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR))


class _Wrapped:
    """Everything that is not traced is the wrapped part's own."""

    def __init__(self, tracing: Tracing, inner: object) -> None:
        self._tracing = tracing
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


class _Difficulty(_Wrapped):
    async def route(self, ask: RouteAsk) -> RouteDecision:
        with self._tracing.span("route") as span:
            decision = await cast(Difficulty, self._inner).route(ask)
            span.set_attributes({
                "gen_ai.request.model": decision.model,
                "gatehouse.tier": decision.tier.value,
                "gatehouse.route.id": decision.route_id,
                "gatehouse.route.reason": decision.reason,
                "gatehouse.route.effort": decision.effort.value,
                "gatehouse.route.mode": decision.mode.value,
            })  # fmt: skip
            return decision


class _Engine(_Wrapped):
    def __init__(self, tracing: Tracing, inner: Engine, model: ModelId) -> None:
        super().__init__(tracing, inner)
        self._model = model

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        inner, operation = cast(Engine, self._inner), _OPERATIONS.get(call.path)
        if operation is None:  # counting tokens, and the like
            async with aclosing(inner.call(call)) as items:
                async for item in items:
                    yield item
            return
        span = self._tracing.start(f"{operation} {self._model}", SpanKind.CLIENT)
        span.set_attributes({
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": self._model,
        })  # fmt: skip
        answered = Answered() if span.is_recording() else None
        if answered is not None:
            span.set_attributes(asked(call.body))
        begun, waiting = _INFERENCES.get(), _Inference(self._model, span)
        if begun is None:
            waiting.settled = True
        else:
            begun.append(waiting)
        headers = dict(call.headers)
        _WIRE.inject(headers, set_span_in_context(span))
        try:
            async with aclosing(inner.call(replace(call, headers=headers))) as items:
                async for item in items:
                    if answered is not None:
                        answered.hear(item)
                    yield item
        except BaseException as error:
            waiting.failed, waiting.left = isinstance(error, Exception), not isinstance(error, Exception)
            if waiting.failed:
                fail(span, error)
            raise
        finally:
            if answered is not None:
                span.set_attributes(answered.attributes)
                if answered.error is not None and not waiting.failed:
                    _broken(span, answered.error)
                    waiting.failed = True
            waiting.ended_ns = time_ns()
            waiting.close()


class _Gate(_Wrapped):
    async def judge(self, context: GateContext, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
        with self._tracing.span("gate") as span:
            verdicts = await cast(Gate, self._inner).judge(context, calls)
            span.set_attributes({
                "gatehouse.gate.decisions": [type(each).__name__.lower() for each in verdicts],
                "gatehouse.gate.risks": [each.risk.value for each in verdicts if not isinstance(each, Withheld)],
                "gatehouse.audit.indexes": [
                    each.receipt.index for each in verdicts if not isinstance(each, Withheld)
                ],
            })  # fmt: skip
            return verdicts


class _Ledger(_Wrapped):
    async def settle(self, grant: Grant, usage: Usage, served: Served | None = None) -> None:
        open_calls = [each for each in _INFERENCES.get() or () if not each.settled]
        mine = [each for each in open_calls if served is None or each.model == served.model]
        if mine and served is not None:
            mine[-1].span.set_attributes({
                "gen_ai.response.model": served.model,
                "gen_ai.usage.input_tokens": usage.input_tokens,
                "gen_ai.usage.output_tokens": usage.output_tokens,
                "gatehouse.usage.cached_tokens": usage.cached_tokens,
                "gatehouse.usage.reasoning_tokens": usage.reasoning_tokens,
                "gatehouse.usage.estimated": usage.estimated,
                "gatehouse.outcome": served.outcome,
            })  # fmt: skip
            mine[-1].outcome = served.outcome
        for each in mine:
            each.settled = True
            each.close()
        await cast(Ledger, self._inner).settle(grant, usage, served)


class _Recorder(_Wrapped):
    async def record(self, event: AuditEvent) -> Receipt | None:
        with self._tracing.span("audit") as span:
            span.set_attribute("gatehouse.audit.event", event.name)
            receipt = await cast(Recorder, self._inner).record(event)
            if receipt is None:
                span.set_attribute("gatehouse.audit.waiting", True)
            else:
                span.set_attribute("gatehouse.audit.index", receipt.index)
            return receipt


class _Http:
    def __init__(self, tracing: Tracing, inner: AsgiApp) -> None:
        self._tracing = tracing
        self._inner = inner

    async def __call__(self, scope: Mapping[str, Any], receive: object, send: _Send) -> None:
        if scope["type"] != "http" or scope["path"] not in _PATHS:
            await self._inner(scope, receive, send)
            return
        came = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _TRACE_HEADERS
        }
        span = self._tracing.start(
            f"{scope['method']} {scope['path']}", SpanKind.SERVER, _WIRE.extract(came, Context())
        )
        span.set_attributes({"http.request.method": scope["method"], "http.route": scope["path"]})

        async def told(message: _Message) -> None:
            if message["type"] == "http.response.start":
                _answered(span, int(message["status"]), message["headers"])
            await send(message)

        before = attach(set_span_in_context(span, Context()))
        begun = _INFERENCES.set([])
        try:
            await self._inner(scope, receive, told)
        except BaseException as error:
            fail(span, error)
            raise
        finally:
            _INFERENCES.reset(begun)
            detach(before)
            span.end()


def _answered(span: Span, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= _SERVER_ERROR:
        span.set_status(Status(StatusCode.ERROR))
    for name, value in headers:
        if name in _HEADERS:
            span.set_attribute(_HEADERS[name], value.decode("latin-1"))
        elif name == _INDEX:
            span.set_attribute("gatehouse.audit.index", int(value))
