"""Runs inside a namespace, with the Python of an installation: starts Gatehouse, does the main job, says what it saw.

python drive.py TARGET PORT RECORD|-        prints one line of JSON
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
START_S, STOP_S = 900.0, 180.0


def main() -> None:
    target, port, record = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    gatehouse = str(target / "current" / "venv" / "bin" / "gatehouse")
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "GATEHOUSE_URL": url, "GATEHOUSE_STATE_DIR": str(target / "state"), "COLUMNS": "400"}
    up = [gatehouse, "up", "--config", str(target / "current" / "serve.yaml"), "--port", str(port)]
    up += ["--startup-timeout", str(START_S)]
    if record != "-":
        # Beside this file, which is not part of the installation.
        sys.path.insert(0, str(Path(__file__).parent))
        from namespaces import watched

        up = list(watched(Path(record), *up))
    output = target / f"output-{port}.txt"
    with output.open("w") as sink:
        process = subprocess.Popen(up, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment)
    said: dict[str, object] = {"routes": subprocess.run(["ip", "route"], capture_output=True, text=True).stdout}
    try:
        deadline = time.monotonic() + START_S
        while "is ready" not in output.read_text() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
        said["ready"] = "is ready" in output.read_text()
        if said["ready"]:
            said |= job(url, gatehouse, output, target, environment)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        said |= {"status": process.poll(), "output": output.read_text()[-3000:]}
        print(json.dumps(said))


def job(url: str, gatehouse: str, output: Path, target: Path, environment: dict[str, str]) -> dict[str, object]:
    """A question, a gap in some code, a dangerous call that is held, approved and released once; then the log."""
    found = re.search(r"\bgh-\S+", output.read_text())
    if found is None:  # not the first start of this installation
        made = run(gatehouse, "keys", "create", "--tenant", "default", "--name", output.stem, environment=environment)
        found = re.search(r"\bgh-\S+", made.stdout)
    assert found is not None, "no key"
    http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {found[0]}"}, timeout=300, trust_env=False)
    asked = http.post("/v1/chat/completions", json=chat([{"role": "user", "content": "Who are you?"}]))
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
    audit = run(gatehouse, "audit", "verify", str(target / "state" / "audit"), environment=environment)
    return {
        "asked": [asked.status_code, asked.headers.get("x-gatehouse-model"), text(asked)],
        "middle": [middle.status_code, middle.json().get("x_gatehouse", {}).get("fim")],
        "held": [held.status_code, approval is not None, calls(held)],
        "approved": [granted.returncode, granted.stderr],
        "released": calls(released),
        "again": calls(again),
        "audit": [audit.returncode, audit.stderr],
    }


def chat(messages: object) -> dict[str, object]:
    return {"model": "auto", "temperature": 0, "max_tokens": 256, "messages": messages}


def text(reply: httpx.Response) -> str:
    return str(reply.json()["choices"][0]["message"].get("content"))


def calls(reply: httpx.Response) -> list[str]:
    made = reply.json()["choices"][0]["message"].get("tool_calls") or []
    return [each["function"]["arguments"] for each in made]


def run(*command: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


if __name__ == "__main__":
    main()
