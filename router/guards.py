"""The last look before a decision leaves: is the tier there, and does the conversation fit into it.

A guard moves a turn up or sideways. Down only where no floor forbids it; else the answer is a hold, not a smaller arm.
"""

from dataclasses import dataclass

from router.bounds import Bounds
from router.policy import Policy, Unmet
from router.types import Arm, Effort, Hold, Load, Risk, Tier


@dataclass(frozen=True, slots=True)
class Guarded:
    """The arm after the guards, what they did, and whether the turn must be held."""

    arm: Arm
    notes: tuple[str, ...] = ()
    hold: Hold | None = None


def guard(
    arm: Arm, named: bool, risk: Risk, context_tokens: int, bounds: Bounds, policy: Policy, load: Load
) -> Guarded:
    """What becomes of an arm; `named`: the caller asked for this tier by name, and gets it or an error.

    From R2 on nothing goes down, whoever asked for the larger tier.
    """
    if arm.tier is Tier.STRONG:
        return _strong(arm, named, risk.rank >= Risk.R2.rank, context_tokens, bounds, policy, load)
    if not load.base_up:
        return _raised(arm, "base_tier_down", bounds, policy, load) or Guarded(arm, ("base_tier_down",), Hold.QUEUE)
    if load.base_window is not None and context_tokens > load.base_window and not named:
        fits = load.strong_window is None or context_tokens <= load.strong_window
        # An estimate may move a turn; to refuse it is for whoever counts the tokens.
        return (_raised(arm, "context_window", bounds, policy, load) if fits else None) or Guarded(arm)
    return Guarded(arm)


def _strong(
    arm: Arm, named: bool, risky: bool, context_tokens: int, bounds: Bounds, policy: Policy, load: Load
) -> Guarded:
    lower = Arm(Tier.BASE, arm.effort)
    may_lower = lower not in policy.deny and policy.pin_tier is not Tier.STRONG
    if load.strong_up and load.strong_served:
        beyond = load.strong_window is not None and context_tokens > load.strong_window
        fits = load.base_window is None or context_tokens <= load.base_window
        free = bounds.meets_floors(lower) and may_lower and load.base_up and not named and not risky
        return Guarded(lower, ("context_window",)) if beyond and fits and free else Guarded(arm)
    note = "strong_tier_down" if load.strong_served else "strong_tier_missing"
    if named or not may_lower or not load.base_up:
        return Guarded(arm, (note,), Hold.QUEUE if load.strong_served else Hold.REFUSE)
    if bounds.meets_floors(lower) and not risky:
        return Guarded(lower, (note,))
    unmet = _unmet(risky or not bounds.is_safe(lower), policy, load)
    if unmet is Unmet.BASE:
        return Guarded(lower, (note,))
    return Guarded(arm, (note,), Hold(unmet.value))


def _unmet(safety: bool, policy: Policy, load: Load) -> Unmet:
    without = policy.without_strong
    if load.strong_served:
        return without.down_safety if safety else without.down_rules
    return without.unserved_safety if safety else without.unserved_rules


def _raised(arm: Arm, note: str, bounds: Bounds, policy: Policy, load: Load) -> Guarded | None:
    """The strong tier at no less effort than the router ever gives it, or None where it is not to be had."""
    effort = Effort.MEDIUM if arm.effort is Effort.LOW and policy.pin_effort is None else arm.effort
    raised = Arm(Tier.STRONG, effort)
    pinned = policy.pin_tier is Tier.BASE
    if pinned or raised in policy.deny or not (load.strong_up and load.strong_served):
        return None
    return Guarded(raised, (note,))
