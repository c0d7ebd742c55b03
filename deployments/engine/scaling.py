"""How many replicas a tier needs. Pure: Serve calls `TierPolicy` with its context, tests with recorded traces.

Serve applies what surrounds a wish: bounds, the delays after which it is acted on, and the first replica of a tier
that was at zero. The wish itself is made here, from four signals and the thresholds of the operations runbook (queue
depth above 5, p95 latency above 5 s, memory above 90 %, saturation above 85 %):

- Up when a signal is above its threshold: by queue and saturation to as many replicas as the work fills, by memory and
  latency by one. Never to more than twice what runs.
- Down by one when the work, spread over one replica less, stays below every lower threshold. The distance between the
  two is what keeps a constant load from swinging.
- To zero, where the profile allows it, when there is no request at all.
"""

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

_log = logging.getLogger("gatehouse.scaling")


class ScalingSettings(BaseModel):
    """Bounds, thresholds and delays of one tier. Shares are 0..1, delays seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    min_replicas: int = Field(default=1, ge=0, le=1024)
    max_replicas: int = Field(default=1, ge=1, le=1024)

    queue_depth: float = Field(default=5.0, gt=0, description="Waiting requests per replica.")
    latency_s: float = Field(default=5.0, gt=0, description="95th percentile of the time to the first token.")
    memory: float = Field(default=0.9, gt=0, le=1, description="Share of the KV cache in use.")
    saturation: float = Field(default=0.85, gt=0, le=1, description="Share of the engine's seats that are taken.")
    latency_low_s: float = Field(default=2.5, gt=0)
    memory_low: float = Field(default=0.7, gt=0, le=1)
    saturation_low: float = Field(default=0.6, gt=0, le=1)

    look_back_s: float = Field(default=30.0, gt=1, description="Signals are means over this window.")
    upscale_delay_s: float = Field(default=30.0, ge=0, description="How long a wish for more must last.")
    downscale_delay_s: float = Field(default=600.0, ge=0, description="How long a wish for less must last.")
    to_zero_delay_s: float = Field(default=1800.0, ge=0, description="How long a tier must be idle to be given up.")

    @model_validator(mode="after")
    def _consistent(self) -> "ScalingSettings":
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas must not be larger than max_replicas")
        for low, high in (("latency_low_s", "latency_s"), ("memory_low", "memory"), ("saturation_low", "saturation")):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f"{low} must be smaller than {high}, or replicas would come and go")
        return self


@dataclass(frozen=True, slots=True)
class Signals:
    """What a tier does now. `replicas` run; `reporting` of them have said how they are.

    `queued` counts requests that wait, in engines and before them; `running` those being worked on; `seats` how many a
    replica works on at once (0: unknown). `saturation` and `memory` are shares 0..1 of the fullest replica but for
    saturation, which is the mean; `latency_p95_s` is that of the slowest.
    """

    replicas: int
    reporting: int
    queued: float
    running: float
    seats: float = 0.0
    saturation: float = 0.0
    memory: float = 0.0
    latency_p95_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Wish:
    """How many replicas there should be, and why."""

    replicas: int
    reason: str


def decide(settings: ScalingSettings, signals: Signals) -> Wish:
    """The wish for a tier, between its bounds."""
    wish = _decide(settings, signals)
    bounded = max(settings.min_replicas, min(settings.max_replicas, wish.replicas))
    return wish if bounded == wish.replicas else Wish(bounded, f"{wish.reason}, bounded")


def _decide(settings: ScalingSettings, signals: Signals) -> Wish:
    count, load = signals.replicas, signals.queued + signals.running
    if count == 0:
        return Wish(1, "cold") if load > 0 else Wish(0, "idle")
    up = _more(settings, signals)
    if up is not None:
        return Wish(min(up.replicas, 2 * count), up.reason)
    if load <= 0:
        # One at a time, and the last one only where nothing at all is left to do.
        return Wish(count - 1, "idle")
    if count > 1 and signals.reporting >= count and _fits_one_less(settings, signals):
        return Wish(count - 1, "low")
    return Wish(count, "steady")


def _more(settings: ScalingSettings, signals: Signals) -> Wish | None:
    """The largest of the wishes for more, or None."""
    count = signals.replicas
    filled = count + 1
    if signals.seats >= 1:
        filled = max(filled, math.ceil((signals.queued + signals.running) / (signals.seats * settings.saturation)))
    wishes: list[Wish] = []
    if signals.queued > settings.queue_depth * count:
        wishes.append(Wish(filled, "queue"))
    if signals.saturation > settings.saturation:
        wishes.append(Wish(filled, "saturation"))
    if signals.memory > settings.memory:
        wishes.append(Wish(count + 1, "memory"))
    # Slow first tokens of long prompts on idle engines are not cured by more engines.
    if signals.latency_p95_s > settings.latency_s and (
        signals.queued > 0 or signals.saturation > settings.saturation_low
    ):
        wishes.append(Wish(count + 1, "latency"))
    return max(wishes, key=lambda wish: wish.replicas, default=None)


def _fits_one_less(settings: ScalingSettings, signals: Signals) -> bool:
    grown = signals.replicas / (signals.replicas - 1)
    return (
        signals.queued <= 0
        and signals.saturation * grown < settings.saturation_low
        and signals.memory * grown < settings.memory_low
        and signals.latency_p95_s < settings.latency_low_s
    )


def autoscaling_config(settings: ScalingSettings) -> dict[str, object]:
    """Serve's `autoscaling_config` for a tier."""
    return {
        "min_replicas": settings.min_replicas,
        "max_replicas": settings.max_replicas,
        "look_back_period_s": settings.look_back_s,
        "upscale_delay_s": settings.upscale_delay_s,
        "downscale_delay_s": settings.downscale_delay_s,
        "downscale_to_zero_delay_s": settings.to_zero_delay_s,
        "policy": {
            "policy_function": "deployments.engine.scaling:TierPolicy",
            "policy_kwargs": settings.model_dump(mode="json"),
        },
    }


class Context(Protocol):
    """What is read of Serve's `AutoscalingContext`."""

    @property
    def deployment_name(self) -> str:
        """Of the tier's deployment."""
        ...

    @property
    def current_num_replicas(self) -> int:
        """Replicas that run."""
        ...

    @property
    def total_num_requests(self) -> float:
        """Requests at handles and in replicas."""
        ...

    @property
    def total_queued_requests(self) -> float:
        """Requests that wait at handles."""
        ...

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None:
        """Per metric, the mean of each replica."""
        ...

    @property
    def policy_state(self) -> Mapping[str, Any]:
        """What the last call returned."""
        ...


class TierPolicy:
    """The policy as Serve's controller calls it, several times a second."""

    def __init__(self, **settings: Any) -> None:
        self._settings = ScalingSettings.model_validate(settings)

    def __call__(self, ctx: Context) -> tuple[int, dict[str, Any]]:
        """The wish, and what to remember of it."""
        wish = decide(self._settings, read(ctx))
        if ctx.policy_state.get("reason") != wish.reason:
            _log.info("%s: %d replicas wished for (%s)", ctx.deployment_name, wish.replicas, wish.reason)
        return wish.replicas, {"reason": wish.reason}


def read(ctx: Context) -> Signals:
    """Signals from Serve's context. What no replica has reported yet counts as nothing."""
    metrics = ctx.aggregated_metrics or {}
    waiting_at_handles = ctx.total_queued_requests or 0.0
    running = metrics.get("running", {})
    return Signals(
        replicas=ctx.current_num_replicas,
        reporting=len(running),
        queued=waiting_at_handles + sum(metrics.get("waiting", {}).values()),
        # Serve's own count covers replicas that have not reported and upstreams that count nothing.
        running=max(sum(running.values()), (ctx.total_num_requests or 0.0) - waiting_at_handles, 0.0),
        seats=max(metrics.get("seats", {}).values(), default=0.0),
        saturation=_mean(list(metrics.get("saturation", {}).values())),
        memory=max(metrics.get("kv_usage", {}).values(), default=0.0),
        latency_p95_s=max(metrics.get("latency_p95_s", {}).values(), default=0.0),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


class LatencyWindow:
    """The 95th percentile of the last minute's latencies, at most `most` of them."""

    def __init__(self, span_s: float = 60.0, most: int = 512) -> None:
        self._span_s = span_s
        self._seen: deque[tuple[float, float]] = deque(maxlen=most)

    def add(self, now_s: float, latency_s: float) -> None:
        """Remember one latency."""
        self._seen.append((now_s, latency_s))

    def p95_s(self, now_s: float) -> float:
        """The nearest-rank percentile; 0 when nothing was seen within the span."""
        while self._seen and self._seen[0][0] < now_s - self._span_s:
            self._seen.popleft()
        ordered = sorted(latency_s for _, latency_s in self._seen)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else 0.0
