"""When two names mean one person."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.gate.people import doubtful, folded, outline, same_person


@pytest.mark.parametrize(
    "alias",
    [
        "ann", "Ann", "ANN ", " a\u200bnn", "\uff21\uff2e\uff2e", "\u0430nn", "\u0410NN", "a\u0301nn", "\u00e1nn",
        "\u24d0nn", "\U0001d41ann", "\u03b1nn", "a\u00adnn",
    ],
)  # fmt: skip
def test_every_spelling_of_a_name_is_one_person(alias: str) -> None:
    assert same_person("ann", alias)
    assert same_person(alias, "ann")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ann", "anna"),
        ("ian", "lan"),
        ("b0b", "bob"),
        ("ann lee", "annlee"),
        ("ann@a", "ann@b"),
        ("\u0410\u043d\u043d\u0430", "ann"),
        ("\u5c71\u7530", "\u5c71\u672c"),
    ],
)
def test_different_names_are_different_people(one: str, other: str) -> None:
    assert not same_person(one, other)


@pytest.mark.parametrize("nobody", [None, "", "  ", "\u200b", "\u0301"])
def test_nobody_is_the_same_as_no_one(nobody: str | None) -> None:
    assert not same_person(nobody, nobody)
    assert not same_person(nobody, "ann")
    assert outline(nobody) is None


@given(st.text(max_size=12), st.text(max_size=12))
def test_sameness_is_an_equality(one: str, other: str) -> None:
    assert same_person(one, other) == same_person(other, one)
    assert same_person(one, one) == (outline(one) is not None)
    if folded(one) == folded(other) and outline(one) is not None:
        assert same_person(one, other)


@pytest.mark.parametrize(
    "name",
    [
        "ann",
        "Ann O'Hara",
        "ann.lee@example.org",
        "Jos\u00e9",
        "\u0410\u043d\u043d\u0430 \u041a\u0443\u0437\u044c\u043c\u0438\u043d\u0430",
        "\u5c71\u7530 Taro",
        "\u3084\u307e\u3060\u30a2\u30ad",
    ],
)
def test_a_plain_name_is_no_reason_for_doubt(name: str) -> None:
    assert doubtful(name) is None


@pytest.mark.parametrize(
    "name", ["\u0430nn", "bo\u03b2", "an\u200bn", "ann\u202e", "a\x00nn", "", " ", "\u0301", "\u0531nn", "\ue000"]
)
def test_a_name_that_poses_as_another_may_not_decide(name: str) -> None:
    assert doubtful(name) is not None
