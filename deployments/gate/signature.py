"""Signed bundles: an Ed25519 signature over the policy digest, in a file beside the bundle.

With `gate.bundle_key` set, only a bundle that the holder of that key has signed loads. The digest covers every included
and extended file, so one signature covers them all; the code that reads them is covered by the image.
"""

import base64
import binascii
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from deployments.gate.grammar import BundleError

SUFFIX = ".sig"
_DOMAIN = b"gatehouse policy bundle v1\n"
_MAX_BYTES = 4096


def signature_path(bundle: Path) -> Path:
    """Where the signature of the bundle in the file `bundle` lies."""
    return bundle.with_name(bundle.name + SUFFIX)


def sign(policy_digest: str, key_file: Path) -> bytes:
    """The content of a signature file. `BundleError` for a key that is none, or that others may read."""
    key = read_signing_key(key_file)
    said = {
        "key_id": key_id(key.public_key()),
        "policy_digest": policy_digest,
        "signature": base64.b64encode(key.sign(_message(policy_digest))).decode("ascii"),
        "version": 1,
    }
    return json.dumps(said, indent=1).encode() + b"\n"


def check_signature(policy_digest: str, bundle: Path, key_file: Path) -> str:
    """Who signed: the id of the key. `BundleError` unless the holder of `key_file` signed exactly this digest."""
    key = read_public_key(key_file)
    path = signature_path(bundle)
    try:
        with path.open("rb") as file:
            said: Any = json.loads(file.read(_MAX_BYTES))
        named, signature = said["policy_digest"], base64.b64decode(said["signature"], validate=True)
    except OSError as error:
        raise BundleError(f"the bundle is not signed: {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
        raise BundleError(f"{path} is no signature of a bundle") from None
    if named != policy_digest:
        raise BundleError(f"{path} signs another content of this bundle; sign it again")
    try:
        key.verify(signature, _message(policy_digest))
    except InvalidSignature:
        raise BundleError(f"{path} is not by the key {key_id(key)}") from None
    return key_id(key)


def read_signing_key(key_file: Path) -> Ed25519PrivateKey:
    """The key in a PEM file without a password that only its owner may read, or `BundleError`."""
    try:
        if stat.S_IMODE(key_file.stat().st_mode) & 0o077:
            raise BundleError(f"others may read the signing key {key_file}; set its permissions to 0600")
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise BundleError(f"the signing key {key_file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BundleError(f"{key_file} is no private key in PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"{key_file} is no Ed25519 key")
    return key


def read_public_key(key_file: Path) -> Ed25519PublicKey:
    """The key in a PEM file, or `BundleError`."""
    try:
        key = load_pem_public_key(key_file.read_bytes())
    except OSError as error:
        raise BundleError(f"the key {key_file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BundleError(f"{key_file} is no public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"{key_file} is no Ed25519 key")
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hex digits of the SHA-256 of the raw key."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def _message(policy_digest: str) -> bytes:
    return _DOMAIN + policy_digest.encode("ascii") + b"\n"
