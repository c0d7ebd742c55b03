"""`gatehouse guardrails check`: what the guardrails would find in a text."""

import sys
from collections.abc import Iterable
from typing import Annotated, Final

import typer

from deployments.guardrails.guard import RULES
from deployments.guardrails.injection import attempts
from deployments.guardrails.look import Look
from deployments.guardrails.scan import Scanner, clusters
from deployments.guardrails.values import Action, Detector, Direction, Span
from serve_app.cli.offline import fail

app = typer.Typer(help="Guardrails: personal data, secrets, orders in other people's text.", no_args_is_help=True)
_MOST_BYTES: Final = 64 * 2**20


@app.callback()
def guardrails() -> None:
    """Guardrails."""


@app.command()
def check(
    masked: Annotated[bool, typer.Option("--masked", help="Print the text with everything masked instead.")] = False,
) -> None:
    """Read a text from stdin and say where something is found, and what; never the words.

    Ends with 1 when something was found. Needs no server. Names of people need Presidio and are not looked for.
    """
    data = sys.stdin.buffer.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        fail(f"the text is longer than {_MOST_BYTES} bytes.")
    text = data.decode("utf-8", "replace")
    actions = {Detector.PII: Action.MASK, Detector.SECRETS: Action.MASK}
    look = Look(Scanner(RULES, actions), True, Direction.INPUT)
    if masked:
        typer.echo(look.screen(text).text, nl=False)
        return
    found = [*_lines(text, look.spans(text)), *(f"injection.{kind}" for kind in attempts(text))]
    for line in found:
        typer.echo(line)
    raise typer.Exit(1 if found else 0)


def _lines(text: str, spans: list[Span]) -> Iterable[str]:
    """A line for each finding: `LINE:COLUMN detector.kind (CHARACTERS)`, counted from 1."""
    for group in clusters(spans):
        span = max(group, key=lambda each: each.end - each.start)
        line = text.count("\n", 0, span.start) + 1
        column = span.start - text.rfind("\n", 0, span.start)
        yield f"{line}:{column} {span.detector}.{span.kind} ({span.end - span.start} characters)"
