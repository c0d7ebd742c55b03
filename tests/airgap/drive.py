"""Runs inside a namespace, with the Python of an installation: starts Gatehouse, does the main job, says what it saw.

python drive.py TARGET PORT        prints one line of JSON
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

SHELL = {
    "type": "function",
    "function": {
        "name": "shell",
        "description": "Run a shell command",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}
DELETE = [{"role": "user", "content": "Delete the staging namespace"}]
START_S, STOP_S, CALL_S = 1800.0, 300.0, 600.0  # how long a state is waited for: a machine may be busy, and traced
RAY_S, STARTS = 900.0, 20  # Ray gives its agent 15 s and its node 30 s, which no setting changes: see `too_busy`
PATIENCE = {"RAY_agent_register_timeout_ms": "600000", "RAY_worker_niceness": "0"}  # they turn to nobody
RAY = "local, logs in"  # what `up` says once there is a node


def main() -> None:
    target, port = Path(sys.argv[1]), int(sys.argv[2])
    gatehouse = str(target / "current" / "venv" / "bin" / "gatehouse")
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, **PATIENCE, "GATEHOUSE_URL": url, "GATEHOUSE_STATE_DIR": str(target / "state")}
    environment |= {"COLUMNS": "400"}
    up = [gatehouse, "up", "--config", str(target / "current" / "serve.yaml"), "--port", str(port)]
    up += ["--startup-timeout", str(START_S)]
    output = target / f"output-{port}.txt"
    said: dict[str, object] = {"routes": subprocess.run(["ip", "route"], capture_output=True, text=True).stdout}
    for attempt in range(1, STARTS + 1):
        raylet = raylet_errors(environment)
        process = start(up, output, environment)
        try:
            said |= {"ready": wait_until_ready(process, output, environment, raylet), "starts": attempt}
            if said["ready"]:
                said |= job(url, gatehouse, output, target, environment)
        finally:
            stop(process, patience_s=STOP_S if RAY in output.read_text() else 0.0)
        said |= {"status": process.poll(), "output": output.read_text()[-3000:]}
        if RAY in output.read_text():
            break
    print(json.dumps(said))


def start(up: list[str], output: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    with output.open("w") as sink:
        return subprocess.Popen(up, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment)


def wait_until_ready(
    process: "subprocess.Popen[bytes]", output: Path, environment: dict[str, str], former: Path
) -> bool:
    began = time.monotonic()
    while "is ready" not in output.read_text() and process.poll() is None:
        waited = time.monotonic() - began
        if waited > START_S or (RAY not in output.read_text() and (waited > RAY_S or too_busy(environment, former))):
            break
        time.sleep(0.5)
    return "is ready" in output.read_text()


def raylet_errors(environment: dict[str, str]) -> Path:
    return Path(environment["RAY_TMPDIR"], "ray", "session_latest").resolve() / "logs" / "raylet.err"


def too_busy(environment: dict[str, str], former: Path) -> bool:
    """Whether Ray's node process of this start has given up because its agent took too long to be imported."""
    raylet = raylet_errors(environment)
    return raylet != former and raylet.is_file() and "Timed out waiting for file" in raylet.read_text(errors="replace")


def stop(process: "subprocess.Popen[bytes]", patience_s: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def job(url: str, gatehouse: str, output: Path, target: Path, environment: dict[str, str]) -> dict[str, object]:
    """Two questions, a gap in some code, a dangerous call that is held, approved and released once; then what an
    operator looks at: metrics, status, the log.
    """
    found = re.search(r"\bgh-\S+", output.read_text())
    if found is None:  # not the first start of this installation
        made = run(gatehouse, "keys", "create", "--tenant", "default", "--name", output.stem, environment=environment)
        found = re.search(r"\bgh-\S+", made.stdout)
    assert found is not None, "no key"
    http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {found[0]}"}, timeout=CALL_S, trust_env=False)
    asked = http.post("/v1/chat/completions", json=chat([{"role": "user", "content": "Who are you?"}]))
    response = http.post("/v1/responses", json={"model": "auto", "temperature": 0, "input": "Who are you?"})
    kept = http.get(f"/v1/responses/{response.json().get('id')}")
    middle = http.post(
        "/v1/completions",
        json={
            "model": "auto",
            "prompt": "def add(a, b):\n    return ",
            "suffix": "\n",
            "max_tokens": 16,
            "temperature": 0,
        },
    )
    hold = {**chat(DELETE), "tools": [SHELL]}
    held = http.post("/v1/chat/completions", json=hold)
    approval = re.search(r"gatehouse:held id=(apr_\S+)", held.text)
    granted = run(
        gatehouse, "approvals", "approve", approval[1] if approval else "none", "--change-id", "CHG-1",
        "--rollback", "kubectl apply -f staging.yaml", "--verify", "kubectl get namespace staging",
        environment=environment,
    )  # fmt: skip
    released, again = (http.post("/v1/chat/completions", json=hold) for _ in range(2))
    scraped = http.get("/metrics", headers={"authorization": ""})
    status = run(gatehouse, "status", "--json", environment=environment)
    audit = run(gatehouse, "audit", "verify", str(target / "state" / "audit"), environment=environment)
    return {
        "asked": [asked.status_code, asked.headers.get("x-gatehouse-model"), text(asked)],
        "response": [response.status_code, response.json().get("status"), said_in(response)],
        "kept": [kept.status_code, said_in(kept)],
        "middle": [middle.status_code, middle.json().get("x_gatehouse", {}).get("fim")],
        "held": [held.status_code, approval is not None, calls(held)],
        "approved": [granted.returncode, granted.stderr],
        "released": calls(released),
        "again": calls(again),
        "metrics": [scraped.status_code, sorted(set(re.findall(r"^[a-z_]+", scraped.text, re.MULTILINE)))],
        "on call": [status.returncode, status.stdout, status.stderr],
        "audit": [audit.returncode, audit.stderr],
    }


def chat(messages: object) -> dict[str, object]:
    return {"model": "auto", "temperature": 0, "max_tokens": 256, "messages": messages}


def text(reply: httpx.Response) -> str:
    return str(reply.json()["choices"][0]["message"].get("content"))


def said_in(reply: httpx.Response) -> str:
    """The text of an answer in the dialect of responses."""
    items = [item for item in reply.json().get("output", ()) if item["type"] == "message"]
    return "".join(part["text"] for item in items for part in item["content"])


def calls(reply: httpx.Response) -> list[str]:
    made = reply.json()["choices"][0]["message"].get("tool_calls") or []
    return [each["function"]["arguments"] for each in made]


def run(*command: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=CALL_S, check=False)


if __name__ == "__main__":
    main()
