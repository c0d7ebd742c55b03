"""What goes into a bundle, worked out and refused where it must be, before the first byte is copied or fetched."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import yaml

from deployments.engine.options import EngineSettings
from serve_app.backups.manifest import BackupError, files_below
from serve_app.backups.manifest import entry as sums_of
from serve_app.backups.named import Named, named_files
from serve_app.bundle.layout import (
    ADDED_DIR,
    CONFIGS_DIR,
    FILES_DIR,
    WEIGHTS_DIR,
    Build,
    BundleRefused,
    HeldEntry,
    NamedEntry,
    Place,
    held_revision,
    inside,
)
from serve_app.config import AppConfig, ConfigError, ServeFile, is_embedded

_OPERATOR: Final = Path("kuberay") / "operator" / "values.yaml"
_BY_DIGEST: Final = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_PASSWORD: Final = re.compile(rb"postgresql[+a-z0-9]*://(?:[^\s/@]*:[^\s/@]+@|\S*[?&]password=)")
_TOLD: Final = "holds a password, and a bundle is read by whoever carries it: keep the password in PGPASSFILE."
_NO_DIGEST: Final = "@sha256:" + 64 * "0"


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint: whose it is, where it lies here, and its folder in the bundle."""

    model: str
    place: Place
    source: Path
    folder: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay as it would be applied, and the images that its pods may run."""

    name: str
    rendered: str
    images: Sequence[str]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle is made of. `files`: other plain files, path in the bundle -> where it lies here."""

    root: Path
    app: AppConfig
    build: Build
    config: str
    weights: Sequence[Weights]
    named: Sequence[NamedEntry]
    overlays: Sequence[Overlay]
    images: Sequence[str]
    added: Sequence[str]
    files: Mapping[str, Path]


def contents(
    root: Path,
    file: ServeFile,
    *,
    weights: Mapping[str, Path],
    overlays: Sequence[Overlay] = (),
    added: Sequence[Path] = (),
) -> Contents:
    """The contents of a bundle for a Serve config file, from the checkout `root`. `BundleRefused` says what is lacking.

    `weights`: model, or `MODEL:candidate`, -> where its checkpoint lies here, when its `source` is a place on the other
    machine.
    """
    if not (root / "pyproject.toml").is_file() or not (root / "requirements").is_dir():
        raise BundleRefused("a bundle is made in a checkout: an installed package has neither locks nor manifests.")
    _no_password(file.app)
    files = {f"{CONFIGS_DIR}/{name}": path for name, path in _below(root / CONFIGS_DIR).items()}
    config = _config(root, file, files)
    named = _named(root, file.app, files)
    images = set[str]()
    if overlays:
        files |= {f"kuberay/{name}": path for name, path in _below(root / "kuberay").items()}
        images.update(image for overlay in overlays for image in overlay.images)
        images.add(_operator_image(root / _OPERATOR))
    for image in sorted(images):
        if _BY_DIGEST.fullmatch(image) is None or image.endswith(_NO_DIGEST):
            raise BundleRefused(
                f"the image {image} is not named by the digest of a real one: fill in kuberay/components/site and "
                "kuberay/operator/values.yaml first (docs/kuberay.md)."
            )
    _no_passwords(files)
    extras = _added(added)
    return Contents(
        root=root,
        app=file.app,
        build="gpu" if file.app.device == "cuda" else "cpu",
        config=config,
        weights=_weights(file.app, weights),
        named=named,
        overlays=tuple(overlays),
        images=sorted(images),
        added=sorted(extras),
        files=files | extras,
    )


def _below(folder: Path) -> Mapping[str, Path]:
    """Every plain file below a folder by its path there; `BundleRefused` for a link, or a name that no bundle holds."""
    try:
        found = {name: folder / name for name in files_below(folder)}
    except BackupError as error:
        raise BundleRefused(str(error)) from None
    for name, path in found.items():
        try:
            inside(name)
        except ValueError:
            raise BundleRefused(f"{path} has a name that a bundle cannot hold: printable ASCII only.") from None
    return found


def _config(root: Path, file: ServeFile, files: dict[str, Path]) -> str:
    """The path of the Serve config file in the bundle; one from elsewhere joins the others."""
    path = file.path.resolve()
    if path.is_relative_to((root / CONFIGS_DIR).resolve()):
        return f"{CONFIGS_DIR}/{path.relative_to((root / CONFIGS_DIR).resolve()).as_posix()}"
    name = f"{CONFIGS_DIR}/{path.name}"
    if name in files:
        raise BundleRefused(f"{path} would take the place of {name}: give it another name.")
    files[name] = path
    return name


def _named(root: Path, app: AppConfig, files: dict[str, Path]) -> Sequence[NamedEntry]:
    """What the configuration names, as the bundle has it; what does not lie in `configs/` joins the files."""
    try:
        found = named_files(app, (root,))
    except ConfigError as error:
        raise BundleRefused(str(error)) from None
    return [_entry(root, each, files) for each in found]


def _entry(root: Path, named: Named, files: dict[str, Path]) -> NamedEntry:
    apart = f"{FILES_DIR}/{named.setting}" + ("" if named.model is None else f"/{_plain(named.model)}")

    def place(path: Path) -> str:
        if path.is_relative_to(root / CONFIGS_DIR):
            return path.relative_to(root).as_posix()
        return (Path(apart) / path.relative_to(named.path.parent)).as_posix()

    for path in named.files:
        there = path.resolve()
        if path == named.path and named.held is not None and there.name != path.name:
            raise BundleRefused(f"{named.key}: {path} is a link to a file of another name: name that one.")
        if files.setdefault(_checked(place(path), path), there).resolve() != there:
            raise BundleRefused(f"{named.key}: {path} would take the place of another file in the bundle.")
    held = named.held
    if held is None:
        return NamedEntry(setting=named.setting, model=named.model, path=place(named.path))
    entry = HeldEntry(kind=held.kind, target=held.target, revision=held.revision, root=place(held.root))
    below = {name: sums_of(path) for name, path in files.items() if f"{name}/".startswith(f"{entry.root}/")}
    sums = {name: (each.bytes, each.sha256) for name, each in below.items()}
    if (revision := held_revision(entry, sums)) != held.revision:
        raise BundleRefused(
            f"{named.key}: what lies at {held.root} is the revision {revision[:12]}, not {held.revision[:12]} as the "
            "configuration says."
        )
    return NamedEntry(setting=named.setting, model=named.model, path=place(named.path), held=entry)


def _checked(name: str, path: Path) -> str:
    try:
        return inside(name)
    except ValueError:
        raise BundleRefused(f"{path} has a name that a bundle cannot hold: printable ASCII only.") from None


def _plain(model: str) -> str:
    """The name of a model as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", model)


def _weights(app: AppConfig, given: Mapping[str, Path]) -> Sequence[Weights]:
    found: list[Weights] = []
    known: set[str] = set()
    for model in app.models:
        for engine in model.engines:
            if not isinstance(engine, EngineSettings):
                continue  # an upstream has weights of its own
            place: Place = "engine" if engine is model.engine else "candidate"
            name = engine.model if place == "engine" else f"{engine.model}:candidate"
            known.add(name)
            if is_embedded(engine.source):
                if name in given:
                    raise BundleRefused(f"{name} is a demonstration model: its weights are in the package.")
                continue
            folder = _plain(engine.model) + ("-candidate" if place == "candidate" else "")
            source = _checkpoint(name, engine.source, given.get(name))
            found.append(Weights(engine.model, place, source, f"{WEIGHTS_DIR}/{folder}"))
    if unknown := sorted(given.keys() - known):
        raise BundleRefused(f"{unknown[0]} is no model with weights of this configuration.")
    if len({each.folder for each in found}) != len(found):
        raise BundleRefused("two models have names that differ in punctuation only: a bundle cannot hold both.")
    return found


def _checkpoint(name: str, source: str, given: Path | None) -> Path:
    """Where a checkpoint lies on this machine: as it was given, else where the other machine is to have it."""
    folder = given or Path(source)
    if given is None and not folder.is_absolute():
        raise BundleRefused(
            f"the weights of {name} are no folder ({source}): say where they lie, --weights {name}=DIR."
        )
    if not (folder / "config.json").is_file():
        raise BundleRefused(f"there is no checkpoint of {name} in {folder}: say where it lies, --weights {name}=DIR.")
    _below(folder)
    return folder.resolve()


def _operator_image(values: Path) -> str:
    try:
        image = yaml.safe_load(values.read_text(encoding="utf-8"))["image"]
        return f"{image['repository']}:{image['tag']}"
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise BundleRefused(f"{values} does not name the operator's image.") from None


def _added(paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.is_symlink() or not path.exists():
            raise BundleRefused(f"{path} is neither a file nor a folder.")
        below = {"": path} if path.is_file() else _below(path)
        for name, each in below.items():
            place = f"{ADDED_DIR}/{path.resolve().name}" + (f"/{name}" if name else "")
            if place in found:
                raise BundleRefused(f"two things that are to be added are called {path.name}.")
            found[place] = each
    return found


def _no_password(app: AppConfig) -> None:
    try:
        given = None if app.store_url is None else urlsplit(app.store_url)
    except ValueError:
        raise BundleRefused("store_url is no URL.") from None
    if given is not None and (given.password or "password" in parse_qs(given.query, keep_blank_values=True)):
        raise BundleRefused(f"store_url {_TOLD}")


def _no_passwords(files: Mapping[str, Path]) -> None:
    """All of `configs/` and `kuberay/` travels, also what this configuration does not use."""
    for name, path in files.items():
        if path.suffix in {".yaml", ".yml", ".json"} and _PASSWORD.search(path.read_bytes()):
            raise BundleRefused(f"{name} has the URL of a database that {_TOLD}")
