"""The simulator beside the product's own ingress, queue of an engine and HTTP, in one process on a clock of CPU time.

python -m tests.unit.sizing.one_loop [--seats 8] [--streams 4,8,16] [--rate 2.75,4.4]

What a server on a machine takes longer than simulated is its own work or that of others. Here it is its own: the loop's
clock is this process's CPU time, and where everybody waits it jumps, so nothing else on the machine is in the figures,
and nothing between processes either: ledger, router, gate and audit log are the fakes of the api tests. Load generator,
ingress and engine share the one loop. No test: it measures.
"""

import argparse
import asyncio
import selectors
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import uvicorn

from deployments.clock import SystemClock
from deployments.engine.replica import EngineReplica
from deployments.engine.synthetic import SyntheticSettings, TokenClock
from deployments.ports import EngineCall, EngineInfo, EngineItem
from serve_app.api.factory import create_api
from serve_app.bench.load import Endpoint, Level, Shape
from serve_app.bench.machine import machine
from serve_app.cli.size_check import measure
from serve_app.cli.size_text import numbers
from serve_app.sizing.check import ClockServer, Probe, Run, compare, fitted
from tests.fakes import BASE, KEY, ScriptedEngine, World

FIRST_MS, TOKEN_MS, TOKENS = 200.0, 20.0, 64


class _Jumping(selectors.DefaultSelector):
    """Looks for what is ready, and where nothing is lets the clock jump in place of waiting."""

    jumped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout:
            # A byte to another socket of this process may be on its way through the kernel.
            ready = super().select(min(timeout, 0.002))
            if not ready:
                self.jumped_s += timeout
        return ready


class CpuLoop(asyncio.SelectorEventLoop):
    """An event loop whose second is a second of this process's work."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return time.process_time() + self._jumping.jumped_s


class _Clock(SystemClock):
    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()


class ClockEngine(ScriptedEngine):
    """The real queue and token clock in place of scripts."""

    def __init__(self, seats: int) -> None:
        super().__init__()
        settings = SyntheticSettings(
            model=BASE, revision="r1", max_num_seqs=seats, first_token_ms=FIRST_MS, token_ms=TOKEN_MS, max_queued=1024
        )
        clock = _Clock()
        self._replica = EngineReplica(TokenClock(settings, clock), settings, clock, started_s=0.0)

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        async with aclosing(self._replica.call(call)) as items:
            async for item in items:
                yield item

    async def info(self) -> EngineInfo:
        return await self._replica.info()


async def run(seats: int, levels: Sequence[Level]) -> tuple[list[Probe], Mapping[str, Run]]:
    world = World(ClockEngine(seats), clock=_Clock())  # type: ignore[arg-type]
    config = uvicorn.Config(
        create_api(world.surface()), host="127.0.0.1", port=0, log_level="error", lifespan="off", loop="none"
    )  # fmt: skip
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    sockets: Any = server.servers[0].sockets
    endpoint = Endpoint("one loop", f"http://127.0.0.1:{sockets[0].getsockname()[1]}", BASE, KEY)
    try:
        return await measure(endpoint, Shape("chat", 64, TOKENS), levels, seats)
    finally:
        server.should_exit = True
        await serving


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seats", type=int, default=8)
    parser.add_argument("--streams", default="4,8,16")
    parser.add_argument("--rate", default="2.75,4.4")
    parser.add_argument("--length", type=float, default=90.0)
    given = parser.parse_args()
    levels = [Level(streams=int(each), requests=8 * int(each)) for each in numbers(given.streams)]
    levels += [Level(rate=each, duration_s=given.length) for each in numbers(given.rate)]
    with asyncio.Runner(loop_factory=CpuLoop) as runner:
        probes, runs = runner.run(run(given.seats, levels))
    path = fitted(probes, FIRST_MS / 1e3, TOKEN_MS / 1e3)
    print(machine().sentence)
    print(*probes, path, sep="\n")
    server = ClockServer(given.seats, FIRST_MS / 1e3, TOKEN_MS / 1e3, TOKENS, path)
    for each in compare(server, runs):
        error = "-" if each.error is None else f"{each.error:+.1%}"
        print(f"{each.level:14} {each.name:16} {each.real!s:24} {each.simulated!s:24} {error}")


if __name__ == "__main__":
    main()
