import pickle
import sys

import pytest
from pydantic import ValidationError

from deployments.engine.hybrid.options import (
    HybridSettings,
    hybrid_env,
    hybrid_options,
    llm_config,
    missing_package,
    placement_bundles,
)


def engine(**fields: object) -> HybridSettings:
    return HybridSettings.model_validate({"model": "demo-20b", "revision": "r1", "source": "/models/demo-20b"} | fields)


def kwargs(settings: HybridSettings) -> dict[str, object]:
    given = llm_config(settings, {}, "cuda")["engine_kwargs"]
    assert isinstance(given, dict)
    return given


def test_what_kind_vllm_is_told_is_told_here_too() -> None:
    given = kwargs(
        engine(
            max_model_len=2048,
            max_num_seqs=8,
            max_queued=9,
            max_queued_tokens=5000,
            gpu_memory_utilization=0.8,
            kv_cache_memory_bytes=1 << 26,
            engine_args={"max_num_batched_tokens": 2048, "enable_expert_parallel": True},
        )
    )
    expected = {
        "max_model_len": 2048,
        "max_num_seqs": 8,
        "max_num_queued_reqs": 9,
        "max_num_queued_tokens": 5000,
        "gpu_memory_utilization": 0.8,
        "kv_cache_memory_bytes": 1 << 26,
        "max_num_batched_tokens": 2048,
        "enable_expert_parallel": True,
        "enable_prefix_caching": True,
        "tool_call_parser": "openai",
        "enable_auto_tool_choice": True,
        "reasoning_parser": "openai_gptoss",
        "fingerprint_value": "r1",
    }
    assert {name: given[name] for name in expected} == expected


def test_the_engine_runs_no_tools_and_logs_nothing() -> None:
    given = kwargs(engine())
    assert given["tool_server"] is None
    assert not any(given[n] for n in ("enable_log_requests", "enable_log_outputs", "log_error_stack"))
    assert given["trust_remote_code"] is False


def test_names_and_executor_are_left_to_ray() -> None:
    settings = engine(tensor_parallel_size=4)
    assert not {"model", "served_model_name", "distributed_executor_backend"} & kwargs(settings).keys()
    config = llm_config(settings, {}, "cuda")
    assert config["model_loading_config"] == {"model_id": "demo-20b", "model_source": "/models/demo-20b"}
    assert config["accelerator_config"] == {"kind": "gpu"}
    assert llm_config(settings, {}, "cpu")["accelerator_config"] == {"kind": "cpu"}


def test_the_workers_of_several_nodes() -> None:
    settings = engine(tensor_parallel_size=4, pipeline_parallel_size=2, num_cpus=1)
    given = kwargs(settings)
    assert (given["tensor_parallel_size"], given["pipeline_parallel_size"]) == (4, 2)
    assert placement_bundles(settings, "cuda") == [{"GPU": 1, "CPU": 1}] + [{"GPU": 1}] * 7
    assert hybrid_options(settings, None, "cuda")["placement_group_strategy"] == "PACK"


def test_the_placement_reaches_ray_and_serve() -> None:
    settings = engine(
        tensor_parallel_size=2,
        num_cpus=1,
        placement_group_config={
            "strategy": "STRICT_PACK",
            "bundle_per_worker": {"GPU": 1, "accelerator_type:H100": 0.001},
        },
    )
    worker = {"GPU": 1, "accelerator_type:H100": 0.001}
    assert llm_config(settings, {}, "cuda")["placement_group_config"] == {
        "strategy": "STRICT_PACK",
        "bundle_per_worker": worker,
    }
    options = hybrid_options(settings, None, "cuda")
    assert options["placement_group_strategy"] == "STRICT_PACK"
    assert options["placement_group_bundles"] == [worker | {"CPU": 1}, worker]


def test_every_bundle_can_be_named() -> None:
    settings = engine(
        tensor_parallel_size=2, num_cpus=1, placement_group_config={"bundles": ({"GPU": 1, "CPU": 2}, {"GPU": 1})}
    )
    assert placement_bundles(settings, "cuda") == [{"GPU": 1, "CPU": 3}, {"GPU": 1}]
    assert settings.placement_group_config is not None
    assert settings.placement_group_config.bundles == ({"GPU": 1, "CPU": 2}, {"GPU": 1})  # the settings stay as given


def test_the_replica_itself_holds_no_gpu() -> None:
    actor = hybrid_options(engine(tensor_parallel_size=8), None, "cuda")["ray_actor_options"]
    assert isinstance(actor, dict)
    assert actor["num_gpus"] == 0


def test_an_adapter_has_the_name_of_the_model() -> None:
    settings = engine(lora={"path": "/models/adapter", "rank": 32})
    config = llm_config(settings, {}, "cuda")
    assert config["model_loading_config"] == {"model_id": "demo-20b--base", "model_source": "/models/demo-20b"}
    given = kwargs(settings)
    assert (given["enable_lora"], given["max_loras"], given["max_lora_rank"]) == (True, 1, 32)
    assert given["lora_modules"] == [
        {"name": "demo-20b", "path": "/models/adapter", "base_model_name": "demo-20b--base"}
    ]
    assert "enable_lora" not in kwargs(engine())


def test_key_value_blocks_can_be_kept_off_the_gpu() -> None:
    offload = {"kv_connector": "OffloadingConnector", "kv_connector_extra_config": {"cpu_bytes_to_use": 1 << 30}}
    own = {"kv_role": "kv_both", "kv_load_failure_policy": "recompute"}
    assert kwargs(engine(kv_transfer_config=offload))["kv_transfer_config"] == own | offload
    assert "kv_transfer_config" not in kwargs(engine())


def test_a_data_parallel_group_is_a_gang() -> None:
    settings = engine(data_parallel_size=4, replicas=2, tensor_parallel_size=2)
    assert kwargs(settings)["data_parallel_size"] == 4
    options = hybrid_options(settings, None, "cuda")
    assert (options["num_replicas"], options["gang_scheduling_config"]) == (8, {"gang_size": 4})
    assert "placement_group_strategy" not in options  # Serve refuses both
    assert "data_parallel_size" not in kwargs(engine())
    assert "gang_scheduling_config" not in hybrid_options(engine(), None, "cuda")


def test_the_environment_reaches_replica_and_workers() -> None:
    settings = engine(system_date="2026-01-01")
    env = hybrid_env(settings, "/vocabulary", "cpu")
    assert (env["HF_HUB_OFFLINE"], env["TIKTOKEN_ENCODINGS_BASE"]) == ("1", "/vocabulary")
    assert env["VLLM_SYSTEM_START_DATE"] == "2026-01-01"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in env
    assert llm_config(settings, env, "cpu")["runtime_env"] == {"env_vars": env}
    actor = hybrid_options(settings, "/vocabulary", "cpu")["ray_actor_options"]
    assert isinstance(actor, dict)
    assert actor["runtime_env"] == {"env_vars": env}


def test_serve_is_told_what_kind_vllm_tells_it() -> None:
    options = hybrid_options(engine(max_queued=10, replicas=2, drain_s=60), "/v", "cpu")
    assert (options["num_replicas"], options["max_ongoing_requests"]) == (2, 4106)
    assert options["graceful_shutdown_timeout_s"] == 60
    assert options["request_router_config"]
    assert options["placement_group_bundles"] == [{"CPU": 2}]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_gpus": 0.5}, "holds no GPU"),
        ({"engine_args": {"distributed_executor_backend": "mp"}}, "Ray chooses the executor"),
        ({"placement_group_config": {}}, "either"),
        ({"placement_group_config": {"bundle_per_worker": {"GPU": 1}, "bundles": ({"GPU": 1},)}}, "either"),
        ({"placement_group_config": {"bundle_per_worker": {"GPU": -1}}}, "greater than or equal to 0"),
        ({"placement_group_config": {"bundles": ({"GPU": 1},)}, "tensor_parallel_size": 2}, "each of 2 workers"),
        ({"lora": {"path": "s3://bucket/adapter"}}, "pattern"),
        ({"lora": {"path": "/a", "rank": 7}}, "rank"),
        ({"kv_transfer_config": {"kv_connector": "NixlConnector"}}, "set `prefill`"),
        ({"kv_transfer_config": {"kv_connector": "OffloadingConnector", "kv_role": "kv_producer"}}, "kv_both"),
        ({"kv_transfer_config": {"kv_connector": "OffloadingConnector", "kv_connector_module_path": "x"}}, "forbidden"),
        ({"data_parallel_size": 2, "scaling": {"max_replicas": 4}}, "groups take `replicas`"),
        (
            {
                "data_parallel_size": 2,
                "placement_group_config": {"strategy": "SPREAD", "bundle_per_worker": {"GPU": 1}},
            },
            "must be PACK",
        ),
        ({"engine_args": {"enable_lora": True}}, "enable_lora"),
        ({"kind": "vllm"}, "vllm-ray"),
    ],
)
def test_what_cannot_be_done_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        engine(**fields)


def test_settings_travel_to_a_replica() -> None:
    settings = engine(placement_group_config={"bundle_per_worker": {"GPU": 1}}, lora={"path": "/a"})
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_yaml_lists_are_bundles_too() -> None:
    settings = engine(placement_group_config={"bundles": [{"GPU": 1}]})
    assert placement_bundles(settings, "cuda") == [{"GPU": 1, "CPU": 1}]
    assert HybridSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_a_python_without_pyarrow_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pyarrow" in (missing_package() or "")
