"""One streamed request: every way in which a reply can come and end."""

import asyncio
import itertools
import json
import socket

import aiohttp
import pytest

from serve_app.bench.stream import (
    CONNECTION,
    CUT,
    ERROR_EVENT,
    MALFORMED,
    NO_TEXT,
    OK,
    TIMEOUT,
    Arrival,
    EventReader,
    Sample,
    stream_once,
)  # fmt: skip
from tests.unit.bench.sse import DONE, ROLE, WHOLE, Script, event, serving, usage

ERROR = b'data: {"error": {"message": "m", "type": "t", "param": null, "code": "c"}}\n\n'


async def ask(script: Script, timeout_s: float = 20.0, key: str | None = "k") -> Sample:
    async with serving(script) as url, aiohttp.ClientSession() as session:
        return await stream_once(session, f"{url}/v1/chat/completions", key, {"stream": True}, timeout_s=timeout_s)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
async def test_pieces_of_any_size_make_the_same_sample(size: int) -> None:
    body = b": keep-alive\n\nevent: chunk\r\n" + b"".join(WHOLE).replace(b"\n\n", b"\r\n\r\n")
    sample = await ask(Script([body[at : at + size] for at in range(0, len(body), size)]))
    assert (sample.ending, sample.status, sample.events, sample.text_events) == (OK, 200, 5, 2)
    assert (sample.prompt_tokens, sample.output_tokens, sample.cached_tokens) == (11, 2, 4)
    assert sample.ttft_s is not None
    assert 0 < sample.ttft_s <= sample.e2e_s


async def test_the_key_and_the_body_are_sent() -> None:
    script = Script()
    await ask(script, key="secret")
    ((line, headers, body),) = script.requests
    assert line.startswith("POST /v1/chat/completions")
    assert headers["authorization"] == "Bearer secret"
    assert body == {"stream": True}


async def test_without_a_key_no_header_is_sent() -> None:
    script = Script()
    await ask(script, key=None)
    assert "authorization" not in script.requests[0][1]


@pytest.mark.parametrize(
    ("script", "ending"),
    [
        (lambda: Script((ROLE, event(content="x"), ERROR)), ERROR_EVENT),
        (lambda: Script((event(content="x"), ERROR, DONE)), ERROR_EVENT),
        (lambda: Script((ROLE, event(content="x"))), CUT),
        (lambda: Script((ROLE, event(content="x")), cut=True), CUT),
        (lambda: Script((ROLE, usage(3, 0), DONE)), NO_TEXT),
        (lambda: Script((event(content="x"), b"data: {oops\n\n", DONE)), MALFORMED),
        (lambda: Script((event(content="x"), b"data: [1]\n\n", DONE)), MALFORMED),
        (lambda: Script((b'{"error": {}}',), status=503), "status 503"),
        (lambda: Script((b"{}",), status=429), "status 429"),
    ],
)
async def test_how_a_reply_ends(script, ending: str) -> None:
    sample = await ask(script())
    assert sample.ending == ending
    assert not sample.ok


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        async with aiohttp.ClientSession() as session:
            sample = await stream_once(session, url, None, {})
    assert (sample.ending, sample.status, sample.ttft_s) == (CONNECTION, 0, None)


async def test_a_server_that_stalls_meets_the_deadline() -> None:
    sample, timeout_s = None, 0.15
    while sample is None or not sample.text_events:  # a busy machine may not have got that far
        script, timeout_s = Script(), 2 * timeout_s
        script.wait_before = 2
        sample = await ask(script, timeout_s=timeout_s)
        assert sample.ending == TIMEOUT
    assert sample.text_events == 1


async def test_cancelling_a_request_hangs_up() -> None:
    script = Script()
    script.wait_before = 1
    async with serving(script) as url, aiohttp.ClientSession() as session:
        task = asyncio.create_task(stream_once(session, url, None, {}))
        await script.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        ({"choices": [{"text": "a"}]}, 1),
        ({"choices": [{"text": ""}]}, 0),
        ({"choices": [{"delta": {"reasoning": "a"}}]}, 1),
        ({"choices": [{"delta": {"reasoning_content": "a"}}]}, 1),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, 0),
        ({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}, 0),
        ({"choices": [None, {"delta": None}]}, 0),
        ({"choices": None}, 0),
        ({"type": "response.output_text.delta", "delta": "a"}, 1),
        ({"type": "response.reasoning_text.delta", "delta": "a"}, 1),
        ({"type": "response.function_call_arguments.delta", "delta": "{}"}, 0),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}, 1),
        ({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "a"}}, 1),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": ""}}, 0),
        ({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{}"}}, 0),
    ],
)
def test_what_counts_as_text(chunk: dict, text: int) -> None:
    assert EventReader().feed(b"data: " + json.dumps(chunk).encode() + b"\n\n") == text


@pytest.mark.parametrize(
    ("event", "done", "error", "tokens"),
    [
        (
            {"type": "response.completed", "response": {"usage": {"input_tokens": 3, "output_tokens": 2}}},
            True,
            False,
            2,
        ),
        ({"type": "response.failed", "response": {"error": {"code": "x"}}}, False, True, None),
        ({"type": "message_delta", "delta": {}, "usage": {"input_tokens": 3, "output_tokens": 2}}, False, False, 2),
        ({"type": "message_stop"}, True, False, None),
        ({"type": "error", "error": {"type": "api_error"}}, False, True, None),
    ],
)
def test_how_the_other_dialects_end(event: dict, done: bool, error: bool, tokens: int | None) -> None:
    reader = EventReader()
    reader.feed(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n")
    assert (reader.done, reader.error, reader.usage.get("output_tokens")) == (done, error, tokens)


def test_a_line_without_end_is_not_kept() -> None:
    reader = EventReader()
    for _ in itertools.repeat(None, 5):
        reader.feed(b"x" * (1 << 20))
    assert reader.malformed


def test_gaps_are_shared_by_what_arrived_together() -> None:
    arrivals = (Arrival(0.5, 2), Arrival(0.8, 3), Arrival(0.9, 1))
    sample = Sample(OK, 200, 0.0, 0.5, 1.0, arrivals, events=8, output_tokens=9)
    assert list(sample.chunk_gaps_s()) == pytest.approx([0.3, 0.1])
    assert list(sample.token_gaps_s()) == pytest.approx([0.1, 0.1, 0.1, 0.1])
    assert sample.per_token_s == pytest.approx(0.4 / 8)
    assert sample.tokens == 9


def test_one_token_has_no_gap() -> None:
    sample = Sample(OK, 200, 0.0, 0.5, 1.0, (Arrival(0.5, 1),))
    assert (list(sample.token_gaps_s()), sample.per_token_s, sample.tokens) == ([], None, 1)
