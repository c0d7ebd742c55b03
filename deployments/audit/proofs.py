"""Evidence that stands alone: what somebody with a receipt and pinned keys can check, without us and without network.

- An *inclusion proof* shows that a record is in the tree of a signed checkpoint. Its text is C2SP
  `c2sp.org/tlog-proof@v1`; files are named `*.tlog-proof`.
- A *consistency statement* shows that the tree of one signed checkpoint begins with the tree of another: nothing was
  removed or rewritten between them. C2SP has no text for two checkpoints, so it is JSON of our own,
  `gatehouse.audit-consistency/1`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from deployments.audit.merkle import (
    HASH_BYTES,
    MAX_PROOF_HASHES,
    HashAt,
    consistency_proof,
    inclusion_proof,
    verify_consistency,
    verify_inclusion,
)
from deployments.audit.notes import (
    COSIGNATURE_V1,
    ED25519,
    MAX_NOTE_BYTES,
    BadNote,
    Checkpoint,
    Verified,
    VerifierKey,
    decode_base64,
    decode_decimal,
    encode_base64,
    parse_checkpoint,
    parse_note,
    verify_note,
)

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
CONSISTENCY_SCHEMA = "gatehouse.audit-consistency/1"
MAX_EXTRA_BYTES = 65_536
_MAX_PROOF_BYTES = MAX_NOTE_BYTES + 2 * MAX_EXTRA_BYTES
_MAX_STATEMENT_BYTES = 3 * MAX_NOTE_BYTES
_MAX_HASHES = MAX_PROOF_HASHES + 1


class BadProof(ValueError):
    """The proof does not show what it claims, or cannot be read."""


# --- checkpoints that count --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a verifier believes: one log by its pinned keys, and `quorum` of the named witnesses.

    Several log keys are one log whose key was changed: each alone will do. `ValueError` for keys that cannot bear that.
    """

    origin: str
    log_keys: tuple[VerifierKey, ...]
    witnesses: tuple[VerifierKey, ...] = ()
    quorum: int = 0

    def __post_init__(self) -> None:
        # A cosignature does not cover its signer's name, so one key under two names is one witness.
        log, witnesses = _public(self.log_keys), _public(self.witnesses)
        if not log or any(key.algorithm != ED25519 for key in self.log_keys):
            raise ValueError("a log is trusted by at least one Ed25519 key")
        if any(key.algorithm != COSIGNATURE_V1 for key in self.witnesses):
            raise ValueError("a witness is trusted by its cosignature key")
        if log & witnesses or len(witnesses) != len(self.witnesses):
            raise ValueError("log and witnesses have keys of their own")
        if not 0 <= self.quorum <= len(witnesses):
            raise ValueError("the quorum is between 0 and the number of witnesses")


def _public(keys: Sequence[VerifierKey]) -> set[bytes]:
    return {key.public_key for key in keys}


@dataclass(frozen=True, slots=True)
class TrustedCheckpoint:
    """A checkpoint that the log and enough witnesses signed. `witnessed` are the good cosignatures and their times."""

    checkpoint: Checkpoint
    witnessed: tuple[Verified, ...]


def verify_checkpoint(data: bytes, trust: Trust) -> TrustedCheckpoint:
    """The checkpoint in a signed note, or `BadProof`."""
    try:
        # 1. A note; every signature by a pinned key is good.
        note = parse_note(data)
        verified = verify_note(note, (*trust.log_keys, *trust.witnesses))
        # 2. The log's is among them, and enough witnesses'.
        if not any(found.key in trust.log_keys for found in verified):
            raise BadProof("the log did not sign the checkpoint")
        witnessed = tuple(found for found in verified if found.key in trust.witnesses)
        if len(witnessed) < trust.quorum:
            raise BadProof(f"{len(witnessed)} of {trust.quorum} witnesses signed the checkpoint")
        # 3. It is a head of this log.
        checkpoint = parse_checkpoint(note.text)
    except BadNote as error:
        raise BadProof(f"the checkpoint does not count: {error}") from error
    if checkpoint.origin != trust.origin:
        raise BadProof("the checkpoint is of another log")
    return TrustedCheckpoint(checkpoint, witnessed)


def _checkpoint_of(data: bytes) -> Checkpoint:
    """The checkpoint in a note of our own, unverified; `BadNote`."""
    return parse_checkpoint(parse_note(data).text)


# --- inclusion ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That leaf `index` is in the tree of `checkpoint`, a signed note.

    `extra` is for whoever files the proof. Nobody signed it: never trust it.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes = b""

    def to_bytes(self) -> bytes:
        """The proof in the text of C2SP tlog-proof."""
        lines = [PROOF_HEADER]
        if self.extra:
            lines.append(f"extra {encode_base64(self.extra)}")
        lines += [f"index {self.index}", *map(encode_base64, self.hashes), "", ""]
        return "\n".join(lines).encode() + self.checkpoint


def parse_inclusion_proof(data: bytes) -> InclusionProof:
    """The proof in a tlog-proof text, nothing verified, or `BadProof`."""
    if len(data) > _MAX_PROOF_BYTES:
        raise BadProof(f"a proof has at most {_MAX_PROOF_BYTES} bytes")
    # The first empty line ends the proof; what follows is the checkpoint, byte for byte.
    head, gap, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise BadProof("the lines of a proof are ASCII") from error
    if not gap or lines.pop(0) != PROOF_HEADER:
        raise BadProof(f"a proof begins with '{PROOF_HEADER}' and has an empty line before its checkpoint")
    extra = b""
    if lines and lines[0].startswith("extra "):
        extra = decode_base64(lines.pop(0).removeprefix("extra ")) or b""
        if not 0 < len(extra) <= MAX_EXTRA_BYTES:
            raise BadProof(f"extra data is base64 of 1 to {MAX_EXTRA_BYTES} bytes")
    index = decode_decimal(lines.pop(0).removeprefix("index ")) if lines and lines[0].startswith("index ") else None
    if index is None:
        raise BadProof("a proof has a line 'index', a space and a decimal number")
    return InclusionProof(index, _decode_hashes(lines), checkpoint, extra)


def _decode_hashes(texts: Sequence[str]) -> tuple[bytes, ...]:
    hashes = [decode_base64(text) for text in texts]
    if len(hashes) > _MAX_HASHES or any(found is None or len(found) != HASH_BYTES for found in hashes):
        raise BadProof(f"the hashes of a proof are the base64 of {HASH_BYTES} bytes, at most {_MAX_HASHES} of them")
    return tuple(found for found in hashes if found is not None)


def prove_inclusion(index: int, leaf: bytes, checkpoint: bytes, hash_at: HashAt) -> InclusionProof:
    """The proof that `leaf` has place `index` in the tree of a signed note of our own.

    `hash_at` answers for that tree. `ValueError` when the index is not in it; `BadProof` when its hashes do not lead
    from the leaf to the signed root: the stored tiles are damaged, and nothing wrong leaves.
    """
    head = _checkpoint_of(checkpoint)
    hashes = inclusion_proof(index, head.size, hash_at)
    if not verify_inclusion(index, head.size, leaf, hashes, head.root):
        raise BadProof("the tree does not lead from the leaf to the checkpoint's root")
    return InclusionProof(index, tuple(hashes), checkpoint)


def verify_inclusion_proof(proof: InclusionProof, index: int, leaf: bytes, trust: Trust) -> TrustedCheckpoint:
    """The checkpoint under which a receipt, `leaf` at `index`, is proven; or `BadProof`.

    `leaf` is the receipt's 32 bytes, or `merkle.leaf_hash` of the record itself.
    """
    # 1. The checkpoint counts.
    trusted = verify_checkpoint(proof.checkpoint, trust)
    # 2. The proof is about the receipt.
    if proof.index != index:
        raise BadProof("the proof is about another index than the receipt")
    # 3. The leaf is in the tree, at its place.
    head = trusted.checkpoint
    if not verify_inclusion(index, head.size, leaf, proof.hashes, head.root):
        raise BadProof("the leaf is not in the checkpoint's tree at this index")
    return trusted


# --- consistency -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConsistencyStatement:
    """That the tree of `new` begins with the tree of `old`; both are signed notes."""

    old: bytes
    new: bytes
    hashes: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The statement as JSON: `schema`, the two notes as texts, and the hashes in base64."""
        statement = {
            "schema": CONSISTENCY_SCHEMA,
            "old": self.old.decode(),
            "new": self.new.decode(),
            "hashes": [encode_base64(found) for found in self.hashes],
        }
        return json.dumps(statement, ensure_ascii=False, indent=1).encode() + b"\n"


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadProof("a field of the statement occurs twice")
    return fields


def parse_consistency(data: bytes) -> ConsistencyStatement:
    """The statement in a JSON text, nothing verified, or `BadProof`."""
    if len(data) > _MAX_STATEMENT_BYTES:
        raise BadProof(f"a statement has at most {_MAX_STATEMENT_BYTES} bytes")
    try:
        found: object = json.loads(data.decode(), object_pairs_hook=_once)
    except BadProof:
        raise
    except (ValueError, RecursionError) as error:
        raise BadProof("the statement is not JSON") from error
    fields = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    if set(fields) != {"schema", "old", "new", "hashes"} or fields["schema"] != CONSISTENCY_SCHEMA:
        raise BadProof(f"the statement does not have exactly the fields of {CONSISTENCY_SCHEMA}")
    hashes = fields["hashes"]
    if not isinstance(hashes, list):
        raise BadProof("'hashes' is not a list of texts")
    texts = [_text("hashes", item) for item in cast("list[object]", hashes)]
    old, new = _text("old", fields["old"]), _text("new", fields["new"])
    try:
        return ConsistencyStatement(old.encode(), new.encode(), _decode_hashes(texts))
    except UnicodeEncodeError as error:
        raise BadProof("a checkpoint of the statement has no UTF-8 form") from error


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadProof(f"'{name}' of the statement is not text")
    return value


def prove_consistency(old: bytes, new: bytes, hash_at: HashAt) -> ConsistencyStatement:
    """The statement that the tree of one signed note of our own begins with that of another.

    `hash_at` answers for the tree of `new`. `ValueError` when `old` is the larger one; `BadProof` when the hashes do
    not lead to both roots: the stored tiles are damaged, or the log is not what it was.
    """
    before, after = _checkpoint_of(old), _checkpoint_of(new)
    hashes = consistency_proof(before.size, after.size, hash_at)
    if not verify_consistency(before.size, after.size, before.root, after.root, hashes):
        raise BadProof("the tree does not lead to both checkpoints' roots")
    return ConsistencyStatement(old, new, tuple(hashes))


def verify_consistency_statement(statement: ConsistencyStatement, trust: Trust) -> tuple[Checkpoint, Checkpoint]:
    """The older and the newer checkpoint, shown to be of one history; or `BadProof`."""
    # 1. Both checkpoints count.
    old = verify_checkpoint(statement.old, trust).checkpoint
    new = verify_checkpoint(statement.new, trust).checkpoint
    # 2. The log signed no two histories. Two roots for one size need no proof: the notes themselves are the evidence.
    if old.size == new.size and old.root != new.root:
        raise BadProof("the log signed two different trees of one size")
    if not verify_consistency(old.size, new.size, old.root, new.root, statement.hashes):
        raise BadProof("the newer checkpoint's tree does not begin with the older one's")
    return old, new
