"""A bundle that extends another: everything of that one, and what is registered or tightened on top.

The law: nothing that the base says gets milder. Its words, effects, programs and tools may not be specified again; a
rule for one of its commands may only raise the class; cells and outcomes may only rise; of approvers' roles one may
only leave some out. What may be said freely is what the base does not know: a namespace, a host, a branch, a tool, a
program. Entries of the base that mark something sensitive, forbidden or outside keep their word in `Bundle.target`,
whatever an own entry says of the same name.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Literal, cast

from pydantic import Field

from deployments.gate.grammar import ClassOf, class_of
from deployments.gate.specs import BundleFile, Part, ProfileSpec, Rule, RuleSpec, Target, table_a
from deployments.gate.tables import OUTCOME_ORDER, Base, Egress, Env, Sensitivity

# How strict a class is. What has no rule is UNKNOWN: table A treats that and R2 alike.
RANK = {Base.R0: 0, Base.R1: 1, Base.R2: 2, Base.UNKNOWN: 2, Base.OPAQUE: 3, Base.R3: 4, Base.FORBIDDEN: 5}
_NO_RULE = ClassOf(Base.UNKNOWN, Base.UNKNOWN)
_ENVS = (None, Env.NONPROD, Env.PROD)
_MERGED = {"programs", "targets", "profiles", "approvers"}  # each by a law of its own


class Included(Part):
    """A file that a bundle includes; it may also say who approves."""

    approvers: dict[Literal["R1", "R2", "R3"], tuple[str, ...]] = Field(default={})


class Derived(Included):
    """A bundle that `extends` another, by its name: a file beside it, or one that is shipped.

    `table` holds only the rows that change.
    """

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    extends: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    table: dict[str, dict[Literal["nonprod", "prod"], tuple[str, ...]]] = Field(default={})


def extended(
    base: BundleFile, rules: Mapping[tuple[str, ...], Sequence[Rule]], own: Derived
) -> tuple[BundleFile, list[str]]:
    """The base with what `own` adds, and every fault of `own` against the law; `rules` are the base's, compiled.

    The result is sound only when there is no fault.
    """
    faults: list[str] = []
    update: dict[str, object] = {}
    for field in Included.model_fields:
        before, added = getattr(base, field), getattr(own, field)
        if not isinstance(before, dict):
            update[field] = (*added, *before)
            continue
        named = cast("dict[str, object]", before)
        update[field] = {**named, **added}
        if field not in _MERGED:
            faults += [f"{field}: '{name}' is said by the base" for name in _both(named, added)]
    faults += [f"the program '{name}' is specified by the base" for name in _both(_names(base), _names(own))]
    faults += [f"the tool '{name}' is registered by the base" for name in _both(_tools(base), _tools(own))]
    kinds = {**base.targets, **own.targets}
    update["targets"] = {kind: (*own.targets.get(kind, ()), *base.targets.get(kind, ())) for kind in kinds}
    faults += [fault for rule in own.rules for fault in _rule_faults(rule, set(_names(base)), rules)]
    profiles = {**base.profiles}
    for name, profile in own.profiles.items():
        profiles[name], found = _profile(name, base.profiles.get(name), profile)
        faults += found
    table = {**base.table}
    for row, cells in own.table.items():
        table[row] = {**table.get(row, {}), **cells}
    update |= {"profiles": profiles, "table": table, "name": own.name, "include": ()}
    before, after = table_a(base.table), table_a(table)
    faults += [
        f"table A puts {'/'.join(cell)} at {after[cell]}, below the base's {risk}"
        for cell, risk in before.items()
        if cell in after and after[cell].rank < risk.rank
    ]
    for risk, roles in own.approvers.items():
        known = base.approvers.get(risk, ())
        if not roles or (known and not set(roles) <= set(known)):
            faults.append(f"approvers of {risk}: only roles that the base has may be left, and one must be")
    return base.model_copy(update=update), faults


def weighty(target: Target) -> bool:
    """True for an entry whose word stands whatever an extending bundle says: sensitive, with a class, or outside."""
    return (
        target.class_of is not None or target.sensitivity is Sensitivity.SENSITIVE or target.egress is not Egress.NONE
    )


def worse(one: Target, other: Target) -> Target:
    """The stricter of both in every respect; what kind of thing it is, `other` says."""
    classes = [found for found in (one.class_of, other.class_of) if found is not None]
    return Target(
        env=max((one.env, other.env), key=_ENVS.index),
        sensitivity=max((one.sensitivity, other.sensitivity), key=list(Sensitivity).index),
        egress=max((one.egress, other.egress), key=list(Egress).index),
        workspace=one.workspace and other.workspace,
        cluster_scoped=other.cluster_scoped,
        names=other.names,
        class_of=max(classes, key=lambda found: (RANK[found.prod], RANK[found.nonprod]), default=None),
        note=other.note,
    )


def milder(one: Target, other: Target) -> bool:
    """True when `one` is less strict than `other` in some respect."""
    both = worse(one, other)
    return (both.env, both.sensitivity, both.egress, both.workspace, both.class_of) != (
        one.env,
        one.sensitivity,
        one.egress,
        one.workspace,
        one.class_of,
    )


def _both(base: Iterable[str], own: Iterable[str]) -> list[str]:
    return sorted(set(base) & set(own))


def _names(part: Part) -> list[str]:
    return [name for names in part.programs for name in names.split(", ")]


def _tools(part: Part) -> list[str]:
    return [name for tool in part.tools for name in tool.registered]


def _rule_faults(rule: RuleSpec, known: Set[str], rules: Mapping[tuple[str, ...], Sequence[Rule]]) -> list[str]:
    """An own rule for a command of the base must be at least as strict as each rule that it takes the place of."""
    faults: list[str] = []
    for command in rule.commands:
        path = tuple(command.split())
        if not path or path[0] not in known:
            continue
        replaced = [other for other in rules.get(path, ()) if rule.bare is None or other.bare in {None, rule.bare}]
        classes = [other.class_of for other in replaced]
        if not any(other.bare in {None, rule.bare} and not other.with_ | other.without for other in replaced):
            classes.append(_NO_RULE)  # what no rule of the base decides is unknown to it
        if any(_milder(class_of(rule.class_), other) for other in classes):
            faults.append(f"rule {rule.id} makes '{command}' milder than the base does")
        if rule.standing and not (replaced and all(other.standing for other in replaced)):
            faults.append(f"rule {rule.id} lets a standing plan cover '{command}', which the base does not")
    return faults


def _milder(one: ClassOf, other: ClassOf) -> bool:
    return any(RANK[one.at(env)] < RANK[other.at(env)] for env in Env)


def _profile(name: str, base: ProfileSpec | None, own: ProfileSpec) -> tuple[ProfileSpec, list[str]]:
    if base is None:
        return own, []
    faults = [
        f"profile {name} lets {row} {outcome}, below the base's {base.outcomes[row]}"
        for row, outcome in own.outcomes.items()
        if row in base.outcomes and _order(outcome) < _order(base.outcomes[row])
    ]
    if own.standing is not None and base.standing is None:
        faults.append(f"profile {name} has a standing plan, which the base's has not")
    update = {"outcomes": {**base.outcomes, **own.outcomes}, "standing": own.standing or base.standing}
    return base.model_copy(update=update), faults


def _order(outcome: str) -> int:
    """Place in the order of strictness; what is no outcome is the loader's to report."""
    order: Sequence[str] = [each.value for each in OUTCOME_ORDER]
    return order.index(outcome) if outcome in order else len(order)
