"""The second opinion: tree-sitter's reading of the same text, reduced to the same shape and compared.

tree-sitter never judges alone: it silently drops words in some lines. It is here because it fails differently from
shfmt; where the two do not see the same commands, words and redirects, the line is not understood.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from deployments.gate.shell.atoms import (
    Shape,
    Unprovable,
    active,
    ansi_c,
    bare,
    braced,
    check_braces,
    double_quoted,
)

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
_FOLLOWING = frozenset({"pipeline", "list", "command", "subshell", "compound_statement", "redirected_statement"})
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
        "brace_expression",
        "arithmetic_expansion",
    }
)


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
    return sorted(reader.found)


def check_agreement(text: str, shapes: Sequence[Shape]) -> None:
    """Raise `Unprovable` unless both parsers read the same commands, words and redirects out of `text`."""
    if second_opinion(text) != sorted(shapes):
        raise Unprovable("two parsers read the command differently")


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
                words: list[str] = ["for"]
                for child in node.named_children:
                    if child.type in _WORDS:
                        words.append(self.word(child))
                    elif child.type == "variable_name":
                        words.append(_source(child))
                    else:
                        self.visit(child)
                self.found.append((tuple(words), (), ()))
            case "test_command":
                self.test(node)
            case "case_statement":
                self.cases(node)
            case "declaration_command":
                self.declaration(node)
            case "unset_command":
                names = sorted({_source(child) for child in node.named_children} - {"-v"})
                self.found.append((("unset", *names), (), ()))
            case "compound_statement" if node.children[0].type == "((":
                inner = [child for child in node.children if child.type not in {"((", "))"}]
                self.calculation("((", inner)
            case "c_style_for_statement":
                body = node.child_by_field_name("body")
                closed = next(place for place, child in enumerate(node.children) if child.type == "))")
                head = [child for child in node.children[1:closed] if child.type != "(("]
                self.calculation("for((", head)
                if body is None:
                    raise Unprovable("the second parser meets an unusual loop")
                self.visit(body)
            case "function_definition":
                name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
                if name is None or body is None or node.child_by_field_name("redirect") is not None:
                    raise Unprovable("the second parser meets an unusual function")
                self.found.append((("function", _source(name)), (), ()))
                self.visit(body)
            case kind if kind in _PASS:
                for child in node.named_children:
                    self.visit(child)
            case kind:
                raise Unprovable(f"the second parser meets {kind}")

    def declaration(self, node: Node) -> None:
        """`export`, `readonly`, `local` of assignments; `local` and `declare` of words."""
        variant = node.children[0].type
        plain = all(child.type in {"word", "variable_name"} for child in node.children[1:])
        if variant in {"declare", "typeset"} and plain:
            self.found.append(((variant, *(_source(child) for child in node.children[1:])), (), ()))
            return
        if variant not in {"export", "readonly", "local"}:
            raise Unprovable("the second parser meets a declaration")
        names = tuple(
            _source(child) if child.type == "variable_name" and variant == "local" else self.assignment(child)
            for child in node.children[1:]
        )
        self.found.append(((variant,), names, ()))

    def calculation(self, opened: str, nodes: Sequence[Node]) -> None:
        """`((...))`, by its text; commands in it are visited."""
        for node in nodes:
            self.check_plain(node)
        self.found.append(((opened, "".join("".join(map(_source, nodes)).split())), (), ()))

    def cases(self, node: Node) -> None:
        """`case`: its word, its patterns as they are written, and the commands of every branch."""
        forms = ["case"]
        for child in node.named_children:
            if child.type != "case_item":
                forms.append(self.word(child))
                continue
            patterns = child.children_by_field_name("value")
            forms += [_source(pattern) for pattern in patterns]
            for part in child.named_children:
                if part not in patterns:
                    self.visit(part)
        self.found.append((tuple(forms), (), ()))

    def redirected(self, node: Node) -> None:
        bodies: list[Node] = []
        redirects: list[tuple[str, str]] = []
        for child in node.named_children:
            if child.type.endswith("_redirect"):
                redirects += self.redirect(child)
            else:
                bodies.append(child)
        if not bodies:
            self.found.append(((), (), tuple(sorted(redirects))))
        elif len(bodies) == 1 and bodies[0].type == "command":
            self.command(bodies[0], tuple(redirects), _dropped(node))
        elif len(bodies) == 1 and bodies[0].type == "test_command":
            self.test(bodies[0], tuple(redirects))
        else:
            # As in shfmt's reduction: the redirects of a group are an atom of their own. tree-sitter hangs those of the
            # last command of a list or pipeline on the whole list, which is a difference of place, not of content.
            if bodies[0].type in {"list", "pipeline", "negated_command"}:
                self.last_of(bodies[0], tuple(redirects), _dropped(node))
                return
            self.found.append(((), (), tuple(sorted(redirects))))
            for body in bodies:
                self.visit(body)

    def last_of(self, node: Node, redirects: tuple[tuple[str, str], ...], dropped: tuple[str, ...]) -> None:
        """Visit a list and give `redirects` to its last command, where bash puts them."""
        *others, last = node.named_children
        for child in others:
            self.visit(child)
        match last.type:
            case "command":
                self.command(last, redirects, dropped)
            case "test_command":
                self.test(last, redirects)
            case "list" | "pipeline" | "negated_command":
                self.last_of(last, redirects, dropped)
            case _:
                self.found.append(((), (), tuple(sorted(redirects))))
                self.visit(last)

    def command(self, node: Node, outer: tuple[tuple[str, str], ...], dropped: tuple[str, ...] = ()) -> None:
        words: list[str] = []
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
            elif child.type == "subshell" and words in (["time"], ["time", "-p"]) and not (names or redirects):
                self.visit(child)
                return
            elif child.is_named:
                words.append(self.word(child))
            else:
                raise Unprovable("the second parser meets an unusual word")
        words += dropped
        if words[:1] == ["time"]:
            words = words[2:] if words[1:2] == ["-p"] else words[1:]
        self.found.append((tuple(words), tuple(names), tuple(sorted(redirects))))

    def test(self, node: Node, redirects: tuple[tuple[str, str], ...] = ()) -> None:
        """`[ ... ]` as the ordinary command it is; the words of `[[ ... ]]` as they are written."""
        words: list[str] = []

        double = node.children[0].type == "[["

        def collect(part: Node) -> None:
            if part.type in _WORDS or part.type in {"regex", "extglob_pattern"}:
                value = self.word(part) if part.type in _WORDS else ""
                words.append(_source(part) if double else value)
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
        if (
            node.type != "variable_assignment"
            or name is None
            or name.type != "variable_name"
            or node.named_child_count > 2
        ):
            raise Unprovable("the second parser meets an unusual assignment")
        added = "\0+" if any(child.type == "+=" for child in node.children) else ""
        if value is not None and value.type == "array":
            shown = "\0(" + " ".join(self.word(child) for child in value.named_children)
        else:
            shown = self.word(value) if value is not None else ""
        return f"{_source(name)}={added}{shown}"

    def redirect(self, node: Node) -> list[tuple[str, str]]:
        if node.type == "herestring_redirect":
            for child in node.named_children:
                self.word(child)
            return [("<<<", "")]
        if node.type == "heredoc_redirect":
            found: list[tuple[str, str]] = [(_operator(node), "")]
            for child in node.named_children:
                if child.type == "file_redirect":
                    found += self.redirect(child)
                elif child.type == "heredoc_body":
                    if any(part.type != "heredoc_content" for part in child.named_children):
                        raise Unprovable("an expansion in a here-document")
                elif child.type in _FOLLOWING:
                    # What comes after the here-document's start on its line: the rest of the pipe or list.
                    self.visit(child)
                elif child.type not in {"heredoc_start", "heredoc_end", "file_descriptor"}:
                    raise Unprovable("the second parser meets an unusual here-document")
            return found
        targets = [child for child in node.named_children if child.type != "file_descriptor"]
        if len(targets) != 1:
            raise Unprovable("two parsers read the command differently")
        return [(_operator(node), self.word(targets[0]))]

    def word(self, node: Node) -> str:
        """The word as `atoms.Word.shape` has it: its value, expansions marked; commands inside are visited."""
        if node.is_missing or node.is_error:
            raise Unprovable("the second parser finds a syntax error")
        source = _source(node)
        if braced(source) is not None:
            return "\0{" + source
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
                return self.string(node)
            case "concatenation":
                if b"".join(child.text or b"" for child in node.children) != node.text:
                    raise Unprovable("the second parser meets an unusual word")
                check_braces(active("".join(_source(child) for child in node.children if child.type == "word")))
                return "".join(self.word(child) for child in node.children)
            case "simple_expansion" | "expansion" | "arithmetic_expansion":
                self.check_plain(node)
                return "\0" + source.lstrip(" \t\n")
            case "command_substitution":
                self.visit(node)
                return "\0$("
            case "process_substitution":
                self.visit(node)
                return "\0<("
            case kind:
                raise Unprovable(f"the second parser meets {kind}")

    def check_plain(self, node: Node) -> None:
        """No command hides in this expansion, as far as this reader sees; those in a calculation are visited."""
        for child in node.named_children:
            if child.is_missing or child.type == "process_substitution":
                raise Unprovable("the second parser meets an unusual expansion")
            if child.type == "command_substitution":
                if node.type in {"expansion", "simple_expansion", "subscript", "string"}:
                    raise Unprovable("the second parser meets an unusual expansion")
                self.visit(child)
                continue
            if child.type == "subscript":
                index = child.child_by_field_name("index")
                if index is None or index.type not in {"word", "number"} or index.named_child_count:
                    raise Unprovable("the second parser meets an unusual expansion")
            self.check_plain(child)

    def string(self, node: Node) -> str:
        """Text in double quotes. Its literal parts are what lies between the expansions: not all of it has nodes."""
        text, start = node.text or b"", node.start_byte
        pieces: list[str] = []
        place = 1
        for child in node.named_children:
            if child.type == "string_content":
                continue
            # Blanks before an expansion are put into its node; they are text.
            source = child.text or b""
            blanks = len(source) - len(source.lstrip(b" \t\n"))
            end = child.start_byte - start + blanks
            pieces.append(double_quoted(text[place:end].decode("utf-8", "surrogateescape")))
            pieces.append(self.word(child))
            place = child.end_byte - start
        pieces.append(double_quoted(text[place:-1].decode("utf-8", "surrogateescape")))
        return "".join(pieces)


def _dropped(node: Node) -> tuple[str, ...]:
    """The last word of a command before its here-document, where that is `-`: tree-sitter has no node for it."""
    children = node.children
    for body, after in zip(children, children[1:], strict=False):
        if after.type == "heredoc_redirect" and not body.type.endswith("_redirect"):
            between = (node.text or b"")[body.end_byte - node.start_byte : after.start_byte - node.start_byte]
            return ("-",) if re.fullmatch(rb"[ \t]+-[ \t]+", between) else ()
    return ()


def _source(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "surrogateescape")


def _operator(node: Node) -> str:
    return next((child.type for child in node.children if not child.is_named), "")
