"""The comparison with a real server: what is simulated for it, and how errors are counted."""

import pytest

from serve_app.bench.load import Level, Window
from serve_app.bench.stats import Figures, figures
from serve_app.bench.stream import Arrival, Sample
from serve_app.sizing.check import (
    COMPARED,
    ClockServer,
    Compared,
    Probe,
    Run,
    compare,
    figure,
    fitted,
    measured,
    simulated,
)
from serve_app.sizing.path import PathShape

_SERVER = ClockServer(seats=4, first_s=0.2, token_s=0.02, output=51, path=PathShape(calls_s=0.05))


def _real(ttft_s: float, e2e_s: float, count: int, wall_s: float) -> Figures:
    """`count` equal answers of 51 tokens."""
    sample = Sample("ok", 200, 0.0, ttft_s, e2e_s, (Arrival(ttft_s, 1), Arrival(e2e_s, 50)), 51, 10, 51, 0)
    return figures([Window((sample,) * count, wall_s, 0.0)])


def _closed(streams: int, wall_s: float = 12.6) -> Run:
    return Run(Level(streams=streams, requests=8 * streams), _real(0.5, 1.25, 40, wall_s))


def test_a_closed_loop_has_the_path_in_every_answer() -> None:
    # Four streams on four seats: 0.2 + 0.05 + 50 * 0.02 s for each answer, one after the other.
    seen = simulated(_SERVER, _closed(4))
    assert seen.ttft_s == pytest.approx([0.25] * seen.complete)
    assert seen.e2e_s == pytest.approx([1.25] * seen.complete)
    assert seen.complete == 40


def test_twice_as_many_streams_as_seats_wait_for_an_answer_without_its_path() -> None:
    seen = simulated(_SERVER, _closed(8))
    assert seen.complete == 40
    assert figure(seen, "TTFT p50") == pytest.approx(200 + 1200)  # who was before had the way behind it


def test_an_open_loop_asks_when_the_real_one_did() -> None:
    # Five at once on four seats, on whatever clock: one waits for a whole answer. Then one alone.
    run = Run(Level(rate=0.5, duration_s=60), _real(0.5, 1.25, 6, 60.0), (1000.0,) * 5 + (1030.0,))
    assert sorted(simulated(_SERVER, run).ttft_s) == pytest.approx([0.25] * 5 + [1.45])


def test_errors_are_shares_of_what_was_measured() -> None:
    found = {each.name: each for each in compare(_SERVER, {"4 streams": _closed(4)})}
    assert list(found) == list(COMPARED)
    assert found["TTFT p50"].error == pytest.approx(-0.5)
    assert found["E2E p50"].error == pytest.approx(0.0, abs=1e-9)
    assert found["output tokens/s"].error == pytest.approx(12.6 / 12.5 - 1)


def test_a_loop_that_was_a_little_faster_loses_no_wave() -> None:
    """40 answers of the real one in 12.4 s: the simulator needs 12.5 for as many, and is not cut off before."""
    found = {each.name: each for each in compare(_SERVER, {"4 streams": _closed(4, 12.4)})}
    assert found["output tokens/s"].error == pytest.approx(12.4 / 12.5 - 1)


def test_an_open_loop_s_throughput_is_not_compared() -> None:
    run = Run(Level(rate=0.5, duration_s=60), _real(0.5, 1.25, 1, 60.0), (5.0,))
    assert [each.name for each in compare(_SERVER, {"open": run})] == list(COMPARED)[:-1]


def test_nothing_measured_has_no_error() -> None:
    nothing = _real(0.5, 1.0, 0, 10.0)
    assert measured(nothing, "TTFT p50") is None
    assert Compared("a", "TTFT p50", None, 3.0).error is None
    assert Compared("a", "TTFT p50", 2.0, None).error is None


_BURSTS = [Probe(1, 0, 0.23), Probe(4, 0, 0.26), Probe(8, 0, 0.30)]


def test_bursts_tell_calls_from_work() -> None:
    path = fitted(_BURSTS, 0.2, 0.02)
    assert (path.calls_s, path.request_s, path.token_s) == pytest.approx((0.02, 0.01, 0.0))


def test_a_probe_beside_answers_tells_what_a_token_takes() -> None:
    # Beside four answers of 50 tokens a second a request of 10 ms takes 20: half of the core, 200 tokens a second.
    path = fitted([*_BURSTS, Probe(1, 4, 0.24)], 0.2, 0.02)
    assert path.token_s == pytest.approx(0.5 / 200)


def test_tokens_never_take_all_of_the_core() -> None:
    path = fitted([*_BURSTS, Probe(1, 2, 0.22 + 1e9), Probe(1, 8, 0.22 + 1e9)], 0.2, 0.02)
    assert path.token_s * 8 / 0.02 < 1


def test_faster_than_the_clock_is_a_path_that_takes_nothing() -> None:
    path = fitted([Probe(1, 0, 0.19), Probe(4, 0, 0.18), Probe(1, 3, 0.1)], 0.2, 0.02)
    assert path == PathShape()


def test_one_size_of_burst_tells_nothing() -> None:
    with pytest.raises(ValueError, match="two sizes"):
        fitted([Probe(4, 0, 0.3)], 0.2, 0.02)
