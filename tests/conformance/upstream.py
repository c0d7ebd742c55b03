"""A scripted model server: OpenAI's chat API as vLLM speaks it, playing one scenario at a time.

A scenario is a function from what was asked to one `Step`. It finds its place in the conversation by the messages, so a
request that is sent again gets the same answer again; only failures that pass count requests.
"""

import asyncio
import json
import re
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiohttp import web

SMALL, LARGE = "scripted-20b", "scripted-120b"
WINDOW = 131_072
_SHELL = re.compile(r"shell|exec|bash|terminal|command", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of the model."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Say:
    """An answer. `finish` None: `tool_calls` when there are any, else `stop`. `cut`: the connection ends after it."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    finish: str | None = None
    cut: bool = False
    silent_s: float = 0.0
    wait: threading.Event | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """A status other than 200."""

    status: int
    message: str
    type: str = "BadRequestError"
    headers: Mapping[str, str] = field(default_factory=dict)


Step: TypeAlias = Say | Refuse


@dataclass
class Asked:
    """One request. `number` counts the requests of the scenario that reached its main part, from 0."""

    model: str
    stream: bool
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    body: Mapping[str, Any]
    number: int = 0
    main: bool = True
    finished: bool = False

    @property
    def results(self) -> list[str]:
        """What tools answered since the person last spoke, oldest first."""
        found: list[str] = []
        for message in self.messages:
            if message["role"] == "tool":
                found.append(_text(message["content"]))
            elif message["role"] == "user" and not _is_note(_text(message["content"])):
                found = []
        return found

    @property
    def calls_made(self) -> list[str]:
        """Names of the calls that the conversation holds."""
        return [call["function"]["name"] for message in self.messages for call in (message.get("tool_calls") or ())]

    @property
    def text(self) -> str:
        """Everything that was said, in one string."""
        return "\n".join(_text(message.get("content")) for message in self.messages)

    def tool(self, *names: str) -> Mapping[str, Any]:
        """The first offered tool with one of these names."""
        offered = {str(tool["function"]["name"]): tool["function"] for tool in self.tools}
        for name in names:
            if name in offered:
                return offered[name]
        raise LookupError(f"none of {names} is offered, but {sorted(offered)}")

    def shell(self, command: str) -> Call:
        """A call of whatever runs a command line in this client."""
        for tool in self.tools:
            function = tool["function"]
            properties = function.get("parameters", {}).get("properties", {})
            field_name = next((name for name in ("cmd", "command") if name in properties), None)
            if field_name and _SHELL.search(function["name"]):
                required = function["parameters"].get("required", ())
                more = {name: "run it" for name in required if name != field_name}
                words = properties[field_name].get("type") == "array"
                return Call(function["name"], {field_name: command.split() if words else command, **more})
        raise LookupError(f"no tool runs commands: {[tool['function']['name'] for tool in self.tools]}")


Scenario: TypeAlias = Callable[[Asked], Step]


class Upstream:
    """The server, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._scenario: Scenario = plain
        self._titles: Scenario = title
        self._asked: list[Asked] = []
        self._number = 0
        self._mistakes: list[str] = []
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def play(self, scenario: Scenario, titles: Scenario | None = None) -> None:
        """Forget what was asked; play `scenario`, and `titles` to the small model, which only background work asks."""
        titles = titles or title
        with self._lock:
            self._scenario, self._titles = scenario, titles
            self._asked, self._number, self._mistakes = [], 0, []

    @property
    def mistakes(self) -> list[str]:
        """What a scenario did not expect."""
        with self._lock:
            return list(self._mistakes)

    @property
    def asked(self) -> list[Asked]:
        """The requests that were the scenario's."""
        with self._lock:
            return [each for each in self._asked if each.main]

    @property
    def aside(self) -> list[Asked]:
        """The other requests: titles and the like."""
        with self._lock:
            return [each for each in self._asked if not each.main]

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/v1/models", _models)
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self._port = int(runner.addresses[0][1])
        started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        asked = Asked(body["model"], body.get("stream") is True, body["messages"], body.get("tools") or (), body)
        with self._lock:
            asked.main = asked.model == LARGE
            if asked.main:
                asked.number = self._number
                self._number += 1
            self._asked.append(asked)
            scenario = self._scenario if asked.main else self._titles
        try:
            step = scenario(asked)
        except (AssertionError, LookupError) as error:
            with self._lock:
                self._mistakes.append(str(error))
            step = Refuse(400, "The scenario does not go on like this.")
        match step:
            case Refuse():
                error = {"message": step.message, "type": step.type, "param": None, "code": step.status}
                return web.json_response({"error": error}, status=step.status, headers=dict(step.headers))
            case Say():
                return await (_stream(request, asked, step) if asked.stream else _whole(request, asked, step))


async def _models(request: web.Request) -> web.Response:
    del request
    listed = [{"id": name, "object": "model", "max_model_len": WINDOW} for name in (SMALL, LARGE)]
    return web.json_response({"object": "list", "data": listed})


async def _pause(step: Say) -> None:
    if step.wait is not None:
        while not step.wait.is_set():
            await asyncio.sleep(0.05)
    if step.silent_s:
        await asyncio.sleep(step.silent_s)


async def _whole(request: web.Request, asked: Asked, step: Say) -> web.StreamResponse:
    await _pause(step)
    if step.cut:
        _cut(request)
        return web.Response()
    message: dict[str, Any] = {"role": "assistant", "content": step.text or None}
    if step.reasoning:
        message["reasoning"] = step.reasoning
    if step.calls:
        message["tool_calls"] = [_call(call) for call in step.calls]
    choice = {"index": 0, "message": message, "finish_reason": _finish(step)}
    asked.finished = True
    return web.json_response({**_shell_of(asked, "chat.completion"), "choices": [choice], "usage": _usage(asked, step)})


async def _stream(request: web.Request, asked: Asked, step: Say) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    common = _shell_of(asked, "chat.completion.chunk")

    async def send(delta: Mapping[str, Any], finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        await response.write(_event({**common, "choices": [choice]}))

    await _pause(step)
    await send({"role": "assistant", "content": ""})
    for piece in _pieces(step.reasoning):
        await send({"reasoning": piece})
    for piece in _pieces(step.text):
        await send({"content": piece})
    if step.cut:
        _cut(request)
        return response
    for index, call in enumerate(step.calls):
        made = _call(call)
        arguments = made["function"]["arguments"]
        made["function"]["arguments"] = ""
        await send({"tool_calls": [{"index": index, **made}]})
        for piece in _pieces(arguments):
            await send({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    await send({}, _finish(step))
    if (asked.body.get("stream_options") or {}).get("include_usage"):
        await response.write(_event({**common, "choices": [], "usage": _usage(asked, step)}))
    await response.write(b"data: [DONE]\n\n")
    asked.finished = True
    return response


def _cut(request: web.Request) -> None:
    """End the connection as a crash would: without the last chunk."""
    assert request.transport is not None
    request.transport.abort()


def _event(document: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _shell_of(asked: Asked, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": 1, "model": asked.model}


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _finish(step: Say) -> str:
    return step.finish or ("tool_calls" if step.calls else "stop")


def _usage(asked: Asked, step: Say) -> dict[str, Any]:
    prompt, answer = len(asked.text) // 4 + 1, (len(step.text) + len(step.reasoning)) // 4 + 1
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _pieces(text: str, size: int = 7) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content or "")


def _is_note(text: str) -> bool:
    """What Claude Code adds to a turn in the person's name."""
    return text.lstrip().startswith("<system-reminder>")


# --- scenarios ---------------------------------------------------------------------------------------------------
ANSWER = "The answer of the scripted model is 4711."
THOUGHT = "First I think about the question, then I answer it."
AFTER = "All of it is done: 4712."
SUMMARY = "A summary of the conversation."
PARTIAL = "The beginning of an answer that never"


def title(asked: Asked) -> Step:
    del asked
    return Say(text="A short title")


def plain(asked: Asked) -> Step:
    del asked
    return Say(text=ANSWER)


def reasoning(asked: Asked) -> Step:
    del asked
    return Say(text=ANSWER, reasoning=THOUGHT)


def one_call(command: str) -> Scenario:
    """A command, and an answer once its output has come back."""

    def play(asked: Asked) -> Step:
        if not asked.results:
            return Say(reasoning="I have to look.", calls=(asked.shell(command),))
        return Say(text=AFTER)

    return play


def some_calls(*commands: str) -> Scenario:
    """Commands at once, and an answer once the output of any has come back."""

    def play(asked: Asked) -> Step:
        if asked.results:
            return Say(text=AFTER)
        return Say(calls=tuple(asked.shell(command) for command in commands))

    return play


def rounds(*commands: tuple[str, ...]) -> Scenario:
    """Several rounds of parallel commands; the answer once the output of all has come back."""

    def play(asked: Asked) -> Step:
        done = len(asked.results)
        for each in commands:
            if done < len(each):
                assert done == 0, "the output of some parallel calls is missing"
                return Say(text="Next.", calls=tuple(asked.shell(command) for command in each))
            done -= len(each)
        return Say(text=AFTER)

    return play


def too_long(asked: Asked) -> Step:
    del asked
    return Refuse(
        400,
        f"This model's maximum context length is {WINDOW} tokens. However, your request has 0 output tokens and your "
        "prompt contains at least 140000 input tokens. Please reduce the length of the input messages.",
    )


def too_long_at_first(asked: Asked) -> Step:
    """An overflow until the conversation was compacted: a request without tools asks for the summary."""
    if SUMMARY in asked.text:
        return Say(text=ANSWER)
    return too_long(asked) if asked.tools else Say(text=SUMMARY)


def busy(times: int) -> Scenario:
    """Overloaded for the first `times` requests."""

    def play(asked: Asked) -> Step:
        if asked.number < times:
            return Refuse(503, "The server is busy.", "ServiceUnavailableError", {"retry-after": "1"})
        return Say(text=ANSWER)

    return play


def truncated(asked: Asked) -> Step:
    del asked
    return Say(text=PARTIAL, finish="length")


def broken(times: int) -> Scenario:
    """The connection breaks in the middle of the first `times` answers."""

    def play(asked: Asked) -> Step:
        return Say(text=PARTIAL, cut=True) if asked.number < times else Say(text=ANSWER)

    return play


def silent(seconds: float) -> Scenario:
    """An answer after a long silence."""
    return lambda asked: Say(text=ANSWER, silent_s=seconds)


def blocked(until: threading.Event) -> Scenario:
    """An answer once `until` is set."""
    return lambda asked: Say(text=ANSWER, wait=until)
