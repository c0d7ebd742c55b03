"""The pods that KubeRay 1.7 makes of a RayService, restated: only on them do rules about pods mean anything.

The operator adds a sidecar, an init container, environment, ports and volumes, and a job's pod when a cluster with
Redis is deleted. Other workloads give their template as it is.
"""

from collections.abc import Iterator
from copy import deepcopy

from tests.manifests.kube import Pod, Tree, World

CLUSTER = "gatehouse-abcde"
_SHM, _RAY_TEMPORARY = "/dev/shm", "/tmp/ray"  # noqa: S108 - paths in pods


def pods(world: World) -> Iterator[Pod]:
    namespace = world.service["metadata"]["namespace"]
    cluster = world.cluster
    yield _head(cluster, namespace)
    for group in cluster["workerGroupSpecs"]:
        yield _worker(cluster, group, namespace)
    if "gcsFaultToleranceOptions" in cluster:
        yield _cleanup(cluster, namespace)
    for each in world.kind("Deployment", "StatefulSet"):
        template = each["spec"]["template"]
        spec = deepcopy(template["spec"])
        claims = [{"name": claim["metadata"]["name"], "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
                  for claim in each["spec"].get("volumeClaimTemplates", [])]  # fmt: skip
        spec["volumes"] = [*spec.get("volumes", []), *claims]
        labels, annotations = (template["metadata"].get(key, {}) for key in ("labels", "annotations"))
        name, namespace = f"{each['metadata']['name']}-0", each["metadata"]["namespace"]
        yield Pod(name, namespace, labels, annotations, spec, most=each["spec"]["replicas"])


def _labels(template: Tree, node_type: str, group: str) -> dict[str, str]:
    own = {"ray.io/cluster": CLUSTER, "ray.io/group": group, "ray.io/is-ray-node": "yes", "ray.io/node-type": node_type}
    return {**template.get("metadata", {}).get("labels", {}), **own}


def _prepared(cluster: Tree, template: Tree) -> Tree:
    """What head and workers get alike. The Ray container is the first one."""
    spec = deepcopy(template["spec"])
    ray = spec["containers"][0]
    ray.setdefault("command", ["/bin/bash", "-c", "--"])
    env = ray.setdefault("env", [])
    given = {each["name"] for each in env}
    added: list[Tree] = [
        {"name": "RAY_CLUSTER_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['ray.io/cluster']"}}},
        {"name": "RAY_CLOUD_INSTANCE_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "RAY_NODE_TYPE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['ray.io/group']"}}},
        {"name": "RAY_SERVE_KV_TIMEOUT_S", "value": "5"},
        {"name": "RAY_gcs_server_request_timeout_seconds", "value": "5"},
        {"name": "RAY_ADDRESS", "value": "127.0.0.1:6379"},
    ]
    options = cluster.get("authOptions", {})
    if options.get("mode") == "token":
        secret = {"secretKeyRef": {"name": options.get("secretName", CLUSTER), "key": "auth_token"}}
        added += [{"name": "RAY_AUTH_MODE", "value": "token"}, {"name": "RAY_AUTH_TOKEN", "valueFrom": secret}]
    env += [each for each in added if each["name"] not in given]
    ports = ray.setdefault("ports", [])
    if not any(each["name"] == "metrics" for each in ports):
        ports.append({"name": "metrics", "containerPort": 8080})
    if not any(each["mountPath"] == _SHM for each in ray.setdefault("volumeMounts", [])):
        ray["volumeMounts"].append({"name": "shared-mem", "mountPath": _SHM})
        spec.setdefault("volumes", []).append({"name": "shared-mem", "emptyDir": {"medium": "Memory"}})
    if cluster.get("autoscalerOptions", {}).get("version") == "v2":
        spec["restartPolicy"] = "Never"
    return spec


def _head(cluster: Tree, namespace: str) -> Pod:
    template = cluster["headGroupSpec"]["template"]
    spec = _prepared(cluster, template)
    ray = spec["containers"][0]
    fault_tolerance = cluster.get("gcsFaultToleranceOptions")
    if fault_tolerance:
        ray["env"].append({"name": "RAY_REDIS_ADDRESS", "value": fault_tolerance["redisAddress"]})
        for key, name in (("redisPassword", "REDIS_PASSWORD"), ("redisUsername", "REDIS_USERNAME")):
            if key in fault_tolerance:
                ray["env"].append({"name": name, **fault_tolerance[key]})
    if cluster.get("enableInTreeAutoscaling"):
        options = cluster.get("autoscalerOptions", {})
        sidecar = {"name": "autoscaler", "image": options.get("image", ray["image"]), "command": ["/bin/bash", "-c"],
                   "resources": options.get("resources", {"limits": {"cpu": "500m", "memory": "512Mi"}}),
                   "volumeMounts": [{"name": "ray-logs", "mountPath": _RAY_TEMPORARY}]}  # fmt: skip
        if "securityContext" in options:
            sidecar["securityContext"] = options["securityContext"]
        spec["containers"].append(sidecar)
        ray["volumeMounts"].append({"name": "ray-logs", "mountPath": _RAY_TEMPORARY})
        spec.setdefault("volumes", []).append({"name": "ray-logs", "emptyDir": {}})
    annotations = template.get("metadata", {}).get("annotations", {})
    return Pod(f"{CLUSTER}-head", namespace, _labels(template, "head", "headgroup"), annotations, spec)


def _worker(cluster: Tree, group: Tree, namespace: str) -> Pod:
    template, name = group["template"], group["groupName"]
    spec = _prepared(cluster, template)
    ray = spec["containers"][0]
    waiting = {
        "name": "wait-gcs-ready",
        "image": ray["image"],
        "command": ["/bin/bash", "-c", "--"],
        "env": deepcopy(ray["env"]),
        "volumeMounts": deepcopy(ray["volumeMounts"]),
        "resources": {side: {"cpu": "200m", "memory": "256Mi"} for side in ("limits", "requests")},
    }
    if "securityContext" in ray:
        waiting["securityContext"] = deepcopy(ray["securityContext"])
    spec["initContainers"] = [*spec.get("initContainers", []), waiting]
    annotations = template.get("metadata", {}).get("annotations", {})
    labels = {**group.get("labels", {}), **_labels(template, "worker", name), "ray.io/serve": "true"}
    return Pod(f"{CLUSTER}-{name}", namespace, labels, annotations, spec, group=name,
               least=group.get("minReplicas", 0), most=group.get("maxReplicas", 2147483647))  # fmt: skip


def _cleanup(cluster: Tree, namespace: str) -> Pod:
    """The pod of the job that empties Redis: the head's template with one small container."""
    head = _head(cluster, namespace)
    spec = deepcopy(head.spec)
    ray = spec["containers"][0]
    ray["command"] = ["/bin/bash", "-c", "--"]
    ray["resources"] = {side: {"cpu": "200m", "memory": "256Mi"} for side in ("limits", "requests")}
    spec["containers"], spec["restartPolicy"] = [ray], "Never"
    return Pod(
        f"{CLUSTER}-redis-cleanup",
        namespace,
        {**head.labels, "ray.io/node-type": "redis-cleanup"},
        head.annotations,
        spec,
    )
