"""What the learned part proposes: the larger tier where its score is above what the budget and the load demand."""

from typing import Final

from router.calibrate import logit_of, squash
from router.score import Score
from router.types import BudgetView, Load, Proposal, StateView, Tier

_MARGIN: Final = 0.25  # logits a session's other tier has to be better by: a switch costs the prefix cache
_PER_PRESSURE: Final = 2.0
_MOST_PRESSURE: Final = 2.0
_DIGITS: Final = 6


def propose(scored: Score, budget: BudgetView | None, load: Load, state: StateView) -> Proposal:
    """The proposal for a turn that no rule, wish or memory decides.

    Where two heads say how much better the strong tier would do, that gain decides, else the difficulty. Both are
    compared on the scale of the budget, a logit; a gain g counts as the probability (1 + g) / 2. Without a budget
    nothing is proposed, and nothing is taken while the strong tier is away.
    """
    by_gain = scored.gain is not None
    value = scored.gain if scored.gain is not None else scored.difficulty
    logit = logit_of((1.0 + value) / 2.0 if by_gain else value)
    threshold = demanded = None
    hit = taken = False
    if budget is not None:
        threshold = budget.threshold + _stickiness(state)
        pressure = min(max(load.strong_pressure - 1.0, 0.0), _MOST_PRESSURE)
        asked = threshold + _PER_PRESSURE * pressure
        hit = scored.abstained is None and logit >= threshold
        taken = hit and logit >= asked and not budget.drained and load.strong_up and load.strong_served
        probability = squash(asked)
        demanded = round(2.0 * probability - 1.0 if by_gain else probability, _DIGITS)
    return Proposal(
        kind="gain" if by_gain else "difficulty",
        value=round(value, _DIGITS),
        logit=round(logit, _DIGITS),
        threshold=None if threshold is None else round(threshold, _DIGITS),
        demanded=demanded,
        hit=hit,
        taken=taken,
        abstained=scored.abstained,
    )


def _stickiness(state: StateView) -> float:
    if state.last_tier is None:
        return 0.0
    return -_MARGIN if state.last_tier is Tier.STRONG else _MARGIN
