"""The judge's error rates, found by simulation at fixed seeds, and what it does with figures."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.rollout.judge import Pair, Tally, Verdict, evidence, judge, needed
from deployments.rollouts import BOUNDS, Bound, Kind, Metric, Plan, Rules, Standing, State

ONE = Bound(Metric.ERROR, 0.0, 0.05, 50)
PLAN = Plan("ro-1", Kind.MODEL, "demo-20b", "b" * 64, "a" * 64, "CHG-1")
NOW = Standing(4, State.SLICE, 5, since_ms=0)
RUNS, LOOKS, EACH = 400, 100, 20  # looks per run, each after as many more trials of both revisions
ALPHA = 0.05


def plan(**rules: object) -> Plan:
    return replace(PLAN, rules=replace(Rules(), **rules))  # pyright: ignore[reportArgumentType]


def naive(one: Tally, other: Tally) -> bool:
    """The test of two proportions of textbooks, one-sided at 5 %: right for one look."""
    share = (one.bad + other.bad) / (one.trials + other.trials)
    deviation = math.sqrt(share * (1 - share) * (1 / one.trials + 1 / other.trials))
    return deviation > 0 and (one.share - other.share) / deviation > 1.6449


def alarms(
    p: float, q: float, margin: float = 0.0, cluster: int = 1, effect: float = 1.0
) -> tuple[float, float, list[int]]:
    """The part of runs in which our test, and the naive one, ever alarm; and after how many trials ours did."""
    chance = random.Random(20261122)
    ours, theirs, when = 0, 0, list[int]()
    for _ in range(RUNS):
        bad, seen, fooled = [0, 0], 0, False
        for look in range(1, LOOKS + 1):
            for side, share in enumerate((p, q)):
                bad[side] += cluster * sum(chance.random() < share for _ in range(EACH // cluster))
            one, other = (Tally(look * EACH, each) for each in bad)
            fooled = fooled or naive(one, other)
            if not seen and evidence(one.of(effect), other.of(effect), margin) >= math.log(1 / ALPHA):
                seen = look * EACH
        ours += seen > 0
        theirs += fooled
        if seen:
            when.append(seen)
    return ours / RUNS, theirs / RUNS, sorted(when)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_noise_raises_no_alarm_however_often_one_looks(share: float) -> None:
    ours, theirs, _ = alarms(share, share)
    assert ours <= ALPHA
    # The same noise fools a test that was made for one look: these runs are a trial of ours.
    assert theirs > 2 * ALPHA


def test_a_difference_within_the_slack_raises_no_alarm() -> None:
    ours, theirs, _ = alarms(0.06, 0.05, margin=0.01)
    assert ours <= ALPHA
    assert theirs > 4 * ALPHA


def test_sessions_of_like_requests_raise_no_alarm_with_the_design_effect() -> None:
    bare, _, _ = alarms(0.2, 0.2, cluster=10)
    assert bare > ALPHA  # without it they would
    divided, _, _ = alarms(0.2, 0.2, cluster=10, effect=10.0)
    assert divided <= ALPHA


@pytest.mark.parametrize(("p", "q", "most"), [(0.2, 0.01, 160), (0.1, 0.02, 500), (0.5, 0.3, 400)])
def test_a_bad_revision_is_found_soon(p: float, q: float, most: int) -> None:
    ours, _, when = alarms(p, q)
    assert ours >= 0.99
    assert when[len(when) * 9 // 10] <= most


tallies = st.integers(0, 5_000).flatmap(lambda n: st.builds(Tally, st.just(n), st.integers(0, n)))


@given(tallies, tallies, st.floats(-0.5, 0.5))
def test_evidence_is_a_number_that_is_never_negative(one: Tally, other: Tally, margin: float) -> None:
    found = evidence(one, other, margin)
    assert math.isfinite(found)
    assert found >= 0.0


@given(tallies, tallies, st.floats(-0.4, 0.4), st.floats(0.0, 0.1))
def test_a_larger_margin_leaves_less_evidence(one: Tally, other: Tally, margin: float, more: float) -> None:
    assert evidence(one, other, margin + more) <= evidence(one, other, margin) + 1e-6


@given(tallies, tallies, st.floats(-0.4, 0.4), st.floats(0.0, 1.0))
def test_evidence_is_the_least_over_all_that_obey(one: Tally, other: Tally, margin: float, at: float) -> None:
    """No pair of shares that obeys the hypothesis has less against it than was found."""
    low, high = max(0.0, -margin), min(1.0, 1.0 - margin)
    share = min(max(low + at * (high - low), 1e-9), 1 - 1e-9)

    def against(tally: Tally, p: float) -> float:
        p = min(max(p, 1e-12), 1 - 1e-12)
        good = tally.trials - tally.bad
        mixed = math.lgamma(0.5 + tally.bad) + math.lgamma(0.5 + good) - math.lgamma(1.0 + tally.trials)
        return mixed - math.log(math.pi) - tally.bad * math.log(p) - good * math.log1p(-p)

    found = evidence(one, other, margin)
    if found > 0.0:
        assert found <= against(one, share + margin) + against(other, share) + 1e-6


def test_all_tests_of_a_rollout_share_its_error_rate() -> None:
    assert math.exp(-needed(PLAN)) * 3 * len(BOUNDS) == pytest.approx(0.01)
    assert needed(replace(PLAN, shadow=True)) > needed(PLAN)


@pytest.mark.parametrize(
    ("candidate", "baseline", "stayed_s", "verdict"),
    [
        ((0, 30), (0, 1_000), 600, Verdict.WAIT),
        ((3, 3_000), (30, 30_000), 599, Verdict.WAIT),
        ((3, 3_000), (30, 30_000), 600, Verdict.PROMOTE),
        ((0, 99), (0, 90_000), 86_400, Verdict.HOLD),
        ((150, 3_000), (30, 30_000), 86_400, Verdict.ROLL_BACK),
        ((75, 3_000), (300, 30_000), 86_400, Verdict.PROMOTE),  # 1.5 points worse: less than the tolerance for sure
        ((40, 1_000), (10, 1_000), 86_400, Verdict.HOLD),  # between slack and tolerance: nobody knows
    ],
    ids=["few", "young", "good", "too-few-at-the-deadline", "bad", "a-little-worse", "undecided"],
)
def test_verdicts(candidate: tuple[int, int], baseline: tuple[int, int], stayed_s: int, verdict: Verdict) -> None:
    figures = {Metric.ERROR: Pair(Tally(candidate[1], candidate[0]), Tally(baseline[1], baseline[0]))}
    found = judge(plan(bounds=(replace(ONE, slack=0.01, min_count=100),)), NOW, figures, stayed_s * 1000)
    assert found.verdict is verdict


def test_quality_that_nobody_told_of_stops_nothing_and_bad_quality_does() -> None:
    good = Pair(Tally(5_000, 10), Tally(50_000, 100))
    figures = dict.fromkeys((Metric.ERROR, Metric.TTFT, Metric.E2E), good)
    assert judge(PLAN, NOW, figures, 600_000).verdict is Verdict.PROMOTE
    for metric in (Metric.VERIFIER, Metric.FALSE_HOLD, Metric.FEEDBACK):
        worse = {**figures, metric: Pair(Tally(300, 150), Tally(3_000, 150))}
        found = judge(PLAN, NOW, worse, 0)
        assert found.verdict is Verdict.ROLL_BACK
        assert metric.value in found.reason
        unclear = {**figures, metric: Pair(Tally(60, 9), Tally(600, 30))}
        assert judge(PLAN, NOW, unclear, 600_000).verdict is Verdict.WAIT


def test_a_window_allows_for_drift_and_ends_with_time() -> None:
    watch = Standing(6, State.WATCH, 100, since_ms=0)
    slightly = {Metric.ERROR: Pair(Tally(100_000, 3_500), Tally(100_000, 1_500))}
    alone = plan(bounds=(replace(ONE, slack=0.01),))
    assert judge(alone, NOW, slightly, 1).verdict is Verdict.ROLL_BACK
    assert judge(alone, watch, slightly, 1).verdict is Verdict.WAIT
    assert judge(alone, watch, slightly, 3_600_000).verdict is Verdict.PROMOTE
    unseen = {Metric.ERROR: Pair(Tally(49, 0), Tally(100_000, 1_500))}
    assert judge(alone, watch, unseen, 3_600_000).verdict is Verdict.WAIT
    assert judge(alone, watch, unseen, 86_400_000).verdict is Verdict.HOLD
    assert judge(alone, watch, unseen, 3_600_000, lasting=True).verdict is Verdict.PROMOTE
    badly = {Metric.ERROR: Pair(Tally(1_000, 300), Tally(100_000, 1_500))}
    assert judge(alone, watch, badly, 3_600_000).verdict is Verdict.ROLL_BACK
