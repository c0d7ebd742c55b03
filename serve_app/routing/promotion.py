"""May a learned head act? Only where it beats every ruler on labels that it was not trained on.

Candidates are the difference of two heads, the difficulty, the length of the prompt, and the task's prior. A head is
admitted when the lower end of the 95 % interval of its APGR lies above random order, and the lower ends of its paired
differences to length and to the task prior lie above 0 (same resamples for all). Three hundred labels are enough to
refuse a head, thousands are needed to admit one. Pure: labels and scores in, a verdict out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.routing.metrics import (
    Interval,
    Outcomes,
    Ranking,
    Refused,
    Resamples,
    Vector,
    apgr,
    describe,
    difference,
    rank,
    refusal,
)

LEAST_LABELS: Final = 300
RANDOM_APGR: Final = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says about one head. `over` has its paired lead over each ruler; `why` is empty when admitted."""

    name: str
    apgr: Interval | None
    over: Mapping[str, Interval]
    why: tuple[str, ...]

    @property
    def admitted(self) -> bool:
        """The head may act."""
        return not self.why


@dataclass(frozen=True, slots=True)
class Promotion:
    """The gate's outcome: one verdict per head, the rulers' APGR, and the head that should act (None: none may)."""

    labels: int
    verdicts: tuple[Verdict, ...]
    rulers: Mapping[str, Interval]
    acts: str | None


def promote(
    outcomes: Outcomes,
    heads: Mapping[str, Vector],
    rulers: Mapping[str, Vector],
    own: NDArray[np.bool_] | None = None,
    seed: int = 0,
    groups: NDArray[np.intp] | None = None,
) -> Promotion:
    """The gate over N labels that no head was trained on.

    `heads` and `rulers` map a name to one score per label (higher goes to the strong model). `own` marks the tenant's
    own rows where labels are pooled: on those a head must not be worse than random either. Labels of one of `groups`
    are resampled together; without it each is a group of its own.
    """
    together = np.arange(len(outcomes)) if groups is None else groups
    why = _unusable(outcomes, own, together)
    if why is not None:
        return Promotion(len(outcomes), tuple(Verdict(name, None, {}, (why,)) for name in heads), {}, None)
    resamples = Resamples.over_groups(together, seed=seed)
    described = describe(outcomes, resamples)
    measured = {name: rank(outcomes, score, resamples, described) for name, score in {**rulers, **heads}.items()}
    known = {name: ranking for name, ranking in measured.items() if not isinstance(ranking, Refused)}
    verdicts = tuple(
        _judged(name, known[name], {ruler: known[ruler] for ruler in rulers}, outcomes, score, own)
        for name, score in heads.items()
    )
    admitted = [verdict for verdict in verdicts if verdict.admitted]
    best = max(admitted, key=lambda verdict: known[verdict.name].apgr.value, default=None)
    return Promotion(
        labels=len(outcomes),
        verdicts=verdicts,
        rulers={ruler: known[ruler].apgr for ruler in rulers},
        acts=None if best is None else best.name,
    )


def _unusable(outcomes: Outcomes, own: NDArray[np.bool_] | None, groups: NDArray[np.intp]) -> str | None:
    if len(outcomes) < LEAST_LABELS:
        return f"{len(outcomes)} labels are fewer than {LEAST_LABELS}"
    if own is not None and not own.any():
        return "none of the labels is the tenant's own"
    refused = refusal(describe(outcomes, Resamples.over_groups(groups)))
    return None if refused is None else refused.why


def _judged(
    name: str,
    ranking: Ranking,
    rulers: Mapping[str, Ranking],
    outcomes: Outcomes,
    score: Vector,
    own: NDArray[np.bool_] | None,
) -> Verdict:
    over = {ruler: difference(ranking, other) for ruler, other in rulers.items()}
    why: list[str] = []
    if not ranking.apgr.low > RANDOM_APGR:
        why.append(f"its lower bound {ranking.apgr.low:.3f} is not above random order ({RANDOM_APGR})")
    why.extend(
        f"its lead over {ruler} may be nothing: {lead.value:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
        for ruler, lead in over.items()
        if not lead.low > 0.0
    )
    if own is not None:
        inside = Outcomes(outcomes.weak[own], outcomes.strong[own], outcomes.graded)
        if not inside.gain.sum() > 0 or not apgr(inside, score[own]) >= RANDOM_APGR:
            why.append("on the tenant's own labels it is worse than random order")
    return Verdict(name, ranking.apgr, over, tuple(why))
