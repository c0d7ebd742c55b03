"""What a client of the Responses API receives: events in order, gated calls, and one object at the end."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from deployments.errors import EngineFailed
from deployments.ingress.dialects.responses import ResponsesCodec
from deployments.ingress.dialects.values import Emit, Failure, Framing, Judge, ReplyFilter
from deployments.ports import (
    ApprovalId,
    Effort,
    Held,
    ModelId,
    Receipt,
    Released,
    Risk,
    ToolCall,
    Verdict,
    Withheld,
)
from tests.fakes import USAGE, call_chunk, chunk, json_reply, release, sse

CODEC = ResponsesCodec()
REPLY = "0123456789abcdef" * 2
FRAMING = Framing(REPLY, ModelId("demo-20b"), 1_767_225_600, Effort.MEDIUM)
SECRET = '{"cmd":"kubectl delete namespace staging"}'
RECEIPT = Receipt(3, b"\x03" * 32)
EVENT = TypeAdapter[Any](ResponseStreamEvent)

TOOLS: list[Any] = [
    {"type": "function", "name": "exec_command", "parameters": {"type": "object"}, "strict": None},
    {"type": "namespace", "name": "multi_agent_v1", "description": "Agents.", "tools": [
        {"type": "function", "name": "spawn_agent", "parameters": {"type": "object"}}]},
    {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "s: A"}},
]  # fmt: skip
PATCH = '*** Begin Patch\n+ "x"\té\n'

TEXT = sse(
    chunk(role="assistant", content=""), chunk(reasoning="Let "), chunk(reasoning="me"), chunk(content="Grüße "),
    chunk(content="\n\n ok"), chunk(finish="stop"), USAGE, "[DONE]",
)  # fmt: skip
TWICE = sse(
    chunk(reasoning="r1"), chunk(content="t1"), chunk(reasoning="r2"), chunk(content="t2"), chunk(finish="stop"),
    USAGE, "[DONE]",
)  # fmt: skip
CALLS = sse(
    chunk(role="assistant", content=""), chunk(reasoning="I need tools"), chunk(content="Working."),
    call_chunk(0, "exec_command", ""), call_chunk(0, arguments='{"cm'), call_chunk(0, arguments='d":"git status"}'),
    call_chunk(1, "exec_command", SECRET), chunk(finish="tool_calls"), USAGE, "[DONE]",
)  # fmt: skip
KINDS = sse(
    chunk(reasoning="R"), call_chunk(0, "exec_command", '{"cmd":"ls"}', "call_a"),
    call_chunk(1, "multi_agent_v1__spawn_agent", '{"task":"t"}', "call_b"),
    call_chunk(2, "apply_patch", json.dumps({"input": PATCH}, ensure_ascii=False, separators=(",", ":")), "call_c"),
    chunk(finish="tool_calls"), USAGE, "[DONE]",
)  # fmt: skip
LENGTH = sse(
    chunk(reasoning="r"), chunk(content="cut"), call_chunk(0, "exec_command", SECRET), chunk(finish="length"), USAGE,
    "[DONE]",
)  # fmt: skip


def hold(call: ToolCall) -> Held:
    return Held(call, ApprovalId("apr_1"), Risk.R2, ("k8s.delete",), True, 1_767_225_600_000, RECEIPT)


def hold_dangerous(call: ToolCall) -> Verdict:
    return hold(call) if "delete" in call.arguments else release(call)


def reply(stream: bool = True, **fields: Any) -> ReplyFilter:
    body = {"input": "hi", "stream": stream, "tools": TOOLS, **fields}
    return CODEC.filter(CODEC.read(body), FRAMING)


def take(filter_: ReplyFilter, rule: Callable[[ToolCall], Verdict] = release) -> bytes:
    out = b""
    while (step := filter_.step()) is not None:
        match step:
            case Emit():
                out += step.data
            case Judge():
                filter_.resolve([rule(call) for call in step.calls])
    return out


def drive(filter_: ReplyFilter, pieces: Sequence[bytes], rule: Callable[[ToolCall], Verdict] = release) -> bytes:
    out = b""
    for piece in pieces:
        filter_.feed(piece)
        out += take(filter_, rule)
    filter_.close()
    return out + take(filter_, rule)


@cache
def uncut(recorded: bytes) -> bytes:
    return drive(reply(), [recorded], hold_dangerous)


def events(out: bytes) -> list[dict[str, Any]]:
    """The payloads; every event's name is its type, and the numbers count from 0."""
    read: list[dict[str, Any]] = []
    for event in out.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        payload = json.loads(data.removeprefix("data: "))
        assert name == f"event: {payload['type']}"
        assert payload["sequence_number"] == len(read)
        read.append(payload)
    return read


def told(out: bytes) -> list[str]:
    """The order of events: kind and output index, deltas with their text."""
    lines: list[str] = []
    for event in events(out):
        place = f" {event['output_index']}" if "output_index" in event else ""
        text = f" {event['delta']}" if "delta" in event else ""
        lines.append(event["type"].removeprefix("response.") + place + text)
    return lines


def failure(code: str, message: str = "No.") -> Failure:
    return Failure(code, message, b"{}")


def test_reasoning_and_text_are_two_items_with_all_their_events() -> None:
    assert told(drive(reply(), [TEXT])) == [
        "created",
        "in_progress",
        "output_item.added 0",
        "content_part.added 0",
        "reasoning_text.delta 0 Let ",
        "reasoning_text.delta 0 me",
        "reasoning_text.done 0",
        "content_part.done 0",
        "output_item.done 0",
        "output_item.added 1",
        "content_part.added 1",
        "output_text.delta 1 Grüße ",
        "output_text.delta 1 \n\n ok",
        "output_text.done 1",
        "content_part.done 1",
        "output_item.done 1",
        "completed",
    ]


def test_the_terminal_event_holds_the_whole_response() -> None:
    filter_ = reply()
    last = events(drive(filter_, [TEXT]))[-1]["response"]
    assert last["id"] == f"resp_{REPLY}"
    assert (last["status"], last["created_at"], last["model"]) == ("completed", 1_767_225_600, "demo-20b")
    assert last["output"] == [
        {"id": f"rs_{REPLY}0000", "type": "reasoning", "status": "completed", "summary": [],
         "content": [{"type": "reasoning_text", "text": "Let me"}]},
        {"id": f"msg_{REPLY}0001", "type": "message", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Grüße \n\n ok", "annotations": [], "logprobs": []}]},
    ]  # fmt: skip
    assert last["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 16,
    }
    assert filter_.final == last


def test_a_response_begins_empty() -> None:
    for event in events(drive(reply(), [TEXT]))[:2]:
        assert (event["response"]["output"], event["response"]["status"]) == ([], "in_progress")


def test_reasoning_after_text_opens_new_items() -> None:
    items = events(drive(reply(), [TWICE]))[-1]["response"]["output"]
    assert [(item["type"], item["content"][0]["text"]) for item in items] == [
        ("reasoning", "r1"),
        ("message", "t1"),
        ("reasoning", "r2"),
        ("message", "t2"),
    ]


def test_item_events_name_their_item() -> None:
    ids = {event["output_index"]: set[str]() for event in events(drive(reply(), [KINDS])) if "output_index" in event}
    for event in events(drive(reply(), [KINDS])):
        if "output_index" in event:
            ids[event["output_index"]].add(event.get("item_id") or event["item"]["id"])
    assert ids == {
        0: {f"rs_{REPLY}0000"},
        1: {f"fc_{REPLY}0001"},
        2: {f"fc_{REPLY}0002"},
        3: {f"ctc_{REPLY}0003"},
    }


def test_calls_come_last_and_whole() -> None:
    assert told(drive(reply(), [CALLS]))[-9:] == [
        "output_item.added 2",
        'function_call_arguments.delta 2 {"cmd":"git status"}',
        "function_call_arguments.done 2",
        "output_item.done 2",
        "output_item.added 3",
        f"function_call_arguments.delta 3 {SECRET}",
        "function_call_arguments.done 3",
        "output_item.done 3",
        "completed",
    ]


def test_no_call_leaves_before_the_engine_has_ended() -> None:
    filter_ = reply()
    filter_.feed(CALLS.removesuffix(sse(USAGE, "[DONE]")))
    assert b"git status" not in take(filter_)
    filter_.feed(sse(USAGE, "[DONE]"))
    assert b"git status" in take(filter_)


def test_every_kind_of_call_leaves_as_the_client_knows_it() -> None:
    items = events(drive(reply(), [KINDS]))[-1]["response"]["output"][1:]
    assert items == [
        {"id": f"fc_{REPLY}0001", "type": "function_call", "status": "completed", "call_id": "call_a",
         "name": "exec_command", "arguments": '{"cmd":"ls"}'},
        {"id": f"fc_{REPLY}0002", "type": "function_call", "status": "completed", "call_id": "call_b",
         "name": "spawn_agent", "namespace": "multi_agent_v1", "arguments": '{"task":"t"}'},
        {"id": f"ctc_{REPLY}0003", "type": "custom_tool_call", "status": "completed", "call_id": "call_c",
         "name": "apply_patch", "input": PATCH},
    ]  # fmt: skip


def test_a_custom_call_streams_its_input() -> None:
    assert told(drive(reply(), [KINDS]))[-5:] == [
        "output_item.added 3",
        f"custom_tool_call_input.delta 3 {PATCH}",
        "custom_tool_call_input.done 3",
        "output_item.done 3",
        "completed",
    ]


@pytest.mark.parametrize("arguments", ['{"input":1}', '{"input":"a","more":"b"}', '["input"]', "*** Begin"])
def test_a_custom_call_of_another_shape_leaves_with_all_that_was_judged(arguments: str) -> None:
    recorded = sse(call_chunk(0, "apply_patch", arguments), chunk(finish="tool_calls"), USAGE, "[DONE]")
    assert events(drive(reply(), [recorded]))[-1]["response"]["output"][0]["input"] == arguments


def test_the_canonical_arguments_leave_and_not_the_model_s() -> None:
    def canonical(call: ToolCall) -> Released:
        return Released(call, '{"canonical":true}', Risk.R0, (), RECEIPT)

    items = events(drive(reply(), [CALLS], canonical))[-1]["response"]["output"]
    assert [item["arguments"] for item in items if item["type"] == "function_call"] == ['{"canonical":true}'] * 2


def test_a_tool_that_nobody_offered_keeps_its_name() -> None:
    recorded = sse(call_chunk(0, "made_up", "{}"), chunk(finish="tool_calls"), USAGE, "[DONE]")
    item = events(drive(reply(), [recorded]))[-1]["response"]["output"][0]
    assert (item["type"], item["name"], "namespace" in item) == ("function_call", "made_up", False)


def test_what_was_sent_comes_back_as_the_engine_wrote_it() -> None:
    """Two turns: namespace and custom calls reach the engine again byte for byte."""
    first = events(drive(reply(), [KINDS]))[-1]["response"]["output"]
    outputs = [{"type": f"{item['type']}_output", "call_id": item["call_id"], "output": "ok"} for item in first[1:]]
    read = CODEC.read({"input": [{"role": "user", "content": "hi"}, *first, *outputs], "tools": TOOLS})
    sent: Any = read.body
    assistant = sent["messages"][1]
    assert assistant["reasoning_content"] == "R"
    assert [(each["id"], each["function"]["name"], each["function"]["arguments"]) for each in assistant["tool_calls"]] \
        == [
            ("call_a", "exec_command", '{"cmd":"ls"}'),
            ("call_b", "multi_agent_v1__spawn_agent", '{"task":"t"}'),
            ("call_c", "apply_patch", json.dumps({"input": PATCH}, ensure_ascii=False, separators=(",", ":"))),
        ]  # fmt: skip


@pytest.mark.parametrize("recorded", [TEXT, TWICE, CALLS, KINDS, LENGTH])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_chunking_gives_the_same_bytes(recorded: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(recorded)), max_size=40)))
    pieces = [recorded[a:b] for a, b in zip([0, *cuts], [*cuts, len(recorded)], strict=True)]
    assert drive(reply(), pieces, hold_dangerous) == uncut(recorded)


def test_no_byte_of_a_held_call_leaves() -> None:
    filter_ = reply()
    out = drive(filter_, [CALLS], hold_dangerous)
    assert b"namespace staging" not in out
    last = events(out)[-1]
    assert last["type"] == "response.completed"
    assert [item["type"] for item in last["response"]["output"]] == [
        "reasoning",
        "message",
        "message",
        "function_call",
    ]
    assert last["response"]["output"][2]["content"][0]["text"].startswith("[gatehouse:held id=apr_1 risk=R2 ")
    assert last["response"]["x_gatehouse"]["held"][0]["call_id"] == "call_1"
    assert filter_.finish_reasons == ("tool_calls",)


def test_nothing_released_is_a_complete_answer_with_a_notice() -> None:
    recorded = sse(call_chunk(0, "exec_command", SECRET), chunk(finish="tool_calls"), USAGE, "[DONE]")
    out = drive(reply(), [recorded], lambda call: Withheld(call, "gate"))
    last = events(out)[-1]
    assert b"kubectl" not in out
    assert last["type"] == "response.completed"
    (item,) = last["response"]["output"]
    assert item["content"][0]["text"].startswith("[gatehouse:unavailable tool=exec_command]")


def test_the_routing_record_is_quoted_in_the_response() -> None:
    filter_ = reply()
    filter_.receipt(RECEIPT)
    last = events(drive(filter_, [TEXT]))[-1]["response"]
    assert last["x_gatehouse"] == {"audit": {"index": 3, "leaf": "03" * 32}}


def test_a_length_limit_ends_incomplete_and_releases_nothing() -> None:
    out = drive(reply(), [LENGTH])
    last = events(out)[-1]
    assert b"kubectl" not in out
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [(item["type"], item["status"]) for item in last["response"]["output"]] == [
        ("reasoning", "completed"),
        ("message", "incomplete"),
    ]


@pytest.mark.parametrize(("finish", "reason"), [("content_filter", "content_filter"), ("repetition", None)])
def test_an_answer_that_did_not_finish_is_not_complete(finish: str, reason: str | None) -> None:
    last = events(drive(reply(), [sse(chunk(content="a"), chunk(finish=finish), USAGE, "[DONE]")]))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": reason}


@pytest.mark.parametrize("keep", [1, 3, 5, 7])
def test_a_cut_reply_has_no_end(keep: int) -> None:
    cut = b"\n\n".join(CALLS.split(b"\n\n")[:keep]) + b"\n\n"
    filter_ = reply()
    filter_.feed(cut)
    out = take(filter_)
    with pytest.raises(EngineFailed):
        filter_.close()
    assert b"response.completed" not in out
    assert filter_.final is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("context_length_exceeded", "context_length_exceeded"),
        ("budget_exceeded", "insufficient_quota"),
        ("rate_limit_exceeded", "rate_limit_exceeded"),
        ("server_is_overloaded", "server_is_overloaded"),
        ("upstream_error", "server_error"),
        ("timeout", "server_error"),
        ("audit_unavailable", "server_error"),
    ],
)
def test_a_failure_before_the_first_word(code: str, expected: str) -> None:
    out = reply().failed(failure(code, "Please try again in 2s."))
    assert told(out) == ["created", "in_progress", "failed"]
    last = events(out)[-1]["response"]
    assert last["error"] == {"code": expected, "message": "Please try again in 2s."}
    assert (last["status"], last["output"]) == ("failed", [])


def test_a_failure_after_some_text_closes_nothing() -> None:
    filter_ = reply()
    filter_.feed(sse(chunk(reasoning="r"), chunk(content="half an")))
    out = take(filter_) + filter_.failed(failure("upstream_error"))
    assert told(out)[-2:] == ["output_text.delta 1 half an", "failed"]
    last = events(out)[-1]["response"]
    assert [(item["type"], item["status"]) for item in last["output"]] == [
        ("reasoning", "completed"),
        ("message", "incomplete"),
    ]
    assert filter_.final is None


def test_keepalives_begin_the_stream_once() -> None:
    filter_ = reply()
    out = filter_.keepalive(15) + filter_.keepalive(30)
    out += drive(filter_, [sse(chunk(content="hi"), chunk(finish="stop"), USAGE, "[DONE]")])
    assert told(out) == [
        "created",
        "in_progress",
        "in_progress",
        "output_item.added 0",
        "content_part.added 0",
        "output_text.delta 0 hi",
        "output_text.done 0",
        "content_part.done 0",
        "output_item.done 0",
        "completed",
    ]


def test_a_keepalive_amid_text_leaves_the_item_open() -> None:
    filter_ = reply()
    filter_.feed(sse(chunk(content="a")))
    out = take(filter_) + filter_.keepalive(15)
    out += drive(filter_, [sse(chunk(content="b"), chunk(finish="stop"), USAGE, "[DONE]")])
    assert told(out)[4:8] == ["output_text.delta 0 a", "in_progress", "output_text.delta 0 b", "output_text.done 0"]


def test_another_attempt_goes_on_where_the_keepalives_were() -> None:
    filter_ = reply()
    out = filter_.keepalive(15)
    out += drive(filter_.again(), [TEXT])
    assert told(out)[:3] == ["created", "in_progress", "output_item.added 0"]


def test_another_attempt_without_keepalives_begins() -> None:
    assert drive(reply().again(), [TEXT]) == drive(reply(), [TEXT])


@pytest.mark.parametrize("rule", [release, hold])
def test_json_mode_equals_the_terminal_event(rule: Callable[[ToolCall], Verdict]) -> None:
    whole = json_reply("Working.", [
        {"id": "call_a", "type": "function", "function": {"name": "apply_patch", "arguments": '{"input":"x"}'}},
        {"id": "call_b", "type": "function", "function": {"name": "exec_command", "arguments": SECRET}},
    ], "tool_calls")[1]  # fmt: skip
    assert isinstance(whole, bytes)
    streamed = sse(
        chunk(reasoning="thinking"), chunk(content="Working."),
        call_chunk(0, "apply_patch", '{"input":"x"}', "call_a"), call_chunk(1, "exec_command", SECRET, "call_b"),
        chunk(finish="tool_calls"), {**USAGE, "usage": json.loads(whole)["usage"]}, "[DONE]",
    )  # fmt: skip
    filter_ = reply(stream=False)
    body = json.loads(drive(filter_, [whole], rule))
    assert body == events(drive(reply(), [streamed], rule))[-1]["response"]
    assert body == filter_.final


@pytest.mark.parametrize("recorded", [TEXT, TWICE, CALLS, KINDS, LENGTH])
def test_every_event_is_one_that_the_sdk_knows(recorded: bytes) -> None:
    filter_ = reply(instructions="Be brief.", reasoning={"effort": "low", "summary": "auto"},
                    text={"format": {"type": "json_schema", "name": "a", "schema": {}}},
                    tool_choice={"type": "function", "name": "exec_command"}, metadata={"k": "v"},
                    service_tier="flex", truncation="auto", temperature=1, max_output_tokens=9)  # fmt: skip
    out = filter_.keepalive(15) + drive(filter_, [recorded], hold_dangerous)
    for event in events(out):
        read = EVENT.validate_json(json.dumps(event), strict=True)
        assert read.type == event["type"]
    Response.model_validate_json(json.dumps(filter_.final), strict=True)


def test_a_failure_is_an_event_that_the_sdk_knows() -> None:
    for event in events(reply().failed(failure("upstream_error"))):
        assert EVENT.validate_json(json.dumps(event), strict=True).type == event["type"]


@pytest.mark.parametrize("recorded", [TEXT, TWICE, CALLS, KINDS])
def test_the_sdk_s_own_stream_arrives_at_the_same_response(recorded: bytes) -> None:
    filter_ = reply()
    out = drive(filter_, [recorded])
    served = httpx2.MockTransport(
        lambda request: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=out)
    )
    http: Any = httpx2.Client(transport=served)
    with (
        OpenAI(api_key="k", base_url="http://x/v1", http_client=http) as sdk,
        sdk.responses.stream(model="demo-20b", input="hi") as stream,
    ):
        final: Any = stream.get_final_response()
    expected: Any = filter_.final
    assert [item.id for item in final.output] == [item["id"] for item in expected["output"]]
    assert final.status == "completed"
