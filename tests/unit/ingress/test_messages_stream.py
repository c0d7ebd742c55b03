"""Anthropic's replies: what a chat of the engine's becomes, event by event."""

import json
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from deployments.errors import EngineFailed
from deployments.ingress.dialects.messages import SIGNATURE, MessagesCodec, MessagesWriter
from deployments.ingress.dialects.values import Emit, End, Failure, Judge, ReplyFilter
from deployments.ports import ApprovalId, Held, Receipt, Released, Risk, ToolCall, Usage, Verdict
from tests.fakes import FRAMING, USAGE, call_chunk, chunk, release, sse

SECRET = '{"command":"kubectl delete namespace staging"}'
RECEIPT = Receipt(3, b"\x03" * 32)
AUDIT = {"index": 3, "leaf": "03" * 32}
THINKING = {"type": "adaptive"}

TEXT = sse(
    chunk(role="assistant", content=""), chunk(reasoning="Let "), chunk(reasoning="me"), chunk(content="Grüße "),
    chunk(content="\n\n ok"), chunk(finish="stop"), USAGE, "[DONE]",
)  # fmt: skip
CALLS = sse(
    chunk(role="assistant", content=""), chunk(reasoning="I need tools"), chunk(content="Working."),
    call_chunk(0, "shell", ""), call_chunk(0, arguments='{"comm'), call_chunk(0, arguments='and":"git status"}'),
    call_chunk(1, "shell", SECRET), chunk(finish="tool_calls"), USAGE, "[DONE]",
)  # fmt: skip
LENGTH = sse(
    chunk(role="assistant", content=""), call_chunk(0, "shell", SECRET), chunk(content="x", finish="length"), USAGE,
    "[DONE]",
)  # fmt: skip
BACK_AND_FORTH = sse(
    chunk(content="a"), chunk(reasoning="b"), chunk(content="c", reasoning="d"), chunk(finish="stop"), USAGE, "[DONE]",
)  # fmt: skip
RECORDED = [TEXT, CALLS, LENGTH, BACK_AND_FORTH]


def hold(call: ToolCall) -> Verdict:
    return Held(call, ApprovalId("apr_1"), Risk.R2, ("k8s.delete",), False, 1_767_225_600_000, RECEIPT)


def hold_dangerous(call: ToolCall) -> Verdict:
    return hold(call) if "delete" in call.arguments else release(call)


def reply(stream: bool = True, **more: object) -> ReplyFilter:
    body: dict[str, Any] = {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}
    codec = MessagesCodec()
    return codec.filter(codec.read(body), FRAMING)


def shown(stream: bool = True) -> ReplyFilter:
    return reply(stream, thinking=THINKING)


def take(
    filter_: ReplyFilter, pieces: Iterable[bytes], rule: Callable[[ToolCall], Verdict] = release
) -> tuple[bytes, list[ToolCall]]:
    """Feed pieces, take every step; what went out, and what was judged."""
    out, judged = b"", []
    for piece in pieces:
        filter_.feed(piece)
        while (step := filter_.step()) is not None:
            match step:
                case Emit():
                    out += step.data
                case Judge():
                    judged.extend(step.calls)
                    filter_.resolve([rule(call) for call in step.calls])
    return out, judged


def drive(
    filter_: ReplyFilter, pieces: Iterable[bytes], rule: Callable[[ToolCall], Verdict] = release
) -> tuple[bytes, list[ToolCall]]:
    out, judged = take(filter_, pieces, rule)
    filter_.close()
    rest, more = take(filter_, [b""], rule)
    return out + rest, judged + more


def events(out: bytes) -> list[dict[str, Any]]:
    """The events, each of which says its type twice."""
    found = []
    for event in out.decode().split("\n\n")[:-1]:
        head, data = event.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert head == f"event: {value['type']}"
        found.append(value)
    return found


def order(out: bytes) -> list[str]:
    """The events as one word each, with block number and kind."""
    words = []
    for event in events(out):
        kind = event.get("content_block", event.get("delta", {})).get("type")
        words.append(" ".join(str(part) for part in (event["type"], event.get("index"), kind) if part is not None))
    return words


def accumulated(out: bytes) -> dict[str, Any]:
    """The message that a client has in the end."""
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    for event in events(out):
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                assert event["index"] == len(message["content"]) - 1
                block, delta = message["content"][-1], event["delta"]
                if delta["type"] == "input_json_delta":
                    inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
                elif delta["type"] == "signature_delta":
                    block["signature"] += delta["signature"]
                else:
                    key = delta["type"].removesuffix("_delta")
                    block[key] += delta[key]
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
                if "x_gatehouse" in event:
                    message["x_gatehouse"] = event["x_gatehouse"]
            case _:
                pass
    for number, arguments in inputs.items():
        message["content"][number]["input"] = json.loads(arguments)
    return message


def engine_json(content: str | None, arguments: tuple[str, ...] = (), finish: str = "stop", **more: Any) -> bytes:
    calls = [
        {"id": f"call_{number}", "type": "function", "function": {"name": "shell", "arguments": each}}
        for number, each in enumerate(arguments)
    ]
    message = {"role": "assistant", "content": content, "reasoning_content": "I need tools", "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": finish, **more}
    return json.dumps({"choices": [choice], "usage": USAGE["usage"]}).encode()


# --- the stream --------------------------------------------------------------------------------------------------


def test_thinking_and_text_leave_as_blocks_in_order() -> None:
    out, _ = drive(shown(), [TEXT])
    assert order(out) == [
        "message_start",
        "content_block_start 0 thinking", "content_block_delta 0 thinking_delta",
        "content_block_delta 0 thinking_delta", "content_block_delta 0 signature_delta", "content_block_stop 0",
        "content_block_start 1 text", "content_block_delta 1 text_delta", "content_block_delta 1 text_delta",
        "content_block_stop 1",
        "message_delta", "message_stop",
    ]  # fmt: skip


def test_the_bytes_of_a_short_reply() -> None:
    out, _ = drive(reply(), [sse(chunk(content="é"), chunk(finish="stop"), USAGE, "[DONE]")])
    zero = '"usage":{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}'
    used = zero.replace('input_tokens":0,"cache_c', 'input_tokens":7,"cache_c').replace(
        '"cache_read_input_tokens":0,"output_tokens":0', '"cache_read_input_tokens":4,"output_tokens":5'
    )
    assert out.decode() == (
        'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_' + "0" * 32 + '","type":"message",'
        '"role":"assistant","model":"' + FRAMING.model + '","content":[],' + zero + ',"stop_reason":null,'
        '"stop_sequence":null}}\n\n'
        'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        '"content_block":{"type":"text","text":""}}\n\n'
        'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        '"delta":{"type":"text_delta","text":"é"}}\n\n'
        'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
        'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
        + used + "}\n\n"
        'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )  # fmt: skip


def test_usage_leaves_out_what_came_from_the_cache() -> None:
    out, _ = drive(reply(), [TEXT])
    assert events(out)[-2]["usage"] == {
        "input_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 5
    }  # fmt: skip


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
def test_thinking_is_shown_only_to_those_who_asked(thinking: object) -> None:
    out, _ = drive(reply(thinking=thinking), [TEXT])
    assert accumulated(out)["content"] == [{"type": "text", "text": "Grüße \n\n ok"}]
    assert b"Let" not in out


def test_hidden_thinking_does_not_part_the_text() -> None:
    out, _ = drive(reply(), [BACK_AND_FORTH])
    assert accumulated(out)["content"] == [{"type": "text", "text": "ac"}]


def test_thinking_between_texts_parts_them() -> None:
    out, _ = drive(shown(), [BACK_AND_FORTH])
    assert [block["type"] for block in accumulated(out)["content"]] == ["text", "thinking", "text"]


@pytest.mark.parametrize("recorded", RECORDED)
def test_any_chunking_gives_the_same_bytes(recorded: bytes) -> None:
    rng = random.Random(7)
    whole = drive(shown(), [recorded], hold_dangerous)
    for _ in range(200):
        cuts = sorted(rng.randint(0, len(recorded)) for _ in range(rng.randint(0, 40)))
        pieces = [recorded[a:b] for a, b in zip([0, *cuts], [*cuts, len(recorded)], strict=True)]
        assert drive(shown(), pieces, hold_dangerous) == whole


@pytest.mark.parametrize("cut", [len(TEXT) - 1, len(TEXT) - len(b"data: [DONE]\n\n"), len(TEXT) // 2, 10])
def test_a_truncated_stream_never_looks_complete(cut: int) -> None:
    filter_ = shown()
    out, _ = take(filter_, [TEXT[:cut]])
    with pytest.raises(EngineFailed):
        filter_.close()
    assert b"message_stop" not in out
    assert b"message_delta" not in out


@pytest.mark.parametrize(
    ("finish", "stop_reason", "reason", "sequence"),
    [
        ("stop", None, "end_turn", None),
        ("stop", "END", "stop_sequence", "END"),
        ("stop", 200012, "end_turn", None),
        ("length", None, "max_tokens", None),
        ("content_filter", None, "refusal", None),
        ("tool_calls", None, "end_turn", None),
    ],
)
def test_reasons_to_stop(finish: str, stop_reason: object, reason: str, sequence: str | None) -> None:
    last = chunk(finish=finish)
    last["choices"][0]["stop_reason"] = stop_reason  # type: ignore[index]
    out, _ = drive(reply(), [sse(chunk(content="x"), last, USAGE, "[DONE]")])
    assert events(out)[-2]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


def test_an_empty_reply_has_no_block() -> None:
    out, _ = drive(reply(), [sse(chunk(finish="stop"), USAGE, "[DONE]")])
    assert order(out) == ["message_start", "message_delta", "message_stop"]


# --- calls -------------------------------------------------------------------------------------------------------


def test_a_released_call_leaves_whole_and_canonical() -> None:
    def canonical(call: ToolCall) -> Released:
        return Released(call, '{"canonical":true}', Risk.R0, (), RECEIPT)

    out, judged = drive(reply(), [CALLS], canonical)
    assert [call.arguments for call in judged] == ['{"command":"git status"}', SECRET]
    assert events(out)[4:7] == [
        {"type": "content_block_start", "index": 1,
         "content_block": {"type": "tool_use", "id": "call_0", "name": "shell", "input": {}}},
        {"type": "content_block_delta", "index": 1,
         "delta": {"type": "input_json_delta", "partial_json": '{"canonical":true}'}},
        {"type": "content_block_stop", "index": 1},
    ]  # fmt: skip
    assert events(out)[-2]["delta"]["stop_reason"] == "tool_use"
    assert events(out)[-2]["x_gatehouse"] == {"audit": AUDIT}


def test_a_notice_is_a_block_of_its_own_before_the_released_calls() -> None:
    out, _ = drive(shown(), [CALLS], hold_dangerous)
    message = accumulated(out)
    assert [block["type"] for block in message["content"]] == ["thinking", "text", "text", "tool_use"]
    assert message["content"][1]["text"] == "Working."
    assert message["content"][2]["text"].startswith("[gatehouse:held id=apr_1 risk=R2 tool=shell")
    assert message["stop_reason"] == "tool_use"


def test_no_byte_of_a_held_call_leaves() -> None:
    out, _ = drive(shown(), [CALLS], hold_dangerous)
    assert b"namespace" not in out
    assert b"git status" in out
    assert events(out)[-2]["x_gatehouse"]["held"] == [
        {"call_id": "call_1", "approval_id": "apr_1", "state": "held", "risk": "R2", "reasons": ["k8s.delete"],
         "plan_required": False, "audit": {"index": 3, "leaf": "03" * 32}}
    ]  # fmt: skip


def test_nothing_released_ends_the_turn() -> None:
    out, _ = drive(reply(), [CALLS], hold)
    assert events(out)[-2]["delta"]["stop_reason"] == "end_turn"
    assert b"tool_use" not in out


def test_no_byte_of_a_call_leaves_before_its_verdict() -> None:
    filter_ = shown()
    filter_.feed(CALLS)
    out = b""
    while isinstance(step := filter_.step(), Emit):
        out += step.data
    assert isinstance(step, Judge)
    assert b"git status" not in out
    assert out.endswith(b'"text":"Working."}}\n\n')


def test_a_call_cut_by_the_length_limit_is_never_judged_nor_released() -> None:
    out, judged = drive(reply(), [LENGTH])
    assert judged == []
    assert b"namespace" not in out
    assert events(out)[-2]["delta"]["stop_reason"] == "max_tokens"


def test_arguments_that_are_no_object_are_wrapped_in_one() -> None:
    call = ToolCall("c", 0, 0, "shell", "[1]")
    writer = MessagesWriter(FRAMING, thinking=False)
    out = writer.finish(End("tool_calls", (Released(call, "[1]", Risk.R0, (), RECEIPT),), "", Usage(), {}))
    assert accumulated(out)["content"][0]["input"] == {"input": [1]}
    assert accumulated(out) == writer.final


# --- keepalives and failures -------------------------------------------------------------------------------------


def test_a_keepalive_may_be_the_first_thing_sent() -> None:
    assert order(shown().keepalive(15)) == ["message_start", "ping"]


def test_the_reply_goes_on_after_keepalives_without_a_second_start() -> None:
    filter_ = shown()
    begun = filter_.keepalive(15) + filter_.keepalive(30)
    out, _ = drive(filter_, [TEXT])
    assert order(begun + out).count("message_start") == 1
    assert accumulated(begun + out) == filter_.final


def test_a_long_silence_is_told_with_an_empty_delta_of_the_open_block() -> None:
    filter_ = shown()
    take(filter_, [sse(chunk(reasoning="hm"))])
    assert order(filter_.keepalive(54)) == ["ping"]
    assert order(filter_.keepalive(60)) == ["ping", "content_block_delta 0 thinking_delta"]
    take(filter_, [sse(chunk(content="so"))])
    assert events(filter_.keepalive(60))[-1] == {
        "type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": ""}
    }  # fmt: skip


def test_a_block_opened_in_silence_takes_the_text() -> None:
    filter_ = reply()
    quiet = filter_.keepalive(60) + filter_.keepalive(120)
    assert order(quiet) == [
        "message_start", "ping", "content_block_start 0 text", "content_block_delta 0 text_delta",
        "ping", "content_block_delta 0 text_delta",
    ]  # fmt: skip
    out, _ = drive(filter_, [TEXT])
    assert accumulated(quiet + out)["content"] == [{"type": "text", "text": "Grüße \n\n ok"}]


def test_a_block_opened_in_silence_is_closed_when_thinking_comes() -> None:
    filter_ = shown()
    quiet = filter_.keepalive(60)
    out, _ = drive(filter_, [TEXT])
    assert accumulated(quiet + out) == filter_.final
    assert [block["type"] for block in accumulated(quiet + out)["content"]] == ["text", "thinking", "text"]


def test_a_block_opened_in_silence_takes_the_notice() -> None:
    filter_ = reply()
    quiet = filter_.keepalive(60)
    recorded = sse(call_chunk(0, "shell", SECRET), chunk(finish="tool_calls"), USAGE, "[DONE]")
    out, _ = drive(filter_, [recorded], hold)
    assert [block["text"][:15] for block in accumulated(quiet + out)["content"]] == ["[gatehouse:held"]


def test_a_reply_with_an_empty_block_can_be_replayed() -> None:
    filter_ = shown()
    out = filter_.keepalive(60) + drive(filter_, [CALLS])[0]
    answer = {"role": "assistant", "content": accumulated(out)["content"]}
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "ok"}
        for block in answer["content"]
        if block["type"] == "tool_use"
    ]
    body: dict[str, Any] = {
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hi"}, answer, {"role": "user", "content": results}],
    }
    turn = MessagesCodec().read(body).body["messages"][1]  # type: ignore[index,call-overload]
    assert (turn["content"], turn["reasoning_content"], len(turn["tool_calls"])) == ("Working.", "I need tools", 2)  # type: ignore[index,call-overload]


def test_another_attempt_goes_on_where_keepalives_left_the_stream() -> None:
    first = reply()
    quiet = first.keepalive(60)
    second = first.again()
    out, _ = drive(second, [TEXT])
    assert order(out)[0] == "content_block_delta 0 text_delta"
    assert accumulated(quiet + out) == second.final


def test_another_attempt_forgets_what_the_first_one_would_have_said() -> None:
    first = shown(stream=False)
    first.feed(engine_json("first", (SECRET,), "tool_calls"))
    first.close()
    second = first.again()
    drive(second, [engine_json("second")])
    assert second.final is not None
    assert "first" not in json.dumps(second.final)


def test_a_failure_is_the_last_event() -> None:
    filter_ = shown()
    out, _ = take(filter_, [TEXT[: len(TEXT) // 2]])
    body = b'{"type": "error", "error": {"type": "overloaded_error", "message": "m"}, "request_id": "r"}'
    last = filter_.failed(Failure("upstream_error", "m", body))
    assert last == b"event: error\ndata: " + body + b"\n\n"
    assert b"message_stop" not in out + last


# --- JSON --------------------------------------------------------------------------------------------------------


def test_a_whole_reply_is_the_message() -> None:
    out, _ = drive(shown(stream=False), [engine_json("Working.", ('{"command":"git status"}',), "tool_calls")])
    assert json.loads(out) == {
        "id": "msg_" + "0" * 32,
        "type": "message",
        "role": "assistant",
        "model": FRAMING.model,
        "content": [
            {"type": "thinking", "thinking": "I need tools", "signature": SIGNATURE},
            {"type": "text", "text": "Working."},
            {"type": "tool_use", "id": "call_0", "name": "shell", "input": {"command": "git status"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
        },
        "x_gatehouse": {"audit": json.loads(out)["x_gatehouse"]["audit"]},
    }


@pytest.mark.parametrize("rule", [release, hold, hold_dangerous])
def test_a_whole_reply_equals_the_stream(rule: Callable[[ToolCall], Verdict]) -> None:
    streamed, _ = drive(shown(), [CALLS], rule)
    whole, _ = drive(
        shown(stream=False), [engine_json("Working.", ('{"command":"git status"}', SECRET), "tool_calls")], rule
    )
    assert json.loads(whole) == accumulated(streamed)


@pytest.mark.parametrize("recorded", RECORDED)
def test_what_is_kept_of_a_stream_is_what_its_client_has(recorded: bytes) -> None:
    filter_ = shown()
    out, _ = drive(filter_, [recorded], hold_dangerous)
    assert accumulated(out) == filter_.final


def test_no_argument_of_a_held_call_is_in_a_whole_reply() -> None:
    out, _ = drive(shown(stream=False), [engine_json("Working.", (SECRET,), "tool_calls")], hold)
    assert b"namespace" not in out
    assert json.loads(out)["x_gatehouse"]["held"][0]["call_id"] == "call_0"
    assert json.loads(out)["stop_reason"] == "end_turn"


# --- the vendor's SDK --------------------------------------------------------------------------------------------


def answered_by(out: bytes, kind: str) -> Any:
    """The SDK's client, whose only server answers `out`."""
    anthropic = pytest.importorskip("anthropic", reason="the SDK of the dialect is not installed")
    http = pytest.importorskip("httpx2", reason="the SDK's HTTP client is not installed")
    transport = http.MockTransport(lambda _: http.Response(200, content=out, headers={"content-type": kind}))
    return anthropic.Anthropic(
        api_key="k", base_url="http://gateway.invalid", http_client=http.Client(transport=transport), max_retries=0
    )


ASK: dict[str, Any] = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def test_the_sdk_accumulates_the_message_we_mean() -> None:
    filter_ = shown()
    out = filter_.keepalive(60) + drive(filter_, [CALLS], hold_dangerous)[0]
    with answered_by(out, "text/event-stream") as client, client.messages.stream(**ASK) as stream:
        message = stream.get_final_message()
    assert filter_.final is not None
    wanted = {name: value for name, value in filter_.final.items() if name != "x_gatehouse"}
    seen = message.to_dict(mode="json", exclude_unset=True)
    assert {name: seen[name] for name in wanted} == wanted


def test_every_event_is_of_a_type_that_the_sdk_knows() -> None:
    types = pytest.importorskip("anthropic", reason="the SDK of the dialect is not installed").types
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(types.RawMessageStreamEvent)
    for recorded in RECORDED:
        for event in events(drive(shown(), [recorded], hold_dangerous)[0]):
            assert adapter.validate_python(event).type == event["type"]


def test_the_sdk_reads_a_whole_reply() -> None:
    types = pytest.importorskip("anthropic", reason="the SDK of the dialect is not installed").types
    out, _ = drive(shown(stream=False), [engine_json("Working.", (SECRET,), "tool_calls")])
    message = types.Message.model_validate_json(out)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]


def test_the_sdk_raises_on_a_stream_that_broke_off() -> None:
    anthropic = pytest.importorskip("anthropic", reason="the SDK of the dialect is not installed")
    filter_ = shown()
    out, _ = take(filter_, [TEXT[: len(TEXT) // 2]])
    body = b'{"type": "error", "error": {"type": "overloaded_error", "message": "m"}, "request_id": "r"}'
    out += filter_.failed(Failure("upstream_error", "m", body))
    with (
        answered_by(out, "text/event-stream") as client,
        client.messages.stream(**ASK) as stream,
        pytest.raises(anthropic.APIStatusError),
    ):
        stream.get_final_message()
