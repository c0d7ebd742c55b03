"""Clients behind a gateway, and every answer that they got: which kind, how it ended, and what it says of itself.

The gateway is as small as one can be: it sends to machines whose proxy says that it is healthy, and tries the next one
when nobody takes its connection. It never repeats a request that was taken.
"""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp

from serve_app.bench.stream import EventReader
from tests.resilience.graph import MODEL, TOKEN_MS
from tests.resilience.nodes import PACE, Machine

KINDS = ("chat", "whole", "messages", "responses")
LONG = "long"
LONG_TOKENS = round(15_000 / TOKEN_MS)
"""A stream of fifteen seconds."""
_PATHS = {"messages": "/v1/messages", "responses": "/v1/responses"}
_PROBE_S = 1.0
_PAUSE_S = 0.5  # of a client between an answer and its next request
_LIMIT_S = 180.0 * PACE
_HEADERS = {"content-type": "application/json", "anthropic-version": "2023-06-01"}


class Ending(StrEnum):
    """How a request ended."""

    WHOLE = "answered"
    REFUSED = "refused in its dialect"
    ERROR_EVENT = "ended with an error event"
    FOREIGN = "refused in no dialect"
    SILENT = "cut, and nobody said so"
    BROKEN = "connection broke in the answer"
    GONE = "connection broke before the answer"
    NOBODY = "nobody took it"


CLEAN = frozenset({Ending.REFUSED, Ending.ERROR_EVENT, Ending.NOBODY})
"""A client knows what happened, in words of its own dialect or because nothing was sent."""


@dataclass
class Reply:
    """What a client was told. `machine`: through whose proxy. Times are seconds on the event loop's clock."""

    request_id: str
    kind: str
    machine: str = ""
    began_s: float = 0.0
    ended_s: float = 0.0
    ending: Ending = Ending.NOBODY
    status: int = 0
    code: str = ""
    detail: str = ""
    rerouted: int = 0
    tokens: tuple[int, int] | None = None
    expected: tuple[int, int] | None = None
    """What the token clock counts for such a request, where the request alone says it."""
    receipt: tuple[int, str] | None = None
    """Index and leaf hash of the record that was acknowledged with the answer."""
    route_id: str = ""

    @property
    def whole(self) -> bool:
        return self.ending is Ending.WHOLE


@dataclass
class Load:
    """Requests of one tenant's keys; what a client may choose is drawn by `seed`. `machines` answers who may serve."""

    machines: Callable[[], Sequence[Machine]]
    keys: Sequence[str]
    name: str
    seed: int = 7
    replies: list[Reply] = field(default_factory=list[Reply])
    open: dict[str, Reply] = field(default_factory=dict[str, Reply])
    healthy: list[Machine] = field(default_factory=list[Machine])
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _stopping: bool = False

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def count(self, *endings: Ending) -> int:
        """Requests that ended so."""
        return sum(reply.ending in endings for reply in self.replies)

    def counts(self) -> Counter[str]:
        """How requests ended."""
        return Counter(reply.ending.value for reply in self.replies)

    async def run(self, short: int, long: int) -> None:
        """So many clients, each with one request after the other, until `stop`; returns with their last answers."""
        async with self._session() as session:
            probing = asyncio.create_task(self._probe(session))
            try:
                while not self.healthy:
                    await asyncio.sleep(0.1)
                clients = [self._client(session, KINDS) for _ in range(short)]
                await asyncio.gather(*clients, *(self._client(session, (LONG,)) for _ in range(long)))
            finally:
                probing.cancel()
                await asyncio.gather(probing, return_exceptions=True)

    def stop(self) -> None:
        """Let every client finish what it waits for."""
        self._stopping = True

    def streaming(self, machine: str) -> int:
        """Long streams that are under way through a machine's proxy."""
        return sum(each.kind == LONG and each.machine == machine and each.status == 200 for each in self.open.values())

    async def _probe(self, session: aiohttp.ClientSession) -> None:
        async def well(machine: Machine) -> bool:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                limit = aiohttp.ClientTimeout(total=5)
                async with session.get(f"{machine.url}/-/healthz", timeout=limit) as reply:
                    return reply.status == 200
            return False

        while True:
            machines = list(self.machines())
            found = await asyncio.gather(*(well(each) for each in machines))
            self.healthy = [each for each, good in zip(machines, found, strict=True) if good]
            await asyncio.sleep(_PROBE_S)

    async def _client(self, session: aiohttp.ClientSession, kinds: Sequence[str]) -> None:
        while not self._stopping:
            reply = await self._one(session, kinds)
            self.replies.append(reply)
            await asyncio.sleep(_PAUSE_S)

    def _session(self) -> aiohttp.ClientSession:
        # A connection for each request: one that breaks then says nothing of any other request.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=_LIMIT_S, sock_connect=3)
        return aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=1 << 20)

    async def _one(self, session: aiohttp.ClientSession, kinds: Sequence[str]) -> Reply:
        number = next(self.numbers)
        kind = kinds[number % len(kinds)]
        tokens = LONG_TOKENS if kind == LONG else self._random.randint(4, 12)
        body, expected = request(kind, number, tokens)
        reply = Reply(f"{self.name}-r{number}", kind, expected=expected)
        key = self.keys[self._random.randrange(len(self.keys))]
        headers = {**_HEADERS, "authorization": f"Bearer {key}", "x-request-id": reply.request_id}
        clock = asyncio.get_running_loop().time
        reply.began_s = clock()
        self.open[reply.request_id] = reply
        choices = self._random.sample(self.healthy, len(self.healthy))
        try:
            for machine in choices:
                reply.machine = machine.name
                try:
                    await self._send(session, machine, body, headers, reply)
                    break
                except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                    reply.rerouted += 1
        finally:
            reply.ended_s = clock()
            del self.open[reply.request_id]
        return reply

    async def _send(
        self,
        session: aiohttp.ClientSession,
        machine: Machine,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        reply: Reply,
    ) -> None:
        reader, whole = EventReader(), b""
        path = _PATHS.get(reply.kind, "/v1/chat/completions")
        try:
            async with session.post(f"{machine.url}{path}", json=body, headers=headers) as response:
                reply.status = response.status
                index, leaf = (response.headers.get(f"x-gatehouse-{name}") for name in ("audit-index", "receipt"))
                if index is not None and leaf is not None:
                    reply.receipt = (int(index), leaf)
                reply.route_id = response.headers.get("x-gatehouse-route-id", "")
                if response.status != 200 or reply.kind == "whole":
                    whole = await response.read()
                else:
                    async for piece in response.content.iter_any():
                        reader.feed(piece)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reply.detail = f"{type(error).__name__}: {error}"[:200]
            if reader.error:  # the connection ended after the last event, as it must
                reply.ending = Ending.ERROR_EVENT
            else:
                reply.ending = Ending.BROKEN if reply.status else Ending.GONE
            return
        if reply.status != 200:
            reply.code = code_of(reply.kind, whole)
            reply.ending = Ending.REFUSED if reply.code else Ending.FOREIGN
            reply.detail = "" if reply.code else whole[:200].decode("utf-8", "replace")
        elif reply.kind == "whole":
            try:
                reply.tokens = _tokens(json.loads(whole)["usage"])
                reply.ending = Ending.WHOLE
            except (ValueError, KeyError, TypeError) as error:  # HTTP calls it complete, and it is not
                reply.ending, reply.detail = Ending.SILENT, type(error).__name__
        elif reader.error:
            reply.ending = Ending.ERROR_EVENT
        elif reader.done and not reader.malformed and reader.usage:
            reply.tokens = _tokens(reader.usage)
            reply.ending = Ending.WHOLE
        else:
            reply.ending = Ending.SILENT
            reply.detail = f"done {reader.done}, malformed {reader.malformed}, events {reader.events}"


def request(kind: str, number: int, tokens: int) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """The body of a request, and what the token clock counts for it; None where the dialect does not let it show."""
    messages = [{"role": "user", "content": f"question {number}"}]
    if kind == "responses":
        return {"model": MODEL, "input": f"question {number}", "stream": True, "store": False,
                "max_output_tokens": max(16, tokens)}, None  # fmt: skip
    body: dict[str, Any] = {"model": MODEL, "messages": messages, "max_tokens": tokens}
    if kind == "messages":
        return body | {"stream": True}, None
    expected = (max(1, len(json.dumps(messages)) // 4), tokens)
    if kind == "whole":
        return body, expected
    return body | {"stream": True, "stream_options": {"include_usage": True}}, expected


def code_of(kind: str, body: bytes) -> str:
    """The word for a refusal in the dialect of the request; empty when it is in another one."""
    with suppress(ValueError, KeyError, TypeError):
        told = json.loads(body)
        error = told["error"]
        if kind == "messages":
            return str(error["type"]) if told["type"] == "error" and isinstance(error["message"], str) else ""
        return str(error["code"] or error["type"]) if isinstance(error["message"], str) else ""
    return ""


def _tokens(usage: Mapping[str, int]) -> tuple[int, int]:
    if "prompt_tokens" in usage:
        return usage["prompt_tokens"], usage["completion_tokens"]
    return usage["input_tokens"], usage["output_tokens"]
