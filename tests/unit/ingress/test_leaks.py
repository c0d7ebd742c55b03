import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.ingress.dialects.leaks import MAX_HEAD, MAX_JSON, LeakScanner

NAMES = frozenset({"shell", "read_file", "ns__tool"})
WORDS = (
    "<|start|>", "<|channel|>", "<|message|>", "<|call|>", "<|end|>", "commentary", " to=functions.shell", "\n", " ",
    "=functions.", "= functions.shell json", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<function=",
    "shell", ">", "{", "}", '"', '{"name":"shell","arguments":{}}', '{"name":"other"}', "</function>", "`", "```",
    '<invoke name="shell">', "</invoke>", "~~~", "text", "\\", "<", "[", "=", "é🚀", "<|tool_call_begin|>",
    "<|tool_call_end|>", "<|python_tag|>",
)  # fmt: skip


def scanned(*pieces: str, names: frozenset[str] = NAMES) -> tuple[str, list[tuple[str, str]]]:
    scanner = LeakScanner(names)
    text = "".join(scanner.feed(piece) for piece in pieces) + scanner.end()
    return text, [(span.name, span.text) for span in scanner.spans]


@given(st.lists(st.sampled_from(WORDS), max_size=30), st.randoms())
def test_pieces_of_any_size_give_the_same_and_nothing_is_lost(words: list[str], rng: random.Random) -> None:
    text = "".join(words)
    places = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(20)))
    edges = [0, *places, len(text)]
    whole = scanned(text)
    assert scanned(*(text[a:b] for a, b in zip(edges, edges[1:], strict=False))) == whole
    assert scanned(*text) == whole
    if not whole[1]:
        assert whole[0] == text
    assert all(name == "" or name in NAMES for name, _ in whole[1])


@given(st.text(alphabet="abc <>[]{}=|\n\"'/\\`~_tolcain", max_size=400))
def test_text_without_an_offered_name_is_never_touched(text: str) -> None:
    assert scanned(text, names=frozenset({"zzz"})) == (text, [])


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a <|channel|>commentary to=functions.shell<|message|>{}<|call|> b", "a  b"),
        ("<|start|>assistant to=functions.shell<|channel|>commentary json<|message|>{}<|start|>x", "<|start|>x"),
        ("assistantcommentary to=functions.shell json{\"c\":\"}\"} b", "assistantcommentary to b"),
        ("<|channel|>commentary to=shell code<|message|>ls -la", ""),
        ('<tool_call>\n{"name": "shell", "arguments": {"c": "}"}}\n</tool_call>\nb', "\nb"),
        ('<tool_call>{"arguments": {}, "name": "SHELL"}</tool_call>', ""),
        ('<tool_call>{"arguments": {}, "n\\u0061me": "shell"}</tool_call>', ""),
        ('<tool_call>{"name": "shell"}\n{"name": "other", "arguments": 5}</tool_call>b', "b"),
        ('<|tool_call|>[{"name": "shell", "arguments": {}}]b', "b"),
        ("<tool_call>shell\n<arg_key>c</arg_key><arg_value>ls</arg_value>\n</tool_call>b", "b"),
        ("<tool_call>\n<function=shell>\n<parameter=c>\nls\n</parameter>\n</function>\n</tool_call>", "<tool_call>\n"),
        ("<function=shell>{}</function>b", "b"),
        ('[TOOL_CALLS][{"name":"shell"}]b', "b"),
        ('[TOOL_CALLS]shell[ARGS]{"a":[1]}[TOOL_CALLS]read_file{"a":1}b', "b"),
        ('<invoke name="shell"><parameter name="c">ls</parameter></invoke>b', "b"),
        ("<invoke name='ns__tool' id='1'>x</invoke>b", "b"),
        ("<|tool_call_begin|>functions.shell:0<|tool_call_argument_begin|>{}<|tool_call_end|>b", "b"),
        ("<｜tool▁call▁begin｜>function<｜tool▁sep｜>shell\n```json\n{}\n```<｜tool▁call▁end｜>b", "b"),
        ('<|python_tag|>shell.call(command="ls")<|eom_id|>b', "b"),
        ('x\n```\ncode\n```\n<tool_call>{"name":"shell"}</tool_call>', "x\n```\ncode\n```\n"),
        ('one ` tick\n<tool_call>{"name":"shell"}</tool_call>', "one ` tick\n"),
        ('`a` then <tool_call>{"name":"shell"}</tool_call>', "`a` then "),
    ],
)  # fmt: skip
def test_a_call_is_taken_out(text: str, left: str) -> None:
    found, spans = scanned(text)
    assert found == left
    assert spans
    assert scanned(*text) == (found, spans)


@pytest.mark.parametrize(
    "text",
    [
        "Harmony writes <|start|>assistant<|channel|>final<|message|>Hi<|return|>.",
        "<|channel|>analysis<|message|>The shell tool is to=be used.<|end|>",
        'Hermes writes <tool_call>{"name": "get_weather", "arguments": {}}</tool_call>.',
        '<tool_call>{"name": "get_weather"}</tool_call> and then {"name": "shell"} in prose',
        "The <tool_call> tag stands before a call of shell.", "<tool_call>",
        "<tool_call", "<|chan", "[TOOL_CA", "x = functions.other {",
        'Quoted: `<tool_call>{"name":"shell"}</tool_call>`.',
        'Double: ``<tool_call>{"name":"`shell`"}</tool_call>``.',
        '```xml\n<tool_call>{"name":"shell"}</tool_call>\n```',
        '~~~\n```\n<tool_call>{"name":"shell"}</tool_call>\n~~~',
        '- item\n    ````\n    ```\n<tool_call>{"name":"shell"}</tool_call>\n    ````',
        '> ```\n> <invoke name="shell">x</invoke>\n> ```',
        "const y = functions.shell(x); if (a < b && c[0] = d) {}",
        "<function=shell", "<invoke name=shell", "[TOOL_CALLS] marks calls; shell is one.",
    ],
)  # fmt: skip
def test_what_only_speaks_of_calls_stays(text: str) -> None:
    assert scanned(text) == (text, [])
    assert scanned(*text) == (text, [])


@pytest.mark.parametrize(
    "start", ["<tool_call>", "<|channel|>", "<invoke name=", "=functions.", "<function=", "[TOOL_CALLS]"]
)
def test_what_may_become_a_call_does_not_wait_for_ever(start: str) -> None:
    scanner = LeakScanner(NAMES)
    passed = "".join(scanner.feed(piece) for piece in (start, *(["x"] * (MAX_HEAD + 2))))
    assert passed.startswith(start)
    assert scanner.idle


def test_an_object_in_a_tag_for_calls_that_does_not_end_is_a_call() -> None:
    scanner = LeakScanner(NAMES)
    text = '<tool_call>{"arguments": "' + "x" * (2 * MAX_JSON)
    assert "".join(scanner.feed(each) for each in text) + scanner.end() == ""
    assert [span.text for span in scanner.spans] == [text]


def test_brackets_that_close_and_are_no_json_are_a_call() -> None:
    assert scanned("<tool_call>{name: 'shell'}</tool_call>b")[0] == "b"


def test_a_span_is_never_json_by_itself() -> None:
    _, spans = scanned('<tool_call>{"name":"shell","arguments":{}} {"name":"shell","arguments":{}}</tool_call>')
    assert [text[:11] for _, text in spans] == ["<tool_call>"]


def test_names_are_those_of_the_request() -> None:
    text = "<function=shell>{}</function>"
    assert scanned(text, names=frozenset({"bash"})) == (text, [])
    assert scanned(text, names=frozenset({"Shell"})) == ("", [("shell", text)])
