"""The permit office: one signed permit per released call, one execution per permit, one report per execution.

The order of every move is the desk's: write the row without committing, record it in the audit log, commit. So no
token is seen before `permit.issued` is on disk, and nobody executes before `permit.redeemed` is. What a refused
attempt was is told to the desk, which freezes whoever made it if the policy says so.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.clock import Clock
from deployments.errors import (
    ApprovalConflict,
    AuditRefused,
    Forbidden,
    GatehouseError,
    InvalidRequest,
    NotFound,
)
from deployments.gate.aftermath_store import AftermathStore
from deployments.gate.approval_records import MAX_TEXT
from deployments.gate.binding import plan_digest
from deployments.gate.bodies import body_of
from deployments.gate.canonical import Rejected, canonicalise
from deployments.gate.commands import claim_key, run_of
from deployments.gate.display import escaped
from deployments.gate.freezer import FROZEN
from deployments.gate.permit_keys import PermitKeys
from deployments.gate.permit_reports import PermitReports, Teller
from deployments.gate.permit_rows import PermitRow, new_permit_id
from deployments.gate.permit_store import PermitStore
from deployments.gate.permits import ISSUER, Claims, binding_of, lifetime_ms, profile_of, sign
from deployments.gate.recorder import Recorder
from deployments.gate.settings import GateSettings
from deployments.ports import (
    ActionOutcome,
    Audit,
    AuditEvent,
    BodyField,
    IssuedPermit,
    JsonValue,
    Keeps,
    PermitAsk,
    PermitState,
    Principal,
    Risk,
    RunReport,
    keeps_nothing,
)

MAX_AUDIENCE = 128
_HOUR_MS = 3_600_000
_LOOKS = 3
"""At a permit that is being redeemed: as it is, as whoever was faster has left it, and as the log says it is."""


class Desk(Teller, Protocol):
    """What the office asks of the approval desk."""

    async def bypass(self, principal: Principal, kind: str, fields: Mapping[str, JsonValue], event_id: str) -> None:
        """Record an attempt to get around the gate, once for an id, and do what the policy says about its author."""
        ...


class PermitOffice:
    """Implements `ports.Permits` over the approvals' database. `keys_dir` holds the keys that sign.

    `keeps_arguments` says whose words are kept beside the log, as it does for the desk; of others it gets digests.
    """

    def __init__(
        self,
        desk: Desk,
        engine: AsyncEngine,
        audit: Audit,
        clock: Clock,
        settings: GateSettings,
        keys_dir: Path,
        keeps_arguments: Keeps = keeps_nothing,
    ) -> None:
        self._desk = desk
        self._store = PermitStore(engine)
        self._recorder = Recorder(audit, settings.audit_timeout_s)
        self._clock = clock
        self._keeps = keeps_arguments
        self._keys = PermitKeys(keys_dir)
        # SQLite has one writer; waiting here is fair and in order, waiting in the database is neither.
        self._turn = asyncio.Lock()
        reading = AftermathStore(engine, _no_notices)
        self._reports = PermitReports(desk, self._store, reading, clock, settings, self._turn, keeps_arguments)

    async def open(self) -> None:
        """See to it that there is a key to sign with. The tables are the desk's to make."""
        await asyncio.to_thread(self._keys.open)

    async def sweep(self) -> None:
        """Open an incident for every change that was executed and not reported in time."""
        await self._reports.sweep()

    async def issue(self, principal: Principal, ask: PermitAsk) -> IssuedPermit:
        """A permit for a call that the gate has just released to this principal, or for a step of a signed plan.

        `ApprovalConflict` when the call has one already, `Forbidden` for a frozen key.
        """
        _check_audience(ask.audience)
        if ask.risk is Risk.FORBIDDEN:
            raise Forbidden("The policy forbids this call: there is no permit for it.")
        if binding_of(principal, ask).action_digest() != ask.action_digest:
            raise ApprovalConflict("The digest is not that of the call.")
        await self._check_thawed(principal, _fields_of(ask))
        now_ms = self._clock.now_ms()
        own = True
        if ask.rollback_of is not None:
            own = not await self._under_plan(principal, ask)
        if ask.approval_id is not None and own:  # it lies ready since the approval was consumed
            waiting = await self._store.of_call(ask.approval_id, ask.gate_call_id)
            if waiting is None:
                raise ApprovalConflict("No call left under this approval.")
            taken = replace(ask, change_id=waiting.ask.change_id, rollback_digest=waiting.ask.rollback_digest)
            return await self._hand_out(principal, waiting, replace(waiting, ask=taken), now_ms)
        row = PermitRow(
            permit_id=new_permit_id(),
            state=PermitState.ISSUED,
            tenant=principal.tenant,
            key_id=principal.key_id,
            ask=ask,
            issued_ms=now_ms,
            expires_ms=now_ms + lifetime_ms(ask.risk),
            redeemed_ms=None,
            exec_profile=profile_of(ask.risk, ask.arguments),
            plan=None,
            outcome=None,
        )
        token = self._sign(row)
        event = self._event(principal, "permit.issued", row, now_ms)
        async with self._turn:
            added = await self._recorder.made(self._store.adding(row), [event], final=False)
        if not added:
            raise ApprovalConflict("There is a permit for this already.")
        return _shown(row, token)

    async def claim(self, principal: Principal, tool: str, arguments: str, audience: str) -> IssuedPermit:
        """The permit of an approved call that left in one of this key's streams and was not executed yet."""
        _check_audience(audience)
        decoded = canonicalise(arguments)
        if isinstance(decoded, Rejected):
            raise InvalidRequest(decoded.reason, "arguments")
        await self._check_thawed(principal, {"tool": escaped(tool)[:MAX_TEXT]})
        now_ms = self._clock.now_ms()
        key = claim_key(principal.tenant, principal.key_id, tool, decoded.text)
        for row in await self._store.claimable(principal.tenant, principal.key_id, key, now_ms):
            try:
                return await self._hand_out(
                    principal, row, replace(row, ask=replace(row.ask, audience=audience)), now_ms
                )
            except ApprovalConflict:  # another runner was faster: is there one more?
                continue
        raise NotFound("No approved call waits to be executed like this.")

    async def redeem(
        self, principal: Principal, permit_id: str, action_digest: str, audience: str, nonce: str | None = None
    ) -> IssuedPermit:
        """Take the one execution: exactly one caller ever succeeds, and under its nonce gets the same answer again.

        The nonce tells a runner that has lost its answer from somebody who uses the permit a second time. It is good
        until the report, for the same call and runner, as long as the permit is. Whatever else is asked for a permit is
        an attempt to get around it, and recorded as one before it is refused.
        """
        row = await self._store.get(permit_id)
        if row is None or row.tenant != principal.tenant:
            await self._bypass(principal, "permit_unknown", {"permit_id": escaped(permit_id)[:MAX_TEXT]})
            raise _not_found()
        redeemer = None if nonce is None else hashlib.sha256(nonce.encode()).hexdigest()
        refused: tuple[str, GatehouseError] | None = None
        for _ in range(_LOOKS):
            now_ms = self._clock.now_ms()
            refused = await self._why_not(principal, row, action_digest, audience, redeemer, now_ms)
            if refused is not None:
                break
            if row.state is PermitState.REDEEMED:
                # The answer was lost. It is given again only once its record is certain, which it was not if the log
                # was in doubt: the same event, word for word, is recorded at most once.
                await self._recorder.record([self._redemption(principal, row)])
                return _shown(row)
            after = replace(row, state=PermitState.REDEEMED, redeemed_ms=now_ms, redeemer=redeemer)
            if await self._take(principal, row, after, now_ms):
                return _shown(after)
            row = await self._store.get(permit_id) or row
        kind, error = refused or ("permit_invalid", ApprovalConflict("The permit has just changed."))
        await self._bypass(principal, kind, _fields(row))
        raise error

    async def report(self, principal: Principal, permit_id: str, report: RunReport) -> IssuedPermit:
        """Say how the execution ended; the first word counts. Frozen keys report too: the evidence is wanted."""
        row = await self._own(principal, permit_id)
        if row.key_id != principal.key_id:
            raise Forbidden("Only the key that a permit was issued to may report on it.")
        return _shown(await self._reports.report(principal, row, report))

    async def permit(self, principal: Principal, permit_id: str) -> IssuedPermit:
        """A permit of the key's tenant, without its token; with the steps that have taken it back."""
        row = await self._own(principal, permit_id)
        steps = await self._store.steps_of(row.permit_id)
        if row.state is PermitState.ISSUED and row.expires_ms <= self._clock.now_ms():
            row = replace(row, state=PermitState.EXPIRED)
        return replace(_shown(row), taken_back=_succeeded(steps))

    async def keys(self) -> Mapping[str, JsonValue]:
        """The public keys as a JWK set, the newest first."""
        found = await asyncio.to_thread(self._keys.all)
        return {"keys": [key.jwk() for key in found]}

    # --- what is refused ---------------------------------------------------------------------------------------------

    async def _why_not(
        self,
        principal: Principal,
        row: PermitRow,
        action_digest: str,
        audience: str,
        redeemer: str | None,
        now_ms: int,
    ) -> tuple[str, GatehouseError] | None:
        """The kind of bypass that an execution would be, with its error; None when it may begin or `redeemer`'s has."""
        if row.key_id != principal.key_id or row.state is PermitState.REVOKED:
            return "permit_invalid", ApprovalConflict("The permit was not issued to this key, or taken back.")
        if await self._store.frozen(principal.key_id):
            return "frozen_principal", Forbidden(FROZEN)
        if not row.ask.audience or row.ask.audience != audience or row.ask.action_digest != action_digest:
            return "permit_mismatch", ApprovalConflict("The permit is for another call or another runner.")
        same = row.state is PermitState.REDEEMED and redeemer is not None and row.redeemer == redeemer
        if row.state in (PermitState.REDEEMED, PermitState.REPORTED) and not same:
            return "permit_replayed", ApprovalConflict("The permit was used already.")
        if row.state is PermitState.EXPIRED or row.expires_ms <= now_ms:
            return "permit_expired", ApprovalConflict("The permit has expired.")
        return None

    async def _check_thawed(self, principal: Principal, fields: Mapping[str, JsonValue]) -> None:
        if await self._store.frozen(principal.key_id):
            await self._bypass(principal, "frozen_principal", fields)
            raise Forbidden(FROZEN)

    async def _bypass(self, principal: Principal, kind: str, fields: Mapping[str, JsonValue]) -> None:
        """Have an attempt recorded, once an hour for each key and permit; it is refused either way."""
        hour = self._clock.now_ms() // _HOUR_MS
        what = fields.get("permit_id") if "gate_call_id" in fields else "none"
        await self._desk.bypass(principal, kind, fields, f"{what}.bypass.{kind}.{principal.key_id}.{hour}")

    async def _under_plan(self, principal: Principal, ask: PermitAsk) -> bool:
        """Whether a step goes under the approval of the call that it takes back.

        Refuses one that does not take `ask.rollback_of` back, in the order of its plan.

        1. That call was executed, and by this tenant. 2. Its plan is the one that was recorded with its approval, and
        the step is the plan's, word for word. 3. Every step before it was executed with success, and it was not.
        4. Under the same approval nothing of a higher class runs, and nothing without this plan.
        """
        # 1
        origin = await self._own(principal, ask.rollback_of or "")
        if origin.state not in (PermitState.REDEEMED, PermitState.REPORTED) or origin.ask.rollback_of is not None:
            raise ApprovalConflict("Only a call that was executed can be taken back.")
        # 2
        plan = origin.plan
        if plan is None:
            raise ApprovalConflict("No plan was recorded with this call: it cannot be taken back by a runner.")
        texts = (*plan.steps, plan.verify)
        step = ask.step
        if step is None or not 0 <= step < len(texts):
            raise ApprovalConflict("The plan has no such step.")
        run = run_of(ask.tool, ask.arguments)
        if run is None or run.command != texts[step]:
            raise ApprovalConflict("The call is not the step of the plan.")
        # 3
        done = _succeeded(await self._store.steps_of(origin.permit_id))
        if step in done or any(before not in done for before in range(step)):
            raise ApprovalConflict("The steps of a plan are executed in order, each once.")
        # 4
        same = ask.approval_id is not None and ask.approval_id == origin.ask.approval_id
        if not same:  # released by the gate itself, or under an approval of its own
            return False
        signed = plan_digest(plan.steps, plan.verify)
        if not signed == origin.ask.rollback_digest == ask.rollback_digest or ask.change_id != origin.ask.change_id:
            raise ApprovalConflict("The plan is not the one that the approvers signed.")
        if ask.risk.rank > origin.ask.risk.rank:
            raise ApprovalConflict("The step is of a higher class than the call that was approved.")
        return True

    # --- moves -------------------------------------------------------------------------------------------------------

    async def _hand_out(self, principal: Principal, row: PermitRow, taken: PermitRow, now_ms: int) -> IssuedPermit:
        """Give the permit of an approved call to the one runner that takes it."""
        after = replace(
            taken,
            issued_ms=now_ms,
            expires_ms=now_ms + lifetime_ms(taken.ask.risk),
            exec_profile=profile_of(taken.ask.risk, taken.ask.arguments),
        )
        if row.ask.audience or row.state is not PermitState.ISSUED:
            raise ApprovalConflict("There is a permit for this call already.")
        token = self._sign(after)
        if not await self._move(row, after, now_ms, self._event(principal, "permit.issued", after, now_ms)):
            raise ApprovalConflict("There is a permit for this call already, or its time is over.")
        return _shown(after, token)

    async def _take(self, principal: Principal, row: PermitRow, after: PermitRow, now_ms: int) -> bool:
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
        record = cast("Mapping[str, JsonValue]", json.loads(found.entry))
        at_ms, data = record["at_ms"], record["data"]
        redeemer = data.get("redeemer") if isinstance(data, dict) else None
        told = replace(
            after,
            redeemed_ms=at_ms if isinstance(at_ms, int) else now_ms,
            redeemer=redeemer if isinstance(redeemer, str) else None,
        )
        async with self._turn:
            await self._recorder.made(self._store.moving(row, told, now_ms), [], final=True)
        return False

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

    async def _own(self, principal: Principal, permit_id: str) -> PermitRow:
        row = await self._store.get(permit_id)
        if row is None or row.tenant != principal.tenant:
            raise _not_found()
        return row

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
                **_fields(row),
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


def _no_notices(event: AuditEvent, now_ms: int) -> Sequence[Executable]:
    """The desk tells people; the office only reads."""
    del event, now_ms
    return ()


def _fields(row: PermitRow) -> dict[str, JsonValue]:
    return {"permit_id": row.permit_id, **_fields_of(row.ask)}


def _fields_of(ask: PermitAsk) -> dict[str, JsonValue]:
    return {
        "gate_call_id": ask.gate_call_id,
        "approval_id": ask.approval_id,
        "action_digest": ask.action_digest,
        "tool": escaped(ask.tool)[:MAX_TEXT],
        "risk": ask.risk.value,
    }


def _shown(row: PermitRow, token: str = "") -> IssuedPermit:
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


def _succeeded(steps: Sequence[PermitRow]) -> tuple[int, ...]:
    done = ActionOutcome.SUCCEEDED.value
    return tuple(sorted({row.ask.step for row in steps if row.ask.step is not None and row.outcome == done}))


def _check_audience(audience: str) -> None:
    if not 0 < len(audience) <= MAX_AUDIENCE or escaped(audience) != audience or "\n" in audience:
        raise InvalidRequest("The audience is the name of one runner: 1 to 128 plain characters.", "audience")


def _not_found() -> NotFound:
    return NotFound("There is no such permit.")
