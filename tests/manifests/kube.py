"""Rendered manifests as values: what the checks of `kuberay/` read. No cluster, no kubectl."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from serve_app.config import AppConfig, parse_config

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "kuberay"
OVERLAYS = ("s", "m", "l")
HEAD_PORTS = {"as-metrics": 44217, "dash-metrics": 44227}
_UNITS = {
    "": 1,
    "m": Decimal("0.001"),
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}

Tree = dict[str, Any]


def quantity(text: object) -> Decimal:
    """A Kubernetes quantity as a number: `500m`, `16Gi`, `2`."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    assert found, text
    return Decimal(found.group(1)) * _UNITS[found.group(2)]


def load(path: Path) -> list[Tree]:
    return parse(path.read_text(encoding="utf-8"))


def parse(text: str) -> list[Tree]:
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each is not None]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the operator would make it, and how many of them there may be. `group`: None outside the cluster's."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: Tree
    group: str | None = None
    least: int = 1
    most: int = 1

    @property
    def part(self) -> str | None:
        return self.labels.get("gatehouse/part")

    def containers(self) -> Sequence[Tree]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def env(self) -> Mapping[str, Tree]:
        return {each["name"]: each for each in self.spec["containers"][0].get("env", [])}

    def object(self) -> Tree:
        """As a Pod for the API server."""
        metadata = {"name": self.name, "namespace": self.namespace, "labels": dict(self.labels)}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata | {"annotations": dict(self.annotations)},
            "spec": self.spec,
        }


@dataclass(frozen=True)
class World:
    """One rendered overlay and everything that is derived from it."""

    documents: Sequence[Tree]

    def kind(self, *kinds: str) -> list[Tree]:
        return [each for each in self.documents if each.get("kind") in kinds]

    def named(self, kind: str, name: str) -> Tree:
        (found,) = [each for each in self.kind(kind) if each["metadata"]["name"] == name]
        return found

    @cached_property
    def service(self) -> Tree:
        (found,) = self.kind("RayService")
        return found

    @property
    def cluster(self) -> Tree:
        return self.service["spec"]["rayClusterConfig"]

    @property
    def groups(self) -> list[Tree]:
        return self.cluster["workerGroupSpecs"]

    def group(self, name: str) -> Tree:
        (found,) = [each for each in self.groups if each["groupName"] == name]
        return found

    @cached_property
    def serve(self) -> Tree:
        return yaml.safe_load(self.service["spec"]["serveConfigV2"])

    @property
    def application(self) -> Tree:
        (found,) = self.serve["applications"]
        return found

    @cached_property
    def config(self) -> AppConfig:
        return parse_config(self.application["args"], "serveConfigV2")

    @cached_property
    def pods(self) -> Sequence[Pod]:
        from tests.manifests.pods import pods

        return tuple(pods(self))

    @property
    def ray_pods(self) -> Sequence[Pod]:
        return [pod for pod in self.pods if pod.labels.get("gatehouse/ray") == "member"]


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector chooses something with these labels; an empty one chooses all."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for each in selector.get("matchExpressions", []):
        have, values = labels.get(each["key"]), each.get("values", [])
        verdict = {
            "In": have in values,
            "NotIn": have not in values,
            "Exists": have is not None,
            "DoesNotExist": have is None,
        }
        if not verdict[each["operator"]]:
            return False
    return True


def walk(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value in a document with its path."""
    yield path, value
    if isinstance(value, dict):
        for key, each in value.items():
            yield from walk(each, f"{path}.{key}")
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from walk(each, f"{path}[{at}]")
