"""What a shadow bundle makes of calls, for Prometheus: read from the classifier at each scrape, counted by it."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deployments.gate.shadow import ShadowCounts


class ShadowCollector(Collector):
    """Says nothing as long as nobody gave it `counts`: there is no shadow bundle."""

    def __init__(self) -> None:
        self.counts: Callable[[], ShadowCounts] | None = None

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape."""
        if self.counts is None:
            return
        found = self.counts()
        yield GaugeMetricFamily(
            "gatehouse_shadow_up", "1 when a shadow bundle judges calls, 0 when it could not be loaded.",
            float(found.policy_digest is not None),
        )  # fmt: skip
        calls = CounterMetricFamily(
            "gatehouse_shadow_calls", "Calls by what the live and the shadow bundle decide.", labels=["live", "shadow"]
        )
        for (live, shadow), count in sorted(found.pairs.items()):
            calls.add_metric([live.value, shadow.value], count)
        yield calls
        yield CounterMetricFamily(
            "gatehouse_shadow_changed", "Calls whose class or outcome the shadow bundle would change.", found.changed
        )
        missed = CounterMetricFamily(
            "gatehouse_shadow_missed", "Calls that the shadow bundle did not judge.", labels=["why"]
        )
        for why, count in sorted(found.missed.items()):
            missed.add_metric([why], count)
        yield missed
