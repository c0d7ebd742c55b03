"""The learned proposal: when it acts, when it is only watched, what the budget and the load do, and exploration."""

import dataclasses

import pytest

import router.route as route_module
from router.policy import ROUTING_V1, Policy, default_policy, parse_policy
from router.route import Wish, decide, trace
from router.score import Score, score
from router.signals.agent import AgentState
from router.signals.collect import Signals
from router.types import (
    Arm,
    BudgetView,
    Effort,
    Load,
    Mode,
    Risk,
    StateView,
    Surroundings,
    TaskType,
    Tier,
)
from tests.unit.router.asks import ask
from tests.unit.router.test_route import PLAIN

POLICY = default_policy()
NOTHING = StateView()
HARD = Score(difficulty=0.8, contributions=())  # 1.386 as a logit
OPEN = Surroundings(mode=Mode.APPLY, budget=BudgetView(target=0.2, threshold=1.0))


def around(**changes: object) -> Surroundings:
    return dataclasses.replace(OPEN, **changes)


def budget(threshold: float, drained: bool = False) -> BudgetView:
    return BudgetView(target=0.2, threshold=threshold, drained=drained)


def found(
    surroundings: Surroundings = OPEN,
    scored: Score = HARD,
    signals: Signals | None = None,
    wish: Wish | None = None,
    state: StateView = NOTHING,
    policy: Policy = POLICY,
):
    return decide(signals or Signals(), PLAIN.features, scored, wish or Wish(), state, policy, surroundings)


def test_a_score_above_the_threshold_is_given_the_strong_tier():
    taken = found()
    assert (taken.decision.tier, taken.decision.effort) == (Tier.STRONG, Effort.MEDIUM)
    assert (taken.decision.reason, taken.decision.eligible, taken.proposal.hit) == ("learned_difficulty", True, True)
    left = found(around(budget=budget(1.4)))
    assert (left.decision.tier, left.decision.reason, left.decision.eligible) == (Tier.BASE, "default", True)
    assert not left.proposal.hit


def test_a_gain_decides_where_there_is_one():
    easy_but_worth_it = Score(difficulty=0.1, contributions=(), gain=0.6, gain_low=0.2)
    chosen = found(scored=easy_but_worth_it)  # (1 + 0.6) / 2 = 0.8: the same logit as above
    assert (chosen.decision.reason, chosen.proposal.kind, chosen.proposal.logit) == ("learned_gain", "gain", 1.386294)
    assert found(scored=dataclasses.replace(HARD, gain=-0.5)).decision.tier is Tier.BASE


def test_who_abstains_proposes_nothing_and_is_not_counted():
    silent = found(scored=dataclasses.replace(HARD, abstained="unlike the training"))
    assert (silent.decision.tier, silent.decision.eligible, silent.proposal.hit) == (Tier.BASE, False, False)


def test_without_a_budget_nothing_is_proposed():
    decision = found(around(budget=None)).decision
    assert (decision.tier, decision.eligible) == (Tier.BASE, False)


def test_in_the_shadow_the_proposal_is_seen_and_not_followed():
    seen = found(around(mode=Mode.SHADOW))
    assert (seen.decision.tier, seen.decision.mode, seen.decision.eligible) == (Tier.BASE, Mode.SHADOW, True)
    assert (seen.shadow.tier, seen.shadow.reason) == (Tier.STRONG, "learned_difficulty")


@pytest.mark.parametrize(
    ("allowed", "gate", "mode"),
    [
        ("apply", Mode.APPLY, Mode.APPLY),
        ("apply", Mode.SHADOW, Mode.SHADOW),
        ("shadow", Mode.APPLY, Mode.SHADOW),
        ("bypass", Mode.APPLY, Mode.BYPASS),
        ("shadow", Mode.BYPASS, Mode.BYPASS),
    ],
)
def test_the_stricter_of_policy_and_gate_holds(allowed: str, gate: Mode, mode: Mode):
    policy = parse_policy({**ROUTING_V1, "learning": {"mode": allowed}})
    decision = found(around(mode=gate), policy=policy).decision
    assert decision.mode is mode
    assert decision.tier is (Tier.STRONG if mode is Mode.APPLY else Tier.BASE)


def test_a_rule_may_bypass_what_was_learned():
    rule = {"id": "no_guessing", "priority": 1, "when": "task_general", "effect": "bypass_learning"}
    policy = parse_policy({**ROUTING_V1, "rules": [rule]})
    decision = found(policy=policy).decision
    assert (decision.tier, decision.mode, decision.eligible) == (Tier.BASE, Mode.BYPASS, False)
    assert decision.reasons == ("default", "no_guessing")


@pytest.mark.parametrize(
    ("signals", "wish", "state"),
    [
        (Signals(risk=Risk.R3, needs_reasoning=True), Wish(), NOTHING),
        (Signals(risk=Risk.R2, untrusted_content=True), Wish(), NOTHING),
        (Signals(), Wish(tier=Tier.BASE), NOTHING),
        (Signals(), Wish(), StateView(latched_tier=Tier.STRONG)),
        (Signals(failures_on_base=1), Wish(), NOTHING),
        (Signals(agent=AgentState(tool_loop=True)), Wish(), StateView(last_tier=Tier.BASE)),
    ],
    ids=["risk", "untrusted", "wish", "latch", "failure", "tool loop"],
)
def test_what_was_decided_otherwise_is_not_the_budgets(signals: Signals, wish: Wish, state: StateView):
    decision = found(signals=signals, wish=wish, state=state).decision
    assert not decision.eligible
    assert not decision.reason.startswith("learned")


def test_a_drained_cap_stops_choice_and_not_force():
    surroundings = around(budget=budget(1.0, drained=True))
    stopped = found(surroundings)
    assert (stopped.decision.tier, "budget_drained" in stopped.decision.reasons) == (Tier.BASE, True)
    assert stopped.proposal.hit  # the threshold goes on following the scores
    forced = found(surroundings, signals=Signals(risk=Risk.R3, needs_reasoning=True))
    assert forced.decision.tier is Tier.STRONG


def test_load_raises_what_is_demanded_and_touches_no_floor():
    crowded = around(load=Load(strong_pressure=1.5))
    pressed = found(crowded)
    assert (pressed.decision.tier, pressed.proposal.hit, pressed.proposal.threshold) == (Tier.BASE, True, 1.0)
    assert pressed.proposal.demanded == pytest.approx(0.880797)  # 1 + 2 * 0.5 as a probability
    assert found(around(load=Load(strong_pressure=1.0))).decision.tier is Tier.STRONG
    assert found(crowded, signals=Signals(risk=Risk.R3, needs_reasoning=True)).decision.tier is Tier.STRONG
    always = found(around(load=Load(strong_pressure=1e9)), scored=dataclasses.replace(HARD, difficulty=0.9999))
    assert always.decision.tier is Tier.STRONG  # demand has an end


def test_a_session_does_not_swing_around_the_threshold():
    near = around(budget=budget(1.386))
    assert found(near).decision.tier is Tier.STRONG
    assert found(near, state=StateView(last_tier=Tier.BASE)).decision.tier is Tier.BASE
    assert found(around(budget=budget(1.5)), state=StateView(last_tier=Tier.STRONG)).decision.tier is Tier.STRONG
    # but it may rise: a trivial first turn pins nothing
    assert found(state=StateView(last_tier=Tier.BASE)).decision.tier is Tier.STRONG


def test_an_unavailable_strong_tier_is_not_proposed():
    for load in (Load(strong_up=False), Load(strong_served=False)):
        gone = found(around(load=load))
        assert (gone.decision.tier, gone.decision.hold, gone.decision.reason) == (Tier.BASE, None, "default")


def test_a_prefer_rule_and_a_ceiling_leave_nothing_to_learn():
    for effect in ("prefer", "ceiling"):
        rule = {"id": "small", "priority": 1, "when": "always", "effect": effect, "arm": {"tier": "20b"}}
        decision = found(policy=parse_policy({**ROUTING_V1, "rules": [rule]})).decision
        assert (decision.tier, decision.eligible) == (Tier.BASE, False)


# --- exploration


@pytest.mark.parametrize(
    ("draw", "tier", "explored", "propensity"),
    [
        (0.0, Tier.BASE, True, 0.01),
        (0.0099, Tier.BASE, True, 0.01),
        (0.0101, Tier.STRONG, True, 0.99),
        (0.02, Tier.STRONG, False, 0.99),
        (1.0, Tier.STRONG, False, 0.99),
    ],
)
def test_exploration_gives_both_tiers_a_known_chance(draw: float, tier: Tier, explored: bool, propensity: float):
    drawn = found(around(exploration=0.02, draw=draw))
    assert (drawn.decision.tier, drawn.decision.explored) == (tier, explored)
    assert drawn.decision.propensity == pytest.approx(propensity)
    assert dict(drawn.propensities) == pytest.approx({Tier.BASE: 0.01, Tier.STRONG: 0.99})


def test_the_frequencies_are_the_propensities():
    draws = [n / 1_000 for n in range(1_000)]
    tiers = [found(around(exploration=0.1, draw=draw)).decision.tier for draw in draws]
    assert tiers.count(Tier.BASE) == 50


@pytest.mark.parametrize(
    ("surroundings", "signals", "state"),
    [
        (around(), Signals(risk=Risk.R2), NOTHING),
        (around(), Signals(risk=Risk.R3, needs_reasoning=True), NOTHING),
        (around(), Signals(), StateView(latched_tier=Tier.STRONG)),
        (around(), Signals(failures_on_base=1), NOTHING),
        (around(load=Load(strong_up=False)), Signals(), NOTHING),
        (around(load=Load(strong_pressure=1.0)), Signals(), NOTHING),
        (around(budget=budget(1.0, drained=True)), Signals(), NOTHING),
        (around(mode=Mode.BYPASS), Signals(), NOTHING),
        (around(), Signals(agent=AgentState(tool_loop=True)), StateView(last_tier=Tier.BASE)),
    ],
    ids=["R2", "R3", "latched", "failed", "down", "crowded", "drained", "bypassed", "tool loop"],
)
def test_nothing_is_explored_where_it_matters(surroundings: Surroundings, signals: Signals, state: StateView):
    surroundings = dataclasses.replace(surroundings, exploration=0.1, draw=0.07)
    drawn = found(surroundings, signals=signals, state=state).decision
    assert (drawn.explored, drawn.propensity) == (False, 1.0)


def test_a_broken_head_never_stops_a_turn(monkeypatch: pytest.MonkeyPatch):
    def breaks(said: object, snapshot: object) -> Score:
        if snapshot is not None:
            raise ZeroDivisionError
        return score(said)  # pyright: ignore[reportArgumentType]

    class Broken:
        digest = "d" * 64

    monkeypatch.setattr(route_module, "score", breaks)
    request = ask("What is the capital of Peru?")
    broken = trace(request, NOTHING, POLICY, Broken(), OPEN)  # pyright: ignore[reportArgumentType]
    assert broken.proposal.abstained == "error"
    assert broken.decision.snapshot_digest == ""
    assert broken.decision.tier is trace(request, NOTHING, POLICY).decision.tier is Tier.BASE


def test_the_proposed_effort_is_the_tasks_own_and_not_low():
    small_talk = decide(Signals(task=TaskType.CHAT), PLAIN.features, HARD, Wish(), NOTHING, POLICY, OPEN).decision
    assert Arm(small_talk.tier, small_talk.effort) == Arm(Tier.STRONG, Effort.MEDIUM)
    proof = decide(Signals(task=TaskType.MATHEMATICS), PLAIN.features, HARD, Wish(), NOTHING, POLICY, OPEN).decision
    assert Arm(proof.tier, proof.effort) == Arm(Tier.STRONG, Effort.HIGH)
