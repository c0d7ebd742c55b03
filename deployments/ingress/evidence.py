"""What the audit trail is told of a request's words: what came in, what went out, what tools are said to have given.

Digests, always; the words themselves only where the tenant's bodies are kept.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping

from rfc8785 import CanonicalizationError, dumps

from deployments.errors import InvalidRequest
from deployments.ingress.dialects.values import Asked
from deployments.ports import Body, JsonValue, ToolResult

CHANGE_HEADER = "x-gatehouse-change-id"
MAX_RESULTS = 64
_CHANGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_IN_LOOP_CHARS = 256 * 1024
_EXACT = 2**53 - 1
_PLAIN = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False)


class Spoken:
    """Digest of what is said piece by piece, and the whole of it up to `most_bytes`; 0 keeps nothing."""

    __slots__ = ("_hash", "_kept", "_most_bytes", "_silent")

    def __init__(self, most_bytes: int) -> None:
        self._hash = hashlib.sha256()
        self._most_bytes = most_bytes
        self._kept: bytearray | None = bytearray() if most_bytes else None
        self._silent = True

    def add(self, data: bytes) -> None:
        """The next piece."""
        self._silent = False
        self._hash.update(data)
        if self._kept is not None:
            if len(self._kept) + len(data) > self._most_bytes:
                self._kept = None  # a part of it would not fit the digest
            else:
                self._kept += data

    def body(self) -> Body | None:
        """What was said; None when it was nothing. Larger than `most_bytes`, it is its digest alone."""
        if self._silent:
            return None
        return Body(self._hash.digest(), None if self._kept is None else bytes(self._kept))


async def prompt_body(body: Mapping[str, JsonValue], asked: Asked, most_bytes: int) -> Body:
    """The request: digest of its parsed body's canonical form, and that form where it is kept and not larger."""
    if sum(map(len, asked.prompt_texts)) > _IN_LOOP_CHARS:
        return await asyncio.to_thread(_prompt_body, body, most_bytes)
    return _prompt_body(body, most_bytes)


def _prompt_body(body: Mapping[str, JsonValue], most_bytes: int) -> Body:
    form = canonical_request(body)
    return Body(hashlib.sha256(form).digest(), form if len(form) <= most_bytes else None)


class _Uneven(Exception):
    """Python and RFC 8785 may write this differently."""


def canonical_request(body: Mapping[str, JsonValue]) -> bytes:
    """The RFC 8785 form of a request, which need not have one: clients write integers of any size.

    One with an integer beyond 2**53 - 1 becomes JSON with sorted keys, without white space, numbers as Python writes
    them. Never raises for JSON.
    """
    try:
        return _PLAIN.encode(_even(dict(body))).encode()
    except (_Uneven, UnicodeEncodeError):
        pass  # rare, and ten times as slow
    try:
        return dumps(dict(body))
    except CanonicalizationError:
        return _PLAIN.encode(dict(body)).encode("utf-8", "surrogatepass")


def _even(value: JsonValue) -> JsonValue:
    """The value with whole numbers as integers, which is how RFC 8785 writes `1.0`; else `_Uneven`."""
    match value:
        case str() | bool() | None:
            return value
        case int():
            if abs(value) > _EXACT:
                raise _Uneven
            return value
        case float():
            if value.is_integer() and abs(value) <= _EXACT:
                return int(value)
            if not 1e-4 <= abs(value) < 1e15:
                raise _Uneven
            return value
        case list():
            return [_even(each) for each in value]
        case dict():
            if not all(map(str.isascii, value)):  # others are sorted by UTF-16 code units
                raise _Uneven
            return {key: _even(each) for key, each in value.items()}


def change_of(headers: Mapping[str, str]) -> str | None:
    """The change that a caller says it works under, or None. `InvalidRequest` for what is no change id."""
    change_id = headers.get(CHANGE_HEADER, "").strip()
    if not change_id:
        return None
    if _CHANGE.fullmatch(change_id) is None:
        raise InvalidRequest(
            f"'{CHANGE_HEADER}' must be 1 to 128 letters, digits and '._:/-', the first a letter or digit.",
            CHANGE_HEADER,
        )
    return change_id


def results_of(body: Mapping[str, JsonValue], failed: Mapping[str, bool] | None = None) -> tuple[ToolResult, ...]:
    """Results of tools in the newest turn of a chat request, in order; at most `MAX_RESULTS`.

    `failed` has the dialect's own flags, by the id of the call.

    That turn is all after the last message of the assistant: clients replay every older one with each request.
    """
    messages = body.get("messages")
    found: list[ToolResult] = []
    for message in reversed(messages if isinstance(messages, list) else []):
        if not isinstance(message, dict):
            continue
        if message.get("role") == "assistant":
            break
        call_id = message.get("tool_call_id")
        if message.get("role") == "tool" and isinstance(call_id, str) and call_id:
            found.append(ToolResult(call_id, _text(message.get("content")), (failed or {}).get(call_id)))
    return tuple(reversed(found))[:MAX_RESULTS]


def _text(content: JsonValue) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))
