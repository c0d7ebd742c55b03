"""Dashboards: what is committed is what the code makes, every query parses, and what it names is really exported."""

import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from serve_app.config import ROOT
from serve_app.observe.dashboards import BOARDS, dashboards
from serve_app.observe.inventory import Family, Kind, Origin, inventory, labels_of
from serve_app.observe.panels import Board, Query
from serve_app.observe.promql import labels, metrics

FOLDER = ROOT / "configs" / "dashboards"
GENERATE = "run `gatehouse manifests generate`"


def queries(board: Board) -> list[tuple[str, Query]]:
    return [(f"{board.name}: {panel.title}", query) for panel in board.panels for query in panel.queries]


EVERY = [each for board in BOARDS for each in queries(board)]


def test_what_is_committed_is_what_the_code_makes() -> None:
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == dict(dashboards()), GENERATE


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_query_asks_for_what_is_exported(board: Board) -> None:
    exported = inventory()
    for where, query in queries(board):
        names = metrics(query.expression)
        assert names, where
        assert names <= exported.keys(), where
        known = {label for name in names for label in labels_of(exported[name])}
        assert labels(query.expression) <= known, where


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_legends_name_labels_that_the_query_keeps(board: Board) -> None:
    exported = inventory()
    for where, query in queries(board):
        kept = set(re.findall(r"{{(\w+)}}", query.legend))
        grouped = {
            name.strip() for found in re.findall(r"by \(([^)]*)\)", query.expression) for name in found.split(",")
        }
        known = {label for name in metrics(query.expression) for label in labels_of(exported[name])}
        assert kept <= (grouped or known), where


def test_everything_that_is_exported_is_on_a_dashboard() -> None:
    exported = inventory()
    shown = {exported[name].name for _, query in EVERY for name in metrics(query.expression)}
    assert {family.name for family in exported.values()} == shown


def test_no_two_panels_overlap() -> None:
    for text in dashboards().values():
        taken = set[tuple[int, int]]()
        for panel in json.loads(text)["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            assert all(x < 24 for x, _ in cells), panel["title"]
            taken |= cells


def checked(folder: Path, expressions: list[str]) -> "subprocess.CompletedProcess[str]":
    """What promtool says of expressions, each of them the expression of a recording rule."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus); the queries were not parsed")
    recorded = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions)]
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    return subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False)


def test_every_query_parses(tmp_path: Path) -> None:
    done = checked(tmp_path, [query.expression for _, query in EVERY])
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_a_query_that_does_not_parse(tmp_path: Path) -> None:
    assert checked(tmp_path, ["sum(rate(gatehouse_requests_total[5m])"]).returncode != 0


# --- what others export -------------------------------------------------------------------------------------------


def sources(package: str, folder: str) -> str:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed; its metrics were not looked up")
    return "\n".join(path.read_text() for path in Path(spec.submodule_search_locations[0], folder).glob("*.py"))


def of(origin: Origin) -> list[Family]:
    return sorted({family.name: family for family in inventory().values() if family.origin is origin}.values(),
                  key=lambda family: family.name)  # fmt: skip


def test_serve_makes_the_metrics_that_are_asked_for() -> None:
    text = sources("ray", "serve/_private")
    for family in of(Origin.SERVE):
        name = family.name.removeprefix("ray_")
        ending = "(?:_total)?" if family.kind is Kind.COUNTER else ""
        assert re.search(rf'{family.kind.value.capitalize()}\(\s*"{name}{ending}"', text), family.name


def test_vllm_makes_the_metrics_that_are_asked_for() -> None:
    text = sources("vllm", "v1/metrics")
    for family in of(Origin.VLLM):
        name = family.name.removeprefix("ray_vllm_")
        assert re.search(rf'_{family.kind.value}_cls\(\s*name="vllm:{name}"', text), family.name


def test_engines_make_the_metrics_that_are_asked_for() -> None:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "deployments").glob("_*.py")))
    found = {name: kind.lower() for kind, name in re.findall(r'metrics\.(\w+)\(\s*"(\w+)"', text)}
    assert found == {family.name.removeprefix("ray_"): family.kind.value for family in of(Origin.ENGINE)}
