"""The rows of permits, and the statements on them that belong to somebody else's transaction."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Executable, Row, insert

from deployments.errors import GateUnavailable
from deployments.gate.binding import plan_digest
from deployments.gate.commands import claim_key
from deployments.gate.permits import lifetime_ms
from deployments.gate.schema import permits
from deployments.ports import (
    Approval,
    ApprovalId,
    JsonValue,
    KeyId,
    PermitAsk,
    PermitState,
    Proposal,
    Risk,
    RollbackPlan,
    SessionId,
    TenantId,
)


@dataclass(frozen=True, slots=True)
class PermitRow:
    """A permit as stored. `ask.audience` is empty while nobody has claimed it; times are milliseconds.

    `outcome` is what its runner reported, in the words of `ActionOutcome`. `redeemer` is the SHA-256 (hex) of the nonce
    under which the execution was taken, None where its runner named none.
    """

    permit_id: str
    state: PermitState
    tenant: TenantId
    key_id: KeyId
    ask: PermitAsk
    issued_ms: int
    expires_ms: int
    redeemed_ms: int | None
    exec_profile: str
    plan: RollbackPlan | None
    outcome: str | None
    redeemer: str | None = None


def new_permit_id() -> str:
    """A random permit id of 128 bits."""
    return f"prm_{secrets.token_hex(16)}"


def released(approval: Approval, proposal: Proposal, now_ms: int) -> Executable:
    """From now on a runner of the requesting key may claim the approved call, once.

    `proposal` is the repetition that leaves. Belongs to the transaction that consumes `approval`.
    """
    ask = PermitAsk(
        gate_call_id=proposal.gate_call_id,
        action_digest=proposal.action_digest,
        session=proposal.session,
        tool=proposal.tool,
        arguments=proposal.arguments,
        risk=proposal.risk,
        policy_digest=proposal.policy_digest,
        audience="",
        approval_id=approval.approval_id,
        change_id=approval.change_id,
        rollback_digest=None if approval.plan is None else plan_digest(approval.plan.steps, approval.plan.verify),
    )
    row = PermitRow(
        permit_id=new_permit_id(),
        state=PermitState.ISSUED,
        tenant=proposal.tenant,
        key_id=proposal.requester_key,
        ask=ask,
        issued_ms=now_ms,
        expires_ms=now_ms + lifetime_ms(proposal.risk),
        redeemed_ms=None,
        exec_profile="",
        plan=approval.plan,
        outcome=None,
    )
    return insert(permits).values(**columns(row))


def columns(row: PermitRow) -> dict[str, object]:
    """All columns of a new permit."""
    ask = row.ask
    return {
        "permit_id": row.permit_id,
        "tenant": row.tenant,
        "key_id": row.key_id,
        "claim_key": claim_key(row.tenant, row.key_id, ask.tool, ask.arguments),
        "approval_id": ask.approval_id,
        "gate_call_id": ask.gate_call_id,
        "action_digest": ask.action_digest,
        **changing(row),
    }


def changing(row: PermitRow) -> dict[str, object]:
    """The columns that a permit's life changes."""
    ask = row.ask
    body: dict[str, JsonValue] = {
        "session": ask.session,
        "tool": ask.tool,
        "arguments": ask.arguments,
        "risk": ask.risk.value,
        "policy_digest": ask.policy_digest,
        "change_id": ask.change_id,
        "rollback_digest": ask.rollback_digest,
        "exec_profile": row.exec_profile,
        "plan": None if row.plan is None else {"steps": list(row.plan.steps), "verify": row.plan.verify},
        "outcome": row.outcome,
        "redeemer": row.redeemer,
    }
    return {
        "state": row.state.value,
        "audience": ask.audience or None,
        "rollback_of": ask.rollback_of,
        "step": ask.step,
        "issued_ms": row.issued_ms,
        "expires_ms": row.expires_ms,
        "redeemed_ms": row.redeemed_ms,
        "body": json.dumps(body, ensure_ascii=True, separators=(",", ":")),
    }


def read(row: "Row[tuple[object, ...]]") -> PermitRow:
    """The permit of a row; `GateUnavailable` for one that cannot be read."""
    try:
        body = cast("Mapping[str, JsonValue]", json.loads(row.body))
        plan = cast("Mapping[str, JsonValue] | None", body["plan"])
        approval_id = row.approval_id
        ask = PermitAsk(
            gate_call_id=str(row.gate_call_id),
            action_digest=str(row.action_digest),
            session=SessionId(str(body["session"])),
            tool=str(body["tool"]),
            arguments=str(body["arguments"]),
            risk=Risk(str(body["risk"])),
            policy_digest=str(body["policy_digest"]),
            audience=str(row.audience or ""),
            approval_id=None if approval_id is None else ApprovalId(str(approval_id)),
            change_id=_optional(body["change_id"]),
            rollback_digest=_optional(body["rollback_digest"]),
            rollback_of=None if row.rollback_of is None else str(row.rollback_of),
            step=None if row.step is None else int(row.step),
        )
        return PermitRow(
            permit_id=str(row.permit_id),
            state=PermitState(str(row.state)),
            tenant=TenantId(str(row.tenant)),
            key_id=KeyId(str(row.key_id)),
            ask=ask,
            issued_ms=int(row.issued_ms),
            expires_ms=int(row.expires_ms),
            redeemed_ms=None if row.redeemed_ms is None else int(row.redeemed_ms),
            exec_profile=str(body["exec_profile"]),
            plan=None if plan is None else RollbackPlan(tuple(cast("list[str]", plan["steps"])), str(plan["verify"])),
            outcome=_optional(body["outcome"]),
            redeemer=_optional(body.get("redeemer")),  # a row of an older version has none
        )
    except (KeyError, ValueError, TypeError) as error:
        raise GateUnavailable("The approval store holds a permit that cannot be read.") from error


def _optional(value: JsonValue) -> str | None:
    return None if value is None else str(value)
