"""Where an agent stands in its work: inside a tool loop, failing, stalled, or told that the last answer was wrong.

All of it is anchored on the newest attempt: what has been repaired since is no evidence any more.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from router.features import Passage
from router.lexicon import hedges, saw_it_fail, says_wrong, split_words, word_set
from router.signals.evidence import WEIGHTS, EvidenceKind, is_failure
from router.text import strip_harness, window
from router.types import Role, Turn

_TOOL: Final = Role.TOOL  # members are looked up through a function, and these are asked for once per turn
_USER: Final = Role.USER
_RECENT_CALLS: Final = 6
_RECENT_RESULTS: Final = 8
_REPEATS: Final = 3
_GLANCE_CHARS: Final = 400
_ROUNDS: Final = 3  # older rounds cost time and add nothing: two failed ones already ask for the larger model
_LOOP_TURNS: Final = 64
# Anchored at the start of the result: a log that was read on purpose may be full of errors and is no failure.
_ERROR_START: Final = re.compile(
    r"\s{0,8}[\[({\"']{0,3}(?:error|fatal|exception|traceback \(most recent|failed|failure|panic:|permission denied|"
    r"command failed|tool error|(?:ba|z|)sh: .{1,120}(?:not found|denied)|[\w./-]{1,40}: command not found)",
    re.IGNORECASE,
)
_ERROR_MARK: Final = re.compile(
    r"\"?is_?error\"?\s{0,2}[:=]\s{0,2}true|exit(?:ed)?(?:_| with |\s)?(?:code|status)\"?[:= ]{0,3}[1-9]\d{0,2}\b",
    re.IGNORECASE,
)
_CRITICAL: Final = re.compile(
    r"\b(?:fatal|panic|segmentation fault|core dumped|out of memory|oomkilled|no space left|data loss|"
    r"corrupt(?:ed|ion)?|deadlock(?:ed)?|assertion failed)\b",
    re.IGNORECASE,
)
_TESTS_FAILED: Final = re.compile(
    r"\b[1-9]\d{0,5} (?:tests? )?(?:failed|failures?|failing)\b|^(?:FAILED|FAIL|--- FAIL:|not ok)\b|"
    r"\bAssertionError\b|Tests:\s{1,4}[1-9]\d{0,5} failed",
    re.MULTILINE,
)
_DIAGNOSIS_MARKS: Final = (
    "root cause", "caused by", "because", "due to", "the cause", "likely cause", "the issue is", "the problem is",
    "the culprit",
)  # fmt: skip
_DIAGNOSIS_CHARS: Final = 30
_NAME_PART: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_PRODUCES: Final = word_set(
    "write edit create patch apply insert replace append commit save update add rename move delete remove multiedit"
)
_EXPLORES: Final = word_set(
    "read list search grep get find view open show glob fetch cat ls stat describe query look status log logs diff"
)
_SHELL_PRODUCES: Final = re.compile(r"apply_patch|sed -i|tee |>{1,2} ?[\w./~]|git (?:apply|commit)|\bpatch -p\d")

_SAME_QUESTION: Final = 0.6
_SAME_QUESTION_TERMS: Final = 4
_QUESTION_CHARS: Final = 600
_COMMON: Final = word_set(
    "a an the is are was were be to of in on for and or it this that i you we my our your with as at by from do does "
    "did can could please me again what how why not no so but if"
)


class Severity(IntEnum):
    """How bad the newest tool result is."""

    NONE = 0
    ERROR = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class AgentState:
    """Evidence of a conversation, read from its newest end.

    `tool_loop`: the turn continues after tool calls, nobody has spoken since. `stalled`: inside a loop, the newest call
    was made three times of late, or the last three results are errors; a call that differs clears it. `dissatisfied`:
    the newest user turn says that the answer before it failed. `tool_error_after_diagnosis`: a diagnosis was given, and
    the newest tool result is an error. `repeat_share` in [0, 1] is the share of the recent calls that were made before,
    `producing` that one of them writes, `exploring` that all of them only look. `newest` is the evidence against the
    newest attempt, `earlier` against the attempts before it as long as none of them was fine, both as
    `(kind, weight)`.
    """

    tool_loop: bool = False
    tool_results: int = 0
    tool_errors: int = 0
    stalled: bool = False
    dissatisfied: bool = False
    tool_error_after_diagnosis: bool = False
    severity: Severity = Severity.NONE
    repeat_share: float = 0.0
    exploring: bool = False
    producing: bool = False
    newest: tuple[tuple[EvidenceKind, float], ...] = ()
    earlier: tuple[tuple[EvidenceKind, float], ...] = ()

    @property
    def newest_weight(self) -> float:
        """The sum of the evidence against the newest attempt."""
        return sum(weight for _, weight in self.newest)

    @property
    def earlier_weight(self) -> float:
        """The sum of the evidence against the attempts before it."""
        return sum(weight for _, weight in self.earlier)

    @property
    def failed(self) -> bool:
        """True when the conversation itself shows that the newest attempt failed."""
        return is_failure(self.newest_weight)


def read_agent_state(turns: Sequence[Turn], passages: Sequence[Passage] = ()) -> AgentState:
    """The state of the agent that sent `turns`, oldest first; `passages` are the user's turns, read, newest first."""
    results = [turn for turn in turns if turn.role is _TOOL]
    errors = [is_tool_error(turn.text) for turn in results[-_RECENT_RESULTS:]]
    loop = _newest_round(turns)
    # A user who goes on without a complaint has got past the error, or does not mind it.
    failed_newest = bool(errors) and errors[-1] and any(turn.role is _TOOL for turn in loop)
    tool_loop = _in_tool_loop(turns)
    calls = _recent_calls(loop)
    repeated = bool(calls) and calls.count(calls[0]) >= _REPEATS
    stalled = tool_loop and (repeated or (len(errors) >= _REPEATS and all(errors[-_REPEATS:])))
    after_diagnosis = failed_newest and _diagnosed_before_newest_result(turns)
    producing = any(_produces(call) for call in calls)
    said = _said_against(turns, passages, 0)
    newest = list(said)
    if stalled:
        newest.append(EvidenceKind.LOOPING)
    elif after_diagnosis:
        newest.append(EvidenceKind.TOOL_ERROR)
    elif tool_loop and producing and results and _TESTS_FAILED.search(_glance(results[-1].text)):
        newest.append(EvidenceKind.TEST_FAILED)
    earlier: list[EvidenceKind] = []
    for age in range(1, _ROUNDS) if said else ():
        before = _said_against(turns, passages, age)
        if not before:
            break
        earlier += before
    return AgentState(
        tool_loop=tool_loop,
        tool_results=len(results),
        tool_errors=sum(errors),
        stalled=stalled,
        dissatisfied=any(kind in _COMPLAINTS for kind in said),
        tool_error_after_diagnosis=after_diagnosis,
        severity=_severity(results[-1].text) if failed_newest else Severity.NONE,
        repeat_share=1.0 - len(set(calls)) / len(calls) if calls else 0.0,
        exploring=bool(calls) and all(_explores(call) for call in calls),
        producing=producing,
        newest=tuple((kind, WEIGHTS[kind]) for kind in newest),
        earlier=tuple((kind, WEIGHTS[kind]) for kind in earlier),
    )


def is_tool_error(text: str) -> bool:
    """True when a tool's result reports that the tool failed."""
    return _ERROR_START.match(text) is not None or (
        _ERROR_MARK.search(window(text, _GLANCE_CHARS, _GLANCE_CHARS)) is not None
    )


def complaint(text: str) -> EvidenceKind | None:
    """What a user's words say against the answer before them, if anything."""
    lowered = _glance(strip_harness(text)).lower().replace("\u2019", "'")
    vocabulary = frozenset(split_words(lowered))
    if saw_it_fail(lowered, vocabulary):
        return EvidenceKind.USER_SAW_IT_FAIL
    return EvidenceKind.USER_SAYS_WRONG if says_wrong(lowered, vocabulary) else None


def says_it_failed(text: str) -> bool:
    """True when a user's words say that the answer before them did not help."""
    return complaint(text) is not None


_COMPLAINTS: Final = frozenset({EvidenceKind.USER_SAW_IT_FAIL, EvidenceKind.USER_SAYS_WRONG})


def _glance(text: str) -> str:
    return window(text, _GLANCE_CHARS, _GLANCE_CHARS)


def _severity(text: str) -> Severity:
    return Severity.CRITICAL if _CRITICAL.search(_glance(text)) else Severity.ERROR


def _in_tool_loop(turns: Sequence[Turn]) -> bool:
    spoken = [turn for turn in turns[-2:] if turn.role not in {Role.SYSTEM, Role.DEVELOPER}]
    return bool(spoken) and (spoken[-1].role is Role.TOOL or bool(spoken[-1].tool_calls))


def _newest_round(turns: Sequence[Turn]) -> Sequence[Turn]:
    """The turns since the user spoke last, newest first and not too many."""
    found: list[Turn] = []
    for turn in reversed(turns[-_LOOP_TURNS:]):
        if turn.role is _USER:
            break
        found.append(turn)
    return found


def _recent_calls(newest_first: Sequence[Turn]) -> list[tuple[str, str]]:
    """The recent calls, newest first, blanks in their arguments made equal."""
    calls: list[tuple[str, str]] = []
    for turn in newest_first:
        calls += [(name, " ".join(arguments.split())) for name, arguments in reversed(turn.tool_calls)]
        if len(calls) >= _RECENT_CALLS:
            break
    return calls[:_RECENT_CALLS]


def _produces(call: tuple[str, str]) -> bool:
    name, arguments = call
    return not _PRODUCES.isdisjoint(_parts(name)) or _SHELL_PRODUCES.search(arguments[:_GLANCE_CHARS]) is not None


def _explores(call: tuple[str, str]) -> bool:
    words = _parts(call[0]) or ()
    commands = split_words(call[1][:_GLANCE_CHARS].lower())
    return not _produces(call) and not _EXPLORES.isdisjoint({*words, *commands})


def _parts(name: str) -> frozenset[str]:
    return frozenset(part.lower() for part in _NAME_PART.findall(name[:64]))


def _said_against(turns: Sequence[Turn], passages: Sequence[Passage], age: int) -> Sequence[EvidenceKind]:
    """What was said against the attempt before the user's turn number `age`, counted from the newest one."""
    position = _user_position(turns, age)
    if position is None:
        return ()
    answer = _answer_before(turns, position)
    if answer is None:
        return ()
    kinds = [kind for kind in (complaint(turns[position].text),) if kind is not None]
    if _asks_again(passages, age):
        kinds.append(EvidenceKind.RE_ASKED)
    # A guess weighs only beside something that was said: being careful is no failure, and it is read only then.
    if kinds and hedges(_glance(answer.text).lower().replace("\u2019", "'")):
        kinds.append(EvidenceKind.HEDGED)
    return kinds


def _user_position(turns: Sequence[Turn], age: int) -> int | None:
    spoken = (position for position in range(len(turns) - 1, -1, -1) if _speaks(turns[position]))
    return next((position for count, position in enumerate(spoken) if count == age), None)


def _speaks(turn: Turn) -> bool:
    return turn.role is _USER and bool(turn.text)


def _answer_before(turns: Sequence[Turn], position: int) -> Turn | None:
    return next((turn for turn in reversed(turns[:position]) if turn.role is Role.ASSISTANT), None)


def _asks_again(passages: Sequence[Passage], age: int) -> bool:
    """True when a user's turn asks the same as one of the two before it: the answer in between was none."""
    if age + 1 >= len(passages):
        return False
    asked = _terms(passages[age])
    if len(asked) < _SAME_QUESTION_TERMS:
        return False
    return any(_jaccard(asked, _terms(before)) >= _SAME_QUESTION for before in passages[age + 1 : age + 3])


def _terms(passage: Passage) -> frozenset[str]:
    """The words that matter; of scripts without blanks the pairs of neighbouring signs."""
    words = passage.vocabulary - _COMMON
    lowered = passage.lowered[:_QUESTION_CHARS]
    return words if lowered.isascii() else words | frozenset(_pairs(lowered))


def _pairs(text: str) -> Iterator[str]:
    signs = "".join(sign for sign in text if not sign.isascii() and sign.isalpha())
    return (signs[start : start + 2] for start in range(len(signs) - 1))


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / max(len(first | second), 1)


def _diagnosed_before_newest_result(turns: Sequence[Turn]) -> bool:
    after_result = False
    for turn in reversed(turns[-_LOOP_TURNS:]):
        if turn.role is Role.TOOL:
            after_result = True
        elif after_result and turn.role is Role.ASSISTANT and len(turn.text) >= _DIAGNOSIS_CHARS:
            lowered = window(turn.text, _GLANCE_CHARS, _GLANCE_CHARS).lower()
            if any(mark in lowered for mark in _DIAGNOSIS_MARKS):
                return True
    return False
