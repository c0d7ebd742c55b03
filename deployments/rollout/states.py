"""The states of a rollout and the moves between them. Pure.

    registered -> warming -> smoke -> eval? -> shadow? -> slice 5 -> slice 25 -> watch 100 -> finished
                          any of them but the last  -> rolled back

`hold` stops a rollout where it is, for everything but the way back; `resume` and `advance` end a hold.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from deployments.errors import InvalidRequest
from deployments.ports import SYSTEM_TENANT, AuditEvent, JsonValue
from deployments.rollout.telling import registration, told
from deployments.rollouts import Artefact, Draft, Move, Plan, Rollout, Slice, Standing, State, Step

CONFLICT: Final = "rollout_conflict"
_MOST_REASON: Final = 1_000
_NAMES: Final[Mapping[Move, str]] = {
    Move.START: "rollout.started",
    Move.ADVANCE: "rollout.promoted",
    Move.RESUME: "rollout.promoted",
    Move.HOLD: "rollout.held",
    Move.ROLL_BACK: "rollout.rolled_back",
    Move.FINISH: "rollout.finished",
}
_HOLDABLE: Final = frozenset({State.EVAL, State.SHADOW, State.SLICE, State.WATCH})


def after(plan: Plan, now: Standing, move: Move, at_ms: int) -> Standing | None:
    """Where a move leads; None when it was made already. `InvalidRequest` (`rollout_conflict`) when it cannot be."""
    step = replace(now, number=now.number + 1, since_ms=at_ms, held=False)
    match move:
        case Move.START:
            return replace(step, state=State.REGISTERED) if now.state is State.PROPOSED else None
        case Move.ROLL_BACK:
            if now.state is State.ROLLED_BACK:
                return None
            _refuse(now, now.state is State.FINISHED, "its way back was given up; begin one with the revision before")
            return replace(step, state=State.ROLLED_BACK, share=0)
        case Move.HOLD:
            if now.held:
                return None
            _refuse(now, now.state not in _HOLDABLE, "there is nothing to hold yet")
            # The time in the stage goes on: a hold is no rejuvenation.
            return replace(step, held=True, since_ms=now.since_ms)
        case Move.RESUME:
            if not now.held:
                return None
            return replace(step)
        case Move.FINISH:
            if now.state is State.FINISHED:
                return None
            _refuse(now, now.state is not State.WATCH or now.held, "it does not have all of the traffic, or is held")
            return replace(step, state=State.FINISHED)
        case Move.ADVANCE:
            _refuse(now, now.state.final or now.state in {State.PROPOSED, State.WATCH}, "there is no next stage")
            return _next(plan, now, step)


def _next(plan: Plan, now: Standing, step: Standing) -> Standing:
    match now.state:
        case State.REGISTERED:
            return replace(step, state=State.WARMING)
        case State.WARMING:
            return replace(step, state=State.SMOKE)
        case State.SMOKE if plan.eval_cases:
            return replace(step, state=State.EVAL)
        case State.SMOKE | State.EVAL if plan.shadow:
            return replace(step, state=State.SHADOW)
        case _:
            share = next(each for each in plan.shares if each > now.share)
            return replace(step, state=State.WATCH if share == 100 else State.SLICE, share=share)


def _refuse(now: Standing, condition: bool, why: str) -> None:
    if condition:
        raise InvalidRequest(f"The rollout is in state '{now.state.value}': {why}.", None, CONFLICT)


def step_of(plan: Plan, now: Standing, draft: Draft, at_ms: int, lasting: bool = False) -> Step | None:
    """The step that a draft asks for, None when it was made already; raises as `after` does.

    `lasting`: the configuration gives it all of the traffic, so that there is no way back.
    """
    way = plan
    if draft.to is not None and draft.move is Move.ADVANCE:
        if now.state is not State.ROLLED_BACK and now.share >= draft.to and not now.held:
            return None
        # By hand nobody gets past the checks that come before traffic; what has all of it would be caught in them.
        too_late = lasting and now.state is State.EVAL
        _refuse(now, now.state not in {State.SHADOW, State.SLICE} and not too_late, "there is no next share")
        way = replace(plan, shadow=plan.shadow and not too_late)
    then = after(way, now, draft.move, at_ms)
    if then is None:
        return None
    if draft.to is not None and draft.move is Move.ADVANCE and then.share != draft.to:
        raise InvalidRequest(f"The next share is {then.share} %.", "to", CONFLICT)
    return Step(draft, then, at_ms, told=json.dumps(told(plan, draft), sort_keys=True))


def event_of(plan: Plan, step: Step) -> AuditEvent:
    """The record of a step: the same event whoever writes it, and however often."""
    then, draft = step.after, step.draft
    data: dict[str, JsonValue] = {
        "rollout_id": plan.rollout_id,
        "kind": plan.kind.value,
        "model": plan.target,
        "revision": plan.revision,
        "previous_revision": plan.previous_revision,
        "share_percent": float(then.share),
        "state": "held" if then.held else then.state.value,
        "reason": draft.reason[:_MOST_REASON],
        "change_id": draft.change_id,
        **json.loads(step.told),
    }
    event_id = f"rollout:{plan.rollout_id}:{then.number}"
    return AuditEvent(event_id, _NAMES[draft.move], step.at_ms, SYSTEM_TENANT, draft.by, data=data)


def registered(artefact: Artefact, revision: str, at_ms: int, actor: str) -> AuditEvent:
    """The record that an artefact was registered; each time is one of its own."""
    event_id = f"artefact:{revision}:{uuid.uuid4().hex}"
    data = registration(artefact, revision)
    return AuditEvent(event_id, "rollout.registered", at_ms, SYSTEM_TENANT, actor, data=data)


def slice_of(rollout: Rollout) -> Slice:
    """How a rollout splits the traffic of its target."""
    plan = rollout.plan
    return Slice(
        plan.rollout_id,
        plan.kind,
        plan.target,
        plan.revision,
        plan.previous_revision,
        rollout.share,
        plan.rules.ttft_ms,
        plan.rules.e2e_ms,
        rollout.standing.since_ms,
        rollout.standing.state is State.SHADOW and rollout.wanted is None,
    )
