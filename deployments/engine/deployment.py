"""The Serve classes of engines, one per kind."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

import ray

from deployments._metrics import queue_meter
from deployments.clock import Clock, SystemClock
from deployments.engine.adapter import VLLM
from deployments.engine.fair import Bounds, Room
from deployments.engine.options import EngineSettings, queued_tokens
from deployments.engine.replica import EngineReplica
from deployments.engine.seating import NoMeter, Seating
from deployments.engine.synthetic import SyntheticSettings, TokenClock
from deployments.engine.upstream import UpstreamReplica, read_secret
from deployments.engine.upstream_settings import UpstreamSettings
from deployments.ports import EngineCall, EngineInfo, EngineItem


class SyntheticEngine:
    """`ports.Engine` on a token clock: no model, for load tests of everything around one."""

    def __init__(self, settings: SyntheticSettings, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        core = TokenClock(settings, clock)
        self._replica = EngineReplica(
            core, settings, clock, started_s=0.0, meter=queue_meter(settings.model, NoMeter())
        )

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        """The reply: `EngineStart` first, then bytes."""
        async with aclosing(self._replica.call(call)) as items:
            async for item in items:
                yield item

    async def info(self) -> EngineInfo:
        """State of this replica."""
        return await self._replica.info()

    async def check_health(self) -> None:
        """Raise when Serve should replace this replica."""
        await self._replica.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Numbers for an autoscaling policy, by name."""
        return self._replica.record_autoscaling_stats()


class UpstreamEngine:
    """`ports.Engine` over an OpenAI-compatible server that somebody else runs.

    `environ` answers the environment of the replica's process, where the upstream's key may be.
    """

    async def __init__(
        self, settings: UpstreamSettings, environ: Callable[[], Mapping[str, str]], clock: Clock | None = None
    ) -> None:
        clock = clock or SystemClock()
        self._replica = UpstreamReplica(settings, read_secret(settings, environ()), clock)
        self._deadline_s = settings.request_deadline_s
        room = Room(min(settings.max_connections, settings.max_queued))
        exact = settings.fair.model_copy(update={"lookahead": 0})  # one more would only wait for a connection
        self._seating = Seating(
            exact, Bounds(settings.max_queued), lambda: room, clock, queue_meter(settings.model, NoMeter())
        )

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        """The reply: `EngineStart` first, then bytes. It begins when it is the tenant's turn for a connection."""
        async with self._seating.seat(call, self._deadline_s) as seat, aclosing(self._replica.call(call)) as items:
            async for item in items:
                seat.hear(item)
                yield item

    async def info(self) -> EngineInfo:
        """State of this replica."""
        return await self._replica.info()

    async def check_health(self) -> None:
        """Probe the upstream. Its failures open the breaker; a new replica would not heal them."""
        self._seating.remind()
        await self._replica.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Numbers for an autoscaling policy, by name."""
        stats, waiting = self._replica.record_autoscaling_stats(), float(self._seating.waiting)
        return stats | {"unfinished": stats["unfinished"] + waiting, "waiting": stats["waiting"] + waiting}

    async def __del__(self) -> None:
        """Close the connections; Serve awaits this when it stops the replica, after draining."""
        replica = getattr(self, "_replica", None)
        if replica is not None:
            await replica.aclose()


class VLLMEngine:
    """`ports.Engine` on a replica that holds vLLM. Serve constructs it, asks for its health, and calls `__del__`."""

    async def __init__(self, settings: EngineSettings, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._core, started_s = await VLLM.start(settings, clock, ray_metrics=ray.is_initialized())
        self._replica = EngineReplica(
            self._core, settings, clock, started_s, queue_meter(settings.model, NoMeter()), queued_tokens(settings)
        )

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        """The reply: `EngineStart` first, then bytes. See `EngineReplica.call`."""
        async with aclosing(self._replica.call(call)) as items:
            async for item in items:
                yield item

    async def info(self) -> EngineInfo:
        """State of this replica."""
        return await self._replica.info()

    async def check_health(self) -> None:
        """Raise when Serve should replace this replica."""
        await self._replica.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Numbers for an autoscaling policy, by name."""
        return self._replica.record_autoscaling_stats()

    def __del__(self) -> None:
        """Serve calls this when it stops the replica, after draining; without it the workers would keep the GPUs."""
        core = getattr(self, "_core", None)
        if core is not None:
            core.shutdown()
