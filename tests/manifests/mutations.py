"""For every rule, manifests that are broken in exactly the way that it is there to find."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import yaml

from tests.manifests.kube import Tree, World

Mutation = Callable[[World], None]


def mutated(world: World, mutation: Mutation) -> World:
    """A copy of the overlay, broken."""
    copy = World(deepcopy(list(world.documents)))
    mutation(copy)
    return World(list(copy.documents))  # nothing that was derived before stays


def _at(tree: Any, path: str) -> tuple[Any, Any]:
    """The holder of a path and its last key; `a.0.b` steps through lists, `/` within a key stays."""
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    for step in steps:
        tree = tree[step]
    return tree, last


def put(path: str, value: object, kind: str = "RayService", name: str = "gatehouse") -> Mutation:
    """Set a field of a document."""

    def mutate(world: World) -> None:
        holder, key = _at(world.named(kind, name), path)
        holder[key] = value

    return mutate


def drop(path: str, kind: str = "RayService", name: str = "gatehouse") -> Mutation:
    """Take a field of a document away."""

    def mutate(world: World) -> None:
        holder, key = _at(world.named(kind, name), path)
        del holder[key]

    return mutate


def without(kind: str, name: str) -> Mutation:
    """Take a document away."""

    def mutate(world: World) -> None:
        found = world.named(kind, name)
        world.documents.remove(found)  # type: ignore[attr-defined]

    return mutate


def more(document: Tree) -> Mutation:
    """Add a document."""
    return lambda world: world.documents.append(document)  # type: ignore[attr-defined]


def served(change: Callable[[Tree], object]) -> Mutation:
    """Change what is in serveConfigV2."""

    def mutate(world: World) -> None:
        document = yaml.safe_load(world.service["spec"]["serveConfigV2"])
        change(document)
        world.service["spec"]["serveConfigV2"] = yaml.safe_dump(document, sort_keys=False)

    return mutate


def args(path: str, value: object) -> Mutation:
    """Change a setting of the application."""

    def change(document: Tree) -> None:
        holder, key = _at(document["applications"][0]["args"], path)
        holder[key] = value

    return served(change)


def placed(name: str, path: str, value: object) -> Mutation:
    """Change the placement of one deployment."""

    def change(document: Tree) -> None:
        (found,) = [each for each in document["applications"][0]["deployments"] if each["name"].startswith(name)]
        holder, key = _at(found, path)
        holder[key] = value

    return served(change)


def group(name: str, path: str, value: object) -> Mutation:
    """Change a group of workers."""

    def mutate(world: World) -> None:
        holder, key = _at(world.group(name), path)
        holder[key] = value

    return mutate


def ungroup(name: str, path: str) -> Mutation:
    """Take a field of a group of workers away."""

    def mutate(world: World) -> None:
        holder, key = _at(world.group(name), path)
        del holder[key]

    return mutate


def env(group_name: str, variable: Tree) -> Mutation:
    """Give the Ray container of a group one more variable, or another value of one."""

    def mutate(world: World) -> None:
        container = world.group(group_name)["template"]["spec"]["containers"][0]
        container["env"] = [each for each in container["env"] if each["name"] != variable["name"]] + [variable]

    return mutate


_C = "spec.rayClusterConfig"
_HEAD = f"{_C}.headGroupSpec"
_POD = "template.spec"
_RAY = "template.spec.containers.0"
_STEPS = {"gatewayClassName": "g", "stepSizePercent": 5, "intervalSeconds": 10, "maxSurgePercent": 30}
_INCREMENTAL = {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": _STEPS}
_SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "x", "namespace": "gatehouse"},
    "data": {"a": "Yg=="},
}
_OPEN = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "x", "namespace": "gatehouse"},
    "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]},
}

MUTATIONS: Mapping[str, Sequence[Mutation]] = {
    "structure": [
        put(f"{_C}.autoscalerOptions.version", "v3"),
        put(f"{_HEAD}.rayStartParams.num-cpus", 0),
        put("spec.upgradeStrategie", {}),
        group("edge", f"{_POD}.terminationGracePeriodSecond", 5),
        put("spec.policyType", ["Ingress"], "NetworkPolicy", "dns"),
        put("spec.podMetricsEndpoints.0.ports", "x", "PodMonitor", "gatehouse"),
        put("spec.data.0.secretkey", "x", "ExternalSecret", "gatehouse-keys"),
        more({"apiVersion": "v1", "kind": "Unheard", "metadata": {"name": "x", "namespace": "gatehouse"}}),
    ],
    "no_null": [put("metadata.annotations", None)],
    "names": [put("metadata.name", "g" * 48), put("metadata.name", "1st")],
    "documents_once": [
        more(_OPEN | {"metadata": {"name": "dns", "namespace": "gatehouse"}}),
        put("metadata.namespace", "default"),
    ],
    "upgrade": [
        put("spec.upgradeStrategy", {"type": "NewCluster"}),
        put("spec.upgradeStrategy", {"type": "Rolling"}),
        put("spec.upgradeStrategy", _INCREMENTAL),
    ],
    "autoscaler": [
        put(f"{_C}.autoscalerOptions.version", "v1"),
        put(f"{_C}.enableInTreeAutoscaling", False),
        group("edge", f"{_POD}.restartPolicy", "Always"),
    ],
    "group_bounds": [
        ungroup("gpu-20b", "maxReplicas"),
        group("gpu-20b", "minReplicas", 9),
        group("gpu-20b", "replicas", 2),
        group("gpu-120b", "numOfHosts", 2),
        group("gpu-120b", "groupName", "gpu-20b"),
        group("edge", "groupName", "Edge"),
    ],
    "start_params": [group("edge", "rayStartParams.resources", '"{}"'), group("edge", "rayStartParams.labels", "a=b")],
    "head_is_idle": [
        put(f"{_HEAD}.rayStartParams.num-cpus", "4"),
        put("spec.excludeHeadPodFromServeSvc", False),
        put(f"{_HEAD}.{_RAY}.resources.limits", {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}),
        put(f"{_HEAD}.{_RAY}.ports.2.name", "http"),
    ],
    "object_store": [
        group("edge", "rayStartParams", {}),
        group("edge", "rayStartParams.object-store-memory", "5368709120"),
    ],
    "fault_tolerance": [
        put(f"{_C}.gcsFaultToleranceOptions.redisAddress", "redis://redis:6379"),
        put(f"{_C}.gcsFaultToleranceOptions.externalStorageNamespace", "mine"),
        put(f"{_C}.gcsFaultToleranceOptions.redisPassword", {"value": "hunter2"}),
        env("edge", {"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}),
    ],
    "token": [
        put(f"{_C}.authOptions", {}),
        put(f"{_C}.authOptions.mode", "disabled"),
        put(f"{_C}.rayVersion", "2.51.0"),
    ],
    "ray_version": [put(f"{_C}.rayVersion", "2.59.0")],
    "feature_gates": [
        put(f"{_C}.networkPolicy", {"mode": "DenyAll"}),
        put(f"{_C}.gcsFaultToleranceOptions.backend", "rocksdb"),
    ],
    "tls_is_the_operators": [env("gpu-20b", {"name": "RAY_USE_TLS", "value": "0"})],
    "dead_settings": [
        put("spec.serviceUnhealthySecondThreshold", 900),
        put("metadata.annotations", {"ray.io/initializing-timeout": "5m"}),
        put("spec.suspend", True),
    ],
    "timeouts": [
        placed("Ingress", "graceful_shutdown_timeout_s", 20),
        args("models.0.engine.drain_s", 30.0),
        args("models.1.engine.request_deadline_s", 3600.0),
        env("gpu-120b", {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "30"}),
        ungroup("edge", f"{_POD}.terminationGracePeriodSeconds"),
        env("state", {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "10"}),
        put("spec.rayClusterDeletionDelaySeconds", 60),
        group("edge", f"{_RAY}.lifecycle", {"preStop": {"exec": {"command": ["ray stop"]}}}),
        served(lambda document: document["http_options"].update(request_timeout_s=60)),
        env("edge", {"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": "60"}),
    ],
    "budgets": [
        put("spec.minAvailable", "50%", "PodDisruptionBudget", "gatehouse-edge"),
        put("spec.minAvailable", 9, "PodDisruptionBudget", "gatehouse-edge"),
        put("spec.selector.matchLabels", {"gatehouse/part": "nobody"}, "PodDisruptionBudget", "gatehouse-edge"),
        without("PodDisruptionBudget", "gatehouse-head"),
    ],
    "serve_schema": [
        served(lambda document: document.update(proxy_locations="EveryNode")),
        served(lambda document: document["applications"][0]["deployments"][0].update(num_replica=3)),
        served(lambda document: document["applications"][0]["deployments"][0].update(max_ongoing_requests=-1)),
        placed("Ingress", "ray_actor_options.label_selectors", {}),
    ],
    "app_settings": [
        args("gatee", {}),
        args("models.0.engine.max_model_len", "long"),
        served(lambda document: document["applications"][0].update(import_path="serve_app.app:other")),
    ],
    "listens": [
        served(lambda document: document.update(proxy_location="HeadOnly")),
        served(lambda document: document["http_options"].update(host="127.0.0.1")),
    ],
    "deployments": [
        served(lambda document: document["applications"][0]["deployments"].pop()),
        args("models.0.engine.revision", "r2"),
    ],
    "placement": [
        placed("Engine:gpt-oss-120b", "ray_actor_options.num_gpus", 4),
        placed("Engine:gpt-oss-20b", "ray_actor_options.num_cpus", 64),
        placed("Ingress", "ray_actor_options.resources", {}),
        args("models.0.engine.scaling.max_replicas", 9),
        args("ingress_replicas.replicas", 6),
        group("gpu-20b", "minReplicas", 1),
        group("gpu-20b", "labels", {}),
    ],
    "tensor_parallel": [
        args("models.1.engine.tensor_parallel_size", 8),
        group("gpu-120b", f"{_POD}.volumes.1", {"name": "shm", "emptyDir": {"medium": "Memory"}}),
        placed("Engine:gpt-oss-120b", "placement_group_bundles", [{"GPU": 1}, {"GPU": 1}]),
    ],
    "one_state": [
        group("state", "maxReplicas", 2),
        placed("AuditSink", "ray_actor_options.resources", {}),
        group("edge", f"{_POD}.volumes.0", {"name": "x", "persistentVolumeClaim": {"claimName": "gatehouse-state"}}),
    ],
    "claims_exist": [without("PersistentVolumeClaim", "gatehouse-state")],
    "files": [
        args("audit.signing_key_file", "/var/elsewhere/log.key"),
        args("state_dir", "/data"),
        args("routing_policy", "configs/policies/routing-v1.yaml"),
        args("routing_policy", "/opt/gatehouse/configs/policies/none.yaml"),
        args("rollout.eval.suite", "configs/evals/coding-ops.jsonl"),
        args("models.0.engine.source", "/weights/gpt-oss-20b"),
        args("vocabulary_dir", "/models/vocabulary"),
    ],
    "built_where_weights_are": [
        placed("Engine:gpt-oss-20b", "ray_actor_options.label_selector", {"a": "b"}),
        group("edge", "labels", {"gatehouse-weights": "mounted"}),
    ],
    "no_password": [
        args("store_url", "postgresql+psycopg://gatehouse:hunter2@db:5432/gatehouse?sslmode=verify-full"),
        args("store_url", "postgresql+psycopg://gatehouse@db:5432/gatehouse"),
    ],
    "restricted": [
        drop(f"{_C}.autoscalerOptions.securityContext"),
        ungroup("edge", f"{_RAY}.securityContext"),
        group("edge", f"{_RAY}.securityContext.capabilities", {"drop": ["ALL"], "add": ["NET_ADMIN"]}),
        group("edge", f"{_RAY}.securityContext.readOnlyRootFilesystem", False),
        group("edge", f"{_POD}.hostNetwork", True),
        group("gpu-20b", f"{_POD}.volumes.0", {"name": "tmp", "hostPath": {"path": "/srv"}}),
        ungroup("state", f"{_POD}.securityContext.seccompProfile"),
        group("state", f"{_POD}.securityContext.runAsUser", 0),
    ],
    "namespaces": [put("metadata.labels", {}, "Namespace")],
    "limits": [
        ungroup("edge", f"{_RAY}.resources.limits"),
        group("gpu-20b", f"{_RAY}.resources.requests.memory", "1Gi"),
        group("edge", f"{_POD}.volumes.0.emptyDir", {}),
    ],
    "digests": [
        group("edge", f"{_RAY}.image", "registry.example.org/gatehouse:latest"),
        put(f"{_C}.autoscalerOptions.image", "rayproject/ray:2.60.0"),
    ],
    "no_inline_secret": [
        more(_SECRET),
        env("edge", {"name": "PGPASSWORD", "value": "hunter2"}),
        put(f"{_C}.gcsFaultToleranceOptions.redisPassword", {"value": "hunter2"}),
        put("metadata.annotations", {"a": "-----BEGIN PRIVATE KEY-----"}),
    ],
    "secrets_come_from_outside": [
        without("ExternalSecret", "gatehouse-redis"),
        put("spec.data", [], "ExternalSecret", "gatehouse-ray-auth"),
        put("spec.data.0.secretKey", "log.pem", "ExternalSecret", "gatehouse-keys"),
        group("gpu-20b", f"{_RAY}.envFrom", [{"secretRef": {"name": "extra"}}]),
    ],
    "keys_stay_closed": [
        ungroup("state", f"{_POD}.securityContext.fsGroupChangePolicy"),
        group("state", f"{_POD}.volumes.3", {"name": "keys", "secret": {"secretName": "gatehouse-keys"}}),
    ],
    "identities": [
        group("edge", f"{_POD}.automountServiceAccountToken", True),
        ungroup("edge", f"{_POD}.serviceAccountName"),
        put("rules.0.resources", ["secrets"], "Role", "gatehouse-oncall"),
        without("ServiceAccount", "gatehouse-head"),
    ],
    "bindings": [
        put("roleRef.name", "other", "RoleBinding", "gatehouse-oncall"),
        put("roleRef", {"kind": "ClusterRole", "name": "admin"}, "RoleBinding", "gatehouse-oncall"),
        put("subjects.0", {"kind": "ServiceAccount", "name": "x", "namespace": "gatehouse"}, "RoleBinding",
            "gatehouse-oncall"),
        put("subjects.0.name", "system:authenticated", "RoleBinding", "gatehouse-oncall"),
        put("subjects.0", {"kind": "User", "name": "ann"}, "RoleBinding", "gatehouse-oncall"),
    ],
    "settings_come_from_somewhere": [
        group("edge", f"{_RAY}.envFrom", [{"configMapRef": {"name": "extra"}}]),
        group("edge", f"{_POD}.volumes.0", {"name": "x", "configMap": {"name": "extra"}}),
    ],
    "offline": [env("gpu-20b", {"name": "HF_HUB_OFFLINE", "value": "0"}), group("edge", f"{_RAY}.env", [])],
    "priorities": [
        group("state", f"{_POD}.priorityClassName", "gatehouse-20b"),
        without("PriorityClass", "gatehouse-edge"),
        put("globalDefault", True, "PriorityClass", "gatehouse-20b"),
    ],
    "spread": [
        ungroup("edge", f"{_POD}.topologySpreadConstraints"),
        ungroup("edge", f"{_POD}.topologySpreadConstraints.0.nodeTaintsPolicy"),
        put(f"{_HEAD}.template.metadata.annotations", {}),
        group("gpu-20b", f"{_POD}.topologySpreadConstraints.0.labelSelector", {"matchLabels": {"a": "b"}}),
    ],
    "spot": [
        ungroup("gpu-20b-spot", f"{_POD}.nodeSelector"),
        group("gpu-20b-spot", f"{_POD}.tolerations", []),
        group("gpu-120b", f"{_POD}.nodeSelector", {"gatehouse/spot": "true"}),
        group("state", f"{_POD}.tolerations", [{"key": "gatehouse/spot", "operator": "Exists"}]),
    ],
    "readiness": [
        ungroup("edge", f"{_RAY}.readinessProbe"),
        group("gpu-20b", f"{_RAY}.readinessProbe.failureThreshold", 1),
    ],
    "services": [
        put("spec.selector", {"app": "gatehouse"}, "Service"),
        put("spec.ports.0.targetPort", "https", "Service"),
        put("spec.selector", {"gatehouse/ray": "member"}, "Service"),
        put("spec.type", "LoadBalancer", "Service"),
    ],
    "monitors": [
        put("spec.podMetricsEndpoints.0.port", "http", "PodMonitor", "gatehouse"),
        put("spec.selector.matchLabels", {"a": "b"}, "PodMonitor", "gatehouse-ray"),
        without("NetworkPolicy", "prometheus"),
    ],
    "dashboards": [
        without("ConfigMap", "gatehouse-dashboard-routing"),
        put("metadata.labels", {}, "ConfigMap", "gatehouse-dashboard-on-call"),
        put("data", {"gatehouse-evidence.json": "{}"}, "ConfigMap", "gatehouse-dashboard-evidence"),
        put("data", {"gatehouse-mine.json": "{}"}, "ConfigMap", "gatehouse-dashboard-budgets"),
    ],
    "alerts": [
        without("PrometheusRule", "gatehouse"),
        drop("spec.groups.0.rules.0", "PrometheusRule", "gatehouse"),
        put("spec.groups.0.rules.0.for", "9h", "PrometheusRule", "gatehouse"),
    ],
    "quota": [
        put("spec.hard.pods", "3", "ResourceQuota"),
        put("spec.hard", {"requests.nvidia.com/gpu": "1", "pods": "99"}, "ResourceQuota"),
    ],
    "closed_by_default": [
        without("NetworkPolicy", "default-deny"),
        put("spec.podSelector", {"matchLabels": {"a": "b"}}, "NetworkPolicy", "default-deny"),
        put("spec.policyTypes", ["Ingress"], "NetworkPolicy", "default-deny"),
        more(_OPEN),
        put("spec.egress.0.to.0.ipBlock.cidr", "0.0.0.0/0", "NetworkPolicy", "head-to-apiserver"),
        put("spec.ingress.0.from.0", {"namespaceSelector": {}}, "NetworkPolicy", "gateway-to-edge"),
        drop("spec.ingress.0.ports", "NetworkPolicy", "gateway-to-edge"),
    ],
}  # fmt: skip
