"""The obligatory lines of every table: what a router must beat, and what no router can."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from serve_app.routing.data import Labelled
from serve_app.routing.folds import Fold, Indices
from serve_app.routing.metrics import Outcomes, Vector

RANDOM: Final = "random"
LENGTH: Final = "length"
TASK_PRIOR: Final = "task prior"
RULES: Final = "rules only (policy v1)"
ALWAYS_WEAK: Final = "always 20b"
ALWAYS_STRONG: Final = "always 120b"
ORACLE: Final = "oracle"
OBLIGATORY: Final = (RANDOM, LENGTH, TASK_PRIOR, RULES, ALWAYS_WEAK, ALWAYS_STRONG, ORACLE)
"""No table without all of them."""

_SEED: Final = 7
_PRIOR_ROWS: Final = 20.0
"""Mass of the mean over all tasks in the prior of one: a task of few rows says little."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of a table: a score per prompt (None where it cannot order), and what else it claims.

    `weak_wrong` is P(the weak model fails) where the router gives one. `strong` is 0 or 1 per prompt where the router
    decides by itself. `seen` says that it was learned from these very rows: a figure to look at, not to quote.
    """

    name: str
    score: Vector | None
    weak_wrong: Vector | None = None
    strong: Vector | None = None
    seen: bool = False

    def of(self, rows: Indices) -> "Contender":
        """The same contender on some of the rows; `rows` are row numbers."""
        return Contender(
            name=self.name,
            score=None if self.score is None else self.score[rows],
            weak_wrong=None if self.weak_wrong is None else self.weak_wrong[rows],
            strong=None if self.strong is None else self.strong[rows],
            seen=self.seen,
        )


def task_prior(tasks: Sequence[str], weak: Vector, folds: Sequence[Fold]) -> Vector:
    """Mean weak error of each row's task, from the folds that do not hold the row, shrunk towards the mean of all."""
    prior = np.zeros(len(tasks))
    names = np.asarray(tasks)
    for fold in folds:
        errors = 1.0 - weak[fold.train]
        overall = float(errors.mean())
        for task in np.unique(names[fold.test]):
            inside = errors[names[fold.train] == task]
            mean = (inside.sum() + _PRIOR_ROWS * overall) / (inside.size + _PRIOR_ROWS)
            prior[fold.test[names[fold.test] == task]] = mean
    return prior


def obligatory(
    rows: Sequence[Labelled], outcomes: Outcomes, tasks: Sequence[str], folds: Sequence[Fold], rules: Vector
) -> tuple[Contender, ...]:
    """One contender for each of `OBLIGATORY`.

    `tasks` is the task of each row (the set's, or the router's own guess), `rules` 0 or 1 per row: policy v1 alone.
    """
    n = len(rows)
    prior = task_prior(tasks, outcomes.weak, folds)
    return (
        Contender(RANDOM, np.random.default_rng(_SEED).random(n)),
        Contender(LENGTH, np.asarray([float(len(row.prompt)) for row in rows])),
        Contender(TASK_PRIOR, prior, weak_wrong=np.clip(prior, 0.0, 1.0)),
        Contender(RULES, rules, strong=rules),
        Contender(ALWAYS_WEAK, None, strong=np.zeros(n)),
        Contender(ALWAYS_STRONG, None, strong=np.ones(n)),
        Contender(ORACLE, outcomes.gain),
    )
