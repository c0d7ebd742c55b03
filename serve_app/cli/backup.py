"""`gatehouse backup`, `restore` and `drill restore`. They need the files and the database, and no server."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from deployments.clock import SystemClock
from serve_app.backups import age
from serve_app.backups.checks import Check
from serve_app.backups.logcopy import failures, verified
from serve_app.backups.manifest import AUDIT_DIR, BackupError
from serve_app.backups.restore import opened
from serve_app.backups.restore import restore as put_back
from serve_app.backups.source import source_of
from serve_app.backups.take import take
from serve_app.cli.db import DEFAULT_CONFIG, Config
from serve_app.cli.offline import fail, putting_away
from serve_app.config import ConfigError, ServeFile, environment, find, load_serve_file
from serve_app.drills import restore as drills

app = typer.Typer(help="Copy everything that a restore needs, while Gatehouse runs.")
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
_Digest = Annotated[
    str | None, typer.Option(help="The SHA-256 of the manifest, as `gatehouse backup` printed it: nothing else passes.")
]
_Identity = Annotated[Path | None, typer.Option(help="The key file that opens encrypted secrets.")]


@app.callback(invoke_without_command=True)
@putting_away()
def backup(
    context: typer.Context,
    to: Annotated[
        Path | None, typer.Option(help="A directory, or a file that ends in .tar; it must not exist.")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    with_secrets: Annotated[
        bool, typer.Option("--with-secrets", help="The pepper, the operator's key, and the keys of gate and log, too.")
    ] = False,
    recipient: Annotated[
        list[str] | None,
        typer.Option(help="An age public key (age1...) to encrypt the secrets to; repeat for several."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Copy state store, audit log, policies, prompts and snapshots; with --with-secrets the keys. Gatehouse may run.

    Exit status: 0 a backup whose log verifies, 1 a backup of a log that does not, 2 there is no backup.
    """
    if context.invoked_subcommand is not None:
        return
    if to is None:
        fail("say where the backup goes: --to DIR or --to FILE.tar.")
    if recipient and not with_secrets:
        fail("--recipient is for secrets: say --with-secrets, too.")
    if with_secrets and not recipient and not as_json:
        typer.echo("The secrets are not encrypted (no --recipient): their files have mode 0600.", err=True)
    try:
        recipients = [age.parse_recipient(each) for each in recipient or ()]
        taken = take(
            source_of(_file(config)),
            to,
            SystemClock().now_ms(),
            environment(),
            with_secrets=with_secrets,
            recipients=recipients,
            say=_quiet if as_json else typer.echo,
        )
    except (BackupError, ConfigError) as error:
        fail(str(error))
    except age.AgeError as error:
        fail(f"{error}.")
    except OSError as error:
        fail(f"the backup could not be written: {error}.")
    log = taken.manifest.log
    if as_json:
        said = taken.manifest.model_dump(mode="json", exclude={"files"})
        typer.echo(json.dumps({"backup": str(to), "manifest_sha256": taken.digest, **said}))
    else:
        for each in taken.manifest.left_out:
            typer.echo(f"not in it: {each}")
        typer.echo(f"{to}: {len(taken.manifest.files)} files. Keep this elsewhere: manifest {taken.digest}")
    if log.failures:
        typer.echo(f"gatehouse: the log does not verify: {', '.join(log.failures)}.", err=True)
        raise typer.Exit(1)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="The directory or .tar file.")],
    digest: _Digest = None,
    as_json: _Json = False,
) -> None:
    """Check every byte of a backup against its manifest, and the log in it with the log's own verifier.

    Exit status: 0 whole, 1 the log in it does not verify, 2 the backup is damaged.
    """
    try:
        with opened(path, digest) as (directory, manifest, found):
            failed = failures(verified(directory / AUDIT_DIR))
    except BackupError as error:
        fail(str(error))
    except OSError as error:
        fail(f"the backup cannot be read: {error}.")
    if as_json:
        said = manifest.model_dump(mode="json", exclude={"files"})
        typer.echo(json.dumps({"ok": not failed, "manifest_sha256": found, "failed": failed, **said}))
    else:
        rows = sum(sum(store.counts.values()) for store in manifest.stores)
        typer.echo(
            f"{len(manifest.files)} files, {rows} rows, {manifest.log.records} records, secrets: {manifest.secrets}; "
            f"manifest {found}"
        )
    if failed:
        typer.echo(f"gatehouse: the log does not verify: {', '.join(failed)}.", err=True)
        raise typer.Exit(1)


@app.command()
def key(out: Annotated[Path, typer.Argument(help="Where the private key goes; it must not exist.")]) -> None:
    """Make a key that secrets can be encrypted to, and print its public half. `age-keygen` makes such keys, too."""
    made = X25519PrivateKey.generate()
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        fail(f"{out} cannot be made: {error.strerror}.")
    public = age.recipient_text(made.public_key())
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"# public key: {public}\n{age.identity_text(made)}\n")
    typer.echo(public)


@putting_away()
def restore(
    source: Annotated[Path, typer.Option("--from", help="The backup: a directory or a .tar file.")],
    into: Annotated[Path, typer.Option(help="The state directory to make; it must not exist or be empty.")],
    database: Annotated[
        str | None, typer.Option(help="The URL of an empty database, for a backup of PostgreSQL.")
    ] = None,
    identity: _Identity = None,
    digest: _Digest = None,
    files_into: Annotated[
        Path | None,
        typer.Option(help="Where the files go that the configuration names; default: where it names them."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Restore a backup into a new state directory, then check it: rows, revisions, keys, log. Overwrites nothing.

    Exit status: 0 every check held, 1 one did not, 2 nothing was restored.
    """
    try:
        outcome = put_back(
            source,
            into,
            environment(),
            database=database,
            identity=_identity(identity),
            digest=digest,
            files_into=files_into,
            say=_quiet if as_json else typer.echo,
        )
    except BackupError as error:
        fail(str(error))
    except OSError as error:
        fail(f"the backup could not be restored: {error}.")
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "ok": outcome.ok,
                    "state": str(outcome.state),
                    "manifest_sha256": outcome.digest,
                    "checks": [_plain(each) for each in outcome.checks],
                    "newer": outcome.newer,
                }
            )
        )
    else:
        _show(outcome.checks)
        if outcome.newer:
            typer.echo("The log has these records from while the stores were copied; see whether the stores have them:")
            for each in outcome.newer:
                typer.echo(f"  {each}")
        typer.echo(
            f"{into}: restored" + ("." if outcome.ok else ", but look at what FAILED before you start Gatehouse.")
        )
    if not outcome.ok:
        raise typer.Exit(1)


@putting_away()
def drill(
    config: Config = DEFAULT_CONFIG,
    scratch: Annotated[
        Path | None, typer.Option(help="Where there is room for two copies; default: the system's temporary directory.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Back up the running system, restore it beside itself, check it, delete it again. For once a month.

    Exit status: 0 every expectation held, 1 one did not, 2 the drill could not be carried out.
    """
    try:
        report = drills.run(source_of(_file(config)), scratch, environment(), SystemClock())
    except (BackupError, ConfigError) as error:
        fail(f"the drill could not be carried out: {error}")
    except OSError as error:
        fail(f"the drill could not be carried out: {error}.")
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        _show(report.checks)
        for name, took_s in report.seconds.items():
            typer.echo(f"{name}: {took_s:.1f} s")
        word = "every expectation held" if report.ok else "an expectation FAILED"
        typer.echo(f"restore: {word}; {report.size_bytes / 2**20:.1f} MiB, {report.records} records.")
    if not report.ok:
        raise typer.Exit(1)


def _identity(path: Path | None) -> X25519PrivateKey | None:
    if path is None:
        return None
    try:
        return age.parse_identity(path.read_text(encoding="ascii"))
    except (age.AgeError, UnicodeDecodeError):
        raise BackupError(f"{path} holds no age key.") from None


def _file(config: str) -> ServeFile:
    return load_serve_file(find(config))


def _show(checks: "tuple[Check, ...]") -> None:
    for each in checks:
        word = {True: "ok", False: "FAILED", None: "not tried"}[each.held]
        typer.echo(f"{word:<9} {each.what}" + (f": {each.seen}" if each.seen else ""))


def _plain(check: Check) -> dict[str, object]:
    return {"what": check.what, "held": check.held, "seen": check.seen}


def _quiet(line: str) -> None:
    del line
