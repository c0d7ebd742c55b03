"""Holding a share: the threshold that lets a target share of the turns through, whatever the scores look like today.

A frozen threshold breaks when the traffic changes; this one follows. `step` is pure, one call per eligible turn. Two
terms move the threshold, which is on the scale of a logit: every hit raises it and every miss lowers it, so that it
comes to rest where the share is the target; and what was given too much or too little lately is paid back, so that the
time it took to get there does not stay in the books. The hard cap is a token bucket over the strong tier's time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from router.types import BudgetView

ETA: Final = 0.15
"""Logits by which a hit raises the threshold at a target of 0, and a miss lowers it at a target of 1."""

PAYBACK: Final = 0.02
"""Logits per turn and owed hit. 0.005 to 0.1 hold the share within two points on shifts between four public sets;
without it four replicas and two of three scorers missed it by up to eight."""

MOST_OWED: Final = 40.0
FROZEN: Final = 20
"""Turns to be seen before the threshold moves."""

CLAMP: Final = 12.0
"""The threshold stays within plus and minus this many logits; a probability of 0.999999 is at 13.8."""


@dataclass(frozen=True, slots=True)
class Controller:
    """The threshold of one tenant on one replica.

    `target` is a share in [0, 1]. `owed` are the hits given beyond the target and not yet paid back, negative when too
    few were given. `seen` and `hits` count this replica's own eligible turns and only grow; `recent` counts those since
    the last merge.
    """

    target: float
    threshold: float = 0.0
    owed: float = 0.0
    seen: int = 0
    hits: int = 0
    recent: int = 0

    def view(self, drained: bool = False) -> BudgetView:
        """What the router may know of it."""
        return BudgetView(self.target, self.threshold, drained)


def step(controller: Controller, hit: bool) -> Controller:
    """The controller after one eligible turn; `hit` says that its score was above the threshold."""
    missed_by = (1.0 if hit else 0.0) - controller.target
    owed = _clip(controller.owed + missed_by, MOST_OWED)
    seen = controller.seen + 1
    moved = ETA * missed_by + PAYBACK * owed if seen >= FROZEN else 0.0
    return Controller(
        target=controller.target,
        threshold=_clip(controller.threshold + moved, CLAMP),
        owed=owed,
        seen=seen,
        hits=controller.hits + hit,
        recent=controller.recent + 1,
    )


def merge(own: Controller, others: Sequence[Controller]) -> Controller:
    """The replica's controller after it has looked at those of the other replicas of its tenant.

    Threshold and debt become the means over the turns that each has seen since its last merge; each replica then pays
    its part back. The counts stay the replica's own, so that `share` counts every turn once however often is merged.
    """
    known = [own, *others]
    turns = sum(each.recent for each in known)
    if turns == 0:
        return own
    return replace(
        own,
        threshold=_clip(sum(each.threshold * each.recent for each in known) / turns, CLAMP),
        owed=_clip(sum(each.owed * each.recent for each in known) / turns, MOST_OWED),
        recent=0,
    )


def share(controllers: Sequence[Controller]) -> float | None:
    """The share of hits over all replicas, None before the first turn."""
    seen = sum(each.seen for each in controllers)
    return sum(each.hits for each in controllers) / seen if seen else None


def retarget(controller: Controller, target: float) -> Controller:
    """The controller with another target: the threshold goes on from where it is, and old debts are forgotten."""
    return controller if controller.target == target else replace(controller, target=target, owed=0.0)


@dataclass(frozen=True, slots=True)
class Bucket:
    """The strong tier's time that a tenant has left, in milliseconds; negative when a turn took more than was left."""

    left_ms: float
    at_ms: int


@dataclass(frozen=True, slots=True)
class Cap:
    """A hard cap: `ms_per_hour` flows in, at most `burst_ms` are kept."""

    ms_per_hour: float
    burst_ms: float


def full(cap: Cap, now_ms: int) -> Bucket:
    """A bucket at its brim."""
    return Bucket(cap.burst_ms, now_ms)


def refill(bucket: Bucket, cap: Cap, now_ms: int) -> Bucket:
    """The bucket at `now_ms`. A clock that went back gives nothing and takes nothing."""
    passed_ms = max(now_ms - bucket.at_ms, 0)
    left_ms = min(bucket.left_ms + passed_ms * cap.ms_per_hour / 3_600_000, cap.burst_ms)
    return Bucket(left_ms, max(now_ms, bucket.at_ms))


def charge(bucket: Bucket, cap: Cap, used_ms: float, now_ms: int) -> Bucket:
    """The bucket after a turn took `used_ms` of the strong tier. Forced turns are charged, too: the time is gone."""
    filled = refill(bucket, cap, now_ms)
    return replace(filled, left_ms=filled.left_ms - max(used_ms, 0.0))


def drained(bucket: Bucket, cap: Cap, now_ms: int) -> bool:
    """True when nothing is left to be given by choice."""
    return refill(bucket, cap, now_ms).left_ms <= 0.0


def _clip(value: float, most: float) -> float:
    return min(max(value, -most), most)
