"""`/v1/route`: where would this turn go, and why did that one go there."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request

from deployments.errors import InvalidRequest, UnknownModel
from deployments.ingress.session import session_of
from deployments.ports import (
    Difficulty,
    JsonValue,
    ModelId,
    RequestId,
    Risk,
    RouteAsk,
    RouteDecision,
    RouteId,
    RouteRequest,
    Scope,
)
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import Intake

_NAMED = frozenset({"explicit_model", "explicit_model_overridden"})  # the model was asked for by its name
_RISKS = {risk.value: risk for risk in (Risk.R0, Risk.R1, Risk.R2, Risk.R3)}

ReadRequest = Callable[[Mapping[str, JsonValue]], RouteRequest]


def create_route_router(
    authorizer: Authorizer, difficulty: Difficulty, read_request: ReadRequest, intake: Intake
) -> APIRouter:
    """The routes of the difficulty router; `read_request` turns a chat body into what the router may see."""
    router = APIRouter()

    @router.post("/v1/route")
    async def dry_run(request: Request) -> JSONResponse:
        """Decide as for a chat completion and change nothing: no state, no budget, no generation."""
        principal = await authorizer(request, Scope.INFERENCE)
        body = await intake.read_object(request)
        if not isinstance(body.get("messages"), list):
            raise InvalidRequest("'messages' must be a list.", "messages")
        model = _model(body)
        asked = read_request(body)
        decision = await difficulty.route(
            RouteAsk(
                request_id=RequestId(f"dryrun_{secrets.token_hex(12)}"),
                tenant=principal.tenant,
                session=session_of(principal, request.headers, body, body),
                request=replace(asked, trusted_risk=_risk(body, asked.trusted_risk)),
                model=model,
                dry_run=True,
            )
        )
        named = not _NAMED.isdisjoint(decision.reasons)
        if model is not None and named and not principal.may_use(model):
            raise UnknownModel(model)  # the same answer as for a model that is not served
        return JSONResponse({"object": "route.decision", "dry_run": True, **_decision(decision)})

    @router.get("/v1/route/{route_id}")
    async def explain(request: Request, route_id: str) -> JSONResponse:
        """Why a recent turn of the same tenant was routed as it was."""
        principal = await authorizer(request, Scope.INFERENCE)
        found = await difficulty.explain(principal.tenant, RouteId(route_id))
        return JSONResponse(
            {
                "object": "route.explanation",
                "dry_run": False,
                **_decision(found.decision),
                "request_id": found.request_id,
                "created_ms": found.at_ms,
                "task": found.task,
                "risk": found.risk.value,
                "signals": list(found.signals),
                "rules": [{"id": rule_id, "fired": fired} for rule_id, fired in found.rules],
                "contributions": [{"name": name, "value": value} for name, value in found.contributions],
            }
        )

    return router


def _decision(decision: RouteDecision) -> dict[str, Any]:
    fields = asdict(decision)
    fields["id"] = fields.pop("route_id")
    fields["policy"] = fields.pop("policy_digest")
    del fields["watched"]  # between router and ingress
    return fields


def _model(body: Mapping[str, JsonValue]) -> ModelId | None:
    model = body.get("model")
    if model is None:
        return None
    if not isinstance(model, str):
        raise InvalidRequest("'model' must be a string.", "model")
    return ModelId(model)


def _risk(body: Mapping[str, JsonValue], known: Risk | None) -> Risk | None:
    """The class to assume for the planned action; a caller may raise what is known, never lower it."""
    stated = body.get("risk")
    if stated is None:
        return known
    if not isinstance(stated, str) or stated not in _RISKS:
        raise InvalidRequest("'risk' must be one of R0, R1, R2, R3.", "risk")
    return _RISKS[stated] if known is None else known.at_least(_RISKS[stated])
