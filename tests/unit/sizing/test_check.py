"""The comparison with a real server: what is simulated for it, and how errors are counted."""

from dataclasses import replace

import pytest

from serve_app.bench.load import Level, Window
from serve_app.bench.stats import Figures, figures
from serve_app.bench.stream import Arrival, Sample
from serve_app.sizing.check import COMPARED, ClockServer, Compared, compare, figure, measured, simulated

_SERVER = ClockServer(seats=4, first_s=0.2, token_s=0.02, output=51, path_s=0.05)


def _real(ttft_s: float, e2e_s: float, count: int, wall_s: float) -> Figures:
    """`count` equal answers of 51 tokens."""
    sample = Sample("ok", 200, 0.0, ttft_s, e2e_s, (Arrival(ttft_s, 1), Arrival(e2e_s, 50)), 51, 10, 51, 0)
    return figures([Window((sample,) * count, wall_s, 0.0)])


def test_a_closed_loop_has_the_path_in_every_answer() -> None:
    # Four streams on four seats: 0.2 + 0.05 + 50 * 0.02 s for each answer, one after the other.
    seen = simulated(_SERVER, Level(streams=4, requests=32), 12.6)
    assert seen.ttft_s == pytest.approx([0.25] * seen.complete)
    assert seen.e2e_s == pytest.approx([1.25] * seen.complete)
    assert seen.complete == 40


def test_twice_as_many_streams_as_seats_wait_one_answer() -> None:
    seen = simulated(_SERVER, Level(streams=8, requests=64), 12.6)
    assert figure(seen, "TTFT p50", 12.6) == pytest.approx(1500)
    assert figure(seen, "TTFT p90", 12.6) == pytest.approx(1500)


def test_an_open_loop_adds_the_path_before_the_queue() -> None:
    seen = simulated(_SERVER, Level(rate=0.5, duration_s=60), 2000)
    assert min(seen.ttft_s) == pytest.approx(0.25)
    assert seen.complete == pytest.approx(900, rel=0.1)  # a tenth is warm-up


def test_errors_are_shares_of_what_was_measured() -> None:
    level = Level(streams=4, requests=40)
    found = {each.name: each for each in compare(_SERVER, {"4 streams": (level, _real(0.5, 1.25, 40, 12.6))})}
    assert list(found) == list(COMPARED)
    assert found["TTFT p50"].error == pytest.approx(-0.5)
    assert found["E2E p50"].error == pytest.approx(0.0, abs=1e-9)
    assert found["output tokens/s"].error == pytest.approx(0.0, abs=1e-9)


def test_nothing_measured_has_no_error() -> None:
    nothing = _real(0.5, 1.0, 0, 10.0)
    assert measured(nothing, "TTFT p50") is None
    assert Compared("a", "TTFT p50", None, 3.0).error is None
    assert replace(Compared("a", "TTFT p50", 2.0, None)).error is None
