import json
from collections.abc import Mapping
from typing import Any

import pytest
from typer.testing import CliRunner

from serve_app.cli import budgets

BUDGET: dict[str, Any] = {
    "object": "budget",
    "id": "bdg_1",
    "tenant": "acme",
    "team": "web",
    "key_id": None,
    "unit": "micros",
    "currency": "USD",
    "amount": 12_500_000,
    "used": 4_000_001,
    "reserved": 500_000,
    "remaining": 7_999_999,
    "window": "month",
    "every_s": None,
    "window_starts_ms": 1_767_225_600_000,
    "window_ends_ms": 1_769_904_000_000,
    "alerts": [50, 80, 100],
    "told": [],
    "hard": True,
}


class Server:
    """Stands in for `ApiClient`: remembers what was asked and answers with one budget."""

    asked: list[tuple[str, str, Mapping[str, object] | None]]

    def __init__(self) -> None:
        self.asked = []

    def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        self.asked.append((method, path, body))
        match method:
            case "GET":
                tokens = {**BUDGET, "id": "mine", "unit": "tokens", "currency": None, "every_s": 60, "hard": False}
                return {"data": [BUDGET, {**tokens, "window_ends_ms": None}]}
            case "DELETE":
                return {"object": "budget.removed", "id": "mine"}
            case _:
                return BUDGET


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(budgets, "ApiClient", lambda: server)
    return server


def test_set_sends_what_was_said_and_leaves_alerts_to_the_server(server: Server) -> None:
    done = CliRunner().invoke(budgets.app, ["set", "--tenant", "acme", "--team", "web", "--money", "12.50"])
    assert done.exit_code == 0, done.output
    assert server.asked == [
        (
            "POST",
            "/v1/admin/budgets",
            {
                "tenant": "acme", "team": "web", "key_id": None, "tokens": None, "money": "12.50", "window": "month",
                "every_s": None, "hard": True,
            },
        )
    ]  # fmt: skip
    assert "12.50 USD" in done.stdout
    assert "4.000001 USD" in done.stdout
    assert "32%" in done.stdout


def test_a_named_budget_is_put_in_place_of_the_one_before(server: Server) -> None:
    words = [
        "set",
        "--tenant",
        "acme",
        "--tokens",
        "9",
        "--window",
        "fixed",
        "--every",
        "60",
        "--alert",
        "90",
        "--soft",
        "--name",
        "my/own",
        "--json",
    ]
    done = CliRunner().invoke(budgets.app, words)
    [(method, path, body)] = server.asked
    assert (method, path) == ("PUT", "/v1/admin/budgets/my%2Fown")
    assert body is not None
    assert (body["tokens"], body["every_s"], body["alerts"], body["hard"]) == (9, 60, [90], False)
    assert json.loads(done.stdout) == BUDGET


def test_list_shows_money_with_its_currency_and_tokens_as_numbers(server: Server) -> None:
    done = CliRunner().invoke(budgets.app, ["list", "--tenant", "a b"])
    assert server.asked[0][1] == "/v1/admin/budgets?tenant=a%20b"
    assert "12500000" in done.stdout
    assert "60s" in done.stdout
    assert "soft" in done.stdout
    lines = CliRunner().invoke(budgets.app, ["list", "--json"]).stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["bdg_1", "mine"]


def test_remove_names_what_is_gone(server: Server) -> None:
    done = CliRunner().invoke(budgets.app, ["remove", "mine"])
    assert done.stdout == "mine: removed\n"
    assert server.asked == [("DELETE", "/v1/admin/budgets/mine", None)]
