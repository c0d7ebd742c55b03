"""Waiting inside a stream for the approval of a held call: what an agent needs that cannot come back later."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from deployments.clock import Clock
from deployments.errors import GateUnavailable, PartUnavailable
from deployments.ports import (
    ApprovalId,
    Approvals,
    ApprovalState,
    Gate,
    GateContext,
    Held,
    Principal,
    ToolCall,
    Verdict,
)

_OPEN = (ApprovalState.PENDING, ApprovalState.NEEDS_PLAN)


class Holder:
    """Waits up to the key's `hold_s` and has the gate judge anew.

    The gate consumes the approval, not this wait: what was not granted in time stays held, as it is without waiting.
    """

    def __init__(self, gate: Gate, approvals: Approvals, clock: Clock, poll_s: float) -> None:
        self._gate = gate
        self._approvals = approvals
        self._clock = clock
        self._poll_s = poll_s

    async def wait(
        self, context: GateContext, calls: Sequence[ToolCall], verdicts: Sequence[Verdict]
    ) -> Sequence[Verdict]:
        """The verdicts after waiting: the held call and all after it are judged again once it was granted."""
        ends_s = self._clock.monotonic_s() + context.principal.hold_s
        current = list(verdicts)
        while held := next(((at, each) for at, each in enumerate(current) if isinstance(each, Held)), None):
            at, waiting = held
            if not await self._granted(context.principal, waiting.approval_id, ends_s):
                break
            current[at:] = await self._gate.judge(context, calls[at:])
        return current

    async def _granted(self, principal: Principal, approval_id: ApprovalId, ends_s: float) -> bool:
        while (left_s := ends_s - self._clock.monotonic_s()) > 0:
            with suppress(PartUnavailable, GateUnavailable):  # the store may be back before the time is over
                state = (await self._approvals.get(principal.tenant, approval_id)).state
                if state is ApprovalState.APPROVED:
                    return True
                if state not in _OPEN:
                    return False
            await asyncio.sleep(min(self._poll_s, left_s))
        return False
