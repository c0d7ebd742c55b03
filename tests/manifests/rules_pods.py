"""Rules about pods, secrets, network and monitoring: what an attacker or a bad night would look for."""

import json
import re
from collections.abc import Iterator

import yaml

from serve_app.cli.manifests import images
from tests.manifests.kube import ROOT, Pod, Tree, World, matches, quantity, walk

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "image",
}
_DIGEST = re.compile(r"[a-z0-9.:-]+(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}")
_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|ACCESS_KEY|API_KEY|PRIVATE")
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "GATEHOUSE_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


def restricted(world: World) -> Iterator[str]:
    """Kubernetes' Pod Security Standard `restricted`, on the pods as the operator makes them; and a read-only root."""
    for pod in world.pods:
        context = pod.spec.get("securityContext", {})
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield f"{pod.name}: {key}"
        if context.get("runAsUser", 1000) == 0:
            yield f"{pod.name}: runs as root"
        for volume in pod.spec.get("volumes", []):
            if not volume.keys() - {"name"} <= _VOLUMES:
                yield f"{pod.name}: volume {volume}"
        for container in pod.containers():
            own, name = container.get("securityContext", {}), f"{pod.name}/{container['name']}"
            if own.get("runAsNonRoot", context.get("runAsNonRoot")) is not True or own.get("runAsUser") == 0:
                yield f"{name}: runAsNonRoot"
            if own.get("seccompProfile", context.get("seccompProfile", {})).get("type") != "RuntimeDefault":
                yield f"{name}: seccompProfile"
            if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
                yield f"{name}: allowPrivilegeEscalation"
            capabilities = own.get("capabilities", {})
            if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
                yield f"{name}: capabilities"
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{name}: its root can be written to"
            if any("hostPort" in port for port in container.get("ports", [])):
                yield f"{name}: hostPort"


def namespaces(world: World) -> Iterator[str]:
    """The API server is told to hold pods to it."""
    for each in world.kind("Namespace"):
        labels = each["metadata"].get("labels", {})
        for mode in ("enforce", "audit", "warn"):
            if labels.get(f"pod-security.kubernetes.io/{mode}") != "restricted":
                yield f"{each['metadata']['name']}: {mode} is not restricted"


def limits(world: World) -> Iterator[str]:
    """CPU, memory and GPUs are bounded, and what is asked for is what is given: nobody is evicted for a neighbour."""
    for pod in world.pods:
        for container in pod.containers():
            resources = container.get("resources", {})
            if not {"cpu", "memory"} <= resources.get("limits", {}).keys():
                yield f"{pod.name}/{container['name']}: no limits"
            if container["name"] != "autoscaler" and resources.get("requests") != resources.get("limits"):
                yield f"{pod.name}/{container['name']}: requests differ from limits"
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"] and volume["name"] != "ray-logs":
                yield f"{pod.name}: {volume['name']} may fill the node"


def digests(world: World) -> Iterator[str]:
    """Images by digest: what was tested is what runs."""
    listed = images(yaml.safe_dump_all([*world.documents, *(pod.object() for pod in world.pods)]))
    yield from (f"{each} has no digest" for each in listed if not _DIGEST.fullmatch(each))


def no_inline_secret(world: World) -> Iterator[str]:
    """No secret is in a manifest."""
    for each in world.documents:
        if each["kind"] == "Secret":
            yield f"Secret {each['metadata']['name']} is in the manifests"
        for path, value in walk(each):
            if isinstance(value, dict) and _SECRET_NAME.search(str(value.get("name", ""))) and "value" in value:
                yield f"{each['kind']}{path}: {value['name']} is written out"
            if isinstance(value, str) and ("PRIVATE KEY" in value or re.search(r"://[^/@\s]*:[^/@\s]+@", value)):
                yield f"{each['kind']}{path} holds a secret"
    for key in ("redisPassword", "redisUsername"):
        if "value" in world.cluster.get("gcsFaultToleranceOptions", {}).get(key, {}):
            yield f"{key} is written out"


def _wanted_secrets(pod: Pod) -> Iterator[tuple[str, str | None]]:
    for container in pod.containers():
        for each in container.get("env", []):
            reference = each.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                yield reference["name"], reference["key"]
        yield from ((each["secretRef"]["name"], None) for each in container.get("envFrom", []) if "secretRef" in each)
    for volume in pod.spec.get("volumes", []):
        secret = volume.get("secret")
        if secret:
            keys = [item["key"] for item in secret.get("items", [])]
            mounts = [mount for container in pod.containers() for mount in container.get("volumeMounts", [])]
            paths = [mount.get("subPath") for mount in mounts if mount["name"] == volume["name"]]
            yield from (
                (secret["secretName"], key) for key in [*keys, *(path for path in paths if path and not keys)] or [None]
            )


def secrets_come_from_outside(world: World) -> Iterator[str]:
    """Every secret that a pod names is fetched by an ExternalSecret, with the key that is asked for."""
    brought = {
        (each["metadata"]["namespace"], each["spec"]["target"]["name"]): {
            entry["secretKey"] for entry in each["spec"]["data"]
        }
        for each in world.kind("ExternalSecret")
    }
    for pod in world.pods:
        for name, key in _wanted_secrets(pod):
            keys = brought.get((pod.namespace, name))
            if keys is None:
                yield f"{pod.name}: nobody brings the secret {name}"
            elif key is not None and key not in keys:
                yield f"{pod.name}: the secret {name} has no {key}"
    config = world.config
    for path in filter(None, (config.audit.signing_key_file, config.audit.vault_key_file)):
        keys = brought.get(("gatehouse", "gatehouse-keys"), set())
        if path.startswith("/etc/gatehouse/keys/") and path.rsplit("/", 1)[1] not in keys:
            yield f"nobody brings {path}"


def keys_stay_closed(world: World) -> Iterator[str]:
    """Key files on a volume stay 0600; kubelet would open them to the group, and Gatehouse refuses those."""
    for pod in world.pods:
        if any("persistentVolumeClaim" in volume for volume in pod.spec.get("volumes", [])):
            context = pod.spec.get("securityContext", {})
            if "fsGroup" in context and context.get("fsGroupChangePolicy") != "OnRootMismatch":
                yield f"{pod.name}: fsGroupChangePolicy must be OnRootMismatch"
        for volume in pod.spec.get("volumes", []):
            if "secret" in volume and volume["secret"].get("defaultMode", 0o644) & 0o077:
                yield f"{pod.name}: the files of {volume['name']} are open to others"


def identities(world: World) -> Iterator[str]:
    """Each pod has an account that exists; only those are shown to the pod that talk to the API server."""
    accounts = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in world.kind("ServiceAccount")}
    for pod in world.pods:
        if (pod.namespace, pod.spec.get("serviceAccountName")) not in accounts:
            yield f"{pod.name}: there is no account {pod.spec.get('serviceAccountName')}"
        if pod.spec.get("automountServiceAccountToken", True) != (pod.part in {"head", "canary"}):
            yield f"{pod.name}: only the head and the driver of a canary talk to the API server"
    for role in world.kind("Role", "ClusterRole"):
        for rule in role.get("rules", []):
            granted = {*rule["verbs"], *rule["resources"], *rule["apiGroups"]}
            if granted & {"*", "secrets", "pods/exec", "escalate", "bind", "impersonate"}:
                yield f"{role['metadata']['name']} grants {sorted(granted)}"


def bindings(world: World) -> Iterator[str]:
    """A binding leads from accounts that exist, or groups of people, to a role that exists in its namespace."""

    def key(each: Tree) -> tuple[str, str]:
        return each["metadata"]["namespace"], each["metadata"]["name"]

    accounts, roles = ({key(each) for each in world.kind(kind)} for kind in ("ServiceAccount", "Role"))
    for each in world.kind("RoleBinding", "ClusterRoleBinding"):
        space, name = each["metadata"].get("namespace"), each["metadata"]["name"]
        if each["kind"] == "ClusterRoleBinding" or each["roleRef"]["kind"] != "Role":
            yield f"{name} reaches beyond a namespace"
        elif (space, each["roleRef"]["name"]) not in roles:
            yield f"{name}: there is no role {each['roleRef']['name']}"
        for subject in each.get("subjects", []):
            account = subject.get("namespace"), subject["name"]
            if subject["kind"] == "User" or (subject["kind"] == "ServiceAccount" and account not in accounts):
                yield f"{name}: there is no {subject['kind']} {subject['name']}"
            if subject["kind"] == "Group" and subject["name"].startswith("system:"):
                yield f"{name} is for {subject['name']}"


def settings_come_from_somewhere(world: World) -> Iterator[str]:
    """Every ConfigMap that a pod names is there, unless the pod can do without it."""
    there = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in world.kind("ConfigMap")}
    for pod in world.pods:
        sources = [entry["configMapRef"] for container in pod.containers() for entry in container.get("envFrom", [])
                   if "configMapRef" in entry]  # fmt: skip
        sources += [volume["configMap"] for volume in pod.spec.get("volumes", []) if "configMap" in volume]
        for each in sources:
            if not each.get("optional") and (pod.namespace, each["name"]) not in there:
                yield f"{pod.name}: there is no ConfigMap {each['name']}"


def offline(world: World) -> Iterator[str]:
    """Nothing is fetched at run time, and nothing is reported to anybody."""
    for pod in world.ray_pods:
        env = {name: each.get("value") for name, each in pod.env().items()}
        yield from (
            f"{pod.name}: {name} is {env.get(name)}" for name, value in _OFFLINE.items() if env.get(name) != value
        )


def priorities(world: World) -> Iterator[str]:
    """Head before state before edge before engines, when a node is short."""
    values = {each["metadata"]["name"]: each["value"] for each in world.kind("PriorityClass")}
    for pod in world.ray_pods:
        if pod.spec.get("priorityClassName") not in values:
            yield f"{pod.name}: there is no priority class {pod.spec.get('priorityClassName')}"
            return
    by_part = {pod.part: values[pod.spec["priorityClassName"]] for pod in world.ray_pods}
    order = [
        by_part[part] for part in ("head", "state", "edge", "gpu-120b", "gpu-20b", "gpu-20b-spot") if part in by_part
    ]
    if order != sorted(order, reverse=True):
        yield f"priorities are in the wrong order: {by_part}"
    for each in world.kind("PriorityClass"):
        if each.get("globalDefault") or each["value"] >= 10**9:
            yield f"{each['metadata']['name']} concerns others"


def spread(world: World) -> Iterator[str]:
    """Pods of a kind are on several nodes and zones; those that must not move are marked."""
    for pod in world.ray_pods:
        if pod.part in {"head", "state"}:
            if pod.annotations.get("cluster-autoscaler.kubernetes.io/safe-to-evict") != "false":
                yield f"{pod.name}: an autoscaler of nodes may move it"
        elif pod.most > 1:
            keys = {each["topologyKey"] for each in pod.spec.get("topologySpreadConstraints", [])
                    if matches(each["labelSelector"], pod.labels)}  # fmt: skip
            needed = {"topology.kubernetes.io/zone"} | ({"kubernetes.io/hostname"} if pod.part == "edge" else set())
            yield from (f"{pod.name}: not spread over {key}" for key in sorted(needed - keys))
        # A node that is drained, or kept for GPUs, would count as one without such a pod: no other may take a second.
        for each in pod.spec.get("topologySpreadConstraints", []):
            if each["whenUnsatisfiable"] == "DoNotSchedule" and each.get("nodeTaintsPolicy") != "Honor":
                yield f"{pod.name}: waits for nodes that it may not run on ({each['topologyKey']})"


def spot(world: World) -> Iterator[str]:
    """Only the overflow of the smaller tier is on machines that may vanish, and it is nowhere else."""
    for pod in world.ray_pods:
        selected = pod.spec.get("nodeSelector", {}).get("gatehouse/spot") == "true"
        tolerated = any(each.get("key") == "gatehouse/spot" for each in pod.spec.get("tolerations", []))
        if (selected, tolerated) != (pod.part == "gpu-20b-spot",) * 2:
            yield f"{pod.name}: on spot machines: chosen {selected}, tolerated {tolerated}"


def readiness(world: World) -> Iterator[str]:
    """One slow answer does not take a worker out of service; its proxy is asked as well as its raylet."""
    for pod in world.ray_pods:
        if pod.labels.get("ray.io/node-type") == "worker":
            probe = pod.spec["containers"][0].get("readinessProbe", {})
            text = " ".join(probe.get("exec", {}).get("command", []))
            if probe.get("failureThreshold", 1) < 3 or "/-/healthz" not in text or "local_raylet_healthz" not in text:
                yield f"{pod.name}: its readiness probe"


def services(world: World) -> Iterator[str]:
    """A Service chooses pods that have the port which it names."""
    for each in world.kind("Service"):
        spec = each["spec"]
        pods = [
            pod
            for pod in world.pods
            if matches({"matchLabels": spec["selector"]}, pod.labels) and pod.namespace == each["metadata"]["namespace"]
        ]
        for port in spec["ports"]:
            if not pods or not all(_has_port(pod, port["targetPort"]) for pod in pods):
                yield f"Service {each['metadata']['name']} leads nowhere"
        if any(pod.part != "edge" for pod in pods if pod.namespace == "gatehouse"):
            yield f"Service {each['metadata']['name']} leads past the edge"
        if spec.get("type", "ClusterIP") != "ClusterIP":
            yield f"Service {each['metadata']['name']} is open to the outside"


def _has_port(pod: Pod, name: str) -> bool:
    return any(port["name"] == name for container in pod.spec["containers"] for port in container.get("ports", []))


def monitors(world: World) -> Iterator[str]:
    """Each endpoint is a port of every pod that is chosen, and Prometheus is let in to it."""
    from tests.manifests.reach import Peer, allowed

    prometheus = Peer(
        "prometheus",
        "monitoring",
        {"app.kubernetes.io/name": "prometheus"},
        {"kubernetes.io/metadata.name": "monitoring"},
    )
    for each in world.kind("PodMonitor"):
        pods = [pod for pod in world.pods if matches(each["spec"]["selector"], pod.labels)]
        for endpoint in each["spec"]["podMetricsEndpoints"]:
            for pod in pods:
                ports = {
                    port["name"]: port["containerPort"]
                    for container in pod.spec["containers"]
                    for port in container.get("ports", [])
                }
                number = ports.get(endpoint["port"])
                target = Peer(pod.name, pod.namespace, pod.labels)
                if number is None or not allowed(world.kind("NetworkPolicy"), prometheus, target, number):
                    yield f"{each['metadata']['name']}: {endpoint['port']} of {pod.name} cannot be scraped"
        if not pods:
            yield f"{each['metadata']['name']} chooses no pod"


def dashboards(world: World) -> Iterator[str]:
    """Every dashboard of configs/dashboards is where Grafana's sidecar looks for it, as it is there."""
    there = {
        name: json.loads(text)
        for each in world.kind("ConfigMap")
        if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
        for name, text in each["data"].items()
    }
    files = (ROOT / "configs" / "dashboards").glob("*.json")
    sources = {f"gatehouse-{path.name}": json.loads(path.read_text()) for path in files}
    for name in sorted(there.keys() | sources.keys()):
        if there.get(name) != sources.get(name):
            yield f"the dashboard {name} is not what configs/dashboards has"


def alerts(world: World) -> Iterator[str]:
    """Every rule of configs/alerts is in the PrometheusRule, as it is there, and no other."""
    sources = [group for path in sorted((ROOT / "configs" / "alerts").glob("*.rules.yaml"))
               for group in yaml.safe_load(path.read_text())["groups"]]  # fmt: skip
    there = [group for each in world.kind("PrometheusRule") if each["metadata"]["name"] == "gatehouse"
             for group in each["spec"]["groups"]]  # fmt: skip
    if there != sources:
        yield "the PrometheusRule gatehouse is not what configs/alerts has"


def quota(world: World) -> Iterator[str]:
    """All that the groups may grow to is allowed, each pod twice: one that drains still counts."""
    hard = world.named("ResourceQuota", "gatehouse")["spec"]["hard"]
    gpus = sum(
        pod.most * quantity(pod.spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))
        for pod in world.ray_pods
    )
    if quantity(hard["requests.nvidia.com/gpu"]) < gpus:
        yield f"the quota has {hard['requests.nvidia.com/gpu']} GPUs, the groups {gpus}"
    others = sum(pod.most for pod in world.pods if pod.part == "canary")  # it may be there twice for a moment
    pods = sum(pod.most for pod in world.ray_pods) + others
    if quantity(hard["pods"]) < 2 * pods:
        yield f"the quota has {hard['pods']} pods for {pods}"


def closed_by_default(world: World) -> Iterator[str]:
    """Each namespace of ours denies what no other policy allows, and no rule is open to everybody."""
    for space in world.kind("Namespace"):
        name = space["metadata"]["name"]
        policies = [each for each in world.kind("NetworkPolicy") if each["metadata"]["namespace"] == name]
        everything = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        if not any(each["spec"] == everything for each in policies):
            yield f"{name} has no policy that denies everything"
    for each in world.kind("NetworkPolicy"):
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in each["spec"].get(direction, []):
                if not rule.get(side) or any(_everybody(peer) for peer in rule[side]):
                    yield f"{each['metadata']['name']}: {direction} is open to everybody"
        if each["metadata"]["name"] != "ray-members" and any(
            "ports" not in rule for direction in ("ingress", "egress") for rule in each["spec"].get(direction, [])
        ):
            yield f"{each['metadata']['name']}: all ports"


def _everybody(peer: dict[str, object]) -> bool:
    block = peer.get("ipBlock")
    if isinstance(block, dict):
        return int(block["cidr"].rsplit("/", 1)[1]) < 16
    return not any(isinstance(each, dict) and each for each in peer.values())
