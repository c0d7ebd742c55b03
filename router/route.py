"""The decision: model size and effort for one turn. Pure: same input, same bytes.

Order of evaluation, first one that speaks wins, floors last because they always win:

1. `force` rules; 2. the caller's explicit wish; 3. the latch of an escalated session; 4. inside a tool loop that is not
stalled, the arm of the turn before; 5. `prefer` rules; 6. the default, and for effort the task's own. Then the ceilings
bound the result from above, and the floors from below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from router.effort import effort_for
from router.features import Features
from router.policy import Effect, Policy, Rule, holds
from router.score import Score, score
from router.signals.collect import Signals, collect, estimated_risk
from router.types import Decision, Effort, Risk, RouteRequest, StateView, Tier


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller asked for by name; None leaves the axis to the router."""

    tier: Tier | None = None
    effort: Effort | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """A decision with everything that led to it. Holds no word of the prompt.

    `escalated`: a rule raised the turn to the strong tier, so the session should stay there.
    """

    decision: Decision
    signals: Signals
    rules: tuple[tuple[str, bool], ...]
    score: Score
    escalated: bool


def route(request: RouteRequest, state: StateView, policy: Policy) -> Decision:
    """Model size and effort for the turn that ends `request`."""
    return trace(request, state, policy).decision


def trace(request: RouteRequest, state: StateView, policy: Policy) -> Trace:
    """The same decision as `route`, with its evidence."""
    evidence = collect(request, state, policy.review)
    scored = score(evidence.said)
    return decide(
        evidence.signals,
        evidence.said[0].features,
        scored,
        Wish(request.requested_tier, request.requested_effort),
        state,
        policy,
    )


def decide(signals: Signals, features: Features, scored: Score, wish: Wish, state: StateView, policy: Policy) -> Trace:
    """The decision on evidence that has already been collected."""
    names = signals.names
    truths = [(rule, holds(rule.when, names)) for rule in policy.rules]
    fired = [rule for rule, true in truths if true]
    bounds = _Bounds.of(fired)
    tier, reason, tier_notes = _tier(fired, bounds, signals, wish, state, policy)
    effort, effort_notes = _effort(fired, bounds, signals, features, wish, state, policy)
    overridden = ["ceiling_overridden"] if bounds.contradict else []
    reasons = (reason, *(rule.rule_id for rule in fired), *tier_notes, *effort_notes, *overridden)
    return Trace(
        decision=Decision(
            tier=tier,
            effort=effort,
            reason=reason,
            reasons=tuple(dict.fromkeys(reasons)),
            difficulty=scored.difficulty,
            policy_digest=policy.digest,
        ),
        signals=signals,
        rules=tuple((rule.rule_id, true) for rule, true in truths),
        score=scored,
        escalated=bounds.floor_tier is Tier.STRONG,
    )


def fallback(request: RouteRequest, state: StateView | None = None, policy_digest: str = "") -> Decision:
    """The decision when the router itself failed: 20b/medium, but up for R2 and above, never silently down.

    Keeps an escalated session and an explicit wish for the strong tier where they are. If even the text's risk cannot
    be estimated, the turn goes up: what cannot be read is not harmless.
    """
    try:
        risk = estimated_risk(request)
    except Exception:  # the text that broke the router may break this too
        risk = Risk.R2
    latched = state is not None and Tier.STRONG in {state.latched_tier, state.last_tier}
    up = risk.rank >= Risk.R2.rank
    tier = Tier.STRONG if up or latched or request.requested_tier is Tier.STRONG else Tier.BASE
    reason = "router_error_raised" if up else "router_error"
    return Decision(
        tier=tier,
        effort=Effort.HIGH if up else Effort.MEDIUM,
        reason=reason,
        reasons=(reason,),
        difficulty=0.5,
        policy_digest=policy_digest,
    )


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What the fired floors and ceilings allow; `floor_rule` is the one that decides when the floor does."""

    floor_tier: Tier
    floor_effort: Effort
    ceiling_tier: Tier
    ceiling_effort: Effort
    floor_rule: Rule | None
    ceiling_rule: Rule | None

    @classmethod
    def of(cls, fired: Sequence[Rule]) -> "_Bounds":
        floors = [rule for rule in fired if rule.effect is Effect.FLOOR]
        ceilings = [rule for rule in fired if rule.effect is Effect.CEILING]
        by_size = [rule for rule in ceilings if rule.tier is not None]
        return cls(
            floor_tier=max((r.tier for r in floors if r.tier), key=_rank, default=Tier.BASE),
            floor_effort=max((r.effort for r in floors if r.effort), key=_rank, default=Effort.LOW),
            ceiling_tier=min((r.tier for r in ceilings if r.tier), key=_rank, default=Tier.STRONG),
            ceiling_effort=min((r.effort for r in ceilings if r.effort), key=_rank, default=Effort.HIGH),
            # `max` and `min` keep the first of equals, and rules come by falling priority.
            floor_rule=max(floors, key=_height, default=None),
            ceiling_rule=min(by_size, key=_height, default=None),
        )

    @property
    def contradict(self) -> bool:
        return self.floor_tier.rank > self.ceiling_tier.rank or self.floor_effort.rank > self.ceiling_effort.rank

    def tier(self, proposed: Tier) -> Tier:
        return max(min(proposed, self.ceiling_tier, key=_rank), self.floor_tier, key=_rank)

    def effort(self, proposed: Effort) -> Effort:
        return max(min(proposed, self.ceiling_effort, key=_rank), self.floor_effort, key=_rank)


def _rank(value: Tier | Effort) -> int:
    return value.rank


def _height(rule: Rule) -> tuple[int, int]:
    return (-1 if rule.tier is None else rule.tier.rank, -1 if rule.effort is None else rule.effort.rank)


_KEPT: Final = "tool_loop"


def _tier(
    fired: Sequence[Rule], bounds: _Bounds, signals: Signals, wish: Wish, state: StateView, policy: Policy
) -> tuple[Tier, str, list[str]]:
    """The tier, the reason that decided it, and notes on what was wished for and not given."""
    proposed, reason = _proposed_tier(fired, signals, wish, state, policy)
    tier = bounds.tier(proposed)
    notes: list[str] = []
    if wish.tier is not None:
        notes.append("explicit_model" if tier is wish.tier else "explicit_model_overridden")
    if bounds.floor_tier is Tier.STRONG and bounds.floor_rule is not None:
        return tier, bounds.floor_rule.rule_id, notes
    if tier is not proposed and bounds.ceiling_rule is not None:
        return tier, bounds.ceiling_rule.rule_id, notes
    return tier, reason, notes


def _proposed_tier(
    fired: Sequence[Rule], signals: Signals, wish: Wish, state: StateView, policy: Policy
) -> tuple[Tier, str]:
    for rule in fired:
        if rule.effect is Effect.FORCE and rule.tier is not None:
            return rule.tier, rule.rule_id
    if wish.tier is not None:
        return wish.tier, "explicit_model"
    if state.latched_tier is Tier.STRONG:
        return Tier.STRONG, "session_latched"
    if signals.agent.tool_loop and not signals.agent.stalled and state.last_tier is not None:
        # The default needs no excuse: only a turn kept on another tier is explained by the loop.
        return state.last_tier, "default" if state.last_tier is policy.default_tier else _KEPT
    for rule in fired:
        if rule.effect is Effect.PREFER and rule.tier is not None:
            return rule.tier, rule.rule_id
    return policy.default_tier, "default"


def _effort(
    fired: Sequence[Rule],
    bounds: _Bounds,
    signals: Signals,
    features: Features,
    wish: Wish,
    state: StateView,
    policy: Policy,
) -> tuple[Effort, list[str]]:
    proposed, note = _proposed_effort(fired, signals, features, wish, state, policy)
    effort = bounds.effort(proposed)
    if wish.effort is not None:
        return effort, ["explicit_effort" if effort is wish.effort else "explicit_effort_overridden"]
    return effort, [note] if note is not None and effort is proposed else []


def _proposed_effort(
    fired: Sequence[Rule], signals: Signals, features: Features, wish: Wish, state: StateView, policy: Policy
) -> tuple[Effort, str | None]:
    for rule in fired:
        if rule.effect is Effect.FORCE and rule.effort is not None:
            return rule.effort, rule.rule_id
    if wish.effort is not None:
        return wish.effort, None
    if signals.agent.tool_loop and not signals.agent.stalled and state.last_effort is not None:
        # The effort stands at the top of the prompt: changing it inside a loop voids the whole prefix cache.
        return state.last_effort, _KEPT
    for rule in fired:
        if rule.effect is Effect.PREFER and rule.effort is not None:
            return rule.effort, rule.rule_id
    effort, note = effort_for(signals, features)
    if effort is Effort.LOW and state.last_effort not in {None, Effort.LOW}:
        return policy.default_effort, "session_effort"  # saves less than the re-read of the conversation costs
    return (policy.default_effort, None) if note is None else (effort, note)
