"""`/v1/approvals/{id}/review`: what the largest model says of a call that waits for approval. Advice, never a vote."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from deployments.errors import NotFound
from deployments.gate.states import visible_tenant
from deployments.ingress.advice import Advisor
from deployments.ports import Advice, ApprovalId, Approvals, Principal, Scope
from serve_app.api.approvals import AdviceReply, advice_reply
from serve_app.api.auth import Authorizer

NOTE = "Written by a model that read the call. It may be wrong or misled; it counts for nothing."


class ReviewReply(AdviceReply):
    """A review by itself, with the request that it is of."""

    object: str = "approval.review"
    id: str
    note: str = NOTE


def create_reviews_router(authorizer: Authorizer, approvals: Approvals, advisor: Advisor) -> APIRouter:
    """The routes of reviews."""
    router = APIRouter(prefix="/v1/approvals", tags=["gate"])

    async def member(request: Request) -> Principal:
        return await authorizer(request, Scope.INFERENCE, Scope.APPROVE, Scope.ADMIN)

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
    return ReviewReply(id=approval_id, **dict(advice_reply(advice)))
