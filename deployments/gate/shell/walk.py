"""The state of a walk through one syntax tree: what was found, and what is known of variables on the way."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from deployments.gate.shell.atoms import MAX_COMMANDS, MAX_RUNS, Atom, Redirect, Shape, Unprovable, Word
from deployments.gate.shell.pieces import INTEGER, is_number
from deployments.gate.shell.tree import Node, names_set

# What is known of variables, by name. A variable that is not in it may hold anything.
Known: TypeAlias = Mapping[str, Word]


@dataclass(frozen=True, slots=True)
class Flow:
    """What is known of variables after a command: in any case, and when it succeeded."""

    always: Known
    success: Known


@dataclass(slots=True)
class Walk(ABC):
    """What every part of the walk through a tree shares.

    `shapes` has every command of the text once, `atoms` every run of it. `stream` is the command whose output `read`
    reads where the walk is; `scope` the subshells it is in, outermost first, and `scopes` how many there were.
    `repeating` is above 0 in calls of functions and in rounds of a loop after the first. `functions` are the bodies of
    own functions, `calling` the names of those that the walk is in, `inlined` counts their calls. `frozen` are names
    that are read only; `assigned` all names that anything in the text sets. `shifts`: the arguments of a script or
    function may be moved.
    """

    source: bytes
    atoms: list[Atom] = field(default_factory=list[Atom])
    shapes: list[Shape] = field(default_factory=list[Shape])
    scope: tuple[int, ...] = ()
    scopes: int = 0
    repeating: int = 0
    stream: Atom | None = None
    functions: dict[str, Node] = field(default_factory=dict[str, Node])
    calling: tuple[str, ...] = ()
    inlined: int = 0
    frozen: set[str] = field(default_factory=set[str])
    assigned: frozenset[str] = frozenset()
    shifts: bool = False

    @abstractmethod
    def statement(self, node: Node, known: Known) -> Flow:
        """One statement with all that is in it, where `known` is known of variables."""

    def statements(self, nodes: Sequence[Node], known: Known) -> Flow:
        """Statements one after another; of the last one it is known what success says."""
        flow = Flow(known, known)
        for node in nodes:
            flow = self.statement(node, flow.always)
        return flow

    def inside(self, nodes: Sequence[Node], known: Known) -> None:
        """Statements that run in a subshell: what they change of directories and variables stays there."""
        self.scopes += 1
        outer, self.scope = self.scope, (*self.scope, self.scopes)
        self.statements(nodes, known)
        self.scope = outer

    def forgotten(self, node: Node, known: Known) -> Flow:
        """What is known after `node` ran where nothing it sets can be relied on: in a subshell, or beside others."""
        return same(self.without(node, known))

    def without(self, node: Node, known: Known) -> Known:
        """`known` less all that `node` sets anywhere in it; what it only counts with stays a number."""
        names = names_set(node)
        if not names:
            return known
        otherwise = names_set(node, counting=False)
        counted = {name for name in names - otherwise if name in known and is_number(known[name])}
        kept = {name: word for name, word in known.items() if name not in names}
        return kept | dict.fromkeys(counted, INTEGER)

    def raw(self, node: Node) -> str:
        """The text of a node as it is written."""
        start, end = node.get("Pos"), node.get("End")
        if not isinstance(start, dict) or not isinstance(end, dict):
            raise Unprovable("an unreadable syntax tree")
        first, last = start.get("Offset"), end.get("Offset")
        if not isinstance(first, int) or not isinstance(last, int):
            raise Unprovable("an unreadable syntax tree")
        return self.source[first:last].decode("utf-8", "surrogateescape")

    def note(self, shape: Shape) -> None:
        """Keep what both readers must see; not again in what is walked again."""
        if self.repeating:
            return
        self.shapes.append(shape)
        if len(self.shapes) > MAX_COMMANDS:
            raise Unprovable(f"more than {MAX_COMMANDS} commands")

    def add(self, atom: Atom, shape: Shape | None = ((), (), ())) -> None:
        """Keep a command that runs, and its shape: that of its redirects if none is given; None where it is noted."""
        if shape == ((), (), ()):
            shape = ((), (), redirect_shapes(atom.redirects))
        if shape is not None:
            self.note(shape)
        self.atoms.append(replace(atom, scope=self.scope))
        if len(self.atoms) > MAX_RUNS:
            raise Unprovable(f"more than {MAX_RUNS} commands")


def both(one: Known, other: Known) -> Known:
    """What is known after either of two ways."""
    return {name: word for name, word in one.items() if other.get(name) == word}


def same(known: Known) -> Flow:
    """The same, whether the command succeeds or not."""
    return Flow(known, known)


def redirect_shapes(redirects: Sequence[Redirect]) -> tuple[tuple[str, str], ...]:
    """What both readers must see of redirects, in any order; a here-document has no name."""
    return tuple(
        sorted(
            (redirect.operator, "" if redirect.operator.startswith("<<") else redirect.target.shape)
            for redirect in redirects
        )
    )
