"""Whatever the moment: starts of any length, looks of any pace, a way back or a dead driver at any time."""

import os
import random

import pytest

from serve_app.canary.values import Phase
from tests.unit.canary.conftest import REST, Bench

RUNS = int(os.environ.get("GATEHOUSE_CANARY_RUNS", "3"))


@pytest.mark.parametrize("seed", range(RUNS))
def test_nobody_is_ever_sent_more_than_runs_there(bench: Bench, seed: int) -> None:
    """Starts of up to 15 minutes are no reason to go back.

    A third goes all the way, a third is taken back at some moment, of a third the driver is away for a while.
    """
    rng = random.Random(seed)
    starts_s = rng.uniform(60, 900)
    bench.world.active.starts_s = starts_s
    bench.world.next_generation = {"starts_s": starts_s}
    pace_s = rng.choice((10, 30))
    driver = bench.driver()
    driver.start(bench.order())
    at_s = bench.world.now_s + rng.uniform(0, 8 * starts_s)
    taken_back = False
    if seed % 3:
        memory = bench.follow(
            driver, lambda _: bench.world.now_s >= at_s or bench.world.pending is None, every_s=pace_s
        )
        if seed % 3 == 1 and not memory.phase.final:
            driver.back("for no reason", "CHG-9")
            taken_back = True
        else:
            bench.world.pass_s(rng.uniform(0, 1_800))
    memory = bench.follow(
        bench.driver(), lambda memory: memory.phase.final and not memory.outbox, 60_000, every_s=pace_s
    )
    assert bench.world.overloads == []
    assert bench.world.pending is None
    assert bench.options == REST
    assert memory.phase is (Phase.ROLLED_BACK if taken_back else Phase.FINISHED)
