"""Builders for the tests of the vault."""

from hashlib import sha256
from pathlib import Path

from deployments.audit.record import encode
from deployments.audit.settings import AuditSettings, BodySettings
from deployments.audit.vault import Vault
from deployments.clock import FixedClock
from deployments.ports import AuditEvent, Body, BodyField, JsonValue, TenantId

DAY_MS = 86_400_000
NOW_MS = FixedClock().ms
ALL = AuditSettings(bodies=BodySettings(default="all"), min_free_bytes=0)
NONE = AuditSettings(min_free_bytes=0)


def body_of(text: str | bytes, kept: bool = True) -> Body:
    data = text.encode() if isinstance(text, str) else text
    return Body(sha256(data).digest(), data if kept else None)


def said(
    event_id: str = "e1",
    text: str | bytes = "what was said",
    *,
    field: BodyField = BodyField.PROMPT,
    tenant: str = "acme",
    at_ms: int = NOW_MS,
    kept: bool = True,
) -> AuditEvent:
    """An event with one body."""
    return AuditEvent(
        event_id=event_id,
        name="route.decided",
        at_ms=at_ms,
        tenant=TenantId(tenant),
        principal="key_1",
        data={
            "route_id": "rt_1",
            "model": "demo-20b",
            "tier": "20b",
            "effort": "low",
            "reason": "default",
            "policy_digest": "1" * 64,
        },
        bodies={field: body_of(text, kept)},
    )


def open_vault(root: Path, settings: AuditSettings = ALL, clock: FixedClock | None = None) -> Vault:
    return Vault(root / "audit", root / "audit-keys", settings, clock or FixedClock())


def record_of(event: AuditEvent) -> dict[str, JsonValue]:
    """A committed event as its record reads."""
    return {
        "event_id": event.event_id,
        "tenant": event.tenant,
        "at_ms": event.at_ms,
        "data": dict(event.data),
    }


def bytes_of(event: AuditEvent) -> bytes:
    """A committed event as it lies in the log."""
    return encode(event, 0, "test")


def blob_files(root: Path) -> list[Path]:
    """Every blob below the log, also what waits to be deleted."""
    return sorted(path for path in (root / "audit" / "bodies").rglob("*") if len(path.name) == 64)


def key_files(root: Path) -> list[Path]:
    return sorted((root / "audit-keys" / "tenants").glob("*"))
