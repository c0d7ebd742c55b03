import dataclasses

import pytest

from router.effort import MEASURED, Benchmark, effort_first, kept_effort, nearest_benchmark
from router.policy import default_policy
from router.route import decide, trace
from router.score import score
from router.signals.agent import AgentState, Severity
from router.signals.collect import Signals
from router.state import Escalation, escalate
from router.types import Effort, StateView, TaskType, Tier
from tests.unit.router.asks import ask, assistant, tool
from tests.unit.router.test_route import PLAIN

CODE = Signals(task=TaskType.CODE_GENERATION)
FACTS = Signals(task=TaskType.GENERAL)
INCIDENT = Signals(task=TaskType.INCIDENT_DIAGNOSIS)
LAST = StateView(last_tier=Tier.BASE, last_effort=Effort.MEDIUM)
POLICY = default_policy()


def failed(signals: Signals, base: float = 0.0, strong: float = 0.0, agent: AgentState | None = None) -> Signals:
    return dataclasses.replace(signals, failures_on_base=base, failures_on_strong=strong, agent=agent or AgentState())


@pytest.mark.parametrize(
    ("benchmark", "first"),
    [
        (Benchmark.AIME_2024, True),
        (Benchmark.CODEFORCES, True),
        (Benchmark.BUG_FIXING, True),
        (Benchmark.AIDER_POLYGLOT, True),
        (Benchmark.TAU_RETAIL, False),
        (Benchmark.TAU_AIRLINE, False),
        (Benchmark.GPQA_DIAMOND, False),
        (Benchmark.MMLU, False),
        (Benchmark.MMMLU, False),
        (Benchmark.HEALTHBENCH_HARD, False),
    ],
)
def test_the_order_follows_from_the_measured_figures(benchmark: Benchmark, first: bool):
    assert MEASURED[benchmark].effort_first is first


def test_tasks_and_what_they_are_like():
    assert nearest_benchmark(INCIDENT) is None
    assert effort_first(CODE)
    assert effort_first(Signals(task=TaskType.MATHEMATICS))
    assert effort_first(dataclasses.replace(FACTS, proof_or_algorithm=True))
    assert not effort_first(FACTS)
    assert nearest_benchmark(dataclasses.replace(FACTS, language="de")) is Benchmark.MMMLU
    assert nearest_benchmark(dataclasses.replace(FACTS, tools_offered=True)) is Benchmark.TAU_RETAIL


@pytest.mark.parametrize(
    ("signals", "state", "usual", "expected"),
    [
        (failed(CODE, 0.9), LAST, Effort.MEDIUM, Escalation()),
        (failed(CODE, 1), LAST, Effort.MEDIUM, Escalation(effort=Effort.HIGH)),
        (failed(CODE, 2), LAST, Effort.MEDIUM, Escalation(Tier.STRONG, Effort.HIGH)),
        # the first attempt was at high already
        (failed(CODE, 1), StateView(last_effort=Effort.HIGH), Effort.MEDIUM, Escalation(Tier.STRONG, Effort.HIGH)),
        (failed(CODE, 1), StateView(), Effort.HIGH, Escalation(Tier.STRONG, Effort.HIGH)),
        # the step of effort has been taken, and the failure is still the one before it
        (failed(CODE, 1), StateView(last_effort=Effort.HIGH, effort_steps=1), Effort.MEDIUM,
         Escalation(effort=Effort.HIGH)),
        (failed(FACTS, 1), LAST, Effort.MEDIUM, Escalation(Tier.STRONG, Effort.MEDIUM)),
        (failed(INCIDENT, 1), LAST, Effort.MEDIUM, Escalation()),  # the policy's rule decides
        # no second step of size once the first one was released
        (failed(FACTS, 1), StateView(size_steps=1), Effort.MEDIUM, Escalation()),
        (failed(FACTS, 1, 1), LAST, Effort.MEDIUM, Escalation(hand_over=True)),
        (failed(FACTS, 0.4 + 0.3 + 0.3), LAST, Effort.MEDIUM, Escalation(Tier.STRONG, Effort.MEDIUM)),
    ],
    ids=str,
)  # fmt: skip
def test_the_ladder(signals: Signals, state: StateView, usual: Effort, expected: Escalation):
    assert escalate(signals, state, usual) == expected


@pytest.mark.parametrize(
    ("agent", "state", "waits"),
    [
        (AgentState(tool_loop=True), LAST, True),
        (AgentState(tool_loop=True, stalled=True), LAST, False),
        (AgentState(tool_loop=True, severity=Severity.CRITICAL), LAST, False),
        (AgentState(tool_loop=True), StateView(), False),  # nothing is remembered, so nothing would be kept
        (AgentState(), LAST, False),
    ],
)
def test_a_tool_loop_is_left_alone_unless_it_stalls_or_breaks(agent: AgentState, state: StateView, waits: bool):
    found = escalate(failed(FACTS, 1, agent=agent), state, Effort.MEDIUM)
    assert found.waits is waits
    assert (found.tier is Tier.STRONG) is not waits


def decision_of(signals: Signals, state: StateView):
    from router.route import Wish

    return decide(signals, PLAIN.features, score((PLAIN,)), Wish(), state, POLICY)


def test_at_most_one_step_of_each_kind_is_counted():
    first = decision_of(failed(CODE, 1), LAST)
    assert (first.effort_step, first.size_step) == (True, False)
    assert "effort_after_failure" in first.decision.reasons
    again = decision_of(failed(CODE, 1), dataclasses.replace(LAST, last_effort=Effort.HIGH, effort_steps=1))
    assert (again.effort_step, again.decision.effort) == (False, Effort.HIGH)
    larger = decision_of(failed(CODE, 2), dataclasses.replace(LAST, last_effort=Effort.HIGH, effort_steps=1))
    assert (larger.size_step, larger.escalated, larger.decision.reason) == (True, True, "escalated_size")


def test_a_failed_strong_attempt_is_handed_over_and_stays_where_it_is():
    state = StateView(failures_on_base=1, failures_on_strong=1, latched_tier=Tier.STRONG, last_tier=Tier.STRONG)
    found = decision_of(failed(FACTS, 1, 1), state).decision
    assert found.hand_over
    assert (found.tier, "hand_over" in found.reasons) == (Tier.STRONG, True)
    assert not decision_of(failed(FACTS, 1, 0.8), state).decision.hand_over


def test_what_a_user_says_counts_against_the_tier_that_answered():
    request = ask("What is the capital of Peru?", assistant("Quito"), "That did not work")
    on_strong = trace(request, StateView(last_tier=Tier.STRONG, latched_tier=Tier.STRONG), POLICY)
    assert (on_strong.signals.failures_on_base, on_strong.signals.failures_on_strong) == (0, 1)
    assert on_strong.decision.hand_over
    assert trace(request, StateView(last_tier=Tier.BASE), POLICY).signals.failures_on_base == 1


def test_an_escalation_waits_for_the_end_of_a_tool_loop():
    state = StateView(failures_on_base=1, last_tier=Tier.BASE, last_effort=Effort.MEDIUM)
    loop = ask("Look at the build and tell me about it", assistant("", ("shell", "ls")), tool("a b"))
    waiting = trace(loop, state, POLICY).decision
    assert (waiting.tier, "escalation_waits" in waiting.reasons) == (Tier.BASE, True)
    assert trace(ask("Look at the build and tell me about it"), state, POLICY).decision.tier is Tier.STRONG


def test_an_unknown_memory_says_so():
    hello = trace(ask("Hello!"), StateView(known=False), POLICY).decision
    assert (hello.tier, hello.reason) == (Tier.BASE, "default")
    assert "memory_unknown" in hello.reasons


def test_an_unknown_memory_takes_a_risky_turn_up():
    risky = ask("Delete the staging namespace")
    assert trace(risky, StateView(), POLICY).decision.tier is Tier.BASE
    unknown = trace(risky, StateView(known=False), POLICY).decision
    assert (unknown.tier, unknown.reason) == (Tier.STRONG, "memory_unknown")


@pytest.mark.parametrize(
    ("wanted", "last", "tokens", "kept"),
    [
        (Effort.MEDIUM, None, 0, None),
        (Effort.HIGH, Effort.MEDIUM, 10**6, None),
        (Effort.LOW, Effort.MEDIUM, 10, Effort.MEDIUM),
        (Effort.LOW, Effort.HIGH, 10, Effort.MEDIUM),
        (Effort.LOW, Effort.HIGH, 10**6, Effort.HIGH),
        (Effort.MEDIUM, Effort.HIGH, 10, None),
        (Effort.MEDIUM, Effort.HIGH, 10**6, Effort.HIGH),
    ],
)
def test_effort_falls_only_where_that_pays(wanted: Effort, last: Effort | None, tokens: int, kept: Effort | None):
    assert kept_effort(wanted, last, tokens) is kept
