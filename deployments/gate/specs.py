"""What a bundle says, as parsed from YAML: programs and their arguments, targets, rules, tools, profiles.

Everything that a command may contain is listed; what is not listed is unknown, and unknown is held. A flag is one line:
`-n, --namespace=namespace @effect`: its names, the role of its value (`[=role]` when the value is optional and must be
attached), and what it does to the class, if anything.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.gate.tables import Base, Egress, Env, Outcome, Sensitivity, Standing
from deployments.ports import GateProfile, Risk

_FLAG_NAME = re.compile(r"--?[A-Za-z0-9][A-Za-z0-9_.-]*|-#|-|[!(),]|-[?@]")
_ROLE = r"[a-z][a-z0-9-]*"
_FLAG_VALUE = re.compile(rf"(?P<name>[^=\[]+?)(?:(?P<open>\[)?=(?P<role>{_ROLE})\]?)?")
Class = Annotated[str, Field(pattern=r"^[A-Z0-9]+(\|[A-Z0-9]+)?$")]


class Strict(BaseModel):
    """Frozen, without coercion, refusing fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TargetSpec(Strict):
    """One registered target. A field that is left out has no say (`env`), or is the harmless value (the others)."""

    match: tuple[str, ...] = Field(min_length=1)
    env: Literal["nonprod", "prod"] | None = None
    sensitivity: Literal["normal", "sensitive"] = "normal"
    egress: Literal["none", "listed", "other"] = "none"
    workspace: bool = False
    cluster_scoped: bool = False
    names: str | None = None
    class_: Class | None = Field(default=None, alias="class")


class EffectSpec(Strict):
    """What a flag does beyond naming a value."""

    class_: Class | None = Field(default=None, alias="class")
    env: Literal["nonprod", "prod"] | None = None
    sensitivity: Literal["normal", "sensitive"] = "normal"
    egress: Literal["none", "listed", "other"] = "none"


class NodeSpec(Strict):
    """A program or one of its subcommands.

    `flags` are accepted here, `inherited` here and in every subcommand. `args` are the roles of the positional words;
    a trailing `*` repeats the last one. `targets` are the kinds whose default target applies when no word names one.
    `any_words` says that no word whatsoever makes this command dangerous, so that words that are only known when it
    runs are acceptable. `requires` lists flags one of which must be present. With one of `drops_first` the first role
    of `args` is not there: `grep -e PATTERN FILE`.

    `style: words` is for `echo`, to which a word with a dash that is no flag is a word like any other.

    `needs` is as `requires`, but the flag may stand anywhere; with fewer positional words than `least` the program is
    taken to read its commands from somewhere else.

    For pipes into `xargs`: with one of the flags `lists` (`*`: always) and none of `lists_not` the program prints names
    of files below its operands, or below `.`; with no other flags than `passes`, and nothing but its text operands, it
    prints some of the lines it reads.
    """

    flags: tuple[str, ...] = ()
    inherited: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    sub: "dict[str, NodeSpec]" = {}
    targets: tuple[str, ...] = ()
    style: Literal["gnu", "single", "words"] = "gnu"
    any_words: bool = False
    appends: bool = False
    requires: tuple[str, ...] = ()
    drops_first: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    least: int = 0
    lists: tuple[str, ...] = ()
    lists_not: tuple[str, ...] = ()
    passes: tuple[str, ...] | None = None


class RuleSpec(Strict):
    """What a command is worth. `bare` narrows the rule to calls with (False) or without (True) positional words.

    `standing` marks work inside the workspace, which a profile with a standing rollback plan covers. `match` lists
    commands that this rule must decide, at the class it names; `not_match` commands that must end above it.
    """

    id: str = Field(pattern=r"^[a-z0-9]+(\.[a-z0-9_-]+)+$")
    commands: tuple[str, ...] = Field(min_length=1)
    class_: Class = Field(alias="class")
    reason: str = Field(min_length=3)
    bare: bool | None = None
    standing: bool = False
    match: tuple[str, ...] = Field(min_length=1)
    not_match: tuple[str, ...] = ()


class ShellTool(Strict):
    """A tool that runs a command: `command` names the argument that holds it (a string, or a list of words)."""

    adapter: Literal["shell"]
    names: tuple[str, ...] = Field(min_length=1)
    command: tuple[str, ...] = Field(min_length=1)
    workdir: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


class FieldsTool(Strict):
    """A tool whose arguments are plain fields; `fields` gives the role of each, `file` being a path."""

    adapter: Literal["fields"]
    names: tuple[str, ...] = Field(min_length=1)
    fields: dict[str, str]
    class_: Class = Field(alias="class")
    reason: str
    standing: bool = False


class PatchTool(Strict):
    """A tool that takes a patch in the `*** Begin Patch` form; the files it names are its targets."""

    adapter: Literal["patch"]
    names: tuple[str, ...] = Field(min_length=1)
    patch: tuple[str, ...] = Field(min_length=1)
    class_: Class = Field(alias="class")
    reason: str


ToolSpec = Annotated[ShellTool | FieldsTool | PatchTool, Field(discriminator="adapter")]


class StandingPlan(Strict):
    """A rollback plan and change id that cover a profile's workspace work; recorded on every use."""

    change_id: str = Field(min_length=3)
    steps: tuple[str, ...] = Field(min_length=1)
    verify: str = Field(min_length=3)


class ProfileSpec(Strict):
    """A gate profile: its row of table B and, perhaps, its standing plan."""

    outcomes: dict[Literal["R0", "R1_covered", "R1", "R2", "R3", "FORBIDDEN"], str]
    standing: StandingPlan | None = None


class BundleFile(Strict):
    """A whole bundle. `include` names files beside it whose contents are added."""

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    include: tuple[str, ...] = ()
    table: dict[str, dict[Literal["nonprod", "prod"], tuple[str, ...]]]
    profiles: dict[Literal["observe", "coding", "ops"], ProfileSpec]
    effects: dict[str, EffectSpec]
    words: dict[str, str] = {}
    environment: tuple[str, ...] = ()
    program_directories: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()
    targets: dict[str, tuple[TargetSpec, ...]]
    tools: tuple[ToolSpec, ...]
    programs: dict[str, NodeSpec] = {}
    rules: tuple[RuleSpec, ...] = ()

    @model_validator(mode="after")
    def _registered_once(self) -> Self:
        names = [name for tool in self.tools for name in tool.names]
        if len(set(names)) != len(names):
            raise ValueError("a tool name is registered twice")
        return self


class ProgramsFile(Strict):
    """A part of a bundle: programs and their rules, and the words and kinds of targets that only they use."""

    words: dict[str, str] = {}
    targets: dict[str, tuple[TargetSpec, ...]] = {}
    programs: dict[str, NodeSpec]
    rules: tuple[RuleSpec, ...] = ()


class BundleError(Exception):
    """The bundle may not be used; the text lists why."""


@dataclass(frozen=True, slots=True)
class ClassOf:
    """A class that may differ between non-production and production."""

    nonprod: Base
    prod: Base

    def at(self, env: Env) -> Base:
        """The base class there."""
        return self.prod if env is Env.PROD else self.nonprod


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag as compiled. `value` says whether one follows."""

    name: str
    value: Literal["none", "required", "optional"] = "none"
    role: str = "text"
    effects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A compiled `NodeSpec`: flags by name, those of its ancestors included."""

    path: tuple[str, ...]
    flags: dict[str, Flag]
    inherited: dict[str, Flag]
    args: tuple[str, ...]
    repeats: bool
    sub: "dict[str, Node]"
    targets: tuple[str, ...]
    single: bool
    any_words: bool
    literal: bool
    appends: bool
    requires: frozenset[str]
    drops_first: frozenset[str]
    needs: frozenset[str]
    least: int
    lists: frozenset[str]
    lists_not: frozenset[str]
    passes: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule."""

    id: str
    class_of: ClassOf
    reason: str
    bare: bool | None
    standing: bool


@dataclass(frozen=True, slots=True)
class Target:
    """What is known of one thing that a command touches."""

    env: Env | None = None
    sensitivity: Sensitivity = Sensitivity.NORMAL
    egress: Egress = Egress.NONE
    workspace: bool = False
    cluster_scoped: bool = False
    names: str | None = None
    class_of: ClassOf | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """A compiled `EffectSpec`."""

    class_of: ClassOf | None = None
    env: Env | None = None
    sensitivity: Sensitivity = Sensitivity.NORMAL
    egress: Egress = Egress.NONE


@dataclass(frozen=True, slots=True)
class Parts:
    """The compiled halves of a bundle that the judge looks things up in."""

    programs: dict[str, Node]
    rules: dict[tuple[str, ...], tuple[Rule, ...]]
    effects: dict[str, Effect]
    patterns: dict[str, re.Pattern[str]] = field(default_factory=dict[str, re.Pattern[str]])


def class_of(text: str) -> ClassOf:
    """`R2`, or `R2|R3` for non-production and production; the second may not be the lower one."""
    try:
        found = [Base(part) for part in text.split("|")]
    except ValueError:
        raise BundleError(f"'{text}' is not a class") from None
    result = ClassOf(found[0], found[-1])
    order = (Base.R0, Base.R1, Base.R2, Base.UNKNOWN, Base.OPAQUE, Base.R3, Base.FORBIDDEN)
    if order.index(result.prod) < order.index(result.nonprod):
        raise BundleError(f"'{text}' is milder in production")
    return result


@lru_cache(maxsize=32_768)  # the same lines come again and again: a bundle has hundreds of thousands of flags
def compile_flag(text: str) -> tuple[Flag, ...]:
    """One flag per name of a line such as `-n, --lines=number @effect`."""
    declared, *effects = text.split(" @")
    names = declared.split(", ")
    last = _FLAG_VALUE.fullmatch(names[-1])
    if last is None:
        raise BundleError(f"the flag '{text}' is not readable")
    names[-1] = last["name"]
    for name in names:
        if not _FLAG_NAME.fullmatch(name):
            raise BundleError(f"the flag '{text}' has no valid name")
    if last["role"] is None:
        value, role = "none", "text"
    else:
        value, role = ("optional" if last["open"] else "required"), last["role"]
    return tuple(Flag(name, value, role, tuple(effects)) for name in names)


def compile_node(path: tuple[str, ...], spec: NodeSpec, above: Node | None = None) -> Node:
    """The node with its subcommands, inherited flags resolved."""
    inherited = dict(above.inherited) if above else {}
    for line in spec.inherited:
        inherited.update({flag.name: flag for flag in compile_flag(line)})
    flags = dict(inherited)
    for line in spec.flags:
        flags.update({flag.name: flag for flag in compile_flag(line)})
    repeats = bool(spec.args) and spec.args[-1].endswith("*")
    node = Node(
        path=path,
        flags=flags,
        inherited=inherited,
        args=tuple(role.removesuffix("*") for role in spec.args),
        repeats=repeats,
        sub={},
        targets=spec.targets or (above.targets if above else ()),
        single=spec.style == "single" or (above.single if above else False),
        any_words=spec.any_words,
        literal=spec.style == "words",
        appends=spec.appends,
        requires=frozenset(spec.requires),
        drops_first=frozenset(spec.drops_first),
        needs=frozenset(spec.needs),
        least=spec.least,
        lists=frozenset(spec.lists),
        lists_not=frozenset(spec.lists_not),
        passes=None if spec.passes is None else frozenset(spec.passes),
    )
    if any(role.endswith("*") for role in spec.args[:-1] if role != "assignment*"):
        raise BundleError(f"'{' '.join(path)}' repeats an argument that is not its last")
    for names, child in spec.sub.items():
        for name in names.split(", "):
            node.sub[name] = compile_node((*path, name), child, node)
    return node


def compile_target(spec: TargetSpec) -> Target:
    """A registered target as the judge uses it."""
    return Target(
        env=Env(spec.env) if spec.env else None,
        sensitivity=Sensitivity(spec.sensitivity),
        egress=Egress(spec.egress),
        workspace=spec.workspace,
        cluster_scoped=spec.cluster_scoped,
        names=spec.names,
        class_of=class_of(spec.class_) if spec.class_ else None,
    )


def compile_effect(spec: EffectSpec) -> Effect:
    """An effect as the judge uses it."""
    return Effect(
        class_of=class_of(spec.class_) if spec.class_ else None,
        env=Env(spec.env) if spec.env else None,
        sensitivity=Sensitivity(spec.sensitivity),
        egress=Egress(spec.egress),
    )


def table_a(
    rows: dict[str, dict[Literal["nonprod", "prod"], tuple[str, ...]]],
) -> dict[tuple[Base, Env, Sensitivity, Egress], Risk]:
    """Table A from its rows; cells that are missing stay missing, for the loader to report."""
    columns = [(sensitivity, egress) for sensitivity in Sensitivity for egress in Egress]
    try:
        return {
            (Base(base), Env(env), *column): Risk(cell)
            for base, row in rows.items()
            for env, cells in row.items()
            for column, cell in zip(columns, cells, strict=False)
        }
    except ValueError as error:
        raise BundleError(f"table A: {error}") from error


def table_b(
    profiles: dict[Literal["observe", "coding", "ops"], ProfileSpec],
) -> dict[tuple[GateProfile, Standing], Outcome]:
    """Table B from the profiles."""
    try:
        return {
            (GateProfile(name), Standing(row)): Outcome(outcome)
            for name, profile in profiles.items()
            for row, outcome in profile.outcomes.items()
        }
    except ValueError as error:
        raise BundleError(f"table B: {error}") from error
