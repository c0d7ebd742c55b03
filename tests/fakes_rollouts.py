"""Rollouts in memory, on the real rules of plans and states: every step is on record at once."""

from collections.abc import Sequence

from deployments.clock import Clock
from deployments.errors import InvalidRequest, NotFound
from deployments.rollout.plan import check_plan, revision_of
from deployments.rollout.states import CONFLICT, slice_of, step_of
from deployments.rollouts import Artefact, Count, Draft, Move, Plan, Rollout, Slice, Standing, Step


class InMemoryRollouts:
    """Implements `rollouts.Rollouts`. `told` is what was observed. Reads no file and drives nothing by itself."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._artefacts: dict[str, Artefact] = {}
        self._steps: dict[str, list[Step]] = {}
        self.found: dict[str, Rollout] = {}
        self.told: list[Count] = []

    async def register(self, artefact: Artefact, actor: str) -> str:
        del actor
        revision = revision_of(artefact)
        self._artefacts[revision] = artefact
        return revision

    async def start(self, plan: Plan, actor: str) -> Rollout:
        check_plan(plan)
        artefact = self._artefacts.get(plan.revision)
        if artefact is None or (artefact.kind, artefact.target) != (plan.kind, plan.target):
            raise InvalidRequest("No such revision of this target is registered.", "revision")
        known = self.found.get(plan.rollout_id)
        if known is not None:
            if known.plan != plan:
                raise InvalidRequest("There is another rollout of this id.", "rollout_id", CONFLICT)
            return known
        self.found[plan.rollout_id] = Rollout(plan, Standing())
        return self.step(plan.rollout_id, Draft(Move.START, actor, plan.change_id, "asked for"))

    async def move(self, rollout_id: str, draft: Draft) -> Rollout:
        await self.get(rollout_id)
        return self.step(rollout_id, draft)

    async def get(self, rollout_id: str) -> Rollout:
        if rollout_id not in self.found:
            raise NotFound("No such rollout.")
        return self.found[rollout_id]

    async def rollouts(self) -> Sequence[Rollout]:
        return [*reversed(self.found.values())]

    async def history(self, rollout_id: str) -> Sequence[Step]:
        await self.get(rollout_id)
        return self._steps[rollout_id]

    async def slices(self) -> Sequence[Slice]:
        return [slice_of(each) for each in self.found.values() if each.standing.state != "rolled_back"]

    async def observe(self, counts: Sequence[Count]) -> None:
        self.told += counts

    async def ready(self) -> bool:
        return True

    def step(self, rollout_id: str, draft: Draft) -> Rollout:
        """Make a move."""
        now = self.found[rollout_id]
        step = step_of(now.plan, now.standing, draft, self._clock.now_ms())
        if step is not None:
            steps = self._steps.setdefault(rollout_id, [])
            steps.append(Step(step.draft, step.after, step.at_ms, len(steps)))
            self.found[rollout_id] = now = Rollout(now.plan, step.after)
        return now
