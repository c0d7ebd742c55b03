"""The simulator beside a real server on a token clock: the same load, the same clock, and how far apart they are. Pure.

The clock decides how long an answer takes, so what is compared is everything around it: the path, queues, seats, the
loop of clients. What the path costs on this machine is measured apart, by probes of one token; the levels that are
compared have no part in it. Open levels are simulated with the moments at which the load generator really sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum

from serve_app.bench.load import Level
from serve_app.bench.stats import Figures, Spread, metric, spread
from serve_app.sizing.outcome import TierOutcome
from serve_app.sizing.path import PathShape
from serve_app.sizing.replica import Clock, EngineShape
from serve_app.sizing.simulate import SMALL, Scenario, TierSetup, simulate
from serve_app.sizing.workload import Workload

COMPARED = ("TTFT p50", "TTFT mean", "TTFT p90", "E2E p50", "output tokens/s")
_DRAIN_S = 60.0  # more than a level lasts, so that its last answers are in it
_MOST_SHARE = 0.95  # of an ingress that tokens are believed to take


@dataclass(frozen=True, slots=True)
class ClockServer:
    """A server of kind `synthetic`: its settings, and what lies before it. Seconds."""

    seats: int
    first_s: float
    token_s: float
    output: int
    path: PathShape = PathShape()
    max_queued: int = 256


@dataclass(frozen=True, slots=True)
class Probe:
    """Requests of one token, `together` at a time, beside `running` answers: their median time to the first token.

    All of them had a seat at once, so the engine's part of `ttft_s` is that of its clock.
    """

    together: int
    running: int
    ttft_s: float


def fitted(probes: Sequence[Probe], first_s: float, token_s: float) -> PathShape:
    """The path that explains the probes: a line through those beside no answer, and what tokens slow it down by.

    The clock's `first_s` and `token_s` are the engine's part. `ValueError` without two sizes of bursts beside nobody.
    """
    alone = [(each.together, each.ttft_s - first_s) for each in probes if not each.running]
    mean_n, mean_s = fsum(n for n, _ in alone) / max(1, len(alone)), fsum(s for _, s in alone) / max(1, len(alone))
    spread_n = fsum((n - mean_n) ** 2 for n, _ in alone)
    if not spread_n:
        raise ValueError("probes of at least two sizes are needed")
    request_s = max(0.0, fsum((n - mean_n) * (s - mean_s) for n, s in alone) / spread_n)
    calls_s = max(0.0, mean_s - request_s * mean_n)
    # Beside `rate` tokens a second a request has the rest of the core: request_s * n / (1 - path_token_s * rate).
    shares = [
        (1.0 - request_s * each.together / slow_s) / each.running
        for each in probes
        if each.running and request_s and (slow_s := each.ttft_s - first_s - calls_s) > 0
    ]
    most = max((each.running for each in probes), default=0)
    share = fsum(shares) / len(shares) if shares else 0.0  # of a core, for each running answer
    share = min(max(0.0, share), _MOST_SHARE / max(1, most))
    return PathShape(calls_s, request_s, share * token_s)


@dataclass(frozen=True, slots=True)
class Run:
    """A level on the real server. `sent_s` are the moments at which its requests were sent, on any clock, ascending."""

    level: Level
    figures: Figures
    sent_s: tuple[float, ...] = field(default=())


def simulated(server: ClockServer, run: Run, seed: int = 1) -> TierOutcome:
    """The level on the simulator, for as many answers as the real one had; an open level has the real arrivals."""
    level, count = run.level, run.figures.complete
    workload = Workload(
        population=level.streams,
        sessions_per_s=level.rate or 0.0,
        turns=1,
        first_tokens=1,
        turn_tokens=1,
        output=server.output,
        spread="fixed",
        think_s=0.0,
    )
    tier = TierSetup(EngineShape(Clock(server.first_s, server.token_s), server.seats, server.max_queued), hit=0.0)
    arrivals_s = None
    if level.streams is None:
        began_s = run.sent_s[0] if run.sent_s else 0.0
        arrivals_s = tuple(each - began_s for each in run.sent_s)
    length_s = 2 * run.figures.wall_s + _DRAIN_S
    scenario = Scenario(level.label, {SMALL: tier}, workload, length_s, 0.0, seed, server.path, arrivals_s)
    seen = simulate(scenario).tiers[SMALL]
    ends_s = seen.ends_s[:count]
    return TierOutcome(
        output_tokens=len(ends_s) * server.output, ttft_s=seen.ttft_s[:count], e2e_s=seen.e2e_s[:count], ends_s=ends_s
    )


def figure(outcome: TierOutcome, name: str) -> float | None:
    """A figure of `COMPARED` in the unit of `Figures`; None where nothing was answered."""
    if name == "output tokens/s":
        return outcome.output_tokens / outcome.ends_s[-1] if outcome.ends_s else None
    values = spread(outcome.ttft_s if name.startswith("TTFT") else outcome.e2e_s, 1000)
    return _part(values, name)


def measured(figures: Figures, name: str) -> float | None:
    """The same figure of a real run."""
    if name == "output tokens/s":
        return metric(figures, name)
    return _part(figures.ttft_ms if name.startswith("TTFT") else figures.e2e_ms, name)


def _part(values: Spread | None, name: str) -> float | None:
    return None if values is None else float(getattr(values, name.rpartition(" ")[2]))


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of one level. `error` is the simulator's, as a share of what was measured; None without either."""

    level: str
    name: str
    real: float | None
    simulated: float | None

    @property
    def error(self) -> float | None:
        """Positive where the simulator says more."""
        return None if not self.real or self.simulated is None else self.simulated / self.real - 1


def compare(server: ClockServer, runs: Mapping[str, Run], seed: int = 1) -> list[Compared]:
    """Every figure of every level; an open loop's throughput is that of its arrivals in both, and left out."""
    found: list[Compared] = []
    for label, run in runs.items():
        outcome = simulated(server, run, seed)
        for name in COMPARED:
            if name == "output tokens/s" and run.level.streams is None:
                continue
            found.append(Compared(label, name, measured(run.figures, name), figure(outcome, name)))
    return found
