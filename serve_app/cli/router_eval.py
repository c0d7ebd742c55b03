"""`gatehouse router eval`: what the router is worth on labelled data, with every baseline and every interval."""

import json
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from router.policy import Policy, PolicyError, default_policy, parse_policy
from router.snapshot import Snapshot, SnapshotError, parse
from serve_app.cli.client import fail
from serve_app.config import environment

if TYPE_CHECKING:
    from serve_app.routing.evaluate import Evaluation

_DATA = Path("../shared/data/router")
_OUT = Path("docs/router-eval")
_FAILED = 1
_UNUSABLE = 2


def register(app: typer.Typer) -> None:
    """Add the command to `gatehouse router`."""
    app.command("eval")(evaluate)


def evaluate(
    data: Annotated[Path, typer.Option(help="Folder with MANIFEST.json and the six label sets.")] = _DATA,
    snapshot: Annotated[Path | None, typer.Option(help="Snapshot to evaluate; the committed one when absent.")] = None,
    policy: Annotated[Path | None, typer.Option(help="Policy file; the built-in one when absent.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for README.md, eval.json and the pictures.")] = _OUT,
    labels: Annotated[list[Path] | None, typer.Option(help="A label file of your own; may be repeated.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A part of the rows, few resamples: not to be quoted.")
    ] = False,
) -> None:
    """Measure, write the report, and leave with 1 when a gate failed, with 2 when something cannot be used.

    Takes about ten minutes on one core, two with --quick. Reads and writes files only; no server, no network.
    """
    _require_learning()
    from serve_app.routing import evaluate as evaluation
    from serve_app.routing.data import DataFolder, DataRefused
    from serve_app.routing.gates import failed

    chosen, seen = _snapshot(snapshot)
    ruled = _policy(policy)
    options = evaluation.Options(quick=quick, labels=tuple(labels or ()), seen=seen)
    try:
        found = evaluation.evaluate(
            DataFolder.open(data),
            ruled,
            chosen,
            environment(),
            options,
            lambda step: typer.echo(f"{step} ...", err=True),
        )
    except DataRefused as error:
        fail(str(error), _UNUSABLE)
    try:
        write(found, out)
    except OSError as error:
        fail(f"cannot write {error.filename or out}: {error.strerror}.", _UNUSABLE)
    for gate in found.gates:
        said = {True: "pass", False: "FAIL", None: "-"}[gate.passed]
        typer.echo(f"{said:4}  {gate.name}: {gate.measured} (bound {gate.bound})")
    typer.echo(f"report: {out / 'README.md'}")
    if failed(found.gates):
        raise typer.Exit(_FAILED)


def write(found: "Evaluation", out: Path) -> None:
    """README.md, eval.json and a picture per set, into `out`."""
    from serve_app.routing.plots import draw
    from serve_app.routing.report import markdown, to_json

    out.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, str] = {}
    for name, study in found.studies.items():
        pictures[name] = f"{''.join(c if c.isalnum() else '-' for c in name)}.svg"
        draw(study, out / pictures[name])
    # A line per part: small, and a change shows where it is.
    parts = (f"{json.dumps(name)}: {_compact(part)}" for name, part in sorted(to_json(found).items()))
    (out / "eval.json").write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")
    (out / "README.md").write_text(markdown(found, pictures), "utf-8")


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _require_learning() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("numpy", "sklearn", "matplotlib") if find_spec(name) is None]
    if missing:
        fail(f"needs {', '.join(missing)}: install the extra `router`.", _UNUSABLE)


def _snapshot(file: Path | None) -> tuple[Snapshot, frozenset[str]]:
    """The snapshot, and the keys of the rows that it was learned from."""
    from serve_app.routing.coldstart import cold_start_bytes
    from serve_app.routing.train import unpacked_keys

    keys = _committed_keys() if file is None else file.with_name(file.name + ".keys")
    try:
        known = unpacked_keys(keys.read_bytes())
        return parse(cold_start_bytes() if file is None else file.read_bytes()), known
    except OSError as error:
        fail(f"cannot read {error.filename}: {error.strerror}. Its .keys say what a snapshot has seen.", _UNUSABLE)
    except (SnapshotError, ValueError) as error:
        fail(f"{file or 'the committed snapshot'}: {error}.", _UNUSABLE)


def _committed_keys() -> Traversable:
    folder = resources.files("serve_app.routing").joinpath("cold_start")
    return next(file for file in folder.iterdir() if file.name.endswith(".keys"))


def _policy(file: Path | None) -> Policy:
    if file is None:
        return default_policy()
    try:
        return parse_policy(yaml.safe_load(file.read_text("utf-8")))
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}.", _UNUSABLE)
    except (PolicyError, yaml.YAMLError, UnicodeDecodeError):
        fail(f"{file} is not a policy: `gatehouse policy` says where.", _UNUSABLE)
