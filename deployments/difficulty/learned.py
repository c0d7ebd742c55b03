"""The learned snapshot in use, and on which sessions it may act.

What is shipped orders turns and never acts. A snapshot of one's own starts in shadow; an operator lets it act, first on
a slice of the sessions, then on all, by a reviewed change of the settings. Its file is watched like the policy's.

A rollout gives a candidate to some sessions, which is another snapshot in the same place: it acts where the configured
one would. Its content is fixed by its revision, so its file is not watched.
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import Final

from deployments.difficulty.policies import stamp
from deployments.difficulty.settings import LearnedSettings
from deployments.ports import SessionId, TenantId
from deployments.rollouts import ROUTER_TARGET, Kind, file_sum, revision_of_files
from router.snapshot import Snapshot, SnapshotError, parse
from router.types import Mode

_log = logging.getLogger("gatehouse.router")
_MOST_BYTES = 64 * 2**20
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class LearnedSource:
    """One snapshot at a time. A request takes `current` once and keeps it to its end."""

    def __init__(self, settings: LearnedSettings, shipped: bytes | None) -> None:
        """`SnapshotError` when the configured file, or `shipped` where there is none, cannot be used."""
        self._settings = settings
        self._path = None if settings.snapshot is None else Path(settings.snapshot)
        self._seen = stamp(self._path)
        self.refused: str | None = None
        """Why the newest file is not in use; None when it is."""
        data = shipped if self._path is None else self._read(self._path)
        self.current: Snapshot | None = None if data is None else parse(data)

    def mode(self, tenant: TenantId, session: SessionId) -> Mode:
        """What the snapshot may do in a session, the same in every turn of it."""
        if self._path is None or self._settings.mode == "shadow":
            return Mode.SHADOW
        digest = hashlib.sha256(f"{tenant}\0{session}".encode("utf-8", "surrogatepass")).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        return Mode.APPLY if place < self._settings.slice else Mode.SHADOW

    def look(self) -> bool:
        """Take a changed file over; True when another snapshot is in use now. Never raises for what it finds."""
        found = stamp(self._path)
        if self._path is None or found is None or found == self._seen:
            return False  # a file that is gone changes nothing: the last good snapshot stays
        self._seen = found
        before = "none" if self.current is None else self.current.digest[:12]
        try:
            snapshot = parse(self._read(self._path))
        except (SnapshotError, OSError) as error:
            self.refused = str(error)
            _log.error("the new router snapshot is refused, %s stays: %s", before, error)
            return False
        self.refused = None
        if self.current is not None and snapshot.digest == self.current.digest:
            return False
        _log.info("router snapshot %s takes over from %s", snapshot.digest[:12], before)
        self.current = snapshot
        return True

    def _read(self, path: Path) -> bytes:
        """What the file holds; `SnapshotError` when that is another revision than the settings name."""
        data = read(path)
        if _DIGEST.fullmatch(self._settings.revision) and revision_of(path, data) != self._settings.revision:
            raise SnapshotError(f"{path} is not the revision {self._settings.revision[:12]} that the settings name")
        return data


class LearnedSources:
    """The configured snapshot and, where one is rolled out, its candidate."""

    def __init__(self, settings: LearnedSettings, shipped: bytes | None) -> None:
        """`SnapshotError` when one of the files cannot be used, or is not the revision that the settings name."""
        self.configured = LearnedSource(settings, shipped)
        self._candidates: dict[str, LearnedSource] = {}
        if settings.candidate is not None:
            named, update = settings.candidate.revision, {**settings.candidate.model_dump(), "candidate": None}
            self._candidates[named] = LearnedSource(settings.model_copy(update=update), None)

    def of(self, revision: str) -> LearnedSource:
        """The snapshot of a revision; the configured one for "" and for what is not here."""
        return self._candidates.get(revision, self.configured)


def revision_of(path: Path, data: bytes) -> str:
    """The revision of a snapshot's file, as `gatehouse rollout register --kind router` prints it."""
    return revision_of_files(Kind.ROUTER, ROUTER_TARGET, [file_sum(path.resolve().name, data)])


def load(path: Path) -> Snapshot:
    """The snapshot in a file, or `SnapshotError`."""
    return parse(read(path))


def read(path: Path) -> bytes:
    """What a snapshot's file holds; `SnapshotError` when it cannot be read, or is too large for one."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise SnapshotError(f"{path} is too large for a snapshot")
    return data
