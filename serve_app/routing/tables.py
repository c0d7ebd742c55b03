"""One set, or a slice of it, measured: a line per contender, all on the same resamples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from serve_app.routing.baselines import LENGTH, OBLIGATORY, Contender
from serve_app.routing.costs import STRONG_COST, WEAK_COST, aiq, composite, curve
from serve_app.routing.metrics import (
    RESAMPLES,
    Description,
    Interval,
    Outcomes,
    Ranking,
    Refused,
    Resamples,
    Vector,
    describe,
    difference,
    rank,
    refusal,
)
from serve_app.routing.reliability import Reliability, reliability


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a router that decides by itself ends up: shares and quality in [0, 1], PGR None where it is refused."""

    strong_share: float
    quality: float
    pgr: float | None


@dataclass(frozen=True, slots=True)
class Line:
    """One contender on one set. `ranking` is None for what cannot order, `Refused` where the set cannot tell.

    `over_length` is its APGR minus that of length alone, paired. `aiq` and `composite` (at a strong share of 20 %) rest
    on configured costs.
    """

    name: str
    seen: bool
    ranking: Ranking | Refused | None
    reliability: Reliability | None
    choice: Choice | None
    over_length: Interval | None
    aiq: float | None
    composite: float | None


@dataclass(frozen=True, slots=True)
class Table:
    """A set or slice: what it is like, and its lines in the order of the contenders."""

    name: str
    description: Description
    refused: Refused | None
    lines: tuple[Line, ...]

    def line(self, name: str) -> Line | None:
        """The line of a contender, if it is there."""
        return next((line for line in self.lines if line.name == name), None)

    def apgr(self, name: str) -> Interval | None:
        """The APGR of a contender; None where there is none."""
        line = self.line(name)
        return line.ranking.apgr if line is not None and isinstance(line.ranking, Ranking) else None


def measure(
    name: str,
    outcomes: Outcomes,
    contenders: Sequence[Contender],
    resamples: Resamples,
) -> Table:
    """The table of a set. Raises `ValueError` when an obligatory contender is missing: that is not a result."""
    missing = set(OBLIGATORY) - {contender.name for contender in contenders}
    if missing:
        raise ValueError(f"a table needs {', '.join(sorted(missing))}")
    description = describe(outcomes, resamples)
    rankings = {
        each.name: None if each.score is None else rank(outcomes, each.score, resamples, description)
        for each in contenders
    }
    ruler = rankings[LENGTH]
    return Table(
        name=name,
        description=description,
        refused=ruler if isinstance(ruler, Refused) else None,
        lines=tuple(_line(each, outcomes, description, resamples, rankings[each.name], ruler) for each in contenders),
    )


def slices(
    name: str,
    labels: Sequence[str],
    outcomes: Outcomes,
    contenders: Sequence[Contender],
    resamples: int = RESAMPLES,
) -> tuple[Table, ...]:
    """One table per label, sorted; scores are sliced, not learned again. Too small to ask for reliability."""
    named = np.asarray(labels)
    tables: list[Table] = []
    for label in sorted(set(labels)):
        inside = np.flatnonzero(named == label)
        tables.append(
            measure(
                f"{name}: {label or 'none'}",
                Outcomes(outcomes.weak[inside], outcomes.strong[inside], outcomes.graded),
                [replace(each.of(inside), weak_wrong=None) for each in contenders],
                Resamples.over_prompts(inside.size, resamples),
            )
        )
    return tuple(tables)


def quality_curve(outcomes: Outcomes, score: Vector, points: int = 101) -> tuple[list[float], list[float]]:
    """Strong share and quality at `points` evenly spaced places of the exact curve, both in [0, 1]: for a picture."""
    _, quality = curve(outcomes, score)
    share = np.linspace(0.0, 1.0, points)
    return share.tolist(), np.interp(share, np.linspace(0.0, 1.0, quality.size), quality).tolist()


def _line(
    contender: Contender,
    outcomes: Outcomes,
    description: Description,
    resamples: Resamples,
    ranking: Ranking | Refused | None,
    ruler: Ranking | Refused | None,
) -> Line:
    comparable = isinstance(ranking, Ranking) and isinstance(ruler, Ranking) and contender.name != LENGTH
    honest = contender.weak_wrong is not None and not outcomes.graded
    area = at_fifth = None
    if contender.score is not None:
        costs, quality = curve(outcomes, contender.score)
        area = aiq(costs, quality)
        fifth = round(0.2 * len(outcomes))
        at_fifth = composite(float(quality[fifth]), float(costs[fifth]))
    return Line(
        name=contender.name,
        seen=contender.seen,
        ranking=ranking,
        reliability=reliability(outcomes.weak < 0.5, contender.weak_wrong, resamples)
        if honest and contender.weak_wrong is not None
        else None,
        choice=None if contender.strong is None else _choice(contender.strong, outcomes, description),
        over_length=difference(ranking, ruler)
        if comparable and isinstance(ranking, Ranking) and isinstance(ruler, Ranking)
        else None,
        aiq=area,
        composite=at_fifth,
    )


def _choice(strong: Vector, outcomes: Outcomes, description: Description) -> Choice:
    quality = float(np.where(strong > 0, outcomes.strong, outcomes.weak).mean())
    gap = description.gap.value
    return Choice(
        strong_share=float((strong > 0).mean()),
        quality=quality,
        pgr=None if refusal(description) is not None else (quality - description.weak) / gap,
    )


COSTS_NOTE = f"Costs are configured ({WEAK_COST:g} and {STRONG_COST:g} per turn), not measured."
