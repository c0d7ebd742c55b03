"""The operating system as the log uses it, one call a step, and the durable operations that are made of those steps.

`Disk` is the seam for tests: each method is one system call that may fail, be cut short, or be the last thing that a
process did. Every durable operation returns only when the disk has answered; each raises `OSError`.
"""

import fcntl
import os
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """System calls on files. Descriptors are small integers; `OSError` is how each fails."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """A new descriptor, closed on exec."""
        ...

    def close(self, descriptor: int) -> None:
        """Give up a descriptor and what it locks."""
        ...

    def lock(self, descriptor: int) -> None:
        """Take the exclusive lock of a file, or `BlockingIOError`."""
        ...

    def size(self, descriptor: int) -> int:
        """Bytes in a file."""
        ...

    def read(self, descriptor: int, count: int, offset: int) -> bytes:
        """At most `count` bytes from `offset` on; none at the end."""
        ...

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """Append some of `data`; how many bytes it was."""
        ...

    def truncate(self, descriptor: int, size: int) -> None:
        """Make a file `size` bytes long."""
        ...

    def fdatasync(self, descriptor: int) -> None:
        """Make a file's bytes durable."""
        ...

    def fsync(self, descriptor: int) -> None:
        """Make a file's bytes, or a directory's names, durable."""
        ...

    def forget(self, descriptor: int) -> None:
        """Drop what memory caches of a file that is written back, so that the next read asks the disk."""
        ...

    def is_directory(self, path: Path) -> bool:
        """True when there is a directory."""
        ...

    def names(self, directory: Path) -> list[str]:
        """Names in a directory, in no order; none when it does not exist."""
        ...

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        """Create a directory; nothing happens when it exists."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file over another."""
        ...

    def remove(self, path: Path) -> None:
        """Delete a file; nothing happens when it is not there."""
        ...

    def free_bytes(self, directory: Path) -> int:
        """Room on the file system for whoever is not root."""
        ...


class SystemDisk:
    """The real one. Python itself repeats a call that a signal interrupted."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """The system call of this name."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, descriptor: int) -> None:
        """The system call of this name."""
        os.close(descriptor)

    def lock(self, descriptor: int) -> None:
        """By flock."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def size(self, descriptor: int) -> int:
        """By fstat."""
        return os.fstat(descriptor).st_size

    def read(self, descriptor: int, count: int, offset: int) -> bytes:
        """By pread."""
        return os.pread(descriptor, count, offset)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """The system call of this name."""
        return os.write(descriptor, data)

    def truncate(self, descriptor: int, size: int) -> None:
        """By ftruncate."""
        os.ftruncate(descriptor, size)

    def fdatasync(self, descriptor: int) -> None:
        """The system call of this name."""
        os.fdatasync(descriptor)

    def fsync(self, descriptor: int) -> None:
        """The system call of this name."""
        os.fsync(descriptor)

    def forget(self, descriptor: int) -> None:
        """By posix_fadvise."""
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def is_directory(self, path: Path) -> bool:
        """By stat."""
        return path.is_dir()

    def names(self, directory: Path) -> list[str]:
        """By getdents."""
        try:
            return os.listdir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        """By mkdir."""
        path.mkdir(mode=mode, exist_ok=True)

    def replace(self, source: Path, target: Path) -> None:
        """By rename."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """By unlink."""
        path.unlink(missing_ok=True)

    def free_bytes(self, directory: Path) -> int:
        """By statvfs."""
        found = os.statvfs(directory)
        return found.f_bavail * found.f_frsize


SYSTEM_DISK = SystemDisk()


def sync_directory(path: Path, disk: Disk = SYSTEM_DISK) -> None:
    """Make the names in a directory durable."""
    descriptor = disk.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk.fsync(descriptor)
    finally:
        disk.close(descriptor)


def make_directory(path: Path, disk: Disk = SYSTEM_DISK) -> None:
    """Create a directory that only its owner may enter, durably; parents too. Nothing happens when it exists.

    One that exists may have been created by a process that died before it was durable: whoever relies on it syncs its
    parent.
    """
    if disk.is_directory(path):
        return
    make_directory(path.parent, disk)
    disk.make_directory(path)
    sync_directory(path.parent, disk)


def write_all(descriptor: int, data: bytes, disk: Disk = SYSTEM_DISK) -> None:
    """Write everything, however many short writes it takes."""
    view = memoryview(data)
    while view:
        written = disk.write(descriptor, view)
        if written <= 0:
            raise OSError("the disk took no byte and gave no reason")
        view = view[written:]


def read_all(path: Path, disk: Disk = SYSTEM_DISK) -> bytes:
    """A small file. `FileNotFoundError` when it is not there."""
    descriptor = disk.open(path, os.O_RDONLY)
    try:
        parts: list[bytes] = []
        offset = 0
        while part := disk.read(descriptor, 1 << 16, offset):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)
    finally:
        disk.close(descriptor)


def replace_file(path: Path, data: bytes, disk: Disk = SYSTEM_DISK, suffix: str = ".new") -> None:
    """Replace a small file by `data`: afterwards it holds either the old or the new bytes, also after power loss.

    Two processes that may do so at once need two suffixes, or one renames what the other has only begun to write.
    """
    temporary = path.with_name(path.name + suffix)
    descriptor = disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(descriptor, data, disk)
        disk.fsync(descriptor)
    finally:
        disk.close(descriptor)
    disk.replace(temporary, path)
    sync_directory(path.parent, disk)
