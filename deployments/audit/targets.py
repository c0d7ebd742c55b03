"""Where copies of the log lie: what an export needs of a store, and the store that is a directory."""

import os
import tempfile
from pathlib import Path
from typing import Protocol

from deployments.audit.files import make_directory, replace_file, sync_directory, write_all
from deployments.audit.tiles import TileConflict


class ExportFailed(Exception):
    """The copy could not be made now: the store does not answer, or the log has nothing to copy. Trying again helps."""


class ExportRefused(Exception):
    """The log and its copy contradict each other, or the log contradicts itself. Nobody retries this away."""


class Files(Protocol):
    """A log as static files. Paths are relative, with slashes, and made by this package."""

    def read(self, path: str) -> bytes | None:
        """The file, or None when there is none. `ExportFailed` when that is not known."""
        ...


class Target(Files, Protocol):
    """A store of copies. Every method raises `ExportFailed` when the store does not answer; writes are durable."""

    @property
    def name(self) -> str:
        """What people call it; no secret."""
        ...

    def put_new(self, path: str, data: bytes) -> None:
        """Store what never changes. The same bytes again are no change; other bytes are `TileConflict`."""
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Store what may change; a reader sees the old bytes or the new ones."""
        ...

    def last(self, folder: str, after: str) -> str | None:
        """The greatest file name in a folder that sorts behind `after`, or None."""
        ...

    def filled(self, path: str) -> None:
        """The full tile at `path` is stored: a store that can delete may drop the partial tiles it replaces."""
        ...


class DirectoryTarget:
    """A directory, best on another disk. Files belong to their owner alone (0600, directories 0700)."""

    def __init__(self, directory: Path) -> None:
        """The directory appears with the first write."""
        self._directory = directory

    @property
    def name(self) -> str:
        """The directory."""
        return str(self._directory)

    def read(self, path: str) -> bytes | None:
        """The file, or None."""
        try:
            return (self._directory / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failed("read", path, error) from error

    def put_new(self, path: str, data: bytes) -> None:
        """A whole file of its own, then its name, which the kernel gives only once."""
        file = self._directory / path
        try:
            make_directory(file.parent)
            descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=file.parent)
            try:
                try:
                    write_all(descriptor, data)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                try:
                    os.link(temporary, file)
                except FileExistsError:
                    if file.read_bytes() != data:
                        raise TileConflict(f"{path} is stored with other bytes") from None
            finally:
                Path(temporary).unlink()
            sync_directory(file.parent)
        except OSError as error:
            raise self._failed("write", path, error) from error

    def replace(self, path: str, data: bytes) -> None:
        """Temporary file, fsync, rename, fsync of the directory."""
        file = self._directory / path
        try:
            make_directory(file.parent)
            replace_file(file, data)
        except OSError as error:
            raise self._failed("write", path, error) from error

    def last(self, folder: str, after: str) -> str | None:
        """The greatest file name in a folder that sorts behind `after`, or None."""
        try:
            found = os.listdir(self._directory / folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("list", folder, error) from error
        return max((name for name in found if name > after and not name.startswith(".")), default=None)

    def filled(self, path: str) -> None:
        """Delete the partial tiles. Readers of older checkpoints find the same hashes in the full one."""
        folder = self._directory / f"{path}.p"
        try:
            if folder.is_dir():
                for partial in folder.iterdir():
                    partial.unlink()
                folder.rmdir()
        except OSError as error:
            raise self._failed("delete", f"{path}.p", error) from error

    def _failed(self, action: str, path: str, error: OSError) -> ExportFailed:
        reason = error.strerror or type(error).__name__
        return ExportFailed(f"cannot {action} {path} in {self._directory}: {reason}")
