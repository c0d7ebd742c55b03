import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
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
        ({"memory": 0.91, "memory_mean": 0.8}, 3, "memory"),
        ({"memory": 0.99, "memory_mean": 0.6}, 2, "steady"),  # one session fills one replica
        ({"memory": 0.91, "memory_mean": 0.8, "running": 3, "saturation": 0.1}, 3, "memory"),  # few, but long
        ({"latency_p95_s": 5.1}, 3, "latency"),
        ({"latency_p95_s": 5.1, "settled": False}, 2, "steady"),  # of the time before the last change
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


# --- a simulated tier under given arrivals, with Serve's delays around the policy --------------------------------


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
            memory_mean=0.8 * running / room if room else 0.0,
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


@pytest.mark.parametrize(
    ("changes", "replicas", "reason"),
    [
        # a node with two of three engines died; the survivor is neither above a threshold nor at ease
        ({"replicas": 1, "reporting": 1, "running": 12, "saturation": 0.75}, 3, "starting"),
        ({"replicas": 1, "reporting": 0, "running": 12, "saturation": 0.0}, 3, "starting"),
        ({"replicas": 1, "reporting": 1, "running": 16, "saturation": 1.0}, 3, "starting"),  # twice one is not enough
        ({"replicas": 0, "reporting": 0, "running": 0, "queued": 4}, 3, "starting"),
        ({"replicas": 2, "queued": 60, "running": 32, "saturation": 1.0}, 4, "queue"),
        # nobody needs them any more: a node that never comes is not asked for until the end of time
        ({"replicas": 1, "reporting": 1, "running": 4, "saturation": 0.25, "memory": 0.1}, 1, "steady"),
        ({"replicas": 1, "reporting": 1, "running": 0, "saturation": 0.0, "memory": 0.0}, 1, "idle, bounded"),
    ],
)
def test_replicas_on_their_way_are_waited_for(changes: dict[str, float], replicas: int, reason: str) -> None:
    wish = decide(SETTINGS, replace(STEADY, target=3, **changes))
    assert (wish.replicas, wish.reason) == (replicas, reason)


SIGNALS = st.builds(
    Signals,
    target=st.integers(0, 10),
    replicas=st.integers(0, 10),
    reporting=st.integers(0, 10),
    queued=st.floats(0, 1e4),
    running=st.floats(0, 1e4),
    seats=st.integers(0, 256),
    saturation=st.floats(0, 1),
    memory=st.floats(0, 1),
    memory_mean=st.floats(0, 1),
    latency_p95_s=st.floats(0, 600),
    settled=st.booleans(),
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
        memory_mean=min(1.0, signals.memory_mean + fuller),
    )
    assert decide(SETTINGS, busier).replicas >= decide(SETTINGS, signals).replicas


@given(st.floats(0, 200))
def test_a_constant_load_comes_to_rest(load: float) -> None:
    history = play([load] * 600, downscale_delay_s=60.0).history
    assert changes(history[300:]) == 0


# --- traces recorded on a real Serve (traces/README.md) ----------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One line of a trace, and the wish for it."""

    at_s: float
    current: int
    target: int
    total: float
    wish: int
    reason: str


def replay(name: str, **changed: Any) -> list[Seen]:
    policy = TierPolicy(min_replicas=0, max_replicas=3, look_back_s=2.0, **changed)
    state: dict[str, Any] = {}
    seen: list[Seen] = []
    for text in (Path(__file__).parent / "traces" / f"{name}.jsonl").read_text().splitlines():
        line = json.loads(text)
        wish, state = policy(
            context(
                current_num_replicas=line["current"],
                target_num_replicas=line["target"],
                total_num_requests=line["total"],
                total_queued_requests=line["queued"],
                aggregated_metrics=line["metrics"],
                current_time=line["t"],
                policy_state=state,
            )
        )
        seen.append(Seen(line["t"], line["current"], line["target"], line["total"], wish, state["reason"]))
    return seen


def longest_s(seen: Sequence[Seen], direction: int) -> float:
    """For how long the wishes went up (1) or down (-1) without a pause."""
    longest, since = 0.0, None
    for each in seen:
        if (each.wish - each.target) * direction <= 0:
            since = None
        else:
            since = each.at_s if since is None else since
            longest = max(longest, each.at_s - since)
    return longest


def between(seen: Sequence[Seen], from_s: float, to_s: float) -> list[Seen]:
    return [each for each in seen if from_s <= each.at_s < to_s]


def test_recorded_steady_load_and_a_burst_and_spikes_are_ridden_out() -> None:
    calm = between(replay("phases"), 2.5, 52.0)
    assert len(calm) > 40
    assert "saturation" in {each.reason for each in calm}  # a spike is seen ...
    assert longest_s(calm, 1) < 3.0  # ... and none lasts as long as the delay
    assert longest_s(calm, -1) == 0.0


def test_a_recorded_overload_is_answered_until_it_fits() -> None:
    seen = replay("phases")
    assert longest_s(between(seen, 52.0, 66.0), 1) > 2.0
    assert {each.wish for each in between(seen, 66.0, 90.0)} == {3}  # nine clients on twelve seats: no way down


def test_recorded_idleness_goes_to_zero_one_by_one() -> None:
    last = between(replay("phases"), 95.0, 200.0)
    assert all(each.wish >= each.target - 1 for each in last)
    assert [last[-1].wish, last[-1].target] == [0, 0]


def test_replacements_of_a_recorded_lost_node_are_waited_for() -> None:
    seen = replay("node-lost")
    growing = [each for each in between(seen, 0.0, 41.0) if each.current < each.target]
    assert len(growing) >= 5
    assert all(each.wish >= each.target for each in growing)
    alone = [each for each in between(seen, 41.0, 45.0) if each.current < 2]
    assert len(alone) >= 2
    assert {(each.wish, each.reason) for each in alone} == {(3, "starting")}
    assert longest_s(between(seen, 41.0, 57.0), -1) == 0.0
    assert [seen[-1].wish, seen[-1].target] == [0, 0]


def test_a_recorded_tier_whose_metrics_are_missing_is_left_as_it_is() -> None:
    silent = [each for each in between(replay("node-lost"), 9.0, 19.0) if each.current == 1]
    assert len(silent) >= 5  # a new replica says nothing for its first seconds
    assert {(each.wish, each.reason) for each in silent} == {(1, "steady")}


# --- what Serve is given and gives -------------------------------------------------------------------------------


def context(**fields: Any) -> SimpleNamespace:
    usual: dict[str, Any] = {
        "deployment_name": "Engine:m:r",
        "current_num_replicas": 2,
        "target_num_replicas": 2,
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
        "current_time": 1000.0,
        "policy_state": {},
    }
    return SimpleNamespace(**usual | fields)


def test_signals_are_read_from_serves_context() -> None:
    assert read(context()) == Signals(
        replicas=2, reporting=2, queued=12.0, running=28.0, seats=16.0, saturation=0.875, memory=0.6, memory_mean=0.4,
        latency_p95_s=1.0, target=2,
    )  # fmt: skip


def test_replicas_that_say_nothing_count_by_what_serve_sees() -> None:
    signals = read(context(aggregated_metrics=None, total_queued_requests=None))
    assert (signals.reporting, signals.queued, signals.running) == (0, 0.0, 40.0)
    policy = TierPolicy(max_replicas=4)
    assert policy(context(aggregated_metrics={}, total_queued_requests=30.0))[0] == 3


def test_numbers_that_are_none_do_not_stop_serves_controller() -> None:
    broken = {"running": {"a": math.nan}, "seats": {"a": math.inf}, "kv_usage": {"a": math.nan}, "waiting": {}}
    signals = read(context(aggregated_metrics=broken, total_num_requests=math.nan, total_queued_requests=math.inf))
    assert signals == Signals(replicas=2, reporting=1, queued=0.0, running=0.0, target=2)
    assert TierPolicy(max_replicas=4)(context(aggregated_metrics=broken, total_queued_requests=30.0))[0] == 3


def test_the_policy_says_why_once_per_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    policy = TierPolicy(max_replicas=4)
    replicas, state = policy(context())
    assert replicas == 3
    _, state = policy(context(policy_state=state))  # not acted on yet
    assert not caplog.records
    idle: dict[str, Any] = {"total_num_requests": 0.0, "total_queued_requests": 0.0, "aggregated_metrics": {}}
    _, state = policy(context(policy_state=state, target_num_replicas=3, **idle))
    _, state = policy(context(policy_state=state, target_num_replicas=3, **idle))
    _, state = policy(context(policy_state=state, target_num_replicas=0, **idle))
    policy(context(policy_state=state, target_num_replicas=1))
    assert [each.getMessage() for each in caplog.records] == [
        "Engine:m:r: from 2 to 3 replicas (queue)",
        "Engine:m:r: from 3 to 0 replicas (idle)",
        "Engine:m:r: from 0 to 1 replicas (cold)",
    ]
    # Serve's controller writes what comes to this logger and nothing else.
    assert {each.name.partition(".gatehouse")[0] for each in caplog.records} == {"ray.serve"}


def test_latencies_from_before_a_change_do_not_ask_for_more() -> None:
    policy = TierPolicy(max_replicas=8)
    metrics = {
        "running": {"a": 11.0, "b": 11.0},
        "seats": {"a": 16.0, "b": 16.0},
        "saturation": {"a": 0.7, "b": 0.7},
        "latency_p95_s": {"a": 9.0, "b": 1.0},
    }
    slow: dict[str, Any] = {"aggregated_metrics": metrics, "total_queued_requests": 0.0, "total_num_requests": 22.0}
    wish, state = policy(context(**slow))
    assert wish == 3
    _, state = policy(context(**slow, policy_state=state, target_num_replicas=3))
    slow |= {"current_num_replicas": 3, "target_num_replicas": 3}
    wish, state = policy(context(**slow, policy_state=state, current_time=1090.0))
    assert wish == 3
    wish, _ = policy(context(**slow, policy_state=state, current_time=1091.0))
    assert wish == 4


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
