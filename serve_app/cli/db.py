"""`gatehouse db`: the revisions of the state store's tables. Needs the database and no server."""

import json
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer
from sqlalchemy.exc import SQLAlchemyError

from deployments.migrations.runner import (
    FEATURES,
    SchemaError,
    Standing,
    downgrade,
    migrations,
    standing,
    upgrade,
)
from serve_app.cli.offline import fail
from serve_app.cli.tables import show_rows
from serve_app.config import AppConfig, ConfigError, find, load_serve_file
from serve_app.stores import store_url

app = typer.Typer(help="The revisions of the state store's tables.", no_args_is_help=True)
Config = Annotated[str, typer.Option(help="A Serve config file; it says where the store is.")]
DEFAULT_CONFIG = "configs/serve.local.yaml"
_T = TypeVar("_T")


@app.command()
def status(
    config: Config = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Show where every feature's tables are. Exit status: 0 this version works with them, 1 it does not."""
    loaded = configured(config)
    found = [_asked(lambda each=each: standing(store_url(loaded, each), migrations(each))) for each in FEATURES]
    if as_json:
        typer.echo(json.dumps([_plain(each) for each in found]))
    else:
        show_rows(
            ("feature", "revision", "of this version", "state"),
            [(each.feature, each.present or "-", each.head, _word(each)) for each in found],
        )
    if any(each.newer and not each.usable for each in found):
        raise typer.Exit(1)


@app.command("upgrade")
def up(config: Config = DEFAULT_CONFIG) -> None:
    """Bring all tables to this version's revisions, as each start does. What fails leaves its tables as they were."""
    loaded = configured(config)
    for feature in FEATURES:
        applied = _asked(lambda each=feature: upgrade(store_url(loaded, each), migrations(each)))
        typer.echo(f"{feature}: {', '.join(applied) or 'nothing to do'}")


@app.command("downgrade")
def down(
    feature: Annotated[str, typer.Argument(help=f"One of {', '.join(FEATURES)}.")],
    to: Annotated[str, typer.Option(help="The revision to go back to; `base` for none, which deletes every row.")],
    config: Config = DEFAULT_CONFIG,
    delete_all_rows: Annotated[bool, typer.Option("--delete-all-rows", help="Needed for `--to base`.")] = False,
) -> None:
    """Take revisions of one feature back, the newest first. Stop Gatehouse and make a backup before.

    What a revision added is lost with it; everything else stays.
    """
    if feature not in FEATURES:
        fail(f"there is no feature {feature}; there are {', '.join(FEATURES)}.")
    if to == "base" and not delete_all_rows:
        fail(f"before its first revision {feature} has no tables: all rows would be deleted. Say --delete-all-rows.")
    url, chain = store_url(configured(config), feature), migrations(feature)
    gone = _asked(lambda: downgrade(url, chain, None if to == "base" else to))
    typer.echo(f"{feature}: {', '.join(f'{each} taken back' for each in gone) or 'nothing to do'}")


def configured(config: str) -> AppConfig:
    """The configuration of a Serve config file; ends the process when it cannot be used."""
    try:
        return load_serve_file(find(config)).app
    except ConfigError as error:
        fail(str(error))


def _asked(ask: Callable[[], _T]) -> _T:
    try:
        return ask()
    except SchemaError as error:
        fail(str(error), 1)
    except (SQLAlchemyError, OSError) as error:
        fail(f"the state store does not answer ({type(error).__name__}).")


def _word(found: Standing) -> str:
    if found.newer:
        return "of a later version, which this one works with" if found.usable else "of a later version: REFUSED"
    if found.behind:
        return f"{len(found.behind)} to apply at the next start"
    return "up to date"


def _plain(found: Standing) -> dict[str, object]:
    return {
        "feature": found.feature,
        "present": found.present,
        "head": found.head,
        "behind": list(found.behind),
        "newer": found.newer,
        "usable": found.usable,
    }
