import json
from typing import Any

import pytest
from typer.testing import CliRunner

from serve_app.cli import tenants

NONE = {"requests_per_minute": None, "tokens_per_minute": None, "concurrent_requests": None}
ACME: dict[str, Any] = {
    "object": "tenant",
    "id": "acme",
    "configured": True,
    "keys": 3,
    "allowed_models": ["demo-120b", "demo-20b"],
    "gate_profile": "coding",
    "egress": {"rule": "listed", "models": ["demo-embed"]},
    "limits": {**NONE, "requests_per_minute": 600},
    "share": {"weight": 300, "priority": "high"},
    "teams": [
        {"id": "interns", "keys": 0, "allowed_models": [], "limits": NONE},
        {"id": "web", "keys": 2, "allowed_models": ["demo-20b"], "limits": {**NONE, "concurrent_requests": 4}},
    ],
    "models": {"demo-120b": {**NONE, "tokens_per_minute": 9}},
    "routing": {"ceiling": {"tier": "20b"}, "cascade": False},
}
RIVAL: dict[str, Any] = {
    **ACME,
    "id": "rival",
    "configured": False,
    "keys": 1,
    "allowed_models": None,
    "gate_profile": "observe",
    "egress": {"rule": "none", "models": []},
    "limits": NONE,
    "teams": [],
    "models": {},
    "routing": {},
}


class Server:
    """Stands in for `ApiClient`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def request(self, method: str, path: str) -> Any:
        self.asked.append((method, path))
        return {"data": [ACME, RIVAL]} if path == "/v1/admin/tenants" else ACME


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(tenants, "ApiClient", lambda: server)
    return server


def test_the_list_has_a_line_for_every_tenant(server: Server) -> None:
    done = CliRunner().invoke(tenants.app, ["list"])
    assert server.asked == [("GET", "/v1/admin/tenants")]
    acme, rival = (next(line for line in done.stdout.splitlines() if name in line) for name in ("acme", "rival"))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in (acme, rival)]
    assert cells == [
        [
            "acme", "settings", "3", "interns web", "demo-120b demo-20b", "coding", "demo-embed",
            "ceiling.tier=20b cascade=false", "600 requests/min",
        ],
        ["rival", "defaults", "1", "-", "all", "observe", "none", "-", "-"],
    ]  # fmt: skip


def test_one_tenant_is_shown_line_by_line(server: Server) -> None:
    done = CliRunner().invoke(tenants.app, ["show", "acme/../x"])
    assert server.asked == [("GET", "/v1/admin/tenants/acme%2F..%2Fx")]
    assert [" ".join(line.split()) for line in done.stdout.splitlines()] == [
        "tenant acme",
        "keys 3",
        "models demo-120b demo-20b",
        "gate profile coding or stricter",
        "egress demo-embed",
        "routing ceiling.tier=20b cascade=false",
        "share weight 300, high",
        "limits 600 requests/min",
        "model demo-120b 9 tokens/min",
        "team interns 0 keys, models none, limits -",
        "team web 2 keys, models demo-20b, limits 4 at once",
    ]


@pytest.mark.parametrize(("arguments", "said"), [(["list"], [ACME, RIVAL]), (["show", "acme"], [ACME])], ids=str)
def test_programs_get_one_object_a_line(server: Server, arguments: list[str], said: list[object]) -> None:
    done = CliRunner().invoke(tenants.app, [*arguments, "--json"])
    assert [json.loads(line) for line in done.stdout.splitlines()] == said
