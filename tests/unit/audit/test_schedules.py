"""Two writers at once: one lineage, nothing acknowledged is lost. The long run is in `tests/audit/`."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.audit.schedules import Action, Turn, run

ACTIONS = st.sampled_from([Action.NOTHING] * 12 + [Action.KILL, Action.CUT_WRITE, Action.FAIL_SYNC, Action.POWER_CUT])
SCHEDULES = st.lists(
    st.builds(Turn, who=st.integers(0, 1), steps=st.integers(1, 90), action=ACTIONS), min_size=1, max_size=40
)

SEEDS = st.integers(0, 2**32)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(schedule=SCHEDULES, seed=SEEDS)
def test_two_writers_in_any_order_leave_one_log_with_everything_acknowledged(schedule: list[Turn], seed: int) -> None:
    memory = Path("/dev/shm")  # noqa: S108 - a fresh private directory in it
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        run(schedule, seed, Path(name) / "ids.db")


def test_the_schedules_do_fence_writers(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for steps in range(20, 120, 9):
        schedule = [Turn(turn % 2, steps) for turn in range(24)]
        seen += run(schedule, steps, tmp_path / f"{steps}.db")
    assert min(seen["acknowledged"], seen["fenced"], seen["surplus"]) > 0
