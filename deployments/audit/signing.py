"""The log's own key: where it lies, how it comes into being, and why the log does not open without it.

The key is made once, when no checkpoint of the log is known anywhere. After that a missing key is a refusal: a log that
signed its next checkpoint with a fresh one would look like another log to everybody who keeps a proof.
"""

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from deployments.audit.files import make_directory, replace_file, sync_directory
from deployments.audit.layout import KEYS_FILE
from deployments.audit.notes import (
    ED25519,
    BadKey,
    SignerKey,
    VerifierKey,
    generate_key,
    read_signer_key,
    write_signer_key,
)
from deployments.audit.recover import CorruptLog
from deployments.audit.settings import AuditSettings

KEY_FILE = "log.key"
_RANDOM_ORIGIN = "gatehouse.local/"


class RefusedLog(CorruptLog):
    """What is known of the log elsewhere, or its key, does not fit the log. Nothing was written; no flag overrides."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(place, 0, reason)
        self.args = (place, reason)

    def __str__(self) -> str:
        return f"refusing to open the audit log: {self.segment}: {self.reason}"


def keys_directory(directory: Path, settings: AuditSettings) -> Path:
    """Where the keys of the log in `directory` lie: beside it, so that a copy of the log is not a copy of its keys."""
    return directory.with_name("audit-keys") if settings.keys_dir is None else Path(settings.keys_dir)


def load_key(directory: Path, settings: AuditSettings) -> SignerKey | None:
    """The log's key; None when there is none and we may make it. `RefusedLog` for a file that is not this log's key."""
    own = settings.signing_key_file is None
    path = _key_path(directory, settings)
    try:
        # A key that is mounted as a secret has the permissions of its mount; the one we made has ours.
        if own and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise RefusedLog(str(path), "others may read the signing key. Set its permissions to 0600.")
        key = read_signer_key(path)
    except FileNotFoundError:
        if own:
            return None
        # A secret that is not mounted yet looks the same, and a key in its place would vanish with the container.
        raise RefusedLog(
            str(path),
            "the settings name this signing key, and there is none. To make one, open the log once without the setting "
            "and move its log.key here.",
        ) from None
    except BadKey as error:
        raise RefusedLog(str(path), f"it holds no signing key: {error}.") from error
    if key.algorithm != ED25519:
        raise RefusedLog(str(path), "it holds a witness's key, not a log's.")
    if settings.origin is not None and key.name != settings.origin:
        raise RefusedLog(
            str(path), f"it is the key of '{key.name}', but the settings call this log '{settings.origin}'."
        )
    return key


def missing_key(directory: Path, settings: AuditSettings, known: str) -> RefusedLog:
    """The refusal of a log without its key, although `known` says that it had one."""
    return RefusedLog(
        str(_key_path(directory, settings)),
        f"the log's signing key is missing, but {known}. A new key would make it another log: put the key back.",
    )


def make_key(directory: Path, settings: AuditSettings, random: Callable[[int], bytes] = os.urandom) -> SignerKey:
    """A new key for a log that never had one, durably stored. `FileExistsError` or another `OSError`."""
    path = _key_path(directory, settings)
    origin = settings.origin or _RANDOM_ORIGIN + random(8).hex()
    key = generate_key(origin, ED25519, random)
    make_directory(path.parent)
    # Under another name first: a process that dies half-way leaves no half key in the place of the key.
    temporary = path.with_name(f"{KEY_FILE}.new")
    temporary.unlink(missing_ok=True)
    write_signer_key(temporary, key)
    path.hardlink_to(temporary)  # unlike a rename this never replaces a key
    temporary.unlink()
    sync_directory(path.parent)
    return key


def write_verifier_keys(directory: Path, keys: Sequence[VerifierKey]) -> None:
    """Write the public keys, one a line, the log's first; nothing when they are there. `OSError`."""
    path = directory / KEYS_FILE
    data = "".join(f"{key}\n" for key in keys).encode()
    if not path.is_file() or path.read_bytes() != data:
        replace_file(path, data)


def _key_path(directory: Path, settings: AuditSettings) -> Path:
    if settings.signing_key_file is not None:
        return Path(settings.signing_key_file)
    return keys_directory(directory, settings) / KEY_FILE
