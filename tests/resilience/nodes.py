"""Machines of a fake cluster: each a network, process and mount namespace of its own, with a raylet as first process.

Real: Ray's head and workers as KubeRay starts them, GCS in a real Redis, TCP between addresses, an empty disk for every
new machine, death of a whole machine at once. Fake: one kernel, two cores. To be used inside namespaces of its own, in
which `10.77.0.0/24` belongs to nobody else (`run_apart`).
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

from serve_app.config import ROOT

HERE = "10.77.0.254"
"""Our own address on the bridge: clients, Redis and the operator are here."""
HEAD = "10.77.0.1"
PORT = 8000
_REDIS_PORT, _GCS_PORT, _DASHBOARD_PORT = 6399, 6379, 8265
_STORE_BYTES = 80 << 20
_SESSIONS = Path("/tmp/ray")  # noqa: S108 - where Ray keeps its sockets and logs; every machine has a folder of its own there
_PASSWORD = "resilience"  # of a Redis that nobody outside these namespaces can reach
_NAMESPACES = Path("/run/netns")
PACE = float(os.environ.get("GATEHOUSE_RESILIENCE_PACE", "1"))
"""By how much drains, deadlines and what Ray takes for death are longer, on a machine that is busy with much else."""
DRAIN_S = round(60 * PACE)
"""How long a raylet that was told to end waits for what its replicas still have to do."""
DOOR = "serve_app.door:middlewares"

_ENVIRONMENT: Mapping[str, str] = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # the machine's memory is not this cluster's alone
    "RAY_worker_niceness": "0",  # whatever else this machine does must not come before the replicas
    # As KubeRay sets them:
    "RAY_SERVE_KV_TIMEOUT_S": f"{5 * PACE:.0f}",
    "RAY_gcs_server_request_timeout_seconds": f"{5 * PACE:.0f}",
    "RAY_timeout_ms_task_wait_for_death_info": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    # Ray's own, unless the pace is another one:
    "RAY_health_check_timeout_ms": f"{10_000 * PACE:.0f}",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": f"{10 * PACE:.0f}",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": f"{5 * PACE:.0f}",
    # As our manifests set them:
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_S),
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": DOOR,
    "GATEHOUSE_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT),
    "PYTHONDONTWRITEBYTECODE": "1",
}


def until(what: str, holds: Callable[[], bool], limit_s: float, every_s: float = 0.2) -> None:
    """Wait for a state; the limit, times `PACE`, is only there so that a broken run ends."""
    ends_s = time.monotonic() + limit_s * PACE
    while not holds():
        if time.monotonic() > ends_s:
            raise TimeoutError(f"{what}: not within {limit_s * PACE:g} s")
        time.sleep(every_s)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=60)


@dataclass
class Machine:
    """A machine. `first` is its first process: when that ends, everything on the machine has ended."""

    name: str
    address: str
    role: str
    process: "subprocess.Popen[bytes]"
    logs: Path

    @property
    def url(self) -> str:
        """Where its proxy answers clients."""
        return f"http://{self.address}:{PORT}"

    @property
    def first(self) -> psutil.Process:
        """The first process of its namespace."""
        (found,) = psutil.Process(self.process.pid).children()
        return found

    @property
    def alive(self) -> bool:
        """True while its first process runs."""
        return self.process.poll() is None

    def kill(self) -> int:
        """End everything on it at once, as power that fails; how many processes that were."""
        first = self.first
        count = 1 + len(first.children(recursive=True))
        first.send_signal(signal.SIGKILL)
        self.process.wait(30)
        return count

    def terminate(self) -> None:
        """Ask it to leave, as a kubelet does. It drains first; `alive` says when that is over."""
        self.first.send_signal(signal.SIGTERM)

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment's replicas on it."""
        found = list[psutil.Process]()
        for process in self.first.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if f"ServeReplica:gatehouse:{deployment}" in " ".join(process.cmdline()):
                    found.append(process)
        return found


@dataclass
class Cluster:
    """The bridge, Redis, and the machines that were started, dead ones included."""

    folder: Path
    machines: list[Machine] = field(default_factory=list[Machine])
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(2))

    @property
    def head(self) -> Machine:
        """The newest head."""
        return next(each for each in reversed(self.machines) if each.role == "head")

    def of(self, role: str) -> list[Machine]:
        """Living machines of a role."""
        return [each for each in self.machines if each.role == role and each.alive]

    def operator(self) -> httpx2.Client:
        """The head's REST interface, as the KubeRay operator uses it."""
        return httpx2.Client(base_url=f"http://{HEAD}:{_DASHBOARD_PORT}", timeout=30)

    def start_head(self) -> Machine:
        """A head with an empty disk, once it takes configurations; what it knows of the cluster is in Redis."""
        return self._joined(
            "head", lambda: HEAD, "--head", f"--port={_GCS_PORT}", "--num-cpus=0", "--num-gpus=0",
            "--include-dashboard=true", f"--dashboard-host={HEAD}", f"--dashboard-port={_DASHBOARD_PORT}",
            f"--redis-password={_PASSWORD}",
            RAY_REDIS_ADDRESS=f"{HERE}:{_REDIS_PORT}", RAY_external_storage_namespace="resilience",
        )  # fmt: skip

    def join(self, role: str, resources: str) -> Machine:
        """A new worker that announces `resources` (JSON), once the head knows it."""
        return self._joined(
            role, lambda: f"10.77.0.{next(self._numbers)}", f"--address={HEAD}:{_GCS_PORT}", "--num-cpus=1",
            "--num-gpus=0", f"--resources={resources}",
        )  # fmt: skip

    def _joined(self, role: str, address: Callable[[], str], *arguments: str, **environment: str) -> Machine:
        """A machine that the head knows. Ray gives up a start that takes long; a kubelet tries again, and so do we."""
        for _ in range(8):
            machine = self._start(role, address(), *arguments, **environment)
            began = machine.process
            until("a machine joins", lambda: machine.address in self.known() or began.poll() is not None, 600, 1.0)  # noqa: B023
            if machine.alive:
                return machine
        raise TimeoutError("no machine could join the cluster")

    def known(self) -> set[str]:
        """Addresses of the machines that the head takes for alive; none while it takes no configurations."""
        with contextlib.suppress(httpx2.HTTPError, ValueError, KeyError), self.operator() as operator:
            operator.get("/api/serve/applications/").raise_for_status()
            nodes = operator.get("/nodes", params={"view": "summary"}).json()["data"]["summary"]
            return {str(each["ip"]) for each in nodes if each["raylet"].get("state") == "ALIVE"}
        return set()

    def _start(self, role: str, address: str, *arguments: str, **environment: str) -> Machine:
        number = len(self.machines)
        name = f"m{number}"
        self._wire(name, address)
        logs = self.folder / f"{name}-{role}"
        logs.mkdir()
        prepare = f"mount -t tmpfs tmpfs /dev/shm && mount --bind {logs} {_SESSIONS}"
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--node-ip-address={address}",
               f"--object-store-memory={_STORE_BYTES}", *arguments]  # fmt: skip
        with (logs / "start.txt").open("wb") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", name, "unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child",
                 "bash", "-c", f'{prepare} && exec "$@"', "start", *ray],
                cwd=ROOT, env={**os.environ, **_ENVIRONMENT, **environment}, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        machine = Machine(name, address, role, process, logs)
        self.machines.append(machine)
        return machine

    def _wire(self, name: str, address: str) -> None:
        """A namespace with one end of a pair of interfaces; the other end is a port of the bridge."""
        for old in self.machines:
            if (
                old.address == address and (_NAMESPACES / old.name).exists()
            ):  # a dead head's: its address is taken over, as a service's is in Kubernetes
                _run("ip", "netns", "del", old.name)
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", f"v{name}", "master", "br0", "up")
        for step in (["link", "set", "lo", "up"], ["addr", "add", f"{address}/24", "dev", "eth0"],
                     ["link", "set", "eth0", "up"], ["route", "add", "default", "via", HERE]):  # fmt: skip
            _run("ip", "-n", name, *step)


def _network() -> None:
    _run("ip", "link", "set", "lo", "up")
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")
    _NAMESPACES.mkdir()
    _run("ip", "link", "add", "br0", "type", "bridge")
    _run("ip", "addr", "add", f"{HERE}/24", "dev", "br0")
    _run("ip", "link", "set", "br0", "up")


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[None]:
    process = subprocess.Popen(
        ["redis-server", "--bind", HERE, "--port", str(_REDIS_PORT), "--requirepass", _PASSWORD, "--save", "",
         "--appendonly", "no", "--dir", str(folder), "--logfile", str(folder / "redis.txt")],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A network, Redis and a head; the namespaces' end ends whatever is left."""
    if shutil.which("redis-server") is None:
        raise RuntimeError("redis-server is not installed")
    _SESSIONS.mkdir(exist_ok=True)
    _network()
    with _redis(folder):
        made = Cluster(folder)
        try:
            made.start_head()
            yield made
        finally:
            for each in made.machines:
                if each.alive:
                    with contextlib.suppress(psutil.Error, ValueError, subprocess.TimeoutExpired):
                        each.kill()
