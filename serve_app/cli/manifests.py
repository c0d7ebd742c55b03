"""`gatehouse manifests`: keeps the overlays of `kuberay/` equal to the Serve config files that they deploy."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, cast

import typer
import yaml

from serve_app.cli.client import fail
from serve_app.cli.manifest_parts import KUBERAY, Tree, alert_rules, generate
from serve_app.cli.manifest_parts import dashboards as dashboard_maps
from serve_app.config import ROOT, ConfigError
from serve_app.observe.dashboards import dashboards

app = typer.Typer(help="What the manifests for Kubernetes take from a Serve config file.", no_args_is_help=True)
RENDERED_HEADER = "# Rendered by `gatehouse manifests render`; do not edit, do not apply: apply the overlay.\n"
_Overlays = Annotated[list[Path] | None, typer.Argument(help="Overlays; by default kuberay/overlays/*.")]


def _chosen(overlays: Sequence[Path] | None) -> Sequence[Path]:
    if not (ROOT / KUBERAY).is_dir():
        fail("kuberay/ is not part of the package; run this in a checkout, or where a bundle with it is installed.", 2)
    own = sorted(path for path in (ROOT / KUBERAY / "overlays").glob("*") if path.is_dir())
    return [path.resolve() for path in overlays or own]


def _wanted(chosen: Sequence[Path]) -> Mapping[Path, str]:
    """What `generate` would write for these overlays. Raises `ConfigError`."""
    monitoring = ROOT / KUBERAY / "base" / "monitoring"
    files = {
        monitoring / "rules.yaml": alert_rules(ROOT / "configs" / "alerts"),
        monitoring / "dashboards.yaml": dashboard_maps(dashboards()),
    }
    files |= {ROOT / "configs" / "dashboards" / name: text for name, text in dashboards().items()}
    for overlay in chosen:
        files |= generate(overlay)
    return files


def _stale(wanted: Mapping[Path, str]) -> Sequence[Path]:
    return [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def _all_of(overlays: Sequence[Path] | None) -> Mapping[Path, str]:
    try:
        return _wanted(_chosen(overlays))
    except ConfigError as error:
        fail(str(error), 2)


def render_fresh(overlay: Path) -> str:
    """`render`, of an overlay whose generated files and committed rendering are up to date; else `ConfigError`."""
    overlay = overlay.resolve()
    if stale := _stale(_wanted([overlay])):
        raise ConfigError(f"{stale[0]} is not what the Serve config file gives: run `gatehouse manifests generate`.")
    text, committed = render(overlay), ROOT / KUBERAY / "rendered" / f"{overlay.name}.yaml"
    own = overlay == ROOT / KUBERAY / "overlays" / overlay.name and committed.is_file()
    if own and _parsed(committed.read_text(encoding="utf-8")) != _parsed(text):
        raise ConfigError(f"{committed} is not what the overlay renders to: run `gatehouse manifests render`.")
    return text


def _parsed(rendered: str) -> Sequence[object]:
    """By content: versions of kustomize differ in how they write the same."""
    return list(yaml.safe_load_all(rendered))


@app.command("generate")
def write(overlays: _Overlays = None) -> None:
    """Write what overlays take from their Serve config files. Run it after each change of either."""
    for path, text in _all_of(overlays).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        typer.echo(str(path))


@app.command()
def check(overlays: _Overlays = None) -> None:
    """Say which generated files are not what `generate` would write; exit status 1 when there are any."""
    stale = _stale(_all_of(overlays))
    for path in stale:
        typer.echo(str(path))
    if stale:
        fail("run `gatehouse manifests generate`.")


def render(overlay: Path) -> str:
    """The overlay as `kubectl apply -k` would send it. Raises `ConfigError` when kubectl is missing or refuses it."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise ConfigError("kubectl is not installed; it brings kustomize along.")
    done = subprocess.run((kubectl, "kustomize", str(overlay)), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise ConfigError(f"{overlay.name}: {done.stderr.strip()}")
    return done.stdout


def images(rendered: str) -> Sequence[str]:
    """Every image that pods made from rendered manifests may run, once each, sorted."""
    found: set[str] = set()

    def look(value: object) -> None:
        if isinstance(value, dict):
            tree = cast(Tree, value)
            for key in ("containers", "initContainers"):
                listed: object = tree.get(key)
                if isinstance(listed, list):
                    found.update(str(each["image"]) for each in cast(list[Tree], listed))
            volume: object = tree.get("image")
            if isinstance(volume, dict):
                found.add(str(cast(Tree, volume)["reference"]))
            for each in tree.values():
                look(each)
        elif isinstance(value, list):
            for each in cast(list[object], value):
                look(each)

    for document in yaml.safe_load_all(rendered):
        look(document)
    return sorted(found)


@app.command("render")
def write_rendered(overlays: _Overlays = None) -> None:
    """Write kuberay/rendered/NAME.yaml: overlays as they would be applied, for review and checks without kubectl."""
    for overlay in _chosen(overlays):
        try:
            text = render(overlay)
        except ConfigError as error:
            fail(str(error), 2)
        path = ROOT / KUBERAY / "rendered" / f"{overlay.name}.yaml"
        path.write_text(RENDERED_HEADER + text, encoding="utf-8")
        typer.echo(str(path))


@app.command("images")
def list_images(overlay: Annotated[Path, typer.Argument(help="An overlay.")]) -> None:
    """Print every image that an overlay needs, one a line: what an air-gapped registry must hold."""
    try:
        for each in images(render(overlay)):
            typer.echo(each)
    except ConfigError as error:
        fail(str(error), 2)
