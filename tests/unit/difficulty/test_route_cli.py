import json
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from serve_app.cli.route import app
from tests.unit.router.asks import INCIDENT

RUNNER = CliRunner()


def scored(*lines: object, args: tuple[str, ...] = ()) -> list[dict[str, object]]:
    text = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    result = RUNNER.invoke(app, ["score", "--jsonl", *args], input=text)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_prompts_and_messages():
    failed = [
        {"role": "user", "content": INCIDENT},
        {"role": "assistant", "content": "It is the cache."},
        {"role": "user", "content": "That did not help."},
    ]
    rows = scored({"id": 1, "prompt": "Hello!"}, {"id": "b", "messages": failed})
    assert [(row["id"], row["model"], row["effort"], row["reason"]) for row in rows] == [
        (1, "gpt-oss-20b", "low", "default"),
        ("b", "gpt-oss-120b", "medium", "incident_failed_once"),
    ]
    assert all(set(row) == {"id", "difficulty", "model", "effort", "reason"} for row in rows)
    assert all(0.0 <= row["difficulty"] <= 1.0 for row in rows)


def test_risk_and_the_names_of_the_tiers():
    (row,) = scored({"id": 1, "prompt": "Change the certificate", "risk": "R3"}, args=("--strong-model", "big"))
    assert (row["model"], row["effort"], row["reason"]) == ("big", "high", "risk_needs_reasoning")


def test_a_bad_line_yields_an_error_and_the_rest_goes_on():
    rows = scored(
        b"{broken", b"\xff\xfe", b"[1]", b'{"id": NaN, "prompt": "x"}', {"id": 5}, {"id": 6, "prompt": 7},
        {"id": 7, "messages": "x"}, {"id": 8, "prompt": "x", "risk": "R9"}, b"", b"[" * 100_000,
        b'{"id": "\\ud800", "prompt": "\\ud800"}', {"id": 9, "prompt": "Hello!"},
    )  # fmt: skip
    assert ["error" in row for row in rows] == [True] * 9 + [False, False]
    assert [row["id"] for row in rows[4:8]] == [5, 6, 7, 8]
    assert rows[-1]["id"] == 9


def test_a_file_is_read_and_a_missing_one_is_one_sentence(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": 1, "prompt": "Hello!"}\n', encoding="utf-8")
    assert json.loads(RUNNER.invoke(app, ["score", "--jsonl", str(file)]).stdout)["id"] == 1
    missing = RUNNER.invoke(app, ["score", str(tmp_path / "none")])
    assert missing.exit_code == 1
    assert "cannot read" in missing.stderr


def test_scoring_loads_neither_ray_nor_fastapi():
    code = "import sys, serve_app.cli.route; sys.exit(bool({'ray', 'fastapi', 'vllm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
