"""The export: a valid log at every moment, nothing but what leads to the signed root, and a memory for rollbacks."""

import stat
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from deployments.audit.export import CHECKPOINT_FILE, CHECKPOINTS_DIR, WITNESSED_FILE, Exporter, open_target
from deployments.audit.recover import CorruptLog
from deployments.audit.settings import ExportSettings
from deployments.audit.targets import DirectoryTarget, ExportFailed, ExportRefused
from deployments.audit.tiles import TILE_WIDTH, TileConflict, entries_path, tile_path
from deployments.clock import FixedClock
from serve_app.cli import audit_export
from tests.unit.audit import sealed
from tests.unit.audit.statics import LOG, OTHER_LOG, W1, W2, StaticLog, assert_is_log, signed

SIZES = [0, 1, 2, 255, 256, 257, 511, 513, 700]


class MemoryTarget:
    """A store in memory that counts what it is asked to write, and can stop answering."""

    name = "memory"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.written: list[str] = []
        self.writes_left: int | None = None

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def put_new(self, path: str, data: bytes) -> None:
        self._write(path)
        if self.files.setdefault(path, data) != data:
            raise TileConflict(f"{path} is stored with other bytes")

    def replace(self, path: str, data: bytes) -> None:
        self._write(path)
        self.files[path] = data

    def last(self, folder: str, after: str) -> str | None:
        names = [path.removeprefix(f"{folder}/") for path in self.files if path.startswith(f"{folder}/")]
        return max((name for name in names if name > after), default=None)

    def filled(self, path: str) -> None:
        for partial in [name for name in self.files if name.startswith(f"{path}.p/")]:
            del self.files[partial]

    def checkpoints(self) -> list[str]:
        return sorted(path.removeprefix(f"{CHECKPOINTS_DIR}/") for path in self.files if path.startswith("checkpoints"))

    def _write(self, path: str) -> None:
        if self.writes_left == 0:
            raise ExportFailed("memory does not answer")
        if self.writes_left is not None:
            self.writes_left -= 1
        self.written.append(path)


@pytest.fixture
def log(tmp_path: Path) -> StaticLog:
    return StaticLog(tmp_path / "audit")


@pytest.fixture
def target() -> MemoryTarget:
    return MemoryTarget()


def files(log: StaticLog) -> DirectoryTarget:
    return DirectoryTarget(log.directory)


def export(log: StaticLog, target: MemoryTarget) -> int:
    return Exporter(target, FixedClock()).run_once(files(log))


# --- what lies there ---------------------------------------------------------------------------------------------


def test_the_copy_is_a_log_at_every_exported_size(log: StaticLog, target: MemoryTarget) -> None:
    for size in SIZES:
        log.grow_to(size)
        log.sign()
        assert export(log, target) == size
    assert assert_is_log(target, log.entries, target.checkpoints()) == SIZES[-1]
    assert target.checkpoints() == [f"{size:020d}" for size in SIZES]


def test_a_log_with_three_levels_of_tiles_is_copied_to_a_directory(log: StaticLog, tmp_path: Path) -> None:
    log.grow_to(66_000)
    log.sign()
    copy = DirectoryTarget(tmp_path / "copy")
    assert Exporter(copy, FixedClock()).run_once(files(log)) == 66_000
    assert assert_is_log(copy, log.entries, [f"{66_000:020d}"]) == 66_000
    assert copy.read(tile_path(1, 0)) is not None
    assert copy.read(tile_path(2, 0, 1)) is not None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 9), st.booleans()), min_size=1, max_size=6))
def test_the_copy_is_a_log_after_every_broken_off_attempt(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool]]
) -> None:
    log, target = StaticLog(tmp_path_factory.mktemp("audit")), MemoryTarget()
    for more, writes, witnessed in steps:
        log.grow_to(len(log.entries) + more)
        if witnessed:
            log.sign_witnessed(W1, W2)
        else:
            log.sign()
        target.writes_left = writes
        try:
            export(log, target)
        except ExportFailed:
            if target.read(CHECKPOINT_FILE) is not None:
                assert_is_log(target, log.entries, target.checkpoints())
        target.writes_left = None
    assert export(log, target) == len(log.entries)
    assert_is_log(target, log.entries, target.checkpoints())


def test_tiles_come_before_their_checkpoint_and_the_replaced_files_last(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(300)
    log.sign_witnessed(W1)
    export(log, target)
    assert target.written == [
        "tile/entries/000",
        "tile/0/000",
        "tile/entries/001.p/44",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
        f"checkpoints/{300:020d}",
        "log.vkey",
        "checkpoint",
        "checkpoint.witnessed",
    ]


def test_what_the_copy_has_is_not_written_again(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(600)
    log.sign()
    exporter = Exporter(target, FixedClock())
    exporter.run_once(files(log))
    target.written.clear()
    assert exporter.run_once(files(log)) == 600
    assert target.written == []
    log.grow_to(601)
    log.sign()
    exporter.run_once(files(log))
    assert target.written == [
        "tile/entries/002.p/89",
        "tile/0/002.p/89",
        "tile/1/000.p/2",
        f"checkpoints/{601:020d}",
        "checkpoint",
    ]


def test_a_restarted_exporter_goes_on_from_the_copys_own_checkpoint(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(600)
    log.sign()
    export(log, target)
    log.grow_to(1_100)
    log.sign()
    target.written.clear()
    export(log, target)
    assert entries_path(0) not in target.written
    assert entries_path(2) in target.written


def test_a_failed_attempt_is_continued_where_it_stopped(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(4 * TILE_WIDTH)
    log.sign()
    exporter = Exporter(target, FixedClock())
    target.writes_left = 4  # two full bundles and their tiles
    with pytest.raises(ExportFailed):
        exporter.run_once(files(log))
    target.writes_left, target.written = None, []
    exporter.run_once(files(log))
    assert target.written[0] == entries_path(2)
    assert_is_log(target, log.entries, target.checkpoints())


def test_partial_tiles_go_when_the_full_tile_is_there(log: StaticLog, tmp_path: Path) -> None:
    copy = DirectoryTarget(tmp_path / "copy")
    for size in (100, 200, 256):
        log.grow_to(size)
        log.sign()
        Exporter(copy, FixedClock()).run_once(files(log))
    assert not list((tmp_path / "copy").rglob("*.p/100"))
    assert_is_log(copy, log.entries, [f"{size:020d}" for size in (100, 200, 256)])


def test_the_witnessed_checkpoint_is_copied_with_tiles_of_its_own_size(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(290)
    witnessed = log.sign_witnessed(W1, W2)
    log.grow_to(300)
    log.sign()
    export(log, target)
    assert target.read(WITNESSED_FILE) == witnessed
    assert target.checkpoints() == [f"{290:020d}", f"{300:020d}"]
    assert target.read(entries_path(1, 34)) is not None
    assert_is_log(target, log.entries, target.checkpoints())


def test_cosignatures_that_came_later_reach_the_copy(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(10)
    plain = log.sign()
    export(log, target)
    witnessed = log.sign_witnessed(W1)
    export(log, target)
    assert target.read(CHECKPOINT_FILE) == witnessed
    assert target.read(WITNESSED_FILE) == witnessed
    assert target.read(f"{CHECKPOINTS_DIR}/{10:020d}") == plain
    log.sign()
    export(log, target)
    assert target.read(CHECKPOINT_FILE) == witnessed


# --- refusals ----------------------------------------------------------------------------------------------------


def test_a_log_that_was_rolled_back_is_refused(log: StaticLog, target: MemoryTarget, tmp_path: Path) -> None:
    log.grow_to(300)
    log.sign()
    export(log, target)
    before = dict(target.files)
    older = StaticLog(tmp_path / "older")
    older.grow_to(299)
    older.sign()
    with pytest.raises(ExportRefused, match="knows 300 records of the log, which has a checkpoint of 299 only"):
        export(older, target)
    assert target.files == before


@pytest.mark.parametrize("more", [0, 1, 500])
def test_a_log_with_other_records_is_refused(log: StaticLog, target: MemoryTarget, tmp_path: Path, more: int) -> None:
    log.grow_to(300)
    log.sign()
    export(log, target)
    before = dict(target.files)
    forged = StaticLog(tmp_path / "forged")
    forged.grow(b"forged")
    forged.grow_to(300 + more)
    forged.sign()
    with pytest.raises(ExportRefused, match="the first 300 records of the log are not those"):
        export(forged, target)
    assert target.files == before


def test_putting_the_replaced_checkpoint_back_does_not_hide_a_rollback(
    log: StaticLog, target: MemoryTarget, tmp_path: Path
) -> None:
    log.grow_to(200)
    old = log.sign()
    export(log, target)
    log.grow_to(300)
    log.sign()
    export(log, target)
    target.files[CHECKPOINT_FILE] = old
    older = StaticLog(tmp_path / "older")
    older.grow_to(250)
    older.sign()
    with pytest.raises(ExportRefused, match="knows 300 records"):
        export(older, target)
    del target.files[CHECKPOINT_FILE]
    with pytest.raises(ExportRefused, match="knows 300 records"):
        export(older, target)


def test_a_copy_signed_by_another_key_is_not_written_to(log: StaticLog, target: MemoryTarget, tmp_path: Path) -> None:
    other = StaticLog(tmp_path / "other", key=OTHER_LOG)
    other.grow_to(10)
    other.sign()
    export(other, target)
    log.grow_to(20)
    log.sign()
    with pytest.raises(ExportRefused, match="not signed by the log's key"):
        export(log, target)


def test_a_checkpoint_that_the_log_did_not_sign_is_not_copied(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(10)
    log.sign()
    (log.directory / CHECKPOINT_FILE).write_bytes(signed(10, log.root, key=OTHER_LOG))
    with pytest.raises(ExportRefused, match="the log's checkpoint is not signed"):
        export(log, target)
    assert target.files == {}


def test_a_witnessed_checkpoint_of_another_history_is_not_copied(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(300)
    log.sign()
    for note in (signed(200, b"\x01" * 32, [W1]), signed(301, b"\x01" * 32, [W1])):
        (log.directory / WITNESSED_FILE).write_bytes(note)
        with pytest.raises(ExportRefused, match="does not extend its witnessed one"):
            export(log, target)
    assert target.read(CHECKPOINT_FILE) is None


@pytest.mark.parametrize(
    "path", [entries_path(0), entries_path(1, 44), tile_path(0, 0), tile_path(0, 1, 44), tile_path(1, 0, 1)]
)
def test_nothing_that_does_not_lead_to_the_root_is_copied(log: StaticLog, target: MemoryTarget, path: str) -> None:
    log.grow_to(300)
    log.sign()
    file = log.directory / path
    sound = file.read_bytes()
    file.write_bytes(bytes([*sound[:-1], sound[-1] ^ 1]))
    with pytest.raises(ExportFailed, match="the log's tiles"):
        export(log, target)
    assert path not in target.files
    assert target.read(CHECKPOINT_FILE) is None
    file.write_bytes(sound)
    export(log, target)
    assert_is_log(target, log.entries, target.checkpoints())


def test_tiles_of_another_log_under_a_genuine_checkpoint_are_not_copied(
    log: StaticLog, target: MemoryTarget, tmp_path: Path
) -> None:
    log.grow_to(300)
    note = log.sign()
    forged = StaticLog(tmp_path / "forged")
    forged.grow(b"forged")
    forged.grow_to(300)
    forged.sign()
    (forged.directory / CHECKPOINT_FILE).write_bytes(note)
    with pytest.raises(ExportFailed, match="the tiles have another root than the checkpoint"):
        export(forged, target)
    assert target.files == {}


def test_a_forged_bundle_with_its_own_tile_is_not_copied(log: StaticLog, target: MemoryTarget, tmp_path: Path) -> None:
    log.grow_to(300)
    log.sign()
    forged = StaticLog(tmp_path / "forged")
    forged.grow(b"forged")
    forged.grow_to(300)
    for path in (entries_path(0), tile_path(0, 0)):
        (log.directory / path).write_bytes((forged.directory / path).read_bytes())
    with pytest.raises(ExportFailed, match="tile/0/000 does not lead to the checkpoint's root"):
        export(log, target)
    assert target.files == {}


def test_a_checkpoint_of_another_origin_is_refused(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(10)
    log.sign()
    target.files[CHECKPOINT_FILE] = signed(5, b"\x01" * 32, origin="example.com/another")
    with pytest.raises(ExportRefused, match="the checkpoint in memory is of another log: example.com/another"):
        export(log, target)


def test_an_older_witnessed_checkpoint_does_not_replace_a_newer_one(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(10)
    older = log.sign_witnessed(W1)
    log.grow_to(20)
    newer = log.sign_witnessed(W1)
    export(log, target)
    (log.directory / WITNESSED_FILE).write_bytes(older)
    export(log, target)
    assert target.read(WITNESSED_FILE) == newer


def test_another_checkpoint_under_an_exported_size_is_two_histories(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(290)
    log.sign_witnessed(W1)
    log.grow_to(300)
    log.sign()
    target.files[f"{CHECKPOINTS_DIR}/{290:020d}"] = signed(290, b"\x01" * 32)
    target.files[CHECKPOINT_FILE] = log.sign()
    with pytest.raises(ExportRefused, match=f"checkpoints/{290:020d} is stored with other bytes"):
        export(log, target)


def test_a_copy_that_was_emptied_is_filled_again(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(600)
    log.sign()
    exporter = Exporter(target, FixedClock())
    exporter.run_once(files(log))
    target.files.clear()
    exporter.run_once(files(log))
    assert_is_log(target, log.entries, target.checkpoints())


class Moving:
    """The files of a log that grows, and drops partial tiles, whenever its checkpoint was read."""

    def __init__(self, log: StaticLog, steps: list[int]) -> None:
        self._log, self._files, self._steps = log, DirectoryTarget(log.directory), steps

    def read(self, path: str) -> bytes | None:
        data = self._files.read(path)
        if path == CHECKPOINT_FILE and self._steps:
            self._log.grow_to(len(self._log.entries) + self._steps.pop(0))
            self._log.sign()
            self._log.drop_other_partials()
        return data


@pytest.mark.parametrize("steps", [[1], [5, 5], [300], [1, 300], [200, 56]])
def test_a_log_that_grows_while_it_is_copied_is_copied_as_it_was(
    log: StaticLog, target: MemoryTarget, steps: list[int]
) -> None:
    log.grow_to(600)
    log.sign()
    assert Exporter(target, FixedClock()).run_once(Moving(log, steps)) == 600
    assert_is_log(target, log.entries, [f"{600:020d}"])
    assert target.read(entries_path(2, 88)) is not None


def test_changed_tiles_in_the_copy_are_found_when_everything_is_offered(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(600)
    log.sign()
    export(log, target)
    target.files[entries_path(0)] = b"changed"
    exporter = Exporter(target, FixedClock())
    exporter.run_once(files(log))
    with pytest.raises(ExportRefused, match="tile/entries/000 is stored with other bytes"):
        exporter.run_once(files(log), everything=True)


def test_a_second_checkpoint_of_a_size_with_another_root_is_refused(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(10)
    log.sign()
    target.files[f"{CHECKPOINTS_DIR}/{10:020d}"] = signed(10, b"\x01" * 32)
    with pytest.raises(ExportRefused, match="the first 10 records"):
        export(log, target)


# --- status, places ----------------------------------------------------------------------------------------------


def test_the_status_says_how_far_how_old_and_why_not(log: StaticLog, target: MemoryTarget) -> None:
    clock = FixedClock()
    exporter = Exporter(target, clock)
    clock.advance(901_000)
    assert (exporter.status().size, exporter.status().age_s) == (None, 901.0)  # since the start: that is late, too
    with pytest.raises(ExportFailed):
        exporter.run_once(files(log))
    assert exporter.status().failure == "the log has no checkpoint yet"
    log.grow_to(5)
    log.sign()
    exporter.run_once(files(log))
    clock.advance(2_000)
    target.writes_left = 0
    log.grow_to(6)
    log.sign()
    with pytest.raises(ExportFailed):
        exporter.run_once(files(log))
    status = exporter.status()
    assert (status.size, status.age_s, status.failure) == (5, 2.0, "memory does not answer")


def test_newest_answers_the_largest_note_that_the_copy_knows(log: StaticLog, target: MemoryTarget) -> None:
    exporter = Exporter(target, FixedClock())
    assert exporter.newest() is None
    log.grow_to(5)
    log.sign()
    exporter.run_once(files(log))
    assert exporter.newest() == log.sign()
    later = signed(9, b"\x09" * 32)
    target.files[f"{CHECKPOINTS_DIR}/{9:020d}"] = later
    assert exporter.newest() == later


def test_compare_writes_nothing(log: StaticLog, target: MemoryTarget) -> None:
    log.grow_to(5)
    log.sign()
    exporter = Exporter(target, FixedClock())
    assert exporter.compare(files(log)) is None
    exporter.run_once(files(log))
    log.grow_to(9)
    log.sign()
    target.written.clear()
    assert exporter.compare(files(log)) == 5
    assert target.written == []


# --- with the sealer ---------------------------------------------------------------------------------------------


def test_what_the_sealer_wrote_is_copied_while_it_goes_on(tmp_path: Path, target: MemoryTarget) -> None:
    records = sealed.entries(0, 700)
    sealer = sealed.open_sealer(tmp_path, records[:300])
    exporter, source = Exporter(target, FixedClock()), DirectoryTarget(tmp_path / "audit")
    assert exporter.run_once(source) == 300
    for begin, end in ((300, 301), (301, 513), (513, 700)):
        sealer.take(records[begin:end])
        sealer.seal()
        assert exporter.run_once(source) == end
    sealer.close()
    key = sealed.log_key(tmp_path)
    assert_is_log(target, [record.payload for record in records], target.checkpoints(), key)


def test_a_log_that_is_shorter_than_its_copy_is_not_opened(tmp_path: Path, target: MemoryTarget) -> None:
    records = sealed.seal_log(tmp_path, 300)
    exporter = Exporter(target, FixedClock())
    exporter.run_once(DirectoryTarget(tmp_path / "audit"))
    for found in sorted((tmp_path / "audit").rglob("*"), reverse=True):
        found.unlink() if found.is_file() else found.rmdir()
    with pytest.raises(CorruptLog, match="the export.* 300"):
        sealed.open_sealer(tmp_path, records[:299], places={"the export": exporter.newest})


# --- a directory -------------------------------------------------------------------------------------------------


def test_a_directory_takes_a_name_once(tmp_path: Path) -> None:
    target = DirectoryTarget(tmp_path / "copy")
    target.put_new("tile/0/000", b"one")
    target.put_new("tile/0/000", b"one")
    with pytest.raises(TileConflict):
        target.put_new("tile/0/000", b"two")
    assert target.read("tile/0/000") == b"one"
    assert [path.name for path in (tmp_path / "copy" / "tile" / "0").iterdir()] == ["000"]


def test_what_a_crash_left_in_a_directory_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINTS_DIR).mkdir()
    (tmp_path / CHECKPOINTS_DIR / ".new-abc").write_bytes(b"")
    assert Exporter(DirectoryTarget(tmp_path), FixedClock()).newest() is None


def test_a_directory_belongs_to_its_owner_alone(log: StaticLog, tmp_path: Path) -> None:
    log.grow_to(300)
    log.sign_witnessed(W1)
    Exporter(DirectoryTarget(tmp_path / "copy"), FixedClock()).run_once(files(log))
    for path in (tmp_path / "copy").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_directory_that_cannot_be_used_is_a_failure_in_words(log: StaticLog, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    log.grow_to(1)
    log.sign()
    with pytest.raises(ExportFailed, match="cannot list checkpoints in .*file: Not a directory"):
        Exporter(DirectoryTarget(tmp_path / "file"), FixedClock()).run_once(files(log))


def test_settings_name_a_directory_or_a_bucket(tmp_path: Path) -> None:
    assert open_target(ExportSettings(target=str(tmp_path)), FixedClock()).name == str(tmp_path)
    with pytest.raises(ExportFailed, match="is not s3://BUCKET/PREFIX"):
        open_target(ExportSettings(target="s3://"), FixedClock())


# --- the command -------------------------------------------------------------------------------------------------


def command(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.callback()(lambda: None)
    audit_export.register(app)
    done = CliRunner().invoke(app, ["export", *arguments])
    return done.exit_code, done.output


def test_the_command_copies_and_says_how_much(log: StaticLog, tmp_path: Path) -> None:
    log.grow_to(300)
    log.sign()
    assert command(str(log.directory), str(tmp_path / "copy"), "--key", str(LOG.verifier)) == (
        0,
        f"{tmp_path / 'copy'} holds the 300 records of the log's newest checkpoint.\n",
    )
    assert_is_log(DirectoryTarget(tmp_path / "copy"), log.entries, [f"{300:020d}"])


def test_the_command_exits_1_when_the_evidence_is_broken(log: StaticLog, tmp_path: Path) -> None:
    log.grow_to(3)
    log.sign()
    status, said = command(str(log.directory), str(tmp_path / "copy"), "--key", str(OTHER_LOG.verifier))
    assert status == 1
    assert said == f"gatehouse: the log's checkpoint is not signed by the log's key {OTHER_LOG.name}.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["NOWHERE", "DEST"],
        ["EMPTY", "DEST"],
        ["LOG", "DEST", "--lock-mode", "MAYBE"],
        ["LOG", "DEST", "--key", "no key"],
        ["LOG", "s3://"],
    ],
)
def test_the_command_exits_2_with_one_sentence_when_it_cannot(
    log: StaticLog, tmp_path: Path, arguments: list[str]
) -> None:
    log.grow_to(3)
    log.sign()
    (tmp_path / "empty").mkdir()
    paths = {"LOG": log.directory, "EMPTY": tmp_path / "empty", "NOWHERE": tmp_path / "no", "DEST": tmp_path / "d"}
    status, said = command(*(str(paths.get(word, word)) for word in arguments))
    assert status == 2
    assert said.startswith("gatehouse: ")
    assert said.count("\n") == 1
