"""What a key may do within its tenant and its team: the rules, their settings, and the ledger that holds to them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.clock import FixedClock
from deployments.errors import InvalidRequest
from deployments.ports import (
    ALL_EGRESS,
    NO_EGRESS,
    Effort,
    Egress,
    GateProfile,
    KeySpec,
    ModelId,
    NewKey,
    Principal,
    RateLimits,
    TeamView,
    TenantId,
    Tier,
)
from deployments.store import open_store, sqlite_url
from deployments.tenancy.ledger import KeyLedger
from deployments.tenancy.policies import (
    NO_TEAM,
    STRICTNESS,
    TierModel,
    allowed,
    faults,
    refuse_beyond,
    rights_of,
    routings,
    stricter,
)
from deployments.tenancy.settings import TeamSettings, TenancySettings, TenantSettings
from deployments.tenancy.store import TenancyStore
from router.tenants import TenantRouting
from serve_app.config import ROOT, AppConfig, ConfigError, parse_config
from tests.fakes_audit import InMemoryAudit

SMALL, LARGE, FAR = ModelId("demo-20b"), ModelId("demo-120b"), ModelId("far")
SERVED = (TierModel(SMALL, Tier.BASE, True), TierModel(LARGE, Tier.STRONG, True), TierModel(FAR, None, False))
ACME, RIVAL = TenantId("acme"), TenantId("rival")


def tenant(**fields: object) -> TenantSettings:
    return TenantSettings.model_validate(fields)


def team(*models: str) -> TeamSettings:
    return TeamSettings(allowed_models=models or None)


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "of_team", "of_tenant", "left"),
    [
        (None, None, None, None),
        (None, None, {SMALL}, {SMALL}),
        (None, {SMALL}, None, {SMALL}),
        ({SMALL}, None, None, {SMALL}),
        ({SMALL, LARGE}, {LARGE, FAR}, {LARGE}, {LARGE}),
        ({SMALL}, None, {LARGE}, set()),
        (None, {SMALL}, {LARGE}, set()),
    ],
    ids=["nothing", "tenant", "team", "key", "all three", "none of the key's", "none of the team's"],
)
def test_each_list_narrows_what_the_others_leave(
    own: set[ModelId] | None, of_team: set[str] | None, of_tenant: set[str] | None, left: set[ModelId] | None
) -> None:
    settings = tenant(allowed_models=None if of_tenant is None else sorted(of_tenant))
    found = rights_of(None if own is None else frozenset(own), GateProfile.OPS, settings, team(*sorted(of_team or ())))
    assert found.models == left


_LISTS = st.none() | st.frozensets(st.sampled_from([SMALL, LARGE, FAR]), min_size=1)


@given(_LISTS, _LISTS, _LISTS, st.sampled_from(STRICTNESS), st.sampled_from(STRICTNESS))
def test_no_key_has_more_than_its_tenant_or_its_team_allows(
    own: frozenset[ModelId] | None,
    of_team: frozenset[ModelId] | None,
    of_tenant: frozenset[ModelId] | None,
    profile: GateProfile,
    floor: GateProfile,
) -> None:
    settings = tenant(allowed_models=None if of_tenant is None else sorted(of_tenant), gate_profile=floor.value)
    found = rights_of(own, profile, settings, team(*sorted(of_team or ())))
    everything = frozenset({SMALL, LARGE, FAR})
    expected = everything
    for each in (own, of_team, of_tenant):
        expected &= everything if each is None else each
    assert (everything if found.models is None else found.models) == expected
    assert found.gate_profile in (profile, floor)
    assert STRICTNESS.index(found.gate_profile) >= max(STRICTNESS.index(profile), STRICTNESS.index(floor))


def test_every_profile_has_its_place() -> None:
    assert {*STRICTNESS} == {*GateProfile}
    assert stricter(GateProfile.OBSERVE, GateProfile.CODING) is GateProfile.CODING
    assert stricter(GateProfile.OPS, GateProfile.CODING) is GateProfile.OPS


def test_a_key_that_asks_for_more_than_it_could_have_is_refused() -> None:
    settings = tenant(allowed_models=[SMALL, LARGE], gate_profile="coding")
    of_team = team(SMALL)
    for spec, at, param, says in (
        (KeySpec(ACME, "k", models=frozenset({FAR})), NO_TEAM, "models", "tenant 'acme' may not use the model 'far'"),
        (KeySpec(ACME, "k", models=frozenset({LARGE}), team="web"), of_team, "models", "team 'web' of tenant 'acme'"),
        (KeySpec(ACME, "k", gate_profile=GateProfile.OBSERVE), NO_TEAM, "gate_profile", "at least the gate profile"),
    ):
        with pytest.raises(InvalidRequest, match=says) as caught:
            refuse_beyond(spec, settings, at)
        assert caught.value.param == param
    for spec, at in (
        (KeySpec(ACME, "k", models=frozenset({LARGE})), NO_TEAM),
        (KeySpec(ACME, "k", team="web"), of_team),
        (KeySpec(ACME, "k", gate_profile=GateProfile.CODING), NO_TEAM),
    ):
        refuse_beyond(spec, settings, at)
    refuse_beyond(KeySpec(RIVAL, "k", models=frozenset({FAR}), gate_profile=GateProfile.OBSERVE), tenant())


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        (True, ALL_EGRESS),
        ("all", ALL_EGRESS),
        (False, NO_EGRESS),
        ("none", NO_EGRESS),
        ([FAR, LARGE], Egress(frozenset({FAR, LARGE}))),
    ],
    ids=["true", "all", "false", "none", "listed"],
)  # fmt: skip
def test_egress_is_nothing_everything_or_a_list(said: object, rule: Egress) -> None:
    assert tenant(egress=said).to_egress() == rule
    assert tenant().to_egress() == NO_EGRESS


@pytest.mark.parametrize(
    "fields",
    [
        {"egress": "some"},
        {"egress": 1},
        {"egress": []},
        {"allowed_models": []},
        {"allowed_models": "demo-20b"},
        {"gate_profile": "lenient"},
        {"routing": {"floor": {"tier": "120b"}, "ceiling": {"tier": "20b"}}},
        {"routing": {"floor": {"effort": "high"}, "default_effort": "low"}},
        {"routing": {"default_effort": "high", "ceiling": {"effort": "medium"}}},
        {"routing": {"escalation": {"failures": 0}}},
        {"routing": {"floors": {}}},
        {"teams": {"web": {"gate_profile": "ops"}}},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        tenant(**fields)


def test_the_order_of_a_list_is_that_of_the_file() -> None:
    """A set has none, and the digest of the configuration must not change from one start to the next."""
    assert tenant(allowed_models=[SMALL, LARGE], egress=[LARGE, FAR]).model_dump(mode="json")["egress"] == [LARGE, FAR]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"allowed_models": ["demo-20B"]}, "tenancy.tenants.acme.allowed_models: no model is called 'demo-20B'"),
        ({"egress": ["fra"]}, "tenancy.tenants.acme.egress: no model is called 'fra'"),
        ({"teams": {"web": {"allowed_models": ["fra"]}}}, "teams.web.allowed_models: no model is called 'fra'"),
        (
            {"allowed_models": [SMALL], "teams": {"web": {"allowed_models": [LARGE]}}},
            "teams.web.allowed_models: the tenant itself may not use 'demo-120b'",
        ),
        (
            {"allowed_models": [SMALL], "routing": {"floor": {"tier": "120b"}}},
            "routing.floor.tier: allowed_models has no model of 120b",
        ),
        (
            {"allowed_models": [LARGE], "routing": {"ceiling": {"tier": "20b"}}},
            "routing.ceiling.tier: allowed_models has no model of 20b",
        ),
    ],
    ids=["model", "egress", "team", "team beyond", "floor", "ceiling"],
)
def test_rules_that_do_not_fit_together_are_named(fields: dict[str, object], says: str) -> None:
    (found,) = faults({"acme": tenant(**fields), "rival": tenant(allowed_models=[SMALL], egress=[FAR])}, SERVED)
    assert says in found


def test_a_floor_needs_a_model() -> None:
    floor = {"acme": tenant(routing={"floor": {"tier": "120b"}})}
    assert list(faults(floor, SERVED)) == []
    assert list(faults(floor, SERVED[:1])) == ["tenancy.tenants.acme.routing.floor.tier: no model serves 120b"]


def test_the_router_gets_what_is_different_for_somebody() -> None:
    tenants = {
        "plain": tenant(),
        "small": tenant(allowed_models=[SMALL, FAR]),
        "careful": tenant(routing={"floor": {"tier": "120b"}, "default_effort": "high"}),
        "own": tenant(routing={"ceiling": {"effort": "medium"}, "escalation": {"large_files": 3}, "cascade": False}),
    }
    assert routings(tenants, SERVED) == {
        "careful": TenantRouting(floor_tier=Tier.STRONG, default_effort=Effort.HIGH),
        "own": TenantRouting(ceiling_effort=Effort.MEDIUM, large_files=3, cascade=False),
    }


def test_without_a_larger_tier_nobody_has_a_ceiling() -> None:
    """Else a policy that lets 20b do everything there would refuse those tenants alone."""
    tenants = {"capped": tenant(routing={"ceiling": {"tier": "20b", "effort": "medium"}})}
    assert routings(tenants, SERVED[:1]) == {"capped": TenantRouting(ceiling_effort=Effort.MEDIUM)}


# --- the configuration -----------------------------------------------------------------------------------------------


def config(**tenancy: object) -> AppConfig:
    def engine(model: str) -> dict[str, object]:
        return {"kind": "synthetic", "model": model, "revision": "r1"}

    far = {
        "kind": "openai", "model": "demo-embed", "revision": "r1", "base_url": "https://far.example.com",
        "paths": ["/v1/embeddings"], "local": False, "allowed_hosts": ["far.example.com"],
    }  # fmt: skip
    models = [
        {"tier": "20b", "engine": engine("demo-20b")},
        {"tier": "120b", "engine": engine("demo-120b")},
        {"engine": far, "embeddings": True},
    ]
    return parse_config({"models": models, "tenancy": tenancy}, "here")


def test_the_example_is_a_configuration() -> None:
    example: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "tenants.example.yaml").read_text(encoding="utf-8"))
    loaded = config(**example["tenancy"])
    tenants = loaded.tenancy.tenants
    assert sorted(tenants) == ["agency", "platform", "shop"]
    assert tenants["platform"].to_egress() == Egress(frozenset({"demo-embed"}))
    assert allowed(tenants["shop"], tenants["shop"].teams["interns"]) == {SMALL}
    assert tenants["agency"].gate_profile is GateProfile.OPS
    assert routings(tenants, loaded.tier_models).keys() == {"agency", "platform"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "set tenancy.tenants.NAME.egress"),
        ({"egress": ["demo-20b"]}, "set tenancy.tenants.NAME.egress"),
        ({"egress": ["elsewhere"]}, "no model is called 'elsewhere'"),
        ({"egress": "all", "allowed_models": ["gone"]}, "no model is called 'gone'"),
    ],
    ids=["nobody", "another", "unknown", "model"],
)
def test_a_configuration_that_does_not_fit_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config(tenants={"acme": fields})


# --- the ledger ------------------------------------------------------------------------------------------------------

SETTINGS = TenancySettings(
    tenants={
        "acme": tenant(
            allowed_models=[SMALL, LARGE],
            gate_profile="coding",
            egress=[FAR],
            limits={"requests_per_minute": 9},
            teams={"web": {"allowed_models": [SMALL], "concurrent_requests": 2}, "idle": {}},
            models={LARGE: {"tokens_per_minute": 5}},
            routing={"ceiling": {"tier": "20b"}, "cascade": False},
        )
    }
)


class World:
    """A ledger over a real SQLite file; its rules can change from one start to the next."""

    def __init__(self, directory: Path) -> None:
        self.clock = FixedClock()
        self.store = TenancyStore(open_store(sqlite_url(directory / "tenancy.db")))
        self.ledger = self.under(SETTINGS)

    def under(self, settings: TenancySettings) -> KeyLedger:
        return KeyLedger(self.store, b"p" * 32, self.clock, InMemoryAudit(), settings)

    async def key(self, tenant: TenantId = ACME, **fields: Any) -> NewKey:
        return await self.ledger.create_key(KeySpec(tenant, "agent", **fields))

    async def principal(self, tenant: TenantId = ACME, **fields: Any) -> Principal:
        return await self.ledger.authenticate((await self.key(tenant, **fields)).presented)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.ledger.open()
    yield world
    await world.ledger.drain()
    await world.store.close()


async def test_a_principal_is_within_its_tenant_and_its_team(world: World) -> None:
    mine = await world.principal(gate_profile=GateProfile.CODING)
    assert (mine.models, mine.gate_profile) == ({SMALL, LARGE}, GateProfile.CODING)
    assert mine.egress == Egress(frozenset({FAR}))
    assert (await world.principal(team="web")).models == {SMALL}
    assert (await world.principal(models=frozenset({LARGE}))).models == {LARGE}
    theirs = await world.principal(RIVAL, gate_profile=GateProfile.OBSERVE)
    assert (theirs.models, theirs.gate_profile, theirs.egress) == (None, GateProfile.OBSERVE, NO_EGRESS)


@pytest.mark.parametrize(
    "fields",
    [
        {"models": frozenset({FAR})},
        {"models": frozenset({SMALL, LARGE}), "team": "web"},
        {"gate_profile": GateProfile.OBSERVE},
    ],
    ids=["model", "team", "profile"],
)
async def test_no_key_is_made_beyond_them(world: World, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await world.key(**fields)
    assert await world.ledger.list_keys(ACME) == []
    assert await world.key(RIVAL, **fields)


async def test_a_rule_that_came_later_holds_for_older_keys_and_voters(world: World) -> None:
    world.ledger = world.under(TenancySettings())
    old = await world.key(models=frozenset({LARGE, FAR}), gate_profile=GateProfile.OBSERVE, team="web")
    world.ledger = world.under(SETTINGS)
    now = await world.ledger.authenticate(old.presented)
    assert (now.models, now.gate_profile) == (frozenset(), GateProfile.CODING)
    assert await world.ledger.holders([old.record.key_id]) == [now]


async def test_every_tenant_is_shown_with_what_holds_for_it(world: World) -> None:
    gone = await world.key(team="web")
    await world.key(team="web", ttl_s=10)
    await world.key(team="new")
    await world.key(RIVAL)
    await world.ledger.revoke_key(gone.record.key_id)
    acme, rival = await world.ledger.tenants()
    assert (acme.tenant, acme.configured, acme.keys) == ("acme", True, 2)
    assert (acme.models, acme.gate_profile, acme.egress) == ({SMALL, LARGE}, "coding", Egress(frozenset({FAR})))
    assert acme.limits == RateLimits(requests_per_minute=9)
    assert acme.model_limits == {LARGE: RateLimits(tokens_per_minute=5)}
    assert acme.routing == {"ceiling": {"tier": "20b"}, "cascade": False}
    assert acme.teams == (
        TeamView("idle", frozenset({SMALL, LARGE}), RateLimits(), 0),
        TeamView("new", frozenset({SMALL, LARGE}), RateLimits(), 1),
        TeamView("web", frozenset({SMALL}), RateLimits(concurrent_requests=2), 1),
    )
    assert (rival.tenant, rival.configured, rival.keys, rival.models) == ("rival", False, 1, None)
    assert (rival.gate_profile, rival.egress, rival.routing, rival.teams) == ("observe", NO_EGRESS, {}, ())
    world.clock.advance(10_000)
    assert [each.keys for each in await world.ledger.tenants()] == [1, 1]
