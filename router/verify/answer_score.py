"""P(a calculated answer is wrong), from the checks of its reckoning: a logistic sum whose terms can be shown."""

import math
from dataclasses import dataclass
from typing import Final

from router.verify.reckoning import CHECKS, Reckoning
from router.verify.weights import BIAS, WEIGHTS

_ROUND: Final = 9


@dataclass(frozen=True, slots=True)
class AnswerWeights:
    """A bias and one weight per check, in the order of `CHECKS`. `ValueError` for another number of weights."""

    bias: float
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse weights of other checks."""
        if len(self.weights) != len(CHECKS):
            raise ValueError(f"{len(self.weights)} weights for {len(CHECKS)} checks")


COMMITTED: Final = AnswerWeights(BIAS, WEIGHTS)
"""The weights that are served; `weights.py` says what they were learned from."""


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """`p_wrong` in (0, 1), and the terms whose sum is its logit, the bias first, then the checks that say something."""

    p_wrong: float
    contributions: tuple[tuple[str, float], ...]


def score_answer(reckoning: Reckoning, weights: AnswerWeights = COMMITTED) -> AnswerScore:
    """The probability that the answer is wrong. Calibrated on its training set only: elsewhere it is an order."""
    terms = [("bias", weights.bias)]
    for name, weight, value in zip(CHECKS, weights.weights, reckoning.values, strict=True):
        if value and weight:
            terms.append((name, round(weight * value, _ROUND)))
    logit = math.fsum(value for _, value in terms)
    return AnswerScore(1.0 / (1.0 + math.exp(-max(min(logit, 30.0), -30.0))), tuple(terms))
