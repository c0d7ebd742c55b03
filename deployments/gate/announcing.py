"""Every policy that judges somebody is on record: besides the configured one those of tenants, and the candidate's.

The log's verifier holds each judged call against the policies that were announced before it.
"""

import hashlib
from collections.abc import Iterator, Sequence

from deployments.gate.aftermath import Aftermath
from deployments.gate.live import LivePolicy
from deployments.gate.settings import Running
from deployments.ports import SYSTEM_TENANT, JsonValue, TenantId


async def announce_others(live: Sequence[LivePolicy], after: Aftermath, running: Running) -> None:
    """Record what has changed of all live policies but the configured one itself, which has a record of its own.

    `live` are they, the configured one first.
    """
    for name, tenant, digest, policy, revision in _others(live):
        said: dict[str, JsonValue] = {
            "policy_digest": digest,
            "rule_set": policy.name,
            "change_id": running.change_id,
        }
        if revision is not None:
            said["revision"] = revision
        await after.announce_policy(name, tenant, digest, said)


def _others(live: Sequence[LivePolicy]) -> Iterator[tuple[str, TenantId, str, LivePolicy, str | None]]:
    """Under which name each is announced, to whom it belongs, its digest, and as which candidate."""
    for at, policy in enumerate(live):
        name, revision = ("policy", None) if at == 0 else ("candidate", policy.revision)
        if revision is not None:
            yield name, SYSTEM_TENANT, policy.digest, policy, revision
        for tenant, digest in policy.tenants.items():
            short = hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:16]  # names have 32 characters
            yield f"{name}:{short}", TenantId(tenant), digest, policy, revision
