"""Who is the writer: the highest epoch. What holds where a lock does not: other containers, a lost lock file.

`<dir>/epochs/<20 digits>` is created, never overwritten, by whoever opens the log for writing. A writer looks for a
later one after each fdatasync and before it acknowledges. The successor creates its file before it reads the log, so
whatever the predecessor acknowledged was on disk by then and is part of what the successor goes on from.
"""

import os
import re
from pathlib import Path
from typing import Self

from deployments.audit.files import SYSTEM_DISK, Disk, make_directory, sync_directory
from deployments.errors import AuditInDoubt

EPOCHS_DIR = "epochs"
_NAME = re.compile(r"[0-9]{20}")
_KEPT = 8


class Fenced(AuditInDoubt):
    """Another writer has opened the log: this one acknowledges nothing any more. It may have what was being written."""

    code = "audit_fenced"


class Fence:
    """An epoch that was taken. Not thread-safe."""

    def __init__(self, folder: Path, epoch: int, disk: Disk) -> None:
        self._folder = folder
        self._disk = disk
        self.epoch = epoch

    @classmethod
    def take(cls, directory: Path, above: int = 0, disk: Disk = SYSTEM_DISK) -> Self:
        """Take the next epoch: higher than `above` and than any that was taken before. `OSError` when that fails."""
        folder = directory / EPOCHS_DIR
        make_directory(folder, disk)
        while True:
            epoch = max(above, _newest(folder, disk)) + 1
            try:
                descriptor = disk.open(folder / f"{epoch:020d}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                continue
            try:
                disk.fsync(descriptor)
            finally:
                disk.close(descriptor)
            sync_directory(folder, disk)
            for old in sorted(_names(folder, disk))[:-_KEPT]:
                disk.remove(folder / old)
            return cls(folder, epoch, disk)

    def check(self) -> None:
        """Raise `Fenced` unless this is still the newest epoch, `OSError` when that cannot be found out."""
        newest = _newest(self._folder, self._disk)
        if newest > self.epoch:
            raise Fenced(f"The audit log is written by a later process (epoch {newest}); this one has stopped.")
        if newest < self.epoch:
            raise Fenced(f"The audit log's epoch file {self.epoch} is gone; nobody can tell who its writer is.")


def _names(folder: Path, disk: Disk) -> list[str]:
    return [name for name in disk.names(folder) if _NAME.fullmatch(name)]


def _newest(folder: Path, disk: Disk) -> int:
    return max(map(int, _names(folder, disk)), default=0)
