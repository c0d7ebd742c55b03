"""The main job, end to end, on real engines: routed, gated, audited answers through the official SDK."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import httpx2
import openai
import psutil
import pytest

from tests.serve.conftest import Stack

SHELL = {
    "type": "function",
    "function": {
        "name": "shell",
        "description": "Run a shell command",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}
COUNT = [{"role": "user", "content": "Count to one hundred"}]
DELETE = [{"role": "user", "content": "Delete the staging namespace"}]
FAILED_ONCE = [
    {"role": "user", "content": "Why is the checkout service returning 503? First look at the pods, then at the logs."},
    {"role": "assistant", "content": "A first guess: the pods are not ready. Restart the deployment."},
    {
        "role": "user",
        "content": "That did not help, the checkout service still returns 503 errors. Diagnose the incident.",
    },
]


def wait_until(reached: Callable[[], bool], seconds: float) -> None:
    """Wait for a state; the bound only keeps a broken build from hanging."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "the state was never reached"
        time.sleep(0.05)


def test_the_sdk_streams_an_answer_from_the_base_model(stack: Stack) -> None:
    with stack.sdk.chat.completions.with_streaming_response.create(
        model="auto", messages=[{"role": "user", "content": "Who are you?"}], stream=True, temperature=0,
        stream_options={"include_usage": True},
    ) as reply:  # fmt: skip
        headers = reply.headers
        lines = list(reply.iter_lines())
    assert headers["x-gatehouse-model"] == "demo-20b"
    assert headers["x-gatehouse-tier"] == "20b"
    assert headers["x-gatehouse-route-reason"]
    assert headers["x-request-id"]
    assert headers["x-gatehouse-audit-index"].isdigit()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert "demo-20b" in text
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert lines[-1] == "" or lines[-2:] == ["data: [DONE]", ""]


def test_a_failed_diagnosis_is_escalated(stack: Stack) -> None:
    reply = stack.sdk.chat.completions.with_raw_response.create(model="auto", messages=FAILED_ONCE, temperature=0)
    assert reply.headers["x-gatehouse-model"] == "demo-120b"
    assert reply.headers["x-gatehouse-route-reason"] == "incident_failed_once"
    completion = reply.parse()
    assert completion.model == "demo-120b"
    assert completion.choices[0].message.content


def test_the_large_model_knows_what_the_small_one_does_not(stack: Stack) -> None:
    def ask(model: str) -> str:
        messages = [{"role": "user", "content": "What is 7 times 8?"}]
        reply = stack.sdk.chat.completions.create(model=model, messages=messages, temperature=0)
        return reply.choices[0].message.content or ""

    assert "56" in ask("demo-120b")
    assert "56" not in ask("demo-20b")


def test_a_read_only_call_flows(stack: Stack) -> None:
    messages = [{"role": "user", "content": "Show the pods"}]
    reply = stack.sdk.chat.completions.create(model="demo-20b", messages=messages, tools=[SHELL], temperature=0)
    (call,) = reply.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"command": "kubectl get pods"}
    assert reply.choices[0].finish_reason == "tool_calls"
    messages += [
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump(include={"id", "type", "function"})]},
        {"role": "tool", "tool_call_id": call.id, "content": "web-1 Running"},
    ]
    answer = stack.sdk.chat.completions.create(model="demo-20b", messages=messages, tools=[SHELL], temperature=0)
    assert answer.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_a_dangerous_call_is_held_approved_and_released_exactly_once(stack: Stack, stream: bool) -> None:
    session = {"x-session-id": f"delete-{stream}"}

    def ask() -> str:
        with stack.http(**session) as http:
            body = {"model": "auto", "messages": DELETE, "tools": [SHELL], "temperature": 0, "stream": stream}
            reply = http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200
        return reply.text

    held = ask()
    assert "kubectl delete namespace staging" not in held
    assert "[gatehouse:held id=" in held
    approval = held.split("[gatehouse:held id=")[1].split(" ")[0]
    listed = json.loads(stack.cli("approvals", "list", "--json").stdout.splitlines()[0])
    assert approval in json.dumps(listed)

    refused = stack.cli("approvals", "approve", approval, check=False)
    assert refused.returncode != 0  # no plan, no change id
    approved = stack.cli(
        "approvals", "approve", approval, "--change-id", "CHG-1", "--rollback", "kubectl apply -f backup.yaml",
        "--verify", "kubectl get namespace staging",
    )  # fmt: skip
    assert approval in approved.stdout

    released = ask()
    assert "kubectl delete namespace staging" in released
    assert '"tool_calls"' in released
    again = ask()
    assert "kubectl delete namespace staging" not in again
    assert approval not in again


def test_tools_structured_output_logprobs_and_n(stack: Stack) -> None:
    question = [{"role": "user", "content": "hello"}]
    schema = {"type": "object", "properties": {"answer": {"type": "boolean"}}, "required": ["answer"],
              "additionalProperties": False}  # fmt: skip
    shaped = stack.sdk.chat.completions.create(
        model="demo-20b", messages=question, temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}},
    )  # fmt: skip
    assert isinstance(json.loads(shaped.choices[0].message.content)["answer"], bool)
    two = stack.sdk.chat.completions.create(model="demo-20b", messages=question, n=2, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.choices[0].logprobs.content[0].top_logprobs
    raw = stack.sdk.completions.create(model="demo-20b", prompt="hello", max_tokens=4)
    assert raw.choices[0].finish_reason in ("length", "stop")
    assert raw.usage.completion_tokens <= 4


def test_models_and_probes(stack: Stack) -> None:
    assert [model.id for model in stack.sdk.models.list()] == ["auto", "demo-20b", "demo-120b"]
    with stack.http() as http:
        assert http.get("/healthz").status_code == 200
        ready = http.get("/readyz")
        assert ready.status_code == 200
        assert set(ready.json()["parts"]) >= {"audit", "gate", "ledger", "router", "engine:demo-20b"}
        assert "gatehouse_route_total" in http.get("/metrics").text


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        ("/v1/chat/completions", b"{", 400, "invalid_value"),
        ("/v1/chat/completions", b'{"messages":[{"role":"user","content":1}]}', 400, "invalid_value"),
        ("/v1/chat/completions", b'{"messages":[{"role":"user","content":"x"}],"a":1}', 400, "unsupported_parameter"),
        ("/v1/chat/completions", b'{"model":"g","messages":[{"role":"user","content":"x"}]}', 404, "model_not_found"),
        ("/v1/load_lora_adapter", b"{}", 404, "unknown_url"),
        ("/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": "word " * 40000}]}).encode(), 400,
         "context_length_exceeded"),
    ],
)  # fmt: skip
def test_bad_input_is_answered_in_the_clients_dialect(
    stack: Stack, path: str, content: bytes, status: int, code: str
) -> None:
    with stack.http() as http:
        reply = http.post(path, content=content)
    assert reply.status_code == status
    assert reply.json()["error"]["code"] == code
    assert reply.headers.get_list("x-request-id") == [reply.headers["x-request-id"]]


def test_an_oversize_body_is_refused(stack: Stack) -> None:
    with stack.http() as http:
        reply = http.post("/v1/chat/completions", content=b"x" * (33 * 2**20))
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "request_too_large"


def test_keys_are_created_checked_and_revoked(stack: Stack) -> None:
    made = json.loads(stack.cli("keys", "create", "--tenant", "default", "--name", "t", "--json").stdout)
    with stack.http(authorization=f"Bearer {made['key']}") as http:
        assert http.get("/v1/models").status_code == 200
        stack.cli("keys", "revoke", made["id"])
        wait_until(lambda: http.get("/v1/models").status_code == 401, 5)
    with stack.http(authorization="Bearer gh-nonsense") as http:
        reply = http.post("/v1/chat/completions", content=b"{")
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"
    with stack.http() as http:  # an inference key is no admin key
        assert http.get("/v1/admin/keys").status_code == 403


def test_a_seed_with_a_long_prompt_does_not_end_the_engine(stack: Stack) -> None:
    """On CPU vLLM 0.29 dies of a seeded request whose prompt is read in two steps."""
    before = stack.engines()["demo-20b"]["core_pids"]
    reply = stack.sdk.completions.create(
        model="demo-20b", prompt=list(range(100, 9_100)), max_tokens=2, seed=7, temperature=1
    )
    assert reply.usage.prompt_tokens == 9_000
    assert stack.engines()["demo-20b"]["core_pids"] == before


@pytest.mark.parametrize("stream", [True, False])
def test_a_hang_up_frees_the_engine(stack: Stack, stream: bool) -> None:
    body = {"model": "demo-20b", "prompt": "hello", "max_tokens": 8000, "ignore_eos": True, "stream": stream}
    script = (
        "import httpx2,sys,json\n"
        f"c=httpx2.Client(base_url={stack.url!r},headers={{'authorization':'Bearer {stack.key}'}},timeout=300)\n"
        f"s=c.stream('POST','/v1/completions',json=json.loads({json.dumps(json.dumps(body))}))\n"
        "r=s.__enter__()\n[print(len(x),flush=True) for x in r.iter_bytes()]\n"
    )
    client = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: stack.engines()["demo-20b"]["running"] == 1, 60)
        if stream:
            assert client.stdout.readline()
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait(10)
    wait_until(lambda: stack.engines()["demo-20b"]["running"] == 0, 2)


def test_a_killed_engine_ends_its_streams_and_only_itself_comes_back(stack: Stack) -> None:
    before = stack.engines()
    stream = stack.sdk.completions.create(
        model="demo-20b", prompt="hello", max_tokens=8000, stream=True, extra_body={"ignore_eos": True}
    )
    seen = 0
    with pytest.raises(openai.APIError):
        for _ in stream:
            seen += 1
            if seen == 3:
                os.kill(before["demo-20b"]["pid"], signal.SIGKILL)
    assert seen >= 3

    def back() -> bool:
        with stack.http() as http:
            if http.get("/readyz").status_code != 200:
                return False
        return stack.engines()["demo-20b"].get("pid", before["demo-20b"]["pid"]) != before["demo-20b"]["pid"]

    wait_until(back, 300)
    after = stack.engines()
    assert after["demo-120b"]["pid"] == before["demo-120b"]["pid"]
    reply = stack.sdk.chat.completions.create(
        model="demo-20b", messages=[{"role": "user", "content": "Who are you?"}], temperature=0
    )
    assert "demo-20b" in reply.choices[0].message.content


def test_a_killed_ingress_comes_back_on_its_port_and_keeps_nothing_open(stack: Stack) -> None:
    """The one ingress replica listens on the port itself; engines stay as they are."""
    before = stack.engines()
    ingress = next(
        process
        for process in psutil.Process(stack.process.pid).children(recursive=True)
        if "ServeReplica:gatehouse:Ingress" in " ".join(process.cmdline())
    )
    listening = {each.laddr.port for each in ingress.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    assert int(stack.url.rpartition(":")[2]) in listening
    ingress.kill()

    def back() -> bool:
        try:
            with stack.http() as http:
                return http.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    wait_until(lambda: not ingress.is_running() or ingress.status() == psutil.STATUS_ZOMBIE, 30)
    wait_until(back, 120)
    assert {name: each["pid"] for name, each in stack.engines().items()} == {
        name: each["pid"] for name, each in before.items()
    }
    reply = stack.sdk.chat.completions.create(
        model="demo-20b", messages=[{"role": "user", "content": "Who are you?"}], temperature=0
    )
    assert "demo-20b" in reply.choices[0].message.content


def test_zz_the_log_verifies_and_lists_both_models(stack: Stack) -> None:
    verified = stack.cli("audit", "verify", str(stack.state / "audit"), check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    summary = json.loads(verified.stdout)
    assert "demo-20b" in json.dumps(summary)
    assert "demo-120b" in json.dumps(summary)
    files = [path for path in (stack.state / "audit").rglob("*") if path.is_file()]
    content = b"".join(path.read_bytes() for path in files)
    for secret in (b"kubectl delete namespace", b"Who are you", stack.key.encode()):
        assert secret not in content
