"""Asking two revisions the same cases, a few at a time, while users ask too.

What is known of a rollout's cases is kept in memory until all of it is known: a controller that begins anew asks again,
and the step that comes of it has a number that only one has.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from deployments.errors import EngineOverloaded, GatehouseError
from deployments.rollout.cases import Case, Reply
from deployments.rollout.checks import passes
from deployments.rollout.paired import Comparison, compare
from deployments.rollout.settings import EvalSettings
from deployments.rollout.suite import Suite

_log = logging.getLogger("gatehouse.rollout")
_ROUND_S: Final = 10.0  # no case is begun later in a round, for other rollouts wait for their turn
_TRIES: Final = 3
_MOST_ROLLOUTS: Final = 32

Asker = Callable[[Case], Awaitable[Reply]]
"""Asks one revision. A `GatehouseError`: it gave no answer."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of it. `min_pass`: the share that a revision must pass, in [0, 1]."""

    comparison: Comparison
    suite_digest: str
    min_pass: float = 0.0


@dataclass
class _Answers:
    """What is known so far, by case and by whether it is the candidate's."""

    passed: dict[tuple[str, bool], bool] = field(default_factory=dict[tuple[str, bool], bool])
    tries: dict[tuple[str, bool], int] = field(default_factory=dict[tuple[str, bool], int])


class Evaluator:
    """Asks in rounds. One per controller."""

    def __init__(self, suite: Suite, settings: EvalSettings) -> None:
        self._suite = suite
        self._settings = settings
        self._known: dict[str, _Answers] = {}

    def size(self, asked: int | None) -> int:
        """How many cases an evaluation of `asked` has; None: as the settings say."""
        usual = self._settings.cases
        wanted = asked if asked is not None else len(self._suite.cases) if usual == "all" else usual
        return min(wanted, len(self._suite.cases))

    async def round(self, rollout_id: str, count: int, candidate: Asker, baseline: Asker) -> Evaluation | None:
        """Ask what is not known yet, for a while; None when there is more to ask.

        A busy engine says nothing of its revision, and ends the round. One that gives no answer is asked again in two
        more rounds; after that the case has failed, whosever it is.
        """
        cases = self._suite.draw(rollout_id, count)
        known = self._of(rollout_id)
        # A case is asked of both before the next one, so that what an hour changes is the same for both.
        waiting = [
            (case, side, asker)
            for case in cases
            for side, asker in ((True, candidate), (False, baseline))
            if (case.name, side) not in known.passed
        ]
        loop, busy = asyncio.get_running_loop(), asyncio.Event()
        until_s = loop.time() + _ROUND_S
        queue = iter(waiting)

        async def work() -> None:
            for case, side, asker in queue:
                if busy.is_set() or loop.time() >= until_s:
                    return
                await self._one(known, case, side, asker, busy)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.parallel):
                group.create_task(work())
        if any((case.name, side) not in known.passed for case in cases for side in (True, False)):
            return None
        sides: Mapping[bool, dict[str, bool]] = {
            side: {case.name: known.passed[case.name, side] for case in cases} for side in (True, False)
        }
        families = {case.name: case.family for case in cases}
        return Evaluation(compare(sides[True], sides[False], families), self._suite.digest, self._settings.min_pass)

    async def _one(self, known: _Answers, case: Case, side: bool, asker: Asker, busy: asyncio.Event) -> None:
        key = case.name, side
        with suppress(TimeoutError):
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    reply = await asker(case)
            except EngineOverloaded:
                busy.set()
                return
            except GatehouseError as error:
                _log.warning("a case of the evaluation was not answered: %s", error.code)
            else:
                known.passed[key] = passes(case, reply)
                return
        known.tries[key] = known.tries.get(key, 0) + 1
        if known.tries[key] >= _TRIES:
            known.passed[key] = False

    def _of(self, rollout_id: str) -> _Answers:
        """What is known of a rollout; what was known of the oldest ones is forgotten."""
        found = self._known.setdefault(rollout_id, _Answers())
        while len(self._known) > _MOST_ROLLOUTS:
            del self._known[next(iter(self._known))]
        return found
