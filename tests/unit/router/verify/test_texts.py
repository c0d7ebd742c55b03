"""Answers as texts."""

import pytest

from router.types import Role, TaskType, Turn
from router.verify.texts import announcement, breaks_off, commitment, completion, presence, repetition
from router.verify.values import Answer, Status, Task

TASK = Task(TaskType.GENERAL, (Turn(Role.USER, "Why is the sky blue?"),))
PROSE = "The sky is blue because short waves are scattered more strongly by the molecules of the air than long ones, "


def test_nothing_is_no_answer_but_a_call_is_one() -> None:
    assert presence(Answer(" \n")).status is Status.FAIL
    assert presence(Answer("", tool_calls=1)).status is Status.UNKNOWN
    assert presence(Answer("Yes.")).status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Use this:\n```python\nprint(1)\n", "open_fence"),
        ("The cost is $<<1300*10/1", "open_annotation"),
        (PROSE + "which is why we see", "mid_sentence"),
        (PROSE + "as all know.", None),
        ("It is " + "very " * 30 + "blue", None),
        ("Use this:\n```python\nprint(1)\n```", None),
        ("- " + PROSE + "and more", None),
        ("42", None),
        ("| a | b |\n|---|---|\n| 1 | 2 |", None),
    ],
)
def test_how_a_text_breaks_off(text: str, kind: str | None) -> None:
    assert breaks_off(text) == kind


def test_the_token_limit_cuts_an_answer() -> None:
    assert completion(Answer("Fine.", "length"), TASK).kind == "token_limit"


def test_an_open_end_that_was_asked_for_is_none() -> None:
    task = Task(TaskType.GENERAL, TASK.turns, open_ended=True)
    assert completion(Answer(PROSE + "which is why we see", ""), TASK).status is Status.FAIL
    assert completion(Answer(PROSE + "which is why we see", ""), task).status is Status.UNKNOWN
    assert completion(Answer("Fine.", "length"), task).status is Status.UNKNOWN


def test_the_end_that_a_model_chose_is_an_end() -> None:
    assert completion(Answer(PROSE + "which is why we see", "stop"), TASK).status is Status.UNKNOWN
    assert completion(Answer("See:\n```\nx\n", "stop"), TASK).status is Status.FAIL


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Let me look. " + "I will now check the logs again. " * 12, "periodic_end"),
        ("".join(f"Step {n}.\nI will now read the configuration file once more.\n" for n in range(9)), "repeated_line"),
        ("abc" * 200, "periodic_end"),
    ],
)
def test_loops_are_found(text: str, kind: str) -> None:
    found = repetition(Answer(text))
    assert (found.status, found.kind) == (Status.FAIL, kind)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"| row {n} | {n * n} | ok |" for n in range(60)),
        "\n".join(f"2024-05-01 12:00:{n:02d} ERROR upstream timed out after {n} ms" for n in range(50)),
        "ha " * 20,
        "-" * 600,
        "One. Two. Three. " * 2 + PROSE,
        "\n".join(f'  {{"id": {n}, "name": "user{n}", "active": true}},' for n in range(40)),
    ],
    ids=["table", "log", "short", "rule", "twice", "json"],
)
def test_data_and_short_repeats_are_no_loop(text: str) -> None:
    assert repetition(Answer(text)).status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I am not sure: I never learned to multiply.", "does_not_know"),
        ("I cannot determine the cause from these logs.", "cannot_determine"),
    ],
)
def test_a_short_surrender_fails(text: str, kind: str) -> None:
    found = commitment(Answer(text), TASK)
    assert (found.status, found.kind) == (Status.FAIL, kind)
    assert commitment(Answer(text, tool_calls=1), TASK).status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("rules", "text", "kind"),
    [
        ("If you do not know, say so.", "I don't know.", "told_to_say_so"),
        ("Be brief.", "I don't know: I have no access to the internet.", "out_of_reach"),
    ],
)
def test_a_surrender_that_has_its_reason_decides_nothing(rules: str, text: str, kind: str) -> None:
    task = Task(TaskType.GENERAL, (Turn(Role.SYSTEM, rules), *TASK.turns))
    found = commitment(Answer(text), task)
    assert (found.status, found.kind) == (Status.UNKNOWN, kind)


def test_hedging_in_a_longer_answer_is_only_counted() -> None:
    found = commitment(Answer("It cannot be determined exactly, perhaps. " + PROSE * 8), TASK)
    assert (found.status, found.kind) == (Status.UNKNOWN, "hedging_words")
    assert found.count >= 2


def test_hedging_with_a_result_is_only_counted() -> None:
    found = commitment(Answer("I am not sure, but it is probably the haze."), TASK)
    assert (found.status, found.kind, found.count) == (Status.UNKNOWN, "hedging_words", 1)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("So it is 12.\n#### 12", Status.UNKNOWN),
        ("So it is 12.", Status.FAIL),
        ("#### 12\nNo, wait.\n#### 14", Status.FAIL),
        ("#### $12.\nThat is\n#### 12", Status.UNKNOWN),
    ],
)
def test_a_marker_that_was_asked_for(text: str, status: Status) -> None:
    task = Task(TaskType.MATHEMATICS, (Turn(Role.USER, "What is 3 * 4? End with '#### result'."),))
    found = announcement(Answer(text), task)
    assert found is not None
    assert found.status is status
    assert announcement(Answer(text), TASK) is None
