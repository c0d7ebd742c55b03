"""Where the files that a configuration names lie in a backup, and where a restore puts them.

```
files/state/...           below the state directory
files/installation/...    below the checkout or the installed package, as `configs/policies/default.yaml`
files/absolute/...        anywhere else, by the whole path
```

A file that is there already stays: with the same bytes it is the one that was wanted, with others nothing is restored.
"""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from serve_app.backups.manifest import FILES_DIR, BackupError, Manifest, entry

_STATE, _INSTALLATION, _ABSOLUTE = "state", "installation", "absolute"
_BASES: Final = frozenset({_STATE, _INSTALLATION, _ABSOLUTE})


def place_in_backup(path: Path, state: Path, installation: Path) -> str:
    """The path in a backup of a file that lies at `path`; all three are absolute."""
    for base, folder in ((_STATE, state), (_INSTALLATION, installation), (_ABSOLUTE, Path("/"))):
        if path.is_relative_to(folder):
            return f"{FILES_DIR}/{base}/{path.relative_to(folder).as_posix()}"
    raise ValueError("not an absolute path")


def places(manifest: Manifest, state: Path, installation: Path, files_into: Path | None) -> Mapping[str, Path]:
    """Where each file below `files/` belongs: path in the backup -> path on this machine.

    With `files_into` all but those of the state directory go below that folder, by their paths in the backup.
    `BackupError` for one that belongs nowhere.
    """
    names = [name for name in manifest.files if PurePosixPath(name).parts[0] == FILES_DIR]
    return {name: place_of(name, state, installation, files_into) for name in names}


def link_places(manifest: Manifest, state: Path, installation: Path, files_into: Path | None) -> Mapping[Path, Path]:
    """Where each link belongs, and where it has to lead. `BackupError` for one that belongs nowhere."""
    where = (state, installation, files_into)
    return {place_of(link, *where): place_of(path, *where) for link, path in manifest.links.items()}


def place_of(name: str, state: Path, installation: Path, files_into: Path | None) -> Path:
    """Where a file of the backup belongs. `BackupError` for one that belongs nowhere."""
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or parts[0] != FILES_DIR or parts[1] not in _BASES:
        raise BackupError(f"{name} belongs nowhere: this version knows no such place.")
    base, *rest = parts[1:]
    if base == _STATE:
        return state.joinpath(*rest)
    if files_into is not None:
        return files_into.joinpath(base, *rest)
    return (installation if base == _INSTALLATION else Path("/")).joinpath(*rest)


def in_state(name: str) -> bool:
    """True for a file that belongs below the state directory, which a restore makes."""
    return PurePosixPath(name).parts[1] == _STATE


def leads(link: Path, path: Path) -> bool:
    """True for a link that leads to the path, whether something is there or not."""
    return link.is_symlink() and os.path.realpath(link) == os.path.realpath(path)


def refuse_others(manifest: Manifest, wanted: Mapping[str, Path], links: Mapping[Path, Path]) -> frozenset[str]:
    """The files that are in their places already; `BackupError` where something else is in one, or in a link's."""
    there: set[str] = set()
    others = [link for link, path in links.items() if os.path.lexists(link) and not leads(link, path)]
    for name, path in wanted.items():
        if not os.path.lexists(path):
            continue
        try:
            same = path.is_file() and entry(path) == manifest.files[name]
        except OSError as error:
            raise BackupError(f"{path} cannot be compared with the backup: {error.strerror}.") from None
        if same:
            there.add(name)
        else:
            others.append(path)
    if others:
        what = "1 file that the configuration names is" if len(others) == 1 else (
            f"{len(others)} files that the configuration names are"
        )  # fmt: skip
        raise BackupError(
            f"{what} there, and not what was backed up: {', '.join(str(each) for each in others[:3])}"
            + (", ..." if len(others) > 3 else "")
            + ". Move away what is there, or restore such files elsewhere with --files-into DIR."
        )
    return frozenset(there)


class Placing:
    """Files that a restore puts outside of the state directory, and takes back when it fails after all."""

    def __init__(self) -> None:
        """Nothing is placed yet."""
        self._files: list[Path] = []
        self._folders: list[Path] = []

    def put(self, source: Path, target: Path) -> None:
        """Copy a file to a place where none is, whole or not at all, mode 0600. `BackupError` when that cannot be."""
        work = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.part")
        try:
            self._make(target.parent)
            descriptor = os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(source.read_bytes())
                file.flush()
                os.fsync(file.fileno())
            os.link(work, target)  # never over what came meanwhile
            self._files.append(target)
        except OSError as error:
            raise BackupError(
                f"{target} cannot be put back: {error.strerror}. Restore as whom it belongs to, or such files "
                "elsewhere with --files-into DIR."
            ) from None
        finally:
            with suppress(OSError):
                work.unlink(missing_ok=True)

    def link(self, link: Path, path: Path) -> None:
        """Make a link to a path where none is. `BackupError` when that cannot be."""
        if leads(link, path):
            return
        try:
            self._make(link.parent)
            link.symlink_to(path)
        except OSError as error:
            raise BackupError(f"the link {link} cannot be put back: {error.strerror}.") from None
        self._files.append(link)

    def undo(self) -> None:
        """Remove what was put, and the folders that were made for it."""
        for path in reversed(self._files):
            with suppress(OSError):
                path.unlink()
        for folder in reversed(self._folders):
            with suppress(OSError):
                folder.rmdir()

    def _make(self, folder: Path) -> None:
        missing: list[Path] = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(mode=0o700)
            self._folders.append(each)
