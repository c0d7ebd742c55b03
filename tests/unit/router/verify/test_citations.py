"""What answers cite, looked up in the conversation."""

import pytest

from router.types import TaskType
from router.verify.citations import citations
from router.verify.values import Answer, Status, Task

TASK = Task(TaskType.INCIDENT_DIAGNOSIS, ())
LOGS = """Checkout fails, see OPS-4711.
2024-05-01 12:03:21 ERROR api-7d9f8b6c5d-x2x9z upstream timed out after 30000 ms
2024-05-01 12:03:25 WARN  pool exhausted for request 3f2b8c1d-9e4a-4b7c-8d1e-2f3a4b5c6d7e
"""
DIFF = """diff --git a/src/cart.py b/src/cart.py
--- a/src/cart.py
+++ b/src/cart.py
@@ -10,6 +10,8 @@ def total():
 a
+b
"""


def said(text: str, material: str = LOGS, task: Task = TASK) -> tuple[Status, str] | None:
    found = citations(Answer(text), task, material)
    return None if found is None else (found.status, found.kind)


@pytest.mark.parametrize(
    "text",
    [
        "Request 3F2B8C1D-9E4A-4B7C-8D1E-2F3A4B5C6D7E saw `pool exhausted`.",
        "The pod api-7d9f8b6c5d-x2x9z timed out (OPS-4711).",
        "> 2024-05-01 12:03:21 ERROR api-7d9f8b6c5d-x2x9z upstream timed out",
        "The line `2024-05-01 12:03:21 ERROR ... timed out after 30000 ms` shows it.",
        "> 2024-05-01 12:03:25 WARN pool exhausted for request",
    ],
)
def test_what_is_there_is_found(text: str) -> None:
    assert said(text) == (Status.PASS, "all_found")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Request 3f2b8c1d-9e4a-4b7c-8d1e-000000000000 failed.", "unknown_id"),
        ("See OPS-9999.", "unknown_id"),
        ("The pod api-7d9f8b6c5d-aaaaa restarted.", "unknown_id"),
        ("> 2024-05-01 12:03:29 FATAL out of memory, killing process", "unknown_log_line"),
        ("`2024-05-01 12:03:21 ERROR ... timed out after 99 ms`", "unknown_log_line"),
    ],
)
def test_what_is_not_there_fails(text: str, kind: str) -> None:
    assert said(text) == (Status.FAIL, kind)


@pytest.mark.parametrize(
    "text",
    [
        "The pool is exhausted; raise its size.",
        "Use SHA-256 and RFC-8785, see CVE-2024.",
        "Run `kubectl get pods --namespace checkout` first.",
    ],
)
def test_what_is_no_citation_is_not_looked_up(text: str) -> None:
    assert said(text) is None


def test_ids_may_be_invented_where_the_conversation_has_none() -> None:
    assert said("For example OPS-1.", "Write a ticket.") is None


def test_a_conversation_that_is_not_whole_fails_nobody() -> None:
    task = Task(TaskType.INCIDENT_DIAGNOSIS, (), cut=True)
    assert said("See OPS-9999.", LOGS, task) == (Status.UNKNOWN, "unknown_id")


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("src/cart.py:12 overflows.", (Status.PASS, "all_found")),
        ("cart.py:17 overflows.", (Status.PASS, "all_found")),
        ("src/cart.py:480 overflows.", (Status.FAIL, "unknown_line")),
        ("src/basket.py:12 overflows.", (Status.FAIL, "unknown_file")),
        ("Add tests/test_cart.py.", None),
        ("It listens on localhost:8080.", None),
    ],
)
def test_places_in_a_diff(text: str, result: tuple[Status, str] | None) -> None:
    assert said(text, DIFF, Task(TaskType.CODE_REVIEW, ())) == result


def test_a_finding_holds_nothing_that_was_said() -> None:
    found = citations(Answer("See OPS-9999."), TASK, LOGS)
    assert "9999" not in repr(found)
