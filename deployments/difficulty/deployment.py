"""The difficulty router as a Serve deployment: session memory before and after a pure decision."""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace

from deployments.clock import Clock, SystemClock
from deployments.difficulty.memory import RouteMemory, SessionMemory
from deployments.difficulty.settings import DifficultySettings
from deployments.difficulty.targets import Targets
from deployments.errors import NotFound
from deployments.ports import (
    Attempt,
    Risk,
    RouteAsk,
    RouteDecision,
    RouteExplanation,
    RouteId,
    TenantId,
    Tier,
)
from router.policy import parse_policy
from router.route import Trace, fallback, trace
from router.types import Decision, RouteRequest, StateView

_log = logging.getLogger(__name__)


class DifficultyRouter:
    """Serves `ports.Difficulty`.

    A replica remembers the sessions that it routes: give it session-consistent traffic.
    """

    def __init__(
        self,
        settings: DifficultySettings,
        policy: Mapping[str, object],
        tiers: Mapping[Tier, tuple[str, str]],
        clock: Clock | None = None,
    ) -> None:
        """`tiers` names the model and the revision of every served tier; without a `clock` it takes the system's.

        Raises `PolicyError` for a bad `policy` document, `ValueError` for tiers that are empty or ambiguous.
        """
        self._policy = parse_policy(policy)
        self._targets = Targets(tiers, settings.auto_models)
        self._sessions = SessionMemory(settings.sessions, settings.idle_release_s * 1_000)
        self._routes = RouteMemory(settings.explained_routes)
        self._clock = clock or SystemClock()

    async def route(self, ask: RouteAsk) -> RouteDecision:
        """Model and effort for a turn. `UnknownModel` for a wish that is not served. A dry run leaves no trace."""
        now_ms = self._clock.now_ms()
        wish = self._targets.wished(ask.model)
        request = ask.request if wish is None else replace(ask.request, requested_tier=wish)
        state = self._sessions.view(ask.tenant, ask.session, now_ms)
        decision, found = self._decide(ask, request, state)
        served = self._targets.served(decision)
        target = self._targets.target(served.tier)
        answer = RouteDecision(
            route_id=RouteId(f"route_{secrets.token_hex(12)}"),
            model=target.model,
            tier=served.tier,
            effort=served.effort,
            revision=target.revision,
            reason=served.reason,
            reasons=served.reasons,
            difficulty=served.difficulty,
            policy_digest=served.policy_digest,
            watched=self._sessions.has_failures(ask.tenant, ask.session),
        )
        if not ask.dry_run:
            latch = found is not None and found.escalated and served.tier is Tier.STRONG
            self._sessions.decided(ask.tenant, ask.session, served.tier, served.effort, latch, now_ms)
            self._routes.remember(ask.tenant, _explanation(ask, answer, request, found, now_ms))
        return answer

    async def observe(self, attempt: Attempt) -> None:
        """Remember how an attempt ended; the same event twice counts once."""
        self._sessions.observe(attempt, self._clock.now_ms())

    async def explain(self, tenant: TenantId, route_id: RouteId) -> RouteExplanation:
        """Why a recent turn was routed as it was; `NotFound` when forgotten, unknown or another tenant's."""
        found = self._routes.find(tenant, route_id)
        if found is None:
            raise NotFound("There is no such route decision, or it is too old to be explained.")
        return found

    async def ready(self) -> bool:
        """True once constructed: a replica without a valid policy does not start."""
        return True

    def _decide(self, ask: RouteAsk, request: RouteRequest, state: StateView) -> tuple[Decision, Trace | None]:
        try:
            found = trace(request, state, self._policy)
        except Exception as error:
            # A broken router must not stop the traffic. The type only: an exception's text may quote the prompt.
            _log.error("router_error request_id=%s error=%s", ask.request_id, type(error).__name__)
            return fallback(request, state, self._policy.digest), None
        return found.decision, found


def _explanation(
    ask: RouteAsk, answer: RouteDecision, request: RouteRequest, found: Trace | None, now_ms: int
) -> RouteExplanation:
    if found is None:
        risk = request.trusted_risk or Risk.R0
        return RouteExplanation(answer, ask.request_id, now_ms, "unknown", risk, (), (), ())
    return RouteExplanation(
        decision=answer,
        request_id=ask.request_id,
        at_ms=now_ms,
        task=found.signals.task.value,
        risk=found.signals.risk,
        signals=tuple(sorted(found.signals.names)),
        rules=found.rules,
        contributions=found.score.contributions,
    )
