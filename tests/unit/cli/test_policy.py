import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from deployments.clock import FixedClock
from deployments.gate.classify import Classifier
from deployments.gate.guard import Guard
from deployments.gate.policy import read_policy
from deployments.gate.shadow import ShadowedClassifier
from deployments.gate.shell.reader import ShellReader
from deployments.gate.tools.schema import schema_digest
from deployments.ports import (
    GateContext,
    KeyId,
    ModelId,
    Principal,
    RequestId,
    RouteId,
    Scope,
    SessionId,
    TenantId,
    ToolCall,
)
from serve_app.cli.policy import app
from tests.fakes_audit import InMemoryAudit
from tests.fakes_gate import InMemoryApprovals
from tests.unit.audit.logs import SMALL, open_log
from tests.unit.audit.vaults import ALL, open_vault
from tests.unit.gate.test_signature import keys
from tests.unit.gate.tiny import tiny, write

RUNNER = CliRunner()


def run(*arguments: object, text: str | None = None) -> Result:
    return RUNNER.invoke(app, [str(each) for each in arguments], input=text)


def said(*arguments: object, code: int = 0) -> dict[str, Any]:
    found = run(*arguments, "--json")
    assert found.exit_code == code, found.output
    return json.loads(found.stdout)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path, tiny())


@pytest.fixture
def mine(base: Path) -> Path:
    """Registers one place."""
    targets = {"place": [{"match": ["harbour"], "env": "nonprod"}]}
    return write(base.parent, {"version": 1, "name": "mine", "extends": "tiny", "targets": targets})


class TestTest:
    def test_a_sound_bundle_with_sound_cases(self, mine: Path, tmp_path: Path) -> None:
        cases = tmp_path / "cases.jsonl"
        cases.write_text(
            '{"command": "ship web --to harbour", "risk": "R2", "outcome": "hold"}\n\n'
            '{"tool": "Write", "arguments": {"path": "a"}, "profile": "coding", "outcome": "release"}\n'
        )
        found = said("test", mine, "--cases", cases)
        assert (found["bundle"], found["cases"], found["faults"]) == ("mine", 2, [])
        assert found["policy_digest"] == read_policy(mine).policy_digest
        assert "sound" in run("test", mine, "--cases", cases).stdout

    def test_failing_cases_are_named(self, mine: Path, tmp_path: Path) -> None:
        cases = tmp_path / "cases.jsonl"
        cases.write_text('{"command": "ls", "risk": "R1"}\n{"command": "rm x", "outcome": "release"}\n')
        found = said("test", mine, "--cases", cases, code=1)
        assert found["faults"] == [
            "line 1: 'ls' under ops should be R1, it is R0",
            "line 2: 'rm x' under ops should come to 'release', it comes to 'hold'",
        ]

    def test_failing_examples_also_of_the_base(self, base: Path, mine: Path) -> None:
        changed = tiny()
        changed["rules"][0]["match"].append("rm x")
        write(base.parent, changed)
        [fault] = said("test", mine, code=1)["faults"]
        assert fault.startswith("tiny: rule file.list should make 'rm x' R0")

    def test_statuses(self, base: Path, tmp_path: Path) -> None:
        base.write_text("a: [")
        assert run("test", base).exit_code == 1
        assert run("test", tmp_path / "absent.yaml").exit_code == 2
        assert run("test", "absent").exit_code == 2
        (tmp_path / "cases.jsonl").write_text("nonsense\n")
        assert run("test", base, "--cases", tmp_path / "cases.jsonl").exit_code == 2
        assert run("test", base, "--cases", tmp_path / "absent.jsonl").exit_code == 2


class TestLint:
    def test_findings(self, base: Path) -> None:
        found = said("lint", base, "--no-examples", code=1)["findings"]
        assert found == [{"check": "unused", "where": "write", "what": "is an effect that no flag has"}]
        assert said("lint", base, "--no-examples", "--check", "egress")["findings"] == []
        assert "unused: write" in run("lint", base).stdout

    def test_a_refused_bundle_cannot_be_looked_at(self, base: Path) -> None:
        base.write_text("a: [")
        found = run("lint", base)
        assert found.exit_code == 2
        assert "the bundle is refused" in found.stderr


class TestDiff:
    def test_looser_is_status_one(self, base: Path, mine: Path) -> None:
        found = said("diff", base, mine, code=1)
        assert found["looser"]
        assert [each["name"] for each in found["differences"]] == ["place harbour"]
        assert run("diff", base, mine, "--allow").exit_code == 0
        assert said("diff", mine, base)["looser"] is False
        assert said("diff", base, base)["differences"] == []

    def test_cases_say_what_moves(self, base: Path, mine: Path, tmp_path: Path) -> None:
        cases = tmp_path / "cases.jsonl"
        cases.write_text('{"command": "ls"}\n{"command": "ship web --to harbour"}\n')
        [call] = said("diff", base, mine, "--cases", cases, code=1)["moved"]
        assert (call["line"], call["direction"]) == (2, "looser")
        assert (call["from"], call["to"]) == ({"risk": "R3", "outcome": "hold"}, {"risk": "R2", "outcome": "hold"})
        text = run("diff", base, mine, "--cases", cases).stdout
        assert "looser  line 2: R3 hold -> R2 hold: ship web --to harbour" in text

    def test_cases_settle_what_is_unclear(self, base: Path, tmp_path: Path) -> None:
        other = tiny() | {"words": {"name": "[a-z]+"}}
        path = write(tmp_path, other, "other")
        assert run("diff", base, path).exit_code == 1
        (tmp_path / "cases.jsonl").write_text('{"command": "ship list a"}\n')
        assert run("diff", base, path, "--cases", tmp_path / "cases.jsonl").exit_code == 0


class TestExplain:
    def test_a_command_line(self, base: Path) -> None:
        found = run("explain", "ls src | rm x", "--bundle", base)
        assert found.exit_code == 1
        for line in (
            "R2  shell",
            "reads as shell: ls src | rm x",
            "R2/nonprod/normal/none -> R2",
            "under ops: R2, hold",
        ):
            assert line in found.stdout
        assert "covered by the standing plan standing-workspace-1" in found.stdout
        assert run("explain", "ls", "--bundle", base).exit_code == 0
        assert run("explain", "rm x", "--bundle", base, "--profile", "coding").exit_code == 0

    def test_standard_input_and_files(self, base: Path, tmp_path: Path) -> None:
        file = tmp_path / "call"
        for text, tool in (
            ("ls .env\n", "shell"),
            ('{"command": "ls .env"}', "shell"),
            ('{"tool": "Write", "arguments": {"path": ".env"}}', "Write"),
            ('{"tool": "Write", "arguments": "{\\"path\\": \\".env\\"}"}', "Write"),
        ):
            file.write_text(text)
            one = run("explain", "-", "--bundle", base, "--json", text=text)
            two = run("explain", "--file", file, "--bundle", base, "--json")
            assert one.stdout == two.stdout
            found = json.loads(one.stdout)
            assert (found["tool"], found["steps"][0]["sensitivity"]) == (tool, "sensitive")
        found = said("explain", '{"path": "a"}', "--tool", "Write", "--bundle", base, code=1)
        assert found["tool"] == "Write"

    def test_circumstances(self, base: Path) -> None:
        found = said("explain", "ls", "--bundle", base, "--recovered", code=1)
        assert (found["risk_alone"], found["risk"]) == ("R0", "R2")

    def test_nothing_reaches_the_terminal_as_a_control_character(self, base: Path) -> None:
        found = run("explain", "ls \x1b[2J \u202e", "--bundle", base)
        assert "\x1b" not in found.stdout
        assert "\u202e" not in found.stdout

    def test_without_a_call_or_with_two(self, base: Path, tmp_path: Path) -> None:
        assert run("explain", "--bundle", base).exit_code == 2
        assert run("explain", "ls", "--file", base, "--bundle", base).exit_code == 2
        assert run("explain", "--file", tmp_path / "absent", "--bundle", base).exit_code == 2
        (tmp_path / "bytes").write_bytes(b"\xff")
        assert run("explain", "--file", tmp_path / "bytes", "--bundle", base).exit_code == 2


SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}


class TestToolSchema:
    @pytest.mark.parametrize("form", ["schema", "openai", "chat", "anthropic", "mcp"])
    def test_the_digest_of_each_form(self, tmp_path: Path, form: str) -> None:
        tool: dict[str, Any] = {
            "schema": SCHEMA,
            "openai": {"type": "function", "name": "t", "parameters": SCHEMA},
            "chat": {"type": "function", "function": {"name": "t", "parameters": SCHEMA}},
            "anthropic": {"name": "t", "input_schema": SCHEMA},
            "mcp": {"name": "t", "inputSchema": SCHEMA},
        }[form]
        (tmp_path / "tool.json").write_text(json.dumps(tool))
        assert said("tool-schema", tmp_path / "tool.json")["schema_digest"] == schema_digest(SCHEMA)

    def test_what_is_no_schema(self, tmp_path: Path) -> None:
        for text in ("[]", "{", '{"a": 1, "a": 2}', '{"parameters": 1}'):
            (tmp_path / "tool.json").write_text(text)
            assert run("tool-schema", tmp_path / "tool.json").exit_code == 2


class TestSigning:
    def test_sign_and_verify(self, base: Path, tmp_path: Path) -> None:
        private, public = keys(tmp_path)
        assert run("verify", base, "--key", public).exit_code == 1
        assert said("sign", base, "--key", private)["policy_digest"] == read_policy(base).policy_digest
        assert "key_id" in said("verify", base, "--key", public)
        base.write_text(base.read_text().replace("deletes files", "removes files"))
        assert run("verify", base, "--key", public).exit_code == 1

    def test_failing_examples_are_not_signed(self, base: Path, tmp_path: Path) -> None:
        changed = tiny()
        changed["rules"][0]["match"].append("rm x")
        write(base.parent, changed)
        assert run("sign", base, "--key", keys(tmp_path)[0]).exit_code == 1
        assert not base.with_name("tiny.yaml.sig").exists()
        assert run("sign", tmp_path / "absent.yaml", "--key", keys(tmp_path)[0]).exit_code == 2


AGENT = Principal(TenantId("acme"), KeyId("key_agent"), None, frozenset({Scope.INFERENCE}))
COMMANDS = ("ls", "rm x", "ship web --to sea", "ls .env")


async def record(root: Path, classifier: Classifier, commands: Sequence[str] = COMMANDS, days: int = 0) -> None:
    """A log as the gate and the sink write it: proposals with encrypted arguments, classes, outcomes."""
    clock, audit = FixedClock(), InMemoryAudit()
    clock.advance(days * 86_400_000)
    guard = Guard(
        classifier, InMemoryApprovals(), audit, clock, classify_timeout_s=20.0, keeps_arguments=lambda _: True
    )
    for number, command in enumerate(commands):
        context = GateContext(
            RequestId(f"req_{days}_{number}"), AGENT, SessionId("s"), ModelId("m"), RouteId("rt"), frozenset({"shell"})
        )
        await guard.judge(context, [ToolCall(f"call_{number}", 0, 0, "shell", json.dumps({"command": command}))])
    writer = open_log(root / "audit", SMALL)
    vault = open_vault(root, ALL, clock)
    for event in vault.commit([event for event in audit.events if event.name.startswith("tool_call.")]):
        [outcome] = writer.commit([[event]])
        assert isinstance(outcome, list), outcome
    writer.record_head()
    writer.close()


class TestReplay:
    @pytest.fixture
    async def log(self, base: Path, tmp_path: Path) -> Path:
        await record(tmp_path, Classifier(read_policy(base), ShellReader(20.0)))
        return tmp_path / "audit"

    def test_the_same_bundle_decides_the_same(self, log: Path, base: Path) -> None:
        [report] = said("replay", log, "--bundle", base)["reports"]
        assert (report["total"], report["judged"], report["same"]) == (4, 4, 4)

    def test_another_bundle(self, log: Path, mine: Path, base: Path) -> None:
        mine.write_text(mine.read_text().replace("harbour", "sea"))
        [report] = said("replay", log, "--bundle", mine, code=1)["reports"]
        assert (report["looser"], report["stricter"], report["same"]) == (1, 0, 3)
        [change] = report["changes"]
        assert (change["from"], change["to"]) == ({"risk": "R3", "outcome": "hold"}, {"risk": "R2", "outcome": "hold"})
        shown = json.loads(log_line(log, change["examples"][0]))
        assert shown["name"] == "tool_call.classified"
        assert run("replay", log, "--bundle", mine, "--allow").exit_code == 0
        assert "looser  R3 hold -> R2 hold: 1" in run("replay", log, "--bundle", mine).stdout

    def test_without_keys_it_says_how_many_it_could_not(self, log: Path, base: Path, tmp_path: Path) -> None:
        (tmp_path / "audit-keys").rename(tmp_path / "elsewhere")
        [report] = said("replay", log, "--bundle", base)["reports"]
        assert (report["judged"], report["skipped"]) == (0, {"arguments not kept": 4})
        [report] = said("replay", log, "--bundle", base, "--keys", tmp_path / "elsewhere")["reports"]
        assert report["judged"] == 4
        assert run("replay", log, "--bundle", base, "--keys", tmp_path / "nowhere").exit_code == 2

    def test_arguments_may_be_given_and_must_be_the_recorded_ones(self, log: Path, base: Path, tmp_path: Path) -> None:
        records = [json.loads(line) for line in log_lines(log)]
        ids = [each["data"]["gate_call_id"] for each in records if each["name"] == "tool_call.proposed"]
        calls = tmp_path / "calls.jsonl"
        rows = [{"gate_call_id": ids[0], "arguments": '{"command":"ls"}'},
                {"gate_call_id": ids[1], "arguments": '{"command":"rm y"}'}]  # fmt: skip
        calls.write_text("\n".join(map(json.dumps, rows)))
        [report] = said("replay", log, "--bundle", base, "--calls", calls)["reports"]
        assert report["skipped"] == {"given arguments are not the recorded ones": 1}
        assert (report["judged"], report["same"]) == (3, 3)
        for bad in ("{", '{"gate_call_id": 1}', "\n".join([json.dumps(rows[0])] * 2)):
            calls.write_text(bad)
            assert run("replay", log, "--bundle", base, "--calls", calls).exit_code == 2

    async def test_masked_arguments_are_not_judged(self, base: Path, tmp_path: Path) -> None:
        secret = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
        await record(tmp_path, Classifier(read_policy(base), ShellReader(20.0)), [f"ls {secret}", "ls"])
        [report] = said("replay", tmp_path / "audit", "--bundle", base)["reports"]
        assert (report["judged"], report["skipped"]) == (1, {"arguments masked": 1})

    def test_only_calls_of_a_time(self, log: Path, base: Path) -> None:
        day = FixedClock().now_ms() // 86_400_000
        before, after = (f"{_date(day + days)}" for days in (-1, 1))
        assert said("replay", log, "--bundle", base, "--since", before, "--until", after)["reports"][0]["total"] == 4
        assert said("replay", log, "--bundle", base, "--since", after)["reports"][0]["total"] == 0
        assert said("replay", log, "--bundle", base, "--until", f"{before}T00:00:00Z")["reports"][0]["total"] == 0
        assert run("replay", log, "--bundle", base, "--since", "yesterday").exit_code == 2

    async def test_what_a_shadow_bundle_said(self, base: Path, tmp_path: Path) -> None:
        targets = {"place": [{"match": ["sea"], "env": "nonprod"}]}
        mine = write(tmp_path, {"version": 1, "name": "mine", "extends": "tiny", "targets": targets})
        both = ShadowedClassifier(read_policy(base), read_policy(mine), ShellReader(20.0), 20.0)
        await record(tmp_path, both)
        [report] = said("replay", tmp_path / "audit", code=1)["reports"]
        assert report["policy_digest"] == read_policy(mine).policy_digest
        assert (report["judged"], report["same"], report["looser"]) == (4, 3, 1)

    def test_no_log_is_status_two(self, base: Path, tmp_path: Path) -> None:
        assert run("replay", tmp_path / "absent", "--bundle", base).exit_code == 2
        assert run("replay", tmp_path / "absent").exit_code == 2


def log_lines(log: Path) -> list[str]:
    found = subprocess.run(
        [sys.executable, "-m", "serve_app", "audit", "show", str(log), "--json", "--limit", "999"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return found.stdout.splitlines()


def log_line(log: Path, index: int) -> str:
    return next(line for line in log_lines(log) if json.loads(line)["sequence"] == index)


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()


def test_it_needs_no_server_parts() -> None:
    code = (
        "import sys, serve_app.cli.policy; print(sorted({'ray', 'vllm', 'fastapi', 'sqlalchemy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_shipped_bundle_is_the_default() -> None:
    found = said("explain", "kubectl -n shop delete pod web", code=1)
    assert (found["policy"], found["risk"]) == ("default", "R3")
