"""`ports.Engine` over an OpenAI-compatible server that somebody else runs: Ollama, llama.cpp, vLLM, a hosted model.

Servers differ in how they speak the API, and the gate must see every tool call. So nothing of a reply is passed on as
it came: events are cut out of the stream by the rules of server-sent events and written anew, one `data:` line each,
in the shape of vLLM's. Text of a server that writes compact JSON takes a short way, on which bytes are replaced.

What goes wrong is told apart by whose problem it is. The client's: the upstream's 400, in OpenAI's shape. Ours (key,
model name, address), the upstream's, and the network's: `EngineFailed`, `EngineOverloaded` or `EngineTimeout`, whose
texts say nothing of the upstream. Failures open a breaker; restarting a replica would not heal them.
"""

import asyncio
import json
import logging
import os
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, cast

import httpx2

from deployments.clock import Clock
from deployments.engine.breaker import Breaker, BreakerState, Refused, Ticket
from deployments.engine.settings import FORWARDED_HEADERS
from deployments.engine.upstream_settings import UpstreamSettings
from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout, GatehouseError, InvalidRequest
from deployments.ports import EngineCall, EngineInfo, EngineItem, EngineStart, ModelId

_log = logging.getLogger("gatehouse.upstream")

_HIGH_WATER_BYTES = 1 << 20  # an upstream that is this far ahead of a slow reader waits
_ERROR_BYTES = 64 * 1024
_MODELS_BYTES = 4 << 20
_MESSAGE_CHARS = 600
_DRAIN_S = 1.0  # after its end a reply may take this long to close, so that the connection can be used again
_DEFAULT_WINDOW = 131_072
_MOST_TOKENS = 1 << 31

_BROKEN = "The model's answer could not be read."
_CUT = "The model's answer ended before it was complete."
_NOT_COMPLETED = "The model could not answer this request."

_CHAT = "/v1/chat/completions"
_OPENAI_STREAMS = frozenset({_CHAT, "/v1/completions"})
_LAST_EVENTS = frozenset({"message_stop", "response.completed", "response.failed", "response.incomplete"})
# An event with none of these holds nothing but text of an unfinished choice; the rest is parsed.
_MARKERS = (
    b'"tool_calls"',
    b'"function_call"',
    b'"finish_reason":"',
    b'"usage":{',
    b'"error"',
    b'"role"',
    b'"reasoning_content"',
    b"\\u00",
)
_KEY_TROUBLE = re.compile(
    r"(?:invalid|incorrect|missing) api[ _-]?key|api[ _-]?key (?:is )?(?:not valid|invalid)", re.I
)


def read_secret(settings: UpstreamSettings, environ: Mapping[str, str]) -> str | None:
    """The upstream's key, or None when none is configured.

    `environ` is the environment of the replica's process. Raises `EngineFailed` with one sentence that names the
    reference, never the key.
    """
    if settings.api_key_env is not None:
        where, secret = f"The variable {settings.api_key_env}", environ.get(settings.api_key_env, "")
    elif settings.api_key_file is not None:
        where = f"The file {settings.api_key_file}"
        try:
            secret = Path(settings.api_key_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise EngineFailed(f"{where} with the key of the model '{settings.model}' cannot be read.") from None
    else:
        return None
    secret = secret.strip()
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise EngineFailed(f"{where} does not hold a usable key for the model '{settings.model}'.")
    return secret


class UpstreamReplica:
    """One replica's connections to one upstream. Owns its tasks; `aclose` ends them."""

    def __init__(
        self,
        settings: UpstreamSettings,
        secret: str | None,
        clock: Clock,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._secret = secret
        self._client = _client(settings, transport)
        self._breaker = Breaker(settings.breaker)
        self._pumps: set[asyncio.Task[None]] = set()
        self._active = 0
        self._probed_s: float | None = None
        self._trouble: str | None = None

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        """The upstream's reply in vLLM's shape; closing the generator closes the connection.

        Raises `EngineOverloaded` when this replica is full, the breaker is open, or the upstream says so (429, 503);
        `EngineTimeout` when it is too slow; `EngineFailed` for everything else that is not the client's doing, also
        for a stream that ends without its `[DONE]`.
        """
        if call.method != "POST" or call.path not in self._settings.paths:
            raise InvalidRequest("This model does not serve this endpoint.", "model", "unsupported_model")
        if self._active >= self._settings.max_queued:
            raise EngineOverloaded("The model is busy. Please try again in 2s.", 2)
        exchange = _Exchange(self._settings, call)
        ticket = self._breaker.admit(self._clock.monotonic_s())
        if isinstance(ticket, Refused):
            wait_s = ticket.retry_after_s
            raise EngineOverloaded(f"The model is not available. Please try again in {wait_s}s.", wait_s)
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._settings.request_deadline_s
        self._active += 1
        mail = _Mail()
        pump = asyncio.create_task(self._pump(exchange, mail, ticket))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)
        flushed_s = float("-inf")
        try:
            await mail.until(lambda: mail.start is not None, ends_s)
            if mail.start is not None:
                yield mail.start
            while True:
                await mail.until(mail.has, ends_s)
                due_s = min(flushed_s + self._settings.flush.window_s(self._active), ends_s)
                if not mail.ended.is_set() and loop.time() < due_s:
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(due_s):
                            await mail.ended.wait()
                if mail.has():
                    flushed_s = loop.time()
                    yield mail.take()
                elif mail.ended.is_set():
                    break
            if mail.error is not None:
                raise mail.error
        finally:
            self._active -= 1
            if not mail.ended.is_set():
                pump.cancel()
                await asyncio.wait((pump,))  # the connection is closed when this returns

    async def info(self) -> EngineInfo:
        """State of this replica; `EngineFailed` while the breaker is open, so that readiness shows it."""
        if self._breaker.state(self._clock.monotonic_s()) is BreakerState.OPEN:
            raise EngineFailed(f"The upstream does not answer: {self._trouble or 'its requests failed'}.")
        return EngineInfo(
            model=ModelId(self._settings.model),
            revision=self._settings.revision,
            kind=self._settings.kind_name,
            pid=os.getpid(),
            core_pids=(),
            running=self._active,
            queued_tokens=0,
            max_model_len=self._settings.max_model_len or _DEFAULT_WINDOW,
            started_s=0.0,
        )

    async def check_health(self) -> None:
        """Probe the upstream when that is due. Never raises because of it: a new replica would find the same."""
        now_s = self._clock.monotonic_s()
        calm = self._breaker.state(now_s) is BreakerState.CLOSED
        if calm and self._probed_s is not None and now_s < self._probed_s + self._settings.health_period_s:
            return
        self._probed_s = now_s
        trouble = await self._probe()
        if trouble is not None:
            self._breaker.hold(self._clock.monotonic_s())
        else:
            self._breaker.release()
        if trouble != self._trouble:
            if trouble is None:
                _log.info("the upstream of %s answers again", self._settings.model)
            else:
                _log.error("the upstream of %s is down: %s", self._settings.model, trouble)
        self._trouble = trouble

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Numbers for an autoscaling policy, by name; an upstream's queue and cache are not ours to see."""
        active = float(self._active)
        return {"unfinished": active, "running": active, "waiting": 0.0, "queued_tokens": 0.0, "kv_usage": 0.0}

    async def aclose(self) -> None:
        """Hang up on every request and close the connections."""
        pumps = tuple(self._pumps)
        for pump in pumps:
            pump.cancel()
        if pumps:
            await asyncio.wait(pumps)
        await self._client.aclose()

    async def _probe(self) -> str | None:
        """What is wrong with the upstream, in words without a secret; None when all is well."""
        path = self._settings.health_path
        try:
            async with asyncio.timeout(self._settings.health_timeout_s):
                async with self._client.stream("GET", self._settings.url(path), headers=self._headers({})) as response:
                    if response.status_code in (401, 403):
                        return "it refuses our key"
                    if response.status_code != 200:
                        return f"its health path answers {response.status_code}"
                    body = await _read(response, _MODELS_BYTES)
        except (TimeoutError, httpx2.TimeoutException):
            return "its health path does not answer in time"
        except (httpx2.HTTPError, GatehouseError) as error:
            return f"its health path cannot be read ({type(error).__name__})"
        if path.endswith("/models") and not _lists(body, self._settings.name_there):
            return f"it does not list the model '{self._settings.name_there}'"
        return None

    async def _pump(self, exchange: "_Exchange", mail: "_Mail", ticket: Ticket) -> None:
        """Carry one reply from the upstream into `mail`; whatever goes wrong ends up there, too."""
        error: GatehouseError | None = None
        blame = True
        try:
            await self._carry(exchange, mail, ticket)
        except _NotTheirs as refused:
            error, blame = refused.error, False
        except EngineOverloaded as busy:
            error, blame = busy, False  # it answers; asking later is the cure
        except GatehouseError as failed:
            error = failed
        except httpx2.PoolTimeout:
            error, blame = EngineOverloaded("The model is busy. Please try again in 2s.", 2), False
        except (TimeoutError, httpx2.TimeoutException):
            error = EngineTimeout("The model did not answer in time.")
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as lost:
            _log.warning("the upstream of %s: %s", self._settings.model, type(lost).__name__)
            error = EngineFailed("The model's server cannot be reached." if mail.start is None else _CUT)
        except asyncio.CancelledError:
            mail.end(EngineFailed(_CUT))  # a reader that is still there must not take this for the end
            raise
        except Exception as bug:  # its text may quote the reply
            _log.error("the upstream of %s: unexpected %s", self._settings.model, type(bug).__name__)
            error = EngineFailed(_BROKEN)
        finally:
            now_s = self._clock.monotonic_s()
            if error is not None and blame:
                self._breaker.failed(ticket, now_s)
            elif not mail.told:
                self._breaker.released(ticket)
            mail.end(error)

    async def _carry(self, exchange: "_Exchange", mail: "_Mail", ticket: Ticket) -> None:
        settings = self._settings
        timeout = httpx2.Timeout(
            connect=settings.connect_s,
            pool=settings.pool_s,
            write=settings.read_s,
            read=None if not exchange.stream else max(settings.read_s, settings.first_byte_s),
        )
        request = self._client.build_request(
            "POST",
            settings.url(exchange.path),
            content=exchange.body,
            headers=self._headers(exchange.headers),
            timeout=timeout,
        )
        loop = asyncio.get_running_loop()
        patience_s = settings.first_byte_s if exchange.stream else settings.request_deadline_s
        async with asyncio.timeout(patience_s) as limit:
            response = await self._client.send(request, stream=True)
            try:
                if response.status_code != 200:
                    limit.reschedule(loop.time() + settings.read_s)
                    mail.open(*self._refused(response, await _read(response, _ERROR_BYTES, cut=True)))
                    self._told(mail, ticket)
                    return
                _check_type(response, exchange.stream)
                if not exchange.stream:
                    body = await _read(response, settings.max_json_bytes)
                    mail.open(EngineStart(200, _JSON), reply(body, exchange.path, settings.model))
                    self._told(mail, ticket)
                    return
                mail.open(EngineStart(200, _SSE), b"")
                events = Events(exchange.path, settings.model, exchange.choices)
                total = 0
                async for data in response.aiter_raw():
                    total += len(data)
                    if total > settings.max_stream_bytes:
                        raise EngineFailed("The model's answer is too long.")
                    released = events.feed(data)
                    if released:  # comments that keep a connection alive are no sign of life of the model
                        self._told(mail, ticket)
                        await mail.put(released, limit, settings.read_s)
                    if events.done:
                        mail.end(None)
                        limit.reschedule(loop.time() + _DRAIN_S)
                if not events.done:
                    raise EngineFailed(_CUT)
            except (TimeoutError, asyncio.CancelledError):
                if mail.ended.is_set() and limit.expired():
                    return
                raise
            finally:
                await response.aclose()

    def _told(self, mail: "_Mail", ticket: Ticket) -> None:
        """The first sign of life of a reply."""
        if not mail.told:
            mail.told = True
            self._breaker.succeeded(ticket, self._clock.monotonic_s())

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        own = {"accept-encoding": "identity", "user-agent": "gatehouse"}
        if self._secret is not None:
            own["authorization"] = f"Bearer {self._secret}"
        return {**headers, **own}

    def _refused(self, response: httpx2.Response, body: bytes) -> tuple[EngineStart, bytes]:
        """What another status than 200 means: an error for the client, or an exception of ours."""
        status = response.status_code
        message, code = error_text(body)
        if status in (400, 413, 422) and not self._about_us(message):
            if status == 413:
                message = "The request is too large for this model."
            message = message.replace(self._settings.name_there, self._settings.model)[:_MESSAGE_CHARS]
            told = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
            return EngineStart(400, _JSON), _dump({"error": told})
        _log.warning("the upstream of %s answers %d", self._settings.model, status)
        if status in (429, 503):
            wait_s = retry_after_s(response.headers.get("retry-after"), self._clock.now_ms())
            raise EngineOverloaded(f"The model is busy. Please try again in {wait_s}s.", wait_s)
        if status < 500:  # our key, our address, our model's name: the health probe tells the operator
            raise _NotTheirs(EngineFailed(_NOT_COMPLETED))
        raise EngineFailed(_NOT_COMPLETED)

    def _about_us(self, message: str) -> bool:
        """True for a refusal that concerns our key: some servers say so with 400."""
        return _KEY_TROUBLE.search(message) is not None or (self._secret is not None and self._secret in message)


_JSON = (("content-type", "application/json"),)
_SSE = (("content-type", "text/event-stream; charset=utf-8"),)


class _NotTheirs(Exception):
    """Carries an error that says nothing about the upstream's health. Never leaves this module."""

    def __init__(self, error: GatehouseError) -> None:
        super().__init__()
        self.error = error


class _Exchange:
    """One request as the upstream gets it."""

    def __init__(self, settings: UpstreamSettings, call: EngineCall) -> None:
        try:
            body = cast(dict[str, Any], json.loads(call.body))
            body = {name: value for name, value in body.items() if name not in settings.drop_fields}
        except (ValueError, AttributeError):
            raise EngineFailed("The request could not be read.") from None
        body["model"] = settings.name_there
        self.path = call.path
        self.stream = body.get("stream") is True
        self.choices = body["n"] if isinstance(body.get("n"), int) else 1
        self.body = _dump(body)
        self.headers = {name: value for name, value in call.headers.items() if name in FORWARDED_HEADERS}
        # No request id: llama-cpp-python refuses one that is no UUID, and to others ours means nothing.
        self.headers["content-type"] = "application/json"


class _Mail:
    """One reply's mailbox between the pump (writer) and the generator (reader)."""

    def __init__(self) -> None:
        self._body = bytearray()
        self._stirred = asyncio.Event()
        self._drained = asyncio.Event()
        self.start: EngineStart | None = None
        self.error: GatehouseError | None = None
        self.ended = asyncio.Event()
        self.told = False

    async def put(self, data: bytes, limit: asyncio.Timeout, patience_s: float) -> None:
        """Add bytes, and wait while the reader is far behind; only then is the upstream's time set anew."""
        self._body += data
        self._stirred.set()
        while len(self._body) > _HIGH_WATER_BYTES:
            limit.reschedule(None)  # this wait is not the upstream's fault
            self._drained.clear()
            await self._drained.wait()
        limit.reschedule(asyncio.get_running_loop().time() + patience_s)

    def open(self, start: EngineStart, body: bytes) -> None:
        """The start of a reply, with all of its body that is known already."""
        self.start = start
        self._body += body
        self._stirred.set()

    def end(self, error: GatehouseError | None) -> None:
        """Nothing more will come; the first call counts."""
        if not self.ended.is_set():
            self.error = error
            self.ended.set()
            self._stirred.set()

    def has(self) -> bool:
        """True when there are bytes to take."""
        return bool(self._body)

    def take(self) -> bytes:
        """All bytes that have come since the last time."""
        taken = bytes(self._body)
        self._body.clear()
        self._drained.set()
        return taken

    async def until(self, ready: Callable[[], bool], ends_s: float) -> None:
        """Wait until `ready()` or the end of the reply; `EngineTimeout` at the loop's time `ends_s`."""
        try:
            async with asyncio.timeout_at(ends_s):
                while not ready() and not self.ended.is_set():
                    self._stirred.clear()
                    await self._stirred.wait()
        except TimeoutError:
            pass
        else:
            if asyncio.get_running_loop().time() < ends_s:
                return
        raise EngineTimeout("The model did not finish in time.")


@dataclass(slots=True)
class _Slot:
    """A call of a choice: the index that the upstream gave it, and its id. Ours is its place in the list."""

    given: object
    call_id: str


class Events:
    """Writes the events of one stream anew. Pure: bytes in, cut anywhere; whole events out.

    `done` turns True with the proper end: `[DONE]` after the last choice has finished, for chat and completions. Raises
    `EngineFailed` for what cannot be read, and for an error or an end in the middle of an answer.
    """

    def __init__(self, path: str, model: str, choices: int = 1) -> None:
        self._openai = path in _OPENAI_STREAMS
        self._model = model
        self._choices = choices
        self._rest = b""
        self._first = True
        self._needle: bytes | None = None  # the upstream's spelling of its model; None: every event is parsed
        self._ours = b'"model":' + _dump(model)
        self._finished: dict[int, bool] = {}
        self._slots: dict[int, list[_Slot]] = {}
        self._usage: dict[str, Any] | None = None
        self._head: dict[str, Any] = {}
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """The events that `data` completes."""
        text = self._rest + data
        held = b"\r" if text.endswith(b"\r") else b""  # the other half of a line's end may follow
        if b"\r" in text:
            text = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *events, self._rest = text.split(b"\n\n")
        self._rest += held
        return b"".join([self._event(event) for event in events if not self.done])

    def _event(self, event: bytes) -> bytes:
        name, payload = _fields(event)
        if payload is None:
            return b""
        if payload == b"[DONE]":
            return self._end()
        if self._needle is not None and self._needle in payload and not any(mark in payload for mark in _MARKERS):
            return b"data: " + payload.replace(self._needle, self._ours) + b"\n\n"
        try:
            chunk = cast(dict[str, Any], json.loads(payload))
            if "error" in chunk and chunk["error"]:
                raise EngineFailed(_NOT_COMPLETED)
            if not self._openai:
                return self._other(name, chunk)
            self._learn(payload, chunk)
            return self._chunk(chunk)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise EngineFailed(_BROKEN) from None

    def _learn(self, payload: bytes, chunk: dict[str, Any]) -> None:
        """From the first event: may bytes be replaced in the next ones?"""
        if self._first:
            self._first = False
            model = chunk.get("model")
            if isinstance(model, str) and self._choices == 1 and payload in (_dump(chunk), _ascii(chunk)):
                self._needle = b'"model":' + (_dump(model) if _dump(model) in payload else _ascii(model))

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        """One parsed chunk: our model name, usage set aside for the end, choices in vLLM's shape."""
        chunk["model"] = self._model
        self._usage = _usage(chunk.pop("usage", None)) or self._usage
        self._head = {name: chunk[name] for name in ("id", "object", "created", "model") if name in chunk}
        given = cast(list[dict[str, Any]], chunk.get("choices") or [])
        chunk["choices"] = [choice for choice in given if self._choice(choice)]
        return _sse(chunk) if chunk["choices"] else b""

    def _choice(self, choice: dict[str, Any]) -> bool:
        """Put a choice right; False when there is nothing to tell of it."""
        index = choice["index"] = int(choice.get("index") or 0)
        choice["finish_reason"] = finish = _finish(choice.get("finish_reason"))
        said: bool
        if "text" in choice:
            said = bool(choice["text"])
        else:
            choice["delta"] = delta = cast(dict[str, Any], choice.get("delta") or {})
            said = any(value for name, value in delta.items() if name != "role")
            self._delta(index, delta)
        if self._finished.get(index):
            if said:
                raise EngineFailed("The model's answer went on after its end.")
            return False  # some servers say the end twice, the second time with the usage
        self._finished[index] = finish is not None
        if finish is not None:
            self._needle = None  # from here on everything is looked at
        return True

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        _one_reasoning(delta)
        if "role" in delta and delta.get("content") is None:
            delta["content"] = ""  # a delta with nothing but a role is no text
        calls = _calls(delta)
        slots = self._slots.setdefault(index, [])
        for call in calls:
            call["index"] = _slot(slots, call)

    def _end(self) -> bytes:
        """The last events; the end counts only when every choice has reached its own."""
        if not self._openai:
            self.done = True
            return b"data: [DONE]\n\n"
        if not self._finished or not all(self._finished.values()):
            raise EngineFailed(_CUT)  # llama-cpp-python ends an answer like this to begin with another one
        self.done = True
        usage = b"" if self._usage is None else _sse({**self._head, "choices": [], "usage": self._usage})
        return usage + b"data: [DONE]\n\n"

    def _other(self, name: bytes | None, chunk: dict[str, Any]) -> bytes:
        """An event of Responses or Messages: the names of the events matter, and the model stands in several places."""
        for place in (chunk, chunk.get("response"), chunk.get("message")):
            if isinstance(place, dict) and "model" in place:
                place["model"] = self._model
        kind = name.decode("utf-8", "replace") if name is not None else str(chunk.get("type"))
        self.done = self.done or kind in _LAST_EVENTS
        return (b"" if name is None else b"event: " + name + b"\n") + _sse(chunk)


def reply(body: bytes, path: str, model: str) -> bytes:
    """A whole reply under our model name, its choices in vLLM's shape; `EngineFailed` when it cannot be read."""
    try:
        answer = cast(dict[str, Any], json.loads(body))
        if answer.get("error"):
            raise EngineFailed(_NOT_COMPLETED)  # some gateways answer 200 with an error in it
        if "model" in answer or path in _OPENAI_STREAMS:
            answer["model"] = model
        if path in _OPENAI_STREAMS:
            usage = _usage(answer.pop("usage", None))
            if usage is not None:
                answer["usage"] = usage
            for number, choice in enumerate(cast(list[dict[str, Any]], answer["choices"])):
                choice.setdefault("index", number)
                choice["finish_reason"] = _finish(choice.get("finish_reason"))
                if path == _CHAT:
                    message = cast(dict[str, Any], choice["message"])
                    _one_reasoning(message)
                    _calls(message)
        return _dump(answer)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise EngineFailed(_BROKEN) from None


def error_text(body: bytes) -> tuple[str, str | None]:
    """Message and code of an error body in one of the shapes in use; empty and None when it has none."""
    try:
        document = cast(dict[str, Any], json.loads(body))
        error: object = document.get("error") or document.get("detail") or document.get("message")
        if not isinstance(error, dict):
            return (error, None) if isinstance(error, str) else ("", None)
        told = cast(dict[str, Any], error)
        message, code = str(told.get("message") or ""), told.get("code")
        if told.get("type") == "exceed_context_size_error":  # llama.cpp's own server; the ingress reads these words
            message = (
                f"This model's maximum context length is {int(told['n_ctx'])} tokens. However, your request contains "
                f"{int(told['n_prompt_tokens'])} input tokens."
            )
        return message, code if isinstance(code, str) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", None


def retry_after_s(header: str | None, now_ms: int) -> int:
    """The seconds of a `retry-after` header, as a number or a date, within 1..60; 2 when it says nothing."""
    if header is None:
        return 2
    try:
        wait_s = float(header)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(header).timestamp() - now_ms / 1000
        except (ValueError, OverflowError):
            return 2
    return 2 if wait_s != wait_s else int(max(1.0, min(60.0, wait_s)))


def _client(settings: UpstreamSettings, transport: httpx2.AsyncBaseTransport | None) -> httpx2.AsyncClient:
    try:
        verify = ssl.create_default_context(cafile=settings.ca_file) if settings.ca_file else True
    except (OSError, ssl.SSLError):
        raise EngineFailed(f"The file {settings.ca_file} does not hold certificates that can be read.") from None
    return httpx2.AsyncClient(
        verify=verify,
        trust_env=False,  # no proxy that the environment happens to name
        follow_redirects=False,
        # An upstream's cookies would be sent along with the next tenant's request.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=settings.health_timeout_s,
        limits=httpx2.Limits(
            max_connections=settings.max_connections + 1,  # one more, so that the health probe need not wait
            max_keepalive_connections=settings.max_connections,
            keepalive_expiry=settings.keep_alive_s,
        ),
        transport=transport,
    )


async def _read(response: httpx2.Response, limit_bytes: int, cut: bool = False) -> bytes:
    """A body of at most `limit_bytes`; a longer one is cut, or `EngineFailed`."""
    _check_encoding(response)
    body = bytearray()
    async for data in response.aiter_raw():
        body += data
        if len(body) > limit_bytes:
            if cut:
                return bytes(body[:limit_bytes])
            raise EngineFailed("The model's answer is too long.")
    return bytes(body)


def _check_type(response: httpx2.Response, stream: bool) -> None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (kind == "text/event-stream") is not stream:
        raise EngineFailed(_BROKEN)
    _check_encoding(response)


def _check_encoding(response: httpx2.Response) -> None:
    """Compressed bodies were not asked for: what they unpack to would have no bound."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise EngineFailed(_BROKEN)


def _lists(body: bytes, model: str) -> bool:
    """True when a `/models` body names `model`; Ollama lists `name:latest` for `name`."""
    try:
        entries = cast(dict[str, Any], json.loads(body))["data"]
        names = {entry["id"] for entry in cast(list[dict[str, Any]], entries)}
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return model in names or f"{model}:latest" in names


def _fields(event: bytes) -> tuple[bytes | None, bytes | None]:
    """Name and payload of an event (WHATWG HTML, section 9.2); both None for a comment."""
    if event.startswith(b"data:") and b"\n" not in event:
        return None, event[5:].strip()
    name: bytes | None = None
    data: list[bytes] = []
    for line in event.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.strip()
        elif field == b"error":  # llama.cpp's server has sent errors like this
            data.append(b'{"error":true}')
    return name, b"\n".join(data).strip() if data else None


def _finish(reason: object) -> str | None:
    """A finish reason; some servers write an empty one for "not yet"."""
    if reason is None or reason == "":
        return None
    return "tool_calls" if reason == "function_call" else str(reason)


def _usage(usage: object) -> dict[str, Any] | None:
    """A usage object whose counts can be believed to be counts; None otherwise, and the ledger estimates."""
    if not isinstance(usage, dict):
        return None
    told = cast(dict[str, Any], usage)
    for place in (told, told.get("prompt_tokens_details") or {}, told.get("completion_tokens_details") or {}):
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"):
            count = place.get(name) or 0
            if type(count) is not int or not 0 <= count < _MOST_TOKENS:
                return None
    return told if "prompt_tokens" in told and "completion_tokens" in told else None


def _one_reasoning(message: dict[str, Any]) -> None:
    """Keep one of the two spellings of reasoning; the ingress reads both, but not side by side."""
    if "reasoning" in message and "reasoning_content" in message:
        first, second = message.pop("reasoning_content"), message["reasoning"]
        message["reasoning"] = second if isinstance(second, str) and second else first


def _calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls of a delta or message, put right in place: llama-cpp-python says each of them twice."""
    calls = cast(list[dict[str, Any]], message.get("tool_calls") or [])
    if calls:
        message.pop("function_call", None)
    elif "tool_calls" in message:
        del message["tool_calls"]
    if message.get("function_call") is None:
        message.pop("function_call", None)
    for call in calls:
        function = cast(dict[str, Any], call.get("function") or {})
        if isinstance(function.get("arguments"), dict):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return calls


def _slot(slots: list[_Slot], call: Mapping[str, Any]) -> int:
    """The index of a call's piece among the calls of its choice.

    Ollama gives every call the index 0, older servers none at all: a piece with a name, and with another id than the
    call in its place, begins another call.
    """
    given, call_id = call.get("index"), str(call.get("id") or "")
    named = bool(cast(dict[str, Any], call.get("function") or {}).get("name"))
    same = [at for at, slot in enumerate(slots) if call_id and slot.call_id == call_id]
    if not same and isinstance(given, int):
        same = [at for at, slot in enumerate(slots) if slot.given == given]
    elif not same and not named and slots:
        same = [len(slots) - 1]
    if not same or (named and call_id and slots[same[-1]].call_id not in ("", call_id)):
        slots.append(_Slot(given, call_id))
        return len(slots) - 1
    slots[same[-1]].call_id = slots[same[-1]].call_id or call_id
    return same[-1]


def _sse(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + _dump(chunk) + b"\n\n"


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _ascii(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
