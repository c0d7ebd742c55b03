"""A permit office with its approval desk, over a real SQLite file, the real record schema and real keys."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deployments.clock import FixedClock
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.binding import ActionBinding
from deployments.gate.office import PermitOffice
from deployments.gate.settings import GateSettings
from deployments.gate.store import ApprovalStore
from deployments.ports import (
    ActionOutcome,
    Approval,
    Digests,
    IssuedPermit,
    Keeps,
    KeyId,
    ModelId,
    Permit,
    PermitAsk,
    Principal,
    Proposal,
    RequestId,
    Risk,
    RollbackOutcome,
    RollbackPlan,
    RunReport,
    Scope,
    SessionId,
    TenantId,
    keeps_nothing,
)
from deployments.store import open_store, sqlite_url
from tests.unit.gate.desks import BreakableAudit

POLICY = "a" * 64
RUNNER = "gatehouse-run@here"
COMMAND = "kubectl delete namespace staging"
PLAN = RollbackPlan(("kubectl create namespace staging", "kubectl get namespace"), "kubectl get namespace staging")


def person(name: str | None, *scopes: Scope, tenant: str = "acme", key: str | None = None) -> Principal:
    return Principal(TenantId(tenant), KeyId(key or f"key_{name}"), name, frozenset(scopes))


AGENT = person("ann", Scope.INFERENCE, key="key_agent")
MATE = person("mia", Scope.INFERENCE)
RIVAL = person("rita", Scope.INFERENCE, tenant="rival")
BOB, CAROL = person("bob", Scope.APPROVE), person("carol", Scope.APPROVE)
EVERYBODY = {each.key_id: each for each in (AGENT, MATE, RIVAL, BOB, CAROL)}


async def holders(key_ids: Sequence[KeyId]) -> Sequence[Principal]:
    return [EVERYBODY[each] for each in key_ids if each in EVERYBODY]


def arguments_of(command: str) -> str:
    return f'{{"command":"{command}"}}'


def ask_for(
    command: str = "git status", risk: Risk = Risk.R0, principal: Principal = AGENT, audience: str = RUNNER
) -> PermitAsk:
    """What the API asks for a call that the gate has released."""
    arguments = arguments_of(command)
    binding = ActionBinding(secrets.token_hex(16), principal.tenant, principal.key_id, "s1", "run", arguments, POLICY)
    changes = {} if risk is Risk.R0 else {"change_id": "standing", "rollback_digest": "5" * 64}
    return PermitAsk(
        gate_call_id=binding.gate_call_id,
        action_digest=binding.action_digest(),
        session=SessionId("s1"),
        tool="run",
        arguments=arguments,
        risk=risk,
        policy_digest=POLICY,
        audience=audience,
        **changes,
    )


def proposal(command: str = COMMAND, risk: Risk = Risk.R2, tool: str = "mcp__gatehouse__run") -> Proposal:
    binding = ActionBinding(
        secrets.token_hex(16), AGENT.tenant, AGENT.key_id, "s1", tool, arguments_of(command), POLICY
    )
    return Proposal(
        gate_call_id=binding.gate_call_id,
        action_digest=binding.action_digest(),
        fingerprint=binding.fingerprint(),
        request_id=RequestId("req_1"),
        session=SessionId("s1"),
        tenant=AGENT.tenant,
        requester_key=AGENT.key_id,
        requester_person=AGENT.person,
        tool=tool,
        arguments=binding.arguments,
        display="what an approver sees\n",
        display_digest="d" * 64,
        risk=risk,
        reasons=("k8s.delete: deletes objects of the cluster",),
        policy_digest=POLICY,
        model=ModelId("demo-20b"),
    )


def ended(
    outcome: ActionOutcome = ActionOutcome.SUCCEEDED, rollback: RollbackOutcome | None = None, note: str = ""
) -> RunReport:
    code = 0 if outcome is ActionOutcome.SUCCEEDED else 1
    return RunReport(outcome, code, b"\x07" * 32, 1, 2, rollback, note)


class Office:
    """`office` and `desk` over one file; `other()` is another replica, or the same after a restart."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = FixedClock()
        self.audit = BreakableAudit()
        self.settings = GateSettings(report_timeout_s=900)
        self.keeps: Keeps = keeps_nothing
        self.stores: list[ApprovalStore] = []
        self.desk, self.office = self.other()

    def other(self, url: str | None = None) -> tuple[ApprovalDesk, PermitOffice]:
        store = ApprovalStore(open_store(url or sqlite_url(self.directory / "gate.db")))
        self.stores.append(store)
        desk = ApprovalDesk(store, self.audit, self.clock, self.settings, POLICY, self.keeps, holders=holders)
        keys = self.directory / "keys"
        return desk, PermitOffice(desk, store.engine, self.audit, self.clock, self.settings, keys, self.keeps)

    async def open(self) -> None:
        await self.stores[0].open()
        await self.office.open()

    async def close(self) -> None:
        for store in self.stores:
            await store.close()

    async def left(self, command: str = COMMAND, risk: Risk = Risk.R2, tool: str = "mcp__gatehouse__run") -> Proposal:
        """An approved call that has just left in a stream."""
        found = await self.desk.propose(proposal(command, risk, tool))
        assert isinstance(found, Approval)
        planned = await self.desk.plan(AGENT, found.approval_id, "CHG-1", PLAN)
        digests = Digests(planned.proposal.action_digest, planned.proposal.display_digest)
        for voter in (BOB, CAROL)[: planned.votes_required]:
            await self.desk.vote(voter, found.approval_id, digests, True, "fine")
        again = proposal(command, risk, tool)
        assert isinstance(await self.desk.propose(again), Permit)
        return again

    async def claimed(self, command: str = COMMAND, risk: Risk = Risk.R2) -> IssuedPermit:
        await self.left(command, risk)
        return await self.office.claim(AGENT, "run", arguments_of(command), RUNNER)

    async def executed(self, command: str = COMMAND, risk: Risk = Risk.R2) -> IssuedPermit:
        permit = await self.claimed(command, risk)
        await self.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
        return await self.office.report(AGENT, permit.permit_id, ended())

    def bypasses(self) -> list[object]:
        return [event.data["kind"] for event in self.audit.named("bypass.attempted")]


def step_of(origin: IssuedPermit, step: int, risk: Risk = Risk.R2) -> PermitAsk:
    """A step of the plan of an executed call, under its approval."""
    assert origin.plan is not None
    texts = (*origin.plan.steps, origin.plan.verify)
    ask = ask_for(texts[step], risk)
    given = {
        "approval_id": origin.ask.approval_id,
        "change_id": origin.ask.change_id,
        "rollback_digest": origin.ask.rollback_digest,
        "rollback_of": origin.permit_id,
        "step": step,
    }
    return replace(ask, **given)  # type: ignore[arg-type]
