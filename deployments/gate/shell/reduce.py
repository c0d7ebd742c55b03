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
from itertools import takewhile
from typing import TypeAlias

from deployments.gate.shell import expand
from deployments.gate.shell.atoms import (
    MAX_BRACES,
    MAX_CHARACTERS,
    MAX_COMMANDS,
    MAX_RUNS,
    PIPED,
    Atom,
    Cut,
    Redirect,
    Shape,
    Source,
    Unprovable,
    Word,
    active,
    ansi_c,
    bare,
    braced,
    check_braces,
    double_quoted,
    source_of,
)
from deployments.gate.shell.tree import (
    ASSIGNING,
    COUNTING,
    SETTERS,
    Node,
    child,
    children,
    fields,
    last_is_call,
    literal,
    names_set,
    text_of,
)
from deployments.ports import JsonValue

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
# What somebody might keep a credential in, whatever the case of its letters.
_PRIVATE = re.compile(r"(?i)pass|pwd|secret|token|key|cred|auth|cookie|session|private")
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
    "VERSION VER BASE HASH OUT OUTPUT MSG VAR FOO BAR BAZ VAL VALUE ARR ARRAY LIST ITEMS LAST FIRST PREV CURRENT OLD",
    "NEW MAX MIN SUM AVG SIZE LEN TYPE STATUS CODE RC ERRORS TIMESTAMP TS ELAPSED SINCE UNTIL YEAR MONTH DAY",
    "MERGE_BASE CHANGED MODIFIED STAGED NUM NUMBER INDEX IDX PKG PACKAGE MODULE ROOT REPO_ROOT PROJECT CHART IP",
)
LISTS = frozenset({"&&", "||", "|", "|&"})
REDIRECTS = frozenset({"<", ">", ">>", ">|", "&>", "&>>", ">&", "<&", "<<", "<<-", "<<<"})
HEREDOCS = frozenset({"<<", "<<-"})
# `[[ ]]`: no operator that evaluates a word as arithmetic (`-eq`) or as a subscript (`-v`, `-R`): both can run code.
_UNARY_TESTS = _set("! -e -a -f -d -r -w -x -s -L -h -n -z -b -c -p -S -t -u -g -k -O -G -N")
_BINARY_TESTS = _set("&& || = == != =~ < > -nt -ot -ef")
_COUNTING_TESTS = _set("-eq -ne -lt -le -gt -ge")
_CUTTING = frozenset({"%", "%%", "#", "##"})
_CASES = frozenset({"^", "^^", ",", ",,"})
_TRIMMING = _CUTTING | _CASES | {":-", "-", ":=", "=", ":+", "+"}
# What the shell itself, this reader, or the judge reads by its name is never somebody's function.
_NEVER_FUNCTIONS = SETTERS | _set(
    "exec cd pushd popd dirs shift set cat command builtin local return exit export readonly declare typeset eval"
    " source test time trap alias echo printf xargs find env let function true false wait"
)
_DIRECTORY_CHANGERS = frozenset({"cd", "pushd", "popd"})
_READ_FLAGS = frozenset({"-r", "-s", "-rs", "-sr"})
_ARGUMENT = re.compile(r"[0-9]")
_PLAIN_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]+")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_INTEGER = Word(None, pieces=(Source(kind="integer"),))
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
    sources: tuple[str | Source, ...] = ()


@dataclass(slots=True)
class _Reducer:
    """Walks one tree. `shapes` has every command of the text once, `atoms` every run of it.

    `stream` is the command whose output `read` reads where the walk is; `inlined` counts calls of own functions.
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

    @property
    def shifts(self) -> bool:
        """True when the arguments of a script or function may be moved."""
        return b"shift" in self.source

    def script(self, nodes: Sequence[Node]) -> None:
        """The statements of a whole text; only here may functions be defined, each once."""
        known: Known = {}
        for node in nodes:
            command = node.get("Cmd")
            if isinstance(command, dict) and command.get("Type") == "FuncDecl":
                self.define(node)
            else:
                known = self.statement(node, known).always

    def define(self, node: Node) -> None:
        """A function: what is in it counts when it is called. It may set no variable but its own."""
        declared = fields(child(fields(node, "Cmd"), "Cmd"), "Name", "Parens", "RsrvWord", "Body")
        name, body = text_of(child(declared, "Name"), "Value"), child(declared, "Body")
        if name in self.functions or not re.fullmatch(r"[a-z_][A-Za-z0-9_]*", name) or name in _NEVER_FUNCTIONS:
            raise Unprovable(f"a function named {name}")
        if names_set(body) - _locals(body) - {name}:
            raise Unprovable("a function that sets variables of others")
        self.note((("function", name), (), ()))
        runs = list(self.atoms)
        self.calling += (name,)
        self.statement(body, {})
        self.calling = self.calling[:-1]
        self.atoms = runs
        self.functions[name] = body

    def inline(self, name: str, arguments: Sequence[Word], known: Known) -> None:
        """One call of an own function, with these arguments."""
        if name in self.calling or any(word.loose or word.several for word in arguments):
            raise Unprovable("a function called with words that are not known")
        places = {str(place): Word("") for place in range(1, 10)}
        places |= {str(place): replace(word, form=None) for place, word in enumerate(arguments, start=1)}
        passed = {key: word for key, word in known.items() if not _ARGUMENT.fullmatch(key)} | places
        passed |= {"@": Word(None, items=tuple(replace(word, form=None) for word in arguments))}
        self.calling += (name,)
        self.repeating += 1
        if self.shifts:
            raise Unprovable("a function's arguments are moved")
        self.statement(self.functions[name], passed)
        self.repeating -= 1
        self.calling = self.calling[:-1]
        self.inlined += 1

    def statements(self, nodes: Sequence[Node], known: Known) -> _Flow:
        flow = _Flow(known, known)
        for node in nodes:
            flow = self.statement(node, flow.always)
        return flow

    def statement(self, node: Node, known: Known) -> _Flow:
        parts = fields(node, "Cmd", "Redirs", "Negated", "Background")
        redirects = tuple(self.redirect(redirect, known) for redirect in children(parts, "Redirs"))
        if "Cmd" not in parts:
            self.add(Atom((), (), redirects))
            return _Flow(known, known)
        command = child(parts, "Cmd")
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
            outer, self.stream = self.stream, self.fed(redirects)
            flow = self.compound(command, known)
            self.stream = outer
        if background:
            return self.forgotten(node, known)
        return _Flow(flow.always, flow.always) if parts.get("Negated") else flow

    def fed(self, redirects: Sequence[Redirect]) -> Atom | None:
        """The command whose output is read behind these redirects."""
        atom = self.stream
        for redirect in redirects:
            if redirect.operator.startswith("<"):
                source = redirect.target.pieces[0] if len(redirect.target.pieces) == 1 else None
                usable = isinstance(source, Source) and source.cut is Cut.WHOLE and redirect.operator in {"<", "<<<"}
                atom = source.atom if usable and isinstance(source, Source) else None
        return atom

    def call(self, node: Node, redirects: tuple[Redirect, ...], known: Known) -> _Flow:
        parts = fields(node, "Assigns", "Args")
        assignments: list[tuple[str, Word]] = []
        after = dict(known)
        bare_assignment = "Args" not in parts
        for assign in children(parts, "Assigns"):
            held = fields(assign, "Name", "Value", "Array", "Append")
            name = text_of(child(held, "Name"), "Value")
            seen = after if bare_assignment else known
            if name in self.frozen:
                raise Unprovable("an assignment to a variable that is read only")
            if "Array" in held:
                value = self.array(held, bare_assignment, seen)
            else:
                value = self.word(child(held, "Value"), seen, assigned=True) if "Value" in held else Word("")
            if held.get("Append"):
                value = self.appended(seen.get(name), value)
            assignments.append((name, value))
            # Globs and blanks in a value are only what they are until the variable is used; `~` is expanded here.
            after[name] = replace(value, form=None, loose=False)
        written = [self.words(node, known) for node in children(parts, "Args")]
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
        name = words[0].text if words else None
        if any(word.text == "shift" for word in words) and not self.shifts:
            raise Unprovable("a builtin that is not written plainly")
        plain = literal(children(parts, "Args")[0]) == name
        if (name in SETTERS or name in self.functions) and not plain:
            raise Unprovable("a builtin or function that is not written plainly")
        if name in self.functions:
            if assignments or redirects:
                raise Unprovable("a function called with variables or redirects of its own")
            self.note(shape)
            self.inline(name or "", words[1:], known)
            return _same(known)
        if name == "unset" and not assignments and not redirects:
            names = {word.text or "" for word in words[1:]} - {"-v"}
            if all(map(may_set, names)) and not names & self.frozen and words[1:]:
                self.note((("unset", *sorted(names)), (), ()))
                return _same({key: word for key, word in known.items() if key not in names})
        if name == "exec" and len(words) == 1 and not assignments and redirects and all(map(_loud, redirects)):
            self.note(shape)
            return _same(known)
        if name in {"mapfile", "readarray"}:
            filled = self.filled(words, assignments, redirects)
            self.note(shape)
            self.add(Atom((), (), redirects), None)
            return _same({**known, **filled})
        if name == "read":
            read = self.read(words, assignments, self.fed(redirects))
            self.note(shape)
            if redirects:
                self.add(Atom((), (), redirects), None)
            flow = {**{name: word for name, word in known.items() if name not in changed}, **read}
            return _Flow(flow, flow)
        self.add(Atom(words, tuple(assignments), redirects), shape)
        flow = {name: word for name, word in known.items() if name not in changed}
        return _Flow(flow, flow)

    def array(self, held: Node, bare_assignment: bool, known: Known) -> Word:
        """`NAME=(...)`: its elements, as long as each of them is one word that is known to be one."""
        if not bare_assignment:
            raise Unprovable("an array set for one command")
        items: list[Word] = []
        forms: list[str] = []
        for element in children(fields(child(held, "Array"), "Elems"), "Elems"):
            group = self.words(child(fields(element, "Value"), "Value"), known)
            forms.append(group[0].shape)
            items += [replace(word, form=None) for word in group]
        form = "\0(" + " ".join(forms)
        if len(items) > MAX_BRACES:
            raise Unprovable("an array of many elements")
        if any(word.loose or word.several for word in items):
            return Word(None, form=form)
        return Word(None, form=form, items=tuple(items))

    @staticmethod
    def appended(before: Word | None, value: Word) -> Word:
        """`NAME+=...`: known for known text and for arrays."""
        form = "\0+" + value.shape
        if before is not None and before.items is not None and value.items is not None:
            if len(before.items) + len(value.items) > MAX_BRACES:
                raise Unprovable("an array of many elements")
            return Word(None, form=form, items=(*before.items, *value.items))
        texts = [word.text for word in (before, value) if word is not None and not word.glob and not word.symbolic]
        if len(texts) == 2 and before is not None and before.items is None and None not in texts:
            return Word("".join(text or "" for text in texts), form=form)
        return Word(None, form=form)

    @staticmethod
    def filled(words: Sequence[Word], assignments: Sequence[tuple[str, Word]], redirects: Sequence[Redirect]) -> Known:
        """`mapfile -t NAME < ...`: an array of lines that nobody knows."""
        names = [word.text or "" for word in words[1:] if word.text != "-t"]
        if assignments or len(names) != 1 or not may_set(names[0]) or any(word.form for word in words):
            raise Unprovable("mapfile of something else than one plain name")
        return {names[0]: Word(None)}

    @staticmethod
    def read(words: Sequence[Word], assignments: Sequence[tuple[str, Word]], stream: Atom | None) -> Known:
        """`IFS= read -r NAME ...`: sets variables to words of the input; nothing else of `read` is understood."""
        if any(name != "IFS" or value.text is None for name, value in assignments):
            raise Unprovable("read with variables set")
        records = [
            place for place in range(1, len(words) - 1) if words[place].text == "-d" and words[place + 1].text == ""
        ]
        left = [
            word
            for place, word in enumerate(words[1:], start=1)
            if place not in {*records, *(at + 1 for at in records)}
        ]
        names = [word.text or "" for word in left if word.text not in _READ_FLAGS]
        if not names or not all(may_set(name) for name in names):
            raise Unprovable("read of something else than plain names")
        usual = all(not value.text for _, value in assignments)
        if stream is None or not usual:
            return {name: Word(None) for name in names}
        cut = Cut.FIELD if len(names) > 1 else Cut.RECORD if records else Cut.LINE
        return {name: Word(None, pieces=(source_of(stream, cut),)) for name in names}

    def compound(self, node: Node, known: Known) -> _Flow:
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
                return _same(_both(then, other))
            case "WhileClause":
                parts = fields(node, "Cond", "Do", "Until")
                left = self.without(node, known)
                before = len(self.atoms)
                condition = self.statements(children(parts, "Cond"), left)
                self.statements(children(parts, "Do"), condition.always if parts.get("Until") else condition.success)
                self.check_still(before)
                return _same(left)
            case "ForClause":
                return self.loop(node, known)
            case "TimeClause":
                parts = fields(node, "Stmt", "PosixFormat")
                return self.statement(child(parts, "Stmt"), known) if "Stmt" in parts else _same(known)
            case "CaseClause":
                return self.cases(node, known)
            case "DeclClause":
                return self.declared(node, known)
            case "ArithmCmd":
                parts = fields(node, "X")
                self.note((("((", _squeezed(self.raw(child(parts, "X")))), (), ()))
                return _same(self.calculated(child(parts, "X"), known))
            case "LetClause":
                expressions = children(fields(node, "Exprs"), "Exprs")
                self.note((("let", *(self.raw(expression) for expression in expressions)), (), ()))
                for expression in expressions:
                    known = self.calculated(expression, known)
                return _same(known)
            case kind:
                raise Unprovable(f"the shell construct {kind}")

    def cases(self, node: Node, known: Known) -> _Flow:
        """Every branch of a `case`, as if each were taken; what one sets is not known in the others, or after."""
        parts = fields(node, "Word", "Items")
        word = self.word(child(parts, "Word"), known)
        left = self.without(node, known)
        forms = ["case", word.shape]
        branches: list[list[Node]] = []
        for item in children(parts, "Items"):
            held = fields(item, "Op", "Patterns", "Stmts")
            for pattern in children(held, "Patterns"):
                if self.word(pattern, known).form is not None:
                    raise Unprovable("an expansion in a pattern")
                forms.append(self.raw(pattern))
            branches.append(children(held, "Stmts"))
        self.note((tuple(forms), (), ()))
        for branch in branches:
            self.statements(branch, left)
        return _same(left)

    def declared(self, node: Node, known: Known) -> _Flow:
        """`export`, `readonly` and `local` with `NAME=VALUE ...`; `declare -F`. Nothing else is followed.

        What is exported is judged like variables set for one command.
        """
        parts = fields(node, "Variant", "Args")
        variant = text_of(child(parts, "Variant"), "Value")
        arguments = children(parts, "Args")
        if variant == "declare" and [_naked(assign) for assign in arguments] == ["-F"]:
            self.note(((variant, _naked(arguments[0]) or ""), (), ()))
            return _same(known)
        if variant not in {"export", "readonly", "local"} or not arguments or (variant == "local" and not self.calling):
            raise Unprovable("a declaration of variables")
        after = dict(known)
        assignments: list[tuple[str, Word]] = []
        for assign in arguments:
            held = fields(assign, "Name", "Value", "Naked")
            if "Name" not in held or ("Value" not in held and variant != "local"):
                raise Unprovable("a declaration of variables")
            name = text_of(child(held, "Name"), "Value")
            value = self.word(child(held, "Value"), known, assigned=True) if "Value" in held else Word("")
            if name in self.frozen or (variant != "export" and not may_set(name)):
                raise Unprovable("a declaration of variables")
            assignments.append((name, value))
            after[name] = replace(value, form=None, loose=False)
        naked = [child(assign, "Name") for assign in arguments if "Value" not in assign]
        names = {text_of(name, "Value") for name in naked}
        shown = tuple(name if name in names else f"{name}={value.shape}" for name, value in assignments)
        shape: Shape = ((variant,), shown, ())
        if variant == "export":
            self.add(Atom((), tuple(assignments)), shape)
            return _same(after)
        self.note(shape)
        if variant == "readonly":
            self.frozen |= {name for name, _ in assignments}
        return _same(after)

    def joined(self, node: Node, known: Known) -> _Flow:
        parts = fields(node, "Op", "X", "Y")
        operator = parts.get("Op")
        if operator not in LISTS:
            raise Unprovable("an unusual way to join commands")
        left, right = child(parts, "X"), child(parts, "Y")
        if operator == "&&":
            first = self.statement(left, known)
            second = self.statement(right, first.success)
            return _Flow(_both(self.without(right, first.always), second.always), second.success)
        if operator == "||":
            first = self.statement(left, known)
            second = self.statement(right, first.always)
            rest = self.without(right, first.success)
            return _Flow(_both(rest, second.always), _both(rest, second.success))
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

    def inside(self, nodes: Sequence[Node], known: Known) -> None:
        """Statements that run in a subshell: what they change of directories and variables stays there."""
        self.scopes += 1
        outer, self.scope = self.scope, (*self.scope, self.scopes)
        self.statements(nodes, known)
        self.scope = outer

    def forgotten(self, node: Node, known: Known) -> _Flow:
        return _same(self.without(node, known))

    def without(self, node: Node, known: Known) -> Known:
        """`known` less all that `node` sets anywhere in it; what it only counts with stays a number."""
        names = names_set(node)
        if not names:
            return known
        otherwise = names_set(node, counting=False)
        counted = {name for name in names - otherwise if name in known and _is_number(known[name])}
        kept = {name: word for name, word in known.items() if name not in names}
        return kept | dict.fromkeys(counted, _INTEGER)

    def check_still(self, before: int) -> None:
        """A change of directory in a loop reaches the commands before it: not followed."""
        for atom in self.atoms[before:]:
            if atom.scope == self.scope and any(word.text in _DIRECTORY_CHANGERS for word in atom.argv):
                raise Unprovable("a change of directory in a loop")

    def loop(self, node: Node, known: Known) -> _Flow:
        parts = fields(node, "Loop", "Do")
        loop = child(parts, "Loop")
        if loop.get("Type") == "CStyleLoop":
            return self.counted(loop, children(parts, "Do"), node, known)
        if loop.get("Type") != "WordIter":
            raise Unprovable("an unusual loop")
        held = fields(loop, "Name", "Items")
        written = [self.words(node, known) for node in children(held, "Items")]
        items = [item for group in written for item in group]
        name = text_of(child(held, "Name"), "Value")
        if not may_set(name):
            raise Unprovable(f"a loop that sets ${name}")
        self.note((("for", name, *(group[0].shape for group in written)), (), ()))
        body = children(parts, "Do")
        left = self.without(node, known)
        if not items or any(item.text is None or item.glob for item in items) or len(items) > MAX_BRACES:
            before = len(self.atoms)
            # One name that a glob matches is a word that the glob covers; anything else is not known.
            value = Word(None)
            if len(items) == 1 and items[0].glob:
                value = replace(items[0], form=None)
            elif items and all(item.text and not item.symbolic for item in items):
                value = Word(None, below=tuple(dict.fromkeys(item.text or "" for item in items)))
            elif len(items) == 1 and len(items[0].pieces) == 1 and isinstance(source := items[0].pieces[0], Source):
                # Each of the words that it is split into; in quotes it is one, whatever it holds.
                value = Word(None, pieces=(replace(source, cut=Cut.WORD) if items[0].loose else source,))
            self.statements(body, {**left, name: value})
            self.check_still(before)
            return _same(left)
        for item in items:
            self.statements(body, {**left, name: replace(item, form=None, loose=False)})
            self.repeating += 1
        self.repeating -= len(items)
        return _same(left)

    def counted(self, loop: Node, body: Sequence[Node], node: Node, known: Known) -> _Flow:
        """`for ((i = 0; i < 9; i++))`: a loop that only counts."""
        parts = fields(loop, "Init", "Cond", "Post")
        raws = [self.raw(child(parts, key)) if key in parts else "" for key in ("Init", "Cond", "Post")]
        self.note((("for((", _squeezed(";".join(raws))), (), ()))
        known = self.calculated(child(parts, "Init"), known) if "Init" in parts else known
        left = self.without(node, known)
        before = len(self.atoms)
        for key in ("Cond", "Post"):
            if key in parts:
                left = self.calculated(child(parts, key), left)
        self.statements(body, left)
        self.check_still(before)
        return _same(left)

    def test(self, node: Node, redirects: tuple[Redirect, ...], known: Known) -> None:
        forms = ["[["]
        self.condition(child(fields(node, "X"), "X"), forms, known)
        self.note(((*forms, "]]"), (), _redirect_shapes(redirects)))
        if redirects:
            self.add(Atom((), (), redirects), None)

    def condition(self, node: Node, forms: list[str], known: Known) -> None:
        match node.get("Type"):
            case "UnaryTest":
                parts = fields(node, "Op", "X")
                if parts.get("Op") not in _UNARY_TESTS:
                    raise Unprovable("an unusual test")
                forms.append(text_of(parts, "Op"))
                self.condition(child(parts, "X"), forms, known)
            case "BinaryTest":
                parts = fields(node, "Op", "X", "Y")
                operator = text_of(parts, "Op")
                if operator in _COUNTING_TESTS:
                    raws = [self.raw(child(parts, side)) for side in ("X", "Y")]
                    for side in ("X", "Y"):
                        self.number(self.word(child(parts, side), known))
                    forms += [raws[0], operator, raws[1]]
                    return
                if operator not in _BINARY_TESTS:
                    raise Unprovable("an unusual test")
                self.condition(child(parts, "X"), forms, known)
                forms.append(operator)
                self.condition(child(parts, "Y"), forms, known)
            case "ParenTest":
                forms.append("(")
                self.condition(child(fields(node, "X"), "X"), forms, known)
                forms.append(")")
            case "Word" | None:
                self.word(node, known)
                forms.append(self.raw(node))
            case kind:
                raise Unprovable(f"the test {kind}")

    def redirect(self, node: Node, known: Known) -> Redirect:
        parts = fields(node, "Op", "N", "Word", "Hdoc")
        operator = parts.get("Op")
        if not isinstance(operator, str) or operator not in REDIRECTS:
            raise Unprovable("an unusual redirect")
        number = text_of(child(parts, "N"), "Value") if "N" in parts else ""
        if "N" in parts and not re.fullmatch(r"[0-9]+", number):
            raise Unprovable("a redirect through a variable")
        if number and int(number) == 0 and not operator.startswith("<"):
            raise Unprovable("standard input opened for output")
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
                return [Word(text, form="\0{" + raw) for text in expanded]
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
        pieces: list[_Piece] = []
        unquoted: list[str] = []
        for part in children(fields(node, "Parts"), "Parts"):
            if part.get("Type") == "Lit":
                raw = text_of(part, "Value")
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
                parts = fields(node, "Dollar", "Value")
                raw = text_of(parts, "Value") if "Value" in parts else ""
                text = ansi_c(raw) if parts.get("Dollar") else raw
                return _Piece(text, text)
            case "DblQuoted":
                parts = fields(node, "Parts", "Dollar")
                if parts.get("Dollar"):
                    raise Unprovable("a locale-translated string")
                inner: list[_Piece] = []
                for part in children(parts, "Parts"):
                    if part.get("Type") == "Lit":
                        text = double_quoted(text_of(part, "Value"))
                        inner.append(_Piece(text, text))
                    else:
                        inner.append(self.part(part, known, within=True))
                if len(inner) == 1 and inner[0].expanded and inner[0].form.endswith(_FOLLOWED):
                    return inner[0]
                whole = _word(inner)
                expanded = whole.form is not None
                # Inside quotes a value keeps its blanks; what a loop's glob matched is still one name it covers.
                text = whole.text or (None if whole.text is None else "")
                return _Piece(text, whole.shape, whole.glob, False, expanded, whole.symbolic, whole.pieces)
            case "ParamExp":
                return self.parameter(node, known, within)
            case "CmdSubst":
                parts = fields(node, "Stmts", "Backquotes")
                source = self.output(children(parts, "Stmts"), known)
                text = self.printed(parts) if within else None
                if text is not None:
                    return _Piece(text, "\0$(", expanded=True)
                return _Piece(None, "\0$(", loose=not within, expanded=True, sources=(source,))
            case "ProcSubst":
                parts = fields(node, "Op", "Stmts")
                if parts.get("Op") != "<(":
                    raise Unprovable("an output process substitution")
                source = self.output(children(parts, "Stmts"), known)
                return _Piece(None, "\0<(", expanded=True, sources=(source,))
            case "ArithmExp":
                self.arithmetic(child(fields(node, "X"), "X"), known)
                return _Piece(None, "\0" + self.raw(node), expanded=True, sources=_INTEGER.pieces)
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

    def parameter(self, node: Node, known: Known, within: bool) -> _Piece:
        parts = fields(node, "Short", "Param", "Exp", "Length", "Repl", "Slice", "Index")
        name = text_of(child(parts, "Param"), "Value")
        form = "\0" + self.raw(node)
        value = self.value(name, known)
        if "Index" in parts:
            value = self.element(value, literal(parts["Index"]), bool(parts.get("Length")))
            if parts.get("Length") and literal(parts["Index"]) in {"@", "*"}:
                return self.expanded(value, name, form, within)
        elif value is not None and value.items is not None:
            value = value.items[0] if value.items else Word("")
        if parts.get("Length"):
            text = None if value is None or value.text is None or value.glob else str(len(value.text))
            return _Piece(text, form, expanded=True, sources=() if text else (Source(kind="number"),))
        changed = self.changed(parts, name, value, known)
        return self.expanded(value if changed is None else changed, name, form, within)

    def value(self, name: str, known: Known) -> Word | None:
        """What is known of a variable; None for those that the shell or the runner sets, and that are harmless."""
        value = known.get(name)
        if value is not None or name in PLAIN_VARIABLES:
            return value
        if _ARGUMENT.fullmatch(name):
            return Word(None) if self.shifts else Word(None, pieces=(Source(kind=f"${name}"),))
        if name in {"@", "*"}:
            return Word(None)
        if may_set(name) and not _PRIVATE.search(name) and name not in self.assigned:
            return Word(None)  # nobody sets it in this text, but perhaps somebody did before
        raise Unprovable(f"the variable ${name}, whose value is not known")

    @staticmethod
    def element(value: Word | None, index: str | None, length: bool) -> Word:
        """`${NAME[INDEX]}` with a plain index."""
        if index is None or not re.fullmatch(r"@|\*|0|[1-9][0-9]{0,3}", index):
            raise Unprovable("a subscript that is not plain")
        items = None if value is None else value.items
        if index in {"@", "*"}:
            if length:
                return Word(str(len(items))) if items is not None else Word(None, pieces=(Source(kind="number"),))
            return Word(None)
        if items is None:
            return Word(None)
        return items[int(index)] if int(index) < len(items) else Word("")

    def changed(self, parts: Node, name: str, value: Word | None, known: Known) -> Word | None:
        """The value after `:-`, `%`, `/`, `^^`, `:0:2`; None where nothing is done to it."""
        text = None if value is None or value.glob or value.symbolic else value.text
        if "Exp" in parts:
            held = fields(child(parts, "Exp"), "Op", "Word")
            operator = text_of(held, "Op")
            if operator not in _TRIMMING:
                raise Unprovable("an unusual parameter expansion")
            word = self.word(child(held, "Word"), known) if "Word" in held else Word("")
            if word.form is not None:
                raise Unprovable("an expansion inside another one")
            if operator in _CASES:
                done = None if text is None or word.text else expand.cased(text, operator)
            elif operator in _CUTTING:
                raw = self.raw(child(held, "Word")) if "Word" in held else ""
                done = None if text is None else expand.trimmed(text, operator, raw)
            elif operator in {":=", "="}:
                if text == "" or not may_set(name) or name in self.frozen:
                    raise Unprovable("a variable that is set where it is used")
                done = text
            elif text is None or word.glob or operator.endswith("+"):
                done = None
            else:
                done = word.text if not text and operator == ":-" else text
        elif "Repl" in parts:
            held = fields(child(parts, "Repl"), "All", "Orig", "With")
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

    @staticmethod
    def expanded(value: Word | None, name: str, form: str, within: bool) -> _Piece:
        """A value where it is used."""
        if value is None or value.text is None:
            if value is None and name in {"HOME", "PWD"}:
                if name == "HOME":
                    return _Piece("~", form + _FOLLOWED, expanded=True)
                return _Piece(".", form + _FOLLOWED, loose=not within, expanded=True, symbolic=True)
            if value is None and name in NUMBERS:
                return _Piece(None, form, expanded=True, sources=(Source(kind="number"),))
            pieces = () if value is None else value.pieces
            return _Piece(None, form, loose=not within, expanded=True, sources=pieces)
        if value.glob:
            return _Piece(value.text, form, glob=True, loose=not within, expanded=True, symbolic=value.symbolic)
        if value.symbolic and not within:
            return _Piece(None, form, loose=True, expanded=True)
        if within or re.fullmatch(r"[^\s*?\[\]\\~]+", value.text):
            return _Piece(value.text, form, expanded=True, symbolic=value.symbolic)
        if value.text.startswith("~") and re.fullmatch(r"[^\s*?\[\]\\]+", value.text):
            return _Piece(value.text, form, expanded=True)
        return _Piece(None, form, loose=True, expanded=True)

    def number(self, word: Word) -> None:
        """A word that the shell calculates with: it must be a number, as far as can be said here or later."""
        if word.text is not None:
            if not _WHOLE_NUMBER.fullmatch(word.text):
                raise Unprovable("arithmetic with a value that is not known")
        elif word.pieces != _INTEGER.pieces:
            self.add(Atom((), numbers=(word,)), None)

    def calculated(self, node: Node, known: Known) -> Known:
        """The expression of `((...))` or `let`, with the variables that it sets: they are numbers after it."""
        match node.get("Type"):
            case "BinaryArithm" if node.get("Op") in ASSIGNING:
                parts = fields(node, "Op", "X", "Y")
                known = self.calculated(child(parts, "Y"), known)
                if parts.get("Op") != "=":
                    self.arithmetic(child(parts, "X"), known)
                return {**known, self.counter(child(parts, "X")): _INTEGER}
            case "BinaryArithm" if node.get("Op") == ",":
                parts = fields(node, "Op", "X", "Y")
                return self.calculated(child(parts, "Y"), self.calculated(child(parts, "X"), known))
            case "UnaryArithm" if node.get("Op") in COUNTING:
                parts = fields(node, "Op", "Post", "X")
                self.arithmetic(child(parts, "X"), known)
                return {**known, self.counter(child(parts, "X")): _INTEGER}
            case _:
                self.arithmetic(node, known)
                return known

    def counter(self, node: Node) -> str:
        """The variable that a calculation sets."""
        name = literal(node) or ""
        if not may_set(name) or name in self.frozen:
            raise Unprovable("an arithmetic assignment")
        return name

    def arithmetic(self, node: Node, known: Known) -> None:
        """Numbers, and variables that are numbers: bash evaluates the *text* of a variable, subscripts and all."""
        match node.get("Type"):
            case "BinaryArithm":
                parts = fields(node, "Op", "X", "Y")
                if text_of(parts, "Op") in ASSIGNING:
                    raise Unprovable("an arithmetic assignment")
                self.arithmetic(child(parts, "X"), known)
                self.arithmetic(child(parts, "Y"), known)
            case "UnaryArithm":
                parts = fields(node, "Op", "X")
                if text_of(parts, "Op") not in {"-", "+", "!", "~"}:
                    raise Unprovable("an arithmetic assignment")
                self.arithmetic(child(parts, "X"), known)
            case "ParenArithm":
                self.arithmetic(child(fields(node, "X"), "X"), known)
            case "Word":
                for part in children(fields(node, "Parts"), "Parts"):
                    self.operand(part, known)
            case kind:
                raise Unprovable(f"the arithmetic {kind}")

    def operand(self, part: Node, known: Known) -> None:
        """One piece of a number in a calculation."""
        match part.get("Type"):
            case "Lit":
                name = text_of(part, "Value")
                if _PLAIN_NUMBER.fullmatch(name) or (name in NUMBERS and name not in known):
                    return
                value = known.get(name)
                if value is None:
                    raise Unprovable("arithmetic with a value that is not known")
                self.number(replace(value, form=None))
            case "ParamExp" | "CmdSubst" | "ArithmExp":
                piece = self.part(part, known, within=True)
                self.number(Word(piece.text, pieces=piece.sources))
            case _:
                raise Unprovable("arithmetic with an expansion")

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
        reducer.assigned = frozenset(names_set(tree))
        reducer.script(children(fields(tree, "Stmts"), "Stmts"))
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
        if len(text) > MAX_CHARACTERS or sum(len(piece.sources) for piece in resolved) > MAX_BRACES:
            raise Unprovable("a value that is too long")
        # A lone `[` is the test command: a bracket without its partner matches nothing but itself.
        glob, several = (False, loose) if text in {"[", "[["} else (glob, several)
        symbolic = any(piece.symbolic for piece in resolved)
        return Word(text, glob, loose, form if expanded else None, several=several, symbolic=symbolic)
    if len(resolved) == 1 and form == "\0<(":
        # What the command inside prints: that command is judged, and the name of the pipe is harmless.
        return Word(None, False, False, form, "/dev/fd/", PIPED, pieces=resolved[0].sources)
    made: list[str | Source] = []
    if sum(max(1, len(piece.sources)) for piece in resolved) > MAX_BRACES:
        raise Unprovable("a value that is too long")
    for piece in resolved:
        if piece.text is None:
            made += piece.sources or (Source(),)
        else:
            made.append(Source() if piece.glob or piece.symbolic or piece.text.startswith("~") else piece.text)
    known = list(takewhile(lambda piece: isinstance(piece, str), made))
    starts = "".join(str(piece) for piece in known)
    return Word(None, False, loose, form, starts, several=several, pieces=tuple(made))


def _is_number(word: Word) -> bool:
    """True for text that is a number, and for what calculations made."""
    if word.text is not None:
        return not word.glob and _WHOLE_NUMBER.fullmatch(word.text) is not None
    return len(word.pieces) == 1 and isinstance(word.pieces[0], Source) and word.pieces[0].kind in {"integer", "number"}


def _squeezed(raw: str) -> str:
    return "".join(raw.split())


def _naked(assign: Node) -> str | None:
    return literal(assign.get("Value")) if assign.get("Naked") else None


def _loud(redirect: Redirect) -> bool:
    """A redirect of output to where other output goes, or to nowhere."""
    return redirect.operator in {">&", ">"} and redirect.target.text in {"1", "2", "/dev/null"}


def _locals(value: JsonValue) -> set[str]:
    """The names that `local` declares anywhere below."""
    found: set[str] = set()
    if isinstance(value, list):
        for item in value:
            found |= _locals(item)
    elif isinstance(value, dict):
        variant = value.get("Variant")
        if value.get("Type") == "DeclClause" and isinstance(variant, dict) and variant.get("Value") == "local":
            return names_set(value)
        for item in value.values():
            found |= _locals(item)
    return found


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
