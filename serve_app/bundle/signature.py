"""Who made a bundle: Ed25519 over the bytes of SHA256SUMS, and so over every file. OpenSSL checks it, too."""

import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from deployments.gate.grammar import BundleError
from deployments.gate.signature import key_id, read_public_key
from serve_app.bundle.layout import SIGNATURE_FILE, SUMS_FILE, BundleRefused


def signing_key(file: Path) -> Ed25519PrivateKey:
    """The key in a PEM file without a password that only its owner may read; else `BundleRefused`."""
    try:
        with file.open("rb") as source:
            readable = stat.S_IMODE(file.stat().st_mode) & 0o077
            key = None if readable else load_pem_private_key(source.read(), password=None)
    except OSError as error:
        raise BundleRefused(f"the signing key {file} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BundleRefused(f"{file} is no private key in PEM without a password.") from None
    if key is None:
        raise BundleRefused(f"others may read the signing key {file}; set its permissions to 0600.")
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleRefused(f"{file} is no Ed25519 key.")
    return key


def public_key(file: Path) -> Ed25519PublicKey:
    """The public key in a PEM file, or `BundleRefused`."""
    try:
        return read_public_key(file)
    except BundleError as error:
        raise BundleRefused(f"{error}.") from None


def check(sums: bytes, signature: bytes, key: Ed25519PublicKey) -> str:
    """The id of the key that signed exactly these `sums`; `BundleRefused` when it did not."""
    try:
        key.verify(signature, sums)
    except InvalidSignature:
        raise BundleRefused(f"{SIGNATURE_FILE} is no signature of {SUMS_FILE} by the key {key_id(key)}.") from None
    return key_id(key)
