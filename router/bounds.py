"""What the fired floors and ceilings, and the tenant's pin and deny, leave of the choice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from router.policy import Effect, Policy, Rule
from router.types import Arm, Effort, Tier

_EVERY_ARM: Final = tuple(Arm(tier, effort) for tier in Tier for effort in Effort)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is allowed. `floor_rule` and `ceiling_rule` are the ones that decide when a bound does.

    The `safety_*` floors are those that no tenant can lower.
    """

    floor_tier: Tier
    floor_effort: Effort
    safety_tier: Tier
    safety_effort: Effort
    ceiling_tier: Tier
    ceiling_effort: Effort
    floor_rule: Rule | None
    safety_rule: Rule | None
    ceiling_rule: Rule | None

    @classmethod
    def of(cls, fired: Sequence[Rule]) -> "Bounds":
        """The bounds of the rules that fired, by falling priority."""
        floors = [rule for rule in fired if rule.effect is Effect.FLOOR]
        safety = [rule for rule in floors if rule.safety]
        ceilings = [rule for rule in fired if rule.effect is Effect.CEILING]
        by_size = [rule for rule in ceilings if rule.tier is not None]
        return cls(
            floor_tier=max((r.tier for r in floors if r.tier), key=_rank, default=Tier.BASE),
            floor_effort=max((r.effort for r in floors if r.effort), key=_rank, default=Effort.LOW),
            safety_tier=max((r.tier for r in safety if r.tier), key=_rank, default=Tier.BASE),
            safety_effort=max((r.effort for r in safety if r.effort), key=_rank, default=Effort.LOW),
            ceiling_tier=min((r.tier for r in ceilings if r.tier), key=_rank, default=Tier.STRONG),
            ceiling_effort=min((r.effort for r in ceilings if r.effort), key=_rank, default=Effort.HIGH),
            # `max` and `min` keep the first of equals, and rules come by falling priority.
            floor_rule=max(floors, key=_height, default=None),
            safety_rule=max(safety, key=_height, default=None),
            ceiling_rule=min(by_size, key=_height, default=None),
        )

    @property
    def contradict(self) -> bool:
        """True when a floor lies above a ceiling: the floor wins."""
        return self.floor_tier.rank > self.ceiling_tier.rank or self.floor_effort.rank > self.ceiling_effort.rank

    def tier(self, proposed: Tier) -> Tier:
        """The nearest tier within the bounds."""
        return max(min(proposed, self.ceiling_tier, key=_rank), self.floor_tier, key=_rank)

    def effort(self, proposed: Effort) -> Effort:
        """The nearest effort within the bounds."""
        return max(min(proposed, self.ceiling_effort, key=_rank), self.floor_effort, key=_rank)

    def is_safe(self, arm: Arm) -> bool:
        """True when the arm is not below a safety floor."""
        return arm.tier.rank >= self.safety_tier.rank and arm.effort.rank >= self.safety_effort.rank

    def meets_floors(self, arm: Arm) -> bool:
        """True when the arm is not below any floor."""
        return arm.tier.rank >= self.floor_tier.rank and arm.effort.rank >= self.floor_effort.rank

    def allows(self, arm: Arm, policy: Policy) -> bool:
        """True when neither a bound nor the tenant rules the arm out. A pin stands above what is no safety floor."""
        tier = policy.pin_tier or self.tier(arm.tier)
        effort = policy.pin_effort or self.effort(arm.effort)
        return arm == Arm(tier, effort) and self.is_safe(arm) and arm not in policy.deny


def instead_of(arm: Arm, bounds: Bounds, policy: Policy) -> Arm | None:
    """The arm nearest to a denied one: up or sideways where there is one, else down as far as safety lets it go.

    None when the tenant denies whatever a safety floor asks for.
    """
    left = [
        other
        for other in _EVERY_ARM
        if other not in policy.deny
        and bounds.is_safe(other)
        and policy.pin_tier in {None, other.tier}
        and policy.pin_effort in {None, other.effort}
    ]
    above = [other for other in left if other.tier.rank >= arm.tier.rank and other.effort.rank >= arm.effort.rank]
    return min(above or left, key=lambda other: _distance(arm, other), default=None)


def _distance(arm: Arm, other: Arm) -> tuple[int, int, int]:
    # Of two efforts equally near the higher one: what was denied is no reason to think less.
    return (
        abs(arm.tier.rank - other.tier.rank),
        abs(arm.effort.rank - other.effort.rank),
        -other.effort.rank,
    )


def _rank(value: Tier | Effort) -> int:
    return value.rank


def _height(rule: Rule) -> tuple[int, int]:
    return (-1 if rule.tier is None else rule.tier.rank, -1 if rule.effort is None else rule.effort.rank)
