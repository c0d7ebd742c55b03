"""Responses to store."""

from typing import Any

from deployments.clock import FixedClock
from deployments.ports import JsonValue, KeyId, ResponseStatus, StoredResponse, TenantId
from deployments.responses.settings import ResponsesSettings

ACME = TenantId("acme")
GLOBEX = TenantId("globex")
NOW_MS = FixedClock().ms
SETTINGS = ResponsesSettings(ttl_s=3600, silent_s=30)


def message(role: str, text: str) -> dict[str, JsonValue]:
    return {"type": "message", "role": role, "content": text}


def response(response_id: str = "resp_1", status: str = "completed", **changes: Any) -> StoredResponse:
    """A response whose one input is "ask <id>" and whose one output is "answer <id>"."""
    fields: dict[str, Any] = {
        "response_id": response_id,
        "tenant": ACME,
        "key_id": KeyId("key_1"),
        "status": ResponseStatus(status),
        "body": {
            "id": response_id,
            "status": status,
            "output": [message("assistant", f"answer {response_id}")],
            "error": None,
        },
        "input": (message("user", f"ask {response_id}"),),
        "previous_id": None,
        "created_ms": NOW_MS,
        "expires_ms": 0,
    }
    return StoredResponse(**(fields | changes))


def running(response_id: str = "resp_1", **changes: Any) -> StoredResponse:
    """A response that is generated in the background."""
    return response(response_id, "in_progress", background=True, **changes)
