"""A tier on a real local Ray Serve: from nothing to one replica, to as many as it may have, and back to nothing.

In a process of its own: how often Serve's parts report is read from the environment when they are imported.
"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from serve_app.config import ROOT
from tests.cluster.tier import FAST_METRICS, QUIET_RAY, Load, Log, deploy, fast_scaling, running, until

_MOST = 2
_CLIENTS = 8  # seats of two replicas: one has a queue and no free seat, two are full and wish for a third


async def scenario(log: Log) -> None:
    """The run, inside a process that is connected to a Ray of its own."""
    client = deploy(fast_scaling(_MOST, down_s=2.0))
    log("deployed", replicas=running())
    log("first answer", result=await Load(client, tokens=5).ask(), replicas=running())
    load = Load(client, tokens=20)
    load.start(_CLIENTS)
    await until("as many replicas as allowed", lambda: running() == _MOST, 60)
    log("under load", replicas=running())
    await load.stop()
    log("load off", results=dict(load.results))
    await until("no replica", lambda: running() == 0, 60)
    log("idle", replicas=running())


def main() -> None:
    import ray
    from ray import serve

    ray.init(address="local", num_cpus=4, include_dashboard=False, configure_logging=False)
    log = Log(Path(sys.argv[1]))
    try:
        asyncio.run(scenario(log))
        logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs" / "serve"
        said = [line for each in logs.glob("controller_*.log") for line in each.read_text().splitlines()]
        log("controller", lines=[line for line in said if " replicas (" in line])
    finally:
        serve.shutdown()
        ray.shutdown()


def test_a_tier_comes_from_zero_grows_and_goes_back(tmp_path: Path) -> None:
    out = tmp_path / "scaling.log"
    done = subprocess.run(
        [sys.executable, "-c", "from tests.engines.test_scaling import main; main()", str(out)],
        cwd=ROOT, env={**os.environ, **FAST_METRICS, **QUIET_RAY}, capture_output=True, text=True, timeout=240,
        check=False, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    seen = {line["event"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert seen["deployed"]["replicas"] == 0
    assert (seen["first answer"]["result"], seen["first answer"]["replicas"]) == ("whole", 1)
    assert seen["under load"]["replicas"] == _MOST
    assert set(seen["load off"]["results"]) == {"whole"}  # nothing was lost while replicas came
    assert seen["idle"]["replicas"] == 0
    assert any("(queue" in line or "(saturation" in line for line in seen["controller"]["lines"])
