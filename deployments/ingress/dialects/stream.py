"""What the streams of both OpenAI dialects share: events, usage, ends, and the fast path."""

import json
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from deployments.errors import EngineFailed, GatehouseError
from deployments.ingress.dialects import shapes
from deployments.ingress.dialects.calls import lawful, mended
from deployments.ingress.dialects.sse import DONE, EventSplitter, data_event, data_of
from deployments.ingress.dialects.upstream import UNREADABLE, error_of
from deployments.ingress.dialects.values import Emit, Failure, Judge, Step
from deployments.ports import JsonValue, Receipt, Released, ToolCall, Usage, Verdict

DROPPED = "unknown_field"
"""Why a field was withheld that is no call: see `ReplyFilter.withheld`."""

COMMENT = b": keep-alive\n\n"
DATA_AFTER_S = 55.0
"""Silence after which a keepalive is an event of the dialect: clients that count data hang up after 300 s."""

_MOST_TOKENS = 10**9  # of one reply: beyond the window of any model
_FRAMES = 32  # of one stream, the newest: one per choice, and some engines write the time into every event
_PROBE = "gatehouse"
# A JSON text without an escape that spells ASCII: no word that has to be looked at can hide in it.
_TEXT = rb'"((?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u(?!00)[0-9a-fA-F]{4}))*)"'


class Observed:
    """What every reply tells of itself, streamed or whole."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._receipt: Receipt | None = None
        self._usage: Usage | None = None
        self._finished: list[str] = []
        self._saw_text: bool = False
        self._done: bool = False
        self._withheld: list[str] = []
        self._held = 0
        self._noted: dict[str, JsonValue] = {}

    @property
    def held(self) -> int:
        """How many calls were not released."""
        return self._held

    @property
    def withheld(self) -> Sequence[str]:
        """Why something of the engine's reply stayed here, once for each: see `values.ReplyFilter`."""
        return self._withheld

    def _lawful(self, calls: Sequence[ToolCall], verdicts: Sequence[Verdict]) -> list[Verdict]:
        """The verdicts as far as they are acted on."""
        kept = lawful(calls, verdicts)
        self._held += sum(not isinstance(verdict, Released) for verdict in kept)
        return kept

    def _dropped(self, fields: int) -> None:
        """Fields that nobody knows and that are no calls were left out."""
        self._withheld += [DROPPED] * fields

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

    def note(self, extension: Mapping[str, JsonValue]) -> None:
        """More of the reply's `x_gatehouse`."""
        self._noted |= extension

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


@dataclass(frozen=True, slots=True)
class Spoken:
    """An event that holds one text of one choice, and nothing else: `event[start:end]` is `"KEY":"TEXT"`."""

    event: bytes
    index: int
    key: bytes
    raw: bytes  # the text, as JSON writes it between the quotes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """What is around the text of a choice in all of its events. Whatever text stands in it, it is nothing but text."""

    head: bytes
    tail: bytes
    index: int


@dataclass(slots=True)
class _Judging:
    """The end of a choice while its calls are judged, batch by batch."""

    chunk: dict[str, Any]
    choice: dict[str, Any]
    batches: deque[tuple[ToolCall, ...]]
    calls: list[ToolCall] = field(default_factory=list["ToolCall"])
    verdicts: list[Verdict] = field(default_factory=list["Verdict"])


class OpenAiStream(EventSteps, ABC):
    """A streamed reply that leaves as it came, but for its calls and what is not known. Subclasses know the choices.

    The fast path: engines wrap every piece of text of a choice into the same bytes. A wrapping is read once, by a
    parser that knows what may be in it (`shapes.py`); from then on an event in it leaves as it came.
    """

    _keys: bytes  # the names of texts, for a regular expression

    def __init__(self, include_usage: bool) -> None:
        super().__init__()
        self._include_usage = include_usage
        self._frames: deque[_Frame] = deque(maxlen=_FRAMES)
        self._text = re.compile(rb'"(' + self._keys + rb')": ?' + _TEXT)
        self._judging: _Judging | None = None
        self._items: list[shapes.Item] = []  # that nobody knows, until a choice ends

    @abstractmethod
    def _choice(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        """One choice of a parsed chunk."""

    @abstractmethod
    def _spoke(self, spoken: Spoken) -> None:
        """One text of a choice, on the fast path."""

    @abstractmethod
    def _said(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Where a choice has its texts."""

    @abstractmethod
    def _conclude(self, chunk: dict[str, Any], choice: dict[str, Any], verdicts: Sequence[Verdict]) -> None:
        """Write the end of a choice, now that there is a verdict on all of its calls."""

    @abstractmethod
    def _unfinished(self) -> bool:
        """True while a choice that began has no finish reason."""

    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """The verdicts on the calls of the last `Judge`."""
        judging = self._judging
        if judging is None or not self._waiting:
            raise RuntimeError("resolve() without its Judge")
        judging.verdicts += self._lawful(judging.batches[0], verdicts)
        judging.batches.popleft()
        self._waiting = False
        self._next(judging)

    def _judge(self, chunk: dict[str, Any], choice: dict[str, Any], *batches: tuple[ToolCall, ...]) -> None:
        """Have calls judged before the end of their choice is written; each batch by itself."""
        self._judging = _Judging(chunk, choice, deque(batch for batch in batches if batch))
        self._next(self._judging)

    def _next(self, judging: _Judging) -> None:
        if judging.batches:
            self._waiting = True
            self._out.append(Judge(judging.batches[0]))
        else:
            self._judging = None
            self._conclude(judging.chunk, judging.choice, judging.verdicts)

    def _take(self, event: bytes) -> None:
        spoken = None if self._done else self._plain(event)
        if spoken is None:
            super()._take(event)
        else:
            self._spoke(spoken)

    def _plain(self, event: bytes) -> Spoken | None:
        """The event as one text, if it is nothing else."""
        for frame in self._frames:
            if event.startswith(frame.head) and event.endswith(frame.tail):
                found = self._text.fullmatch(event, len(frame.head), len(event) - len(frame.tail))
                if found is not None and (event.isascii() or _utf8(event)):
                    return Spoken(event, frame.index, found[1], found[2], found.start(), found.end())
        found = self._text.search(event)
        if found is None or (frame := self._framed(event[: found.start()], found[1], event[found.end() :])) is None:
            return None
        self._frames.appendleft(frame)
        return Spoken(event, frame.index, found[1], found[2], found.start(), found.end()) if _utf8(event) else None

    def _framed(self, head: bytes, key: bytes, tail: bytes) -> _Frame | None:
        """The frame, if whatever text of that name is put into it is the text of a choice that goes on."""
        payload = data_of(head + b'"' + key + b'":"' + _PROBE.encode() + b'"' + tail)
        if payload is None or b"\n" in payload:
            return None
        try:
            chunk = cast(dict[str, Any], json.loads(payload, object_pairs_hook=_once))
            (choice,) = cast(list[dict[str, Any]], chunk["choices"])
            said = {name: value for name, value in self._said(choice).items() if value}
            if said.pop("role", "assistant") != "assistant" or said != {key.decode(): _PROBE}:
                return None
            unknown = (*shapes.known(chunk, shapes.CHUNK)[1:], *shapes.known(choice, shapes.CHOICE)[1:])
            ends = any(choice.get(name) is not None for name in ("finish_reason", "logprobs", "stop_reason"))
            if any(unknown) or ends or chunk.get("usage") or "error" in chunk:
                return None
            return _Frame(head, tail, int(choice.get("index", 0)))
        except UNREADABLE:
            return None

    def _comment(self, event: bytes) -> None:
        self._out.append(Emit(event))

    def _over(self) -> bool:
        return not self._unfinished() and bool(self._finished)

    def _complete(self) -> None:
        self._out.append(Emit(DONE))

    def _chunk(self, chunk: dict[str, Any]) -> None:
        choices = cast(list[dict[str, Any]], chunk["choices"])
        usage = chunk.pop("usage", None)
        chunk, items, dropped = shapes.known(chunk, shapes.CHUNK)
        self._items += items
        self._dropped(dropped)
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
        extra = {**self._noted, **extra}
        if audit is not None:
            extra["audit"] = {"index": audit.index, "leaf": audit.leaf_hash.hex()}
        body = {**chunk, "choices": [choice]}
        if extra:
            body["x_gatehouse"] = extra
        self._out.append(Emit(data_event(dump(body))))

    def _emit(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        self._out.append(Emit(data_event(dump({**chunk, "choices": [choice]}))))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without a key that comes twice: readers differ in which one they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


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


def dump(value: Mapping[str, Any]) -> bytes:
    """Compact UTF-8 JSON, as the engine writes it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return mended(text).encode()


def quoted(text: str) -> bytes:
    """A text as JSON writes it."""
    return json.dumps(mended(text), ensure_ascii=False).encode()
