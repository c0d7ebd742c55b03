import asyncio
import json
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.errors import AuditUnavailable, InvalidRequest, NotFound
from deployments.rollout.controller import Controller
from deployments.rollouts import Artefact, Kind, Metric, Move, State
from tests.unit.rollout.world import ROOT, ScriptedWorks, World


async def test_a_good_revision_gets_everything_step_by_step(engine: AsyncEngine) -> None:
    world = World(engine, "good")
    assert (await world.until_sliced()).share == 5
    await world.see((1, 400), (10, 4000))
    assert (await world.tick(30)).share == 5  # the stage is young
    assert (await world.tick(30)).share == 25
    assert (await world.tick(60)).share == 25  # figures of another stage are no figures of this one
    await world.see((4, 1500), (12, 4500))
    assert (await world.tick()).standing.state is State.WATCH
    await world.see((10, 2000), (0, 0))
    assert (await world.tick(599)).standing.state is State.WATCH
    assert (await world.tick(1)).standing.state is State.FINISHED
    assert world.said() == [
        ("started", "registered", 0.0), ("promoted", "warming", 0.0), ("promoted", "smoke", 0.0),
        ("promoted", "slice", 5.0), ("promoted", "slice", 25.0), ("promoted", "watch", 100.0),
        ("finished", "finished", 100.0),
    ]  # fmt: skip
    [split] = await world.controller.slices()
    assert (split.revision, split.share) == (world.plan.revision, 100)
    promoted = (await world.store.history(world.plan.rollout_id))[5]
    assert json.loads(promoted.draft.evidence)["metrics"]["error"]["candidate"] == [4, 1500]
    await world.check()


@pytest.mark.parametrize("share", [5, 25, 100])
async def test_a_bad_revision_goes_back_by_itself_in_every_stage(engine: AsyncEngine, share: int) -> None:
    world = World(engine, "bad")
    rollout = await world.until_sliced()
    while rollout.share < share:
        await world.see((2, 1000), (10, 5000))
        rollout = await world.tick(60)
    await world.see((60, 200), (10, 5000))
    rollout = await world.tick(1)
    assert (rollout.standing.state, rollout.share, rollout.wanted) == (State.ROLLED_BACK, 0, None)
    last = world.events()[-1]
    assert (last.name, last.principal, last.data["change_id"]) == ("rollout.rolled_back", "system", "CHG-1")
    assert "worse: error 60/200 against" in str(last.data["reason"])
    assert await world.controller.slices() == []
    await world.check()


async def test_what_does_not_load_or_answer_gets_no_traffic(engine: AsyncEngine) -> None:
    dumb, late = World(engine, "dumb"), World(engine, "late")
    dumb.works.failed = ("arithmetic",)
    assert (await dumb.until_sliced()).standing.state is State.ROLLED_BACK
    assert "1 of 3 smoke prompts failed: arithmetic" in str(dumb.events()[-1].data["reason"])
    late.works.loaded = False
    assert (await late.until_sliced()).standing.state is State.WARMING
    assert (await late.tick(3_600)).standing.state is State.ROLLED_BACK
    assert late.works.smoked == 0


async def test_too_little_evidence_is_a_hold_and_a_hold_waits_for_somebody(engine: AsyncEngine) -> None:
    world = World(engine, "slow")
    await world.until_sliced()
    await world.see((0, 10), (0, 1000))
    rollout = await world.tick(3_600)
    assert (rollout.standing.held, rollout.share) == (True, 5)
    await world.see((0, 2000), (0, 5000))
    assert (await world.tick(60)).share == 5  # good figures do not end it
    assert (await world.move(Move.RESUME)).standing.held is False
    assert (await world.tick(60)).share == 25
    assert world.said()[4:6] == [("held", "held", 5.0), ("promoted", "slice", 5.0)]
    await world.check()


async def test_a_hold_does_not_keep_a_bad_revision(engine: AsyncEngine) -> None:
    world = World(engine, "held")
    await world.until_sliced()
    await world.move(Move.HOLD)
    await world.see((50, 100), (0, 1000))
    assert (await world.tick()).standing.state is State.ROLLED_BACK


async def test_moves_by_hand_are_made_once(engine: AsyncEngine) -> None:
    world = World(engine, "hand")
    with pytest.raises(InvalidRequest, match="not registered|registered"):
        await world.controller.start(world.plan, ROOT)
    await world.begin()
    assert await world.begin() == await world.now()
    with pytest.raises(InvalidRequest, match="no next share"):
        await world.move(Move.ADVANCE, to=5)  # past the smoke prompts
    for _ in range(3):
        await world.tick()
    with pytest.raises(InvalidRequest, match="next share is 25"):
        await world.move(Move.ADVANCE, to=100)
    for _ in range(2):
        assert (await world.move(Move.ADVANCE, to=25)).share == 25
        assert (await world.move(Move.HOLD)).standing.held
        assert not (await world.move(Move.RESUME)).standing.held
    for _ in range(2):
        assert (await world.move(Move.ROLL_BACK)).standing.state is State.ROLLED_BACK
    with pytest.raises(InvalidRequest):
        await world.move(Move.HOLD)
    assert len(world.events()) == 10
    assert world.events()[-1].principal == ROOT
    assert world.events()[-1].data["change_id"] == "CHG-2"
    await world.check()


async def test_one_rollout_of_a_target_at_a_time_and_from_what_is_in_force(engine: AsyncEngine) -> None:
    world = World(engine, "one")
    await world.begin()
    second = replace(world.plan, rollout_id="ro-second")
    with pytest.raises(InvalidRequest, match="has not ended"):
        await world.controller.start(second, ROOT)
    with pytest.raises(InvalidRequest, match="another rollout of this id"):
        await world.controller.start(replace(world.plan, shadow=True), ROOT)
    for _ in range(3):
        await world.tick()
    await world.move(Move.ADVANCE, to=25)
    await world.move(Move.ADVANCE, to=100)
    assert (await world.tick(600)).standing.state is State.FINISHED
    with pytest.raises(InvalidRequest, match="way back was given up"):
        await world.move(Move.ROLL_BACK)
    back = replace(second, revision=world.plan.previous_revision, previous_revision=world.plan.revision)
    with pytest.raises(InvalidRequest, match="registered"):
        await world.controller.start(back, ROOT)
    other = replace(world.artefact, settings='{"max_num_seqs":16}')
    revision = await world.controller.register(other, ROOT)
    with pytest.raises(InvalidRequest, match="revision in force"):
        await world.controller.start(replace(second, revision=revision), ROOT)
    await world.controller.start(replace(second, revision=revision, previous_revision=world.plan.revision), ROOT)
    [split] = await world.controller.slices()
    assert (split.share, split.previous_revision) == (0, world.plan.revision)


async def test_what_cannot_take_a_share_is_refused_before_it_begins(engine: AsyncEngine) -> None:
    world = World(engine, "unfit")
    world.works.refuses = "No candidate has this revision."
    with pytest.raises(InvalidRequest, match="No candidate"):
        await world.begin()
    assert await world.store.get(world.plan.rollout_id) is None
    assert not world.events()
    world.works.refuses, world.works.configured = None, "another"
    with pytest.raises(InvalidRequest, match="revision in force is another"):
        await world.begin()
    world.works.configured = world.plan.previous_revision
    begun = await world.begin()
    world.works.refuses = "It was taken away."
    assert await world.begin() == begun  # said again, it is answered as it is


async def test_a_revision_that_left_the_configuration_goes_back(engine: AsyncEngine) -> None:
    world = World(engine, "left")
    await world.until_sliced()
    world.works.missing = True
    assert (await world.tick()).standing.state is State.ROLLED_BACK
    assert "not in the configuration any more" in str(world.events()[-1].data["reason"])
    await world.check()


async def test_what_the_configuration_has_made_lasting_is_not_said_to_go_back(engine: AsyncEngine) -> None:
    world = World(engine, "lasting")
    await world.until_sliced()
    world.works.configured = world.plan.revision
    await world.see((60, 200), (0, 1000))
    rollout = await world.tick(1)
    assert (rollout.standing.state, rollout.standing.held, rollout.share) == (State.SLICE, True, 5)
    assert "there is no way back" in str(world.events()[-1].data["reason"])
    with pytest.raises(InvalidRequest, match="no way back"):
        await world.move(Move.ROLL_BACK)
    world.works.configured = world.plan.previous_revision
    assert (await world.tick()).standing.state is State.ROLLED_BACK


async def test_one_that_takes_long_to_load_keeps_no_other_from_going_back(engine: AsyncEngine) -> None:
    slow, bad = World(engine, "slow"), World(engine, "bad")
    await bad.until_sliced()
    await slow.begin()
    assert (await slow.tick()).standing.state is State.WARMING
    await bad.see((60, 200), (0, 1000))
    loading = asyncio.Event()
    works = Loading(loading)
    ticking = asyncio.create_task(Controller(slow.store, slow.audit, works, slow.clock).tick())
    while (await bad.now()).standing.state is not State.ROLLED_BACK:
        assert not ticking.done()
        await asyncio.sleep(0.01)
    loading.set()
    await ticking
    assert (await slow.now()).standing.state is State.SMOKE


class Loading(ScriptedWorks):
    """Loads when it is told to."""

    def __init__(self, done: asyncio.Event) -> None:
        super().__init__()
        self.done = done

    async def warm(self, artefact: Artefact, revision: str) -> bool:
        await self.done.wait()
        return await super().warm(artefact, revision)


async def test_a_rollback_takes_the_traffic_away_while_the_log_is_down(engine: AsyncEngine) -> None:
    world = World(engine, "mute")
    await world.until_sliced()
    world.audit.down = True
    await world.see((0, 2000), (0, 5000))
    await world.tick(60)
    assert (await world.now()).share == 5  # what is given waits for its record
    with pytest.raises(AuditUnavailable):
        await world.move(Move.ROLL_BACK)
    [split] = await world.controller.slices()
    assert split.share == 0
    await world.check()
    world.audit.down = False
    for _ in range(2):
        rollout = await world.tick()
    assert rollout.standing.state is State.ROLLED_BACK
    assert [name for name, _, _ in world.said()][-2:] == ["promoted", "rolled_back"]
    assert world.events()[-1].principal == ROOT
    await world.check()


async def test_the_shadow_comes_before_traffic(engine: AsyncEngine) -> None:
    world = World(engine, "shadow", shadow=True)
    rollout = await world.until_sliced()
    assert (rollout.standing.state, rollout.share) == (State.SHADOW, 0)
    assert (await world.tick(60)).share == 5
    worse = World(engine, "worse", shadow=True)
    await worse.until_sliced()
    await worse.see((50, 100), (1, 100))
    assert (await worse.tick(60)).standing.state is State.ROLLED_BACK


async def test_an_unknown_rollout_is_not_found(engine: AsyncEngine) -> None:
    world = World(engine, "none")
    with pytest.raises(NotFound):
        await world.controller.get("ro-none")
    with pytest.raises(NotFound):
        await world.controller.history("ro-none")
    assert await world.controller.rollouts() == []
    assert await world.controller.ready()


async def test_counts_that_cannot_be_are_refused(engine: AsyncEngine) -> None:
    world = World(engine, "odd")
    await world.until_sliced()
    await world.see((1, 10), (0, 0), share=25)
    assert await world.store.figures(world.plan.rollout_id, 25) == {}
    await world.see((1, 10), (0, 90))
    await world.see((1, 10), (0, 90))
    found = (await world.store.figures(world.plan.rollout_id, 5))[Metric.ERROR]
    assert (found[True].trials, found[True].bad, found[False].trials) == (20, 2, 180)
    assert world.plan.kind is Kind.ENGINE
