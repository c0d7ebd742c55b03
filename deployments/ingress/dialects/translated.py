"""Replies of the dialects that no engine has to speak: the engine answers as chat, a `Writer` says it in its own words.

One upstream event becomes one call of the writer, so that what a client receives does not depend on how the engine's
bytes were cut. Tool calls and the end are written last, after the gate's verdicts and the engine's count of tokens.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, cast

from deployments.errors import EngineFailed, GatehouseError
from deployments.ingress.dialects.chat import OpenCall, closed, collect
from deployments.ingress.dialects.notices import held_objects, notices
from deployments.ingress.dialects.sse import EventSplitter, data_of
from deployments.ingress.dialects.stream import Observed, dump, finish_of, mended, usage_of
from deployments.ingress.dialects.upstream import UNREADABLE, error_of
from deployments.ingress.dialects.values import Emit, End, Failure, Judge, ReplyFilter, Step, Writer
from deployments.ports import JsonValue, Receipt, Released, ToolCall, Usage, Verdict


class TranslatedReply(Observed):
    """Filter of a reply of one choice, streamed or whole. Implements `ReplyFilter`."""

    def __init__(self, writer: Writer, stream: bool) -> None:
        super().__init__()
        self._writer = writer
        self._stream = stream
        self._splitter = EventSplitter()
        self._events: deque[bytes] = deque()
        self._body = bytearray()
        self._out: deque[Step] = deque()
        self._calls: dict[int, OpenCall] = {}
        self._judging: tuple[ToolCall, ...] = ()
        self._verdicts: Sequence[Verdict] = ()
        self._ended: str | None = None
        self._stop_sequence: str | None = None
        self._broken: GatehouseError | None = None

    @property
    def final(self) -> Mapping[str, JsonValue] | None:
        """The whole reply, once it is complete."""
        return self._writer.final

    def keepalive(self, silent_s: float) -> bytes:
        """Whatever the dialect's clients count as a sign of life."""
        return self._writer.keepalive(silent_s)

    def failed(self, failure: Failure) -> bytes:
        """The dialect's last event of a broken stream."""
        return self._writer.failed(failure)

    def again(self) -> ReplyFilter:
        """A filter for another attempt."""
        return TranslatedReply(self._writer.again(), self._stream)

    def feed(self, data: bytes) -> None:
        """Take engine bytes, cut anywhere."""
        if self._stream:
            self._events.extend(self._splitter.feed(data))
        else:
            self._body += data

    def close(self) -> None:
        """The engine's body has ended: it must have been complete."""
        if not self._stream:
            self._whole()
            return
        if self._judging or self._events:
            raise RuntimeError("close() before every step was taken")
        if not self._done or self._splitter.rest.strip():
            raise EngineFailed("The model's answer ended before it was complete.")

    def step(self) -> Step | None:
        """What to do next. Neighbouring events leave as one chunk."""
        if self._broken is not None:
            raise self._broken
        passed: list[bytes] = []
        while True:
            if self._out and isinstance(self._out[0], Emit):
                passed.append(cast(Emit, self._out.popleft()).data)
            elif self._events and not self._judging:
                try:
                    self._event(self._events.popleft())
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

    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """Remember the verdicts; they are written at the end, next to the terminal event."""
        if not self._judging or len(verdicts) != len(self._judging):
            raise RuntimeError("resolve() without its Judge, or with another number of verdicts")
        self._judging, self._verdicts = (), verdicts
        if not self._stream:
            self._complete()

    def _event(self, event: bytes) -> None:
        if self._done:
            raise EngineFailed("The model's answer went on after its end.")
        payload = data_of(event)
        if payload is None:
            if not all(line.startswith(b":") for line in event.splitlines() if line):
                raise EngineFailed("The model's answer could not be read.")
        elif payload == b"[DONE]":
            if self._ended is None:
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
            if chunk.get("usage"):
                self._usage = usage_of(cast(dict[str, Any], chunk["usage"]))
            for choice in cast(list[dict[str, Any]], chunk["choices"]):
                self._choice(choice, cast(dict[str, Any], choice.get("delta") or {}))
        except UNREADABLE as error:
            raise EngineFailed("The model's answer could not be read.") from error

    def _whole(self) -> None:
        try:
            body = cast(dict[str, Any], json.loads(bytes(self._body)))
            (choice,) = cast(list[dict[str, Any]], body["choices"])
            if body.get("usage"):
                self._usage = usage_of(cast(dict[str, Any], body["usage"]))
            message = cast(dict[str, Any], choice["message"])
            pieces = cast(list[dict[str, Any]], message.pop("tool_calls", None) or [])
            numbered = [{**piece, "index": number} for number, piece in enumerate(pieces)]
            self._choice({**choice, "finish_reason": choice.get("finish_reason") or "stop"},
                         {**message, "tool_calls": numbered})  # fmt: skip
        except UNREADABLE as error:
            raise EngineFailed("The model's answer could not be read.") from error
        if not self._judging:
            self._complete()

    def _choice(self, choice: dict[str, Any], delta: dict[str, Any]) -> None:
        if int(choice.get("index", 0)) != 0 or self._ended is not None:
            raise EngineFailed("The model's answer went on after its end.")
        for piece in cast(list[dict[str, Any]], delta.get("tool_calls") or []):
            collect(self._calls, piece)
        if delta.get("function_call"):
            collect(self._calls, {"index": 0, "function": delta["function_call"]})
        reasoning = delta.get("reasoning") or delta.get("reasoning_content")
        if reasoning:
            self._say(self._writer.reasoning(_text(reasoning)))
        if delta.get("content"):
            self._say(self._writer.text(_text(delta["content"])))
        finish = finish_of(choice)
        if finish is None:
            return
        self._ended = str(finish)
        stop = choice.get("stop_reason")
        self._stop_sequence = mended(stop) if isinstance(stop, str) else None
        # A call that the length limit (or an abort) has cut is never released, whole as it may look.
        calls = tuple(closed(self._calls, 0, bool(self._notes))) if finish in ("tool_calls", "stop") else ()
        if calls:
            self._judging = calls
            self._out.append(Judge(calls))

    def _say(self, data: bytes) -> None:
        self._saw_text |= bool(data)  # a dialect may keep reasoning to itself
        if self._stream and data:
            self._out.append(Emit(data))

    def _complete(self) -> None:
        released = tuple(verdict for verdict in self._verdicts if isinstance(verdict, Released))
        ended = "stop" if self._ended == "tool_calls" else self._ended or "stop"
        reason = "tool_calls" if released else ended
        self._finished.append(reason)
        data = self._writer.finish(
            End(
                finish=reason,
                released=released,
                notice=notices(self._verdicts),
                usage=self._usage or Usage(),
                extension=self._extension(released[-1].receipt if released else self._receipt),
                stop_sequence=self._stop_sequence,
            )
        )
        if self._stream:
            self._out.append(Emit(data))
        elif self._writer.final is not None:
            self._out.append(Emit(dump(self._writer.final)))

    def _extension(self, audit: Receipt | None) -> Mapping[str, JsonValue]:
        held = held_objects(self._verdicts)
        extra: dict[str, JsonValue] = {"held": held} if held else {}
        if audit is not None:
            extra["audit"] = {"index": audit.index, "leaf": audit.leaf_hash.hex()}
        return extra


def _text(value: object) -> str:
    """A piece of text; `TypeError` for anything else."""
    if not isinstance(value, str):
        raise TypeError("not a text")
    return mended(value)
