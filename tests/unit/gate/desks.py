"""A desk over a store of either kind, with the ingress' records around it and a log that tests can break."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace

from deployments.audit.record import fields_of, to_object
from deployments.audit.semantics import Check, Meaning, Noticed
from deployments.clock import FixedClock
from deployments.errors import AuditInDoubt
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.notice_settings import Command, NoticeSettings
from deployments.gate.settings import GateSettings
from deployments.gate.store import ApprovalStore
from deployments.ports import (
    Approval,
    AuditEvent,
    JsonValue,
    Permit,
    Principal,
    Proposal,
    Receipt,
    Risk,
    Scope,
)
from deployments.store import open_store
from tests.fakes_audit import InMemoryAudit
from tests.unit.gate.test_approvals import AGENT, BOB, CAROL, PLAN, POLICY, Keyring, proposal, seen

TTL_S = 600
ARGUMENTS = '{"command":"kubectl delete namespace staging"}'
CHECKS = ("releases", "approvals", "plans", "reports", "policies")
NOTICES = NoticeSettings(commands={"hook": Command(argv=("/bin/true",))})


class BreakableAudit(InMemoryAudit):
    """A log that can be down (nothing is written), or lose its answers (`lose`: what is sent is written)."""

    lose = False

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        receipts = await super().append(events)
        if self.lose:
            raise AuditInDoubt("no answer")
        return receipts


class World:
    """Desks over one database: `desk`, and `another()` for a second replica."""

    def __init__(self, url: str, approvers: Mapping[Risk, tuple[str, ...]] | None = None) -> None:
        self.url = url
        self.clock = FixedClock()
        self.audit = BreakableAudit()
        self.ledger = Keyring()
        self.settings = GateSettings(approval_ttl_s=TTL_S, ledger_timeout_s=5.0, notices=NOTICES)
        self.approvers = approvers
        self.stores: list[ApprovalStore] = []
        self.desk = self.another()
        self.number, self.mark = 0, secrets.randbits(96) << 24

    def another(self, policy: str = POLICY) -> ApprovalDesk:
        """One more replica over the same database, log and keys."""
        store = ApprovalStore(open_store(self.url))
        self.stores.append(store)
        return ApprovalDesk(
            store,
            self.audit,
            self.clock,
            self.settings,
            policy,
            holders=self.ledger.holders,
            approvers=self.approvers,
        )

    async def open(self) -> "World":
        await self.stores[0].open()
        return self

    async def close(self) -> None:
        for store in self.stores:
            await store.close()

    # --- what the ingress does around the desk -----------------------------------------------------------------------

    async def emit(
        self,
        risk: Risk = Risk.R2,
        policy: str = POLICY,
        desk: ApprovalDesk | None = None,
        arguments: str = ARGUMENTS,
    ) -> Permit | Approval:
        """A model emits a call: proposed and classified, then put before the desk, then released or held."""
        made = self.made(risk, policy, arguments)
        await self.audit.append(self._before(made))
        found = await (desk or self.desk).propose(made)
        await self.audit.append([self.outcome(made, found)])
        return found

    def made(self, risk: Risk, policy: str, arguments: str) -> Proposal:
        """What the ingress makes of a call, under ids that no other world has."""
        self.number += 1
        number = self.mark + self.number
        return replace(proposal(number, risk, policy, arguments=arguments), call_id=f"call_{number:08x}")

    async def opened(self, risk: Risk = Risk.R2, arguments: str = ARGUMENTS) -> Approval:
        found = await self.emit(risk, arguments=arguments)
        assert isinstance(found, Approval)
        return found

    async def planned(self, risk: Risk = Risk.R2, arguments: str = ARGUMENTS) -> Approval:
        return await self.desk.plan(AGENT, (await self.opened(risk, arguments)).approval_id, "CHG-1", PLAN)

    async def vote(self, approval: Approval, voter: Principal = BOB, approve: bool = True) -> Approval:
        return await self.desk.vote(voter, approval.approval_id, seen(approval), approve, "")

    async def approved(self, risk: Risk = Risk.R2, arguments: str = ARGUMENTS) -> Approval:
        found = await self.planned(risk, arguments)
        for voter in (BOB, CAROL)[: found.votes_required]:
            found = await self.vote(found, voter)
        return found

    def _before(self, made: Proposal) -> list[AuditEvent]:
        classified: dict[str, JsonValue] = {
            "risk": made.risk.value,
            "outcome": "hold",
            "policy_digest": made.policy_digest,
            "profile": "ops",
            "action_digest": made.action_digest,
        }
        return [
            self._call_event(made, "tool_call.proposed", {}),
            self._call_event(made, "tool_call.classified", classified),
        ]

    def outcome(self, made: Proposal, found: Permit | Approval) -> AuditEvent:
        fields: dict[str, JsonValue] = {
            "risk": made.risk.value,
            "action_digest": made.action_digest,
            "policy_digest": made.policy_digest,
            "profile": "ops",
            "approval_id": found.approval_id,
            "fingerprint": made.fingerprint,
        }
        if isinstance(found, Approval):
            return self._call_event(made, "tool_call.held", {**fields, "votes_required": found.votes_required})
        change = {"change_id": found.change_id, "rollback_digest": found.rollback_digest}
        return self._call_event(made, "tool_call.released", {**fields, **change})

    def _call_event(self, made: Proposal, name: str, data: Mapping[str, JsonValue]) -> AuditEvent:
        return AuditEvent(
            event_id=f"{made.gate_call_id}.{name}",
            name=name,
            at_ms=self.clock.now_ms(),
            tenant=made.tenant,
            principal=made.requester_key,
            request_id=made.request_id,
            session=made.session,
            data={"gate_call_id": made.gate_call_id, "tool": made.tool, **data},
        )

    # --- what the log says -------------------------------------------------------------------------------------------

    def broken_rules(self) -> dict[str, str | None]:
        """What the verifier of the audit log says of everything that was recorded: nothing, if all is well."""
        checks, noticed = {name: Check(number, name) for number, name in enumerate(CHECKS)}, Noticed()
        meaning = Meaning(checks, noticed, grace_s=10**9)
        for index, event in enumerate(self.audit.events):
            record = to_object(event, index, "test")
            meaning.take(index, record, fields_of(record))
        meaning.finish()
        return {name: check.detail for name, check in checks.items() if check.failures}


def without(principal: Principal, scope: Scope) -> Principal:
    """The same key, its scope gone."""
    return replace(principal, scopes=principal.scopes - {scope})
