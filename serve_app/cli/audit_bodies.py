"""`gatehouse audit body | check-body | shred | prune | rotate-key`: what is kept beside the log, and how it goes."""

import json
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from deployments.audit.read import NoLog, read_records
from deployments.audit.recover import CorruptLog
from deployments.audit.settings import AuditSettings, BodySettings
from deployments.audit.vault import BodyReader, BodyUnreadable, Removal, Vault, open_reader
from deployments.audit.vault_keys import VaultRefused
from deployments.audit.writer import LogLocked, LogWriter
from deployments.clock import SystemClock
from deployments.errors import AuditUnavailable, NotFound
from deployments.ports import BodyField, JsonValue, Receipt, TenantId
from serve_app.cli.client import ApiClient, fail
from serve_app.config import ConfigError, find, load_serve_file

OPERATOR = "operator"
"""Principal of what is done on the files while no server runs: whoever may write them."""

_Log = Annotated[Path, typer.Argument(help="The log's directory, for example .gatehouse/audit.")]
_Index = Annotated[int, typer.Argument(min=0, help="The record's index, as in a receipt.")]
_Field = Annotated[BodyField, typer.Option(help="Which body of the record.")]
_Keys = Annotated[Path | None, typer.Option("--keys", help="Key directory; by default audit-keys beside the log.")]
_VaultKey = Annotated[Path | None, typer.Option(help="The vault key, where it is not vault.key in the key directory.")]
_OwnLog = Annotated[
    Path | None,
    typer.Option("--log", help="The log's directory, while no server runs; without it the server is asked."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `gatehouse audit`."""
    app.command("body")(body)
    app.command("check-body")(check_body)
    app.command("shred")(shred)
    app.command("prune")(prune)
    app.command("rotate-key")(rotate_key)


def body(
    path: _Log,
    index: _Index,
    field: _Field,
    keys: _Keys = None,
    vault_key: _VaultKey = None,
    out: Annotated[Path | None, typer.Option(help="Write it here (mode 600) instead of printing it.")] = None,
) -> None:
    """Decrypt a stored body of a record. Secrets in it were masked before it was stored.

    Exit status: 0 here it is, 1 it is shredded, missing or damaged, 2 nothing to look at.
    """
    reader, record = _reader(path, keys, vault_key), _record(path, index)
    try:
        found = reader.open_body(record, field)
    except BodyUnreadable as error:
        fail(f"record {index}: {error}", 1)
    if out is None:
        sys.stdout.buffer.write(found)
        return
    try:
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(found)
    except OSError as error:
        fail(f"{out} cannot be written: {error.strerror}.", 2)


def check_body(
    path: _Log,
    index: _Index,
    field: _Field,
    file: Annotated[Path, typer.Option("--file", help="What is said to have been said, byte for byte.")],
    keys: _Keys = None,
    vault_key: _VaultKey = None,
) -> None:
    """Say whether a record is committed to exactly these bytes.

    Exit status: 0 it is, 1 it is not, 2 nobody can say: no commitment, a destroyed key, nothing to look at.
    """
    reader, record = _reader(path, keys, vault_key), _record(path, index)
    try:
        matches = reader.check_body(record, field, file.read_bytes())
    except BodyUnreadable as error:
        fail(f"record {index}: {error}", 2)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}.", 2)
    if not matches:
        fail(f"record {index} is not committed to {file}.", 1)
    typer.echo(f"record {index} is committed to {file} as its {field}.")


def shred(
    tenant: Annotated[str, typer.Argument(help="Whose bodies become unreadable for ever.")],
    change_id: Annotated[str, typer.Option(help="Change or request under which this happens.")],
    reason: Annotated[str, typer.Option(help="Recorded as a commitment: keep the words.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    log: _OwnLog = None,
    keys: _Keys = None,
    vault_key: _VaultKey = None,
) -> None:
    """Destroy a tenant's data keys. Records and proofs stay; bodies and commitments open no more, for anybody."""
    if not yes:
        typer.confirm(f"Destroy all keys of '{tenant}'? Nothing brings its bodies back.", abort=True, err=True)
    if log is None:
        request = {"tenant": tenant, "change_id": change_id, "reason": reason}
        typer.echo(json.dumps(ApiClient().request("POST", "/v1/audit/shred", request)))
        return
    with _opened(log, keys, vault_key, BodySettings()) as (writer, vault):
        removal = vault.begin_shred(TenantId(tenant), OPERATOR, change_id, reason)
        receipts = _carry_out(writer, vault, removal)
        typer.echo(json.dumps({"index": receipts[0].index, "leaf_hash": receipts[0].leaf_hash.hex()}))


def prune(
    log: Annotated[Path, typer.Option("--log", help="The log's directory; no server may be running.")],
    config: Annotated[
        str | None, typer.Option(help="The Serve config file that says how long bodies are kept.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="How long bodies of every tenant are kept.")] = None,
    keys: _Keys = None,
    vault_key: _VaultKey = None,
) -> None:
    """Delete bodies that are older than their retention. A running server does so by itself."""
    if (config is None) == (days is None):
        fail("say how long bodies are kept: --config FILE or --days N.", 2)
    try:
        settings = BodySettings(retention_days=days or 1) if config is None else _body_settings(config)
    except ConfigError as error:
        fail(str(error), 2)
    with _opened(log, keys, vault_key, settings) as (writer, vault):
        removal = vault.begin_prune()
        pruned: dict[str, JsonValue] = {}
        if removal is not None:
            _carry_out(writer, vault, removal)
            pruned = {event.tenant: event.data["bodies"] for event in removal.events}
        typer.echo(json.dumps({"pruned": pruned}))


def rotate_key(
    tenant: Annotated[str, typer.Argument(help="Whose bodies are encrypted under a new key from now on.")],
    log: Annotated[Path, typer.Option("--log", help="The log's directory; no server may be running.")],
    keys: _Keys = None,
    vault_key: _VaultKey = None,
) -> None:
    """Give a tenant a new data key. What is stored stays readable under its old one."""
    with _opened(log, keys, vault_key, BodySettings()) as (_, vault):
        typer.echo(vault.rotate(TenantId(tenant)))


def _body_settings(config: str) -> BodySettings:
    return load_serve_file(find(config)).app.audit.bodies


def _carry_out(writer: LogWriter, vault: Vault, removal: Removal) -> Sequence[Receipt]:
    """Record first, then delete: what stops in between is finished at the next start."""
    receipts: Sequence[Receipt] = ()
    if removal.events:
        [outcome] = writer.commit([removal.events])
        if isinstance(outcome, AuditUnavailable):
            raise outcome
        receipts = outcome
        writer.record_head()
    vault.finish(removal)
    return receipts


@contextmanager
def _opened(
    log: Path, keys: Path | None, vault_key: Path | None, bodies: BodySettings
) -> Generator[tuple[LogWriter, Vault], None, None]:
    """Writer and vault of a log that nobody else writes, its interrupted deletions finished."""
    key_file = None if vault_key is None else str(vault_key)
    settings = AuditSettings(bodies=bodies, vault_key_file=key_file, lock_timeout_s=0)
    if not log.is_dir():
        fail(f"there is no audit log at {log}: it is not a directory.", 2)
    clock = SystemClock()
    try:
        writer = LogWriter(log, settings, version("gatehouse-serving"), clock)
    except LogLocked as error:
        fail(f"{error} Stop it, or leave out --log and ask the server.", 2)
    except CorruptLog as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"the audit log at {log} cannot be written: {error.strerror}.", 2)
    try:
        vault = Vault(log, _keys_dir(log, keys), settings, clock)
        for removal in vault.pending():
            _carry_out(writer, vault, removal)
        yield writer, vault
    except (VaultRefused, NotFound, AuditUnavailable) as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"{error.filename or log} cannot be changed: {error.strerror}.", 2)
    finally:
        writer.close()


def _keys_dir(log: Path, keys: Path | None) -> Path:
    return keys or log.resolve().parent / "audit-keys"


def _reader(log: Path, keys: Path | None, vault_key: Path | None) -> BodyReader:
    try:
        return open_reader(log, _keys_dir(log, keys), None if vault_key is None else str(vault_key))
    except VaultRefused as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"{error.filename or log} cannot be read: {error.strerror}.", 2)


def _record(log: Path, index: int) -> dict[str, JsonValue]:
    try:
        record = next(read_records(log, index), None)
    except NoLog as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"{error.filename or log} cannot be read: {error.strerror}.", 2)
    if record is None or record.get("sequence") != index:
        fail(f"the log at {log} has no record {index}.", 2)
    return record
