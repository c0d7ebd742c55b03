"""A house whose gate is real: the shipped policy, the approval desk and the permit office over SQLite, behind HTTP.

The audit log is in memory, with the real record schema; `judged` holds what is on record against the verifier's rules.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from deployments.audit.record import fields_of, to_object
from deployments.audit.semantics import Check, Meaning, Noticed
from deployments.clock import FixedClock
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.canary import Canary
from deployments.gate.guard import Guard
from deployments.gate.office import PermitOffice
from deployments.gate.settings import GateSettings, Running
from deployments.gate.store import ApprovalStore
from deployments.ingress.advice import Advisor
from deployments.ingress.egress import Reach
from deployments.ingress.settings import AdviceSettings
from deployments.ingress.surface import AsgiApp
from deployments.ports import (
    ApprovalId,
    Digests,
    GateContext,
    GateProfile,
    KeyId,
    ModelId,
    Principal,
    RequestId,
    RollbackPlan,
    RouteId,
    Scope,
    SessionId,
    Tier,
    ToolCall,
    Verdict,
)
from deployments.store import open_store, sqlite_url
from serve_app.api.factory import create_api
from tests.api.answering import answering, shipped_classifier, surface_of
from tests.fakes import STRONG
from tests.fakes_audit import InMemoryAudit

AGENT, MATE, RIVAL, BOB, CAROL = "gh-agent", "gh-mate", "gh-rival", "gh-bob", "gh-carol"
PLAN = RollbackPlan(("touch marker",), "test -e marker")


class House:
    """`app` serves; `agent` is the principal of the key `AGENT`, of the profile `ops`."""

    def __init__(self, directory: Path, clock: Any = None) -> None:
        self.clock = clock or FixedClock()
        self.audit = InMemoryAudit()
        self.world = answering()
        ledger = self.world.ledger
        self.agent = ledger.add_key(AGENT, person="ann", gate_profile=GateProfile.OPS)
        self.mate = ledger.add_key(MATE, person="mia", gate_profile=GateProfile.OPS)
        self.rival = ledger.add_key(RIVAL, tenant="rival", gate_profile=GateProfile.OPS)
        self.bob = ledger.add_key(BOB, Scope.APPROVE, Scope.INFERENCE, person="bob")
        self.carol = ledger.add_key(CAROL, Scope.APPROVE, person="carol")
        settings = GateSettings()
        self.classifier = shipped_classifier()
        self.store = ApprovalStore(open_store(sqlite_url(directory / "gate.db")))
        self.desk = ApprovalDesk(
            self.store, self.audit, self.clock, settings, self.classifier.policy_digest, holders=self._holders
        )
        keys = directory / "gate-keys"
        self.office = PermitOffice(self.desk, self.store.engine, self.audit, self.clock, settings, keys)
        # Two seconds are much for a command and little for a busy machine.
        self.guard = Guard(self.classifier, self.desk, self.audit, self.clock, classify_timeout_s=30.0)
        self.app = self._app()

    def _app(self) -> AsgiApp:
        surface = surface_of(self.world)
        return create_api(
            replace(
                surface, approvals=self.desk, gate=self.guard, permits=self.office, classifier=self.classifier,
                clock=self.clock, audit=self.audit, canary=Canary(self.guard, self.desk, self.clock, 30),
                advisor=Advisor(
                    surface.engines, [(Tier.STRONG, Reach(STRONG, True))], self.world.ledger, self.desk, self.clock,
                    AdviceSettings(),
                ),
            )
        )  # fmt: skip

    async def _holders(self, key_ids: Sequence[KeyId]) -> Sequence[Principal]:
        return await self.world.ledger.holders(key_ids)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["House"]:
        await self.desk.open("default", Running())
        await self.office.open()
        try:
            yield self
        finally:
            await self.store.close()

    def client(self, key: str = AGENT) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.app),
            base_url="http://gatehouse",
            headers={"authorization": f"Bearer {key}"},
        )

    async def approve(self, approval_id: str, plan: RollbackPlan = PLAN) -> None:
        """Plan and approve a request, by as many people as it needs."""
        found = await self.desk.plan(self.agent, ApprovalId(approval_id), "CHG-1", plan)
        digests = Digests(found.proposal.action_digest, found.proposal.display_digest)
        for voter in (self.bob, self.carol)[: found.votes_required]:
            await self.desk.vote(voter, found.approval_id, digests, True, "fine")

    async def emitted(self, tool: str, arguments: str, session: str = "s1", call_id: str = "call_1") -> Verdict:
        """The verdict on a call that a model writes in a conversation of the agent's key."""
        context = GateContext(
            RequestId("req_1"), self.agent, SessionId(session), ModelId("demo-20b"), RouteId("rt_1"), frozenset({tool})
        )
        (verdict,) = await self.guard.judge(context, [ToolCall(call_id, 0, 0, tool, arguments)])
        return verdict

    def judged(self) -> dict[str, str | None]:
        """What the verifier finds wrong with the records, by the name of the check."""
        names = ("releases", "approvals", "plans", "reports", "policies")
        checks = {name: Check(number, name) for number, name in enumerate(names)}
        meaning = Meaning(checks, Noticed())
        for index, event in enumerate(self.audit.events):
            record = to_object(event, index, "test")
            meaning.take(index, record, fields_of(record))
        meaning.finish()
        return {name: check.detail for name, check in checks.items() if check.failures}


@asynccontextmanager
async def served(house: House) -> AsyncIterator[str]:
    """The house on a port of this machine; its URL."""
    config = uvicorn.Config(house.app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(server.serve())
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        try:
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
