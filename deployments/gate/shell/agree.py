"""The second opinion: tree-sitter's reading of the same text, reduced to the same shape and compared.

tree-sitter never judges alone: it silently drops words in some lines. It is here because it fails differently from
shfmt; where the two do not see the same commands, words and redirects, the line is not understood.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from deployments.gate.shell.atoms import Atom, Unprovable, active, ansi_c, bare, check_braces, double_quoted

Shape: TypeAlias = tuple[tuple[str | None, ...], tuple[str, ...], tuple[tuple[str, str | None], ...]]

_PASS = frozenset(
    {
        "program",
        "list",
        "pipeline",
        "subshell",
        "compound_statement",
        "if_statement",
        "elif_clause",
        "else_clause",
        "while_statement",
        "do_group",
        "negated_command",
        "command_substitution",
        "process_substitution",
    }
)
_WORDS = frozenset(
    {
        "word",
        "number",
        "raw_string",
        "ansi_c_string",
        "string",
        "concatenation",
        "simple_expansion",
        "expansion",
        "command_substitution",
        "process_substitution",
    }
)


def shapes(atoms: tuple[Atom, ...]) -> list[Shape]:
    """What the two readers must agree on: words, names that are set, and redirects, in any order of commands."""
    found: list[Shape] = [
        (
            tuple(word.text for word in atom.argv),
            tuple(name for name, _ in atom.assignments),
            tuple(sorted(_redirect(redirect.operator, redirect.target.text) for redirect in atom.redirects)),
        )
        for atom in atoms
    ]
    return sorted(found, key=repr)


def second_opinion(text: str) -> list[Shape]:
    """tree-sitter's shapes of `text`, or `Unprovable`."""
    source = text.encode("utf-8")
    root = Parser(Language(tree_sitter_bash.language())).parse(source).root_node
    if root.has_error:
        raise Unprovable("the second parser finds a syntax error")
    reader = _Reader()
    try:
        reader.visit(root)
    except RecursionError:
        raise Unprovable("the command is nested too deeply") from None
    return sorted(reader.found, key=repr)


def check_agreement(text: str, atoms: tuple[Atom, ...]) -> None:
    """Raise `Unprovable` unless both parsers read the same commands out of `text`."""
    if second_opinion(text) != shapes(atoms):
        raise Unprovable("two parsers read the command differently")


def _redirect(operator: str, target: str | None) -> tuple[str, str | None]:
    return (operator, "" if operator.startswith("<<") else target or "")


@dataclass(slots=True)
class _Reader:
    found: list[Shape] = field(default_factory=list[Shape])

    def visit(self, node: Node) -> None:
        if node.is_missing or node.is_error:
            raise Unprovable("the second parser finds a syntax error")
        match node.type:
            case "comment":
                return
            case "command":
                self.command(node, ())
            case "variable_assignment":
                self.found.append(((), (self.assignment(node),), ()))
            case "variable_assignments":
                names = tuple(self.assignment(child) for child in node.named_children)
                self.found.append(((), names, ()))
            case "redirected_statement":
                self.redirected(node)
            case "for_statement":
                for child in node.named_children:
                    if child.type in _WORDS:
                        self.word(child)
                    elif child.type != "variable_name":
                        self.visit(child)
            case "test_command":
                self.test(node)
            case kind if kind in _PASS:
                for child in node.named_children:
                    self.visit(child)
            case kind:
                raise Unprovable(f"the second parser meets {kind}")

    def redirected(self, node: Node) -> None:
        bodies: list[Node] = []
        redirects: list[tuple[str, str | None]] = []
        for child in node.named_children:
            if child.type.endswith("_redirect"):
                redirects += self.redirect(child)
            else:
                bodies.append(child)
        if not bodies:
            self.found.append(((), (), tuple(sorted(redirects))))
        elif len(bodies) == 1 and bodies[0].type == "command":
            self.command(bodies[0], tuple(redirects))
        elif len(bodies) == 1 and bodies[0].type == "test_command":
            self.test(bodies[0], tuple(redirects))
        else:
            # As in shfmt's reduction: the redirects of a group are an atom of their own. tree-sitter hangs those of the
            # last command of a list or pipeline on the whole list, which is a difference of place, not of content.
            if bodies[0].type in {"list", "pipeline", "negated_command"}:
                self.last_of(bodies[0], tuple(redirects))
                return
            self.found.append(((), (), tuple(sorted(redirects))))
            for body in bodies:
                self.visit(body)

    def last_of(self, node: Node, redirects: tuple[tuple[str, str | None], ...]) -> None:
        """Visit a list and give `redirects` to its last command, where bash puts them."""
        *others, last = node.named_children
        for child in others:
            self.visit(child)
        match last.type:
            case "command":
                self.command(last, redirects)
            case "test_command":
                self.test(last, redirects)
            case "list" | "pipeline" | "negated_command":
                self.last_of(last, redirects)
            case _:
                self.found.append(((), (), tuple(sorted(redirects))))
                self.visit(last)

    def command(self, node: Node, outer: tuple[tuple[str, str | None], ...]) -> None:
        words: list[str | None] = []
        names: list[str] = []
        redirects = list(outer)
        for child in node.children:
            if child.type == "command_name":
                if child.named_child_count != 1:
                    raise Unprovable("the second parser meets an unusual program name")
                words.append(self.word(child.named_children[0]))
            elif child.type == "variable_assignment":
                names.append(self.assignment(child))
            elif child.type.endswith("_redirect"):
                redirects += self.redirect(child)
            elif child.is_named:
                words.append(self.word(child))
            else:
                raise Unprovable("the second parser meets an unusual word")
        if words[:1] == ["time"]:
            words = words[2:] if words[1:2] == ["-p"] else words[1:]
        self.found.append((tuple(words), tuple(names), tuple(sorted(redirects))))

    def test(self, node: Node, redirects: tuple[tuple[str, str | None], ...] = ()) -> None:
        """`[ ... ]` as the ordinary command it is; `[[` never gets here with an agreeing first parser."""
        words: list[str | None] = []

        def collect(part: Node) -> None:
            if part.type in _WORDS:
                words.append(self.word(part))
            elif part.child_count == 0:
                words.append(_source(part))
            else:
                for child in part.children:
                    collect(child)

        collect(node)
        self.found.append((tuple(words), (), tuple(sorted(redirects))))

    def assignment(self, node: Node) -> str:
        name = node.child_by_field_name("name")
        value = node.child_by_field_name("value")
        if name is None or name.type != "variable_name" or node.named_child_count > 2:
            raise Unprovable("the second parser meets an unusual assignment")
        if value is not None:
            self.word(value)
        return _source(name)

    def redirect(self, node: Node) -> list[tuple[str, str | None]]:
        if node.type == "herestring_redirect":
            for child in node.named_children:
                self.word(child)
            return [("<<<", "")]
        if node.type == "heredoc_redirect":
            found: list[tuple[str, str | None]] = [(_operator(node), "")]
            for child in node.named_children:
                if child.type == "file_redirect":
                    found += self.redirect(child)
                elif child.type == "heredoc_body":
                    if any(part.type != "heredoc_content" for part in child.named_children):
                        raise Unprovable("an expansion in a here-document")
                elif child.type not in {"heredoc_start", "heredoc_end", "file_descriptor"}:
                    raise Unprovable("the second parser meets an unusual here-document")
            return found
        targets = [child for child in node.named_children if child.type != "file_descriptor"]
        if len(targets) != 1:
            raise Unprovable("two parsers read the command differently")
        return [(_operator(node), self.word(targets[0]) or "")]

    def word(self, node: Node) -> str | None:
        """Value of a word, None when it holds an expansion; commands inside are visited."""
        if node.is_missing or node.is_error:
            raise Unprovable("the second parser finds a syntax error")
        source = _source(node)
        match node.type:
            case "word" | "number":
                if node.named_child_count:
                    raise Unprovable("the second parser meets an unusual word")
                check_braces(active(source))
                return bare(source)[0]
            case "raw_string":
                return source[1:-1]
            case "ansi_c_string":
                return ansi_c(source[2:-1])
            case "string":
                inner = [child for child in node.named_children if child.type != "string_content"]
                for child in inner:
                    self.word(child)
                return None if inner else double_quoted(source[1:-1])
            case "concatenation":
                if b"".join(child.text or b"" for child in node.children) != node.text:
                    raise Unprovable("the second parser meets an unusual word")
                pieces = [self.word(child) for child in node.children]
                return None if None in pieces else "".join(piece for piece in pieces if piece is not None)
            case "simple_expansion":
                return None
            case "expansion":
                if [child.type for child in node.named_children] not in (["variable_name"], ["special_variable_name"]):
                    raise Unprovable("the second parser meets an unusual expansion")
                return None
            case "command_substitution" | "process_substitution":
                self.visit(node)
                return None
            case kind:
                raise Unprovable(f"the second parser meets {kind}")


def _source(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "surrogateescape")


def _operator(node: Node) -> str:
    return next((child.type for child in node.children if not child.is_named), "")
