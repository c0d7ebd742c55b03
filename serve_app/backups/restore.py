"""Restoring a backup: every byte is checked before the first one is put anywhere, and nothing is overwritten."""

import io
import os
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from serve_app.backups import age
from serve_app.backups.checks import NO_SITE_KEYS, Check, Restored, SiteKeys, check, newer_records
from serve_app.backups.manifest import (
    AUDIT_DIR,
    SEALED_SECRETS,
    SECRETS_DIR,
    BackupError,
    Manifest,
    check_files,
    files_below,
    read_manifest,
)
from serve_app.backups.places import Placing, in_state, link_places, places, refuse_others
from serve_app.backups.stores import is_whole_dump, restore_postgres
from serve_app.backups.take import AUDIT_KEYS_DIR, GATE_KEYS_DIR, KEY_FILES
from serve_app.config import ROOT


@dataclass(frozen=True, slots=True)
class Outcome:
    """A restore. `newer`: records that the log has and the stores may not know of. `digest`: of the manifest."""

    state: Path
    manifest: Manifest
    digest: str
    checks: tuple[Check, ...]
    newer: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True when no check failed; one that could not be tried fails nothing."""
        return not any(each.held is False for each in self.checks)


@contextmanager
def opened(backup: Path, digest: str | None = None) -> Generator[tuple[Path, Manifest, str]]:
    """A backup, unpacked where it is packed, with its manifest and that one's SHA-256; every file was checked.

    `digest`: what that SHA-256 has to be. `BackupError`, `OSError`.
    """
    if not backup.exists():
        raise BackupError(f"there is no backup at {backup}.")
    if backup.is_dir():
        yield backup, *_checked(backup, digest)
        return
    beside = backup.parent if os.access(backup.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gatehouse-backup-", dir=beside) as folder:
        try:
            with tarfile.open(backup, mode="r:") as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise BackupError(f"{backup.name} is no tar file, or not all of one: {error}.") from error
        yield Path(folder), *_checked(Path(folder), digest)


def _checked(directory: Path, digest: str | None) -> tuple[Manifest, str]:
    manifest, found = read_manifest(directory)
    if digest is not None and found != digest:
        raise BackupError(f"the manifest's SHA-256 is {found}, not the one that was asked for.")
    check_files(directory, manifest)
    return manifest, found


def restore(
    backup: Path,
    into: Path,
    environment: Mapping[str, str],
    *,
    database: str | None = None,
    identity: X25519PrivateKey | None = None,
    digest: str | None = None,
    files_into: Path | None = None,
    installation: Path = ROOT,
    site_keys: SiteKeys = NO_SITE_KEYS,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Restore a backup into a state directory that does not exist, and a dump into an empty database.

    The directory is made beside its place and gets its name when all is in it. The files that the configuration names
    go where it names them, or below `files_into`. The checks try `site_keys`. What they find is in the
    outcome; then everything is where it belongs, and Gatehouse should not be started before somebody has looked.
    `BackupError` and `OSError`: the state directory was not made, and no file was left anywhere.
    """
    if into.is_symlink() or (into.exists() and not _is_empty(into)):
        raise BackupError(f"{into} exists; a restore overwrites nothing: move it away, or restore into another place.")
    with opened(backup, digest) as (source, manifest, found):
        say(f"{len(manifest.files)} files are as they were backed up (manifest {found})")
        dumps = [store for store in manifest.stores if store.kind == "postgresql"]
        if dumps and database is None:
            raise BackupError("the backup holds a dump of PostgreSQL: say where to with --database URL, an empty one.")
        for store in dumps:
            is_whole_dump(source / store.file, environment)
        files_into = None if files_into is None else files_into.absolute()
        wanted = places(manifest, into.absolute(), installation, files_into)
        outside = {name: path for name, path in wanted.items() if not in_state(name)}
        links = link_places(manifest, into.absolute(), installation, files_into)
        there = refuse_others(manifest, outside, links)
        into.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        work = into.with_name(f".{into.name}.{secrets.token_hex(8)}.part")
        work.mkdir(mode=0o700)
        placing = Placing()
        try:
            stores = _lay_out(source, manifest, work, database, identity)
            for name, path in places(manifest, work.absolute(), installation, files_into).items():
                if in_state(name):
                    _put_beside(source / name, path)
            for name in sorted(outside.keys() - there):
                placing.put(source / name, outside[name])
            for link, path in links.items():
                if not link.is_relative_to(into.absolute()):
                    placing.link(link, path)
            for store in dumps:
                restore_postgres(source / store.file, stores[store.file], environment)
            for path in files_below(work):
                _make_durable(work / path)
            for link, path in links.items():
                if link.is_relative_to(into.absolute()):
                    placing.link(work.absolute() / link.relative_to(into.absolute()), path)
            work.rename(into)
        except BaseException:
            placing.undo()
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    if wanted:
        say(f"{len(wanted)} files that the configuration names: {len(there)} were there, the others were put back")
    stores = {
        name: where if store_is_remote(manifest, name) else str(into / "state" / Path(name).name)
        for name, where in stores.items()
    }
    restored = Restored(into, manifest, stores, wanted, links, site_keys)
    return Outcome(into, manifest, found, tuple(check(restored)), tuple(newer_records(restored)))


def store_is_remote(manifest: Manifest, file: str) -> bool:
    """True for a dump, which lies in no state directory."""
    return any(store.file == file and store.kind == "postgresql" for store in manifest.stores)


def _lay_out(
    source: Path, manifest: Manifest, work: Path, database: str | None, identity: X25519PrivateKey | None
) -> dict[str, str]:
    """Put the files where a state directory has them; where each store is."""
    stores: dict[str, str] = {}
    for store in manifest.stores:
        if store.kind == "postgresql":
            stores[store.file] = database or ""
            continue
        target = work / "state" / Path(store.file).name
        _put(source / store.file, target)
        stores[store.file] = str(target)
    for name in files_below(source / AUDIT_DIR):
        _put(source / AUDIT_DIR / name, work / AUDIT_DIR / name)
    if manifest.secrets == "age":
        if identity is None:
            raise BackupError("the secrets are encrypted: say with --identity which key file opens them.")
        _unseal(source / SEALED_SECRETS, work / SECRETS_DIR, identity)
    elif manifest.secrets == "plain":
        for name in files_below(source / SECRETS_DIR):
            _put(source / SECRETS_DIR / name, work / SECRETS_DIR / name)
    for name in (*KEY_FILES, GATE_KEYS_DIR, AUDIT_KEYS_DIR):
        if (work / SECRETS_DIR / name).exists():
            (work / SECRETS_DIR / name).rename(work / name)
    if (work / SECRETS_DIR).is_dir():  # the configuration, for whoever needs it
        (work / SECRETS_DIR).rename(work / "restored-configuration")
    return stores


def _unseal(sealed: Path, target: Path, identity: X25519PrivateKey) -> None:
    try:
        packed = age.decrypt(sealed.read_bytes(), identity)
    except age.AgeError as error:
        raise BackupError(f"the secrets cannot be opened: {error}.") from error
    target.mkdir(mode=0o700)
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
        archive.extractall(target, filter="data")


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o600)


def _put_beside(source: Path, target: Path) -> None:
    """Put a file among those that are restored; `BackupError` when it would take the place of one."""
    if os.path.lexists(target):
        raise BackupError(f"the configuration names {target.name}, which is a file of the state itself.")
    _put(source, target)


def _make_durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_empty(directory: Path) -> bool:
    return directory.is_dir() and not any(directory.iterdir())
