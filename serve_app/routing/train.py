"""`gatehouse router train`: labelled rows to a snapshot, with a report of where it comes from and what it is worth.

Every figure in the report is out of fold: the rows it was measured on were not learned from. Same rows and settings
give the same bytes.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deployments.ports import JsonValue
from router.features import Passage, read
from router.score import NO_SURE_GAIN, Score, score
from router.snapshot import Snapshot, parse
from router.text import strip_harness
from serve_app.routing.baselines import LENGTH, TASK_PRIOR, task_prior
from serve_app.routing.data import DataRefused, Labelled, Source, deduplicate
from serve_app.routing.design import BITS, Design
from serve_app.routing.fitting import ByUnitWeights, TwoHeads, fit_difficulty, fit_two
from serve_app.routing.folds import Fold, by_id, by_task
from serve_app.routing.hard_for_both import misleading
from serve_app.routing.metrics import (
    Interval,
    Outcomes,
    Refused,
    Resamples,
    Vector,
    describe,
    rank,
)
from serve_app.routing.promotion import Promotion, promote
from serve_app.routing.reliability import ece

DIFFICULTY: Final = "difficulty"
DIFFERENCE: Final = "difference"
TWO: Final = "two"
_LEAST_ROWS: Final = 50
_KEY_BYTES: Final = 6


@dataclass(frozen=True, slots=True)
class Trained:
    """A snapshot's bytes, the report beside it, and the keys of the rows that were learned from (6 bytes each)."""

    snapshot: bytes
    report: Mapping[str, JsonValue]
    keys: bytes


class TooFewLabels(Exception):
    """Nothing can be learned from these rows; the message says why."""


def train(
    rows: Sequence[Labelled],
    heads: str,
    title: str,
    sources: Sequence[Source] = (),
    bits: int = BITS,
    seed: int = 0,
    *,
    measure: bool = True,
) -> Trained:
    """A snapshot with `heads` ("difficulty" or "two") from the rows; `TooFewLabels` where they cannot teach anything.

    `sources` describe where the rows come from (origin, licence). With `measure` the report has out-of-fold figures.
    """
    unique = deduplicate(rows)
    design = Design.of([row.prompt for row in unique.rows], bits)
    left_out, kept = misleading(unique.rows, design)
    if heads == TWO:
        kept = np.ones_like(kept)
        left_out = ()
    chosen = np.flatnonzero(kept)
    if chosen.size < _LEAST_ROWS:
        raise TooFewLabels(f"{chosen.size} usable rows are fewer than {_LEAST_ROWS}")
    task = _Task(unique.rows, design, heads, title, seed)
    try:
        data = task.fit(chosen)
    except ValueError as error:
        raise TooFewLabels(str(error)) from error
    learned = picked(unique.rows, chosen)
    report: dict[str, JsonValue] = {
        "title": title,
        "heads": heads,
        "digest": hashlib.sha256(data).hexdigest(),
        "bits": bits,
        "seed": seed,
        "settings": asdict(ByUnitWeights() if heads == DIFFICULTY else TwoHeads()),
        "rows": {"given": len(rows), "repeated": unique.repeated, "learned_from": len(learned)},
        "sets": {name: sum(row.set_name == name for row in learned) for name in sorted({r.set_name for r in learned})},
        "sources": [_provenance(source) for source in sources],
        "left_out": [asdict(slice_) for slice_ in left_out],
        "out_of_fold": task.measured(kept) if measure else {},
    }
    return Trained(data, report, packed_keys(row.key for row in learned))


def picked(rows: Sequence[Labelled], places: NDArray[np.intp]) -> list[Labelled]:
    """The rows at these places."""
    return [rows[int(place)] for place in places]


def packed_keys(keys: Iterable[str]) -> bytes:
    """Keys of rows, sorted, each once, six bytes each."""
    return b"".join(sorted({bytes.fromhex(key) for key in keys}))


def unpacked_keys(data: bytes) -> frozenset[str]:
    """The keys in what `packed_keys` gave; `ValueError` when it is cut short."""
    if len(data) % _KEY_BYTES:
        raise ValueError("its keys are cut short")
    return frozenset(data[start : start + _KEY_BYTES].hex() for start in range(0, len(data), _KEY_BYTES))


def scored(prompts: Sequence[str], snapshot: Snapshot) -> tuple[Score, ...]:
    """What the served scorer says about each prompt."""
    return tuple(score((_passage(prompt),), snapshot) for prompt in prompts)


def ordering(scores: Sequence[Score]) -> Vector:
    """The number by which turns are ordered for the strong tier: the gain where there is one, else the difficulty."""
    return np.asarray([one.difficulty if one.gain is None else one.gain for one in scores])


def judged(snapshot: Snapshot, rows: Sequence[Labelled], known: frozenset[str], seed: int = 0) -> Promotion:
    """The promotion gate over the rows whose keys are not `known` to the snapshot.

    Where the snapshot abstains the router would not go up: such rows come last in a head's order.
    """
    fresh = deduplicate(rows, apart_from=known).rows
    if not fresh:
        raise DataRefused("the snapshot was trained on every one of these labels.")
    scores = scored([row.prompt for row in fresh], snapshot)
    foreign = np.asarray([one.abstained not in {None, NO_SURE_GAIN} for one in scores])
    silent = np.asarray([one.abstained is not None for one in scores])
    outcomes = Outcomes.of([row.weak_ok for row in fresh], [row.strong_ok for row in fresh])
    difficulty = np.asarray([one.difficulty for one in scores])
    heads = {DIFFICULTY: np.where(foreign, difficulty - 1.0, difficulty)}
    gains = [one.gain for one in scores if one.gain is not None]
    if gains:
        heads[DIFFERENCE] = np.where(silent, np.asarray(gains) - 2.0, np.asarray(gains))
    rulers = {LENGTH: np.asarray([float(len(row.prompt)) for row in fresh])}
    tasks = [row.task for row in fresh]
    if len(set(tasks)) > 1:
        rulers[TASK_PRIOR] = task_prior(tasks, outcomes.weak, by_id(fresh, seed=seed))
    return promote(outcomes, heads, rulers, seed=seed)


@dataclass(frozen=True, slots=True)
class _Task:
    rows: Sequence[Labelled]
    design: Design
    heads: str
    title: str
    seed: int

    def fit(self, chosen: NDArray[np.intp]) -> bytes:
        rows = picked(self.rows, chosen)
        design = self.design.of_rows(chosen)
        folds = by_id(rows, seed=self.seed)
        weak = np.asarray([row.weak_ok for row in rows])
        strong = np.asarray([row.strong_ok for row in rows])
        if self.heads == TWO:
            return fit_two(design, Outcomes.of(weak, strong), self.title, folds, TwoHeads(seed=self.seed))
        names = sorted({row.set_name for row in rows})
        sets = np.asarray([names.index(row.set_name) for row in rows], dtype=np.intp)
        return fit_difficulty(design, weak, sets, self.title, folds, ByUnitWeights(seed=self.seed))

    def measured(self, kept: NDArray[np.bool_]) -> dict[str, JsonValue]:
        """Per set: rows held out by id, by task, and the whole set held out (where another is left to learn from)."""
        found: dict[str, JsonValue] = {}
        sets = np.asarray([row.set_name for row in self.rows])
        for name in sorted(set(sets.tolist())):
            inside = np.flatnonzero(sets == name)
            rows = picked(self.rows, inside)
            others = np.flatnonzero(sets != name)
            parts: dict[str, Sequence[Fold]] = {"unseen rows": by_id(rows, seed=self.seed)}
            if len({row.task for row in rows}) >= 10:
                parts["unseen tasks"] = by_task(rows)
            if others.size >= _LEAST_ROWS:
                everything = np.arange(inside.size)
                parts["unseen set"] = (Fold(everything[:0], everything),)
            found[name] = {
                label: self._figures(inside, others, folds, lambda chosen: self.fit(chosen[kept[chosen]]))
                for label, folds in parts.items()
            }
        return found

    def _figures(
        self,
        inside: NDArray[np.intp],
        others: NDArray[np.intp],
        folds: Sequence[Fold],
        fit: Callable[[NDArray[np.intp]], bytes],
    ) -> JsonValue:
        order = np.zeros(inside.size)
        wrong = np.zeros(inside.size)
        abstained = 0
        per_fold: list[JsonValue] = []
        outcomes = Outcomes.of(
            [row.weak_ok for row in picked(self.rows, inside)],
            [row.strong_ok for row in picked(self.rows, inside)],
        )
        for fold in folds:
            snapshot = parse(fit(np.sort(np.concatenate((others, inside[fold.train])))))
            scores = scored([row.prompt for row in picked(self.rows, inside[fold.test])], snapshot)
            order[fold.test] = ordering(scores)
            wrong[fold.test] = [one.difficulty for one in scores]
            abstained += sum(one.abstained is not None for one in scores)
            per_fold.append(_apgr_of(outcomes, fold.test, order[fold.test]))
        return {
            "apgr": _apgr_of(outcomes, np.arange(inside.size), order),
            "apgr_per_fold": per_fold,
            "apgr_mean_of_folds": _mean_of(per_fold),
            "ece_weak_wrong": round(ece(outcomes.weak < 0.5, wrong), 4),
            "abstained": round(abstained / inside.size, 4),
        }


def _apgr_of(outcomes: Outcomes, rows: NDArray[np.intp], order: Vector) -> JsonValue:
    part = Outcomes.of(outcomes.weak[rows], outcomes.strong[rows])
    resamples = Resamples.over_prompts(rows.size)
    ranking = rank(part, order, resamples, describe(part, resamples))
    return {"refused": ranking.why} if isinstance(ranking, Refused) else _rounded(ranking.apgr)


def _mean_of(per_fold: Sequence[JsonValue]) -> JsonValue:
    """The mean over folds: scores of different snapshots are not on one scale, so the pooled figure leans low."""
    values = [fold["value"] for fold in per_fold if isinstance(fold, dict) and "value" in fold]
    known = [value for value in values if isinstance(value, float)]
    return round(sum(known) / len(known), 4) if known else None


def _rounded(figure: Interval) -> JsonValue:
    return {"value": round(figure.value, 4), "low": round(figure.low, 4), "high": round(figure.high, 4)}


def _passage(prompt: str) -> Passage:
    return read(strip_harness(prompt).strip())


def _provenance(source: Source) -> JsonValue:
    return {
        "file": source.file,
        "origin": source.origin,
        "commit": source.commit,
        "licence": source.licence,
        "copyright": source.copyright,
        "sha256": source.sha256,
        "selection": source.selection,
    }
