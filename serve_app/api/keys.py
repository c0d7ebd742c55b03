"""`/v1/admin/keys`: create, list, rotate, expire and revoke virtual keys. Scope `admin`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from deployments.gate.people import doubtful
from deployments.ports import (
    GateProfile,
    KeyId,
    KeyRecord,
    KeySpec,
    Ledger,
    ModelId,
    Principal,
    RateLimits,
    Scope,
    TenantId,
)
from deployments.tenancy.settings import MOST_PER_MINUTE
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import TenantName, parse_model, read_object

_MAX_BODY_BYTES = 64 * 1024
_MAX_TTL_S = 10 * 366 * 86_400
_MAX_HOLD_S = 600  # clients give up on a stream some time after that
_MAX_GRACE_S = 30 * 86_400
_MAX_BUDGET = 2**53 - 1  # what JSON and the audit log can hold exactly

_Name = Annotated[str, StringConstraints(pattern=r"\A[^\x00-\x1f\x7f]{1,128}\z")]
_Role = Annotated[str, StringConstraints(pattern=r"\A[a-z0-9][a-z0-9._-]{0,62}\z")]
_PerMinute = Annotated[int, Field(ge=1, le=MOST_PER_MINUTE)]
_Model = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}\z")]


class NewKeyBody(BaseModel):
    """What to create a key from. `models` null: all; `ttl_s` null: no expiry; `person`: the human behind it.

    `hold_s`: how long a tool call that needs an approval waits for it inside the stream, 0 withholds it at once.
    `budget_tokens`: what the key may use in all, input and output together; null: no such limit. `roles`: what the
    person may decide about, where the policy asks for approvers of a role. `team`: the part of the tenant that the key
    belongs to; the limits of its settings hold beside the key's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tenant: TenantName
    name: _Name
    person: _Name | None = None
    scopes: Annotated[frozenset[Scope], Field(min_length=1)] = frozenset({Scope.INFERENCE})
    models: Annotated[frozenset[_Model], Field(min_length=1, max_length=64)] | None = None
    gate_profile: GateProfile = GateProfile.OPS
    ttl_s: Annotated[int, Field(ge=1, le=_MAX_TTL_S)] | None = None
    hold_s: Annotated[int, Field(ge=0, le=_MAX_HOLD_S)] = 0
    budget_tokens: Annotated[int, Field(ge=1, le=_MAX_BUDGET)] | None = None
    roles: Annotated[frozenset[_Role], Field(max_length=64)] = frozenset()
    team: TenantName | None = None
    requests_per_minute: _PerMinute | None = None
    tokens_per_minute: _PerMinute | None = None
    concurrent_requests: _PerMinute | None = None

    @field_validator("person")
    @classmethod
    def _tells_people_apart(cls, person: str | None) -> str | None:
        problem = None if person is None else doubtful(person)
        if problem is not None:
            raise ValueError(problem)
        return person

    def to_spec(self) -> KeySpec:
        """The same, as the ledger wants it."""
        return KeySpec(
            tenant=TenantId(self.tenant),
            name=self.name,
            person=self.person,
            scopes=self.scopes,
            models=None if self.models is None else frozenset(map(ModelId, self.models)),
            gate_profile=self.gate_profile,
            ttl_s=self.ttl_s,
            hold_s=self.hold_s,
            budget_tokens=self.budget_tokens,
            roles=frozenset(self.roles),
            team=self.team,
            limits=RateLimits(self.requests_per_minute, self.tokens_per_minute, self.concurrent_requests),
        )


class RotateBody(BaseModel):
    """`grace_s`: how long the old text is good beside the new one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    grace_s: Annotated[int, Field(ge=0, le=_MAX_GRACE_S)] = 0


class ExpireBody(BaseModel):
    """`in_s`: seconds until the key ends, 0 at once, null never."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    in_s: Annotated[int, Field(ge=0, le=_MAX_TTL_S)] | None


class KeyReply(BaseModel):
    """A key without its secret. Times are milliseconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    object: str = "key"
    id: str
    tenant: str
    name: str
    person: str | None
    scopes: list[str]
    models: list[str] | None
    gate_profile: str
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    hold_s: int
    budget_tokens: int | None
    roles: list[str]
    team: str | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    rotated_ms: int | None
    previous_until_ms: int | None


class NewKeyReply(KeyReply):
    """A new key with its text, for the only time."""

    key: str


class KeyListReply(BaseModel):
    """Keys, oldest first."""

    model_config = ConfigDict(frozen=True)

    object: str = "list"
    data: list[KeyReply]


def create_keys_router(authorizer: Authorizer, ledger: Ledger) -> APIRouter:
    """The routes that manage keys, of every tenant."""
    router = APIRouter(prefix="/v1/admin/keys", tags=["keys"])

    async def administrator(request: Request) -> Principal:
        return await authorizer(request, Scope.ADMIN)

    @router.post("", status_code=201)
    async def create(request: Request, principal: Annotated[Principal, Depends(administrator)]) -> NewKeyReply:
        """Create a key; the reply is the only place its text is ever in."""
        body = parse_model(NewKeyBody, await read_object(request, _MAX_BODY_BYTES))
        created = await ledger.create_key(body.to_spec(), actor=_actor(principal))
        return NewKeyReply(key=created.presented, **_reply(created.record).model_dump())

    @router.get("", dependencies=[Depends(administrator)])
    async def list_keys(tenant: str | None = None) -> KeyListReply:
        """Keys of one tenant, or of all; revoked ones too."""
        found = await ledger.list_keys(None if tenant is None else TenantId(tenant))
        return KeyListReply(data=[_reply(record) for record in found])

    @router.delete("/{key_id}")
    async def revoke(key_id: str, principal: Annotated[Principal, Depends(administrator)]) -> KeyReply:
        """Revoke a key; it stops working everywhere within 5 s."""
        return _reply(await ledger.revoke_key(KeyId(key_id), actor=_actor(principal)))

    @router.post("/{key_id}/rotate")
    async def rotate(
        key_id: str, request: Request, principal: Annotated[Principal, Depends(administrator)]
    ) -> NewKeyReply:
        """Give a key a new text, shown only here; usage, budget and limits stay with the key."""
        body = parse_model(RotateBody, await read_object(request, _MAX_BODY_BYTES))
        rotated = await ledger.rotate_key(KeyId(key_id), body.grace_s, actor=_actor(principal))
        return NewKeyReply(key=rotated.presented, **_reply(rotated.record).model_dump())

    @router.post("/{key_id}/expire")
    async def expire(
        key_id: str, request: Request, principal: Annotated[Principal, Depends(administrator)]
    ) -> KeyReply:
        """Set when a key ends; effective everywhere within 5 s."""
        body = parse_model(ExpireBody, await read_object(request, _MAX_BODY_BYTES))
        return _reply(await ledger.expire_key(KeyId(key_id), body.in_s, actor=_actor(principal)))

    return router


def _actor(principal: Principal) -> str:
    """Who acts, for the audit record: the key, whose own record names the person."""
    return principal.key_id


def _reply(record: KeyRecord) -> KeyReply:
    return KeyReply(
        id=record.key_id,
        tenant=record.tenant,
        name=record.name,
        person=record.person,
        scopes=sorted(record.scopes),
        models=None if record.models is None else sorted(record.models),
        gate_profile=record.gate_profile.value,
        created_ms=record.created_ms,
        expires_ms=record.expires_ms,
        revoked_ms=record.revoked_ms,
        hold_s=record.hold_s,
        budget_tokens=record.budget_tokens,
        roles=sorted(record.roles),
        team=record.team,
        requests_per_minute=record.limits.requests_per_minute,
        tokens_per_minute=record.limits.tokens_per_minute,
        concurrent_requests=record.limits.concurrent_requests,
        rotated_ms=record.rotated_ms,
        previous_until_ms=record.previous_until_ms,
    )
