"""`gatehouse incident`: open, update and close incidents in the audit log."""

from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from serve_app.cli.change import tell
from serve_app.cli.client import ApiClient

app = typer.Typer(help="Open, update and close incidents, on the record.", no_args_is_help=True)


class Severity(StrEnum):
    """How bad an incident is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


_Id = Annotated[str, typer.Argument(help="The incident's id, as `gatehouse incident open` said it.")]
_Title = Annotated[str | None, typer.Option("--title", help="A line about it; recorded in clear.")]
_Reason = Annotated[str | None, typer.Option("--reason", help="More about it; recorded as a commitment, not in clear.")]
_Approval = Annotated[str | None, typer.Option("--approval-id", help="The request for approval that it is about.")]
_Call = Annotated[str | None, typer.Option("--gate-call-id", help="The tool call that it is about.")]
_Change = Annotated[str | None, typer.Option("--change-id", help="The change that it is about.")]
_Tenant = Annotated[str | None, typer.Option("--tenant", help="Whose incident it is; default: the key's own team.")]
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command("open")
def open_incident(
    kind: Annotated[str, typer.Option(help="Which sort, such as `outage` or `bypass`.")],
    severity: Annotated[Severity, typer.Option(help="How bad it is.")],
    incident_id: Annotated[
        str | None, typer.Option("--id", help="Its id in your own system; default: a new one.")
    ] = None,
    title: _Title = None,
    reason: _Reason = None,
    approval_id: _Approval = None,
    gate_call_id: _Call = None,
    change_id: _Change = None,
    tenant: _Tenant = None,
    as_json: _Json = False,
) -> None:
    """Open an incident and print its id."""
    body = {
        "incident_id": incident_id,
        "kind": kind,
        "severity": severity.value,
        **_about(title, reason, approval_id, gate_call_id, change_id, tenant),
    }
    tell(ApiClient().request("POST", "/v1/incidents", body), as_json)


@app.command()
def update(
    incident_id: _Id,
    severity: Annotated[Severity | None, typer.Option(help="How bad it is now.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Where it stands, such as `mitigated`.")] = None,
    title: _Title = None,
    reason: _Reason = None,
    approval_id: _Approval = None,
    gate_call_id: _Call = None,
    change_id: _Change = None,
    tenant: _Tenant = None,
    as_json: _Json = False,
) -> None:
    """Say what is new about an incident."""
    body = {
        "severity": None if severity is None else severity.value,
        "outcome": outcome,
        **_about(title, reason, approval_id, gate_call_id, change_id, tenant),
    }
    tell(ApiClient().request("POST", f"{_path(incident_id)}/update", body), as_json)


@app.command()
def close(
    incident_id: _Id,
    outcome: Annotated[str, typer.Option(help="How it ended, such as `resolved` or `false_alarm`.")],
    title: _Title = None,
    reason: _Reason = None,
    approval_id: _Approval = None,
    gate_call_id: _Call = None,
    change_id: _Change = None,
    tenant: _Tenant = None,
    as_json: _Json = False,
) -> None:
    """Close an incident. Closing it again the same way changes nothing."""
    body = {"outcome": outcome, **_about(title, reason, approval_id, gate_call_id, change_id, tenant)}
    tell(ApiClient().request("POST", f"{_path(incident_id)}/close", body), as_json)


def _about(
    title: str | None,
    reason: str | None,
    approval_id: str | None,
    gate_call_id: str | None,
    change_id: str | None,
    tenant: str | None,
) -> dict[str, str | None]:
    return {
        "title": title,
        "reason": reason,
        "approval_id": approval_id,
        "gate_call_id": gate_call_id,
        "change_id": change_id,
        "tenant": tenant,
    }


def _path(incident_id: str) -> str:
    return f"/v1/incidents/{quote(incident_id, safe='/')}"
