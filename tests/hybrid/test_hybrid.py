"""The engine contract on the engine that Ray Serve LLM builds: what `tests/engines/test_engine.py` asks of kind `vllm`.

Needs pyarrow beside vLLM, and skips without. One start takes one to two minutes on two cores.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from deployments.engine.guardian import started
from deployments.engine.hybrid.options import (
    HybridSettings,
    hybrid_env,
    hybrid_options,
    llm_config,
    missing_package,
)
from deployments.engine.options import Device
from deployments.errors import EngineFailed, EngineOverloaded
from tests.engines.test_engine import CHAT, HELLO, WEATHER, WINDOW, ask, deltas, engine_settings, request

LACKING = missing_package()
pytestmark = [
    pytest.mark.hybrid,
    pytest.mark.timeout(900),
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]


@pytest.fixture(scope="module")
def hybrid(demo_models: Mapping[str, Path | str]) -> HybridSettings:
    plain = engine_settings(str(next(iter(demo_models.values()))))
    return HybridSettings.model_validate(plain.model_dump(exclude={"kind"}))


def placed(device: Device, **fields: object) -> tuple[HybridSettings, Device]:
    given = {"model": "m", "revision": "r", "source": "/m", "num_cpus": 0.5}
    return HybridSettings.model_validate(given | fields), device


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray, unless one is there."""
    import ray
    from ray import serve

    ours = not ray.is_initialized()
    if ours:
        ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
    yield
    if ours:
        serve.shutdown()
        ray.shutdown()


class TestAgainstRay:
    """Our arithmetic against Ray Serve LLM's own; no engine is started."""

    @pytest.mark.parametrize(
        ("settings", "device"),
        [
            placed("cpu"),
            placed("cpu", tensor_parallel_size=2),
            placed("cuda"),
            placed("cuda", tensor_parallel_size=4, pipeline_parallel_size=2),
            placed(
                "cuda",
                tensor_parallel_size=2,
                placement_group_config={"strategy": "SPREAD", "bundle_per_worker": {"GPU": 1, "CPU": 2}},
            ),
            placed(
                "cuda",
                tensor_parallel_size=2,
                placement_group_config={"bundles": ({"GPU": 0.5}, {"GPU": 0.5, "CPU": 1})},
            ),
            placed("cuda", data_parallel_size=2, replicas=3, tensor_parallel_size=2),
        ],
    )
    @pytest.mark.usefixtures("cluster")  # it asks Ray for the environment of this process
    def test_the_placement_is_the_one_that_ray_would_make(self, settings: HybridSettings, device: Device) -> None:
        from ray.serve.llm import LLMConfig
        from ray.serve.llm.deployment import DPServer, LLMServer

        config = LLMConfig(
            **llm_config(settings, hybrid_env(settings, None, device), device),
            deployment_config={"num_replicas": settings.replicas or 1, "ray_actor_options": {"num_cpus": 0.5}},
        )
        cls = DPServer if settings.data_parallel_size > 1 else LLMServer
        theirs = cls.get_deployment_options(config)
        ours = hybrid_options(settings, None, device)
        bundles = [
            {name: amount for name, amount in each.items() if amount} for each in theirs["placement_group_bundles"]
        ]
        assert bundles == ours["placement_group_bundles"]
        assert theirs.get("placement_group_strategy") == ours.get("placement_group_strategy")
        assert theirs["num_replicas"] == ours["num_replicas"]
        gang = theirs.get("gang_scheduling_config")
        assert (gang and {"gang_size": gang.gang_size}) == ours.get("gang_scheduling_config")

    def test_every_argument_exists_in_this_vllm(self) -> None:
        from ray.serve.llm import LLMConfig

        settings, _ = placed(
            "cuda",
            data_parallel_size=2,
            lora={"path": "/a"},
            kv_transfer_config={"kv_connector": "OffloadingConnector"},
        )
        engine = LLMConfig(**llm_config(settings, {}, "cuda")).get_engine_config()  # raises for an unknown name
        assert engine.frontend_kwargs["lora_modules"]

    def test_nothing_that_is_set_is_lost_on_the_way(self) -> None:
        from ray.serve.llm import LLMConfig

        settings, _ = placed("cuda", tensor_parallel_size=2, pipeline_parallel_size=2, max_model_len=128)
        engine = LLMConfig(**llm_config(settings, {"A": "b"}, "cuda")).get_engine_config()
        assert (engine.num_devices, engine.hf_model_id, engine.model_id) == (4, "/m", "m")
        assert engine.get_initialization_kwargs()["max_model_len"] == 128
        assert engine.runtime_env == {"env_vars": {"A": "b"}}
        assert engine.frontend_kwargs["tool_call_parser"] == "openai"
        assert engine.frontend_kwargs["tool_server"] is None


@pytest.fixture(scope="class")
def client(cluster: None, hybrid: HybridSettings, vocabulary_dir: Path) -> Iterator[Any]:
    from ray import serve

    from deployments._bind import bind
    from deployments.clients import EngineClient
    from deployments.engine.hybrid.deployment import HybridEngine

    del cluster
    options = hybrid_options(hybrid, str(vocabulary_dir), "cpu") | {"health_check_period_s": 1.0}
    app = bind(HybridEngine, hybrid, str(vocabulary_dir), "cpu", name="hybrid-test", **options)
    try:
        yield EngineClient(serve.run(app, name="hybrid-test", route_prefix=None), timeout_s=120)
    finally:
        serve.delete("hybrid-test")


async def nothing_runs(client: Any) -> None:
    async with asyncio.timeout(10):
        while (await client.info()).running:
            await asyncio.sleep(0.05)


LONG = {"prompt": "hello", "max_tokens": WINDOW - 50, "ignore_eos": True}


@pytest.mark.asyncio(loop_scope="class")
class TestOnServe:
    async def test_it_says_what_it_is(self, client: Any) -> None:
        info = await client.info()
        assert (info.model, info.revision, info.kind) == ("demo", "test-1", "vllm-ray")
        assert (info.running, info.max_model_len, len(info.core_pids)) == (0, WINDOW, 1)
        assert info.started_s > 0

    async def test_chat_whole_and_streamed_is_the_same_answer(self, client: Any) -> None:
        whole = (await ask(client.call, {"messages": HELLO})).json()
        assert whole["id"] == "chatcmpl-req-1"
        assert whole["system_fingerprint"] == "test-1"
        message = whole["choices"][0]["message"]
        assert message["content"]
        body = {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
        events = (await ask(client.call, body)).events()
        assert deltas(events, "content") == message["content"]
        assert deltas(events, "reasoning") == (message["reasoning"] or "")
        assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_tool_call(self, client: Any, stream: bool) -> None:
        body = {"messages": HELLO, "tools": [WEATHER], "tool_choice": "required", "stream": stream}
        reply = await ask(client.call, body)
        if stream:
            parts = [
                part for each in reply.events() for c in each["choices"] for part in c["delta"].get("tool_calls") or ()
            ]
        else:
            parts = reply.json()["choices"][0]["message"]["tool_calls"]
        assert parts[0]["function"]["name"] == "get_weather"
        assert "city" in json.loads("".join(part["function"].get("arguments") or "" for part in parts))

    async def test_responses_and_messages(self, client: Any) -> None:
        assert (await ask(client.call, {"input": "hello"}, "/v1/responses")).json()["status"] == "completed"
        messages = (await ask(client.call, {"messages": HELLO, "max_tokens": 64}, "/v1/messages")).json()
        assert messages["type"] == "message"

    async def test_tokenize_and_back(self, client: Any) -> None:
        tokens = (await ask(client.call, {"prompt": "hello there"}, "/tokenize")).json()["tokens"]
        assert (await ask(client.call, {"tokens": tokens}, "/detokenize")).json()["prompt"] == "hello there"

    async def test_a_bad_request_is_a_400(self, client: Any) -> None:
        reply = await ask(client.call, {"messages": [{"role": "user", "content": "hello " * (WINDOW + 10)}]})
        assert reply.status == 400
        assert "maximum context length" in reply.json()["error"]["message"]

    async def test_malformed_harmony_is_repaired(self, client: Any) -> None:
        reply = await ask(client.call, {"messages": HELLO, "allowed_token_ids": [24912], "max_tokens": 8})
        assert reply.status == 200  # stock vLLM answers 500
        assert reply.repaired

    async def test_a_full_queue_refuses(self, client: Any) -> None:
        running = [client.call(request(LONG | {"stream": True}, "/v1/completions", f"r{n}")) for n in range(4)]
        for items in running:
            await anext(items)
        assert (await client.info()).running == 4
        with pytest.raises(EngineOverloaded):
            await ask(client.call, {"messages": HELLO})
        for items in running:
            await items.aclose()
        await nothing_runs(client)

    @pytest.mark.parametrize("stream", [True, False])
    async def test_hanging_up_frees_the_engine(self, client: Any, stream: bool) -> None:
        items = client.call(request(LONG | {"stream": stream}, "/v1/completions"))
        reading = asyncio.create_task(anext(items))
        async with asyncio.timeout(30):
            while (await client.info()).running != 1:
                await asyncio.sleep(0.02)
        if stream:
            await reading
        reading.cancel()
        await asyncio.wait([reading])
        await items.aclose()
        await nothing_runs(client)

    async def test_a_path_off_the_list_is_refused(self, client: Any) -> None:
        for path in ("/v1/load_lora_adapter", "/v1/models/demo", "/health"):
            with pytest.raises(EngineFailed):
                await ask(client.call, {}, path)

    async def test_a_killed_core_ends_the_stream_and_the_replica_comes_back(self, client: Any) -> None:
        before = await client.info()

        async def read() -> None:
            killed = False
            async with aclosing(client.call(request(LONG | {"stream": True}, "/v1/completions"))) as items:
                async for item in items:
                    if isinstance(item, bytes) and not killed:
                        os.kill(before.core_pids[0], signal.SIGKILL)
                        killed = True

        with pytest.raises(EngineFailed):
            await asyncio.wait_for(read(), 60)
        async with asyncio.timeout(400):
            while True:
                try:
                    if (await client.info()).pid != before.pid:
                        break
                except EngineFailed:
                    pass
                await asyncio.sleep(0.5)
        assert (await ask(client.call, {"messages": HELLO}, CHAT)).status == 200

    async def test_a_killed_replica_leaves_no_core_behind(self, client: Any) -> None:
        info = await client.info()
        (core_pid,) = info.core_pids
        workers = _children(core_pid)
        assert workers
        os.kill(info.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while started(core_pid) or any(started(pid) for pid in workers):
                await asyncio.sleep(0.1)


def _children(pid: int) -> list[int]:
    """Child processes of all threads of `pid`."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


class TestWithoutPyarrow:
    async def test_it_is_one_sentence(self, hybrid: HybridSettings, monkeypatch: pytest.MonkeyPatch) -> None:
        from deployments.engine.adapter import EngineStartFailed
        from deployments.engine.hybrid.deployment import HybridEngine

        monkeypatch.setitem(sys.modules, "pyarrow", None)
        engine = HybridEngine.__new__(HybridEngine)
        with pytest.raises(EngineStartFailed, match="pyarrow"):
            await HybridEngine.__init__(engine, hybrid, None, "cpu")
