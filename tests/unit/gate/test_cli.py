import json
import subprocess
import sys
from typing import Any

from typer.testing import CliRunner

from deployments.gate.classify import Classifier
from deployments.ports import GateProfile
from serve_app.cli.gate import app, rows

CLI = CliRunner()


def answers(classifier: Classifier, *lines: bytes, profile: GateProfile = GateProfile.OPS) -> list[dict[str, Any]]:
    return list(rows(classifier, lines, profile))


def line(line_id: object, command: str) -> bytes:
    return json.dumps({"id": line_id, "tool": "shell", "arguments": {"command": command}}).encode() + b"\n"


def test_one_answer_per_line_in_order(classifier: Classifier) -> None:
    found = answers(classifier, *(line(number, "ls" if number % 2 else "rm x") for number in range(200)))
    assert [row["id"] for row in found] == list(range(200))
    assert [row["outcome"] for row in found] == ["hold", "release"] * 100
    assert all(set(row) == {"id", "risk", "outcome", "reasons"} for row in found)


def test_arguments_may_be_text_as_the_model_wrote_it(classifier: Classifier) -> None:
    raw = json.dumps({"id": "a", "tool": "shell", "arguments": '{"command":"git status"}'}).encode()
    assert answers(classifier, raw) == [
        {"id": "a", "risk": "R0", "outcome": "release", "reasons": ["git.read: reads the repository"]}
    ]


def test_a_line_that_cannot_be_read_is_held(classifier: Classifier) -> None:
    broken = [
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"id":"a"}',
        b'{"id":"a","tool":"shell"}',
        b'{"id":"a","tool":1,"arguments":{}}',
        b'{"id":"a","tool":"shell","arguments":[]}',
        b'{"id":"a","tool":"shell","arguments":{"command":"ls","command":"rm x"}}',
        b'{"id":"a","tool":"shell","arguments":{"command":"ls\\u0000"}}',
        b'{"id":"a","tool":"shell","arguments":{"command":"ls"},"id":"a"} x',
        b"[" * 100_000,
    ]
    found = answers(classifier, *broken)
    assert len(found) == len(broken)
    assert {row["outcome"] for row in found} == {"hold"}
    assert {row["risk"] for row in found} == {"R2"}
    assert [row["id"] for row in found[4:10]] == ["a"] * 6


def test_empty_lines_are_no_calls(classifier: Classifier) -> None:
    assert answers(classifier, b"\n", b"  \n") == []


def test_the_command_reads_a_whole_file() -> None:
    text = (line(1, "kubectl get pods") + line(2, "pytest -q") + b"nonsense\n").decode()
    found = CLI.invoke(app, ["classify", "--jsonl", "--profile", "coding"], input=text)
    assert found.exit_code == 0
    assert [json.loads(row)["outcome"] for row in found.stdout.splitlines()] == ["release", "release", "hold"]


def test_a_bundle_can_be_checked() -> None:
    found = CLI.invoke(app, ["bundle", "check"])
    assert found.exit_code == 0
    assert "policy digest" in found.stdout
    absent = CLI.invoke(app, ["bundle", "check", "absent"])
    assert absent.exit_code == 1
    assert "no bundle file" in absent.output


def test_the_classifier_needs_no_server_parts() -> None:
    code = "import sys, serve_app.cli.gate; print(sorted({'ray', 'vllm', 'fastapi', 'sqlalchemy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
