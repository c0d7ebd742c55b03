"""Samples -> figures. Pure arithmetic."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serve_app.bench.load import Window
from serve_app.bench.stream import Sample


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles of `count` values, in the unit of the field that holds it."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What one level showed on one server. Latencies are of complete replies only; None where there is no value.

    `itl` shares a gap among the tokens that arrived together after it, `chunk_gap` does not; `per_token` is the time
    from first to last text per further token of `usage`, one value per request. `cpu_us_per_event` counts all data
    events of the stream, `cpu_ms_per_token` the tokens; both are the server's CPU, idle upkeep included, and None when
    its processes are unknown. `client_cpu_share` is this process's share of one core.
    """

    requests: int
    complete: int
    errors: Mapping[str, int]
    wall_s: float
    requests_per_s: float
    output_tokens: int
    output_tokens_per_s: float
    tokens_per_reply: float
    prompt_tokens_per_request: float | None
    cached_tokens_per_request: float | None
    events: int
    ttft_ms: Spread | None
    itl_ms: Spread | None
    chunk_gap_ms: Spread | None
    per_token_ms: Spread | None
    e2e_ms: Spread | None
    cpu_s: Mapping[str, float]
    cpu_ms_per_token: float | None
    cpu_us_per_event: float | None
    client_cpu_share: float
    late_ms: float

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return asdict(self)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` (in [0, 1]) of the values lie, interpolated; `ordered` ascends, is not empty."""
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def spread(values: Iterable[float], scale: float = 1.0) -> Spread | None:
    """The spread of `values * scale`; None when there are none."""
    ordered = sorted(value * scale for value in values)
    if not ordered:
        return None
    return Spread(
        count=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        p50=percentile(ordered, 0.5),
        p90=percentile(ordered, 0.9),
        p99=percentile(ordered, 0.99),
        max=ordered[-1],
    )


def figures(windows: Sequence[Window]) -> Figures:
    """The figures of one level over all its rounds, which count together."""
    samples = [sample for window in windows for sample in window.samples]
    complete = [sample for sample in samples if sample.ok]
    errors = Counter(sample.ending for sample in samples if not sample.ok)
    wall_s = math.fsum(window.wall_s for window in windows)
    tokens = sum(sample.tokens for sample in complete)
    events = sum(sample.events for sample in samples)
    cpu: Counter[str] = Counter()
    for window in windows:
        cpu.update(window.cpu)
    cpu_s = math.fsum(cpu.values())
    known = bool(cpu)
    return Figures(
        requests=len(samples),
        complete=len(complete),
        errors=dict(errors.most_common()),
        wall_s=wall_s,
        requests_per_s=len(complete) / wall_s if wall_s else 0.0,
        output_tokens=tokens,
        output_tokens_per_s=tokens / wall_s if wall_s else 0.0,
        tokens_per_reply=tokens / len(complete) if complete else 0.0,
        prompt_tokens_per_request=_mean(complete, "prompt_tokens"),
        cached_tokens_per_request=_mean(complete, "cached_tokens"),
        events=events,
        ttft_ms=spread((sample.ttft_s for sample in complete if sample.ttft_s is not None), 1000),
        itl_ms=spread((gap for sample in complete for gap in sample.token_gaps_s()), 1000),
        chunk_gap_ms=spread((gap for sample in complete for gap in sample.chunk_gaps_s()), 1000),
        per_token_ms=spread((each.per_token_s for each in complete if each.per_token_s is not None), 1000),
        e2e_ms=spread((sample.e2e_s for sample in complete), 1000),
        cpu_s=dict(cpu.most_common()),
        cpu_ms_per_token=cpu_s * 1e3 / tokens if known and tokens else None,
        cpu_us_per_event=cpu_s * 1e6 / events if known and events else None,
        client_cpu_share=math.fsum(window.client_cpu_s for window in windows) / wall_s if wall_s else 0.0,
        late_ms=max((window.late_s for window in windows), default=0.0) * 1000,
    )


METRICS: Mapping[str, tuple[str, str | None]] = {
    "TTFT p50": ("ttft_ms", "p50"),
    "TTFT p99": ("ttft_ms", "p99"),
    "ITL mean": ("itl_ms", "mean"),
    "ITL p50": ("itl_ms", "p50"),
    "ITL p99": ("itl_ms", "p99"),
    "chunk gap p99": ("chunk_gap_ms", "p99"),
    "time per token p50": ("per_token_ms", "p50"),
    "E2E p50": ("e2e_ms", "p50"),
    "E2E p99": ("e2e_ms", "p99"),
    "output tokens/s": ("output_tokens_per_s", None),
    "CPU us/event": ("cpu_us_per_event", None),
    "CPU ms/token": ("cpu_ms_per_token", None),
}
"""What a comparison shows: label -> field of `Figures` and, where that is a spread, the field of it."""


def metric(measured: Figures, label: str) -> float | None:
    """One figure of `METRICS`; None when it has no value."""
    name, part = METRICS[label]
    value = getattr(measured, name)
    if part is not None:
        value = None if value is None else getattr(value, part)
    return None if value is None else float(value)


def ratios(measured: Figures, base: Figures) -> dict[str, float | None]:
    """Every metric as a multiple of the base's; None where either has no value or the base's is zero."""
    found: dict[str, float | None] = {}
    for label in METRICS:
        ours, theirs = metric(measured, label), metric(base, label)
        found[label] = ours / theirs if ours is not None and theirs else None
    return found


def ratio_ranges(measured: Sequence[Window], base: Sequence[Window]) -> dict[str, tuple[float, float] | None]:
    """Lowest and highest ratio over rounds that were measured next to each other: how far noise reaches."""
    rounds = [ratios(figures([ours]), figures([theirs])) for ours, theirs in zip(measured, base, strict=False)]
    found: dict[str, tuple[float, float] | None] = {}
    for label in METRICS:
        values = [value for each in rounds if (value := each[label]) is not None]
        found[label] = (min(values), max(values)) if values else None
    return found


def _mean(samples: Sequence[Sample], name: str) -> float | None:
    values: list[int] = [value for sample in samples if (value := getattr(sample, name)) is not None]
    return sum(values) / len(values) if values else None
