"""The wheels of a bundle: those that the hashed locks name, for the machine that will run them, and our own.

Where wheels come from is pip's configuration (docs/adr/0008); which files they are, the hashes of the locks say. The
machine that makes a bundle need not be like the one that installs it, but for the closure of `install.sh`'s first step.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from serve_app.bundle.layout import INSTALLER, OWN, Build, BundleRefused

PYTHON: Final = "3.11"
MACHINE: Final = "x86_64"
GLIBC: Final = "2.31"  # what the locks were resolved for (scripts/lock.sh)
PROJECT: Final = "gatehouse-serving"
LOCKS: Final[Mapping[Build, Sequence[str]]] = {"cpu": ("torch-cpu.lock", "cpu.lock"), "gpu": ("gpu.lock",)}
_TORCH_CPU: Final = "https://download.pytorch.org/whl/cpu"  # local versions such as +cpu are not on the public index
_OLD: Final = ("manylinux2014", "manylinux2010", "manylinux1")

Run: TypeAlias = Callable[[Sequence[str], Path, Mapping[str, str]], str]
"""Run a command in a folder with an environment; its standard output. `BundleRefused` when it fails."""


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """`Run` for real."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BundleRefused(f"{Path(command[0]).name} cannot be started: {error.strerror}.") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        named = [line for line in lines if line.startswith("ERROR:")] or lines or ["it said nothing"]
        raise BundleRefused(f"{' '.join(_shown(command))} failed: {named[-1].removeprefix('ERROR:').strip()[:400]}")
    return done.stdout


def pip(*arguments: str, python: str = sys.executable) -> Sequence[str]:
    """The command line of pip; nobody is asked anything."""
    return (python, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments)


def platforms(glibc: str = GLIBC) -> Sequence[str]:
    """The platform tags that such a machine takes, best first: pip takes each of them literally."""
    newest = int(glibc.removeprefix("2."))
    return [f"manylinux_2_{minor}_{MACHINE}" for minor in range(newest, 4, -1)] + [f"{old}_{MACHINE}" for old in _OLD]


def fetch(locks: Path, build: Build, wheels: Path, places: Sequence[Path], start: Run, env: Mapping[str, str]) -> None:
    """Put the wheels that the locks in the folder `locks` name into `wheels`. `places`: folders with wheels, asked too.

    Both folders exist and are absolute. `BundleRefused` when one cannot be had.
    """
    tags = [part for tag in platforms() for part in ("--platform", tag)]
    links = [part for place in places for part in ("--find-links", str(place))]
    target = ("--python-version", PYTHON, "--implementation", "cp", "--abi", f"cp{PYTHON.replace('.', '')}")
    for lock in LOCKS[build]:
        command = pip(
            *("download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", *tags, *target),
            *("--dest", str(wheels), *links, "--requirement", str(locks / lock)),
        )
        try:
            start(command, locks, env)
        except BundleRefused:
            if lock != "torch-cpu.lock":
                raise
            start((*command, "--extra-index-url", _TORCH_CPU), locks, env)


def build_own(root: Path, wheels: Path, start: Run, env: Mapping[str, str]) -> Path:
    """Build this version's own wheel from the checkout `root` into `wheels`, without a network. `BundleRefused`."""
    start((sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)), root, env)
    found = sorted(wheels.glob(f"{PROJECT.replace('-', '_')}-*.whl"))
    if len(found) != 1:
        raise BundleRefused(f"the wheel of {PROJECT} was not built.")
    return found[0]


def write_requirements(locks: Path, build: Build, own: Path, folder: Path) -> None:
    """Copy the locks of a build into `folder`, and pin our own wheel beside them."""
    for lock in LOCKS[build]:
        shutil.copyfile(locks / lock, folder / lock)
    version = own.name.split("-")[1]
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    (folder / OWN).write_text(f"{PROJECT}=={version} \\\n    --hash=sha256:{digest}\n", encoding="utf-8")


def write_installer(wheels: Path, folder: Path, start: Run, env: Mapping[str, str]) -> None:
    """Pin what `python -m serve_app.bundle` needs: the project without extras, and what that asks for, all of it here.

    pip works it out from the wheels alone. `BundleRefused` when one of them is missing.
    """
    report = json.loads(
        start(
            pip(
                *("--isolated", "install", "--quiet", "--dry-run", "--ignore-installed", "--only-binary", ":all:"),
                *("--no-index", "--no-cache-dir", "--find-links", str(wheels), "--report", "-", PROJECT),
            ),
            wheels,
            env,
        )
    )
    lines: list[str] = []
    for each in cast("Sequence[Mapping[str, Any]]", report["install"]):
        about = each["metadata"]
        digest = str(each["download_info"]["archive_info"]["hashes"]["sha256"])
        lines.append(f"{about['name']}=={about['version']} \\\n    --hash=sha256:{digest}\n")
    (folder / INSTALLER).write_text("".join(sorted(lines)), encoding="utf-8")


def _shown(command: Sequence[str]) -> Sequence[str]:
    """The telling words of a command: the program, what it does, and the last argument."""
    words = [Path(command[0]).name, *command[1:]]
    if words[1:3] == ["-m", "pip"]:
        verb = next((word for word in words[3:] if not word.startswith("-")), "")
        return ("pip", verb, Path(words[-1]).name)
    return words[:4]
