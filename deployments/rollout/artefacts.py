"""Artefacts on disk: what their files are, whether they still are, and who signed them.

Nothing of an artefact is used before `check` has read every byte of it. A signature is over the revision, and so over
every file, in the domain of artefacts alone.
"""

import base64
import binascii
import stat
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from deployments.artefact_files import NotPlain, sums
from deployments.errors import InvalidRequest
from deployments.rollout.plan import check_artefact, revision_of
from deployments.rollouts import Artefact, Kind

REFUSED: Final = "artefact_refused"
_DOMAIN: Final = b"gatehouse artefact v1\n"


def scan(kind: Kind, target: str, path: Path | None, settings: str = "{}") -> Artefact:
    """An artefact of the file, or of all files below the folder, at `path`; None: of settings alone.

    `InvalidRequest` for what cannot be read, for a folder without files, and for one with anything but plain files:
    a link could lead elsewhere tomorrow.
    """
    if path is None:
        found = Artefact(kind, target, settings=settings)
        check_artefact(found)
        return found
    try:
        root = path.resolve()
        files = sums(root)
    except NotPlain as error:
        raise InvalidRequest(str(error), "path", REFUSED) from None
    except OSError as error:
        raise InvalidRequest(f"The artefact cannot be read: {error.strerror}.", "path", REFUSED) from None
    except RuntimeError:
        raise InvalidRequest("The artefact cannot be read: its path is a link to itself.", "path", REFUSED) from None
    found = Artefact(kind, target, str(root), files, settings)
    check_artefact(found)
    return found


def check(artefact: Artefact, key: Ed25519PublicKey | None) -> str:
    """The revision of an artefact whose files are exactly those it names; with a `key`, one that it has signed.

    `InvalidRequest` (`artefact_refused`) says what is not as it should be: one missing, another, or one more.
    """
    revision = revision_of(artefact)
    if key is not None:
        _check_signature(artefact, revision, key)
    if artefact.path:
        now = scan(artefact.kind, artefact.target, Path(artefact.path), artefact.settings)
        said, there = ({each.path: each for each in files} for files in (artefact.files, now.files))
        for name in sorted(said.keys() | there.keys()):
            if said.get(name) != there.get(name):
                what = "is missing" if name not in there else "is not part of it" if name not in said else "has changed"
                raise InvalidRequest(f"The file '{name}' of the artefact {what}.", "files", REFUSED)
    return revision


def sign(artefact: Artefact, key_file: Path) -> Artefact:
    """The artefact with a signature; `InvalidRequest` for a key that is none, or that others may read."""
    try:
        if stat.S_IMODE(key_file.stat().st_mode) & 0o077:
            raise InvalidRequest("Others may read the signing key; set its permissions to 0600.", "key")
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise InvalidRequest(f"The signing key cannot be read: {error.strerror}.", "key") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidRequest("The signing key is no private key in PEM without a password.", "key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidRequest("The signing key is no Ed25519 key.", "key")
    signature = key.sign(_message(revision_of(artefact)))
    return replace(artefact, signature=base64.b64encode(signature).decode("ascii"))


def read_key(key_file: Path) -> Ed25519PublicKey:
    """The key in a PEM file, or `InvalidRequest`."""
    try:
        key = load_pem_public_key(key_file.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"The key of artefacts cannot be read: {error.strerror}.", "key") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidRequest("The key of artefacts is no public key in PEM.", "key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidRequest("The key of artefacts is no Ed25519 key.", "key")
    return key


def _check_signature(artefact: Artefact, revision: str, key: Ed25519PublicKey) -> None:
    if not artefact.signature:
        raise InvalidRequest("The artefact is not signed.", "signature", REFUSED)
    try:
        key.verify(base64.b64decode(artefact.signature, validate=True), _message(revision))
    except (InvalidSignature, binascii.Error, ValueError):
        raise InvalidRequest("The artefact is not signed by the key of artefacts.", "signature", REFUSED) from None


def _message(revision: str) -> bytes:
    return _DOMAIN + revision.encode("ascii") + b"\n"
