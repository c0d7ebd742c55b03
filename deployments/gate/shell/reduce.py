"""From shfmt's syntax tree to the simple commands it would run; whatever is not on a list here is `Unprovable`.

Facts about the tree (shfmt 3.14.1): `Lit.Value` is raw, so backslashes, braces, globs and `~` are ours to read; empty
fields are left out; positions are objects of three numbers; redirects and negation sit on the statement.

Values are followed where that is exact and nowhere else. A variable is known where an assignment of literal words to
it was surely executed before and nothing may have changed it since: after `a && b` both, after `a || b` what both
ways agree on, in a loop only what the loop does not set; what a subshell or a side of a pipe sets is unknown later. A
loop over literal words is walked once per word. Only names that no program and no shell obeys may be set.

The walk is made of layers, each upon the one before: `walk` (what is known, what was found), `arithmetic`, `words`,
`calls`, `loops`, and here statements, lists and pipes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deployments.gate.shell.arithmetic import squeezed
from deployments.gate.shell.atoms import Atom, Shape, Unprovable
from deployments.gate.shell.loops import Loops
from deployments.gate.shell.tree import Node, child, children, fields, last_is_call, names_set
from deployments.gate.shell.walk import Flow, Known, both, same

LISTS = frozenset({"&&", "||", "|", "|&"})


class _Reducer(Loops):
    """Walks one tree."""

    __slots__ = ()

    def script(self, nodes: Sequence[Node]) -> None:
        """The statements of a whole text; only here may functions be defined, each once."""
        known: Known = {}
        for node in nodes:
            command = node.get("Cmd")
            if isinstance(command, dict) and command.get("Type") == "FuncDecl":
                self.define(node)
            else:
                known = self.statement(node, known).always

    def statement(self, node: Node, known: Known) -> Flow:
        """One statement with its redirects and all that is in it."""
        parts = fields(node, "Cmd", "Redirs", "Negated", "Background")
        redirects = tuple(self.redirect(redirect, known) for redirect in children(parts, "Redirs"))
        if "Cmd" not in parts:
            self.add(Atom((), (), redirects))
            return Flow(known, known)
        command = child(parts, "Cmd")
        background = bool(parts.get("Background"))
        if command.get("Type") == "CallExpr":
            flow = self.call(command, redirects, known)
        elif command.get("Type") == "TestClause":
            self.test(command, redirects, known)
            flow = Flow(known, known)
        else:
            if redirects:
                # The redirects of a group reach every command in it: kept as an atom of their own.
                self.add(Atom((), (), redirects))
            outer, self.stream = self.stream, self.fed(redirects)
            flow = self.compound(command, known)
            self.stream = outer
        if background:
            return self.forgotten(node, known)
        return Flow(flow.always, flow.always) if parts.get("Negated") else flow

    def compound(self, node: Node, known: Known) -> Flow:
        """Anything but a simple command or a test."""
        match node.get("Type"):
            case "BinaryCmd":
                return self.joined(node, known)
            case "Subshell":
                self.inside(children(fields(node, "Stmts"), "Stmts"), known)
                return self.forgotten(node, known)
            case "Block":
                return self.statements(children(fields(node, "Stmts"), "Stmts"), known)
            case "IfClause":
                parts = fields(node, "Cond", "Then", "Else", "Kind")
                condition = self.statements(children(parts, "Cond"), known)
                then = self.statements(children(parts, "Then"), condition.success).always
                other = condition.always
                if "Else" in parts:
                    other = self.compound({"Type": "IfClause", **child(parts, "Else")}, condition.always).always
                return same(both(then, other))
            case "WhileClause":
                return self.repeated(node, known)
            case "ForClause":
                return self.loop(node, known)
            case "TimeClause":
                parts = fields(node, "Stmt", "PosixFormat")
                return self.statement(child(parts, "Stmt"), known) if "Stmt" in parts else same(known)
            case "CaseClause":
                return self.cases(node, known)
            case "DeclClause":
                return self.declared(node, known)
            case "ArithmCmd":
                parts = fields(node, "X")
                self.note((("((", squeezed(self.raw(child(parts, "X")))), (), ()))
                return same(self.calculated(child(parts, "X"), known))
            case "LetClause":
                expressions = children(fields(node, "Exprs"), "Exprs")
                self.note((("let", *(self.raw(expression) for expression in expressions)), (), ()))
                for expression in expressions:
                    known = self.calculated(expression, known)
                return same(known)
            case kind:
                raise Unprovable(f"the shell construct {kind}")

    def joined(self, node: Node, known: Known) -> Flow:
        """Lists and pipes."""
        parts = fields(node, "Op", "X", "Y")
        operator = parts.get("Op")
        if operator not in LISTS:
            raise Unprovable("an unusual way to join commands")
        left, right = child(parts, "X"), child(parts, "Y")
        if operator == "&&":
            first = self.statement(left, known)
            second = self.statement(right, first.success)
            return Flow(both(self.without(right, first.always), second.always), second.success)
        if operator == "||":
            first = self.statement(left, known)
            second = self.statement(right, first.always)
            rest = self.without(right, first.success)
            return Flow(both(rest, second.always), both(rest, second.success))
        inlined = self.inlined
        self.statement(left, known)
        upstream = self.atoms[-1] if self.atoms and last_is_call(left) and inlined == self.inlined else None
        before, inlined = len(self.atoms), self.inlined
        outer, self.stream = self.stream, None if operator == "|&" else upstream
        self.statement(right, known)
        self.stream = outer
        command = right.get("Cmd")
        called = isinstance(command, dict) and command.get("Type") == "CallExpr" and len(self.atoms) > before
        called = called and inlined == self.inlined
        if upstream is not None and called:
            self.atoms[-1] = replace(self.atoms[-1], feed=upstream)
        return self.forgotten(node, known)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text runs (`atoms`), and what both readers must see in it (`shapes`)."""

    atoms: tuple[Atom, ...]
    shapes: tuple[Shape, ...]


def reduce(tree: Node, text: str, whole: str | None = None) -> Reading:
    """Every simple command of the tree of `text`, those of pipes, lists, loops and substitutions included.

    The positions in the tree are those in `whole`, where that is another text than `text`.
    """
    reducer = _Reducer((text if whole is None else whole).encode("utf-8"), shifts="shift" in text)
    try:
        reducer.assigned = frozenset(names_set(tree))
        reducer.script(children(fields(tree, "Stmts"), "Stmts"))
    except RecursionError:
        raise Unprovable("the command is nested too deeply") from None
    return Reading(tuple(reducer.atoms), tuple(sorted(reducer.shapes)))
