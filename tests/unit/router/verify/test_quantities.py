"""Numbers in digits and words."""

from fractions import Fraction

import pytest

from router.verify.quantities import givens


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,250 boxes at $3.50", [1250, Fraction(7, 2)]),
        ("half of the twenty-five apples", [Fraction(1, 2), 25]),
        ("two thirds of 60", [Fraction(2, 3), 60]),
        ("two-thirds of 60", [Fraction(2, 3), 60]),
        ("a third of them", [Fraction(1, 3)]),
        ("the third day", []),
        ("one of them", []),
        ("3/4 of the 8 units", [Fraction(3, 4), 8]),
        ("twice as many as a dozen", [2, 12]),
        ("20% more", [20]),
        ("1/0 of it", []),
        ("version v2 and x86", []),
    ],
)
def test_the_numbers_of_a_text(text: str, values: list[Fraction]) -> None:
    assert [each.value for each in givens(text)] == values


def test_a_percentage_stands_for_what_a_calculation_writes_for_it() -> None:
    (found,) = givens("30 percent off")
    assert {Fraction(3, 10), Fraction(7, 10), Fraction(13, 10), Fraction(70), Fraction(130)} <= found.alike


def test_half_is_a_division_by_two() -> None:
    (found,) = givens("half of it")
    assert Fraction(2) in found.alike
