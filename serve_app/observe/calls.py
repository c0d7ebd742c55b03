"""What a span says of a call of an engine, out of the two bodies: numbers, an id, and why each choice ended.

Of the request only the numbers that steer sampling are read, and which kind of answer is wanted; of the reply its id
and the reasons of its ends. Neither stop sequences nor anything else that somebody has written. Whatever is not of the
expected form is left out, and never changes the call.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, cast

from opentelemetry.util.types import AttributeValue

from deployments.ingress.dialects.sse import EventSplitter, data_of
from deployments.ports import Counted, EngineItem, EngineStart

_MOST_READ: Final = 256 * 1024
"""Bytes of a request, or of a reply that is no stream, that are parsed; a longer one is left alone: it takes time."""

_TELLING: Final = re.compile(rb'"(?:finish_reason"\s*:\s*"|error"\s*:)')
_ID: Final = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_NUMBERS: Final[Mapping[str, tuple[str, type[int] | type[float]]]] = {
    "max_completion_tokens": ("gen_ai.request.max_tokens", int),
    "max_tokens": ("gen_ai.request.max_tokens", int),
    "temperature": ("gen_ai.request.temperature", float),
    "top_p": ("gen_ai.request.top_p", float),
    "top_k": ("gen_ai.request.top_k", float),
    "frequency_penalty": ("gen_ai.request.frequency_penalty", float),
    "presence_penalty": ("gen_ai.request.presence_penalty", float),
    "seed": ("gen_ai.request.seed", int),
    "dimensions": ("gen_ai.embeddings.dimension.count", int),
}
_OUTPUTS: Final = {"text": "text", "json_object": "json", "json_schema": "json"}
_ENCODINGS: Final = frozenset({"float", "base64"})
_REASONS: Final = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter", "abort", "error"})
_OTHER: Final = "other"
_BAD: Final = 400
_MOST: Final = 2**63 - 1  # an attribute's numbers have 64 bits
_UNREADABLE: Final = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
_ERROR: Final = "upstream_error"


def asked(body: bytes) -> Mapping[str, AttributeValue]:
    """The attributes of a request body of at most 256 KiB, in the words of the GenAI conventions."""
    found = _object(body)
    told: dict[str, AttributeValue] = {}
    for field, (name, kind) in _NUMBERS.items():
        value = found.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MOST:
            continue
        if kind is float or isinstance(value, int):
            told[name] = kind(value)
    choices = found.get("n")
    if isinstance(choices, int) and 1 < choices <= _MOST:  # one is what everybody takes for granted
        told["gen_ai.request.choice.count"] = choices
    wanted = found.get("response_format")
    output = _OUTPUTS.get(str(cast("dict[str, object]", wanted).get("type"))) if isinstance(wanted, dict) else None
    if output is not None:
        told["gen_ai.output.type"] = output
    encoding = found.get("encoding_format")
    if isinstance(encoding, str) and encoding in _ENCODINGS:
        told["gen_ai.request.encoding_formats"] = (encoding,)
    return told


class Answered:
    """Listens to the items of one reply. `error` is the code of a failure that is in the reply itself."""

    def __init__(self) -> None:
        self.error: str | None = None
        self._id: str | None = None
        self._reasons: dict[int, str] = {}
        self._streams = False
        self._splitter = EventSplitter()
        self._whole = bytearray()
        self._too_long = False

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """What is known by now."""
        self._read_whole()
        told: dict[str, AttributeValue] = {}
        if self._id is not None:
            told["gen_ai.response.id"] = self._id
        if self._reasons:
            told["gen_ai.response.finish_reasons"] = [reason for _, reason in sorted(self._reasons.items())]
        return told

    def hear(self, item: EngineItem) -> None:
        """The next item of the reply."""
        match item:
            case EngineStart():
                if item.status >= _BAD:
                    self.error = str(item.status)
                self._streams = dict(item.headers).get("content-type", "").startswith("text/event-stream")
            case bytes():
                self._feed(item)
            case Counted():
                self._feed(item.data)
            case _:
                pass

    def _feed(self, data: bytes) -> None:
        if self._streams:
            for event in self._splitter.feed(data):
                self._event(event)
        elif not self._too_long:
            self._whole += data
            if len(self._whole) > _MOST_READ:
                self._whole.clear()
                self._too_long = True

    def _event(self, event: bytes) -> None:
        """One event. Inside a text quotation marks are escaped, so these names can stand in no answer."""
        if self._id is None or _TELLING.search(event):
            self._take(_object(data_of(event) or b""))

    def _read_whole(self) -> None:
        if self._whole:
            self._take(_object(bytes(self._whole)))
            self._whole.clear()

    def _take(self, found: Mapping[str, object]) -> None:
        if isinstance(found.get("error"), dict | str):
            self.error = self.error or _ERROR
        name = found.get("id")
        if self._id is None and isinstance(name, str) and _ID.fullmatch(name):
            self._id = name
        choices = found.get("choices")
        for choice in cast("list[object]", choices) if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            said = cast("dict[str, Any]", choice)
            reason, index = said.get("finish_reason"), said.get("index", 0)
            if isinstance(reason, str) and isinstance(index, int):
                self._reasons[index] = reason if reason in _REASONS else _OTHER
                if reason in ("abort", "error"):  # the engine gave it up
                    self.error = self.error or _ERROR


def _object(data: bytes) -> Mapping[str, object]:
    """A JSON object, or an empty one for what is none or is too long."""
    if len(data) > _MOST_READ:
        return {}
    try:
        found: object = json.loads(data)
    except _UNREADABLE:
        return {}
    return cast("dict[str, object]", found) if isinstance(found, dict) else {}
