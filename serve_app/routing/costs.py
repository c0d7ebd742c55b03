"""Quality against cost: RouterBench's non-decreasing hull and AIQ (arXiv 2403.12031), and a composite figure.

Costs are ratios of configuration until GPU time per arm has been measured; every report that shows them says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from router.policy import default_policy
from router.types import Arm, Effort, Tier
from serve_app.routing.metrics import Outcomes, Vector, order_of

COMPOSITE_WEIGHT: Final = 0.1
_ARM_COSTS: Final = dict(default_policy().costs)
WEAK_COST: Final = 1.0
STRONG_COST: Final = _ARM_COSTS[Arm(Tier.STRONG, Effort.MEDIUM)] / _ARM_COSTS[Arm(Tier.BASE, Effort.MEDIUM)]
"""Cost of a turn on 120b over one on 20b, both at medium effort, as the shipped policy configures it; not measured."""


@dataclass(frozen=True, slots=True)
class Point:
    """Mean cost per turn, in turns of the weak model, and mean quality in [0, 1]."""

    cost: float
    quality: float


def curve(
    outcomes: Outcomes, score: ArrayLike, strong_cost: float = STRONG_COST, seed: int = 0
) -> tuple[Vector, Vector]:
    """Costs and qualities after 0, 1, ... N strong calls in the order of the score; N + 1 values each."""
    risen = np.concatenate(([0.0], np.cumsum(outcomes.gain[order_of(score, seed)])))
    n = len(outcomes)
    share = np.arange(n + 1) / n
    return WEAK_COST + share * (strong_cost - WEAK_COST), outcomes.weak.mean() + risen / n


def hull(points: Sequence[Point]) -> tuple[Point, ...]:
    """The non-decreasing convex hull: what mixing routers at random can reach, by rising cost.

    A dearer point that is not better is dropped, and so is one below the line between two others.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.cost, -each.quality)):
        if best and point.quality <= best[-1].quality:
            continue
        while len(best) >= 2 and _turn(best[-2], best[-1], point) >= 0.0:
            best.pop()
        best.append(point)
    return tuple(best)


def aiq(costs: ArrayLike, qualities: ArrayLike) -> float:
    """Mean quality under the non-decreasing hull over the range of `costs`, which must not be a single point."""
    cost, quality = np.asarray(costs, dtype=np.float64), np.asarray(qualities, dtype=np.float64)
    low, high = float(cost.min()), float(cost.max())
    if high <= low:
        raise ValueError("AIQ needs two different costs")
    corners = hull([Point(float(c), float(q)) for c, q in zip(cost, quality, strict=True)])
    at = [corner.cost for corner in corners] + [high]
    height = [corner.quality for corner in corners] + [corners[-1].quality]
    area = float(np.trapezoid(height, at))
    return area / (high - low)


def composite(accuracy: float, cost: float, cheapest: float = WEAK_COST, dearest: float = STRONG_COST) -> float:
    """(1 + b) A C / (b A + C) with b = 0.1, A the accuracy and C in [0, 1] the log-scaled cost, 1 the cheapest.

    Zero for the dearest by construction: only to be read beside the curve.
    """
    scaled = (math.log2(dearest) - math.log2(cost)) / (math.log2(dearest) - math.log2(cheapest))
    scaled = min(max(scaled, 0.0), 1.0)
    if accuracy <= 0.0 or scaled <= 0.0:
        return 0.0
    return (1.0 + COMPOSITE_WEIGHT) * accuracy * scaled / (COMPOSITE_WEIGHT * accuracy + scaled)


def _turn(first: Point, second: Point, third: Point) -> float:
    """Positive when the way bends up at `second`, 0 when it is straight."""
    return (second.cost - first.cost) * (third.quality - first.quality) - (second.quality - first.quality) * (
        third.cost - first.cost
    )
