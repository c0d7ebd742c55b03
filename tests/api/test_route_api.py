from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from deployments.difficulty.reading import read_chat
from deployments.errors import GatehouseError, Unauthenticated
from deployments.ingress.revisions import Choice, Choices
from deployments.ingress.screening import Question
from deployments.ingress.session import session_of
from deployments.ports import (
    Dialect,
    JsonValue,
    KeyId,
    ModelId,
    Principal,
    RequestId,
    Risk,
    Role,
    Scope,
    TenantId,
    Turn,
)
from router.explain import DEBUG_HEADERS
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import Intake
from serve_app.api.route import MOST_QUESTIONS, create_route_router
from tests.fakes_difficulty import DECISION, FixedDifficulty

KEYS = {
    "gh-acme": Principal(TenantId("acme"), KeyId("k1"), None, frozenset({Scope.INFERENCE})),
    "gh-narrow": Principal(
        TenantId("acme"), KeyId("k2"), None, frozenset({Scope.INFERENCE}), frozenset({ModelId("demo-120b")})
    ),
    "gh-other": Principal(TenantId("other"), KeyId("k3"), None, frozenset({Scope.INFERENCE})),
    "gh-admin": Principal(TenantId("acme"), KeyId("k5"), None, frozenset({Scope.INFERENCE, Scope.ADMIN})),
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
def chosen() -> dict[str, Choices]:
    """What sessions get, by the name in their header."""
    return {}


@pytest.fixture
async def client(difficulty: FixedDifficulty, chosen: dict[str, Choices]) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()

    async def screened(principal: Principal, _: RequestId, __: Dialect, body: Mapping[str, JsonValue]) -> Question:
        return Question(principal, body)

    def choose(_: Principal, headers: Mapping[str, str], *__: object) -> Choices:
        return chosen.get(headers.get("x-session-id", ""), Choices())

    intake = Intake(2**20, 2**20, 60)
    app.include_router(
        create_route_router(Authorizer(Keys()), difficulty, read_chat, intake, screened=screened, choose=choose)
    )

    @app.exception_handler(GatehouseError)
    async def failed(_: object, error: GatehouseError) -> JSONResponse:
        return JSONResponse({"code": error.code, "param": getattr(error, "param", None)}, status_code=400)

    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gate", headers=key("gh-acme")) as made:
        yield made


def key(presented: str) -> dict[str, str]:
    return {"authorization": f"Bearer {presented}"}


async def test_a_dry_run_answers_with_the_decision(client: httpx2.AsyncClient, difficulty: FixedDifficulty):
    reply = await client.post("/v1/route", json={**BODY, "risk": "R2"}, headers={"x-session-id": "s1"})
    assert reply.status_code == 200
    answer = reply.json()
    detail = answer.pop("detail")
    assert answer == {
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
        "snapshot": None,
        "mode": "shadow",
        "confidence": 0.5,
        "propensity": 1.0,
        "explored": False,
        "eligible": False,
        "hand_over": False,
        "hold": None,
        "router_revision": None,
        "prompt_revision": None,
        "policy_revision": None,
    }
    assert detail["shadow"] == {"arm": "20b/medium", "reason": "default"}
    assert {each["cost_is"] for each in detail["alternatives"]} == {"configured"}
    assert detail["rules"][0]["signals"] == {"risk_r2_or_more": False, "needs_reasoning": True}
    assert detail["counterfactual"]
    assert "index" not in reply.text  # a word of the question that the detail was made from
    (asked,) = difficulty.asks
    assert asked.dry_run
    # the same id as the journey gives the conversation: a dry run sees what the session has latched
    expected = session_of(KEYS["gh-acme"], {"x-session-id": "s1"}, {}, {})
    assert (asked.tenant, asked.session, asked.model) == ("acme", expected, "auto")
    assert asked.request.turns == (Turn(Role.USER, "Hello!"),)
    assert asked.request.trusted_risk is Risk.R2


async def test_the_session_may_be_the_cache_key(client: httpx2.AsyncClient, difficulty: FixedDifficulty):
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
async def test_bad_bodies(client: httpx2.AsyncClient, content: bytes, code: str, param: str | None):
    reply = await client.post("/v1/route", content=content)
    assert reply.json() == {"code": code, "param": param}


async def test_a_model_that_is_not_granted_does_not_exist(client: httpx2.AsyncClient, difficulty: FixedDifficulty):
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


async def test_keys_and_scopes(client: httpx2.AsyncClient):
    for presented, code in (("gh-none", "invalid_api_key"), ("gh-audit", "permission_denied")):
        for method, path in (("POST", "/v1/route"), ("GET", "/v1/route/route_fixed")):
            reply = await client.request(method, path, headers=key(presented), json=BODY)
            assert reply.json()["code"] == code


async def test_an_explanation_is_for_its_tenant_only(client: httpx2.AsyncClient, difficulty: FixedDifficulty):
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


async def test_a_batch_is_answered_in_order(client: httpx2.AsyncClient, difficulty: FixedDifficulty):
    questions = [{**BODY, "risk": risk} for risk in ("R0", "R3", "R1")]
    reply = await client.post("/v1/route", json={"requests": questions})
    assert (reply.json()["object"], len(reply.json()["data"])) == ("list", 3)
    assert {each["dry_run"] for each in reply.json()["data"]} == {True}
    assert [asked.request.trusted_risk for asked in difficulty.asks] == [Risk.R0, Risk.R3, Risk.R1]
    assert all(asked.dry_run for asked in difficulty.asks)


@pytest.mark.parametrize(
    ("questions", "param"),
    [
        ([], "requests"),
        ([BODY] * (MOST_QUESTIONS + 1), "requests"),
        ("all", "requests"),
        ([BODY, 7], "requests[1]"),
        ([BODY, {"messages": 1}], "requests[1].messages"),
        ([{**BODY, "risk": "R7"}], "requests[0].risk"),
        ([{**BODY, "model": []}], "requests[0].model"),
        ([{"requests": [BODY]}], "requests[0].messages"),
    ],
)
async def test_bad_batches(client: httpx2.AsyncClient, questions: object, param: str):
    reply = await client.post("/v1/route", json={"requests": questions})
    assert reply.json() == {"code": "invalid_value", "param": param}


DEBUG = {"x-gatehouse-route-debug": "true"}


async def test_debug_headers_are_for_administrators_who_ask(client: httpx2.AsyncClient):
    shown = await client.post("/v1/route", json=BODY, headers={**key("gh-admin"), **DEBUG})
    assert [name for name in shown.headers if name.startswith("x-gatehouse-route-")] == list(DEBUG_HEADERS)
    assert "review_large=false" in shown.headers["x-gatehouse-route-rules"]
    for headers in (DEBUG, key("gh-admin"), {**key("gh-admin"), "x-gatehouse-route-debug": "yes"}):
        hidden = await client.post("/v1/route", json=BODY, headers=headers)
        assert hidden.status_code == 200
        assert not [name for name in hidden.headers if name.startswith("x-gatehouse-route-")]


async def test_an_explanation_has_its_detail(client: httpx2.AsyncClient, difficulty: FixedDifficulty):
    difficulty.owner = TenantId("acme")
    found = (await client.get("/v1/route/route_fixed")).json()
    assert (found["dry_run"], found["detail"]["task"]) == (False, "general")
    assert sum(term["value"] for term in found["detail"]["contributions"]) < 0


async def test_an_explanation_names_the_revisions_of_all_that_had_two(
    client: httpx2.AsyncClient, difficulty: FixedDifficulty
):
    difficulty.owner = TenantId("acme")
    names = ("revision", "router_revision", "prompt_revision", "policy_revision")
    plain = (await client.get("/v1/route/route_fixed")).json()
    assert [plain[name] for name in names] == ["r1", None, None, None]
    difficulty.decision = replace(DECISION, router_revision="s2", policy_revision="g2")
    found = (await client.get("/v1/route/route_fixed")).json()
    assert [found[name] for name in names] == ["r1", "s2", None, "g2"]


async def test_a_dry_run_asks_for_the_revisions_of_its_session(
    client: httpx2.AsyncClient, difficulty: FixedDifficulty, chosen: dict[str, Choices]
):
    chosen["mine"] = Choices(
        {ModelId("demo-20b"): Choice("e2")}, {ModelId("demo-20b"): Choice("p2")}, Choice("s2"), Choice("g2")
    )
    for session in ("mine", "yours"):
        await client.post("/v1/route", json=BODY, headers={"x-session-id": session})
    mine, yours = difficulty.asks
    assert (mine.revisions, mine.prompts) == ({"demo-20b": "e2"}, {"demo-20b": "p2"})
    assert (mine.snapshot, mine.policy) == ("s2", "g2")
    assert (yours.revisions, yours.prompts, yours.snapshot, yours.policy) == ({}, {}, "", "")
