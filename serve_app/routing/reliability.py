"""Whether a probability means what it says: Brier score, log loss, expected calibration error and its table."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serve_app.routing.metrics import Interval, Resamples, Vector, interval, mean_with_interval

BINS: Final = 15
_CLIP: Final = 1e-6
"""Log loss of a probability of 0 or 1 that was wrong is bounded by this."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One row of the reliability table: probabilities in [low, high), the last closed; means are None when empty."""

    low: float
    high: float
    count: int
    mean_probability: float | None
    frequency: float | None


@dataclass(frozen=True, slots=True)
class Reliability:
    """How honest a probability is, in `BINS` bins of equal width; `table` has one entry per bin.

    The interval of `ece` is of resamples as they are, so it leans up: noise can only add to an absolute difference.
    """

    brier: Interval
    log_loss: Interval
    ece: Interval
    table: tuple[Bin, ...]


def reliability(event: NDArray[np.bool_], probability: ArrayLike, resamples: Resamples) -> Reliability:
    """Figures for the claim that `event` has `probability`, one value in [0, 1] per prompt; else `ValueError`."""
    said = np.asarray(probability, dtype=np.float64)
    if said.shape != event.shape or not ((said >= 0.0) & (said <= 1.0)).all():
        raise ValueError("a probability lies in [0, 1], one per event")
    happened = event.astype(np.float64)
    safe = np.clip(said, _CLIP, 1.0 - _CLIP)
    members = _members(said)
    return Reliability(
        brier=mean_with_interval((said - happened) ** 2, resamples),
        log_loss=mean_with_interval(-(happened * np.log(safe) + (1.0 - happened) * np.log(1.0 - safe)), resamples),
        ece=interval(
            float(_ece(said, happened, members, np.ones((1, said.size)))[0]),
            _ece(said, happened, members, resamples.counts),
        ),
        table=tuple(_bin(number, said, happened, members[:, number] > 0) for number in range(BINS)),
    )


def ece(event: NDArray[np.bool_], probability: ArrayLike) -> float:
    """Expected calibration error: the mean over prompts of |said - happened| per bin."""
    said = np.asarray(probability, dtype=np.float64)
    return float(_ece(said, event.astype(np.float64), _members(said), np.ones((1, said.size)))[0])


def _members(said: Vector) -> Vector:
    """N x BINS, one 1 per row: the bin of each probability."""
    return np.eye(BINS)[np.minimum((said * BINS).astype(np.intp), BINS - 1)]


def _ece(said: Vector, happened: Vector, members: Vector, counts: Vector) -> Vector:
    return np.abs(counts @ (members * (said - happened)[:, None])).sum(axis=1) / counts.sum(axis=1)


def _bin(number: int, said: Vector, happened: Vector, inside: NDArray[np.bool_]) -> Bin:
    count = int(inside.sum())
    return Bin(
        low=number / BINS,
        high=(number + 1) / BINS,
        count=count,
        mean_probability=float(said[inside].mean()) if count else None,
        frequency=float(happened[inside].mean()) if count else None,
    )
