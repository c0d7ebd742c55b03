"""What every drill does around its failure: who may, what is on record, and what is put away whatever happens."""

import json
from collections.abc import Callable, Set
from types import TracebackType
from typing import Any, Self

import httpx2
import pytest
from typer.testing import CliRunner

from serve_app.cli import drill as command
from serve_app.drills import conduct as conducting
from serve_app.drills.acting import DrillRefused, DrillReport
from serve_app.drills.conduct import Stage, Wishes, conduct
from serve_app.drills.inc02 import PLAN


class Site:
    """A Gatehouse as far as a drill sees it."""

    def __init__(self) -> None:
        self.demonstration = True
        self.keys: set[str] = set()
        self.records: list[dict[str, Any]] = []
        self.refuses: str | None = None
        self.slow: set[str] = set()
        self.parts = {"gate": "ready", "engine:demo-120b": "ready"}

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        path, body = request.url.path, json.loads(request.content or b"{}")
        if self.refuses is not None and path.startswith(self.refuses):
            return httpx2.Response(403, json={"error": {"message": "This key does not have the scope 'admin'."}})
        if path == "/v1/audit/head":
            return httpx2.Response(200, json={"size": len(self.records)})
        if path == "/v1/models":
            card = {"id": "gpt-oss-20b", "tier": "20b", "demonstration": self.demonstration}
            return httpx2.Response(200, json={"data": [card]})
        if path == "/v1/admin/keys":
            made = f"key_{len(self.keys)}"
            self.keys.add(made)
            return httpx2.Response(201, json={"key": f"gh-{made}", "id": made})
        if path == "/readyz":
            return httpx2.Response(200 if {*self.parts.values()} == {"ready"} else 503, json={"parts": self.parts})
        if path.startswith("/v1/admin/keys/"):
            if path.rpartition("/")[2] in self.slow:
                raise httpx2.ReadTimeout("too slow", request=request)
            self.keys.discard(path.rpartition("/")[2])
            return httpx2.Response(200, json={})
        if path == "/v1/incidents":
            return self._record("incident.opened", body, "inc_1")
        if path == "/v1/incidents/inc_1/close":
            return self._record("incident.closed", body, "inc_1")
        if path.startswith("/v1/changes/"):
            return self._record("change.closed", body | {"change_id": path.split("/")[3]}, "chg")
        if path == "/v1/audit/records":
            return httpx2.Response(200, json={"data": self.records, "next": None})
        if path == "/v1/audit/keys":
            return httpx2.Response(200, json={"keys": ["log"]})
        return httpx2.Response(404, json={})

    def _record(self, name: str, body: dict[str, Any], made: str) -> httpx2.Response:
        record = {"name": name, "change_id": body["change_id"], "data": body}
        self.records.append({"index": len(self.records), "record": record})
        return httpx2.Response(201, json={"id": made})

    def names(self) -> list[str]:
        return [each["record"]["name"] for each in self.records]


class Alerts:
    """A watch that is told what fires."""

    how = "a script"

    def __init__(self, *names: str) -> None:
        self.names: Set[str] = frozenset(names)

    def firing(self) -> Set[str]:
        return self.names

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(conducting, "proves", lambda operator, record, log_key: log_key == "log")
    monkeypatch.setattr(conducting, "_PROVEN_S", 0.1)
    return Site()


@pytest.fixture
def alerts(monkeypatch: pytest.MonkeyPatch) -> Alerts:
    found = Alerts()
    monkeypatch.setattr(conducting, "watch_over", lambda http, rules, prometheus, lapse_s: found)
    return found


def run(site: Site, fail: Callable[[Stage], None], wishes: Wishes | None = None) -> DrillReport:
    with httpx2.Client(base_url="http://gatehouse", transport=httpx2.MockTransport(site.answer)) as http:
        return conduct(PLAN, http, "gh-root", lambda line: None, wishes or Wishes(), fail)


def detected(alerts: Alerts) -> Callable[[Stage], None]:
    def fail(stage: Stage) -> None:
        assert not stage.fires()
        alerts.names = {PLAN.alert, "GatehouseTierDown"}
        assert stage.fires()
        stage.findings.add("it broke", True, "yes")

    return fail


def test_what_is_noticed_is_on_record_and_nothing_stays_behind(site: Site, alerts: Alerts) -> None:
    report = run(site, detected(alerts))
    assert report.ok
    assert site.keys == set()
    assert site.names() == ["incident.opened", "incident.closed", "change.closed"]
    assert {each["record"]["change_id"] for each in site.records} == {report.change_id}
    assert site.records[1]["record"]["data"]["outcome"] == "detected"
    said = report.to_json()
    assert said["alert"]["name"] == PLAN.alert
    assert said["alert"]["others"] == ["GatehouseTierDown"]
    assert said["runbook"]["document"] == "docs/runbook.md"


def test_what_nobody_notices_fails_the_drill(site: Site, alerts: Alerts) -> None:
    del alerts
    report = run(site, lambda stage: None)
    assert [each.what for each in report.findings if not each.held] == [f"the alert {PLAN.alert} fires"]
    assert site.records[1]["record"]["data"]["outcome"] == "undetected"


def test_another_alert_than_the_one_that_must_is_no_detection(site: Site, alerts: Alerts) -> None:
    def fail(stage: Stage) -> None:
        alerts.names = {"GatehouseTierDown"}
        assert not stage.fires()

    assert not run(site, fail).ok


def test_a_drill_that_breaks_off_leaves_no_key_and_no_open_incident(site: Site, alerts: Alerts) -> None:
    del alerts

    def fail(stage: Stage) -> None:
        raise DrillRefused("the engine is somewhere else")

    with pytest.raises(DrillRefused, match="somewhere else"):
        run(site, fail)
    assert site.keys == set()
    assert site.names() == ["incident.opened", "incident.closed"]
    assert site.records[1]["record"]["data"]["outcome"] == "broken_off"


def test_records_without_a_proof_fail_the_drill(site: Site, alerts: Alerts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conducting, "proves", lambda operator, record, log_key: record["index"] == 0)
    report = run(site, detected(alerts))
    assert [each.seen for each in report.findings if not each.held] == ["1 of 3 proofs verify"]


def test_an_alert_that_fires_already_ends_it_before_anything_is_broken(site: Site, alerts: Alerts) -> None:
    alerts.names = {PLAN.alert}
    with pytest.raises(DrillRefused, match="fires already"):
        run(site, lambda stage: pytest.fail("it broke something"))
    assert site.names() == []
    assert site.keys == set()


def test_what_burns_already_gets_no_second_failure(site: Site, alerts: Alerts) -> None:
    del alerts
    site.parts["engine:demo-120b"] = "down"
    with pytest.raises(DrillRefused, match=r"not ready \(engine:demo-120b\): look after that first"):
        run(site, lambda stage: pytest.fail("it broke something"))
    assert (site.names(), site.keys) == ([], set())


@pytest.mark.parametrize("why", [None, "the engine is somewhere else"], ids=["through", "broken off"])
def test_one_key_that_cannot_be_revoked_does_not_save_the_others_and_is_named(
    site: Site, alerts: Alerts, why: str | None
) -> None:
    site.slow = {"key_0"}

    def fail(stage: Stage) -> None:
        if why is not None:
            raise DrillRefused(why)
        detected(alerts)(stage)

    with pytest.raises(DrillRefused, match=rf"{why or ''}.*stays behind.*DELETE /v1/admin/keys/key_0$"):
        run(site, fail)
    assert site.keys == {"key_0"}


def test_where_people_depend_on_it_nothing_is_broken_unasked(site: Site, alerts: Alerts) -> None:
    site.demonstration = False
    with pytest.raises(DrillRefused, match="--production"):
        run(site, lambda stage: pytest.fail("it broke something"))
    assert site.keys == set()
    with pytest.raises(DrillRefused, match="--change-id"):
        run(site, lambda stage: pytest.fail("it broke something"), Wishes(production=True))
    report = run(site, detected(alerts), Wishes(production=True, change_id="CHG-9"))
    assert report.ok
    assert report.change_id == "CHG-9"
    assert site.names() == ["incident.opened", "incident.closed"], "whoever opened CHG-9 closes it"


def test_without_an_operators_key_nothing_is_broken(site: Site, alerts: Alerts) -> None:
    del alerts
    site.refuses = "/v1/admin/"
    with pytest.raises(DrillRefused, match="scope 'admin'"):
        run(site, lambda stage: pytest.fail("it broke something"))
    assert site.names() == []


@pytest.mark.parametrize("name", ["inc-01", "inc-02", "inc-03", "inc-04"])
def test_a_drill_without_a_server_is_not_carried_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEHOUSE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GATEHOUSE_KEY", "gh-key")
    found = CliRunner().invoke(command.app, [name])
    assert found.exit_code == 2
    assert "no Gatehouse answers" in found.output


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_the_exit_status_says_whether_it_was_noticed(
    ok: bool, code: int, site: Site, alerts: Alerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run(site, detected(alerts) if ok else lambda stage: None)
    monkeypatch.setenv("GATEHOUSE_KEY", "gh-key")
    monkeypatch.setattr(command.inc02, "run", lambda *given: report)
    plain, said = (CliRunner().invoke(command.app, ["inc-02", *more]) for more in ([], ["--json"]))
    assert (plain.exit_code, said.exit_code) == (code, code)
    assert "INC-02: " in plain.output
    assert json.loads(said.stdout)["ok"] is ok
