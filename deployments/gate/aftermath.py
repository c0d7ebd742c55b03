"""What follows a verdict: reports of calls that left, alerts where none comes, bypass attempts, and what changed.

Everything here is said once. The change and its record are stored together (`AftermathStore.tell`), then the record is
offered to the log until it has it: no crash, no log that is down and no second replica loses a record or makes two.
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress

from sqlalchemy import Executable

from deployments.clock import Clock
from deployments.errors import (
    ApprovalConflict,
    AuditInDoubt,
    AuditRefused,
    AuditUnavailable,
    GatehouseError,
    GateUnavailable,
)
from deployments.gate import aftermath_store as rows
from deployments.gate import states
from deployments.gate.aftermath_store import AftermathStore, Consequence, Consumed
from deployments.gate.approval_records import MAX_TEXT, SYSTEM
from deployments.gate.binding import call_key, plan_digest
from deployments.gate.bodies import body_of
from deployments.gate.display import escaped
from deployments.gate.freezer import freezing
from deployments.gate.settings import GateSettings, Running
from deployments.gate.store import ApprovalStore
from deployments.ports import (
    SYSTEM_TENANT,
    ActionOutcome,
    Approval,
    ApprovalId,
    ApprovalState,
    Audit,
    AuditEvent,
    Body,
    BodyField,
    CallResult,
    Conclusion,
    Frozen,
    GateContext,
    JsonValue,
    Keeps,
    Principal,
    Refusal,
    RollbackOutcome,
    TenantId,
    keeps_nothing,
)

_log = logging.getLogger("gatehouse.gate")
_ATTEMPTS = 8
_HOUR_MS = 3_600_000


class Aftermath:
    """Half of the approval desk. `turn` is the desk's: one writer at a time in this process."""

    def __init__(
        self,
        approvals: ApprovalStore,
        store: AftermathStore,
        audit: Audit,
        clock: Clock,
        settings: GateSettings,
        turn: asyncio.Lock,
        keeps: Keeps = keeps_nothing,
    ) -> None:
        self._approvals = approvals
        self._store = store
        self._audit = audit
        self._clock = clock
        self._settings = settings
        self._turn = turn
        self._keeps = keeps

    async def adopt(self) -> None:
        """Wait for reports of what was consumed before this version."""
        async with self._turn:
            await self._store.adopt(self._clock.now_ms())

    # --- reports -----------------------------------------------------------------------------------------------------

    async def observe(self, context: GateContext, results: Sequence[CallResult]) -> None:
        """Record what a conversation says: reports of its consumed permits, and calls that ran without a release."""
        principal = context.principal
        by_key = {
            call_key(principal.tenant, principal.key_id, context.session, result.call_id): result for result in results
        }
        unknown = [key for key, result in by_key.items() if result.refused is None]
        consumed = await self._store.consumed_by(unknown)
        held = await self._store.held_by([key for key in unknown if key not in consumed])
        events: list[AuditEvent] = []
        for key, result in by_key.items():
            if result.refused is not None:
                events += await self._ran(context, result, result.refused)
            elif key in consumed:
                events += await self._result(context, result, consumed[key])
            elif key in held:
                events += await self._ran_though_held(context, result, held[key].approval_id, held[key].gate_call_id)
        await self._deliver(events)

    async def report(
        self, principal: Principal, approval_id: ApprovalId, outcome: ActionOutcome, exit_code: int | None, note: str
    ) -> Conclusion:
        """Say what became of a released call. The first word counts, unless it was that nobody knows."""
        approval, before = await self._concluded(principal, approval_id)
        known = before.conclusion.reported
        if known is None or (known is ActionOutcome.UNKNOWN and outcome is not known):
            fields: dict[str, JsonValue] = {
                **_of_call(approval, before),
                "outcome": outcome.value,
                "source": "api",
                "exit_code": exit_code,
                "reporter": principal.person,
            }
            event = self._event(
                approval,
                f"{approval.approval_id}.action.reported.{_turn_of(known)}",
                "action.reported",
                principal.key_id,
                fields,
                self._reason(approval, note),
            )
            if not await self.say(event, rows.reported(before, outcome, self._clock.now_ms())):
                raise ApprovalConflict("The call has just been reported by somebody else: look at it again.")
        elif known is not outcome:
            raise ApprovalConflict(f"The call has been reported already: {known.value}.")
        else:  # said again, because the first answer was lost; the log may not have it yet
            await self.say_again(f"{approval.approval_id}.")
        return (await self._concluded(principal, approval_id))[1].conclusion

    async def rollback(
        self, principal: Principal, approval_id: ApprovalId, outcome: RollbackOutcome, note: str
    ) -> Conclusion:
        """Say how taking a released call back ended. Only a failed attempt may be followed by another."""
        approval, before = await self._concluded(principal, approval_id)
        known = before.conclusion.rollback
        if known in (None, RollbackOutcome.FAILED):
            fields: dict[str, JsonValue] = {
                "change_id": approval.change_id,
                "rollback_digest": approval.plan and plan_digest(approval.plan.steps, approval.plan.verify),
                "gate_call_id": before.conclusion.gate_call_id,
                "approval_id": approval.approval_id,
                "policy_digest": approval.proposal.policy_digest,
                "outcome": outcome.value,
                "source": "api",
                "reporter": principal.person,
            }
            event = self._event(
                approval,
                f"{approval.approval_id}.rollback.reported.{before.rollbacks + 1}",
                "rollback.reported",
                principal.key_id,
                fields,
                self._reason(approval, note),
            )
            if not await self.say(event, rows.rolled_back(before, outcome)):
                raise ApprovalConflict("A rollback has just been reported by somebody else: look at it again.")
        elif known is not outcome:
            raise ApprovalConflict(f"The rollback has been reported already: {known.value}.")
        else:
            await self.say_again(f"{approval.approval_id}.")
        return (await self._concluded(principal, approval_id))[1].conclusion

    async def _result(self, context: GateContext, result: CallResult, before: Consumed) -> Sequence[AuditEvent]:
        """The report of a call that left under a permit, from its result; nothing when it has one."""
        if before.conclusion.reported is not None:
            return []
        stored = await self._approvals.get(before.conclusion.approval_id)
        if stored is None:
            return []
        approval = stored.approval
        fields: dict[str, JsonValue] = {
            **_of_call(approval, before),
            "call_id": escaped(result.call_id)[:MAX_TEXT],
            "outcome": result.outcome.value,
            "source": "conversation",
            "exit_code": result.exit_code,
        }
        event = self._event(
            approval,
            f"{approval.approval_id}.action.reported.{_turn_of(None)}",
            "action.reported",
            context.principal.key_id,
            fields,
            {BodyField.OUTPUT: Body(result.output_digest)},
        )
        return await self._tell(event, rows.reported(before, result.outcome, self._clock.now_ms()))

    async def _concluded(self, principal: Principal, approval_id: ApprovalId) -> tuple[Approval, Consumed]:
        """A consumed approval that this key may report on, with what is known of its call."""
        stored = await self._approvals.get(approval_id)
        if stored is None:
            raise states.not_found()
        states.may_report(principal, stored.approval)
        if stored.approval.state is not ApprovalState.CONSUMED:
            state = stored.approval.state.value
            raise ApprovalConflict(f"Only a call that was released can be reported: the request is {state}.")
        found = await self._store.consumed(stored.approval.approval_id)
        if found is None:
            raise GateUnavailable("The approval store has no record of this release.")
        return stored.approval, found

    # --- bypass attempts ---------------------------------------------------------------------------------------------

    async def refused_vote(self, approval: Approval, principal: Principal, kind: str) -> None:
        """Record a vote that was an attempt to get around the rules; once an hour for each key."""
        proposal = approval.proposal
        fields: dict[str, JsonValue] = {
            "kind": kind,
            "gate_call_id": proposal.gate_call_id,
            "approval_id": approval.approval_id,
            "tool": escaped(proposal.tool)[:MAX_TEXT],
            "risk": proposal.risk.value,
            "action_digest": proposal.action_digest,
        }
        hour = self._clock.now_ms() // _HOUR_MS
        event_id = f"{approval.approval_id}.bypass.{kind}.{principal.key_id}.{hour}"
        event = self._event(approval, event_id, "bypass.attempted", principal.key_id, fields)
        await self._deliver(await self._attempted(principal, kind, event))

    async def bypass(self, principal: Principal, kind: str, fields: Mapping[str, JsonValue], event_id: str) -> None:
        """Record an attempt to get around a control, once for each event id, with all that follows from it."""
        event = AuditEvent(
            event_id=event_id,
            name="bypass.attempted",
            at_ms=self._clock.now_ms(),
            tenant=principal.tenant,
            principal=principal.key_id,
            data={**fields, "kind": kind},
        )
        await self._deliver(await self._attempted(principal, kind, event))

    async def _attempted(self, principal: Principal, kind: str, event: AuditEvent) -> Sequence[AuditEvent]:
        return await self._tell(event, follows=self._consequences(principal, kind, event.data))

    def _consequences(self, principal: Principal, kind: str, fields: Mapping[str, JsonValue]) -> list[Consequence]:
        """An incident, one for each key and hour; and the key is frozen where the policy wants it."""
        now_ms = self._clock.now_ms()
        follows: list[Consequence] = []
        if kind in self._settings.freeze_on:
            reason = f"by policy, after an attempt to bypass the gate: {kind}"
            follows.append(
                freezing(self._store.engine, Frozen(principal.key_id, principal.tenant, kind, reason, now_ms))
            )
        mark = f"{principal.key_id}_{now_ms // _HOUR_MS}"
        data: dict[str, JsonValue] = {
            "incident_id": f"inc_bypass_{mark}",
            "kind": "bypass",
            "severity": "high",
            "title": "A key attempted to bypass the gate.",
            **{name: fields.get(name) for name in ("approval_id", "gate_call_id", "change_id")},
        }
        incident = AuditEvent(
            event_id=f"{mark}.incident.bypass",
            name="incident.opened",
            at_ms=now_ms,
            tenant=principal.tenant,
            principal=principal.key_id,
            data=data,
        )
        return [*follows, Consequence(incident)]

    async def _ran_though_held(
        self, context: GateContext, result: CallResult, approval_id: ApprovalId, gate_call_id: str
    ) -> Sequence[AuditEvent]:
        """A call that waits, or waited, in the store, and was never released under its own id."""
        stored = await self._approvals.get(approval_id)
        if stored is None:
            return []
        proposal = stored.approval.proposal
        refusal = Refusal(
            gate_call_id=gate_call_id,
            tool=proposal.tool,
            risk=proposal.risk,
            reason="The call was held.",
            approval_id=approval_id,
            action_digest=proposal.action_digest,
        )
        return await self._ran(context, result, refusal)

    async def _ran(self, context: GateContext, result: CallResult, refusal: Refusal) -> Sequence[AuditEvent]:
        kind = "denied_call_executed" if refusal.denied else "held_call_executed"
        event = AuditEvent(
            event_id=f"{refusal.gate_call_id}.bypass.{kind}",
            name="bypass.attempted",
            at_ms=self._clock.now_ms(),
            tenant=context.principal.tenant,
            principal=context.principal.key_id,
            request_id=context.request_id,
            session=context.session,
            data={
                "kind": kind,
                "gate_call_id": refusal.gate_call_id,
                "approval_id": refusal.approval_id,
                "call_id": escaped(result.call_id)[:MAX_TEXT],
                "tool": escaped(refusal.tool)[:MAX_TEXT],
                "risk": refusal.risk.value,
                "action_digest": refusal.action_digest,
                "reason": escaped(refusal.reason)[:MAX_TEXT],
            },
        )
        return await self._attempted(context.principal, kind, event)

    # --- what is looked for ------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Open an incident for every released call that nobody has reported in time, and send what waits."""
        now_ms = self._clock.now_ms()
        for before in await self._store.unreported(now_ms - self._settings.report_timeout_s * 1000):
            stored = await self._approvals.get(before.conclusion.approval_id)
            if stored is None:
                continue
            approval = stored.approval
            fields: dict[str, JsonValue] = {
                "incident_id": f"inc_{approval.approval_id}",
                "kind": "action_unreported",
                "severity": "medium",
                "title": "A released call was not reported.",
                "approval_id": approval.approval_id,
                "gate_call_id": before.conclusion.gate_call_id,
                "change_id": approval.change_id,
                "policy_digest": approval.proposal.policy_digest,
            }
            event_id = f"{approval.approval_id}.incident.action_unreported"
            await self._tell(
                self._event(approval, event_id, "incident.opened", SYSTEM, fields), rows.alerted(before, now_ms)
            )
        await self.flush()

    async def flush(self) -> None:
        """Offer the log the oldest records that it has not acknowledged."""
        with suppress(AuditRefused):  # said loudly, and never offered again
            await self._deliver(await self._store.waiting())

    # --- what has changed --------------------------------------------------------------------------------------------

    async def announce(self, policy_digest: str | None, rule_set: str, running: Running) -> None:
        """Record the policy and the configuration that are in force, when they are others than before."""
        if policy_digest is not None:
            await self._announce("policy", "policy.changed", policy_digest, {
                "policy_digest": policy_digest, "rule_set": rule_set, "change_id": running.change_id,
            })  # fmt: skip
        if running.config_digest is not None:
            await self._announce("config", "config.changed", running.config_digest, {
                "config_digest": running.config_digest, "profile": running.profile, "models": list(running.models),
                "version": running.version, "change_id": running.change_id,
            })  # fmt: skip

    async def announce_policy(self, what: str, tenant: TenantId, digest: str, fields: Mapping[str, JsonValue]) -> None:
        """Record another policy that is in force, when it is another than `what` was; without the log it waits."""
        if await self._announce(what, "policy.changed", digest, fields, tenant):
            with suppress(AuditUnavailable):
                await self.flush()

    async def _announce(
        self, what: str, name: str, digest: str, fields: Mapping[str, JsonValue], tenant: TenantId = SYSTEM_TENANT
    ) -> bool:
        """False when it is on record already."""
        for _ in range(_ATTEMPTS):
            before = await self._store.announced(what)
            if before.digest == digest:
                return False
            event = AuditEvent(
                # Random, because the store may be a new one while the log is not.
                event_id=f"{name}:{digest[:16]}:{secrets.token_hex(6)}",
                name=name,
                at_ms=self._clock.now_ms(),
                tenant=tenant,
                principal=SYSTEM,
                data={**fields, "previous_digest": before.digest},
            )
            if await self._tell(event, rows.announcing(what, before, digest)):
                return True
        raise GateUnavailable("The approval store is too busy.")

    # --- records -----------------------------------------------------------------------------------------------------

    async def say(self, event: AuditEvent, *changes: Executable) -> bool:
        """Make the changes with their record, on disk when this returns; False, and neither, when it was said."""
        told = await self._tell(event, *changes)
        await self._deliver(told)
        return bool(told)

    async def say_again(self, prefix: str) -> None:
        """Offer the log once more the records of these event ids that it has not acknowledged: an answer was lost."""
        await self._deliver(await self._store.waiting(prefix))

    async def _tell(
        self, event: AuditEvent, *changes: Executable, follows: Sequence[Consequence] = ()
    ) -> Sequence[AuditEvent]:
        async with self._turn:
            return await self._store.tell(event, self._clock.now_ms(), *changes, follows=follows)

    async def _deliver(self, events: Sequence[AuditEvent]) -> None:
        """Hand records to the log. Those that it does not acknowledge wait for the next sweep."""
        if not events:
            return
        try:
            async with asyncio.timeout(self._settings.audit_timeout_s):
                await self._audit.append(events)
        except TimeoutError:
            raise AuditInDoubt("The audit log did not acknowledge in time; the record will be offered again.") from None
        except AuditRefused as error:
            if len(events) == 1:
                _log.critical("the audit log refuses %s (%s): %s", events[0].name, events[0].event_id, error)
                await self._mark(events, refused=True)
                raise
            await self._deliver_each(events)
        else:
            await self._mark(events)

    async def _deliver_each(self, events: Sequence[AuditEvent]) -> None:
        """One of them is refused: find out which, and lose none of the others."""
        refused: AuditRefused | None = None
        for event in events:
            try:
                await self._deliver([event])
            except AuditRefused as error:
                refused = error
        if refused is not None:
            raise refused

    async def _mark(self, events: Sequence[AuditEvent], refused: bool = False) -> None:
        try:
            async with self._turn:
                await self._store.recorded([event.event_id for event in events], refused)
        except GatehouseError as error:  # the same record again is harmless
            _log.warning("the gate could not note what the log has: %s", type(error).__name__)

    def _event(
        self,
        approval: Approval,
        event_id: str,
        name: str,
        principal: str,
        data: Mapping[str, JsonValue],
        bodies: Mapping[BodyField, Body] | None = None,
    ) -> AuditEvent:
        proposal = approval.proposal
        return AuditEvent(
            event_id=event_id,
            name=name,
            at_ms=self._clock.now_ms(),
            tenant=proposal.tenant,
            principal=principal,
            request_id=proposal.request_id,
            session=proposal.session,
            data=data,
            bodies=bodies or {},
        )

    def _reason(self, approval: Approval, note: str) -> dict[BodyField, Body]:
        if not note:
            return {}
        return {BodyField.REASON: body_of(note, approval.proposal.tenant, self._keeps)}


def _of_call(approval: Approval, consumed: Consumed) -> dict[str, JsonValue]:
    """The fields that say which call a report is about."""
    return {
        "gate_call_id": consumed.conclusion.gate_call_id,
        "approval_id": approval.approval_id,
        "action_digest": approval.proposal.action_digest,
        "risk": approval.proposal.risk.value,
        "tool": escaped(approval.proposal.tool)[:MAX_TEXT],
        "change_id": approval.change_id,
        "policy_digest": approval.proposal.policy_digest,
    }


def _turn_of(known: ActionOutcome | None) -> int:
    """1 for the first report of a call, 2 for the one that follows `unknown`."""
    return 1 if known is None else 2
