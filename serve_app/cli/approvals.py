"""`gatehouse approvals`: see what waits for a human, plan it, vote on it, and report what became of it."""

import hashlib
import json
import sys
from typing import Annotated, Any
from urllib.parse import quote

import typer

from deployments.gate.display import escaped
from deployments.ports import ActionOutcome, ApprovalState, RollbackOutcome
from serve_app.cli.client import ApiClient, fail
from serve_app.cli.tables import moment, one_line, show_rows

app = typer.Typer(help="See, plan, approve, reject and report on held tool calls; freeze keys.", no_args_is_help=True)

_Id = Annotated[str, typer.Argument(help="The request's id, as in `gatehouse approvals list`.")]
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
_ChangeId = Annotated[str | None, typer.Option("--change-id", help="The change or ticket that this belongs to.")]
_Verify = Annotated[str | None, typer.Option("--verify", help="How to check that the rollback worked.")]
_Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the vote.")]
_Note = Annotated[str, typer.Option("--note", help="What there is to say; the audit log gets a commitment to it.")]
_Key = Annotated[str, typer.Argument(help="The key's id, as in `gatehouse keys list`.")]
_AsOf = Annotated[str, typer.Argument(help="The id of the request under which the call left.")]


@app.command("list")
def list_approvals(
    state: Annotated[ApprovalState | None, typer.Option(help="Only requests in this state.")] = None,
    as_json: _Json = False,
) -> None:
    """List requests, newest first."""
    path = "/v1/approvals" if state is None else f"/v1/approvals?state={state.value}"
    found: list[dict[str, Any]] = ApiClient().request("GET", path)["data"]
    if as_json:
        for approval in found:
            typer.echo(json.dumps(approval))
        return
    if not found:
        typer.echo("no requests")
        return
    rows = [
        (
            approval["id"],
            approval["state"],
            approval["risk"],
            approval["tool"],
            f"{sum(vote['decision'] == 'approve' for vote in approval['votes'])}/{approval['votes_required']}",
            approval["requester_person"] or approval["requester_key"],
            moment(approval["expires_ms"]),
        )
        for approval in found
    ]
    show_rows(("id", "state", "risk", "tool", "votes", "requester", "expires"), rows)


@app.command()
def show(approval_id: _Id, as_json: _Json = False) -> None:
    """Show everything that a vote would sign."""
    approval = _fetch(ApiClient(), approval_id)
    if as_json:
        typer.echo(json.dumps(approval))
        return
    _show(approval)


@app.command()
def plan(
    approval_id: _Id,
    change_id: Annotated[str, typer.Option("--change-id", help="The change or ticket that this belongs to.")],
    step: Annotated[list[str], typer.Option("--step", help="A step back; repeat for several, in order.")],
    verify: Annotated[str, typer.Option("--verify", help="How to check that the rollback worked.")],
) -> None:
    """Record the change id and the rollback plan."""
    _state(_plan(ApiClient(), approval_id, change_id, step, verify))


@app.command()
def approve(
    approval_id: _Id,
    change_id: _ChangeId = None,
    rollback: Annotated[
        list[str] | None, typer.Option("--rollback", help="A step back; repeat for several, in order.")
    ] = None,
    verify: _Verify = None,
    reason: _Reason = "",
) -> None:
    """Show the call, record its plan if it has none, and vote for it."""
    client = ApiClient()
    approval = _fetch(client, approval_id)
    _show(approval)
    if approval["state"] == ApprovalState.NEEDS_PLAN.value:
        given = _ask_plan(change_id, rollback or [], verify)
        approval = _plan(client, approval_id, *given)
        if approval["state"] == ApprovalState.PENDING.value:
            _show(approval)  # the plan is part of what is signed
    elif change_id or rollback or verify:
        _check_same_plan(approval, change_id, rollback, verify)
    if approval["state"] == ApprovalState.PENDING.value:
        if sys.stdin.isatty():
            typer.confirm("Approve exactly this call?", abort=True)
        approval = _vote(client, approval, "approve", reason)
    elif approval["state"] != ApprovalState.APPROVED.value:
        fail(f"{approval['id']} cannot be approved any more: it is {approval['state']}.")
    _state(approval)


@app.command()
def reject(approval_id: _Id, reason: _Reason = "") -> None:
    """Vote against a call; one reject ends it."""
    client = ApiClient()
    approval = _fetch(client, approval_id)
    _show(approval)
    _state(_vote(client, approval, "reject", reason))


@app.command()
def cancel(approval_id: _Id, reason: _Reason = "") -> None:
    """Withdraw a request."""
    _state(ApiClient().request("POST", f"{_path(approval_id)}/cancel", {"reason": reason}))


@app.command()
def expire(approval_id: _Id, reason: _Reason = "") -> None:
    """End a request now, as if its time were over."""
    _state(ApiClient().request("POST", f"{_path(approval_id)}/expire", {"reason": reason}))


@app.command()
def frozen(as_json: _Json = False) -> None:
    """List keys whose tool calls do not leave, the newest first."""
    found: list[dict[str, Any]] = ApiClient().request("GET", "/v1/gate/frozen")["data"]
    if as_json:
        for each in found:
            typer.echo(json.dumps(each))
        return
    if not found:
        typer.echo("no frozen keys")
        return
    rows = [(each["key_id"], each["tenant"], each["kind"], moment(each["since_ms"]), each["reason"]) for each in found]
    show_rows(("key", "tenant", "kind", "since", "reason"), rows)


@app.command()
def freeze(key_id: _Key, reason: _Reason = "") -> None:
    """Let none of a key's tool calls leave from now on; its votes and permits count no more."""
    found = ApiClient().request("POST", _frozen_path(key_id), {"reason": reason})
    typer.echo(f"{found['key_id']}: frozen since {moment(found['since_ms'])} ({found['kind']})")


@app.command()
def unfreeze(
    key_id: _Key,
    change_id: Annotated[str, typer.Option("--change-id", help="The change or ticket that this belongs to.")],
    reason: _Reason = "",
) -> None:
    """Let a frozen key's tool calls leave again."""
    body = {"change_id": change_id, "reason": reason}
    found = ApiClient().request("POST", f"{_frozen_path(key_id)}/release", body)
    typer.echo(f"{found['key_id']}: released under {escaped(found['change_id'])}")


@app.command()
def report(
    approval_id: _AsOf,
    outcome: Annotated[ActionOutcome, typer.Option("--outcome", help="How the call ended.")],
    exit_code: Annotated[int | None, typer.Option("--exit-code", help="Exit status of the command.")] = None,
    note: _Note = "",
) -> None:
    """Say what became of a call that was released."""
    body = {"outcome": outcome.value, "exit_code": exit_code, "note": note}
    found = ApiClient().request("POST", f"{_path(approval_id)}/report", body)
    typer.echo(f"{found['id']}: {found['outcome']}")


@app.command()
def rollback(
    approval_id: _AsOf,
    outcome: Annotated[RollbackOutcome, typer.Option("--outcome", help="How taking the call back ended.")],
    note: _Note = "",
) -> None:
    """Say how taking a released call back ended, or that it was not needed."""
    found = ApiClient().request("POST", f"{_path(approval_id)}/rollback", {"outcome": outcome.value, "note": note})
    typer.echo(f"{found['id']}: rollback {found['rollback']}")


def _path(approval_id: str) -> str:
    return f"/v1/approvals/{quote(approval_id, safe='')}"


def _frozen_path(key_id: str) -> str:
    return f"/v1/gate/frozen/{quote(key_id, safe='')}"


def _fetch(client: ApiClient, approval_id: str) -> dict[str, Any]:
    return _checked(client.request("GET", _path(approval_id)))


def _checked(approval: dict[str, Any]) -> dict[str, Any]:
    """The request as it was shown; one whose display is not what would be signed ends the command."""
    shown = hashlib.sha256(str(approval["display"]).encode("utf-8")).hexdigest()
    if shown != approval["display_digest"]:
        fail("the server's display does not match its digest; do not vote on this request.")
    return approval


def _plan(client: ApiClient, approval_id: str, change_id: str, steps: list[str], verify: str) -> dict[str, Any]:
    body = {"change_id": change_id, "steps": steps, "verify": verify}
    return _checked(client.request("POST", f"{_path(approval_id)}/plan", body))


def _vote(client: ApiClient, shown: dict[str, Any], decision: str, reason: str) -> dict[str, Any]:
    body = {
        "decision": decision,
        "reason": reason,
        "action_digest": shown["action_digest"],
        "display_digest": shown["display_digest"],
    }
    return client.request("POST", f"{_path(shown['id'])}/votes", body)


def _ask_plan(change_id: str | None, steps: list[str], verify: str | None) -> tuple[str, list[str], str]:
    """The plan from the flags; what is missing is asked for on a terminal, and elsewhere named in one sentence."""
    absent = [
        flag for flag, value in (("--change-id", change_id), ("--rollback", steps), ("--verify", verify)) if not value
    ]
    if absent and not sys.stdin.isatty():
        fail(f"this call needs a change id and a rollback plan first: add {', '.join(absent)}.")
    change_id = change_id or str(typer.prompt("Change id"))
    while not steps:
        line = str(typer.prompt("Rollback step 1"))
        while line.strip():
            steps.append(line)
            line = str(typer.prompt(f"Rollback step {len(steps) + 1} (empty: no more)", default="", show_default=False))
    return change_id, steps, verify or str(typer.prompt("How to verify the rollback"))


def _check_same_plan(
    approval: dict[str, Any], change_id: str | None, steps: list[str] | None, verify: str | None
) -> None:
    """Refuse a plan that differs from the recorded one: there is no edit."""
    recorded: dict[str, Any] = approval["plan"] or {"steps": [], "verify": None}
    differs = (
        (change_id and change_id != approval["change_id"])
        or (steps and steps != recorded["steps"])
        or (verify and verify != recorded["verify"])
    )
    if differs:
        fail(f"{approval['id']} has another plan already, and plans are not edited: leave the plan options out.")


def _show(approval: dict[str, Any]) -> None:
    # The server has escaped it already; a server that has not must not reach the terminal either.
    typer.echo(escaped(approval["display"]), nl=False)
    for vote in approval["votes"]:
        typer.echo(f"vote:       {escaped(vote['person'])}: {vote['decision']} {escaped(vote['reason'])}".rstrip())
    typer.echo(f"display:    {approval['display_digest']}")
    if approval.get("advice"):
        show_advice(approval["advice"])
    _state(approval)


def show_advice(advice: dict[str, Any]) -> None:
    """Every line says what it is: a model must not be able to write a line that looks signed."""
    typer.echo(f"advice:     of {one_line(advice['model'])} at effort {advice['effort']}; no part of what is signed")
    typer.echo(f"advice:     {one_line(advice['summary'])}")
    for concern in advice["concerns"]:
        typer.echo(f"advice:     concern: {one_line(concern)}")
    if advice["plan"]:
        for step in advice["plan"]["steps"]:
            typer.echo(f"advice:     draft of a rollback step: {one_line(step)}")
        typer.echo(f"advice:     draft of the verification: {one_line(advice['plan']['verify'])}")


def _state(approval: dict[str, Any]) -> None:
    typer.echo(f"{approval['id']}: {approval['state']}")
    if approval["missing"]:
        typer.echo(approval["missing"])
