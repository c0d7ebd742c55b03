"""What the settings of tenants change of the routing policy. Pure.

They become part of the policy's own `tenants`, so its digest covers them, and an explanation names them:

| setting | becomes |
|---|---|
| a floor | the rule `tenant_floor`, which always applies and, like any floor, wins over what callers name |
| a ceiling of size | `deny` of the larger tier: rules that ask for it get the smaller one, safety floors a refusal |
| a ceiling of effort | the rule `tenant_effort_ceiling`; where a floor asks for more effort it does not apply |
| the rest | `default`, `review`, `escalation`, `cascade` |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

from router.bounds import Bounds, instead_of
from router.conditions import always_holds, canonical_condition
from router.documents import PolicyError, mapping
from router.policy import Effect, Policy, Rule, parse_policy
from router.types import Arm, Decision, Effort, Hold, Tier

FLOOR_RULE: Final = "tenant_floor"
EFFORT_CEILING_RULE: Final = "tenant_effort_ceiling"
MEDIUM_CEILING_RULE: Final = "tenant_effort_ceiling_medium"
_PRIORITY: Final = 50  # below every rule of policy v1: of equal floors those are named that say more


@dataclass(frozen=True, slots=True)
class TenantRouting:
    """How the turns of a tenant are routed; what is None stays as the policy has it.

    `failures` is the sum of evidence from which on an attempt on the base tier has failed (policy v1: 1.0); the review
    numbers are lines and files from which on a review is large or risky. `cascade`: its requests may ask for a verified
    cascade.
    """

    floor_tier: Tier | None = None
    floor_effort: Effort | None = None
    ceiling_tier: Tier | None = None
    ceiling_effort: Effort | None = None
    default_effort: Effort | None = None
    cascade: bool = True
    failures: float | None = None
    large_lines: int | None = None
    large_files: int | None = None
    risky_lines: int | None = None


def with_tenants(document: Mapping[str, object], tenants: Mapping[str, TenantRouting]) -> Mapping[str, object]:
    """The policy's document with the overlays of `tenants` merged into those that it has.

    Where both set a value, that of `tenants` counts; whoever changes nothing is not in it. Raises `PolicyError` for a
    bad document, and for a tenant whose settings contradict the policy whatever a turn is.
    """
    changed = {name: routing for name, routing in sorted(tenants.items()) if routing != TenantRouting()}
    if not changed:
        return document
    policy = parse_policy(document)
    own = dict(mapping(document.get("tenants", {}), "policy.tenants"))
    for name, routing in changed.items():
        before = mapping(own.get(name, {}), f"policy.tenants.{name}")
        own[name] = _overlay(name, routing, before, policy.for_tenant(name))
    return {**document, "tenants": own}


def without(policy: Policy, usable: frozenset[Tier] | None) -> Policy:
    """The policy for a caller whom only some tiers may answer, as if it denied the others; None: all may."""
    denied = frozenset[Tier]() if usable is None else frozenset(Tier) - usable
    if not denied:
        return policy
    arms = frozenset(Arm(tier, effort) for tier in denied for effort in Effort)
    return replace(policy, deny=policy.deny | arms)


def bounded(decision: Decision, policy: Policy) -> Decision:
    """The decision of a router that failed, within what holds for the tenant whatever the turn is.

    One that was raised for its risk is refused rather than lowered.
    """
    bounds = Bounds.of([rule for rule in policy.rules if always_holds(rule.when)])
    asked = Arm(decision.tier, decision.effort)
    arm = Arm(policy.pin_tier or bounds.tier(asked.tier), policy.pin_effort or bounds.effort(asked.effort))
    other = instead_of(arm, bounds, policy) if arm in policy.deny else arm
    risky = decision.reason == "router_error_raised"
    if other is None or (risky and other.tier.rank < asked.tier.rank):
        return replace(decision, hold=Hold.REFUSE)
    if risky and other.effort.rank < asked.effort.rank:
        other = asked if asked not in policy.deny else other
    return replace(decision, tier=other.tier, effort=other.effort)


def _overlay(name: str, routing: TenantRouting, before: Mapping[str, object], policy: Policy) -> Mapping[str, object]:
    where = f"the routing of tenant {name!r}"
    _refuse_contradictions(routing, policy, where)
    made = dict(before)
    rules = dict(mapping(before.get("rules", {}), f"policy.tenants.{name}.rules"))
    if taken := sorted(
        {rule.rule_id for rule in policy.rules} & {FLOOR_RULE, EFFORT_CEILING_RULE, MEDIUM_CEILING_RULE}
    ):
        raise PolicyError(f"{where}: the policy has a rule {taken[0]!r} of its own")
    if routing.floor_tier is not None or routing.floor_effort is not None:
        rules[FLOOR_RULE] = _rule("always", Effect.FLOOR, routing.floor_tier, routing.floor_effort)
    if routing.ceiling_effort is Effort.LOW:
        # Where a floor lifts a turn to medium, that is as far as it goes.
        rules[MEDIUM_CEILING_RULE] = _ceiling(Effort.MEDIUM, policy.rules)
    if routing.ceiling_effort is not None and routing.ceiling_effort is not Effort.HIGH:
        rules[EFFORT_CEILING_RULE] = _ceiling(routing.ceiling_effort, policy.rules)
    if rules:
        made["rules"] = rules
    if routing.ceiling_tier is Tier.BASE:
        denied = cast("Sequence[object]", before.get("deny", []))
        made["deny"] = [*denied, {"tier": Tier.STRONG.value}]
    default = dict(mapping(before.get("default", {}), f"policy.tenants.{name}.default"))
    if routing.default_effort is not None:
        default["effort"] = routing.default_effort.value
    if routing.ceiling_tier is Tier.BASE and policy.default_tier is Tier.STRONG:
        default["tier"] = Tier.BASE.value
    review = dict(mapping(before.get("review", {}), f"policy.tenants.{name}.review"))
    limits = {key: getattr(routing, key) for key in ("large_lines", "large_files", "risky_lines")}
    review |= {key: limit for key, limit in limits.items() if limit is not None}
    if default:
        made["default"] = default
    if review:
        made["review"] = review
    if routing.failures is not None:
        made["escalation"] = {"failures": routing.failures}
    if not routing.cascade:
        made["cascade"] = False
    return made


def _rule(when: object, effect: Effect, tier: Tier | None, effort: Effort | None) -> dict[str, object]:
    values = {"tier": tier, "effort": effort}
    arm = {axis: value.value for axis, value in values.items() if value is not None}
    return {"priority": _PRIORITY, "when": when, "effect": effect.value, "arm": arm}


def _ceiling(ceiling: Effort, rules: Sequence[Rule]) -> dict[str, object]:
    """A ceiling of effort where no floor lies above it."""
    above = [
        canonical_condition(rule.when)
        for rule in rules
        if rule.effect is Effect.FLOOR and rule.effort is not None and rule.effort.rank > ceiling.rank
    ]
    return _rule({"not": {"any": above}} if above else "always", Effect.CEILING, None, ceiling)


def _refuse_contradictions(routing: TenantRouting, policy: Policy, where: str) -> None:
    pairs = (
        (routing.floor_tier, policy.pin_tier, routing.ceiling_tier),
        (routing.floor_effort, policy.pin_effort, routing.ceiling_effort),
    )
    for floor, pin, ceiling in pairs:
        if floor is not None and ceiling is not None and floor.rank > ceiling.rank:
            raise PolicyError(f"{where}: the floor {floor.value} lies above the ceiling {ceiling.value}")
        if pin is not None and floor is not None and pin.rank < floor.rank:
            raise PolicyError(f"{where}: the policy pins it to {pin.value}, below its floor {floor.value}")
        if pin is not None and ceiling is not None and pin.rank > ceiling.rank:
            raise PolicyError(f"{where}: the policy pins it to {pin.value}, above its ceiling {ceiling.value}")
    for rule in policy.rules:
        if rule.effect is not Effect.FLOOR or not always_holds(rule.when):
            continue
        for floor, ceiling in ((rule.tier, routing.ceiling_tier), (rule.effort, routing.ceiling_effort)):
            if floor is not None and ceiling is not None and floor.rank > ceiling.rank:
                raise PolicyError(
                    f"{where}: the ceiling {ceiling.value} lies below the floor {rule.rule_id!r}, which always applies"
                )
