"""Structured output: does the answer parse as JSON, and does it match the caller's JSON Schema.

The part of JSON Schema (2020-12) that structured output uses, decided in three values: a keyword that is not known here
makes the answer unknown, never passed. Nothing is fetched; `$ref` stays inside the document.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Final

from router.lexicon import word_set
from router.verify.values import Answer, Check, Finding, Json, Status, Task

_MOST_STEPS: Final = 50_000
_MOST_DEPTH: Final = 64
_ANNOTATIONS: Final = word_set(
    "title description default examples example deprecated readOnly writeOnly $schema $id $comment $defs definitions "
    "format contentEncoding contentMediaType x-order propertyOrdering nullable discriminator"
)
_TYPES: Final = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


class _Unsure(Exception):
    """The schema says something that is not known here, or is too large."""


def structured(answer: Answer, task: Task) -> Finding | None:
    """Whether the answer is the JSON that was asked for; None when none was, or when the answer is a tool call."""
    if (task.schema is None and not task.wants_json) or answer.tool_calls:
        return None
    try:
        value: Json = json.loads(answer.text, parse_constant=_no_constant)
    except RecursionError:
        return Finding(Check.SCHEMA, Status.UNKNOWN, "too_deep")
    except ValueError:
        return Finding(Check.SCHEMA, Status.FAIL, "not_json")
    if task.schema is None:
        matches: bool | None = isinstance(value, dict)
    else:
        matches = valid(value, task.schema)
    match matches:
        case True:
            return Finding(Check.SCHEMA, Status.PASS, "matches")
        case False:
            return Finding(Check.SCHEMA, Status.FAIL, "violates_schema")
        case None:
            return Finding(Check.SCHEMA, Status.UNKNOWN, "schema_not_understood")


def valid(value: Json, schema: Mapping[str, Json]) -> bool | None:
    """True or False where `schema` decides; None where it uses what is not known here, or takes too many steps."""
    return _Validator(schema).holds(value)


def _no_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are no JSON


class _Validator:
    """One validation. Three values: a violation found is a violation, whatever else could not be decided."""

    def __init__(self, schema: Mapping[str, Json]) -> None:
        self._root = dict(schema)
        self._steps = 0

    def holds(self, value: Json) -> bool | None:
        try:
            return self._valid(value, self._root, 0)
        except (_Unsure, RecursionError):
            return None

    def _valid(self, value: Json, schema: Json, depth: int) -> bool | None:
        self._steps += 1
        if self._steps > _MOST_STEPS or depth > _MOST_DEPTH:
            raise _Unsure
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise _Unsure
        return _all(self._keyword(name, wanted, value, schema, depth) for name, wanted in schema.items())

    def _keyword(self, name: str, wanted: Json, value: Json, schema: dict[str, Json], depth: int) -> bool | None:
        if name in _ANNOTATIONS:
            return None if name in ("nullable", "discriminator") else True
        match name:
            case "$ref":
                return self._valid(value, self._target(wanted), depth + 1)
            case "type":
                return _is_type(value, wanted)
            case "enum" if isinstance(wanted, list):
                return any(_equal(value, each) for each in wanted)
            case "const":
                return _equal(value, wanted)
            case "allOf" if isinstance(wanted, list):
                return _all(self._valid(value, each, depth + 1) for each in wanted)
            case "anyOf" if isinstance(wanted, list):
                return _any([self._valid(value, each, depth + 1) for each in wanted])
            case "oneOf" if isinstance(wanted, list):
                return _one([self._valid(value, each, depth + 1) for each in wanted])
            case "not":
                inner = self._valid(value, wanted, depth + 1)
                return None if inner is None else not inner
            case _:
                return self._by_type(name, wanted, value, schema, depth)

    def _by_type(self, name: str, wanted: Json, value: Json, schema: dict[str, Json], depth: int) -> bool | None:
        if name in _LIMITS:
            return _within(name, wanted, value)
        match name, value:
            case "properties", dict() if isinstance(wanted, dict):
                return _all(self._valid(value[key], each, depth + 1) for key, each in wanted.items() if key in value)
            case "required", dict() if isinstance(wanted, list):
                return all(key in value for key in wanted)
            case "additionalProperties", dict():
                if "patternProperties" in schema:
                    return None
                known = schema.get("properties")
                named = known if isinstance(known, dict) else dict[str, Json]()
                return _all(self._valid(each, wanted, depth + 1) for key, each in value.items() if key not in named)
            case "propertyNames", dict():
                return _all(self._valid(key, wanted, depth + 1) for key in value)
            case "items", list():
                first = schema.get("prefixItems")
                skipped = len(first) if isinstance(first, list) else 0
                return _all(self._valid(each, wanted, depth + 1) for each in value[skipped:])
            case "prefixItems", list() if isinstance(wanted, list):
                return _all(self._valid(each, one, depth + 1) for each, one in zip(value, wanted, strict=False))
            case "uniqueItems", list():
                return None if len(value) > 256 else wanted is not True or _distinct(value)
            case (("properties" | "required" | "additionalProperties" | "propertyNames"), _) if not isinstance(
                value, dict
            ):
                return True
            case (("items" | "prefixItems" | "uniqueItems"), _) if not isinstance(value, list):
                return True
            case _:
                return None  # a pattern may take for ever; anything else is not known here

    def _target(self, reference: Json) -> Json:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise _Unsure
        place: Json = self._root
        for part in reference.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(place, dict) or key not in place:
                raise _Unsure
            place = place[key]
        return place


_LIMITS: Final = word_set(
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength minItems maxItems minProperties "
    "maxProperties"
)


def _within(name: str, wanted: Json, value: Json) -> bool | None:
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        return None
    size: float
    match name:
        case "minLength" | "maxLength":
            if not isinstance(value, str):
                return True
            size = len(value)
        case "minItems" | "maxItems":
            if not isinstance(value, list):
                return True
            size = len(value)
        case "minProperties" | "maxProperties":
            if not isinstance(value, dict):
                return True
            size = len(value)
        case _:
            if isinstance(value, bool) or not isinstance(value, int | float):
                return True
            size = value
    match name:
        case "exclusiveMinimum":
            return size > wanted
        case "exclusiveMaximum":
            return size < wanted
        case "multipleOf":
            return _multiple(size, wanted)
        case _:
            return size >= wanted if name.startswith("min") else size <= wanted


def _multiple(size: float, step: float) -> bool | None:
    if step <= 0 or not math.isfinite(size):
        return None
    if isinstance(size, int) and isinstance(step, int):
        return size % step == 0
    ratio = size / step
    return math.isclose(ratio, round(ratio), rel_tol=1e-9, abs_tol=1e-9)


def _is_type(value: Json, wanted: Json) -> bool | None:
    names = wanted if isinstance(wanted, list) else [wanted]
    if not all(isinstance(name, str) and name in _TYPES for name in names):
        return None
    return any(name in _types_of(value) for name in names)


def _types_of(value: Json) -> tuple[str, ...]:
    match value:
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case int():
            return ("integer", "number")
        case float():
            return ("integer", "number") if value.is_integer() else ("number",)
        case str():
            return ("string",)
        case list():
            return ("array",)
        case dict():
            return ("object",)


def _equal(one: Json, other: Json) -> bool:
    """JSON equality: 1 is 1.0 and is not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return one == other


def _distinct(values: list[Json]) -> bool:
    return not any(_equal(one, other) for at, one in enumerate(values) for other in values[at + 1 :])


def _all(each: Iterable[bool | None]) -> bool | None:
    unsure = False
    for one in each:
        if one is False:
            return False
        unsure = unsure or one is None
    return None if unsure else True


def _any(each: list[bool | None]) -> bool | None:
    return True if True in each else None if None in each else False


def _one(each: list[bool | None]) -> bool | None:
    if each.count(True) > 1:
        return False
    return None if None in each else each.count(True) == 1
