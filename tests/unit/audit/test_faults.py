"""One system call fails: what was acknowledged stays. Every call and every error is tried in `tests/audit/`."""

from pathlib import Path

import pytest

from tests.unit.audit.faults import FAULTS, calls_of_a_life, live_with_fault


@pytest.mark.parametrize("power_cut", [False, True], ids=["restart", "power cut"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_system_call_loses_nothing_acknowledged(tmp_path: Path, fault: str, power_cut: bool) -> None:
    calls = len(calls_of_a_life(tmp_path / "clean.db"))
    hits = set[str]()
    for at in range(3, calls, 11):
        hit, _ = live_with_fault(at, FAULTS[fault], tmp_path / f"{at}.db", power_cut)
        hits.add(hit or "")
    assert len(hits) > 5
