"""Calls with a defect: recorded like every other one, and never released, held or approved."""

import pytest

from deployments.clock import FixedClock
from deployments.gate.classify import Classifier
from deployments.gate.guard import Guard
from deployments.ports import GateProfile, Withheld
from tests.fakes_audit import InMemoryAudit
from tests.fakes_gate import InMemoryApprovals
from tests.unit.gate.guards import DELETE, READ, call, context

LEAK = '<tool_call>{"name":"shell","arguments":{"command":"ls hunter2"}}'


@pytest.mark.parametrize("profile", GateProfile)
@pytest.mark.parametrize("arguments", [READ, DELETE, LEAK, ""])
@pytest.mark.parametrize("name", ["shell", "of_nobody"])
async def test_a_call_with_a_defect_is_withheld_and_recorded(
    classifier: Classifier, profile: GateProfile, arguments: str, name: str
) -> None:
    audit, approvals = InMemoryAudit(), InMemoryApprovals()
    guard = Guard(classifier, approvals, audit, FixedClock(), classify_timeout_s=20.0)
    bad = call(arguments, name, recovered=True)
    bad = type(bad)(bad.call_id, 0, 0, name, arguments, True, "It was written as text.")
    (verdict,) = await guard.judge(context(profile), [bad])
    assert verdict == Withheld(bad, "It was written as text.")
    assert approvals.proposals == []
    assert audit.names() == ["tool_call.proposed", "tool_call.classified", "tool_call.withheld"]
    assert audit.events[-1].data["reason"] == "It was written as text."
    assert "hunter2" not in repr(audit.events)
