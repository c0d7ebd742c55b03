"""No byte of a call that is not released leaves, and every other byte does: made-up replies, cut at random places.

Every reply is made of texts (some of them quote the markup of calls), reasoning, and calls of every good and bad kind,
and it ends well or badly. Arguments that must stay hold `MARK`; it is looked for in all that leaves, also encoded, and
in the log. `GATEHOUSE_FRAGMENTATIONS` says how many replies are tried per dialect (the full proof: 5000).
"""

import base64
import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pytest

from deployments.errors import GatehouseError
from deployments.gate.canonical import Canonical, canonicalise
from deployments.ingress.dialects.codecs import make_codecs
from deployments.ingress.dialects.values import Emit, Failure, Judge, ReplyFilter
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
from tests.fakes import FRAMING, USAGE, chunk

TRIALS = int(os.environ.get("GATEHOUSE_FRAGMENTATIONS", "300"))
MARK = "zq7Vx9Kd3Lm"
GOOD, HOLD, DENY, STAY = "read_file", "shell", "drop_table", "web"
TOOLS = (GOOD, HOLD, DENY, STAY)
RECEIPT = Receipt(3, b"\x03" * 32)
FAILURE = Failure("upstream_error", "The model could not answer this request.", b'{"error":{"code":"upstream_error"}}')
CODECS = make_codecs()
TALK: list[JsonValue] = [{"role": "user", "content": "go"}]
SCHEMA: JsonValue = {"type": "object"}
STRANGE = (
    "custom_tool_call", "shell_call", "local_shell_call", "apply_patch_call", "mcp_call", "computer_call", "thing",
    "server_tool_use", "web_search_call", "code_interpreter_call", "mcp_tool_use",
)  # fmt: skip

TEXTS = (
    "Hello. ", "Grüße, 世界 👩\u200d🚀!\n", 'He said "no" \\ and left.\n', "a < b, c[1] = 2, x = functions.map(y)\n",
    "\u2028\ttab\r\n",
    "Use `<tool_call>{\"name\":\"shell\"}</tool_call>` for that.\n",
    '\n```\n<tool_call>\n{"name": "shell", "arguments": {"command": "ls"}}\n</tool_call>\n```\nSo.\n',
    "\n~~~xml\n<invoke name=\"shell\"><parameter name=\"command\">ls</parameter></invoke>\n~~~\nYes.\n",
    "The format is <|channel|>analysis<|message|>thoughts<|end|> and so on.\n",
    "<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}</tool_call> is of another house.\n",
    "[TOOL_CALLS] is a token; <function=other> too; <div class=\"x\">=</div>\n",
)  # fmt: skip
ARGUMENTS = f'{{"command": "cat /etc/{MARK} # ü🚀 \\"}}\\" <"}}'
LEAKS = (
    f"<|channel|>commentary to=functions.shell <|constrain|>json<|message|>{ARGUMENTS}<|call|>",
    f"<|start|>assistant to=functions.shell<|channel|>commentary<|message|>{ARGUMENTS}<|end|>",
    f"<|start|>assistant<|channel|>commentary to=shell code<|message|>rm {MARK}<|call|>",
    f'<tool_call>\n{{"name": "shell", "arguments": {ARGUMENTS}}}\n</tool_call>',
    f'<tool_call>{{"arguments": {ARGUMENTS}, "n\\u0061me": "Shell"}}</tool_call>',
    f'<|tool_call|>[{{"name": "web", "arguments": {ARGUMENTS}}}]',
    f"<function=shell>\n<parameter=command>\nrm {MARK}\n</parameter>\n</function>",
    f"<function=shell>{ARGUMENTS}</function>",
    f'[TOOL_CALLS][{{"name":"shell","arguments":{ARGUMENTS}}}]', f"[TOOL_CALLS]shell[ARGS]{ARGUMENTS}",
    f'<invoke name="shell">\n<parameter name="command">rm {MARK}</parameter>\n</invoke>',
    f"<tool_call>shell\n<arg_key>command</arg_key>\n<arg_value>rm {MARK}</arg_value>\n</tool_call>",
    f"<|tool_call_begin|>functions.shell:0<|tool_call_argument_begin|>{ARGUMENTS}<|tool_call_end|>",
    f'<tool_call>{{"name":"shell","arguments":{{}}}}\n{{"name":"shell","arguments":{ARGUMENTS}}}</tool_call>',
)  # fmt: skip
UNCLOSED = (
    f'<tool_call>{{"name": "shell", "arguments": {{"command": "{MARK}',
    f"<|channel|>commentary to=functions.shell<|message|>{MARK}",
    f"<function=shell>\n<parameter=command>{MARK}",
)


@dataclass
class Call:
    """A call as an engine sends it: `pieces` are the deltas of one index, in order."""

    name: str
    arguments: str
    pieces: list[dict[str, Any]]
    sound: bool = True


@dataclass
class Plan:
    """One choice: what is said, in order, and what is called."""

    said: list[tuple[str, str, bool]] = field(default_factory=list)  # channel, text, may leave
    calls: list[Call] = field(default_factory=list)
    strange: dict[str, Any] = field(default_factory=dict)
    legacy: bool = False
    finish: str = "tool_calls"

    def text(self, channel: str) -> str:
        return "".join(text for where, text, leaves in self.said if where == channel and leaves)

    def released(self) -> list[Call]:
        """What a client gets: the calls before the first one that stays."""
        out: list[Call] = []
        for call in self.calls if self.finish in ("tool_calls", "stop") else ():
            if not (call.sound and call.name == GOOD):
                break
            out.append(call)
        return out


def pieces_of(rng: random.Random, index: int, name: str, arguments: str, call_id: str) -> list[dict[str, Any]]:
    first: dict[str, Any] = {
        "index": index,
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": ""},
    }
    parts = sliced(rng, arguments, 6)
    if rng.random() < 0.3:  # whole in one delta
        first["function"]["arguments"] = arguments
        parts = []
    return [first, *({"index": index, "function": {"arguments": part}} for part in parts)]


def sliced(rng: random.Random, text: str, most: int) -> list[str]:
    places = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(most)))
    edges = [0, *places, len(text)]
    return [text[a:b] for a, b in zip(edges, edges[1:], strict=False) if a < b]


def call_of(rng: random.Random, index: int) -> Call:
    call_id = f"call_{rng.randrange(10**9)}"
    kind = rng.choice(("good", "good", "good", "held", "held", "denied", "withheld", "broken", "twice", "empty", "huge",
                       "renamed", "new id", "custom", "nested", "nameless"))  # fmt: skip
    name, arguments, sound = GOOD, '{"path":"src/ü🚀.py"}', True
    match kind:
        case "held" | "nested":
            name, arguments = HOLD, json.dumps({"command": [ARGUMENTS]}) if kind == "nested" else ARGUMENTS
        case "denied":
            name, arguments = DENY, ARGUMENTS
        case "withheld":
            name, arguments = STAY, ARGUMENTS
        case "broken":
            arguments, sound = f'{{"path": "{MARK}"', False
        case "twice":
            arguments, sound = f'{{"path": "a", "path": "{MARK}"}}', False
        case "empty":
            arguments, sound = "", False
        case "huge":
            name, arguments = HOLD, json.dumps({"command": f"{MARK} " * 4000})
        case "nameless":
            name, arguments = "", ARGUMENTS
        case _:
            pass
    pieces = pieces_of(rng, index, name, arguments, call_id)
    match kind:
        case "renamed":
            pieces.append({"index": index, "function": {"name": HOLD, "arguments": f"{MARK}"}})
            sound = False
        case "new id":
            pieces.append({"index": index, "id": "call_other", "function": {"arguments": f'{{"x":"{MARK}"}}'}})
            sound = False
        case "custom":
            pieces = [{"index": index, "id": call_id, "type": "custom", "custom": {"name": HOLD, "input": MARK}}]
            sound = False
        case _:
            pass
    return Call(name, arguments, pieces, sound)


def plan_of(rng: random.Random) -> Plan:
    plan = Plan()
    for _ in range(rng.randrange(6)):
        channel = rng.choice(("content", "content", "reasoning"))
        if rng.random() < 0.35:
            plan.said += [(channel, rng.choice(LEAKS), False), (channel, rng.choice(("", "\n", " Then. ")), True)]
        else:
            plan.said.append((channel, rng.choice(TEXTS), True))
    plan.calls = [call_of(rng, index) for index in range(rng.choice((0, 1, 1, 2, 3, 4)))]
    if plan.calls and rng.random() < 0.15:
        plan.legacy = True
        name, arguments = rng.choice(((HOLD, ARGUMENTS), (GOOD, '{"path":"a"}')))
        plan.calls = [Call(name, arguments, pieces_of(rng, 0, name, arguments, ""))]
    if rng.random() < 0.2:
        shape = {"name": HOLD, "input": MARK, "action": {"command": [MARK]}}
        plan.strange = {rng.choice(STRANGE): rng.choice((shape, [shape]))}
    plan.finish = rng.choice(("tool_calls", "tool_calls", "stop", "length"))
    if rng.random() < 0.1:
        plan.said.append(("content", rng.choice(UNCLOSED), False))
    return plan


def streamed(rng: random.Random, plan: Plan, index: int) -> list[dict[str, Any]]:
    """The events of one choice. Calls come after, between or before texts; the pieces of several may alternate."""
    texts = [chunk(index, **{channel: part}) for channel, text, _ in plan.said for part in sliced(rng, text, 12)]
    queues = [[*call.pieces] for call in plan.calls]
    calls: list[dict[str, Any]] = []
    while any(queues):
        queue = (
            rng.choice([each for each in queues if each])
            if rng.random() < 0.3
            else next(each for each in queues if each)
        )
        piece = queue.pop(0)
        calls.append(chunk(index, function_call=piece["function"]) if plan.legacy else chunk(index, tool_calls=[piece]))
    events = merged(rng, texts, calls) if rng.random() < 0.5 else [*texts, *calls]
    if plan.strange:
        events.insert(rng.randrange(len(events) + 1), chunk(index, **plan.strange))
    last = chunk(index, plan.finish)
    if events and rng.random() < 0.3:  # the last piece and the end in one event
        last = {**events.pop()}
        last["choices"] = [{**last["choices"][0], "finish_reason": plan.finish}]
    return [chunk(index, role="assistant", content=""), *events, last]


def merged(rng: random.Random, *lists: list[dict[str, Any]]) -> list[dict[str, Any]]:
    queues = [[*each] for each in lists]
    out: list[dict[str, Any]] = []
    while left := [each for each in queues if each]:
        out.append(rng.choice(left).pop(0))
    return out


def whole(plan: Plan) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for channel in ("content", "reasoning"):
        text = "".join(text for where, text, _ in plan.said if where == channel)
        message |= {channel: text} if text else {}
    calls = []
    for call in plan.calls:
        name = call.pieces[0].get("function", {}).get("name", "")
        piece = {
            "id": call.pieces[0].get("id"),
            "type": "function",
            "function": {"name": name, "arguments": call.arguments},
        }
        calls.append(call.pieces[0] if "custom" in call.pieces[0] else piece)
    if plan.legacy:
        message["function_call"] = calls[0]["function"]
    elif calls:
        message["tool_calls"] = calls
    tokens = [{"token": call.arguments, "logprob": 0.0, "bytes": [*call.arguments.encode()]} for call in plan.calls]
    choice = {"index": 0, "message": {**message, **plan.strange}, "finish_reason": plan.finish}
    choice["logprobs"] = {"content": tokens} if tokens else None
    return json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
                       "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()  # fmt: skip


def judge(call: ToolCall) -> Verdict:
    """By the tool's name, and as the gate does by what has a canonical form."""
    canonical = canonicalise(call.arguments)
    if call.name == DENY:
        return Denied(call, "gc_1", Risk.FORBIDDEN, ("never",), RECEIPT)
    if call.name == STAY or not isinstance(canonical, Canonical):
        return Withheld(call, "The audit log does not answer.")
    if call.name == GOOD:
        return Released(call, canonical.text, Risk.R0, (), RECEIPT)
    return Held(call, ApprovalId("apr_1"), Risk.R2, ("k8s.delete",), True, 1_767_225_600_000, RECEIPT)


@dataclass
class Seen:
    data: bytes
    failed: bool
    judged: list[ToolCall]
    reply: ReplyFilter


def played(reply: ReplyFilter, pieces: list[bytes]) -> Seen:
    out: list[bytes] = []
    judged: list[ToolCall] = []
    failed = False

    def steps() -> None:
        while (step := reply.step()) is not None:
            match step:
                case Emit():
                    out.append(step.data)
                case Judge():
                    judged.extend(step.calls)
                    reply.resolve([judge(call) for call in step.calls])

    reply.receipt(RECEIPT)
    try:
        for piece in pieces:
            reply.feed(piece)
            steps()
        reply.close()
        steps()
    except GatehouseError as error:
        failed = True
        logging.getLogger("test").warning("%s", error)
        out.append(reply.failed(FAILURE))
    return Seen(b"".join(out), failed, judged, reply)


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 3, 9, 40))))
    edges = [0, *places, len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def forms_of_the_mark() -> list[str]:
    """How it could leave: as it is, backwards, in hexadecimal, and in base64 at any offset."""
    bases = [base64.b64encode(b"x" * pad + MARK.encode()).decode()[4 * (pad > 0) : -4] for pad in range(3)]
    return [MARK, MARK[::-1], MARK.encode().hex(), MARK[:8], *(base for base in bases if len(base) >= 8)]


def traces(data: bytes | str) -> list[str]:
    """What is found of the mark, however it is escaped."""
    text = data.decode() if isinstance(data, bytes) else data
    read = [text, unquote(text), text.encode().decode("unicode_escape", "replace")]
    return [form for form in forms_of_the_mark() for each in read if form.lower() in each.lower()]


# --- what a client reads ---------------------------------------------------------------------------------------------


@dataclass
class Read:
    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)


def events(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.decode().split("\n"):
        if line.startswith("data: {"):
            yield json.loads(line[6:])


def read_chat(data: bytes, stream: bool, index: int = 0) -> Read:
    out = Read()
    if not stream:
        message = json.loads(data)["choices"][0]["message"]
        deltas = [message]
    else:
        chosen = [choice for event in events(data) for choice in event.get("choices", ()) if choice["index"] == index]
        deltas = [choice["delta"] for choice in chosen]
    for delta in deltas:
        out.content += delta.get("content") or ""
        out.reasoning += delta.get("reasoning_content") or ""
        out.calls += [(c["function"]["name"], c["function"]["arguments"]) for c in delta.get("tool_calls") or ()]
        assert "reasoning" not in delta
        assert "function_call" not in delta
    return out


def read_responses(data: bytes, stream: bool) -> Read:
    out = Read()
    if not stream:
        for item in json.loads(data)["output"]:
            if item["type"] == "function_call":
                out.calls.append((item["name"], item["arguments"]))
            else:
                text = "".join(part["text"] for part in item["content"])
                out.content += text if item["type"] == "message" else ""
                out.reasoning += text if item["type"] == "reasoning" else ""
        return out
    for event in events(data):
        match event.get("type"):
            case "response.output_text.delta":
                out.content += event["delta"]
            case "response.reasoning_text.delta":
                out.reasoning += event["delta"]
            case "response.output_item.done" if event["item"]["type"] == "function_call":
                out.calls.append((event["item"]["name"], event["item"]["arguments"]))
            case _:
                pass
    return out


def read_messages(data: bytes, stream: bool) -> Read:
    out = Read()
    if not stream:
        for block in json.loads(data)["content"]:
            out.content += block.get("text", "")
            out.reasoning += block.get("thinking", "")
            if block["type"] == "tool_use":
                out.calls.append((block["name"], json.dumps(block["input"], ensure_ascii=False, separators=(",", ":"))))
        return out
    names: list[str] = []
    for event in events(data):
        if event.get("type") == "content_block_start" and event["content_block"]["type"] == "tool_use":
            names.append(event["content_block"]["name"])
        delta = event.get("delta", {})
        out.content += delta.get("text", "")
        out.reasoning += delta.get("thinking", "")
        if delta.get("type") == "input_json_delta":
            out.calls.append((names[-1], delta["partial_json"]))
    return out


def made(dialect: Dialect, stream: bool) -> Callable[[], ReplyFilter]:
    match dialect:
        case Dialect.RESPONSES:
            tools: list[JsonValue] = [{"type": "function", "name": name, "parameters": SCHEMA} for name in TOOLS]
            body: dict[str, JsonValue] = {"input": "go", "tools": tools}
        case Dialect.MESSAGES:
            named: list[JsonValue] = [{"name": name, "input_schema": SCHEMA} for name in TOOLS]
            body = {"messages": TALK, "max_tokens": 9, "thinking": {"type": "adaptive"}, "tools": named}
        case _:
            functions: list[JsonValue] = [
                {"type": "function", "function": {"name": n, "parameters": SCHEMA}} for n in TOOLS
            ]
            body = {"messages": TALK, "tools": functions}
    asked = CODECS[dialect].read({**body, "stream": stream})
    return lambda: CODECS[dialect].filter(asked, FRAMING)


READERS = {Dialect.CHAT: read_chat, Dialect.RESPONSES: read_responses, Dialect.MESSAGES: read_messages}


def check(plan: Plan, read: Read, complete: bool) -> None:
    """What a client has read is what the plan lets it read, in order, and nothing else but notices."""
    content, expected = read.content, plan.text("content")
    wanted = [(call.name, canonical_text(call.arguments)) for call in plan.released()]
    if complete:
        assert content.startswith(expected)
        rest = content.removeprefix(expected).strip("\n")
        assert all(line.startswith("[gatehouse:") for line in rest.split("\n") if line), rest
        assert read.reasoning == plan.text("reasoning")
        assert read.calls == wanted
    else:
        assert expected.startswith(content.partition("[gatehouse:")[0].rstrip("\n")) or content.startswith(expected)
        assert plan.text("reasoning").startswith(read.reasoning)
        assert read.calls in ([], wanted)  # the engine may have died after the last call


def canonical_text(arguments: str) -> str:
    canonical = canonicalise(arguments)
    assert isinstance(canonical, Canonical)
    return canonical.text


def spoilt(rng: random.Random, data: bytes) -> tuple[bytes, bool]:
    """The stream, and whether it is still whole: some break off, and some end in an engine's error."""
    match rng.random():
        case x if x < 0.12:
            return data[: rng.randrange(len(data) - len(b"data: [DONE]\n\n"))], False
        case x if x < 0.2:
            error = b'data: {"error": {"message": "EngineCore died", "code": 500}}\n\ndata: [DONE]\n\n'
            open_ = data.replace(b'"finish_reason": "', b'"finish_reason":"').partition(b'"finish_reason":"')[0]
            ends = [at + 2 for at in range(len(open_)) if data[at : at + 2] == b"\n\n"]
            return data[: rng.choice(ends)] + error, False
        case _:
            return data, True


def encoded(rng: random.Random, chunks: list[dict[str, Any]]) -> bytes:
    ascii_only, compact = rng.random() < 0.3, rng.random() < 0.7
    separators = (",", ":") if compact else (", ", ": ")
    lines = [json.dumps(each, ensure_ascii=ascii_only, separators=separators) for each in (*chunks, USAGE)]
    return b"".join(b"data: " + line.encode() + b"\n\n" for line in (*lines, "[DONE]"))


@pytest.mark.parametrize("dialect", READERS)
def test_a_stream_cut_anywhere_says_all_of_its_text_and_nothing_of_a_call_that_stays(
    dialect: Dialect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    make = made(dialect, stream=True)
    rng = random.Random(f"{dialect.value} stream")
    kinds: set[str] = set()
    for trial in range(TRIALS):
        plan = plan_of(rng)
        data, complete = spoilt(rng, encoded(rng, streamed(rng, plan, 0)))
        seen = played(make(), cut(rng, data))
        assert seen.failed is not complete, trial
        assert traces(seen.data) == [], trial
        check(plan, READERS[dialect](seen.data, True), complete)
        kinds.update(seen.reply.withheld)
        held = sum(name in seen.data.decode() for name in ("[gatehouse:held", "[gatehouse:denied", "[gatehouse:"))
        assert bool(seen.reply.held) == bool(held) or not complete, trial
    assert traces(caplog.text) == []
    assert kinds >= {"leaked", "unknown_item", "broken", "truncated"}


@pytest.mark.parametrize("dialect", READERS)
def test_a_whole_reply_says_all_of_its_text_and_nothing_of_a_call_that_stays(dialect: Dialect) -> None:
    make = made(dialect, stream=False)
    rng = random.Random(f"{dialect.value} whole")
    for trial in range(TRIALS):
        plan = plan_of(rng)
        for call in plan.calls:  # what only a stream can get wrong
            call.sound = call.sound or len(call.pieces[0]) == 3
            name = call.pieces[0].get("function", {}).get("name", "")
            changed = any("id" in piece or "name" in piece.get("function", {}) for piece in call.pieces[1:])
            call.sound = (call.sound or changed) and name == call.name
        seen = played(make(), cut(rng, whole(plan)))
        assert not seen.failed, trial
        assert traces(seen.data) == [], trial
        check(plan, READERS[dialect](seen.data, False), complete=True)


def test_choices_side_by_side_are_judged_each_by_itself() -> None:
    codec = CODECS[Dialect.CHAT]
    functions: list[JsonValue] = [{"type": "function", "function": {"name": n, "parameters": SCHEMA}} for n in TOOLS]
    asked = codec.read({"messages": TALK, "tools": functions, "stream": True, "n": 3})
    rng = random.Random("choices")
    for trial in range(TRIALS):
        plans = [plan_of(rng) for _ in range(3)]
        chunks = merged(rng, *(streamed(rng, plan, index) for index, plan in enumerate(plans)))
        seen = played(codec.filter(asked, FRAMING), cut(rng, encoded(rng, chunks)))
        assert not seen.failed, trial
        assert traces(seen.data) == [], trial
        for index, plan in enumerate(plans):
            check(plan, read_chat(seen.data, True, index), complete=True)


@pytest.mark.parametrize("stream", [True, False])
def test_a_completion_is_its_text_and_nothing_that_looks_like_a_call(stream: bool) -> None:
    codec = CODECS[Dialect.COMPLETIONS]
    asked = codec.read({"prompt": "x", "stream": stream})
    rng = random.Random("completions")
    for trial in range(TRIALS):
        texts = [rng.choice(TEXTS) for _ in range(rng.randrange(5))]
        strange: dict[str, Any] = {
            rng.choice(("tool_calls", "shell_call", "thing")): [{"name": HOLD, "arguments": MARK}]
        }
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None, **strange}
        if stream:
            parts = [part for text in texts for part in sliced(rng, text, 9)]
            chunks = [{"id": "c", "choices": [{"index": 0, "text": part, "finish_reason": None}]} for part in parts]
            data = encoded(rng, [*chunks, {"id": "c", "choices": [{**choice, "text": ""}]}])
        else:
            data = json.dumps({"id": "c", "choices": [{**choice, "text": "".join(texts)}]}).encode()
        seen = played(codec.filter(asked, FRAMING), cut(rng, data))
        assert not seen.failed, trial
        assert traces(seen.data) == [], trial
        bodies = list(events(seen.data)) if stream else [json.loads(seen.data)]
        assert "".join(each["text"] for body in bodies for each in body["choices"]) == "".join(texts)
        assert len(seen.reply.withheld) == 1


def test_the_search_for_the_mark_finds_it_however_it_is_written() -> None:
    for form in (
        MARK, json.dumps(MARK), "".join(f"%{ord(c):02x}" for c in MARK), "".join(f"\\u{ord(c):04x}" for c in MARK),
        MARK.encode().hex(), *(base64.b64encode(b"y" * pad + MARK.encode() + b"z").decode() for pad in range(6)),
    ):  # fmt: skip
        assert traces(f'data: {{"x":"{form}"}}'), form
