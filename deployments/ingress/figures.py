"""What one request shows of the revisions that answered it. Pure: reads a turn that has ended."""

from collections.abc import Iterator, Sequence
from typing import Final

from deployments.errors import EngineFailed, EngineTimeout
from deployments.ingress.revisions import Choice, Seen
from deployments.ingress.tiers import Call
from deployments.ingress.turn import Turn
from router.verify.values import Status, Verdict

_FAILURES: Final = frozenset({EngineFailed.code, EngineTimeout.code})


def figures(turn: Turn) -> Iterator[tuple[Choice, Seen]]:
    """Each attempt that reached an engine, once for each revision that the session was given, and how it went.

    Times are those of the engines: what came before, and for how long humans were waited for, says nothing of them. A
    hang-up, an overload, a bad request and a gate that does not answer are no failures of a revision.
    """
    unsent = {each.attempt for each in turn.course.others}
    own = [call for number, call in turn.calls if number not in unsent]
    if own:
        failed = False if turn.completed else True if isinstance(turn.error, EngineFailed | EngineTimeout) else None
        seen = _seen(own, failed, turn.completed, turn.held_s, turn.course.verdict)
        for choice in turn.choices.of(turn.decision.model):
            yield choice, seen
    for each in turn.course.others:
        calls = [call for number, call in turn.calls if number == each.attempt]
        if calls:
            done = each.error_code is None
            failed = False if done else True if each.error_code in _FAILURES else None
            seen = _seen(calls, failed, done, 0.0, each.verdict)
            for choice in turn.choices.of(each.decision.model):
                yield choice, seen


def _seen(calls: Sequence[Call], failed: bool | None, done: bool, held_s: float, verdict: Verdict | None) -> Seen:
    before_ms = sum(call.ms for call in calls[:-1])
    first_ms = calls[-1].first_ms
    return Seen(
        failed=failed,
        completed=done,
        ttft_ms=None if first_ms is None else before_ms + first_ms,
        e2e_ms=max(before_ms + calls[-1].ms - held_s * 1000, 0.0),
        # Most checks can only find a fault: an answer that failed none of them is a good trial, whatever they proved.
        verified=None if verdict is None else verdict.status is not Status.FAIL,
    )
