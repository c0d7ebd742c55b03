"""A file system that fails or loses power at a chosen operation, and then forgets what was never synced."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class PowerLoss(BaseException):
    """Nothing after this happens: no `except Exception` stops it."""


class Power:
    """Counts every operation that changes something under `root`, and keeps what a loss of power would leave.

    Names are durable once their directory was synced, content once the file was. Reading is not counted.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.operations = 0
        self.fail_at: int | None = None
        self.error: BaseException = PowerLoss()
        self._paths: dict[int, Path] = {}
        self._content: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int]] = {}
        self._patch = patch
        self._real: dict[str, Callable[..., Any]] = {}
        self._wrap("open", self._open)
        self._wrap("close", self._close)
        self._wrap("write", self._write)
        self._wrap("fsync", self._fsync)
        self._wrap("ftruncate", self._on_descriptor("ftruncate"))
        for name in ("mkdir", "unlink", "rmdir", "replace", "link"):
            self._wrap(name, self._on_path(name))
        self._sync_tree(root)

    def fail(self, at: int, error: BaseException | None = None) -> None:
        """Fail once, at the operation with this number (from 1 on)."""
        self.operations, self.fail_at = 0, at
        self.error = error or PowerLoss()

    def cut(self) -> None:
        """Leave under `root` only what was durable, and stop watching."""
        self._patch.undo()
        files: dict[Path, bytes] = {}
        folders: list[Path] = []

        def walk(folder: Path) -> None:
            for name, inode in self._names.get(folder, {}).items():
                path = folder / name
                if path.is_dir():
                    folders.append(path)
                    walk(path)
                else:
                    files[path] = self._content.get(inode, b"")

        walk(self.root)
        for path in self.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for folder in folders:
            folder.mkdir(mode=0o700)
        for path, data in files.items():
            path.write_bytes(data)
            path.chmod(0o600)

    def _wrap(self, name: str, function: Callable[..., Any]) -> None:
        self._real[name] = getattr(os, name)
        self._patch.setattr(os, name, function)

    def _ours(self, path: Any) -> bool:
        return isinstance(path, str | Path) and Path(path).is_relative_to(self.root)

    def _step(self) -> None:
        self.operations += 1
        if self.operations == self.fail_at:
            raise self.error

    def _open(self, path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        if self._ours(path) and flags & os.O_CREAT and not Path(path).exists():
            self._step()
            descriptor = self._real["open"](path, flags, mode, **options)
            self._content.pop(os.fstat(descriptor).st_ino, None)  # the number of a file that is gone
        else:
            descriptor = self._real["open"](path, flags, mode, **options)
        if self._ours(path):
            self._paths[descriptor] = Path(path)
        return descriptor

    def _close(self, descriptor: int) -> None:
        self._paths.pop(descriptor, None)
        self._real["close"](descriptor)

    def _write(self, descriptor: int, data: Any) -> int:
        if descriptor in self._paths:
            try:
                self._step()
            except BaseException:
                self._real["write"](descriptor, bytes(data)[: len(data) // 2])
                raise
        return self._real["write"](descriptor, data)

    def _fsync(self, descriptor: int) -> None:
        path = self._paths.get(descriptor)
        if path is None:
            self._real["fsync"](descriptor)
            return
        self._step()
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            self._sync_names(path)
        else:
            self._content[found.st_ino] = path.read_bytes()

    def _sync_names(self, folder: Path) -> None:
        self._names[folder] = {entry.name: entry.inode() for entry in os.scandir(folder)}

    def _sync_tree(self, folder: Path) -> None:
        """What was there before is durable."""
        self._sync_names(folder)
        for path in folder.iterdir():
            if path.is_dir():
                self._sync_tree(path)
            else:
                self._content[path.stat().st_ino] = path.read_bytes()

    def _on_descriptor(self, name: str) -> Callable[..., Any]:
        def call(descriptor: int, *arguments: Any) -> Any:
            if descriptor in self._paths:
                self._step()
            return self._real[name](descriptor, *arguments)

        return call

    def _on_path(self, name: str) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if self._ours(path):
                self._step()
            return self._real[name](path, *arguments, **options)

        return call


def broken() -> OSError:
    return OSError(errno.EIO, "the disk does not answer")
