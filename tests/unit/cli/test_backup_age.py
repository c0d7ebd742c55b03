"""Files of age: opened by what they were encrypted to, and by nothing else."""

import os
from base64 import b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from serve_app.backups.age import (
    AgeError,
    decrypt,
    encrypt,
    identity_text,
    parse_identity,
    parse_recipient,
    recipient_text,
)

# A key pair and a file that the reference implementations have: age-keygen's form, rage's file with a stanza of grease.
PRIVATE = "AGE-SECRET-KEY-184JMZMVQH3E6U0PSL869004Y3U2NYV7R30EU99CSEDNPH02YUVFSZW44VU"
PUBLIC = "age1cy0su9fwf3gf9mw868g5yut09p6nytfmmnktexz2ya5uqg9vl9sss4euqm"
OPENS = "AGE-SECRET-KEY-15F4ZQNDMRZXK7KMT52420XPNC433R90KD4ZG29LGDQZGHV2QGP6QEMQ2C6"
FILE = b64decode(
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSA2djZXNDZPSTZKSXZWQThOZy9JdUhiVU5pU0FERTJxcHZJVHMxZ3dhNUU0"
    "Ck9CL051RWNFRjZtMHo0SEs1KzY2S3k2YUZiTVJvSXd2aEQwT1BvRHB5VTQKLT4gd1ZwMVhCLWdyZWFzZSB9QCgkTXg8IHEjLCAx"
    "Kkk/QUU8dQo3cjlFRjNWMEo1U2M5Sy9WelFxTnUveGpQQ1dXQ1BXLzh4L1NqekZpVVRzeVJUS2tPNEw3TC8rZ2lPQ0ZWNERyClMx"
    "SUpmNXVkaDlrZnlueTIrdmtJQWRCbmdpYWQ1dW0vMGdSbkRnSEUKLS0tIHYrU2wrY0hKclhxaXBuSmZHSUVFbEFuS0Mxb0NzTmVG"
    "aWFka0VlSnZmOE0K/Z3ePJpKtkHqph1Lyg7qNGrFTFHR4mAuVdqw1aB+2RuG74TeU4zMKj0="
)
CHUNK = 64 * 1024


def test_keys_have_the_text_that_other_programs_give_them() -> None:
    key = parse_identity(f"# created: then\n# public key: {PUBLIC}\n{PRIVATE}\n")
    assert (recipient_text(key.public_key()), identity_text(key)) == (PUBLIC, PRIVATE)
    assert parse_recipient(PUBLIC).public_bytes_raw() == key.public_key().public_bytes_raw()
    assert parse_recipient(PUBLIC.upper()).public_bytes_raw() == key.public_key().public_bytes_raw()


def test_a_file_of_another_program_opens() -> None:
    assert decrypt(FILE, parse_identity(OPENS)) == b"gatehouse"


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_there_and_back(size: int) -> None:
    one, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    data = os.urandom(size)
    sealed = encrypt(data, [one.public_key(), other.public_key()])
    assert decrypt(sealed, one) == decrypt(sealed, other) == data
    with pytest.raises(AgeError, match="not encrypted to this key"):
        decrypt(sealed, X25519PrivateKey.generate())


def test_every_changed_bit_is_found() -> None:
    key = X25519PrivateKey.generate()
    sealed = encrypt(b"pepper", [key.public_key()])
    for place in range(len(sealed)):
        with pytest.raises(AgeError):
            decrypt(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :], key)


def test_every_cut_is_found() -> None:
    key = X25519PrivateKey.generate()
    sealed = encrypt(bytes(2 * CHUNK), [key.public_key()])
    body = len(sealed) - 2 * (CHUNK + 16)
    for size in (*range(body + 1), body + CHUNK + 16, len(sealed) - 1):
        with pytest.raises(AgeError):
            decrypt(sealed[:size], key)
    with pytest.raises(AgeError):
        decrypt(sealed + b"x", key)


@pytest.mark.parametrize(
    "text", ["", "age1", PUBLIC[:-1], PUBLIC.replace("c", "C", 1), PUBLIC[:-1] + "q", PRIVATE, "ssh-ed25519 AAAA"],
    ids=["nothing", "no data", "short", "mixed", "checksum", "private", "ssh"],
)  # fmt: skip
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(AgeError, match="a recipient is"):
        parse_recipient(text)


@pytest.mark.parametrize(
    "text",
    ["", PUBLIC, f"{PRIVATE}\n{PRIVATE}", PRIVATE.replace("J", "K")],
    ids=["nothing", "public", "two", "checksum"],
)
def test_what_is_no_private_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(AgeError) as found:
        parse_identity(text)
    assert not text or text not in str(found.value)


def test_a_file_for_nobody_is_not_made() -> None:
    with pytest.raises(ValueError, match="nobody"):
        encrypt(b"", [])
