import asyncio
import logging
import pickle
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Protocol

import pytest
import yaml
from pydantic import ValidationError

import deployments.difficulty.deployment as deployment_module
from deployments.clock import FixedClock
from deployments.difficulty.deployment import DifficultyRouter
from deployments.difficulty.settings import DifficultySettings
from deployments.errors import NotFound, UnknownModel
from deployments.ports import (
    Attempt,
    AttemptOutcome,
    Effort,
    Hold,
    ModelId,
    RequestId,
    Risk,
    RouteAsk,
    RouteId,
    RouteRequest,
    SessionId,
    TenantId,
    Tier,
)
from deployments.rollout.artefacts import scan
from deployments.rollout.plan import revision_of
from deployments.rollouts import ROUTER_TARGET, Kind
from router.policy import ROUTING_V1, PolicyError, default_policy
from router.snapshot import parse
from router.types import Mode
from tests.unit.router.asks import INCIDENT, ask, assistant, tool
from tests.unit.router.learned import KNOWN, two_heads_bytes

TIERS = {Tier.BASE: ("demo-20b", "r1"), Tier.STRONG: ("demo-120b", "r7")}
BASE_ONLY = {Tier.BASE: ("demo-20b", "r1")}
DELETE = "Delete the production database"
WITHOUT_120B = {**ROUTING_V1, "without_strong": {"unserved": {"safety": "base", "rules": "base"}}}
SETTINGS = DifficultySettings(read_timeout_s=5, reload_s=0.01)


class Make(Protocol):
    def __call__(
        self, tiers: Mapping[Tier, tuple[str, str]] = TIERS, clock: FixedClock | None = None, **options: object
    ) -> Awaitable[DifficultyRouter]: ...


@pytest.fixture
async def a_router(store_url: str) -> AsyncIterator[Make]:
    made: list[DifficultyRouter] = []

    async def make(
        tiers: Mapping[Tier, tuple[str, str]] = TIERS,
        clock: FixedClock | None = None,
        policy: Mapping[str, object] = ROUTING_V1,
        **options: object,
    ) -> DifficultyRouter:
        settings = options.pop("settings", SETTINGS)
        router = DifficultyRouter(settings, policy, tiers, store_url, clock=clock or FixedClock(), **options)
        await router.check_health()
        made.append(router)
        return router

    yield make
    for router in made:
        await router.close()


def routed(request: RouteRequest, model: str | None = None, **fields: object) -> RouteAsk:
    made: dict[str, object] = {"tenant": TenantId("acme"), "session": SessionId("s1"), **fields}
    return RouteAsk(RequestId("req_1"), request=request, model=None if model is None else ModelId(model), **made)


def failed(event: str = "e1") -> Attempt:
    return Attempt(event, TenantId("acme"), SessionId("s1"), Tier.BASE, AttemptOutcome.FAILED)


@pytest.mark.parametrize("model", [None, "auto"])
async def test_the_choice_is_ours(a_router: Make, model: str | None):
    decision = await (await a_router()).route(routed(ask("Hello!"), model))
    assert (decision.model, decision.revision, decision.reason) == ("demo-20b", "r1", "default")
    assert decision.policy_digest == default_policy().digest


async def test_an_explicit_model_is_honoured(a_router: Make):
    decision = await (await a_router()).route(routed(ask("Hello!"), "demo-120b"))
    assert (decision.model, decision.tier, decision.revision) == ("demo-120b", Tier.STRONG, "r7")
    assert decision.reason == "explicit_model"


async def test_the_revision_that_the_session_gets_is_that_of_the_decision_and_of_its_explanation(a_router: Make):
    router = await a_router()
    given = {ModelId("demo-20b"): "r2", ModelId("another"): "r9"}
    decision = await router.route(routed(ask("Hello!"), revisions=given))
    assert (decision.model, decision.revision) == ("demo-20b", "r2")
    await router.flush()
    assert (await router.explain(TenantId("acme"), decision.route_id)).decision.revision == "r2"


async def test_an_explicit_model_does_not_get_below_a_floor(a_router: Make):
    decision = await (await a_router()).route(routed(ask("Delete the production database"), "demo-20b"))
    assert (decision.model, decision.effort) == ("demo-120b", Effort.HIGH)
    assert decision.reasons == ("risk_needs_reasoning", "explicit_model_overridden")


async def test_an_unknown_model_is_refused(a_router: Make):
    with pytest.raises(UnknownModel):
        await (await a_router()).route(routed(ask("Hello!"), "gpt-4"))


async def test_a_diagnosis_that_failed_once_escalates_and_the_session_stays_there(a_router: Make):
    clock = FixedClock()
    router = await a_router(clock=clock)
    assert (await router.route(routed(ask(INCIDENT)))).tier is Tier.BASE
    await router.observe(failed())
    await router.observe(failed())
    assert (await router.route(routed(ask(INCIDENT)))).reason == "incident_failed_once"
    assert (await router.route(routed(ask("What is the capital of Peru?")))).reason == "session_latched"
    clock.advance(SETTINGS.idle_release_s * 1_000)
    assert (await router.route(routed(ask("What is the capital of Peru?")))).reason == "default"


async def test_a_hang_up_is_no_failure_and_every_other_bad_end_is_one(a_router: Make):
    router = await a_router()
    harmless = {AttemptOutcome.ABORTED}
    for number, outcome in enumerate(each for each in AttemptOutcome if each is not AttemptOutcome.OK):
        session = SessionId(f"s{number}")
        await router.observe(Attempt("e1", TenantId("acme"), session, Tier.BASE, outcome))
        tier = (await router.route(routed(ask(INCIDENT), session=session))).tier
        assert tier is (Tier.BASE if outcome in harmless else Tier.STRONG), outcome


async def test_good_ends_matter_only_to_a_session_with_failures(a_router: Make):
    router = await a_router()
    assert not (await router.route(routed(ask(INCIDENT)))).watched
    await router.observe(failed())
    assert (await router.route(routed(ask(INCIDENT)))).watched
    assert not (await router.route(routed(ask(INCIDENT), session=SessionId("s2")))).watched


async def test_a_wish_for_the_strong_tier_does_not_latch(a_router: Make):
    router = await a_router()
    await router.route(routed(ask("Hello!"), "demo-120b"))
    assert (await router.route(routed(ask("What is the capital of Peru?")))).tier is Tier.BASE


async def test_a_tool_loop_keeps_its_arm(a_router: Make):
    router = await a_router()
    await router.route(routed(RouteRequest(ask("Explain").turns, requested_effort=Effort.HIGH), "demo-120b"))
    kept = await router.route(routed(ask("Explain", assistant("", ("shell", "ls")), tool("a"))))
    assert (kept.tier, kept.effort, kept.reason) == (Tier.STRONG, Effort.HIGH, "tool_loop")


async def test_a_dry_run_changes_nothing(a_router: Make):
    router = await a_router()
    dry = await router.route(routed(ask("Delete the production database"), dry_run=True))
    assert dry.tier is Tier.STRONG
    assert (await router.route(routed(ask("What is the capital of Peru?")))).reason == "default"
    with pytest.raises(NotFound):
        await router.explain(TenantId("acme"), dry.route_id)


async def test_where_the_strong_tier_is_missing_the_reason_says_so(a_router: Make):
    decision = await (await a_router(BASE_ONLY, policy=WITHOUT_120B)).route(routed(ask(DELETE)))
    assert (decision.model, decision.tier, decision.effort) == ("demo-20b", Tier.BASE, Effort.HIGH)
    assert decision.reasons == ("strong_tier_missing", "risk_needs_reasoning")
    assert decision.hold is None


async def test_where_a_safety_floor_cannot_be_met_the_turn_is_refused(a_router: Make):
    decision = await (await a_router(BASE_ONLY)).route(routed(ask(DELETE)))
    assert (decision.hold, decision.tier, decision.model) == (Hold.REFUSE, Tier.STRONG, "")
    assert decision.reason == "strong_tier_missing"


async def test_a_missing_strong_tier_does_not_latch_and_is_no_model_to_wish_for(a_router: Make):
    router = await a_router(BASE_ONLY)
    await router.route(routed(ask("Delete the production database")))
    assert (await router.route(routed(ask("What is the capital of Peru?")))).reasons == ("default",)
    with pytest.raises(UnknownModel):
        await router.route(routed(ask("Hello!"), "demo-120b"))


async def test_where_the_base_tier_is_missing_the_strong_one_answers(a_router: Make):
    decision = await (await a_router({Tier.STRONG: ("demo-120b", "r7")})).route(routed(ask("Hello!")))
    assert decision.model == "demo-120b"
    assert decision.reasons[-1] == "base_tier_missing"


async def test_a_broken_router_falls_back_and_logs_no_prompt(a_router: Make, monkeypatch, caplog):
    def breaks(*_: object) -> None:
        raise KeyError("my secret prompt")

    monkeypatch.setattr(deployment_module, "trace", breaks)
    router = await a_router()
    with caplog.at_level(logging.DEBUG):
        plain = await router.route(routed(ask("my secret prompt")))
        risky = await router.route(routed(ask("my secret prompt", trusted_risk=Risk.R2)))
    assert (plain.model, plain.effort, plain.reason) == ("demo-20b", Effort.MEDIUM, "router_error")
    assert (risky.model, risky.reason) == ("demo-120b", "router_error_raised")
    assert "req_1" in caplog.text
    assert "secret" not in caplog.text
    assert (await router.explain(TenantId("acme"), plain.route_id)).task == "unknown"


async def test_a_broken_router_without_120b_holds_what_is_risky_unless_the_policy_says_otherwise(
    a_router: Make, monkeypatch: pytest.MonkeyPatch
):
    def breaks(*_: object) -> None:
        raise KeyError

    monkeypatch.setattr(deployment_module, "trace", breaks)
    strict = await a_router(BASE_ONLY)
    assert (await strict.route(routed(ask("go", trusted_risk=Risk.R2)))).hold is Hold.REFUSE
    assert (await strict.route(routed(ask("go")))).hold is None
    lenient = await a_router(BASE_ONLY, policy=WITHOUT_120B)
    risky = await lenient.route(routed(ask("go", trusted_risk=Risk.R2)))
    assert (risky.hold, risky.model) == (None, "demo-20b")
    assert "strong_tier_missing" in risky.reasons


async def test_a_route_is_explained_to_its_tenant_only(a_router: Make):
    router = await a_router(clock=FixedClock(42))
    decision = await router.route(routed(ask("Delete the production database")))
    found = await router.explain(TenantId("acme"), decision.route_id)
    assert found.decision == decision
    assert (found.at_ms, found.task, found.risk) == (42, "general", Risk.R3)
    assert "risk_r3_or_more" in found.signals
    assert ("risk_needs_reasoning", True) in found.rules
    assert "bias" in dict(found.contributions)
    assert pickle.loads(pickle.dumps(found)) == found
    for tenant, route_id in ((TenantId("other"), decision.route_id), (TenantId("acme"), RouteId("route_0"))):
        with pytest.raises(NotFound):
            await router.explain(tenant, route_id)


async def test_a_replica_with_a_policy_is_ready(a_router: Make):
    assert await (await a_router()).ready()


def test_a_bad_policy_or_ambiguous_tiers_do_not_start(store_url: str):
    with pytest.raises(PolicyError):
        DifficultyRouter(SETTINGS, {"version": 1}, TIERS, store_url)
    for tiers in ({}, {Tier.BASE: ("m", "1"), Tier.STRONG: ("m", "2")}, {Tier.BASE: ("auto", "1")}):
        with pytest.raises(ValueError, match="tier|model"):
            DifficultyRouter(SETTINGS, ROUTING_V1, tiers, store_url)


def test_settings_are_strict():
    assert DifficultySettings.model_validate({"auto_models": ["auto", "gatehouse"]}).auto_models == (
        "auto",
        "gatehouse",
    )
    for bad in ({"sessions": "9"}, {"sessions": 0}, {"auto_models": []}, {"unknown": 1}):
        with pytest.raises(ValidationError):
            DifficultySettings.model_validate(bad)


async def test_what_was_decided_outlives_the_replica(a_router: Make):
    first = await a_router()
    clock = FixedClock()
    risky = await first.route(routed(ask("Delete the production database")))
    await first.observe(failed())
    await first.close()
    second = await a_router(clock=clock)
    assert (await second.route(routed(ask("What is the capital of Peru?")))).reason == "session_latched"
    assert (await second.explain(TenantId("acme"), risky.route_id)).decision == risky
    with pytest.raises(NotFound):
        await second.explain(TenantId("other"), risky.route_id)


async def test_a_new_policy_takes_over_while_the_router_runs(a_router: Make, tmp_path: Path):
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(ROUTING_V1))
    router = await a_router(policy_path=str(path))
    fresh = tmp_path / "new.yaml"
    fresh.write_text(yaml.safe_dump({**ROUTING_V1, "default": {"tier": "120b", "effort": "high"}}))
    fresh.replace(path)
    async with asyncio.timeout(60):
        while (await router.route(routed(ask("Hello!"), session=SessionId("")))).tier is Tier.BASE:
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("told_workers")
async def test_a_store_that_is_gone_stops_no_turn(a_router: Make, tmp_path: Path):
    router = await a_router()
    await router.close()
    (tmp_path / "router.db").unlink()
    (tmp_path / "router.db").mkdir()
    assert (await router.route(routed(ask("Hello!"), session=SessionId("s9")))).reason == "default"
    assert not await router.ready()


async def test_the_time_of_the_larger_tier_is_counted_against_its_cap(a_router: Make):
    budget = {"target": 1.0, "strong_seconds_per_hour": 60, "burst_seconds": 30}
    clock = FixedClock()
    router = await a_router(policy={**ROUTING_V1, "budget": budget}, clock=clock)
    forced = await router.route(routed(ask(DELETE)))
    assert forced.watched  # forced turns are outside the share, and their time is spent all the same
    assert not (await router.route(routed(ask("Hello!"), session=SessionId("s2")))).watched

    async def drained() -> bool:
        return router._budgets.view(TenantId("acme"), router._policies.current.budget, clock.now_ms()).drained

    spent = Attempt(forced.route_id, TenantId("acme"), SessionId("s1"), Tier.STRONG, AttemptOutcome.OK, 29_999)
    await router.observe(spent)
    assert not await drained()
    await router.observe(Attempt("e2", TenantId("acme"), SessionId("s1"), Tier.BASE, AttemptOutcome.OK, 60_000))
    assert not await drained()
    await router.observe(Attempt("e3", TenantId("acme"), SessionId("s1"), Tier.STRONG, AttemptOutcome.OK, 2))
    assert await drained()
    clock.advance(61)
    assert not await drained()


async def test_the_snapshot_of_the_session_decides_and_is_remembered(a_router: Make, tmp_path: Path):
    old, new = tmp_path / "old.snapshot", tmp_path / "new.snapshot"
    old.write_bytes(two_heads_bytes())
    new.write_bytes(two_heads_bytes(weak_bias=-3.0))
    revision = revision_of(scan(Kind.ROUTER, ROUTER_TARGET, new))
    learned = {"snapshot": str(old), "mode": "apply", "candidate": {"snapshot": str(new), "revision": revision}}
    settings = DifficultySettings.model_validate({"read_timeout_s": 5, "reload_s": 0.01, "learned": learned})
    router = await a_router(settings=settings)
    chosen = {"prompts": {"demo-20b": "p2"}, "policy": "g2"}
    decisions = [
        await router.route(routed(ask(KNOWN), session=SessionId(f"s{name}"), snapshot=name, **chosen))
        for name in (revision, "configured", "")
    ]
    digests = [parse(data).digest for data in (new.read_bytes(), old.read_bytes(), old.read_bytes())]
    assert [each.snapshot_digest for each in decisions] == digests
    assert [each.router_revision for each in decisions] == [revision, "configured", ""]
    assert {each.mode for each in decisions} == {Mode.APPLY}
    await router.flush()
    found = (await router.explain(TenantId("acme"), decisions[0].route_id)).decision
    assert (found.router_revision, found.prompt_revision, found.policy_revision) == (revision, "p2", "g2")
