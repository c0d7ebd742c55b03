"""The RayService of an overlay on a fake cluster of its own groups: what `test_rayservice.py` looks at.

Real: Ray's autoscaler with the groups as it reads them from the manifest, one raylet for each pod, Serve, its REST
interface as the operator uses it, the graph, a request through a proxy. Fake: GPUs, the engines (a token clock with the
placement of the real one), one machine instead of many. Run as the first process of namespaces of its own:
`python -m tests.cluster.rayservice LOG`.
"""

import asyncio
import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from serve_app.config import ROOT
from tests.cluster.scenario import cluster_config
from tests.cluster.tier import QUIET_RAY, Log, until
from tests.manifests.kube import KUBERAY, World, load
from tests.manifests.rules_serve import node_types

OVERLAY = "l"
_STORE_BYTES = 80 << 20


def groups(world: World) -> dict[str, dict[str, Any]]:
    """The node types of the manifest, as Ray's autoscaler reads them, for the provider of fake nodes."""
    found: dict[str, dict[str, Any]] = {}
    for name, kind in node_types(world).items():
        if name == "headgroup":
            continue
        # Without memory, which the provider of fake nodes takes for a resource of ours; nothing asks for it.
        resources = {key: value for key, value in kind["resources"].items() if key != "memory"}
        resources["object_store_memory"] = _STORE_BYTES
        found[name] = {"node_config": {}, "resources": resources, "labels": kind["labels"],
                       "min_workers": kind["min_workers"], "max_workers": kind["max_workers"]}  # fmt: skip
    return found


def serve_document(world: World, state: Path) -> dict[str, Any]:
    """serveConfigV2 with what only a cluster has taken out: paths of pods, the database, weights. Placements stay."""
    document = copy.deepcopy(world.serve)
    args = document["applications"][0]["args"]
    args["state_dir"] = str(state)
    args["vocabulary_dir"] = str(ROOT / ".gatehouse" / "vocabulary")
    args.pop("store_url", None)
    for key in ("signing_key_file", "vault_key_file"):
        args["audit"].pop(key)
    for holder, key in ((args, "routing_policy"), (args["gate"], "bundle"), (args["rollout"]["eval"], "suite")):
        holder[key] = holder[key].replace("/opt/gatehouse", str(ROOT))
    for model in args["models"]:
        engine = model["engine"]
        kept = {key: engine[key] for key in ("model", "revision", "max_model_len", "scaling", "affinity", "drain_s",
                                             "request_deadline_s") if key in engine}  # fmt: skip
        model["engine"] = {"kind": "synthetic", "max_num_seqs": 8, "first_token_ms": 50.0, "token_ms": 5.0, **kept}
    return document


@contextlib.contextmanager
def head(world: World) -> Iterator[Path]:
    """The head, which serves nothing, and its autoscaler. The namespace ends whatever is left."""
    folder = Path(tempfile.mkdtemp(prefix="ghr", dir="/tmp"))  # the path of a Unix socket must be short
    config = cluster_config()
    types = groups(world)
    config["max_workers"] = sum(kind["max_workers"] for kind in types.values())
    config["available_node_types"] = {
        "ray.head.default": {"node_config": {}, "min_workers": 0, "max_workers": 0, "resources": {"CPU": 0}},
        **types,
    }
    identity = config["provider"]["head_node_id"]
    environment = {
        **QUIET_RAY,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_CLOUD_INSTANCE_ID": identity,
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": identity,
        "RAY_enable_autoscaler_v2": "1",
    }
    try:
        path = folder / "cluster.json"
        path.write_text(json.dumps(config))
        subprocess.run(
            [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--autoscaling-config={path}",
             f"--temp-dir={folder}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=true",
             "--dashboard-host=127.0.0.1", "--dashboard-port=8265", f"--object-store-memory={_STORE_BYTES}",
             "--node-ip-address=127.0.0.1"],
            cwd=ROOT, env={**os.environ, **environment}, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr,
            timeout=180,
        )  # fmt: skip
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def nodes() -> dict[str, str]:
    """Living nodes: id -> the group whose resources it announces."""
    import ray

    marks = {"gatehouse-state": "state", "gatehouse-edge": "edge", "gatehouse-20b": "20b", "gatehouse-120b": "120b"}
    found: dict[str, str] = {}
    for node in ray.nodes():
        if node["Alive"]:
            found[node["NodeID"]] = next((group for mark, group in marks.items() if mark in node["Resources"]), "head")
    return found


def details(client: httpx2.Client) -> dict[str, Any]:
    """Serve's applications by name, as the operator polls them."""
    reply = client.get("/api/serve/applications/")
    return reply.json()["applications"] if reply.status_code == 200 else {}


def placed(application: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Deployment -> group -> running replicas."""
    where = nodes()
    return {
        name: dict(Counter(where.get(each["node_id"], "?") for each in each_["replicas"] if each["state"] == "RUNNING"))
        for name, each_ in application["deployments"].items()
    }


def wait(what: str, holds: Callable[[], bool], limit_s: float) -> None:
    """`until`, where nothing else happens meanwhile."""
    asyncio.run(until(what, holds, limit_s))


def play(log: Log, state: Path, world: World) -> None:
    """Submit, wait, look, ask."""
    document = serve_document(world, state)
    least = Counter({kind: group["min_workers"] for kind, group in groups(world).items()})
    with httpx2.Client(base_url="http://127.0.0.1:8265", timeout=60) as operator:
        wait("the pods that always run", lambda: len(nodes()) == 1 + sum(least.values()), 240)
        log("nodes", nodes=dict(Counter(nodes().values())))
        reply = operator.put("/api/serve/applications/", json=document)
        log("submitted", status=reply.status_code, said=reply.text[:500])
        reply.raise_for_status()

        def settled() -> bool:
            status = details(operator).get("gatehouse", {}).get("status")
            if status == "DEPLOY_FAILED":
                raise AssertionError(details(operator)["gatehouse"].get("message"))
            return status == "RUNNING"

        try:
            wait("the application runs", settled, 420)
        finally:
            application = details(operator).get("gatehouse", {})
            log("application", status=application.get("status"), message=str(application.get("message"))[-2000:],
                proxies=len(operator.get("/api/serve/applications/").json().get("proxies", {})))  # fmt: skip
        log("placed", placed=placed(application), nodes=dict(Counter(nodes().values())))
    with httpx2.Client(base_url="http://127.0.0.1:8000", timeout=60) as client:
        wait("an operator's key", lambda: (state / "operator.key").is_file(), 60)
        bearer = {"authorization": f"Bearer {(state / 'operator.key').read_text().strip()}"}
        spec = {"tenant": "default", "name": "test", "scopes": ["inference"]}
        made = client.post("/v1/admin/keys", json=spec, headers=bearer)
        log("key", status=made.status_code, said="" if made.is_success else made.text[:500])
        bearer = {"authorization": f"Bearer {made.json()['key']}"}

        def recorded(model: str) -> bool:
            body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
            answer = client.post("/v1/chat/completions", json=body, headers=bearer)
            headers, said = answer.headers, "" if answer.is_success else answer.text[:500]
            log("answer", model=model, status=answer.status_code, by=headers.get("x-gatehouse-model"),
                record=headers.get("x-gatehouse-audit-index"), said=said)  # fmt: skip
            return answer.is_success and "x-gatehouse-audit-index" in headers

        # Text leaves without a record while the log is slow to answer, as on a machine that has just started this.
        for model in ("gpt-oss-20b", "gpt-oss-120b"):
            wait(f"an answer of {model} with a record", partial(recorded, model), 120)


def main() -> None:
    log = Log(Path(sys.argv[1]))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ.update(QUIET_RAY | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "GATEHOUSE_OFFLINE": "1"})
    world = World(load(KUBERAY / "rendered" / f"{OVERLAY}.yaml"))
    with head(world) as folder:
        import ray

        ray.init("auto", configure_logging=False, log_to_driver=False)
        try:
            play(log, folder / "state", world)
        except BaseException:
            logs = folder / "session_latest" / "logs"
            for each in [*sorted(logs.glob("monitor*")), *sorted(logs.glob("serve/*"))]:
                print(f"--- {each.name}", *each.read_text().splitlines()[-15:], sep="\n", file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
