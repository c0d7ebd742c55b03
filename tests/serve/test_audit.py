"""The evidence of the real graph: receipts that are proven, reports of what ran, and a sink that is away."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import psutil

from deployments.audit.notes import parse_verifier_key
from deployments.audit.proofs import Trust, parse_inclusion_proof, verify_inclusion_proof
from tests.serve.conftest import Stack
from tests.serve.test_graph import DELETE, SHELL, wait_until

STATUS = [{"role": "user", "content": "Show me git status"}]
HELLO = [{"role": "user", "content": "Who are you?"}]


def ask(stack: Stack, messages: list[dict[str, Any]], session: str, **body: object) -> httpx2.Response:
    with stack.http(**{"x-session-id": session}) as http:
        return http.post(
            "/v1/chat/completions", json={"model": "auto", "temperature": 0, "messages": messages, **body}, timeout=60
        )


def records(stack: Stack, begin: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    place: int | None = begin
    with stack.operator() as http:
        while place is not None:
            page = http.get("/v1/audit/records", params={"begin": place, "limit": 1000}).json()
            found += [each["record"] for each in page["data"]]
            place = page["next"]
    return found


def sink_of(stack: Stack) -> psutil.Process:
    return next(
        process
        for process in psutil.Process(stack.process.pid).children(recursive=True)
        if "ServeReplica:gatehouse:AuditSink" in " ".join(process.cmdline())
    )


def answers(stack: Stack, path: str, status: int) -> bool:
    try:
        with stack.http() as http:
            return http.get(path, timeout=20).status_code == status
    except httpx2.TransportError:
        return False


def test_the_receipt_of_an_answer_is_proven_offline(stack: Stack) -> None:
    reply = ask(stack, HELLO, "receipt")
    index, leaf = reply.headers["x-gatehouse-audit-index"], reply.headers["x-gatehouse-receipt"]
    with stack.http() as http:  # the key that asked, and no more than it holds
        proof = http.get(f"/v1/audit/receipts/{index}", params={"leaf": leaf, "format": "tlog-proof"})
        other = http.get(f"/v1/audit/receipts/{index}", params={"leaf": "0" * 64})
    assert (proof.status_code, other.status_code) == (200, 404)
    key = parse_verifier_key((stack.state / "audit" / "log.vkey").read_text().splitlines()[0])
    trust = Trust(key.name, (key,))
    assert verify_inclusion_proof(parse_inclusion_proof(proof.content), int(index), bytes.fromhex(leaf), trust)


def test_the_canary_of_the_log_is_well(stack: Stack) -> None:
    with stack.http() as http:
        health = http.get("/healthz/audit").json()
        metrics = http.get("/metrics").text
    assert (health["status"], health["problem"], health["failure"]) == ("ok", None, None)
    assert "gatehouse_audit_up 1.0" in metrics


def test_a_change_leaves_a_package_that_verifies_itself(stack: Stack, tmp_path: Path) -> None:
    held = ask(stack, DELETE, "evidence", tools=[SHELL]).text
    approval = held.split("[gatehouse:held id=")[1].split(" ")[0]
    stack.cli(
        "approvals", "approve", approval, "--change-id", "CHG-77", "--rollback", "kubectl apply -f backup.yaml",
        "--verify", "kubectl get namespace staging",
    )  # fmt: skip
    message = ask(stack, DELETE, "evidence", tools=[SHELL]).json()["choices"][0]["message"]
    call = message["tool_calls"][0]
    result = {"role": "tool", "tool_call_id": call["id"], "content": json.dumps({"exit_code": 0, "output": "deleted"})}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert ask(stack, [*DELETE, said, result], "evidence").status_code == 200

    def reported() -> bool:
        return any(
            each["name"] == "action.reported" and each["data"]["approval_id"] == approval for each in records(stack)
        )

    wait_until(reported, 30)
    stack.cli("approvals", "rollback", approval, "--outcome", "not_needed")
    stack.cli("change", "close", "CHG-77", "--outcome", "succeeded")

    log, package = str(stack.state / "audit"), tmp_path / "CHG-77"
    stack.cli("audit", "evidence", log, "--change-id", "CHG-77", "--out", str(package))
    vkey = (stack.state / "audit" / "log.vkey").read_text().splitlines()[0]
    checked = subprocess.run(
        [sys.executable, "-I", str(package / "verify.py"), "--key", vkey], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert stack.cli("audit", "evidence", log, "--check", str(package), "--key", vkey).returncode == 0
    names = {each["name"] for each in records(stack) if each["change_id"] == "CHG-77"}
    assert names >= {
        "approval.planned", "approval.granted", "permit.consumed", "tool_call.released", "action.reported",
        "rollback.reported", "change.closed",
    }  # fmt: skip
    assert "kubectl delete" not in (package / "report.md").read_text()


def test_a_sink_that_does_not_answer_stops_tool_calls_and_nothing_else(stack: Stack) -> None:
    tools = [SHELL]
    assert '"tool_calls":[{' in ask(stack, STATUS, "before", tools=tools).text.replace(" ", "")
    size = len(records(stack))
    sink = sink_of(stack)
    sink.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: answers(stack, "/readyz", 503), 30)
        withheld = ask(stack, STATUS, "stopped", tools=tools)
        assert withheld.status_code == 200
        assert not withheld.json()["choices"][0]["message"].get("tool_calls")
        assert "gatehouse:unavailable" in withheld.text
        text = ask(stack, HELLO, "stopped")
        assert "demo-20b" in text.json()["choices"][0]["message"]["content"]
        assert "x-gatehouse-receipt" not in text.headers
        assert answers(stack, "/healthz/audit", 503)
    finally:
        sink.send_signal(signal.SIGCONT)
    wait_until(lambda: answers(stack, "/readyz", 200), 60)

    def caught_up() -> bool:
        newer = [each["name"] for each in records(stack, size)]
        return newer.count("route.decided") >= 2 and newer.count("generation.finished") >= 2

    wait_until(caught_up, 60)  # what text requests owed was kept, not lost
    released = [each for each in records(stack, size) if each["name"] == "tool_call.released"]
    assert released == []


def test_a_killed_sink_comes_back_with_every_acknowledged_record(stack: Stack) -> None:
    before = ask(stack, HELLO, "killed")
    index, leaf = before.headers["x-gatehouse-audit-index"], before.headers["x-gatehouse-receipt"]
    known = records(stack)
    sink = sink_of(stack)
    sink.kill()
    wait_until(lambda: not sink.is_running() or sink.status() == psutil.STATUS_ZOMBIE, 30)
    assert ask(stack, HELLO, "killed").status_code == 200  # text flows
    wait_until(lambda: answers(stack, "/healthz/audit", 200), 120)
    assert records(stack)[: len(known)] == known
    with stack.http() as http:
        assert http.get(f"/v1/audit/receipts/{index}", params={"leaf": leaf}).status_code == 200
    assert '"tool_calls":[{' in ask(stack, STATUS, "after", tools=[SHELL]).text.replace(" ", "")
    assert stack.cli("audit", "verify", str(stack.state / "audit"), check=False).returncode == 0
