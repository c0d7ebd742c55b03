"""The endpoints that generate, in every dialect but that of the Responses API, which also keeps what it said."""

import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from deployments.errors import EngineFailed, InvalidRequest
from deployments.ingress.dialects.stream import COMMENT
from deployments.ingress.dialects.values import ReplyFilter
from deployments.ingress.journey import Ask, Head
from deployments.ingress.surface import Surface
from deployments.ports import Dialect, JsonValue, Principal, RequestId, Risk, Scope
from serve_app.api.auth import presented_key
from serve_app.api.bodies import Intake
from serve_app.api.errors import Caller, caller_of, failure
from serve_app.api.limits import limit_headers
from serve_app.api.metrics import Counters
from serve_app.api.streams import (
    ClientGone,
    EventStream,
    request_id_of,
    while_connected,
    with_error_event,
)

_CLIENT_CLOSED_REQUEST = 499  # nginx's number; only logs and metrics ever see it

Keep = Callable[[ReplyFilter], Coroutine[Any, Any, None]]
"""Called when a reply is complete, before its end leaves; a failure there is a failure of the reply."""


def create_generate_router(server: "Generation") -> APIRouter:
    """The generating endpoints without a state of their own."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await server.answer(request, Dialect.CHAT)

    @router.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await server.answer(request, Dialect.COMPLETIONS)

    @router.post("/v1/messages")
    async def messages(request: Request) -> Response:
        return await server.answer(request, Dialect.MESSAGES)

    @router.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        return await server.answer(request, Dialect.EMBEDDINGS)

    return router


class Generation:
    """From an HTTP request to the reply of the journey, whatever the dialect."""

    def __init__(self, surface: Surface, counters: Counters, intake: Intake) -> None:
        self._surface = surface
        self._counters = counters
        self._intake = intake

    async def read(self, request: Request) -> tuple[Principal, Mapping[str, JsonValue]]:
        """Who asks, and the body: in this order, before a stranger may send megabytes."""
        principal = await self._surface.journey.authenticate(presented_key(request.headers), Scope.INFERENCE)
        return principal, await self._intake.read_object(request)

    async def question(self, request: Request, dialect: Dialect) -> tuple[Principal, Mapping[str, JsonValue]]:
        """The same for a question that nothing is generated to: as whom it goes on behind guardrails, and its words."""
        principal, body = await self.read(request)
        request_id = RequestId(request_id_of(request))
        asked = await self._surface.journey.screened(principal, request_id, dialect, body)
        return asked.principal, asked.body

    async def answer(self, request: Request, dialect: Dialect) -> Response:
        """The reply to a request that brings all it needs."""
        _, body = await self.read(request)
        return await self.reply(request, self.ask(request, dialect, body))

    def ask(
        self, request: Request, dialect: Dialect, body: Mapping[str, JsonValue], reply_id: str | None = None
    ) -> Ask:
        """The request as the journey takes it."""
        return Ask(
            dialect=dialect,
            request_id=RequestId(request_id_of(request)),
            key=presented_key(request.headers),
            headers=request.headers,
            body=body,
            risk=_risk(request),
            reply_id=reply_id,
        )

    async def reply(self, request: Request, ask: Ask, keep: Keep | None = None) -> Response:
        """The whole reply, or a stream once its status is certain; `keep` sees it before its end leaves."""
        began_s = time.perf_counter()
        caller = caller_of(request)
        items = self._surface.journey.answer(ask)
        try:
            response = await while_connected(request.receive, self._reply(items, ask, caller, keep))
        except ClientGone:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        response.headers["openai-processing-ms"] = str(round((time.perf_counter() - began_s) * 1000))
        if caller.dialect is Dialect.MESSAGES:
            response.headers["request-id"] = ask.request_id
        return response

    async def _reply(
        self, items: AsyncGenerator[Head | bytes, None], ask: Ask, caller: Caller, keep: Keep | None
    ) -> Response:
        try:
            head = await anext(items)
            if not isinstance(head, Head):
                raise EngineFailed("The model's answer has no head.")
            limits = limit_headers(head.limits, ask.dialect)
            headers = {**head.headers, **limits}
            chunks = _kept(items, head, keep)
            if not head.stream:
                async with aclosing(chunks):
                    body = b"".join([chunk async for chunk in chunks])
                if held := head.reply().held:
                    headers["x-gatehouse-held"] = str(held)
                self._counters.answered(ask.dialect, head.headers["x-gatehouse-model"])
                return Response(body, 200, headers, "application/json")
        except BaseException:
            await items.aclose()
            raise
        self._counters.answered(ask.dialect, head.headers["x-gatehouse-model"])

        def last_event(error: BaseException) -> bytes:
            self._counters.broken(ask.dialect, error)
            return head.reply().failed(failure(error, caller))

        def keepalive(silent_s: float) -> bytes:
            reply = head.reply()
            # Once the end is written, and waits to be sent, nothing of the dialect may come before it.
            return COMMENT if reply.ended else reply.keepalive(silent_s)

        return EventStream(
            with_error_event(chunks, ask.request_id, last_event),
            items,
            headers,
            self._surface.settings.keepalive_s,
            keepalive,
        )


async def _kept(
    items: AsyncGenerator[Head | bytes, None], head: Head, keep: Keep | None
) -> AsyncGenerator[bytes, None]:
    """The bytes of an answer; `keep` has ended before its last ones are passed on."""
    async with aclosing(items):
        async for item in items:
            if keep is not None and head.reply().final is not None:
                await keep(head.reply())
                keep = None
            if isinstance(item, bytes):
                yield item


def _risk(request: Request) -> Risk | None:
    """The caller's own risk class (`x-gatehouse-risk: R2`); it can only raise what the router sees."""
    value = request.headers.get("x-gatehouse-risk", "").strip().upper()
    if not value:
        return None
    if value not in ("R0", "R1", "R2", "R3"):
        raise InvalidRequest("'x-gatehouse-risk' must be one of R0, R1, R2, R3.", "x-gatehouse-risk")
    return Risk(value)
