"""A thousand kill -9 inside the writer. The parent's ledger is the truth; without torn tails the test is void."""

import json
import os
import random
import signal
from collections import Counter
from pathlib import Path
from struct import Struct
from tempfile import TemporaryDirectory
from typing import NoReturn

from deployments.audit.recover import recover
from deployments.audit.segment import SEGMENTS_DIR
from deployments.audit.settings import AuditSettings
from deployments.audit.stored import StoredLog
from deployments.audit.verify import verify
from deployments.audit.writer import LogWriter
from deployments.clock import FixedClock
from deployments.ports import Receipt
from tests.unit.audit.disks import stepped
from tests.unit.audit.logs import routed

ROUNDS = 1_000
ROUNDS_PER_LOG = 100
TORN_AT_LEAST = 100
SETTINGS = AuditSettings(segment_bytes=4_096, lock_timeout_s=0.0, min_free_bytes=0)
ACKNOWLEDGED = Struct(">QQ32s")


def _write_until_killed(log: Path, seed: int, ledger: int) -> NoReturn:
    """The child: append for ever, tell the parent what was acknowledged, and die inside some system call."""
    luck = random.Random(seed)
    how = luck.choices(["write", "any step", "from outside"], [6, 3, 1])[0]
    left = luck.randint(1, 25) if how == "write" else luck.randint(1, 400)

    def before(step: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if how == "from outside" or (how == "write" and step != "write"):
            return
        left -= 1
        if left > 0:
            return
        if step == "write":
            descriptor, data = arguments
            assert isinstance(descriptor, int)
            assert isinstance(data, bytes | memoryview)
            os.write(descriptor, data[: luck.randint(0, len(data))])
        os.kill(os.getpid(), signal.SIGKILL)

    writer = LogWriter(log, SETTINGS, "test", FixedClock(), disk=stepped(before))
    number = seed * 10_000
    while True:
        events = [routed(number + each) for each in range(luck.randint(1, 6))]
        if luck.random() < 0.2:
            events.append(routed(luck.randrange(number + 1)))  # often unknown, sometimes a retry
        [receipts] = writer.commit([events])
        assert isinstance(receipts, list)
        told = [
            ACKNOWLEDGED.pack(int(event.event_id.removeprefix("route:")), receipt.index, receipt.leaf_hash)
            for event, receipt in zip(events, receipts, strict=True)
        ]
        os.write(ledger, b"".join(told))
        number += len(events)


def _round(log: Path, seed: int) -> dict[int, Receipt]:
    """Fork a writer, let it be killed, and return what it said was acknowledged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _write_until_killed(log, seed, writing)
        finally:
            os._exit(1)  # whatever happened, this is not the test process
    os.close(writing)
    told, patience = b"", 300 * ACKNOWLEDGED.size
    with os.fdopen(reading, "rb", buffering=0) as ledger:
        while part := ledger.read(1 << 16):
            told += part
            if len(told) > patience:
                os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"round {seed}: the writer ended by itself"
    whole = len(told) - len(told) % ACKNOWLEDGED.size
    return {number: Receipt(index, leaf) for number, index, leaf in ACKNOWLEDGED.iter_unpack(told[:whole])}


def test_a_thousand_kills_lose_nothing_that_was_acknowledged() -> None:
    seen: Counter[str] = Counter()
    for first in range(0, ROUNDS, ROUNDS_PER_LOG):
        # On memory where there is some: what survives kill -9 is the page cache, with or without a disk under it.
        memory = Path("/dev/shm")  # noqa: S108 - a fresh private directory in it
        with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
            log, ledger = Path(name), dict[int, Receipt]()
            for seed in range(first, first + ROUNDS_PER_LOG):
                for number, receipt in _round(log, seed).items():
                    assert ledger.setdefault(number, receipt) == receipt, "one event, two receipts"
                recovered = recover(log)
                seen["torn"] += recovered.torn_bytes > 0
                seen["rounds"] += 1
            assert _check(log, ledger) == len(ledger)
            seen["acknowledged"] += len(ledger)
    print(dict(seen))
    assert seen["rounds"] == ROUNDS
    assert seen["acknowledged"] > 10 * ROUNDS
    assert seen["torn"] >= TORN_AT_LEAST


def _check(log: Path, ledger: dict[int, Receipt]) -> int:
    """How many acknowledged events are where their receipts say; each id is there once."""
    recovered = recover(log)
    entries = list(StoredLog(recovered.stretches).read(0, recovered.size))
    ids = [str(json.loads(entry.payload)["event_id"]) for entry in entries]
    assert len(set(ids)) == len(ids)
    assert verify(log).ok
    assert (log / SEGMENTS_DIR).is_dir()
    return sum(
        ids[receipt.index] == f"route:{number}" and entries[receipt.index].leaf == receipt.leaf_hash
        for number, receipt in ledger.items()
    )
