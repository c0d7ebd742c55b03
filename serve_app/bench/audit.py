"""The audit log beside SQLite, on one disk in one run: how many records a second, and how long until each is durable.

Three subjects take the same events, built by the same code, and acknowledge an event once it would survive a power cut:

- `gatehouse`: the log as the sink runs it. Schema check, canonical JSON, leaf and chain hashes, group commit,
  fdatasync, and beside it the Merkle tree with tiles and signed checkpoints.
- `sqlite, a row each`: what a user would write. WAL, `synchronous=FULL`, one INSERT a transaction, one writing thread.
- `sqlite, batched`: the same table with our own group commit: a transaction takes all that queued during the last one.
"""

import asyncio
import json
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Literal, Protocol, TypeAlias

from deployments.audit.record import encode
from deployments.audit.sealer import Sealer
from deployments.audit.settings import AuditSettings
from deployments.audit.writer import GroupCommit, LogWriter
from deployments.clock import SystemClock
from deployments.errors import AuditOverloaded, AuditUnavailable
from deployments.ports import AuditEvent, JsonValue, RequestId, SessionId, TenantId
from serve_app.bench.load import BenchRefused
from serve_app.bench.machine import Machine, machine
from serve_app.bench.stats import percentile

Loop: TypeAlias = Literal["closed", "open"]
GATEHOUSE = "gatehouse"
ROW = "sqlite, a row each"
BATCHED = "sqlite, batched"
BAR_PER_S = 2_000.0
BAR_P99_MS = 50.0
_VERSION = "bench"
_MAX_WAITING = 10_000
_MAX_BATCH = 2_000
_DRAIN_S = 10.0
_PROBES = 200
_VOLATILE = frozenset({"tmpfs", "ramfs"})


# --- events ------------------------------------------------------------------------------------------------------


def events(seed: int) -> Iterator[AuditEvent]:
    """Records of one gated call after the other, as the ingress and the gate write them; about 900 bytes each."""
    digests = random.Random(seed)
    for number in count():
        answer: dict[str, JsonValue] = {
            "route_id": f"rt_{number:026d}",
            "model": "gpt-oss-120b",
            "tier": "120b",
            "dialect": "responses",
        }
        call: dict[str, JsonValue] = {
            **answer,
            "gate_call_id": f"gc_{number:026d}",
            "call_id": f"call_{number:024d}",
            "tool": "shell",
            "index": 0,
            "choice": 0,
            "rule_set": "ops",
            "policy_digest": f"{number % 7:064x}",
        }
        decided: dict[str, JsonValue] = {
            **answer,
            "policy_digest": f"{number % 7:064x}",
            "effort": "high",
            "requested_model": "auto",
            "requested_effort": "high",
            "reason": "difficulty",
            "reasons": ["the score is above the threshold of the tier", "the tier has room"],
            "difficulty": 0.7311,
            "stream": True,
        }
        judged: dict[str, JsonValue] = {
            **call,
            "risk": "R1",
            "reasons": ["shell: a service is restarted", "cluster: staging"],
        }
        finished: dict[str, JsonValue] = {
            **answer,
            "outcome": "complete",
            "input_tokens": 18_211,
            "cached_tokens": 16_384,
            "output_tokens": 412,
            "reasoning_tokens": 207,
            "tool_calls": 1,
            "attempts": 1,
            "status": 200,
            "stream": True,
            "effort": "high",
            "finish_reasons": ["tool_calls"],
            "duration_ms": 6_212,
            "ttft_ms": 318,
        }
        change = {"profile": "ops", "change_id": f"CHG-{number % 997}"}
        steps: tuple[tuple[str, Mapping[str, JsonValue], str], ...] = (
            ("route.decided", decided, "revision"),
            ("tool_call.proposed", call, "arguments_commit"),
            ("tool_call.classified", {**judged, "outcome": "allow"}, "fingerprint"),
            ("tool_call.released", {**judged, **change, "rollback_digest": f"{number:064x}"}, "action_digest"),
            ("generation.finished", finished, "revision"),
        )
        for step, (name, data, field_with_digest) in enumerate(steps):
            digest = f"{digests.getrandbits(256):064x}"
            yield AuditEvent(
                event_id=f"{name}:{digest}",
                name=name,
                at_ms=1_767_225_600_000 + 5 * number + step,
                tenant=TenantId("platform-team"),
                principal="key_01JZ8W2V7M4Q9X3T5B6N8C0D1E",
                request_id=RequestId(f"req_{number:026d}"),
                session=SessionId(f"s_{number // 20:026d}"),
                data={**data, field_with_digest: digest},
            )


# --- subjects ----------------------------------------------------------------------------------------------------


class Subject(Protocol):
    """Something that makes events durable."""

    async def append(self, event: AuditEvent) -> None:
        """Returns once the event is durable. `AuditUnavailable` when it is refused."""
        ...

    async def close(self) -> None:
        """Write what waits, and stop. Idempotent."""
        ...

    def stored(self) -> int:
        """How many of its events a fresh reader finds, after `close`."""
        ...


class GatehouseLog:
    """Writer, group commit and sealer as the sink has them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "audit"
        self._settings = AuditSettings()
        self._sealer = Sealer(self._settings, SystemClock())
        self._log = GroupCommit(self._open(self._sealer), self._settings)

    def _open(self, sealer: Sealer) -> LogWriter:
        return LogWriter(self._directory, self._settings, _VERSION, SystemClock(), sealing=sealer)

    async def append(self, event: AuditEvent) -> None:
        """As the sink does it."""
        await self._log.append([event])

    async def close(self) -> None:
        """Also makes the last checkpoint."""
        self._sealer.release()
        await self._log.close()
        await asyncio.to_thread(self._sealer.close)

    def stored(self) -> int:
        """By a full recovery, which reads every record and compares the log with its checkpoints."""
        sealer = Sealer(self._settings, SystemClock(), background=False)
        writer = self._open(sealer)
        size = writer.head().size
        writer.close()
        sealer.close()
        return size - 2  # each opening is a record, too


@dataclass(frozen=True, slots=True)
class _Row:
    event: AuditEvent
    done: "asyncio.Future[None]"


class SqliteLog:
    """A table of events and the one thread that writes it; `most` rows share a transaction."""

    def __init__(self, directory: Path, most: int) -> None:
        self._file = directory / "events.db"
        self._most = most
        self._queue: SimpleQueue[_Row | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = Thread(target=self._work, name="sqlite-writer", daemon=True)
        self._thread.start()
        self._closed = False

    async def append(self, event: AuditEvent) -> None:
        """Returns after the COMMIT."""
        if self._queue.qsize() >= _MAX_WAITING:
            raise AuditOverloaded("Too many rows wait to be written.")
        row = _Row(event, self._loop.create_future())
        self._queue.put(row)
        await row.done

    async def close(self) -> None:
        """What waits and nobody waits for any more is dropped."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    def stored(self) -> int:
        """Rows of the table."""
        connection = sqlite3.connect(self._file)
        try:
            (found,) = connection.execute("SELECT count(*) FROM events").fetchone()
            return int(found)
        finally:
            connection.close()

    def _work(self) -> None:
        connection = sqlite3.connect(self._file, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(
            "CREATE TABLE events (sequence INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, at_ms INTEGER NOT NULL, "
            "name TEXT NOT NULL, tenant TEXT NOT NULL, record TEXT NOT NULL)"
        )
        while taken := self._next():
            rows = [row for row in taken if not row.done.cancelled()]
            outcome: Exception | None = None
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(
                    "INSERT INTO events (event_id, at_ms, name, tenant, record) VALUES (?, ?, ?, ?, ?)",
                    [_columns(row.event) for row in rows],
                )
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                outcome = AuditUnavailable(f"SQLite: {error}.")
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            self._loop.call_soon_threadsafe(_settle, rows, outcome)
        connection.close()

    def _next(self) -> list[_Row]:
        """What waits now, at most one transaction; empty at the end."""
        first = self._queue.get()
        if first is None:
            return []
        rows = [first]
        while len(rows) < self._most:
            try:
                row = self._queue.get_nowait()
            except Empty:
                break
            if row is None:
                self._queue.put(None)
                break
            rows.append(row)
        return rows


def _columns(event: AuditEvent) -> tuple[str, int, str, str, str]:
    record = {
        "event_id": event.event_id,
        "name": event.name,
        "at_ms": event.at_ms,
        "tenant": event.tenant,
        "principal": event.principal,
        "request_id": event.request_id,
        "session": event.session,
        "data": event.data,
    }
    return event.event_id, event.at_ms, event.name, event.tenant, json.dumps(record)


def _settle(rows: Sequence[_Row], outcome: Exception | None) -> None:
    for row in rows:
        if row.done.done():
            continue  # its client has left
        if outcome is None:
            row.done.set_result(None)
        else:
            row.done.set_exception(outcome)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    GATEHOUSE: GatehouseLog,
    BATCHED: lambda directory: SqliteLog(directory, _MAX_BATCH),
    ROW: lambda directory: SqliteLog(directory, 1),
}


# --- loops -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """What is run: per round and subject a closed loop of `clients`, then an open one of `rate` events a second.

    A loop ends after `seconds`, or after `events` when they are given. `rate` 0 leaves the open loop out.
    """

    directory: Path
    clients: int = 64
    seconds: float = 10.0
    rate: float = 2_000.0
    events: int | None = None
    rounds: int = 1
    seed: int = 1
    subjects: tuple[str, ...] = tuple(SUBJECTS)

    def check(self) -> None:
        """Raise `BenchRefused` for a plan that cannot be run."""
        if self.clients < 1 or self.rounds < 1 or not self.seconds > 0 or self.rate < 0:
            raise BenchRefused("clients, rounds and seconds are positive, and a rate is not negative.")
        if self.events is not None and self.events < 1:
            raise BenchRefused("a loop has at least one event.")
        unknown = set(self.subjects) - set(SUBJECTS)
        if unknown or not self.subjects:
            raise BenchRefused(f"the subjects are {', '.join(SUBJECTS)}.")

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the directory."""
        found = asdict(replace(self, directory=Path()))
        del found["directory"]
        return found


@dataclass(slots=True)
class Window:
    """What one loop saw. Latencies in seconds; `lost`: acknowledged, and not found afterwards."""

    subject: str
    loop: Loop
    latencies_s: list[float] = field(default_factory=list[float])
    refused: int = 0
    unanswered: int = 0
    offered: int = 0
    late_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    lost: int = 0


async def closed_loop(window: Window, subject: Subject, source: Iterator[AuditEvent], plan: AuditPlan) -> None:
    """Each client sends its next event when its last one is durable."""
    begin_s = time.perf_counter()
    end_s = begin_s + plan.seconds

    def more() -> bool:
        if plan.events is not None:
            return window.offered < plan.events
        return time.perf_counter() < end_s

    async def client() -> None:
        while more():
            event = next(source)
            window.offered += 1
            sent_s = time.perf_counter()
            try:
                await subject.append(event)
            except AuditUnavailable:
                window.refused += 1
                await asyncio.sleep(0)  # a refusal does not suspend: without this the other clients would starve
            else:
                window.latencies_s.append(time.perf_counter() - sent_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(plan.clients):
            group.create_task(client())
    window.wall_s = time.perf_counter() - begin_s


async def open_loop(window: Window, subject: Subject, source: Iterator[AuditEvent], plan: AuditPlan) -> None:
    """Events at exponential gaps, whether or not the subject keeps up; a latency counts from when one was due."""
    gaps = random.Random(plan.seed)
    offered = plan.events or round(plan.rate * plan.seconds)
    running: set[asyncio.Task[None]] = set()

    async def one(event: AuditEvent, due_s: float) -> None:
        try:
            await subject.append(event)
        except AuditUnavailable:
            window.refused += 1
        else:
            window.latencies_s.append(time.perf_counter() - due_s)

    begin_s = due_s = time.perf_counter()
    while window.offered < offered:
        due_s += gaps.expovariate(plan.rate)
        now_s = time.perf_counter()
        if due_s > now_s:
            await asyncio.sleep(due_s - now_s)
        window.late_s = max(window.late_s, time.perf_counter() - due_s)
        task = asyncio.create_task(one(next(source), due_s))
        running.add(task)
        task.add_done_callback(running.discard)
        window.offered += 1
        if window.offered % 64 == 0:
            await asyncio.sleep(0)  # an open loop that is late must not keep the answers from arriving
    if running:
        _, left = await asyncio.wait(running, timeout=_DRAIN_S)
        window.unanswered = len(left)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    window.wall_s = time.perf_counter() - begin_s


async def run_one(name: str, loop: Loop, source: Iterator[AuditEvent], plan: AuditPlan) -> Window:
    """One loop on one fresh subject, and what is found of it afterwards."""
    window = Window(name, loop)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=plan.directory))
    try:
        async with AsyncExitStack() as stack:
            subject = await asyncio.to_thread(SUBJECTS[name], folder) if name == GATEHOUSE else SUBJECTS[name](folder)
            stack.push_async_callback(subject.close)
            before_s = time.process_time()
            await (closed_loop if loop == "closed" else open_loop)(window, subject, source, plan)
            window.cpu_s = time.process_time() - before_s
        window.lost = max(0, len(window.latencies_s) - await asyncio.to_thread(subject.stored))
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)
    return window


# --- results -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One subject in one loop, all rounds together. `per_s` are the lowest and highest rate of a single round."""

    subject: str
    loop: Loop
    offered: int
    acked: int
    refused: int
    unanswered: int
    lost: int
    acked_per_s: float
    per_s: tuple[float, float]
    ack_ms: Latency | None
    cpu_us_per_event: float | None
    late_ms: float


def latency(values_s: Sequence[float]) -> Latency | None:
    """Percentiles of seconds, in milliseconds; None of nothing."""
    ordered = sorted(value * 1_000 for value in values_s)
    if not ordered:
        return None
    p50, p95, p99 = (percentile(ordered, share) for share in (0.5, 0.95, 0.99))
    return Latency(p50, p95, p99, ordered[-1])


def figures(windows: Sequence[Window]) -> Figures:
    """Several rounds of one subject in one loop as one row."""
    acked = [len(window.latencies_s) for window in windows]
    wall_s = sum(window.wall_s for window in windows)
    rates = [each / window.wall_s for each, window in zip(acked, windows, strict=True)]
    return Figures(
        subject=windows[0].subject,
        loop=windows[0].loop,
        offered=sum(window.offered for window in windows),
        acked=sum(acked),
        refused=sum(window.refused for window in windows),
        unanswered=sum(window.unanswered for window in windows),
        lost=sum(window.lost for window in windows),
        acked_per_s=sum(acked) / wall_s,
        per_s=(min(rates), max(rates)),
        ack_ms=latency([value for window in windows for value in window.latencies_s]),
        cpu_us_per_event=sum(window.cpu_s for window in windows) / sum(acked) * 1e6 if sum(acked) else None,
        late_ms=max(window.late_s for window in windows) * 1_000,
    )


@dataclass(frozen=True, slots=True)
class AuditBench:
    """Everything that was measured. `disk`: one record's write and fdatasync after the other, nothing else."""

    plan: AuditPlan
    machine: Machine
    file_system: str
    sqlite: str
    record_bytes: float
    disk: Latency
    figures: tuple[Figures, ...]

    def of(self, subject: str, loop: Loop) -> Figures | None:
        """One row, or None when it was not run."""
        return next((each for each in self.figures if (each.subject, each.loop) == (subject, loop)), None)

    @property
    def lost(self) -> int:
        """Acknowledged records that were not found afterwards, of all subjects."""
        return sum(each.lost for each in self.figures)

    def verdict(self) -> str | None:
        """Whether the open loop at the bar's rate or above kept the bar, one sentence; None when it was not run."""
        found = self.of(GATEHOUSE, "open")
        if found is None or found.ack_ms is None or self.plan.rate < BAR_PER_S:
            return None
        held = found.acked == found.offered and found.ack_ms.p99 <= BAR_P99_MS
        return (
            f"Bar: {BAR_PER_S:.0f} events/s with p99 <= {BAR_P99_MS:.0f} ms: {'held' if held else 'MISSED'} "
            f"({found.acked} of {found.offered} events acknowledged, p99 {found.ack_ms.p99:.1f} ms)."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return {
            "plan": self.plan.to_json(),
            "machine": self.machine.to_json(),
            "file_system": self.file_system,
            "sqlite": self.sqlite,
            "record_bytes": self.record_bytes,
            "disk_ms": asdict(self.disk),
            "figures": [asdict(each) for each in self.figures],
            "lost": self.lost,
            "ratios": {loop: ratios(self, loop) for loop in ("closed", "open")},
            "verdict": self.verdict(),
        }


def ratios(bench: AuditBench, loop: Loop) -> dict[str, dict[str, float]]:
    """Of each subject to `sqlite, a row each`: rate (higher is better) and latencies (lower is better)."""
    base = bench.of(ROW, loop)
    found: dict[str, dict[str, float]] = {}
    if base is None or base.ack_ms is None or not base.acked_per_s:
        return found
    for name in bench.plan.subjects:
        each = bench.of(name, loop)
        if each is not None and each.ack_ms is not None and name != ROW:
            found[name] = {
                "rate": each.acked_per_s / base.acked_per_s,
                "p50": each.ack_ms.p50 / base.ack_ms.p50,
                "p99": each.ack_ms.p99 / base.ack_ms.p99,
            }
    return found


def file_system_of(directory: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Type of the file system that a directory is on, as Linux names it."""
    best, kind = -1, "unknown"
    absolute = directory.resolve()
    for line in mounts.read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(fields.split()[4].encode().decode("unicode_escape"))
        # Of two mounts on one point the later one is seen.
        if absolute.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split()[0]
    return kind


def probe_disk(directory: Path, record: bytes) -> Latency:
    """How long the disk takes for one record at a time."""
    file = directory / "probe"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    values_s: list[float] = []
    try:
        for _ in range(_PROBES):
            begin_s = time.perf_counter()
            os.write(descriptor, record)
            os.fdatasync(descriptor)
            values_s.append(time.perf_counter() - begin_s)
    finally:
        os.close(descriptor)
        file.unlink()
    found = latency(values_s)
    assert found is not None  # noqa: S101 - there are probes
    return found


async def bench(plan: AuditPlan, tell: Callable[[str], None]) -> AuditBench:
    """Run the plan; subjects take turns, and each round begins with another one."""
    plan.check()
    plan.directory.mkdir(parents=True, exist_ok=True)
    kind = file_system_of(plan.directory)
    if kind in _VOLATILE:
        raise BenchRefused(f"{plan.directory} is on {kind}, where nothing is ever synced: pass --dir on a real disk.")
    where = machine()
    payloads = [encode(event, place, _VERSION) for place, event in enumerate(islice(events(plan.seed), 1_000), 10**6)]
    disk = await asyncio.to_thread(probe_disk, plan.directory, payloads[0])
    loops: tuple[Loop, ...] = ("closed", "open") if plan.rate else ("closed",)
    windows: dict[tuple[Loop, str], list[Window]] = {(loop, name): [] for loop in loops for name in plan.subjects}
    for number in range(plan.rounds):
        first = number % len(plan.subjects)
        for loop in loops:
            for name in (*plan.subjects[first:], *plan.subjects[:first]):
                tell(f"round {number + 1} of {plan.rounds}: {loop} loop, {name}")
                window = await run_one(name, loop, events(plan.seed + number), plan)
                windows[loop, name].append(window)
    return AuditBench(
        plan=plan,
        machine=where,
        file_system=kind,
        sqlite=sqlite3.sqlite_version,
        record_bytes=sum(map(len, payloads)) / len(payloads),
        disk=disk,
        figures=tuple(figures(found) for found in windows.values()),
    )
