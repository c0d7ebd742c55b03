"""How many decisions survive when the same question is said otherwise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from serve_app.routing.metrics import Vector
from serve_app.routing.perturb import PERTURBATIONS

BUDGETS: Final = (0.1, 0.2, 0.3, 0.5)

Scorer = Callable[[Sequence[str]], Vector]
"""Prompts -> one score each, higher means the strong model."""


@dataclass(frozen=True, slots=True)
class Stability:
    """One perturbation. Per budget: the share of decisions kept, the share a blind guess keeps, the new strong share.

    `changed` is the share of prompts that the perturbation touched; all other figures are of these. The threshold is
    the one that spends the budget on them as they were; `correlation` is Spearman's between old and new scores.
    """

    perturbation: str
    prompts: int
    changed: float
    correlation: float
    kept: Mapping[float, float]
    chance: Mapping[float, float]
    strong_share: Mapping[float, float]


def stability(prompts: Sequence[str], score: Scorer) -> tuple[Stability, ...]:
    """One entry for each of `PERTURBATIONS`; at least two prompts."""
    before = score(prompts)
    found: list[Stability] = []
    for name, perturb in PERTURBATIONS.items():
        changed = [perturb(prompt) for prompt in prompts]
        touched = np.asarray([new != old for new, old in zip(changed, prompts, strict=True)])
        after = score(changed)
        found.append(_compare(name, before, after, touched))
    return tuple(found)


def spearman(first: Vector, second: Vector) -> float:
    """Rank correlation in [-1, 1]; ties share their mean rank. 0 where either does not vary."""
    a, b = mean_ranks(first), mean_ranks(second)
    if a.std() == 0.0 or b.std() == 0.0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def mean_ranks(values: Vector) -> Vector:
    """Ranks from 0, equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2.0)[inverse]


def _compare(
    name: str, before: Vector, after: Vector, touched: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> Stability:
    old, new = before[touched], after[touched]
    kept: dict[float, float] = {}
    share: dict[float, float] = {}
    for budget in BUDGETS:
        if not old.size:
            kept[budget], share[budget] = 1.0, budget
            continue
        threshold = float(np.quantile(old, 1.0 - budget))
        kept[budget] = float(((old > threshold) == (new > threshold)).mean())
        share[budget] = float((new > threshold).mean())
    return Stability(
        perturbation=name,
        prompts=int(touched.sum()),
        changed=float(touched.mean()),
        correlation=spearman(old, new) if old.size > 1 else 1.0,
        kept=kept,
        chance={budget: budget**2 + (1.0 - budget) ** 2 for budget in BUDGETS},
        strong_share=share,
    )
