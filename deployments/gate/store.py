"""The statements on the table of approvals. Times are milliseconds; every move is one guarded UPDATE.

A row is the whole approval as JSON beside the columns that are searched. `version` grows with every change: an UPDATE
that expects an older one moves nothing, which makes every transition happen at most once, however many replicas try.
"""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import cast

from sqlalchemy import ColumnElement, Executable, Row, Select, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deployments.errors import GateUnavailable
from deployments.gate.database import SILENT, commit, fetch, writing
from deployments.gate.schema import approvals, held_calls, open_states
from deployments.migrations.runner import SchemaError, migrate
from deployments.ports import (
    SYSTEM_TENANT,
    Approval,
    ApprovalId,
    ApprovalState,
    JsonValue,
    KeyId,
    ModelId,
    Proposal,
    RequestId,
    Risk,
    RollbackPlan,
    SessionId,
    TenantId,
    Vote,
)

MAX_LISTED = 500


@dataclass(frozen=True, slots=True)
class Stored:
    """An approval as read, with the version that a change must name."""

    approval: Approval
    version: int


@dataclass(frozen=True, slots=True)
class Queue:
    """Open requests: those that somebody must act on, `oldest_ms` the first of them, and those approved and unused."""

    waiting: int
    oldest_ms: int | None
    approved: int


class ApprovalStore:
    """Approvals in a database. Any failure of it is `GateUnavailable`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @property
    def engine(self) -> AsyncEngine:
        """The database, for the gate's other tables."""
        return self._engine

    async def open(self) -> None:
        """Create the gate's tables, or bring them up to this version."""
        try:
            await migrate(self._engine, "gate")
        except SchemaError as error:
            raise GateUnavailable(str(error)) from error
        except (SQLAlchemyError, OSError) as error:
            raise GateUnavailable(SILENT) from error

    async def ready(self) -> bool:
        """True when the database answers."""
        try:
            async with self._engine.connect() as connection:
                await connection.execute(select(approvals.c.approval_id).limit(1))
        except (SQLAlchemyError, OSError):
            return False
        return True

    async def get(self, id_or_call: str) -> Stored | None:
        """One approval by its own id, or by the id of the call it is about."""
        query = select(approvals).where(
            (approvals.c.approval_id == id_or_call) | (approvals.c.gate_call_id == id_or_call)
        )
        rows = await self._rows(query.limit(1))
        return rows[0] if rows else None

    async def open_for(self, subject: str) -> Stored | None:
        """The open approval of a call of a session, if there is one."""
        query = select(approvals).where(approvals.c.subject == subject, approvals.c.state.in_(open_states))
        rows = await self._rows(query)
        return rows[0] if rows else None

    async def listed(self, tenant: TenantId | None, state: ApprovalState | None, now_ms: int) -> Sequence[Stored]:
        """Approvals of a tenant, or of all that people have, newest first; at most 500.

        With a `state` those that are in it at `now_ms`: an open one whose time is over counts as expired.
        """
        query = select(approvals).order_by(approvals.c.created_ms.desc(), approvals.c.approval_id)
        if tenant is not None:
            query = query.where(approvals.c.tenant == tenant)
        else:  # what the canary opens is withdrawn at once, and nobody's to look at
            query = query.where(approvals.c.tenant != SYSTEM_TENANT)
        if state is not None:
            query = query.where(_stands(state, now_ms))
        return await self._rows(query.limit(MAX_LISTED))

    async def forget_canaries(self, before_ms: int) -> None:
        """Delete what the canary opened before then and withdrew; the audit log has it all."""
        gone = (
            approvals.c.tenant == SYSTEM_TENANT,
            approvals.c.state.not_in(open_states),
            approvals.c.created_ms < before_ms,
        )
        ids = select(approvals.c.approval_id).where(*gone)
        calls = delete(held_calls).where(held_calls.c.approval_id.in_(ids))
        await commit(self._engine, calls, delete(approvals).where(*gone))

    async def due(self, now_ms: int) -> Sequence[Stored]:
        """Open approvals whose time is over; at most 500."""
        query = select(approvals).where(approvals.c.state.in_(open_states), approvals.c.expires_ms <= now_ms)
        return await self._rows(query.limit(MAX_LISTED))

    async def open_ones(self) -> Sequence[Stored]:
        """Open approvals, the oldest first; at most 500."""
        query = select(approvals).where(approvals.c.state.in_(open_states)).order_by(approvals.c.created_ms)
        return await self._rows(query.limit(MAX_LISTED))

    async def queue(self, now_ms: int) -> Queue:
        """How many open requests there are whose time is not over."""
        many, oldest_ms = func.count().label("many"), func.min(approvals.c.created_ms).label("oldest_ms")
        query = (
            select(approvals.c.state, many, oldest_ms)
            .where(approvals.c.state.in_(open_states), approvals.c.expires_ms > now_ms)
            .group_by(approvals.c.state)
        )
        rows = await fetch(self._engine, cast("Select[tuple[object, ...]]", query))
        waiting = [row for row in rows if row.state != ApprovalState.APPROVED.value]
        return Queue(
            waiting=sum(int(row.many) for row in waiting),
            oldest_ms=min((int(row.oldest_ms) for row in waiting), default=None),
            approved=sum(int(row.many) for row in rows) - sum(int(row.many) for row in waiting),
        )

    @asynccontextmanager
    async def adding(
        self, approval: Approval, subject: str, also: Sequence[Executable] = ()
    ) -> AsyncGenerator[AsyncConnection | None, None]:
        """Insert, and commit when the block ends without an error; None when an open one is there already.

        `also` are statements that belong to it.

        What the block awaits, the audit record, precedes the moment in which anybody can see the row.
        """
        async with writing(self._engine) as connection:
            values = {
                "approval_id": approval.approval_id,
                "version": 1,
                "tenant": approval.proposal.tenant,
                "gate_call_id": approval.proposal.gate_call_id,
                "fingerprint": approval.proposal.fingerprint,
                "subject": subject,
                "created_ms": approval.created_ms,
                **_changing(approval),
            }
            try:
                await connection.execute(insert(approvals).values(**values))
                for statement in also:
                    await connection.execute(statement)
            except IntegrityError:
                await connection.rollback()
                yield None
                return
            yield connection

    @asynccontextmanager
    async def moving(
        self, stored: Stored, after: Approval, also: Sequence[Executable] = ()
    ) -> AsyncGenerator[AsyncConnection | None, None]:
        """Change an approval, and commit when the block ends without an error; None when somebody was faster.

        `also` are statements that belong to it; more can be added over the connection.
        """
        async with writing(self._engine) as connection:
            moved = await connection.execute(
                update(approvals)
                .where(
                    approvals.c.approval_id == stored.approval.approval_id,
                    approvals.c.version == stored.version,
                    approvals.c.state == stored.approval.state.value,
                )
                .values(version=stored.version + 1, **_changing(after))
            )
            if moved.rowcount == 1:
                for statement in also:
                    await connection.execute(statement)
            yield connection if moved.rowcount == 1 else None

    async def close(self) -> None:
        """Give the connections back."""
        await self._engine.dispose()

    async def _rows(self, query: "Select[tuple[object, ...]]") -> list[Stored]:
        return [_stored(row) for row in await fetch(self._engine, query)]


def _changing(approval: Approval) -> dict[str, object]:
    return {
        "state": approval.state.value,
        "expires_ms": approval.expires_ms,
        "body": json.dumps(asdict(approval), ensure_ascii=True, separators=(",", ":")),
    }


def _stored(row: "Row[tuple[object, ...]]") -> Stored:
    body = cast("dict[str, JsonValue]", json.loads(row.body))
    return Stored(_approval(body), row.version)


def _approval(body: dict[str, JsonValue]) -> Approval:
    plan = cast("dict[str, JsonValue] | None", body["plan"])
    votes = cast("list[dict[str, JsonValue]]", body["votes"])
    return Approval(
        approval_id=ApprovalId(_text(body, "approval_id")),
        state=ApprovalState(_text(body, "state")),
        proposal=_proposal(cast("dict[str, JsonValue]", body["proposal"])),
        votes_required=_number(body, "votes_required"),
        votes=tuple(
            Vote(
                person=_text(vote, "person"),
                key_id=KeyId(_text(vote, "key_id")),
                approve=vote["approve"] is True,
                reason=_text(vote, "reason"),
                at_ms=_number(vote, "at_ms"),
            )
            for vote in votes
        ),
        change_id=_optional(body, "change_id"),
        plan=None if plan is None else RollbackPlan(tuple(cast("list[str]", plan["steps"])), _text(plan, "verify")),
        created_ms=_number(body, "created_ms"),
        expires_ms=_number(body, "expires_ms"),
    )


def _proposal(body: dict[str, JsonValue]) -> Proposal:
    return Proposal(
        gate_call_id=_text(body, "gate_call_id"),
        action_digest=_text(body, "action_digest"),
        fingerprint=_text(body, "fingerprint"),
        request_id=RequestId(_text(body, "request_id")),
        session=SessionId(_text(body, "session")),
        tenant=TenantId(_text(body, "tenant")),
        requester_key=KeyId(_text(body, "requester_key")),
        requester_person=_optional(body, "requester_person"),
        tool=_text(body, "tool"),
        arguments=_text(body, "arguments"),
        display=_text(body, "display"),
        display_digest=_text(body, "display_digest"),
        risk=Risk(_text(body, "risk")),
        reasons=tuple(cast("list[str]", body["reasons"])),
        policy_digest=_text(body, "policy_digest"),
        model=ModelId(_text(body, "model")),
        # Rows of an older version have neither.
        call_id=_text(body, "call_id") if "call_id" in body else "",
        approver_roles=tuple(cast("list[str]", body.get("approver_roles", []))),
    )


def _stands(state: ApprovalState, now_ms: int) -> ColumnElement[bool]:
    """What `states.as_of` says of an approval, as a condition on its row."""
    written = approvals.c.state == state.value
    if state.value in open_states:
        return and_(written, approvals.c.expires_ms > now_ms)
    if state is ApprovalState.EXPIRED:
        return or_(written, and_(approvals.c.state.in_(open_states), approvals.c.expires_ms <= now_ms))
    return written


def _text(body: dict[str, JsonValue], key: str) -> str:
    value = body[key]
    if not isinstance(value, str):
        raise GateUnavailable("The approval store holds a row that cannot be read.")
    return value


def _optional(body: dict[str, JsonValue], key: str) -> str | None:
    return None if body[key] is None else _text(body, key)


def _number(body: dict[str, JsonValue], key: str) -> int:
    value = body[key]
    if not isinstance(value, int):
        raise GateUnavailable("The approval store holds a row that cannot be read.")
    return value
