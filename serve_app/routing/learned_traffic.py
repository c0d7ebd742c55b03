"""Two heads from live traffic, and whether they may act: one tier's outcome per turn, the other one's never known.

What is learned are numbers, no words: none are kept. The heads are those that `router.score` serves anyway, with the
weight 0 for every word. Each tier's turns are weighted by trust and inverse chance, and then count for as many as they
are worth, so that a tier that was explored rarely does not speak louder than it can.
"""

import hashlib
import importlib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from deployments.ports import JsonValue
from router.calibrate import IDENTITY, Curve
from router.heads import Head, Scale
from router.snapshot import STRONG, WEAK, Snapshot, serialise
from router.structure import NAMES
from router.types import Tier
from serve_app.routing.baselines import LENGTH, TASK_PRIOR, task_prior
from serve_app.routing.coldstart import cold_start
from serve_app.routing.data import DataRefused
from serve_app.routing.design import Design, scaled, scales_of
from serve_app.routing.fitting import (
    GUARDED,
    ISOTONIC_ROWS,
    Linear,
    curved,
    events,
    isotonic,
    logistic,
    lower_bound,
    squashed,
)
from serve_app.routing.folds import FOLDS, Fold
from serve_app.routing.metrics import Outcomes, Resamples, Vector
from serve_app.routing.offpolicy import Coverage, Lead, Logged, Value, both, coverage, effective, lead, values
from serve_app.routing.own import Said, say
from serve_app.routing.promotion import Promotion, Verdict, promote
from serve_app.routing.traffic import TrafficRow
from serve_app.routing.train import DIFFERENCE, TooFewLabels, Trained, packed_keys

GATE_TRUST: Final = 0.5
"""What the gate believes: verifiers, people who may approve, tools, checks. A user's thumb only teaches."""

_BITS: Final = 8
_LEAST_TURNS: Final = 200
_LEAST_WEIGHT: Final = 1e-3


@dataclass(frozen=True, slots=True)
class FromTraffic:
    """Settings of the heads: penalty, how much of it falls on what tells the tiers apart, and the numbers' scale."""

    inverse_penalty: float = 1.0
    apart: float = 0.7
    hand: float = 0.5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns that can teach: judged, and given their tier by chance. `names` are the features they all have."""

    rows: tuple[TrafficRow, ...]
    names: tuple[str, ...]
    design: Design
    logged: Logged

    @classmethod
    def of(cls, rows: Sequence[TrafficRow], least_trust: float = 0.0, apart_from: frozenset[str] = frozenset()):
        """Those of `rows` whose trust is at least `least_trust` and whose group is not in `apart_from`."""
        kept = tuple(
            row
            for row in rows
            if row.chances and row.outcome is not None and row.trust >= least_trust and row.group not in apart_from
        )
        shared = frozenset[str](NAMES).intersection(*(row.features for row in kept))
        names = tuple(name for name in NAMES if name in shared)
        numbers = np.zeros((len(kept), len(NAMES)))
        for name in names:
            numbers[:, NAMES.index(name)] = [row.features[name] for row in kept]
        _, group = np.unique([row.group for row in kept], return_inverse=True)
        return cls(
            kept,
            names,
            design_of(numbers),
            Logged(
                strong=np.asarray([float(row.tier is Tier.STRONG) for row in kept]),
                chance=np.asarray([row.chances[Tier.STRONG] for row in kept]),
                outcome=np.asarray([row.outcome or 0.0 for row in kept]),
                trust=np.asarray([row.trust for row in kept]),
                group=np.asarray(group, dtype=np.intp),
            ),
        )

    def folds(self, seed: int) -> tuple[Fold, ...]:
        """Whole groups are held out together."""
        groups = int(self.logged.group.max()) + 1
        part = np.empty(groups, dtype=np.intp)
        for number, some in enumerate(np.array_split(np.random.default_rng(seed).permutation(groups), FOLDS)):
            part[some] = number
        of_row = part[self.logged.group]
        return tuple(
            Fold(np.flatnonzero(of_row != number), np.flatnonzero(of_row == number)) for number in range(FOLDS)
        )


@dataclass(frozen=True, slots=True)
class Worth:
    """What the candidate and other ways of routing would be worth on turns that it has not seen.

    `refused` is empty where the figures may be read; else there are none.
    """

    turns: int
    coverage: Coverage
    refused: tuple[str, ...]
    values: tuple[Value, ...] = ()
    leads: tuple[Lead, ...] = ()


def design_of(numbers: Vector, bits: int = _BITS) -> Design:
    """A design without words; its one hashed word is one that every snapshot from traffic has seen."""
    sparse: Any = importlib.import_module("scipy.sparse")
    size = numbers.shape[0]
    return Design(numbers, sparse.csr_matrix((size, 1 << bits)), (frozenset({0}),) * size, bits)


def of_one_tenant(rows: Sequence[TrafficRow], *, mixed: bool) -> None:
    """`DataRefused` when the rows are of several tenants and that was not asked for."""
    tenants = sorted({row.tenant for row in rows})
    if len(tenants) > 1 and not mixed:
        raise DataRefused(
            f"the rows are of {len(tenants)} tenants: one tenant's turns teach another one's router only with --mixed."
        )


def learn(rows: Sequence[TrafficRow], title: str, seed: int = 0) -> Trained:
    """A snapshot of two heads; `TooFewLabels` where chance has not covered both tiers, or outcomes are all alike."""
    turns = Turns.of(rows)
    if len(turns.rows) < _LEAST_TURNS:
        raise TooFewLabels(f"{len(turns.rows)} judged turns that chance decided are fewer than {_LEAST_TURNS}")
    found = coverage(turns.logged)
    if found.why:
        raise TooFewLabels("; ".join(found.why))
    if not turns.names:
        raise TooFewLabels("the turns have no feature in common")
    settings = FromTraffic(seed=seed)
    guarded = [name for name in GUARDED if name in turns.names]
    scales = widened(
        scales_of(turns.design, turns.names, turns.logged.weights() * turns.logged.trust, guarded, guarded)
    )
    numbers = scaled(turns.design, scales)
    try:
        pair = readable(*fit(numbers, turns.logged, settings))
        logits = guessed(numbers, turns, settings)
    except ValueError as error:
        raise TooFewLabels(str(error)) from error
    strong = turns.logged.strong > 0
    curves = [
        isotonic(logit[arm], turns.logged.outcome[arm], (turns.logged.weights() * turns.logged.trust)[arm])
        if int(arm.sum()) >= ISOTONIC_ROWS
        else IDENTITY
        for logit, arm in zip(logits, (~strong, strong), strict=True)
    ]
    raw = (squashed(logits[0]), squashed(logits[1]))
    honest = [squashed(curved(curve, logit)) for curve, logit in zip(curves, logits, strict=True)]
    outcomes = both(turns.logged, *raw)
    data = serialise(
        title,
        _BITS,
        scales,
        tuple(_head(name, head, curve) for name, head, curve in zip((WEAK, STRONG), pair, curves, strict=True)),
        bytes([1]) * (1 << _BITS),
        gain_low=lower_bound(honest[1] - honest[0], outcomes.gain),
    )
    report: dict[str, JsonValue] = {
        "title": title,
        "heads": "two",
        "from": "traffic",
        "digest": hashlib.sha256(data).hexdigest(),
        "seed": seed,
        "settings": asdict(settings),
        "rows": {"given": len(rows), "learned_from": len(turns.rows)},
        "tenants": [*sorted({row.tenant for row in turns.rows})],
        "from_ms": min(row.at_ms for row in turns.rows),
        "to_ms": max(row.at_ms for row in turns.rows),
        "features": [*turns.names],
        "coverage": _plain(found),
        "sources": dict(Counter(row.source for row in turns.rows)),
        "left_out": [],
        "out_of_fold": {"weak_ok": _mean(outcomes.weak), "strong_ok": _mean(outcomes.strong)},
    }
    return Trained(data, report, packed_keys(row.group for row in turns.rows))


def fit(numbers: Vector, logged: Logged, settings: FromTraffic) -> tuple[Linear, Linear]:
    """Both heads from one regression, as in `fitting.linear_pair`, but with one outcome per row.

    `ValueError` when all outcomes are alike.
    """
    sparse: Any = importlib.import_module("scipy.sparse")
    rows = np.hstack([settings.hand * numbers, np.ones((len(logged), 1))])
    own = settings.apart * (2.0 * logged.strong - 1.0)[:, None] * rows
    weight = logged.weights() * logged.trust
    for arm in (logged.strong == 0, logged.strong > 0):
        if arm.any():
            weight[arm] *= effective(weight[arm]) / weight[arm].sum()
    event, copies = events(logged.outcome)
    stacked = np.hstack([rows, own])
    if copies.size > len(logged):
        stacked, weight = np.vstack([stacked, stacked]), np.concatenate((weight, weight))
    fitted = logistic(
        sparse.csr_matrix(stacked), event, copies * weight, settings.inverse_penalty, settings.seed, intercept=False
    )
    size = rows.shape[1]
    shared, apart = fitted[:size], settings.apart * fitted[size:]

    def head(found: Vector) -> Linear:
        return Linear(float(found[-1]), settings.hand * found[:-1], np.zeros(1 << _BITS))

    return head(shared - apart), head(shared + apart)


def widened(scales: Sequence[Scale]) -> tuple[Scale, ...]:
    """Scales that are not much narrower than those of the shipped snapshot.

    What hardly varied in these turns would be cut at four tiny deviations in every later one, and lost to learning.
    """
    usual = {scale.name: scale.deviation / 2.0 for scale in cold_start().scales}
    return tuple(replace(scale, deviation=max(scale.deviation, usual.get(scale.name, 0.0))) for scale in scales)


def readable(weak: Linear, strong: Linear) -> tuple[Linear, Linear]:
    """Both heads, with a little weight of every feature in the weak one, so that its terms tell all features again.

    The same is added to both: what 120b gains stays as it was.
    """
    short = np.abs(weak.weights) < _LEAST_WEIGHT
    added = np.where(short, np.where(weak.weights < 0, -_LEAST_WEIGHT, _LEAST_WEIGHT) - weak.weights, 0.0)
    return replace(weak, weights=weak.weights + added), replace(strong, weights=strong.weights + added)


def guessed(numbers: Vector, turns: Turns, settings: FromTraffic) -> Vector:
    """2 x N: the logit of each tier for each turn, from heads that were fitted to the other folds."""
    logits = np.zeros((2, len(turns.logged)))
    for fold in turns.folds(settings.seed):
        pair = fit(numbers[fold.train], turns.logged.of(fold.train), settings)
        for number, head in enumerate(pair):
            logits[number, fold.test] = head.bias + numbers[fold.test] @ head.weights
    return logits


def judged_by_traffic(
    snapshot: Snapshot, rows: Sequence[TrafficRow], known: frozenset[str], seed: int = 0
) -> Promotion:
    """The promotion gate over trusted turns of groups that are not `known` to the snapshot.

    The unknown half of each turn is guessed doubly robustly (`offpolicy.both`); sessions are resampled as a whole.
    """
    turns = Turns.of(rows, GATE_TRUST, known)
    if not turns.rows:
        raise DataRefused("no turn is left that was judged, decided by chance, and not learned from.")
    said = said_by(snapshot, turns)
    found = coverage(turns.logged)
    if found.why:
        return Promotion(len(turns.rows), (Verdict(DIFFERENCE, None, {}, found.why),), {}, None)
    outcomes = guessed_outcomes(turns, seed)
    tasks = [row.task for row in turns.rows]
    rulers = {LENGTH: turns.design.column("length")}
    if len(set(tasks)) > 1:
        rulers[TASK_PRIOR] = task_prior(tasks, outcomes.weak, turns.folds(seed))
    heads = {DIFFERENCE: np.where(said.abstains, said.gain - 2.0, said.gain)}
    return promote(outcomes, heads, rulers, seed=seed, groups=turns.logged.group)


def worth(snapshot: Snapshot, rows: Sequence[TrafficRow], known: frozenset[str], share: float, seed: int = 0) -> Worth:
    """What the snapshot would be worth if it gave 120b to at most `share` of the turns, beside other policies."""
    turns = Turns.of(rows, 0.0, known)
    if not turns.rows:
        raise DataRefused("no turn is left that was judged, decided by chance, and not learned from.")
    said, found, size = said_by(snapshot, turns), coverage(turns.logged), len(turns.rows)
    if found.why:
        return Worth(size, found, found.why)
    outcomes = guessed_outcomes(turns, seed)
    resamples = Resamples.over_groups(turns.logged.group, seed=seed)
    candidate = ("candidate", proposed(said, share))
    active = ("active", np.asarray([float(row.usual is Tier.STRONG) for row in turns.rows]))
    chance = (f"random {candidate[1].mean():.0%}", np.full(size, float(candidate[1].mean())))
    policies = (candidate, active, chance, ("always 20b", np.zeros(size)), ("always 120b", np.ones(size)))
    return Worth(
        turns=size,
        coverage=found,
        refused=(),
        values=values(policies, turns.logged, outcomes, resamples),
        leads=tuple(lead(candidate, other, turns.logged, outcomes, resamples) for other in (active, chance)),
    )


def proposed(said: Said, share: float) -> Vector:
    """1 for the turns that would be given 120b: the surest gains, at most `share` of all; none where heads abstain."""
    order = np.argsort(-said.served, kind="stable")[: int(share * said.abstains.size)]
    chosen = np.zeros(said.abstains.size)
    chosen[order] = 1.0
    return np.where(said.abstains, 0.0, chosen)


def said_by(snapshot: Snapshot, turns: Turns) -> Said:
    """What a snapshot says of turns; `DataRefused` where it needs what rows do not have."""
    if snapshot.gain_low is None:
        raise DataRefused("the snapshot has no two heads: it orders turns, and says nothing of what 120b gains.")
    if any(any(head.words) for head in snapshot.heads):
        raise DataRefused("the snapshot looks at words, and rows of live traffic have none: judge it by labels.")
    missing = sorted({*snapshot.names, "length"} - set(turns.names))
    if missing:
        raise DataRefused(f"rows lack what the snapshot looks at: {', '.join(missing)}.")
    return say(snapshot, design_of(turns.design.numbers, snapshot.bits))


def guessed_outcomes(turns: Turns, seed: int) -> Outcomes:
    """Both outcomes of every turn, guessed by models of the turns' own that know nothing of any candidate."""
    scales = scales_of(turns.design, turns.names, turns.logged.trust)
    logits = guessed(scaled(turns.design, scales), turns, FromTraffic(seed=seed))
    return both(turns.logged, squashed(logits[0]), squashed(logits[1]))


def _head(name: str, fitted: Linear, curve: Curve) -> Head:
    return Head(name, fitted.bias, tuple(fitted.weights.tolist()), array("f", fitted.words.tolist()), curve)


def _mean(values_: Vector) -> float:
    return round(float(values_.mean()), 4)


def _plain(found: Coverage) -> dict[str, JsonValue]:
    return {
        "judged": list(found.judged),
        "worth": [round(each, 1) for each in found.worth],
        "clipped": round(found.clipped, 4),
    }
