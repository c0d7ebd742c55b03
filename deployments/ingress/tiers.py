"""How the tiers are doing, as far as one ingress replica can tell from its own calls. Needs nobody's answer.

What the router does with it, and when a request may not begin another attempt, is decided elsewhere. Counted are calls
that failed in a row, refusals, the wait for the first byte of streams, unfinished calls, and how long answers take.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from deployments.clock import Clock
from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout
from deployments.ingress.settings import LoadSettings
from deployments.ports import Engine, ModelId, Tier, TierState

_T = TypeVar("_T", int, float)
_SPAN_S: Final = 60.0  # for as long a wait is remembered
_FEWEST: Final = 5  # of anything, before a quantile means something
_MOST_WAITS: Final = 128
_MOST_ANSWERS: Final = 64


class Call:
    """One call of an engine, from before its first item to its end. Ends once, whoever says so first."""

    __slots__ = ("_ended_s", "_of", "_stream", "began_s", "first_ms", "heard")

    def __init__(self, of: "_Model", stream: bool) -> None:
        self._of = of
        self._stream = stream
        self._ended_s: float | None = None
        self.began_s = of.clock.monotonic_s()
        self.heard = False
        self.first_ms: float | None = None
        """Until the first bytes; None: there were none."""
        of.open[self] = None

    def spoke(self) -> None:
        """The first bytes have come. Only those of a stream say how long it waited."""
        self.heard = True
        now_s = self._of.clock.monotonic_s()
        self.first_ms = (now_s - self.began_s) * 1000
        if self._stream:
            self._of.waits.append((now_s, now_s - self.began_s))

    def completed(self) -> None:
        """The reply has ended as it should."""
        if self._end():
            self._of.failures = 0
            self._of.answers.append(self.ms)

    def failed(self, error: BaseException) -> None:
        """The reply broke, or never began. What a client did wrong, and a hang-up, say nothing of the model."""
        if not self._end():
            return
        now_s = self._of.clock.monotonic_s()
        if isinstance(error, EngineOverloaded):
            self._of.full_until_s = now_s + error.retry_after_s
        elif isinstance(error, EngineFailed | EngineTimeout):
            self._of.failures += 1
            self._of.failed_s = now_s

    def left(self) -> None:
        """Nobody reads on."""
        self._end()

    @property
    def seconds(self) -> float:
        """How long it took, or takes until now."""
        ended_s = self._of.clock.monotonic_s() if self._ended_s is None else self._ended_s
        return ended_s - self.began_s

    @property
    def ms(self) -> int:
        """The same in milliseconds."""
        return round(self.seconds * 1000)

    @property
    def ended(self) -> bool:
        """True when nothing of the reply is to come."""
        return self._ended_s is not None

    @property
    def waiting(self) -> bool:
        """True for a stream that has not said a word."""
        return self._stream and not self.heard

    def _end(self) -> bool:
        if self._ended_s is not None:
            return False
        self._ended_s = self._of.clock.monotonic_s()
        del self._of.open[self]
        return True


class _Model:
    """What was seen of one model."""

    def __init__(self, clock: Clock, engine: Engine) -> None:
        self.clock = clock
        self.engine = engine
        self.open: dict[Call, None] = {}
        self.waits: deque[tuple[float, float]] = deque(maxlen=_MOST_WAITS)
        self.answers: deque[int] = deque(maxlen=_MOST_ANSWERS)
        self.failures = 0
        self.failed_s = -math.inf
        self.full_until_s = -math.inf


class Tiers:
    """What one replica sees of all models, by tier for the router."""

    def __init__(
        self,
        engines: Mapping[ModelId, Engine],
        tiers: Iterable[tuple[Tier, ModelId]],
        settings: LoadSettings,
        clock: Clock,
    ) -> None:
        """`tiers` names the model of each tier; others are counted, and tell the router nothing."""
        self._models = {model: _Model(clock, engine) for model, engine in engines.items()}
        self._tiers = dict(tiers)
        self._settings = settings
        self._clock = clock

    def begin(self, model: ModelId, stream: bool) -> Call:
        """A call that is made now."""
        return Call(self._models[model], stream)

    def view(self) -> Mapping[Tier, TierState]:
        """Every tier at this moment."""
        return {tier: self._state(self._models[model]) for tier, model in self._tiers.items()}

    def usual_ms(self, model: ModelId) -> int | None:
        """How long three of four whole answers of a model take at most; None while too few were seen."""
        return _quantile(self._models[model].answers, 0.75)

    def _state(self, of: _Model) -> TierState:
        settings, now_s = self._settings, self._clock.monotonic_s()
        pressure = self._waited_s(of, now_s) / settings.queue_s
        if settings.in_flight is not None:
            pressure = max(pressure, len(of.open) / settings.in_flight)
        failing = of.failures >= settings.failures and now_s < of.failed_s + settings.down_s
        return TierState(
            up=not failing,
            cold=of.engine.cold(),
            full=now_s < of.full_until_s or pressure >= settings.full_at,
            pressure=round(pressure, 3),
            in_flight=len(of.open),
            ms=_quantile(of.answers, 0.75),
        )

    def _waited_s(self, of: _Model, now_s: float) -> float:
        """95th percentile of the waits of the last minute, with those that are not over."""
        waits = of.waits
        while waits and waits[0][0] < now_s - _SPAN_S:
            waits.popleft()
        # One that still waits counts once it is slow: a young one would make a slow tier look fast.
        slow = (now_s - call.began_s for call in of.open if call.waiting)
        waiting = [wait_s for wait_s in slow if wait_s >= self._settings.queue_s]
        return _quantile((*(wait_s for _, wait_s in waits), *waiting), 0.95) or 0.0


def _quantile(values: Iterable[_T], share: float) -> _T | None:
    """The nearest-rank quantile; None for too few values."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if len(ordered) >= _FEWEST else None
