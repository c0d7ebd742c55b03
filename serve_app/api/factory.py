"""The HTTP app: the routes that exist, and nothing else."""

from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from deployments.errors import GatehouseError, InvalidRequest
from deployments.gate.canary import Canary
from deployments.gate.judges import judges_of
from deployments.gate.shadow import ShadowedClassifier
from deployments.ingress.surface import AsgiApp, Surface
from deployments.ports import Dialect
from serve_app.api.approvals import create_approvals_router
from serve_app.api.audit import create_audit_router
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import Intake
from serve_app.api.budgets import create_budgets_router
from serve_app.api.catalogue import create_catalogue_router
from serve_app.api.errors import caller_of, error_response, no_such_url, wrong_method
from serve_app.api.feedback import create_feedback_router
from serve_app.api.gate_health import create_gate_health_router
from serve_app.api.generate import Generation, create_generate_router
from serve_app.api.keys import create_keys_router
from serve_app.api.metrics import Counters
from serve_app.api.middleware import Edge
from serve_app.api.openapi import create_openapi_router
from serve_app.api.operations import create_operations_router
from serve_app.api.permits import create_permits_router
from serve_app.api.responses import create_responses_router
from serve_app.api.reviews import create_reviews_router
from serve_app.api.rollouts import create_rollouts_router
from serve_app.api.route import create_route_router
from serve_app.api.status import create_status_router
from serve_app.api.tenants import create_tenants_router
from serve_app.api.throttle import Throttle
from serve_app.api.tokens import create_tokens_router
from serve_app.api.usage import create_usage_router


def create_api(surface: Surface, *, behind_serve: bool = False) -> AsgiApp:
    """The app of one ingress replica; tests give it fakes. `surface.meter` must be a `Counters`.

    `behind_serve`: Serve's proxy writes `x-request-id` itself, so the app does not.
    """
    counters = cast(Counters, surface.meter)
    app = FastAPI(title="Gatehouse", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    authorize = Authorizer(surface.ledger)
    limits = surface.settings
    intake = Intake(limits.max_body_bytes, limits.max_held_bytes, limits.body_timeout_s)
    server = Generation(surface, counters, intake)

    async def on_gatehouse_error(request: Request, error: Exception) -> Response:
        reply = error_response(error, caller_of(request))
        counters.refused(request.url.path, reply.status_code, error)
        return reply

    async def on_invalid(request: Request, error: Exception) -> Response:
        return await on_gatehouse_error(request, invalid(cast(RequestValidationError, error)))

    async def on_http_error(request: Request, error: Exception) -> Response:
        failure = cast(HTTPException, error)
        if failure.status_code == 405:
            return wrong_method(request, (failure.headers or {}).get("Allow", ""))
        return no_such_url(request)

    app.add_exception_handler(Exception, on_gatehouse_error)  # a bug: 500, a request id, and nothing else
    app.add_exception_handler(GatehouseError, on_gatehouse_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_error)
    app.include_router(create_generate_router(server))
    app.include_router(create_responses_router(surface, server))
    app.include_router(create_tokens_router(surface, server))
    app.include_router(create_catalogue_router(surface))
    app.include_router(create_openapi_router())
    judges = judges_of(surface.classifier)
    if isinstance(judges.configured, ShadowedClassifier):
        shadowed = judges.configured
        counters.watch_shadow(lambda: shadowed.counts)
    canary = cast(Canary, surface.canary)
    app.include_router(create_status_router(surface, counters, authorize))
    app.include_router(create_gate_health_router(surface.approvals, canary))
    app.include_router(create_keys_router(authorize, surface.ledger))
    app.include_router(create_budgets_router(authorize, surface.ledger, surface.clock))
    app.include_router(create_usage_router(authorize, surface.ledger))
    app.include_router(create_tenants_router(authorize, surface.ledger))
    app.include_router(create_audit_router(authorize, surface.audit))
    app.include_router(create_operations_router(authorize, surface.audit, surface.clock, surface.keeps_bodies))
    app.include_router(create_rollouts_router(authorize, surface.rollouts))
    chat = surface.readers[Dialect.CHAT]
    screened, choose = surface.journey.screened, surface.journey.choices_of
    app.include_router(
        create_route_router(
            authorize, surface.difficulty, chat, intake, surface.models, screened=screened, choose=choose
        )
    )
    app.include_router(create_feedback_router(authorize, surface.difficulty, surface.revisions))
    app.include_router(create_reviews_router(authorize, surface.approvals, surface.advisor))
    app.include_router(create_approvals_router(authorize, surface.approvals, judges, surface.revisions))
    app.include_router(create_permits_router(authorize, surface, judges))
    guarded = Throttle(app, surface.clock, counters.refused, limits.wrong_keys_per_minute, limits.forwarded_hops)
    return Edge(guarded, sends_request_id=not behind_serve)


def invalid(error: RequestValidationError | ValidationError) -> InvalidRequest:
    """A parameter that FastAPI refused, by its name."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    return InvalidRequest(f"Invalid value for '{path}': {first['msg']}.", path)
