import asyncio
import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from deployments.audit.canonical import canonical
from deployments.audit.chain import GENESIS, leaf_hash
from deployments.audit.entries import Entry, OpenedLog
from deployments.audit.head import EMPTY, write_head
from deployments.audit.record import HOISTED, InvalidRecord, to_object
from deployments.audit.recover import CorruptLog, recover
from deployments.audit.segment import frame, segment_paths
from deployments.audit.settings import AuditSettings
from deployments.audit.verify import verify
from deployments.audit.writer import EventConflict, GroupCommit, LogLocked, LogWriter
from deployments.clock import FixedClock
from deployments.errors import AuditDiskFull, AuditOverloaded, AuditRefused, AuditUnavailable
from deployments.ports import Receipt
from tests.unit.audit.disks import stepped
from tests.unit.audit.logs import SMALL, entries_of, event, open_log, routed, write_log


async def test_receipts_come_back_in_order_and_survive_a_restart(tmp_path: Path) -> None:
    log = GroupCommit(open_log(tmp_path), SMALL)
    receipts = await log.append([routed(1), routed(2)])
    assert [receipt.index for receipt in receipts] == [1, 2]  # 0 is log.opened
    assert log.head().size == 3
    await log.close()
    again = GroupCommit(LogWriter(tmp_path, SMALL, "another version", FixedClock()), SMALL)
    assert await again.append([routed(2), routed(1)]) == [receipts[1], receipts[0]]
    assert again.head().size == 4
    await again.close()
    assert verify(tmp_path).ok


async def test_nobody_is_acknowledged_before_the_disk_has_answered(tmp_path: Path) -> None:
    steps: list[str] = []
    disk = stepped(lambda step, _: steps.append(step))
    log = GroupCommit(LogWriter(tmp_path, SMALL, "test", FixedClock(), disk=disk), SMALL)
    steps.clear()
    await log.append([routed(1)])
    # and nobody else became the writer meanwhile
    assert [step for step in steps if step in {"write", "fdatasync", "names"}][:3] == ["write", "fdatasync", "names"]
    await log.close()


async def test_callers_that_wait_together_share_one_sync(tmp_path: Path) -> None:
    steps: list[str] = []
    disk = stepped(lambda step, _: steps.append(step))
    settings = AuditSettings(lock_timeout_s=0)
    log = GroupCommit(LogWriter(tmp_path, settings, "test", FixedClock(), disk=disk), settings)
    receipts = await asyncio.gather(*(log.append([routed(number)]) for number in range(500)))
    assert sorted(receipt.index for [receipt] in receipts) == list(range(1, 501))
    assert steps.count("fdatasync") <= 4
    await log.close()


async def test_the_same_event_is_stored_once_also_within_a_batch(tmp_path: Path) -> None:
    log = GroupCommit(open_log(tmp_path), SMALL)
    first, again, both = await asyncio.gather(
        log.append([routed(1)]), log.append([routed(1)]), log.append([routed(1), routed(1)])
    )
    assert first == again
    assert both == first * 2
    assert log.head().size == 2
    await log.close()


async def test_an_id_with_other_content_is_refused_and_nothing_of_its_call_stays(tmp_path: Path) -> None:
    log = GroupCommit(open_log(tmp_path), SMALL)
    await log.append([routed(1)])
    forged = event("key.revoked", "route:1", key_id="k")
    refused, fine = await asyncio.gather(
        log.append([routed(2), forged]), log.append([routed(3)]), return_exceptions=True
    )
    assert isinstance(refused, EventConflict)
    assert isinstance(fine, list)
    assert log.head().size == 3
    assert [receipt.index for receipt in await log.append([routed(2)])] == [3]
    await log.close()
    assert verify(tmp_path).ok


async def test_an_event_outside_the_schema_is_refused(tmp_path: Path) -> None:
    log = GroupCommit(open_log(tmp_path), SMALL)
    with pytest.raises(AuditRefused, match="does not have a field 'arguments'"):
        await log.append([routed(1), event("key.revoked", "e", key_id="k", arguments="rm -rf /")])
    assert log.head().size == 1
    await log.close()


async def test_a_full_queue_is_an_answer(tmp_path: Path) -> None:
    settings = AuditSettings(max_queued_events=2, lock_timeout_s=0)
    log = GroupCommit(open_log(tmp_path, settings), settings)
    waiting = asyncio.gather(log.append([routed(1)]), log.append([routed(2)]))
    await asyncio.sleep(0)
    with pytest.raises(AuditOverloaded):
        await log.append([routed(3)])
    await waiting
    assert log.queued_events == 0
    await log.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("failing", ["write", "fdatasync"])
async def test_after_a_failed_write_or_sync_nothing_is_acknowledged_again(
    tmp_path: Path, code: int, failing: str
) -> None:
    calls: list[str] = []

    def before(step: str, _: object) -> None:
        calls.append(step)
        if step == failing and "armed" in calls:
            raise OSError(code, os.strerror(code))

    log = GroupCommit(LogWriter(tmp_path, SMALL, "test", FixedClock(), disk=stepped(before)), SMALL)
    await log.append([routed(1)])
    calls.append("armed")
    for number in (2, 2, 3):
        with pytest.raises(AuditUnavailable):
            await log.append([routed(number)])
    assert calls.count(failing) == calls[: calls.index("armed")].count(failing) + 1  # never a second fsync
    assert os.strerror(code) in (log.failure or "")
    await log.close()
    assert [entry.index for entry in entries_of(tmp_path)][:2] == [0, 1]


async def test_a_closed_log_acknowledges_nothing(tmp_path: Path) -> None:
    log = GroupCommit(open_log(tmp_path), SMALL)
    await log.close()
    await log.close()
    with pytest.raises(AuditUnavailable, match="closed"):
        await log.append([routed(1)])


async def test_a_caller_that_leaves_does_not_stop_the_others(tmp_path: Path) -> None:
    log = GroupCommit(open_log(tmp_path), SMALL)
    leaving = asyncio.create_task(log.append([routed(1)]))
    staying = asyncio.create_task(log.append([routed(2)]))
    await asyncio.sleep(0)
    leaving.cancel()
    assert [receipt.index for receipt in await staying] == [2]
    assert [receipt.index for receipt in await log.append([routed(1)])] == [1]
    await log.close()


async def test_the_recorded_head_follows_by_itself(tmp_path: Path) -> None:
    settings = AuditSettings(head_interval_ms=1, lock_timeout_s=0)
    log = GroupCommit(open_log(tmp_path, settings), settings)
    await log.append([routed(1)])
    async with asyncio.timeout(10):
        while f'"size": {log.head().size},' not in (tmp_path / "head.json").read_text():
            await asyncio.sleep(0.005)
    await log.close()


def test_a_second_writer_is_told_who_holds_the_log(tmp_path: Path) -> None:
    writer = open_log(tmp_path)
    with pytest.raises(LogLocked, match=rf"written by process {os.getpid()}"):
        open_log(tmp_path)
    writer.close()
    open_log(tmp_path).close()


def test_a_second_process_is_fenced_too(tmp_path: Path) -> None:
    writer = open_log(tmp_path)
    code = (
        "import sys; from pathlib import Path; from tests.unit.audit.logs import open_log; open_log(Path(sys.argv[1]))"
    )
    second = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert second.returncode != 0
    assert "LogLocked" in second.stderr
    writer.close()


def test_every_opening_takes_the_next_epoch(tmp_path: Path) -> None:
    for _ in range(3):
        open_log(tmp_path).close()
    assert recover(tmp_path).epoch == 3
    report = verify(tmp_path)
    assert (report.ok, report.events["log.opened"]) == (True, 3)


class _Sealing:
    """Takes note of what the writer tells its sealer."""

    def __init__(self, refuses: Exception | None = None) -> None:
        self.refuses = refuses
        self.opened: list[OpenedLog] = []
        self.taken: list[Entry] = []

    def open(self, log: OpenedLog) -> None:
        self.opened.append(log)
        if self.refuses is not None:
            raise self.refuses

    def take(self, entries: Sequence[Entry]) -> None:
        self.taken += entries


async def test_the_sealer_sees_the_log_before_anything_is_written_and_every_record_after(tmp_path: Path) -> None:
    write_log(tmp_path, [routed(number) for number in range(5)])
    sealing = _Sealing()
    writer = LogWriter(tmp_path, SMALL, "test", FixedClock(), sealing=sealing)
    log = GroupCommit(writer, SMALL)
    await asyncio.gather(*(log.append([routed(number)]) for number in range(3, 9)))
    await log.close()
    [opened] = sealing.opened
    assert (opened.size, opened.epoch) == (6, 2)
    everything = entries_of(tmp_path)
    assert list(opened.read(0)) == everything[:6]
    assert list(opened.read(4)) == everything[4:6]
    assert sealing.taken == everything[6:]


def test_a_log_that_the_sealer_refuses_is_left_as_it_is(tmp_path: Path) -> None:
    write_log(tmp_path, [routed(1)])
    with (segment_paths(tmp_path)[-1]).open("ab") as file:
        file.write(b"torn")

    def files() -> dict[Path, bytes]:
        own = (path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "epochs")
        return {path: path.read_bytes() for path in own if path.name != "lock"}

    before = files()
    with pytest.raises(CorruptLog, match="shorter"):
        LogWriter(tmp_path, SMALL, "test", FixedClock(), sealing=_Sealing(CorruptLog("checkpoint", 0, "shorter")))
    assert files() == before
    open_log(tmp_path).close()


def test_any_range_of_records_can_be_read_while_the_log_grows(tmp_path: Path) -> None:
    writer = open_log(tmp_path)
    writer.commit([[routed(number) for number in range(700)]])
    for number in range(700, 720):
        writer.commit([[routed(number)]])
    everything = list(writer.read(0, 10_000))
    assert [entry.index for entry in everything] == list(range(721))
    for begin, end in [(0, 1), (255, 257), (300, 700), (719, 721), (720, 10_000), (721, 800), (5, 5)]:
        assert list(writer.read(begin, end)) == everything[begin:end]
    writer.close()


async def test_with_too_little_room_events_are_refused_until_there_is_some(tmp_path: Path) -> None:
    free = [10**9]
    disk = stepped(lambda step, _: free[0] if step == "free_bytes" else None)
    settings = AuditSettings(min_free_bytes=10**8, lock_timeout_s=0)
    log = GroupCommit(LogWriter(tmp_path, settings, "test", FixedClock(), disk=disk), settings)
    stored = await log.append([routed(1)])
    free[0] = 10**8
    for number in (2, 3):
        with pytest.raises(AuditDiskFull):
            await log.append([routed(number)])
    assert await log.append([routed(1)]) == stored  # needs no room
    assert log.failure is None
    free[0] = 10**9
    [receipt] = await log.append([routed(2)])
    free[0] = 10**8
    with pytest.raises(AuditDiskFull):
        await log.append([routed(4)])
    await log.close()
    names = [json.loads(entry.payload)["name"] for entry in entries_of(tmp_path)]
    assert names == ["log.opened", "route.decided", "log.degraded", "route.decided", "log.degraded"]
    assert receipt.index == 3
    assert verify(tmp_path).ok


def test_a_full_disk_keeps_its_last_bytes(tmp_path: Path) -> None:
    disk = stepped(lambda step, _: 1_000 if step == "free_bytes" else None)
    writer = LogWriter(tmp_path, SMALL, "test", FixedClock(), disk=disk)  # opening needs room for one record only
    [outcome] = writer.commit([[routed(1)]])
    assert isinstance(outcome, AuditDiskFull)
    assert writer.head().size == 1
    writer.close()


def test_an_event_that_an_older_version_stored_is_known_again(tmp_path: Path) -> None:
    known = routed(1)
    record = to_object(known, 0, "0.1")
    older = {name: value for name, value in record.items() if name not in HOISTED} | {"data": dict(known.data)}
    segment = tmp_path / "segments" / f"{0:020d}.seg"
    segment.parent.mkdir()
    segment.write_bytes(frame(0, GENESIS, canonical(older)))
    write_head(tmp_path, EMPTY)
    writer = open_log(tmp_path)
    [receipts, other] = writer.commit([[known], [event("key.revoked", "route:1", key_id="k")]])
    assert receipts == [Receipt(0, leaf_hash(canonical(older)))]
    assert isinstance(other, EventConflict)
    writer.close()


@pytest.mark.parametrize(
    "error",
    [
        InvalidRecord("text"),
        EventConflict("text"),
        LogLocked("/log", "7"),
        CorruptLog("0.seg", 12, "the CRC does not match"),
    ],
)
def test_errors_cross_processes_as_they_are(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


_CRASHING_WRITER = """
import asyncio, sys
from pathlib import Path
from deployments.audit.writer import GroupCommit
from tests.unit.audit.logs import SMALL, open_log, routed, write_log

async def client(log, number):
    while True:
        [receipt] = await log.append([routed(number)])
        print(number, receipt.index, receipt.leaf_hash.hex(), flush=True)
        number += 4

async def main():
    log = GroupCommit(open_log(Path(sys.argv[1])), SMALL)
    first = int(sys.argv[2])
    await asyncio.gather(*(client(log, first + offset) for offset in range(4)))

asyncio.run(main())
"""


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    # The parent's list is the truth: what the writer printed was acknowledged.
    acknowledged: dict[int, Receipt] = {}
    for round_number in range(4):
        arguments = [sys.executable, "-c", _CRASHING_WRITER, str(tmp_path), str(round_number * 100_000)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(40 + 13 * round_number)]
            writer.kill()
            # Everything printed before the kill counts; the last line may be cut.
            lines += writer.stdout.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith("\n"):
                number, index, leaf = line.split()
                acknowledged[int(number)] = Receipt(int(index), bytes.fromhex(leaf))
        entries = entries_of(tmp_path)
        for number, receipt in acknowledged.items():
            entry = entries[receipt.index]
            assert (json.loads(entry.payload)["event_id"], entry.leaf) == (f"route:{number}", receipt.leaf_hash)
    assert verify(tmp_path).ok
    assert len(acknowledged) >= 4 * 40
