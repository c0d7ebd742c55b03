"""A pair of engines on CPU: one reads prompts, the other fetches the key-value blocks and answers.

Needs pyarrow and nixl beside vLLM, and skips without. Both engines start at once; that takes minutes on two cores.
"""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deployments.engine.hybrid.options import HybridSettings, missing_package
from tests.engines.test_engine import CHAT, HELLO, ask, deltas, engine_settings

LACKING = missing_package(pair=True)
pytestmark = [
    pytest.mark.hybrid,
    pytest.mark.timeout(900),
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]
LONGER_THAN = 400
WORDS = " ".join(f"word{n}" for n in range(120))


@pytest.fixture(scope="class")
def pair(demo_models: Mapping[str, Path | str], vocabulary_dir: Path) -> Iterator[tuple[Any, Any]]:
    """Clients of the decode and the prefill engine, in a Ray of their own."""
    import ray
    from ray import serve

    from deployments.clients import EngineClient
    from serve_app.app import engine

    loopback = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "UCX_NET_DEVICES": "lo"}
    ray.init("local", num_cpus=4, include_dashboard=False, configure_logging=False, runtime_env={"env_vars": loopback})
    plain = engine_settings(str(next(iter(demo_models.values()))))
    settings = HybridSettings.model_validate(
        plain.model_dump(exclude={"kind"})
        | {
            "kv_transfer_config": {"kv_connector": "NixlConnector", "kv_buffer_device": "cpu"},
            "prefill": {"longer_than": LONGER_THAN, "max_num_seqs": 2},
            "request_deadline_s": 60.0,
        }
    )
    app = engine(settings, settings.source, str(vocabulary_dir), "cpu")
    try:
        decode = serve.run(app, name="pair-test", route_prefix=None)
        prefill = serve.get_deployment_handle(f"Prefill:{settings.model}:{settings.revision}", "pair-test")
        yield EngineClient(decode, timeout_s=120), EngineClient(prefill, timeout_s=120)
    finally:
        serve.shutdown()
        ray.shutdown()


def question(start: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{start} {WORDS}"}], "max_tokens": 24}


def cached(answer: dict[str, Any]) -> int:
    return int((answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


@pytest.mark.asyncio(loop_scope="class")
class TestPair:
    async def test_the_answer_is_the_same_and_its_prompt_was_read_elsewhere(self, pair: tuple[Any, Any]) -> None:
        decode, prefill = pair
        answer = (await ask(decode.call, question("first"))).json()
        assert cached(answer) > 200  # a prompt that this engine has never seen
        alone = (await ask(prefill.call, question("first"))).json()
        assert answer["choices"][0]["message"] == alone["choices"][0]["message"]
        assert answer["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]

    async def test_a_stream_and_a_completion(self, pair: tuple[Any, Any]) -> None:
        decode, prefill = pair
        body = question("second") | {"stream": True, "stream_options": {"include_usage": True}}
        events = (await ask(decode.call, body)).events()
        assert cached(events[-1]) > 200
        alone = (await ask(prefill.call, question("second"))).json()["choices"][0]["message"]
        assert deltas(events, "content") == (alone["content"] or "")
        prompt = {"prompt": f"third {WORDS}", "max_tokens": 8}
        assert cached((await ask(decode.call, prompt, "/v1/completions")).json()) > 200

    async def test_a_short_prompt_is_read_where_it_is_answered(self, pair: tuple[Any, Any]) -> None:
        decode, _ = pair
        answer = (await ask(decode.call, {"messages": HELLO, "max_tokens": 8})).json()
        assert cached(answer) < 16

    async def test_a_wrong_request_is_refused_by_the_decode_engine(self, pair: tuple[Any, Any]) -> None:
        decode, _ = pair
        reply = await ask(decode.call, question("fourth") | {"temperature": -1})
        assert reply.status == 400

    async def test_without_a_prefill_engine_the_decode_engine_reads_the_prompt(self, pair: tuple[Any, Any]) -> None:
        decode, prefill = pair
        os.kill((await prefill.info()).core_pids[0], signal.SIGKILL)
        async with asyncio.timeout(120):
            reply = await ask(decode.call, question("fifth"), CHAT)
        assert reply.status == 200
        assert reply.json()["choices"][0]["message"]
