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
    """Each attempt that reached an engine of a model with several revisions, and how it went.

    Times are those of the engines: what came before, and for how long humans were waited for, says nothing of them. A
    hang-up, an overload, a bad request and a gate that does not answer are no failures of a revision.
    """
    if not turn.choices:
        return
    unsent = {each.attempt for each in turn.course.others}
    own = [call for number, call in turn.calls if number not in unsent]
    choice = turn.choices.get(turn.decision.model)
    if own and choice is not None:
        failed = False if turn.completed else True if isinstance(turn.error, EngineFailed | EngineTimeout) else None
        yield choice, _seen(own, failed, turn.completed, turn.held_s, turn.course.verdict)
    for each in turn.course.others:
        calls = [call for number, call in turn.calls if number == each.attempt]
        choice = turn.choices.get(each.decision.model)
        if calls and choice is not None:
            done = each.error_code is None
            failed = False if done else True if each.error_code in _FAILURES else None
            yield choice, _seen(calls, failed, done, 0.0, each.verdict)


def _seen(calls: Sequence[Call], failed: bool | None, done: bool, held_s: float, verdict: Verdict | None) -> Seen:
    before_ms = sum(call.ms for call in calls[:-1])
    first_ms = calls[-1].first_ms
    return Seen(
        failed=failed,
        completed=done,
        ttft_ms=None if first_ms is None else before_ms + first_ms,
        e2e_ms=max(before_ms + calls[-1].ms - held_s * 1000, 0.0),
        verified=None if verdict is None or verdict.status is Status.UNKNOWN else verdict.status is Status.PASS,
    )
