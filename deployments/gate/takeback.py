"""Whether a step of a rollback plan may run under the approval of the call that it takes back. A pure decision.

The approvers signed the plan together with the call. So its steps need nobody again, as long as each does no more than
the call itself: a step of a higher class needs an approval of its own, and so does one that the gate does not
understand, because nobody knows what that would be.
"""

from enum import StrEnum

from deployments.gate.binding import plan_digest
from deployments.gate.classify import Classification
from deployments.gate.tables import Outcome
from deployments.ports import IssuedPermit, PermitState


class Way(StrEnum):
    """What happens to a step."""

    SIGNED = "signed"  # under the approval of the call
    GATE = "gate"  # judged like any other call
    BY_HAND = "by_hand"  # a verification that is words for a human


def way_of(found: Classification, origin: IssuedPermit, step: int) -> Way:
    """How the step with index `step` of the plan of an executed call may run; the verification comes last."""
    plan, ask = origin.plan, origin.ask
    # What has no rule at all is unknown to the gate: a sentence for a human looks the same as a strange program.
    known = bool(found.commands) and found.arguments is not None and "no-rule" not in found.rules
    if found.outcome is Outcome.FORBID or plan is None:
        return Way.GATE
    if not known:
        return Way.BY_HAND if step == len(plan.steps) else Way.GATE
    executed = origin.state in (PermitState.REDEEMED, PermitState.REPORTED)
    signed = ask.approval_id is not None and ask.rollback_digest == plan_digest(plan.steps, plan.verify)
    return Way.SIGNED if executed and signed and found.risk.rank <= ask.risk.rank else Way.GATE
