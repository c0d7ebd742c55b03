"""The gate of the real graph beyond the stream: runner, permits, canary, frozen keys, and the INC-04 drill."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import Stack
from tests.serve.test_graph import wait_until

HELD = 75


def run(stack: Stack, root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`gatehouse-run` as an agent's machine has it: a key of its own, a workspace, nothing else."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("gatehouse-run")), "--root", str(root), *arguments],
        capture_output=True, text=True, timeout=120, check=False, cwd=root,
        env={
            "PATH": "/usr/bin:/bin", "HOME": str(root), "GATEHOUSE_URL": stack.url, "GATEHOUSE_KEY": stack.key,
            "XDG_CONFIG_HOME": str(root / ".config"),
        },
    )  # fmt: skip


@pytest.fixture
def workspace(stack: Stack, tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "note").write_text("words\n")
    pinned = run(stack, tmp_path, "pin")
    assert pinned.returncode == 0, pinned.stderr
    return tmp_path


def test_a_read_runs_and_a_change_runs_once_after_its_approval(stack: Stack, workspace: Path) -> None:
    read = run(stack, workspace, "--", "cat", "scratch/note")
    assert (read.returncode, read.stdout) == (0, "words\n"), read.stderr
    change = ("--session", "serve-gate", "--", "rm", "-r", "scratch")
    held = run(stack, workspace, *change)
    assert held.returncode == HELD, held.stderr
    assert (workspace / "scratch").exists()
    approval = next(word.strip(".,:;()") for word in held.stderr.split() if word.startswith("apr_"))
    stack.cli(
        "approvals", "approve", approval, "--change-id", "CHG-9", "--rollback", "mkdir scratch", "--verify",
        "test -d scratch",
    )  # fmt: skip
    if json.loads(stack.cli("approvals", "show", approval, "--json").stdout)["votes_required"] == 2:
        pytest.fail("the local policy makes `rm -r` in the workspace R3; this test has one approver")
    done = run(stack, workspace, *change)
    assert done.returncode == 0, done.stderr
    assert not (workspace / "scratch").exists()
    (workspace / "scratch").mkdir()
    again = run(stack, workspace, *change)
    assert again.returncode == HELD, "one approval is one execution"
    assert (workspace / "scratch").exists()


def test_the_canary_is_held_on_the_real_graph(stack: Stack) -> None:
    with stack.http() as http:
        told = http.get("/healthz/approvals", timeout=30).json()
        metrics = http.get("/metrics").text
    assert (told["status"], told["problem"]) == ("ok", None), told
    assert "gatehouse_gate_canary_held 1.0" in metrics
    assert "gatehouse_gate_canary_escaped 0.0" in metrics


def test_the_drill_of_inc_04_holds_and_leaves_nothing_behind(stack: Stack) -> None:
    done = stack.cli("drill", "inc-04", "--json", check=False)
    report = json.loads(done.stdout)
    assert [each for each in report["findings"] if not each["held"]] == []
    assert done.returncode == 0
    frozen = json.loads(stack.cli("approvals", "frozen", "--json").stdout or "[]")
    assert frozen == [] or frozen == {"object": "list", "data": []}
    verified = stack.cli("audit", "verify", str(stack.state / "audit"), check=False)
    assert verified.returncode == 0, verified.stdout


def test_a_frozen_key_gets_no_call_through_until_it_is_released(stack: Stack, workspace: Path) -> None:
    made = json.loads(stack.cli("keys", "create", "--tenant", "frozen-test", "--name", "agent", "--json").stdout)
    agent = Stack(**{**stack.__dict__, "key": made["key"]})
    assert run(agent, workspace, "--", "ls").returncode == 0
    stack.cli("approvals", "freeze", made["id"], "--reason", "a test")
    wait_until(lambda: run(agent, workspace, "--", "ls").returncode != 0, 20)
    stack.cli("approvals", "unfreeze", made["id"], "--change-id", "CHG-10", "--reason", "over")
    wait_until(lambda: run(agent, workspace, "--", "ls").returncode == 0, 20)
