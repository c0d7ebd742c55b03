"""The index of event ids is never believed: whatever happens to its file, an event is stored once."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from deployments.audit.ids import IDS_FILE
from deployments.audit.settings import AuditSettings
from deployments.audit.writer import LogWriter
from deployments.errors import AuditDiskFull, AuditUnavailable
from deployments.ports import Receipt
from tests.unit.audit.logs import open_log, routed, write_log

EVENTS = [routed(number) for number in range(40)]


def _offer_all(writer: LogWriter) -> list[Receipt]:
    [receipts] = writer.commit([EVENTS])
    assert isinstance(receipts, list)
    return receipts


@pytest.fixture
def receipts(tmp_path: Path) -> list[Receipt]:
    """What the events of the log in `tmp_path` got when they were new."""
    write_log(tmp_path, EVENTS)
    writer = open_log(tmp_path)
    assert not writer.index_was_rebuilt
    found = _offer_all(writer)
    writer.close()
    return found


def _reopen(log: Path, rebuilt: bool, receipts: list[Receipt]) -> None:
    writer = open_log(log)
    assert writer.index_was_rebuilt == rebuilt
    size = writer.head().size
    assert _offer_all(writer) == receipts
    assert writer.head().size == size  # nothing was stored a second time
    writer.close()


def test_a_missing_index_is_built_again(tmp_path: Path, receipts: list[Receipt]) -> None:
    (tmp_path / IDS_FILE).unlink()
    _reopen(tmp_path, True, receipts)
    _reopen(tmp_path, False, receipts)


@pytest.mark.parametrize("damage", [b"", b"no database", bytes(4_096)])
def test_a_file_that_is_no_index_is_built_again(tmp_path: Path, damage: bytes, receipts: list[Receipt]) -> None:
    (tmp_path / IDS_FILE).write_bytes(damage)
    _reopen(tmp_path, True, receipts)


def test_no_damaged_byte_makes_an_event_be_stored_twice(tmp_path: Path, receipts: list[Receipt]) -> None:
    whole = (tmp_path / IDS_FILE).read_bytes()
    rebuilt = 0
    for offset in range(0, len(whole), 97):
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path, copy, ignore=shutil.ignore_patterns("copy"))
        (copy / IDS_FILE).write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x41]) + whole[offset + 1 :])
        writer = open_log(copy)
        rebuilt += writer.index_was_rebuilt
        assert _offer_all(writer) == receipts, offset
        writer.close()
        shutil.rmtree(copy)
    assert rebuilt > 5


def test_the_index_of_another_log_is_built_again(tmp_path: Path, receipts: list[Receipt]) -> None:
    write_log(tmp_path / "other", [routed(100 + number) for number in range(40)])
    open_log(tmp_path / "other").close()
    shutil.copy(tmp_path / "other" / IDS_FILE, tmp_path / IDS_FILE)
    _reopen(tmp_path, True, receipts)


def test_an_index_that_knows_more_than_the_log_is_built_again(tmp_path: Path, receipts: list[Receipt]) -> None:
    write_log(tmp_path / "short", EVENTS[:10])
    shutil.copy(tmp_path / IDS_FILE, tmp_path / "short" / IDS_FILE)
    writer = open_log(tmp_path / "short")
    assert writer.index_was_rebuilt
    [found] = writer.commit([EVENTS[:10]])
    assert found == receipts[:10]
    writer.close()


def test_an_index_that_stopped_earlier_catches_up(tmp_path: Path) -> None:
    write_log(tmp_path, EVENTS[:10])
    shutil.copy(tmp_path / IDS_FILE, tmp_path / "early.db")
    writer = open_log(tmp_path)
    receipts = _offer_all(writer)
    writer.close()
    shutil.copy(tmp_path / "early.db", tmp_path / IDS_FILE)
    _reopen(tmp_path, False, receipts)


def test_an_index_that_nobody_closed_is_copied_first(tmp_path: Path, receipts: list[Receipt]) -> None:
    database = sqlite3.connect(tmp_path / IDS_FILE)
    database.execute("UPDATE covers SET closed = 0")
    database.commit()
    database.close()
    with (tmp_path / IDS_FILE).open("rb") as held:  # as a process that still lives would
        _reopen(tmp_path, False, receipts)
        assert (tmp_path / IDS_FILE).stat().st_ino != os.fstat(held.fileno()).st_ino


def test_an_index_that_somebody_else_has_open_is_left_to_them(tmp_path: Path, receipts: list[Receipt]) -> None:
    other = sqlite3.connect(tmp_path / IDS_FILE, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    _reopen(tmp_path, True, receipts)
    other.close()


def test_a_hit_that_the_log_does_not_confirm_stops_the_writer(tmp_path: Path, receipts: list[Receipt]) -> None:
    database = sqlite3.connect(tmp_path / IDS_FILE)
    first, second = database.execute(
        "SELECT hi, sequence, offset FROM ids ORDER BY sequence LIMIT 2 OFFSET 5"
    ).fetchall()
    for (hi, *_), (_, sequence, offset) in ((first, second), (second, first)):  # every sum stays as it was
        database.execute("UPDATE ids SET sequence = ?, offset = ? WHERE hi = ?", (sequence, offset, hi))
    database.commit()
    database.close()
    writer = open_log(tmp_path)
    assert not writer.index_was_rebuilt
    with pytest.raises(AuditUnavailable):
        _offer_all(writer)
    with pytest.raises(AuditUnavailable):
        writer.commit([[routed(99)]])
    writer.close()
    _reopen(tmp_path, True, receipts)


def test_memory_stays_bounded_and_a_full_disk_is_an_answer(tmp_path: Path) -> None:
    settings = AuditSettings(lock_timeout_s=0, min_free_bytes=0)
    writer = open_log(tmp_path, settings)
    index = writer._ids
    assert index is not None
    [(pages,)] = index._db.execute("PRAGMA page_count")
    index._db.execute(f"PRAGMA max_page_count = {pages + 8}")
    number, outcomes = 0, []
    while not outcomes or isinstance(outcomes[0], list):
        outcomes = writer.commit([[routed(number + each) for each in range(2_000)]])
        number += 2_000
        assert len(index._pending) < 40_000
    assert isinstance(outcomes[0], AuditDiskFull)
    index._db.execute("PRAGMA max_page_count = 1000000")
    writer.settle()
    writer.settle()
    [receipts] = writer.commit([[routed(0), routed(number)]])
    assert isinstance(receipts, list)
    assert receipts[0].index == 1
    assert len(index._pending) < 20_000
    writer.close()
