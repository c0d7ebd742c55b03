from deployments.difficulty.memory import RouteMemory, SessionMemory
from deployments.ports import (
    Attempt,
    AttemptOutcome,
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


def attempt(event: str, outcome: AttemptOutcome = AttemptOutcome.FAILED, **fields: object) -> Attempt:
    made: dict[str, object] = {"tenant": ACME, "session": SESSION, "tier": Tier.BASE, **fields}
    return Attempt(event_id=event, outcome=outcome, **made)


def test_an_unknown_session_has_no_history():
    assert memory().view(ACME, SESSION, 0) == StateView()


def test_every_outcome_but_ok_is_a_failure_on_its_tier():
    known = memory()
    for number, outcome in enumerate(AttemptOutcome):
        known.observe(attempt(str(number), outcome), 0)
    known.observe(attempt("strong", tier=Tier.STRONG), 0)
    assert known.view(ACME, SESSION, 0).failures_on_base == 3


def test_the_same_event_twice_is_one_failure():
    known = memory()
    assert known.observe(attempt("e"), 0)
    assert not known.observe(attempt("e"), 5)
    assert known.view(ACME, SESSION, 5).failures_on_base == 1


def test_tenants_do_not_share_sessions():
    known = memory()
    known.observe(attempt("e"), 0)
    assert known.view(OTHER, SESSION, 0) == StateView()


def test_two_clean_attempts_clear_the_failures_and_one_does_not():
    known = memory()
    known.observe(attempt("bad"), 0)
    known.observe(attempt("good", AttemptOutcome.OK), 0)
    assert known.view(ACME, SESSION, 0).failures_on_base == 1
    known.observe(attempt("good again", AttemptOutcome.OK), 0)
    assert known.view(ACME, SESSION, 0).failures_on_base == 0


def test_a_failure_between_two_clean_attempts_starts_over():
    known = memory()
    outcomes = [AttemptOutcome.EMPTY, AttemptOutcome.OK, AttemptOutcome.TRUNCATED, AttemptOutcome.OK]
    for number, outcome in enumerate(outcomes):
        known.observe(attempt(str(number), outcome), 0)
    assert known.view(ACME, SESSION, 0).failures_on_base == 2


def test_the_latch_holds_until_the_session_was_idle_for_long_enough():
    known = memory()
    known.decided(ACME, SESSION, Tier.STRONG, Effort.HIGH, latch=True, now_ms=0)
    known.decided(ACME, SESSION, Tier.STRONG, Effort.MEDIUM, latch=False, now_ms=IDLE_MS - 1)
    held = known.view(ACME, SESSION, 2 * IDLE_MS - 2)
    assert held == StateView(latched_tier=Tier.STRONG, last_tier=Tier.STRONG, last_effort=Effort.MEDIUM)
    assert known.view(ACME, SESSION, 2 * IDLE_MS - 1) == StateView()


def test_an_idle_session_starts_anew():
    known = memory()
    known.observe(attempt("e"), 0)
    known.decided(ACME, SESSION, Tier.BASE, Effort.LOW, latch=False, now_ms=IDLE_MS)
    assert known.view(ACME, SESSION, IDLE_MS) == StateView(last_tier=Tier.BASE, last_effort=Effort.LOW)


def test_a_clock_that_goes_back_does_not_release():
    known = memory()
    known.decided(ACME, SESSION, Tier.STRONG, Effort.HIGH, latch=True, now_ms=1_000)
    assert known.view(ACME, SESSION, 0).latched_tier is Tier.STRONG


def test_the_least_recently_used_session_is_forgotten_and_looking_is_not_using():
    known = memory(sessions=2)
    for name in ("a", "b"):
        known.observe(attempt("e", session=SessionId(name)), 0)
    known.view(ACME, SessionId("a"), 0)
    known.observe(attempt("e", session=SessionId("c")), 0)
    assert len(known) == 2
    assert known.view(ACME, SessionId("a"), 0) == StateView()
    assert known.view(ACME, SessionId("b"), 0).failures_on_base == 1


def test_sessions_that_would_start_anew_take_no_room():
    known = memory()
    for number in range(5):
        known.observe(attempt("e", session=SessionId(f"s{number}")), number)
    known.observe(attempt("e", session=SessionId("later")), IDLE_MS + 2)
    assert len(known) == 3  # of the five, those that were seen at 3 and 4


def test_events_are_bounded():
    known = memory()
    for number in range(1_000):
        known.observe(attempt(str(number)), 0)
    assert known.view(ACME, SESSION, 0).failures_on_base == 1_000
    assert not known.observe(attempt("999"), 0)


def test_nothing_is_remembered_without_a_session():
    known = memory()
    known.observe(attempt("e", session=SessionId("")), 0)
    known.decided(ACME, SessionId(""), Tier.STRONG, Effort.HIGH, latch=True, now_ms=0)
    assert len(known) == 0


def test_explanations_are_bounded_and_answer_their_tenant_only():
    routes = RouteMemory(1)
    explanation = RouteExplanation(DECISION, RequestId("r"), 1, "general", Risk.R0, (), (), ())
    routes.remember(ACME, explanation)
    assert routes.find(ACME, DECISION.route_id) is explanation
    assert routes.find(OTHER, DECISION.route_id) is None
    routes.remember(OTHER, explanation)
    assert routes.find(ACME, DECISION.route_id) is None
    assert routes.find(ACME, RouteId("route_other")) is None
