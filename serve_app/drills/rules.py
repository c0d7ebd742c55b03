"""The alert rules that are shipped, as a drill needs them: which belong to an incident, and what they ask for."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from serve_app.config import ROOT
from serve_app.observe.promql import metrics

FOLDER = ROOT / "configs" / "alerts"
ENDING = ".rules.yaml"


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert of an incident. `runbook` is where its steps are described."""

    name: str
    severity: str
    summary: str
    description: str
    runbook: str


@dataclass(frozen=True, slots=True)
class Rules:
    """The alerts of one incident by name, the metrics that they read, and the files that define all of it."""

    incident: str
    alerts: Mapping[str, Alert]
    metrics: Set[str]
    files: Sequence[Path]


def rules_of(incident: str, folder: Path = FOLDER) -> Rules:
    """The rules of an incident such as `INC-01`; `OSError` when the folder cannot be read."""
    files = sorted(folder.glob(f"*{ENDING}"))
    every = [rule for file in files for rule in _rules(file)]
    recorded = {str(rule["record"]): str(rule["expr"]) for rule in every if "record" in rule}
    found: dict[str, Alert] = {}
    asked = set[str]()
    for rule in every:
        if "alert" in rule and rule["labels"].get("incident") == incident:
            said = cast(Mapping[str, str], rule["annotations"])
            name = str(rule["alert"])
            found[name] = Alert(
                name, str(rule["labels"]["severity"]), said["summary"], said["description"], said["runbook"]
            )
            asked |= metrics(str(rule["expr"]))
    while names := asked & recorded.keys():
        asked = (asked - names).union(*(metrics(recorded[name]) for name in names))
    return Rules(incident, found, asked, files)


def _rules(file: Path) -> Sequence[Mapping[str, Any]]:
    document = cast(Mapping[str, Any], yaml.safe_load(file.read_text(encoding="utf-8")))
    return [rule for group in document["groups"] for rule in group["rules"]]
