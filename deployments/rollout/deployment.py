"""`RolloutController`: rollouts as a Serve deployment."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deployments.clients import AuditClient, EngineClient
from deployments.clock import Clock, SystemClock
from deployments.errors import GatehouseError
from deployments.rollout.artefacts import read_key
from deployments.rollout.controller import Controller
from deployments.rollout.evaluating import Evaluator
from deployments.rollout.settings import RolloutSettings
from deployments.rollout.store import RolloutStore
from deployments.rollout.suite import read_suite
from deployments.rollout.works import Deployed, Loader, RevisionWorks
from deployments.rollouts import Artefact, Count, Draft, Kind, Plan, Rollout, Slice, Step
from deployments.store import open_store
from deployments.tasks import Opening, Rounds

_log = logging.getLogger("gatehouse.rollout")
_AUDIT_S = 10.0


class RolloutController:
    """Implements `rollouts.Rollouts`. One replica; that a second one runs for a while, in an update, does no harm.

    `engines`: a handle for each (model, revision) that is deployed, and `deployed` what the configuration says of
    them, and of all else that has revisions. `loaders` load what is no engine's.
    """

    def __init__(
        self,
        audit: Any,
        engines: Mapping[tuple[str, str], Any],
        store_url: str,
        settings: RolloutSettings,
        loaders: Mapping[Kind, Loader],
        deployed: Sequence[Deployed] = (),
        clock: Clock | None = None,
    ) -> None:
        self._store = RolloutStore(open_store(store_url))
        longest_s = max(settings.smoke_timeout_s, settings.eval.timeout_s)
        known = {name: EngineClient(handle, longest_s) for name, handle in engines.items()}
        # A suite that cannot be read stops the start, too: no revision must pass because nobody asked it.
        suite = settings.eval.suite
        evaluator = None if suite is None else Evaluator(read_suite(suite), settings.eval)
        works = RevisionWorks(known, loaders, settings.smoke_prompts, settings.smoke_timeout_s, deployed, evaluator)
        # A key that is set and cannot be read stops the start: unsigned artefacts must not pass instead.
        key = None if settings.artefact_key is None else read_key(Path(settings.artefact_key))
        sink = AuditClient(audit, _AUDIT_S)
        self._controller = Controller(self._store, sink, works, clock or SystemClock(), key)
        self._tick_s = settings.tick_s
        self._opening = Opening(self._begin)
        self._rounds = Rounds()

    async def register(self, artefact: Artefact, actor: str) -> str:
        """Remember an artefact; its revision."""
        return await (await self._open()).register(artefact, actor)

    async def start(self, plan: Plan, actor: str) -> Rollout:
        """Begin a rollout."""
        return await (await self._open()).start(plan, actor)

    async def move(self, rollout_id: str, draft: Draft) -> Rollout:
        """Advance, hold, resume or roll back by hand."""
        return await (await self._open()).move(rollout_id, draft)

    async def get(self, rollout_id: str) -> Rollout:
        """A rollout, or `NotFound`."""
        return await (await self._open()).get(rollout_id)

    async def rollouts(self) -> Sequence[Rollout]:
        """The newest rollouts."""
        return await (await self._open()).rollouts()

    async def history(self, rollout_id: str) -> Sequence[Step]:
        """The steps of a rollout, or `NotFound`."""
        return await (await self._open()).history(rollout_id)

    async def slices(self) -> Sequence[Slice]:
        """How traffic is split now."""
        return await (await self._open()).slices()

    async def observe(self, counts: Sequence[Count]) -> None:
        """Add what was seen."""
        await (await self._open()).observe(counts)

    async def ready(self) -> bool:
        """True when the store answers."""
        return await (await self._open()).ready()

    async def check_health(self) -> None:
        """Raise when the tables could not be opened, or nobody drives the rollouts any more."""
        await self._open()
        self._rounds.check()

    async def close(self) -> None:
        """Stop driving and close the store."""
        await self._opening.close()
        await self._rounds.close()
        await self._controller.close()
        await self._store.close()

    async def _open(self) -> Controller:
        """The controller, its tables made."""
        await self._opening.done()
        return self._controller

    async def _begin(self) -> None:
        await self._store.open()
        self._rounds.begin(self._drive)

    async def _drive(self) -> float:
        try:
            await self._controller.tick()
        except GatehouseError as error:
            _log.error("the rollouts were not looked at: %s", error.code)
        return self._tick_s
