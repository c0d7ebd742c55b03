"""Which revision of a model answers a session while one is rolled out, and what is counted of each.

The controller is asked every few seconds. While it does not answer, what it said last holds for a while, and then the
configured revision, which stays deployed until a rollout has finished, answers everybody.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from deployments.clock import Clock
from deployments.errors import GatehouseError
from deployments.ports import Engine, EngineCall, EngineInfo, EngineItem, ModelId, SessionId, TenantId
from deployments.rollouts import Count, Kind, Metric, Rollouts, Slice
from deployments.slices import is_candidates, revision_for

_log = logging.getLogger("gatehouse.ingress")
_OF_ENGINES: Final = frozenset({Kind.MODEL, Kind.ENGINE})


@dataclass(frozen=True, slots=True)
class Choice:
    """The revision that answers. `split`: the rollout that it is counted for, None for none."""

    revision: str
    split: Slice | None = None
    candidate: bool = False


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
    """What one ingress replica knows of rollouts of models."""

    def __init__(
        self, rollouts: Rollouts, deployed: Mapping[ModelId, tuple[str, ...]], clock: Clock, stale_s: float
    ) -> None:
        """`deployed`: the revisions of each model, the configured one first."""
        self._rollouts = rollouts
        self._deployed = deployed
        self._clock = clock
        self._stale_s = stale_s
        self._splits: Mapping[str, Slice] = {}
        self._heard_s = -math.inf
        self._trials: Counter[tuple[str, int, bool, Metric]] = Counter()
        self._bad: Counter[tuple[str, int, bool, Metric]] = Counter()

    def choose(self, model: ModelId, tenant: TenantId, session: SessionId) -> Choice:
        """The revision for a session; the same for all of its requests while the share does not shrink."""
        configured, *others = self._deployed[model]
        split = self._splits.get(model)
        if split is None or not others or self._clock.monotonic_s() - self._heard_s > self._stale_s:
            return Choice(configured)
        revision = revision_for(split, tenant, session)
        if revision not in self._deployed[model]:
            return Choice(configured)
        return Choice(revision, split, is_candidates(split, tenant, session))

    def count(self, choice: Choice, seen: Seen) -> None:
        """Add a request to the figures of the stage in which it began.

        Whoever gives up has waited for at least so long: a request that was left after its objective was slow, and of
        one that was left before nobody knows.
        """
        split = choice.split
        if split is None:
            return
        if seen.failed is not None:
            self._add(choice, split, Metric.ERROR, seen.failed)
        if seen.ttft_ms is not None or seen.e2e_ms > split.ttft_ms:
            self._add(choice, split, Metric.TTFT, seen.ttft_ms is None or seen.ttft_ms > split.ttft_ms)
        if seen.completed or seen.e2e_ms > split.e2e_ms:
            self._add(choice, split, Metric.E2E, seen.e2e_ms > split.e2e_ms)
        if seen.verified is not None:
            self._add(choice, split, Metric.VERIFIER, not seen.verified)

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

    async def run(self, every_s: float) -> None:
        """Look for ever, with a pause between two looks."""
        while True:
            await self.look()
            await asyncio.sleep(every_s)

    def _hear(self, splits: Iterable[Slice]) -> None:
        self._splits = {each.target: each for each in splits if each.kind in _OF_ENGINES}
        self._heard_s = self._clock.monotonic_s()

    def _add(self, choice: Choice, split: Slice, metric: Metric, bad: bool) -> None:
        key = (split.rollout_id, split.share, choice.candidate, metric)
        self._trials[key] += 1
        self._bad[key] += bad
