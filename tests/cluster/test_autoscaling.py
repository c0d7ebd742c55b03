"""The product's policy on a fake cluster: nodes that fit are bought, a dead one is replaced, idle ones are given back.

Minutes. Its timeline is kept: `GATEHOUSE_CLUSTER_LOG`, or `.gatehouse/logs/cluster.jsonl`.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from serve_app.config import ROOT
from tests.cluster.scenario import CLIENTS, MOST, TP

_NAMESPACES = ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]

Story = Mapping[str, Mapping[str, Any]]


def namespaces() -> list[str]:
    """The command that starts a process in namespaces of its own, or a skip that says what is missing."""
    for program in ("unshare", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"the fake cluster needs `{program}`, which is not installed")
    tried = ""
    for command in (_NAMESPACES, [_NAMESPACES[0], "--user", "--map-root-user", *_NAMESPACES[1:]]):
        probe = subprocess.run([*command, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
        if probe.returncode == 0:
            return command
        tried = probe.stderr.strip()
    pytest.skip(f"the fake cluster needs network, process and mount namespaces, which are refused here: {tried}")


@pytest.fixture(scope="module")
def story() -> Story:
    """One run: what was seen, by event. The last of a kind counts."""
    out = Path(os.environ.get("GATEHOUSE_CLUSTER_LOG", ROOT / ".gatehouse" / "logs" / "cluster.jsonl")).absolute()
    done = subprocess.run(
        [*namespaces(), sys.executable, "-m", "tests.cluster.scenario", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=840, check=False,
    )  # fmt: skip
    lines = out.read_text().splitlines() if out.exists() else []
    assert done.returncode == 0, "\n".join([*lines[-20:], done.stderr[-4000:]])
    return {line["event"]: line for line in map(json.loads, lines)}


def test_nothing_runs_before_the_first_request(story: Story) -> None:
    assert (story["deployed"]["replicas"], story["deployed"]["nodes"]) == (0, 0)
    assert story["deployed"]["actor_gpus"] == TP


def test_a_first_request_buys_a_node_that_holds_the_whole_engine(story: Story) -> None:
    assert story["cold start"]["result"] == "whole"
    assert story["cold start"]["nodes"] == ["gpu-x4"]


def test_load_grows_the_tier_onto_a_second_node(story: Story) -> None:
    assert story["grown"]["nodes"] == ["gpu-x4", "gpu-x4"]
    assert story["grown"]["placed"] == [1, MOST - 1]  # two engines of two GPUs fill a node
    assert story["grown"]["lost"] == 0


def test_a_dead_node_is_replaced_and_no_answer_is_cut_without_an_error(story: Story) -> None:
    assert story["killing a node"]["raylets"] == 1
    assert story["healed"]["new_nodes"] >= 1
    assert set(story["load off"]["results"]) <= {"whole", "EngineFailed", "EngineOverloaded"}
    assert story["load off"]["results"]["whole"] >= CLIENTS


def test_idle_goes_to_no_replica_and_then_to_no_node(story: Story) -> None:
    assert story["idle, no replica"]["t"] <= story["idle, no node"]["t"]


def test_no_node_was_bought_that_does_not_fit(story: Story) -> None:
    assert story["idle, no node"]["bought"] == ["gpu-x4"]


def test_the_controller_says_why(story: Story) -> None:
    said = "\n".join(story["controller"]["lines"])
    assert "(queue" in said or "(saturation" in said
