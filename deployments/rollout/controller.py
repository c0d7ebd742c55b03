"""What takes rollouts on, step by step. Whatever it was doing when its process ended, the next one finishes.

A step is first a row, then a record in the audit log, then in force. Each of the three may be done again: the row has a
number that only one has, the record an id that only this step has and the content of the row, and what is in force has
the number of the step. A rollback takes the traffic away before all that, with its first row.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from deployments.clock import Clock
from deployments.errors import GatehouseError, InvalidRequest, NotFound
from deployments.ports import Audit, JsonValue
from deployments.rollout import artefacts
from deployments.rollout.evaluating import Evaluation
from deployments.rollout.judge import Pair, Verdict, eval_alarm_share, judge
from deployments.rollout.paired import fine, worse
from deployments.rollout.plan import check_plan, is_rollout_id
from deployments.rollout.states import CONFLICT, event_of, registered, slice_of, step_of
from deployments.rollout.store import RolloutStore, pairs
from deployments.rollout.telling import eval_evidence, judged_evidence
from deployments.rollouts import (
    OF_MODELS,
    Artefact,
    Count,
    Draft,
    Metric,
    Move,
    Plan,
    Rollout,
    Slice,
    Standing,
    State,
    Step,
)
from deployments.tasks import to_its_end

_log = logging.getLogger("gatehouse.rollout")
_T = TypeVar("_T")
_BY_ITSELF = "system"
_PATIENCE_S = 10.0
_NO_WAY_BACK = "the configuration names this revision alone, and another one takes the traffic only by changing it"
_BY_HAND = frozenset({Move.ADVANCE, Move.HOLD, Move.RESUME, Move.ROLL_BACK})


@dataclass(frozen=True, slots=True)
class Smoke:
    """How prompts that a revision must be able to answer went. `failed` names those that did not, none of its words."""

    asked: int
    failed: tuple[str, ...] = ()


class Works(Protocol):
    """What can be done with a revision before it gets traffic. Each may be done again."""

    def base(self, plan: Plan) -> str | None:
        """The revision that the configuration names for the plan's target; None where it names none."""
        ...

    def refuse(self, plan: Plan, artefact: Artefact) -> None:
        """Raise `InvalidRequest` for what cannot take a share of the sessions here."""
        ...

    def gone(self, plan: Plan) -> bool:
        """True when nothing here is the plan's revision any more, so that the one before has all of the traffic."""
        ...

    async def warm(self, artefact: Artefact, revision: str) -> bool:
        """True when the revision is loaded and answers."""
        ...

    async def smoke(self, artefact: Artefact, revision: str) -> Smoke:
        """Try it. A `GatehouseError` says nothing of the revision: it is tried again."""
        ...

    def eval_cases(self, plan: Plan) -> int:
        """How many cases both revisions of a plan are asked, 0: none. `InvalidRequest` when it asks for what is not."""
        ...

    async def evaluate(self, plan: Plan, artefact: Artefact) -> Evaluation | None:
        """Ask both revisions their cases for a while; None when there is more to ask.

        `InvalidRequest` when they cannot be compared any more; of another `GatehouseError` it is tried again.
        """
        ...


Checker = Callable[[Artefact, Ed25519PublicKey | None], str]


class Controller:
    """Implements `ports.Rollouts`. One per database; a second one does no harm, and decides nothing twice."""

    def __init__(
        self,
        store: RolloutStore,
        audit: Audit,
        works: Works,
        clock: Clock,
        key: Ed25519PublicKey | None = None,
        check: Checker = artefacts.check,
    ) -> None:
        """`key`: only what it has signed is rolled out. `check` reads an artefact's files, which takes its time."""
        self._store = store
        self._audit = audit
        self._works = works
        self._clock = clock
        self._key = key
        self._check = check
        self._turn = asyncio.Lock()
        self._driving: dict[str, asyncio.Task[None]] = {}

    async def register(self, artefact: Artefact, actor: str) -> str:
        """Remember an artefact; its revision. `InvalidRequest` when its files or signature are not as it says.

        That it was registered is on record first, each time that it is asked for.
        """
        revision = await asyncio.to_thread(self._check, artefact, self._key)
        await self._audit.append([registered(artefact, revision, self._clock.now_ms(), actor)])
        await to_its_end(self._store.register(revision, artefact, self._clock.now_ms(), actor))
        return revision

    async def start(self, plan: Plan, actor: str) -> Rollout:
        """Begin a rollout; the present one when it began before. `InvalidRequest` when it cannot begin."""
        check_plan(plan)
        artefact = await self._store.artefact(plan.revision)
        if artefact is None or (artefact.kind, artefact.target) != (plan.kind, plan.target):
            raise InvalidRequest("No such revision of this target is registered.", "revision")
        known = await self._store.get(plan.rollout_id)
        if known is None:
            self._works.refuse(plan, artefact)
        if known is not None and plan.eval_cases is None:
            plan = replace(plan, eval_cases=known.plan.eval_cases)  # the settings may have changed since
        else:
            plan = replace(plan, eval_cases=self._works.eval_cases(plan) or None)
        return await self._alone(self._start(plan, actor))

    async def move(self, rollout_id: str, draft: Draft) -> Rollout:
        """Advance, hold, resume or roll back by hand. `NotFound`; `InvalidRequest` for what cannot be done now."""
        if draft.move not in _BY_HAND or not draft.change_id:
            raise InvalidRequest("A rollout is moved under a change.", "change_id")
        if draft.move is Move.ADVANCE and draft.to is None:
            raise InvalidRequest("An advance names the share it leads to.", "to")
        if draft.move is Move.ROLL_BACK:
            rollout = await self.get(rollout_id)
            if self._has_no_way_back(rollout):
                raise InvalidRequest(f"There is no way back: {_NO_WAY_BACK}.", None, CONFLICT)
            return await self._roll_back(rollout, draft)
        return await self._alone(self._move(rollout_id, draft))

    async def get(self, rollout_id: str) -> Rollout:
        """A rollout, or `NotFound`."""
        found = await self._store.get(rollout_id) if is_rollout_id(rollout_id) else None
        if found is None:
            raise NotFound("No such rollout.")
        return found

    async def rollouts(self) -> Sequence[Rollout]:
        """The newest rollouts, the newest first."""
        return await self._store.recent()

    async def history(self, rollout_id: str) -> Sequence[Step]:
        """The steps of a rollout, the oldest first, or `NotFound`."""
        await self.get(rollout_id)
        return await self._store.history(rollout_id)

    async def slices(self) -> Sequence[Slice]:
        """How traffic is split now."""
        return [slice_of(each) for each in await self._store.in_force()]

    async def observe(self, counts: Sequence[Count]) -> None:
        """Add what was seen. What is of another stage than the present one is left out."""
        for each in counts:
            if not 0 <= each.bad <= each.trials:
                raise InvalidRequest("Of some trials at most all are bad.", "bad")
        await to_its_end(self._store.count(counts))

    async def ready(self) -> bool:
        """True when the store answers."""
        await self._store.open_ones()
        return True

    async def tick(self) -> None:
        """Take every open rollout as far as it can go now. What fails is tried at the next tick.

        One that takes longer than ten seconds goes on meanwhile: a revision that loads, or that is asked its cases,
        must not keep another one from going back.
        """
        for each in await self._store.open_ones():
            name = each.plan.rollout_id
            if name not in self._driving:
                self._driving[name] = asyncio.create_task(self._driven(name))
        if self._driving:
            await asyncio.wait(self._driving.values(), timeout=_PATIENCE_S)
        done = [name for name, task in self._driving.items() if task.done()]
        for task in [self._driving.pop(name) for name in done]:
            task.result()

    async def close(self) -> None:
        """End what takes longer. A step that is under way is made to its end."""
        tasks = [*self._driving.values()]
        self._driving.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _driven(self, rollout_id: str) -> None:
        try:
            await self._advance(rollout_id)
        except GatehouseError as error:
            _log.warning("the rollout %s waits: %s", rollout_id, error.code)

    async def _start(self, plan: Plan, actor: str) -> Rollout:
        known = await self._store.get(plan.rollout_id)
        if known is None:
            await self._check_previous(plan)
            first = step_of(
                plan, Standing(), Draft(Move.START, actor, plan.change_id, "asked for"), self._clock.now_ms()
            )
            if first is None or not await self._store.begin(plan, first):
                raise InvalidRequest("Another rollout of this target has not ended.", "target", CONFLICT)
        elif known.plan != plan:
            raise InvalidRequest("There is another rollout of this id.", "rollout_id", CONFLICT)
        return await self._settled(plan.rollout_id)

    async def _check_previous(self, plan: Plan) -> None:
        """What has the traffic now is what a target goes back to: as the configuration says, else as it was left."""
        base = self._works.base(plan)
        if base is not None:
            if base != plan.previous_revision:
                raise InvalidRequest(f"The revision in force is {base[:64]}.", "previous_revision", CONFLICT)
            return
        for each in await self._store.in_force():
            same = (each.plan.kind, each.plan.target) == (plan.kind, plan.target)
            if same and each.standing.state is State.FINISHED and each.plan.revision != plan.previous_revision:
                raise InvalidRequest(
                    f"The revision in force is {each.plan.revision[:12]}.", "previous_revision", CONFLICT
                )

    async def _move(self, rollout_id: str, draft: Draft) -> Rollout:
        while (rollout := await self._settled(rollout_id)).wanted is None:
            if self._step_of(rollout, draft) is None:
                return rollout
            await self._step(rollout, draft)
        raise InvalidRequest("The rollout is on its way back.", None, CONFLICT)

    async def _advance(self, rollout_id: str) -> None:
        rollout = await self._alone(self._settled(rollout_id))
        if rollout.wanted is not None:
            await self._alone(self._step(rollout, rollout.wanted))
            return
        # To load and to try a revision takes long, and nobody's rollback waits for that: should somebody else make a
        # step meanwhile, the one that is decided here has a number that is taken.
        decided = await self._decided(rollout)
        if decided is None:
            return
        if decided.move is Move.ROLL_BACK:
            await self._roll_back(rollout, decided)
        else:
            await self._alone(self._step(rollout, decided))

    async def _decided(self, rollout: Rollout) -> Draft | None:
        """What is to be done next, None: nothing yet."""
        plan, now = rollout.plan, rollout.standing
        if self._works.gone(plan):
            return self._draft(plan, Move.ROLL_BACK, "it is not in the configuration any more")
        base = self._works.base(plan)
        if now.state is not State.WATCH and base not in {None, plan.revision, plan.previous_revision}:
            # Nobody gets the revision before, so that nothing can be compared with it.
            return self._draft(plan, Move.ROLL_BACK, f"the configuration has {base} in the place of the one before")
        match now.state:
            case State.REGISTERED:
                return await self._verified(plan, "its files are what they were")
            case State.WARMING:
                artefact = await self._artefact(plan)
                if await self._works.warm(artefact, plan.revision):
                    return self._draft(plan, Move.ADVANCE, "it is loaded")
                if self._clock.now_ms() - now.since_ms >= plan.rules.warm_s * 1000:
                    return self._draft(plan, Move.ROLL_BACK, f"it did not load in {plan.rules.warm_s} s")
                return None
            case State.SMOKE:
                smoke = await self._works.smoke(await self._artefact(plan), plan.revision)
                said: dict[str, JsonValue] = {"asked": smoke.asked, "failed": [*smoke.failed]}
                if not plan.eval_cases:
                    said["evaluation"] = (
                        "none: there was no evaluation suite when it began"
                        if plan.kind in OF_MODELS
                        else f"none: a revision of kind '{plan.kind.value}' answers nothing"
                    )
                if smoke.failed:
                    why = f"{len(smoke.failed)} of {smoke.asked} smoke prompts failed: {smoke.failed[0]}"
                    return self._draft(plan, Move.ROLL_BACK, why, said)
                return self._draft(plan, Move.ADVANCE, f"{smoke.asked} smoke prompts were answered", said)
            case State.EVAL:
                return await self._evaluated(rollout)
            case State.SHADOW | State.SLICE | State.WATCH:
                return await self._judged(rollout)
            case State.PROPOSED | State.FINISHED | State.ROLLED_BACK:
                return None

    async def _verified(self, plan: Plan, good: str) -> Draft:
        try:
            found = await asyncio.to_thread(self._check, await self._artefact(plan), self._key)
        except InvalidRequest as error:
            return self._draft(plan, Move.ROLL_BACK, error.public_message)
        if found != plan.revision:
            return self._draft(plan, Move.ROLL_BACK, "its files are those of another revision")
        return self._draft(plan, Move.ADVANCE, good)

    async def _evaluated(self, rollout: Rollout) -> Draft | None:
        plan, now = rollout.plan, rollout.standing
        try:
            found = await self._works.evaluate(plan, await self._artefact(plan))
        except InvalidRequest as error:
            return self._back_or_hold(rollout, f"it cannot be evaluated: {error.public_message}", {})
        if found is None:
            if self._clock.now_ms() - now.since_ms < plan.rules.deadline_s * 1000:
                return None
            return self._back_or_hold(rollout, f"its evaluation was not over in {plan.rules.deadline_s} s", {})
        alpha = eval_alarm_share(plan)
        told = eval_evidence(found.comparison, found.suite_digest, alpha)
        reason = worse(found.comparison, alpha, found.min_pass)
        if reason is not None:
            return self._back_or_hold(rollout, reason, told)
        return None if now.held else self._draft(plan, Move.ADVANCE, fine(found.comparison), told)

    def _back_or_hold(self, rollout: Rollout, reason: str, told: Mapping[str, JsonValue]) -> Draft | None:
        """A way back by itself; where there is none it stays, and a human decides."""
        if not self._has_no_way_back(rollout):
            return self._draft(rollout.plan, Move.ROLL_BACK, reason, told)
        if rollout.standing.held:
            return None
        return self._draft(rollout.plan, Move.HOLD, f"{reason}; there is no way back: {_NO_WAY_BACK}", told)

    async def _judged(self, rollout: Rollout) -> Draft | None:
        plan, now = rollout.plan, rollout.standing
        figures = await self._figures(plan, now.share)
        found = judge(plan, now, figures, self._clock.now_ms(), lasting=self._has_no_way_back(rollout))
        move = {
            Verdict.WAIT: None,
            Verdict.HOLD: Move.HOLD,
            Verdict.ROLL_BACK: Move.ROLL_BACK,
            Verdict.PROMOTE: Move.FINISH if now.state is State.WATCH else Move.ADVANCE,
        }[found.verdict]
        if move is Move.ROLL_BACK:
            return self._back_or_hold(rollout, found.reason, judged_evidence(found))
        # Whoever holds a rollout keeps the judge from all but the way back.
        if move is None or now.held:
            return None
        return self._draft(plan, move, found.reason, judged_evidence(found))

    def _has_no_way_back(self, rollout: Rollout) -> bool:
        """True when the configuration has put the new revision in the place of the one before, while this went on."""
        return not rollout.standing.state.final and self._works.base(rollout.plan) == rollout.plan.revision

    async def _figures(self, plan: Plan, share: int) -> Mapping[Metric, Pair]:
        stage = await self._store.figures(plan.rollout_id, share)
        return pairs(stage, stage if share < 100 else await self._store.before_the_window(plan))

    async def _roll_back(self, rollout: Rollout, draft: Draft) -> Rollout:
        """Take the traffic away now; the step follows, even if nothing can be recorded at the moment."""
        plan = rollout.plan
        if step_of(plan, rollout.standing, draft, self._clock.now_ms()) is None:
            return rollout
        await to_its_end(self._store.want(plan.rollout_id, draft))
        return await self._alone(self._back(plan.rollout_id, draft))

    async def _back(self, rollout_id: str, draft: Draft) -> Rollout:
        rollout = await self._settled(rollout_id)
        while rollout.wanted is not None:
            rollout = await self._step(rollout, rollout.wanted)
        # It may have finished just before: then this says that there is no way back.
        step_of(rollout.plan, rollout.standing, draft, self._clock.now_ms())
        return rollout

    async def _step(self, rollout: Rollout, draft: Draft) -> Rollout:
        """Make a move of a rollout that has nothing pending, if it is not made already."""
        step = self._step_of(rollout, draft)
        if step is not None:
            await self._store.propose(rollout.plan.rollout_id, step)
            rollout = await self._settled(rollout.plan.rollout_id)
        return rollout

    def _step_of(self, rollout: Rollout, draft: Draft) -> Step | None:
        lasting = self._has_no_way_back(rollout)
        return step_of(rollout.plan, rollout.standing, draft, self._clock.now_ms(), lasting=lasting)

    async def _settled(self, rollout_id: str) -> Rollout:
        """A rollout whose pending step, if there was one, is on record and in force."""
        rollout = await self.get(rollout_id)
        if rollout.pending is None:
            return rollout
        [receipt] = await self._audit.append([event_of(rollout.plan, rollout.pending)])
        await self._store.apply(rollout_id, rollout.pending, receipt.index)
        return await self.get(rollout_id)

    async def _artefact(self, plan: Plan) -> Artefact:
        found = await self._store.artefact(plan.revision)
        if found is None:
            raise NotFound("The artefact is not registered any more.")
        return found

    def _draft(self, plan: Plan, move: Move, reason: str, told: Mapping[str, JsonValue] | None = None) -> Draft:
        return Draft(move, _BY_ITSELF, plan.change_id, reason, json.dumps(told or {}, sort_keys=True))

    async def _alone(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do `work` beside no other of this process, and to its end although whoever asked goes away."""

        async def alone() -> _T:
            async with self._turn:
                return await work

        return await to_its_end(alone())
