"""`gatehouse route`: the router's decision for prompts in a file, without a server."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, BinaryIO, NoReturn, cast

import typer

from deployments.difficulty.reading import read_chat, read_completion
from deployments.ports import JsonValue, Risk, RouteRequest, Tier
from router.policy import Policy, default_policy
from router.route import fallback, route
from router.snapshot import Snapshot, SnapshotError
from router.types import StateView
from serve_app.routing.coldstart import cold_start, read_snapshot

app = typer.Typer(no_args_is_help=True, help="Ask the difficulty router.")

_RISKS = {risk.value: risk for risk in Risk}


@app.callback()
def _route() -> None:
    """Ask the difficulty router."""


@app.command()
def score(
    file: Annotated[Path | None, typer.Argument(help="JSONL file; standard input when absent or '-'.")] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="JSON lines in, JSON lines out (the only format).")] = True,
    base_model: Annotated[str, typer.Option(help="Name to print for the base tier.")] = "gpt-oss-20b",
    strong_model: Annotated[str, typer.Option(help="Name to print for the strong tier.")] = "gpt-oss-120b",
    snapshot: Annotated[
        Path | None, typer.Option(help="Trained snapshot that gives the difficulty; the committed one when absent.")
    ] = None,
) -> None:
    """Difficulty, model and effort for each line, in order; one row out per row in.

    A line is {"id", "prompt"} or {"id", "messages", ...}, both with optional "risk" (R0..R3) and "tools". A line that
    cannot be read yields a row with "error" and the rest goes on.
    """
    models = {Tier.BASE: base_model, Tier.STRONG: strong_model}
    policy = default_policy()
    learned = cold_start() if snapshot is None else _snapshot(snapshot)
    for row in _rows(file):
        typer.echo(json.dumps(_scored(row, policy, models, learned)))


def _snapshot(file: Path) -> Snapshot:
    try:
        return read_snapshot(file)
    except OSError as error:
        typer.echo(f"gatehouse: cannot read {file}: {error.strerror}.", err=True)
    except SnapshotError as error:
        typer.echo(f"gatehouse: {file} cannot be used: {error}.", err=True)
    raise typer.Exit(1)


def _rows(file: Path | None) -> Iterator[bytes]:
    if file is None or str(file) == "-":
        yield from _lines(sys.stdin.buffer)
        return
    try:
        with file.open("rb") as source:
            yield from _lines(source)
    except OSError as error:
        typer.echo(f"gatehouse: cannot read {file}: {error.strerror}.", err=True)
        raise typer.Exit(1) from error


def _lines(source: BinaryIO) -> Iterator[bytes]:
    return (line for line in source if line.strip())


def _scored(line: bytes, policy: Policy, models: Mapping[Tier, str], learned: Snapshot) -> dict[str, JsonValue]:
    try:
        row: object = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return {"id": None, "error": "not valid JSON"}
    if not isinstance(row, dict):
        return {"id": None, "error": "not a JSON object"}
    document = cast("dict[str, JsonValue]", row)
    row_id = document.get("id")
    request = _request(document)
    if isinstance(request, str):
        return {"id": row_id, "error": request}
    try:
        decision = route(request, StateView(), policy, learned)
    except Exception:  # what the server does too: the traffic goes on, and the reason says what happened
        decision = fallback(request, None, policy.digest)
    return {
        "id": row_id,
        "difficulty": decision.difficulty,
        "model": models[decision.tier],
        "effort": decision.effort.value,
        "reason": decision.reason,
    }


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and Infinity are not JSON, and must not come back in an id


def _request(document: Mapping[str, JsonValue]) -> RouteRequest | str:
    """The request in a row, or what is wrong with the row."""
    if "messages" in document:
        if not isinstance(document["messages"], list):
            return "'messages' is not a list"
        request = read_chat(document)
    elif isinstance(document.get("prompt"), str):
        request = replace(read_completion(document), offered_tools=read_chat(document).offered_tools)
    else:
        return "neither 'prompt' (text) nor 'messages' (list)"
    risk = document.get("risk")
    if risk is None:
        return request
    if not isinstance(risk, str) or risk not in _RISKS:
        return f"'risk' is not one of {', '.join(_RISKS)}"
    return replace(request, trusted_risk=_RISKS[risk])
