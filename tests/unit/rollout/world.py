"""A controller over a database, whose process ends wherever a test says."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.clock import FixedClock
from deployments.errors import InvalidRequest
from deployments.ports import AuditEvent
from deployments.rollout.controller import Controller, Smoke
from deployments.rollout.evaluating import Evaluation
from deployments.rollout.paired import compare
from deployments.rollout.plan import revision_of
from deployments.rollout.store import RolloutStore
from deployments.rollout.telling import rules_digest
from deployments.rollouts import Artefact, Bound, Count, Draft, Kind, Metric, Move, Plan, Rollout, Rules
from tests.fakes_audit import InMemoryAudit

RULES = Rules(
    min_s=60, deadline_s=3_600, window_s=600, design_effect=1.0, bounds=(Bound(Metric.ERROR, 0.01, 0.05, 50),)
)
ROOT, CHANGE = "key_root", "CHG-1"


def evaluation(candidate: int, baseline: int, cases: int = 40, min_pass: float = 0.0) -> Evaluation:
    """So many cases passed by each; whoever passed fewer passed none that the other did not."""
    names = [f"case-{number}" for number in range(cases)]

    def passed(count: int) -> dict[str, bool]:
        return {name: number < count for number, name in enumerate(names)}

    families = {name: ("code", "json")[number % 2] for number, name in enumerate(names)}
    return Evaluation(compare(passed(candidate), passed(baseline), families), "5" * 64, min_pass)


class Killed(BaseException):
    """The process ended."""


@dataclass
class Fuse:
    """Ends the process at the operation of this number, before it is done or after; `None`: never."""

    at: int | None = None
    after: bool = False
    count: int = 0

    def before_it(self) -> None:
        self.count += 1
        if self.count == self.at and not self.after:
            raise Killed

    def after_it(self) -> None:
        if self.count == self.at and self.after:
            raise Killed


class Fused:
    """Hands every call on to `of`, and has a fuse around each."""

    def __init__(self, of: object, fuse: Fuse) -> None:
        self._of, self._fuse = of, fuse

    def __getattr__(self, name: str) -> Any:
        if not inspect.iscoroutinefunction(getattr(self._of, name)):
            return getattr(self._of, name)  # asks nobody

        async def call(*args: Any) -> Any:
            self._fuse.before_it()
            found = await getattr(self._of, name)(*args)
            self._fuse.after_it()
            return found

        return call


@dataclass
class ScriptedWorks:
    """Implements `controller.Works`."""

    loaded: bool = True
    failed: tuple[str, ...] = ()
    smoked: int = 0

    missing: bool = False
    cases: int = 0
    evaluation: Evaluation | None = None
    evaluated: int = 0
    asking: bool = False
    configured: str | None = None
    refuses: str | None = None

    def base(self, plan: Plan) -> str | None:
        del plan
        return self.configured

    def refuse(self, plan: Plan, artefact: Artefact) -> None:
        assert plan.revision == revision_of(artefact)
        if self.refuses is not None:
            raise InvalidRequest(self.refuses, "revision")

    def gone(self, plan: Plan) -> bool:
        del plan
        return self.missing

    async def warm(self, artefact: Artefact, revision: str) -> bool:
        assert revision == revision_of(artefact)
        return self.loaded

    async def smoke(self, artefact: Artefact, revision: str) -> Smoke:
        assert revision == revision_of(artefact)
        self.smoked += 1
        return Smoke(3, self.failed)

    def eval_cases(self, plan: Plan) -> int:
        return min(self.cases, plan.eval_cases or 40)

    async def evaluate(self, plan: Plan, artefact: Artefact) -> Evaluation | None:
        assert plan.revision == revision_of(artefact)
        self.evaluated += 1
        if self.cases == 0:
            raise InvalidRequest("there is no evaluation suite any more")
        begun, self.asking = self.asking, True
        return self.evaluation if begun else None  # a process that begins anew asks again


@dataclass
class World:
    """One target's rollout. `name` keeps worlds apart that share a database."""

    engine: AsyncEngine
    name: str
    clock: FixedClock = field(default_factory=FixedClock)
    audit: InMemoryAudit = field(default_factory=InMemoryAudit)
    works: ScriptedWorks = field(default_factory=ScriptedWorks)
    fuse: Fuse = field(default_factory=Fuse)
    shadow: bool = False

    def __post_init__(self) -> None:
        self.store = RolloutStore(self.engine)
        self.artefact = Artefact(Kind.ENGINE, self.name, settings='{"max_num_seqs":8}')
        self.start()

    def start(self) -> None:
        """A process that knows nothing but what is in the database."""
        self.works.asking = False
        self.controller = Controller(
            cast(RolloutStore, Fused(self.store, self.fuse)),
            cast(InMemoryAudit, Fused(self.audit, self.fuse)),
            cast(ScriptedWorks, Fused(self.works, self.fuse)),
            self.clock,
        )

    @property
    def plan(self) -> Plan:
        previous = hashlib.sha256(b"before").hexdigest()
        return Plan(
            f"ro-{self.name}", Kind.ENGINE, self.name, revision_of(self.artefact), previous, CHANGE,
            shadow=self.shadow, rules=RULES,
        )  # fmt: skip

    async def begin(self) -> Rollout:
        await self.controller.register(self.artefact, ROOT)
        return await self.controller.start(self.plan, ROOT)

    async def move(self, move: Move, to: int | None = None) -> Rollout:
        return await self.controller.move(self.plan.rollout_id, Draft(move, ROOT, "CHG-2", "by hand", to=to))

    async def tick(self, seconds: int = 0) -> Rollout:
        self.clock.advance(seconds * 1000)
        await self.controller.tick()
        return await self.now()

    async def now(self) -> Rollout:
        found = await self.store.get(self.plan.rollout_id)
        assert found is not None
        return found

    async def until_sliced(self) -> Rollout:
        await self.begin()
        for _ in range(3):
            await self.tick()
        return await self.now()

    async def see(self, candidate: tuple[int, int], baseline: tuple[int, int], share: int | None = None) -> None:
        """Bad requests and all of them, of both revisions, in the present stage."""
        share = (await self.now()).standing.share if share is None else share
        told = [
            Count(self.plan.rollout_id, share, side, Metric.ERROR, trials, bad)
            for side, (bad, trials) in ((True, candidate), (False, baseline))
        ]
        await self.store.count(told)  # not a step of the controller

    def events(self) -> Sequence[AuditEvent]:
        return [each for each in self.audit.events if each.data.get("rollout_id") == self.plan.rollout_id]

    def said(self) -> list[tuple[str, object, object]]:
        return [
            (each.name.removeprefix("rollout."), each.data["state"], each.data["share_percent"])
            for each in self.events()
        ]

    async def check(self) -> None:
        """What must hold whenever one looks: nothing is in force that is not on record, and nothing is twice."""
        rollout, steps = await self.store.get(self.plan.rollout_id), await self.store.history(self.plan.rollout_id)
        if rollout is None:
            assert not steps
            assert not self.events()
            return
        assert [each.after.number for each in steps] == list(range(1, len(steps) + 1))
        in_force = [each for each in steps if each.after.number <= rollout.standing.number]
        assert all(each.record is not None for each in in_force)
        assert len(steps) - len(in_force) <= 1
        if in_force:
            assert rollout.standing == in_force[-1].after
        events = self.events()
        assert len(in_force) <= len(events) <= len(steps)
        for step, event in zip(steps, events, strict=False):
            assert event.event_id == f"rollout:{self.plan.rollout_id}:{step.after.number}"
            assert event.data["share_percent"] == step.after.share
            assert event.data["change_id"] == step.draft.change_id
            assert json.loads(step.told).items() <= event.data.items()
            assert event.data["rules_digest"] == rules_digest(rollout.plan)
            assert step.record is None or self.audit.events[step.record] == event
        [split] = [each for each in await Controller(self.store, self.audit, self.works, self.clock).slices()
                   if each.target == self.name] or [None]  # fmt: skip
        recorded = max((each.data["share_percent"] for each in events), default=0, key=float)
        assert split is None or split.share <= float(cast(float, recorded))
        assert split is None or rollout.wanted is None or split.share == 0
