"""Installing a bundle on a machine without a network.

```
TARGET/releases/ID/      one installation of one bundle: venv/, configs/, files/, vocabulary/, serve.yaml, the list, ...
TARGET/models/NAME-REV/  weights, shared by releases
TARGET/state/            made by the first start; never touched here
TARGET/current           link to the release in use
```

A virtual environment knows its own path, so it cannot be made elsewhere and moved: a release without the mark, which is
written last, is half an installation, and the next one begins it anew. `current` changes after that, at once. Bytes are
checked while they are copied, so what is installed is what was signed, whatever happens to the medium meanwhile.
"""

import ctypes
import fcntl
import os
import platform
import secrets
import shlex
import shutil
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from serve_app.backups.manifest import BackupError, files_below
from serve_app.bundle.layout import (
    CONFIGS_DIR,
    FILES_DIR,
    IMAGES_FILE,
    KUBERAY_DIR,
    MANIFEST_FILE,
    OWN,
    RENDERED_DIR,
    REQUIREMENTS_DIR,
    SBOM_FILE,
    SIGNATURE_FILE,
    SUMS_FILE,
    VOCABULARY_DIR,
    WHEELS_DIR,
    BundleRefused,
    Manifest,
    ModelEntry,
    read_manifest,
    read_small,
)
from serve_app.bundle.verify import Opened, copy, digest_of, opened
from serve_app.bundle.wheels import LOCKS, Run, pip, run

SERVE_FILE: Final = "serve.yaml"
MARK: Final = "installed"
_KEPT: Final = (CONFIGS_DIR, FILES_DIR, KUBERAY_DIR, RENDERED_DIR, REQUIREMENTS_DIR, VOCABULARY_DIR)
_UNPACKED: Final = 4  # a wheel grows to about three times its size, and pip unpacks it beside its place
_LAST_S: Final = 253_402_300_799  # of the year 9999, the last that has a date
_ROOM_BYTES: Final = 2**30  # beside that, for the first start


@dataclass(frozen=True, slots=True)
class Machine:
    """What a bundle asks of a machine. `glibc`: its version, None for another C library. `libraries`: those missing."""

    python: str
    machine: str
    glibc: str | None
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Installed:
    """An installation. `fresh`: False when it was there already. `command`: what to run next."""

    release: Path
    fresh: bool
    command: str


def this_machine(build: str) -> Machine:
    """The machine that this process runs on; `build` is cpu or gpu."""
    missing: list[str] = []
    for name in ("libnuma.so.1",) if build == "cpu" else ():
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    library, version = platform.libc_ver()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Machine(python, platform.machine(), version if library == "glibc" else None, tuple(missing))


def install(
    bundle: Path,
    target: Path,
    key: Ed25519PublicKey | None,
    *,
    say: Callable[[str], None] = lambda _: None,
    start: Run = run,
    machine: Callable[[str], Machine] = this_machine,
    python: str = sys.executable,
) -> Installed:
    """Install a bundle below `target`, or find that it is installed. Nothing is asked of a network.

    `key`: who must have signed it; None asks for nobody's signature. `python`: makes the virtual environment.
    `BundleRefused`: what was in use before is still in use.
    """
    found = opened(bundle, key)
    _fits(found.manifest, machine(found.manifest.build))
    target = target.absolute()
    release = target / "releases" / found.digest[:16]
    try:
        with _locked(target):
            fresh = not _is_whole(release, found.digest)
            if fresh:
                if release.exists():
                    say(f"{release} was not finished; it is made anew")
                    shutil.rmtree(release)
                for each in (target / "models").glob(".*.part"):  # as large as a model, of one that was cut off
                    shutil.rmtree(each)
                _room(found, target)
                _make(found, target, release, say, start, python)
            _tell_of_a_step_back(target / "current", found.manifest, say)
            _point(target / "current", release)
    except OSError as error:
        raise BundleRefused(f"the bundle cannot be installed: {error}.") from None
    program = target / "current" / "venv" / "bin" / "gatehouse"
    next_one = [shlex.quote(str(each)) for each in (target, program, target / "current" / SERVE_FILE)]
    return Installed(release, fresh, "cd {} && {} up --config {}".format(*next_one))


def _fits(manifest: Manifest, machine: Machine) -> None:
    if machine.python != manifest.python:
        raise BundleRefused(f"the bundle is for Python {manifest.python}, and this is {machine.python}.")
    if machine.machine != manifest.machine:
        raise BundleRefused(f"the bundle is for {manifest.machine}, and this is {machine.machine}.")
    if machine.glibc is None or _number(machine.glibc) < _number(manifest.glibc):
        there = machine.glibc or "another C library"
        raise BundleRefused(f"the bundle is for Linux with glibc {manifest.glibc} or newer, and this has {there}.")
    if machine.missing:
        raise BundleRefused(
            f"{machine.missing[0]} is missing, and no wheel carries it. Install the package (Debian: libnuma1); "
            "whoever made the bundle may have added it."
        )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _room(found: Opened, target: Path) -> None:
    """Refuse before anything is copied what would fill the disk."""
    wheels = sum((found.root / path).stat().st_size for path in found.sums if path.startswith(f"{WHEELS_DIR}/"))
    models = sum(each.bytes for each in found.manifest.models if not _weights_place(target, each).is_dir())
    needed, free = _UNPACKED * wheels + models, shutil.disk_usage(target).free
    if free < needed + _ROOM_BYTES * bool(wheels):
        raise BundleRefused(f"{target} has {free / 2**30:.1f} GiB free, and the bundle needs {needed / 2**30:.1f} GiB.")


def _make(found: Opened, target: Path, release: Path, say: Callable[[str], None], start: Run, python: str) -> None:
    release.mkdir(parents=True)
    for name in (SUMS_FILE, SIGNATURE_FILE):
        if (found.root / name).is_file():
            (release / name).write_bytes(read_small(found.root / name))
    single = {MANIFEST_FILE, IMAGES_FILE, SBOM_FILE}
    for path in found.sums:
        if path in single or path.split("/")[0] in _KEPT:
            _take(found, path, release / path)
    for model in found.manifest.models:
        _weights(found, model, _weights_place(target, model), say)
    say("making the virtual environment and installing the wheels")
    _environment(found, release, start, python)
    (release / SERVE_FILE).write_text(serve_file(found.manifest, target, release), encoding="utf-8")
    program = release / "venv" / "bin" / "gatehouse"
    start((str(program), "check-config", str(release / SERVE_FILE)), release, _clean())
    os.sync()  # the mark must not reach the disk before what it vouches for
    (release / MARK).write_text(found.digest + "\n", encoding="ascii")
    os.sync()


def _take(found: Opened, path: str, target: Path) -> None:
    digest, _ = copy(found.root / path, target)
    if digest != found.sums[path]:
        raise BundleRefused(f"{path} has changed: its bytes are not those that were signed.")


def _weights_place(target: Path, model: ModelEntry) -> Path:
    return target / "models" / f"{model.folder.split('/')[-1]}-{model.revision[:16]}"


def _weights(found: Opened, model: ModelEntry, place: Path, say: Callable[[str], None]) -> None:
    """Put weights in their place, whole or not at all; those that a release before left there are read again."""
    if place.is_dir():
        say(f"the weights of {model.model} are there already; checking them")
        _still_whole(found, model, place)
        return
    say(f"copying the weights of {model.model}, {model.bytes / 2**30:.2f} GiB")
    place.parent.mkdir(parents=True, exist_ok=True)
    work = place.with_name(f".{place.name}.part")
    for path in found.sums:
        if path.startswith(f"{model.folder}/"):
            _take(found, path, work / path.removeprefix(f"{model.folder}/"))
    os.sync()
    work.rename(place)


def _still_whole(found: Opened, model: ModelEntry, place: Path) -> None:
    """`BundleRefused` unless the files in `place` are those that were signed: nobody has watched over them since."""
    prefix = f"{model.folder}/"
    signed = {path.removeprefix(prefix): digest for path, digest in found.sums.items() if path.startswith(prefix)}
    try:
        there = {*files_below(place)}
        other = sorted(there ^ signed.keys()) or [name for name in signed if digest_of(place / name)[0] != signed[name]]
    except BackupError as error:
        raise BundleRefused(str(error)) from None
    if other:
        raise BundleRefused(f"{place} is not what was signed ({other[0]}): move it away, and install again.")


def _environment(found: Opened, release: Path, start: Run, python: str) -> None:
    """The virtual environment, from the wheels alone: pip checks each of them against the requirements just copied."""
    start((python, "-m", "venv", str(release / "venv")), release, _clean())
    requirements = [release / REQUIREMENTS_DIR / name for name in (*LOCKS[found.manifest.build], OWN)]
    start(
        pip(
            *("--isolated", "install", "--quiet", "--no-index", "--no-cache-dir", "--no-deps", "--require-hashes"),
            *("--only-binary", ":all:", "--find-links", str((found.root / WHEELS_DIR).resolve())),
            *(part for path in requirements for part in ("--requirement", str(path))),
            python=str(release / "venv" / "bin" / "python"),
        ),
        release,
        _clean(),
    )
    # Where an installed package looks for `configs/` and for the manifests, whatever its working directory is.
    packages = release / "venv" / "lib" / f"python{found.manifest.python}" / "site-packages"
    for name in (CONFIGS_DIR, KUBERAY_DIR):
        if (release / name).is_dir():
            (packages / name).symlink_to(release / name)


def serve_file(manifest: Manifest, target: Path, release: Path) -> str:
    """The Serve config file of the bundle with the places of this installation.

    Those are of weights, vocabulary, state and all files that it names. `BundleRefused` for a file that is none.
    """
    try:
        document: Any = yaml.safe_load((release / manifest.config).read_text(encoding="utf-8"))
        (application,) = document["applications"]
        args: dict[str, Any] = application["args"]
        models = {str(each["engine"]["model"]): cast("dict[str, Any]", each) for each in args["models"]}
        for model in manifest.models:
            models[model.model][model.place]["source"] = str(_weights_place(target, model))
        for each in manifest.named:
            *folders, last = each.setting.split(".")
            place = args if each.model is None else models[each.model]
            for name in folders:
                place = cast("dict[str, Any]", place.setdefault(name, {}))  # what is not said has its default
            place[last] = str(release / each.path)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        raise BundleRefused(f"{manifest.config} is no Serve config file with the models of the bundle.") from None
    args["vocabulary_dir"] = str(release / VOCABULARY_DIR)
    state = Path(str(args.get("state_dir", "state")))
    args["state_dir"] = str(state if state.is_absolute() else target / "state")
    head = f"# {manifest.config} with the places of this installation. Made by `gatehouse bundle install`.\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=120)


def _is_whole(release: Path, digest: str) -> bool:
    try:
        return (release / MARK).read_text(encoding="ascii") == digest + "\n"
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _tell_of_a_step_back(link: Path, manifest: Manifest, say: Callable[[str], None]) -> None:
    """An older bundle is a way back, and it is also what somebody leaves who would rather have an old fault again."""
    try:
        used = read_manifest(read_small(link / MANIFEST_FILE))
    except BundleRefused:  # nothing is in use yet, or what is in the way is refused next
        return
    if used.made_at_ms > manifest.made_at_ms:
        say(f"this is a step back: the bundle was made {_day(manifest)}, and the one in use {_day(used)}")


def _day(manifest: Manifest) -> str:
    return datetime.fromtimestamp(min(manifest.made_at_ms // 1000, _LAST_S), UTC).strftime("%Y-%m-%d %H:%M UTC")


def _point(link: Path, release: Path) -> None:
    """Make `current` lead to a release, in one step."""
    if link.is_symlink() and link.resolve() == release.resolve():
        return
    if link.exists() and not link.is_symlink():
        raise BundleRefused(f"{link} is in the way: it is no link of an installation.")
    made = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
    made.symlink_to(release.relative_to(link.parent))
    made.replace(link)


def _clean() -> Mapping[str, str]:
    """The environment of what is started: nothing of pip's configuration, of Python's, or of anybody's proxy."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PIP_CONFIG_FILE": os.devnull}


@contextmanager
def _locked(target: Path) -> Generator[None]:
    """One installation at a time; `BundleRefused` while another one runs."""
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".install.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleRefused(f"another installation into {target} is running.") from None
        yield
