import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.audit.head import HEAD_FILE
from deployments.audit.segment import segment_paths
from serve_app.cli.audit import app
from tests.unit.audit.logs import Flow, event, routed, write_log

runner = CliRunner()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path / "audit", [routed(1), *Flow().whole()])
    return tmp_path / "audit"


def test_verify_says_so_in_json_and_status(log: Path) -> None:
    done = runner.invoke(app, ["verify", str(log), "--checkpoint", str(log / HEAD_FILE)])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["ok"] is True


def test_verify_exits_1_when_the_evidence_is_broken(log: Path) -> None:
    path = segment_paths(log)[0]
    path.write_bytes(path.read_bytes().replace(b"demo-20b", b"demo-99b"))
    done = runner.invoke(app, ["verify", str(log)])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["checks"][0]["ok"] is False


@pytest.mark.parametrize("arguments", [["nowhere"], ["LOG", "--head", "nowhere"]])
def test_verify_exits_2_with_one_sentence_when_there_is_nothing_to_check(log: Path, arguments: list[str]) -> None:
    done = runner.invoke(app, ["verify", *(str(log) if word == "LOG" else word for word in arguments)])
    assert done.exit_code == 2
    assert done.stderr.startswith("gatehouse: ")
    assert done.stderr.count("\n") == 1


def test_show_prints_the_newest_records_that_match(log: Path) -> None:
    done = runner.invoke(app, ["show", str(log), "--json", "--limit", "2", "--request-id", "req_1"])
    names = [json.loads(line)["name"] for line in done.stdout.splitlines()]
    assert names == ["permit.consumed", "tool_call.released"]
    done = runner.invoke(app, ["show", str(log), "--json", "--oldest", "--name", "route.decided"])
    assert [json.loads(line)["data"]["model"] for line in done.stdout.splitlines()] == ["demo-20b"]


def test_show_draws_a_table_and_no_control_character_reaches_the_terminal(tmp_path: Path) -> None:
    write_log(tmp_path, [event("tool_call.proposed", "e", gate_call_id="g", tool="\x1b[31mred [bold]")])
    done = runner.invoke(app, ["show", str(tmp_path)], env={"COLUMNS": "250"})
    assert done.exit_code == 0
    assert "\x1b[31m" not in done.stdout
    assert "\\x1b[31mred [bold]" in done.stdout


def test_show_exits_2_without_a_log(tmp_path: Path) -> None:
    assert runner.invoke(app, ["show", str(tmp_path)]).exit_code == 2


def test_verifying_needs_no_ray(log: Path) -> None:
    code = (
        "import sys; from serve_app.cli.audit import app\n"
        "try: app(['verify', sys.argv[1]])\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "assert 'ray' not in sys.modules and 'sqlalchemy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(log)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
