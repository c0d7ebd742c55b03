"""Equations that a text states, found and computed again with exact fractions.

An own small parser: the text is never run as code, and what is not plainly arithmetic is left alone. Every limit is a
count of characters, tokens or digits, so that the same text always gives the same answer.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise
from typing import Final

from router.lexicon import word_set
from router.verify.quantities import MOST_CHARS, decimal

_MOST_EQUATIONS: Final = 256
_MOST_TOKENS: Final = 96  # of one side
_MOST_DEPTH: Final = 16
_MOST_POWER: Final = 12
_MOST_BITS: Final = 4_096
_MOST_WORDS: Final = 4  # that may follow a number as its unit

_TOKEN: Final = re.compile(
    r"(?P<number>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"|(?P<word>[^\W\d_]+(?:['\u2019-][^\W\d_]+)*)"
    r"|(?P<equals>[=\u2248\u2245]|==)|(?P<operator>[-+*/^\u00d7\u00f7\u00b7\u2212\u2013])"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<percent>%)|(?P<money>[$\u20ac\u00a3\u00a5])|(?P<other>\S)"
)
_PUNCTUATION: Final = ":;,.!?\"'\u201c|>"
_ANNOTATION: Final = re.compile(r"<<([^<>\n]{1,300})>>")
_FRACTION: Final = re.compile(r"\\[dt]?frac\{([^{}]{1,60})\}\{([^{}]{1,60})\}")
_LATEX: Final = (
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\\div", "/"),
    ("\\approx", "\u2248"),
    ("\\%", "%"),
    ("\\$", "$"),
    ("\\*", "*"),
    ("\\left", ""),
    ("\\right", ""),
    ("\\,", ""),
    ("\\(", " "),
    ("\\)", " "),
    ("\\[", " "),
    ("\\]", " "),
)
_BOLD: Final = re.compile(r"(?<!\d)\*\*|\*\*(?!\d)")
_SIGNS: Final = {"\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-", "\u2013": "-"}
# Before an expression, these continue it in words: what follows is then only a part.
_CONTINUES: Final = word_set("of times by plus minus half twice double thrice third quarter over than per from less")
# Words for amounts of another size than what they stand beside: "1 hour + 30 minutes" is no sum of numbers.
_SIZED: Final = word_set(
    "second minute hour day week month year cent dollar inch foot feet yard mile ounce pound gram kilogram "
    "meter centimeter kilometer liter milliliter"
)
_MULTIPLIERS: Final = word_set("dozen hundred thousand million billion trillion pair k m bn")
_CONVERSIONS: Final = frozenset(map(Fraction, (7, 10, 12, 16, 24, 52, 60, 100, 365, 1000, 3600)))


class Holds(StrEnum):
    """Whether an equation is true: to the last digit, after rounding as its author rounded, or not."""

    EXACT = "exact"
    ROUNDED = "rounded"
    NEAR = "near"
    FALSE = "false"


@dataclass(frozen=True, slots=True)
class Equation:
    """One equation of a text.

    `operands` are the numbers of its calculated side, `operators` its signs out of `+-*/^`, `computed` what that side
    comes to and `stated` what the text says. `start` is the place of the sign in the normalised text.
    """

    operands: tuple[Fraction, ...]
    operators: str
    computed: Fraction
    stated: Fraction
    holds: Holds
    start: int


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of an equation. `operators` empty: a bare number. `digits` are the decimals its author gave it."""

    value: Fraction
    operands: tuple[Fraction, ...]
    operators: str
    decimals: int
    percent: bool


class _NoArithmetic(Exception):
    """This is not plainly arithmetic."""


def normalised(text: str) -> str:
    """`text` in plain signs: LaTeX, Markdown emphasis and calculator annotations (`<<2*3=6>>`) taken out."""
    plain = _ANNOTATION.sub("", text[:MOST_CHARS])
    if "\\" in plain:
        plain = _FRACTION.sub(r"((\1)/(\2))", plain)
        for latex, sign in _LATEX:
            plain = plain.replace(latex, sign)
    return _BOLD.sub("", plain)


def annotations(text: str) -> tuple[str, ...]:
    """What a calculator was asked and said, `2*3=6` of `<<2*3=6>>`, in order."""
    return tuple(match[1] for match in _ANNOTATION.finditer(text[:MOST_CHARS]))[:_MOST_EQUATIONS]


def equations(text: str) -> tuple[Equation, ...]:
    """The equations of a normalised text whose left or right side calculates something, in order; at most 256."""
    found: list[Equation] = []
    offset = 0
    for line in text[:MOST_CHARS].split("\n"):
        tokens = [_Token(str(match.lastgroup), match[0], match.start() + offset) for match in _TOKEN.finditer(line)]
        offset += len(line) + 1
        places = [index for index, token in enumerate(tokens) if token.kind == "equals"]
        for order, place in enumerate(places):
            first = places[order - 1] + 1 if order else 0
            last = places[order + 1] if order + 1 < len(places) else len(tokens)
            equation = _equation(tokens[first:place], tokens[place + 1 : last], tokens[place].start)
            if equation is not None:
                found.append(equation)
                if len(found) == _MOST_EQUATIONS:
                    return tuple(found)
    return tuple(found)


def _equation(before: list[_Token], after: list[_Token], start: int) -> Equation | None:
    try:
        left, right = _suffix(before), _prefix(after)
    except (_NoArithmetic, ZeroDivisionError):
        return None
    if left is None or right is None or not (left.operators or right.operators):
        return None
    if left.percent != right.percent and left.value in (right.value * 100, right.value / 100):
        return None  # 20 % = 0.2
    if left.value < 0 <= right.value and set(left.operators) == {"-"}:
        return None  # 2019-2021 = 3 years: a range
    calculated, other = (left, right) if left.operators else (right, left)
    if left.operators and right.operators and right.operands[0] == left.value:
        other = _Side(
            left.value, (), "", 0, False
        )  # "12 + 43 = 55 / 5 = 11": written as it was typed in, each step right
    return Equation(
        operands=calculated.operands,
        operators=calculated.operators,
        computed=calculated.value,
        stated=other.value,
        holds=_holds(calculated, other),
        start=start,
    )


def _holds(calculated: _Side, stated: _Side) -> Holds:
    if calculated.value == stated.value:
        return Holds.EXACT
    error = abs(calculated.value - stated.value)
    if not stated.operators and error < Fraction(1, 10**stated.decimals):
        return Holds.ROUNDED  # up, down or to the nearest: by less than one in the last digit that is given
    if error * 100 <= abs(calculated.value):
        return Holds.NEAR  # operands were rounded before
    ratio = abs(calculated.value / stated.value) if stated.value else Fraction(0)
    if ratio and (ratio in _CONVERSIONS or 1 / ratio in _CONVERSIONS):
        return Holds.NEAR  # cents to dollars, minutes to hours: the units differ, not the calculation
    return Holds.FALSE


def _suffix(tokens: list[_Token]) -> _Side | None:
    """The longest calculation that ends where `tokens` end."""
    window = tokens[-_MOST_TOKENS:]
    best: _Side | None = None
    for start in range(len(window) - 1, -1, -1):
        token = window[start]
        if token.kind == "other" or (token.kind == "word" and token.text.lower() not in _unit_words(window, start)):
            break
        if token.kind not in ("number", "open", "money") and not _is_negative(window, start):
            continue
        if not _stands_alone(window, start):
            continue
        try:
            best = _parse(window[start:])
        except (_NoArithmetic, ZeroDivisionError):
            continue
    return best


def _unit_words(window: list[_Token], start: int) -> frozenset[str]:
    """The word at `start` when a number stands at most four words before it, else nothing."""
    for back in range(1, _MOST_WORDS + 1):
        index = start - back
        if index < 0:
            return frozenset()
        if window[index].kind in ("number", "open", "close", "percent") or (
            window[index].kind == "operator" and window[index].text == "/"
        ):
            return frozenset({window[start].text.lower()})
        if window[index].kind != "word":
            return frozenset()
    return frozenset()


def _stands_alone(window: list[_Token], start: int) -> bool:
    """False when what comes before shows that the expression began earlier."""
    if start == 0:
        return True
    before = window[start - 1]
    abuts = before.start + len(before.text) == window[start].start
    if before.kind == "word":
        return before.text.lower() not in _CONTINUES and len(before.text) > 1 and not abuts
    if before.kind == "other":
        return not abuts or before.text in _PUNCTUATION
    return before.kind not in ("operator", "number", "percent", "close", "money", "open")


def _is_negative(window: list[_Token], start: int) -> bool:
    """Whether the token at `start` is the minus of a negative number: it abuts it, and nothing stands before."""
    token = window[start]
    if token.text != "-" or start + 1 == len(window) or window[start + 1].start != token.start + 1:
        return False
    return start == 0 or window[start - 1].kind in ("word", "other")


def _prefix(tokens: list[_Token]) -> _Side | None:
    """The calculation that `tokens` begin with, as far as it goes."""
    return _parse(tokens[:_MOST_TOKENS], whole=False)


def _parse(tokens: list[_Token], whole: bool = True) -> _Side | None:
    reader = _Reader(tokens)
    value = reader.sum(0)
    rest = tokens[reader.position : reader.position + 1]
    if rest and (whole or rest[0].kind in ("operator", "number", "money") or _is_variable(rest[0].text)):
        raise _NoArithmetic
    if not reader.operands or (reader.sizes and {"+", "-"} & set(reader.operators) and len(reader.sizes) > 1):
        raise _NoArithmetic
    return _Side(value, tuple(reader.operands), "".join(reader.operators), reader.decimals, reader.percent)


class _Reader:
    """Recursive descent over the tokens of one side; units behind numbers are passed over."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self.position = 0
        self.operands: list[Fraction] = []
        self.operators: list[str] = []
        self.decimals = 0
        self.percent = False
        self.sizes: set[str] = set()

    def sum(self, depth: int) -> Fraction:
        """Terms with `+` and `-`."""
        value = self._product(depth)
        while (sign := self._sign("+-")) is not None:
            term = self._product(depth)
            value = _bounded(value + term if sign == "+" else value - term)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._power(depth)
        while True:
            sign = self._sign("*/") or self._times()
            if sign is None:
                return value
            factor = self._fraction(depth) if sign == "/" else self._power(depth)
            value = _bounded(value * factor if sign == "*" else value / factor)

    def _fraction(self, depth: int) -> Fraction:
        """A divisor; `12.8 / 2/5` divides by the fraction that is written without blanks."""
        here = self._tokens[self.position : self.position + 3]
        if [token.kind for token in here] == ["number", "operator", "number"] and here[1].text == "/":
            tight = all(one.start + len(one.text) == two.start for one, two in pairwise(here))
            loose = self.position >= 1 and self._tokens[self.position - 1].start + 1 < here[0].start
            if tight and loose:
                self.position += 3
                self.operators.append("/")
                above, below = self._number(here[0].text), self._number(here[2].text)
                self._skip_units()
                return above / below
        return self._power(depth)

    def _power(self, depth: int) -> Fraction:
        value = self._atom(depth)
        if self._sign("^") is None:
            return value
        exponent = self._atom(depth)
        if exponent.denominator != 1 or abs(exponent) > _MOST_POWER:
            raise _NoArithmetic
        return _bounded(value ** int(exponent))

    def _atom(self, depth: int) -> Fraction:
        if depth > _MOST_DEPTH:
            raise _NoArithmetic
        token = self._peek()
        negative = token is not None and token.kind == "operator" and token.text in "-\u2212\u2013"
        if negative:
            self.position += 1
            token = self._peek()
        if token is not None and token.kind == "money":
            self.position += 1
            token = self._peek()
        if token is None:
            raise _NoArithmetic
        self.position += 1
        if token.kind == "open":
            value = self.sum(depth + 1)
            closing = self._peek()
            if closing is None or closing.kind != "close":
                raise _NoArithmetic
            self.position += 1
        elif token.kind == "number":
            value = self._number(token.text)
        else:
            raise _NoArithmetic
        value = self._with_percent(value)
        self._skip_units()
        return -value if negative else value

    def _number(self, text: str) -> Fraction:
        whole, point, decimals = text.partition(".")
        if len(text) > 30:
            raise _NoArithmetic
        value = decimal(whole or "0", point + decimals if decimals else None)
        self.operands.append(value)
        self.decimals = max(self.decimals, len(decimals))
        return value

    def _with_percent(self, value: Fraction) -> Fraction:
        token = self._peek()
        if token is None or token.kind != "percent":
            return value
        self.position += 1
        self.percent = True
        return value / 100

    def _skip_units(self) -> None:
        """Pass over `miles`, `units/floor`, `(milk)` behind a number, but never over what ends a calculation."""
        position, words = self.position, 0
        while position < len(self._tokens) and words < _MOST_WORDS:
            token = self._tokens[position]
            if token.kind == "word":
                if _is_variable(token.text):
                    break
                if token.text.lower() in ("x", "times", "of", "plus", "minus"):
                    break
                size = token.text.lower().removesuffix("s")
                if size in _MULTIPLIERS:
                    raise _NoArithmetic  # the number is not the amount
                if size in _SIZED:
                    self.sizes.add(size)
                words += 1
                position += 1
            elif token.text == "/" and self._kind(position + 1) == "word":
                position += 1
            elif token.kind == "open" and self._note(position) is not None:
                position = self._note(position) or position
            else:
                break
        self.position = position

    def _note(self, position: int) -> int | None:
        """The place behind a remark in brackets that starts at `position`, words alone; else None."""
        index = position + 1
        while self._kind(index) == "word":
            index += 1
        return index + 1 if index > position + 1 and self._kind(index) == "close" else None

    def _is_share(self) -> bool:
        """Whether `of` here follows a percentage or a fraction, and so multiplies."""
        back = [self._kind(self.position - 1), self._kind(self.position - 2)]
        return back[0] in ("percent", "close") or (back[0] == "number" and self._text(self.position - 2) == "/")

    def _text(self, position: int) -> str:
        return self._tokens[position].text if 0 <= position < len(self._tokens) else ""

    def _kind(self, position: int) -> str | None:
        return self._tokens[position].kind if 0 <= position < len(self._tokens) else None

    def _peek(self) -> _Token | None:
        return self._tokens[self.position] if self.position < len(self._tokens) else None

    def _sign(self, signs: str) -> str | None:
        token = self._peek()
        if token is None or token.kind != "operator":
            return None
        sign = _SIGNS.get(token.text, token.text)
        following = self._kind(self.position + 1)
        if following == "operator" and self._text(self.position + 1) == "-":
            following = self._kind(self.position + 2)
        if sign not in signs or following not in ("number", "open", "money"):
            return None
        self.position += 1
        self.operators.append(sign)
        return sign

    def _times(self) -> str | None:
        """Multiplication in words: `3 x 4`, `3 times 4`, `20% of 50`, `2(3 + 4)`."""
        token = self._peek()
        if token is None:
            return None
        following = self._kind(self.position + 1)
        word = token.text.lower() if token.kind == "word" else ""
        shared = word == "of" and self._is_share()
        if (word in ("x", "times") or shared) and following in ("number", "open", "money"):
            self.position += 1
        elif token.kind != "open" or self._note(self.position) is not None:
            return None
        self.operators.append("*")
        return "*"


def _is_variable(word: str) -> bool:
    return len(word) == 1 and word.isalpha() and word != "x"


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > _MOST_BITS or value.denominator.bit_length() > _MOST_BITS:
        raise _NoArithmetic
    return value
