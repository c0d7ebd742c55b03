"""Clients of all kinds, many at once, and what each of them was told."""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.tenants.graph import SMALL

KINDS = ("whole", "stream", "messages", "hangup", "cascade")
_HEADERS = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
_LIMIT_S = 120.0


@dataclass
class Reply:
    """What a client was told. `tokens`: input and output as the answer counts them, None without a whole answer."""

    request_id: str
    kind: str
    tokens: tuple[int, int] | None = None
    expected: tuple[int, int] | None = None
    """What the token clock counts for such a request, computed from the request; None where a check is in between."""
    status: int = 0
    body: str = ""
    code: str = ""
    """The word for a refusal; `cut` for an answer that broke off, `gone` for no answer, `hung up` for our own doing."""

    @property
    def is_whole(self) -> bool:
        return self.tokens is not None


@dataclass
class Load:
    """Requests of one tenant's keys. Everything a client may do is chosen by `seed`."""

    url: str
    keys: Sequence[str]
    name: str
    kinds: Sequence[str] = KINDS
    tokens: tuple[int, int] = (8, 24)
    seed: int = 7
    replies: list[Reply] = field(default_factory=list[Reply])
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _stopping: bool = False

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @property
    def whole(self) -> int:
        """Whole answers so far."""
        return sum(reply.is_whole for reply in self.replies)

    def counts(self) -> Counter[str]:
        """How requests ended."""
        return Counter("answered" if reply.is_whole else reply.code for reply in self.replies)

    async def burst(self, count: int) -> None:
        """So many requests at the same moment, each once."""
        async with self._session() as session:
            await asyncio.gather(*(self._one(session) for _ in range(count)))

    async def clients(self, count: int) -> None:
        """So many clients, each with one request after the other, until `stop`."""
        async with self._session() as session:
            await asyncio.gather(*(self._client(session) for _ in range(count)))

    def stop(self) -> None:
        """Let every client finish what it waits for."""
        self._stopping = True

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._stopping:
            reply = await self._one(session)
            if not reply.is_whole and reply.code != "hung up":
                await asyncio.sleep(0.2)  # whoever is refused does not ask again at once

    def _session(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=_LIMIT_S)
        return aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(limit=0), timeout=timeout)

    async def _one(self, session: aiohttp.ClientSession) -> Reply:
        number = next(self._numbers)
        kind, key = self.kinds[number % len(self.kinds)], self.keys[self._random.randrange(len(self.keys))]
        most = self._random.randint(*self.tokens)
        messages = [{"role": "user", "content": f"question {number} " + "x" * self._random.randrange(40)}]
        body: dict[str, Any] = {"model": SMALL, "messages": messages, "max_tokens": most}
        if kind in ("stream", "hangup"):
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if kind == "cascade":  # the answer is no JSON: the larger model is asked, too
            body |= {"model": "auto", "route": {"cascade": True}, "response_format": {"type": "json_object"}}
        reply = Reply(f"{self.name}-r{number}", kind)
        if kind in ("whole", "stream"):
            reply.expected = (max(1, len(json.dumps(messages)) // 4), most)
        path = "/v1/messages" if kind == "messages" else "/v1/chat/completions"
        headers = {**_HEADERS, "authorization": f"Bearer {key}", "x-request-id": reply.request_id}
        try:
            async with session.post(path, json=body, headers=headers) as response:
                reply.status = response.status
                if response.status != 200:
                    reply.body = await response.text()
                    reply.code = _code(reply.body)
                elif kind == "hangup":
                    await response.content.readany()
                    reply.code = "hung up"
                    response.close()
                elif kind == "stream":
                    reply.tokens, reply.code = _streamed(await response.text())
                else:
                    reply.tokens = _usage(json.loads(await response.text())["usage"])
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            reply.code = "cut" if reply.status == 200 else "gone"
            reply.body = type(error).__name__
        self.replies.append(reply)
        return reply


def _code(body: str) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error.get("code") or error["type"])
    except (ValueError, KeyError, TypeError):
        return "not ours"  # of Serve's proxy, when a replica is gone


def _usage(usage: dict[str, int]) -> tuple[int, int]:
    if "prompt_tokens" in usage:
        return usage["prompt_tokens"], usage["completion_tokens"]
    return usage["input_tokens"], usage["output_tokens"]


def _streamed(text: str) -> tuple[tuple[int, int] | None, str]:
    """The count in the last event of a whole stream, or why there is none."""
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    failed = [event for event in events if "error" in event]
    if failed or not text.rstrip().endswith("data: [DONE]"):
        return None, "cut"
    return _usage(next(event["usage"] for event in reversed(events) if event.get("usage"))), ""
