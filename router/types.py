"""Frozen values of the difficulty router: what a turn is, and what it deserves."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


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
class Arm:
    """One of the things a turn can be given: a size and an effort."""

    tier: Tier
    effort: Effort

    def __str__(self) -> str:
        """As in `120b/high`."""
        return f"{self.tier.value}/{self.effort.value}"


ARMS: Final = (
    Arm(Tier.BASE, Effort.LOW),
    Arm(Tier.BASE, Effort.MEDIUM),
    Arm(Tier.BASE, Effort.HIGH),
    Arm(Tier.STRONG, Effort.MEDIUM),
    Arm(Tier.STRONG, Effort.HIGH),
)
"""What the router proposes by itself, by rising cost. 120b/low is given only to who asks for it."""


class Mode(StrEnum):
    """Whether the learned proposal acts, is only computed, or was kept out of the decision by a rule."""

    APPLY = "apply"
    SHADOW = "shadow"
    BYPASS = "bypass"


class Hold(StrEnum):
    """Why a turn may not be answered now: only a smaller arm than a floor demands is left.

    REFUSE is an error for the caller, QUEUE waits for the larger tier or for a human.
    """

    REFUSE = "refuse"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class StateView:
    """What the session memory knows before this turn; the router reads it and never writes.

    `failures_on_base` and `failures_on_strong` are sums of evidence since the last recovery: one hard failure weighs 1,
    softer ones less, and 1 is what a rule calls failed. `latched_tier` is where an escalation keeps the session,
    `last_tier` and `last_effort` are the arm of the previous turn: inside a tool loop neither is changed without need.
    `size_steps` and `effort_steps` count the escalations of this task. `known` is False when the memory could not be
    read: then nothing may be concluded from its silence.
    """

    failures_on_base: float = 0.0
    failures_on_strong: float = 0.0
    latched_tier: Tier | None = None
    last_tier: Tier | None = None
    last_effort: Effort | None = None
    size_steps: int = 0
    effort_steps: int = 0
    known: bool = True


@dataclass(frozen=True, slots=True)
class BudgetView:
    """How much of the strong tier a tenant may still be given by choice; forced escalations are outside of it.

    `target` is the share of eligible turns in [0, 1], `threshold` the logit above which a proposal is taken now,
    `drained` says that the hard cap is used up.
    """

    target: float
    threshold: float
    drained: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """How the tiers are. `strong_pressure` is the strong tier's queue time over its limit, 1 at the limit.

    Windows are in tokens; None is unknown. `strong_served` is False where this installation has no strong tier at all.
    `strong_failing`: its last calls failed, so a turn that can do without it does; one that cannot finds out whether
    it still does. `strong_cold`: it has no replica now, so a turn would wait for the first one. `full`: the tier has
    just refused a call, or its queue is at its bound. `spills`: who runs this lets the strong tier take turns that
    the full base tier would refuse. `left_ms` is what the caller's deadline leaves and `strong_ms` what an attempt of
    the strong tier usually takes; None is unknown.
    """

    base_up: bool = True
    strong_up: bool = True
    strong_served: bool = True
    strong_pressure: float = 0.0
    base_window: int | None = None
    strong_window: int | None = None
    strong_failing: bool = False
    strong_cold: bool = False
    strong_full: bool = False
    base_full: bool = False
    spills: bool = False
    left_ms: int | None = None
    strong_ms: int | None = None

    @property
    def strong_in_time(self) -> bool:
        """False when an attempt of the strong tier would probably end after the caller's deadline."""
        return self.left_ms is None or self.strong_ms is None or self.strong_ms <= self.left_ms

    @property
    def strong_free(self) -> bool:
        """True when nothing speaks against giving the strong tier a turn that does not need it."""
        ready = self.strong_served and self.strong_up and not self.strong_failing
        free = ready and not self.strong_cold and not self.strong_full
        return free and self.strong_pressure < 1.0 and self.strong_in_time


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All that is not the request, the state or the policy. `draw` in [0, 1) decides about exploration.

    `mode` is what the gate of the learned head allows for this tenant. No budget means that nothing is proposed by
    choice.
    """

    mode: Mode = Mode.SHADOW
    budget: BudgetView | None = None
    load: Load = Load()
    exploration: float = 0.0
    draw: float = 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Model size and effort for one turn, and why.

    `reason` is the rule that decided, `reasons` every rule that fired (the deciding one first), `difficulty` lies in
    [0, 1], `policy_digest` and `snapshot_digest` are the SHA-256 hex of the policy and of the learned snapshot that
    decided (the latter empty without one). `propensity` is the probability in (0, 1] with which this arm was given.
    `eligible`: the budget counts this turn. `hand_over`: the strong tier failed, too; a human should take it. With a
    `hold` nothing may be generated now: `tier` and `effort` say what the turn would need.
    """

    tier: Tier
    effort: Effort
    reason: str
    reasons: tuple[str, ...]
    difficulty: float
    policy_digest: str
    snapshot_digest: str = ""
    mode: Mode = Mode.SHADOW
    propensity: float = 1.0
    explored: bool = False
    eligible: bool = False
    hand_over: bool = False
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class Alternative:
    """An arm that the turn could have been given.

    `p_ok` is the learned probability of a good answer, None where nothing learned speaks of the arm. `relative_cost` is
    a ratio to the default arm that was configured, not measured. `allowed`: no bound of this turn rules it out.
    """

    arm: Arm
    p_ok: float | None
    relative_cost: float
    allowed: bool


@dataclass(frozen=True, slots=True)
class RuleTruth:
    """A rule of the policy and the truth of every signal that it names, each as `(name, value)`.

    `source` says where the rule comes from: `policy`, or `tenant` for an overlay.
    """

    rule_id: str
    fired: bool
    effect: str
    safety: bool
    source: str
    signals: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the learned part would do by itself.

    `kind` is `gain` or `difficulty`, `value` that number, `demanded` the number from which on the strong tier is
    proposed (None without a budget). `logit` and `threshold` are the same on the scale of the budget; the load on the
    strong tier is in `demanded`, not in `threshold`. `hit`: above the threshold, which is what the budget counts.
    `taken`: the proposal is for the strong tier. `abstained` says why there is none.
    """

    kind: str
    value: float
    logit: float
    threshold: float | None
    demanded: float | None
    hit: bool
    taken: bool
    abstained: str | None = None


@dataclass(frozen=True, slots=True)
class Detail:
    """All that explains a decision. Names and numbers only: no word of the prompt.

    `signals` are the named signals that were true; `contributions` the terms of the difficulty's logit that weigh most,
    with `rest` for the others.
    `shadow` is the decision that the learned proposal would have led to, as arm and reason. `provenance` lists the keys
    of the policy that the tenant's overlay set. `failures` are the sums of evidence by tier that counted for this turn,
    `evidence` what the conversation itself showed, as `(kind, weight)`. `stages` are the steps of the decision in their
    order, each as `(stage, arm, reason)`. `propensities` are the probabilities of the tiers, where chance had a part.
    `state` is what the session memory said, as names and values.
    """

    task: str
    risk: Risk
    signals: tuple[str, ...]
    contributions: tuple[tuple[str, float], ...]
    mode: Mode
    confidence: float
    proposal: Proposal
    shadow: tuple[Arm, str]
    alternatives: tuple[Alternative, ...]
    counterfactual: tuple[str, ...]
    rules: tuple[RuleTruth, ...]
    provenance: tuple[str, ...]
    stages: tuple[tuple[str, Arm, str], ...]
    evidence: tuple[tuple[str, float], ...]
    failures: tuple[tuple[Tier, float], ...]
    propensities: tuple[tuple[Tier, float], ...]
    state: tuple[tuple[str, str], ...] = ()
