"""The permit office: one signed permit per released call, one execution per permit, one report per execution.

Here it is decided who gets, takes and reports what; `permit_moves.py` makes the moves, each on record first, and
`permit_reports.py` takes the reports. What a refused attempt was is told to the desk, which freezes whoever made it if
the policy says so.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.clock import Clock
from deployments.errors import (
    ApprovalConflict,
    Forbidden,
    GatehouseError,
    GateUnavailable,
    InvalidRequest,
    NotFound,
)
from deployments.gate.aftermath_store import AftermathStore
from deployments.gate.approval_records import MAX_TEXT
from deployments.gate.binding import plan_digest
from deployments.gate.canonical import Rejected, canonicalise
from deployments.gate.commands import claim_key, run_of
from deployments.gate.display import escaped
from deployments.gate.freezer import FROZEN
from deployments.gate.live import NOBODY_SAYS, LivePolicies, Standing
from deployments.gate.permit_keys import PermitKeys
from deployments.gate.permit_moves import PermitMoves, fields_of, fields_of_ask, shown
from deployments.gate.permit_reports import PermitReports, Teller
from deployments.gate.permit_rows import PermitRow, new_permit_id
from deployments.gate.permit_store import PermitStore
from deployments.gate.permits import binding_of, lifetime_ms, profile_of
from deployments.gate.recorder import Recorder
from deployments.gate.settings import GateSettings
from deployments.ports import (
    ActionOutcome,
    Audit,
    AuditEvent,
    IssuedPermit,
    JsonValue,
    Keeps,
    PermitAsk,
    PermitState,
    Principal,
    Risk,
    RunReport,
    TenantId,
    keeps_nothing,
)

MAX_AUDIENCE = 128
OVERTAKEN = (
    "The policy under which this call was released no longer judges its session: the policy was changed, or a rollout "
    "has moved the session. Nothing was executed; propose the call again."
)
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

    `keeps_arguments` says whose words are kept beside the log, as it does for the desk; of others it gets digests. A
    permit above R0 is good while, as `policies` say, the policy that released its call judges its session.
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
        policies: LivePolicies | None = None,
    ) -> None:
        self._desk = desk
        self._policies = policies or LivePolicies(None, clock=clock)
        self._store = PermitStore(engine)
        self._clock = clock
        self._keys = PermitKeys(keys_dir)
        # SQLite has one writer; waiting here is fair and in order, waiting in the database is neither.
        turn = asyncio.Lock()
        recorder = Recorder(audit, settings.audit_timeout_s)
        self._moves = PermitMoves(self._store, recorder, self._keys, turn, keeps_arguments)
        reading = AftermathStore(engine, _no_notices)
        self._reports = PermitReports(desk, self._store, reading, clock, settings, turn, keeps_arguments)

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
        await self._check_thawed(principal, fields_of_ask(ask))
        await self._check_policy(principal.tenant, ask)
        now_ms = self._clock.now_ms()
        own = True
        if ask.rollback_of is not None:
            own = not await self._under_plan(principal, ask, ask.rollback_of)
        if ask.approval_id is not None and own:  # it lies ready since the approval was consumed
            waiting = await self._store.of_call(ask.approval_id, ask.gate_call_id)
            if waiting is None:
                raise ApprovalConflict("No call left under this approval.")
            taken = replace(ask, change_id=waiting.ask.change_id, rollback_digest=waiting.ask.rollback_digest)
            return await self._moves.hand_out(principal, waiting, replace(waiting, ask=taken), now_ms)
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
        return await self._moves.add(principal, row)

    async def claim(self, principal: Principal, tool: str, arguments: str, audience: str) -> IssuedPermit:
        """The permit of an approved call that left in one of this key's streams and was not executed yet."""
        _check_audience(audience)
        decoded = canonicalise(arguments)
        if isinstance(decoded, Rejected):
            raise InvalidRequest(decoded.reason, "arguments")
        await self._check_thawed(principal, {"tool": escaped(tool)[:MAX_TEXT]})
        now_ms = self._clock.now_ms()
        key = claim_key(principal.tenant, principal.key_id, tool, decoded.text)
        refused: GatehouseError = NotFound("No approved call waits to be executed like this.")
        for row in await self._store.claimable(principal.tenant, principal.key_id, key, now_ms):
            try:
                await self._check_policy(row.tenant, row.ask)
            except GatehouseError as error:
                refused = error
                continue
            try:
                return await self._moves.hand_out(
                    principal, row, replace(row, ask=replace(row.ask, audience=audience)), now_ms
                )
            except ApprovalConflict:  # another runner was faster: is there one more?
                continue
        raise refused

    async def redeem(
        self, principal: Principal, permit_id: str, action_digest: str, audience: str, nonce: str | None = None
    ) -> IssuedPermit:
        """Take the one execution: exactly one caller ever succeeds, and under its nonce gets the same answer again.

        The nonce tells a runner that has lost its answer from somebody who uses the permit a second time. It is good
        until the report, for the same call and runner, as long as the permit is. Whatever else is asked for a permit is
        an attempt to get around it, and recorded as one before it is refused; but for one above R0 whose policy does
        not judge its session any more, which is just refused.
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
                await self._moves.confirm(principal, row)
                return shown(row)
            await self._check_policy(row.tenant, row.ask)
            after = replace(row, state=PermitState.REDEEMED, redeemed_ms=now_ms, redeemer=redeemer)
            if await self._moves.take(principal, row, after, now_ms):
                return shown(after)
            row = await self._store.get(permit_id) or row
        kind, error = refused or ("permit_invalid", ApprovalConflict("The permit has just changed."))
        await self._bypass(principal, kind, fields_of(row))
        raise error

    async def report(self, principal: Principal, permit_id: str, report: RunReport) -> IssuedPermit:
        """Say how the execution ended; the first word counts. Frozen keys report too: the evidence is wanted."""
        row = await self._own(principal, permit_id)
        if row.key_id != principal.key_id:
            raise Forbidden("Only the key that a permit was issued to may report on it.")
        return shown(await self._reports.report(principal, row, report))

    async def permit(self, principal: Principal, permit_id: str) -> IssuedPermit:
        """A permit of the key's tenant, without its token; with the steps that have taken it back."""
        row = await self._own(principal, permit_id)
        steps = await self._store.steps_of(row.permit_id)
        if row.state is PermitState.ISSUED and row.expires_ms <= self._clock.now_ms():
            row = replace(row, state=PermitState.EXPIRED)
        return replace(shown(row), taken_back=_succeeded(steps))

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

    async def _check_policy(self, tenant: TenantId, ask: PermitAsk) -> None:
        """Raise unless the policy under which a call was released judges its session now; a read may go on.

        Whoever comes too late for a rollout has done nothing wrong: this is no attempt to get around anything.
        """
        if ask.risk is Risk.R0:
            return
        match (await self._policies.hear()).standing(tenant, ask.session, ask.policy_digest):
            case Standing.LIVE:
                return
            case Standing.UNKNOWN:
                raise GateUnavailable(NOBODY_SAYS)
            case Standing.MOVED | Standing.GONE:
                raise ApprovalConflict(OVERTAKEN)

    async def _check_thawed(self, principal: Principal, fields: Mapping[str, JsonValue]) -> None:
        if await self._store.frozen(principal.key_id):
            await self._bypass(principal, "frozen_principal", fields)
            raise Forbidden(FROZEN)

    async def _bypass(self, principal: Principal, kind: str, fields: Mapping[str, JsonValue]) -> None:
        """Have an attempt recorded, once an hour for each key and permit; it is refused either way."""
        hour = self._clock.now_ms() // _HOUR_MS
        what = fields.get("permit_id") if "gate_call_id" in fields else "none"
        await self._desk.bypass(principal, kind, fields, f"{what}.bypass.{kind}.{principal.key_id}.{hour}")

    async def _under_plan(self, principal: Principal, ask: PermitAsk, permit_id: str) -> bool:
        """Whether a step goes under the approval of the call that it takes back.

        Refuses one that does not take the execution of `permit_id` back, in the order of its plan.

        1. That call was executed, and by this tenant. 2. Its plan is the one that was recorded with its approval, and
        the step is the plan's, word for word. 3. Every step before it was executed with success, and it was not.
        4. Under the same approval nothing of a higher class runs, and nothing without this plan.
        """
        # 1
        origin = await self._own(principal, permit_id)
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
        if ask.approval_id != origin.ask.approval_id:  # released by the gate itself, or under an approval of its own
            return False
        signed = plan_digest(plan.steps, plan.verify)
        if not signed == origin.ask.rollback_digest == ask.rollback_digest or ask.change_id != origin.ask.change_id:
            raise ApprovalConflict("The plan is not the one that the approvers signed.")
        if ask.risk.rank > origin.ask.risk.rank:
            raise ApprovalConflict("The step is of a higher class than the call that was approved.")
        return True

    async def _own(self, principal: Principal, permit_id: str) -> PermitRow:
        row = await self._store.get(permit_id)
        if row is None or row.tenant != principal.tenant:
            raise _not_found()
        return row


def _no_notices(event: AuditEvent, now_ms: int) -> Sequence[Executable]:
    """The desk tells people; the office only reads."""
    del event, now_ms
    return ()


def _succeeded(steps: Sequence[PermitRow]) -> tuple[int, ...]:
    done = ActionOutcome.SUCCEEDED.value
    return tuple(sorted({row.ask.step for row in steps if row.ask.step is not None and row.outcome == done}))


def _check_audience(audience: str) -> None:
    if not 0 < len(audience) <= MAX_AUDIENCE or escaped(audience) != audience or "\n" in audience:
        raise InvalidRequest("The audience is the name of one runner: 1 to 128 plain characters.", "audience")


def _not_found() -> NotFound:
    return NotFound("There is no such permit.")
