"""Calculations: numbers, and variables that surely are numbers, for bash evaluates their text."""

import re
from abc import abstractmethod
from dataclasses import replace

from deployments.gate.shell.atoms import Atom, Unprovable, Word
from deployments.gate.shell.names import NUMBERS, may_set
from deployments.gate.shell.pieces import INTEGER, WHOLE_NUMBER, Piece
from deployments.gate.shell.tree import ASSIGNING, COUNTING, Node, child, children, fields, literal, text_of
from deployments.gate.shell.walk import Known, Walk

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


def squeezed(raw: str) -> str:
    """The text of a calculation without its blanks, as both readers compare it."""
    return "".join(raw.split())
