"""A real Prometheus scrapes the running graph, whose engines are token clocks, and evaluates the shipped alerts."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
import yaml

from serve_app.config import ROOT
from serve_app.observe.dashboards import BOARDS
from serve_app.observe.inventory import Kind, Origin, ingress_families, inventory
from serve_app.observe.promql import metrics
from tests.serve.conftest import Stack, free_port, start, stop

T = TypeVar("T")
pytestmark = [pytest.mark.observe, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]
WAIT_S = 240.0


def until(what: str, look: Callable[[], T | None]) -> T:
    """The first answer that is neither None nor empty."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.5)
    pytest.fail(f"{what} did not happen within {WAIT_S:g} s")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder, port = tmp_path_factory.mktemp("graph"), free_port()
    document = yaml.safe_load((ROOT / "configs" / "serve.local.yaml").read_text())
    document["http_options"]["port"] = port
    args = document["applications"][0]["args"]
    args |= {"state_dir": str(folder / "state"), "min_memory_gib": 0}
    engine = {"kind": "synthetic", "revision": "r1", "first_token_ms": 5, "token_ms": 2, "num_cpus": 0.1}
    args["models"] = [
        {"tier": tier, "engine": {**engine, "model": f"clock-{tier}"}} for tier in ("20b", "120b")
    ]  # fmt: skip
    config = folder / "serve.test.yaml"
    config.write_text(yaml.safe_dump(document))
    running = start(config, port, folder / "state", folder / "output.txt")
    yield running
    stop(running.process)


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> Any:
        reply = httpx2.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert reply["status"] == "success", (parameters, reply)
        return reply["data"]

    def ready(self) -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/-/ready", timeout=5).is_success
        return False

    def states(self) -> dict[str, str]:
        groups = self.ask("rules", type="alert")["groups"]
        return {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}


@pytest.fixture(scope="module")
def prometheus(graph: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: prometheus); nothing was scraped")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    settings = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "configs" / "alerts" / "*.rules.yaml")],
        "scrape_configs": [
            {"job_name": "gatehouse", "static_configs": [{"targets": [graph.url.removeprefix("http://")]}]}
        ],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(settings))
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [program, f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        found = Prometheus(f"http://127.0.0.1:{port}")
        until(f"Prometheus' start ({Path(folder, 'output.txt')})", found.ready)
        yield found
    finally:
        process.terminate()
        process.wait(60)


def answered(graph: Stack, count: int) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20, "stream": True}
    with graph.http() as http:
        for _ in range(count):
            assert http.post("/v1/chat/completions", json=body).status_code == 200


def test_the_graph_is_scraped_and_every_rule_and_panel_is_understood(graph: Stack, prometheus: Prometheus) -> None:
    answered(graph, 3)
    until("a scrape", lambda: [each for each in prometheus.ask("targets")["activeTargets"] if each["health"] == "up"])
    name = "gen_ai_server_time_to_first_token_seconds_count"
    until("the count of answers", lambda: prometheus.ask("query", query=f"sum({name}) >= 3")["result"])
    stored = set(prometheus.ask("label/__name__/values"))
    gauges = {each.name for each in ingress_families() if each.kind is Kind.GAUGE and not each.labels}
    assert gauges - {"gatehouse_shadow_up"} <= stored  # there is no shadow bundle
    for group in prometheus.ask("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] in {"ok", "unknown"}, rule
    for board in BOARDS:
        for panel in board.panels:
            for query in panel.queries:
                prometheus.ask("query", query=query.expression)
    exported = inventory()
    for panel in BOARDS[0].panels:
        figure = panel.queries[0].expression
        own = all(exported[each].origin is Origin.INGRESS for each in metrics(figure))
        if panel.stat and own and "rate(" not in figure:
            assert prometheus.ask("query", query=figure)["result"], panel.title


def test_a_budget_that_is_spent_goes_off_and_nothing_else_does(graph: Stack, prometheus: Prometheus) -> None:
    until("an evaluation", lambda: "GatehouseAuditDown" in prometheus.states())
    assert prometheus.states()["GatehouseBudgetSpent"] == "inactive"
    body = {"tenant": "default", "tokens": 1, "window": "day", "hard": False}
    with graph.operator() as http:
        made = http.post("/v1/admin/budgets", json=body).raise_for_status().json()
    answered(graph, 1)
    until("the alert", lambda: prometheus.states()["GatehouseBudgetSpent"] == "firing")
    (alert,) = [each for each in prometheus.ask("alerts")["alerts"] if each["state"] == "firing"]
    assert (alert["labels"]["alertname"], alert["labels"]["budget"]) == ("GatehouseBudgetSpent", made["id"])
    assert alert["labels"]["scope"] == "tenant"
    with graph.operator() as http:
        http.delete(f"/v1/admin/budgets/{made['id']}").raise_for_status()
    until("the end of the alert", lambda: prometheus.states()["GatehouseBudgetSpent"] == "inactive")


def test_a_crash_goes_off_in_a_drill(graph: Stack, prometheus: Prometheus) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve_app", "drill", "inc-02", "--prometheus", prometheus.url, "--json"],
        capture_output=True, text=True, timeout=850, check=False, env=graph.environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["watch"] == f"Prometheus at {prometheus.url}"
    assert report["alert"]["name"] == "GatehouseStreamsBreak"
    said = graph.cli("status", "--prometheus", prometheus.url, "--json", check=False)
    assert said.returncode == 1, said.stdout + said.stderr
    assert "GatehouseStreamsBreak" in {each["name"] for each in json.loads(said.stdout)["facts"]["alerts"]}


def test_a_graph_that_is_away_goes_off(graph: Stack, prometheus: Prometheus) -> None:
    stop(graph.process)
    until("the alert", lambda: prometheus.states()["GatehouseIngressGone"] == "firing")
    silent = {"GatehouseAuditDown", "GatehouseLedgerDown", "GatehouseApprovalsDown", "GatehouseGateCanaryMissing"}
    assert not silent & {name for name, state in prometheus.states().items() if state == "firing"}
