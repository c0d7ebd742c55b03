import numpy as np
import pytest

from serve_app.routing.costs import Point, aiq, composite, curve, hull
from serve_app.routing.metrics import Outcomes


def test_cost_and_quality_go_from_always_weak_to_always_strong() -> None:
    outcomes = Outcomes.of([0, 0, 1, 1], [1, 1, 1, 0])
    costs, quality = curve(outcomes, [4, 3, 2, 1], strong_cost=5.0)
    assert costs.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert quality.tolist() == [0.5, 0.75, 1.0, 1.0, 0.75]


def test_the_hull_drops_what_is_dearer_and_no_better_and_what_a_mixture_beats() -> None:
    points = [Point(1, 0.5), Point(2, 0.55), Point(3, 0.9), Point(4, 0.8), Point(5, 1.0)]
    assert hull(points) == (Point(1, 0.5), Point(3, 0.9), Point(5, 1.0))


def test_the_hull_lies_on_or_above_every_point() -> None:
    draw = np.random.default_rng(0)
    points = [Point(float(c), float(q)) for c, q in zip(draw.random(60), draw.random(60), strict=True)]
    corners = hull(points)
    qualities = [corner.quality for corner in corners]
    assert qualities == sorted(qualities)
    for point in points:
        reached = np.interp(point.cost, [c.cost for c in corners], qualities)
        assert reached >= point.quality - 1e-12


def test_the_mean_quality_under_the_hull() -> None:
    # A straight rise from 0 to 1, then flat at 1: (0.5 + 1) / 2.
    assert aiq([1, 2, 3], [0.0, 1.0, 0.5]) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="two different costs"):
        aiq([1, 1], [0.2, 0.3])


def test_the_composite_by_hand() -> None:
    # Cost 2 between 1 and 4 is half way on a log scale.
    assert composite(0.8, 2.0, 1.0, 4.0) == pytest.approx(1.1 * 0.8 * 0.5 / (0.1 * 0.8 + 0.5))
    assert composite(0.8, 1.0, 1.0, 4.0) == pytest.approx(1.1 * 0.8 / 1.08)
    assert composite(0.8, 4.0, 1.0, 4.0) == 0.0
