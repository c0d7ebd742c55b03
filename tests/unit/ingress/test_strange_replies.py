"""What an engine, or a server behind one, may send besides what is known: none of it leaves, calls least of all."""

import json
from typing import Any

import pytest

from deployments.errors import EngineFailed, InvalidRequest
from deployments.ingress.dialects.calls import EARLIER, LEAKED, lawful
from deployments.ingress.dialects.chat import ChatReply, ChatStream
from deployments.ingress.dialects.codecs import make_codecs
from deployments.ingress.dialects.completions import CompletionReply, CompletionStream
from deployments.ingress.dialects.notices import held_objects, notices
from deployments.ports import Dialect, JsonValue, ToolCall, Verdict, Withheld
from tests.fakes import FRAMING, USAGE, call_chunk, chunk, json_reply, release, sse
from tests.unit.ingress.test_chat_stream import SECRET, drive, hold, parsed

NAMES = frozenset({"shell"})
WORD = "namespace"
ITEM: dict[str, Any] = {"name": "shell", "input": SECRET}
KINDS = (
    "custom_tool_call", "shell_call", "local_shell_call", "apply_patch_call", "mcp_call", "computer_call",
    "mcp_tool_use", "server_tool_use", "web_search_call", "code_interpreter_call", "file_search_call",
    "tool_use", "whatever",
)  # fmt: skip


def ended(*chunks: dict[str, Any] | str, finish: str = "stop") -> bytes:
    return sse(*chunks, chunk(finish=finish), USAGE, "[DONE]")


def stream(**more: Any) -> ChatStream:
    return ChatStream(include_usage=False, framing=FRAMING, names=NAMES, **more)


def whole(finish: str = "stop", choice: dict[str, Any] | None = None, **message: Any) -> bytes:
    body = json.loads(json_reply("hi", finish=finish)[1])  # type: ignore[arg-type]
    body["choices"][0]["message"] |= message
    body["choices"][0] |= choice or {}
    return json.dumps(body).encode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [ITEM, [ITEM]], ids=["one", "list"])
def test_an_item_of_an_unknown_kind_stays_and_is_judged(kind: str, value: Any) -> None:
    for reply, data in ((stream(), ended(chunk(content="hi"), chunk(**{kind: value}))),
                        (ChatReply(NAMES), whole(**{kind: value}))):  # fmt: skip
        out, judged = drive(reply, [data])
        assert WORD not in out.decode()
        assert [(call.name, call.recovered) for call in judged] == [(kind, True)]
        assert SECRET in judged[0].arguments.replace('\\"', '"')
        assert f"[gatehouse:withheld tool={kind}]" in out.decode()
        assert reply.withheld == ["unknown_item"]
        assert reply.held == 1
        assert reply.finish_reasons == ("stop",)


@pytest.mark.parametrize("place", ["chunk", "choice"])
def test_a_call_beside_the_message_stays(place: str) -> None:
    strange = chunk(content="hi")
    (strange if place == "chunk" else strange["choices"][0])["mcp_call"] = ITEM  # type: ignore[index]
    reply = stream()
    out, judged = drive(reply, [ended(strange)])
    assert WORD not in out.decode()
    assert [call.name for call in judged] == ["mcp_call"]
    assert parsed(out)[0]["choices"][0]["delta"] == {"content": "hi"}


@pytest.mark.parametrize("field", ["annotations", "audio", "reasoning_details", "citations"])
def test_what_is_no_call_is_left_out_and_counted(field: str) -> None:
    reply = stream()
    out, judged = drive(reply, [ended(chunk(content="hi"), chunk(**{field: [{"text": WORD}]}))])
    assert WORD not in out.decode()
    assert judged == []
    assert reply.withheld == ["unknown_field"]
    assert "gatehouse:" not in out.decode()


def test_fields_of_servers_that_say_nothing_stay() -> None:
    quiet = chunk(content="hi", function_call=None, tool_calls=[], annotations=None)
    quiet["system_fingerprint"], quiet["kv_transfer_params"], quiet["n_past"] = "fp", None, 7
    data = ended(quiet)
    out, judged = drive(stream(), [data])
    assert judged == []
    assert out.startswith(sse(quiet))


@pytest.mark.parametrize("key", ["token_ids", "prompt_text", "prompt_logprobs"])
def test_tokens_of_a_call_do_not_leave_beside_it(key: str) -> None:
    strange = call_chunk(0, "shell", SECRET)
    strange["choices"][0][key] = [1, 2, WORD]  # type: ignore[index]
    out, _ = drive(stream(), [ended(strange, finish="tool_calls")], hold)
    assert WORD not in out.decode()
    assert "token_ids" not in out.decode()


def logprobs(*tokens: str) -> dict[str, Any]:
    return {
        "content": [
            {"token": token, "logprob": -0.5, "bytes": [*token.encode()], "top_logprobs": []} for token in tokens
        ]
    }


def test_log_probabilities_do_not_spell_a_call() -> None:
    said, called = chunk(content="Hi there"), call_chunk(0, "shell", SECRET)
    said["choices"][0]["logprobs"] = logprobs("Hi", " there")  # type: ignore[index]
    called["choices"][0]["logprobs"] = logprobs(SECRET)  # type: ignore[index]
    called["choices"][0]["delta"]["content"] = "."  # type: ignore[index]
    more, last = chunk(content="!"), chunk(finish="tool_calls")
    more["choices"][0]["logprobs"] = logprobs("!", SECRET)  # type: ignore[index]
    last["choices"][0]["logprobs"] = logprobs(SECRET)  # type: ignore[index]
    out, _ = drive(stream(), [sse(said, called, more, last, USAGE, "[DONE]")], hold)
    assert WORD not in out.decode()
    kept = [each["choices"][0].get("logprobs") for each in parsed(out)]
    assert [bool(each) for each in kept][:3] == [True, False, False]


def test_log_probabilities_of_a_whole_reply_leave_only_without_a_call() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "shell", "arguments": SECRET}}]
    out, _ = drive(ChatReply(NAMES), [whole("tool_calls", {"logprobs": logprobs(SECRET)}, tool_calls=calls)], hold)
    assert WORD not in out.decode()
    out, _ = drive(ChatReply(NAMES), [whole(choice={"logprobs": logprobs("hi")})])
    assert json.loads(out)["choices"][0]["logprobs"] == logprobs("hi")


def test_log_probabilities_are_untouched_where_nothing_can_be_called() -> None:
    said = chunk(content="é")
    said["choices"][0]["logprobs"] = logprobs("\\xc3", "\\xa9")  # type: ignore[index]
    out, _ = drive(ChatStream(False, FRAMING), [ended(said)])
    assert parsed(out)[0]["choices"][0]["logprobs"] == logprobs("\\xc3", "\\xa9")


PARTS: list[Any] = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Hello "}, "there",
    {"type": "tool_use", "id": "x", "name": "shell", "input": {"command": WORD}},
]  # fmt: skip


def test_content_in_parts_becomes_text_without_its_calls() -> None:
    for reply, data in (
        (stream(), ended(chunk(content=PARTS))),
        (ChatReply(NAMES), whole(content=PARTS, reasoning=None)),
    ):
        out, judged = drive(reply, [data])
        assert WORD not in out.decode()
        assert [call.name for call in judged] == ["tool_use"]
        assert '"content":"Hello there' in out.decode()
        assert '"reasoning_content":"Hm."' in out.decode()


@pytest.mark.parametrize("dialect", [Dialect.RESPONSES, Dialect.MESSAGES])
@pytest.mark.parametrize("streamed", [True, False])
def test_content_in_parts_loses_its_calls_in_translation_too(dialect: Dialect, streamed: bool) -> None:
    talk: Any = {"input": "x"} if dialect is Dialect.RESPONSES else {"messages": [{"role": "user", "content": "x"}]}
    body = talk | ({} if dialect is Dialect.RESPONSES else {"max_tokens": 9})
    codec = make_codecs()[dialect]
    reply = codec.filter(codec.read({**body, "stream": streamed}), FRAMING)
    out, judged = drive(reply, [ended(chunk(content=PARTS)) if streamed else whole(content=PARTS)])
    assert WORD not in out.decode()
    assert [call.name for call in judged] == ["tool_use"]
    assert "Hello there" in out.decode()
    assert reply.withheld == ["unknown_item"]


@pytest.mark.parametrize("content", [5, {"text": "x"}, [{"type": "text"}], [5]])
def test_content_of_another_shape_is_an_engine_failure(content: Any) -> None:
    for reply, data in ((stream(), ended(chunk(content=content))), (ChatReply(NAMES), whole(content=content))):
        with pytest.raises(EngineFailed):
            drive(reply, [data])


HIDDEN = '"delta":{"tool_calls":[{"index":0,"function":{"name":"shell","arguments":"kubectl delete namespace"}}]}'


@pytest.mark.parametrize(
    "event",
    [
        '{"id":"x","choices":[{"index":0,' + HIDDEN + ',"delta":{"content":"a"},"finish_reason":null}]}',
        '{"id":"x","choices":[{"index":0,"delta":{"content":"a"},' + HIDDEN + ',"finish_reason":null}]}',
        '{"choices":[{"index":0,' + HIDDEN + '}],"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}',
        '{"x":{' + HIDDEN + '},"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}',
        '{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"calls":[{' + HIDDEN + "}]}",
        '{"choices":[{"index":0,"delta":{"content":"a"}},{"index":1,' + HIDDEN + "}]}",
    ],
)
def test_nothing_hides_beside_a_text(event: str) -> None:
    again = event.replace('"a"', '"b"')
    reply = stream()
    reply.feed(sse(chunk(content="first"), event, again))
    out = b""
    while (step := reply.step()) is not None:
        out += getattr(step, "data", b"")
    assert WORD not in out.decode()


def test_bytes_that_are_no_text_break_the_stream() -> None:
    broken = sse(chunk(content="ab")).replace(b"ab", b"a\xff")
    with pytest.raises(EngineFailed):
        drive(stream(), [sse(chunk(content="ok")), broken])


def test_text_after_the_end_of_a_choice_is_a_failure() -> None:
    with pytest.raises(EngineFailed):
        drive(stream(), [sse(chunk(content="a"), chunk(finish="stop"), chunk(content="b"), USAGE, "[DONE]")])


def test_a_choice_that_never_ends_is_no_answer() -> None:
    with pytest.raises(EngineFailed):
        drive(stream(), [sse(chunk(0, content="a"), chunk(1, content="b"), chunk(0, finish="stop"), USAGE, "[DONE]")])


def test_text_leaves_as_the_bytes_it_came_in_also_where_calls_are_looked_for() -> None:
    texts = ["plain", " a < b", "c[0] = `d`", "\n```py\n", 'é\t"q"\\', "</div>", "[TOOL", " chain]", "<|", "x"]
    spoken = [chunk(content=text) for text in texts]
    out, _ = drive(stream(), [ended(*spoken)])
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in parsed(out)) == "".join(texts)
    for text in ("plain", " a < b", "c[0] = `d`", "</div>"):
        assert sse(chunk(content=text)) in out


LEAK = '<tool_call>{"name":"shell","arguments":{"command":"kubectl delete namespace"}}</tool_call>'


def test_a_leak_is_judged_by_itself_and_does_not_stop_proper_calls() -> None:
    data = ended(
        chunk(reasoning=LEAK), chunk(content="Go."), call_chunk(0, "shell", '{"command":"ls"}'), finish="tool_calls"
    )
    reply = stream()
    out, judged = drive(reply, [data])
    assert [(call.defect, call.name) for call in judged] == [(LEAKED, "shell"), (None, "shell")]
    assert judged[0].arguments == LEAK.removesuffix("</tool_call>")
    assert WORD not in out.decode()
    last = parsed(out)[-1]
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert [each["state"] for each in last["x_gatehouse"]["held"]] == ["withheld"]
    assert reply.withheld == ["leaked"]


def test_a_leak_does_not_change_how_a_reply_ended() -> None:
    out, judged = drive(stream(), [ended(chunk(content=LEAK), finish="length")])
    assert [call.defect for call in judged] == [LEAKED]
    assert parsed(out)[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("before", [["abc", "```", "\n"], ["abc ", "`", "x\n"], ["- a\n", "b", "~~~\n"]])
def test_what_passes_on_the_fast_path_counts_for_what_is_code(before: list[str]) -> None:
    out, judged = drive(stream(), [ended(*(chunk(content=text) for text in (*before, LEAK)))])
    assert len(judged) == 1
    assert WORD not in out.decode()


def test_without_tools_nothing_can_leak() -> None:
    data = ended(chunk(content=LEAK))
    out, judged = drive(ChatStream(False, FRAMING), [data])
    assert judged == []
    assert sse(chunk(content=LEAK)) in out


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_a_leak_is_looked_for_whatever_the_client_wants_called(choice: str) -> None:
    tools: JsonValue = [{"type": "function", "function": {"name": "shell", "parameters": {}}}]
    codec = make_codecs()[Dialect.CHAT]
    talk: JsonValue = [{"role": "user", "content": "x"}]
    asked = codec.read({"messages": talk, "tools": tools, "tool_choice": choice, "stream": True})
    out, judged = drive(codec.filter(asked, FRAMING), [ended(chunk(content=LEAK))])
    assert len(judged) == 1
    assert WORD not in out.decode()


@pytest.mark.parametrize(
    "second",
    [
        call_chunk(0, "other", "{}"),
        call_chunk(0, "shell", "{}", call_id="call_other"),
        chunk(tool_calls=[{"index": 0, "type": "custom"}]),
    ],
)
def test_a_call_that_contradicts_itself_is_never_released_even_if_a_gate_says_so(second: dict[str, Any]) -> None:
    reply = stream()
    out, judged = drive(reply, [ended(call_chunk(0, "shell", SECRET), second, finish="tool_calls")], release)
    assert judged[0].defect is not None
    assert WORD not in out.decode()
    assert '"tool_calls"' not in out.decode()
    assert parsed(out)[-1]["choices"][0]["finish_reason"] == "stop"
    assert reply.withheld in (["broken"], ["unknown_item"])


@pytest.mark.parametrize("reply", [CompletionStream(False, FRAMING), CompletionReply()])
def test_a_completion_has_no_place_for_a_call(reply: CompletionStream | CompletionReply) -> None:
    choice = {"index": 0, "text": "hi", "finish_reason": "stop", "tool_calls": [ITEM]}
    body = {"id": "c", "choices": [choice]}
    data = sse(body, "[DONE]") if isinstance(reply, CompletionStream) else json.dumps(body).encode()
    out, judged = drive(reply, [data])
    assert WORD not in out.decode()
    assert [call.name for call in judged] == ["tool_calls"]
    assert reply.withheld == ["unknown_item"]
    assert '"state":"withheld"' in out.decode()
    assert '"text":"hi"' in out.decode()


@pytest.mark.parametrize("field", ["functions", "function_call"])
def test_the_old_way_to_offer_functions_is_refused_and_the_new_one_named(field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_codecs()[Dialect.CHAT].read({"messages": [{"role": "user", "content": "x"}], field: [{"name": "f"}]})
    assert (caught.value.param, caught.value.code) == (field, "unsupported_parameter")
    assert "tool" in str(caught.value)


def call_named(name: str, defect: str | None = None) -> ToolCall:
    return ToolCall(name, 0, 0, name, "{}", defect=defect)


def test_no_gate_can_release_what_comes_after_a_call_that_stays() -> None:
    calls = [call_named(name) for name in "abc"]
    verdicts: list[Verdict] = [release(calls[0]), hold(calls[1]), release(calls[2])]
    assert lawful(calls, verdicts) == [verdicts[0], verdicts[1], Withheld(calls[2], EARLIER)]


@pytest.mark.parametrize("verdict", [release, hold, lambda call: Withheld(call, "other")])
def test_no_gate_can_release_or_hold_what_has_a_defect(verdict: Any) -> None:
    call = call_named("a", "broken")
    assert lawful([call], [verdict(call)]) == [Withheld(call, "broken")]


def test_verdicts_on_other_calls_are_a_bug() -> None:
    one, other = call_named("a"), call_named("b")
    for verdicts in ([release(other)], [], [release(one), release(other)]):
        with pytest.raises(RuntimeError):
            lawful([one], verdicts)


def test_what_was_withheld_is_told_in_one_line_without_its_words() -> None:
    verdict = Withheld(ToolCall("x", 0, 0, "she ll]\n[gatehouse:held", SECRET, defect=LEAKED), LEAKED)
    assert notices([verdict]).startswith("[gatehouse:withheld tool=she?ll???gatehouse?held] Not executed.")
    assert "\n" not in notices([verdict])
    assert held_objects([verdict])[0] == {
        "call_id": "x", "approval_id": None, "state": "withheld", "risk": None, "reasons": [LEAKED],
        "plan_required": False,
    }  # fmt: skip
