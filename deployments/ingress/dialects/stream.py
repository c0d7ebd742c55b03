"""What the streams of both OpenAI dialects share: events, usage, ends, and the fast path."""

import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, cast

from deployments.errors import EngineFailed, GatehouseError
from deployments.ingress.dialects.sse import DONE, EventSplitter, data_event, data_of
from deployments.ingress.dialects.upstream import UNREADABLE, error_of
from deployments.ingress.dialects.values import Emit, Failure, Step
from deployments.ports import JsonValue, Receipt, Usage, Verdict

# An event with none of these holds text or reasoning of an unfinished choice, and nothing that has to be looked at.
# JSON may spell any of the words with an escape, so an event with an escaped ASCII letter is parsed as well.
_MARKERS = (
    b'"tool_calls"',
    b'"function_call"',
    b'"finish_reason":"',
    b'"finish_reason": "',
    b'"usage":{',
    b'"usage": {',
    b'"error"',
    b"\\u00",
    b"[DONE]",
)


COMMENT = b": keep-alive\n\n"
DATA_AFTER_S = 55.0
"""Silence after which a keepalive is an event of the dialect: clients that count data hang up after 300 s."""

_MOST_TOKENS = 10**9  # of one reply: beyond the window of any model
_SAID = (b'"content":"', b'"reasoning":"', b'"reasoning_content":"', b'"text":"')


class Observed:
    """What every reply tells of itself, streamed or whole."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._receipt: Receipt | None = None
        self._usage: Usage | None = None
        self._finished: list[str] = []
        self._saw_text: bool = False
        self._done: bool = False

    @property
    def usage(self) -> Usage | None:
        """The engine's own count, once it has come."""
        return self._usage

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """Finish reasons as the client sees them."""
        return tuple(self._finished)

    @property
    def saw_text(self) -> bool:
        """True when text or reasoning went out."""
        return self._saw_text

    @property
    def ended(self) -> bool:
        """True once the last event of a stream is written."""
        return self._done

    def repaired(self, notes: Sequence[str]) -> None:
        """Calls of this reply are untrusted from now on."""
        self._notes += notes

    def receipt(self, receipt: Receipt | None) -> None:
        """The receipt of the routing record."""
        self._receipt = receipt

    @property
    def final(self) -> Mapping[str, JsonValue] | None:
        """Nothing is stored of the OpenAI dialects that have no state."""
        return None

    def keepalive(self, silent_s: float) -> bytes:
        """A comment at first; then data, because that is what a client's own timer counts."""
        return COMMENT if silent_s < DATA_AFTER_S else self._idle()

    def failed(self, failure: Failure) -> bytes:
        """The error as an event; no `[DONE]` follows."""
        return data_event(failure.body)

    def _idle(self) -> bytes:
        """An event that says nothing."""
        return COMMENT


class EventSteps(Observed, ABC):
    """A streamed reply of an engine, which ends in `data: [DONE]`, taken event by event.

    Subclasses put what leaves into `_out`, and set `_waiting` from a `Judge` on until its verdicts have come.
    """

    def __init__(self) -> None:
        super().__init__()
        self._splitter = EventSplitter()
        self._events: deque[bytes] = deque()
        self._out: deque[Step] = deque()
        self._waiting = False
        self._broken: GatehouseError | None = None

    def feed(self, data: bytes) -> None:
        """Take engine bytes, cut anywhere."""
        self._events.extend(self._splitter.feed(data))

    def close(self) -> None:
        """The engine's body has ended: only a `[DONE]` makes that a success."""
        if self._waiting or self._events:
            raise RuntimeError("close() before every step was taken")
        if not self._done or self._splitter.rest.strip():
            raise EngineFailed("The model's answer ended before it was complete.")

    def step(self) -> Step | None:
        """What to do next. Neighbouring events that need no judgement leave as one chunk."""
        if self._broken is not None:
            raise self._broken
        passed: list[bytes] = []
        while True:
            if self._out:
                first = self._out[0]
                if not isinstance(first, Emit):
                    break
                self._out.popleft()
                passed.append(first.data)
            elif self._events and not self._waiting:
                try:
                    self._take(self._events.popleft())
                except GatehouseError as error:
                    self._broken = error
                    if passed:  # what came before it is good, however the bytes were cut
                        return Emit(b"".join(passed))
                    raise
            else:
                break
        if passed:
            return Emit(b"".join(passed))
        return self._out.popleft() if self._out else None

    @abstractmethod
    def _comment(self, event: bytes) -> None:
        """An event that is nothing but comments."""

    @abstractmethod
    def _chunk(self, chunk: dict[str, Any]) -> None:
        """A parsed chunk that is no error. Raises one of `UNREADABLE` for a shape it does not know."""

    @abstractmethod
    def _over(self) -> bool:
        """True when every choice that began has its finish reason."""

    @abstractmethod
    def _complete(self) -> None:
        """The engine said `[DONE]` after a complete reply."""

    def _take(self, event: bytes) -> None:
        if self._done:
            raise EngineFailed("The model's answer went on after its end.")
        payload = data_of(event)
        if payload is None:
            if not all(line.startswith(b":") for line in event.splitlines() if line):  # a field we do not know
                raise EngineFailed("The model's answer could not be read.")
            self._comment(event)
        elif payload == b"[DONE]":
            if not self._over():
                raise EngineFailed("The model's answer ended before it was complete.")
            self._done = True
            self._complete()
        else:
            self._parse(payload)

    def _parse(self, payload: bytes) -> None:
        try:
            chunk = cast(dict[str, Any], json.loads(payload))
            if "error" in chunk:
                error = cast(dict[str, Any], chunk["error"])
                code = error.get("code")
                raise error_of(code if isinstance(code, int) else 500, str(error.get("message", "")), None)
            self._chunk(chunk)
        except UNREADABLE as error:
            raise EngineFailed("The model's answer could not be read.") from error


class OpenAiStream(EventSteps, ABC):
    """A streamed reply that leaves as it came, but for its calls. Subclasses say what a choice means."""

    def __init__(self, include_usage: bool) -> None:
        super().__init__()
        self._include_usage = include_usage

    @abstractmethod
    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """The verdicts on the calls of the last `Judge`."""

    @abstractmethod
    def _choice(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        """One choice of a parsed chunk."""

    @abstractmethod
    def _unfinished(self) -> bool:
        """True while a choice that began has no finish reason."""

    def _take(self, event: bytes) -> None:
        if self._done or not event.startswith(b"data: ") or any(marker in event for marker in _MARKERS):
            super()._take(event)
            return
        self._saw_text |= any(said in event and said + b'"' not in event for said in _SAID)
        self._out.append(Emit(event.replace(b'"reasoning":', b'"reasoning_content":')))

    def _comment(self, event: bytes) -> None:
        self._out.append(Emit(event))

    def _over(self) -> bool:
        return not self._unfinished() and bool(self._finished)  # text on the fast path opens no choice

    def _complete(self) -> None:
        self._out.append(Emit(DONE))

    def _chunk(self, chunk: dict[str, Any]) -> None:
        choices = cast(list[dict[str, Any]], chunk["choices"])
        usage = chunk.pop("usage", None)
        if usage:
            self._usage = usage_of(cast(dict[str, Any], usage))
            if not choices and self._include_usage:
                self._out.append(Emit(data_event(dump(chunk | {"usage": usage}))))
        for choice in choices:
            self._choice(chunk, choice)

    def _finish_choice(
        self, chunk: dict[str, Any], choice: dict[str, Any], extra: dict[str, JsonValue], audit: Receipt | None
    ) -> None:
        self._finished.append(str(choice["finish_reason"]))
        if audit is not None:
            extra["audit"] = {"index": audit.index, "leaf": audit.leaf_hash.hex()}
        body = {**chunk, "choices": [choice]}
        if extra:
            body["x_gatehouse"] = extra
        self._out.append(Emit(data_event(dump(body))))

    def _emit(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        self._out.append(Emit(data_event(dump({**chunk, "choices": [choice]}))))


def finish_of(choice: Mapping[str, Any]) -> str | None:
    """The finish reason of a choice, None while it goes on.

    An engine that gave a request up says `abort` or `error`: no end that may look like one (`EngineFailed`).
    """
    reason = choice.get("finish_reason")
    if reason in ("abort", "error"):
        raise EngineFailed("The model's answer ended before it was complete.")
    return None if reason is None else str(reason)


def usage_of(usage: Mapping[str, Any]) -> Usage:
    """An OpenAI `usage` object in our words; what is absent counts as zero, and so does less than nothing.

    No part is larger than its whole, and nothing than what the books can hold.
    """
    prompt_details = cast(Mapping[str, Any], usage.get("prompt_tokens_details") or {})
    completion_details = cast(Mapping[str, Any], usage.get("completion_tokens_details") or {})
    read = _count(usage.get("prompt_tokens"), _MOST_TOKENS)
    written = _count(usage.get("completion_tokens"), _MOST_TOKENS)
    return Usage(
        input_tokens=read,
        cached_tokens=_count(prompt_details.get("cached_tokens"), read),
        output_tokens=written,
        reasoning_tokens=_count(completion_details.get("reasoning_tokens"), written),
    )


def _count(value: Any, most: int) -> int:
    return min(max(int(value or 0), 0), most)


def mended(text: str) -> str:
    """The text with U+FFFD for every half of a surrogate pair: JSON can spell those, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def dump(value: Mapping[str, Any]) -> bytes:
    """Compact UTF-8 JSON, as the engine writes it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return mended(text).encode()
