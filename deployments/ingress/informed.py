"""The router as one ingress replica asks it: told how the tiers are, and counted."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from deployments.clock import Clock
from deployments.errors import GatehouseError
from deployments.ingress.route_meter import RouteMeter
from deployments.ports import (
    Attempt,
    Difficulty,
    Feedback,
    RouteAsk,
    RouteDecision,
    RouteExplanation,
    RouteId,
    TenantId,
    Tier,
    TierState,
)


class InformedDifficulty:
    """Implements `ports.Difficulty` over another one."""

    def __init__(
        self, router: Difficulty, view: Callable[[], Mapping[Tier, TierState]], meter: RouteMeter, clock: Clock
    ) -> None:
        """`view` tells how the tiers are at this moment."""
        self._router = router
        self._view = view
        self._meter = meter
        self._clock = clock

    async def route(self, ask: RouteAsk) -> RouteDecision:
        """Model and effort for a turn, as the tiers are now. Dry runs are told of them too, and not counted."""
        ask = replace(ask, tiers=self._view())
        if ask.dry_run:
            return await self._router.route(ask)
        began_s = self._clock.monotonic_s()
        try:
            decision = await self._router.route(ask)
        except GatehouseError as error:
            self._meter.failed(error.code, self._clock.monotonic_s() - began_s)
            raise
        self._meter.decided(decision, self._clock.monotonic_s() - began_s)
        return decision

    async def observe(self, attempt: Attempt) -> None:
        """Remember how an attempt ended."""
        await self._router.observe(attempt)

    async def explain(self, tenant: TenantId, route_id: RouteId) -> RouteExplanation:
        """Why a recent turn was routed as it was."""
        return await self._router.explain(tenant, route_id)

    async def feedback(self, said: Feedback) -> None:
        """Take a verdict. One that is said again is counted again."""
        await self._router.feedback(said)
        self._meter.told(said)

    async def ready(self) -> bool:
        """True when a policy is loaded."""
        return await self._router.ready()
