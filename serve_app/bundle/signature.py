"""Who made a bundle: Ed25519 over the bytes of SHA256SUMS, and so over every file. OpenSSL checks it, too."""

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from deployments.gate.grammar import BundleError
from deployments.gate.signature import key_id, read_public_key, read_signing_key
from serve_app.bundle.layout import SIGNATURE_FILE, SUMS_FILE, BundleRefused


def signing_key(file: Path) -> Ed25519PrivateKey:
    """The key in a PEM file without a password that only its owner may read; else `BundleRefused`."""
    try:
        return read_signing_key(file)
    except BundleError as error:
        raise BundleRefused(f"{error}.") from None


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
