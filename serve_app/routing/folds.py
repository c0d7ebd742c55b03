"""Folds and draws: which rows are learned from and which are only tested on. Seeds are fixed arguments.

Rows of one key (nearly the same question) always stay together, so that no fold is tested on what it has seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.routing.data import Labelled

FOLDS: Final = 5
SEEDS: Final = (0, 1, 2, 3)
"""Draws of a few-label run."""

Indices = NDArray[np.intp]


def numbers(indices: Indices) -> list[int]:
    """Row numbers as plain integers."""
    return [int(index) for index in indices]


@dataclass(frozen=True, slots=True)
class Fold:
    """Row numbers, ascending: learn from `train`, test on `test`; they share no key."""

    train: Indices
    test: Indices


def by_id(rows: Sequence[Labelled], folds: int = FOLDS, seed: int = 0) -> tuple[Fold, ...]:
    """`folds` parts of nearly equal size; keys are shuffled once, and every row is tested exactly once."""
    keys, group = np.unique([row.key for row in rows], return_inverse=True)
    # Keys in the order of their first row, so that the folds do not depend on the hash.
    first = np.full(len(keys), len(rows), dtype=np.intp)
    np.minimum.at(first, group, np.arange(len(rows)))
    order = np.argsort(first, kind="stable")
    shuffled = order[np.random.default_rng(seed).permutation(len(keys))]
    part_of_key = np.empty(len(keys), dtype=np.intp)
    for number, part in enumerate(np.array_split(shuffled, folds)):
        part_of_key[part] = number
    return _folds(part_of_key[group], folds)


def by_task(rows: Sequence[Labelled], folds: int = FOLDS) -> tuple[Fold, ...]:
    """Whole tasks are held out together: the largest goes to the emptiest part, as scikit-learn's GroupKFold does.

    Rows of one key in two tasks pull both tasks into one part. Raises `ValueError` with fewer tasks than folds.
    """
    tasks = sorted({row.task for row in rows})
    united = {task: task for task in tasks}

    def root(task: str) -> str:
        while united[task] != task:
            task = united[task]
        return task

    seen: dict[str, str] = {}
    for row in rows:
        earlier = seen.setdefault(row.key, row.task)
        low, high = sorted((root(earlier), root(row.task)))
        united[high] = low
    group = [root(row.task) for row in rows]
    sizes = {name: group.count(name) for name in sorted(set(group))}
    if len(sizes) < folds:
        raise ValueError(f"{len(sizes)} tasks that share no question cannot make {folds} folds")
    load = [0] * folds
    part_of: dict[str, int] = {}
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        part_of[name] = load.index(min(load))
        load[part_of[name]] += size
    return _folds(np.asarray([part_of[name] for name in group], dtype=np.intp), folds)


def few(rows: Sequence[Labelled], labels: int, seed: int) -> Fold:
    """`labels` rows to learn from, the first of a seeded permutation; the rest without their keys is the test."""
    drawn: list[int] = np.random.default_rng(seed).permutation(len(rows)).tolist()
    train = sorted(drawn[:labels])
    known = {rows[index].key for index in train}
    test = [index for index in sorted(drawn[labels:]) if rows[index].key not in known]
    return Fold(np.asarray(train, dtype=np.intp), np.asarray(test, dtype=np.intp))


def _folds(part: Indices, folds: int) -> tuple[Fold, ...]:
    return tuple(Fold(np.flatnonzero(part != number), np.flatnonzero(part == number)) for number in range(folds))
