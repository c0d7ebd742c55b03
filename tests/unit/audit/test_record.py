import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from deployments.audit.canonical import canonical
from deployments.audit.record import (
    EVENTS,
    FIELDS,
    MAX_RECORD_BYTES,
    InvalidRecord,
    data_problem,
    encode,
    record_problem,
    validate,
)
from deployments.errors import AuditUnavailable
from tests.unit.audit.logs import D1, event, routed


def test_the_bytes_of_a_record_are_fixed() -> None:
    # Golden: a change here breaks every stored log and every receipt.
    assert encode(routed(7), 41, "1.2.3+abc") == (
        b'{"at_ms":1,"code_version":"1.2.3+abc","data":{"effort":"medium","model":"demo-20b","policy_digest":"'
        + b"1" * 64
        + b'","reason":"default","route_id":"rt_7","tier":"20b"},"event_id":"route:7","name":"route.decided",'
        b'"principal":"key_1","request_id":"req_1","schema":"gatehouse.audit/1","sequence":41,"session":"s_1",'
        b'"tenant":"acme"}'
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
    ],
)
def test_what_does_not_fit_is_refused_without_repeating_its_value(
    name: str, data: dict[str, object], says: str
) -> None:
    problem = data_problem(name, data)
    assert problem is not None
    assert says in problem
    assert "secret words" not in problem


@pytest.mark.parametrize("difficulty", [float("nan"), float("inf"), "0.5", True])
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
