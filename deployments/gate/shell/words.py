"""Words: quotes, expansions, here-documents and redirects; what a variable or a substitution makes of them."""

import re
from collections.abc import Sequence
from dataclasses import replace

from deployments.gate.shell import expand
from deployments.gate.shell.arithmetic import Arithmetic
from deployments.gate.shell.atoms import (
    Redirect,
    Source,
    Unprovable,
    Word,
    active,
    ansi_c,
    bare,
    braced,
    check_braces,
    double_quoted,
    exact,
    source_of,
)
from deployments.gate.shell.names import ARGUMENT, PLAIN_VARIABLES, PRIVATE, may_set
from deployments.gate.shell.pieces import FOLLOWED, INTEGER, Piece, element, expanded, word_of
from deployments.gate.shell.tree import Node, child, children, fields, last_is_call, literal, text_of
from deployments.gate.shell.walk import Known

REDIRECTS = frozenset({"<", ">", ">>", ">|", "&>", "&>>", ">&", "<&", "<<", "<<-", "<<<"})
HEREDOCS = frozenset({"<<", "<<-"})
_CUTTING = frozenset({"%", "%%", "#", "##"})
_CASES = frozenset({"^", "^^", ",", ",,"})
_TRIMMING = _CUTTING | _CASES | {":-", "-", ":=", "=", ":+", "+"}
_FED = frozenset({"Op", "Word", "Hdoc"})


class Words(Arithmetic):
    """The part of a walk that reads words and redirects."""

    __slots__ = ()

    def redirect(self, node: Node, known: Known) -> Redirect:
        """One redirect; what a here-document feeds is its body."""
        parts = fields(node, "Op", "N", "Word", "Hdoc")
        operator = parts.get("Op")
        if not isinstance(operator, str) or operator not in REDIRECTS:
            raise Unprovable("an unusual redirect")
        number = text_of(child(parts, "N"), "Value") if "N" in parts else ""
        if "N" in parts and not re.fullmatch(r"[0-9]+", number):
            raise Unprovable("a redirect through a variable")
        if number and int(number) == 0 and not operator.startswith("<"):
            raise Unprovable("standard input opened for output")
        if number and int(number) != 0 and operator.startswith("<"):
            # What reads the pipe, or another redirect, still reads that.
            raise Unprovable("an input that is not standard input")
        word = self.word(child(parts, "Word"), known)
        if operator not in HEREDOCS:
            return Redirect(operator, word)
        body = self.word(child(parts, "Hdoc"), known, quoted=True) if "Hdoc" in parts else Word("")
        if body.text is None or body.form is not None:
            raise Unprovable("an expansion in a here-document")
        return Redirect(operator, body)

    def words(self, node: Node, known: Known) -> list[Word]:
        """The words that one written word stands for: several if it is a plain brace expansion, or a whole array."""
        parts = children(fields(node, "Parts"), "Parts")
        if len(parts) == 1 and parts[0].get("Type") == "Lit":
            raw = text_of(parts[0], "Value")
            expanded = braced(raw)
            if expanded is not None:
                return [_expanded(text, "\0{" + raw) for text in expanded]
        if len(parts) == 1 and parts[0].get("Type") == "DblQuoted":
            inner = parts[0].get("Parts")
            if isinstance(inner, list) and len(inner) == 1 and isinstance(inner[0], dict):
                return self.elements(inner[0], known) or [self.word(node, known)]
        return [self.word(node, known)]

    def elements(self, node: Node, known: Known) -> list[Word]:
        """`"${NAME[@]}"` and `"$@"`: a word for every element; nothing for any other expansion."""
        if node.get("Type") != "ParamExp" or node.keys() & {"Length", "Exp", "Repl", "Slice", "Excl", "Width", "Names"}:
            return []
        name = text_of(child(node, "Param"), "Value")
        whole = name == "@" or ("Index" in node and literal(node["Index"]) == "@")
        if not whole:
            return []
        form = "\0" + self.raw(node)
        value = known.get(name)
        if value is not None and value.items:
            return [replace(item, form=form) for item in value.items]
        if name == "@":
            pieces = () if self.shifts or value is not None else (Source(kind="$@"),)
            return [Word(None, form=form, loose=True, several=True, pieces=pieces)]
        if value is None:
            raise Unprovable(f"the variable ${name}, whose value is not known")
        return [Word(None, form=form, loose=True, several=True)]

    def word(self, node: Node, known: Known, quoted: bool = False, assigned: bool = False) -> Word:
        """One word; `quoted` is the body of a here-document, `assigned` a value, which is never split."""
        pieces: list[Piece] = []
        unquoted: list[str] = []
        raws: list[str] = []
        for part in children(fields(node, "Parts"), "Parts"):
            if part.get("Type") == "Lit":
                raw = text_of(part, "Value")
                if quoted:
                    pieces.append(Piece(raw, raw))
                    continue
                text, has_glob = bare(raw)
                pieces.append(Piece(text, text, glob=has_glob))
                unquoted.append(active(raw))
                raws.append(raw)
                continue
            pieces.append(self.part(part, known, within=assigned and part.get("Type") == "CmdSubst"))
        check_braces("".join(unquoted))
        word = word_of(pieces)
        # Only of a word without quotes: they could be a part of the brackets.
        return replace(word, exact=exact("".join(raws))) if word.glob and len(pieces) == len(raws) else word

    def part(self, node: Node, known: Known, within: bool = False) -> Piece:
        """One quoted or expanded piece, `within` double quotes or not."""
        match node.get("Type"):
            case "SglQuoted":
                parts = fields(node, "Dollar", "Value")
                raw = text_of(parts, "Value") if "Value" in parts else ""
                text = ansi_c(raw) if parts.get("Dollar") else raw
                return Piece(text, text)
            case "DblQuoted":
                parts = fields(node, "Parts", "Dollar")
                if parts.get("Dollar"):
                    raise Unprovable("a locale-translated string")
                inner: list[Piece] = []
                for part in children(parts, "Parts"):
                    if part.get("Type") == "Lit":
                        text = double_quoted(text_of(part, "Value"))
                        inner.append(Piece(text, text))
                    else:
                        inner.append(self.part(part, known, within=True))
                if len(inner) == 1 and inner[0].expanded and inner[0].form.endswith(FOLLOWED):
                    return inner[0]
                whole = word_of(inner)
                expanded = whole.form is not None
                # Inside quotes a value keeps its blanks; what a loop's glob matched is still one name it covers. Only
                # the elements of an array stay words of their own.
                text = whole.text or (None if whole.text is None else "")
                return Piece(text, whole.shape, whole.glob, whole.loose, expanded, whole.symbolic, whole.pieces)
            case "ParamExp":
                return self.parameter(node, known, within)
            case "CmdSubst":
                parts = fields(node, "Stmts", "Backquotes")
                source = self.output(children(parts, "Stmts"), known)
                text = self.printed(parts) if within else None
                if text is not None:
                    return Piece(text, "\0$(", expanded=True)
                return Piece(None, "\0$(", loose=not within, expanded=True, sources=(source,))
            case "ProcSubst":
                parts = fields(node, "Op", "Stmts")
                if parts.get("Op") != "<(":
                    raise Unprovable("an output process substitution")
                source = self.output(children(parts, "Stmts"), known)
                return Piece(None, "\0<(", expanded=True, sources=(source,))
            case "ArithmExp":
                calculated = child(fields(node, "X"), "X")
                self.arithmetic(calculated, known)
                value = self.constant(calculated, known)
                if value is not None:
                    return Piece(str(value), "\0" + self.raw(node), expanded=True)
                return Piece(None, "\0" + self.raw(node), expanded=True, sources=INTEGER.pieces)
            case kind:
                raise Unprovable(f"the shell expansion {kind}")

    def output(self, nodes: Sequence[Node], known: Known) -> Source:
        """Statements in a substitution, and where what they print comes from: known if they are one command or pipe."""
        inlined, before = self.inlined, len(self.atoms)
        self.inside(nodes, known)
        one = len(nodes) == 1 and last_is_call(nodes[0]) and not nodes[0].get("Background")
        if not one or inlined != self.inlined or len(self.atoms) == before:
            return Source()
        return source_of(self.atoms[-1])

    @staticmethod
    def printed(parts: Node) -> str | None:
        """What `$(cat <<'END' ...)` puts in its place: the text as it is written, less the newlines at its end.

        Exactly one `cat` without a word more and one here-document with a quoted delimiter; None for anything else.
        """
        statements = children(parts, "Stmts")
        if len(statements) != 1 or parts.get("Backquotes"):
            return None
        held = fields(statements[0], "Cmd", "Redirs", "Negated", "Background")
        redirects = children(held, "Redirs")
        command = held.get("Cmd")
        if held.keys() != {"Cmd", "Redirs"} or len(redirects) != 1 or not isinstance(command, dict):
            return None
        arguments = command.get("Args")
        if command.get("Type") != "CallExpr" or "Assigns" in command or not isinstance(arguments, list):
            return None
        fed = fields(redirects[0], "Op", "Word", "N", "Hdoc")
        if [literal(word) for word in arguments] != ["cat"] or fed.get("Op") != "<<" or fed.keys() - _FED:
            return None
        ends = children(fields(child(fed, "Word"), "Parts"), "Parts")
        if len(ends) != 1 or ends[0].get("Type") not in {"SglQuoted", "DblQuoted"} or "Dollar" in ends[0]:
            return None
        body = children(fields(child(fed, "Hdoc"), "Parts"), "Parts") if "Hdoc" in fed else []
        if any(part.get("Type") != "Lit" for part in body):
            return None
        return "".join(text_of(part, "Value") for part in body).rstrip("\n")

    def parameter(self, node: Node, known: Known, within: bool) -> Piece:
        """`$NAME` and `${NAME...}`."""
        parts = fields(node, "Short", "Param", "Exp", "Length", "Repl", "Slice", "Index")
        name = text_of(child(parts, "Param"), "Value")
        form = "\0" + self.raw(node)
        value = self.value(name, known)
        index = literal(parts["Index"]) if "Index" in parts else None
        if "Index" in parts:
            value = element(value, index, bool(parts.get("Length")))
            if parts.get("Length") and index in {"@", "*"}:
                return expanded(value, name, form, within)
        elif name == "@":
            value = Word(None)
        elif value is not None and value.items is not None:
            value = value.items[0] if value.items else Word("")
        if parts.get("Length"):
            known_text = _letters(value)
            text = None if known_text is None else str(len(known_text))
            return Piece(text, form, expanded=True, sources=() if text else (Source(kind="number"),))
        changed = self.changed(parts, name, value, known, within)
        made = expanded(value if changed is None else changed, name, form, within)
        # Each element is a word of its own, in quotes too: `"z${a[@]}"` may be many, and flags among them.
        return replace(made, loose=True) if "@" in {name, index} else made

    def value(self, name: str, known: Known) -> Word | None:
        """What is known of a variable; None for those that the shell or the runner sets, and that are harmless."""
        value = known.get(name)
        if value is not None or name in PLAIN_VARIABLES:
            return value
        if ARGUMENT.fullmatch(name):
            return Word(None) if self.shifts else Word(None, pieces=(Source(kind=f"${name}"),))
        if name in {"@", "*"}:
            return Word(None)
        if may_set(name) and not PRIVATE.search(name) and name not in self.assigned:
            return Word(None)  # nobody sets it in this text, but perhaps somebody did before
        raise Unprovable(f"the variable ${name}, whose value is not known")

    def changed(self, parts: Node, name: str, value: Word | None, known: Known, within: bool) -> Word | None:
        """The value after `:-`, `%`, `/`, `^^`, `:0:2`; None where nothing is done to it."""
        text = _letters(value)
        if "Exp" in parts:
            held = fields(child(parts, "Exp"), "Op", "Word")
            operator = text_of(held, "Op")
            if operator not in _TRIMMING:
                raise Unprovable("an unusual parameter expansion")
            self.check_quotes(held, "Word", within, "" if operator in _CUTTING else "\\")
            word = self.word(child(held, "Word"), known) if "Word" in held else Word("")
            if word.form is not None:
                raise Unprovable("an expansion inside another one")
            if operator in _CASES:
                done = None if text is None or word.text else expand.cased(text, operator)
            elif operator in _CUTTING:
                raw = self.raw(child(held, "Word")) if "Word" in held else ""
                done = None if text is None else expand.trimmed(text, operator, raw)
            elif operator in {":=", "="}:
                if (name in known and not _plain(value)) or not may_set(name) or name in self.frozen:
                    raise Unprovable("a variable that is set where it is used")
                done = _plain(value)
            elif _plain(value) is None or word.glob or operator.endswith("+"):
                done = None
            else:
                done = word.text if not _plain(value) and operator == ":-" else _plain(value)
        elif "Repl" in parts:
            held = fields(child(parts, "Repl"), "All", "Orig", "With")
            self.check_quotes(held, "Orig", within, "")
            self.check_quotes(held, "With", within, "\\")
            pieces = [self.word(child(held, key), known) for key in ("Orig", "With") if key in held]
            if any(piece.form is not None for piece in pieces):
                raise Unprovable("an expansion inside another one")
            by = pieces[1].text or "" if len(pieces) > 1 else ""
            raw = self.raw(child(held, "Orig")) if "Orig" in held else ""
            done = None if text is None else expand.replaced(text, raw, by, bool(held.get("All")))
        elif "Slice" in parts:
            held = fields(child(parts, "Slice"), "Offset", "Length")
            for key in held:
                self.arithmetic(child(held, key), known)
            raws = [self.raw(child(held, key)) if key in held else None for key in ("Offset", "Length")]
            done = None if text is None or raws[0] is None else expand.sliced(text, raws[0], raws[1])
        else:
            return None
        return Word(done)

    def check_quotes(self, held: Node, key: str, within: bool, more: str) -> None:
        """Raise `Unprovable` for quotes that mean something else within double quotes.

        `"${x:-'$(y)'}"` runs `y`: there single quotes are letters, and a backslash is one before most others; both
        parsers read them as they do elsewhere. `more` are letters besides the single quote.
        """
        if within and key in held and not set(self.raw(child(held, key))).isdisjoint({"'", *more}):
            raise Unprovable("quotes in an expansion that is in double quotes itself")


def _plain(value: Word | None) -> str | None:
    """The text of a value; None where it stands for something else."""
    return None if value is None or value.glob or value.symbolic else value.text


def _letters(value: Word | None) -> str | None:
    """The text of a value, as it is when it runs: `~` in it may be the name of a home by then."""
    text = _plain(value)
    return None if text is None or text.startswith("~") or ":~" in text else text


def _expanded(raw: str, form: str) -> Word:
    """One word of a brace expansion: without quotes, but perhaps a glob."""
    text, glob = bare(raw)
    return Word(text, glob, form=form, several=glob)
