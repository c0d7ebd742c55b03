"""Figures against samples made by hand."""

import pytest

from serve_app.bench.load import Window
from serve_app.bench.stats import METRICS, figures, metric, percentile, ratio_ranges, ratios, spread
from serve_app.bench.stream import CUT, OK, Arrival, Sample


def sample(ttft_s: float, e2e_s: float, tokens: int = 3, ending: str = OK) -> Sample:
    step_s = (e2e_s - ttft_s) / (tokens - 1)
    arrivals = tuple(Arrival(ttft_s + step_s * number, 1) for number in range(tokens))
    return Sample(ending, 200, 0.0, ttft_s, e2e_s, arrivals, tokens + 2, 10, tokens, 4)


def test_percentiles_are_interpolated() -> None:
    assert percentile([10.0, 20.0, 30.0, 40.0], 0.5) == 25.0
    assert percentile([10.0, 20.0], 0.99) == pytest.approx(19.9)
    assert percentile([7.0], 0.99) == 7.0


def test_a_spread() -> None:
    found = spread([3.0, 1.0, 2.0], 10)
    assert found is not None
    assert (found.count, found.mean, found.p50, found.max) == (3, 20.0, 20.0, 30.0)
    assert spread([]) is None


def test_figures_of_a_level() -> None:
    windows = [
        Window((sample(0.1, 0.3), sample(0.2, 0.6)), 2.0, 0.5, {"engine": 0.3, "ingress": 0.1}),
        Window((sample(0.3, 0.9), sample(9.0, 99.0, ending=CUT)), 2.0, 1.5, {"engine": 0.5}, late_s=0.004),
    ]
    found = figures(windows)
    assert (found.requests, found.complete, dict(found.errors)) == (4, 3, {CUT: 1})
    assert (found.output_tokens, found.output_tokens_per_s, found.requests_per_s) == (9, 2.25, 0.75)
    assert found.ttft_ms is not None
    assert found.ttft_ms.p50 == pytest.approx(200)
    assert found.ttft_ms.max == pytest.approx(300)  # a reply that was cut has no part in latencies
    assert found.itl_ms is not None
    assert found.itl_ms.count == 6
    assert found.itl_ms.mean == pytest.approx((100 + 200 + 300) / 3)
    assert found.per_token_ms is not None
    assert found.per_token_ms.p50 == pytest.approx(200)
    assert found.e2e_ms is not None
    assert found.e2e_ms.mean == pytest.approx(600)
    assert found.events == 20
    assert found.cpu_ms_per_token == pytest.approx(100)
    assert found.cpu_us_per_event == pytest.approx(45_000)
    assert dict(found.cpu_s) == pytest.approx({"engine": 0.8, "ingress": 0.1})
    assert found.client_cpu_share == pytest.approx(0.5)
    assert found.late_ms == pytest.approx(4)
    assert (found.tokens_per_reply, found.prompt_tokens_per_request, found.cached_tokens_per_request) == (3, 10, 4)


def test_nothing_measured_has_no_values() -> None:
    found = figures([])
    assert found.requests == 0
    assert [metric(found, name) for name in METRICS if name != "output tokens/s"] == [None] * (len(METRICS) - 1)
    assert set(ratios(found, found).values()) == {None}


def test_ratios_are_multiples_of_the_base() -> None:
    base = figures([Window((sample(0.1, 0.3),), 1.0, 0.1)])
    ours = figures([Window((sample(0.15, 0.45),), 1.0, 0.1)])
    found = ratios(ours, base)
    assert found["TTFT p50"] == pytest.approx(1.5)
    assert found["ITL mean"] == pytest.approx(1.5)
    assert found["output tokens/s"] == pytest.approx(1.0)
    assert found["CPU us/event"] is None


def test_ranges_pair_rounds() -> None:
    def rounds(*times_s: float) -> list[Window]:
        return [Window((sample(each, each * 3),), 1.0, 0.1) for each in times_s]

    found = ratio_ranges(rounds(0.2, 0.3, 0.4), rounds(0.1, 0.1, 0.4))
    assert found["TTFT p50"] == pytest.approx((1.0, 3.0))
    assert found["CPU ms/token"] is None
