import asyncio
import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.audit.deployment import AuditSink, open_writer
from deployments.audit.record import InvalidRecord
from deployments.audit.recover import CorruptLog, recover
from deployments.audit.settings import AuditSettings
from deployments.audit.verify import verify
from deployments.audit.writer import EventConflict, GroupCommit, LogLocked, LogWriter
from deployments.clock import FixedClock
from deployments.errors import AuditRefused, AuditUnavailable
from deployments.ports import Receipt
from tests.unit.audit.logs import SMALL, event, open_log, routed


async def test_receipts_come_back_in_order_and_survive_a_restart(tmp_path: Path) -> None:
    sink = AuditSink(str(tmp_path), SMALL, "test")
    receipts = await sink.append([routed(1), routed(2)])
    assert [receipt.index for receipt in receipts] == [1, 2]  # 0 is log.opened
    head = await sink.head()
    assert head.size == 3
    await sink.close()
    again = AuditSink(str(tmp_path), SMALL, "another version")
    assert await again.append([routed(2), routed(1)]) == [receipts[1], receipts[0]]
    assert (await again.head()).size == 4
    await again.close()
    assert verify(tmp_path).ok


async def test_nobody_is_acknowledged_before_the_disk_has_answered(tmp_path: Path) -> None:
    synced: list[int] = []

    def fdatasync(descriptor: int) -> None:
        os.fdatasync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    writer = LogWriter(tmp_path, SMALL, "test", FixedClock(), fdatasync)
    log = GroupCommit(writer, SMALL)
    await log.append([routed(1)])
    [segment] = (tmp_path / "segments").iterdir()
    assert synced[-1] == segment.stat().st_size
    await log.close()


async def test_callers_that_wait_together_share_one_sync(tmp_path: Path) -> None:
    synced = 0

    def fdatasync(descriptor: int) -> None:
        nonlocal synced
        synced += 1

    settings = AuditSettings(lock_timeout_s=0)
    log = GroupCommit(LogWriter(tmp_path, settings, "test", FixedClock(), fdatasync), settings)
    receipts = await asyncio.gather(*(log.append([routed(number)]) for number in range(500)))
    assert sorted(receipt.index for [receipt] in receipts) == list(range(1, 501))
    assert synced <= 4
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
    with pytest.raises(AuditUnavailable, match="overloaded"):
        await log.append([routed(3)])
    await waiting
    assert log.queued_events == 0
    await log.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
async def test_after_a_failed_sync_nothing_is_acknowledged_again(tmp_path: Path, code: int) -> None:
    calls: list[int] = []

    def fdatasync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(code, os.strerror(code))

    log = GroupCommit(LogWriter(tmp_path, SMALL, "test", FixedClock(), fdatasync), SMALL)
    await log.append([routed(1)])
    for number in (2, 2, 3):
        with pytest.raises(AuditUnavailable):
            await log.append([routed(number)])
    assert len(calls) == 3  # never a second fsync on that descriptor
    assert os.strerror(code) in (log.failure or "")
    await log.close()


async def test_a_sink_that_failed_is_not_healthy(tmp_path: Path) -> None:
    sink = AuditSink(str(tmp_path), SMALL, "test")
    await sink.check_health()
    await sink.close()
    with pytest.raises(AuditUnavailable):
        await sink.check_health()
    with pytest.raises(AuditUnavailable):
        await sink.head()
    with pytest.raises(AuditUnavailable):
        await sink.append([routed(1)])


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
        open_writer(tmp_path, SMALL, "test", FixedClock())
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
    assert recover(tmp_path).epochs == 3
    report = verify(tmp_path)
    assert (report.ok, report.events["log.opened"]) == (True, 3)


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
from tests.unit.audit.logs import SMALL, open_log, routed

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
        recovered = recover(tmp_path).index
        for number, receipt in acknowledged.items():
            assert recovered.places[f"route:{number}"] == receipt.index
            assert recovered.leaf(receipt.index) == receipt.leaf_hash
    assert verify(tmp_path).ok
    assert len(acknowledged) >= 4 * 40
