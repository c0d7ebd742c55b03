"""A million records: acknowledged to another process, the writer killed, recovered, and compared one by one."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from struct import Struct

from deployments.audit.entries import Entry
from deployments.audit.recover import recover
from deployments.audit.settings import AuditSettings
from deployments.audit.stored import StoredLog
from deployments.audit.writer import GroupCommit, LogWriter
from deployments.clock import FixedClock
from deployments.ports import AuditEvent
from tests.unit.audit.logs import D1, D2, D3, event

EVENTS = 1_000_000
CLIENTS = 256
SETTINGS = AuditSettings(lock_timeout_s=0.0)
_ACKNOWLEDGED = Struct(">QQ32s")
_GROWTH_BYTES = 96 * 2**20
"""Allowed from the first fifth to the end; an entry of 100 bytes for each record would take 80 MB more than that."""


def _event(number: int) -> AuditEvent:
    return event(
        "tool_call.classified", f"{number:026d}:classified", number, gate_call_id=f"gc_{number:026d}", tool="shell",
        risk="R1", outcome="allow", policy_digest=D1, action_digest=D2, display_digest=D3, fingerprint=D1,
        approval_id=f"apr_{number:026d}", model="demo-120b", reasons=["tool:shell", "path:workspace"], choice=0,
    )  # fmt: skip


async def _append(log: Path) -> None:
    """The child: many clients append until all events are acknowledged; says so on standard output, then waits."""
    commits = GroupCommit(LogWriter(log, SETTINGS, "test", FixedClock()), SETTINGS)
    numbers = iter(range(EVENTS))
    told: list[bytes] = []
    resident: list[int] = []

    async def client() -> None:
        for number in numbers:
            [receipt] = await commits.append([_event(number)])
            told.append(_ACKNOWLEDGED.pack(number, receipt.index, receipt.leaf_hash))
            if len(told) == 1_000:
                sys.stdout.buffer.write(b"".join(told))
                told.clear()
            if number % (EVENTS // 5) == EVENTS // 5 - 1:
                resident.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    sys.stdout.buffer.write(b"".join(told))
    sys.stdout.buffer.flush()
    print("resident", *resident, file=sys.stderr, flush=True)
    await asyncio.sleep(3_600)


def test_a_million_acknowledged_records_are_recovered_and_are_what_was_acknowledged(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = f"import asyncio, pathlib, {__name__} as here; asyncio.run(here._append(pathlib.Path({str(log)!r})))"
    ledger = bytearray()
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", child], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        while len(ledger) < EVENTS * _ACKNOWLEDGED.size:
            part = writer.stdout.read(1 << 16)
            assert part, writer.stderr.read().decode()
            ledger += part
        took_s = time.perf_counter() - began
        resident = [int(text) for text in writer.stderr.readline().split()[1:]]
        os.kill(writer.pid, signal.SIGKILL)
    assert len(ledger) == EVENTS * _ACKNOWLEDGED.size

    began = time.perf_counter()
    again = LogWriter(log, SETTINGS, "test", FixedClock())
    opened_s = time.perf_counter() - began
    assert again.head().size == EVENTS + 2  # and two openings
    again.close()

    # Without seals and without an index every record is decoded.
    for path in [*log.rglob("*.seal"), log / "ids.db"]:
        path.unlink()
    began = time.perf_counter()
    LogWriter(log, SETTINGS, "test", FixedClock()).close()
    rebuilt_s = time.perf_counter() - began

    receipts: dict[int, tuple[int, bytes]] = {}
    for number, index, leaf in _ACKNOWLEDGED.iter_unpack(ledger):
        assert index not in receipts
        receipts[index] = (number, leaf)
    assert sorted(number for number, _ in receipts.values()) == list(range(EVENTS))
    recovered = recover(log)
    matched = sum(_matches(entry, receipts) for entry in StoredLog(recovered.stretches).read(0, recovered.size))
    size = sum(path.stat().st_size for path in log.rglob("*.seg"))
    print(
        f"{EVENTS / took_s:.0f} records/s, {size / 2**20:.0f} MiB, opened after kill -9 in {opened_s:.1f} s, "
        f"without seals and index in {rebuilt_s:.1f} s, resident {[each >> 20 for each in resident]} MiB"
    )
    assert matched == EVENTS
    assert resident[-1] - resident[0] < _GROWTH_BYTES


def _matches(entry: Entry, receipts: dict[int, tuple[int, bytes]]) -> bool:
    number, leaf = receipts.get(entry.index, (-1, b""))
    return entry.leaf == leaf and f'"event_id":"{number:026d}:classified"'.encode() in entry.payload
