"""What a restored system must show before anybody relies on it: its rows, its revisions, its keys, its log."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from deployments.audit.notes import BadKey, read_signer_key
from deployments.audit.read import read_entries
from deployments.audit.signing import KEY_FILE
from deployments.audit.vault import BODIES_DIR, open_reader
from deployments.audit.vault_keys import CHECK_FILE, VaultRefused
from deployments.errors import GateUnavailable
from deployments.gate.permit_keys import PermitKeys
from deployments.migrations.runner import FEATURES, migrations, standing
from deployments.tenancy.keys import matches, parse, pepper_check
from deployments.tenancy.pepper import BadPepper, load_or_create_pepper
from serve_app.backups.logcopy import failures, verified
from serve_app.backups.manifest import (
    AUDIT_DIR,
    BackupError,
    FileEntry,
    HeldEntry,
    Manifest,
    StoreEntry,
    entry,
)
from serve_app.backups.named import revision_at
from serve_app.backups.places import leads
from serve_app.backups.stores import counted, url_of
from serve_app.backups.take import AUDIT_KEYS_DIR, GATE_KEYS_DIR

_DECISIVE = ("key.", "approval.", "permit.", "tool_call.", "tenant.", "bodies.")


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation. `held` None: it could not be tried; `seen` says what was found."""

    what: str
    held: bool | None
    seen: str


@dataclass(frozen=True, slots=True)
class SiteKeys:
    """Keys of the audit log that are the site's own and in no backup, where they are known.

    `folder` is `audit.keys_dir`, `signing` and `vault` are the files that `audit.signing_key_file` and
    `audit.vault_key_file` name.
    """

    folder: Path | None = None
    signing: Path | None = None
    vault: Path | None = None


NO_SITE_KEYS: Final = SiteKeys()


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored system: where its state is, and where each store of the manifest went (a path or a URL).

    `files`: where each of the files that the configuration names is, by its path in the backup; `links`: where links
    are, and where they lead. `site_keys` are tried in the place of those of the backup.
    """

    state: Path
    manifest: Manifest
    stores: Mapping[str, str]
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    links: Mapping[Path, Path] = field(default_factory=dict[Path, Path])
    site_keys: SiteKeys = NO_SITE_KEYS


def check(restored: Restored) -> list[Check]:
    """All checks, in order. `OSError` when a disk does not answer."""
    found: list[Check] = []
    for store in restored.manifest.stores:
        found += _store(store, restored.stores[store.file])
    found += _keys(restored)
    found += _log(restored)
    found += _told(restored)
    found += _files(restored)
    return found


def newer_records(restored: Restored) -> list[str]:
    """What came into the log while the stores were copied and may not be in them, the oldest first: `index name`.

    Only records about keys, approvals, permits, calls and bodies: what they say holds although a store says otherwise.
    """
    named = (
        (index, str(cast("dict[str, object]", json.loads(payload)).get("name")))
        for index, payload in read_entries(restored.state / AUDIT_DIR, restored.manifest.log.size_before)
    )
    return [f"{index} {name}" for index, name in named if name.startswith(_DECISIVE)]


def _store(store: StoreEntry, where: str) -> list[Check]:
    try:
        counts = counted(store.kind, where)
        standings = [
            standing(url_of(store.kind, where), migrations(each)) for each in FEATURES if each in store.revisions
        ]
    except (BackupError, SQLAlchemyError) as error:
        return [Check(f"{store.file} can be read", False, str(error))]
    different = sorted(
        name for name in counts.keys() | store.counts.keys() if counts.get(name) != store.counts.get(name)
    )
    unknown = [each.feature for each in standings if each.newer and not each.usable]
    return [
        Check(
            f"{store.file} has the rows that were backed up",
            not different,
            f"{sum(counts.values())} rows in {len(counts)} tables"
            if not different
            else f"differ: {', '.join(different)}",
        ),
        Check(
            f"this version works with the tables in {store.file}",
            not unknown,
            ", ".join(f"{each.feature} {each.present or 'never migrated'}" for each in standings),
        ),
    ]


# --- keys ------------------------------------------------------------------------------------------------------------


def _keys(restored: Restored) -> list[Check]:
    state = restored.state
    if not (state / "pepper").is_file():
        said = "there is no pepper in the backup: put yours back, then run `gatehouse doctor`"
        return [Check("stored keys can be used", None, said)]
    found: list[Check] = []
    tenancy = _url_of_feature(restored, "tenancy")
    try:
        pepper = load_or_create_pepper(state / "pepper")
    except BadPepper as error:
        return [Check("stored keys can be used", False, str(error))]
    if tenancy is not None:
        expected = _ask(tenancy, lambda at: _scalar(at, "SELECT value FROM tenancy_facts WHERE name = 'pepper_check'"))
        same = expected is not None and bytes(cast(bytes, expected)) == pepper_check(pepper)
        found.append(
            Check("the stored keys were made under this pepper", same, "" if same else "another pepper made them")
        )
        found.append(_operator(state, tenancy, pepper))
    if (state / GATE_KEYS_DIR).is_dir():
        try:
            keys = PermitKeys(state / GATE_KEYS_DIR).all()
        except GateUnavailable as error:
            found.append(Check("permits can be signed", False, str(error)))
        else:
            found.append(Check("permits can be signed", True, f"{len(keys)} keys"))
    found += _audit_keys(restored)
    return found


def _operator(state: Path, tenancy: str, pepper: bytes) -> Check:
    what = "the operator's key is known and good"
    if not (state / "operator.key").is_file():
        return Check(what, None, "there is no operator.key in the backup")
    presented = parse((state / "operator.key").read_text(encoding="utf-8").strip())
    if presented is None:
        return Check(what, False, "operator.key holds no key")

    def ask(connection: Connection) -> object:
        query = text("SELECT digest, revoked_ms FROM keys WHERE prefix = :prefix")
        return connection.execute(query, {"prefix": presented.prefix}).one_or_none()

    row = cast("tuple[bytes, int | None] | None", _ask(tenancy, ask))
    if row is None:
        return Check(what, False, "the store does not know it")
    if not matches(pepper, presented.text, bytes(row[0])):
        return Check(what, False, "the store knows another key of this prefix")
    return Check(what, row[1] is None, "" if row[1] is None else "it was revoked")


def _audit_keys(restored: Restored) -> list[Check]:
    state, log, site = restored.state, restored.manifest.log, restored.site_keys
    folder = site.folder or state / AUDIT_KEYS_DIR
    found: list[Check] = []
    what = "the log can be signed"
    missing = _not_known(restored, "signing_key_file", site.signing)
    if missing is not None:
        found.append(Check(what, None, missing))
    else:
        try:
            own = str(read_signer_key(site.signing or folder / KEY_FILE).verifier)
        except (BadKey, OSError) as error:
            found.append(Check(what, False, str(error)))
        else:
            found.append(Check(what, own == log.key, own if own == log.key else "by another log's key"))
    if (state / AUDIT_DIR / BODIES_DIR / CHECK_FILE).is_file():
        what = "kept bodies can be opened"
        missing = _not_known(restored, "keys_dir", site.folder) or _not_known(restored, "vault_key_file", site.vault)
        if missing is not None:
            found.append(Check(what, None, missing))
            return found
        try:
            open_reader(state / AUDIT_DIR, folder, None if site.vault is None else str(site.vault))
        except (VaultRefused, OSError) as error:
            found.append(Check(what, False, str(error)))
        else:
            found.append(Check(what, True, ""))
    return found


def _not_known(restored: Restored, setting: str, given: Path | None) -> str | None:
    """Why the key that a setting names cannot be tried; None: it can, or it lies with the others.

    `given`: where it is, if that is known.
    """
    if given is not None:
        return None
    if _is_the_sites(restored, setting):
        return f"its key is the site's own: audit.{setting}"
    if restored.site_keys.folder is not None or (restored.state / AUDIT_KEYS_DIR).is_dir():
        return None
    if _is_the_sites(restored, "keys_dir"):
        return "its key is the site's own: audit.keys_dir"
    return "there is no key in the backup"


def _is_the_sites(restored: Restored, setting: str) -> bool:
    """Whether the backup was made where a setting names a key, which no backup copies."""
    return any(each.startswith(f"audit.{setting}: ") for each in restored.manifest.left_out)


# --- the log ---------------------------------------------------------------------------------------------------------


def _log(restored: Restored) -> list[Check]:
    log = restored.manifest.log
    try:
        report = verified(restored.state / AUDIT_DIR)
    except BackupError as error:
        return [Check("the log can be verified", False, str(error))]
    same = (report.records, report.head_hash.hex()) == (log.records, log.head_hash)
    now = failures(report)
    if report.ok:
        seen = f"{report.records} records, {report.checkpoints} checkpoints"
    else:
        names = ", ".join(now)
        seen = f"failed: {names}" + (", as when it was backed up" if now == log.failures else "")
    return [
        Check("the log has the records that were backed up", same, f"{report.records} of {log.records} records"),
        Check("the log verifies", report.ok, seen),
    ]


def _told(restored: Restored) -> list[Check]:
    """What the gate's tables call recorded is in the log: the stores know of nothing that has no evidence."""
    gate = _url_of_feature(restored, "gate")
    if gate is None:
        return []
    rows = cast(
        "list[tuple[str]] | None",
        _ask(
            gate, lambda at: [*at.execute(text("SELECT event_id FROM gate_told WHERE state = 'recorded'"))], "gate_told"
        ),
    )
    missing = {event_id for (event_id,) in rows or ()}
    count = len(missing)
    for _, payload in read_entries(restored.state / AUDIT_DIR) if missing else ():
        missing.discard(str(cast("dict[str, object]", json.loads(payload)).get("event_id")))
    seen = f"{count} events" if not missing else f"{len(missing)} of {count} events are not in the log"
    return [Check("what the gate did is in the log", not missing, seen)]


# --- what the configuration names ------------------------------------------------------------------------------------


def _files(restored: Restored) -> list[Check]:
    """The files are as they were backed up, and those that a revision is promised of are that revision."""
    if not restored.manifest.named:
        return []  # a backup from before they were in it
    wrong = [path for name, path in restored.files.items() if not _is(path, restored.manifest.files[name])]
    wrong += [link for link, path in restored.links.items() if not leads(link, path)]
    seen = f"{len(restored.files)} files" if not wrong else f"{len(wrong)} are not, the first is {wrong[0]}"
    found = [Check("what the configuration names is where it names it", not wrong, seen)]
    for each in restored.manifest.named:
        if each.held is not None:
            found.append(_held(each.setting, each.held, _root(restored, each.held.root)))
    return found


def _held(setting: str, held: HeldEntry, root: Path) -> Check:
    what = f"{setting} is the revision that the configuration names"
    try:
        revision = revision_at(held.kind, held.target, root)
    except (OSError, ValueError) as error:
        return Check(what, False, f"{root} cannot be read: {error}")
    same = revision == held.revision
    return Check(what, same, revision[:12] if same else f"it is {revision[:12]}, not {held.revision[:12]}: {root}")


def _root(restored: Restored, root: str) -> Path:
    """Where the file, or the folder, of an artefact is."""
    if root in restored.files:
        return restored.files[root]
    name, path = next((name, path) for name, path in restored.files.items() if name.startswith(f"{root}/"))
    return path.parents[name.removeprefix(f"{root}/").count("/")]


def _is(path: Path, expected: FileEntry) -> bool:
    try:
        return entry(path) == expected
    except OSError:
        return False


def _url_of_feature(restored: Restored, feature: str) -> str | None:
    for store in restored.manifest.stores:
        if feature in store.revisions:
            return url_of(store.kind, restored.stores[store.file])
    return None


def _ask(url: str, ask: Callable[[Connection], object], table: str | None = None) -> object:
    """What a query answers; None when the database does not, or has no such table."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        parsed = parsed.set(drivername="sqlite")
    engine = create_engine(parsed, poolclass=NullPool, hide_parameters=True)
    try:
        with engine.connect() as connection:
            if table is not None and not inspect(connection).has_table(table):
                return None
            return ask(connection)
    except SQLAlchemyError:
        return None
    finally:
        engine.dispose()


def _scalar(connection: Connection, query: str) -> object:
    return connection.execute(text(query)).scalar_one_or_none()
