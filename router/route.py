"""The decision: model size and effort for one turn. Pure: same input, same bytes.

Order of evaluation; for each axis the first one that speaks proposes, and the bounds have the last word:

1. the tenant's pin; 2. `force` rules; 3. the caller's explicit wish; 4. the escalation that failures ask for, and the
latch of an escalated session; 5. inside a tool loop that is not stalled, the arm of the turn before; 6. `prefer` rules;
7. the learned proposal within its budget, or exploration; 8. the default, and for effort the task's own. Then ceilings
bound the result from above, and floors from below. A pin stands above floors that are not for safety; where it, or a
tenant's deny, contradicts one that is, the turn is refused. Guards come last, and go up or sideways (`router.guards`).

Load and deadlines touch step 7 and 8 alone: a proposal stays on the base tier while the strong one fails, is cold,
full or too slow for the caller's deadline, and the notes say which. What a rule, a wish or a failure asks for waits,
or is held.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from router.bounds import Bounds, instead_of
from router.conditions import holds
from router.effort import effort_for, kept_effort
from router.features import Features
from router.guards import guard
from router.policy import Effect, Policy, Rule
from router.proposal import propose
from router.score import Score, score
from router.signals.collect import Signals, collect, estimated_risk
from router.snapshot import Snapshot
from router.state import Escalation, escalate
from router.types import (
    Arm,
    Decision,
    Effort,
    Hold,
    Load,
    Mode,
    Proposal,
    Risk,
    RouteRequest,
    StateView,
    Surroundings,
    Tier,
)

_NO_SURROUNDINGS: Final = Surroundings()
_KEPT: Final = "tool_loop"
_STRICTER: Final = (Mode.APPLY, Mode.SHADOW, Mode.BYPASS)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller asked for by name; None leaves the axis to the router."""

    tier: Tier | None = None
    effort: Effort | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """A decision with everything that led to it. Holds no word of the prompt.

    `escalated`: a rule or failures raised the turn to the strong tier, so the session should stay there. `size_step`
    and `effort_step`: this turn is such a step, the first of its kind in the task. `stages` are the steps of the
    decision in their order. `shadow` is what would have been decided with the learned proposal acting; in other modes
    than shadow it is the decision itself. `propensities` are the chances of the tiers, empty where chance had no part.
    """

    decision: Decision
    signals: Signals
    rules: tuple[tuple[str, bool], ...]
    score: Score
    escalated: bool
    size_step: bool
    effort_step: bool
    bounds: Bounds
    proposal: Proposal
    shadow: Decision
    stages: tuple[tuple[str, Arm, str], ...]
    propensities: tuple[tuple[Tier, float], ...]


def route(
    request: RouteRequest,
    state: StateView,
    policy: Policy,
    snapshot: Snapshot | None = None,
    around: Surroundings = _NO_SURROUNDINGS,
) -> Decision:
    """Model size and effort for the turn that ends `request`."""
    return trace(request, state, policy, snapshot, around).decision


def trace(
    request: RouteRequest,
    state: StateView,
    policy: Policy,
    snapshot: Snapshot | None = None,
    around: Surroundings = _NO_SURROUNDINGS,
) -> Trace:
    """The same decision as `route`, with its evidence. `policy` is the tenant's own (`Policy.for_tenant`)."""
    evidence = collect(request, state, policy.review, policy.failures)
    digest = "" if snapshot is None else snapshot.digest
    try:
        scored = score(evidence.said, snapshot)
    except Exception:  # what was learned must never stop a turn: rules and defaults decide without it
        scored, digest = replace(score(evidence.said, None), abstained="error"), ""
    return decide(
        evidence.signals,
        evidence.said[0].features,
        scored,
        Wish(request.requested_tier, request.requested_effort),
        state,
        policy,
        around,
        digest,
    )


def decide(
    signals: Signals,
    features: Features,
    scored: Score,
    wish: Wish,
    state: StateView,
    policy: Policy,
    around: Surroundings = _NO_SURROUNDINGS,
    snapshot_digest: str = "",
) -> Trace:
    """The decision on evidence that has already been collected."""
    names = signals.names
    truths = [(rule, holds(rule.when, names)) for rule in policy.rules]
    fired = [rule for rule, true in truths if true]
    usual, usual_note = effort_for(signals, features)
    turn = _Turn(
        signals=signals,
        wish=wish,
        state=state,
        policy=policy,
        around=around,
        fired=fired,
        bounds=Bounds.of(fired),
        mode=_mode(fired, policy, around),
        escalation=escalate(signals, state, usual),
        usual=usual,
        usual_note=usual_note,
        proposal=_in_reach(propose(scored, around.budget, around.load, state), around.load),
        difficulty=scored.difficulty,
        snapshot_digest=snapshot_digest,
    )
    live = turn.walk(turn.mode is Mode.APPLY)
    # Where nothing is proposed both ways lead to the same place.
    shadow = turn.walk(True) if turn.mode is Mode.SHADOW and turn.proposal.taken else live
    decision, escalation = live.decision, turn.escalation
    up = decision.tier is Tier.STRONG
    raised = up and (turn.bounds.floor_tier is Tier.STRONG or escalation.tier is Tier.STRONG)
    rose = state.last_effort is not None and decision.effort.rank > state.last_effort.rank
    return Trace(
        decision=decision,
        signals=signals,
        rules=tuple((rule.rule_id, true) for rule, true in truths),
        score=scored,
        escalated=raised and decision.hold is None,
        size_step=raised and state.last_tier is Tier.BASE and state.size_steps == 0,
        effort_step=escalation.effort is not None and rose and not up and state.effort_steps == 0,
        bounds=turn.bounds,
        proposal=turn.proposal,
        shadow=shadow.decision,
        stages=live.stages,
        propensities=live.propensities,
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
        mode=Mode.BYPASS,
    )


def _in_reach(proposal: Proposal, load: Load) -> Proposal:
    """The proposal, not taken where the strong tier would be waited for, refuse, or be too late."""
    waits = load.strong_failing or load.strong_cold or load.strong_full or not load.strong_in_time
    return replace(proposal, taken=False) if proposal.taken and waits else proposal


def _kept_back(proposal: Proposal, around: Surroundings) -> tuple[str, ...]:
    """Why a score above the threshold does not lead to the strong tier; empty when it does, or was not above."""
    load, budget = around.load, around.budget
    if not proposal.hit or budget is None:
        return ()
    whys = (
        ("budget_drained", budget.drained),
        ("strong_tier_down", load.strong_served and (load.strong_failing or not load.strong_up)),
        ("strong_tier_cold", load.strong_cold),
        ("strong_tier_full", load.strong_full or (load.strong_pressure > 1.0 and not proposal.taken)),
        ("deadline", not load.strong_in_time),
    )
    return tuple(why for why, true in whys if true)[:1]


def _mode(fired: Sequence[Rule], policy: Policy, around: Surroundings) -> Mode:
    """The stricter of what the policy and the gate of the learned head allow; a rule may keep it out altogether."""
    if any(rule.bypass_learning for rule in fired):
        return Mode.BYPASS
    return max(policy.learning.mode, around.mode, key=_STRICTER.index)


@dataclass(frozen=True, slots=True)
class _Walk:
    decision: Decision
    stages: tuple[tuple[str, Arm, str], ...]
    propensities: tuple[tuple[Tier, float], ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    """A tier, why, and what to note beside it. `open`: no rule, wish or memory decided, so the budget counts it."""

    tier: Tier
    reason: str
    stage: str
    notes: tuple[str, ...] = ()
    open: bool = False
    explored: bool = False
    propensities: tuple[tuple[Tier, float], ...] = ()


@dataclass(frozen=True, slots=True)
class _Turn:
    """One decision in the making: what is known, and the steps over it."""

    signals: Signals
    wish: Wish
    state: StateView
    policy: Policy
    around: Surroundings
    fired: Sequence[Rule]
    bounds: Bounds
    mode: Mode
    escalation: Escalation
    usual: Effort
    usual_note: str | None
    proposal: Proposal
    difficulty: float
    snapshot_digest: str

    def walk(self, learned: bool) -> _Walk:
        """From the first proposal to the guards; `learned` lets the learned proposal act."""
        policy, bounds, wish = self.policy, self.bounds, self.wish
        choice = self._tier(learned)
        effort, effort_note = self._effort(choice.tier)
        stages = [(choice.stage, Arm(choice.tier, effort), choice.reason)]
        notes = list(choice.notes)
        reason, hold = choice.reason, None
        arm = Arm(
            policy.pin_tier or bounds.tier(choice.tier),
            policy.pin_effort or bounds.effort(effort),
        )
        if wish.tier is not None:
            notes.append("explicit_model" if arm.tier is wish.tier else "explicit_model_overridden")
        notes += self._effort_notes(effort, arm.effort, effort_note)
        if policy.pin_tier is None and bounds.floor_tier is Tier.STRONG and bounds.floor_rule is not None:
            reason = bounds.floor_rule.rule_id
        elif policy.pin_tier is None and arm.tier is not choice.tier and bounds.ceiling_rule is not None:
            reason = bounds.ceiling_rule.rule_id
        stages.append(("bounds", arm, reason))
        if bounds.contradict:
            notes.append("ceiling_overridden")
        if arm in policy.deny:
            notes.append("tenant_deny")
            other = instead_of(arm, bounds, policy)
            reason = "tenant_deny"
            hold, arm = (Hold.REFUSE, arm) if other is None else (None, other)
            stages.append(("deny", arm, reason))
        if not bounds.is_safe(arm):
            # Below a safety floor by the tenant's own pin: an error, not a smaller model.
            hold = Hold.REFUSE
            arm = Arm(bounds.tier(arm.tier), bounds.effort(arm.effort))
            stages.append(("safety", arm, "tenant_pin"))
        elif not bounds.meets_floors(arm):
            notes.append("floor_overridden")
        if hold is None:
            named = wish.tier is arm.tier and choice.stage == "wish"
            guarded = guard(
                arm, named, self.signals.risk, self.signals.context_tokens, bounds, policy, self.around.load
            )
            notes += guarded.notes
            if guarded.arm != arm or guarded.hold is not None:
                reason = guarded.notes[0]
                stages.append(("guards", guarded.arm, reason))
            arm, hold = guarded.arm, guarded.hold
        if self.escalation.hand_over:
            notes.append("hand_over")
        if not self.state.known:
            notes.append("memory_unknown")
        reasons = (reason, *(rule.rule_id for rule in self.fired), *notes)
        chances = choice.propensities if choice.tier is arm.tier else ()
        return _Walk(
            Decision(
                tier=arm.tier,
                effort=arm.effort,
                reason=reason,
                reasons=tuple(dict.fromkeys(reasons)),
                difficulty=self.difficulty,
                policy_digest=policy.digest,
                snapshot_digest=self.snapshot_digest,
                mode=self.mode,
                propensity=dict(chances).get(arm.tier, 1.0),
                explored=choice.explored and choice.tier is arm.tier,
                eligible=choice.open and self.around.budget is not None and self.proposal.abstained is None,
                hand_over=self.escalation.hand_over,
                hold=hold,
            ),
            tuple(stages),
            chances,
        )

    def _tier(self, learned: bool) -> _Choice:
        policy, state, agent = self.policy, self.state, self.signals.agent
        waits = ("escalation_waits",) if self.escalation.waits else ()
        if policy.pin_tier is not None:
            return _Choice(policy.pin_tier, "tenant_pin", "pin")
        if (forced := _first(self.fired, Effect.FORCE)) and forced.tier is not None:
            return _Choice(forced.tier, forced.rule_id, "force")
        if self.wish.tier is not None:
            return _Choice(self.wish.tier, "explicit_model", "wish")
        if not state.known and self.signals.risk.rank >= Risk.R2.rank:
            # It may have failed before, and nothing says that it has not.
            return _Choice(Tier.STRONG, "memory_unknown", "memory")
        if self.escalation.tier is Tier.STRONG and state.latched_tier is not Tier.STRONG:
            return _Choice(Tier.STRONG, "escalated_size", "escalation")
        if state.latched_tier is Tier.STRONG:
            return _Choice(Tier.STRONG, "session_latched", "latch", waits)
        if agent.tool_loop and not agent.stalled and state.last_tier is not None:
            # The default needs no excuse: only a turn kept on another tier is explained by the loop.
            kept = state.last_tier
            return _Choice(kept, "default" if kept is policy.default_tier else _KEPT, "loop", waits)
        if (preferred := _first(self.fired, Effect.PREFER)) and preferred.tier is not None:
            return _Choice(preferred.tier, preferred.rule_id, "prefer")
        return self._chosen(learned)

    def _chosen(self, learned: bool) -> _Choice:
        """The choice that nothing decided before: by what was learned, by chance, or the default."""
        proposal, default = self.proposal, self.policy.default_tier
        greedy = Tier.STRONG if learned and proposal.taken else default
        reason = f"learned_{proposal.kind}" if greedy is not default else "default"
        drained = self.around.budget is not None and self.around.budget.drained
        notes = _kept_back(proposal, self.around) if learned else ()
        both = all(self.bounds.tier(tier) is tier for tier in Tier) and not self.policy.deny
        is_open = both and self.mode is not Mode.BYPASS
        load = self.around.load
        if greedy is Tier.BASE and both and load.base_full and load.spills and load.strong_free and not drained:
            return _Choice(Tier.STRONG, "base_tier_full", "load", notes)
        choice = _Choice(greedy, reason, "learned" if learned else "default", notes, open=is_open)
        share = max(self.around.exploration, self.policy.learning.exploration)
        if not is_open or share <= 0.0 or drained or not self._may_explore():
            return choice
        # Half of the explored turns get what they would have got anyway: so both tiers have a known chance.
        chances = tuple((tier, 1.0 - share / 2 if tier is greedy else share / 2) for tier in Tier)
        choice = replace(choice, propensities=chances)
        if self.around.draw >= share:
            return choice
        drawn = Tier.BASE if self.around.draw < share / 2 else Tier.STRONG
        return replace(choice, tier=drawn, reason="exploration", stage="exploration", explored=True)

    def _may_explore(self) -> bool:
        load = self.around.load
        return load.base_up and load.strong_free and self.signals.risk.rank <= Risk.R1.rank

    def _effort(self, tier: Tier) -> tuple[Effort, str | None]:
        policy, state, agent = self.policy, self.state, self.signals.agent
        if policy.pin_effort is not None:
            return policy.pin_effort, "tenant_pin"
        if (forced := _first(self.fired, Effect.FORCE, on_effort=True)) and forced.effort is not None:
            return forced.effort, forced.rule_id
        if self.wish.effort is not None:
            return self.wish.effort, None
        escalated = self.escalation.effort
        if agent.tool_loop and not agent.stalled and state.last_effort is not None and escalated is None:
            # The effort stands at the top of the prompt: changing it inside a loop voids the whole prefix cache.
            return state.last_effort, _KEPT
        if (preferred := _first(self.fired, Effect.PREFER, on_effort=True)) and preferred.effort is not None:
            return preferred.effort, preferred.rule_id
        wanted = policy.default_effort if self.usual_note is None else self.usual
        note = self.usual_note
        if escalated is not None and escalated.rank > wanted.rank:
            wanted, note = escalated, "effort_after_failure"
        if tier is Tier.STRONG and wanted is Effort.LOW:
            wanted, note = Effort.MEDIUM, None  # low effort on the strong tier is for those who ask for it
        kept = kept_effort(wanted, state.last_effort, self.signals.context_tokens)
        return (wanted, note) if kept is None else (kept, "session_effort")

    def _effort_notes(self, proposed: Effort, given: Effort, note: str | None) -> Sequence[str]:
        if self.wish.effort is not None:
            return ("explicit_effort" if given is self.wish.effort else "explicit_effort_overridden",)
        return (note,) if note is not None and given is proposed else ()


def _first(fired: Sequence[Rule], effect: Effect, on_effort: bool = False) -> Rule | None:
    """The first rule that fired with an effect on the axis."""
    for rule in fired:
        if rule.effect is effect and (rule.effort if on_effort else rule.tier) is not None:
            return rule
    return None
