"""A policy: a bundle as read from its files, compiled for the judge, and checked in itself.

Refused here: tables that are not total, monotone and at least as strict as the shipped ones; a rule that names a
command no program has, or that can never be reached; a role, an effect or a target kind that nothing defines; and what
no bundle may say at all (`floors.py`). The examples are run by `bundle.load_bundle`, the door that everybody uses.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase, translate
from pathlib import Path
from typing import Any, TypeVar, cast

import rfc8785

from deployments.gate import globs, scripts, sql, tool_specs
from deployments.gate.circumstances import RaiseSpec, raise_faults
from deployments.gate.derive import Derived, Included, extended, milder, weighty, worse
from deployments.gate.floors import floor_faults
from deployments.gate.grammar import BundleError, class_of
from deployments.gate.source import parse, read_source
from deployments.gate.specs import (
    BundleFile,
    Effect,
    Node,
    NodeSpec,
    Parts,
    RuleSpec,
    StandingPlan,
    Target,
    compile_effect,
    compile_node,
    compile_rules,
    compile_target,
    table_a,
    table_b,
)
from deployments.gate.tables import Egress, Env, Sensitivity, TableA, TableB, faults_a, faults_b
from deployments.gate.tool_specs import ToolSpec
from deployments.ports import GateProfile, Risk

ROOT = Path(__file__).resolve().parents[2]
BUNDLE_DIRECTORY = ROOT / "configs" / "policies"
DEFAULT_TARGET = "@default"
WRITTEN = "written"  # names that are not registered as this are judged as `path` alone
MAX_BASES = 4
MAX_FAULTS = 20

# Roles that are read by code; every other role is a word pattern or a kind of target of the bundle.
BUILT_IN_ROLES = frozenset({
    "text", "file", "file-glob", "file-regex", "name-regex", "name-extension", "operand",
    "directory", "written", "url", "command", "script", "exec", "shell",
    "assignment", "k8s-objects", "placeholder",
    "python-program", "yq-program", *sql.ROLES, *scripts.READERS, *scripts.SHOWING,
})  # fmt: skip
BUILT_IN_CLASSES = frozenset({"R1", "R2", "R3", "UNKNOWN", "OPAQUE", "FORBIDDEN"})
# Names that nobody registers by name: what an entry says of one of them it says of everything.
_ANYTHING = ("zq7", "zq7-zq7.zq7", "zq7/zq7", "/zq7/zq7", "./zq7", "~/zq7", "203.0.113.77")
_File = TypeVar("_File", bound=Included | BundleFile)


@dataclass(frozen=True, slots=True)
class Raising:
    """Names of one kind that a tenant's settings take more seriously than the bundle, and what they are at least."""

    match: tuple[str, ...]
    matcher: re.Pattern[str]
    target: Target


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle. `policy_digest` is the SHA-256 hex of its RFC 8785 form, included files and all.

    `spec` is what it was compiled from, `base` the bundle that it extends; `own_rules` are those of its rules that the
    base does not have. `raising` is what one tenant's settings add, by kind, and `tenants` the bundle of each tenant
    that adds something (`tenant_names.py`).
    """

    name: str
    policy_digest: str
    table_a: TableA
    table_b: TableB
    standing: Mapping[GateProfile, StandingPlan]
    parts: Parts
    targets: Mapping[str, tuple[tuple[tuple[str, ...], Target], ...]]
    tools: Mapping[str, ToolSpec]
    raises: tuple[RaiseSpec, ...]
    environment: tuple[str, ...]
    program_directories: tuple[str, ...]
    sinks: frozenset[str]
    rule_specs: tuple[RuleSpec, ...]
    approvers: Mapping[Risk, tuple[str, ...]]
    spec: BundleFile
    own_rules: tuple[RuleSpec, ...]
    own_tools: tuple[ToolSpec, ...]
    matchers: Mapping[str, tuple[tuple[re.Pattern[str], Target], ...]]
    base: "Bundle | None" = None
    raising: Mapping[str, tuple[Raising, ...]] = field(default_factory=dict[str, tuple[Raising, ...]])
    tenants: Mapping[str, "Bundle"] = field(default_factory=dict[str, "Bundle"])

    def of(self, tenant: str | None) -> "Bundle":
        """The bundle as it is for a tenant: itself, with what the tenant's settings make stricter."""
        return self.tenants.get(tenant or "", self)

    def target(self, kind: str, text: str) -> Target | None:
        """The first registered target of `kind` that `text` matches; None when it is not registered."""
        found = next((target for matcher, target in self.matchers.get(kind, ()) if matcher.match(text)), None)
        if self.base is not None:
            found = self._floored(found, self.base.target(kind, text))
        for raised in self.raised(kind, text):
            found = raised if found is None and kind == WRITTEN else worse(raised, found or unregistered(kind))
        return found

    def raised(self, kind: str, text: str | None) -> list[Target]:
        """What a tenant's settings say of a name; of one that nobody knows (None), all that they say of its kind."""
        return [
            each.target for each in self.raising.get(kind, ()) if text is None or each.matcher.match(text) is not None
        ]

    def entries(self, kind: str) -> tuple[tuple[tuple[str, ...], Target], ...]:
        """Every registered entry of a kind, and what a tenant's settings add."""
        return (*self.targets.get(kind, ()), *((each.match, each.target) for each in self.raising.get(kind, ())))

    def targets_of_glob(self, kind: str, text: str) -> list[Target]:
        """Every registered target that a file name covered by the glob `text` is likely to have, the sure one last."""
        found = [] if self.base is None else [each for each in self.base.targets_of_glob(kind, text) if weighty(each)]
        for each in self.raising.get(kind, ()):
            if any(fnmatchcase(text, pattern) or globs.may_be(text, pattern) for pattern in each.match):
                found.append(each.target)
        for patterns, target in self.targets.get(kind, ()):
            if any(fnmatchcase(text, pattern) for pattern in patterns):
                return [*found, target]
            if any(globs.aims_at(text, pattern) for pattern in patterns):
                found.append(target)
        return found

    @staticmethod
    def _floored(found: Target | None, base: Target | None) -> Target | None:
        """What the base marks as sensitive, forbidden or outside stays so."""
        if found is None or base is None or base is found or not weighty(base):
            return found
        return worse(found, base)


def unregistered(kind: str) -> Target:
    """What a name is that nothing registers: production and sensitive, and beyond the perimeter if it is a host."""
    return Target(Env.PROD, Sensitivity.SENSITIVE, Egress.OTHER if kind.endswith("host") else Egress.NONE)


def read_policy(path: Path, above: Sequence[Path] = ()) -> Bundle:
    """The bundle in the file `path` and the files it includes, or `BundleError` with the faults that were found.

    `above` are the files that extend it.
    """
    here = path.resolve()
    if here in above:
        raise BundleError(f"{path.name}: bundles extend each other: {' -> '.join(each.stem for each in above)}")
    if len(above) > MAX_BASES:
        raise BundleError(f"{path.name}: more than {MAX_BASES} bundles extend one another")
    loaded = read_source(path)
    if "extends" not in loaded:
        whole = _joined(parse(loaded, BundleFile, path.name), path)
        return _compiled(whole, _digest(whole.model_dump(mode="json", by_alias=True)))
    own = _joined(parse(loaded, Derived, path.name), path)
    base = read_policy(_base_path(path, own.extends), (*above, here))
    whole, faults = extended(base.spec, base.parts.rules, own)
    _refuse(own.name, faults)
    said = {"base": base.policy_digest, "own": own.model_dump(mode="json", by_alias=True)}
    return _compiled(whole, _digest(said), base, own)


def _base_path(path: Path, name: str) -> Path:
    beside = path.parent / f"{name}.yaml"
    return beside if beside.is_file() else BUNDLE_DIRECTORY / f"{name}.yaml"


def _digest(said: Any) -> str:
    return hashlib.sha256(rfc8785.dumps(said)).hexdigest()


def _refuse(name: str, faults: Sequence[str]) -> None:
    if faults:
        more = f"; and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        raise BundleError(f"bundle '{name}': {'; '.join(faults[:MAX_FAULTS])}{more}")


def _joined(main: _File, path: Path) -> _File:
    """The bundle with the contents of all files that it includes, in order; nothing may be said twice."""
    found: dict[str, Any] = {name: getattr(main, name) for name in Included.model_fields if name != "include"}
    if len(set(main.include)) != len(main.include):
        raise BundleError(f"{path.name}: a file is included twice, so all in it would be specified twice")
    for name in main.include:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BundleError(f"{path.name}: an included file must lie below the bundle: '{name}'")
        part = parse(read_source(path.parent / name), Included, name)
        if part.include:
            raise BundleError(f"{name}: an included file may not include others")
        for said, before in found.items():
            added = getattr(part, said)
            if not isinstance(before, dict):
                found[said] = (*before, *added)
                continue
            twice = sorted(cast("dict[str, object]", before).keys() & cast("dict[str, object]", added).keys())
            if twice:
                raise BundleError(f"{name}: {said} specified twice: {', '.join(twice)}")
            found[said] = {**before, **added}
    tools = [name for tool in found["tools"] for name in tool.registered]
    again = sorted({name for name in tools if tools.count(name) > 1})
    if again:
        raise BundleError(f"{path.name}: registered twice: {', '.join(again)}")
    return main.model_copy(update={**found, "include": ()})


def _compiled(spec: BundleFile, digest: str, base: Bundle | None = None, own: Derived | None = None) -> Bundle:
    faults = _shape_faults(spec)
    _refuse(spec.name, faults)
    a, b = table_a(spec.table), table_b(spec.profiles)
    faults += faults_a(a) + faults_b(b)
    programs = {} if base is None else dict(base.parts.programs)
    fresh = {
        name: compile_node((name,), node, sets=spec.flag_sets)
        for names, node in (spec if own is None else own).programs.items()
        for name in names.split(", ")
    }
    programs |= fresh
    effects = {name: compile_effect(effect) for name, effect in spec.effects.items()}
    effects |= {name: Effect(class_of(name)) for name in BUILT_IN_CLASSES}
    targets = {
        kind: tuple((entry.match, compile_target(entry)) for entry in entries) for kind, entries in spec.targets.items()
    }
    rules, rule_faults = compile_rules(spec.rules, programs)
    replaced = () if base is None else tuple(f"rule {rule.id} can never decide " for rule in base.rule_specs)
    faults += [fault for fault in rule_faults if not fault.startswith(replaced)]
    roles = BUILT_IN_ROLES | spec.words.keys() | targets.keys()
    for node in fresh.values():
        faults += _node_faults(node, roles, effects, targets.keys())
    faults += tool_specs.faults(spec.tools, roles) + raise_faults(spec.raises)
    bundle = Bundle(
        name=spec.name,
        policy_digest=digest,
        table_a=a,
        table_b=b,
        standing={GateProfile(name): plan.standing for name, plan in spec.profiles.items() if plan.standing},
        parts=Parts(programs, rules, effects, _patterns(spec.words)),
        targets=targets,
        tools=tool_specs.by_name(spec.tools),
        raises=spec.raises,
        environment=spec.environment,
        program_directories=spec.program_directories,
        sinks=frozenset(spec.sinks),
        rule_specs=spec.rules,
        approvers={Risk(risk): roles for risk, roles in spec.approvers.items()},
        spec=spec,
        own_rules=spec.rules if own is None else own.rules,
        own_tools=spec.tools if own is None else own.tools,
        matchers={kind: tuple(map(_matcher, entries)) for kind, entries in targets.items()},
        base=base,
    )
    faults += floor_faults(spec, bundle.target)
    if base is not None and own is not None:
        faults += _broad_faults(own, base)
    _refuse(spec.name, faults)
    return bundle


def _matcher(entry: tuple[tuple[str, ...], Target]) -> tuple[re.Pattern[str], Target]:
    """One expression for all patterns of an entry: `fnmatch` forgets what it compiled long before a bundle ends."""
    patterns, target = entry
    return re.compile("|".join(f"(?:{translate(pattern)})" for pattern in patterns)), target


def _patterns(words: Mapping[str, str]) -> dict[str, re.Pattern[str]]:
    found: dict[str, re.Pattern[str]] = {}
    for name, pattern in words.items():
        try:
            found[name] = re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise BundleError(f"the word pattern '{name}' is not a regular expression: {error}") from error
    return found


def _shape_faults(spec: BundleFile) -> list[str]:
    """What the parts of a bundle say that cannot be compiled, or would be read otherwise than it is written."""
    faults = [
        f"table A has {len(cells)} cells for {row}/{env}, not 6"
        for row, envs in spec.table.items()
        for env, cells in envs.items()
        if len(cells) > len(Sensitivity) * len(Egress)
    ]
    faults += _name_faults("", spec.programs)
    kinds = spec.targets.keys() & (BUILT_IN_ROLES - {"written"} | spec.words.keys())
    faults += [f"the kind of targets '{kind}' is a role already, so its entries would never be read" for kind in kinds]
    return faults


def _name_faults(where: str, nodes: Mapping[str, NodeSpec]) -> list[str]:
    """Names of programs and subcommands that are given twice, or that no word can be."""
    names = [name for key in nodes for name in key.split(", ")]
    faults = [
        f"'{where}{name}' is specified twice" for name in sorted({each for each in names if names.count(each) > 1})
    ]
    faults += [f"'{where}{name}' is no name" for name in names if not name or name.strip() != name]
    for key, node in nodes.items():
        faults += _name_faults(f"{where}{key.split(', ', 1)[0]} ", node.sub)
    return faults


def _broad_faults(own: Derived, base: Bundle) -> list[str]:
    """Own entries that speak of everything, and more mildly than the base does."""
    faults: list[str] = []
    for kind, entries in own.targets.items():
        if kind not in base.targets:
            continue
        for entry in entries:
            target = compile_target(entry)
            wide = [pattern for pattern in entry.match for text in _ANYTHING if fnmatchcase(text, pattern)
                    and milder(target, base.target(kind, text) or unregistered(kind))]  # fmt: skip
            faults += [f"the {kind} '{pattern}' makes everything milder than the base does" for pattern in wide[:1]]
    return faults


def _node_faults(node: Node, roles: Set[str], effects: Mapping[str, Effect], kinds: Set[str]) -> list[str]:
    where = " ".join(node.path)
    used = [*node.args, *(role for flag in node.flags.values() for role in (flag.role, flag.second) if role)]
    faults = [f"'{where}' uses the role '{role}', which nothing defines" for role in used if role not in roles]
    faults += [
        f"'{where}' uses the effect '{effect}', which nothing defines"
        for flag in node.flags.values()
        for effect in flag.effects
        if effect not in effects
    ]
    named = (
        node.requires
        | node.needs
        | node.drops_first
        | node.lists_not
        | ((node.lists | node.here) - {"*"})
        | (node.passes or frozenset())
        | {name for flag in node.flags.values() for name in flag.waived_by}
    )
    faults += [f"'{where}' names the flag {flag}, which it lacks" for flag in named - node.flags.keys()]
    faults += [f"'{where}' has targets of an unknown kind '{kind}'" for kind in node.targets if kind not in kinds]
    for child in {id(child): child for child in node.sub.values()}.values():
        faults += _node_faults(child, roles, effects, kinds)
    return faults
