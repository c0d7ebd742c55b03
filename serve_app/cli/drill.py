"""`gatehouse drill`: the runbook's incidents, tried on a running server."""

import json
from typing import Annotated

import httpx
import typer

from serve_app.cli.client import fail
from serve_app.config import client_environment
from serve_app.drills import inc04

app = typer.Typer(help="Try the runbook's incidents on a running server.", no_args_is_help=True)


@app.callback()
def drill() -> None:
    """Try the runbook's incidents on a running server."""


@app.command("inc-04")
def bypass(
    approver_role: Annotated[
        list[str] | None, typer.Option(help="A role that the policy asks of approvers; repeat for several.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Try every way around the gate: each must be refused, freeze the key behind it, be told and be on record.

    Needs the operator's key. Nothing is executed; the keys that are made for it are revoked. Exit status: 0 every
    expectation held, 1 one did not, 2 the drill could not be carried out.
    """
    environment = client_environment(None)
    if environment.key is None:
        fail(f"no key: set GATEHOUSE_KEY, or start the server once so that {environment.key_file} exists.", 2)
    with httpx.Client(base_url=environment.url, timeout=30.0) as http:
        try:
            report = inc04.run(http, environment.key, _quiet if as_json else typer.echo, approver_role or ())
        except inc04.DrillRefused as error:
            fail(f"the drill could not be carried out: {error}.", 2)
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        failed = sum(not each.held for each in report.findings)
        word = "every expectation held" if report.ok else f"{failed} of {len(report.findings)} expectations FAILED"
        typer.echo(f"INC-04: {word}. Records: gatehouse audit show, team {report.tenant}.")
    if not report.ok:
        raise typer.Exit(1)


def _quiet(line: str) -> None:
    del line
