"""Two verifiers that share no line, in two languages, agree on every export: whole ones and tampered ones.

The second one is `verify_log.mjs`; it knows RFC 6962 and the C2SP formats, and nothing of what records mean.
"""

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from deployments.audit.chain import leaf_hash
from deployments.audit.export import Exporter
from deployments.audit.merkle import Frontier
from deployments.audit.notes import ED25519, generate_key, parse_checkpoint, parse_note
from deployments.audit.proofs import InclusionProof, prove_inclusion
from deployments.audit.sealer import Sealer
from deployments.audit.settings import AuditSettings
from deployments.audit.targets import DirectoryTarget
from deployments.audit.tiles import DirectoryStore, TileReader, TileWriter
from deployments.audit.verify import verify
from deployments.audit.writer import LogWriter
from deployments.clock import SystemClock
from tests.unit.audit.handmade import (
    KEY,
    KEYS_TEXT,
    ORIGIN,
    WITNESSES,
    edited,
    entries_of,
    honest,
    lay_export,
    lay_tiles,
    note_of,
    route,
)

pytestmark = pytest.mark.audit

_SCRIPT = Path(__file__).parent / "verify_log.mjs"
_PINNED = [str(KEY.verifier)]
_OTHER = generate_key(ORIGIN, ED25519, lambda count: b"\x09" * count)
_MAX_SIZE = 600


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed: the second verifier needs Node 18 or newer")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").partition(".")[0]) < 18:
        pytest.skip(f"node is too old: the second verifier needs Node 18 or newer, this is {version.strip()}")
    return found


@pytest.fixture(scope="module")
def entries() -> list[bytes]:
    return entries_of(honest(_MAX_SIZE))[:_MAX_SIZE]


def _second(node: str, exports: Sequence[Path], *options: str) -> list[bool]:
    """The second verifier's verdicts."""
    verdicts: list[bool] = []
    for begin in range(0, len(exports), 200):
        some = [str(export) for export in exports[begin : begin + 200]]
        done = subprocess.run(
            [node, str(_SCRIPT), *options, *some], capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode in (0, 1), done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert [each["path"] for each in found] == some, done.stderr
        assert [each["problems"] == [] for each in found] == [each["ok"] for each in found]
        verdicts += [bool(each["ok"]) for each in found]
    return verdicts


def _agree(node: str, exports: Sequence[Path], keys: Sequence[str] = _PINNED, quorum: int = 0) -> list[bool]:
    """The verdict of both verifiers on each export; fails where they differ."""
    pinned = [word for key in keys for word in ("--key", key)]
    second = _second(node, exports, *pinned, "--quorum", str(quorum))
    first = [verify(export, keys=keys, quorum=quorum).ok for export in exports]
    differ = [(export.name, one, two) for export, one, two in zip(exports, first, second, strict=True) if one != two]
    assert differ == [], "(export, this verifier, the second one)"
    return first


# --- exports that are whole --------------------------------------------------------------------------------------


def _exports_of_every_size(folder: Path, entries: Sequence[bytes]) -> list[Path]:
    """One export for each size from 0 on: full tiles so far, partial tiles of that size, a note of both witnesses."""
    writer, full, exports = TileWriter(), dict[str, bytes](), list[Path]()
    for size in range(len(entries) + 1):
        if size:
            full |= dict(writer.append(entries[size - 1], leaf_hash(entries[size - 1])))
        export = folder / str(size)
        for path, data in {**full, **dict(writer.partials())}.items():
            (export / path).parent.mkdir(parents=True, exist_ok=True)
            (export / path).write_bytes(data)
        export.mkdir(exist_ok=True)
        (export / "log.vkey").write_text(KEYS_TEXT)
        (export / "checkpoint").write_bytes(note_of(size, writer.root(), witnesses=WITNESSES))
        exports.append(export)
    return exports


def test_every_size_up_to_600_is_good_for_both_and_has_a_root_of_its_own(
    node: str, entries: list[bytes], tmp_path: Path
) -> None:
    exports = _exports_of_every_size(tmp_path, entries)
    assert _agree(node, exports, quorum=2) == [True] * (_MAX_SIZE + 1)
    before = b"\x07" * 32
    for size, export in enumerate(exports[1:], start=1):
        note = export / "checkpoint"
        root = parse_checkpoint(parse_note(note.read_bytes()).text).root
        note.write_bytes(note_of(size, before))
        before = root
    assert _agree(node, exports[1:]) == [False] * _MAX_SIZE


def test_a_log_of_70_000_records_is_good_for_both_until_one_byte_changes(node: str, tmp_path: Path) -> None:
    entries = [*entries_of(honest()), *_routes(len(honest()), 70_000)]
    lay_export(tmp_path, entries, [1, 255, 256, 257, 65_535, 65_536, 65_537, 69_999, 70_000], WITNESSES)
    assert _agree(node, [tmp_path], quorum=2) == [True]
    bundle = tmp_path / "tile" / "entries" / "137"
    data = bundle.read_bytes()
    bundle.write_bytes(data.replace(b"demo-20b", b"demo-21b", 1))
    assert _agree(node, [tmp_path]) == [False]


def _routes(begin: int, end: int) -> Iterator[bytes]:
    template = entries_of([route(0)])[0]
    for index in range(begin, end):
        found = template.replace(b'"sequence":0', b'"sequence":%d' % index)
        yield found.replace(b'"event_id":"route:0"', b'"event_id":"route:%d"' % index)


def test_what_sink_and_exporter_leave_is_good_for_both_at_every_export(node: str, tmp_path: Path) -> None:
    log, export, clock = tmp_path / "audit", tmp_path / "export", SystemClock()
    settings = AuditSettings(segment_bytes=50_000, lock_timeout_s=0, checkpoint_records=40, checkpoint_interval_ms=10)
    exporter, number = Exporter(DirectoryTarget(export), clock), 0
    for _ in range(3):
        sealer = Sealer(settings, clock)
        writer = LogWriter(log, settings, "test", clock, sealing=sealer)
        for _ in range(4):
            for _ in range(150):
                writer.commit([[route(number)]])
                number += 1
            assert sealer.wait_covered(writer.head().size, 60)
            writer.record_head()
            size = exporter.run_once(DirectoryTarget(log))
            keys = [(log / "log.vkey").read_text().splitlines()[0]]
            assert _agree(node, [export], keys) == [True]
            live, copied = verify(log, keys=keys), verify(export, keys=keys)
            assert (live.ok, copied.records, copied.root) == (True, size, live.root)
        sealer.close()
        writer.close()
    assert len(list((export / "checkpoints").iterdir())) == 12


# --- exports that are not ----------------------------------------------------------------------------------------


def _sizes_of_interest(size: int) -> list[int]:
    return sorted({0, size // 3, size - 1, size} - {-1})


def _flips(export: Path, rng: random.Random) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """For each file: bits flipped at its ends and in the middle, bytes cut off, added, and the file removed."""
    for path in sorted(path.relative_to(export) for path in export.rglob("*") if path.is_file()):
        length = (export / path).stat().st_size
        places = sorted({0, length // 2, length - 1, rng.randrange(length), rng.randrange(length)})
        for place in places:
            bit = rng.randrange(8)

            def flip(copy: Path, path: Path = path, place: int = place, bit: int = bit) -> None:
                data = bytearray((copy / path).read_bytes())
                data[place] ^= 1 << bit
                (copy / path).write_bytes(data)

            yield f"{path} flip {place}.{bit}", flip

        def cut(copy: Path, path: Path = path) -> None:
            (copy / path).write_bytes((copy / path).read_bytes()[:-1])

        def grow(copy: Path, path: Path = path) -> None:
            (copy / path).write_bytes((copy / path).read_bytes() + b"\x00")

        def remove(copy: Path, path: Path = path) -> None:
            (copy / path).unlink()

        def empty(copy: Path, path: Path = path) -> None:
            (copy / path).write_bytes(b"")

        yield from ((f"{path} {done.__name__}", done) for done in (cut, grow, remove, empty))


@pytest.mark.parametrize("size", [1, 3, 256, 257, 513])
def test_both_agree_on_every_kind_of_damage_to_every_file(
    node: str, entries: list[bytes], tmp_path: Path, size: int
) -> None:
    honest_export = tmp_path / "honest"
    lay_export(honest_export, entries, _sizes_of_interest(size), WITNESSES)
    exports: list[Path] = []
    for number, (name, tamper) in enumerate(_flips(honest_export, random.Random(size))):
        export = tmp_path / f"{number}: {name.replace('/', '|')}"
        shutil.copytree(honest_export, export)
        tamper(export)
        exports.append(export)
    # With the key pinned and without: then the one that lies with the export counts.
    verdicts = _agree(node, exports), _agree(node, exports, keys=())
    # Only what nothing depends on may be damaged unseen: notes that are gone, unpinned keys, old partial tiles.
    for verdict in verdicts:
        assert verdict.count(False) > len(exports) // 2
    for export, pinned in zip(exports, verdicts[0], strict=True):
        if " tile|" in export.name and " flip " in export.name:
            assert not pinned, export.name


def test_both_agree_on_forgeries_with_perfect_mathematics(node: str, entries: list[bytes], tmp_path: Path) -> None:
    size = 300
    tampered = [*entries[:100], edited(entries[100], lambda record: record.update(tenant="other")), *entries[101:]]
    forgeries: dict[str, tuple[list[bytes], bool]] = {
        "changed": (tampered, False),
        "removed": ([*entries[:100], *entries[101:]], False),
        "inserted": ([*entries[:100], entries[100], *entries[100:]], False),
        "reordered": ([*entries[:100], entries[101], entries[100], *entries[102:]], False),
        "the same": (entries, True),
    }
    exports: list[Path] = []
    for name, (forged, _) in forgeries.items():
        export = tmp_path / name
        tree = lay_export(export, entries, [200, size])
        for path in (export / "tile").rglob("*"):
            if path.is_file():
                path.unlink()
        lay_tiles(export, forged, [size])
        # The forger signs a new head as well. The checkpoint of 200 records, exported before, is out of reach.
        (export / "checkpoints" / f"{size:020d}").unlink()
        assert tree.notes
        exports.append(export)
    assert _agree(node, exports) == [good for _, good in forgeries.values()]


def test_both_agree_on_keys_and_witnesses(node: str, entries: list[bytes], tmp_path: Path) -> None:
    def export(name: str, note: Callable[[int, bytes], bytes]) -> Path:
        made = tmp_path / name
        lay_tiles(made, entries, [300])
        root = Frontier.at(300, TileReader(DirectoryStore(made)).at(300)).root()
        (made / "checkpoint").write_bytes(note(300, root))
        return made

    bad = note_of(300, b"\x07" * 32, witnesses=WITNESSES[:1]).splitlines(keepends=True)[-1]
    exports = [
        export("no witness", note_of),
        export("one witness", lambda size, root: note_of(size, root, witnesses=WITNESSES[:1])),
        export("two witnesses", lambda size, root: note_of(size, root, witnesses=WITNESSES)),
        export("other key", lambda size, root: note_of(size, root, _OTHER)),
        export("other origin", lambda size, root: note_of(size, root, origin="another.example/log")),
        export("bad witness", lambda size, root: note_of(size, root) + bad),
    ]
    witnesses = [str(witness.verifier) for witness in WITNESSES]
    assert _agree(node, exports) == [True, True, True, False, False, False]
    assert _agree(node, exports, quorum=1) == [False, True, True, False, False, False]
    assert _agree(node, exports, keys=[*_PINNED, *witnesses], quorum=2) == [False, False, True, False, False, False]
    assert _agree(node, exports, keys=[*_PINNED, witnesses[1]], quorum=1) == [False, False, True, False, False, False]
    assert _agree(node, exports, keys=[*_PINNED, witnesses[1]], quorum=0) == [True, True, True, False, False, True]
    assert _agree(node, exports, keys=[]) == [True, True, True, False, False, False]


def test_both_agree_on_proofs(node: str, entries: list[bytes], tmp_path: Path) -> None:
    export = tmp_path / "export"
    tree = lay_export(export, entries, [1, 2, 256, 300], WITNESSES)
    reader = TileReader(DirectoryStore(export))
    made: list[tuple[bytes, bool]] = []
    for size in (1, 2, 256, 300):
        for index in sorted({0, size // 2, size - 1}):
            found = prove_inclusion(index, leaf_hash(entries[index]), tree.notes[size], reader.at(size))
            made.append((found.to_bytes(), True))
            made.append((InclusionProof(index, found.hashes, found.checkpoint, b"said beside").to_bytes(), True))
            made.append((InclusionProof(index + 1, found.hashes, found.checkpoint).to_bytes(), False))
            made.append((InclusionProof(index, (*found.hashes, b"\x07" * 32), found.checkpoint).to_bytes(), False))
            made.append(
                (InclusionProof(index, found.hashes[:-1] or (b"\x07" * 32,), found.checkpoint).to_bytes(), False)
            )
            made.append((InclusionProof(index, found.hashes, note_of(size, b"\x07" * 32)).to_bytes(), False))
            made.append((InclusionProof(index, found.hashes, note_of(size, b"\x07" * 32, _OTHER)).to_bytes(), False))
    for number, (proof, good) in enumerate(made):
        path = tmp_path / f"{number}.tlog-proof"
        path.write_bytes(proof)
        [second] = _second(node, [export], "--key", _PINNED[0], "--proof", str(path))
        first = verify(export, keys=_PINNED, receipts=[path]).ok
        assert (first, second) == (good, good), (number, proof)
