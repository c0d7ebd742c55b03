"""All verifiers together."""

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.types import Role, TaskType, Turn
from router.verify.answer_score import COMMITTED, AnswerWeights, score_answer
from router.verify.reckoning import CHECKS, reckon
from router.verify.values import MOST_ANSWER_CHARS, Answer, Check, Parsers, Status, Task
from router.verify.verify import VALID_FOR, verify

QUESTION = "A box holds 12 eggs. How many eggs are in 5 boxes when 3 eggs are broken?"
GOOD = "5 boxes hold 5 * 12 = 60 eggs. Of these 3 are broken, so 60 - 3 = 57 are left."
BAD = "5 boxes hold 5 * 12 = 50 eggs. However, 50 / 3 = 16.67 are left."


def task(kind: TaskType = TaskType.MATHEMATICS, said: str = QUESTION) -> Task:
    return Task(kind, (Turn(Role.USER, said),))


def test_a_good_reckoning_is_not_failed_and_not_passed_either() -> None:
    verdict = verify(Answer(GOOD), task())
    assert verdict.status is Status.UNKNOWN
    assert verdict.failed == ()
    assert verdict.p_wrong is not None


def test_a_false_equation_fails_and_raises_the_probability() -> None:
    good, bad = verify(Answer(GOOD), task()), verify(Answer(BAD), task())
    assert bad.status is Status.FAIL
    assert {finding.check for finding in bad.failed} == {Check.ARITHMETIC, Check.RECKONING}
    assert good.p_wrong is not None
    assert bad.p_wrong is not None
    assert good.p_wrong < 0.5 < bad.p_wrong


@pytest.mark.parametrize(
    ("name", "worse"),
    [
        ("false_equations", "5 boxes hold 5 * 12 = 70 eggs. Of these 3 are broken, so 70 - 3 = 67 are left."),
        ("unused_givens", "5 boxes hold 5 * 12 = 60 eggs."),
        ("final_fractional", "5 boxes hold 5 * 12 = 60 eggs, and 60 / 8 = 7.5 are left."),
        ("final_not_reckoned", "5 boxes hold 5 * 12 = 60 eggs. So 44 are left."),
        ("dead_ends", "5 * 12 = 60 eggs. 12 - 3 = 9 eggs. 5 * 3 = 15 are left."),
        ("breaks_off", "5 boxes hold <<5*12=60>>60 eggs. Of these 3 are broken, so 60 - 3 = <<60-"),
        ("missing_subtraction", "5 boxes hold 5 * 12 = 60 eggs, of 3 kinds."),
        ("unknowns", "Let x be the eggs: x + 3 = 60 and 5 * 12 = 60, 60 - 3 = 57."),
        ("repeated_equations", GOOD + " So 60 - 3 = 57."),
        ("final_negative", "3 - 5 * 12 = -57"),
    ],
)
def test_each_check_sees_what_it_is_for(name: str, worse: str) -> None:
    question = QUESTION if name != "missing_subtraction" else QUESTION.replace("when 3", "left when 3")
    assert reckon(question, worse).named[name] > reckon(question, GOOD).named[name]


def test_the_terms_of_a_score_sum_to_its_logit() -> None:
    for text in (GOOD, BAD, "", "57"):
        said = score_answer(reckon(QUESTION, text))
        logit = math.fsum(value for _, value in said.contributions)
        assert math.log(said.p_wrong / (1 - said.p_wrong)) == pytest.approx(logit, abs=1e-9)


def test_weights_of_other_checks_are_refused() -> None:
    with pytest.raises(ValueError, match="weights"):
        AnswerWeights(0.0, COMMITTED.weights[:-1])
    assert len(COMMITTED.weights) == len(CHECKS)


@pytest.mark.parametrize("kind", list(TaskType))
def test_only_verifiers_that_are_valid_for_the_task_speak(kind: TaskType) -> None:
    text = (
        f"{BAD} I cannot determine OPS-2.\n```python\nx = 1\n```\n```bash\nls\n```\n```diff\n@@ -1 +1 @@\n-a\n+b\n```"
    )
    verdict = verify(Answer(text), task(kind, f"{QUESTION} OPS-1 a"))
    assert {finding.check for finding in verdict.findings} <= {
        check for check, tasks in VALID_FOR.items() if kind in tasks
    }
    assert (verdict.p_wrong is not None) is (kind in (TaskType.MATHEMATICS, TaskType.GENERAL))


def test_every_verifier_says_for_what_it_is_valid() -> None:
    assert set(VALID_FOR) == set(Check)


def test_a_structured_answer_passes() -> None:
    wanted = Task(TaskType.EXTRACTION, task().turns, schema={"type": "object", "required": ["eggs"]})
    assert verify(Answer('{"eggs": 57}'), wanted).status is Status.PASS
    assert verify(Answer('{"boxes": 5}'), wanted).status is Status.FAIL


def test_a_surrender_fails_and_obedience_does_not() -> None:
    gives_up = Answer("I am not sure: I never learned to multiply.")
    verdict = verify(gives_up, task(TaskType.GENERAL, "What is 7 times 8?"))
    assert [(finding.check, finding.kind) for finding in verdict.failed] == [(Check.COMMITMENT, "does_not_know")]
    told = Task(TaskType.GENERAL, (Turn(Role.SYSTEM, "If you are not sure, say so."), *task().turns))
    assert verify(gives_up, told).failed == ()


def test_true_equations_prove_nothing() -> None:
    verdict = verify(Answer(GOOD), task(TaskType.INCIDENT_DIAGNOSIS))
    assert [finding.status for finding in verdict.findings if finding.check is Check.ARITHMETIC] == [Status.PASS]
    assert verdict.status is Status.UNKNOWN


def test_equations_in_code_are_code() -> None:
    assert verify(Answer("Use `2 + 2 = 5` or\n```text\n1 + 1 = 3\n```\nas you like."), task()).failed == ()


def test_calls_of_tools_stand_for_words() -> None:
    assert verify(Answer("", "tool_calls", 1), task()).status is Status.UNKNOWN


def test_a_very_long_answer_is_not_read() -> None:
    verdict = verify(Answer("2 + 2 = 5. " * (MOST_ANSWER_CHARS // 10)), task())
    assert (verdict.status, verdict.findings[0].kind) == (Status.UNKNOWN, "too_long")


def test_what_was_cut_from_the_conversation_may_still_be_cited() -> None:
    turns = (Turn(Role.USER, "x" * 2_000_000), Turn(Role.USER, "Why did OPS-1 fail?"))
    assert verify(Answer("See OPS-2."), Task(TaskType.INCIDENT_DIAGNOSIS, turns)).status is Status.UNKNOWN
    assert verify(Answer("See OPS-2."), Task(TaskType.INCIDENT_DIAGNOSIS, turns[1:])).status is Status.FAIL


def test_what_tools_were_called_with_is_part_of_the_conversation() -> None:
    turns = (Turn(Role.USER, "Why?"), Turn(Role.ASSISTANT, "", (("find", '{"ticket": "OPS-7"}'),)))
    assert verify(Answer("See OPS-7."), Task(TaskType.INCIDENT_DIAGNOSIS, turns)).status is Status.PASS


@given(st.text(max_size=400), st.text(max_size=200), st.sampled_from(TaskType))
@settings(max_examples=60)
def test_any_text_gets_a_verdict(text: str, question: str, kind: TaskType) -> None:
    answer = Answer(f"```python\n{text}\n```\n{text}")
    verdict = verify(answer, task(kind, question), Parsers(command=lambda _: None))
    assert verdict == verify(answer, task(kind, question), Parsers(command=lambda _: None))
    assert verdict.p_wrong is None or 0 < verdict.p_wrong < 1


def test_another_process_says_the_same() -> None:
    program = (
        "from router.verify.verify import verify\nfrom router.verify.values import Answer, Task\n"
        "from router.types import Role, TaskType, Turn\nimport json, sys\n"
        "q, a = json.load(sys.stdin)\n"
        "print(repr(verify(Answer(a), Task(TaskType.MATHEMATICS, (Turn(Role.USER, q),)))))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps([QUESTION, BAD]),
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {repr(verify(Answer(BAD), task())) + "\n"}
