"""The guardrails of an answer, in front of any dialect's filter: what the engine says is masked before it is anything.

Every dialect's filter reads one of two shapes, chat and completions, streamed or whole. Here both are read, and
written again where something was found: texts and reasoning through a window (`guardrails/stream.py`), arguments of
calls whole, before the gate sees them, so that what is judged is what leaves. An answer in which something is blocked
ends before it with `content_filter`; the engine goes on unheard to its own end, which brings the count of tokens.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from deployments.guardrails.look import Look
from deployments.guardrails.stream import TextScreen
from deployments.guardrails.structured import screen_json
from deployments.ingress.dialects.sse import EventSplitter, data_event, data_of
from deployments.ingress.dialects.stream import dump
from deployments.ingress.dialects.upstream import UNREADABLE
from deployments.ingress.dialects.values import Failure, ReplyFilter, Step
from deployments.ports import JsonValue, Receipt, Usage, Verdict

_TEXTS: Final = ("reasoning", "reasoning_content", "content", "refusal", "text")
_CALLS: Final = ("tool_calls", "function_call")
_BLOCKED: Final = "content_filter"


@dataclass(slots=True)
class _Choice:
    """What is known of one choice of a stream."""

    texts: dict[str, TextScreen] = field(default_factory=dict[str, TextScreen])
    pieces: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    legacy: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    blocked: bool = False
    ended: bool = False


class EngineScreen:
    """One reply of an engine. Feed its bytes, cut anywhere; what comes out is a reply of the same shape."""

    def __init__(self, look: Look, stream: bool, note: Callable[[Mapping[str, JsonValue]], None]) -> None:
        """`note` is told what was found, before the end of a choice comes out."""
        self._look = look
        self._stream = stream
        self._note = note
        self._splitter = EventSplitter()
        self._body = bytearray()
        self._choices: dict[int, _Choice] = {}

    def feed(self, data: bytes) -> bytes:
        """What may go on, now that these bytes have come. `GuardrailUnavailable` when a detector had to look."""
        if not self._stream:
            self._body += data
            return b""
        return b"".join(map(self._event, self._splitter.feed(data)))

    def close(self) -> bytes:
        """The engine's body has ended: the rest of it."""
        return self._splitter.rest if self._stream else self._whole(bytes(self._body))

    # --- whole -------------------------------------------------------------------------------------------------------

    def _whole(self, data: bytes) -> bytes:
        try:
            body = cast(dict[str, Any], json.loads(data))
            choices = cast(list[dict[str, Any]], body["choices"])
            screened = [self._whole_choice(choice) for choice in choices]
        except UNREADABLE:
            return data  # whoever reads it next says so
        self._tell()
        if all(new is old for new, old in zip(screened, choices, strict=True)):
            return data
        return dump({**body, "choices": screened})

    def _whole_choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        state = _Choice()
        says = cast(dict[str, Any], choice.get("message", choice))
        new = dict(says)
        for key in _TEXTS:
            if says.get(key):
                new[key] = self._spoken(state, key, says[key], last=True)
        self._others(new)
        pieces = [
            {**piece, "index": at} for at, piece in enumerate(cast("list[dict[str, Any]]", says.get(_CALLS[0]) or []))
        ]
        legacy = [cast(dict[str, Any], says[_CALLS[1]])] if says.get(_CALLS[1]) else []
        state.pieces, state.legacy = pieces, legacy
        calls = self._called(state)
        if calls is None:
            state.blocked = True
        elif state.pieces is not pieces and pieces:
            new[_CALLS[0]] = [{name: held for name, held in piece.items() if name != "index"} for piece in calls]
        if legacy and state.legacy is not legacy:
            new[_CALLS[1]] = state.legacy[0]
        if state.blocked:
            new = {name: held for name, held in new.items() if name not in _CALLS}
        elif new == says or not self._look.alters:
            return choice
        ending = {"finish_reason": _BLOCKED} if state.blocked else {}
        if says is choice:
            return {**new, "logprobs": None, **ending}
        return {**choice, "message": new, "logprobs": None, **ending}

    # --- streamed ----------------------------------------------------------------------------------------------------

    def _event(self, event: bytes) -> bytes:
        payload = data_of(event)
        if payload is None or payload == b"[DONE]":
            return event
        try:
            chunk = cast(dict[str, Any], json.loads(payload))
            choices = cast(list[dict[str, Any]], chunk["choices"])
            before: list[bytes] = []
            screened = [self._choice(chunk, choice, before) for choice in choices]
        except UNREADABLE:
            return event
        if not self._look.alters or all(new is old for new, old in zip(screened, choices, strict=True)):
            return b"".join([*before, event])
        kept = [choice for choice in screened if choice is not None]
        if not kept and not chunk.get("usage"):
            return b"".join(before)
        stubs = [] if kept else [_silent(choice) for choice in choices]
        return b"".join([*before, data_event(dump({**chunk, "choices": kept or stubs}))])

    def _choice(self, chunk: dict[str, Any], choice: dict[str, Any], before: list[bytes]) -> dict[str, Any] | None:
        """A choice of a chunk as it goes on, None when nothing of it does; `before` gets events that come before it."""
        index = int(choice.get("index", 0))
        state = self._choices.setdefault(index, _Choice())
        if state.blocked:
            return None
        if state.ended:
            return choice  # the dialect's filter calls that broken
        inside = isinstance(choice.get("delta"), dict)
        says = cast(dict[str, Any], choice["delta"]) if inside else choice
        finish = choice.get("finish_reason")
        state.ended = finish is not None
        new = {name: held for name, held in says.items() if name not in _CALLS}
        fed: set[str] = set()
        for key in _TEXTS:
            if says.get(key):
                self._switch(chunk, index, state, key, before, fed, new)
                fed.add(key)
                out = self._spoken(state, key, says[key], last=False)
                if out or not inside:
                    new[key] = out
                else:
                    del new[key]
        self._others(new)
        state.pieces += cast(list[dict[str, Any]], says.get(_CALLS[0]) or [])
        state.legacy += [cast(dict[str, Any], says[_CALLS[1]])] if says.get(_CALLS[1]) else []
        calls: list[dict[str, Any]] | None = []
        if finish is not None and not state.blocked:
            self._switch(chunk, index, state, "", before, fed, new)
            calls = [] if state.blocked else self._called(state)
            self._tell()
        if state.blocked or calls is None:
            state.blocked = True
            self._tell()
            text = {key: new[key] for key in _TEXTS if new.get(key)}
            if text:
                before.append(_say(chunk, index, text, inside))
            return {**_silent(choice), "finish_reason": _BLOCKED}
        if calls:
            new[_CALLS[0]] = calls
        if finish is not None and state.legacy:
            new[_CALLS[1]] = _joined(state.legacy)
        if new == says and not choice.get("logprobs"):
            return choice
        if finish is None and not any(new.get(name) for name in new if inside or name == "text"):
            return _silent(choice) if chunk.get("usage") else None
        return {**choice, "delta": new, "logprobs": None} if inside else {**new, "logprobs": None}

    def _switch(
        self,
        chunk: dict[str, Any],
        index: int,
        state: _Choice,
        key: str,
        before: list[bytes],
        fed: set[str],
        new: dict[str, Any],
    ) -> None:
        """Another text begins, or none any more: what still waits of the others comes first.

        `fed` are the texts of this chunk, which `new` becomes: what waits of them stands behind them.
        """
        for other, screen in state.texts.items():
            if other == key or not screen.held:
                continue
            rest = screen.end()
            state.blocked = state.blocked or screen.blocked
            if not rest or not self._look.alters:
                continue
            if other not in fed:
                before.append(_say(chunk, index, {other: rest}, other != "text"))
            elif isinstance(said := new.get(other), list):
                new[other] = [*cast("list[object]", said), {"type": "text", "text": rest}]
            else:
                new[other] = (said or "") + rest

    # --- both --------------------------------------------------------------------------------------------------------

    def _spoken(self, state: _Choice, key: str, said: Any, last: bool) -> Any:
        """A text (or a list of parts) as it goes on."""
        if state.blocked:
            return "" if isinstance(said, str) else []
        screen = state.texts.setdefault(key, TextScreen(self._look))
        if isinstance(said, list):
            parts = [self._part(state, key, part, last) for part in cast("list[object]", said)]
            rest = screen.end() if last and not state.blocked else ""
            state.blocked = state.blocked or screen.blocked
            return [*parts, {"type": "text", "text": rest}] if rest else parts
        out = screen.feed(cast(str, said)) + (screen.end() if last else "")
        state.blocked = state.blocked or screen.blocked
        return out

    def _part(self, state: _Choice, key: str, part: object, last: bool) -> object:
        """A part of a content that is a list, as some servers write it; thoughts of a whole reply end with theirs."""
        if isinstance(part, str):
            return self._spoken(state, key, part, last=False)
        fields = dict(cast(Mapping[str, Any], part))
        for name, where in (("text", key), ("thinking", "reasoning_content"), ("reasoning", "reasoning_content")):
            if fields.get(name):
                fields[name] = self._spoken(state, where, fields[name], last and where != key)
        return fields

    def _others(self, says: dict[str, Any]) -> None:
        """What nobody knows may be taken for a call, of which the gate makes a record."""
        for name, value in says.items():
            if name not in _TEXTS and name not in _CALLS and isinstance(value, dict | list) and value:
                if name in ("delta", "message", "logprobs"):
                    continue
                text = dump({"": value}).decode()
                piece = screen_json(text, self._look)
                if piece.text != text:
                    says[name] = None if piece.blocked else json.loads(piece.text)[""]

    def _called(self, state: _Choice) -> list[dict[str, Any]] | None:
        """The pieces of the calls, complete now, as they go on; None when something in them must not be said."""
        arguments: dict[int, list[str]] = {}
        for piece in state.pieces:
            arguments.setdefault(int(piece.get("index", 0)), []).append(_arguments(piece))
        masked: dict[int, str] = {}
        for index, parts in arguments.items():
            whole = "".join(parts)
            screened = screen_json(whole, self._look) if whole else None
            if screened is not None and screened.blocked:
                return None
            if screened is not None and screened.text != whole:
                masked[index] = screened.text
        if state.legacy:
            whole = "".join(_arguments({"function": piece}) for piece in state.legacy)
            screened = screen_json(whole, self._look) if whole else None
            if screened is not None and screened.blocked:
                return None
            if screened is not None and screened.text != whole:
                state.legacy = [{**_joined(state.legacy), "arguments": screened.text}]
        if masked:
            state.pieces = [_with_arguments(piece, masked) for piece in state.pieces]
        return state.pieces

    def _tell(self) -> None:
        found = self._look.tally.found
        if found:
            self._note({"guardrails": [str(each) for each in found]})


def _arguments(piece: Mapping[str, Any]) -> str:
    function = cast(Mapping[str, Any], piece.get("function") or {})
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        raise TypeError("arguments are not a string")
    return arguments or ""


def _with_arguments(piece: dict[str, Any], masked: dict[int, str]) -> dict[str, Any]:
    """A piece of a call: the first one of its index has all of the masked arguments, the later ones none."""
    index = int(piece.get("index", 0))
    if index not in masked:
        return piece
    text, masked[index] = masked[index], ""
    return {**piece, "function": {**cast(dict[str, Any], piece.get("function") or {}), "arguments": text}}


def _joined(pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A call of the old form in one piece."""
    whole = {name: value for piece in pieces for name, value in piece.items() if value}
    return {**whole, "arguments": "".join(_arguments({"function": piece}) for piece in pieces)}


def _silent(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice that says nothing."""
    silent: dict[str, Any] = {"index": choice.get("index", 0)}
    silent |= {"delta": {}} if "delta" in choice else {"text": ""}
    return {**silent, "logprobs": None, "finish_reason": None}


def _say(chunk: dict[str, Any], index: int, says: Mapping[str, Any], inside: bool) -> bytes:
    """An event with a text and nothing else."""
    said: Mapping[str, Any] = {"delta": says} if inside else says
    choice = {"index": index, **said, "logprobs": None, "finish_reason": None}
    return data_event(dump({**{name: held for name, held in chunk.items() if name != "usage"}, "choices": [choice]}))


class ScreenedReply:
    """A filter behind guardrails. Implements `ReplyFilter`."""

    def __init__(self, inner: ReplyFilter, stream: bool, make_look: Callable[[], Look]) -> None:
        """`make_look` begins a look at an answer; the one before it, of an attempt that nobody was sent, is over."""
        self._inner = inner
        self._stream = stream
        self._make_look = make_look
        self._screen = EngineScreen(make_look(), stream, inner.note)

    @property
    def usage(self) -> Usage | None:
        """The engine's own count, once known."""
        return self._inner.usage

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """Finish reasons as the client sees them."""
        return self._inner.finish_reasons

    @property
    def saw_text(self) -> bool:
        """True when any text or reasoning went out."""
        return self._inner.saw_text

    @property
    def held(self) -> int:
        """How many calls were not released."""
        return self._inner.held

    @property
    def withheld(self) -> Sequence[str]:
        """Why something of the engine's reply stayed here."""
        return self._inner.withheld

    @property
    def ended(self) -> bool:
        """True once the last event of a stream is written."""
        return self._inner.ended

    @property
    def final(self) -> Mapping[str, JsonValue] | None:
        """The whole reply for the store of responses."""
        return self._inner.final

    def repaired(self, notes: Sequence[str]) -> None:
        """The engine repaired malformed output of this reply."""
        self._inner.repaired(notes)

    def receipt(self, receipt: Receipt | None) -> None:
        """The audit record of the routing decision."""
        self._inner.receipt(receipt)

    def note(self, extension: Mapping[str, JsonValue]) -> None:
        """What else is said in the reply's `x_gatehouse`."""
        self._inner.note(extension)

    def feed(self, data: bytes) -> None:
        """Take engine bytes, cut anywhere."""
        if passed := self._screen.feed(data):
            self._inner.feed(passed)

    def close(self) -> None:
        """The engine's body has ended."""
        if rest := self._screen.close():
            self._inner.feed(rest)
        self._inner.close()

    def step(self) -> Step | None:
        """What to do next."""
        return self._inner.step()

    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """The verdicts on the calls of the last `Judge`."""
        self._inner.resolve(verdicts)

    def keepalive(self, silent_s: float) -> bytes:
        """What keeps client and proxies waiting."""
        return self._inner.keepalive(silent_s)

    def failed(self, failure: Failure) -> bytes:
        """The last event of a stream that broke off."""
        return self._inner.failed(failure)

    def again(self) -> ReplyFilter:
        """A filter for another attempt."""
        return ScreenedReply(self._inner.again(), self._stream, self._make_look)
