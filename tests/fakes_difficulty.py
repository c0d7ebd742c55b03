"""A difficulty router that always decides the same, and remembers what it was asked."""

from dataclasses import dataclass, field, replace

from deployments.errors import NotFound, UnknownModel
from deployments.ports import (
    Attempt,
    Effort,
    Feedback,
    ModelId,
    RequestId,
    Risk,
    Role,
    RouteAsk,
    RouteDecision,
    RouteExplanation,
    RouteId,
    RouteRequest,
    TenantId,
    Tier,
    Turn,
)
from router.explain import explain
from router.policy import default_policy
from router.route import trace
from router.types import StateView

DETAIL = explain(
    trace(RouteRequest(turns=(Turn(Role.USER, "Which index does it use?"),)), StateView(), default_policy()),
    default_policy(),
    StateView(),
)
DECISION = RouteDecision(
    route_id=RouteId("route_fixed"),
    model=ModelId("demo-20b"),
    tier=Tier.BASE,
    effort=Effort.MEDIUM,
    revision="r1",
    reason="default",
    reasons=("default",),
    difficulty=0.25,
    policy_digest="0" * 64,
)


@dataclass
class FixedDifficulty:
    """Implements `ports.Difficulty`; `served` None accepts every model name, `broken` is raised by `route`."""

    decision: RouteDecision = DECISION
    served: frozenset[str] | None = None
    broken: Exception | None = None
    is_ready: bool = True
    asks: list[RouteAsk] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    said: list[Feedback] = field(default_factory=list)
    owner: TenantId | None = None

    async def route(self, ask: RouteAsk) -> RouteDecision:
        if self.broken is not None:
            raise self.broken
        if ask.model is not None and self.served is not None and ask.model not in self.served:
            raise UnknownModel(ask.model)
        self.asks.append(ask)
        if not ask.dry_run:
            self.owner = ask.tenant
        return replace(self.decision, detail=DETAIL) if ask.dry_run or ask.explained else self.decision

    async def observe(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    async def feedback(self, said: Feedback) -> None:
        if said.tenant != self.owner or said.route_id != self.decision.route_id:
            raise NotFound("There is no such route decision.")
        self.said.append(said)

    async def explain(self, tenant: TenantId, route_id: RouteId) -> RouteExplanation:
        if tenant != self.owner or route_id != self.decision.route_id:
            raise NotFound("There is no such route decision.")
        return RouteExplanation(
            decision=replace(self.decision),
            request_id=RequestId("req_fixed"),
            at_ms=1,
            task="general",
            risk=Risk.R0,
            signals=("always", "task_general"),
            rules=(("review_large", False),),
            contributions=(("bias", -1.0),),
            detail=DETAIL,
        )

    async def ready(self) -> bool:
        return self.is_ready
