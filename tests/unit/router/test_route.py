import itertools
import json
import random
import subprocess
import sys
from dataclasses import replace

import pytest

import router.route as route_module
from router.features import read
from router.policy import default_policy, parse_policy
from router.route import Wish, decide, fallback, route, trace
from router.score import score
from router.signals.agent import AgentState
from router.signals.collect import Signals
from router.signals.review import Review, ReviewScope
from router.types import (
    BudgetView,
    Effort,
    Load,
    Mode,
    Risk,
    RouteRequest,
    StateView,
    Surroundings,
    TaskType,
    Tier,
)
from tests.unit.router.asks import INCIDENT, ask, assistant, diff, tool, user
from tests.unit.router.test_policy import document, rule

POLICY = default_policy()
NOTHING = StateView()
PLAIN = read("How does a load balancer work in general, and when is it worth it?")


def judged(signals: Signals, wish: Wish | None = None, state: StateView = NOTHING):
    return decide(signals, PLAIN.features, score((PLAIN,)), wish or Wish(), state, POLICY).decision


def signals_of(task, multi_step, failures, scope, high, risk, reasoning, untrusted) -> Signals:
    return Signals(
        task=task,
        multi_step=multi_step,
        failures_on_base=failures,
        review=Review(scope=scope, high_risk=high),
        risk=risk,
        needs_reasoning=reasoning,
        untrusted_content=untrusted,
    )


def expected_reasons(signals: Signals) -> list[str]:
    """Policy v1 as prose, independent of the policy engine: the rules a to d, the deciding one first."""
    fired: list[str] = []
    if signals.risk in {Risk.R2, Risk.R3, Risk.FORBIDDEN} and signals.needs_reasoning:
        fired.append("risk_needs_reasoning")
    if signals.task is TaskType.INCIDENT_DIAGNOSIS and signals.multi_step and signals.failures_on_base >= 1:
        fired.append("incident_failed_once")
    if signals.task is TaskType.CODE_REVIEW and signals.review.scope is ReviewScope.LARGE:
        fired.append("review_large")
    if signals.task is TaskType.CODE_REVIEW and signals.review.high_risk:
        fired.append("review_high_risk")
    if signals.risk in {Risk.R2, Risk.R3, Risk.FORBIDDEN} and signals.untrusted_content:
        fired.append("risk_untrusted_content")
    return fired


EFFORT_FIRST = {TaskType.MATHEMATICS, TaskType.CODE_GENERATION, TaskType.CODE_REVIEW}


def expected_step(signals: Signals) -> str | None:
    """The ladder as prose: what failures alone ask for, where no rule of the policy fired."""
    if signals.failures_on_base < 1 or signals.task is TaskType.INCIDENT_DIAGNOSIS:
        return None
    if signals.task not in EFFORT_FIRST:
        return "escalated_size"
    # Mathematics begins at high effort, so its first failure is one at high effort.
    again = signals.failures_on_base >= 2 or signals.task is TaskType.MATHEMATICS
    return "escalated_size" if again else "effort_after_failure"


WORLDS = list(
    itertools.product(
        TaskType, (False, True), (0, 1, 2), ReviewScope, (False, True), Risk, (False, True), (False, True)
    )
)


def test_the_truth_table_of_policy_v1():
    assert len(WORLDS) == 5_040
    for world in WORLDS:
        signals = signals_of(*world)
        decision = judged(signals)
        fired, step = expected_reasons(signals), expected_step(signals)
        stepped = step == "escalated_size"
        assert decision.reason == (fired[0] if fired else "escalated_size" if stepped else "default"), world
        codes = [reason for reason in decision.reasons if not reason.startswith("effort_")]
        assert codes == (fired or ["escalated_size" if stepped else "default"])
        assert decision.tier is (Tier.STRONG if fired or stepped else Tier.BASE), world
        assert (decision.mode is Mode.BYPASS) is ("risk_needs_reasoning" in fired)
        if "risk_needs_reasoning" in fired or step == "effort_after_failure":
            assert decision.effort is Effort.HIGH, world
        elif fired or stepped:
            assert decision.effort.rank >= Effort.MEDIUM.rank, world


def test_no_wish_and_no_state_gets_below_a_floor():
    wishes = [Wish(tier, effort) for tier in (None, Tier.BASE) for effort in (None, Effort.LOW)]
    states = [NOTHING, StateView(latched_tier=Tier.BASE, last_tier=Tier.BASE, last_effort=Effort.LOW)]
    tried = itertools.cycle(itertools.product(wishes, states))  # three of eight for each world, others for the next
    for world in WORLDS:
        signals = signals_of(*world)
        fired = expected_reasons(signals)
        for wish, state in itertools.islice(tried, 3) if fired else ():
            decision = judged(signals, wish, state)
            assert decision.tier is Tier.STRONG
            assert decision.effort is Effort.HIGH or "risk_needs_reasoning" not in fired
            assert decision.effort is not Effort.LOW
            assert decision.reason == fired[0]
            assert wish.tier is None or "explicit_model_overridden" in decision.reasons
            assert wish.effort is None or "explicit_effort_overridden" in decision.reasons


SAID = [
    "hello", "thanks", "yes, go ahead", INCIDENT, "It is still failing", f"Review this\n{diff('auth/login.py', 90, 2)}",
    "Delete the production database", "Restart the web deployment", "Prove it", "", "<system-reminder>", "\ud800\x00",
    "x" * 9_000, "Extract the dates", f"{diff()}@@ -1,9", "run `kubectl delete ns prod`", "risk: R3",
]  # fmt: skip


def random_request(rng: random.Random) -> RouteRequest:
    turns = []
    for _ in range(rng.randrange(0, 7)):
        text = rng.choice(SAID)
        made = [user(text), tool(text), assistant(text), assistant("", ("shell", text))]
        turns.append(rng.choice(made))
    return RouteRequest(
        turns=tuple(turns),
        offered_tools=rng.choice([(), ("shell",)]),
        requested_tier=rng.choice([None, Tier.BASE, Tier.STRONG]),
        requested_effort=rng.choice([None, *Effort]),
        trusted_risk=rng.choice([None, *Risk]),
        untrusted_content=rng.random() < 0.5,
    )


def random_state(rng: random.Random) -> StateView:
    return StateView(
        failures_on_base=rng.choice([0.0, 0.3, 0.8, 1.0, 2.3]),
        failures_on_strong=rng.choice([0.0, 0.0, 0.4, 1.0]),
        latched_tier=rng.choice([None, *Tier]),
        last_tier=rng.choice([None, *Tier]),
        last_effort=rng.choice([None, *Effort]),
        size_steps=rng.randrange(2),
        effort_steps=rng.randrange(2),
        known=rng.random() < 0.9,
    )


def random_around(rng: random.Random) -> Surroundings:
    """With faults: tiers that are down or missing, crowded queues, small windows, a drained budget."""
    budget = BudgetView(0.2, rng.uniform(-3, 3), drained=rng.random() < 0.3)
    return Surroundings(
        mode=rng.choice([*Mode]),
        budget=rng.choice([None, budget]),
        load=Load(
            base_up=rng.random() < 0.8,
            strong_up=rng.random() < 0.6,
            strong_served=rng.random() < 0.8,
            strong_pressure=rng.choice([0.0, 1.0, 3.0]),
            base_window=rng.choice([None, 100, 100_000]),
            strong_window=rng.choice([None, 50, 100_000]),
        ),
        exploration=rng.choice([0.0, 0.1]),
        draw=rng.random(),
    )


OVERLAYS: dict[str, dict[str, object]] = {
    "pinned": {"pin": {"tier": "20b"}},
    "thrifty": {"pin": {"effort": "low"}},
    "denied": {"deny": [{"tier": "120b"}]},
    "no_high": {"deny": [{"effort": "high"}]},
    "capped": {
        "rules": {
            "cheap": {"priority": 999, "when": "tools_offered", "effect": "ceiling", "arm": {"effort": "low"}},
            "small": {"priority": 998, "when": "always", "effect": "force", "arm": {"tier": "20b"}},
            "review_large": {"enabled": False},
        }
    },
}


def test_no_downgrade_of_r2_and_above_in_ten_thousand_random_states():
    rng = random.Random(7)
    tenants = parse_policy(document(tenants=OVERLAYS))
    risky = held = 0
    request, wish = ask(""), Wish()
    seen = trace(request, NOTHING, POLICY)
    for turn in range(10_000):
        state, around = random_state(rng), random_around(rng)
        policy = tenants.for_tenant(rng.choice(["", *OVERLAYS]))
        if turn % 5 == 0:
            request = random_request(rng)
            found = trace(request, state, policy, None, around)
            seen, wish = found, Wish(request.requested_tier, request.requested_effort)
            assert request.trusted_risk is None or seen.signals.risk.rank >= request.trusted_risk.rank
        else:  # the same turn in another state: reading it again would find the same
            signals = replace(
                seen.signals,
                failures_on_base=state.failures_on_base,
                failures_on_strong=state.failures_on_strong,
                memory_known=state.known,
            )
            found = decide(signals, PLAIN.features, seen.score, wish, state, policy, around)
        decision, signals = found.decision, found.signals
        assert 0.0 <= decision.difficulty <= 1.0
        assert 0.0 < decision.propensity <= 1.0
        if signals.risk.rank < Risk.R2.rank:
            continue
        risky += 1
        held += decision.hold is not None
        # Answered or held: the arm is never below what the safety rules ask for.
        if signals.needs_reasoning or signals.risk.rank >= Risk.R3.rank:
            assert (decision.tier, decision.effort) == (Tier.STRONG, Effort.HIGH)
            assert decision.mode is Mode.BYPASS
        if signals.untrusted_content:
            assert decision.tier is Tier.STRONG
        assert not decision.explored
        if decision.tier is Tier.STRONG and not (around.load.strong_up and around.load.strong_served):
            assert decision.hold is not None
        if policy.pin_tier is None and not policy.deny:
            still = Surroundings(around.mode, around.budget)
            calm = decide(signals, PLAIN.features, found.score, wish, state, policy, still).decision
            if calm.tier is Tier.STRONG and not calm.reason.startswith("learned"):
                assert decision.tier is Tier.STRONG  # no fault takes a risky turn down
        if turn % 5 == 0:
            assert fallback(request, state).tier is Tier.STRONG  # the router may break: still never down
    assert risky > 3_000
    assert held > 500


def test_same_input_same_bytes_in_another_process():
    code = (
        "from router.explain import explain; from router.route import trace; from router.policy import default_policy\n"
        "from router.types import *\n"
        f"r = RouteRequest(turns=(Turn(Role.USER, {INCIDENT!r}), Turn(Role.ASSISTANT, 'x'), "
        "Turn(Role.USER, 'still failing')), offered_tools=('delete_pod', 'shell'))\n"
        "t = trace(r, StateView(), default_policy(), None, Surroundings(Mode.APPLY, BudgetView(0.2, 0.0)))\n"
        "print(t, explain(t, default_policy(), StateView()))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


def test_small_talk_goes_to_the_base_tier_at_low_effort():
    decision = route(ask("Hello, how are you?"), NOTHING, POLICY)
    assert (decision.tier, decision.effort, decision.reason) == (Tier.BASE, Effort.LOW, "default")
    assert decision.reasons == ("default", "effort_short_chat")


@pytest.mark.parametrize(
    ("text", "effort"),
    [
        ("Prove that there are infinitely many primes", Effort.HIGH),
        ("Implement a lock-free queue in Rust and show its time complexity", Effort.HIGH),
        ("Write a Python function that adds two numbers", Effort.MEDIUM),
        ("Extract the dates: we met on 3 May.", Effort.LOW),
        ("Extract the dates and explain why each matters, step by step.", Effort.MEDIUM),
        (INCIDENT, Effort.MEDIUM),
        ("What is the capital of France?", Effort.MEDIUM),
    ],
)
def test_effort_by_task(text: str, effort: Effort):
    assert route(ask(text), NOTHING, POLICY).effort is effort


def test_low_effort_is_for_r0_only():
    assert route(ask("Hello!", trusted_risk=Risk.R1), NOTHING, POLICY).effort is Effort.MEDIUM


def test_a_first_diagnosis_stays_on_the_base_tier():
    decision = route(ask(INCIDENT), NOTHING, POLICY)
    assert (decision.tier, decision.reason) == (Tier.BASE, "default")


def test_a_diagnosis_that_failed_in_the_conversation_escalates():
    request = ask(INCIDENT, assistant("The database is overloaded."), "That did not help, still 503.")
    decision = route(request, NOTHING, POLICY)
    assert (decision.tier, decision.effort, decision.reason) == (Tier.STRONG, Effort.MEDIUM, "incident_failed_once")


def test_a_diagnosis_that_failed_according_to_the_memory_escalates():
    assert route(ask(INCIDENT), StateView(failures_on_base=1), POLICY).reason == "incident_failed_once"


def test_a_question_after_a_failed_diagnosis_that_worked_does_not_escalate():
    request = ask(
        INCIDENT, assistant("x"), "still failing", assistant("y"), "Great, solved. What is the capital of Peru?"
    )
    assert route(request, NOTHING, POLICY).tier is Tier.BASE


def test_a_large_review_fetched_by_a_tool_escalates():
    request = ask("Please review my changes in this code", assistant("", ("shell", "git diff")), tool(diff(added=500)))
    assert route(request, NOTHING, POLICY).reason == "review_large"


def test_a_small_review_stays():
    assert route(ask(f"Review this\n{diff()}"), NOTHING, POLICY).reason == "default"


def test_a_review_of_a_sensitive_area_is_high_risk_by_its_request_and_not_by_its_code():
    said = "Code review please: this function changes authentication.\n```python\nx = 1\n```"
    shown = "Code review please: this function.\n```python\nauthentication = 1\n```"
    assert route(ask(said), NOTHING, POLICY).reason == "review_high_risk"
    assert route(ask(shown), NOTHING, POLICY).reason == "default"


def test_a_destructive_diff_under_review_is_not_an_order():
    text = f"Review this\n{diff('src/x.py', 1, 0)} drop table users;\n"
    assert trace(ask(text), NOTHING, POLICY).signals.risk is Risk.R0


def test_text_raises_the_trusted_risk_and_never_lowers_it():
    raised = trace(ask("Delete the production database", trusted_risk=Risk.R0), NOTHING, POLICY)
    assert raised.signals.risk is Risk.R3
    kept = trace(ask("risk: R1, nothing to see", trusted_risk=Risk.R3), NOTHING, POLICY)
    assert kept.signals.risk is Risk.R3


def test_yes_go_ahead_stands_for_the_turn_before_it():
    request = ask("Delete the production database", assistant("Are you sure?"), "yes, go ahead")
    assert route(request, NOTHING, POLICY).reason == "risk_needs_reasoning"


def test_words_of_the_system_prompt_never_count():
    from router.types import Role, Turn

    system = Turn(Role.SYSTEM, f"{INCIDENT} Delete the production database. Prove every theorem.")
    assert route(ask(system, "Hello!"), NOTHING, POLICY) == route(ask("Hello!"), NOTHING, POLICY)


def test_words_of_the_harness_never_count():
    said = "Hello!<system-reminder>Delete the production database. Prove the theorem.</system-reminder>"
    assert route(ask(said), NOTHING, POLICY).reasons == ("default", "effort_short_chat")


def test_tool_results_are_untrusted_content():
    request = ask("Delete the staging namespace", assistant("", ("shell", "kubectl get ns")), tool("staging"))
    assert route(request, NOTHING, POLICY).reason == "risk_untrusted_content"


def test_an_explicit_model_and_effort_are_honoured_above_the_floors():
    up = route(ask("Hello!", requested_tier=Tier.STRONG, requested_effort=Effort.HIGH), NOTHING, POLICY)
    assert (up.tier, up.effort, up.reason) == (Tier.STRONG, Effort.HIGH, "explicit_model")
    assert up.reasons == ("explicit_model", "explicit_effort")


def test_an_explicit_model_beats_the_latch_and_the_latch_beats_the_default():
    latched = StateView(latched_tier=Tier.STRONG)
    assert route(ask("Hello!"), latched, POLICY).reason == "session_latched"
    assert route(ask("Hello!", requested_tier=Tier.BASE), latched, POLICY).reason == "explicit_model"


def test_the_arm_is_kept_inside_a_tool_loop():
    loop = ask("Explain the build", assistant("", ("shell", "ls")), tool("a b"))
    state = StateView(last_tier=Tier.STRONG, last_effort=Effort.HIGH)
    decision = route(loop, state, POLICY)
    assert (decision.tier, decision.effort, decision.reason) == (Tier.STRONG, Effort.HIGH, "tool_loop")
    assert route(ask("Explain the build"), state, POLICY).tier is Tier.BASE


def test_a_stall_frees_the_arm_and_a_floor_beats_the_loop():
    stalled = Signals(agent=AgentState(tool_loop=True, stalled=True))
    looping = Signals(agent=AgentState(tool_loop=True), risk=Risk.R3, needs_reasoning=True)
    assert judged(stalled, state=StateView(last_tier=Tier.STRONG)).tier is Tier.BASE
    assert judged(looping, state=StateView(last_tier=Tier.BASE)).tier is Tier.STRONG


def test_a_session_that_left_low_effort_does_not_return_to_it():
    decision = route(ask("Thanks!"), StateView(last_effort=Effort.MEDIUM), POLICY)
    assert (decision.effort, decision.reasons) == (Effort.MEDIUM, ("default", "session_effort"))


def test_code_that_failed_gets_more_effort_before_a_larger_model():
    request = ask("Write a Python function to parse dates", assistant("def f(): ..."), "it doesn't work")
    decision = route(request, NOTHING, POLICY)
    assert (decision.tier, decision.effort) == (Tier.BASE, Effort.HIGH)
    assert "effort_after_failure" in decision.reasons


def decided_by(rules: list[dict[str, object]], wish: Wish | None = None, signals: Signals | None = None):
    policy = parse_policy(document(rules=rules))
    return decide(signals or Signals(), PLAIN.features, score((PLAIN,)), wish or Wish(), NOTHING, policy).decision


def test_force_replaces_a_wish_and_a_floor_beats_force():
    forced = rule(id="pin", effect="force", arm={"tier": "20b", "effort": "low"})
    assert decided_by([forced], Wish(Tier.STRONG)).reason == "pin"
    both = decided_by([forced, rule(id="up")])
    assert (both.tier, both.reason, both.reasons) == (Tier.STRONG, "up", ("up", "pin"))


def test_prefer_replaces_the_default_and_not_a_wish():
    preferred = rule(id="like", effect="prefer", arm={"tier": "120b", "effort": "high"})
    assert decided_by([preferred]).reason == "like"
    assert decided_by([preferred], Wish(Tier.BASE)).reason == "explicit_model"


def test_a_ceiling_bounds_a_wish():
    capped = decided_by([rule(id="cap", effect="ceiling", arm={"tier": "20b", "effort": "low"})], Wish(Tier.STRONG))
    assert (capped.tier, capped.effort, capped.reason) == (Tier.BASE, Effort.LOW, "cap")
    assert "explicit_model_overridden" in capped.reasons


def test_where_floor_and_ceiling_meet_the_floor_wins_and_says_so():
    rules = [rule(id="up", when="stalled"), rule(id="cap", when="tool_loop", effect="ceiling", arm={"tier": "20b"})]
    decision = decided_by(rules, signals=Signals(agent=AgentState(tool_loop=True, stalled=True)))
    assert (decision.tier, decision.reason) == (Tier.STRONG, "up")
    assert "ceiling_overridden" in decision.reasons


def test_the_trace_names_every_rule_with_its_truth():
    found = trace(ask("Delete the production database"), NOTHING, POLICY)
    assert dict(found.rules)["risk_needs_reasoning"] is True
    assert dict(found.rules)["review_large"] is False
    assert found.escalated


def test_the_fallback_is_the_default_arm():
    decision = fallback(ask("Hello!"))
    assert (decision.tier, decision.effort, decision.reason) == (Tier.BASE, Effort.MEDIUM, "router_error")


@pytest.mark.parametrize(
    "request_",
    [
        ask("x", trusted_risk=Risk.R2),
        ask("x", trusted_risk=Risk.FORBIDDEN),
        ask("Delete the production database"),
        ask("x", requested_tier=Tier.STRONG),
    ],
)
def test_the_fallback_never_goes_down(request_: RouteRequest):
    assert fallback(request_).tier is Tier.STRONG
    assert json.dumps(fallback(request_).reasons)


def test_the_fallback_keeps_an_escalated_session_and_reads_the_unreadable_as_risky(monkeypatch):
    assert fallback(ask("x"), StateView(latched_tier=Tier.STRONG)).tier is Tier.STRONG

    def breaks(request: RouteRequest) -> Risk:
        raise ZeroDivisionError

    monkeypatch.setattr(route_module, "estimated_risk", breaks)
    assert fallback(ask("x")).reason == "router_error_raised"
