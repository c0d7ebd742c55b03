"""Configuration: one pydantic tree, and the only reader of YAML and environment.

A Serve config file (`configs/serve.<profile>.yaml`) holds the `AppConfig` under `applications[0].args`, so the same
file serves `gatehouse up`, `serve run` and a KubeRay RayService.
"""

import getpass
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from deployments.audit.settings import AuditSettings
from deployments.difficulty.settings import DifficultySettings
from deployments.engine.hybrid.options import HybridSettings
from deployments.engine.options import EngineSettings
from deployments.engine.synthetic import SyntheticSettings
from deployments.engine.upstream_settings import UpstreamSettings
from deployments.gate.settings import GateSettings
from deployments.guardrails.settings import GuardrailSettings
from deployments.ingress.dialects.fim import PRESETS, FimTemplate
from deployments.ingress.settings import IngressSettings
from deployments.ports import Tier
from deployments.responses.settings import ResponsesSettings
from deployments.rollout.settings import RolloutSettings
from deployments.rollouts import NO_PROMPT
from deployments.tenancy.policies import TierModel, faults
from deployments.tenancy.settings import TenancySettings
from serve_app.observe.settings import LogSettings, TracingSettings

DEFAULT_STATE_DIR = Path(".gatehouse")
DEMO_SOURCE = "demo:"
ROOT = Path(__file__).resolve().parent.parent
"""Where `configs/` lies: the checkout, or the image's application folder."""


class ConfigError(Exception):
    """A configuration that cannot be used; the text is one sentence for whoever wrote it."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _kind(engine: Any) -> str:
    """What stands behind a model; `vllm` when the configuration does not say."""
    given = cast(dict[str, Any], engine).get("kind", "vllm") if isinstance(engine, dict) else engine.kind
    return str(given)


KINDS = ("vllm", "vllm-ray", "openai", "synthetic")
_ENGINES = frozenset({"engine", "candidate"})
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LARGEST_WINDOW = 131_072  # of gpt-oss, where a setting names none

AnyEngineSettings: TypeAlias = Annotated[
    Annotated[EngineSettings, Tag("vllm")]
    | Annotated[HybridSettings, Tag("vllm-ray")]
    | Annotated[UpstreamSettings, Tag("openai")]
    | Annotated[SyntheticSettings, Tag("synthetic")],
    Discriminator(_kind),
]


FimPreset: TypeAlias = Literal["qwen2.5-coder", "codellama", "starcoder2", "deepseek-coder", "codestral"]


class FimSettings(_Model):
    """How a model is asked to fill in the middle: a known family's template, or its own tokens.

    The prompt is `{prefix}BEFORE{suffix}AFTER{middle}`; with `suffix_first` the first two change places. `stop` ends
    the middle, in addition to what the preset and the client name. The engine is asked to write special tokens out
    (`skip_special_tokens: false`), so that it finds those stops; name the field in `drop_fields` of a server that
    refuses it.
    """

    preset: FimPreset | None = None
    prefix: str | None = None
    suffix: str | None = None
    middle: str | None = None
    suffix_first: bool = False
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)] = []

    @model_validator(mode="after")
    def _one_template(self) -> "FimSettings":
        own = (self.prefix, self.suffix, self.middle)
        if self.preset is not None:
            if any(token is not None for token in own) or self.suffix_first:
                raise ValueError("set either `preset`, or `prefix`, `suffix` and `middle`")
        elif any(token is None for token in own):
            raise ValueError("set `preset`, or all of `prefix`, `suffix` and `middle`")
        elif not self.prefix or not self.suffix:
            raise ValueError("`prefix` and `suffix` must not be empty")
        return self

    def template(self) -> FimTemplate:
        """The template that was configured."""
        if self.preset is not None:
            return PRESETS[self.preset].with_stops(self.stop)
        return FimTemplate(
            self.prefix or "", self.suffix or "", self.middle or "", tuple(self.stop), suffix_first=self.suffix_first
        )


class PromptSettings(_Model):
    """Instructions of the operator: a file of text, in front of all that clients say in conversations with a model.

    `revision` is what rollouts and records call it; 64 hex digits are held against the file.
    """

    path: Annotated[str, Field(min_length=1)]
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]


class ServedModelConfig(_Model):
    """One model. `source: demo:<name>` stands for an embedded demonstration checkpoint.

    The router chooses among the models with a `tier`; one without is reached by its name alone. `fim`: it can fill in
    the middle. `embeddings`: it does nothing but that. `candidate` is a second engine of the same model, which answers
    the sessions that a rollout gives it and nobody else; its `revision` is what `gatehouse rollout register` prints.
    `prompt` are the operator's instructions for the model, and `candidate_prompt` others for the sessions of a rollout.
    """

    tier: Tier | None = None
    engine: AnyEngineSettings
    candidate: AnyEngineSettings | None = None
    prompt: PromptSettings | None = None
    candidate_prompt: PromptSettings | None = None
    fim: FimSettings | None = None
    embeddings: bool = False

    @model_validator(mode="after")
    def _what_it_can_do(self) -> "ServedModelConfig":
        if self.embeddings and self.tier is not None:
            raise ValueError("a model with `embeddings` has no `tier`: it cannot answer what the router sends")
        if self.embeddings and self.fim is not None:
            raise ValueError("a model has either `embeddings` or `fim`")
        if self.embeddings and self.prompts:
            raise ValueError("a model with `embeddings` has no `prompt`: it holds no conversations")
        if self.embeddings and isinstance(self.engine, SyntheticSettings):
            raise ValueError("an engine of kind synthetic has no `embeddings`")
        needed = "/v1/embeddings" if self.embeddings else "/v1/completions" if self.fim is not None else None
        if isinstance(self.engine, UpstreamSettings) and needed is not None and needed not in self.engine.paths:
            raise ValueError(f"engine.paths must hold {needed}")
        return self

    @model_validator(mode="after")
    def _a_candidate_can_take_its_place(self) -> "ServedModelConfig":
        """Whoever gets the candidate must not notice by anything but its answers, and the way back must be warm."""
        ours, other = self.engine, self.candidate
        if other is None:
            return self
        if other.kind_name != ours.kind_name or other.model != ours.model:
            raise ValueError("`candidate` must be an engine of the same `kind` and the same `model`")
        if _DIGEST.fullmatch(other.revision) is None or other.revision == ours.revision:
            raise ValueError("candidate.revision must be what `gatehouse rollout register` prints: 64 hex digits")
        if (other.max_model_len or _LARGEST_WINDOW) < (ours.max_model_len or _LARGEST_WINDOW):
            raise ValueError("candidate.max_model_len must not be smaller: its sessions were promised that window")
        if any(each.scaling is not None and each.scaling.min_replicas == 0 for each in (ours, other)):
            raise ValueError("a model with a `candidate` must not scale to zero: the way back has to be warm")
        if isinstance(ours, UpstreamSettings) and isinstance(other, UpstreamSettings):
            if ours.is_local and not other.is_local:
                raise ValueError("`candidate` must not leave the premises where `engine` does not")
            if not set(ours.paths) <= set(other.paths):
                raise ValueError("candidate.paths must hold all of engine.paths")
        return self

    @model_validator(mode="after")
    def _a_candidate_prompt_has_its_digest(self) -> "ServedModelConfig":
        if self.prompt is not None and self.prompt.revision == NO_PROMPT:
            raise ValueError(f"prompt.revision must not be '{NO_PROMPT}': so is called that there is none")
        other = self.candidate_prompt
        if other is None:
            return self
        if _DIGEST.fullmatch(other.revision) is None:
            raise ValueError(
                "candidate_prompt.revision must be what `gatehouse rollout register` prints: 64 hex digits"
            )
        if self.prompt is not None and self.prompt.revision == other.revision:
            raise ValueError("candidate_prompt.revision must be another one than prompt.revision")
        return self

    @property
    def prompts(self) -> tuple[PromptSettings, ...]:
        """The operator's instructions, the configured ones first."""
        return tuple(each for each in (self.prompt, self.candidate_prompt) if each is not None)

    @property
    def engines(self) -> tuple[AnyEngineSettings, ...]:
        """The engines of all revisions, the configured one first."""
        return (self.engine,) if self.candidate is None else (self.engine, self.candidate)

    @property
    def source(self) -> str | None:
        """Where the checkpoint lies; None when there is none on this side."""
        return self.engine.source if isinstance(self.engine, EngineSettings) else None

    @property
    def local(self) -> bool:
        """True when prompts for this model stay on the operator's premises."""
        return self.engine.is_local if isinstance(self.engine, UpstreamSettings) else True

    @property
    def embedded(self) -> bool:
        """True for a checkpoint that Gatehouse brings along and expands at the first start."""
        return is_embedded(self.source)

    @property
    def demonstration(self) -> bool:
        """True for what is no real model: an embedded checkpoint or a token clock. Labelled wherever it shows."""
        return self.embedded or isinstance(self.engine, SyntheticSettings)


def is_embedded(source: str | None) -> bool:
    """True for the source of a demonstration checkpoint."""
    return (source or "").startswith(DEMO_SOURCE)


class ReplicaConfig(_Model):
    """Replicas and CPU share of one of the small deployments. Ray's CPUs are bookkeeping, not a limit."""

    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    num_cpus: Annotated[float, Field(ge=0)] = 0.1
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 1000


class AppConfig(_Model):
    """Everything that `serve_app.app.build` needs."""

    profile: Literal["local", "s", "m", "l"] = "local"
    state_dir: str = str(DEFAULT_STATE_DIR)
    device: Literal["cpu", "cuda"] = "cpu"
    vocabulary_dir: str | None = None
    store_url: str | None = None
    operator: str | None = None
    tenant: str = "default"
    change_id: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")] = Field(
        default=None, description="The change under which this configuration was rolled out; recorded when it starts."
    )
    min_memory_gib: Annotated[float, Field(ge=0)] = 0.0
    routing_policy: str = "configs/policies/routing-v1.yaml"
    models: Annotated[list[ServedModelConfig], Field(min_length=1, max_length=8)]
    fim_model: str | None = Field(
        default=None, description="Which model fills in the middle (completions with a `suffix`) for clients that name "
        "none; it must have `fim`.",
    )  # fmt: skip
    fim_emulation: bool = Field(
        default=True, description="Fill in the middle through a chat prompt where the model has no tokens for it. Off: "
        "such a request is refused.",
    )  # fmt: skip
    ingress: IngressSettings = IngressSettings()
    difficulty: DifficultySettings = DifficultySettings()
    gate: GateSettings = GateSettings()
    audit: AuditSettings = AuditSettings()
    tenancy: TenancySettings = TenancySettings()
    guardrails: GuardrailSettings = GuardrailSettings()
    responses: ResponsesSettings = ResponsesSettings()
    rollout: RolloutSettings = RolloutSettings()
    tracing: TracingSettings = TracingSettings()
    logs: LogSettings = LogSettings()
    ingress_replicas: ReplicaConfig = ReplicaConfig()
    difficulty_replicas: ReplicaConfig = ReplicaConfig()
    gate_replicas: ReplicaConfig = ReplicaConfig()
    ledger_replicas: ReplicaConfig = ReplicaConfig()
    responses_replicas: ReplicaConfig = ReplicaConfig()
    rollout_replicas: ReplicaConfig = ReplicaConfig()
    audit_replicas: ReplicaConfig = ReplicaConfig(max_ongoing_requests=4096)

    @model_validator(mode="after")
    def _one_model_per_tier(self) -> "AppConfig":
        names = [model.engine.model for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError("two models have the same name")
        if "auto" in names:
            raise ValueError("a model must not be called 'auto': that name means the router's choice")
        tiers = [model.tier for model in self.models if model.tier is not None]
        if len(set(tiers)) != len(tiers):
            raise ValueError("two models serve the same tier")
        if Tier.BASE not in tiers:
            raise ValueError("one model must serve the tier 20b")
        if self.fim_model is not None and not any(
            model.engine.model == self.fim_model and model.fim is not None for model in self.models
        ):
            raise ValueError("fim_model must name a model that has `fim`")
        for fault in faults(self.tenancy.tenants, self.tier_models):
            raise ValueError(fault)
        for model in self.models:
            if not model.local and not any(
                tenant.to_egress().allows(model.engine.model) for tenant in self.tenancy.tenants.values()
            ):
                raise ValueError("a model is not local and no tenant may reach it: set tenancy.tenants.NAME.egress")
        if self.audit_replicas.replicas > 1:
            raise ValueError("audit_replicas: the log has exactly one writer")
        if self.ledger_replicas.replicas > 1:
            raise ValueError("ledger_replicas: one process counts the open grants of a key")
        if self.rollout_replicas.replicas > 1:
            raise ValueError("rollout_replicas: one process drives rollouts")
        if self.store_url is None or self.store_url.startswith("sqlite"):
            for name, replicas in (
                ("gate", self.gate_replicas),
                ("responses", self.responses_replicas),
                ("difficulty", self.difficulty_replicas),
            ):
                if replicas.replicas > 1:
                    raise ValueError(
                        f"{name}_replicas: one process owns a SQLite file; more replicas need a PostgreSQL store_url"
                    )
        return self

    @property
    def tier_models(self) -> tuple[TierModel, ...]:
        """The models as the rules of tenants see them."""
        return tuple(TierModel(each.engine.model, each.tier, each.local) for each in self.models)

    @property
    def drain_s(self) -> float:
        """The longest time, in seconds, that a replica may need to finish its streams."""
        return max(engine.drain_s for model in self.models for engine in model.engines)

    @property
    def state_path(self) -> Path:
        """The state directory, absolute."""
        return Path(self.state_dir).resolve()


@dataclass(frozen=True, slots=True)
class ServeFile:
    """A Serve config file, read and checked."""

    path: Path
    app: AppConfig
    host: str
    port: int
    application: str
    route_prefix: str


def load_serve_file(path: Path) -> ServeFile:
    """Read `configs/serve.<profile>.yaml`; raises `ConfigError` with one sentence that names the key."""
    try:
        document: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    try:
        content = cast(Mapping[str, Any], document)
        applications = cast(list[Mapping[str, Any]], content["applications"])
        (application,) = applications
        args: object = application.get("args") or {}
        http = cast(Mapping[str, Any], content.get("http_options") or {})
        name, prefix = str(application.get("name", "default")), str(application.get("route_prefix", "/"))
        host, port = str(http.get("host", "127.0.0.1")), int(http.get("port", 8000))
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ConfigError(f"{path} is not a Serve config file with exactly one application.") from None
    return ServeFile(path, parse_config(args, str(path)), host, port, name, prefix)


def parse_config(args: object, where: str) -> AppConfig:
    """An `AppConfig` from plain data; raises `ConfigError` that names the first wrong key."""
    try:
        return AppConfig.model_validate(args)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """The first problem of a validation error in one sentence, with its key and without the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(part for at, part in enumerate(path) if not (at and path[at - 1] in _ENGINES and part in KINDS))
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'."
    if first["type"] == "missing":
        return f"'{key}' is missing."
    message = first["msg"].removeprefix("Value error, ")
    return f"'{key}': {message}." if key else f"{message}."


def find(path: str) -> Path:
    """A configured file: absolute, or relative to the working directory, or to the checkout.

    Raises `ConfigError` when it does not exist.
    """
    given = Path(path)
    for candidate in (given, ROOT / given):
        if candidate.is_file():
            return candidate.resolve()
    raise ConfigError(f"the file {path} does not exist.")


def read_yaml(path: str) -> Mapping[str, Any]:
    """A YAML mapping; raises `ConfigError`."""
    file = find(path)
    try:
        value: object = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file.name} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file.name} must hold a mapping.")
    return cast(dict[str, Any], value)


def operating_person() -> str:
    """The operating system's name of whoever runs this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "operator"


def environment() -> Mapping[str, str]:
    """A copy of the process environment, for code that takes it as an argument."""
    return dict(os.environ)  # noqa: TID251 - this module is the place the ban points to


def set_process_defaults() -> None:
    """Environment that must be set before Ray is imported; whatever the operator has set stays.

    No telemetry leaves the machine, and a local Ray asks for no token: its ports listen on loopback only. Neither
    Ray nor vLLM turns to an address outside to find out its own.
    """
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",  # switched off it still reports that it is off
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: this node's address is the loopback's
        "VLLM_HOST_IP": "127.0.0.1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that outlives the cluster must not start another one
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.door:middlewares",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)  # noqa: TID251


def serve_directly(port: int) -> None:
    """Make the one ingress replica listen on `port` itself; before Ray is imported, and only for a local graph.

    Serve's own proxy is a process of Python between client and ingress, which costs a first token more than everything
    Gatehouse does for it (docs/benchmarks.md). The second group lets replicas run requests on their main loop and
    talk gRPC to each other. A port that a replica has left is free for the one that takes its place.
    """
    direct = {
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),  # exclusive
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    }
    for name, value in direct.items():
        os.environ.setdefault(name, value)  # noqa: TID251


@dataclass(frozen=True, slots=True)
class ClientEnvironment:
    """What the command line needs to reach a server."""

    url: str
    key: str | None
    key_file: Path


def client_environment(state_dir: Path | None = None) -> ClientEnvironment:
    """URL and key of the command line, from `GATEHOUSE_URL`, `GATEHOUSE_KEY` and the operator's key file."""
    root = state_dir or Path(os.environ.get("GATEHOUSE_STATE_DIR", DEFAULT_STATE_DIR))  # noqa: TID251
    key_file = root / "operator.key"
    # A secret that was made of a file mostly has its newline, which no header takes.
    key = os.environ.get("GATEHOUSE_KEY", "").strip()  # noqa: TID251
    if not key and key_file.is_file():
        key = key_file.read_text(encoding="utf-8").strip()
    url = os.environ.get("GATEHOUSE_URL", "http://127.0.0.1:8000")  # noqa: TID251
    return ClientEnvironment(url=url.rstrip("/"), key=key or None, key_file=key_file)
