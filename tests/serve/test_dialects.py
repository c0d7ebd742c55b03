"""Every dialect on real engines, through the official SDKs; the waiting hold and the state of responses among it."""

import json
import threading
import time

import anthropic
import httpx2
import openai
import pytest

from tests.serve.conftest import Stack

PARAMETERS = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
FUNCTION = {"type": "function", "name": "shell", "description": "Run a shell command", "parameters": PARAMETERS}
CLIENT_TOOL = {"name": "shell", "description": "Run a shell command", "input_schema": PARAMETERS}
CHAT_TOOL = {"type": "function", "function": {k: v for k, v in FUNCTION.items() if k != "type"}}
WHO = "Who are you?"
READ = "Show me the git status"
DELETE = "Delete the staging namespace"


@pytest.fixture(scope="module")
def claude(stack: Stack) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key=stack.key, base_url=stack.url, max_retries=0, timeout=120)


def test_responses_stream_and_are_found_again(stack: Stack) -> None:
    with stack.sdk.responses.stream(model="auto", input=WHO, temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert "demo-20b" in final.output_text
    assert final.usage is not None
    assert final.usage.output_tokens > 0
    assert stack.sdk.responses.retrieve(final.id).output_text == final.output_text


def test_a_next_turn_reads_the_earlier_one(stack: Stack) -> None:
    first = stack.sdk.responses.create(model="demo-20b", input=WHO, temperature=0)
    alone = stack.sdk.responses.create(model="demo-20b", input="Hello!", temperature=0)
    second = stack.sdk.responses.create(
        model="demo-20b", input="Hello!", previous_response_id=first.id, temperature=0
    )  # fmt: skip
    assert second.usage is not None
    assert alone.usage is not None
    assert second.usage.input_tokens > alone.usage.input_tokens


def test_a_background_response_is_answered_while_nobody_waits(stack: Stack) -> None:
    queued = stack.sdk.responses.create(model="auto", input=WHO, temperature=0, background=True)
    assert queued.status == "queued"
    deadline = time.monotonic() + 60
    while (done := stack.sdk.responses.retrieve(queued.id)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert done.status == "completed"
    assert "demo-20b" in done.output_text
    stack.sdk.responses.delete(queued.id)
    with pytest.raises(openai.NotFoundError):
        stack.sdk.responses.retrieve(queued.id)


def test_a_call_goes_round_through_responses(stack: Stack) -> None:
    turn = stack.sdk.responses.create(model="auto", input=READ, tools=[FUNCTION], temperature=0)  # type: ignore[list-item]
    (call,) = [item for item in turn.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"command": "git status"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "nothing to commit"}
    after = stack.sdk.responses.create(
        model="auto", input=[result], previous_response_id=turn.id, tools=[FUNCTION], temperature=0  # type: ignore[list-item]
    )  # fmt: skip
    assert after.status == "completed"


@pytest.mark.parametrize("stream", [False, True])
def test_a_dangerous_call_is_held_in_every_dialect(stack: Stack, claude: anthropic.Anthropic, stream: bool) -> None:
    if stream:
        with stack.sdk.responses.stream(model="auto", input=DELETE, tools=[FUNCTION], temperature=0) as events:  # type: ignore[list-item]
            seen = "".join(str(event) for event in events)
            text = events.get_final_response().output_text
        with claude.messages.stream(
            model="auto", max_tokens=256, messages=[{"role": "user", "content": DELETE}], tools=[CLIENT_TOOL],  # type: ignore[list-item]
            extra_body={"temperature": 0},
        ) as blocks:  # fmt: skip
            seen += "".join(str(block) for block in blocks)
            message = blocks.get_final_message()
    else:
        reply = stack.sdk.responses.create(model="auto", input=DELETE, tools=[FUNCTION], temperature=0)  # type: ignore[list-item]
        text, seen = reply.output_text, json.dumps(reply.output_text)
        message = claude.messages.create(
            model="auto", max_tokens=256, messages=[{"role": "user", "content": DELETE}], tools=[CLIENT_TOOL],  # type: ignore[list-item]
            extra_body={"temperature": 0},
        )  # fmt: skip
    assert "[gatehouse:held id=apr_" in text
    assert message.stop_reason == "end_turn"
    assert "[gatehouse:held id=apr_" in message.content[-1].text  # type: ignore[union-attr]
    assert "kubectl delete" not in seen


def test_messages_think_call_and_count(claude: anthropic.Anthropic) -> None:
    turn = [{"role": "user", "content": READ}]
    message = claude.messages.create(
        model="auto", max_tokens=256, messages=turn, tools=[CLIENT_TOOL], thinking={"type": "adaptive"},  # type: ignore[arg-type,list-item]
        extra_body={"temperature": 0},
    )  # fmt: skip
    assert message.stop_reason == "tool_use"
    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    assert message.content[-1].input == {"command": "git status"}  # type: ignore[union-attr]
    counted = claude.messages.count_tokens(model="auto", messages=turn, tools=[CLIENT_TOOL])  # type: ignore[arg-type,list-item]
    usage = message.usage
    # The effort is a word of the system prompt, and the count is made for the default one.
    assert abs(counted.input_tokens - usage.input_tokens - (usage.cache_read_input_tokens or 0)) <= 2


def test_the_middle_is_filled_in_and_marked_as_emulated(stack: Stack) -> None:
    reply = stack.sdk.completions.create(
        model="auto", prompt="def add(a, b):\n    return ", suffix="\n", max_tokens=16, temperature=0
    )
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.model_extra is not None
    assert reply.model_extra["x_gatehouse"]["fim"] == "emulated"


def test_what_the_tokenizer_says_goes_round(stack: Stack) -> None:
    with stack.http() as http:
        tokens = http.post("/tokenize", json={"model": "demo-20b", "prompt": "hello world"}).json()["tokens"]
        assert http.post("/detokenize", json={"model": "demo-20b", "tokens": tokens}).json()["prompt"] == "hello world"
        refused = http.post("/v1/embeddings", json={"model": "demo-20b", "input": "x"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
def test_a_call_that_is_approved_while_the_client_waits_leaves_as_if_nothing_had_happened(
    stack: Stack, dialect: str
) -> None:
    key = stack.cli(
        "keys", "create", "--tenant", "default", "--name", f"waits-{dialect}", "--hold-s", "60"
    ).stdout.strip()  # fmt: skip
    turn = [{"role": "user", "content": DELETE}]
    bodies: dict[str, tuple[str, dict[str, object]]] = {
        "chat": ("/v1/chat/completions", {"messages": turn, "tools": [CHAT_TOOL]}),
        "responses": ("/v1/responses", {"input": DELETE, "tools": [FUNCTION]}),
        "messages": ("/v1/messages", {"messages": turn, "tools": [CLIENT_TOOL], "max_tokens": 256}),
    }
    path, body = bodies[dialect]
    with stack.operator() as operator:
        before = {each["id"] for each in operator.get("/v1/approvals").json()["data"]}
        approver = threading.Thread(target=approve_new, args=(stack, before))
        approver.start()
        with httpx2.Client(base_url=stack.url, headers={"authorization": f"Bearer {key}"}, timeout=120) as http:
            reply = http.post(path, json={"model": "auto", "temperature": 0, "stream": True, **body})
        approver.join(60)
    assert reply.status_code == 200
    assert "kubectl delete namespace staging" in reply.text
    assert "[gatehouse:held" not in reply.text


def approve_new(stack: Stack, before: set[str]) -> None:
    with stack.operator() as operator:
        deadline = time.monotonic() + 60
        while not (new := [a for a in operator.get("/v1/approvals").json()["data"] if a["id"] not in before]):
            if time.monotonic() > deadline:
                return
            time.sleep(0.1)
    stack.cli(
        "approvals", "approve", new[0]["id"], "--change-id", "CHG-7", "--rollback", "kubectl apply -f staging.yaml",
        "--verify", "kubectl get namespace staging",
    )  # fmt: skip
