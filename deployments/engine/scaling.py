"""How many replicas a tier needs. Pure: Serve calls `TierPolicy` with its context, tests with recorded traces.

Serve applies what surrounds a wish: bounds, the delays after which it is acted on, and the first replica of a tier
that was at zero. The wish itself is made here, from four signals and the thresholds of the operations runbook (queue
depth above 5, p95 latency above 5 s, memory above 90 %, saturation above 85 %):

- Up when a signal is above its threshold: by queue and saturation to as many replicas as the work fills, by memory and
  latency by one. Never to more than twice what runs. One replica that is full among empty ones, and latencies that are
  older than the last change, are no reasons: another replica would not cure them, and they would ask for the most.
- Down by one when the work, spread over one replica less, stays below every lower threshold. The distance between the
  two is what keeps a constant load from swinging.
- To zero, where the profile allows it, when there is no request at all.
"""

import logging
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Below the one logger that Serve's controller, where the policy runs, writes anywhere.
_log = logging.getLogger("ray.serve.gatehouse.scaling")

_LATENCIES_S = 60.0  # how long a latency is remembered


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
    """What a tier does now. `replicas` run, `target` were asked for; `reporting` have said how they are.

    `queued` counts requests that wait, in engines and before them; `running` those being worked on; `seats` how many a
    replica works on at once (0: unknown). Shares are 0..1: `saturation` and `memory_mean` are means over the replicas,
    `memory` is that of the fullest; `latency_p95_s` is that of the slowest. `settled`: the number of replicas has not
    changed for as long as latencies are remembered.
    """

    replicas: int
    reporting: int
    queued: float
    running: float
    seats: float = 0.0
    saturation: float = 0.0
    memory: float = 0.0
    memory_mean: float = 0.0
    latency_p95_s: float = 0.0
    settled: bool = True
    target: int = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """How many replicas there should be, and why."""

    replicas: int
    reason: str


def decide(settings: ScalingSettings, signals: Signals) -> Wish:
    """The wish for a tier, between its bounds."""
    wish = _held(settings, signals, _decide(settings, signals))
    bounded = max(settings.min_replicas, min(settings.max_replicas, wish.replicas))
    return wish if bounded == wish.replicas else Wish(bounded, f"{wish.reason}, bounded")


def _held(settings: ScalingSettings, signals: Signals, wish: Wish) -> Wish:
    """The wish while replicas start: those that are needed are waited for.

    A wish counts from the replicas that run. Below the target it would stop the ones that are on their way, and after
    the loss of a node those are the replacements.
    """
    count = signals.replicas
    if wish.replicas >= signals.target or count >= signals.target or signals.queued + signals.running <= 0:
        return wish
    if count > 0 and signals.reporting >= count and _fits(settings, signals, count):
        return wish
    return Wish(signals.target, "starting")


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
    if count > 1 and signals.reporting >= count and _fits(settings, signals, count - 1):
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
    # Sessions stay where they are: one that fills its replica is not cured by more of them.
    if signals.memory > settings.memory and signals.memory_mean > settings.memory_low:
        wishes.append(Wish(count + 1, "memory"))
    # Nor are slow first tokens of long prompts on idle engines.
    busy = signals.queued > 0 or signals.saturation > settings.saturation_low
    if signals.latency_p95_s > settings.latency_s and busy and signals.settled:
        wishes.append(Wish(count + 1, "latency"))
    return max(wishes, key=lambda wish: wish.replicas, default=None)


def _fits(settings: ScalingSettings, signals: Signals, count: int) -> bool:
    """True when `count` replicas, at least 1, would do the work and stay below every lower threshold."""
    grown = signals.replicas / count
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
    def target_num_replicas(self) -> int:
        """Replicas that were asked for."""
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
    def current_time(self) -> float | None:
        """Seconds since the epoch."""
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
        """The wish, and what to remember for the next call."""
        before, now_s = ctx.policy_state, ctx.current_time or 0.0
        moved_s = float(before.get("moved_s", -math.inf))
        if ctx.current_num_replicas != ctx.target_num_replicas:
            moved_s = now_s
        settled = now_s - moved_s > _LATENCIES_S + self._settings.look_back_s
        wish = decide(self._settings, read(ctx, settled))
        # Serve acts on a wish after its delay, so the last one before a change is the reason for it. It does not ask
        # for the first replica of a tier at zero.
        was, target = before.get("target"), ctx.target_num_replicas
        if was is not None and was != target:
            reason = before.get("reason") if was else "cold"
            _log.info("%s: from %d to %d replicas (%s)", ctx.deployment_name, was, target, reason)
        return wish.replicas, {"target": target, "reason": wish.reason, "moved_s": moved_s}


def read(ctx: Context, settled: bool = True) -> Signals:
    """Signals from Serve's context. What no replica has reported yet counts as nothing."""
    metrics = ctx.aggregated_metrics or {}
    queued_at_handles, in_all = _finite((ctx.total_queued_requests or 0.0, ctx.total_num_requests or 0.0))
    running = _values(metrics, "running")
    waiting = sum(_values(metrics, "waiting"))
    memory = _values(metrics, "kv_usage")
    return Signals(
        replicas=ctx.current_num_replicas,
        reporting=len(running),
        queued=queued_at_handles + waiting,
        # Serve's own count covers replicas that have not reported and upstreams that count nothing.
        running=max(sum(running), in_all - queued_at_handles - waiting, 0.0),
        seats=max(_values(metrics, "seats"), default=0.0),
        saturation=_mean(_values(metrics, "saturation")),
        memory=max(memory, default=0.0),
        memory_mean=_mean(memory),
        latency_p95_s=max(_values(metrics, "latency_p95_s"), default=0.0),
        settled=settled,
        target=ctx.target_num_replicas,
    )


def _values(metrics: Mapping[str, Mapping[Any, float]], name: str) -> list[float]:
    return _finite(metrics.get(name, {}).values())


def _finite(values: Iterable[float]) -> list[float]:
    """Anything else becomes 0: an exception here would stop the scaling of every application."""
    return [value if math.isfinite(value) else 0.0 for value in values]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


class LatencyWindow:
    """The 95th percentile of the last minute's latencies, at most `most` of them."""

    def __init__(self, span_s: float = _LATENCIES_S, most: int = 512) -> None:
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
