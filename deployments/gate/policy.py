"""A policy: a bundle as read from its files, compiled for the judge, and checked in itself.

Refused here: tables that are not total, monotone and at least as strict as the shipped ones; a rule that names a
command no program has, or that can never be reached; a role, an effect or a target kind that nothing defines. The
examples of the rules are run by `bundle.load_bundle`, the door that everybody uses.
"""

import hashlib
import re
from collections.abc import Hashable, Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import rfc8785
import yaml
from pydantic import ValidationError

from deployments.gate import globs, scripts, sql
from deployments.gate.specs import (
    BundleError,
    BundleFile,
    Effect,
    Node,
    Parts,
    ProgramsFile,
    Rule,
    RuleSpec,
    StandingPlan,
    Strict,
    Target,
    ToolSpec,
    class_of,
    compile_effect,
    compile_node,
    compile_target,
    table_a,
    table_b,
)
from deployments.gate.tables import TableA, TableB, faults_a, faults_b
from deployments.ports import GateProfile

DEFAULT_TARGET = "@default"

# Roles that are read by code; every other role is a word pattern or a kind of target of the bundle.
BUILT_IN_ROLES = frozenset({
    "text", "file", "directory", "url", "command", "exec", "shell", "assignment", "k8s-objects", "placeholder",
    *sql.ROLES, *scripts.READERS,
})  # fmt: skip
BUILT_IN_CLASSES = frozenset({"R1", "R2", "R3", "UNKNOWN", "OPAQUE", "FORBIDDEN"})
_Model = TypeVar("_Model", bound=Strict)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle. `policy_digest` is the SHA-256 hex of its RFC 8785 form, included files and all."""

    name: str
    policy_digest: str
    table_a: TableA
    table_b: TableB
    standing: Mapping[GateProfile, StandingPlan]
    parts: Parts
    targets: Mapping[str, tuple[tuple[tuple[str, ...], Target], ...]]
    tools: Mapping[str, ToolSpec]
    environment: tuple[str, ...]
    program_directories: tuple[str, ...]
    sinks: frozenset[str]
    rule_specs: tuple[RuleSpec, ...]

    def target(self, kind: str, text: str) -> Target | None:
        """The first registered target of `kind` that `text` matches; None when it is not registered."""
        for patterns, target in self.targets.get(kind, ()):
            if any(fnmatchcase(text, pattern) for pattern in patterns):
                return target
        return None

    def targets_of_glob(self, kind: str, text: str) -> list[Target]:
        """Every registered target that a file name covered by the glob `text` is likely to have, the sure one last."""
        found: list[Target] = []
        for patterns, target in self.targets.get(kind, ()):
            if any(fnmatchcase(text, pattern) for pattern in patterns):
                return [*found, target]
            if any(globs.aims_at(text, pattern) for pattern in patterns):
                found.append(target)
        return found


def read_policy(path: Path) -> Bundle:
    """The bundle in the file `path` and the files it includes, or `BundleError` with the faults that were found."""
    main = _read(path, BundleFile)
    programs, words, targets = dict(main.programs), dict(main.words), dict(main.targets)
    rules = list(main.rules)
    for name in main.include:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BundleError(f"{path.name}: an included file must lie below the bundle: '{name}'")
        part = _read(path.parent / name, ProgramsFile)
        twice = (programs.keys() & part.programs.keys()) | (words.keys() & part.words.keys())
        twice |= targets.keys() & part.targets.keys()
        if twice:
            raise BundleError(f"{name}: specified twice: {', '.join(sorted(twice))}")
        programs.update(part.programs)
        words.update(part.words)
        targets.update(part.targets)
        rules.extend(part.rules)
    merged = {"programs": programs, "words": words, "targets": targets, "rules": tuple(rules), "include": ()}
    whole = main.model_copy(update=merged)
    digest = hashlib.sha256(rfc8785.dumps(whole.model_dump(mode="json", by_alias=True))).hexdigest()
    return _compiled(whole, digest)


# libyaml's parser where PyYAML was built with it: the bundle is large, and every replica reads it at its start.
_SafeLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _read(path: Path, model: type[_Model]) -> _Model:
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506 - a safe loader
        # JSON mode: YAML has lists where the model has tuples; strictness about scalars stays.
        return model.model_validate_json(rfc8785.dumps(loaded))
    except OSError:
        raise BundleError(f"there is no bundle file {path}") from None
    except (yaml.YAMLError, rfc8785.CanonicalizationError) as error:
        raise BundleError(f"{path.name} is not readable YAML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:10])
        raise BundleError(f"{path.name}: {faults}") from error


class _StrictLoader(_SafeLoader):
    """Safe YAML in which a key given twice is an error, not a quiet overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        if len(set(keys)) != len(keys):
            raise yaml.constructor.ConstructorError(None, None, "a key is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _compiled(spec: BundleFile, digest: str) -> Bundle:
    a, b = table_a(spec.table), table_b(spec.profiles)
    faults = faults_a(a) + faults_b(b)
    programs = {
        name: compile_node((name,), node) for names, node in spec.programs.items() for name in names.split(", ")
    }
    effects = {name: compile_effect(effect) for name, effect in spec.effects.items()}
    effects |= {name: Effect(class_of(name)) for name in BUILT_IN_CLASSES}
    targets = {
        kind: tuple((entry.match, compile_target(entry)) for entry in entries) for kind, entries in spec.targets.items()
    }
    rules, rule_faults = _rules(spec.rules, programs)
    faults += rule_faults
    roles = BUILT_IN_ROLES | spec.words.keys() | targets.keys()
    for node in programs.values():
        faults += _node_faults(node, roles, effects, targets.keys())
    for tool in spec.tools:
        if tool.adapter == "fields":
            faults += [f"tool {tool.names[0]}: no role '{role}'" for role in tool.fields.values() if role not in roles]
    try:
        patterns = {name: re.compile(pattern) for name, pattern in spec.words.items()}
    except re.error as error:
        raise BundleError(f"a word pattern is not a regular expression: {error}") from error
    if faults:
        raise BundleError(f"bundle '{spec.name}': " + "; ".join(faults[:20]))
    return Bundle(
        name=spec.name,
        policy_digest=digest,
        table_a=a,
        table_b=b,
        standing={GateProfile(name): plan.standing for name, plan in spec.profiles.items() if plan.standing},
        parts=Parts(programs, rules, effects, patterns),
        targets=targets,
        tools={name: tool for tool in spec.tools for name in tool.names},
        environment=spec.environment,
        program_directories=spec.program_directories,
        sinks=frozenset(spec.sinks),
        rule_specs=spec.rules,
    )


def _rules(
    specs: tuple[RuleSpec, ...], programs: Mapping[str, Node]
) -> tuple[dict[tuple[str, ...], tuple[Rule, ...]], list[str]]:
    found: dict[tuple[str, ...], tuple[Rule, ...]] = {}
    faults: list[str] = []
    ids = [spec.id for spec in specs]
    faults += [f"rule {name} is given twice" for name in sorted({name for name in ids if ids.count(name) > 1})]
    for spec in specs:
        rule = Rule(spec.id, class_of(spec.class_), spec.reason, spec.bare, spec.standing)
        for command in spec.commands:
            path = tuple(command.split())
            if not _has(programs, path):
                faults.append(f"rule {spec.id} names '{command}', which no program specifies")
            earlier = found.get(path, ())
            if any(known.bare is None or known.bare == rule.bare for known in earlier):
                faults.append(f"rule {spec.id} can never decide '{command}': an earlier rule does")
            found[path] = (*earlier, rule)
    return found, faults


def _has(programs: Mapping[str, Node], path: tuple[str, ...]) -> bool:
    node = programs.get(path[0])
    for name in path[1:]:
        node = node.sub.get(name) if node else None
    return node is not None


def _node_faults(node: Node, roles: Set[str], effects: Mapping[str, Effect], kinds: Set[str]) -> list[str]:
    where = " ".join(node.path)
    used = [*node.args, *(flag.role for flag in node.flags.values())]
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
        | (node.lists - {"*"})
        | (node.passes or frozenset())
    )
    faults += [f"'{where}' names the flag {flag}, which it lacks" for flag in named - node.flags.keys()]
    faults += [f"'{where}' has targets of an unknown kind '{kind}'" for kind in node.targets if kind not in kinds]
    for child in {id(child): child for child in node.sub.values()}.values():
        faults += _node_faults(child, roles, effects, kinds)
    return faults
