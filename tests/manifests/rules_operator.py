"""Rules about the RayService itself. KubeRay's CRD holds three; the others are its controller's, restated here."""

import re
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise

import yaml

from tests.manifests.kube import KUBERAY, World, matches, quantity, walk
from tests.manifests.schema import problems

_STRATEGIES = {"None", "NewCluster", "NewClusterWithIncrementalUpgrade"}
_OWNED_BY_RESOURCES = {"num-cpus", "num-gpus", "memory", "resources"}


def structure(world: World) -> Iterator[str]:
    """Every document, and every pod that comes of it, has known fields of the right type."""
    for each in (*world.documents, *(pod.object() for pod in world.pods)):
        yield from problems(each)


def no_null(world: World) -> Iterator[str]:
    """A field without a value is a mistake, which the API server takes for the default."""
    for each in world.documents:
        yield from (f"{each['kind']}{path} is null" for path, value in walk(each) if value is None)


def names(world: World) -> Iterator[str]:
    """At most 47 characters, so that what the operator derives from it is a name as well."""
    name = world.service["metadata"]["name"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", name):
        yield f"the RayService cannot be called {name}"
    if "name" in world.cluster["headGroupSpec"].get("headService", {}).get("metadata", {}):
        yield "headService has a name"


def documents_once(world: World) -> Iterator[str]:
    """Each object is there once, and in a namespace that is."""
    seen: set[tuple[str, str, str]] = set()
    spaces = {each["metadata"]["name"] for each in world.kind("Namespace")}
    for each in world.documents:
        key = (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
        if key in seen:
            yield f"{key} is there twice"
        seen.add(key)
        if each["kind"] not in {"Namespace", "PriorityClass"} and key[1] not in spaces:
            yield f"{key} is in no namespace of ours"


def upgrade(world: World) -> Iterator[str]:
    """One generation at a time; or two by steps, resting, with a log for each."""
    spec = world.service["spec"]
    strategy = spec.get("upgradeStrategy", {})
    kind = strategy.get("type")
    if kind not in _STRATEGIES:
        yield f"upgradeStrategy.type is {kind}"
    if kind == "NewCluster":
        yield "a second cluster beside the first is a second writer of the audit log"
    if kind == "NewClusterWithIncrementalUpgrade":
        options = strategy.get("clusterUpgradeOptions") or {}
        step, surge, interval = (options.get(key) for key in ("stepSizePercent", "maxSurgePercent", "intervalSeconds"))
        surge = 100 if surge is None else surge
        if not world.cluster.get("enableInTreeAutoscaling"):
            yield "an incremental upgrade needs the autoscaler"
        if step is None or interval is None or not options.get("gatewayClassName"):
            yield "an incremental upgrade needs gatewayClassName, stepSizePercent and intervalSeconds"
            return
        if not 0 <= step <= surge <= 100 or interval <= 0:
            yield f"0 <= step {step} <= surge {surge} <= 100 and interval {interval} > 0 do not hold"
        if step != 0 or interval < 86_400:
            yield "at rest an upgrade must not move by itself: step 0, interval a day"
        if surge == 0 or 100 % surge:
            yield f"a surge of {surge} does not divide 100"
        mounts = world.group("state")["template"]["spec"]["containers"][0]["volumeMounts"]
        for path in ("/var/lib/gatehouse/audit", "/var/lib/gatehouse/audit-keys"):
            if not any(each["mountPath"] == path and "GENERATION" in each.get("subPathExpr", "") for each in mounts):
                yield f"two generations share {path}"
        if world.config.store_url is None:
            yield "two generations share SQLite files"
        if "ReadWriteMany" not in world.named("PersistentVolumeClaim", "gatehouse-state")["spec"]["accessModes"]:
            yield "two generations cannot mount the state"


def autoscaler(world: World) -> Iterator[str]:
    """v2; the first version kills nodes when the API server is slow."""
    options = world.cluster.get("autoscalerOptions", {})
    if not world.cluster.get("enableInTreeAutoscaling") or options.get("version") != "v2":
        yield "the autoscaler must be on, and v2"
    for group in (world.cluster["headGroupSpec"], *world.groups):
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{group.get('groupName', 'head')}: autoscaler v2 wants restartPolicy Never"
        if options.get("version") != "v2" and {"idleTimeoutSeconds", "priority"} & group.keys():
            yield f"{group.get('groupName')}: idleTimeoutSeconds and priority need autoscaler v2"


def group_bounds(world: World) -> Iterator[str]:
    """Bounds are written down: the default of maxReplicas is two thousand million."""
    names_ = [group["groupName"] for group in world.groups]
    if len(set(names_)) != len(names_) or "headgroup" in names_:
        yield f"names of groups are not unique: {names_}"
    for group in world.groups:
        least, most, name = group.get("minReplicas"), group.get("maxReplicas"), group["groupName"]
        if least is None or most is None or not 0 <= least <= most <= 64 or most == 0:
            yield f"{name}: minReplicas {least}, maxReplicas {most}"
        if "replicas" in group:
            yield f"{name}: `replicas` is what a new version of the operator resets the group to"
        if group.get("numOfHosts", 1) != 1 or group.get("suspend"):
            yield f"{name}: one host a replica, and not suspended"
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
            yield f"a group cannot be called {name}"


def start_params(world: World) -> Iterator[str]:
    """Resources are said in one place."""
    for group in (world.cluster["headGroupSpec"], *world.groups):
        params, name = group.get("rayStartParams", {}), group.get("groupName", "head")
        if group.get("resources") and _OWNED_BY_RESOURCES & params.keys():
            yield f"{name}: `resources` and rayStartParams contradict each other"
        if {"labels", "redis-password", "redis-username"} & params.keys():
            yield f"{name}: labels and Redis credentials do not belong into rayStartParams"


def head_is_idle(world: World) -> Iterator[str]:
    """The head schedules, and nothing else."""
    params = world.cluster["headGroupSpec"]["rayStartParams"]
    if (params.get("num-cpus"), params.get("num-gpus")) != ("0", "0"):
        yield "work may land on the head: num-cpus and num-gpus must be '0'"
    if world.service["spec"].get("excludeHeadPodFromServeSvc") is not True:
        yield "clients may be sent to the head"
    ray = world.cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    if any("gpu" in key for key in ray["resources"].get("limits", {})):
        yield "the head has a GPU"
    if not any(port["name"] == "serve" and port["containerPort"] == 8000 for port in ray["ports"]):
        yield "the head has no port called serve"


def object_store(world: World) -> Iterator[str]:
    """Ray's object store fits into /dev/shm; a larger one would silently be on the disk."""
    for group in (world.cluster["headGroupSpec"], *world.groups):
        asked = group.get("rayStartParams", {}).get("object-store-memory")
        shared = [each for each in group["template"]["spec"]["volumes"] if each["name"] == "shm"]
        if asked is None or not shared or int(asked) > quantity(shared[0]["emptyDir"].get("sizeLimit", 0)):
            yield f"{group.get('groupName', 'head')}: object-store-memory {asked}"


def fault_tolerance(world: World) -> Iterator[str]:
    """Redis over TLS, its credentials from a secret, a namespace for each generation."""
    options = world.cluster.get("gcsFaultToleranceOptions")
    if options is None:
        return
    if options.get("backend") != "redis" or not str(options.get("redisAddress", "")).startswith("rediss://"):
        yield "the head's memory must be in Redis, over TLS"
    if "externalStorageNamespace" in options:
        yield "a namespace by hand is shared by both generations of an upgrade"
    for key in ("redisPassword", "redisUsername"):
        if "secretKeyRef" not in options.get(key, {}).get("valueFrom", {}):
            yield f"{key} must come from a secret"
    for group in (world.cluster["headGroupSpec"], *world.groups):
        own = {each["name"] for each in group["template"]["spec"]["containers"][0].get("env", [])}
        if own & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME", "RAY_external_storage_namespace"}:
            yield f"{group.get('groupName', 'head')}: the operator sets Redis' address and password itself"


def token(world: World) -> Iterator[str]:
    """Ray's own ports ask for a token; `authOptions: {}` would mean that they do not."""
    options = world.cluster.get("authOptions", {})
    if options.get("mode") != "token" or not options.get("secretName") or "enableK8sTokenAuth" in options:
        yield "authOptions must have mode token and a secretName, and nothing else"
    if tuple(map(int, world.cluster["rayVersion"].split(".")[:2])) < (2, 52):
        yield "token authentication needs Ray 2.52"


def ray_version(world: World) -> Iterator[str]:
    """The operator is told the version that the image has."""
    if world.cluster.get("rayVersion") != version("ray"):
        yield f"rayVersion is {world.cluster.get('rayVersion')}, the lock has {version('ray')}"


def feature_gates(world: World) -> Iterator[str]:
    """What the manifests use is switched on in operator/values.yaml."""
    values = yaml.safe_load((KUBERAY / "operator" / "values.yaml").read_text())
    on = {gate["name"] for gate in values["featureGates"] if gate["enabled"]}
    strategy = world.service["spec"].get("upgradeStrategy", {}).get("type")
    for used, gate in (
        (world.cluster.get("tlsOptions", {}).get("enabled"), "RayClusterMTLS"),
        ("networkPolicy" in world.cluster, "RayClusterNetworkPolicy"),
        (strategy == "NewClusterWithIncrementalUpgrade", "RayServiceIncrementalUpgrade"),
        (
            world.cluster.get("gcsFaultToleranceOptions", {}).get("backend") == "rocksdb",
            "GCSFaultToleranceEmbeddedStorage",
        ),
        (world.cluster.get("historyServerOptions"), "RayClusterHistoryServer"),
    ):
        if used and gate not in on:
            yield f"{gate} is off in operator/values.yaml"


def tls_is_the_operators(world: World) -> Iterator[str]:
    """Certificates and their settings come from the operator alone."""
    for pod in world.ray_pods:
        yield from (f"{pod.name}: {name}" for name in pod.env() if name == "RAY_USE_TLS" or name.startswith("RAY_TLS_"))


def dead_settings(world: World) -> Iterator[str]:
    """Fields that do nothing any more, or that end a RayService for good."""
    spec, metadata = world.service["spec"], world.service["metadata"]
    for key in ("deploymentUnhealthySecondThreshold", "serviceUnhealthySecondThreshold", "serveService", "managedBy"):
        if key in spec:
            yield f"{key} must not be set"
    if "ray.io/initializing-timeout" in metadata.get("annotations", {}):
        yield "a RayService that needs longer to start would fail for good"
    if spec.get("suspend"):
        yield "it is applied suspended"


def timeouts(world: World) -> Iterator[str]:
    """Stream < replica < node < pod < cluster, for every pod that a stream runs through."""
    config = world.config
    longest = max(each.request_deadline_s for model in config.models for each in model.engines)
    overrides = {each["name"]: each for each in world.application["deployments"]}
    ingress = overrides["Ingress"].get("graceful_shutdown_timeout_s", 20)
    deletion = world.service["spec"].get("rayClusterDeletionDelaySeconds", 60)
    for pod in world.ray_pods:
        node = float(pod.env().get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", {}).get("value", 30))
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        chain = [("node", node), ("pod", grace), ("cluster", deletion)]
        if pod.part == "edge":
            chain = [("stream", longest), ("ingress replica", ingress), *chain]
        if pod.part == "state":
            chain = [("replica", 20), *chain]  # Serve's default, which the code leaves
        engines = [
            each for model in config.models for each in model.engines
            if pod.part and model.tier and pod.part.startswith(f"gpu-{model.tier.value}")
        ]  # fmt: skip
        chains = [[("stream", each.request_deadline_s), ("engine replica", each.drain_s), *chain] for each in engines]
        for (below, first), (above, second) in (pair for each in chains or [chain] for pair in pairwise(each)):
            if first >= second:
                yield f"{pod.part}: {below} {first:g} s is not below {above} {second:g} s"
        reconnect = float(pod.env().get("RAY_gcs_rpc_server_reconnect_timeout_s", {}).get("value", 60))
        if reconnect < 300:
            yield f"{pod.part}: a worker gives the head up after {reconnect:g} s"
        for container in pod.spec["containers"]:
            if "ray stop" in str(container.get("lifecycle", {})):
                yield f"{pod.part}: `ray stop` as a hook cuts every stream"
    if "request_timeout_s" in world.serve.get("http_options", {}):
        yield "Serve must not cut streams; the ingress does, with an error event"


def budgets(world: World) -> Iterator[str]:
    """Whole numbers, of pods that exist, no more than there are."""
    chosen: set[str] = set()
    for each in world.kind("PodDisruptionBudget"):
        spec = each["spec"]
        count = spec.get("minAvailable")
        pods = [
            pod
            for pod in world.pods
            if matches(spec["selector"], pod.labels) and pod.namespace == each["metadata"]["namespace"]
        ]
        pods = [pod for pod in pods if pod.labels.get("ray.io/node-type") != "redis-cleanup"]
        if not isinstance(count, int) or "maxUnavailable" in spec:
            yield f"{each['metadata']['name']}: only a whole minAvailable works, as nothing scales a RayCluster"
        elif not pods or count > sum(pod.least for pod in pods) or count < 1:
            yield f"{each['metadata']['name']}: {count} of {sum(pod.least for pod in pods)} pods"
        chosen |= {str(pod.part) for pod in pods}
    needed = {str(pod.part) for pod in world.ray_pods if pod.least > 0}
    yield from (f"{part} has no PodDisruptionBudget" for part in sorted(needed - chosen))
