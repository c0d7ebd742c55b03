"""`/v1/audit`: what others may ask of the log."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict

from deployments.errors import Forbidden
from deployments.ports import Audit, Scope
from serve_app.api.auth import Authorizer


class HeadReply(BaseModel):
    """Where the log stands. Kept by an outsider, it later proves that nothing below it was changed or removed."""

    model_config = ConfigDict(frozen=True)

    object: str = "audit.head"
    size: int
    head_hash: str


def create_audit_router(authorizer: Authorizer, audit: Audit) -> APIRouter:
    """The routes of the audit log; a key needs the scope `audit-read` or `admin`."""
    router = APIRouter(prefix="/v1/audit", tags=["audit"])

    async def reader(request: Request) -> None:
        try:
            await authorizer(request, Scope.AUDIT_READ)
        except Forbidden:
            await authorizer(request, Scope.ADMIN)

    @router.get("/head")
    async def head(_: Annotated[None, Depends(reader)]) -> HeadReply:
        """The number of records and the hash that covers them all."""
        found = await audit.head()
        return HeadReply(size=found.size, head_hash=found.head_hash)

    return router
