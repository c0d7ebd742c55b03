"""`/v1/changes`, `/v1/incidents`, `/v1/rollouts`: what operators and their tools report into the audit log.

Scope `admin`; steps of rollouts that other tools drive also with the scope `rollout-events`, which gives nothing else.
Nothing is kept here: the record is all there is, and it is on disk before the answer. What happens once
to its object (a change or incident is closed, a rollout started or finished) is recorded once, whoever repeats it; of
what may happen again, a repetition is known by its `Idempotency-Key`. A repetition answers the first receipt.
"""

import asyncio
import hashlib
import json
import re
import secrets
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from deployments.audit.record import fields_of
from deployments.clock import Clock
from deployments.errors import AuditRefused, Forbidden, InvalidRequest, NotFound
from deployments.ports import (
    SYSTEM_TENANT,
    Audit,
    AuditEvent,
    Body,
    BodyField,
    JsonValue,
    Keeps,
    Principal,
    Receipt,
    Scope,
    TenantId,
    keeps_nothing,
)
from deployments.rollouts import Kind
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import ID_PATTERN, GivenId, TenantName, parse_model, read_object

IDEMPOTENCY_HEADER = "idempotency-key"
_MAX_BODY_BYTES = 64 * 1024
_PATH_ID = re.compile(ID_PATTERN)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_OWN_KINDS = frozenset(kind.value for kind in Kind)
_ONCE = frozenset({"change.closed", "incident.opened", "incident.closed", "rollout.started", "rollout.finished"})

_Word = Annotated[str, StringConstraints(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\z")]
_Line = Annotated[str, StringConstraints(pattern=r"\A[^\x00-\x1f\x7f]{1,256}\z")]
_Reason = Annotated[str, Field(min_length=1, max_length=4_000)]
_Severity = Literal["low", "medium", "high", "critical"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Reported(_Body):
    """`tenant`: whose record it is; null: the key's own. `reason` is recorded as a salted commitment, never in clear.

    `title` is recorded in clear.
    """

    tenant: TenantName | None = None
    title: _Line | None = None
    reason: _Reason | None = None


class ChangeCloseBody(_Reported):
    """How a change ended, and what became of the way back."""

    outcome: Literal["succeeded", "rolled_back", "failed"]
    rollback_status: Literal["not_needed", "succeeded", "failed"] | None = None


class _Concerned(_Reported):
    """`approval_id`, `gate_call_id` and `change_id` name what the incident is about."""

    approval_id: GivenId | None = None
    gate_call_id: GivenId | None = None
    change_id: GivenId | None = None


class IncidentOpenBody(_Concerned):
    """A new incident; without an `incident_id` it is given one."""

    incident_id: GivenId | None = None
    kind: _Word
    severity: _Severity


class IncidentUpdateBody(_Concerned):
    """What is new about an incident; at least one field."""

    severity: _Severity | None = None
    outcome: _Word | None = None


class IncidentCloseBody(_Concerned):
    """How an incident ended."""

    outcome: _Word


class RolloutEventBody(_Body):
    """A step of a rollout. `share_percent` is what the new revision now gets; `reason` is the tool's, in clear."""

    event: Literal["started", "promoted", "held", "rolled_back", "finished"]
    rollout_id: GivenId
    kind: _Word
    model: _Line | None = None
    revision: _Line | None = None
    previous_revision: _Line | None = None
    share_percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    state: _Word | None = None
    reason: Annotated[str, StringConstraints(pattern=r"\A[^\x00-\x1f\x7f]{1,1000}\z")] | None = None
    change_id: GivenId | None = None


class ReportedReply(BaseModel):
    """The record of what was reported. `id` is that of the change, incident or rollout."""

    model_config = ConfigDict(frozen=True)

    object: str = "audit.appended"
    id: str
    event: str
    index: int
    leaf_hash: str


def create_operations_router(
    authorizer: Authorizer, audit: Audit, clock: Clock, keeps_bodies: Keeps = keeps_nothing
) -> APIRouter:
    """The routes by which operators report. `keeps_bodies`: whether a tenant's reasons go to the sink as text."""
    router = APIRouter(prefix="/v1", tags=["operations"])
    book = _Book(audit, clock, keeps_bodies)

    async def administrator(request: Request) -> Principal:
        return await authorizer(request, Scope.ADMIN)

    @router.post("/changes/{change_id:path}/close", status_code=201)
    async def close_change(
        request: Request, change_id: str, principal: Annotated[Principal, Depends(administrator)]
    ) -> ReportedReply:
        """Nothing more will be done under this change."""
        named = _named(change_id, "change_id")
        body = parse_model(ChangeCloseBody, await read_object(request, _MAX_BODY_BYTES))
        fields: dict[str, JsonValue] = {
            "change_id": named,
            "outcome": body.outcome,
            "rollback_status": body.rollback_status,
            "title": body.title,
        }
        return await book.record(request, principal, "change.closed", named, _tenant(body, principal), fields, body)

    @router.post("/incidents", status_code=201)
    async def open_incident(request: Request, principal: Annotated[Principal, Depends(administrator)]) -> ReportedReply:
        """Open an incident."""
        body = parse_model(IncidentOpenBody, await read_object(request, _MAX_BODY_BYTES))
        tenant = _tenant(body, principal)
        incident_id = body.incident_id or _new_id(_key(request), principal, tenant)
        fields = {**_about(body, incident_id), "kind": body.kind, "severity": body.severity}
        return await book.record(request, principal, "incident.opened", incident_id, tenant, fields, body)

    @router.post("/incidents/{incident_id:path}/update", status_code=201)
    async def update_incident(
        request: Request, incident_id: str, principal: Annotated[Principal, Depends(administrator)]
    ) -> ReportedReply:
        """Say what is new about an incident."""
        named = _named(incident_id, "incident_id")
        body = parse_model(IncidentUpdateBody, await read_object(request, _MAX_BODY_BYTES))
        if not body.model_dump(exclude={"tenant"}, exclude_none=True):
            raise InvalidRequest("An update must say something: give at least one field.", "body")
        fields = {**_about(body, named), "severity": body.severity, "outcome": body.outcome}
        return await book.record(request, principal, "incident.updated", named, _tenant(body, principal), fields, body)

    @router.post("/incidents/{incident_id:path}/close", status_code=201)
    async def close_incident(
        request: Request, incident_id: str, principal: Annotated[Principal, Depends(administrator)]
    ) -> ReportedReply:
        """Close an incident."""
        named = _named(incident_id, "incident_id")
        body = parse_model(IncidentCloseBody, await read_object(request, _MAX_BODY_BYTES))
        fields = {**_about(body, named), "outcome": body.outcome}
        return await book.record(request, principal, "incident.closed", named, _tenant(body, principal), fields, body)

    async def reporter(request: Request) -> Principal:
        return await authorizer(request, Scope.ROLLOUT_EVENTS, Scope.ADMIN)

    @router.post("/rollouts/events", status_code=201)
    async def rollout(request: Request, principal: Annotated[Principal, Depends(reporter)]) -> ReportedReply:
        """Report a step of a rollout; it belongs to no tenant."""
        body = parse_model(RolloutEventBody, await read_object(request, _MAX_BODY_BYTES))
        if body.kind in _OWN_KINDS and Scope.ADMIN not in principal.scopes:
            raise Forbidden(f"Rollouts of the kind '{body.kind}' are Gatehouse's own: only it, or a key with the scope "
                            "'admin', reports their steps.")  # fmt: skip
        fields = cast("dict[str, JsonValue]", body.model_dump(exclude={"event"}))
        name = f"rollout.{body.event}"
        return await book.record(request, principal, name, body.rollout_id, SYSTEM_TENANT, fields, None)

    return router


class _Book:
    """Puts reports into the log, each one once."""

    def __init__(self, audit: Audit, clock: Clock, keeps_bodies: Keeps) -> None:
        self._audit = audit
        self._clock = clock
        self._keeps_bodies = keeps_bodies
        self._turn = asyncio.Lock()

    async def record(
        self,
        request: Request,
        principal: Principal,
        name: str,
        object_id: str,
        tenant: TenantId,
        fields: dict[str, JsonValue],
        said: _Reported | None,
    ) -> ReportedReply:
        """The receipt of the record; of the first one when this is a repetition.

        `InvalidRequest` (`already_recorded`) when the log has something else under the same id; `AuditUnavailable`.
        """
        key = _key(request)
        again = "" if name in _ONCE else f":{key or secrets.token_hex(12)}"
        may_be_known = name in _ONCE or key is not None
        bodies: dict[BodyField, Body] = {}
        if said is not None:
            fields = {**fields, "reporter": principal.person}
            if said.reason is not None:
                text = said.reason.encode()
                kept = text if self._keeps_bodies(tenant) else None
                bodies[BodyField.REASON] = Body(hashlib.sha256(text).digest(), kept)
        event = AuditEvent(
            event_id=f"{name}:{tenant}:{object_id}{again}",
            name=name,
            at_ms=self._clock.now_ms(),
            tenant=tenant,
            principal=principal.key_id,
            data={field: value for field, value in fields.items() if value is not None},
            bodies=bodies,
        )
        async with self._turn:
            receipt = await self._first(event, object_id) if may_be_known else None
            if receipt is None:
                receipt = await self._append(event, object_id)
        return ReportedReply(id=object_id, event=name, index=receipt.index, leaf_hash=receipt.leaf_hash.hex())

    async def _append(self, event: AuditEvent, object_id: str) -> Receipt:
        try:
            [receipt] = await self._audit.append([event])
        except AuditRefused:
            receipt = await self._first(event, object_id)  # another replica was faster
            if receipt is None:
                raise
        return receipt

    async def _first(self, event: AuditEvent, object_id: str) -> Receipt | None:
        """The receipt of the record that has the event's id, or None.

        It is looked for before the log is asked to append: to the sink, an id with other content (and be it the time)
        is an attempt at forgery, which it records as one.
        """
        try:
            found = await self._audit.find(event.event_id)
        except NotFound:
            return None
        if not _same(json.loads(found.entry), event):
            raise _known_otherwise(event, object_id)
        return found.receipt


def _known_otherwise(event: AuditEvent, object_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{event.name}' of '{object_id}' was recorded before, with other content.",
        None,
        "already_recorded",
    )


def _same(record: dict[str, object], event: AuditEvent) -> bool:
    """Whether a record says what `event` says, but for the time.

    Of a reason the record has a commitment alone, so that it has one is all that can be compared.
    """
    fields = fields_of(record)
    had_reason = "reason_commit" in fields
    said = {name: value for name, value in fields.items() if not name.endswith(("_commit", "_body"))}
    has_reason = BodyField.REASON in event.bodies
    return (said, record["principal"], had_reason) == (event.data, event.principal, has_reason)


def _about(body: _Concerned, incident_id: str) -> dict[str, JsonValue]:
    return {
        "incident_id": incident_id,
        "title": body.title,
        "approval_id": body.approval_id,
        "gate_call_id": body.gate_call_id,
        "change_id": body.change_id,
    }


def _tenant(body: _Reported, principal: Principal) -> TenantId:
    return principal.tenant if body.tenant is None else TenantId(body.tenant)


def _named(value: str, param: str) -> str:
    """An id from the path."""
    if _PATH_ID.fullmatch(value) is None:
        raise InvalidRequest(
            f"'{param}' must be 1 to 128 letters, digits and '._:/-', the first a letter or digit.", param
        )
    return value


def _key(request: Request) -> str | None:
    """The `Idempotency-Key` of a request, or None."""
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is not None and _KEY.fullmatch(key) is None:
        raise InvalidRequest(f"'{IDEMPOTENCY_HEADER}' must be 1 to 255 visible ASCII characters.", IDEMPOTENCY_HEADER)
    return key


def _new_id(key: str | None, principal: Principal, tenant: TenantId) -> str:
    """An incident's id: the same for a repetition."""
    if key is None:
        return f"inc_{secrets.token_hex(10)}"
    return f"inc_{hashlib.sha256(f'{tenant} {principal.key_id} {key}'.encode()).hexdigest()[:20]}"
