"""A pair of prefill and decode engines: what each of them is asked, and what happens without the first."""

import json
from collections.abc import AsyncGenerator

import pytest
from pydantic import ValidationError

from deployments.engine.hybrid.options import Half, HybridSettings, halves, hybrid_options, llm_config, prefill_half
from deployments.engine.hybrid.pair import PrefillFirst, blocks_of, prefill_request
from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout
from deployments.ports import EngineCall, EngineInfo, EngineItem, EngineStart, RequestId, SessionId

WHERE = {"do_remote_prefill": True, "remote_block_ids": [[1, 2]], "remote_engine_id": "e", "remote_port": 20000}
CHAT = {
    "model": "m",
    "messages": [{"role": "user", "content": "hello"}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_completion_tokens": 500,
    "min_tokens": 3,
    "n": 2,
    "logprobs": True,
    "top_logprobs": 2,
    "temperature": 0.5,
    "reasoning_effort": "high",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "auto",
    "response_format": {"type": "json_object"},
}


class Prefill:
    """Implements `ports.Engine`: answers every call with the same items."""

    def __init__(self, *items: EngineItem | Exception) -> None:
        self.items = items
        self.calls: list[EngineCall] = []

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        self.calls.append(call)
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            yield item

    async def info(self) -> EngineInfo:
        raise NotImplementedError

    def cold(self) -> bool:
        return False


def reply(status: int, body: object) -> tuple[EngineItem, ...]:
    text = json.dumps(body).encode()
    return EngineStart(status, ()), text[:5], text[5:]


def call(body: object = CHAT, path: str = "/v1/chat/completions") -> EngineCall:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return EngineCall(path, {"content-type": "application/json"}, content, RequestId("rt_1"), SessionId("s1"))


async def test_the_prompt_is_read_ahead_and_the_answer_is_told_where_it_lies() -> None:
    prefill = Prefill(*reply(200, {"choices": [], "kv_transfer_params": WHERE}))
    asked = call()
    told = await PrefillFirst(prefill, 0).ahead(asked)
    assert json.loads(told.body) == CHAT | {"kv_transfer_params": WHERE}
    assert (told.request_id, told.session, told.path) == (asked.request_id, asked.session, asked.path)
    (sent,) = prefill.calls
    assert sent.request_id != asked.request_id
    assert sent.session == asked.session  # the replica that holds the prefix


def test_a_prefill_makes_one_token_of_the_same_prompt() -> None:
    sent = prefill_request(CHAT)
    assert (sent["max_tokens"], sent["max_completion_tokens"], sent["n"], sent["stream"]) == (1, 1, 1, False)
    assert sent["kv_transfer_params"]["do_remote_decode"] is True
    assert not {"stream_options", "min_tokens", "logprobs", "top_logprobs"} & sent.keys()
    same = ("messages", "tools", "tool_choice", "response_format", "reasoning_effort", "temperature", "model")
    assert {name: sent[name] for name in same} == {name: CHAT[name] for name in same}
    assert "max_completion_tokens" not in prefill_request({"prompt": "a", "max_tokens": 9})


@pytest.mark.parametrize(
    "items",
    [
        reply(400, {"error": {"message": "no"}}),
        reply(500, {}),
        reply(200, {"choices": []}),
        reply(200, {"kv_transfer_params": None}),
        reply(200, {"kv_transfer_params": {"do_remote_prefill": False}}),
        reply(200, [1]),
        (EngineStart(200, ()), b"not json"),
        (EngineStart(200, ()), EngineFailed("dead")),
        (EngineTimeout("late"),),
        (),
    ],
)
async def test_without_a_prefill_the_decode_engine_reads_the_prompt(items: tuple[EngineItem, ...]) -> None:
    asked = call()
    assert await PrefillFirst(Prefill(*items), 0).ahead(asked) is asked


@pytest.mark.parametrize("items", [(EngineOverloaded("full", 7),), reply(503, {}), reply(429, {})])
async def test_full_prefill_engines_refuse_the_request(items: tuple[EngineItem, ...]) -> None:
    with pytest.raises(EngineOverloaded):
        await PrefillFirst(Prefill(*items), 0).ahead(call())


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (CHAT, "/v1/responses"),
        (CHAT, "/tokenize"),
        (b"{", "/v1/completions"),
        (b"[]", "/v1/completions"),
        ({"prompt": ["a", "b"]}, "/v1/completions"),
        ({"prompt": [[1], [2]]}, "/v1/completions"),
        ({"prompt": "a", "echo": True}, "/v1/completions"),
        (CHAT | {"prompt_logprobs": 1}, "/v1/chat/completions"),
    ],
)
async def test_what_a_pair_cannot_take_goes_to_the_decode_engine_alone(body: object, path: str) -> None:
    prefill, asked = Prefill(*reply(200, {"kv_transfer_params": WHERE})), call(body, path)
    assert await PrefillFirst(prefill, 0).ahead(asked) is asked
    assert not prefill.calls


async def test_token_ids_are_a_prompt_and_short_requests_are_not_worth_the_trip() -> None:
    prefill, asked = Prefill(*reply(200, {"kv_transfer_params": WHERE})), call({"prompt": [1, 2]}, "/v1/completions")
    assert await PrefillFirst(prefill, 0).ahead(asked) is not asked
    assert await PrefillFirst(prefill, len(asked.body)).ahead(asked) is asked
    assert len(prefill.calls) == 1


def test_blocks_are_read_from_a_whole_reply_only() -> None:
    assert blocks_of(json.dumps({"kv_transfer_params": WHERE}).encode()) == WHERE
    assert blocks_of(b'{"kv_transfer_params": {"do_rem') is None


PAIR = {
    "model": "gpt-oss-120b",
    "revision": "r1",
    "source": "/m",
    "tensor_parallel_size": 4,
    "max_num_seqs": 64,
    "replicas": 3,
    "num_cpus": 1,
    "kv_transfer_config": {"kv_connector": "NixlConnector"},
    "prefill": {"tensor_parallel_size": 2, "replicas": 2, "max_num_seqs": 8},
}


def pair(**fields: object) -> HybridSettings:
    return HybridSettings.model_validate(PAIR | fields)


def test_the_prefill_half_is_the_model_with_its_own_size() -> None:
    whole = pair()
    half = prefill_half(whole)
    assert (half.tensor_parallel_size, half.replicas, half.max_num_seqs) == (2, 2, 8)
    assert (half.model, half.source, half.num_cpus, half.prefill) == ("gpt-oss-120b", "/m", 1, None)
    assert whole.replicas == 3
    assert len(hybrid_options(half, None, "cuda")["placement_group_bundles"]) == 2  # type: ignore[arg-type]
    scaled = prefill_half(pair(prefill={"scaling": {"max_replicas": 4}}))
    assert (scaled.replicas, scaled.tensor_parallel_size) == (None, 4)
    assert scaled.scaling is not None


def test_both_halves_share_blocks_and_listen_on_ports_of_their_own() -> None:
    whole = pair()
    assert whole.prefill is not None
    reads, generates = halves(whole.prefill)
    assert (reads, generates) == (Half("kv_producer", 20_000), Half("kv_consumer", 22_000))
    for settings, half in ((prefill_half(whole), reads), (whole, generates)):
        config = llm_config(settings, {}, "cuda", half)
        kwargs = config["engine_kwargs"]
        assert isinstance(kwargs, dict)
        assert kwargs["kv_transfer_config"] == {
            "kv_connector": "NixlConnector",
            "kv_role": half.role,
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": {},
        }
        assert config["experimental_configs"] == {"NIXL_SIDE_CHANNEL_PORT_BASE": half.port}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kv_transfer_config": None}, "NixlConnector"),
        ({"kv_transfer_config": {"kv_connector": "OffloadingConnector"}}, "NixlConnector"),
        ({"prefill": None}, "set `prefill`"),
        ({"data_parallel_size": 2}, "half of a pair"),
        ({"prefill": {"side_channel_ports": [20000, 20001]}}, "apart"),
        ({"prefill": {"replicas": 1, "scaling": {"max_replicas": 2}}}, "not both"),
        ({"prefill": {"placement_group_config": {"bundles": [{"GPU": 1}]}}}, "prefill.placement_group_config.bundles"),
    ],
)
def test_settings_that_make_no_pair_are_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        pair(**fields)
