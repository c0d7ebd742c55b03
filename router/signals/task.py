"""What kind of work a turn asks for, and whether it takes several steps."""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
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
_BUILDS: Final = word_set(
    "write implement create build design develop generate draft plan set setup add refactor propose"
)
_POLITE: Final = word_set("please can could would help i we let let's you")
_EXTRACTS: Final = word_set(
    "extract summarize summarise translate classify categorize categorise label list convert format reformat "
    "paraphrase rewrite proofread transcribe tldr summary"
)
# Nobody says these of anything but a system that runs and is broken.
_CERTAIN: Final = word_set(
    "crashloopbackoff oomkilled imagepullbackoff 5xx 500s 502s 503s 504s sev0 sev1 sev2 p95 p99 pagerduty alertmanager"
)
_REFUSAL: Final = re.compile(
    r"\b(?:return|returns|returning|get|gets|gives?|status|http|code) (?:an? )?[45]\d\d\b|"
    r"\b(?:did|does|do)(?: not|n't) (?:run|start|finish|arrive|respond|answer|come)\b"
)
_CHANGED: Final = word_set(
    "growing grows dropped drops rebooted reboots left vanished lost blank duplicate duplicated complain complaining "
    "increase increased decreased halved doubled tripled sudden suddenly unexpected unexpectedly eviction evictions "
    "expired overloaded leaking blocked bottleneck jumped fluctuating frozen freezes unavailable delayed stopped stops "
    "loss collapsed climbs climbing killed flip flips flipping notready missed skipped rising rose fell falls surge "
    "surged elevated intermittent intermittently sporadic sporadically antwortet"
)
_ASKS: Final = word_set(
    "why responsible blame bottleneck explain analyse analyze happened reason understand faulty ursache"
)
_ASK_MARKS: Final = ("track down", "figure out", "how this happened", "how it happened", "tell me what", "which of")
_TIME_MARKS: Final = (
    "since ", " ago", "last night", "yesterday", "this morning", "at midnight", "at noon", "tonight", "every day at",
    "until ", "between ", "after the ", "within ten", "within minutes", "within seconds", "every hour", " hours",
    "seit ", "depuis ", "desde ", "から", "以来", "今天", "昨天", "вчера", "сегодня",
)  # fmt: skip
_LESSONS: Final = ("how can i", "how do i", "how do you", "how to", "how should", "what is ", "what are ", "describe ")
_CHAT_WORDS: Final = 12
_CHOICES: Final = 3
_INCIDENT_POINTS: Final = 4
_LOG_LINES: Final = 3


def is_incident(passage: Passage) -> bool:
    """True when something that runs is broken and the turn asks why.

    Points per kind of evidence, so that no single word decides; there must be a symptom, and someone must want to know.
    Where a symptom, a question and a running system come together, fewer points will do.
    """
    count, vocabulary = passage.features.count, passage.vocabulary
    logs = len(_LOG_LINE.findall(passage.lowered)) >= _LOG_LINES
    if passage.features.answer_options >= _CHOICES and not logs:
        return False  # whoever knows the possible answers asks about a text, not about a system
    stack = any(mark in passage.lowered for mark in _STACK_MARKS)
    operated = count(Group.OPERATIONS)
    root = count(Group.ROOT_CAUSE) > 0
    changed = not _CHANGED.isdisjoint(vocabulary)
    changed = changed or (operated > 0 and _REFUSAL.search(passage.lowered) is not None)
    symptom = count(Group.FAILURE) > 0 or logs or stack or count(Group.INCIDENT) > 0 or (changed and operated > 0)
    wants_to_know = not _ASKS.isdisjoint(vocabulary) or any(mark in passage.lowered for mark in _ASK_MARKS)
    # "Production is down" asks for nothing and means it.
    wants_to_know = wants_to_know or (count(Group.FAILURE) >= 2 and operated >= 2 and count(Group.PRODUCTION) > 0)
    asked = root or count(Group.DIAGNOSE) + count(Group.INCIDENT) > 0 or logs or wants_to_know
    if not asked or not (symptom or (root and operated > 0)):
        return False
    timed = _CLOCK.search(passage.lowered) is not None or any(mark in passage.lowered for mark in _TIME_MARKS)
    points = (
        2 * root
        + 2 * (count(Group.INCIDENT) > 0)
        + min(count(Group.FAILURE) + changed, 2)
        + (count(Group.DIAGNOSE) > 0 or wants_to_know)
        + (operated > 0)
        + (operated >= 3)
        + (count(Group.PRODUCTION) > 0)
        + timed
        + 2 * logs
        + stack
        + (not _CERTAIN.isdisjoint(vocabulary))
    )
    # "Design an alerting system for our cluster" has the words and nothing is broken; "how can I debug" is a lesson.
    builds = _orders(passage.words, _BUILDS) or _orders(passage.words, _EXTRACTS)
    learns = passage.lowered.startswith(_LESSONS)
    needed = _INCIDENT_POINTS - (symptom and operated > 0 and (timed or operated >= 2))
    return points - 3 * builds - 2 * learns >= needed


def _orders(words: Sequence[str], verbs: AbstractSet[str]) -> bool:
    """True when the turn begins with one of the verbs, or with a polite word and then one of them."""
    return bool(words) and (words[0] in verbs or (words[0] in _POLITE and not verbs.isdisjoint(words[1:5])))


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
    return (
        features.steps >= 2
        or features.questions >= 2
        or any(mark in passage.lowered for mark in _STEP_MARKS)
        or features.count(Group.OPERATIONS) >= 4
        or features.count(Group.ROOT_CAUSE) > 0
        or (features.count(Group.OPERATIONS) >= 2 and len(_LOG_LINE.findall(passage.lowered)) >= _LOG_LINES)
    )


def is_proof_or_algorithm(passage: Passage) -> bool:
    """True for work that is reasoning before it is typing: proofs, algorithms, puzzles, a bug's root cause."""
    count = passage.features.count
    return count(Group.PROOF) > 0 or count(Group.ALGORITHM) > 0 or count(Group.ROOT_CAUSE) > 0


def is_acknowledgement(passage: Passage) -> bool:
    """True for "yes, go ahead" and the like: the turn before says what is meant."""
    return len(passage.words) <= 6 and passage.features.count(Group.ACKNOWLEDGE) >= max(len(passage.words), 1)
