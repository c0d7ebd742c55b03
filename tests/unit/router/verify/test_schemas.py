"""JSON Schema: what we decide is what a full validator decides."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from router.types import Role, TaskType, Turn
from router.verify.schemas import structured, valid
from router.verify.values import Answer, Json, Status, Task

TURNS = (Turn(Role.USER, "Give me JSON."),)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from([0.5, 1.0, 2.5]), st.sampled_from(["", "a", "bc"])
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
leaves = st.one_of(
    st.booleans(),
    st.fixed_dictionaries({"type": st.one_of(names, st.lists(names, min_size=1, max_size=2, unique=True))}),
    st.fixed_dictionaries({"enum": st.lists(scalars, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"const": scalars}),
    st.fixed_dictionaries({"minimum": st.integers(-2, 2), "exclusiveMaximum": st.integers(0, 4)}),
    st.fixed_dictionaries({"multipleOf": st.sampled_from([1, 2, 0.5])}),
    st.fixed_dictionaries({"minLength": st.integers(0, 2), "maxLength": st.integers(0, 2)}),
    st.fixed_dictionaries({"minItems": st.integers(0, 2), "uniqueItems": st.booleans()}),
    st.fixed_dictionaries({"maxProperties": st.integers(0, 2)}),
    st.just({"$ref": "#/$defs/whole"}),
)
schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"properties": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)},
            optional={"required": st.lists(st.sampled_from(["a", "b"]), unique=True), "additionalProperties": inner},
        ),
        st.fixed_dictionaries({"items": inner}, optional={"prefixItems": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=5,
)


@given(values, schemas)
@settings(max_examples=150)
def test_agrees_with_a_full_validator(value: Json, schema: object) -> None:
    whole = {"$defs": {"whole": {"type": "integer"}}, "allOf": [schema]}
    assert valid(value, whole) is Draft202012Validator(whole).is_valid(value)


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "^(a+)+$"},
        {"if": {"type": "string"}, "then": {"minLength": 2}},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "#"},
        {"type": "text"},
        {"unevaluatedProperties": False},
        {"properties": {}, "patternProperties": {"a": {}}, "additionalProperties": False},
    ],
    ids=["pattern", "if", "remote", "endless", "type", "unevaluated", "patterned"],
)
def test_what_is_not_known_is_unknown(schema: dict[str, Json]) -> None:
    value: Json = {"a": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"} if "properties" in schema else "aaaaaaaaaaaaaaaaaaaaaaaaa!"
    if "unevaluatedProperties" in schema:
        value = {}
    assert valid(value, schema) is None


def test_a_violation_counts_whatever_else_is_not_known() -> None:
    assert valid(3, {"type": "string", "pattern": "a"}) is False


SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {"cause": {"type": "string"}, "score": {"type": "number", "maximum": 1}},
    "required": ["cause"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "status", "kind"),
    [
        ('{"cause": "disk", "score": 0.5}', Status.PASS, "matches"),
        ('{"cause": "disk", "score": 2}', Status.FAIL, "violates_schema"),
        ('{"score": 1}', Status.FAIL, "violates_schema"),
        ('{"cause": "disk", "why": 1}', Status.FAIL, "violates_schema"),
        ('{"cause": "disk"', Status.FAIL, "not_json"),
        ('```json\n{"cause": "disk"}\n```', Status.FAIL, "not_json"),
        ('{"cause": "disk", "score": NaN}', Status.FAIL, "not_json"),
        ("[" * 100_000, Status.UNKNOWN, "too_deep"),
    ],
    ids=["good", "limit", "missing", "extra", "cut", "fenced", "nan", "deep"],
)
def test_an_answer_against_its_schema(text: str, status: Status, kind: str) -> None:
    found = structured(Answer(text), Task(TaskType.GENERAL, TURNS, schema=SCHEMA))
    assert found is not None
    assert (found.status, found.kind) == (status, kind)


def test_an_object_of_any_form() -> None:
    task = Task(TaskType.GENERAL, TURNS, wants_json=True)
    good, bad = structured(Answer(json.dumps({})), task), structured(Answer("[]"), task)
    assert good is not None
    assert bad is not None
    assert (good.status, bad.status) == (Status.PASS, Status.FAIL)


def test_nothing_is_said_where_nothing_was_asked_for_or_a_tool_is_called() -> None:
    assert structured(Answer("no"), Task(TaskType.GENERAL, TURNS)) is None
    assert structured(Answer("", tool_calls=1), Task(TaskType.GENERAL, TURNS, schema=SCHEMA)) is None
