"""`gatehouse bench gate`: every subject judges every call, and a gate that releases nothing would show."""

import json
from pathlib import Path

import pytest

from serve_app.bench.gate import LOGGED, SUBJECTS, TEXT, UNLOGGED, GatePlan, bench
from serve_app.bench.load import BenchRefused


def test_every_subject_is_measured_and_the_gate_releases_what_is_a_read(tmp_path: Path) -> None:
    said: list[str] = []
    found = bench(GatePlan(tmp_path, calls=12, clients=(1, 3)), said.append)
    assert {(row.subject, row.clients) for row in found.rows} == {(name, many) for name in SUBJECTS for many in (1, 3)}
    assert {row.reading for row in found.rows if row.subject != TEXT} == {"cold", "warm"}
    assert all(row.calls == row.spread.count == 12 for row in found.rows)
    assert all(row.released == 12 for row in found.rows if row.subject in (LOGGED, UNLOGGED))
    assert list(tmp_path.iterdir()) == [], "what was written is gone"
    told = json.loads(json.dumps(found.to_json()))
    assert len(told["rows"]) == 10
    assert str(tmp_path) not in json.dumps(told)
    assert len(said) > 10


@pytest.mark.parametrize("plan", [{"calls": 0}, {"clients": ()}, {"clients": (0,)}])
def test_a_plan_that_measures_nothing_is_refused(tmp_path: Path, plan: dict[str, object]) -> None:
    with pytest.raises(BenchRefused):
        bench(GatePlan(tmp_path, **plan), lambda _: None)  # pyright: ignore[reportArgumentType]
