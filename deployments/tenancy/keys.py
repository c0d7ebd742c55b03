"""Virtual keys: what they look like, and what is stored of them. Pure; randomness comes in as bytes.

A key is `gh-` + 8 characters of prefix + 32 characters of secret, base62. The prefix is public: it finds the row. The
rest carries 190 bits, so the store needs no slow hash: HMAC-SHA-256 under a pepper that lies outside the database.
"""

import hmac
import re
from dataclasses import dataclass

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX_CHARS = 8
SECRET_CHARS = 32
PEPPER_BYTES = 32
_MARK = "gh-"
_PRESENTED = re.compile(rf"gh-([0-9A-Za-z]{{{PREFIX_CHARS}}})[0-9A-Za-z]{{{SECRET_CHARS}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A well-formed key. `text` is the secret itself: it is never logged and never stored."""

    prefix: str
    text: str

    def __repr__(self) -> str:
        return f"PresentedKey(prefix={self.prefix!r})"


def parse(presented: str) -> PresentedKey | None:
    """The key in a header's value, or None when it cannot be one of ours."""
    match = _PRESENTED.fullmatch(presented)
    return None if match is None else PresentedKey(prefix=match[1], text=presented)


def generate(entropy: bytes) -> PresentedKey:
    """A key from 40 uniformly random bytes or more; equal bytes give equal keys.

    Base 62 digits of one large number: 40 characters need 238.2 bits, so 320 bits leave no bias that matters.
    """
    count = PREFIX_CHARS + SECRET_CHARS
    if len(entropy) < count:
        raise ValueError(f"a key needs at least {count} random bytes")
    number, characters = int.from_bytes(entropy), ""
    for _ in range(count):
        number, digit = divmod(number, len(ALPHABET))
        characters += ALPHABET[digit]
    return PresentedKey(prefix=characters[:PREFIX_CHARS], text=_MARK + characters)


def digest(pepper: bytes, presented: str) -> bytes:
    """What is stored of a key: HMAC-SHA-256 of its text under the pepper; 32 bytes."""
    return hmac.digest(pepper, presented.encode(), "sha256")


def matches(pepper: bytes, presented: str, stored: bytes) -> bool:
    """True when `stored` is the digest of `presented`; takes the same time either way."""
    return hmac.compare_digest(digest(pepper, presented), stored)


def pepper_check(pepper: bytes) -> bytes:
    """A value that recognises a pepper without revealing it; lies beside the keys in the store."""
    return hmac.digest(pepper, b"gatehouse pepper check", "sha256")
