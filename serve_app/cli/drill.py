"""`gatehouse drill`: the runbook's incidents, tried on a running server."""

import json
from collections.abc import Callable
from typing import Annotated

import httpx2
import typer

from serve_app.cli.client import fail
from serve_app.cli.offline import putting_away
from serve_app.config import client_environment
from serve_app.drills import inc01, inc02, inc03, inc04
from serve_app.drills.acting import DrillRefused, DrillReport
from serve_app.drills.conduct import Wishes

app = typer.Typer(help="Try the runbook's incidents on a running server.", no_args_is_help=True)

_Tell = Callable[[str], object]
_Model = Annotated[str | None, typer.Option(help="The model that fails; default: the drill's choice.")]
_Prometheus = Annotated[
    str | None,
    typer.Option(
        help="The URL of a Prometheus that scrapes this Gatehouse and has its rules: waits for the alert in earnest. "
        "Without one, promtool evaluates the rules over what the drill records, in time lapse."
    ),
]
_Lapse = Annotated[
    int | None, typer.Option(min=1, max=600, help="Time lapse: seconds that pass for each one recorded.")
]
_Wait = Annotated[
    float | None, typer.Option(min=1, max=7200, help="For how long, in seconds, the failure is kept up at most.")
]
_Production = Annotated[
    bool, typer.Option("--production", help="It is meant to happen where people depend on it. Needs --change-id.")
]
_Change = Annotated[
    str | None, typer.Option("--change-id", help="The change that allows it; default: one of the drill's own.")
]
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.callback()
def drill() -> None:
    """Try the runbook's incidents on a running server."""


@app.command("inc-01")
def latency(
    model: _Model = None,
    prometheus: _Prometheus = None,
    lapse: _Lapse = None,
    wait: _Wait = None,
    production: _Production = False,
    change_id: _Change = None,
    as_json: _Json = False,
) -> None:
    """Stop an engine's processes for seconds at a time: answers begin late, and the alert must notice.

    Runs where the engine runs, under its account, with the operator's key. Exit status: 0 every expectation held, 1
    one did not, 2 the drill could not be carried out.
    """
    wishes = Wishes(model, prometheus, lapse or 5, wait or 900.0, production, change_id)
    _conduct(lambda http, key, tell: inc01.run(http, key, tell, wishes), as_json)


@app.command("inc-02")
def crash(
    model: _Model = None,
    prometheus: _Prometheus = None,
    lapse: _Lapse = None,
    wait: _Wait = None,
    production: _Production = False,
    change_id: _Change = None,
    as_json: _Json = False,
) -> None:
    """Kill an engine's replica in the middle of its streams: each must end with an error, and the alert must notice.

    Runs where the engine runs, under its account, with the operator's key. Exit status: 0 every expectation held, 1
    one did not, 2 the drill could not be carried out.
    """
    wishes = Wishes(model, prometheus, lapse or 5, wait or 900.0, production, change_id)
    _conduct(lambda http, key, tell: inc02.run(http, key, tell, wishes), as_json)


@app.command("inc-03")
def quality(
    model: _Model = None,
    prometheus: _Prometheus = None,
    lapse: _Lapse = None,
    wait: _Wait = None,
    production: _Production = False,
    change_id: _Change = None,
    as_json: _Json = False,
) -> None:
    """Ask through a prompt version that ruins the answers: a verifier says so, and the alert must notice.

    Needs the operator's key. Exit status: 0 every expectation held, 1 one did not, 2 the drill could not be carried
    out.
    """
    wishes = Wishes(model, prometheus, lapse or 60, wait or 1800.0, production, change_id)
    _conduct(lambda http, key, tell: inc03.run(http, key, tell, wishes), as_json)


@app.command("inc-04")
def bypass(
    approver_role: Annotated[
        list[str] | None, typer.Option(help="A role that the policy asks of approvers; repeat for several.")
    ] = None,
    prometheus: _Prometheus = None,
    as_json: _Json = False,
) -> None:
    """Try every way around the gate: each must be refused, freeze the key behind it, be told and be on record.

    Needs the operator's key. Nothing is executed; the keys that are made for it are revoked. Exit status: 0 every
    expectation held, 1 one did not, 2 the drill could not be carried out.
    """
    _conduct(lambda http, key, tell: inc04.run(http, key, tell, approver_role or (), prometheus), as_json)


def _conduct(run: Callable[[httpx2.Client, str, _Tell], DrillReport], as_json: bool) -> None:
    environment = client_environment(None)
    if environment.key is None:
        fail(f"no key: set GATEHOUSE_KEY, or start the server once so that {environment.key_file} exists.", 2)
    with httpx2.Client(base_url=environment.url, timeout=30.0) as http, putting_away():
        try:
            report = run(http, environment.key, _quiet if as_json else typer.echo)
        except DrillRefused as error:
            fail(f"the drill could not be carried out: {str(error).rstrip('.')}.", 2)
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        failed = sum(not each.held for each in report.findings)
        word = "every expectation held" if report.ok else f"{failed} of {len(report.findings)} expectations FAILED"
        typer.echo(
            f"{report.drill.upper()}: {word}. Records: gatehouse audit show, team {report.tenant}, change "
            f"{report.change_id}."
        )
    if not report.ok:
        raise typer.Exit(1)


def _quiet(line: str) -> None:
    del line
