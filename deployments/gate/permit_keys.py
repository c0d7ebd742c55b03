"""The keys that permits are signed with: where they lie, how they come into being, and how one follows another.

A permit lives for minutes, so a lost key is no loss: a new one is made, and runners that pinned the old one refuse
until they pin again. A new key beside the old one is a rotation: the newest signs, all that lie there are published,
and the old file goes once nothing that it signed is alive.
"""

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from deployments.errors import GateUnavailable
from deployments.gate.permits import PermitKey

_NAME = re.compile(r"permit-([0-9]{4,9})\.key")


class PermitKeys:
    """The signing keys in a directory. It is read again whenever its files change."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: tuple[tuple[str, int, int], ...] = ()
        self._keys: tuple[PermitKey, ...] = ()

    def open(self) -> None:
        """Make the first key where there is none. `GateUnavailable` for a key that cannot be used."""
        if not self._files():
            try:
                make_key(self._directory)
            except FileExistsError:  # another replica was faster
                pass
            except OSError as error:
                raise GateUnavailable("The key that permits are signed with cannot be made.") from error
        self.all()

    def newest(self) -> PermitKey:
        """The key that signs."""
        return self.all()[0]

    def all(self) -> Sequence[PermitKey]:
        """Every key, the newest first. `GateUnavailable` when there is none, or one that others may read."""
        files = self._files()
        try:
            stats = [(path, path.stat()) for path in files]
            seen = tuple((path.name, each.st_mtime_ns, each.st_mode) for path, each in stats)
            if seen != self._seen:
                for _, each in stats:
                    if stat.S_IMODE(each.st_mode) & 0o077:
                        raise GateUnavailable("Others may read a key that permits are signed with: set it to 0600.")
                self._keys = tuple(_read(path) for path in files)
                self._seen = seen
        except OSError as error:
            raise GateUnavailable("A key that permits are signed with cannot be read.") from error
        if not self._keys:
            raise GateUnavailable("There is no key to sign permits with.")
        return self._keys

    def _files(self) -> list[Path]:
        """Key files by number, the highest first."""
        return _files(self._directory)


def make_key(directory: Path) -> Path:
    """A new key beside those that are there; from now on it signs. `FileExistsError` when somebody was faster."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = _files(directory)
    number = 1 + (_number(files[0]) if files else 0)
    path = directory / f"permit-{number:04d}.key"
    # Under another name first: a process that dies half-way leaves no half key in the place of the key.
    temporary = directory / f"permit-{number:04d}.{os.getpid()}.new"
    data = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(temporary)  # unlike a rename this never replaces a key
    finally:
        temporary.unlink()
    return path


def _files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted((path for path in directory.iterdir() if _NAME.fullmatch(path.name)), key=_number, reverse=True)


def _number(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found.group(1)) if found else 0


def _read(path: Path) -> PermitKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise GateUnavailable("A file of the permit keys holds no key.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise GateUnavailable("A key that permits are signed with is not of Ed25519.")
    return PermitKey.of(key)
