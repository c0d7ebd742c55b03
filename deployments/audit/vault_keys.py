"""Keys of the vault: one data key a tenant, wrapped by the vault key; destroying it makes a tenant's bodies unreadable.

```
<keys>/vault.key             32 bytes in hex; wraps all below
<keys>/tenants/<key id>.key  one data key, wrapped; the tenant's name is inside the ciphertext
<log>/bodies/vault.check     tells the right vault key from another; reveals neither
```

A tenant may have several keys: rotation adds one. An event's key is the newest that is not younger than the event, so
the same event always gets the same key, also when it is appended again after a rotation or a restart.
"""

import hmac
import json
import os
import re
import stat
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from deployments.audit.files import make_directory, replace_file, sync_directory, write_all
from deployments.errors import AuditRefused, NotFound
from deployments.ports import TenantId

KEY_BYTES = 32
VAULT_KEY_FILE = "vault.key"
TENANTS_DIR = "tenants"
CHECK_FILE = "vault.check"
MAX_TENANT_CHARS = 1_024  # as in a record
_SCHEMA = "gatehouse.vault-key/1"
_NONCE_BYTES = 12
_SUFFIX = ".key"
_DEAD_SUFFIX = ".dead"
_KEY_ID = re.compile(r"dk_[0-9a-f]{16}")
_VAULT_KEY = re.compile(r"[0-9a-f]{64}\n?")


class VaultRefused(Exception):
    """The vault cannot be opened as it lies there: one sentence says why. No key was made or changed."""


def is_key_id(text: object) -> bool:
    """True for what may be the id of a data key; such a text is also safe as a file name."""
    return isinstance(text, str) and _KEY_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class DataKey:
    """One of a tenant's keys, taken apart by purpose (HKDF, RFC 5869). `since_ms`: for events of that time or later."""

    key_id: str
    tenant: TenantId
    since_ms: int
    salts: bytes = field(repr=False)
    nonces: bytes = field(repr=False)
    bodies: AESGCM = field(repr=False)


def _derive(key: bytes, purpose: str) -> bytes:
    return HKDFExpand(SHA256(), KEY_BYTES, f"gatehouse vault/1 {purpose}".encode()).derive(key)


def _data_key(key_id: str, tenant: TenantId, since_ms: int, key: bytes) -> DataKey:
    return DataKey(
        key_id, tenant, since_ms, _derive(key, "salts"), _derive(key, "nonces"), AESGCM(_derive(key, "bodies"))
    )


# --- the vault key -----------------------------------------------------------------------------------------------


def _read_vault_key(path: Path, forbidden: int) -> bytes | None:
    """The key in a file that nobody else may read, None when there is no file, or `VaultRefused`."""
    try:
        mode, text = path.stat().st_mode, path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise VaultRefused(f"the vault key {path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(mode) or mode & forbidden:
        raise VaultRefused(f"the vault key {path} is open to others (mode {stat.S_IMODE(mode):o}); make it 600.")
    if _VAULT_KEY.fullmatch(text.decode("ascii", "replace")) is None:
        raise VaultRefused(f"the vault key {path} is not 32 bytes in 64 lower-case hex digits.")
    return bytes.fromhex(text.decode().strip())


def _create_vault_key(path: Path) -> bytes:
    key = os.urandom(KEY_BYTES)
    replace_file(path, key.hex().encode() + b"\n")
    return key


# --- the ring ----------------------------------------------------------------------------------------------------


class KeyRing:
    """All data keys of a vault, unwrapped in memory. Its methods may be called from several threads."""

    def __init__(self, folder: Path, vault_key: bytes, keys: Iterable[DataKey]) -> None:
        """Use `open_ring` or `read_ring`."""
        self._folder = folder
        self._wrapping = AESGCM(_derive(vault_key, "wrapping"))
        self._lock = threading.Lock()
        self._keys: dict[str, DataKey] = {}
        self._tenants: dict[TenantId, tuple[DataKey, ...]] = {}
        for key in keys:
            self._add(key)

    def by_id(self, key_id: str) -> DataKey | None:
        """A key that is still there."""
        return self._keys.get(key_id)

    def of(self, tenant: TenantId) -> tuple[DataKey, ...]:
        """A tenant's keys, oldest first."""
        return self._tenants.get(tenant, ())

    def tenants(self) -> int:
        """How many tenants have a key."""
        return sum(1 for keys in self._tenants.values() if keys)

    def at(self, tenant: TenantId, at_ms: int) -> DataKey | None:
        """The key for an event of that time; None when the tenant has none yet."""
        keys = self._tenants.get(tenant)
        if not keys:
            return None
        return next((key for key in reversed(keys) if key.since_ms <= at_ms), keys[0])

    def at_or_new(self, tenant: TenantId, at_ms: int) -> DataKey:
        """The key for an event of that time, made and durable when the tenant has none. Raises `OSError`."""
        found = self.at(tenant, at_ms)
        if found is not None:
            return found
        if not 0 < len(tenant) <= MAX_TENANT_CHARS:
            raise AuditRefused("The audit log refuses the event: its tenant's name is empty or too long.")
        with self._lock:
            # The first key is for events of any age; one that follows a shredding is not (`renew`).
            return self.at(tenant, at_ms) or self._create(tenant, 0)

    def renew(self, tenant: TenantId, now_ms: int) -> DataKey:
        """A new key for a tenant's events from now on. `NotFound` for one without keys, `OSError`."""
        with self._lock:
            keys = self.of(tenant)
            if not keys:
                raise NotFound("This tenant has no keys.")
            return self._create(tenant, max(now_ms, keys[-1].since_ms + 1))

    def forget(self, key_ids: Iterable[str]) -> None:
        """Use these keys no more. Their files stay until `destroy`."""
        with self._lock:
            for key_id in key_ids:
                key = self._keys.pop(key_id, None)
                if key is not None:
                    left = tuple(other for other in self._tenants[key.tenant] if other.key_id != key_id)
                    self._tenants[key.tenant] = left

    def remember(self, keys: Iterable[DataKey]) -> None:
        """Use keys again that were forgotten and not destroyed."""
        with self._lock:
            for key in keys:
                self._add(key)

    def destroy(self, key_ids: Iterable[str]) -> None:
        """Forget keys and make their files unreadable: overwritten, synced, unlinked. Again is harmless. `OSError`."""
        doomed = [*key_ids]
        self.forget(doomed)
        for key_id in doomed:
            path = self._folder / f"{key_id}{_SUFFIX}"
            if path.exists():
                path.replace(path.with_suffix(_DEAD_SUFFIX))  # never half a key under a key's name
        sync_directory(self._folder)
        for path in self._folder.glob(f"*{_DEAD_SUFFIX}"):
            _erase(path)
        sync_directory(self._folder)

    def _create(self, tenant: TenantId, since_ms: int) -> DataKey:
        key_id, key = f"dk_{os.urandom(8).hex()}", os.urandom(KEY_BYTES)
        nonce = os.urandom(_NONCE_BYTES)
        secret = key + tenant.encode("utf-8", "surrogatepass")
        wrapped = nonce + self._wrapping.encrypt(nonce, secret, _label(key_id, since_ms))
        replace_file(self._folder / f"{key_id}{_SUFFIX}", _wrapped_text(key_id, since_ms, wrapped))
        return self._add(_data_key(key_id, tenant, since_ms, key))

    def _add(self, key: DataKey) -> DataKey:
        self._keys[key.key_id] = key
        keys = (*self._tenants.get(key.tenant, ()), key)
        self._tenants[key.tenant] = tuple(sorted(keys, key=lambda each: (each.since_ms, each.key_id)))
        return key

    def load(self) -> None:
        """Unwrap what lies in the folder, or `VaultRefused`."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            self._add(self._unwrap(path))

    def _unwrap(self, path: Path) -> DataKey:
        try:
            text = path.read_bytes()
            fields = _fields(json.loads(text))
            key_id, since_ms, wrapped = fields["key_id"], fields["since_ms"], fields["wrapped"]
            if not (fields["schema"] == _SCHEMA and is_key_id(key_id) and isinstance(since_ms, int)):
                raise ValueError
            if f"{key_id}{_SUFFIX}" != path.name or not isinstance(wrapped, str):
                raise ValueError
            sealed = b64decode(wrapped, validate=True)
            if text != _wrapped_text(path.stem, since_ms, sealed):
                raise ValueError
        except (OSError, ValueError, KeyError, RecursionError):
            raise VaultRefused(f"the tenant's key {path} is damaged; restore it from a copy.") from None
        try:
            secret = self._wrapping.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _label(str(key_id), since_ms))
            tenant = TenantId(secret[KEY_BYTES:].decode("utf-8", "surrogatepass"))
        except (InvalidTag, ValueError):
            raise VaultRefused(f"the vault key does not open {path}: it is another vault's, or damaged.") from None
        return _data_key(str(key_id), tenant, since_ms, secret[:KEY_BYTES])


def _fields(found: object) -> Mapping[str, object]:
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return cast("dict[str, object]", found)


def _wrapped_text(key_id: str, since_ms: int, wrapped: bytes) -> bytes:
    fields = {"schema": _SCHEMA, "key_id": key_id, "since_ms": since_ms, "wrapped": b64encode(wrapped).decode()}
    return json.dumps(fields).encode() + b"\n"


def _label(key_id: str, since_ms: int) -> bytes:
    return f"{_SCHEMA} {key_id} {since_ms}".encode()


def _erase(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        write_all(descriptor, os.urandom(os.fstat(descriptor).st_size))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()


def _check(vault_key: bytes) -> bytes:
    return hmac.digest(vault_key, b"gatehouse vault check", "sha256").hex().encode() + b"\n"


def _ring(bodies: Path, keys_dir: Path, key_file: str | None, create: Callable[[Path], bytes] | None) -> KeyRing:
    folder, check = keys_dir / TENANTS_DIR, bodies / CHECK_FILE
    path = keys_dir / VAULT_KEY_FILE if key_file is None else Path(key_file)
    # Ours belongs to one user. One that is brought along may be readable by its group: so Kubernetes mounts secrets.
    vault_key = _read_vault_key(path, 0o077 if key_file is None else 0o037)
    known = check.read_bytes() if check.exists() else None
    if vault_key is None:
        if known is not None or any(folder.glob(f"*{_SUFFIX}")):
            raise VaultRefused(f"the vault key {path} is missing, but tenants' keys need it; restore it from a copy.")
        if key_file is not None or create is None:
            raise VaultRefused(f"there is no vault key at {path}.")
        vault_key = create(path)
    if known is not None and not hmac.compare_digest(known, _check(vault_key)):
        raise VaultRefused(f"the vault key {path} is not the one that this log's bodies were encrypted under.")
    ring = KeyRing(folder, vault_key, ())
    ring.load()
    if create is not None and known is None:
        make_directory(bodies)
        replace_file(check, _check(vault_key))
    return ring


def open_ring(bodies: Path, keys_dir: Path, key_file: str | None) -> KeyRing:
    """The keys, for writing; what is missing at a first start is made. `VaultRefused` or `OSError`.

    The caller holds the lock of the log's writer: two processes that both make a first key would lock each other out.
    """
    folder = keys_dir / TENANTS_DIR
    make_directory(folder)
    if keys_dir.stat().st_mode & 0o022:
        raise VaultRefused(f"others may write to the key directory {keys_dir}; make it 700.")
    # A key that was being made when the process died: nothing was encrypted under it.
    for left in folder.glob(f"*{_SUFFIX}.new"):
        left.unlink()
    for left in folder.glob(f"*{_DEAD_SUFFIX}"):  # one that was being destroyed
        _erase(left)
    return _ring(bodies, keys_dir, key_file, _create_vault_key)


def read_ring(bodies: Path, keys_dir: Path, key_file: str | None) -> KeyRing:
    """The keys, for reading: nothing is made or changed. `VaultRefused` or `OSError`."""
    return _ring(bodies, keys_dir, key_file, None)
