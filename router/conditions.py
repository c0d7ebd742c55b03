"""Conditions over named signals: AND, OR and NOT, how they are written, and what can be shown about them."""

import itertools
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, TypeAlias

from router.documents import PolicyError, listing, mapping
from router.signals.collect import SIGNAL_NAMES

_MAX_DEPTH: Final = 16
_MAX_JOINT_SIGNALS: Final = 12


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


def signals_in(condition: Condition) -> tuple[str, ...]:
    """The signals that a condition names, each once, in the order of the text."""
    match condition:
        case Is(name):
            return (name,)
        case Not(part):
            return signals_in(part)
        case AllOf(parts) | AnyOf(parts):
            return tuple(dict.fromkeys(name for part in parts for name in signals_in(part)))


def parse_condition(raw: object, where: str, depth: int = 0) -> Condition:
    """A signal's name, `{all: [...]}`, `{any: [...]}` or `{not: ...}`; `PolicyError` for anything else."""
    if depth > _MAX_DEPTH:
        raise PolicyError(f"{where} is nested too deeply")
    if isinstance(raw, str):
        if raw not in SIGNAL_NAMES:
            raise PolicyError(f"{where}: there is no signal {raw!r}; known: {', '.join(sorted(SIGNAL_NAMES))}")
        return Is(raw)
    document = mapping(raw, where)
    if len(document) != 1:
        raise PolicyError(f"{where} must be a signal's name or have exactly one of the keys all, any, not")
    operator, operand = next(iter(document.items()))
    if operator == "not":
        return Not(parse_condition(operand, f"{where}.not", depth + 1))
    if operator not in {"all", "any"}:
        raise PolicyError(f"{where}: unknown key {operator!r}; expected all, any or not")
    raw_parts = listing(operand, f"{where}.{operator}")
    if not raw_parts:
        raise PolicyError(f"{where}.{operator} is empty")
    parts = tuple(
        parse_condition(part, f"{where}.{operator}[{position}]", depth + 1) for position, part in enumerate(raw_parts)
    )
    return AllOf(parts) if operator == "all" else AnyOf(parts)


def canonical_condition(condition: Condition) -> object:
    """The condition as it is written in a document."""
    match condition:
        case Is(name):
            return name
        case Not(part):
            return {"not": canonical_condition(part)}
        case AllOf(parts):
            return {"all": [canonical_condition(part) for part in parts]}
        case AnyOf(parts):
            return {"any": [canonical_condition(part) for part in parts]}


def always_meet(first: Condition, second: Condition) -> bool:
    """True when the conditions can hold together, and one of them never holds without the other.

    Signals count as independent of each other.
    """
    pairs = _joint_truths(first, second)
    if pairs is None:
        return first == second
    return (True, True) in pairs and ((True, False) not in pairs or (False, True) not in pairs)


def implies(first: Condition, second: Condition) -> bool:
    """True when it can be shown that `second` holds wherever `first` does."""
    pairs = _joint_truths(first, second)
    return first == second if pairs is None else (True, False) not in pairs


def always_holds(condition: Condition) -> bool:
    """True when it can be shown that the condition holds whatever the signals are."""
    return implies(Is("always"), condition)


def _joint_truths(first: Condition, second: Condition) -> AbstractSet[tuple[bool, bool]] | None:
    """Which pairs of truth values the two can have; None when there are too many signals to try them all."""
    names = sorted({*signals_in(first), *signals_in(second)} - {"always"})
    if len(names) > _MAX_JOINT_SIGNALS:
        return None
    worlds = (
        frozenset({"always", *itertools.compress(names, truths)})
        for truths in itertools.product((False, True), repeat=len(names))
    )
    return {(holds(first, world), holds(second, world)) for world in worlds}
