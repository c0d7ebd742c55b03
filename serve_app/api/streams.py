"""Framing of answers: server-sent events with keepalives, and disconnects that reach the engine."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from deployments.errors import GatehouseError
from serve_app.api.errors import log_unexpected
from serve_app.api.middleware import Receive, Scope, Send

T = TypeVar("T")


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


async def with_error_event(
    chunks: AsyncGenerator[bytes, None], request_id: str, last_event: Callable[[BaseException], bytes]
) -> AsyncGenerator[bytes, None]:
    """`chunks`; when they break off, the dialect's error event, so that the stream does not look finished."""
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except GatehouseError as error:
            yield last_event(error)
        except Exception as error:
            log_unexpected(error, None, request_id)
            yield last_event(error)


class EventStream(Response):
    """A `text/event-stream` reply whose generator is always closed, also when the client hangs up mid-send.

    After every `silence_s` seconds without a chunk `keepalive` is asked for a sign of life; it is told how long nothing
    but such signs has been sent.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        source: AsyncGenerator[object, None],
        headers: Mapping[str, str],
        silence_s: float,
        keepalive: Callable[[float], bytes],
    ) -> None:
        """`source` is what `chunks` reads: closing a generator that never began closes nothing behind it."""
        self._chunks = chunks
        self._source = source
        self._silence_s = silence_s
        self._keepalive = keepalive
        self.background = None
        self.status_code = 200
        self.media_type = "text/event-stream"
        self.init_headers({**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head and chunks until they end or the client is gone."""
        async with aclosing(self._source), aclosing(self._chunks):
            try:
                await while_connected(receive, self._send(send))
            except ClientGone:
                return

    async def _send(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        sending = asyncio.Lock()
        sent_s = spoke_s = loop.time()

        async def keep_alive() -> None:
            nonlocal sent_s
            while True:
                await asyncio.sleep(sent_s + self._silence_s - loop.time())
                async with sending:
                    if loop.time() - sent_s >= self._silence_s:
                        sign = self._keepalive(loop.time() - spoke_s)
                        await send({"type": "http.response.body", "body": sign, "more_body": True})
                        sent_s = loop.time()

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        keeper = asyncio.create_task(keep_alive())
        try:
            async for chunk in self._chunks:
                async with sending:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                sent_s = spoke_s = loop.time()
            async with sending:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)


def request_id_of(request: Request) -> str:
    """The id that the edge gave this request."""
    return str(request.state.request_id)
