"""What a tenant may do, over HTTP in every dialect, and that nobody else is touched by it; `/v1/admin/tenants`."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deployments.clock import FixedClock
from deployments.difficulty.deployment import DifficultyRouter
from deployments.difficulty.reading import read_chat, read_completion
from deployments.difficulty.settings import DifficultySettings
from deployments.gate.guard import Guard
from deployments.ingress.dialects.codecs import make_codecs
from deployments.ingress.journey import RoutedModel
from deployments.ingress.settings import IngressSettings
from deployments.ingress.surface import Surface
from deployments.ports import Dialect, GateProfile, Scope, Tier
from deployments.store import sqlite_url
from deployments.tenancy.policies import TierModel, routings
from deployments.tenancy.settings import TenancySettings, TenantSettings
from router.policy import ROUTING_V1
from serve_app.api.factory import create_api
from tests.api.answering import EMBEDDER, AnsweringEngine, shipped_classifier, surface_of
from tests.api.test_attacks import EVERY_POST
from tests.cascading import ASKED, RIGHT
from tests.cascading import world as cascading
from tests.fakes import BASE, STRONG, ScriptedEngine, World, json_reply
from tests.fakes_audit import InMemoryAudit
from tests.fakes_gate import InMemoryApprovals
from tests.unit.router.asks import diff

ACME, RIVAL, ADMIN = "gh-acme", "gh-rival", "gh-admin"
TOOL = {"name": "shell", "parameters": {"type": "object"}}
DANGEROUS = '{"command":"kubectl delete namespace staging"}'
RISKY = "Please drop the users table in production"
LARGE = f"Review this\n{diff(added=500)}"
PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "completions": "/v1/completions",
}
dialects = pytest.mark.parametrize("dialect", PATHS)


def settings(**tenants: Mapping[str, object]) -> TenancySettings:
    return TenancySettings(tenants={name: TenantSettings.model_validate(each) for name, each in tenants.items()})


def house(rules: Mapping[str, object], rival: Mapping[str, object] | None = None, **parts: Any) -> World:
    """A world whose tenant `acme` has these rules; `rival` has others or none."""
    world = World(
        parts.pop("engine", AnsweringEngine()),
        strong=parts.pop("strong", AnsweringEngine()),
        codecs=make_codecs(emulate_fim=True),
        extra_models=(
            RoutedModel(None, EMBEDDER, "r1", parts.pop("embedder_is_local", True), frozenset({Dialect.EMBEDDINGS})),
        ),
        classifier=shipped_classifier(),
        **parts,
    )
    return peopled(world, rules, rival)


def peopled(world: Any, rules: Mapping[str, object], rival: Mapping[str, object] | None = None) -> Any:
    world.ledger.settings = settings(acme=rules, rival=rival or {})
    world.ledger.add_key(ACME, tenant="acme")
    world.ledger.add_key(RIVAL, tenant="rival")
    world.ledger.add_key(ADMIN, Scope.ADMIN, tenant="house")
    return world


async def send(
    world: World, key: str, path: str, body: object = None, method: str = "POST", **headers: str
) -> httpx2.Response:
    transport = httpx2.ASGITransport(create_api(surface_of(world)), raise_app_exceptions=False)
    own = {"authorization": f"Bearer {key}", **headers}
    async with httpx2.AsyncClient(transport=transport, base_url="http://gatehouse", headers=own) as http:
        reply = await http.request(method, path, json=body)
    await world.surface().journey.drain()
    return reply


async def get(world: World, key: str, path: str) -> httpx2.Response:
    return await send(world, key, path, method="GET")


def turn(dialect: str, text: str = "hi", tools: bool = False, **more: object) -> dict[str, Any]:
    """A request in a dialect that says `text`."""
    said = {"role": "user", "content": text}
    body: dict[str, Any] = {
        "chat": {"messages": [said]},
        "responses": {"input": text},
        "messages": {"messages": [said], "max_tokens": 99},
        "completions": {"prompt": text},
    }[dialect]
    shapes: dict[str, Any] = {
        "chat": {"type": "function", "function": TOOL},
        "responses": {"type": "function", **TOOL},
        "messages": {"name": "shell", "input_schema": {"type": "object"}},
    }
    return {"model": "auto", **body, **({"tools": [shapes[dialect]]} if tools else {}), **more}


def refusal(path: str) -> int:
    """The status of a refusal."""
    return 400 if path == "/v1/responses" else 403


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EVERY_POST)
async def test_a_tenants_keys_reach_no_other_model_than_its_own(path: str) -> None:
    world = house({"allowed_models": [STRONG]})
    named = EMBEDDER if path == "/v1/embeddings" else BASE
    body = {**EVERY_POST[path], "model": named}
    refused = await send(world, ACME, path, body)
    assert refused.status_code == 404
    assert world.engine.calls == []
    assert (await send(world, RIVAL, path, body)).status_code == 200
    assert len(world.engine.calls) == 1


async def test_only_allowed_models_are_listed() -> None:
    world = house({"allowed_models": [BASE], "teams": {"none": {"allowed_models": [BASE]}}})
    world.ledger.add_key("gh-narrower", tenant="acme", models=frozenset({STRONG}))
    for key, seen in ((ACME, ["auto", BASE]), (RIVAL, ["auto", BASE, STRONG]), ("gh-narrower", [])):
        listed = (await get(world, key, "/v1/models")).json()["data"]
        assert [each["id"] for each in listed] == seen
        codex = (await get(world, key, "/v1/codex/models.json")).json()["models"]
        assert [each["slug"] for each in codex] == seen
        assert (await get(world, key, f"/v1/models/{STRONG}")).status_code == (200 if STRONG in seen else 404)


async def test_a_team_narrows_its_tenant() -> None:
    world = house({"teams": {"interns": {"allowed_models": [BASE]}}})
    world.ledger.add_key("gh-intern", tenant="acme", team="interns")
    world.ledger.add_key("gh-namesake", tenant="rival", team="interns")
    asked = turn("chat", model=STRONG)
    replies = {key: await send(world, key, PATHS["chat"], asked) for key in ("gh-intern", ACME, "gh-namesake")}
    assert [each.status_code for each in replies.values()] == [404, 200, 200]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"models": [BASE, STRONG]}, "models"),
        ({"models": [BASE], "team": "large"}, None),
        ({"models": [STRONG], "team": "large"}, "models"),
        ({"gate_profile": "observe"}, "gate_profile"),
        ({"gate_profile": "coding"}, None),
    ],
    ids=["model", "fits", "team", "profile", "profile fits"],
)
async def test_no_key_is_made_that_could_never_have_what_it_asks_for(
    more: dict[str, object], param: str | None
) -> None:
    world = house({"allowed_models": [BASE], "gate_profile": "coding"})
    world.surface()
    body, before = {"tenant": "acme", "name": "new", **more}, len(world.ledger.keys)
    reply = await send(world, ADMIN, "/v1/admin/keys", body)
    assert reply.status_code == (201 if param is None else 400)
    assert len(world.ledger.keys) == before + (param is None)
    if param is not None:
        assert reply.json()["error"]["param"] == param
        assert (await send(world, ADMIN, "/v1/admin/keys", {**body, "tenant": "rival"})).status_code == 201


# --- gate profile ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
async def test_no_key_is_judged_less_strictly_than_its_tenant_says(dialect: str, stream: bool) -> None:
    desk, log = InMemoryApprovals(), InMemoryAudit()
    gate: Any = Guard(shipped_classifier(), desk, log, FixedClock(), classify_timeout_s=30.0)
    engine = AnsweringEngine(DANGEROUS)
    world = house({"gate_profile": "ops"}, engine=engine, gate=gate, approvals=desk, audit=log)
    for tenant, held in (("acme", True), ("rival", False)):
        key = f"gh-{tenant}-observed"
        world.ledger.add_key(key, tenant=tenant, gate_profile=GateProfile.OBSERVE)
        reply = await send(world, key, PATHS[dialect], turn(dialect, tools=True, stream=stream))
        assert reply.status_code == 200
        assert ("gatehouse:held" in reply.text, "delete namespace" in reply.text) == (held, not held)
    classified = {each.tenant: each.data["profile"] for each in log.events if each.name == "tool_call.classified"}
    assert classified == {"acme": "ops", "rival": "observe"}


# --- routing ---------------------------------------------------------------------------------------------------------


class Reading(World):
    """A world whose journey reads what it is asked, for a router that decides by it."""

    def _make(self) -> Surface:
        surface = super()._make()
        readers = {**dict.fromkeys(Dialect, read_chat), Dialect.COMPLETIONS: read_completion}
        surface.journey._readers = surface.journey._cascade._readers = readers
        return surface


@pytest.fixture
async def routed(tmp_path: Path) -> AsyncIterator[Any]:
    """Makes worlds with the real router, whose tenant `acme` has these rules."""
    made: list[DifficultyRouter] = []

    async def make(rules: Mapping[str, object], rival: Mapping[str, object] | None = None, **parts: Any) -> Reading:
        served = (TierModel(BASE, Tier.BASE, True), TierModel(STRONG, Tier.STRONG, True))
        tiers = {Tier.BASE: (BASE, "r1"), Tier.STRONG: (STRONG, "r1")}
        router = DifficultyRouter(
            DifficultySettings(read_timeout_s=5), ROUTING_V1, tiers, sqlite_url(tmp_path / "router.db"),
            tenants=routings(settings(acme=rules).tenants, served), clock=FixedClock(),
        )  # fmt: skip
        await router.check_health()
        made.append(router)
        difficulty: Any = router
        world = Reading(
            AnsweringEngine(), strong=AnsweringEngine(), difficulty=difficulty, codecs=make_codecs(emulate_fim=True),
            classifier=shipped_classifier(), **parts,
        )  # fmt: skip
        return peopled(world, rules, rival)

    yield make
    for router in made:
        await router.close()


def went(reply: httpx2.Response) -> tuple[str | None, str | None, str | None]:
    """Model, effort and reason."""
    names = ("x-gatehouse-model", "x-gatehouse-effort", "x-gatehouse-route-reason")
    return tuple(reply.headers.get(name) for name in names)


@dialects
@pytest.mark.parametrize(
    ("rules", "parts"),
    [
        ({"routing": {"ceiling": {"tier": "20b"}}}, {}),
        ({"allowed_models": [BASE]}, {}),
        ({"teams": {"web": {"allowed_models": [BASE]}}}, {}),
        ({"egress": [EMBEDDER]}, {"strong_is_local": False}),
    ],
    ids=["ceiling", "models", "team", "egress"],
)
async def test_a_ceiling_lowers_what_may_be_lowered_and_refuses_the_rest(
    routed: Any, dialect: str, rules: dict[str, object], parts: dict[str, object]
) -> None:
    world = await routed(rules, rival={"egress": "all"}, **parts)
    world.ledger.add_key(ACME, tenant="acme", team="web")
    path = PATHS[dialect]
    lowered = await send(world, ACME, path, turn(dialect, LARGE))
    assert went(lowered) == (BASE, "medium", "tenant_deny")
    refused = await send(world, ACME, path, turn(dialect, RISKY))
    assert refused.status_code == refusal(path)
    assert "policy gives this request to a model that is not available here" in refused.text
    assert len(world.engine.calls) == 1
    assert world.strong.calls == []
    for text, reason in ((LARGE, "review_large"), (RISKY, "risk_needs_reasoning")):
        theirs = await send(world, RIVAL, path, turn(dialect, text))
        assert (went(theirs)[0], went(theirs)[2]) == (STRONG, reason)


@dialects
async def test_a_named_model_is_honoured_within_the_bounds_alone(routed: Any, dialect: str) -> None:
    capped, raised = (
        await routed({"routing": {"ceiling": {"tier": "20b"}}}),
        await routed({"routing": {"floor": {"tier": "120b"}}}),
    )
    for world, named, given, reason in (
        (capped, STRONG, BASE, "tenant_deny"), (raised, BASE, STRONG, "tenant_floor")
    ):  # fmt: skip
        mine, theirs = [await send(world, key, PATHS[dialect], turn(dialect, model=named)) for key in (ACME, RIVAL)]
        assert (went(mine)[0], went(mine)[2]) == (given, reason)
        assert (went(theirs)[0], went(theirs)[2]) == (named, "explicit_model")


@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
async def test_a_tenants_efforts_hold_beside_the_callers_wish(routed: Any, dialect: str) -> None:
    world = await routed({"routing": {"ceiling": {"effort": "medium"}, "default_effort": "medium"}})
    wishes: dict[str, dict[str, Any]] = {
        "chat": {"reasoning_effort": "high"},
        "responses": {"reasoning": {"effort": "high"}},
        "messages": {"output_config": {"effort": "high"}},
    }
    mine, theirs = [await send(world, key, PATHS[dialect], turn(dialect, **wishes[dialect])) for key in (ACME, RIVAL)]
    assert (went(mine)[1], went(theirs)[1]) == ("medium", "high")


async def test_an_explanation_names_what_the_tenant_changed(routed: Any) -> None:
    world = await routed({"routing": {"ceiling": {"tier": "20b"}, "escalation": {"large_lines": 7}}})
    found = {}
    for key in (ACME, RIVAL):
        reply = await send(world, key, PATHS["chat"], turn("chat", LARGE))
        found[key] = (await get(world, key, f"/v1/route/{reply.headers['x-gatehouse-route-id']}")).json()
    assert found[ACME]["detail"]["overlay"] == ["deny", "review.large_lines"]
    assert found[RIVAL]["detail"]["overlay"] == []
    assert found[ACME]["policy"] == found[RIVAL]["policy"]


@pytest.mark.parametrize("rules", [{"routing": {"ceiling": {"tier": "20b"}}}, {"allowed_models": [BASE]}], ids=str)
async def test_a_dry_run_knows_the_bounds_of_who_asks(routed: Any, rules: dict[str, object]) -> None:
    world = await routed(rules)
    for key, model, hold in ((ACME, BASE, "refuse"), (RIVAL, STRONG, None)):
        large, risky = [(await send(world, key, "/v1/route", turn("chat", text))).json() for text in (LARGE, RISKY)]
        assert (large["model"], large["hold"], risky["hold"]) == (model, None, hold)


async def test_the_records_have_the_digest_that_covers_the_overlay(routed: Any) -> None:
    digests = set[object]()
    for rules in ({}, {"routing": {"default_effort": "high"}}):
        world = await routed(rules)
        await send(world, ACME, PATHS["chat"], turn("chat"))
        await world.surface().recorder.drain()
        (decided,) = [each for each in world.audit.events if each.name == "route.decided"]
        digests.add(decided.data["policy_digest"])
    assert len(digests) == 2


async def test_a_cold_tier_is_not_left_for_one_above_the_ceiling(routed: Any) -> None:
    world = await routed({"routing": {"ceiling": {"tier": "20b"}}}, settings=IngressSettings(cold_fallback=True))
    world.engine.is_cold = True
    mine, theirs = [await send(world, key, PATHS["chat"], turn("chat")) for key in (ACME, RIVAL)]
    assert (went(mine)[0], went(theirs)[0]) == (BASE, STRONG)


# --- cascades --------------------------------------------------------------------------------------------------------


@dialects
async def test_cascades_can_be_off_for_a_tenant(routed: Any, dialect: str) -> None:
    world = await routed({"routing": {"cascade": False}})
    header = {"x-gatehouse-cascade": "true"}
    mine, theirs = [await send(world, key, PATHS[dialect], turn(dialect), **header) for key in (ACME, RIVAL)]
    names = ("x-gatehouse-cascade", "x-gatehouse-cascade-reason")
    assert [mine.headers.get(name) for name in names] == ["refused", "not_allowed"]
    assert theirs.headers["x-gatehouse-cascade"] != "refused"


# --- egress ----------------------------------------------------------------------------------------------------------

LISTED = {"egress": [STRONG, EMBEDDER]}


@pytest.mark.parametrize("path", EVERY_POST)
async def test_only_listed_models_elsewhere_are_reached(path: str) -> None:
    world = house(LISTED, strong_is_local=False, embedder_is_local=False)
    named = EMBEDDER if path == "/v1/embeddings" else STRONG
    body = {**EVERY_POST[path], "model": named}
    reached = world.engine if path == "/v1/embeddings" else world.strong
    refused = await send(world, RIVAL, path, body)
    assert refused.status_code == refusal(path)
    assert reached.calls == []
    assert (await send(world, ACME, path, body)).status_code == 200
    assert len(reached.calls) == 1


@pytest.mark.parametrize(
    ("egress", "status"),
    [("none", 403), (False, 403), ([EMBEDDER], 403), ([STRONG], 200), ("all", 200), (True, 200)],
    ids=["none", "false", "another", "listed", "all", "true"],
)
async def test_a_rule_is_nothing_everything_or_a_list(egress: object, status: int) -> None:
    world = house({"egress": egress}, strong_is_local=False, embedder_is_local=False)
    reply = await send(world, ACME, PATHS["chat"], turn("chat", model=STRONG))
    assert reply.status_code == status
    assert len(world.strong.calls) == (status == 200)


async def test_auto_goes_elsewhere_only_under_the_rule() -> None:
    world = house(LISTED, strong_is_local=False)
    world.difficulty.tier = Tier.STRONG
    for key, wished in ((ACME, None), (RIVAL, BASE)):
        await send(world, key, PATHS["chat"], turn("chat"))
        assert world.difficulty.asks[-1].model == wished
    assert len(world.strong.calls) == 1


async def test_a_cold_tier_is_left_only_for_one_that_may_be_reached() -> None:
    world = house(LISTED, strong_is_local=False, settings=IngressSettings(cold_fallback=True))
    world.engine.is_cold = True
    mine, theirs = [await send(world, key, PATHS["chat"], turn("chat")) for key in (ACME, RIVAL)]
    assert (went(mine)[0], went(theirs)[0]) == (STRONG, BASE)


async def test_a_cascade_rises_only_to_a_model_that_may_be_reached() -> None:
    world = peopled(cascading(strong_is_local=False), LISTED)
    mine, theirs = [await send(world, key, PATHS["chat"], ASKED) for key in (ACME, RIVAL)]
    assert mine.json()["choices"][0]["message"]["content"] == RIGHT
    assert theirs.headers["x-gatehouse-cascade-reason"] == "forbidden"
    assert len(world.strong.calls) == 1


async def test_a_review_is_asked_only_where_words_may_go() -> None:
    review = '{"summary":"It deletes.","concerns":["All of it."],"rollback":null}'
    desk, log = InMemoryApprovals(), InMemoryAudit()
    gate: Any = Guard(shipped_classifier(), desk, log, FixedClock(), classify_timeout_s=30.0)
    call = {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": DANGEROUS}}
    base = ScriptedEngine(json_reply(None, [call], "tool_calls"))
    world = house(
        LISTED, engine=base, strong=ScriptedEngine(json_reply(review)), gate=gate, approvals=desk, audit=log,
        strong_is_local=False,
    )  # fmt: skip
    for key in (ACME, RIVAL):
        await send(world, key, PATHS["chat"], turn("chat", tools=True))
    base.scripts = [json_reply(review)]
    mine, theirs = sorted(desk.found.values(), key=lambda each: each.proposal.tenant)
    reviews = [
        (await send(world, key, f"/v1/approvals/{approval.approval_id}/review")).json()["model"]
        for key, approval in ((ACME, mine), (RIVAL, theirs))
    ]
    assert reviews == [STRONG, BASE]
    assert len(world.strong.calls) == 1


# --- /v1/admin/tenants -----------------------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "allowed_models": [STRONG, BASE],
    "gate_profile": "coding",
    "egress": [STRONG],
    "limits": {"requests_per_minute": 600},
    "share": {"weight": 300, "priority": "high"},
    "teams": {"web": {"allowed_models": [BASE], "tokens_per_minute": 9}},
    "models": {STRONG: {"concurrent_requests": 2}},
    "routing": {"ceiling": {"effort": "medium"}, "cascade": False},
}
NONE = {"requests_per_minute": None, "tokens_per_minute": None, "concurrent_requests": None}


async def test_an_administrator_sees_what_holds_for_every_tenant() -> None:
    world = house(FULL)
    world.ledger.add_key("gh-web", tenant="acme", team="web")
    listed = (await get(world, ADMIN, "/v1/admin/tenants")).json()
    assert listed["object"] == "list"
    assert [each["id"] for each in listed["data"]] == ["acme", "house", "rival"]
    acme = listed["data"][0]
    assert acme == {
        "object": "tenant",
        "id": "acme",
        "configured": True,
        "keys": 3,  # with the one that every world has
        "allowed_models": [STRONG, BASE],
        "gate_profile": "coding",
        "egress": {"rule": "listed", "models": [STRONG]},
        "limits": {**NONE, "requests_per_minute": 600},
        "share": {"weight": 300, "priority": "high"},
        "teams": [{"id": "web", "keys": 1, "allowed_models": [BASE], "limits": {**NONE, "tokens_per_minute": 9}}],
        "models": {STRONG: {**NONE, "concurrent_requests": 2}},
        "routing": {"ceiling": {"effort": "medium"}, "cascade": False},
    }
    assert (await get(world, ADMIN, "/v1/admin/tenants/acme")).json() == acme
    other = (await get(world, ADMIN, "/v1/admin/tenants/house")).json()
    assert (other["configured"], other["keys"], other["egress"]) == (False, 1, {"rule": "none", "models": []})
    assert (other["allowed_models"], other["gate_profile"], other["routing"]) == (None, "observe", {})


async def test_a_tenant_that_nobody_has_is_not_found() -> None:
    world = house(FULL)
    for name in ("nobody", "ACME", "acme%20", "x" * 5000):
        reply = await get(world, ADMIN, f"/v1/admin/tenants/{name}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
        assert len(reply.text) < 1000


@pytest.mark.parametrize("path", ["/v1/admin/tenants", "/v1/admin/tenants/acme", "/v1/admin/tenants/nobody"])
async def test_tenants_are_for_administrators_alone(path: str) -> None:
    world = house(FULL)
    world.ledger.add_key("gh-others", *(scope for scope in Scope if scope is not Scope.ADMIN), tenant="acme")
    for key, status in (("gh-others", 403), ("gh-nobody", 401)):
        reply = await get(world, key, path)
        assert reply.status_code == status
        assert STRONG not in reply.text
