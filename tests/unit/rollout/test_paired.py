import math
import random
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from deployments.rollout.judge import eval_alarm_share, needed
from deployments.rollout.paired import compare, tail, wilson, worse
from deployments.rollouts import Kind, Plan

PLAN = Plan("ro-1", Kind.ENGINE, "demo-20b", "b" * 64, "r1", "CHG-1", eval_cases=120)


def simulated(dice: random.Random, cases: int, share: float, worse_by: float, flips: float = 0.02) -> str | None:
    """One evaluation. Cases are easy or hard for both; each revision errs besides with `flips`, by itself."""
    baseline, candidate = dict[str, bool](), dict[str, bool]()
    for number in range(cases):
        easy = dice.random() < share
        baseline[str(number)] = easy != (dice.random() < flips)
        candidate[str(number)] = (easy and dice.random() >= worse_by / share) != (dice.random() < flips)
    found = compare(candidate, baseline, dict.fromkeys(baseline, "code"))
    return worse(found, eval_alarm_share(PLAN))


def test_only_cases_that_one_revision_alone_passed_say_anything() -> None:
    both = {f"both-{number}": True for number in range(1_000)} | {f"none-{number}": False for number in range(1_000)}
    before = {**both, **{f"case-{number}": True for number in range(9)}, "gain": False}
    now = {**both, **{f"case-{number}": False for number in range(9)}, "gain": True}
    families = {name: name.split("-")[0] for name in before}
    found = compare(now, before, families)
    assert (found.only_baseline, found.only_candidate, found.all.asked) == (9, 1, 2_010)
    assert found.p_value == 11 / 1024
    assert found.behind == ["case"]
    assert worse(found, 11 / 1024) is not None
    assert worse(found, 0.0107) is None
    assert compare(before, now, families).p_value == pytest.approx(1 - 1 / 1024)


def test_cases_that_only_one_of_them_was_asked_are_left_out() -> None:
    found = compare({"a": True, "b": False}, {"b": True, "c": True}, {"a": "x", "b": "y", "c": "z"})
    assert (found.all.asked, found.only_baseline) == (1, 1)
    assert found.families.keys() == {"y"}


@pytest.mark.parametrize(("at_least", "of"), [(0, 0), (0, 7), (5, 7), (7, 7), (60, 100), (900, 1_500)])
def test_the_tail_is_the_binomial_s(at_least: int, of: int) -> None:
    expected = binomtest(at_least, of, 0.5, alternative="greater").pvalue if of else 1.0
    assert tail(at_least, of) == pytest.approx(float(expected), rel=1e-9)
    assert tail(10_000, 10_000) == 0.0 or tail(10_000, 10_000) < 1e-300


@pytest.mark.parametrize(("passed", "asked"), [(0, 10), (3, 10), (10, 10), (612, 1_000)])
def test_the_interval_is_wilson_s(passed: int, asked: int) -> None:
    expected = binomtest(passed, asked).proportion_ci(method="wilson")
    assert wilson(passed, asked) == pytest.approx((float(expected.low), float(expected.high)), abs=1e-9)
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_evaluation_has_its_share_of_the_false_alarms() -> None:
    without = replace(PLAN, eval_cases=None)
    tests = len(PLAN.rules.bounds) * len(PLAN.shares)
    assert eval_alarm_share(without) == 0.0
    assert math.exp(-needed(without)) * tests == pytest.approx(0.01)
    assert eval_alarm_share(PLAN) + math.exp(-needed(PLAN)) * tests == pytest.approx(0.01)
    assert needed(PLAN) == pytest.approx(needed(without) + math.log(2))


def test_revisions_that_are_as_good_hardly_ever_go_back() -> None:
    dice = random.Random(7)
    plan = replace(PLAN, rules=replace(PLAN.rules, false_alarm=0.1))  # so that a few hundred runs can tell
    runs, alarms = 4_000, 0
    for _ in range(runs):
        names = [str(number) for number in range(120)]
        before = {name: dice.random() < 0.8 for name in names}
        now = {name: dice.random() < 0.8 for name in names}
        alarms += worse(compare(now, before, dict.fromkeys(names, "code")), eval_alarm_share(plan)) is not None
    # The promise is 0.05, which is 200 of 4000; six standard deviations of that are 83 more.
    assert 0 < alarms <= 283
    assert sum(simulated(dice, 120, 0.85, 0.0) is not None for _ in range(1_000)) <= 5


def test_fifteen_points_of_a_hundred_and_twenty_cases_are_mostly_seen() -> None:
    dice = random.Random(8)
    assert sum(simulated(dice, 120, 0.9, 0.15) is not None for _ in range(500)) >= 410  # 90 % of them
    assert sum(simulated(dice, 40, 0.9, 0.4) is not None for _ in range(500)) >= 450  # of 40 cases only much more: 97 %


def test_a_floor_holds_whatever_the_one_before_does() -> None:
    names = {f"case-{number}": number < 12 for number in range(20)}
    found = compare(names, names, dict.fromkeys(names, "code"))
    assert worse(found, 0.01, 0.6) is None
    assert worse(found, 0.01, 0.65) == "the eval cases: 12/20 against 12/20, and at least 65% must be passed"
