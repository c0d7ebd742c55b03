"""What the records of runners' permits must mean; part of the verifier's checks of approvals and reports.

A permit that a runner redeems is signed by the gate and recorded before its runner has it. It is for one call that was
released, or for one step of a rollback plan that was signed with an approval.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from deployments.ports import JsonValue

Data = Mapping[str, JsonValue]
_RANK: Mapping[str, int] = {"R0": 0, "R1": 1, "R2": 2, "R3": 3}


@dataclass(frozen=True, slots=True)
class Origin:
    """What the log knows of a permit's call and approval. `consumed` None: no approval by this id was requested."""

    released: bool
    digest: str | None
    consumed: bool | None
    risk: str | None
    plan: tuple[str, str] | None


@dataclass(slots=True)
class _Permit:
    digest: str
    approval: JsonValue
    call: JsonValue
    risk: str
    rollback_of: str | None
    redeemed: bool = False
    reported: bool = False


class SignedPermits:
    """Takes every permit that was issued and redeemed, in log order. Ids belong to a tenant."""

    def __init__(self) -> None:
        self._permits: dict[tuple[str, str], _Permit] = {}
        self._calls: set[tuple[str, str]] = set()

    def take(self, tenant: str, name: str, data: Data, origin: Origin) -> str | None:
        """Why the record is wrong, or None."""
        key = (tenant, str(data["permit_id"]))
        if name == "permit.issued":
            return self._issued(key, data, origin)
        permit = self._permits.get(key)
        if permit is None:
            return f"{name} for a permit that was never issued"
        if data["action_digest"] != permit.digest:
            return f"{name} for another action than the permit is for"
        if permit.redeemed:
            return "a permit was redeemed twice"
        permit.redeemed = True
        return None

    def reported(self, tenant: str, data: Data) -> tuple[str | None, bool]:
        """Why a report on a permit is wrong; and True when it is about a step of a way back, and nothing else."""
        permit_id = data.get("permit_id")
        if permit_id is None:
            return None, False
        permit = self._permits.get((tenant, str(permit_id)))
        if permit is None or not permit.redeemed:
            return "action.reported for an execution that was never begun", False
        if data.get("action_digest") not in (None, permit.digest) or data.get("gate_call_id") != permit.call:
            return "action.reported for another action than the permit is for", False
        if permit.reported:
            return "action.reported twice for one permit", False
        permit.reported = True
        return None, self._under_plan(tenant, permit)

    def _issued(self, key: tuple[str, str], data: Data, origin: Origin) -> str | None:
        if key in self._permits:
            return "a permit was issued twice under one id"
        rollback_of = data.get("rollback_of")
        permit = _Permit(
            digest=str(data["action_digest"]),
            approval=data.get("approval_id"),
            call=data.get("gate_call_id"),
            risk=str(data.get("risk")),
            rollback_of=rollback_of if isinstance(rollback_of, str) else None,
        )
        self._permits[key] = permit
        call = (key[0], str(permit.call))
        if call in self._calls:
            return "two permits were issued for one call"
        self._calls.add(call)
        if permit.risk not in _RANK:
            return f"a permit was issued for a call of class {permit.risk[:16]}"
        if permit.approval is not None and not origin.consumed:
            return "a permit was issued under an approval that was not consumed"
        if permit.rollback_of is not None:
            before = self._permits.get((key[0], permit.rollback_of))
            if before is None or not before.redeemed:
                return "a permit was issued to take back what was never executed"
            if self._under_plan(key[0], permit):
                return _within(permit, data, origin)
        # An approved call may be claimed although the log failed at the moment in which it left.
        if not origin.released and permit.approval is None:
            return "a permit was issued for a call that was never released"
        if origin.digest is not None and origin.digest != permit.digest:
            return "a permit was issued for another action than was classified"
        return None

    def _under_plan(self, tenant: str, permit: _Permit) -> bool:
        """True for a step that goes under the approval of the call which it takes back."""
        before = self._permits.get((tenant, permit.rollback_of or ""))
        return before is not None and permit.approval is not None and before.approval == permit.approval


def _within(permit: _Permit, data: Data, origin: Origin) -> str | None:
    """Whether a step stays within what the approvers signed."""
    if origin.risk is None or _RANK[permit.risk] > _RANK.get(origin.risk, 0):
        return "a step of a way back is of a higher class than the call that was approved"
    if origin.plan is None or data.get("rollback_digest") != origin.plan[1]:
        return "a step of a way back is of another plan than was approved"
    return None
