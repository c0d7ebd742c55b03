"""`gatehouse permits`: the permits that runners got, and the keys that sign them."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from deployments.gate.display import escaped
from deployments.gate.permit_keys import make_key
from serve_app.cli.client import ApiClient, fail
from serve_app.config import DEFAULT_STATE_DIR

app = typer.Typer(help="Look at permits, and change the key that signs them.", no_args_is_help=True)

_Id = Annotated[str, typer.Argument(help="The permit's id, as in the audit log.")]
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
_Directory = Annotated[Path, typer.Option("--dir", help="Where the keys lie; beside the state by default.")]


@app.command()
def show(permit_id: _Id, as_json: _Json = False) -> None:
    """Show a permit, without its token."""
    permit: dict[str, Any] = ApiClient().request("GET", f"/v1/permits/{quote(permit_id, safe='')}")
    if as_json:
        typer.echo(json.dumps(permit))
        return
    ends = datetime.fromtimestamp(permit["expires_ms"] / 1000, UTC)
    typer.echo(
        f"{permit['id']}  {permit['state']}  {permit['risk']}  for {escaped(permit['audience'] or 'nobody yet')}"
    )
    typer.echo(f"expires {ends:%Y-%m-%d %H:%M:%S} UTC, approval {permit['approval_id']}, change {permit['change_id']}")
    if permit["plan"] is not None:
        for place, text in enumerate((*permit["plan"]["steps"], permit["plan"]["verify"])):
            done = "done" if place in permit["taken_back"] else "    "
            typer.echo(f"  {done}  {escaped(text)}")


@app.command("rotate-key")
def rotate_key(directory: _Directory = DEFAULT_STATE_DIR / "gate-keys") -> None:
    """Make a new signing key beside the old ones: it signs from now on, and all of them are published.

    Runners pin the new one with `gatehouse-run pin`. Remove the old file once no permit that it signed is alive, which
    is after fifteen minutes.
    """
    if not directory.is_dir():
        fail(f"there is no directory {directory}: start the server once, or name another with --dir.")
    try:
        made = make_key(directory)
    except OSError as error:
        fail(f"no key was made in {directory}: {error.strerror}.")
    typer.echo(f"made {made}; pin it with `gatehouse-run pin` on every runner, then remove the older files")
