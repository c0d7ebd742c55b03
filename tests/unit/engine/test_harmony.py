import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engine.harmony import Control, Finished, Header, RecoveringParser, read_header

MARKS = {
    "<|start|>": Control.START,
    "<|end|>": Control.END,
    "<|message|>": Control.MESSAGE,
    "<|channel|>": Control.CHANNEL,
    "<|constrain|>": Control.CONSTRAIN,
    "<|return|>": Control.RETURN,
    "<|call|>": Control.CALL,
    "<|endoftext|>": Control.END_OF_TEXT,
    "<|reserved|>": 200123,
}


class Bytes:
    """A vocabulary with one token per byte: the finest fragmentation there is."""

    def decode(self, tokens: Sequence[int], errors: str = "replace") -> str:
        return bytes(tokens).decode("utf-8", errors=errors)

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = []
        for part in re.split(r"(<\|\w+\|>)", text):
            tokens += [int(MARKS[part])] if part in MARKS else list(part.encode())
        return tokens


def parse(text: str) -> tuple[list[Finished], list[str], str]:
    """Messages, notes, and all text that a stream would have shown."""
    return run(Bytes(), Bytes().encode(text))


def run(vocabulary: Any, tokens: Sequence[int]) -> tuple[list[Finished], list[str], str]:
    notes: list[str] = []
    parser = RecoveringParser(vocabulary, lambda done: done, notes)
    shown = ""
    for token in tokens:
        before = len(parser.messages)
        parser.process(token)
        assert len(parser.messages) - before <= 1
        if len(parser.messages) == before:  # vLLM shows no text of a step that finishes a message
            shown += parser.last_content_delta or ""
    parser.process_eos()
    return parser.messages, notes, shown


def says(text: str, channel: str = "final") -> Finished:
    return Finished("assistant", channel, None, None, text)


CALL = Finished("assistant", "commentary", "functions.f", "json", '{"a":1}')
WELL_FORMED = [
    ("<|channel|>final<|message|>hi<|return|>", [says("hi")]),
    (
        "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>hé<|return|>",
        [says("x", "analysis"), says("hé")],
    ),
    ('<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}<|call|>', [CALL]),
    ('<|channel|>commentary to=functions.f<|constrain|>json<|message|>{"a":1}<|call|>', [CALL]),
    ('<|channel|>commentary to=functions.f json<|message|>{"a":1}<|call|>', [CALL]),
    (' to=functions.f<|channel|>commentary <|constrain|>json<|message|>{"a":1}<|call|>', [CALL]),
    (
        "<|channel|>analysis<|message|>x<|end|><|start|>assistant to=functions.f<|channel|>commentary json"
        '<|message|>{"a":1}<|call|>',
        [says("x", "analysis"), CALL],
    ),
    ("<|channel|>final<|message|>cut by a lim", [says("cut by a lim")]),
    ('<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}', [CALL]),
]


@pytest.mark.parametrize(("text", "expected"), WELL_FORMED)
def test_well_formed_output_is_read_without_a_note(text: str, expected: list[Finished]) -> None:
    messages, notes, shown = parse(text)
    assert (messages, notes) == (expected, [])
    assert shown == "".join(message.text for message in expected)


@pytest.mark.parametrize("header", ["final json", "final <|constrain|>json", "final<|constrain|>json"])
def test_structured_output_is_an_answer_and_not_a_call_of_a_tool_named_json(header: str) -> None:
    messages, notes, _ = parse(f'<|channel|>{header}<|message|>{{"a":1}}<|return|>')
    assert messages == [Finished("assistant", "final", None, "json", '{"a":1}')]
    assert notes == []


def test_a_header_cut_by_a_limit_leaves_nothing_and_no_note() -> None:
    for cut in (
        "<|channel|>",
        "<|channel|>analysis",
        "<|channel|>commentary to=functions.ge",
        "<|channel|>final <|con",
    ):
        assert parse(cut.replace("<|con", "<|constrain|>js")) == ([], [], "")


MALFORMED = [
    # what the model wrote, what comes out
    ("<|channel|>analysis<|message|>x<|end|><|end|>", [says("x", "analysis")]),
    ("<|channel|>final<|message|>hi<|return|><|return|>", [says("hi")]),
    ("<|channel|>final I cannot help.<|return|>", [says("I cannot help.")]),
    ("<|channel|>final I cannot help.", [says("I cannot help.")]),
    ("I cannot help.<|return|>", [says("I cannot help.")]),
    ("<|channel|>analysis<|message|>x<|end|>assistantfinal hello<|return|>", [says("x", "analysis"), says(" hello")]),
    ("<|channel|>analysis<|message|>x<|end|>final Hello<|return|>", [says("x", "analysis"), says(" Hello")]),
    ("<|channel|>analysis<|message|>x<|end|>finally done<|return|>", [says("x", "analysis"), says("finally done")]),
    ("<|channel|>analysis<|message|>x<|end|>Sorry, no.<|return|>", [says("x", "analysis"), says("Sorry, no.")]),
    (
        "<|channel|>analysis think<|end|><|start|>assistant<|channel|>final<|message|>hi<|return|>",
        [says("think", "analysis"), says("hi")],
    ),
    ("Hello world", [says("Hello world")]),
    ("to be or not<|return|>", [says("to be or not")]),
    ("<|message|>hi<|return|>", [says("hi")]),
    ("<|channel|>banana<|message|>hi<|return|>", [says("hi")]),
    ("<|channel|>finals<|message|>hi<|return|>", [says("hi")]),
    (
        "<|channel|>analysis<|message|>x<|start|>assistant<|channel|>final<|message|>hi<|return|>",
        [says("x", "analysis"), says("hi")],
    ),
    ("<|channel|>analysis<|message|>x<|channel|>final<|message|>hi<|return|>", [says("x", "analysis"), says("hi")]),
    (
        "<|channel|>analysis<|message|>x<|end|><|channel|>final<|message|>hi<|return|>",
        [says("x", "analysis"), says("hi")],
    ),
    (
        "<|channel|>analysis<|message|>x<|end|>assistantfinal<|message|>hi<|return|>",
        [says("x", "analysis"), says("hi")],
    ),
    ("<|channel|>final<|message|>h<|message|>i<|constrain|><|reserved|><|return|>", [says("hi")]),
    ("<|channel|>final<|message|>hi<|return|>   assistant", [says("hi")]),
    ("<|start|>assistant<|channel|>final<|message|>hi<|return|>", [says("hi")]),
    ("<|channel|>final<|constrain|>json<|return|>", []),
    ('<|channel|>final<|constrain|>json{"a":1}<|return|>', [says('{"a":1}')]),
]


@pytest.mark.parametrize(("text", "expected"), MALFORMED)
def test_malformed_output_is_repaired_and_says_so(text: str, expected: list[Finished]) -> None:
    messages, notes, _ = parse(text)
    assert messages == expected
    assert notes


@pytest.mark.parametrize(
    "text",
    [
        '<|channel|>commentary to=functions.f <|constrain|>json{"a":1}<|call|>',
        '<|channel|>commentary to=functions.f {"a":1}<|call|>',
        '<|channel|>final<|message|>x<|end|>assistantcommentary to=functions.f json{"a":1}<|call|>',
        "<|channel|>final<|message|>x<|end|>to=functions.f<|call|>",
        '<|channel|>commentary to=<|message|>{"a":1}<|call|>',
        '<|channel|>commentary to=" f"<|message|>{"a":1}<|call|>',
        '<|start|>user to=functions.f<|channel|>commentary<|message|>{"a":1}<|call|>',
        '<|start|>functions.f to=assistant<|channel|>commentary<|message|>{"a":1}<|end|>',
        "<|channel|>final json to=x<|return|>",
    ],
)
def test_text_never_becomes_a_call(text: str) -> None:
    messages, notes, _ = parse(text)
    assert all(message.recipient is None for message in messages)
    assert notes


@pytest.mark.parametrize(
    ("header", "tool"),
    [
        ("commentary to=functions.web-browsing junk", "functions.web-browsing"),
        ("commentary to=functions.f to=functions.g", "functions.f"),
        ("commentary to=functions.f\u20ac", "functions.f"),
        ("comentary to=functions.f", "functions.f"),
    ],
)
def test_a_call_from_a_broken_header_is_marked(header: str, tool: str) -> None:
    messages, notes, _ = parse(f"<|channel|>{header}<|message|>{{}}<|call|>")
    assert [message.recipient for message in messages] == [tool]
    assert notes


def test_messages_of_other_roles_reach_nobody() -> None:
    messages, notes, _ = parse("<|channel|>final<|message|>a<|end|><|start|>user<|message|>do it<|end|>")
    assert [(message.role, message.channel) for message in messages] == [("assistant", "final"), ("user", None)]
    assert notes


def test_text_that_a_terminator_completes_is_shown_before_the_message_ends() -> None:
    _, _, shown = parse("<|channel|>analysis think<|end|><|start|>assistant<|channel|>final<|message|>hi<|return|>")
    assert shown == "thinkhi"


def spelled(text: str) -> list[int]:
    """The text as a model writes that spells its control tokens out, except for the terminator."""
    return [*text.encode(), int(Control.RETURN)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<|channel|>final json<|message|>{"a":1}', Finished("assistant", "final", None, "json", '{"a":1}')),
        (
            '<|channel|>final <|constrain|>json<|message|>{"a":1}',
            Finished("assistant", "final", None, "json", '{"a":1}'),
        ),
        ("<|channel|>analysis<|message|>x", says("x", "analysis")),
    ],
)
def test_an_answer_whose_control_tokens_are_spelled_out_is_an_answer(text: str, expected: Finished) -> None:
    for tokens in (spelled(text), [int(Control.CHANNEL), *spelled(text.removeprefix("<|channel|>"))]):
        messages, notes, _ = run(Bytes(), tokens)
        assert messages[0] == expected
        assert notes


def test_a_call_whose_control_tokens_are_spelled_out_is_text() -> None:
    for start in ([], [int(Control.CHANNEL)]):
        messages, notes, _ = run(Bytes(), [*start, *spelled("commentary to=functions.f json<|message|>{}")])
        assert [message.recipient for message in messages] == [None]
        assert notes


def test_an_answer_without_a_header_is_shown_as_it_comes() -> None:
    parser = RecoveringParser(Bytes(), lambda done: done, [])
    for token in b"Hello":
        parser.process(token)
    assert (parser.current_channel, parser.last_content_delta) == ("final", "o")


def test_notes_are_bounded() -> None:
    _, notes, _ = parse("<|channel|>final<|message|>" + "<|constrain|>" * 500)
    assert 0 < len(notes) <= 32


def test_a_header_is_read_from_its_parts() -> None:
    assert read_header("", "commentary to=functions.f ", "json") == Header(
        "assistant", "commentary", "functions.f", "json"
    )


tokens_of_a_bad_model = st.lists(
    st.sampled_from([*MARKS])
    | st.sampled_from(["assistant", "analysis", "final", "commentary", " to=functions.f", " json", "é", "hello", "{}"]),
    max_size=40,
)


@settings(max_examples=400, deadline=None)
@given(tokens_of_a_bad_model)
def test_nothing_that_a_model_writes_raises_or_leaks_markup(pieces: list[str]) -> None:
    messages, _, shown = parse("".join(pieces))
    for text in (shown, *(message.text for message in messages)):
        assert not any(mark in text for mark in MARKS)
    recipients = [message.recipient for message in messages if message.recipient is not None]
    assert all(re.fullmatch(r"functions\.f\w*", recipient, re.ASCII) for recipient in recipients)


# --- against openai_harmony itself ---


def test_control_tokens_are_those_of_the_vocabulary(harmony: Any) -> None:
    for mark, token in MARKS.items():
        if mark != "<|reserved|>":
            assert harmony.encode(mark, allowed_special="all") == [token]


def reference(harmony: Any, tokens: Sequence[int]) -> list[Finished]:
    import openai_harmony

    parser = openai_harmony.StreamableParser(harmony, openai_harmony.Role.ASSISTANT)
    for token in tokens:
        parser.process(token)
    parser.process_eos()
    return [
        Finished(
            str(message.author.role.value),
            message.channel,
            message.recipient,
            (message.content_type or "").removeprefix("<|constrain|>") or None,
            message.content[0].text,
        )
        for message in parser.messages
    ]


plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<|>"), max_size=40)
a_call = st.builds(
    lambda name, text: f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{text}<|call|>",
    st.from_regex(r"[a-z_]{1,12}", fullmatch=True),
    plain,
)
a_turn = st.builds(
    lambda thought, rest: f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant{rest}",
    plain,
    a_call | plain.map(lambda text: f"<|channel|>final<|message|>{text}<|return|>"),
)


@settings(max_examples=150, deadline=None)
@given(text=a_turn)
def test_well_formed_turns_are_read_as_openai_harmony_reads_them(harmony: Any, text: str) -> None:
    tokens = harmony.encode(text, allowed_special="all")
    messages, notes, shown = run(harmony, tokens)
    assert messages == reference(harmony, tokens)
    assert notes == []
    assert shown == "".join(message.text for message in messages)


@pytest.mark.parametrize(("text", "expected"), [*MALFORMED])
def test_real_tokens_are_repaired_like_single_bytes(harmony: Any, text: str, expected: list[Finished]) -> None:
    tokens = [
        token
        for part in re.split(r"(<\|\w+\|>)", text)
        for token in ([int(MARKS[part])] if part in MARKS else harmony.encode(part, disallowed_special=()))
    ]
    messages, notes, _ = run(harmony, tokens)
    assert messages == expected
    assert notes
