"""The plan, the configuration, the figures and the picture; and a short run against replicas in this process."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.bench.fairness import (
    VARIANTS,
    FairnessPlan,
    Seen,
    draw,
    figures,
    serve_document,
    simulate,
    to_json,
)
from serve_app.bench.load import BenchRefused
from serve_app.bench.stream import OK, TIMEOUT, Sample
from serve_app.config import ROOT, parse_config


def answered(ttft_s: float, ending: str = OK, tokens: int = 10) -> Sample:
    return Sample(ending, 200, 0.0, ttft_s, ttft_s, output_tokens=tokens)


def test_an_order_that_is_unknown_is_refused() -> None:
    with pytest.raises(BenchRefused, match="fair, counters, fifo"):
        FairnessPlan(variants=("fair", "lottery"))


def test_what_moved_is_told_from_what_the_machine_did() -> None:
    seen = Seen(
        alone=[answered(0.1) for _ in range(20)],
        control=[answered(0.2) for _ in range(20)],
        flooded=[*(answered(0.22) for _ in range(20)), answered(9.0, TIMEOUT)],
        flood_tokens=500,
        flood_s=5.0,
    )
    found = figures(seen)
    assert found.moved == pytest.approx(1.2)
    assert found.moved_by_queue == pytest.approx(0.1)
    assert (found.failed, found.flood_tokens_per_s) == (1, 100.0)
    nothing = figures(Seen())
    assert (nothing.moved, nothing.moved_by_queue, nothing.alone_p95_ms) == (None, None, None)


def test_the_configuration_differs_in_the_order_only() -> None:
    base = yaml.safe_load((ROOT / "configs" / "serve.local.yaml").read_text())
    before = json.dumps(base)
    document = serve_document(base, FairnessPlan(), 1234, "/s")
    assert json.dumps(base) == before
    config = parse_config(document["applications"][0]["args"], "bench")
    engines = [model.engine for model in config.models]
    assert [engine.model for engine in engines] == list(VARIANTS)
    assert [(engine.fair.enabled, engine.fair.reserve) for engine in engines] == [
        (True, 0.125),
        (True, 0.0),
        (False, 0.125),
    ]
    assert len({engine.model_dump_json(exclude={"model", "fair"}) for engine in engines}) == 1


def test_a_flood_moves_a_quiet_tenant_by_less_than_a_fifth_and_without_the_queue_by_far_more(tmp_path: Path) -> None:
    """Simulated, so it is exact: what is measured is the order of the queue and not this machine."""
    told: list[str] = []
    plan = FairnessPlan(flood=10, requests=30, rounds=1, variants=("fair", "fifo"))
    seen = simulate(plan, told.append)
    found = {name: figures(each) for name, each in seen.items()}
    fair, fifo = found["fair"], found["fifo"]
    assert [line.split(":")[0] for line in told] == ["round 1, fair", "round 1, fifo"]
    assert (fair.failed, fifo.failed) == (0, 0)
    assert fair.alone_p95_ms == pytest.approx(200, abs=1)
    assert fair.moved is not None
    assert fair.moved < 0.2
    assert fair.moved_by_queue is not None
    assert fair.moved_by_queue < 0.2
    assert fifo.moved is not None
    assert fifo.moved > 100
    assert fair.flood_tokens_per_s > (1 - 0.125) * fifo.flood_tokens_per_s - plan.rate * plan.quiet_tokens
    pytest.importorskip("matplotlib")
    result: dict[str, Any] = json.loads(json.dumps(to_json(plan, seen)))
    draw(result, tmp_path / "a.svg")
    draw(result, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
