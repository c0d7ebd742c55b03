"""A copy of the audit log while it is written: a prefix of it that holds all that was known when the copy began.

What says how long the log is, or that a segment is finished, is read before the records; what records name, after them.
A body that is deleted between the two, or a tile that is being replaced, makes the copy fail its check: it is then made
again, and the last one is kept as it is, with what was found in it.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from deployments.audit.anchors import Unusable, find_keys
from deployments.audit.fence import EPOCHS_DIR
from deployments.audit.head import HEAD_FILE
from deployments.audit.layout import CHECKPOINT_FILE, HISTORY_FILE, KEYS_FILE, WITNESSED_FILE
from deployments.audit.read import TILES_DIR
from deployments.audit.segment import SEGMENTS_DIR
from deployments.audit.vault import BODIES_DIR
from deployments.audit.verify import Report, verify
from serve_app.backups.manifest import BackupError

_ATTEMPTS = 3
_UNFINISHED = ".new"
_INCOMING = "incoming"  # bodies that no record names yet: a start deletes them


def copy_log(source: Path, target: Path) -> Report:
    """Copy the log in `source` and verify the copy. `BackupError` when there is none, `OSError` when a disk fails."""
    if not (source / HEAD_FILE).is_file():
        raise BackupError(f"there is no audit log at {source}.")
    for attempt in range(1, _ATTEMPTS + 1):
        for path in _in_order(source):
            _copy(source / path, target / path)
        try:
            report = verified(target)
        except BackupError:
            if attempt == _ATTEMPTS:
                raise
        else:
            if report.ok or attempt == _ATTEMPTS:
                return report
        shutil.rmtree(target)
    raise AssertionError  # pragma: no cover


def verified(log: Path) -> Report:
    """What the project's verifier says of a log; `BackupError` when there is nothing that it can check."""
    try:
        return verify(log)
    except Unusable as error:
        raise BackupError(f"the copy of the audit log cannot be checked: {error}") from error


def failures(report: Report) -> dict[str, int]:
    """The checks that failed, with how often."""
    return {check.name: check.failures for check in report.checks if check.failures}


def log_key(log: Path) -> str | None:
    """The public key of a log; None for one that was never signed."""
    keys = find_keys(log, ())
    return str(keys.log[0]) if keys.log else None


def _in_order(log: Path) -> Iterator[Path]:
    """The files of a log by relative path, listed as late as possible."""
    # 1. How long it is, by everybody who says so. What follows is at least as long.
    for name in (HEAD_FILE, CHECKPOINT_FILE, WITNESSED_FILE, HISTORY_FILE, KEYS_FILE):
        if (log / name).is_file():
            yield Path(name)
    # 2. Tiles are of records that are in the segments.
    yield from _files(log, log / TILES_DIR)
    # 3. A seal is written when its segment is finished: the segment that is read afterwards is whole.
    segments = log / SEGMENTS_DIR
    yield from (path for path in _files(log, segments) if path.suffix != ".seg")
    yield from (path for path in _files(log, segments) if path.suffix == ".seg")
    # 4. Epochs are taken before segments are begun.
    yield from _files(log, log / EPOCHS_DIR)
    # 5. Bodies are stored before the records that name them.
    yield from (path for path in _files(log, log / BODIES_DIR) if path.parts[1:2] != (_INCOMING,))


def _files(log: Path, folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != _UNFINISHED:
            yield path.relative_to(log)


def _copy(source: Path, target: Path) -> None:
    """Copy one file as long as it is there; whether it had to be is the verifier's to say."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with source.open("rb") as file:
            target.write_bytes(b"")
            target.chmod(0o600)
            with target.open("wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
    except FileNotFoundError:
        target.unlink(missing_ok=True)
