"""`gatehouse tenants`: which tenants a running server knows, and what holds for each."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from serve_app.cli.client import ApiClient
from serve_app.cli.tables import one_line, show_rows

app = typer.Typer(help="Show tenants and what holds for them; settings change it.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
_PATH = "/v1/admin/tenants"


@app.command("list")
def list_tenants(as_json: _Json = False) -> None:
    """List the tenants that the settings name or that ever had a key."""
    tenants: list[dict[str, Any]] = ApiClient().request("GET", _PATH)["data"]
    if as_json:
        for tenant in tenants:
            typer.echo(json.dumps(tenant))
        return
    rows = [
        (
            tenant["id"],
            "settings" if tenant["configured"] else "defaults",
            str(tenant["keys"]),
            " ".join(team["id"] for team in tenant["teams"]) or "-",
            _models(tenant),
            tenant["gate_profile"],
            _egress(tenant),
            " ".join(_flat(tenant["routing"])) or "-",
            _limits(tenant["limits"]),
        )
        for tenant in tenants
    ]
    columns = ("id", "from", "keys", "teams", "models", "gate", "egress", "routing", "limits")
    show_rows(columns, rows)


@app.command()
def show(tenant: Annotated[str, typer.Argument(help="The tenant's name.")], as_json: _Json = False) -> None:
    """Show what holds for one tenant and its teams."""
    found: dict[str, Any] = ApiClient().request("GET", f"{_PATH}/{quote(tenant, safe='')}")
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, text in _lines(found):
        typer.echo(f"{name:<14} {one_line(text)}")


def _lines(tenant: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "tenant", tenant["id"] if tenant["configured"] else f"{tenant['id']} (not in the settings: defaults)"
    yield "keys", str(tenant["keys"])
    yield "models", _models(tenant)
    yield "gate profile", f"{tenant['gate_profile']} or stricter"
    yield "egress", _egress(tenant)
    yield "routing", " ".join(_flat(tenant["routing"])) or "as the policy has it"
    yield "share", f"weight {tenant['share']['weight']}, {tenant['share']['priority']}"
    yield "limits", _limits(tenant["limits"])
    for name, limits in tenant["models"].items():
        yield f"model {name}", _limits(limits)
    for team in tenant["teams"]:
        yield f"team {team['id']}", f"{team['keys']} keys, models {_models(team)}, limits {_limits(team['limits'])}"


def _models(of: Mapping[str, Any]) -> str:
    allowed: list[str] | None = of["allowed_models"]
    return "all" if allowed is None else " ".join(allowed) or "none"


def _egress(tenant: Mapping[str, Any]) -> str:
    rule: str = tenant["egress"]["rule"]
    return " ".join(tenant["egress"]["models"]) if rule == "listed" else rule


def _limits(limits: Mapping[str, int | None]) -> str:
    """`60 requests/min, 4 at once`."""
    words = (
        ("requests_per_minute", "requests/min"), ("tokens_per_minute", "tokens/min"), ("concurrent_requests", "at once")
    )  # fmt: skip
    return ", ".join(f"{limits[field]} {text}" for field, text in words if limits[field] is not None) or "-"


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """`ceiling.tier=20b` for every setting that is not the default."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")  # pyright: ignore[reportUnknownArgumentType]
        else:
            yield f"{path}{name}={json.dumps(value) if isinstance(value, bool) else value}"
