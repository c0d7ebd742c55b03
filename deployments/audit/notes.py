"""Signed notes and checkpoints: what the log and its witnesses put their names to.

The formats are C2SP signed-note, tlog-checkpoint and, for the witnesses, tlog-cosignature:

```
log.example.com/audit                          origin      |
42                                             tree size   | the text: what is signed, with its last newline
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=   root        |

— log.example.com/audit Az3grlgtzPI...         the log: Ed25519 over the text (type 1)
— witness.example.org/w1 jWbPPwAAAAB...        a witness: time and Ed25519 over time and text (type 4)
```

Parsing is strict, so that one meaning has one spelling: base64 in its canonical form, decimal without leading zeros.
Nothing in a note counts before `verify_note` has found a good signature by a known key.
"""

import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from deployments.audit.files import sync_directory, write_all
from deployments.audit.merkle import EMPTY_ROOT, HASH_BYTES, MAX_SIZE

ED25519 = 0x01
COSIGNATURE_V1 = 0x04
MAX_NOTE_BYTES = 262_144
MAX_SIGNATURES = 64
MAX_TIME_S = 2**63 - 1
_KEY_BYTES = 32
_KEY_ID_BYTES = 4
_SIGNATURE_BYTES = 64
_MAX_KEY_CHARS = 1_024
_PREFIX = "— "
_PRIVATE = "PRIVATE+KEY+"
_COSIGNATURE_HEADER = "cosignature/v1\n"
_TIME = Struct(">Q")


class BadNote(ValueError):
    """The bytes are not a signed note, or its text is not a checkpoint."""


class BadSignature(BadNote):
    """A known key's signature does not fit, or no known key signed: the text says nothing."""


class BadKey(ValueError):
    """The text is not a key. The message never repeats it."""


# --- spelling ----------------------------------------------------------------------------------------------------


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 section 4)."""
    return b64encode(data).decode("ascii")


def decode_base64(text: str) -> bytes | None:
    """The bytes, or None unless `text` is exactly how `encode_base64` spells them."""
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        return None
    return data if encode_base64(data) == text else None


def decode_decimal(text: str) -> int | None:
    """The number from 0 to 2**63 - 1, or None unless `text` is its decimal form in ASCII without leading zeros."""
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or (text[0] == "0" and text != "0"):
        return None
    number = int(text)
    return number if number <= MAX_SIZE else None


def _is_name(name: str) -> bool:
    """True for a key name: not empty, without spaces, `+` and control characters, and representable in UTF-8."""
    return bool(name) and not any(char in "+\x7f" or char < " " or char.isspace() or _is_lone(char) for char in name)


def _is_lone(char: str) -> bool:
    return "\ud800" <= char <= "\udfff"


def _is_text(text: str) -> bool:
    """True for the text of a note: lines, each with its newline, without other control characters."""
    return text.endswith("\n") and not any((char < " " and char != "\n") or _is_lone(char) for char in text)


# --- keys --------------------------------------------------------------------------------------------------------


def _key_id(name: str, algorithm: int, public_key: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + bytes([algorithm]) + public_key).digest()[:_KEY_ID_BYTES]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """Who may be believed: a name, `ED25519` or `COSIGNATURE_V1`, and a public key of 32 bytes."""

    name: str
    algorithm: int
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """First 4 bytes of SHA-256(name || newline || algorithm || public key)."""
        return _key_id(self.name, self.algorithm, self.public_key)

    def __str__(self) -> str:
        """`name+hex key id+base64(algorithm || public key)`: what others pin."""
        material = encode_base64(bytes([self.algorithm]) + self.public_key)
        return f"{self.name}+{self.key_id.hex()}+{material}"


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A private key. Its text form is `private_text`; `repr` shows no secret."""

    name: str
    algorithm: int
    seed: bytes = field(repr=False)

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        public_key = Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()
        return VerifierKey(self.name, self.algorithm, public_key)

    def private_text(self) -> str:
        """`PRIVATE+KEY+name+hex key id+base64(algorithm || seed)`. A secret."""
        material = encode_base64(bytes([self.algorithm]) + self.seed)
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{material}"


def generate_key(name: str, algorithm: int, random: Callable[[int], bytes] = os.urandom) -> SignerKey:
    """A new key. `BadKey` for a name or an algorithm that no note can carry."""
    if not _is_name(name):
        raise BadKey("a key name is not empty and has no spaces, no '+' and no control characters")
    if algorithm not in (ED25519, COSIGNATURE_V1):
        raise BadKey("the key's algorithm is not known here")
    return SignerKey(name, algorithm, random(_KEY_BYTES))


def _parse_key(text: str) -> tuple[str, str, int, bytes]:
    """Name, hex key id, algorithm and 32 bytes of key material, or `BadKey`."""
    # base64 may contain '+', a name may not.
    parts = text.split("+", 2)
    material = decode_base64(parts[2]) if len(text) <= _MAX_KEY_CHARS and len(parts) == 3 else None
    if material is None or not _is_name(parts[0]):
        raise BadKey("the text is not 'name+id+base64'")
    if len(material) != 1 + _KEY_BYTES or material[0] not in (ED25519, COSIGNATURE_V1):
        raise BadKey("the key is not of a type known here")
    return parts[0], parts[1], material[0], material[1:]


def parse_verifier_key(text: str) -> VerifierKey:
    """The public key in `name+id+base64`, or `BadKey`."""
    name, key_id, algorithm, public_key = _parse_key(text)
    key = VerifierKey(name, algorithm, public_key)
    if key.key_id.hex() != key_id:
        raise BadKey("the key id is not that of the name and the key")
    return key


def parse_witness_keys(texts: Iterable[str]) -> list[VerifierKey]:
    """The keys of a log's witnesses, in order. `BadKey` for a text that is none, for a log's key, and for one twice."""
    keys = [parse_verifier_key(text) for text in texts]
    if any(key.algorithm != COSIGNATURE_V1 for key in keys):
        raise BadKey("the key of a witness is a cosignature key, as `gatehouse audit witness` prints it")
    if len({key.public_key for key in keys}) < len(keys):
        raise BadKey("two witnesses have one key: they would count as one")
    return keys


def parse_signer_key(text: str) -> SignerKey:
    """The private key in `PRIVATE+KEY+name+id+base64`, or `BadKey`."""
    if not text.startswith(_PRIVATE):
        raise BadKey("the text is not a private key")
    name, key_id, algorithm, seed = _parse_key(text.removeprefix(_PRIVATE))
    key = SignerKey(name, algorithm, seed)
    if key.verifier.key_id.hex() != key_id:
        raise BadKey("the key id is not that of the name and the key")
    return key


def write_signer_key(path: Path, key: SignerKey) -> None:
    """Write a private key to a new file that only its owner may read, durably.

    `FileExistsError` when the path is taken: a key is never written over another. Otherwise `OSError`.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, key.private_text().encode() + b"\n")
        os.fsync(descriptor)
    except BaseException:
        path.unlink()  # half a key would only keep the next attempt from its place
        raise
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def read_signer_key(path: Path) -> SignerKey:
    """The private key in a file, one line. `BadKey` or `OSError`."""
    with path.open("rb") as file:
        data = file.read(_MAX_KEY_CHARS + 1)
    try:
        return parse_signer_key(data.decode().removesuffix("\n"))
    except UnicodeDecodeError:
        raise BadKey("the text is not UTF-8") from None  # the cause would carry the file's bytes


# --- notes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line, verified or not. `value` is what follows the key id."""

    name: str
    key_id: bytes
    value: bytes

    def line(self) -> str:
        """The line, with its newline."""
        return f"{_PREFIX}{self.name} {encode_base64(self.key_id + self.value)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures, verified or not."""

    text: str
    signatures: tuple[Signature, ...]

    def to_bytes(self) -> bytes:
        """The note as it travels."""
        return "".join([self.text, "\n", *(signature.line() for signature in self.signatures)]).encode()

    def with_signatures(self, signatures: Iterable[Signature]) -> Self:
        """The note with further signatures, such as a witness's. Those it has already are not repeated."""
        new = [signature for signature in signatures if signature not in self.signatures]
        return replace(self, signatures=(*self.signatures, *new))


@dataclass(frozen=True, slots=True)
class Verified:
    """A good signature by a known key. `time_s` is when a witness signed, in seconds since 1970; the log gives none."""

    key: VerifierKey
    time_s: int | None


def _parse_signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_PREFIX).partition(" ")
    data = decode_base64(encoded)
    if not line.startswith(_PREFIX) or not space or not _is_name(name) or data is None or len(data) <= _KEY_ID_BYTES:
        raise BadNote("a signature line is malformed")
    return Signature(name, data[:_KEY_ID_BYTES], data[_KEY_ID_BYTES:])


def parse_note(data: bytes) -> Note:
    """The note in `data`, nothing verified, or `BadNote`. At most 256 KiB and 64 signatures."""
    if len(data) > MAX_NOTE_BYTES:
        raise BadNote(f"a note has at most {MAX_NOTE_BYTES} bytes")
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise BadNote("a note is UTF-8") from error
    # The last empty line ends the text; the text may have others.
    text, gap, signatures = whole.rpartition("\n\n")
    if not gap or not signatures.endswith("\n") or not _is_text(text + "\n"):
        raise BadNote("a note is a text, an empty line and signature lines, without control characters")
    lines = signatures.removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise BadNote(f"a note has at most {MAX_SIGNATURES} signatures")
    return Note(text + "\n", tuple(map(_parse_signature, lines)))


def _cosigned(text: str, time_s: int) -> bytes:
    return f"{_COSIGNATURE_HEADER}time {time_s}\n{text}".encode()


def sign(text: str, key: SignerKey) -> Signature:
    """The signature line of an `ED25519` key under `text`. `BadNote` for a text that no note may have."""
    if key.algorithm != ED25519:
        raise BadKey("the key does not sign notes")
    if not _is_text(text) or text.startswith(_COSIGNATURE_HEADER):
        # A text that looks like a cosigned message would make this signature one, should the seed be used for both.
        raise BadNote("the text cannot be signed as a note")
    value = Ed25519PrivateKey.from_private_bytes(key.seed).sign(text.encode())
    return Signature(key.name, key.verifier.key_id, value)


def cosign(text: str, key: SignerKey, time_s: int) -> Signature:
    """The cosignature line of a `COSIGNATURE_V1` key under a checkpoint's text, at `time_s` seconds since 1970.

    It says: at that time, this was the largest tree of that origin that I have seen, and it extends all before it.
    Whoever calls this has checked so. `BadNote` when the text is not a checkpoint.
    """
    if key.algorithm != COSIGNATURE_V1:
        raise BadKey("the key does not cosign")
    if not 0 <= time_s <= MAX_TIME_S:
        raise ValueError("the time is not between 0 and 2**63 - 1 seconds")
    parse_checkpoint(text)
    value = Ed25519PrivateKey.from_private_bytes(key.seed).sign(_cosigned(text, time_s))
    return Signature(key.name, key.verifier.key_id, _TIME.pack(time_s) + value)


def _verify(text: str, value: bytes, key: VerifierKey) -> Verified:
    time_s, message = None, text.encode()
    if key.algorithm == COSIGNATURE_V1:
        if len(value) != _TIME.size + _SIGNATURE_BYTES:
            raise BadSignature(f"the cosignature of {key.name} has the wrong length")
        (time_s,) = _TIME.unpack_from(value)
        if time_s > MAX_TIME_S:
            raise BadSignature(f"the cosignature of {key.name} has no valid time")
        message, value = _cosigned(text, time_s), value[_TIME.size :]
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(value, message)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(f"the signature of {key.name} is not good") from error
    return Verified(key, time_s)


def verify_note(note: Note, keys: Iterable[VerifierKey]) -> list[Verified]:
    """The good signatures by known keys, one for each key, in the note's order; at least one.

    `BadSignature` when one by a known key is bad or there is none. Unknown keys are ignored. A key that signed twice
    counts once, with its first signature; all must be good. `BadKey` when two known keys share name and id.
    """
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise BadKey("two known keys have one name and id")
    verified: dict[VerifierKey, Verified] = {}
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is not None:
            verified.setdefault(key, _verify(note.text, signature.value, key))
    if not verified:
        raise BadSignature("no known key signed the note")
    return list(verified.values())


# --- checkpoints -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree's head: which log, how many leaves, and the root of 32 bytes. Extension lines mean nothing here."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text, or `BadNote`."""
    lines = text.removesuffix("\n").split("\n")
    if not _is_text(text) or len(lines) < 3 or not all(lines):
        raise BadNote("a checkpoint has three lines or more, none of them empty")
    origin, size_text, root_text, *extensions = lines
    size, root = decode_decimal(size_text), decode_base64(root_text)
    if size is None:
        raise BadNote("the tree size of a checkpoint is a decimal number up to 2**63 - 1")
    if root is None or len(root) != HASH_BYTES:
        raise BadNote(f"the root of a checkpoint is the base64 of {HASH_BYTES} bytes")
    if size == 0 and root != EMPTY_ROOT:
        raise BadNote("the root of a checkpoint is not that of the empty tree")
    return Checkpoint(origin, size, root, tuple(extensions))


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """The text of a checkpoint. `BadNote` when it would not read back as the same."""
    lines = [checkpoint.origin, str(checkpoint.size), encode_base64(checkpoint.root), *checkpoint.extensions]
    text = "".join(f"{line}\n" for line in lines)
    if parse_checkpoint(text) != checkpoint:
        raise BadNote("the checkpoint has no text form")
    return text
