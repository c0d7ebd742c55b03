"""Where checkpoints lie: the log's own files, copies on other disks, and places that somebody else keeps.

```
<log>/checkpoint             the newest signed note, with the cosignatures it has so far
<log>/checkpoint.witnessed   the newest one that enough witnesses signed
<log>/checkpoints.jsonl      one every so often, for ever: {"at_ms": int, "epoch": int, "note": text} a line
<copy>/checkpoint            the newest one again
```
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import cast

from deployments.audit.files import replace_file, sync_directory, write_all
from deployments.audit.layout import CHECKPOINT_FILE, HISTORY_FILE, WITNESSED_FILE
from deployments.audit.notes import (
    MAX_NOTE_BYTES,
    BadNote,
    Checkpoint,
    VerifierKey,
    parse_checkpoint,
    parse_note,
    verify_note,
)
from deployments.audit.signing import RefusedLog

_TAIL_BYTES = 4 * MAX_NOTE_BYTES
_COPY_RETRY_S = 10.0
_CLOSE_S = 5.0
_log = logging.getLogger(__name__)

Place = Callable[[], bytes | None]
"""Answers the newest checkpoint that somebody else keeps, a signed note; None: has none. May raise anything."""


# --- finding them ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A signed note and where it was. `own`: only this log may have written there."""

    place: str
    note: bytes
    own: bool


@dataclass(frozen=True, slots=True)
class Known:
    """A checkpoint that the log's key signed, and where it was."""

    place: str
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Search:
    """What every place knows, and one sentence for each place that said nothing."""

    found: tuple[Found, ...]
    silent: tuple[str, ...]


def search(directory: Path, copies: Sequence[Path], places: Mapping[str, Place]) -> Search:
    """Ask every place for its newest checkpoint; nothing is verified. `OSError` for the log's own files alone."""
    found: list[Found] = []
    silent: list[str] = []

    def ask(place: str, own: bool, newest: Place) -> None:
        try:
            note = newest()
        except Exception as error:  # whoever keeps it: an unreachable place never keeps the log from opening
            silent.append(f"{place} cannot be asked: {_why(error)}.")
            return
        if note is not None:
            found.append(Found(place, note, own))
        elif not own:
            silent.append(f"{place} has no checkpoint.")

    for name in (CHECKPOINT_FILE, WITNESSED_FILE):
        note = _read(directory / name)
        if note is not None:
            found.append(Found(name, note, own=True))
    note = last_of_history(directory)
    if note is not None:
        found.append(Found(HISTORY_FILE, note, own=True))
    for copy in copies:
        ask(f"the copy in {copy}", True, lambda copy=copy: _read(copy / CHECKPOINT_FILE))
    for name, newest in places.items():
        ask(name, False, newest)
    return Search(tuple(found), tuple(silent))


def ours(search: Search, key: VerifierKey) -> tuple[list[Known], list[str]]:
    """The checkpoints that `key` signed, and a sentence for each other one that lies where anybody may write.

    `RefusedLog` for a note in a place of our own that our key did not sign, or that is of another log.
    """
    known: list[Known] = []
    foreign: list[str] = []
    for found in search.found:
        try:
            known.append(Known(found.place, read_checkpoint(found.note, key)))
        except BadNote as error:
            if found.own:
                raise RefusedLog(
                    found.place,
                    f"the checkpoint there is not one of '{key.name}' under the log's key ({error}). Somebody replaced "
                    "it, or the key. Put back what belongs together.",
                ) from error
            foreign.append(f"{found.place} has a note that is no checkpoint of this log: {error}.")
    return known, foreign


def read_checkpoint(data: bytes, key: VerifierKey) -> Checkpoint:
    """The checkpoint in a note that `key` signed under its own name; else `BadNote`."""
    note = parse_note(data)
    verify_note(note, [key])
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != key.name:
        raise BadNote("it is of another log")
    return checkpoint


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_NOTE_BYTES + 1)
    except FileNotFoundError:
        return None


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"{type(error).__name__}: {error}"


# --- history -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PastCheckpoint:
    """A line of the history: when and under which epoch a checkpoint was signed."""

    at_ms: int
    epoch: int
    note: bytes


def read_history(directory: Path) -> Iterator[PastCheckpoint]:
    """The history, oldest first, nothing verified; a torn last line is not one. `BadNote` or `OSError`."""
    try:
        with (directory / HISTORY_FILE).open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield _parse_line(line)
    except FileNotFoundError:
        return


def last_of_history(directory: Path) -> bytes | None:
    """The newest note of the history, or None. `RefusedLog` when its last whole line cannot be read; `OSError`."""
    path = directory / HISTORY_FILE
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL_BYTES, 0))
            tail = file.read()
    except FileNotFoundError:
        return None
    whole = tail[: tail.rfind(b"\n") + 1]
    if not whole:
        return None
    try:
        return _parse_line(whole.splitlines()[-1]).note
    except BadNote as error:
        raise RefusedLog(HISTORY_FILE, f"its last line is damaged: {error}. Restore the log from a copy.") from error


def append_history(directory: Path, past: PastCheckpoint) -> None:
    """Add a line durably. What an interrupted attempt left behind the last whole line goes first. `OSError`."""
    path = directory / HISTORY_FILE
    line = json.dumps({"at_ms": past.at_ms, "epoch": past.epoch, "note": past.note.decode()}, ensure_ascii=False)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        begin = max(size - _TAIL_BYTES, 0)
        end = begin + os.pread(descriptor, _TAIL_BYTES, begin).rfind(b"\n") + 1
        if end != size:
            os.ftruncate(descriptor, end)
        os.lseek(descriptor, end, os.SEEK_SET)
        write_all(descriptor, line.encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(directory)


def _parse_line(line: bytes) -> PastCheckpoint:
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadNote("the line is not JSON") from error
    fields = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    at_ms, epoch, note = fields.get("at_ms"), fields.get("epoch"), fields.get("note")
    if not isinstance(at_ms, int) or not isinstance(epoch, int) or not isinstance(note, str):
        raise BadNote("the line has no time, epoch and note")
    return PastCheckpoint(at_ms, epoch, note.encode())


# --- copies ------------------------------------------------------------------------------------------------------


class Copy:
    """The newest checkpoint in a directory on another disk, written on a thread of its own.

    A disk that fails or hangs holds nobody up; the next checkpoint, or a few seconds, bring the next attempt.
    """

    def __init__(self, directory: Path) -> None:
        """`directory` is made when its parent exists; a parent that is missing is a disk that is not mounted."""
        self._directory = directory
        self.suffix = ".new"  # of a file that is not whole yet
        self._changed = Condition()
        self._newest: bytes | None = None
        self._written: bytes | None = None
        self._closed = False
        self._thread: Thread | None = None
        self.problem: str | None = None

    def offer(self, note: bytes) -> None:
        """Copy this checkpoint soon. One that was not copied yet is left out."""
        with self._changed:
            self._newest = note
            if self._thread is None:
                self._thread = Thread(target=self._work, name="audit-copy", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def write(self, note: bytes) -> None:
        """Copy this checkpoint now; an error is the copy's `problem`."""
        try:
            if not self._directory.is_dir():
                self._directory.mkdir(mode=0o700, exist_ok=True)
                sync_directory(self._directory.parent)
            replace_file(self._directory / CHECKPOINT_FILE, note, suffix=self.suffix)
            self.problem = None
        except OSError as error:
            problem = f"The checkpoint cannot be copied to {self._directory}: {error.strerror or 'unknown error'}."
            if self.problem is None:
                _log.error("%s", problem)
            self.problem = problem

    def close(self) -> None:
        """Wait a few seconds for the last copy."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._newest is self._written:
                    if self._closed:
                        return
                    self._changed.wait()
                    continue
                note = self._newest
            if note is not None:
                self.write(note)
            with self._changed:
                if self.problem is None:
                    self._written = note
                elif self._closed:
                    return
                elif self._newest is note:
                    self._changed.wait(_COPY_RETRY_S)
