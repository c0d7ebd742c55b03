"""The product's graph on the fake cluster, placed as the manifests place it: state, and two machines that serve."""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2

from serve_app.config import ROOT
from tests.resilience.nodes import PACE, Cluster, Machine, until

APPLICATION = "gatehouse"
MODEL = "syn-20b"
TOKEN_MS = 250.0
REPLICA_DRAIN_S = round(40 * PACE)
"""Longer than the longest stream of the load, shorter than a machine's drain (`nodes.DRAIN_S`)."""
TTL_S = round(20 * PACE)
"""After this a request that nobody settles is charged as an estimate."""

STATE = json.dumps({"gatehouse-state": 1})
WORK = json.dumps({"gatehouse-edge": 1, "gatehouse-20b": 1})
SPARE = json.dumps({"gatehouse-edge": 1, "gatehouse-20b": 2})
"""Room for what a surge and a second revision put beside what there is."""
_STATEFUL = ("AuditSink", "Ledger", "PolicyGate", "DifficultyRouter", "ResponseStore", "RolloutController")


def revision(name: str) -> str:
    """The revision of an artefact of this name, as long as real ones are."""
    return sha256(name.encode()).hexdigest()


def document(state: Path, engine: str, candidate: str | None = None) -> dict[str, Any]:
    """A Serve config file of this graph with the model at a revision, and beside it at another one."""

    def settings(revision: str) -> dict[str, Any]:
        return {
            "kind": "synthetic", "model": MODEL, "revision": revision, "first_token_ms": 50.0, "token_ms": TOKEN_MS,
            "max_num_seqs": 128, "max_queued": 512, "num_cpus": 0.1, "replicas": 2, "drain_s": float(REPLICA_DRAIN_S),
        }  # fmt: skip

    model = {"tier": "20b", "engine": settings(engine)}
    if candidate is not None:
        model["candidate"] = settings(candidate)
    surge = {"graceful_shutdown_timeout_s": REPLICA_DRAIN_S, "max_surge_percent": 100}
    deployments: list[dict[str, Any]] = [
        {"name": name, "ray_actor_options": {"num_cpus": 0.05, "resources": {"gatehouse-state": 0.01}}}
        for name in _STATEFUL
    ]
    deployments.append(
        {"name": "Ingress", **surge, "ray_actor_options": {"num_cpus": 0.1, "resources": {"gatehouse-edge": 1}}}
    )  # fmt: skip
    for each in (engine, candidate):
        if each is not None:
            actor = {"num_cpus": 0.1, "resources": {"gatehouse-20b": 1}}
            deployments.append({"name": f"Engine:{MODEL}:{each}", "ray_actor_options": actor})
    for each in deployments:
        each["health_check_timeout_s"] = 30.0 * PACE  # 30 is the product's and Serve's own
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000},  # noqa: S104 - of a network of our own
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "serve_app.app:build",
                "args": {
                    "profile": "m",
                    "state_dir": str(state),
                    "vocabulary_dir": str(ROOT / ".gatehouse" / "vocabulary"),
                    "min_memory_gib": 0,
                    "routing_policy": str(ROOT / "configs" / "policies" / "routing-v1.yaml"),
                    "gate": {"bundle": str(ROOT / "configs" / "policies" / "default.yaml")},
                    "models": [model],
                    "ingress_replicas": {"replicas": 2, "num_cpus": 0.1},
                    "ingress": {"leased_grants": 8, "call_timeout_s": 15.0 * PACE},
                    "tenancy": {"max_concurrent_requests": 4096, "grant_ttl_s": TTL_S},
                },
                "deployments": deployments,
            }
        ],
    }


@dataclass
class Graph:
    """The application on a cluster. `state` is the volume of the machine with the state."""

    cluster: Cluster
    state: Path

    @property
    def log(self) -> Path:
        """The audit log."""
        return self.state / "audit"

    def submit(self, engine: str, candidate: str | None = None) -> None:
        """Hand a configuration to Serve, as the operator does."""
        with self.cluster.operator() as operator:
            body = document(self.state, engine, candidate)
            reply = operator.put("/api/serve/applications/", json=body, timeout=300)
        assert reply.is_success, reply.text[:2000]

    def details(self) -> Mapping[str, Any]:
        """The application as the operator sees it; empty while nobody answers."""
        with contextlib.suppress(httpx2.HTTPError, ValueError), self.cluster.operator() as operator:
            reply = operator.get("/api/serve/applications/")
            if reply.is_success:
                return reply.json()["applications"].get(APPLICATION, {})
        return {}

    def status(self) -> str:
        """Serve's word for how far the application is."""
        return str(self.details().get("status", ""))

    def placed(self) -> dict[str, list[str]]:
        """Deployment -> addresses of the machines of its running replicas."""
        return {
            name: sorted(str(each.get("node_ip")) for each in part["replicas"] if each["state"] == "RUNNING")
            for name, part in self.details().get("deployments", {}).items()
        }

    def whole(self) -> bool:
        """True when Serve says that it runs, with every replica on a living machine, and where clients come says so."""
        details = self.details()
        if details.get("status") == "DEPLOY_FAILED":
            raise AssertionError(str(details.get("message"))[-3000:])
        if details.get("status") != "RUNNING":
            return False
        living = {each.address for each in self.cluster.machines if each.alive}
        for part in details["deployments"].values():
            states = [(each["state"], each.get("node_ip") in living) for each in part["replicas"]]
            if states != [("RUNNING", True)] * int(part["target_num_replicas"]):
                return False
        fronts = {each["node_ip"] for each in details["deployments"]["Ingress"]["replicas"]}
        return all(_answers(each) for each in self.cluster.of("work") if each.address in fronts)

    def wait(self, what: str, limit_s: float = 900.0) -> float:
        """Wait until it is whole; seconds that took."""
        began_s = time.monotonic()
        until(what, self.whole, limit_s, every_s=1.0)
        return time.monotonic() - began_s

    def admin(self) -> httpx2.Client:
        """The product's own interface, as its operator, through a machine that serves."""
        key = (self.state / "operator.key").read_text().strip()
        return httpx2.Client(base_url=self._front(), headers={"authorization": f"Bearer {key}"},
                            timeout=60)  # fmt: skip

    def _front(self) -> str:
        """The address of a machine whose proxy is well; any, while none is."""
        machines = self.cluster.of("work")
        return next((each for each in machines if _well(each)), machines[0]).url

    def keys(self, tenant: str, count: int) -> list[str]:
        """New keys of a tenant."""
        made = list[str]()
        with self.admin() as http:
            for number in range(count):
                body = {"tenant": tenant, "name": f"{tenant} {number}", "scopes": ["inference"]}
                made.append(http.post("/v1/admin/keys", json=body).raise_for_status().json()["key"])
        return made

    def nudge(self) -> None:
        """Ask for one word: the ledger looks for what nobody settled when somebody asks."""
        if not hasattr(self, "_house"):
            self._house = self.keys("house", 1)[0]
        body = {"model": MODEL, "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
        with contextlib.suppress(httpx2.HTTPError):
            httpx2.post(f"{self._front()}/v1/chat/completions", json=body, timeout=60,
                       headers={"authorization": f"Bearer {self._house}"})  # fmt: skip


def _answers(machine: Machine) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(f"{machine.url}/readyz", timeout=10).status_code == 200
    return False


def _well(machine: Machine) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(f"{machine.url}/-/healthz", timeout=10).status_code == 200
    return False
