"""`gatehouse router release | rollback | releases`: how far a snapshot of one's own acts, step by step, and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from deployments.clock import SystemClock
from serve_app.cli.client import fail
from serve_app.cli.router_traffic import Mixed, needs_extra
from serve_app.config import operating_person

if TYPE_CHECKING:
    from serve_app.routing.releases import Step

FOLDER: Final = Path(".gatehouse/router")
_STEPS: Final = ("shadow", "slice", "apply")

_Folder = Annotated[Path, typer.Option(help="Folder of the releases.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `gatehouse router`."""
    app.command("release")(release)
    app.command("rollback")(rollback)
    app.command("releases")(releases)


def release(
    snapshot: Annotated[Path, typer.Argument(help="A snapshot that `router train` made, with its .keys beside it.")],
    to: Annotated[str, typer.Option(help="shadow, slice or apply: one after the other.")],
    rows: Annotated[
        Path | None, typer.Option(help="JSONL of `router export`, with turns judged since the step before.")
    ] = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the sessions, for the step `slice`.")] = 0.05,
    budget: Annotated[float, typer.Option(min=0, max=1, help="Share of 120b at which its value is estimated.")] = 0.2,
    folder: _Folder = FOLDER,
    mixed: Mixed = False,
) -> None:
    """Take one step with a snapshot, and print the settings to deploy. A step up needs the gate of the head.

    Exit code 1: the step is refused; 2: the rows or the snapshot cannot be used.
    """
    needs_extra()
    from router.snapshot import SnapshotError
    from serve_app.routing.data import DataRefused
    from serve_app.routing.learned_traffic import of_one_tenant
    from serve_app.routing.releases import ReleaseRefused, Releases
    from serve_app.routing.traffic import read_traffic

    if to not in _STEPS:
        fail(f"--to is one of {', '.join(_STEPS)}.", 2)
    if to != "shadow" and rows is None:
        fail("a step up needs --rows.", 2)
    try:
        turns = () if rows is None else read_traffic(rows)
        of_one_tenant(turns, mixed=mixed)
        keys = snapshot.with_name(f"{snapshot.name}.keys").read_bytes()
        data, now_ms = snapshot.read_bytes(), SystemClock().now_ms()
        step = Releases(folder).release(data, keys, turns, to, share, budget, operating_person(), now_ms)
    except ReleaseRefused as error:
        fail(str(error), 1)
    except OSError as error:
        fail(f"cannot use {error.filename}: {error.strerror}.", 2)
    except (SnapshotError, ValueError) as error:
        fail(f"{snapshot} cannot be used: {error}.", 2)
    except DataRefused as error:
        fail(str(error), 2)
    _show(step, folder)


def rollback(folder: _Folder = FOLDER) -> None:
    """Take back what is in force. Running servers notice within seconds; deploy the printed settings as well.

    Exit code 1: there is nothing to take back.
    """
    needs_extra()
    from serve_app.routing.releases import ReleaseRefused, Releases

    try:
        step = Releases(folder).rollback(operating_person(), SystemClock().now_ms())
    except ReleaseRefused as error:
        fail(str(error), 1)
    except OSError as error:
        fail(f"cannot use {error.filename}: {error.strerror}.", 2)
    _show(step, folder)


def releases(folder: _Folder = FOLDER) -> None:
    """Every step that was taken, one JSON document a line; the last one is in force."""
    needs_extra()
    from serve_app.routing.releases import ReleaseRefused, Releases

    try:
        for step in Releases(folder).steps():
            typer.echo(step.model_dump_json())
    except ReleaseRefused as error:
        fail(str(error), 1)


def _show(step: "Step", folder: Path) -> None:
    from serve_app.routing.releases import SETTINGS

    what = "muted" if step.muted else f"{step.mode} {step.slice:g}" if step.mode == "apply" else step.mode
    typer.echo(f"step {step.number}, {step.step}: {step.digest[:12]} {what}")
    if step.evidence:
        typer.echo(f"evidence: {folder / f'{step.digest}.{step.number}.json'}")
    typer.echo("deploy under `difficulty`:")
    typer.echo((folder / SETTINGS).read_text(encoding="utf-8"), nl=False)
