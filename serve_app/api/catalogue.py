"""`GET /v1/codex/models.json`: the file that Codex takes as its `model_catalog_json`."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from deployments.ingress.surface import ServedModel, Surface
from deployments.ports import Dialect, Principal, Scope
from serve_app.api.auth import presented_key
from serve_app.clients.codex import CATALOGUE_PATH, catalogue
from serve_app.clients.values import AUTO, ClientModel


def create_catalogue_router(surface: Surface) -> APIRouter:
    """The catalogue of the models that the key may use. Scope `inference`."""
    router = APIRouter()

    @router.get(CATALOGUE_PATH)
    async def codex_models(request: Request) -> JSONResponse:
        principal = await surface.journey.authenticate(presented_key(request.headers), Scope.INFERENCE)
        return JSONResponse(catalogue(_models(surface.models, principal)))

    return router


def _models(served: tuple[ServedModel, ...], principal: Principal) -> list[ClientModel]:
    """What the key may use and Codex can speak to; "auto" first where a tier is among it."""
    own = [
        ClientModel(each.model, each.max_model_len, each.tier)
        for each in served
        if principal.may_use(each.model) and Dialect.RESPONSES in each.dialects
    ]
    routed = [each.context_window for each in own if each.tier is not None]
    # "auto" answers with whatever the router chooses, so it promises the smallest window of all.
    return [ClientModel(AUTO, min(routed), AUTO), *own] if routed else own
