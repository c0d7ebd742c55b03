"""Who builds the tree over the log and puts the log's name to it: tiles, checkpoints, proofs.

The writer hands over records that are on disk. Beside it, on a thread of its own, the sealer stores the tiles they
fill, signs a checkpoint over all of them and replaces `checkpoint`: in this order, each step durable before the next.
Acknowledging never waits for this, until `max_unsealed_records` wait.

    take -> waiting -> extend -> full and partial tiles -> sign -> checkpoint -> copies, history -> drop old partials
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Lock, Thread

from deployments.audit.checkpoints import (
    CHECKPOINT_FILE,
    WITNESSED_FILE,
    Copy,
    PastCheckpoint,
    Place,
    Search,
    append_history,
    ours,
    read_checkpoint,
    search,
)
from deployments.audit.entries import Entry, OpenedLog
from deployments.audit.fence import EPOCHS_DIR, Fence, Fenced
from deployments.audit.files import SYSTEM_DISK, replace_file
from deployments.audit.merkle import Frontier, consistency_proof, verify_consistency
from deployments.audit.notes import (
    Checkpoint,
    Note,
    Signature,
    SignerKey,
    VerifierKey,
    format_checkpoint,
    parse_checkpoint,
    parse_note,
    parse_verifier_key,
    sign,
    verify_note,
)
from deployments.audit.proofs import BadProof, Trust, prove_inclusion, verify_checkpoint
from deployments.audit.settings import AuditSettings
from deployments.audit.signing import (
    KEYS_FILE,
    RefusedLog,
    load_key,
    make_key,
    missing_key,
    write_verifier_keys,
)
from deployments.audit.tiles import TILE_WIDTH, BadTile
from deployments.audit.tree import LogTree
from deployments.clock import Clock
from deployments.errors import AuditUnavailable, NotFound
from deployments.ports import Proven, Receipt

_MAX_UNSEALED_BYTES = 128 * 2**20
_MAX_HALF_WITNESSED = 16
_CLOSE_S = 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SealerStatus:
    """What the sealer says of itself. Sizes count records, ages are seconds.

    `unsealed_s`: how long the first record that no checkpoint covers has waited, 0 when there is none. `failure`: why
    no checkpoint can be made now. `notices`: what was out of order and was put right, or could not be asked, newest
    last; `copies`: what keeps checkpoints from their copies.
    """

    origin: str
    taken: int
    checkpoint_size: int
    unsealed: int
    unsealed_s: float
    witnessed_size: int | None
    failure: str | None
    notices: tuple[str, ...]
    copies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Signed:
    """A checkpoint of ours, and its note with the cosignatures that came so far."""

    checkpoint: Checkpoint
    note: Note

    @property
    def size(self) -> int:
        return self.checkpoint.size


@dataclass(slots=True)
class _Open:
    """The log that is open, and what belongs to it alone. The notes change under `Sealer._notes`."""

    log: OpenedLog
    key: SignerKey
    trust: Trust
    tree: LogTree
    newest: _Signed | None
    witnessed: _Signed | None
    half_witnessed: dict[str, Note]  # notes by text, older than the newest, that may still get their quorum
    pinned: int = 0


class Sealer:
    """Implements `entries.Sealing`. Every method may be called from any thread.

    With `background` it has a thread; without, nothing is sealed but by `take`, `seal` and `close`, on the caller's.
    """

    def __init__(
        self,
        settings: AuditSettings,
        clock: Clock,
        *,
        places: Mapping[str, Place] | None = None,
        background: bool = True,
    ) -> None:
        """`places`: who else keeps checkpoints, by the name that a refusal gives them.

        `BadKey` for a witness key that is none.
        """
        self._settings = settings
        self._clock = clock
        self._places = places or {}
        self._background = background
        self._witnesses = tuple(parse_verifier_key(witness.key) for witness in settings.witnesses)
        self._copies = [Copy(Path(directory)) for directory in settings.checkpoint_copies]
        self._state: _Open | None = None
        self._notices: list[str] = []
        self._failure: str | None = None
        self._broken = False

        self._changed = Condition()  # guards what follows, and says that something of it, or the newest note, changed
        self._waiting: list[Entry] = []
        self._unsealed_bytes = 0
        self._unsealed_since_s = 0.0
        self._taken = 0
        self._soon = False
        self._released = False
        self._closed = False

        self._sealing = Lock()  # who extends the tree
        self._notes = Lock()  # who replaces notes; taken within `_sealing`, never the other way round
        self._history_s: float | None = None
        self._thread: Thread | None = None

    # --- the writer's side ---------------------------------------------------------------------------------------

    def open(self, log: OpenedLog) -> None:
        """Compare the log with every checkpoint that can be found, put its tiles right, sign what is not signed yet.

        `RefusedLog`, a `CorruptLog`, when the log is shorter than a checkpoint, has another root, or its key is
        missing; nothing is written then, neither here nor in a copy. `OSError` when the disk fails.
        """
        # 1. The key, and what every place knows. A log that nobody signed yet gets its key at the end.
        key = load_key(log.directory, self._settings)
        places = search(log.directory, [Path(copy) for copy in self._settings.checkpoint_copies], self._places)
        if key is None and places.found:
            raise missing_key(log.directory, self._settings, f"{places.found[0].place} has a checkpoint of it")
        if key is None and (log.directory / KEYS_FILE).exists():
            raise missing_key(log.directory, self._settings, f"{KEYS_FILE} has its public half")
        known, foreign = ([], []) if key is None else ours(places, key.verifier)
        for notice in (*places.silent, *foreign):
            self._notice(notice)
        # 2. The log against all of them, and its tiles against the log.
        newest = None if key is None else _own_note(places, CHECKPOINT_FILE, key.verifier)
        witnessed = None if key is None else _own_note(places, WITNESSED_FILE, key.verifier)
        tree = LogTree(log.directory, _suffix(log))
        shown = [signed.size for signed in (newest, witnessed) if signed is not None]
        for notice in tree.open(log.size, log.read, known, shown):
            self._notice(notice)
        behind = max((found.checkpoint.size for found in known), default=0)
        if newest is not None and newest.size < behind:
            self._notice(f"{CHECKPOINT_FILE} was older than what other places know of the log; it is replaced.")
        # 3. From here on the log is the one we know.
        for unfinished in log.directory.glob(f"{CHECKPOINT_FILE}*.new"):
            unfinished.unlink()
        key = key or make_key(log.directory, self._settings)
        try:
            trust = Trust(key.name, (key.verifier,), self._witnesses, self._settings.quorum)
        except ValueError as error:
            raise RefusedLog("witnesses", f"the settings name witnesses that cannot be: {error}.") from error
        write_verifier_keys(log.directory, (key.verifier, *self._witnesses))
        if witnessed is not None and not _has_quorum(witnessed.note, trust):
            witnessed = None  # the witnesses were others then
        self._state = _Open(log, key, trust, tree, newest, witnessed, {})
        for copy in self._copies:
            copy.suffix = _suffix(log)
        self._taken = log.size
        # 4. Everything that is on disk is signed before anything new is.
        with self._sealing:
            self._seal(self._state)
        if self._background:
            self._thread = Thread(target=self._work, name="audit-sealer", daemon=True)
            self._thread.start()

    def take(self, entries: Sequence[Entry]) -> None:
        """Records that are on disk now, in log order. Blocks while `max_unsealed_records` wait for a checkpoint."""
        if not entries:
            return
        with self._changed:
            if not self._has_room():
                self._soon = True
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._has_room() or not self._background)
            if self._closed:
                return  # they are on disk; the next opening seals them
            if self._taken == self._checkpoint_size():
                self._unsealed_since_s = self._clock.monotonic_s()
            self._waiting += entries
            self._unsealed_bytes += sum(len(entry.payload) for entry in entries)
            self._taken += len(entries)
            due = self._taken - self._checkpoint_size() >= self._settings.checkpoint_records or not self._has_room()
            if due:
                self._changed.notify_all()
        if due and not self._background:
            self.seal()

    def _has_room(self) -> bool:
        if self._closed or self._released:
            return True
        unsealed = self._taken - self._checkpoint_size()
        return unsealed < self._settings.max_unsealed_records and self._unsealed_bytes < _MAX_UNSEALED_BYTES

    def release(self) -> None:
        """`take` never blocks from now on: the writer is about to close, and a disk that fails must not hold it up."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

    def seal_soon(self) -> None:
        """Seal without waiting for the interval: something was recorded that others should see soon."""
        with self._changed:
            self._soon = True
            self._changed.notify_all()

    def seal(self) -> None:
        """Seal what was taken, on this thread. A disk that fails is the sealer's `failure`."""
        with self._sealing:
            state = self._state
            if state is None or self._broken:
                return
            with self._changed:
                entries, self._waiting, self._soon = self._waiting, [], False
                unsealed_bytes, since_s = self._unsealed_bytes, self._clock.monotonic_s()
            try:
                state.tree.extend(entries)
                self._seal(state)
            except Fenced as error:
                self._broken = True
                self._fail(str(error))
            except OSError as error:
                self._fail(f"Checkpoints cannot be written: {error.strerror or 'unknown error'} (errno {error.errno}).")
            except Exception as error:
                # Not a disk that may recover: nothing that follows could be trusted to be the log's tree.
                self._broken = True
                _log.exception("the audit log's tree stopped on an unexpected error")
                self._fail(f"Checkpoints stopped on an unexpected {type(error).__name__}.")
            else:
                self._failure = None
                with self._changed:
                    self._unsealed_bytes -= unsealed_bytes
                    self._unsealed_since_s = since_s  # what came later came after this
                    self._changed.notify_all()

    def close(self) -> None:
        """Seal all that was taken, then stop. Idempotent; without it nothing is lost."""
        with self._changed:
            closed, self._closed = self._closed, True
            self._changed.notify_all()
        if closed:
            return
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                _log.error("the disk holds up the last checkpoint of the audit log; the next opening makes it")
        else:
            self.seal()
        for copy in self._copies:
            copy.close()

    # --- sealing -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        last_s = self._clock.monotonic_s()
        while True:
            with self._changed:
                while not self._closed and (wait_s := self._due_in(last_s)) > 0:
                    self._changed.wait(wait_s)
                closed = self._closed
            self.seal()
            last_s = self._clock.monotonic_s()
            if closed:
                return

    def _due_in(self, last_s: float) -> float:
        """Seconds until the next round."""
        left_s = max(last_s + self._settings.checkpoint_interval_ms / 1000 - self._clock.monotonic_s(), 0.0)
        if self._failure is not None:
            return left_s  # a disk that failed is asked again once an interval, whatever comes meanwhile
        unsealed = self._taken - self._checkpoint_size()
        if unsealed and (self._soon or unsealed >= self._settings.checkpoint_records or not self._has_room()):
            return 0.0
        return left_s if unsealed else self._settings.checkpoint_interval_ms / 1000

    def _seal(self, state: _Open) -> None:
        """Sign the tree as it stands, unless it is signed. `OSError`: trying again is right. `Fenced`: for good."""
        size = state.tree.size
        # 1. A writer that was overtaken leaves everything to its successor.
        _check_fence(state.log)
        # 2. The tiles. One of an older process beyond every signed tree is no evidence of anything.
        for path in state.tree.save():
            self._notice(f"{path} held other bytes than the log; it was written again.")
        newest = state.newest
        if size == (0 if newest is None else newest.size):
            return
        # 3. The checkpoint, if nobody came meanwhile.
        _check_fence(state.log)
        checkpoint = Checkpoint(state.key.name, size, state.tree.root())
        text = format_checkpoint(checkpoint)
        signed = _Signed(checkpoint, Note(text, (sign(text, state.key),)))
        with self._notes:
            self._replace(state, signed)
            if newest is not None and len(newest.note.signatures) > 1:
                _remember(state.half_witnessed, newest.note)
            keep = self._kept(state)
        with self._changed:
            self._changed.notify_all()
        # 4. What others may need only later.
        now_s = self._clock.monotonic_s()
        if self._history_s is None or now_s - self._history_s >= self._settings.checkpoint_history_s:
            past = PastCheckpoint(self._clock.now_ms(), state.log.epoch, signed.note.to_bytes())
            append_history(state.log.directory, past)
            self._history_s = now_s
        state.tree.drop(keep)

    def _replace(self, state: _Open, signed: _Signed) -> None:
        """Make a note the newest one, under `_notes`. `OSError`."""
        note = signed.note.to_bytes()
        replace_file(state.log.directory / CHECKPOINT_FILE, note, suffix=_suffix(state.log))
        state.newest = signed
        for copy in self._copies:
            if self._background:
                copy.offer(note)
            else:
                copy.write(note)

    @staticmethod
    def _kept(state: _Open) -> Collection[int]:
        return {state.pinned, 0 if state.witnessed is None else state.witnessed.size}

    def _checkpoint_size(self) -> int:
        newest = None if self._state is None else self._state.newest
        return 0 if newest is None else newest.size

    def _fail(self, reason: str) -> None:
        if self._failure != reason:
            _log.error("%s", reason)
        self._failure = reason
        with self._changed:
            self._changed.notify_all()

    def _notice(self, text: str) -> None:
        _log.warning("audit log: %s", text)
        self._notices = [*self._notices[-19:], text]

    # --- asking --------------------------------------------------------------------------------------------------

    @property
    def failure(self) -> str | None:
        """Why no checkpoint can be made now, or None."""
        return self._failure

    @property
    def status(self) -> SealerStatus:
        """What it says of itself; after `open`."""
        state = self._opened()
        with self._changed:
            taken, size, since_s = self._taken, self._checkpoint_size(), self._unsealed_since_s
        return SealerStatus(
            origin=state.key.name,
            taken=taken,
            checkpoint_size=size,
            unsealed=taken - size,
            unsealed_s=max(self._clock.monotonic_s() - since_s, 0.0) if taken > size else 0.0,
            witnessed_size=None if state.witnessed is None else state.witnessed.size,
            failure=self._failure,
            notices=tuple(self._notices),
            copies=tuple(copy.problem for copy in self._copies if copy.problem is not None),
        )

    def verifier_keys(self) -> tuple[VerifierKey, ...]:
        """The log's public key, then the witnesses'."""
        return (self._opened().key.verifier, *self._witnesses)

    def checkpoint(self) -> bytes | None:
        """The newest checkpoint, a signed note with the cosignatures it has so far; None before the first."""
        newest = self._opened().newest
        return None if newest is None else newest.note.to_bytes()

    def witnessed(self) -> bytes | None:
        """The newest checkpoint that the quorum of witnesses signed, or None."""
        witnessed = self._opened().witnessed
        return None if witnessed is None else witnessed.note.to_bytes()

    def pin(self) -> bytes | None:
        """The newest checkpoint; its partial tiles stay until the next call. For whoever copies the log."""
        state = self._opened()
        with self._notes:
            if state.newest is None:
                return None
            state.pinned = state.newest.size
            return state.newest.note.to_bytes()

    def wait_covered(self, size: int, timeout_s: float) -> bool:
        """True once a checkpoint covers the first `size` records; False after `timeout_s`, or at once on a failure."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._checkpoint_size() >= size or self._failure is not None or self._closed, timeout_s
            )
            return self._checkpoint_size() >= size

    def prove(self, index: int, timeout_s: float = 10.0) -> Proven:
        """The proof of a record: under the newest witnessed checkpoint when that covers it, else under the newest.

        Waits up to `timeout_s` for the checkpoint. `NotFound` beyond the log. `AuditUnavailable` when none comes, or
        when stored tiles are damaged: no proof leaves that does not lead to the signed root.
        """
        state = self._opened()
        if not 0 <= index < self._taken:
            raise NotFound("The audit log has no such record.")
        if not self.wait_covered(index + 1, timeout_s):
            raise AuditUnavailable(self._failure or "No checkpoint of the audit log covers the record yet.")
        with self._notes:
            signed, witnessed = state.newest, state.witnessed
        if witnessed is not None and witnessed.size > index:
            signed = witnessed
        assert signed is not None  # noqa: S101 - it was waited for
        try:
            hashes = state.tree.reader.tile(0, index // TILE_WIDTH, signed.size)
            at = index % TILE_WIDTH * 32
            leaf = hashes[at : at + 32]
            proof = prove_inclusion(index, leaf, signed.note.to_bytes(), state.tree.reader.at(signed.size))
        except (BadTile, BadProof, OSError) as error:
            raise self._damaged(error) from error
        return Proven(Receipt(index, leaf), proof.to_bytes())

    def consistency(self, old_size: int) -> tuple[bytes, tuple[bytes, ...]]:
        """The newest checkpoint, and the hashes that lead to it from the tree of `old_size` leaves.

        `NotFound` for a larger size, or before the first checkpoint. `AuditUnavailable` when stored tiles are damaged.
        """
        state = self._opened()
        newest = state.newest
        if newest is None or not 0 <= old_size <= newest.size:
            raise NotFound("The audit log has no checkpoint of that size.")
        try:
            hash_at = state.tree.reader.at(newest.size)
            hashes = consistency_proof(old_size, newest.size, hash_at)
            old_root = Frontier.at(old_size, hash_at).root()
            if not verify_consistency(old_size, newest.size, old_root, newest.checkpoint.root, hashes):
                raise BadProof("the tree does not lead to the checkpoint's root")
        except (BadTile, BadProof, OSError) as error:
            raise self._damaged(error) from error
        return newest.note.to_bytes(), tuple(hashes)

    def tile(self, path: str) -> bytes | None:
        """A tile or bundle of entries by its C2SP path, as stored; None for what the newest checkpoint does not have.

        A partial tile is answered in its own width or not at all. `AuditUnavailable` when the disk does not answer.
        """
        state = self._opened()
        try:
            return state.tree.file(path, self._checkpoint_size())
        except OSError as error:
            raise self._damaged(error) from error

    def entries(self, begin: int, end: int) -> Iterator[bytes]:
        """Records `begin` to `end`, canonical bytes, as far as the newest checkpoint goes, checked against the tiles.

        `AuditUnavailable` when stored tiles are damaged.
        """
        state, size = self._opened(), self._checkpoint_size()
        begin, end = max(begin, 0), min(end, size)
        if begin >= end:
            return
        try:
            yield from state.tree.reader.entries(begin, end, size)
        except (BadTile, OSError) as error:
            raise self._damaged(error) from error

    def _opened(self) -> _Open:
        if self._state is None:
            raise AuditUnavailable("The audit log is not open.")
        return self._state

    @staticmethod
    def _damaged(error: Exception) -> AuditUnavailable:
        _log.error("a stored tile of the audit log is damaged: %s", error)
        return AuditUnavailable("A stored tile of the audit log is damaged; the next start makes it again.")

    # --- witnesses -----------------------------------------------------------------------------------------------

    def add_cosignatures(self, note: bytes, signatures: Iterable[Signature]) -> None:
        """Keep the witnesses' signatures under a checkpoint of this log, the newest or an older one.

        `checkpoint` shows them while it is the newest; `checkpoint.witnessed` becomes the note once the quorum has
        signed it, unless a larger one has its quorum already. Signatures by others are passed over. `BadNote` for a
        note that this log did not sign, or a bad signature by a known witness; `Fenced`, or `OSError`.
        """
        state = self._opened()
        parsed = parse_note(note)
        checkpoint = read_checkpoint(note, state.key.verifier)
        with self._notes:
            _check_fence(state.log)
            newest, witnessed = state.newest, state.witnessed
            candidates = [signed.note for signed in (newest, witnessed) if signed and signed.note.text == parsed.text]
            candidates += [state.half_witnessed[parsed.text]] if parsed.text in state.half_witnessed else []
            collected = (signature for known in (*candidates, parsed) for signature in known.signatures)
            whole = self._cosigned(parsed.text, state.key, (*collected, *signatures))
            signed = _Signed(checkpoint, whole)
            if newest is not None and newest.note.text == parsed.text:
                if newest.note != whole:
                    self._replace(state, signed)
            else:
                _remember(state.half_witnessed, whole)
            if not _has_quorum(whole, state.trust) or (witnessed is not None and witnessed.size > signed.size):
                return
            if witnessed is None or witnessed.note != whole:
                replace_file(state.log.directory / WITNESSED_FILE, whole.to_bytes(), suffix=_suffix(state.log))
                state.witnessed = signed
            for text in [text for text in state.half_witnessed if _size(text) <= signed.size]:
                del state.half_witnessed[text]

    def _cosigned(self, text: str, key: SignerKey, signatures: Iterable[Signature]) -> Note:
        """The note with our signature and the latest one of each witness."""
        latest: dict[VerifierKey, tuple[int, Signature]] = {}
        ids = {(witness.name, witness.key_id) for witness in self._witnesses}
        for signature in signatures:
            if (signature.name, signature.key_id) not in ids:
                continue
            [found] = verify_note(Note(text, (signature,)), self._witnesses)
            time_s = found.time_s or 0
            if found.key not in latest or latest[found.key][0] < time_s:
                latest[found.key] = time_s, signature
        in_order = [latest[witness][1] for witness in self._witnesses if witness in latest]
        return Note(text, (sign(text, key), *in_order))


def _suffix(log: OpenedLog) -> str:
    """Marks unfinished files: a writer that was overtaken and its successor never write the same one."""
    return f".{log.epoch}.new"


def _check_fence(log: OpenedLog) -> None:
    """Raise `Fenced` when a later writer has the log; its notes are not for us to replace."""
    Fence(log.directory / EPOCHS_DIR, log.epoch, SYSTEM_DISK).check()


def _own_note(places: Search, place: str, key: VerifierKey) -> _Signed | None:
    for found in places.found:
        if found.place == place:
            return _Signed(read_checkpoint(found.note, key), parse_note(found.note))
    return None


def _has_quorum(note: Note, trust: Trust) -> bool:
    if trust.quorum == 0:
        return False
    try:
        verify_checkpoint(note.to_bytes(), trust)
    except BadProof:
        return False
    return True


def _remember(notes: dict[str, Note], note: Note) -> None:
    """Keep a note, and forget the oldest of too many."""
    notes[note.text] = note
    while len(notes) > _MAX_HALF_WITNESSED:
        del notes[min(notes, key=_size)]


def _size(text: str) -> int:
    return parse_checkpoint(text).size
