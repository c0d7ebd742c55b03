"""What the files of an artefact are: each with its size and its digest, and none of them anything but a plain file."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deployments.rollouts import FileSum

_CHUNK: Final = 2**20


class NotPlain(ValueError):
    """Something is neither a file nor a folder, such as a link, which could lead elsewhere tomorrow."""

    def __init__(self, path: Path) -> None:
        """`path` is relative to the artefact."""
        super().__init__(f"'{path}' is not a plain file.")
        self.path = path


def sums(root: Path) -> tuple[FileSum, ...]:
    """The file at `root`, or every file below the folder in order of name. `NotPlain`, or `OSError`."""
    return tuple(_sum(root, each) for each in _files(root))


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for folder, folders, names in os.walk(root, onerror=_fail):
        folders.sort()
        for name in sorted([*folders, *names]):
            each = Path(folder, name)
            mode = each.lstat().st_mode
            if stat.S_ISREG(mode):
                yield each
            elif not stat.S_ISDIR(mode):
                raise NotPlain(each.relative_to(root))


def _sum(root: Path, file: Path) -> FileSum:
    digest, size = hashlib.sha256(), 0
    # Opened without following a link, should one have taken the file's place meanwhile.
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    name = file.name if file == root else file.relative_to(root).as_posix()
    return FileSum(name, size, digest.hexdigest())


def _fail(error: OSError) -> None:
    raise error
