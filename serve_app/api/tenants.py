"""`/v1/admin/tenants`: which tenants there are, and what holds for each. Scope `admin`.

They are changed in the settings alone.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import NotFound
from deployments.ports import Egress, Ledger, Principal, RateLimits, Scope, Share, TeamView, TenantView
from serve_app.api.auth import Authorizer

_MOST_CHARS = 64  # of an id that is said back


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True)


class LimitsReply(_Reply):
    """What all keys of somebody may do together; null: no such limit."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None


class EgressReply(_Reply):
    """To which models that are not on the premises prompts may go; `models` are those of the rule `listed`."""

    rule: Literal["none", "listed", "all"]
    models: list[str]


class ShareReply(_Reply):
    """The tenant's part of models that are saturated."""

    weight: int
    priority: str


class TeamReply(_Reply):
    """A team of a tenant. `allowed_models` are those that the tenant allows, too; null: all that are served.

    `keys` counts those that are neither revoked nor expired.
    """

    id: str
    keys: int
    allowed_models: list[str] | None
    limits: LimitsReply


class TenantReply(_Reply):
    """A tenant, and what holds for it. `configured`: the settings name it; else these are the defaults.

    `gate_profile` is the least strict one that any of its keys has. `models` are its limits by the name that clients
    ask for, `routing` what the settings change of the routing policy for it. `keys` as of a team, of all its teams and
    of none.
    """

    object: str = "tenant"
    id: str
    configured: bool
    keys: int
    allowed_models: list[str] | None
    gate_profile: str
    egress: EgressReply
    limits: LimitsReply
    share: ShareReply
    teams: list[TeamReply]
    models: dict[str, LimitsReply]
    routing: dict[str, Any] = Field(json_schema_extra={"additionalProperties": True})


class TenantListReply(_Reply):
    """Tenants by name."""

    object: str = "list"
    data: list[TenantReply]


def create_tenants_router(authorizer: Authorizer, ledger: Ledger) -> APIRouter:
    """The routes that show tenants."""
    router = APIRouter(prefix="/v1/admin/tenants", tags=["tenants"])

    async def administrator(request: Request) -> Principal:
        return await authorizer(request, Scope.ADMIN)

    @router.get("", dependencies=[Depends(administrator)])
    async def list_tenants() -> TenantListReply:
        """Every tenant that the settings name or that ever had a key."""
        return TenantListReply(data=[tenant_reply(each) for each in await ledger.tenants()])

    @router.get("/{tenant_id}")
    async def tenant(tenant_id: str, principal: Annotated[Principal, Depends(administrator)]) -> TenantReply:
        """One of them."""
        del principal
        for each in await ledger.tenants():
            if each.tenant == tenant_id:
                return tenant_reply(each)
        raise NotFound(f"No tenant '{tenant_id[:_MOST_CHARS]}'.")

    return router


def tenant_reply(view: TenantView) -> TenantReply:
    """A tenant as the API shows it."""
    return TenantReply(
        id=view.tenant,
        configured=view.configured,
        keys=view.keys,
        allowed_models=_models(view.models),
        gate_profile=view.gate_profile,
        egress=_egress(view.egress),
        limits=_limits(view.limits),
        share=_share(view.share),
        teams=[_team(team) for team in view.teams],
        models=_by_name(view.model_limits),
        routing=dict(view.routing),
    )


def _team(view: TeamView) -> TeamReply:
    return TeamReply(id=view.team, keys=view.keys, allowed_models=_models(view.models), limits=_limits(view.limits))


def _models(models: frozenset[str] | None) -> list[str] | None:
    return None if models is None else sorted(models)


def _egress(egress: Egress) -> EgressReply:
    if egress.models is None:
        return EgressReply(rule="all", models=[])
    return EgressReply(rule="listed" if egress.models else "none", models=sorted(egress.models))


def _limits(limits: RateLimits) -> LimitsReply:
    return LimitsReply(
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrent_requests=limits.concurrent_requests,
    )


def _share(share: Share) -> ShareReply:
    return ShareReply(weight=share.weight, priority=share.priority.value)


def _by_name(limits: Mapping[str, RateLimits]) -> dict[str, LimitsReply]:
    return {name: _limits(each) for name, each in limits.items()}
