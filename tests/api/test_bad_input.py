"""Bodies that are wrong in every way we could think of, in every dialect.

Whatever arrives, the reply is a 4xx in the words of the dialect; it names the field and never repeats its value; no
engine hears of it; nothing of the body stays in memory; and others are served meanwhile.
"""

import asyncio
import copy
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.ingress.settings import IngressSettings
from serve_app.api.bodies import Intake
from serve_app.api.factory import create_api
from tests.api.answering import EMBEDDER, OTHER, answering, surface_of
from tests.fakes import KEY, World

SECRET = "s3cr3t-5f1c0de"
TALK = [{"role": "user", "content": "go"}]
RESULT = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "ok"}]}
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "auto",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "List the files."}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "a b"},
        ],
        "tools": [{"type": "function", "function": {"name": "ls", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "temperature": 0.5,
        "max_tokens": 16,
        "stop": ["x"],
        "n": 1,
        "stream": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
        "metadata": {"user_id": '{"session_id":"s"}'},
        "logit_bias": {"5": 1},
    },
    "/v1/completions": {
        "model": "auto", "prompt": "def f(", "suffix": "return 1", "max_tokens": 8, "temperature": 0, "stop": ["x"],
        "stream": True, "stream_options": {"include_usage": True},
    },
    "/v1/responses": {
        "model": "auto",
        "instructions": "Be brief.",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List the files."}]},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}], "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "ls", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "a"}]},
        ],
        "tools": [
            {"type": "function", "name": "ls", "parameters": {"type": "object"}},
            {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
            {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn"}]},
        ],
        "tool_choice": {"type": "function", "name": "ls"},
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "text"}},
        "include": ["reasoning.encrypted_content"],
        "metadata": {"a": "b"},
        "store": False,
    },
    "/v1/messages": {
        "model": "auto",
        "max_tokens": 16,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": "List the files."},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "ls", "input": {}}]},
            {"role": "user", "content": [RESULT, {"type": "text", "text": "go on"}]},
        ],
        "tools": [{"name": "ls", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "metadata": {"user_id": "u"},
        "stop_sequences": ["x"],
    },
    "/v1/messages/count_tokens": {"model": "auto", "messages": TALK, "tools": [], "system": "Be brief."},
    "/v1/embeddings": {"model": EMBEDDER, "input": ["one", "two"], "encoding_format": "float", "dimensions": 2},
    "/tokenize": {"messages": TALK, "tools": [{"type": "function", "function": {"name": "ls"}}]},
    "/detokenize": {"tokens": [1, 2]},
    "/v1/route": {"messages": TALK, "model": "auto", "risk": "R1", "tools": []},
}  # fmt: skip
GENERATING = [path for path in VALID if path.startswith("/v1/") and path not in ("/v1/route",)]
WINDOWED = [path for path in GENERATING if not path.endswith(("count_tokens", "embeddings"))]
Chunks = list[bytes | None]


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    taken: int
    """How many chunks of the request were read."""


class Server:
    """The app and the memory it holds for bodies."""

    def __init__(self, world: World, intakes: list[Intake]) -> None:
        self.world = world
        self.surface = surface_of(world)
        self.app = create_api(self.surface)
        (self.intake,) = intakes

    @property
    def held(self) -> int:
        return self.intake._held_bytes

    async def send(
        self,
        path: str,
        chunks: Chunks,
        rest: Callable[[], Awaitable[dict[str, Any]]] | None = None,
        key: str = KEY,
        **headers: str,
    ) -> Reply:
        """One request whose body arrives in chunks; None among them is a hang-up. `rest` answers when all are read."""
        sent: list[dict[str, Any]] = []
        taken = 0

        async def receive() -> dict[str, Any]:
            nonlocal taken
            if taken < len(chunks):
                chunk = chunks[taken]
                taken += 1
                if chunk is None:
                    return {"type": "http.disconnect"}
                more = rest is not None or taken < len(chunks)
                return {"type": "http.request", "body": chunk, "more_body": more}
            if rest is not None:
                return await rest()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        named = {"authorization": f"Bearer {key}", "content_type": "application/json", **headers}
        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "scheme": "http", "http_version": "1.1", "server": ("t", 80), "client": ("c", 1),
            "headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in named.items()],
        }  # fmt: skip
        await self.app(scope, receive, send)
        await self.surface.journey.drain()
        head = sent[0]
        found = {name.decode(): value.decode("latin-1") for name, value in head["headers"]}
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return Reply(head["status"], found, body, taken)

    async def post(self, path: str, body: object, **headers: str) -> Reply:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send(path, [raw], **headers)

    def engine_calls(self) -> int:
        return len(self.world.engine.calls) + len(self.world.strong.calls)


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, **limits: Any) -> Iterator[Server]:
    intakes: list[Intake] = []

    class Seen(Intake):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            intakes.append(self)

    with monkeypatch.context() as patch:
        patch.setattr("serve_app.api.factory.Intake", Seen)
        server = Server(answering(settings=IngressSettings(record_delay_s=0, **limits)), intakes)
    yield server
    assert server.held == 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as made:
        yield made


def refused(path: str, reply: Reply, status: int | None = 400) -> str:
    """The message of an error that is final and has the shape of its dialect."""
    assert status is None or reply.status == status, reply.body[:500]
    assert 400 <= reply.status < 500, reply.body[:500]
    assert reply.headers["x-request-id"]
    assert reply.headers["x-should-retry"] == "false"
    assert reply.headers["content-type"] == "application/json"
    body = json.loads(reply.body)
    if path.startswith("/v1/messages"):
        assert body["type"] == "error"
        assert body["request_id"] == reply.headers["x-request-id"]
        assert set(body["error"]) == {"type", "message"}
    else:
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert isinstance(body["error"]["code"], str)
    assert len(reply.body) < 20_000
    message = body["error"]["message"]
    assert isinstance(message, str)
    for word in ("Traceback", 'File "', "pydantic", "Error:", "0x", "site-packages"):
        assert word not in message
    return message


each_path = pytest.mark.parametrize("path", VALID)


@each_path
async def test_the_bodies_that_are_spoilt_here_are_good(path: str, server: Server) -> None:
    reply = await server.post(path, VALID[path])
    assert reply.status == 200, reply.body


# --- bytes that are no JSON, or too much of it

MALFORMED = {
    "nothing": b"",
    "no JSON": b"{nope",
    "a number": b"1",
    "a list": b"[]",
    "null": b"null",
    "cut off": b'{"messages":[{"role":"user","con',
    "two values": b"{}{}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "half a character": b'{"a":"\xc3"}',
    "a surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "an overlong character": b'{"a":"\xc0\xaf"}',
    "a raw NUL": b'{"a":"\x00"}',
    "a raw line end": b'{"a":"\n"}',
    "duplicate keys": b'{"a":1,"a":1}',
    "duplicate keys inside": b'{"a":[{"b":1,"b":2}]}',
    "duplicate keys by an escape": b'{"a":1,"\\u0061":2}',
    "duplicate keys that are no text": b'{"\\ud800":1,"\\udbff":2}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b'{"a":[-Infinity]}',
    "a float beyond all": b'{"a":1e999}',
    "an integer of 5,000 digits": b'{"a":' + b"9" * 5000 + b"}",
    "65 levels": b'{"a":' + b"[" * 65 + b"]" * 65 + b"}",
    "100,000 brackets": b"[" * 100_000,
    "100,000 objects": b'{"a":' * 100_000,
    "100,000 brackets closed": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_not_one_json_object_is_refused_everywhere(body: bytes, server: Server) -> None:
    for path in VALID:
        refused(path, await server.post(path, body))
    assert server.engine_calls() == 0


async def test_64_levels_are_not_too_deep(server: Server) -> None:
    schema: dict[str, Any] = {}
    for _ in range(58):
        schema = {"a": schema}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert (await server.post("/v1/chat/completions", {"messages": TALK, "tools": [tool]})).status == 200


HEADERS = {
    "compressed": {"content_encoding": "gzip"},
    "compressed twice": {"content_encoding": "br, gzip"},
    "a form": {"content_type": "multipart/form-data; boundary=x"},
    "XML": {"content_type": "application/xml"},
    "bytes": {"content_type": "application/octet-stream"},
    "another charset": {"content_type": "application/json; charset=utf-16"},
    "no type at all": {"content_type": "json"},
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS.keys())
async def test_another_encoding_is_refused_before_the_body_is_read(headers: dict[str, str], server: Server) -> None:
    for path in VALID:
        reply = await server.post(path, VALID[path], **headers)
        refused(path, reply)
        assert reply.taken == 0
    assert server.engine_calls() == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "application/json; charset=UTF-8"},
        {"content_type": 'application/json; charset="utf-8"; profile=x'},
        {"content_type": "application/vnd.api+json"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": ""},
        {"content_encoding": "identity"},
        {"content_length": "\xb2"},
        {"content_length": "9" * 5000 + "x"},
    ],
)
async def test_json_under_another_name_is_taken(headers: dict[str, str], server: Server) -> None:
    assert (await server.post("/v1/chat/completions", VALID["/v1/chat/completions"], **headers)).status == 200


# --- fields that are wrong

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.just(SECRET),
    st.text(max_size=20).map(lambda text: f"{SECRET}{text}"),
    st.sampled_from(["", "\x00", "\ud800", "R9", "function", "text", "none", "[" * 3000, "9" * 6000, "a" * 300]),
    st.recursive(
        st.just(SECRET) | st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
    ),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a body something can be put, from the outside in."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(value[key], (*at, key))


@st.composite
def spoilt(draw: st.DrawFn, path: str) -> tuple[dict[str, Any], bool]:
    """A valid body with one to three things changed; and whether a secret stands where no error may quote it."""
    body = copy.deepcopy(VALID[path])
    quiet = True
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(body))
        if not found:
            break
        place = draw(st.sampled_from(found))
        holder: Any = body
        for key in place[:-1]:
            holder = holder[key]
        match draw(st.sampled_from(["put", "put", "put", "drop", "add", "rename"])):
            case "put":
                holder[place[-1]] = draw(JUNK)
                # The model and the type of a tool or a block are named in an error: they are what it is about.
                quiet &= place[-1] not in ("model", "type")
            case "drop":
                del holder[place[-1]]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = holder.pop(place[-1])
            case _ if isinstance(holder, dict):
                holder[draw(st.sampled_from(["extra", "chat_template", "priority", "\x00", "x" * 3000]))] = draw(JUNK)
            case _:
                holder.append(draw(JUNK))
    return body, quiet and '"type": "' + SECRET not in json.dumps(body)


@each_path
def test_a_spoilt_body_is_answered_or_refused_by_name(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with asyncio.Runner() as runner, serving(monkeypatch) as server:

        @settings(max_examples=150, derandomize=True, database=None, deadline=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(spoilt(path))
        def ask(case: tuple[dict[str, Any], bool]) -> None:
            body, quiet = case
            reply = runner.run(server.post(path, body))
            if reply.status == 200:
                reply.body.decode("utf-8")
                return
            message = refused(path, reply, status=None)
            if quiet:
                assert SECRET not in message
            assert server.held == 0

        ask()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/route"])
async def test_a_session_that_is_deeply_nested_names_none(path: str, server: Server) -> None:
    body = {**VALID[path], "metadata": {"user_id": "[" * 100_000}}
    assert (await server.post(path, body)).status == 200


@each_path
async def test_the_name_of_a_field_is_not_repeated_without_end(path: str, server: Server) -> None:
    reply = await server.post(path, {**VALID[path], "x" * 1_000_000: 1})
    if path == "/v1/route":  # takes what it does not know
        assert reply.status == 200
    else:
        refused(path, reply)


# --- text that UTF-8 cannot spell


@pytest.mark.parametrize("path", GENERATING)
async def test_half_a_character_reaches_the_engine_as_the_sign_for_no_character(path: str, server: Server) -> None:
    text = json.dumps(VALID[path]).replace("List the files.", "List \\ud83d").replace('"one"', '"o\\udc00ne"')
    text = text.replace("def f(", "def \\ud83d").replace('"go"', '"g\\ud83do"').replace("Be brief.", "\\udfff")
    reply = await server.post(path, text.encode())
    assert reply.status == 200
    reply.body.decode("utf-8")
    sent = server.world.engine.calls[-1].body.decode("utf-8")
    assert "�" in json.dumps(json.loads(sent), ensure_ascii=False)


async def test_a_model_whose_name_is_no_text_never_reaches_the_ledger_as_it_is(server: Server) -> None:
    reply = await server.post("/v1/chat/completions", b'{"model":"\\ud800","messages":[{"role":"user","content":"x"}]}')
    refused("/v1/chat/completions", reply, 404)
    for grant in server.world.ledger.grants.values():
        grant.model.encode("utf-8")


@pytest.mark.parametrize("path", WINDOWED)
async def test_whole_emoji_and_escaped_nul_are_text_like_any_other(path: str, server: Server) -> None:
    body = (
        json.dumps(VALID[path]).replace("List the files.", "\\ud83d\\ude80 \\u0000").replace("def f(", "\\ud83d\\ude80")
    )
    assert (await server.post(path, body.encode())).status == 200
    assert "🚀" in json.dumps(server.world.engine.body, ensure_ascii=False)


# --- large things


def tools(path: str, schemas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    named = [(f"tool_{number}", schema) for number, schema in enumerate(schemas)]
    match path:
        case "/v1/chat/completions":
            return [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in named]
        case "/v1/responses":
            return [{"type": "function", "name": name, "parameters": schema} for name, schema in named]
        case _:
            return [{"name": name, "input_schema": schema} for name, schema in named]


def talk(path: str) -> dict[str, Any]:
    return {"input": "go"} if path == "/v1/responses" else {"messages": TALK, "max_tokens": 9}


WITH_TOOLS = ["/v1/chat/completions", "/v1/responses", "/v1/messages"]


@pytest.mark.parametrize("path", WITH_TOOLS)
async def test_five_thousand_tools_are_read_and_their_schemas_counted(path: str, server: Server) -> None:
    offered = tools(path, [{"type": "object"}] * 5000)
    message = refused(path, await server.post(path, {**talk(path), "tools": offered}))
    assert "4096" in message
    offered[-1] = {**offered[-1], "type": 7}
    refused(path, await server.post(path, {**talk(path), "tools": offered}))
    assert server.engine_calls() == 0


@pytest.mark.parametrize("path", WITH_TOOLS)
async def test_a_schema_of_a_megabyte_is_too_long_for_the_window(path: str, server: Server) -> None:
    schema = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(40_000)}}
    assert "4096" in refused(path, await server.post(path, {**talk(path), "tools": tools(path, [schema])}))
    assert server.engine_calls() == 0


@pytest.mark.parametrize("path", WINDOWED)
async def test_a_text_of_ten_megabytes_is_too_long_for_the_window(path: str, server: Server) -> None:
    text = (
        json.dumps(VALID[path]).replace("List the files.", "word " * 2_000_000).replace("def f(", "word " * 2_000_000)
    )
    refused(path, await server.post(path, text.encode()))
    assert server.engine_calls() == 0


TOO_LARGE = {path: 400 if path == "/v1/responses" else 413 for path in VALID}


@each_path
async def test_a_body_over_the_limit_is_read_no_further(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, max_body_bytes=4096) as server:
        announced = await server.send(path, [b"{" * 5000], content_length="5000")
        assert "4096 bytes" in refused(path, announced, TOO_LARGE[path])
        assert announced.taken == 0
        silent = await server.send(path, [b" " * 1000] * 100)
        assert "4096 bytes" in refused(path, silent, TOO_LARGE[path])
        assert silent.taken == 5
        lying = await server.send(path, [b" " * 1000] * 100, content_length="10")
        refused(path, lying, TOO_LARGE[path])
        assert lying.taken == 5


# --- bodies that do not come


@pytest.mark.parametrize("path", GENERATING)
async def test_a_body_that_trickles_is_given_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, body_timeout_s=0.02) as server:
        raw = json.dumps(VALID[path]).encode()
        bytes_sent = iter(raw)

        async def drip() -> dict[str, Any]:
            await asyncio.sleep(0.001)
            return {"type": "http.request", "body": bytes([next(bytes_sent)]), "more_body": True}

        assert "did not arrive" in refused(path, await server.send(path, [], rest=drip))
        assert server.engine_calls() == 0


@each_path
async def test_a_hang_up_in_the_body_leaves_nothing_behind(path: str, server: Server) -> None:
    raw = json.dumps(VALID[path]).encode()
    reply = await server.send(path, [raw[:20], None])
    refused(path, reply)
    assert server.engine_calls() == 0
    assert not server.world.ledger.grants


@pytest.mark.parametrize("path", GENERATING)
async def test_others_are_served_while_a_body_does_not_come(path: str, server: Server) -> None:
    begun, gone = asyncio.Event(), asyncio.Event()
    raw = json.dumps(VALID[path]).encode()

    async def never() -> dict[str, Any]:
        begun.set()
        await gone.wait()
        return {"type": "http.disconnect"}

    slow = asyncio.create_task(server.send(path, [raw[:20]], rest=never))
    await begun.wait()
    assert server.held == 20
    assert (await server.send(path, [raw], key=OTHER)).status == 200
    assert not slow.done()
    gone.set()
    refused(path, await slow)


FULL = {"/v1/responses": 429, "/v1/messages": 529, "/v1/messages/count_tokens": 529}


@pytest.mark.parametrize("path", GENERATING)
async def test_bodies_that_wait_together_hold_no_more_than_the_limit(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(monkeypatch, max_body_bytes=8192, max_held_bytes=8192) as server:
        begun, gone = asyncio.Event(), asyncio.Event()

        async def never() -> dict[str, Any]:
            begun.set()
            await gone.wait()
            return {"type": "http.disconnect"}

        large = asyncio.create_task(server.send(path, [b" " * 8190], rest=never))
        await begun.wait()
        raw = json.dumps(VALID[path]).encode()
        busy = await server.send(path, [raw], key=OTHER)
        assert busy.status == FULL.get(path, 503)
        assert int(busy.headers["retry-after"]) > 0
        assert server.held == 8190
        gone.set()
        await large
        assert (await server.send(path, [raw], key=OTHER)).status == 200


async def test_a_stranger_may_send_nothing(server: Server) -> None:
    for path in VALID:
        reply = await server.send(path, [b"{" * 1000], key="gh-nobody")
        refused(path, reply, 401)
        assert reply.taken == 0
