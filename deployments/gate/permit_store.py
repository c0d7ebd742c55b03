"""The statements on the table of permits. Every move is one guarded UPDATE: whoever is second moves nothing."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import ColumnElement, Select, Update, exists, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deployments.gate import permit_rows
from deployments.gate.database import fetch, writing
from deployments.gate.permit_rows import PermitRow
from deployments.gate.schema import consumptions, frozen_keys, permits
from deployments.ports import ApprovalId, KeyId, PermitState, TenantId

MAX_AT_ONCE = 500


class PermitStore:
    """Permits in a database. Any failure of it is `GateUnavailable`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, permit_id: str) -> PermitRow | None:
        """One permit."""
        found = await self._rows(select(permits).where(permits.c.permit_id == permit_id))
        return found[0] if found else None

    async def of_call(self, approval_id: ApprovalId, gate_call_id: str) -> PermitRow | None:
        """The permit of a call that left under an approval."""
        query = select(permits).where(permits.c.approval_id == approval_id, permits.c.gate_call_id == gate_call_id)
        found = await self._rows(query)
        return found[0] if found else None

    async def claimable(self, tenant: TenantId, key_id: KeyId, claim_key: str, now_ms: int) -> Sequence[PermitRow]:
        """Permits of approved calls that nobody has claimed, nor reported as executed, oldest first."""
        reported = exists().where(
            consumptions.c.approval_id == permits.c.approval_id, consumptions.c.reported.is_not(None)
        )
        query = (
            select(permits)
            .where(
                permits.c.claim_key == claim_key,
                permits.c.tenant == tenant,
                permits.c.key_id == key_id,
                permits.c.state == PermitState.ISSUED.value,
                permits.c.audience.is_(None),
                permits.c.rollback_of.is_(None),
                permits.c.expires_ms > now_ms,
                ~reported,
            )
            .order_by(permits.c.issued_ms, permits.c.permit_id)
        )
        return await self._rows(query.limit(MAX_AT_ONCE))

    async def steps_of(self, permit_id: str) -> Sequence[PermitRow]:
        """Every permit that was issued to take the execution of another one back, oldest first."""
        query = select(permits).where(permits.c.rollback_of == permit_id)
        return await self._rows(query.order_by(permits.c.issued_ms, permits.c.permit_id))

    async def unreported(self, before_ms: int) -> Sequence[PermitRow]:
        """Permits redeemed at or before `before_ms` without a report or an alert, oldest first; at most 500."""
        query = (
            select(permits)
            .where(
                permits.c.state == PermitState.REDEEMED.value,
                permits.c.redeemed_ms <= before_ms,
                permits.c.alerted_ms.is_(None),
            )
            .order_by(permits.c.redeemed_ms, permits.c.permit_id)
        )
        return await self._rows(query.limit(MAX_AT_ONCE))

    async def frozen(self, key_id: KeyId) -> bool:
        """True when none of the key's calls may be executed."""
        query = select(frozen_keys.c.key_id).where(frozen_keys.c.key_id == key_id)
        return bool(await fetch(self._engine, query))

    @asynccontextmanager
    async def adding(self, row: PermitRow) -> AsyncGenerator[AsyncConnection | None, None]:
        """Insert, and commit when the block ends without an error; None when the call has a permit already."""
        ask = row.ask
        async with writing(self._engine) as connection:
            try:
                if ask.rollback_of is not None:  # what nobody took in time makes room for another attempt
                    await connection.execute(
                        update(permits)
                        .where(
                            permits.c.rollback_of == ask.rollback_of,
                            permits.c.step == ask.step,
                            permits.c.state == PermitState.ISSUED.value,
                            permits.c.expires_ms <= row.issued_ms,
                        )
                        .values(state=PermitState.EXPIRED.value)
                    )
                await connection.execute(insert(permits).values(**permit_rows.columns(row)))
            except IntegrityError:
                await connection.rollback()
                yield None
                return
            yield connection

    @asynccontextmanager
    async def moving(
        self, before: PermitRow, after: PermitRow, now_ms: int
    ) -> AsyncGenerator[AsyncConnection | None, None]:
        """Change a permit that is `ISSUED`, and commit when the block ends without an error.

        None when somebody was faster, its time is over, or its key was frozen meanwhile.
        """
        audience = permits.c.audience
        claimed: ColumnElement[bool] = audience == before.ask.audience if before.ask.audience else audience.is_(None)
        move = (
            update(permits)
            .where(
                permits.c.permit_id == before.permit_id,
                permits.c.state == PermitState.ISSUED.value,
                permits.c.action_digest == after.ask.action_digest,
                permits.c.expires_ms > now_ms,
                claimed,
                ~exists().where(frozen_keys.c.key_id == permits.c.key_id),
            )
            .values(**permit_rows.changing(after))
        )
        async with writing(self._engine) as connection:
            try:
                moved = await connection.execute(move)
            except IntegrityError:  # the step that it would be is being executed
                await connection.rollback()
                yield None
                return
            yield connection if moved.rowcount == 1 else None

    async def finish(self, change: Update) -> bool:
        """Make a change that nobody outside sees; False when somebody was faster."""
        async with writing(self._engine) as connection:
            return (await connection.execute(change)).rowcount == 1

    async def _rows(self, query: "Select[tuple[object, ...]]") -> list[PermitRow]:
        return [permit_rows.read(row) for row in await fetch(self._engine, query)]


def reported(after: PermitRow) -> Update:
    """The execution was reported, if nobody has done so meanwhile."""
    return (
        update(permits)
        .where(permits.c.permit_id == after.permit_id, permits.c.state == PermitState.REDEEMED.value)
        .values(**permit_rows.changing(after))
    )


def alerted(row: PermitRow, now_ms: int) -> Update:
    """Somebody is told that no report came."""
    return (
        update(permits)
        .where(
            permits.c.permit_id == row.permit_id,
            permits.c.state == PermitState.REDEEMED.value,
            permits.c.alerted_ms.is_(None),
        )
        .values(alerted_ms=now_ms)
    )
