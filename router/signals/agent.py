"""Where an agent stands in its work: inside a tool loop, failing, stalled, or told that the last answer was wrong."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from router.lexicon import is_dissatisfied
from router.text import strip_harness, window
from router.types import Role, Turn

_RECENT_CALLS: Final = 6
_RECENT_RESULTS: Final = 8
_REPEATS: Final = 3
_GLANCE_CHARS: Final = 400
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
_DIAGNOSIS_MARKS: Final = (
    "root cause", "caused by", "because", "due to", "the cause", "likely cause", "the issue is", "the problem is",
    "the culprit",
)  # fmt: skip
_DIAGNOSIS_CHARS: Final = 30


@dataclass(frozen=True, slots=True)
class AgentState:
    """Evidence of a conversation, read from its newest end.

    `tool_loop`: the turn continues after tool calls, nobody has spoken since. `stalled`: inside a loop, the newest call
    was made three times of late, or the last three results are errors; a call that differs clears it. `dissatisfied`:
    the newest user turn says that the answer before it failed. `tool_error_after_diagnosis`: a diagnosis was given, and
    the newest tool result is an error.
    """

    tool_loop: bool = False
    tool_results: int = 0
    tool_errors: int = 0
    stalled: bool = False
    dissatisfied: bool = False
    tool_error_after_diagnosis: bool = False

    @property
    def failed(self) -> bool:
        """True when the conversation itself shows that the previous attempt failed."""
        return self.dissatisfied or self.tool_error_after_diagnosis or self.stalled


def read_agent_state(turns: Sequence[Turn]) -> AgentState:
    """The state of the agent that sent `turns`, oldest first."""
    results = [turn for turn in turns if turn.role is Role.TOOL]
    errors = [is_tool_error(turn.text) for turn in results[-_RECENT_RESULTS:]]
    tool_loop = _in_tool_loop(turns)
    return AgentState(
        tool_loop=tool_loop,
        tool_results=len(results),
        tool_errors=sum(errors),
        stalled=tool_loop and (_repeats(turns) or (len(errors) >= _REPEATS and all(errors[-_REPEATS:]))),
        dissatisfied=_dissatisfied(turns),
        tool_error_after_diagnosis=bool(errors) and errors[-1] and _diagnosed_before_newest_result(turns),
    )


def is_tool_error(text: str) -> bool:
    """True when a tool's result reports that the tool failed."""
    return _ERROR_START.match(text) is not None or (
        _ERROR_MARK.search(window(text, _GLANCE_CHARS, _GLANCE_CHARS)) is not None
    )


def says_it_failed(text: str) -> bool:
    """True when a user's words say that the answer before them did not help."""
    glance = window(strip_harness(text), _GLANCE_CHARS, _GLANCE_CHARS).lower().replace("\u2019", "'")
    return is_dissatisfied(glance)


def _in_tool_loop(turns: Sequence[Turn]) -> bool:
    spoken = [turn for turn in turns[-2:] if turn.role not in {Role.SYSTEM, Role.DEVELOPER}]
    return bool(spoken) and (spoken[-1].role is Role.TOOL or bool(spoken[-1].tool_calls))


def _repeats(turns: Sequence[Turn]) -> bool:
    calls: list[tuple[str, str]] = []
    for turn in reversed(turns):
        if turn.role is Role.USER:
            break
        calls += [(name, " ".join(arguments.split())) for name, arguments in reversed(turn.tool_calls)]
        if len(calls) >= _RECENT_CALLS:
            break
    return bool(calls) and calls[:_RECENT_CALLS].count(calls[0]) >= _REPEATS


def _dissatisfied(turns: Sequence[Turn]) -> bool:
    for position in range(len(turns) - 1, -1, -1):
        if turns[position].role is Role.USER and turns[position].text:
            answered = any(turn.role is Role.ASSISTANT for turn in turns[:position])
            return answered and says_it_failed(turns[position].text)
    return False


def _diagnosed_before_newest_result(turns: Sequence[Turn]) -> bool:
    after_result = False
    for turn in reversed(turns):
        if turn.role is Role.TOOL:
            after_result = True
        elif after_result and turn.role is Role.ASSISTANT and len(turn.text) >= _DIAGNOSIS_CHARS:
            lowered = window(turn.text).lower()
            if any(mark in lowered for mark in _DIAGNOSIS_MARKS):
                return True
    return False
