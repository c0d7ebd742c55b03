"""Who may talk to whom: the whole table, computed from the policies. What is not in it is shut."""

import pytest

from tests.manifests.kube import KUBERAY, OVERLAYS, World, load
from tests.manifests.mutations import Mutation, drop, group, more, mutated, put, without
from tests.manifests.reach import PORTS, Peer, allowed, matrix, peers

WORLDS = {name: World(load(KUBERAY / "rendered" / f"{name}.yaml")) for name in OVERLAYS}


def expected(world: World) -> dict[tuple[str, str], frozenset[int]]:
    """The table of docs/kuberay.md. `redis-cleanup` is the pod that empties Redis; it has the head's labels."""
    heads = ["head", "redis-cleanup"] if "gcsFaultToleranceOptions" in world.cluster else ["head"]
    workers = [each["groupName"] for each in world.groups]
    ray = [*heads, *workers]
    table = {(a, b): frozenset(PORTS) for a in ray for b in ray if a != b or a == "edge"}
    table |= {(a, "dns"): frozenset({53}) for a in (*ray, "unlabelled")}
    table |= {("operator", head): frozenset({8000, 8265}) for head in heads}
    table |= {(head, "api server"): frozenset({443, 6443}) for head in heads}
    table |= {("prometheus", head): frozenset({8080, 44217, 44227}) for head in heads}
    table |= {("prometheus", each): frozenset({8080}) for each in workers}
    table |= {("gateway", "edge"): frozenset({8000}), ("prometheus", "edge"): frozenset({8000, 8080})}
    if "gcsFaultToleranceOptions" in world.cluster:
        table |= {(head, "redis"): frozenset({6379}) for head in heads}
    if world.config.store_url is not None:
        table["state", "postgres"] = frozenset({5432})
    return table


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_openings_are_these_and_no_others(overlay: str) -> None:
    assert matrix(WORLDS[overlay]) == expected(WORLDS[overlay])


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        ("tenant", "head", 8265),
        ("tenant", "head", 6379),
        ("tenant", "head", 10001),
        ("tenant", "edge", 8000),
        ("tenant", "gpu-20b", 8000),
        ("gateway", "gpu-20b", 8000),
        ("gateway", "head", 8265),
        ("beside prometheus", "edge", 8080),
        ("beside operator", "head", 8265),
        ("unlabelled", "head", 8265),
        ("unlabelled", "postgres", 5432),
        ("edge", "postgres", 5432),
        ("gpu-20b", "internet", 443),
        ("state", "internet", 443),
        ("edge", "api server", 443),
    ],
)
def test_what_an_attacker_would_try_is_shut(source: str, target: str, port: int) -> None:
    by_name = {peer.name: peer for peer in peers(WORLDS["l"])}
    assert not allowed(WORLDS["l"].kind("NetworkPolicy"), by_name[source], by_name[target], port)


@pytest.mark.parametrize(
    "mutation",
    [
        without("NetworkPolicy", "default-deny"),
        without("NetworkPolicy", "dns"),
        drop("spec.egress.0.to.0.podSelector", "NetworkPolicy", "head-to-redis"),
        put("spec.ingress.0.ports.0.port", 8265, "NetworkPolicy", "gateway-to-edge"),
        put("spec.podSelector", {"matchLabels": {"gatehouse/ray": "member"}}, "NetworkPolicy", "gateway-to-edge"),
        put("spec.podSelector", {}, "NetworkPolicy", "state-to-postgres"),
        drop("spec.ingress.0.from.0.podSelector", "NetworkPolicy", "operator-to-head"),
        put("spec.egress.0.to.0.ipBlock.cidr", "192.0.0.0/8", "NetworkPolicy", "head-to-apiserver"),
        group("edge", "template.metadata.labels", {"gatehouse/part": "edge"}),
        group("gpu-20b", "template.metadata.labels", {"gatehouse/ray": "member", "gatehouse/part": "edge"}),
        more({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "help", "namespace": "gatehouse"},
            "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}],
                     "egress": [{"to": [{"podSelector": {}}]}]},
        }),
    ],
    ids=["no-deny", "no-dns", "any-pod-of-redis", "other-port", "gateway-to-all", "all-to-postgres",
         "beside-operator", "wider-block", "unlabelled-edge", "gpu-as-edge", "namespace-wide"],
)  # fmt: skip
def test_a_change_of_a_policy_changes_the_table(mutation: Mutation) -> None:
    broken = mutated(WORLDS["l"], mutation)
    assert matrix(broken) != expected(WORLDS["l"])


def policy(**spec: object) -> dict[str, object]:
    return {"metadata": {"namespace": "a", "name": "p"}, "spec": {"podSelector": {}, **spec}}


POD, OTHER = Peer("pod", "a", {"x": "1"}, {"n": "a"}), Peer("other", "b", {"x": "1"}, {"n": "b"})


@pytest.mark.parametrize(
    ("policies", "source", "target", "verdict"),
    [
        ([], OTHER, POD, True),
        ([policy(policyTypes=["Ingress"])], OTHER, POD, False),
        ([policy(policyTypes=["Egress"])], OTHER, POD, True),
        ([policy()], OTHER, POD, False),
        ([policy()], POD, OTHER, True),
        ([policy(egress=[])], POD, OTHER, False),
        ([policy(ingress=[{}])], OTHER, POD, True),
        ([policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"x": "1"}}}]}])], OTHER, POD, False),
        ([policy(ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"n": "b"}}}]}])], OTHER, POD, True),
        ([policy(ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"n": "b"}}, "podSelector": {"matchLabels": {"x": "2"}}}]}])], OTHER, POD, False),  # noqa: E501
        ([policy(ingress=[{"ports": [{"port": 80, "endPort": 90}]}])], OTHER, POD, True),
        ([policy(ingress=[{"ports": [{"port": 86}]}])], OTHER, POD, False),
        ([policy(ingress=[{"ports": [{"port": 85, "protocol": "UDP"}]}])], OTHER, POD, False),
        ([policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}])], Peer("ip", ip="10.2.0.1"), POD, True),  # noqa: E501
        ([policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}])], Peer("ip", ip="10.1.0.1"), POD, False),  # noqa: E501
        ([policy(), policy(ingress=[{}])], OTHER, POD, True),
    ],
    ids=["no-policy", "deny-in", "only-out", "types-by-default", "types-by-default-out", "egress-implies-type",
         "empty-rule", "pods-of-own-namespace", "namespace", "namespace-and-pod", "port-range", "other-port",
         "other-protocol", "block", "except", "policies-add-up"],
)  # fmt: skip
def test_policies_mean_what_kubernetes_says(
    policies: list[dict[str, object]], source: Peer, target: Peer, verdict: bool
) -> None:
    assert allowed(policies, source, target, 85) is verdict
