"""The evidence of one change: its records with their proofs, in a directory that checks itself.

```
evidence.json            the records (canonical texts, index, leaf), and what they say
proofs/<index>.tlog-proof    one for each record, all under the one checkpoint
checkpoint               that checkpoint: a signed note with the signatures that were good
log.vkey                 the keys that verify it: the log's, then its witnesses'
report.md, report.html   the post-change report
verify.py                checks the package with the Python standard library alone
MANIFEST                 SHA-256 of each of these files
```

Everything but the records, their proofs, the checkpoint and the keys is made from these: `check` makes it again and
compares. What a package cannot show by itself is that no record was left out; with the log at hand, `check` shows it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import cast

from deployments.audit.change import Joins, NotARecord, Record, check_canonical, decode, select, summarize
from deployments.audit.change_report import Evidence, report, to_html, to_markdown
from deployments.audit.export import (
    CHECKPOINT_FILE,
    KEYS_FILE,
    WITNESSED_FILE,
    SignedHead,
    Tree,
    read_keys,
    signed_head,
)
from deployments.audit.files import replace_file, sync_directory
from deployments.audit.merkle import leaf_hash
from deployments.audit.notes import BadKey, BadNote, Note, VerifierKey, parse_verifier_key, verify_note
from deployments.audit.proofs import (
    BadProof,
    InclusionProof,
    Trust,
    parse_inclusion_proof,
    prove_inclusion,
    verify_inclusion_proof,
)
from deployments.audit.targets import ExportFailed, ExportRefused, Files
from deployments.audit.tiles import BadTile
from deployments.ports import JsonValue

SCHEMA = "gatehouse.evidence/1"
MANIFEST_FILE = "MANIFEST"
_EVIDENCE_FILE = "evidence.json"
_VERIFIER = Path(__file__).with_name("evidence_verify.py")
_MADE = (_EVIDENCE_FILE, "report.md", "report.html", "verify.py")


class NoSuchChange(Exception):
    """No record up to the checkpoint names the change."""


class BadEvidence(Exception):
    """The package, or the log it is made from, does not show what it claims."""


@dataclass(frozen=True, slots=True)
class Proven:
    """A record of the change. `why` says what ties it to the change."""

    index: int
    entry: bytes
    record: Record
    why: str


@dataclass(frozen=True, slots=True)
class Package:
    """All that a package is made from. `keys` are the log's and its witnesses'; `note` has good signatures only."""

    change_id: str
    tenant: str | None
    made_ms: int
    keys: tuple[VerifierKey, ...]
    note: bytes
    records: tuple[Proven, ...]
    proofs: tuple[bytes, ...]


# --- collecting --------------------------------------------------------------------------------------------------


def collect(log: Files, change_id: str, made_ms: int, tenant: str | None = None, pinned: str | None = None) -> Package:
    """Every record of a change in a log or an export of it, proven under one checkpoint.

    Reads all of the log, several times, and checks that it leads to the signed root. `pinned` is the log's verifier
    key; None takes the one that lies with the log. Raises `NoSuchChange`, `BadEvidence`, `ExportFailed` when there is
    nothing to read, `ExportRefused` for a log that contradicts itself.
    """
    keys, heads = _heads(log, pinned)
    newest = heads[-1]
    try:
        tree = Tree(log, newest)
        tree.check()
        records = _collect(tree, newest.size, change_id, tenant)
        if not records:
            raise NoSuchChange(f"none of the log's {newest.size} records names the change {change_id}")
        # The checkpoint that most parties signed, of those that cover all of it.
        covering = [head for head in heads if head.size > records[-1].index]
        head = max(covering, key=lambda head: (len(head.note.signatures), head.size))
        note, hash_at = head.note.to_bytes(), tree.reader.at(head.size)
        if head is not newest and tree.root(head.size) != head.checkpoint.root:
            raise ExportRefused(f"the log signed two different trees of its first {head.size} records")
        proofs = [prove_inclusion(found.index, leaf_hash(found.entry), note, hash_at).to_bytes() for found in records]
    except (BadTile, BadProof) as error:
        raise BadEvidence(f"the log's tiles: {error}") from error
    return Package(change_id, tenant, made_ms, keys, note, tuple(records), tuple(proofs))


def _heads(log: Files, pinned: str | None) -> tuple[tuple[VerifierKey, ...], list[SignedHead]]:
    """The keys, and the log's newest witnessed and newest checkpoint with their good signatures."""
    keys = read_keys(log)
    if pinned is not None and pinned != str(keys[0]):
        raise BadEvidence(f"the log's key is {keys[0]}, not the given one")
    witnessed, newest = log.read(WITNESSED_FILE), log.read(CHECKPOINT_FILE)
    if newest is None:
        raise ExportFailed("the log has no checkpoint")
    heads = [_good(signed_head(note, keys[0], "the checkpoint"), keys) for note in (witnessed, newest) if note]
    if heads[0].size > heads[-1].size:
        raise ExportRefused(f"the log's checkpoint does not extend its witnessed one of {heads[0].size} records")
    return keys, heads


def _good(head: SignedHead, keys: Sequence[VerifierKey]) -> SignedHead:
    """The head without signatures by keys that nobody with the package could check."""
    try:
        good = {(found.key.name, found.key.key_id) for found in verify_note(head.note, keys)}
    except (BadNote, BadKey) as error:
        raise BadEvidence(f"the checkpoint: {error}") from error
    first = {(found.name, found.key_id): found for found in reversed(head.note.signatures)}
    signatures = [found for found in head.note.signatures if first[found.name, found.key_id] is found]
    kept = tuple(found for found in signatures if (found.name, found.key_id) in good)
    return SignedHead(head.checkpoint, Note(head.note.text, kept))


def _collect(tree: Tree, end: int, change_id: str, tenant: str | None) -> list[Proven]:
    """The records of the change below `end`. A record may be tied to it by a later one, hence several rounds."""
    joins = Joins(change_id, tenant)
    while True:
        before, found = joins.known, list[Proven]()
        for index, entry in enumerate(tree.reader.entries(0, end, tree.size)):
            if not joins.may_belong(entry):
                continue
            record = _decoded(index, entry)
            why = joins.take(record)
            if why is not None:
                found.append(_proven(index, entry, record, why))
        if joins.known == before:
            return found


def _decoded(index: int, entry: bytes) -> Record:
    try:
        record = decode(entry)
    except NotARecord as error:
        raise BadEvidence(f"record {index}: {error}") from error
    if record["sequence"] != index:
        raise BadEvidence(f"record {index} says that it is record {record['sequence']}")
    return record


def _proven(index: int, entry: bytes, record: Record, why: str) -> Proven:
    try:
        check_canonical(record, entry)
    except NotARecord as error:
        raise BadEvidence(f"record {index}: {error}") from error
    return Proven(index, entry, record, why)


# --- writing -----------------------------------------------------------------------------------------------------


def files_of(package: Package) -> dict[str, bytes]:
    """The files of a package but for its `MANIFEST`, by path."""
    trust_head = signed_head(package.note, package.keys[0], "the checkpoint")
    head = trust_head.checkpoint
    witnessed = [
        (found.key.name, found.time_s)
        for found in verify_note(trust_head.note, package.keys)
        if found.time_s is not None
    ]
    change = summarize(package.change_id, [found.record for found in package.records])
    evidence = Evidence(
        origin=head.origin,
        size=head.size,
        root=head.root.hex(),
        key=str(package.keys[0]),
        witnesses=witnessed,
        made_ms=package.made_ms,
        tenant=package.tenant,
    )
    blocks = report(change, [(found.record, found.why) for found in package.records], evidence)
    document: dict[str, JsonValue] = {
        "schema": SCHEMA,
        "change_id": package.change_id,
        "tenant": package.tenant,
        "made_at_ms": package.made_ms,
        "checkpoint": {"origin": head.origin, "size": head.size, "root": head.root.hex()},
        "summary": change.to_json(),
        "records": [
            {
                "index": found.index,
                "leaf": leaf_hash(found.entry).hex(),
                "belongs_by": found.why,
                "entry": found.entry.decode(),
            }
            for found in package.records
        ],
    }
    proofs = {_proof_path(found.index): proof for found, proof in zip(package.records, package.proofs, strict=True)}
    return {
        _EVIDENCE_FILE: json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n",
        CHECKPOINT_FILE: package.note,
        KEYS_FILE: "".join(f"{key}\n" for key in package.keys).encode(),
        "report.md": to_markdown(blocks).encode(),
        "report.html": to_html(f"Change {package.change_id}", blocks).encode(),
        "verify.py": _VERIFIER.read_bytes(),
        **proofs,
    }


def _proof_path(index: int) -> str:
    return f"proofs/{index}.tlog-proof"


def manifest_of(files: Mapping[str, bytes]) -> bytes:
    """The lines of `MANIFEST`, as `sha256sum --check` reads them."""
    return "".join(f"{_line(path, data)}\n" for path, data in sorted(files.items())).encode()


def _line(path: str, data: bytes) -> str:
    return f"{sha256(data).hexdigest()}  {path}"


def write(package: Package, directory: Path) -> None:
    """Write a package to a new directory, `FileExistsError` when there is something; else `OSError`."""
    files = files_of(package)
    files[MANIFEST_FILE] = manifest_of(files)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is there already")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / "proofs").mkdir(mode=0o700, exist_ok=True)
    # MANIFEST comes last: a package without one is not whole.
    for path, data in files.items():
        replace_file(directory / path, data)
    sync_directory(directory.parent)


# --- checking ----------------------------------------------------------------------------------------------------


def read_package(directory: Path) -> tuple[Package, dict[str, bytes]]:
    """A package with its files as they lie there, of which only the `MANIFEST` was checked. `BadEvidence`, `OSError`.

    The records are decoded, and nothing they claim is believed.
    """
    files = _listed_files(directory)
    document = _document(files[_EVIDENCE_FILE])
    records = tuple(_record_of(found) for found in cast("list[object]", document["records"]))
    try:
        keys = tuple(parse_verifier_key(line) for line in files[KEYS_FILE].decode().splitlines())
    except (UnicodeDecodeError, BadKey) as error:
        raise BadEvidence(f"{KEYS_FILE} cannot be read: {error}") from error
    package = Package(
        change_id=cast("str", document["change_id"]),
        tenant=cast("str | None", document["tenant"]),
        made_ms=cast("int", document["made_at_ms"]),
        keys=keys,
        note=files[CHECKPOINT_FILE],
        records=records,
        proofs=tuple(files.get(_proof_path(found.index), b"") for found in records),
    )
    return package, files


def _listed_files(directory: Path) -> dict[str, bytes]:
    paths = [path for path in directory.rglob("*") if not path.is_dir()]
    if any(path.is_symlink() or not path.is_file() for path in paths):
        raise BadEvidence("the package holds something that is not a plain file")
    files = {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}
    manifest = files.pop(MANIFEST_FILE, None)
    if manifest is None:
        raise BadEvidence(f"{MANIFEST_FILE} is missing")
    for path in (*_MADE, CHECKPOINT_FILE, KEYS_FILE):
        if path not in files:
            raise BadEvidence(f"{path} is missing")
    if manifest != manifest_of(files):
        lines = set(manifest.decode("utf-8", "replace").splitlines())
        other = next((path for path, data in sorted(files.items()) if _line(path, data) not in lines), MANIFEST_FILE)
        raise BadEvidence(f"{other} is not what {MANIFEST_FILE} says")
    return files


def _document(data: bytes) -> Mapping[str, object]:
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadEvidence(f"{_EVIDENCE_FILE} is not JSON") from error
    document = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    wanted: Mapping[str, Callable[[object], bool]] = {
        "schema": lambda value: value == SCHEMA,
        "change_id": _is_text,
        "tenant": lambda value: value is None or _is_text(value),
        "made_at_ms": lambda value: type(value) is int,
        "records": lambda value: isinstance(value, list) and bool(cast("list[object]", value)),
    }
    for name, fits in wanted.items():
        if not fits(document.get(name)):
            raise BadEvidence(f"'{name}' of {_EVIDENCE_FILE} is not that of {SCHEMA}")
    return document


def _record_of(found: object) -> Proven:
    fields = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    index, entry, why = fields.get("index"), fields.get("entry"), fields.get("belongs_by")
    if type(index) is not int or not _is_text(entry) or not _is_text(why):
        raise BadEvidence(f"a record of {_EVIDENCE_FILE} lacks index, entry or belongs_by")
    data = cast("str", entry).encode()
    try:
        return _proven(index, data, _decoded(index, data), cast("str", why))
    except BadEvidence as error:
        raise BadEvidence(f"{_EVIDENCE_FILE}: {error}") from error


def _is_text(value: object) -> bool:
    """True for text that UTF-8 can hold."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def check(directory: Path, pinned: str | None = None, log: Files | None = None) -> Package:
    """Verify a package from scratch, with the log at hand also that it is complete; `BadEvidence` when it fails.

    Without `pinned`, the log's verifier key from somewhere else, only that the package agrees with itself is shown.
    Raises `ExportFailed` and `ExportRefused` for the log, `OSError` for the package.
    """
    # 1. Every file is the one in MANIFEST.
    package, files = read_package(directory)
    # 2. The log's key is the pinned one, and every signature under the checkpoint is good.
    trust = _trust(package, pinned)
    # 3. Each record is in the tree of that checkpoint, at its place.
    for found, proof in zip(package.records, package.proofs, strict=True):
        try:
            parsed = parse_inclusion_proof(proof)
            verify_inclusion_proof(parsed, found.index, leaf_hash(found.entry), trust)
        except BadProof as error:
            raise BadEvidence(f"record {found.index}: {error}") from error
        if InclusionProof(found.index, parsed.hashes, package.note).to_bytes() != proof:
            raise BadEvidence(f"record {found.index}: its proof is not under the package's checkpoint")
    # 4. The records belong to the change, and they are in order.
    selected = select(package.change_id, package.tenant, [found.record for found in package.records])
    if [(found.record, found.why) for found in package.records] != selected:
        raise BadEvidence("the package holds records that do not belong to the change")
    indices = [found.index for found in package.records]
    if sorted(set(indices)) != indices:
        raise BadEvidence("the records are not in order")
    # 5. Everything else is what these records make.
    made = files_of(package)
    other = next((path for path in sorted(made.keys() | files.keys()) if made.get(path) != files.get(path)), None)
    if other is not None:
        raise BadEvidence(
            f"the records are proven, but {other} is not what this version of Gatehouse makes from them: it was "
            "changed, or another version made it"
        )
    # 6. With the log: nothing was left out.
    if log is not None:
        _check_complete(package, log, trust)
    return package


def _trust(package: Package, pinned: str | None) -> Trust:
    if not package.keys:
        raise BadEvidence(f"{KEYS_FILE} is empty")
    key, *witnesses = package.keys
    if pinned is not None and pinned != str(key):
        raise BadEvidence("the log's key in the package is not the given one")
    try:
        head = signed_head(package.note, key, "the checkpoint")
        if _good(head, package.keys).note != head.note:
            raise BadEvidence("the checkpoint has signatures that nothing in the package can check")
        return Trust(key.name, (key,), tuple(witnesses))
    except (ExportRefused, ValueError) as error:
        raise BadEvidence(f"the checkpoint: {error}") from error


def _check_complete(package: Package, log: Files, trust: Trust) -> None:
    head = signed_head(package.note, trust.log_keys[0], "the checkpoint")
    _, heads = _heads(log, str(trust.log_keys[0]))
    newest = heads[-1]
    if newest.size < head.size:
        raise ExportRefused(f"the log has a checkpoint of {newest.size} records only, the package one of {head.size}")
    try:
        tree = Tree(log, newest)
        if tree.root(head.size) != head.checkpoint.root:
            raise ExportRefused(f"the first {head.size} records of the log are not those of the package's checkpoint")
        tree.check()
        found = _collect(tree, head.size, package.change_id, package.tenant)
    except BadTile as error:
        raise BadEvidence(f"the log's tiles: {error}") from error
    missing = {each.index for each in found} - {each.index for each in package.records}
    if missing:
        raise BadEvidence(f"the package lacks {len(missing)} records of the change, the first is {min(missing)}")
