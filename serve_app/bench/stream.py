"""One streamed request, timed from the client's side: `stream_once` -> `Sample`.

It reads the streams of every dialect, in whatever pieces they arrive, and never raises for what a server does wrong:
how a request ended is part of the sample. Texts of prompts and replies are not kept.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import aiohttp

_DONE = b"[DONE]"
_MAX_LINE = 1 << 22
_ENDS = ("response.completed", "response.incomplete", "message_stop")
_DELTAS = ("response.output_text.delta", "response.reasoning_text.delta", "content_block_delta")

OK = "ok"
ERROR_EVENT = "error event"
CUT = "cut stream"
CONNECTION = "connection"
TIMEOUT = "timeout"
MALFORMED = "malformed event"
NO_TEXT = "no text"


@dataclass(frozen=True, slots=True)
class Arrival:
    """What one read from the socket brought: `events` of them carried text. `at_s` counts from the request's start."""

    at_s: float
    events: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times are seconds.

    `ending` is `ok`, `status NNN`, or one of this module's constants; a sample that is not `ok` has no part in
    latencies. `started_s` is on the event loop's clock. `ttft_s` runs until the first event with text or reasoning;
    None when there was none. `events` counts all data events. Token counts are the server's own `usage`; None when it
    reported none.
    """

    ending: str
    status: int
    started_s: float
    ttft_s: float | None
    e2e_s: float
    arrivals: tuple[Arrival, ...] = ()
    events: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None

    @property
    def ok(self) -> bool:
        """True when the stream was complete: text, no error, and the end of its dialect."""
        return self.ending == OK

    @property
    def text_events(self) -> int:
        """Events that carried text or reasoning."""
        return sum(arrival.events for arrival in self.arrivals)

    @property
    def tokens(self) -> int:
        """Output tokens by `usage`; without it, events with text, which are close to tokens."""
        return self.text_events if self.output_tokens is None else self.output_tokens

    def chunk_gaps_s(self) -> Iterator[float]:
        """The time between one read with text and the next: what a person sees as stutter."""
        for before, after in zip(self.arrivals, self.arrivals[1:], strict=False):
            yield after.at_s - before.at_s

    def token_gaps_s(self) -> Iterator[float]:
        """Inter-token latencies: a gap is shared evenly by the tokens (events) that arrived together after it."""
        for before, after in zip(self.arrivals, self.arrivals[1:], strict=False):
            share_s = (after.at_s - before.at_s) / after.events
            for _ in range(after.events):
                yield share_s

    @property
    def per_token_s(self) -> float | None:
        """Time from first to last text per further token of `usage`; None with fewer than two tokens."""
        if len(self.arrivals) < 2 or self.tokens < 2:
            return None
        return (self.arrivals[-1].at_s - self.arrivals[0].at_s) / (self.tokens - 1)


class EventReader:
    """Server-sent events out of bytes in any fragmentation, and what they say about the reply."""

    def __init__(self) -> None:
        self.events = 0
        self.done = False
        self.error = False
        self.malformed = False
        self.usage: Mapping[str, Any] = {}
        self._tail = b""

    def feed(self, data: bytes) -> int:
        """Take the next bytes of the body; returns how many events with text became complete by them."""
        *lines, self._tail = (self._tail + data).split(b"\n")
        if len(self._tail) > _MAX_LINE:
            self.malformed, self._tail = True, b""
        return sum(self._line(line) for line in lines)

    def _line(self, line: bytes) -> bool:
        if not line.startswith(b"data:"):
            return False  # a blank line, a comment that keeps the connection alive, an event's name
        text = line[5:].strip()
        self.events += 1
        if text == _DONE:
            self.done = True
            return False
        try:
            value: object = json.loads(text)
        except ValueError:
            self.malformed = True
            return False
        if not isinstance(value, dict):
            self.malformed = True
            return False
        event = cast(dict[str, Any], value)
        kind = event.get("type")
        if event.get("error") or kind == "response.failed":
            self.error = True
            return False
        if kind in _ENDS:
            self.done = True
        response = event.get("response")
        usage = cast(dict[str, Any], response).get("usage") if isinstance(response, dict) else event.get("usage")
        if isinstance(usage, dict):
            self.usage = cast(dict[str, Any], usage)
        return _has_text(event)


def _has_text(event: Mapping[str, Any]) -> bool:
    """True when an event of any API carries text or reasoning; an announced role alone is none."""
    delta = event.get("delta")
    if event.get("type") in _DELTAS and delta:
        parts = cast(dict[str, Any], delta) if isinstance(delta, dict) else {"text": delta}
        return bool(parts.get("text") or parts.get("thinking"))
    choices = event.get("choices")
    for choice in cast(list[Any], choices) if isinstance(choices, list) else []:
        if not isinstance(choice, dict):
            continue
        fields = cast(dict[str, Any], choice)
        if fields.get("text"):
            return True
        delta = fields.get("delta")
        if isinstance(delta, dict):
            parts = cast(dict[str, Any], delta)
            if parts.get("content") or parts.get("reasoning") or parts.get("reasoning_content"):
                return True
    return False


async def stream_once(
    session: aiohttp.ClientSession,
    url: str,
    key: str | None,
    body: Mapping[str, Any],
    *,
    timeout_s: float = 300.0,
    headers: Mapping[str, str] | None = None,
) -> Sample:
    """Send one streamed request and read its reply to the end.

    `url` is the full address of the endpoint and `body` a request with `stream: true`; with
    `stream_options.include_usage` the sample has token counts. `session` should have no connection limit of its own,
    or requests wait in the client. Cancelling closes the connection.
    """
    clock = asyncio.get_running_loop().time
    reader = EventReader()
    arrivals: list[Arrival] = []
    status = 0
    all_headers = {"content-type": "application/json", **(headers or {})}
    if key:
        all_headers["authorization"] = f"Bearer {key}"
    data = json.dumps(body).encode()
    failed: str | None = None
    started_s = clock()
    try:
        async with (
            asyncio.timeout(timeout_s),
            session.post(url, data=data, headers=all_headers, timeout=aiohttp.ClientTimeout(total=None)) as reply,
        ):
            status = reply.status
            if status != 200:
                failed = f"status {status}"
                await reply.read()
            else:
                async for piece in reply.content.iter_any():
                    text_events = reader.feed(piece)
                    if text_events:
                        arrivals.append(Arrival(clock() - started_s, text_events))
    except TimeoutError:
        failed = TIMEOUT
    except aiohttp.ClientPayloadError:
        failed = CUT  # the body ended before its length or its last chunk
    except (aiohttp.ClientError, OSError):
        failed = CUT if status == 200 else CONNECTION
    e2e_s = clock() - started_s
    usage = reader.usage
    return Sample(
        ending=_ending(failed, reader, bool(arrivals)),
        status=status,
        started_s=started_s,
        ttft_s=arrivals[0].at_s if arrivals else None,
        e2e_s=e2e_s,
        arrivals=tuple(arrivals),
        events=reader.events,
        prompt_tokens=_count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        output_tokens=_count(usage.get("completion_tokens", usage.get("output_tokens"))),
        cached_tokens=_cached(usage),
    )


def _ending(failed: str | None, reader: EventReader, text: bool) -> str:
    if reader.error:
        return ERROR_EVENT
    if failed is not None:
        return failed
    if reader.malformed:
        return MALFORMED
    if not reader.done:
        return CUT
    return OK if text else NO_TEXT


def _cached(usage: Mapping[str, Any]) -> int | None:
    if "cache_read_input_tokens" in usage:
        return _count(usage["cache_read_input_tokens"])
    details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    return _count(cast(dict[str, Any], details).get("cached_tokens")) if isinstance(details, dict) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
