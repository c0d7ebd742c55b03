"""What a change of a bundle means: which words of it differ, and which calls come out differently.

A difference is `looser`, `stricter` or `unclear`. Whatever may let a call pass that the old bundle held is looser,
also when it only registers something new; unclear is what cannot be told from the bundle alone, such as another word
pattern. Cases settle it: a call either comes out lower or it does not.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from deployments.gate.cases import Case, judged
from deployments.gate.derive import RANK, milder
from deployments.gate.grammar import ClassOf
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import Flag, Node, Rule, Target
from deployments.gate.tables import OUTCOME_ORDER, Base, Egress, Env, Sensitivity
from deployments.ports import Risk

_HELD = ClassOf(Base.UNKNOWN, Base.UNKNOWN)


class Direction(StrEnum):
    """What a difference does to calls."""

    LOOSER = "looser"
    UNCLEAR = "unclear"
    STRICTER = "stricter"


_ORDER = list(Direction)


@dataclass(frozen=True, slots=True)
class Difference:
    """One word of a bundle that another does not say. `part` is the section, `name` what it speaks of."""

    direction: Direction
    part: str
    name: str
    what: str


@dataclass(frozen=True, slots=True)
class Moved:
    """A call that two bundles see differently."""

    direction: Direction
    case: Case
    before: tuple[Risk, str]
    after: tuple[Risk, str]
    reasons: tuple[str, ...]


def differences(old: Bundle, new: Bundle) -> list[Difference]:
    """What `new` says otherwise than `old`, the looser first."""
    found = [
        *_tables(old, new),
        *_programs(old, new),
        *_rules(old, new),
        *_targets(old, new),
        *_tools(old, new),
        *_lists(old, new),
        *_rest(old, new),
    ]
    return sorted(found, key=lambda each: _ORDER.index(each.direction))


def moved(old: Bundle, new: Bundle, cases: Sequence[Case]) -> list[Moved]:
    """The cases whose class or outcome changes, the looser first."""
    reader = ShellReader(10.0)
    found: list[Moved] = []
    for case, before, after in zip(cases, judged(old, cases, reader), judged(new, cases, reader), strict=True):
        if (before.risk, before.outcome) == (after.risk, after.outcome):
            continue
        lower = after.risk.rank < before.risk.rank
        milder_outcome = OUTCOME_ORDER.index(after.outcome) < OUTCOME_ORDER.index(before.outcome)
        found.append(
            Moved(
                Direction.LOOSER if lower or milder_outcome else Direction.STRICTER,
                case,
                (before.risk, before.outcome.value),
                (after.risk, after.outcome.value),
                after.reasons,
            )
        )
    return sorted(found, key=lambda each: _ORDER.index(each.direction))


def _tables(old: Bundle, new: Bundle) -> Iterator[Difference]:
    for cell, before in old.table_a.items():
        after = new.table_a[cell]
        if after is not before:
            looser = after.rank < before.rank
            yield Difference(_way(looser), "table", "/".join(cell), f"{before.value} -> {after.value}")
    for (profile, row), outcome in old.table_b.items():
        after_b = new.table_b[profile, row]
        if after_b is not outcome:
            looser = OUTCOME_ORDER.index(after_b) < OUTCOME_ORDER.index(outcome)
            what = f"{row.value}: {outcome.value} -> {after_b.value}"
            yield Difference(_way(looser), "profiles", profile.value, what)
    for profile in {**old.standing, **new.standing}:
        one, other = old.standing.get(profile), new.standing.get(profile)
        if one != other:
            way = Direction.LOOSER if one is None else Direction.STRICTER if other is None else Direction.UNCLEAR
            yield Difference(way, "profiles", profile.value, "another standing plan")


def _programs(old: Bundle, new: Bundle) -> Iterator[Difference]:
    yield from _nodes(old.parts.programs, new.parts.programs)


def _nodes(old: Mapping[str, Node], new: Mapping[str, Node]) -> Iterator[Difference]:
    for name in sorted(old.keys() | new.keys()):
        one, other = old.get(name), new.get(name)
        if one is None and other is not None:
            yield Difference(Direction.LOOSER, "programs", " ".join(other.path), "is specified now")
        elif one is not None and other is None:
            yield Difference(Direction.STRICTER, "programs", " ".join(one.path), "is no longer specified")
        elif one is not None and other is not None and one != other:
            yield from _node(one, other)
            yield from _nodes(one.sub, other.sub)


def _node(one: Node, other: Node) -> Iterator[Difference]:
    name = " ".join(one.path)
    for flag in sorted(one.flags.keys() | other.flags.keys()):
        before, after = one.flags.get(flag), other.flags.get(flag)
        if before != after:
            way, what = _flag(before, after)
            yield Difference(way, "programs", name, f"{flag} {what}")
    ignored = {"path", "flags", "inherited", "sub"}
    for field in one.__slots__:
        if field not in ignored and getattr(one, field) != getattr(other, field):
            what = f"{field}: {_shown(getattr(one, field))} -> {_shown(getattr(other, field))}"
            yield Difference(Direction.UNCLEAR, "programs", name, what)


def _flag(before: Flag | None, after: Flag | None) -> tuple[Direction, str]:
    if before is None:
        return Direction.LOOSER, "is known now"
    if after is None:
        return Direction.STRICTER, "is no longer known"
    if (before.value, before.role, before.waived_by) != (after.value, after.role, after.waived_by):
        return Direction.UNCLEAR, "is read otherwise"
    if set(before.effects) < set(after.effects):
        return Direction.STRICTER, f"does more: {', '.join(after.effects)}"
    looser = set(after.effects) < set(before.effects)
    return Direction.LOOSER if looser else Direction.UNCLEAR, f"does otherwise: {', '.join(after.effects) or 'nothing'}"


def _rules(old: Bundle, new: Bundle) -> Iterator[Difference]:
    for path in sorted(old.parts.rules.keys() | new.parts.rules.keys()):
        before, after = old.parts.rules.get(path, ()), new.parts.rules.get(path, ())
        if _bare(before) != _bare(after):
            name, what = " ".join(path), f"{_classes(before)} -> {_classes(after)}"
            yield Difference(_rule_way(before, after), "rules", name, what)


def _bare(rules: Sequence[Rule]) -> list[tuple[object, ...]]:
    return [(rule.id, rule.class_of, rule.bare, rule.standing, rule.with_, rule.without) for rule in rules]


def _classes(rules: Sequence[Rule]) -> str:
    return ", ".join(f"{rule.id} {_text(rule.class_of)}{' standing' * rule.standing}" for rule in rules) or "no rule"


def _rule_way(before: Sequence[Rule], after: Sequence[Rule]) -> Direction:
    """Certain only where both have at most one rule that asks for nothing."""
    plain = all(len(rules) <= 1 and not any(each.bare is not None or each.with_ or each.without for each in rules)
                for rules in (before, after))  # fmt: skip
    if not plain:
        return Direction.UNCLEAR
    one = before[0].class_of if before else _HELD
    other = after[0].class_of if after else _HELD
    covers = any(rule.standing for rule in after) and not any(rule.standing for rule in before)
    if covers or any(_rank(other, env) < _rank(one, env) for env in Env):
        return Direction.LOOSER
    return Direction.STRICTER if one != other else Direction.UNCLEAR


def _targets(old: Bundle, new: Bundle) -> Iterator[Difference]:
    for kind in sorted(old.targets.keys() | new.targets.keys()):
        one, other = _entries(old, kind), _entries(new, kind)
        if one == other:
            continue
        changed = False
        for pattern in dict.fromkeys((*other, *one)):
            before, after = one.get(pattern), other.get(pattern)
            if before == after:
                continue
            changed = True
            was, now = before or _says(old, kind, pattern), after or _says(new, kind, pattern)
            looser = milder(now, was)
            if not looser and not milder(was, now):
                continue
            what = "is registered now" if before is None else "is no longer registered" if after is None else "changed"
            yield Difference(_way(looser), "targets", f"{kind} {pattern}", f"{what}: {_told(was)} -> {_told(now)}")
        if not changed and list(one) != list(other):
            yield Difference(Direction.UNCLEAR, "targets", kind, "the entries have another order")


def _entries(bundle: Bundle, kind: str) -> dict[str, Target]:
    found: dict[str, Target] = {}
    for patterns, target in bundle.targets.get(kind, ()):
        for pattern in patterns:
            found.setdefault(pattern, target)
    return found


def _says(bundle: Bundle, kind: str, text: str) -> Target:
    outside = Egress.OTHER if kind.endswith("host") else Egress.NONE
    return bundle.target(kind, text) or Target(Env.PROD, Sensitivity.SENSITIVE, outside)


def _told(target: Target) -> str:
    words = [target.env.value if target.env else "any environment", target.sensitivity.value]
    words += [f"egress {target.egress.value}"] if target.egress is not Egress.NONE else []
    words += ["workspace"] if target.workspace else []
    return "/".join(words + ([_text(target.class_of)] if target.class_of else []))


def _tools(old: Bundle, new: Bundle) -> Iterator[Difference]:
    for name in sorted(old.tools.keys() | new.tools.keys()):
        one, other = old.tools.get(name), new.tools.get(name)
        if one is None:
            yield Difference(Direction.LOOSER, "tools", name, "is registered now")
        elif other is None:
            yield Difference(Direction.STRICTER, "tools", name, "is no longer registered")
        elif one.model_dump(exclude={"names"}) != other.model_dump(exclude={"names"}):
            yield Difference(Direction.UNCLEAR, "tools", name, "is read otherwise")


def _lists(old: Bundle, new: Bundle) -> Iterator[Difference]:
    for part in ("environment", "program_directories", "sinks"):
        one, other = set[str](getattr(old, part)), set[str](getattr(new, part))
        yield from (Difference(Direction.LOOSER, part, name, "is allowed now") for name in sorted(other - one))
        yield from (Difference(Direction.STRICTER, part, name, "is no longer allowed") for name in sorted(one - other))


def _rest(old: Bundle, new: Bundle) -> Iterator[Difference]:
    """Sections of which only that they differ can be told."""
    for part in sorted(set(type(old.spec).model_fields) - _TOLD):
        one, other = getattr(old.spec, part), getattr(new.spec, part)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _named(part, cast("dict[str, object]", one), cast("dict[str, object]", other))
        else:
            yield Difference(Direction.UNCLEAR, part, "", "differs")


def _named(part: str, one: Mapping[str, object], other: Mapping[str, object]) -> Iterator[Difference]:
    for name in sorted(one.keys() | other.keys()):
        if name not in one and part in _WORDS_ONLY:
            continue
        if one.get(name) != other.get(name):
            what = "is new" if name not in one else "is gone" if name not in other else "differs"
            yield Difference(Direction.UNCLEAR, part, name, what)


# Sections that have words of their own above, or that compile into others.
_TOLD = {
    "version", "name", "include", "table", "profiles", "targets", "tools", "programs", "rules", "flag_sets",
    "environment", "program_directories", "sinks",
}  # fmt: skip

_WORDS_ONLY = {"words", "effects"}  # a new one does nothing until a program uses it, and that is told there


def _way(looser: bool) -> Direction:
    return Direction.LOOSER if looser else Direction.STRICTER


def _rank(found: ClassOf, env: Env) -> int:
    return RANK[found.at(env)]


def _text(found: ClassOf) -> str:
    return "|".join(dict.fromkeys((found.nonprod.value, found.prod.value)))


def _shown(value: object) -> str:
    if isinstance(value, frozenset | tuple):
        return ", ".join(sorted(map(str, cast("Iterable[object]", value)))) or "none"
    return str(value)
