import numpy as np
import pytest

from serve_app.routing.metrics import Resamples
from serve_app.routing.reliability import BINS, ece, reliability


def test_a_hand_computed_case() -> None:
    event = np.array([True, False, True, True])
    said = np.array([0.9, 0.9, 0.1, 1.0])
    found = reliability(event, said, Resamples.over_prompts(4, 20))
    assert found.brier.value == pytest.approx((0.01 + 0.81 + 0.81 + 0.0) / 4)
    # Bins of a fifteenth: 0.9 twice in one, 0.1 alone, 1.0 alone in the closed last one.
    assert found.ece.value == pytest.approx((2 * abs(0.9 - 0.5) + abs(0.1 - 1) + 0) / 4)
    assert [(each.count, each.frequency) for each in found.table if each.count] == [(1, 1.0), (2, 0.5), (1, 1.0)]
    assert len(found.table) == BINS
    assert found.table[0].mean_probability is None


def test_log_loss_by_hand() -> None:
    found = reliability(np.array([True, False]), [0.8, 0.4], Resamples.over_prompts(2, 5))
    assert found.log_loss.value == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)


def test_a_sure_mistake_has_a_finite_log_loss() -> None:
    assert reliability(np.array([True]), [0.0], Resamples.over_prompts(1, 2)).log_loss.value == pytest.approx(
        13.8155, abs=1e-3
    )


def test_the_error_is_that_of_the_definition() -> None:
    draw = np.random.default_rng(1)
    said = draw.random(300)
    event = draw.random(300) < said**2
    total = 0.0
    for number in range(15):
        inside = (said >= number / 15) & ((said < (number + 1) / 15) | (number == 14))
        if inside.any():
            total += inside.sum() * abs(said[inside].mean() - event[inside].mean())
    assert ece(event, said) == pytest.approx(total / 300)


def test_its_interval_is_of_the_resampled_prompts() -> None:
    draw = np.random.default_rng(2)
    said, event = draw.random(60), draw.random(60) < 0.5
    resamples = Resamples.over_prompts(60, 10, seed=3)
    slow = [
        ece(event[rows], said[rows]) for rows in (np.repeat(np.arange(60), c.astype(int)) for c in resamples.counts)
    ]
    found = reliability(event, said, resamples).ece
    assert (found.low, found.high) == tuple(pytest.approx(x) for x in np.percentile(slow, (2.5, 97.5)))


@pytest.mark.parametrize("said", [[0.5], [0.5, 1.1], [-0.1, 0.5], [0.5, float("nan")]])
def test_what_is_no_probability_is_refused(said: list[float]) -> None:
    with pytest.raises(ValueError, match="probability"):
        reliability(np.array([True, False]), said, Resamples.over_prompts(2, 2))
