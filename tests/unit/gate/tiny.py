"""A small bundle with the shipped tables, profiles and raises, for tests that read many bundles."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deployments.gate.policy import BUNDLE_DIRECTORY
from deployments.gate.source import read_source

TINY = """
effects:
  write: {class: R2}
words:
  name: "[a-z0-9-]+"
environment: [LANG]
program_directories: [/usr/bin]
sinks: [/dev/null]
targets:
  runner:
    - {match: ["@default"], env: nonprod}
  path:
    - {match: ["*/.env", "*.pem"], env: prod, sensitivity: sensitive}
    - {match: [".", "./*"], env: nonprod, workspace: true}
    - {match: ["*"], env: prod}
  host:
    - {match: ["169.254.*", metadata.google.internal, "fd00:ec2::254", "100.100.100.200"], env: prod,
       sensitivity: sensitive, class: FORBIDDEN}
    - {match: [localhost], env: nonprod}
    - {match: [mirror.example.com], env: nonprod, egress: listed}
  place:
    - {match: ["@default", lab], env: nonprod}
    - {match: [vault], sensitivity: sensitive}
    - {match: ["*"], env: prod}
tools:
  - {adapter: shell, names: [shell], command: [command], examples: [{arguments: {command: ls}, risk: R0}]}
  - {adapter: fields, names: [Write], fields: {path: file, text: text}, class: R2, reason: writes, standing: true,
     examples: [{arguments: {path: a, text: b}, risk: R2, covered: true}]}
programs:
  ls: {flags: [-l], args: ["file*"]}
  rm: {flags: [-f], args: ["file*"]}
  curl: {args: [url]}
  ship: {inherited: ["--to=place"], targets: [place], args: [name], sub: {list: {args: [name]}}}
rules:
  - {id: file.list, commands: [ls], class: R0, reason: lists files, match: [ls, ls -l src], not_match: [ls .env]}
  - {id: file.delete, commands: [rm], class: R2, reason: deletes files, standing: true, match: [rm x]}
  - {id: http.get, commands: [curl], class: R0, reason: reads, match: ["curl http://localhost/"]}
  - {id: ship.list, commands: [ship list], class: R0, reason: lists, match: [ship list a]}
  - {id: ship.go, commands: [ship], class: "R2|R3", reason: ships, match: [ship web], not_match: [ship web --to sea]}
"""


def tiny() -> dict[str, Any]:
    """The bundle as plain values, to be changed and written."""
    return deepcopy(_tiny())


@cache
def _tiny() -> dict[str, Any]:
    said: dict[str, Any] = {"version": 1, "name": "tiny", **yaml.safe_load(TINY)}
    said["table"] = dict(read_source(BUNDLE_DIRECTORY / "default.yaml")["table"])
    said["raises"] = list(read_source(BUNDLE_DIRECTORY / "tools.yaml")["raises"])
    said["profiles"] = {}
    for pack in ("ops", "coding", "observe"):
        said["profiles"] |= dict(read_source(BUNDLE_DIRECTORY / "packs" / f"{pack}.yaml")["profiles"])
    return said


def write(directory: Path, said: dict[str, Any], name: str | None = None) -> Path:
    """The bundle as a file of its name."""
    path = directory / f"{name or said['name']}.yaml"
    path.write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")
    return path
