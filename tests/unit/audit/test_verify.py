import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from deployments.audit.chain import GENESIS, leaf_hash, link
from deployments.audit.head import HEAD_FILE, read_head, write_head
from deployments.audit.merkle import Frontier
from deployments.audit.notes import ED25519, generate_key
from deployments.audit.proofs import InclusionProof, prove_inclusion
from deployments.audit.segment import frame, segment_name, segment_paths
from deployments.audit.settings import AuditSettings
from deployments.audit.tiles import DirectoryStore, TileReader, entries_path, parse_bundle, tile_path
from deployments.audit.verify import Unusable, verify
from deployments.clock import FixedClock
from deployments.ports import AuditEvent, AuditHead, JsonValue
from tests.unit.audit.handmade import (
    KEY,
    ORIGIN,
    WITNESSES,
    GatedFlow,
    announced,
    edited,
    entries_of,
    frames,
    history_line,
    honest,
    lay_export,
    lay_segments,
    lay_tiles,
    made,
    note_of,
    opened,
    route,
)
from tests.unit.audit.logs import D1, D2, D3, frames_of, raw_frames, replace_frames, routed, write_log


def _failed(directory: Path) -> dict[str, int | None]:
    """The names of the failed checks, with their first index."""
    return {check.name: check.first_index for check in verify(directory).checks if check.failures}


def _relinked(payloads: Sequence[bytes]) -> tuple[list[bytes], AuditHead]:
    """Frames of a log with these payloads whose framing and chain are perfect: the work of a careful forger."""
    frames: list[bytes] = []
    head = GENESIS
    for sequence, payload in enumerate(payloads):
        frames.append(frame(sequence, head, payload))
        head = link(head, leaf_hash(payload))
    return frames, AuditHead(len(frames), head.hex())


def _payloads(directory: Path) -> list[bytes]:
    return [found.payload for path in segment_paths(directory) for found in frames_of(path)]


def test_an_honest_log_passes_every_check(tmp_path: Path) -> None:
    second = GatedFlow("R3", "call_2", "apr_2", D3)
    write_log(tmp_path, [announced(), routed(1), *GatedFlow().whole(), *second.whole(["alice", "bob"])])
    report = verify(tmp_path)
    assert report.ok
    summary = report.to_json()
    assert summary["records"] == 1 + 2 + 10 + 11
    assert (summary["first_at_ms"], summary["last_at_ms"]) == (FixedClock().now_ms(), 1)
    assert summary["head"] == {"size": 24, "head_hash": read_head(tmp_path / HEAD_FILE).head_hash}
    assert summary["models"] == ["demo-20b"]
    assert report.events["tool_call.released"] == 2
    assert [check.number for check in report.checks] == list(range(1, 21))
    assert [check.name for check in report.checks][:10] == [
        "framing", "sequence", "chain", "identity", "event ids", "head", "schema", "releases", "approvals", "epochs",
    ]  # fmt: skip
    skipped = {check.name for check in report.checks if check.skipped}
    assert skipped == {"signatures", "roots", "forks", "cosignatures", "tiles", "receipts", "bodies"}


# --- mathematics -------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path, [routed(number) for number in range(5)], AuditSettings(lock_timeout_s=0))
    return tmp_path


@pytest.mark.parametrize("index", range(6))
def test_a_deleted_record_is_missed(log: Path, index: int) -> None:
    frames = raw_frames(log)
    replace_frames(log, frames[:index] + frames[index + 1 :])
    failed = _failed(log)
    assert "head" in failed
    if index < 5:
        assert (failed["sequence"], failed["chain"]) == (index, index)


@pytest.mark.parametrize("index", range(5))
def test_two_records_that_changed_places_are_noticed(log: Path, index: int) -> None:
    frames = raw_frames(log)
    frames[index], frames[index + 1] = frames[index + 1], frames[index]
    replace_frames(log, frames)
    failed = _failed(log)
    assert (failed["sequence"], failed["identity"]) == (index, index)
    assert "chain" in failed


@pytest.mark.parametrize("index", range(6))
def test_a_rewritten_record_is_noticed_even_when_everything_after_it_is_relinked(log: Path, index: int) -> None:
    payloads = _payloads(log)
    payloads[index] = payloads[index].replace(b'"tenant":"', b'"tenant":"x')
    frames, _ = _relinked(payloads)
    replace_frames(log, frames)
    assert _failed(log) == {"head": 5}


def test_a_forger_who_also_rewrites_the_head_is_caught_by_a_checkpoint_kept_elsewhere(
    log: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoint = tmp_path_factory.mktemp("elsewhere") / "head"
    checkpoint.write_bytes((log / HEAD_FILE).read_bytes())
    frames, head = _relinked(_payloads(log)[:3])
    replace_frames(log, frames)
    write_head(log, head)
    assert _failed(log) == {}
    assert not verify(log, checkpoint).ok


def test_an_inserted_duplicate_is_noticed(log: Path) -> None:
    payloads = _payloads(log)
    frames, head = _relinked([*payloads, payloads[2]])
    replace_frames(log, frames)
    write_head(log, head)
    assert _failed(log) == {"identity": 6, "event ids": 6}


def test_bytes_that_are_not_canonical_are_noticed(log: Path) -> None:
    payloads = _payloads(log)
    payloads[1] = payloads[1].replace(b'"tier":"20b"', b'"tier": "20b"')
    payloads[2] = payloads[2].replace(b'"effort"', b'"difficulty":1.0,"effort"')
    payloads[3] = payloads[3].replace(b'"effort"', b'"difficulty":1e+16,"effort"')
    payloads[4] = payloads[4].replace(b'"tier":"20b"', b'"tier":"20b","tier":"20b"')
    frames, head = _relinked(payloads)
    replace_frames(log, frames)
    write_head(log, head)
    [check] = [check for check in verify(log).checks if check.failures]
    assert (check.name, check.failures, check.first_index) == ("schema", 4, 1)


@pytest.mark.parametrize("payload", [b"[1]", b"nonsense", b"{}", b'{"a":NaN}', b"[" * 9000, b"\xc3\x28"])
def test_no_payload_stops_the_verifier(log: Path, payload: bytes) -> None:
    payloads = _payloads(log)
    frames, head = _relinked([*payloads[:3], payload, *payloads[3:]])
    replace_frames(log, frames)
    write_head(log, head)
    assert _failed(log)["schema"] == 3


def test_a_field_outside_the_schema_is_noticed(log: Path) -> None:
    payloads = _payloads(log)
    payloads[1] = payloads[1].replace(b'"data":{', b'"data":{"arguments":"rm -rf /",')
    frames, head = _relinked(payloads)
    replace_frames(log, frames)
    write_head(log, head)
    assert _failed(log) == {"schema": 1}


def test_a_log_that_does_not_begin_with_its_opening_is_noticed(log: Path) -> None:
    frames, head = _relinked([payload.replace(b'"name":"log.opened"', b"") for payload in _payloads(log)[1:]])
    replace_frames(log, frames)
    write_head(log, head)
    assert _failed(log)["epochs"] == 0


def test_a_log_in_mid_write_is_not_broken(log: Path) -> None:
    last = segment_paths(log)[-1]
    last.write_bytes(last.read_bytes() + raw_frames(log)[0][:40])
    report = verify(log)
    assert (report.ok, report.torn_tail_bytes) == (True, 40)


def test_a_missing_head_is_a_finding_unless_a_checkpoint_is_given(log: Path, tmp_path: Path) -> None:
    checkpoint = (log / HEAD_FILE).rename(tmp_path / "kept")
    assert "head" in _failed(log)
    assert verify(log, checkpoint).ok


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"size": -1, "head_hash": ""}', '{"size": true}', "\ud800"])
def test_a_checkpoint_that_is_none_is_unusable(log: Path, content: str) -> None:
    checkpoint = log / "checkpoint"
    checkpoint.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(Unusable):
        verify(log, checkpoint)


@pytest.mark.parametrize("text", ["", "{}", '{"size": true, "head_hash": ""}'])
def test_a_head_that_cannot_be_read_is_a_finding(log: Path, text: str) -> None:
    (log / HEAD_FILE).write_text(text)
    assert "head" in _failed(log)


def test_a_head_of_no_records_is_the_empty_one(log: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for head_hash, ok in ((GENESIS.hex(), True), (D1, False)):
        kept.write_text(json.dumps({"size": 0, "head_hash": head_hash}))
        assert verify(log, kept).ok is ok


def test_a_segment_under_another_name_is_noticed(tmp_path: Path) -> None:
    lay_segments(tmp_path, entries_of(honest()), [(0, 1), (4, 1)])
    second = max((tmp_path / "segments").iterdir())
    second.rename(second.with_name(segment_name(5, 1, 1)))
    assert _failed(tmp_path) == {"sequence": 4}


def test_what_is_no_log_is_unusable(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(Unusable):
            verify(path)


# --- the log's own history ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "size", "head"), [(1, None, None), (0, None, None), (3, 4, None), (3, None, D1)], ids=str
)
def test_an_opening_that_is_recorded_wrongly_is_noticed(
    tmp_path: Path, epoch: int, size: int | None, head: str | None
) -> None:
    before = entries_of([opened(1), route(1), route(2)])
    reached = bytes.fromhex(_head(before).head_hash)
    again = opened(epoch, 3 if size is None else size, reached if head is None else bytes.fromhex(head))
    again = made("log.opened", "again", again.data, tenant="system")
    lay_segments(tmp_path, [*before, *entries_of([route(0)] * 3 + [again])[3:]])
    assert _failed(tmp_path) == {"epochs": 3}


def _head(entries: Sequence[bytes]) -> AuditHead:
    head = GENESIS
    for entry in entries:
        head = link(head, leaf_hash(entry))
    return AuditHead(len(entries), head.hex())


def test_epochs_may_leave_gaps_but_never_fall(tmp_path: Path) -> None:
    before = entries_of([opened(2), route(1)])
    again = opened(7, 2, bytes.fromhex(_head(before).head_hash))
    lay_segments(tmp_path, [*before, *entries_of([route(0), route(0), again])[2:]], [(0, 2), (2, 7)])
    assert _failed(tmp_path) == {}


def test_what_a_fenced_writer_left_behind_is_reported_and_no_finding(tmp_path: Path) -> None:
    entries = entries_of(honest(20))
    lay_segments(tmp_path, entries, [(0, 1), (10, 2)])
    folder = tmp_path / "segments"
    first = min(folder.iterdir())
    late = frames([*entries[:10], *entries_of([route(0)] * 10 + [route(99)])[10:]], 10) + b"torn"
    first.write_bytes(first.read_bytes() + late)
    (folder / segment_name(15, 1, 0)).write_bytes(b"stray")
    report = verify(tmp_path)
    assert report.ok
    assert (report.records, report.segments, report.surplus_bytes) == (len(entries), 2, len(late) + 5)
    # The same bytes within what its successor took over are damage.
    first.write_bytes(frames(entries[:9]) + late)
    assert {"sequence", "chain"} <= set(_failed(tmp_path))


def test_damage_before_a_fence_is_damage(tmp_path: Path) -> None:
    entries = entries_of(honest(20))
    lay_segments(tmp_path, entries, [(0, 1), (10, 2)])
    first = min((tmp_path / "segments").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    assert _failed(tmp_path)["framing"] == 9


def test_seals_beside_segments_are_not_read(tmp_path: Path) -> None:
    lay_segments(tmp_path, entries_of(honest(3)))
    (tmp_path / "segments" / "00000000000000000000-00000000000000000001.seal").write_bytes(b"anything")
    assert verify(tmp_path).ok


# --- checkpoints -------------------------------------------------------------------------------------------------

PINNED = [str(KEY.verifier)]
ALL_PINNED = [*PINNED, *(str(witness.verifier) for witness in WITNESSES)]
OTHER_KEY = generate_key(ORIGIN, ED25519, lambda count: b"\x09" * count)


@pytest.fixture
def entries() -> list[bytes]:
    return entries_of(honest(600))


@pytest.fixture
def sealed(tmp_path: Path, entries: list[bytes]) -> Path:
    """A live log with tiles and a checkpoint of 610 of its records, which both witnesses cosigned."""
    directory = tmp_path / "audit"
    lay_segments(directory, entries, [(0, 1), (200, 1), (400, 1)])
    tree = lay_tiles(directory, entries, [256, 300, 610], WITNESSES)
    (directory / "checkpoint.witnessed").write_bytes(tree.notes[300])
    (directory / "checkpoints.jsonl").write_text(history_line(tree.notes[256]) + history_line(tree.notes[300]))
    return directory


def _checked(directory: Path, *checkpoints: Path, **options: object) -> dict[str, str | None]:
    """The failed checks and their details, under the pinned key."""
    report = verify(directory, checkpoints, keys=PINNED, **options)  # pyright: ignore[reportArgumentType]
    return {check.name: check.detail for check in report.checks if check.failures}


def _root(directory: Path, size: int) -> bytes:
    return Frontier.at(size, TileReader(DirectoryStore(directory)).at(size)).root()


def test_a_sealed_log_is_bound_by_its_checkpoints(sealed: Path) -> None:
    report = verify(sealed, keys=ALL_PINNED)
    assert report.ok
    summary = report.to_json()
    assert (summary["checkpoints"], summary["checkpoint_size"], summary["witnessed_size"]) == (4, 610, 610)
    assert (summary["key_pinned"], summary["witnesses_pinned"]) == (True, True)
    assert [check.name for check in report.checks if check.skipped] == ["receipts", "bodies"]
    unpinned = verify(sealed).to_json()
    assert (unpinned["ok"], unpinned["key_pinned"], unpinned["keys"]) == (True, False, ALL_PINNED)


@pytest.mark.parametrize("place", ["checkpoint", "checkpoint.witnessed", "checkpoints.jsonl", "kept"])
def test_a_checkpoint_of_another_history_is_noticed_wherever_it_lies(sealed: Path, tmp_path: Path, place: str) -> None:
    note = note_of(299, b"\x07" * 32)
    kept = []
    if place == "checkpoints.jsonl":
        (sealed / place).write_text(history_line(note))
    elif place == "kept":
        kept = [tmp_path / "kept"]
        kept[0].write_bytes(note)
    else:
        (sealed / place).write_bytes(note)
    report = verify(sealed, kept, keys=PINNED)
    found = {check.name: check.first_index for check in report.checks if check.failures}
    assert found == {"roots": 298}


@pytest.mark.parametrize("size", [624, 10_000])
def test_a_log_shorter_than_a_checkpoint_is_noticed(sealed: Path, tmp_path: Path, size: int) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(note_of(size, b"\x07" * 32))
    assert f"a checkpoint covers {size}" in str(_checked(sealed, kept)["roots"])


def test_two_checkpoints_of_one_size_and_different_roots_are_a_fork(sealed: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(note_of(300, b"\x07" * 32))
    found = {check.name: check for check in verify(sealed, kept, keys=PINNED).checks if check.failures}
    assert (set(found), found["forks"].first_index) == ({"forks", "roots"}, 299)
    assert "two different trees of 300 records" in str(found["forks"].detail)


@pytest.mark.parametrize(
    ("note", "says"),
    [
        (lambda root: note_of(300, root, OTHER_KEY), "no known key signed"),
        (lambda root: note_of(300, root).replace(b"300", b"301"), "is not good"),
        (lambda root: note_of(300, root, origin="another.example/log"), "of another log"),
        (lambda root: b"nonsense", "cannot be read"),
    ],
)
def test_a_checkpoint_that_the_log_did_not_sign_is_noticed(
    sealed: Path, note: Callable[[bytes], bytes], says: str
) -> None:
    (sealed / "checkpoint.witnessed").write_bytes(note(_root(sealed, 300)))
    assert says in str(_checked(sealed)["signatures"])


def test_a_pinned_key_is_not_replaced_by_the_one_beside_the_log(sealed: Path) -> None:
    # Whoever rewrites the log, its key file and its checkpoint is caught by a key that lies elsewhere.
    note = note_of(610, _root(sealed, 610), OTHER_KEY)
    for name in ("checkpoint", "checkpoint.witnessed"):
        (sealed / name).write_bytes(note)
    (sealed / "checkpoints.jsonl").unlink()
    (sealed / "log.vkey").write_text(f"{OTHER_KEY.verifier}\n")
    assert verify(sealed).ok
    assert "signatures" in _checked(sealed)


def test_a_pinned_key_asks_for_a_checkpoint(tmp_path: Path) -> None:
    lay_segments(tmp_path, entries_of(honest(3)))
    assert verify(tmp_path).ok
    assert "nothing binds the log" in str(_checked(tmp_path)["signatures"])


@pytest.mark.parametrize("text", ["garbage", "\udc80", f"{KEY.verifier}x", f"{KEY.verifier}\x0b"])
def test_a_key_file_that_cannot_be_read_is_a_finding_unless_a_key_is_pinned(sealed: Path, text: str) -> None:
    (sealed / "log.vkey").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "signatures" in _failed(sealed)
    assert verify(sealed, keys=PINNED).ok


def test_a_key_file_that_cannot_be_read_is_a_finding_also_before_the_first_checkpoint(tmp_path: Path) -> None:
    lay_segments(tmp_path, entries_of(honest()))
    (tmp_path / "log.vkey").write_text("garbage")
    assert _failed(tmp_path) == {"signatures": None}
    assert (
        "log.vkey cannot be read" in {check.name: str(check.detail) for check in verify(tmp_path).checks}["signatures"]
    )


@pytest.mark.parametrize("lines", ['{"note": 1, "epoch": 1}\n', "[]\n", '{"epoch": 1, "note": "\\ud800"}\n'])
def test_a_history_line_that_cannot_be_read_is_a_finding_and_a_torn_one_is_not(sealed: Path, lines: str) -> None:
    path = sealed / "checkpoints.jsonl"
    whole = path.read_text()
    path.write_text(whole + lines)
    assert "signatures" in _checked(sealed)
    path.write_text(whole + lines.removesuffix("\n"))
    assert _checked(sealed) == {}


def test_epochs_of_the_history_never_fall(sealed: Path) -> None:
    note = (sealed / "checkpoint").read_bytes()
    (sealed / "checkpoints.jsonl").write_text(history_line(note, 2) + history_line(note, 1))
    assert "the epoch falls" in str(_checked(sealed)["epochs"])


def test_what_was_kept_may_be_a_head_a_note_or_history_lines(sealed: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for data in ((sealed / "head.json").read_bytes(), (sealed / "checkpoints.jsonl").read_bytes()):
        kept.write_bytes(data)
        assert verify(sealed, kept, keys=PINNED).ok
    kept.write_text(history_line(note_of(299, D2.encode()[:32])))
    assert "roots" in _checked(sealed, kept)


# --- cosignatures ------------------------------------------------------------------------------------------------


def _bare(sealed: Path, witnesses: int) -> None:
    """Only the newest checkpoint, with so many cosignatures."""
    (sealed / "checkpoints.jsonl").unlink()
    (sealed / "checkpoint.witnessed").unlink()
    (sealed / "checkpoint").write_bytes(note_of(610, _root(sealed, 610), witnesses=WITNESSES[:witnesses]))


@pytest.mark.parametrize(("have", "quorum", "ok"), [(0, None, False), (1, None, False), (2, None, True), (1, 1, True),
                                                    (0, 1, False), (0, 0, True)])  # fmt: skip
def test_pinned_witnesses_must_have_signed_or_as_many_as_asked_for(
    sealed: Path, have: int, quorum: int | None, ok: bool
) -> None:
    _bare(sealed, have)
    report = verify(sealed, keys=ALL_PINNED, quorum=quorum)
    assert report.ok is ok
    assert {check.name for check in report.checks if check.failures} == (set() if ok else {"cosignatures"})


def test_witnesses_that_nobody_pinned_owe_nothing_but_good_signatures(sealed: Path) -> None:
    _bare(sealed, 0)
    report = verify(sealed, keys=PINNED)
    assert (report.ok, report.witnessed_size) == (True, None)
    assert not verify(sealed, keys=PINNED, quorum=1).ok


def test_a_bad_cosignature_of_a_known_witness_is_noticed(sealed: Path) -> None:
    other = note_of(610, b"\x07" * 32, witnesses=WITNESSES[:1]).splitlines(keepends=True)[-1]
    (sealed / "checkpoint").write_bytes(note_of(610, _root(sealed, 610)) + other)
    assert "is not good" in str(_checked(sealed)["cosignatures"])


# --- tiles -------------------------------------------------------------------------------------------------------

TILES = [tile_path(0, 0), tile_path(0, 1), tile_path(0, 2, 98), tile_path(1, 0, 2), entries_path(0),
         entries_path(2, 98)]  # fmt: skip


@pytest.mark.parametrize("path", TILES)
def test_a_tile_with_another_hash_or_entry_is_noticed(sealed: Path, path: str) -> None:
    file = sealed / path
    data = file.read_bytes()
    for place in (5, len(data) - 1):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert set(_checked(sealed)) == {"tiles"}
    for other in (data[:-32], data + data[-32:], b""):
        file.write_bytes(other)
        assert set(_checked(sealed)) == {"tiles"}


@pytest.mark.parametrize("path", TILES)
def test_a_tile_that_the_checkpoint_needs_is_missed(sealed: Path, path: str) -> None:
    (sealed / path).unlink()
    assert f"{path} is missing" == _checked(sealed)["tiles"]


def test_a_partial_tile_may_be_gone_when_the_full_one_is_there(sealed: Path) -> None:
    (sealed / tile_path(0, 1, 44)).unlink()
    assert verify(sealed).ok


def test_tiles_beyond_the_checkpoint_are_no_finding_while_they_are_right(sealed: Path, entries: list[bytes]) -> None:
    newer = sealed / tile_path(0, 2, 111)
    newer.write_bytes(b"".join(map(leaf_hash, entries[512:623])))
    assert verify(sealed).ok
    newer.write_bytes(newer.read_bytes()[:-1] + b"x")
    assert "tiles" in _failed(sealed)


def test_what_a_crash_left_among_the_tiles_is_passed_over(sealed: Path) -> None:
    (sealed / "tile" / "0" / "002.p" / "98.new").write_bytes(b"half")
    (sealed / "tile" / "0" / "000.new").write_bytes(b"half")
    assert verify(sealed).ok


# --- receipts ----------------------------------------------------------------------------------------------------


def _receipt(path: Path, index: int, leaf: bytes, **more: JsonValue) -> Path:
    path.write_text(json.dumps({"index": index, "leaf_hash": leaf.hex(), **more}))
    return path


def _proof(sealed: Path, index: int, leaf: bytes, size: int = 610) -> InclusionProof:
    note = note_of(size, _root(sealed, size))
    return prove_inclusion(index, leaf, note, TileReader(DirectoryStore(sealed)).at(size))


def test_receipts_and_proofs_of_the_log_are_included(sealed: Path, entries: list[bytes], tmp_path: Path) -> None:
    leaves = [leaf_hash(entry) for entry in entries]
    proof = _proof(sealed, 7, leaves[7]).to_bytes()
    (tmp_path / "proof").write_bytes(proof)
    receipts = [
        _receipt(tmp_path / "last", len(entries) - 1, leaves[-1]),
        _receipt(tmp_path / "reply", 7, leaves[7], proof=proof.decode(), object="audit.receipt"),
        tmp_path / "proof",
    ]
    report = verify(sealed, keys=PINNED, receipts=receipts)
    assert (report.ok, report.receipts) == (True, 3)


def test_a_receipt_of_another_record_is_noticed(sealed: Path, tmp_path: Path) -> None:
    report = verify(sealed, keys=PINNED, receipts=[_receipt(tmp_path / "r", 7, b"\x07" * 32)])
    assert {check.name: check.first_index for check in report.checks if check.failures} == {"receipts": 7}


def test_a_receipt_beyond_the_end_is_noticed(sealed: Path, tmp_path: Path) -> None:
    report = verify(sealed, keys=PINNED, receipts=[_receipt(tmp_path / "r", 700, b"\x07" * 32)])
    assert {check.name: check.first_index for check in report.checks if check.failures} == {"receipts": 700}


def test_a_proof_that_leads_elsewhere_is_noticed(sealed: Path, entries: list[bytes], tmp_path: Path) -> None:
    good = _proof(sealed, 7, leaf_hash(entries[7]))
    path = tmp_path / "proof"
    path.write_bytes(InclusionProof(8, good.hashes, good.checkpoint).to_bytes())
    assert set(_checked(sealed, receipts=[path])) == {"receipts"}
    path.write_bytes(InclusionProof(7, good.hashes, note_of(610, b"\x07" * 32)).to_bytes())
    assert set(_checked(sealed, receipts=[path])) == {"receipts", "roots", "forks"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"index": 1, "leaf_hash": "00"}',
        f'{{"index": true, "leaf_hash": "{D1}"}}',
        f'{{"index": -1, "leaf_hash": "{D1}"}}',
        f'{{"index": 1, "leaf_hash": "{D1}", "proof": "x"}}',
        "c2sp.org/tlog-proof@v1\n",
    ],
)
def test_a_receipt_that_is_none_is_unusable(sealed: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "receipt"
    path.write_text(text)
    with pytest.raises(Unusable):
        verify(sealed, receipts=[path])


def test_an_input_that_is_too_large_is_unusable(sealed: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes((sealed / "checkpoint").read_bytes())
    os.truncate(path, 64 * 2**20 + 1)
    with pytest.raises(Unusable, match="is larger than"):
        verify(sealed, path)


@pytest.mark.parametrize("key", ["", "nonsense", f"{KEY.verifier}x"])
def test_a_key_that_is_none_is_unusable(sealed: Path, key: str) -> None:
    with pytest.raises(Unusable):
        verify(sealed, keys=[key])


# --- bodies, and what else is only wired here --------------------------------------------------------------------


def _with_body(data: bytes) -> AuditEvent:
    body: JsonValue = {"blob": sha256(data).hexdigest(), "key_id": "k1", "bytes": 3, "masked": 0}
    return made("route.decided", "body", {**route(0).data, "prompt_commit": D1, "prompt_body": body})


def test_bodies_beside_the_log_are_looked_up_and_hashed(tmp_path: Path) -> None:
    blob = tmp_path / "bodies" / "1970-01-01" / "k1" / sha256(b"sealed").hexdigest()
    lay_segments(tmp_path, entries_of([opened(), _with_body(b"sealed")]))
    assert verify(tmp_path).bodies is None  # kept nowhere near
    blob.parent.mkdir(parents=True)
    assert _failed(tmp_path) == {"bodies": 1}
    blob.write_bytes(b"sealed")
    report = verify(tmp_path)
    assert (report.ok, report.bodies) == (True, {"present": 1, "shredded": 0, "pruned": 0})
    blob.write_bytes(b"broken")
    assert _failed(tmp_path) == {"bodies": 1}


@pytest.mark.parametrize(("grace_s", "failed"), [(10, {}), (9, {"reports": 9})])
def test_the_grace_for_reports_is_the_callers(tmp_path: Path, grace_s: int, failed: dict[str, int]) -> None:
    late = made("route.decided", "late", route(1).data, at_ms=9_001)
    lay_segments(tmp_path, entries_of([opened(), announced(), *GatedFlow().whole()[:-1], late]))
    report = verify(tmp_path, grace_s=grace_s)
    assert {check.name: check.first_index for check in report.checks if check.failures} == failed


def test_the_meaning_of_records_is_checked_with_their_index(tmp_path: Path) -> None:
    flow = GatedFlow()
    lay_segments(tmp_path, entries_of([opened(), announced(), flow.proposed(), flow.classified(), flow.released()]))
    assert _failed(tmp_path) == {"releases": 4, "plans": 4}


# --- exports -----------------------------------------------------------------------------------------------------


@pytest.fixture
def exported(tmp_path: Path, entries: list[bytes]) -> Path:
    directory = tmp_path / "export"
    lay_export(directory, entries, [1, 256, 610], WITNESSES)
    return directory


def test_an_export_is_verified_like_a_log(exported: Path) -> None:
    report = verify(exported, keys=ALL_PINNED)
    assert report.ok
    assert (report.kind, report.records, report.checkpoints) == ("export", 610, 4)
    assert {check.name for check in report.checks if check.skipped} == {"chain", "head", "receipts", "bodies"}


def test_the_head_of_the_live_log_binds_its_export(exported: Path, entries: list[bytes], tmp_path: Path) -> None:
    kept = tmp_path / "head"
    for size, ok in ((600, True), (610, True), (611, False)):
        kept.write_text(json.dumps({"size": size, "head_hash": _head(entries[:size]).head_hash}))
        assert verify(exported, kept).ok is ok
    kept.write_text(json.dumps({"size": 600, "head_hash": D1}))
    assert not verify(exported, kept).ok


@pytest.mark.parametrize("path", [entries_path(0), entries_path(2, 98)])
def test_a_bundle_that_is_missing_or_cut_off_is_noticed(exported: Path, path: str) -> None:
    data = (exported / path).read_bytes()
    (exported / path).write_bytes(data[:-1])
    assert {"framing", "roots", "tiles"} <= set(_failed(exported)) | {"tiles"}
    (exported / path).unlink()
    assert "is missing" in {check.name: str(check.detail) for check in verify(exported).checks}["framing"]


def test_a_full_bundle_stands_for_the_partial_one(tmp_path: Path, entries: list[bytes]) -> None:
    tree = lay_export(tmp_path, entries, [500, 512])
    (tmp_path / "checkpoint").write_bytes(tree.notes[500])
    (tmp_path / "checkpoints" / f"{512:020d}").unlink()
    for path in (entries_path(1, 244), tile_path(0, 1, 244)):
        (tmp_path / path).unlink()
    report = verify(tmp_path)
    assert (report.ok, report.records) == (True, 500)


def test_a_bundle_with_too_few_entries_is_noticed(exported: Path) -> None:
    bundle = exported / entries_path(2, 98)
    whole = parse_bundle(bundle.read_bytes())
    bundle.write_bytes(bundle.read_bytes()[: -2 - len(whole[-1])])
    assert _failed(exported)["framing"] == 512


def test_a_rewritten_export_is_noticed_by_its_other_checkpoints(exported: Path, entries: list[bytes]) -> None:
    forged = [*entries[:100], edited(entries[100], lambda record: record.update(tenant="other")), *entries[101:]]
    for path in (exported / "tile").rglob("*"):
        if path.is_file():
            path.unlink()
    lay_tiles(exported, forged, [610])
    report = verify(exported, keys=PINNED)
    found = {check.name: check.first_index for check in report.checks if check.failures}
    assert set(found) == {"roots", "forks"}


def test_an_exported_checkpoint_under_another_name_is_noticed(exported: Path) -> None:
    (exported / "checkpoints" / f"{256:020d}").rename(exported / "checkpoints" / f"{255:020d}")
    assert "checkpoint of 256 records" in str(_checked(exported)["signatures"])


def test_an_export_without_any_signature_that_counts_is_read_all_the_same(exported: Path) -> None:
    (exported / "log.vkey").unlink()
    report = verify(exported)
    assert (report.ok, report.records) == (False, 610)
    assert [check.name for check in report.checks if check.failures] == ["signatures"]


def test_an_export_of_nothing_is_sound(tmp_path: Path) -> None:
    lay_export(tmp_path, [], [0])
    assert verify(tmp_path, keys=PINNED).ok


# --- any damage at all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_stops_the_verifier_and_none_to_records_or_tiles_goes_unseen(sealed: Path, seed: int) -> None:
    rng = random.Random(seed)
    files = sorted(path for path in sealed.rglob("*") if path.is_file())
    for _ in range(50):
        path = rng.choice(files)
        data = path.read_bytes()
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        cut = rng.randrange(4) == 0
        path.write_bytes(data[: rng.randrange(len(data))] if cut else damaged)
        report = verify(sealed, keys=PINNED)
        if path.relative_to(sealed).parts[0] in {"segments", "tile"}:
            assert not report.ok, (path, cut)
        path.write_bytes(data)


# --- as a tool ---------------------------------------------------------------------------------------------------


def test_the_verifier_loads_neither_ray_nor_a_server() -> None:
    code = (
        "import sys, deployments.audit.verify, deployments.audit.read; "
        "print([name for name in ('ray', 'fastapi', 'sqlalchemy', 'pydantic', 'vllm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
