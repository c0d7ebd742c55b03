"""`gatehouse router explore`: which features and recipes order prompts on material they were not made from.

Two tables, APGR throughout. The first has every feature of `router.structure` alone. The second has recipes of a
difficulty head, each measured only where it was not fitted: MMLU by unseen subjects, GSM8K after learning from MMLU
alone, MT-Bench after learning from both (72 rows: smoke). "fair" leaves out the slices that are hard for both models
(`hard_for_both`), "mixed" is GSM8K and as many fair MMLU rows shuffled together, which asks whether different kinds of
work are ordered, too. Failures are printed like successes.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router.structure import NAMES
from serve_app.routing.data import GSM8K, MMLU, MTBENCH, DataFolder, Labelled, deduplicate
from serve_app.routing.design import Design, scaled, scales_of
from serve_app.routing.fitting import UNIT_WEIGHTS, ByUnitWeights, Linear, logistic, unit_head
from serve_app.routing.folds import by_task
from serve_app.routing.hard_for_both import misleading
from serve_app.routing.metrics import Outcomes, Vector, apgr

COLUMNS: Final = ("MMLU", "MMLU fair", "GSM8K", "MT-Bench", "mixed")
_MIXES: Final = 5
Learner = Callable[["_Part"], Linear]


@dataclass(frozen=True, slots=True)
class _Set:
    rows: Sequence[Labelled]
    design: Design
    outcomes: Outcomes

    @classmethod
    def of(cls, rows: Sequence[Labelled]) -> "_Set":
        return cls(
            rows,
            Design.of([row.prompt for row in rows]),
            Outcomes.of([row.weak_ok for row in rows], [row.strong_ok for row in rows], rows[0].graded),
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """What a learner is shown: scaled numbers, words, and whether the weak model failed."""

    numbers: Vector
    words: Any
    wrong: Vector
    helps: Vector


@dataclass(frozen=True, slots=True)
class Exploration:
    """The sets, read once, and the MMLU rows outside misleading slices."""

    mmlu: _Set
    gsm8k: _Set
    mtbench: _Set
    fair: NDArray[np.bool_]

    @classmethod
    def open(cls, folder: DataFolder) -> "Exploration":
        """Read the three sets; `DataRefused` where one is missing or damaged."""
        sets = [_Set.of(deduplicate(folder.labelled(name)).rows) for name in (MMLU, GSM8K, MTBENCH)]
        _, fair = misleading(sets[0].rows, sets[0].design)
        return cls(sets[0], sets[1], sets[2], fair)

    def alone(self) -> dict[str, tuple[float, ...]]:
        """Every feature by itself, larger values first."""
        return {
            name: self._figures(*(part.design.column(name) for part in (self.mmlu, self.gsm8k, self.mtbench)))
            for name in NAMES
        }

    def recipes(self) -> dict[str, tuple[float, ...]]:
        """Every recipe of `RECIPES`, on rows it was not fitted to."""
        ruler = self._figures(*(part.design.column("length") for part in (self.mmlu, self.gsm8k, self.mtbench)))
        return {"length": ruler, **{name: self._recipe(recipe) for name, recipe in RECIPES.items()}}

    def _recipe(self, recipe: "Recipe") -> tuple[float, ...]:
        everything = np.ones(len(self.mmlu.rows), dtype=np.bool_)
        usable = np.flatnonzero(self.fair if recipe.fair_rows_only else everything)
        unseen = np.zeros(len(self.mmlu.rows))
        for fold in by_task(self.mmlu.rows):
            score = self._learn(recipe, np.intersect1d(fold.train, usable), with_gsm8k=True)
            unseen[fold.test] = score(self.mmlu.design.of_rows(fold.test))
        elsewhere = self._learn(recipe, usable, with_gsm8k=False)(self.gsm8k.design)
        smoke = self._learn(recipe, usable, with_gsm8k=True)(self.mtbench.design)
        return self._figures(unseen, elsewhere, smoke)

    def _learn(self, recipe: "Recipe", rows: NDArray[np.intp], *, with_gsm8k: bool) -> Callable[[Design], Vector]:
        mmlu = self.mmlu.design.of_rows(rows)
        parts = [(mmlu, self.mmlu.outcomes.weak[rows], self.mmlu.outcomes.gain[rows])]
        if with_gsm8k:
            parts.append((self.gsm8k.design, self.gsm8k.outcomes.weak, self.gsm8k.outcomes.gain))
        design = _joined([part[0] for part in parts])
        weak: Vector = np.concatenate([part[1] for part in parts])
        gain: Vector = np.concatenate([part[2] for part in parts])
        scales = scales_of(design, recipe.features, np.ones(len(design)))
        shown = _Part(scaled(design, scales), design.words, 1.0 - weak, (gain > 0).astype(np.float64))
        head = recipe.learner(shown)
        return lambda asked: head.logit(scaled(asked, scales), asked.words)

    def _figures(self, mmlu: Vector, gsm8k: Vector, mtbench: Vector) -> tuple[float, ...]:
        told = self.mmlu.outcomes
        fair = np.flatnonzero(self.fair)
        draw = np.random.default_rng(0)
        mixed: list[float] = []
        for _ in range(_MIXES):
            some = draw.choice(fair, min(len(self.gsm8k.rows), fair.size), replace=False)
            both = Outcomes.of(
                np.concatenate((told.weak[some], self.gsm8k.outcomes.weak)),
                np.concatenate((told.strong[some], self.gsm8k.outcomes.strong)),
            )
            mixed.append(apgr(both, np.concatenate((mmlu[some], gsm8k))))
        return (
            apgr(told, mmlu),
            apgr(Outcomes.of(told.weak[fair], told.strong[fair]), mmlu[fair]),
            apgr(self.gsm8k.outcomes, gsm8k),
            apgr(self.mtbench.outcomes, mtbench),
            float(np.mean(mixed)),
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a difficulty head is made: its features, its learner, and whether misleading slices are left out first."""

    features: tuple[str, ...]
    learner: Learner
    fair_rows_only: bool = True


def _unit(weights: Mapping[str, float], words: float = 0.0) -> Recipe:
    settings = ByUnitWeights(weights, words)
    return Recipe(
        tuple(weights),
        lambda part: unit_head(part.numbers, part.words, part.wrong, np.ones(part.wrong.size), settings),
    )


def _fitted_numbers(part: _Part) -> Linear:
    """Logistic regression of "weak fails" on the numbers alone."""
    sparse: Any = importlib.import_module("scipy.sparse")
    rows: Any = sparse.csr_matrix(part.numbers)
    fitted = logistic(rows, part.wrong >= 0.5, np.ones(part.wrong.size), 1.0, 0, intercept=True)
    return Linear(float(fitted[-1]), fitted[:-1], np.zeros(int(part.words.shape[1])))


def _words_alone(target: Callable[[_Part], Vector]) -> Learner:
    def learn(part: _Part) -> Linear:
        fitted = logistic(part.words, target(part) >= 0.5, np.ones(part.wrong.size), 1.0, 0, intercept=True)
        return Linear(float(fitted[-1]), np.zeros(int(part.numbers.shape[1])), fitted[:-1])

    return learn


def _wrong(part: _Part) -> Vector:
    return part.wrong


def _helps(part: _Part) -> Vector:
    return part.helps


_ONES: Final = {name: float(np.sign(weight)) for name, weight in UNIT_WEIGHTS.items()}
RECIPES: Final[Mapping[str, Recipe]] = {
    "words -> weak fails, all rows": Recipe(("length",), _words_alone(_wrong), fair_rows_only=False),
    "words -> weak fails": Recipe(("length",), _words_alone(_wrong)),
    "words -> strong helps": Recipe(("length",), _words_alone(_helps)),
    "fitted weights, all structure, all rows": Recipe(NAMES, _fitted_numbers, fair_rows_only=False),
    "fitted weights, all structure": Recipe(NAMES, _fitted_numbers),
    "fitted weights, chosen structure": Recipe(tuple(UNIT_WEIGHTS), _fitted_numbers),
    "unit weights": _unit(UNIT_WEIGHTS),
    "unit weights, all of them 1": _unit(_ONES),
    "unit weights without length": _unit({k: v for k, v in UNIT_WEIGHTS.items() if k != "length"}),
    "unit weights without distinct words": _unit({k: v for k, v in UNIT_WEIGHTS.items() if k != "distinct_words"}),
    "unit weights without options": _unit({k: v for k, v in UNIT_WEIGHTS.items() if k != "option_similarity"}),
    "unit weights + words 0.1": _unit(UNIT_WEIGHTS, 0.1),
    "unit weights + words 0.2 (committed)": _unit(UNIT_WEIGHTS, 0.2),
    "unit weights + words 0.4": _unit(UNIT_WEIGHTS, 0.4),
    "unit weights + words 1.0": _unit(UNIT_WEIGHTS, 1.0),
    "unit weights without numeric options": _unit({k: v for k, v in UNIT_WEIGHTS.items() if k != "numeric_options"}),
    "unit weights, numeric options -0.5": _unit({**UNIT_WEIGHTS, "numeric_options": -0.5}),
    "unit weights - what": _unit({**UNIT_WEIGHTS, "what": -0.5}),
    "unit weights + negations": _unit({**UNIT_WEIGHTS, "negations": 0.5}),
    "unit weights + numbers": _unit({**UNIT_WEIGHTS, "numbers": 0.5}),
    "unit weights + sentence length": _unit({**UNIT_WEIGHTS, "sentence_words": 0.5}),
    "unit weights + mathematics words": _unit({**UNIT_WEIGHTS, "mathematics_words": 0.5}),
}


def markdown(figures: Mapping[str, Sequence[float]], first: str) -> str:
    """A table of three decimals."""
    lines = [f"| {first} | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    lines += [f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |" for name, values in figures.items()]
    return "\n".join(lines)


def _joined(designs: Sequence[Design]) -> Design:
    sparse: Any = importlib.import_module("scipy.sparse")
    stacked: Any = sparse.vstack([design.words for design in designs])
    return Design(
        np.concatenate([design.numbers for design in designs]),
        stacked.tocsr(),
        tuple(single for design in designs for single in design.singles),
        designs[0].bits,
    )
