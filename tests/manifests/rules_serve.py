"""Rules about the application in the RayService: Serve's schema, our settings, and a pod for each part."""

import re
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import PurePosixPath
from typing import Any, get_args

from pydantic import BaseModel

from deployments.engine.options import EngineSettings
from serve_app.cli.manifest_parts import IN_THE_IMAGE, replicas
from serve_app.config import AppConfig, ConfigError
from tests.manifests.kube import ROOT, World, quantity

STATEFUL = {"AuditSink": "audit_replicas", "Ledger": "ledger_replicas", "PolicyGate": "gate_replicas",
            "DifficultyRouter": "difficulty_replicas", "ResponseStore": "responses_replicas",
            "RolloutController": "rollout_replicas"}  # fmt: skip


def _unknown(value: Any, model: type[BaseModel], path: str) -> Iterator[str]:
    """Keys that Serve's models ignore without a word."""
    for key, each in value.items():
        if key not in model.model_fields:
            yield f"Serve does not know {path}.{key}"
            continue
        inner = _models(model.model_fields[key].annotation)
        for item in each if isinstance(each, list) else [each]:
            if inner and isinstance(item, dict):
                yield from _unknown(item, inner[0], f"{path}.{key}")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for each in get_args(annotation) for found in _models(each)]


@cache
def _serve_schema() -> type[BaseModel]:
    from ray.serve.schema import ServeDeploySchema

    return ServeDeploySchema


def serve_schema(world: World) -> Iterator[str]:
    """What the operator submits is a Serve config, with no key that Serve would ignore."""
    try:
        _serve_schema().model_validate(world.serve)
    except ValueError as error:
        yield f"Serve refuses it: {error}"
    yield from _unknown(world.serve, _serve_schema(), "serveConfigV2")


def app_settings(world: World) -> Iterator[str]:
    """The application's settings are ours."""
    try:
        _ = world.config
    except ConfigError as error:
        yield str(error)
    if world.application.get("import_path") != "serve_app.app:build":
        yield "it starts another application"
    if world.application.get("route_prefix") != "/" or "runtime_env" in world.application:
        yield "the application is at /, from the image"


def listens(world: World) -> Iterator[str]:
    """On every pod that has a replica; HeadOnly would leave each worker unready."""
    if world.serve.get("proxy_location") != "EveryNode":
        yield "proxy_location must be EveryNode"
    http = world.serve.get("http_options", {})
    if (http.get("host"), http.get("port")) != ("0.0.0.0", 8000):  # noqa: S104 - in a pod
        yield f"Serve listens on {http}"


def wanted(config: AppConfig) -> dict[str, tuple[int, int]]:
    """Deployment -> fewest and most replicas, as the graph has them."""
    found = {"Ingress": (config.ingress_replicas.replicas,) * 2}
    found |= {name: (getattr(config, field).replicas,) * 2 for name, field in STATEFUL.items()}
    for settings in (each for model in config.models for each in model.engines):
        assert isinstance(settings, EngineSettings)
        found[f"Engine:{settings.model}:{settings.revision}"] = replicas(settings)
    return found


def deployments(world: World) -> Iterator[str]:
    """Every deployment of the graph is placed, and nothing else is: Serve refuses a name that it does not find."""
    placed = [each["name"] for each in world.application.get("deployments", [])]
    if sorted(placed) != sorted(wanted(world.config)):
        yield f"placed are {sorted(placed)}, the graph has {sorted(wanted(world.config))}"


def node_types(world: World) -> dict[str, dict[str, Any]]:
    """The groups as Ray's own autoscaler reads them: resources, labels, bounds."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _generate_available_node_types_from_ray_cr_spec

    return _generate_available_node_types_from_ray_cr_spec(world.cluster)


def demand(world: World) -> dict[str, tuple[dict[str, Decimal], dict[str, str]]]:
    """Deployment -> what one replica asks for, and of which nodes."""
    found: dict[str, tuple[dict[str, Decimal], dict[str, str]]] = {}
    for each in world.application["deployments"]:
        options = each["ray_actor_options"]
        asked = {
            "CPU": options.get("num_cpus", 1),
            "GPU": options.get("num_gpus", 0),
            "memory": options.get("memory", 0),
        }
        asked |= options.get("resources", {})
        found[each["name"]] = (
            {key: Decimal(str(value)) for key, value in asked.items() if value},
            options.get("label_selector", {}),
        )
    return found


def placement(world: World) -> Iterator[str]:
    """One replica fits a pod, the fewest fit the pods that always run, the most fit all pods there may be.

    Each deployment asks for a resource that one kind of group has, so that groups are looked at one kind after another.
    """
    types, asked, counts = node_types(world), demand(world), wanted(world.config)
    homes: dict[tuple[str, ...], list[str]] = {}
    for name, (needs, labels) in asked.items():
        fits = tuple(
            group for group, kind in types.items()
            if all(kind["resources"].get(key, 0) >= value for key, value in needs.items())
            and all(kind["labels"].get(key) == value for key, value in labels.items())
        )  # fmt: skip
        if not fits:
            yield f"{name}: no pod of any group holds {dict(needs)}"
        elif "headgroup" in fits:
            yield f"{name} could run on the head"
        homes.setdefault(fits, []).append(name)
    for groups, names in homes.items():
        for others in homes:
            if groups != others and set(groups) & set(others):
                yield f"{names} may take the room of {homes[others]} in {sorted(set(groups) & set(others))}"
        for which, at in (("min_workers", 0), ("max_workers", 1)):
            room: dict[str, Decimal] = {}
            for group in groups:
                for key, value in types[group]["resources"].items():
                    room[key] = room.get(key, Decimal(0)) + types[group][which] * Decimal(str(value))
            for key in {key for name in names for key in asked[name][0]}:
                needed = sum(asked[name][0].get(key, Decimal(0)) * counts.get(name, (0, 0))[at] for name in names)
                if needed > room.get(key, 0):
                    yield f"{names}: {which} of {groups} have {room.get(key, 0)} {key}, {needed} are needed"


def tensor_parallel(world: World) -> Iterator[str]:
    """All GPUs of an engine are in one pod, no pod has GPUs that its engine leaves idle, shared memory is enough."""
    for model, settings in ((one, each) for one in world.config.models for each in one.engines):
        assert isinstance(settings, EngineSettings)
        ranks = settings.tensor_parallel_size
        for group in world.groups:
            if model.tier is None or not group["groupName"].startswith(f"gpu-{model.tier.value}"):
                continue
            spec = group["template"]["spec"]
            gpus = quantity(spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))
            if gpus != ranks:
                yield f"{group['groupName']}: {gpus} GPUs for an engine of {ranks}"
            shared = [each["emptyDir"] for each in spec["volumes"] if each["name"] == "shm"]
            if not shared or "sizeLimit" not in shared[0] or quantity(shared[0]["sizeLimit"]) < ranks * 2 * 2**30:
                yield f"{group['groupName']}: /dev/shm needs its own limit, 2Gi for each of {ranks} ranks"
    if any(settings.get("placement_group_bundles") for settings in world.application["deployments"]):
        yield "an engine of one pod is one actor, without a placement group"


def one_state(world: World) -> Iterator[str]:
    """What writes the log and the SQLite files is in the one pod that has the volume."""
    group = world.group("state")
    if (group["minReplicas"], group["maxReplicas"]) != (1, 1):
        yield "there is exactly one pod with the state"
    for name, (needs, _) in demand(world).items():
        if (name in STATEFUL) != ("gatehouse-state" in needs):
            yield f"{name} {'must' if name in STATEFUL else 'must not'} be where the state is"
    claims = {name for name, where in _claims(world).items() if "gatehouse-state" in where}
    if claims != {"state"}:
        yield f"the state is mounted by {sorted(claims)}"


def _claims(world: World) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for pod in world.ray_pods:
        volumes = [
            each["persistentVolumeClaim"] for each in pod.spec.get("volumes", []) if "persistentVolumeClaim" in each
        ]
        found[str(pod.part)] = {each["claimName"] for each in volumes}
    return found


def claims_exist(world: World) -> Iterator[str]:
    """Every claim that a pod names is there."""
    there = {each["metadata"]["name"] for each in world.kind("PersistentVolumeClaim")}
    for part, names in _claims(world).items():
        yield from (f"{part}: there is no claim {name}" for name in sorted(names - there))


def files(world: World) -> Iterator[str]:
    """Each path in the settings is mounted where the part that reads it runs, or is in the image."""
    config = world.config
    state = world.group("state")["template"]["spec"]["containers"][0]["volumeMounts"]
    for path in (config.state_dir, config.audit.signing_key_file, config.audit.vault_key_file):
        if path is not None and not _mounted(path, state):
            yield f"nothing is mounted at {path}, where the state is"
    of_the_image = (config.routing_policy, config.gate.bundle, config.gate.shadow_bundle, config.rollout.eval.suite)
    for path in of_the_image:
        inside = None if path is None else path.removeprefix(f"{IN_THE_IMAGE}/")
        if inside is not None and (inside == path or not (ROOT / inside).is_file()):
            yield f"{path} is not in the image"
    if config.vocabulary_dir != f"{IN_THE_IMAGE}/vocabulary":
        yield f"the vocabulary is not at {config.vocabulary_dir}"
    for model, settings in ((one, each) for one in config.models for each in one.engines):
        assert isinstance(settings, EngineSettings)
        for group in world.groups:
            mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
            ours = model.tier is not None and group["groupName"].startswith(f"gpu-{model.tier.value}")
            if ours and not settings.source.startswith("s3://"):
                found = _mounted(settings.source, mounts)
                if found is None or found.get("readOnly") is not True:
                    yield f"{group['groupName']}: {settings.source} is not mounted read-only"


def _mounted(path: str, mounts: list[dict[str, Any]]) -> dict[str, Any] | None:
    parents = {str(each) for each in (PurePosixPath(path), *PurePosixPath(path).parents)} - {"/"}
    return next((each for each in mounts if each["mountPath"] in parents and each["name"] != "tmp"), None)


def built_where_weights_are(world: World) -> Iterator[str]:
    """Serve builds the application where all selectors agree, and building looks for the checkpoints."""
    selectors = [labels for _, labels in demand(world).values() if labels]
    if not selectors or any(each != selectors[0] for each in selectors):
        yield "the engines' label selectors differ, so the application may be built where there is no checkpoint"
        return
    for name, kind in node_types(world).items():
        chosen = all(kind["labels"].get(key) == value for key, value in selectors[0].items())
        if chosen != (kind["resources"].get("GPU", 0) > 0):
            yield f"{name}: the label of checkpoints and the GPUs do not go together"


def no_password(world: World) -> Iterator[str]:
    """The state store's address has no password in it."""
    if re.search(r"://[^/@\s]*:[^/@\s]+@", world.service["spec"]["serveConfigV2"]):
        yield "there is a password in serveConfigV2"
    if world.config.store_url and "sslmode=verify-full" not in world.config.store_url:
        yield "the database is not asked who it is"
