"""One engine replica without Ray and without vLLM: what may be asked, what counts as failed, what is reported.

`core` is the running engine behind its adapter. `deployment.py` puts both on a Serve replica.
"""

import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, cast

from deployments.clock import Clock
from deployments.engine.bridge import AsgiBridge
from deployments.engine.fair import Bounds, Room
from deployments.engine.scaling import LatencyWindow
from deployments.engine.seating import QueueMeter, Seating
from deployments.engine.settings import ENGINE_PATHS, FORWARDED_HEADERS, ServedSettings
from deployments.errors import EngineFailed
from deployments.ports import Counted, EngineCall, EngineInfo, EngineItem, EngineStart, ModelId


@dataclass(frozen=True, slots=True)
class CoreLoad:
    """What an engine has to do. `kv_usage` is a share of the KV cache, 0..1; tokens are those waiting for prefill."""

    unfinished: int
    running: int
    waiting: int
    queued_tokens: int
    kv_usage: float


class Core(Protocol):
    """A running engine."""

    @property
    def bridge(self) -> AsgiBridge:
        """The engine's HTTP API."""
        ...

    @property
    def max_model_len(self) -> int:
        """Tokens that fit into one request, prompt and answer together."""
        ...

    @property
    def seats(self) -> int:
        """Requests that it works on at once, at least 1."""
        ...

    def failure(self) -> str | None:
        """Why the engine cannot go on, or None. Cheap: it is asked for every chunk."""
        ...

    def load(self) -> CoreLoad:
        """What it has to do now."""
        ...

    def steps(self) -> int:
        """Engine steps so far; it grows while the engine works, also during a long prefill."""
        ...

    def pids(self) -> tuple[int, ...]:
        """Its child processes."""
        ...

    def shutdown(self) -> None:
        """Stop the child processes. May be called again."""
        ...


def without_seed(body: bytes) -> bytes:
    """The request without its `seed`; a body that is no JSON object is left to the engine to refuse."""
    if b'"seed"' not in body:
        return body
    try:
        request = cast(object, json.loads(body))
    except ValueError:
        return body
    if not isinstance(request, dict) or "seed" not in request:
        return body
    del request["seed"]
    return json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass")


_SALTED = frozenset({"/v1/chat/completions", "/v1/completions"})


def salted(body: bytes, salt: str) -> bytes:
    """The request with vLLM's `cache_salt`, which keeps a tenant's prompts out of other tenants' cached prefixes.

    Whose prompt was seen before shows in the time to the first token, so a shared cache tells what others asked. A body
    that is no JSON object with fields is left to the engine to refuse.
    """
    rest = body.lstrip()
    if not salt or not rest.startswith(b"{") or not rest[1:].lstrip().startswith(b'"'):
        return body
    return b'{"cache_salt":"' + salt.encode() + b'",' + rest[1:]


def _streams(start: EngineStart) -> bool:
    return any(name == "content-type" and value.startswith("text/event-stream") for name, value in start.headers)


class ProgressWatch:
    """Tells a hung engine from a busy one: work to do, and no step for `stall_s` seconds."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._seen: tuple[int, float] | None = None

    def stalled_s(self, unfinished: int, steps: int, now_s: float) -> float | None:
        """For how long nothing has moved, once that is too long; else None. Idle engines never stall."""
        if unfinished == 0 or self._seen is None or self._seen[0] != steps:
            self._seen = (steps, now_s)
            return None
        idle_s = now_s - self._seen[1]
        return idle_s if idle_s >= self._stall_s else None


class EngineReplica:
    """`ports.Engine` over a running core."""

    def __init__(
        self,
        core: Core,
        settings: ServedSettings,
        clock: Clock,
        started_s: float,
        meter: QueueMeter | None = None,
        max_queued_tokens: int | None = None,
    ) -> None:
        """`max_queued_tokens` bounds the prompts that wait for a seat; None: only their number is bounded."""
        self._core = core
        self._settings = settings
        self._clock = clock
        self._watch = ProgressWatch(settings.stall_s)
        self._started_s = started_s
        self._latencies = LatencyWindow()
        self._honours_seeds = bool(getattr(settings, "honour_seeds", True))
        bounds = Bounds(settings.max_queued, max_queued_tokens)
        self._seating = Seating(settings.fair, bounds, self._room, clock, meter)
        if meter is not None:
            core.bridge.aborted = meter.aborted

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        """The reply of vLLM's API, status and body as it sent them; closing the generator aborts the generation.

        It waits for a seat first (`seating.py`), and raises `EngineOverloaded` when it is refused one. Raises
        `EngineFailed` for a path that is not on the list, and in place of everything that a dead engine says: vLLM ends
        the streams of a dead engine with an error event and a regular `[DONE]`.
        """
        if call.method != "POST" or call.path not in ENGINE_PATHS:
            raise EngineFailed("The engine does not serve this path.")
        self._check_alive()
        headers = {name: value for name, value in call.headers.items() if name in FORWARDED_HEADERS}
        headers["x-request-id"] = call.request_id
        body = call.body if self._honours_seeds else without_seed(call.body)
        if call.path in _SALTED:
            body = salted(body, call.cache_salt)
        began_s = self._clock.monotonic_s()
        async with self._seating.seat(call, self._settings.request_deadline_s) as seat:
            self._check_alive()
            left_s = self._settings.request_deadline_s - (self._clock.monotonic_s() - began_s)
            items = self._core.bridge.call(call.method, call.path, headers, body, left_s, call.counted)
            timed = True
            async with aclosing(items):
                async for item in items:
                    self._check_alive()
                    said = item.data if isinstance(item, Counted) else item
                    seat.hear(said)
                    if isinstance(item, EngineStart):
                        timed = _streams(item)  # a whole reply says nothing of its first token
                    elif timed and said:
                        now_s = self._clock.monotonic_s()
                        self._latencies.add(now_s, now_s - began_s)
                        timed = False
                    yield item

    async def info(self) -> EngineInfo:
        """State of this replica; `EngineFailed` when its engine is dead, so that readiness does not lie meanwhile."""
        self._check_alive()
        load = self._core.load()
        return EngineInfo(
            model=ModelId(self._settings.model),
            revision=self._settings.revision,
            kind=self._settings.kind_name,
            pid=os.getpid(),
            core_pids=self._core.pids(),
            running=load.unfinished + self._seating.waiting,
            queued_tokens=load.queued_tokens + self._seating.waiting_tokens,
            max_model_len=self._core.max_model_len,
            started_s=self._started_s,
        )

    async def check_health(self) -> None:
        """Raise `EngineFailed` when Serve should replace this replica: a dead core, a fatal error, or a hung core."""
        self._seating.remind()
        self._check_alive()
        stalled_s = self._watch.stalled_s(
            self._core.load().unfinished, self._core.steps(), now_s=self._clock.monotonic_s()
        )
        if stalled_s is not None:
            raise EngineFailed(f"The engine has requests and made no step for {stalled_s:.0f} s.")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Numbers for an autoscaling policy, by name."""
        load = self._core.load()
        return {
            "unfinished": float(load.unfinished + self._seating.waiting),
            "running": float(load.running),
            "waiting": float(load.waiting + self._seating.waiting),
            "queued_tokens": float(load.queued_tokens + self._seating.waiting_tokens),
            "kv_usage": load.kv_usage,
            "seats": float(self._core.seats),
            "saturation": load.running / self._core.seats,
            "latency_p95_s": self._latencies.p95_s(self._clock.monotonic_s()),
        }

    def _room(self) -> Room:
        load = self._core.load()
        return Room(self._core.seats, load.waiting, load.kv_usage)

    def _check_alive(self) -> None:
        failure = self._core.failure()
        if failure is not None:
            raise EngineFailed(f"The engine stopped: {failure}.")
