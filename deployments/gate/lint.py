"""What a bundle may say, but hardly means: findings for whoever maintains it. Nothing here refuses a bundle.

Errors of a bundle are the loader's. A finding of `lint` has the name of its check, so that a review can be asked of
one kind only; `examples` needs the classifier and takes as long as loading does.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from deployments.gate.classify import Classifier
from deployments.gate.derive import milder
from deployments.gate.explain import explain
from deployments.gate.grammar import ClassOf
from deployments.gate.policy import BUILT_IN_CLASSES, DEFAULT_TARGET, Bundle
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import Flag, Node, NodeSpec, Target, compile_flag
from deployments.gate.tables import SHIPPED_A, SHIPPED_B, Base, Egress, Env, Sensitivity
from deployments.ports import GateProfile

_R0 = ClassOf(Base.R0, Base.R0)
TIMEOUT_S = 10.0
MIN_DOTS = 1
# Asked for one of these a program does nothing else, whatever stands before it.
_SAYS_AND_ENDS = frozenset({"--version", "-version", "-V", "-v", "-vV", "version", "--help", "-help", "-h", "help"})


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One finding: the check that made it, what it is about, and why that is suspicious."""

    check: str
    where: str
    what: str


def lint(bundle: Bundle, examples: bool = True) -> list[Suspicion]:
    """Every finding, by check; without `examples` only what can be seen without judging any call."""
    found = [
        *_unruled(bundle),
        *_lax_parents(bundle),
        *_shadowed(bundle),
        *_catch_alls(bundle),
        *_egress(bundle),
        *_outside_standing(bundle),
        *_unused(bundle),
        *_duplicates(bundle),
        *_as_shipped(bundle),
        *_unregistered_kinds(bundle),
        *_unknown_in_prints(bundle),
    ]
    if examples:
        found += _examples(bundle)
    return found


def _own_programs(bundle: Bundle) -> dict[str, Node]:
    known = {} if bundle.base is None else bundle.base.parts.programs
    return {name: node for name, node in bundle.parts.programs.items() if name not in known}


def _nodes(bundle: Bundle) -> Iterator[Node]:
    """Every node of the bundle's own programs, once."""
    seen: set[int] = set()
    waiting = list(_own_programs(bundle).values())
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        waiting += node.sub.values()


def _unruled(bundle: Bundle) -> Iterator[Suspicion]:
    """A program none of whose commands has a rule: whatever is said of its flags, it is UNKNOWN."""
    for name, node in sorted(_own_programs(bundle).items()):
        if not any(each.path in bundle.parts.rules for each in _below(node)):
            yield Suspicion("no-rule", name, "is specified, and no rule speaks of it: every call of it is held")


def _below(node: Node) -> Iterator[Node]:
    waiting = [node]
    while waiting:
        each = waiting.pop()
        yield each
        waiting += each.sub.values()


def _lax_parents(bundle: Bundle) -> Iterator[Suspicion]:
    """Flags of a command that changes something, accepted without an effect before one below it that only reads.

    `tool --write list`: the parent's rule speaks for its flags, and the child's rule does not know of them. A child
    that only says its version or usage is none to worry about, nor is a flag that the child takes itself.
    """
    for node in _nodes(bundle):
        classes = _classes(bundle, node)
        if not classes or classes == {_R0}:
            continue
        neutral = [name for name, flag in node.flags.items() if not flag.effects and name not in node.inherited]
        children = [child for child in node.sub.values() if child.path[-1] not in _SAYS_AND_ENDS]
        readers = sorted((child for child in children if _classes(bundle, child) == {_R0}), key=lambda each: each.path)
        for child in readers:
            foreign = sorted(set(neutral) - child.flags.keys() - {child.path[-1]})
            if foreign:
                what = f"'{' '.join(child.path)}' reads, and takes {', '.join(foreign)} of '{' '.join(node.path)}'"
                yield Suspicion("parent-flags", " ".join(node.path), what)
                break


def _classes(bundle: Bundle, node: Node) -> set[ClassOf]:
    return {rule.class_of for rule in bundle.parts.rules.get(node.path, ())}


def _shadowed(bundle: Bundle) -> Iterator[Suspicion]:
    """A pattern of a target that an earlier entry always takes: exactly said before, or covered by a wider pattern."""
    for kind, entries in bundle.targets.items():
        earlier: list[tuple[str, Target]] = []
        for patterns, target in entries:
            for pattern in patterns:
                plain = pattern.replace("*", "zq7").replace("?", "z")
                by = next((known for known, other in earlier if other != target and fnmatchcase(plain, known)), None)
                if by is not None and not (bundle.base is not None and by in _own_patterns(bundle, kind)):
                    yield Suspicion("shadowed", f"{kind} {pattern}", f"is never reached: '{by}' stands before it")
            earlier += [(pattern, target) for pattern in patterns]


def _own_patterns(bundle: Bundle, kind: str) -> set[str]:
    """What an extending bundle registers before its base; that it goes first is its purpose."""
    base = () if bundle.base is None else bundle.base.targets.get(kind, ())
    own = len(bundle.targets.get(kind, ())) - len(base)
    return {pattern for patterns, _ in bundle.targets.get(kind, ())[:own] for pattern in patterns}


def _catch_alls(bundle: Bundle) -> Iterator[Suspicion]:
    """`*` milder than production: whatever nobody registered gets it."""
    for kind, entries in bundle.targets.items():
        for patterns, target in entries:
            if "*" in patterns and target.env is Env.NONPROD:
                yield Suspicion("catch-all", f"{kind} *", "makes everything unregistered non-production")
            if "*" in patterns and kind.endswith("host") and target.egress is not Egress.OTHER:
                yield Suspicion("catch-all", f"{kind} *", f"makes every host {target.egress.value} egress")


def _egress(bundle: Bundle) -> Iterator[Suspicion]:
    """Hosts by a pattern that others can register names under."""
    for kind, entries in bundle.targets.items():
        if not kind.endswith("host"):
            continue
        for patterns, target in entries:
            if target.class_of is not None or target.egress is Egress.OTHER:
                continue
            for pattern in patterns:
                _, star, suffix = pattern.rpartition("*")
                if star and suffix.strip(".").count(".") < MIN_DOTS and pattern != "*":
                    yield Suspicion("egress", f"{kind} {pattern}", "covers names that anybody can register")
                elif star and not suffix.startswith("."):
                    yield Suspicion("egress", f"{kind} {pattern}", "also covers names that only end like it")


def _outside_standing(bundle: Bundle) -> Iterator[Suspicion]:
    """Rules that a standing plan may cover, of commands that work elsewhere than in files."""
    for spec in bundle.own_rules:
        if not spec.standing:
            continue
        for path, rules in bundle.parts.rules.items():
            if not any(rule.id == spec.id for rule in rules):
                continue
            node = _at(bundle, path)
            kinds = () if node is None else node.targets
            outside = [
                kind for kind in kinds if _default(bundle, kind).env is not None and not _workspace(bundle, kind)
            ]
            if outside:
                what = (
                    f"'{' '.join(path)}' works on {', '.join(outside)}, which no checkpoint of a workspace takes back"
                )
                yield Suspicion("standing", spec.id, what)


def _default(bundle: Bundle, kind: str) -> Target:
    return bundle.target(kind, DEFAULT_TARGET) or Target(Env.PROD, Sensitivity.SENSITIVE)


def _workspace(bundle: Bundle, kind: str) -> bool:
    return _default(bundle, kind).workspace


def _at(bundle: Bundle, path: tuple[str, ...]) -> Node | None:
    node = bundle.parts.programs.get(path[0])
    for name in path[1:]:
        node = node.sub.get(name) if node else None
    return node


def _unused(bundle: Bundle) -> Iterator[Suspicion]:
    """Words, effects and kinds of targets that no program or tool names."""
    nodes = [each for program in bundle.parts.programs.values() for each in _below(program)]
    roles = {role for node in nodes for role in node.args}
    roles |= {flag.role for node in nodes for flag in node.flags.values()}
    effects = {effect for node in nodes for flag in node.flags.values() for effect in flag.effects}
    kinds = {kind for node in nodes for kind in node.targets}
    kinds |= {target.names for entries in bundle.targets.values() for _, target in entries if target.names}
    said = repr([tool.model_dump() for tool in bundle.tools.values()])
    known = bundle.base.spec if bundle.base is not None else None
    for word in sorted(bundle.spec.words.keys() - roles - (known.words.keys() if known else set())):
        if f"'{word}'" not in said:
            yield Suspicion("unused", word, "is a word pattern that nothing uses")
    for effect in sorted(bundle.spec.effects.keys() - effects - BUILT_IN_CLASSES):
        if known is None or effect not in known.effects:
            yield Suspicion("unused", effect, "is an effect that no flag has")
    own_kinds = bundle.targets.keys() - (known.targets.keys() if known else set())
    for kind in sorted(own_kinds - kinds - roles - _READ_BY_CODE):
        if f"'{kind}'" not in said:
            yield Suspicion("unused", kind, "is a kind of targets that nothing names")


_READ_BY_CODE = frozenset({"runner", "path", "written", "host", "resource"})


def _duplicates(bundle: Bundle) -> Iterator[Suspicion]:
    counted = Counter(line for rule in bundle.own_rules for line in (*rule.match, *rule.not_match))
    for rule in bundle.own_rules:
        for line in sorted(set(rule.match) & set(rule.not_match)):
            yield Suspicion("duplicate", rule.id, f"'{line}' is an example for and against it")
    for line, count in sorted(counted.items()):
        if count > len({rule.id for rule in bundle.own_rules if line in rule.match or line in rule.not_match}):
            yield Suspicion("duplicate", line, "is an example twice of the same rule")


def _as_shipped(bundle: Bundle) -> Iterator[Suspicion]:
    """Sections that only repeat what is shipped: no mistake, but whoever reads them expects a difference."""
    if bundle.base is None:
        return
    if bundle.table_a == bundle.base.table_a == SHIPPED_A and bundle.spec.table != bundle.base.spec.table:
        yield Suspicion("as-shipped", "table", "says what the base says")
    for profile in GateProfile:
        own, base = bundle.spec.profiles.get(profile.value), bundle.base.spec.profiles.get(profile.value)
        if own is not base and own == base and all(bundle.table_b[key] == SHIPPED_B[key] for key in SHIPPED_B):
            yield Suspicion("as-shipped", f"profile {profile.value}", "says what the base says")


def _unregistered_kinds(bundle: Bundle) -> Iterator[Suspicion]:
    """Entries that an extending bundle makes milder than the base's word on the same name, which then stays."""
    if bundle.base is None:
        return
    for kind, entries in bundle.targets.items():
        own = _own_patterns(bundle, kind)
        for patterns, target in entries:
            for pattern in set(patterns) & own:
                floor = bundle.target(kind, pattern)
                if floor is not None and floor != target and milder(target, floor):
                    yield Suspicion("overruled", f"{kind} {pattern}", "the base is stricter about it, and stays so")


def _unknown_in_prints(bundle: Bundle) -> Iterator[Suspicion]:
    """Flags that an entry of `prints` names, and that neither its command nor one above it takes.

    A call that gives such a flag is held, so the entry says nothing, or less than was meant.
    """
    for node in sorted(_nodes(bundle), key=lambda each: each.path):
        above = [_at(bundle, node.path[:length]) for length in range(1, len(node.path))]
        known = {name for each in (node, *above) if each is not None for name in each.flags}
        for prints in node.prints:
            named = prints.with_ | prints.values.keys() | prints.only | (prints.single - {"*"})
            for name in sorted(named - known):
                yield Suspicion("prints", f"{' '.join(node.path)} {name}", f"is no flag of what prints '{prints.kind}'")


def _examples(bundle: Bundle) -> Iterator[Suspicion]:
    """Effects of flags that no example shows; one of a rule speaks for all names of a flag, wherever it has it."""
    used: set[str] = set()
    reader = ShellReader(TIMEOUT_S)
    for rule in bundle.own_rules:
        for line in (*rule.match, *rule.not_match):
            steps = explain(bundle, "shell", {"command": line}, reader=reader).steps
            used |= {reason for step in steps for reason in step.reasons}
    notes = "\n".join(used)
    together = _said_together(bundle)
    shown: dict[tuple[str, tuple[str, ...]], bool] = {}
    first: dict[tuple[str, tuple[str, ...]], tuple[str, str]] = {}
    for node in sorted(_nodes(bundle), key=lambda each: each.path):
        rules = bundle.parts.rules.get(node.path, ())
        rule = next((rule for rule in rules if rule.class_of == _R0 and not rule.with_), None)
        if rule is None:
            continue
        own = {name: flag for name, flag in node.flags.items() if flag.effects and name not in node.inherited}
        for name, flag in sorted(own.items()):
            if not any(_raises(bundle, effect) for effect in flag.effects):
                continue
            seen = any(f": {name} ({effect})" in notes for effect in flag.effects)
            same = (rule.id, (*_synonyms(own, flag, together), *flag.effects))
            shown[same] = shown.get(same, False) or seen
            first.setdefault(same, (f"{' '.join(node.path)} {name}", f"@{', @'.join(flag.effects)}"))
    for same, (where, effects) in first.items():
        if not shown[same]:
            yield Suspicion("untested", where, f"{effects}: no example shows that it is held")
    if bundle.base is not None:
        yield from _base_examples(bundle, bundle.base, reader)


def _raises(bundle: Bundle, name: str) -> bool:
    """False for an effect that no class of a command that reads depends on: `widen` only names the environment."""
    effect = bundle.parts.effects[name]
    return (
        effect.class_of is not None or effect.sensitivity is Sensitivity.SENSITIVE or effect.egress is not Egress.NONE
    )


def _lines(specs: Iterable[NodeSpec]) -> Iterator[str]:
    """Every line of flags that programs and their subcommands are specified with."""
    waiting = list(specs)
    while waiting:
        spec = waiting.pop()
        yield from spec.flags
        yield from spec.inherited
        waiting += spec.sub.values()


def _said_together(bundle: Bundle) -> dict[str, set[tuple[str, ...]]]:
    """By the name of a flag with an effect: the names that a line gives it, such as `-d, --delete`."""
    sets = (line for lines in bundle.spec.flag_sets.values() for line in lines)
    found: dict[str, set[tuple[str, ...]]] = {}
    for line in {*sets, *_lines(bundle.spec.programs.values())}:
        if " @" in line:
            names = tuple(flag.name for flag in compile_flag(line))
            for name in names:
                found.setdefault(name, set()).add(names)
    return found


def _synonyms(flags: Mapping[str, Flag], flag: Flag, together: Mapping[str, set[tuple[str, ...]]]) -> tuple[str, ...]:
    """The names under which a command has the same flag. One example is enough for all of them."""
    same = [names for names in together.get(flag.name, ())
            if all(name in flags and replace(flags[name], name=flag.name) == flag for name in names)]  # fmt: skip
    return max(same, key=lambda names: (len(names), names), default=(flag.name,))


def _base_examples(bundle: Bundle, base: Bundle, reader: ShellReader) -> Iterator[Suspicion]:
    """Examples of the base that come out lower under what the bundle registers: meant, or not."""
    one, other = Classifier(base, reader), Classifier(bundle, reader)
    for rule in base.rule_specs:
        for line in (*rule.match, *rule.not_match):
            before, after = (each.classify("shell", {"command": line}) for each in (one, other))
            if after.risk.rank < before.risk.rank:
                yield Suspicion("lowered", line, f"is {before.risk.value} to the base, and {after.risk.value} now")
