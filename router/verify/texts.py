"""Checks of any answer as a text: is it there, is it whole, does it go round in circles, does it commit itself."""

import re
from itertools import islice
from typing import Final

from router.types import Role, Turn
from router.verify.surrender import Stance, stance
from router.verify.values import Answer, Check, Finding, Status, Task

_LOOP_CHARS: Final = 16_384  # of the end: loops do not stop again
_LOOP_REPEATS: Final = 4
_LOOP_SHARE: Final = 0.5
_LEAST_LOOP_CHARS: Final = 160
_LEAST_LINE_CHARS: Final = 20
_LEAST_WORDS: Final = 120
_SHINGLE: Final = 8
_LONGEST_PERIOD: Final = 600
_WORD: Final = re.compile(r"\w+")
_HEDGE: Final = re.compile(
    r"\b(?:approximately|approx|about|roughly|around|assum\w+|perhaps|maybe|might|probably|unclear|unknown|depends|"
    r"not enough|cannot|can't|can not|impossible|not (?:given|specified|stated)|could|would be)\b",
    re.IGNORECASE,
)
_TURN: Final = re.compile(
    r"\b(?:however|but|wait|actually|correction|mistake|instead|sorry|although|since we can't|closest|should be|note|"
    r"not possible)\b",
    re.IGNORECASE,
)
MARKER: Final = re.compile(
    r"^[ \t>*_]*#{2,6}[ \t]*(?=[-$\u20ac\u00a3]?\d)|\\boxed\b|\bfinal answer[ \t*_]*(?:is\b|:)"
    r"|\b(?:the|so|therefore,?) (?:the )?(?:correct )?answer[ \t*_]+is\b|^\W*answer[ \t*_]*:",
    re.IGNORECASE | re.MULTILINE,
)
"""Where an answer announces its result: `#### 42`, `\\boxed{42}`, "final answer:", "the answer is"."""

_MARKERS: Final = ("####", "\\boxed")
_RESULT: Final = re.compile(r"[\s{}$*.,]|\\[a-z]+")
_ENDS: Final = frozenset(".!?:)]}\"'\u201d\u2019\u3002\uff01\uff1f\uff09\u300d\u2026`*_>|;")
_LEAST_SENTENCE_CHARS: Final = 80


def presence(answer: Answer) -> Finding:
    """Fails an answer without a visible character and without a call."""
    if answer.text.strip() or answer.tool_calls:
        return Finding(Check.PRESENCE, Status.UNKNOWN, "said_something")
    return Finding(Check.PRESENCE, Status.FAIL, "empty")


def completion(answer: Answer, task: Task) -> Finding:
    """Fails what ran into its token limit or stops in the middle: an open code fence, an open bracket, a cut word.

    Prose must end somewhere, unless the engine says that the model ended it; lists, tables and code need no full stop,
    and a short answer needs none either.
    """
    if answer.finish == "length" and not task.open_ended:
        return Finding(Check.COMPLETION, Status.FAIL, "token_limit")
    if answer.tool_calls or task.open_ended or not answer.text.strip():
        return Finding(Check.COMPLETION, Status.UNKNOWN, "not_prose")
    kind = breaks_off(answer.text)
    if kind == "mid_sentence" and answer.finish == "stop":
        return Finding(Check.COMPLETION, Status.UNKNOWN, kind)  # the model's own end, however it looks
    return Finding(Check.COMPLETION, Status.FAIL if kind else Status.UNKNOWN, kind or "ends")


def breaks_off(text: str) -> str | None:
    """How a text stops in the middle: `open_fence`, `open_annotation`, `mid_sentence`; None when it does not.

    `mid_sentence` is concluded from prose alone: the last paragraph is long, is no list or table, and ends without any
    mark of an end, on no number that an announced result could be.
    """
    plain = text.rstrip()
    fences = sum(1 for line in plain.split("\n") if line.lstrip().startswith("```"))
    if fences % 2:
        return "open_fence"
    if plain.count("<<") > plain.count(">>") and re.search(r"<<[^<>\n]*\Z", plain):
        return "open_annotation"
    last = plain.rsplit("\n", 1)[-1].strip()
    if fences or len(last) < _LEAST_SENTENCE_CHARS or not plain[-1].isalnum() or plain[-1] in _ENDS:
        return None
    if re.match(r"(?:[-*+#|>]|\d+[.)])\s", last) or MARKER.search(last) or not re.search(r"[.!?,;] ", last):
        return None
    return "mid_sentence"


def repetition(answer: Answer) -> Finding:
    """Fails an answer that ends in a loop: one period over and over, one line again and again, the same words.

    Looks at the last 16 KiB; data (rows of a table, numbers) is left alone where it changes from row to row.
    """
    tail = answer.text[-_LOOP_CHARS:].rstrip()
    if len(tail) < _LEAST_LOOP_CHARS:
        return Finding(Check.REPETITION, Status.UNKNOWN, "too_short")
    repeats = _periodic(tail)
    if repeats:
        return Finding(Check.REPETITION, Status.FAIL, "periodic_end", repeats)
    lines = [line.strip() for line in tail.split("\n")]
    worded = [line for line in lines if len(line) >= _LEAST_LINE_CHARS and any(map(str.isalpha, line))]
    if worded:
        most = max(map(worded.count, set(islice(worded, len(worded) - 64 if len(worded) > 64 else 0, None))))
        if most > _LOOP_REPEATS and most * 2 > len(worded):
            return Finding(Check.REPETITION, Status.FAIL, "repeated_line", most)
    words = _WORD.findall(tail.lower())
    if len(words) >= _LEAST_WORDS:
        shingles = [tuple(words[at : at + _SHINGLE]) for at in range(len(words) - _SHINGLE + 1)]
        share = 1 - len(set(shingles)) / len(shingles)
        if share > _LOOP_SHARE:
            return Finding(Check.REPETITION, Status.FAIL, "repeated_words", round(share * 100))
    return Finding(Check.REPETITION, Status.UNKNOWN, "varied")


def _periodic(tail: str) -> int:
    """How many times the end of `tail` is repeated, when that is a loop; else 0. Linear per candidate period."""
    probe = tail[-24:]
    at = tail.rfind(probe, 0, len(tail) - 1)
    while at >= 0 and (period := len(tail) - len(probe) - at) <= _LONGEST_PERIOD:
        unit = tail[-period:]
        repeats = 1
        while tail.endswith(unit, 0, len(tail) - repeats * period) and (repeats + 1) * period <= len(tail):
            repeats += 1
        if repeats >= _LOOP_REPEATS and repeats * period >= _LEAST_LOOP_CHARS and any(map(str.isalnum, unit)):
            return repeats
        at = tail.rfind(probe, 0, at + len(probe) - 1)
    return 0


def commitment(answer: Answer, task: Task) -> Finding:
    """Fails a short answer that gives up; hedging words in any other are counted and decide nothing."""
    said = Stance.STANDS if answer.tool_calls else stance(answer.text, task.turns)
    if said.gives_up:
        return Finding(Check.COMMITMENT, Status.FAIL, said.value)
    if said is not Stance.STANDS:
        return Finding(Check.COMMITMENT, Status.UNKNOWN, said.value)
    return Finding(Check.COMMITMENT, Status.UNKNOWN, "hedging_words", hedges(answer.text))


def announcement(answer: Answer, task: Task) -> Finding | None:
    r"""Where the caller asks for a marked result (`####`, `\boxed`): fails when it is missing or given as two values.

    None when no marker is asked for.
    """
    asked = [marker for marker in _MARKERS if any(marker in turn.text for turn in _instructions(task))]
    if not asked or answer.tool_calls:
        return None
    results = {_RESULT.sub("", each) for marker in asked for each in _announced(answer.text, marker)}
    if len(results) == 1:
        return Finding(Check.ANNOUNCEMENT, Status.UNKNOWN, "announced")
    return Finding(Check.ANNOUNCEMENT, Status.FAIL, "announced_twice" if results else "not_announced", len(results))


def _instructions(task: Task) -> list[Turn]:
    users = [turn for turn in task.turns if turn.role is Role.USER]
    return [*(turn for turn in task.turns if turn.role in (Role.SYSTEM, Role.DEVELOPER)), *users[-1:]]


def _announced(text: str, marker: str) -> list[str]:
    return [line.partition(marker)[2].strip() for line in text.split("\n") if marker in line]


def hedges(text: str) -> int:
    """How many hedging words `text` holds."""
    return len(_HEDGE.findall(text))


def turns_back(text: str) -> int:
    """How many words of `text` take back what was said before: "however", "wait", "actually"."""
    return len(_TURN.findall(text))
