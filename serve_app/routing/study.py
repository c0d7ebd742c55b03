"""The pair sets studied: every contender on every set and slice, unseen tasks, few labels, and moved to another set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from router.policy import Policy
from router.snapshot import Snapshot
from serve_app.routing import own, peer
from serve_app.routing.answers import NoAnswers
from serve_app.routing.answers import out_of_fold as answer_checks
from serve_app.routing.asked import Asked, ask_all
from serve_app.routing.baselines import LENGTH, RANDOM, TASK_PRIOR, Contender, obligatory, task_prior
from serve_app.routing.data import MMLU, Labelled, tasks_of
from serve_app.routing.design import Design
from serve_app.routing.folds import FOLDS, SEEDS, Fold, by_id, by_task, few
from serve_app.routing.metrics import (
    RESAMPLES,
    Interval,
    Outcomes,
    Resamples,
    Vector,
    apgr,
    cpt,
    spread_over,
)
from serve_app.routing.promotion import promote
from serve_app.routing.reliability import Bin, reliability
from serve_app.routing.tables import Table, measure, quality_curve, slices

SNAPSHOT: Final = "difficulty, snapshot"
GIVEN: Final = "gain, snapshot"
FORMULA: Final = "difficulty, no labels"
ELSEWHERE: Final = "difficulty, learned elsewhere"
HEADS: Final = "two heads"
SERVED: Final = "two heads, as served"
WEAK_HEAD: Final = "weak head (P weak wrong)"
ANSWERS: Final = "answer checks"
PEER_WRONG: Final = "scikit-learn: weak wrong"
PEER_GAIN: Final = "scikit-learn: gain"
PEER_HEADS: Final = "scikit-learn: two heads"
LABELS: Final = (500, 1500, 4000)
_PLOTTED: Final = 101


@dataclass(frozen=True, slots=True)
class PairSet:
    """One set, read and featurised once."""

    name: str
    rows: tuple[Labelled, ...]
    outcomes: Outcomes
    design: Design
    bag: peer.Bag

    @classmethod
    def of(cls, name: str, rows: Sequence[Labelled]) -> "PairSet":
        """Featurise; at least one row."""
        prompts = [row.prompt for row in rows]
        outcomes = Outcomes.of(
            [row.weak_ok for row in rows], [row.strong_ok for row in rows], any(row.graded for row in rows)
        )
        return cls(name, tuple(rows), outcomes, Design.of(prompts), peer.Bag.of(prompts))

    @property
    def prompts(self) -> list[str]:
        """The prompts, in order."""
        return [row.prompt for row in self.rows]


@dataclass(frozen=True, slots=True)
class Curve:
    """Quality against the strong share of one contender, for a picture; shares and qualities in [0, 1].

    `seen`: it was learned from rows of this set.
    """

    name: str
    seen: bool
    share: list[float]
    quality: list[float]


@dataclass(frozen=True, slots=True)
class SetStudy:
    """One set: its table, tables of its tasks and languages, unseen tasks, curves and reliability for pictures.

    `abstained` is the share of prompts on which the snapshot proposes nothing, `notes` say which lines are missing.
    """

    name: str
    table: Table
    tasks: tuple[Table, ...]
    languages: tuple[Table, ...]
    unseen_tasks: Table | None
    curves: tuple[Curve, ...]
    bins: dict[str, tuple[Bin, ...]]
    abstained: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FewLabels:
    """What `labels` labels are worth on the rest of the set: mean and deviation over the seeds, per contender."""

    labels: int
    seeds: int
    apgr: dict[str, tuple[float, float]]
    cpt50: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Heads learned on one set, asked about another, and what the promotion gate says to that.

    `over` has the paired lead in APGR over each ruler. `apgr` is None where the set is refused; `why` says what is
    against them, empty where they are admitted.
    """

    learned_on: str
    tested_on: str
    contender: str
    apgr: Interval | None
    over: Mapping[str, Interval]
    admitted: bool
    why: tuple[str, ...]


def study(
    pair: PairSet,
    others: Sequence[PairSet],
    policy: Policy,
    snapshot: Snapshot | None,
    *,
    seen: bool,
    resamples: int = RESAMPLES,
    grouped: bool = True,
) -> SetStudy:
    """Measure one set. `others` are what the difficulty is learned from; `seen`: `snapshot` has met these rows.

    A set whose outcomes are graded trains no heads: there is no right and wrong to learn.
    """
    asked = ask_all(pair.prompts, snapshot, policy)
    folds = by_id(pair.rows)
    contenders, notes = _contenders(pair, others, policy, snapshot, asked, folds, seen=seen)
    drawn = Resamples.over_prompts(len(pair.rows), resamples)
    table = measure(pair.name, pair.outcomes, contenders, drawn)
    tasks = tasks_of(pair.rows)
    enough = len(tasks) >= 2 * FOLDS
    languages = sorted({row.lang for row in pair.rows})
    return SetStudy(
        name=pair.name,
        table=table,
        tasks=slices(pair.name, _tasks(pair, asked), pair.outcomes, contenders, resamples),
        languages=slices(pair.name, [row.lang for row in pair.rows], pair.outcomes, contenders, resamples)
        if len(languages) > 1
        else (),
        unseen_tasks=_unseen(pair, others, policy, snapshot, asked, seen, resamples) if grouped and enough else None,
        curves=tuple(
            Curve(each.name, each.seen, *quality_curve(pair.outcomes, each.score, _PLOTTED))
            for each in contenders
            if each.score is not None
        ),
        bins={
            each.name: reliability(pair.outcomes.weak < 0.5, each.weak_wrong, drawn).table
            for each in contenders
            if each.weak_wrong is not None and not pair.outcomes.graded
        },
        abstained=asked.abstained / len(pair.rows),
        notes=notes,
    )


def few_labels(pair: PairSet, sizes: Sequence[int] = LABELS, seeds: Sequence[int] = SEEDS) -> tuple[FewLabels, ...]:
    """Learn from few rows, test on the rest; sizes that leave no test are left out."""
    found: list[FewLabels] = []
    for labels in sizes:
        if 2 * labels > len(pair.rows):
            continue
        areas: dict[str, list[float]] = {}
        halves: dict[str, list[float]] = {}
        for seed in seeds:
            fold = few(pair.rows, labels, seed)
            rest = Outcomes(pair.outcomes.weak[fold.test], pair.outcomes.strong[fold.test])
            weak, strong = peer.heads(pair.bag, pair.outcomes, fold, 0.5)
            said = own.two_heads(pair.design, pair.outcomes, pair.rows, fold, seed)
            scores = {
                LENGTH: pair.design.column("length")[fold.test],
                PEER_WRONG: 1.0 - weak,
                PEER_GAIN: peer.direct_gain(pair.bag, pair.outcomes, fold, 0.5),
                PEER_HEADS: strong - weak,
                WEAK_HEAD: 1.0 - said.weak_ok,
                HEADS: said.gain,
                SERVED: said.served,
            }
            for name, score in scores.items():
                areas.setdefault(name, []).append(apgr(rest, score))
                halves.setdefault(name, []).append(cpt(rest, score, 0.5))
        found.append(
            FewLabels(
                labels=labels,
                seeds=len(seeds),
                apgr={name: spread_over(values) for name, values in areas.items()},
                cpt50={name: spread_over(values) for name, values in halves.items()},
            )
        )
    return tuple(found)


def transfer(learned: PairSet, tested: PairSet, policy: Policy) -> tuple[Transfer, ...]:
    """Heads of one set on another, ours and the peer's, before the promotion gate with the labels of that set."""
    everything = np.arange(len(learned.rows))
    snapshot = own.learn_two(learned.design, learned.outcomes, learned.rows, Fold(everything, everything))
    said = own.say(snapshot, tested.design)
    joined = PairSet.of("both", [*learned.rows, *tested.rows])
    fold = Fold(everything, np.arange(len(learned.rows), len(joined.rows)))
    weak, strong = peer.heads(joined.bag, joined.outcomes, fold, 0.5)
    tasks = _tasks(tested, ask_all(tested.prompts, None, policy))
    judged = promote(
        tested.outcomes,
        {
            HEADS: said.gain,
            SERVED: said.served,
            WEAK_HEAD: 1.0 - said.weak_ok,
            PEER_WRONG: 1.0 - weak,
            PEER_HEADS: strong - weak,
        },
        {
            RANDOM: np.random.default_rng(0).random(len(tested.rows)),
            LENGTH: tested.design.column("length"),
            TASK_PRIOR: task_prior(tasks, tested.outcomes.weak, by_id(tested.rows)),
        },
    )
    return tuple(
        Transfer(learned.name, tested.name, verdict.name, verdict.apgr, verdict.over, verdict.admitted, verdict.why)
        for verdict in judged.verdicts
    )


def _contenders(
    pair: PairSet,
    others: Sequence[PairSet],
    policy: Policy,
    snapshot: Snapshot | None,
    asked: Asked,
    folds: Sequence[Fold],
    *,
    seen: bool,
) -> tuple[list[Contender], tuple[str, ...]]:
    """The lines of a set's table, and why some are missing."""
    notes: list[str] = []
    formula = ask_all(pair.prompts, None, policy) if snapshot is not None else asked
    contenders = list(obligatory(pair.rows, pair.outcomes, _tasks(pair, asked), folds, formula.strong))
    contenders.append(Contender(FORMULA, formula.difficulty, weak_wrong=formula.difficulty))
    if snapshot is not None:
        contenders.append(Contender(SNAPSHOT, asked.difficulty, weak_wrong=asked.difficulty, seen=seen))
    if asked.gain is not None:
        contenders.append(Contender(GIVEN, asked.gain, seen=seen))
    if others:
        elsewhere = _elsewhere(pair, others)
        contenders.append(Contender(ELSEWHERE, elsewhere, weak_wrong=elsewhere))
    if not pair.outcomes.graded:
        try:
            contenders += _learned(pair, folds)
        except ValueError as error:
            notes.append(f"No heads were learned: {error}.")
    if all(row.weak_answer is not None for row in pair.rows):
        try:
            wrong = answer_checks(pair.rows)
        except NoAnswers as error:
            notes.append(f"No checks of answers: {error}")
        else:
            contenders.append(Contender(ANSWERS, wrong, weak_wrong=wrong))
    return contenders, tuple(notes)


def _learned(pair: PairSet, folds: Sequence[Fold]) -> list[Contender]:
    """Heads, ours and the peer's, each row scored by the fold that did not learn from it."""
    n = len(pair.rows)
    strength = 1.0 if pair.name == MMLU else 0.5
    weak, strong, gain = np.zeros(n), np.zeros(n), np.zeros(n)
    ours_weak, ours, served = np.zeros(n), np.zeros(n), np.zeros(n)
    for fold in folds:
        weak[fold.test], strong[fold.test] = peer.heads(pair.bag, pair.outcomes, fold, strength)
        gain[fold.test] = peer.direct_gain(pair.bag, pair.outcomes, fold, strength)
        said = own.two_heads(pair.design, pair.outcomes, pair.rows, fold)
        ours_weak[fold.test], ours[fold.test], served[fold.test] = said.weak_ok, said.gain, said.served
    return [
        Contender(PEER_WRONG, 1.0 - weak, weak_wrong=1.0 - weak),
        Contender(PEER_GAIN, gain),
        Contender(PEER_HEADS, strong - weak),
        Contender(WEAK_HEAD, 1.0 - ours_weak, weak_wrong=1.0 - ours_weak),
        Contender(HEADS, ours),
        Contender(SERVED, served),
    ]


def _elsewhere(pair: PairSet, others: Sequence[PairSet]) -> Vector:
    """The difficulty head of every other set on this one: what the committed head is worth on unseen material."""
    mine = {row.key for row in pair.rows}
    rows = [row for other in others for row in other.rows if row.key not in mine]
    return own.difficulty(own.learn_difficulty(rows), pair.design)


def _unseen(
    pair: PairSet,
    others: Sequence[PairSet],
    policy: Policy,
    snapshot: Snapshot | None,
    asked: Asked,
    seen: bool,
    resamples: int,
) -> Table:
    """The same contenders where whole tasks were held out; resampled by task."""
    contenders, _ = _contenders(pair, others, policy, snapshot, asked, by_task(pair.rows), seen=seen)
    groups = Resamples.over_groups([row.task for row in pair.rows], resamples)
    return measure(f"{pair.name}, unseen tasks", pair.outcomes, contenders, groups)


def _tasks(pair: PairSet, asked: Asked) -> list[str]:
    """The set's tasks, or the router's own guess where the set has none."""
    if any(row.task for row in pair.rows):
        return [row.task for row in pair.rows]
    return [task.value for task in asked.tasks]
