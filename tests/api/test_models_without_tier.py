"""Models that no router chooses: one that fills in the middle, one that embeds."""

import json
from typing import Any

import openai
import pytest

from deployments.ingress.dialects.codecs import make_codecs
from deployments.ingress.dialects.fim import PRESETS
from deployments.ingress.journey import RoutedModel
from deployments.ports import Dialect, ModelId
from tests.api.test_generate import client, post
from tests.fakes import JSON_START, KEY, ScriptedEngine, World

FIM, EMBED = ModelId("fim"), ModelId("embed")
MODELS = (
    RoutedModel(None, FIM, "r1", True),
    RoutedModel(None, EMBED, "r1", True, frozenset({Dialect.EMBEDDINGS})),
)
MIDDLE: dict[str, Any] = {
    "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "fim",
    "choices": [{"index": 0, "text": "a + b", "logprobs": None, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}  # fmt: skip
VECTORS = {
    "object": "list", "model": "embed", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}],
    "usage": {"prompt_tokens": 2, "total_tokens": 2},
}  # fmt: skip
GAP = {"model": "auto", "prompt": "def add(a, b):\n    return ", "suffix": "\n", "max_tokens": 8}


def world(answer: dict[str, Any], *, local: bool = True) -> World:
    models = tuple(RoutedModel(each.tier, each.model, each.revision, local, each.dialects) for each in MODELS)
    codecs = make_codecs({FIM: PRESETS["qwen2.5-coder"]}, FIM, emulate_fim=True)
    engine = ScriptedEngine([JSON_START, json.dumps(answer).encode()])
    return World(engine, extra_models=models, codecs=codecs)


@pytest.mark.parametrize("model", ["auto", "fim"])
async def test_a_suffix_goes_to_the_model_with_tokens_for_it(model: str) -> None:
    it = world(MIDDLE)
    reply = await post(it, {**GAP, "model": model}, "/v1/completions")
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["text"] == "a + b"
    assert reply.headers["x-gatehouse-model"] == "fim"
    assert reply.headers["x-gatehouse-route-reason"] == "model_without_tier"
    assert it.engine.calls[0].path == "/v1/completions"
    assert it.engine.body["prompt"] == f"<|fim_prefix|>{GAP['prompt']}<|fim_suffix|>\n<|fim_middle|>"
    assert it.difficulty.asks == []
    assert it.audit.names() == ["route.decided", "generation.finished"]


async def test_an_attempt_of_such_a_model_teaches_the_router_nothing() -> None:
    it = world({**MIDDLE, "choices": [{**MIDDLE["choices"][0], "text": ""}]})
    assert (await post(it, GAP, "/v1/completions")).status_code == 200
    assert it.difficulty.attempts == []


async def test_the_sdk_embeds() -> None:
    it = world(VECTORS)
    async with client(it) as http:
        sdk = openai.AsyncOpenAI(api_key=KEY, base_url="http://test/v1", http_client=http)
        reply = await sdk.embeddings.create(model="embed", input="hello world", encoding_format="float")
    assert reply.data[0].embedding == [0.5, -0.5]
    assert it.engine.calls[0].path == "/v1/embeddings"
    (usage,) = it.ledger.settled.values()
    assert (usage.input_tokens, usage.output_tokens) == (2, 0)
    (grant,) = it.ledger.grants.values()
    assert grant.reserved_tokens == len("hello world") // 4


async def test_a_model_that_embeds_does_not_chat_and_the_other_way_round() -> None:
    it = world(VECTORS)
    turn = [{"role": "user", "content": "hi"}]
    for path, body in (
        ("/v1/chat/completions", {"model": "embed", "messages": turn}),
        ("/v1/embeddings", {"model": "demo-20b", "input": "x"}),
    ):
        reply = await post(it, body, path)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")
    assert it.engine.calls == []


async def test_a_tenant_without_egress_does_not_reach_one_that_is_elsewhere() -> None:
    it = world(VECTORS, local=False)
    reply = await post(it, {"model": "embed", "input": "x"}, "/v1/embeddings")
    assert reply.status_code == 403
    assert it.engine.calls == []


async def test_a_key_without_a_grant_for_it_does_not_find_it() -> None:
    it = world(MIDDLE)
    it.ledger.add_key("gh-narrow", models=frozenset({ModelId("demo-20b")}))
    reply = await post(it, {**GAP, "model": "fim"}, "/v1/completions", authorization="Bearer gh-narrow")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
