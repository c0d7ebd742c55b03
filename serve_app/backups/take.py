"""Making a backup while Gatehouse runs: the stores first, the log after them, then the secrets.

Why in this order: what a store shows as done is in the log before or with it, so a log that is copied later has the
record of everything in the copied stores. The other way round a restored store could show a release that no record
proves. What the log has beyond the stores is reported at the restore.
"""

import io
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from sqlalchemy.exc import SQLAlchemyError

from deployments.audit.read import durable_size
from deployments.audit.settings import AuditSettings
from deployments.audit.signing import keys_directory
from deployments.migrations.runner import Feature
from deployments.store import sqlite_url
from serve_app.backups import age
from serve_app.backups.last import note
from serve_app.backups.logcopy import copy_log, failures, log_key
from serve_app.backups.manifest import (
    AUDIT_DIR,
    FILES_DIR,
    FORMAT,
    SEALED_SECRETS,
    SECRETS_DIR,
    STORES_DIR,
    BackupError,
    LogEntry,
    Manifest,
    NamedEntry,
    StoreEntry,
    entry,
    files_below,
    write_manifest,
)
from serve_app.backups.stores import copy_sqlite, dump_postgres, revisions
from serve_app.stores import FILES, sqlite_file

KEY_FILES = ("pepper", "operator.key")
GATE_KEYS_DIR, AUDIT_KEYS_DIR = "gate-keys", "audit-keys"
DUMP_FILE = "database.dump"


@dataclass(frozen=True, slots=True)
class Source:
    """What is backed up. `databases`: URLs with the features in them.

    `named`: what the configuration names, `files` all that belongs to it, path in the backup -> where it lies here, and
    `links` those of another name than what they lead to; `left_to_the_site`: what it names and no backup takes.
    """

    state: Path
    databases: Mapping[str, Sequence[Feature]]
    audit: AuditSettings
    named: Sequence[NamedEntry]
    files: Mapping[str, Path]
    links: Mapping[str, str]
    left_to_the_site: Sequence[str]
    serve_file: Path | None
    profile: str
    code_version: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A backup: its manifest, and the manifest's SHA-256 (hex)."""

    manifest: Manifest
    digest: str


def take(
    source: Source,
    target: Path,
    now_ms: int,
    environment: Mapping[str, str],
    *,
    with_secrets: bool = False,
    recipients: Sequence[X25519PublicKey] = (),
    say: Callable[[str], None] = lambda _: None,
    remember: bool = True,
) -> Taken:
    """Write a backup to a directory, or to one file if its name ends in `.tar`; it appears whole or not at all.

    Secrets are encrypted if there are `recipients`, else their files have mode 0600. `remember`: note it in the state
    directory, for `gatehouse status`. `BackupError`, `OSError`.
    """
    if target.exists() or target.is_symlink():
        raise BackupError(f"{target} exists; a backup overwrites nothing.")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    work.mkdir(mode=0o700)
    try:
        taken = _fill(source, work, now_ms, environment, with_secrets=with_secrets, recipients=recipients, say=say)
        if target.suffix == ".tar":
            packed = work.with_suffix(".tar")
            try:
                _pack(work, packed)
                _publish(packed, target)
            finally:
                packed.unlink(missing_ok=True)
        else:
            _publish(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if remember:
        note(source.state, "backup", now_ms, str(target), good=not taken.manifest.log.failures)
    return taken


def _fill(
    source: Source,
    work: Path,
    now_ms: int,
    environment: Mapping[str, str],
    *,
    with_secrets: bool,
    recipients: Sequence[X25519PublicKey],
    say: Callable[[str], None],
) -> Taken:
    size_before = durable_size(source.state / "audit")
    stores = [
        found
        for url, features in source.databases.items()
        if (found := _copy_store(url, features, work, environment)) is not None
    ]
    for store in stores:
        say(f"{store.file}: {sum(store.counts.values())} rows in {len(store.counts)} tables")
    report = copy_log(source.state / "audit", work / AUDIT_DIR)
    say(
        f"{AUDIT_DIR}: {report.records} records"
        + ("" if report.ok else f", FAILED checks: {', '.join(failures(report))}")
    )
    for name, path in source.files.items():
        _write(work / name, path.read_bytes())
    say(f"{FILES_DIR}: {len(source.files)} files that the configuration names")
    left_out = ["secrets: said without --with-secrets"]
    if with_secrets:
        found, left_out = _secrets(source)
        if recipients:
            _write(work / SEALED_SECRETS, age.encrypt(_packed(found), recipients))
        else:
            for name, data in found.items():
                _write(work / SECRETS_DIR / name, data)
    kind = "none" if not with_secrets else "age" if recipients else "plain"
    manifest = Manifest(
        format=FORMAT,
        code_version=source.code_version,
        made_at_ms=now_ms,
        profile=source.profile,
        stores=stores,
        log=LogEntry(
            size_before=size_before,
            records=report.records,
            head_hash=report.head_hash.hex(),
            key=log_key(work / AUDIT_DIR),
            failures=failures(report),
        ),
        secrets=kind,
        left_out=[*left_out, *source.left_to_the_site],
        named=[*source.named],
        links={**source.links},
        files={path: entry(work / path, durable=True) for path in files_below(work)},
    )
    return Taken(manifest, write_manifest(work, manifest))


def _copy_store(url: str, features: Sequence[Feature], work: Path, environment: Mapping[str, str]) -> StoreEntry | None:
    """The copy of one database; None for a file that no feature has made yet."""
    (work / STORES_DIR).mkdir(mode=0o700, exist_ok=True)
    file = sqlite_file(url)
    if file is None:
        name = f"{STORES_DIR}/{DUMP_FILE}"
        try:
            known = revisions(url, features)
        except SQLAlchemyError as error:
            raise BackupError(f"the database does not answer ({type(error).__name__}).") from error
        return StoreEntry(
            kind="postgresql", file=name, counts=dump_postgres(url, work / name, environment), revisions=known
        )
    if not file.is_file():
        return None
    name = f"{STORES_DIR}/{FILES[features[0]] if len(features) == 1 else file.name}"
    counts = copy_sqlite(file, work / name)
    (work / name).chmod(0o600)
    known = revisions(sqlite_url(work / name), features)
    return StoreEntry(kind="sqlite", file=name, counts=counts, revisions=known)


def _secrets(source: Source) -> tuple[Mapping[str, bytes], list[str]]:
    """What unlocks the rest, by name, and what lies elsewhere, under the operator's own care: it is only named.

    In memory: where secrets are to be encrypted, the backup's medium never has them as they are.
    """
    found: dict[str, bytes] = {}
    left_out: list[str] = []
    for name in KEY_FILES:
        if (source.state / name).is_file():
            found[name] = (source.state / name).read_bytes()
    folders = {GATE_KEYS_DIR: source.state / GATE_KEYS_DIR}
    if source.audit.keys_dir is None:
        folders[AUDIT_KEYS_DIR] = keys_directory(source.state / "audit", source.audit)
    else:
        left_out.append(f"audit.keys_dir: {source.audit.keys_dir}")
    for name, given in (
        ("signing_key_file", source.audit.signing_key_file),
        ("vault_key_file", source.audit.vault_key_file),
    ):
        if given is not None:
            left_out.append(f"audit.{name}: {given}")
    for name, folder in folders.items():
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                found[f"{name}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    if source.serve_file is not None:  # it may hold the password of the database
        found[source.serve_file.name] = source.serve_file.read_bytes()
    return found, left_out


def _write(target: Path, data: bytes) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _packed(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o600
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _pack(work: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name in files_below(work):
                archive.add(work / name, arcname=name, filter=_anonymous)
        file.flush()
        os.fsync(file.fileno())


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names and numbers of accounts on this machine."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _publish(work: Path, target: Path) -> None:
    """Give it its name, durably. A rename replaces an empty directory at most, and a file that came meanwhile: no."""
    if work.is_dir():
        work.rename(target)
    else:
        os.link(work, target)
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
