"""What a reply of an engine may hold: lists of what is known. Everything else stays here.

An engine, or a server behind one, may send fields that nobody here knows: calls of another API among them. Of those
that could be a call, the gate's record and the client are told; the rest is left out, and counted.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, cast

from deployments.ports import JsonValue

CHUNK: Final = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"})
CHOICE: Final = frozenset({"index", "delta", "message", "text", "logprobs", "finish_reason", "stop_reason"})
MESSAGE: Final = frozenset({"role", "content", "reasoning", "reasoning_content", "refusal"})
CALLS: Final = frozenset({"tool_calls", "function_call"})

_TEXTS: Final = frozenset({"text", "output_text"})
_THOUGHTS: Final = frozenset({"thinking", "reasoning"})
# What some servers add to a message; none of it is a call.
_HARMLESS: Final = frozenset({"annotations", "audio", "reasoning_details", "citations", "provider_specific_fields"})
_CALL_LIKE: Final = re.compile(
    r"call|tool|function|action|invo[ck]|exec|command|shell|patch|computer|mcp", re.IGNORECASE
)
_SCALARS: Final = (bool, int, float)

Item = tuple[str, JsonValue]


def known(
    holder: dict[str, Any], names: frozenset[str], message: bool = False
) -> tuple[dict[str, Any], list[Item], int]:
    """The holder with what is known; what of the rest could be a call; and how much else was left out.

    In a `message` (or a delta of one) every object that nobody knows could be one. Empty values and plain numbers say
    nothing, so they stay.
    """
    kept: dict[str, Any] = {}
    items: list[Item] = []
    dropped = 0
    for name, value in holder.items():
        if name in names or not value or isinstance(value, _SCALARS):
            kept[name] = value
        elif _CALL_LIKE.search(name) or (message and name not in _HARMLESS and isinstance(value, dict | list)):
            items.append((name, cast(JsonValue, value)))
        else:
            dropped += 1
    return kept, items, dropped


def texts(message: dict[str, Any]) -> list[Item]:
    """Make `content` one text, where a server sends a list of parts; answers parts that could be calls.

    Parts with thoughts become `reasoning_content`. Raises `TypeError` for what is neither text nor parts.
    """
    content = message.get("content")
    if content is None or isinstance(content, str):
        return []
    if not isinstance(content, list):
        raise TypeError("content is neither text nor parts")
    items: list[Item] = []
    said: list[str] = []
    thought: list[str] = []
    for part in cast("list[object]", content):
        if isinstance(part, str):
            said.append(part)
            continue
        fields = cast(Mapping[str, Any], part)
        kind = str(fields["type"])
        if kind in _TEXTS:
            said.append(_text(fields["text"]))
        elif kind in _THOUGHTS:
            thought.append(_text(fields.get(kind)))
        else:
            items.append((kind, cast(JsonValue, part)))
    message["content"] = "".join(said) or None
    if thought:
        message["reasoning_content"] = (message.get("reasoning_content") or "") + "".join(thought)
    return items


def _text(value: object) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(value, str):
        return value
    return "".join(_text(cast(Mapping[str, object], part)["text"]) for part in cast("list[object]", value or []))
