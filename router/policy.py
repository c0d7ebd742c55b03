"""A routing policy is data: named signals combined by AND/OR/NOT, with a priority and an effect.

```yaml
version: 1
name: routing-v1
default: {tier: 20b, effort: medium}
review: {large_lines: 400, large_files: 10, risky_lines: 30}
rules:
  - id: incident_failed_once        # the reason code
    priority: 90
    when: {all: [task_incident_diagnosis, multi_step, failed_on_base]}   # also {any: [...]}, {not: ...}, a bare name
    effect: floor                   # force | floor | ceiling | prefer
    arm: {tier: 120b, effort: medium}
```

`floor` and `ceiling` bound both the choice and the caller's wishes, `force` replaces wishes, `prefer` replaces the
default. A floor wins over everything, a ceiling over everything but a floor.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias, TypeVar, cast

from router.signals.collect import SIGNAL_NAMES
from router.signals.review import ReviewLimits
from router.types import Effort, Tier

_MAX_RULES: Final = 256
_MAX_DEPTH: Final = 16
_MAX_JOINT_SIGNALS: Final = 12
_ID: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
RESERVED_REASONS: Final = frozenset(
    {
        "default", "explicit_model", "explicit_model_overridden", "explicit_effort", "explicit_effort_overridden",
        "session_latched", "tool_loop", "session_effort", "ceiling_overridden", "router_error", "router_error_raised",
        "strong_tier_missing", "base_tier_missing", "effort_mathematics", "effort_after_failure", "effort_reasoning",
        "effort_short_chat", "effort_short_extraction",
    }
)  # fmt: skip

_Name = TypeVar("_Name", bound=StrEnum)


class PolicyError(ValueError):
    """The policy is refused; the message says where and why."""


class Effect(StrEnum):
    """What a rule does with its arm when it fires."""

    FORCE = "force"
    FLOOR = "floor"
    CEILING = "ceiling"
    PREFER = "prefer"


@dataclass(frozen=True, slots=True)
class Is:
    """A named signal is true."""

    name: str


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds."""

    parts: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: "Condition"


Condition: TypeAlias = Is | AllOf | AnyOf | Not


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; its `rule_id` is the reason code. An axis that is None is left alone."""

    rule_id: str
    priority: int
    when: Condition
    effect: Effect
    tier: Tier | None
    effort: Effort | None


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy. `rules` are sorted by falling priority, `digest` is the SHA-256 hex of its canonical form."""

    name: str
    default_tier: Tier
    default_effort: Effort
    review: ReviewLimits
    rules: tuple[Rule, ...]
    digest: str


def holds(condition: Condition, names: AbstractSet[str]) -> bool:
    """Does `condition` hold when exactly the signals in `names` are true?"""
    match condition:
        case Is(name):
            return name in names
        case AllOf(parts):
            return all(holds(part, names) for part in parts)
        case AnyOf(parts):
            return any(holds(part, names) for part in parts)
        case Not(part):
            return not holds(part, names)


def parse_policy(document: Mapping[str, object]) -> Policy:
    """The policy in a parsed YAML or JSON document.

    Raises `PolicyError` for an unknown key, signal or value, a doubled id, and a floor above a ceiling.
    """
    _keys(document, "policy", required={"version", "name", "default", "rules"}, optional={"review"})
    if document["version"] != 1 or isinstance(document["version"], bool):
        raise PolicyError(f"policy.version must be 1, not {document['version']!r}")
    name = _identifier(document["name"], "policy.name", dashes=True)
    tier, effort = _arm(document["default"], "policy.default")
    if tier is None or effort is None:
        raise PolicyError("policy.default needs both tier and effort")
    review = _review(document.get("review", {}))
    raw_rules = _list(document["rules"], "policy.rules")
    if len(raw_rules) > _MAX_RULES:
        raise PolicyError(f"policy.rules holds more than {_MAX_RULES} rules")
    rules = [_rule(raw, f"policy.rules[{position}]") for position, raw in enumerate(raw_rules)]
    ids = [rule.rule_id for rule in rules]
    if doubled := sorted({rule_id for rule_id in ids if ids.count(rule_id) > 1}):
        raise PolicyError(f"policy.rules: the id {doubled[0]!r} is used twice")
    rules.sort(key=lambda rule: -rule.priority)  # stable: equal priorities keep the order of the file
    _refuse_contradictions(rules)
    canonical = {
        "version": 1,
        "name": name,
        "default": {"tier": tier.value, "effort": effort.value},
        "review": {
            "large_lines": review.large_lines,
            "large_files": review.large_files,
            "risky_lines": review.risky_lines,
        },
        "rules": [_canonical_rule(rule) for rule in rules],
    }
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Policy(name, tier, effort, review, tuple(rules), digest)


def _rule(raw: object, where: str) -> Rule:
    document = _mapping(raw, where)
    _keys(document, where, required={"id", "priority", "when", "effect", "arm"}, optional={"about"})
    rule_id = _identifier(document["id"], f"{where}.id")
    if rule_id in RESERVED_REASONS:
        raise PolicyError(f"{where}.id: {rule_id!r} is a reason code of the router itself")
    tier, effort = _arm(document["arm"], f"{where}.arm")
    if not isinstance(document.get("about", ""), str):
        raise PolicyError(f"{where}.about must be text")
    return Rule(
        rule_id=rule_id,
        priority=_integer(document["priority"], f"{where}.priority", 0, 1000),
        when=_condition(document["when"], f"{where}.when", 0),
        effect=_member(Effect, document["effect"], f"{where}.effect"),
        tier=tier,
        effort=effort,
    )


def _condition(raw: object, where: str, depth: int) -> Condition:
    if depth > _MAX_DEPTH:
        raise PolicyError(f"{where} is nested too deeply")
    if isinstance(raw, str):
        if raw not in SIGNAL_NAMES:
            raise PolicyError(f"{where}: there is no signal {raw!r}; known: {', '.join(sorted(SIGNAL_NAMES))}")
        return Is(raw)
    document = _mapping(raw, where)
    if len(document) != 1:
        raise PolicyError(f"{where} must be a signal's name or have exactly one of the keys all, any, not")
    operator, operand = next(iter(document.items()))
    if operator == "not":
        return Not(_condition(operand, f"{where}.not", depth + 1))
    if operator not in {"all", "any"}:
        raise PolicyError(f"{where}: unknown key {operator!r}; expected all, any or not")
    raw_parts = _list(operand, f"{where}.{operator}")
    if not raw_parts:
        raise PolicyError(f"{where}.{operator} is empty")
    parts = tuple(
        _condition(part, f"{where}.{operator}[{position}]", depth + 1) for position, part in enumerate(raw_parts)
    )
    return AllOf(parts) if operator == "all" else AnyOf(parts)


def _refuse_contradictions(rules: Sequence[Rule]) -> None:
    """Refuse a floor above a ceiling where one of the two could never act without contradicting the other."""
    floors = [rule for rule in rules if rule.effect is Effect.FLOOR]
    ceilings = [rule for rule in rules if rule.effect is Effect.CEILING]
    for floor, ceiling in itertools.product(floors, ceilings):
        if _above(floor, ceiling) and _always_meet(floor.when, ceiling.when):
            raise PolicyError(
                f"policy.rules: the floor {floor.rule_id!r} lies above the ceiling {ceiling.rule_id!r} whenever "
                "one of them applies"
            )


def _above(floor: Rule, ceiling: Rule) -> bool:
    size = floor.tier is not None and ceiling.tier is not None and floor.tier.rank > ceiling.tier.rank
    effort = floor.effort is not None and ceiling.effort is not None and floor.effort.rank > ceiling.effort.rank
    return size or effort


def _always_meet(first: Condition, second: Condition) -> bool:
    """True when the conditions can hold together, and one of them never holds without the other.

    Signals count as independent of each other.
    """
    names = sorted((_names(first) | _names(second)) - {"always"})
    if len(names) > _MAX_JOINT_SIGNALS:
        return first == second
    worlds = [
        frozenset({"always", *(name for name, true in zip(names, truths, strict=True) if true)})
        for truths in itertools.product((False, True), repeat=len(names))
    ]
    pairs = {(holds(first, world), holds(second, world)) for world in worlds}
    return (True, True) in pairs and ((True, False) not in pairs or (False, True) not in pairs)


def _names(condition: Condition) -> frozenset[str]:
    match condition:
        case Is(name):
            return frozenset({name})
        case Not(part):
            return _names(part)
        case AllOf(parts) | AnyOf(parts):
            return frozenset(name for part in parts for name in _names(part))


def _canonical_rule(rule: Rule) -> dict[str, object]:
    return {
        "id": rule.rule_id,
        "priority": rule.priority,
        "when": _canonical_condition(rule.when),
        "effect": rule.effect.value,
        "tier": None if rule.tier is None else rule.tier.value,
        "effort": None if rule.effort is None else rule.effort.value,
    }


def _canonical_condition(condition: Condition) -> object:
    match condition:
        case Is(name):
            return name
        case Not(part):
            return {"not": _canonical_condition(part)}
        case AllOf(parts):
            return {"all": [_canonical_condition(part) for part in parts]}
        case AnyOf(parts):
            return {"any": [_canonical_condition(part) for part in parts]}


def _review(raw: object) -> ReviewLimits:
    document = _mapping(raw, "policy.review")
    _keys(document, "policy.review", required=set(), optional={"large_lines", "large_files", "risky_lines"})
    usual = ReviewLimits()

    def limit(key: str, otherwise: int) -> int:
        return _integer(document.get(key, otherwise), f"policy.review.{key}", 1, 1_000_000)

    return ReviewLimits(
        large_lines=limit("large_lines", usual.large_lines),
        large_files=limit("large_files", usual.large_files),
        risky_lines=limit("risky_lines", usual.risky_lines),
    )


def _arm(raw: object, where: str) -> tuple[Tier | None, Effort | None]:
    document = _mapping(raw, where)
    _keys(document, where, required=set(), optional={"tier", "effort"})
    if not document:
        raise PolicyError(f"{where} names neither tier nor effort")
    tier = _member(Tier, document["tier"], f"{where}.tier") if "tier" in document else None
    effort = _member(Effort, document["effort"], f"{where}.effort") if "effort" in document else None
    return tier, effort


def _keys(document: Mapping[str, object], where: str, required: AbstractSet[str], optional: AbstractSet[str]) -> None:
    present = {str(key) for key in document}
    if missing := sorted(required - present):
        raise PolicyError(f"{where}: {missing[0]!r} is missing")
    if unknown := sorted(present - required - optional):
        raise PolicyError(f"{where}: unknown key {unknown[0]!r}")


def _mapping(raw: object, where: str) -> Mapping[str, object]:
    if not isinstance(raw, Mapping):
        raise PolicyError(f"{where} must be a mapping")
    return cast("Mapping[str, object]", raw)


def _list(raw: object, where: str) -> Sequence[object]:
    if not isinstance(raw, list | tuple):
        raise PolicyError(f"{where} must be a list")
    return cast("Sequence[object]", raw)


def _integer(raw: object, where: str, low: int, high: int) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool) or not low <= raw <= high:
        raise PolicyError(f"{where} must be an integer from {low} to {high}")
    return raw


def _identifier(raw: object, where: str, dashes: bool = False) -> str:
    if not isinstance(raw, str) or _ID.fullmatch(raw.replace("-", "_") if dashes else raw) is None:
        raise PolicyError(f"{where} must be a short name of lower-case letters, digits and underscores")
    return raw


def _member(kind: type[_Name], raw: object, where: str) -> _Name:
    for member in kind:
        if raw == member.value and isinstance(raw, str):
            return member
    raise PolicyError(f"{where} must be one of {', '.join(member.value for member in kind)}, not {raw!r}")


ROUTING_V1: Final[Mapping[str, object]] = {
    "version": 1,
    "name": "routing-v1",
    "default": {"tier": "20b", "effort": "medium"},
    "review": {"large_lines": 400, "large_files": 10, "risky_lines": 30},
    "rules": [
        {
            "id": "risk_needs_reasoning",
            "priority": 100,
            "when": {"all": ["risk_r2_or_more", "needs_reasoning"]},
            "effect": "floor",
            "arm": {"tier": "120b", "effort": "high"},
        },
        {
            "id": "incident_failed_once",
            "priority": 90,
            "when": {"all": ["task_incident_diagnosis", "multi_step", "failed_on_base"]},
            "effect": "floor",
            "arm": {"tier": "120b", "effort": "medium"},
        },
        {
            "id": "review_large",
            "priority": 80,
            "when": {"all": ["task_code_review", "review_large"]},
            "effect": "floor",
            "arm": {"tier": "120b", "effort": "medium"},
        },
        {
            "id": "review_high_risk",
            "priority": 70,
            "when": {"all": ["task_code_review", "review_high_risk"]},
            "effect": "floor",
            "arm": {"tier": "120b", "effort": "medium"},
        },
        {
            "id": "risk_untrusted_content",
            "priority": 60,
            "when": {"all": ["risk_r2_or_more", "untrusted_content"]},
            "effect": "floor",
            "arm": {"tier": "120b", "effort": "medium"},
        },
    ],
}


def default_policy() -> Policy:
    """Policy v1, equal to `configs/policies/routing-v1.yaml`."""
    return parse_policy(ROUTING_V1)
