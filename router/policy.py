"""A routing policy is data: named signals combined by AND/OR/NOT, with a priority and an effect.

```yaml
version: 1
name: routing-v1
default: {tier: 20b, effort: medium}
rules:
  - id: risk_needs_reasoning        # the reason code
    priority: 100
    when: {all: [risk_r2_or_more, needs_reasoning]}   # also {any: [...]}, {not: ...}, a bare name
    effect: [floor, bypass_learning]                  # force | floor | ceiling | prefer, and bypass_learning
    safety: true                                      # no tenant's overlay may lower this floor
    arm: {tier: 120b, effort: high}
cascade: true                       # false: no request may ask for a verified cascade
escalation: {failures: 1.0}         # the sum of evidence from which on an attempt on 20b has failed
tenants:
  acme: {pin: {tier: 120b}, rules: {review_large: {arm: {effort: high}}}}   # an overlay, merged into the policy
```

`floor` and `ceiling` bound both the choice and the caller's wishes, `force` replaces wishes, `prefer` replaces the
default, `bypass_learning` keeps the learned proposal out of the turn. A floor wins over everything but a tenant's pin
or deny, a safety floor over those, too: what a pin or deny leaves of it is a refusal. A ceiling wins over everything
but a floor.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from router.conditions import Condition, always_holds, always_meet, canonical_condition, implies, parse_condition
from router.documents import (
    PolicyError,
    flag,
    integer,
    keys,
    listing,
    mapping,
    member,
    named_arm,
    number,
    partial_arm,
    text,
)
from router.overlay import OVERLAY_KEYS, merged
from router.routing_v1 import ROUTING_V1
from router.signals.evidence import FAILED
from router.signals.review import ReviewLimits
from router.types import ARMS, Arm, Effort, Mode, Tier

__all__ = ["ROUTING_V1", "Effect", "Policy", "PolicyError", "Rule", "default_policy", "parse_policy"]

_MAX_RULES: Final = 256
_MAX_TENANTS: Final = 1_000
FAILURES_RANGE: Final = (0.3, 3.0)
"""From one soft sign to three hard ones."""
_ID: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
RESERVED_REASONS: Final = frozenset(
    {
        "default", "explicit_model", "explicit_model_overridden", "explicit_effort", "explicit_effort_overridden",
        "session_latched", "tool_loop", "session_effort", "ceiling_overridden", "router_error", "router_error_raised",
        "strong_tier_missing", "base_tier_missing", "effort_mathematics", "effort_after_failure", "effort_reasoning",
        "effort_short_chat", "effort_short_extraction", "tenant_pin", "tenant_deny", "floor_overridden",
        "escalated_size", "escalated_effort", "escalation_waits", "hand_over", "learned_gain", "learned_difficulty",
        "exploration", "budget_drained", "strong_tier_down", "base_tier_down", "context_window", "session_kept",
        "memory_unknown",
    }
)  # fmt: skip


class Effect(StrEnum):
    """What a rule does with its arm when it fires."""

    FORCE = "force"
    FLOOR = "floor"
    CEILING = "ceiling"
    PREFER = "prefer"
    BYPASS_LEARNING = "bypass_learning"


class Unmet(StrEnum):
    """What happens to a turn whose floor is the strong tier where that tier cannot answer."""

    REFUSE = "refuse"
    QUEUE = "queue"
    BASE = "base"


@dataclass(frozen=True, slots=True)
class WithoutStrong:
    """What becomes of floors: while the strong tier is down, and where there is none at all."""

    down_safety: Unmet = Unmet.QUEUE
    down_rules: Unmet = Unmet.QUEUE
    unserved_safety: Unmet = Unmet.REFUSE
    unserved_rules: Unmet = Unmet.BASE


@dataclass(frozen=True, slots=True)
class Learning:
    """The most that the learned part may do here, and the share in [0, 0.1] of turns that explore."""

    mode: Mode = Mode.APPLY
    exploration: float = 0.0


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be given of the strong tier by choice.

    `target` is a share of the eligible turns in [0, 1]; `strong_seconds_per_hour` the hard cap on the strong tier's
    seconds, with `burst_seconds` that may be spent at once; None is no cap.
    """

    target: float
    strong_seconds_per_hour: float | None = None
    burst_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; its `rule_id` is the reason code. An axis that is None is left alone.

    `bypass_learning` keeps the learned proposal out of the turns on which the rule fires, whatever its effect is.
    """

    rule_id: str
    priority: int
    when: Condition
    effect: Effect
    tier: Tier | None
    effort: Effort | None
    bypass_learning: bool = False
    safety: bool = False
    source: str = "policy"


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy. `rules` are sorted by falling priority.

    `failures` is the sum of evidence from which on an attempt on the base tier has failed; `cascade`: requests may ask
    for a verified cascade.
    `digest` is the SHA-256 hex of the canonical form of the whole document, overlays included; so it is the same for
    every tenant. `provenance` lists the keys that an overlay set.
    """

    name: str
    default_tier: Tier
    default_effort: Effort
    review: ReviewLimits
    rules: tuple[Rule, ...]
    digest: str
    learning: Learning = Learning()
    budget: Budget | None = None
    without_strong: WithoutStrong = WithoutStrong()
    costs: tuple[tuple[Arm, float], ...] = ()
    failures: float = FAILED
    cascade: bool = True
    pin_tier: Tier | None = None
    pin_effort: Effort | None = None
    deny: frozenset[Arm] = frozenset()
    provenance: tuple[str, ...] = ()
    tenants: "Mapping[str, Policy]" = field(default_factory=dict[str, "Policy"])

    def for_tenant(self, tenant: str) -> "Policy":
        """The policy as it is for a tenant: with its overlay where there is one."""
        return self.tenants.get(tenant, self)


def parse_policy(document: Mapping[str, object]) -> Policy:
    """The policy in a parsed YAML or JSON document.

    Raises `PolicyError` for an unknown key, signal or value, a doubled id, a floor above a ceiling, and an overlay that
    lowers a safety floor.
    """
    keys(document, "policy", required=_REQUIRED, optional=_OPTIONAL | {"tenants"})
    plain = {key: value for key, value in document.items() if key != "tenants"}
    policy = _compiled(plain, "policy")
    overlays = mapping(document.get("tenants", {}), "policy.tenants")
    if len(overlays) > _MAX_TENANTS:
        raise PolicyError(f"policy.tenants holds more than {_MAX_TENANTS} tenants")
    tenants = {str(tenant): _overlaid(plain, policy, str(tenant), raw) for tenant, raw in sorted(overlays.items())}
    canonical = _canonical(policy)
    if tenants:
        canonical["tenants"] = {tenant: _canonical(each) for tenant, each in tenants.items()}
    written = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(written.encode()).hexdigest()
    tenants = {tenant: replace(each, digest=digest) for tenant, each in tenants.items()}
    return replace(policy, digest=digest, tenants=tenants)


_REQUIRED: Final = frozenset({"version", "name", "default", "rules"})
_OPTIONAL: Final = frozenset({"review", "learning", "budget", "without_strong", "costs", "escalation", "cascade"})


def _compiled(document: Mapping[str, object], where: str) -> Policy:
    if document["version"] != 1 or isinstance(document["version"], bool):
        raise PolicyError(f"{where}.version must be 1, not {document['version']!r}")
    name = _identifier(document["name"], f"{where}.name", dashes=True)
    tier, effort = partial_arm(document["default"], f"{where}.default")
    if tier is None or effort is None:
        raise PolicyError(f"{where}.default needs both tier and effort")
    raw_rules = listing(document["rules"], f"{where}.rules")
    if len(raw_rules) > _MAX_RULES:
        raise PolicyError(f"{where}.rules holds more than {_MAX_RULES} rules")
    rules = [_rule(raw, f"{where}.rules[{position}]") for position, raw in enumerate(raw_rules)]
    ids = [rule.rule_id for rule in rules]
    if doubled := sorted({rule_id for rule_id in ids if ids.count(rule_id) > 1}):
        raise PolicyError(f"{where}.rules: the id {doubled[0]!r} is used twice")
    rules.sort(key=lambda rule: -rule.priority)  # stable: equal priorities keep the order of the file
    _refuse_contradictions(rules, where)
    return Policy(
        name=name,
        default_tier=tier,
        default_effort=effort,
        review=_review(document.get("review", {}), f"{where}.review"),
        rules=tuple(rules),
        digest="",
        learning=_learning(document.get("learning", {}), f"{where}.learning"),
        budget=_budget(document["budget"], f"{where}.budget") if document.get("budget") is not None else None,
        without_strong=_without_strong(document.get("without_strong", {}), f"{where}.without_strong"),
        costs=_costs(document.get("costs", {}), f"{where}.costs"),
        failures=_failures(document.get("escalation", {}), f"{where}.escalation"),
        cascade=flag(document.get("cascade", True), f"{where}.cascade"),
    )


def _overlaid(document: Mapping[str, object], policy: Policy, tenant: str, raw: object) -> Policy:
    """The policy of one tenant; refused when it lowers what keeps everybody safe."""
    where = f"policy.tenants.{text(tenant, 'policy.tenants', 128)}"
    overlay = mapping(raw, where)
    keys(overlay, where, required=set(), optional=OVERLAY_KEYS)
    tier, effort = partial_arm(overlay["pin"], f"{where}.pin") if "pin" in overlay else (None, None)
    deny = _denied(overlay.get("deny", []), f"{where}.deny")
    if all(arm in deny for arm in _pinned(tier, effort)):
        raise PolicyError(f"{where}: the deny list leaves no arm")
    changed, provenance = merged(document, overlay, where)
    own = _compiled(changed, where)
    touched = {path.split(".")[1] for path in provenance if path.startswith("rules.")}
    rules = tuple(replace(rule, source="tenant") if rule.rule_id in touched else rule for rule in own.rules)
    _refuse_lowered(policy.rules, rules, tier, effort, where)
    return replace(own, rules=rules, pin_tier=tier, pin_effort=effort, deny=deny, provenance=provenance)


def _pinned(tier: Tier | None, effort: Effort | None) -> Sequence[Arm]:
    tiers, efforts = (tier,) if tier else tuple(Tier), (effort,) if effort else tuple(Effort)
    return [Arm(*arm) for arm in itertools.product(tiers, efforts)]


def _denied(raw: object, where: str) -> frozenset[Arm]:
    arms = [partial_arm(part, f"{where}[{position}]") for position, part in enumerate(listing(raw, where))]
    return frozenset(arm for tier, effort in arms for arm in _pinned(tier, effort))


def _refuse_lowered(
    before: Sequence[Rule], after: Sequence[Rule], tier: Tier | None, effort: Effort | None, where: str
) -> None:
    own = {rule.rule_id: rule for rule in after}
    for floor in before:
        if not floor.safety:
            continue
        kept = own.get(floor.rule_id)
        if (
            kept is None
            or not kept.safety
            or kept.bypass_learning < floor.bypass_learning
            or not implies(floor.when, kept.when)
            or _rank(kept.tier) < _rank(floor.tier)
            or _rank(kept.effort) < _rank(floor.effort)
        ):
            raise PolicyError(f"{where} lowers the safety floor {floor.rule_id!r}")
    for floor in after:
        below = -1 < _rank(tier) < _rank(floor.tier) or -1 < _rank(effort) < _rank(floor.effort)
        if floor.safety and below and always_holds(floor.when):
            raise PolicyError(f"{where}.pin lies below the safety floor {floor.rule_id!r}, which always applies")


def _rank(value: Tier | Effort | None) -> int:
    return -1 if value is None else value.rank


def _rule(raw: object, where: str) -> Rule:
    document = mapping(raw, where)
    keys(
        document,
        where,
        required={"id", "priority", "when", "effect"},
        optional={"about", "arm", "safety"},
    )
    rule_id = _identifier(document["id"], f"{where}.id")
    if rule_id in RESERVED_REASONS:
        raise PolicyError(f"{where}.id: {rule_id!r} is a reason code of the router itself")
    effect, bypass = _effect(document["effect"], f"{where}.effect")
    safety = flag(document.get("safety", False), f"{where}.safety")
    if safety and effect is not Effect.FLOOR:
        raise PolicyError(f"{where}.safety is for floors")
    if effect is Effect.BYPASS_LEARNING:
        if "arm" in document:
            raise PolicyError(f"{where}: unknown key 'arm'; bypass_learning alone chooses none")
        tier = effort = None
    elif "arm" not in document:
        raise PolicyError(f"{where}: 'arm' is missing")
    else:
        tier, effort = partial_arm(document["arm"], f"{where}.arm")
    if not isinstance(document.get("about", ""), str):
        raise PolicyError(f"{where}.about must be text")
    return Rule(
        rule_id=rule_id,
        priority=integer(document["priority"], f"{where}.priority", 0, 1000),
        when=parse_condition(document["when"], f"{where}.when"),
        effect=effect,
        tier=tier,
        effort=effort,
        bypass_learning=bypass,
        safety=safety,
    )


def _effect(raw: object, where: str) -> tuple[Effect, bool]:
    """The effect on the arm, and whether learning is bypassed."""
    if isinstance(raw, str):
        effect = member(Effect, raw, where)
        return effect, effect is Effect.BYPASS_LEARNING
    parts = listing(raw, where)
    effects = [member(Effect, part, f"{where}[{position}]") for position, part in enumerate(parts)]
    on_arm = [effect for effect in effects if effect is not Effect.BYPASS_LEARNING]
    if not effects or len(on_arm) > 1 or len(set(effects)) < len(effects):
        raise PolicyError(f"{where} must be one effect, and beside it at most bypass_learning")
    return (on_arm or effects)[0], Effect.BYPASS_LEARNING in effects


def _refuse_contradictions(rules: Sequence[Rule], where: str) -> None:
    """Refuse a floor above a ceiling where one of the two could never act without contradicting the other."""
    floors = [rule for rule in rules if rule.effect is Effect.FLOOR]
    ceilings = [rule for rule in rules if rule.effect is Effect.CEILING]
    for floor, ceiling in itertools.product(floors, ceilings):
        if _above(floor, ceiling) and always_meet(floor.when, ceiling.when):
            raise PolicyError(
                f"{where}.rules: the floor {floor.rule_id!r} lies above the ceiling {ceiling.rule_id!r} whenever "
                "one of them applies"
            )


def _above(floor: Rule, ceiling: Rule) -> bool:
    return _rank(floor.tier) > _rank(ceiling.tier) > -1 or _rank(floor.effort) > _rank(ceiling.effort) > -1


def _canonical(policy: Policy) -> dict[str, object]:
    without = policy.without_strong
    budget = policy.budget
    # Left out where they are as ever: a policy that does not use them keeps its digest.
    escalation = {} if policy.failures == FAILED else {"escalation": policy.failures}
    cascade = {} if policy.cascade else {"cascade": False}
    return {
        **escalation,
        **cascade,
        "version": 1,
        "name": policy.name,
        "default": f"{policy.default_tier.value}/{policy.default_effort.value}",
        "review": [policy.review.large_lines, policy.review.large_files, policy.review.risky_lines],
        "learning": [policy.learning.mode.value, policy.learning.exploration],
        "budget": None if budget is None else [budget.target, budget.strong_seconds_per_hour, budget.burst_seconds],
        "without_strong": [
            without.down_safety.value,
            without.down_rules.value,
            without.unserved_safety.value,
            without.unserved_rules.value,
        ],
        "costs": {str(arm): cost for arm, cost in policy.costs},
        "pin": [_value(policy.pin_tier), _value(policy.pin_effort)],
        "deny": sorted(map(str, policy.deny)),
        "rules": [
            {
                "id": rule.rule_id,
                "priority": rule.priority,
                "when": canonical_condition(rule.when),
                "effect": rule.effect.value,
                "tier": _value(rule.tier),
                "effort": _value(rule.effort),
                "bypass_learning": rule.bypass_learning,
                "safety": rule.safety,
            }
            for rule in policy.rules
        ],
    }


def _value(value: Tier | Effort | None) -> str | None:
    return None if value is None else value.value


def _review(raw: object, where: str) -> ReviewLimits:
    document = mapping(raw, where)
    keys(document, where, required=set(), optional={"large_lines", "large_files", "risky_lines"})
    usual = ReviewLimits()

    def limit(key: str, otherwise: int) -> int:
        return integer(document.get(key, otherwise), f"{where}.{key}", 1, 1_000_000)

    return ReviewLimits(
        large_lines=limit("large_lines", usual.large_lines),
        large_files=limit("large_files", usual.large_files),
        risky_lines=limit("risky_lines", usual.risky_lines),
    )


def _learning(raw: object, where: str) -> Learning:
    document = mapping(raw, where)
    keys(document, where, required=set(), optional={"mode", "exploration"})
    usual = Learning()
    return Learning(
        mode=member(Mode, document.get("mode", usual.mode.value), f"{where}.mode"),
        exploration=number(document.get("exploration", usual.exploration), f"{where}.exploration", 0.0, 0.1),
    )


def _failures(raw: object, where: str) -> float:
    document = mapping(raw, where)
    keys(document, where, required=set(), optional={"failures"})
    return number(document.get("failures", FAILED), f"{where}.failures", *FAILURES_RANGE)


def _budget(raw: object, where: str) -> Budget:
    document = mapping(raw, where)
    keys(document, where, required={"target"}, optional={"strong_seconds_per_hour", "burst_seconds"})
    cap = document.get("strong_seconds_per_hour")
    return Budget(
        target=number(document["target"], f"{where}.target", 0.0, 1.0),
        strong_seconds_per_hour=None if cap is None else number(cap, f"{where}.strong_seconds_per_hour", 0.0, 1e9),
        burst_seconds=number(document.get("burst_seconds", 60.0), f"{where}.burst_seconds", 0.0, 1e6),
    )


def _without_strong(raw: object, where: str) -> WithoutStrong:
    document = mapping(raw, where)
    keys(document, where, required=set(), optional={"down", "unserved"})
    usual = WithoutStrong()
    found: dict[str, Unmet] = {}
    for state in ("down", "unserved"):
        part = mapping(document.get(state, {}), f"{where}.{state}")
        keys(part, f"{where}.{state}", required=set(), optional={"safety", "rules"})
        for floor in ("safety", "rules"):
            otherwise: Unmet = getattr(usual, f"{state}_{floor}")
            found[f"{state}_{floor}"] = member(Unmet, part.get(floor, otherwise.value), f"{where}.{state}.{floor}")
    if found["down_safety"] is Unmet.BASE:
        raise PolicyError(f"{where}.down.safety must be refuse or queue: a safety floor outlives an outage")
    return WithoutStrong(**found)


_USUAL_COSTS: Final = dict(zip(ARMS, (0.5, 1.0, 2.5, 2.0, 5.0), strict=True))


def _costs(raw: object, where: str) -> tuple[tuple[Arm, float], ...]:
    """Relative costs by arm, in the order of `ARMS`; not measured until somebody has measured them."""
    given = {
        named_arm(arm, f"{where}.{arm}"): number(cost, f"{where}.{arm}", 0.0, 1e6)
        for arm, cost in mapping(raw, where).items()
    }
    if foreign := [arm for arm in given if arm not in ARMS]:
        raise PolicyError(f"{where}: the router does not propose {foreign[0]}")
    return tuple((arm, given.get(arm, cost)) for arm, cost in _USUAL_COSTS.items())


def _identifier(raw: object, where: str, dashes: bool = False) -> str:
    if not isinstance(raw, str) or _ID.fullmatch(raw.replace("-", "_") if dashes else raw) is None:
        raise PolicyError(f"{where} must be a short name of lower-case letters, digits and underscores")
    return raw


def default_policy() -> Policy:
    """Policy v1, equal to `configs/policies/routing-v1.yaml`."""
    return parse_policy(ROUTING_V1)
