import copy

import pytest

from router.policy import ROUTING_V1, PolicyError, default_policy, parse_policy
from router.route import trace
from router.types import Arm, Effort, Hold, Risk, StateView, Tier
from tests.unit.router.asks import ask, diff

NOTHING = StateView()
LARGE_REVIEW = ask(f"Review this\n{diff(added=500)}")
RISKY = ask("Please drop the users table in production")


def with_overlay(overlay: dict[str, object], **changes: object):
    document = {**copy.deepcopy(dict(ROUTING_V1)), **changes}
    return parse_policy({**document, "tenants": {"acme": overlay}})


def decided(overlay: dict[str, object], request=LARGE_REVIEW):
    return trace(request, NOTHING, with_overlay(overlay).for_tenant("acme")).decision


def test_an_overlay_is_for_its_tenant_alone():
    policy = with_overlay({"default": {"effort": "high"}})
    assert policy.for_tenant("acme").default_effort is Effort.HIGH
    assert policy.for_tenant("acme").default_tier is Tier.BASE  # merged deeply: the other half stays
    assert policy.for_tenant("other") == policy
    assert policy.default_effort is Effort.MEDIUM


def test_one_digest_stands_for_the_whole_document():
    policy = with_overlay({"default": {"effort": "high"}})
    assert policy.for_tenant("acme").digest == policy.digest != default_policy().digest
    assert with_overlay({"default": {"effort": "low"}}).digest != policy.digest


def test_every_key_that_was_set_is_named():
    policy = with_overlay(
        {
            "deny": [{"tier": "120b", "effort": "high"}],
            "review": {"large_lines": 100},
            "rules": {
                "review_large": {"arm": {"effort": "high"}},
                "review_high_risk": {"enabled": False},
                "always_low": {"priority": 1, "when": "task_chat", "effect": "prefer", "arm": {"effort": "low"}},
            },
        }
    ).for_tenant("acme")
    assert policy.provenance == (
        "deny", "review.large_lines", "rules.always_low.arm", "rules.always_low.effect", "rules.always_low.priority",
        "rules.always_low.when", "rules.review_high_risk.enabled", "rules.review_large.arm.effort",
    )  # fmt: skip
    sources = {rule.rule_id: rule.source for rule in policy.rules}
    assert "review_high_risk" not in sources
    assert (sources["review_large"], sources["always_low"]) == ("tenant", "tenant")
    assert sources["risk_needs_reasoning"] == "policy"
    large = next(rule for rule in policy.rules if rule.rule_id == "review_large")
    assert (large.tier, large.effort) == (Tier.STRONG, Effort.HIGH)


@pytest.mark.parametrize(
    ("overlay", "says"),
    [
        ({"rules": {"risk_needs_reasoning": {"enabled": False}}}, "lowers the safety floor 'risk_needs_reasoning'"),
        ({"rules": {"risk_needs_reasoning": {"arm": {"effort": "medium"}}}}, "lowers the safety floor"),
        ({"rules": {"risk_needs_reasoning": {"arm": {"tier": "20b"}}}}, "lowers the safety floor"),
        ({"rules": {"risk_needs_reasoning": {"safety": False}}}, "lowers the safety floor"),
        ({"rules": {"risk_needs_reasoning": {"effect": "floor"}}}, "lowers the safety floor"),
        ({"rules": {"risk_needs_reasoning": {"effect": "prefer"}}}, "safety is for floors"),
        (
            {"rules": {"risk_untrusted_content": {"when": {"all": ["risk_r3_or_more", "untrusted_content"]}}}},
            "lowers the safety floor 'risk_untrusted_content'",
        ),
        (
            {
                "rules": {
                    "cheap": {
                        "priority": 1, "effect": "ceiling", "arm": {"tier": "20b"},
                        "when": {"all": ["risk_r2_or_more", "untrusted_content"]},
                    }
                }
            },
            "lies above the ceiling 'cheap'",
        ),
        ({"deny": [{"tier": "20b"}, {"tier": "120b"}]}, "leaves no arm"),
        ({"pin": {"tier": "20b"}, "deny": [{"tier": "20b"}]}, "leaves no arm"),
        ({"pin": {}}, "neither tier nor effort"),
        ({"rules": {"no_such_rule": {"enabled": False}}}, "no rule 'no_such_rule' to drop"),
        ({"rules": {"review_large": {"id": "other"}}}, "unknown key 'id'"),
        ({"rules": {"review_large": {"when": "no_such_signal"}}}, "no signal"),
        ({"rules": {"half_a_rule": {"priority": 1}}}, "is missing"),
        ({"without_strong": {}}, "unknown key 'without_strong'"),
        ({"version": 1}, "unknown key 'version'"),
        ({"rules": []}, "must be a mapping"),
    ],
)  # fmt: skip
def test_an_overlay_that_lowers_safety_or_is_not_understood_is_refused(overlay: dict[str, object], says: str):
    with pytest.raises(PolicyError, match=says):
        with_overlay(overlay)


def test_a_safety_floor_may_be_raised_and_widened():
    policy = with_overlay(
        {
            "rules": {
                "risk_untrusted_content": {
                    "when": {"any": [{"all": ["risk_r2_or_more", "untrusted_content"]}, "severe"]},
                    "arm": {"effort": "high"},
                }
            }
        }
    )
    assert len(policy.for_tenant("acme").rules) == 5


def test_a_pin_below_a_safety_floor_that_always_applies_is_refused():
    always = {
        "id": "top", "priority": 5, "when": "always", "effect": "floor", "safety": True, "arm": {"tier": "120b"},
    }  # fmt: skip
    with pytest.raises(PolicyError, match="pin lies below the safety floor 'top'"):
        with_overlay({"pin": {"tier": "20b"}}, rules=[always])


def test_a_pin_beats_a_floor_that_is_not_for_safety():
    decision = decided({"pin": {"tier": "20b"}})
    assert (decision.tier, decision.hold, decision.reason) == (Tier.BASE, None, "tenant_pin")
    assert "floor_overridden" in decision.reasons
    assert "review_large" in decision.reasons


@pytest.mark.parametrize(
    "overlay",
    [{"pin": {"tier": "20b"}}, {"pin": {"effort": "low"}}, {"deny": [{"tier": "120b"}]}],
    ids=["pinned size", "pinned effort", "denied"],
)
def test_a_pin_or_deny_against_a_safety_floor_is_a_refusal_and_not_the_smaller_arm(overlay: dict[str, object]):
    decision = decided(overlay, RISKY)
    assert decision.hold is Hold.REFUSE
    assert (decision.tier, decision.effort) == (Tier.STRONG, Effort.HIGH)


def test_a_pin_beats_a_wish():
    decision = decided({"pin": {"tier": "20b"}}, ask("Hello!", requested_tier=Tier.STRONG))
    assert decision.tier is Tier.BASE
    assert "explicit_model_overridden" in decision.reasons


def test_a_denied_arm_gives_way_upwards_first():
    up = decided({"deny": [{"tier": "120b", "effort": "medium"}]})
    assert Arm(up.tier, up.effort) == Arm(Tier.STRONG, Effort.HIGH)
    assert up.reason == "tenant_deny"
    down = decided({"deny": [{"tier": "120b"}]})  # the floor is not for safety
    assert (down.tier, down.effort, down.hold) == (Tier.BASE, Effort.MEDIUM, None)
    assert "floor_overridden" in down.reasons


def test_an_overlay_reaches_the_trace():
    policy = with_overlay({"rules": {"review_large": {"arm": {"effort": "high"}}}}).for_tenant("acme")
    assert trace(LARGE_REVIEW, NOTHING, policy).decision.effort is Effort.HIGH
    assert trace(ask("x", trusted_risk=Risk.R3), NOTHING, policy).decision.tier is Tier.STRONG
