"""Where checkpoints lie: history lines, copies, and what is said of places that do not answer."""

import os
from pathlib import Path

import pytest

from deployments.audit.checkpoints import (
    HISTORY_FILE,
    Copy,
    PastCheckpoint,
    append_history,
    last_of_history,
    ours,
    read_checkpoint,
    read_history,
    search,
)
from deployments.audit.merkle import EMPTY_ROOT
from deployments.audit.notes import (
    ED25519,
    BadNote,
    Checkpoint,
    Note,
    SignerKey,
    format_checkpoint,
    generate_key,
    sign,
)
from deployments.audit.signing import RefusedLog

KEY = generate_key("log.example.org", ED25519)
OTHER = generate_key("other.example.org", ED25519)


def note(size: int = 0, key: SignerKey = KEY, origin: str | None = None) -> bytes:
    root = bytes([size]) * 32 if size else EMPTY_ROOT
    text = format_checkpoint(Checkpoint(origin or key.name, size, root))
    return Note(text, (sign(text, key),)).to_bytes()


def past(size: int) -> PastCheckpoint:
    return PastCheckpoint(at_ms=1_000 + size, epoch=3, note=note(size))


# --- history ---


def test_history_is_read_back_in_order(tmp_path: Path) -> None:
    for size in range(1, 6):
        append_history(tmp_path, past(size))
    assert list(read_history(tmp_path)) == [past(size) for size in range(1, 6)]
    assert last_of_history(tmp_path) == note(5)


def test_a_log_without_history_has_none(tmp_path: Path) -> None:
    assert last_of_history(tmp_path) is None
    assert list(read_history(tmp_path)) == []


def test_a_line_torn_at_any_byte_is_not_read_and_goes_with_the_next_one(tmp_path: Path) -> None:
    append_history(tmp_path, past(1))
    whole = (tmp_path / HISTORY_FILE).read_bytes()
    append_history(tmp_path, past(2))
    both = (tmp_path / HISTORY_FILE).read_bytes()
    for length in range(len(whole), len(both)):
        (tmp_path / HISTORY_FILE).write_bytes(both[:length])
        assert last_of_history(tmp_path) == note(1)
        assert list(read_history(tmp_path)) == [past(1)]
        append_history(tmp_path, past(3))
        assert list(read_history(tmp_path)) == [past(1), past(3)]


def test_a_torn_line_longer_than_the_next_one_leaves_nothing_behind(tmp_path: Path) -> None:
    append_history(tmp_path, past(1))
    with (tmp_path / HISTORY_FILE).open("ab") as file:
        file.write(b"x" * 5_000)
    append_history(tmp_path, past(2))
    assert list(read_history(tmp_path)) == [past(1), past(2)]
    assert (tmp_path / HISTORY_FILE).read_bytes().endswith(b"}\n")


def test_a_first_line_that_is_torn_is_no_history(tmp_path: Path) -> None:
    append_history(tmp_path, past(1))
    line = (tmp_path / HISTORY_FILE).read_bytes()
    (tmp_path / HISTORY_FILE).write_bytes(line[:-1])
    assert last_of_history(tmp_path) is None
    append_history(tmp_path, past(2))
    assert list(read_history(tmp_path)) == [past(2)]


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"{}", b'{"at_ms": "1", "epoch": 1, "note": ""}', b'{"at_ms": 1, "epoch": 1, "note": 5}']
)
def test_a_damaged_last_line_is_refused(tmp_path: Path, line: bytes) -> None:
    append_history(tmp_path, past(1))
    with (tmp_path / HISTORY_FILE).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(RefusedLog, match="its last line is damaged"):
        last_of_history(tmp_path)


def test_only_the_end_of_a_long_history_is_read(tmp_path: Path) -> None:
    with (tmp_path / HISTORY_FILE).open("wb") as file:
        for _ in range(3):
            file.write(b"x" * 2_000_000 + b"\n")
    append_history(tmp_path, past(7))
    assert last_of_history(tmp_path) == note(7)


# --- search ---


def test_every_place_is_asked(tmp_path: Path) -> None:
    log, copy = tmp_path / "audit", tmp_path / "copy"
    for folder in (log, copy):
        folder.mkdir()
    (log / "checkpoint").write_bytes(note(4))
    (log / "checkpoint.witnessed").write_bytes(note(2))
    append_history(log, past(3))
    (copy / "checkpoint").write_bytes(note(5))
    known, foreign = ours(search(log, [copy], {"the export": lambda: note(6)}), KEY.verifier)
    assert {found.place: found.checkpoint.size for found in known} == {
        "checkpoint": 4,
        "checkpoint.witnessed": 2,
        "checkpoints.jsonl": 3,
        f"the copy in {copy}": 5,
        "the export": 6,
    }
    assert foreign == []


def test_a_place_that_cannot_be_asked_is_said_and_not_fatal(tmp_path: Path) -> None:
    def down() -> bytes | None:
        raise ConnectionError("no route")

    (tmp_path / "file").write_bytes(b"")
    found = search(tmp_path, [tmp_path / "file", tmp_path / "missing"], {"the export": down, "a witness": lambda: None})
    assert found.found == ()
    assert found.silent == (
        f"the copy in {tmp_path / 'file'} cannot be asked: Not a directory.",
        "the export cannot be asked: ConnectionError.",
        "a witness has no checkpoint.",
    )


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint.witnessed", "copy"])
@pytest.mark.parametrize(
    "foreign",
    [note(3, OTHER), note(3, SignerKey(KEY.name, ED25519, OTHER.seed)), note(3, KEY, "third.example.org"), b"", b"x"],
)
def test_a_note_of_another_in_a_place_of_our_own_is_refused(tmp_path: Path, name: str, foreign: bytes) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / ("copy/checkpoint" if name == "copy" else name)).write_bytes(foreign)
    with pytest.raises(RefusedLog, match="not one of 'log.example.org'"):
        ours(search(tmp_path, [tmp_path / "copy"], {}), KEY.verifier)


def test_a_note_of_another_elsewhere_is_said_and_passed_over(tmp_path: Path) -> None:
    known, foreign = ours(search(tmp_path, [], {"the export": lambda: note(3, OTHER)}), KEY.verifier)
    assert known == []
    assert foreign == ["the export has a note that is no checkpoint of this log: no known key signed the note."]


def test_a_checkpoint_of_another_origin_under_our_key_is_not_ours() -> None:
    with pytest.raises(BadNote, match="another log"):
        read_checkpoint(note(3, KEY, "third.example.org"), KEY.verifier)


# --- copies ---


def test_a_copy_is_made_in_a_new_directory(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy")
    copy.write(note(3))
    assert (tmp_path / "copy" / "checkpoint").read_bytes() == note(3)
    assert copy.problem is None


def test_a_disk_that_is_not_mounted_is_a_problem_until_it_is(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "disk" / "copy")
    copy.write(note(3))
    assert (
        copy.problem == f"The checkpoint cannot be copied to {tmp_path / 'disk' / 'copy'}: No such file or directory."
    )
    (tmp_path / "disk").mkdir()
    copy.write(note(4))
    assert copy.problem is None
    assert (tmp_path / "disk" / "copy" / "checkpoint").read_bytes() == note(4)


def test_closing_waits_for_the_newest_copy(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy")
    for size in range(1, 40):
        copy.offer(note(size))
    copy.close()
    assert (tmp_path / "copy" / "checkpoint").read_bytes() == note(39)


def test_a_copy_that_was_never_used_closes(tmp_path: Path) -> None:
    Copy(tmp_path / "copy").close()
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_fails_closes_after_one_more_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Copy(tmp_path / "missing" / "copy")
    copy.offer(note(1))
    copy.close()
    assert copy.problem is not None
    assert os.listdir(tmp_path) == []
