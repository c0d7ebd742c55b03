"""The pepper: a secret file beside the store, without which the stored digests of keys are useless."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from deployments.tenancy.keys import PEPPER_BYTES


class BadPepper(Exception):
    """The pepper cannot be used; the ledger must not start."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"the pepper {self.path} cannot be used: {self.reason}."


def write_secret(path: Path, text: str, replace: bool = False) -> None:
    """Create a file that only its owner may read. `FileExistsError` when it is there, unless `replace`.

    The name appears with its whole content or not at all.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_or_create_pepper(path: Path) -> bytes:
    """The pepper in `path`; a missing file is created with mode 0600. `BadPepper` when it must not be used."""
    if not path.exists():
        with suppress(FileExistsError):  # another replica was first: its pepper counts
            write_secret(path, secrets.token_hex(PEPPER_BYTES) + "\n")
    if path.stat().st_mode & 0o007:
        raise BadPepper(str(path), "others on this machine may read or change it; set its mode to 0600")
    try:
        pepper = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError as error:
        raise BadPepper(str(path), "it is not hexadecimal") from error
    if len(pepper) < PEPPER_BYTES:
        raise BadPepper(str(path), f"it has less than {PEPPER_BYTES} bytes")
    return pepper
