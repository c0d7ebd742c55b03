"""Whether a bundle is, file by file, what was signed. Files are read in pieces, however large."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from deployments.errors import InvalidRequest
from deployments.rollout.plan import revision_of
from deployments.rollouts import Artefact, FileSum, Kind
from serve_app.backups.manifest import BackupError, files_below
from serve_app.bundle.layout import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    SUMS_FILE,
    BundleRefused,
    Manifest,
    held_revision,
    read_manifest,
    read_small,
    read_sums,
)
from serve_app.bundle.signature import check

_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Opened:
    """A bundle whose list is signed and names exactly the files that are there; their bytes were not read yet.

    `digest`: SHA-256 (hex) of SHA256SUMS, which identifies the bundle. `signed_by`: the id of the key, None unsigned.
    """

    root: Path
    sums: Mapping[str, str]
    manifest: Manifest
    digest: str
    signed_by: str | None


def opened(root: Path, key: Ed25519PublicKey | None) -> Opened:
    """The bundle in the folder `root`. Without a `key` nobody's signature is asked for.

    `BundleRefused`: not signed by the key, a file missing or added, a link, or anything else that is no plain file.
    """
    if not root.is_dir():
        raise BundleRefused(f"there is no bundle at {root}.")
    sums = read_small(root / SUMS_FILE)
    signed_by = None if key is None else check(sums, _signature(root), key)
    named = read_sums(sums)
    try:
        present = {*files_below(root)} - {SUMS_FILE, SIGNATURE_FILE}
    except BackupError as error:
        raise BundleRefused(str(error)) from None
    except OSError as error:
        raise BundleRefused(f"the bundle cannot be read: {error}.") from None
    if lost := sorted(named.keys() - present):
        raise BundleRefused(f"{_files(len(lost))} missing: {_some(lost)}.")
    if surplus := sorted(present - named.keys()):
        raise BundleRefused(f"{_files(len(surplus))} not part of the bundle: {_some(surplus)}.")
    data = read_small(root / MANIFEST_FILE)
    if hashlib.sha256(data).hexdigest() != named[MANIFEST_FILE]:
        raise BundleRefused(f"{MANIFEST_FILE} has changed.")
    manifest = read_manifest(data)
    for each in manifest.named:
        if each.path not in named:
            raise BundleRefused(f"{MANIFEST_FILE} names {each.path}, and the bundle has no such file.")
    return Opened(root, named, manifest, hashlib.sha256(sums).hexdigest(), signed_by)


def verify(root: Path, key: Ed25519PublicKey | None) -> Opened:
    """A bundle every byte of which is what was signed; `BundleRefused` names the files that are not."""
    found = opened(root, key)
    sizes: dict[str, int] = {}
    changed: list[str] = []
    for path, digest in found.sums.items():
        seen, sizes[path] = _digest(root, path)
        if seen != digest:
            changed.append(path)
    if changed:
        word = "has" if len(changed) == 1 else "have"
        raise BundleRefused(f"{len(changed)} of {len(sizes)} files {word} changed: {_some(changed)}.")
    for model in found.manifest.models:
        prefix = f"{model.folder}/"
        files = tuple(
            FileSum(path.removeprefix(prefix), sizes[path], digest)
            for path, digest in found.sums.items()
            if path.startswith(prefix)
        )
        if not files or weights_revision(model.model, files) != model.revision:
            raise BundleRefused(
                f"the weights of {model.model} are not those of the revision that {MANIFEST_FILE} says."
            )
    both = {path: (sizes[path], digest) for path, digest in found.sums.items()}
    for each in found.manifest.named:
        if each.held is not None and held_revision(each.held, both) != each.held.revision:
            raise BundleRefused(f"{each.held.root} is not the revision that {MANIFEST_FILE} says of {each.setting}.")
    return found


def weights_revision(model: str, files: tuple[FileSum, ...]) -> str:
    """The revision of weights: what registering them as an artefact gives, wherever they lie. `BundleRefused`."""
    try:
        return revision_of(Artefact(Kind.MODEL, model, "weights", files))
    except InvalidRequest as error:
        raise BundleRefused(f"the weights of {model} cannot be an artefact: {error.public_message}") from None


def open_plain(path: Path) -> BinaryIO:
    """A file opened for reading without following a link in its last place; `OSError`."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def copy(source: Path, target: Path) -> tuple[str, int]:
    """Copy one file in pieces; SHA-256 (hex) and size of the bytes that were written. `OSError`."""
    digest, size = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_plain(source) as file, target.open("xb") as out:
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
            out.write(piece)
    return digest.hexdigest(), size


def digest_of(path: Path) -> tuple[str, int]:
    """SHA-256 (hex) and size of a plain file. `OSError`."""
    digest, size = hashlib.sha256(), 0
    with open_plain(path) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def _digest(root: Path, path: str) -> tuple[str, int]:
    try:
        return digest_of(root / path)
    except OSError as error:
        raise BundleRefused(f"{path} cannot be read: {error.strerror}.") from None


def _signature(root: Path) -> bytes:
    if not (root / SIGNATURE_FILE).is_file():
        raise BundleRefused(f"the bundle is not signed: there is no {SIGNATURE_FILE}.")
    return read_small(root / SIGNATURE_FILE)


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (", ..." if len(paths) > 5 else "")
