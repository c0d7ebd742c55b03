import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.gate.canonical import MAX_BYTES, Canonical, Rejected, canonical_object, canonicalise


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a":1,"a":2}', "twice"),
        ('{"o":{"a":1,"a":1}}', "twice"),
        ('{"a":NaN}', "NaN"),
        ('{"a":Infinity}', "NaN"),
        ('{"a":-Infinity}', "NaN"),
        ('{"a":1e400}', "too large"),
        ('{"a":9007199254740992}', "2^53"),
        ('{"a":-9007199254740992}', "2^53"),
        ('{"a":1e300}', "2^53"),
        ('{"a":' + "9" * 5000 + "}", "2^53"),
        ('{"a":"\\ud800"}', "surrogate"),
        ('{"\\udc00":1}', "surrogate"),
        ('{"a":"x\\u0000y"}', "NUL"),
        ('{"a\\u0000":1}', "NUL"),
        ("[1]", "object"),
        ('"x"', "object"),
        ("null", "object"),
        ("", "not valid JSON"),
        ('{"a":1} trailing', "not valid JSON"),
        ('{"a":1}{"b":2}', "not valid JSON"),
        ("{'a':1}", "not valid JSON"),
        ('{"a":1,}', "not valid JSON"),
        ('{"a":"raw\nnewline"}', "not valid JSON"),
        ("[" * 100_000, "nested"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested"),
        ('{"a":"' + "x" * MAX_BYTES + '"}', "longer"),
    ],
)
def test_what_can_be_read_in_two_ways_is_rejected(text: str, why: str) -> None:
    found = canonicalise(text)
    assert isinstance(found, Rejected)
    assert why in found.reason


def test_a_lone_surrogate_in_the_text_itself_is_rejected() -> None:
    assert isinstance(canonicalise('{"a":"\ud800"}'), Rejected)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ('{ "b" : 1 , "a" : [ true , null ] }', '{"a":[true,null],"b":1}'),
        ('{"a":1.0,"b":-0.0,"c":1e2}', '{"a":1,"b":0,"c":100}'),
        ('{"a":"\\u00e9"}', '{"a":"é"}'),
        ('{"a":"e\\u0301"}', '{"a":"e\u0301"}'),  # never normalised: the two spellings stay two
        ('{"a":"\\u000a"}', '{"a":"\\n"}'),
        ("{}", "{}"),
    ],
)
def test_one_form_per_meaning(text: str, canonical: str) -> None:
    found = canonicalise(text)
    assert isinstance(found, Canonical)
    assert found.text == canonical
    assert found.value == json.loads(canonical)


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), _values, max_size=5))
def test_canonical_text_is_a_fixed_point(value: dict[str, object]) -> None:
    found = canonical_object(value)  # pyright: ignore[reportArgumentType]
    if isinstance(found, Canonical):
        assert canonicalise(found.text) == found
        assert canonicalise(json.dumps(value)) == found


@given(st.text())
def test_no_text_makes_it_raise(text: str) -> None:
    assert isinstance(canonicalise(text), Canonical | Rejected)


def test_the_reason_never_repeats_the_input() -> None:
    found = canonicalise('{"hunter2":1,"hunter2":2}')
    assert isinstance(found, Rejected)
    assert "hunter2" not in found.reason
