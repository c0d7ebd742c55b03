"""`gatehouse router eval`: everything there is to say about the router on labelled data, and whether it may pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from router.policy import Policy
from router.snapshot import DIFFICULTY, Snapshot
from serve_app.bench.machine import machine
from serve_app.routing import own
from serve_app.routing.answers import AnswerReport, NoAnswers
from serve_app.routing.answers import evaluate as evaluate_answers
from serve_app.routing.asked import ask
from serve_app.routing.data import (
    CASES,
    GSM8K,
    INCIDENTS,
    MMLU,
    MTBENCH,
    TIERS,
    DataFolder,
    Labelled,
    Tiered,
    deduplicate,
    read_own,
)
from serve_app.routing.design import Design
from serve_app.routing.detectors import Conformance, Detector, Opinion, conformance, detector, opinions
from serve_app.routing.drift import Drift, drift
from serve_app.routing.folds import SEEDS, Fold, by_id, numbers
from serve_app.routing.gates import Findings, Gate, gates
from serve_app.routing.invariants import explain_sums, policy_table, risk_floors, same_bytes
from serve_app.routing.metrics import RESAMPLES, Vector
from serve_app.routing.stability import Stability, stability
from serve_app.routing.study import (
    FORMULA,
    HEADS,
    LABELS,
    SNAPSHOT,
    FewLabels,
    PairSet,
    SetStudy,
    Transfer,
    few_labels,
    study,
    transfer,
)
from serve_app.routing.timing import Timing, timings

_QUICK_ROWS: Final = 2400
_QUICK_RESAMPLES: Final = 50
_STABLE_ROWS: Final = 800
_SAME_ROWS: Final = 200
_TIMED_ROWS: Final = 500
_STATES: Final = 10_000
_QUICK_STATES: Final = 300
_LOGS: Final = 200
_QUICK_LOGS: Final = 15
_STREAM_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Options:
    """How much to do. `quick` takes a part of the large set, few resamples, and leaves out few labels and processes.

    `labels` are files of one's own. `seen` are the keys of the rows that the snapshot was learned from.
    """

    quick: bool = False
    labels: tuple[Path, ...] = ()
    seen: frozenset[str] = frozenset()

    @property
    def resamples(self) -> int:
        """Bootstrap resamples."""
        return _QUICK_RESAMPLES if self.quick else RESAMPLES


@dataclass(frozen=True, slots=True)
class SourceNote:
    """Where rows come from: rows read, rows that repeat an earlier question, and of these with another outcome."""

    name: str
    rows: int
    repeated: int
    contradicting: int
    licence: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All of it. `snapshot` is the digest of the artefact that was evaluated, None for none."""

    quick: bool
    resamples: int
    machine: str
    snapshot: str | None
    snapshot_title: str | None
    sources: tuple[SourceNote, ...]
    gates: tuple[Gate, ...]
    studies: Mapping[str, SetStudy]
    few: tuple[FewLabels, ...]
    transfers: tuple[Transfer, ...]
    answers: AnswerReport | None
    drifts: tuple[Drift, ...]
    stability: Mapping[str, tuple[Stability, ...]]
    detector: Detector
    conformance: Conformance
    opinions: tuple[Opinion, ...]
    timings: tuple[Timing, ...]


def evaluate(
    folder: DataFolder,
    policy: Policy,
    snapshot: Snapshot | None,
    environment: Mapping[str, str],
    options: Options,
    shown: Callable[[str], None],
) -> Evaluation:
    """Run it all; `DataRefused` when a file cannot be used. Minutes; `shown` is told what is being done.

    `environment` is what the processes of the determinism check inherit.
    """
    shown("reading")
    sets = {name: folder.labelled(name) for name in (MMLU, GSM8K, MTBENCH)}
    own_sets = {f"own: {file.stem}": read_own(file, f"own: {file.stem}") for file in options.labels}
    incidents, tiers, cases = folder.incidents(), folder.tiers(), folder.cases()
    notes = tuple(_note(folder, name, rows) for name, rows in sets.items())
    notes += tuple(_note(folder, name, rows) for name, rows in own_sets.items())
    notes += tuple(
        SourceNote(name, len(rows), len(rows) - len({row.key for row in rows}), 0, *_licence(folder, name))
        for name, rows in ((TIERS, tiers), (INCIDENTS, incidents), (CASES, cases))
    )
    if options.quick:
        sets[MMLU] = _part(sets[MMLU], _QUICK_ROWS)
    pairs = {name: PairSet.of(name, rows) for name, rows in {**sets, **own_sets}.items()}
    public = [pairs[name] for name in sets]

    studies: dict[str, SetStudy] = {}
    for name, pair in pairs.items():
        shown(f"{name}: {len(pair.rows)} rows")
        studies[name] = study(
            pair,
            [other for other in public if other.name != name],
            policy,
            snapshot,
            seen=any(row.key in options.seen for row in pair.rows),
            resamples=options.resamples,
            grouped=not options.quick,
        )
    shown("few labels")
    few = () if options.quick else few_labels(pairs[MMLU], LABELS, SEEDS)
    shown("heads moved to another set")
    transfers = (
        *transfer(pairs[MMLU], pairs[GSM8K], policy),
        *transfer(pairs[GSM8K], pairs[MMLU], policy),
    )
    shown("answers")
    answers = _answers(sets[GSM8K])
    shown("drift")
    drifts = _drifts(pairs[MMLU], pairs[GSM8K], tiers, policy, snapshot)
    shown("perturbations")
    stable = _stability(pairs[MMLU], pairs[GSM8K], tiers, policy, snapshot)
    shown("signals")
    chat = [ask(row.prompt, policy, snapshot) for row in tiers]
    found = detector(incidents, [ask(row.prompt, policy, snapshot) for row in incidents], tiers, chat)
    conforms = conformance(cases, [ask(row.prompt, policy, snapshot) for row in cases])
    said = opinions(tiers, np.asarray([trace.score.difficulty for trace in chat]), options.resamples)
    shown("invariants")
    sums = explain_sums([*chat, *(ask(row.prompt, policy, snapshot) for row in sets[MMLU][:1000])])
    sample = _mixed(sets[MMLU], sets[GSM8K], tiers, _SAME_ROWS)
    same = None if options.quick else same_bytes(sample, environment)
    floors = risk_floors(policy, snapshot, _QUICK_STATES if options.quick else _STATES)
    table = policy_table(policy)
    shown("decision time")
    taken = timings(
        {"MMLU": [row.prompt for row in sets[MMLU][:_TIMED_ROWS]], "chat": [row.prompt for row in tiers[:_TIMED_ROWS]]},
        policy,
        snapshot,
        pairs[MMLU].prompts,
        pairs[MMLU].outcomes,
        _QUICK_LOGS if options.quick else _LOGS,
    )
    lines = gates(
        Findings(
            options.quick, studies, few, transfers, answers, drifts, stable, found, sums, same, floors, table, taken
        )
    )
    return Evaluation(
        quick=options.quick,
        resamples=options.resamples,
        machine=machine().sentence,
        snapshot=None if snapshot is None else snapshot.digest,
        snapshot_title=None if snapshot is None else snapshot.title,
        sources=notes,
        gates=lines,
        studies=studies,
        few=few,
        transfers=transfers,
        answers=answers,
        drifts=drifts,
        stability=stable,
        detector=found,
        conformance=conforms,
        opinions=said,
        timings=taken,
    )


def _answers(rows: Sequence[Labelled]) -> AnswerReport | None:
    try:
        return evaluate_answers(rows)
    except NoAnswers:
        return None  # the gate says that it was not measured, the set's notes say why


def _drifts(
    mmlu: PairSet, gsm8k: PairSet, tiers: Sequence[Tiered], policy: Policy, snapshot: Snapshot | None
) -> tuple[Drift, ...]:
    """MMLU -> GSM8K -> chat -> MMLU by two unlike scorers: the difficulty served, and a head that knows MMLU only."""
    order = np.random.default_rng(_STREAM_SEED).permutation(len(mmlu.rows))
    first, learned, last = np.array_split(order, 3)
    chat = [row.prompt for row in tiers]
    fold = Fold(np.sort(learned), np.sort(learned))
    heads = own.learn_two(mmlu.design, mmlu.outcomes, mmlu.rows, fold)

    def by_head(design: Design) -> Vector:
        return 1.0 - own.say(heads, design).weak_ok

    def by_difficulty(prompts: Sequence[str]) -> Vector:
        return np.asarray([ask(prompt, policy, snapshot).score.difficulty for prompt in prompts])

    prompts = mmlu.prompts
    served = [
        ("MMLU", by_difficulty([prompts[index] for index in numbers(first)])),
        ("GSM8K", by_difficulty(gsm8k.prompts)),
        ("chat", by_difficulty(chat)),
        ("MMLU again", by_difficulty([prompts[index] for index in numbers(last)])),
    ]
    headed = [
        ("MMLU", by_head(mmlu.design.of_rows(first))),
        ("GSM8K", by_head(gsm8k.design)),
        ("chat", by_head(Design.of(chat))),
        ("MMLU again", by_head(mmlu.design.of_rows(last))),
    ]
    return (drift("difficulty", served), drift("weak head of MMLU", headed))


def _stability(
    mmlu: PairSet, gsm8k: PairSet, tiers: Sequence[Tiered], policy: Policy, snapshot: Snapshot | None
) -> dict[str, tuple[Stability, ...]]:
    """The difficulty served on a mix of all sets, and two heads on questions they were not learned from."""
    mixed = _mixed(mmlu.rows, gsm8k.rows, tiers, _STABLE_ROWS)
    fold = by_id(mmlu.rows)[0]
    heads = own.learn_two(mmlu.design, mmlu.outcomes, mmlu.rows, fold)
    asked = [mmlu.rows[index].prompt for index in numbers(fold.test)[:_STABLE_ROWS]]
    served = snapshot is not None and snapshot.head(DIFFICULTY) is not None
    return {
        SNAPSHOT if served else FORMULA: stability(
            mixed, lambda prompts: np.asarray([ask(each, policy, snapshot).score.difficulty for each in prompts])
        ),
        HEADS: stability(asked, lambda prompts: own.say(heads, Design.of(prompts)).gain),
    }


def _mixed(mmlu: Sequence[Labelled], gsm8k: Sequence[Labelled], tiers: Sequence[Tiered], most: int) -> list[str]:
    """A third of each, evenly spaced."""
    return [
        rows[index].prompt
        for rows in (mmlu, gsm8k, tiers)
        for index in numbers(np.linspace(0, len(rows) - 1, min(most // 3, len(rows)), dtype=np.intp))
    ]


def _part(rows: Sequence[Labelled], most: int) -> tuple[Labelled, ...]:
    """A seeded draw in file order."""
    if len(rows) <= most:
        return tuple(rows)
    drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:most])
    return tuple(rows[index] for index in numbers(drawn))


def _note(folder: DataFolder, name: str, rows: Sequence[Labelled]) -> SourceNote:
    unique = deduplicate(rows)
    return SourceNote(name, len(rows), unique.repeated, unique.contradicting, *_licence(folder, name))


def _licence(folder: DataFolder, name: str) -> tuple[str, str]:
    source = folder.sources.get(name)
    return ("own labels", "") if source is None else (source.licence, source.sha256)
