"""Frozen values of the difficulty router: what a turn is, and what it deserves."""

from dataclasses import dataclass
from enum import StrEnum


class Tier(StrEnum):
    """The two sizes the router chooses between; configuration maps each to a served model."""

    BASE = "20b"
    STRONG = "120b"

    @property
    def rank(self) -> int:
        """0 for the base tier, 1 for the strong one."""
        return 0 if self is Tier.BASE else 1


class Effort(StrEnum):
    """gpt-oss reasoning effort."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """0, 1 or 2."""
        return (Effort.LOW, Effort.MEDIUM, Effort.HIGH).index(self)


class Risk(StrEnum):
    """Risk class of an action, from observing only (R0) to never (FORBIDDEN)."""

    R0 = "R0"
    R1 = "R1"
    R2 = "R2"
    R3 = "R3"
    FORBIDDEN = "FORBIDDEN"

    @property
    def rank(self) -> int:
        """0 for R0 up to 4 for FORBIDDEN; classes compare by this."""
        return (Risk.R0, Risk.R1, Risk.R2, Risk.R3, Risk.FORBIDDEN).index(self)

    def at_least(self, other: "Risk") -> "Risk":
        """The higher of the two classes."""
        return self if self.rank >= other.rank else other


class Role(StrEnum):
    """Who said a turn, in OpenAI's words."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class TaskType(StrEnum):
    """What a turn asks for. `GENERAL` means that no rule recognised it, which is not the same as simple."""

    INCIDENT_DIAGNOSIS = "incident_diagnosis"
    CODE_REVIEW = "code_review"
    CODE_GENERATION = "code_generation"
    MATHEMATICS = "mathematics"
    EXTRACTION = "extraction"
    CHAT = "chat"
    GENERAL = "general"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation as plain text.

    `tool_calls` holds `(name, arguments)` pairs of an assistant turn, arguments as the model wrote them.
    """

    role: Role
    text: str
    tool_calls: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """All the router may look at.

    `requested_tier` and `requested_effort` are the caller's explicit wishes, `trusted_risk` comes from the gate or from
    an authenticated header and is never lowered by text, `untrusted_content` says that third-party text (tool output,
    web pages) is in the conversation. `offered_tools` are the names of the function tools on offer.
    """

    turns: tuple[Turn, ...]
    offered_tools: tuple[str, ...] = ()
    requested_tier: Tier | None = None
    requested_effort: Effort | None = None
    trusted_risk: Risk | None = None
    untrusted_content: bool = False


@dataclass(frozen=True, slots=True)
class StateView:
    """What the session memory knows before this turn; the router reads it and never writes.

    `latched_tier` is where an escalation keeps the session, `last_tier` and `last_effort` are the arm of the previous
    turn: inside a tool loop neither is changed without need.
    """

    failures_on_base: int = 0
    latched_tier: Tier | None = None
    last_tier: Tier | None = None
    last_effort: Effort | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Model size and effort for one turn, and why.

    `reason` is the rule that decided, `reasons` every rule that fired (the deciding one first), `difficulty` lies in
    [0, 1], `policy_digest` is the SHA-256 hex of the policy that decided.
    """

    tier: Tier
    effort: Effort
    reason: str
    reasons: tuple[str, ...]
    difficulty: float
    policy_digest: str
