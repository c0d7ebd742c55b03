import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig  # only its schema: nothing is started

from deployments.engine.scaling import (
    LatencyWindow,
    ScalingSettings,
    Signals,
    TierPolicy,
    autoscaling_config,
    decide,
    read,
)

SETTINGS = ScalingSettings(min_replicas=1, max_replicas=8)
SEATS = 16
STEADY = Signals(replicas=2, reporting=2, queued=0, running=22, seats=SEATS, saturation=22 / 32, memory=0.5)


@pytest.mark.parametrize(
    ("changes", "replicas", "reason"),
    [
        ({}, 2, "steady"),
        ({"queued": 10}, 2, "steady"),  # exactly five each is not above five
        ({"queued": 11}, 3, "queue"),
        ({"queued": 60, "running": 32, "saturation": 1.0}, 4, "queue"),  # never more than twice what runs
        ({"saturation": 0.86, "running": 28}, 3, "saturation"),
        ({"saturation": 0.85, "running": 27}, 2, "steady"),
        ({"memory": 0.91}, 3, "memory"),
        ({"latency_p95_s": 5.1}, 3, "latency"),
        ({"latency_p95_s": 60.0, "saturation": 0.2, "running": 3}, 2, "steady"),  # slow, but not for want of engines
        ({"running": 4, "saturation": 4 / 32, "memory": 0.1}, 1, "low"),
        ({"running": 4, "saturation": 4 / 32, "memory": 0.1, "queued": 1}, 2, "steady"),
        ({"running": 4, "saturation": 4 / 32, "memory": 0.4}, 2, "steady"),  # one alone would hold 0.8 of memory
        ({"running": 4, "saturation": 4 / 32, "memory": 0.1, "reporting": 1}, 2, "steady"),
        ({"running": 0, "saturation": 0.0, "memory": 0.0}, 1, "idle"),
        ({"replicas": 1, "reporting": 1, "running": 0, "saturation": 0.0, "memory": 0.0}, 1, "idle, bounded"),
        ({"replicas": 8, "reporting": 8, "queued": 99}, 8, "queue, bounded"),
        ({"replicas": 0, "reporting": 0, "running": 0, "queued": 1}, 1, "cold"),
        ({"seats": 0.0, "queued": 99}, 3, "queue"),  # an upstream does not say what it can take
    ],
)
def test_the_thresholds_of_the_runbook(changes: dict[str, float], replicas: int, reason: str) -> None:
    wish = decide(SETTINGS, replace(STEADY, **changes))
    assert (wish.replicas, wish.reason) == (replicas, reason)


def test_a_tier_goes_to_zero_only_where_the_profile_allows_it() -> None:
    idle = Signals(replicas=1, reporting=1, queued=0, running=0)
    assert decide(ScalingSettings(min_replicas=0, max_replicas=2), idle).replicas == 0
    assert decide(SETTINGS, idle).replicas == 1


# --- traces: a tier under recorded arrivals, with Serve's delays around the policy -------------------------------


@dataclass
class Tier:
    """A tier of `seats` per replica that serves one request per seat and tick; delays as Serve applies them."""

    settings: ScalingSettings
    replicas: int = 1
    queue: float = 0.0
    since: tuple[int, float] | None = None
    history: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def tick(self, now_s: float, arrivals: float) -> None:
        room = self.replicas * SEATS
        offered = self.queue + arrivals
        running = min(room, offered)
        self.queue = offered - running
        wish = decide(self.settings, Signals(
            replicas=self.replicas, reporting=self.replicas, queued=self.queue, running=running, seats=SEATS,
            saturation=running / room if room else 0.0, memory=0.8 * running / room if room else 0.0,
        ))  # fmt: skip
        self.reasons.append(wish.reason)
        direction = (wish.replicas > self.replicas) - (wish.replicas < self.replicas)
        if direction == 0:
            self.since = None
        else:
            if self.since is None or self.since[0] != direction:
                self.since = (direction, now_s)
            delay_s = self.settings.upscale_delay_s if direction > 0 else self.settings.downscale_delay_s
            if direction < 0 and self.replicas == 1:
                delay_s = self.settings.to_zero_delay_s
            if self.replicas == 0 or now_s - self.since[1] >= delay_s:
                self.replicas, self.since = wish.replicas, None
        self.history.append(self.replicas)


def play(arrivals: Sequence[float], **settings: Any) -> Tier:
    fields: dict[str, Any] = {"min_replicas": 1, "max_replicas": 8, "upscale_delay_s": 30.0, "downscale_delay_s": 120.0}
    tier = Tier(ScalingSettings(**fields | settings))
    for tick, count in enumerate(arrivals):
        tier.tick(10.0 * tick, count)
    return tier


def changes(history: Sequence[int]) -> int:
    return sum(one != other for one, other in zip(history, history[1:], strict=False))


def test_a_steady_load_is_left_alone() -> None:
    assert set(play([10.0] * 100).history) == {1}


def test_a_burst_shorter_than_the_delay_is_ridden_out() -> None:
    assert set(play([5.0] * 20 + [30.0] + [5.0] * 40).history) == {1}


def test_spikes_do_not_make_replicas_come_and_go() -> None:
    tier = play(([5.0] * 4 + [30.0]) * 40)
    assert changes(tier.history) == 0


def test_a_sustained_overload_grows_until_it_fits_and_no_further() -> None:
    tier = play([60.0] * 200)
    assert 5 <= tier.history[-1] <= 7  # 5 hold the load below 0.85; what had piled up asked for a little more
    assert changes(tier.history[60:]) == 0


def test_a_fallen_load_is_followed_slowly() -> None:
    tier = play([60.0] * 60 + [4.0] * 120)
    assert tier.history[59] >= 4
    assert tier.history[-1] == 1
    assert all(one - other <= 1 for one, other in zip(tier.history[60:], tier.history[61:], strict=False))


def test_idle_to_zero_and_back() -> None:
    tier = play([3.0] * 5 + [0.0] * 80 + [1.0] * 5, min_replicas=0, to_zero_delay_s=600.0)
    assert tier.history[60] == 1
    assert 0 in tier.history
    assert tier.history[-1] == 1
    assert "cold" in tier.reasons


SIGNALS = st.builds(
    Signals,
    replicas=st.integers(0, 10),
    reporting=st.integers(0, 10),
    queued=st.floats(0, 1e4),
    running=st.floats(0, 1e4),
    seats=st.integers(0, 256),
    saturation=st.floats(0, 1),
    memory=st.floats(0, 1),
    latency_p95_s=st.floats(0, 600),
)


@given(SIGNALS, st.integers(0, 3), st.integers(0, 8))
def test_a_wish_is_always_within_the_bounds(signals: Signals, least: int, more: int) -> None:
    settings = ScalingSettings(min_replicas=least, max_replicas=max(1, least + more))
    assert settings.min_replicas <= decide(settings, signals).replicas <= settings.max_replicas


@given(SIGNALS, st.floats(0, 100), st.floats(0, 1))
def test_more_work_never_wishes_for_less(signals: Signals, queued: float, fuller: float) -> None:
    busier = replace(
        signals,
        queued=signals.queued + queued,
        saturation=min(1.0, signals.saturation + fuller),
        memory=min(1.0, signals.memory + fuller),
    )
    assert decide(SETTINGS, busier).replicas >= decide(SETTINGS, signals).replicas


@given(st.floats(0, 200))
def test_a_constant_load_comes_to_rest(load: float) -> None:
    history = play([load] * 600, downscale_delay_s=60.0).history
    assert changes(history[300:]) == 0


# --- what Serve is given and gives -------------------------------------------------------------------------------


def context(**fields: Any) -> SimpleNamespace:
    usual: dict[str, Any] = {
        "deployment_name": "Engine:m:r",
        "current_num_replicas": 2,
        "total_num_requests": 40.0,
        "total_queued_requests": 9.0,
        "aggregated_metrics": {
            "running": {"a": 16.0, "b": 12.0},
            "waiting": {"a": 3.0, "b": 0.0},
            "seats": {"a": 16.0, "b": 16.0},
            "saturation": {"a": 1.0, "b": 0.75},
            "kv_usage": {"a": 0.2, "b": 0.6},
            "latency_p95_s": {"a": 1.0, "b": 0.5},
        },
        "policy_state": {},
    }
    return SimpleNamespace(**usual | fields)


def test_signals_are_read_from_serves_context() -> None:
    assert read(context()) == Signals(
        replicas=2, reporting=2, queued=12.0, running=31.0, seats=16.0, saturation=0.875, memory=0.6, latency_p95_s=1.0
    )


def test_replicas_that_say_nothing_count_by_what_serve_sees() -> None:
    signals = read(context(aggregated_metrics=None, total_queued_requests=None))
    assert (signals.reporting, signals.queued, signals.running) == (0, 0.0, 40.0)
    policy = TierPolicy(max_replicas=4)
    assert policy(context(aggregated_metrics={}, total_queued_requests=30.0))[0] == 3


def test_the_policy_says_why() -> None:
    replicas, state = TierPolicy(max_replicas=4)(context())
    assert (replicas, state) == (4, {"reason": "queue"})


def test_serve_takes_the_configuration_and_finds_the_policy() -> None:
    config = AutoscalingConfig(**autoscaling_config(ScalingSettings(min_replicas=0, max_replicas=3)))
    policy = config.policy.get_policy()(**config.policy.policy_kwargs)
    assert isinstance(policy, TierPolicy)
    assert (config.min_replicas, config.max_replicas, config.upscale_delay_s) == (0, 3, 30.0)
    assert config.downscale_to_zero_delay_s == 1800.0


@pytest.mark.parametrize(
    "fields",
    [
        {"min_replicas": 3, "max_replicas": 2},
        {"saturation": 0.5, "saturation_low": 0.5},
        {"memory_low": 0.95},
        {"latency_s": 1.0},
        {"queue_depth": 0.0},
        {"surge": 2},
    ],
)
def test_settings_that_contradict_themselves_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ScalingSettings(**fields)


def test_latencies_of_the_last_minute() -> None:
    window = LatencyWindow(span_s=60.0, most=100)
    assert window.p95_s(0.0) == 0.0
    for number in range(1, 101):
        window.add(float(number), float(number))
    assert window.p95_s(100.0) == 97.0  # of 40..100, nearest rank
    assert window.p95_s(1000.0) == 0.0
    assert math.isclose(LatencyWindow().p95_s(0.0), 0.0)
