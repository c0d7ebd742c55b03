"""The path before the engines: who shares it gets his part, by closed forms."""

from dataclasses import replace

import pytest

from serve_app.sizing.path import PathShape
from serve_app.sizing.replica import Clock, EngineShape
from serve_app.sizing.simulate import SMALL, Scenario, TierSetup, simulate
from serve_app.sizing.workload import Workload

_INSTANT = TierSetup(EngineShape(Clock(0.0, 0.0), seats=1 << 20, max_queued=1 << 30))
_ONE = Workload(sessions_per_s=1.0, turns=1, first_tokens=1, turn_tokens=1, output=1, spread="fixed", think_s=0)


def _times(path: PathShape, arrivals_s: tuple[float, ...], tier: TierSetup = _INSTANT, output: int = 1) -> list[float]:
    """Times to the first token in the order in which requests end."""
    load = Workload(sessions_per_s=1.0, turns=1, first_tokens=1, turn_tokens=1, output=output, spread="fixed")
    run = Scenario("path", {SMALL: tier}, load, duration_s=1e4, warm_up_s=0, path=path, arrivals_s=arrivals_s)
    return simulate(run).tiers[SMALL].ttft_s


def test_a_request_alone_takes_its_calls_and_its_work() -> None:
    assert _times(PathShape(0.1, 0.4), (1.0,)) == pytest.approx([0.5])


def test_of_those_who_come_at_once_none_is_through_before_all_are() -> None:
    assert _times(PathShape(0.1, 0.4), (1.0,) * 5) == pytest.approx([0.1 + 5 * 0.4] * 5)


def test_a_later_one_slows_an_earlier_one_down() -> None:
    # Alone for 0.2 s, then by halves: the first has 0.2 s left and takes 0.4; the second then 0.2 s alone.
    assert _times(PathShape(0.0, 0.4), (1.0, 1.2)) == pytest.approx([0.6, 0.6])
    assert _times(PathShape(0.0, 0.4), (1.0, 1.3)) == pytest.approx([0.5, 0.5])


def test_replicas_share_the_requests_in_turns() -> None:
    assert _times(PathShape(0.0, 0.4, servers=2), (1.0,) * 4) == pytest.approx([0.8] * 4)


def test_tokens_take_their_part_of_the_core() -> None:
    # An answer of 1,000 tokens at 10 a second; each takes 0.05 s, so half of the core is left.
    tier = TierSetup(EngineShape(Clock(0.0, 0.1), seats=8, max_queued=8))
    first, second = sorted(_times(PathShape(0.0, 0.2, token_s=0.05), (0.0, 50.0), tier, output=1000))
    assert (first, second) == pytest.approx((0.2, 0.4))


def test_tokens_that_need_more_than_all_leave_a_little() -> None:
    tier = TierSetup(EngineShape(Clock(0.0, 0.1), seats=8, max_queued=8))
    seen = _times(PathShape(0.0, 0.2, token_s=1.0), (0.0, 50.0), tier, output=1000)
    assert sorted(seen) == pytest.approx([0.2, 0.2 / 0.02])


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_poisson_arrivals_stay_as_long_as_processor_sharing_says(load: float) -> None:
    """M/G/1 with processor sharing: the mean time is the work over what is idle, whatever the work's distribution."""
    run = Scenario(
        "ps", {SMALL: _INSTANT}, Workload(sessions_per_s=load, turns=1, first_tokens=1, turn_tokens=1, output=1,
                                          spread="fixed", think_s=0),
        duration_s=40_000, warm_up_s=1000, path=PathShape(0.0, 1.0),
    )  # fmt: skip
    seen = simulate(run).tiers[SMALL].ttft_s
    assert sum(seen) / len(seen) == pytest.approx(1 / (1 - load), rel=0.08)


def test_streams_of_equal_answers_stay_in_step_and_pay_for_one_another() -> None:
    """A closed loop on equal answers: all ask at once, time after time, which a queue would have spread out."""
    load = Workload(population=8, turns=1, first_tokens=1, turn_tokens=1, output=11, spread="fixed", think_s=0)
    tier = TierSetup(EngineShape(Clock(0.2, 0.1), seats=8, max_queued=64))
    run = Scenario("closed", {SMALL: tier}, load, duration_s=100, warm_up_s=10, path=PathShape(0.01, 0.02))
    seen = simulate(run).tiers[SMALL]
    assert seen.complete > 500
    assert seen.ttft_s == pytest.approx([0.2 + 0.01 + 8 * 0.02] * seen.complete, abs=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [{"calls_s": -1.0}, {"request_s": -1.0}, {"token_s": -1.0}, {"servers": 0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_paths_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least one ingress"):
        replace(PathShape(), **wrong)
