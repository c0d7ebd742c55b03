"""Slices of a label set that teach the wrong thing: hard for the weak model, and the strong one helps less.

A difficulty head is asked to order turns by what the strong model is worth, and learns "the weak model fails". Where a
slice is hard for both models, or was graded in a way that neither could pass, the two part company and the head learns
to send the hopeless upwards. Such slices are found from the labels alone and left out of a difficulty head's training
(never out of an evaluation, and never out of two heads, which see the difference themselves).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.routing.data import Labelled
from serve_app.routing.design import Design
from serve_app.routing.metrics import Vector

NUMERIC_OPTIONS: Final = "options are numbers"
_LEAST_ROWS: Final = 50
_SURE: Final = 2.58
"""Standard errors: 99 %, because many slices are looked at."""


@dataclass(frozen=True, slots=True)
class Misleading:
    """A slice of one set: its rows, weak accuracy and gain, beside those of the set's other rows (shares)."""

    set_name: str
    slice_name: str
    rows: int
    weak_ok: float
    gain: float
    weak_ok_elsewhere: float
    gain_elsewhere: float


def misleading(rows: Sequence[Labelled], design: Design) -> tuple[tuple[Misleading, ...], NDArray[np.bool_]]:
    """The misleading slices, and for every row whether it lies in none of them.

    Slices are the tasks of a set, and its closed questions whose answer options are all numbers.
    """
    sets = np.asarray([row.set_name for row in rows])
    tasks = np.asarray([row.task for row in rows])
    weak = np.asarray([row.weak_ok for row in rows])
    gain = np.asarray([row.strong_ok for row in rows]) - weak
    numeric = design.column("numeric_options") >= 1.0
    kept = np.ones(len(rows), dtype=np.bool_)
    found: list[Misleading] = []
    for set_name in sorted(set(sets.tolist())):
        of_set = sets == set_name
        named = [(task, of_set & (tasks == task)) for task in sorted(set(tasks[of_set].tolist())) if task]
        for slice_name, inside in [*named, (NUMERIC_OPTIONS, of_set & numeric)]:
            elsewhere = of_set & ~inside
            if inside.sum() < _LEAST_ROWS or elsewhere.sum() < _LEAST_ROWS:
                continue
            if _below(weak[inside], weak[elsewhere]) and _below(gain[inside], gain[elsewhere]):
                kept &= ~inside
                found.append(
                    Misleading(
                        set_name=set_name,
                        slice_name=slice_name,
                        rows=int(inside.sum()),
                        weak_ok=float(weak[inside].mean()),
                        gain=float(gain[inside].mean()),
                        weak_ok_elsewhere=float(weak[elsewhere].mean()),
                        gain_elsewhere=float(gain[elsewhere].mean()),
                    )
                )
    return tuple(found), kept


def _below(inside: Vector, elsewhere: Vector) -> bool:
    """True when the mean inside is surely smaller."""
    error = math.sqrt(float(inside.var()) / inside.size + float(elsewhere.var()) / elsewhere.size)
    return float(inside.mean()) < float(elsewhere.mean()) - _SURE * error
