"""From vLLM's error bodies to our error tree.

vLLM 0.29 sends `{"error": {"message", "type", "param", "code": <int>}}` with type names of its own; none of it reaches
a client as it is (wire contract, section 5).
"""

import json
import re

from deployments.errors import (
    ContextTooLong,
    EngineFailed,
    EngineOverloaded,
    GatehouseError,
    InvalidRequest,
)

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading JSON of an unexpected shape raises, a number without end or nesting without a bottom included."""

_WINDOW = re.compile(r"maximum context length(?: is| of)?\s*\(?(\d{1,12})(?!\d)", re.IGNORECASE)
_NEEDED = re.compile(r"(?:Input length \(|at least |contains )(\d{1,12})(?!\d)\)?(?: input tokens)?", re.IGNORECASE)
_MESSAGE_CHARS = 600


def upstream_error(status: int, body: bytes) -> GatehouseError:
    """The error that an engine's reply with `status` >= 400 means for the client."""
    message, param = _read(body)
    return error_of(status, message, param)


def error_of(status: int, message: str, param: str | None) -> GatehouseError:
    """The same for a status and message found inside a stream."""
    window = _WINDOW.search(message)
    if window and status == 400:
        needed = _NEEDED.search(message)
        limit = int(window.group(1))
        return ContextTooLong(int(needed.group(1)) if needed else limit + 1, limit)
    if status in (400, 422):
        return InvalidRequest(_own_words(message), param.removeprefix("body.") if param else None)
    if status in (429, 503):
        return EngineOverloaded("The model is busy. Please try again in 2s.", 2)
    return EngineFailed("The model could not answer this request.")


def _own_words(message: str) -> str:
    """The engine's text without pydantic's dump of locations and inputs."""
    if not message or "validation error" in message:
        return "The request is not valid for this model."
    return message[:_MESSAGE_CHARS]


def _read(body: bytes) -> tuple[str, str | None]:
    try:
        error = json.loads(body)["error"]
        message, param = error["message"], error.get("param")
        return message if isinstance(message, str) else "", param if isinstance(param, str) else None
    except UNREADABLE:
        return "", None
