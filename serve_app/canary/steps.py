"""What a canary does next, from what is seen and remembered. Pure.

The operator moves requests whenever its options say so, and looks at no figure. So the options are at rest (step 0),
except while one step is asked for, with an interval that lets it happen once. Whatever is not known, not recorded or
not as expected keeps them at rest. Only the way back needs neither figures nor a record.
"""

from dataclasses import dataclass, replace
from typing import Final

from deployments.rollout.judge import Judgement, Pair, Tally, Verdict, judge
from deployments.rollouts import Kind, Plan, Standing, State
from serve_app.canary.values import (
    LEAST_INTERVAL_S,
    REST,
    REST_INTERVAL_S,
    Blind,
    Generation,
    Memory,
    Options,
    Phase,
    Seen,
    Shot,
    Sight,
)

_MARGIN_S = 30  # between the operator's clock and the API server's
_SHOT_S = 120  # an operator that has not moved after so long does not look
INCREMENTAL: Final = "NewClusterWithIncrementalUpgrade"


@dataclass(frozen=True, slots=True)
class Move:
    """What to write: the memory, options unless None, and the last known good specification when `restore`."""

    memory: Memory
    options: Options | None = None
    restore: bool = False


def decide(now: Memory, seen: Seen, sight: Sight | Blind) -> Move:
    """The next step. The same memory and no options: there is nothing to do."""
    if now.phase.final:
        return _rest(now, seen, now.why)
    if now.shot is not None:
        if _arrived(now.shot, seen):
            return Move(_said(now.model_copy(update={"shot": None}), "a step was made"), REST)
        if seen.at_ms - now.shot.at_ms > _SHOT_S * 1000:
            return Move(_said(now.model_copy(update={"shot": None}), "the operator did not move"), REST)
    elif _wanted(seen) is not None:
        return Move(_said(now, "the options were not at rest"), REST)
    if now.phase is Phase.BACK:
        return _back(now, seen, sight)
    return _forward(now, seen, sight)


# --- forward -----------------------------------------------------------------------------------------------------


def _forward(now: Memory, seen: Seen, sight: Sight | Blind) -> Move:
    trouble = _strange(now, seen)
    if trouble is not None:
        return _hold(now, seen, trouble)
    if seen.active is not None and seen.active.name == now.new:
        return _finished(now, seen)
    if now.stored is None:
        now = now.model_copy(update={"stored": seen.cluster})
    pending = seen.pending
    if pending is None:
        if now.phase is Phase.SLICE:
            return _hold(now, seen, "the second generation is gone")
        return _warming(now, seen, "no second generation yet: the operator has not started one")
    if now.new is None:
        now = now.model_copy(update={"new": pending.name})
    if not seen.observed:
        return _rest(now, seen, "the operator has not taken note of the specification")
    if now.phase is Phase.WARMING and not pending.well:
        return _warming(now, seen, "the second generation is not running yet")
    if (spoiled := _unwell(now, seen, pending)) is not None:
        return spoiled
    if pending.well:
        now = now.model_copy(update={"unwell_ms": None, "well_at": pending.capacity})
    reached = pending.traffic >= now.share
    if reached and now.reached_ms is None and now.phase is Phase.SLICE:
        now = now.model_copy(update={"reached_ms": seen.at_ms})
    if isinstance(sight, Blind):
        return _blind(now, seen, sight.reason)
    if seen.route_problem is not None:
        return _blind(now, seen, seen.route_problem)
    now = now.model_copy(update={"blind_ms": None})
    if now.phase is Phase.SLICE:
        found = _judged(now, seen, pending, sight)
        if found.verdict is Verdict.ROLL_BACK:
            return back(now, seen, found.reason)
        if now.held is None and found.verdict is Verdict.HOLD:
            return _hold(now, seen, found.reason)
        if reached and found.verdict is not Verdict.PROMOTE and now.share < 100:
            return _rest(now, seen, found.reason)
    if now.held is not None:
        return _rest(now, seen, f"held: {now.held}")
    if now.outbox:
        return _rest(now, seen, "the last step is not in the audit log")
    if not pending.well:
        return _rest(now, seen, "the second generation is not running")
    if reached and now.share < 100:
        return _next_stage(now, seen)
    return _advance(now, seen, pending, sight)


def _strange(now: Memory, seen: Seen) -> str | None:
    """What nobody expected of the RayService; None when all is as it was left."""
    if seen.strategy != INCREMENTAL:
        return f"upgradeStrategy is {seen.strategy}"
    if now.stored is not None and seen.cluster != now.stored:
        return "rayClusterConfig was changed by somebody else"
    if seen.active is not None and seen.active.name not in {now.old, now.new}:
        return f"{seen.active.name} serves, which is none of the two generations"
    if seen.pending is not None and now.new is not None and seen.pending.name != now.new:
        return f"{seen.pending.name} was started beside {now.new}"
    return None


def _warming(now: Memory, seen: Seen, why: str) -> Move:
    """Wait for the second generation, but not for ever."""
    if seen.at_ms - now.since_ms > now.terms.rules.warm_s * 1000:
        return back(now, seen, f"after {now.terms.rules.warm_s} s: {why}")
    return _rest(now, seen, why)


def _unwell(now: Memory, seen: Seen, pending: Generation) -> Move | None:
    """A generation that has requests and does not run goes, after a while; a longer one while it gets replicas."""
    if pending.well or now.phase is not Phase.SLICE:
        return None
    patience_s = now.terms.unwell_s if pending.capacity <= now.well_at else now.terms.rules.warm_s
    if now.unwell_ms is None:
        return _rest(now.model_copy(update={"unwell_ms": seen.at_ms}), seen, "the second generation is not running")
    if seen.at_ms - now.unwell_ms > patience_s * 1000:
        return back(now, seen, f"not running for {patience_s} s")
    return None


def _blind(now: Memory, seen: Seen, reason: str) -> Move:
    """No figures, no progress. Recorded once, when something may be wrong with what already gets requests."""
    if now.blind_ms is not None:
        return _rest(now, seen, f"blind: {reason}")
    now = now.model_copy(update={"blind_ms": seen.at_ms, "shot": None})
    if now.phase is Phase.SLICE:
        return Move(now.with_record("held", f"blind: {reason}"), _wanted(seen))
    return _rest(now, seen, f"blind: {reason}")


def _judged(now: Memory, seen: Seen, pending: Generation, sight: Sight) -> Judgement:
    """The judge of rollouts, on the figures of the two generations. Until the share is there it only says no."""
    stage = now.terms.stages[now.goal]
    rules = replace(now.terms.rules.to_rules(), min_s=stage.min_s)
    shares = tuple(each.share for each in now.terms.stages)
    # The judge reads rules, and how many stages there are; a cluster is no kind of artefact.
    plan = Plan(now.id, Kind.ENGINE, "cluster", now.revision, now.previous, now.change_id, shares, rules=rules)
    since_ms = seen.at_ms if now.reached_ms is None else now.reached_ms
    figures = {metric: _pair(by_name, now.old, pending.name) for metric, by_name in sight.figures.items()}
    return judge(plan, Standing(now.number, State.SLICE, now.share, since_ms=since_ms), figures, seen.at_ms)


def _pair(by_name: dict[str, tuple[float, float]], old: str, new: str) -> Pair:
    return Pair(candidate=Tally(*by_name.get(new, (0.0, 0.0))), baseline=Tally(*by_name.get(old, (0.0, 0.0))))


def _next_stage(now: Memory, seen: Seen) -> Move:
    """Set the next share as the goal. Requests move only once this is in the audit log."""
    goal = now.goal + 1
    why = "the second generation runs" if now.phase is Phase.WARMING else now.why
    moved = now.model_copy(update={"phase": Phase.SLICE, "goal": goal, "since_ms": seen.at_ms, "reached_ms": None})
    return Move(moved.with_record("promoted", f"{moved.share} %: {why}"), _wanted(seen))


def _advance(now: Memory, seen: Seen, pending: Generation, sight: Sight) -> Move:
    """Ask for one step, if everything that would carry it is there."""
    if now.share == 100 and pending.traffic >= 100:
        return _rest(now, seen, "the operator is to make the second generation the only one")
    to = min(now.share, pending.capacity)
    if to <= pending.traffic:
        return _rest(now, seen, f"waiting for more capacity than {pending.capacity} %")
    if pending.name in sight.short:
        return _rest(now, seen, f"replicas are missing: {sight.short[pending.name]}")
    return _shoot(now, seen, pending, to - pending.traffic, to)


def _shoot(now: Memory, seen: Seen, gaining: Generation, step: int, to: int) -> Move:
    """One step of the operator. The interval is what has passed already, so that a second one is as far away."""
    if now.shot is not None:
        return Move(now)
    passed_s = REST_INTERVAL_S if gaining.moved_ms is None else (seen.at_ms - gaining.moved_ms) // 1000 - _MARGIN_S
    if passed_s < LEAST_INTERVAL_S:
        return _rest(now, seen, "a step was made just now")
    before = seen.pending.traffic if seen.pending is not None else 0
    shot = now.model_copy(update={"shot": Shot(before=before, at_ms=seen.at_ms)})
    return Move(_said(shot, f"{before} to {to} %"), Options(step, min(passed_s, REST_INTERVAL_S)))


def _arrived(shot: Shot, seen: Seen) -> bool:
    return seen.pending is None or seen.pending.traffic != shot.before


def _finished(now: Memory, seen: Seen) -> Move:
    """The operator has made the second generation the only one."""
    meant = now.share == 100
    done = now.model_copy(update={"phase": Phase.FINISHED, "shot": None, "held": None})
    why = "it serves alone" if meant else "it serves alone, and the driver did not ask for it"
    return Move(done.with_record("finished", why), _wanted(seen))


# --- back --------------------------------------------------------------------------------------------------------


def back(now: Memory, seen: Seen, reason: str, change_id: str | None = None) -> Move:
    """Begin to give everything back: at once, recorded afterwards."""
    gone = now.model_copy(
        update={"phase": Phase.BACK, "since_ms": seen.at_ms, "reached_ms": None, "shot": None, "held": None}
    )
    return Move(gone.with_record("rolled_back", reason, change_id), _wanted(seen), restore=True)


def _back(now: Memory, seen: Seen, sight: Sight | Blind) -> Move:
    if seen.cluster != now.previous:
        return Move(_said(now, "the last known good specification is put back again"), _wanted(seen), restore=True)
    active = seen.active
    if active is None or active.name != now.old:
        done = now.model_copy(update={"phase": Phase.FINISHED})
        return Move(
            done.with_record("finished", f"no way back: {now.old} does not serve any more; this needs a new release"),
            _wanted(seen),
        )
    if seen.pending is None:
        done = now.model_copy(update={"phase": Phase.ROLLED_BACK})
        return Move(done.with_record("finished", "the generation before serves alone"), _wanted(seen))
    if not seen.observed:
        return _rest(now, seen, "going back: the operator has not taken note of it")
    to = active.capacity
    if to <= active.traffic:
        return _rest(now, seen, "going back: the operator is to bring replicas back, or to end the other generation")
    if not active.well:
        return _rest(now, seen, "going back: the generation before is not running")
    # Where nothing can be seen, RUNNING must do: to stay with a generation that is worse is no safer.
    if isinstance(sight, Sight) and active.name in sight.short:
        return _rest(now, seen, f"going back: replicas are missing: {sight.short[active.name]}")
    return _shoot(now, seen, active, to - active.traffic, 100 - to)


# --- by hand -----------------------------------------------------------------------------------------------------


def hold(now: Memory, seen: Seen, reason: str, change_id: str | None = None) -> Move:
    """Stay where it is. It still goes back when the figures say so."""
    stopped = now.model_copy(update={"held": reason, "shot": None})
    return Move(stopped.with_record("held", reason, change_id), _wanted(seen))


def resume(now: Memory, reason: str, change_id: str) -> Move:
    """End a hold."""
    return Move(now.model_copy(update={"held": None}).with_record("promoted", f"resumed: {reason}", change_id))


# --- helpers -----------------------------------------------------------------------------------------------------


def _hold(now: Memory, seen: Seen, reason: str) -> Move:
    """Hold by itself; once for each reason."""
    return _rest(now, seen, f"held: {reason}") if now.held == reason else hold(now, seen, reason)


def _wanted(seen: Seen) -> Options | None:
    """What brings the options to rest; None where they are, or where nobody reads them."""
    return None if seen.options == REST or seen.strategy != INCREMENTAL else REST


def _rest(now: Memory, seen: Seen, why: str) -> Move:
    """Nothing moves. A step that is under way is left to happen."""
    return Move(_said(now, why), None if now.shot is not None else _wanted(seen))


def _said(now: Memory, why: str) -> Memory:
    return now if now.why == why else now.model_copy(update={"why": why[:900]})
