from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deployments.clock import SystemClock
from deployments.errors import GateUnavailable
from deployments.ingress.holding import FROZEN, REJECTED, Holder
from deployments.ports import (
    Approval,
    ApprovalId,
    ApprovalState,
    Denied,
    Frozen,
    GateContext,
    Held,
    KeyId,
    ModelId,
    Principal,
    Receipt,
    Released,
    RequestId,
    Risk,
    RouteId,
    Scope,
    SessionId,
    TenantId,
    ToolCall,
    Verdict,
    Withheld,
)

READ = ToolCall("call_0", 0, 0, "shell", '{"command":"ls"}')
KILL = ToolCall("call_1", 0, 1, "shell", '{"command":"kubectl delete ns x"}')
LAST = ToolCall("call_2", 0, 2, "shell", '{"command":"pwd"}')
RECEIPT = Receipt(1, b"\1" * 32)


def context(hold_s: int) -> GateContext:
    principal = Principal(TenantId("acme"), KeyId("key_1"), None, frozenset({Scope.INFERENCE}), hold_s=hold_s)
    return GateContext(RequestId("r"), principal, SessionId("s"), ModelId("m"), RouteId("rt"), frozenset({"shell"}))


def released(call: ToolCall) -> Released:
    return Released(call, call.arguments, Risk.R0, (), RECEIPT)


def held(call: ToolCall) -> Held:
    return Held(call, ApprovalId("apr_1"), Risk.R2, (), True, 0, RECEIPT)


ALL: list[Verdict] = [released(READ), released(KILL), released(LAST)]


class Desk:
    """Answers the states that a test wrote down, the last one for ever; None is a store that does not answer."""

    def __init__(self, *states: ApprovalState | None, frozen_at: int | None = None) -> None:
        self.states = list(states)
        self.asked: list[tuple[TenantId | None, ApprovalId]] = []
        self.frozen_at = frozen_at
        self.looked = 0

    async def frozen(self) -> Sequence[Frozen]:
        self.looked += 1
        others = [Frozen(KeyId("key_2"), TenantId("acme"), "manual", "", 0)]
        mine = [Frozen(KeyId("key_1"), TenantId("acme"), "permit_replayed", "", 0)]
        return others if self.frozen_at is None or self.looked < self.frozen_at else others + mine

    async def get(self, tenant: TenantId | None, approval_id: ApprovalId) -> Approval:
        self.asked.append((tenant, approval_id))
        state = self.states[min(len(self.asked), len(self.states)) - 1]
        if state is None:
            raise GateUnavailable("down")
        return replace(cast(Approval, _APPROVAL), state=state)


_APPROVAL = Approval(
    ApprovalId("apr_1"), ApprovalState.PENDING, cast(Any, SimpleNamespace(gate_call_id="gc_1")), 1, (), None, None, 0, 0
)


class Gate:
    """Releases everything it is asked about again."""

    def __init__(self) -> None:
        self.judged: list[Sequence[ToolCall]] = []

    async def judge(self, context: GateContext, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
        del context
        self.judged.append(calls)
        return [released(call) for call in calls]


FIRST: list[Verdict] = [released(READ), held(KILL), Withheld(LAST, "earlier")]


async def wait(desk: Desk, gate: Gate, hold_s: int = 60) -> Sequence[Verdict]:
    holder = Holder(cast(Any, gate), cast(Any, desk), SystemClock(), 0.001)
    return await holder.wait(context(hold_s), (READ, KILL, LAST), FIRST)


async def test_a_granted_call_and_those_behind_it_are_judged_again_and_the_first_ones_are_not() -> None:
    gate, desk = Gate(), Desk(ApprovalState.NEEDS_PLAN, ApprovalState.PENDING, ApprovalState.APPROVED)
    verdicts = await wait(desk, gate)
    assert verdicts == ALL
    assert gate.judged == [(KILL, LAST)]
    assert desk.asked == [(TenantId("acme"), ApprovalId("apr_1"))] * 3


@pytest.mark.parametrize(
    ("end", "word"),
    [(ApprovalState.EXPIRED, "expired"), (ApprovalState.CANCELLED, "cancelled"), (ApprovalState.STALE, "policy"),
     (ApprovalState.CONSUMED, "used")],
)  # fmt: skip
async def test_a_request_that_ends_otherwise_ends_the_wait_and_says_how(end: ApprovalState, word: str) -> None:
    gate, desk = Gate(), Desk(ApprovalState.PENDING, end)
    verdicts = await wait(desk, gate, hold_s=10**9)
    assert verdicts[0] == FIRST[0]
    assert verdicts[2] == FIRST[2]
    assert isinstance(verdicts[1], Withheld)
    assert word in verdicts[1].reason
    assert len(desk.asked) == 2
    assert gate.judged == []


async def test_a_rejected_call_is_denied_at_once() -> None:
    gate = Gate()
    verdicts = await wait(Desk(ApprovalState.PENDING, ApprovalState.REJECTED), gate, hold_s=10**9)
    assert verdicts[1] == Denied(KILL, "gc_1", Risk.R2, (REJECTED,), RECEIPT)
    assert verdicts[2] == FIRST[2]
    assert gate.judged == []


@pytest.mark.parametrize("state", [ApprovalState.PENDING, ApprovalState.APPROVED, None])
async def test_a_key_that_is_frozen_meanwhile_gets_none_of_its_calls(state: ApprovalState | None) -> None:
    gate, desk = Gate(), Desk(ApprovalState.PENDING, ApprovalState.NEEDS_PLAN, state, frozen_at=3)
    assert await wait(desk, gate, hold_s=10**9) == [FIRST[0], Withheld(KILL, FROZEN), Withheld(LAST, FROZEN)]
    assert desk.looked == 3
    assert gate.judged == []


async def test_a_key_of_somebody_else_may_be_frozen() -> None:
    assert await wait(Desk(ApprovalState.PENDING, ApprovalState.APPROVED), Gate()) == ALL


async def test_the_wait_ends_with_the_keys_patience() -> None:
    gate, desk = Gate(), Desk(ApprovalState.PENDING)
    assert await wait(desk, gate, hold_s=0) == FIRST
    assert gate.judged == []


async def test_a_store_that_comes_back_in_time_is_asked_again() -> None:
    gate = Gate()
    assert await wait(Desk(None, None, ApprovalState.APPROVED), gate) == [
        released(READ),
        released(KILL),
        released(LAST),
    ]


async def test_a_second_held_call_is_waited_for_as_well() -> None:
    class Twice(Gate):
        async def judge(self, context: GateContext, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
            await super().judge(context, calls)
            return [released(KILL), held(LAST)] if len(self.judged) == 1 else [released(LAST)]

    gate = Twice()
    assert await wait(Desk(ApprovalState.APPROVED), gate) == ALL
    assert gate.judged == [(KILL, LAST), (LAST,)]
