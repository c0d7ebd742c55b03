"""Framing of answers: server-sent events with keepalives, and disconnects that reach the engine."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from deployments.errors import GatehouseError
from serve_app.api.errors import error_event, log_unexpected
from serve_app.api.middleware import Receive, Scope, Send

T = TypeVar("T")
KEEPALIVE = b": keep-alive\n\n"


class ClientGone(Exception):
    """The client closed its connection; there is nobody left to answer."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client hangs up (`ClientGone`).

    The request's body must have been read: from then on `receive` answers only the disconnect.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (watch, task):
            each.cancel()
        await asyncio.gather(watch, task, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def with_keepalives(chunks: AsyncGenerator[bytes, None], silence_s: float) -> AsyncGenerator[bytes, None]:
    """`chunks`, with a comment after every `silence_s` seconds without one. Comments keep proxies from hanging up."""
    pending: asyncio.Task[bytes | None] | None = None
    try:
        while True:
            pending = pending or asyncio.create_task(_next(chunks))
            done, _ = await asyncio.wait({pending}, timeout=silence_s)
            if not done:
                yield KEEPALIVE
                continue
            chunk, pending = pending.result(), None
            if chunk is None:
                return
            yield chunk
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        await chunks.aclose()


async def _next(chunks: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(chunks, None)


async def with_error_event(
    chunks: AsyncGenerator[bytes, None], request_id: str, on_error: Callable[[BaseException], None]
) -> AsyncGenerator[bytes, None]:
    """`chunks`; when they break off, an error event, so that the stream does not look finished."""
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except GatehouseError as error:
            on_error(error)
            yield error_event(error)
        except Exception as error:
            log_unexpected(error, None, request_id)
            on_error(error)
            yield error_event(error)


class EventStream(Response):
    """A `text/event-stream` reply whose generator is always closed, also when the client hangs up mid-send."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self._chunks = chunks
        self.background = None
        self.status_code = 200
        self.media_type = "text/event-stream"
        self.init_headers({**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head and chunks until they end or the client is gone."""
        async with aclosing(self._chunks):
            try:
                await while_connected(receive, self._send(send))
            except ClientGone:
                return

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def request_id_of(request: Request) -> str:
    """The id that the edge gave this request."""
    return str(request.state.request_id)
