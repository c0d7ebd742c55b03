"""`/v1/audit`: what others may ask of the log, and `/healthz/audit`: whether it does what it promises.

Checkpoint and tiles are those of C2SP tlog-tiles, so a monitor needs nothing of ours but a key with scope `audit-read`.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from deployments.audit.proofs import parse_inclusion_proof
from deployments.errors import Forbidden, GatehouseError, NotFound
from deployments.ports import Audit, AuditStatus, Principal, Scope, TenantId
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import GivenId, TenantName, parse_model, read_object

_MAX_INDEX = 2**53 - 1
_MAX_RECORDS = 1_000
_MAX_BODY_BYTES = 16 * 1024
_HEALTH_S = 10.0
_INDEX = re.compile(r"0|[1-9][0-9]{0,15}")
_FULL_TILE = "public, max-age=31536000, immutable"
_TEXT = "text/plain; charset=utf-8"
T = TypeVar("T")

_Index = Annotated[int, Query(ge=0, le=_MAX_INDEX)]
_Leaf = Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")]


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True)


class HeadReply(_Reply):
    """Where the log stands. Kept by an outsider, it later proves that nothing below it was changed or removed."""

    object: str = "audit.head"
    size: int
    head_hash: str


class ReceiptReply(_Reply):
    """A receipt with its proof: the hashes lead from the leaf to the root that the checkpoint signs (RFC 6962).

    `proof` is the same as one text (C2SP tlog-proof), which `gatehouse audit prove --check` takes.
    """

    object: str = "audit.receipt"
    index: int
    leaf_hash: str
    hashes: list[str]
    checkpoint: str
    proof: str


class ConsistencyReply(_Reply):
    """Hashes that lead from the tree of `old_size` to that of `checkpoint`: nothing below was changed or removed."""

    object: str = "audit.consistency"
    old_size: int
    hashes: list[str]
    checkpoint: str


class KeysReply(_Reply):
    """Verifier keys (C2SP signed-note): the log's first, then its witnesses'. Pin them: who asks here trusts us."""

    object: str = "audit.keys"
    keys: list[str]


class RecordReply(_Reply):
    """A record. The leaf hash is of its canonical bytes: `record` in RFC 8785 form."""

    index: int
    leaf_hash: str
    record: dict[str, Any]


class RecordsReply(_Reply):
    """Records in order. `next` is where the page after it begins; null when the log ends here."""

    object: str = "list"
    data: list[RecordReply]
    next: int | None


class ShredBody(BaseModel):
    """Whose bodies become unreadable for ever, and under which change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tenant: TenantName
    change_id: GivenId
    reason: Annotated[str, Field(max_length=1_000)] = ""


class AppendedReply(_Reply):
    """The record of what was done."""

    object: str = "audit.appended"
    index: int
    leaf_hash: str


def create_audit_router(authorizer: Authorizer, audit: Audit) -> APIRouter:
    """The routes of the audit log; a key needs the scope `audit-read` or `admin`, but for receipts of its own."""
    router = APIRouter(tags=["audit"])

    async def reader(request: Request) -> Principal:
        try:
            return await authorizer(request, Scope.AUDIT_READ)
        except Forbidden:
            return await authorizer(request, Scope.ADMIN)

    @router.get("/v1/audit/head")
    async def head(_: Annotated[Principal, Depends(reader)]) -> HeadReply:
        """The number of records and the hash that covers them all."""
        found = await audit.head()
        return HeadReply(size=found.size, head_hash=found.head_hash)

    @router.get("/v1/audit/status")
    async def status(_: Annotated[Principal, Depends(reader)]) -> JSONResponse:
        """What the sink says of itself."""
        return JSONResponse({"object": "audit.status", **asdict(await audit.status())})

    @router.get("/v1/audit/keys")
    async def keys(_: Annotated[Principal, Depends(reader)]) -> KeysReply:
        """The keys that checkpoints are signed with."""
        return KeysReply(keys=[*await audit.verifier_keys()])

    @router.get("/v1/audit/checkpoint")
    async def checkpoint(_: Annotated[Principal, Depends(reader)]) -> Response:
        """The newest checkpoint, a signed note."""
        return Response(await audit.checkpoint(), media_type=_TEXT, headers={"cache-control": "no-cache"})

    @router.get("/v1/audit/tile/{tile:path}")
    async def tile(principal: Annotated[Principal, Depends(reader)], tile: str) -> Response:
        """A tile of hashes; with the scope `admin` also a bundle of entries, which has records of every tenant."""
        if tile.startswith("entries/") and Scope.ADMIN not in principal.scopes:
            raise Forbidden("A bundle of entries holds the records of every tenant: it takes the scope 'admin'.")
        data = await audit.tile(f"tile/{tile}")
        return Response(data, media_type="application/octet-stream", headers={"cache-control": _FULL_TILE})

    @router.get("/v1/audit/consistency")
    async def consistency(_: Annotated[Principal, Depends(reader)], old_size: _Index) -> ConsistencyReply:
        """That the newest checkpoint's tree begins with that of an older size."""
        found = await audit.consistency(old_size)
        return ConsistencyReply(
            old_size=old_size, hashes=[each.hex() for each in found.hashes], checkpoint=found.checkpoint.decode()
        )

    @router.get("/v1/audit/receipts/{index}")
    async def receipt(
        request: Request, index: str, leaf: _Leaf = None, format: Literal["json", "tlog-proof"] = "json"
    ) -> Response:
        """The proof of a receipt. Whoever names its leaf hash holds it, and needs no more than a key of any kind."""
        await _holder(authorizer, request, reader, leaf)
        if _INDEX.fullmatch(index) is None:
            raise NotFound("There is no such receipt: its id is the number in x-gatehouse-audit-index.")
        proven = await audit.prove(int(index))
        if leaf is not None and proven.receipt.leaf_hash.hex() != leaf:
            raise NotFound("The record of this index has another leaf hash: the receipt is not of this log.")
        if format == "tlog-proof":
            return Response(proven.proof, media_type=_TEXT)
        proof = parse_inclusion_proof(proven.proof)
        reply = ReceiptReply(
            index=proven.receipt.index,
            leaf_hash=proven.receipt.leaf_hash.hex(),
            hashes=[each.hex() for each in proof.hashes],
            checkpoint=proof.checkpoint.decode(),
            proof=proven.proof.decode(),
        )
        return JSONResponse(reply.model_dump())

    @router.get("/v1/audit/records")
    async def records(
        principal: Annotated[Principal, Depends(reader)],
        begin: _Index = 0,
        limit: Annotated[int, Query(ge=1, le=_MAX_RECORDS)] = 100,
        tenant: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
    ) -> RecordsReply:
        """Records of the key's tenant; with scope `admin` of any tenant, or of all."""
        if Scope.ADMIN not in principal.scopes:
            if tenant not in (None, principal.tenant):
                raise Forbidden("This key may read the records of its own tenant only.")
            tenant = principal.tenant
        found = await audit.records(begin, limit, None if tenant is None else TenantId(tenant))
        data = [
            RecordReply(index=each.receipt.index, leaf_hash=each.receipt.leaf_hash.hex(), record=json.loads(each.entry))
            for each in found.records
        ]
        return RecordsReply(data=data, next=found.next)

    @router.post("/v1/audit/shred", status_code=201)
    async def shred(request: Request) -> AppendedReply:
        """Destroy the keys of a tenant's stored bodies; recorded before it happens. Proofs stay valid."""
        principal = await authorizer(request, Scope.ADMIN)
        body = parse_model(ShredBody, await read_object(request, _MAX_BODY_BYTES))
        made = await audit.shred(TenantId(body.tenant), principal.key_id, body.change_id, body.reason)
        return AppendedReply(index=made.index, leaf_hash=made.leaf_hash.hex())

    @router.get("/healthz/audit")
    async def healthz() -> JSONResponse:
        """Append, read back, verify: whether evidence is really made at this moment."""
        checked = await _within(audit.check())
        told = await _within(audit.status())
        if isinstance(checked, str) or isinstance(told, str):
            reason = checked if isinstance(checked, str) else told
            return JSONResponse({"status": "down", "problem": reason}, 503)
        problem = checked.problem or _trouble(told)
        facts = {
            "index": checked.index,
            "checkpoint_size": checked.checkpoint_size,
            "at_ms": checked.at_ms,
            "took_ms": checked.took_ms,
            **{name: value for name, value in asdict(told).items() if name not in {"origin", "checkpoint_size"}},
        }
        word = "ok" if problem is None else "failing"
        return JSONResponse({"status": word, "problem": problem, **facts}, 200 if problem is None else 503)

    return router


async def _holder(
    authorizer: Authorizer, request: Request, reader: Callable[[Request], Awaitable[Principal]], leaf: str | None
) -> None:
    """Let through who may read the log, and whoever holds the receipt that is asked about."""
    if leaf is None:
        await reader(request)
        return
    try:
        await authorizer(request, Scope.INFERENCE)
    except Forbidden:
        await reader(request)


async def _within(work: Awaitable[T]) -> T | str:
    """The answer, or the code of the failure in its place."""
    try:
        async with asyncio.timeout(_HEALTH_S):
            return await work
    except GatehouseError as error:
        return str(error)
    except TimeoutError:
        return "The audit sink does not answer."


def _trouble(told: AuditStatus) -> str | None:
    if told.failure is not None:
        return told.failure
    if told.witness_stale:
        return "No quorum of witnesses has confirmed the log lately: R2 and R3 calls are held back."
    return None
