"""Alerts of the cluster itself, evaluated by Prometheus' own promtool: each fires when it should, and only then.

Their metrics are those of the operator, of Ray's autoscaler, of kube-state-metrics and of the DCGM exporter, none of
which runs here: their names and labels are as the documentation of each has them. The autoscaler's are in the package.
"""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from tests.manifests.kube import KUBERAY, load

FILES = (
    KUBERAY / "base" / "monitoring" / "rules-ray.yaml", KUBERAY / "components" / "canary-driver" / "alerts.yaml"
)  # fmt: skip
READY = 'kuberay_service_condition_ready{namespace="gatehouse",name="gatehouse",condition="%s"}'
UPGRADES = 'kuberay_service_condition_upgrade_in_progress{namespace="gatehouse",name="gatehouse",condition="%s"}'
PENDING = 'kube_pod_status_phase{namespace="%s",pod="p",phase="%s"}'
HEAD = 'kube_pod_created{namespace="gatehouse",pod="gatehouse-abcde-head",uid="%s"}'
POD = 'kube_pod_created{namespace="gatehouse",pod="gatehouse-abcde-gpu-20b",uid="%s"}'
WORKERS = 'autoscaler_running_workers_nodes{namespace="%s"}'
XID = 'DCGM_FI_DEV_XID_ERRORS{exported_namespace="%s",gpu="0"}'
DRIVER = 'kube_deployment_status_replicas_available{namespace="gatehouse",deployment="%s"}'

Series = Mapping[str, str]
CASES: Mapping[str, tuple[str, Series, Series]] = {
    # alert: (when it is looked, series by which it fires, series by which it does not)
    "GatehouseServiceNotReady": (
        "5m", {READY % "false": "1x60", READY % "true": "0x60"}, {READY % "false": "0x60", READY % "true": "1x60"}
    ),
    "GatehouseReleaseStuck": ("7h", {UPGRADES % "true": "1x900"}, {UPGRADES % "true": "1x300 0x600"}),
    "GatehousePodsPending": (
        "20m", {PENDING % ("gatehouse", "Pending"): "1x60"},
        {PENDING % ("gatehouse", "Running"): "1x60", PENDING % ("other", "Pending"): "1x60"},
    ),
    "GatehouseHeadRestarts": (
        "40m", {HEAD % "1": "1x5", HEAD % "2": "_x10 1x5", HEAD % "3": "_x20 1x40"},
        {HEAD % "1": "1x5", HEAD % "2": "_x10 1x50", POD % "1": "1x5", POD % "2": "_x10 1x5", POD % "3": "_x20 1x5"},
    ),
    "GatehouseAutoscalerGone": ("10m", {WORKERS % "other": "1x60"}, {WORKERS % "gatehouse": "0x60"}),
    "GatehouseGpuError": (
        "5m", {XID % "gatehouse": "79x60"}, {XID % "gatehouse": "0x60", XID % "other": "79x60"}
    ),
    "GatehouseCanaryDriverAway": (
        "20m", {DRIVER % "gatehouse-canary-driver": "0x60", UPGRADES % "true": "1x60"},
        {DRIVER % "gatehouse-canary-driver": "0x60", UPGRADES % "true": "0x60", DRIVER % "other": "0x60"},
    ),
}  # fmt: skip


def rules() -> dict[str, dict[str, Any]]:
    return {
        rule["alert"]: rule
        for path in FILES
        for document in load(path)
        for group in document["spec"]["groups"]
        for rule in group["rules"]
    }


def alerts(folder: Path, name: str, at: str, series: Series, fires: bool) -> str:
    """What promtool says when an alert is expected, or expected not to be; "" when that is so."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus); the cluster's alerts were not evaluated")
    rule = rules()[name]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]}))
    own = {"namespace": "gatehouse"} if rule["expr"].startswith("absent(") else {}  # what it says of what is not there
    expected = [{"exp_labels": own | rule["labels"], "exp_annotations": rule["annotations"]}] if fires else []
    case = {
        "interval": "1m",
        "input_series": [{"series": each, "values": values} for each, values in series.items()],
        "alert_rule_test": [{"eval_time": at, "alertname": name, "exp_alerts": expected}],
    }
    (folder / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [case]})
    )
    done = subprocess.run(
        [promtool, "test", "rules", "tests.yaml"], cwd=folder, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_alert_of_the_cluster_has_a_case() -> None:
    assert CASES.keys() == rules().keys()


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path, name: str) -> None:
    at, firing, silent = CASES[name]
    assert alerts(tmp_path, name, at, firing, fires=True) == ""
    assert alerts(tmp_path, name, at, silent, fires=False) == ""
    assert alerts(tmp_path, name, at, silent, fires=True) != ""  # a wrong expectation is found


def test_the_autoscaler_exports_what_its_alert_looks_for() -> None:
    """`absent` of a name that nobody exports would be true for ever."""
    from ray.autoscaler._private.prom_metrics import AutoscalerPrometheusMetrics

    exported = generate_latest(AutoscalerPrometheusMetrics("session", CollectorRegistry()).registry).decode()
    name = WORKERS.partition("{")[0]
    assert f"\n{name}{{" in exported
    assert name in rules()["GatehouseAutoscalerGone"]["expr"]


def test_a_canary_that_goes_well_is_no_release_that_is_stuck(tmp_path: Path) -> None:
    from serve_app.canary.values import STAGES, Terms

    shortest_s = sum(stage.min_s for stage in STAGES) + Terms().rules.warm_s
    assert shortest_s <= 4 * 3600
    minutes = 2 * shortest_s // 60
    series = {UPGRADES % "true": f"1x{minutes} 0x900"}
    assert alerts(tmp_path, "GatehouseReleaseStuck", f"{minutes}m", series, fires=minutes >= 360) == ""
