"""Filling in the middle: templates, and what a chat model's answer goes through to become a completion."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.errors import EngineFailed
from deployments.ingress.dialects.fim import PRESETS, FimAsk, FimTemplate, MiddleWriter, Stops, Unfenced
from deployments.ingress.dialects.translated import TranslatedReply
from deployments.ingress.dialects.values import Failure
from tests.fakes import FRAMING, USAGE, call_chunk, chunk, json_reply, sse
from tests.unit.ingress.test_chat_stream import RECEIPT, drive, hold, parsed

ASK = FimAsk("def add(a, b):\n", "\n\nprint(add(1, 2))", True)
FENCED = "```python\n    total = a + b\n\n    return total\n```\n"
CODE = "    total = a + b\n\n    return total"


def writer(ask: FimAsk = ASK, include_usage: bool = False) -> MiddleWriter:
    return MiddleWriter(ask, FRAMING, include_usage)


def answer(*texts: str, finish: str = "stop") -> bytes:
    said = [chunk(role="assistant", content=""), chunk(reasoning="Secret thoughts"), *(chunk(content=t) for t in texts)]
    return sse(*said, chunk(finish=finish), USAGE, "[DONE]")


def middle(out: bytes) -> str:
    return "".join(event["choices"][0]["text"] for event in parsed(out) if event["choices"])


@pytest.mark.parametrize(
    ("preset", "prompt"),
    [
        ("qwen2.5-coder", "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"),
        ("codellama", "<PRE> a <SUF>b <MID>"),
        ("starcoder2", "<fim_prefix>a<fim_suffix>b<fim_middle>"),
        ("deepseek-coder", "<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>"),
        ("codestral", "[SUFFIX]b[PREFIX]a"),
    ],
)
def test_a_family_is_asked_in_its_own_tokens(preset: str, prompt: str) -> None:
    assert PRESETS[preset].render("a", "b") == prompt
    assert PRESETS[preset].stop


def test_more_stops_come_after_the_familys_own() -> None:
    assert FimTemplate("<", "|", ">", ("one",)).with_stops(["two"]).stop == ("one", "two")


# --- fences ------------------------------------------------------------------------------------------------------


def unfenced(*pieces: str) -> str:
    state = Unfenced()
    return "".join([state.feed(piece) for piece in pieces]) + state.end()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("    return a + b", "    return a + b"),
        (FENCED, CODE),
        ("\n```\nx\n```", "x"),
        ("```c++\r\nx\r\n```\r\n", "x\r"),
        ("```\nx\n```\nThis adds two numbers.", "x"),
        ("````md\n```\nx\n```\n````", "```\nx\n```"),
        ("```py\nx\n  ```  ", "x"),
        ("```py\nx\n\n```", "x\n"),
        ("```py\nx = '''`'''\n``` # not the end\ny\n```", "x = '''`'''\n``` # not the end\ny"),
        ("```py\ncut by the lim", "cut by the lim"),
        ("```py\ncut after a line\n", "cut after a line\n"),
        ("```py\ncut in the closing line\n``", "cut in the closing line\n``"),
        ("```py\n```", ""),
        ("```inline``` code", "```inline``` code"),
        ("```", "```"),
        ("  \n  ", "  \n  "),
        ("", ""),
        ("`x`", "`x`"),
        ("text\n```py\nx\n```", "text\n```py\nx\n```"),
        ("```" + "a" * 41 + "\nx\n```", "```" + "a" * 41 + "\nx\n```"),
    ],
)
def test_one_fence_around_the_answer_is_taken_off(text: str, expected: str) -> None:
    assert unfenced(text) == expected
    assert unfenced(*text) == expected


@given(
    st.lists(st.sampled_from(["```", "`", "\n", " ", "x", "py", "\r", "\t" * 63, "  ", "`" * 14]), max_size=14),
    st.lists(st.integers(0, 40), max_size=8),
)
@example(["\t" * 63, "  ", "```", "\n", "x"], [3, 64])
def test_a_fence_is_found_however_the_text_is_cut(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert unfenced(*pieces) == unfenced(text)


def test_text_without_a_fence_is_not_held_back() -> None:
    state = Unfenced()
    assert [state.feed(piece) for piece in ("  ", "a", "\n", "``", "b")] == ["", "  a", "\n", "``", "b"]


def test_only_a_line_that_may_close_the_fence_is_held_back() -> None:
    state = Unfenced()
    said = [state.feed(piece) for piece in ("```py\n", "a", "\n", "b", "\n", "`", "c")]
    assert said == ["", "a", "", "\nb", "", "", "\n`c"]


# --- stop strings ------------------------------------------------------------------------------------------------


def stopped(stops: list[str], *pieces: str) -> tuple[str, bool]:
    state = Stops(stops)
    text = "".join([state.feed(piece) for piece in pieces]) + state.end()
    return text, state.hit


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["\n\n"], "a\nb\n\nc", ("a\nb", True)),
        (["\n\n"], "a\nb\n", ("a\nb\n", False)),
        (["end", "e"], "the end", ("th", True)),
        (["abc", "b"], "abc", ("a", True)),
        (["aab"], "aaab", ("a", True)),
        ([], "anything", ("anything", False)),
    ],
)
def test_a_text_ends_before_its_stop_string(stops: list[str], text: str, expected: tuple[str, bool]) -> None:
    assert stopped(stops, text) == expected
    assert stopped(stops, *text) == expected


@given(
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4),
    st.text("ab\n", max_size=20),
    st.lists(st.integers(0, 20), max_size=6),
)
def test_a_stop_string_is_found_however_the_text_is_cut(stops: list[str], text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert stopped(stops, *pieces) == stopped(stops, text)


def test_nothing_is_held_back_that_cannot_begin_a_stop_string() -> None:
    state = Stops(["\n\n"])
    assert [state.feed(piece) for piece in ("ab", "c\n", "d")] == ["ab", "c", "\nd"]


# --- the reply ---------------------------------------------------------------------------------------------------


def test_a_chat_answer_becomes_a_completion_that_says_it_was_emulated() -> None:
    out, _ = drive(TranslatedReply(writer(), True), [answer(*FENCED)])
    events = parsed(out)
    assert middle(out) == CODE
    assert {event["object"] for event in events} == {"text_completion"}
    assert {event["id"] for event in events} == {f"cmpl-{FRAMING.reply_id}"}
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["x_gatehouse"] == {"fim": "emulated"}
    assert out.endswith(b"data: [DONE]\n\n")


def test_reasoning_never_becomes_text() -> None:
    out, _ = drive(TranslatedReply(writer(), True), [answer("x")])
    assert b"Secret" not in out
    out, _ = drive(TranslatedReply(writer(), False), [json_reply("x")[1]])
    assert b"thinking" not in out


def test_the_audit_record_is_quoted_beside_the_mark() -> None:
    reply = TranslatedReply(writer(), True)
    reply.receipt(RECEIPT)
    out, _ = drive(reply, [answer("x")])
    assert parsed(out)[-1]["x_gatehouse"] == {"fim": "emulated", "audit": {"index": 3, "leaf": "03" * 32}}


def test_usage_is_told_to_who_asked_for_it() -> None:
    out, _ = drive(TranslatedReply(writer(include_usage=True), True), [answer("x")])
    last = parsed(out)[-1]
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (11, 5)
    out, _ = drive(TranslatedReply(writer(), True), [answer("x")])
    assert b"usage" not in out


def test_a_json_answer_is_one_completion() -> None:
    reply = TranslatedReply(writer(), False)
    out, _ = drive(reply, [json_reply(FENCED, finish="length")[1]])
    body = json.loads(out)
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": CODE, "logprobs": None, "finish_reason": "length"}]
    assert body["usage"]["total_tokens"] == 16
    assert body["x_gatehouse"] == {"fim": "emulated"}
    assert reply.usage is not None


def test_a_clients_stop_string_ends_the_text_and_not_the_reasoning() -> None:
    ask = FimAsk("a", "b", True, ("thoughts", "\n\n"))
    out, _ = drive(TranslatedReply(writer(ask), True), [answer("one\n", "\ntwo", "three", finish="length")])
    assert middle(out) == "one"
    assert parsed(out)[-1]["choices"][0]["finish_reason"] == "stop"


def test_fences_stay_where_the_document_has_its_own() -> None:
    ask = FimAsk("# Usage\n\n```sh\nmake\n```\n\n", "\n", True)
    out, _ = drive(TranslatedReply(writer(ask), True), [answer(FENCED)])
    assert middle(out) == FENCED


def test_a_call_that_nobody_offered_leaves_no_trace() -> None:
    recorded = sse(chunk(content="x"), call_chunk(0, "shell", '{"command":"rm"}'), chunk(finish="tool_calls"), USAGE,
                   "[DONE]")  # fmt: skip
    for rule in (hold, None):
        reply = TranslatedReply(writer(), True)
        out, judged = drive(reply, [recorded], rule) if rule else drive(reply, [recorded])
        assert len(judged) == 1
        assert middle(out) == "x"
        assert parsed(out)[-1]["choices"][0]["finish_reason"] == "stop"
        assert b"shell" not in out
        assert b"[gatehouse:" not in out


@given(data=st.data())
def test_any_chunking_gives_the_same_bytes(data: st.DataObject) -> None:
    recorded = answer("```py", "thon\nGrüße\n", "\nx = '`'\n", "``", "`\n", "Done.")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(recorded)), max_size=40)))
    pieces = [recorded[a:b] for a, b in zip([0, *cuts], [*cuts, len(recorded)], strict=True)]
    ask = FimAsk("a", "b", True, ("nowhere",))
    whole, _ = drive(TranslatedReply(writer(ask, True), True), [recorded])
    out, _ = drive(TranslatedReply(writer(ask, True), True), pieces)
    assert out == whole
    assert middle(out) == "Grüße\n\nx = '`'"


@given(text=st.text("`\n ax", max_size=30), cuts=st.lists(st.integers(0, 30), max_size=6))
def test_a_stream_and_a_json_answer_hold_the_same_text(text: str, cuts: list[int]) -> None:
    ask = FimAsk("a", "b", True, ("xx",))
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    streamed, _ = drive(TranslatedReply(writer(ask), True), [answer(*pieces)])
    whole, _ = drive(TranslatedReply(writer(ask), False), [json_reply(text)[1]])
    assert middle(streamed) == json.loads(whole)["choices"][0]["text"]


@pytest.mark.parametrize("lost", [1, len(b"data: [DONE]\n\n"), 200])
def test_a_cut_stream_never_looks_complete(lost: int) -> None:
    with pytest.raises(EngineFailed):
        drive(TranslatedReply(writer(), True), [answer("x")[:-lost]])


def test_silence_is_a_comment_and_then_an_empty_event() -> None:
    assert writer().keepalive(15.0).startswith(b":")
    (event,) = parsed(writer().keepalive(60.0))
    assert event["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": None}]


def test_a_stream_that_breaks_off_ends_with_the_error() -> None:
    assert writer().failed(Failure("timeout", "late", b'{"error":{}}')) == b'data: {"error":{}}\n\n'


def test_another_attempt_begins_with_an_empty_text() -> None:
    first = writer(FimAsk("a", "b", True, ("\n",)))
    first.text("half")
    out, _ = drive(TranslatedReply(first.again(), True), [answer("one\ntwo")])
    assert middle(out) == "one"
