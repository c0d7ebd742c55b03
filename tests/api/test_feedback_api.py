from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from deployments.errors import GatehouseError, Unauthenticated
from deployments.ports import FeedbackSource, FeedbackVerdict, KeyId, Principal, Scope, TenantId
from serve_app.api.auth import Authorizer
from serve_app.api.feedback import create_feedback_router
from tests.fakes_difficulty import DECISION, FixedDifficulty

KEYS = {
    "gh-agent": Principal(TenantId("acme"), KeyId("k1"), None, frozenset({Scope.INFERENCE})),
    "gh-person": Principal(TenantId("acme"), KeyId("k2"), "ann", frozenset({Scope.APPROVE})),
    "gh-other": Principal(TenantId("other"), KeyId("k3"), None, frozenset({Scope.INFERENCE})),
    "gh-audit": Principal(TenantId("acme"), KeyId("k4"), None, frozenset({Scope.AUDIT_READ})),
}
BODY = {"route_id": DECISION.route_id, "verdict": "wrong", "source": "human", "event_id": "ci-1"}


class Keys:
    async def authenticate(self, presented: str) -> Principal:
        if presented not in KEYS:
            raise Unauthenticated("No such key.")
        return KEYS[presented]


@pytest.fixture
def difficulty() -> FixedDifficulty:
    return FixedDifficulty(owner=TenantId("acme"))


@pytest.fixture
async def client(difficulty: FixedDifficulty) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    app.include_router(create_feedback_router(Authorizer(Keys()), difficulty))

    @app.exception_handler(GatehouseError)
    async def failed(_: object, error: GatehouseError) -> JSONResponse:
        return JSONResponse({"code": error.code, "param": getattr(error, "param", None)}, status_code=400)

    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gate") as made:
        yield made


async def say(client: httpx2.AsyncClient, key: str = "gh-agent", **fields: object) -> httpx2.Response:
    return await client.post("/v1/feedback", json={**BODY, **fields}, headers={"authorization": f"Bearer {key}"})


async def test_a_verdict_is_taken_with_the_trust_of_its_key(client: httpx2.AsyncClient, difficulty: FixedDifficulty):
    claimed = await say(client)
    assert claimed.json() == {"object": "feedback", **BODY, "weight": 0.3, "score": None}
    vouched = await say(client, "gh-person", score=0.25)
    assert (vouched.json()["weight"], vouched.json()["score"]) == (1.0, 0.25)
    first, second = difficulty.said
    assert (first.tenant, first.key_id, first.verdict, first.source) == (
        "acme", "k1", FeedbackVerdict.WRONG, FeedbackSource.HUMAN,
    )  # fmt: skip
    assert second.score == 0.25


async def test_a_turn_of_another_tenant_is_not_found(client: httpx2.AsyncClient, difficulty: FixedDifficulty):
    assert (await say(client, "gh-other")).json()["code"] == "not_found"
    assert not difficulty.said


async def test_a_key_without_a_scope_and_no_key_are_refused(client: httpx2.AsyncClient):
    assert (await say(client, "gh-audit")).json()["code"] == "permission_denied"
    assert (await client.post("/v1/feedback", json=BODY)).json()["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("field", "value"),
    [("verdict", "great"), ("verdict", None), ("source", "me"), ("event_id", ""), ("event_id", "a b"),
     ("event_id", "x" * 129), ("route_id", 7), ("score", 1.5), ("score", "1"), ("weight", 1.0)],
    ids=str,
)  # fmt: skip
async def test_a_bad_field_is_named(client: httpx2.AsyncClient, difficulty: FixedDifficulty, field: str, value: object):
    assert (await say(client, **{field: value})).json() == {"code": "invalid_value", "param": field}
    assert not difficulty.said


async def test_no_field_but_the_score_may_be_left_out(client: httpx2.AsyncClient):
    for field in BODY:
        body = {name: value for name, value in BODY.items() if name != field}
        reply = await client.post("/v1/feedback", json=body, headers={"authorization": "Bearer gh-agent"})
        assert reply.json() == {"code": "invalid_value", "param": field}
