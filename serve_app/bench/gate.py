"""What the gate adds to a tool call that it releases: from the complete call to the verdict, its records included.

Three subjects judge the same read-only commands of the policy's own examples, one after the other in one run:

- `gate, audit log`: the gate as an ingress replica has it, over a real log: schema, hashes, group commit, fdatasync.
- `gate, no disk`: the same, acknowledged by nobody's disk. The difference is the price of evidence.
- `text filter`: a hook-style filter, one regular expression over the raw text. It is here for its speed alone: quotes
  and expansions get around it.

Each call is another text (`cold`: both parsers run, one of them as a process of its own), or one that was read before
(`warm`). Ray's call to the sink, about a millisecond, is not in it.
"""

import asyncio
import json
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from deployments.audit.settings import AuditSettings
from deployments.audit.sink import Sink
from deployments.audit.writer import LogWriter
from deployments.clock import SystemClock
from deployments.errors import GateUnavailable
from deployments.gate.bundle import bundle_path
from deployments.gate.classify import Classifier
from deployments.gate.guard import Guard
from deployments.gate.policy import read_policy
from deployments.gate.shell.reader import ShellReader
from deployments.ports import (
    Audit,
    AuditEvent,
    Frozen,
    GateContext,
    KeyId,
    ModelId,
    Principal,
    Receipt,
    Released,
    RequestId,
    Risk,
    RouteId,
    Scope,
    SessionId,
    TenantId,
    ToolCall,
)
from serve_app.bench.load import BenchRefused
from serve_app.bench.machine import Machine, machine
from serve_app.bench.stats import Spread, spread

LOGGED, UNLOGGED, TEXT = "gate, audit log", "gate, no disk", "text filter"
SUBJECTS = (UNLOGGED, LOGGED, TEXT)
BAR_UNLOGGED_MS, BAR_LOGGED_MS = 25.0, 60.0
_READS = re.compile(
    r"^\s*(?:LANG=\S+\s+)?(?:git|kubectl|ls|cat|grep|rg|find|docker|helm|ps|df|du|head|tail|wc)\b"
    r"[^;&|`$<>]*$"
)
_Judge = Callable[[str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class GatePlan:
    """`calls` per row; `clients` at once. `directory` is on the disk to measure."""

    directory: Path
    bundle: str = "default"
    calls: int = 2_000
    clients: tuple[int, ...] = (1, 8)

    def check(self) -> None:
        """Raise `BenchRefused` for a plan that cannot be run."""
        if self.calls < 1 or not self.clients or min(self.clients) < 1:
            raise BenchRefused("calls and clients are positive.")


@dataclass(frozen=True, slots=True)
class GateFigures:
    """One row: `spread` in milliseconds; `released` counts verdicts that let the call pass."""

    subject: str
    reading: str
    clients: int
    calls: int
    released: int
    wall_s: float
    cpu_s: float
    spread: Spread

    @property
    def per_s(self) -> float:
        """Calls a second."""
        return self.calls / self.wall_s


@dataclass(frozen=True, slots=True)
class GateBench:
    """All rows of a run."""

    plan: GatePlan
    machine: Machine
    commands: int
    rows: tuple[GateFigures, ...]

    def missed(self) -> list[str]:
        """The bars of the design that a row does not reach."""
        bars = {UNLOGGED: BAR_UNLOGGED_MS, LOGGED: BAR_LOGGED_MS}
        return [
            f"{row.subject}, {row.reading}, {row.clients} at once: p99 {row.spread.p99:.1f} ms, the bar is {bar:.0f} ms"
            for row in self.rows
            if (bar := bars.get(row.subject)) is not None and row.clients == 1 and row.spread.p99 > bar
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "plan": {**asdict(replace(self.plan, directory=Path())), "directory": None},
            "machine": self.machine.to_json(),
            "commands": self.commands,
            "rows": [{**asdict(row), "per_s": row.per_s} for row in self.rows],
            "missed": self.missed(),
        }


class _NoDisk:
    """Acknowledges at once."""

    def __init__(self) -> None:
        self._size = 0

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        first, self._size = self._size, self._size + len(events)
        return [Receipt(first + place, b"\0" * 32) for place in range(len(events))]


class _NoApprovals:
    """Nobody is frozen. Only reads are asked about; anything else shows as not released."""

    async def frozen(self) -> Sequence[Frozen]:
        return ()

    def __getattr__(self, name: str) -> NoReturn:
        raise GateUnavailable("The benchmark has no approval store.")


def bench(plan: GatePlan, tell: Callable[[str], object]) -> GateBench:
    """Run the plan; `tell` hears what is going on."""
    plan.check()
    return asyncio.run(_bench(plan, tell))


async def _bench(plan: GatePlan, tell: Callable[[str], object]) -> GateBench:
    policy = read_policy(bundle_path(plan.bundle))
    classifier = Classifier(policy, ShellReader(5.0))
    tell("choosing commands")
    lines = [line for rule in policy.rule_specs for line in rule.match]
    commands = [line for line in lines if classifier.classify("shell", {"command": f"LANG=C {line}"}).risk is Risk.R0]
    if not commands:
        raise BenchRefused("the policy has no example that is a read.")
    rows: list[GateFigures] = []
    numbers = count()
    for clients in plan.clients:
        for subject in SUBJECTS:
            for reading in ("cold", "warm"):
                if subject == TEXT and reading == "warm":
                    continue  # it remembers nothing
                tell(f"{subject}, {reading}, {clients} at once")
                async with _subject(subject, plan, Classifier(policy)) as judge:
                    rows.append(await _run(subject, reading, clients, plan.calls, commands, numbers, judge))
    return GateBench(plan, machine(), len(commands), tuple(rows))


@asynccontextmanager
async def _subject(subject: str, plan: GatePlan, classifier: Classifier) -> AsyncGenerator[_Judge]:
    if subject == TEXT:

        async def by_text(command: str) -> bool:
            return _READS.match(json.loads(json.dumps({"command": command}))["command"]) is not None

        yield by_text
        return
    plan.directory.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=plan.directory))
    try:
        if subject == UNLOGGED:
            yield _guarded(classifier, _NoDisk())
        else:
            sink = await asyncio.to_thread(_open_log, place / "audit")
            try:
                yield _guarded(classifier, sink)
            finally:
                await sink.close()
    finally:
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


def _open_log(directory: Path) -> Sink:
    settings, clock = AuditSettings(), SystemClock()
    return Sink(
        directory, settings, clock, lambda sealer: LogWriter(directory, settings, "bench", clock, sealing=sealer)
    )


def _guarded(classifier: Classifier, audit: Any) -> _Judge:
    approvals: Any = _NoApprovals()
    sink: Audit = audit
    guard = Guard(classifier, approvals, sink, SystemClock(), audit_timeout_s=30, classify_timeout_s=30)
    principal = Principal(TenantId("bench"), KeyId("key_bench"), None, frozenset({Scope.INFERENCE}))
    context = GateContext(
        request_id=RequestId("bench"),
        principal=principal,
        session=SessionId("bench"),
        model=ModelId("bench"),
        route_id=RouteId("bench"),
        offered_tools=frozenset({"shell"}),
    )

    async def judge(command: str) -> bool:
        call = ToolCall(f"call_{secrets.token_hex(12)}", 0, 0, "shell", json.dumps({"command": command}))
        (verdict,) = await guard.judge(context, [call])
        return isinstance(verdict, Released)

    return judge


async def _run(
    subject: str, reading: str, clients: int, calls: int, commands: Sequence[str], numbers: Iterator[int], judge: _Judge
) -> GateFigures:
    warm = commands[: min(len(commands), 500)]
    if reading == "warm":
        for command in warm:
            await judge(command)
    todo = iter(range(calls))
    took_ms: list[float] = []
    released = 0

    async def client() -> None:
        nonlocal released
        for at in todo:
            command = warm[at % len(warm)]
            if reading == "cold":  # the same command in a text that was not seen before
                command = f"LANG=b{next(numbers)} {commands[at % len(commands)]}"
            began = time.perf_counter()
            passed = await judge(command)
            took_ms.append((time.perf_counter() - began) * 1000)
            released += passed

    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    found = spread(took_ms)
    if found is None:
        raise BenchRefused("no call was made.")
    return GateFigures(subject, reading, clients, len(took_ms), released, wall_s, cpu_s, found)
