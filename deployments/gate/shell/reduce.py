"""From shfmt's syntax tree to the simple commands it would run; whatever is not on a list here is `Unprovable`.

Facts about the tree (shfmt 3.14.1): `Lit.Value` is raw, so backslashes, braces, globs and `~` are ours to read; empty
fields are left out; positions are objects with an `Offset`; redirects and negation sit on the statement.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from deployments.gate.shell.atoms import (
    MAX_COMMANDS,
    Atom,
    Redirect,
    Unprovable,
    Word,
    active,
    ansi_c,
    bare,
    check_braces,
    double_quoted,
)
from deployments.ports import JsonValue

Node: TypeAlias = dict[str, JsonValue]

# Variables whose value is neither a secret nor code. Everything else may be either.
PLAIN_VARIABLES = frozenset({"HOME", "PWD", "OLDPWD", "USER", "LOGNAME", "HOSTNAME", "UID", "?", "#", "$"})
LISTS = frozenset({"&&", "||", "|", "|&"})
REDIRECTS = frozenset({"<", ">", ">>", ">|", "&>", "&>>", ">&", "<&", "<<", "<<-", "<<<"})
HEREDOCS = frozenset({"<<", "<<-"})


@dataclass(slots=True)
class _Reducer:
    """Walks one tree. `loop_variables` are those whose values are all literal words of the text."""

    atoms: list[Atom] = field(default_factory=list[Atom])
    loop_variables: set[str] = field(default_factory=set[str])

    def statements(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self.statement(node)

    def statement(self, node: Node) -> None:
        parts = _parts(node, "Cmd", "Redirs", "Negated", "Background")
        redirects = tuple(self.redirect(redirect) for redirect in _nodes(parts, "Redirs"))
        if "Cmd" not in parts:
            self.add(Atom((), (), redirects))
            return
        command = _node(parts, "Cmd")
        if command.get("Type") == "CallExpr":
            self.call(command, redirects)
            return
        if redirects:
            # The redirects of a group reach every command in it: kept as an atom of their own.
            self.add(Atom((), (), redirects))
        self.compound(command)

    def call(self, node: Node, redirects: tuple[Redirect, ...]) -> None:
        parts = _parts(node, "Assigns", "Args")
        assignments: list[tuple[str, Word]] = []
        for assign in _nodes(parts, "Assigns"):
            held = _parts(assign, "Name", "Value")
            value = self.word(_node(held, "Value")) if "Value" in held else Word("")
            assignments.append((_text(_node(held, "Name"), "Value"), value))
        words = tuple(self.word(word) for word in _nodes(parts, "Args"))
        self.add(Atom(words, tuple(assignments), redirects))

    def compound(self, node: Node) -> None:
        match node.get("Type"):
            case "BinaryCmd":
                parts = _parts(node, "Op", "X", "Y")
                if parts.get("Op") not in LISTS:
                    raise Unprovable("an unusual way to join commands")
                self.statement(_node(parts, "X"))
                self.statement(_node(parts, "Y"))
            case "Subshell" | "Block":
                self.statements(_nodes(_parts(node, "Stmts"), "Stmts"))
            case "IfClause":
                parts = _parts(node, "Cond", "Then", "Else", "Kind")
                self.statements(_nodes(parts, "Cond"))
                self.statements(_nodes(parts, "Then"))
                if "Else" in parts:
                    self.compound({"Type": "IfClause", **_node(parts, "Else")})
            case "WhileClause":
                parts = _parts(node, "Cond", "Do", "Until")
                self.statements(_nodes(parts, "Cond"))
                self.statements(_nodes(parts, "Do"))
            case "ForClause":
                self.loop(node)
            case "TimeClause":
                parts = _parts(node, "Stmt", "PosixFormat")
                if "Stmt" in parts:
                    self.statement(_node(parts, "Stmt"))
            case kind:
                raise Unprovable(f"the shell construct {kind}")

    def loop(self, node: Node) -> None:
        parts = _parts(node, "Loop", "Do")
        loop = _node(parts, "Loop")
        if loop.get("Type") != "WordIter":
            raise Unprovable("an arithmetic loop")
        held = _parts(loop, "Name", "Items")
        items = [self.word(item) for item in _nodes(held, "Items")]
        name = _text(_node(held, "Name"), "Value")
        if not name.islower():
            raise Unprovable(f"a loop that sets ${name}")  # PATH, IFS and their like are upper case
        if items and all(item.text is not None and not item.glob for item in items):
            self.loop_variables.add(name)
        self.statements(_nodes(parts, "Do"))

    def redirect(self, node: Node) -> Redirect:
        parts = _parts(node, "Op", "N", "Word", "Hdoc")
        operator = parts.get("Op")
        if not isinstance(operator, str) or operator not in REDIRECTS:
            raise Unprovable("an unusual redirect")
        if "N" in parts and not _text(_node(parts, "N"), "Value").isdigit():
            raise Unprovable("a redirect through a variable")
        word = self.word(_node(parts, "Word"))
        if operator not in HEREDOCS:
            return Redirect(operator, word)
        body = self.word(_node(parts, "Hdoc"), quoted=True) if "Hdoc" in parts else Word("")
        if body.text is None:
            raise Unprovable("an expansion in a here-document")
        return Redirect(operator, body)

    def word(self, node: Node, quoted: bool = False) -> Word:
        pieces: list[str] = []
        unquoted: list[str] = []
        glob, known = False, True
        for part in _nodes(_parts(node, "Parts"), "Parts"):
            if part.get("Type") == "Lit":
                raw = _text(part, "Value")
                if quoted:
                    pieces.append(raw)
                    continue
                text, has_glob = bare(raw)
                pieces.append(text)
                unquoted.append(active(raw))
                glob = glob or has_glob
                continue
            text = self.part(part)
            known = known and text is not None
            pieces.append(text or "")
        check_braces("".join(unquoted))
        text = "".join(pieces)
        # A lone `[` is the test command: a bracket without its partner matches nothing but itself.
        return Word(text, glob and text != "[") if known else Word(None)

    def part(self, node: Node) -> str | None:
        """Value of one quoted or expanded piece; None for one that is harmless but not known."""
        match node.get("Type"):
            case "SglQuoted":
                parts = _parts(node, "Dollar", "Value")
                raw = _text(parts, "Value") if "Value" in parts else ""
                return ansi_c(raw) if parts.get("Dollar") else raw
            case "DblQuoted":
                parts = _parts(node, "Parts", "Dollar")
                if parts.get("Dollar"):
                    raise Unprovable("a locale-translated string")
                pieces = [
                    double_quoted(_text(part, "Value")) if part.get("Type") == "Lit" else self.part(part)
                    for part in _nodes(parts, "Parts")
                ]
                return None if None in pieces else "".join(piece for piece in pieces if piece is not None)
            case "ParamExp":
                name = _text(_node(_parts(node, "Short", "Param"), "Param"), "Value")
                if name not in PLAIN_VARIABLES and name not in self.loop_variables:
                    raise Unprovable(f"the variable ${name}, whose value is not known")
                return None
            case "CmdSubst":
                self.statements(_nodes(_parts(node, "Stmts", "Backquotes"), "Stmts"))
                return None
            case "ProcSubst":
                parts = _parts(node, "Op", "Stmts")
                if parts.get("Op") != "<(":
                    raise Unprovable("an output process substitution")
                self.statements(_nodes(parts, "Stmts"))
                return None
            case kind:
                raise Unprovable(f"the shell expansion {kind}")

    def add(self, atom: Atom) -> None:
        self.atoms.append(atom)
        if len(self.atoms) > MAX_COMMANDS:
            raise Unprovable(f"more than {MAX_COMMANDS} commands")


def reduce(tree: Node) -> tuple[Atom, ...]:
    """Every simple command of the tree, those of pipes, lists, loops and substitutions included."""
    reducer = _Reducer()
    try:
        reducer.statements(_nodes(_parts(tree, "Stmts"), "Stmts"))
    except RecursionError:
        raise Unprovable("the command is nested too deeply") from None
    return tuple(reducer.atoms)


def _parts(node: Node, *allowed: str) -> Node:
    """The fields of a node that mean something; a field that is not expected makes the node unknown."""
    found = {
        key: value
        for key, value in node.items()
        if key not in {"Type", "Comments"}
        and not key.endswith("Last")
        and not (isinstance(value, dict) and "Offset" in value)
    }
    for key in found:
        if key not in allowed:
            raise Unprovable(f"the shell construct {node.get('Type', 'statement')} with {key}")
    return found


def _node(parts: Node, key: str) -> Node:
    value = parts.get(key)
    if not isinstance(value, dict):
        raise Unprovable("an unreadable syntax tree")
    return value


def _nodes(parts: Node, key: str) -> list[Node]:
    value = parts.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Unprovable("an unreadable syntax tree")
    return cast("list[Node]", value)


def _text(node: Node, key: str) -> str:
    value = node.get(key)
    if not isinstance(value, str):
        raise Unprovable("an unreadable syntax tree")
    return value
