import pytest

from deployments.engine.breaker import Breaker, BreakerSettings, BreakerState, Refused, Ticket

SETTINGS = BreakerSettings(failures=3, window_s=30.0, share=0.5, open_s=10.0, probes=2)


def ticket(breaker: Breaker, now_s: float) -> Ticket:
    admitted = breaker.admit(now_s)
    assert isinstance(admitted, Ticket)
    return admitted


def opened(at_s: float = 0.0, settings: BreakerSettings = SETTINGS) -> Breaker:
    breaker = Breaker(settings)
    for _ in range(settings.failures):
        breaker.failed(ticket(breaker, at_s), at_s)
    assert breaker.state(at_s) is BreakerState.OPEN
    return breaker


def test_it_opens_at_the_threshold_and_not_before() -> None:
    breaker = Breaker(SETTINGS)
    for at_s in (0.0, 1.0):
        breaker.failed(ticket(breaker, at_s), at_s)
        assert breaker.state(at_s) is BreakerState.CLOSED
    breaker.failed(ticket(breaker, 2.0), 2.0)
    assert breaker.state(2.0) is BreakerState.OPEN


def test_failures_outside_the_window_do_not_count() -> None:
    breaker = Breaker(SETTINGS)
    for at_s in (0.0, 40.0, 80.0, 120.0):
        breaker.failed(ticket(breaker, at_s), at_s)
    assert breaker.state(120.0) is BreakerState.CLOSED


def test_a_few_failures_among_many_successes_do_not_open_it() -> None:
    breaker = Breaker(SETTINGS)
    for _ in range(10):
        breaker.succeeded(ticket(breaker, 0.0), 0.0)
    for _ in range(9):
        breaker.failed(ticket(breaker, 1.0), 1.0)
    assert breaker.state(1.0) is BreakerState.CLOSED
    breaker.failed(ticket(breaker, 1.0), 1.0)
    assert breaker.state(1.0) is BreakerState.OPEN


@pytest.mark.parametrize(("now_s", "wait_s"), [(0.0, 10), (3.5, 7), (9.999, 1)])
def test_while_open_it_says_when_to_come_back(now_s: float, wait_s: int) -> None:
    assert opened().admit(now_s) == Refused(wait_s)


def test_half_open_lets_as_many_through_as_it_needs_to_close() -> None:
    breaker = opened()
    first, second = ticket(breaker, 10.0), ticket(breaker, 10.0)
    assert breaker.state(10.0) is BreakerState.HALF_OPEN
    assert breaker.admit(10.0) == Refused(1)
    breaker.succeeded(first, 11.0)
    assert breaker.admit(11.0) == Refused(1)
    breaker.succeeded(second, 11.0)
    assert breaker.state(11.0) is BreakerState.CLOSED


def test_one_failure_while_half_open_opens_it_for_the_full_time() -> None:
    breaker = opened()
    breaker.failed(ticket(breaker, 10.0), 12.0)
    assert breaker.admit(13.0) == Refused(9)


def test_a_request_that_tells_nothing_gives_its_place_back() -> None:
    breaker = opened()
    first = ticket(breaker, 10.0)
    ticket(breaker, 10.0)
    breaker.released(first)
    ticket(breaker, 10.0)
    assert breaker.admit(10.0) == Refused(1)


def test_results_from_before_it_opened_neither_close_nor_reopen_it() -> None:
    breaker = Breaker(SETTINGS)
    old = [ticket(breaker, 0.0) for _ in range(6)]
    for each in old[:3]:
        breaker.failed(each, 0.0)
    breaker.state(10.0)
    breaker.succeeded(old[3], 10.0)
    breaker.failed(old[4], 10.0)
    breaker.released(old[5])
    assert breaker.state(10.0) is BreakerState.HALF_OPEN
    ticket(breaker, 10.0)
    ticket(breaker, 10.0)
    assert breaker.admit(10.0) == Refused(1)


def test_an_answer_that_breaks_counts_against_its_beginning() -> None:
    breaker = Breaker(SETTINGS)
    for _ in range(3):
        each = ticket(breaker, 0.0)
        breaker.succeeded(each, 0.0)
        breaker.failed(each, 0.0)
    assert breaker.state(0.0) is BreakerState.OPEN


def test_a_failed_probe_holds_it_open_until_one_succeeds() -> None:
    breaker = Breaker(SETTINGS)
    breaker.hold(0.0)
    assert breaker.admit(500.0) == Refused(1)
    breaker.release()
    assert breaker.state(500.0) is BreakerState.HALF_OPEN


def test_a_good_probe_does_not_end_what_failed_requests_began() -> None:
    breaker = opened()
    breaker.release()
    assert breaker.state(1.0) is BreakerState.OPEN
