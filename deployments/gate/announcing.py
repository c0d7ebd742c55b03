"""Every policy that judges somebody is on record: besides the configured one those of tenants, and the candidate's.

The log's verifier holds each judged call against the policies that were announced before it.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence

from deployments.clock import Clock
from deployments.errors import AuditUnavailable, GateUnavailable
from deployments.gate.aftermath_store import AftermathStore, announcing
from deployments.gate.approval_records import SYSTEM
from deployments.gate.freezer import Says
from deployments.gate.live import LivePolicy
from deployments.gate.settings import Running
from deployments.ports import SYSTEM_TENANT, AuditEvent, JsonValue, TenantId

_ATTEMPTS = 8


async def announce_others(
    live: Sequence[LivePolicy], rows: AftermathStore, say: Says, clock: Clock, running: Running
) -> None:
    """Record what has changed of all live policies but the configured one itself, which has a record of its own.

    `live` are they, the configured one first. Without the log the records wait for the next sweep.
    """
    for name, tenant, digest, policy, revision in _others(live):
        said: dict[str, JsonValue] = {
            "policy_digest": digest,
            "rule_set": policy.name,
            "change_id": running.change_id,
        }
        if revision is not None:
            said["revision"] = revision
        for _ in range(_ATTEMPTS):
            before = await rows.announced(name)
            if before.digest == digest:
                break
            event = AuditEvent(
                event_id=f"policy.changed:{digest[:16]}:{secrets.token_hex(6)}",
                name="policy.changed",
                at_ms=clock.now_ms(),
                tenant=tenant,
                principal=SYSTEM,
                data={**said, "previous_digest": before.digest},
            )
            try:
                told = await say(event, announcing(name, before, digest))
            except AuditUnavailable:  # told of already, and kept
                told = True
            if told:
                break
        else:
            raise GateUnavailable("The approval store is too busy.")


def _others(live: Sequence[LivePolicy]) -> Iterator[tuple[str, TenantId, str, LivePolicy, str | None]]:
    """Under which name each is announced, to whom it belongs, its digest, and as which candidate."""
    for at, policy in enumerate(live):
        name, revision = ("policy", None) if at == 0 else ("candidate", policy.revision)
        if revision is not None:
            yield name, SYSTEM_TENANT, policy.digest, policy, revision
        for tenant, digest in policy.tenants.items():
            short = hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:16]  # names have 32 characters
            yield f"{name}:{short}", TenantId(tenant), digest, policy, revision
