"""A log of nothing but leaves and checkpoints, and requests about it, for the tests of witnesses."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from deployments.audit.merkle import consistency_proof, leaf_hash, root_of
from deployments.audit.notes import (
    ED25519,
    Checkpoint,
    Note,
    Signature,
    SignerKey,
    VerifierKey,
    format_checkpoint,
    generate_key,
    sign,
)
from deployments.audit.witness import Submission, Witness, Writes
from deployments.clock import Clock, FixedClock

ORIGIN = "log.test/one"
LOG_KEY = generate_key(ORIGIN, ED25519, random=lambda count: b"L" * count)


def signed(size: int, root: bytes, key: SignerKey = LOG_KEY, origin: str = ORIGIN) -> bytes:
    text = format_checkpoint(Checkpoint(origin, size, root))
    return Note(text, (sign(text, key),)).to_bytes()


class Tree:
    """A history: leaves with roots and proofs of every size. Implements `witnessing.WitnessedLog` at `size`."""

    def __init__(self, entries: Iterable[bytes], key: SignerKey = LOG_KEY) -> None:
        self.leaves = [leaf_hash(entry) for entry in entries]
        self.key = key
        self.size: int | None = len(self.leaves)
        self.cosigned: list[tuple[bytes, tuple[Signature, ...]]] = []

    def root(self, size: int) -> bytes:
        return root_of(self.leaves[:size])

    def note(self, size: int) -> bytes:
        return signed(size, self.root(size), self.key, self.key.name)

    def proof(self, old: int, new: int) -> list[bytes]:
        def hash_at(level: int, index: int) -> bytes:
            return root_of(self.leaves[index << level : (index + 1) << level])

        return consistency_proof(old, new, hash_at)

    def request(self, old: int, new: int) -> bytes:
        return Submission(old, tuple(self.proof(old, new)), self.note(new)).to_bytes()

    # WitnessedLog

    def checkpoint(self) -> bytes | None:
        return None if self.size is None else self.note(self.size)

    def consistency(self, old_size: int) -> tuple[bytes, Sequence[bytes]]:
        assert self.size is not None
        return self.note(self.size), self.proof(old_size, self.size)

    def add_cosignatures(self, note: bytes, signatures: Sequence[Signature]) -> None:
        self.cosigned.append((note, tuple(signatures)))


def open_witness(
    directory: Path,
    clock: Clock | None = None,
    log_keys: Sequence[VerifierKey] = (LOG_KEY.verifier,),
    writes: Writes | None = None,
) -> Witness:
    return Witness(directory, log_keys, clock or FixedClock(), name="w.test/1", writes=writes or Writes())
