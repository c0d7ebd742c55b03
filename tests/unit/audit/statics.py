"""Logs as static files for the tests of export and evidence: tiles, signed checkpoints and keys, without a sealer."""

from collections.abc import Sequence
from pathlib import Path

from deployments.audit.export import CHECKPOINT_FILE, CHECKPOINTS_DIR, KEYS_FILE, WITNESSED_FILE
from deployments.audit.merkle import leaf_hash, root_of
from deployments.audit.notes import (
    COSIGNATURE_V1,
    ED25519,
    Checkpoint,
    Note,
    SignerKey,
    VerifierKey,
    cosign,
    format_checkpoint,
    parse_checkpoint,
    parse_note,
    sign,
    verify_note,
)
from deployments.audit.targets import Files
from deployments.audit.tiles import DirectoryStore, TileReader, TileWriter

ORIGIN = "example.com/log"
LOG = SignerKey(ORIGIN, ED25519, bytes(range(32)))
OTHER_LOG = SignerKey(ORIGIN, ED25519, bytes(range(1, 33)))
W1 = SignerKey("example.org/w1", COSIGNATURE_V1, bytes(range(2, 34)))
W2 = SignerKey("example.net/w2", COSIGNATURE_V1, bytes(range(3, 35)))
TIME_S = 1_767_225_600


def signed(
    size: int, root: bytes, witnesses: Sequence[SignerKey] = (), key: SignerKey = LOG, origin: str = ORIGIN
) -> bytes:
    """A checkpoint with the signatures of the log and of witnesses."""
    text = format_checkpoint(Checkpoint(origin, size, root))
    return Note(text, (sign(text, key), *(cosign(text, witness, TIME_S) for witness in witnesses))).to_bytes()


class StaticLog:
    """A log in a directory that grows and signs when told to."""

    def __init__(self, directory: Path, key: SignerKey = LOG, witnesses: Sequence[SignerKey] = (W1, W2)) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.key = key
        self.entries: list[bytes] = []
        self.store = DirectoryStore(directory)
        self._writer = TileWriter()
        keys = [key.verifier, *(witness.verifier for witness in witnesses)]
        (directory / KEYS_FILE).write_text("".join(f"{found}\n" for found in keys))

    @property
    def root(self) -> bytes:
        return self._writer.root()

    def grow(self, *entries: bytes) -> None:
        """Append entries. Full tiles replace their partial ones, as in a live log."""
        for entry in entries:
            self.entries.append(entry)
            for path, data in self._writer.append(entry, leaf_hash(entry)):
                self.store.write(path, data)
                self.store.drop_partials(path)

    def drop_other_partials(self) -> None:
        """What a live log does: only the newest checkpoint's partial tiles stay."""
        needed = {path for path, _ in self._writer.partials()}
        for found in self.directory.glob("tile/**/*.p/*"):
            if found.relative_to(self.directory).as_posix() not in needed:
                found.unlink()

    def grow_to(self, size: int) -> None:
        self.grow(*(b"entry %d" % number for number in range(len(self.entries), size)))

    def sign(self, *witnesses: SignerKey) -> bytes:
        """Publish a checkpoint of what there is."""
        for path, data in self._writer.partials():
            self.store.write(path, data)
        note = signed(len(self.entries), self.root, witnesses, self.key)
        (self.directory / CHECKPOINT_FILE).write_bytes(note)
        return note

    def sign_witnessed(self, *witnesses: SignerKey) -> bytes:
        """Publish a checkpoint that is the newest witnessed one, too."""
        note = self.sign(*witnesses)
        (self.directory / WITNESSED_FILE).write_bytes(note)
        return note


def assert_is_log(
    files: Files, entries: Sequence[bytes], checkpoints: Sequence[str], key: VerifierKey = LOG.verifier
) -> int:
    """Every one of these checkpoints is signed and its tiles hold exactly `entries`; the newest one's size."""
    reader = TileReader(_Store(files))
    for path in (CHECKPOINT_FILE, *(f"{CHECKPOINTS_DIR}/{name}" for name in checkpoints)):
        data = files.read(path)
        assert data is not None, path
        note = parse_note(data)
        verify_note(note, [key])
        head = parse_checkpoint(note.text)
        assert list(reader.entries(0, head.size, head.size)) == list(entries[: head.size]), path
        assert root_of(map(leaf_hash, entries[: head.size])) == head.root, path
    newest = files.read(CHECKPOINT_FILE)
    assert newest is not None
    return parse_checkpoint(parse_note(newest).text).size


class _Store:
    def __init__(self, files: Files) -> None:
        self._files = files

    def read(self, path: str) -> bytes | None:
        return self._files.read(path)

    def write(self, path: str, data: bytes) -> None:
        raise NotImplementedError
