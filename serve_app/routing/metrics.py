"""How well a score orders prompts for the strong model: the exact curve, what follows from it, and intervals.

A router sends the k prompts of highest score to the strong model. PGR at k is the share of the gap between always-weak
and always-strong that this recovers, APGR the area under PGR over k/N (every k, trapezoids; random order has 0.5 in
expectation, the oracle more than 1), CPT(x) the least share of strong calls with PGR >= x. RouteLLM (arXiv 2406.18665)
defines them; it integrates ten quantile bins, which differs a little. Ties are broken by a seeded jitter.

Intervals are percentiles of resamples over prompts, or over groups. All scores of one set are measured on the same
resamples, so that differences are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES: Final = 200
LEAST_GAP: Final = 0.02
"""Strong - weak below this makes PGR meaningless: it divides by the gap."""

CPT_LEVELS: Final = (0.2, 0.5, 0.8)
_PERCENTILES: Final = (2.5, 97.5)

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the 95 % bootstrap interval around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A figure that is not given, and why: a result like any other."""

    why: str


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the two models did on N prompts: qualities in [0, 1], 0 or 1 where not `graded`."""

    weak: Vector
    strong: Vector
    graded: bool = False

    @classmethod
    def of(cls, weak: ArrayLike, strong: ArrayLike, graded: bool = False) -> "Outcomes":
        """Outcomes of two sequences of equal length, at least one long."""
        low, high = np.asarray(weak, dtype=np.float64), np.asarray(strong, dtype=np.float64)
        if low.shape != high.shape or low.ndim != 1 or not low.size:
            raise ValueError("outcomes are two vectors of equal length that are not empty")
        return cls(low, high, graded)

    @property
    def gain(self) -> Vector:
        """Strong minus weak, per prompt."""
        return self.strong - self.weak

    def __len__(self) -> int:
        return self.weak.size


@dataclass(frozen=True, slots=True)
class Resamples:
    """How often each of N prompts is drawn in each of R resamples: R x N, whole numbers as floats."""

    counts: Vector

    @classmethod
    def over_prompts(cls, prompts: int, resamples: int = RESAMPLES, seed: int = 0) -> "Resamples":
        """Resamples of `prompts` draws with replacement."""
        return cls.over_groups(np.arange(prompts), resamples, seed)

    @classmethod
    def over_groups(cls, group: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> "Resamples":
        """Whole groups are drawn with replacement, as many as there are; `group` has one label per prompt."""
        _, index = np.unique(np.asarray(group), return_inverse=True)
        groups = int(index.max()) + 1
        drawn = np.random.default_rng(seed).integers(groups, size=(resamples, groups))
        counts = np.zeros((resamples, groups))
        np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1.0)
        return cls(counts[:, index])

    @property
    def total(self) -> Vector:
        """Prompts drawn per resample, R."""
        return self.counts.sum(axis=1)

    def mean(self, values: Vector) -> Vector:
        """The mean of one value per prompt in each resample, R."""
        return self.counts @ values / self.total


@dataclass(frozen=True, slots=True)
class Ranking:
    """What one score is worth on one set. `resampled_apgr` has one value per resample, for paired comparison.

    `cpt` maps 20, 50 and 80 to percent of strong calls. `weak_wrong` and `helps` are the areas under the ROC curve for
    "the weak model fails" (None where outcomes are graded or all alike) and "the strong model does better".
    """

    apgr: Interval
    cpt: Mapping[int, Interval]
    weak_wrong: Interval | None
    helps: Interval | None
    resampled_apgr: Vector


@dataclass(frozen=True, slots=True)
class Description:
    """What a set is like, whatever routes it: shares in [0, 1]."""

    n: int
    weak: float
    strong: float
    helps: float
    hurts: float
    gap: Interval


def describe(outcomes: Outcomes, resamples: Resamples) -> Description:
    """The obligatory figures of a set."""
    gain = outcomes.gain
    return Description(
        n=len(outcomes),
        weak=float(outcomes.weak.mean()),
        strong=float(outcomes.strong.mean()),
        helps=float((gain > 0).mean()),
        hurts=float((gain < 0).mean()),
        gap=interval(float(gain.mean()), resamples.mean(gain)),
    )


def refusal(description: Description) -> Refused | None:
    """Why PGR must not be reported on a set; None where it may."""
    gap = description.gap
    if gap.value < LEAST_GAP:
        return Refused(f"strong - weak is {100 * gap.value:.1f} points, less than {100 * LEAST_GAP:.0f}")
    if gap.low <= 0.0:
        return Refused(f"strong - weak may be 0: interval {100 * gap.low:.1f} to {100 * gap.high:.1f} points")
    return None


def order_of(score: ArrayLike, seed: int = 0) -> NDArray[np.intp]:
    """Prompt numbers by falling score; equal scores in a seeded random order. NaN is a `ValueError`."""
    values = np.asarray(score, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("a score is not a number")
    jitter = np.random.default_rng(seed).random(values.size)
    return np.lexsort((jitter, -values))


def pgr_curve(outcomes: Outcomes, order: NDArray[np.intp]) -> Vector:
    """PGR after 0, 1, ... N strong calls, N + 1 values; the mean gain must not be 0."""
    risen = np.concatenate(([0.0], np.cumsum(outcomes.gain[order])))
    return risen / risen[-1]


def apgr(outcomes: Outcomes, score: ArrayLike, seed: int = 0) -> float:
    """The area under the exact PGR curve."""
    curve = pgr_curve(outcomes, order_of(score, seed))
    return float((curve[1:] + curve[:-1]).sum() / (2 * len(outcomes)))


def cpt(outcomes: Outcomes, score: ArrayLike, level: float, seed: int = 0) -> float:
    """The least percentage of strong calls that recovers `level` of the gap."""
    curve = pgr_curve(outcomes, order_of(score, seed))
    return 100.0 * float(np.argmax(curve >= level - 1e-12)) / len(outcomes)


def rank(
    outcomes: Outcomes, score: ArrayLike, resamples: Resamples, description: Description, seed: int = 0
) -> Ranking | Refused:
    """All ranking figures of one score with intervals, or why this set cannot give them."""
    why = refusal(description)
    if why is not None:
        return why
    values = np.asarray(score, dtype=np.float64)
    order = order_of(values, seed)
    areas, reached = _resampled(outcomes.gain[order], resamples.counts[:, order])
    return Ranking(
        apgr=interval(apgr(outcomes, values, seed), areas),
        cpt={
            round(100 * level): interval(cpt(outcomes, values, level, seed), 100.0 * reached[:, number])
            for number, level in enumerate(CPT_LEVELS)
        },
        weak_wrong=None if outcomes.graded else auc(outcomes.weak < 0.5, values, resamples),
        helps=auc(outcomes.gain > 0, values, resamples),
        resampled_apgr=areas,
    )


def difference(first: Ranking, second: Ranking) -> Interval:
    """APGR of the first minus that of the second, with the interval of the paired resamples."""
    return interval(first.apgr.value - second.apgr.value, first.resampled_apgr - second.resampled_apgr)


def auc(event: NDArray[np.bool_], score: Vector, resamples: Resamples) -> Interval | None:
    """Chance that a prompt with the event scores above one without, ties half; None where there is but one kind."""
    if event.all() or not event.any():
        return None
    return interval(float(_auc(event, score, np.ones((1, score.size)))[0]), _auc(event, score, resamples.counts))


def mean_with_interval(values: Vector, resamples: Resamples) -> Interval:
    """The mean of one value per prompt."""
    return interval(float(values.mean()), resamples.mean(values))


def interval(value: float, resampled: Vector) -> Interval:
    """The figure between the percentiles of its resampled values; resamples without a value are left out."""
    known = resampled[np.isfinite(resampled)]
    if not known.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(known, _PERCENTILES)
    return Interval(value, float(low), float(high))


def spread_over(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over seeds; the deviation of a single value is 0."""
    several = np.asarray(values, dtype=np.float64)
    return float(several.mean()), float(several.std(ddof=1)) if several.size > 1 else 0.0


def _resampled(gain: Vector, counts: Vector) -> tuple[Vector, Vector]:
    """APGR (R) and strong shares at the CPT levels (R x levels) of each resample; both inputs in routing order.

    A prompt that is drawn twice takes two neighbouring places, where the curve is a straight line: the trapezoid of
    width `count` is exact. The least share is likewise a whole number of calls inside the block that reaches the level.
    """
    total = counts.sum(axis=1, keepdims=True)
    weighted = counts * gain
    after = np.cumsum(weighted, axis=1)
    whole = after[:, -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        areas = (counts * (after - weighted / 2)).sum(axis=1) / (whole * total)[:, 0]
    places = np.cumsum(counts, axis=1)
    reached = np.full((counts.shape[0], len(CPT_LEVELS)), np.nan)
    for number, level in enumerate(CPT_LEVELS):
        need = level * whole
        hit = np.argmax(after >= need - 1e-9, axis=1)[:, None]
        at = np.take_along_axis(after, hit, 1)
        # How many calls of the block can be spared again: each is worth the block's gain.
        spare = np.floor((at - need) / np.maximum(gain[hit], 1e-12) + 1e-9)
        width = np.take_along_axis(counts, hit, 1)
        reached[:, number] = ((np.take_along_axis(places, hit, 1) - np.clip(spare, 0, width - 1)) / total)[:, 0]
    positive = whole[:, 0] > 0
    return np.where(positive, areas, np.nan), np.where(positive[:, None], reached, np.nan)


def _auc(event: NDArray[np.bool_], score: Vector, counts: Vector) -> Vector:
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    drawn = counts[:, order]
    hits = np.add.reduceat(drawn * event[order], starts, axis=1)
    misses = np.add.reduceat(drawn * ~event[order], starts, axis=1)
    below = np.cumsum(misses, axis=1) - misses / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return (hits * below).sum(axis=1) / (hits.sum(axis=1) * misses.sum(axis=1))
