"""`gatehouse approvals review`: what the largest model says of a call that waits. Advice, never a vote."""

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from serve_app.cli.approvals import show_advice
from serve_app.cli.client import ApiClient

REVIEW_TIMEOUT_S = 1800.0


def review(
    approval_id: Annotated[str, typer.Argument(help="The request's id, as in `gatehouse approvals list`.")],
    newest: Annotated[bool, typer.Option("--newest", help="Show the newest review; ask for none.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Have a call reviewed by the largest model: what it would do, what could go wrong, and a draft of the way back."""
    method = "GET" if newest else "POST"
    client = ApiClient(timeout_s=REVIEW_TIMEOUT_S)
    found: dict[str, Any] = client.request(method, f"/v1/approvals/{quote(approval_id, safe='')}/review")
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{found['id']}: {found['note']}")
    show_advice(found)
    if found["plan"] is None:
        typer.echo("It drafts no way back.")


def register(app: typer.Typer) -> None:
    """Add the command to the `approvals` app."""
    app.command("review")(review)
