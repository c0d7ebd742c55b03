"""What Serve's proxy says when the ingress behind it is gone: an error in the client's dialect, no cut stream.

Serve's proxy runs `middlewares` around itself when the environment of a Ray node names it:
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_app.door:middlewares`. Without it the client of an ingress that dies is
told "Internal Server Error" as plain text, and a stream that was under way just ends, with its connection.
"""

import json
import logging
from dataclasses import replace
from typing import Any, cast

from starlette.middleware import Middleware
from starlette.requests import Request

from deployments.errors import EngineFailed, PartUnavailable
from deployments.ports import Dialect
from serve_app.api.errors import Caller, caller_of, error_response, failure
from serve_app.api.middleware import App, Message, Receive, Scope, Send

_log = logging.getLogger("gatehouse.door")
_GONE = "This part of Gatehouse stopped before it could answer. Please try again."
_CUT = "This part of Gatehouse stopped while it was answering. Please try again."
_OWN_PATHS = "/-/"  # of the proxy itself: health, routes
_END = b"\n\n"
_LAST_WORDS = (b"data: [DONE]", b"event: message_stop", b"event: error", b"event: response.completed",
               b"event: response.incomplete", b"event: response.failed", b'data: {"error"')  # fmt: skip


def middlewares() -> list[Middleware]:
    """What Serve puts around a proxy when it starts."""
    return [Middleware(cast(Any, Door))]


class Door:
    """ASGI middleware around Serve's proxy: a reply that does not come to its end is ended here."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http" or str(scope["path"]).startswith(_OWN_PATHS):
            await self._app(scope, receive, send)
            return
        reply = _Reply(send)
        gone = False

        async def listen() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        failed: Exception | None = None
        try:
            await self._app(scope, listen, reply.send)
        except Exception as error:  # of the proxy itself; its own log has more to say
            failed = error
        if not reply.complete and not gone:
            await reply.end(scope, receive)
        if failed is not None:
            raise failed


class _Reply:
    """One reply on its way out.

    The head of a stream leaves at once, any other head with its body: until then there is still another answer. Of a
    stream only whole events leave, so that one more can follow wherever it breaks off.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._head: Message | None = None
        self._stream = self._foreign = False
        self._begun = False
        self._tail = b""
        self._first = b""
        self._last = b""
        self.complete = False

    async def send(self, message: Message) -> None:
        """Pass on what the proxy sends."""
        if message["type"] == "http.response.start":
            kind = next((value for name, value in message["headers"] if name.lower() == b"content-type"), b"")
            self._stream = kind.startswith(b"text/event-stream")
            # The ingress tells its errors in JSON; an error in plain text is the proxy's own.
            self._foreign = message["status"] >= 400 and kind.startswith(b"text/plain")
            self._head = message
            if self._stream:
                await self._begin()
        elif message["type"] == "http.response.body" and not self._foreign:
            await self._begin()
            more = bool(message.get("more_body", False))
            body = bytes(message.get("body", b""))
            if self._stream:
                body = self._whole_events(body, more)
                if more and not body:
                    return
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            self.complete = not more

    async def end(self, scope: Scope, receive: Receive) -> None:
        """Say what the ingress cannot say any more. A whole reply that has begun can only be broken off."""
        caller = _caller(scope)
        if not self._begun:
            _log.warning("no answer of an ingress to request %s", caller.request_id)
            response = error_response(PartUnavailable(_GONE), caller)
            response.headers["x-request-id"] = caller.request_id
            await response(scope, receive, self._send)
        elif self._stream:
            _log.warning("the ingress of request %s is gone within its answer", caller.request_id)
            last = b"" if self._last.startswith(_LAST_WORDS) else last_event(caller, self._first, self._last)
            await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def _begin(self) -> None:
        if not self._begun and self._head is not None:
            self._begun = True
            await self._send(self._head)

    def _whole_events(self, body: bytes, more: bool) -> bytes:
        """What may leave of a stream: everything at its end, before that what ends with an event."""
        data = self._tail + body
        if not more:
            self._tail = b""
            return data
        if data.endswith(_END):  # almost always
            whole, self._tail = data, b""
        else:
            cut = data.rfind(_END) + len(_END)
            whole, self._tail = (data[:cut], data[cut:]) if cut >= len(_END) else (b"", data)
        if whole:
            # Comments, which keep a stream alive, are none of its events.
            self._first = self._first or next(filter(_is_event, whole.split(_END)), b"")
            self._last = _last_of(whole) or self._last
        return whole


def _is_event(text: bytes) -> bool:
    return bool(text) and not text.startswith(b":")


def _last_of(events: bytes) -> bytes:
    """The last of whole events, without its end; empty when all are comments."""
    end = len(events) - len(_END)
    while end > 0:
        before = events.rfind(_END, 0, end)
        begin = 0 if before < 0 else before + len(_END)
        if _is_event(events[begin:end]):
            return events[begin:end]
        end = begin - len(_END)
    return b""


def last_event(caller: Caller, first: bytes, last: bytes) -> bytes:
    """The event that ends a broken stream in a dialect; `first` and `last` are the stream's own, so far."""
    each = failure(EngineFailed(_CUT), caller)
    match caller.dialect:
        case Dialect.MESSAGES:
            return b"event: error\ndata: " + each.body + _END
        case Dialect.RESPONSES:
            return _response_failed(each.message, first, last)
        case _:
            return b"data: " + each.body + _END


def _response_failed(message: str, first: bytes, last: bytes) -> bytes:
    """`response.failed` with the response that the first event announced, or `error` where there is none."""
    error = {"code": "server_error", "message": message}
    try:
        response, number = _data(first)["response"], int(_data(last)["sequence_number"])
        event = {
            "type": "response.failed",
            "sequence_number": number + 1,
            "response": {**response, "status": "failed", "error": error},
        }
    except (ValueError, KeyError, TypeError):
        event = {"type": "error", "sequence_number": 0, "param": None, **error}
    return f"event: {event['type']}\ndata: {json.dumps(event)}".encode() + _END


def _data(event: bytes) -> dict[str, Any]:
    """The JSON of an event."""
    lines = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
    return cast(dict[str, Any], json.loads(b"".join(lines)))


def _caller(scope: Scope) -> Caller:
    """Whom an error is told. Serve's proxy has given the request an id by now, when it had none."""
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
    return replace(caller_of(Request(scope)), request_id=given)
