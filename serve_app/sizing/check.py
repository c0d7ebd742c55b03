"""The simulator beside a real server on a token clock: the same load, the same clock, and how far apart they are. Pure.

The clock decides how long an answer takes, so what is compared is everything around it: queues, seats, the loop of
clients. What the serving path itself costs is not predicted but taken from one level, with one stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.bench.load import Level
from serve_app.bench.stats import Figures, Spread, metric, spread
from serve_app.sizing.outcome import TierOutcome
from serve_app.sizing.replica import Clock, EngineShape
from serve_app.sizing.simulate import SMALL, Scenario, TierSetup, simulate
from serve_app.sizing.workload import Workload

COMPARED = ("TTFT p50", "TTFT mean", "TTFT p90", "E2E p50", "output tokens/s")


@dataclass(frozen=True, slots=True)
class ClockServer:
    """A server of kind `synthetic`: its settings, and what the path adds to every answer, in seconds."""

    seats: int
    first_s: float
    token_s: float
    output: int
    path_s: float = 0.0
    max_queued: int = 256


def simulated(server: ClockServer, level: Level, duration_s: float, seed: int = 1) -> TierOutcome:
    """The level on the simulator for `duration_s` seconds, a tenth of them as warm-up where arrivals are open."""
    closed = level.streams is not None
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
    # The path is a part of every answer, so that it slows a closed loop down, as it does in the real one.
    clock = Clock(server.first_s + server.path_s, server.token_s) if closed else Clock(server.first_s, server.token_s)
    tier = TierSetup(
        EngineShape(clock, server.seats, server.max_queued), hit=0.0, path_s=0.0 if closed else server.path_s
    )
    warm_up_s = 0.0 if closed else duration_s / 10
    return simulate(Scenario(level.label, {SMALL: tier}, workload, duration_s, warm_up_s, seed)).tiers[SMALL]


def figure(outcome: TierOutcome, name: str, measured_s: float) -> float | None:
    """A figure of `COMPARED` in the unit of `Figures`; None where nothing was answered."""
    if name == "output tokens/s":
        return outcome.output_tokens / measured_s
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


def compare(
    server: ClockServer, runs: Mapping[str, tuple[Level, Figures]], duration_s: float = 3600.0, seed: int = 1
) -> list[Compared]:
    """Every figure of every level. A closed loop is simulated for as many rounds as it was measured."""
    found: list[Compared] = []
    for label, (level, figures) in runs.items():
        length_s = figures.wall_s if level.streams is not None else duration_s
        outcome = simulated(server, level, length_s, seed)
        counted_s = length_s if level.streams is not None else length_s * 0.9
        found += [Compared(label, name, measured(figures, name), figure(outcome, name, counted_s)) for name in COMPARED]
    return found
