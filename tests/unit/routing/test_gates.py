from dataclasses import replace

import pytest

from serve_app.routing.data import GSM8K, MMLU
from serve_app.routing.detectors import Detector
from serve_app.routing.drift import Drift, Segment
from serve_app.routing.gates import Findings, failed, gates
from serve_app.routing.invariants import Floors, PolicyTable, SameBytes, SumCheck
from serve_app.routing.metrics import Interval
from serve_app.routing.stability import Stability
from serve_app.routing.study import HEADS, LENGTH, FewLabels, Transfer


def kept(share: float) -> Stability:
    return Stability("typo", 9, 1.0, 1.0, {0.2: share}, {0.2: 0.68}, {0.2: 0.2})


def moved(*, admitted: bool) -> Transfer:
    return Transfer(MMLU, GSM8K, HEADS, Interval(0.46, 0.4, 0.5), {}, admitted, () if admitted else ("no",))


def drifted(segment: float, overall: float) -> Drift:
    return Drift("s", 0.2, (Segment("a", 9, 0.2, segment, 0.2),), 0.2, overall, 0.2)


def few(mean: float, ruler: float) -> FewLabels:
    return FewLabels(1500, 4, {HEADS: (mean, 0.01), LENGTH: (ruler, 0.0)}, {})


def caught(recall: float, false: float) -> Detector:
    return Detector(9, recall, {}, 99, false, 9, 0.5, {})


FINE = Findings(
    quick=False,
    studies={},
    few=(few(0.63, 0.557),),
    transfers=(moved(admitted=False),),
    answers=None,
    drifts=(drifted(0.21, 0.2),),
    stability={HEADS: (kept(0.95),)},
    detector=caught(1.0, 0.0),
    sums=SumCheck(9, 1e-6),
    same_bytes=SameBytes(9, 3, True),
    floors=Floors(9, 1, 1, ()),
    policy_table=PolicyTable(9, ()),
    timings=(),
)


def test_what_is_not_measured_neither_passes_nor_fails() -> None:
    lines = gates(FINE)
    unmeasured = [line.name for line in lines if line.measured == "not measured"]
    assert len(lines) == 13
    assert len(unmeasured) == 4  # the table of MMLU twice, the answers, the time
    assert all(line.passed is None for line in lines if line.name in unmeasured)
    assert failed(lines) == ()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"few": (few(0.58, 0.55),)}, "1,500 labels"),
        ({"few": (few(0.60, 0.61),)}, "1,500 labels"),
        ({"transfers": (moved(admitted=False), moved(admitted=True))}, "another benchmark"),
        ({"drifts": (drifted(0.2, 0.2), drifted(0.221, 0.2))}, "controller"),
        ({"drifts": (drifted(0.2, 0.211),)}, "controller"),
        ({"stability": {HEADS: (kept(0.95),), "other": (kept(0.89),)}}, "decisions kept"),
        ({"detector": caught(0.94, 0.0)}, "incident"),
        ({"detector": caught(1.0, 0.021)}, "incident"),
        ({"sums": SumCheck(9, 1e-3)}, "add up"),
        ({"same_bytes": SameBytes(9, 3, False)}, "same bytes"),
        ({"floors": Floors(9, 1, 1, ("state 3",))}, "downgrades"),
        ({"policy_table": PolicyTable(9, ("x",))}, "truth table"),
    ],
    ids=[
        "few-labels", "below-length", "transfer", "segment", "overall", "stability", "recall", "false-positives",
        "sums", "bytes", "floors", "table",
    ],
)  # fmt: skip
def test_each_gate_can_fail_and_fails_alone(change: dict, name: str) -> None:
    (only,) = failed(gates(replace(FINE, **change)))
    assert name in only


def test_an_aim_above_the_bound_does_not_decide() -> None:
    (line,) = [line for line in gates(replace(FINE, few=(few(0.60, 0.55),))) if "1,500" in line.name]
    assert (line.passed, line.reached) == (True, False)
