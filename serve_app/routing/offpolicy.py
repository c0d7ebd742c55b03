"""What a way of routing would be worth, from turns that were routed in another way with known chances.

Only the tier that answered is judged. A turn therefore stands for as many as its chance says (inverse propensity): the
self-normalised mean of such turns is SNIPS (Swaminathan & Joachims 2015), and adding them up around a model of the
outcomes is doubly robust (Dudík, Langford & Li 2011): right when either the chances or the model are. Weights are
clipped; where chance never covered a tier, nothing is estimated. Pure: arrays in, figures out.

All of it is about judged turns. Where the wish to judge depends on the tier, the shares of the tiers among them do not
fit the chances, and that is refused, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.routing.metrics import Interval, Outcomes, Resamples, Vector, interval

MOST_WEIGHT: Final = 100.0
"""One turn never stands for more: an exploration of 2 % reaches it."""

LEAST_PER_TIER: Final = 20
_MOST_DEVIATIONS: Final = 4.0
_NAMES: Final = ("20b", "120b")


@dataclass(frozen=True, slots=True)
class Logged:
    """N judged turns whose tier was drawn: all vectors are N long.

    `strong` is 1 where 120b answered, else 0; `chance` is that of 120b, in (0, 1); `outcome` lies in [0, 1], `trust` in
    (0, 1]. Turns of one `group` (a session) are resampled together.
    """

    strong: Vector
    chance: Vector
    outcome: Vector
    trust: Vector
    group: NDArray[np.intp]

    def __len__(self) -> int:
        return self.strong.size

    def of(self, rows: NDArray[np.intp]) -> "Logged":
        """The same for some of the turns."""
        return Logged(self.strong[rows], self.chance[rows], self.outcome[rows], self.trust[rows], self.group[rows])

    @property
    def propensity(self) -> Vector:
        """The chance of the tier that answered."""
        return np.where(self.strong > 0, self.chance, 1.0 - self.chance)

    def weights(self) -> Vector:
        """How many turns each stands for, clipped."""
        return np.minimum(1.0 / self.propensity, MOST_WEIGHT)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whether chance has covered both tiers.

    `judged` counts turns of (20b, 120b), `worth` says how many equally weighted ones they are worth. `clipped` is the
    share of turns whose weight was cut; `why` is empty where estimates may be made.
    """

    judged: tuple[int, int]
    worth: tuple[float, float]
    clipped: float
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """What a policy is worth: the share of right answers by both estimates, and its share of 120b.

    `worth` is how many independent turns SNIPS rests on.
    """

    name: str
    snips: Interval
    robust: Interval
    strong_share: float
    worth: float


@dataclass(frozen=True, slots=True)
class Lead:
    """How much more a policy is worth than another: doubly robust, on the same resamples."""

    name: str
    over: str
    lead: Interval


def effective(weights: Vector) -> float:
    """How many equally weighted turns are worth as much as these (Kish); 0 for none."""
    squares = float((weights**2).sum())
    return 0.0 if squares == 0.0 else float(weights.sum()) ** 2 / squares


def coverage(logged: Logged) -> Coverage:
    """Whether both tiers were given to judged turns, about as often as their chances say."""
    weights = logged.weights() * logged.trust
    arms = (logged.strong == 0, logged.strong > 0)
    counts = (int(arms[0].sum()), int(arms[1].sum()))
    worth = (effective(weights[arms[0]]), effective(weights[arms[1]]))
    why = [
        f"{count} judged turns of {name} by chance (worth {sure:.0f}) are fewer than {LEAST_PER_TIER}: "
        "let more turns explore, or wait"
        for name, count, sure in zip(_NAMES, counts, worth, strict=True)
        if min(count, sure) < LEAST_PER_TIER
    ]
    spread = float(np.sqrt((logged.chance * (1.0 - logged.chance)).sum()))
    expected = float(logged.chance.sum())
    if spread > 0 and abs(counts[1] - expected) > _MOST_DEVIATIONS * spread:
        why.append(
            f"{counts[1]} judged turns were answered by 120b where their chances say {expected:.0f}: "
            "who judges depends on the tier, or the chances are wrong"
        )
    clipped = float((1.0 / logged.propensity > MOST_WEIGHT).mean()) if len(logged) else 0.0
    return Coverage(counts, worth, clipped, tuple(why))


def both(logged: Logged, weak_ok: Vector, strong_ok: Vector) -> Outcomes:
    """For each turn an unbiased guess of both outcomes: the model's, corrected by what came of the tier that answered.

    `weak_ok` and `strong_ok` are a model's chances of a right answer, made without the turn itself. Single guesses may
    lie far outside of [0, 1]; their means are what counts.
    """
    stands = logged.weights()
    answered, weak = logged.strong > 0, logged.outcome - weak_ok
    return Outcomes(
        weak_ok + np.where(answered, 0.0, stands * weak),
        strong_ok + np.where(answered, stands * (logged.outcome - strong_ok), 0.0),
        graded=True,
    )


def values(
    policies: Sequence[tuple[str, Vector]], logged: Logged, outcomes: Outcomes, resamples: Resamples
) -> tuple[Value, ...]:
    """What each policy is worth; a policy is its chance of 120b for each turn. `outcomes` are those of `both`."""
    found: list[Value] = []
    for name, strong in policies:
        given = np.where(logged.strong > 0, strong, 1.0 - strong)
        weights = logged.trust * given * logged.weights()
        found.append(
            Value(
                name,
                _ratio(weights * logged.outcome, weights, resamples),
                _ratio(logged.trust * _expected(strong, outcomes), logged.trust, resamples),
                float(np.average(strong, weights=logged.trust)),
                effective(weights),
            )
        )
    return tuple(found)


def lead(
    first: tuple[str, Vector], second: tuple[str, Vector], logged: Logged, outcomes: Outcomes, over: Resamples
) -> Lead:
    """How much more the first policy is worth than the second."""
    apart = _expected(first[1], outcomes) - _expected(second[1], outcomes)
    return Lead(first[0], second[0], _ratio(logged.trust * apart, logged.trust, over))


def _expected(strong: Vector, outcomes: Outcomes) -> Vector:
    return (1.0 - strong) * outcomes.weak + strong * outcomes.strong


def _ratio(above: Vector, below: Vector, resamples: Resamples) -> Interval:
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = (resamples.counts @ above) / (resamples.counts @ below)
        return interval(float(above.sum() / below.sum()), resampled)
