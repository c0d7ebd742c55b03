"""Whatever part of a cluster dies, leaves or is cut off: no answer is cut unsaid, no record lost, nobody pays twice.

A quarter of an hour. Its timeline is kept: `GATEHOUSE_RESILIENCE_LOG`, or `.gatehouse/logs/resilience.jsonl`;
`docs/resilience.md` says what it shows. `GATEHOUSE_RESILIENCE=drain,cut` plays some of it;
`GATEHOUSE_RESILIENCE_PACE=2` is for a machine that is busy with much else.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from serve_app.config import ROOT
from serve_app.demo.vocabulary import VocabularyUnavailable, ensure_vocabulary
from tests.cluster.test_autoscaling import namespaces
from tests.resilience.nodes import PACE
from tests.resilience.scenario import SCENARIOS

Scenes = Mapping[str, Mapping[str, Any]]
_NAMES = os.environ.get("GATEHOUSE_RESILIENCE", ",".join(SCENARIOS)).split(",")
if not set(_NAMES) <= set(SCENARIOS):
    raise pytest.UsageError(f"GATEHOUSE_RESILIENCE is made of {', '.join(SCENARIOS)}, not {', '.join(_NAMES)}")
_KILLS_AN_INGRESS = {"kill-ingress", "kill-worker"}
"""What waited in it is gone with it: charged as an estimate, with a record of how the request began alone."""


@pytest.fixture(scope="module")
def lines() -> list[Mapping[str, Any]]:
    """One run: what was seen."""
    if shutil.which("redis-server") is None:
        pytest.skip("the head's memory needs redis-server, which is not installed (apt-get install redis-server)")
    try:
        ensure_vocabulary(ROOT / ".gatehouse" / "vocabulary", print, os.environ)
    except VocabularyUnavailable as error:
        pytest.skip(f"the graph was not deployed: {error}")
    out = ROOT / ".gatehouse" / "logs" / "resilience.jsonl"
    out = Path(os.environ.get("GATEHOUSE_RESILIENCE_LOG", out)).absolute()
    folder = Path(tempfile.mkdtemp(prefix="ghr"))
    try:
        done = subprocess.run(
            [*namespaces(), sys.executable, "-m", "tests.resilience.scenario", str(out), str(folder), *_NAMES],
            cwd=ROOT, capture_output=True, text=True, timeout=3500 * PACE, check=False,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seen = out.read_text().splitlines() if out.exists() else []
    assert done.returncode == 0, "\n".join([*seen[-10:], done.stderr[-6000:]])
    return [json.loads(line) for line in seen]


@pytest.fixture(scope="module")
def scenes(lines: list[Mapping[str, Any]]) -> Scenes:
    """What became of each scenario."""
    return {line["scenario"]: line for line in lines if line["event"] == "scenario"}


@pytest.mark.parametrize("name", _NAMES)
def test_nothing_happens_that_must_not(scenes: Scenes, name: str) -> None:
    scene = scenes[name]
    assert {fault: found for fault, found in scene["faults"].items() if found} == {}
    assert scene["figures"]["answered"] > 0


@pytest.mark.parametrize("name", _NAMES)
def test_it_comes_back(scenes: Scenes, name: str) -> None:
    assert scenes[name]["figures"]["answered after it was well"] > 0


@pytest.mark.parametrize("name", _NAMES)
def test_receipts_were_given_and_none_is_void(scenes: Scenes, name: str) -> None:
    figures = scenes[name]["figures"]
    assert figures["acknowledged"] > 0
    assert figures["acknowledged and lost"] == 0


@pytest.mark.parametrize("name", [name for name in _NAMES if name not in _KILLS_AN_INGRESS])
def test_whatever_an_ingress_knew_reaches_log_and_books(scenes: Scenes, name: str) -> None:
    figures = scenes[name]["figures"]
    kept = figures["answered without a record of the end"], figures["answered, charged an estimate"]
    assert kept == (0, 0)


def test_the_log_is_whole(lines: list[Mapping[str, Any]]) -> None:
    (log,) = [line for line in lines if line["event"] == "log"]
    assert log["verify"] == 0, log["said"]


@pytest.mark.skipif("drain" not in _NAMES, reason="was not played")
def test_a_drained_machine_cuts_nobody_off(scenes: Scenes) -> None:
    figures = scenes["drain"]["figures"]
    assert (figures["of these error events"], figures["connections to a dead machine"]) == (0, 0)


@pytest.mark.skipif("upgrade" not in _NAMES, reason="was not played")
def test_an_upgrade_cuts_nobody_off(scenes: Scenes) -> None:
    figures = scenes["upgrade"]["figures"]
    assert (figures["of these error events"], figures["connections to a dead machine"]) == (0, 0)


@pytest.mark.skipif("kill-head" not in _NAMES, reason="was not played")
def test_replicas_outlive_the_head(lines: list[Mapping[str, Any]]) -> None:
    (back,) = [line for line in lines if line["event"] == "head is back"]
    assert back["same_replicas"]
    assert back["replicas"] > 0
