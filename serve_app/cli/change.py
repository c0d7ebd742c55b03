"""`gatehouse change`: say in the audit log how a change ended."""

import json
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from serve_app.cli.client import ApiClient

app = typer.Typer(help="Close changes, on the record.", no_args_is_help=True)


class Outcome(StrEnum):
    """How a change ended."""

    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


class RollbackStatus(StrEnum):
    """What became of the way back."""

    NOT_NEEDED = "not_needed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@app.callback()
def change() -> None:
    """Close changes, on the record."""


@app.command()
def close(
    change_id: Annotated[str, typer.Argument(help="The change or ticket.")],
    outcome: Annotated[Outcome, typer.Option(help="How it ended.")],
    rollback: Annotated[RollbackStatus | None, typer.Option(help="What became of the way back.")] = None,
    title: Annotated[str | None, typer.Option(help="A line about it; recorded in clear.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; recorded as a commitment, not in clear.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose change it is; default: the key's own team.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Close a change: nothing more will be done under it. Closing it again the same way changes nothing."""
    body = {
        "outcome": outcome.value,
        "rollback_status": None if rollback is None else rollback.value,
        "title": title,
        "reason": reason,
        "tenant": tenant,
    }
    tell(ApiClient().request("POST", f"/v1/changes/{quote(change_id, safe='/')}/close", body), as_json)


def tell(reply: dict[str, Any], as_json: bool) -> None:
    """Print the receipt of a report."""
    if as_json:
        typer.echo(json.dumps(reply))
        return
    typer.echo(f"{reply['id']}: {reply['event']}, record {reply['index']}, leaf {reply['leaf_hash']}")
