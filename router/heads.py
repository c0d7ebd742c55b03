"""Linear heads over a text: what each feature and the words add to a logit, and whether the text is like the training.

A head is a logistic regression. Its logit is a sum, so its explanation is the sum's terms and nothing is left over.
"""

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from router.calibrate import IDENTITY, Curve
from router.features import Passage
from router.hashing import hashed
from router.structure import structure

WORDS: Final = "words"
CALIBRATION: Final = "calibration"
BIAS: Final = "bias"
_CLIP: Final = 4.0
UNSEEN_LIMIT: Final = 0.6
"""Share of words never met in training above which the words say nothing."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How one number of `structure` is brought to scale: (value - mean) / deviation, cut at 4 deviations.

    `low` and `high` bound what training saw (0.5 % to 99.5 %); None where leaving the range is no reason for doubt.
    """

    name: str
    position: int
    mean: float
    deviation: float
    low: float | None = None
    high: float | None = None

    def of(self, value: float) -> float:
        """The scaled value, in [-4, 4]."""
        return min(max((value - self.mean) / self.deviation, -_CLIP), _CLIP)

    def holds(self, value: float) -> bool:
        """False when training saw (almost) nothing as small or as large."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True, slots=True)
class Head:
    """One logistic regression. `weights` go with the snapshot's scales, `words` with the hashed numbers.

    `words` has 2^bits entries and is never written. `calibration` maps its logit to one that keeps its word.
    """

    name: str
    bias: float
    weights: tuple[float, ...]
    words: "array[float]"
    calibration: Curve = IDENTITY


@dataclass(frozen=True, slots=True)
class Sighting:
    """A passage as the heads of one snapshot see it.

    `scaled` goes with the snapshot's scales; `hashed` are the numbers of its words, `unit` the value that each of them
    has (their vector has length 1). `unseen` is the share of its words (not pairs: most pairs are new anywhere) that
    training never met, in [0, 1]; `outside` names the features beyond the training's range.
    """

    scaled: tuple[float, ...]
    hashed: frozenset[int]
    unit: float
    unseen: float
    outside: tuple[str, ...]

    @property
    def foreign(self) -> bool:
        """True when so little of the wording is known that the words must not count."""
        return self.unseen > UNSEEN_LIMIT


def sight(passage: Passage, scales: Iterable[Scale], seen: bytes, bits: int) -> Sighting:
    """What the heads look at in a passage; `seen` has 1 at the number of each word that training met, else 0."""
    numbers = structure(passage)
    singles, found = hashed(passage.words, bits)
    known = sum(map(seen.__getitem__, singles))
    scaled: list[float] = []
    outside: list[str] = []
    for scale in scales:
        value = numbers[scale.position]
        scaled.append(scale.of(value))
        if not scale.holds(value):
            outside.append(scale.name)
    return Sighting(
        scaled=tuple(scaled),
        hashed=found,
        unit=1.0 / math.sqrt(len(found)) if found else 0.0,
        unseen=1.0 - known / len(singles) if singles else 1.0,
        outside=tuple(outside),
    )


def logit_terms(
    head: Head, seen: Sighting, names: Iterable[str], *, words: bool = True
) -> tuple[tuple[str, float], ...]:
    """The terms of a head's calibrated logit, which is their sum; without the words where they must not count."""
    # `fsum` is exact, so the set's order does not matter.
    spoken = math.fsum(map(head.words.__getitem__, seen.hashed)) * seen.unit if words else 0.0
    parts = [(name, weight * value) for name, weight, value in zip(names, head.weights, seen.scaled, strict=True)]
    terms = [(BIAS, head.bias), *parts, (WORDS, spoken)]
    raw = math.fsum(value for _, value in terms)
    terms.append((CALIBRATION, head.calibration.at(raw) - raw))
    return tuple(terms)
