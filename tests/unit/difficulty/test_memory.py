import json

import pytest

from deployments.difficulty.memory import Decided, Evidence, RouteMemory, Session, SessionMemory, unpack
from deployments.ports import (
    Effort,
    RequestId,
    Risk,
    RouteExplanation,
    RouteId,
    SessionId,
    TenantId,
    Tier,
)
from router.types import StateView
from tests.fakes_difficulty import DECISION

ACME, OTHER = TenantId("acme"), TenantId("other")
SESSION = SessionId("s1")
IDLE_MS = 30 * 60 * 1_000


def memory(sessions: int = 10) -> SessionMemory:
    return SessionMemory(sessions, IDLE_MS)


def evidence(event: str, weight: float = 1.0, **fields: object) -> Evidence:
    made: dict[str, object] = {"tenant": ACME, "session": SESSION, "tier": Tier.BASE, **fields}
    return Evidence(event_id=event, weight=weight, **made)


def turn(tier: Tier = Tier.BASE, effort: Effort = Effort.MEDIUM, **fields: object) -> Decided:
    made: dict[str, object] = {"tenant": ACME, "session": SESSION, "turn": "route_1", **fields}
    return Decided(tier=tier, effort=effort, **made)


def test_an_unknown_session_has_no_history():
    assert memory().view(ACME, SESSION, 0) == StateView()


def test_evidence_adds_up_on_its_tier():
    known = memory()
    for number, weight in enumerate((1.0, 0.5, 0.3)):
        known.observe(evidence(str(number), weight), 0)
    known.observe(evidence("strong", tier=Tier.STRONG), 0)
    seen = known.view(ACME, SESSION, 0)
    assert (seen.failures_on_base, seen.failures_on_strong) == (pytest.approx(1.8), 1.0)


def test_the_same_event_twice_is_one_failure():
    known = memory()
    assert known.observe(evidence("e"), 0)
    assert not known.observe(evidence("e"), 5)
    assert known.view(ACME, SESSION, 5).failures_on_base == 1


def test_tenants_do_not_share_sessions():
    known = memory()
    known.observe(evidence("e"), 0)
    assert known.view(OTHER, SESSION, 0) == StateView()


def test_two_clean_attempts_clear_the_failures_and_one_does_not():
    known = memory()
    known.observe(evidence("bad"), 0)
    known.observe(evidence("good", 0), 0)
    assert known.view(ACME, SESSION, 0).failures_on_base == 1
    known.observe(evidence("good again", 0), 0)
    assert known.view(ACME, SESSION, 0).failures_on_base == 0


def test_a_failure_between_two_clean_attempts_starts_over():
    known = memory()
    for number, weight in enumerate((1.0, 0.0, 1.0, 0.0)):
        known.observe(evidence(str(number), weight), 0)
    assert known.view(ACME, SESSION, 0).failures_on_base == 2


def test_a_late_verdict_on_a_turn_that_has_been_answered_since_counts_nothing_and_is_known():
    known = memory()
    known.decided(turn(turn="route_1"), 0)
    known.decided(turn(turn="route_2"), 0)
    assert known.observe(evidence("late", turn="route_1", anchored=True), 0)
    assert not known.observe(evidence("late", turn="route_1", anchored=True), 0)
    assert known.view(ACME, SESSION, 0).failures_on_base == 0
    known.observe(evidence("now", turn="route_2", anchored=True), 0)
    assert known.view(ACME, SESSION, 0).failures_on_base == 1


def test_steps_are_counted():
    known = memory()
    known.decided(turn(effort_step=True), 0)
    known.decided(turn(Tier.STRONG, size_step=True), 0)
    known.decided(turn(Tier.STRONG), 0)
    seen = known.view(ACME, SESSION, 0)
    assert (seen.size_steps, seen.effort_steps) == (1, 1)


def test_the_latch_holds_until_the_session_was_idle_for_long_enough():
    known = memory()
    known.decided(turn(Tier.STRONG, Effort.HIGH, latch=True), 0)
    known.decided(turn(Tier.STRONG), IDLE_MS - 1)
    held = known.view(ACME, SESSION, 2 * IDLE_MS - 2)
    assert held == StateView(latched_tier=Tier.STRONG, last_tier=Tier.STRONG, last_effort=Effort.MEDIUM)
    assert known.view(ACME, SESSION, 2 * IDLE_MS - 1) == StateView()


def test_an_idle_session_starts_anew():
    known = memory()
    known.observe(evidence("e"), 0)
    known.decided(turn(effort=Effort.LOW), IDLE_MS)
    assert known.view(ACME, SESSION, IDLE_MS) == StateView(last_tier=Tier.BASE, last_effort=Effort.LOW)


def test_a_clock_that_goes_back_does_not_release():
    known = memory()
    known.decided(turn(Tier.STRONG, latch=True), 1_000)
    assert known.view(ACME, SESSION, 0).latched_tier is Tier.STRONG


def test_the_least_recently_used_session_is_forgotten_and_looking_is_not_using():
    known = memory(sessions=2)
    for name in ("a", "b"):
        known.observe(evidence("e", session=SessionId(name)), 0)
    known.view(ACME, SessionId("a"), 0)
    known.observe(evidence("e", session=SessionId("c")), 0)
    assert len(known) == 2
    assert known.view(ACME, SessionId("a"), 0) == StateView()
    assert known.view(ACME, SessionId("b"), 0).failures_on_base == 1


def test_sessions_that_would_start_anew_take_no_room():
    known = memory()
    for number in range(5):
        known.observe(evidence("e", session=SessionId(f"s{number}")), number)
    known.observe(evidence("e", session=SessionId("later")), IDLE_MS + 2)
    assert len(known) == 3  # of the five, those that were seen at 3 and 4


def test_events_and_their_weight_are_bounded():
    known = memory()
    for number in range(1_000):
        known.observe(evidence(str(number)), 0)
    found = known.find(ACME, SESSION, 0)
    assert found is not None
    assert found.view().failures_on_base == 8
    assert len(found.pack()) < 2_000
    assert not known.observe(evidence("999"), 0)


def test_nothing_is_remembered_without_a_session():
    known = memory()
    assert not known.observe(evidence("e", session=SessionId("")), 0)
    known.decided(turn(Tier.STRONG, session=SessionId(""), latch=True), 0)
    assert len(known) == 0


def test_a_session_comes_back_as_it_was_packed():
    known = Session(last_seen_ms=7)
    known.decided(turn(Tier.STRONG, Effort.HIGH, latch=True, size_step=True, effort_step=True))
    known.observe(evidence("a", 0.3))
    known.observe(evidence("b", 0, tier=Tier.STRONG))
    assert unpack(known.pack(), 7) == known
    assert unpack(Session(last_seen_ms=7).pack(), 7) == Session(last_seen_ms=7)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '{"format": 2}', "{", '"x"', "1"]
    + [json.dumps({**json.loads(Session(0).pack()), name: wrong}) for name, wrong in
       [("failures", {"7b": 1}), ("failures", 3), ("latched", "huge"), ("events", None), ("size_steps", "x")]],
)  # fmt: skip
def test_what_is_no_session_is_refused(text: str):
    with pytest.raises(ValueError):  # noqa: PT011 - of any kind
        unpack(text, 0)


def test_explanations_are_bounded_and_answer_their_tenant_only():
    routes = RouteMemory(1)
    explanation = RouteExplanation(DECISION, RequestId("r"), 1, "general", Risk.R0, (), (), ())
    routes.remember(ACME, explanation)
    assert routes.find(ACME, DECISION.route_id) is explanation
    assert routes.find(OTHER, DECISION.route_id) is None
    routes.remember(OTHER, explanation)
    assert routes.find(ACME, DECISION.route_id) is None
    assert routes.find(ACME, RouteId("route_other")) is None
