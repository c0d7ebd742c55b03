"""The whole graph on one screen.

    Ingress -> {Engine:<model>:<revision>, DifficultyRouter, PolicyGate, AuditSink, Ledger, ResponseStore,
                RolloutController -> {Engine:<model>:<revision>, AuditSink}}

`build` is a Serve application builder: `import_path: serve_app.app:build`, with the `AppConfig` as its `args`. Serve
recognises the annotation, so a wrong key or value is refused before anything starts.
"""

import logging
import sys
import time
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, assert_never, cast

import rfc8785

from deployments._bind import Application, bind
from deployments.audit.deployment import AuditSink
from deployments.clock import Clock
from deployments.difficulty import learned
from deployments.difficulty.deployment import DifficultyRouter
from deployments.difficulty.reading import read_chat, read_completion
from deployments.engine.deployment import SyntheticEngine, UpstreamEngine, VLLMEngine
from deployments.engine.hybrid.deployment import HybridEngine
from deployments.engine.hybrid.options import (
    Half,
    HybridSettings,
    halves,
    hybrid_options,
    missing_package,
    prefill_half,
)
from deployments.engine.options import Device, EngineSettings, deployment_options
from deployments.engine.settings import plain_actor, serve_options
from deployments.engine.synthetic import SyntheticSettings
from deployments.engine.upstream_settings import UpstreamSettings, upstream_options
from deployments.errors import InvalidRequest
from deployments.gate.bundle import bundle_path, load_bundle
from deployments.gate.canary import Canary
from deployments.gate.candidate import artefact_path, load_candidate
from deployments.gate.classify import Classifier
from deployments.gate.deployment import PolicyGate
from deployments.gate.grammar import BundleError
from deployments.gate.guard import Guard
from deployments.gate.judges import Judges, judges_of
from deployments.gate.settings import CandidateSettings, GateSettings, Running
from deployments.gate.shadow import ShadowedClassifier
from deployments.gate.tenant_names import with_tenants
from deployments.ingress.deployment import Ingress
from deployments.ingress.dialects.codecs import make_codecs
from deployments.ingress.surface import Loaded, Parts, ServedModel
from deployments.ingress.tracing import Tracing, Untraced
from deployments.ingress.turn import GENERATING
from deployments.ports import Approvals, Audit, Dialect, Gate, Keeps, ModelId, Tier
from deployments.responses.deployment import ResponseStore
from deployments.rollout.deployment import RolloutController
from deployments.rollout.works import Deployed, Loader
from deployments.rollouts import NO_PROMPT, POLICY_TARGET, ROUTER_TARGET, Artefact, Family, Kind, Target
from deployments.tenancy.deployment import Ledger
from deployments.tenancy.policies import routings
from router.snapshot import SnapshotError
from serve_app.api.factory import create_api
from serve_app.api.guard_metrics import make_guard_meter
from serve_app.api.metrics import Counters
from serve_app.api.route_metrics import make_route_meter
from serve_app.config import (
    AnyEngineSettings,
    AppConfig,
    ConfigError,
    ReplicaConfig,
    ServedModelConfig,
    environment,
    find,
    operating_person,
    read_yaml,
)
from serve_app.observe.logs import write_json
from serve_app.observe.settings import LogSettings, TracingSettings
from serve_app.prepare import candidate_of, prepare, vocabulary_dir
from serve_app.prompts import load_prompt, prompts_of
from serve_app.routing.coldstart import cold_start_bytes
from serve_app.stores import store_url
from serve_app.tokens import token_counters

_log = logging.getLogger("gatehouse")
CODE_VERSION = version("gatehouse-serving")


def build(config: AppConfig) -> Application:
    """The application graph of a configuration. Makes missing demonstration checkpoints first."""
    sources = prepare(config)
    vocabulary = str(vocabulary_dir(config))
    state = config.state_path

    audit = bind(AuditSink, str(state / "audit"), config.audit, CODE_VERSION, name="AuditSink",
                 **small(config.audit_replicas))  # fmt: skip
    tiers = {each.tier: (each.engine.model, each.engine.revision) for each in config.models if each.tier is not None}
    strong = tiers[Tier.STRONG][0] if Tier.STRONG in tiers else None
    ledger = bind(Ledger, audit, str(state), store_url(config, "tenancy"), config.operator or operating_person(),
                  config.tenancy, config.tenant, strong, name="Ledger", **small(config.ledger_replicas))  # fmt: skip
    windows = {
        each.tier: each.engine.max_model_len for each in config.models if each.tier and each.engine.max_model_len
    }
    router = bind(DifficultyRouter, config.difficulty, read_yaml(config.routing_policy), tiers,
                  store_url(config, "difficulty"), str(find(config.routing_policy)), cold_start_bytes(), windows,
                  routings(config.tenancy.tenants, config.tier_models), name="DifficultyRouter",
                  **small(config.difficulty_replicas))  # fmt: skip
    engines = {
        (each.model, each.revision): engine(each, source_of(model, each, sources), vocabulary, config.device)
        for model in config.models
        for each in model.engines
    }
    rollouts = bind(RolloutController, audit, engines, store_url(config, "rollout"), config.rollout, loaders(config),
                    (*deployed(config, sources), *chosen(config)), name="RolloutController",
                    **small(config.rollout_replicas))  # fmt: skip
    gate = bind(PolicyGate, audit, ledger, store_url(config, "gate"), str(state / "gate-keys"), config.gate,
                running(config), config.audit.bodies.keeps_arguments, None, rollouts, name="PolicyGate",
                **small(config.gate_replicas))  # fmt: skip
    responses = bind(ResponseStore, store_url(config, "responses"), config.responses, name="ResponseStore",
                     **small(config.responses_replicas))  # fmt: skip
    # A stream ends at its replica, and so does the ingress's half of it: neither is cut off before the other.
    return bind(Ingress, parts(config), engines, router, gate, audit, ledger, responses, rollouts, ingress=True,
                name="Ingress", graceful_shutdown_timeout_s=config.drain_s, max_surge_percent=100,
                **small(config.ingress_replicas))  # fmt: skip


def source_of(model: ServedModelConfig, engine: AnyEngineSettings, sources: Mapping[str, str]) -> str:
    """Where the checkpoint of one of a model's engines lies, "" for one that has none here."""
    named = engine.model if engine is model.engine else candidate_of(engine.model, engine.revision)
    return sources.get(named, "")


def deployed(config: AppConfig, sources: Mapping[str, str]) -> tuple[Deployed, ...]:
    """What the rollout controller is told of the engines that there are, the configured one of each model first."""
    return tuple(
        Deployed(each.model, each.revision, source_of(model, each, sources), each.model_dump_json())
        for model in config.models
        for each in model.engines
    )


def chosen(config: AppConfig) -> tuple[Deployed, ...]:
    """What has revisions and is no engine, of each target the configured one first."""
    ours = config.difficulty.learned
    snapshots = [(ours.revision, ours.snapshot or "")]
    if ours.candidate is not None:
        snapshots.append((ours.candidate.revision, ours.candidate.snapshot))
    found = [Deployed(ROUTER_TARGET, revision, path, family=Family.ROUTER) for revision, path in snapshots]
    found += policies(config.gate)
    for model in config.models:
        given = [(each.revision, str(find(each.path))) for each in model.prompts]
        if model.prompt is None:
            given.insert(0, (NO_PROMPT, ""))
        found += [Deployed(model.engine.model, revision, path, family=Family.PROMPT) for revision, path in given]
    return tuple(found)


def policies(settings: GateSettings) -> list[Deployed]:
    """The bundles that judge sessions, the configured one first. `ConfigError` for a candidate that cannot be read."""
    found = [(settings.revision, bundle_path(settings.bundle))]
    if settings.candidate is not None:
        try:
            found.append((settings.candidate.revision, artefact_path(settings.candidate.bundle)))
        except BundleError as error:
            raise ConfigError(f"gate.candidate: {error}.") from error
    return [Deployed(POLICY_TARGET, revision, str(path), family=Family.POLICY) for revision, path in found]


def several(config: AppConfig) -> dict[Target, tuple[str, ...]]:
    """The revisions of all but engines of which there is more than one, the configured one first."""
    found: dict[Target, tuple[str, ...]] = {}
    for each in chosen(config):
        target = each.family, each.target
        found[target] = (*found.get(target, ()), each.revision)
    return {target: revisions for target, revisions in found.items() if len(revisions) > 1}


def loaders(config: AppConfig) -> dict[Kind, Loader]:
    """What loads artefacts that are no engine's, as their users will."""
    judge = partial(load_policy, config.gate, config.state_path / "policy-marks")
    return {Kind.ROUTER: load_snapshot, Kind.PROMPT: load_prompt, Kind.POLICY: judge}


def load_policy(settings: GateSettings, marks: Path, artefact: Artefact) -> None:
    """Load the candidate as every replica does, with its examples; `InvalidRequest` for one that may judge nobody."""
    del artefact  # that it is the candidate's was checked before: its path and its revision
    try:
        if load_candidate(settings, marks) is None:
            raise InvalidRequest("The configuration has no `gate.candidate`.", "revision")
    except BundleError as error:
        raise InvalidRequest(f"The policy is refused: {error}.", "path") from None


def load_snapshot(artefact: Artefact) -> None:
    """Load a snapshot as the router does; `InvalidRequest` for what is none."""
    path = Path(artefact.path)
    try:
        learned.load(path / artefact.files[0].path if path.is_dir() else path)
    except SnapshotError as error:
        raise InvalidRequest(f"{error}.", "path") from None


def engine(settings: AnyEngineSettings, source: str, vocabulary: str, device: Device) -> Application:
    """The deployment of one model; `source` is where its checkpoint lies on the replica's machine."""
    if isinstance(settings, EngineSettings):
        settings = settings.model_copy(
            update={"source": source, "honour_seeds": settings.honour_seeds and device != "cpu"}
        )
    match settings:
        case HybridSettings():  # before its base
            lacking = missing_package(pair=settings.prefill is not None)
            if lacking is not None:
                raise ConfigError(f"model {settings.model}: {lacking}.")
            cls, extra = HybridEngine, (vocabulary, device, *pair(settings, vocabulary, device))
            options = hybrid_options(settings, vocabulary, device)
        case EngineSettings():
            cls, extra, options = VLLMEngine, (), deployment_options(settings, vocabulary, device)
        case UpstreamSettings():
            cls, extra, options = UpstreamEngine, (environment,), upstream_options(settings)
        case SyntheticSettings():
            cls, extra, options = SyntheticEngine, (), serve_options(settings) | plain_actor(settings)
        case _:
            assert_never(settings)
    name = f"Engine:{settings.model}:{settings.revision}"
    return bind(cls, settings, *extra, name=name, **cast(dict[str, Any], options))


def pair(settings: HybridSettings, vocabulary: str, device: Device) -> tuple[Application, Half] | tuple[()]:
    """The prefill engines of a pair, and what the other engines are in it; nothing for a model without."""
    if settings.prefill is None:
        return ()
    ours, (reads, generates) = prefill_half(settings), halves(settings.prefill)
    app = bind(HybridEngine, ours, vocabulary, device, None, reads,
               name=f"Prefill:{settings.model}:{settings.revision}",
               **cast(dict[str, Any], hybrid_options(ours, vocabulary, device)))  # fmt: skip
    return app, generates


def parts(config: AppConfig) -> Parts:
    """What an ingress replica is made of, besides its handles."""
    created = int(time.time())  # noqa: TID251 - when this graph was built, for /v1/models
    return Parts(
        make_api=partial(create_api, behind_serve=True),
        make_classifier=partial(load_judges, config.gate, config.state_path / "policy-marks"),
        make_gate=partial(make_gate, config.ingress.audit_timeout_s, config.audit.bodies.keeps_arguments),
        make_canary=partial(make_canary, config.ingress.canary_s, config.gate.candidate),
        make_counters=partial(token_counters,
                              [model.engine.model for model in config.models if model.source and model.tier],
                              str(vocabulary_dir(config))),
        make_meter=partial(Counters, config.tenancy.prices.to_table()),
        make_route_meter=make_route_meter,
        guardrails=config.guardrails,
        make_guard_meter=make_guard_meter,
        make_tracing=partial(make_tracing, config.tracing),
        set_up=partial(set_up_logs, config.logs),
        codecs=make_codecs(
            {ModelId(model.engine.model): model.fim.template() for model in config.models if model.fim is not None},
            None if config.fim_model is None else ModelId(config.fim_model),
            config.fim_emulation,
        ),
        readers={dialect: read_completion if dialect is Dialect.COMPLETIONS else read_chat for dialect in Dialect},
        models=tuple(
            ServedModel(
                model=ModelId(model.engine.model),
                tier=None if model.tier is None else model.tier.value,
                kind=model.engine.kind_name,
                revision=model.engine.revision,
                max_model_len=model.engine.max_model_len or 131_072,
                demonstration=model.demonstration,
                created=created,
                local=model.local,
                may_be_cold=model.engine.scaling is not None and model.engine.scaling.min_replicas == 0,
                cold_start_s=model.engine.cold_start_s,
                fim=model.fim is not None,
                candidate=None if model.candidate is None else model.candidate.revision,
                dialects=frozenset({Dialect.EMBEDDINGS}) if model.embeddings else GENERATING,
            )
            for model in config.models
        ),
        settings=config.ingress,
        loaded=Loaded(config_digest(config), config.profile, CODE_VERSION),
        engine_timeout_s=max(each.request_deadline_s for model in config.models for each in model.engines) + 5,
        keeps_bodies=config.audit.bodies.keeps_all,
        prompts=prompts_of(config),
        several=several(config),
    )  # fmt: skip


def config_digest(config: AppConfig) -> str:
    """SHA-256 hex of the configuration in canonical JSON (RFC 8785)."""
    return sha256(rfc8785.dumps(config.model_dump(mode="json"))).hexdigest()


def load_classifier(settings: GateSettings, marks: Path) -> Classifier:
    """The gate's classifier over a checked bundle; `BundleError` fails the replica's start.

    `marks` is where this machine remembers which bundles' examples have passed. A shadow bundle that cannot be loaded
    stops nothing: it is said in the log and in `/metrics`.
    """
    live = load_bundle(settings.bundle, marks, None if settings.bundle_key is None else Path(settings.bundle_key))
    live = with_tenants(live, settings.tenants)
    if settings.shadow_bundle is None:
        return Classifier(live)
    try:
        candidate = with_tenants(load_bundle(settings.shadow_bundle, marks), settings.tenants)
        return ShadowedClassifier(live, candidate)
    except BundleError as error:
        _log.error("the shadow bundle is refused, no call is judged by it: %s", error)
        return ShadowedClassifier(live, None)


def load_judges(settings: GateSettings, marks: Path) -> Judges:
    """The gate's classifiers over checked bundles: the configured one's, and the candidate's where there is one.

    `BundleError` fails the replica's start, whichever of them it is of.
    """
    live, candidate = load_classifier(settings, marks), load_candidate(settings, marks)
    if candidate is None or settings.candidate is None:
        return Judges(live, settings.revision)
    other = live.beside(candidate) if isinstance(live, ShadowedClassifier) else Classifier(candidate)
    return Judges(live, settings.revision, {settings.candidate.revision: other})


def make_gate(
    audit_timeout_s: float,
    keeps_arguments: Keeps,
    classifier: object,
    approvals: Approvals,
    audit: Audit,
    clock: Clock,
) -> Gate:
    """The in-process gate of an ingress replica."""
    return Guard(judges_of(classifier), approvals, audit, clock, audit_timeout_s, keeps_arguments=keeps_arguments)


def make_canary(
    every_s: float, candidate: CandidateSettings | None, gate: Gate, approvals: Approvals, clock: Clock
) -> Canary:
    """What tries the gate of an ingress replica, under every policy that is live."""
    return Canary(gate, approvals, clock, every_s, policies=("", *([] if candidate is None else [candidate.revision])))


def make_tracing(settings: TracingSettings) -> Tracing:
    """What traces the requests of an ingress replica; OpenTelemetry is imported only where it is wanted."""
    if settings.endpoint is None:
        return Untraced()
    try:
        from serve_app.tracing import to_collector
    except ModuleNotFoundError as error:
        raise ConfigError("tracing.endpoint needs the extra otel: pip install 'gatehouse-serving[otel]'.") from error
    return to_collector(settings, settings.endpoint)


def set_up_logs(settings: LogSettings) -> None:
    """How this process writes its log."""
    if settings.encoding == "json":
        write_json(sys.stderr)


def running(config: AppConfig) -> Running:
    """Which configuration this is: the gate records when another one has taken its place."""
    models = tuple(f"{each.model}:{each.revision}" for model in config.models for each in model.engines)
    return Running(config_digest(config), config.profile, models, CODE_VERSION, config.change_id)


def small(config: ReplicaConfig) -> dict[str, Any]:
    """Serve's options of a deployment without a model."""
    return {
        "num_replicas": config.replicas,
        "max_ongoing_requests": config.max_ongoing_requests,
        "health_check_period_s": 5.0,
        "ray_actor_options": {"num_cpus": config.num_cpus},
    }
