"""What a backup says of itself: every file with its size and digest, and what the copies held when they were made.

```
manifest.json
stores/<feature>.db | stores/database.dump     SQLite file | PostgreSQL's custom format
audit/...                                      the log
files/BASE/...                                 policies, prompts, snapshots, the evaluation suite: `places`
secrets/... | secrets.age                      only if asked for
```

Backups from before there was `named` have `policies/`, bundles without their places: kept there, restored nowhere.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from deployments.rollouts import Kind

FORMAT = "gatehouse.backup/1"
MANIFEST_FILE = "manifest.json"
STORES_DIR, AUDIT_DIR, FILES_DIR, SECRETS_DIR = "stores", "audit", "files", "secrets"
SEALED_SECRETS = "secrets.age"
_CHUNK_BYTES = 1 << 20


class BackupError(Exception):
    """A backup or restore that cannot be made, or a backup that is not whole. One sentence for the operator."""


def inside(path: str) -> str:
    """The path, if it leads below the backup, and is no other spelling of another; else `ValueError`."""
    found = PurePosixPath(path)
    if found.is_absolute() or ".." in found.parts or str(found) != path or path in {"", ".", MANIFEST_FILE}:
        raise ValueError("not a path inside the backup")
    return path


InsidePath = Annotated[str, AfterValidator(inside)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Model):
    """A file: its size and its SHA-256 (hex)."""

    bytes: Count
    sha256: Digest


class StoreEntry(_Model):
    """The copy of one database. `counts`: rows by table; `revisions`: of each feature in it, None before any."""

    kind: Literal["sqlite", "postgresql"]
    file: InsidePath
    counts: dict[str, Count]
    revisions: dict[str, str | None]


class LogEntry(_Model):
    """The copy of the audit log. `size_before`: records when the first store was copied.

    `failures`: what the verifier found in the log, by check; a log that has none is evidence.
    """

    size_before: Count
    records: Count
    head_hash: Digest
    key: str | None
    failures: dict[str, Count]


class HeldEntry(_Model):
    """The revision that files must be; `root` is the file, or the folder all of which it is over, in the backup."""

    kind: Kind
    target: str
    revision: Digest
    root: InsidePath


class NamedEntry(_Model):
    """What a key of the configuration names. `path`: its file or link in the backup; `setting`: the key, for people."""

    setting: str
    path: InsidePath
    held: HeldEntry | None = None


class Manifest(_Model):
    """The file `manifest.json`. `named` and `links` are empty in backups from before they were there.

    `links`: which of the files a link of another name led to, both by their paths in the backup.
    """

    format: Literal["gatehouse.backup/1"]
    code_version: str
    made_at_ms: Count
    profile: str
    stores: list[StoreEntry]
    log: LogEntry
    secrets: Literal["none", "plain", "age"]
    left_out: list[str]
    named: list[NamedEntry] = []
    links: dict[InsidePath, InsidePath] = {}
    files: dict[InsidePath, FileEntry]


def setting_name(setting: str, model: str | None) -> str:
    """A key of the configuration, or of one of its models, for people."""
    return setting if model is None else f"models[{model}].{setting}"


def files_below(directory: Path) -> Iterator[str]:
    """The relative paths of all files, in order; `BackupError` for what is neither file nor directory."""
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BackupError(f"{path} is neither a file nor a directory.")
        if path.is_file():
            yield path.relative_to(directory).as_posix()


def entry(path: Path, *, durable: bool = False) -> FileEntry:
    """Size and digest of a file; `durable` waits until its bytes are on the disk. `OSError`."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        if durable:
            os.fsync(file.fileno())
    return FileEntry(bytes=size, sha256=digest.hexdigest())


def write_manifest(directory: Path, manifest: Manifest) -> str:
    """Write it beside the files; its SHA-256 (hex), which identifies the whole backup."""
    path = directory / MANIFEST_FILE
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=2) + "\n")
    return entry(path, durable=True).sha256


def read_manifest(directory: Path) -> tuple[Manifest, str]:
    """The manifest of an unpacked backup, and its SHA-256 (hex). `BackupError`."""
    path = directory / MANIFEST_FILE
    try:
        return Manifest.model_validate_json(path.read_bytes()), entry(path).sha256
    except FileNotFoundError:
        raise BackupError(f"there is no {MANIFEST_FILE}: this is no backup, or not all of one.") from None
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"])) or "its whole"
        raise BackupError(f"{MANIFEST_FILE} cannot be read: {where} is not what {FORMAT} has there.") from None


def check_files(directory: Path, manifest: Manifest) -> None:
    """`BackupError` unless the files are exactly those of the manifest, byte for byte."""
    present = {*files_below(directory)} - {MANIFEST_FILE}
    if lost := sorted(manifest.files.keys() - present):
        raise BackupError(f"{len(lost)} files of the backup are missing, the first is {lost[0]}.")
    if surplus := sorted(present - manifest.files.keys()):
        raise BackupError(f"{len(surplus)} files do not belong to the backup, the first is {surplus[0]}.")
    for path, expected in manifest.files.items():
        if entry(directory / path) != expected:
            raise BackupError(f"{path} is damaged: its bytes are not those that were backed up.")
    if not {store.file for store in manifest.stores} <= manifest.files.keys():
        raise BackupError("the manifest names a store that it has no file of.")
    for link, path in manifest.links.items():
        if path not in manifest.files or link in manifest.files:
            raise BackupError(f"the manifest names {link} as a link to {path}, which it cannot be.")
    for each in manifest.named:
        if each.path not in manifest.files and each.path not in manifest.links:
            raise BackupError(f"the manifest names {each.path}, and has no such file.")
        root = None if each.held is None else each.held.root
        if root is not None and not any(f"{name}/".startswith(f"{root}/") for name in manifest.files):
            raise BackupError(f"the manifest names {root}, and has no file of it.")
