"""`gatehouse router`: train the difficulty router offline, and judge whether a trained head may act."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli import router_eval, router_labels, router_live, router_release, router_traffic
from serve_app.cli.client import fail
from serve_app.cli.router_traffic import Mixed, needs_extra

if TYPE_CHECKING:
    from serve_app.routing.data import Labelled, Source
    from serve_app.routing.promotion import Promotion
    from serve_app.routing.traffic import TrafficRow
    from serve_app.routing.train import Trained

app = typer.Typer(no_args_is_help=True, help="Train and judge the difficulty router, offline.")
router_eval.register(app)
router_labels.register(app)
router_live.register(app)
router_traffic.register(app)
router_release.register(app)

_KINDS = ("difficulty", "two")


@app.callback()
def _router() -> None:
    """Train and judge the difficulty router, offline; needs the extra `router`."""


@app.command()
def train(
    data: Annotated[
        Path, typer.Argument(help="Folder with a MANIFEST.json, JSONL (.gz) of your own labels, or `router export`.")
    ],
    out: Annotated[Path, typer.Option(help="Snapshot to write; FILE.report.json and FILE.keys go beside it.")],
    heads: Annotated[str, typer.Option(help="'difficulty' (orders turns), or 'two' (P(ok) of both models).")] = "two",
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Set of a folder; several allowed. Default: all that can teach.")
    ] = None,
    title: Annotated[str, typer.Option(help="Name that stands in the snapshot.")] = "router",
    labels: Annotated[
        int | None, typer.Option(min=50, help="Learn from so many rows, drawn by --seed; of an export the oldest.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of draws, folds and learners.")] = 0,
    bits: Annotated[int, typer.Option(min=12, max=20, help="2^bits weights for words; half a megabyte at 18.")] = 18,
    measure: Annotated[bool, typer.Option(help="Figures for the report, out of fold: several times the work.")] = True,
    mixed: Mixed = False,
) -> None:
    """Learn a snapshot from rows {id, prompt, task?, weak_ok, strong_ok}. Same rows and settings give the same bytes.

    An export of live traffic teaches two heads without words; --set, --bits and --no-measure mean nothing there.
    Exit code 2: the labels cannot be used.
    """
    needs_extra()
    from serve_app.routing.data import DataRefused
    from serve_app.routing.train import TooFewLabels
    from serve_app.routing.train import train as learn

    if heads not in _KINDS:
        fail(f"--heads is one of {', '.join(_KINDS)}.", 2)
    try:
        if (turns := _traffic(data, mixed=mixed)) is not None:
            trained = _learned(turns, heads, title, labels, seed)
        else:
            rows, sources = _labels(data, sets)
            trained = learn(_drawn(rows, labels, seed), heads, title, sources, bits, seed, measure=measure)
    except (DataRefused, TooFewLabels) as error:
        fail(str(error), 2)
    report = json.dumps(trained.report, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        out.write_bytes(trained.snapshot)
        _beside(out, ".keys").write_bytes(trained.keys)
        _beside(out, ".report.json").write_text(report, encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror}.")
    typer.echo(f"{out}: {len(trained.snapshot)} bytes, digest {trained.report['digest']}")
    typer.echo(json.dumps({name: trained.report[name] for name in ("rows", "left_out", "out_of_fold")}, indent=1))


@app.command()
def promote(
    snapshot: Annotated[Path, typer.Argument(help="A snapshot that `router train` wrote, with its .keys beside it.")],
    data: Annotated[
        Path, typer.Argument(help="What to judge it by: a folder with a MANIFEST.json, JSONL (.gz), `router export`.")
    ],
    sets: Annotated[list[str] | None, typer.Option("--set", help="Set of a folder; several allowed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of lines.")] = False,
    mixed: Mixed = False,
) -> None:
    """May its heads act? Only where they beat random order, length and task prior on labels they never saw.

    Rows that the snapshot was trained on are left out. Exit code 1: no head may act; 2: cannot be judged.
    """
    needs_extra()
    from router.snapshot import SnapshotError, parse
    from serve_app.routing.data import DataRefused
    from serve_app.routing.train import judged, unpacked_keys

    try:
        parsed = parse(snapshot.read_bytes())
        known = unpacked_keys(_beside(snapshot, ".keys").read_bytes())
        if (turns := _traffic(data, mixed=mixed)) is not None:
            from serve_app.routing.learned_traffic import judged_by_traffic

            outcome = judged_by_traffic(parsed, turns, known, seed)
        else:
            rows, _ = _labels(data, sets)
            outcome = judged(parsed, rows, known, seed)
    except OSError as error:
        fail(f"cannot read {error.filename}: {error.strerror}. Without its .keys nobody knows what it has seen.", 2)
    except (SnapshotError, ValueError) as error:
        fail(f"{snapshot} cannot be used: {error}.", 2)
    except DataRefused as error:
        fail(str(error), 2)
    typer.echo(_document(outcome) if as_json else _lines(outcome))
    if outcome.acts is None:
        raise typer.Exit(1)


@app.command()
def explore(
    data: Annotated[Path, typer.Argument(help="Folder with a MANIFEST.json.")],
) -> None:
    """Which features and recipes order prompts on material they were not made from: two tables, failures included."""
    needs_extra()
    from serve_app.routing.data import DataFolder, DataRefused
    from serve_app.routing.exploring import Exploration, markdown

    try:
        exploration = Exploration.open(DataFolder.open(data))
    except DataRefused as error:
        fail(str(error), 2)
    typer.echo(markdown(exploration.alone(), "feature alone"))
    typer.echo("")
    typer.echo(markdown(exploration.recipes(), "recipe"))


def _traffic(data: Path, *, mixed: bool) -> "tuple[TrafficRow, ...] | None":
    """The rows of an export; None for anything else."""
    from serve_app.routing.learned_traffic import of_one_tenant
    from serve_app.routing.traffic import is_traffic, read_traffic

    if data.is_dir() or not is_traffic(data):
        return None
    rows = read_traffic(data)
    of_one_tenant(rows, mixed=mixed)
    return rows


def _learned(rows: "tuple[TrafficRow, ...]", heads: str, title: str, labels: int | None, seed: int) -> "Trained":
    """A snapshot from live traffic: of its oldest judged turns, so that later ones are left to judge it by."""
    from serve_app.routing.learned_traffic import learn

    if heads != "two":
        fail("live traffic teaches --heads two.", 2)
    # Not by id where times are equal: an id has the turn's draw in it, and a sorted half would hold all that explored.
    judged = sorted((row for row in rows if row.outcome is not None), key=lambda row: (row.at_ms, row.group))
    return learn(judged[:labels], title, seed)


def _labels(data: Path, sets: list[str] | None) -> "tuple[tuple[Labelled, ...], tuple[Source, ...]]":
    from serve_app.routing.data import GSM8K, MMLU, DataFolder, read_own

    if not data.is_dir():
        return read_own(data), ()
    folder = DataFolder.open(data)
    # MT-Bench has 72 rows: enough to look at, too few to learn from.
    chosen = tuple(sets) if sets else tuple(name for name in (MMLU, GSM8K) if name in folder.sources)
    return tuple(row for name in chosen for row in folder.labelled(name)), tuple(
        folder.sources[name] for name in chosen
    )


def _drawn(rows: "tuple[Labelled, ...]", labels: int | None, seed: int) -> "tuple[Labelled, ...]":
    from serve_app.routing.folds import few

    if labels is None or labels >= len(rows):
        return rows
    return tuple(rows[int(place)] for place in few(rows, labels, seed).train)


def _lines(outcome: "Promotion") -> str:
    lines = [f"{outcome.labels} labels that it was not trained on"]
    lines += [
        f"  {name:12} APGR {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
        for name, figure in outcome.rulers.items()
    ]
    for verdict in outcome.verdicts:
        figure = verdict.apgr
        shown = "-" if figure is None else f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
        lines.append(f"  {verdict.name:12} APGR {shown}: {'may act' if verdict.admitted else 'REFUSED'}")
        lines += [f"      {reason}" for reason in verdict.why]
    lines.append("no head may act" if outcome.acts is None else f"{outcome.acts} may act")
    return "\n".join(lines)


def _document(outcome: "Promotion") -> str:
    from dataclasses import asdict

    verdicts = [{**asdict(verdict), "admitted": verdict.admitted} for verdict in outcome.verdicts]
    return json.dumps({**asdict(outcome), "verdicts": verdicts}, indent=1)


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)
