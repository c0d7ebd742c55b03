"""A classifier that does not answer: whose policy the call is then under, and what may raise its class all the same."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.clock import FixedClock
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.circumstances import PLAIN, Circumstances
from deployments.gate.classify import Classifier
from deployments.gate.guard import Guard
from deployments.gate.judges import Judges
from deployments.gate.tenant_names import digests
from deployments.ports import ApprovalState, GateProfile, Held, Risk, TenantId
from tests.fakes_audit import InMemoryAudit
from tests.fakes_gate import InMemoryApprovals
from tests.unit.gate.guards import DELETE, READ, Stuck, call, context
from tests.unit.gate.own_bundles import own_bundle
from tests.unit.gate.test_approvals import AGENT, PLAN, Desk
from tests.unit.gate.test_tenant_names import NAMES, named

WHY = "no answer"
WATCHED = own_bundle("raises:\n  - {id: far.away, when: {untrusted: true}, to: {R2: R3}, reason: it has read a page}\n")


@pytest.fixture(name="stuck")
async def _stuck() -> AsyncIterator[Stuck]:
    stuck = Stuck(named(NAMES))
    yield stuck
    stuck.go_on.set()  # the loop waits for its threads


@pytest.mark.parametrize("arguments", [READ, "{not json"], ids=["canonical", "rejected"])
def test_it_is_under_the_policy_of_its_tenant(arguments: str) -> None:
    bundle = named(NAMES)
    classifier = Classifier(bundle)

    def digest(tenant: str | None) -> str:
        circumstances = replace(PLAIN, tenant=tenant)
        found = classifier.unavailable("shell", arguments, GateProfile.OPS, WHY, circumstances)
        assert (
            found.policy_digest == classifier.classify("shell", arguments, GateProfile.OPS, circumstances).policy_digest
        )
        assert found.risk is Risk.R2
        return found.policy_digest

    assert digest("acme") == digests(bundle)["acme"] != bundle.policy_digest
    assert digest("globex") == digest(None) == bundle.policy_digest


def test_circumstances_raise_it() -> None:
    classifier = Classifier(WATCHED)
    untrusted = replace(PLAIN, untrusted=True)
    calm = classifier.unavailable("shell", READ, GateProfile.OPS, WHY)
    found = classifier.unavailable("shell", READ, GateProfile.OPS, WHY, untrusted)
    assert (calm.risk, found.risk) == (Risk.R2, Risk.R3)
    assert found.reasons[0] == "far.away: it has read a page"


def test_of_two_live_policies_both_are_told() -> None:
    judges = Judges(Classifier(named(NAMES)), "one", {"two": Classifier(WATCHED)})
    found = judges.of("nobody-knows").unavailable("shell", READ, GateProfile.OPS, WHY, Circumstances(untrusted=True))
    assert (found.risk, found.policy_digest) == (Risk.R3, WATCHED.policy_digest)
    calm = judges.of("nobody-knows").unavailable("shell", READ, GateProfile.OPS, WHY, Circumstances(tenant="acme"))
    assert calm.policy_digest == digests(named(NAMES))["acme"]


async def test_the_guard_tells_it_all_that_it_knows() -> None:
    stuck = Stuck(WATCHED)
    guard = Guard(stuck, InMemoryApprovals(), InMemoryAudit(), FixedClock(), classify_timeout_s=0.05)
    try:
        (verdict,) = await guard.judge(replace(context(), untrusted=True), [call(READ)])
    finally:
        stuck.go_on.set()
    assert isinstance(verdict, Held)
    assert verdict.risk is Risk.R3


async def test_what_is_held_for_a_tenant_with_names_can_be_approved(stuck: Stuck, tmp_path: Path) -> None:
    world = Desk(tmp_path / "gate.db")
    await world.store.open()
    bundle = stuck.bundle
    own = digests(bundle)
    assert AGENT.tenant == TenantId("acme") in own
    desk = ApprovalDesk(
        world.store, world.audit, world.clock, world.settings, bundle.policy_digest, holders=world.ledger.holders,
        tenant_digests=own,
    )  # fmt: skip
    try:
        guard = Guard(stuck, desk, world.audit, world.clock, classify_timeout_s=0.05)
        (verdict,) = await guard.judge(context(), [call(DELETE)])
        stuck.go_on.set()
        assert isinstance(verdict, Held)
        record = world.audit.named("tool_call.classified")[0].data
        assert (record["risk"], record["policy_digest"]) == ("R2", own["acme"])
        planned = await desk.plan(AGENT, verdict.approval_id, "CHG-1", PLAN)
        assert planned.state is ApprovalState.PENDING
    finally:
        stuck.go_on.set()
        await world.store.close()
