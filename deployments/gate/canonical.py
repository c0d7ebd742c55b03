"""From the model's `arguments` string to one canonical text, or a reason why there is none.

Gate, approver and runner must read the same string: the RFC 8785 form made here is what is classified, hashed, shown
and sent. What cannot be read in exactly one way is rejected and never repaired: a repair is a second opinion about
meaning.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeAlias, cast

import rfc8785

from deployments.ports import JsonValue

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_SAFE_INTEGER = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Canonical:
    """A JSON object in its RFC 8785 form: `text` is what travels, `value` what it says."""

    text: str
    value: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Rejected:
    """No canonical form. `reason` is a sentence without any part of the input."""

    reason: str


Decoded: TypeAlias = Canonical | Rejected


class _Refused(Exception):
    """The input can be read in more than one way; the text says why."""


def canonicalise(arguments: str) -> Decoded:
    """The canonical object behind `arguments`, or why there is none. Never raises."""
    if len(arguments) > MAX_BYTES or len(arguments.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return Rejected(f"The arguments are longer than {MAX_BYTES} bytes.")
    if _depth(arguments) > MAX_DEPTH:
        return Rejected(f"The arguments are nested deeper than {MAX_DEPTH}.")
    try:
        value = cast(
            JsonValue,
            json.loads(
                arguments,
                object_pairs_hook=_pairs,
                parse_float=_float,
                parse_int=_int,
                parse_constant=_constant,
            ),
        )
        if not isinstance(value, dict):
            return Rejected("The arguments are not a JSON object.")
        return canonical_object(value)
    except _Refused as error:
        return Rejected(str(error))
    except (ValueError, RecursionError):
        return Rejected("The arguments are not valid JSON.")


def canonical_object(value: Mapping[str, JsonValue]) -> Decoded:
    """The canonical form of an already decoded object, under the same rules."""
    try:
        checked = cast("dict[str, JsonValue]", _check(cast(JsonValue, dict(value)), 0))
        text = rfc8785.dumps(checked).decode("utf-8")
        # Numbers print in one form only (1.0 becomes 1): the value that is judged is the one that was printed.
        return Canonical(text, cast("dict[str, JsonValue]", json.loads(text)))
    except _Refused as error:
        return Rejected(str(error))
    except (rfc8785.CanonicalizationError, ValueError, RecursionError):
        return Rejected("The arguments have no canonical JSON form.")


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside strings; looked at before parsing, so that no bomb reaches the parser."""
    depth = deepest = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


def _pairs(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused("The arguments name one key twice.")
    return found


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused("The arguments hold a number that is too large.")
    return value


def _int(text: str) -> int:
    # Length first: int() of a very long digit string raises an error of its own.
    if len(text) > 17 or abs(int(text)) > MAX_SAFE_INTEGER:
        raise _Refused("The arguments hold an integer beyond 2^53-1; large ids must be strings.")
    return int(text)


def _constant(text: str) -> NoReturn:
    raise _Refused("The arguments hold NaN or Infinity.")


def _check(value: JsonValue, depth: int) -> JsonValue:
    if depth > MAX_DEPTH:
        raise _Refused(f"The arguments are nested deeper than {MAX_DEPTH}.")
    match value:
        case str():
            _check_text(value)
        case bool() | None:
            pass
        case int():
            if abs(value) > MAX_SAFE_INTEGER:
                raise _Refused("The arguments hold an integer beyond 2^53-1; large ids must be strings.")
        case float():
            if not math.isfinite(value):
                raise _Refused("The arguments hold NaN or Infinity.")
            if value.is_integer() and abs(value) > MAX_SAFE_INTEGER:
                raise _Refused("The arguments hold an integer beyond 2^53-1; large ids must be strings.")
        case list():
            for item in value:
                _check(item, depth + 1)
        case dict():
            for key, item in value.items():
                _check_text(key)
                _check(item, depth + 1)
    return value


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise _Refused("The arguments hold a NUL character.")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise _Refused("The arguments hold a lone surrogate.")
