"""What the router remembers of a session: failures by tier, the latch of an escalation, the arm of the last turn."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from deployments.ports import Attempt, AttemptOutcome, Effort, RouteExplanation, RouteId, SessionId, TenantId, Tier
from router.types import StateView

_EVENTS_PER_SESSION: Final = 64
_CLEAN_ATTEMPTS: Final = 2  # attack fast, release slow: one good answer after a failure proves nothing yet


@dataclass(slots=True)
class _Session:
    last_seen_ms: int
    failures: dict[Tier, int] = field(default_factory=dict[Tier, int])
    clean: dict[Tier, int] = field(default_factory=dict[Tier, int])
    latched: Tier | None = None
    last_tier: Tier | None = None
    last_effort: Effort | None = None
    events: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])


class SessionMemory:
    """A bounded memory of sessions, keyed by tenant and session; the least recently used one is forgotten first.

    The empty session id stands for "no session": nothing is remembered for it. Times are milliseconds since the epoch.
    """

    def __init__(self, sessions: int, idle_release_ms: int) -> None:
        self._capacity = sessions
        self._idle_release_ms = idle_release_ms
        self._sessions: OrderedDict[tuple[TenantId, SessionId], _Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def view(self, tenant: TenantId, session: SessionId, now_ms: int) -> StateView:
        """What is known of a session. Changes nothing, not even the order of forgetting: a dry run may look."""
        known = self._sessions.get((tenant, session))
        if known is None or self._is_idle(known, now_ms):
            return StateView()
        return StateView(
            failures_on_base=known.failures.get(Tier.BASE, 0),
            latched_tier=known.latched,
            last_tier=known.last_tier,
            last_effort=known.last_effort,
        )

    def has_failures(self, tenant: TenantId, session: SessionId) -> bool:
        """True when a clean attempt would change what is remembered of a session."""
        known = self._sessions.get((tenant, session))
        return known is not None and any(known.failures.values())

    def decided(
        self, tenant: TenantId, session: SessionId, tier: Tier, effort: Effort, latch: bool, now_ms: int
    ) -> None:
        """Remember the arm of a turn; `latch` keeps the session on `tier` until it has been idle for long enough."""
        if not session:
            return
        known = self._touch(tenant, session, now_ms)
        known.last_tier, known.last_effort = tier, effort
        if latch:
            known.latched = tier

    def observe(self, attempt: Attempt, now_ms: int) -> bool:
        """Count how an attempt ended; False when its event is already known, so a retry is not a second failure.

        Two clean attempts in a row on a tier clear the failures on it.
        """
        if not attempt.session:
            return False
        known = self._touch(attempt.tenant, attempt.session, now_ms)
        if attempt.event_id in known.events:
            return False
        known.events[attempt.event_id] = None
        while len(known.events) > _EVENTS_PER_SESSION:
            known.events.popitem(last=False)
        tier = attempt.tier
        if attempt.outcome is not AttemptOutcome.OK:
            known.failures[tier] = known.failures.get(tier, 0) + 1
            known.clean[tier] = 0
            return True
        known.clean[tier] = known.clean.get(tier, 0) + 1
        if known.clean[tier] >= _CLEAN_ATTEMPTS:
            known.failures[tier] = 0
        return True

    def _touch(self, tenant: TenantId, session: SessionId, now_ms: int) -> _Session:
        key = (tenant, session)
        known = self._sessions.pop(key, None)
        if known is None or self._is_idle(known, now_ms):
            known = _Session(last_seen_ms=now_ms)
        known.last_seen_ms = max(known.last_seen_ms, now_ms)
        self._sessions[key] = known
        self._forget(now_ms)
        return known

    def _forget(self, now_ms: int) -> None:
        """Drop the sessions that are too many, and those that have been idle for so long that they would start anew."""
        while self._sessions:
            oldest = next(iter(self._sessions))
            if len(self._sessions) <= self._capacity and not self._is_idle(self._sessions[oldest], now_ms):
                return
            del self._sessions[oldest]

    def _is_idle(self, known: _Session, now_ms: int) -> bool:
        return now_ms - known.last_seen_ms >= self._idle_release_ms


class RouteMemory:
    """The last explanations, oldest forgotten first; an id answers only to the tenant it belongs to."""

    def __init__(self, routes: int) -> None:
        self._capacity = routes
        self._routes: OrderedDict[tuple[TenantId, RouteId], RouteExplanation] = OrderedDict()

    def remember(self, tenant: TenantId, explanation: RouteExplanation) -> None:
        """Keep one explanation."""
        self._routes[tenant, explanation.decision.route_id] = explanation
        while len(self._routes) > self._capacity:
            self._routes.popitem(last=False)

    def find(self, tenant: TenantId, route_id: RouteId) -> RouteExplanation | None:
        """The explanation of a route, or None: forgotten, unknown or another tenant's."""
        return self._routes.get((tenant, route_id))
