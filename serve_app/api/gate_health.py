"""`/healthz/approvals`: whether the gate holds what it must, and whether anybody is kept waiting. Also as metrics."""

import math
from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Gauge
from pydantic import BaseModel, ConfigDict

from deployments.gate.canary import Canary, CanaryResult
from deployments.ports import Approvals, QueueHealth
from serve_app.api.probes import or_nan, within

_HEALTH_S = 12.0

_GAUGES = {
    "up": "1 when the approval store answers.",
    "waiting": "Open requests that somebody must act on.",
    "oldest_seconds": "For how long the oldest of them has waited; NaN when none does.",
    "approved_unused": "Approved requests whose call has not left yet.",
    "unreported": "Released calls of which nobody has said what became of them.",
    "frozen": "Keys whose tool calls do not leave.",
    "notices_waiting": "Messages that no receiver has taken yet.",
    "notices_oldest_seconds": "For how long the oldest of them has waited; NaN when none does.",
    "notices_failed": "Messages of the last days that were given up.",
}


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True)


class CanaryReply(_Reply):
    """The newest synthetic R2 call. `escaped`: it would have been let through."""

    problem: str | None
    escaped: bool
    at_ms: int
    took_ms: int


class QueueReply(_Reply):
    """The approval queue over all tenants. Ages in seconds; null: there is none."""

    waiting: int
    oldest_s: float | None
    approved_unused: int
    unreported: int
    frozen: int
    notices_waiting: int
    notices_oldest_s: float | None
    notices_failed: int
    problems: tuple[str, ...]


class GateHealthReply(_Reply):
    """`degraded`: the gate holds what it must, and somebody is kept waiting."""

    status: Literal["ok", "degraded", "failing"]
    problem: str | None
    canary: CanaryReply
    queue: QueueReply | None


class GateGauges:
    """What the approval queue and the canary say, as metrics of an ingress replica."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queue = {
            name: Gauge(f"gatehouse_approvals_{name}", text, registry=registry) for name, text in _GAUGES.items()
        }
        for name in _GAUGES.keys() - {"up"}:
            self._queue[name].set(math.nan)  # nobody has told it yet
        self._held = Gauge(
            "gatehouse_gate_canary_held", "1 when the newest synthetic R2 call was held.", registry=registry
        )
        self._escaped = Gauge(
            "gatehouse_gate_canary_escaped", "1 when the newest synthetic R2 call was let through.", registry=registry
        )
        self._at = Gauge(
            "gatehouse_gate_canary_timestamp_seconds", "When the newest canary was sent; 0: never.", registry=registry
        )

    def tell(self, health: QueueHealth | None, canary: CanaryResult | None) -> None:
        """Set all of it; `health` None: the store does not answer."""
        self._queue["up"].set(health is not None)
        if health is not None:
            facts = {
                "waiting": health.waiting,
                "oldest_seconds": or_nan(health.oldest_s),
                "approved_unused": health.approved_unused,
                "unreported": health.unreported,
                "frozen": health.frozen,
                "notices_waiting": health.notices_waiting,
                "notices_oldest_seconds": or_nan(health.notices_oldest_s),
                "notices_failed": health.notices_failed,
            }
            for name, value in facts.items():
                self._queue[name].set(value)
        if canary is not None:
            self._held.set(canary.problem is None)
            self._escaped.set(canary.escaped)
            self._at.set(canary.at_ms / 1000)


def create_gate_health_router(approvals: Approvals, canary: Canary) -> APIRouter:
    """The route of a probe; it needs no key and tells no names."""
    router = APIRouter()

    @router.get("/healthz/approvals")
    async def healthz() -> JSONResponse:
        """A synthetic R2 call goes the way of every call; 503 unless it was held; `degraded`: somebody waits."""
        found = await canary.check()
        told = await within(approvals.health(), _HEALTH_S)
        down = found.problem or ("The approval store does not answer." if told is None else None)
        problem = down or (told.problems[0] if told is not None and told.problems else None)
        # What waits for people or receivers is no reason to take a replica away.
        word = "failing" if down is not None else "degraded" if problem is not None else "ok"
        reply = GateHealthReply(
            status=word,
            problem=problem,
            canary=CanaryReply(**asdict(found)),
            queue=None if told is None else QueueReply(**asdict(told)),
        )
        return JSONResponse(reply.model_dump(), 503 if down is not None else 200)

    return router
