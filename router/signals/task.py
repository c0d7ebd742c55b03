"""What kind of work a turn asks for, and whether it takes several steps."""

import re
from typing import Final

from router.features import Passage
from router.lexicon import Group, word_set
from router.types import TaskType

_CLOCK: Final = re.compile(r"\b\d{1,2}:\d{2}\b")
_LOG_LINE: Final = re.compile(
    r"^\W{0,3}(?:\d{4}-\d\d-\d\d[t ]\d\d:|\d\d:\d\d:\d\d|(?:error|warn|warning|fatal|critical|info|debug)\b[\]: ])",
    re.MULTILINE,
)
_STACK_MARKS: Final = (
    "traceback (most recent call last)",
    "\n\tat ",
    "\n    at ",
    "panic: ",
    "goroutine 1 [",
    "caused by: ",
    "segmentation fault",
)
_STEP_MARKS: Final = ("step by step", "steps", "correlate", "timeline", "and then", "as well as", "multiple", "several")
_GAP_MARKS: Final = ("how many", "how much", "what is the value", "find the")
_BUILDS: Final = frozenset({"write", "implement", "create", "build", "design", "develop", "generate"})
_EXTRACTS: Final = word_set(
    "extract summarize summarise translate classify categorize categorise label list convert format reformat "
    "paraphrase rewrite proofread transcribe tldr summary"
)
_CHAT_WORDS: Final = 12
_INCIDENT_POINTS: Final = 4
_LOG_LINES: Final = 3


def is_incident(passage: Passage) -> bool:
    """True when something that runs is broken and the turn asks why.

    Points per kind of evidence, so that no single word decides; there must be a symptom, and someone must want to know.
    """
    count = passage.features.count
    logs = len(_LOG_LINE.findall(passage.lowered))
    stack = any(mark in passage.lowered for mark in _STACK_MARKS)
    symptom = count(Group.FAILURE) > 0 or logs >= _LOG_LINES or stack or count(Group.INCIDENT) > 0
    asked = count(Group.ROOT_CAUSE) + count(Group.DIAGNOSE) + count(Group.INCIDENT) > 0 or logs >= _LOG_LINES
    if not symptom or not asked:
        return False
    points = (
        2 * (count(Group.ROOT_CAUSE) > 0)
        + 2 * (count(Group.INCIDENT) > 0)
        + min(count(Group.FAILURE), 2)
        + (count(Group.DIAGNOSE) > 0)
        + (count(Group.OPERATIONS) > 0)
        + (count(Group.OPERATIONS) >= 3)
        + (count(Group.PRODUCTION) > 0)
        + (_CLOCK.search(passage.lowered) is not None)
        + 2 * (logs >= _LOG_LINES)
        + stack
    )
    # "Design an alerting system for our cluster" has the words but nothing is broken.
    builds = not _BUILDS.isdisjoint(passage.words[:4])
    return points - 3 * builds >= _INCIDENT_POINTS


def classify(passage: Passage, shows_diff: bool) -> TaskType:
    """The task of one user turn; `shows_diff` says that a unified diff is part of it."""
    features = passage.features
    count = features.count
    if shows_diff and (count(Group.REVIEW) > 0 or count(Group.GENERATE) == 0):
        return TaskType.CODE_REVIEW
    if is_incident(passage):
        return TaskType.INCIDENT_DIAGNOSIS
    if count(Group.REVIEW) > 0 and (count(Group.CODE) > 0 or count(Group.REVIEW) > 1 or shows_diff):
        return TaskType.CODE_REVIEW
    if _is_mathematics(passage):
        return TaskType.MATHEMATICS
    leads_with_extraction = not _EXTRACTS.isdisjoint(passage.words[:4])
    if not leads_with_extraction and _is_code(passage):
        return TaskType.CODE_GENERATION
    if leads_with_extraction or count(Group.EXTRACT) > 1:
        return TaskType.EXTRACTION
    if count(Group.GREETING) > 0 and features.words <= _CHAT_WORDS:
        return TaskType.CHAT
    return TaskType.GENERAL


def _is_mathematics(passage: Passage) -> bool:
    features = passage.features
    if features.count(Group.CODE) > 1 or features.code_marks > 4:
        return False
    mathematics, proof = features.count(Group.MATHEMATICS), features.count(Group.PROOF)
    if proof > 0 and (mathematics > 0 or features.math_marks > 0 or features.words > 4):
        return True
    if mathematics >= 2:
        return features.numbers >= 1 or features.math_marks >= 1
    word_problem = features.numbers >= 2 and any(mark in passage.lowered for mark in _GAP_MARKS)
    return word_problem or (mathematics >= 1 and features.numbers >= 2 and features.math_marks >= 1)


def _is_code(passage: Passage) -> bool:
    features = passage.features
    code = features.count(Group.CODE) + features.count(Group.ALGORITHM)
    if features.count(Group.GENERATE) > 0 and (code > 0 or features.code_marks >= 3):
        return True
    return code >= 3 or "```" in passage.lowered


def takes_steps(passage: Passage) -> bool:
    """True when the turn itself shows that one look is not enough: steps, several sources, several questions."""
    features = passage.features
    logs = len(_LOG_LINE.findall(passage.lowered)) >= _LOG_LINES
    return (
        features.steps >= 2
        or features.questions >= 2
        or any(mark in passage.lowered for mark in _STEP_MARKS)
        or (logs and features.count(Group.OPERATIONS) >= 2)
        or features.count(Group.OPERATIONS) >= 4
        or features.count(Group.ROOT_CAUSE) > 0
    )


def is_proof_or_algorithm(passage: Passage) -> bool:
    """True for work that is reasoning before it is typing: proofs, algorithms, puzzles, a bug's root cause."""
    count = passage.features.count
    return count(Group.PROOF) > 0 or count(Group.ALGORITHM) > 0 or count(Group.ROOT_CAUSE) > 0


def is_acknowledgement(passage: Passage) -> bool:
    """True for "yes, go ahead" and the like: the turn before says what is meant."""
    return len(passage.words) <= 6 and passage.features.count(Group.ACKNOWLEDGE) >= max(len(passage.words), 1)
