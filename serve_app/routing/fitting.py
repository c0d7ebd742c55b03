"""From labelled rows to the bytes of a snapshot: a difficulty head, or two heads and their gain.

**Two heads** are one regression with two outcomes per row: what both models share is learned from all labels, and what
tells them apart is held back by a penalty of its own (regularised multi-task learning, Evgeniou & Pontil 2004). The
gain is the small difference of two large numbers, and this shrinks the noise in exactly that difference.

**Difficulty** is not fitted to anything but its words and its calibration. Structure enters with unit weights in the
direction that is known beforehand (Dawes 1979: with few labels from elsewhere unit weights beat fitted ones; measured
here, docs/router-eval/features.md), words are held down to a fifth of its spread.

Same rows, same settings, same bytes.
"""

import importlib
import warnings
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router.calibrate import IDENTITY, Curve
from router.heads import Head
from router.snapshot import DIFFICULTY, STRONG, WEAK, serialise
from router.structure import NAMES
from serve_app.routing.design import Design, scaled, scales_of
from serve_app.routing.folds import Fold
from serve_app.routing.metrics import Outcomes, Vector

ISOTONIC_ROWS: Final = 1_000
"""Fewer labels calibrate worse than not at all."""

UNIT_WEIGHTS: Final[Mapping[str, float]] = {
    "length": 1.0,
    "conditions": 1.0,
    "comparisons": 1.0,
    "option_similarity": 1.0,
    "distinct_words": -1.0,
    "clauses": 0.5,
    "quantities": 0.5,
    "long_words": -0.5,
    "proof_words": 0.5,
    "algorithm_words": 0.5,
    "code_words": 0.5,
    "reasoning_words": 0.5,
    "numeric_options": -0.25,
}
"""Direction and weight of what makes a turn worth the strong tier: 1 where it held on every set, 1/2 where on most.

A closed question whose options are all numbers is a calculation without room to work in: hard for both models, seen on
one set only, hence 1/4, and of no effect on a turn without options.
"""

GUARDED: Final = ("length", "sentence_words", "word_length", "distinct_words", "punctuation", "non_ascii")
"""Fitted weights mean nothing beyond these ranges."""

_TOO_LONG: Final = ("length",)
"""Unit weights point the known way at any value, but a huge paste must not be called difficult for its length alone."""

_KNOTS: Final = 12
_LEAST_RISE: Final = 0.1
_EPSILON: Final = 1e-6


@dataclass(frozen=True, slots=True)
class TwoHeads:
    """Settings of the two heads: penalty, and how much of it falls on what tells the models apart."""

    inverse_penalty: float = 0.7
    apart: float = 0.4
    hand: float = 0.12
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ByUnitWeights:
    """Settings of the difficulty head: directions, the words' share of the structure's spread, and their penalty."""

    weights: Mapping[str, float] = field(default_factory=lambda: UNIT_WEIGHTS)
    words: float = 0.2
    inverse_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Linear:
    """A fitted head on the scaled numbers and the words, before calibration."""

    bias: float
    weights: Vector
    words: Vector

    def logit(self, numbers: Vector, words: Any) -> Vector:
        """Its logit for N rows."""
        spoken: Vector = words @ self.words
        return self.bias + numbers @ self.weights + spoken


def fit_two(design: Design, outcomes: Outcomes, title: str, folds: Sequence[Fold], settings: TwoHeads) -> bytes:
    """A snapshot with the heads `weak` and `strong`; `folds` serve the calibration and the gain's lower bound."""
    scales = scales_of(design, NAMES, np.ones(len(design)), GUARDED, GUARDED)
    numbers = scaled(design, scales)
    weak, strong = linear_pair(numbers, design.words, outcomes, settings)
    guessed = np.zeros((2, len(design)))
    for fold in folds:
        part = Outcomes.of(outcomes.weak[fold.train], outcomes.strong[fold.train], outcomes.graded)
        pair = linear_pair(numbers[fold.train], design.words[fold.train], part, settings)
        for number, head in enumerate(pair):
            guessed[number, fold.test] = head.logit(numbers[fold.test], design.words[fold.test])
    curves = [
        isotonic(logit, event, np.ones(len(design))) if len(design) >= ISOTONIC_ROWS else IDENTITY
        for logit, event in zip(guessed, (outcomes.weak, outcomes.strong), strict=True)
    ]
    chances = [squashed(curved(curve, logit)) for curve, logit in zip(curves, guessed, strict=True)]
    heads = tuple(
        _head(name, head, curve) for name, head, curve in zip((WEAK, STRONG), (weak, strong), curves, strict=True)
    )
    return serialise(
        title, design.bits, scales, heads, design.seen(), gain_low=lower_bound(chances[1] - chances[0], outcomes.gain)
    )


def linear_pair(numbers: Vector, words: Any, outcomes: Outcomes, settings: TwoHeads) -> tuple[Linear, Linear]:
    """Both heads from one regression: weak = shared - apart * own, strong = shared + apart * own."""
    sparse: Any = importlib.import_module("scipy.sparse")
    ones = sparse.csr_matrix(np.ones((numbers.shape[0], 1)))
    rows = sparse.hstack([words, sparse.csr_matrix(settings.hand * numbers), ones]).tocsr()
    own = settings.apart * rows
    stacked = sparse.vstack([sparse.hstack([rows, -own]), sparse.hstack([rows, own])]).tocsr()
    event, weight = events(np.concatenate((outcomes.weak, outcomes.strong)))
    fitted = logistic(stacked, event, weight, settings.inverse_penalty, settings.seed, intercept=False)
    size = int(rows.shape[1])
    shared, apart = fitted[:size], settings.apart * fitted[size : 2 * size]
    buckets = int(words.shape[1])

    def head(values: Vector) -> Linear:
        return Linear(float(values[-1]), settings.hand * values[buckets:-1], values[:buckets])

    return head(shared - apart), head(shared + apart)


def fit_difficulty(
    design: Design,
    weak_ok: Vector,
    set_of_row: NDArray[np.intp],
    title: str,
    folds: Sequence[Fold],
    settings: ByUnitWeights,
) -> bytes:
    """A snapshot with the head `difficulty`, calibrated to P(weak wrong); sets count alike however large they are."""
    weight = even_weights(set_of_row)
    scales = scales_of(design, tuple(settings.weights), weight, above=_TOO_LONG)
    numbers = scaled(design, scales)
    wrong = 1.0 - weak_ok
    raw = unit_head(numbers, design.words, wrong, weight, settings)
    guessed = np.zeros(len(design))
    for fold in folds:
        part = unit_head(numbers[fold.train], design.words[fold.train], wrong[fold.train], weight[fold.train], settings)
        guessed[fold.test] = part.logit(numbers[fold.test], design.words[fold.test])
    # The unit weights have no scale of their own: bring them to logits first, then straighten what is left.
    slope, offset = platt(guessed, wrong, weight)
    head = Linear(slope * raw.bias + offset, slope * raw.weights, slope * raw.words)
    curve = isotonic(slope * guessed + offset, wrong, weight) if len(design) >= ISOTONIC_ROWS else IDENTITY
    return serialise(title, design.bits, scales, (_head(DIFFICULTY, head, curve),), design.seen())


def unit_head(numbers: Vector, words: Any, wrong: Vector, weight: Vector, settings: ByUnitWeights) -> Linear:
    """Unit weights on the numbers, and the words' own logit around its mean at `settings.words` of their spread."""
    weights = np.asarray(list(settings.weights.values()))
    built = numbers @ weights
    if settings.words == 0.0:
        return Linear(0.0, weights, np.zeros(int(words.shape[1])))
    event, copies = events(wrong)
    repeated = np.concatenate((weight, weight)) if copies.size > weight.size else weight
    sparse: Any = importlib.import_module("scipy.sparse")
    rows: Any = sparse.vstack([words, words]).tocsr() if copies.size > weight.size else words
    spoken = logistic(rows, event, copies * repeated, settings.inverse_penalty, settings.seed, intercept=True)[:-1]
    said: Vector = words @ spoken
    ratio = settings.words * _spread(built, weight) / max(_spread(said, weight), _EPSILON)
    return Linear(-ratio * float(np.average(said, weights=weight)), weights, ratio * spoken)


def even_weights(set_of_row: NDArray[np.intp]) -> Vector:
    """One weight per row so that every set weighs the same and the mean weight is 1."""
    _, group, sizes = np.unique(set_of_row, return_inverse=True, return_counts=True)
    return set_of_row.size / (sizes.size * sizes[group].astype(np.float64))


def events(quality: Vector) -> tuple[NDArray[np.bool_], Vector]:
    """Outcomes as events with weights: graded ones count as both, each by its share, and then come twice as long."""
    if np.isin(quality, (0.0, 1.0)).all():
        return quality >= 0.5, np.ones(quality.size)
    return np.repeat([True, False], quality.size), np.concatenate((quality, 1.0 - quality))


def isotonic(logit: Vector, quality: Vector, weight: Vector) -> Curve:
    """A rising curve from a head's logits to honest ones, through at most twelve knots.

    The rows are cut into bins of equal size, the bins' shares made monotone, and the curve is held to a least rise: it
    must not tie what the head tells apart.
    """
    learners: Any = importlib.import_module("sklearn.isotonic")
    order = np.argsort(logit, kind="stable")
    bins = [part for part in np.array_split(order, min(_KNOTS, max(1, logit.size // 100))) if part.size]
    xs = np.asarray([np.average(logit[part], weights=weight[part]) for part in bins])
    shares = np.asarray([np.average(quality[part], weights=weight[part]) for part in bins])
    mass = np.asarray([float(weight[part].sum()) for part in bins])
    level: Vector = learners.IsotonicRegression(y_min=0.002, y_max=0.998).fit_transform(xs, shares, sample_weight=mass)
    ys = np.log(level / (1.0 - level))
    for place in range(1, ys.size):
        ys[place] = max(ys[place], ys[place - 1] + _LEAST_RISE * (xs[place] - xs[place - 1]))
    kept = np.concatenate(([True], np.diff(xs) > _EPSILON))
    return Curve(tuple(xs[kept].tolist()), tuple(ys[kept].tolist()))


def lower_bound(predicted: Vector, gain: Vector) -> Curve:
    """The one-sided 95 % lower bound of the gain that came of a predicted one, over ten bins made monotone."""
    learners: Any = importlib.import_module("sklearn.isotonic")
    order = np.argsort(predicted, kind="stable")
    bins = [part for part in np.array_split(order, min(10, max(1, predicted.size // 30))) if part.size]
    xs = np.asarray([float(predicted[part].mean()) for part in bins])
    spread = np.asarray([float(gain[part].std()) + 1.0 / part.size for part in bins])
    low = np.asarray([float(gain[part].mean()) for part in bins]) - 1.645 * spread / np.sqrt([p.size for p in bins])
    ys: Vector = learners.IsotonicRegression(y_min=-1.0, y_max=1.0).fit_transform(xs, low)
    kept = np.concatenate(([True], np.diff(xs) > _EPSILON))
    return Curve(tuple(xs[kept].tolist()), tuple(ys[kept].tolist()), slope=0.0)


def platt(logit: Vector, quality: Vector, weight: Vector) -> tuple[float, float]:
    """Slope and offset of the logistic regression of an outcome on one number; the slope is kept positive."""
    event, copies = events(quality)
    doubled = copies.size > logit.size
    column = np.concatenate((logit, logit)) if doubled else logit
    mass = copies * (np.concatenate((weight, weight)) if doubled else weight)
    sparse: Any = importlib.import_module("scipy.sparse")
    fitted = logistic(sparse.csr_matrix(column[:, None]), event, mass, 1e3, 0, intercept=True)
    return max(float(fitted[0]), 0.02), float(fitted[1])


def squashed(logit: Vector) -> Vector:
    """The logistic function of every value."""
    return 1.0 / (1.0 + np.exp(-logit))


def curved(curve: Curve, logit: Vector) -> Vector:
    """The curve at every value."""
    return np.asarray([curve.at(value) for value in logit.tolist()])


def _head(name: str, fitted: Linear, curve: Curve) -> Head:
    return Head(name, fitted.bias, tuple(fitted.weights.tolist()), array("f", fitted.words.tolist()), curve)


def _spread(values: Vector, weight: Vector) -> float:
    mean = np.average(values, weights=weight)
    return float(np.sqrt(np.average((values - mean) ** 2, weights=weight)))


def logistic(
    rows: Any, event: NDArray[np.bool_], weight: Vector, inverse_penalty: float, seed: int, *, intercept: bool
) -> Vector:
    """Coefficients of a logistic regression (liblinear, dual), the intercept last where there is one.

    `ValueError` when all outcomes are alike.
    """
    if event.all() or not event.any():
        raise ValueError("all outcomes are alike: nothing can be learned from them")
    linear: Any = importlib.import_module("sklearn.linear_model")
    model: Any = linear.LogisticRegression(
        C=inverse_penalty, solver="liblinear", dual=True, max_iter=3_000, fit_intercept=intercept, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged to the last digit: the figures do not move
        model.fit(rows, event, sample_weight=weight)
    coefficients = np.asarray(model.coef_[0], dtype=np.float64)
    return np.append(coefficients, float(model.intercept_[0])) if intercept else coefficients
