"""The moves of permits: out to a runner, and taken by one. Each is on record before it is made, and before it is told.

The order is the desk's: write the row without committing, record it in the audit log, commit. So no token is seen
before `permit.issued` is on disk, and nobody executes before `permit.redeemed` is. Whether a move may be made at all,
the office decides before.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TypedDict, cast

from deployments.errors import ApprovalConflict, AuditRefused
from deployments.gate.approval_records import MAX_TEXT
from deployments.gate.bodies import body_of
from deployments.gate.display import escaped
from deployments.gate.permit_keys import PermitKeys
from deployments.gate.permit_rows import PermitRow
from deployments.gate.permit_store import PermitStore
from deployments.gate.permits import ISSUER, Claims, lifetime_ms, profile_of, sign
from deployments.gate.recorder import Recorder
from deployments.ports import AuditEvent, BodyField, IssuedPermit, JsonValue, Keeps, PermitAsk, PermitState, Principal


class _Data(TypedDict):
    redeemer: str | None


class _Redemption(TypedDict):
    """What `permit.redeemed` says of its permit, as this module has recorded it."""

    at_ms: int
    data: _Data


class PermitMoves:
    """Half of the permit office. `turn` is the office's: one writer at a time in this process.

    `keeps` says whose arguments are kept beside the log; of others it gets digests.
    """

    def __init__(
        self, store: PermitStore, recorder: Recorder, keys: PermitKeys, turn: asyncio.Lock, keeps: Keeps
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._keys = keys
        self._turn = turn
        self._keeps = keeps

    async def add(self, principal: Principal, row: PermitRow) -> IssuedPermit:
        """Issue a new permit; `ApprovalConflict` where its call, or the step that it is, has one."""
        token = self._sign(row)
        event = self._event(principal, "permit.issued", row, row.issued_ms)
        async with self._turn:
            added = await self._recorder.made(self._store.adding(row), [event], final=False)
        if not added:
            raise ApprovalConflict("There is a permit for this already.")
        return shown(row, token)

    async def hand_out(self, principal: Principal, row: PermitRow, taken: PermitRow, now_ms: int) -> IssuedPermit:
        """Give the permit of an approved call to the one runner that takes it."""
        after = replace(
            taken,
            issued_ms=now_ms,
            expires_ms=now_ms + lifetime_ms(taken.ask.risk),
            exec_profile=profile_of(taken.ask.risk, taken.ask.arguments),
        )
        if row.ask.audience:
            raise ApprovalConflict("There is a permit for this call already.")
        token = self._sign(after)
        if not await self._move(row, after, now_ms, self._event(principal, "permit.issued", after, now_ms)):
            raise ApprovalConflict("There is a permit for this call already, or its time is over.")
        return shown(after, token)

    async def take(self, principal: Principal, row: PermitRow, after: PermitRow, now_ms: int) -> bool:
        """Redeem a permit; False when it has to be looked at again.

        What the log has is final. A crash after the record and before the commit left a permit that nobody was told is
        theirs: it becomes whose the record says, and whoever that is may ask again.
        """
        event = self._redemption(principal, after)
        try:
            return await self._move(row, after, now_ms, event)
        except AuditRefused:
            found = await self._recorder.find(event.event_id)
            if found is None:
                raise
        record = cast(_Redemption, json.loads(found.entry))
        told = replace(after, redeemed_ms=record["at_ms"], redeemer=record["data"]["redeemer"])
        async with self._turn:
            await self._recorder.made(self._store.moving(row, told, now_ms), [], final=True)
        return False

    async def confirm(self, principal: Principal, row: PermitRow) -> None:
        """Return once the log has the redemption of a permit for certain; it is recorded at most once."""
        await self._recorder.record([self._redemption(principal, row)])

    async def _move(self, before: PermitRow, after: PermitRow, now_ms: int, event: AuditEvent) -> bool:
        """Make a move whose record is durable first; False when somebody was faster."""
        async with self._turn:
            final = after.state is not PermitState.ISSUED
            return await self._recorder.made(self._store.moving(before, after, now_ms), [event], final=final)

    def _redemption(self, principal: Principal, row: PermitRow) -> AuditEvent:
        """The one record of a redemption: of the row alone, so that it is the same whenever it is made."""
        at_ms = row.issued_ms if row.redeemed_ms is None else row.redeemed_ms
        return self._event(principal, "permit.redeemed", row, at_ms, {"redeemer": row.redeemer})

    def _sign(self, row: PermitRow) -> str:
        ask = row.ask
        claims = Claims(
            iss=ISSUER,
            aud=ask.audience,
            sub=row.key_id,
            jti=row.permit_id,
            iat=row.issued_ms // 1000,
            nbf=row.issued_ms // 1000,
            exp=row.expires_ms // 1000,
            act=ask.action_digest,
            risk=ask.risk.value,
            exec_profile=row.exec_profile,
            policy_digest=ask.policy_digest,
            gate_call_id=ask.gate_call_id,
            approval_id=ask.approval_id,
            change_id=ask.change_id,
            rollback_digest=ask.rollback_digest,
            rollback_of=ask.rollback_of,
        )
        return sign(claims, self._keys.newest())

    def _event(
        self, principal: Principal, name: str, row: PermitRow, at_ms: int, more: Mapping[str, JsonValue] | None = None
    ) -> AuditEvent:
        ask = row.ask
        # The log has the arguments of any other call already, with its proposal; those of a step with its permit.
        own = ask.rollback_of is not None and name == "permit.issued"
        return AuditEvent(
            event_id=f"{row.permit_id}.{name}",
            name=name,
            at_ms=at_ms,
            tenant=row.tenant,
            principal=principal.key_id,
            session=ask.session,
            data={
                **fields_of(row),
                "audience": ask.audience,
                "change_id": ask.change_id,
                "exec_profile": row.exec_profile,
                "expires_ms": row.expires_ms,
                "policy_digest": ask.policy_digest,
                "rollback_digest": ask.rollback_digest,
                "rollback_of": ask.rollback_of,
                "step": ask.step,
                **(more or {}),
            },
            bodies={BodyField.ARGUMENTS: body_of(ask.arguments, row.tenant, self._keeps)} if own else {},
        )


def fields_of(row: PermitRow) -> dict[str, JsonValue]:
    """What every record about a permit says."""
    return {"permit_id": row.permit_id, **fields_of_ask(row.ask)}


def fields_of_ask(ask: PermitAsk) -> dict[str, JsonValue]:
    """What every record about a call that has no permit yet says."""
    return {
        "gate_call_id": ask.gate_call_id,
        "approval_id": ask.approval_id,
        "action_digest": ask.action_digest,
        "tool": escaped(ask.tool)[:MAX_TEXT],
        "risk": ask.risk.value,
    }


def shown(row: PermitRow, token: str = "") -> IssuedPermit:
    """A permit as its owner sees it; the token is shown once, to the runner that gets it."""
    return IssuedPermit(
        permit_id=row.permit_id,
        state=row.state,
        token=token,
        ask=row.ask,
        issued_ms=row.issued_ms,
        expires_ms=row.expires_ms,
        exec_profile=row.exec_profile,
        plan=row.plan,
        rollback_of=row.ask.rollback_of,
    )
