"""The ingress's side: who answers, and what is counted; against the real controller where figures matter."""

import json
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.clock import FixedClock
from deployments.errors import PartUnavailable
from deployments.ingress.revisions import Choice, RevisedEngine, Revisions, Seen
from deployments.ports import (
    Approval,
    ApprovalId,
    ApprovalState,
    EngineCall,
    ModelId,
    RequestId,
    SessionId,
    TenantId,
)
from deployments.rollout.controller import Controller
from deployments.rollouts import POLICY_TARGET, ROUTER_TARGET, Count, Family, Kind, Metric, Slice, State
from tests.api.test_approvals_api import proposal
from tests.fakes import JSON_START, ScriptedEngine
from tests.unit.rollout.world import World

MODEL, TENANT = ModelId("demo-20b"), TenantId("acme")
TARGET = (Family.ENGINE, MODEL)
SPLIT = Slice("ro-1", Kind.MODEL, MODEL, "new", "old", 25, ttft_ms=1_000, e2e_ms=5_000)
SESSIONS = [SessionId(f"s{number}") for number in range(400)]
GOOD = Seen(failed=False, completed=True, ttft_ms=100, e2e_ms=900)


class Telling(Controller):
    """Says what it is told to say, and remembers what it is told."""

    def __init__(self, *splits: Slice) -> None:
        self.splits: Sequence[Slice] = splits
        self.told: list[Count] = []
        self.down = False

    async def slices(self) -> Sequence[Slice]:
        if self.down:
            raise PartUnavailable("down")
        return self.splits

    async def observe(self, counts: Sequence[Count]) -> None:
        if self.down:
            raise PartUnavailable("down")
        self.told += counts


def revisions(telling: Controller, clock: FixedClock, *deployed: str) -> Revisions:
    return Revisions(telling, {MODEL: deployed or ("old", "new")}, clock, 60.0)


def chosen(of: Revisions) -> dict[str, int]:
    found = [of.choose(TARGET, TENANT, session).revision for session in SESSIONS]
    return {revision: found.count(revision) for revision in set(found)}


async def test_sessions_are_split_as_the_controller_says() -> None:
    clock, telling = FixedClock(), Telling(SPLIT)
    here = revisions(telling, clock)
    assert chosen(here) == {"old": 400}  # nothing was heard yet
    await here.look()
    split = chosen(here)
    assert 60 < split["new"] < 140
    telling.splits = [replace(SPLIT, share=100)]
    await here.look()
    assert chosen(here) == {"new": 400}
    telling.splits = []
    await here.look()
    assert chosen(here) == {"old": 400}


async def test_a_controller_that_is_silent_leaves_the_configured_revision() -> None:
    clock, telling = FixedClock(), Telling(replace(SPLIT, share=100))
    here = revisions(telling, clock)
    await here.look()
    telling.down = True
    clock.advance(60_000)
    await here.look()
    assert chosen(here) == {"new": 400}
    clock.advance(1)
    assert chosen(here) == {"old": 400}


async def test_what_is_not_deployed_answers_nobody() -> None:
    for deployed in (("old",), ("other", "third")):
        here = revisions(Telling(replace(SPLIT, share=100)), FixedClock(), *deployed)
        await here.look()
        assert chosen(here) == {deployed[0]: 400}
    policy = revisions(Telling(replace(SPLIT, kind=Kind.POLICY, share=100)), FixedClock())
    await policy.look()
    assert chosen(policy) == {"old": 400}


async def test_a_call_reaches_the_revision_that_it_names() -> None:
    old, new = (ScriptedEngine([JSON_START, name]) for name in (b"old", b"new"))
    engine = RevisedEngine({"old": old, "new": new}, "old")
    call = EngineCall("/v1/chat/completions", {}, b"{}", RequestId("r"), SessionId("s"))
    for revision, expected in (("new", b"new"), ("old", b"old"), ("", b"old"), ("gone", b"old")):
        items = [item async for item in engine.call(replace(call, revision=revision))]
        assert items == [JSON_START, expected]
    old.is_cold = True
    assert engine.cold()
    assert (await engine.info()).revision == "r1"


async def test_requests_are_counted_once_and_by_what_they_show() -> None:
    telling = Telling(SPLIT)
    here = revisions(telling, FixedClock())
    mine = Choice("new", SPLIT, candidate=True)
    for seen in (
        GOOD,
        replace(GOOD, ttft_ms=1_001, e2e_ms=5_001, verified=False),
        replace(GOOD, failed=True, completed=False, ttft_ms=None),  # failed at once: says nothing of speed
        Seen(None, completed=False, ttft_ms=None, e2e_ms=999),  # left early: says nothing
        Seen(None, completed=False, ttft_ms=None, e2e_ms=1_001),  # left after its objective: slow
        Seen(None, completed=False, ttft_ms=10, e2e_ms=5_001),
    ):
        here.count(mine, seen)
    here.count(Choice("old"), GOOD)  # of no rollout
    await here.look()
    await here.look()
    assert {each.metric: (each.bad, each.trials) for each in telling.told} == {
        Metric.ERROR: (1, 3),
        Metric.TTFT: (2, 4),
        Metric.E2E: (2, 3),
        Metric.VERIFIER: (1, 1),
    }
    assert {(each.rollout_id, each.share, each.candidate) for each in telling.told} == {("ro-1", 25, True)}


async def test_a_bad_revision_is_taken_back_by_what_its_own_sessions_see(engine: AsyncEngine) -> None:
    """Choice, figures, judge and controller together: errors of one revision alone, at 5 % of the sessions."""
    world = World(engine, MODEL)
    await world.until_sliced()
    here = Revisions(world.controller, {MODEL: (world.plan.previous_revision, world.plan.revision)}, world.clock, 60.0)
    await here.look()
    served = 0
    for session in (SessionId(f"s{number}") for number in range(20_000)):
        choice = here.choose(TARGET, TENANT, session)
        served += choice.candidate
        here.count(choice, replace(GOOD, failed=choice.candidate and served % 2 == 0))
        if served and choice.candidate and served % 10 == 0:
            await here.look()
            await world.tick()
            if (await world.now()).standing.state is State.ROLLED_BACK:
                break
    await here.look()
    assert (await world.now()).standing.state is State.ROLLED_BACK
    assert served <= 40
    assert not any(here.choose(TARGET, TENANT, SessionId(f"s{number}")).candidate for number in range(500))
    [figures] = [each.draft.evidence for each in await world.store.history(world.plan.rollout_id)][-1:]
    assert json.loads(figures)["metrics"]["error"]["baseline"][0] == 0


PROMPT = Slice("ro-2", Kind.PROMPT, MODEL, "p2", "p1", 100, since_ms=1_000)
POLICY = Slice("ro-3", Kind.POLICY, POLICY_TARGET, "g2", "configured", 0, since_ms=2_000)
ROUTER = Slice("ro-4", Kind.ROUTER, ROUTER_TARGET, "s2", "configured", 50)
OTHERS = {
    (Family.PROMPT, MODEL): ("p1", "p2"),
    (Family.POLICY, POLICY_TARGET): ("configured", "g2"),
    (Family.ROUTER, ROUTER_TARGET): ("configured", "s2"),
}


async def several(*splits: Slice) -> tuple[Telling, Revisions]:
    telling = Telling(*splits)
    here = Revisions(telling, {MODEL: ("old", "new")}, FixedClock(), 60.0, others=OTHERS)
    await here.look()
    return telling, here


async def test_what_has_revisions_is_chosen_each_by_its_own_rollout() -> None:
    _, here = await several(SPLIT, PROMPT, POLICY, ROUTER)
    found = [here.choices(TENANT, session) for session in SESSIONS]
    assert {each.prompts[MODEL].revision for each in found} == {"p2"}
    assert {each.policy.revision for each in found if each.policy} == {"configured"}
    both = [(each.engines[MODEL].candidate, each.router.candidate) for each in found if each.router]
    assert {*both} == {(True, True), (True, False), (False, True), (False, False)}  # neither's sessions are the other's
    assert [each.split for each in found[0].of(MODEL)] == [SPLIT, PROMPT, ROUTER, POLICY]
    assert [each.split for each in found[0].of(ModelId("other"))] == [ROUTER, POLICY]


async def test_a_decision_of_humans_counts_for_every_rollout_that_the_call_was_part_of() -> None:
    telling, here = await several(PROMPT, replace(POLICY, share=100), ROUTER)
    held = replace(proposal(), model=MODEL, tenant=TENANT)
    approval = Approval(ApprovalId("apr_1"), ApprovalState.APPROVED, held, 1, (), None, None, 1_500, 9_000)
    here.decided(approval)
    here.decided(approval)
    await here.look()
    # The policy's stage began later than the call was held.
    assert {(each.rollout_id, each.metric, each.bad, each.trials) for each in telling.told} == {
        ("ro-2", Metric.FALSE_HOLD, 1, 1),
        ("ro-4", Metric.FALSE_HOLD, 1, 1),
    }
