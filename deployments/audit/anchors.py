"""What a log is held against: heads, signed checkpoints, receipts, and the keys that make them count.

The verifier collects them before it reads a record, from the log's own directory and from what the caller kept
elsewhere. Those of the directory find accidents; those of the caller bind whoever wrote the directory.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from deployments.audit.head import BadHead, parse_head
from deployments.audit.layout import CHECKPOINT_FILE, CHECKPOINTS_DIR, HISTORY_FILE, KEYS_FILE, WITNESSED_FILE
from deployments.audit.merkle import HASH_BYTES, verify_inclusion
from deployments.audit.notes import (
    ED25519,
    BadKey,
    BadNote,
    Checkpoint,
    Note,
    VerifierKey,
    parse_checkpoint,
    parse_note,
    parse_verifier_key,
    verify_note,
)
from deployments.audit.proofs import PROOF_HEADER, BadProof, InclusionProof, parse_inclusion_proof
from deployments.audit.semantics import Check
from deployments.ports import AuditHead

_MAX_INPUT_BYTES = 64 * 2**20


class Unusable(Exception):
    """There is nothing to verify: no log at the path, or an input that is not what it is said to be."""


# --- keys --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keys:
    """Whose signatures count. Pinned: the caller brought them; otherwise they lie beside the log they vouch for."""

    log: tuple[VerifierKey, ...]
    witnesses: tuple[VerifierKey, ...]
    log_pinned: bool
    witnesses_pinned: bool
    problem: str | None = None


def find_keys(directory: Path | None, pinned: Sequence[str]) -> Keys:
    """The pinned keys, and for the log or the witnesses without any, those of `log.vkey`. `Unusable`, `OSError`."""
    try:
        brought = [parse_verifier_key(text.strip()) for text in pinned]
    except BadKey as error:
        raise Unusable(f"a --key is not a verifier key: {error}.") from error
    lying: list[VerifierKey] = []
    problem: str | None = None
    try:
        text = "" if directory is None else (directory / KEYS_FILE).read_bytes().decode("utf-8", "replace")
        lying = [parse_verifier_key(line) for line in text.split("\n") if line]
    except FileNotFoundError:
        pass
    except BadKey as error:
        problem = f"{KEYS_FILE} cannot be read: {error}"
    log, witnesses = _sorted_out(brought)
    log_pinned, witnesses_pinned = bool(log), bool(witnesses)
    found_log, found_witnesses = _sorted_out(lying)
    return Keys(
        log if log_pinned else found_log,
        witnesses if witnesses_pinned else found_witnesses,
        log_pinned,
        witnesses_pinned,
        None if log_pinned else problem,
    )


def _sorted_out(keys: Iterable[VerifierKey]) -> tuple[tuple[VerifierKey, ...], tuple[VerifierKey, ...]]:
    """Keys of the log, and of witnesses: one public key counts once, under whatever names it comes."""
    log: dict[bytes, VerifierKey] = {}
    witnesses: dict[bytes, VerifierKey] = {}
    for key in keys:
        (log if key.algorithm == ED25519 else witnesses).setdefault(key.public_key, key)
    return tuple(log.values()), tuple(key for public, key in witnesses.items() if public not in log)


# --- what the log is held against --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Receipt:
    """What somebody was given for a record. `leaf` or `proof` may be missing, not both."""

    source: str
    index: int
    leaf: bytes | None
    proof: InclusionProof | None


@dataclass(slots=True)
class Anchors:
    """Heads, roots and receipts by the place where they are compared. Fails the checks that need no record."""

    keys: Keys
    checks: Mapping[str, Check]
    heads: dict[int, list[AuditHead]] = field(default_factory=dict[int, list[AuditHead]])
    roots: dict[int, set[bytes]] = field(default_factory=dict[int, set[bytes]])
    receipts: dict[int, list[Receipt]] = field(default_factory=dict[int, list[Receipt]])
    notes: int = 0
    cosigned: dict[int, int] = field(default_factory=dict[int, int])

    def add_head(self, head: AuditHead) -> None:
        """A chain head, unsigned."""
        self.heads.setdefault(head.size, []).append(head)

    def add_note(self, data: bytes, source: str) -> Checkpoint | None:
        """Checks 11, 13 and 14 of a signed note; its checkpoint when it counts."""
        self.notes += 1
        signatures = self.checks["signatures"]
        # 11a. A note whose text is a checkpoint.
        try:
            note = parse_note(data)
            checkpoint = parse_checkpoint(note.text)
        except BadNote as error:
            signatures.fail(None, f"{source} cannot be read: {error}")
            return None
        last = _last_index(checkpoint)
        # 11b. Every signature by a key of the log is good, there is one, and its name is the origin.
        try:
            verified = verify_note(note, self.keys.log)
        except (BadNote, BadKey) as error:
            signatures.fail(last, f"{source}: {error}")
            return None
        if all(found.key.name != checkpoint.origin for found in verified):
            signatures.fail(last, f"{source} is of another log than its key")
            return None
        # 13. One root for each size.
        known = self.roots.setdefault(checkpoint.size, set())
        known.add(checkpoint.root)
        if len(known) > 1:
            self.checks["forks"].fail(
                last, f"{source}: the log signed two different trees of {checkpoint.size} records"
            )
        # 14a. Cosignatures by known witnesses are good.
        count = self._cosignatures(note, last, source)
        if count:
            self.cosigned[checkpoint.size] = max(count, self.cosigned.get(checkpoint.size, 0))
        return checkpoint

    def _cosignatures(self, note: Note, last: int | None, source: str) -> int:
        signers = {(signature.name, signature.key_id) for signature in note.signatures}
        good = 0
        for key in self.keys.witnesses:
            if (key.name, key.key_id) in signers:
                try:
                    verify_note(note, [key])
                except BadNote as error:
                    self.checks["cosignatures"].fail(last, f"{source}: {error}")
                else:
                    good += 1
        return good

    def add_receipt(self, receipt: Receipt) -> None:
        """A receipt, and the checkpoint of its proof."""
        self.receipts.setdefault(receipt.index, []).append(receipt)
        if receipt.proof is not None:
            self.add_note(receipt.proof.checkpoint, f"the checkpoint of {receipt.source}")

    def compare_receipts(self, index: int, leaf: bytes) -> None:
        """16. The receipts for a record, now that its leaf is known."""
        for receipt in self.receipts.pop(index):
            if receipt.leaf is not None and receipt.leaf != leaf:
                self.checks["receipts"].fail(index, f"{receipt.source} is of another record than lies at its place")
            elif receipt.proof is not None and not _proves(receipt.proof, index, leaf):
                self.checks["receipts"].fail(index, f"{receipt.source} does not lead from the record to its checkpoint")

    def missing_receipts(self, size: int) -> None:
        """16. What was promised beyond the end of the log."""
        for index, receipts in sorted(self.receipts.items()):
            for receipt in receipts:
                self.checks["receipts"].fail(
                    index, f"{receipt.source} is of record {index}, and the log has {size} records"
                )


def _last_index(checkpoint: Checkpoint) -> int | None:
    """The last record that a checkpoint covers."""
    return checkpoint.size - 1 if checkpoint.size else None


def _proves(proof: InclusionProof, index: int, leaf: bytes) -> bool:
    try:
        head = parse_checkpoint(parse_note(proof.checkpoint).text)
    except BadNote:
        return False
    return proof.index == index and verify_inclusion(index, head.size, leaf, proof.hashes, head.root)


# --- from files --------------------------------------------------------------------------------------------------


def own_notes(directory: Path) -> Iterator[tuple[bytes, str, int | None]]:
    """Notes that lie with a log or an export: bytes, where from, and the size that a file name claims. `OSError`."""
    for name in (CHECKPOINT_FILE, WITNESSED_FILE):
        try:
            yield (directory / name).read_bytes(), name, None
        except FileNotFoundError:
            continue
    folder = directory / CHECKPOINTS_DIR
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if len(path.name) == 20 and path.name.isascii() and path.name.isdigit():
                yield path.read_bytes(), f"{CHECKPOINTS_DIR}/{path.name}", int(path.name)


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """A line of the checkpoint history; `note` is None for one that cannot be read."""

    number: int
    note: bytes | None
    epoch: int


def history(directory: Path) -> Iterator[HistoryLine]:
    """The lines of `checkpoints.jsonl`; one that was being written, the last without its newline, is left out."""
    try:
        file = (directory / HISTORY_FILE).open("rb")
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                note, epoch = _history_line(line)
                yield HistoryLine(number, note, epoch)


def _history_line(line: bytes) -> tuple[bytes | None, int]:
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError):
        return None, 0
    fields = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    note, epoch = fields.get("note"), fields.get("epoch")
    if not isinstance(note, str) or not isinstance(epoch, int):
        return None, 0
    return note.encode("utf-8", "surrogatepass"), epoch


def add_checkpoint_file(anchors: Anchors, path: Path) -> None:
    """Add what somebody kept elsewhere: a head in JSON, a signed note, or lines of a checkpoint history. `Unusable`."""
    data = _input(path)
    if not data.lstrip().startswith(b"{"):
        try:
            parse_checkpoint(parse_note(data).text)
        except BadNote as error:
            raise Unusable(f"the checkpoint {path} cannot be read: {error}.") from error
        anchors.add_note(data, path.name)
        return
    try:
        anchors.add_head(parse_head(data.decode()))
        return
    except (UnicodeDecodeError, BadHead) as error:
        problem = error
    for line in data.splitlines():
        note, _ = _history_line(line)
        if note is None:
            raise Unusable(f"the checkpoint {path} cannot be read: {problem}.")
        anchors.add_note(note, path.name)


def add_receipt_file(anchors: Anchors, path: Path) -> None:
    """Add a receipt: JSON with `index` and `leaf_hash`, and `proof` where there is one, or a tlog-proof. `Unusable`."""
    data = _input(path)
    try:
        if data.startswith(PROOF_HEADER.encode()):
            proof = parse_inclusion_proof(data)
            anchors.add_receipt(Receipt(path.name, proof.index, None, proof))
            return
        anchors.add_receipt(_json_receipt(data, path.name))
    except (BadProof, ValueError) as error:
        raise Unusable(f"the receipt {path} cannot be read: {error}.") from error


def _json_receipt(data: bytes, source: str) -> Receipt:
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is neither JSON nor a tlog-proof") from error
    fields = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    index, leaf_text, proof_text = fields.get("index"), fields.get("leaf_hash"), fields.get("proof")
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise ValueError("'index' is not the place of a record")
    if not isinstance(leaf_text, str) or len(leaf_text) != 2 * HASH_BYTES or leaf_text.strip("0123456789abcdef"):
        raise ValueError("'leaf_hash' is not a SHA-256 in lower-case hex")
    proof = parse_inclusion_proof(proof_text.encode()) if isinstance(proof_text, str) else None
    return Receipt(source, index, bytes.fromhex(leaf_text), proof)


def _input(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > _MAX_INPUT_BYTES:
        raise Unusable(f"{path} is larger than {_MAX_INPUT_BYTES} bytes.")
    return data
