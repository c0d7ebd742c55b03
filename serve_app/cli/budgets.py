"""`gatehouse budgets`: set, list and remove what tenants, teams and keys may use."""

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from deployments.limits import Window
from deployments.tenancy.budgets import money
from serve_app.cli.client import ApiClient
from serve_app.cli.tables import moment, show_rows

app = typer.Typer(help="Set, list and remove budgets of tenants, teams and keys.", no_args_is_help=True)

_PATH = "/v1/admin/budgets"
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command("set")
def set_budget(
    tenant: Annotated[str, typer.Option(help="Whose budget it is.")],
    team: Annotated[str | None, typer.Option(help="One team of the tenant; default: all of it.")] = None,
    key: Annotated[str | None, typer.Option(help="One key of the tenant, by its id.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens a window, input and output.")] = None,
    amount: Annotated[
        str | None, typer.Option("--money", help="Amount a window, in the price table's currency: 250.00")
    ] = None,
    window: Annotated[Window, typer.Option(help="When it is full again; calendars are UTC.")] = Window.MONTH,
    every: Annotated[int | None, typer.Option(min=60, help="Seconds of a fixed window.")] = None,
    alert: Annotated[
        list[int] | None, typer.Option(min=1, help="Percentage to tell at; repeat. Default: 50, 80, 100.")
    ] = None,
    soft: Annotated[bool, typer.Option("--soft", help="Only tell; refuse nothing.")] = False,
    name: Annotated[str | None, typer.Option(help="A name of your own; an existing one is replaced.")] = None,
    as_json: _Json = False,
) -> None:
    """Set a budget; what was used in its window counts at once."""
    body: dict[str, object] = {
        "tenant": tenant,
        "team": team,
        "key_id": key,
        "tokens": tokens,
        "money": amount,
        "window": window.value,
        "every_s": every,
        "hard": not soft,
        **({"alerts": alert} if alert else {}),
    }
    path, method = (_PATH, "POST") if name is None else (f"{_PATH}/{quote(name, safe='')}", "PUT")
    found = ApiClient().request(method, path, body)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        _show([found])


@app.command("list")
def list_budgets(
    tenant: Annotated[str | None, typer.Option(help="Only budgets of this tenant.")] = None, as_json: _Json = False
) -> None:
    """Where budgets stand in their present windows."""
    path = _PATH if tenant is None else f"{_PATH}?tenant={quote(tenant, safe='')}"
    found: list[dict[str, Any]] = ApiClient().request("GET", path)["data"]
    if as_json:
        for each in found:
            typer.echo(json.dumps(each))
    else:
        _show(found)


@app.command()
def remove(budget_id: Annotated[str, typer.Argument(help="The budget, as in `gatehouse budgets list`.")]) -> None:
    """End a budget; what was used stays in the books."""
    gone = ApiClient().request("DELETE", f"{_PATH}/{quote(budget_id, safe='')}")
    typer.echo(f"{gone['id']}: removed")


def _show(found: list[dict[str, Any]]) -> None:
    rows = [
        (
            each["id"],
            each["tenant"],
            each["team"] or each["key_id"] or "-",
            each["window"] if each["every_s"] is None else f"{each['every_s']}s",
            *(_amount(each[field], each) for field in ("amount", "used", "reserved", "remaining")),
            f"{100 * each['used'] // each['amount']}%",
            "hard" if each["hard"] else "soft",
            moment(each["window_ends_ms"]),
        )
        for each in found
    ]
    show_rows(
        ("id", "tenant", "team or key", "window", "amount", "used", "reserved", "left", "spent", "kind", "resets"), rows
    )


def _amount(value: int, budget: dict[str, Any]) -> str:
    currency = budget["currency"]
    return str(value) if currency is None else f"{money(value, currency)} {currency}"
