from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from deployments.difficulty.reading import read_chat
from deployments.errors import GatehouseError, Unauthenticated
from deployments.ingress.session import session_of
from deployments.ports import KeyId, ModelId, Principal, Risk, Role, Scope, TenantId, Turn
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import Intake
from serve_app.api.route import create_route_router
from tests.fakes_difficulty import DECISION, FixedDifficulty

KEYS = {
    "gh-acme": Principal(TenantId("acme"), KeyId("k1"), None, frozenset({Scope.INFERENCE})),
    "gh-narrow": Principal(
        TenantId("acme"), KeyId("k2"), None, frozenset({Scope.INFERENCE}), frozenset({ModelId("demo-120b")})
    ),
    "gh-other": Principal(TenantId("other"), KeyId("k3"), None, frozenset({Scope.INFERENCE})),
    "gh-audit": Principal(TenantId("acme"), KeyId("k4"), None, frozenset({Scope.AUDIT_READ})),
}
BODY = {"model": "auto", "messages": [{"role": "user", "content": "Hello!"}]}


class Keys:
    async def authenticate(self, presented: str) -> Principal:
        if presented not in KEYS:
            raise Unauthenticated("No such key.")
        return KEYS[presented]


@pytest.fixture
def difficulty() -> FixedDifficulty:
    return FixedDifficulty(served=frozenset({"auto", "demo-20b"}))


@pytest.fixture
async def client(difficulty: FixedDifficulty) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(create_route_router(Authorizer(Keys()), difficulty, read_chat, Intake(2**20, 2**20, 60)))

    @app.exception_handler(GatehouseError)
    async def failed(_: object, error: GatehouseError) -> JSONResponse:
        return JSONResponse({"code": error.code, "param": getattr(error, "param", None)}, status_code=400)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gate", headers=key("gh-acme")) as made:
        yield made


def key(presented: str) -> dict[str, str]:
    return {"authorization": f"Bearer {presented}"}


async def test_a_dry_run_answers_with_the_decision(client: httpx.AsyncClient, difficulty: FixedDifficulty):
    reply = await client.post("/v1/route", json={**BODY, "risk": "R2"}, headers={"x-session-id": "s1"})
    assert reply.status_code == 200
    assert reply.json() == {
        "object": "route.decision",
        "dry_run": True,
        "id": "route_fixed",
        "model": "demo-20b",
        "tier": "20b",
        "effort": "medium",
        "revision": "r1",
        "reason": "default",
        "reasons": ["default"],
        "difficulty": 0.25,
        "policy": DECISION.policy_digest,
    }
    (asked,) = difficulty.asks
    assert asked.dry_run
    # the same id as the journey gives the conversation: a dry run sees what the session has latched
    expected = session_of(KEYS["gh-acme"], {"x-session-id": "s1"}, {}, {})
    assert (asked.tenant, asked.session, asked.model) == ("acme", expected, "auto")
    assert asked.request.turns == (Turn(Role.USER, "Hello!"),)
    assert asked.request.trusted_risk is Risk.R2


async def test_the_session_may_be_the_cache_key(client: httpx.AsyncClient, difficulty: FixedDifficulty):
    await client.post("/v1/route", json={**BODY, "prompt_cache_key": "c1"})
    await client.post("/v1/route", json=BODY)
    named = {**BODY, "prompt_cache_key": "c1"}
    expected = [session_of(KEYS["gh-acme"], {}, body, body) for body in (named, BODY)]
    assert [asked.session for asked in difficulty.asks] == expected


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        (b"{", "invalid_value", None),
        (b"\xff", "invalid_value", None),
        (b"[" * 100_000, "invalid_value", None),
        (b"[]", "invalid_value", None),
        (b"{}", "invalid_value", "messages"),
        (b'{"messages": [], "model": 3}', "invalid_value", "model"),
        (b'{"messages": [], "risk": "R9"}', "invalid_value", "risk"),
        (b'{"messages": [], "model": "gpt-4"}', "model_not_found", "model"),
    ],
)
async def test_bad_bodies(client: httpx.AsyncClient, content: bytes, code: str, param: str | None):
    reply = await client.post("/v1/route", content=content)
    assert reply.json() == {"code": code, "param": param}


async def test_a_model_that_is_not_granted_does_not_exist(client: httpx.AsyncClient, difficulty: FixedDifficulty):
    difficulty.decision = DECISION.__class__(
        **{
            **{name: getattr(DECISION, name) for name in DECISION.__slots__},
            "reason": "explicit_model",
            "reasons": ("explicit_model",),
        }
    )
    named = {**BODY, "model": "demo-20b"}
    assert (await client.post("/v1/route", json=named)).status_code == 200
    refused = await client.post("/v1/route", json=named, headers=key("gh-narrow"))
    assert refused.json()["code"] == "model_not_found"


async def test_keys_and_scopes(client: httpx.AsyncClient):
    for presented, code in (("gh-none", "invalid_api_key"), ("gh-audit", "permission_denied")):
        for method, path in (("POST", "/v1/route"), ("GET", "/v1/route/route_fixed")):
            reply = await client.request(method, path, headers=key(presented), json=BODY)
            assert reply.json()["code"] == code


async def test_an_explanation_is_for_its_tenant_only(client: httpx.AsyncClient, difficulty: FixedDifficulty):
    difficulty.owner = TenantId("acme")
    found = (await client.get("/v1/route/route_fixed")).json()
    assert (found["object"], found["id"], found["task"], found["risk"]) == (
        "route.explanation",
        "route_fixed",
        "general",
        "R0",
    )
    assert found["rules"] == [{"id": "review_large", "fired": False}]
    assert found["contributions"] == [{"name": "bias", "value": -1.0}]
    assert (await client.get("/v1/route/route_fixed", headers=key("gh-other"))).json()["code"] == "not_found"
    assert (await client.get("/v1/route/route_unknown")).json()["code"] == "not_found"
