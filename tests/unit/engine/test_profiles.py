"""The profiles S, M and L: they load, their arguments exist, and the memory they speak of is there.

The arithmetic is that of docs/models.md, from the architecture of the models; nothing here needs a GPU.
"""

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import yaml

from deployments.engine.options import EngineSettings, engine_kwargs, frontend_kwargs, queued_tokens, ray_actor_options
from serve_app.config import ROOT, AppConfig, load_serve_file

GIB = 2**30
PROFILES = ("s", "m", "l")
WINDOW = 131_072  # positions of gpt-oss
HEAD_DIM, KV_HEADS, SLIDING_WINDOW, BLOCK, BF16 = 64, 8, 128, 16, 2


@dataclass(frozen=True)
class Model:
    """Layers alternate between full attention and a sliding window. `weights_gib` is the size of the checkpoint."""

    layers: int
    weights_gib: float

    def token_bytes(self, tensor_parallel: int) -> float:
        """Bytes that one more token of context takes on each GPU: keys and values of the full-attention layers."""
        return self.layers / 2 * 2 * (KV_HEADS / tensor_parallel) * HEAD_DIM * BF16


MODELS = {"gpt-oss-20b": Model(24, 12.8), "gpt-oss-120b": Model(36, 60.8)}
USABLE_GIB = {"s": 22.4, "m": 44.9, "l": 79.6}  # of the GPUs that docs/models.md names: L4, L40S, H100
OVERHEAD_GIB = {"s": 2.0, "m": 2.5, "l": 4.0}  # activations, CUDA graphs and context: an estimate
SEAT_TOKENS = 8192  # average context at full seats, at least


def app(profile: str) -> AppConfig:
    return load_serve_file(ROOT / "configs" / f"serve.{profile}.yaml").app


def engines() -> Iterator[tuple[str, EngineSettings]]:
    for profile in PROFILES:
        for model in app(profile).models:
            assert isinstance(model.engine, EngineSettings)
            yield profile, model.engine


EACH = pytest.mark.parametrize(("profile", "engine"), [pytest.param(p, e, id=f"{p}-{e.model}") for p, e in engines()])


def cache_tokens(profile: str, engine: EngineSettings) -> int:
    """Tokens of context that fit beside the weights."""
    model, ranks = MODELS[engine.model], engine.tensor_parallel_size
    free_gib = USABLE_GIB[profile] * engine.gpu_memory_utilization - model.weights_gib / ranks - OVERHEAD_GIB[profile]
    return int(free_gib * GIB / model.token_bytes(ranks))


def number(engine: EngineSettings, name: str) -> int:
    value = engine.engine_args[name]
    assert isinstance(value, int)
    return value


def test_the_arithmetic_of_a_token() -> None:
    assert MODELS["gpt-oss-20b"].token_bytes(1) == 24_576
    assert MODELS["gpt-oss-120b"].token_bytes(1) == 36_864
    assert MODELS["gpt-oss-120b"].token_bytes(2) == 18_432


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_air_gapped_and_holds_no_secret(profile: str) -> None:
    config = app(profile)
    assert (config.profile, config.device) == (profile, "cuda")
    assert all(Path(model.source or "").is_absolute() for model in config.models)
    assert not any(model.demonstration for model in config.models)
    assert Path(config.vocabulary_dir or "").is_absolute()
    text = (ROOT / "configs" / f"serve.{profile}.yaml").read_text()
    assert not re.search(r"://[^\s/@]*:[^\s/@]*@|password|secret|token:", text)


def test_the_tiers_of_the_profiles() -> None:
    tiers = {profile: [model.tier.value for model in app(profile).models] for profile in PROFILES}
    assert tiers == {"s": ["20b"], "m": ["20b"], "l": ["20b", "120b"]}


@EACH
def test_what_gpt_oss_needs(profile: str, engine: EngineSettings) -> None:
    del profile
    frontend = frontend_kwargs(engine)
    assert (frontend["tool_call_parser"], frontend["tool_server"]) == ("openai", None)
    assert frontend["enable_auto_tool_choice"] is True
    assert engine_kwargs(engine)["reasoning_parser"] == "openai_gptoss"
    assert engine.system_date is not None  # a date that moves by itself would empty the prefix cache every midnight
    assert (engine.enable_prefix_caching, engine.affinity, engine.warm_up) == (True, True, True)
    assert "speculative_config" not in engine.engine_args


@EACH
def test_the_context_fits_into_the_memory(profile: str, engine: EngineSettings) -> None:
    tokens = cache_tokens(profile, engine)
    assert engine.max_model_len is not None
    assert engine.max_model_len <= WINDOW
    sliding = SLIDING_WINDOW + BLOCK  # what the other half of the layers keeps of a sequence
    prefill = number(engine, "max_num_batched_tokens")  # they keep a step's chunk while it is computed
    assert tokens >= 2 * (engine.max_model_len + sliding) + prefill  # two full windows at the very least
    assert tokens >= engine.max_num_seqs * (SEAT_TOKENS + sliding) + prefill


@EACH
def test_long_prompts_leave_room_for_short_ones(profile: str, engine: EngineSettings) -> None:
    del profile
    budget, threshold = number(engine, "max_num_batched_tokens"), number(engine, "long_prefill_token_threshold")
    assert engine.engine_args["enable_chunked_prefill"] is True
    # every seat may decode, and three long prompts be prefilled, before a short prompt finds no room in a step
    assert budget - 3 * threshold - engine.max_num_seqs >= 256
    assert engine.engine_args.get("scheduling_policy", "fcfs") == "fcfs"


@EACH
def test_the_queue_is_bounded_and_takes_every_prompt(profile: str, engine: EngineSettings) -> None:
    del profile
    assert engine.max_num_seqs < engine.max_queued <= 4 * engine.max_num_seqs
    assert engine.max_model_len is not None
    assert queued_tokens(engine) >= 2 * engine.max_model_len


@EACH
def test_replicas_have_bounds_and_gpus(profile: str, engine: EngineSettings) -> None:
    assert ray_actor_options(engine, None, "cuda")["num_gpus"] == engine.tensor_parallel_size
    if profile == "s":
        assert (engine.replicas, engine.scaling) == (1, None)
        return
    assert engine.scaling is not None
    assert 1 <= engine.scaling.min_replicas < engine.scaling.max_replicas <= 8


@EACH
def test_a_replica_that_leaves_outlives_its_longest_request(profile: str, engine: EngineSettings) -> None:
    del profile
    assert engine.request_deadline_s < engine.drain_s


@EACH
def test_every_argument_exists_in_this_vllm(profile: str, engine: EngineSettings) -> None:
    del profile
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (extra `cpu` or `gpu`)")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    assert engine_kwargs(engine).keys() <= {field.name for field in fields(AsyncEngineArgs)}
    assert frontend_kwargs(engine).keys() <= {field.name for field in fields(FrontendArgs)}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_speculative_slot_is_an_argument_that_would_be_taken(profile: str) -> None:
    text = (ROOT / "configs" / f"serve.{profile}.yaml").read_text()
    slots = re.findall(r"# speculative_config:(?:\n\s*#)?\s*(\{.*\})", text)
    assert len(slots) == len(app(profile).models)
    for slot in slots:
        config = yaml.safe_load(slot)
        assert (config["method"], config["num_speculative_tokens"]) == ("eagle3", 3)
        assert Path(config["model"]).is_absolute()
        EngineSettings(model="m", revision="r", source="/m", engine_args={"speculative_config": config})
