"""Prometheus metrics of routing in one ingress replica. Tenants, keys, sessions and ids are never labels.

`reason` is a rule's id or one of the router's own words: as many as the policies have rules.
"""

from collections.abc import Callable, Mapping
from typing import Final, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from deployments.ingress.meter import Meter
from deployments.ports import CascadeReport, Feedback, Mode, RouteDecision, RouteFacts, Tier, TierState
from serve_app.api.metrics import Counters
from serve_app.api.probes import or_nan

_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5)
_WATCHED: Final = ("policy", "snapshot")
_GAUGES: Final[Mapping[str, tuple[str, Callable[[TierState], float]]]] = {
    "up": ("0 while the tier counts as down, after calls that failed in a row.", lambda state: float(state.up)),
    "cold": ("1 while it has no replica.", lambda state: float(state.cold)),
    "full": ("1 after a refusal, and while its queue is at its bound.", lambda state: float(state.full)),
    "pressure": ("Its queue over its limit.", lambda state: state.pressure),
    "in_flight": ("Unfinished calls.", lambda state: float(state.in_flight)),
    "answer_seconds": (
        "What a whole answer usually takes; NaN while too few were seen.",
        lambda state: or_nan(None if state.ms is None else state.ms / 1000),
    ),
}


class RouteCounters:
    """Implements `deployments.ingress.route_meter.RouteMeter`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"gatehouse_{name}", text, labels, registry=registry)

        self._decisions = counter("route_decisions", "Routing decisions.", "tier", "reason", "mode")
        self._held = counter("route_held", "Turns that no tier may answer now.", "hold", "reason")
        self._failed = counter("route_failed", "Routing questions without an answer.", "code")
        self._seconds = Histogram(
            "gatehouse_route_seconds", "From the routing question to its answer.", buckets=_SECONDS, registry=registry
        )
        self._hand_over = counter("route_hand_over", "Turns whose larger tier had failed, too.")
        self._abstained = counter("route_abstained", "Turns of which the learned part says nothing.", "why")
        self._shadow = counter("route_shadow", "What the watching learned part would do.", "task", "agrees")
        self._eligible = counter("route_eligible", "Turns that the budget counts.", "tier", "hit")
        self._target = counter("route_target", "Sum of the budgets' targets over the turns that they count.")
        self._refused = Gauge(
            "gatehouse_route_refused", "1 while a changed file is not in force.", ["part"], registry=registry
        )
        for part in _WATCHED:
            self._refused.labels(part).set(0)
        self._cascades = counter("cascade", "Requests that asked for a verified cascade.", "word", "why")
        self._second = counter("cascade_second", "Second attempts of cascades.", "outcome")
        self._feedback = counter("feedback", "Verdicts on answers.", "verdict", "source")
        self._tiers = {
            name: (Gauge(f"gatehouse_tier_{name}", text, ["tier"], registry=registry), of)
            for name, (text, of) in _GAUGES.items()
        }

    def watch(self, view: Callable[[], Mapping[Tier, TierState]]) -> None:
        """From now on every scrape asks `view` how the tiers are."""
        for tier in view():
            for gauge, of in self._tiers.values():
                gauge.labels(tier.value).set_function(lambda tier=tier, of=of: of(view()[tier]))

    def decided(self, decision: RouteDecision, seconds: float) -> None:
        """The router decided about a turn."""
        self._seconds.observe(seconds)
        if decision.hold is not None:
            self._held.labels(decision.hold.value, decision.reason).inc()
        else:
            self._decisions.labels(decision.tier.value, decision.reason, decision.mode.value).inc()
        if decision.hand_over:
            self._hand_over.inc()
        if decision.facts is not None:
            self._learned(decision, decision.facts)

    def failed(self, code: str, seconds: float) -> None:
        """It did not."""
        self._seconds.observe(seconds)
        self._failed.labels(code).inc()

    def cascaded(self, word: str, why: str | None, report: CascadeReport | None) -> None:
        """A request that asked for a cascade has ended."""
        self._cascades.labels(word, why or "").inc()
        if report is not None and report.second is not None:
            self._second.labels(report.error_code or report.second_verdict or "unchecked").inc()

    def told(self, said: Feedback) -> None:
        """A verdict on an answer was taken."""
        self._feedback.labels(said.verdict.value, said.source.value).inc()

    def _learned(self, decision: RouteDecision, facts: RouteFacts) -> None:
        for part in _WATCHED:
            self._refused.labels(part).set(part in facts.refused)
        if facts.abstained is not None:
            self._abstained.labels(facts.abstained).inc()
        if decision.mode is Mode.SHADOW and facts.shadow is not None:
            self._shadow.labels(facts.task, str(facts.shadow is decision.tier).lower()).inc()
        if decision.eligible and facts.target is not None:
            self._eligible.labels(decision.tier.value, str(facts.hit).lower()).inc()
            self._target.inc(facts.target)


def make_route_meter(meter: Meter) -> RouteCounters:
    """Counters of routing that `/metrics` shows beside those of `meter`, which must be a `Counters`."""
    return RouteCounters(cast(Counters, meter).registry)
