"""Hashes of the log: the leaf of a record, and the link that ties each record to all before it."""

from hashlib import sha256

HASH_BYTES = 32
GENESIS = bytes(HASH_BYTES)
"""Head of the empty log."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256 of `0x00 || entry` (RFC 6962 section 2.1); 32 bytes. `entry` is a record's canonical bytes."""
    return sha256(b"\x00" + entry).digest()


def link(previous: bytes, leaf: bytes) -> bytes:
    """Head of the log after appending `leaf` to a log with head `previous`; 32 bytes.

    SHA-256 of `0x02 || previous || leaf`: the prefix differs from RFC 6962's 0x00 (leaf) and 0x01 (node), so no link
    can pass for either.
    """
    return sha256(b"\x02" + previous + leaf).digest()
