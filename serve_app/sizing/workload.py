"""Who asks what and when, in the simulator: agents' sessions of several turns. Pure, drawn from seeds."""

import math
import random
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Workload:
    """Sessions and their turns. Lengths are means in tokens, times in seconds, shares in [0, 1].

    With `population` there are always so many sessions, and one that ends is followed by another; else they arrive at
    `sessions_per_s`, by a Poisson process that `bursty` makes `burst` times faster and slower in turns, each of mean
    length `burst_s`, with the mean rate kept. A session has `turns` turns on average; each adds `turn_tokens` to its
    context (the first one `first_tokens`), gets an answer of `output` tokens, and the next one follows after `think_s`
    (tools, people). `spread` is how answers vary: none (`fixed`) or with a long tail (`exponential`, also thinking).

    The router sends `large` of the sessions to the larger model; of the smaller one's answers `escalation` are asked
    again there, where their session then stays.
    """

    population: int | None = None
    sessions_per_s: float = 0.0
    arrivals: Literal["poisson", "bursty"] = "poisson"
    burst: float = 4.0
    burst_s: float = 60.0
    turns: float = 10.0
    first_tokens: int = 6000
    turn_tokens: int = 1500
    most_context: int = 120_000
    output: int = 400
    spread: Literal["fixed", "exponential"] = "exponential"
    think_s: float = 10.0
    large: float = 0.0
    escalation: float = 0.0

    def __post_init__(self) -> None:
        if (self.population is None) == (self.sessions_per_s <= 0):
            raise ValueError("a workload has either a population or a rate of sessions")
        if self.turns < 1 or self.output < 1 or self.burst <= 1 or min(self.first_tokens, self.turn_tokens) < 1:
            raise ValueError("turns, outputs and prompts are at least 1, and a burst is faster than the mean")
        if self.first_tokens >= self.most_context:
            raise ValueError(f"a first prompt of {self.first_tokens:,} tokens leaves no room in {self.most_context:,}")


class Session:
    """One agent. Draws from its own seed, so that what it does is the same whatever else happens."""

    __slots__ = ("context", "large", "last", "number", "rng", "turns", "workload")

    def __init__(self, workload: Workload, seed: int, number: int) -> None:
        self.number = number
        self.workload = workload
        self.rng = random.Random(f"{seed}:{number}")
        self.turns = 1 + _geometric(self.rng, workload.turns - 1)
        self.large = self.rng.random() < workload.large
        self.context = 0
        self.last: dict[str, int] = {}
        """Tier -> the replica that had the last turn."""

    def ask(self) -> tuple[int, int]:
        """New tokens of the next prompt and the length of its answer; the context grows by the prompt.

        An agent whose context is full begins anew.
        """
        workload = self.workload
        output = workload.output
        if workload.spread == "exponential":
            output = 1 + _geometric(self.rng, workload.output - 1)
        new = workload.turn_tokens if self.context else workload.first_tokens
        if self.context + new + output > workload.most_context:
            self.context, self.last = 0, {}
            new = workload.first_tokens
        output = min(output, max(1, workload.most_context - self.context - new))
        self.context += new
        return new, output

    def think_s(self) -> float:
        """Until the next turn."""
        mean = self.workload.think_s
        if mean <= 0:
            return 0.0
        return self.rng.expovariate(1 / mean) if self.workload.spread == "exponential" else mean

    def fails(self) -> bool:
        """Whether the smaller model's answer is asked again of the larger one."""
        return self.rng.random() < self.workload.escalation


class Arrivals:
    """The times at which sessions come, one after the other."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self._workload = workload
        self._rng = random.Random(f"arrivals:{seed}")
        self._fast = False
        self._turns_s = 0.0 if workload.arrivals == "bursty" else math.inf
        self._at_s = 0.0

    def next_s(self) -> float:
        """When the next session comes."""
        workload = self._workload
        while True:
            rate = workload.sessions_per_s
            if workload.arrivals == "bursty":
                # Fast and slow parts last equally long, so that their rates are to have the asked mean.
                slow = 2 * rate / (workload.burst + 1)
                rate = slow * workload.burst if self._fast else slow
            at_s = self._at_s + self._rng.expovariate(rate)
            if at_s <= self._turns_s:
                self._at_s = at_s
                return at_s
            self._at_s = self._turns_s  # exponential gaps have no memory
            self._fast = not self._fast
            self._turns_s += self._rng.expovariate(1 / workload.burst_s)


def _geometric(rng: random.Random, mean: float) -> int:
    """Whole numbers from 0 on with this mean."""
    if mean <= 0:
        return 0
    return int(math.log(1.0 - rng.random()) / math.log(mean / (mean + 1)))
