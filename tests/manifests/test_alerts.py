"""Alert rules: each asks for metrics that the product exports, and fires when it should (Prometheus' own promtool)."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config import ROOT
from serve_app.observe.dashboards import FAILED
from serve_app.observe.inventory import inventory, labels_of
from serve_app.observe.promql import labels, metrics

ALERTS = ROOT / "configs" / "alerts"
RULES = sorted(ALERTS.glob("*.rules.yaml"))
INCIDENTS = {"INC-01", "INC-02", "INC-03", "INC-04"}


def all_rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for rule in all_rules(path) if "alert" in rule]


def cases(path: Path) -> list[dict[str, Any]]:
    tests = path.with_name(path.name.replace(".rules.", ".tests."))
    return [
        each
        for case in yaml.safe_load(tests.read_text())["tests"]
        for each in case.get("alert_rule_test", [])
    ]  # fmt: skip


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_rule_asks_for_metrics_that_exist(path: Path) -> None:
    exported = inventory()
    recorded = {rule["record"] for rule in all_rules(path) if "record" in rule}
    for rule in all_rules(path):
        names = metrics(rule["expr"])
        assert names, rule
        assert names - recorded <= exported.keys(), rule
        known = {label for name in names - recorded for label in labels_of(exported[name])}
        assert labels(rule["expr"]) <= known, rule


def test_no_alert_has_the_name_of_another() -> None:
    names = [rule["alert"] for path in RULES for rule in rules(path)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_alert_says_how_bad_it_is_and_what_to_do(path: Path) -> None:
    headings = re.findall(r"(?m)^### (\w+)$", (ROOT / "docs" / "observability.md").read_text())
    for rule in rules(path):
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["labels"].get("incident", "INC-01") in INCIDENTS
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/observability.md#{rule['alert'].lower()}"
        assert rule["alert"] in headings


def test_every_incident_of_the_runbook_has_alerts() -> None:
    assert {rule["labels"].get("incident") for path in RULES for rule in rules(path)} - {None} == INCIDENTS


def test_alerts_and_dashboards_mean_the_same_by_a_failure() -> None:
    said = set(re.findall(r"code=~\"[^\"]+\"", (ALERTS / "slo.rules.yaml").read_text()))
    assert said == {FAILED}


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(path: Path) -> None:
    own = {rule["alert"] for rule in rules(path)}
    assert {each["alertname"] for each in cases(path) if each["exp_alerts"]} == own
    assert {each["alertname"] for each in cases(path) if not each["exp_alerts"]} == own


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_the_alerts_fire_when_they_should(path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus); the alert rules were not evaluated")
    tests = path.with_name(path.name.replace(".rules.", ".tests."))
    done = subprocess.run([promtool, "test", "rules", str(tests)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
