"""Objects of a cluster: what is in them decides, however they are written."""

import json

import pytest

from deployments.gate.classify import Classifier
from deployments.ports import JsonValue, Risk

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a", "namespace": "dev"},
    "spec": {"containers": [{"name": "c", "image": "i"}]},
}


def risk(classifier: Classifier, manifest: JsonValue, **more: JsonValue) -> Risk:
    found = classifier.classify("kubectl_apply", {"manifest": manifest, **more})
    assert "classifier.error" not in found.rules
    return found.risk


def test_plain_objects_need_one_approval(classifier: Classifier) -> None:
    text = json.dumps(POD)
    for manifest in (POD, text, f"---\n{text}\n---\n", "kind: ConfigMap\nmetadata:\n  name: a\n  namespace: dev\n"):
        assert risk(classifier, manifest) is Risk.R2
    assert classifier.classify("kubectl_delete", {"kind": "pod", "name": "a", "namespace": "dev"}).risk is Risk.R2
    assert classifier.classify("kubectl_delete", {"kind": "pod", "name": "a", "namespace": "prod"}).risk is Risk.R3


PRIVILEGED: list[JsonValue] = [
    {"hostPID": True},
    {"hostIPC": True},
    {"hostNetwork": True},
    {"hostNetwork": "yes"},
    {"HostNetwork": True},
    {"nodeName": "n"},
    {"serviceAccountName": "admin"},
    {"serviceAccount": "admin"},
    {"automountServiceAccountToken": True},
    {"shareProcessNamespace": True},
    {"volumes": [{"hostPath": {"path": "/"}}]},
    {"volumes": [{"nfs": {"server": "x"}}]},
    {"volumes": [{"csi": {}}]},
    {"containers": [{"securityContext": {"privileged": True}}]},
    {"initContainers": [{"securityContext": {"privileged": True}}]},
    {"containers": [{"securityContext": {"allowPrivilegeEscalation": True}}]},
    {"containers": [{"securityContext": {"runAsUser": 0}}]},
    {"securityContext": {"runAsNonRoot": False}},
    {"containers": [{"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}]},
    {"containers": [{"securityContext": {"capabilities": {"Add": ["ALL"]}}}]},
    {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
    {"securityContext": {"sysctls": [{"name": "x"}]}},
    {"containers": [{"ports": [{"hostPort": 80}]}]},
    {"ephemeralContainers": [{"name": "x"}]},
    {"containers": [{"securityContext": {"procMount": "Unmasked"}}]},
    {"type": "LoadBalancer"},
    {"type": "NodePort"},
    {"externalIPs": ["1.2.3.4"]},
    {"template": {"spec": {"hostPID": True}}},
    {"jobTemplate": {"spec": {"template": {"spec": {"hostNetwork": True}}}}},
]


@pytest.mark.parametrize("spec", PRIVILEGED)
def test_what_reaches_beyond_its_container_needs_two(classifier: Classifier, spec: JsonValue) -> None:
    found = {**POD, "spec": spec}
    assert risk(classifier, found) is Risk.R3
    assert risk(classifier, json.dumps(found)) is Risk.R3
    assert risk(classifier, {"kind": "List", "apiVersion": "v1", "items": [POD, found]}) is Risk.R3
    assert risk(classifier, f"{json.dumps(POD)}\n---\n{json.dumps(found)}") is Risk.R3


def test_dropping_rights_is_not_asking_for_them(classifier: Classifier) -> None:
    safe = {
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "runAsUser": 1000,
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
    }
    spec: JsonValue = {
        "containers": [{"securityContext": safe}],
        "automountServiceAccountToken": False,
        "serviceAccountName": "default",
        "hostPID": False,
    }
    assert risk(classifier, {**POD, "spec": spec}) is Risk.R2


@pytest.mark.parametrize(
    "kind",
    [
        "Secret",
        "secret",
        "SECRET",
        "Role",
        "RoleBinding",
        "ClusterRole",
        "ClusterRoleBinding",
        "ServiceAccount",
        "Namespace",
        "Node",
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "CustomResourceDefinition",
        "APIService",
        "CertificateSigningRequest",
        "PersistentVolume",
        "StorageClass",
        "NetworkPolicy",
        "PriorityClass",
        "Surprise",
    ],
)
def test_kinds_that_are_more_than_a_workload(classifier: Classifier, kind: str) -> None:
    assert risk(classifier, {"kind": kind, "metadata": {"name": "a", "namespace": "dev"}}) is Risk.R3
    found = classifier.classify("kubectl_delete", {"kind": kind, "name": "a", "namespace": "dev"})
    assert found.risk is Risk.R3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "- kind: Pod",
        "kind: Pod",
        "kind: Pod\nmetadata: x",
        "kind: [Pod]\nmetadata: {}",
        "{",
        "kind: Pod\nkind: Secret\nmetadata: {}",
        "kind: Pod\nKind: Secret\nmetadata: {}",
        "kind: &a Pod\nmetadata: {name: a}",
        "a: &a {kind: Pod}\n<<: *a\nmetadata: {}",
        "<<: {kind: Secret}\nkind: Pod\nmetadata: {}",
        "kind: !!python/name:os.system Pod\nmetadata: {}",
        "!x {kind: Pod, metadata: {}}",
        "kind: !!binary U2VjcmV0\nmetadata: {}",
        "1: x\nkind: Pod\nmetadata: {}",
        "kind: Pod\nmetadata: {created: 2024-01-01}",
        "? {a: b}\n: c",
        "kind: Pod\nmetadata: {n: .nan}",
        "kind: Pod\nmetadata: {n: 99999999999999999999}",
        "%YAML 1.1\n---\n!!map {kind: Pod, metadata: {}}\n---\nx",
        "{" * 2000,
        "[" * 50_000,
        "a: " + "{a: " * 40 + "x" + "}" * 40,
        "kind: Pod\nmetadata: {}\n" + "---\nkind: Pod\nmetadata: {}\n" * 60,
        'kind: Pod\nmetadata: {name: "a\\ud800"}',
        "kind: Pod\nmetadata: {name: a\x07}",
        "kind: PodList\nmetadata: {}\nitems: [x]",
        "x" * 64_001,
    ],
)
def test_what_cannot_be_read_in_one_way_needs_two(classifier: Classifier, text: str) -> None:
    found = classifier.classify("kubectl_apply", {"manifest": text})
    assert "classifier.error" not in found.rules
    assert found.risk is Risk.R3 or found.arguments is None


def test_where_the_objects_go(classifier: Classifier) -> None:
    def placed(where: str | None, **more: JsonValue) -> Risk:
        metadata: dict[str, JsonValue] = {"name": "a"}
        if where is not None:
            metadata["namespace"] = where
        # A deletion is the worse in production.
        manifest: JsonValue = {"kind": "ConfigMap", "metadata": metadata}
        return classifier.classify("kubectl_delete", {"manifest": manifest, **more}).risk

    assert placed("dev") is Risk.R2
    assert placed(None) is Risk.R2
    assert placed("shop") is Risk.R3
    assert placed("dev", context="elsewhere") is Risk.R3
    assert placed("dev", namespace="shop", kind="configmap") is Risk.R3
    for more in ({"force": True}, {"labelSelector": "a=b"}, {"allNamespaces": True}, {"all": True}):
        assert placed("dev", **more) is Risk.R3
    assert placed("dev", surprise=1) is Risk.R2


def test_the_objects_are_shown(classifier: Classifier) -> None:
    found = classifier.classify("kubectl_apply", {"manifest": "kind: Pod\nmetadata: {name: \u202ea}\n"})
    assert found.preview == "objects\n  kind: Pod\n  metadata: {name: \\u202ea}\n  "
    found = classifier.classify("kubectl_apply", {"manifest": POD})
    assert found.preview is not None
    assert '"kind":"Pod"' in found.preview
