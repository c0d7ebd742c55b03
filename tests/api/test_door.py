"""A proxy whose ingress is gone tells every client so in its own words, through a real HTTP server."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2
import pytest
import uvicorn

from serve_app.api.middleware import App, Message, Receive, Scope, Send
from serve_app.bench.stream import EventReader
from serve_app.door import Door

_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]
_JSON = [(b"content-type", b"application/json"), (b"content-length", b"20")]
_CHAT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
_CREATED = (
    b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"response":{"id":"resp_1",'
    b'"object":"response","status":"in_progress","error":null,"output":[]}}\n\n'
)
_DELTA = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","sequence_number":4,"delta":"a"}\n\n'
)
_PIECES = {
    "/v1/chat/completions": [_CHAT],
    "/v1/completions": [b'data: {"choices":[{"text":"a"}]}\n\n'],
    "/v1/messages": [b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'],
    "/v1/responses": [_CREATED, b": keepalive\n\n", _DELTA, b": keepalive\n\n"],
}


def start(status: int, headers: Sequence[tuple[bytes, bytes]]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def proxy(*messages: Message) -> App:
    """A proxy that says so much, and then returns, as Serve's does when its replica is gone."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = [*scope["headers"], (b"x-request-id", b"r-1")]
        await receive()
        for message in messages:
            await send(dict(message))

    return app


@asynccontextmanager
async def served(app: App) -> AsyncGenerator[httpx2.AsyncClient, None]:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    running = asyncio.create_task(server.serve([listening]))
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        await running


async def ask(app: App, path: str) -> httpx2.Response:
    async with served(Door(app)) as client:
        return await client.post(path, json={})


def test_serve_takes_what_it_asks_for() -> None:
    from ray.serve._private.http_util import (
        _apply_middlewares,
        call_function_from_import_path,
        validate_http_proxy_callback_return,
    )

    taken = validate_http_proxy_callback_return(call_function_from_import_path("serve_app.door:middlewares"))
    assert isinstance(
        _apply_middlewares(cast(Any, proxy()), cast(Any, taken)), Door
    )  # the outermost: it sees every reply


@pytest.mark.parametrize("path", list(_PIECES))
@pytest.mark.parametrize(
    "said",
    [(), (start(200, _JSON),), (start(503, [(b"content-type", b"text/plain")]), body(b"No replicas", more=False))],
    ids=["nothing", "a head", "its own error"],
)
async def test_an_ingress_that_says_nothing_is_a_refusal_in_the_dialect(path: str, said: Sequence[Message]) -> None:
    reply = await ask(proxy(*said), path)
    assert reply.status_code in (429, 503, 529)
    assert "retry-after" in reply.headers
    assert reply.headers["x-request-id"] == "r-1"
    told = reply.json()
    assert told["error"]["message"]
    assert (told.get("type"), told.get("request_id")) == (("error", "r-1") if "messages" in path else (None, None))


@pytest.mark.parametrize("path", list(_PIECES))
async def test_a_stream_that_breaks_off_ends_with_an_error_event(path: str) -> None:
    pieces = [*_PIECES[path], b'data: {"half of an ev']
    reply = await ask(proxy(start(200, _STREAM), *(body(each) for each in pieces)), path)
    reader = EventReader()
    reader.feed(reply.content)
    assert (reader.error, reader.done, reader.malformed) == (True, False, False)
    assert reply.content.startswith(b"".join(_PIECES[path]))
    assert b"half of an ev" not in reply.content


@pytest.mark.parametrize("before", [0, 1], ids=["at once", "after it was kept alive"])
@pytest.mark.parametrize("comments", [1, 5])
async def test_a_response_that_breaks_off_is_the_one_that_was_begun(before: int, comments: int) -> None:
    pieces = [b": keepalive\n\n" * before, _CREATED, _DELTA, b": keepalive\n\n" * comments]
    reply = await ask(proxy(start(200, _STREAM), body(b"".join(pieces))), "/v1/responses")
    last = json.loads(reply.content.rpartition(b"data: ")[2])
    assert (last["type"], last["sequence_number"]) == ("response.failed", 5)
    assert (last["response"]["id"], last["response"]["status"]) == ("resp_1", "failed")
    assert last["response"]["error"]["code"] == "server_error"


async def test_a_response_that_breaks_off_before_its_first_event_is_an_error() -> None:
    reply = await ask(proxy(start(200, _STREAM), body(b": keepalive\n\n")), "/v1/responses")
    assert json.loads(reply.content.rpartition(b"data: ")[2])["type"] == "error"


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/chat/completions", b"data: [DONE]\n\n"),
        ("/v1/messages", b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
        ("/v1/responses", b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n'),
        ("/v1/chat/completions", b'data: {"error": {"message": "m", "code": "c"}}\n\n'),
    ],
    ids=["done", "message_stop", "response.completed", "an error"],
)
@pytest.mark.parametrize("comments", [0, 5])
async def test_nothing_follows_the_last_event(path: str, last: bytes, comments: int) -> None:
    said = last + b": keepalive\n\n" * comments
    reply = await ask(proxy(start(200, _STREAM), body(said)), path)
    assert reply.content == said


async def test_a_whole_reply_that_breaks_off_does_not_look_complete() -> None:
    with pytest.raises(httpx2.RemoteProtocolError):
        await ask(proxy(start(200, _JSON), body(b'{"half":')), "/v1/chat/completions")


@pytest.mark.parametrize("cut", range(1, len(_CHAT) * 2), ids=str)
async def test_events_arrive_whatever_pieces_they_come_in(cut: int) -> None:
    data = _CHAT + _CHAT + b"data: [DONE]\n\n"
    seen: list[bytes] = []

    async def send(message: Message) -> None:
        seen.append(message.get("body", b""))

    messages = (start(200, _STREAM), body(data[:cut]), body(data[cut:]), body(b"", more=False))
    await Door(proxy(*messages))(_scope(), _nothing, send)
    assert b"".join(seen) == data
    assert all(not each or each.endswith(b"\n\n") for each in seen)


async def test_replies_of_the_ingress_are_passed_on_as_they_are() -> None:
    said = b'{"error": {"message": "no", "type": "x", "param": null, "code": "y"}}'
    head = [(b"content-type", b"application/json"), (b"retry-after", b"7")]
    reply = await ask(proxy(start(503, head), body(said, more=False)), "/v1/chat/completions")
    assert (reply.status_code, reply.content, reply.headers["retry-after"]) == (503, said, "7")


async def test_the_proxy_s_own_pages_are_its_own() -> None:
    plain = [(b"content-type", b"text/plain")]
    reply = await ask(proxy(start(503, plain), body(b"This node is being drained.", more=False)), "/-/healthz")
    assert (reply.status_code, reply.text) == (503, "This node is being drained.")


async def test_nobody_is_told_who_has_hung_up() -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"

    async def send(message: Message) -> None:
        seen.append(message)

    await Door(app)(_scope(), _gone, send)
    assert seen == []


async def test_a_bug_of_the_proxy_is_told_and_not_hidden() -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a bug")

    async def send(message: Message) -> None:
        seen.append(message)

    with pytest.raises(RuntimeError, match="a bug"):
        await Door(app)(_scope(), _nothing, send)
    assert seen[0]["status"] == 503


def _scope() -> Scope:
    return {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _gone() -> Message:
    return {"type": "http.disconnect"}
