import pickle

import pytest
from pydantic import ValidationError

from deployments.engine.options import (
    EXTRA_ENGINE_ARGS,
    EngineSettings,
    deployment_options,
    engine_kwargs,
    frontend_kwargs,
    ray_actor_options,
    replica_env,
)
from deployments.engine.settings import ENGINE_PATHS, FlushSettings


def engine(**fields: object) -> EngineSettings:
    return EngineSettings.model_validate({"model": "demo-20b", "revision": "r1", "source": "/models/demo-20b"} | fields)


def test_fields_become_vllm_arguments() -> None:
    kwargs = engine_kwargs(
        engine(max_model_len=2048, max_num_seqs=8, dtype="bfloat16", enforce_eager=True, kv_cache_memory_bytes=1 << 26)
    )
    assert kwargs["model"] == "/models/demo-20b"
    assert kwargs["served_model_name"] == ["demo-20b"]
    assert (kwargs["max_model_len"], kwargs["max_num_seqs"], kwargs["max_num_queued_reqs"]) == (2048, 8, 256)
    assert kwargs["reasoning_parser"] == "openai_gptoss"
    assert kwargs["enable_log_requests"] is False
    assert kwargs["trust_remote_code"] is False


def test_what_is_not_set_is_left_to_vllm() -> None:
    kwargs = engine_kwargs(engine())
    assert not {"max_model_len", "kv_cache_memory_bytes"} & kwargs.keys()
    assert "distributed_executor_backend" not in kwargs


def test_the_queue_is_always_bounded_in_tokens() -> None:
    assert engine_kwargs(engine())["max_num_queued_tokens"] == 8 * 131_072
    assert engine_kwargs(engine(max_model_len=4096))["max_num_queued_tokens"] == 8 * 4096
    assert engine_kwargs(engine(max_queued_tokens=5000))["max_num_queued_tokens"] == 5000


def test_tensor_parallel_stays_on_the_node() -> None:
    settings = engine(tensor_parallel_size=4)
    assert engine_kwargs(settings)["distributed_executor_backend"] == "mp"
    assert ray_actor_options(settings, None, "cuda")["num_gpus"] == 4


def test_a_share_of_a_gpu_can_be_asked_for() -> None:
    assert ray_actor_options(engine(num_gpus=0.25), None, "cuda")["num_gpus"] == 0.25
    assert "num_gpus" not in ray_actor_options(engine(), None, "cpu")


def test_extra_arguments_come_from_a_list() -> None:
    assert engine_kwargs(engine(engine_args={"load_format": "dummy"}))["load_format"] == "dummy"
    for name in ("trust_remote_code", "enable_log_requests", "worker_cls", "enable_lora", "made_up"):
        assert name not in EXTRA_ENGINE_ARGS
        with pytest.raises(ValidationError, match=name):
            engine(engine_args={name: True})


def test_an_extra_argument_does_not_override_a_field() -> None:
    with pytest.raises(ValidationError, match="as a field"):
        engine(engine_args={"max_model_len": 1})


@pytest.mark.parametrize(
    "fields",
    [{"model": "../x y"}, {"revision": ""}, {"dtype": "int4"}, {"max_num_seqs": 0}, {"max_num_seqs": "8"}, {"nope": 1}],
)
def test_a_wrong_setting_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        engine(**fields)


def test_the_frontend_runs_no_tools_and_logs_nothing() -> None:
    kwargs = frontend_kwargs(engine())
    assert kwargs["tool_server"] is None
    assert kwargs["enable_log_outputs"] is False
    assert kwargs["log_error_stack"] is False
    assert (kwargs["tool_call_parser"], kwargs["enable_auto_tool_choice"]) == ("openai", True)


def test_a_model_without_tools_has_no_automatic_choice() -> None:
    assert frontend_kwargs(engine(tool_call_parser=None))["enable_auto_tool_choice"] is False


def test_the_environment_of_a_replica_on_cpu() -> None:
    env = replica_env(engine(system_date="2026-01-01"), "/vocabulary", "cpu")
    assert env["TIKTOKEN_ENCODINGS_BASE"] == "/vocabulary"
    assert env["VLLM_SYSTEM_START_DATE"] == "2026-01-01"
    assert (env["VLLM_ENABLE_V1_MULTIPROCESSING"], env["OMP_NUM_THREADS"]) == ("0", "1")
    assert (env["HF_HUB_OFFLINE"], env["VLLM_NO_USAGE_STATS"], env["VLLM_SERVER_DEV_MODE"]) == ("1", "1", "0")


def test_the_environment_of_a_replica_on_a_gpu() -> None:
    env = replica_env(engine(), None, "cuda")
    assert not {"TIKTOKEN_ENCODINGS_BASE", "OMP_NUM_THREADS", "VLLM_ENABLE_V1_MULTIPROCESSING"} & env.keys()


def test_tensor_ranks_on_cpu_need_processes() -> None:
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in replica_env(engine(tensor_parallel_size=2), None, "cpu")


def test_serve_lets_the_replica_do_the_refusing() -> None:
    options = deployment_options(engine(max_queued=10, replicas=2, drain_s=60), "/v", "cpu")
    assert options["num_replicas"] == 2
    assert (options["max_ongoing_requests"], options["max_queued_requests"]) == (4106, 10)
    assert options["graceful_shutdown_timeout_s"] == 60


def test_the_flush_window_widens_with_the_load() -> None:
    flush = FlushSettings()
    assert [flush.window_s(active) for active in (1, 4, 5, 64, 65)] == [0.008, 0.008, 0.025, 0.025, 0.05]
    with pytest.raises(ValidationError):
        FlushSettings(few=9, some=8)


def test_settings_travel_to_a_replica() -> None:
    settings = engine(engine_args={"quantization": "mxfp4"})
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_no_administrative_path_is_allowed() -> None:
    assert not [path for path in ENGINE_PATHS if "lora" in path or "abort" in path or "scale" in path]
