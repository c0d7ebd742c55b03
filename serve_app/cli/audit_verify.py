"""`gatehouse audit verify` and `prove`: evidence, checked from files. No server, no Ray."""

import json
from pathlib import Path
from typing import Annotated

import typer

from deployments.audit.anchors import Keys, Unusable, find_keys
from deployments.audit.chain import leaf_hash
from deployments.audit.files import replace_file
from deployments.audit.layout import CHECKPOINT_FILE
from deployments.audit.merkle import HASH_BYTES
from deployments.audit.notes import BadNote, parse_checkpoint, parse_note
from deployments.audit.proofs import (
    BadProof,
    InclusionProof,
    Trust,
    TrustedCheckpoint,
    parse_inclusion_proof,
    prove_inclusion,
    verify_inclusion_proof,
)
from deployments.audit.read import NoLog, is_export
from deployments.audit.tiles import BadTile, DirectoryStore, TileReader
from deployments.audit.verify import DEFAULT_GRACE_S, verify
from serve_app.cli.offline import fail

_PATH = "The log's directory, for example .gatehouse/audit, or an export of it."
_Key = Annotated[
    list[str] | None,
    typer.Option("--key", help="A verifier key to trust, of the log or of a witness; @FILE reads them from a file."),
]
_Quorum = Annotated[
    int | None, typer.Option(min=0, help="Witnesses that must have signed. Default: all given by --key.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("verify")(verify_log)
    app.command("prove")(prove)


def verify_log(
    path: Annotated[Path, typer.Argument(help=_PATH)],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            "--head",
            help="What was kept elsewhere: a signed checkpoint, a line of checkpoints.jsonl, or a head as "
            "GET /v1/audit/head returned it. May be repeated.",
        ),
    ] = None,
    key: _Key = None,
    quorum: _Quorum = None,
    receipt: Annotated[
        list[Path] | None,
        typer.Option("--receipt", help='A receipt: {"index", "leaf_hash"} in JSON, or a tlog-proof. May be repeated.'),
    ] = None,
    grace: Annotated[
        int, typer.Option(min=0, help="Seconds after which a consumed permit must have a report, by the newest record.")
    ] = DEFAULT_GRACE_S,
) -> None:
    """Check every record, what the records mean, and every checkpoint, tile and receipt; print a JSON summary.

    Exit status: 0 all checks pass, 1 the evidence is broken, 2 there is nothing usable to check.
    """
    try:
        report = verify(path, checkpoint or (), keys=_keys(key), quorum=quorum, receipts=receipt or (), grace_s=grace)
    except (Unusable, OSError) as error:
        fail(str(error))
    typer.echo(json.dumps(report.to_json(), indent=2))
    if not report.ok:
        raise typer.Exit(1)


def prove(
    path: Annotated[Path | None, typer.Argument(help=_PATH)] = None,
    index: Annotated[int | None, typer.Argument(min=0, help="The record's index.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the proof goes; otherwise it is printed.")] = None,
    with_record: Annotated[bool, typer.Option("--with-record", help="Put the record into the proof.")] = False,
    check: Annotated[Path | None, typer.Option(help="Check this proof instead of making one.")] = None,
    key: _Key = None,
    quorum: _Quorum = None,
    leaf: Annotated[str | None, typer.Option(help="With --check: the receipt's leaf hash, 64 hex digits.")] = None,
    entry: Annotated[Path | None, typer.Option(help="With --check: a file with the record's canonical bytes.")] = None,
) -> None:
    """Prove that a record is in the log, as a C2SP tlog-proof under the newest checkpoint; or --check such a proof.

    Exit status: 0 proven, 1 not proven, 2 there is nothing usable to prove or check.
    """
    try:
        if check is not None:
            _check(check, key, quorum, leaf, entry)
        elif path is None or index is None:
            raise Unusable("give the log and the index of a record, or --check and a proof.")
        else:
            _prove(path, index, out, key, quorum, with_record=with_record)
    except (Unusable, NoLog, OSError) as error:
        fail(str(error))
    except (BadProof, BadTile, BadNote) as error:
        typer.echo(f"gatehouse: not proven: {error}.", err=True)
        raise typer.Exit(1) from error


def _prove(
    path: Path, index: int, out: Path | None, key: list[str] | None, quorum: int | None, *, with_record: bool
) -> None:
    is_export(path)
    checkpoint = (path / CHECKPOINT_FILE).read_bytes()
    size = parse_checkpoint(parse_note(checkpoint).text).size
    if index >= size:
        raise Unusable(f"the newest checkpoint covers {size} records, and record {index} is not among them.")
    reader = TileReader(DirectoryStore(path))
    hash_at = reader.at(size)
    found = prove_inclusion(index, hash_at(0, index), checkpoint, hash_at)
    [record] = reader.entries(index, index + 1, size)
    proof = InclusionProof(index, found.hashes, found.checkpoint, record if with_record else b"").to_bytes()
    # What leaves is what a reader will accept.
    trusted = verify_inclusion_proof(parse_inclusion_proof(proof), index, leaf_hash(record), _trust(path, key, quorum))
    if out is None:
        typer.echo(proof, nl=False)
        return
    replace_file(out, proof)
    typer.echo(_summary(index, leaf_hash(record), trusted, None))


def _check(file: Path, key: list[str] | None, quorum: int | None, leaf: str | None, entry: Path | None) -> None:
    if not key:
        raise Unusable("a proof is checked with the log's key: give it with --key.")
    if leaf is not None and entry is not None:
        raise Unusable("give --leaf or --entry, not both.")
    proof = parse_inclusion_proof(file.read_bytes())
    record = proof.extra or None if entry is None else entry.read_bytes()
    if leaf is not None:
        if len(leaf) != 2 * HASH_BYTES or leaf.strip("0123456789abcdef"):
            raise Unusable("--leaf is not a SHA-256 in lower-case hex.")
        wanted = bytes.fromhex(leaf)
    elif record is not None:
        wanted = leaf_hash(record)
    else:
        raise Unusable("the proof does not hold its record: give --leaf or --entry.")
    trusted = verify_inclusion_proof(proof, proof.index, wanted, _trust(None, key, quorum))
    shown = record if record is not None and leaf_hash(record) == wanted else None
    typer.echo(_summary(proof.index, wanted, trusted, shown))


def _summary(index: int, leaf: bytes, trusted: TrustedCheckpoint, record: bytes | None) -> str:
    head = trusted.checkpoint
    return json.dumps(
        {
            "ok": True,
            "index": index,
            "leaf_hash": leaf.hex(),
            "origin": head.origin,
            "size": head.size,
            "root": head.root.hex(),
            "witnesses": [{"name": found.key.name, "time_s": found.time_s} for found in trusted.witnessed],
            **({} if record is None else {"record": record.decode("utf-8", "replace")}),
        },
        indent=2,
    )


def _trust(path: Path | None, key: list[str] | None, quorum: int | None) -> Trust:
    """Whom to believe: the keys given, or those that lie with the log."""
    keys: Keys = find_keys(path, _keys(key))
    if not keys.log:
        raise Unusable(f"no key of the log is known: {keys.problem or 'give it with --key'}.")
    if any(other.name != keys.log[0].name for other in keys.log):
        raise Unusable("the keys are of several logs.")
    needed = (len(keys.witnesses) if keys.witnesses_pinned else 0) if quorum is None else quorum
    if needed > len(keys.witnesses):
        raise Unusable(f"a quorum of {needed} needs as many witness keys; {len(keys.witnesses)} are known.")
    return Trust(keys.log[0].name, keys.log, keys.witnesses, needed)


def _keys(given: list[str] | None) -> list[str]:
    """The keys of the command line, those in files included."""
    keys: list[str] = []
    for text in given or ():
        if text.startswith("@"):
            try:
                lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError as error:
                raise Unusable(f"{text[1:]} holds no keys: it is not UTF-8.") from error
            keys += [line for line in lines if line.strip()]
        else:
            keys.append(text)
    return keys
