"""The Merkle tree over the log's leaves: roots and proofs (RFC 6962 section 2.1, RFC 9162 section 2.1). No I/O.

A complete subtree `(level, index)` covers the `2**level` leaves from `index << level` on; `(0, i)` is leaf `i`.
Whoever makes proofs brings a function that answers its hash (`HashAt`); `audit.tiles` has one over stored tiles.
Proofs are lists of 32-byte hashes in the order of RFC 6962, from the leaves upwards.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from struct import Struct
from typing import Self

from deployments.audit.chain import HASH_BYTES, leaf_hash

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "MAX_PROOF_HASHES",
    "MAX_SIZE",
    "BadFrontier",
    "Frontier",
    "HashAt",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "root_of",
    "verify_consistency",
    "verify_inclusion",
]

HashAt = Callable[[int, int], bytes]
EMPTY_ROOT = sha256().digest()
MAX_SIZE = 2**63 - 1
MAX_PROOF_HASHES = 63  # of an inclusion proof in a tree of MAX_SIZE leaves; a consistency proof has at most one more
_NODE = b"\x01"
_SIZE = Struct(">Q")


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256 of `0x01 || left || right` (RFC 6962 section 2.1); 32 bytes."""
    return sha256(_NODE + left + right).digest()


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees of falling size, left to right; at least one."""
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def _subtrees(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The complete subtrees that cover leaves `begin` to `end`, largest first.

    `begin` is a multiple of a power of two that is not smaller than the range, as in every split of RFC 6962.
    """
    while begin < end:
        level = (end - begin).bit_length() - 1
        yield level, begin >> level
        begin += 1 << level


def _range_root(begin: int, end: int, hash_at: HashAt) -> bytes:
    """MTH(D[begin:end]) of RFC 6962; the range is as for `_subtrees`, and not empty."""
    return _fold([hash_at(level, index) for level, index in _subtrees(begin, end)])


class BadFrontier(ValueError):
    """The bytes are not a frontier."""


class Frontier:
    """The right edge of a growing tree: all that appending and `root` need, at most 63 hashes."""

    __slots__ = ("_hashes", "_size")

    def __init__(self) -> None:
        """The frontier of the empty tree."""
        self._size = 0
        self._hashes: list[bytes] = []

    @classmethod
    def at(cls, size: int, hash_at: HashAt) -> Self:
        """The frontier of a tree that exists already."""
        frontier = cls()
        frontier._hashes = [hash_at(level, index) for level, index in _subtrees(0, size)]
        frontier._size = size
        return frontier

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The frontier that `to_bytes` wrote, or `BadFrontier`. That its hashes are the log's is the caller's check."""
        if len(data) < _SIZE.size:
            raise BadFrontier("the frontier is cut off")
        (size,) = _SIZE.unpack_from(data)
        if size > MAX_SIZE or len(data) != _SIZE.size + size.bit_count() * HASH_BYTES:
            raise BadFrontier("the frontier does not have one hash for each complete subtree")
        frontier = cls()
        frontier._size = size
        frontier._hashes = [data[at : at + HASH_BYTES] for at in range(_SIZE.size, len(data), HASH_BYTES)]
        return frontier

    def to_bytes(self) -> bytes:
        """Size (8 bytes, big-endian), then one hash for each complete subtree, largest first."""
        return _SIZE.pack(self._size) + b"".join(self._hashes)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    def append(self, leaf: bytes) -> list[bytes]:
        """Add a leaf hash. Answers the hashes of the subtrees it completes: of level 0 (the leaf itself), 1, 2, ..."""
        if len(leaf) != HASH_BYTES:
            raise ValueError(f"a leaf hash has {HASH_BYTES} bytes")
        hashes, odd, completed = self._hashes, self._size, [leaf]
        while odd & 1:
            leaf = sha256(_NODE + hashes.pop() + leaf).digest()
            completed.append(leaf)
            odd >>= 1
        hashes.append(leaf)
        self._size += 1
        return completed

    def root(self) -> bytes:
        """The tree's root; 32 bytes."""
        return _fold(self._hashes) if self._hashes else EMPTY_ROOT


def root_of(leaf_hashes: Iterable[bytes]) -> bytes:
    """The root of the tree over these leaf hashes; 32 bytes."""
    frontier = Frontier()
    for leaf in leaf_hashes:
        frontier.append(leaf)
    return frontier.root()


# --- making proofs -----------------------------------------------------------------------------------------------


def _split(begin: int, end: int) -> int:
    """Where RFC 6962 splits leaves `begin` to `end`, of which there are at least two."""
    return begin + (1 << ((end - begin - 1).bit_length() - 1))


def inclusion_proof(index: int, size: int, hash_at: HashAt) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 section 2.1.1. `ValueError` unless `0 <= index < size`."""
    if not 0 <= index < size:
        raise ValueError("the index is not in the tree")
    begin, end = 0, size
    proof: list[bytes] = []
    while end - begin > 1:
        middle = _split(begin, end)
        if index < middle:
            proof.append(_range_root(middle, end, hash_at))
            end = middle
        else:
            proof.append(_range_root(begin, middle, hash_at))
            begin = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, hash_at: HashAt) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962 section 2.1.2; empty for `old == 0`, which every tree extends.

    `hash_at` answers for the tree of size `new`. `ValueError` unless `0 <= old <= new`.
    """
    if not 0 <= old <= new:
        raise ValueError("the old size is not between 0 and the new one")
    if old == 0:
        return []
    begin, end = 0, new
    proof: list[bytes] = []
    while end != old:
        middle = _split(begin, end)
        if old <= middle:
            proof.append(_range_root(middle, end, hash_at))
            end = middle
        else:
            proof.append(_range_root(begin, middle, hash_at))
            begin = middle
    if begin:  # otherwise the old tree is this very subtree, and the verifier knows its root
        proof.append(_range_root(begin, end, hash_at))
    return proof[::-1]


# --- checking proofs ---------------------------------------------------------------------------------------------


def _are_hashes(*values: bytes) -> bool:
    return all(len(value) == HASH_BYTES for value in values)


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """True when `proof` shows that `leaf` has place `index` in the tree of `size` leaves with this root.

    RFC 9162 section 2.1.3.2. Any integers and any byte strings are answered, never raised on.
    """
    # 1. The index is in the tree.
    if not 0 <= index < size <= MAX_SIZE or not _are_hashes(leaf, root, *proof):
        return False
    # 2.-3. Positions of the node and of the last node, level by level.
    node, last, digest = index, size - 1, leaf
    # 4. Climb. A last node without a sibling rises to the level where it is a right child.
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            digest = node_hash(sibling, digest)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            digest = node_hash(digest, sibling)
        node, last = node >> 1, last >> 1
    # 5. At the top, and nothing left over.
    return last == 0 and digest == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """True when `proof` shows that the tree of `new` leaves begins with the tree of `old` leaves.

    RFC 9162 section 2.1.4.2, and two cases it leaves out: equal sizes need equal roots, and the empty tree, with its
    own root, begins every tree; the proof is empty in both. Any integers and any byte strings are answered.
    """
    if not 0 <= old <= new <= MAX_SIZE or not _are_hashes(old_root, new_root, *proof):
        return False
    if old == new:
        return not proof and old_root == new_root and (old > 0 or old_root == EMPTY_ROOT)
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    # 1. Trees of different sizes need a proof.
    if not proof:
        return False
    # 2. A complete old tree is itself the first hash.
    hashes = [old_root, *proof] if old.bit_count() == 1 else proof
    # 3.-4. Rise to the largest complete subtree at the right edge of the old tree.
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    # 5.-6. Climb with both roots at once: left siblings belong to both trees, right ones to the new tree alone.
    old_digest = new_digest = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old_digest = node_hash(sibling, old_digest)
            new_digest = node_hash(sibling, new_digest)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new_digest = node_hash(new_digest, sibling)
        node, last = node >> 1, last >> 1
    # 7. Both roots, and nothing left over.
    return last == 0 and old_digest == old_root and new_digest == new_root
