from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from deployments.engine.fair import Asked, Bounds, Entered, FairQueue, Full, Room, Spent, Stage, Ticket, part_of
from deployments.engine.settings import FairSettings
from deployments.limits import Priority, Share
from deployments.ports import TenantId

A, B, C = TenantId("a"), TenantId("b"), TenantId("c")
IN, OUT = 50, 20  # the largest prompt and answer of the generated loads, tokens
PLAIN = FairSettings(reserve=0, lookahead=0, first_guess=OUT, ahead_tokens=0)
SHARES = st.builds(Share, st.sampled_from([50, 100, 300]), st.sampled_from(list(Priority)))
SIZES = st.lists(st.tuples(st.integers(1, IN), st.integers(1, OUT)), min_size=1, max_size=6)


def asked(
    tenant: TenantId, tokens: int = 10, share: Share | None = None, lane: str = "", patient: bool = False
) -> Asked:
    return Asked(tenant, share or Share(), tokens, lane, patient)


@dataclass
class Engine:
    """A token a step for everyone in a seat; prompts cost no steps. Times are steps."""

    queue: FairQueue
    seats: int
    now: int = 0
    left: dict[Ticket, int] = field(default_factory=dict[Ticket, int])
    outputs: dict[Ticket, int] = field(default_factory=dict[Ticket, int])
    served: Counter[TenantId] = field(default_factory=Counter[TenantId])
    order: list[Ticket] = field(default_factory=list[Ticket])
    refused: list[Ticket] = field(default_factory=list[Ticket])

    def ask(self, what: Asked, output: int) -> Ticket | None:
        entered = self.queue.enter(what, self.now)
        if isinstance(entered, Full):
            return None
        self.refused += entered.refused
        self.outputs[entered.ticket] = output
        return entered.ticket

    def fill(self) -> None:
        while (ticket := self.queue.seat(Room(self.seats), self.now)) is not None:
            self.order.append(ticket)
            self.left[ticket] = self.outputs[ticket]
            self.served[ticket.asked.tenant] += ticket.asked.prompt_tokens

    def step(self) -> None:
        self.now += 1
        for ticket in list(self.left):
            self.queue.heard(ticket, 1)
            self.served[ticket.asked.tenant] += 4
            self.left[ticket] -= 1
            if not self.left[ticket]:
                del self.left[ticket]
                self.queue.leave(ticket, self.now, Spent(ticket.asked.prompt_tokens, 0, self.outputs[ticket]))
        self.fill()


class Load:
    """A tenant that keeps `depth` requests waiting, of sizes that come round."""

    def __init__(self, tenant: TenantId, share: Share, sizes: Sequence[tuple[int, int]], depth: int = 16) -> None:
        self.tenant, self.share, self.sizes, self.depth = tenant, share, sizes, depth
        self.count = 0

    def keep(self, engine: Engine) -> None:
        while engine.queue.waiting_of(self.tenant) < self.depth:
            prompt, output = self.sizes[self.count % len(self.sizes)]
            self.count += 1
            assert engine.ask(asked(self.tenant, prompt, self.share), output) is not None


def bound(settings: FairSettings, seats: int, shares: Sequence[Share]) -> float:
    """How far two tenants that always wait may drift apart, in work by share: see docs/fairness.md."""
    smallest = min(part_of(share) for share in shares)
    answer = OUT * settings.output_weight / smallest
    request = IN * settings.input_weight / smallest + answer
    return 2 * (settings.ahead_tokens + request + 2 * (seats + settings.lookahead) * answer)


@profile(max_examples=60, deadline=None)
@given(
    seats=st.integers(1, 8),
    shares=st.tuples(SHARES, SHARES),
    sizes=st.tuples(SIZES, SIZES),
    guess=st.integers(1, OUT),
    reserve=st.sampled_from([0.0, 0.25]),
    visits=st.lists(st.integers(1, 400), max_size=12),
)
def test_two_tenants_that_always_wait_get_work_by_their_shares(
    seats: int,
    shares: tuple[Share, Share],
    sizes: tuple[list[tuple[int, int]], list[tuple[int, int]]],
    guess: int,
    reserve: float,
    visits: list[int],
) -> None:
    settings = FairSettings(first_guess=guess, reserve=reserve, ahead_tokens=300 if reserve else 0)
    engine = Engine(FairQueue(settings, Bounds(10_000)), seats)
    loads = [Load(tenant, share, own) for tenant, share, own in zip((A, B), shares, sizes, strict=True)]
    parts = [part_of(share) for share in shares]
    ahead: list[float] = []
    for now in range(400):
        for load in loads:
            load.keep(engine)
        if now in visits:
            engine.ask(asked(C, IN), OUT)
        engine.step()
        for load in loads:
            load.keep(engine)  # both wait at every moment that is looked at
        ahead.append(engine.served[A] / parts[0] - engine.served[B] / parts[1])
    assert max(ahead) - min(ahead) <= bound(settings, seats, shares)


def test_the_bound_says_something() -> None:
    """The same measure on first come, first served is many times the bound: it grows with the load."""
    served, shares = Counter[TenantId](), (Share(), Share())
    running: list[tuple[TenantId, int]] = []
    line = [(A, 20)] * 19 + [(B, 20)]
    for number in range(2000):
        while len(running) < 4:
            running.append(line[(number + len(running)) % len(line)])
        running = [(tenant, left - 1) for tenant, left in running if left > 1]
        for tenant, _ in running:
            served[tenant] += 4
    assert abs(served[A] - served[B]) > 5 * bound(PLAIN, 4, shares)


@profile(max_examples=60, deadline=None)
@given(
    seats=st.integers(1, 12),
    reserve=st.sampled_from([0.0, 0.125, 0.5]),
    arrivals=st.lists(
        st.tuples(st.integers(0, 120), st.sampled_from([A, B, C]), st.integers(1, IN), st.integers(1, OUT)), max_size=80
    ),
)
def test_no_seat_is_idle_while_somebody_waits_but_the_reserve(
    seats: int, reserve: float, arrivals: list[tuple[int, TenantId, int, int]]
) -> None:
    settings = FairSettings(reserve=reserve, lookahead=0, recent_s=40)
    engine = Engine(FairQueue(settings, Bounds(1000)), seats)
    asked_for: dict[TenantId, list[Ticket | None]] = {A: [], B: [], C: []}
    for now in range(1200):
        for at, tenant, prompt, output in arrivals:
            if at == now:
                asked_for[tenant].append(engine.ask(asked(tenant, prompt), output))
        engine.step()
        queue = engine.queue
        assert queue.waiting == 0 or seats - int(seats * reserve) <= queue.seated <= seats
        assert queue.seated == len(engine.left) <= seats
    assert engine.queue.waiting == engine.queue.seated == engine.queue.waiting_tokens == 0  # nobody starved
    for tenant, tickets in asked_for.items():
        assert [ticket for ticket in engine.order if ticket.asked.tenant == tenant] == tickets  # first in, first out


@profile(max_examples=60, deadline=None)
@given(
    seats=st.sampled_from([8, 16, 64]),
    flood=st.integers(1, 20),
    floods=st.integers(1, 3),
    weight=st.sampled_from([25, 100, 400]),
    gaps=st.lists(st.integers(1, 60), min_size=2, max_size=12),
    prompt=st.integers(1, 2000),
)
@example(seats=8, flood=1, floods=1, weight=25, gaps=[1] * 10, prompt=1741)
def test_a_quiet_tenant_that_was_seen_lately_waits_only_when_it_is_far_ahead(
    seats: int, flood: int, floods: int, weight: int, gaps: list[int], prompt: int
) -> None:
    engine = Engine(FairQueue(FairSettings(), Bounds(100_000)), seats)
    quiet = TenantId("quiet")
    engine.ask(asked(quiet, prompt), OUT)
    loads = [
        Load(TenantId(f"flood-{number}"), Share(weight), [(2000, 700)], depth=flood * seats) for number in range(floods)
    ]
    for gap in gaps:
        for _ in range(gap + OUT):  # one request at a time: the one before has ended
            for load in loads:
                load.keep(engine)
            engine.step()
        lowest = min(engine.queue.counter(load.tenant) for load in loads)
        ahead = engine.queue.counter(quiet) > lowest + FairSettings().ahead_tokens
        ticket = engine.ask(asked(quiet, prompt), OUT)
        engine.fill()
        assert ticket is not None
        assert ticket.stage is (Stage.WAITING if ahead else Stage.SEATED)
        if ahead:
            return


@pytest.mark.parametrize("others", [1, 5])
def test_who_comes_for_the_first_time_is_next(others: int) -> None:
    engine = Engine(FairQueue(PLAIN, Bounds(1000)), 1)
    for number in range(others):
        for _ in range(50):
            engine.ask(asked(TenantId(f"t{number}")), OUT)
    for _ in range(10 * OUT):
        engine.step()
    before = len(engine.order)
    engine.ask(asked(A), 1)
    while len(engine.order) == before:
        engine.step()
    assert engine.order[before].asked.tenant == A


def test_priorities_are_parts_and_nobody_starves() -> None:
    engine = Engine(FairQueue(PLAIN, Bounds(1000)), 4)
    shares = {A: Share(priority=Priority.HIGH), B: Share(), C: Share(priority=Priority.LOW)}
    loads = [Load(tenant, share, [(10, 10)]) for tenant, share in shares.items()]
    for _ in range(6000):
        for load in loads:
            load.keep(engine)
        engine.step()
    whole = engine.served.total()
    parts = {tenant: engine.served[tenant] / whole for tenant in shares}
    assert parts == pytest.approx({A: 4 / 5.25, B: 1 / 5.25, C: 0.25 / 5.25}, abs=0.01)


def test_idle_time_is_not_saved_up() -> None:
    engine = Engine(FairQueue(PLAIN, Bounds(1000)), 1)
    lone = Load(A, Share(), [(10, 10)])
    for _ in range(1000):
        lone.keep(engine)
        engine.step()
    both = [lone, Load(B, Share(), [(10, 10)])]
    start = engine.served[A]
    for _ in range(1000):
        for load in both:
            load.keep(engine)
        engine.step()
    assert engine.served[B] == pytest.approx(engine.served[A] - start, rel=0.05)


def test_a_debt_is_not_forgotten_by_stopping_for_a_moment() -> None:
    queue = FairQueue(PLAIN, Bounds(1000))
    engine = Engine(queue, 1)
    engine.ask(asked(B), 1)
    engine.ask(asked(A, 5000), 1)  # A spends ahead
    for _ in range(4):
        engine.step()
    for _ in range(3):
        engine.ask(asked(B), 1)
    engine.ask(asked(A), 1)
    for _ in range(6):
        engine.step()
    assert [ticket.asked.tenant for ticket in engine.order[2:]] == [B, B, B, A]


def test_a_batch_job_does_not_hold_up_another_lane_of_its_tenant() -> None:
    engine = Engine(FairQueue(PLAIN, Bounds(1000)), 1)
    for _ in range(50):
        engine.ask(asked(A, lane="batch"), OUT)
    engine.step()
    person = engine.ask(asked(A, lane="person"), 1)
    engine.ask(asked(A, lane="batch", patient=True), 1)
    while len(engine.order) < 2:
        engine.step()
    assert engine.order[1] is person


def test_what_can_wait_gets_the_smaller_part_of_its_tenant_and_is_not_starved() -> None:
    engine = Engine(FairQueue(PLAIN, Bounds(1000)), 1)
    for _ in range(100):
        engine.ask(asked(A), 1)
        engine.ask(asked(A, patient=True), 1)
    for _ in range(100):
        engine.step()
    seated = Counter(ticket.asked.patient for ticket in engine.order)
    assert seated[True] == pytest.approx(20, abs=2)


@profile(max_examples=60, deadline=None)
@given(
    room=st.integers(4, 40),
    flood=st.integers(50, 200),
    quiet=st.integers(1, 3),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=5),
    tokens=st.sampled_from([None, 2000]),
)
def test_a_flood_fills_the_queue_and_only_the_flood_is_refused(
    room: int, flood: int, quiet: int, sizes: list[int], tokens: int | None
) -> None:
    queue = FairQueue(PLAIN, Bounds(room, tokens))
    came: list[Ticket] = []
    out: list[Ticket] = []
    for number in range(flood):
        entered = queue.enter(asked(A, sizes[number % len(sizes)]), 0)
        if isinstance(entered, Entered):
            came.append(entered.ticket)
            assert not entered.refused  # nobody leaves for one of its own lane
        assert queue.waiting <= room
    for _ in range(min(quiet, room // 2 - 1)):
        entered = queue.enter(asked(B, 1), 0)
        assert isinstance(entered, Entered)
        out += entered.refused
        assert queue.waiting <= room
    assert {ticket.asked.tenant for ticket in out} <= {A}
    assert out == came[: -len(out) - 1 : -1]  # the newest first
    assert all(ticket.stage is Stage.GONE for ticket in out)


def test_seats_are_no_reason_to_refuse_somebody_else() -> None:
    queue = FairQueue(PLAIN, Bounds(2))
    engine = Engine(queue, 2)
    for _ in range(2):
        engine.ask(asked(A), OUT)
    engine.fill()
    assert isinstance(queue.enter(asked(B), 0), Full)  # all that is here has begun


def test_a_full_queue_refuses_within_a_tenant_by_lane() -> None:
    queue = FairQueue(PLAIN, Bounds(8))
    batch = [queue.enter(asked(A, lane="batch"), 0) for _ in range(8)]
    entered = queue.enter(asked(A, lane="person"), 0)
    assert isinstance(entered, Entered)
    assert isinstance(batch[-1], Entered)
    assert entered.refused == (batch[-1].ticket,)
    assert isinstance(queue.enter(asked(A, lane="batch"), 0), Full)


def test_a_heavier_share_may_have_more_waiting() -> None:
    queue = FairQueue(PLAIN, Bounds(10))
    for _ in range(6):
        queue.enter(asked(A, share=Share(400)), 0)
    last = [queue.enter(asked(B), 0) for _ in range(4)][-1]
    assert isinstance(last, Entered)
    entered = queue.enter(asked(A, share=Share(400)), 0)
    assert isinstance(entered, Entered)
    assert entered.refused == (last.ticket,)


def test_one_long_prompt_may_wait_where_no_other_does() -> None:
    queue = FairQueue(PLAIN, Bounds(10, 100))
    assert isinstance(queue.enter(asked(A, 500), 0), Entered)
    assert isinstance(queue.enter(asked(A, 1), 0), Full)


def test_whoever_hangs_up_leaves_the_queue_and_owes_nothing() -> None:
    queue = FairQueue(PLAIN, Bounds(10))
    tickets = [entered.ticket for _ in range(3) if isinstance(entered := queue.enter(asked(A), 0), Entered)]
    queue.leave(tickets[1], 1)
    queue.leave(tickets[1], 1)
    assert queue.waiting == 2
    assert queue.seat(Room(1), 1) is tickets[0]
    queue.leave(tickets[0], 2)  # its seat: nothing was generated, the prompt was read
    assert queue.counter(A) == 10
    assert queue.seat(Room(1), 2) is tickets[2]
    assert (queue.waiting, queue.waiting_tokens) == (0, 0)


def test_hanging_up_before_a_whole_reply_comes_is_no_way_to_pay_less() -> None:
    queue = FairQueue(PLAIN, Bounds(10))
    queue.enter(asked(A), 0)
    ticket = queue.seat(Room(1), 0)
    assert ticket is not None
    queue.leave(ticket, 1, cut=True)
    assert queue.counter(A) == 10 + 4 * OUT


def test_cached_prompts_are_cheap_and_the_engine_has_the_last_word() -> None:
    queue = FairQueue(PLAIN, Bounds(10))
    queue.enter(asked(A, 1000), 0)
    ticket = queue.seat(Room(1), 0)
    assert ticket is not None
    assert queue.counter(A) == 1000 + 4 * OUT
    queue.heard(ticket, OUT + 5)
    assert queue.counter(A) == 1000 + 4 * (OUT + 5)
    queue.leave(ticket, 1, Spent(prompt_tokens=800, cached_tokens=700, output_tokens=30))
    assert queue.counter(A) == pytest.approx(100 + 70 + 120)


def test_one_tenant_alone_has_every_seat_and_one_ahead() -> None:
    engine = Engine(FairQueue(FairSettings(lookahead=1), Bounds(100)), 8)
    Load(A, Share(), [(10, 10)], depth=20).keep(engine)
    engine.fill()
    assert engine.queue.seated == 9


def test_a_reserve_ends_when_nobody_was_seen_for_a_while() -> None:
    engine = Engine(FairQueue(FairSettings(recent_s=100), Bounds(100)), 8)
    engine.ask(asked(B), 1)
    engine.step()
    engine.step()
    load = Load(A, Share(), [(10, 10)], depth=20)
    load.keep(engine)
    engine.fill()
    assert engine.queue.seated == 7
    while engine.now < 110:
        load.keep(engine)
        engine.step()
    assert engine.queue.seated == 9


@pytest.mark.parametrize(("kv_usage", "seated"), [(0.8, 1), (0.95, 0)])
def test_the_reserve_is_of_memory_too(kv_usage: float, seated: int) -> None:
    queue = FairQueue(FairSettings(), Bounds(100))
    for tenant in (B, A, A, A):
        queue.enter(asked(tenant), 0)
    first = [queue.seat(Room(8), 0) for _ in range(2)]
    for ticket in first:
        if ticket is not None and ticket.asked.tenant == B:
            queue.leave(ticket, 0)
    before = queue.seated
    for _ in range(20):
        queue.enter(asked(A), 0)  # more than its share of the seats
    queue.seat(Room(8, kv_usage=kv_usage), 0)
    assert queue.seated - before == seated
    assert queue.engine_full is (seated == 0)


def test_an_engine_that_has_not_begun_what_it_was_given_gets_no_more() -> None:
    queue = FairQueue(PLAIN, Bounds(100))
    for _ in range(3):
        queue.enter(asked(A), 0)
    assert queue.seat(Room(8, waiting=5), 0) is not None  # nobody of ours is in it: nobody would wake the next one
    assert queue.seat(Room(8, waiting=5), 0) is None
    assert queue.engine_full
    assert queue.seat(Room(8), 0) is not None


def test_tenants_that_are_gone_for_long_are_forgotten() -> None:
    queue = FairQueue(FairSettings(recent_s=10), Bounds(100))
    queue.enter(asked(A), 0)
    ticket = queue.seat(Room(1), 0)
    assert ticket is not None
    queue.leave(ticket, 1)
    assert queue.counter(A) > 0
    queue.enter(asked(B), 30)
    assert queue.counter(A) == 0
