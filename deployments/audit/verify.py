"""The offline verifier: numbered checks of mathematics and of meaning over the files of a log.

Needs no Ray and no server; standard library plus `rfc8785` and `cryptography`. Reads a live log (segments) or an export
(tiles and checkpoints), record by record; memory holds ids and digests, no records. Twenty checks, each reported with
the index of its first failure:

```
 1 framing      every byte belongs to a frame with a good CRC; of an export: every bundle is there and whole
 2 sequence     places are dense: 0, 1, 2, ...
 3 chain        each frame links to the one before
 4 identity     the record names its place
 5 event ids    each occurs once
 6 head         the log reaches every known head, and agrees with it
 7 schema       record v1, in its RFC 8785 bytes
 8 releases     what was released was allowed to be
 9 approvals    votes, grants and permits come in order
10 epochs       every opening of the log is recorded, and epochs never fall
11 signatures   every known checkpoint is signed by the log's key
12 roots        the log reaches every known checkpoint, and its records have that root: so all of them are consistent
13 forks        no two checkpoints of one size have different roots
14 cosignatures every cosignature by a known witness is good, and one checkpoint has enough of them
15 tiles        stored tiles are those of the records, and none is missing below the newest checkpoint
16 receipts     each receipt that was handed in is of a record at its place
17 plans        change id and rollback plan were recorded before, and are those that were released
18 reports      each consumed permit has a report, or an alert
19 policies     calls were classified under a policy that was announced
20 bodies       each encrypted body that a record names is there, or was deleted on the record
```

Checks 8, 9 and 17 to 20 are in `semantics`, what the log is held against in 11 to 14 and 16 in `anchors`.

What it cannot see: records after the newest checkpoint or receipt that anybody keeps, and whether an outside party did
what it reported. Without a pinned key, checkpoints say only that whoever wrote them had the key that lies beside them.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import cast

from rfc8785 import CanonicalizationError

from deployments.audit.anchors import (
    HISTORY_FILE,
    Anchors,
    Unusable,
    add_checkpoint_file,
    add_receipt_file,
    find_keys,
    history,
    own_notes,
)
from deployments.audit.canonical import canonical
from deployments.audit.chain import GENESIS, leaf_hash, link
from deployments.audit.head import HEAD_FILE, BadHead, read_head
from deployments.audit.merkle import HASH_BYTES
from deployments.audit.notes import decode_decimal
from deployments.audit.read import TILES_DIR, NoLog, is_export, newest_checkpoint, read_bundle
from deployments.audit.record import fields_of, record_problem
from deployments.audit.segment import Damage, Frame, Stretch, read_lineage, scan_frames
from deployments.audit.semantics import Bodies, Check, Data, Meaning, Noticed
from deployments.audit.tiles import (
    TILE_LEVELS,
    TILE_WIDTH,
    BadTile,
    DirectoryStore,
    TileName,
    TileWriter,
    narrower,
    parse_path,
)
from deployments.ports import JsonValue

__all__ = ["CHECKS", "Check", "Report", "Unusable", "verify"]

CHECKS = (
    "framing",
    "sequence",
    "chain",
    "identity",
    "event ids",
    "head",
    "schema",
    "releases",
    "approvals",
    "epochs",
    "signatures",
    "roots",
    "forks",
    "cosignatures",
    "tiles",
    "receipts",
    "plans",
    "reports",
    "policies",
    "bodies",
)
BODIES_DIR = "bodies"
DEFAULT_GRACE_S = 900
_PLAIN = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False)


@dataclass(slots=True)
class Report:
    """What was found. `ok` is the verdict."""

    path: str
    checks: tuple[Check, ...]
    kind: str = "log"
    records: int = 0
    segments: int = 0
    torn_tail_bytes: int = 0
    surplus_bytes: int = 0
    head_hash: bytes = GENESIS
    root: bytes = b""
    first_at_ms: int | None = None
    last_at_ms: int | None = None
    noticed: Noticed = field(default_factory=Noticed)
    events: Counter[str] = field(default_factory=Counter[str])
    models: set[str] = field(default_factory=set[str])
    code_versions: set[str] = field(default_factory=set[str])
    checkpoints: int = 0
    checkpoint_size: int | None = None
    witnessed_size: int | None = None
    keys: list[str] = field(default_factory=list[str])
    key_pinned: bool = False
    witnesses_pinned: bool = False
    receipts: int = 0
    bodies: dict[str, int] | None = None

    @property
    def ok(self) -> bool:
        """True when every check passed; one that could not be made fails nothing."""
        return not any(check.failures for check in self.checks)

    @property
    def observed_releases(self) -> int:
        """Calls that the profile `observe` let pass: counted, not judged."""
        return self.noticed.observed_releases

    def to_json(self) -> dict[str, JsonValue]:
        """The machine-readable summary."""
        return {
            "ok": self.ok,
            "path": self.path,
            "kind": self.kind,
            "records": self.records,
            "segments": self.segments,
            "head": {"size": self.records, "head_hash": self.head_hash.hex()},
            "root": self.root.hex(),
            "checkpoints": self.checkpoints,
            "checkpoint_size": self.checkpoint_size,
            "witnessed_size": self.witnessed_size,
            "keys": [*self.keys],
            "key_pinned": self.key_pinned,
            "witnesses_pinned": self.witnesses_pinned,
            "receipts": self.receipts,
            "torn_tail_bytes": self.torn_tail_bytes,
            "surplus_bytes": self.surplus_bytes,
            "first_at_ms": self.first_at_ms,
            "last_at_ms": self.last_at_ms,
            "events": dict(sorted(self.events.items())),
            "models": [*sorted(self.models)],
            "code_versions": [*sorted(self.code_versions)],
            "observed_releases": self.observed_releases,
            "noticed": self.noticed.to_json(),
            "bodies": None if self.bodies is None else {**self.bodies},
            "checks": [
                {
                    "number": check.number,
                    "name": check.name,
                    "ok": check.failures == 0,
                    "failures": check.failures,
                    "first_index": check.first_index,
                    "detail": check.detail,
                    "skipped": check.skipped,
                }
                for check in self.checks
            ],
        }


def verify(
    directory: Path,
    checkpoint: Path | Sequence[Path] | None = None,
    *,
    keys: Sequence[str] = (),
    quorum: int | None = None,
    receipts: Sequence[Path] = (),
    grace_s: int = DEFAULT_GRACE_S,
) -> Report:
    """Verify the log or export in `directory` against what lies with it and against what was kept elsewhere.

    `checkpoint`: heads, signed notes or history lines. `keys`: verifier keys to pin, of the log and of witnesses.
    `quorum`: how many witnesses one checkpoint needs; by default all pinned ones. `receipts`: JSON or tlog-proof.
    `grace_s`: see `semantics.Meaning`.

    Reads only. A log that is being written may be verified: heads and checkpoints are read before the records. Raises
    `Unusable`, and `OSError` when the disk does not answer.
    """
    kept = [checkpoint] if isinstance(checkpoint, Path) else list(checkpoint or ())
    checks = {name: Check(number, name) for number, name in enumerate(CHECKS, start=1)}
    try:
        exported = is_export(directory)
    except NoLog as error:
        raise Unusable(str(error)) from error
    # What is known of the log before it is read.
    anchors = Anchors(find_keys(directory, keys), checks)
    for path in kept:
        add_checkpoint_file(anchors, path)
    for path in receipts:
        add_receipt_file(anchors, path)
    own_size = _own_anchors(directory, anchors, exported=exported, kept=bool(kept))
    report = Report(path=str(directory), checks=tuple(checks.values()), kind="export" if exported else "log")
    report.receipts = sum(map(len, anchors.receipts.values()))
    # Every record.
    reader = _Reader(directory, report, anchors, grace_s, own_size)
    if exported:
        reader.read_export(own_size or 0)
    else:
        reader.read_segments()
    # What only the end shows.
    reader.finish()
    _signed_by_enough(report, anchors, quorum)
    return report


def _own_anchors(directory: Path, anchors: Anchors, *, exported: bool, kept: bool) -> int | None:
    """Add the heads and notes that lie with the log; the size of its newest checkpoint, None when it has none."""
    checks = anchors.checks
    newest: int | None = None
    for data, source, claimed in own_notes(directory):
        found = anchors.add_note(data, source)
        if found is None:
            continue
        newest = max(found.size, newest or 0)
        if claimed is not None and claimed != found.size:
            checks["signatures"].fail(None, f"{source} is a checkpoint of {found.size} records")
    epoch = 0
    for line in history(directory):
        if line.note is None:
            checks["signatures"].fail(None, f"{HISTORY_FILE}, line {line.number}, cannot be read")
            continue
        anchors.add_note(line.note, f"{HISTORY_FILE}, line {line.number}")
        if line.epoch < epoch:
            checks["epochs"].fail(None, f"{HISTORY_FILE}, line {line.number}: the epoch falls")
        epoch = line.epoch
    if newest is None and exported:
        # Nothing in the export counts. What its checkpoint says is read all the same, to say what else is wrong.
        unsigned = newest_checkpoint(directory)
        newest = None if unsigned is None else unsigned.size
    if exported:
        _skip_without(checks["head"], bool(anchors.heads), "an export has no recorded head")
        checks["chain"].skipped = "an export has no segments, and its records are bound by the tree"
        return newest
    try:
        anchors.add_head(read_head(directory / HEAD_FILE))
    except FileNotFoundError:
        if not kept:
            checks["head"].fail(None, f"{HEAD_FILE} is missing, so the loss of the newest records could not be seen")
    except BadHead as error:
        checks["head"].fail(None, f"{HEAD_FILE} cannot be read: {error}")
    return newest


def _skip_without(check: Check, possible: bool, reason: str) -> None:
    if not possible:
        check.skipped = reason


def _signed_by_enough(report: Report, anchors: Anchors, quorum: int | None) -> None:
    """What the summary says of signatures; checks 11 and 14 where there is nothing to check, or not enough."""
    keys, checks = anchors.keys, anchors.checks
    report.checkpoints, report.keys = anchors.notes, [str(key) for key in (*keys.log, *keys.witnesses)]
    report.key_pinned, report.witnesses_pinned = keys.log_pinned, keys.witnesses_pinned
    report.checkpoint_size = max(anchors.roots, default=None)
    # 11c. Whoever pins a key asks for a checkpoint, and a log that has keys has one.
    if keys.problem is not None:
        checks["signatures"].fail(None, keys.problem)
    if not anchors.notes:
        if keys.log_pinned:
            checks["signatures"].fail(None, "no checkpoint is known, so nothing binds the log to its key")
        for name in ("signatures", "roots", "forks"):
            checks[name].skipped = "no checkpoint is known"
    # 14b. One checkpoint has the quorum.
    needed = (len(keys.witnesses) if keys.witnesses_pinned else 0) if quorum is None else quorum
    enough = [size for size, count in anchors.cosigned.items() if count >= max(needed, 1)]
    report.witnessed_size = max(enough, default=None)
    if needed and not enough:
        best = max(anchors.cosigned.values(), default=0)
        checks["cosignatures"].fail(
            None, f"no checkpoint has {needed} good cosignatures of known witnesses, but {best}"
        )
    _skip_without(
        checks["cosignatures"],
        bool(needed or anchors.cosigned or checks["cosignatures"].failures),
        "no witness is known, or none has signed and none has to",
    )
    _skip_without(checks["receipts"], bool(report.receipts), "no receipt was handed in")


class _Reader:
    """Checks 1 to 7, 10, 12, 15 and 16, record by record; hands what was decoded to the checks of meaning."""

    def __init__(
        self, directory: Path, report: Report, anchors: Anchors, grace_s: int, checkpoint_size: int | None
    ) -> None:
        self._directory = directory
        self._report = report
        self._anchors = anchors
        self._checks = anchors.checks
        self._event_ids: set[bytes] = set()
        self._meaning = Meaning(self._checks, report.noticed, grace_s)
        self._bodies = _bodies(directory, self._checks["bodies"])
        self._tree = TileWriter()
        self._tiles = _Tiles(directory, self._checks["tiles"], checkpoint_size)
        self._epoch = 0
        self._index = 0

    def read_segments(self) -> None:
        """The records of a live log, until one cannot be placed any more."""
        found = read_lineage(self._directory)
        self._report.segments = len(found.stretches)
        # Segments that a writer began when it was the writer no more.
        self._report.surplus_bytes = sum(path.stat().st_size for path in found.strays)
        for stretch in found.stretches:
            with stretch.path.open("rb") as file:
                if not self._segment(stretch, file.fileno()):
                    break

    def _segment(self, stretch: Stretch, descriptor: int) -> bool:
        """Check a segment; False when what follows could not be placed any more."""
        name = stretch.path.name
        if stretch.first != self._index:
            self._checks["sequence"].fail(self._index, f"{name} should start at record {self._index}")
        for found in scan_frames(descriptor):
            # What a writer that had lost the log still wrote behind the end of its segment belongs to nobody.
            if stretch.fenced and stretch.end is not None and self._index >= stretch.end:
                self._report.surplus_bytes += os.fstat(descriptor).st_size - found.offset
                return True
            match found:
                case Damage():
                    if stretch.end is None and found.may_be_torn and found.reason.endswith("is cut off"):
                        self._report.torn_tail_bytes = os.fstat(descriptor).st_size - found.offset
                    else:
                        self._checks["framing"].fail(
                            self._index, f"{name}, byte {found.offset}: {found.reason}; nothing after it was read"
                        )
                    return False
                case Frame():
                    self._frame(found)
        return True

    def read_export(self, size: int) -> None:
        """The records of an export, from its bundles."""
        for bundle in range(-(-size // TILE_WIDTH)):
            try:
                entries = read_bundle(self._directory, bundle, min(size - bundle * TILE_WIDTH, TILE_WIDTH))
            except BadTile as error:
                self._checks["framing"].fail(self._index, f"{error}; nothing after it was read")
                return
            for entry in entries:
                self._record(entry)

    def finish(self) -> None:
        """Checks of what lies beyond the end, and the summary's totals."""
        report, checks, anchors, size = self._report, self._checks, self._anchors, self._index
        report.records, report.root = size, self._tree.root()
        # 6. and 12. Nothing that is known of the log is beyond its end.
        for head in (head for heads in anchors.heads.values() for head in heads):
            if head.size > size:
                checks["head"].fail(
                    size, f"the log has {size} records, the head says {head.size}: the newest are missing"
                )
            elif head.size == 0 and head.head_hash != GENESIS.hex():
                checks["head"].fail(0, "the head of no records is not the empty one")
        for known in sorted(anchors.roots):
            if known > size:
                checks["roots"].fail(
                    size, f"the log has {size} records, a checkpoint covers {known}: the newest are missing"
                )
        anchors.missing_receipts(size)
        self._tiles.finish(self._tree)
        self._meaning.finish()
        if self._bodies is not None:
            self._bodies.finish()
            bodies = self._bodies
            report.bodies = {"present": bodies.present, "shredded": bodies.shredded, "pruned": bodies.pruned}

    def _frame(self, found: Frame) -> None:
        # 2. sequence
        if found.sequence != self._index:
            self._checks["sequence"].fail(
                self._index, f"record {self._index} should be here, the frame says {found.sequence}"
            )
        # 3. chain
        if found.previous != self._report.head_hash:
            self._checks["chain"].fail(self._index, "the link to the record before is broken")
        self._record(found.payload)

    def _record(self, payload: bytes) -> None:
        index, report, checks, anchors = self._index, self._report, self._checks, self._anchors
        self._index += 1
        before, leaf = report.head_hash, leaf_hash(payload)
        report.head_hash = link(before, leaf)
        # 15. tiles
        for path, data in self._tree.append(payload, leaf):
            self._tiles.full(path, data)
        # 6. head
        for head in anchors.heads.get(index + 1, ()):
            if head.head_hash != report.head_hash.hex():
                checks["head"].fail(index, f"the first {head.size} records are not the ones the head covers")
        # 12. roots
        if index + 1 in anchors.roots and anchors.roots[index + 1] != {self._tree.root()}:
            checks["roots"].fail(index, f"the first {index + 1} records are not the ones a checkpoint covers")
        # 16. receipts
        if index in anchors.receipts:
            anchors.compare_receipts(index, leaf)
        # 7. schema
        record = _decode(payload)
        problem = record if isinstance(record, str) else record_problem(record)
        if isinstance(record, str) or problem is not None:
            checks["schema"].fail(index, str(problem))
            return
        # 4. identity
        if record["sequence"] != index:
            checks["identity"].fail(index, f"the record says it is record {record['sequence']}")
        # 5. event ids, by 16 bytes of their hash
        event_id = sha256(str(record["event_id"]).encode()).digest()[:16]
        if event_id in self._event_ids:
            checks["event ids"].fail(index, "the event id occurred before")
        self._event_ids.add(event_id)
        name, fields = str(record["name"]), fields_of(record)
        # 10. epochs
        if name == "log.opened":
            self._opened(index, before, fields)
        elif index == 0:
            checks["epochs"].fail(index, "the log does not begin with log.opened")
        # 8., 9. and 17. to 20.: meaning
        self._meaning.take(index, record, fields)
        if self._bodies is not None:
            self._bodies.take(index, record, fields)
        self._count(record, name, fields)

    def _opened(self, index: int, head_hash: bytes, fields: Data) -> None:
        epoch = cast("int", fields["epoch"])
        if epoch <= self._epoch:
            self._checks["epochs"].fail(index, f"epoch {epoch} was opened after epoch {self._epoch}")
        self._epoch = max(epoch, self._epoch)
        if fields["size"] != index or fields["head_hash"] != head_hash.hex():
            self._checks["epochs"].fail(index, f"the opening of epoch {epoch} at record {index} is recorded wrongly")

    def _count(self, record: Mapping[str, object], name: str, fields: Data) -> None:
        report = self._report
        report.events[name] += 1
        report.code_versions.add(str(record["code_version"]))
        if name in {"route.decided", "generation.finished"}:
            report.models.add(str(fields["model"]))
        at_ms = cast("int", record["at_ms"])
        report.last_at_ms = at_ms
        if report.first_at_ms is None:
            report.first_at_ms = at_ms


# --- 15: tiles ---------------------------------------------------------------------------------------------------


class _Tiles:
    """Check 15. Compares what is stored with what the records give, tile by tile as they fill."""

    def __init__(self, directory: Path, check: Check, checkpoint_size: int | None) -> None:
        """`checkpoint_size`: of the newest checkpoint beside the tiles, whose tiles have to be there."""
        self._directory = directory
        self._store = DirectoryStore(directory)
        self._check = check
        self._needed = checkpoint_size or 0
        self._on = self._needed > 0 or (directory / TILES_DIR).is_dir()
        if not self._on:
            check.skipped = "the log has no tiles, and no checkpoint that needs them"

    def full(self, path: str, data: bytes) -> None:
        """A tile that the records fill."""
        if self._on:
            self._compare(parse_path(path), data)

    def finish(self, tree: TileWriter) -> None:
        """The tiles at the right edge."""
        if not self._on:
            return
        for path, data in tree.partials():
            name = parse_path(path)
            self._compare(TileName(name.level, name.index), data)

    def _compare(self, name: TileName, data: bytes) -> None:
        """Compare one place of the tree, `data` being all that the records give of it, with every file stored there."""
        first = name.index * TILE_WIDTH << TILE_LEVELS * (name.level or 0)
        stored = self._store.read(name.path)
        if stored is not None and not _agree(name, stored, data):
            self._check.fail(first, f"{name.path} is not the tile of these records")
        for width in self._partial_widths(name):
            partial = TileName(name.level, name.index, width)
            found = self._store.read(partial.path)
            if found is not None and not _agree(partial, found, data):
                self._check.fail(first, f"{partial.path} is not the tile of these records")
        # The newest checkpoint needs so many hashes here: in a partial tile of that width, or in the full one.
        width = min((self._needed >> TILE_LEVELS * (name.level or 0)) - name.index * TILE_WIDTH, TILE_WIDTH)
        if width > 0 and stored is None:
            needed = TileName(name.level, name.index, width)
            if width == TILE_WIDTH or self._store.read(needed.path) is None:
                self._check.fail(first, f"{needed.path} is missing")

    def _partial_widths(self, name: TileName) -> Iterator[int]:
        folder = self._directory / f"{name.path}.p"
        if folder.is_dir():
            for file in sorted(folder.iterdir()):
                width = decode_decimal(file.name)
                if width is not None and 0 < width < TILE_WIDTH:
                    yield width


def _agree(name: TileName, stored: bytes, data: bytes) -> bool:
    """True when a stored tile has its width, and the same hashes or entries as `data` as far as both go."""
    try:
        whole = narrower(name, stored)
    except BadTile:
        return False
    common = min(len(stored), len(data))
    return whole == stored and stored[:common] == data[:common]


# --- 20: bodies --------------------------------------------------------------------------------------------------


def _bodies(directory: Path, check: Check) -> Bodies | None:
    """The check of bodies; None where none are kept."""
    folder = directory / BODIES_DIR
    if not folder.is_dir():
        check.skipped = "no bodies are kept beside the log"
        return None
    places = {path.stem: path for path in folder.rglob("*") if len(path.stem) == 2 * HASH_BYTES}

    def look_up(digest: str) -> bool | None:
        path = places.get(digest)
        if path is None:
            return None
        try:
            return sha256(path.read_bytes()).hexdigest() == digest
        except FileNotFoundError:
            return None

    return Bodies(check, look_up)


# --- records -----------------------------------------------------------------------------------------------------


def _decode(payload: bytes) -> dict[str, object] | str:
    """The record in canonical bytes, or why they are not."""
    try:
        found: object = json.loads(payload)
    except (ValueError, RecursionError):
        return "the record is not JSON"
    if not isinstance(found, dict):
        return "the record is not a JSON object"
    record = cast("dict[str, object]", found)
    # `json` writes what RFC 8785 writes, except for some floats and keys outside ASCII, at a fifth of the cost.
    if not _has_odd_float(record):
        try:
            if _PLAIN.encode(record).encode() == payload:
                return record
        except ValueError:
            return "the record is not canonical (RFC 8785)"
    try:
        same = canonical(cast("JsonValue", record)) == payload
    except CanonicalizationError:
        same = False
    return record if same else "the record is not canonical (RFC 8785)"


def _has_odd_float(record: Mapping[str, object]) -> bool:
    """True when Python and RFC 8785 may spell a number of an event differently: whole, tiny, huge or not finite.

    The schema has numbers nowhere else.
    """
    data = record.get("data")
    if isinstance(data, dict):
        for value in cast("dict[str, object]", data).values():
            if type(value) is float and (not 1e-4 <= abs(value) < 1e15 or value.is_integer()):
                return True
    return False
