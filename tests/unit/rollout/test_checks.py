import json
from typing import Any

import pytest

from deployments.rollout.cases import Case, Reply
from deployments.rollout.checks import passes

TOOLS = [{"type": "function", "function": {"name": "scale", "parameters": {"type": "object"}}}]
SCHEMA = {"type": "object", "properties": {"pod": {"const": "web"}}, "required": ["pod"], "additionalProperties": False}


def case(checks: dict[str, Any], **more: Any) -> Case:
    return Case.model_validate({
        "name": "one", "family": "code", "prompt": "?", "checks": checks, "example": "x", **more,
    })  # fmt: skip


def call(name: str = "scale", **arguments: object) -> Reply:
    return Reply("", "tool_calls", ((name, json.dumps(arguments)),))


@pytest.mark.parametrize(
    ("checks", "good", "bad"),
    [
        ({"expects": r"\b4\b"}, ["It is 4."], ["It is 44.", ""]),
        ({"expects": "yes", "avoids": "(?i)sorry"}, ["yes"], ["yes, sorry", "no"]),
        (
            {"json_schema": SCHEMA},
            ['{"pod": "web"}', '```json\n{"pod": "web"}\n```'],
            ['{"pod": "db"}', "{}", '{"pod": "web", "more": 1}', "pod: web", '{"pod": "web"} there', "[" * 100_000],
        ),
        (
            {"python": ["add"]},
            [
                "```python\ndef add(a, b):\n    return a + b\n```",
                "def add(a, b):\n    return a + b",
                "```\ndef add(a, b):\n    return a + b\n```",
                "```python\ndef add(a, b):\n    return a + b\n```\nIt prints:\n```\nthe sum is 3\n```",
            ],
            ["```python\ndef add(a, b)\n    return a + b\n```", "def sub(a, b):\n    return a", "", "add(1, 2)"],
        ),
        ({"python": []}, ["x = 1"], ["x = ", "\0"]),
    ],
    ids=["expects", "avoids", "json", "python", "parses"],
)
def test_a_text_is_what_was_asked_for_or_not(checks: dict[str, Any], good: list[str], bad: list[str]) -> None:
    for text in good:
        assert passes(case(checks), Reply(text)), text
    for text in bad:
        assert not passes(case(checks), Reply(text)), text


def test_a_call_is_the_one_that_was_asked_for_or_not() -> None:
    wanted = case(
        {"tool_call": {"name": "scale", "arguments": {"replicas": 4}, "matches": {"target": r"\Aweb\b"}}}, tools=TOOLS
    )
    assert passes(wanted, call(replicas=4, target="web-1"))
    assert passes(wanted, call(replicas=4, target="web", more=True))
    for reply in (
        call(replicas=3, target="web"),
        call(replicas="4", target="web"),
        call(replicas=4, target="db"),
        call(replicas=4, target=["web"]),
        call(replicas=4),
        call("drain", replicas=4, target="web"),
        Reply("", "tool_calls", (("scale", "{not json"),)),
        Reply("", "tool_calls", (("scale", "[1]"),)),
        Reply("", "tool_calls", call(replicas=4, target="web").calls * 2),
        Reply("I would scale it."),
    ):
        assert not passes(wanted, reply), reply


def test_true_is_no_number() -> None:
    one = case({"tool_call": {"name": "scale", "arguments": {"replicas": 1, "wait": True}}}, tools=TOOLS)
    assert passes(one, call(replicas=1.0, wait=True))
    assert not passes(one, call(replicas=True, wait=True))
    assert not passes(one, call(replicas=1, wait=1))


def test_who_is_asked_for_words_makes_no_call() -> None:
    words = case({"expects": "."}, tools=TOOLS)
    assert passes(words, Reply("It has four."))
    assert not passes(words, Reply("It has four.", "tool_calls", call(replicas=4).calls))


def test_no_answer_passes_that_is_cut_off_or_goes_round_in_circles() -> None:
    words = case({"expects": "web"})
    assert not passes(words, Reply("The pod is web", "length"))
    assert passes(case({"expects": "web", "may_be_cut": True}), Reply("The pod is web", "length"))
    assert not passes(case({"expects": "web", "may_be_cut": True}), Reply("The pod is web. " * 200, "length"))
    assert not passes(words, Reply("The pod is web. " * 200))
    assert not passes(words, Reply("```python\nweb = 1\n"))
    assert not passes(words, Reply("web " + "x" * 300_000))


def test_a_pattern_that_takes_for_ever_finds_nothing() -> None:
    assert not passes(case({"expects": r"\A(?:a|a|b?a)*c\Z"}), Reply("a" * 40 + "d"))
