"""Plain ASGI middleware: a request id on every reply, and no bug that shows itself to a client."""

import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import Request

from serve_app.api.errors import caller_of, error_response, log_unexpected

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}\Z")


class Edge:
    """The outermost layer.

    The client's `x-request-id` is taken over when it looks like one, so that both sides' logs meet; else one is made.
    Nothing rests on it being unique: records are keyed by the route id.
    """

    def __init__(self, app: App, sends_request_id: bool = True) -> None:
        """`sends_request_id` is False behind Serve's proxy, which adds the header itself."""
        self._app = app
        self._sends_request_id = sends_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = finished = False

        async def send_with_id(message: Message) -> None:
            nonlocal started, finished
            if message["type"] == "http.response.start":
                started = True
                if self._sends_request_id:
                    message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)
            finished = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            log_unexpected(error, Request(scope), request_id)
            if finished:
                return
            if started:
                raise  # the connection is reset: a reply that broke off must not look complete
            await error_response(error, caller_of(Request(scope)))(scope, receive, send_with_id)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.match(value):
            return str(value.decode("ascii"))
    return f"req_{uuid.uuid4().hex}"
