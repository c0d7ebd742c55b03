import os
from pathlib import Path

import pytest

from deployments.audit.fence import EPOCHS_DIR, Fence, Fenced
from deployments.audit.files import SystemDisk
from deployments.audit.recover import recover
from deployments.audit.segment import SEGMENTS_DIR, lineage, segment_name
from deployments.errors import AuditUnavailable
from tests.unit.audit.logs import entries_of, open_log, routed


class _WithoutLock(SystemDisk):
    """A machine on which the lock file does not tell writers apart."""

    def lock(self, descriptor: int) -> None:
        return


def test_each_opening_takes_a_higher_epoch(tmp_path: Path) -> None:
    assert [Fence.take(tmp_path).epoch for _ in range(3)] == [1, 2, 3]
    assert Fence.take(tmp_path, above=40).epoch == 41


def test_only_the_newest_epoch_passes(tmp_path: Path) -> None:
    first = Fence.take(tmp_path)
    first.check()
    second = Fence.take(tmp_path)
    with pytest.raises(Fenced, match="epoch 2"):
        first.check()
    second.check()


def test_two_that_open_at_once_get_two_epochs(tmp_path: Path) -> None:
    taken: list[Fence] = []

    class Slow(SystemDisk):
        def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
            if flags & os.O_EXCL and not taken:
                taken.append(Fence.take(tmp_path))  # somebody else is faster
            return super().open(path, flags, mode)

    late = Fence.take(tmp_path, disk=Slow())
    assert (taken[0].epoch, late.epoch) == (1, 2)


def test_a_writer_whose_epoch_file_is_gone_stops(tmp_path: Path) -> None:
    fence = Fence.take(tmp_path)
    (tmp_path / EPOCHS_DIR / f"{1:020d}").unlink()
    with pytest.raises(Fenced, match="gone"):
        fence.check()


def test_old_epochs_are_dropped(tmp_path: Path) -> None:
    for _ in range(30):
        fence = Fence.take(tmp_path)
    assert fence.epoch == 30
    assert min(os.listdir(tmp_path / EPOCHS_DIR)) == f"{23:020d}"


def test_epochs_go_on_when_their_directory_is_lost(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    for path in (tmp_path / EPOCHS_DIR).iterdir():
        path.unlink()
    writer = open_log(tmp_path)
    assert writer.epoch == 2
    writer.close()


def test_a_fenced_writer_acknowledges_nothing_for_good(tmp_path: Path) -> None:
    disk = _WithoutLock()
    old = open_log(tmp_path, disk=disk)
    [kept] = old.commit([[routed(1)]])
    new = open_log(tmp_path, disk=disk)
    for number in (1, 2):  # a repeated event, too: its receipt would be an acknowledgement
        with pytest.raises(AuditUnavailable):
            old.commit([[routed(number)]])
    with pytest.raises(AuditUnavailable):
        old.record_head()
    assert isinstance(old.failure, str)
    assert new.commit([[routed(1)]]) == [kept]
    old.close()
    new.close()
    assert len(entries_of(tmp_path)) == 3  # two openings, one event


def test_what_a_fenced_writer_wrote_late_is_surplus(tmp_path: Path) -> None:
    disk = _WithoutLock()
    old = open_log(tmp_path, disk=disk)
    new = open_log(tmp_path, disk=disk)
    with pytest.raises(Fenced):
        old.commit([[routed(1), routed(2)]])
    new.commit([[routed(3)]])
    old.close()
    new.close()
    recovered = recover(tmp_path)
    assert recovered.size == 3
    assert recovered.surplus_bytes > 800
    again = open_log(tmp_path)
    assert [receipt.index for [receipt] in again.commit([[routed(3)], [routed(1)]])] == [2, 4]
    again.close()


def test_a_segment_that_a_fenced_writer_began_late_is_a_stray(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    open_log(tmp_path).close()
    stray = tmp_path / SEGMENTS_DIR / segment_name(1, 1, 1)
    stray.write_bytes(b"whatever it wrote")
    recovered = recover(tmp_path)
    assert (recovered.size, recovered.surplus_bytes) == (2, 17)
    assert stray not in [stretch.path for stretch in recovered.stretches]


def test_an_epoch_that_was_overtaken_while_it_opened_is_not_gone_on_from() -> None:
    def place(first: int, epoch: int, after: int) -> Path:
        return Path(segment_name(first, epoch, after))

    # 3 read up to 13 and paused; 4 went on from 2, which had a record more; then 3 began its segment all the same.
    found = lineage([place(0, 2, 0), place(13, 3, 2), place(14, 4, 2), place(20, 4, 4)])
    assert [(stretch.first, stretch.end, stretch.epoch, stretch.fenced) for stretch in found.stretches] == [
        (0, 14, 2, True),
        (14, 20, 4, False),
        (20, None, 4, False),
    ]
    assert found.strays == (place(13, 3, 2),)


def test_segments_of_older_versions_come_first() -> None:
    old = [Path(f"{first:020d}.seg") for first in (0, 5)]
    found = lineage([*old, Path(segment_name(9, 4, 0)), Path("x.seg"), Path(f"{0:020d}.seal")])
    assert [(stretch.first, stretch.end, stretch.epoch, stretch.fenced) for stretch in found.stretches] == [
        (0, 5, 0, False),
        (5, 9, 0, True),
        (9, None, 4, False),
    ]
