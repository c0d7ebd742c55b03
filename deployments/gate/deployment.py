"""`PolicyGate`: the approval desk as a Serve deployment."""

import asyncio
from collections.abc import Sequence
from typing import Any

from deployments.clients import AuditClient
from deployments.clock import Clock, SystemClock
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.bundle import bundle_path
from deployments.gate.policy import read_policy
from deployments.gate.settings import GateSettings
from deployments.gate.store import ApprovalStore
from deployments.ports import (
    Approval,
    ApprovalId,
    ApprovalState,
    Digests,
    Permit,
    Principal,
    Proposal,
    RollbackPlan,
    TenantId,
)
from deployments.store import open_store


class PolicyGate:
    """Implements `ports.Approvals`. `audit` is the sink's handle; a policy that cannot be read fails the constructor.

    The classifier runs in every ingress replica; here live only the requests that wait for humans.
    """

    def __init__(self, audit: Any, store_url: str, settings: GateSettings, clock: Clock | None = None) -> None:
        policy = read_policy(bundle_path(settings.bundle))
        self._store = ApprovalStore(open_store(store_url))
        self._desk = ApprovalDesk(
            self._store,
            AuditClient(audit, settings.audit_timeout_s),
            clock or SystemClock(),
            settings,
            policy.policy_digest,
        )
        self._opening: asyncio.Task[None] | None = None

    async def propose(self, proposal: Proposal) -> Permit | Approval:
        """Consume a matching approval, or open the request that waits for one."""
        return await (await self._opened()).propose(proposal)

    async def list_approvals(self, tenant: TenantId | None, state: ApprovalState | None) -> Sequence[Approval]:
        """Requests, newest first; None means all."""
        return await (await self._opened()).list_approvals(tenant, state)

    async def get(self, tenant: TenantId | None, approval_id: ApprovalId) -> Approval:
        """One request by its id or by the id of its call, or `NotFound`."""
        return await (await self._opened()).get(tenant, approval_id)

    async def plan(self, principal: Principal, approval_id: ApprovalId, change_id: str, plan: RollbackPlan) -> Approval:
        """Record change id and rollback plan."""
        return await (await self._opened()).plan(principal, approval_id, change_id, plan)

    async def vote(
        self, principal: Principal, approval_id: ApprovalId, digests: Digests, approve: bool, reason: str
    ) -> Approval:
        """One human's vote on what was shown to them."""
        return await (await self._opened()).vote(principal, approval_id, digests, approve, reason)

    async def cancel(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        """Withdraw a request."""
        return await (await self._opened()).cancel(principal, approval_id, reason)

    async def ready(self) -> bool:
        """True when the store answers."""
        return await (await self._opened()).ready()

    async def check_health(self) -> None:
        """Raise when the store could not be opened."""
        await self._opened()

    async def _opened(self) -> ApprovalDesk:
        """The desk, its table made. Concurrent first calls share one opening; a failed one is tried again."""
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.create_task(self._store.open())
        await asyncio.shield(self._opening)
        return self._desk
