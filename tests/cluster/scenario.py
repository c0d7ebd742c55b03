"""A cluster of fake nodes on one machine, and a tensor-parallel tier on it: what `test_autoscaling.py` looks at.

Real: GCS, autoscaler, one raylet per node, Serve, the product's policy and options, node death. Fake: the number of
GPUs that a raylet announces, and the model. Run as the first process of namespaces of its own, so that no port, no
process scan and no leftover can meet another Ray: `python -m tests.cluster.scenario LOG`.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deployments.engine.options import EngineSettings, ray_actor_options
from tests.cluster.tier import (
    APPLICATION,
    DEPLOYMENT,
    FAST_METRICS,
    QUIET_RAY,
    SEATS,
    Load,
    Log,
    deploy,
    fast_scaling,
    running,
    states,
    until,
)

MOST = 3
TP = 2
CLIENTS = MOST * SEATS

_HEAD = "f" * 51 + "00000"  # the id that the provider of fake nodes gives to the head
_NODES = {"gpu-x1": {"CPU": 2, "GPU": 1}, "gpu-x4": {"CPU": 4, "GPU": 4}}
_ENVIRONMENT = {
    **QUIET_RAY,
    **FAST_METRICS,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CLOUD_INSTANCE_ID": _HEAD,
    "RAY_FAKE_CLUSTER": "1",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD,
    "RAY_enable_autoscaler_v2": "1",
}


def cluster_config() -> dict[str, Any]:
    """Complete: Ray's wheel lacks the provider's own example, and a monitor without a configuration dies silently."""
    store = {"object_store_memory": 80 << 20}
    types = {
        name: {"node_config": {}, "min_workers": 0, "max_workers": 3, "resources": resources | store}
        for name, resources in _NODES.items()
    }
    return {
        "cluster_name": "fake",
        "max_workers": 6,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": _HEAD,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"node_config": {}, "min_workers": 0, "max_workers": 0, "resources": {"CPU": 2}},
            **types,
        },
        "idle_timeout_minutes": 0.15,
        "upscaling_speed": 1.0,
        "auth": {},
        "docker": {},
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


@contextlib.contextmanager
def head() -> Iterator[Path]:
    """The head of a cluster and this process as its driver. The namespace ends whatever is left."""
    folder = Path(tempfile.mkdtemp(prefix="ghc", dir="/tmp"))  # the path of a Unix socket must be short
    try:
        config = folder / "cluster.json"
        config.write_text(json.dumps(cluster_config()))
        ray_command = str(Path(sys.executable).with_name("ray"))
        subprocess.run(
            [ray_command, "start", "--head", f"--autoscaling-config={config}", f"--temp-dir={folder}", "--num-cpus=2",
             "--num-gpus=0", "--include-dashboard=false", f"--object-store-memory={100 << 20}",
             "--node-ip-address=127.0.0.1"],
            env={**os.environ, **_ENVIRONMENT}, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=120,
        )  # fmt: skip
        yield folder
    except BaseException:
        for each in sorted((folder / "session_latest" / "logs").glob("monitor*")):
            print(f"--- {each.name}", *each.read_text().splitlines()[-40:], sep="\n", file=sys.stderr)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def gpu_nodes() -> dict[str, str]:
    """Living nodes with GPUs: id -> "gpu-x1" or "gpu-x4", by what they announce."""
    import ray

    kinds = {resources["GPU"]: name for name, resources in _NODES.items()}
    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    return {node["NodeID"]: kinds[int(node["Resources"]["GPU"])] for node in alive}


def replica_nodes() -> Counter[str]:
    """Running replicas of the tier by the id of their node."""
    from ray.serve.context import _get_global_client  # Serve's public status does not say where a replica is

    details = _get_global_client().get_serve_details()["applications"][APPLICATION]["deployments"][DEPLOYMENT]
    return Counter(each["node_id"] for each in details["replicas"] if each["state"] == "RUNNING")


def kill_node(node: str) -> list[int]:
    """SIGKILL the raylet of a node, as a machine that loses power."""
    killed: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may be gone by now
            command = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes()
            if command[0].endswith(b"/raylet") and node.encode() in b"\0".join(command) + environment:
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(int(process.name))
    return killed


async def watch(log: Log) -> None:
    """Every change of nodes and replicas, as it is seen."""
    before: tuple[Counter[str], Counter[str]] | None = None
    while True:
        nodes = Counter((await asyncio.to_thread(gpu_nodes)).values())
        replicas = await asyncio.to_thread(states)
        if (nodes, replicas) != before:
            before = (nodes, replicas)
            log("seen", nodes=dict(nodes), replicas=dict(replicas))
        await asyncio.sleep(0.5)


async def play(log: Log) -> None:
    """The story."""
    engine = EngineSettings(model="m", revision="r", source="/none", tensor_parallel_size=TP, num_cpus=0.1)
    actor = ray_actor_options(engine, None, "cuda")
    client = deploy(fast_scaling(MOST), actor)
    log("deployed", actor_gpus=actor["num_gpus"], replicas=running(), nodes=len(gpu_nodes()))
    watching = asyncio.create_task(watch(log))
    try:
        first = await Load(client, tokens=5).ask()
        log("cold start", result=first, nodes=sorted(gpu_nodes().values()), replicas=running())
        if first != "whole":
            raise AssertionError(f"the first request ended as {first}")

        load = Load(client)
        load.start(CLIENTS)
        await until("grown to the most", lambda: running() == MOST and len(replica_nodes()) == 2, 240)
        log("grown", nodes=sorted(gpu_nodes().values()), placed=sorted(replica_nodes().values()), lost=_lost(load))

        victim, there = replica_nodes().most_common(1)[0]
        others = set(gpu_nodes()) - {victim}
        log("killing a node", replicas_there=there, raylets=len(kill_node(victim)))
        await until("the death is noticed", lambda: victim not in gpu_nodes(), 120)
        log("death noticed", nodes=sorted(gpu_nodes().values()), lost=_lost(load))
        await until(
            "healed", lambda: running() == MOST and sum(replica_nodes().values()) == MOST and
            victim not in replica_nodes(), 300,
        )  # fmt: skip
        log("healed", nodes=sorted(gpu_nodes().values()), new_nodes=len(set(gpu_nodes()) - others), lost=_lost(load))
        whole = load.results["whole"]
        await until("serving again", lambda: load.results["whole"] >= whole + CLIENTS, 120)
        log("serving again", lost=_lost(load))

        await load.stop()
        log("load off", results=dict(load.results))
        await until("no replica", lambda: running() == 0 and not states(), 120)
        log("idle, no replica", nodes=sorted(gpu_nodes().values()))
        await until("no node", lambda: not gpu_nodes(), 180)
        log("idle, no node", bought=bought(log))
    finally:
        watching.cancel()


def _lost(load: Load) -> int:
    return sum(count for result, count in load.results.items() if result != "whole")


def bought(log: Log) -> list[str]:
    """Kinds of node that were ever seen."""
    return sorted({kind for event in log.events if event["event"] == "seen" for kind in event["nodes"]})


def main() -> None:
    log = Log(Path(sys.argv[1]))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ.update(QUIET_RAY | FAST_METRICS | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"})
    with head() as folder:
        import ray
        from ray import serve

        ray.init("auto", configure_logging=False, log_to_driver=False)
        log("cluster", nodes=len(gpu_nodes()))
        serve.start(http_options={"host": "127.0.0.1", "location": "HeadOnly"})
        try:
            asyncio.run(play(log))
        finally:
            logs = sorted((folder / "session_latest" / "logs").rglob("controller_*.log"))
            lines = [line for each in logs for line in each.read_text().splitlines()]
            log("controller", lines=[line for line in lines if " replicas (" in line or "scaling Deployment" in line])


if __name__ == "__main__":
    main()
