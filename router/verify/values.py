"""What a verifier is given and what it says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from router.types import TaskType, Turn

Json: TypeAlias = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MOST_ANSWER_CHARS: Final = 262_144
"""A longer answer is not verified: every verifier says unknown."""

MOST_MATERIAL_CHARS: Final = 1_048_576
"""Of the conversation, newest first; what lies beyond may be cited and is not seen, so nothing is failed for it."""


class Status(StrEnum):
    """What a check says. UNKNOWN is not PASS: the check does not apply, or could not tell."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    UNKNOWN = "unknown"


class Check(StrEnum):
    """The verifiers, by what they look at."""

    PRESENCE = "presence"
    COMPLETION = "completion"
    REPETITION = "repetition"
    COMMITMENT = "commitment"
    ANNOUNCEMENT = "announcement"
    SCHEMA = "schema"
    CODE = "code"
    PATCH = "patch"
    CITATION = "citation"
    COMMAND = "command"
    ARITHMETIC = "arithmetic"
    RECKONING = "reckoning"


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer: its text without reasoning, why it ended (`stop`, `length`, ...), and the calls it made.

    `finish` is empty where nobody knows why it ended. A call stands for words: an answer with calls may be short or
    empty.
    """

    text: str
    finish: str = "stop"
    tool_calls: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """What the answer is for.

    `turns` is the conversation up to the answer, oldest first. `schema` is the JSON Schema that the caller demanded,
    `wants_json` that it demanded a JSON object of no particular form. `cut` says that `turns` is not the whole
    conversation. `open_ended`: the caller asked that the text be continued or be cut off (stop strings, a small limit),
    so that an end in mid-sentence means nothing.
    """

    type: TaskType
    turns: tuple[Turn, ...]
    schema: Mapping[str, Json] | None = None
    wants_json: bool = False
    cut: bool = False
    open_ended: bool = False


Parses: TypeAlias = Callable[[str], bool | None]
"""Whether a text parses; None when the parser cannot tell. It must not run the text, nor raise."""


@dataclass(frozen=True, slots=True)
class Parsers:
    """Parsers that the standard library lacks; the deployment passes them in. None: what they would read is unknown."""

    command: Parses | None = None
    yaml: Parses | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `kind` names it in lower case, `count` says how often. Holds nothing that was said."""

    check: Check
    status: Status
    kind: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all checks say together.

    `status` is FAIL when one check fails, PASS when at least one passes that can tell right from wrong and none fails,
    else UNKNOWN. `p_wrong` is the probability in (0, 1) that a calculated answer is wrong; None for other answers.
    """

    status: Status
    findings: tuple[Finding, ...]
    p_wrong: float | None = None

    @property
    def failed(self) -> tuple[Finding, ...]:
        """What speaks against the answer."""
        return tuple(finding for finding in self.findings if finding.status is Status.FAIL)
