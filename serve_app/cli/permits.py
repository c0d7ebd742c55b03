"""`gatehouse permits`: the permits that runners got, and the keys that sign them."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from deployments.gate.permit_keys import make_key
from serve_app.cli.client import ApiClient, fail
from serve_app.cli.tables import one_line
from serve_app.config import client_environment

app = typer.Typer(help="Look at permits, and change the key that signs them.", no_args_is_help=True)

_Id = Annotated[str, typer.Argument(help="The permit's id, as in the audit log.")]
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
_Directory = Annotated[
    Path | None, typer.Option("--dir", help="Where the keys lie; default: `gate-keys` of the server's state directory.")
]


@app.command()
def show(permit_id: _Id, as_json: _Json = False) -> None:
    """Show a permit, without its token."""
    permit: dict[str, Any] = ApiClient().request("GET", f"/v1/permits/{quote(permit_id, safe='')}")
    if as_json:
        typer.echo(json.dumps(permit))
        return
    ends = datetime.fromtimestamp(permit["expires_ms"] / 1000, UTC)
    runner = one_line(permit["audience"]) if permit["audience"] else "nobody yet"
    typer.echo(f"{permit['id']}  {permit['state']}  {permit['risk']}  for {runner}")
    typer.echo(f"expires:    {ends:%Y-%m-%d %H:%M:%SZ}")
    for name, field in (("approval", "approval_id"), ("change", "change_id"), ("takes back", "rollback_of")):
        if permit[field] is not None:
            typer.echo(f"{name + ':':<12}{one_line(permit[field])}")
    if permit["plan"] is not None:
        for place, text in enumerate((*permit["plan"]["steps"], permit["plan"]["verify"])):
            done = "done" if place in permit["taken_back"] else "    "
            typer.echo(f"  {done}  {one_line(text)}")


@app.command("rotate-key")
def rotate_key(directory: _Directory = None) -> None:
    """Make a new signing key beside the old ones: it signs from now on, and all of them are published.

    Runners pin the new one with `gatehouse-run pin`. Remove the old file once no permit that it signed is alive, which
    is after fifteen minutes.
    """
    where = directory or client_environment(None).key_file.parent / "gate-keys"
    if not where.is_dir():
        fail(f"there is no directory {where}: start the server once, or name another with --dir.")
    if where.stat().st_uid != os.geteuid():  # the server could not read it, and would sign nothing any more
        fail(f"{where} belongs to another account: do this as the one that the server runs as.")
    try:
        made = make_key(where)
    except OSError as error:
        fail(f"no key was made in {where}: {error.strerror}.")
    typer.echo(f"made {made}; pin it with `gatehouse-run pin` on every runner, then remove the older files")
