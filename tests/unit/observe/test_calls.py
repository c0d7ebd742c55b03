"""What is read of the two bodies of an engine's call: never a word, and nothing changes because it was read."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("opentelemetry.util.types", reason="the extra otel is not installed; traces were not tried")

from deployments.ports import Counted, EngineStart, Repaired, Usage
from serve_app.observe.calls import Answered, asked
from tests.fakes import JSON_START, SSE_START, call_chunk, chunk, sse


def heard(*items: Any) -> Answered:
    answered = Answered()
    for item in items:
        answered.hear(item)
    return answered


def test_the_numbers_of_a_request_are_told_in_the_words_of_the_conventions() -> None:
    body = {
        "messages": [{"role": "user", "content": "hunter2"}], "stop": ["hunter3"], "user": "hunter4", "max_tokens": 7,
        "temperature": 1, "top_p": 0.5, "top_k": 4, "frequency_penalty": 0.1, "presence_penalty": -0.1, "seed": 11,
        "n": 2, "response_format": {"type": "json_schema", "json_schema": {"name": "hunter5"}},
        "tools": [{"function": {"parameters": {"temperature": 9, "properties": {"seed": 9}}}}],
    }  # fmt: skip
    told = asked(json.dumps(body).encode())
    assert told == {
        "gen_ai.request.max_tokens": 7, "gen_ai.request.temperature": 1.0, "gen_ai.request.top_p": 0.5,
        "gen_ai.request.top_k": 4.0, "gen_ai.request.frequency_penalty": 0.1, "gen_ai.request.presence_penalty": -0.1,
        "gen_ai.request.seed": 11, "gen_ai.request.choice.count": 2, "gen_ai.output.type": "json",
    }  # fmt: skip
    assert isinstance(told["gen_ai.request.temperature"], float)
    assert asked(b'{"input":"hunter","encoding_format":"base64","dimensions":8}') == {
        "gen_ai.request.encoding_formats": ("base64",),
        "gen_ai.embeddings.dimension.count": 8,
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"[]",
        b'"temperature"',
        b'{"temperature":true,"max_tokens":"hunter","seed":null,"n":1,"top_p":[1]}',
        b'{"seed":' + b"9" * 40 + b',"temperature":1e400,"top_k":NaN,"n":' + b"9" * 40 + b"}",
        b'{"encoding_format":"hunter","response_format":"json","max_tokens":1.5}',
        b'{"response_format":{"type":["hunter"]}}',
        b'{"temperature":1,"pad":"' + b"x" * 2**18 + b'"}',
        b"[" * 100_000,
    ],
    ids=["empty", "cut", "list", "text", "types", "large", "words", "nested", "long", "deep"],
)
def test_what_is_not_of_the_form_is_left_out(body: bytes) -> None:
    assert asked(body) == {}


@given(cuts=st.lists(st.integers(0, 900), max_size=12))
def test_a_stream_is_read_however_it_is_cut(cuts: list[int]) -> None:
    text = 'says "finish_reason":"length" and {"id":"hunter"}'
    data = sse(
        chunk(content=text), call_chunk(0, "shell", '{"finish_reason":"length"}'), chunk(finish="tool_calls"), "[DONE]"
    )
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [data[one:two] for one, two in zip(places, places[1:], strict=False)]
    answered = heard(Counted(b"", Usage()), SSE_START, Repaired(("guess",)), *pieces)
    assert answered.attributes == {
        "gen_ai.response.id": json.loads(data.split(b"\n\n")[0][5:])["id"],
        "gen_ai.response.finish_reasons": ["tool_calls"],
    }
    assert answered.error is None


def test_every_choice_has_its_reason_in_the_order_of_choices() -> None:
    choices = [{"index": 1, "finish_reason": "length"}, {"index": 0, "finish_reason": "stop"}]
    whole = json.dumps({"id": "chatcmpl-1", "choices": choices}).encode()
    assert heard(JSON_START, Counted(whole, Usage())).attributes == {
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ["stop", "length"],
    }


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"id":"a b","choices":[{"finish_reason":"hunter2"}]}', {"gen_ai.response.finish_reasons": ["other"]}),
        (b'{"id":7,"choices":{"finish_reason":"stop"}}', {}),
        (b'{"id":null,"choices":[7,{"finish_reason":null},{"index":"0","finish_reason":"stop"}]}', {}),
        (b'{"id":"' + b"x" * 129 + b'"}', {}),
        (b'{"id":"a","pad":"' + b"x" * 2**18 + b'"}', {}),
        (b"not JSON", {}),
    ],
    ids=["words", "types", "members", "long id", "long", "no object"],
)
def test_a_reply_of_another_form_says_less(data: bytes, expected: dict[str, object]) -> None:
    assert heard(JSON_START, data).attributes == expected


@pytest.mark.parametrize(
    ("items", "code"),
    [
        ([EngineStart(400, ()), b'{"error":{"message":"hunter2"}}'], "400"),
        ([SSE_START, sse(chunk(content="par")), sse({"error": {"message": "hunter2", "code": 500}})], "upstream_error"),
        ([SSE_START, sse(chunk(content="par"), chunk(finish="abort"))], "upstream_error"),
        ([SSE_START, sse(chunk(content='"error"'), chunk(finish="stop"))], None),
    ],
    ids=["status", "event", "abort", "text"],
)
def test_a_failure_in_the_reply_is_seen_by_its_code(items: list[Any], code: str | None) -> None:
    answered = heard(*items)
    assert "hunter2" not in repr(answered.attributes)
    assert answered.error == code
