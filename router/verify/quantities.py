"""Numbers as people write them: digits, words, fractions, percentages; exact values, never floats."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

MOST_CHARS: Final = 65_536
"""Longer texts are read to here."""

_MOST_NUMBERS: Final = 512
_NUMERAL: Final = re.compile(
    r"(?<![\w.,/])(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d{1,18})(?P<point>\.\d{1,12})?"
    r"(?:\s?/\s?(?P<below>\d{1,9})(?![\d.,]*\d))?(?P<percent>\s?(?:%|percent\b|per cent\b))?",
    re.IGNORECASE,
)
_UNITS: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_CARDINALS: Final = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}
_MULTIPLES: Final = {
    "once": Fraction(1),
    "twice": Fraction(2),
    "double": Fraction(2),
    "doubled": Fraction(2),
    "doubles": Fraction(2),
    "couple": Fraction(2),
    "pair": Fraction(2),
    "thrice": Fraction(3),
    "triple": Fraction(3),
    "tripled": Fraction(3),
    "triples": Fraction(3),
    "quadruple": Fraction(4),
    "dozen": Fraction(12),
    "dozens": Fraction(12),
    "half": Fraction(1, 2),
    "halves": Fraction(1, 2),
    "quarter": Fraction(1, 4),
    "quarters": Fraction(1, 4),
}
_PARTS: Final = {
    "third": 3,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
}
_WORD: Final = re.compile(r"[a-z]+(?:-[a-z]+)?")
_IDLE_ONE: Final = frozenset({"one"})  # "one of them", "this one": a pronoun more often than a number


@dataclass(frozen=True, slots=True)
class Given:
    """A number that a text states. `start` is its place in the text, `alike` other values that stand for the same.

    Half is 1/2, 2 (divide by) and 50; 20 % is 20, 1/5, 4/5 (what is left) and 6/5 (with it added).
    """

    value: Fraction
    start: int
    alike: frozenset[Fraction]


def decimal(digits: str, point: str | None) -> Fraction:
    """The exact value of a numeral such as `1,250` and `.5`."""
    whole = Fraction(int(digits.replace(",", "")))
    if not point:
        return whole
    return whole + Fraction(int(point[1:]), 10 ** (len(point) - 1))


def givens(text: str) -> tuple[Given, ...]:
    """The numbers that `text` states, in digits or English words, in order; at most 512 in the first 64 KiB."""
    found = sorted([*_numerals(text[:MOST_CHARS]), *_words(text[:MOST_CHARS].lower())], key=lambda each: each.start)
    return tuple(found[:_MOST_NUMBERS])


def _numerals(text: str) -> Iterator[Given]:
    for match in _NUMERAL.finditer(text):
        value = decimal(match["digits"], match["point"])
        if match["below"] is not None:
            below = int(match["below"])
            if below == 0:
                continue
            value /= below
        share = value / 100 if match["percent"] is not None else value
        yield Given(value, match.start(), _alike(value, share if match["percent"] is not None else None))


def _words(lowered: str) -> Iterator[Given]:
    words = list(_WORD.finditer(lowered))
    for index, match in enumerate(words):
        value = _value(match[0])
        if value is None or match[0] in _IDLE_ONE:
            continue
        following = words[index + 1][0] if index + 1 < len(words) else ""
        singular = following.removesuffix("s")
        if value.denominator == 1 and singular in _PARTS:
            continue  # "two thirds" is read at its second word
        yield Given(value, match.start(), _alike(value, None))
    for index, match in enumerate(words):
        below = _PARTS.get(match[0].removesuffix("s")) if not match[0].isdigit() else None
        if below is not None:
            before = words[index - 1][0] if index else ""
            above = _CARDINALS.get(before, 1)
            if before in ("a", "one", "an") or before in _CARDINALS:
                value = Fraction(above, below)
                yield Given(value, match.start(), _alike(value, None))
        elif "-" in match[0]:  # "two-thirds"
            first, _, second = match[0].partition("-")
            below = _PARTS.get(second.removesuffix("s"))
            if below is not None and first in _CARDINALS:
                value = Fraction(_CARDINALS[first], below)
                yield Given(value, match.start(), _alike(value, None))


def _value(word: str) -> Fraction | None:
    if word in _MULTIPLES:
        return _MULTIPLES[word]
    if word in _CARDINALS:
        return Fraction(_CARDINALS[word])
    first, dash, second = word.partition("-")
    if dash and first in _TENS and _CARDINALS.get(second, 10) < 10:
        return Fraction(_CARDINALS[first] + _CARDINALS[second])
    return None


def _alike(value: Fraction, share: Fraction | None) -> frozenset[Fraction]:
    """What a calculation may write for `value`; `share` where it is a percentage."""
    same = {value}
    if share is not None:
        same |= {share, 1 - share, 1 + share, 100 - value, 100 + value}
    elif 0 < value < 1:
        same |= {1 / value, Fraction(value.denominator), value * 100, 1 - value, 1 + value}
        if value.numerator != 1:
            same.add(Fraction(value.numerator))
    return frozenset(same)
