"""`gatehouse audit evidence`: every record of a change with its proof and a report; checking one. No server, no Ray."""

from pathlib import Path
from typing import Annotated

import typer

from deployments.audit.evidence import BadEvidence, NoSuchChange, check, collect, write
from deployments.audit.export import Exporter, open_target
from deployments.audit.s3 import SCHEME
from deployments.audit.settings import ExportSettings
from deployments.audit.targets import DirectoryTarget, ExportFailed, ExportRefused, Files, Target
from deployments.clock import SystemClock
from serve_app.cli.audit_export import parse_key
from serve_app.cli.offline import fail

_MAX_ID_CHARS = 1_024


def register(app: typer.Typer) -> None:
    """Add the command to `gatehouse audit`."""
    app.command("evidence")(evidence)


def evidence(
    path: Annotated[str | None, typer.Argument(help="A log's directory, or an export: a directory or s3://...")] = None,
    change_id: Annotated[str | None, typer.Option("--change-id", help="The change, for example CHG-123.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A new directory for the package.")] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Only this tenant's records, and the system's.")
    ] = None,
    checked: Annotated[
        Path | None,
        typer.Option("--check", help="Verify this package instead; with PATH also that no record was left out."),
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="The log's verifier key, from somewhere else.")] = None,
    export: Annotated[
        str | None, typer.Option("--export", help="A copy of the log that must agree with it: directory or s3://...")
    ] = None,
    endpoint_url: Annotated[str | None, typer.Option("--endpoint-url", help="Of an S3-compatible store.")] = None,
    region: Annotated[str | None, typer.Option("--region", help="Of the bucket.")] = None,
) -> None:
    """Collect every record of a change with proofs and a readable report, or verify such a package.

    Exit status: 0 done, 1 the evidence is broken, 2 there is no such change, or nothing to work on.
    """
    parse_key(key)
    try:
        log = None if path is None else _open(path, endpoint_url, region)
        if log is not None and export is not None:
            Exporter(_open(export, endpoint_url, region), SystemClock()).compare(log, parse_key(key))
        if checked is not None:
            _check(checked, key, log)
        else:
            _make(log, change_id, out, tenant, key)
    except (BadEvidence, ExportRefused) as error:
        fail(f"{error}.", 1)
    except (NoSuchChange, ExportFailed) as error:
        fail(f"{error}.")
    except OSError as error:
        fail(f"{error.filename or out or checked}: {error.strerror or error}.")


def _open(path: str, endpoint_url: str | None, region: str | None) -> Target:
    if path.startswith(SCHEME):
        return open_target(ExportSettings(target=path, endpoint_url=endpoint_url, region=region), SystemClock())
    if not Path(path).is_dir():
        fail(f"there is no audit log at {path}.")
    return DirectoryTarget(Path(path))


def _make(log: Files | None, change_id: str | None, out: Path | None, tenant: str | None, key: str | None) -> None:
    if log is None or not change_id or out is None:
        fail("name the log, --change-id and --out; or --check and a package.")
    if len(change_id) > _MAX_ID_CHARS or not change_id.isprintable():
        fail("--change-id is not one that a record can have.")
    package = collect(log, change_id, SystemClock().now_ms(), tenant, key)
    write(package, out)
    pinned = "" if key is not None else " Hand over the log's key by another way than the package."
    typer.echo(f"{out} proves {len(package.records)} records of {change_id}; read {out / 'report.html'}.{pinned}")


def _check(directory: Path, key: str | None, log: Files | None) -> None:
    if not directory.is_dir():
        fail(f"there is no evidence package at {directory}.")
    package = check(directory, key, log)
    complete = "none of the change's records is missing" if log is not None else "completeness was not checked"
    typer.echo(f"All {len(package.records)} records of {package.change_id} are in the log; {complete}.")
    if key is None:
        typer.echo(
            f"The log's key came with the package, so this shows only that the package agrees with itself. Compare it "
            f"with one from elsewhere, or give --key: {package.keys[0]}"
        )
