"""The learner that peers use, as a baseline: scikit-learn's logistic regression on TF-IDF of words and hand features.

Reproduces the prototypes that the bars were set by. It is never served: one `predict_proba` takes milliseconds.
scikit-learn comes with the extra `router` and is untyped, hence `Any`.
"""

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router.features import Features, read
from router.lexicon import Group
from serve_app.routing.folds import Fold, Indices
from serve_app.routing.metrics import Outcomes, Vector

BITS: Final = 18
_HAND_SCALE: Final = 0.2
_CONSTANT: Final = 1e-9
"""A feature that never varied in training has a deviation of rounding errors, not of 0."""

_TOLERANCE: Final = 1e-2
_ITERATIONS: Final = 60
"""Too few to converge, as in the prototypes: more changes no figure, and the warning is silenced for that."""


@dataclass(frozen=True, slots=True)
class Bag:
    """Prompts as numbers: `counts` is a sparse N x 2^18 matrix of hashed words and word pairs, `hand` N x 20."""

    counts: Any
    hand: Vector

    @classmethod
    def of(cls, prompts: Sequence[str]) -> "Bag":
        """Read every prompt once."""
        return cls(
            counts=vectorizer().transform(prompts).tocsr(),
            hand=np.asarray([hand_features(read(prompt).features) for prompt in prompts]),
        )


def vectorizer() -> Any:
    """scikit-learn's hashing of words and pairs of words, raw counts."""
    text: Any = importlib.import_module("sklearn.feature_extraction.text")
    made: Any = text.HashingVectorizer(
        n_features=1 << BITS, ngram_range=(1, 2), alternate_sign=False, norm=None, lowercase=True
    )
    return made


def hand_features(features: Features) -> tuple[float, ...]:
    """The 20 figures of the prototype, in a fixed order; counts as logarithms."""
    log = np.log1p
    count = features.count
    return (
        features.log_characters,
        float(log(features.words)),
        features.mean_word_chars,
        features.distinct_share,
        float(log(features.numbers)),
        features.number_share,
        float(log(features.longest_number)),
        float(features.questions),
        float(log(features.lines)),
        float(log(count(Group.CODE) + features.code_marks)),
        float(log(count(Group.MATHEMATICS))),
        float(log(features.math_marks)),
        float(log(count(Group.REASONING))),
        float(log(features.answer_options)),
        features.upper_share,
        features.non_ascii_share,
        features.punctuation_share,
        features.long_word_share,
        float(log(features.blanks)),
        float(features.passage),
    )


def heads(bag: Bag, outcomes: Outcomes, fold: Fold, regularisation: float = 1.0) -> tuple[Vector, Vector]:
    """P(weak ok) and P(strong ok) of the rows of `fold.test`, learned from `fold.train`."""
    design = _design(bag, fold.train)
    learned, asked = design[fold.train], design[fold.test]
    return (
        _probability(learned, outcomes.weak[fold.train] >= 0.5, asked, regularisation),
        _probability(learned, outcomes.strong[fold.train] >= 0.5, asked, regularisation),
    )


def direct_gain(bag: Bag, outcomes: Outcomes, fold: Fold, regularisation: float = 1.0) -> Vector:
    """P(weak wrong and strong right) of the rows of `fold.test`, learned as one event."""
    design = _design(bag, fold.train)
    event = (outcomes.gain > 0)[fold.train]
    return _probability(design[fold.train], event, design[fold.test], regularisation)


def out_of_fold(predict: Callable[[Fold], Vector], folds: Sequence[Fold], rows: int) -> Vector:
    """One value per row, each from the fold in which the row was only tested."""
    values = np.full(rows, np.nan)
    for fold in folds:
        values[fold.test] = predict(fold)
    return values


def _design(bag: Bag, train: Indices) -> Any:
    """Unit-length TF-IDF beside scaled hand features; weights and scales are learned from `train` alone."""
    text: Any = importlib.import_module("sklearn.feature_extraction.text")
    sparse: Any = importlib.import_module("scipy.sparse")
    weighting = text.TfidfTransformer(sublinear_tf=True).fit(bag.counts[train])
    centre, scale = bag.hand[train].mean(axis=0), bag.hand[train].std(axis=0)
    hand = _HAND_SCALE * (bag.hand - centre) / np.where(scale > _CONSTANT, scale, 1.0)
    return sparse.hstack([weighting.transform(bag.counts), sparse.csr_matrix(hand)]).tocsr()


def _probability(learned: Any, event: NDArray[np.bool_], asked: Any, regularisation: float) -> Vector:
    if event.all() or not event.any():
        return np.full(int(asked.shape[0]), float(event[0]), dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted: Any = estimator(regularisation).fit(learned, event)
    return np.asarray(fitted.predict_proba(asked)[:, 1], dtype=np.float64)


def estimator(regularisation: float) -> Any:
    """Logistic regression as in the prototypes: liblinear on the dual, loose tolerance, bounded iterations."""
    linear: Any = importlib.import_module("sklearn.linear_model")
    made: Any = linear.LogisticRegression(
        C=regularisation, solver="liblinear", dual=True, tol=_TOLERANCE, max_iter=_ITERATIONS, random_state=0
    )
    return made
