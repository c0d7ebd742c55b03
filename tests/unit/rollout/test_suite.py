import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import InvalidRequest
from deployments.rollout.cases import Reply
from deployments.rollout.checks import passes
from deployments.rollout.suite import Suite, read_suite
from serve_app.config import load_serve_file

ROOT = Path(__file__).parents[3]
OURS = "configs/evals/coding-ops.jsonl"
GOOD: dict[str, Any] = {
    "name": "sum", "family": "arithmetic", "prompt": "2 + 2?", "checks": {"expects": r"\b4\b"}, "example": "4",
}  # fmt: skip


def written(folder: Path, *lines: object) -> str:
    file = folder / "suite.jsonl"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(file)


def suite(sizes: dict[str, int], folder: Path) -> Suite:
    lines = [
        {**GOOD, "name": f"{family}-{number}", "family": family}
        for family, size in sizes.items()
        for number in range(size)
    ]
    return read_suite(written(folder, *lines))


def test_a_suite_has_its_cases_and_the_digest_of_its_file(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD, "", {**GOOD, "name": "other"})
    found = read_suite(file)
    assert [each.name for each in found.cases] == ["sum", "other"]
    assert found.cases[0].conversation == [{"role": "user", "content": "2 + 2?"}]
    assert found.digest == hashlib.sha256(Path(file).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "the line is not JSON"),
        ([], "valid dictionary"),
        ({**GOOD, "name": "Sum"}, "name: String should match"),
        ({**GOOD, "surprise": 1}, "surprise: Extra inputs"),
        ({**GOOD, "checks": {}}, "checks: Value error, a case has one of expects"),
        ({**GOOD, "checks": {"avoids": "x"}}, "checks: Value error, a case has one of expects"),
        ({**GOOD, "checks": {"expects": "("}}, "checks.expects: Value error, no regular expression"),
        ({**GOOD, "checks": {"expects": "5"}}, "its example does not pass its checks"),
        ({**GOOD, "messages": [{"role": "user", "content": "?"}]}, "either a prompt or messages"),
        ({**GOOD, "checks": {"tool_call": {"name": "scale"}}}, "offers tools"),
        ({**GOOD, "checks": {"json_schema": {"type": "string", "pattern": "x"}}, "example": '"x"'}, "not supported"),
        ({**GOOD, "name": "first"}, "there is another case 'first'"),
    ],
    ids=["json", "list", "name", "surprise", "nothing", "only-avoids", "pattern", "example", "both", "tools", "schema",
         "twice"],
)  # fmt: skip
def test_a_bad_line_is_named_with_what_is_wrong(tmp_path: Path, line: object, says: str) -> None:
    file = written(tmp_path, {**GOOD, "name": "first"}, "", line)
    with pytest.raises(InvalidRequest) as raised:
        read_suite(file)
    assert raised.value.public_message.startswith(f"{file}:3: ")
    assert says in raised.value.public_message


@pytest.mark.parametrize("what", ["absent", "empty", "folder"])
def test_a_file_that_is_no_suite_is_refused(tmp_path: Path, what: str) -> None:
    file = str(tmp_path / "absent.jsonl") if what == "absent" else written(tmp_path)
    with pytest.raises(InvalidRequest, match="cannot be read|must have 1 to 10000 cases"):
        read_suite(str(tmp_path) if what == "folder" else file)


def test_a_part_is_the_same_for_the_same_rollout_and_another_for_another(tmp_path: Path) -> None:
    whole = suite({"code": 60, "json": 30, "review": 10}, tmp_path)
    drawn = whole.draw("ro-1", 20)
    assert drawn == whole.draw("ro-1", 20) == suite({"code": 60, "json": 30, "review": 10}, tmp_path).draw("ro-1", 20)
    assert {each.name for each in drawn} != {each.name for each in whole.draw("ro-2", 20)}
    assert {each.name for each in drawn} < {each.name for each in whole.cases}
    assert whole.draw("ro-1", 100) == whole.draw("ro-1", 10_000) == whole.cases


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (20, {"code": 11, "json": 6, "review": 3}),
        (3, {"code": 1, "json": 1, "review": 1}),
        (2, {"code": 1, "json": 1}),
        (99, {"code": 59, "json": 30, "review": 10}),
    ],
)
def test_every_family_has_its_part(tmp_path: Path, count: int, parts: dict[str, int]) -> None:
    whole = suite({"code": 60, "json": 30, "review": 10}, tmp_path)
    assert Counter(each.family for each in whole.draw("ro-1", count)) == parts


def test_every_case_is_drawn_as_often_as_the_others(tmp_path: Path) -> None:
    whole = suite({"code": 10}, tmp_path)
    drawn = Counter(each.name for number in range(2_000) for each in whole.draw(f"ro-{number}", 5))
    # 1000 expected, standard deviation 22.4: beyond five of them in a run of 20 million.
    assert all(888 <= drawn[each.name] <= 1_112 for each in whole.cases)


# --- the suite that comes along ---


def test_our_suite_is_read_and_large_enough() -> None:
    found = read_suite(OURS)
    families = Counter(each.family for each in found.cases)
    assert families.keys() == {"arithmetic", "code", "json", "tool_call", "incident", "review", "refusal"}
    assert sum(families.values()) >= 60
    assert min(families.values()) >= 8


def test_no_case_of_ours_passes_what_says_nothing() -> None:
    empty = ("", "I do not know.", "Yes.", "It depends.", "```python\n```", "{}", "[]", "As an AI model, I am here.")
    for case in read_suite(OURS).cases:
        assert not [text for text in empty if passes(case, Reply(text))], case.name


def test_an_answer_to_one_case_of_ours_answers_hardly_any_other() -> None:
    """A number or a refusal may be right twice; a check that half of all answers pass checks nothing."""
    found = read_suite(OURS).cases
    for case in found:
        others = [each.name for each in found if each is not case and passes(case, each.good)]
        assert len(others) <= 6, (case.name, others)


@pytest.mark.parametrize("profile", ["local", "s", "m", "l"])
def test_every_profile_evaluates_with_it(profile: str) -> None:
    assert load_serve_file(ROOT / "configs" / f"serve.{profile}.yaml").app.rollout.eval.suite == OURS
