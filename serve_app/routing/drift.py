"""Holding a share of strong calls while the traffic changes: a threshold frozen at the start, and the controller."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from router.budget import Controller, merge, step
from serve_app.routing.metrics import Vector

TARGET: Final = 0.2
REPLICAS: Final = 4
MERGED_EVERY: Final = 100
_EDGE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of the stream: strong shares in [0, 1] by a frozen threshold, one controller, several replicas."""

    name: str
    turns: int
    frozen: float
    held: float
    replicated: float


@dataclass(frozen=True, slots=True)
class Drift:
    """One scorer over the whole stream. Errors are absolute differences from the target, in [0, 1]."""

    scorer: str
    target: float
    segments: tuple[Segment, ...]
    frozen: float
    held: float
    replicated: float

    @property
    def worst_segment(self) -> float:
        """The largest error of one controller on a segment."""
        return max(abs(segment.held - self.target) for segment in self.segments)

    @property
    def overall(self) -> float:
        """The error of one controller over the stream."""
        return abs(self.held - self.target)


def drift(scorer: str, stream: Sequence[tuple[str, Vector]], target: float = TARGET) -> Drift:
    """Run `stream`, pairs of segment name and scores in [0, 1] in order of arrival, none of them empty."""
    logits = [(name, logit(scores)) for name, scores in stream]
    frozen_at = float(np.quantile(logits[0][1], 1.0 - target))
    frozen = [values > frozen_at for _, values in logits]
    held = _controlled([values for _, values in logits], target, 1)
    replicated = _controlled([values for _, values in logits], target, REPLICAS)
    return Drift(
        scorer=scorer,
        target=target,
        segments=tuple(
            Segment(name, values.size, float(a.mean()), float(b.mean()), float(c.mean()))
            for (name, values), a, b, c in zip(logits, frozen, held, replicated, strict=True)
        ),
        frozen=float(np.concatenate(frozen).mean()),
        held=float(np.concatenate(held).mean()),
        replicated=float(np.concatenate(replicated).mean()),
    )


def logit(scores: Vector) -> Vector:
    """Log odds, cut where a score is 0 or 1."""
    safe = np.clip(scores, _EDGE, 1.0 - _EDGE)
    return np.log(safe / (1.0 - safe))


def _controlled(stream: Sequence[Vector], target: float, replicas: int) -> list[Vector]:
    """1 where a turn went to the strong model; turns go round the replicas, which merge now and then."""
    controllers = [Controller(target) for _ in range(replicas)]
    turn = 0
    hits: list[Vector] = []
    for values in stream:
        found = np.zeros(values.size)
        for index, value in enumerate(values.tolist()):
            number = turn % replicas
            hit = value > controllers[number].threshold
            found[index] = float(hit)
            controllers[number] = step(controllers[number], hit)
            turn += 1
            if replicas > 1 and turn % MERGED_EVERY == 0:
                controllers = [merge(own, [other for other in controllers if other is not own]) for own in controllers]
        hits.append(found)
    return hits
