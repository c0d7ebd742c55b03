"""What a drill concludes from a recording: the shipped rules, evaluated by the real promtool."""

import shutil
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import pytest

from serve_app.drills import watching
from serve_app.drills.acting import DrillRefused, until
from serve_app.drills.rules import FOLDER, rules_of
from serve_app.drills.watching import Lapse, Prometheus, Recording, read, watch_over

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)
FAILED = 'gatehouse_stream_end_total{dialect="chat",outcome="failed"} '
DONE = 'gatehouse_stream_end_total{dialect="chat",outcome="completed"} '


class Pages:
    """A server whose `/metrics` says `text`, and whose Prometheus API says `api`; 500 when there is nothing."""

    def __init__(self) -> None:
        self.text: str | None = ""
        self.api: Mapping[str, Any] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                import json

                said = outer.text if self.path == "/metrics" else json.dumps(outer.api.get(self.path.split("/")[-1]))
                self.send_response(500 if said is None else 200)
                self.end_headers()
                self.wfile.write((said or "").encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def pages(socket_enabled: None) -> Iterator[Pages]:
    found = Pages()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_the_alerts_of_an_incident_come_with_the_metrics_that_recorded_rules_read() -> None:
    rules = rules_of("INC-02")
    assert {"GatehouseStreamsBreak", "GatehouseTierDown", "GatehouseFailuresBurnFast"} <= rules.alerts.keys()
    assert "GatehouseFirstTokenSlow" not in rules.alerts
    assert "gatehouse_requests_total" in rules.metrics
    assert not [name for name in rules.metrics if ":" in name]
    assert len(rules.files) == len(list(FOLDER.glob("*.rules.yaml")))


def test_a_scrape_is_read_by_name_and_labels() -> None:
    found = read(f"# HELP x y\n{FAILED}3\nother 1\n", {"gatehouse_stream_end_total"})
    assert found == {("gatehouse_stream_end_total", (("dialect", "chat"), ("outcome", "failed"))): 3.0}


def test_what_is_missing_is_a_gap_and_what_failed_is_the_end_of_a_series() -> None:
    recording, key = Recording(), ("m", (("a", 'b"\\'),))
    recording.add(0, {key: 1.0})
    recording.add(2, {key: float("nan")})
    recording.add(3, None)
    recording.add(4, None)
    recording.add(5, {key: float("inf")})
    document = recording.document([Path("/r.yaml")], 15, "x")
    (test,) = document["tests"]
    assert test["input_series"] == [{"series": 'm{a="b\\"\\\\"}', "values": "1.0 _ NaN stale _ +Inf"}]
    assert test["interval"] == "15s"
    assert test["promql_expr_test"][0]["eval_time"] == "75s"


def test_counts_that_go_back_are_noticed_and_gauges_are_not() -> None:
    recording = Recording()
    recording.add(0, {("a_total", ()): 5.0, ("a_gauge", ()): 5.0})
    recording.add(1, {("a_gauge", ()): 1.0})
    assert recording.backwards is None
    recording.add(2, {("a_total", ()): 4.0})
    assert recording.backwards == "a_total"


def broken(streams: int) -> Lapse:
    """A watch of INC-02 over 60 seconds in which `streams` broke at the 30th, as many as were completed."""
    watch = Lapse("http://127.0.0.1:9", rules_of("INC-02"), 15)
    for second in range(60):
        ended = 10 if second < 30 else 10 + streams
        text = f"{DONE}{ended}\n{FAILED}{ended - 10}\n"
        watch._recording.add(second, read(text, {"gatehouse_stream_end_total"}))
    return watch


@needs_promtool
def test_the_rules_fire_over_a_recording_and_say_which() -> None:
    assert broken(6).firing() == {"GatehouseStreamsBreak"}


@needs_promtool
def test_too_little_does_not_make_them_fire() -> None:
    assert broken(0).firing() == frozenset()
    assert broken(2).firing() == frozenset()


@needs_promtool
def test_what_promtool_does_not_understand_is_no_silence() -> None:
    watch = broken(6)
    watch._recording.add(60, {("not a name", ()): 1.0})
    with pytest.raises(DrillRefused, match="does not understand"):
        watch.firing()


@needs_promtool
def test_two_replicas_behind_one_address_are_refused(pages: Pages) -> None:
    pages.text = f"{DONE}5\n"
    watch = Lapse(pages.url, rules_of("INC-02"), 15)
    with watch:
        assert until(lambda: bool(watch._recording._steps), 30)
        pages.text = f"{DONE}1\n"
        assert until(lambda: watch._recording.backwards is not None, 30)
        with pytest.raises(DrillRefused, match="several ingress replicas"):
            watch.firing()


def test_without_anybody_who_evaluates_rules_there_is_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching.shutil, "which", lambda name: None)
    with httpx2.Client(base_url="http://127.0.0.1:9") as http, pytest.raises(DrillRefused, match="install promtool"):
        watch_over(http, rules_of("INC-01"), None, 15)


def test_a_prometheus_is_asked_for_this_incidents_alerts(pages: Pages) -> None:
    rules = rules_of("INC-01")
    pages.api = {
        "rules": {"status": "success", "data": {"groups": [{"rules": [{"name": name} for name in rules.alerts]}]}},
        "alerts": {
            "status": "success",
            "data": {
                "alerts": [
                    {"state": "firing", "labels": {"alertname": "GatehouseFirstTokenSlow", "incident": "INC-01"}},
                    {"state": "pending", "labels": {"alertname": "GatehouseQueueLong", "incident": "INC-01"}},
                    {"state": "firing", "labels": {"alertname": "GatehouseTierDown", "incident": "INC-02"}},
                    {"state": "firing", "labels": {"alertname": "Other"}},
                ]
            },
        },
    }
    with Prometheus(pages.url, rules) as watch:
        assert watch.firing() == {"GatehouseFirstTokenSlow"}


def test_a_prometheus_without_the_rules_is_refused(pages: Pages) -> None:
    pages.api = {"rules": {"status": "success", "data": {"groups": []}}}
    with pytest.raises(DrillRefused, match="is missing"):
        Prometheus(pages.url, rules_of("INC-01")).__enter__()


def test_a_prometheus_that_is_away_is_refused() -> None:
    with pytest.raises(DrillRefused, match="does not answer"):
        Prometheus("http://127.0.0.1:9", rules_of("INC-01")).__enter__()
