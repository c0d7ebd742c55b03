"""What guardrails are asked and what they answer. Values only; none of them holds a word of a text."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from deployments.errors import PartUnavailable


class Action(StrEnum):
    """What is done about a finding, the mildest first. A request's actions add up; the strongest is told."""

    OFF = "off"
    TAG = "tag"
    MASK = "mask"
    KEEP_LOCAL = "keep_local"
    BLOCK = "block"

    @property
    def rank(self) -> int:
        """0 for `off` to 4 for `block`."""
        return _RANKS[self]


_RANKS: Final[Mapping[Action, int]] = {action: rank for rank, action in enumerate(Action)}


class Direction(StrEnum):
    """Whose words: what goes to a model, or what comes from one."""

    INPUT = "input"
    OUTPUT = "output"


class Detector(StrEnum):
    """What is looked for. `names` needs the optional library."""

    PII = "pii"
    SECRETS = "secrets"
    NAMES = "names"
    INJECTION = "injection"


@dataclass(frozen=True, slots=True)
class Span:
    """A match in a text: `text[start:end]` is all of it and nothing else."""

    start: int
    end: int
    detector: Detector
    kind: str


class Rule(Protocol):
    """Looks for one thing in a text."""

    @property
    def detector(self) -> Detector:
        """Whose rule it is."""
        ...

    @property
    def kind(self) -> str:
        """What it finds, in lower case with underscores."""
        ...

    def find(self, text: str, begin: int, end: int) -> Iterable[tuple[int, int]]:
        """Where it stands in `text[begin:end]`, in order and without overlaps; what is around that may be looked at."""
        ...


class DetectorFailed(Exception):
    """A detector could not look: it is not installed, ran out of time or broke. Holds no word of a text."""

    def __init__(self, detector: Detector, why: str) -> None:
        """`why`: `missing`, `timeout`, `tokens` (the text came as token ids) or the name of an exception."""
        super().__init__(detector, why)
        self.detector = detector
        self.why = why


class GuardrailUnavailable(PartUnavailable):
    """A guardrail that the tenant requires could not look. Nothing was let by."""

    code = "guardrail_unavailable"

    def __init__(self, public_message: str = "A guardrail that this key requires cannot look at the text.") -> None:
        super().__init__(public_message)


@dataclass(frozen=True, slots=True)
class Found:
    """How often something was found, and what was done about it."""

    detector: Detector
    kind: str
    action: Action
    count: int

    def __str__(self) -> str:
        return f"{self.detector}.{self.kind}:{self.action}={self.count}"


class Tally:
    """Counts findings of one request in one direction."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[Detector, str, Action]] = Counter()
        self._failed: dict[Detector, str] = {}

    def add(self, detector: Detector, kind: str, action: Action, count: int = 1) -> None:
        """So many more."""
        self._counts[detector, kind, action] += count

    def failed(self, failure: DetectorFailed) -> bool:
        """A detector could not look; False when that is known already."""
        new = failure.detector not in self._failed
        self._failed.setdefault(failure.detector, failure.why)
        return new

    @property
    def found(self) -> tuple[Found, ...]:
        """The findings, by detector and kind."""
        return tuple(Found(*key, count) for key, count in sorted(self._counts.items()))

    @property
    def failures(self) -> Mapping[Detector, str]:
        """Which detectors could not look, and why."""
        return self._failed

    @property
    def action(self) -> Action:
        """The strongest action; `off` when nothing was found."""
        return max((key[2] for key in self._counts), key=lambda action: action.rank, default=Action.OFF)

    def did(self, action: Action) -> bool:
        """Whether something asked for this action."""
        return any(key[2] is action for key in self._counts)


def placeholder(kind: str) -> str:
    """What stands in the place of a masked text. No rule finds anything in it, and JSON needs no escape for it."""
    return f"[{kind.upper()}]"
