"""What is counted of routing; `serve_app/api/route_metrics.py` counts for Prometheus. Never a tenant, key or text."""

from collections.abc import Callable, Mapping
from typing import Protocol

from deployments.ports import CascadeReport, Feedback, RouteDecision, Tier, TierState


class RouteMeter(Protocol):
    """Counts what the router decides and what becomes of it."""

    def watch(self, view: Callable[[], Mapping[Tier, TierState]]) -> None:
        """From now on `view` tells how the tiers are."""
        ...

    def decided(self, decision: RouteDecision, seconds: float) -> None:
        """The router decided about a turn, which took so long; also about one that is held."""
        ...

    def failed(self, code: str, seconds: float) -> None:
        """It did not."""
        ...

    def cascaded(self, word: str, why: str | None, report: CascadeReport | None) -> None:
        """A request that asked for a cascade has ended; `report` is there when a second model was asked."""
        ...

    def told(self, said: Feedback) -> None:
        """A verdict on an answer was taken."""
        ...


class Uncounted:
    """Counts nothing. Implements `RouteMeter`."""

    def watch(self, view: Callable[[], Mapping[Tier, TierState]]) -> None:
        """Nothing."""

    def decided(self, decision: RouteDecision, seconds: float) -> None:
        """Nothing."""

    def failed(self, code: str, seconds: float) -> None:
        """Nothing."""

    def cascaded(self, word: str, why: str | None, report: CascadeReport | None) -> None:
        """Nothing."""

    def told(self, said: Feedback) -> None:
        """Nothing."""
