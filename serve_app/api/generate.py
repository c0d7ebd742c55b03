"""`POST /v1/chat/completions` and `POST /v1/completions`."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from deployments.errors import EngineFailed, InvalidRequest
from deployments.ingress.journey import Ask, Head
from deployments.ingress.surface import Surface
from deployments.ports import Dialect, RequestId, Risk, Scope
from serve_app.api.auth import presented_key
from serve_app.api.bodies import read_object
from serve_app.api.metrics import Counters
from serve_app.api.streams import (
    ClientGone,
    EventStream,
    request_id_of,
    while_connected,
    with_error_event,
)

_CLIENT_CLOSED_REQUEST = 499  # nginx's number; only logs and metrics ever see it


def create_generate_router(surface: Surface, counters: Counters) -> APIRouter:
    """The generating endpoints of the OpenAI dialects."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await answer(request, Dialect.CHAT)

    @router.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answer(request, Dialect.COMPLETIONS)

    async def answer(request: Request, dialect: Dialect) -> Response:
        key = presented_key(request.headers)
        await surface.journey.authenticate(key, Scope.INFERENCE)  # before a stranger may send megabytes
        body = await read_object(request, surface.settings.max_body_bytes)
        ask = Ask(
            dialect=dialect,
            request_id=RequestId(request_id_of(request)),
            key=key,
            headers=request.headers,
            body=body,
            risk=_risk(request),
        )
        items = surface.journey.answer(ask)
        try:
            return await while_connected(request.receive, _reply(items, ask, surface, counters))
        except ClientGone:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)

    return router


async def _reply(items: AsyncGenerator[Head | bytes, None], ask: Ask, surface: Surface, counters: Counters) -> Response:
    """The whole reply, or a stream once its status is certain."""
    try:
        head = await anext(items)
        if not isinstance(head, Head):
            raise EngineFailed("The model's answer has no head.")
        if not head.stream:
            async with aclosing(items):
                body = b"".join([item async for item in items if isinstance(item, bytes)])
            counters.answered(ask.dialect, head.headers["x-gatehouse-model"])
            return Response(body, 200, dict(head.headers), "application/json")
    except BaseException:
        await items.aclose()
        raise
    model = head.headers["x-gatehouse-model"]
    counters.answered(ask.dialect, model)
    chunks = with_error_event(_bytes(items), ask.request_id, lambda error: counters.broken(ask.dialect, error))
    return EventStream(chunks, head.headers, surface.settings.keepalive_s)


async def _bytes(items: AsyncGenerator[Head | bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(items):
        async for item in items:
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
