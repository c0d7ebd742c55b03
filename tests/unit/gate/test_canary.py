"""The canary: held is well, everything else is said, and nothing of it stays in the queue."""

import asyncio
from collections.abc import Sequence

import pytest

from deployments.clock import FixedClock
from deployments.errors import GateUnavailable
from deployments.gate.bundle import BUNDLE_DIRECTORY
from deployments.gate.canary import KEY, PROFILES, Canary
from deployments.gate.classify import Classifier
from deployments.gate.guard import Guard
from deployments.gate.policy import read_policy
from deployments.ports import (
    SYSTEM_TENANT,
    ApprovalState,
    GateContext,
    Receipt,
    Released,
    Risk,
    ToolCall,
    ToolResult,
    Verdict,
)
from tests.fakes_audit import InMemoryAudit
from tests.fakes_gate import InMemoryApprovals


class OneAnswer:
    """Implements `ports.Gate`: the same for every call."""

    def __init__(self, *answers: Verdict | Exception) -> None:
        self.answers = answers
        self.asked = 0

    async def judge(self, context: GateContext, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
        self.asked += 1
        for answer in self.answers:
            if isinstance(answer, Exception):
                raise answer
        return [answer for answer in self.answers if not isinstance(answer, Exception)]

    async def observe(self, context: GateContext, results: Sequence[ToolResult]) -> None:
        raise NotImplementedError


class Silent(OneAnswer):
    async def judge(self, context: GateContext, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(read_policy(BUNDLE_DIRECTORY / "default.yaml"))


async def test_the_real_gate_holds_it_and_the_queue_stays_clean(classifier: Classifier) -> None:
    clock, approvals, audit = FixedClock(), InMemoryApprovals(), InMemoryAudit()
    canary = Canary(Guard(classifier, approvals, audit, clock), approvals, clock, 30)
    found = await canary.check()
    assert found.problem is None
    assert not found.escaped
    kept = await approvals.list_approvals(None, None)
    assert [each.state for each in kept] == [ApprovalState.CANCELLED] * len(PROFILES)
    assert {(each.proposal.tenant, each.proposal.requester_key) for each in kept} == {(SYSTEM_TENANT, KEY)}
    assert sum(event.name == "tool_call.held" for event in audit.events) == len(PROFILES)


async def test_a_store_that_is_down_is_said(classifier: Classifier) -> None:
    clock, approvals = FixedClock(), InMemoryApprovals()
    approvals.down = True
    found = await Canary(Guard(classifier, approvals, InMemoryAudit(), clock), approvals, clock, 30).check()
    assert found.problem is not None
    assert "could not be put before" in found.problem
    assert not found.escaped


CALL = ToolCall("c", 0, 0, "shell", "{}")


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [Released(CALL, "{}", Risk.R0, (), Receipt(0, b""))],
        [Released(CALL, "{}", Risk.R3, (), Receipt(0, b""))] * 2,
    ],
)
async def test_a_gate_that_does_not_hold_it_is_an_escape(answers: list[Verdict]) -> None:
    found = await Canary(OneAnswer(*answers), InMemoryApprovals(), FixedClock(), 30).check()
    assert found.escaped
    assert found.problem is not None


async def test_a_failure_is_a_problem_and_no_exception() -> None:
    found = await Canary(OneAnswer(GateUnavailable("down")), InMemoryApprovals(), FixedClock(), 30).check()
    assert (found.problem, found.escaped) == (f"the gate failed: {GateUnavailable.code}", False)
    slow = await Canary(Silent(), InMemoryApprovals(), FixedClock(), 30, timeout_s=0.01).check()
    assert (slow.problem, slow.escaped) == ("the gate did not answer in time", False)


async def test_many_who_ask_cost_one_check() -> None:
    gate, clock = OneAnswer(), FixedClock()
    canary = Canary(gate, InMemoryApprovals(), clock, 30)
    assert canary.last is None
    await asyncio.gather(*(canary.check() for _ in range(50)))
    assert gate.asked == 1
    clock.advance(29_999)
    await canary.check()
    assert gate.asked == 1
    clock.advance(1)
    assert await canary.check() is canary.last
    assert gate.asked == 2
