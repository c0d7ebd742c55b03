"""`GET /v1/codex/models.json`: the file that Codex takes as its `model_catalog_json`."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from deployments.ingress.surface import Surface
from deployments.ports import Dialect, Scope
from serve_app.api.auth import presented_key
from serve_app.api.status import visible_models
from serve_app.clients.codex import CATALOGUE_PATH, catalogue
from serve_app.clients.values import ClientModel


def create_catalogue_router(surface: Surface) -> APIRouter:
    """The catalogue of the models that the key may use. Scope `inference`."""
    router = APIRouter()

    @router.get(CATALOGUE_PATH)
    async def codex_models(request: Request) -> JSONResponse:
        principal = await surface.journey.authenticate(presented_key(request.headers), Scope.INFERENCE)
        models = [
            ClientModel(each.model, each.max_model_len, each.tier)
            for each in visible_models(surface, principal)
            if Dialect.RESPONSES in each.dialects
        ]
        return JSONResponse(catalogue(models))

    return router
