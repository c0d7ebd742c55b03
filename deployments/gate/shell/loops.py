"""Loops, `case` and `[[ ]]`."""

from collections.abc import Sequence
from dataclasses import replace

from deployments.gate.shell.arithmetic import squeezed
from deployments.gate.shell.atoms import MAX_BRACES, Atom, Cut, Redirect, Source, Unprovable, Word
from deployments.gate.shell.calls import Calls
from deployments.gate.shell.names import may_set, words_in
from deployments.gate.shell.tree import Node, child, children, fields, text_of
from deployments.gate.shell.walk import Flow, Known, redirect_shapes, same

# `[[ ]]`: no operator that evaluates a word as arithmetic (`-eq`) or as a subscript (`-v`, `-R`): both can run code.
_UNARY_TESTS = words_in("! -e -a -f -d -r -w -x -s -L -h -n -z -b -c -p -S -t -u -g -k -O -G -N")
_BINARY_TESTS = words_in("&& || = == != =~ < > -nt -ot -ef")
_COUNTING_TESTS = words_in("-eq -ne -lt -le -gt -ge")
MAX_GLOBS = 8  # patterns of names that a loop goes over, once for each of them
_DIRECTORY_CHANGERS = frozenset({"cd", "pushd", "popd"})


class Loops(Calls):
    """The part of a walk that reads loops, branches and tests."""

    __slots__ = ()

    def repeated(self, node: Node, known: Known) -> Flow:
        """`while` and `until`: as if the body ran once; what anything in them sets is not known in them, or after."""
        parts = fields(node, "Cond", "Do", "Until")
        left = self.without(node, known)
        before = len(self.atoms)
        condition = self.statements(children(parts, "Cond"), left)
        self.statements(children(parts, "Do"), condition.always if parts.get("Until") else condition.success)
        self.check_still(before)
        return same(left)

    def loop(self, node: Node, known: Known) -> Flow:
        """`for`: over words and globs that are known, once for each of them; over others as if once."""
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
            # A name that a glob matches is a word that the glob covers; anything else is not known.
            if items and len(items) <= MAX_GLOBS and all(item.text and not item.symbolic for item in items):
                for item in items:
                    self.statements(body, {**left, name: replace(item, form=None)})
                    self.repeating += 1
                self.repeating -= len(items)
                self.check_still(before)
                return same(left)
            value = Word(None)
            if len(items) == 1 and len(items[0].pieces) == 1 and isinstance(source := items[0].pieces[0], Source):
                # Each of the words that it is split into; in quotes it is one, whatever it holds.
                value = Word(None, pieces=(replace(source, cut=Cut.WORD) if items[0].loose else source,))
            self.statements(body, {**left, name: value})
            self.check_still(before)
            return same(left)
        for item in items:
            self.statements(body, {**left, name: replace(item, form=None, loose=False)})
            self.repeating += 1
        self.repeating -= len(items)
        return same(left)

    def counted(self, loop: Node, body: Sequence[Node], node: Node, known: Known) -> Flow:
        """`for ((i = 0; i < 9; i++))`: a loop that only counts."""
        parts = fields(loop, "Init", "Cond", "Post")
        raws = [self.raw(child(parts, key)) if key in parts else "" for key in ("Init", "Cond", "Post")]
        self.note((("for((", squeezed(";".join(raws))), (), ()))
        known = self.calculated(child(parts, "Init"), known) if "Init" in parts else known
        left = self.without(node, known)
        before = len(self.atoms)
        for key in ("Cond", "Post"):
            if key in parts:
                left = self.calculated(child(parts, key), left)
        self.statements(body, left)
        self.check_still(before)
        return same(left)

    def check_still(self, before: int) -> None:
        """A change of directory in a loop reaches the commands before it: not followed."""
        for atom in self.atoms[before:]:
            if atom.scope == self.scope and any(word.text in _DIRECTORY_CHANGERS for word in atom.argv):
                raise Unprovable("a change of directory in a loop")

    def cases(self, node: Node, known: Known) -> Flow:
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
        return same(left)

    def test(self, node: Node, redirects: tuple[Redirect, ...], known: Known) -> None:
        """`[[ ... ]]`."""
        forms = ["[["]
        self.condition(child(fields(node, "X"), "X"), forms, known)
        self.note(((*forms, "]]"), (), redirect_shapes(redirects)))
        if redirects:
            self.add(Atom((), (), redirects), None)

    def condition(self, node: Node, forms: list[str], known: Known) -> None:
        """An expression of `[[ ]]`; what both readers must see of it goes to `forms`."""
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
