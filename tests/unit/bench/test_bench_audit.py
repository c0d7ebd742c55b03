"""The benchmark of the audit log: what its loops count, and that every subject does what it is measured for."""

import asyncio
import json
import sqlite3
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from deployments.audit.record import encode, validate
from deployments.errors import AuditOverloaded, AuditUnavailable
from deployments.ports import AuditEvent
from serve_app.bench import audit
from serve_app.bench.audit import (
    BATCHED,
    GATEHOUSE,
    ROW,
    SUBJECTS,
    AuditBench,
    AuditPlan,
    Figures,
    Latency,
    Loop,
    SqliteLog,
    Window,
    bench,
    closed_loop,
    events,
    figures,
    file_system_of,
    latency,
    open_loop,
    ratios,
    run_one,
)
from serve_app.bench.load import BenchRefused
from serve_app.bench.machine import machine
from serve_app.cli.bench_audit import register


class Fake:
    """A subject that refuses every third event and stores `keeps` of them."""

    def __init__(self, refuse: bool = False, answer: bool = True, keeps: int = 10**9) -> None:
        self.refuse, self.answer, self.keeps = refuse, answer, keeps
        self.taken = 0
        self.open = 0
        self.most_open = 0
        self.closed = False

    async def append(self, event: AuditEvent) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await asyncio.sleep(0)
            if not self.answer:
                await asyncio.Event().wait()
            self.taken += 1
            if self.refuse and self.taken % 3 == 0:
                raise AuditOverloaded("Full.")
        finally:
            self.open -= 1

    async def close(self) -> None:
        self.closed = True

    def stored(self) -> int:
        return min(self.taken, self.keeps)


@pytest.fixture
def plan(tmp_path: Path) -> AuditPlan:
    return AuditPlan(tmp_path, clients=8, events=120, rate=5_000.0)


# --- events ------------------------------------------------------------------------------------------------------


def test_events_fit_the_record_and_are_of_a_realistic_size() -> None:
    found = list(islice(events(1), 500))
    for event in found:
        validate(event)
    mean = sum(len(encode(event, 10**6, "bench")) for event in found) / len(found)
    assert 750 <= mean <= 900
    assert len({event.event_id for event in found}) == 500


def test_a_seed_makes_the_same_events_again() -> None:
    assert list(islice(events(7), 20)) == list(islice(events(7), 20))
    assert next(events(7)).event_id != next(events(8)).event_id


# --- loops -------------------------------------------------------------------------------------------------------


async def test_a_closed_loop_has_as_many_events_open_as_clients(plan: AuditPlan) -> None:
    subject, window = Fake(), Window(GATEHOUSE, "closed")
    await closed_loop(window, subject, events(1), plan)
    assert subject.most_open == 8
    assert (window.offered, len(window.latencies_s)) == (120, 120)


async def test_an_open_loop_offers_every_event_whatever_is_answered(
    plan: AuditPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_DRAIN_S", 0.01)
    subject, window = Fake(answer=False), Window(GATEHOUSE, "open")
    await open_loop(window, subject, events(1), plan)
    assert (window.offered, window.unanswered, window.latencies_s) == (120, 120, [])
    assert subject.open == 0


@pytest.mark.parametrize("loop", [closed_loop, open_loop])
async def test_a_refused_event_is_counted_and_has_no_latency(plan: AuditPlan, loop: type) -> None:
    subject, window = Fake(refuse=True), Window(GATEHOUSE, "closed")
    await loop(window, subject, events(1), plan)
    assert (window.refused, len(window.latencies_s), window.unanswered) == (40, 80, 0)


async def test_a_latency_of_an_open_loop_counts_from_when_the_event_was_due(plan: AuditPlan) -> None:
    class Blocking(Fake):
        async def append(self, event: AuditEvent) -> None:
            if self.taken == 0:
                self.taken = 1
                while asyncio.get_running_loop().time() < started_s + 0.2:
                    pass  # nothing of the loop runs meanwhile, as under a long collection of garbage
            await super().append(event)

    started_s = asyncio.get_running_loop().time()
    window = Window(GATEHOUSE, "open")
    await open_loop(window, Blocking(), events(1), replace(plan, events=20, rate=1_000.0))
    # The events that were due during the block have waited, although none was sent before its end.
    assert sum(value > 0.1 for value in window.latencies_s) >= 10


async def test_what_was_acknowledged_and_is_not_found_is_lost(plan: AuditPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Fake(keeps=100)
    monkeypatch.setitem(audit.SUBJECTS, GATEHOUSE, lambda directory: subject)  # type: ignore[arg-type]
    window = await run_one(GATEHOUSE, "closed", events(1), plan)
    assert window.lost == 20
    assert subject.closed


# --- subjects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SUBJECTS))
@pytest.mark.parametrize("loop", ["closed", "open"])
async def test_every_subject_acknowledges_and_keeps_everything(plan: AuditPlan, name: str, loop: Loop) -> None:
    window = await run_one(name, loop, events(1), plan)
    assert (window.offered, len(window.latencies_s), window.lost) == (120, 120, 0)
    assert list(plan.directory.iterdir()) == []


@pytest.mark.parametrize("most", [1, 100])
async def test_the_table_has_each_event_once_in_wal_mode(tmp_path: Path, most: int) -> None:
    subject = SqliteLog(tmp_path, most)
    found = list(islice(events(1), 50))
    await asyncio.gather(*map(subject.append, found))
    await subject.close()
    connection = sqlite3.connect(tmp_path / "events.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    rows = connection.execute("SELECT event_id, record FROM events ORDER BY sequence").fetchall()
    connection.close()
    assert [event_id for event_id, _ in rows] == [event.event_id for event in found]
    assert [json.loads(record)["data"] for _, record in rows] == [dict(event.data) for event in found]
    assert subject.stored() == 50


async def test_a_row_that_cannot_be_stored_is_refused_and_the_next_one_is_taken(tmp_path: Path) -> None:
    subject = SqliteLog(tmp_path, 1)
    first, second = islice(events(1), 2)
    await subject.append(first)
    with pytest.raises(AuditUnavailable, match="UNIQUE"):
        await subject.append(first)
    await subject.append(second)
    await subject.close()
    assert subject.stored() == 2


async def test_rows_whose_client_has_left_are_dropped(tmp_path: Path) -> None:
    subject = SqliteLog(tmp_path, 1)
    tasks = [asyncio.create_task(subject.append(event)) for event in islice(events(1), 300)]
    await tasks[0]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await subject.close()
    await subject.close()
    assert subject.stored() < 300


# --- figures -----------------------------------------------------------------------------------------------------


def test_percentiles_are_in_milliseconds() -> None:
    assert latency([number / 1_000 for number in range(101)]) == Latency(50.0, 95.0, 99.0, 100.0)
    assert latency([]) is None


def test_rounds_are_one_row_with_the_span_of_their_rates() -> None:
    windows = [
        Window(ROW, "closed", [0.001] * 10, offered=12, refused=1, unanswered=1, wall_s=1.0, cpu_s=0.5, lost=1),
        Window(ROW, "closed", [0.003] * 30, offered=30, wall_s=1.0, cpu_s=0.5, late_s=0.25),
    ]
    found = figures(windows)
    assert (found.acked, found.offered, found.refused, found.unanswered, found.lost) == (40, 42, 1, 1, 1)
    assert (found.acked_per_s, found.per_s, found.late_ms) == (20.0, (10.0, 30.0), 250.0)
    assert found.cpu_us_per_event == 25_000.0
    assert found.ack_ms is not None
    assert found.ack_ms.p50 == 3.0


def row(subject: str, loop: Loop, acked: int, per_s: float, p99: float) -> Figures:
    ack = Latency(p99 / 2, p99, p99, p99)
    return Figures(subject, loop, 1_000, acked, 0, 1_000 - acked, 0, per_s, (per_s, per_s), ack, 1.0, 0.0)


def result(*rows: Figures, rate: float = 2_000.0) -> AuditBench:
    return AuditBench(
        AuditPlan(Path(), rate=rate), machine(), "ext4", "3.0", 800.0, Latency(1.0, 1.0, 1.0, 1.0), tuple(rows)
    )


def test_ratios_are_to_a_row_each() -> None:
    found = result(row(GATEHOUSE, "closed", 1_000, 8_000.0, 10.0), row(ROW, "closed", 1_000, 400.0, 200.0))
    assert ratios(found, "closed") == {GATEHOUSE: {"rate": 20.0, "p50": 0.05, "p99": 0.05}}
    assert ratios(found, "open") == {}


@pytest.mark.parametrize(
    ("acked", "p99", "rate", "said"),
    [
        (1_000, 50.0, 2_000.0, "held"),
        (1_000, 50.1, 2_000.0, "MISSED"),
        (999, 10.0, 2_000.0, "MISSED"),
        (1_000, 10.0, 1_999.0, None),
    ],
)
def test_the_bar_is_judged_at_its_rate_only(acked: int, p99: float, rate: float, said: str | None) -> None:
    verdict = result(row(GATEHOUSE, "open", acked, 2_000.0, p99), rate=rate).verdict()
    assert verdict is None if said is None else verdict is not None and f": {said} (" in verdict


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    inner = str(tmp_path / "a b").replace(" ", "\\040")
    lines = [f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / {inner} rw shared:2 - xfs /dev/b rw\n"]
    mounts.write_text("".join(lines), encoding="utf-8")
    assert file_system_of(tmp_path / "a b" / "c", mounts) == "xfs"
    assert file_system_of(tmp_path / "a", mounts) == "ext4"


# --- the whole ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [{"clients": 0}, {"rounds": 0}, {"seconds": 0.0}, {"rate": -1.0}, {"events": 0}, {"subjects": ("x",)}],
)
async def test_a_plan_that_cannot_be_run_is_refused(plan: AuditPlan, wrong: dict[str, int]) -> None:
    with pytest.raises(BenchRefused):
        await bench(replace(plan, **wrong), lambda line: None)  # type: ignore[arg-type]


async def test_a_disk_that_never_syncs_is_refused(plan: AuditPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "file_system_of", lambda directory: "tmpfs")
    with pytest.raises(BenchRefused, match="on tmpfs"):
        await bench(plan, lambda line: None)


async def test_subjects_take_turns_and_each_round_begins_with_another(
    plan: AuditPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SUBJECTS:
        monkeypatch.setitem(audit.SUBJECTS, name, lambda directory: Fake())  # type: ignore[arg-type]
    monkeypatch.setattr(audit, "file_system_of", lambda directory: "ext4")
    told: list[str] = []
    found = await bench(replace(plan, rounds=2), told.append)
    order = [line.rpartition("loop, ")[2] for line in told]
    assert order == [*[GATEHOUSE, BATCHED, ROW] * 2, *[BATCHED, ROW, GATEHOUSE] * 2]
    assert [each.acked for each in found.figures] == [240] * 6
    assert found.lost == 0


def test_the_command_prints_ratios_and_writes_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "file_system_of", lambda directory: "ext4")
    app = typer.Typer()
    register(app)
    file = tmp_path / "out" / "bench.json"
    arguments = ["--events", "60", "--clients", "4", "--dir", str(tmp_path / "work"), "--json", str(file)]
    ran = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert ran.exit_code == 0, ran.output
    assert "Closed loop, 4 clients" in ran.output
    assert "Open loop, 2000 events/s" in ran.output
    assert "Bar: 2000 events/s with p99 <= 50 ms:" in ran.output
    found = json.loads(file.read_text(encoding="utf-8"))
    assert {(each["subject"], each["loop"], each["acked"]) for each in found["figures"]} == {
        (name, loop, 60) for name in SUBJECTS for loop in ("closed", "open")
    }
    assert found["lost"] == 0
    assert set(found["ratios"]["closed"]) == {GATEHOUSE, BATCHED}
    assert str(tmp_path) not in file.read_text(encoding="utf-8")


def test_a_lost_record_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SUBJECTS:
        monkeypatch.setitem(audit.SUBJECTS, name, lambda directory: Fake(keeps=50))  # type: ignore[arg-type]
    monkeypatch.setattr(audit, "file_system_of", lambda directory: "ext4")
    app = typer.Typer()
    register(app)
    ran = CliRunner().invoke(app, ["--events", "60", "--rate", "0", "--dir", str(tmp_path)])
    assert ran.exit_code == 1
    assert "30 acknowledged records were not found" in ran.output
