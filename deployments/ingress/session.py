"""Which conversation a request belongs to.

One id serves the engine hop (prefix-cache affinity), the router's memory and the gate's re-emission. The order is that
of the wire contract, section 3; every name was seen in requests of real clients.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping

from deployments.ports import JsonValue, Principal, SessionId, TenantId

SESSION_HEADERS = (
    "x-session-id",
    "session-id",
    "x-claude-code-session-id",
    "x-session-affinity",
    "thread-id",
    "x-litellm-session-id",
    "x-litellm-trace-id",
)
_MAX_CHARS = 256


def session_of(
    principal: Principal, headers: Mapping[str, str], body: Mapping[str, JsonValue], internal: Mapping[str, JsonValue]
) -> SessionId:
    """A session id of 32 hex digits, keyed by tenant so that no client can name another tenant's session.

    `body` is what the client sent, in which it may name its session. `internal` is the same request as chat, which has
    lost what changes from request to request (Claude Code's billing header).
    """
    named = _named(headers, body)
    who = principal.key_id if principal.person is None else f"{principal.key_id}\0{principal.person}"
    material = named if named is not None else f"{who}\0{_opening(body.get('model'), internal)}"
    digest = hmac.new(principal.tenant.encode(), material.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return SessionId(digest.hexdigest()[:32])


def cache_salt_of(tenant: TenantId) -> str:
    """The salt of a tenant's prefix cache: 32 hex digits. No client can name one, so it need not be a secret."""
    return hashlib.sha256(b"gatehouse prefix cache\0" + tenant.encode()).hexdigest()[:32]


def _named(headers: Mapping[str, str], body: Mapping[str, JsonValue]) -> str | None:
    for name in SESSION_HEADERS:
        value = headers.get(name, "").strip()
        if value:
            return f"{value[:_MAX_CHARS]}"
    cache_key = body.get("prompt_cache_key")
    if isinstance(cache_key, str) and cache_key:
        return cache_key[:_MAX_CHARS]
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        user = metadata.get("user_id")
        if isinstance(user, str):
            try:
                inner = json.loads(user)
            except (ValueError, RecursionError):
                return None
            if isinstance(inner, dict) and isinstance(inner.get("session_id"), str):  # pyright: ignore[reportUnknownMemberType]
                return str(inner["session_id"])[:_MAX_CHARS]  # pyright: ignore[reportUnknownArgumentType]
    return None


def _opening(model: JsonValue, body: Mapping[str, JsonValue]) -> str:
    """What stays the same over the turns of a conversation: model, system text and first user message."""
    parts: list[JsonValue] = [model, body.get("prompt")]
    messages = body.get("messages")
    if isinstance(messages, list):
        for message in messages:
            if not isinstance(message, dict):
                continue
            if message.get("role") in ("system", "developer"):
                parts.append(message.get("content"))
            elif message.get("role") == "user":
                parts.append(message.get("content"))
                break
    return json.dumps(parts, sort_keys=True)
