"""Replies of the dialects that no engine has to speak: the engine answers as chat, a `Writer` says it in its own words.

One upstream event becomes one call of the writer, so that what a client receives does not depend on how the engine's
bytes were cut. Tool calls and the end are written last, after the gate's verdicts and the engine's count of tokens.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, cast

from deployments.errors import EngineFailed
from deployments.ingress.dialects import shapes
from deployments.ingress.dialects.calls import OpenCall, closed, collect, mended, why, withheld
from deployments.ingress.dialects.chat import ENDS, finish_after, rename_reasoning
from deployments.ingress.dialects.leaks import LeakScanner
from deployments.ingress.dialects.notices import held_objects, notices
from deployments.ingress.dialects.stream import EventSteps, dump, finish_of, usage_of
from deployments.ingress.dialects.upstream import UNREADABLE
from deployments.ingress.dialects.values import Emit, End, Failure, Judge, ReplyFilter, Writer
from deployments.ports import JsonValue, Receipt, Released, ToolCall, Usage, Verdict


class TranslatedReply(EventSteps):
    """Filter of a reply of one choice, streamed or whole. Implements `ReplyFilter`."""

    def __init__(self, writer: Writer, stream: bool, names: frozenset[str] = frozenset()) -> None:
        """`names`: the tools that the model knows; their calls are looked for in its texts."""
        super().__init__()
        self._writer = writer
        self._stream = stream
        self._names = names
        self._body = bytearray()
        self._calls: dict[int, OpenCall] = {}
        self._items: list[shapes.Item] = []
        self._scanners = {"reasoning": LeakScanner(names), "content": LeakScanner(names)} if names else {}
        self._judging: deque[tuple[ToolCall, ...]] = deque()
        self._verdicts: list[Verdict] = []
        self._ended: str | None = None
        self._stop_sequence: str | None = None

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
        return TranslatedReply(self._writer.again(), self._stream, self._names)

    def feed(self, data: bytes) -> None:
        """Take engine bytes, cut anywhere."""
        if self._stream:
            super().feed(data)
        else:
            self._body += data

    def close(self) -> None:
        """The engine's body has ended: it must have been complete."""
        if self._stream:
            super().close()
        else:
            self._whole()

    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """Remember the verdicts; they are written at the end, next to the terminal event."""
        if not self._judging or not self._waiting:
            raise RuntimeError("resolve() without its Judge")
        self._verdicts += self._lawful(self._judging[0], verdicts)
        self._judging.popleft()
        self._waiting = False
        if self._judging:
            self._judge()
        elif not self._stream:
            self._complete()

    def _judge(self) -> None:
        self._waiting = True
        self._out.append(Judge(self._judging[0]))

    def _comment(self, event: bytes) -> None:
        del event  # our keepalives are the dialect's own

    def _over(self) -> bool:
        return self._ended is not None

    def _chunk(self, chunk: dict[str, Any]) -> None:
        if chunk.get("usage"):
            self._usage = usage_of(cast(dict[str, Any], chunk["usage"]))
        self._look(chunk, shapes.CHUNK)
        for choice in cast(list[dict[str, Any]], chunk["choices"]):
            self._choice(choice, cast(dict[str, Any], choice.get("delta") or {}))

    def _look(self, holder: dict[str, Any], names: frozenset[str], message: bool = False) -> None:
        """Remember what could be a call and is none that we know; the rest of what is unknown is counted."""
        _, items, dropped = shapes.known(holder, names, message)
        self._items += items
        self._dropped(dropped)

    def _whole(self) -> None:
        try:
            body = cast(dict[str, Any], json.loads(bytes(self._body)))
            (choice,) = cast(list[dict[str, Any]], body["choices"])
            if body.get("usage"):
                self._usage = usage_of(cast(dict[str, Any], body["usage"]))
            self._look(body, shapes.CHUNK)
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
        self._look(choice, shapes.CHOICE)
        self._look(delta, shapes.MESSAGE | shapes.CALLS, message=True)
        self._items += shapes.texts(delta)
        rename_reasoning(delta)
        self._speak("reasoning", delta.get("reasoning_content"))
        self._speak("content", delta.get("content"))
        finish = finish_of(choice)
        if finish is None:
            return
        self._ended = str(finish)
        stop = choice.get("stop_reason")
        self._stop_sequence = mended(stop) if isinstance(stop, str) else None
        for key, scanner in self._scanners.items():
            self._say(key, scanner.end())
        spans = [span for scanner in self._scanners.values() for span in scanner.spans]
        strange = withheld(spans, self._items, 0)
        calls = closed(self._calls, 0, bool(self._notes))
        self._withheld += why((*strange, *calls))
        if finish not in ENDS:
            self._withheld += ["truncated"] * len(calls)
            calls = ()
        self._judging.extend(batch for batch in (strange, calls) if batch)
        if self._judging:
            self._judge()

    def _speak(self, key: str, text: object) -> None:
        """What the model says, without calls."""
        if text:
            said = _text(text)
            self._say(key, self._scanners[key].feed(said) if self._scanners else said)

    def _say(self, key: str, text: str) -> None:
        if not text:
            return
        data = self._writer.reasoning(text) if key == "reasoning" else self._writer.text(text)
        self._saw_text |= bool(data)  # a dialect may keep reasoning to itself
        if self._stream and data:
            self._out.append(Emit(data))

    def _complete(self) -> None:
        released = tuple(verdict for verdict in self._verdicts if isinstance(verdict, Released))
        reason = finish_after(self._ended or "stop", bool(released))
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
        extra: dict[str, JsonValue] = {**self._noted, **({"held": held} if held else {})}
        if audit is not None:
            extra["audit"] = {"index": audit.index, "leaf": audit.leaf_hash.hex()}
        return extra


def _text(value: object) -> str:
    """A piece of text; `TypeError` for anything else."""
    if not isinstance(value, str):
        raise TypeError("not a text")
    return mended(value)
