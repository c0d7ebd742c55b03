"""The profiles as scenarios, and an outcome as rows."""

import pytest

from deployments.engine.options import EngineSettings
from serve_app.config import find, load_serve_file
from serve_app.sizing.constants import CASES, GPUS
from serve_app.sizing.plot import Sweep, draw_sweep, series
from serve_app.sizing.scenarios import CannotSize, Row, rows, scenario, tier_setup
from serve_app.sizing.simulate import Scenario, simulate
from serve_app.sizing.workload import Workload

_LOAD = Workload(population=10, large=0.3, most_context=60_000)


def _engines(profile: str) -> dict[str, EngineSettings]:
    models = load_serve_file(find(f"configs/serve.{profile}.yaml")).app.models
    return {
        each.tier.value: each.engine for each in models if each.tier and isinstance(each.engine, EngineSettings)
    }  # fmt: skip


def _scenario(profile: str, gpu: str) -> Scenario:
    return scenario(
        profile,
        _engines(profile),
        GPUS[gpu],
        "mid",
        _LOAD,
        cold_start_s=60,
        hit=0.8,
        duration_s=120,
        warm_up_s=30,
        seed=1,
    )


@pytest.mark.parametrize(
    ("profile", "gpu", "seats", "step", "chunk", "queued", "tokens"),
    [("s", "l4", 16, 2048, 512, 48, 234_000), ("m", "l40s", 64, 4096, 1024, 192, 1_100_000)],
)
def test_a_profile_keeps_its_limits(
    profile: str, gpu: str, seats: int, step: int, chunk: int, queued: int, tokens: int
) -> None:
    shape = _scenario(profile, gpu).tiers["20b"].shape
    assert (shape.seats, shape.step_tokens, shape.chunk, shape.max_queued) == (seats, step, chunk, queued)
    assert shape.cache_tokens == pytest.approx(tokens, rel=0.015)


def test_the_large_profile_has_two_tiers_with_their_scaling() -> None:
    tiers = _scenario("l", "h100").tiers
    assert list(tiers) == ["20b", "120b"]
    for tier, most in (("20b", 8), ("120b", 2)):
        scaling = tiers[tier].scaling
        assert scaling is not None
        assert scaling.max_replicas == most


def test_a_run_becomes_rows() -> None:
    outcome = simulate(_scenario("l", "h100"))
    found = {row.tier: row for row in rows(outcome, 120)}
    assert set(found) == {"20b", "120b"}
    small = found["20b"]
    assert small.offered_per_s == outcome.tiers["20b"].offered / 90
    assert small.ttft_p50_s is not None
    assert small.ttft_p95_s is not None
    assert 0 < small.ttft_p50_s <= small.ttft_p95_s
    assert small.replicas == pytest.approx(2)
    assert small.refused == 0


def test_what_is_not_known_is_refused() -> None:
    engine = _engines("s")["20b"]
    with pytest.raises(CannotSize, match="nothing is known about llama"):
        tier_setup(engine.model_copy(update={"model": "llama"}), GPUS["l4"], "mid", 60, 0.8)
    with pytest.raises(CannotSize, match="does not fit on 1 x l4"):
        tier_setup(engine.model_copy(update={"model": "gpt-oss-120b"}), GPUS["l4"], "mid", 60, 0.8)
    with pytest.raises(CannotSize, match="no tier"):
        scenario("x", {}, GPUS["l4"], "mid", _LOAD, cold_start_s=1, hit=1, duration_s=2, warm_up_s=1, seed=1)


def _row(tier: str, ttft_s: float | None) -> Row:
    return Row(tier, 1.0, 0.0, 0.5, ttft_s, ttft_s, ttft_s, 0.02, 0.05, 1.0, 100.0, 1.0, 1, 0)


def test_a_series_has_a_value_for_every_level() -> None:
    sweep: Sweep = {
        "1": {case: [_row("20b", 1.0)] for case in CASES},
        "2": {case: [_row("20b", None)] for case in CASES},
    }
    assert series(sweep, "ttft_p95_s", 1000.0) == {"20b": {case: [1000.0, None] for case in CASES}}


def test_a_sweep_is_drawn(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path_factory.mktemp("plot") / "sweep.png"
    draw_sweep({"1": {case: [_row("20b", 1.0), _row("120b", None)] for case in CASES}}, file, "one")
    assert file.read_bytes().startswith(b"\x89PNG")
