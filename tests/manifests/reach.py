"""Who may talk to whom, computed from NetworkPolicies as the Kubernetes documentation defines them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from tests.manifests.kube import Tree, World, matches


@dataclass(frozen=True)
class Peer:
    """An end of a connection: a pod of a namespace, or an address outside of all of them."""

    name: str
    namespace: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    ip: str | None = None


def allowed(policies: Sequence[Tree], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is let out of where it starts and into where it ends."""
    out = _passes(policies, "Egress", source, target, port, protocol)
    return out and _passes(policies, "Ingress", target, source, port, protocol)


def _passes(policies: Sequence[Tree], direction: str, own: Peer, other: Peer, port: int, protocol: str) -> bool:
    if own.namespace is None:
        return True
    selecting = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == own.namespace
        and direction in _types(policy["spec"])
        and matches(policy["spec"]["podSelector"], own.labels)
    ]
    if not selecting:
        return True  # nobody has restricted this pod in this direction
    key, side = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    return any(
        _ports(rule.get("ports"), port, protocol) and _peers(rule.get(side), own, other)
        for spec in selecting
        for rule in spec.get(key) or []
    )


def _types(spec: Tree) -> Sequence[str]:
    return spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]


def _ports(ports: Any, port: int, protocol: str) -> bool:
    return not ports or any(
        each.get("protocol", "TCP") == protocol
        and ("port" not in each or each["port"] <= port <= each.get("endPort", each["port"]))
        for each in ports
    )


def _peers(peers: Any, own: Peer, other: Peer) -> bool:
    return not peers or any(_peer(each, own, other) for each in peers)


def _peer(peer: Tree, own: Peer, other: Peer) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        inside = other.ip is not None and ip_address(other.ip) in ip_network(block["cidr"])
        return inside and not any(ip_address(other.ip or "") in ip_network(each) for each in block.get("except", []))
    if other.namespace is None:
        return False
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], other.namespace_labels):
            return False
    elif other.namespace != own.namespace:
        return False
    return matches(peer.get("podSelector", {}), other.labels)


PORTS = (53, 443, 5432, 6379, 6443, 8000, 8080, 8265, 8900, 9090, 10001, 44217, 44227, 52365)
"""Every port that anything here listens on, those that must stay shut included."""


def peers(world: World) -> Iterator[Peer]:
    """Our pods, those they deal with, and those they must not deal with."""
    ours = {each["metadata"]["name"]: each["metadata"].get("labels", {}) for each in world.kind("Namespace")}
    for pod in world.pods:
        name = "redis-cleanup" if pod.labels.get("ray.io/node-type") == "redis-cleanup" else str(pod.part)
        yield Peer(name, pod.namespace, pod.labels, _namespace(pod.namespace, ours.get(pod.namespace, {})))
    yield Peer("unlabelled", "gatehouse", {"app": "debug"}, _namespace("gatehouse", {}))
    for name, namespace, labels, more in (
        ("operator", "kuberay-system", {"app.kubernetes.io/name": "kuberay-operator"}, {}),
        ("beside operator", "kuberay-system", {"app": "x"}, {}),
        ("gateway", "gateway", {"app": "gateway"}, {"gatehouse/access": "gateway"}),
        ("prometheus", "monitoring", {"app.kubernetes.io/name": "prometheus"}, {}),
        ("beside prometheus", "monitoring", {"app": "grafana"}, {}),
        ("tenant", "team-a", {"app": "agent", "gatehouse/ray": "member", "gatehouse/part": "head"}, {}),
        ("dns", "kube-system", {"k8s-app": "kube-dns"}, {}),
        ("redis", "redis", {"app.kubernetes.io/name": "redis"}, {}),
        ("beside redis", "redis", {"app": "x"}, {}),
        ("beside postgres", "postgres", {"app": "x"}, {}),
        ("postgres", "postgres", {"app.kubernetes.io/name": "postgres"}, {}),
        ("object store", "object-store", {"app": "store"}, {}),
    ):
        yield Peer(name, namespace, labels, _namespace(namespace, more))
    yield Peer("api server", ip="192.0.2.1")
    yield Peer("beside api server", ip="192.0.2.2")
    yield Peer("internet", ip="203.0.113.9")


def _namespace(name: str, labels: Mapping[str, str]) -> Mapping[str, str]:
    return {"kubernetes.io/metadata.name": name, **labels}


def matrix(world: World) -> dict[tuple[str, str], frozenset[int]]:
    """(from, to) -> ports that are open, where one of the two is a pod of ours; pairs without any are left out."""
    policies, found = world.kind("NetworkPolicy"), {}
    everybody = list(peers(world))
    own = {each["metadata"]["name"] for each in world.kind("Namespace")}
    for source in everybody:
        for target in everybody:
            if source is target and source.name != "edge" or not {source.namespace, target.namespace} & own:
                continue
            open_ports = frozenset(
                port for port in PORTS
                if allowed(policies, source, target, port)
                or (port == 53 and allowed(policies, source, target, port, "UDP"))
            )  # fmt: skip
            if open_ports:
                found[source.name, target.name] = open_ports
    return found
