"""Files encrypted to a public key, in the format age v1 with X25519 recipients (age-encryption.org/v1).

The same file opens with `age --decrypt`, and keys of `age-keygen` work here: whoever restores without Gatehouse at hand
is not locked out. A file is small enough for memory.
"""

import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_VERSION: Final = b"age-encryption.org/v1"
_WRAP_INFO: Final = b"age-encryption.org/v1/X25519"
_KEY_BYTES, _FILE_KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 16, 16, 16
_CHUNK_BYTES = 64 * 1024
_NO_NONCE: Final = bytes(12)
_ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATORS: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_PUBLIC, _PRIVATE = "age", "age-secret-key-"


class AgeError(ValueError):
    """A key or a file that is not what it should be, or was not encrypted to this key. Names no secret."""


def parse_recipient(text: str) -> X25519PublicKey:
    """A public key, `age1...`; `AgeError`."""
    return X25519PublicKey.from_public_bytes(_bech32_decode(_PUBLIC, text.strip(), "a recipient is `age1...`"))


def parse_identity(text: str) -> X25519PrivateKey:
    """The private key, `AGE-SECRET-KEY-1...`, among the lines of a key file; `AgeError`."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1:
        raise AgeError("the key file does not hold exactly one key")
    return X25519PrivateKey.from_private_bytes(
        _bech32_decode(_PRIVATE, lines[0], "a private key is `AGE-SECRET-KEY-1...`")
    )


def recipient_text(key: X25519PublicKey) -> str:
    """A public key as text."""
    return _bech32_encode(_PUBLIC, key.public_bytes_raw())


def identity_text(key: X25519PrivateKey) -> str:
    """A private key as text. A secret."""
    return _bech32_encode(_PRIVATE, key.private_bytes_raw()).upper()


# --- files -----------------------------------------------------------------------------------------------------------


def encrypt(data: bytes, recipients: Sequence[X25519PublicKey], random: Callable[[int], bytes] = os.urandom) -> bytes:
    """An age file that any of the recipients opens. At least one; `ValueError`."""
    if not recipients:
        raise ValueError("a file that nobody can open")
    file_key = random(_FILE_KEY_BYTES)
    header = _VERSION + b"\n"
    for recipient in recipients:
        ephemeral = X25519PrivateKey.from_private_bytes(random(_KEY_BYTES))
        share = ephemeral.public_key().public_bytes_raw()
        wrapping = _wrapping_key(ephemeral.exchange(recipient), share, recipient)
        body = ChaCha20Poly1305(wrapping).encrypt(_NO_NONCE, file_key, None)
        header += b"-> X25519 " + _base64(share) + b"\n" + _base64(body) + b"\n"
    header += b"---"
    nonce = random(_NONCE_BYTES)
    sealed = _payload_cipher(file_key, nonce)
    chunks = [data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES)] or [b""]
    return b"".join(
        [
            header + b" " + _base64(_mac(file_key, header)) + b"\n",
            nonce,
            *(
                sealed.encrypt(_chunk_nonce(number, last=number == len(chunks) - 1), chunk, None)
                for number, chunk in enumerate(chunks)
            ),
        ]
    )


def decrypt(data: bytes, identity: X25519PrivateKey) -> bytes:
    """What an age file holds; `AgeError` when it is damaged, or not encrypted to this key."""
    header, mac, payload = _split(data)
    file_key = _unwrap(header, identity)
    if not hmac.compare_digest(_mac(file_key, header), mac):
        raise AgeError("the file's header was changed")
    nonce, sealed = payload[:_NONCE_BYTES], payload[_NONCE_BYTES:]
    size = _CHUNK_BYTES + _TAG_BYTES
    chunks = [sealed[at : at + size] for at in range(0, len(sealed), size)]
    if len(nonce) < _NONCE_BYTES or not chunks:
        raise AgeError("the file is cut off")
    cipher, parts = _payload_cipher(file_key, nonce), list[bytes]()
    for number, chunk in enumerate(chunks):
        try:
            parts.append(cipher.decrypt(_chunk_nonce(number, last=number == len(chunks) - 1), chunk, None))
        except InvalidTag:
            raise AgeError("the file is damaged or cut off") from None
    if len(parts) > 1 and not parts[-1]:
        raise AgeError("the file is damaged: its last part is empty")
    return b"".join(parts)


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """The header up to and with its dashes, its MAC, and what follows."""
    before, found, rest = data.partition(b"\n--- ")
    mac, ended, payload = rest.partition(b"\n")
    if not (found and ended and before.startswith(_VERSION + b"\n")):
        raise AgeError("it is not a file of age v1")
    return before + b"\n---", _unbase64(mac), payload


def _unwrap(header: bytes, identity: X25519PrivateKey) -> bytes:
    lines = header.split(b"\n")
    for line, body in zip(lines, lines[1:], strict=False):
        words = line.split(b" ")
        if words[:2] != [b"->", b"X25519"] or len(words) != 3:
            continue
        share, sealed = _unbase64(words[2]), _unbase64(body)
        if len(share) != _KEY_BYTES or len(sealed) != _FILE_KEY_BYTES + _TAG_BYTES:
            raise AgeError("the file's header is damaged")
        try:
            secret = identity.exchange(X25519PublicKey.from_public_bytes(share))
            return ChaCha20Poly1305(_wrapping_key(secret, share, identity.public_key())).decrypt(
                _NO_NONCE, sealed, None
            )
        except ValueError:  # a share of low order
            raise AgeError("the file's header is damaged") from None
        except InvalidTag:
            continue
    raise AgeError("the file was not encrypted to this key")


def _wrapping_key(secret: bytes, share: bytes, recipient: X25519PublicKey) -> bytes:
    return _derive(secret, share + recipient.public_bytes_raw(), _WRAP_INFO)


def _mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(_derive(file_key, b"", b"header"), header, "sha256")


def _payload_cipher(file_key: bytes, nonce: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))


def _derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt, info).derive(key)


def _chunk_nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11) + bytes([last])


def _base64(data: bytes) -> bytes:
    return b64encode(data).rstrip(b"=")


def _unbase64(text: bytes) -> bytes:
    try:
        data = b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise AgeError("the file's header is damaged") from None
    if _base64(data) != text:
        raise AgeError("the file's header is damaged")
    return data


# --- keys as text (Bech32, BIP 173, without its limit of length) -----------------------------------------------------


def _bech32_encode(kind: str, data: bytes) -> str:
    words = _regroup(data, 8, 5, pad=True)
    check = _polymod([*_expand(kind), *words, 0, 0, 0, 0, 0, 0]) ^ 1
    words += [check >> 5 * (5 - place) & 31 for place in range(6)]
    return f"{kind}1{''.join(_ALPHABET[word] for word in words)}"


def _bech32_decode(kind: str, text: str, otherwise: str) -> bytes:
    if text not in {text.lower(), text.upper()}:
        raise AgeError(otherwise)
    found, _, letters = text.lower().rpartition("1")
    words = [_ALPHABET.find(letter) for letter in letters]
    if found != kind or -1 in words or len(words) < 6 or _polymod([*_expand(kind), *words]) != 1:
        raise AgeError(otherwise)
    data = _regroup(words[:-6], 5, 8, pad=False)
    if len(data) != _KEY_BYTES or _regroup(data, 8, 5, pad=True) != words[:-6]:
        raise AgeError(otherwise)
    return bytes(data)


def _regroup(values: Sequence[int], width: int, into: int, *, pad: bool) -> list[int]:
    """The bits of values of `width` bits, as values of `into` bits."""
    held, bits, found = 0, 0, list[int]()
    for value in values:
        held, bits = held << width | value, bits + width
        while bits >= into:
            bits -= into
            found.append(held >> bits & (1 << into) - 1)
    if pad and bits:
        found.append(held << into - bits & (1 << into) - 1)
    return found


def _expand(kind: str) -> list[int]:
    return [ord(letter) >> 5 for letter in kind] + [0] + [ord(letter) & 31 for letter in kind]


def _polymod(values: Sequence[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate(_GENERATORS):
            check ^= generator if top >> place & 1 else 0
    return check
