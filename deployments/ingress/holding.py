"""Waiting inside a stream for the approval of a held call: what an agent needs that cannot come back later."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from deployments.clock import Clock
from deployments.errors import GateUnavailable, PartUnavailable
from deployments.ports import (
    Approval,
    Approvals,
    ApprovalState,
    Denied,
    Gate,
    GateContext,
    Held,
    Principal,
    ToolCall,
    Verdict,
    Withheld,
)

T = TypeVar("T")
FROZEN: Final = "principal_frozen: the tool calls of this key are stopped."
REJECTED: Final = "An approver rejected this call."
_OPEN: Final = (ApprovalState.PENDING, ApprovalState.NEEDS_PLAN)
_ENDED: Final[Mapping[ApprovalState, str]] = {
    ApprovalState.EXPIRED: "The request for its approval has expired.",
    ApprovalState.CANCELLED: "The request for its approval was cancelled.",
    ApprovalState.STALE: "The policy has changed since its approval was asked for.",
    ApprovalState.CONSUMED: "Its approval was used for the same call elsewhere.",
}


@dataclass(frozen=True, slots=True)
class _Frozen:
    """The key was frozen while its call waited."""


class Holder:
    """Waits up to the key's `hold_s` and has the gate judge anew.

    The gate consumes the approval, not this wait: what was not granted in time stays held, as it is without waiting.
    A request that ends in another way, and a key that is frozen, end the wait at the next look.
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
            match await self._end(context.principal, waiting, ends_s):
                case None:
                    break
                case _Frozen():
                    current[at:] = [Withheld(call, FROZEN) for call in calls[at:]]
                case granted if granted.state is ApprovalState.APPROVED:
                    current[at:] = await self._gate.judge(context, calls[at:])
                case ended:
                    current[at] = _refused(waiting, ended)
                    break  # what is behind it stays withheld
        return current

    async def _end(self, principal: Principal, held: Held, ends_s: float) -> Approval | _Frozen | None:
        """How the wait for a call ended; None when it lasted too long."""
        while (left_s := ends_s - self._clock.monotonic_s()) > 0:
            frozen, approval = await asyncio.gather(
                _if_it_answers(self._approvals.frozen()),
                _if_it_answers(self._approvals.get(principal.tenant, held.approval_id)),
            )
            if any(each.key_id == principal.key_id for each in frozen or ()):
                return _Frozen()
            if approval is not None and approval.state not in _OPEN:
                return approval
            await asyncio.sleep(min(self._poll_s, left_s))
        return None


async def _if_it_answers(question: Awaitable[T]) -> T | None:
    """The answer; None from a store that is down, which may be back before the time is over."""
    try:
        return await question
    except (PartUnavailable, GateUnavailable):
        return None


def _refused(held: Held, ended: Approval) -> Verdict:
    """What has become of a call whose request ended without an approval."""
    if ended.state is ApprovalState.REJECTED:
        reasons = (REJECTED, *held.reasons)
        return Denied(held.call, ended.proposal.gate_call_id, held.risk, reasons, held.receipt)
    return Withheld(held.call, _ENDED[ended.state])
