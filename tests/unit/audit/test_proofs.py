"""Proofs that stand alone: a receipt, pinned keys and a text must be enough, and nothing less."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.audit.merkle import HashAt, leaf_hash
from deployments.audit.notes import (
    COSIGNATURE_V1,
    ED25519,
    BadNote,
    Checkpoint,
    Note,
    SignerKey,
    cosign,
    encode_base64,
    format_checkpoint,
    sign,
)
from deployments.audit.proofs import (
    BadProof,
    ConsistencyStatement,
    Trust,
    parse_consistency,
    parse_inclusion_proof,
    prove_consistency,
    prove_inclusion,
    verify_checkpoint,
    verify_consistency_statement,
    verify_inclusion_proof,
)
from deployments.audit.tiles import TileReader, TileWriter

ORIGIN = "example.com/log"
LOG = SignerKey(ORIGIN, ED25519, bytes(range(32)))
NEXT_LOG = SignerKey(ORIGIN, ED25519, bytes(range(1, 33)))
W1 = SignerKey("example.org/w1", COSIGNATURE_V1, bytes(range(2, 34)))
W2 = SignerKey("example.net/w2", COSIGNATURE_V1, bytes(range(3, 35)))
TRUST = Trust(ORIGIN, (LOG.verifier,))
WITNESSED = Trust(ORIGIN, (LOG.verifier,), (W1.verifier, W2.verifier), quorum=1)
TIME_S = 1_700_000_000
SIZE = 300


class Log:
    """A log of `SIZE` entries, its tiles in a dict, and its signed checkpoints."""

    def __init__(self, *entries: bytes) -> None:
        self.entries = entries or tuple(b"entry %d" % number for number in range(SIZE))
        self.leaves = [leaf_hash(entry) for entry in self.entries]
        self.files: dict[str, bytes] = {}
        self.roots: list[bytes] = []
        writer = TileWriter()
        for entry, leaf in zip(self.entries, self.leaves, strict=True):
            self.roots.append(writer.root())
            self.files.update(writer.append(entry, leaf))
        self.roots.append(writer.root())
        self.files.update(writer.partials())
        self.at = TileReader(self).at(len(self.entries))

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def write(self, path: str, data: bytes) -> None:
        raise NotImplementedError

    def checkpoint(self, size: int, *keys: SignerKey, origin: str = ORIGIN) -> bytes:
        text = format_checkpoint(Checkpoint(origin, size, self.roots[size]))
        signatures = (
            sign(text, key) if key.algorithm == ED25519 else cosign(text, key, TIME_S) for key in keys or (LOG,)
        )
        return Note(text, tuple(signatures)).to_bytes()


HISTORY = Log()
HEAD = HISTORY.checkpoint(SIZE)
PROOF = prove_inclusion(70, HISTORY.leaves[70], HEAD, HISTORY.at)


def _flips(data: bytes) -> list[bytes]:
    return [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at in range(len(data)) for bit in range(8)]


# --- trust ---


def test_a_checkpoint_of_the_pinned_log_counts() -> None:
    trusted = verify_checkpoint(HEAD, TRUST)
    assert (trusted.checkpoint, trusted.witnessed) == (Checkpoint(ORIGIN, SIZE, HISTORY.roots[SIZE]), ())


def test_a_log_may_change_its_key() -> None:
    trust = Trust(ORIGIN, (LOG.verifier, NEXT_LOG.verifier))
    for keys in ((LOG,), (NEXT_LOG,), (LOG, NEXT_LOG)):
        assert verify_checkpoint(HISTORY.checkpoint(5, *keys), trust).checkpoint.size == 5
    with pytest.raises(BadProof, match="no known key"):
        verify_checkpoint(HISTORY.checkpoint(5, NEXT_LOG), TRUST)


def test_another_logs_checkpoint_does_not_count_even_with_the_key() -> None:
    with pytest.raises(BadProof, match="another log"):
        verify_checkpoint(HISTORY.checkpoint(5, origin="example.com/other"), TRUST)


def test_witnesses_do_not_stand_in_for_the_log() -> None:
    with pytest.raises(BadProof, match="did not sign"):
        verify_checkpoint(HISTORY.checkpoint(5, W1, W2), WITNESSED)


def test_the_quorum_counts_different_witnesses() -> None:
    both = replace(WITNESSED, quorum=2)
    assert len(verify_checkpoint(HISTORY.checkpoint(5, LOG, W1, W2), both).witnessed) == 2
    assert verify_checkpoint(HISTORY.checkpoint(5, LOG, W2), WITNESSED).witnessed[0].time_s == TIME_S
    for keys in ((LOG,), (LOG, W1), (LOG, W1, W1)):
        with pytest.raises(BadProof, match="of 2 witnesses"):
            verify_checkpoint(HISTORY.checkpoint(5, *keys), both)


def test_a_bad_cosignature_spoils_a_checkpoint_that_needs_none() -> None:
    note = HISTORY.checkpoint(5, LOG, W1)
    other = HISTORY.checkpoint(6, LOG, W1)
    spoilt = b"\n".join([*note.split(b"\n")[:-2], other.split(b"\n")[-2], b""])
    assert verify_checkpoint(spoilt, TRUST).checkpoint.size == 5
    with pytest.raises(BadProof, match="not good"):
        verify_checkpoint(spoilt, replace(WITNESSED, quorum=0))


def test_one_key_is_not_two_parties() -> None:
    log, w1 = LOG.verifier, W1.verifier
    for wrong in (
        lambda: Trust(ORIGIN, ()),
        lambda: Trust(ORIGIN, (w1,)),
        lambda: Trust(ORIGIN, (log,), (log,)),
        lambda: Trust(ORIGIN, (log,), (w1, replace(w1, name="another.name"))),
        lambda: Trust(ORIGIN, (log,), (replace(log, algorithm=COSIGNATURE_V1),)),
        lambda: Trust(ORIGIN, (log,), (w1,), quorum=2),
        lambda: Trust(ORIGIN, (log,), (w1,), quorum=-1),
    ):
        with pytest.raises(ValueError, match=r"trusted|keys of their own|quorum"):
            wrong()


# --- inclusion ---


def test_every_receipt_is_proven_under_every_later_checkpoint() -> None:
    for size in (1, 2, 255, 256, 257, SIZE):
        checkpoint, at = HISTORY.checkpoint(size), TileReader(HISTORY)
        # Tiles of the full log serve its earlier sizes too.
        for index in {0, size // 2, size - 1}:
            proof = prove_inclusion(index, HISTORY.leaves[index], checkpoint, _at(at, size))
            again = parse_inclusion_proof(proof.to_bytes())
            assert again == proof
            trusted = verify_inclusion_proof(again, index, leaf_hash(HISTORY.entries[index]), TRUST)
            assert trusted.checkpoint.size == size


def _at(reader: TileReader, size: int) -> HashAt:
    whole = reader.at(SIZE)

    def at(level: int, index: int) -> bytes:
        assert (index + 1) << level <= size
        return whole(level, index)

    return at


def test_a_proof_has_the_text_of_the_specification() -> None:
    first, *others = PROOF.to_bytes().decode().split("\n\n", 1)
    assert first.split("\n") == ["c2sp.org/tlog-proof@v1", "index 70", *map(encode_base64, PROOF.hashes)]
    assert others == [HEAD.decode()]


def test_a_log_of_one_record_needs_no_hashes() -> None:
    log = Log(b"only")
    proof = prove_inclusion(0, log.leaves[0], log.checkpoint(1), log.at)
    assert proof.to_bytes().startswith(b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + ORIGIN.encode())
    verify_inclusion_proof(parse_inclusion_proof(proof.to_bytes()), 0, log.leaves[0], TRUST)


def test_extra_data_travels_and_changes_nothing() -> None:
    proof = replace(PROOF, extra=b"\x00whatever")
    lines = proof.to_bytes().split(b"\n")
    assert lines[1] == b"extra " + encode_base64(b"\x00whatever").encode()
    again = parse_inclusion_proof(proof.to_bytes())
    assert again == proof
    verify_inclusion_proof(again, 70, HISTORY.leaves[70], TRUST)


def test_a_proof_with_one_bit_changed_anywhere_is_refused() -> None:
    data = PROOF.to_bytes()
    verify_inclusion_proof(parse_inclusion_proof(data), 70, HISTORY.leaves[70], TRUST)
    for changed in _flips(data):
        with pytest.raises(BadProof):
            verify_inclusion_proof(parse_inclusion_proof(changed), 70, HISTORY.leaves[70], TRUST)


def test_a_receipt_with_one_bit_changed_is_refused() -> None:
    for leaf in _flips(HISTORY.leaves[70]):
        with pytest.raises(BadProof, match="not in the checkpoint's tree"):
            verify_inclusion_proof(PROOF, 70, leaf, TRUST)


def test_a_proof_about_another_receipt_is_refused() -> None:
    with pytest.raises(BadProof, match="another index"):
        verify_inclusion_proof(PROOF, 71, HISTORY.leaves[71], TRUST)
    with pytest.raises(BadProof, match="not in the checkpoint's tree"):
        verify_inclusion_proof(PROOF, 70, HISTORY.leaves[71], TRUST)
    with pytest.raises(BadProof, match="not in the checkpoint's tree"):
        verify_inclusion_proof(replace(PROOF, index=71), 71, HISTORY.leaves[70], TRUST)


def test_a_proof_under_another_checkpoint_is_refused() -> None:
    other = replace(PROOF, checkpoint=HISTORY.checkpoint(SIZE - 1))
    with pytest.raises(BadProof, match="not in the checkpoint's tree"):
        verify_inclusion_proof(other, 70, HISTORY.leaves[70], TRUST)


def test_a_proof_that_nobody_signed_is_refused() -> None:
    with pytest.raises(BadProof, match="no known key"):
        verify_inclusion_proof(PROOF, 70, HISTORY.leaves[70], Trust(ORIGIN, (NEXT_LOG.verifier,)))


def test_a_proof_needs_the_quorum_of_witnesses() -> None:
    leaf = HISTORY.leaves[70]
    with pytest.raises(BadProof, match="0 of 1 witnesses"):
        verify_inclusion_proof(PROOF, 70, leaf, WITNESSED)
    witnessed = prove_inclusion(70, leaf, HISTORY.checkpoint(SIZE, LOG, W1), HISTORY.at)
    assert verify_inclusion_proof(witnessed, 70, leaf, WITNESSED).witnessed[0].key == W1.verifier


def test_damaged_tiles_prove_nothing() -> None:
    log = Log()
    path = "tile/0/000"
    for at in (0, 69 * 32, 71 * 32, 8191):  # siblings on the way up
        data = log.files[path]
        log.files[path] = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(BadProof, match="does not lead"):
            prove_inclusion(70, HISTORY.leaves[70], HEAD, TileReader(log).at(SIZE))
        log.files[path] = data


def test_a_leaf_outside_the_checkpoint_is_not_proven() -> None:
    with pytest.raises(ValueError, match="index is not in the tree"):
        prove_inclusion(SIZE, HISTORY.leaves[0], HEAD, HISTORY.at)


def test_what_is_not_a_checkpoint_proves_nothing() -> None:
    text = "hello\n"
    with pytest.raises(BadNote):
        prove_inclusion(0, HISTORY.leaves[0], Note(text, (sign(text, LOG),)).to_bytes(), HISTORY.at)


HASH = encode_base64(bytes(32))


@pytest.mark.parametrize(
    "head",
    [
        "",
        "c2sp.org/tlog-proof@v1",
        "c2sp.org/tlog-proof@v2\nindex 0",
        "index 0",
        "c2sp.org/tlog-proof@v1\nindex",
        "c2sp.org/tlog-proof@v1\nindex ",
        "c2sp.org/tlog-proof@v1\nindex 00",
        "c2sp.org/tlog-proof@v1\nindex -1",
        "c2sp.org/tlog-proof@v1\nindex 1 ",
        f"c2sp.org/tlog-proof@v1\nindex {2**63}",
        "c2sp.org/tlog-proof@v1\r\nindex 0",
        "c2sp.org/tlog-proof@v1\nextra \nindex 0",
        "c2sp.org/tlog-proof@v1\nextra ????\nindex 0",
        "c2sp.org/tlog-proof@v1\nextra AAAA\nextra AAAA\nindex 0",
        "c2sp.org/tlog-proof@v1\nindex 0\nextra AAAA",
        f"c2sp.org/tlog-proof@v1\nindex 0\n{HASH[:-1]}",
        f"c2sp.org/tlog-proof@v1\nindex 0\n{HASH} ",
        f"c2sp.org/tlog-proof@v1\nindex 0\n{encode_base64(bytes(31))}",
        "c2sp.org/tlog-proof@v1\nindex 0" + f"\n{HASH}" * 65,
        "c2sp.org/tlog-proof@v1\nindex 0\né",
        "c2sp.org/tlog-proof@v1\nextra " + "AAAA" * 30_000 + "\nindex 0",
        "c2sp.org/tlog-proof@v1\nextra " + "AAAA" * 200_000 + "\nindex 0",
    ],
)
def test_a_malformed_proof_is_refused(head: str) -> None:
    with pytest.raises(BadProof):
        parse_inclusion_proof(f"{head}\n\n".encode() + HEAD)


def test_a_proof_larger_than_the_limit_is_refused() -> None:
    with pytest.raises(BadProof, match="at most"):
        parse_inclusion_proof(PROOF.to_bytes() + b"x" * 500_000)


def test_a_proof_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(BadProof):
        parse_inclusion_proof(b"c2sp.org/tlog-proof@v1\nindex 0\n")
    with pytest.raises(BadProof):
        verify_inclusion_proof(
            parse_inclusion_proof(b"c2sp.org/tlog-proof@v1\nindex 0\n\n"), 0, HISTORY.leaves[0], TRUST
        )


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_are_refused_or_are_the_proof_they_spell(head: bytes, tail: bytes) -> None:
    for data in (head, b"c2sp.org/tlog-proof@v1\nindex " + head + b"\n\n" + tail):
        try:
            proof = parse_inclusion_proof(data)
        except BadProof:
            continue
        assert proof.to_bytes() == data
        with pytest.raises(BadProof):
            verify_inclusion_proof(proof, proof.index, HISTORY.leaves[0], TRUST)


# --- consistency ---


def _statement(old: int, new: int = SIZE) -> ConsistencyStatement:
    return prove_consistency(HISTORY.checkpoint(old), HISTORY.checkpoint(new), HISTORY.at)


@pytest.mark.parametrize("old", [0, 1, 2, 255, 256, 257, SIZE - 1, SIZE])
def test_two_checkpoints_of_one_history_are_shown_to_be_so(old: int) -> None:
    statement = _statement(old)
    again = parse_consistency(statement.to_bytes())
    assert again == statement
    before, after = verify_consistency_statement(again, TRUST)
    assert (before.size, after.size) == (old, SIZE)


def test_a_statement_is_json_of_fixed_form() -> None:
    statement = _statement(SIZE)
    note = HISTORY.checkpoint(SIZE).decode()
    expected = {"schema": "gatehouse.audit-consistency/1", "old": note, "new": note, "hashes": []}
    assert json.loads(statement.to_bytes()) == expected


def test_a_statement_with_one_bit_changed_anywhere_is_refused_or_means_the_same() -> None:
    statement = _statement(70)
    for changed in _flips(statement.to_bytes()):
        try:
            found = parse_consistency(changed)
            verify_consistency_statement(found, TRUST)
        except BadProof:
            continue
        assert found == statement  # JSON may be laid out differently


def test_a_statement_with_one_bit_of_its_hashes_changed_is_refused() -> None:
    statement = _statement(70)
    assert len(statement.hashes) > 5
    for number, found in enumerate(statement.hashes):
        for changed in _flips(found):
            hashes = (*statement.hashes[:number], changed, *statement.hashes[number + 1 :])
            with pytest.raises(BadProof, match="does not begin with"):
                verify_consistency_statement(replace(statement, hashes=hashes), TRUST)


def test_a_rewritten_history_cannot_be_stated() -> None:
    rewritten = Log(*(b"rewritten" if entry == b"entry 5" else entry for entry in HISTORY.entries))
    old, new = HISTORY.checkpoint(100), rewritten.checkpoint(SIZE)
    for log in (HISTORY, rewritten):
        with pytest.raises(BadProof, match="does not lead to both"):
            prove_consistency(old, new, log.at)
    for hashes in (_statement(100).hashes, prove_consistency(rewritten.checkpoint(100), new, rewritten.at).hashes):
        with pytest.raises(BadProof, match="does not begin with"):
            verify_consistency_statement(ConsistencyStatement(old, new, hashes), TRUST)


def test_two_roots_for_one_size_are_called_what_they_are() -> None:
    rewritten = Log(*HISTORY.entries[:-1], b"rewritten")
    statement = ConsistencyStatement(HISTORY.checkpoint(SIZE), rewritten.checkpoint(SIZE), ())
    with pytest.raises(BadProof, match="two different trees"):
        verify_consistency_statement(statement, TRUST)


def test_a_statement_towards_a_smaller_tree_is_refused() -> None:
    with pytest.raises(ValueError, match="old size"):
        _statement(SIZE, 70)
    statement = _statement(70)
    with pytest.raises(BadProof, match="does not begin with"):
        verify_consistency_statement(replace(statement, old=statement.new, new=statement.old), TRUST)


@pytest.mark.parametrize("side", ["old", "new"])
def test_both_checkpoints_of_a_statement_must_count(side: str) -> None:
    unsigned = HISTORY.checkpoint({"old": 70, "new": SIZE}[side], NEXT_LOG)
    with pytest.raises(BadProof, match="no known key"):
        verify_consistency_statement(replace(_statement(70), **{side: unsigned}), TRUST)


FIELDS = json.loads(_statement(70).to_bytes())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        json.dumps({**FIELDS, "schema": "gatehouse.audit-consistency/2"}),
        json.dumps({**FIELDS, "more": 1}),
        json.dumps({name: value for name, value in FIELDS.items() if name != "new"}),
        json.dumps({**FIELDS, "hashes": HASH}),
        json.dumps({**FIELDS, "hashes": [1]}),
        json.dumps({**FIELDS, "hashes": [HASH[:-1]]}),
        json.dumps({**FIELDS, "hashes": [HASH] * 65}),
        json.dumps({**FIELDS, "old": None}),
        json.dumps({**FIELDS, "new": ["text"]}),
        json.dumps({**FIELDS, "new": "\ud800"}),
        json.dumps(FIELDS)[:-1] + ', "old": "another"}',
        json.dumps(FIELDS) + " " * 1_000_000,
        '{"schema": ' + "1" * 5_000 + "}",
    ],
)
def test_a_malformed_statement_is_refused(text: str) -> None:
    with pytest.raises(BadProof):
        parse_consistency(text.encode())


def test_a_statement_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(BadProof):
        parse_consistency(b"\xff" + _statement(70).to_bytes())
