import json
from collections.abc import Mapping
from typing import Any

import pytest
from typer.testing import CliRunner

from serve_app.cli import keys

KEY: dict[str, Any] = {
    "id": "key_1",
    "tenant": "acme",
    "name": "laptop",
    "person": None,
    "scopes": ["inference"],
    "models": None,
    "gate_profile": "ops",
    "created_ms": 1_767_225_600_000,
    "expires_ms": None,
    "revoked_ms": None,
    "hold_s": 120,
    "budget_tokens": 5_000_000,
    "roles": ["dba", "sre"],
    "team": "web",
    "requests_per_minute": 60,
    "tokens_per_minute": None,
    "concurrent_requests": 4,
    "rotated_ms": None,
    "previous_until_ms": None,
}


class Server:
    """Stands in for `ApiClient`: remembers what was asked and answers with one key."""

    asked: list[tuple[str, str, Mapping[str, object] | None]]

    def __init__(self) -> None:
        self.asked = []

    def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        self.asked.append((method, path, body))
        match method:
            case "POST":
                return {**KEY, "key": "gh-secret"}
            case "GET":
                return {"data": [KEY]}
            case _:
                return {**KEY, "revoked_ms": 1_767_225_601_000}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(keys, "ApiClient", lambda: server)
    return server


def test_create_prints_the_key_alone_on_stdout(server: Server) -> None:
    arguments = "create --tenant acme --name laptop --scope inference --scope approve --model demo-20b --ttl 60"
    done = CliRunner().invoke(keys.app, arguments.split())
    assert done.stdout == "gh-secret\n"
    assert "shown once" in done.stderr
    [(method, path, body)] = server.asked
    assert (method, path) == ("POST", "/v1/admin/keys")
    assert body == {
        "tenant": "acme",
        "name": "laptop",
        "person": None,
        "scopes": ["inference", "approve"],
        "models": ["demo-20b"],
        "gate_profile": "ops",
        "ttl_s": 60,
        "hold_s": 0,
        "budget_tokens": None,
        "roles": [],
        "team": None,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "concurrent_requests": None,
    }


def test_create_asks_for_a_hold_time_and_a_budget(server: Server) -> None:
    arguments = "create --tenant acme --name laptop --hold-s 120 --budget-tokens 5000000"
    assert CliRunner().invoke(keys.app, arguments.split()).exit_code == 0
    [(_, _, body)] = server.asked
    assert body is not None
    assert (body["hold_s"], body["budget_tokens"]) == (120, 5_000_000)


def test_roles_are_sent_as_they_are_given(server: Server) -> None:
    done = CliRunner().invoke(keys.app, ["create", "--tenant", "a", "--name", "b", "--role", "sre", "--role", "dba"])
    assert done.exit_code == 0
    _, _, body = server.asked[0]
    assert body is not None
    assert body["roles"] == ["sre", "dba"]


@pytest.mark.parametrize("option", ["--hold-s=601", "--hold-s=-1", "--budget-tokens=0"])
def test_a_limit_that_no_key_can_have_never_reaches_the_server(server: Server, option: str) -> None:
    done = CliRunner().invoke(keys.app, ["create", "--tenant", "a", "--name", "b", option])
    assert done.exit_code == 2
    assert server.asked == []


def test_list_is_a_table_or_json_lines(server: Server) -> None:
    done = CliRunner().invoke(keys.app, ["list"], env={"COLUMNS": "250"})
    assert "key_1" in done.stdout
    assert "2026-01-01 00:00:00Z" in done.stdout
    assert "120s" in done.stdout
    assert "5000000" in done.stdout
    assert "dba sre" in done.stdout
    assert "60 requests, 4 at once" in done.stdout
    done = CliRunner().invoke(keys.app, ["list", "--tenant", "a&b", "--json"])
    assert json.loads(done.stdout) == KEY
    assert server.asked[-1] == ("GET", "/v1/admin/keys?tenant=a%26b", None)


def test_revoke_names_exactly_one_key(server: Server) -> None:
    done = CliRunner().invoke(keys.app, ["revoke", "../tenants"])
    assert done.exit_code == 0
    assert server.asked == [("DELETE", "/v1/admin/keys/..%2Ftenants", None)]


def test_an_unknown_scope_never_reaches_the_server(server: Server) -> None:
    done = CliRunner().invoke(keys.app, ["create", "--tenant", "a", "--name", "b", "--scope", "root"])
    assert done.exit_code == 2
    assert server.asked == []


def test_rotate_prints_the_new_text_alone_on_stdout(server: Server) -> None:
    done = CliRunner().invoke(keys.app, ["rotate", "key_1", "--grace", "3600"])
    assert done.stdout == "gh-secret\n"
    assert server.asked == [("POST", "/v1/admin/keys/key_1/rotate", {"grace_s": 3600})]
    assert json.loads(CliRunner().invoke(keys.app, ["rotate", "key_1", "--json"]).stdout)["key"] == "gh-secret"


def test_expire_is_now_later_or_never(server: Server) -> None:
    for arguments, in_s in ((["expire", "key_1"], 0), (["expire", "key_1", "--in", "60"], 60)):
        assert CliRunner().invoke(keys.app, arguments).exit_code == 0
        assert server.asked.pop() == ("POST", "/v1/admin/keys/key_1/expire", {"in_s": in_s})
    done = CliRunner().invoke(keys.app, ["expire", "key_1", "--never"])
    assert done.stdout == "key_1: expires never\n"
    assert server.asked.pop() == ("POST", "/v1/admin/keys/key_1/expire", {"in_s": None})


def test_limits_are_sent_as_they_are_given(server: Server) -> None:
    limits = "--team web --requests-per-minute 60 --tokens-per-minute 100000 --concurrent-requests 4"
    assert CliRunner().invoke(keys.app, ["create", "--tenant", "a", "--name", "b", *limits.split()]).exit_code == 0
    [(_, _, body)] = server.asked
    assert body is not None
    sent = [body[name] for name in ("team", "requests_per_minute", "tokens_per_minute", "concurrent_requests")]
    assert sent == ["web", 60, 100_000, 4]
