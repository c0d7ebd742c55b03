"""The metrics against their definitions, written out slowly, and against cases small enough to do by hand."""

import itertools

import numpy as np
import pytest

from serve_app.routing.metrics import (
    Interval,
    Outcomes,
    Ranking,
    Refused,
    Resamples,
    apgr,
    auc,
    cpt,
    describe,
    difference,
    order_of,
    pgr_curve,
    rank,
    refusal,
    spread_over,
)

# Four prompts: the strong model helps on the first two and hurts on none.
HELPS_TWICE = Outcomes.of([0, 0, 1, 1], [1, 1, 1, 1])


def random_set(n: int, seed: int, graded: bool = False) -> tuple[Outcomes, np.ndarray]:
    draw = np.random.default_rng(seed)
    if graded:
        weak, strong = draw.random(n), np.minimum(draw.random(n) + 0.4, 1.0)
    else:
        weak, strong = (draw.random(n) < 0.55).astype(float), (draw.random(n) < 0.8).astype(float)
    return Outcomes.of(weak, strong, graded), draw.integers(0, 6, n).astype(float)


def slow_pgr(outcomes: Outcomes, order: list[int]) -> list[float]:
    """PGR(k) by asking each of N + 1 routers for its mean quality."""
    n = len(outcomes)
    weak, strong = outcomes.weak.mean(), outcomes.strong.mean()
    found = []
    for k in range(n + 1):
        sent = set(order[:k])
        quality = sum(outcomes.strong[i] if i in sent else outcomes.weak[i] for i in range(n)) / n
        found.append((quality - weak) / (strong - weak))
    return found


def slow_area(curve: list[float]) -> float:
    n = len(curve) - 1
    return sum((a + b) / 2 / n for a, b in itertools.pairwise(curve))


def test_the_best_order_recovers_all_of_the_gap_at_once() -> None:
    score = [4, 3, 2, 1]
    assert pgr_curve(HELPS_TWICE, order_of(score)).tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert apgr(HELPS_TWICE, score) == pytest.approx((0.25 + 0.75 + 1 + 1) / 4)
    assert [cpt(HELPS_TWICE, score, level) for level in (0.2, 0.5, 0.8)] == [25.0, 25.0, 50.0]


def test_the_worst_order_recovers_it_at_the_end() -> None:
    score = [1, 2, 3, 4]
    assert apgr(HELPS_TWICE, score) == pytest.approx((0 + 0 + 0.25 + 0.75) / 4)
    assert cpt(HELPS_TWICE, score, 0.8) == 100.0


def test_an_oracle_that_leaves_out_what_it_would_hurt_exceeds_one() -> None:
    outcomes = Outcomes.of([0, 0, 1, 1, 1], [1, 1, 1, 1, 0])
    curve = pgr_curve(outcomes, order_of(outcomes.gain))
    assert curve.tolist() == [0.0, 1.0, 2.0, 2.0, 2.0, 1.0]
    assert apgr(outcomes, outcomes.gain) > 1.0


@pytest.mark.parametrize("graded", [False, True], ids=["binary", "graded"])
@pytest.mark.parametrize("seed", range(5))
def test_area_and_share_are_those_of_the_definition(seed: int, graded: bool) -> None:
    outcomes, score = random_set(37, seed, graded)
    order = order_of(score).tolist()
    curve = slow_pgr(outcomes, order)
    assert apgr(outcomes, score) == pytest.approx(slow_area(curve))
    for level in (0.2, 0.5, 0.8):
        least = next(k for k, value in enumerate(curve) if value >= level - 1e-12)
        assert cpt(outcomes, score, level) == pytest.approx(100 * least / 37)


def test_random_order_has_half_of_the_area_on_average() -> None:
    outcomes, _ = random_set(60, 3)
    areas = [apgr(outcomes, np.zeros(60), seed) for seed in range(400)]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.05)
    assert len({round(area, 12) for area in areas}) > 100  # ties are broken by the seed, not by position


def test_ties_are_broken_the_same_way_each_time() -> None:
    assert order_of(np.zeros(50), 1).tolist() == order_of(np.zeros(50), 1).tolist()
    assert order_of(np.zeros(50), 1).tolist() != order_of(np.zeros(50), 2).tolist()


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        order_of([0.5, float("nan")])


def test_the_resampled_figures_are_those_of_the_resampled_prompts() -> None:
    """Each resample written out: a prompt drawn twice stands twice in a row, and the curve is walked call by call."""
    outcomes, _ = random_set(60, 12)
    score = np.random.default_rng(5).permutation(60).astype(float)
    resamples = Resamples.over_prompts(60, 40, seed=2)
    ranking = rank(outcomes, score, resamples, describe(outcomes, resamples))
    assert isinstance(ranking, Ranking)
    order = order_of(score)
    shares = {20: [], 50: [], 80: []}
    for number, counts in enumerate(resamples.counts):
        drawn = [index for index in order.tolist() for _ in range(int(counts[index]))]
        part = Outcomes(outcomes.weak[drawn], outcomes.strong[drawn])
        if part.gain.sum() <= 0:
            assert np.isnan(ranking.resampled_apgr[number])
            continue
        curve = slow_pgr(part, list(range(len(drawn))))
        assert ranking.resampled_apgr[number] == pytest.approx(slow_area(curve))
        for level, values in shares.items():
            values.append(100 * next(k for k, v in enumerate(curve) if v >= level / 100 - 1e-9) / len(drawn))
    for level, values in shares.items():
        low, high = np.percentile(values, (2.5, 97.5))
        assert (ranking.cpt[level].low, ranking.cpt[level].high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("seed", range(3))
def test_the_area_under_the_roc_curve_counts_pairs_with_ties_half(seed: int) -> None:
    outcomes, score = random_set(41, seed)
    event = outcomes.weak < 0.5
    found = auc(event, score, Resamples.over_prompts(41, 5))
    pairs = [(a > b) + (a == b) / 2 for a in score[event] for b in score[~event]]
    assert found is not None
    assert found.value == pytest.approx(np.mean(pairs))


def test_the_resampled_area_under_the_roc_curve_counts_drawn_pairs() -> None:
    outcomes, score = random_set(20, 4)
    event = outcomes.weak < 0.5
    resamples = Resamples.over_prompts(20, 3, seed=9)
    found = auc(event, score, resamples)
    slow = []
    for counts in resamples.counts:
        drawn = np.repeat(np.arange(20), counts.astype(int))
        high, low = score[drawn][event[drawn]], score[drawn][~event[drawn]]
        slow.append(np.mean([(a > b) + (a == b) / 2 for a in high for b in low]))
    assert found is not None
    assert (found.low, found.high) == tuple(pytest.approx(x) for x in np.percentile(slow, (2.5, 97.5)))


def test_one_kind_of_outcome_has_no_roc_curve() -> None:
    assert auc(np.ones(3, dtype=bool), np.arange(3.0), Resamples.over_prompts(3, 2)) is None


def test_groups_are_drawn_whole() -> None:
    counts = Resamples.over_groups(["a", "a", "b", "b", "b"], 50, seed=1).counts
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 2] == counts[:, 4]).all()
    assert (counts[:, 0] + counts[:, 2] == 2).all()  # two groups, two draws
    assert len(set(counts[:, 0].tolist())) == 3


def test_every_resample_draws_as_many_prompts_as_there_are() -> None:
    assert set(Resamples.over_prompts(30, 20).total.tolist()) == {30.0}


def test_a_set_is_described() -> None:
    outcomes = Outcomes.of([0, 0, 1, 1, 1], [1, 1, 1, 1, 0])
    about = describe(outcomes, Resamples.over_prompts(5, 50))
    assert (about.n, about.weak, about.strong, about.helps, about.hurts) == (5, 0.6, 0.8, 0.4, 0.2)
    assert about.gap.value == pytest.approx(0.2)
    assert about.gap.low <= 0.2 <= about.gap.high


@pytest.mark.parametrize(
    ("weak", "strong", "why"),
    [
        (0.536, 0.546, "1.0 points, less than 2"),
        (0.6, 0.5, "less than 2"),
        (0.5, 0.53, "may be 0"),
        (0.3, 0.8, None),
    ],
    ids=["one-point", "weaker", "unsure", "clear"],
)
def test_no_figure_where_the_strong_model_is_not_stronger(weak: float, strong: float, why: str | None) -> None:
    draw = np.random.default_rng(0).permutation
    n = 500
    outcomes = Outcomes.of(draw(np.arange(n) < weak * n), draw(np.arange(n) < strong * n))
    resamples = Resamples.over_prompts(n)
    about = describe(outcomes, resamples)
    refused = refusal(about)
    ranking = rank(outcomes, np.arange(n), resamples, about)
    if why is None:
        assert refused is None
        assert isinstance(ranking, Ranking)
    else:
        assert ranking == refused
        assert isinstance(ranking, Refused)
        assert why in ranking.why


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    outcomes, score = random_set(400, 8)
    resamples = Resamples.over_prompts(400)
    about = describe(outcomes, resamples)
    nearly = score.copy()
    nearly[0] += 1
    first, second = (rank(outcomes, each, resamples, about) for each in (score, nearly))
    assert isinstance(first, Ranking)
    assert isinstance(second, Ranking)
    paired = difference(first, second)
    assert paired.value == pytest.approx(first.apgr.value - second.apgr.value)
    assert paired.high - paired.low < (first.apgr.high - first.apgr.low) / 5
    assert difference(first, first) == Interval(0.0, 0.0, 0.0)


def test_mean_and_deviation_over_seeds() -> None:
    assert spread_over([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert spread_over([4.0]) == (4.0, 0.0)


@pytest.mark.parametrize(("weak", "strong"), [([], []), ([0, 1], [1]), ([[0]], [[1]])], ids=["empty", "uneven", "flat"])
def test_outcomes_are_two_equal_vectors(weak: list, strong: list) -> None:
    with pytest.raises(ValueError, match="equal length"):
        Outcomes.of(weak, strong)
