"""The witness: a second party that signs a log's checkpoint only when the log still contains all it signed before.

C2SP tlog-witness, without its HTTP (`serve_app/witness.py`). It trusts nobody: a request is a checkpoint that the log
signed and a proof that its tree begins with the tree this witness knows.

```
<dir>/                      0700
  lock                      one process
  witness.key               its signing key, made at the first start
  logs/<SHA-256 of origin>/
    newest.json             the newest checkpoint, replaced and synced before it is cosigned
    history.jsonl           every checkpoint it cosigned, with the cosignature
    refused.jsonl           what the log signed although it does not extend the newest: evidence
```

Nothing it cosigned is ever answered by another root of the same size, a crash at any point included: the order is
compare, persist, sign, answer, under one lock.
"""

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import TypeAlias, cast

from deployments.audit.files import make_directory, replace_file, sync_directory, write_all
from deployments.audit.merkle import EMPTY_ROOT, HASH_BYTES, verify_consistency
from deployments.audit.notes import (
    COSIGNATURE_V1,
    ED25519,
    BadKey,
    BadNote,
    BadSignature,
    Checkpoint,
    Note,
    Signature,
    SignerKey,
    VerifierKey,
    cosign,
    decode_base64,
    decode_decimal,
    encode_base64,
    generate_key,
    parse_checkpoint,
    parse_note,
    read_signer_key,
    verify_note,
    write_signer_key,
)
from deployments.clock import Clock

ADD_CHECKPOINT = "/add-checkpoint"
SIZE_TYPE = "text/x.tlog.size"
MAX_PROOF_LINES = 63
MAX_REQUEST_BYTES = 65_536
LOCK_FILE = "lock"
KEY_FILE = "witness.key"
NEWEST_FILE = "newest.json"
HISTORY_FILE = "history.jsonl"
REFUSED_FILE = "refused.jsonl"
_SCHEMA = "gatehouse.witness/1"
_MAX_REFUSED = 1_000  # of each kind: whoever sends good checkpoints with bad proofs must not crowd out the forks
_TAIL_BYTES = 2**20  # holds several of the longest lines that a request can lead to
_log = logging.getLogger(__name__)


# --- requests ----------------------------------------------------------------------------------------------------


class BadRequest(ValueError):
    """The bytes are not an add-checkpoint request."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One add-checkpoint request: consistency proof from the tree of `old` leaves, and the signed checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes

    def to_bytes(self) -> bytes:
        """The body of the request."""
        head = "".join(f"{line}\n" for line in (f"old {self.old}", *map(encode_base64, self.proof), ""))
        return head.encode() + self.note


def parse_submission(data: bytes) -> Submission:
    """The request in a body, nothing verified, or `BadRequest`."""
    if len(data) > MAX_REQUEST_BYTES:
        raise BadRequest(f"a request has at most {MAX_REQUEST_BYTES} bytes")
    head, gap, note = data.partition(b"\n\n")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise BadRequest("the lines before the checkpoint are ASCII") from error
    old = decode_decimal(first.removeprefix("old ")) if first.startswith("old ") else None
    if not gap or old is None:
        raise BadRequest("a request has a line 'old', a space and a size, and an empty line before the checkpoint")
    if len(lines) > MAX_PROOF_LINES:
        raise BadRequest(f"a proof has at most {MAX_PROOF_LINES} lines")
    proof = [decode_base64(line) for line in lines]
    if any(found is None or len(found) != HASH_BYTES for found in proof):
        raise BadRequest(f"a line of the proof is the base64 of {HASH_BYTES} bytes")
    return Submission(old, tuple(found for found in proof if found is not None), note)


# --- answers -----------------------------------------------------------------------------------------------------


class Reason(StrEnum):
    """Why a request was refused."""

    MALFORMED = "malformed"
    UNKNOWN_LOG = "unknown_log"
    UNKNOWN_KEY = "unknown_key"
    INCONSISTENT = "inconsistent"


@dataclass(frozen=True, slots=True)
class Cosigned:
    """The witness's signatures under the checkpoint."""

    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class OtherSize:
    """The proof does not start at `size`, the tree this witness knows; or it does, with another root of that size."""

    size: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Not cosigned. `detail` is one sentence for whoever asked."""

    reason: Reason
    detail: str


Answer: TypeAlias = Cosigned | OtherSize | Refused


# --- state -------------------------------------------------------------------------------------------------------


class WitnessLocked(Exception):
    """Another process witnesses with this state."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.directory = directory

    def __str__(self) -> str:
        return f"another witness runs with the state in {self.directory}; there is one."


class BadState(Exception):
    """What the witness knew is lost or damaged. It does not start: it would sign what contradicts its own name."""


class WitnessFailed(Exception):
    """The state could not be written. Nothing is signed until a fresh process has read it back."""


def append_line(path: Path, data: bytes) -> None:
    """Add to a file durably, making it where there is none. Raises `OSError`."""
    is_new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        sync_directory(path.parent)


@dataclass(frozen=True, slots=True)
class Writes:
    """How state reaches the disk; tests cut in here."""

    replace: Callable[[Path, bytes], None] = replace_file
    append: Callable[[Path, bytes], None] = append_line


@dataclass(frozen=True, slots=True)
class LogState:
    """What a witness knows of one log. `root` are 32 bytes; `refused` counts what contradicted it."""

    origin: str
    size: int
    root: bytes
    cosigned_ms: int | None
    refused: int


@dataclass(slots=True)
class _Log:
    """One log: its keys, its folder, the newest checkpoint with its note, and digests of the refused ones."""

    origin: str
    keys: tuple[VerifierKey, ...]
    folder: Path
    newest: Checkpoint
    refused: set[bytes]
    note: Note | None = None
    cosigned_ms: int | None = None


def log_id(origin: str) -> str:
    """Name of a log's folder, and of its address in `GET /logs/<id>/checkpoint`: SHA-256 of the origin, in hex."""
    return sha256(origin.encode()).hexdigest()


def _lock(directory: Path) -> int:
    make_directory(directory)
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise WitnessLocked(str(directory)) from None
    return descriptor


def _load_key(path: Path, name: str | None) -> SignerKey:
    """The key in `path`; made there, under `name` or a random one, when there is none."""
    if not path.exists():
        make_directory(path.parent)
        write_signer_key(path, generate_key(name or f"witness.local/{token_hex(8)}", COSIGNATURE_V1))
    key = read_signer_key(path)
    if key.algorithm != COSIGNATURE_V1:
        raise BadKey("the key in the file is a log's: a witness has a key of its own")
    if name not in (None, key.name):
        raise BadKey(f"the key in the file is called {key.name}")
    return key


def _lines(path: Path) -> list[bytes]:
    """The last whole lines of a file, at least one where it has any; a torn last line is cut off, durably."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        size = os.fstat(descriptor).st_size
        begin = max(0, size - _TAIL_BYTES)
        tail = os.pread(descriptor, size - begin, begin)
        whole = tail[: tail.rfind(b"\n") + 1]
        if len(whole) < len(tail):
            os.ftruncate(descriptor, begin + len(whole))
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return whole.splitlines()[1 if begin else 0 :]


def _note_in(data: bytes, path: Path, origin: str) -> tuple[Checkpoint, Note]:
    """The checkpoint and its note in a JSON line of ours, or `BadState`."""
    try:
        found: object = json.loads(data)
        text = cast("dict[str, object]", found).get("note") if isinstance(found, dict) else None
        if not isinstance(text, str):
            raise BadState(f"{path} has no note.")
        note = parse_note(text.encode())
        checkpoint = parse_checkpoint(note.text)
    except (ValueError, RecursionError) as error:
        raise BadState(f"{path} cannot be read: {error}.") from error
    if checkpoint.origin != origin:
        raise BadState(f"{path} is about another log than its folder.")
    return checkpoint, note


def _load_log(origin: str, keys: tuple[VerifierKey, ...], folder: Path) -> tuple[_Log, bool]:
    """What is known of a log, and whether the history has its newest checkpoint; `BadState` or `OSError`."""
    make_directory(folder)
    refused = {sha256(line).digest() for line in _lines(folder / REFUSED_FILE)}
    log = _Log(origin, keys, folder, Checkpoint(origin, 0, EMPTY_ROOT), refused)
    history = _lines(folder / HISTORY_FILE)
    last = _note_in(history[-1], folder / HISTORY_FILE, origin)[0] if history else None
    path = folder / NEWEST_FILE
    try:
        log.newest, log.note = _note_in(path.read_bytes(), path, origin)
    except FileNotFoundError:
        if last is not None:
            raise BadState(f"{path} is missing although the witness signed {last.size} records.") from None
        return log, True
    if last is not None and last.size > log.newest.size:
        raise BadState(f"{path} has {log.newest.size} records although the witness signed {last.size}.")
    if last is not None and last.size == log.newest.size and last.root != log.newest.root:
        raise BadState(f"{path} has another root than the witness signed for {last.size} records.")
    return log, last == log.newest


class Witness:
    """One witness of one or more logs. Threads may share it.

    `log_keys` says whom it serves: an `ED25519` key stands for the log whose origin is the key's name. Several keys of
    one name are one log.
    """

    def __init__(
        self,
        directory: Path,
        log_keys: Iterable[VerifierKey],
        clock: Clock,
        *,
        key_file: Path | None = None,
        name: str | None = None,
        writes: Writes = Writes(),
    ) -> None:
        """Open the state. Raises `WitnessLocked`, `BadState`, `BadKey` or `OSError`."""
        by_origin: dict[str, list[VerifierKey]] = {}
        for key in log_keys:
            if key.algorithm != ED25519:
                raise BadKey("a log is known by its Ed25519 key")
            by_origin.setdefault(key.name, []).append(key)
        self._clock = clock
        self._writes = writes
        self._mutex = Lock()
        self.failure: str | None = None
        self._lock = _lock(directory)
        try:
            self._key = _load_key(key_file or directory / KEY_FILE, name)
            self._logs: dict[str, _Log] = {}
            for origin, keys in by_origin.items():
                log, is_recorded = _load_log(origin, tuple(keys), directory / "logs" / log_id(origin))
                self._logs[origin] = log
                if not is_recorded and log.note is not None:
                    # A process ended between persisting a checkpoint and recording that it signed it.
                    self._record(log, log.note)
        except BaseException:
            self.close()
            raise

    @property
    def verifier(self) -> VerifierKey:
        """The key to pin."""
        return self._key.verifier

    def close(self) -> None:
        """Give up the lock. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self.failure = self.failure or "The witness is closed."

    def status(self) -> Sequence[LogState]:
        """What is known of each log."""
        with self._mutex:
            return [
                LogState(log.origin, log.newest.size, log.newest.root, log.cosigned_ms, len(log.refused))
                for log in self._logs.values()
            ]

    def newest(self, identity: str) -> bytes | None:
        """The newest cosigned checkpoint of the log whose `log_id` this is, a note; None when there is none."""
        with self._mutex:
            for log in self._logs.values():
                if log.note is not None and log_id(log.origin) == identity:
                    return log.note.to_bytes()
        return None

    def add_checkpoint(self, data: bytes) -> Answer:
        """Judge one request; the checks and their order are those of C2SP tlog-witness.

        Raises `WitnessFailed` once the state could not be written.
        """
        # 1. A request with a checkpoint in it, whose origin is served here.
        try:
            submission = parse_submission(data)
            note = parse_note(submission.note)
            checkpoint = parse_checkpoint(note.text)
        except (BadRequest, BadNote) as error:
            return Refused(Reason.MALFORMED, f"The request is malformed: {error}.")
        log = self._logs.get(checkpoint.origin)
        if log is None:
            return Refused(Reason.UNKNOWN_LOG, "This witness does not know the checkpoint's origin.")
        # 2. The log signed it. Signatures by others mean nothing here, and are not kept.
        try:
            verify_note(note, log.keys)
        except BadSignature as error:
            return Refused(Reason.UNKNOWN_KEY, f"The checkpoint does not count: {error}.")
        known = {(key.name, key.key_id) for key in log.keys}
        by_log = dict.fromkeys(found for found in note.signatures if (found.name, found.key_id) in known)
        note = Note(note.text, tuple(by_log))
        # 3. The proof leads forward.
        if submission.old > checkpoint.size:
            return Refused(Reason.MALFORMED, "The request is malformed: the old size is above the checkpoint's.")
        with self._mutex:
            return self._extend(log, submission, checkpoint, note)

    def _extend(self, log: _Log, submission: Submission, checkpoint: Checkpoint, note: Note) -> Answer:
        if self.failure is not None:
            raise WitnessFailed(self.failure)
        newest = log.newest
        # 4. From the tree this witness knows.
        if submission.old != newest.size:
            return OtherSize(newest.size)
        # 5. Two roots for one size are a fork: both notes are the evidence.
        if checkpoint.size == newest.size and checkpoint.root != newest.root:
            self._keep_refused(log, note, "another root of the same size", 2 * _MAX_REFUSED)
            return OtherSize(newest.size)
        # 6. The new tree begins with it.
        if not verify_consistency(newest.size, checkpoint.size, newest.root, checkpoint.root, submission.proof):
            self._keep_refused(log, note, "no proof that it extends the newest checkpoint", _MAX_REFUSED)
            return Refused(Reason.INCONSISTENT, "The proof does not lead from the checkpoint known here to this one.")
        # 7. Persist, then sign, then answer. The same tree once more is signed again and changes nothing.
        if log.note is not None and checkpoint == newest:
            signature = self._sign(log, note)
        else:
            try:
                self._writes.replace(log.folder / NEWEST_FILE, _line(origin=log.origin, note=note))
                log.newest, log.note = checkpoint, note
                signature = self._record(log, note)
            except OSError as error:
                raise self._failed(error) from error
        return Cosigned((signature,))

    def _sign(self, log: _Log, note: Note) -> Signature:
        now_ms = self._clock.now_ms()
        signature = cosign(note.text, self._key, now_ms // 1000)
        log.note, log.cosigned_ms = note.with_signatures([signature]), now_ms
        return signature

    def _record(self, log: _Log, note: Note) -> Signature:
        """Sign what is persisted, and keep that it was signed."""
        signature = self._sign(log, note)
        line = _line(at_ms=log.cosigned_ms or 0, note=note.with_signatures([signature]))
        self._writes.append(log.folder / HISTORY_FILE, line)
        return signature

    def _keep_refused(self, log: _Log, note: Note, reason: str, limit: int) -> None:
        line = _line(reason=reason, size=log.newest.size, note=note)
        digest = sha256(line.removesuffix(b"\n")).digest()
        if digest in log.refused or len(log.refused) >= limit:
            return
        _log.error("the log %s signed a checkpoint that is refused: %s", log.origin, reason)
        try:
            self._writes.append(log.folder / REFUSED_FILE, line)
        except OSError as error:
            raise self._failed(error) from error
        log.refused.add(digest)

    def _failed(self, error: OSError) -> WitnessFailed:
        self.failure = f"The witness stopped: {error.strerror or type(error).__name__} (errno {error.errno})."
        _log.error("%s", self.failure)
        return WitnessFailed(self.failure)


def _line(note: Note, **fields: str | int) -> bytes:
    found = {"schema": _SCHEMA, **fields, "note": note.to_bytes().decode()}
    return json.dumps(found, ensure_ascii=False).encode() + b"\n"
