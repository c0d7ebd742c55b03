"""Lists of the command line: whatever the width of the terminal, an id can be pasted."""

import io
import json
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from serve_app.cli import approvals, keys
from serve_app.cli.tables import show_rows

COLUMNS = ("id", "state", "requester", "reason")
IDS = ("apr_0123456789abcdef0123", "apr_fedcba9876543210fedc")
ROWS = [(each, "NEEDS_PLAN", "a person with a long name", "why it is as it is, in some words") for each in IDS]


def shown(width: int, rows: list[tuple[str, ...]] = ROWS, *, terminal: bool = True) -> str:
    out = io.StringIO()
    show_rows(COLUMNS, rows, Console(file=out, width=width, force_terminal=terminal, no_color=True))
    return out.getvalue()


@pytest.mark.parametrize("width", [1, 10, 24, 40, 80, 106, 107, 200])
def test_no_width_cuts_an_id_or_anything_else(width: int) -> None:
    text = shown(width)
    assert all(each in text for each in IDS)
    assert "…" not in text
    assert all(text.replace("\n", " ").count(word) >= 2 for word in ("NEEDS_PLAN", "person", "words"))


def test_what_fits_is_a_table_and_what_does_not_are_paragraphs_within_the_width() -> None:
    wide = shown(200).splitlines()
    assert [line for line in wide if IDS[0] in line][0].count("NEEDS_PLAN") == 1
    narrow = shown(60).splitlines()
    assert [line for line in narrow if not line.startswith("  ")] == list(IDS)
    assert "  state NEEDS_PLAN, requester a person with a long name," in narrow
    assert max(map(len, narrow)) <= 60


def test_a_pipe_gets_one_line_for_each_row() -> None:
    lines = [line for line in shown(20, terminal=False).splitlines() if "apr_" in line]
    assert [all(word in line for word in (each, "NEEDS_PLAN", "words")) for line, each in zip(lines, IDS, strict=True)]
    assert len(lines) == 2


@pytest.mark.parametrize("width", [40, 200])
def test_a_cell_can_neither_make_lines_nor_markup(width: int) -> None:
    text = shown(width, [(IDS[0], "[bold]x[/bold]", "bob\napr_forged", "\x1b[2J\u202e")])
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert "[bold]x[/bold]" in text
    assert not any(line.startswith("apr_forged") for line in text.splitlines())


class Server:
    """Answers every list with two rows of ids as long as real ones."""

    def request(self, method: str, path: str) -> dict[str, Any]:
        assert method == "GET"
        if path == "/v1/gate/frozen":
            row: dict[str, Any] = {"key_id": "", "tenant": "acme", "kind": "permit_replayed", "reason": "r" * 60}
            return {"data": [{**row, "key_id": f"key_{each}", "since_ms": 1} for each in IDS]}
        if path == "/v1/admin/keys":
            return {"data": [KEY | {"id": f"key_{each}"} for each in IDS]}
        return {"data": [APPROVAL | {"id": each} for each in IDS]}


KEY: dict[str, Any] = {
    "tenant": "acme", "name": "laptop", "person": "ann", "scopes": ["inference", "approve"], "models": None,
    "gate_profile": "ops", "created_ms": 1_767_225_600_000, "expires_ms": None, "revoked_ms": None, "hold_s": 0,
    "budget_tokens": None, "roles": [], "team": "platform", "requests_per_minute": 60, "tokens_per_minute": 100_000,
    "concurrent_requests": 4, "rotated_ms": None, "previous_until_ms": None,
}  # fmt: skip
APPROVAL: dict[str, Any] = {
    "state": "NEEDS_PLAN", "risk": "R2", "tool": "mcp__gatehouse__run", "votes": [], "votes_required": 1,
    "requester_person": None, "requester_key": "key_0123456789abcdef", "expires_ms": 1_767_225_600_000,
}  # fmt: skip


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize(
    ("where", "command", "ids"),
    [
        (approvals, "list", [*IDS, "key_0123456789abcdef"]),
        (approvals, "frozen", [f"key_{each}" for each in IDS]),
        (keys, "list", [f"key_{each}" for each in IDS]),
    ],
    ids=["approvals-list", "approvals-frozen", "keys-list"],
)
def test_the_lists_of_the_command_line_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, where: Any, command: str, ids: list[str], width: int
) -> None:
    monkeypatch.setattr(where, "ApiClient", Server)
    terminal = {"COLUMNS": str(width), "FORCE_COLOR": "1", "NO_COLOR": "1"}
    done = CliRunner().invoke(where.app, [command], env=terminal)
    assert done.exit_code == 0, done.output
    assert all(each in done.output for each in ids)
    as_json = CliRunner().invoke(where.app, [command, "--json"], env=terminal).output
    assert [json.loads(line) for line in as_json.splitlines()]
