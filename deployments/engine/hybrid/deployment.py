"""The Serve class of engines of kind `vllm-ray`: Ray Serve LLM builds the engine, our contract stands before it.

Ray's own request path is not used: it merges chunks for 50 ms, the first one too, and knows no Responses or Messages.
What is used is its placement, its start of vLLM over several nodes, and the hook that gives vLLM's own HTTP app.
`engine._engine_client` and `engine._vllm_args` are not public; `tests/hybrid/test_hybrid.py` pins them.

`ray.serve.llm` is imported inside functions: it needs pyarrow, which nothing else here does.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from deployments._metrics import queue_meter
from deployments.clients import EngineClient
from deployments.clock import Clock, SystemClock
from deployments.engine.adapter import VLLM, EngineStartFailed, lora_module
from deployments.engine.hybrid.options import Half, HybridSettings, hybrid_env, llm_config, missing_package
from deployments.engine.hybrid.pair import PrefillFirst
from deployments.engine.options import Device, queued_tokens
from deployments.engine.replica import EngineReplica
from deployments.engine.seating import NoMeter
from deployments.ports import EngineCall, EngineInfo, EngineItem


class HybridEngine:
    """`ports.Engine` on a replica whose vLLM was built by `ray.serve.llm.LLMServer`."""

    async def __init__(
        self,
        settings: HybridSettings,
        vocabulary_dir: str | None,
        device: Device,
        prefill: object | None = None,
        half: Half | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`prefill` is the handle of the engine that reads long prompts for this one."""
        clock = clock or SystemClock()
        began_s = clock.monotonic_s()
        lacking = missing_package(pair=half is not None)
        if lacking is not None:
            raise EngineStartFailed(lacking[0].upper() + lacking[1:] + ".")
        self._prefill: PrefillFirst | None = None
        if prefill is not None and settings.prefill is not None:
            client = EngineClient(prefill, settings.request_deadline_s, settings.cold_start_s)
            self._prefill = PrefillFirst(client, settings.prefill.longer_than)
        env = hybrid_env(settings, vocabulary_dir, device)
        self._server = await _start(settings, env, device, half)
        built = self._server.engine
        try:
            app = await self._server.__serve_build_asgi_app__()
        except BaseException:  # whatever it was, the child process must not outlive it
            built._engine_client.shutdown()
            raise
        self._core = await VLLM.attach(built._engine_client, app, built._vllm_args, settings)
        started_s = clock.monotonic_s() - began_s
        self._replica = EngineReplica(
            self._core, settings, clock, started_s, queue_meter(settings.model, NoMeter()), queued_tokens(settings)
        )

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        """The reply: `EngineStart` first, then bytes. See `EngineReplica.call`."""
        if self._prefill is not None:
            call = await self._prefill.ahead(call)
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


async def _start(settings: HybridSettings, env: dict[str, str], device: Device, half: Half | None) -> Any:
    """The started server of Ray's: one by itself, or one rank of a data parallel group."""
    from ray.serve.llm import LLMConfig
    from ray.serve.llm.deployment import DPServer, LLMServer

    arguments = cast(dict[str, Any], llm_config(settings, env, device, half))
    kwargs = arguments["engine_kwargs"]
    if settings.lora is not None:
        kwargs["lora_modules"] = [lora_module(**each) for each in kwargs["lora_modules"]]
    cls = cast(Any, LLMServer if settings.data_parallel_size == 1 else DPServer)
    server = cls.__new__(cls)  # its constructor is a coroutine, which Serve awaits in the same way
    await cls.__init__(server, LLMConfig(**arguments))
    return server
