from hypothesis import given
from hypothesis import strategies as st

from deployments.tenancy.rates import MINUTE_NS, Rate

SECOND_NS = 10**9


def test_a_quiet_limit_lets_all_of_it_through_at_once() -> None:
    rate = Rate(3)
    for left in (2, 1, 0):
        assert rate.wait_ns(1, 0) == 0
        rate.take(1, 0)
        assert rate.remaining(0) == left
    assert rate.wait_ns(1, 0) == 20 * SECOND_NS
    assert rate.reset_s(0) == 60
    assert rate.wait_ns(1, 20 * SECOND_NS) == 0
    assert rate.wait_ns(2, 20 * SECOND_NS) == 20 * SECOND_NS


def test_what_was_not_used_is_free_at_once() -> None:
    rate = Rate(100)
    rate.take(100, 0)
    rate.give_back(90)
    assert rate.remaining(0) == 90
    rate.give_back(-40)  # more was used than was set aside
    assert rate.remaining(0) == 50


def test_more_than_the_whole_limit_waits_for_a_quiet_minute_and_not_for_ever() -> None:
    rate = Rate(10)
    assert rate.wait_ns(50, 0) == 0
    rate.take(50, 0)
    assert rate.wait_ns(1, 0) > 3 * MINUTE_NS
    assert rate.wait_ns(50, 0) == 5 * MINUTE_NS
    assert rate.wait_ns(50, 5 * MINUTE_NS) == 0


@given(
    per_minute=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.integers(0, 20 * SECOND_NS), st.integers(1, 1000)), max_size=60),
)
def test_no_minute_sees_more_than_twice_the_limit(per_minute: int, steps: list[tuple[int, int]]) -> None:
    rate, now_ns, taken = Rate(per_minute), 0, list[tuple[int, int]]()
    for pause_ns, wanted in steps:
        now_ns += pause_ns
        amount = min(wanted, per_minute)
        if rate.wait_ns(amount, now_ns) == 0:
            rate.take(amount, now_ns)
            taken.append((now_ns, amount))
    for begin_ns, _ in taken:
        # One unit of slack: what an amount is worth is rounded down to nanoseconds.
        assert sum(amount for at, amount in taken if begin_ns <= at < begin_ns + MINUTE_NS) <= 2 * per_minute + 1


@given(per_minute=st.integers(1, 1000), amounts=st.lists(st.integers(1, 1000), min_size=1, max_size=30))
def test_who_waits_as_long_as_told_gets_in(per_minute: int, amounts: list[int]) -> None:
    rate, now_ns = Rate(per_minute), 0
    for amount in amounts:
        now_ns += rate.wait_ns(amount, now_ns)
        assert rate.wait_ns(amount, now_ns) == 0
        rate.take(amount, now_ns)
