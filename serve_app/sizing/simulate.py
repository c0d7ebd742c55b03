"""A discrete-event simulator of the whole system: sessions, the router's shares, queues, engines, autoscaling. Pure.

What it takes from the product is the rule of scaling itself (`deployments.engine.scaling.decide`); what it copies from
Serve are the delays around it. A run with the same arguments is the same run, to the last digit.
"""

import heapq
import itertools
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deployments.engine.scaling import ScalingSettings, Signals, decide
from serve_app.sizing.outcome import Outcome, TierOutcome
from serve_app.sizing.path import Path, PathShape
from serve_app.sizing.replica import EngineShape, Replica, Request, replica
from serve_app.sizing.workload import Arrivals, Session, Workload

SMALL, LARGE = "20b", "120b"
_TICK_S = 1.0  # how often the scaling rule is asked
_SAMPLE_S = 5.0  # how often the curves have a point


@dataclass(frozen=True, slots=True)
class TierSetup:
    """One tier: its engines, a fixed number of `replicas` or a `scaling` rule, and what a new one takes.

    `hit` is the share of turns that find their session's prefix in the cache, where the replica is the one of the last
    turn. `affinity` sends a session's turns to the same replica as long as it is there.
    """

    shape: EngineShape
    replicas: int = 1
    scaling: ScalingSettings | None = None
    cold_start_s: float = 300.0
    hit: float = 0.8
    affinity: bool = True


@dataclass(frozen=True, slots=True)
class Scenario:
    """A whole run. Requests of the first `warm_up_s` count nowhere; the end cuts off what is still open.

    `path` lies before all tiers. With `arrivals_s` (seconds, ascending) sessions come just then, whatever the workload
    says of how they come.
    """

    name: str
    tiers: Mapping[str, TierSetup]
    workload: Workload
    duration_s: float = 3600.0
    warm_up_s: float = 300.0
    seed: int = 1
    path: PathShape = PathShape()
    arrivals_s: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.tiers or self.warm_up_s >= self.duration_s:
            raise ValueError("a scenario has a tier, and goes on after its warm-up")


def simulate(scenario: Scenario) -> Outcome:
    """Run a scenario."""
    return _System(scenario).run()


class _System:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._sessions = itertools.count()
        self.outcome = Outcome(
            scenario.duration_s - scenario.warm_up_s, {name: TierOutcome() for name in scenario.tiers}
        )
        self._tiers = {name: _Tier(name, setup, self) for name, setup in scenario.tiers.items()}
        self._arrivals = Arrivals(scenario.workload, scenario.seed)
        self._path = Path(scenario.path, lambda: self._now, self.later, self._tokens_per_s)

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self._now

    @property
    def counted(self) -> bool:
        """Whether the warm-up is over."""
        return self._now >= self._scenario.warm_up_s

    def is_counted(self, request: Request) -> bool:
        """Whether a request was asked after the warm-up."""
        return request.asked_s >= self._scenario.warm_up_s

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` so much later; of two at the same moment the one that was said first."""
        heapq.heappush(self._events, (self._now + seconds, next(self._order), action))

    def run(self) -> Outcome:
        """From the first arrival to the end of the time."""
        workload = self._scenario.workload
        if self._scenario.arrivals_s is not None:
            for at_s in self._scenario.arrivals_s:
                self.later(at_s, self._come)
        elif workload.population is None:
            self.later(self._arrivals.next_s(), self._arrive)
        else:
            for _ in range(workload.population):
                self._come()
        for name, tier in self._tiers.items():
            self.later(0.0, tier.tick)
            self.later(0.0, tier.sample)
            self.later(self._scenario.warm_up_s, self.outcome.tiers[name].gaps.clear)
        while self._events and self._events[0][0] <= self._scenario.duration_s:
            self._now, _, action = heapq.heappop(self._events)
            action()
        self._now = self._scenario.duration_s
        for tier in self._tiers.values():
            tier.close()
        return self.outcome

    def _arrive(self) -> None:
        self._come()
        self.later(self._arrivals.next_s() - self._now, self._arrive)

    def _come(self) -> None:
        session = Session(self._scenario.workload, self._scenario.seed, next(self._sessions))
        self.outcome.sessions += 1
        # Sessions of a population do not all begin at the same moment.
        lead_s = session.think_s() if self._scenario.workload.population is not None else 0.0
        self.later(lead_s, lambda: self._turn(session))

    def _turn(self, session: Session) -> None:
        session.turns -= 1
        new, output = session.ask()
        self._send(session, new, output, LARGE if session.large and LARGE in self._tiers else self._small)

    @property
    def _small(self) -> str:
        return SMALL if SMALL in self._tiers else LARGE

    def _tokens_per_s(self) -> float:
        return sum(tier.tokens_per_s for tier in self._tiers.values())

    def _send(self, session: Session, new: int, output: int, name: str) -> None:
        asked_s = self._now
        self._path.enter(lambda: self._arrived(session, new, output, name, asked_s))

    def _arrived(self, session: Session, new: int, output: int, name: str, asked_s: float) -> None:
        """A request is through the path."""
        if not self._tiers[name].submit(session, new, output, asked_s):
            self.outcome.broken_off += 1  # the client gives up; what it does next is not known
            self._end(session)

    def answered(self, name: str, request: Request) -> None:
        """A request is complete: the session goes on, asks the larger model, or ends."""
        session = request.session
        if name == SMALL and LARGE in self._tiers and session.fails():
            session.large = True
            self.outcome.tiers[name].escalated += self.is_counted(request)
            self._send(session, request.new, request.output, LARGE)
            return
        session.context += request.output
        if session.turns > 0:
            self.later(session.think_s(), lambda: self._turn(session))
        else:
            self._end(session)

    def _end(self, session: Session) -> None:
        del session
        self.outcome.ended += 1
        if self._scenario.workload.population is not None:
            self._come()


@dataclass(slots=True)
class _Seen:
    """One look at a tier."""

    queued: float
    running: float
    saturation: float
    memory: list[float]


class _Tier:
    """Replicas of one model, who goes to which, and how many there are."""

    def __init__(self, name: str, setup: TierSetup, system: _System) -> None:
        self._name = name
        self._setup = setup
        self._system = system
        self._out = system.outcome.tiers[name]
        self._numbers = itertools.count()
        self._ready: dict[int, Replica] = {}
        self._leaving: dict[int, Replica] = {}
        self._starting: set[int] = set()
        self._held: deque[Request] = deque()  # while there is no replica
        self._began_s: dict[int, float] = {}
        self._seen: deque[_Seen] = deque(
            maxlen=max(1, int(setup.scaling.look_back_s / _TICK_S)) if setup.scaling else 1
        )
        self._wish_s = 0.0  # for how long more (positive) or less (negative) was wished
        self._moved_s = 0.0
        self._target = setup.replicas if setup.scaling is None else max(setup.scaling.min_replicas, setup.replicas)
        for _ in range(self._target):
            self._become_ready(self._begin())

    @property
    def tokens_per_s(self) -> float:
        """Of all answers that are being written now."""
        return sum(each.tokens_per_s for each in (*self._ready.values(), *self._leaving.values()))

    def submit(self, session: Session, new: int, output: int, asked_s: float) -> bool:
        """Take a turn of a session that was asked then; False where it is refused."""
        chosen = self._choose(session.number)
        before = session.context - new
        cached = 0
        if chosen is not None and before > 0 and session.last.get(self._name) == chosen.number:
            cached = before if session.rng.random() < self._setup.hit else 0
        request = Request(session, asked_s, self._system.now, before + new - cached, cached, output)
        if self._system.is_counted(request):
            self._out.offered += 1
        if chosen is not None:
            session.last[self._name] = chosen.number
            taken = chosen.submit(request)
        else:
            taken = len(self._held) < self._setup.shape.max_queued
            if taken:
                self._held.append(request)
        if self._system.is_counted(request):
            self._out.refused += not taken
            if taken:
                self._out.prompt_tokens += request.context
                self._out.cached_tokens += cached
        return taken

    def _choose(self, session: int) -> Replica | None:
        """By rendezvous hashing with affinity: a replica that comes or goes moves its own sessions only."""
        if not self._ready:
            return None
        if self._setup.affinity:
            return max(self._ready.values(), key=lambda each: zlib.crc32(f"{session}:{each.number}".encode()))
        return min(self._ready.values(), key=lambda each: (each.running + each.waiting, each.number))

    def _finished(self, engine: Replica, request: Request) -> None:
        if self._system.is_counted(request):
            self._out.ttft_s.append(request.first_s - request.asked_s)
            self._out.e2e_s.append(self._system.now - request.asked_s)
            self._out.ends_s.append(self._system.now)
            self._out.output_tokens += request.output
        if engine.leaving and not engine.running and not engine.waiting:
            self._gone(engine)
        self._system.answered(self._name, request)

    def tick(self) -> None:
        """Look at the tier, and act on a wish that has lasted."""
        settings = self._setup.scaling
        if settings is None:
            return
        engines = list(self._ready.values())
        seats = self._setup.shape.seats
        self._seen.append(
            _Seen(
                queued=len(self._held) + sum(each.waiting for each in engines),
                running=sum(each.running for each in engines),
                saturation=sum(each.running for each in engines) / (seats * len(engines)) if engines else 0.0,
                memory=[each.memory for each in engines],
            )
        )
        self._act(settings, decide(settings, self._signals(settings, engines)).replicas)
        self._system.later(_TICK_S, self.tick)

    def _signals(self, settings: ScalingSettings, engines: list[Replica]) -> Signals:
        now, seen, count = self._system.now, self._seen, len(self._seen)
        memory = [sum(each.memory) / len(each.memory) for each in seen if each.memory]
        fullest = [max(each.memory) for each in seen if each.memory]
        if self._target != len(engines):
            self._moved_s = now
        return Signals(
            replicas=len(engines),
            reporting=len(engines),
            queued=sum(each.queued for each in seen) / count,
            running=sum(each.running for each in seen) / count,
            seats=self._setup.shape.seats,
            saturation=sum(each.saturation for each in seen) / count,
            memory=sum(fullest) / len(fullest) if fullest else 0.0,
            memory_mean=sum(memory) / len(memory) if memory else 0.0,
            latency_p95_s=max((each.latencies.p95_s(now) for each in engines), default=0.0),
            settled=now - self._moved_s > 60.0 + settings.look_back_s,
            target=self._target,
        )

    def _act(self, settings: ScalingSettings, wish: int) -> None:
        """Serve's delays: a wish counts once it has lasted for so long. The first replica is not waited for."""
        if wish == self._target:
            self._wish_s = 0.0
            return
        more = wish > self._target
        self._wish_s = (max(0.0, self._wish_s) + _TICK_S) if more else (min(0.0, self._wish_s) - _TICK_S)
        least_s = settings.upscale_delay_s if more else settings.downscale_delay_s
        if more and not self._target:
            least_s = 0.0
        if not more and not wish:
            least_s = settings.to_zero_delay_s
        if abs(self._wish_s) >= least_s:
            self._wish_s = 0.0
            self._set(wish)

    def _set(self, target: int) -> None:
        self._target = target
        while len(self._ready) + len(self._starting) < target:
            number = self._begin()
            self._starting.add(number)
            self._system.later(self._setup.cold_start_s, lambda number=number: self._started(number))
        while len(self._ready) + len(self._starting) > target:
            if self._starting:
                self._stop(max(self._starting))
            else:
                self._leave(min(self._ready.values(), key=lambda each: (each.running + each.waiting, -each.number)))

    def _begin(self) -> int:
        number = next(self._numbers)
        self._began_s[number] = self._system.now
        return number

    def _stop(self, number: int) -> None:
        """Give up a replica that has not become ready."""
        self._starting.discard(number)
        self._charge(number)

    def _started(self, number: int) -> None:
        if number in self._starting:  # else it was given up meanwhile
            self._starting.remove(number)
            self._become_ready(number)

    def _become_ready(self, number: int) -> None:
        engine = replica(
            number, self._setup.shape, lambda: self._system.now, self._system.later, self._finished, self._out.gaps
        )
        self._ready[number] = engine
        while self._held:
            engine.submit(self._held.popleft())

    def _leave(self, engine: Replica) -> None:
        """Nothing new for it; it goes when its requests have ended."""
        del self._ready[engine.number]
        engine.leaving = True
        self._leaving[engine.number] = engine
        if not engine.running and not engine.waiting:
            self._gone(engine)

    def _gone(self, engine: Replica) -> None:
        del self._leaving[engine.number]
        self._charge(engine.number)

    def _charge(self, number: int) -> None:
        self._out.replica_s += self._system.now - self._began_s.pop(number)

    def sample(self) -> None:
        """A point of the curves."""
        engines = [*self._ready.values(), *self._leaving.values()]
        now = self._system.now
        self._out.replicas.append((now, len(self._ready), len(self._starting)))
        waiting = len(self._held) + sum(each.waiting for each in engines)
        self._out.depth.append((now, sum(each.running for each in engines), waiting))
        self._system.later(_SAMPLE_S, self.sample)

    def close(self) -> None:
        """Charge what still runs."""
        for number in list(self._began_s):
            self._charge(number)
