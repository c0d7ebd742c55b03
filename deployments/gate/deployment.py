"""`PolicyGate`: the approval desk as a Serve deployment."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from deployments.clients import AuditClient
from deployments.clock import Clock, SystemClock
from deployments.errors import GatehouseError
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.bundle import bundle_path
from deployments.gate.policy import read_policy
from deployments.gate.settings import GateSettings, Running
from deployments.gate.store import ApprovalStore
from deployments.ports import (
    ActionOutcome,
    Approval,
    ApprovalId,
    ApprovalState,
    CallResult,
    Conclusion,
    Digests,
    GateContext,
    Keeps,
    Permit,
    Principal,
    Proposal,
    RollbackOutcome,
    RollbackPlan,
    TenantId,
    keeps_nothing,
)
from deployments.store import open_store

_log = logging.getLogger("gatehouse.gate")
_AGAIN_S = 1.0


class PolicyGate:
    """Implements `ports.Approvals`. `audit` is the sink's handle; a policy that cannot be read fails the constructor.

    The classifier runs in every ingress replica; here live only the requests that wait for humans, and what became of
    the calls that left. `running` is what this deployment runs, for the records of what has changed; `keeps_arguments`
    says whose words are kept, encrypted, beside the log.
    """

    def __init__(
        self,
        audit: Any,
        store_url: str,
        settings: GateSettings,
        running: Running = Running(),  # noqa: B008 - frozen
        keeps_arguments: Keeps = keeps_nothing,
        clock: Clock | None = None,
    ) -> None:
        policy = read_policy(bundle_path(settings.bundle))
        self._rule_set = policy.name
        self._running = running
        self._sweep_s = settings.sweep_s
        self._store = ApprovalStore(open_store(store_url))
        self._desk = ApprovalDesk(
            self._store,
            AuditClient(audit, settings.audit_timeout_s),
            clock or SystemClock(),
            settings,
            policy.policy_digest,
            keeps_arguments,
        )
        self._opening: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

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

    async def observe(self, context: GateContext, results: Sequence[CallResult]) -> None:
        """Record what a conversation says of calls."""
        await (await self._opened()).observe(context, results)

    async def report(
        self, principal: Principal, approval_id: ApprovalId, outcome: ActionOutcome, exit_code: int | None, note: str
    ) -> Conclusion:
        """Say what became of a released call."""
        return await (await self._opened()).report(principal, approval_id, outcome, exit_code, note)

    async def rollback(
        self, principal: Principal, approval_id: ApprovalId, outcome: RollbackOutcome, note: str
    ) -> Conclusion:
        """Say how taking a released call back ended."""
        return await (await self._opened()).rollback(principal, approval_id, outcome, note)

    async def ready(self) -> bool:
        """True when the store answers."""
        return await (await self._opened()).ready()

    async def check_health(self) -> None:
        """Raise when the store could not be opened, or when nobody looks for unreported calls any more."""
        await self._opened()
        if self._sweeping is not None and self._sweeping.done():
            self._sweeping.result()

    async def close(self) -> None:
        """Stop looking for anything, and give the connections back."""
        for task in (self._opening, self._sweeping):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._store.close()

    async def _opened(self) -> ApprovalDesk:
        """The desk, its tables made. Concurrent first calls share one opening; a failed one is tried again."""
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.create_task(self._open())
        await asyncio.shield(self._opening)
        return self._desk

    async def _open(self) -> None:
        await self._desk.open(self._rule_set, self._running)
        self._sweeping = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        """For as long as the replica lives. After a failure soon again: what has changed should be on record first."""
        while True:
            try:
                await self._desk.sweep()
                pause_s = self._sweep_s
            except GatehouseError as error:
                _log.warning("the gate's sweep failed: %s", type(error).__name__)
                pause_s = min(_AGAIN_S, self._sweep_s)
            await asyncio.sleep(pause_s)
