"""The learned snapshot in use, and on which sessions it may act.

What is shipped orders turns and never acts. A snapshot of one's own starts in shadow; an operator lets it act, first on
a slice of the sessions, then on all, by a reviewed change of the settings. Its file is watched like the policy's.
"""

import hashlib
import logging
from pathlib import Path

from deployments.difficulty.policies import stamp
from deployments.difficulty.settings import LearnedSettings
from deployments.ports import SessionId, TenantId
from router.snapshot import Snapshot, SnapshotError, parse
from router.types import Mode

_log = logging.getLogger("gatehouse.router")
_MOST_BYTES = 64 * 2**20


class LearnedSource:
    """One snapshot at a time. A request takes `current` once and keeps it to its end."""

    def __init__(self, settings: LearnedSettings, shipped: bytes | None) -> None:
        """`SnapshotError` when the configured file, or `shipped` where there is none, cannot be used."""
        self._settings = settings
        self._path = None if settings.snapshot is None else Path(settings.snapshot)
        self._seen = stamp(self._path)
        self.refused: str | None = None
        """Why the newest file is not in use; None when it is."""
        data = shipped if self._path is None else _read(self._path)
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
            snapshot = parse(_read(self._path))
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


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise SnapshotError(f"{path} is too large for a snapshot")
    return data
