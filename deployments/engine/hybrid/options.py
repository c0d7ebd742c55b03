"""Settings of an engine of kind `vllm-ray` -> Ray's `LLMConfig`, placement and Serve options. Pure: imports neither.

Ray Serve LLM places the workers: one bundle of a placement group for each of `tensor_parallel_size` times
`pipeline_parallel_size` workers, on as many nodes as it takes. The replica itself holds no GPU.
"""

from dataclasses import dataclass
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
from deployments.engine.scaling import ScalingSettings
from deployments.engine.settings import Settings, serve_options

Bundle: TypeAlias = dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(ge=0)]]
Strategy: TypeAlias = Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"]

Port: TypeAlias = Annotated[int, Field(ge=1024, le=65_000)]
_PORTS_APART = 256

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
    """Where key-value blocks go beside the GPU: vLLM's own connectors. `NixlConnector` is for a pair (`prefill`).

    `recompute`: an engine reads a prompt again whose blocks were lost.
    """

    kv_connector: Literal["OffloadingConnector", "SimpleCPUOffloadConnector", "LMCacheConnectorV1", "NixlConnector"]
    kv_role: Literal["kv_both"] = "kv_both"
    kv_load_failure_policy: Literal["recompute", "fail"] = "recompute"
    kv_buffer_device: Literal["cuda", "cpu"] | None = None
    kv_connector_extra_config: dict[str, JsonValue] = Field(default_factory=dict)


class PrefillSettings(Settings):
    """Prefill on engines of their own, beside those that generate; what is not given is as for the model.

    Requests of up to `longer_than` bytes are read where they are answered. `side_channel_ports` are where the engines
    tell each other about blocks: that of the first prefill and of the first decode replica. Each replica and worker
    takes the next one, on the node's own address, without authentication: inside the cluster's network only.
    """

    replicas: int | None = Field(default=None, ge=1)
    scaling: ScalingSettings | None = None
    tensor_parallel_size: int | None = Field(default=None, ge=1, le=64)
    pipeline_parallel_size: int | None = Field(default=None, ge=1, le=16)
    placement_group_config: PlacementSettings | None = None
    max_num_seqs: int | None = Field(default=None, ge=1)
    max_queued: int | None = Field(default=None, ge=1)
    num_cpus: float | None = Field(default=None, ge=0)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    kv_cache_memory_bytes: int | None = Field(default=None, ge=1 << 20)
    engine_args: dict[str, JsonValue] | None = None
    longer_than: int = Field(default=4096, ge=0)
    side_channel_ports: Annotated[tuple[Port, Port], Field(strict=False)] = (20_000, 22_000)

    @model_validator(mode="after")
    def _apart(self) -> "PrefillSettings":
        if abs(self.side_channel_ports[0] - self.side_channel_ports[1]) < _PORTS_APART:
            raise ValueError(f"the two side_channel_ports must be {_PORTS_APART} apart")
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
    prefill: PrefillSettings | None = None

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
        self._bundles_fit("")
        transfer = self.kv_transfer_config
        nixl = transfer is not None and transfer.kv_connector == "NixlConnector"
        if self.prefill is not None and not nixl:
            raise ValueError("prefill engines hand blocks over by the NixlConnector: set it in kv_transfer_config")
        if nixl and self.prefill is None:
            raise ValueError("the NixlConnector is for a pair of engines: set `prefill`")
        if self.prefill is not None:
            if self.prefill.scaling is not None and self.prefill.replicas is not None:
                raise ValueError("prefill: set either `replicas` or `scaling`, not both")
            prefill_half(self)._bundles_fit("prefill.")
        if self.data_parallel_size > 1:
            if self.prefill is not None:
                raise ValueError("a data parallel group cannot be half of a pair yet: leave out `prefill`")
            if self.scaling is not None:
                raise ValueError("a policy counts single replicas: data parallel groups take `replicas`, not `scaling`")
            placement = self.placement_group_config
            if placement is not None and placement.strategy != "PACK":
                raise ValueError("Serve packs data parallel groups: placement_group_config.strategy must be PACK")
        return self

    def _bundles_fit(self, where: str) -> None:
        placement = self.placement_group_config
        if placement is not None and placement.bundles is not None and len(placement.bundles) != self.workers:
            raise ValueError(
                f"{where}placement_group_config.bundles must have one entry for each of {self.workers} workers"
            )


def prefill_half(settings: HybridSettings) -> HybridSettings:
    """The engine that reads prompts for the pair `settings`, which has `prefill`."""
    if settings.prefill is None:
        raise ValueError("this model has no prefill engines")
    given = {name: getattr(settings.prefill, name) for name in PrefillSettings.model_fields}
    own = {"longer_than", "side_channel_ports"}
    changed = {name: value for name, value in given.items() if value is not None and name not in own}
    alone = {"prefill": None, "replicas": settings.prefill.replicas, "scaling": settings.prefill.scaling}
    return settings.model_copy(update=changed | alone)


def missing_package(pair: bool = False) -> str | None:
    """One sentence about what this Python lacks for kind `vllm-ray`, or None. `pair`: with prefill engines."""
    if find_spec("pyarrow") is None:
        return "an engine of kind vllm-ray needs the package pyarrow on every node: install the extra `ray-llm`"
    if pair and find_spec("nixl") is None:
        return "prefill engines need the package nixl on every node: install the extra `pd`"
    return None


def hybrid_env(settings: HybridSettings, vocabulary_dir: str | None, device: Device) -> dict[str, str]:
    """Environment of the replica, and of everything that Ray starts for it."""
    env = replica_env(settings, vocabulary_dir, device)
    env.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # Ray Serve LLM runs the engine core in a process of its own
    return env


@dataclass(frozen=True, slots=True)
class Half:
    """What an engine is in a pair. `port` is where its first replica tells the other half about blocks."""

    role: Literal["kv_producer", "kv_consumer"]
    port: int


def halves(settings: PrefillSettings) -> tuple[Half, Half]:
    """The engines that read prompts, and those that generate."""
    first, second = settings.side_channel_ports
    return Half("kv_producer", first), Half("kv_consumer", second)


def llm_config(
    settings: HybridSettings, env: dict[str, str], device: Device, half: Half | None = None
) -> dict[str, object]:
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
        transfer = settings.kv_transfer_config.model_dump(mode="json", exclude_none=True)
        kwargs["kv_transfer_config"] = transfer if half is None else transfer | {"kv_role": half.role}
    config: dict[str, object] = {
        "model_loading_config": {"model_id": base, "model_source": settings.source},
        "engine_kwargs": kwargs,
        "accelerator_config": {"kind": "gpu" if device == "cuda" else "cpu"},
        "runtime_env": {"env_vars": env},
        "log_engine_metrics": True,
    }
    if half is not None:
        config["experimental_configs"] = {"NIXL_SIDE_CHANNEL_PORT_BASE": half.port}
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
