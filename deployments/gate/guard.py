"""The gate of an ingress replica: from complete tool calls to verdicts, with their records on disk first.

For the calls of one turn, in order:

1. A name that the request did not offer is refused. Everything else is canonicalised and classified, in time.
2. What was proposed and how it was classified is recorded.
3. What may not flow by itself goes to the approval store: it consumes a permit, or waits.
4. Each outcome is recorded, and only then answered.

After the first call that is not released, none of the turn is: a later call may rest on the earlier one. No record
means no call of any class; no approval store means R0 only, under every profile. Of a frozen key no call leaves at all:
whoever tried to get around the gate is not trusted with reads either. Text flows.

What became of the calls comes back in the conversation: `observe` reads it. Released changes are reported; a call that
ran without being released is a bypass. A replica knows the calls that it has judged; the approval store knows permits
and held calls, whichever replica judged them. Ids that count from 0 in each turn are believed only by the former.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deployments.clock import Clock
from deployments.errors import (
    AuditInDoubt,
    AuditUnavailable,
    Forbidden,
    GatehouseError,
    GateUnavailable,
    WitnessStale,
)
from deployments.gate.binding import ActionBinding, call_key, plan_digest
from deployments.gate.bodies import body_of
from deployments.gate.circumstances import Circumstances
from deployments.gate.classify import Classification, Classifier
from deployments.gate.display import Display, escaped, render
from deployments.gate.freezer import FROZEN
from deployments.gate.frozen_view import FrozenView, Standing
from deployments.gate.judges import Judges
from deployments.gate.live import NOBODY_SAYS
from deployments.gate.recall import DONE, Fate, Judged, Recall, telling
from deployments.gate.results import said
from deployments.gate.tables import Outcome
from deployments.ports import (
    Approval,
    Approvals,
    Audit,
    AuditEvent,
    Body,
    BodyField,
    CallResult,
    Denied,
    GateContext,
    Held,
    JsonValue,
    Keeps,
    Permit,
    Proposal,
    Receipt,
    Refusal,
    Released,
    Risk,
    ToolCall,
    ToolResult,
    Verdict,
    Withheld,
    keeps_nothing,
)

_log = logging.getLogger("gatehouse.gate")

NO_RECORD = "gate_unavailable: the audit log does not answer, so no tool call is released."
NO_STORE = "gate_unavailable: the approval store does not answer, so only read-only calls are released."
WITNESS_STALE = (
    "witness_stale: no witness has confirmed the audit log for too long, so only R0 and R1 calls are released. "
    "An approval stays good until it expires."
)
EARLIER = "An earlier call of this turn was not released."
MAX_NAME = 256
MAX_REASON = 400
MAX_RESULTS = 256  # of one request; beyond it only the last ones count


@dataclass(frozen=True, slots=True)
class _Case:
    """One call with what is known of it before anything is decided."""

    call: ToolCall
    gate_call_id: str
    offered: bool
    found: Classification
    binding: ActionBinding | None
    rule_set: str

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
    permit: Permit | None = None


class Guard:
    """Implements `ports.Gate`. One per ingress replica; between turns it remembers the newest calls and their fate.

    `classifier` judges every session; where a policy is rolled out, `Judges` has one for each that is live.
    `keeps_arguments` says whose arguments are kept beside the log; of others it gets digests.
    """

    def __init__(
        self,
        classifier: Classifier | Judges,
        approvals: Approvals,
        audit: Audit,
        clock: Clock,
        audit_timeout_s: float = 2.0,
        classify_timeout_s: float = 2.0,
        approvals_timeout_s: float = 5.0,
        keeps_arguments: Keeps = keeps_nothing,
    ) -> None:
        self._judges = classifier if isinstance(classifier, Judges) else Judges(classifier)
        self._approvals = approvals
        self._audit = audit
        self._clock = clock
        self._audit_timeout_s = audit_timeout_s
        self._classify_timeout_s = classify_timeout_s
        self._approvals_timeout_s = approvals_timeout_s
        self._keeps = keeps_arguments
        self._recall = Recall()
        self._frozen = FrozenView(approvals, clock)

    async def judge(self, context: GateContext, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
        """One verdict per call, in order; see the top of this module for the steps."""
        # 1
        cases = [await self._case(context, call) for call in calls]
        if not cases:
            return ()
        proposed = [event for case in cases for event in self._proposed(context, case)]
        # 2. Calls that flow by themselves need no stop between the proposal and its outcome: one append for both.
        alone = all(case.outcome is Outcome.RELEASE for case in cases)
        if not alone and isinstance(refused := await self._append(proposed), str):
            return self._unrecorded(context, cases, refused)
        # 3
        decided = await self._decide_all(context, cases)
        # 4
        before = proposed if alone else []
        receipts = await self._append([*before, *self._outcomes(context, cases, decided)])
        if receipts == WITNESS_STALE:
            decided = _without_changes(cases, decided)
            receipts = await self._append([*before, *self._outcomes(context, cases, decided)])
        if isinstance(receipts, str):
            return self._unrecorded(context, cases, receipts)
        for case, what in zip(cases, decided, strict=True):
            self._remember(context, case, what)
        last = receipts[-len(cases) :]
        return [_verdict(case, what, receipt) for case, what, receipt in zip(cases, decided, last, strict=True)]

    async def observe(self, context: GateContext, results: Sequence[ToolResult]) -> None:
        """Record what became of calls: reports of released ones, and results of calls that were never released."""
        newest = {result.call_id: result for result in results[-MAX_RESULTS:]}
        reports: list[AuditEvent] = []
        asked: list[CallResult] = []
        known: dict[str, Judged] = {}
        # Nothing is awaited before all is looked up: the turn that begins may use an id again.
        for result in newest.values():
            key = _key(context, result.call_id)
            judged = self._recall.get(key)
            if judged is not None:
                known[key] = judged
            match judged and judged.fate:
                case Fate.RELEASED if judged is not None:
                    event = judged.report or self._report(context, result, judged)
                    known[key] = replace(judged, report=event)
                    self._recall.put(key, known[key])
                    reports.append(event)
                case Fate.PERMITTED:
                    asked.append(_result(result, None))
                case Fate.REFUSED | None if telling(result.call_id):
                    asked.append(_result(result, judged and judged.refusal))
                case _:
                    pass
        done = await asyncio.gather(self._report_all(reports), self._ask_about(context, asked), return_exceptions=True)
        for failed in done:
            if failed is not None:
                raise failed
        for key, judged in known.items():
            self._recall.settle(key, judged)

    # --- 1: what is it -----------------------------------------------------------------------------------------------

    async def _case(self, context: GateContext, call: ToolCall) -> _Case:
        profile = context.principal.gate_profile
        circumstances = Circumstances(
            recovered=call.recovered,
            untrusted=context.untrusted,
            tenant=context.principal.tenant,
            agent=context.agent,
            schema=context.schemas.get(call.name),
        )
        judge = self._judges.of(context.policy)
        try:
            async with asyncio.timeout(self._classify_timeout_s):
                found = await asyncio.to_thread(judge.classify, call.name, call.arguments, profile, circumstances)
        except TimeoutError:
            why = "the classifier did not answer in time"
            found = judge.unavailable(call.name, call.arguments, profile, why, circumstances)
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
        offered = call.name in context.offered_tools
        return _Case(call, gate_call_id, offered, found, binding, judge.bundle_name)

    # --- 3: what happens to it ---------------------------------------------------------------------------------------

    async def _decide_all(self, context: GateContext, cases: Sequence[_Case]) -> list[_Decided]:
        standing = await self._frozen.of(context.principal.key_id)
        decided: list[_Decided] = []
        for case in cases:
            if decided and decided[-1].name != "tool_call.released":
                decided.append(_withheld(EARLIER))
            else:
                decided.append(await self._decide(context, case, standing))
        return decided

    async def _decide(self, context: GateContext, case: _Case, standing: Standing) -> _Decided:
        if case.call.defect is not None:
            return _withheld(case.call.defect)
        if not case.offered:
            return _Decided("tool_call.denied", {"reason": "The request did not offer this tool."})
        if case.found.outcome is Outcome.FORBID:
            return _Decided("tool_call.denied", {"reason": "The policy forbids this call."})
        if standing is Standing.FROZEN:
            return _withheld(FROZEN)
        if case.binding is None:
            return _withheld(case.found.reasons[0])
        if standing is Standing.UNKNOWN and case.found.risk is not Risk.R0:
            return _withheld(NO_STORE)
        if case.found.outcome is Outcome.RELEASE:
            return _Decided("tool_call.released", _standing(case.found))
        try:
            async with asyncio.timeout(self._approvals_timeout_s):
                answer = await self._approvals.propose(_proposal(context, case, case.binding))
        except (GatehouseError, TimeoutError) as error:
            _log.warning("the approval store failed with %s; the call is withheld", type(error).__name__)
            return _withheld(_why_not(error))
        match answer:
            case Permit():
                fields: dict[str, JsonValue] = {
                    "approval_id": answer.approval_id,
                    "change_id": answer.change_id,
                    "rollback_digest": answer.rollback_digest,
                    "fingerprint": case.binding.fingerprint(),
                }
                return _Decided("tool_call.released", fields, permit=answer)
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

    async def _append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt] | str:
        """Receipts, or why there are none: the log did not acknowledge every event in time."""
        try:
            async with asyncio.timeout(self._audit_timeout_s):
                receipts = await self._audit.append(events)
        except WitnessStale:
            return WITNESS_STALE
        except (GatehouseError, TimeoutError) as error:
            _log.error("no record of %d gate events: %s; every call is withheld", len(events), type(error).__name__)
            return NO_RECORD
        return receipts if len(receipts) == len(events) else NO_RECORD

    def _proposed(self, context: GateContext, case: _Case) -> list[AuditEvent]:
        call, found = case.call, case.found
        proposed: dict[str, JsonValue] = {
            "call_id": escaped(call.call_id)[:MAX_NAME],
            "choice": call.choice,
            "index": call.index,
            "recovered": call.recovered,
            "model": context.model,
            "route_id": context.route_id,
        }
        arguments = found.arguments if found.arguments is not None else call.arguments
        body = body_of(arguments, context.principal.tenant, self._keeps)
        classified: dict[str, JsonValue] = {
            "risk": found.risk.value,
            "outcome": case.outcome.value,
            "policy_digest": found.policy_digest,
            "profile": context.principal.gate_profile.value,
            "reasons": _recorded(found.reasons),
            "rule_set": case.rule_set,
            "action_digest": case.binding.action_digest() if case.binding else None,
            "agent": escaped(context.agent)[:MAX_NAME] if context.agent else None,
            "untrusted": context.untrusted or None,
            **_shadow(found),
        }
        return [
            self._event(context, case, "tool_call.proposed", proposed, {BodyField.ARGUMENTS: body}),
            self._event(context, case, "tool_call.classified", classified),
        ]

    def _outcomes(self, context: GateContext, cases: Sequence[_Case], decided: Sequence[_Decided]) -> list[AuditEvent]:
        return [self._outcome(context, case, what) for case, what in zip(cases, decided, strict=True)]

    def _outcome(self, context: GateContext, case: _Case, decided: _Decided) -> AuditEvent:
        fields: dict[str, JsonValue] = {
            "risk": case.found.risk.value,
            "policy_digest": case.found.policy_digest,
            "profile": context.principal.gate_profile.value,
            "action_digest": case.binding.action_digest() if case.binding else None,
            **decided.fields,
        }
        return self._event(context, case, decided.name, fields)

    def _event(
        self,
        context: GateContext,
        case: _Case,
        name: str,
        data: dict[str, JsonValue],
        bodies: dict[BodyField, Body] | None = None,
    ) -> AuditEvent:
        return AuditEvent(
            event_id=f"{case.gate_call_id}.{name}",
            name=name,
            at_ms=self._clock.now_ms(),
            tenant=context.principal.tenant,
            principal=context.principal.key_id,
            request_id=context.request_id,
            session=context.session,
            data={"gate_call_id": case.gate_call_id, "tool": escaped(case.call.name)[:MAX_NAME], **data},
            bodies=bodies or {},
        )

    # --- what became of it -------------------------------------------------------------------------------------------

    def _unrecorded(self, context: GateContext, cases: Sequence[_Case], reason: str) -> list[Verdict]:
        for case in cases:
            self._remember(context, case, _withheld(reason))
        return [Withheld(case.call, reason) for case in cases]

    def _remember(self, context: GateContext, case: _Case, decided: _Decided) -> None:
        action_digest = case.binding.action_digest() if case.binding else None
        if decided.name == "tool_call.released":
            fate = _fate(case, decided)
            judged = (
                DONE
                if fate is Fate.DONE
                else Judged(
                    fate=fate,
                    gate_call_id=case.gate_call_id,
                    tool=escaped(case.call.name)[:MAX_NAME],
                    risk=case.found.risk,
                    action_digest=action_digest,
                    change_id=_text(decided.fields.get("change_id")),
                    policy_digest=case.found.policy_digest,
                )
            )
        else:
            refusal = Refusal(
                gate_call_id=case.gate_call_id,
                tool=case.call.name[:MAX_NAME],
                risk=case.found.risk,
                reason="The call was held." if decided.held is not None else str(decided.fields["reason"]),
                approval_id=None if decided.held is None else decided.held.approval_id,
                action_digest=action_digest,
                denied=decided.name == "tool_call.denied",
            )
            judged = Judged(Fate.REFUSED, refusal=refusal)
        self._recall.put(_key(context, case.call.call_id), judged)

    def _report(self, context: GateContext, result: ToolResult, judged: Judged) -> AuditEvent:
        """The report of a change that needed no permit. Best effort: only the replica that released it knows it."""
        found = _result(result, None)
        return AuditEvent(
            event_id=f"{judged.gate_call_id}.action.reported",
            name="action.reported",
            at_ms=self._clock.now_ms(),
            tenant=context.principal.tenant,
            principal=context.principal.key_id,
            request_id=context.request_id,
            session=context.session,
            data={
                "gate_call_id": judged.gate_call_id,
                "action_digest": judged.action_digest,
                "call_id": escaped(result.call_id)[:MAX_NAME],
                "tool": judged.tool,
                "risk": judged.risk.value,
                "outcome": found.outcome.value,
                "source": "conversation",
                "exit_code": found.exit_code,
                "change_id": judged.change_id,
                "policy_digest": judged.policy_digest,
            },
            bodies={BodyField.OUTPUT: Body(found.output_digest)},
        )

    async def _report_all(self, reports: Sequence[AuditEvent]) -> None:
        if not reports:
            return
        try:
            async with asyncio.timeout(self._audit_timeout_s):
                await self._audit.append(reports)
        except TimeoutError:
            raise AuditInDoubt("The audit log did not acknowledge the reports of calls in time.") from None

    async def _ask_about(self, context: GateContext, asked: Sequence[CallResult]) -> None:
        """Have the approval store record what it knows, or what this replica knows and must be said once."""
        if not asked:
            return
        try:
            async with asyncio.timeout(self._approvals_timeout_s):
                await self._approvals.observe(context, asked)
        except TimeoutError:
            raise GateUnavailable("The approval store did not take the results of calls in time.") from None


def _verdict(case: _Case, decided: _Decided, receipt: Receipt) -> Verdict:
    found = case.found
    if decided.name == "tool_call.released" and found.arguments is not None:
        return Released(
            call=case.call,
            arguments=found.arguments,
            risk=found.risk,
            reasons=found.reasons,
            receipt=receipt,
            gate_call_id=case.gate_call_id,
            action_digest=case.binding.action_digest() if case.binding else "",
            policy_digest=found.policy_digest,
            approval_id=decided.permit.approval_id if decided.permit else None,
            change_id=_text(decided.fields.get("change_id")),
            rollback_digest=_text(decided.fields.get("rollback_digest")),
        )
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


def _without_changes(cases: Sequence[_Case], decided: Sequence[_Decided]) -> list[_Decided]:
    """The same without a release of R2 or R3, nor of anything after it."""
    kept: list[_Decided] = []
    for case, what in zip(cases, decided, strict=True):
        if kept and kept[-1].name != "tool_call.released":
            kept.append(what if what.name != "tool_call.released" else _withheld(EARLIER))
        elif what.name == "tool_call.released" and case.found.risk.rank >= Risk.R2.rank:
            kept.append(_withheld(WITNESS_STALE))
        else:
            kept.append(what)
    return kept


def _why_not(error: BaseException) -> str:
    """What to tell the client of a permit that could not be had."""
    match error:
        case GateUnavailable() if error.public_message == NOBODY_SAYS:
            return NOBODY_SAYS
        case WitnessStale():
            return WITNESS_STALE
        case AuditUnavailable():
            return NO_RECORD
        case Forbidden():
            return FROZEN
        case _:
            return NO_STORE


def _key(context: GateContext, call_id: str) -> str:
    return call_key(context.principal.tenant, context.principal.key_id, context.session, call_id)


def _fate(case: _Case, decided: _Decided) -> Fate:
    """A read needs no report."""
    if decided.fields.get("approval_id") is not None:
        return Fate.PERMITTED
    return Fate.RELEASED if case.found.risk.rank >= Risk.R1.rank else Fate.DONE


def _result(result: ToolResult, refused: Refusal | None) -> CallResult:
    digest = hashlib.sha256(result.content.encode("utf-8", "surrogatepass")).digest()
    found = said(result.content, result.failed)
    return CallResult(result.call_id, digest, found.outcome, found.exit_code, refused)


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None


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


def _shadow(found: Classification) -> dict[str, JsonValue]:
    """What the bundle that runs beside the live one would have done."""
    if found.shadow is None:
        return {}
    return {
        "shadow_policy_digest": found.shadow.policy_digest,
        "shadow_risk": found.shadow.risk.value,
        "shadow_outcome": found.shadow.outcome.value,
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
        call_id=case.call.call_id,
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
        model=context.model,
        agent=context.agent,
        untrusted=context.untrusted,
        preview=case.found.preview,
    )


def _recorded(reasons: Sequence[str]) -> list[JsonValue]:
    """Rule ids with their reasons, without the words of the command that some reasons quote."""
    return [escaped(reason.partition("'")[0]).strip()[:MAX_REASON] for reason in reasons]
