"""The gate of an ingress replica: from complete tool calls to verdicts, with their records on disk first.

For the calls of one turn, in order:

1. A name that the request did not offer is refused. Everything else is canonicalised and classified, in time.
2. What was proposed and how it was classified is recorded.
3. What may not flow by itself goes to the approval store: it consumes a permit, or waits.
4. Each outcome is recorded, and only then answered.

After the first call that is not released, none of the turn is: a later call may rest on the earlier one. No record
means no call of any class; no approval store means R0 only.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.clock import Clock
from deployments.errors import GatehouseError
from deployments.gate.binding import ActionBinding, plan_digest
from deployments.gate.classify import Classification, Classifier
from deployments.gate.display import Display, escaped, render
from deployments.gate.tables import Outcome
from deployments.ports import (
    Approval,
    Approvals,
    Audit,
    AuditEvent,
    Denied,
    GateContext,
    Held,
    JsonValue,
    Permit,
    Proposal,
    Receipt,
    Released,
    Risk,
    ToolCall,
    Verdict,
    Withheld,
)

_log = logging.getLogger("gatehouse.gate")

NO_RECORD = "gate_unavailable: the audit log does not answer, so no tool call is released."
NO_STORE = "gate_unavailable: the approval store does not answer, so only read-only calls are released."
EARLIER = "An earlier call of this turn was not released."
MAX_NAME = 256
MAX_REASON = 400


@dataclass(frozen=True, slots=True)
class _Case:
    """One call with what is known of it before anything is decided."""

    call: ToolCall
    gate_call_id: str
    offered: bool
    found: Classification
    binding: ActionBinding | None

    @property
    def outcome(self) -> Outcome:
        return self.found.outcome if self.offered else Outcome.FORBID


@dataclass(frozen=True, slots=True)
class _Decided:
    """What happens to a case: the event that says so, and what the event needs besides."""

    name: str
    fields: dict[str, JsonValue]
    held: Approval | None = None
    reason: str = ""


class Guard:
    """Implements `ports.Gate`. One per ingress replica; holds no state between turns."""

    def __init__(
        self,
        classifier: Classifier,
        approvals: Approvals,
        audit: Audit,
        clock: Clock,
        audit_timeout_s: float = 2.0,
        classify_timeout_s: float = 2.0,
        approvals_timeout_s: float = 5.0,
    ) -> None:
        self._classifier = classifier
        self._approvals = approvals
        self._audit = audit
        self._clock = clock
        self._audit_timeout_s = audit_timeout_s
        self._classify_timeout_s = classify_timeout_s
        self._approvals_timeout_s = approvals_timeout_s

    async def judge(self, context: GateContext, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
        """One verdict per call, in order; see the top of this module for the steps."""
        # 1
        cases = [await self._case(context, call) for call in calls]
        if not cases:
            return ()
        proposed = [event for case in cases for event in self._proposed(context, case)]
        # 2. Calls that flow by themselves need no stop between the proposal and its outcome: one append for both.
        alone = all(case.outcome is Outcome.RELEASE for case in cases)
        if not alone and await self._append(proposed) is None:
            return [Withheld(case.call, NO_RECORD) for case in cases]
        # 3
        decided = await self._decide_all(context, cases)
        # 4
        outcomes = [self._outcome(context, case, what) for case, what in zip(cases, decided, strict=True)]
        receipts = await self._append([*proposed, *outcomes] if alone else outcomes)
        if receipts is None:
            return [Withheld(case.call, NO_RECORD) for case in cases]
        last = receipts[-len(outcomes) :]
        return [_verdict(case, what, receipt) for case, what, receipt in zip(cases, decided, last, strict=True)]

    # --- 1: what is it -----------------------------------------------------------------------------------------------

    async def _case(self, context: GateContext, call: ToolCall) -> _Case:
        floor = Risk.R2 if call.recovered else Risk.R0
        profile = context.principal.gate_profile
        try:
            async with asyncio.timeout(self._classify_timeout_s):
                found = await asyncio.to_thread(self._classifier.classify, call.name, call.arguments, profile, floor)
        except TimeoutError:
            found = self._classifier.unavailable(
                call.name, call.arguments, profile, "the classifier did not answer in time"
            )
        gate_call_id = secrets.token_hex(16)
        binding = None
        if found.arguments is not None:
            binding = ActionBinding(
                gate_call_id=gate_call_id,
                tenant=context.principal.tenant,
                principal=context.principal.key_id,
                session=context.session,
                tool=call.name,
                arguments=found.arguments,
                policy_digest=found.policy_digest,
            )
        return _Case(call, gate_call_id, call.name in context.offered_tools, found, binding)

    # --- 3: what happens to it ---------------------------------------------------------------------------------------

    async def _decide_all(self, context: GateContext, cases: Sequence[_Case]) -> list[_Decided]:
        decided: list[_Decided] = []
        for case in cases:
            if decided and decided[-1].name != "tool_call.released":
                decided.append(_withheld(EARLIER))
            else:
                decided.append(await self._decide(context, case))
        return decided

    async def _decide(self, context: GateContext, case: _Case) -> _Decided:
        if not case.offered:
            return _Decided("tool_call.denied", {"reason": "The request did not offer this tool."})
        if case.found.outcome is Outcome.FORBID:
            return _Decided("tool_call.denied", {"reason": "The policy forbids this call."})
        if case.binding is None:
            return _withheld(case.found.reasons[0])
        if case.found.outcome is Outcome.RELEASE:
            return _Decided("tool_call.released", _standing(case.found))
        try:
            async with asyncio.timeout(self._approvals_timeout_s):
                answer = await self._approvals.propose(_proposal(context, case, case.binding))
        except (GatehouseError, TimeoutError) as error:
            _log.warning("the approval store failed with %s; the call is withheld", type(error).__name__)
            return _withheld(NO_STORE)
        match answer:
            case Permit():
                fields: dict[str, JsonValue] = {
                    "approval_id": answer.approval_id,
                    "change_id": answer.change_id,
                    "rollback_digest": answer.rollback_digest,
                    "fingerprint": case.binding.fingerprint(),
                }
                return _Decided("tool_call.released", fields)
            case Approval():
                held: dict[str, JsonValue] = {
                    "approval_id": answer.approval_id,
                    "plan_required": answer.plan is None,
                    "expires_ms": answer.expires_ms,
                    "votes_required": answer.votes_required,
                    "fingerprint": case.binding.fingerprint(),
                }
                return _Decided("tool_call.held", held, held=answer)

    # --- 2 and 4: records --------------------------------------------------------------------------------------------

    async def _append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt] | None:
        """Receipts, or None when the log did not acknowledge every event in time."""
        try:
            async with asyncio.timeout(self._audit_timeout_s):
                receipts = await self._audit.append(events)
        except (GatehouseError, TimeoutError) as error:
            _log.error("no record of %d gate events: %s; every call is withheld", len(events), type(error).__name__)
            return None
        return receipts if len(receipts) == len(events) else None

    def _proposed(self, context: GateContext, case: _Case) -> list[AuditEvent]:
        call, found = case.call, case.found
        proposed: dict[str, JsonValue] = {
            "call_id": escaped(call.call_id)[:MAX_NAME],
            "choice": call.choice,
            "index": call.index,
            "recovered": call.recovered,
            "model": context.model,
            "route_id": context.route_id,
            "arguments_commit": _commit(case),
        }
        classified: dict[str, JsonValue] = {
            "risk": found.risk.value,
            "outcome": case.outcome.value,
            "policy_digest": found.policy_digest,
            "profile": context.principal.gate_profile.value,
            "reasons": _recorded(found.reasons),
            "rule_set": self._classifier.bundle_name,
            "action_digest": case.binding.action_digest() if case.binding else None,
        }
        return [
            self._event(context, case, "tool_call.proposed", proposed),
            self._event(context, case, "tool_call.classified", classified),
        ]

    def _outcome(self, context: GateContext, case: _Case, decided: _Decided) -> AuditEvent:
        fields: dict[str, JsonValue] = {
            "risk": case.found.risk.value,
            "policy_digest": case.found.policy_digest,
            "profile": context.principal.gate_profile.value,
            "action_digest": case.binding.action_digest() if case.binding else None,
            **decided.fields,
        }
        return self._event(context, case, decided.name, fields)

    def _event(self, context: GateContext, case: _Case, name: str, data: dict[str, JsonValue]) -> AuditEvent:
        return AuditEvent(
            event_id=f"{case.gate_call_id}.{name}",
            name=name,
            at_ms=self._clock.now_ms(),
            tenant=context.principal.tenant,
            principal=context.principal.key_id,
            request_id=context.request_id,
            session=context.session,
            data={"gate_call_id": case.gate_call_id, "tool": escaped(case.call.name)[:MAX_NAME], **data},
        )


def _verdict(case: _Case, decided: _Decided, receipt: Receipt) -> Verdict:
    found = case.found
    if decided.name == "tool_call.released" and found.arguments is not None:
        return Released(case.call, found.arguments, found.risk, found.reasons, receipt)
    if decided.held is not None:
        held = decided.held
        return Held(
            call=case.call,
            approval_id=held.approval_id,
            risk=found.risk,
            reasons=found.reasons,
            plan_required=held.plan is None,
            expires_ms=held.expires_ms,
            receipt=receipt,
        )
    if decided.name == "tool_call.denied":
        reason = str(decided.fields["reason"])
        return Denied(case.call, case.gate_call_id, found.risk, (reason, *found.reasons), receipt)
    return Withheld(case.call, decided.reason)


def _withheld(reason: str) -> _Decided:
    return _Decided("tool_call.withheld", {"reason": escaped(reason)[:MAX_REASON]}, reason=reason)


def _standing(found: Classification) -> dict[str, JsonValue]:
    """The plan that covers a released change, recorded on every use; nothing for a read."""
    if found.standing is None:
        return {}
    return {
        "standing_plan": found.standing.change_id,
        "change_id": found.standing.change_id,
        "rollback_digest": plan_digest(found.standing.steps, found.standing.verify),
    }


def _proposal(context: GateContext, case: _Case, binding: ActionBinding) -> Proposal:
    display = _display(context, case, binding)
    return Proposal(
        gate_call_id=case.gate_call_id,
        action_digest=binding.action_digest(),
        fingerprint=binding.fingerprint(),
        request_id=context.request_id,
        session=context.session,
        tenant=context.principal.tenant,
        requester_key=context.principal.key_id,
        requester_person=context.principal.person,
        tool=case.call.name,
        arguments=binding.arguments,
        display=display.text,
        display_digest=display.digest,
        risk=case.found.risk,
        reasons=case.found.reasons,
        policy_digest=binding.policy_digest,
        model=context.model,
    )


def _display(context: GateContext, case: _Case, binding: ActionBinding) -> Display:
    person = context.principal.person
    return render(
        tool=case.call.name,
        arguments=binding.arguments,
        commands=case.found.commands,
        risk=case.found.risk,
        reasons=case.found.reasons,
        tenant=context.principal.tenant,
        requester=f"{person} ({context.principal.key_id})" if person else context.principal.key_id,
        session=context.session,
        policy_digest=binding.policy_digest,
        action_digest=binding.action_digest(),
    )


def _commit(case: _Case) -> str:
    """SHA-256 of the arguments, salted with the random call id."""
    text = case.found.arguments if case.found.arguments is not None else case.call.arguments
    return hashlib.sha256(f"{case.gate_call_id}\x00{text}".encode("utf-8", "surrogatepass")).hexdigest()


def _recorded(reasons: Sequence[str]) -> list[JsonValue]:
    """Rule ids with their reasons, without the words of the command that some reasons quote."""
    return [escaped(reason.partition("'")[0]).strip()[:MAX_REASON] for reason in reasons]
