"""Reviews of requests by a model, for their approvers to read. A review counts for nothing: it only lies beside."""

import json
import secrets
from typing import cast

from sqlalchemy import Executable, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.clock import Clock
from deployments.errors import ApprovalConflict
from deployments.gate.bodies import body_of
from deployments.gate.database import fetch, insert_once
from deployments.gate.display import escaped
from deployments.gate.freezer import Says
from deployments.gate.schema import advice as rows
from deployments.gate.states import MAX_STEPS, MAX_TEXT
from deployments.ports import (
    Advice,
    Approval,
    ApprovalId,
    AuditEvent,
    BodyField,
    Effort,
    JsonValue,
    Keeps,
    ModelId,
    RollbackPlan,
)

MAX_CONCERNS = 50
_MAX_NAME = 256


class AdviceBook:
    """The newest review of each request. `GateUnavailable` when the store does not answer."""

    def __init__(self, engine: AsyncEngine, say: Says, clock: Clock, keeps: Keeps) -> None:
        self._engine = engine
        self._say = say
        self._clock = clock
        self._keeps = keeps

    async def put(self, approval: Approval, advice: Advice) -> None:
        """Keep a review in place of the one before, on record when this returns.

        What a model writes has no bounds, so what is too long is cut; a draft of a plan that is too long is left out.
        """
        body = _to_text(_bounded(advice))
        event = AuditEvent(
            event_id=f"{approval.approval_id}.approval.advised.{secrets.token_hex(6)}",
            name="approval.advised",
            at_ms=self._clock.now_ms(),
            tenant=approval.proposal.tenant,
            principal="gatehouse",
            request_id=approval.proposal.request_id,
            session=approval.proposal.session,
            data={
                "approval_id": approval.approval_id,
                "action_digest": approval.proposal.action_digest,
                "model": escaped(advice.model)[:_MAX_NAME],
                "effort": advice.effort.value,
                "policy_digest": approval.proposal.policy_digest,
            },
            bodies={BodyField.OUTPUT: body_of(body, approval.proposal.tenant, self._keeps)},
        )
        if not await self._say(event, await self._change(approval.approval_id, advice.at_ms, body)):
            raise ApprovalConflict("The request has just been reviewed by another replica.")

    async def get(self, approval_id: ApprovalId) -> Advice | None:
        """The newest review of a request."""
        found = await fetch(self._engine, select(rows.c.body).where(rows.c.approval_id == approval_id))
        return _from_text(str(found[0].body)) if found else None

    async def _change(self, approval_id: ApprovalId, at_ms: int, body: str) -> Executable:
        found = await fetch(self._engine, select(rows.c.at_ms).where(rows.c.approval_id == approval_id))
        if not found:
            return insert_once(self._engine, rows, approval_id=approval_id, at_ms=at_ms, body=body)
        known = rows.c.approval_id == approval_id, rows.c.at_ms == found[0].at_ms
        return update(rows).where(*known).values(at_ms=at_ms, body=body)


def _bounded(advice: Advice) -> Advice:
    plan = advice.plan
    if plan is not None and (
        len(plan.steps) > MAX_STEPS or any(len(text) > MAX_TEXT for text in (*plan.steps, plan.verify))
    ):
        plan = None
    concerns = tuple(concern[:MAX_TEXT] for concern in advice.concerns[:MAX_CONCERNS])
    return Advice(advice.model, advice.effort, advice.at_ms, advice.summary[:MAX_TEXT], concerns, plan)


def _to_text(advice: Advice) -> str:
    return json.dumps(
        {
            "model": advice.model,
            "effort": advice.effort.value,
            "at_ms": advice.at_ms,
            "summary": advice.summary,
            "concerns": list(advice.concerns),
            "plan": advice.plan and {"steps": list(advice.plan.steps), "verify": advice.plan.verify},
        }
    )


def _from_text(text: str) -> Advice:
    body = cast("dict[str, JsonValue]", json.loads(text))
    plan = cast("dict[str, JsonValue] | None", body["plan"])
    return Advice(
        model=ModelId(str(body["model"])),
        effort=Effort(str(body["effort"])),
        at_ms=cast(int, body["at_ms"]),
        summary=str(body["summary"]),
        concerns=tuple(cast("list[str]", body["concerns"])),
        plan=None if plan is None else RollbackPlan(tuple(cast("list[str]", plan["steps"])), str(plan["verify"])),
    )
