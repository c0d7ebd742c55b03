import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import EngineFailed, GatehouseError
from deployments.ingress.dialects.chat import ChatReply, ChatStream
from deployments.ingress.dialects.completions import CompletionStream
from deployments.ingress.dialects.values import Emit, Judge, ReplyFilter
from deployments.ports import ApprovalId, Denied, Held, Receipt, Released, Risk, ToolCall, Verdict, Withheld
from tests.fakes import FRAMING, USAGE, call_chunk, chunk, json_reply, release, sse

SECRET = '{"command":"kubectl delete namespace staging"}'
RECEIPT = Receipt(3, b"\x03" * 32)


def hold(call: ToolCall) -> Held:
    return Held(call, ApprovalId("apr_1"), Risk.R2, ("k8s.delete",), True, 1_767_225_600_000, RECEIPT)


def hold_dangerous(call: ToolCall) -> Verdict:
    return hold(call) if "delete" in call.arguments else release(call)


def drive(filter_: ReplyFilter, pieces, rule=release) -> tuple[bytes, list[ToolCall]]:
    """Feed pieces, take every step; what went out, and what was judged."""
    out, judged = b"", []

    def steps() -> None:
        nonlocal out
        while (step := filter_.step()) is not None:
            match step:
                case Emit():
                    out += step.data
                case Judge():
                    judged.extend(step.calls)
                    filter_.resolve([rule(call) for call in step.calls])

    for piece in pieces:
        filter_.feed(piece)
        steps()
    filter_.close()
    steps()
    return out, judged


def parsed(out: bytes) -> list[dict]:
    events = [e for e in out.decode().split("\n\n") if e.startswith("data: ")]
    return [json.loads(e[6:]) for e in events if e != "data: [DONE]"]


TEXT = sse(
    chunk(role="assistant", content=""), chunk(reasoning="Let me"), chunk(content="Grüße "), chunk(content="\n\n ok"),
    chunk(finish="stop"), USAGE, "[DONE]",
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
TWO = sse(
    chunk(0, role="assistant", content=""), chunk(1, role="assistant", content=""), chunk(0, content="a"),
    chunk(1, content="b"), chunk(0, finish="stop"), chunk(1, finish="stop"), USAGE, "[DONE]",
)  # fmt: skip


def test_text_passes_byte_for_byte_but_for_the_reasoning_key() -> None:
    out, judged = drive(ChatStream(include_usage=True, framing=FRAMING), [TEXT])
    assert judged == []
    expected = TEXT.replace(b'"reasoning":', b'"reasoning_content":')
    assert out == expected


def test_usage_is_kept_from_a_client_that_did_not_ask() -> None:
    filter_ = ChatStream(include_usage=False, framing=FRAMING)
    out, _ = drive(filter_, [TEXT])
    assert b"prompt_tokens" not in out
    assert filter_.usage is not None
    assert (filter_.usage.input_tokens, filter_.usage.cached_tokens, filter_.usage.output_tokens) == (11, 4, 5)
    assert out.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("recorded", [TEXT, CALLS, LENGTH, TWO])
@given(data=st.data())
def test_any_chunking_gives_the_same_bytes(recorded: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(recorded)), max_size=40)))
    pieces = [recorded[a:b] for a, b in zip([0, *cuts], [*cuts, len(recorded)], strict=True)]
    whole, judged_whole = drive(ChatStream(True, framing=FRAMING), [recorded], hold_dangerous)
    out, judged = drive(ChatStream(True, framing=FRAMING), pieces, hold_dangerous)
    assert out == whole
    assert judged == judged_whole


@pytest.mark.parametrize("recorded", [TEXT, CALLS, LENGTH, TWO])
def test_fast_path_and_parsed_path_agree(recorded: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = drive(ChatStream(True, framing=FRAMING), [recorded], hold_dangerous)
    monkeypatch.setattr(ChatStream, "_plain", lambda self, event: None)  # every event is parsed
    slow, _ = drive(ChatStream(True, framing=FRAMING), [recorded], hold_dangerous)
    assert parsed(fast) == parsed(slow)


def test_released_calls_leave_whole_and_canonical() -> None:
    def canonical(call: ToolCall) -> Released:
        return Released(call, '{"canonical":true}', Risk.R0, (), RECEIPT)

    out, judged = drive(ChatStream(False, framing=FRAMING), [CALLS], canonical)
    assert [call.arguments for call in judged] == ['{"command":"git status"}', SECRET]
    calls = [c for p in parsed(out) for c in p["choices"][0]["delta"].get("tool_calls", [])]
    assert [(c["index"], c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls] == [
        (0, "call_0", "shell", '{"canonical":true}'),
        (1, "call_1", "shell", '{"canonical":true}'),
    ]
    assert parsed(out)[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_no_byte_of_a_held_call_leaves() -> None:
    out, _ = drive(ChatStream(False, framing=FRAMING), [CALLS], hold_dangerous)
    assert b"namespace" not in out
    assert b"git status" in out
    last = parsed(out)[-1]
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert last["x_gatehouse"]["held"] == [
        {"call_id": "call_1", "approval_id": "apr_1", "state": "held", "risk": "R2", "reasons": ["k8s.delete"],
         "plan_required": True, "audit": {"index": 3, "leaf": "03" * 32}}
    ]  # fmt: skip
    text = "".join(p["choices"][0]["delta"].get("content") or "" for p in parsed(out))
    assert text.startswith("Working.\n\n[gatehouse:held id=apr_1 risk=R2 tool=shell expires=2026-01-01T00:00:00Z]")


def test_nothing_released_ends_with_stop() -> None:
    out, _ = drive(ChatStream(False, framing=FRAMING), [CALLS], hold)
    assert parsed(out)[-1]["choices"][0]["finish_reason"] == "stop"
    assert b'"tool_calls"' not in out


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (lambda call: Denied(call, "gc_1", Risk.FORBIDDEN, ("never",), RECEIPT), "[gatehouse:denied id=gc_1"),
        (lambda call: Withheld(call, "the audit log does not answer"), "[gatehouse:unavailable tool=shell]"),
    ],
)
def test_other_refusals_are_told_in_band(verdict, word: str) -> None:
    out, _ = drive(ChatStream(False, framing=FRAMING), [CALLS], verdict)
    assert word in out.decode()
    assert b"namespace" not in out


def test_a_call_cut_by_the_length_limit_is_never_judged_nor_released() -> None:
    out, judged = drive(ChatStream(False, framing=FRAMING), [LENGTH])
    assert judged == []
    assert b"namespace" not in out
    assert parsed(out)[-1]["choices"][0]["finish_reason"] == "length"


def test_a_repair_marks_every_call_of_the_reply() -> None:
    filter_ = ChatStream(False, framing=FRAMING)
    filter_.repaired(["header rebuilt"])
    _, judged = drive(filter_, [CALLS])
    assert [call.recovered for call in judged] == [True, True]


@pytest.mark.parametrize("second", [call_chunk(0, "other", "{}"), call_chunk(0, "shell", "{}", call_id="call_other")])
def test_a_call_that_changes_midway_is_untrusted(second: dict) -> None:
    recorded = sse(call_chunk(0, "shell", ""), second, chunk(finish="tool_calls"), USAGE, "[DONE]")
    _, judged = drive(ChatStream(False, framing=FRAMING), [recorded])
    assert judged[0].recovered


@pytest.mark.parametrize("cut", [len(TEXT) - 1, len(TEXT) - len(b"data: [DONE]\n\n"), len(TEXT) // 2, 10])
def test_a_truncated_stream_never_looks_complete(cut: int) -> None:
    with pytest.raises(EngineFailed):
        drive(ChatStream(True, framing=FRAMING), [TEXT[:cut]])


def test_an_error_inside_the_stream_ends_it_without_done() -> None:
    recorded = sse(chunk(content="par"), '{"error": {"message": "EngineCore broke", "code": 500}}', "[DONE]")
    filter_ = ChatStream(True, framing=FRAMING)
    filter_.feed(recorded)
    with pytest.raises(EngineFailed) as caught:
        while filter_.step():
            pass
    assert "EngineCore" not in str(caught.value)


@pytest.mark.parametrize(
    "junk", [b"data: {nope}\n\n", b'data: {"choices":[{"finish_reason":"stop"}]}\n\ndata: {"usage":{},"a"}\n\n']
)
def test_junk_is_an_engine_failure(junk: bytes) -> None:
    with pytest.raises(GatehouseError):
        drive(ChatStream(True, framing=FRAMING), [junk.replace(b"nope", b'"usage":{'), b"data: [DONE]\n\n"])


def test_an_escaped_marker_does_not_slip_through_the_fast_path() -> None:
    hidden = (
        rb'data: {"id":"1","choices":[{"index":0,"delta":{"\u0074ool_calls":[{"index":0,"id":"c","function":'
        rb'{"name":"shell","arguments":"{\"command\":\"kubectl delete namespace staging\"}"}}]},"finish_reason":null}]}'
        b"\n\n"
    )
    out, judged = drive(
        ChatStream(False, framing=FRAMING), [hidden, sse(chunk(finish="tool_calls"), USAGE, "[DONE]")], hold
    )
    assert len(judged) == 1
    assert b"namespace" not in out


def test_legacy_function_call_is_judged_too() -> None:
    recorded = sse(chunk(function_call={"name": "shell", "arguments": SECRET}), chunk(finish="stop"), USAGE, "[DONE]")
    out, judged = drive(ChatStream(False, framing=FRAMING), [recorded], hold)
    assert judged[0].arguments == SECRET
    assert b"namespace" not in out


def test_json_reply_is_judged_per_choice() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "shell", "arguments": SECRET}}]
    filter_ = ChatReply()
    out, judged = drive(filter_, [json_reply(None, calls, "tool_calls")[1]], hold)
    body = json.loads(out)
    assert [call.call_id for call in judged] == ["c1"]
    assert b"namespace" not in out
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["message"]["content"].startswith("[gatehouse:held id=apr_1")
    assert body["choices"][0]["message"]["reasoning_content"] == "thinking"
    assert body["x_gatehouse"]["held"][0]["approval_id"] == "apr_1"
    assert filter_.finish_reasons == ("stop",)


def test_json_reply_cut_by_length_releases_nothing() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "shell", "arguments": SECRET}}]
    out, judged = drive(ChatReply(), [json_reply("x", calls, "length")[1]])
    assert judged == []
    assert b"namespace" not in out


@pytest.mark.parametrize("body", [b"", b"Internal Server Error", b"[]", b'{"choices": 1}', b'{"choices":[]}'])
def test_json_junk_is_an_engine_failure(body: bytes) -> None:
    with pytest.raises(EngineFailed):
        drive(ChatReply(), [body])


def test_completion_stream_passes_text_and_strips_usage() -> None:
    def text(value: str, finish: str | None = None) -> dict:
        return {"id": "cmpl-1", "choices": [{"index": 0, "text": value, "finish_reason": finish}]}

    recorded = sse(text("a"), text("b"), text("", "stop"), {**USAGE, "id": "cmpl-1"}, "[DONE]")
    filter_ = CompletionStream(include_usage=False, framing=FRAMING)
    out, _ = drive(filter_, [recorded])
    assert "".join(p["choices"][0]["text"] for p in parsed(out)) == "ab"
    assert b"prompt_tokens" not in out
    assert filter_.finish_reasons == ("stop",)


@pytest.mark.parametrize("event", [b"event: x\ndata: {}\n\n", b"id: 1\n\n", b"retry: 5\n\n", b"nonsense\n\n"])
def test_an_event_in_a_shape_we_do_not_know_is_never_passed_on(event: bytes) -> None:
    stream = ChatStream(include_usage=False, framing=FRAMING)
    stream.feed(event)
    with pytest.raises(EngineFailed):
        stream.step()


def test_text_that_ends_without_a_finish_reason_is_cut_and_not_complete() -> None:
    stream = ChatStream(include_usage=False, framing=FRAMING)
    stream.feed(sse(chunk(content="half an ans"), "[DONE]"))
    with pytest.raises(EngineFailed):
        while stream.step() is not None:
            pass


def test_a_role_alone_is_no_text() -> None:
    stream = ChatStream(include_usage=False, framing=FRAMING)
    stream.feed(sse(chunk(role="assistant"), chunk(role="assistant", content="")))
    while stream.step() is not None:
        pass
    assert not stream.saw_text
    stream.feed(sse(chunk(reasoning="hm")))
    stream.step()
    assert stream.saw_text


def test_an_answer_without_counts_is_an_answer() -> None:
    reply = ChatReply()
    body = json.loads(b"".join(item for item in json_reply("hi") if isinstance(item, bytes)))
    del body["usage"]
    reply.feed(json.dumps(body).encode())
    reply.close()
    step = reply.step()
    assert isinstance(step, Emit)
    assert reply.usage is None
