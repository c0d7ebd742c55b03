"""Is an answer right? Deterministic checks of a model's text against what the label file expects; nothing is executed.

The answer is read generously (a fence, a remark before it, a unit behind it), but never guessed: an answer that names
two different results is wrong.
"""

import json
import math
from decimal import Decimal, InvalidOperation
from typing import Annotated, Final, Literal, TypeAlias, assert_never

import regex
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

_MAX_CHARS: Final = 200_000
_REGEX_SECONDS: Final = 0.5
_FENCE: Final = regex.compile(r"```[\w+-]*\s*\n(.*?)\n?```", regex.DOTALL)
_NUMBER: Final = r"[-+\u2212]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+\u2212]?\$?\.\d+"
_NUMBERS: Final = regex.compile(_NUMBER)
_BOXED: Final = regex.compile(r"\\boxed\{([^{}]*)\}")
_SAID: Final = regex.compile(r"(?:####|(?:final\s+)?answer\s*(?:is|:|=))[\s*:$(\\]*(?P<rest>[^\n]*)", regex.IGNORECASE)
# Standing alone; "A farmer" is an article, not an option, and "I" would be a pronoun.
_LETTER: Final = regex.compile(r"(?<![A-Za-z'])(?:([B-H])|(A)(?! (?!and\b|or\b)[a-z]))(?![A-Za-z'])")
_LEADING_LETTER: Final = regex.compile(r"^[\s*(\[]*([A-Ha-h])(?:[\s*)\].:,]|$)(?!\s*(?:or|and|/)\s+[*(]*[A-H]\b)")
_EDGES: Final = " \t\r\n*_`\"'.,:;!?()[]{}"


class _Check(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Choice(_Check):
    """The letter of an answer option, A to H."""

    kind: Literal["choice"]
    expected: Annotated[str, Field(pattern=r"^[A-H]$")]


class Exact(_Check):
    """A text, compared without case, markup at its edges and width of blanks; the whole answer or its last line."""

    kind: Literal["exact"]
    expected: Annotated[str, Field(min_length=1)]


class Numeric(_Check):
    """A number; equal within `tolerance`, relative to the expected one or absolute, whichever is larger."""

    kind: Literal["numeric"]
    expected: float
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 1e-6


class Pattern(_Check):
    """A regular expression that must occur in the answer; one that takes longer than half a second does not."""

    kind: Literal["regex"]
    pattern: Annotated[str, Field(min_length=1, max_length=2000)]

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            regex.compile(pattern)
        except regex.error:
            raise ValueError("the pattern does not compile") from None
        return pattern


class Json(_Check):
    """JSON, in a fence or bare; equal to `expected` where given, and an object with all of `required`."""

    kind: Literal["json"]
    expected: JsonValue = None
    required: list[str] = []


Check: TypeAlias = Annotated[Choice | Exact | Numeric | Pattern | Json, Field(discriminator="kind")]


def is_right(check: Choice | Exact | Numeric | Pattern | Json, answer: str) -> bool:
    """True when the answer passes. An empty or over-long answer (200,000 characters) never does."""
    if not answer.strip() or len(answer) > _MAX_CHARS:
        return False
    match check:
        case Choice():
            return chosen_letter(answer) == check.expected
        case Exact():
            lines = [line for line in answer.splitlines() if line.strip()]
            return _plain(check.expected) in {_plain(answer), _plain(lines[-1])}
        case Numeric():
            number = final_number(answer)
            return number is not None and math.isclose(
                number, check.expected, rel_tol=check.tolerance, abs_tol=check.tolerance
            )
        case Pattern():
            try:
                return regex.search(check.pattern, answer, timeout=_REGEX_SECONDS) is not None
            except TimeoutError:
                return False
        case Json():
            return _matches(check, answer)
        case _:
            assert_never(check)


def chosen_letter(answer: str) -> str | None:
    """The option an answer settles on, upper case; None when it names none, or two in its last word on it."""
    boxed = _BOXED.findall(answer)
    if boxed:
        return _only(boxed[-1].upper())
    said = _SAID.findall(answer)
    if said:
        leading = _LEADING_LETTER.match(said[-1])
        if leading is not None:
            return leading[1].upper()
        return _only(said[-1])
    text = answer.strip()
    leading = _LEADING_LETTER.match(text)
    # "A farmer ..." starts with a letter that is a word: an option stands alone or is marked as one.
    if leading is not None and (len(text.strip(_EDGES)) == 1 or text[leading.end(1) : leading.end(1) + 1] in ").]:"):
        return leading[1].upper()
    return _only(text.splitlines()[-1])


def final_number(answer: str) -> float | None:
    """The number an answer settles on: boxed, behind "####" or "answer is", else the last one; None without any."""
    boxed = _BOXED.findall(answer)
    said = _SAID.findall(answer)
    for place, first in ((boxed[-1] if boxed else "", True), (said[-1] if said else "", True), (answer, False)):
        numbers = _NUMBERS.findall(place)
        if numbers:
            return _value(numbers[0] if first else numbers[-1])
    return None


def _value(text: str) -> float | None:
    try:
        value = float(Decimal(text.replace(",", "").replace("$", "").replace("\u2212", "-")))
    except (InvalidOperation, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _only(text: str) -> str | None:
    letters = {match[0] for match in _LETTER.finditer(text)}
    return letters.pop() if len(letters) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_EDGES)


def _matches(check: Json, answer: str) -> bool:
    fenced = _FENCE.findall(answer)
    try:
        value: JsonValue = json.loads(fenced[-1] if fenced else answer)
    except (ValueError, RecursionError):
        return False
    if check.required and not (isinstance(value, dict) and set(check.required) <= value.keys()):
        return False
    return "expected" not in check.model_fields_set or _same(value, check.expected)


def _same(first: JsonValue, second: JsonValue) -> bool:
    """Equality in which true is not 1."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_same(first[name], second[name]) for name in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(_same(a, b) for a, b in zip(first, second, strict=True))
    return first == second
