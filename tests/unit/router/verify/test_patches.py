"""Patches in answers against the files that the conversation shows."""

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import TaskType
from router.verify.patches import patches
from router.verify.values import Answer, Status, Task

TASK = Task(TaskType.CODE_GENERATION, ())
FILE = "\n".join(f"line {n} of the cart" for n in range(1, 31))


def fenced(diff: str) -> Answer:
    return Answer(f"Apply this:\n```diff\n{diff}\n```\n")


def change(before: str, after: str) -> str:
    return "\n".join(difflib.unified_diff(before.split("\n"), after.split("\n"), "a/cart.py", "b/cart.py", lineterm=""))


def said(diff: str, material: str, task: Task = TASK) -> tuple[Status, str] | None:
    found = patches(fenced(diff), task, material)
    return None if found is None else (found.status, found.kind)


PATCH = change(FILE, FILE.replace("line 12 of", "row 12 of"))


def test_a_patch_that_fits_what_is_shown() -> None:
    assert said(PATCH, f"Here is cart.py:\n{FILE}\nFix it.") == (Status.PASS, "applies")


def test_a_file_shown_with_line_numbers() -> None:
    numbered = "\n".join(f"{n:6d}\t{line}" for n, line in enumerate(FILE.split("\n"), start=1))
    assert said(PATCH, numbered) == (Status.PASS, "applies")


def test_a_file_shown_as_a_diff() -> None:
    shown = change("", FILE)
    assert said(PATCH, f"Review:\n{shown}\n") == (Status.PASS, "applies")


def test_a_patch_of_something_else_than_what_is_shown() -> None:
    other = FILE.replace("line 11 of", "changed 11 of")
    assert said(PATCH, other) == (Status.FAIL, "context_not_found")
    assert said(PATCH, other, Task(TaskType.CODE_GENERATION, (), cut=True)) == (Status.UNKNOWN, "context_not_found")


def test_a_file_that_is_not_shown_is_unknown() -> None:
    assert said(PATCH, "Fix cart.py, please.") == (Status.UNKNOWN, "file_not_shown")


def test_a_new_file_has_nothing_to_fit() -> None:
    new = "--- /dev/null\n+++ b/new.py\n@@ -0,0 +1,2 @@\n+x = 1\n+y = 2"
    assert said(new, FILE) == (Status.UNKNOWN, "file_not_shown")


@pytest.mark.parametrize(
    ("diff", "kind"),
    [
        (PATCH.replace("@@ -9,7 +9,7 @@", "@@ -9,9 +9,7 @@"), "hunk_counts"),
        (PATCH.replace("@@ -9,7 +9,7 @@", "@@ -9,6 +9,6 @@"), "hunk_counts"),
        (PATCH.replace(" line 10", "line 10"), "malformed_diff"),
    ],
)
def test_a_malformed_patch(diff: str, kind: str) -> None:
    assert diff != PATCH
    assert said(diff, FILE) == (Status.FAIL, kind)


def test_a_sketch_is_no_patch() -> None:
    assert said("-old\n+new", FILE) is None


def test_context_that_ends_in_blank_lines_may_lose_them() -> None:
    before = "a = 1\nb = 2\n\n\n"
    diff = change(before, before.replace("a = 1", "a = 3")).rstrip()
    assert said(diff, before) == (Status.PASS, "applies")


lines = st.lists(st.sampled_from(["alpha = 1", "beta = 2", "", "return gamma", "-delta", "+epsilon"]), max_size=25)


@given(lines, lines)
def test_what_a_diff_tool_writes_always_applies(before: list[str], after: list[str]) -> None:
    diff = change("\n".join(before), "\n".join(after))
    if diff:
        result = said(diff, "\n".join(before))
        assert result is not None
        assert result[0] in (Status.PASS, Status.UNKNOWN)
