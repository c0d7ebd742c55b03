"""A thousand random schedules of two writers without a lock, with kills, torn writes, failed syncs and power cuts."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, Phase, given, settings

from tests.unit.audit.schedules import Turn, run
from tests.unit.audit.test_schedules import SCHEDULES, SEEDS

EXAMPLES = 1_200


def test_two_writers_in_any_order_leave_one_log_with_everything_acknowledged() -> None:
    seen: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(schedule=SCHEDULES, seed=SEEDS)
    def play(schedule: list[Turn], seed: int) -> None:
        memory = Path("/dev/shm")  # noqa: S108 - a fresh private directory in it
        with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
            found = run(schedule, seed, Path(name) / "ids.db")
        seen.update(found, schedules=1)

    play()
    print(dict(seen))
    # Otherwise the schedules did not test what they are for.
    assert seen["schedules"] >= 1_000
    assert seen["acknowledged"] > 10_000
    assert min(seen["fenced"], seen["surplus"]) >= 200
    assert seen["torn"] > 0
