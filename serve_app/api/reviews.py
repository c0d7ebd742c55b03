"""`/v1/approvals/{id}/review`: what the largest model says of a call that waits for approval. Advice, never a vote."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict

from deployments.errors import Forbidden, NotFound
from deployments.gate.display import escaped
from deployments.gate.states import visible_tenant
from deployments.ingress.advice import Advisor
from deployments.ports import Advice, ApprovalId, Approvals, Principal, Scope
from serve_app.api.auth import Authorizer

NOTE = "Written by a model that read the call. It may be wrong or misled; it counts for nothing."


class DraftPlan(BaseModel):
    """A way back as the model drafts it; it is recorded only when a human records it."""

    model_config = ConfigDict(frozen=True)

    steps: tuple[str, ...]
    verify: str


class ReviewReply(BaseModel):
    """A review. Every text in it is escaped: it came from a model that read what somebody else wrote."""

    model_config = ConfigDict(frozen=True)

    object: str = "approval.review"
    id: str
    model: str
    effort: str
    at_ms: int
    note: str = NOTE
    summary: str
    concerns: tuple[str, ...]
    plan: DraftPlan | None


def create_reviews_router(authorizer: Authorizer, approvals: Approvals, advisor: Advisor) -> APIRouter:
    """The routes of reviews."""
    router = APIRouter(prefix="/v1/approvals", tags=["gate"])

    async def member(request: Request) -> Principal:
        for scope in (Scope.APPROVE, Scope.INFERENCE, Scope.ADMIN):
            try:
                return await authorizer(request, scope)
            except Forbidden:
                continue
        raise Forbidden("This key has none of the scopes 'approve', 'inference' and 'admin'.")

    @router.post("/{approval_id}/review")
    async def review(approval_id: str, principal: Annotated[Principal, Depends(member)]) -> ReviewReply:
        """Have the call reviewed now; a newer review takes the place of an older one."""
        tenant = visible_tenant(principal)
        return _reply(approval_id, await advisor.review(principal, tenant, ApprovalId(approval_id)))

    @router.get("/{approval_id}/review")
    async def newest(approval_id: str, principal: Annotated[Principal, Depends(member)]) -> ReviewReply:
        """The newest review of a request."""
        found = await approvals.advice(visible_tenant(principal), ApprovalId(approval_id))
        if found is None:
            raise NotFound("There is no review of this request.")
        return _reply(approval_id, found)

    return router


def _reply(approval_id: str, advice: Advice) -> ReviewReply:
    plan = advice.plan
    return ReviewReply(
        id=approval_id,
        model=advice.model,
        effort=advice.effort.value,
        at_ms=advice.at_ms,
        summary=escaped(advice.summary),
        concerns=tuple(escaped(each) for each in advice.concerns),
        plan=None if plan is None else DraftPlan(steps=tuple(map(escaped, plan.steps)), verify=escaped(plan.verify)),
    )
