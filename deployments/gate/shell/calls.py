"""Simple commands and declarations: what they set, `read`, and functions of the text's own."""

import re
from collections.abc import Sequence
from dataclasses import replace

from deployments.gate.shell.atoms import (
    MAX_BRACES,
    Atom,
    Cut,
    Redirect,
    Shape,
    Source,
    Unprovable,
    Word,
    source_of,
)
from deployments.gate.shell.names import ARGUMENT, may_set, words_in
from deployments.gate.shell.pieces import appended
from deployments.gate.shell.tree import SETTERS, Node, child, children, fields, literal, names_set, text_of
from deployments.gate.shell.walk import Flow, Known, redirect_shapes, same
from deployments.gate.shell.words import Words
from deployments.ports import JsonValue

# What the shell itself, this reader, or the judge reads by its name is never somebody's function.
_NEVER_FUNCTIONS = SETTERS | words_in(
    "exec cd pushd popd dirs shift set cat command builtin local return exit export readonly declare typeset eval"
    " source test time trap alias echo printf xargs find env let function true false wait",
    # Shells call these by themselves: for a program that is not there, at a change of directory, at the end.
    "command_not_found_handle command_not_found_handler chpwd precmd preexec periodic zshexit zshaddhistory",
)
_READ_FLAGS = frozenset({"-r", "-s", "-rs", "-sr"})
_READ_ARRAY = frozenset({"-a", "-ra"})


class Calls(Words):
    """The part of a walk that reads simple commands, declarations and functions."""

    __slots__ = ()

    def call(self, node: Node, redirects: tuple[Redirect, ...], known: Known) -> Flow:
        """A simple command: assignments, a builtin that is understood here, an own function, or any program."""
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
                value = appended(seen.get(name), value)
            assignments.append((name, value))
            # Globs and blanks in a value are only what they are until the variable is used; `~` is expanded here.
            after[name] = replace(value, form=None, loose=False)
        written = [self.words(node, known) for node in children(parts, "Args")]
        words = tuple(word for group in written for word in group)
        shape: Shape = (
            tuple(group[0].shape for group in written),
            tuple(f"{name}={value.shape}" for name, value in assignments),
            redirect_shapes(redirects),
        )
        if bare_assignment:
            kept = tuple(pair for pair in assignments if not may_set(pair[0]))
            if not kept and not redirects:
                self.note(shape)
                return Flow(after, after)
            self.add(Atom((), kept, redirects), shape)
            return Flow(after, after)
        if words and words[0].form is not None:
            raise Unprovable("the program is only known when it runs")
        changed = {name for name, _ in assignments}
        name = words[0].text if words else None
        if any(word.text == "shift" for word in words) and not self.shifts:
            raise Unprovable("a builtin that is not written plainly")
        plain = literal(children(parts, "Args")[0]) == name
        if (name in SETTERS or name in self.functions) and not plain:
            raise Unprovable("a builtin or function that is not written plainly")
        if name in SETTERS:
            # What a loop sets is looked for in the tree (`names_set`), before any of its words is read.
            seen_plainly = {literal(node) for node in children(parts, "Args")}
            if any(word.text and word.text not in seen_plainly for word in words):
                raise Unprovable("a name to set that is not written plainly")
        if name in self.functions:
            if assignments or redirects:
                raise Unprovable("a function called with variables or redirects of its own")
            self.note(shape)
            self.inline(name or "", words[1:], known)
            return same(known)
        if name == "unset" and not assignments and not redirects:
            names = {word.text or "" for word in words[1:]} - {"-v"}
            if all(map(may_set, names)) and not names & self.frozen and words[1:]:
                self.note((("unset", *sorted(names)), (), ()))
                return same({key: word for key, word in known.items() if key not in names})
        if name == "exec" and len(words) == 1 and not assignments and redirects and all(map(_loud, redirects)):
            self.note(shape)
            return same(known)
        if name in {"mapfile", "readarray"}:
            filled = self.filled(words, assignments, redirects)
            self.note(shape)
            self.add(Atom((), (), redirects), None)
            return same({**known, **filled})
        if name == "read":
            read = self.read(words, assignments, self.fed(redirects))
            self.note(shape)
            if redirects:
                self.add(Atom((), (), redirects), None)
            flow = {**{name: word for name, word in known.items() if name not in changed}, **read}
            return Flow(flow, flow)
        self.add(Atom(words, tuple(assignments), redirects), shape)
        flow = {name: word for name, word in known.items() if name not in changed}
        return Flow(flow, flow)

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
        # Flags come first: what stands behind a name is a name to bash, whatever it looks like.
        left = list(words[1:])
        records = False
        while left and (left[0].text in _READ_FLAGS or [word.text for word in left[:2]] == ["-d", ""]):
            records = records or left[0].text == "-d"
            left = left[2 if left[0].text == "-d" else 1 :]
        given = [word.text or "" for word in left]
        if given[:1] and given[0] in _READ_ARRAY:
            if len(given) != 2 or not may_set(given[1]):
                raise Unprovable("read of something else than one plain array")
            return {given[1]: Word(None)}
        # `_` is for what nobody looks at; as a variable it is the shell's own, which is never known.
        names = [name for name in given if name != "_"]
        if not names or not all(may_set(name) for name in names):
            raise Unprovable("read of something else than plain names")
        usual = all(not value.text for _, value in assignments)
        if stream is None or not usual:
            return {name: Word(None) for name in names}
        cut = Cut.FIELD if len(given) > 1 else Cut.RECORD if records else Cut.LINE
        return {name: Word(None, pieces=(source_of(stream, cut),)) for name in names}

    def fed(self, redirects: Sequence[Redirect]) -> Atom | None:
        """The command whose output is read behind these redirects."""
        atom = self.stream
        for redirect in redirects:
            if redirect.operator.startswith("<"):
                source = redirect.target.pieces[0] if len(redirect.target.pieces) == 1 else None
                usable = isinstance(source, Source) and source.cut is Cut.WHOLE and redirect.operator in {"<", "<<<"}
                atom = source.atom if usable and isinstance(source, Source) else None
        return atom

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
        passed = {key: word for key, word in known.items() if not ARGUMENT.fullmatch(key)} | places
        passed |= {"@": Word(None, items=tuple(replace(word, form=None) for word in arguments))}
        self.calling += (name,)
        self.repeating += 1
        if self.shifts:
            raise Unprovable("a function's arguments are moved")
        self.statement(self.functions[name], passed)
        self.repeating -= 1
        self.calling = self.calling[:-1]
        self.inlined += 1

    def declared(self, node: Node, known: Known) -> Flow:
        """`export`, `readonly` and `local` with `NAME=VALUE ...`; `declare -F`. Nothing else is followed.

        What is exported is judged like variables set for one command.
        """
        parts = fields(node, "Variant", "Args")
        variant = text_of(child(parts, "Variant"), "Value")
        arguments = children(parts, "Args")
        if variant == "declare" and [_naked(assign) for assign in arguments] == ["-F"]:
            self.note(((variant, _naked(arguments[0]) or ""), (), ()))
            return same(known)
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
            return same(after)
        self.note(shape)
        if variant == "readonly":
            self.frozen |= {name for name, _ in assignments}
        return same(after)


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
