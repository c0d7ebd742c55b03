"""What the official SDKs make of our replies: every field of their types is there, errors are of the right class.

The clients validate strictly (`_strict_response_validation`), which they do not by default. They retry as they come: a
final refusal must cost one request, the others are tried again after the time we name.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import Message as AnthropicMessage
from pydantic import BaseModel

from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout
from deployments.ingress.settings import IngressSettings
from deployments.ports import Scope
from serve_app.api.factory import create_api
from tests.api.answering import DANGEROUS, EMBEDDER, SAFE, TOOL, AnsweringEngine, answering, surface_of
from tests.fakes import KEY, SSE_START, ScriptedEngine, World, chunk, json_reply, sse

TALK: Any = [{"role": "user", "content": "go"}]
CHAT_TOOLS: Any = [{"type": "function", "function": {"name": TOOL, "parameters": {"type": "object"}}}]
RESPONSES_TOOLS: Any = [{"type": "function", "name": TOOL, "parameters": {"type": "object"}, "strict": False}]
MESSAGES_TOOLS: Any = [{"name": TOOL, "input_schema": {"type": "object"}}]
CALLS = {"none": (), "one": (SAFE,), "two": (SAFE, SAFE), "one held": (SAFE, DANGEROUS), "all held": (DANGEROUS,)}
each_case = pytest.mark.parametrize("calls", CALLS.values(), ids=CALLS.keys())


class Counting(httpx2.ASGITransport):
    """Counts the requests that a client sends."""

    def __init__(self, app: Any) -> None:
        super().__init__(app, raise_app_exceptions=False)
        self.requests = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests += 1
        return await super().handle_async_request(request)


class Sdks:
    """Both clients of one world."""

    def __init__(self, world: World, transport: Counting, http: httpx2.AsyncClient, key: str) -> None:
        self.world = world
        self.transport = transport
        self.openai = openai.AsyncOpenAI(
            api_key=key, base_url="http://test/v1", http_client=http, _strict_response_validation=True
        )
        # By OpenAI's types no event of a completions stream may do without a finish reason; OpenAI's own do.
        self.lenient = openai.AsyncOpenAI(api_key=key, base_url="http://test/v1", http_client=http)
        self.anthropic = anthropic.AsyncAnthropic(
            api_key=key, base_url="http://test", http_client=http, _strict_response_validation=True
        )


@asynccontextmanager
async def sdks(world: World, key: str = KEY) -> AsyncIterator[Sdks]:
    surface = surface_of(world)
    transport = Counting(create_api(surface))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        yield Sdks(world, transport, http, key)
    await surface.journey.drain()


async def test_the_clients_here_refuse_a_reply_that_lacks_a_field() -> None:
    reply = {"object": "chat.completion", "created": 1, "model": "x", "choices": []}
    async with httpx2.AsyncClient(
        transport=httpx2.MockTransport(lambda _: httpx2.Response(200, json=reply)), base_url="http://test"
    ) as http:
        sdk = openai.AsyncOpenAI(api_key=KEY, http_client=http, _strict_response_validation=True)
        with pytest.raises(openai.APIResponseValidationError):
            await sdk.chat.completions.create(model="auto", messages=TALK)


# --- chat


@each_case
async def test_chat_whole(calls: Sequence[str]) -> None:
    async with sdks(answering(AnsweringEngine(*calls))) as sdk:
        reply = await sdk.openai.chat.completions.create(model="auto", messages=TALK, tools=CHAT_TOOLS)
    (choice,) = reply.choices
    released = [call.function.arguments for call in choice.message.tool_calls or () if call.type == "function"]
    assert released == list(before_held(calls))
    assert choice.finish_reason == ("tool_calls" if released else "stop")
    assert choice.message.model_extra is not None
    assert choice.message.model_extra["reasoning_content"]
    assert ("[gatehouse:held" in (choice.message.content or "")) is (DANGEROUS in calls)


@each_case
async def test_chat_streamed(calls: Sequence[str]) -> None:
    async with sdks(answering(AnsweringEngine(*calls))) as sdk:
        stream = await sdk.openai.chat.completions.create(
            model="auto", messages=TALK, tools=CHAT_TOOLS, stream=True, stream_options={"include_usage": True}
        )
        chunks = [each async for each in stream]
    deltas = [each.choices[0].delta for each in chunks if each.choices]
    released = [call.function.arguments for delta in deltas for call in delta.tool_calls or () if call.function]
    assert released == list(before_held(calls))
    assert chunks[-1].usage is not None
    assert len({each.id for each in chunks}) == 1


@each_case
async def test_chat_with_the_streaming_helper(calls: Sequence[str]) -> None:
    async with (
        sdks(answering(AnsweringEngine(*calls))) as sdk,
        sdk.openai.chat.completions.stream(model="auto", messages=TALK, tools=CHAT_TOOLS) as stream,
    ):
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert ("tool_calls.function.arguments.done" in kinds) is bool(before_held(calls))
    found = final.choices[0].message.tool_calls or []
    assert [call.function.arguments for call in found] == list(before_held(calls))
    assert (final.choices[0].message.content or "").startswith("Hello")


class Answer(BaseModel):
    value: int


async def test_chat_parsed_into_a_model() -> None:
    async with sdks(answering(scripted(json_reply('{"value":42}')))) as sdk:
        reply = await sdk.openai.chat.completions.parse(model="auto", messages=TALK, response_format=Answer)
    assert reply.choices[0].message.parsed == Answer(value=42)
    schema: Any = sdk.world.engine.body["response_format"]
    assert schema["json_schema"]["schema"]["required"] == ["value"]


# --- completions, embeddings, models


async def test_completions() -> None:
    async with sdks(answering()) as sdk:
        whole = await sdk.openai.completions.create(model="auto", prompt="go")
        assert whole.choices[0].text == "abc"
        stream = await sdk.lenient.completions.create(
            model="auto", prompt="go", stream=True, stream_options={"include_usage": True}
        )
        chunks = [each async for each in stream]
    assert "".join(each.choices[0].text for each in chunks if each.choices) == "abc"
    assert chunks[-1].usage is not None


async def test_an_emulated_middle() -> None:
    async with sdks(answering()) as sdk:
        whole = await sdk.openai.completions.create(model="auto", prompt="a", suffix="c")
        stream = await sdk.lenient.completions.create(model="auto", prompt="a", suffix="c", stream=True)
        assert "".join([each.choices[0].text async for each in stream]) == whole.choices[0].text == "Hello"


async def test_embeddings_as_numbers() -> None:
    async with sdks(answering()) as sdk:
        reply = await sdk.openai.embeddings.create(model=EMBEDDER, input=["a", "b"], encoding_format="float")
        assert [each.embedding for each in reply.data] == [[0.25, -1.5]] * 2
        unasked = await sdk.openai.embeddings.create(model=EMBEDDER, input="a")
    assert len(unasked.data[0].embedding) == 2


async def test_models() -> None:
    async with sdks(answering()) as sdk:
        found = [each.id async for each in sdk.openai.models.list()]
        assert found == ["auto", "demo-20b", "demo-120b"]
        assert (await sdk.openai.models.retrieve("demo-20b")).owned_by == "gatehouse"
        with pytest.raises(openai.NotFoundError):
            await sdk.openai.models.retrieve("gpt-5")


# --- responses


@each_case
async def test_responses_whole(calls: Sequence[str]) -> None:
    async with sdks(answering(AnsweringEngine(*calls))) as sdk:
        reply = await sdk.openai.responses.create(model="auto", input="go", tools=RESPONSES_TOOLS)
        again = await sdk.openai.responses.retrieve(reply.id)
    assert again.model_dump() == reply.model_dump()
    assert [item.arguments for item in reply.output if item.type == "function_call"] == list(before_held(calls))
    assert reply.output[0].type == "reasoning"
    assert reply.output_text.startswith("Hello")
    assert reply.status == "completed"


@each_case
async def test_responses_streamed(calls: Sequence[str]) -> None:
    async with sdks(answering(AnsweringEngine(*calls))) as sdk:
        stream = await sdk.openai.responses.create(model="auto", input="go", tools=RESPONSES_TOOLS, stream=True)
        events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.model_dump() for item in done] == [item.model_dump() for item in events[-1].response.output]


@each_case
async def test_responses_with_the_streaming_helper(calls: Sequence[str]) -> None:
    async with (
        sdks(answering(AnsweringEngine(*calls))) as sdk,
        sdk.openai.responses.stream(model="auto", input="go", tools=RESPONSES_TOOLS) as stream,
    ):
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert [item.arguments for item in final.output if item.type == "function_call"] == list(before_held(calls))


async def test_responses_parsed_into_a_model() -> None:
    async with sdks(answering(scripted(json_reply('{"value":42}')))) as sdk:
        reply = await sdk.openai.responses.parse(model="auto", input="go", text_format=Answer)
    assert reply.output_parsed == Answer(value=42)


async def test_custom_tools_and_namespaces_of_responses() -> None:
    tools: Any = [{"type": "custom", "name": TOOL}]
    async with sdks(answering(AnsweringEngine('{"input":"*** Begin Patch"}'))) as sdk:
        reply = await sdk.openai.responses.create(model="auto", input="go", tools=tools)
        (call,) = [item for item in reply.output if item.type == "custom_tool_call"]
        assert call.input == "*** Begin Patch"
        stream = await sdk.openai.responses.create(model="auto", input="go", tools=tools, stream=True)
        kinds = [event.type async for event in stream]
    assert "response.custom_tool_call_input.done" in kinds


async def test_the_state_of_responses() -> None:
    async with sdks(answering()) as sdk:
        first = await sdk.openai.responses.create(model="auto", input="go")
        second = await sdk.openai.responses.create(model="auto", input="on", previous_response_id=first.id)
        assert second.previous_response_id == first.id
        items = [item async for item in sdk.openai.responses.input_items.list(second.id)]
        assert [item.type for item in items] == ["message"]
        await sdk.openai.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.openai.responses.retrieve(first.id)
        slow = await sdk.openai.responses.create(model="auto", input="go", background=True)
        assert slow.status == "queued"
        assert (await sdk.openai.responses.cancel(slow.id)).status in ("cancelled", "completed")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_the_limit_has_cut(stream: bool) -> None:
    async with sdks(answering(AnsweringEngine(finish="length"))) as sdk:
        if stream:
            events = [each async for each in await sdk.openai.responses.create(model="auto", input="go", stream=True)]
            assert events[-1].type == "response.incomplete"
            reply = events[-1].response
        else:
            reply = await sdk.openai.responses.create(model="auto", input="go")
    assert reply.status == "incomplete"
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"


# --- messages


@each_case
@pytest.mark.parametrize("thinking", [False, True])
async def test_messages_whole(calls: Sequence[str], thinking: bool) -> None:
    more: Any = {"thinking": {"type": "adaptive"}} if thinking else {}
    async with sdks(answering(AnsweringEngine(*calls))) as sdk:
        reply = await sdk.anthropic.messages.create(
            model="auto", max_tokens=99, messages=TALK, tools=MESSAGES_TOOLS, **more
        )
    kinds = [block.type for block in reply.content]
    assert ("thinking" in kinds) is thinking
    assert kinds.count("tool_use") == len(before_held(calls))
    assert reply.stop_reason == ("tool_use" if before_held(calls) else "end_turn")


@each_case
async def test_messages_streamed(calls: Sequence[str]) -> None:
    async with sdks(answering(AnsweringEngine(*calls))) as sdk:
        stream = await sdk.anthropic.messages.create(
            model="auto", max_tokens=99, messages=TALK, tools=MESSAGES_TOOLS, stream=True,
            thinking={"type": "enabled", "budget_tokens": 1024},
        )  # fmt: skip
        events = [event async for event in stream]
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")


@each_case
async def test_messages_with_the_streaming_helper(calls: Sequence[str]) -> None:
    async with (
        sdks(answering(AnsweringEngine(*calls))) as sdk,
        sdk.anthropic.messages.stream(model="auto", max_tokens=99, messages=TALK, tools=MESSAGES_TOOLS) as stream,
    ):
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text.startswith("Hello")
    assert [block.input for block in final.content if block.type == "tool_use"] == [
        {"command": "ls"} for _ in before_held(calls)
    ]
    assert final.usage.output_tokens == 5


@pytest.mark.parametrize(
    ("engine", "reason", "sequence"),
    [
        (AnsweringEngine(finish="length"), "max_tokens", None),
        (AnsweringEngine(stop="END"), "stop_sequence", "END"),
        (AnsweringEngine(), "end_turn", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_why_a_message_ended(engine: AnsweringEngine, reason: str, sequence: str | None, stream: bool) -> None:
    async with sdks(answering(engine)) as sdk:
        if stream:
            async with sdk.anthropic.messages.stream(model="auto", max_tokens=99, messages=TALK) as events:
                reply: AnthropicMessage = await events.get_final_message()
        else:
            reply = await sdk.anthropic.messages.create(model="auto", max_tokens=99, messages=TALK)
    assert (reply.stop_reason, reply.stop_sequence) == (reason, sequence)


async def test_tokens_of_messages() -> None:
    async with sdks(answering()) as sdk:
        assert (await sdk.anthropic.messages.count_tokens(model="auto", messages=TALK)).input_tokens == 2


# --- errors


@dataclass(frozen=True)
class Case:
    """A world in which a request fails, and what each of the SDKs raises after how many requests.

    `classes` and `statuses` are those of chat, responses and messages.
    """

    world: Callable[[], World]
    classes: tuple[type[Exception], type[Exception], type[Exception]]
    statuses: tuple[int, int, int]
    code: str
    requests: int = 1
    key: str = KEY
    model: str = "auto"
    content: str = "go"


def scripted(*script: Any) -> Any:
    return ScriptedEngine(*script)


def failing(error: Exception) -> Callable[[], World]:
    return lambda: answering(scripted([error]))


def full() -> World:
    world = answering()
    world.ledger.full = True
    return world


def keyed(*scopes: Scope, budget: int | None = None) -> Callable[[], World]:
    def make() -> World:
        world = answering()
        world.ledger.add_key("gh-special", *scopes, budget_tokens=budget)
        return world

    return make


CASES = {
    "bad key": Case(
        answering,
        (openai.AuthenticationError, openai.AuthenticationError, anthropic.AuthenticationError),
        (401, 401, 401),
        "invalid_api_key",
        key="gh-wrong",
    ),
    "no scope": Case(
        keyed(Scope.APPROVE),
        (openai.PermissionDeniedError, openai.BadRequestError, anthropic.PermissionDeniedError),
        (403, 400, 403),
        "permission_denied",
        key="gh-special",
    ),
    "unknown model": Case(
        answering,
        (openai.NotFoundError, openai.NotFoundError, anthropic.NotFoundError),
        (404, 404, 404),
        "model_not_found",
        model="gpt-5",
    ),
    "too long": Case(
        answering,
        (openai.BadRequestError, openai.BadRequestError, anthropic.BadRequestError),
        (400, 400, 400),
        "context_length_exceeded",
        content="word " * 5000,
    ),
    "too large": Case(
        lambda: answering(settings=IngressSettings(record_delay_s=0, max_body_bytes=2048)),
        (openai.APIStatusError, openai.BadRequestError, anthropic.RequestTooLargeError),
        (413, 400, 413),
        "request_too_large",
        content="x" * 5000,
    ),
    "budget": Case(
        keyed(Scope.INFERENCE, budget=1),
        (openai.BadRequestError, openai.BadRequestError, anthropic.BadRequestError),
        (400, 400, 400),
        "budget_exceeded",
        key="gh-special",
    ),
    "deadline": Case(
        failing(EngineTimeout("Late.")),
        (openai.InternalServerError, openai.BadRequestError, anthropic.InternalServerError),
        (504, 400, 504),
        "timeout",
    ),
    "a bug": Case(
        failing(RuntimeError("secret")),
        (openai.InternalServerError, openai.InternalServerError, anthropic.InternalServerError),
        (500, 500, 500),
        "internal_error",
    ),
    "too many at once": Case(
        full,
        (openai.RateLimitError, openai.RateLimitError, anthropic.RateLimitError),
        (429, 429, 429),
        "rate_limit_exceeded",
        3,
    ),
    "busy": Case(
        failing(EngineOverloaded("Busy.", 7)),
        (openai.InternalServerError, openai.RateLimitError, anthropic.InternalServerError),
        (503, 429, 529),
        "server_is_overloaded",
        3,
    ),
    "died": Case(
        failing(EngineFailed("Died.")),
        (openai.InternalServerError, openai.RateLimitError, anthropic.InternalServerError),
        (503, 429, 529),
        "upstream_error",
        3,
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
@pytest.mark.parametrize("name", CASES)
async def test_errors_have_their_class_and_final_ones_cost_one_request(
    name: str, dialect: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    for module in ("openai", "anthropic"):
        monkeypatch.setattr(f"{module}._base_client.anyio.sleep", wait)
    at = ["chat", "responses", "messages"].index(dialect)
    talk: Any = [{"role": "user", "content": case.content}]
    async with sdks(case.world(), case.key) as sdk:
        with pytest.raises(case.classes[at]) as raised:
            match dialect:
                case "chat":
                    await sdk.openai.chat.completions.create(model=case.model, messages=talk, stream=stream)
                case "responses":
                    await sdk.openai.responses.create(model=case.model, input=talk, stream=stream)
                case _:
                    await sdk.anthropic.messages.create(model=case.model, messages=talk, max_tokens=9, stream=stream)
        error: Any = raised.value
        assert error.status_code == case.statuses[at]
        assert sdk.transport.requests == case.requests
    assert "secret" not in str(error)
    assert error.response.headers["x-request-id"]
    if dialect == "messages":
        assert error.body["type"] == "error"
        assert error.request_id == error.response.headers["request-id"]
    elif (dialect, case.requests) != ("responses", 3):  # every one of these is a rate limit there
        assert error.code == case.code
    if case.requests > 1:
        assert waits == [float(error.response.headers["retry-after"])] * 2


BROKEN = [SSE_START, sse(chunk(content="par")), sse(chunk(content="tial")), EngineFailed("The engine is gone.")]


async def test_a_stream_that_breaks_raises_in_chat_and_messages_and_fails_in_responses() -> None:
    async with sdks(answering(scripted(BROKEN))) as sdk:
        chat = await sdk.openai.chat.completions.create(model="auto", messages=TALK, stream=True)
        with pytest.raises(openai.APIError, match="gone"):
            [each async for each in chat]
        messages = await sdk.anthropic.messages.create(model="auto", messages=TALK, max_tokens=9, stream=True)
        with pytest.raises(anthropic.APIStatusError) as raised:
            [each async for each in messages]
        assert "overloaded_error" in str(raised.value.body)
        events = [each async for each in await sdk.openai.responses.create(model="auto", input="go", stream=True)]
        assert events[-1].type == "response.failed"
        assert events[-1].response.error is not None
        assert sdk.transport.requests == 3


def before_held(calls: Sequence[str]) -> Sequence[str]:
    """The calls that leave: those before the first one that is held."""
    return calls[: calls.index(DANGEROUS)] if DANGEROUS in calls else calls
