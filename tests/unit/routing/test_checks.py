"""The checks that need no labels: drift, detectors, invariants, time."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from router.policy import default_policy, parse_policy
from router.routing_v1 import ROUTING_V1
from router.types import TaskType
from serve_app.config import environment
from serve_app.routing.asked import ask, ask_all
from serve_app.routing.data import Case, Incident, Tiered, key_of
from serve_app.routing.detectors import conformance, detector, opinions
from serve_app.routing.drift import drift, logit
from serve_app.routing.invariants import explain_sums, policy_table, risk_floors, same_bytes
from serve_app.routing.timing import cost, log_of

POLICY = default_policy()
INCIDENT = (
    "Checkout has been failing in production since 14:30: the api pods restart and clients see 503 errors. "
    "Investigate and find the root cause."
)


def test_a_frozen_threshold_drifts_and_the_controller_holds() -> None:
    draw = np.random.default_rng(0)
    stream = [("a", draw.beta(2, 5, 2000)), ("b", draw.beta(5, 2, 2000)), ("c", draw.beta(2, 9, 2000))]
    found = drift("made up", stream)
    assert found.segments[0].frozen == pytest.approx(0.2, abs=0.01)
    assert found.segments[1].frozen > 0.8
    assert found.segments[2].frozen < 0.1
    assert found.worst_segment < 0.02
    assert found.overall < 0.01
    assert found.replicated == pytest.approx(0.2, abs=0.02)
    assert [part.turns for part in found.segments] == [2000, 2000, 2000]


def test_log_odds_of_certainty_are_finite() -> None:
    assert np.isfinite(logit(np.asarray([0.0, 1.0]))).all()
    assert logit(np.asarray([0.5])).tolist() == [0.0]


def test_recall_and_false_positives_are_counted_by_kind() -> None:
    incidents = [Incident(str(i), "k", "p", task, "Bank", 0.0) for i, task in enumerate(("task_1", "task_1", "task_7"))]
    others = [Tiered(str(i), "k", "p", "SIMPLE", kind, "en") for i, kind in enumerate(("chat", "debugging", "chat"))]
    yes, no = ask(INCIDENT, POLICY, None), ask("hi", POLICY, None)
    assert yes.signals.task is TaskType.INCIDENT_DIAGNOSIS
    found = detector(incidents, [yes, no, yes], others, [no, yes, yes])
    assert found.recall == pytest.approx(2 / 3)
    assert found.recall_by_task == {"task_1": 0.5, "task_7": 1.0}
    assert (found.others, found.false_positive_share) == (2, 0.5)
    assert (found.apart, found.apart_share) == (1, 1.0)
    assert found.hits_by_category == {"chat": (1, 2), "debugging": (1, 1)}


def test_cases_of_another_router_are_compared() -> None:
    cases = [
        Case("1", "k", "What is 3 * (4 + 5) / 9? Compute the sum.", "domain_classify_cases", "math"),
        Case("2", "k", "Who wrote Faust?", "domain_classify_cases", "history"),
        Case("3", "k", "hi", "entropy_routing_cases", "very_low"),
        Case(
            "4",
            "k",
            "Prove that the algorithm terminates and explain why step by step.",
            "entropy_routing_cases",
            "high",
        ),
        Case("5", "k", "x", "embedding_signal_cases", ""),
    ]
    found = conformance(cases, [ask(case.prompt, POLICY, None) for case in cases])
    assert found.mathematics_recall == 1.0
    assert found.mathematics_false == 0.0
    assert found.uncertainty == pytest.approx(1.0)
    assert found.decisions == {"none": (0, 1)}


def test_opinions_are_by_language_and_leave_out_rare_ones() -> None:
    rows = [
        Tiered(str(i), key_of(str(i)), "x" * (100 if i % 2 else 10), "COMPLEX" if i % 2 else "SIMPLE", "c", lang)
        for i, lang in enumerate(["en"] * 30 + ["cs"] * 2)
    ]
    found = opinions(rows, np.zeros(32), 10)
    assert [each.lang for each in found] == ["all", "en"]
    assert found[0].length.value == 1.0
    assert found[0].difficulty.value == 0.5


def test_an_explanation_that_leaves_something_over_is_found() -> None:
    fine = [ask(prompt, POLICY, None) for prompt in ("hi", INCIDENT, "")]
    assert explain_sums(fine).passed
    (name, value), *rest = fine[1].score.contributions
    wrong = replace(fine[1], score=replace(fine[1].score, contributions=((name, value + 0.01), *rest)))
    assert not explain_sums([*fine, wrong]).passed


def test_policy_v1_is_what_is_written_down_and_a_changed_one_is_not() -> None:
    assert policy_table(POLICY).wrong == ()
    assert policy_table(POLICY).combinations == 7 * 4 * 64
    rules = [rule for rule in ROUTING_V1["rules"] if rule["id"] != "review_high_risk"]
    changed = policy_table(parse_policy({**ROUTING_V1, "rules": rules}))
    assert changed.wrong
    assert "review_high_risk" in changed.wrong[0]


def test_no_risky_turn_is_downgraded_and_a_policy_that_does_is_found() -> None:
    found = risk_floors(POLICY, None, 400)
    assert found.downgrades == ()
    assert found.faults == 40
    rules = [rule for rule in ROUTING_V1["rules"] if not rule["id"].startswith("risk_")]
    assert risk_floors(parse_policy({**ROUTING_V1, "rules": rules}), None, 400).downgrades


_LINES = "import sys; lines = open(sys.argv[1]).read().splitlines()\n"


@pytest.mark.parametrize(
    ("script", "passed"),
    [
        (_LINES + "print(*map(len, lines), sep='\\n')", True),
        (_LINES + "print(*map(hash, lines), sep='\\n')", False),
        (_LINES + "print(len(lines[0]))", False),
        (_LINES + "print(*map(len, lines), sep='\\n'); sys.exit(1)", False),
    ],
    ids=["stable", "hash", "row-missing", "fails"],
)
def test_processes_must_print_the_same_bytes_a_row_per_prompt(script: str, passed: bool) -> None:
    found = same_bytes(["What is up?", INCIDENT], environment(), (1, 2), (sys.executable, "-S", "-c", script))
    assert (found.prompts, found.processes, found.passed) == (2, 2, passed)


def test_answers_for_many_prompts_are_columns() -> None:
    found = ask_all([INCIDENT, "hi"], None)
    assert found.tasks == (TaskType.INCIDENT_DIAGNOSIS, TaskType.CHAT)
    assert found.gain is None
    assert found.strong.tolist() == [0.0, 0.0]
    assert found.difficulty[0] > found.difficulty[1]


@pytest.mark.parametrize("size", [1_000, 64_000])
def test_a_log_has_the_size_asked_for_and_ends_with_the_question(size: int) -> None:
    assert len(log_of(size)) == size
    assert log_of(size).endswith("root cause?")
    assert len(re.findall("ERROR", log_of(size))) > 2


def test_the_cost_of_calls() -> None:
    found = cost([1000, 2000, 3000])
    assert (found.calls, found.least_us, found.p50_us, found.per_second) == (3, 1.0, 2.0, pytest.approx(500_000))
