"""Estimates of what another way of routing is worth, against a truth that is known."""

from dataclasses import dataclass

import numpy as np
import pytest

from serve_app.routing.metrics import Resamples, Vector
from serve_app.routing.offpolicy import MOST_WEIGHT, Logged, both, coverage, effective, lead, values

RUNS = 60


@dataclass(frozen=True)
class World:
    """Turns, what was logged of them, and what both tiers would have come to on average."""

    logged: Logged
    hard: Vector
    weak: Vector
    strong: Vector


def logs(seed: int, count: int = 800, confounded: bool = True) -> World:
    """30 % are hard. `confounded`: the tier was given by what is hard, so a plain mean compares unlike turns."""
    draw = np.random.default_rng(seed)
    hard = (draw.random(count) < 0.3).astype(float)
    weak, strong = 0.9 - 0.7 * hard, 0.95 - 0.15 * hard
    chance = np.where(hard > 0, 0.4, 0.05) if confounded else np.full(count, 0.1)
    given = (draw.random(count) < chance).astype(float)
    outcome = (draw.random(count) < np.where(given > 0, strong, weak)).astype(float)
    return World(Logged(given, chance, outcome, np.ones(count), np.arange(count)), hard, weak, strong)


def truth(world: World, policy: Vector) -> float:
    return float(((1 - policy) * world.weak + policy * world.strong).mean())


def resamples(world: World) -> Resamples:
    return Resamples.over_groups(world.logged.group)


def test_both_estimates_are_right_on_average_where_a_plain_mean_is_not():
    snips, robust, plain = [], [], []
    for seed in range(RUNS):
        world = logs(seed)
        policy = np.ones(len(world.logged))
        model = both(world.logged, np.full(800, 0.7), np.full(800, 0.7))  # a model that knows nothing
        (found,) = values([("always 120b", policy)], world.logged, model, resamples(world))
        right = truth(world, policy)
        snips.append(found.snips.value - right)
        robust.append(found.robust.value - right)
        plain.append(float(world.logged.outcome[world.logged.strong > 0].mean()) - right)
    assert abs(np.mean(snips)) < 0.01
    assert abs(np.mean(robust)) < 0.01
    assert np.mean(plain) < -0.04  # 120b was given the hard ones


def test_doubly_robust_forgives_wrong_chances_when_its_model_is_right():
    wrong = []
    for seed in range(RUNS):
        world = logs(seed)
        fibbed = Logged(
            world.logged.strong, np.full(800, 0.3), world.logged.outcome, world.logged.trust, world.logged.group
        )
        policy = np.ones(800)
        (found,) = values([("p", policy)], fibbed, both(fibbed, world.weak, world.strong), resamples(world))
        wrong.append((found.robust.value - truth(world, policy), found.snips.value - truth(world, policy)))
    robust, snips = np.mean(wrong, axis=0)
    assert abs(robust) < 0.01
    assert snips < -0.04


@pytest.mark.parametrize("kind", ["snips", "robust"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(kind: str):
    held = 0
    for seed in range(RUNS):
        world = logs(seed, confounded=False)
        policy = world.hard
        (found,) = values([("hard up", policy)], world.logged, both(world.logged, world.weak, world.strong),
                          resamples(world))  # fmt: skip
        figure = found.snips if kind == "snips" else found.robust
        # Of the turns at hand: what they would have come to, not what was expected of them.
        held += figure.low <= truth(world, policy) <= figure.high
    assert held >= 0.88 * RUNS


def test_a_good_model_makes_the_interval_narrower_and_the_lead_is_paired():
    world = logs(3, confounded=False)
    over = resamples(world)
    rough = both(world.logged, np.full(800, 0.5), np.full(800, 0.5))
    fine = both(world.logged, world.weak, world.strong)
    widths = []
    for outcomes in (rough, fine):
        (found,) = values([("p", world.hard)], world.logged, outcomes, over)
        widths.append(found.robust.high - found.robust.low)
    assert widths[1] < 0.8 * widths[0]
    best, random = ("hard up", world.hard), ("random", np.full(800, world.hard.mean()))
    ahead = lead(best, random, world.logged, fine, over)
    assert ahead.lead.low > 0
    assert lead(best, best, world.logged, fine, over).lead.high == 0


def test_turns_of_a_session_are_no_independent_witnesses():
    world = logs(4, count=300, confounded=False)
    four = np.repeat(np.arange(300), 4)
    said = world.logged.of(four)
    alone = Logged(said.strong, said.chance, said.outcome, said.trust, np.arange(four.size))
    outcomes = both(said, world.weak[four], world.strong[four])
    policy = [("always 20b", np.zeros(four.size))]
    (grouped,) = values(policy, said, outcomes, Resamples.over_groups(said.group))
    (apart,) = values(policy, alone, outcomes, Resamples.over_groups(alone.group))
    assert grouped.robust.high - grouped.robust.low > 1.5 * (apart.robust.high - apart.robust.low)


def test_what_is_trusted_less_counts_less():
    world = logs(5, confounded=False)
    lied = np.where(np.arange(800) % 2 == 0, 1.0, world.logged.outcome)
    policy = [("always 20b", np.zeros(800))]
    found = []
    for trust in (1.0, 0.1):
        logged = Logged(
            world.logged.strong, world.logged.chance, lied, np.where(np.arange(800) % 2 == 0, trust, 1.0),
            world.logged.group,
        )  # fmt: skip
        (value,) = values(policy, logged, both(logged, world.weak, world.strong), resamples(world))
        found.append((value.snips.value, value.robust.value))
    right = truth(world, np.zeros(800))
    assert found[0][0] - right > 0.1
    assert abs(found[1][0] - right) < 0.05
    assert found[1][1] < found[0][1]


def test_a_tier_that_chance_never_gave_is_refused():
    world = logs(6, confounded=False)
    only = world.logged.of(np.flatnonzero(world.logged.strong == 0))
    assert any("0 judged turns of 120b" in why for why in coverage(only).why)
    assert coverage(world.logged).why == ()


def test_many_turns_that_are_worth_few_are_refused():
    count = 400
    chance = np.full(count, 0.5)
    chance[:5] = 0.01
    strong = np.zeros(count)
    strong[:5] = 1.0
    strong[5:205] = 1.0
    logged = Logged(strong, chance, np.ones(count), np.ones(count), np.arange(count))
    found = coverage(logged)
    assert found.judged[1] == 205
    assert found.worth[1] < 20
    assert any("worth 1" in why for why in found.why)


def test_judging_that_depends_on_the_tier_is_noticed():
    world = logs(7, count=2_000, confounded=False)
    told = np.flatnonzero((world.logged.strong > 0) | (np.arange(2_000) % 4 == 0))  # of 20b's every fourth is judged
    assert any("who judges depends on the tier" in why for why in coverage(world.logged.of(told)).why)


def test_no_turn_stands_for_more_than_the_limit_and_the_cut_is_told():
    logged = Logged(np.ones(50), np.full(50, 0.001), np.ones(50), np.ones(50), np.arange(50))
    assert logged.weights().max() == MOST_WEIGHT
    assert coverage(logged).clipped == 1.0


def test_equal_weights_are_worth_their_number_and_one_heavy_one_is_worth_one():
    assert effective(np.full(7, 3.0)) == pytest.approx(7.0)
    assert effective(np.asarray([1000.0, 1e-6, 1e-6])) == pytest.approx(1.0)
    assert effective(np.zeros(3)) == 0.0
