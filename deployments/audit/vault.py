"""Bodies: what was said, as a salted commitment in the record and, where a tenant's are kept, as an encrypted blob.

```
<log>/bodies/<day of the event, UTC>/<key id>/<SHA-256 of the blob>   "GHV1" | nonce 12 | AES-256-GCM(plaintext)
<log>/bodies/incoming/       blobs that no record names yet; emptied at start
<log>/bodies/removals/       what is being deleted: a plan until its record is in the log and it is carried out

salt   = HMAC-SHA-256(k_salts, event id, field)               32 bytes
commit = SHA-256(salt || SHA-256(plaintext))                   of what was said, also where the blob is masked
nonce  = HMAC-SHA-256(k_nonces, event id, field, SHA-256(what is encrypted)), first 12 bytes
```

All of it follows from the event and the tenant's key, so an event that is appended again has the same bytes and finds
its first receipt. A nonce is used twice only for the same plaintext of the same event, which gives the same ciphertext
and tells nobody anything; for two others to share one, 96 bits of a keyed hash must collide: after 2**32 bodies under
one key the odds are 1 in 2**33. Event id, tenant and field are authenticated with it: a blob fits one place only.
"""

import errno
import hmac
import json
import logging
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import cast

from cryptography.exceptions import InvalidTag

from deployments.audit.files import SYSTEM_DISK, Disk, make_directory, replace_file, sync_directory, write_all
from deployments.audit.record import MAX_LIST_ITEMS
from deployments.audit.secrets_scan import BUDGET_S, ScanFailed, mask
from deployments.audit.settings import AuditSettings, BodySettings
from deployments.audit.vault_keys import DataKey, KeyRing, VaultRefused, is_key_id, open_ring, read_ring
from deployments.clock import Clock
from deployments.errors import AuditDiskFull, AuditRefused, AuditUnavailable, NotFound
from deployments.ports import AuditEvent, Body, BodyField, JsonValue, TenantId

BODIES_DIR = "bodies"
PRINCIPAL = "audit-sink"
DAY_MS = 86_400_000
_INCOMING_DIR = "incoming"
_REMOVALS_DIR = "removals"
_PLAN_SUFFIX = ".json"
_MAGIC = b"GHV1"
_NONCE_BYTES = 12
_EPOCH = date(1970, 1, 1)
_LAST_DAY = (date.max - _EPOCH).days
_REMEMBERED = 4_096  # kept bodies whose outcome is remembered for a retry
_log = logging.getLogger("gatehouse.audit")

Record = Mapping[str, JsonValue]


class BodyState(StrEnum):
    """Why a body cannot be read."""

    NOT_KEPT = "not_kept"
    MISSING = "missing"
    SHREDDED = "shredded"
    DAMAGED = "damaged"


class BodyUnreadable(Exception):
    """A body that cannot be read, or a commitment that cannot be checked. `state` says which."""

    def __init__(self, state: BodyState, reason: str) -> None:
        super().__init__(state, reason)
        self.state = state
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class VaultStatus:
    """What is kept: blobs, their bytes, and the oldest day (UTC) that has any."""

    bodies: int
    bytes: int
    oldest: date | None
    tenants: int
    unscanned: int
    """Bodies since the start that were not kept because the secret scan did not finish."""


@dataclass(frozen=True, slots=True)
class Removal:
    """Something to delete. First append `events`, unchanged; when they are durable, `Vault.finish`.

    It is on disk before anybody sees it: what a crash interrupts, `Vault.pending` answers after the next start, with
    the same events, so that they are recorded once.
    """

    removal_id: str
    key_ids: tuple[str, ...]
    events: tuple[AuditEvent, ...]


@dataclass(frozen=True, slots=True)
class _Blob:
    key_id: str
    day: str
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class _Kept:
    """A body whose blob is stored: what its record says of it."""

    commit: str
    body: Mapping[str, JsonValue] | None


class _KeyGone(Exception):
    """The tenant was shredded between encrypting and storing."""


# --- the arithmetic ----------------------------------------------------------------------------------------------


def _packed(*parts: str | bytes) -> bytes:
    """Parts with their lengths before them: other parts never give the same bytes."""
    packed = b""
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        packed += len(data).to_bytes(4) + data
    return packed


def _commitment(key: DataKey, event_id: str, field: str, digest: bytes) -> str:
    return sha256(hmac.digest(key.salts, _packed(event_id, field), "sha256") + digest).hexdigest()


def _label(event_id: str, tenant: str, field: str) -> bytes:
    return _packed("gatehouse.body/1", event_id, tenant, field)


def _seal(key: DataKey, event_id: str, field: str, plaintext: bytes) -> bytes:
    place = _packed(event_id, field, sha256(plaintext).digest())
    nonce = hmac.digest(key.nonces, place, "sha256")[:_NONCE_BYTES]
    return _MAGIC + nonce + key.bodies.encrypt(nonce, plaintext, _label(event_id, key.tenant, field))


def _day(at_ms: int) -> str | None:
    """The day of a time as a folder's name, None where the calendar ends."""
    days = at_ms // DAY_MS
    return (_EPOCH + timedelta(days=days)).isoformat() if days <= _LAST_DAY else None


def _parse_day(name: str) -> date | None:
    with suppress(ValueError):
        found = date.fromisoformat(name)
        return found if found.isoformat() == name else None
    return None


def _is_blob(name: str) -> bool:
    return len(name) == 64 and not name.strip("0123456789abcdef")


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else ""


# --- reading -----------------------------------------------------------------------------------------------------


class BodyReader:
    """Opens bodies and commitments of records. Writes nothing; needs no running server."""

    def __init__(self, directory: Path, keys: KeyRing) -> None:
        """Of the log in `directory`."""
        self._bodies = directory / BODIES_DIR
        self._keys = keys

    def open_body(self, record: Record, field: BodyField) -> bytes:
        """What is stored of a body, secrets masked, or `BodyUnreadable`. `record` is a decoded record of the log."""
        data = record.get("data")
        found = data.get(f"{field}_body") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(found, dict):
            raise BodyUnreadable(BodyState.NOT_KEPT, f"the record has no stored body '{field}'.")
        key_id, name, at_ms = found.get("key_id"), _text(found.get("blob")), record.get("at_ms")
        day = _day(at_ms) if isinstance(at_ms, int) and at_ms >= 0 else None
        if not is_key_id(key_id) or not _is_blob(name) or day is None:
            raise BodyUnreadable(BodyState.DAMAGED, "the record does not name a blob of this vault.")
        key = self._keys.by_id(str(key_id))
        if key is None:
            raise BodyUnreadable(BodyState.SHREDDED, f"the key {key_id} is destroyed, or not in this key directory.")
        try:
            blob = (self._bodies / day / key.key_id / name).read_bytes()
        except FileNotFoundError:
            raise BodyUnreadable(BodyState.MISSING, "the blob is not there: pruned, or removed by hand.") from None
        event_id, tenant = _text(record.get("event_id")), _text(record.get("tenant"))
        if sha256(blob).hexdigest() != name or not blob.startswith(_MAGIC):
            raise BodyUnreadable(BodyState.DAMAGED, "the blob is not the one that the record names.")
        nonce, sealed = blob[len(_MAGIC) :][:_NONCE_BYTES], blob[len(_MAGIC) + _NONCE_BYTES :]
        try:
            plaintext = key.bodies.decrypt(nonce, sealed, _label(event_id, tenant, field))
        except (InvalidTag, ValueError):
            raise BodyUnreadable(BodyState.DAMAGED, "the blob does not belong to this record.") from None
        whole = found.get("masked") == 0
        if whole and _commitment(key, event_id, field, sha256(plaintext).digest()) != data.get(f"{field}_commit"):
            raise BodyUnreadable(BodyState.DAMAGED, "the body is not the one that the record is committed to.")
        return plaintext

    def check_body(self, record: Record, field: BodyField, plaintext: bytes) -> bool:
        """True when this is what the record is committed to, byte for byte and unmasked.

        `BodyUnreadable` when that cannot be said: no such commitment, or no key of that time is left.
        """
        data, at_ms = record.get("data"), record.get("at_ms")
        commit = data.get(f"{field}_commit") if isinstance(data, dict) else None
        if not isinstance(commit, str) or not isinstance(at_ms, int):
            raise BodyUnreadable(BodyState.NOT_KEPT, f"the record has no commitment to a body '{field}'.")
        event_id, digest = _text(record.get("event_id")), sha256(plaintext).digest()
        keys = self._keys.of(TenantId(_text(record.get("tenant"))))
        if any(hmac.compare_digest(_commitment(key, event_id, field, digest), commit) for key in keys):
            return True
        # A tenant's first key is for events of any age. When the oldest that is left is younger than the event, the
        # key of its time was destroyed, and "no" would be a guess.
        if not keys or keys[0].since_ms > at_ms:
            raise BodyUnreadable(BodyState.SHREDDED, "the tenant's key of that time is destroyed, or not here.")
        return False


def open_reader(directory: Path, keys_dir: Path, vault_key_file: str | None = None) -> BodyReader:
    """A reader of the bodies of the log in `directory`; changes nothing. `VaultRefused` or `OSError`."""
    return BodyReader(directory, read_ring(directory / BODIES_DIR, keys_dir, vault_key_file))


# --- writing -----------------------------------------------------------------------------------------------------


class Vault(BodyReader):
    """The bodies of one log. The methods block and may be called from several threads.

    Whoever opens it holds the lock of the log's writer.
    """

    def __init__(
        self,
        directory: Path,
        keys_dir: Path,
        settings: AuditSettings,
        clock: Clock,
        *,
        disk: Disk = SYSTEM_DISK,
    ) -> None:
        """Of the log in `directory`. Raises `VaultRefused` or `OSError`."""
        bodies = directory / BODIES_DIR
        super().__init__(directory, open_ring(bodies, keys_dir, settings.vault_key_file))
        self._settings: BodySettings = settings.bodies
        self._min_free_bytes = settings.min_free_bytes
        self._clock = clock
        self._disk = disk
        self._lock = threading.Lock()
        self._deleting = threading.Lock()
        self._numbers = count()
        self._remembered: OrderedDict[tuple[str, str, bytes], _Kept] = OrderedDict()
        self._stored: tuple[int, int] | None = None  # bodies and bytes, once somebody asked
        self._unscanned = 0
        self.failure: str | None = None
        make_directory(bodies / _INCOMING_DIR, disk)
        make_directory(bodies / _REMOVALS_DIR, disk)
        for name in disk.names(bodies / _INCOMING_DIR):
            disk.remove(bodies / _INCOMING_DIR / name)
        self._pending = {found.removal_id: found for found in self._read_plans()}
        for removal in self._pending.values():
            self._keys.forget(removal.key_ids)

    # --- committing ------------------------------------------------------------------------------------------------

    def blocks(self, events: Sequence[AuditEvent]) -> bool:
        """False when `commit` of these would touch no file: then it takes microseconds and needs no thread."""
        for event in events:
            if not event.bodies:
                continue
            if not self._keys.of(event.tenant):
                return True
            if any(self._is_kept(event.tenant, field, body) for field, body in event.bodies.items()):
                return True
        return False

    def commit(
        self, events: Sequence[AuditEvent], known: Mapping[str, Mapping[str, JsonValue]] | None = None
    ) -> list[AuditEvent]:
        """The events as they go into the log: every body a commitment, and the kept ones encrypted and durable.

        Equal events give equal ones while settings stay as they are. `known` is for a retry after they changed, which
        the log took for a conflict: the `data` of records by event id. A body that such a record is committed to, under
        any key of the tenant, is answered as it stands there.

        `AuditRefused` for a body that is not what its digest says, `AuditDiskFull`, or `AuditUnavailable` when the disk
        fails; blobs that no record will name may be left behind.
        """
        while True:
            blobs: list[_Blob] = []
            fresh: dict[tuple[str, str, bytes], _Kept] = {}
            try:
                committed = [
                    self._committed(event, (known or {}).get(event.event_id), blobs, fresh) for event in events
                ]
                if blobs:
                    self._store(blobs)
            except _KeyGone:
                continue  # encrypt again, under the key that the tenant has now
            except OSError as error:
                raise self._failed(error) from error
            self._remember(fresh)
            return committed

    def _committed(
        self,
        event: AuditEvent,
        known: Mapping[str, JsonValue] | None,
        blobs: list[_Blob],
        fresh: dict[tuple[str, str, bytes], _Kept],
    ) -> AuditEvent:
        if not event.bodies:
            return event
        data = dict(event.data)
        for field, body in event.bodies.items():
            kept = None if known is None else self._from_log(event, field, body, known)
            kept = kept or self._remembered.get((event.event_id, field, body.digest))
            if kept is None:
                key = self._keys.at_or_new(event.tenant, event.at_ms)
                kept = self._body(key, event, field, body, blobs)
                if self._is_kept(event.tenant, field, body):
                    fresh[event.event_id, field, body.digest] = kept
            data[f"{field}_commit"] = kept.commit
            if kept.body is not None:
                data[f"{field}_body"] = dict(kept.body)
        return replace(event, data=data, bodies={})

    def _from_log(
        self, event: AuditEvent, field: BodyField, body: Body, known: Mapping[str, JsonValue]
    ) -> _Kept | None:
        """What the log has of this very body, whichever of the tenant's keys was the newest then."""
        commit, stored = known.get(f"{field}_commit"), known.get(f"{field}_body")
        for key in self._keys.of(event.tenant) if isinstance(commit, str) else ():
            if _commitment(key, event.event_id, field, body.digest) == commit:
                return _Kept(str(commit), stored if isinstance(stored, dict) else None)
        return None

    def _body(self, key: DataKey, event: AuditEvent, field: BodyField, body: Body, blobs: list[_Blob]) -> _Kept:
        commit = _commitment(key, event.event_id, field, body.digest)
        day = _day(event.at_ms)
        if body.data is None or day is None or not self._is_kept(event.tenant, field, body):
            return _Kept(commit, None)
        if sha256(body.data).digest() != body.digest:
            raise AuditRefused(f"The audit log refuses the event '{event.name}': its {field} is not what it claims.")
        try:
            masked = mask(body.data, self._clock, BUDGET_S)
        except ScanFailed:
            self._unscanned += 1
            _log.warning("a body of %d bytes is not kept: the scan for secrets did not finish", len(body.data))
            return _Kept(commit, None)
        blob = _seal(key, event.event_id, field, masked.data)
        name = sha256(blob).hexdigest()
        blobs.append(_Blob(key.key_id, day, name, blob))
        return _Kept(commit, {"blob": name, "key_id": key.key_id, "bytes": len(masked.data), "masked": masked.count})

    def _is_kept(self, tenant: TenantId, field: BodyField, body: Body) -> bool:
        if body.data is None or len(body.data) > self._settings.max_body_bytes:
            return False
        mode = self._settings.mode(tenant)
        return mode == "all" or (mode == "arguments" and field is BodyField.ARGUMENTS)

    def _remember(self, fresh: Mapping[tuple[str, str, bytes], _Kept]) -> None:
        """A scan that was too slow once may be fast enough later: in this process a retry gets the first outcome."""
        if not fresh:
            return
        with self._lock:
            self._remembered.update(fresh)
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)

    def _store(self, blobs: Sequence[_Blob]) -> None:
        """Make blobs durable, names too. `_KeyGone`, `AuditDiskFull`, or `OSError`."""
        if self.failure is not None:
            raise AuditUnavailable(self.failure)
        total = sum(len(blob.data) for blob in blobs)
        if self._disk.free_bytes(self._bodies) - total < self._min_free_bytes:
            raise AuditDiskFull("The disk of the audit log has no room for bodies.")
        # 1. The bytes, under names that nobody looks at. Threads do this beside each other.
        arrived = [(blob, self._bodies / _INCOMING_DIR / f"{next(self._numbers):012d}") for blob in blobs]
        try:
            for blob, path in arrived:
                descriptor = self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                try:
                    write_all(descriptor, blob.data, self._disk)
                    self._disk.fsync(descriptor)
                finally:
                    self._disk.close(descriptor)
            # 2. The names. Not while a tenant is shredded: nothing may appear under a key that is being destroyed.
            with self._lock:
                if any(self._keys.by_id(blob.key_id) is None for blob in blobs):
                    raise _KeyGone
                folders: set[Path] = set()
                for blob, path in arrived:
                    folder = self._bodies / blob.day / blob.key_id
                    make_directory(folder, self._disk)
                    self._disk.replace(path, folder / blob.name)
                    folders.add(folder)
                for folder in folders:
                    sync_directory(folder, self._disk)
                if self._stored is not None:
                    self._stored = self._stored[0] + len(blobs), self._stored[1] + total
        except BaseException:
            for _, path in arrived:
                with suppress(OSError):
                    self._disk.remove(path)
            raise

    def _failed(self, error: OSError) -> AuditUnavailable:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return AuditDiskFull("The disk of the audit log has no room for bodies.")
        # What a failed fsync left in memory may look durable to the next one. A new process starts from the disk.
        self.failure = f"The vault stopped: {error.strerror or type(error).__name__} (errno {error.errno})."
        return AuditUnavailable("The bodies of the audit log cannot be written; it needs an operator.")

    # --- keys ------------------------------------------------------------------------------------------------------

    def rotate(self, tenant: TenantId) -> str:
        """The id of a new key for a tenant's events from now on; older ones stay readable.

        `NotFound` for a tenant without keys, `AuditUnavailable`.
        """
        with _disk_answers():
            return self._keys.renew(tenant, self._clock.now_ms()).key_id

    # --- deleting --------------------------------------------------------------------------------------------------

    def pending(self) -> list[Removal]:
        """What was planned and not carried out, oldest first: append its events, then `finish` it."""
        with self._lock:
            return [*self._pending.values()]

    def begin_shred(self, tenant: TenantId, actor: str, change_id: str | None = None, reason: str = "") -> Removal:
        """Plan to destroy all keys of a tenant, and with them its bodies and the salts of its commitments.

        From here on nothing new is encrypted under them, and the plan is carried out, now or after the next start.
        Again, while it is pending: the same plan. `NotFound` for a tenant without keys, `AuditUnavailable`.
        """
        with _disk_answers():
            return self._begin_shred(tenant, actor, change_id, reason)

    def _begin_shred(self, tenant: TenantId, actor: str, change_id: str | None, reason: str) -> Removal:
        with self._lock:
            for removal in self._pending.values():
                if removal.key_ids and removal.events[0].tenant == tenant:
                    return removal
            doomed = self._keys.of(tenant)
            if not doomed:
                raise NotFound("This tenant has no keys: there is nothing to destroy.")
            now_ms, removal_id = self._clock.now_ms(), self._removal_id()
            key_ids = tuple(key.key_id for key in doomed)
            fresh = self._keys.renew(tenant, now_ms)
            self._keys.forget(key_ids)
            for place in [place for place, kept in self._remembered.items() if _names_key(kept, key_ids)]:
                del self._remembered[place]
        try:
            # Nothing is stored under these keys any more: what is counted is what will be deleted.
            bodies = sum(1 for folder in self._folders(key_ids) for _ in _sizes(folder))
            events: list[AuditEvent] = []
            for begin in range(0, len(key_ids), MAX_LIST_ITEMS):
                event_id = f"tenant.shredded:{removal_id}:{begin}"
                data: dict[str, JsonValue] = {
                    "key_ids": [*key_ids[begin : begin + MAX_LIST_ITEMS]],
                    "bodies": bodies if begin == 0 else 0,
                    "change_id": change_id,
                }
                if reason:
                    digest = sha256(reason.encode("utf-8", "surrogatepass")).digest()
                    data["reason_commit"] = _commitment(fresh, event_id, BodyField.REASON, digest)
                events.append(AuditEvent(event_id, "tenant.shredded", now_ms, tenant, actor, data=data))
            return self._plan(Removal(removal_id, key_ids, tuple(events)))
        except OSError:
            self._keys.remember(doomed)
            raise

    def begin_prune(self) -> Removal | None:
        """Plan to delete whole days of bodies that are older than their tenant's retention. None: there are none.

        A body is deleted when its day (UTC) ended that long ago: never early, and at most a day late.
        `AuditUnavailable` when the disk fails.
        """
        with _disk_answers():
            return self._begin_prune()

    def _begin_prune(self) -> Removal | None:
        today = _EPOCH + timedelta(days=self._clock.now_ms() // DAY_MS)
        removal_id = self._removal_id()
        trash = self._removals / removal_id
        with self._lock:
            expired = [
                folder
                for folder, key in self._all_folders()
                if key is not None and _age(folder, today) > self._settings.days(key.tenant)
            ]
            if not expired:
                return None
            # Out of the way first: a late body of such a day then starts a folder of its own, and what is counted is
            # what is deleted. A crash from here on leaves the trash, which `pending` finds.
            make_directory(trash, self._disk)
            for folder in expired:
                self._disk.replace(folder, trash / f"{folder.parent.name}.{folder.name}")
            sync_directory(trash, self._disk)
            for day in {folder.parent for folder in expired}:
                sync_directory(day, self._disk)
            self._stored = None
            return self._plan_trash(removal_id)

    def finish(self, removal: Removal) -> None:
        """Carry out a plan whose events are in the log. Again is harmless; interrupted, it stays pending.

        `AuditUnavailable` when the disk fails.
        """
        with self._deleting, _disk_answers():
            self._finish(removal)

    def _finish(self, removal: Removal) -> None:
        self._keys.destroy(removal.key_ids)
        for folder in [*self._folders(removal.key_ids)] if removal.key_ids else []:
            shutil.rmtree(folder)
        trash = self._removals / removal.removal_id
        if trash.is_dir():
            shutil.rmtree(trash)
        with self._lock:
            for day in [*self._bodies.iterdir()]:
                if _parse_day(day.name) is not None:
                    with suppress(OSError):  # it is not empty
                        day.rmdir()
            self._disk.remove(self._plan_path(removal.removal_id))
            sync_directory(self._removals, self._disk)
            self._pending.pop(removal.removal_id, None)
            self._stored = None

    def status(self) -> VaultStatus:
        """What is kept. Counts all files when it is asked first and after a deletion, else it remembers."""
        with self._lock:
            folders = [folder for folder, _ in self._all_folders()]
            if self._stored is None:
                sizes = [size for folder in folders for size in _sizes(folder)]
                self._stored = len(sizes), sum(sizes)
            bodies, size = self._stored
            oldest = _parse_day(folders[0].parent.name) if folders else None
        return VaultStatus(bodies, size, oldest, self._keys.tenants(), self._unscanned)

    # --- plans -----------------------------------------------------------------------------------------------------

    @property
    def _removals(self) -> Path:
        return self._bodies / _REMOVALS_DIR

    def _plan_path(self, removal_id: str) -> Path:
        return self._removals / f"{removal_id}{_PLAN_SUFFIX}"

    def _removal_id(self) -> str:
        """Unique, and in the order of time."""
        return f"{self._clock.now_ms():015d}-{os.urandom(4).hex()}"

    def _plan(self, removal: Removal) -> Removal:
        document = {
            "key_ids": [*removal.key_ids],
            "events": [
                {"event_id": event.event_id, "name": event.name, "at_ms": event.at_ms, "tenant": event.tenant,
                 "principal": event.principal, "data": {**event.data}}
                for event in removal.events
            ],
        }  # fmt: skip
        replace_file(self._plan_path(removal.removal_id), json.dumps(document).encode() + b"\n", self._disk)
        self._pending[removal.removal_id] = removal
        return removal

    def _plan_trash(self, removal_id: str) -> Removal:
        """The plan to delete what lies in a removal's trash; one event a tenant."""
        counts: dict[TenantId, int] = {}
        for folder in sorted((self._removals / removal_id).iterdir()):
            key = self._keys.by_id(folder.name.partition(".")[2])
            if key is not None:
                counts[key.tenant] = counts.get(key.tenant, 0) + sum(1 for _ in _sizes(folder))
        events = [
            AuditEvent(
                f"bodies.pruned:{removal_id}:{number}",
                "bodies.pruned",
                self._clock.now_ms(),
                tenant,
                PRINCIPAL,
                data={"bodies": bodies, "days": self._settings.days(tenant)},
            )
            for number, (tenant, bodies) in enumerate(sorted(counts.items()))
        ]
        return self._plan(Removal(removal_id, (), tuple(events)))

    def _read_plans(self) -> Iterator[Removal]:
        self._pending = {}
        names = sorted(path.name for path in self._removals.iterdir())
        for name in names:
            if name.endswith(_PLAN_SUFFIX):
                yield _parse_plan(self._removals / name)
            elif f"{name}{_PLAN_SUFFIX}" not in names and (self._removals / name).is_dir():
                yield self._plan_trash(name)

    # --- folders ---------------------------------------------------------------------------------------------------

    def _all_folders(self) -> Iterator[tuple[Path, DataKey | None]]:
        """Every folder of bodies with its key; None where that is gone."""
        for day in sorted(self._bodies.iterdir()):
            if _parse_day(day.name) is not None:
                with suppress(FileNotFoundError):
                    for folder in sorted(day.iterdir()):
                        if is_key_id(folder.name):
                            yield folder, self._keys.by_id(folder.name)

    def _folders(self, key_ids: Collection[str]) -> Iterator[Path]:
        return (folder for folder, _ in self._all_folders() if folder.name in key_ids)


@contextmanager
def _disk_answers() -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        _log.error("bodies cannot be deleted, or keys not changed: %s", error)
        raise AuditUnavailable(
            "The disk of the bodies failed; what was planned is done after the next start."
        ) from error


def _sizes(folder: Path) -> Iterator[int]:
    """Bytes of each blob in a folder; what another thread deletes meanwhile is left out."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if _is_blob(path.name):
                with suppress(FileNotFoundError):
                    yield path.stat().st_size


def _age(folder: Path, today: date) -> int:
    """Whole days that a folder's day began ago."""
    day = _parse_day(folder.parent.name)
    return 0 if day is None else (today - day).days


def _names_key(kept: _Kept, key_ids: Collection[str]) -> bool:
    return kept.body is not None and kept.body.get("key_id") in key_ids


def _parse_plan(path: Path) -> Removal:
    try:
        document = cast("dict[str, list[object]]", json.loads(path.read_bytes()))
        key_ids = tuple(str(key_id) for key_id in document["key_ids"] if is_key_id(key_id))
        events = tuple(
            AuditEvent(
                event_id=str(event["event_id"]),
                name=str(event["name"]),
                at_ms=int(cast("int", event["at_ms"])),
                tenant=TenantId(str(event["tenant"])),
                principal=str(event["principal"]),
                data=cast("dict[str, JsonValue]", event["data"]),
            )
            for event in cast("list[dict[str, object]]", document["events"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise VaultRefused(f"the plan {path} of a deletion is damaged; restore it from a copy.") from None
    return Removal(path.stem, key_ids, events)
