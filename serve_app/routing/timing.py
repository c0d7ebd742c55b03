"""What a decision costs: CPU time of this thread for the whole of `trace`, beside a peer's way to score.

Times are of this machine as loaded as it was; the ratio to the peer, taken call by call next to it, is what compares.
"""

import gc
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from router.policy import Policy
from router.snapshot import Snapshot
from serve_app.routing.asked import ask
from serve_app.routing.metrics import Outcomes
from serve_app.routing.peer import estimator, vectorizer

_LOG_LINES: Final = (
    "2026-03-04T14:3{n}:07.412Z ERROR checkout-7f9c payment timed out after 3000 ms trace=4be1c{n}",
    "2026-03-04T14:3{n}:08.001Z WARN gateway upstream 503 from 10.2.{n}.18:8443, retry 2 of 3",
    "2026-03-04T14:3{n}:08.377Z INFO scheduler evicted pod api-{n} on node worker-4, memory pressure",
)
_LOG_SIZES: Final = {"1 kB log": 1_000, "4 kB log": 4_000, "64 kB log": 64_000}
_PEER_ROWS: Final = 1500


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds per call: smallest, median, 90 % and 99 % of `calls`; `per_second` is 1 over the mean."""

    calls: int
    least_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Timing:
    """One kind of prompt. `ratio` is our median over the peer's; `p99_ratio` likewise."""

    prompts: str
    ours: Cost
    peer: Cost

    @property
    def ratio(self) -> float:
        """Our median over the peer's."""
        return self.ours.p50_us / self.peer.p50_us

    @property
    def p99_ratio(self) -> float:
        """Our 99th percentile over the peer's."""
        return self.ours.p99_us / self.peer.p99_us


def log_of(size: int) -> str:
    """A log of `size` characters with a question at its end, the same each time."""
    question = "\n\nCheckout fails since 14:30. What is the root cause?"
    lines: list[str] = []
    length = 0
    while length < size:
        line = _LOG_LINES[len(lines) % len(_LOG_LINES)].format(n=len(lines) % 10)
        lines.append(line)
        length += len(line) + 1
    return "\n".join(lines)[: max(size - len(question), 0)] + question


def timings(
    prompts: Mapping[str, Sequence[str]],
    policy: Policy,
    snapshot: Snapshot | None,
    learned: Sequence[str],
    outcomes: Outcomes,
    logs: int = 200,
) -> tuple[Timing, ...]:
    """One entry per kind of prompt in `prompts` and per log size, the latter called `logs` times.

    The peer learns from `learned`, whose outcomes are `outcomes`, before the clock runs.
    """
    peer = _peer(learned[:_PEER_ROWS], outcomes)
    kinds: dict[str, Sequence[str]] = {**prompts, **{name: [log_of(size)] * logs for name, size in _LOG_SIZES.items()}}

    def ours(prompt: str) -> object:
        return ask(prompt, policy, snapshot)

    return tuple(Timing(name, *_measure(texts, ours, peer)) for name, texts in kinds.items())


def cost(nanoseconds: Sequence[int]) -> Cost:
    """The figures of some calls, at least one."""
    taken = np.asarray(nanoseconds, dtype=np.float64) / 1000.0
    p50, p90, p99 = np.percentile(taken, (50, 90, 99))
    return Cost(taken.size, float(taken.min()), float(p50), float(p90), float(p99), float(1e6 / taken.mean()))


def _peer(prompts: Sequence[str], outcomes: Outcomes) -> Callable[[str], object]:
    hashing: Any = vectorizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it stops before it has converged, as the peer's does
        head: Any = estimator(1.0).fit(hashing.transform(prompts), outcomes.weak[: len(prompts)] < 0.5)

    def score(prompt: str) -> object:
        return head.predict_proba(hashing.transform([prompt]))[0, 1]

    return score


def _measure(prompts: Sequence[str], ours: Callable[[str], object], peer: Callable[[str], object]) -> tuple[Cost, Cost]:
    """Both on each prompt in turn, so that a busy moment meets both."""
    for prompt in prompts[:20]:
        ours(prompt)
        peer(prompt)
    took: tuple[list[int], list[int]] = ([], [])
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for prompt in prompts:
            for call, times in zip((ours, peer), took, strict=True):
                began = time.thread_time_ns()
                call(prompt)
                times.append(time.thread_time_ns() - began)
    finally:
        if collecting:
            gc.enable()
    return cost(took[0]), cost(took[1])
