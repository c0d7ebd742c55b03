"""Curves through knots: how a head's logit becomes an honest one, and how sure a gain is.

Fitted offline by isotonic regression; served by one bisection.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

_FLOOR: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Curve:
    """Straight lines through the knots `(xs, ys)`; beyond the outer knots it goes on with `slope`.

    `xs` rise strictly, `ys` do not fall. Without knots it is the identity.
    """

    xs: tuple[float, ...] = ()
    ys: tuple[float, ...] = ()
    slope: float = 1.0

    def at(self, x: float) -> float:
        """The curve's value at `x`."""
        if not self.xs:
            return x
        if x <= self.xs[0]:
            return self.ys[0] + self.slope * (x - self.xs[0])
        if x >= self.xs[-1]:
            return self.ys[-1] + self.slope * (x - self.xs[-1])
        right = bisect_right(self.xs, x)
        low, high = self.xs[right - 1], self.xs[right]
        share = (x - low) / (high - low)
        return self.ys[right - 1] + share * (self.ys[right] - self.ys[right - 1])


IDENTITY: Final = Curve()


def squash(logit: float) -> float:
    """The probability in [0, 1] of a logit; never overflows."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1.0 + power)


def logit_of(probability: float) -> float:
    """The logit of a probability, which is kept a millionth away from 0 and 1."""
    bounded = min(max(probability, _FLOOR), 1.0 - _FLOOR)
    return math.log(bounded / (1.0 - bounded))
