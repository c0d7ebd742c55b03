"""Two writers of one log without a lock, taking turns at every system call, in an order that a test chooses.

Each is a thread that stops before each step until the schedule lets it go on. It may be killed there, its write may be
cut short, its sync may fail, and the power may go for both. The ledger of what was acknowledged is kept outside.
"""

import errno
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from deployments.audit.fence import EPOCHS_DIR, Fenced
from deployments.audit.files import Disk
from deployments.audit.recover import CorruptLog, recover
from deployments.audit.segment import segment_epoch
from deployments.audit.settings import AuditSettings
from deployments.audit.stored import StoredLog
from deployments.audit.writer import LogWriter
from deployments.clock import FixedClock
from deployments.errors import AuditUnavailable
from deployments.ports import Receipt
from tests.unit.audit.disks import MemoryDisk, stepped
from tests.unit.audit.logs import routed

LOG = Path("/log")
SETTINGS = AuditSettings(segment_bytes=1_024, lock_timeout_s=0.0, head_interval_ms=0)
_OPENINGS = 3
_BATCHES = 5


class Killed(BaseException):
    """The process ends here."""


class Action(StrEnum):
    """What happens to a process before it goes on."""

    NOTHING = "nothing"
    KILL = "kill"
    CUT_WRITE = "cut write"
    FAIL_SYNC = "fail sync"
    POWER_CUT = "power cut"


@dataclass(frozen=True, slots=True)
class Turn:
    """Process `who` goes on for `steps` system calls."""

    who: int
    steps: int
    action: Action = Action.NOTHING


@dataclass
class _Ledger:
    """What clients were told, and what no schedule may bring about."""

    acknowledged: list[tuple[str, Receipt, int, bool]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    fenced: int = 0
    openings: int = 0


class _Process:
    """A writer that opens the log, appends, and starts again after whatever stopped it."""

    def __init__(self, memory: MemoryDisk, ids: Path, ledger: _Ledger, number: int) -> None:
        self._memory = memory
        self._ids = ids
        self._ledger = ledger
        self._number = number
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._kill = False
        self._fault: Action = Action.NOTHING
        self._checked: list[str] = []
        self.done = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def step(self, action: Action = Action.NOTHING) -> None:
        """Let it make its next system call."""
        if self.done:
            return
        if action in {Action.KILL, Action.POWER_CUT}:
            self._kill = True
        elif action is not Action.NOTHING:
            self._fault = action
        self._go.release()
        self._stopped.acquire()

    def _wait(self) -> None:
        self._stopped.release()
        self._go.acquire()
        if self._kill:
            raise Killed

    def _before(self, step: str, arguments: tuple[object, ...]) -> object:
        if step == "close":
            return None  # also what the end of a process does
        if self._kill:
            raise Killed
        self._wait()
        if step == "write" and self._fault is Action.CUT_WRITE:
            self._fault = Action.NOTHING
            descriptor, data = arguments
            assert isinstance(descriptor, int)
            assert isinstance(data, bytes | memoryview)
            self._memory.write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if step in {"fsync", "fdatasync"} and self._fault is Action.FAIL_SYNC:
            self._fault = Action.NOTHING
            [descriptor] = arguments
            assert isinstance(descriptor, int)
            self._memory.fail_sync(descriptor)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if step == "names" and isinstance(arguments[0], Path) and arguments[0].name == EPOCHS_DIR:
            self._checked = self._memory.names(arguments[0])
        return None

    def _run(self) -> None:
        self._go.acquire()
        disk = stepped(self._before, self._memory)
        for _ in range(_OPENINGS):
            try:
                self._live(disk)
            except Killed:
                self._kill = False
            except CorruptLog as error:
                self._ledger.wrong.append(f"process {self._number} was refused a sound log: {error}")
            except Fenced:
                self._ledger.fenced += 1
            except (AuditUnavailable, OSError):
                pass
            except Exception as error:
                self._ledger.wrong.append(f"process {self._number} met {error!r}")
        self.done = True
        self._stopped.release()

    def _live(self, disk: Disk) -> None:
        self._ledger.openings += 1
        writer = LogWriter(LOG, SETTINGS, "test", FixedClock(), disk=disk, ids=self._ids)
        try:
            for batch in range(_BATCHES):
                # Both offer the same events: whoever comes second must get the first one's receipt.
                events = [routed(number) for number in range(2 * batch, 2 * batch + 3)]
                before = writer.head().size
                [outcome] = writer.append([events])
                if isinstance(outcome, AuditUnavailable):
                    raise outcome
                newest = max(map(int, self._checked))
                if newest != writer.epoch:
                    self._ledger.wrong.append(f"epoch {writer.epoch} acknowledged although {newest} was there")
                self._wait()  # between the check and the answer
                for event, receipt in zip(events, outcome, strict=True):
                    self._ledger.acknowledged.append((event.event_id, receipt, writer.epoch, receipt.index >= before))
                writer.settle()
            writer.record_head()
            writer.close()
        except BaseException:
            if writer._ids is not None:
                writer._ids.abandon()
            raise


def run(schedule: Sequence[Turn], seed: int, ids: Path) -> Counter[str]:
    """Play a schedule to its end, cut the power, open the log once more and compare it with what was acknowledged.

    What was seen on the way is counted in the answer.
    """
    luck = random.Random(seed)
    memory, ledger = MemoryDisk(), _Ledger()
    memory.make_directory(LOG)
    processes = [_Process(memory, ids, ledger, number) for number in range(2)]
    for turn in schedule:
        if turn.action is Action.POWER_CUT:
            for process in processes:
                process.step(Action.POWER_CUT)
            memory.power_cut(luck)
        elif turn.action is not Action.NOTHING:
            processes[turn.who].step(turn.action)
        for _ in range(turn.steps):
            processes[turn.who].step()
    while not all(process.done for process in processes):
        for process in processes:
            for _ in range(luck.randint(1, 80)):
                process.step()
    memory.power_cut(luck)
    return _compare(memory, ledger, ids)


def _compare(memory: MemoryDisk, ledger: _Ledger, ids: Path) -> Counter[str]:
    assert not ledger.wrong, ledger.wrong
    writer = LogWriter(LOG, SETTINGS, "test", FixedClock(), disk=memory, ids=ids)
    found = writer.recovered
    writer.close()
    recovered = recover(LOG, memory)
    placed = list(StoredLog(recovered.stretches, memory).frames(0, recovered.size))
    records = [json.loads(each.frame.payload) for each in placed]
    entries = list(StoredLog(recovered.stretches, memory).read(0, recovered.size))
    for event_id, receipt, epoch, is_new in ledger.acknowledged:
        assert receipt.index < len(entries), f"{event_id} at {receipt.index} was acknowledged and is gone"
        assert entries[receipt.index].leaf == receipt.leaf_hash
        assert records[receipt.index]["event_id"] == event_id
        if is_new:
            assert segment_epoch(placed[receipt.index].path) == epoch
    twice = [event_id for event_id, count in Counter(record["event_id"] for record in records).items() if count > 1]
    assert not twice, f"stored twice: {twice}"
    epochs = [record["data"]["epoch"] for record in records if record["name"] == "log.opened"]
    assert epochs == sorted(set(epochs))
    return Counter(
        acknowledged=len(ledger.acknowledged),
        fenced=ledger.fenced,
        openings=ledger.openings,
        torn=found.torn_bytes > 0,
        surplus=found.surplus_bytes > 0,
    )
