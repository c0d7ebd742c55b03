"""Signals against rows that should and should not set them off."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from router.route import Trace
from router.types import Risk, TaskType
from serve_app.routing.data import Case, Incident, Tiered
from serve_app.routing.metrics import Interval, Resamples, Vector, auc
from serve_app.routing.stability import spearman

APART: Final = frozenset({"debugging", "infrastructure", "performance"})
"""Categories whose prompts may well be incidents: counted by themselves."""

_UNCERTAINTY: Final = ("very_low", "low", "medium", "high", "very_high")
_HARD_TIERS: Final = frozenset({"COMPLEX", "REASONING"})


@dataclass(frozen=True, slots=True)
class Detector:
    """The incident detector: recall by task of the incidents, rate of hits by category of everything else."""

    incidents: int
    recall: float
    recall_by_task: Mapping[str, float]
    others: int
    false_positive_share: float
    apart: int
    apart_share: float
    hits_by_category: Mapping[str, tuple[int, int]]


def detector(
    incidents: Sequence[Incident], found: Sequence[Trace], others: Sequence[Tiered], shown: Sequence[Trace]
) -> Detector:
    """Recall over `incidents` and false positives over `others`, given the router's trace of each."""
    caught = [_is_incident(trace) for trace in found]
    by_task: dict[str, list[bool]] = {}
    for row, hit in zip(incidents, caught, strict=True):
        by_task.setdefault(row.task, []).append(hit)
    hits: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for row, trace in zip(others, shown, strict=True):
        seen[row.category] += 1
        hits[row.category] += _is_incident(trace)
    plain = [category for category in seen if category not in APART]
    kept_apart = [category for category in seen if category in APART]
    return Detector(
        incidents=len(caught),
        recall=_share(sum(caught), len(caught)),
        recall_by_task={task: _share(sum(each), len(each)) for task, each in sorted(by_task.items())},
        others=sum(seen[category] for category in plain),
        false_positive_share=_share(sum(hits[c] for c in plain), sum(seen[c] for c in plain)),
        apart=sum(seen[category] for category in kept_apart),
        apart_share=_share(sum(hits[c] for c in kept_apart), sum(seen[c] for c in kept_apart)),
        hits_by_category={category: (hits[category], seen[category]) for category in sorted(seen) if hits[category]},
    )


@dataclass(frozen=True, slots=True)
class Conformance:
    """What our signals say about the cases of another router's; it has signals that we do not.

    `tasks` counts our task types per label of the domain cases. `mathematics_recall` and `mathematics_false` are shares
    of the mathematics cases and of all other domains read as mathematics. `uncertainty` is the rank correlation of
    difficulty with the expected level. `urgent` is the share of those cases with severe
    words, a raised risk or an incident, `sensitive` of those with a raised risk, `decisions` how many of each expected
    decision we read as risk R2 or more, and how many there are.
    """

    cases: Mapping[str, int]
    tasks: Mapping[str, Mapping[str, int]]
    mathematics_recall: float
    mathematics_false: float
    uncertainty: float
    urgent: float
    sensitive: float
    decisions: Mapping[str, tuple[int, int]]


def conformance(cases: Sequence[Case], traces: Sequence[Trace]) -> Conformance:
    """Compare the cases with the router's trace of each."""
    pairs = list(zip(cases, traces, strict=True))
    domains = [(case, trace) for case, trace in pairs if case.set_name == "domain_classify_cases"]
    tasks: dict[str, Counter[str]] = {}
    for case, trace in domains:
        tasks.setdefault(case.label, Counter())[trace.signals.task.value] += 1
    levels = [(case, trace) for case, trace in pairs if case.set_name == "entropy_routing_cases"]
    keywords = [(case, trace) for case, trace in pairs if case.set_name == "keyword_routing_cases"]
    decided: dict[str, list[bool]] = {}
    for case, trace in pairs:
        if case.set_name == "embedding_signal_cases":
            decided.setdefault(case.label or "none", []).append(_raised(trace))
    mathematics = [trace.signals.task is TaskType.MATHEMATICS for case, trace in domains if case.label == "math"]
    other = [trace.signals.task is TaskType.MATHEMATICS for case, trace in domains if case.label != "math"]
    urgent = [_urgent(trace) for case, trace in keywords if case.label == "urgent_request"]
    sensitive = [_raised(t) for case, t in keywords if case.label == "sensitive_data"]
    return Conformance(
        cases=Counter(case.set_name for case in cases),
        tasks={label: dict(count.most_common()) for label, count in sorted(tasks.items())},
        mathematics_recall=_share(sum(mathematics), len(mathematics)),
        mathematics_false=_share(sum(other), len(other)),
        uncertainty=spearman(
            np.asarray([float(_UNCERTAINTY.index(case.label)) for case, _ in levels]),
            np.asarray([trace.score.difficulty for _, trace in levels]),
        ),
        urgent=_share(sum(urgent), len(urgent)),
        sensitive=_share(sum(sensitive), len(sensitive)),
        decisions={label: (sum(each), len(each)) for label, each in sorted(decided.items())},
    )


@dataclass(frozen=True, slots=True)
class Opinion:
    """One language of the tier set: how well difficulty and length order COMPLEX and REASONING above the rest.

    Areas under the ROC curve; the tiers are their author's opinion, not measured correctness.
    """

    lang: str
    prompts: int
    difficulty: Interval | None
    length: Interval | None


def opinions(rows: Sequence[Tiered], difficulty: Vector, resamples: int) -> tuple[Opinion, ...]:
    """All languages together, then each with at least 20 rows."""
    hard = np.asarray([row.tier in _HARD_TIERS for row in rows])
    length = np.asarray([float(len(row.prompt)) for row in rows])
    lang = np.asarray([row.lang for row in rows])
    groups = {"all": np.arange(len(rows))}
    groups |= {name: np.flatnonzero(lang == name) for name in sorted(set(lang.tolist()))}
    found: list[Opinion] = []
    for name, inside in groups.items():
        if inside.size < 20:
            continue
        drawn = Resamples.over_groups([rows[index].key for index in inside.tolist()], resamples)
        found.append(
            Opinion(
                lang=name,
                prompts=int(inside.size),
                difficulty=auc(hard[inside], difficulty[inside], drawn),
                length=auc(hard[inside], length[inside], drawn),
            )
        )
    return tuple(found)


def _is_incident(trace: Trace) -> bool:
    return trace.signals.task is TaskType.INCIDENT_DIAGNOSIS


def _raised(trace: Trace) -> bool:
    return trace.signals.risk.rank >= Risk.R2.rank


def _share(hits: int, of: int) -> float:
    return hits / of if of else 0.0


def _urgent(trace: Trace) -> bool:
    return trace.signals.severe or _raised(trace) or _is_incident(trace)
