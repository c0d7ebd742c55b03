"""Liveness, readiness, metrics, models, and what the engines say of themselves."""

import asyncio
from collections.abc import Awaitable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from deployments.errors import UnknownModel
from deployments.gate.canary import Canary
from deployments.ingress.surface import ServedModel, Surface
from deployments.ports import Engine, ModelId, Principal, Scope
from serve_app.api.auth import Authorizer, presented_key
from serve_app.api.metrics import Counters
from serve_app.api.probes import within


def create_status_router(surface: Surface, counters: Counters, authorize: Authorizer) -> APIRouter:
    """Everything an operator's probe or a client's model picker asks for."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        probes: dict[str, Awaitable[object]] = {
            "ledger": surface.ledger.ready(),
            "router": surface.difficulty.ready(),
            "gate": surface.approvals.ready(),
            "audit": surface.audit.head(),
            "responses": surface.responses.ready(),
            **{f"engine:{model}": engine.info() for model, engine in surface.engines.items()},
        }
        states = dict(zip(probes, await asyncio.gather(*map(_answers, probes.values())), strict=True))
        ready = all(states.values())
        parts = {name: "ready" if state else "down" for name, state in states.items()}
        return JSONResponse({"status": "ready" if ready else "not ready", "parts": parts}, 200 if ready else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        told, queue, budgets, rollouts = await asyncio.gather(
            within(surface.audit.status()),
            within(surface.approvals.health()),
            within(surface.ledger.budgets(None)),
            within(surface.rollouts.rollouts()),
        )
        counters.gate.tell(queue, cast(Canary, surface.canary).last)
        counters.budgets.tell(budgets)
        counters.rollouts.tell(rollouts, surface.clock.now_ms())
        rendered = counters.render(surface.recorder, told)
        return Response(rendered, media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.api_route("/", methods=["GET", "HEAD"])
    async def probe() -> Response:
        return Response(status_code=200)  # Claude Code opens with an unauthenticated HEAD /

    @router.get("/v1/models")
    async def models(request: Request) -> JSONResponse:
        principal = await surface.journey.authenticate(presented_key(request.headers), Scope.INFERENCE)
        cards = [_card(each) for each in visible_models(surface, principal)]
        ids = [card["id"] for card in cards]
        # One page, with the words of both OpenAI's and Anthropic's list.
        ends = {"has_more": False, "first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
        return JSONResponse({"object": "list", "data": cards, **ends})

    @router.get("/v1/models/{model:path}")
    async def model(model: str, request: Request) -> JSONResponse:
        principal = await surface.journey.authenticate(presented_key(request.headers), Scope.INFERENCE)
        for each in visible_models(surface, principal):
            if each.model == model:
                return JSONResponse(_card(each))
        raise UnknownModel(model[:256])

    @router.get("/v1/admin/engines")
    async def engines(request: Request) -> JSONResponse:
        await authorize(request, Scope.ADMIN)
        both = [*surface.engines.items(), *surface.candidates.items()]
        infos = await asyncio.gather(*(_told(model, engine) for model, engine in both))
        return JSONResponse({"object": "list", "data": infos})

    return router


async def _told(model: ModelId, engine: Engine) -> dict[str, object]:
    info = await within(engine.info())
    return {"model": model, "state": "down"} if info is None else {**asdict(info), "state": "ready"}


async def _answers(probe: Awaitable[object]) -> bool:
    return bool(await within(probe))


def visible_models(surface: Surface, principal: Principal) -> list[ServedModel]:
    """What the key may use; "auto" first where a tier is among it."""
    own = [each for each in surface.models if principal.may_use(each.model)]
    if not own:
        return []
    routed = [each for each in own if each.tier is not None]
    if not routed:
        return own
    # "auto" answers with whatever the router chooses, so it promises the smallest window of all.
    auto = ServedModel(
        model=ModelId("auto"),
        tier="auto",
        kind="router",
        revision="",
        max_model_len=min(each.max_model_len for each in routed),
        demonstration=any(each.demonstration for each in routed),
        created=max(each.created for each in routed),
    )
    return [auto, *own]


def _card(served: ServedModel) -> dict[str, object]:
    return {
        "id": served.model,
        "object": "model",
        "type": "model",
        "created": served.created,
        "created_at": datetime.fromtimestamp(served.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "display_name": served.model,
        "owned_by": "gatehouse",
        "context_window": served.max_model_len,
        "max_model_len": served.max_model_len,
        "max_output_tokens": served.max_model_len,
        "tier": served.tier,
        "dialects": sorted(served.dialects),
        "fim": served.fim,
        "kind": served.kind,
        "revision": served.revision,
        "demonstration": served.demonstration,
    }
