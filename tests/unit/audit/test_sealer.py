"""The sealer: what it refuses to open, what it signs and proves, and what it does when the disk does not answer."""

import errno
import os
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from deployments.audit import sealer as sealer_module
from deployments.audit import tree as tree_module
from deployments.audit.checkpoints import read_history
from deployments.audit.entries import Entry, OpenedLog
from deployments.audit.fence import Fenced
from deployments.audit.merkle import leaf_hash, root_of, verify_consistency, verify_inclusion
from deployments.audit.notes import (
    COSIGNATURE_V1,
    ED25519,
    BadNote,
    BadSignature,
    Checkpoint,
    Note,
    Signature,
    SignerKey,
    cosign,
    format_checkpoint,
    generate_key,
    parse_checkpoint,
    parse_note,
    read_signer_key,
    sign,
    verify_note,
)
from deployments.audit.proofs import parse_inclusion_proof, verify_inclusion_proof
from deployments.audit.recover import CorruptLog
from deployments.audit.sealer import Sealer
from deployments.audit.settings import AuditSettings, WitnessSettings
from deployments.audit.signing import RefusedLog
from deployments.audit.tiles import DirectoryStore, TileReader, TileWriter, parse_path
from deployments.audit.writer import LogWriter
from deployments.clock import FixedClock
from deployments.errors import AuditUnavailable, NotFound
from deployments.ports import Receipt
from tests.unit.audit.logs import SMALL, routed
from tests.unit.audit.power import Power, PowerLoss, broken
from tests.unit.audit.sealed import (
    EVERY,
    SELDOM,
    checkpoint_in,
    entries,
    entry,
    files_in,
    log_key,
    open_sealer,
    opened,
    seal_log,
    take_epoch,
    trust,
)

ALL = entries(0, 1_200)
LEAVES = [found.leaf for found in ALL]
SOME_SIZES = sorted({*range(1, 41), *range(250, 262), *range(509, 516), 600})


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test loses power for real: `power.py` keeps what an fsync would have kept."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@cache
def _root(size: int) -> bytes:
    return root_of(LEAVES[:size])


def _prove_all(sealer: Sealer, state: Path, indices: Iterator[int] | range) -> None:
    believed = trust(state)
    for index in indices:
        proven = sealer.prove(index, timeout_s=0)
        assert proven.receipt.leaf_hash == LEAVES[index]
        assert proven.receipt.index == index
        trusted = verify_inclusion_proof(parse_inclusion_proof(proven.proof), index, LEAVES[index], believed)
        assert trusted.checkpoint.root == _root(trusted.checkpoint.size)


def _tiles(state: Path) -> dict[str, bytes]:
    return {path: data for path, data in files_in(state).items() if "/tile/" in path}


# --- opening -----------------------------------------------------------------------------------------------------


def test_an_empty_log_has_a_key_and_no_checkpoint(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path)
    assert sealer.checkpoint() is None
    assert not (tmp_path / "audit" / "checkpoint").exists()
    assert sealer.verifier_keys() == (log_key(tmp_path),)
    status = sealer.status
    assert (status.taken, status.checkpoint_size, status.unsealed, status.unsealed_s) == (0, 0, 0, 0.0)
    assert status.origin == log_key(tmp_path).name


def test_a_log_that_was_never_sealed_is_sealed_when_it_opens(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:700])
    assert checkpoint_in(tmp_path) == Checkpoint(log_key(tmp_path).name, 700, root_of(LEAVES[:700]))
    _prove_all(sealer, tmp_path, range(0, 700, 23))
    assert list(sealer.entries(0, 700)) == [found.payload for found in ALL[:700]]


def test_a_log_opens_again_under_its_key(tmp_path: Path) -> None:
    seal_log(tmp_path, 300)
    before = files_in(tmp_path)
    sealer = open_sealer(tmp_path, ALL[:300])
    assert files_in(tmp_path) == before
    assert sealer.status.notices == ()
    assert sealer.checkpoint() == before["audit/checkpoint"]


def test_what_was_written_after_the_last_checkpoint_is_sealed_when_the_log_opens(tmp_path: Path) -> None:
    seal_log(tmp_path, 300)
    sealer = open_sealer(tmp_path, ALL[:900])
    assert checkpoint_in(tmp_path).root == root_of(LEAVES[:900])
    _prove_all(sealer, tmp_path, range(0, 900, 31))


def test_a_checkpoint_signed_by_us_verifies_and_names_the_log(tmp_path: Path) -> None:
    settings = EVERY.model_copy(update={"origin": "audit.example.org/gatehouse"})
    sealer = open_sealer(tmp_path, ALL[:3], settings)
    note = parse_note(sealer.checkpoint() or b"")
    assert [found.key for found in verify_note(note, [log_key(tmp_path)])] == [log_key(tmp_path)]
    assert parse_checkpoint(note.text).origin == log_key(tmp_path).name == "audit.example.org/gatehouse"


@pytest.mark.parametrize("place", ["checkpoint", "checkpoint.witnessed", "checkpoints.jsonl", "copy", "elsewhere"])
@pytest.mark.parametrize("lost", [1, 250, 299])
def test_a_log_shorter_than_any_checkpoint_is_refused(tmp_path: Path, place: str, lost: int) -> None:
    copy = tmp_path / "copy"
    settings = EVERY.model_copy(update={"checkpoint_copies": [str(copy)]})
    state = tmp_path / "state"
    state.mkdir()
    seal_log(state, 300, settings)
    log = state / "audit"
    note = (log / "checkpoint").read_bytes()
    (log / "checkpoint.witnessed").write_bytes(note)
    # Only this one place still knows.
    for name in ("checkpoint", "checkpoint.witnessed", "checkpoints.jsonl"):
        if name != place:
            (log / name).unlink()
    if place != "copy":
        (copy / "checkpoint").unlink()
    before = files_in(tmp_path)
    places = {"elsewhere": lambda: note} if place == "elsewhere" else {}
    with pytest.raises(CorruptLog) as refused:
        open_sealer(state, ALL[: 300 - lost], settings, places=places)
    sentence = str(refused.value)
    assert place in sentence
    assert f"a checkpoint of 300 records, but only {300 - lost} are here" in sentence
    assert "No flag overrides this. Restore the log" in sentence
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("place", ["checkpoint", "checkpoint.witnessed", "checkpoints.jsonl", "copy", "elsewhere"])
@pytest.mark.parametrize("changed", [0, 255, 299])
def test_a_log_with_another_root_than_any_checkpoint_is_refused(tmp_path: Path, place: str, changed: int) -> None:
    copy = tmp_path / "copy"
    settings = EVERY.model_copy(update={"checkpoint_copies": [str(copy)]})
    state = tmp_path / "state"
    state.mkdir()
    seal_log(state, 300, settings)
    log = state / "audit"
    note = (log / "checkpoint").read_bytes()
    (log / "checkpoint.witnessed").write_bytes(note)
    for name in ("checkpoint", "checkpoint.witnessed", "checkpoints.jsonl"):
        if name != place:
            (log / name).unlink()
    if place != "copy":
        (copy / "checkpoint").unlink()
    before = files_in(tmp_path)
    records = [*ALL[:changed], entry(changed, "forged"), *ALL[changed + 1 : 400]]
    places = {"elsewhere": lambda: note} if place == "elsewhere" else {}
    with pytest.raises(CorruptLog, match="the first 300 records here are others") as refused:
        open_sealer(state, records, settings, places=places)
    assert place in str(refused.value)
    assert files_in(tmp_path) == before


def test_a_volume_that_was_rolled_back_is_refused_while_any_place_knows_better(tmp_path: Path) -> None:
    copy, state = tmp_path / "copy", tmp_path / "state"
    settings = EVERY.model_copy(update={"checkpoint_copies": [str(copy)]})
    state.mkdir()
    sealer = open_sealer(state, (), settings)
    for size in range(50):
        shutil.copytree(state, tmp_path / f"snapshot{size}")
        sealer.take(ALL[size : size + 1])
    newest = sealer.checkpoint()
    for size in range(50):
        restored = tmp_path / f"snapshot{size}"
        for kept in ("copy", "elsewhere"):
            # The snapshot agrees with itself: only what lies elsewhere tells.
            known = settings if kept == "copy" else EVERY
            places = {} if kept == "copy" else {"elsewhere": lambda: newest}
            with pytest.raises(RefusedLog, match=rf"{kept}.*50 records, but only {size} are here"):
                open_sealer(restored, ALL[:size], known, places=places)
    open_sealer(state, ALL[:50], settings, places={"elsewhere": lambda: newest})


def test_the_oldest_checkpoint_is_compared_too(tmp_path: Path) -> None:
    """Two histories that agree on the newest size of one place and differ at that of another cannot both be ours."""
    seal_log(tmp_path, 10)
    key = read_signer_key(tmp_path / "audit-keys" / "log.key")
    other = root_of([entry(index, "other").leaf for index in range(5)])
    text = format_checkpoint(Checkpoint(key.name, 5, other))
    fork = Note(text, (sign(text, key),)).to_bytes()
    with pytest.raises(RefusedLog, match="elsewhere: the log signed a checkpoint of 5 records"):
        open_sealer(tmp_path, ALL[:10], places={"elsewhere": lambda: fork})


def test_two_signed_roots_of_one_size_are_refused_wherever_the_second_is(tmp_path: Path) -> None:
    seal_log(tmp_path, 10)
    key = read_signer_key(tmp_path / "audit-keys" / "log.key")
    text = format_checkpoint(Checkpoint(key.name, 10, leaf_hash(b"another root")))
    fork = Note(text, (sign(text, key),)).to_bytes()
    with pytest.raises(RefusedLog, match="elsewhere: .* the first 10 records here are others"):
        open_sealer(tmp_path, ALL[:10], places={"elsewhere": lambda: fork})


@pytest.mark.parametrize("place", ["checkpoint", "checkpoint.witnessed", "checkpoints.jsonl", "log.vkey", "copy"])
def test_a_log_without_its_key_is_refused_while_anything_says_that_it_had_one(tmp_path: Path, place: str) -> None:
    copy, state = tmp_path / "copy", tmp_path / "state"
    settings = EVERY.model_copy(update={"checkpoint_copies": [str(copy)]})
    state.mkdir()
    seal_log(state, 3, settings)
    log = state / "audit"
    (log / "checkpoint.witnessed").write_bytes((log / "checkpoint").read_bytes())
    for name in ("checkpoint", "checkpoint.witnessed", "checkpoints.jsonl", "log.vkey"):
        if name != place:
            (log / name).unlink()
    if place != "copy":
        (copy / "checkpoint").unlink()
    (state / "audit-keys" / "log.key").unlink()
    before = files_in(tmp_path)
    with pytest.raises(RefusedLog, match=rf"log\.key: .*signing key is missing, but .*{place}.*put the key back"):
        open_sealer(state, ALL[:3], settings)
    assert files_in(tmp_path) == before


def test_a_log_with_another_key_is_refused(tmp_path: Path) -> None:
    seal_log(tmp_path, 3)
    key = read_signer_key(tmp_path / "audit-keys" / "log.key")
    other = generate_key(key.name, ED25519)
    (tmp_path / "audit-keys" / "log.key").write_text(other.private_text())
    with pytest.raises(RefusedLog, match="checkpoint: the checkpoint there is not one of"):
        open_sealer(tmp_path, ALL[:3])


def test_a_log_under_another_name_is_refused(tmp_path: Path) -> None:
    seal_log(tmp_path, 3)
    with pytest.raises(RefusedLog, match="the settings call this log 'other.example.org'"):
        open_sealer(tmp_path, ALL[:3], EVERY.model_copy(update={"origin": "other.example.org"}))


def test_a_checkpoint_file_that_is_older_than_a_copy_is_replaced_when_the_log_has_all_records(tmp_path: Path) -> None:
    copy, state = tmp_path / "copy", tmp_path / "state"
    settings = EVERY.model_copy(update={"checkpoint_copies": [str(copy)]})
    state.mkdir()
    sealer = open_sealer(state, ALL[:5], settings)
    older = (state / "audit" / "checkpoint").read_bytes()
    sealer.take(ALL[5:8])
    (state / "audit" / "checkpoint").write_bytes(older)
    again = open_sealer(state, ALL[:8], settings)
    assert checkpoint_in(state).size == 8
    assert again.status.notices == ("checkpoint was older than what other places know of the log; it is replaced.",)


def test_a_place_that_does_not_answer_is_noticed_and_the_log_opens(tmp_path: Path) -> None:
    def down() -> bytes | None:
        raise ConnectionError("no route")

    sealer = open_sealer(tmp_path, ALL[:3], places={"the export": down})
    assert sealer.status.notices == ("the export cannot be asked: ConnectionError.",)
    assert sealer.status.checkpoint_size == 3


@pytest.mark.parametrize("records", [[*ALL[:3], *ALL[4:6]], [ALL[1], ALL[0]]])
def test_a_log_that_reads_out_of_order_is_refused(tmp_path: Path, records: list[Entry]) -> None:
    with pytest.raises(RefusedLog, match="should come next"):
        open_sealer(tmp_path, records)


def test_a_log_that_reads_shorter_than_it_says_is_refused(tmp_path: Path) -> None:
    log = opened(tmp_path, ALL[:10])
    short = OpenedLog(log.directory, 11, 1, log.read)
    with pytest.raises(RefusedLog, match="has 11 records, but only 10 can be read"):
        Sealer(EVERY, FixedClock(), background=False).open(short)


def test_records_that_come_while_the_log_opens_are_left_to_the_writer(tmp_path: Path) -> None:
    log = opened(tmp_path, ALL[:10])
    sealer = Sealer(EVERY, FixedClock(), background=False)
    sealer.open(OpenedLog(log.directory, 7, 1, log.read))
    assert checkpoint_in(tmp_path).size == 7
    sealer.take(ALL[7:10])
    assert checkpoint_in(tmp_path).root == root_of(LEAVES[:10])


def test_two_witnesses_with_one_key_are_refused(tmp_path: Path) -> None:
    key = str(generate_key("w.example.org", COSIGNATURE_V1).verifier)
    settings = EVERY.model_copy(update={"witnesses": [WitnessSettings(url="http://w", key=key)] * 2})
    with pytest.raises(RefusedLog, match="witnesses"):
        open_sealer(tmp_path, (), settings)


# --- tiles that are damaged --------------------------------------------------------------------------------------


def test_every_byte_of_every_tile_of_a_small_log_is_made_again_when_it_changes(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path)
    for index in range(4):
        sealer.take(ALL[index : index + 1])
    sound = _tiles(tmp_path)
    assert len(sound) == 8
    changes = [(path, at) for path, data in sound.items() for at in range(len(data))]
    for path, at in changes:
        data = bytearray(sound[path])
        data[at] ^= 1 + at % 255
        (tmp_path / path).write_bytes(data)
        again = open_sealer(tmp_path, ALL[:4])
        assert again.status.notices == ("1 stored tiles were damaged or missing and were made again.",)
        assert _tiles(tmp_path) == sound


def test_a_tile_cut_at_any_byte_is_made_again(tmp_path: Path) -> None:
    seal_log(tmp_path, 5)
    sound = _tiles(tmp_path)
    for path, data in sound.items():
        for length in range(len(data)):
            (tmp_path / path).write_bytes(data[:length])
            open_sealer(tmp_path, ALL[:5])
            assert _tiles(tmp_path) == sound


def test_every_tile_of_a_log_is_made_again_when_it_is_missing_or_changed(tmp_path: Path) -> None:
    seal_log(tmp_path, 1_100)
    sound = _tiles(tmp_path)
    assert len(sound) == 11
    for path, data in sound.items():
        file = tmp_path / path
        for content in (None, b"", data[::-1], data + b"x"):
            file.unlink()
            if content is not None:
                file.write_bytes(content)
            sealer = open_sealer(tmp_path, ALL[:1_100])
            assert sealer.status.notices == ("1 stored tiles were damaged or missing and were made again.",)
            assert _tiles(tmp_path) == sound


def test_a_log_without_tiles_gets_them_again(tmp_path: Path) -> None:
    seal_log(tmp_path, 1_100)
    sound = files_in(tmp_path)
    shutil.rmtree(tmp_path / "audit" / "tile")
    open_sealer(tmp_path, ALL[:1_100])
    assert files_in(tmp_path) == sound


def test_more_damage_than_fits_in_memory_is_put_right_in_a_second_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "_PENDING_BYTES", 5_000)
    seal_log(tmp_path, 1_100)
    sound = files_in(tmp_path)
    for path in sound:
        if "/tile/" in path:
            (tmp_path / path).write_bytes(b"damage")
    readings: list[int] = []
    log = opened(tmp_path, ALL[:1_100])

    def read(begin: int) -> Iterator[Entry]:
        readings.append(begin)
        return log.read(begin)

    Sealer(EVERY, FixedClock(), background=False).open(OpenedLog(log.directory, log.size, 1, read))
    assert files_in(tmp_path) == sound
    assert readings == [0, 0]


def test_no_tile_is_touched_before_the_log_is_known_to_be_the_signed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "_PENDING_BYTES", 5_000)
    seal_log(tmp_path, 1_100)
    before = files_in(tmp_path)
    with pytest.raises(RefusedLog):
        open_sealer(tmp_path, [entry(0, "forged"), *ALL[1:1_100]])
    assert files_in(tmp_path) == before


def test_a_damaged_tile_never_makes_a_wrong_proof(tmp_path: Path) -> None:
    """While the log is open: refused, or right all the same."""
    seal_log(tmp_path, 5)
    sound = _tiles(tmp_path)
    refused = 0
    for path, data in sound.items():
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 0x10
            sealer = open_sealer(tmp_path, ALL[:5])
            (tmp_path / path).write_bytes(changed)
            for index in range(5):
                try:
                    _prove_all(sealer, tmp_path, range(index, index + 1))
                except AuditUnavailable:
                    refused += 1
            if "entries" in path:
                with pytest.raises(AuditUnavailable, match="the next start makes it again"):
                    list(sealer.entries(0, 5))
            (tmp_path / path).write_bytes(data)
    assert refused == 5 * 5 * 32


def test_tiles_of_records_that_the_disk_lost_before_they_were_signed_are_replaced(tmp_path: Path) -> None:
    """Their tiles were stored, the segment's tail was not, and no checkpoint covers them."""
    seal_log(tmp_path, 200)
    ghost = TileWriter()
    files = ghost.extend((found.payload, found.leaf) for found in [*ALL[:200], *entries(200, 300, "ghost")])
    store = DirectoryStore(tmp_path / "audit")
    store.replace_all([*files, *ghost.partials()])
    sealer = open_sealer(tmp_path, ALL[:210])
    assert "stored tiles were damaged or missing" in sealer.status.notices[0]
    sealer.take(ALL[210:300])
    assert "tile/0/000 held other bytes than the log; it was written again." in sealer.status.notices
    _prove_all(sealer, tmp_path, range(0, 300, 7))
    expected = TileWriter()
    full = expected.extend((found.payload, found.leaf) for found in ALL[:300])
    for path, data in [*full, *expected.partials()]:
        assert store.read(path) == data


def test_partial_tiles_of_records_that_are_not_here_go_when_the_log_opens(tmp_path: Path) -> None:
    seal_log(tmp_path, 200)
    sound = _tiles(tmp_path)
    store = DirectoryStore(tmp_path / "audit")
    store.replace_all([("tile/0/000.p/201", b"x" * 201 * 32), ("tile/entries/007.p/3", b"xxx")])
    sealer = open_sealer(tmp_path, ALL[:200])
    assert _tiles(tmp_path) == sound
    assert sealer.status.notices == ("2 stored tiles were damaged or missing and were made again.",)


# --- sealing -----------------------------------------------------------------------------------------------------


def test_records_are_sealed_as_soon_as_so_many_wait(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, (), AuditSettings(checkpoint_records=10))
    sealer.take(ALL[:9])
    assert (sealer.checkpoint(), sealer.status.unsealed) == (None, 9)
    sealer.take(ALL[9:10])
    assert checkpoint_in(tmp_path).size == 10
    assert sealer.status.unsealed == 0


def test_closing_seals_everything_that_was_taken(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, (), SELDOM)
    sealer.take(ALL[:300])
    sealer.close()
    sealer.close()
    assert checkpoint_in(tmp_path).root == root_of(LEAVES[:300])


def test_what_comes_after_closing_is_sealed_by_the_next_opening(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path)
    sealer.take(ALL[:3])
    sealer.close()
    sealer.take(ALL[3:5])
    assert checkpoint_in(tmp_path).size == 3
    open_sealer(tmp_path, ALL[:5])
    assert checkpoint_in(tmp_path).root == root_of(LEAVES[:5])


def test_nothing_new_means_no_new_checkpoint(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3])
    before = (tmp_path / "audit" / "checkpoint").stat().st_ino
    sealer.seal()
    sealer.take([])
    assert (tmp_path / "audit" / "checkpoint").stat().st_ino == before


def test_a_record_out_of_order_stops_the_sealer_for_good(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path)
    sealer.take(ALL[:3])
    sealer.take(ALL[4:5])
    assert sealer.failure == "Checkpoints stopped on an unexpected ValueError."
    sealer.take(ALL[3:4])
    sealer.seal()
    assert checkpoint_in(tmp_path).size == 3


def test_a_history_line_is_kept_every_so_often(tmp_path: Path) -> None:
    clock = FixedClock()
    sealer = open_sealer(tmp_path, (), AuditSettings(checkpoint_records=1, checkpoint_history_s=60), clock)
    for index in range(10):
        sealer.take(ALL[index : index + 1])
        clock.advance(20_000)
    history = list(read_history(tmp_path / "audit"))
    assert [parse_checkpoint(parse_note(past.note).text).size for past in history] == [1, 4, 7, 10]
    assert [past.at_ms - history[0].at_ms for past in history] == [0, 60_000, 120_000, 180_000]
    assert {past.epoch for past in history} == {1}


def test_copies_get_the_newest_checkpoint(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    copies = [str(tmp_path / "one"), str(tmp_path / "two")]
    sealer = open_sealer(state, ALL[:3], EVERY.model_copy(update={"checkpoint_copies": copies}))
    sealer.take(ALL[3:6])
    for copy in copies:
        assert (Path(copy) / "checkpoint").read_bytes() == sealer.checkpoint()


def test_a_copy_that_fails_is_said_and_stops_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    copies = [str(tmp_path / "missing" / "one"), str(tmp_path / "two")]
    sealer = open_sealer(state, ALL[:3], EVERY.model_copy(update={"checkpoint_copies": copies}))
    assert sealer.failure is None
    assert sealer.status.copies == (
        f"The checkpoint cannot be copied to {tmp_path}/missing/one: No such file or directory.",
    )
    assert (tmp_path / "two" / "checkpoint").read_bytes() == sealer.checkpoint()
    (tmp_path / "missing").mkdir()
    sealer.take(ALL[3:4])
    assert sealer.status.copies == ()


def test_a_writer_that_was_overtaken_signs_nothing_more(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path)
    sealer.take(ALL[:3])
    take_epoch(tmp_path, 2)
    sealer.take(ALL[3:4])
    assert "written by a later process (epoch 2)" in (sealer.failure or "")
    (tmp_path / "audit" / "epochs" / f"{2:020d}").unlink()
    sealer.take(ALL[4:5])
    assert checkpoint_in(tmp_path).size == 3


def test_how_long_records_wait_is_said(tmp_path: Path) -> None:
    clock = FixedClock()
    sealer = open_sealer(tmp_path, (), SELDOM, clock)
    clock.advance(5_000)
    assert sealer.status.unsealed_s == 0
    sealer.take(ALL[:1])
    clock.advance(2_000)
    sealer.take(ALL[1:2])
    clock.advance(1_000)
    assert (sealer.status.unsealed, sealer.status.unsealed_s) == (2, 3.0)
    sealer.seal()
    clock.advance(1_000)
    assert (sealer.status.unsealed, sealer.status.unsealed_s) == (0, 0.0)


def test_partial_tiles_go_when_the_full_one_is_there(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path)
    for index in range(250, 260):
        if index == 250:
            sealer.take(ALL[:250])
        sealer.take(ALL[index : index + 1])
    names = [parse_path(path.removeprefix("audit/")) for path in _tiles(tmp_path)]
    assert not [name for name in names if name.level in (None, 0) and name.index == 0 and name.width < 256]
    assert sorted(name.width for name in names if name.level == 0 and name.index == 1) == [1, 2, 3, 4]


def test_partial_tiles_of_a_pinned_checkpoint_stay_until_the_next_pin(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path)
    sealer.take(ALL[:200])
    pinned = sealer.pin()
    assert pinned == sealer.checkpoint()
    sealer.take(ALL[200:201])
    sealer.take(ALL[201:600])
    assert sealer.tile("tile/0/000.p/200") == b"".join(LEAVES[:200])
    assert sealer.tile("tile/entries/000.p/200") is not None
    assert sealer.tile("tile/0/000.p/201") is None
    sealer.pin()
    sealer.take(ALL[600:601])
    assert sealer.tile("tile/0/000.p/200") is None
    assert not (tmp_path / "audit" / "tile" / "0" / "000.p").exists()


def test_a_tile_without_partial_ones_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealer = open_sealer(tmp_path)
    sealer.take(ALL[:600])
    looked: list[str] = []

    def drop(store: DirectoryStore, path: str, keep: object = ()) -> int:
        looked.append(path)
        return 0

    monkeypatch.setattr(DirectoryStore, "drop_partials", drop)
    sealer.take(ALL[600:601])
    assert looked == []
    sealer.take(ALL[601:800])
    assert sorted(looked) == ["tile/0/002", "tile/entries/002"]


def test_partial_tiles_that_an_earlier_process_left_go_when_the_log_opens(tmp_path: Path) -> None:
    seal_log(tmp_path, 600)
    sound = _tiles(tmp_path)
    DirectoryStore(tmp_path / "audit").replace_all([("tile/0/000.p/3", b"".join(LEAVES[:3]))])
    open_sealer(tmp_path, ALL[:600])
    assert _tiles(tmp_path) == sound


def test_what_an_interrupted_process_did_not_finish_goes_when_the_log_opens(tmp_path: Path) -> None:
    seal_log(tmp_path, 300)
    sound = files_in(tmp_path)
    for path in ("checkpoint.1.new", "checkpoint.witnessed.4.new", "tile/0/001.3.new", "tile/0/001.p/44.new"):
        (tmp_path / "audit" / path).write_bytes(b"half")
    open_sealer(tmp_path, ALL[:300])
    assert files_in(tmp_path) == sound


def test_memory_does_not_grow_with_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "_PENDING_BYTES", 50_000)

    def lazily(size: int) -> Callable[[int], Iterator[Entry]]:
        return lambda begin: (entry(index) for index in range(begin, size))

    def peak(size: int) -> int:
        state = tmp_path / str(size)
        take_epoch(state, 1)
        tracemalloc.start()
        try:
            sealer = Sealer(EVERY, FixedClock(), background=False)
            sealer.open(OpenedLog(state / "audit", size, 1, lazily(size)))
            for begin in range(size, 2 * size, 500):
                sealer.take(entries(begin, begin + 500))
            log = OpenedLog(state / "audit", 2 * size, 1, lazily(2 * size))
            Sealer(EVERY, FixedClock(), background=False).open(log)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1_000)  # what is loaded once
    assert peak(10_000) < peak(2_000) + 100_000


# --- a disk that does not answer ---------------------------------------------------------------------------------


def _life(state: Path, published: list[bytes]) -> None:
    """A log is opened, grows over tile borders, is closed, opened and grows again. Adds what it answered."""
    settings = SELDOM.model_copy(update={"checkpoint_history_s": 0.0})
    sealer = open_sealer(state, (), settings)
    for begin, end in [(0, 3), (3, 254), (254, 257), (257, 515)]:
        sealer.take(ALL[begin:end])
        sealer.seal()
        published.append(sealer.checkpoint() or b"")
        if sealer.failure is not None:
            sealer.seal()
            assert sealer.failure is None
    sealer.close()
    again = open_sealer(state, ALL[:520], settings)
    published.append(again.checkpoint() or b"")
    again.take(ALL[520:530])
    again.close()
    published.append(again.checkpoint() or b"")


def _operations(tmp_path: Path) -> int:
    state = tmp_path / "whole"
    state.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        power = Power(state, patch)
        _life(state, [])
        return power.operations


def _assert_sound(state: Path) -> None:
    """A checkpoint that can be seen has its tiles; the log opens, and goes on under the name it has used."""
    log = state / "audit"
    name = None
    if (log / "checkpoint").exists():
        signed = checkpoint_in(state)
        name = signed.origin
        assert signed.root == _root(signed.size)
        TileWriter.resume(DirectoryStore(log), signed.size, signed.root)
        verify_note(parse_note((log / "checkpoint").read_bytes()), [log_key(state)])
    sealer = open_sealer(state, ALL[:530])
    assert name in (None, sealer.status.origin)
    assert checkpoint_in(state).root == root_of(LEAVES[:530])
    _prove_all(sealer, state, range(0, 530, 53))
    sealer.take(ALL[530:540])
    assert sealer.failure is None
    assert checkpoint_in(state).root == root_of(LEAVES[:540])
    sealer.close()


@pytest.mark.parametrize("cut", [True, False], ids=["power lost", "process killed"])
def test_a_log_opens_after_an_end_at_any_file_operation(tmp_path: Path, cut: bool) -> None:
    count = _operations(tmp_path)
    assert count > 200
    for at in range(1, count + 1):
        state = tmp_path / f"end{at}"
        state.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            power = Power(state, patch)
            power.fail(at)
            answered: list[bytes] = []
            with pytest.raises(PowerLoss):
                _life(state, answered)
            if cut:
                power.cut()
        if any(answered):
            # Whoever got a checkpoint got one that the log still knows.
            assert checkpoint_in(state).size >= parse_checkpoint(parse_note(answered[-1]).text).size
        _assert_sound(state)
        shutil.rmtree(state)


def test_a_checkpoint_that_was_answered_survives_a_loss_of_power(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        power = Power(tmp_path, patch)
        sealer = open_sealer(tmp_path, ALL[:300])
        sealer.take(ALL[300:310])
        answered = sealer.checkpoint()
        power.cut()
    assert (tmp_path / "audit" / "checkpoint").read_bytes() == answered
    with pytest.raises(RefusedLog):
        open_sealer(tmp_path, ALL[:309])
    assert [past.note for past in read_history(tmp_path / "audit")][-1] == answered


def test_an_error_at_any_file_operation_is_a_failure_that_the_next_attempt_mends(tmp_path: Path) -> None:
    count = _operations(tmp_path)
    refused = 0
    for at in range(1, count + 1):
        state = tmp_path / f"error{at}"
        state.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            power = Power(state, patch)
            power.fail(at, broken())
            published: list[bytes] = []
            try:
                _life(state, published)
            except OSError:
                refused += 1
            for note in filter(None, published):
                signed = parse_checkpoint(parse_note(note).text)
                assert signed.root == _root(signed.size)
        _assert_sound(state)
        shutil.rmtree(state)
    assert 0 < refused < count  # opening may fail; a log that is open goes on


def test_a_failure_is_said_and_acknowledging_goes_on(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        sealer = open_sealer(tmp_path, ALL[:3])
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        Power(tmp_path, patch).fail(1, full)
        sealer.take(ALL[3:5])
        assert sealer.failure == "Checkpoints cannot be written: No space left on device (errno 28)."
        assert sealer.status.failure == sealer.failure
        assert (sealer.status.taken, sealer.status.checkpoint_size, sealer.status.unsealed) == (5, 3, 2)
        assert checkpoint_in(tmp_path).size == 3
        _prove_all(sealer, tmp_path, range(3))
        with pytest.raises(AuditUnavailable, match="No space left"):
            sealer.prove(4, timeout_s=3_600)  # at once
    sealer.seal()
    assert sealer.failure is None
    _prove_all(sealer, tmp_path, range(5))


# --- proofs ------------------------------------------------------------------------------------------------------


def test_every_record_is_proven_at_every_size(tmp_path: Path) -> None:
    """All indices at the sizes where something changes, some at all sizes from 1 to 600."""
    sealer = open_sealer(tmp_path)
    for size in range(1, 601):
        sealer.take(ALL[size - 1 : size])
        indices = range(size) if size in SOME_SIZES else iter({0, size // 2, size - 1, (size - 1) & ~0xFF})
        _prove_all(sealer, tmp_path, indices)


def test_a_proof_ends_with_the_newest_checkpoint(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:30])
    assert parse_inclusion_proof(sealer.prove(7).proof).checkpoint == sealer.checkpoint()


@pytest.mark.parametrize("index", [-1, 30, 10**30])
def test_a_record_that_is_not_there_has_no_proof(tmp_path: Path, index: int) -> None:
    sealer = open_sealer(tmp_path, ALL[:30])
    with pytest.raises(NotFound):
        sealer.prove(index)


def test_a_record_without_a_checkpoint_is_not_proven_yet(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], SELDOM)
    sealer.take(ALL[3:4])
    assert not sealer.wait_covered(4, timeout_s=0)
    with pytest.raises(AuditUnavailable, match="No checkpoint of the audit log covers the record yet"):
        sealer.prove(3, timeout_s=0)
    sealer.seal()
    assert sealer.wait_covered(4, timeout_s=0)
    _prove_all(sealer, tmp_path, range(4))


def test_the_newest_tree_extends_every_older_one(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path)
    for size in (1, 2, 3, 7, 8, 255, 256, 257, 600):
        sealer.take(ALL[sealer.status.taken : size])
        root = root_of(LEAVES[:size])
        for old in range(size + 1):
            note, hashes = sealer.consistency(old)
            assert note == sealer.checkpoint()
            assert verify_consistency(old, size, root_of(LEAVES[:old]), root, hashes)


@pytest.mark.parametrize("old", [-1, 31])
def test_there_is_no_consistency_with_a_larger_tree(tmp_path: Path, old: int) -> None:
    sealer = open_sealer(tmp_path, ALL[:30])
    with pytest.raises(NotFound):
        sealer.consistency(old)


def test_a_log_without_a_checkpoint_has_no_consistency(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_sealer(tmp_path).consistency(0)


def test_damage_to_the_tree_is_no_consistency_proof(tmp_path: Path) -> None:
    seal_log(tmp_path, 30)
    sealer = open_sealer(tmp_path, ALL[:30])
    (tmp_path / "audit" / "tile" / "0" / "000.p" / "30").write_bytes(bytes(30 * 32))
    for old in range(1, 30):
        with pytest.raises(AuditUnavailable):
            sealer.consistency(old)


def test_tiles_are_served_as_far_as_the_checkpoint_goes(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:300], SELDOM)
    sealer.take(ALL[300:600])
    size, reader = 300, TileReader(DirectoryStore(tmp_path / "audit"))
    assert sealer.tile("tile/0/000") == reader.tile(0, 0, size) == b"".join(LEAVES[:256])
    assert sealer.tile("tile/0/001.p/44") == b"".join(LEAVES[256:300])
    assert sealer.tile("tile/1/000.p/1") == root_of(LEAVES[:256])
    # Not that wide, not there yet, another spelling, no tile.
    for path in ("tile/0/001.p/43", "tile/0/001.p/45", "tile/0/001", "tile/0/000.p/256", "tile/0/0", "../audit-keys"):
        assert sealer.tile(path) is None
    # Stored, but of no checkpoint.
    DirectoryStore(tmp_path / "audit").replace_all([("tile/0/001", b"x" * 8_192), ("tile/0/001.p/45", b"x")])
    assert sealer.tile("tile/0/001") is None
    assert sealer.tile("tile/0/001.p/45") is None


def test_entries_are_read_as_far_as_the_checkpoint_goes(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:300], SELDOM)
    sealer.take(ALL[300:310])
    assert list(sealer.entries(250, 1_000)) == [found.payload for found in ALL[250:300]]
    assert list(sealer.entries(400, 500)) == list(sealer.entries(-5, 0)) == list(sealer.entries(9, 3)) == []
    assert list(sealer.entries(-5, 2)) == [found.payload for found in ALL[:2]]


def test_a_log_that_is_not_open_answers_nothing() -> None:
    sealer = Sealer(EVERY, FixedClock())
    for ask in (sealer.checkpoint, sealer.pin, lambda: sealer.prove(0), lambda: sealer.consistency(0)):
        with pytest.raises(AuditUnavailable, match="not open"):
            ask()
    sealer.close()


# --- witnesses ---------------------------------------------------------------------------------------------------

W1, W2, W3 = (generate_key(f"w{number}.example.org", COSIGNATURE_V1) for number in (1, 2, 3))


def _witnessed(quorum: int | None = None) -> AuditSettings:
    witnesses = [WitnessSettings(url="http://127.0.0.1", key=str(key.verifier)) for key in (W1, W2)]
    return EVERY.model_copy(update={"witnesses": witnesses, "witness_quorum": quorum})


def _cosignature(note: bytes, key: SignerKey, time_s: int = 1_000) -> Signature:
    return cosign(parse_note(note).text, key, time_s)


def _cosign(sealer: Sealer, note: bytes | None, *keys: SignerKey, time_s: int = 1_000) -> None:
    assert note is not None
    sealer.add_cosignatures(note, [_cosignature(note, key, time_s) for key in keys])


def _signers(note: bytes | None) -> list[str]:
    return [] if note is None else [signature.name for signature in parse_note(note).signatures]


def test_cosignatures_are_shown_under_the_newest_checkpoint(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], _witnessed())
    name = sealer.status.origin
    _cosign(sealer, sealer.checkpoint(), W2)
    assert _signers(sealer.checkpoint()) == [name, W2.name]
    assert (tmp_path / "audit" / "checkpoint").read_bytes() == sealer.checkpoint()
    assert (sealer.witnessed(), sealer.status.witnessed_size) == (None, None)
    _cosign(sealer, sealer.checkpoint(), W1)
    assert _signers(sealer.checkpoint()) == [name, W1.name, W2.name]
    assert (tmp_path / "audit" / "checkpoint.witnessed").read_bytes() == sealer.witnessed() == sealer.checkpoint()
    assert sealer.status.witnessed_size == 3


def test_a_quorum_is_enough(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], _witnessed(1))
    _cosign(sealer, sealer.checkpoint(), W2)
    assert sealer.status.witnessed_size == 3


def test_an_older_checkpoint_gets_its_quorum_from_answers_that_come_late(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], _witnessed())
    older = sealer.checkpoint()
    _cosign(sealer, older, W1)
    sealer.take(ALL[3:4])
    assert _signers(sealer.checkpoint()) == [sealer.status.origin]
    _cosign(sealer, older, W2)
    assert sealer.status.witnessed_size == 3
    assert _signers(sealer.witnessed()) == [sealer.status.origin, W1.name, W2.name]
    assert checkpoint_in(tmp_path).size == 4


def test_both_answers_may_come_late_and_apart(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], _witnessed())
    older = sealer.checkpoint()
    sealer.take(ALL[3:4])
    _cosign(sealer, older, W1)
    sealer.take(ALL[4:5])
    _cosign(sealer, older, W2)
    assert sealer.status.witnessed_size == 3


def test_the_witnessed_checkpoint_never_goes_back(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], _witnessed())
    older = sealer.checkpoint()
    sealer.take(ALL[3:4])
    _cosign(sealer, sealer.checkpoint(), W1, W2)
    _cosign(sealer, older, W1, W2)
    assert sealer.status.witnessed_size == checkpoint_in(tmp_path, "checkpoint.witnessed").size == 4


def test_a_witness_that_signs_again_replaces_its_signature(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], _witnessed(1))
    for time_s in (1_000, 3_000, 2_000):
        _cosign(sealer, sealer.checkpoint(), W1, time_s=time_s)
    note = parse_note(sealer.checkpoint() or b"")
    [found] = verify_note(note, [W1.verifier])
    assert len(note.signatures) == 2
    assert found.time_s == 3_000
    assert sealer.witnessed() == sealer.checkpoint()


def test_signatures_by_strangers_are_passed_over(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], _witnessed())
    before = files_in(tmp_path)
    _cosign(sealer, sealer.checkpoint(), W3)
    assert files_in(tmp_path) == before


def test_a_bad_signature_of_a_known_witness_is_refused(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], _witnessed())
    note = sealer.checkpoint() or b""
    good = _cosignature(note, W1)
    bad = Signature(good.name, good.key_id, good.value[:-1] + bytes([good.value[-1] ^ 1]))
    before = files_in(tmp_path)
    with pytest.raises(BadSignature):
        sealer.add_cosignatures(note, [bad])
    assert files_in(tmp_path) == before


def test_a_checkpoint_that_the_log_did_not_sign_gets_no_cosignatures(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], _witnessed())
    text = format_checkpoint(Checkpoint(sealer.status.origin, 3, leaf_hash(b"another root")))
    forged = Note(text, (sign(text, generate_key(sealer.status.origin, ED25519)),)).to_bytes()
    with pytest.raises(BadNote):
        _cosign(sealer, forged, W1, W2)
    assert sealer.status.witnessed_size is None


def test_a_sealer_that_was_overtaken_leaves_the_notes_to_its_successor(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], _witnessed())
    take_epoch(tmp_path, 2)
    before = files_in(tmp_path)
    with pytest.raises(Fenced):
        _cosign(sealer, sealer.checkpoint(), W1, W2)
    assert files_in(tmp_path) == before


def test_cosignatures_outlive_the_process(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], _witnessed())
    _cosign(sealer, sealer.checkpoint(), W1, W2)
    sealer.close()
    again = open_sealer(tmp_path, ALL[:3], _witnessed())
    assert again.status.witnessed_size == 3
    assert again.checkpoint() == again.witnessed() == sealer.checkpoint()


def test_a_checkpoint_that_other_witnesses_confirmed_does_not_count_any_more(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:3], _witnessed())
    _cosign(sealer, sealer.checkpoint(), W1, W2)
    sealer.close()
    others = [WitnessSettings(url="http://127.0.0.1", key=str(W3.verifier))]
    again = open_sealer(tmp_path, ALL[:3], EVERY.model_copy(update={"witnesses": others}))
    assert again.witnessed() is None
    _cosign(again, again.checkpoint(), W3)
    assert _signers(again.witnessed()) == [again.status.origin, W3.name]


def test_a_record_is_proven_under_a_witnessed_checkpoint_where_there_is_one(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:200], _witnessed())
    _cosign(sealer, sealer.checkpoint(), W1, W2)
    sealer.take(ALL[200:700])
    assert parse_inclusion_proof(sealer.prove(199).proof).checkpoint == sealer.witnessed()
    assert parse_inclusion_proof(sealer.prove(200).proof).checkpoint == sealer.checkpoint()
    _prove_all(sealer, tmp_path, range(0, 700, 9))


def test_partial_tiles_of_the_witnessed_checkpoint_stay_also_over_a_restart(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:200], _witnessed())
    _cosign(sealer, sealer.checkpoint(), W1, W2)
    sealer.take(ALL[200:700])
    assert sealer.tile("tile/0/000.p/200") is not None
    sealer.close()
    again = open_sealer(tmp_path, ALL[:700], _witnessed())
    assert again.tile("tile/0/000.p/200") == b"".join(LEAVES[:200])
    _cosign(again, again.checkpoint(), W1, W2)
    again.take(ALL[700:701])
    assert again.tile("tile/0/000.p/200") is None


def test_a_missing_partial_tile_of_the_witnessed_checkpoint_is_made_again(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:100], _witnessed())
    _cosign(sealer, sealer.checkpoint(), W1, W2)
    sealer.take(ALL[100:150])
    for path in ("tile/0/000.p/100", "tile/entries/000.p/100"):
        (tmp_path / "audit" / path).unlink()
    again = open_sealer(tmp_path, ALL[:150], _witnessed())
    assert again.status.notices == ("2 stored tiles were damaged or missing and were made again.",)
    _prove_all(again, tmp_path, range(150))


def test_half_witnessed_checkpoints_do_not_pile_up(tmp_path: Path) -> None:
    sealer = open_sealer(tmp_path, ALL[:1], _witnessed())
    notes: list[bytes] = []
    for size in range(1, 60):
        note = sealer.checkpoint() or b""
        notes.append(note)
        _cosign(sealer, note, W1)
        sealer.take(ALL[size : size + 1])
    _cosign(sealer, notes[0], W2)
    assert sealer.witnessed() is None  # so old that the other signature is forgotten
    _cosign(sealer, notes[-2], W2)
    assert sealer.status.witnessed_size == 58


# --- with the writer ---------------------------------------------------------------------------------------------


def _append(writer: LogWriter, begin: int, end: int) -> list[Receipt]:
    [receipts] = writer.commit([[routed(number) for number in range(begin, end)]])
    assert not isinstance(receipts, AuditUnavailable)
    return list(receipts)


def test_what_the_writer_acknowledged_is_proven(tmp_path: Path) -> None:
    sealer = Sealer(EVERY, FixedClock(), background=False)
    writer = LogWriter(tmp_path / "audit", SMALL, "test", FixedClock(), sealing=sealer)
    receipts = [*_append(writer, 0, 5), *_append(writer, 5, 300)]
    for receipt in receipts[::17]:
        proven = sealer.prove(receipt.index)
        assert proven.receipt == receipt
        verify_inclusion_proof(parse_inclusion_proof(proven.proof), receipt.index, receipt.leaf_hash, trust(tmp_path))
    sealer.close()
    writer.close()


def test_the_writer_does_not_open_a_log_that_was_put_back_to_an_older_state(tmp_path: Path) -> None:
    """The older state agrees with itself in every file; only a copy of the checkpoint elsewhere knows better."""
    settings = SMALL.model_copy(update={"checkpoint_records": 1, "checkpoint_copies": [str(tmp_path / "copy")]})
    state = tmp_path / "state"
    state.mkdir()

    def run(begin: int, end: int) -> None:
        sealer = Sealer(settings, FixedClock(), background=False)
        writer = LogWriter(state / "audit", settings, "test", FixedClock(), sealing=sealer)
        _append(writer, begin, end)
        sealer.close()
        writer.close()

    run(0, 10)
    shutil.copytree(state, tmp_path / "snapshot")
    run(10, 20)
    shutil.rmtree(state)
    shutil.move(tmp_path / "snapshot", state)
    segments = {path: data for path, data in files_in(state).items() if "/segments/" in path or "/tile/" in path}
    with pytest.raises(CorruptLog, match=r"copy.* checkpoint of 22 records, but only 11 are here"):
        run(20, 21)
    assert {path: data for path, data in files_in(state).items() if path in segments} == segments


# --- the thread --------------------------------------------------------------------------------------------------


def _running(state: Path, settings: AuditSettings) -> Sealer:
    sealer = Sealer(settings, FixedClock())  # time stands still: nothing is due by the clock
    sealer.open(opened(state, ()))
    return sealer


def test_the_thread_seals_when_so_many_records_wait(tmp_path: Path) -> None:
    sealer = _running(tmp_path, AuditSettings(checkpoint_records=10))
    try:
        sealer.take(ALL[:10])
        assert sealer.wait_covered(10, timeout_s=60)
        _prove_all(sealer, tmp_path, range(10))
    finally:
        sealer.close()


def test_the_thread_seals_soon_when_it_is_told(tmp_path: Path) -> None:
    sealer = _running(tmp_path, AuditSettings(checkpoint_records=1_000))
    try:
        sealer.take(ALL[:3])
        sealer.seal_soon()
        assert sealer.wait_covered(3, timeout_s=60)
    finally:
        sealer.close()


def test_the_thread_seals_once_an_interval(tmp_path: Path) -> None:
    clock = FixedClock()
    sealer = Sealer(AuditSettings(checkpoint_records=1_000, checkpoint_interval_ms=20), clock)
    sealer.open(opened(tmp_path, ()))
    try:
        sealer.take(ALL[:3])
        assert sealer.checkpoint() is None
        while not sealer.wait_covered(3, timeout_s=0.05):
            clock.advance(20)
    finally:
        sealer.close()


def test_a_proof_waits_for_its_checkpoint(tmp_path: Path) -> None:
    sealer = _running(tmp_path, AuditSettings(checkpoint_records=1_000))
    proven: list[int] = []
    try:
        sealer.take(ALL[:3])
        waiting = threading.Thread(target=lambda: proven.append(sealer.prove(2, timeout_s=60).receipt.index))
        waiting.start()
        sealer.seal_soon()
        waiting.join(60)
        assert proven == [2]
    finally:
        sealer.close()


def test_closing_the_thread_seals_everything(tmp_path: Path) -> None:
    sealer = _running(tmp_path, SELDOM)
    sealer.take(ALL[:700])
    sealer.close()
    assert checkpoint_in(tmp_path).root == root_of(LEAVES[:700])
    sealer.take(ALL[700:701])  # neither blocks nor is it lost: it is on disk
    open_sealer(tmp_path, ALL[:701])
    assert checkpoint_in(tmp_path).size == 701


def test_writing_waits_while_too_many_records_are_unsealed_and_goes_on_when_the_disk_answers(tmp_path: Path) -> None:
    settings = AuditSettings(checkpoint_records=1, max_unsealed_records=100, checkpoint_interval_ms=10)
    clock = FixedClock()
    sealer = Sealer(settings, clock)
    sealer.open(opened(tmp_path, ()))
    down, attempts = threading.Event(), threading.Semaphore(0)
    down.set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if down.is_set():
            attempts.release()
            raise broken()
        real(descriptor)

    def write() -> None:
        for index in range(300):
            sealer.take(ALL[index : index + 1])

    writer = threading.Thread(target=write)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        writer.start()
        # The writer fills what may wait, then stands; the sealer tries once an interval.
        intervals = seen = 0
        while sealer.status.taken < 100 or seen < 5:
            clock.advance(10)
            intervals += 1
            seen += attempts.acquire(timeout=0.05)
        assert sealer.failure == "Checkpoints cannot be written: the disk does not answer (errno 5)."
        assert (sealer.status.taken, sealer.status.unsealed) == (100, 100)
        assert writer.is_alive()
        while attempts.acquire(blocking=False):
            seen += 1
        assert seen <= intervals + 1  # the first is due by the number of records
        down.clear()
        while not sealer.wait_covered(300, timeout_s=0.01):
            clock.advance(10)
    writer.join(60)
    sealer.close()
    assert sealer.failure is None
    assert checkpoint_in(tmp_path).root == root_of(LEAVES[:300])


def test_the_bound_of_unsealed_records_does_not_wait_for_the_clock(tmp_path: Path) -> None:
    sealer = _running(tmp_path, AuditSettings(checkpoint_records=1_000, max_unsealed_records=5))
    try:
        for begin in range(0, 60, 3):
            sealer.take(ALL[begin : begin + 3])
        assert sealer.status.checkpoint_size >= 53
    finally:
        sealer.close()


def test_the_bytes_of_unsealed_records_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealer_module, "_MAX_UNSEALED_BYTES", 100)
    sealer = _running(tmp_path, SELDOM)
    try:
        for index in range(100):
            sealer.take(ALL[index : index + 1])
        assert sealer.status.checkpoint_size >= 80
    finally:
        sealer.close()


def test_closing_releases_a_writer_that_waits(tmp_path: Path) -> None:
    sealer = _running(tmp_path, AuditSettings(checkpoint_records=1, max_unsealed_records=5))
    with pytest.MonkeyPatch.context() as patch:

        def fsync(descriptor: int) -> None:
            raise broken()

        patch.setattr(os, "fsync", fsync)
        sealer.take(ALL[:5])
        writer = threading.Thread(target=lambda: sealer.take(ALL[5:6]))
        writer.start()
        sealer.close()
        writer.join(60)
        assert not writer.is_alive()
    open_sealer(tmp_path, ALL[:6])
    assert checkpoint_in(tmp_path).root == root_of(LEAVES[:6])


def test_a_released_writer_never_waits_again(tmp_path: Path) -> None:
    sealer = _running(tmp_path, AuditSettings(checkpoint_records=1, max_unsealed_records=5))
    with pytest.MonkeyPatch.context() as patch:

        def fsync(descriptor: int) -> None:
            raise broken()

        patch.setattr(os, "fsync", fsync)
        writer = threading.Thread(target=lambda: [sealer.take(ALL[at : at + 1]) for at in range(50)])
        writer.start()
        sealer.release()
        writer.join(60)
        assert not writer.is_alive()
    sealer.close()
    assert checkpoint_in(tmp_path).root == root_of(LEAVES[:50])


def test_proofs_are_right_while_the_log_grows(tmp_path: Path) -> None:
    sealer = _running(tmp_path, AuditSettings(checkpoint_records=7))
    sealer.take(ALL[:7])
    assert sealer.wait_covered(7, timeout_s=60)
    writer = threading.Thread(target=lambda: [sealer.take(ALL[at : at + 1]) for at in range(7, 1_200)])
    writer.start()
    proven = 0
    try:
        while writer.is_alive() or proven < 50:
            covered = sealer.status.checkpoint_size
            index = (proven * 97) % covered
            proof = parse_inclusion_proof(sealer.prove(index).proof)
            head = parse_checkpoint(parse_note(proof.checkpoint).text)
            assert verify_inclusion(index, head.size, LEAVES[index], proof.hashes, head.root)
            proven += 1
    finally:
        writer.join(60)
        sealer.close()
    assert checkpoint_in(tmp_path).root == root_of(LEAVES)
