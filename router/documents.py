"""Reading parsed YAML or JSON strictly: unknown keys and odd values are refused, and the message says where."""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import TypeVar, cast

from router.types import Arm, Effort, Tier

_Name = TypeVar("_Name", bound=StrEnum)


class PolicyError(ValueError):
    """The policy, or its probes, are refused; the message says where and why."""


def keys(document: Mapping[str, object], where: str, required: AbstractSet[str], optional: AbstractSet[str]) -> None:
    """Refuse a document that lacks a required key or has one that is neither required nor optional."""
    present = {str(key) for key in document}
    if missing := sorted(required - present):
        raise PolicyError(f"{where}: {missing[0]!r} is missing")
    if unknown := sorted(present - required - optional):
        raise PolicyError(f"{where}: unknown key {unknown[0]!r}")


def mapping(raw: object, where: str) -> Mapping[str, object]:
    """`raw` as a mapping."""
    if not isinstance(raw, Mapping):
        raise PolicyError(f"{where} must be a mapping")
    return cast("Mapping[str, object]", raw)


def listing(raw: object, where: str) -> Sequence[object]:
    """`raw` as a list."""
    if not isinstance(raw, list | tuple):
        raise PolicyError(f"{where} must be a list")
    return cast("Sequence[object]", raw)


def integer(raw: object, where: str, low: int, high: int) -> int:
    """`raw` as an integer from `low` to `high`; a boolean is none."""
    if not isinstance(raw, int) or isinstance(raw, bool) or not low <= raw <= high:
        raise PolicyError(f"{where} must be an integer from {low} to {high}")
    return raw


def number(raw: object, where: str, low: float, high: float) -> float:
    """`raw` as a finite number from `low` to `high`; a boolean is none."""
    if not isinstance(raw, int | float) or isinstance(raw, bool) or not math.isfinite(raw) or not low <= raw <= high:
        raise PolicyError(f"{where} must be a number from {low:g} to {high:g}")
    return float(raw)


def flag(raw: object, where: str) -> bool:
    """`raw` as true or false."""
    if not isinstance(raw, bool):
        raise PolicyError(f"{where} must be true or false")
    return raw


def text(raw: object, where: str, most: int) -> str:
    """`raw` as text of at most `most` characters."""
    if not isinstance(raw, str) or len(raw) > most:
        raise PolicyError(f"{where} must be text of at most {most} characters")
    return raw


def member(kind: type[_Name], raw: object, where: str) -> _Name:
    """`raw` as a member of `kind`, by its exact value."""
    for each in kind:
        if isinstance(raw, str) and raw == each.value:
            return each
    raise PolicyError(f"{where} must be one of {', '.join(each.value for each in kind)}, not {raw!r}")


def partial_arm(raw: object, where: str) -> tuple[Tier | None, Effort | None]:
    """`{tier: ..., effort: ...}` of which one may be missing."""
    document = mapping(raw, where)
    keys(document, where, required=set(), optional={"tier", "effort"})
    if not document:
        raise PolicyError(f"{where} names neither tier nor effort")
    tier = member(Tier, document["tier"], f"{where}.tier") if "tier" in document else None
    effort = member(Effort, document["effort"], f"{where}.effort") if "effort" in document else None
    return tier, effort


def named_arm(raw: object, where: str) -> Arm:
    """An arm as it is written in one word, as in `120b/high`."""
    for tier in Tier:
        for effort in Effort:
            if raw == f"{tier.value}/{effort.value}":
                return Arm(tier, effort)
    raise PolicyError(f"{where} must be an arm such as 20b/medium, not {raw!r}")
