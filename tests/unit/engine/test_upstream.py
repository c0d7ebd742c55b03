"""Kind `openai` against a scripted server on the loopback interface, byte by byte."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from deployments.clock import FixedClock
from deployments.engine.settings import FlushSettings
from deployments.engine.upstream import UpstreamReplica, retry_after_s
from deployments.engine.upstream_settings import UpstreamSettings
from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout, GatehouseError, InvalidRequest
from deployments.ingress.opening import Opening
from deployments.ports import EngineCall, EngineInfo, EngineItem, EngineStart, RequestId, SessionId

Answer = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]
SECRET = "sk-very-secret"
CHAT = "/v1/chat/completions"


@dataclass
class Asked:
    """One request as the server saw it."""

    line: str
    headers: dict[str, str]
    body: bytes
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class Server:
    """Answers each request with `answer`; notices when the client closes."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.arrived = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            asked = Asked(line, headers, body)
            self.asked.append(asked)
            self.arrived.set()
            answering = asyncio.create_task(self.answer(asked, writer))
            gone = asyncio.create_task(reader.read())
            await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                asked.gone.set()
            for task in (answering, gone):
                task.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def head(status: int = 200, kind: str = "text/event-stream", *extra: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", "connection: close", *extra]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def plays(*parts: bytes | asyncio.Event) -> Answer:
    """Writes the parts; an event is waited for."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            else:
                await part.wait()

    return answer


def whole(body: object, status: int = 200, *extra: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return plays(head(status, "application/json", f"content-length: {len(data)}", *extra) + data)


def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "theirs", "choices": [choice], **more}


def compact(*events: dict[str, Any] | str) -> bytes:
    """Events as vLLM and Ollama write them."""
    texts = (each if isinstance(each, str) else json.dumps(each, separators=(",", ":")) for each in events)
    return b"".join(b"data: " + text.encode() + b"\n\n" for text in texts)


WHOLE = head(200, "application/json") + b'{"choices":[]}'
HELLO = compact(event({"role": "assistant"}), event({"content": "hel"}), event({"content": "lo"}))
BYE = compact(event({}, "stop"), "[DONE]")


def settings(url: str, **more: object) -> UpstreamSettings:
    given: dict[str, object] = {
        "kind": "openai", "model": "ours", "revision": "r1", "base_url": url, "upstream_model": "theirs",
        "breaker": {"failures": 2, "open_s": 10.0}, "flush": FlushSettings(few_ms=0, some_ms=0, many_ms=0), **more,
    }  # fmt: skip
    return UpstreamSettings.model_validate(given)


@dataclass
class Rig:
    server: Server
    replica: UpstreamReplica
    clock: FixedClock

    def call(self, path: str = CHAT, headers: dict[str, str] | None = None, **body: object) -> Any:
        sent = {"model": "ours", "messages": [{"role": "user", "content": "hi"}], **body}
        return self.replica.call(
            EngineCall(path, headers or {}, json.dumps(sent).encode(), RequestId("rt_1"), SessionId("s"))
        )

    async def all(self, **body: object) -> tuple[EngineStart, bytes]:
        async with aclosing(self.call(**body)) as items:
            start, *rest = [item async for item in items]
        assert isinstance(start, EngineStart)
        return start, b"".join(rest)

    async def stream(self, **body: object) -> list[Any]:
        _, data = await self.all(stream=True, **body)
        return events_of(data)


def events_of(data: bytes) -> list[Any]:
    events = data.decode().split("\n\n")
    assert events.pop() == ""
    assert all(each.startswith("data: ") and "\n" not in each and "\r" not in each for each in events)
    return [each[6:] if each == "data: [DONE]" else json.loads(each[6:]) for each in events]


@asynccontextmanager
async def rig(answer: Answer, secret: str | None = None, **more: object) -> AsyncGenerator[Rig, None]:
    server = Server(answer)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    clock = FixedClock()
    replica = UpstreamReplica(settings(server.url, **more), secret, clock)
    try:
        yield Rig(server, replica, clock)
    finally:
        await replica.aclose()
        listening.close()
        await listening.wait_closed()


# --- what goes out ---------------------------------------------------------------------------------------------------


async def test_the_upstream_sees_its_model_our_key_and_no_header_of_the_client() -> None:
    async with rig(plays(head(), HELLO, BYE), SECRET, drop_fields=["reasoning_effort"]) as it:
        headers = {"authorization": "Bearer gh-client", "cookie": "a=b", "x-api-key": "k", "traceparent": "00-1"}
        async with aclosing(it.call(headers=headers, stream=True, reasoning_effort="low", top_p=0.5)) as items:
            assert [item async for item in items]
        (asked,) = it.server.asked
    assert asked.line == "POST /v1/chat/completions HTTP/1.1"
    assert asked.json == {
        "model": "theirs", "messages": [{"role": "user", "content": "hi"}], "stream": True, "top_p": 0.5
    }  # fmt: skip
    assert asked.headers["authorization"] == f"Bearer {SECRET}"
    assert asked.headers["traceparent"] == "00-1"
    assert asked.headers["content-type"] == "application/json"
    assert {"cookie", "x-api-key", "x-request-id"}.isdisjoint(asked.headers)


async def test_cookies_of_the_upstream_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # nor is a proxy used that the environment names
    reply = {"choices": [], "usage": None}
    async with rig(whole(reply, 200, "set-cookie: a=b; Path=/")) as it:
        await it.all()
        await it.all()
        assert "cookie" not in it.server.asked[1].headers


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("POST", "/v1/responses"), ("POST", "/v1/files")])
async def test_other_paths_are_not_served(method: str, path: str) -> None:
    async with rig(whole({})) as it:
        call = EngineCall(path, {}, b"{}", RequestId("r"), SessionId("s"), method)
        with pytest.raises(InvalidRequest, match="does not serve"):
            await anext(it.replica.call(call))
        assert it.server.asked == []


# --- what comes back -------------------------------------------------------------------------------------------------


async def test_a_compact_stream_comes_back_under_our_name_and_is_otherwise_as_it_was() -> None:
    async with rig(plays(head(), HELLO, BYE)) as it:
        start, data = await it.all(stream=True)
    assert start == EngineStart(200, (("content-type", "text/event-stream; charset=utf-8"),))
    expected = compact(
        event({"role": "assistant", "content": ""}),
        event({"content": "hel"}), event({"content": "lo"}), event({}, "stop"), "[DONE]",
    )  # fmt: skip
    assert data == expected.replace(b'"theirs"', b'"ours"')


async def test_text_that_looks_like_a_model_name_stays() -> None:
    text = 'say "model":"theirs" or {"model": "theirs"}'
    async with rig(plays(head(), HELLO, compact(event({"content": text})), BYE)) as it:
        events = await it.stream()
    assert events[3]["choices"][0]["delta"]["content"] == text


async def test_spaces_carriage_returns_comments_and_any_cut_make_no_difference() -> None:
    rows = [event({"role": "assistant"}), event({"content": "hé\u2028"}), event({}, "stop")]
    lines = b"".join(f"event: x\r\ndata: {json.dumps(row)}\r\n\r\n".encode() for row in rows)
    stream = b"\xef\xbb\xbf: ping\r\n\r\n" + lines + b"data: [DONE]\r\n\r\n"
    async with rig(plays(head(), *(stream[at : at + 1] for at in range(len(stream))))) as it:
        one = await it.stream()
        it.server.answer = plays(head(), stream)
        assert await it.stream() == one
    assert one[1] == event({"content": "hé\u2028"}) | {"model": "ours"}
    assert one[-1] == "[DONE]"


@pytest.mark.parametrize("before", [b"event: message\n", b": hello\n", b"id: 1\r", b"\n", b"\xef\xbb\xbf"])
async def test_no_framing_hides_a_tool_call_from_the_ingress(before: bytes) -> None:
    call = {"index": 0, "id": "a", "function": {"name": "rm", "arguments": "{}"}}
    hidden = before + compact(event({"tool_calls": [call]}))
    async with rig(plays(head(), HELLO, hidden, compact(event({}, "tool_calls"), "[DONE]"))) as it:
        _, data = await it.all(stream=True)
    assert all(row.startswith(b"data: ") for row in data.split(b"\n\n") if row)
    assert data.count(b'"tool_calls":[') == 1


def call_piece(call_id: str | None, name: str | None, arguments: object, **more: object) -> dict[str, Any]:
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"tool_calls": [{"function": function, **({} if call_id is None else {"id": call_id}), **more}]}


@pytest.mark.parametrize(
    "pieces",
    [
        # Ollama: index 0 for every call, full arguments in one piece
        [call_piece("a", "f", '{"x":1}', index=0), call_piece("b", "g", "{}", index=0)],
        # no index at all; arguments as an object
        [call_piece("a", "f", {"x": 1}), call_piece("b", "g", {})],
        # proper indices, in pieces that take turns
        [call_piece("a", "f", "", index=0), call_piece("b", "g", "", index=1),
         call_piece(None, None, '{"x":1}', index=0), call_piece(None, None, "{}", index=1)],
        # indices that begin elsewhere
        [call_piece("a", "f", '{"x"', index=5), call_piece("b", "g", "{}", index=6),
         call_piece(None, None, ":1}", index=5)],
        # id and name in every piece, no index
        [call_piece("a", "f", '{"x"'), call_piece("a", "f", ":1}"), call_piece("b", "g", "{}")],
    ],
)  # fmt: skip
async def test_calls_of_one_choice_are_told_apart(pieces: list[dict[str, Any]]) -> None:
    rows = compact(*(event(piece) for piece in pieces))
    async with rig(plays(head(), HELLO, rows, compact(event({}, "tool_calls"), "[DONE]"))) as it:
        events = await it.stream()
    calls: dict[int, list[str]] = {}
    for row in events[:-1]:
        for piece in row["choices"][0]["delta"].get("tool_calls", ()):
            got = calls.setdefault(piece["index"], ["", "", ""])
            got[0] = piece.get("id") or got[0]
            got[1] = piece["function"].get("name") or got[1]
            got[2] += piece["function"]["arguments"]
    assert [(index, *got[:2], json.loads(got[2])) for index, got in sorted(calls.items())] == [
        (0, "a", "f", {"x": 1}), (1, "b", "g", {})
    ]  # fmt: skip


async def test_a_call_that_is_said_twice_is_kept_once() -> None:
    both = {**call_piece("a", "f", "{}", index=0), "function_call": {"name": "f", "arguments": "{}"}}
    async with rig(plays(head(), HELLO, compact(event(both), event({}, "function_call"), "[DONE]"))) as it:
        events = await it.stream()
    assert "function_call" not in events[3]["choices"][0]["delta"]
    assert events[4]["choices"][0]["finish_reason"] == "tool_calls"


async def test_usage_comes_once_at_the_end_wherever_it_was() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    rows = compact(event({"content": "x"}, usage={**usage, "completion_tokens": 1}), event({}, "stop", usage=usage))
    again = compact(event({}, "stop"), "[DONE]")
    async with rig(plays(head(), HELLO, rows, again)) as it:
        events = await it.stream()
    assert [row for row in events[:-1] if "usage" in row] == [
        {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "ours", "choices": [], "usage": usage}
    ]
    assert [row["choices"][0]["finish_reason"] for row in events[:-2]] == [None, None, None, None, "stop"]


@pytest.mark.parametrize("count", [-1, "7", 1.5, True, 1 << 40])
async def test_usage_that_is_no_count_is_left_out(count: object) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": count}
    async with rig(plays(head(), HELLO, compact(event({}, "stop", usage=usage), "[DONE]"))) as it:
        assert not any("usage" in row for row in (await it.stream())[:-1])
        it.server.answer = whole({"choices": [], "usage": usage})
        assert "usage" not in json.loads((await it.all())[1])


async def test_an_empty_finish_reason_is_none_and_two_reasonings_are_one() -> None:
    row = event({"reasoning": "r", "reasoning_content": "r"}, "")
    async with rig(plays(head(), HELLO, compact(row), BYE)) as it:
        events = await it.stream()
    assert events[3]["choices"][0]["delta"] == {"reasoning": "r"}
    assert events[3]["choices"][0]["finish_reason"] is None


async def test_a_whole_reply_comes_back_in_our_shape() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    message = {"role": "assistant", "content": None, "tool_calls": [call], "function_call": {"name": "f"}}
    async with rig(whole({"model": "theirs", "choices": [{"message": message, "finish_reason": "tool_calls"}]})) as it:
        start, data = await it.all()
    answer = json.loads(data)
    assert start.status == 200
    assert answer["model"] == "ours"
    assert answer["choices"][0]["index"] == 0
    assert answer["choices"][0]["message"] == {
        "role": "assistant", "content": None,
        "tool_calls": [{**call, "function": {"name": "f", "arguments": '{"x": 1}'}}],
    }  # fmt: skip


async def test_the_first_event_does_not_wait_for_the_next() -> None:
    more = asyncio.Event()
    late = FlushSettings(few_ms=1000, some_ms=1000, many_ms=1000)
    answer = plays(head(), compact(event({"content": "a"})), more, BYE)
    async with rig(answer, flush=late) as it, aclosing(it.call(stream=True)) as items:
        assert isinstance(await anext(items), EngineStart)
        assert b'"a"' in await anext(items)
        more.set()
        assert (await anext(items)).endswith(b"data: [DONE]\n\n")


async def test_events_of_other_dialects_keep_their_names() -> None:
    rows = b'event: response.created\ndata: {"type":"response.created","response":{"model":"theirs"}}\n\n'
    last = b'event: response.completed\ndata: {"type":"response.completed","response":{"model":"theirs"}}\n\n'
    async with rig(plays(head(), rows, last), paths=["/v1/responses"]) as it:
        async with aclosing(it.call("/v1/responses", stream=True)) as items:
            data = b"".join([item async for item in items if isinstance(item, bytes)])
        it.server.answer = plays(head(), rows)
        with pytest.raises(EngineFailed, match="before it was complete"):
            [item async for item in it.call("/v1/responses", stream=True)]
    assert data == (rows + last).replace(b"theirs", b"ours")


# --- what goes wrong -------------------------------------------------------------------------------------------------

CALL = compact(event(call_piece("a", "f", "{}", index=0)))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (plays(head(), HELLO), EngineFailed),  # no [DONE]
        (plays(head(), HELLO, compact(event({}, "stop"))), EngineFailed),
        (plays(head(), HELLO, compact("[DONE]")), EngineFailed),  # [DONE] in the middle of a choice
        (plays(head(), HELLO, CALL, compact("[DONE]")), EngineFailed),
        (plays(head(), compact("[DONE]")), EngineFailed),
        (plays(head()), EngineFailed),
        (plays(head(), HELLO, BYE[:20]), EngineFailed),
        (plays(head(), HELLO, compact(event({}, "stop"), event({"content": "more"}))), EngineFailed),
        (plays(head(), HELLO, compact({"error": {"message": "boom " + SECRET, "code": 400}})), EngineFailed),
        (plays(head(), HELLO, b'error: {"code":500}\n\n'), EngineFailed),
        (plays(head(), b"data: {nonsense\n\n"), EngineFailed),
        (plays(head(), b"data: " + b"[" * 100_000 + b"\n\n"), EngineFailed),
        (plays(head(200, "text/event-stream", "content-encoding: gzip"), HELLO, BYE), EngineFailed),
        (plays(head(), *([b": " + b"x" * 4000 + b"\n\n"] * 40)), EngineFailed),  # over max_stream_bytes
        (whole({"choices": []}), EngineFailed),  # not a stream
        (plays(head(200, "text/event-stream", "content-length: 9999"), HELLO), EngineFailed),
        (plays(b"nonsense\r\n\r\n"), EngineFailed),
        (plays(), EngineFailed),
        (whole({"error": {"message": f"bad key {SECRET}"}}, 401), EngineFailed),
        (whole({"error": {"message": "no"}}, 403), EngineFailed),
        (whole({"error": "model 'theirs' not found"}, 404), EngineFailed),
        (whole({"error": {"message": f"API key not valid: {SECRET}"}}, 400), EngineFailed),
        (whole({"error": {"message": f"what is {SECRET}?"}}, 400), EngineFailed),
        (plays(head(302, "text/plain", "location: http://127.0.0.1:1/", "content-length: 0")), EngineFailed),
        (whole({"error": {"message": "CUDA " + SECRET}}, 500), EngineFailed),
        (whole(b"<html>", 502), EngineFailed),
        (whole({"error": {"message": "slow down"}}, 429), EngineOverloaded),
        (whole({}, 503), EngineOverloaded),
    ],
)  # fmt: skip
async def test_what_is_not_the_clients_doing_becomes_an_error_of_ours(
    answer: Answer, error: type[GatehouseError], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gatehouse.upstream")
    async with rig(answer, SECRET, max_stream_bytes=100_000) as it:
        with pytest.raises(error) as caught:
            await it.all(stream=True)
    for text in (str(caught.value), caplog.text):
        assert SECRET not in text
        assert "theirs" not in text
        assert "127.0.0.1" not in text


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"{nonsense"),
        whole([]),
        whole({"model": "theirs"}),
        whole({"error": {"message": "quota"}}),
        whole({"choices": [{"message": {"content": "x" * 5000}}]}),  # over max_json_bytes
        plays(head(200, "application/json", "content-length: 9000"), b"{"),
        plays(head(), HELLO, BYE),  # a stream that nobody asked for
    ],
)
async def test_a_whole_reply_that_cannot_be_read_is_a_failure(answer: Answer) -> None:
    async with rig(answer, max_json_bytes=2048) as it:
        with pytest.raises(EngineFailed):
            await it.all()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, {"error": {"message": "theirs has no tools", "type": "x", "code": "y"}}, "ours has no tools"),
        (400, {"error": "invalid options"}, "invalid options"),
        (422, {"detail": [{"loc": ["body", "n"], "input": "PROMPT"}]}, ""),
        (413, {"message": "whatever"}, "The request is too large for this model."),
        (400, b"<html>", ""),
        (400, {"error": {"type": "exceed_context_size_error", "message": "m", "n_ctx": 512, "n_prompt_tokens": 600}},
         "This model's maximum context length is 512 tokens. However, your request contains 600 input tokens."),
    ],
)  # fmt: skip
async def test_what_is_the_clients_doing_comes_back_as_400_in_openais_shape(
    status: int, body: object, message: str
) -> None:
    async with rig(whole(body, status)) as it:
        for _ in range(5):  # and never opens the breaker
            start, data = await it.all(stream=True)
            assert start.status == 400
            assert json.loads(data)["error"]["message"] == message
        opening = Opening(it.call(stream=True))
        with pytest.raises(GatehouseError) as caught:
            await opening.start(1.0)
        await opening.aclose()
    assert caught.value.code in ("invalid_value", "context_length_exceeded")


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [(None, 2), ("7", 7), ("0", 1), ("-3", 1), ("1e9", 60), ("nan", 2), ("soon", 2),
     ("Thu, 01 Jan 2026 00:00:30 GMT", 30), ("Thu, 01 Jan 2020 00:00:00 GMT", 1)],
)  # fmt: skip
async def test_retry_after_is_respected_within_bounds(header: str | None, wait_s: int) -> None:
    assert retry_after_s(header, FixedClock().now_ms()) == wait_s
    extra = () if header is None else (f"retry-after: {header}",)
    async with rig(whole({}, 429, *extra)) as it:
        for _ in range(5):  # busy is not broken
            with pytest.raises(EngineOverloaded) as caught:
                await it.all()
            assert caught.value.retry_after_s == wait_s


# --- time, room and hanging up ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "more"),
    [
        ((), {"first_byte_s": 0.5}),
        ((head(),), {"first_byte_s": 0.5}),
        ((head(), b": ping\n\n"), {"first_byte_s": 0.5}),
        ((head(), HELLO), {"read_s": 0.5}),
        ((head(), HELLO, b": ping\n\n"), {"read_s": 0.5}),
        ((head(), HELLO), {"request_deadline_s": 0.5}),
    ],
)
async def test_silence_is_a_timeout_at_every_stage(parts: tuple[bytes, ...], more: dict[str, object]) -> None:
    async with rig(plays(*parts, asyncio.Event()), **more) as it:
        with pytest.raises(EngineTimeout):
            await it.all(stream=True)
        for asked in it.server.asked:  # a busy machine may not have got that far
            await asked.gone.wait()


async def test_a_whole_reply_may_take_as_long_as_the_deadline() -> None:
    enough = asyncio.Event()
    async with rig(plays(enough, WHOLE), first_byte_s=0.01, read_s=0.01) as it:
        answering = asyncio.create_task(it.all())
        await it.server.arrived.wait()
        await asyncio.sleep(0.05)  # longer than a stream may be silent
        enough.set()
        start, _ = await answering
        assert start.status == 200


async def test_a_whole_reply_may_not_take_longer_than_the_deadline() -> None:
    async with rig(plays(asyncio.Event()), request_deadline_s=0.1) as it:
        with pytest.raises(EngineTimeout):
            await it.all()
        for asked in it.server.asked:  # a busy machine may not have got that far
            await asked.gone.wait()


async def test_deadlines_cost_no_connection() -> None:
    """Two limits end at the same moment: the second must not disturb how the first gives its connection back."""
    limits = {"max_connections": 1, "pool_s": 0.002, "request_deadline_s": 0.01}
    async with rig(plays(asyncio.Event()), breaker={"failures": 1000, "open_s": 1.0}, **limits) as it:
        for _ in range(200):
            with pytest.raises(EngineTimeout):  # EngineOverloaded once no connection is left
                await it.all()


async def test_hanging_up_while_waiting_for_a_connection_costs_none() -> None:
    """encode/httpcore#1093: a connection that becomes free for a request that is just given up was lost."""
    never = asyncio.Event()
    limits = {"max_connections": 1, "max_queued": 8, "breaker": {"failures": 1000, "open_s": 1.0}, "pool_s": 5.0}
    async with rig(plays(head(), HELLO, never), **limits) as it:
        for turns in range(40):
            busy = [it.call(stream=True) for _ in range(2)]  # one beside the limit, which is the health probe's
            for each in busy:
                assert isinstance(await anext(each), EngineStart)
            waiting = asyncio.create_task(it.all(stream=True))
            await asyncio.sleep(0)
            closing = asyncio.gather(*(each.aclose() for each in busy))
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait((waiting,))
            await closing
        it.server.answer = whole({"choices": []})
        start, _ = await it.all()
        assert start.status == 200


async def test_closing_the_generator_closes_the_connection() -> None:
    async with rig(plays(head(), HELLO, asyncio.Event())) as it:
        items = it.call(stream=True)
        assert isinstance(await anext(items), EngineStart)
        assert await anext(items)
        assert (await it.replica.info()).running == 1
        await items.aclose()
        await it.server.asked[0].gone.wait()
        assert (await it.replica.info()).running == 0


async def test_closing_before_the_first_byte_closes_the_connection() -> None:
    async with rig(plays(asyncio.Event())) as it:
        waiting = asyncio.create_task(it.all(stream=True))
        await it.server.arrived.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await it.server.asked[0].gone.wait()


async def test_a_replica_that_is_closed_breaks_its_streams_visibly() -> None:
    async with rig(plays(head(), HELLO, asyncio.Event())) as it:
        items = it.call(stream=True)
        assert await anext(items)
        assert await anext(items)
        await it.replica.aclose()
        with pytest.raises(EngineFailed, match="before it was complete"):
            await anext(items)


async def test_a_slow_reader_holds_the_upstream_back() -> None:
    row = compact(event({"content": "x" * 60_000}))
    written = 0

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(head() + HELLO)
        for _ in range(400):
            writer.write(row)
            await writer.drain()
            written += len(row)
        writer.write(BYE)
        await writer.drain()

    async with rig(answer) as it, aclosing(it.call(stream=True)) as items:
        assert isinstance(await anext(items), EngineStart)
        first = await anext(items)
        stuck = -1
        while stuck != written:  # until nothing moves any more
            stuck = written
            await asyncio.sleep(0.2)
        assert written < 400 * len(row)
        rest = first + b"".join([item async for item in items])
    assert rest.endswith(b"data: [DONE]\n\n")
    assert rest.count(b'xxx"') == 400


async def test_above_max_queued_requests_are_refused_at_once() -> None:
    async with rig(plays(head(), HELLO, asyncio.Event()), max_queued=1) as it:
        items = it.call(stream=True)
        await anext(items)
        with pytest.raises(EngineOverloaded):
            await it.all(stream=True)
        assert it.replica.record_autoscaling_stats()["unfinished"] == 1.0
        await items.aclose()
        assert len(it.server.asked) == 1


async def test_without_a_free_connection_a_request_is_refused_and_the_breaker_stays_closed() -> None:
    async with rig(plays(head(), HELLO, asyncio.Event()), max_connections=1, pool_s=0.05) as it:
        held = [it.call(stream=True) for _ in range(2)]  # one connection is spare, for the health probe
        for items in held:
            await anext(items)
        for _ in range(4):
            with pytest.raises(EngineOverloaded, match="busy"):
                await it.all(stream=True)
        for items in held:
            await items.aclose()
        it.server.answer = plays(head(), HELLO, BYE)
        assert (await it.stream())[-1] == "[DONE]"


# --- breaker and health ----------------------------------------------------------------------------------------------


async def test_failures_open_the_breaker_and_a_success_after_a_while_closes_it() -> None:
    async with rig(whole({}, 500)) as it:
        for _ in range(2):
            with pytest.raises(EngineFailed):
                await it.all()
        with pytest.raises(EngineOverloaded) as caught:
            await it.all()
        assert caught.value.retry_after_s == 10
        assert len(it.server.asked) == 2
        with pytest.raises(EngineFailed, match="its requests failed"):
            await it.replica.info()
        it.clock.advance(10_000)
        it.server.answer = plays(head(), HELLO, BYE)
        assert (await it.stream())[-1] == "[DONE]"
        assert (await it.stream())[-1] == "[DONE]"
        assert (await it.replica.info()).kind == "openai"


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_what_one_request_can_provoke_does_not_open_the_breaker(status: int) -> None:
    async with rig(whole({"error": {"message": "m"}}, status)) as it:
        for _ in range(5):
            try:
                await it.all()
            except EngineFailed:
                assert status != 400
        assert len(it.server.asked) == 5


async def test_hanging_up_while_half_open_gives_the_place_to_the_next() -> None:
    async with rig(whole({}, 500)) as it:
        for _ in range(2):
            with pytest.raises(EngineFailed):
                await it.all()
        it.clock.advance(10_000)
        it.server.answer = plays(asyncio.Event())
        it.server.arrived.clear()
        waiting = asyncio.create_task(it.all(stream=True))
        await it.server.arrived.wait()
        waiting.cancel()
        await asyncio.wait((waiting,))
        it.server.answer = plays(head(), HELLO, BYE)
        assert (await it.stream())[-1] == "[DONE]"


SILENT = "not answer in time"
MODELS = {"object": "list", "data": [{"id": "other"}, {"id": "theirs"}]}


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (whole({"data": [{"id": "other"}]}), "does not list the model 'theirs'"),
        (whole(b"<html>"), "does not list the model"),
        (whole({}, 401), "refuses our key"),
        (whole({}, 500), "answers 500"),
        (plays(head(301, "text/plain", "location: http://127.0.0.1:1/", "content-length: 0")), "answers 301"),
        (plays(asyncio.Event()), SILENT),
        (plays(b"nonsense\r\n\r\n"), "cannot be read"),
    ],
)
async def test_a_failed_probe_stops_requests_and_shows_in_readiness_but_never_raises(
    answer: Answer, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gatehouse.upstream")
    limits = {"health_timeout_s": 0.2} if trouble == SILENT else {}
    async with rig(answer, SECRET, **limits) as it:
        await it.replica.check_health()
        await it.replica.check_health()
        while not it.server.asked:  # a busy machine may not have got that far
            it.clock.advance(60_000)
            await it.replica.check_health()
        assert it.server.asked[0].line == "GET /v1/models HTTP/1.1"
        assert it.server.asked[0].headers["authorization"] == f"Bearer {SECRET}"
        with pytest.raises(EngineFailed, match=trouble):
            await it.replica.info()
        it.clock.advance(60_000)
        with pytest.raises(EngineOverloaded, match="not available"):
            await it.all()
        it.server.answer = whole(MODELS)
        assert (await answering(it)).model == "ours"
        it.server.answer = plays(head(), HELLO, BYE)
        assert (await it.stream())[-1] == "[DONE]"
    assert [record.message for record in caplog.records if "down" in record.message] == [caplog.records[0].message]
    assert "answers again" in caplog.text
    assert SECRET not in caplog.text


async def answering(it: Rig) -> EngineInfo:
    """Probe until one is answered within its time, which the first need not be on a busy machine."""
    while True:
        await it.replica.check_health()
        with suppress(EngineFailed):
            return await it.replica.info()
        it.clock.advance(60_000)


async def test_probes_keep_their_period_while_all_is_well() -> None:
    async with rig(whole({"data": [{"id": "theirs:latest"}]})) as it:
        for _ in range(3):
            await it.replica.check_health()
        assert len(it.server.asked) == 1
        it.clock.advance(10_000)
        await it.replica.check_health()
        assert len(it.server.asked) == 2


async def test_a_health_path_of_another_kind_only_has_to_answer() -> None:
    async with rig(whole(b"ok"), health_path="/health") as it:
        await it.replica.check_health()
        assert it.server.asked[0].line == "GET /health HTTP/1.1"
        assert (await it.replica.info()).running == 0


def test_certificates_that_cannot_be_read_fail_the_start() -> None:
    with pytest.raises(EngineFailed, match=r"^The file /none\.pem does not hold certificates that can be read\.$"):
        UpstreamReplica(settings("https://localhost", ca_file="/none.pem"), None, FixedClock())


async def test_an_unexpected_error_becomes_ours_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    def handle(request: httpx2.Request) -> httpx2.Response:
        raise RuntimeError(f"{SECRET} and a prompt")

    replica = UpstreamReplica(settings("http://localhost"), SECRET, FixedClock(), httpx2.MockTransport(handle))
    items: AsyncGenerator[EngineItem, None] = replica.call(
        EngineCall(CHAT, {}, b'{"stream":true}', RequestId("r"), SessionId("s"))
    )
    with pytest.raises(EngineFailed):
        await anext(items)
    await replica.aclose()
    assert "RuntimeError" in caplog.text
    assert SECRET not in caplog.text
