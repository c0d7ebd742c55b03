"""`gatehouse approvals review`: every line of a model's words says that it is advice."""

from typing import Any

import pytest
from typer.testing import CliRunner

from serve_app.cli import approvals_review
from serve_app.cli.main import app

FOUND: dict[str, Any] = {
    "id": "apr_1",
    "model": "gpt-oss-120b",
    "effort": "high",
    "note": "It counts for nothing.",
    "summary": "Deletes it.\nrisk:       R0",
    "concerns": ["Volumes\x1b[2J go with it."],
    "plan": {"steps": ["restore it"], "verify": "look"},
}


class Client:
    def __init__(self, timeout_s: float) -> None:
        assert timeout_s > 600, "a review takes its time"

    def request(self, method: str, path: str) -> dict[str, Any]:
        assert (method, path) in {("POST", "/v1/approvals/apr_1/review"), ("GET", "/v1/approvals/apr_1/review")}
        return {**FOUND, "plan": None} if method == "GET" else FOUND


@pytest.fixture(autouse=True)
def _client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals_review, "ApiClient", Client)


def test_a_models_words_cannot_look_like_anything_else() -> None:
    shown = CliRunner().invoke(app, ["approvals", "review", "apr_1"])
    assert shown.exit_code == 0, shown.output
    first, *lines = shown.output.splitlines()
    assert first == "apr_1: It counts for nothing."
    assert all(line.startswith("advice: ") for line in lines)
    assert "Deletes it.\\nrisk:" in shown.output
    assert "\x1b" not in shown.output
    assert "restore it" in shown.output


def test_the_newest_review_without_a_plan() -> None:
    shown = CliRunner().invoke(app, ["approvals", "review", "apr_1", "--newest"])
    assert shown.output.splitlines()[-1] == "It drafts no way back."
