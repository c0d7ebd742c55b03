"""A log of plain lists, and a sealer over it that seals on the caller's thread."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deployments.audit.checkpoints import CHECKPOINT_FILE, Place
from deployments.audit.entries import Entry, OpenedLog
from deployments.audit.fence import EPOCHS_DIR
from deployments.audit.merkle import leaf_hash
from deployments.audit.notes import Checkpoint, VerifierKey, parse_checkpoint, parse_note, parse_verifier_key
from deployments.audit.proofs import Trust
from deployments.audit.sealer import Sealer
from deployments.audit.settings import AuditSettings
from deployments.clock import Clock, FixedClock

EVERY = AuditSettings(checkpoint_records=1, checkpoint_history_s=0)
SELDOM = AuditSettings(checkpoint_records=1_000_000, max_unsealed_records=1_000_000)


def entry(index: int, text: str = "record") -> Entry:
    payload = f"{text} {index}".encode()
    return Entry(index, payload, leaf_hash(payload))


def entries(begin: int, end: int, text: str = "record") -> list[Entry]:
    return [entry(index, text) for index in range(begin, end)]


def opened(state: Path, records: Sequence[Entry], epoch: int = 1) -> OpenedLog:
    def read(begin: int) -> Iterator[Entry]:
        return iter(records[begin:])

    directory = state / "audit"
    take_epoch(state, epoch)
    return OpenedLog(directory, len(records), epoch, read)


def take_epoch(state: Path, epoch: int) -> None:
    """What a writer does first."""
    (state / "audit" / EPOCHS_DIR).mkdir(mode=0o700, parents=True, exist_ok=True)
    (state / "audit" / EPOCHS_DIR / f"{epoch:020d}").touch()


def open_sealer(
    state: Path,
    records: Sequence[Entry] = (),
    settings: AuditSettings = EVERY,
    clock: Clock | None = None,
    places: Mapping[str, Place] | None = None,
) -> Sealer:
    sealer = Sealer(settings, clock or FixedClock(), places=places, background=False)
    sealer.open(opened(state, records))
    return sealer


def seal_log(state: Path, size: int, settings: AuditSettings = EVERY) -> list[Entry]:
    """A log of `size` records that was closed in order; its records."""
    records = entries(0, size)
    open_sealer(state, records, settings).close()
    return records


def log_key(state: Path) -> VerifierKey:
    return parse_verifier_key((state / "audit" / "log.vkey").read_text().splitlines()[0])


def trust(state: Path) -> Trust:
    key = log_key(state)
    return Trust(key.name, (key,))


def checkpoint_in(state: Path, name: str = CHECKPOINT_FILE) -> Checkpoint:
    return parse_checkpoint(parse_note((state / "audit" / name).read_bytes()).text)


def files_in(state: Path) -> dict[str, bytes]:
    """Every file, by its path below `state`."""
    return {str(path.relative_to(state)): path.read_bytes() for path in sorted(state.rglob("*")) if path.is_file()}
