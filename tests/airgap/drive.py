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

import httpx2

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
KEY = re.compile(r"(?<![\w/])gh-\w{20,}")  # no path, which may begin alike


def main() -> None:
    target, port = Path(sys.argv[1]), int(sys.argv[2])
    gatehouse = str(target / "current" / "venv" / "bin" / "gatehouse")
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "GATEHOUSE_URL": url, "GATEHOUSE_STATE_DIR": str(target / "state")}
    environment |= {"COLUMNS": "400"}
    up = [gatehouse, "up", "--config", str(target / "current" / "serve.yaml"), "--port", str(port)]
    up += ["--startup-timeout", str(START_S)]
    output = target / f"output-{port}.txt"
    said: dict[str, object] = {"routes": subprocess.run(["ip", "route"], capture_output=True, text=True).stdout}
    process = start(up, output, environment)
    try:
        said |= {"ready": wait_until_ready(process, output)}
        if said["ready"]:
            said |= job(url, gatehouse, output, target, environment)
    finally:
        stop(process)
    said |= {"status": process.poll(), "output": output.read_text()[-3000:]}
    print(json.dumps(said))


def start(up: list[str], output: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    with output.open("w") as sink:
        return subprocess.Popen(up, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment)


def wait_until_ready(process: "subprocess.Popen[bytes]", output: Path) -> bool:
    ends_s = time.monotonic() + START_S
    while "is ready" not in output.read_text() and process.poll() is None and time.monotonic() < ends_s:
        time.sleep(0.5)
    return "is ready" in output.read_text()


def stop(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def job(url: str, gatehouse: str, output: Path, target: Path, environment: dict[str, str]) -> dict[str, object]:
    """Two questions, a gap in some code, a dangerous call that is held, approved and released once; then what an
    operator looks at: metrics, status, the log.
    """
    found = KEY.search(output.read_text())
    if found is None:  # not the first start of this installation
        made = run(gatehouse, "keys", "create", "--tenant", "default", "--name", output.stem, environment=environment)
        found = KEY.search(made.stdout)
    assert found is not None, "no key"
    http = httpx2.Client(base_url=url, headers={"authorization": f"Bearer {found[0]}"}, timeout=CALL_S, trust_env=False)
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


def text(reply: httpx2.Response) -> str:
    """What was said, or the whole reply where it is an error."""
    return reply.text if reply.is_error else str(reply.json()["choices"][0]["message"].get("content"))


def said_in(reply: httpx2.Response) -> str:
    """The text of an answer in the dialect of responses, or the whole reply where it is an error."""
    if reply.is_error:
        return reply.text
    items = [item for item in reply.json().get("output", ()) if item["type"] == "message"]
    return "".join(part["text"] for item in items for part in item["content"])


def calls(reply: httpx2.Response) -> list[str]:
    """The arguments of the calls in an answer, or the whole reply where it is an error."""
    if reply.is_error:
        return [reply.text]
    made = reply.json()["choices"][0]["message"].get("tool_calls") or []
    return [each["function"]["arguments"] for each in made]


def run(*command: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=CALL_S, check=False)


if __name__ == "__main__":
    main()
