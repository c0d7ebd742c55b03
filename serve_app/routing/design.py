"""Prompts as matrices, by the very functions that serve: what is fitted here is what `router.score` adds up.

scipy and scikit-learn come with the extra `router` and are untyped, hence `Any` for sparse matrices.
"""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router.features import read
from router.hashing import hashed
from router.heads import Scale
from router.structure import NAMES, structure
from router.text import strip_harness
from serve_app.routing.metrics import Vector

BITS: Final = 18
_EXTREMES: Final = (0.5, 99.5)
_RARE_DEVIATION: Final = 0.35
"""A feature that is nearly always 0 would otherwise jump by ten deviations when it is not."""


@dataclass(frozen=True, slots=True)
class Design:
    """N prompts: `numbers` is N x len(NAMES), `words` a sparse N x 2^bits matrix whose rows have length 1.

    `singles` has the hashed words of each prompt without the pairs.
    """

    numbers: Vector
    words: Any
    singles: tuple[frozenset[int], ...]
    bits: int

    @classmethod
    def of(cls, prompts: Sequence[str], bits: int = BITS) -> "Design":
        """Read every prompt once, as the router reads a user's turn."""
        sparse: Any = importlib.import_module("scipy.sparse")
        numbers: list[tuple[float, ...]] = []
        columns: list[int] = []
        values: list[float] = []
        starts = [0]
        alone: list[frozenset[int]] = []
        for prompt in prompts:
            passage = read(strip_harness(prompt).strip())
            singles, together = hashed(passage.words, bits)
            alone.append(singles)
            found = sorted(together)
            numbers.append(structure(passage))
            columns += found
            values += [1.0 / math.sqrt(max(len(found), 1))] * len(found)
            starts.append(len(columns))
        words = sparse.csr_matrix(
            (np.asarray(values), np.asarray(columns, dtype=np.int32), np.asarray(starts, dtype=np.int32)),
            shape=(len(numbers), 1 << bits),
        )
        return cls(np.asarray(numbers, dtype=np.float64).reshape(len(numbers), len(NAMES)), words, tuple(alone), bits)

    def of_rows(self, rows: NDArray[np.intp]) -> "Design":
        """The same for some of the rows, in that order."""
        return Design(self.numbers[rows], self.words[rows], tuple(self.singles[int(row)] for row in rows), self.bits)

    def column(self, name: str) -> Vector:
        """One number of every prompt."""
        return self.numbers[:, NAMES.index(name)]

    def seen(self) -> bytes:
        """One byte per number: 1 where a word of that number occurs, else 0."""
        met = np.zeros(1 << self.bits, dtype=np.uint8)
        met[sorted(frozenset[int]().union(*self.singles))] = 1
        return met.tobytes()

    def __len__(self) -> int:
        return self.numbers.shape[0]


def scales_of(
    design: Design, names: Sequence[str], weight: Vector, below: Sequence[str] = (), above: Sequence[str] = ()
) -> tuple[Scale, ...]:
    """Scales of the named features over weighted rows, with the end of the training's range where it is guarded.

    Guarded are the lower ends of the features in `below` and the upper ends of those in `above`.
    """
    scales: list[Scale] = []
    for name in names:
        values = design.column(name)
        mean = float(np.average(values, weights=weight))
        deviation = math.sqrt(float(np.average((values - mean) ** 2, weights=weight)))
        if name in _RARE and deviation < _RARE_DEVIATION:
            deviation = _RARE_DEVIATION
        low, high = (float(end) for end in np.percentile(values, _EXTREMES))
        low_end, high_end = (low if name in below else None), (high if name in above else None)
        scales.append(Scale(name, NAMES.index(name), mean, max(deviation, 1e-3), low_end, high_end))
    return tuple(scales)


_RARE: Final = frozenset(name for name in NAMES if name.endswith(("_words", "_marks", "numeric_options"))) - {
    "distinct_words",
    "long_words",
    "sentence_words",
}


def scaled(design: Design, scales: Sequence[Scale]) -> Vector:
    """N x len(scales), each column as `Scale.of` gives it."""
    return np.asarray(
        [[scale.of(float(row[scale.position])) for scale in scales] for row in design.numbers], dtype=np.float64
    ).reshape(len(design), len(scales))
