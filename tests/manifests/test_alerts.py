"""Alert rules: each asks for metrics that the product exports, and fires when it should (Prometheus' own promtool)."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.api.metrics import Counters

ALERTS = Path(__file__).parents[2] / "configs" / "alerts"
RULES = sorted(ALERTS.glob("*.rules.yaml"))
_WORDS = {"max", "min", "sum", "absent", "increase", "time", "and", "or", "m", "s"}


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def exported() -> set[str]:
    return {sample.name for family in Counters().registry.collect() for sample in family.samples}


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_alert_asks_for_metrics_that_exist(path: Path) -> None:
    for rule in rules(path):
        names = set(re.findall(r"[a-z_]{2,}", re.sub(r"\[\d+[smh]:?\]", "", rule["expr"]))) - _WORDS
        assert names, rule["alert"]
        assert names <= exported(), rule["alert"]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_alert_says_how_bad_it_is_and_what_to_do(path: Path) -> None:
    for rule in rules(path):
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_alert_has_a_case_in_which_it_fires(path: Path) -> None:
    cases = yaml.safe_load(path.with_name(path.name.replace(".rules.", ".tests.")).read_text())["tests"]
    fired = {each["alertname"] for case in cases for each in case.get("alert_rule_test", []) if each["exp_alerts"]}
    assert {rule["alert"] for rule in rules(path)} == fired


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_the_alerts_fire_when_they_should(path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus); the alert rules were not evaluated")
    tests = path.with_name(path.name.replace(".rules.", ".tests."))
    done = subprocess.run([promtool, "test", "rules", str(tests)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
