"""Is something that runs broken, and does the turn want to know why?"""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from router.features import Passage
from router.lexicon import Group, word_set
from router.signals.told import tells_of_fault

# Each of these begins with a rare sign that must be there: that is found ten times as fast as what stands before it.
_CLOCK: Final = re.compile(r":(?:(?<=\b\d:)|(?<=\b\d\d:))\d{2}\b")
# Of a text with a line feed before it.
_LOG_LINE: Final = re.compile(
    r"\n\W{0,3}(?:\d{4}-\d\d-\d\d[t ]\d\d:|\d\d:\d\d:\d\d|(?:error|warn|warning|fatal|critical|info|debug)\b[\]: ])"
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
_BUILDS: Final = word_set(
    "write implement create build design develop generate draft plan set setup add refactor propose"
)
_POLITE: Final = word_set("please can could would help i we let let's you")
EXTRACTS: Final = word_set(
    "extract summarize summarise translate classify categorize categorise label list convert format reformat "
    "paraphrase rewrite proofread transcribe tldr summary"
)
# Nobody says these of anything but a system that runs and is broken.
_CERTAIN: Final = word_set(
    "crashloopbackoff oomkilled imagepullbackoff 5xx 500s 502s 503s 504s sev0 sev1 sev2 p95 p99 pagerduty alertmanager"
)
_STATUS: Final = re.compile(r" [45]\d\d\b")
_GIVES: Final = re.compile(r"\b(?:return|returns|returning|get|gets|gives?|status|http|code)(?: an?)?\Z")
_GIVES_CHARS: Final = 16
_REFUSAL: Final = re.compile(r"\b(?:did|does|do)(?: not|n't) (?:run|start|finish|arrive|respond|answer|come)\b")
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
_CHOICES: Final = 3
_INCIDENT_POINTS: Final = 4
_LOG_LINES: Final = 3


def is_incident(passage: Passage) -> bool:
    """True when something that runs is broken and the turn asks why."""
    logs = is_log(passage)
    if passage.features.answer_options >= _CHOICES and not logs:
        return False  # whoever knows the possible answers asks about a text, not about a system
    return _is_reported(passage, logs) or tells_of_fault(passage)


def _is_reported(passage: Passage, logs: bool) -> bool:
    """True when the words of an incident are there.

    Points per kind of evidence, so that no single word decides; there must be a symptom, and someone must want to know.
    Where a symptom, a question and a running system come together, fewer points will do.
    """
    count, vocabulary = passage.features.count, passage.vocabulary
    stack = any(mark in passage.lowered for mark in _STACK_MARKS)
    operated = count(Group.OPERATIONS)
    root = count(Group.ROOT_CAUSE) > 0
    changed = not _CHANGED.isdisjoint(vocabulary)
    changed = changed or (operated > 0 and _refuses(passage.lowered))
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
    builds = _orders(passage.words, _BUILDS) or _orders(passage.words, EXTRACTS)
    learns = passage.lowered.startswith(_LESSONS)
    needed = _INCIDENT_POINTS - (symptom and operated > 0 and (timed or operated >= 2))
    return points - 3 * builds - 2 * learns >= needed


def is_log(passage: Passage) -> bool:
    """True when several lines begin as those of a log do."""
    return len(_LOG_LINE.findall(f"\n{passage.lowered}")) >= _LOG_LINES


def _refuses(lowered: str) -> bool:
    """True when something gives a status of 4xx or 5xx, or did not do what it should."""
    for status in _STATUS.finditer(lowered):
        end = status.start()
        if _GIVES.search(lowered[max(end - _GIVES_CHARS, 0) : end]):
            return True
    return (" not " in lowered or "n't " in lowered) and _REFUSAL.search(lowered) is not None


def _orders(words: Sequence[str], verbs: AbstractSet[str]) -> bool:
    """True when the turn begins with one of the verbs, or with a polite word and then one of them."""
    return bool(words) and (words[0] in verbs or (words[0] in _POLITE and not verbs.isdisjoint(words[1:5])))
