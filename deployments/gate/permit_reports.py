"""What runners say of executions: the report of each, how a way back ended, and the alert where nothing is said.

A change and its record are stored together, then the record is offered to the log until it has it (`Aftermath.say`):
a report is told once, whatever crashes in between.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from sqlalchemy import Executable

from deployments.clock import Clock
from deployments.errors import ApprovalConflict, NotFound
from deployments.gate import aftermath_store as rows
from deployments.gate import permit_store
from deployments.gate.aftermath_store import AftermathStore, Consumed
from deployments.gate.approval_records import MAX_TEXT, SYSTEM
from deployments.gate.bodies import body_of
from deployments.gate.display import escaped
from deployments.gate.permit_rows import PermitRow
from deployments.gate.permit_store import PermitStore
from deployments.gate.settings import GateSettings
from deployments.ports import (
    ActionOutcome,
    AuditEvent,
    Body,
    BodyField,
    JsonValue,
    Keeps,
    PermitState,
    Principal,
    Risk,
    RollbackOutcome,
    RunReport,
)


class Teller(Protocol):
    """What reports need of the approval desk."""

    async def say(self, event: AuditEvent, *changes: Executable) -> bool:
        """Make the changes with their record, on disk when this returns; False, and neither, when it was said."""
        ...

    async def say_again(self, prefix: str) -> None:
        """Offer the log once more the records of these event ids that it has not acknowledged."""
        ...


class PermitReports:
    """Half of the permit office. `turn` is the office's: one writer at a time in this process.

    `keeps` says whose notes are kept beside the log; of others it gets digests.
    """

    def __init__(
        self,
        teller: Teller,
        permits: PermitStore,
        store: AftermathStore,
        clock: Clock,
        settings: GateSettings,
        turn: asyncio.Lock,
        keeps: Keeps,
    ) -> None:
        self._teller = teller
        self._permits = permits
        self._store = store
        self._clock = clock
        self._settings = settings
        self._turn = turn
        self._keeps = keeps

    async def report(self, principal: Principal, row: PermitRow, report: RunReport) -> PermitRow:
        """Record how an execution ended, and how the way back did where the report says so.

        Saying the same again is harmless: the first answer may have been lost. Anything else is `ApprovalConflict`.
        """
        row = await self._action(principal, row, report)
        if report.rollback is not None:
            await self._rollback(principal, row, report.rollback, report.note)
        return row

    async def sweep(self) -> None:
        """Open an incident for every change that was redeemed and not reported in time.

        The desk does so for calls that left under an approval of their own; a read needs no report.
        """
        now_ms = self._clock.now_ms()
        for row in await self._permits.unreported(now_ms - self._settings.report_timeout_s * 1000):
            event = self._event(
                SYSTEM,
                row,
                f"{row.permit_id}.incident.action_unreported",
                "incident.opened",
                {
                    "incident_id": f"inc_{row.permit_id}",
                    "kind": "action_unreported",
                    "severity": "medium",
                    "title": "An executed call was not reported by its runner.",
                    "approval_id": row.ask.approval_id,
                    "gate_call_id": row.ask.gate_call_id,
                    "change_id": row.ask.change_id,
                    "policy_digest": row.ask.policy_digest,
                },
            )
            change = permit_store.alerted(row, now_ms)
            if row.ask.risk is Risk.R0 or await self._consumption(row) is not None:
                async with self._turn:
                    await self._permits.finish(change)
            else:
                await self._teller.say(event, change)

    async def _action(self, principal: Principal, row: PermitRow, report: RunReport) -> PermitRow:
        if row.state is PermitState.REPORTED:
            if row.outcome != report.outcome.value:
                raise ApprovalConflict(f"The execution has been reported already: {row.outcome}.")
            await self._teller.say_again(f"{row.permit_id}.")
            return row
        if row.state is not PermitState.REDEEMED:
            raise ApprovalConflict("Only an execution that was begun can be reported.")
        after = replace(row, state=PermitState.REPORTED, outcome=report.outcome.value)
        change = permit_store.reported(after)
        changes: list[Executable] = [change]
        before = await self._consumption(row)
        if before is not None:
            known = before.conclusion.reported
            if known is not None and (known is not ActionOutcome.UNKNOWN or report.outcome is known):
                # The conversation, or a person, has said what became of the call: the log has its one report.
                async with self._turn:
                    moved = await self._permits.finish(change)
                return after if moved else await self._again(principal, row, report)
            changes.append(rows.reported(before, report.outcome, self._clock.now_ms()))
        ask = row.ask
        bodies = {BodyField.OUTPUT: Body(report.output_digest), **self._words(row, report.note)}
        fields: dict[str, JsonValue] = {
            "permit_id": row.permit_id,
            "gate_call_id": ask.gate_call_id,
            "approval_id": ask.approval_id,
            "action_digest": ask.action_digest,
            "risk": ask.risk.value,
            "tool": escaped(ask.tool)[:MAX_TEXT],
            "change_id": ask.change_id,
            "policy_digest": ask.policy_digest,
            "outcome": report.outcome.value,
            "source": "runner",
            "exit_code": report.exit_code,
            "reporter": principal.person,
        }
        event_id = f"{row.permit_id}.action.reported"
        event = self._event(principal.key_id, row, event_id, "action.reported", fields, bodies)
        if not await self._teller.say(event, *changes):
            return await self._again(principal, row, report)
        return after

    async def _again(self, principal: Principal, row: PermitRow, report: RunReport) -> PermitRow:
        """Somebody was faster, with this permit or with its call: look once more."""
        found = await self._permits.get(row.permit_id)
        if found is None:
            raise NotFound("There is no such permit.")
        if found.state is not PermitState.REPORTED:
            raise ApprovalConflict("The execution has just been reported by somebody else: look at it again.")
        return await self._action(principal, found, report)

    async def _rollback(self, principal: Principal, row: PermitRow, outcome: RollbackOutcome, note: str) -> None:
        """How the way back of an approved call ended. It succeeded once every step has, and the verification."""
        origin = row if row.ask.rollback_of is None else await self._permits.get(row.ask.rollback_of)
        approval_id = None if origin is None else origin.ask.approval_id
        before = None if approval_id is None else await self._store.consumed(approval_id)
        if origin is None or approval_id is None or before is None or origin.plan is None:
            raise ApprovalConflict("The call has no approval, so there is no way back to report on.")
        if outcome is RollbackOutcome.SUCCEEDED:
            steps = await self._permits.steps_of(origin.permit_id)
            done = {step.ask.step for step in steps if step.outcome == ActionOutcome.SUCCEEDED.value}
            if done != set(range(len(origin.plan.steps) + 1)):
                raise ApprovalConflict("Not every step of the plan, and its verification, was executed with success.")
        known = before.conclusion.rollback
        if known not in (None, RollbackOutcome.FAILED):
            if known is not outcome:
                raise ApprovalConflict(f"The rollback has been reported already: {known.value}.")
            await self._teller.say_again(f"{approval_id}.rollback.")
            return
        fields: dict[str, JsonValue] = {
            "permit_id": origin.permit_id,
            "gate_call_id": before.conclusion.gate_call_id,
            "approval_id": approval_id,
            "change_id": origin.ask.change_id,
            "rollback_digest": origin.ask.rollback_digest,
            "policy_digest": origin.ask.policy_digest,
            "outcome": outcome.value,
            "source": "runner",
            "reporter": principal.person,
        }
        event_id = f"{approval_id}.rollback.reported.{before.rollbacks + 1}"
        event = self._event(principal.key_id, origin, event_id, "rollback.reported", fields, self._words(origin, note))
        if not await self._teller.say(event, rows.rolled_back(before, outcome)):
            raise ApprovalConflict("A rollback has just been reported by somebody else: look at it again.")

    async def _consumption(self, row: PermitRow) -> Consumed | None:
        """The consumed approval that is this very call's; a step of its way back goes under it as well."""
        approval_id = row.ask.approval_id
        found = None if approval_id is None else await self._store.consumed(approval_id)
        return found if found is not None and found.conclusion.gate_call_id == row.ask.gate_call_id else None

    # --- records -----------------------------------------------------------------------------------------------------

    def _words(self, row: PermitRow, note: str) -> dict[BodyField, Body]:
        return {BodyField.REASON: body_of(note, row.tenant, self._keeps)} if note else {}

    def _event(
        self,
        principal: str,
        row: PermitRow,
        event_id: str,
        name: str,
        data: Mapping[str, JsonValue],
        bodies: Mapping[BodyField, Body] | None = None,
    ) -> AuditEvent:
        return AuditEvent(
            event_id=event_id,
            name=name,
            at_ms=self._clock.now_ms(),
            tenant=row.tenant,
            principal=principal,
            session=row.ask.session,
            data=data,
            bodies=bodies or {},
        )
