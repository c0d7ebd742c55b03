"""`/v1/feedback`: what became of an answer, told by whoever can judge it."""

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from deployments.difficulty.feedback import trusted
from deployments.errors import GatehouseError
from deployments.ingress.revisions import Revisions
from deployments.ports import Difficulty, Feedback, FeedbackSource, FeedbackVerdict, Principal, RouteId, Scope
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import parse_model, read_object

_MAX_BODY_BYTES = 16 * 1024
_JUDGED = frozenset({FeedbackVerdict.OK, FeedbackVerdict.WRONG})
"""Verdicts on an answer; the others are on the choice of the model."""

_Id = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}\z")]


class FeedbackBody(BaseModel):
    """A verdict on an earlier turn. `event_id` is the caller's own, and makes the verdict idempotent.

    `source` is what the caller says of itself; how far it is trusted follows from its key. `score` in [0, 1] is the
    judge's own measure, if it has one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    route_id: _Id
    verdict: Annotated[FeedbackVerdict, Field(strict=False)]
    source: Annotated[FeedbackSource, Field(strict=False)]
    event_id: _Id
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None


class FeedbackReply(BaseModel):
    """The verdict as it was taken. `weight` in (0, 1] is how far it is trusted."""

    model_config = ConfigDict(frozen=True)

    object: str = "feedback"
    event_id: str
    route_id: str
    verdict: str
    source: str
    weight: float
    score: float | None


def create_feedback_router(
    authorizer: Authorizer, difficulty: Difficulty, revisions: Revisions | None = None
) -> APIRouter:
    """The one route of feedback. `revisions` hears of verdicts on what is being rolled out, where anything is."""
    router = APIRouter()

    async def member(request: Request) -> Principal:
        return await authorizer(request, Scope.INFERENCE, Scope.APPROVE, Scope.ADMIN)

    @router.post("/v1/feedback")
    async def say(request: Request, principal: Annotated[Principal, Depends(member)]) -> FeedbackReply:
        """Take a verdict; the same event twice is one."""
        body = parse_model(FeedbackBody, await read_object(request, _MAX_BODY_BYTES))
        weight = trusted(principal, body.source)
        await difficulty.feedback(
            Feedback(
                event_id=body.event_id,
                tenant=principal.tenant,
                key_id=principal.key_id,
                route_id=RouteId(body.route_id),
                verdict=body.verdict,
                source=body.source,
                weight=weight,
                score=body.score,
            )
        )
        if revisions is not None and body.verdict in _JUDGED:
            with suppress(GatehouseError):  # the verdict is taken; a figure of a rollout is not worth an error
                found = await difficulty.explain(principal.tenant, RouteId(body.route_id))
                sent = found.decision if found.cascade is None else found.cascade.sent or found.decision
                turn = f"{principal.tenant}:{body.route_id}"
                revisions.rated(sent, turn, body.verdict is FeedbackVerdict.WRONG)
        return FeedbackReply(
            event_id=body.event_id,
            route_id=body.route_id,
            verdict=body.verdict.value,
            source=body.source.value,
            weight=weight,
            score=body.score,
        )

    return router
