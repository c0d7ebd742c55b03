"""What failed attempts ask for: the next step of a task, one at a time and no more than two, then a human."""

from dataclasses import dataclass

from router.effort import effort_first
from router.signals.agent import Severity
from router.signals.collect import Signals
from router.signals.evidence import is_failure
from router.types import Effort, StateView, Tier


@dataclass(frozen=True, slots=True)
class Escalation:
    """The floor that failures put under the next attempt; an axis that is None is left alone.

    `waits`: a tool loop is under way that neither stalls nor met a critical error, so nothing changes before it ends.
    `hand_over`: the strong tier failed, too. More of the same has little chance; a human should take it.
    """

    tier: Tier | None = None
    effort: Effort | None = None
    waits: bool = False
    hand_over: bool = False


def escalate(signals: Signals, state: StateView, usual_effort: Effort) -> Escalation:
    """The next step of a task whose attempts failed; `usual_effort` is what its first attempt is given.

    Code and mathematics go 20b/medium, 20b/high, 120b/high; everything else 20b/medium, 120b/medium; a diagnosis moves
    on where a rule of the policy says so, as `incident_failed_once` does. One failure asks for one step: a second step
    of effort is never taken, nor one of size.
    """
    hand_over = is_failure(signals.failures_on_strong)
    failures = signals.failures_on_base
    if not is_failure(failures, signals.failed) or hand_over:
        return Escalation(hand_over=hand_over)
    agent = signals.agent
    if (
        agent.tool_loop
        and not agent.stalled
        and agent.severity is not Severity.CRITICAL
        and state.last_tier is not None  # without a memory nothing is kept in the loop, and the evidence stays
    ):
        return Escalation(waits=True)
    if state.size_steps > 0 and state.latched_tier is not Tier.STRONG:
        return Escalation()  # it was tried, and released since
    by_effort = effort_first(signals)
    if by_effort is None:
        return Escalation()
    if not by_effort:
        return Escalation(Tier.STRONG, Effort.MEDIUM)
    before = usual_effort if state.last_effort is None else state.last_effort
    was_high = before is Effort.HIGH and state.effort_steps == 0
    if was_high or is_failure(failures - signals.failed, signals.failed):
        return Escalation(Tier.STRONG, Effort.HIGH)
    return Escalation(effort=Effort.HIGH)
