"""All verifiers of an answer, each on the tasks it is valid for.

Pure and deterministic: nothing is run, fetched or read from disk, and every limit is a size, not a time. What a
verifier says of the words is a kind and a count, so that a verdict can be logged.
"""

import re
from collections.abc import Mapping
from typing import Final

from router.types import Role, TaskType
from router.verify import texts
from router.verify.answer_score import COMMITTED, AnswerWeights, score_answer
from router.verify.citations import citations
from router.verify.codes import code, commands, prose
from router.verify.expressions import Holds, equations, normalised
from router.verify.patches import patches
from router.verify.quantities import givens
from router.verify.reckoning import Reckoning, reckon
from router.verify.schemas import structured
from router.verify.values import (
    MOST_ANSWER_CHARS,
    MOST_MATERIAL_CHARS,
    Answer,
    Check,
    Finding,
    Parsers,
    Status,
    Task,
    Verdict,
)

MOST_P_WRONG: Final = 0.5
"""A calculated answer is failed above this: 85 of 100 such answers were wrong (`serve_app/routing/answers.py`)."""

_EVERY: Final = frozenset(TaskType)
_CODE: Final = frozenset({TaskType.CODE_GENERATION, TaskType.CODE_REVIEW})
_LOOKED_UP: Final = frozenset({TaskType.INCIDENT_DIAGNOSIS, TaskType.CODE_REVIEW, TaskType.EXTRACTION})
VALID_FOR: Final[Mapping[Check, frozenset[TaskType]]] = {
    Check.PRESENCE: _EVERY,
    Check.COMPLETION: _EVERY,
    Check.REPETITION: _EVERY,
    Check.COMMITMENT: _EVERY - {TaskType.CHAT},
    Check.ANNOUNCEMENT: _EVERY,
    Check.SCHEMA: _EVERY,
    Check.CODE: _EVERY,
    Check.PATCH: _EVERY - {TaskType.CHAT},
    Check.CITATION: _LOOKED_UP,
    Check.COMMAND: _EVERY,
    Check.ARITHMETIC: _EVERY - _CODE,
    Check.RECKONING: frozenset({TaskType.MATHEMATICS, TaskType.GENERAL}),
}
"""The tasks that each verifier may judge."""

_DECIDES: Final = frozenset({Check.SCHEMA, Check.CODE, Check.PATCH, Check.CITATION, Check.COMMAND})
# True equations prove no answer: of those without a false one a third were wrong.
_QUESTION: Final = re.compile(
    r"\b(?:how (?:many|much|long|far|old|fast|tall|often)|what (?:is|was|are|were|will|would|percent\w*|fraction)|"
    r"what's|calculate|find|compute|determine)\b",
    re.IGNORECASE,
)
_LEAST_GIVENS: Final = 2
_MOST_QUESTION_CHARS: Final = 4_000


def verify(answer: Answer, task: Task, parsers: Parsers | None = None, weights: AnswerWeights = COMMITTED) -> Verdict:
    """What all verifiers that are valid for the task say of a finished answer. Never raises for any text."""
    if len(answer.text) > MOST_ANSWER_CHARS:
        return Verdict(Status.UNKNOWN, (Finding(Check.PRESENCE, Status.UNKNOWN, "too_long"),))
    ports = parsers or Parsers()
    material, whole = _material(task)
    seen = task if whole else Task(task.type, task.turns, task.schema, task.wants_json, True, task.open_ended)
    reckoning = _reckoning(answer, task)
    p_wrong = None if reckoning is None else score_answer(reckoning, weights).p_wrong
    every = (
        texts.presence(answer),
        texts.completion(answer, task),
        texts.repetition(answer),
        texts.commitment(answer, task),
        texts.announcement(answer, task),
        structured(answer, task),
        code(answer, ports),
        commands(answer, ports),
        patches(answer, seen, material),
        citations(answer, seen, material) if task.type in _LOOKED_UP else None,
        _arithmetic(answer) if task.type in VALID_FOR[Check.ARITHMETIC] else None,
        None if p_wrong is None else _reckoned(p_wrong),
    )
    findings = tuple(each for each in every if each is not None and task.type in VALID_FOR[each.check])
    return Verdict(_together(findings), findings, p_wrong)


def _together(findings: tuple[Finding, ...]) -> Status:
    if any(each.status is Status.FAIL for each in findings):
        return Status.FAIL
    if any(each.status is Status.PASS and each.check in _DECIDES for each in findings):
        return Status.PASS
    return Status.UNKNOWN


def _material(task: Task) -> tuple[str, bool]:
    """All that the conversation shows, newest last, and whether it is all of it."""
    parts: list[str] = []
    room = MOST_MATERIAL_CHARS
    for turn in reversed(task.turns):
        for text in (turn.text, *(arguments for _, arguments in turn.tool_calls)):
            if len(text) > room:
                return "\n".join(reversed(parts)), False
            parts.append(text)
            room -= len(text)
    return "\n".join(reversed(parts)), not task.cut


def _arithmetic(answer: Answer) -> Finding | None:
    """Every stated equation of the prose, computed again; None when it states none."""
    stated = equations(normalised(prose(answer.text)))
    if not stated:
        return None
    false = sum(1 for each in stated if each.holds is Holds.FALSE)
    if false:
        return Finding(Check.ARITHMETIC, Status.FAIL, "false_equation", false)
    if any(each.holds is Holds.NEAR for each in stated):
        return Finding(Check.ARITHMETIC, Status.UNKNOWN, "not_exact")
    return Finding(Check.ARITHMETIC, Status.PASS, "equations_hold", len(stated))


def _reckoning(answer: Answer, task: Task) -> Reckoning | None:
    """The checks of a calculated answer to a question that gives numbers and asks for one; else None."""
    users = [turn for turn in task.turns if turn.role is Role.USER]
    if not users or answer.tool_calls or task.type not in VALID_FOR[Check.RECKONING]:
        return None
    question = users[-1].text
    if len(question) > _MOST_QUESTION_CHARS or _QUESTION.search(question) is None:
        return None
    if task.schema is not None or task.wants_json or len(givens(question)) < _LEAST_GIVENS:
        return None
    reckoning = reckon(question, prose(answer.text))
    return reckoning if reckoning.chain else None


def _reckoned(p_wrong: float) -> Finding:
    status = Status.FAIL if p_wrong > MOST_P_WRONG else Status.UNKNOWN
    return Finding(Check.RECKONING, status, "likely_wrong" if status is Status.FAIL else "plausible")
