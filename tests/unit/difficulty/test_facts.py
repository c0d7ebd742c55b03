"""What surrounds a decision, what is counted of it, and what a cascade tells afterwards."""

from pathlib import Path

import pytest
import yaml

from deployments.clock import FixedClock
from deployments.difficulty.deployment import DifficultyRouter
from deployments.difficulty.facts import load_of
from deployments.difficulty.settings import DifficultySettings
from deployments.ports import (
    Attempt,
    AttemptOutcome,
    CascadeReport,
    Feedback,
    FeedbackSource,
    FeedbackVerdict,
    KeyId,
    SessionId,
    TenantId,
    Tier,
    TierState,
)
from router.policy import ROUTING_V1
from router.types import Load
from tests.unit.difficulty.test_deployment import DELETE, INCIDENT, TIERS, Make, a_router, routed
from tests.unit.router.asks import ask

__all__ = ["a_router"]  # the fixture

ACME = TenantId("acme")
BUDGET = {**ROUTING_V1, "budget": {"target": 0.25, "strong_seconds_per_hour": 60, "burst_seconds": 30}}


def test_what_is_seen_of_the_tiers_is_what_the_router_is_told():
    fixed = Load(base_window=8, strong_window=9)
    tiers = {Tier.STRONG: TierState(up=False, cold=True, full=True, pressure=1.5, ms=7)}
    told = load_of(fixed, tiers, 5, spill_up=False)
    assert (told.base_window, told.strong_window, told.base_up, told.base_full) == (8, 9, True, False)
    assert (told.strong_up, told.strong_failing, told.strong_cold, told.strong_full) == (True, True, True, True)
    assert (told.strong_pressure, told.strong_ms, told.left_ms) == (1.5, 7, 5)
    assert load_of(fixed, {}, None, spill_up=False) == fixed


@pytest.mark.parametrize("spill_up", [False, True])
async def test_a_base_tier_that_is_down_sends_its_turns_up_only_where_that_is_wanted(store_url: str, spill_up: bool):
    settings = DifficultySettings(read_timeout_s=5, spill_up=spill_up)
    router = DifficultyRouter(settings, ROUTING_V1, TIERS, store_url)
    down = {Tier.BASE: TierState(up=False)}
    free = await router.route(routed(ask("Hello!"), tiers=down))
    assert (free.tier, free.reason) == ((Tier.STRONG, "base_tier_full") if spill_up else (Tier.BASE, "default"))
    for busy in (TierState(cold=True), TierState(full=True), TierState(up=False), TierState(pressure=1)):
        both = await router.route(routed(ask("Hello!"), tiers={**down, Tier.STRONG: busy}, session=SessionId("")))
        assert (both.tier, both.hold) == (Tier.BASE, None)
    # Who asks for 20b by name gets it, or its error.
    assert (await router.route(routed(ask("Hello!"), "demo-20b", tiers=down))).tier is Tier.BASE
    await router.close()


async def test_a_tier_whose_calls_fail_keeps_nobody_from_it_who_needs_it(a_router: Make):
    router = await a_router()
    down = {Tier.STRONG: TierState(up=False)}
    risky = await router.route(routed(ask(DELETE), tiers=down))
    assert (risky.tier, risky.hold) == (Tier.STRONG, None)
    await router.observe(Attempt("e1", ACME, SessionId("s1"), Tier.BASE, AttemptOutcome.FAILED))
    assert (await router.route(routed(ask("Hello!"), tiers=down))).hold is None


async def test_what_is_counted_of_a_decision(a_router: Make):
    router = await a_router(policy=BUDGET)
    facts = (await router.route(routed(ask("Hello!")))).facts
    assert facts is not None
    assert (facts.target, facts.capped, facts.refused, facts.abstained) == (0.25, True, (), None)
    assert facts.shadow in Tier  # the shipped snapshot watches
    risky = (await router.route(routed(ask(DELETE)))).facts
    assert risky is not None
    assert (risky.target, risky.shadow) == (None, None)  # a rule decided: neither the budget's nor the shadow's


async def test_a_file_that_is_refused_is_told_with_every_decision(a_router: Make, tmp_path: Path):
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(ROUTING_V1))
    router = await a_router(policy_path=str(path))
    assert (await router.route(routed(ask("Hello!")))).facts.refused == ()
    path.write_text("version: 1\nunknown: true\n")
    router._policies.look()
    decision = await router.route(routed(ask("Hello!")))
    assert decision.facts.refused == ("policy",)
    path.write_text(yaml.safe_dump(ROUTING_V1))
    router._policies.look()
    assert (await router.route(routed(ask("Hello!")))).facts.refused == ()


async def test_a_hang_up_is_charged_and_is_no_evidence(a_router: Make):
    clock = FixedClock()
    router = await a_router(policy=BUDGET, clock=clock)
    await router.observe(Attempt("e1", ACME, SessionId("s1"), Tier.STRONG, AttemptOutcome.ABORTED, 30_001))
    view = router._budgets.view(ACME, router._policies.current.budget, clock.now_ms())
    assert view is not None
    assert view.drained
    assert not router._sessions.has_failures(ACME, SessionId("s1"))
    # Nor is it a clean end: two of them would forgive what failed before.
    await router.observe(Attempt("e2", ACME, SessionId("s1"), Tier.BASE, AttemptOutcome.FAILED))
    for event in ("e3", "e4"):
        await router.observe(Attempt(event, ACME, SessionId("s1"), Tier.BASE, AttemptOutcome.ABORTED))
    assert (await router.route(routed(ask(INCIDENT)))).reason == "incident_failed_once"


async def test_both_decisions_of_a_cascade_are_told_also_by_another_replica(a_router: Make):
    first = await a_router()
    decision = await first.route(routed(ask("How many is 7 * 8?")))
    assert (await first.explain(ACME, decision.route_id)).cascade is None
    second = await first.route(routed(ask("How many is 7 * 8?"), "demo-120b", dry_run=True))
    report = CascadeReport(
        decision.route_id, "escalated", None, "fail", ("arithmetic:false_equation",), second, "unknown"
    )
    bad = Attempt(f"{decision.route_id}-1", ACME, SessionId("s1"), Tier.BASE, AttemptOutcome.VERIFIER_FAILED, 9, report)
    await first.observe(bad)
    await first.observe(bad)  # the same once more
    found = await first.explain(ACME, decision.route_id)
    assert (found.decision, found.cascade) == (decision, report)
    await first.flush()
    other = await a_router()
    again = await other.explain(ACME, decision.route_id)
    assert again.decision == decision
    assert again.cascade is not None
    assert (again.cascade.word, again.cascade.findings) == (report.word, report.findings)
    assert again.cascade.second == second


@pytest.mark.parametrize(("word", "tier"), [("escalated", Tier.STRONG), ("refused", Tier.BASE)])
async def test_a_verdict_counts_for_the_tier_whose_answer_was_sent(a_router: Make, word: str, tier: Tier):
    router = await a_router()
    decision = await router.route(routed(ask(INCIDENT)))
    second = await router.route(routed(ask(INCIDENT), "demo-120b", dry_run=True))
    report = CascadeReport(decision.route_id, word, second=second)
    ok = Attempt(f"{decision.route_id}-1", ACME, SessionId("s1"), Tier.BASE, AttemptOutcome.ABORTED, 0, report)
    await router.observe(ok)
    await router.flush()
    wrong = (decision.route_id, FeedbackVerdict.WRONG, FeedbackSource.HUMAN, 1.0)
    await router.feedback(Feedback("fb1", ACME, KeyId("k1"), *wrong))
    session = router._sessions._memory.find(ACME, SessionId("s1"), 0)
    assert session is not None
    assert {each: weight for each, weight in session.failures.items() if weight} == {tier: 1.0}


async def test_old_reports_are_swept_with_their_decisions(a_router: Make):
    router = await a_router()
    decision = await router.route(routed(ask("Hello!")))
    await router.flush()
    await router._rows.add_cascade(ACME, CascadeReport(decision.route_id, "kept"), 1_000)
    await router._rows.sweep(0, 1_000)
    assert await router._rows.cascade(ACME, decision.route_id) is None


def test_spilling_is_off_unless_it_is_switched_on():
    assert not DifficultySettings().spill_up
