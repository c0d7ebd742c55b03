"""`gatehouse keys`: create, list, rotate, expire and revoke virtual keys of a running server."""

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from deployments.ports import GateProfile, Scope
from serve_app.cli.client import ApiClient
from serve_app.cli.tables import moment, show_rows

app = typer.Typer(help="Create, list, rotate, expire and revoke virtual keys.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="The team that the key belongs to.")],
    name: Annotated[str, typer.Option(help="What the key is for.")],
    person: Annotated[str | None, typer.Option(help="The human behind the key; needed to approve.")] = None,
    scope: Annotated[list[Scope] | None, typer.Option(help="Repeat for several; default: inference.")] = None,
    gate_profile: Annotated[GateProfile, typer.Option(help="How strictly tool calls are judged.")] = GateProfile.OPS,
    model: Annotated[list[str] | None, typer.Option(help="Repeat for several; default: all.")] = None,
    ttl: Annotated[int | None, typer.Option(help="Seconds until the key expires; default: never.")] = None,
    hold_s: Annotated[
        int, typer.Option(min=0, max=600, help="Seconds that a tool call waits in the stream for its approval.")
    ] = 0,
    budget_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens the key may use in all, input and output; default: no limit.")
    ] = None,
    role: Annotated[
        list[str] | None, typer.Option(help="What the person may decide about; repeat for several; default: none.")
    ] = None,
    team: Annotated[str | None, typer.Option(help="The part of the tenant that the key belongs to.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Default: no limit.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Input and output; default: no limit.")] = None,
    concurrent_requests: Annotated[
        int | None, typer.Option(min=1, help="Requests open at once; default: the installation's limit.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Create a key and show it once."""
    body: dict[str, object] = {
        "tenant": tenant,
        "name": name,
        "person": person,
        "scopes": [item.value for item in scope or [Scope.INFERENCE]],
        "models": model or None,
        "gate_profile": gate_profile.value,
        "ttl_s": ttl,
        "hold_s": hold_s,
        "budget_tokens": budget_tokens,
        "roles": role or [],
        "team": team,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent_requests": concurrent_requests,
    }
    _show_new(ApiClient().request("POST", "/v1/admin/keys", body), as_json)


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only keys of this team.")] = None, as_json: _Json = False
) -> None:
    """List keys; revoked ones too."""
    path = "/v1/admin/keys" if tenant is None else f"/v1/admin/keys?tenant={quote(tenant, safe='')}"
    keys: list[dict[str, Any]] = ApiClient().request("GET", path)["data"]
    if as_json:
        for key in keys:
            typer.echo(json.dumps(key))
        return
    columns = (
        "id",
        "tenant",
        "team",
        "name",
        "person",
        "scopes",
        "roles",
        "models",
        "gate",
        "hold",
        "budget",
        "per minute",
    )
    rows = [
        (
            key["id"],
            key["tenant"],
            key["team"] or "-",
            key["name"],
            key["person"] or "-",
            " ".join(key["scopes"]),
            " ".join(key["roles"]) or "-",
            "all" if key["models"] is None else " ".join(key["models"]),
            key["gate_profile"],
            f"{key['hold_s']}s" if key["hold_s"] else "-",
            "-" if key["budget_tokens"] is None else str(key["budget_tokens"]),
            _per_minute(key),
            *(moment(key[field]) for field in ("created_ms", "expires_ms", "revoked_ms")),
        )
        for key in keys
    ]
    show_rows((*columns, "created", "expires", "revoked"), rows)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The key's id, as in `gatehouse keys list`.")]) -> None:
    """Revoke a key; it stops working everywhere within 5 s."""
    revoked = ApiClient().request("DELETE", f"/v1/admin/keys/{quote(key_id, safe='')}")
    typer.echo(f"{revoked['id']}: revoked {moment(revoked['revoked_ms'])}")


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="The key's id, as in `gatehouse keys list`.")],
    grace: Annotated[
        int, typer.Option(min=0, max=2_592_000, help="Seconds that the old text is good beside the new one.")
    ] = 0,
    as_json: _Json = False,
) -> None:
    """Give a key a new text and show it once; usage, budget and limits stay with the key."""
    path = f"/v1/admin/keys/{quote(key_id, safe='')}/rotate"
    _show_new(ApiClient().request("POST", path, {"grace_s": grace}), as_json)


@app.command()
def expire(
    key_id: Annotated[str, typer.Argument(help="The key's id, as in `gatehouse keys list`.")],
    in_s: Annotated[int, typer.Option("--in", min=0, help="Seconds until the key ends; 0: now.")] = 0,
    never: Annotated[bool, typer.Option("--never", help="Let it live until it is revoked.")] = False,
) -> None:
    """Set when a key ends; effective everywhere within 5 s."""
    path = f"/v1/admin/keys/{quote(key_id, safe='')}/expire"
    key = ApiClient().request("POST", path, {"in_s": None if never else in_s})
    typer.echo(f"{key['id']}: expires {'never' if key['expires_ms'] is None else moment(key['expires_ms'])}")


def _per_minute(key: dict[str, Any]) -> str:
    """`60 requests, 100000 tokens, 4 at once`."""
    limits = (("requests_per_minute", "requests"), ("tokens_per_minute", "tokens"), ("concurrent_requests", "at once"))
    return ", ".join(f"{key[field]} {words}" for field, words in limits if key[field] is not None) or "-"


def _show_new(key: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(key))
        return
    typer.echo(key["key"])
    typer.echo(f"{key['id']}: shown once, stored only as a hash. Keep it now.", err=True)
