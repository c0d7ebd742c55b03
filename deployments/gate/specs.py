"""What a bundle says, as parsed from YAML: programs and their arguments, targets, rules, tools, profiles.

Everything that a command may contain is listed; what is not listed is unknown, and unknown is held. A flag is one line:
`-n, --namespace=namespace @effect`: its names, the role of its value (`[=role]` when the value is optional and must be
attached), and what it does to the class, if anything. `-d=body @R2 !-G` does it only where `-G` is not given.
`--arg=name+text` takes two words, whatever they look like. A line `@kube-global` stands for the set of flags of that
name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Self

from pydantic import Field, model_validator

from deployments.gate.circumstances import RaiseSpec
from deployments.gate.grammar import BundleError, Class, ClassOf, Strict, class_of
from deployments.gate.tables import Base, Egress, Env, Outcome, Sensitivity, Standing
from deployments.gate.tool_specs import ToolSpec
from deployments.ports import GateProfile, Risk

_FLAG_NAME = re.compile(r"--?[A-Za-z0-9][A-Za-z0-9_.-]*|-#|-|[!(),]|-[?@]")
# The kinds of what a command may be said to print; `outputs.KINDS` says what they are.
PRINTED = frozenset(
    {
        "number",
        "hash",
        "name",
        "kube-name",
        "kube-object",
        "arn",
        "numbered",
        "hashed",
        "named",
        "stamp",
        "moment",
        "clock",
        "numbers",
        "cloud-id",
        "ref",
        "top",
    }
)
_ROLE = r"[a-z][a-z0-9-]*"
_FLAG_VALUE = re.compile(
    rf"(?P<name>[^=\[]+?)(?:(?P<open>\[)?=(?P<role>{_ROLE})(?:\+(?P<second>{_ROLE}))?(?(open)\]))?"
)


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


class PrintSpec(Strict):
    """What every line that a command prints is, for certain calls of it: `kind`, one of `outputs.KINDS`.

    The call must give one of the flags `with`, if there are any, and those of `values` with a value that fits the
    pattern there; besides these only flags of `only`, and no more operands than `most`, each of which fits `operand`.
    With one of the flags `single` (`*`: always) it prints one line at most. `words`: it is so of the words of a line,
    of which there may be several. `from`: that is so if what it reads from a pipe is of this kind.
    """

    kind: str
    with_: tuple[str, ...] = Field(default=(), alias="with")
    values: dict[str, str] = Field(default_factory=dict[str, str])
    only: tuple[str, ...] = ()
    most: int | None = None
    operand: str = r"[^\n]*"
    single: tuple[str, ...] = ()
    words: bool = False
    from_: str | None = Field(default=None, alias="from")


class NodeSpec(Strict):
    """A program or one of its subcommands.

    `flags` are accepted here, `inherited` here and in every subcommand. `args` are the roles of the positional words;
    a trailing `*` repeats the last one. `targets` are the kinds whose default target applies when no word names one.
    `any_words` says that no word whatsoever makes this command dangerous, so that words that are only known when it
    runs are acceptable; `any_names` that no name of a file does, other than one that was made to look like a flag, so
    that globs are. `requires` lists flags one of which must be present. With one of `drops_first` the first role
    of `args` is not there: `grep -e PATTERN FILE`. `rule` puts the command under the rule of that id.

    Roles that are read by code: `command` (the words from here on are a command), `script` (they are joined by blanks
    and given to a shell, as by `watch`), `written` (a path that is created or changed), `file`, `directory`, `url`,
    `file-glob` and `file-regex` (patterns that pick files to read), `name-regex` and `name-extension` (what names are
    listed: judged where what has them is read), `operand` (a file, unless the program would read its
    arguments from it: `@FILE`, `+COMMAND`).
    `operands_end_flags`: after the first positional word no word is a flag (`awk`, `printf`, bash's builtins).

    `style: words` is for `echo`, to which a word with a dash that is no flag is a word like any other.

    `needs` is as `requires`, but the flag may stand anywhere; with fewer positional words than `least` the program is
    taken to read its commands from somewhere else. `reads` is the role of what it reads instead, where that is known:
    the text of a here-document, or what `echo` prints into it.

    With one of the flags `here` (`*`: always, but for what reads a pipe) and no operand of its last role, the program
    reads what lies in the directory that it runs in: `grep -r PATTERN`, `rg PATTERN`.

    For pipes into `xargs`: with one of the flags `lists` (`*`: always) and none of `lists_not` the program prints names
    of files below its operands, or below `.`; with no other flags than `passes`, and nothing but its text operands, it
    prints some of the lines it reads. `bare_names`: names without the directory that they are in. `prints` says what
    its lines are; the first entry that fits a call decides.

    `dotted_names`: a name of a file with a suffix (`*.json`) is harmless to the program even if it begins with a dash.
    """

    flags: tuple[str, ...] = ()
    inherited: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    sub: "dict[str, NodeSpec]" = Field(default_factory=dict)
    targets: tuple[str, ...] = ()
    style: Literal["gnu", "single", "words"] = "gnu"
    any_words: bool = False
    any_names: bool = False
    appends: bool = False
    requires: tuple[str, ...] = ()
    drops_first: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    least: int = 0
    reads: Literal["sql-postgres", "sql-mysql", "sql-sqlite"] | None = None
    here: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    lists_not: tuple[str, ...] = ()
    passes: tuple[str, ...] | None = None
    bare_names: bool = False
    prints: tuple[PrintSpec, ...] = ()
    dotted_names: bool = False
    operands_end_flags: bool = False
    rule: str | None = None


class RuleSpec(Strict):
    """What a command is worth. `bare` narrows the rule to calls with (False) or without (True) positional words.

    `with` narrows it to calls with one of these flags, wherever they stand, `without` to calls with none: a flag counts
    for `with` only when it is given as it is, without a value, and for `without` in any form. The first rule that fits
    decides. `standing` marks work inside the workspace, which a profile with a standing rollback plan covers. `match`
    lists commands that this rule must decide, at the class it names; `not_match` commands that must end above it;
    `not_covered` commands that no standing plan may cover.
    """

    id: str = Field(pattern=r"^[a-z0-9]+(\.[a-z0-9_-]+)+$")
    commands: tuple[str, ...] = ()
    class_: Class = Field(alias="class")
    reason: str = Field(min_length=3)
    bare: bool | None = None
    with_: tuple[str, ...] = Field(default=(), alias="with")
    without: tuple[str, ...] = ()
    standing: bool = False
    match: tuple[str, ...] = Field(min_length=1)
    not_match: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()


class StandingPlan(Strict):
    """A rollback plan and change id that cover a profile's workspace work; recorded on every use."""

    change_id: str = Field(min_length=3)
    steps: tuple[str, ...] = Field(min_length=1)
    verify: str = Field(min_length=3)


class ProfileSpec(Strict):
    """A gate profile: its row of table B and, perhaps, its standing plan."""

    outcomes: dict[Literal["R0", "R1_covered", "R1", "R2", "R3", "FORBIDDEN"], str]
    standing: StandingPlan | None = None


class Part(Strict):
    """A file of a bundle. What two files both say is refused; lists of tools, rules and sinks are put together.

    `word_uses` says more of the patterns in `words`. `any-file`: the name of a file fits as soon as its directory does,
    whatever follows the slash. `query`: the `?` that begins the query of an address may be a wildcard of the shell.
    `read`: what fits is also the name of a file that is read. It speaks of words of the same file alone.
    """

    include: tuple[str, ...] = ()
    profiles: dict[Literal["observe", "coding", "ops"], ProfileSpec] = Field(
        default_factory=dict[Literal["observe", "coding", "ops"], ProfileSpec]
    )
    effects: dict[str, EffectSpec] = Field(default_factory=dict[str, EffectSpec])
    words: dict[str, str] = Field(default_factory=dict[str, str])
    word_uses: dict[str, Literal["any-file", "query", "read"]] = Field(
        default_factory=dict[str, Literal["any-file", "query", "read"]]
    )
    environment: tuple[str, ...] = ()
    program_directories: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()
    targets: dict[str, tuple[TargetSpec, ...]] = Field(default_factory=dict[str, tuple[TargetSpec, ...]])
    tools: tuple[ToolSpec, ...] = ()
    raises: tuple[RaiseSpec, ...] = ()
    flag_sets: dict[str, tuple[str, ...]] = Field(default_factory=dict[str, tuple[str, ...]])
    programs: dict[str, NodeSpec] = Field(default_factory=dict[str, NodeSpec])
    rules: tuple[RuleSpec, ...] = ()

    @model_validator(mode="after")
    def _registered_once(self) -> Self:
        names = [name for tool in self.tools for name in tool.registered]
        if len(set(names)) != len(names):
            raise ValueError("a tool name is registered twice")
        foreign = sorted(self.word_uses.keys() - self.words.keys())
        if foreign:  # a bundle that extends another could make its patterns milder
            raise ValueError(f"word_uses names what is no word of this file: {', '.join(foreign)}")
        return self


class BundleFile(Part):
    """The file that a bundle is loaded by. `include` names files beside it whose contents are added."""

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    table: dict[str, dict[Literal["nonprod", "prod"], tuple[str, ...]]]
    approvers: dict[Literal["R1", "R2", "R3"], tuple[str, ...]] = Field(
        default_factory=dict[Literal["R1", "R2", "R3"], tuple[str, ...]]
    )


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag as compiled. `value` says whether one follows, and `second` is the role of another one after that.

    Its effects are void with one of the flags `waived_by`.
    """

    name: str
    value: Literal["none", "required", "optional"] = "none"
    role: str = "text"
    effects: tuple[str, ...] = ()
    waived_by: frozenset[str] = frozenset()
    second: str | None = None


@dataclass(frozen=True, slots=True)
class Prints:
    """A compiled `PrintSpec`."""

    kind: str
    with_: frozenset[str]
    values: Mapping[str, re.Pattern[str]]
    only: frozenset[str]
    most: int | None
    operand: re.Pattern[str]
    single: frozenset[str]
    words: bool
    from_: str | None


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
    any_names: bool
    literal: bool
    appends: bool
    requires: frozenset[str]
    drops_first: frozenset[str]
    needs: frozenset[str]
    least: int
    reads: str | None
    here: frozenset[str]
    lists: frozenset[str]
    lists_not: frozenset[str]
    passes: frozenset[str] | None
    bare_names: bool
    prints: "tuple[Prints, ...]"
    dotted_names: bool
    operands_end_flags: bool
    rule: str | None


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule."""

    id: str
    class_of: ClassOf
    reason: str
    bare: bool | None
    standing: bool
    with_: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()

    def hides(self, later: "Rule") -> bool:
        """True when no call is left for `later`, which stands after this rule for the same command."""
        return (
            (self.bare is None or self.bare == later.bare)
            and (not self.with_ or (bool(later.with_) and later.with_ <= self.with_))
            and self.without <= later.without
        )


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


@lru_cache(maxsize=32_768)  # the same lines come again and again: a bundle has hundreds of thousands of flags
def compile_flag(text: str) -> tuple[Flag, ...]:
    """One flag per name of a line such as `-n, --lines=number @effect`."""
    text, *waived_by = text.split(" !")
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
    second = last["second"]
    if second is not None and (last["open"] or any(not name.startswith("--") for name in names)):
        raise BundleError(
            f"the flag '{text}' takes two words: only one with two dashes, whose value is not optional, may"
        )
    return tuple(Flag(name, value, role, tuple(effects), frozenset(waived_by), second) for name in names)


def _flags(lines: Iterable[str], sets: Mapping[str, tuple[str, ...]]) -> dict[str, Flag]:
    """The flags of some lines by name; a line `@name` stands for the set of that name, which holds no other set."""
    found: dict[str, Flag] = {}
    for line in lines:
        if line.startswith("@") and line[1:] not in sets:
            raise BundleError(f"there is no set of flags '{line[1:]}'")
        for each in sets[line[1:]] if line.startswith("@") else (line,):
            found |= {flag.name: flag for flag in compile_flag(each)}
    return found


def compile_prints(path: tuple[str, ...], spec: PrintSpec) -> Prints:
    """What a command prints, with its patterns compiled."""
    for kind in [spec.kind, *([spec.from_] if spec.from_ else [])]:
        if kind not in PRINTED:
            raise BundleError(f"'{' '.join(path)}' prints '{kind}', which is no kind of output")
    try:
        values = {name: re.compile(pattern) for name, pattern in spec.values.items()}
        operand = re.compile(spec.operand)
    except re.error as error:
        raise BundleError(f"'{' '.join(path)}' has a pattern that is not readable: {error}") from error
    return Prints(spec.kind, frozenset(spec.with_), values, frozenset(spec.only), spec.most, operand,
                  frozenset(spec.single), spec.words, spec.from_)  # fmt: skip


def compile_node(
    path: tuple[str, ...], spec: NodeSpec, above: Node | None = None, sets: Mapping[str, tuple[str, ...]] = {}
) -> Node:
    """The node with its subcommands, inherited flags and sets of flags resolved."""
    inherited = (dict(above.inherited) if above else {}) | _flags(spec.inherited, sets)
    flags = inherited | _flags(spec.flags, sets)
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
        any_names=spec.any_words or spec.any_names,
        literal=spec.style == "words",
        appends=spec.appends,
        requires=frozenset(spec.requires),
        drops_first=frozenset(spec.drops_first),
        needs=frozenset(spec.needs),
        least=spec.least,
        reads=spec.reads,
        here=frozenset(spec.here),
        lists=frozenset(spec.lists),
        lists_not=frozenset(spec.lists_not),
        passes=None if spec.passes is None else frozenset(spec.passes),
        bare_names=spec.bare_names,
        prints=tuple(compile_prints(path, prints) for prints in spec.prints),
        dotted_names=spec.dotted_names,
        operands_end_flags=spec.operands_end_flags,
        rule=spec.rule,
    )
    if any(role.endswith("*") for role in spec.args[:-1] if role != "assignment*"):
        raise BundleError(f"'{' '.join(path)}' repeats an argument that is not its last")
    for names, child in spec.sub.items():
        for name in names.split(", "):
            node.sub[name] = compile_node((*path, name), child, node, sets)
    return node


def compile_rules(
    specs: Sequence[RuleSpec], programs: Mapping[str, Node]
) -> tuple[dict[tuple[str, ...], tuple[Rule, ...]], list[str]]:
    """The rules of every command, in their order, and what is wrong with them."""
    faults: list[str] = []
    named: dict[str, list[Node]] = {}
    for node in programs.values():
        _named_rules(node, named)
    ids = [spec.id for spec in specs]
    faults += [f"rule {name} is given twice" for name in sorted({name for name in ids if ids.count(name) > 1})]
    faults += [f"'{' '.join(nodes[0].path)}' names the rule {name}, which does not exist"
               for name, nodes in named.items() if name not in ids]  # fmt: skip
    found: dict[tuple[str, ...], tuple[Rule, ...]] = {}
    for spec in specs:
        rule = Rule(spec.id, class_of(spec.class_), spec.reason, spec.bare, spec.standing,
                    frozenset(spec.with_), frozenset(spec.without))  # fmt: skip
        nodes = list(named.get(spec.id, ()))
        for command in spec.commands:
            node = _node_at(programs, command.split())
            if node is None:
                faults.append(f"rule {spec.id} names '{command}', which no program specifies")
            else:
                nodes.append(node)
        if not nodes:
            faults.append(f"rule {spec.id} names no command")
        for node in nodes:
            faults += _rule_faults(rule, node, found.get(node.path, ()))
            found[node.path] = (*found.get(node.path, ()), rule)
    return found, faults


def _rule_faults(rule: Rule, node: Node, earlier: Sequence[Rule]) -> list[str]:
    shown = f"rule {rule.id} can never decide '{' '.join(node.path)}'"
    faults = [f"{shown}: an earlier rule does" for _ in [each for each in earlier if each.hides(rule)][:1]]
    lacking = (rule.with_ | rule.without) - node.flags.keys()
    faults += [f"rule {rule.id} looks for {name}, which '{' '.join(node.path)}' lacks" for name in sorted(lacking)]
    # What a flag lowers must be sure: it is there or not, and takes no word with it.
    valued = [name for name in sorted(rule.with_ - lacking) if node.flags[name].value == "required"]
    return faults + [f"rule {rule.id} rests on {name}, which takes a value" for name in valued]


def _named_rules(node: Node, found: dict[str, list[Node]]) -> None:
    if node.rule is not None:
        found.setdefault(node.rule, []).append(node)
    for child in node.sub.values():
        _named_rules(child, found)


def _node_at(programs: Mapping[str, Node], path: Sequence[str]) -> Node | None:
    node = programs.get(path[0]) if path else None
    for name in path[1:]:
        node = node.sub.get(name) if node else None
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
