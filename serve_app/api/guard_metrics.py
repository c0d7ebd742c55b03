"""Prometheus metrics of guardrails in one ingress replica. Tenants, keys and texts are never labels."""

from collections.abc import Mapping, Sequence
from typing import Final, cast

from prometheus_client import CollectorRegistry, Counter, Histogram

from deployments.guardrails.values import Detector, Direction, Found
from deployments.ingress.meter import Meter
from serve_app.api.metrics import Counters

_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5)


class GuardCounters:
    """Implements `deployments.guardrails.meter.GuardMeter`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._found = Counter(
            "gatehouse_guardrail_findings",
            "What guardrails found.",
            ["direction", "detector", "kind", "action"],
            registry=registry,
        )
        self._failed = Counter(
            "gatehouse_guardrail_failures",
            "Requests at which a guardrail could not look.",
            ["direction", "detector", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "gatehouse_guardrail_seconds", "Looking at a request.", ["direction"], buckets=_SECONDS, registry=registry
        )

    def looked(self, direction: Direction, seconds: float) -> None:
        """The texts of a request were looked at."""
        self._seconds.labels(direction.value).observe(seconds)

    def found(self, direction: Direction, found: Sequence[Found]) -> None:
        """What was found in one request or answer."""
        for each in found:
            self._found.labels(direction.value, each.detector.value, each.kind, each.action.value).inc(each.count)

    def failed(self, direction: Direction, failures: Mapping[Detector, str], refused: bool) -> None:
        """Detectors could not look."""
        for detector in failures:
            self._failed.labels(direction.value, detector.value, "refused" if refused else "passed").inc()


def make_guard_meter(meter: Meter) -> GuardCounters:
    """Counters of guardrails that `/metrics` shows beside those of `meter`, which must be a `Counters`."""
    return GuardCounters(cast(Counters, meter).registry)
