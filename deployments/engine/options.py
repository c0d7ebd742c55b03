"""Model settings -> vLLM's arguments, the replica's Ray options and its environment. Pure: imports neither.

`engine_kwargs` and `frontend_kwargs` are the only mappings with open value types past the edge; `adapter.py` checks
them against the dataclasses of the vLLM that is installed.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue, field_validator

from deployments.engine.settings import ServedSettings, serve_options

Device: TypeAlias = Literal["cpu", "cuda"]

EXTRA_ENGINE_ARGS = frozenset(
    {
        "async_scheduling",
        "attention_backend",
        "attention_config",
        "block_size",
        "compilation_config",
        "cpu_offload_gb",
        "cudagraph_capture_sizes",
        "disable_custom_all_reduce",
        "distributed_executor_backend",
        "enable_chunked_prefill",
        "enable_expert_parallel",
        "generation_config",
        "kernel_config",
        "kv_cache_dtype",
        "load_format",
        "long_prefill_token_threshold",
        "max_logprobs",
        "max_num_batched_tokens",
        "moe_backend",
        "num_gpu_blocks_override",
        "optimization_level",
        "otlp_traces_endpoint",
        "override_generation_config",
        "performance_mode",
        "quantization",
        "safetensors_load_strategy",
        "scheduling_policy",
        "seed",
        "speculative_config",
        "stream_interval",
        "tokenizer",
        "tokenizer_mode",
        "tokenizer_revision",
    }
)
"""Arguments of vLLM's engine that a configuration may set beside the named fields.

Not here, on purpose: code from the checkpoint (`trust_remote_code`), classes and plugins by name, request logging,
LoRA at run time, several nodes (kind `vllm-ray`).
"""


_QUEUED_WINDOWS = 8
_LONGEST_WINDOW = 131_072  # of gpt-oss


class EngineSettings(ServedSettings):
    """One model at one revision on vLLM, in the replica's own process.

    `source` is a folder, or a repository name that the machine has in its cache (replicas work offline).
    `max_queued_tokens` (default: eight full windows) bounds the prompt tokens that wait, as `max_queued` does requests.
    Without `honour_seeds` a request's `seed` is left out: vLLM 0.29 on CPU dies of one whose prompt is read in two
    steps.
    """

    kind: Literal["vllm"] = "vllm"
    source: Annotated[str, Field(min_length=1)]

    max_num_seqs: int = Field(default=64, ge=1)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    enforce_eager: bool = False
    tensor_parallel_size: int = Field(default=1, ge=1, le=16)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    kv_cache_memory_bytes: int | None = Field(default=None, ge=1 << 20)
    enable_prefix_caching: bool = True
    tool_call_parser: str | None = "openai"
    reasoning_parser: str | None = "openai_gptoss"
    system_date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = None
    engine_args: dict[str, JsonValue] = Field(default_factory=dict)

    max_queued_tokens: int | None = Field(default=None, ge=1)
    warm_up: bool = True
    honour_seeds: bool = True
    num_gpus: float | None = Field(default=None, ge=0)

    @field_validator("engine_args")
    @classmethod
    def _allowed(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in value:
            if name in cls.model_fields:
                raise ValueError(f"set `{name}` as a field of the engine, not in engine_args")
            if name not in EXTRA_ENGINE_ARGS:
                raise ValueError(f"`{name}` is not an engine argument that a configuration may set")
        return value


def queued_tokens(settings: EngineSettings) -> int:
    """Prompt tokens that may wait for their prefill; by default as many as eight full windows."""
    return settings.max_queued_tokens or _QUEUED_WINDOWS * (settings.max_model_len or _LONGEST_WINDOW)


def engine_kwargs(settings: EngineSettings) -> dict[str, JsonValue]:
    """Arguments for vLLM's `AsyncEngineArgs`."""
    optional: dict[str, JsonValue] = {
        "max_model_len": settings.max_model_len,
        "kv_cache_memory_bytes": settings.kv_cache_memory_bytes,
        "reasoning_parser": settings.reasoning_parser,
    }
    own: dict[str, JsonValue] = {
        "model": settings.source,
        "served_model_name": [settings.model],
        "max_num_seqs": settings.max_num_seqs,
        "max_num_queued_reqs": settings.max_queued,
        "max_num_queued_tokens": queued_tokens(settings),
        "dtype": settings.dtype,
        "enforce_eager": settings.enforce_eager,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enable_prefix_caching": settings.enable_prefix_caching,
        "enable_log_requests": False,  # prompts never reach a log
        "trust_remote_code": False,
    }
    if settings.tensor_parallel_size > 1:
        own["distributed_executor_backend"] = "mp"  # on one node; left to itself vLLM may pick Ray inside a Ray actor
    return own | {name: value for name, value in optional.items() if value is not None} | settings.engine_args


def frontend_kwargs(settings: EngineSettings) -> dict[str, JsonValue]:
    """Arguments for vLLM's `FrontendArgs`. No tool server, no own authentication, no logging of outputs."""
    return {
        "tool_call_parser": settings.tool_call_parser,
        "enable_auto_tool_choice": settings.tool_call_parser is not None,
        "tool_server": None,
        "enable_log_outputs": False,
        "enable_prompt_tokens_details": True,  # cached tokens, for the ledger
        "fingerprint_mode": "custom",
        "fingerprint_value": settings.revision,
        "log_error_stack": False,
        "disable_fastapi_docs": True,
    }


def replica_env(settings: EngineSettings, vocabulary_dir: str | None, device: Device) -> dict[str, str]:
    """Environment of a replica. It travels in `runtime_env`: replicas on other nodes inherit nothing from the driver.

    `vocabulary_dir` is the folder that holds `o200k_base.tiktoken` on the replica's machine; None leaves the
    variable to the image.
    """
    env = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_PLUGINS": "",  # an allow-list: nothing that happens to be installed attaches itself
    }
    if vocabulary_dir is not None:
        env["TIKTOKEN_ENCODINGS_BASE"] = vocabulary_dir
    if settings.system_date is not None:
        env["VLLM_SYSTEM_START_DATE"] = settings.system_date
    if device == "cpu":
        # Fewer processes and a steadier pace for tests and the demonstration. vLLM does not support this executor on
        # CPU because it cannot set OpenMP up for it, hence the one thread; several tensor ranks need the other one.
        env["OMP_NUM_THREADS"] = "1"
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if settings.tensor_parallel_size == 1:
            env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return env


def ray_actor_options(settings: EngineSettings, vocabulary_dir: str | None, device: Device) -> dict[str, object]:
    """Resources and environment of a replica. All GPUs of one engine are on one node, as they are one actor's."""
    options: dict[str, object] = {
        "num_cpus": settings.num_cpus,
        "runtime_env": {"env_vars": replica_env(settings, vocabulary_dir, device)},
    }
    if device == "cuda":
        options["num_gpus"] = settings.tensor_parallel_size if settings.num_gpus is None else settings.num_gpus
    return options


def deployment_options(settings: EngineSettings, vocabulary_dir: str | None, device: Device) -> dict[str, object]:
    """Serve's options for the deployment of one engine, except its name."""
    return serve_options(settings) | {"ray_actor_options": ray_actor_options(settings, vocabulary_dir, device)}
