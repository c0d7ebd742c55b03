"""The queries, evaluated by a real Prometheus: what is counted, and what a restart or a new series does to it."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deployments.rollouts import Metric
from serve_app.api.metrics import _SECONDS
from serve_app.canary.figures import _figures, _short, queries
from serve_app.canary.values import OBJECTIVES_MS, Generation
from serve_app.observe.inventory import inventory, labels_of
from serve_app.observe.promql import labels, metrics

NAMES = ("old", "new")
ASKED = queries(NAMES, 600, 5_000, 60_000)
SERIES = {
    # An old pod, and one that is restarted after five minutes: 60 a minute each.
    'gatehouse_requests_total{ray_io_cluster="old",pod="a",dialect="chat",status="200",code=""}': "600+60x20",
    'gatehouse_requests_total{ray_io_cluster="old",pod="b",dialect="chat",status="200",code=""}': "600+60x15 0+60x4",
    # A kind of failure that was never there before: five at once, then no more.
    'gatehouse_requests_total{ray_io_cluster="new",pod="c",dialect="chat",status="200",code=""}': "0+6x20",
    'gatehouse_requests_total{ray_io_cluster="new",pod="c",dialect="chat",status="503",code="upstream_error"}':
        "_x16 5x4",
    'gatehouse_requests_total{ray_io_cluster="new",pod="c",dialect="other",status="500",code="internal_error"}':
        "0+9x20",
    'gatehouse_requests_total{ray_io_cluster="new",pod="c",dialect="chat",status="stream",code="timeout"}': "0x20",
    'gatehouse_requests_total{ray_io_cluster="third",pod="d",dialect="chat",status="200",code=""}': "0+99x20",
    'gen_ai_server_time_to_first_token_seconds_count{ray_io_cluster="new",pod="c",model="m"}': "0+6x20",
    'gen_ai_server_time_to_first_token_seconds_bucket{ray_io_cluster="new",pod="c",model="m",le="5.0"}': "0+3x20",
    'gatehouse_audit_up{ray_io_cluster="old",pod="a"}': "1x20",
    'gatehouse_audit_up{ray_io_cluster="old",pod="b"}': "1x17",
    'gatehouse_audit_up{ray_io_cluster="new",pod="c"}': "1x20",
    'ray_serve_deployment_replica_healthy{ray_io_cluster="new",deployment="Ingress",replica="1"}': "1x20",
    'ray_serve_deployment_replica_healthy{ray_io_cluster="new",deployment="Ingress",replica="2"}': "0x20",
}  # fmt: skip


def evaluated(folder: Path, expected: dict[str, dict[str, float]]) -> str:
    """What promtool says of the queries' values at minute 20; "" when they are as expected."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus); the queries were not evaluated")
    tests = [
        {"expr": ASKED[purpose], "eval_time": "20m",
         "exp_samples": [{"labels": labels, "value": value} for labels, value in values.items()]}
        for purpose, values in expected.items()
    ]  # fmt: skip
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    case = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    file = folder / "queries.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [case]}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_what_is_counted_is_what_happened(tmp_path: Path) -> None:
    old, new = '{ray_io_cluster="old"}', '{ray_io_cluster="new"}'
    said = evaluated(tmp_path, {
        # Ten minutes: 600 of the one, of the other 300 before its restart and 240 after it; all of the new one's.
        "requests": {old: 1_140, new: 65},
        "failed": {new: 5},  # the first sample of a series counts, and so does nothing of other paths
        "first": {new: 60},
        "first in time": {new: 30},
        "age": {old: 180, new: 0},  # the oldest pod of each
        "ingress": {old: 2, new: 1},
        "replicas": {'{deployment="Ingress",ray_io_cluster="new"}': 1},
    })  # fmt: skip
    assert said == ""


def test_a_wrong_expectation_is_found(tmp_path: Path) -> None:
    assert "failed" not in ASKED["first"]
    assert evaluated(tmp_path, {"failed": {'{ray_io_cluster="new"}': 4}}) != ""


def test_every_query_asks_for_what_is_exported() -> None:
    exported = inventory()
    for purpose, query in ASKED.items():
        names = metrics(query)
        assert names, purpose
        assert names <= exported.keys(), purpose
        known = {label for name in names for label in labels_of(exported[name])} | {"ray_io_cluster"}
        assert labels(query) <= known, purpose


def test_objectives_are_bounds_of_the_histograms() -> None:
    assert {bound / 1000 for bound in OBJECTIVES_MS} <= set(map(float, _SECONDS))


def test_shares_of_bad_trials_stay_shares() -> None:
    found = {purpose: {} for purpose in ASKED} | {
        "requests": {("new", ""): 10.0}, "failed": {("new", ""): 12.0},
        "first": {("new", ""): 10.0}, "first in time": {("new", ""): 10.4},
    }  # fmt: skip
    figures = _figures(found)
    assert figures[Metric.ERROR]["new"] == (10.0, 10.0)  # extrapolated at the edges of the window
    assert figures[Metric.TTFT]["new"] == (10.0, 0.0)


@pytest.mark.parametrize(
    ("capacity", "there", "scraped", "said"),
    [(25, 1, 1, None), (50, 1, 2, "1 of 2 of Ingress"), (50, 2, 1, "1 of 2 of Ingress"), (100, 4, 4, None),
     (5, 0, 0, "0 of 1 of Ingress"), (0, 0, 0, None)],
)  # fmt: skip
def test_replicas_are_those_of_the_share_of_the_capacity(
    capacity: int, there: int, scraped: int, said: str | None
) -> None:
    found = {"replicas": {("new", "Ingress"): float(there)}, "ingress": {("new", ""): float(scraped)}}
    short = _short(found, [Generation("new", 0, capacity, well=True)], {"Ingress": 4, "Engine:a:b": 0})
    assert short.get("new") == said
