"""The largest overlay's RayService on a fake cluster of its own groups: every part is where the manifest says.

Minutes. Its timeline is kept: `GATEHOUSE_RAYSERVICE_LOG`, or `.gatehouse/logs/rayservice.jsonl`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from serve_app.config import ROOT
from tests.cluster.rayservice import OVERLAY, groups
from tests.cluster.test_autoscaling import namespaces
from tests.manifests.kube import KUBERAY, World, load
from tests.manifests.rules_serve import STATEFUL, wanted

WORLD = World(load(KUBERAY / "rendered" / f"{OVERLAY}.yaml"))
Story = Mapping[str, Sequence[Mapping[str, Any]]]


@pytest.fixture(scope="module")
def story() -> Story:
    """One run: what was seen, by event."""
    if not (ROOT / ".gatehouse" / "vocabulary" / "o200k_base.tiktoken").is_file():
        pytest.skip("the vocabulary is not there (gatehouse demo prepare); the RayService was not deployed")
    out = Path(os.environ.get("GATEHOUSE_RAYSERVICE_LOG", ROOT / ".gatehouse" / "logs" / "rayservice.jsonl")).absolute()
    done = subprocess.run(
        [*namespaces(), sys.executable, "-m", "tests.cluster.rayservice", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=880, check=False,
    )  # fmt: skip
    lines = out.read_text().splitlines() if out.exists() else []
    assert done.returncode == 0, "\n".join([*lines[-20:], done.stderr[-6000:]])
    found: dict[str, list[Mapping[str, Any]]] = {}
    for line in map(json.loads, lines):
        found.setdefault(line["event"], []).append(line)
    return found


def test_the_autoscaler_starts_the_pods_that_always_run_and_no_others(story: Story) -> None:
    kinds = groups(WORLD)
    assert story["nodes"][0]["nodes"] == {
        "head": 1,
        "state": kinds["state"]["min_workers"],
        "edge": kinds["edge"]["min_workers"],
        "20b": kinds["gpu-20b"]["min_workers"] + kinds["gpu-20b-spot"]["min_workers"],
        "120b": kinds["gpu-120b"]["min_workers"],
    }
    assert story["placed"][0]["nodes"] == story["nodes"][0]["nodes"]  # the application needs no more than these


def test_serve_takes_the_configuration_and_runs_it(story: Story) -> None:
    assert story["submitted"][0]["status"] == 200
    assert story["application"][0]["status"] == "RUNNING"


def test_every_replica_is_in_a_pod_of_its_part(story: Story) -> None:
    placed = story["placed"][0]["placed"]
    least = {name: count for name, (count, _) in wanted(WORLD.config).items()}
    homes = dict.fromkeys(STATEFUL, "state") | {"Ingress": "edge"}
    homes |= {name: "120b" if "120b" in name else "20b" for name in least if name.startswith("Engine:")}
    assert placed == {name: {homes[name]: least[name]} for name in least}


def test_a_request_to_each_tier_is_answered_and_recorded(story: Story) -> None:
    answers = {each["model"]: each for each in story["answer"]}  # the last of each
    assert answers.keys() == {"gpt-oss-20b", "gpt-oss-120b"}
    for model, answer in answers.items():
        assert (answer["status"], answer["by"]) == (200, model)
        assert int(answer["record"]) >= 0
