"""Whose turn it is at an engine that is full. Pure: no tasks, no clock of its own; `seating.py` waits and wakes.

Tenants are served by a **virtual token counter** (Sheng et al., Fairness in Serving Large Language Models, OSDI 2024).
A tenant's counter grows by the work it gets, tokens times their weights, divided by its share; the lowest counter among
those who wait goes next. Whoever comes back from idleness is lifted to the lowest of those who wait, so that nobody
saves up. Work is guessed when a request is seated, and put right while its answer streams and when it ends.

Two things are added to the paper's queue:

- **A reserve.** A counter decides who gets the next seat, but a seat is free only when an answer ends. So while other
  tenants were seen lately, a few seats stay free for those of them whose requests all fit into their share of the
  seats. Such a tenant goes first, as long as its counter is at most `ahead_tokens` above the lowest.
- **Lanes.** What one tenant asks waits in lanes, which take turns by counters in the same way; a lane is first in,
  first out. So a batch job does not hold up a person who asks in another lane.

The bound of the queue is fair, too: when it is full, the newest waiting request of whoever has most work waiting, by
its share, is refused in place of the one that comes.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from deployments.engine.settings import FairSettings
from deployments.limits import Priority, Share
from deployments.ports import TenantId

PARTS: Mapping[Priority, float] = {Priority.HIGH: 4.0, Priority.NORMAL: 1.0, Priority.LOW: 0.25}
"""A priority is a larger or smaller share: nobody is served only after somebody else."""

PATIENT_PART = 0.25
"""The part of a lane whose requests can wait, beside the other lanes of its tenant."""

_USUAL_WEIGHT = 100
_LEARN = 0.2  # how much the newest answer counts in the guess of a tenant's next one


@dataclass(frozen=True, slots=True)
class Asked:
    """A request at the door. `prompt_tokens` is an estimate; `answers` is False for what generates no tokens.

    `lane` is who of the tenant asks; the `patient` requests of a lane wait apart.
    """

    tenant: TenantId
    share: Share
    prompt_tokens: int
    lane: str = ""
    patient: bool = False
    answers: bool = True


@dataclass(frozen=True, slots=True)
class Spent:
    """What a request took by the engine's own count. `cached_tokens` are those of the prompt that were not computed."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Room:
    """What an engine can take: `seats` (>= 1) at once; `waiting` it was given and has not begun; `kv_usage` 0..1."""

    seats: int
    waiting: int = 0
    kv_usage: float = 0.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may be here at once: `requests`, seated ones included, and `tokens` of waiting prompts (None: any number).

    One prompt may be longer than `tokens` where no other waits.
    """

    requests: int
    tokens: int | None = None


class Stage(Enum):
    """Where a request is."""

    WAITING = auto()
    SEATED = auto()
    GONE = auto()


@dataclass(eq=False, slots=True)
class Ticket:
    """One request from its coming to its end. Changed by the queue alone."""

    asked: Asked
    number: int
    guess: int
    work: float
    stage: Stage = Stage.WAITING
    charged: float = 0.0
    heard: int = 0


@dataclass(frozen=True, slots=True)
class Entered:
    """The request waits; `refused` had to leave for it, and each is told so."""

    ticket: Ticket
    refused: tuple[Ticket, ...] = ()


@dataclass(frozen=True, slots=True)
class Full:
    """Nobody has more waiting than the one who asks: the request is refused."""


@dataclass(eq=False, slots=True)
class _Lane:
    part: float
    used: float = 0.0
    served: int = 0
    queue: deque[Ticket] = field(default_factory=deque[Ticket])
    work: float = 0.0


@dataclass(eq=False, slots=True)
class _Tenant:
    part: float
    guess: float
    used: float = 0.0
    served: int = 0
    floor: float = 0.0
    lanes: dict[tuple[str, bool], _Lane] = field(default_factory=dict[tuple[str, bool], _Lane])
    waiting: int = 0
    work: float = 0.0
    seated: int = 0
    seen_s: float = 0.0
    peaks: tuple[int, int] = (0, 0)
    turned_s: float = 0.0

    @property
    def demand(self) -> int:
        """Requests here, seated or not."""
        return self.waiting + self.seated

    def waits(self) -> Iterator[_Lane]:
        """Lanes with somebody in them."""
        return (lane for lane in self.lanes.values() if lane.queue)


class FairQueue:
    """All requests of one replica. Every method takes what time it is, in seconds that never go back."""

    def __init__(self, settings: FairSettings, bounds: Bounds) -> None:
        self._settings = settings
        self._bounds = bounds
        self._tenants: dict[TenantId, _Tenant] = {}
        self._numbers = itertools.count(1)
        self._floor = 0.0
        self._served = 0
        self._swept_s = -math.inf
        self.waiting = 0
        self.waiting_tokens = 0
        self.seated = 0
        self.engine_full = False
        """True when the last `seat` found seats but an engine that cannot take more for now."""

    def enter(self, asked: Asked, now_s: float) -> Entered | Full:
        """Queue a request, or refuse it."""
        self._sweep(now_s)
        tenant = self._tenants.get(asked.tenant)
        if tenant is None:
            tenant = self._tenants[asked.tenant] = _Tenant(1.0, float(self._settings.first_guess), turned_s=now_s)
        tenant.part, tenant.seen_s = part_of(asked.share), now_s
        guess = max(1, round(tenant.guess)) if asked.answers else 0
        ticket = Ticket(asked, next(self._numbers), guess, self._work(asked.prompt_tokens, 0, guess))
        refused = self._make_room(tenant, ticket)
        if refused is None:
            return Full()
        for each in refused:
            self._remove(each)
        self._append(tenant, ticket)
        self._remember_peak(tenant, now_s)
        return Entered(ticket, tuple(refused))

    def seat(self, room: Room, now_s: float) -> Ticket | None:
        """The request that the engine is given next, or None when all must wait. Ask again until None."""
        self.engine_full = False
        waiting = [tenant for tenant in self._tenants.values() if tenant.waiting]
        settings = self._settings
        if not waiting or self.seated >= room.seats + settings.lookahead:
            return None
        waiting.sort(key=_turn)
        lowest = waiting[0]
        if self.seated and room.waiting > settings.lookahead:
            self.engine_full = True
            return None
        recent = [tenant for tenant in self._tenants.values() if self._recent(tenant, now_s)]
        each_part = room.seats / sum(tenant.part for tenant in recent)  # those who wait are among them
        if self.seated < room.seats:
            for tenant in waiting:
                if tenant.used > lowest.used + settings.ahead_tokens:
                    break
                if tenant.demand <= max(1.0, each_part * tenant.part):
                    return self._take(tenant, lowest.used)
        most = self._most(room.seats, recent, each_part, now_s)
        if self.seated >= most:
            return None
        # Blocks run out before seats where prompts are long; the reserve is worth nothing without them.
        if self.seated and most < room.seats and room.kv_usage > most / room.seats:
            self.engine_full = True
            return None
        return self._take(lowest, lowest.used)

    def heard(self, ticket: Ticket, tokens: int) -> None:
        """`tokens` more of an answer were seen; above the guess they are charged as they come."""
        before = max(ticket.heard, ticket.guess)
        ticket.heard += tokens
        more = max(ticket.heard, ticket.guess) - before
        if more > 0 and ticket.stage is Stage.SEATED:
            self._charge(ticket, more * self._settings.output_weight)

    def leave(self, ticket: Ticket, now_s: float, spent: Spent | None = None, cut: bool = False) -> None:
        """The request has ended, or nobody waits for it any more. May be repeated.

        `spent` where the engine said it. `cut`: it was ended before its time, so that what was not heard of its answer
        may have been generated all the same.
        """
        if ticket.stage is Stage.WAITING:
            self._remove(ticket)
            return
        if ticket.stage is Stage.GONE:
            return
        ticket.stage = Stage.GONE
        tenant = self._tenants[ticket.asked.tenant]
        tenant.seen_s = now_s
        if spent is None:
            output = ticket.guess if cut and not ticket.heard else ticket.heard
            actual = self._work(ticket.asked.prompt_tokens, 0, output)
        else:
            actual = self._work(spent.prompt_tokens, spent.cached_tokens, spent.output_tokens)
            if ticket.asked.answers:
                tenant.guess += _LEARN * (spent.output_tokens - tenant.guess)
        self._charge(ticket, actual - ticket.charged)
        self.seated -= 1
        tenant.seated -= 1
        if not tenant.demand:
            tenant.lanes.clear()  # within an idle tenant nobody owes anybody

    def waiting_of(self, tenant: TenantId) -> int:
        """Requests of a tenant that wait."""
        known = self._tenants.get(tenant)
        return 0 if known is None else known.waiting

    def counter(self, tenant: TenantId) -> float:
        """Work that a tenant was charged, by its share; what it owes from before it was idle is in it."""
        known = self._tenants.get(tenant)
        return 0.0 if known is None else known.used

    def _work(self, prompt: int, cached: int, output: int) -> float:
        weights = self._settings
        cached = min(cached, prompt)
        return (
            (prompt - cached) * weights.input_weight + cached * weights.cached_weight + output * weights.output_weight
        )

    def _of(self, ticket: Ticket) -> tuple[_Tenant, _Lane]:
        tenant = self._tenants[ticket.asked.tenant]
        return tenant, tenant.lanes[ticket.asked.lane, ticket.asked.patient]

    def _append(self, tenant: _Tenant, ticket: Ticket) -> None:
        asked = ticket.asked
        if not tenant.waiting:
            lowest = min((each.used for each in self._tenants.values() if each.waiting), default=self._floor)
            tenant.used = max(tenant.used, lowest)
        lane = tenant.lanes.get((asked.lane, asked.patient))
        if lane is None:
            lane = tenant.lanes[asked.lane, asked.patient] = _Lane(PATIENT_PART if asked.patient else 1.0)
        if not lane.queue:
            lane.used = max(lane.used, min((each.used for each in tenant.waits()), default=tenant.floor))
        lane.queue.append(ticket)
        lane.work += ticket.work
        tenant.work += ticket.work
        tenant.waiting += 1
        self.waiting += 1
        self.waiting_tokens += asked.prompt_tokens

    def _remove(self, ticket: Ticket) -> None:
        """Out of its lane, wherever it stands in it."""
        ticket.stage = Stage.GONE
        tenant, lane = self._of(ticket)
        lane.queue.remove(ticket)
        self._unqueued(tenant, lane, ticket)

    def _unqueued(self, tenant: _Tenant, lane: _Lane, ticket: Ticket) -> None:
        tenant.waiting -= 1
        # Set anew where nothing waits, so that rounding never adds up to a weight of nothing.
        lane.work = lane.work - ticket.work if lane.queue else 0.0
        tenant.work = tenant.work - ticket.work if tenant.waiting else 0.0
        self.waiting -= 1
        self.waiting_tokens -= ticket.asked.prompt_tokens

    def _take(self, tenant: _Tenant, lowest: float) -> Ticket:
        self._floor = max(self._floor, lowest)
        lane = min(tenant.waits(), key=_turn)
        tenant.floor = max(tenant.floor, lane.used)
        ticket = lane.queue.popleft()
        self._unqueued(tenant, lane, ticket)
        ticket.stage = Stage.SEATED
        self._served += 1
        tenant.served = lane.served = self._served
        self.seated += 1
        tenant.seated += 1
        self._charge(ticket, ticket.work)
        return ticket

    def _charge(self, ticket: Ticket, work: float) -> None:
        tenant, lane = self._of(ticket)
        ticket.charged += work
        tenant.used += work / tenant.part
        lane.used += work / lane.part

    def _make_room(self, tenant: _Tenant, ticket: Ticket) -> list[Ticket] | None:
        """Who has to leave for the newcomer, newest first; None when that is the newcomer itself."""
        out: list[Ticket] = []
        gone: dict[_Lane, int] = {}
        weights = {each: each.work for each in self._tenants.values() if each.waiting}
        weights[tenant] = tenant.work + ticket.work
        lanes = {lane: lane.work for each in self._tenants.values() for lane in each.waits()} if weights else {}
        requests, tokens = self.waiting + self.seated, self.waiting_tokens
        while not self._fits(requests, tokens, len(out), ticket):
            # The newcomer's tenant first: where two have as much waiting, the one who is here already stays.
            heaviest = max(weights, key=lambda each: (weights[each] / each.part, each is tenant))
            own = tenant.lanes.get((ticket.asked.lane, ticket.asked.patient)) if heaviest is tenant else None
            mine = ticket.work + (lanes.get(own, 0.0) if own is not None else 0.0)
            choice = max(
                (lane for lane in heaviest.waits() if gone.get(lane, 0) < len(lane.queue) and lane is not own),
                key=lambda lane: lanes[lane] / lane.part,
                default=None,
            )
            mine_part = PATIENT_PART if ticket.asked.patient else 1.0
            if choice is None or (heaviest is tenant and mine / mine_part >= lanes[choice] / choice.part):
                return None
            gone[choice] = gone.get(choice, 0) + 1
            victim = choice.queue[-gone[choice]]
            out.append(victim)
            weights[heaviest] -= victim.work
            lanes[choice] -= victim.work
            requests -= 1
            tokens -= victim.asked.prompt_tokens
        return out

    def _fits(self, requests: int, tokens: int, leaving: int, ticket: Ticket) -> bool:
        bounds = self._bounds
        if requests >= bounds.requests:
            return False
        alone = self.waiting == leaving
        return bounds.tokens is None or alone or tokens + ticket.asked.prompt_tokens <= bounds.tokens

    def _recent(self, tenant: _Tenant, now_s: float) -> bool:
        return tenant.demand > 0 or now_s - tenant.seen_s <= self._settings.recent_s

    def _most(self, seats: int, recent: list[_Tenant], each_part: float, now_s: float) -> int:
        """Seats that may be taken by whoever is next; a share of 1 has `each_part` of them.

        The others stay free for tenants that use less than their share and have nothing waiting now. More than there
        are, where one tenant is alone: what the engine holds in advance would be ahead of everybody else.
        """
        if len(recent) < 2:
            return seats + self._settings.lookahead
        reserve = int(seats * self._settings.reserve)
        held = 0
        for each in recent:
            if held >= reserve:
                return seats - reserve
            if not each.waiting:
                usual = min(self._peak(each, now_s), max(1, int(each_part * each.part)))
                held += max(0, usual - each.seated)
        return seats - min(held, reserve)

    def _peak(self, tenant: _Tenant, now_s: float) -> int:
        """Most requests that a tenant had here at once lately: in the last `recent_s`, at most twice that."""
        behind_s = now_s - tenant.turned_s
        recent_s = self._settings.recent_s
        peaks = tenant.peaks if behind_s <= recent_s else (tenant.peaks[1], 0) if behind_s <= 2 * recent_s else (0, 0)
        return max(*peaks, tenant.demand)

    def _remember_peak(self, tenant: _Tenant, now_s: float) -> None:
        behind_s = now_s - tenant.turned_s
        if behind_s > self._settings.recent_s:
            tenant.peaks = (tenant.peaks[1] if behind_s <= 2 * self._settings.recent_s else 0, 0)
            tenant.turned_s = now_s
        tenant.peaks = (tenant.peaks[0], max(tenant.peaks[1], tenant.demand))

    def _sweep(self, now_s: float) -> None:
        """Forget who was not seen for a long time, with what they owe: memory is bounded by who comes."""
        span_s = 2 * self._settings.recent_s
        if now_s - self._swept_s < span_s / 8:
            return
        self._swept_s = now_s
        for name, tenant in list(self._tenants.items()):
            if not tenant.demand and now_s - tenant.seen_s > span_s:
                del self._tenants[name]


def _turn(who: _Tenant | _Lane) -> tuple[float, int]:
    """The lowest is next; of two that are as low, whoever comes anew or was served longer ago."""
    return who.used, who.served


def part_of(share: Share) -> float:
    """How much a share counts beside that of a tenant without settings, which is 1."""
    return share.weight / _USUAL_WEIGHT * PARTS[share.priority]
