"""Disks that misbehave, behind the seam of `deployments/audit/files.py`."""

import errno
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deployments.audit.files import SYSTEM_DISK, Disk


class Stepped:
    """A disk that calls `before(step, arguments)` ahead of each system call; it may answer in its place."""

    def __init__(self, disk: Disk, before: Callable[[str, tuple[object, ...]], object]) -> None:
        self._disk = disk
        self._before = before

    def __getattr__(self, step: str) -> Callable[..., object]:
        call = getattr(self._disk, step)

        def stepped(*arguments: object) -> object:
            answer = self._before(step, arguments)
            return call(*arguments) if answer is None else answer

        return stepped


def stepped(before: Callable[[str, tuple[object, ...]], object], disk: Disk = SYSTEM_DISK) -> Disk:
    return Stepped(disk, before)  # type: ignore[return-value]


# --- a disk in memory, which can lose its power --------------------------------------------------------------


@dataclass(eq=False)
class _File:
    """`durable` is what survives a power cut for certain; `lost`: a failed sync, whose bytes the cache still shows."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    lost: bool = False


@dataclass(eq=False)
class _Directory:
    names: dict[str, "_File | _Directory"] = field(default_factory=dict)
    durable: dict[str, "_File | _Directory"] = field(default_factory=dict)


@dataclass
class _Open:
    node: "_File | _Directory"
    append: bool
    position: int = 0


class MemoryDisk:
    """What POSIX promises and nothing more: bytes and names survive a power cut once they were synced, or by luck.

    A sync that fails drops the bytes it should have written: readers go on seeing them until `forget`, and the next
    sync reports success without writing them, as Linux does.
    """

    def __init__(self) -> None:
        self.root = _Directory()
        self.free = 10**12
        self._open: dict[int, _Open] = {}
        self._next = 1000

    # what tests do to it

    def power_cut(self, luck: random.Random) -> None:
        """Lose what was never synced, or a part of it."""
        self._open.clear()
        self._cut(self.root, luck)

    def put(self, path: Path, data: bytes) -> None:
        """Store a file, durably."""
        self._directory(path.parent).names[path.name] = _File(bytearray(data), bytes(data))
        self._directory(path.parent).durable[path.name] = self._directory(path.parent).names[path.name]

    def fail_sync(self, descriptor: int) -> None:
        """What the kernel does to a file when writing it back fails."""
        node = self._open[descriptor].node
        if isinstance(node, _File):
            node.lost = True

    def _cut(self, directory: _Directory, luck: random.Random) -> None:
        for name in sorted(directory.names.keys() | directory.durable.keys()):
            if directory.names.get(name) is not directory.durable.get(name) and luck.random() < 0.5:
                kept = directory.names.get(name)
                if kept is None:
                    del directory.durable[name]
                else:
                    directory.durable[name] = kept
        directory.names = dict(directory.durable)
        for node in directory.names.values():
            if isinstance(node, _Directory):
                self._cut(node, luck)
                continue
            data = bytes(node.data)
            if not node.lost and data.startswith(node.durable):
                extra = bytearray(data[len(node.durable) : luck.randint(len(node.durable), len(data))])
                if extra and luck.random() < 0.2:  # the file grew, its pages did not arrive
                    hole = luck.randrange(len(extra))
                    extra[hole:] = bytes(len(extra) - hole)
                data = node.durable + bytes(extra)
            else:
                data = node.durable
            node.data, node.durable, node.lost = bytearray(data), data, False

    # the seam

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        parent = self._directory(path.parent)
        node = parent.names.get(path.name) if path.name else self.root
        if node is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            node = parent.names[path.name] = _File()
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        if flags & os.O_TRUNC and isinstance(node, _File):
            node.data = bytearray()
        self._next += 1
        self._open[self._next] = _Open(node, bool(flags & os.O_APPEND))
        return self._next

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)

    def lock(self, descriptor: int) -> None:
        """Nobody is locked out: the lock is lost."""

    def size(self, descriptor: int) -> int:
        return len(self._file(descriptor).data)

    def read(self, descriptor: int, count: int, offset: int) -> bytes:
        return bytes(self._file(descriptor).data[offset : offset + count])

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        held, file = self._open[descriptor], self._file(descriptor)
        at = len(file.data) if held.append else held.position
        file.data[at : at + len(data)] = data
        held.position = at + len(data)
        self.free -= len(data)
        return len(data)

    def truncate(self, descriptor: int, size: int) -> None:
        del self._file(descriptor).data[size:]

    def fdatasync(self, descriptor: int) -> None:
        self.fsync(descriptor)

    def fsync(self, descriptor: int) -> None:
        node = self._open[descriptor].node
        if isinstance(node, _Directory):
            node.durable = dict(node.names)
        elif not node.lost:
            node.durable = bytes(node.data)

    def forget(self, descriptor: int) -> None:
        file = self._file(descriptor)
        if file.lost:
            file.data, file.lost = bytearray(file.durable), False

    def is_directory(self, path: Path) -> bool:
        try:
            self._directory(path)
        except OSError:
            return False
        return True

    def names(self, directory: Path) -> list[str]:
        return list(self._directory(directory).names) if self.is_directory(directory) else []

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        self._directory(path.parent).names.setdefault(path.name, _Directory())

    def replace(self, source: Path, target: Path) -> None:
        parent = self._directory(source.parent)
        if source.name not in parent.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        self._directory(target.parent).names[target.name] = parent.names.pop(source.name)

    def remove(self, path: Path) -> None:
        self._directory(path.parent).names.pop(path.name, None)

    def free_bytes(self, directory: Path) -> int:
        return self.free

    def _file(self, descriptor: int) -> _File:
        node = self._open[descriptor].node
        if isinstance(node, _Directory):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return node

    def _directory(self, path: Path) -> _Directory:
        node: _File | _Directory | None = self.root
        for part in path.parts[1:]:
            node = node.names.get(part) if isinstance(node, _Directory) else None
        if not isinstance(node, _Directory):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return node

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Every file with its bytes, for a look at what happened."""
        folders: list[tuple[str, _Directory]] = [("", self.root)]
        while folders:
            prefix, folder = folders.pop()
            for name, node in sorted(folder.names.items()):
                if isinstance(node, _Directory):
                    folders.append((f"{prefix}/{name}", node))
                else:
                    yield f"{prefix}/{name}", bytes(node.data)


# --- one fault -------------------------------------------------------------------------------------------


class Faulty:
    """A disk on which one system call, the `at`-th (from 0), goes wrong: with an error number, or cut `short`.

    A failing write may have written some of its bytes, a failing sync drops what it should have written. `calls` tells
    what was called so far.
    """

    def __init__(self, disk: Disk, at: int, code: int | None = None) -> None:
        self._disk = disk
        self._at = at
        self._code = code
        self.calls: list[str] = []

    @property
    def disk(self) -> Disk:
        return stepped(self._before, self._disk)

    @property
    def hit(self) -> str | None:
        """The call that went wrong."""
        return self.calls[self._at] if 0 <= self._at < len(self.calls) else None

    def _before(self, step: str, arguments: tuple[object, ...]) -> object:
        self.calls.append(step)
        if len(self.calls) - 1 != self._at:
            return None
        if step == "write":
            descriptor, data = arguments
            assert isinstance(descriptor, int)
            part = bytes(data)[: len(bytes(data)) // 2]  # type: ignore[call-overload]
            written = self._disk.write(descriptor, part) if part else 0
            if self._code is None and part:
                return written
        if self._code is None:
            return None
        if step in {"fsync", "fdatasync"} and isinstance(self._disk, MemoryDisk):
            [descriptor] = arguments
            assert isinstance(descriptor, int)
            self._disk.fail_sync(descriptor)
        if step == "close":
            self._disk.close(*arguments)  # type: ignore[arg-type]
        raise OSError(self._code, os.strerror(self._code))
