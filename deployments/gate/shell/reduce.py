"""From shfmt's syntax tree to the simple commands it would run; whatever is not on a list here is `Unprovable`.

Facts about the tree (shfmt 3.14.1): `Lit.Value` is raw, so backslashes, braces, globs and `~` are ours to read; empty
fields are left out; positions are objects of three numbers; redirects and negation sit on the statement.

Values are followed where that is exact and nowhere else. A variable is known where an assignment of literal words to
it was surely executed before and nothing may have changed it since: after `a && b` both, after `a || b` what both
ways agree on, in a loop only what the loop does not set; what a subshell or a side of a pipe sets is unknown later. A
loop over literal words is walked once per word. Only names that no program and no shell obeys may be set.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, cast

from deployments.gate.shell.atoms import (
    MAX_BRACES,
    MAX_COMMANDS,
    MAX_RUNS,
    Atom,
    Redirect,
    Shape,
    Unprovable,
    Word,
    active,
    ansi_c,
    bare,
    braced,
    check_braces,
    double_quoted,
)
from deployments.ports import JsonValue

Node: TypeAlias = dict[str, JsonValue]
Known: TypeAlias = Mapping[str, Word]


def _set(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


# Variables whose value is neither a secret nor code. Everything else may be either.
PLAIN_VARIABLES = _set(
    "HOME PWD OLDPWD USER LOGNAME HOSTNAME UID EUID PPID SHELL SHLVL TERM LANG LC_ALL TZ",
    "PATH EDITOR PAGER VISUAL TMPDIR",
    "GOPATH GOROOT JAVA_HOME VIRTUAL_ENV CONDA_PREFIX PYTHONPATH KUBECONFIG AWS_PROFILE AWS_REGION AWS_DEFAULT_REGION",
    "RANDOM SECONDS EPOCHSECONDS LINENO BASHPID BASH_VERSION OSTYPE HOSTTYPE MACHTYPE COLUMNS LINES NODE_ENV",
    "CI ? # $ !",
)
# Their values are one word of digits, whatever happens.
NUMBERS = frozenset({"?", "#", "$", "!", "UID", "EUID", "PPID", "SHLVL", "RANDOM", "SECONDS", "EPOCHSECONDS", "LINENO"})
# Names that a line may use for itself. Lower case, for what programs and shells obey is upper case, but for these few;
# and the upper-case names that people use for such things.
_SCRATCH = re.compile(r"_?[a-z][a-z0-9_]*")
_OBEYED = _set("path fpath cdpath manpath mailpath module_path argv prompt status signals histchars auto_resume")
_UPPER_SCRATCH = _set(
    "NS NAMESPACE POD PODS SVC SERVICE DEPLOY DEPLOYMENT APP NAME NAMES DIR DIRS FILE FILES F D I J K N",
    "X Y A B C P S T",
    "BRANCH TAG SHA COMMIT REF REPO PR LOG LOGS LOGFILE LOGDIR SRC DST ID IDS PID PIDS IMAGE CONTAINER CLUSTER NODE",
    "PORT URL BASE_URL COUNT TOTAL START END LIMIT RESULT RES DATE TODAY NOW PATTERN QUERY ITEM LINE KEY JOB RELEASE",
)
LISTS = frozenset({"&&", "||", "|", "|&"})
REDIRECTS = frozenset({"<", ">", ">>", ">|", "&>", "&>>", ">&", "<&", "<<", "<<-", "<<<"})
HEREDOCS = frozenset({"<<", "<<-"})
# `[[ ]]`: no operator that evaluates a word as arithmetic (`-eq`) or as a subscript (`-v`, `-R`): both can run code.
_UNARY_TESTS = _set("! -e -a -f -d -r -w -x -s -L -h -n -z -b -c -p -S -t -u -g -k -O -G -N")
_BINARY_TESTS = _set("&& || = == != =~ < > -nt -ot -ef")
_COUNTING_TESTS = _set("-eq -ne -lt -le -gt -ge")
_TRIMMING = frozenset({"%", "%%", "#", "##", ":-", "-", ":+", "+"})
_DIRECTORY_CHANGERS = frozenset({"cd", "pushd", "popd"})
_READ_FLAGS = frozenset({"-r", "-s"})
_FOLLOWED = "/"
_FED = frozenset({"Op", "Word", "Hdoc"})


def may_set(name: str) -> bool:
    """True for a variable that a line may set for itself."""
    if name.endswith("_proxy") or name in _OBEYED:
        return False
    return name in _UPPER_SCRATCH or _SCRATCH.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class _Flow:
    """What is known of variables after a command: in any case, and when it succeeded."""

    always: Known
    success: Known


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a word."""

    text: str | None
    form: str
    glob: bool = False
    loose: bool = False
    expanded: bool = False
    symbolic: bool = False


@dataclass(slots=True)
class _Reducer:
    """Walks one tree. `shapes` has every command of the text once, `atoms` every run of it."""

    source: bytes
    atoms: list[Atom] = field(default_factory=list[Atom])
    shapes: list[Shape] = field(default_factory=list[Shape])
    scope: tuple[int, ...] = ()
    scopes: int = 0
    repeating: int = 0

    def statements(self, nodes: Sequence[Node], known: Known) -> _Flow:
        flow = _Flow(known, known)
        for node in nodes:
            flow = self.statement(node, flow.always)
        return flow

    def statement(self, node: Node, known: Known) -> _Flow:
        parts = _parts(node, "Cmd", "Redirs", "Negated", "Background")
        redirects = tuple(self.redirect(redirect, known) for redirect in _nodes(parts, "Redirs"))
        if "Cmd" not in parts:
            self.add(Atom((), (), redirects))
            return _Flow(known, known)
        command = _node(parts, "Cmd")
        background = bool(parts.get("Background"))
        if command.get("Type") == "CallExpr":
            flow = self.call(command, redirects, known)
        elif command.get("Type") == "TestClause":
            self.test(command, redirects, known)
            flow = _Flow(known, known)
        else:
            if redirects:
                # The redirects of a group reach every command in it: kept as an atom of their own.
                self.add(Atom((), (), redirects))
            flow = self.compound(command, known)
        if background:
            return self.forgotten(node, known)
        return _Flow(flow.always, flow.always) if parts.get("Negated") else flow

    def call(self, node: Node, redirects: tuple[Redirect, ...], known: Known) -> _Flow:
        parts = _parts(node, "Assigns", "Args")
        assignments: list[tuple[str, Word]] = []
        after = dict(known)
        bare_assignment = "Args" not in parts
        for assign in _nodes(parts, "Assigns"):
            held = _parts(assign, "Name", "Value")
            name = _text(_node(held, "Name"), "Value")
            seen = after if bare_assignment else known
            value = self.word(_node(held, "Value"), seen, assigned=True) if "Value" in held else Word("")
            assignments.append((name, value))
            # Globs and blanks in a value are only what they are until the variable is used; `~` is expanded here.
            after[name] = replace(value, form=None, loose=False)
        written = [self.words(node, known) for node in _nodes(parts, "Args")]
        words = tuple(word for group in written for word in group)
        shape: Shape = (
            tuple(group[0].shape for group in written),
            tuple(f"{name}={value.shape}" for name, value in assignments),
            _redirect_shapes(redirects),
        )
        if bare_assignment:
            kept = tuple(pair for pair in assignments if not may_set(pair[0]))
            if not kept and not redirects:
                self.note(shape)
                return _Flow(after, after)
            self.add(Atom((), kept, redirects), shape)
            return _Flow(after, after)
        if words and words[0].form is not None:
            raise Unprovable("the program is only known when it runs")
        changed = {name for name, _ in assignments}
        if words and words[0].text == "read":
            read = self.read(words, assignments, redirects)
            self.note(shape)
            if redirects:
                self.add(Atom((), (), redirects), None)
            flow = {**{name: word for name, word in known.items() if name not in changed}, **read}
            return _Flow(flow, flow)
        self.add(Atom(words, tuple(assignments), redirects), shape)
        flow = {name: word for name, word in known.items() if name not in changed}
        return _Flow(flow, flow)

    @staticmethod
    def read(words: Sequence[Word], assignments: Sequence[tuple[str, Word]], redirects: Sequence[Redirect]) -> Known:
        """`IFS= read -r NAME ...`: sets variables to words of the input; nothing else of `read` is understood."""
        if any(name != "IFS" or value.text is None for name, value in assignments):
            raise Unprovable("read with variables set")
        names = [word.text or "" for word in words[1:] if word.text not in _READ_FLAGS]
        if not names or not all(may_set(name) for name in names):
            raise Unprovable("read of something else than plain names")
        return {name: Word(None) for name in names}

    def compound(self, node: Node, known: Known) -> _Flow:
        match node.get("Type"):
            case "BinaryCmd":
                return self.joined(node, known)
            case "Subshell":
                self.inside(_nodes(_parts(node, "Stmts"), "Stmts"), known)
                return self.forgotten(node, known)
            case "Block":
                return self.statements(_nodes(_parts(node, "Stmts"), "Stmts"), known)
            case "IfClause":
                parts = _parts(node, "Cond", "Then", "Else", "Kind")
                condition = self.statements(_nodes(parts, "Cond"), known)
                then = self.statements(_nodes(parts, "Then"), condition.success).always
                other = condition.always
                if "Else" in parts:
                    other = self.compound({"Type": "IfClause", **_node(parts, "Else")}, condition.always).always
                return _same(_both(then, other))
            case "WhileClause":
                parts = _parts(node, "Cond", "Do", "Until")
                left = self.without(node, known)
                before = len(self.atoms)
                condition = self.statements(_nodes(parts, "Cond"), left)
                self.statements(_nodes(parts, "Do"), condition.always if parts.get("Until") else condition.success)
                self.check_still(before)
                return _same(left)
            case "ForClause":
                return self.loop(node, known)
            case "TimeClause":
                parts = _parts(node, "Stmt", "PosixFormat")
                return self.statement(_node(parts, "Stmt"), known) if "Stmt" in parts else _same(known)
            case "CaseClause":
                return self.cases(node, known)
            case "DeclClause":
                return self.export(node, known)
            case kind:
                raise Unprovable(f"the shell construct {kind}")

    def cases(self, node: Node, known: Known) -> _Flow:
        """Every branch of a `case`, as if each were taken; what one sets is not known in the others, or after."""
        parts = _parts(node, "Word", "Items")
        word = self.word(_node(parts, "Word"), known)
        left = self.without(node, known)
        forms = ["case", word.shape]
        branches: list[list[Node]] = []
        for item in _nodes(parts, "Items"):
            held = _parts(item, "Op", "Patterns", "Stmts")
            for pattern in _nodes(held, "Patterns"):
                if self.word(pattern, known).form is not None:
                    raise Unprovable("an expansion in a pattern")
                forms.append(self.raw(pattern))
            branches.append(_nodes(held, "Stmts"))
        self.note((tuple(forms), (), ()))
        for branch in branches:
            self.statements(branch, left)
        return _same(left)

    def export(self, node: Node, known: Known) -> _Flow:
        """`export NAME=VALUE ...`: judged like variables set for one command. Any other declaration is not followed."""
        parts = _parts(node, "Variant", "Args")
        if _text(_node(parts, "Variant"), "Value") != "export" or "Args" not in parts:
            raise Unprovable("a declaration of variables")
        after = dict(known)
        assignments: list[tuple[str, Word]] = []
        for assign in _nodes(parts, "Args"):
            held = _parts(assign, "Name", "Value")
            if held.keys() != {"Name", "Value"}:
                raise Unprovable("a declaration of variables")
            name = _text(_node(held, "Name"), "Value")
            value = self.word(_node(held, "Value"), known, assigned=True)
            assignments.append((name, value))
            after[name] = replace(value, form=None, loose=False)
        shape: Shape = (("export",), tuple(f"{name}={value.shape}" for name, value in assignments), ())
        self.add(Atom((), tuple(assignments)), shape)
        return _same(after)

    def joined(self, node: Node, known: Known) -> _Flow:
        parts = _parts(node, "Op", "X", "Y")
        operator = parts.get("Op")
        if operator not in LISTS:
            raise Unprovable("an unusual way to join commands")
        left, right = _node(parts, "X"), _node(parts, "Y")
        if operator == "&&":
            first = self.statement(left, known)
            second = self.statement(right, first.success)
            return _Flow(_both(self.without(right, first.always), second.always), second.success)
        if operator == "||":
            first = self.statement(left, known)
            second = self.statement(right, first.always)
            rest = self.without(right, first.success)
            return _Flow(_both(rest, second.always), _both(rest, second.success))
        self.statement(left, known)
        upstream = self.atoms[-1] if self.atoms and _last_is_call(left) else None
        before = len(self.atoms)
        self.statement(right, known)
        command = right.get("Cmd")
        called = isinstance(command, dict) and command.get("Type") == "CallExpr" and len(self.atoms) > before
        if upstream is not None and called:
            self.atoms[-1] = replace(self.atoms[-1], feed=upstream)
        return self.forgotten(node, known)

    def inside(self, nodes: Sequence[Node], known: Known) -> None:
        """Statements that run in a subshell: what they change of directories and variables stays there."""
        self.scopes += 1
        outer, self.scope = self.scope, (*self.scope, self.scopes)
        self.statements(nodes, known)
        self.scope = outer

    def forgotten(self, node: Node, known: Known) -> _Flow:
        return _same(self.without(node, known))

    def without(self, node: Node, known: Known) -> Known:
        """`known` less all that `node` sets anywhere in it."""
        names = _names_set(node)
        return {name: word for name, word in known.items() if name not in names} if names else known

    def check_still(self, before: int) -> None:
        """A change of directory in a loop reaches the commands before it: not followed."""
        for atom in self.atoms[before:]:
            if atom.scope == self.scope and any(word.text in _DIRECTORY_CHANGERS for word in atom.argv):
                raise Unprovable("a change of directory in a loop")

    def loop(self, node: Node, known: Known) -> _Flow:
        parts = _parts(node, "Loop", "Do")
        loop = _node(parts, "Loop")
        if loop.get("Type") != "WordIter":
            raise Unprovable("an arithmetic loop")
        held = _parts(loop, "Name", "Items")
        written = [self.words(node, known) for node in _nodes(held, "Items")]
        items = [item for group in written for item in group]
        name = _text(_node(held, "Name"), "Value")
        if not may_set(name):
            raise Unprovable(f"a loop that sets ${name}")
        self.note((("for", name, *(group[0].shape for group in written)), (), ()))
        body = _nodes(parts, "Do")
        left = self.without(node, known)
        if not items or any(item.text is None or item.glob for item in items) or len(items) > MAX_BRACES:
            before = len(self.atoms)
            # One name that a glob matches is a word that the glob covers; anything else is not known.
            value = Word(None)
            if len(items) == 1 and items[0].glob:
                value = replace(items[0], form=None)
            self.statements(body, {**left, name: value})
            self.check_still(before)
            return _same(left)
        for item in items:
            self.statements(body, {**left, name: replace(item, form=None, loose=False)})
            self.repeating += 1
        self.repeating -= len(items)
        return _same(left)

    def test(self, node: Node, redirects: tuple[Redirect, ...], known: Known) -> None:
        forms = ["[["]
        self.condition(_node(_parts(node, "X"), "X"), forms, known)
        self.note(((*forms, "]]"), (), _redirect_shapes(redirects)))
        if redirects:
            self.add(Atom((), (), redirects), None)

    def condition(self, node: Node, forms: list[str], known: Known) -> None:
        match node.get("Type"):
            case "UnaryTest":
                parts = _parts(node, "Op", "X")
                if parts.get("Op") not in _UNARY_TESTS:
                    raise Unprovable("an unusual test")
                forms.append(_text(parts, "Op"))
                self.condition(_node(parts, "X"), forms, known)
            case "BinaryTest":
                parts = _parts(node, "Op", "X", "Y")
                operator = _text(parts, "Op")
                if operator in _COUNTING_TESTS:
                    for side in ("X", "Y"):
                        word = self.word(_node(parts, side), known)
                        plain = word.text is not None and re.fullmatch(r"-?[0-9]+", word.text)
                        if not plain and word.form not in {f"\0${name}" for name in NUMBERS}:
                            raise Unprovable("a test that calculates with a value that is not known")
                elif operator not in _BINARY_TESTS:
                    raise Unprovable("an unusual test")
                self.condition(_node(parts, "X"), forms, known)
                forms.append(operator)
                self.condition(_node(parts, "Y"), forms, known)
            case "ParenTest":
                forms.append("(")
                self.condition(_node(_parts(node, "X"), "X"), forms, known)
                forms.append(")")
            case "Word" | None:
                self.word(node, known)
                forms.append(self.raw(node))
            case kind:
                raise Unprovable(f"the test {kind}")

    def redirect(self, node: Node, known: Known) -> Redirect:
        parts = _parts(node, "Op", "N", "Word", "Hdoc")
        operator = parts.get("Op")
        if not isinstance(operator, str) or operator not in REDIRECTS:
            raise Unprovable("an unusual redirect")
        number = _text(_node(parts, "N"), "Value") if "N" in parts else ""
        if "N" in parts and not re.fullmatch(r"[0-9]+", number):
            raise Unprovable("a redirect through a variable")
        if number and int(number) == 0 and not operator.startswith("<"):
            raise Unprovable("standard input opened for output")
        word = self.word(_node(parts, "Word"), known)
        if operator not in HEREDOCS:
            return Redirect(operator, word)
        body = self.word(_node(parts, "Hdoc"), known, quoted=True) if "Hdoc" in parts else Word("")
        if body.text is None or body.form is not None:
            raise Unprovable("an expansion in a here-document")
        return Redirect(operator, body)

    def words(self, node: Node, known: Known) -> list[Word]:
        """The words that one written word stands for: several if it is a plain brace expansion."""
        parts = _nodes(_parts(node, "Parts"), "Parts")
        if len(parts) == 1 and parts[0].get("Type") == "Lit":
            raw = _text(parts[0], "Value")
            expanded = braced(raw)
            if expanded is not None:
                return [Word(text, form="\0{" + raw) for text in expanded]
        return [self.word(node, known)]

    def word(self, node: Node, known: Known, quoted: bool = False, assigned: bool = False) -> Word:
        """One word; `quoted` is the body of a here-document, `assigned` a value, which is never split."""
        pieces: list[_Piece] = []
        unquoted: list[str] = []
        for part in _nodes(_parts(node, "Parts"), "Parts"):
            if part.get("Type") == "Lit":
                raw = _text(part, "Value")
                if quoted:
                    pieces.append(_Piece(raw, raw))
                    continue
                text, has_glob = bare(raw)
                pieces.append(_Piece(text, text, glob=has_glob))
                unquoted.append(active(raw))
                continue
            pieces.append(self.part(part, known, within=assigned and part.get("Type") == "CmdSubst"))
        check_braces("".join(unquoted))
        return _word(pieces)

    def part(self, node: Node, known: Known, within: bool = False) -> _Piece:
        """One quoted or expanded piece, `within` double quotes or not."""
        match node.get("Type"):
            case "SglQuoted":
                parts = _parts(node, "Dollar", "Value")
                raw = _text(parts, "Value") if "Value" in parts else ""
                text = ansi_c(raw) if parts.get("Dollar") else raw
                return _Piece(text, text)
            case "DblQuoted":
                parts = _parts(node, "Parts", "Dollar")
                if parts.get("Dollar"):
                    raise Unprovable("a locale-translated string")
                inner: list[_Piece] = []
                for part in _nodes(parts, "Parts"):
                    if part.get("Type") == "Lit":
                        text = double_quoted(_text(part, "Value"))
                        inner.append(_Piece(text, text))
                    else:
                        inner.append(self.part(part, known, within=True))
                if len(inner) == 1 and inner[0].expanded and inner[0].form.endswith(_FOLLOWED):
                    return inner[0]
                whole = _word(inner)
                expanded = whole.form is not None
                # Inside quotes a value keeps its blanks; what a loop's glob matched is still one name it covers.
                text = whole.text or (None if whole.text is None else "")
                return _Piece(text, whole.shape, whole.glob, False, expanded, whole.symbolic)
            case "ParamExp":
                return self.parameter(node, known, within)
            case "CmdSubst":
                parts = _parts(node, "Stmts", "Backquotes")
                self.inside(_nodes(parts, "Stmts"), known)
                literal = self.printed(parts) if within else None
                if literal is not None:
                    return _Piece(literal, "\0$(", expanded=True)
                return _Piece(None, "\0$(", loose=not within, expanded=True)
            case "ProcSubst":
                parts = _parts(node, "Op", "Stmts")
                if parts.get("Op") != "<(":
                    raise Unprovable("an output process substitution")
                self.inside(_nodes(parts, "Stmts"), known)
                return _Piece(None, "\0<(", expanded=True)
            case "ArithmExp":
                self.arithmetic(_node(_parts(node, "X"), "X"), known)
                return _Piece(None, "\0" + self.raw(node), expanded=True)
            case kind:
                raise Unprovable(f"the shell expansion {kind}")

    @staticmethod
    def printed(parts: Node) -> str | None:
        """What `$(cat <<'END' ...)` puts in its place: the text as it is written, less the newlines at its end.

        Exactly one `cat` without a word more and one here-document with a quoted delimiter; None for anything else.
        """
        statements = _nodes(parts, "Stmts")
        if len(statements) != 1 or parts.get("Backquotes"):
            return None
        held = _parts(statements[0], "Cmd", "Redirs", "Negated", "Background")
        redirects = _nodes(held, "Redirs")
        command = held.get("Cmd")
        if held.keys() != {"Cmd", "Redirs"} or len(redirects) != 1 or not isinstance(command, dict):
            return None
        arguments = command.get("Args")
        if command.get("Type") != "CallExpr" or "Assigns" in command or not isinstance(arguments, list):
            return None
        fed = _parts(redirects[0], "Op", "Word", "N", "Hdoc")
        if [_literal(word) for word in arguments] != ["cat"] or fed.get("Op") != "<<" or fed.keys() - _FED:
            return None
        ends = _nodes(_parts(_node(fed, "Word"), "Parts"), "Parts")
        if len(ends) != 1 or ends[0].get("Type") not in {"SglQuoted", "DblQuoted"} or "Dollar" in ends[0]:
            return None
        body = _nodes(_parts(_node(fed, "Hdoc"), "Parts"), "Parts") if "Hdoc" in fed else []
        if any(part.get("Type") != "Lit" for part in body):
            return None
        return "".join(_text(part, "Value") for part in body).rstrip("\n")

    def parameter(self, node: Node, known: Known, within: bool) -> _Piece:
        parts = _parts(node, "Short", "Param", "Exp", "Length", "Repl")
        name = _text(_node(parts, "Param"), "Value")
        form = "\0" + self.raw(node)
        if name not in PLAIN_VARIABLES and name not in known:
            raise Unprovable(f"the variable ${name}, whose value is not known")
        if parts.get("Length"):
            return _Piece(None, form, expanded=True)
        if "Exp" in parts:
            held = _parts(_node(parts, "Exp"), "Op", "Word")
            if held.get("Op") not in _TRIMMING:
                raise Unprovable("an unusual parameter expansion")
            if "Word" in held and self.word(_node(held, "Word"), known).form is not None:
                raise Unprovable("an expansion inside another one")
            return _Piece(None, form, loose=not within, expanded=True)
        if "Repl" in parts:
            held = _parts(_node(parts, "Repl"), "All", "Orig", "With")
            for key in ("Orig", "With"):
                if key in held and self.word(_node(held, key), known).form is not None:
                    raise Unprovable("an expansion inside another one")
            return _Piece(None, form, loose=not within, expanded=True)
        value = known.get(name)
        if value is None or value.text is None:
            if value is None and name in {"HOME", "PWD"}:
                if name == "HOME":
                    return _Piece("~", form + _FOLLOWED, expanded=True)
                return _Piece(".", form + _FOLLOWED, loose=not within, expanded=True, symbolic=True)
            return _Piece(None, form, loose=not within and name not in NUMBERS, expanded=True)
        if value.glob:
            return _Piece(value.text, form, glob=True, loose=not within, expanded=True, symbolic=value.symbolic)
        if value.symbolic and not within:
            return _Piece(None, form, loose=True, expanded=True)
        if within or re.fullmatch(r"[^\s*?\[\]\\~]+", value.text):
            return _Piece(value.text, form, expanded=True, symbolic=value.symbolic)
        if value.text.startswith("~") and re.fullmatch(r"[^\s*?\[\]\\]+", value.text):
            return _Piece(value.text, form, expanded=True)
        return _Piece(None, form, loose=True, expanded=True)

    def arithmetic(self, node: Node, known: Known) -> None:
        """Numbers, and variables that are numbers: bash evaluates the *text* of a variable, subscripts and all."""
        match node.get("Type"):
            case "BinaryArithm":
                parts = _parts(node, "Op", "X", "Y")
                if "=" in _text(parts, "Op").replace("==", "").replace("<=", "").replace(">=", "").replace("!=", ""):
                    raise Unprovable("an arithmetic assignment")
                self.arithmetic(_node(parts, "X"), known)
                self.arithmetic(_node(parts, "Y"), known)
            case "ParenArithm":
                self.arithmetic(_node(_parts(node, "X"), "X"), known)
            case "Word":
                for part in _nodes(_parts(node, "Parts"), "Parts"):
                    if part.get("Type") == "Lit":
                        name = _text(part, "Value")
                    elif part.get("Type") == "ParamExp":
                        name = _text(_node(_parts(part, "Short", "Param"), "Param"), "Value")
                    else:
                        raise Unprovable("arithmetic with an expansion")
                    value = known.get(name)
                    number = value.text if value is not None and value.text is not None else name
                    if not re.fullmatch(r"[0-9]+", number) and name not in NUMBERS:
                        raise Unprovable("arithmetic with a value that is not known")
            case kind:
                raise Unprovable(f"the arithmetic {kind}")

    def raw(self, node: Node) -> str:
        start, end = node.get("Pos"), node.get("End")
        if not isinstance(start, dict) or not isinstance(end, dict):
            raise Unprovable("an unreadable syntax tree")
        first, last = start.get("Offset"), end.get("Offset")
        if not isinstance(first, int) or not isinstance(last, int):
            raise Unprovable("an unreadable syntax tree")
        return self.source[first:last].decode("utf-8", "surrogateescape")

    def note(self, shape: Shape) -> None:
        if self.repeating:
            return
        self.shapes.append(shape)
        if len(self.shapes) > MAX_COMMANDS:
            raise Unprovable(f"more than {MAX_COMMANDS} commands")

    def add(self, atom: Atom, shape: Shape | None = ((), (), ())) -> None:
        if shape == ((), (), ()):
            shape = ((), (), _redirect_shapes(atom.redirects))
        if shape is not None:
            self.note(shape)
        self.atoms.append(replace(atom, scope=self.scope))
        if len(self.atoms) > MAX_RUNS:
            raise Unprovable(f"more than {MAX_RUNS} commands")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text runs (`atoms`), and what both readers must see in it (`shapes`)."""

    atoms: tuple[Atom, ...]
    shapes: tuple[Shape, ...]


def reduce(tree: Node, text: str) -> Reading:
    """Every simple command of the tree, those of pipes, lists, loops and substitutions included."""
    reducer = _Reducer(text.encode("utf-8"))
    try:
        reducer.statements(_nodes(_parts(tree, "Stmts"), "Stmts"), {})
    except RecursionError:
        raise Unprovable("the command is nested too deeply") from None
    return Reading(tuple(reducer.atoms), tuple(sorted(reducer.shapes)))


def _word(pieces: Sequence[_Piece]) -> Word:
    """Pieces put together. `$HOME` and `$PWD` are known only as the first part of a path."""
    resolved: list[_Piece] = []
    for place, piece in enumerate(pieces):
        if piece.expanded and piece.form.endswith(_FOLLOWED) and piece.text in {"~", "."}:
            following = "".join(later.text or "" for later in pieces[place + 1 : place + 2])
            last = place + 1 == len(pieces)
            usable = place == 0 and (last or following.startswith("/"))
            text = piece.text if usable else None
            resolved.append(_Piece(text, piece.form[:-1], loose=piece.loose, expanded=True, symbolic=piece.symbolic))
            continue
        resolved.append(piece)
    form = "".join(piece.form for piece in resolved)
    expanded = any(piece.expanded for piece in resolved)
    glob = any(piece.glob for piece in resolved)
    loose = any(piece.loose for piece in resolved)
    several = loose or any(piece.glob and not piece.expanded for piece in resolved)
    if all(piece.text is not None for piece in resolved):
        text = "".join(piece.text or "" for piece in resolved)
        # A lone `[` is the test command: a bracket without its partner matches nothing but itself.
        glob, several = (False, loose) if text in {"[", "[["} else (glob, several)
        symbolic = any(piece.symbolic for piece in resolved)
        return Word(text, glob, loose, form if expanded else None, several=several, symbolic=symbolic)
    if len(resolved) == 1 and form == "\0<(":
        # What the command inside prints: that command is judged, and the name of the pipe is harmless.
        return Word(None, False, False, form, "/dev/fd/", ("/dev/stdin",))
    starts = ""
    for piece in resolved:
        if piece.text is None or piece.expanded or piece.glob:
            break
        starts += piece.text
    return Word(None, False, loose, form, starts, several=several)


def _both(one: Known, other: Known) -> Known:
    return {name: word for name, word in one.items() if other.get(name) == word}


def _same(known: Known) -> _Flow:
    return _Flow(known, known)


def _redirect_shapes(redirects: Sequence[Redirect]) -> tuple[tuple[str, str], ...]:
    return tuple(
        sorted(
            (redirect.operator, "" if redirect.operator.startswith("<<") else redirect.target.shape)
            for redirect in redirects
        )
    )


def _last_is_call(statement: Node) -> bool:
    command = statement.get("Cmd")
    if not isinstance(command, dict):
        return False
    if command.get("Type") == "CallExpr":
        return True
    return (
        command.get("Type") == "BinaryCmd" and command.get("Op") in {"|", "|&"} and _last_is_call(_node(command, "Y"))
    )


def _names_set(value: JsonValue) -> set[str]:
    """Every name that anything below may set: assignments, loops, and whatever `read` is given."""
    found: set[str] = set()
    if isinstance(value, list):
        for item in value:
            found |= _names_set(item)
    elif isinstance(value, dict):
        name = value.get("Name")
        if isinstance(name, dict) and isinstance(name.get("Value"), str):
            found.add(cast(str, name["Value"]))
        arguments = value.get("Args")
        if value.get("Type") == "CallExpr" and isinstance(arguments, list):
            literals = [_literal(word) for word in arguments]
            if "read" in literals:
                found |= {word for word in literals if word is not None}
        for item in value.values():
            found |= _names_set(item)
    return found


def _literal(word: JsonValue) -> str | None:
    parts = word.get("Parts") if isinstance(word, dict) else None
    if isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], dict):
        value = parts[0].get("Value")
        return value if isinstance(value, str) else None
    return None


def _position(value: JsonValue) -> bool:
    return (
        isinstance(value, dict) and value.keys() <= {"Offset", "Line", "Col"} and isinstance(value.get("Offset"), int)
    )


def _parts(node: Node, *allowed: str) -> Node:
    """The fields of a node that mean something; a field that is not expected makes the node unknown."""
    found = {
        key: value
        for key, value in node.items()
        if key not in {"Type", "Comments"} and not key.endswith("Last") and not _position(value)
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
