"""Our own heads on rows they were not learned from, as arrays: the same sums as `router.score`, many rows at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.heads import UNSEEN_LIMIT, Head
from router.snapshot import DIFFICULTY, STRONG, WEAK, Snapshot, parse
from serve_app.routing.data import Labelled
from serve_app.routing.design import Design, scaled
from serve_app.routing.fitting import TwoHeads, curved, fit_two, squashed
from serve_app.routing.folds import Fold, by_id, numbers
from serve_app.routing.metrics import Outcomes, Vector
from serve_app.routing.train import train

_TITLE = "gatehouse router eval"


@dataclass(frozen=True, slots=True)
class Said:
    """What two heads say of N rows: probabilities, and where they abstain.

    They do where the text is unlike their training, or the lower bound of the gain is not above 0.
    """

    weak_ok: Vector
    strong_ok: Vector
    abstains: NDArray[np.bool_]

    @property
    def gain(self) -> Vector:
        """P(strong ok) - P(weak ok)."""
        return self.strong_ok - self.weak_ok

    @property
    def served(self) -> Vector:
        """The gain as it is acted on: where the heads abstain nothing is proposed, which is the lowest score."""
        return np.where(self.abstains, -1.0, self.gain)


def two_heads(design: Design, outcomes: Outcomes, rows: Sequence[Labelled], fold: Fold, seed: int = 0) -> Said:
    """Both heads learned from `fold.train`, with calibration folds inside of it, on the rows of `fold.test`."""
    return say(learn_two(design, outcomes, rows, fold, seed), design.of_rows(fold.test))


def learn_two(design: Design, outcomes: Outcomes, rows: Sequence[Labelled], fold: Fold, seed: int = 0) -> Snapshot:
    """The snapshot of two heads from `fold.train`."""
    chosen = [rows[index] for index in numbers(fold.train)]
    part = Outcomes(outcomes.weak[fold.train], outcomes.strong[fold.train], outcomes.graded)
    inner = by_id(chosen, seed=seed)
    return parse(fit_two(design.of_rows(fold.train), part, _TITLE, inner, TwoHeads(seed=seed)))


def learn_difficulty(rows: Sequence[Labelled], seed: int = 0) -> Snapshot:
    """The snapshot of a difficulty head, learned as `gatehouse router train` learns it."""
    return parse(train(rows, DIFFICULTY, _TITLE, seed=seed, measure=False).snapshot)


def say(snapshot: Snapshot, design: Design) -> Said:
    """Two heads on prompts; `ValueError` when the snapshot has none."""
    weak, strong = snapshot.head(WEAK), snapshot.head(STRONG)
    if weak is None or strong is None:
        raise ValueError("the snapshot has no two heads")
    scales = scaled(design, snapshot.scales)
    foreign = _foreign(snapshot, design)
    weak_ok = squashed(_logit(weak, scales, design, foreign))
    strong_ok = squashed(_logit(strong, scales, design, foreign))
    unsure = np.zeros(len(design), dtype=np.bool_)
    if snapshot.gain_low is not None:
        gain = strong_ok - weak_ok
        unsure = np.minimum(curved(snapshot.gain_low, gain), gain) <= 0.0
    return Said(weak_ok, strong_ok, foreign | _outside(snapshot, design) | unsure)


def difficulty(snapshot: Snapshot, design: Design) -> Vector:
    """The difficulty head on prompts, in [0, 1]; words that training hardly met do not count."""
    head = snapshot.head(DIFFICULTY)
    if head is None:
        raise ValueError("the snapshot has no difficulty head")
    return squashed(_logit(head, scaled(design, snapshot.scales), design, _foreign(snapshot, design)))


def _logit(head: Head, scales: Vector, design: Design, mute: NDArray[np.bool_]) -> Vector:
    spoken: Vector = design.words @ np.asarray(head.words, dtype=np.float64)
    return curved(head.calibration, head.bias + scales @ np.asarray(head.weights) + np.where(mute, 0.0, spoken))


def _foreign(snapshot: Snapshot, design: Design) -> NDArray[np.bool_]:
    seen = snapshot.seen
    unseen = [
        1.0 - sum(map(seen.__getitem__, singles)) / len(singles) if singles else 1.0 for singles in design.singles
    ]
    return np.asarray(unseen) > UNSEEN_LIMIT


def _outside(snapshot: Snapshot, design: Design) -> NDArray[np.bool_]:
    found = np.zeros(len(design), dtype=np.bool_)
    for scale in snapshot.scales:
        values = design.numbers[:, scale.position]
        if scale.low is not None:
            found |= values < scale.low
        if scale.high is not None:
            found |= values > scale.high
    return found
