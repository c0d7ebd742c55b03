"""What the load and the caller's deadline do to a turn: only what was optional gives way."""

import dataclasses

import pytest

from router.policy import ROUTING_V1, parse_policy
from router.route import Wish
from router.signals.collect import Signals
from router.types import Load, Mode, Risk, StateView, Surroundings, Tier
from tests.unit.router.test_learned import HARD, NOTHING, around, budget, found

EASY = dataclasses.replace(HARD, difficulty=0.2)
RISKY = Signals(risk=Risk.R3, needs_reasoning=True)
BUSY = {
    "cold": (Load(strong_cold=True), "strong_tier_cold"),
    "full": (Load(strong_full=True), "strong_tier_full"),
    "queue": (Load(strong_pressure=1.9), "strong_tier_full"),
    "down": (Load(strong_up=False), "strong_tier_down"),
    "failing": (Load(strong_failing=True), "strong_tier_down"),
    "late": (Load(strong_ms=4_001, left_ms=4_000), "deadline"),
}
every_load = pytest.mark.parametrize(("load", "why"), BUSY.values(), ids=BUSY)


@every_load
def test_a_score_alone_does_not_reach_a_tier_that_is_busy_and_the_reasons_say_so(load: Load, why: str):
    kept = found(around(load=load))
    assert (kept.decision.tier, kept.decision.reason, kept.decision.hold) == (Tier.BASE, "default", None)
    assert why in kept.decision.reasons
    assert (kept.proposal.hit, kept.proposal.taken, kept.decision.eligible) == (True, False, True)
    # A score that asks for nothing needs no excuse.
    assert found(around(load=load), scored=EASY).decision.reasons == ("default",)


@every_load
def test_in_the_shadow_the_same_is_seen(load: Load, why: str):
    seen = found(around(load=load, mode=Mode.SHADOW))
    assert (seen.decision.tier, seen.shadow.tier) == (Tier.BASE, Tier.BASE)
    assert why not in seen.decision.reasons  # nothing was kept from anybody


@pytest.mark.parametrize("name", ["cold", "full", "queue", "late"])
@pytest.mark.parametrize(
    ("signals", "wish", "state"),
    [
        (RISKY, Wish(), NOTHING),
        (Signals(), Wish(tier=Tier.STRONG), NOTHING),
        (Signals(), Wish(), StateView(latched_tier=Tier.STRONG)),
        (Signals(failures_on_base=1), Wish(), NOTHING),
    ],
    ids=["floor", "wish", "latch", "failure"],
)
def test_what_is_not_optional_waits_for_the_tier(name: str, signals: Signals, wish: Wish, state: StateView):
    load, why = BUSY[name]
    decision = found(around(load=load), signals=signals, wish=wish, state=state).decision
    assert (decision.tier, decision.hold) == (Tier.STRONG, None)
    assert why not in decision.reasons


def test_a_deadline_that_is_long_enough_or_unknown_changes_nothing():
    for load in (Load(strong_ms=4_000, left_ms=4_000), Load(strong_ms=4_000), Load(left_ms=1)):
        assert found(around(load=load)).decision.reason == "learned_difficulty"


@every_load
def test_nothing_is_explored_on_a_busy_tier(load: Load, why: str):
    del why
    drawn = found(around(load=load, exploration=0.1, draw=0.07)).decision
    assert (drawn.explored, drawn.propensity) == (False, 1.0)


def test_a_full_base_tier_stays_with_its_turns_unless_the_operator_lets_them_rise():
    assert found(around(load=Load(base_full=True)), scored=EASY).decision.tier is Tier.BASE
    risen = found(around(load=Load(base_full=True, spills=True)), scored=EASY).decision
    assert (risen.tier, risen.reason, risen.eligible) == (Tier.STRONG, "base_tier_full", False)
    assert found(around(load=Load(spills=True)), scored=EASY).decision.tier is Tier.BASE


@pytest.mark.parametrize(
    "load",
    [
        Load(strong_cold=True),
        Load(strong_full=True),
        Load(strong_pressure=1.0),
        Load(strong_up=False),
        Load(strong_served=False),
        Load(strong_ms=2, left_ms=1),
    ],
    ids=["cold", "full", "queue", "down", "missing", "late"],
)
def test_nothing_rises_to_a_tier_that_is_not_free(load: Load):
    load = dataclasses.replace(load, base_full=True, spills=True)
    assert found(around(load=load), scored=EASY).decision.tier is Tier.BASE


def test_neither_a_ceiling_nor_a_spent_budget_lets_a_turn_rise():
    full = Load(base_full=True, spills=True)
    rule = {"id": "small", "priority": 1, "when": "always", "effect": "ceiling", "arm": {"tier": "20b"}}
    bounded = found(around(load=full), scored=EASY, policy=parse_policy({**ROUTING_V1, "rules": [rule]}))
    assert bounded.decision.tier is Tier.BASE
    spent = found(around(load=full, budget=budget(1.0, drained=True)), scored=EASY)
    assert spent.decision.tier is Tier.BASE


def test_no_load_at_all_lowers_what_is_risky():
    for strong_up in (True, False):
        for spills in (True, False):
            load = Load(
                strong_up=strong_up, strong_failing=True, strong_cold=True, strong_full=True, strong_pressure=9,
                base_full=True, spills=spills, left_ms=0, strong_ms=9_000,
            )  # fmt: skip
            decision = found(Surroundings(load=load), signals=RISKY).decision
            assert decision.tier is Tier.STRONG
            assert (decision.hold is None) is strong_up
