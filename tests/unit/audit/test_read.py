import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from deployments.audit.head import HEAD_FILE, write_head
from deployments.audit.read import NoLog, follow_entries, is_export, read_entries, read_records, shown_size
from deployments.audit.segment import segment_paths
from deployments.audit.tiles import entries_path
from tests.unit.audit.handmade import entries_of, frames, head_of, honest, lay_export, lay_segments, lay_tiles, route
from tests.unit.audit.logs import SMALL, open_log


@pytest.fixture(scope="module")
def entries() -> list[bytes]:
    return entries_of(honest(600))


def test_a_log_is_read_from_any_index_on_across_segments(tmp_path: Path, entries: list[bytes]) -> None:
    lay_segments(tmp_path, entries, [(0, 1), (100, 1), (300, 2)])
    for begin in (0, 99, 100, 101, 300, 622, 623, 9_999):
        assert list(read_entries(tmp_path, begin)) == list(enumerate(entries))[begin:]
    assert not is_export(tmp_path)


def test_an_export_is_read_up_to_its_newest_checkpoint(tmp_path: Path, entries: list[bytes]) -> None:
    lay_export(tmp_path, entries, [256, 610])
    for begin in (0, 255, 256, 257, 609, 610, 9_999):
        assert list(read_entries(tmp_path, begin)) == list(enumerate(entries[:610]))[begin:]
    assert is_export(tmp_path)
    assert shown_size(tmp_path) == 610


def test_reading_stops_where_a_bundle_is_missing(tmp_path: Path, entries: list[bytes]) -> None:
    lay_export(tmp_path, entries, [610])
    (tmp_path / entries_path(1)).unlink()
    assert len(list(read_entries(tmp_path))) == 256


def test_reading_stops_at_damage(tmp_path: Path, entries: list[bytes]) -> None:
    lay_segments(tmp_path, entries[:40])
    [path] = segment_paths(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"demo-20b", b"demo-99b", 1))
    broken = next(index for index, entry in enumerate(entries) if b"demo-20b" in entry)
    assert len(list(read_records(tmp_path))) == broken < 40


def test_what_a_fenced_writer_left_behind_is_not_shown(tmp_path: Path, entries: list[bytes]) -> None:
    lay_segments(tmp_path, entries[:20], [(0, 1), (10, 2)])
    first = segment_paths(tmp_path)[0]
    first.write_bytes(first.read_bytes() + frames([*entries[:10], *entries_of([route(0)] * 11)[10:]], 10) + b"torn")
    assert list(read_entries(tmp_path)) == list(enumerate(entries[:20]))


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_what_is_no_log_is_said_so(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "log")
    with pytest.raises(NoLog, match="there is no audit log"):
        list(read_entries(tmp_path / "log"))


# --- following ---------------------------------------------------------------------------------------------------


class _Stop(Exception):
    pass


def _wait(*steps: Callable[[], object]) -> Callable[[], None]:
    """What happens each time that the follower finds nothing new; then it stops."""
    left: Iterator[Callable[[], object]] = iter(steps)

    def wait() -> None:
        step = next(left, None)
        if step is None:
            raise _Stop
        step()

    return wait


def _followed(path: Path, begin: int, *steps: Callable[[], object]) -> list[int]:
    found: list[int] = []
    with pytest.raises(_Stop):
        for index, _ in follow_entries(path, begin, _wait(*steps)):
            found.append(index)
    return found


def test_following_goes_on_while_the_writer_rolls_segments_and_restarts(tmp_path: Path) -> None:
    writer = open_log(tmp_path)
    number = 0

    def write(count: int) -> None:
        nonlocal number
        for _ in range(count):
            writer.commit([[route(number)]])
            number += 1
        writer.record_head()

    def restart() -> None:
        nonlocal writer
        writer.close()
        writer = open_log(tmp_path)

    assert SMALL.segment_bytes < 10_000
    found = _followed(tmp_path, 0, lambda: write(1), lambda: write(40), restart, lambda: None, lambda: write(3))
    writer.close()
    assert found == list(range(1 + 41 + 1 + 3))
    assert len(segment_paths(tmp_path)) > 3


def test_following_may_begin_in_the_middle_or_beyond_the_end(tmp_path: Path, entries: list[bytes]) -> None:
    lay_segments(tmp_path, entries[:20], [(0, 1), (10, 1)])
    assert _followed(tmp_path, 15) == [15, 16, 17, 18, 19]

    def grow() -> None:
        shutil.rmtree(tmp_path / "segments")
        lay_segments(tmp_path, entries[:25], [(0, 1), (10, 1)])

    assert _followed(tmp_path, 22, grow) == [22, 23, 24]


def test_following_shows_nothing_that_a_crash_could_take_back(tmp_path: Path, entries: list[bytes]) -> None:
    lay_segments(tmp_path, entries[:20])
    write_head(tmp_path, head_of(entries[:12]))
    found = _followed(tmp_path, 10, lambda: None, lambda: write_head(tmp_path, head_of(entries[:14])))
    assert found == [10, 11, 12, 13]
    (tmp_path / HEAD_FILE).write_text("nonsense")
    assert _followed(tmp_path, 0) == []


def test_a_write_that_is_under_way_is_waited_for(tmp_path: Path, entries: list[bytes]) -> None:
    lay_segments(tmp_path, entries[:20])
    [path] = segment_paths(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert _followed(tmp_path, 18, lambda: None, lambda: path.write_bytes(whole)) == [18, 19]


def test_an_export_is_not_followed(tmp_path: Path, entries: list[bytes]) -> None:
    lay_tiles(tmp_path, entries, [10])
    with pytest.raises(NoLog, match="is an export"):
        list(islice(follow_entries(tmp_path, 0, lambda: None), 1))
