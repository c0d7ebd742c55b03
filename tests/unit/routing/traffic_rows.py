"""Made-up turns of a tenant whose outcomes are known for both tiers: enough to check estimates against the truth."""

import hashlib
from collections.abc import Callable

import numpy as np

from router.types import Effort, Tier
from serve_app.routing.traffic import TrafficRow

Right = Callable[[bool, bool], float]
"""Chance of a right answer, by (hard, strong)."""


def helps(hard: bool, strong: bool) -> float:
    """120b is right at what is hard, 20b is not; both are at the rest."""
    return 0.1 if hard and not strong else 0.95


def everywhere_better(hard: bool, strong: bool) -> float:
    """120b is better by as much wherever it is asked: nothing tells where it is worth it."""
    return 0.9 if strong else 0.6


def no_difference(hard: bool, strong: bool) -> float:
    """Who answers makes no difference."""
    return 0.7


def turns(
    count: int,
    seed: int,
    right: Right = helps,
    exploration: float = 0.1,
    tenant: str = "acme",
    trust: float = 1.0,
    per_session: int = 1,
    after_ms: int = 0,
) -> tuple[TrafficRow, ...]:
    """Turns of which 30 % are hard, which `conditions` tells and length does not; 20b is usual."""
    draw = np.random.default_rng(seed)
    rows: list[TrafficRow] = []
    for number in range(count):
        hard = bool(draw.random() < 0.3)
        chance = exploration / 2
        strong = bool(draw.random() < chance)
        conditions = float(draw.normal(1.4 if hard else 0.3, 0.3))
        group = hashlib.sha256(f"{tenant}/{seed}/{number // per_session}".encode()).hexdigest()[:12]
        rows.append(
            TrafficRow(
                id=f"route_{seed}_{number}",
                tenant=tenant,
                group=group,
                at_ms=after_ms + 1 + number,
                task="chat" if number % 3 else "extraction",
                risk="R0",
                snapshot="0" * 64,
                features={
                    "length": float(draw.normal(5.5, 0.5)),
                    "conditions": conditions,
                    "distinct_words": float(draw.normal(0.75, 0.1)),
                },
                tier=Tier.STRONG if strong else Tier.BASE,
                effort=Effort.MEDIUM,
                usual=Tier.BASE,
                chances={Tier.BASE: 1.0 - chance, Tier.STRONG: chance},
                explored=strong,
                reason="exploration" if strong else "default",
                outcome=float(draw.random() < right(hard, strong)),
                trust=trust,
                source="verifier",
            )
        )
    return tuple(rows)
