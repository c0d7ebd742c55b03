"""Requests of a drill: how long a stream waited, how it ended, and what an answer says."""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import httpx2

from serve_app.drills.acting import Actor

_LONGEST_S = 180.0
Ending = Literal["completed", "error", "refused", "truncated"]


@dataclass(frozen=True, slots=True)
class Stream:
    """How a stream went. `truncated`: it ended without an error event and without a regular end."""

    first_s: float | None
    ending: Ending
    code: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `route_id` names the decision that it came from."""

    status: int
    text: str
    route_id: str


class Crowd:
    """Several streams at once."""

    def __init__(self, who: Actor, model: str, tokens: int, size: int) -> None:
        self._who = who
        self._body = {"model": model, "prompt": "Count to one thousand.", "max_tokens": tokens, "stream": True}
        if tokens > 64:
            self._body["ignore_eos"] = True
        self._begun = [threading.Event() for _ in range(size)]
        self._pool = ThreadPoolExecutor(size)
        self._streams: Sequence[Future[Stream]] = []

    def start(self) -> "Crowd":
        """Send them."""
        self._streams = [self._pool.submit(self._one, begun) for begun in self._begun]
        return self

    @property
    def answered(self) -> int:
        """How many have their first token, or ended without."""
        return sum(each.is_set() for each in self._begun)

    def results(self) -> Sequence[Stream]:
        """How they went, as soon as all have ended."""
        try:
            return [each.result() for each in self._streams]
        finally:
            self._pool.shutdown()

    def _one(self, begun: threading.Event) -> Stream:
        began = time.perf_counter()
        first_s: float | None = None
        last = ""
        try:
            with (
                httpx2.Client(base_url=self._who.http.base_url, timeout=_LONGEST_S) as http,
                http.stream("POST", "/v1/completions", json=self._body, headers=self._who.headers) as reply,
            ):
                if reply.status_code != 200:
                    return Stream(None, "refused", _code(json.loads(reply.read() or b"{}")))
                for line in reply.iter_lines():
                    if line.startswith("data: ") and first_s is None:
                        first_s = time.perf_counter() - began
                        begun.set()
                    if line.startswith("data: "):
                        last = line[6:]
                        if '"error"' in last:
                            return Stream(first_s, "error", _code(json.loads(last)))
        except (httpx2.HTTPError, ValueError) as error:
            return Stream(first_s, "truncated", type(error).__name__)
        finally:
            begun.set()
        return Stream(first_s, "completed" if last == "[DONE]" else "truncated", "")


def ask(who: Actor, model: str, question: str, tokens: int) -> Reply:
    """One answer, not streamed."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_completion_tokens": tokens,
        "temperature": 0,
    }
    try:
        reply = who.http.post("/v1/chat/completions", json=body, headers=who.headers, timeout=_LONGEST_S)
        found: Any = reply.json()
        text = str(found["choices"][0]["message"].get("content") or "") if reply.is_success else _code(found)
    except (httpx2.HTTPError, ValueError, LookupError, TypeError):
        return Reply(0, "", "")
    return Reply(reply.status_code, text, reply.headers.get("x-gatehouse-route-id", ""))


def _code(body: Mapping[str, Any]) -> str:
    error = body.get("error")
    return str(error.get("code")) if isinstance(error, dict) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
