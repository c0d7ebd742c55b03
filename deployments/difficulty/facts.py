"""What surrounds a decision, and what is counted of it: the load from what callers see, and a few words for metrics."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from deployments.ports import RouteFacts, Tier, TierState
from router.policy import Policy
from router.route import Trace
from router.score import NO_SURE_GAIN
from router.types import Arm, Effort, Load, Mode

_UNSEEN: Final = TierState()


def load_of(fixed: Load, tiers: Mapping[Tier, TierState], left_ms: int | None, spill_up: bool) -> Load:
    """`fixed`, which holds what never changes, with how the tiers are.

    That calls failed a moment ago is a guess: nobody who needs the tier is refused for it, and their calls find out. A
    base tier that fails counts as full, for the same reason; a full one sends turns up only with `spill_up`.
    """
    base, strong = tiers.get(Tier.BASE, _UNSEEN), tiers.get(Tier.STRONG, _UNSEEN)
    return replace(
        fixed,
        base_full=base.full or not base.up,
        spills=spill_up,
        strong_failing=not strong.up,
        strong_cold=strong.cold,
        strong_full=strong.full,
        strong_pressure=strong.pressure,
        strong_ms=strong.ms,
        left_ms=left_ms,
    )


def facts_of(found: Trace | None, policy: Policy, refused: tuple[str, ...]) -> RouteFacts:
    """What is counted of a decision; `found` is None where the router had to fall back."""
    capped = is_capped(policy)
    if found is None:
        return RouteFacts("unknown", capped=capped, refused=refused)
    decision, proposal = found.decision, found.proposal
    counted = decision.eligible and policy.budget is not None
    return RouteFacts(
        task=found.signals.task.value,
        shadow=found.shadow.tier if decision.eligible and decision.mode is Mode.SHADOW else None,
        hit=proposal.hit,
        abstained=None if proposal.abstained is None else _KINDS.get(proposal.abstained, "unlike_training"),
        target=policy.budget.target if counted and policy.budget is not None else None,
        capped=capped,
        refused=refused,
    )


def may_rise(found: Trace | None, policy: Policy, effort: Effort) -> bool:
    """Whether the policy lets the turn be given to the larger tier at this effort; `found` as in `facts_of`."""
    arm = Arm(Tier.STRONG, effort)
    if found is None:
        return policy.pin_tier is not Tier.BASE and arm not in policy.deny
    return found.bounds.allows(arm, policy)


def is_capped(policy: Policy) -> bool:
    """Whether the time of the larger tier is counted."""
    return policy.budget is not None and policy.budget.strong_seconds_per_hour is not None


_KINDS: Final = {NO_SURE_GAIN: "no_sure_gain", "error": "error"}
"""Why the learned part abstained, without the names of features."""
