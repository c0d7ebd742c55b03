"""Which revision of what answers a session while one is rolled out, and what is counted of each.

What has revisions is an engine of a model, a model's prompt, the router's snapshot and the gate's policy.

The controller is asked every few seconds. While it does not answer, what it said last holds for a while, and then the
configured revision, which stays deployed until a rollout has finished, answers everybody.
"""

import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from deployments.clock import Clock
from deployments.errors import GatehouseError
from deployments.ports import (
    Approval,
    ApprovalState,
    Engine,
    EngineCall,
    EngineInfo,
    EngineItem,
    ModelId,
    RouteDecision,
    SessionId,
    TenantId,
)
from deployments.rollouts import (
    FAMILIES,
    POLICY_TARGET,
    ROUTER_TARGET,
    Count,
    Family,
    Metric,
    Rollouts,
    Slice,
    Target,
)
from deployments.slices import is_candidates, revision_for

_log = logging.getLogger("gatehouse.ingress")
_MOST_RATED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Choice:
    """The revision that answers. `split`: the rollout that it is counted for, None for none."""

    revision: str
    split: Slice | None = None
    candidate: bool = False


@dataclass(frozen=True, slots=True)
class Choices:
    """What a session gets of all that has several revisions: engines and prompts by model, and what there is one of.

    None, and no entry: there is nothing to choose, or it has no part in the request.
    """

    engines: Mapping[ModelId, Choice] = field(default_factory=dict[ModelId, Choice])
    prompts: Mapping[ModelId, Choice] = field(default_factory=dict[ModelId, Choice])
    router: Choice | None = None
    policy: Choice | None = None

    def of(self, model: ModelId) -> Iterator[Choice]:
        """All that an attempt of a model says something of."""
        for each in (self.engines.get(model), self.prompts.get(model), self.router, self.policy):
            if each is not None:
                yield each


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one request. `failed`: by the engine; None: it says nothing of the engine.

    `ttft_ms` is None while not a byte came, `e2e_ms` the time until its end, whatever ended it; `completed`: as it
    should. `verified` None: nobody checked it.
    """

    failed: bool | None
    completed: bool
    ttft_ms: float | None
    e2e_ms: float
    verified: bool | None = None


class RevisedEngine:
    """Implements `ports.Engine` over the revisions of one model: `configured` for calls that name no deployed one."""

    def __init__(self, revisions: Mapping[str, Engine], configured: str) -> None:
        self._revisions = revisions
        self._configured = revisions[configured]

    def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        """The reply of the revision that the call names."""
        return self._revisions.get(call.revision, self._configured).call(call)

    async def info(self) -> EngineInfo:
        """State of a replica of the configured revision."""
        return await self._configured.info()

    def cold(self) -> bool:
        """True when the configured revision was scaled to zero."""
        return self._configured.cold()


class Revisions:
    """What one ingress replica knows of rollouts."""

    def __init__(
        self,
        rollouts: Rollouts,
        engines: Mapping[ModelId, tuple[str, ...]],
        clock: Clock,
        stale_s: float,
        every_s: float = 2.0,
        others: Mapping[Target, tuple[str, ...]] | None = None,
    ) -> None:
        """`engines`: the revisions of each model that has several, the configured one first; `others`: of the rest.

        The controller is asked every `every_s` seconds; what it said holds for `stale_s` when it falls silent.
        """
        self._rollouts = rollouts
        self._deployed: Mapping[Target, tuple[str, ...]] = {
            **{(Family.ENGINE, str(model)): each for model, each in engines.items()},
            **(others or {}),
        }
        self._clock = clock
        self._stale_s = stale_s
        self._every_s = every_s
        self._splits: Mapping[Target, Slice] = {}
        self._heard_s = -math.inf
        self._rated: dict[str, None] = {}
        self._trials: Counter[tuple[str, int, bool, Metric]] = Counter()
        self._bad: Counter[tuple[str, int, bool, Metric]] = Counter()

    def choose(self, target: Target, tenant: TenantId, session: SessionId) -> Choice | None:
        """The revision for a session; the same for all of its requests while the share does not shrink.

        None for what has one revision.
        """
        deployed = self._deployed.get(target)
        if deployed is None:
            return None
        split = self._splits.get(target)
        if split is None or self._clock.monotonic_s() - self._heard_s > self._stale_s:
            return Choice(deployed[0])
        revision = revision_for(split, tenant, session)
        if revision not in deployed:
            return Choice(deployed[0])
        return Choice(revision, split, is_candidates(split, tenant, session))

    def choices(self, tenant: TenantId, session: SessionId) -> Choices:
        """The revision of each that has several."""
        found = {
            target: choice for target in self._deployed if (choice := self.choose(target, tenant, session)) is not None
        }
        return Choices(
            engines={ModelId(name): each for (family, name), each in found.items() if family is Family.ENGINE},
            prompts={ModelId(name): each for (family, name), each in found.items() if family is Family.PROMPT},
            router=found.get((Family.ROUTER, ROUTER_TARGET)),
            policy=found.get((Family.POLICY, POLICY_TARGET)),
        )

    def count(self, choice: Choice, seen: Seen) -> None:
        """Add a request to the figures of the stage in which it began.

        Whoever gives up has waited for at least so long: a request that was left after its objective was slow, and of
        one that was left before nobody knows.
        """
        split = choice.split
        if split is None:
            return
        if seen.failed is not None:
            self._add(choice, Metric.ERROR, seen.failed)
        if seen.ttft_ms is not None or seen.e2e_ms > split.ttft_ms:
            self._add(choice, Metric.TTFT, seen.ttft_ms is None or seen.ttft_ms > split.ttft_ms)
        if seen.completed or seen.e2e_ms > split.e2e_ms:
            self._add(choice, Metric.E2E, seen.e2e_ms > split.e2e_ms)
        if seen.verified is not None:
            self._add(choice, Metric.VERIFIER, not seen.verified)

    def rated(self, decision: RouteDecision, turn: str, bad: bool) -> None:
        """Somebody said whether an answer was bad. A turn is one trial: who says it again does not outvote others."""
        revisions: dict[Target, str] = {
            (Family.ENGINE, decision.model): decision.revision,
            (Family.PROMPT, decision.model): decision.prompt_revision,
            (Family.ROUTER, ROUTER_TARGET): decision.router_revision,
            (Family.POLICY, POLICY_TARGET): decision.policy_revision,
        }
        found = [
            Choice(revision, split, revision == split.revision)
            for target, revision in revisions.items()
            if target in self._deployed
            and (split := self._splits.get(target)) is not None
            and revision in (split.revision, split.previous_revision)
        ]
        if found and self._is_new(turn):
            for choice in found:
                self._add(choice, Metric.FEEDBACK, bad)

    def decided(self, approval: Approval) -> None:
        """Humans have decided about a held call: one that they let go as it was need not have been held.

        A call that was held before the present stage says nothing of it.
        """
        proposal, state = approval.proposal, approval.state
        found = [
            choice
            for choice in self.choices(proposal.tenant, proposal.session).of(proposal.model)
            if choice.split is not None and approval.created_ms >= choice.split.since_ms
        ]
        if state not in (ApprovalState.APPROVED, ApprovalState.REJECTED) or not found:
            return
        if self._is_new(approval.approval_id):
            for choice in found:
                self._add(choice, Metric.FALSE_HOLD, state is ApprovalState.APPROVED)

    async def look(self) -> None:
        """Hand over what was counted, and hear how traffic is split now. Silence is logged and borne."""
        counts = [Count(*key, trials, self._bad[key]) for key, trials in self._trials.items()]
        # What is in doubt is left out, not sent twice: it is missing of both revisions alike.
        self._trials.clear()
        self._bad.clear()
        try:
            if counts:
                await self._rollouts.observe(counts)
            self._hear(await self._rollouts.slices())
        except GatehouseError as error:
            _log.warning("the rollout controller does not answer: %s", error.code)

    async def round(self) -> float:
        """Look once; seconds until it is worth to look again."""
        await self.look()
        return self._every_s

    def _hear(self, splits: Iterable[Slice]) -> None:
        self._splits = {(FAMILIES[each.kind], each.target): each for each in splits}
        self._heard_s = self._clock.monotonic_s()

    def _is_new(self, said_of: str) -> bool:
        """False for what was said of it before, as far as this replica remembers."""
        if said_of in self._rated:
            return False
        self._rated[said_of] = None
        if len(self._rated) > _MOST_RATED:
            del self._rated[next(iter(self._rated))]
        return True

    def _add(self, choice: Choice, metric: Metric, bad: bool) -> None:
        split = choice.split
        if split is None or (split.share == 0 and not split.shadow):
            return  # nothing is compared before there is something of both
        key = (split.rollout_id, split.share, choice.candidate, metric)
        self._trials[key] += 1
        self._bad[key] += bad
