import asyncio
import hashlib
import json
from dataclasses import replace
from typing import cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.errors import AuditUnavailable, InvalidRequest, NotFound
from deployments.rollout import controller as rollout_controller
from deployments.rollout import store as rollout_store
from deployments.rollout.controller import Controller
from deployments.rollout.evaluating import Evaluation
from deployments.rollout.states import step_of
from deployments.rollouts import Artefact, Draft, Kind, Metric, Move, Plan, State
from tests.unit.rollout.world import ROOT, ScriptedWorks, World, evaluation


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
    await world.see((0, 50), (0, 0))
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


async def test_a_revision_that_has_nothing_to_be_compared_with_goes_back(engine: AsyncEngine) -> None:
    world = World(engine, "lonely")
    world.works.configured = world.plan.previous_revision
    await world.until_sliced()
    assert (await world.tick()).share == 5
    world.works.configured = "third"
    assert (await world.tick()).standing.state is State.ROLLED_BACK
    assert world.events()[-1].data["reason"] == "the configuration has third in the place of the one before"
    await world.check()
    watched = World(engine, "watched")
    await watched.until_sliced()
    for share in (25, 100):
        await watched.move(Move.ADVANCE, to=share)
    watched.works.configured = "third"
    assert (await watched.tick()).standing.state is State.WATCH  # compared with what was counted before


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


async def test_what_was_made_lasting_while_it_was_evaluated_can_go_on_by_hand(engine: AsyncEngine) -> None:
    """It can neither be compared nor go back, and keeps the next one of its target from beginning."""
    world = await evaluating(engine, "caught", shadow=True)
    world.works.configured, world.works.cases = world.plan.revision, 0
    assert (await world.tick()).standing.held
    assert "there is no way back" in str(world.events()[-1].data["reason"])
    with pytest.raises(InvalidRequest, match="next share is 5"):
        await world.move(Move.ADVANCE, to=25)
    for share in (5, 25, 100):
        assert (await world.move(Move.ADVANCE, to=share)).share == share
    assert (await world.tick(599)).standing.state is State.WATCH
    assert (await world.tick(1)).standing.state is State.FINISHED  # nothing counts what has one revision
    assert "the configuration names no other" in str(world.events()[-1].data["reason"])
    await world.check()


async def test_what_nobody_has_seen_in_the_window_does_not_give_up_its_way_back(engine: AsyncEngine) -> None:
    world = World(engine, "unseen")
    await world.until_sliced()
    for _ in range(2):
        await world.see((0, 1000), (2, 4000))
        await world.tick(60)
    await world.see((0, 49), (0, 0))
    rollout = await world.tick(600)
    assert (rollout.standing.state, rollout.standing.held) == (State.WATCH, False)
    rollout = await world.tick(3_000)
    assert (rollout.standing.state, rollout.standing.held) == (State.WATCH, True)
    assert world.events()[-1].data["reason"] == "too little was seen of it by the deadline: error 0/49 against 2/4000"
    await world.see((0, 1), (0, 0))
    await world.move(Move.RESUME)
    assert (await world.tick(600)).standing.state is State.FINISHED
    await world.check()


async def hurried(engine: AsyncEngine, name: str, first: tuple[int, int], second: tuple[int, int]) -> World:
    """Brought to its window by hand, where it only fails; `first`, `second`: of the one before, at 5 and at 25 %."""
    world = World(engine, name)
    await world.until_sliced()
    await world.see((0, 3), first)
    await world.move(Move.ADVANCE, to=25)
    await world.see((0, 1), second)
    await world.move(Move.ADVANCE, to=100)
    await world.see((60, 60), (0, 0))
    return world


async def test_a_bad_revision_goes_back_from_the_window_though_the_stages_were_passed_by_hand(
    engine: AsyncEngine,
) -> None:
    world = await hurried(engine, "hurried", (2, 60), (1, 20))
    assert (await world.tick(1)).standing.state is State.ROLLED_BACK
    # Too few of the newest stage, so those of the one before it as well.
    assert world.events()[-1].data["reason"] == "worse: error 60/60 against 3/80"
    enough = await hurried(engine, "enough", (40, 60), (1, 50))
    await enough.tick(1)
    assert enough.events()[-1].data["reason"] == "worse: error 60/60 against 1/50"


async def test_one_that_has_not_ended_is_shown_however_many_came_later(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_store, "_MOST_SHOWN", 2)
    old = World(engine, "old")
    await old.begin()
    for number in range(3):
        world = World(engine, f"later{number}")
        world.clock.advance(number * 1000 + 1000)
        await world.begin()
        await world.move(Move.ROLL_BACK)
    assert [each.plan.rollout_id for each in await old.controller.rollouts()] == ["ro-later2", "ro-old"]


async def test_large_figures_are_on_record_to_the_last_request(engine: AsyncEngine) -> None:
    world = World(engine, "large")
    await world.until_sliced()
    await world.see((123_457, 1_234_567), (2_345, 2_345_671))
    await world.tick()
    said = world.events()[-1].data
    assert said["reason"] == "worse: error 123457/1234567 against 2345/2345671"
    assert str(said["figures"]).startswith("['error: bad 123457 of 1234567, before 2345 of 2345671; ")


async def test_an_id_that_none_can_have_is_not_found(engine: AsyncEngine) -> None:
    world = World(engine, "ids")
    for name in ("a\0b", "", "a/b", "x" * 129):
        with pytest.raises(NotFound):
            await world.controller.get(name)


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


async def test_one_that_takes_long_is_driven_once_while_others_have_their_turns(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_controller, "_PATIENCE_S", 0.0)
    slow, other = World(engine, "slow"), World(engine, "other")
    await slow.begin()
    while (await slow.tick()).standing.state is not State.WARMING:
        await asyncio.sleep(0.01)
    await slow.controller.close()
    loading = asyncio.Event()
    works = Loading(loading)
    controller = Controller(slow.store, slow.audit, works, slow.clock)
    await other.begin()
    while (await other.now()).standing.state is not State.WARMING:  # its turns come although the other one loads
        await controller.tick()
        await asyncio.sleep(0.01)
    for _ in range(20):
        await controller.tick()
    assert works.begun == 2  # each of them once
    await controller.close()
    loading.set()
    assert (await slow.now()).standing.state is State.WARMING  # who was cut short decided nothing


class Loading(ScriptedWorks):
    """Loads when it is told to."""

    def __init__(self, done: asyncio.Event) -> None:
        super().__init__()
        self.done = done
        self.begun = 0

    async def warm(self, artefact: Artefact, revision: str) -> bool:
        self.begun += 1
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


async def evaluating(engine: AsyncEngine, name: str, shadow: bool = False) -> World:
    """A rollout whose cases are being asked."""
    world = World(engine, name, shadow=shadow)
    world.works.cases = 64
    rollout = await world.until_sliced()
    assert (rollout.standing.state, rollout.share, rollout.plan.eval_cases) == (State.EVAL, 0, 40)
    assert (await world.tick()).standing.state is State.EVAL  # there is more to ask
    return world


async def test_both_revisions_answer_the_cases_before_there_is_traffic(engine: AsyncEngine) -> None:
    shadowed = await evaluating(engine, "shadowed", shadow=True)
    shadowed.works.evaluation = evaluation(38, 40)
    assert (await shadowed.tick()).standing.state is State.SHADOW
    await shadowed.move(Move.ROLL_BACK)  # a controller drives whatever is open in its database
    world = await evaluating(engine, "asked")
    world.works.evaluation = evaluation(38, 40)
    assert (await world.tick()).share == 5
    step = (await world.store.history(world.plan.rollout_id))[-1]
    assert step.draft.reason == "not shown to be worse: eval 38/40 against 40/40, p 0.25"
    said = json.loads(step.draft.evidence)["eval"]
    assert (said["cases"], said["only_baseline"], said["families"]["code"]) == (40, 2, [20, 19, 20])
    record = world.events()[-1].data
    assert (record["cases"], record["candidate_passed"], record["baseline_passed"]) == (40, 38, 40)
    assert (record["only_baseline"], record["only_candidate"], record["p_value"]) == (2, 0, 0.25)
    assert record["families"] == ["code: 19 of 20, before 20", "json: 19 of 20, before 20"]
    assert record["suite_digest"] == "5" * 64
    await world.check()


async def test_a_revision_that_answers_worse_gets_no_traffic(engine: AsyncEngine) -> None:
    for name, found, why in (
        ("worse", evaluation(25, 40), "worse: eval 25/40 against 40/40; 15 only by the one before, 0 only by the new "
         "one; p 3.1e-05; in json, code"),
        ("floor", evaluation(28, 29, min_pass=0.75), "the eval cases: 28/40 against 29/40, and at least 75% must be "
         "passed"),
    ):  # fmt: skip
        world = await evaluating(engine, name)
        world.works.evaluation = found
        assert (await world.tick()).standing.state is State.ROLLED_BACK
        assert all(event.data["share_percent"] == 0 for event in world.events())
        assert world.events()[-1].data["reason"] == why
        await world.check()


async def test_an_evaluation_can_be_held_and_taken_back_and_not_passed_over(engine: AsyncEngine) -> None:
    worse = await evaluating(engine, "worse")
    with pytest.raises(InvalidRequest, match="no next share"):
        await worse.move(Move.ADVANCE, to=5)
    assert (await worse.move(Move.HOLD)).standing.held
    worse.works.evaluation = evaluation(20, 40)
    assert (await worse.tick()).standing.state is State.ROLLED_BACK  # a hold keeps nobody from going back
    held = await evaluating(engine, "held")
    await held.move(Move.HOLD)
    held.works.evaluation = evaluation(40, 40)
    assert (await held.tick()).standing.state is State.EVAL
    assert (await held.move(Move.RESUME)).standing.state is State.EVAL
    assert (await held.tick()).share == 5


async def test_a_rollback_does_not_wait_for_the_cases(engine: AsyncEngine) -> None:
    world = await evaluating(engine, "slow")
    works = Asking()
    ticking = asyncio.create_task(Controller(world.store, world.audit, works, world.clock).tick())
    await works.asked.wait()
    assert (await world.move(Move.ROLL_BACK)).standing.state is State.ROLLED_BACK
    assert not ticking.done()
    works.answered.set()
    await ticking
    assert (await world.now()).standing.state is State.ROLLED_BACK  # what came of them is not asked for any more
    await world.check()


class Asking(ScriptedWorks):
    """Its cases are answered when it is told so."""

    def __init__(self) -> None:
        super().__init__(cases=40, evaluation=evaluation(40, 40))
        self.asked, self.answered = asyncio.Event(), asyncio.Event()

    async def evaluate(self, plan: Plan, artefact: Artefact) -> Evaluation | None:
        self.asked.set()
        await self.answered.wait()
        return self.evaluation


async def test_cases_that_cannot_be_asked_are_no_way_into_traffic(engine: AsyncEngine) -> None:
    late = await evaluating(engine, "late")
    assert (await late.tick(3_599)).standing.state is State.EVAL
    assert (await late.tick(1)).standing.state is State.ROLLED_BACK
    assert late.events()[-1].data["reason"] == "its evaluation was not over in 3600 s"
    lost = await evaluating(engine, "lost")
    lost.works.cases = 0
    assert (await lost.tick()).standing.state is State.ROLLED_BACK
    assert "there is no evaluation suite any more" in str(lost.events()[-1].data["reason"])
    lasting = await evaluating(engine, "lasting")
    lasting.works.evaluation, lasting.works.configured = evaluation(20, 40), lasting.plan.revision
    rollout = await lasting.tick()
    assert (rollout.standing.state, rollout.standing.held) == (State.EVAL, True)
    assert "there is no way back" in str(lasting.events()[-1].data["reason"])
    said = len(lasting.events())
    await lasting.tick()
    assert len(lasting.events()) == said  # once


async def test_a_start_that_is_repeated_finds_the_cases_it_began_with(engine: AsyncEngine) -> None:
    world = await evaluating(engine, "again")
    world.works.cases = 10
    assert (await world.begin()).plan.eval_cases == 40
    with pytest.raises(InvalidRequest, match="another rollout of this id"):
        await world.controller.start(replace(world.plan, eval_cases=7), ROOT)


async def test_what_is_recorded_of_a_rollout_is_more_than_its_reason(engine: AsyncEngine) -> None:
    world = World(engine, "told")
    await world.controller.register(replace(world.artefact, change_id="CHG-0", signature="c2lnbmVk"), ROOT)
    registered = world.audit.events[-1]
    assert (registered.name, registered.principal) == ("rollout.registered", ROOT)
    assert registered.data == {
        "kind": "engine", "model": "told", "revision": world.plan.revision, "artefact_files": 0, "artefact_bytes": 0,
        "signed": True, "change_id": "CHG-0",
    }  # fmt: skip
    await world.until_sliced()
    await world.see((60, 200), (10, 5000))
    await world.tick(60)
    started, *_, smoked, last = world.events()
    rules = cast("list[str]", started.data["rules"])
    assert {"shares: 5 25 100", "eval_cases: 0", "false_alarm: 0.01"} <= {*rules}
    assert rules[-1] == "error: slack 0.01, tolerance 0.05, at least 50"
    lines = "".join(f"{line}\n" for line in rules)
    assert {each.data["rules_digest"] for each in world.events()} == {hashlib.sha256(lines.encode()).hexdigest()}
    assert (smoked.data["prompts_asked"], smoked.data["prompts_failed"]) == (3, [])
    assert smoked.data["evaluation"] == "none: there was no evaluation suite when it began"
    [figure] = cast("list[str]", last.data["figures"])
    assert figure.startswith("error: bad 60 of 200, before 10 of 5000; worse ")
    assert "rules" not in last.data


async def test_nothing_is_registered_that_is_not_on_record(engine: AsyncEngine) -> None:
    world = World(engine, "mute")
    world.audit.down = True
    with pytest.raises(AuditUnavailable):
        await world.controller.register(world.artefact, ROOT)
    assert await world.store.artefact(world.plan.revision) is None


async def test_a_step_of_an_earlier_version_is_recorded_as_it_was_written(engine: AsyncEngine) -> None:
    """Its record may be in the log already: another content under its id would be refused for ever."""
    world = World(engine, "older")
    await world.begin()
    rollout = await world.now()
    draft = Draft(Move.ADVANCE, "system", "CHG-1", "its files are what they were", '{"asked": 1, "failed": []}')
    step = step_of(rollout.plan, rollout.standing, draft, world.clock.now_ms())
    assert step is not None
    await world.store.propose(rollout.plan.rollout_id, replace(step, told="{}"))
    await world.tick()
    advanced = world.events()[1]
    assert {"rules_digest", "prompts_asked"} & advanced.data.keys() == set()


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
