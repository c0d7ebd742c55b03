"""A tier to scale: the product's options and policy around a synthetic engine, requests to it, and what is seen."""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ray import serve

from deployments._bind import bind
from deployments.clients import EngineClient
from deployments.engine.deployment import SyntheticEngine
from deployments.engine.scaling import ScalingSettings
from deployments.engine.settings import plain_actor, serve_options
from deployments.engine.synthetic import SyntheticSettings
from deployments.errors import GatehouseError
from deployments.ports import EngineCall, EngineStart, RequestId, SessionId

APPLICATION = "tier"
DEPLOYMENT = "Engine:synthetic:test"
SEATS = 4

FAST_METRICS = {
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_RECORD_INTERVAL_S": "0.1",
}
"""How often callers and replicas report, instead of every ten seconds. Read by Serve when it is imported."""

QUIET_RAY = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def fast_scaling(max_replicas: int, down_s: float = 4.0) -> ScalingSettings:
    """The runbook's thresholds with short windows and delays."""
    return ScalingSettings(
        min_replicas=0, max_replicas=max_replicas, look_back_s=2.0, upscale_delay_s=0.5, downscale_delay_s=down_s,
        to_zero_delay_s=down_s,
    )  # fmt: skip


def deploy(scaling: ScalingSettings, actor: Mapping[str, object] | None = None) -> EngineClient:
    """Run the tier on the Ray that this process is connected to. `actor`: its `ray_actor_options`."""
    settings = SyntheticSettings(
        model="synthetic", revision="test", max_num_seqs=SEATS, first_token_ms=50.0, token_ms=50.0, scaling=scaling,
        num_cpus=0.1, drain_s=10.0,
    )  # fmt: skip
    own = plain_actor(settings) if actor is None else {"ray_actor_options": dict(actor)}
    app = bind(SyntheticEngine, settings, name=DEPLOYMENT, **serve_options(settings), **own)
    return EngineClient(serve.run(app, name=APPLICATION, route_prefix=None), timeout_s=120.0)


class Log:
    """A timeline: seconds since the start and what happened, one JSON object per line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._out = path.open("w", encoding="utf-8")
        self._began_s = time.monotonic()
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: str, **facts: object) -> None:
        line = {"t": round(time.monotonic() - self._began_s, 1), "event": event, **facts}
        self.events.append(line)
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()


def running() -> int:
    """Replicas that answer, as Serve counts them."""
    return states()["RUNNING"]


def states() -> Counter[str]:
    """Replicas by state."""
    parts = serve.status().applications[APPLICATION].deployments
    return Counter({str(state): count for state, count in parts[DEPLOYMENT].replica_states.items()})


async def until(what: str, holds: Callable[[], bool], limit_s: float) -> None:
    """Wait for a state; the limit is only there so that a broken run ends."""
    ends_s = time.monotonic() + limit_s
    while not await asyncio.to_thread(holds):
        if time.monotonic() > ends_s:
            raise TimeoutError(f"{what}: not within {limit_s:g} s")
        await asyncio.sleep(0.2)


class Load:
    """A fixed number of clients, each with a session of its own, that ask again as soon as they are answered."""

    def __init__(self, client: EngineClient, tokens: int = 60) -> None:
        self._client = client
        self._tokens = tokens
        self._names = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self.results: Counter[str] = Counter()

    async def ask(self) -> str:
        """One streamed request: "whole" if it ended as a stream must, "cut" if not, else the name of the error."""
        name = f"r{next(self._names)}"
        body = {"model": "synthetic", "messages": [{"role": "user", "content": "x"}], "stream": True,
                "max_tokens": self._tokens}  # fmt: skip
        headers = {"content-type": "application/json"}
        call = EngineCall("/v1/chat/completions", headers, json.dumps(body).encode(), RequestId(name), SessionId(name))
        tail = b""
        try:
            async with aclosing(self._client.call(call)) as items:
                async for item in items:
                    if isinstance(item, EngineStart):
                        assert item.status == 200
                    elif isinstance(item, bytes):
                        tail = item
        except GatehouseError as error:
            return type(error).__name__
        return "whole" if tail.endswith(b"data: [DONE]\n\n") else "cut"

    def start(self, clients: int) -> None:
        self._tasks = [asyncio.create_task(self._one()) for _ in range(clients)]

    async def _one(self) -> None:
        while not self._stopping.is_set():
            result = await self.ask()
            self.results[result] += 1
            if result != "whole":
                await asyncio.sleep(0.5)  # a client that is refused does not ask again at once

    async def stop(self) -> None:
        """Let every client finish what it waits for."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
