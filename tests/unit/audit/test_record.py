import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import jsonschema
import pytest
import rfc8785
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from deployments.audit.canonical import canonical
from deployments.audit.record import (
    BODY,
    EVENTS,
    FIELDS,
    HOISTED,
    KINDS,
    MAX_RECORD_BYTES,
    InvalidRecord,
    data_problem,
    encode,
    fields_of,
    record_problem,
    validate,
)
from deployments.audit.schema_doc import json_schema, json_schema_text, markdown
from deployments.errors import AuditUnavailable
from deployments.ports import AuditEvent, Body, BodyField, JsonValue
from serve_app.cli.schema import schema
from serve_app.config import ROOT
from tests.unit.audit.logs import D1, D2, event, routed

KEPT: dict[str, JsonValue] = {"blob": D1, "key_id": "k1", "bytes": 7, "masked": 0}
VALUES: dict[str, JsonValue] = {
    "text": "é",
    "texts": ["a", "b"],
    "sha256": D2,
    "count": 3,
    "integer": -9,
    "number": 0.25,
    "flag": True,
    "body": KEPT,
}
"""A value of each kind."""


def full(name: str) -> AuditEvent:
    """Event `name` with every field that it may carry."""
    schema = EVENTS[name]
    data = {field: VALUES[FIELDS[field].kind] for field in schema.allowed}
    return event(name, f"{name}:1", **{**data, **{field: min(words) for field, words in schema.words.items()}})


def least(name: str) -> AuditEvent:
    """Event `name` with what it must carry alone."""
    whole = full(name)
    return replace(whole, data={field: whole.data[field] for field in EVENTS[name].required})


def decoded(item: AuditEvent) -> dict[str, Any]:
    validate(item)
    return json.loads(encode(item, 0, "v"))


def as_before(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as it was written before change id and policy digest had a place in the envelope."""
    old = {name: value for name, value in record.items() if name not in HOISTED}
    return {**old, "data": fields_of(record)}


def test_the_bytes_of_a_record_are_fixed() -> None:
    # Golden: a change here breaks every stored log and every receipt.
    assert encode(routed(7), 41, "1.2.3+abc") == (
        b'{"at_ms":1,"change_id":null,"code_version":"1.2.3+abc","data":{"effort":"medium","model":"demo-20b",'
        b'"reason":"default","route_id":"rt_7","tier":"20b"},"event_id":"route:7","name":"route.decided",'
        b'"policy_digest":"' + b"1" * 64 + b'","principal":"key_1","request_id":"req_1","schema":"gatehouse.audit/1",'
        b'"sequence":41,"session":"s_1","tenant":"acme"}'
    )


def test_every_field_of_every_event_has_a_kind() -> None:
    used = {field for schema in EVENTS.values() for field in schema.allowed}
    assert used == set(FIELDS)


def test_event_names_are_subject_dot_action() -> None:
    assert all(name.count(".") == 1 and name == name.lower() for name in EVENTS)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("tool_call.exploded", {}, "not one of audit record v1"),
        ("key.revoked", {"key_id": "k", "prompt": "secret words"}, "does not have a field 'prompt'"),
        ("key.revoked", {}, "lacks the field 'key_id'"),
        ("key.revoked", {"key_id": None}, "must be text"),
        ("key.revoked", {"key_id": "k" * 1025}, "must be text of at most 1024"),
        ("key.revoked", {"key_id": "k", "expires_ms": True}, "must be an integer"),
        ("key.revoked", {"key_id": "k", "expires_ms": -1}, "must be an integer"),
        ("key.revoked", {"key_id": "k", "expires_ms": 2**53}, "must be an integer"),
        ("key.created", {"key_id": "k", "scopes": ["a", 1]}, "must be a list"),
        ("key.created", {"key_id": "k", "scopes": ["a"] * 65}, "must be a list"),
        ("approval.granted", {"approval_id": "a", "action_digest": "A" * 64}, "must be a SHA-256"),
        ("approval.granted", {"approval_id": "a", "action_digest": "a" * 63}, "must be a SHA-256"),
        ("action.reported", {"gate_call_id": "g", "outcome": "succeeded", "source": "rumour"}, "must be one of api"),
        ("action.reported", {"gate_call_id": "g", "outcome": "fine", "source": "api"}, "must be one of failed"),
        ("bypass.attempted", {"kind": "secret words"}, "must be one of denied_call_executed"),
        ("key.revoked", {"key_id": "k", "change_id": 7}, "must be text"),
        ("key.revoked", {"key_id": "k", "policy_digest": "x"}, "must be a SHA-256"),
        ("change.closed", {"outcome": "succeeded"}, "lacks the field 'change_id'"),
        ("rollback.reported", {"change_id": None, "outcome": "failed", "source": "api"}, "must be text"),
    ],
)
def test_what_does_not_fit_is_refused_without_repeating_its_value(
    name: str, data: dict[str, object], says: str
) -> None:
    problem = data_problem(name, data)
    assert problem is not None
    assert says in problem
    assert "secret words" not in problem


@pytest.mark.parametrize("difficulty", [float("nan"), float("inf"), -float("inf"), 2.0**53, -(2**53), "0.5", True])
def test_a_number_is_a_finite_number(difficulty: float) -> None:
    fits = {"route_id": "r", "model": "m", "tier": "t", "effort": "e", "reason": "x", "policy_digest": D1}
    assert data_problem("route.decided", {**fits, "difficulty": 0.25}) is None
    assert "finite" in (data_problem("route.decided", {**fits, "difficulty": difficulty}) or "")


def test_an_optional_field_may_be_null() -> None:
    assert data_problem("key.revoked", {"key_id": "k", "person": None}) is None


def test_an_invalid_record_is_a_missing_record() -> None:
    with pytest.raises(AuditUnavailable) as caught:
        validate(event("key.revoked", "e"))
    assert isinstance(caught.value, InvalidRecord)


def test_a_lone_surrogate_has_no_record() -> None:
    with pytest.raises(InvalidRecord):
        encode(event("key.revoked", "e", key_id="\ud800"), 0, "v")


def test_a_record_has_a_largest_size() -> None:
    scopes: list[object] = ["s" * 1024] * 16
    with pytest.raises(InvalidRecord, match=str(MAX_RECORD_BYTES)):
        encode(event("key.created", "e", key_id="k", scopes=scopes), 0, "v")  # pyright: ignore[reportArgumentType]


_texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)


@given(event_id=_texts, tool=_texts, index=st.integers(0, 2**53 - 1), flag=st.booleans(), sequence=st.integers(0, 999))
def test_whatever_validates_encodes_to_a_valid_canonical_record(
    event_id: str, tool: str, index: int, flag: bool, sequence: int
) -> None:
    item = event("tool_call.proposed", event_id, gate_call_id="g", tool=tool, index=index, recovered=flag)
    validate(item)
    payload = encode(item, sequence, "v")
    record = json.loads(payload)
    assert record_problem(record) is None
    assert record["sequence"] == sequence
    assert rfc8785.dumps(record) == payload


def test_canonical_sorts_keys_and_spells_numbers_once() -> None:
    assert canonical({"b": 1.0, "a": [True, None, "é"]}) == '{"a":[true,null,"é"],"b":1}'.encode()


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("make", [full, least])
def test_what_a_producer_hands_in_is_what_a_reader_finds(name: str, make: Any) -> None:
    item = make(name)
    record = decoded(item)
    assert record_problem(record) is None
    assert fields_of(record) == item.data
    assert not set(HOISTED) & set(record["data"])


@pytest.mark.parametrize("name", EVENTS)
def test_a_record_of_before_is_still_a_record(name: str) -> None:
    item = full(name)
    old = as_before(decoded(item))
    assert record_problem(old) is None
    assert fields_of(old) == item.data


@pytest.mark.parametrize("name", EVENTS)
def test_every_required_field_is_required(name: str) -> None:
    item = full(name)
    for field in EVENTS[name].required:
        short = replace(item, data={each: value for each, value in item.data.items() if each != field})
        with pytest.raises(InvalidRecord, match=f"lacks the field '{field}'"):
            validate(short)


def test_a_hoisted_field_has_one_place() -> None:
    record = decoded(full("route.decided"))
    twice = {**record, "data": {**record["data"], "change_id": "CHG-1"}}
    assert "belong into the envelope" in (record_problem(twice) or "")
    half = {name: value for name, value in record.items() if name != "change_id"}
    assert "envelope fields" in (record_problem(half) or "")


@pytest.mark.parametrize("field", HOISTED)
def test_a_hoisted_field_that_an_event_needs_may_not_be_null_in_the_envelope(field: str) -> None:
    name = {"change_id": "change.closed", "policy_digest": "policy.changed"}[field]
    record = decoded(full(name))
    assert f"lacks the field '{field}'" in (record_problem({**record, field: None}) or "")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {**KEPT, "text": "the words"},
        {name: value for name, value in KEPT.items() if name != "masked"},
        {**KEPT, "blob": "x"},
        {**KEPT, "bytes": -1},
        {**KEPT, "masked": True},
    ],
)
def test_a_kept_body_has_exactly_its_parts(value: JsonValue) -> None:
    data: dict[str, JsonValue] = {**least("generation.finished").data, "output_body": KEPT}
    assert data_problem("generation.finished", data) is None
    assert (data_problem("generation.finished", {**data, "output_body": value}) is None) == (value is None)


@pytest.mark.parametrize("code", [0, 255, -15, -(2**53) + 1])
def test_an_exit_code_may_be_negative(code: int) -> None:
    assert data_problem("action.reported", {**least("action.reported").data, "exit_code": code}) is None


@pytest.mark.parametrize("code", [-(2**53), 1.0, True, "0"])
def test_an_exit_code_is_an_integer(code: JsonValue) -> None:
    found = data_problem("action.reported", {**least("action.reported").data, "exit_code": code})
    assert "'exit_code' of 'action.reported' must be an integer" in (found or "")


@pytest.mark.parametrize(
    ("name", "bodies", "data", "says"),
    [
        ("key.revoked", {BodyField.PROMPT: Body(bytes(32))}, {}, "does not have a body 'prompt'"),
        ("change.closed", {BodyField.REASON: Body(bytes(31))}, {}, "must be 32 bytes"),
        ("change.closed", {BodyField.REASON: Body(bytes(32))}, {"reason_commit": D1}, "'reason' twice"),
        ("change.closed", {BodyField.REASON: Body(bytes(32))}, {"reason_body": KEPT}, "'reason' twice"),
    ],
)
def test_a_body_that_has_no_place_is_refused(
    name: str, bodies: Mapping[BodyField, Body], data: dict[str, JsonValue], says: str
) -> None:
    item = least(name)
    validate(item)
    with pytest.raises(InvalidRecord, match=says):
        validate(replace(item, bodies=bodies, data={**item.data, **data}))


def test_a_body_that_has_its_place_is_taken() -> None:
    digest = hashlib.sha256(b"why").digest()
    validate(replace(least("change.closed"), bodies={BodyField.REASON: Body(digest, b"why")}))


@given(st.floats(-(2**53) + 1, 2**53 - 1))
def test_every_number_is_spelled_as_rfc_8785_spells_it(number: float) -> None:
    item = replace(least("route.decided"), data={**least("route.decided").data, "difficulty": number})
    record = decoded(item)
    assert encode(item, 0, "v") == rfc8785.dumps(record)
    assert record["data"]["difficulty"] == number
    assert record_problem(record) is None


@given(st.lists(_texts), _texts, st.integers(0, 2**53 - 1))
def test_every_text_is_spelled_as_rfc_8785_spells_it(reasons: list[str], title: str, at_ms: int) -> None:
    item = event("incident.opened", "e", at_ms, title=title, kind="k\u2028\x7f\x00", reason="\U0001f600\ue000")
    payload = encode(replace(item, data={**item.data, "reasons": [*reasons]}), 0, "v")
    assert payload == rfc8785.dumps(json.loads(payload))


# --- the documents -----------------------------------------------------------------------------------------------

SCHEMA = jsonschema.Draft202012Validator(cast("Any", json_schema()))


def test_the_committed_document_is_the_code() -> None:
    assert (ROOT / "docs" / "audit-schema.md").read_text() == markdown(), "run: gatehouse schema audit"


def test_the_committed_json_schema_is_the_code() -> None:
    committed = (ROOT / "configs" / "audit-record.schema.json").read_text()
    assert committed == json_schema_text(), "run: gatehouse schema audit-record"


@pytest.mark.parametrize(
    ("what", "path"), [("audit", "docs/audit-schema.md"), ("audit-record", "configs/audit-record.schema.json")]
)
def test_the_command_prints_what_is_committed(what: str, path: str) -> None:
    app = typer.Typer()
    app.command()(schema)
    assert CliRunner().invoke(app, [what]).stdout == (ROOT / path).read_text()


def test_the_document_has_every_event_field_and_kind() -> None:
    text = markdown()
    for name, found in EVENTS.items():
        section = text.split(f"### {name}\n")[1].split("###")[0]
        assert found.says in section
        for field in found.allowed - set(HOISTED):
            assert f"| `{field}` | {FIELDS[field].kind} |" in section
    assert all(f"`{kind}`" in text for kind in [*KINDS, *BODY])
    assert all(field.means for field in FIELDS.values())


def test_the_json_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("make", [full, least])
def test_the_json_schema_takes_every_record(name: str, make: Any) -> None:
    record = decoded(make(name))
    SCHEMA.validate(record)
    SCHEMA.validate(as_before(record))


def _mutants(name: str) -> list[dict[str, Any]]:
    """Records that are wrong in one place each."""
    record = decoded(full(name))
    data = record["data"]
    found = [{**record, "more": 1}, {**record, "schema": "gatehouse.audit/2"}, {**record, "name": "key.exploded"}]
    found += [{**record, field: wrong} for field in record for wrong in (True, {"a": 1})]
    found += [{key: value for key, value in record.items() if key != field} for field in record]
    found += [{**record, "data": {**data, field: {"no": "kind"}}} for field in data]
    found += [{**record, "data": {**data, "prompt": "words"}}, {**record, "data": {**data, "change_id": "CHG-1"}}]
    required = EVENTS[name].required
    found += [{**record, field: None} for field in required & set(HOISTED)]
    found += [
        {**record, "data": {each: v for each, v in data.items() if each != field}} for field in required & set(data)
    ]
    return found


@pytest.mark.parametrize("name", EVENTS)
def test_the_json_schema_and_the_code_refuse_the_same(name: str) -> None:
    for mutant in _mutants(name):
        assert record_problem(mutant) is not None, mutant
        assert not SCHEMA.is_valid(mutant), mutant
