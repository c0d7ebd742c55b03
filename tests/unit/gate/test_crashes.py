"""A crash at the awaits of every move: nothing is released twice, and nothing is visible without its record.

A caller that goes away is a cancellation. A process that is lost is an exception inside the move itself, after which
its connections are closed and another replica goes on.
"""

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from deployments.gate import moves
from deployments.gate.approvals import ApprovalDesk
from deployments.ports import Approval, Permit
from tests.unit.gate.desks import World
from tests.unit.gate.test_approvals import AGENT, BOB, CAROL, PLAN, proposal, seen

FULL = bool(os.environ.get("GATEHOUSE_FULL_RACES"))
STRIDE = 1 if FULL else 6
"""A process is lost at every await in the full run, and at every third one here."""

Move = Callable[[ApprovalDesk, Approval, str], Coroutine[Any, Any, object]]


class LostProcess(Exception):
    """Nothing after this is executed by the process."""


class Breaking:
    """Awaits a coroutine, and breaks it at its `at`-th suspension. `reached`: it came so far.

    A cancellation goes through its task, as any does; a lost process is thrown right into the coroutine.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, object], at: int, error: type[BaseException]) -> None:
        self.coroutine, self.at, self.error = coroutine, at, error
        self.reached = False

    def __await__(self) -> Generator[Any, Any, object]:
        inner, count = self.coroutine.__await__(), 0
        try:
            waiting: Any = inner.send(None)
            while True:
                count += 1
                self.reached = self.reached or count == self.at
                if count == self.at and self.error is LostProcess:
                    if isinstance(waiting, asyncio.Future):
                        waiting._asyncio_future_blocking = False  # nobody waits for it any more
                    waiting = inner.throw(LostProcess())
                    continue
                task = asyncio.current_task()
                if count == self.at and task is not None:
                    task.cancel()
                try:
                    yield waiting
                except BaseException as error:
                    waiting = inner.throw(error)
                else:
                    waiting = inner.send(None)
        except StopIteration as done:
            return done.value


async def propose(desk: ApprovalDesk, approval: Approval, arguments: str) -> object:
    return await desk.propose(_emitted(arguments))


async def plan(desk: ApprovalDesk, approval: Approval, arguments: str) -> object:
    return await desk.plan(AGENT, approval.approval_id, "CHG-1", PLAN)


async def vote(desk: ApprovalDesk, approval: Approval, arguments: str) -> object:
    return await desk.vote(BOB, approval.approval_id, seen(approval), True, "")


async def reject(desk: ApprovalDesk, approval: Approval, arguments: str) -> object:
    return await desk.vote(CAROL, approval.approval_id, seen(approval), False, "")


async def cancel(desk: ApprovalDesk, approval: Approval, arguments: str) -> object:
    return await desk.cancel(AGENT, approval.approval_id, "")


async def expire(desk: ApprovalDesk, approval: Approval, arguments: str) -> object:
    return await desk.expire(CAROL, approval.approval_id, "")


MOVES: dict[str, tuple[str, Move]] = {
    "planning": ("opened", plan),
    "voting": ("planned", vote),
    "rejecting": ("planned", reject),
    "cancelling": ("approved", cancel),
    "expiring": ("approved", expire),
    "consuming": ("approved", propose),
}
_numbers = iter(range(10_000, 10_000_000))


def _emitted(arguments: str) -> Any:
    number = next(_numbers)
    return replace(proposal(number, arguments=arguments), call_id=f"call_{number:08x}")


async def _result(breaking: Breaking) -> object:
    return await breaking


async def check(world: World, approval: Approval, arguments: str, released: bool) -> None:
    """Another replica goes on: what is stored is on record, and the call leaves at most once in all."""
    desk = world.another()
    found = await desk.get(None, approval.approval_id)
    events = [event for event in world.audit.events if event.data.get("approval_id") == approval.approval_id]
    assert found.state.value in [event.data["state"] for event in events if "state" in event.data]
    assert len(found.votes) <= sum(event.name == "approval.voted" for event in events)
    permits = int(released)
    for _ in range(3):
        permits += isinstance(await desk.propose(_emitted(arguments)), Permit)
    assert permits <= 1
    consumed = [event for event in world.audit.named("permit.consumed") if event in events or _of(event, approval)]
    assert permits <= len(consumed) <= 1
    await world.stores.pop().close()


def _of(event: Any, approval: Approval) -> bool:
    return event.data["approval_id"] == approval.approval_id


# A driver that is interrupted anywhere leaves connections to the garbage collector, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("error", [LostProcess, asyncio.CancelledError])
@pytest.mark.parametrize("name", MOVES)
async def test_a_crash_at_any_await_leaves_nothing_half_done(
    store_url: str, name: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(move: Awaitable[object]) -> Awaitable[object]:
        return move

    if error is LostProcess:
        monkeypatch.setattr(moves, "to_its_end", broken_off)
    if not FULL and not store_url.startswith("sqlite") and name not in ("consuming", "voting"):
        pytest.skip("the other moves are broken off on PostgreSQL by `make proofs`")
    reach, move = MOVES[name]
    world = await World(store_url).open()
    stride = STRIDE if error is LostProcess else 1
    at, reached, broken = 1, True, 0
    while reached:
        arguments = f'{{"command":"kubectl delete namespace n{at}"}}'
        approval: Approval = await getattr(world, reach)(arguments=arguments)
        desk = world.another()
        breaking = Breaking(move(desk, approval, arguments), at, error)
        found: object = None
        # What a driver makes of being interrupted is its own; that something was raised is all there is to know.
        with suppress(Exception, asyncio.CancelledError):
            found = await asyncio.create_task(_result(breaking))
        reached = breaking.reached
        await world.stores.pop().close()
        del desk
        gc.collect()
        await check(world, approval, arguments, isinstance(found, Permit))
        at += stride
        broken += reached
    await world.close()
    assert broken >= 2, "the move waits for nothing, so nothing was broken"
