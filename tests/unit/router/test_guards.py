import copy

import pytest

from router.policy import ROUTING_V1, Policy, PolicyError, default_policy, parse_policy
from router.route import Wish, decide, trace
from router.score import score
from router.signals.collect import Signals
from router.signals.review import Review, ReviewScope
from router.types import Effort, Hold, Load, Risk, StateView, Surroundings, TaskType, Tier
from tests.unit.router.asks import ask
from tests.unit.router.test_route import PLAIN

POLICY = default_policy()
DOWN, MISSING = Load(strong_up=False), Load(strong_up=False, strong_served=False)
SAFETY = Signals(risk=Risk.R3, needs_reasoning=True)
RULE = Signals(task=TaskType.CODE_REVIEW, review=Review(scope=ReviewScope.LARGE, high_risk=False))
LATCHED = StateView(latched_tier=Tier.STRONG)


def found(
    signals: Signals,
    load: Load,
    wish: Wish | None = None,
    state: StateView | None = None,
    policy: Policy = POLICY,
):
    around = Surroundings(load=load)
    return decide(
        signals, PLAIN.features, score((PLAIN,)), wish or Wish(), state or StateView(), policy, around
    ).decision


def policy_with(**changes: object) -> Policy:
    return parse_policy({**copy.deepcopy(dict(ROUTING_V1)), **changes})


@pytest.mark.parametrize(
    ("signals", "load", "hold", "tier", "reason"),
    [
        (SAFETY, DOWN, Hold.QUEUE, Tier.STRONG, "strong_tier_down"),
        (SAFETY, MISSING, Hold.REFUSE, Tier.STRONG, "strong_tier_missing"),
        (RULE, DOWN, Hold.QUEUE, Tier.STRONG, "strong_tier_down"),
        (RULE, MISSING, None, Tier.BASE, "strong_tier_missing"),
    ],
    ids=["safety, down", "safety, missing", "rule, down", "rule, missing"],
)
def test_a_floor_that_cannot_be_met_holds_the_turn(
    signals: Signals, load: Load, hold: Hold | None, tier: Tier, reason: str
):
    decision = found(signals, load)
    assert (decision.hold, decision.tier, decision.reason) == (hold, tier, reason)
    assert decision.reasons[1] in {"risk_needs_reasoning", "review_large"}


def test_what_an_outage_means_is_the_policys():
    policy = policy_with(
        without_strong={
            "down": {"safety": "refuse", "rules": "base"},
            "unserved": {"safety": "queue", "rules": "refuse"},
        }
    )
    assert found(SAFETY, DOWN, policy=policy).hold is Hold.REFUSE
    assert found(RULE, DOWN, policy=policy).tier is Tier.BASE
    assert found(SAFETY, MISSING, policy=policy).hold is Hold.QUEUE
    assert found(RULE, MISSING, policy=policy).hold is Hold.REFUSE
    with pytest.raises(PolicyError, match="a safety floor outlives an outage"):
        policy_with(without_strong={"down": {"safety": "base"}})


def test_a_latched_session_goes_on_with_the_base_tier_while_the_strong_one_is_down():
    decision = found(Signals(), DOWN, state=LATCHED)
    assert (decision.tier, decision.hold, decision.reason) == (Tier.BASE, None, "strong_tier_down")


@pytest.mark.parametrize("risk", [Risk.R2, Risk.R3, Risk.FORBIDDEN])
def test_from_r2_on_not_even_a_latched_session_goes_down(risk: Risk):
    decision = found(Signals(risk=risk), DOWN, state=LATCHED)
    assert (decision.tier, decision.hold) == (Tier.STRONG, Hold.QUEUE)


def test_a_model_asked_for_by_name_is_not_replaced():
    decision = found(Signals(), DOWN, Wish(tier=Tier.STRONG))
    assert (decision.tier, decision.hold) == (Tier.STRONG, Hold.QUEUE)


def test_a_base_tier_that_is_down_gives_way_upwards():
    decision = found(Signals(), Load(base_up=False))
    assert (decision.tier, decision.effort, decision.reason) == (Tier.STRONG, Effort.MEDIUM, "base_tier_down")
    both = found(Signals(), Load(base_up=False, strong_up=False))
    assert (both.tier, both.hold) == (Tier.BASE, Hold.QUEUE)
    pinned = parse_policy({**ROUTING_V1, "tenants": {"acme": {"pin": {"tier": "20b"}}}}).for_tenant("acme")
    assert found(Signals(), Load(base_up=False), policy=pinned).hold is Hold.QUEUE


def long(tokens: int) -> Signals:
    return Signals(context_tokens=tokens)


def test_a_conversation_that_does_not_fit_moves_to_where_it_does():
    windows = Load(base_window=1_000, strong_window=4_000)
    assert found(long(1_000), windows).tier is Tier.BASE
    moved = found(long(1_001), windows)
    assert (moved.tier, moved.reason) == (Tier.STRONG, "context_window")
    assert found(long(4_001), windows).tier is Tier.BASE  # fits nowhere: whoever counts the tokens says so
    assert found(long(1_001), windows, Wish(tier=Tier.BASE)).tier is Tier.BASE


def test_a_smaller_strong_window_moves_down_only_below_no_floor():
    windows = Load(base_window=4_000, strong_window=1_000)
    assert found(long(2_000), windows, state=LATCHED).tier is Tier.BASE
    risky = Signals(risk=Risk.R3, needs_reasoning=True, context_tokens=2_000)
    assert found(risky, windows).tier is Tier.STRONG


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("word " * 1_000, 1_250, 1_250),
        ("系统出现故障" * 1_000, 3_900, 4_100),
        ("", 0, 0),
        ("привет мир " * 100, 300, 600),
    ],
    ids=["english", "chinese", "empty", "russian"],
)
def test_the_estimate_of_tokens(text: str, low: int, high: int):
    assert low <= trace(ask(text), StateView(), POLICY).signals.context_tokens <= high
