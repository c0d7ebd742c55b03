"""`gatehouse rollout`: ship a revision step by step, watch it, and take it back."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from deployments.errors import InvalidRequest
from deployments.rollout.artefacts import scan, sign
from deployments.rollout.plan import revision_of
from deployments.rollouts import Kind
from serve_app.cli import rollout_eval
from serve_app.cli.client import ApiClient, fail
from serve_app.cli.rollout_eval import count_of
from serve_app.cli.tables import moment, show_rows

app = typer.Typer(help="Ship a revision step by step, watch it, and take it back.", no_args_is_help=True)

_PATH = "/v1/admin/rollouts"
_ARTEFACTS = "/v1/admin/artefacts"
_SHORT = 12  # hex digits of a revision that a table shows
_REGISTER_S = 3_600.0  # the server reads every byte of a checkpoint

_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
_Id = Annotated[str, typer.Argument(help="The rollout, as in `gatehouse rollout status`.")]
_Change = Annotated[str, typer.Option("--change-id", help="The change or ticket that it belongs to.")]
_Reason = Annotated[str, typer.Option(help="Why; recorded in clear.")]
_Kind = Annotated[Kind, typer.Option(help="What it is.")]
_Target = Annotated[str, typer.Option(help="Whose it is: a model, a bundle, a template.")]


@app.command()
def register(
    kind: _Kind,
    target: _Target,
    path: Annotated[Path | None, typer.Option(help="Its file, or the folder of its files.")] = None,
    settings: Annotated[str, typer.Option(help="Its settings, a JSON object.")] = "{}",
    sign_with: Annotated[Path | None, typer.Option(help="An Ed25519 private key in PEM, mode 0600.")] = None,
    change_id: Annotated[str | None, typer.Option(help="The change or ticket that it belongs to, if any.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it and its revision; register nothing.")] = False,
) -> None:
    """Register an artefact: every file with its checksum. Prints the revision."""
    try:
        found = scan(kind, target, path, settings)
        signed = found if sign_with is None else sign(found, sign_with)
    except InvalidRequest as error:
        fail(error.public_message)
    body: dict[str, Any] = {**asdict(signed), "settings": json.loads(signed.settings)}
    del body["change_id"]
    if change_id is not None:
        body["change_id"] = change_id
    if dry_run:
        typer.echo(json.dumps({"revision": revision_of(signed), **body}))
        return
    typer.echo(ApiClient(timeout_s=_REGISTER_S).request("POST", _ARTEFACTS, body)["revision"])


@app.command()
def start(
    rollout_id: Annotated[str, typer.Argument(help="A name of your own.")],
    kind: _Kind,
    target: _Target,
    revision: Annotated[str, typer.Option(help="The new revision, as `gatehouse rollout register` printed it.")],
    previous: Annotated[str, typer.Option(help="The revision that is there, and that it may go back to.")],
    change_id: _Change,
    share: Annotated[list[int] | None, typer.Option(min=1, max=100, help="Percent; repeat. Default: 5 25 100.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Let it see requests before it answers any.")] = False,
    rules: Annotated[Path | None, typer.Option(help="A JSON file with bounds, times and objectives.")] = None,
    eval_cases: Annotated[
        str | None, typer.Option(help="Evaluation cases to ask both revisions first: a number, or all.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Begin a rollout; it goes on by itself, and back when the revision is worse."""
    body: dict[str, object] = {
        "rollout_id": rollout_id,
        "kind": kind.value,
        "target": target,
        "revision": revision,
        "previous_revision": previous,
        "change_id": change_id,
        "shadow": shadow,
        **({"shares": share} if share else {}),
        **({} if eval_cases is None else {"eval_cases": count_of(eval_cases)}),
    }
    if rules is not None:
        try:
            body["rules"] = json.loads(rules.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            fail(f"{rules} is no JSON file.")
    _show([ApiClient().request("POST", _PATH, body)], as_json)


@app.command()
def status(
    rollout_id: Annotated[str | None, typer.Argument(help="One rollout; default: the newest.")] = None,
    as_json: _Json = False,
) -> None:
    """Where rollouts stand."""
    if rollout_id is not None:
        _show([ApiClient().request("GET", _of(rollout_id))], as_json)
    else:
        _show(ApiClient().request("GET", _PATH)["data"], as_json)


@app.command()
def promote(
    rollout_id: _Id,
    to: Annotated[int, typer.Option(min=1, max=100, help="The next share, in percent.")],
    change_id: _Change,
    reason: _Reason = "by hand",
    as_json: _Json = False,
) -> None:
    """Go on to the next share now, whatever the figures say. Ends a hold."""
    _move(rollout_id, "promote", {"to": to, "change_id": change_id, "reason": reason}, as_json)


@app.command()
def hold(rollout_id: _Id, change_id: _Change, reason: _Reason = "by hand", as_json: _Json = False) -> None:
    """Stay at the present share until `resume` or `promote`; it still goes back when it is worse."""
    _move(rollout_id, "hold", {"change_id": change_id, "reason": reason}, as_json)


@app.command()
def resume(rollout_id: _Id, change_id: _Change, reason: _Reason = "by hand", as_json: _Json = False) -> None:
    """End a hold."""
    _move(rollout_id, "resume", {"change_id": change_id, "reason": reason}, as_json)


@app.command()
def rollback(rollout_id: _Id, change_id: _Change, reason: _Reason = "by hand", as_json: _Json = False) -> None:
    """Give all of the traffic back to the revision before, now."""
    _move(rollout_id, "rollback", {"change_id": change_id, "reason": reason}, as_json)


@app.command()
def history(rollout_id: _Id, as_json: _Json = False) -> None:
    """What became of a rollout, step by step; with --json, one step a line, and the figures behind it."""
    found: list[dict[str, Any]] = ApiClient().request("GET", f"{_of(rollout_id)}/history")["data"]
    if as_json:
        for each in found:
            typer.echo(json.dumps(each))
        return
    rows = [
        (
            str(each["number"]),
            moment(each["at_ms"]),
            each["move"],
            "held" if each["held"] else each["state"],
            f"{each['share_percent']}%",
            each["by"],
            each["change_id"],
            "-" if each["audit_index"] is None else str(each["audit_index"]),
            each["reason"],
        )
        for each in found
    ]
    show_rows(("step", "at", "move", "state", "share", "by", "change", "record", "why"), rows)


rollout_eval.register(app)


def _move(rollout_id: str, what: str, body: dict[str, object], as_json: bool) -> None:
    _show([ApiClient().request("POST", f"{_of(rollout_id)}/{what}", body)], as_json)


def _of(rollout_id: str) -> str:
    return f"{_PATH}/{quote(rollout_id, safe='')}"


def _show(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for each in found:
            typer.echo(json.dumps(each))
        return
    rows = [
        (
            each["id"],
            each["kind"],
            each["target"],
            each["revision"][:_SHORT],
            each["previous_revision"][:_SHORT],
            "going back" if each["going_back"] else f"{each['state']} (held)" if each["held"] else each["state"],
            f"{each['share_percent']}%",
            moment(each["since_ms"]),
            each["change_id"],
        )
        for each in found
    ]
    show_rows(("id", "kind", "target", "revision", "previous", "state", "share", "since", "change"), rows)
