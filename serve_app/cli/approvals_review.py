"""`gatehouse approvals review`: what the largest model says of a call that waits. Advice, never a vote."""

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from deployments.gate.display import escaped
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
    typer.echo(f"review of {found['id']} by {escaped(found['model'])} ({found['effort']}). {found['note']}")
    typer.echo(_block(found["summary"]))
    for concern in found["concerns"]:
        typer.echo(f"  - {_line(concern)}")
    plan: dict[str, Any] | None = found["plan"]
    if plan is None:
        typer.echo("It drafts no way back.")
        return
    typer.echo("Draft of a way back; read it before you record it with `gatehouse approvals plan`:")
    for place, step in enumerate(plan["steps"], start=1):
        typer.echo(f"  {place}. {_line(step)}")
    typer.echo(f"  verify: {_line(plan['verify'])}")


def _block(text: str) -> str:
    return "\n".join(f"  {line}" for line in escaped(text).splitlines())


def _line(text: str) -> str:
    return escaped(text).replace("\n", "\\n")


def register(app: typer.Typer) -> None:
    """Add the command to the `approvals` app."""
    app.command("review")(review)
