import pytest
from pydantic import TypeAdapter

from serve_app.routing.checkers import Check, chosen_letter, final_number, is_right

CHECK = TypeAdapter(Check)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("**B.** Rome", "B"),
        ("B. Rome", "B"),
        ("The answer is B", "B"),
        ("The correct answer is (B), since Rome is it.\nIt is not A.", "B"),
        ("First A looks right.\n\nFinal answer: **B**", "B"),
        ("Answer: \\boxed{B}", "B"),
        ("I would say\nB", "B"),
        ("A farmer went home", None),
        ("A and B", None),
        ("Either A or B.", None),
        ("The answer is A or B", None),
        ("Rome", None),
        ("I'd go with option C", "C"),
        ("The answer is A because of Rome", "A"),
        ("\\boxed{\\text{B}}", "B"),
    ],
)
def test_the_letter_an_answer_settles_on(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer) == letter


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("21", 21.0),
        ("17 + 4 = 21", 21.0),
        ("so 260 sheep.\n#### 260", 260.0),
        ("#### 1,234.50 dollars", 1234.5),
        ("The answer is $18, not 20.", 18.0),
        ("\\boxed{-3.5} of 7", -3.5),
        ("about \u22124", -4.0),
        ("6.02e23", 6.02e23),
        ("none", None),
        ("9" * 400, None),
    ],
)
def test_the_number_an_answer_settles_on(answer: str, number: float | None) -> None:
    assert final_number(answer) == number


@pytest.mark.parametrize(
    ("check", "answer", "right"),
    [
        ({"kind": "numeric", "expected": 0.333, "tolerance": 0.01}, "1/3 is about 0.3333", True),
        ({"kind": "numeric", "expected": 0.333, "tolerance": 0.0001}, "0.334", False),
        ({"kind": "exact", "expected": "New York"}, "It is this one:\n**new  york.**", True),
        ({"kind": "exact", "expected": "York"}, "New York", False),
        ({"kind": "regex", "pattern": r"\bkubectl get\b"}, "run kubectl get pods", True),
        ({"kind": "regex", "pattern": r"(a+)+$"}, "a" * 5000 + "b", False),
        ({"kind": "json", "expected": {"a": [1, True]}}, 'Here:\n```json\n{"a": [1, true]}\n```', True),
        ({"kind": "json", "expected": {"a": 1}}, '{"a": true}', False),
        ({"kind": "json", "required": ["a", "b"]}, '{"a": 1, "b": null}', True),
        ({"kind": "json", "required": ["a", "b"]}, '{"a": 1}', False),
        ({"kind": "json"}, "{'a': 1}", False),
        ({"kind": "json", "expected": None}, "1", False),
        ({"kind": "json", "expected": None}, "null", True),
        ({"kind": "choice", "expected": "C"}, "", False),
    ],
)
def test_right_and_wrong(check: dict, answer: str, right: bool) -> None:
    assert is_right(CHECK.validate_python(check), answer) is right
