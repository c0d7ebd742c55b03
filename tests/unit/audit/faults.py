"""The life of a log with one system call that goes wrong, and what must hold afterwards."""

import errno
import json
import random
from pathlib import Path

from deployments.audit.recover import recover
from deployments.audit.settings import AuditSettings
from deployments.audit.writer import LogWriter
from deployments.clock import FixedClock
from deployments.errors import AuditUnavailable
from deployments.ports import Receipt
from tests.unit.audit.disks import Faulty, MemoryDisk
from tests.unit.audit.logs import routed

LOG = Path("/log")
SETTINGS = AuditSettings(segment_bytes=1_024, lock_timeout_s=0.0, head_interval_ms=0)
FAULTS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EINTR": errno.EINTR, "short": None}
"""By name: the error number, or None for a write that is cut short without an error."""

Ledger = dict[str, Receipt]


def _append(writer: LogWriter, begin: int, end: int, ledger: Ledger) -> None:
    for number in range(begin, end):
        events = [routed(number), routed(number + 1)]  # one of them again
        [outcome] = writer.commit([events])
        if isinstance(outcome, AuditUnavailable):
            raise outcome
        for event, receipt in zip(events, outcome, strict=True):
            assert ledger.setdefault(event.event_id, receipt) == receipt


def _live(faulty: Faulty, ids: Path, ledger: Ledger) -> None:
    """Open, append over several segments, close, and once more; stop at the first error."""
    for begin in (0, 6):
        writer = LogWriter(LOG, SETTINGS, "test", FixedClock(), disk=faulty.disk, ids=ids)
        try:
            _append(writer, begin, begin + 7, ledger)
            writer.record_head()
        finally:
            writer.close()


def calls_of_a_life(ids: Path) -> list[str]:
    """The system calls of a life without a fault."""
    faulty = Faulty(_disk(), -1)
    _live(faulty, ids, {})
    return faulty.calls


def live_with_fault(at: int, code: int | None, ids: Path, power_cut: bool) -> tuple[str | None, bool]:
    """One life, a new process, and the proof that nothing acknowledged was lost. Which call was hit; whether it hurt.

    Nothing is asked of a writer after its first failure but to stay failed.
    """
    memory = _disk()
    ledger: Ledger = {}
    faulty = Faulty(memory, at, code)
    hurt = False
    try:
        _live(faulty, ids, ledger)
    except (AuditUnavailable, OSError):
        hurt = True
    if power_cut:
        memory.power_cut(random.Random(at))
    acknowledged = dict(ledger)
    writer = LogWriter(LOG, SETTINGS, "test", FixedClock(), disk=memory, ids=ids)
    _append(writer, 0, 15, ledger)  # clients offer everything again: `_append` compares the receipts
    stored = {json.loads(entry.payload)["event_id"]: entry for entry in writer.read(0, writer.head().size)}
    assert len(stored) == writer.head().size
    for event_id, receipt in acknowledged.items():
        assert (stored[event_id].index, stored[event_id].leaf) == (receipt.index, receipt.leaf_hash)
    writer.close()
    assert recover(LOG, memory).size == len(stored)
    return faulty.hit, hurt


def _disk() -> MemoryDisk:
    memory = MemoryDisk()
    memory.make_directory(LOG)
    return memory
