"""An audit event as text, as it waits in the store until the log has it. What comes back is equal to what went in.

The log takes an event again only with the same content, so everything of it is kept, its time included.
"""

import base64
import json
from typing import cast

from deployments.ports import AuditEvent, Body, BodyField, JsonValue, RequestId, SessionId, TenantId


def to_text(event: AuditEvent) -> str:
    """JSON of an event."""
    return json.dumps(
        {
            "event_id": event.event_id,
            "name": event.name,
            "at_ms": event.at_ms,
            "tenant": event.tenant,
            "principal": event.principal,
            "request_id": event.request_id,
            "session": event.session,
            "data": dict(event.data),
            "bodies": {
                field.value: [body.digest.hex(), None if body.data is None else base64.b64encode(body.data).decode()]
                for field, body in event.bodies.items()
            },
        }
    )


def from_text(text: str) -> AuditEvent:
    """The event of `to_text`."""
    value = cast("dict[str, JsonValue]", json.loads(text))
    bodies = cast("dict[str, tuple[str, str | None]]", value["bodies"])
    request_id, session = value["request_id"], value["session"]
    return AuditEvent(
        event_id=str(value["event_id"]),
        name=str(value["name"]),
        at_ms=cast(int, value["at_ms"]),
        tenant=TenantId(str(value["tenant"])),
        principal=str(value["principal"]),
        request_id=None if request_id is None else RequestId(str(request_id)),
        session=None if session is None else SessionId(str(session)),
        data=cast("dict[str, JsonValue]", value["data"]),
        bodies={
            BodyField(field): Body(bytes.fromhex(digest), None if data is None else base64.b64decode(data))
            for field, (digest, data) in bodies.items()
        },
    )
