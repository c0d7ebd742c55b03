"""`gatehouse router export` and `worth`: live traffic as rows to learn from, and a snapshot's worth on it."""

import asyncio
import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from deployments.ports import TenantId
from serve_app.cli.client import fail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from router.snapshot import Snapshot
    from serve_app.routing.learned_traffic import Worth
    from serve_app.routing.metrics import Interval
    from serve_app.routing.traffic import Counts, Finished, TrafficRow

STORE: Final = Path(".gatehouse/state/router.db")

Rows = Annotated[Path, typer.Argument(help="JSONL that `router export` wrote.")]
Mixed = Annotated[bool, typer.Option("--mixed", help="Take turns of several tenants together.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `gatehouse router`."""
    app.command("export")(export)
    app.command("worth")(worth)


def export(
    out: Annotated[Path, typer.Argument(help="JSONL to write; what it holds already is kept and brought up to date.")],
    tenant: Annotated[str | None, typer.Option(help="Only the turns of this tenant.")] = None,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="The turns of every tenant.")] = False,
    store: Annotated[Path, typer.Option(help="The router's SQLite file; with --config not needed.")] = STORE,
    config: Annotated[Path | None, typer.Option(help="Serve config file that says where the store is.")] = None,
    audit: Annotated[
        Path | None, typer.Option(help="Audit log: answers that were checked, and those of a cascade.")
    ] = None,
    snapshot: Annotated[
        list[Path] | None, typer.Option(help="A snapshot of your own that decided; may be repeated.")
    ] = None,
    releases: Annotated[Path | None, typer.Option(help="Folder of `router release`: all of its snapshots.")] = None,
) -> None:
    """One row per routed turn: features, tier, its chance, and how the answer was judged. No word of a prompt.

    May run while the server does. Needs the snapshots that decided; the shipped one is known. Exit code 2: there is
    nothing to read.
    """
    from serve_app.routing.data import DataRefused
    from serve_app.routing.traffic import Counts, merged, read_traffic, write_traffic

    if (tenant is None) is not all_tenants:
        fail("say --tenant NAME, or --all-tenants.", 2)
    counts = Counts()
    known = _snapshots(snapshot or [], releases)
    found = _harvested(_store_url(store, config), known, _finished(audit), tenant, counts)
    try:
        before = read_traffic(out) if out.exists() else ()
        if tenant is not None and any(row.tenant != tenant for row in before):
            fail(f"{out} holds turns of another tenant: tenants are mixed only with --all-tenants.", 2)
        rows = merged(before, found)
        write_traffic(rows, out)
    except DataRefused as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror}.", 2)
    typer.echo(json.dumps({**asdict(counts), "in_file": len(rows), "judged_in_file": _judged(rows)}))
    if counts.snapshot_unknown:
        typer.echo("gatehouse: turns of a snapshot that was not given were left out: see --snapshot.", err=True)


def worth(
    snapshot: Annotated[Path, typer.Argument(help="A snapshot that `router train` made from rows of live traffic.")],
    rows: Rows,
    budget: Annotated[float, typer.Option(min=0, max=1, help="Share of the turns that may be given 120b.")] = 0.2,
    mixed: Mixed = False,
    seed: Annotated[int, typer.Option(min=0, help="Of folds and resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of lines.")] = False,
) -> None:
    """What the snapshot and other ways of routing would be worth, from turns that it has not learned from.

    By inverse propensity (SNIPS) and doubly robust, with 95 % intervals. Exit code 1: chance did not cover both
    tiers; 2: cannot be judged.
    """
    needs_extra()
    from router.snapshot import SnapshotError, parse
    from serve_app.routing.data import DataRefused
    from serve_app.routing.learned_traffic import of_one_tenant
    from serve_app.routing.learned_traffic import worth as estimated
    from serve_app.routing.traffic import read_traffic
    from serve_app.routing.train import unpacked_keys

    try:
        known = unpacked_keys(snapshot.with_name(f"{snapshot.name}.keys").read_bytes())
        turns = read_traffic(rows)
        of_one_tenant(turns, mixed=mixed)
        found = estimated(parse(snapshot.read_bytes()), turns, known, budget, seed)
    except OSError as error:
        fail(f"cannot read {error.filename}: {error.strerror}.", 2)
    except (SnapshotError, ValueError) as error:
        fail(f"{snapshot} cannot be used: {error}.", 2)
    except DataRefused as error:
        fail(str(error), 2)
    typer.echo(json.dumps(asdict(found), indent=1) if as_json else lines_of(found))
    if found.refused:
        raise typer.Exit(1)


def needs_extra() -> None:
    """End with one sentence where scikit-learn or numpy is not installed."""
    if find_spec("sklearn") is None or find_spec("numpy") is None:
        fail("training needs scikit-learn and numpy: install the extra `router`. Serving does not.", 2)


def lines_of(found: "Worth") -> str:
    """The figures for people."""
    weak, strong = found.coverage.judged
    lines = [f"{found.turns} judged turns that it was not trained on: {weak} by 20b, {strong} by 120b"]
    lines += [f"REFUSED: {why}" for why in found.refused]
    lines += [
        f"  {each.name:12} right {_figure(each.robust)}, SNIPS {_figure(each.snips)}, 120b {each.strong_share:.1%}"
        for each in found.values
    ]
    lines += [f"  {each.name} over {each.over}: {_figure(each.lead)}" for each in found.leads]
    if found.coverage.clipped:
        lines.append(f"  {found.coverage.clipped:.1%} of the weights were clipped: figures lean towards what was usual")
    return "\n".join(lines)


def _figure(figure: "Interval") -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def _judged(rows: "Sequence[TrafficRow]") -> int:
    return sum(row.outcome is not None for row in rows)


def _harvested(
    url: str,
    snapshots: "Mapping[str, Snapshot]",
    finished: "Mapping[str, Finished]",
    tenant: str | None,
    counts: "Counts",
) -> "list[TrafficRow]":
    from deployments.errors import PartUnavailable
    from serve_app.routing.harvest import harvest

    try:
        return asyncio.run(harvest(url, snapshots, finished, None if tenant is None else TenantId(tenant), counts))
    except PartUnavailable:
        fail("the router's store does not answer, or is none.", 2)


def _finished(log: Path | None) -> "Mapping[str, Finished]":
    from deployments.audit.read import NoLog
    from serve_app.routing.harvest import finished_turns

    if log is None:
        return {}
    try:
        return finished_turns(log)
    except (NoLog, OSError) as error:
        fail(str(error), 2)


def _store_url(store: Path, config: Path | None) -> str:
    from deployments.store import sqlite_url
    from serve_app.config import ConfigError, load_serve_file

    if config is not None:
        try:
            app = load_serve_file(config).app
        except ConfigError as error:
            fail(str(error), 2)
        if app.store_url is not None:
            return app.store_url
        store = app.state_path / "state" / "router.db"
    if not store.is_file():
        fail(f"there is no store at {store}: start the server once, or say --store or --config.", 2)
    return sqlite_url(store)


def _snapshots(files: "Sequence[Path]", releases: Path | None) -> "dict[str, Snapshot]":
    from router.snapshot import SnapshotError
    from serve_app.routing.coldstart import cold_start, read_snapshot

    try:
        known = {snapshot.digest: snapshot for snapshot in (cold_start(), *map(read_snapshot, files))}
        if releases is None:
            return known
        needs_extra()
        from serve_app.routing.releases import Releases

        return known | Releases(releases).snapshots()
    except OSError as error:
        fail(f"cannot read {error.filename}: {error.strerror}.", 2)
    except SnapshotError as error:
        fail(f"a snapshot cannot be used: {error}.", 2)
