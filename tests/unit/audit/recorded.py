"""Flows recorded from the real gate: its classifier, guard, approval desk and store, over an audit log in memory."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deployments.clock import FixedClock
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.bundle import load_bundle
from deployments.gate.classify import Classifier
from deployments.gate.guard import Guard
from deployments.gate.settings import GateSettings, Running
from deployments.gate.shell.reader import ShellReader
from deployments.gate.store import ApprovalStore
from deployments.ports import (
    ActionOutcome,
    Approval,
    AuditEvent,
    Digests,
    GateContext,
    GateProfile,
    Held,
    KeyId,
    ModelId,
    Principal,
    Released,
    RequestId,
    RollbackOutcome,
    RollbackPlan,
    RouteId,
    Scope,
    SessionId,
    TenantId,
    ToolCall,
    ToolResult,
    Verdict,
)
from deployments.store import open_store, sqlite_url
from tests.fakes_audit import InMemoryAudit

TTL_S = 600
AGENT = Principal(TenantId("acme"), KeyId("key_agent"), "ann", frozenset({Scope.INFERENCE}))
BOB = Principal(TenantId("acme"), KeyId("key_bob"), "bob", frozenset({Scope.APPROVE}))
CAROL = Principal(TenantId("acme"), KeyId("key_carol"), "carol", frozenset({Scope.APPROVE}))
R0 = ("kubectl get pods", "kubectl get nodes", "ls -la")
R1 = ("kubectl scale deployment web --replicas=3", "kubectl rollout restart deployment/web -n staging")
R2 = ("kubectl delete namespace staging", "npm install", "kubectl delete deployment web -n staging")
R3 = ("kubectl delete namespace prod", "terraform destroy", "git push --force origin main")


async def _holders(key_ids: Sequence[KeyId]) -> Sequence[Principal]:
    return [each for each in (AGENT, BOB, CAROL) if each.key_id in key_ids]


class Recording:
    """One gate with its log. Each method is a conversation of its own and leaves nothing open behind it."""

    def __init__(self, path: Path, seed: int = 1) -> None:
        bundle = load_bundle()
        classifier = Classifier(bundle, ShellReader(timeout_s=20.0))
        self.clock = FixedClock()
        self.audit = InMemoryAudit()
        self.store = ApprovalStore(open_store(sqlite_url(path)))
        self.desk = ApprovalDesk(
            self.store,
            self.audit,
            self.clock,
            GateSettings(approval_ttl_s=TTL_S),
            classifier.policy_digest,
            holders=_holders,
        )
        self.guard = Guard(classifier, self.desk, self.audit, self.clock, classify_timeout_s=20.0)
        self.random = random.Random(seed)
        self.number = 0

    async def open(self) -> None:
        await self.desk.open("shipped", Running(config_digest="c" * 64, version="test"))

    async def flows(self, count: int) -> list[list[AuditEvent]]:
        """`count` flows of every kind in turn."""
        kinds = (
            self.read, self.standing, self.planned, self.approved, self.two_votes, self.unreported, self.rejected,
            self.cancelled, self.expired, self.denied, self.withheld, self.observed,
        )  # fmt: skip
        found: list[list[AuditEvent]] = []
        for number in range(count):
            begin = len(self.audit.events)
            self.number += 1
            self.clock.advance(self.random.randrange(1_000, 5_000))
            await kinds[number % len(kinds)]()
            found.append(self.audit.events[begin:])
        return found

    # --- kinds of flows ----------------------------------------------------------------------------------------------

    async def read(self) -> None:
        await self._judge(R0, Released)

    async def standing(self) -> None:
        await self._judge(("git commit -m x", "mkdir build"), Released, GateProfile.CODING)
        await self._told('{"exit_code": 0}')

    async def planned(self) -> None:
        command = self._pick(R1)
        await self._plan(await self._held(command))
        await self._judge((command,), Released)
        await self._told('{"exit_code": 1}')

    async def approved(self) -> None:
        command = self._pick(R2)
        approval = await self._held(command)
        await self._plan(approval)
        await self._judge((command,), Held)
        await self._vote(approval, BOB)
        await self._judge((command,), Released)
        await self.desk.report(AGENT, approval.approval_id, ActionOutcome.FAILED, 2, "it did not work")
        await self.desk.rollback(AGENT, approval.approval_id, RollbackOutcome.SUCCEEDED, "taken back")

    async def two_votes(self) -> None:
        command = self._pick(R3)
        approval = await self._held(command)
        await self._plan(approval)
        await self._vote(approval, BOB)
        await self._vote(approval, CAROL)
        await self._judge((command,), Released)
        await self.desk.report(AGENT, approval.approval_id, ActionOutcome.SUCCEEDED, 0, "")

    async def unreported(self) -> None:
        command = self._pick(R2)
        approval = await self._held(command)
        await self._plan(approval)
        await self._vote(approval, CAROL)
        await self._judge((command,), Released)
        self.clock.advance(1_000_000)
        await self.desk.sweep()

    async def rejected(self) -> None:
        approval = await self._held(self._pick(R3))
        await self._plan(approval)
        await self._vote(approval, BOB)
        await self._vote(approval, CAROL, approve=False)

    async def cancelled(self) -> None:
        approval = await self._held(self._pick(R2))
        await self.desk.cancel(AGENT, approval.approval_id, "no longer needed")

    async def expired(self) -> None:
        approval = await self._held(self._pick(R2))
        await self._plan(approval)
        await self._vote(approval, BOB)
        self.clock.advance(TTL_S * 1_000 + 1)
        await self.desk.sweep()

    async def denied(self) -> None:
        await self._turn([("kubectl get pods", "no_such_tool")], GateProfile.OPS)

    async def withheld(self) -> None:
        await self._turn([(self._pick(R2), "shell"), (self._pick(R0), "shell")], GateProfile.OPS)
        await self.desk.cancel(AGENT, (await self.desk.list_approvals(None, None))[0].approval_id, "")

    async def observed(self) -> None:
        await self._judge(R3, Released, GateProfile.OBSERVE)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _pick(self, commands: Sequence[str]) -> str:
        return self.random.choice(commands)

    def _context(self, profile: GateProfile) -> GateContext:
        return GateContext(
            RequestId(f"req_{self.number}"),
            replace(AGENT, gate_profile=profile),
            SessionId(f"s_{self.number}"),
            ModelId("demo-20b"),
            RouteId(f"rt_{self.number}"),
            frozenset({"shell"}),
        )

    async def _turn(self, commands: Sequence[tuple[str, str]], profile: GateProfile) -> Sequence[Verdict]:
        self.clock.advance(500)
        calls = [
            ToolCall(f"call_{self.number}_{place}", 0, place, tool, json.dumps({"command": command}))
            for place, (command, tool) in enumerate(commands)
        ]
        return await self.guard.judge(self._context(profile), calls)

    async def _judge(
        self, commands: Sequence[str], wanted: type[Verdict], profile: GateProfile = GateProfile.OPS
    ) -> None:
        [verdict] = await self._turn([(self._pick(commands), "shell")], profile)
        assert isinstance(verdict, wanted), verdict

    async def _held(self, command: str) -> Approval:
        [verdict] = await self._turn([(command, "shell")], GateProfile.OPS)
        assert isinstance(verdict, Held), verdict
        return await self.desk.get(None, verdict.approval_id)

    async def _plan(self, approval: Approval) -> None:
        plan = RollbackPlan((f"undo {self.number}",), "look")
        await self.desk.plan(AGENT, approval.approval_id, f"CHG-{self.number}", plan)

    async def _vote(self, approval: Approval, voter: Principal, approve: bool = True) -> None:
        self.clock.advance(500)
        approval = await self.desk.get(None, approval.approval_id)
        seen = Digests(approval.proposal.action_digest, approval.proposal.display_digest)
        await self.desk.vote(voter, approval.approval_id, seen, approve, "")

    async def _told(self, content: str) -> None:
        """The client's next turn brings the result of the flow's call."""
        await self.guard.observe(self._context(GateProfile.OPS), [ToolResult(f"call_{self.number}_0", content)])


async def record_flows(path: Path, count: int) -> tuple[list[AuditEvent], list[list[AuditEvent]]]:
    """What the gate records when it opens, and `count` flows."""
    recording = Recording(path)
    await recording.open()
    opening = list(recording.audit.events)
    flows = await recording.flows(count)
    await recording.store.close()
    return opening, flows
