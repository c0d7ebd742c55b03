"""Kind `synthetic`: a token clock in place of a model, to load the serving path beyond what an engine on CPU can give.

It answers Chat Completions and Completions in vLLM's own shape, at a given pace, with text that says what it is. A
replica admits `max_num_seqs` requests at once, lets the others wait in order, and refuses above `max_queued`, as vLLM
does. Nothing is generated: it is for benchmarks and tests of everything around a model, and labelled so.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from deployments.clock import Clock
from deployments.engine.bridge import AsgiBridge, Message
from deployments.engine.counting import TALLY
from deployments.engine.replica import CoreLoad
from deployments.engine.settings import ServedSettings

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

WORDS = ("This", " text", " comes", " from", " a", " token", " clock,", " not", " from", " a", " model.", " ")
_MEAN_CHARS = 4  # of a token, for counting prompts
_JSON = [(b"content-type", b"application/json")]
_SSE = [(b"content-type", b"text/event-stream; charset=utf-8")]


class SyntheticSettings(ServedSettings):
    """The pace of a token clock: `first_token_ms` after admission the first token, then one every `token_ms`."""

    kind: Literal["synthetic"] = "synthetic"
    max_num_seqs: int = Field(default=64, ge=1)
    first_token_ms: float = Field(default=20.0, ge=0, le=60_000)
    token_ms: float = Field(default=10.0, ge=0, le=60_000)
    default_tokens: int = Field(default=128, ge=1, le=131_072)


@dataclass(slots=True)
class _Counts:
    """`counting.Counting` of one request."""

    prompt: str
    input_tokens: int
    cached_tokens: int = 0
    output_tokens: int = 0


class TokenClock:
    """A `Core` without an engine."""

    def __init__(self, settings: SyntheticSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._seats = asyncio.Semaphore(settings.max_num_seqs)
        self._ids = itertools.count(1)
        self._running = 0
        self._waiting: dict[str, int] = {}
        self._tokens = 0
        self._stopped = False
        self._bridge = AsgiBridge(self._app, settings.flush, settings.abort_grace_s)

    @property
    def bridge(self) -> AsgiBridge:
        """The HTTP API."""
        return self._bridge

    @property
    def max_model_len(self) -> int:
        """Tokens that fit into one request."""
        return self._settings.max_model_len or 131_072

    @property
    def seats(self) -> int:
        """Requests at once."""
        return self._settings.max_num_seqs

    def failure(self) -> str | None:
        """Why it cannot go on, or None."""
        return "it was shut down" if self._stopped else None

    def load(self) -> CoreLoad:
        """What it has to do now; there is no KV cache, so its usage is the share of seats taken."""
        return CoreLoad(
            unfinished=self._running + len(self._waiting),
            running=self._running,
            waiting=len(self._waiting),
            queued_tokens=sum(self._waiting.values()),
            kv_usage=self._running / self._settings.max_num_seqs,
        )

    def steps(self) -> int:
        """Tokens so far."""
        return self._tokens

    def pids(self) -> tuple[int, ...]:
        """No child processes."""
        return ()

    def shutdown(self) -> None:
        """Refuse from now on."""
        self._stopped = True

    async def _app(self, scope: Message, receive: Receive, send: Send) -> None:
        body: Mapping[str, Any] = json.loads((await receive())["body"])
        chat = scope["path"] == "/v1/chat/completions"
        if not chat and scope["path"] != "/v1/completions":
            await _whole(send, 404, _error(404, "A synthetic engine serves chat and completions only."))
            return
        prompt_tokens = max(1, len(json.dumps(body.get("messages" if chat else "prompt"))) // _MEAN_CHARS)
        if self._running + len(self._waiting) >= self._settings.max_queued:
            await _whole(send, 503, _error(503, "The request queue is full."))
            return
        gone = asyncio.create_task(_gone(receive))
        work = asyncio.create_task(self._answer(body, chat, prompt_tokens, send))
        try:
            await asyncio.wait((gone, work), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.gather(gone, work, return_exceptions=True)

    async def _answer(self, body: Mapping[str, Any], chat: bool, prompt_tokens: int, send: Send) -> None:
        number = next(self._ids)
        so_far = _Counts(str(number), prompt_tokens)
        tally = TALLY.get()
        if tally is not None:
            tally.add(so_far)
        made = _Made(body, chat, number, self._clock.now_ms() // 1000, self._settings.revision)
        tokens = int(body.get("max_completion_tokens") or body.get("max_tokens") or self._settings.default_tokens)
        counts = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
        if body.get("stream"):
            await send({"type": "http.response.start", "status": 200, "headers": _SSE})
            if chat:
                await _part(send, made.event({"role": "assistant", "content": ""}, None))
            count = 0
            async for word in self._words(so_far, tokens):
                count += 1
                await _part(send, made.event({"content": word}, "length" if count == tokens else None))
            if "include_usage" in json.dumps(body.get("stream_options")):
                await _part(send, made.usage(counts))
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
        else:
            text = "".join([word async for word in self._words(so_far, tokens)])
            await _whole(send, 200, made.whole(text, counts))

    async def _words(self, so_far: _Counts, tokens: int) -> AsyncGenerator[str, None]:
        """The answer, one token at a time, on an absolute schedule from the moment of admission."""
        loop = asyncio.get_running_loop()
        self._waiting[so_far.prompt] = so_far.input_tokens
        try:
            await self._seats.acquire()
        finally:
            del self._waiting[so_far.prompt]
        self._running += 1
        try:
            due_s = loop.time() + self._settings.first_token_ms / 1000
            for count in range(tokens):
                delay_s = due_s - loop.time()
                await asyncio.sleep(max(0.0, delay_s))
                due_s += self._settings.token_ms / 1000
                self._tokens += 1
                so_far.output_tokens += 1
                yield WORDS[count % len(WORDS)]
        finally:
            self._running -= 1
            self._seats.release()


class _Made:
    """The JSON around the text of one reply, in vLLM's shape."""

    def __init__(self, body: Mapping[str, Any], chat: bool, number: int, created: int, revision: str) -> None:
        self._chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-synthetic-{number}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": created,
            "model": str(body.get("model")),
            "system_fingerprint": f"synthetic-{revision}",
        }

    def event(self, delta: Mapping[str, str], finish: str | None) -> bytes:
        """One event of a stream."""
        said: dict[str, Any] = {"delta": delta} if self._chat else {"text": delta["content"]}
        return _sse(self._head | {"choices": [{"index": 0, **said, "logprobs": None, "finish_reason": finish}]})

    def usage(self, usage: Mapping[str, int]) -> bytes:
        """The event with the counts."""
        return _sse(self._head | {"choices": [], "usage": usage})

    def whole(self, text: str, usage: Mapping[str, int]) -> bytes:
        """A reply that is not streamed."""
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": "length"}
        kind = "chat.completion" if self._chat else "text_completion"
        return json.dumps(self._head | {"object": kind, "choices": [choice], "usage": usage}).encode()


async def _gone(receive: Receive) -> None:
    await receive()


def _sse(event: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _error(status: int, message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "synthetic", "param": None, "code": status}}).encode()


async def _part(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _whole(send: Send, status: int, data: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": _JSON})
    await send({"type": "http.response.body", "body": data, "more_body": False})
