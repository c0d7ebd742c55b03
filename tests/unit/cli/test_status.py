"""`gatehouse status`: one screen that says what is wrong, what to do, and what it could not see."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
from prometheus_client import generate_latest
from typer.testing import CliRunner

from deployments.errors import EngineFailed
from deployments.gate.canary import CanaryResult
from deployments.ingress.trail import Recorder
from deployments.ports import AuditStatus, Dialect, ModelId, QueueHealth, Tier, TierState, Usage
from serve_app.api.metrics import Counters
from serve_app.api.route_metrics import make_route_meter
from serve_app.backups.last import LAST_FILE, note
from serve_app.cli import status as command
from serve_app.config import ClientEnvironment
from serve_app.status.facts import (
    AuditFacts,
    Budgets,
    Burn,
    CanaryFacts,
    Facts,
    Firing,
    Kept,
    QueueFacts,
    Replica,
    RolloutFacts,
    Running,
    Served,
    TierFacts,
    Unseen,
)
from serve_app.status.judging import Line, State, judge, overall
from serve_app.status.reading import Reader
from serve_app.status.scrape import Scrape, quantile

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
AUDIT = AuditFacts(
    up=True, records=900, backlog=0, dropped=0, unsealed=0, checkpoint_late_s=0.0, disk_free_bytes=2**33, witnesses=1,
    witness_age_s=5.0, witness_stale=False, export_age_s=30.0,
)  # fmt: skip
WELL = Facts(
    url="http://gatehouse",
    now_ms=NOW_MS,
    alive=True,
    parts={"ledger": "ready", "audit": "ready", "engine:a": "ready", "engine:b": "ready"},
    engines=[Replica("a", "ready", "r1", "vllm", 1, 0), Replica("b", "ready", "r1", "vllm", 0, 0)],
    tiers={"20b": TierFacts(True, False, False, 0.1, 1), "120b": TierFacts(True, True, False, 0.0, 0)},
    served=Served(1_000, 1, 900, 9, 1.5),
    burn=Burn(0.001, 0.001, 0.01, None),
    budgets=Budgets(1, 1, 0),
    queue=QueueFacts(True, 1, 20.0, 0, 0, None),
    canary=CanaryFacts(held=True, escaped=False, at_s=NOW_MS / 1000 - 10),
    audit=AUDIT,
    rollouts=[RolloutFacts("ro-1", "a", "slice", 25, False, False)],
    alerts=[Firing("GatehouseBudgetNear", "info", None, "")],
    running=Running("0.1.0", "m", "a" * 64, "b" * 64, NOW_MS - DAY_MS),
    backup=Kept(NOW_MS - DAY_MS, "/backup/1.tar", True),
    restored=Kept(NOW_MS - 20 * DAY_MS, "900 records", True),
)
AWAY = Unseen("away")


def test_all_is_well() -> None:
    lines = judge(WELL)
    assert [line for line in lines if line.state is not State.OK] == []
    assert overall(lines) is State.OK


@pytest.mark.parametrize(
    ("topic", "changes", "state"),
    [
        ("server", {"alive": False}, State.DOWN),
        ("parts", {"parts": {"ledger": "down", "engine:a": "ready"}}, State.DOWN),
        ("parts", {"parts": {"ledger": "ready", "engine:a": "down", "engine:b": "down"}}, State.DOWN),
        ("parts", {"parts": {"ledger": "ready", "engine:a": "down", "engine:b": "ready"}}, State.DEGRADED),
        ("parts", {"parts": {"ledger": "ready", "responses": "down"}}, State.DEGRADED),
        ("engines", {"engines": [Replica("a", "down", "", "", 0, 0)]}, State.DOWN),
        ("engines", {"engines": [*WELL.engines, Replica("c", "down", "", "", 0, 0)]}, State.DEGRADED),
        ("tiers", {"tiers": {"20b": TierFacts(False, False, False, 0.0, 0)}}, State.DOWN),
        ("tiers", {"tiers": {**WELL.tiers, "120b": TierFacts(False, False, False, 0.0, 0)}}, State.DEGRADED),
        ("tiers", {"tiers": {"20b": TierFacts(True, False, True, 2.5, 9)}}, State.DEGRADED),
        ("errors", {"served": Served(1_000, 6, 0, 0, None), "burn": AWAY}, State.DEGRADED),
        ("errors", {"served": Served(10, 1, 0, 0, None), "burn": AWAY}, State.OK),
        ("errors", {"served": Served(1_000, 6, 0, 0, None)}, State.OK),
        ("latency", {"served": Served(1_000, 0, 900, 90, 7.0), "burn": AWAY}, State.DEGRADED),
        ("budget burn", {"burn": Burn(0.08, None, None, None)}, State.DEGRADED),
        ("budget burn", {"burn": Burn(0.01, 0.006, None, None)}, State.DEGRADED),
        ("budget burn", {"burn": Burn(None, None, None, None)}, State.OK),
        ("alerts", {"alerts": [Firing("GatehouseTierDown", "critical", "INC-02", "x")]}, State.DEGRADED),
        ("approvals", {"queue": replace(WELL.queue, up=False)}, State.DOWN),
        ("approvals", {"queue": replace(WELL.queue, frozen=1)}, State.DEGRADED),
        ("approvals", {"queue": replace(WELL.queue, oldest_s=901.0)}, State.DEGRADED),
        ("approvals", {"queue": replace(WELL.queue, unreported=1)}, State.DEGRADED),
        ("approvals", {"queue": replace(WELL.queue, notices_oldest_s=61.0)}, State.DEGRADED),
        ("gate", {"canary": CanaryFacts(False, True, 1.0)}, State.DOWN),
        ("gate", {"canary": CanaryFacts(False, False, NOW_MS / 1000)}, State.DEGRADED),
        ("gate", {"canary": CanaryFacts(True, False, NOW_MS / 1000 - 200)}, State.DEGRADED),
        ("gate", {"canary": CanaryFacts(False, False, 0.0)}, State.DEGRADED),
        ("audit", {"audit": replace(AUDIT, up=False)}, State.DOWN),
        ("audit", {"audit": replace(AUDIT, dropped=1)}, State.DEGRADED),
        ("audit", {"audit": replace(AUDIT, backlog=1_001)}, State.DEGRADED),
        ("audit", {"audit": replace(AUDIT, checkpoint_late_s=31.0)}, State.DEGRADED),
        ("audit", {"audit": replace(AUDIT, witness_stale=True)}, State.DEGRADED),
        ("audit", {"audit": replace(AUDIT, disk_free_bytes=2**29)}, State.DEGRADED),
        ("audit", {"audit": replace(AUDIT, export_age_s=901.0)}, State.DEGRADED),
        ("audit", {"audit": replace(AUDIT, problems=("x",))}, State.DEGRADED),
        ("budgets", {"budgets": Budgets(0, 1, 1)}, State.DEGRADED),
        ("rollouts", {"rollouts": [RolloutFacts("ro", "a", "slice", 5, True, False)]}, State.DEGRADED),
        ("rollouts", {"rollouts": [RolloutFacts("ro", "a", "slice", 0, False, True)]}, State.DEGRADED),
        ("last backup", {"backup": Kept(NOW_MS - 3 * DAY_MS, "x", True)}, State.DEGRADED),
        ("last backup", {"backup": Kept(NOW_MS, "x", False)}, State.DEGRADED),
        ("last restore drill", {"restored": Kept(NOW_MS - 32 * DAY_MS, "x", True)}, State.DEGRADED),
        ("last backup", {"backup": Kept(NOW_MS + 60_000, "x", True)}, State.OK),
        ("last backup", {"backup": Kept(NOW_MS + DAY_MS, "made while a clock was ahead", True)}, State.DEGRADED),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_its_line_and_nowhere_else(
    topic: str, changes: Mapping[str, Any], state: State
) -> None:
    before, after = judge(WELL), judge(replace(WELL, **changes))
    assert {line.topic: line.state for line in after}[topic] is state
    others = [(line.topic, line.state) for line in after if line.topic != topic and line.topic not in {"budget burn"}]
    assert others == [
        (line.topic, line.state) for line in before if line.topic != topic and line.topic not in {"budget burn"}
    ]
    assert overall(after) is (State.OK if state is State.OK else state)


@pytest.mark.parametrize(
    "name", [name for name in Facts.__dataclass_fields__ if name not in {"url", "now_ms", "alive", "odd"}]
)
def test_what_nobody_saw_is_said_and_makes_nothing_worse(name: str) -> None:
    lines = judge(replace(WELL, **{name: AWAY}))
    assert [line.seen for line in lines if line.state is State.UNSEEN and line.seen == "away"]
    assert overall(lines) is State.OK


@pytest.mark.parametrize(
    ("buckets", "found"),
    [
        ([], None),
        ([(1.0, 0.0), (float("inf"), 0.0)], None),
        ([(1.0, 0.0), (3.0, 100.0), (float("inf"), 100.0)], 2.9),
        ([(1.0, 0.0), (3.0, 50.0), (float("inf"), 100.0)], 3.0),
    ],
    ids=["none", "empty", "inside", "above"],
)
def test_a_quantile_is_prometheus_own(buckets: list[tuple[float, float]], found: float | None) -> None:
    assert quantile(0.95, buckets) == (None if found is None else pytest.approx(found))


# --- what the server says ------------------------------------------------------------------------------------------


def scrape_text() -> str:
    """`/metrics` of an ingress replica, from its own registry."""
    counters = Counters()
    make_route_meter(counters).watch(lambda: {Tier.BASE: TierState(), Tier.STRONG: TierState(up=False)})
    for number in range(20):
        counters.answered(Dialect.CHAT, "a")
        counters.finished(Dialect.CHAT, ModelId("a"), "completed", 9.0, 7.0 if number < 5 else 0.1, Usage(1, 0, 1, 0))
    counters.broken(Dialect.CHAT, EngineFailed("x"))
    counters.refused("/v1/keys", 500, RuntimeError())
    counters.gate.tell(QueueHealth(2, 30.0, 0, 1, 0, 0, None, 0, ()), CanaryResult(None, False, NOW_MS - 5_000, 3))
    counters.budgets.tell(())
    told = AuditStatus(900, 1, "o", 0, 4, 2.0, 896, 2**33)
    counters.render(Recorder.__new__(_Recorder), told)
    return generate_latest(counters.registry).decode()


class _Recorder(Recorder):
    backlog = 7  # type: ignore[assignment]
    dropped = 0  # type: ignore[assignment]


def test_a_scrape_of_the_real_registry_is_understood() -> None:
    scrape = Scrape(scrape_text())
    served = scrape.served()
    assert (served.asked, served.failed, served.begun, served.slow) == (20, 1, 20, 5)
    assert served.p95_s == pytest.approx(9.0, abs=1.0)
    tiers = scrape.tiers()
    assert not isinstance(tiers, Unseen)
    assert [(tier, facts.up) for tier, facts in tiers.items()] == [("20b", True), ("120b", False)]
    assert scrape.queue() == QueueFacts(True, 2, 30.0, 1, 0, None)
    assert scrape.canary() == CanaryFacts(True, False, NOW_MS / 1000 - 5)
    audit = scrape.audit()
    assert not isinstance(audit, Unseen)
    assert (audit.records, audit.unsealed, audit.backlog) == (900, 4, 7)
    assert scrape.budgets() == Budgets(0, 0, 0)


def test_a_scrape_that_says_nothing_leaves_all_unseen() -> None:
    scrape = Scrape("")
    found = (scrape.tiers(), scrape.queue(), scrape.canary(), scrape.audit(), scrape.budgets())
    assert all(isinstance(each, Unseen) for each in found)


def record(name: str, at: int) -> dict[str, Any]:
    data = {"version": "0.1.0", "profile": f"p{at}", "config_digest": "c" * 64, "policy_digest": "d" * 64}
    return {"index": at, "record": {"name": name, "at_ms": at, "data": data}}


class Gatehouse:
    """Answers as one does. `scopes` decides which questions the key may ask."""

    def __init__(self, *scopes: str) -> None:
        self.scopes = set(scopes)
        self.rollouts: list[dict[str, Any]] | None = None
        self.status = 200
        self.log: list[dict[str, Any]] | None = None

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path == "/healthz":
            return httpx2.Response(200, json={})
        if path == "/readyz":
            return httpx2.Response(503, json={"parts": {"ledger": "ready", "engine:a": "down", "engine:b": "ready"}})
        if path == "/metrics":
            return httpx2.Response(200, text=scrape_text())
        needed = {"admin"} if "/admin/" in path else {"admin", "audit-read"}
        if not needed & self.scopes:
            return httpx2.Response(403, json={"error": {"message": "no"}})
        if path == "/v1/admin/engines":
            return httpx2.Response(200, json={"data": [{"model": "a", "state": "down"}]})
        if path == "/v1/audit/status":
            return httpx2.Response(200, json={
                "size": 25_000, "unsealed": 3, "unsealed_s": 1.0, "disk_free_bytes": 2**33, "witnesses": 0,
                "witnessed_age_s": None, "witness_stale": False, "exported_age_s": None, "failure": None,
                "problems": ["the export is late"],
            })  # fmt: skip
        if path == "/v1/audit/records":
            if self.log is not None:
                return httpx2.Response(200, json=self.page(int(request.url.params["begin"])))
            rows = [record("config.loaded", 5_001), record("config.loaded", 5_002), record("policy.changed", 5_003)]
            found = rows if request.url.params["begin"] == "5000" else []
            return httpx2.Response(200, json={"data": found, "next": None})
        if path == "/v1/admin/rollouts" and self.rollouts is not None:
            return httpx2.Response(200, json={"data": self.rollouts})
        return httpx2.Response(404, json={"error": {"message": "no such URL"}})

    def page(self, begin: int) -> dict[str, Any]:
        """As the sink pages: a thousand from the place that is asked for."""
        assert self.log is not None
        later = [each for each in self.log if each["index"] >= begin]
        return {"data": later[:1000], "next": later[1000]["index"] if len(later) > 1000 else None}

    def facts(self, state: Path, key: str | None = "gh-key") -> Facts:
        with httpx2.Client(base_url="http://gatehouse", transport=httpx2.MockTransport(self.answer)) as http:
            return Reader(http, key).facts(NOW_MS, None, state)


def test_an_operator_sees_everything(tmp_path: Path) -> None:
    server = Gatehouse("admin")
    step = {"id": "ro", "target": "a", "share_percent": 5, "held": False, "going_back": False}
    server.rollouts = [{**step, "state": "slice"}, {**step, "id": "old", "state": "finished"}]
    note(tmp_path, "backup", NOW_MS, "/b.tar", good=True)
    facts = server.facts(tmp_path)
    assert facts.running == Running("0.1.0", "p5002", "c" * 64, "d" * 64, 5_002)
    assert facts.rollouts == [RolloutFacts("ro", "a", "slice", 5, False, False)]
    assert facts.engines == [Replica("a", "down", "", "", 0, 0)]
    assert facts.backup == Kept(NOW_MS, "/b.tar", True)
    assert facts.restored == Unseen("none is on record here")
    audit = facts.audit
    assert not isinstance(audit, Unseen)
    assert (audit.records, audit.problems) == (25_000, ["the export is late"])
    assert overall(judge(facts)) is State.DOWN  # the one engine that /v1/admin/engines names


def test_of_two_starts_the_newer_is_told_however_many_canaries_lie_between(tmp_path: Path) -> None:
    server = Gatehouse("admin")
    starts = {15_001, 24_000}
    server.log = [record("config.loaded" if at in starts else "tool_call.held", at) for at in range(15_000, 25_000)]
    running = server.facts(tmp_path).running
    assert not isinstance(running, Unseen)
    assert running.profile == "p24000"


def test_another_server_at_that_address_is_no_crash(tmp_path: Path) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"data": [3], "parts": None, "size": "?"})

    with httpx2.Client(base_url="http://gatehouse", transport=httpx2.MockTransport(answer)) as http:
        facts = Reader(http, "gh-key").facts(NOW_MS, None, tmp_path)
    unseen = (facts.parts, facts.engines, facts.rollouts, facts.running, facts.audit)
    assert all(isinstance(each, Unseen) for each in unseen)


def test_a_proxy_that_answers_for_it_is_told_apart_from_silence(tmp_path: Path) -> None:
    with httpx2.Client(
        base_url="http://gatehouse", transport=httpx2.MockTransport(lambda _: httpx2.Response(502))
    ) as http:
        facts = Reader(http, None).facts(NOW_MS, None, tmp_path)
    (server,) = [line for line in judge(facts) if line.topic == "server"]
    assert (server.state, server.seen) == (State.DOWN, "http://gatehouse answers 502 to /healthz")


class Watching:
    """A Prometheus as `gatehouse status` asks it."""

    def __init__(self, rules: list[str], present: bool) -> None:
        self._rules = rules
        self._present = present

    def ask(self, what: str) -> Mapping[str, Any]:
        if what == "rules":
            return {"groups": [{"rules": [{"name": name} for name in self._rules]}]}
        return {"alerts": []}

    def query(self, promql: str) -> Mapping[str, Any]:
        return {"result": [{"value": [0, "2"]}] if self._present and promql.startswith("count(") else []}

    def __enter__(self) -> "Watching":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("rules", "present", "alerts", "burn"),
    [
        (["HostDown"], True, Unseen("Prometheus has no rules of Gatehouse"), None),
        (["GatehouseTierDown"], False, [], Unseen("Prometheus scrapes no ingress replica")),
        (["GatehouseTierDown"], True, [], Burn(None, None, None, None)),
    ],
    ids=["no rules", "no targets", "both"],
)
def test_a_prometheus_that_cannot_know_is_no_all_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: list[str], present: bool, alerts: object, burn: object
) -> None:
    monkeypatch.setattr("serve_app.status.reading.PrometheusApi", lambda url: Watching(rules, present))
    with httpx2.Client(base_url="http://gatehouse", transport=httpx2.MockTransport(Gatehouse("admin").answer)) as http:
        facts = Reader(http, "gh-key").facts(NOW_MS, "http://prometheus", tmp_path)
    assert facts.alerts == alerts
    assert facts.burn == (alerts if burn is None else burn)


def test_an_export_that_never_worked_is_late_and_not_said_to_be_none() -> None:
    (line,) = [
        line
        for line in judge(replace(WELL, audit=replace(AUDIT, export_age_s=1_200.0, exported=False)))
        if line.topic == "audit"
    ]
    assert line.state is State.DEGRADED
    assert "not exported for 20 min" in line.seen


def test_rollouts_that_the_graph_does_not_have_are_no_fault(tmp_path: Path) -> None:
    assert Gatehouse("admin").facts(tmp_path).rollouts == Unseen("not configured")


def test_an_auditors_key_sees_the_log_and_says_what_it_does_not_see(tmp_path: Path) -> None:
    facts = Gatehouse("audit-read").facts(tmp_path)
    assert isinstance(facts.engines, Unseen)
    assert facts.engines.why == "this key may not see it"
    assert not isinstance(facts.running, Unseen)


def test_without_a_key_the_probes_and_metrics_are_left(tmp_path: Path) -> None:
    facts = Gatehouse().facts(tmp_path / "elsewhere", key=None)
    assert facts.engines == Unseen("needs a key")
    assert not isinstance(facts.audit, Unseen)
    assert not isinstance(facts.parts, Unseen)
    assert isinstance(facts.backup, Unseen)
    assert overall(judge(facts)) is State.DEGRADED


def test_a_server_that_is_away_is_down(tmp_path: Path) -> None:
    with httpx2.Client(base_url="http://127.0.0.1:9") as http:
        facts = Reader(http, "gh-key").facts(NOW_MS, "http://127.0.0.1:9", tmp_path)
    assert overall(judge(facts)) is State.DOWN
    assert isinstance(facts.alerts, Unseen)
    assert "Prometheus does not answer" in facts.alerts.why


def test_a_note_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / LAST_FILE).write_text("[")
    found = Gatehouse("admin").facts(tmp_path).backup
    assert isinstance(found, Unseen)
    assert "cannot be read" in found.why


def test_notes_keep_each_other(tmp_path: Path) -> None:
    note(tmp_path, "backup", 1, "a", good=True)
    note(tmp_path, "restore drill", 2, "b", good=False)
    note(tmp_path / "nowhere", "backup", 3, "c", good=True)
    assert json.loads((tmp_path / LAST_FILE).read_text()) == {
        "backup": {"at_ms": 1, "where": "a", "good": True},
        "restore drill": {"at_ms": 2, "where": "b", "good": False},
    }
    assert [path.name for path in tmp_path.iterdir()] == [LAST_FILE]


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> typer.Typer:
    found = typer.Typer()
    found.command()(command.status)
    return found


def run(app: typer.Typer, monkeypatch: pytest.MonkeyPatch, facts: Facts, *arguments: str) -> Any:
    monkeypatch.setattr(Reader, "facts", lambda self, *asked: facts)
    place = ClientEnvironment("http://gatehouse", "gh-key", Path("/nowhere/operator.key"))
    monkeypatch.setattr(command, "client_environment", lambda state: place)
    return CliRunner().invoke(app, [*arguments])


@pytest.mark.parametrize(
    ("changes", "code"),
    [({}, 0), ({"budgets": Budgets(0, 1, 1)}, 1), ({"alive": False}, 2)],
    ids=["ok", "degraded", "down"],
)
def test_the_exit_status_says_how_it_is(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, Any], code: int
) -> None:
    facts = replace(WELL, **changes)
    plain = run(app, monkeypatch, facts)
    assert plain.exit_code == code
    lines: list[Line] = [*judge(facts)]
    assert all(line.topic in plain.output and line.seen in plain.output for line in lines)
    said = run(app, monkeypatch, facts, "--json")
    assert said.exit_code == code
    document = json.loads(said.stdout)
    assert document["status"] == ["ok", "degraded", "down"][code]
    assert [each["topic"] for each in document["lines"]] == [line.topic for line in lines]
    assert document["facts"]["audit"]["records"] == 900


def test_what_was_not_seen_is_named_at_the_end(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = replace(WELL, alerts=Unseen("no --prometheus was named"), engines=Unseen("this key may not see it"))
    found = run(app, monkeypatch, facts)
    assert found.exit_code == 0
    assert "Not seen: engines, alerts." in found.output
    said = json.loads(run(app, monkeypatch, facts, "--json").stdout)
    assert said["unseen"] == ["engines", "alerts"]
    assert said["facts"]["engines"] == {"unseen": "this key may not see it"}
