"""What a router must reach on the development sets before it may be trusted with others: bounds, and who passed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from serve_app.routing.answers import AnswerReport
from serve_app.routing.baselines import LENGTH
from serve_app.routing.data import MMLU
from serve_app.routing.detectors import Detector
from serve_app.routing.drift import Drift
from serve_app.routing.invariants import Floors, PolicyTable, SameBytes, SumCheck
from serve_app.routing.metrics import Ranking
from serve_app.routing.stability import Stability
from serve_app.routing.study import HEADS, SERVED, WEAK_HEAD, FewLabels, SetStudy, Transfer
from serve_app.routing.timing import Timing

_GATED_PERTURBATIONS: Final = ("paraphrase", "typo")
_BUDGET: Final = 0.2
_LABELS: Final = 1500


@dataclass(frozen=True, slots=True)
class Gate:
    """One line. `passed` is None where it was only reported, or not measured: `measured` says which.

    `bar` is what the project aims at above the bound, empty where that is the bound, and `reached` whether it is.
    """

    name: str
    bound: str
    measured: str
    passed: bool | None
    bar: str = ""
    reached: bool | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What gates look at; None is not measured. `quick`: on a part of the rows, where an interval is wider."""

    quick: bool
    studies: Mapping[str, SetStudy]
    few: Sequence[FewLabels]
    transfers: Sequence[Transfer]
    answers: AnswerReport | None
    drifts: Sequence[Drift]
    stability: Mapping[str, Sequence[Stability]]
    detector: Detector | None
    sums: SumCheck | None
    same_bytes: SameBytes | None
    floors: Floors | None
    policy_table: PolicyTable | None
    timings: Sequence[Timing]


def gates(found: Findings) -> tuple[Gate, ...]:
    """Every gate, in the order of the reference; what was not measured says so and does not pass."""
    return tuple(make(found) or _unmeasured(name, bound) for name, bound, make in _GATES)


def failed(lines: Sequence[Gate]) -> tuple[str, ...]:
    """The names of the gates that were measured and not passed."""
    return tuple(line.name for line in lines if line.passed is False)


def _unmeasured(name: str, bound: str) -> Gate:
    return Gate(name, bound, "not measured", None)


def _few(found: Findings) -> Gate | None:
    run = next((each for each in found.few if each.labels == _LABELS), None)
    if run is None:
        return None
    (mean, deviation), (ruler, _) = run.apgr[HEADS], run.apgr[LENGTH]
    return Gate(
        _FEW,
        _FEW_BOUND,
        f"{mean:.3f} ± {deviation:.3f}, length {ruler:.3f}",
        mean >= 0.59 and mean > ruler,
        ">= 0.62",
        mean >= 0.62,
    )


def _folds(found: Findings) -> Gate | None:
    study = found.studies.get(MMLU)
    area = None if study is None else study.table.apgr(HEADS)
    if area is None:
        return None
    shown = f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"
    if found.quick:
        return Gate(_FOLDS, _FOLDS_BOUND, f"{shown}, on a part of the rows (reported)", None)
    return Gate(_FOLDS, _FOLDS_BOUND, shown, area.low > 0.63)


def _refused(found: Findings) -> Gate | None:
    heads = [each for each in found.transfers if each.contender in {HEADS, SERVED}]
    if not heads:
        return None
    shown = ", ".join(
        f"{each.learned_on} -> {each.tested_on} {_apgr(each)} ({'admitted' if each.admitted else 'refused'})"
        for each in heads
        if each.contender == HEADS
    )
    return Gate(_TRANSFER, _TRANSFER_BOUND, shown, not any(each.admitted for each in heads))


def _apgr(moved: Transfer) -> str:
    return "-" if moved.apgr is None else f"{moved.apgr.value:.3f}"


def _answers(found: Findings) -> Gate | None:
    report = found.answers
    if report is None or report.auc is None or not isinstance(report.ranking, Ranking):
        return None
    area, ordered = report.ranking.apgr, report.auc
    return Gate(
        _ANSWERS,
        _ANSWERS_BOUND,
        f"{ordered.value:.3f} [{ordered.low:.3f}, {ordered.high:.3f}]; "
        f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]",
        ordered.value >= 0.70 and area.value >= 0.65,
        ">= 0.78; >= 0.70",
        ordered.value >= 0.78 and area.value >= 0.70,
    )


def _ece(found: Findings) -> Gate | None:
    study = found.studies.get(MMLU)
    line = None if study is None else study.table.line(WEAK_HEAD)
    if line is None or line.reliability is None:
        return None
    return Gate(_ECE, _ECE_BOUND, f"{line.reliability.ece.value:.4f}", line.reliability.ece.value <= 0.03)


def _drift(found: Findings) -> Gate | None:
    if not found.drifts:
        return None
    shown = "; ".join(
        f"{each.scorer}: {100 * each.worst_segment:.1f} / {100 * each.overall:.1f}" for each in found.drifts
    )
    fine = all(each.worst_segment <= 0.02 and each.overall <= 0.01 for each in found.drifts)
    return Gate(_DRIFT, _DRIFT_BOUND, shown, fine)


def _stable(found: Findings) -> Gate | None:
    gated = [
        (scorer, each)
        for scorer, several in found.stability.items()
        for each in several
        if each.perturbation in _GATED_PERTURBATIONS
    ]
    if not gated:
        return None
    shown = "; ".join(f"{scorer}, {each.perturbation}: {100 * each.kept[_BUDGET]:.1f} %" for scorer, each in gated)
    return Gate(_STABLE, _STABLE_BOUND, shown, all(each.kept[_BUDGET] >= 0.9 for _, each in gated))


def _incidents(found: Findings) -> Gate | None:
    if found.detector is None:
        return None
    recall, false = found.detector.recall, found.detector.false_positive_share
    shown = f"{100 * recall:.1f} %; {100 * false:.2f} %"
    return Gate(_INCIDENTS, _INCIDENTS_BOUND, shown, recall >= 0.95 and false <= 0.02)


def _table(found: Findings) -> Gate | None:
    table = found.policy_table
    if table is None:
        return None
    right = table.combinations - len(table.wrong)
    return Gate(_TABLE, _TABLE_BOUND, f"{right} of {table.combinations} combinations", not table.wrong)


def _floors(found: Findings) -> Gate | None:
    floors = found.floors
    if floors is None:
        return None
    shown = f"{len(floors.downgrades)} in {floors.states} states ({floors.faults} faults, {floors.refused} held back)"
    return Gate(_FLOORS, _FLOORS_BOUND, shown, not floors.downgrades)


def _sums(found: Findings) -> Gate | None:
    if found.sums is None:
        return None
    return Gate(_SUMS, _SUMS_BOUND, f"{found.sums.worst:.1e} over {found.sums.explained} prompts", found.sums.passed)


def _bytes(found: Findings) -> Gate | None:
    same = found.same_bytes
    if same is None:
        return None
    said = "the same" if same.passed else "different, or a process failed"
    return Gate(_BYTES, _BYTES_BOUND, f"{said}: {same.prompts} prompts, {same.processes} processes", same.passed)


def _time(found: Findings) -> Gate | None:
    if not found.timings:
        return None
    slowest = max(found.timings, key=lambda each: each.ours.p99_us)
    ratio = max(each.ratio for each in found.timings)
    shown = f"{slowest.ours.p99_us:.0f} us ({slowest.prompts}); at most {ratio:.2f} x the peer's median (reported)"
    return Gate(_TIME, _TIME_BOUND, shown, None)


_FEW, _FEW_BOUND = "two heads, MMLU, 1,500 labels: APGR", ">= 0.59 and above length"
_FOLDS, _FOLDS_BOUND = "two heads, MMLU, 5-fold: APGR", "lower bound > 0.63"
_TRANSFER, _TRANSFER_BOUND = "two heads moved to another benchmark", "refused"
_ANSWERS, _ANSWERS_BOUND = "answer checks, GSM8K: AUC; APGR", ">= 0.70; >= 0.65"
_ECE, _ECE_BOUND = "P(weak wrong), MMLU: ECE-15", "<= 0.03"
_DRIFT, _DRIFT_BOUND = "controller error per segment / overall, points", "<= 2 / <= 1"
_STABLE, _STABLE_BOUND = "decisions kept at a 20 % budget", ">= 90 %"
_INCIDENTS, _INCIDENTS_BOUND = "incident detector: recall; false positives", ">= 95 %; <= 2 %"
_TABLE, _TABLE_BOUND = "policy v1 truth table", "100 %"
_FLOORS, _FLOORS_BOUND = "downgrades of R2 and above", "0"
_SUMS, _SUMS_BOUND = "explanations add up", "<= 1e-4"
_BYTES, _BYTES_BOUND = "same bytes in every process", "the same"
_TIME, _TIME_BOUND = "CPU time of a decision, p99", "<= 1 ms on a quiet host"

_GATES: Final[tuple[tuple[str, str, Callable[[Findings], Gate | None]], ...]] = (
    (_FEW, _FEW_BOUND, _few),
    (_FOLDS, _FOLDS_BOUND, _folds),
    (_TRANSFER, _TRANSFER_BOUND, _refused),
    (_ANSWERS, _ANSWERS_BOUND, _answers),
    (_ECE, _ECE_BOUND, _ece),
    (_DRIFT, _DRIFT_BOUND, _drift),
    (_STABLE, _STABLE_BOUND, _stable),
    (_INCIDENTS, _INCIDENTS_BOUND, _incidents),
    (_TABLE, _TABLE_BOUND, _table),
    (_FLOORS, _FLOORS_BOUND, _floors),
    (_SUMS, _SUMS_BOUND, _sums),
    (_BYTES, _BYTES_BOUND, _bytes),
    (_TIME, _TIME_BOUND, _time),
)
