"""The simulator against closed forms, and against what each part of it is to do."""

import math
from dataclasses import replace
from statistics import fmean

import pytest

from deployments.engine.scaling import ScalingSettings
from serve_app.sizing.constants import EFFICIENCIES, GPUS, MODELS
from serve_app.sizing.outcome import Outcome
from serve_app.sizing.replica import Clock, EngineShape
from serve_app.sizing.simulate import LARGE, SMALL, Scenario, TierSetup, simulate
from serve_app.sizing.throughput import Work, prompt_work, step_model
from serve_app.sizing.workload import Arrivals, Workload

_STEP = step_model(MODELS["gpt-oss-20b"], GPUS["h100"], 1, EFFICIENCIES["mid"])
_ENGINE = EngineShape(_STEP, seats=128, max_queued=384)


def _requests(rate: float, output: int = 1, **more: object) -> Workload:
    """Independent requests, one a session."""
    asked = Workload(sessions_per_s=rate, turns=1, first_tokens=1, turn_tokens=1, output=output, think_s=0)
    return replace(asked, **more)


def _alone(new: int, output: int, engine: EngineShape = _ENGINE) -> Outcome:
    """One stream that asks again and again."""
    load = Workload(
        population=1, turns=1, first_tokens=new, turn_tokens=1, output=output, spread="fixed", think_s=0
    )  # fmt: skip
    return simulate(Scenario("alone", {SMALL: TierSetup(engine)}, load, duration_s=60, warm_up_s=1))


@pytest.mark.parametrize(("load", "tolerance"), [(0.5, 0.05), (0.7, 0.06), (0.85, 0.15)])
def test_fixed_answers_at_one_seat_wait_as_pollaczek_and_khinchine_say(load: float, tolerance: float) -> None:
    """M/D/1: the mean wait is load / (2 (1 - load)) services. It varies more from run to run at a higher load."""
    tier = TierSetup(EngineShape(Clock(1.0, 0.0), seats=1, max_queued=1 << 30))
    waits = [
        fmean(simulate(Scenario("md1", {SMALL: tier}, _requests(load, spread="fixed"), 15_000, 1000, seed))
              .tiers[SMALL].ttft_s) - 1.0
        for seed in range(3)
    ]  # fmt: skip
    assert fmean(waits) == pytest.approx(load / (2 * (1 - load)), rel=tolerance)


def test_exponential_answers_at_four_seats_wait_as_erlang_says() -> None:
    """M/M/c: the mean wait is C(c, a) / (c mu - lambda), at the load that really came.

    A wait near saturation follows a load that is half a per cent higher by several, so the load is not the asked one.
    """
    servers = 4
    tier = TierSetup(EngineShape(Clock(0.0, 0.001), seats=servers, max_queued=1 << 30))
    errors: list[float] = []
    for seed in range(3):
        run = simulate(Scenario("mmc", {SMALL: tier}, _requests(2.8, output=1000), 10_000, 500, seed))
        seen = run.tiers[SMALL]
        rate, wait_s = seen.offered / run.measured_s, fmean(seen.ttft_s)
        service_s = fmean(seen.e2e_s) - wait_s
        load = rate * service_s
        queued = load**servers / math.factorial(servers) * servers / (servers - load)
        erlang = queued / (sum(load**each / math.factorial(each) for each in range(servers)) + queued)
        errors.append(wait_s / (erlang / (servers / service_s - rate)) - 1)
        assert load == pytest.approx(2.8, rel=0.03)
    assert fmean(errors) == pytest.approx(0, abs=0.1)


def test_a_full_house_turns_away_as_erlang_says() -> None:
    """M/M/c/c: with no room to wait, Erlang's B is the share that is refused."""
    tier = TierSetup(EngineShape(Clock(0.0, 0.001), seats=4, max_queued=4))
    seen = simulate(Scenario("loss", {SMALL: tier}, _requests(3.0, output=1000), 10_000, 500)).tiers[SMALL]
    blocked = 1.0
    for servers in range(1, 5):
        blocked = 3.0 * blocked / (servers + 3.0 * blocked)
    assert seen.refused / seen.offered == pytest.approx(blocked, rel=0.06)


def test_little_holds_in_a_closed_loop() -> None:
    """N streams of equal answers on enough seats: N / service answers a second."""
    load = Workload(
        population=16, turns=1, first_tokens=1, turn_tokens=1, output=51, spread="fixed", think_s=0
    )  # fmt: skip
    tier = TierSetup(EngineShape(Clock(0.5, 0.01), seats=16, max_queued=64))
    seen = simulate(Scenario("closed", {SMALL: tier}, load, 1000, 10)).tiers[SMALL]
    assert seen.complete / 990 == pytest.approx(16, rel=0.01)
    assert seen.ttft_s == pytest.approx([0.5] * seen.complete)


def test_one_prompt_alone_takes_its_own_steps() -> None:
    seen = _alone(new=5000, output=11).tiers[SMALL]
    reading = math.fsum(_STEP.seconds(each) for each in prompt_work(5000, 0, 2048))
    writing = math.fsum(_STEP.seconds(Work(decodes=1, decode_context=5001 + each)) for each in range(10))
    assert seen.ttft_s[0] == pytest.approx(reading)
    assert seen.e2e_s[0] == pytest.approx(reading + writing)
    assert seen.gaps.mean_s == pytest.approx(writing / 10, rel=1e-3)


def test_an_answer_of_one_token_has_no_gap() -> None:
    seen = _alone(new=100, output=1).tiers[SMALL]
    assert seen.ttft_s == seen.e2e_s
    assert seen.gaps.count == 0


def test_the_same_seed_is_the_same_run_and_another_one_is_not() -> None:
    scenario = Scenario(
        "mixed",
        {SMALL: TierSetup(_ENGINE, 2, hit=0.7), LARGE: TierSetup(_ENGINE, 1, ScalingSettings(max_replicas=3))},
        Workload(sessions_per_s=0.3, arrivals="bursty", large=0.3, escalation=0.1),
        duration_s=150,
        warm_up_s=15,
    )
    first, second, other = simulate(scenario), simulate(scenario), simulate(replace(scenario, seed=2))
    for name in (SMALL, LARGE):
        assert first.tiers[name].ttft_s == second.tiers[name].ttft_s
        assert first.tiers[name].e2e_s == second.tiers[name].e2e_s
        assert first.tiers[name].replicas == second.tiers[name].replicas
    assert first.tiers[SMALL].ttft_s != other.tiers[SMALL].ttft_s
    assert first.tiers[SMALL].escalated > 0


def test_more_replicas_serve_an_open_load_sooner() -> None:
    load = Workload(sessions_per_s=0.8)
    means = [
        fmean(simulate(Scenario("n", {SMALL: TierSetup(_ENGINE, count)}, load, 150, 30)).tiers[SMALL].e2e_s)
        for count in (1, 2, 4)
    ]
    assert means == sorted(means, reverse=True)


def test_a_full_cache_makes_requests_wait_although_seats_are_free() -> None:
    load = Workload(
        population=8, turns=1, first_tokens=1000, turn_tokens=1, output=200, spread="fixed", think_s=0
    )  # fmt: skip
    roomy = simulate(Scenario("roomy", {SMALL: TierSetup(_ENGINE)}, load, 120, 10)).tiers[SMALL]
    narrow_engine = replace(_ENGINE, cache_tokens=2400)  # two of them
    narrow = simulate(Scenario("narrow", {SMALL: TierSetup(narrow_engine)}, load, 120, 10)).tiers[SMALL]
    assert max(running for _, running, _ in roomy.depth) == 8
    assert max(running for _, running, _ in narrow.depth) == 2
    assert max(waiting for _, _, waiting in narrow.depth[1:]) == 6  # in the first step there is one


def test_a_prompt_that_is_alone_is_taken_however_small_the_cache() -> None:
    assert _alone(5000, 10, replace(_ENGINE, cache_tokens=100)).tiers[SMALL].complete > 1


def test_the_cache_follows_the_session() -> None:
    load = Workload(population=20, turns=20, spread="fixed", think_s=1)
    sticky = simulate(Scenario("sticky", {SMALL: TierSetup(_ENGINE, 4, hit=1.0)}, load, 150, 30)).tiers[SMALL]
    spread = simulate(Scenario("spread", {SMALL: TierSetup(_ENGINE, 4, hit=1.0, affinity=False)}, load, 150, 30)).tiers[
        SMALL
    ]
    assert sticky.cached_tokens / sticky.prompt_tokens > 0.9  # all but first turns and what a turn adds
    assert spread.cached_tokens / spread.prompt_tokens < 0.6
    none = simulate(Scenario("none", {SMALL: TierSetup(_ENGINE, 4, hit=0.0)}, load, 150, 30)).tiers[SMALL]
    assert none.cached_tokens == 0
    assert fmean(none.ttft_s) > fmean(sticky.ttft_s)


def test_escalated_sessions_stay_with_the_larger_model() -> None:
    load = Workload(population=10, turns=1000, spread="fixed", escalation=1.0, think_s=1)
    tiers = {SMALL: TierSetup(_ENGINE), LARGE: TierSetup(_ENGINE)}
    seen = simulate(Scenario("up", tiers, load, duration_s=300, warm_up_s=0)).tiers
    assert seen[SMALL].offered == seen[SMALL].escalated == 10  # one turn each
    assert seen[LARGE].complete > 100


def test_a_queue_that_is_full_breaks_sessions_off() -> None:
    load = Workload(sessions_per_s=5, turns=1, first_tokens=1, turn_tokens=1, output=1, spread="fixed", think_s=0)
    tier = TierSetup(EngineShape(Clock(10.0, 0.0), seats=1, max_queued=3))
    seen = simulate(Scenario("full", {SMALL: tier}, load, 200, 0))
    assert seen.tiers[SMALL].refused == seen.broken_off > 500
    assert max(running + waiting for _, running, waiting in seen.tiers[SMALL].depth) == 3


def test_a_busy_tier_grows_after_the_delay_and_the_cold_start_and_shrinks_again() -> None:
    scaling = ScalingSettings(max_replicas=4, upscale_delay_s=30, downscale_delay_s=60, look_back_s=10)
    engine = EngineShape(Clock(0.1, 0.05), seats=4, max_queued=1000)
    burst = Workload(population=16, turns=1, first_tokens=1, turn_tokens=1, output=100, spread="fixed", think_s=0)
    seen = simulate(
        Scenario("up", {SMALL: TierSetup(engine, 1, scaling, cold_start_s=50)}, burst, 600, 0)
    ).tiers[SMALL]  # fmt: skip
    ready = {at: count for at, count, _ in seen.replicas}
    assert ready[75.0] == 1  # 30 s of wishing and 50 s of starting are not over
    assert ready[90.0] >= 2
    assert max(ready.values()) == 4
    idle = replace(burst, population=1, think_s=5.0)
    seen = simulate(
        Scenario("down", {SMALL: TierSetup(engine, 4, scaling, cold_start_s=50)}, idle, 600, 0)
    ).tiers[SMALL]  # fmt: skip
    ready = {at: count for at, count, _ in seen.replicas}
    assert ready[55.0] == 4
    assert ready[595.0] == 1
    assert seen.replica_s < 4 * 600


def test_a_tier_at_zero_starts_for_its_first_request() -> None:
    scaling = ScalingSettings(min_replicas=0, max_replicas=2, to_zero_delay_s=60, look_back_s=10)
    engine = EngineShape(Clock(0.1, 0.01), seats=4, max_queued=100)
    load = Workload(sessions_per_s=0.002, turns=1, first_tokens=1, turn_tokens=1, output=10, spread="fixed", think_s=0)
    seen = simulate(Scenario("zero", {SMALL: TierSetup(engine, 0, scaling, cold_start_s=40)}, load, 4000, 0)).tiers[
        SMALL
    ]
    assert seen.replicas[0][1] == 0
    assert seen.complete > 2
    assert all(each >= 0.1 for each in seen.ttft_s)
    assert max(seen.ttft_s) == pytest.approx(40.1, abs=1.1)  # the rule is asked every second
    assert seen.replica_s < 4000 * 0.6


def test_bursts_keep_the_mean_and_raise_the_variance() -> None:
    def counts(arrivals: str) -> list[int]:
        load = Workload(sessions_per_s=1.0, arrivals="bursty" if arrivals == "bursty" else "poisson")
        source, per_minute = Arrivals(load, 7), [0] * 2000
        while (at := source.next_s()) < 60 * len(per_minute):
            per_minute[int(at // 60)] += 1
        return per_minute

    calm, bursty = counts("poisson"), counts("bursty")
    assert fmean(calm) == pytest.approx(60, rel=0.03)
    assert fmean(bursty) == pytest.approx(60, rel=0.05)
    variance = fmean((each - fmean(bursty)) ** 2 for each in bursty)
    assert variance > 5 * fmean((each - fmean(calm)) ** 2 for each in calm)


@pytest.mark.parametrize(
    "wrong",
    [{"population": 3}, {"sessions_per_s": 0.0}, {"turns": 0.5}, {"output": 0}, {"burst": 1.0}, {"turn_tokens": 0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_workloads_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"population or a rate|at least 1"):
        replace(Workload(sessions_per_s=1.0), **wrong)
