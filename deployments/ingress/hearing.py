"""An engine's reply heard to its end before anybody else sees it, and what it says. Knows OpenAI's two shapes."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from deployments.ingress.dialects.sse import DONE, EventSplitter, data_event, data_of
from deployments.ingress.dialects.stream import usage_of
from deployments.ingress.dialects.upstream import UNREADABLE
from deployments.ingress.opening import Opening
from deployments.ports import ReplyItem, Usage

_WORDS = frozenset({"content", "text", "reasoning", "reasoning_content", "refusal"})
_BROKEN = frozenset({"abort", "error"})  # how an engine gives a request up
_SILENT = frozenset(
    {"role", "annotations", "audio", "logprobs", "finish_reason", "stop_reason", "index", "token_ids"}
    | {"prompt_logprobs", "prompt_token_ids", "reasoning_details", "citations", "provider_specific_fields"}
)


@dataclass(frozen=True, slots=True)
class Said:
    """What a reply of one choice says.

    `text` is without reasoning, `finish` the engine's word for why it ended. `calls` counts everything that is no
    words: calls of tools, and what nobody here knows.
    """

    text: str
    finish: str
    calls: int
    usage: Usage | None


class Replay:
    """A heard reply, to be read once more: an `Opening` that waits for nothing but what was not heard."""

    waiting = True

    def __init__(self, items: Sequence[ReplyItem], rest: Opening | None = None) -> None:
        self._items = list(reversed(items))
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[ReplyItem]:
        return self

    async def __anext__(self) -> ReplyItem:
        if self._items:
            return self._items.pop()
        if self._rest is None:
            raise StopAsyncIteration
        return await anext(self._rest)

    async def aclose(self) -> None:
        """End the reply; the engine stops generating what was not heard."""
        if self._rest is not None:
            await self._rest.aclose()


@dataclass(frozen=True, slots=True)
class Heard:
    """A reply as it came. `rest` is what is still to come of one that is too long to be held; None: it is whole."""

    items: tuple[ReplyItem, ...]
    stream: bool
    rest: Opening | None = None

    @property
    def data(self) -> bytes:
        """The bytes of it."""
        return b"".join(item for item in self.items if isinstance(item, bytes))

    def replay(self) -> Replay:
        """The reply, once more."""
        return Replay(self.items, self.rest)

    def said(self) -> Said | None:
        """What it says; None for a part, for several choices, and for what is broken or cannot be read."""
        return None if self.rest is not None else transcribe(self.data, self.stream)

    def with_usage(self, spent: Usage) -> "Heard":
        """The same reply, whose count of tokens includes what an attempt before it has `spent`.

        Unchanged when it has no count, so that nobody takes a part for the whole.
        """
        data = _stream_with(self.data, spent) if self.stream else _body_with(self.data, spent)
        others = tuple(item for item in self.items if not isinstance(item, bytes))
        return replace(self, items=(*others, data))


async def hear(opening: Opening, stream: bool, most_bytes: int) -> Heard:
    """The whole reply, or as much of it as `most_bytes` hold. Whatever the engine raises; then the reply is closed."""
    items: list[ReplyItem] = []
    size = 0
    try:
        async for item in opening:
            items.append(item)
            size += len(item) if isinstance(item, bytes) else 0
            if size > most_bytes:
                return Heard(tuple(items), stream, opening)
    except BaseException:
        await opening.aclose()
        raise
    await opening.aclose()
    return Heard(tuple(items), stream)


def transcribe(data: bytes, stream: bool) -> Said | None:
    """What the bytes of a whole reply say; None for several choices, and for what is broken or cannot be read."""
    try:
        return _stream(data) if stream else _body(data)
    except UNREADABLE:
        return None


def _body(data: bytes) -> Said | None:
    body = cast(dict[str, Any], json.loads(data))
    (choice,) = cast(list[dict[str, Any]], body["choices"])
    if choice.get("finish_reason") in _BROKEN:
        return None
    said = cast(dict[str, Any], choice.get("message", choice))
    return Said(
        text=_text(said),
        finish=str(choice.get("finish_reason") or "stop"),
        calls=_calls(said),
        usage=usage_of(body["usage"]) if body.get("usage") else None,
    )


def _stream(data: bytes) -> Said | None:
    texts: list[str] = []
    finish, calls, usage = "", 0, None
    for chunk in _chunks(data):
        if chunk.get("usage"):
            usage = usage_of(cast(dict[str, Any], chunk["usage"]))
        for choice in cast(list[dict[str, Any]], chunk["choices"]):
            if int(choice.get("index", 0)) != 0:
                return None
            delta = cast(dict[str, Any], choice.get("delta") or {}) if "delta" in choice else choice
            texts.append(_text(delta))
            calls += _calls(delta)
            finish = str(choice.get("finish_reason") or finish)
    whole = bool(finish) and finish not in _BROKEN and data.rstrip().endswith(DONE.rstrip())
    return Said("".join(texts), finish, calls, usage) if whole else None


def _chunks(data: bytes) -> list[dict[str, Any]]:
    payloads = (data_of(event) for event in EventSplitter().feed(data))
    return [cast(dict[str, Any], json.loads(each)) for each in payloads if each and each != b"[DONE]"]


def _text(said: Mapping[str, Any]) -> str:
    text = said.get("content", said.get("text")) or said.get("refusal") or ""
    if not isinstance(text, str):
        raise TypeError("not a text")
    return text


def _calls(said: Mapping[str, Any]) -> int:
    """How many things of a message are no words."""
    return sum(
        len(cast(list[Any], value)) if isinstance(value, list) else 1
        for name, value in said.items()
        if value and name not in _WORDS and name not in _SILENT
    )


def _body_with(data: bytes, spent: Usage) -> bytes:
    try:
        body = cast(dict[str, Any], json.loads(data))
        if not body.get("usage"):
            return data
        body["usage"] = _added(cast(dict[str, Any], body["usage"]), spent)
    except UNREADABLE:
        return data
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _stream_with(data: bytes, spent: Usage) -> bytes:
    splitter, out = EventSplitter(), bytearray()
    for event in splitter.feed(data):
        payload = data_of(event) if b'"usage"' in event else None
        changed = None if payload is None else _body_with(payload, spent)
        out += event if changed is None or changed == payload else data_event(changed)
    return bytes(out) + splitter.rest


def _added(usage: dict[str, Any], spent: Usage) -> dict[str, Any]:
    """OpenAI's usage object with the tokens of `spent` in it."""
    prompt = int(usage.get("prompt_tokens") or 0) + spent.input_tokens
    completion = int(usage.get("completion_tokens") or 0) + spent.output_tokens
    details = cast(dict[str, Any], usage.get("prompt_tokens_details") or {})
    more = cast(dict[str, Any], usage.get("completion_tokens_details") or {})
    if spent.cached_tokens:
        details = {**details, "cached_tokens": int(details.get("cached_tokens") or 0) + spent.cached_tokens}
    if spent.reasoning_tokens:
        more = {**more, "reasoning_tokens": int(more.get("reasoning_tokens") or 0) + spent.reasoning_tokens}
    return {
        **usage,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        **({"prompt_tokens_details": details} if details else {}),
        **({"completion_tokens_details": more} if more else {}),
    }
