"""Where rollouts stand, for Prometheus: asked of the rollout controller at each scrape.

`/metrics` takes no key and must name nobody, so a rollout is known there by its kind and, where it is one of a model's,
by its model; ids, changes and other targets are what somebody chose, and are not shown.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deployments.rollouts import OF_MODELS, Rollout, State

_LABELS: Final = ("kind", "model")
_ENDED: Final = (State.FINISHED, State.ROLLED_BACK)


class RolloutCollector(Collector):
    """Says nothing before the first `tell`: nobody has asked the controller yet."""

    def __init__(self) -> None:
        self._asked = False
        self._now_ms = 0
        self._rollouts: Sequence[Rollout] | None = None

    def tell(self, rollouts: Sequence[Rollout] | None, now_ms: int) -> None:
        """The newest rollouts; None: the controller does not answer, and no figure of before is shown again."""
        self._asked = True
        self._rollouts = rollouts
        self._now_ms = now_ms

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape."""
        if not self._asked:
            return
        up = float(self._rollouts is not None)
        yield GaugeMetricFamily("gatehouse_rollout_up", "1 when the rollout controller answers.", up)
        if self._rollouts is None:
            return
        share = GaugeMetricFamily(
            "gatehouse_rollout_share_ratio", "Of the sessions, what the new revision gets.", labels=_LABELS
        )
        held = GaugeMetricFamily("gatehouse_rollout_held", "1 while a rollout waits for somebody.", labels=_LABELS)
        back = GaugeMetricFamily(
            "gatehouse_rollout_going_back", "1 while a rollback is in force that is not on record.", labels=_LABELS
        )
        age = GaugeMetricFamily(
            "gatehouse_rollout_stage_age_seconds", "Since a rollout came to its present stage.",
            labels=(*_LABELS, "state"),
        )  # fmt: skip
        for each in self._rollouts:
            plan, now = each.plan, each.standing
            if now.state.final:
                continue
            labels = (plan.kind.value, plan.target if plan.kind in OF_MODELS else "")
            share.add_metric(labels, each.share / 100)
            held.add_metric(labels, float(now.held))
            back.add_metric(labels, float(each.wanted is not None))
            age.add_metric((*labels, now.state.value), max(0.0, (self._now_ms - now.since_ms) / 1000))
        yield from (share, held, back, age)
        ended = GaugeMetricFamily(
            "gatehouse_rollout_ended", "Of the newest hundred rollouts, those that ended so.", labels=["outcome"]
        )
        counts = Counter(each.standing.state for each in self._rollouts)
        for state in _ENDED:
            ended.add_metric([state.value], counts[state])
        yield ended
