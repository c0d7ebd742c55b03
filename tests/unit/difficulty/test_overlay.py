"""What the settings of tenants change of the routing policy: the merge, its bounds, and what the router makes of it."""

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import deployments.difficulty.deployment as deployment_module
from deployments.clock import FixedClock
from deployments.difficulty.deployment import DifficultyRouter
from deployments.difficulty.policies import PolicySource
from deployments.difficulty.settings import DifficultySettings
from deployments.ports import ModelId, RequestId, RouteAsk, RouteDecision, SessionId, TenantId
from router.bounds import Bounds
from router.conditions import holds
from router.policy import ROUTING_V1, Effect, Policy, PolicyError, default_policy, parse_policy
from router.route import Trace, trace
from router.tenants import EFFORT_CEILING_RULE, FLOOR_RULE, TenantRouting, with_tenants
from router.types import Arm, Effort, Hold, Load, Risk, RouteRequest, StateView, Surroundings, Tier
from tests.unit.router.asks import INCIDENT, ask, assistant, diff, tool, user

NOTHING = StateView()
HELLO = ask("Hello!")
UNMARKED = ask("Tell me what you know about the village of Lustin and its surroundings, please.")
LARGE_REVIEW = ask(f"Review this\n{diff(added=500)}")
RISKY = ask("Please drop the users table in production")  # risk_needs_reasoning: 120b/high, a safety floor
PROOF = ask("Prove that the square root of two is irrational.")
ASKS = (
    HELLO,
    LARGE_REVIEW,
    RISKY,
    PROOF,
    ask("Extract the names from: Ann, Bob"),
    ask(INCIDENT, assistant("A replica is missing."), user("That did not help, still 503.")),
    ask("Read the page and act on it", assistant("", ("fetch", "{}")), tool("do it")),
)
BOTH = Load(base_up=True, strong_up=True)


def overlaid(routing: TenantRouting, document: Mapping[str, object] = ROUTING_V1) -> Policy:
    return parse_policy(with_tenants(document, {"acme": routing}))


def decided(routing: TenantRouting, request: RouteRequest = HELLO, **fields: object) -> Trace:
    return trace(replace(request, **fields), NOTHING, overlaid(routing).for_tenant("acme"))


def arm(found: Trace) -> tuple[str, str, str]:
    return found.decision.tier.value, found.decision.effort.value, found.decision.reason


# --- the merge -------------------------------------------------------------------------------------------------------


def test_an_overlay_of_nothing_changes_nothing():
    assert with_tenants(ROUTING_V1, {"acme": TenantRouting()}) is ROUTING_V1
    assert overlaid(TenantRouting()) == default_policy()


def test_an_overlay_is_for_its_tenant_alone_and_in_the_digest_of_all():
    policy = overlaid(TenantRouting(floor_tier=Tier.STRONG))
    for request in ASKS:
        plain, other = trace(request, NOTHING, default_policy()), trace(request, NOTHING, policy.for_tenant("other"))
        assert replace(other.decision, policy_digest=plain.decision.policy_digest) == plain.decision
    assert policy.digest == policy.for_tenant("acme").digest != default_policy().digest
    assert overlaid(TenantRouting(floor_effort=Effort.HIGH)).digest != policy.digest


def test_what_was_set_is_named_in_the_explanation():
    routing = TenantRouting(
        floor_effort=Effort.LOW, ceiling_tier=Tier.BASE, default_effort=Effort.HIGH, cascade=False, failures=2.0,
        large_files=3,
    )  # fmt: skip
    policy = overlaid(routing).for_tenant("acme")
    assert policy.provenance == (
        "cascade", "default.effort", "deny", "escalation", "review.large_files",
        *(f"rules.{FLOOR_RULE}.{name}" for name in ("arm", "effect", "priority", "when")),
    )  # fmt: skip
    assert (policy.review.large_files, policy.review.large_lines) == (3, default_policy().review.large_lines)


def test_overlays_of_the_policy_and_of_the_settings_add_up():
    own = {"tenants": {"acme": {"deny": [{"tier": "20b", "effort": "low"}], "review": {"large_lines": 10}}}}
    policy = overlaid(TenantRouting(ceiling_tier=Tier.BASE, large_lines=20), {**ROUTING_V1, **own}).for_tenant("acme")
    assert {str(each) for each in policy.deny} == {"20b/low", "120b/low", "120b/medium", "120b/high"}
    assert policy.review.large_lines == 20  # the settings have the last word


def test_the_document_is_left_as_it_was():
    document = copy.deepcopy({**ROUTING_V1, "tenants": {"acme": {"review": {"large_lines": 10}}}})
    before = copy.deepcopy(document)
    with_tenants(document, {"acme": TenantRouting(ceiling_tier=Tier.BASE, large_lines=20, floor_effort=Effort.LOW)})
    assert document == before


@pytest.mark.parametrize(
    ("routing", "overlay", "says"),
    [
        (TenantRouting(floor_tier=Tier.STRONG, ceiling_tier=Tier.BASE), {}, "floor 120b lies above the ceiling 20b"),
        (TenantRouting(floor_tier=Tier.STRONG), {"pin": {"tier": "20b"}}, "pins it to 20b, below its floor 120b"),
        (TenantRouting(ceiling_tier=Tier.BASE), {"pin": {"tier": "120b"}}, "pins it to 120b, above its ceiling 20b"),
        (TenantRouting(ceiling_effort=Effort.LOW), {"pin": {"effort": "high"}}, "above its ceiling low"),
        (
            TenantRouting(ceiling_tier=Tier.BASE),
            {"rules": {"mine": {"priority": 1, "when": "always", "effect": "floor", "arm": {"tier": "120b"}}}},
            "lies below the floor 'mine', which always applies",
        ),
        (
            TenantRouting(floor_tier=Tier.STRONG),
            {"rules": {"mine": {"priority": 1, "when": "task_chat", "effect": "ceiling", "arm": {"tier": "20b"}}}},
            "lies above the ceiling 'mine'",
        ),
        (
            TenantRouting(floor_tier=Tier.STRONG),
            {"rules": {FLOOR_RULE: {"priority": 1, "when": "always", "effect": "floor", "arm": {"effort": "low"}}}},
            f"a rule '{FLOOR_RULE}' of its own",
        ),
        (TenantRouting(failures=0.1), {}, "escalation.failures"),
    ],
    ids=["bounds", "pin-floor", "pin-ceiling", "pin-effort", "always-floor", "ceiling-rule", "taken", "range"],
)  # fmt: skip
def test_what_can_be_shown_to_contradict_is_refused(routing: TenantRouting, overlay: dict[str, object], says: str):
    with pytest.raises(PolicyError, match=says):
        overlaid(routing, {**ROUTING_V1, "tenants": {"acme": overlay}})


# --- what becomes of a turn ------------------------------------------------------------------------------------------


def test_a_floor_holds_whatever_the_caller_names():
    assert arm(decided(TenantRouting(floor_tier=Tier.STRONG), UNMARKED)) == ("120b", "medium", FLOOR_RULE)
    named = decided(TenantRouting(floor_tier=Tier.STRONG), UNMARKED, requested_tier=Tier.BASE)
    assert arm(named) == ("120b", "medium", FLOOR_RULE)
    assert "explicit_model_overridden" in named.decision.reasons
    effort = decided(TenantRouting(floor_effort=Effort.HIGH), requested_effort=Effort.LOW)
    assert arm(effort)[:2] == ("20b", "high")


def test_a_ceiling_of_size_lowers_what_is_no_safety_floor():
    assert arm(decided(TenantRouting(), LARGE_REVIEW))[0] == "120b"
    found = decided(TenantRouting(ceiling_tier=Tier.BASE), LARGE_REVIEW)
    assert arm(found) == ("20b", "medium", "tenant_deny")
    assert "review_large" in found.decision.reasons
    assert found.decision.hold is None
    named = decided(TenantRouting(ceiling_tier=Tier.BASE), requested_tier=Tier.STRONG)
    assert arm(named)[0] == "20b"
    assert named.decision.reason == "tenant_deny"


def test_a_safety_floor_above_the_ceiling_is_a_refusal_and_never_the_smaller_model():
    found = decided(TenantRouting(ceiling_tier=Tier.BASE), RISKY)
    assert found.decision.hold is Hold.REFUSE
    assert found.decision.tier is Tier.STRONG
    assert {"risk_needs_reasoning", "tenant_deny"} <= {*found.decision.reasons}


def test_a_ceiling_of_effort_gives_way_to_floors_alone():
    routing = TenantRouting(ceiling_effort=Effort.MEDIUM)
    assert arm(decided(TenantRouting(), PROOF))[:2] == ("20b", "high")
    assert arm(decided(routing, PROOF))[:2] == ("20b", "medium")
    assert arm(decided(routing, requested_effort=Effort.HIGH))[:2] == ("20b", "medium")
    assert arm(decided(routing, RISKY)) == ("120b", "high", "risk_needs_reasoning")
    assert dict(decided(routing, RISKY).rules)[EFFORT_CEILING_RULE] is False


def test_a_floor_lifts_a_turn_above_its_ceiling_of_effort_no_further_than_it_must():
    found = decided(TenantRouting(ceiling_effort=Effort.LOW), LARGE_REVIEW, requested_effort=Effort.HIGH)
    assert arm(found) == ("120b", "medium", "review_large")


def test_a_default_effort_is_for_turns_that_ask_for_none():
    routing = TenantRouting(default_effort=Effort.HIGH)
    assert arm(decided(TenantRouting(), UNMARKED))[:2] == ("20b", "medium")
    assert arm(decided(routing, UNMARKED))[:2] == ("20b", "high")
    assert arm(decided(routing, UNMARKED, requested_effort=Effort.LOW))[:2] == ("20b", "low")


def test_failures_count_from_where_the_tenant_says():
    failed = ask(INCIDENT, assistant("A replica is missing."), user("That did not help, still 503."))
    for failures, expected in ((None, "120b"), (0.5, "120b"), (3.0, "20b")):
        assert arm(decided(TenantRouting(failures=failures), failed))[0] == expected
    state = StateView(failures_on_base=0.8)
    policies = {failures: overlaid(TenantRouting(failures=failures)).for_tenant("acme") for failures in (0.7, 1.0)}
    again = ask(INCIDENT)
    found = {failures: trace(again, state, policy).decision.tier for failures, policy in policies.items()}
    assert found == {0.7: Tier.STRONG, 1.0: Tier.BASE}


def test_a_review_is_large_from_where_the_tenant_says():
    small = ask(f"Review this\n{diff(added=50)}")
    assert "review_large" not in decided(TenantRouting(), small).signals.names
    assert arm(decided(TenantRouting(large_lines=40), small)) == ("120b", "medium", "review_large")


# --- for every overlay -----------------------------------------------------------------------------------------------

ROUTINGS = st.builds(
    TenantRouting,
    floor_tier=st.sampled_from([None, *Tier]),
    floor_effort=st.sampled_from([None, *Effort]),
    ceiling_tier=st.sampled_from([None, *Tier]),
    ceiling_effort=st.sampled_from([None, *Effort]),
    default_effort=st.sampled_from([None, *Effort]),
    cascade=st.booleans(),
    failures=st.none() | st.sampled_from([0.3, 0.7, 1.0, 2.0, 3.0]),
    large_lines=st.none() | st.integers(1, 1000),
)
STATES = st.builds(
    StateView,
    failures_on_base=st.sampled_from([0.0, 0.4, 1.0, 2.0]),
    failures_on_strong=st.sampled_from([0.0, 1.0]),
    latched_tier=st.sampled_from([None, *Tier]),
    last_tier=st.sampled_from([None, *Tier]),
    last_effort=st.sampled_from([None, *Effort]),
    size_steps=st.integers(0, 1),
    effort_steps=st.integers(0, 1),
    known=st.booleans(),
)
REQUESTS = st.builds(
    replace,
    st.sampled_from(ASKS),
    requested_tier=st.sampled_from([None, *Tier]),
    requested_effort=st.sampled_from([None, *Effort]),
    trusted_risk=st.sampled_from([None, Risk.R0, Risk.R1, Risk.R2, Risk.R3]),
    untrusted_content=st.booleans(),
)
LOADS = st.builds(
    Load,
    base_up=st.booleans(),
    strong_up=st.booleans(),
    strong_failing=st.booleans(),
    strong_cold=st.booleans(),
    base_full=st.booleans(),
    spills=st.booleans(),
    base_window=st.sampled_from([None, 1, 100_000]),
    strong_window=st.sampled_from([None, 1, 100_000]),
)


def contradicts(routing: TenantRouting) -> bool:
    floors, ceilings = (routing.floor_tier, routing.floor_effort), (routing.ceiling_tier, routing.ceiling_effort)
    return any(low and high and low.rank > high.rank for low, high in zip(floors, ceilings, strict=True))


@given(ROUTINGS, REQUESTS, STATES, LOADS)
def test_no_overlay_lowers_a_safety_floor_or_lifts_a_turn_above_its_ceiling(
    routing: TenantRouting, request: RouteRequest, state: StateView, load: Load
):
    if contradicts(routing):
        with pytest.raises(PolicyError):
            overlaid(routing)
        return
    found = trace(request, state, overlaid(routing).for_tenant("acme"), around=Surroundings(load=load))
    decision = found.decision
    if decision.hold is not None:
        return
    shipped = default_policy()
    fired = [rule for rule in shipped.rules if holds(rule.when, found.signals.names)]
    assert Bounds.of(fired).is_safe(Arm(decision.tier, decision.effort))
    if routing.ceiling_tier is not None:
        assert decision.tier.rank <= routing.ceiling_tier.rank


@given(ROUTINGS, REQUESTS, STATES)
def test_where_every_tier_is_up_both_bounds_hold_and_only_safety_is_refused(
    routing: TenantRouting, request: RouteRequest, state: StateView
):
    if contradicts(routing):
        return
    policy = overlaid(routing).for_tenant("acme")
    found = trace(request, state, policy, around=Surroundings(load=BOTH))
    decision, fired = found.decision, [rule for rule in policy.rules if holds(rule.when, found.signals.names)]
    asked = Bounds.of([rule for rule in fired if rule.effect is Effect.FLOOR])
    if decision.hold is not None:
        assert routing.ceiling_tier is Tier.BASE
        assert asked.safety_tier is Tier.STRONG
        return
    if routing.floor_tier is not None:
        assert decision.tier.rank >= routing.floor_tier.rank
    if routing.floor_effort is not None:
        assert decision.effort.rank >= routing.floor_effort.rank
    if routing.ceiling_effort is not None:
        assert decision.effort.rank <= max(routing.ceiling_effort.rank, asked.floor_effort.rank)


@given(ROUTINGS, REQUESTS, STATES)
def test_nobody_else_is_routed_otherwise(routing: TenantRouting, request: RouteRequest, state: StateView):
    if contradicts(routing):
        return
    policy, plain = overlaid(routing), default_policy()
    mine, theirs = trace(request, state, plain), trace(request, state, policy.for_tenant("other"))
    assert replace(theirs.decision, policy_digest=plain.digest) == mine.decision
    assert (theirs.rules, theirs.stages) == (mine.rules, mine.stages)


def test_every_field_is_drawn_or_looked_at_elsewhere():
    """A new setting must be thought of here."""
    assert {each.name for each in fields(TenantRouting)} == {
        "floor_tier", "floor_effort", "ceiling_tier", "ceiling_effort", "default_effort", "cascade", "failures",
        "large_lines", "large_files", "risky_lines",
    }  # fmt: skip


# --- in force --------------------------------------------------------------------------------------------------------

CAPPED = {"acme": TenantRouting(ceiling_tier=Tier.BASE, cascade=False)}


def write(path: Path, document: object) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(yaml.safe_dump(document))
    fresh.replace(path)


def test_a_newer_policy_takes_the_overlays_with_it(tmp_path: Path):
    path = tmp_path / "policy.yaml"
    write(path, ROUTING_V1)
    source = PolicySource(ROUTING_V1, path, CAPPED)
    write(path, {**ROUTING_V1, "name": "routing-other"})
    assert source.look()
    assert source.current.name == "routing-other"
    assert source.current.for_tenant("acme").deny
    assert not source.current.for_tenant("other").deny


def test_a_newer_policy_that_an_overlay_contradicts_does_not_take_over(tmp_path: Path):
    path = tmp_path / "policy.yaml"
    write(path, ROUTING_V1)
    source = PolicySource(ROUTING_V1, path, CAPPED)
    before = source.current
    write(path, {**ROUTING_V1, "tenants": {"acme": {"pin": {"tier": "120b"}}}})
    assert not source.look()
    assert source.current == before
    assert "above its ceiling 20b" in (source.refused or "")


@pytest.fixture
async def router(store_url: str) -> AsyncIterator[DifficultyRouter]:
    tiers = {Tier.BASE: ("demo-20b", "r1"), Tier.STRONG: ("demo-120b", "r7")}
    made = DifficultyRouter(
        DifficultySettings(read_timeout_s=5), ROUTING_V1, tiers, store_url, tenants=CAPPED, clock=FixedClock()
    )
    await made.check_health()
    yield made
    await made.close()


async def routed(
    router: DifficultyRouter, tenant: str, request: RouteRequest, model: str | None = None
) -> RouteDecision:
    wished = None if model is None else ModelId(model)
    return await router.route(
        RouteAsk(RequestId("r"), TenantId(tenant), SessionId(""), request, wished, explained=True)
    )


async def test_the_router_serves_each_tenant_by_its_own_overlay(router: DifficultyRouter):
    mine, theirs = await asyncio.gather(*(routed(router, each, LARGE_REVIEW) for each in ("acme", "rival")))
    assert (mine.model, mine.reason, mine.cascade, mine.may_rise) == ("demo-20b", "tenant_deny", False, False)
    assert (theirs.model, theirs.reason, theirs.cascade, theirs.may_rise) == ("demo-120b", "review_large", True, True)
    assert mine.policy_digest == theirs.policy_digest
    assert mine.detail is not None
    assert {"deny", "cascade"} <= {*mine.detail.provenance}
    assert (await router.explain(TenantId("acme"), mine.route_id)).detail == mine.detail


@pytest.mark.parametrize(
    ("usable", "request_", "model", "hold"),
    [
        (frozenset({Tier.BASE}), LARGE_REVIEW, "demo-20b", None),
        (frozenset({Tier.BASE}), RISKY, "demo-120b", Hold.REFUSE),
        (frozenset({Tier.STRONG}), HELLO, "demo-120b", None),
        (frozenset(Tier), LARGE_REVIEW, "demo-120b", None),
        (None, LARGE_REVIEW, "demo-120b", None),
    ],
    ids=["lowered", "refused", "raised", "both", "all"],
)
async def test_only_tiers_that_may_answer_are_chosen(
    router: DifficultyRouter, usable: frozenset[Tier] | None, request_: RouteRequest, model: str, hold: Hold | None
):
    made = RouteAsk(RequestId("r"), TenantId("rival"), SessionId(""), request_, usable=usable)
    found = await router.route(made)
    assert (found.model, found.hold) == (model, hold)
    assert found.may_rise is (usable is None or Tier.STRONG in usable)


async def test_the_router_refuses_rather_than_lower_a_safety_floor(router: DifficultyRouter):
    mine, theirs = await asyncio.gather(*(routed(router, each, RISKY) for each in ("acme", "rival")))
    assert (mine.hold, mine.tier) == (Hold.REFUSE, Tier.STRONG)
    assert (theirs.hold, theirs.model) == (None, "demo-120b")


async def test_a_router_that_fails_keeps_to_the_overlay(router: DifficultyRouter, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> Trace:
        raise RuntimeError("broken")

    monkeypatch.setattr(deployment_module, "trace", broken)
    named = [await routed(router, each, HELLO, "demo-120b") for each in ("acme", "rival")]
    assert [(each.model, each.hold, each.may_rise) for each in named] == [
        ("demo-20b", None, False), ("demo-120b", None, True)
    ]  # fmt: skip
    risky = [await routed(router, each, RISKY) for each in ("acme", "rival")]
    assert [(each.tier, each.hold) for each in risky] == [(Tier.STRONG, Hold.REFUSE), (Tier.STRONG, None)]
