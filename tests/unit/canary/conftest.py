"""A world with a cluster that serves, and a driver of it over HTTP."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import yaml

from serve_app.canary.cluster import Cluster
from serve_app.canary.driver import AuditBook, Driver, Order
from serve_app.canary.figures import Prometheus
from serve_app.canary.values import CanaryError, Memory, Stage, Terms
from serve_app.cli.manifest_parts import least_replicas
from serve_app.config import ROOT, parse_config
from tests.unit.canary.world import NAMESPACE, World, answer, served

REST = {"stepSizePercent": 0, "intervalSeconds": 86_400, "maxSurgePercent": 25, "gatewayClassName": "gatehouse"}
TERMS = Terms(
    stages=tuple(
        Stage(share=share, min_s=120) for share in (5, 24, 50, 75, 95)
    ) + (Stage(share=100, min_s=0),)
)  # fmt: skip


def rayservice() -> dict[str, Any]:
    """The RayService of overlay m, as it is with the component canary once the API server has it."""
    documents = yaml.load_all((ROOT / "kuberay" / "rendered" / "m.yaml").read_text(), yaml.CSafeLoader)
    (found,) = [each for each in documents if each and each["kind"] == "RayService"]
    found["spec"]["upgradeStrategy"] = {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": dict(REST),
    }
    found["metadata"] |= {"generation": 1, "resourceVersion": "100", "annotations": {"kept": "as it is"}}
    for group in found["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        group["numOfHosts"] = 1
    return found


@dataclass
class Bench:
    """The world, its address, and what one does to it."""

    world: World
    stack: ExitStack
    url: str | None = None

    def driver(self) -> Driver:
        """A new driver: it knows nothing of what the one before did."""
        transport = None if self.url else httpx2.MockTransport(lambda request: answer(self.world, request))
        url = self.url or "http://world"
        return Driver(
            self.stack.enter_context(Cluster(url, NAMESPACE, "gatehouse", {}, transport)),
            self.stack.enter_context(Prometheus(url, transport=transport)),
            self.stack.enter_context(AuditBook(url, "key", transport)),
        )

    def order(self, release: str = "1", **change: Any) -> Order:
        """A canary of another image."""
        spec = deepcopy(self.world.service["spec"])
        cluster = spec["rayClusterConfig"]
        cluster["headGroupSpec"]["template"]["metadata"]["annotations"]["gatehouse/release"] = release
        for group in cluster["workerGroupSpecs"]:
            group.pop("numOfHosts", None)  # a manifest does not say it; the API server adds it
        given = {"id": "c-1", "change_id": "CHG-1", "by": "ann", "cluster": cluster,
                 "serve_config": spec["serveConfigV2"], "terms": TERMS}  # fmt: skip
        return Order(**(given | change))

    def follow(
        self, driver: Driver, until: Callable[[Memory], bool], seconds: float = 40_000, every_s: float = 20
    ) -> Memory:
        """Look every few seconds until something is so. What does not answer is asked again."""
        memory: Memory | None = None
        began_s = self.world.now_s
        while self.world.now_s - began_s < seconds:
            try:
                memory = driver.look()
            except CanaryError:
                memory = None
            if memory is not None and until(memory):
                return memory
            self.world.pass_s(every_s)
        raise AssertionError(f"not so after {seconds} s: {memory}")

    @property
    def options(self) -> dict[str, Any]:
        """What the operator is told."""
        return self.world.service["spec"]["upgradeStrategy"]["clusterUpgradeOptions"]

    def events(self) -> list[tuple[str, int]]:
        """What is in the audit log: event and share."""
        return [(each["event"], each["share_percent"]) for each in self.world.records.values()]


@pytest.fixture
def bench() -> Iterator[Bench]:
    service = rayservice()
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    least = least_replicas(parse_config(application["args"], "serveConfigV2"))
    world = World(service, least)
    world.pass_s(4)
    with ExitStack() as stack:
        yield Bench(world, stack)


@pytest.fixture
def served_bench(bench: Bench) -> Iterator[Bench]:
    """The same over sockets."""
    with served(bench.world) as url:
        bench.url = url
        yield bench
