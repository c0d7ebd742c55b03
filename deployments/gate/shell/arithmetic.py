"""Calculations: numbers, and variables that surely are numbers, for bash evaluates their text."""

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import add, mul, sub

from deployments.gate.shell.atoms import Atom, Unprovable, Word
from deployments.gate.shell.names import NUMBERS, may_set
from deployments.gate.shell.pieces import INTEGER, WHOLE_NUMBER, Piece
from deployments.gate.shell.tree import ASSIGNING, COUNTING, Node, child, children, fields, literal, text_of
from deployments.gate.shell.walk import Known, Walk

MAX_CONSTANT = 10**12
# No leading zero: bash reads that as octal.
_CONSTANT = re.compile(r"0|-?[1-9][0-9]{0,11}")
_PLAIN_OPERATORS: Mapping[str, Callable[[int, int], int]] = {"+": add, "-": sub, "*": mul}
_PLAIN_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]+")


class Arithmetic(Walk):
    """The part of a walk that reads calculations."""

    __slots__ = ()

    @abstractmethod
    def part(self, node: Node, known: Known, within: bool = False) -> Piece:
        """One quoted or expanded piece of a word, `within` double quotes or not."""

    def number(self, word: Word) -> None:
        """A word that the shell calculates with: it must be a number, as far as can be said here or later."""
        if word.text is not None:
            if not WHOLE_NUMBER.fullmatch(word.text):
                raise Unprovable("arithmetic with a value that is not known")
        elif word.pieces != INTEGER.pieces:
            self.add(Atom((), numbers=(word,)), None)

    def calculated(self, node: Node, known: Known) -> Known:
        """The expression of `((...))` or `let`, with the variables that it sets: they are numbers after it."""
        match node.get("Type"):
            case "BinaryArithm" if node.get("Op") in ASSIGNING:
                parts = fields(node, "Op", "X", "Y")
                known = self.calculated(child(parts, "Y"), known)
                if parts.get("Op") != "=":
                    self.arithmetic(child(parts, "X"), known)
                return {**known, self.counter(child(parts, "X")): INTEGER}
            case "BinaryArithm" if node.get("Op") == ",":
                parts = fields(node, "Op", "X", "Y")
                return self.calculated(child(parts, "Y"), self.calculated(child(parts, "X"), known))
            case "UnaryArithm" if node.get("Op") in COUNTING:
                parts = fields(node, "Op", "Post", "X")
                self.arithmetic(child(parts, "X"), known)
                return {**known, self.counter(child(parts, "X")): INTEGER}
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

    def constant(self, node: Node, known: Known) -> int | None:
        """The value of sums, differences and products of numbers that are known; None for anything else, or large."""
        match node.get("Type"):
            case "BinaryArithm":
                parts = fields(node, "Op", "X", "Y")
                made = _PLAIN_OPERATORS.get(text_of(parts, "Op"))
                left, right = (self.constant(child(parts, side), known) for side in ("X", "Y"))
                value = None if made is None or left is None or right is None else made(left, right)
                return value if value is not None and abs(value) <= MAX_CONSTANT else None
            case "ParenArithm":
                return self.constant(child(fields(node, "X"), "X"), known)
            case "Word":
                pieces = children(fields(node, "Parts"), "Parts")
                text = self._known_number(pieces[0], known) if len(pieces) == 1 else None
                return int(text) if text is not None and _CONSTANT.fullmatch(text) else None
            case _:
                return None

    def _known_number(self, part: Node, known: Known) -> str | None:
        """The text of a number, or of the variable that a calculation names."""
        if part.get("Type") == "Lit":
            written = text_of(part, "Value")
            return written if written[:1].isdigit() else _plain_text(known.get(written))
        if part.get("Type") != "ParamExp" or part.keys() & {"Exp", "Repl", "Slice", "Length", "Excl", "Index"}:
            return None
        return _plain_text(known.get(text_of(child(part, "Param"), "Value")))

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


def _plain_text(value: Word | None) -> str | None:
    return None if value is None or value.glob or value.symbolic or value.items is not None else value.text


def squeezed(raw: str) -> str:
    """The text of a calculation without its blanks, as both readers compare it."""
    return "".join(raw.split())
