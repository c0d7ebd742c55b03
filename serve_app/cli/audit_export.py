"""`gatehouse audit export`: copy a log's tiles and checkpoints to a directory or a locked bucket. No server, no Ray."""

from pathlib import Path
from typing import Annotated

import typer

from deployments.audit.export import Exporter, open_target
from deployments.audit.notes import BadKey, VerifierKey, parse_verifier_key
from deployments.audit.settings import ExportSettings
from deployments.audit.targets import DirectoryTarget, ExportFailed, ExportRefused
from deployments.clock import SystemClock
from serve_app.cli.offline import fail

_Key = Annotated[str | None, typer.Option("--key", help="The log's verifier key. None: the one that lies with it.")]
_Endpoint = Annotated[str | None, typer.Option("--endpoint-url", help="Of an S3-compatible store.")]
_Region = Annotated[str | None, typer.Option("--region", help="Of the bucket.")]


def register(app: typer.Typer) -> None:
    """Add the command to `gatehouse audit`."""
    app.command("export")(export_log)


def export_log(
    path: Annotated[Path, typer.Argument(help="The log's directory, for example .gatehouse/audit.")],
    dest: Annotated[str, typer.Argument(help="A directory, or s3://BUCKET/PREFIX.")],
    endpoint_url: _Endpoint = None,
    region: _Region = None,
    lock_mode: Annotated[
        str, typer.Option("--lock-mode", help="Object lock of a bucket: COMPLIANCE, GOVERNANCE or none.")
    ] = "COMPLIANCE",
    lock_days: Annotated[int, typer.Option("--lock-days", min=1, max=36_500, help="How long it holds.")] = 365,
    key: _Key = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Offer all tiles again; finds changed ones in the copy.")
    ] = False,
) -> None:
    """Copy what the destination lacks, up to the log's newest checkpoint, which is verified first.

    Exit status: 0 the copy is complete, 1 log and copy contradict each other, 2 it cannot be made now.
    """
    if not path.is_dir():
        fail(f"there is no audit log at {path}.")
    try:
        settings = ExportSettings.model_validate(
            {
                "target": dest,
                "endpoint_url": endpoint_url,
                "region": region,
                "lock_mode": lock_mode,
                "lock_days": lock_days,
            }
        )
    except ValueError:
        fail("--lock-mode is COMPLIANCE, GOVERNANCE or none, and the destination is not empty.")
    clock = SystemClock()
    try:
        target = open_target(settings, clock)
        size = Exporter(target, clock).run_once(DirectoryTarget(path), parse_key(key), everything)
    except ExportRefused as error:
        fail(f"{error}.", 1)
    except ExportFailed as error:
        fail(f"{error}.")
    typer.echo(f"{target.name} holds the {size} records of the log's newest checkpoint.")


def parse_key(text: str | None) -> VerifierKey | None:
    """The key that was given, or None; ends the process for what is no key."""
    try:
        return None if text is None else parse_verifier_key(text)
    except BadKey as error:
        fail(f"--key: {error}.")
