import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.rollout.artefacts import scan
from deployments.rollout.plan import revision_of
from deployments.rollouts import Kind
from serve_app.cli import rollout

ROLLOUT: dict[str, Any] = {
    "object": "rollout",
    "id": "ro-1",
    "kind": "model",
    "target": "demo-20b",
    "revision": "b" * 64,
    "previous_revision": "a" * 64,
    "change_id": "CHG-7",
    "state": "slice",
    "share_percent": 25,
    "held": True,
    "going_back": False,
    "steps": 5,
    "since_ms": 1_767_225_600_000,
    "shares": [5, 25, 100],
    "shadow": False,
    "eval_cases": 40,
}
STEP: dict[str, Any] = {
    "number": 5,
    "move": "advance",
    "state": "slice",
    "share_percent": 25,
    "held": False,
    "at_ms": 1_767_225_600_000,
    "by": "system",
    "change_id": "CHG-7",
    "reason": "not worse: error 1/400 against 10/4000",
    "evidence": {"verdict": "promote"},
    "audit_index": 17,
}


class Server:
    """Stands in for `ApiClient`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Mapping[str, Any] | None]] = []

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        self.asked.append((method, path, body))
        if path.endswith("artefacts"):
            return {"object": "artefact", "revision": "c" * 64}
        if path.endswith("history"):
            return {"data": [STEP, {**STEP, "number": 6, "audit_index": None}]}
        return {"data": [ROLLOUT]} if path.endswith("rollouts") and method == "GET" else ROLLOUT


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(rollout, "ApiClient", lambda timeout_s=30.0: server)
    return server


def run(*arguments: str) -> Any:
    return CliRunner().invoke(rollout.app, [*arguments])


def test_register_sends_every_checksum_and_prints_the_revision(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"weights")
    asked = ["register", "--kind", "model", "--target", "demo-20b", "--path", str(tmp_path), "--settings", '{"a": 1}']
    assert run(*asked).stdout == "c" * 64 + "\n"
    [(_, path, body)] = server.asked
    found = scan(Kind.MODEL, "demo-20b", tmp_path, '{"a": 1}')
    assert path == "/v1/admin/artefacts"
    assert body is not None
    assert body["files"] == ({"path": "weights.bin", "size": 7, "sha256": found.files[0].sha256},)
    assert body["settings"] == {"a": 1}
    assert "change_id" not in body
    assert run(*asked, "--change-id", "CHG-7").exit_code == 0
    last = server.asked.pop()[2]
    assert last is not None
    assert last["change_id"] == "CHG-7"
    shown = json.loads(run(*asked, "--dry-run").stdout)
    assert shown["path"] == str(tmp_path)
    assert len(server.asked) == 1
    assert revision_of(found)


def test_register_says_what_is_wrong(server: Server, tmp_path: Path) -> None:
    done = run("register", "--kind", "model", "--target", "demo-20b", "--path", str(tmp_path / "absent"))
    assert (done.exit_code, server.asked) == (1, [])
    assert "cannot be read" in done.stderr


def test_register_takes_nothing_that_has_no_json(server: Server, tmp_path: Path) -> None:
    of = ("register", "--kind", "engine", "--target", "demo-20b")
    for settings in ('{"a": 1e999}', '{"a": "\\ud800"}', '{"a": NaN}', "[1]"):
        for more in ((), ("--dry-run",)):
            done = run(*of, "--settings", settings, *more)
            assert (done.exit_code, done.stderr) == (1, "gatehouse: The settings must be a JSON object.\n")
    (tmp_path / os.fsdecode(b"w\xff.bin")).write_bytes(b"weights")
    done = run("register", "--kind", "model", "--target", "demo-20b", "--path", str(tmp_path))
    assert (done.exit_code, done.stderr) == (1, "gatehouse: The name of every file must be UTF-8.\n")
    assert server.asked == []


@pytest.mark.parametrize(
    ("given", "sent"),
    [("all", "all"), ("1", 1), ("86", 86), ("0", None), ("-1", None), ("10001", None), ("many", None)],
)
def test_start_says_how_many_cases(server: Server, given: str, sent: object) -> None:
    done = run(
        "start", "ro-1", "--kind", "model", "--target", "demo-20b", "--revision", "b" * 64, "--previous", "r1",
        "--change-id", "CHG-7", "--eval-cases", given,
    )  # fmt: skip
    if sent is None:
        assert (done.exit_code, server.asked) == (2, [])
        assert "the number of cases is 1 to 10000, or all" in done.stderr
    else:
        [(_, _, body)] = server.asked
        assert body is not None
        assert body["eval_cases"] == sent


def test_start_sends_the_plan(server: Server, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text('{"min_s": 60}')
    asked = ["start", "ro-1", "--kind", "model", "--target", "demo-20b", "--revision", "b" * 64, "--previous", "r1"]
    assert run(*asked).exit_code == 2  # no change
    assert run(*asked, "--change-id", "CHG-7", "--share", "10", "--share", "100", "--rules", str(rules)).exit_code == 0
    [(method, path, body)] = server.asked
    assert (method, path) == ("POST", "/v1/admin/rollouts")
    assert body == {
        "rollout_id": "ro-1", "kind": "model", "target": "demo-20b", "revision": "b" * 64, "previous_revision": "r1",
        "change_id": "CHG-7", "shadow": False, "shares": [10, 100], "rules": {"min_s": 60},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (("promote", "ro-1", "--to", "25"), {"to": 25}),
        (("hold", "ro-1"), {}),
        (("resume", "ro-1"), {}),
        (("rollback", "ro-1"), {}),
    ],
    ids=["promote", "hold", "resume", "rollback"],
)
def test_every_move_names_its_change(server: Server, arguments: tuple[str, ...], more: dict[str, int]) -> None:
    assert run(*arguments).exit_code == 2
    assert server.asked == []
    assert run(*arguments, "--change-id", "CHG-7", "--reason", "SLO").exit_code == 0
    assert server.asked == [
        ("POST", f"/v1/admin/rollouts/ro-1/{arguments[0]}", {**more, "change_id": "CHG-7", "reason": "SLO"})
    ]


def test_status_and_history_are_tables_or_lines_of_json(server: Server) -> None:
    shown = run("status").stdout
    assert "slice (held)" in shown
    assert "25%" in shown
    assert json.loads(run("status", "ro-1", "--json").stdout) == ROLLOUT
    told = run("history", "ro-1").stdout
    assert "not worse: error 1/400 against 10/4000" in told
    lines = [json.loads(line) for line in run("history", "ro-1", "--json").stdout.splitlines()]
    assert [each["audit_index"] for each in lines] == [17, None]
    assert server.asked[1][1] == "/v1/admin/rollouts/ro-1"
