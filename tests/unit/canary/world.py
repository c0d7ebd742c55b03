"""A cluster on one page: an API server over HTTP, KubeRay's operator as a machine of states, Prometheus, Gatehouse.

The operator is a restatement of its rules for an incremental upgrade: look every two seconds, capacity before traffic,
no figure anywhere. The API server keeps generations and resource versions, applies JSON patches, and refuses one whose
test fails in the words of the real one. Its clock is the test's.
"""

import json
import re
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import httpx2

from serve_app.api.operations import RolloutEventBody
from serve_app.canary.figures import queries

EPOCH = 1_800_000_000
NAMESPACE = "gatehouse"
PATH = f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayservices/gatehouse"
GATEWAY = f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}"


@dataclass
class Machine:
    """A RayCluster. `running`: the capacity whose replicas have started, in percent."""

    name: str
    config: dict[str, Any]
    capacity: int
    traffic: int | None
    running: int = 0
    moved_s: float | None = None
    starts_s: float = 120.0
    rising_s: float | None = None
    never_well: bool = False
    failing: float = 0.0
    slow: float = 0.0
    requests: float = 0.0
    failed: float = 0.0
    late: float = 0.0

    def grow(self, now_s: float) -> None:
        """Replicas follow the capacity: down at once, up after a start."""
        if self.running >= self.capacity:
            self.running, self.rising_s = self.capacity, None
        elif self.rising_s is None:
            self.rising_s = now_s
        elif now_s - self.rising_s >= self.starts_s:
            self.running, self.rising_s = self.capacity, None

    def replicas(self, count: int) -> int:
        """Of a deployment that has `count` at all of the capacity: rounded half up, one at least."""
        return max(1, (count * self.running + 50) // 100) if self.running and count else 0

    @property
    def well(self) -> bool:
        return self.running >= self.capacity and self.running > 0 and not self.never_well


@dataclass
class World:
    """Everything, and what may be wrong with it."""

    service: dict[str, Any]
    least: Mapping[str, int]
    now_s: float = 0.0
    operator: bool = True
    gate: bool = True
    gateway: bool = True
    api: bool = True
    prometheus: bool = True
    scraped: bool = True
    gatehouse: bool = True
    rate: float = 200.0
    active: Machine = field(init=False)
    pending: Machine | None = None
    rolling_back: bool = False
    next_generation: dict[str, Any] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[float, dict[str, tuple[float, float, float]]]] = field(default_factory=list)
    overloads: list[str] = field(default_factory=list)
    patches: int = 0
    shares: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = deepcopy(self.service["spec"]["rayClusterConfig"])
        self.active = Machine("gatehouse-aaaaa", config, 100, 100, 100)
        self.lock = threading.RLock()
        self._status()

    # --- time ---

    def pass_s(self, seconds: float) -> None:
        """Let time pass, two seconds at a time."""
        with self.lock:
            for _ in range(int(seconds // 2)):
                self.now_s += 2
                self._serve(2.0)
                if self.operator:
                    self._reconcile()

    def _serve(self, seconds: float) -> None:
        for each in self.machines():
            share = self.rate * seconds * (each.traffic or 0) / 100
            each.requests += share
            each.failed += share * each.failing
            each.late += share * each.slow
            each.grow(self.now_s)
            if (each.traffic or 0) > each.running:
                self.overloads.append(f"{self.now_s:g}: {each.name} has {each.traffic} % on {each.running} %")
        self.history.append(
            (self.now_s, {each.name: (each.requests, each.failed, each.late) for each in self.machines()})
        )

    def machines(self) -> list[Machine]:
        return [self.active, *([self.pending] if self.pending else [])]

    # --- the operator ---

    def _reconcile(self) -> None:
        spec = self.service["spec"]
        options = spec["upgradeStrategy"].get("clusterUpgradeOptions", {})
        steers = self.gate and spec["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"
        wanted = spec["rayClusterConfig"]
        pending = self.pending
        if pending is None:
            if steers and wanted != self.active.config:
                name = f"gatehouse-{'bcdefgh'[len(self.history) % 7] * 5}"
                self.pending = Machine(name, deepcopy(spec["rayClusterConfig"]), 0, None, **self.next_generation)
        elif steers and self.gateway:
            self.rolling_back = wanted == self.active.config
            surge, step, interval = options["maxSurgePercent"], options["stepSizePercent"], options["intervalSeconds"]
            gaining, losing = (self.active, pending) if self.rolling_back else (pending, self.active)
            ready = gaining.well
            if pending.traffic is None:
                pending.traffic, pending.moved_s = 0, self.now_s
            if gaining.capacity == gaining.traffic:
                if gaining.capacity + losing.capacity > 100:
                    losing.capacity = max(0, losing.capacity - surge)
                else:
                    gaining.capacity = min(100, gaining.capacity + surge)
            passed = gaining.moved_s is None or self.now_s - gaining.moved_s >= interval
            if gaining.traffic != gaining.capacity and ready and passed:
                before = gaining.traffic
                gaining.traffic = min(100, gaining.traffic + step, gaining.capacity)
                losing.traffic = 100 - gaining.traffic
                if gaining.traffic != before:
                    gaining.moved_s = losing.moved_s = self.now_s
            if not self.rolling_back and self.active.capacity == 0 and pending.traffic == 100:
                self.active, self.pending = pending, None
            elif self.rolling_back and self.active.capacity == self.active.traffic == 100 and pending.capacity == 0:
                self.pending = None
        share = self.pending.traffic or 0 if self.pending else 0
        if not self.shares or self.shares[-1] != share:
            self.shares.append(share)
        self._status()

    def _status(self) -> None:
        def of(each: Machine | None) -> dict[str, Any]:
            if each is None:
                return {}
            moved = {} if each.moved_s is None else {"lastTrafficMigratedTime": _iso(each.moved_s)}
            traffic = {} if each.traffic is None or not self.gate else {"trafficRoutedPercent": each.traffic}
            state = "RUNNING" if each.well else "DEPLOYING"
            return {"rayClusterName": each.name, "targetCapacity": each.capacity, **traffic, **moved,
                    "applicationStatuses": {"gatehouse": {"status": state}}}  # fmt: skip

        status = {
            "observedGeneration": self.service["metadata"]["generation"],
            "activeServiceStatus": of(self.active),
            "pendingServiceStatus": of(self.pending),
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        if status != self.service.get("status"):
            self.service["status"] = status
            self._bump()

    def _bump(self) -> None:
        metadata = self.service["metadata"]
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)

    # --- what is answered ---

    def get(self, path: str) -> dict[str, Any] | None:
        if path == PATH:
            return self.service
        steers = self.gateway and self.gate
        ok = [{"type": kind, "status": "True"} for kind in ("Accepted", "Programmed", "ResolvedRefs")]
        if path == f"{GATEWAY}/gateways/gatehouse-gateway" and steers:
            return {"status": {"conditions": ok}}
        if path == f"{GATEWAY}/httproutes/gatehouse-httproute" and steers:
            backends = [{"name": f"{each.name}-serve-svc", "weight": each.traffic or 0} for each in self.machines()]
            return {"spec": {"rules": [{"backendRefs": backends}]}, "status": {"parents": [{"conditions": ok}]}}
        return None

    def patch(self, operations: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        after = deepcopy(self.service)
        try:
            for each in operations:
                _apply(after, each)
        except (_TestFailed, KeyError, TypeError) as error:
            said = (
                f"testing value {error} failed: test failed" if isinstance(error, _TestFailed) else f"missing {error}"
            )
            cause = {"reason": "UnexpectedServerResponse", "message": said}
            return 422, {"kind": "Status", "status": "Failure", "reason": "Invalid", "code": 422,
                         "message": "the server rejected our request due to an error in our request",
                         "details": {"causes": [cause]}}  # fmt: skip
        if after["spec"] != self.service["spec"]:
            after["metadata"]["generation"] += 1
        for group in after["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
            group.setdefault("numOfHosts", 1)  # a default of the CRD
        self.service = after
        self.patches += 1
        self._bump()
        return 200, after

    def query(self, text: str) -> list[dict[str, Any]]:
        """The answer to one of our queries: which one it is follows from the text, and nothing else is known."""
        names = re.search(r'ray_io_cluster=~"([^"]+)"', text)
        window = re.search(r"\[(\d+)s\]", text)
        assert names, text
        chosen = [each for each in self.machines() if each.name in names[1].split("|") and self.scraped]
        window_s = int(window[1]) if window else 60
        known = queries(names[1].split("|"), window_s, 5_000, 60_000)
        (purpose,) = [each for each, query in known.items() if query == text] or [None]
        assert purpose, text
        if purpose == "replicas":
            return [_series(each.name, each.replicas(count), deployment)
                    for each in chosen for deployment, count in self.least.items()]  # fmt: skip
        if purpose in {"age", "ingress"}:
            return [_series(each.name, 5 if purpose == "age" else each.replicas(self.least["Ingress"]))
                    for each in chosen if each.running]  # fmt: skip
        return [_series(each.name, self._grown(each, purpose, window_s)) for each in chosen]

    def _grown(self, each: Machine, purpose: str, window_s: int) -> float:
        at = bisect_right(self.history, self.now_s - window_s, key=lambda sample: sample[0]) - 1
        then = self.history[at][1].get(each.name, (0.0, 0.0, 0.0)) if at >= 0 else (0.0, 0.0, 0.0)
        requests, failed, late = each.requests - then[0], each.failed - then[1], each.late - then[2]
        return {"failed": failed, "requests": requests, "first": requests, "first in time": requests - late,
                "whole": requests, "whole in time": requests - late}[purpose]  # fmt: skip

    def audit(self, key: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        RolloutEventBody.model_validate_json(json.dumps(body))  # the real one refuses what this does
        if key in self.records and self.records[key] != body:
            return 400, {"error": {"message": "was recorded before, with other content."}}
        self.records[key] = body
        return 201, {"index": len(self.records)}


class _TestFailed(Exception):
    pass


def _apply(tree: Any, operation: dict[str, Any]) -> None:
    """One operation of RFC 6902: test, add or replace, on members of objects."""
    *steps, last = (each.replace("~1", "/").replace("~0", "~") for each in operation["path"].split("/")[1:])
    for step in steps:
        tree = tree[step]
    match operation["op"]:
        case "test":
            if tree.get(last) != operation["value"]:
                raise _TestFailed(operation["path"])
        case "add":
            tree[last] = deepcopy(operation["value"])
        case "replace":
            if last not in tree:
                raise KeyError(last)
            tree[last] = deepcopy(operation["value"])
        case other:
            raise TypeError(other)


def _series(name: str, value: float, deployment: str | None = None) -> dict[str, Any]:
    labels = {"ray_io_cluster": name, **({"deployment": deployment} if deployment else {})}
    return {"metric": labels, "value": [0, str(value)]}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(EPOCH + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def answer(world: World, request: httpx2.Request) -> httpx2.Response:
    """What the API server, Prometheus and Gatehouse say."""
    status, value = _answer(world, request.method, request.url.path, request.headers, request.content)
    return httpx2.Response(status, json=value, headers={"date": formatdate(EPOCH + world.now_s, usegmt=True)})


def _answer(world: World, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, object]:
    with world.lock:
        if path == "/api/v1/query":
            (query,) = parse_qs(body.decode())["query"]
            if not world.prometheus:
                return 503, {}
            return 200, {"status": "success", "data": {"resultType": "vector", "result": world.query(query)}}
        if path == "/v1/rollouts/events":
            return world.audit(headers["idempotency-key"], json.loads(body)) if world.gatehouse else (503, {})
        if not world.api:
            return 503, {}
        if method == "PATCH":
            assert headers["content-type"] == "application/json-patch+json"
            return world.patch(json.loads(body))
        found = world.get(path)
        return (404, {"message": "not found"}) if found is None else (200, found)


@contextmanager
def served(world: World) -> Iterator[str]:
    """The world over HTTP; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _say(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, value = _answer(world, self.command, self.path, self.headers, body)
            content = json.dumps(value).encode()
            self.send_response_only(status)
            self.send_header("date", formatdate(EPOCH + world.now_s, usegmt=True))
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PATCH = do_POST = _say

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
