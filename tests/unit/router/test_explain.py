import json
import math
from dataclasses import replace

import pytest

from router.explain import confidence, counterfactuals, debug_headers, explain, headers, top
from router.policy import ROUTING_V1, default_policy, parse_policy
from router.route import trace
from router.types import ARMS, BudgetView, Effort, Load, Mode, Risk, StateView, Surroundings, Tier
from tests.unit.router.asks import INCIDENT, ask, assistant, diff

POLICY = default_policy()
NOTHING = StateView()
OPEN = Surroundings(mode=Mode.APPLY, budget=BudgetView(target=0.2, threshold=0.5))
SECRET = "xylophone-4711"
REQUESTS = [
    ask(f"What is {SECRET}?"),
    ask(f"{INCIDENT} {SECRET}", assistant(f"It is {SECRET}"), f"That did not help, {SECRET} is still down"),
    ask(f"Please drop the {SECRET} table in production", trusted_risk=Risk.R3),
    ask(f"Review this\n{diff(f'auth/{SECRET}.py', 500)}", offered_tools=(SECRET,)),
]


def detail(request=REQUESTS[0], around=OPEN, state=NOTHING, policy=POLICY):
    return explain(trace(request, state, policy, None, around), policy, state)


def test_no_explanation_holds_a_word_of_the_prompt():
    for request in REQUESTS:
        found = trace(request, NOTHING, POLICY, None, OPEN)
        made = explain(found, POLICY, NOTHING)
        shown = f"{made} {debug_headers(made)} {found}"
        assert SECRET not in shown
        assert "4711" not in shown


def test_every_rule_comes_with_the_truth_of_its_signals():
    (first, *_) = detail(REQUESTS[2]).rules
    assert (first.rule_id, first.fired, first.safety, first.source) == ("risk_needs_reasoning", True, True, "policy")
    assert first.effect == "floor+bypass_learning"
    assert first.signals == (("risk_r2_or_more", True), ("needs_reasoning", True))


def test_every_arm_is_shown_with_its_cost_and_whether_it_was_possible():
    shown = {each.arm: each for each in detail(REQUESTS[2]).alternatives}
    assert set(shown) == set(ARMS)
    assert [arm for arm in ARMS if shown[arm].allowed] == [ARMS[-1]]  # the floor is 120b/high
    assert shown[ARMS[1]].relative_cost == 1.0
    assert [each.relative_cost for each in detail().alternatives] == sorted(
        each.relative_cost for each in detail().alternatives
    )
    assert all(each.allowed for each in detail().alternatives)
    asked = trace(ask("Hi", requested_tier=Tier.STRONG, requested_effort=Effort.LOW), NOTHING, POLICY)
    assert len(explain(asked, POLICY, NOTHING).alternatives) == 6  # 120b/low is nobody's proposal


@pytest.mark.parametrize(
    ("request_", "around", "state", "says"),
    [
        (REQUESTS[0], OPEN, NOTHING, "120b if difficulty >= 0.62, was "),
        (REQUESTS[0], OPEN, NOTHING, "a step up with one more hard failure"),
        (REQUESTS[0], Surroundings(budget=BudgetView(0.2, 0.5)), NOTHING, ", if the learned part were to act"),
        (REQUESTS[0], Surroundings(mode=Mode.APPLY, budget=BudgetView(0.2, -9.0)), NOTHING, "20b if difficulty < 0.00"),
        (ask(INCIDENT), OPEN, NOTHING, "120b/medium with one more hard failure (incident_failed_once)"),
        (REQUESTS[2], OPEN, NOTHING, "20b without risk_needs_reasoning"),
        (ask("Delete the staging namespace"), OPEN, NOTHING, "with third-party content (risk_untrusted_content)"),
        (REQUESTS[2], Surroundings(load=Load(strong_up=False)), NOTHING, "120b again"),
    ],
)  # fmt: skip
def test_what_would_have_changed_it(request_, around: Surroundings, state: StateView, says: str):
    sentences = list(counterfactuals(trace(request_, state, POLICY, None, around), POLICY))
    assert any(says in sentence for sentence in sentences), sentences


def test_a_counterfactual_by_score_is_true():
    found = trace(REQUESTS[0], NOTHING, POLICY, None, OPEN)
    assert found.proposal.demanded is not None
    assert found.decision.tier is Tier.BASE
    threshold = math.log(found.proposal.value / (1 - found.proposal.value)) - 1e-6
    just_enough = Surroundings(mode=Mode.APPLY, budget=BudgetView(0.2, threshold))
    assert trace(REQUESTS[0], NOTHING, POLICY, None, just_enough).decision.tier is Tier.STRONG


def test_confidence_is_certain_where_something_decided_and_grows_with_the_distance():
    assert confidence(trace(REQUESTS[2], NOTHING, POLICY, None, OPEN)) == 1.0
    assert confidence(trace(REQUESTS[0], NOTHING, POLICY)) == 0.5
    values = [
        confidence(trace(REQUESTS[0], NOTHING, POLICY, None, Surroundings(Mode.APPLY, BudgetView(0.2, threshold))))
        for threshold in (1.0, 2.0, 4.0)
    ]
    assert 0.5 < values[0] < values[1] < values[2] < 1.0


def test_the_overlay_shows_where_a_rule_comes_from():
    overlay = {"rules": {"review_large": {"arm": {"effort": "high"}}}}
    policy = parse_policy({**ROUTING_V1, "tenants": {"acme": overlay}}).for_tenant("acme")
    made = detail(REQUESTS[3], policy=policy)
    assert made.provenance == ("rules.review_large.arm.effort",)
    assert {rule.rule_id: rule.source for rule in made.rules}["review_large"] == "tenant"


def test_evidence_and_failures_are_numbers():
    made = detail(REQUESTS[1], state=StateView(failures_on_strong=0.4))
    assert made.evidence == (("user_saw_it_fail", 1.0),)
    assert dict(made.failures) == {Tier.BASE: 1.0, Tier.STRONG: 0.4}
    assert dict(made.state)["failures_on_strong"] == "0.4"


def test_the_default_headers():
    shown = headers(
        effort=Effort.HIGH,
        reason="risk_needs_reasoning",
        policy_digest=POLICY.digest,
        mode=Mode.BYPASS,
        confidence=1.0,
    )
    assert dict(shown) == {
        "x-gatehouse-route-schema": "1",
        "x-gatehouse-route-effort": "high",
        "x-gatehouse-route-reason": "risk_needs_reasoning",
        "x-gatehouse-route-policy": POLICY.digest,
        "x-gatehouse-route-confidence": "1.00",
        "x-gatehouse-route-mode": "bypass",
    }


def test_the_debug_headers_are_plain_and_bounded():
    found = trace(REQUESTS[1], NOTHING, POLICY, None, OPEN)
    made = explain(found, POLICY, NOTHING)
    shown = dict(debug_headers(made))
    assert list(shown) == [
        f"x-gatehouse-route-{name}" for name in ("signals", "rules", "gain", "threshold", "state", "shadow")
    ]
    assert "incident_failed_once=true" in shown["x-gatehouse-route-rules"]
    assert shown["x-gatehouse-route-shadow"] == "120b/medium incident_failed_once"
    evil = replace(made, signals=("signal\r\nx-evil: 1",) * 100)
    long = dict(debug_headers(evil))["x-gatehouse-route-signals"]
    assert (len(long), "\r" in long, long.endswith("...")) == (512, False, True)


def test_the_terms_shown_are_the_whole_logit():
    contributions = trace(REQUESTS[1], NOTHING, POLICY).score.contributions
    shown = top(contributions)
    assert len(shown) <= 11
    assert math.fsum(value for _, value in shown) == pytest.approx(math.fsum(value for _, value in contributions))
    assert top((("a", 1.0), ("b", -2.0))) == (("b", -2.0), ("a", 1.0))


def test_stages_lead_to_the_decision():
    found = trace(REQUESTS[2], NOTHING, POLICY, None, OPEN)
    assert [stage for stage, _, _ in found.stages] == ["default", "bounds"]
    _, arm, reason = found.stages[-1]
    assert (arm.tier, arm.effort, reason) == (found.decision.tier, found.decision.effort, found.decision.reason)
    assert json.dumps([str(arm) for _, arm, _ in found.stages]) == '["20b/medium", "120b/high"]'
