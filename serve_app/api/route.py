"""`/v1/route`: where would this turn go, and why did that one go there."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request

from deployments.errors import InvalidRequest, UnknownModel
from deployments.ingress.egress import Reach, usable_tiers
from deployments.ingress.revisions import Choices
from deployments.ingress.screening import Question
from deployments.ingress.session import session_of
from deployments.ingress.surface import ServedModel
from deployments.ingress.turn import named
from deployments.ports import (
    Dialect,
    Difficulty,
    JsonValue,
    ModelId,
    Principal,
    RequestId,
    Risk,
    RouteAsk,
    RouteDecision,
    RouteId,
    RouteRequest,
    Scope,
    Tier,
)
from router.explain import DEBUG_REQUEST_HEADER, debug_headers
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import Intake
from serve_app.api.route_replies import route_decision, route_explanation

_NAMED = frozenset({"explicit_model", "explicit_model_overridden"})  # the model was asked for by its name
_RISKS = {risk.value: risk for risk in (Risk.R0, Risk.R1, Risk.R2, Risk.R3)}

MOST_QUESTIONS: Final = 64
"""Questions in one batch; the size of its body is limited as that of every other."""

ReadRequest = Callable[[Mapping[str, JsonValue]], RouteRequest]
Screened = Callable[[Principal, RequestId, Dialect, Mapping[str, JsonValue]], Awaitable[Question]]
Choose = Callable[
    [Principal, Mapping[str, str], Mapping[str, JsonValue], Mapping[str, JsonValue], Dialect, ModelId | None], Choices
]


def create_route_router(
    authorizer: Authorizer,
    difficulty: Difficulty,
    read_request: ReadRequest,
    intake: Intake,
    models: Sequence[ServedModel] = (),
    *,
    screened: Screened,
    choose: Choose | None = None,
) -> APIRouter:
    """The routes of the difficulty router; `read_request` turns a chat body into what the router may see.

    `models` are those that are served: the router chooses among the tiers that may answer the key that asks. `screened`
    is what guardrails leave of a question, `choose` says what its session gets of all that has several revisions.
    """
    ranked = [(Tier(each.tier), Reach(each.model, each.local)) for each in models if each.tier is not None]
    router = APIRouter()

    @router.post("/v1/route")
    async def dry_run(request: Request) -> JSONResponse:
        """Decide as for a chat completion and change nothing: no state, no budget, no generation.

        With `requests` in the body, a list of such questions, they are answered one by one in a list.
        """
        principal = await authorizer(request, Scope.INFERENCE)
        body = await intake.read_object(request)
        if "requests" not in body:
            decision = await decide(principal, request, body, "")
            return JSONResponse(route_decision(decision), headers=_debug(request, principal, decision))
        asked = body["requests"]
        if not isinstance(asked, list) or not 1 <= len(asked) <= MOST_QUESTIONS:
            raise InvalidRequest(f"'requests' must be a list of 1 to {MOST_QUESTIONS} questions.", "requests")
        decisions: list[RouteDecision] = []
        for position, question in enumerate(asked):
            where = f"requests[{position}]"
            if not isinstance(question, dict):
                raise InvalidRequest(f"'{where}' must be an object.", where)
            decisions.append(await decide(principal, request, question, f"{where}."))
            await asyncio.sleep(0)  # others may be served between two questions
        return JSONResponse({"object": "list", "data": [route_decision(decision) for decision in decisions]})

    async def decide(
        principal: Principal, request: Request, question: Mapping[str, JsonValue], where: str
    ) -> RouteDecision:
        if not isinstance(question.get("messages"), list):
            raise InvalidRequest(f"'{where}messages' must be a list.", f"{where}messages")
        model = _model(question, where)
        session = session_of(principal, request.headers, question, question)
        request_id = RequestId(f"dryrun_{secrets.token_hex(12)}")
        choices = Choices()
        if choose is not None:
            choices = choose(principal, request.headers, question, question, Dialect.CHAT, model)
        words = await screened(principal, request_id, Dialect.CHAT, question)
        principal, asked = words.principal, read_request(words.body)
        decision = await difficulty.route(
            RouteAsk(
                request_id=request_id,
                tenant=principal.tenant,
                session=session,
                request=replace(
                    asked,
                    trusted_risk=_risk(question, asked.trusted_risk, where),
                    untrusted_content=asked.untrusted_content or words.suspicious,
                ),
                model=model,
                dry_run=True,
                usable=usable_tiers(principal, ranked),
                revisions={name: each.revision for name, each in choices.engines.items()},
                snapshot=named(choices.router),
                prompts={name: each.revision for name, each in choices.prompts.items()},
                policy=named(choices.policy),
            )
        )
        by_name = not _NAMED.isdisjoint(decision.reasons)
        if model is not None and by_name and not principal.may_use(model):
            raise UnknownModel(model)  # the same answer as for a model that is not served
        return decision

    @router.get("/v1/route/{route_id}")
    async def explain(request: Request, route_id: str) -> JSONResponse:
        """Why a recent turn of the same tenant was routed as it was."""
        principal = await authorizer(request, Scope.INFERENCE)
        found = await difficulty.explain(principal.tenant, RouteId(route_id))
        return JSONResponse(route_explanation(found))

    return router


def _debug(request: Request, principal: Principal, decision: RouteDecision) -> dict[str, str]:
    """What a caller who may see more asked to see in headers. Others get the answer without them."""
    wanted = request.headers.get(DEBUG_REQUEST_HEADER, "").strip().lower() == "true"
    if not wanted or decision.detail is None or Scope.ADMIN not in principal.scopes:
        return {}
    return dict(debug_headers(decision.detail))


def _model(body: Mapping[str, JsonValue], where: str) -> ModelId | None:
    model = body.get("model")
    if model is None:
        return None
    if not isinstance(model, str):
        raise InvalidRequest(f"'{where}model' must be a string.", f"{where}model")
    return ModelId(model)


def _risk(body: Mapping[str, JsonValue], known: Risk | None, where: str) -> Risk | None:
    """The class to assume for the planned action; a caller may raise what is known, never lower it."""
    stated = body.get("risk")
    if stated is None:
        return known
    if not isinstance(stated, str) or stated not in _RISKS:
        raise InvalidRequest(f"'{where}risk' must be one of R0, R1, R2, R3.", f"{where}risk")
    return _RISKS[stated] if known is None else known.at_least(_RISKS[stated])
