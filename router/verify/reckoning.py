"""How a calculated answer was reckoned: what it does with the numbers it was given, step by step, to its result.

Every check is a number that is larger when the answer looks worse, or a size that the others are weighed against. None
of them knows the right answer, and none knows a benchmark: they ask whether the chain of equations starts from what
is given, holds, uses what it finds out and ends in what is announced.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from router.verify import texts
from router.verify.expressions import Equation, Holds, annotations, equations, normalised
from router.verify.quantities import MOST_CHARS, Given, decimal, givens

CHECKS: Final = (
    "false_equations",
    "near_equations",
    "rounded_equations",
    "no_equation",
    "one_equation",
    "steps_per_given",
    "many_operands",
    "repeated_equations",
    "ungrounded_operands",
    "invented_operands",
    "conversions",
    "reused_givens",
    "unused_givens",
    "uncalculated_share",
    "dead_ends",
    "missing_subtraction",
    "final_not_last",
    "final_not_reckoned",
    "final_fractional",
    "final_fractional_count",
    "final_long",
    "final_negative",
    "final_size",
    "fraction_from_whole",
    "periodic_fraction",
    "breaks_off",
    "hedges",
    "turns_back",
    "unknowns",
)
"""The names of the checks, in the order of `Reckoning.values`."""

_NUMBER: Final = re.compile(r"-?[$\u20ac\u00a3]?(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d{1,18})(?P<point>\.\d{1,12})?")
_CUT_NUMBER: Final = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})*,\d{0,2}\Z")  # 88,00
_UNKNOWN: Final = re.compile(
    r"(?<![\w'$])[a-wyzA-HJ-Z](?=\s*[=+\-*/)])|\d[a-zA-Z](?![\w'])\s*[=+-]|\blet\b[^\n]{0,40}?(?:\bbe\b|=)"
    r"|\bequation|\bsolv(?:e|ing) for\b",
    re.IGNORECASE,
)
_TAKES_AWAY: Final = re.compile(
    r"\b(?:left|remain\w*|more than|less|fewer|difference|change|how (?:much|many) more|profit|save\w*)\b",
    re.IGNORECASE,
)
_COUNTS: Final = re.compile(r"\bhow many\b", re.IGNORECASE)
_SENTENCE: Final = re.compile(r"(?<=[.?!])\s+")
_CONVERSIONS: Final = frozenset(map(Fraction, (7, 12, 24, 30, 52, 60, 100, 365, 1000)))
_KNOWN: Final = _CONVERSIONS | frozenset(map(Fraction, (0, 1, 2, 3, 4, 10, 16, 28, 31, 36, 366, 3600)))
_MOST_STEPS: Final = 64


@dataclass(frozen=True, slots=True)
class Reckoning:
    """The checks of one answer: `values` in the order of `CHECKS`, and the equations they rest on."""

    values: tuple[float, ...]
    chain: tuple[Equation, ...]
    givens: int

    @property
    def named(self) -> Mapping[str, float]:
        """The values by name."""
        return dict(zip(CHECKS, self.values, strict=True))


def reckon(question: str, text: str) -> Reckoning:
    """The checks of `text` as an answer to `question`; linear in both but for at most 64 equations among each other."""
    question, raw = question[:MOST_CHARS], text[:MOST_CHARS].strip()
    plain = normalised(raw)
    stated = equations(plain)[:_MOST_STEPS]
    typed = [each for note in annotations(raw) for each in equations(note)][:_MOST_STEPS]
    visible = {(each.operands, each.operators) for each in stated}
    # What a calculator was asked counts where the text does not say the same.
    chain = (*stated, *(each for each in typed if (each.operands, each.operators) not in visible))
    given = givens(question)
    final = _final(plain, chain)
    values = {
        **_equations(chain, given),
        **_sources(chain, stated or tuple(typed), given, plain, final.value),
        **_result(question, chain, given, final),
        "breaks_off": (texts.breaks_off(raw) is not None or _CUT_NUMBER.search(raw) is not None)
        and not final.announced,
        "hedges": min(texts.hedges(raw), 2),
        "turns_back": min(texts.turns_back(raw), 2),
        "unknowns": _UNKNOWN.search(plain) is not None,
    }
    return Reckoning(tuple(float(values[name]) for name in CHECKS), chain, len(given))


@dataclass(frozen=True, slots=True)
class _Final:
    """The result an answer ends in. `announced`: it says that this is its result."""

    value: Fraction
    written: str
    announced: bool


def _final(plain: str, chain: Sequence[Equation]) -> _Final:
    """What is announced; else what the last sentence says of the chain's results; else the last number of all."""
    markers = list(texts.MARKER.finditer(plain))
    announced = _NUMBER.search(plain, markers[-1].end()) if markers else None
    if announced is not None:
        return _Final(_value(announced), announced[0], True)
    numbers = list(_NUMBER.finditer(plain))
    if not numbers:
        return _Final(Fraction(0), "", bool(markers))
    results = {each.stated for each in chain}
    closing = max((match.end() for match in _SENTENCE.finditer(plain)), default=0)
    fitting = [each for each in numbers if each.start() >= closing and _value(each) in results]
    found = (fitting or numbers)[-1]
    return _Final(_value(found), found[0], bool(markers))


def _value(match: re.Match[str]) -> Fraction:
    value = decimal(match["digits"], match["point"])
    return -value if match[0].startswith("-") else value


def _equations(chain: Sequence[Equation], given: Sequence[Given]) -> dict[str, float]:
    holds = Counter(each.holds for each in chain)
    written = Counter((each.operands, each.operators) for each in chain)
    return {
        "false_equations": min(holds[Holds.FALSE], 2),
        "near_equations": min(holds[Holds.NEAR], 2),
        "rounded_equations": min(holds[Holds.ROUNDED], 2),
        "no_equation": not chain,
        "one_equation": len(chain) == 1,
        "steps_per_given": min(len(chain) / max(len(given), 1), 4.0),
        "many_operands": max((len(each.operands) for each in chain), default=0) >= 4,
        "repeated_equations": min(sum(written.values()) - len(written), 2),
    }


def _sources(
    chain: Sequence[Equation], steps: Sequence[Equation], given: Sequence[Given], plain: str, final: Fraction
) -> dict[str, float]:
    """Where the operands come from and where the results go. `steps` is the chain in the order of the text."""
    like = frozenset(value for each in given for value in each.alike)
    used = [operand for each in chain for operand in each.operands]
    calculated = frozenset(used)
    results = frozenset(each.stated for each in chain)
    said = {_value(match) for match in _NUMBER.finditer(plain)} | {each.value for each in givens(plain)}
    at_hand, ungrounded = set(like), 0
    for each in steps:
        ungrounded += sum(1 for one in each.operands if one not in _KNOWN and not _among(one, at_hand))
        at_hand |= {each.stated, each.computed, *each.operands}
    plain_givens = Counter(each.value for each in given)
    often = Counter(one for one in used if one in plain_givens and one not in (1, 2))
    return {
        "ungrounded_operands": min(ungrounded, 3),
        "invented_operands": min(
            sum(1 for one in used if one not in like and one not in results and one not in _CONVERSIONS), 3
        ),
        "conversions": min(sum(1 for one in used if one in _CONVERSIONS and one not in like and one not in results), 2),
        "reused_givens": min(sum(max(0, often[one] - plain_givens[one]) for one in often), 3),
        "unused_givens": min(sum(1 for each in given if not each.alike & (calculated | said)), 3),
        "uncalculated_share": sum(1 for each in given if not each.alike & calculated) / max(len(given), 1),
        "dead_ends": min(_dead_ends(steps, final), 3),
    }


def _dead_ends(steps: Sequence[Equation], final: Fraction) -> int:
    """How many results are neither used later nor the final one."""
    dead = 0
    later: set[Fraction] = set()
    for each in reversed(steps):
        dead += not _close(each.stated, final) and not any(_close(each.stated, one) for one in later)
        later.update(each.operands)
    return dead


def _result(question: str, chain: Sequence[Equation], given: Sequence[Given], final: _Final) -> dict[str, float]:
    asked = [sentence for sentence in _SENTENCE.split(question) if "?" in sentence]
    results = [each.stated for each in chain]
    fractional = final.value.denominator != 1
    whole_givens = all(each.value.denominator == 1 for each in given)
    operators = "".join(each.operators for each in chain)
    return {
        "missing_subtraction": _TAKES_AWAY.search(question) is not None and "-" not in operators,
        "final_not_last": bool(chain) and not _close(final.value, chain[-1].stated),
        "final_not_reckoned": not any(_close(final.value, each) for each in results),
        "final_fractional": fractional,
        "final_fractional_count": fractional and bool(asked) and _COUNTS.search(asked[-1]) is not None,
        "final_long": final.value.denominator > 100 or len(final.written) >= 7,
        "final_negative": final.value < 0,
        "final_size": min(math.log1p(float(abs(final.value))), 14.0),
        "fraction_from_whole": whole_givens and any(each.denominator != 1 for each in results),
        "periodic_fraction": any(
            each.stated.denominator >= 3 and (each.computed.denominator % 3 == 0 or each.computed.denominator % 7 == 0)
            for each in chain
        ),
    }


def _among(value: Fraction, known: Collection[Fraction]) -> bool:
    return value in known or any(_close(value, each) for each in known)


def _close(one: Fraction, other: Fraction) -> bool:
    """Equal but for rounding: within 1 %, or 0.01 below one."""
    return one == other or abs(one - other) <= max(abs(other), 1 if abs(other) < 1 else 0) / 100
