"""Whatever becomes of the calls of a turn, the client's next turn is one that we and the engine's template accept.

A client sends back all that it got, and a result for every call in it. Templates want for every call of an assistant
exactly one result, at once, and no result without its call.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.ingress.dialects.codecs import make_codecs
from deployments.ingress.dialects.values import Codec
from deployments.ports import (
    ApprovalId,
    Denied,
    Dialect,
    Held,
    JsonValue,
    Receipt,
    Released,
    Risk,
    ToolCall,
    Verdict,
    Withheld,
)
from tests.fakes import FRAMING, USAGE, chunk, sse
from tests.unit.ingress.test_chat_stream import drive

CODECS = make_codecs()
RECEIPT = Receipt(3, b"\x03" * 32)
FATES = ("released", "held", "denied", "withheld")
NAMES = ("shell", "apply_patch")
GRAMMAR: dict[str, JsonValue] = {"type": "grammar", "syntax": "lark", "definition": "start: x"}
FUNCTION: dict[str, JsonValue] = {"type": "object"}
TOOLS: dict[Dialect, JsonValue] = {
    Dialect.CHAT: [{"type": "function", "function": {"name": name, "parameters": FUNCTION}} for name in NAMES],
    Dialect.MESSAGES: [{"name": name, "input_schema": FUNCTION} for name in NAMES],
    Dialect.RESPONSES: [
        {"type": "function", "name": "shell", "parameters": FUNCTION},
        {"type": "custom", "name": "apply_patch", "format": GRAMMAR},
        {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "tool", "parameters": FUNCTION}]},
    ],
}  # fmt: skip
CALLS = st.tuples(
    st.sampled_from(FATES),
    st.sampled_from(("shell", "shell", "apply_patch", "ns__tool")),
    st.sampled_from(("{}", '{"command":"ls"}', '{"input":"*** Begin Patch\\n"}', '{"input":5}')),
    st.sampled_from((None, "", "same", "call_0_1", "x" * 300, "\ud800", "fc_1")),
    st.sampled_from((None, None, None, "renamed")),
)


def verdict(call: ToolCall, fate: str) -> Verdict:
    match fate:
        case "released":
            return Released(call, call.arguments, Risk.R0, (), RECEIPT)
        case "held":
            return Held(call, ApprovalId("apr_1"), Risk.R2, ("r",), True, 1, RECEIPT)
        case "denied":
            return Denied(call, "gc_1", Risk.FORBIDDEN, ("never",), RECEIPT)
        case _:
            return Withheld(call, "down")


def request(dialect: Dialect, codec: Codec, items: list[JsonValue], stream: bool = False) -> Any:
    more: dict[str, JsonValue] = (
        {"max_tokens": 99, "thinking": {"type": "adaptive"}} if dialect is Dialect.MESSAGES else {}
    )
    name = "input" if dialect is Dialect.RESPONSES else "messages"
    return codec.read(
        {name: [{"role": "user", "content": "go"}, *items], "tools": TOOLS[dialect], "stream": stream, **more}
    )


def whole(events: bytes) -> bytes:
    """The same reply, unstreamed."""
    message: dict[str, Any] = {"role": "assistant", "content": "", "reasoning": "", "tool_calls": {}}
    finish = "stop"
    for line in events.decode("utf-8", "surrogatepass").split("\n"):
        for choice in json.loads(line[6:])["choices"] if line.startswith("data: {") else ():
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning"] += delta.get("reasoning") or ""
            for piece in delta.get("tool_calls", ()):
                message["tool_calls"].setdefault(piece["index"], piece)
            finish = choice["finish_reason"] or finish
    message["tool_calls"] = list(message["tool_calls"].values())
    return json.dumps({"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}).encode()


def answered(dialect: Dialect, out: bytes, stream: bool) -> tuple[list[JsonValue], int]:
    """What the client adds to the conversation, and how many calls it saw."""
    events = [json.loads(line[6:]) for line in out.decode().split("\n") if line.startswith("data: {")] if stream else []
    body: Any = json.loads(out) if not stream else None
    match dialect:
        case Dialect.RESPONSES:
            items: list[Any] = (events[-1]["response"] if stream else body)["output"]
            calls = [item for item in items if item["type"].endswith("_call")]
            results = [{"type": f"{call['type']}_output", "call_id": call["call_id"], "output": "ok"} for call in calls]
            return [*items, *results], len(calls)
        case Dialect.MESSAGES:
            blocks: list[Any] = [] if stream else body["content"]
            for event in events:
                if event["type"] == "content_block_start":
                    blocks.append(event["content_block"])
                elif event["type"] == "content_block_delta":
                    for key, value in event["delta"].items():
                        if key == "partial_json":
                            blocks[-1]["input"] = json.loads(value)
                        elif key != "type":
                            blocks[-1][key] += value
            ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
            results = [{"type": "tool_result", "tool_use_id": each, "content": "ok"} for each in ids]
            turns: list[JsonValue] = [{"role": "assistant", "content": blocks}] if blocks else []
            return [*turns, {"role": "user", "content": [*results, {"type": "text", "text": "go on"}]}], len(ids)
        case _:
            message: Any = (
                {"role": "assistant", "content": "", "tool_calls": []} if stream else body["choices"][0]["message"]
            )
            for event in events:
                for choice in event["choices"]:
                    message["content"] += choice["delta"].get("content") or ""
                    message["tool_calls"] += choice["delta"].get("tool_calls") or []
            ids = [call["id"] for call in message.get("tool_calls") or []]
            if not ids:
                message.pop("tool_calls", None)
            return [message, *({"role": "tool", "tool_call_id": each, "content": "ok"} for each in ids)], len(ids)


def obeys_the_template(messages: list[Any]) -> bool:
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                return False
            waiting.remove(message["tool_call_id"])
        elif waiting:
            return False
        else:
            waiting = [call["id"] for call in message.get("tool_calls") or ()]
            if len(set(waiting)) != len(waiting):
                return False
    return not waiting


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", TOOLS)
@given(
    calls=st.lists(CALLS, min_size=1, max_size=5),
    text=st.sampled_from(("", "Working.")),
    thought=st.sampled_from(("", "Hm.")),
    leak=st.booleans(),
)
def test_the_next_turn_of_a_client_is_accepted(
    dialect: Dialect, stream: bool, calls: list[Any], text: str, thought: str, leak: bool
) -> None:
    pieces: list[dict[str, Any]] = []
    for index, (_, name, arguments, call_id, change) in enumerate(calls):
        function = {"name": name, "arguments": arguments}
        pieces.append(chunk(tool_calls=[{"index": index, "id": call_id, "type": "function", "function": function}]))
        if change and stream:
            pieces.append(chunk(tool_calls=[{"index": index, "function": {"name": change}}]))
    leaked = "<function=shell>{}</function>" if leak else ""
    data = [chunk(reasoning=thought), chunk(content=text + leaked), *pieces, chunk(finish="tool_calls"), USAGE]
    sent = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in data) + sse("[DONE]")
    codec = CODECS[dialect]
    reply = codec.filter(request(dialect, codec, [], stream), FRAMING)
    fates = iter([*["held"] * leak, *(fate for fate, *_ in calls)])  # a leak is judged first, and by itself
    out, judged = drive(reply, [sent if stream else whole(sent)], lambda call: verdict(call, next(fates)))

    items, seen = answered(dialect, out, stream)
    lawful = 0
    for fate, _, _, _, change in calls:
        if fate != "released" or (change and stream):
            break
        lawful += 1
    assert seen == lawful
    assert len(judged) == len(calls) + leak
    again = request(dialect, codec, items)
    assert obeys_the_template(again.body["messages"])
    told = out.decode().count("[gatehouse:")
    assert told >= len(calls) + leak - lawful
    final = reply.final or json.loads(out if not stream else b"{}")
    extension = final.get("x_gatehouse") or next(
        json.loads(line[6:])["x_gatehouse"] for line in out.decode().split("\n") if '"x_gatehouse"' in line
    )
    assert len(extension.get("held", [])) == len(calls) + leak - lawful == reply.held
    assert '"arguments"' not in json.dumps(extension.get("held", []))
