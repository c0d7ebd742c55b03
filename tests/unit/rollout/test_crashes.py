"""A controller whose process ends at any operation: the next one finishes what it was doing, once."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.errors import AuditUnavailable, InvalidRequest
from deployments.rollout.store import RolloutStore
from deployments.rollouts import Move, State
from deployments.store import open_store, sqlite_url
from tests.unit.rollout.world import Fuse, Killed, World, evaluation

Act = Callable[[World], Awaitable[object]]
GOOD, BAD = (1, 600), (120, 600)


def ticks(seconds: int = 0) -> Act:
    return lambda world: world.tick(seconds)


def sees(candidate: tuple[int, int]) -> Act:
    return lambda world: world.see(candidate, (3, 2000))


def moves(move: Move, to: int | None = None) -> Act:
    return lambda world: world.move(move, to)


# Every operation is tried with `make proofs`, every seventh without.
STRIDE = 1 if os.environ.get("GATEHOUSE_FULL_RACES") else 7
EXAMPLES = 1_000 if STRIDE == 1 else 15
BEGIN: tuple[Act, ...] = (lambda world: world.begin(), ticks(), ticks(), ticks())


def answers(candidate: int, baseline: int = 40) -> Act:
    """From now on the evaluation says this; before, it is under way."""

    async def act(world: World) -> None:
        world.works.evaluation = evaluation(candidate, baseline)

    return act


async def begins_with_cases(world: World) -> None:
    world.works.cases = 40
    await world.begin()


EVALUATE: tuple[Act, ...] = (begins_with_cases, ticks(), ticks(), ticks(), ticks())
WAYS: dict[str, tuple[tuple[Act, ...], State]] = {
    "to_the_end": (
        (*BEGIN, sees(GOOD), ticks(60), sees(GOOD), ticks(60), sees(GOOD), ticks(600), ticks()),
        State.FINISHED,
    ),
    "back_by_itself": ((*BEGIN, sees(GOOD), ticks(60), sees(BAD), ticks(), ticks()), State.ROLLED_BACK),
    "by_hand": (
        (*BEGIN, moves(Move.HOLD), moves(Move.RESUME), moves(Move.ADVANCE, 25), moves(Move.ROLL_BACK), ticks()),
        State.ROLLED_BACK,
    ),
    "through_its_evaluation": (
        (*EVALUATE, moves(Move.HOLD), answers(39), ticks(), moves(Move.RESUME), ticks(), ticks(), sees(BAD),
         ticks()),
        State.ROLLED_BACK,
    ),
    "back_by_its_evaluation": ((*EVALUATE, answers(20), ticks(), ticks(), ticks()), State.ROLLED_BACK),
}  # fmt: skip


async def survive(world: World, act: Act) -> bool:
    """Do one thing; if the process ends meanwhile, begin a new one and do it again. True when it did not end."""
    try:
        await act(world)
    except Killed:
        world.start()
        await world.check()
        await act(world)
        return False
    finally:
        await world.check()
    return True


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", WAYS)
async def test_it_goes_on_wherever_its_process_ended(engine: AsyncEngine, way: str, after: bool) -> None:
    acts, end = WAYS[way]
    whole = World(engine, f"{way}-whole")
    for act in acts:
        await act(whole)
    assert (await whole.now()).standing.state is end
    crashes = 0
    points = range(1 + (3 if after else 0), whole.fuse.count + 1, STRIDE)
    for at in points:
        world = World(engine, f"{way}-{after}-{at}", fuse=Fuse(at, after))
        crashes += [await survive(world, act) for act in acts].count(False)
        for _ in range(3):  # an act that was repeated may leave its next step to a tick
            await world.tick()
        assert (await world.now()).standing.state is end, at
        assert world.said() == whole.said(), at
    assert crashes == len(points)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sqlite_url(Path(tmp_path_factory.mktemp("rollout")) / "rollout.db")


@pytest.fixture
async def sqlite(url: str) -> AsyncIterator[AsyncEngine]:
    engine = open_store(url)
    await RolloutStore(engine).open()
    yield engine
    await engine.dispose()


class Names:
    number = 0


ACTS = st.sampled_from([
    ("tick", ticks()), ("wait", ticks(60)), ("window", ticks(600)), ("good", sees(GOOD)), ("bad", sees(BAD)),
    ("hold", moves(Move.HOLD)), ("resume", moves(Move.RESUME)), ("back", moves(Move.ROLL_BACK)),
    ("25", moves(Move.ADVANCE, 25)), ("100", moves(Move.ADVANCE, 100)), ("down", None), ("up", None), ("kill", None),
    ("passes", answers(40)), ("fails", answers(20)),
])  # fmt: skip


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    acts=st.lists(ACTS, max_size=14),
    kills=st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=6),
    cases=st.sampled_from([0, 40]),
)
async def test_nothing_is_in_force_without_its_record_whatever_happens(
    sqlite: AsyncEngine, acts: list[tuple[str, Act | None]], kills: list[tuple[int, bool]], cases: int
) -> None:
    Names.number += 1
    world = World(sqlite, f"any{Names.number}")
    waiting = [*kills]
    world.works.cases = cases
    rollout = await world.until_sliced()
    assert (rollout.standing.state, rollout.share) == ((State.EVAL, 0) if cases else (State.SLICE, 5))
    for name, act in acts:
        if act is None:
            world.audit.down = {"down": True, "up": False}.get(name, world.audit.down)
            if name == "kill" and waiting:
                at, after = waiting.pop()
                world.fuse.at, world.fuse.after = world.fuse.count + at, after
            continue
        try:
            await act(world)
        except Killed:
            world.start()
        except AuditUnavailable:
            assert world.audit.down
        except InvalidRequest:
            assert name in {"hold", "resume", "back", "25", "100"}
        await world.check()
    world.audit.down, world.fuse.at = False, None
    back = (await world.now()).wanted
    for _ in range(2):
        await world.tick()
    await world.check()
    rollout = await world.now()
    assert rollout.pending is None
    assert back is None or rollout.standing.state in {State.ROLLED_BACK, State.FINISHED}
    if not rollout.standing.state.final:  # the next example has the same database
        await world.move(Move.ROLL_BACK)


async def test_two_controllers_decide_nothing_twice(engine: AsyncEngine) -> None:
    world, other = World(engine, "pair"), World(engine, "pair")
    other.clock, other.audit = world.clock, world.audit
    other.start()
    await world.until_sliced()
    await world.see(GOOD, (3, 2000))
    world.clock.advance(60_000)
    for each in (world, other, world, other):
        await each.controller.tick()
    assert [share for _, _, share in world.said()] == [0.0, 0.0, 0.0, 5.0, 25.0]
    # Both begin from the same standing: the one whose number is taken does nothing.
    rollout = await world.now()
    await world.controller._step(rollout, (await world.store.history("ro-pair"))[-1].draft)
    before = await world.now()
    await other.controller._step(rollout, (await world.store.history("ro-pair"))[-1].draft)
    assert await world.now() == before
    assert before.share == 100
    await world.check()
