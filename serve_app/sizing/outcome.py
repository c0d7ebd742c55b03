"""What a simulated run showed. Pure."""

import math
from dataclasses import dataclass, field

_PER_DECADE = 50  # bins of a histogram of gaps: 4.7 % wide
_LEAST_S = 1e-5


class Gaps:
    """Times between tokens, weighted by how many tokens came after each; in bins of less than five per cent."""

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self._count = 0
        self._sum_s = 0.0

    def add(self, seconds: float, tokens: int) -> None:
        """`tokens` more of them came after `seconds` each."""
        if tokens <= 0:
            return
        at = math.floor(math.log10(max(seconds, _LEAST_S) / _LEAST_S) * _PER_DECADE)
        self._bins[at] = self._bins.get(at, 0) + tokens
        self._count += tokens
        self._sum_s += seconds * tokens

    def clear(self) -> None:
        """Forget them, at the end of a warm-up."""
        self._bins.clear()
        self._count, self._sum_s = 0, 0.0

    @property
    def count(self) -> int:
        """How many there were."""
        return self._count

    @property
    def mean_s(self) -> float:
        """Their mean; 0 when there were none."""
        return self._sum_s / self._count if self._count else 0.0

    def percentile_s(self, share: float) -> float:
        """The middle of the bin below whose end `share` of them lie; 0 when there were none."""
        wanted, seen = share * self._count, 0
        for at in sorted(self._bins):
            seen += self._bins[at]
            if seen >= wanted:
                return _LEAST_S * 10 ** ((at + 0.5) / _PER_DECADE)
        return 0.0


@dataclass(slots=True)
class TierOutcome:
    """One tier. Times of requests in seconds, in the order of their ends; `replicas` has (second, ready, starting).

    They ended at `ends_s`. `replica_s` are seconds of replicas, from the beginning of their start on; `offered` counts
    what was asked, refused requests included. What was asked during the warm-up is counted nowhere, but in `replica_s`
    and `replicas`.
    """

    offered: int = 0
    refused: int = 0
    escalated: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    replica_s: float = 0.0
    ttft_s: list[float] = field(default_factory=list[float])
    e2e_s: list[float] = field(default_factory=list[float])
    ends_s: list[float] = field(default_factory=list[float])
    gaps: Gaps = field(default_factory=Gaps)
    replicas: list[tuple[float, int, int]] = field(default_factory=list[tuple[float, int, int]])
    depth: list[tuple[float, int, int]] = field(default_factory=list[tuple[float, int, int]])
    """(second, running, waiting)"""

    @property
    def complete(self) -> int:
        """Requests that were answered."""
        return len(self.e2e_s)


@dataclass(slots=True)
class Outcome:
    """A whole run: what its tiers showed in the `measured_s` after the warm-up, and sessions that came and ended."""

    measured_s: float
    tiers: dict[str, TierOutcome]
    sessions: int = 0
    ended: int = 0
    broken_off: int = 0
