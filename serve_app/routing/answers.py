"""The answer checks against labelled answers: what each is worth, what they are worth together, and their weights.

A development tool: serving imports none of it. The weights that it learns are committed as `router/verify/weights.py`.
"""

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from router.features import read
from router.signals.task import classify
from router.types import Role, Turn
from router.verify.answer_score import AnswerWeights, score_answer
from router.verify.reckoning import CHECKS, Reckoning, reckon
from router.verify.values import Answer, Check, Status, Task, Verdict
from router.verify.verify import verify
from serve_app.routing.data import Labelled
from serve_app.routing.folds import by_id
from serve_app.routing.metrics import (
    Interval,
    Outcomes,
    Ranking,
    Refused,
    Resamples,
    auc,
    describe,
    mean_with_interval,
    rank,
)
from serve_app.routing.reliability import Reliability, reliability

_PENALTY: Final = 0.05  # inverse strength, over standardised checks
_DIGITS: Final = 4
_LEAST_ROWS: Final = 50

Matrix = NDArray[np.float64]


class _Logistic(Protocol):
    """What is used of scikit-learn's model."""

    coef_: Matrix  # 1 x checks
    intercept_: Matrix  # 1

    def fit(self, matrix: Matrix, target: NDArray[np.bool_]) -> object: ...


class NoAnswers(Exception):
    """The set has too few answers of the weak model, or only good or only bad ones."""


@dataclass(frozen=True, slots=True)
class CheckQuality:
    """How one check does at finding wrong answers: `fired` of `n` answers, precision and recall in [0, 1].

    `auc` is None when the check says the same of every answer. `precision` is None when it never fires.
    """

    name: str
    n: int
    fired: int
    precision: Interval | None
    recall: Interval
    auc: Interval | None


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """The answer checks on one set.

    `ranking` is of the out-of-fold P(wrong), `calibration` its reliability. `checks` are the terms of the score, where
    a size counts as fired above its mean; `verdicts` the verifiers that fail an answer, with the committed weights,
    and `any` for the whole verdict. `committed` ranks by the committed weights: optimistic on the set they were
    learned from.
    """

    n: int
    wrong: int
    ranking: Ranking | Refused
    auc: Interval | None
    calibration: Reliability
    checks: tuple[CheckQuality, ...]
    verdicts: tuple[CheckQuality, ...]
    committed: Ranking | Refused


def answered(rows: Sequence[Labelled]) -> tuple[Labelled, ...]:
    """The rows that hold the weak model's answer and say whether it is right."""
    return tuple(row for row in rows if row.weak_answer is not None and not row.graded)


def reckonings(rows: Sequence[Labelled]) -> tuple[Reckoning, ...]:
    """The checks of every answer; rows as `answered` gives them."""
    return tuple(reckon(row.prompt, row.weak_answer or "") for row in rows)


def fit(rows: Sequence[Labelled]) -> AnswerWeights:
    """Weights of a logistic regression for "the weak answer is wrong", rounded to four digits. Deterministic.

    Raises `NoAnswers` for fewer than 50 answers, or when all are alike.
    """
    usable = answered(rows)
    return _fit(_matrix(reckonings(usable)), _wrong(usable))


def out_of_fold(rows: Sequence[Labelled], seed: int = 0) -> Matrix:
    """P(wrong) of every row from weights that never saw its key, five folds; rows as `answered` gives them."""
    checked, wrong = reckonings(rows), _wrong(rows)
    matrix, said = _matrix(checked), np.zeros(len(rows))
    for fold in by_id(rows, seed=seed):
        weights = _fit(matrix[fold.train], wrong[fold.train])
        held_out: list[int] = fold.test.tolist()
        for index in held_out:
            said[index] = score_answer(checked[index], weights).p_wrong
    return said


def evaluate(rows: Sequence[Labelled], seed: int = 0) -> AnswerReport:
    """What the checks are worth on labelled answers. Raises `NoAnswers` as `fit` does."""
    usable = answered(rows)
    wrong = _wrong(usable)
    if len(usable) < _LEAST_ROWS:
        raise NoAnswers(f"{len(usable)} answers; {_LEAST_ROWS} are needed.")
    outcomes = Outcomes.of([row.weak_ok for row in usable], [row.strong_ok for row in usable])
    resamples = Resamples.over_prompts(len(usable))
    description = describe(outcomes, resamples)
    said = out_of_fold(usable, seed)
    checked = reckonings(usable)
    matrix = _matrix(checked)
    served = np.array([score_answer(each).p_wrong for each in checked])
    return AnswerReport(
        n=len(usable),
        wrong=int(wrong.sum()),
        ranking=rank(outcomes, said, resamples, description),
        auc=auc(wrong, said, resamples),
        calibration=reliability(wrong, said, resamples),
        checks=tuple(
            _quality(name, _fires(column), column, wrong, resamples)
            for name, column in zip(CHECKS, matrix.T, strict=True)
        ),
        verdicts=_verdicts(usable, wrong, resamples),
        committed=rank(outcomes, served, resamples, description),
    )


def weights_module(weights: AnswerWeights, rows: Sequence[Labelled], licence: str) -> str:
    """The text of `router/verify/weights.py` for these weights, which names what they were learned from."""
    usable = answered(rows)
    digest = hashlib.sha256("\n".join(row.row_id for row in usable).encode()).hexdigest()
    terms = "\n".join(f"    {weight!r},  # {name}" for name, weight in zip(CHECKS, weights.weights, strict=True))
    return f'''"""Weights of the answer checks, in the order of `CHECKS`. Written by `serve_app/routing/answers.py`.

Learned from {len(usable)} answers of {usable[0].set_name} ({licence}).
SHA-256 of the row ids, in order: {digest}
"""

from typing import Final

BIAS: Final = {weights.bias!r}
WEIGHTS: Final = (
{terms}
)
'''


def _wrong(rows: Sequence[Labelled]) -> NDArray[np.bool_]:
    return np.array([row.weak_ok < 0.5 for row in rows], dtype=np.bool_)


def _matrix(checked: Sequence[Reckoning]) -> Matrix:
    return np.array([each.values for each in checked], dtype=np.float64)


def _fit(matrix: Matrix, wrong: NDArray[np.bool_]) -> AnswerWeights:
    if len(wrong) < _LEAST_ROWS or wrong.all() or not wrong.any():
        raise NoAnswers(f"{len(wrong)} answers, {int(wrong.sum())} of them wrong, teach nothing.")
    mean, scale = matrix.mean(axis=0), matrix.std(axis=0)
    scale = np.where(scale > 0, scale, np.inf)  # what never varies weighs nothing
    linear: Any = importlib.import_module("sklearn.linear_model")  # has no types
    model: _Logistic = linear.LogisticRegression(C=_PENALTY, solver="lbfgs", tol=1e-8, max_iter=1_000)
    model.fit((matrix - mean) / scale, wrong)
    raw: Matrix = model.coef_[0] / scale
    bias = float(model.intercept_[0]) - float((raw * mean).sum())
    return AnswerWeights(round(bias, _DIGITS), tuple(round(float(each), _DIGITS) for each in raw))


def _fires(column: Matrix) -> NDArray[np.bool_]:
    few = len(np.unique(column)) <= 5
    return column > (0.0 if few else column.mean())


def _quality(
    name: str, fired: NDArray[np.bool_], value: Matrix, wrong: NDArray[np.bool_], resamples: Resamples
) -> CheckQuality:
    def share(of: NDArray[np.bool_], among: NDArray[np.bool_]) -> Interval | None:
        if not among.any():
            return None
        counts = resamples.counts[:, among]
        within = Resamples(counts[counts.sum(axis=1) > 0])
        return mean_with_interval(of[among].astype(np.float64), within)

    recall = share(fired, wrong)
    return CheckQuality(
        name=name,
        n=len(wrong),
        fired=int(fired.sum()),
        precision=share(wrong, fired),
        recall=recall if recall is not None else Interval(0.0, 0.0, 0.0),
        auc=auc(wrong, value, resamples) if np.ptp(value) > 0 else None,
    )


def _verdicts(rows: Sequence[Labelled], wrong: NDArray[np.bool_], resamples: Resamples) -> tuple[CheckQuality, ...]:
    said = [_verdict(row) for row in rows]
    whole = np.array([verdict.status is Status.FAIL for verdict in said])
    found = [("any", whole)]
    for check in Check:
        fails = np.array([any(each.check is check for each in verdict.failed) for verdict in said])
        if fails.any():
            found.append((check.value, fails))
    return tuple(_quality(name, fails, fails.astype(np.float64), wrong, resamples) for name, fails in found)


def _verdict(row: Labelled) -> Verdict:
    task = Task(classify(read(row.prompt), shows_diff=False), (Turn(Role.USER, row.prompt),))
    return verify(Answer(row.weak_answer or "", finish=""), task)
