"""A real Gatehouse with token clocks for models and two ingress replicas, whose parts can be killed."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import yaml

from deployments.store import sqlite_url
from serve_app.config import ROOT
from tests.serve.conftest import Stack, free_port, start, stop
from tests.tenants.books import Books
from tests.tenants.databases import Server

SMALL, LARGE = "syn-20b", "syn-120b"
TOKEN_MS = 10.0
TTL_S = 15
"""After this a request that nobody settles is charged as an estimate. Retries of a settlement may come later."""
_ENGINE: Mapping[str, object] = {
    "kind": "synthetic", "revision": "r1", "first_token_ms": 20.0, "token_ms": TOKEN_MS, "max_num_seqs": 512,
    "max_queued": 4096, "num_cpus": 0.5, "drain_s": 5.0,
}  # fmt: skip
_PRICES: Mapping[str, object] = {
    SMALL: {"input": "100", "cached_input": "20", "output": "400"},
    LARGE: {"input": "700", "cached_input": "70", "output": "2800.5"},
}


def until(what: str, holds: Callable[[], bool], limit_s: float = 120.0) -> None:
    """Wait for a state; the limit is only there so that a broken run ends."""
    ends_s = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < ends_s, f"{what}: not within {limit_s:g} s"
        time.sleep(0.1)


@dataclass
class Graph:
    """A running Gatehouse and its books. `server` is its PostgreSQL; None: it has SQLite files."""

    stack: Stack
    books: Books
    server: Server | None
    house: str | None = None

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment that are alive."""
        found = list[psutil.Process]()
        for process in psutil.Process(self.stack.process.pid).children(recursive=True):
            try:
                named = f"ServeReplica:gatehouse:{deployment}" in " ".join(process.cmdline())
                if named and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def tenant(self, name: str, teams: Mapping[str, int]) -> dict[str, tuple[str, str]]:
        """Keys of a new tenant, some for each team: text -> team and id of the key."""
        made = dict[str, tuple[str, str]]()
        with self.stack.operator() as http:
            for team, count in teams.items():
                for number in range(count):
                    body = {"tenant": name, "team": team, "name": f"{team} {number}", "scopes": ["inference"]}
                    new = http.post("/v1/admin/keys", json=body).raise_for_status().json()
                    made[new["key"]] = (team, new["id"])
        return made

    def budget(self, name: str, **body: object) -> None:
        """Set a budget that never is full again."""
        with self.stack.operator() as http:
            http.put(f"/v1/admin/budgets/{name}", json={"window": "total", **body}).raise_for_status()

    def budgets(self, tenant: str) -> dict[str, dict[str, Any]]:
        """Where the ledger says that the budgets of a tenant stand, by name; raises while it does not answer."""
        with self.stack.operator() as http:
            reply = http.get("/v1/admin/budgets", params={"tenant": tenant}).raise_for_status()
        return {each["id"]: each for each in reply.json()["data"]}

    def nudge(self) -> None:
        """Ask for one word, as some other tenant: the ledger looks for what nobody settled when somebody asks."""
        if self.house is None:
            self.house = next(iter(self.tenant("house", {"house": 1})))
        body = {"model": SMALL, "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
        headers = {"authorization": f"Bearer {self.house}"}
        httpx2.post(f"{self.stack.url}/v1/chat/completions", json=body, headers=headers, timeout=60)

    def ready(self) -> bool:
        """True when every part answers."""
        try:
            with self.stack.operator() as http:
                return http.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False


@contextmanager
def running(folder: Path, server: Server | None, store_url: str | None) -> Iterator[Graph]:
    """Start it in a folder of its own, on a database or on SQLite files; nothing of it is left afterwards."""
    state, port = folder / "state", free_port()
    state.mkdir(parents=True)
    document = yaml.safe_load((ROOT / "configs" / "serve.local.yaml").read_text())
    document["http_options"]["port"] = port
    args = document["applications"][0]["args"]
    args |= {
        "state_dir": str(state),
        "min_memory_gib": 0,
        "store_url": store_url,
        "models": [
            {"tier": "20b", "engine": {**_ENGINE, "model": SMALL}},
            {"tier": "120b", "engine": {**_ENGINE, "model": LARGE}},
        ],
        "ingress_replicas": {"replicas": 2, "num_cpus": 0.1},
        "ingress": {"leased_grants": 8, "first_byte_s": 30.0, "call_timeout_s": 30.0},
        "tenancy": {
            "max_concurrent_requests": 4096,
            "grant_ttl_s": TTL_S,
            "prices": {"currency": "USD", "models": dict(_PRICES)},
        },
    }
    config = folder / "serve.test.yaml"
    config.write_text(yaml.safe_dump(document))
    stack = start(config, port, state, folder / "output.txt")
    books = Books(store_url or sqlite_url(state / "state" / "ledger.db"))
    try:
        yield Graph(stack, books, server)
    finally:
        books.close()
        left = psutil.Process(stack.process.pid).children(recursive=True)
        stop(stack.process)
        for process in left:  # a replica that was killed may have had children of its own
            if process.is_running():
                process.kill()
