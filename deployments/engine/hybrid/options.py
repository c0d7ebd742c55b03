"""Settings of an engine of kind `vllm-ray` -> Ray's `LLMConfig`, placement and Serve options. Pure: imports neither.

Ray Serve LLM places the workers: one bundle of a placement group for each of `tensor_parallel_size` times
`pipeline_parallel_size` workers, on as many nodes as it takes. The replica itself holds no GPU.
"""

from importlib.util import find_spec
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue, model_validator

from deployments.engine.options import (
    Device,
    EngineSettings,
    engine_kwargs,
    frontend_kwargs,
    replica_env,
)
from deployments.engine.settings import Settings, serve_options

Bundle: TypeAlias = dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(ge=0)]]
Strategy: TypeAlias = Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"]

BASE_SUFFIX = "--base"
"""Added to the name of the weights below an adapter: requests name the adapter, which has the model's own name."""


class PlacementSettings(Settings):
    """Where the workers of one engine go.

    Either `bundle_per_worker` for all of them alike, or `bundles` with one entry each; amounts are of Ray's resources
    (`GPU`, `CPU`, or a label such as `accelerator_type:H100`). A `GPU` below 1 shares the device. `STRICT_PACK` keeps
    all workers on one node, `PACK` tries to.
    """

    strategy: Strategy = "PACK"
    bundle_per_worker: Bundle | None = None
    bundles: Annotated[tuple[Bundle, ...], Field(strict=False)] | None = None  # YAML has lists

    @model_validator(mode="after")
    def _one_of_both(self) -> "PlacementSettings":
        if (self.bundle_per_worker is None) == (self.bundles is None):
            raise ValueError("set either `bundle_per_worker` or `bundles`")
        return self


class LoraSettings(Settings):
    """An adapter that every request of this model goes through. `path` is a folder on the machine of every worker."""

    path: Annotated[str, Field(pattern=r"^/")]
    rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16


class KvTransferSettings(Settings):
    """Where key-value blocks go beside the GPU: vLLM's own connectors that serve one engine."""

    kv_connector: Literal["OffloadingConnector", "SimpleCPUOffloadConnector", "LMCacheConnectorV1"]
    kv_role: Literal["kv_both", "kv_producer", "kv_consumer"] = "kv_both"
    kv_connector_extra_config: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_engine(self) -> "KvTransferSettings":
        if self.kv_role != "kv_both":
            raise ValueError(
                "one engine is one deployment here, so it cannot be the prefill or the decode half of a pair: "
                "`kv_role` must be kv_both"
            )
        return self


class HybridSettings(EngineSettings):
    """One model at one revision on workers that Ray Serve LLM places; every other field as for kind `vllm`.

    `data_parallel_size` replicas form a group that starts, fails and restarts as one and shares the experts of one
    model; `replicas` counts groups.
    """

    kind: Literal["vllm-ray"] = "vllm-ray"  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, never assigned
    tensor_parallel_size: int = Field(default=1, ge=1, le=64)
    pipeline_parallel_size: int = Field(default=1, ge=1, le=16)
    data_parallel_size: int = Field(default=1, ge=1, le=64)
    placement_group_config: PlacementSettings | None = None
    lora: LoraSettings | None = None
    kv_transfer_config: KvTransferSettings | None = None

    @property
    def workers(self) -> int:
        """Workers of one replica, each with a bundle of its own."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @model_validator(mode="after")
    def _as_ray_places_it(self) -> "HybridSettings":
        if self.num_gpus is not None:
            raise ValueError("the replica holds no GPU: set GPU in placement_group_config instead of num_gpus")
        if "distributed_executor_backend" in self.engine_args:
            raise ValueError("Ray chooses the executor: `distributed_executor_backend` cannot be set for vllm-ray")
        placement = self.placement_group_config
        if placement is not None and placement.bundles is not None and len(placement.bundles) != self.workers:
            raise ValueError(f"placement_group_config.bundles must have one entry for each of {self.workers} workers")
        if self.data_parallel_size > 1:
            if self.scaling is not None:
                raise ValueError("a policy counts single replicas: data parallel groups take `replicas`, not `scaling`")
            if placement is not None and placement.strategy != "PACK":
                raise ValueError("Serve packs data parallel groups: placement_group_config.strategy must be PACK")
        return self


def missing_package() -> str | None:
    """One sentence about what this Python lacks for kind `vllm-ray`, or None."""
    if find_spec("pyarrow") is not None:
        return None
    return "an engine of kind vllm-ray needs the package pyarrow on every node: install the extra `ray-llm`"


def hybrid_env(settings: HybridSettings, vocabulary_dir: str | None, device: Device) -> dict[str, str]:
    """Environment of the replica, and of everything that Ray starts for it."""
    env = replica_env(settings, vocabulary_dir, device)
    env.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # Ray Serve LLM runs the engine core in a process of its own
    return env


def llm_config(settings: HybridSettings, env: dict[str, str], device: Device) -> dict[str, object]:
    """Arguments for Ray's `LLMConfig`.

    Adapters are in it as plain mappings, `engine_kwargs.lora_modules`; vLLM wants a class of its own there.
    """
    base = settings.model if settings.lora is None else settings.model + BASE_SUFFIX
    kwargs = engine_kwargs(settings) | frontend_kwargs(settings)
    for name in ("model", "served_model_name", "distributed_executor_backend"):  # Ray sets them
        kwargs.pop(name, None)
    kwargs["pipeline_parallel_size"] = settings.pipeline_parallel_size
    if settings.data_parallel_size > 1:
        kwargs["data_parallel_size"] = settings.data_parallel_size
    if settings.lora is not None:
        kwargs |= {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": settings.lora.rank,
            "lora_modules": [{"name": settings.model, "path": settings.lora.path, "base_model_name": base}],
        }
    if settings.kv_transfer_config is not None:
        kwargs["kv_transfer_config"] = settings.kv_transfer_config.model_dump(mode="json")
    config: dict[str, object] = {
        "model_loading_config": {"model_id": base, "model_source": settings.source},
        "engine_kwargs": kwargs,
        "accelerator_config": {"kind": "gpu" if device == "cuda" else "cpu"},
        "runtime_env": {"env_vars": env},
        "log_engine_metrics": True,
    }
    if settings.placement_group_config is not None:
        config["placement_group_config"] = settings.placement_group_config.model_dump(mode="json", exclude_none=True)
    return config


def placement_bundles(settings: HybridSettings, device: Device) -> list[dict[str, float]]:
    """The bundles of one replica, as Ray Serve LLM expects to find them: one each worker, the replica in the first."""
    given = settings.placement_group_config
    if given is not None and given.bundles is not None:
        bundles = [dict(bundle) for bundle in given.bundles]
    else:
        default: dict[str, float] = {"GPU": 1} if device == "cuda" else {"CPU": 1}
        each = given.bundle_per_worker if given is not None and given.bundle_per_worker is not None else default
        bundles = [dict(each) for _ in range(settings.workers)]
    bundles[0]["CPU"] = bundles[0].get("CPU", 0) + settings.num_cpus
    return bundles


def hybrid_options(settings: HybridSettings, vocabulary_dir: str | None, device: Device) -> dict[str, object]:
    """Serve's options for the deployment of one engine, except its name."""
    options = serve_options(settings) | {
        "ray_actor_options": {
            "num_cpus": settings.num_cpus,
            "num_gpus": 0,
            "runtime_env": {"env_vars": hybrid_env(settings, vocabulary_dir, device)},
        },
        "placement_group_bundles": placement_bundles(settings, device),
    }
    if settings.data_parallel_size == 1:
        placement = settings.placement_group_config
        return options | {"placement_group_strategy": placement.strategy if placement is not None else "PACK"}
    return options | {
        "num_replicas": (settings.replicas or 1) * settings.data_parallel_size,
        "gang_scheduling_config": {"gang_size": settings.data_parallel_size},
    }
