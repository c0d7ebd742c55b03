"""What kind of work a turn asks for, and whether it takes several steps."""

from typing import Final

from router.features import Passage
from router.lexicon import Group
from router.signals.incident import EXTRACTS, is_incident, is_log
from router.types import TaskType

_STEP_MARKS: Final = ("step by step", "steps", "correlate", "timeline", "and then", "as well as", "multiple", "several")
_GAP_MARKS: Final = ("how many", "how much", "what is the value", "find the")
_CHAT_WORDS: Final = 12


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
    leads_with_extraction = not EXTRACTS.isdisjoint(passage.words[:4])
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
    return (
        features.steps >= 2
        or features.questions >= 2
        or any(mark in passage.lowered for mark in _STEP_MARKS)
        or features.count(Group.OPERATIONS) >= 4
        or features.count(Group.ROOT_CAUSE) > 0
        or (features.count(Group.OPERATIONS) >= 2 and is_log(passage))
    )


def is_proof_or_algorithm(passage: Passage) -> bool:
    """True for work that is reasoning before it is typing: proofs, algorithms, puzzles, a bug's root cause."""
    count = passage.features.count
    return count(Group.PROOF) > 0 or count(Group.ALGORITHM) > 0 or count(Group.ROOT_CAUSE) > 0


def is_acknowledgement(passage: Passage) -> bool:
    """True for "yes, go ahead" and the like: the turn before says what is meant."""
    return len(passage.words) <= 6 and passage.features.count(Group.ACKNOWLEDGE) >= max(len(passage.words), 1)
