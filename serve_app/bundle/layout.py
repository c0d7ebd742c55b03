"""What lies in a bundle, and what says so.

```
SHA256SUMS        the SHA-256 of every other file, as `sha256sum --check` reads it
SHA256SUMS.sig    Ed25519 over SHA256SUMS, 64 bytes, as `openssl pkeyutl -verify -rawin` reads it
bundle.json       what the bundle is for: `Manifest`
install.sh        the way in for a machine that has no Gatehouse yet
requirements/     the locks, this version's own wheel (own.txt), and what `install.sh` needs first (installer.txt)
wheels/           every wheel that they name
weights/MODEL/    a checkpoint, file by file
vocabulary/       o200k_base.tiktoken
configs/          Serve config files and policies
files/SETTING/    what else the configuration names: policies, prompts, snapshots, the evaluation suite
kuberay/, rendered/OVERLAY.yaml, images.txt      manifests, as sources and rendered; the images that they name
added/            what was put in by hand: archives of images, charts, system packages
sbom.cdx.json     CycloneDX 1.6
```

SHA256SUMS is the one list: `sha256sum` and `openssl` check a bundle before any code of it runs.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from deployments.rollouts import FileSum, Kind, revision_of_files

FORMAT: Final = "gatehouse.bundle/1"
SUMS_FILE, SIGNATURE_FILE, MANIFEST_FILE = "SHA256SUMS", "SHA256SUMS.sig", "bundle.json"
IMAGES_FILE, SBOM_FILE, INSTALL_FILE = "images.txt", "sbom.cdx.json", "install.sh"
REQUIREMENTS_DIR, WHEELS_DIR, WEIGHTS_DIR, VOCABULARY_DIR = "requirements", "wheels", "weights", "vocabulary"
CONFIGS_DIR, FILES_DIR, KUBERAY_DIR, RENDERED_DIR, ADDED_DIR = "configs", "files", "kuberay", "rendered", "added"
OWN, INSTALLER = "own.txt", "installer.txt"

# Part of what is signed: the same key may sign artefacts and policies, and no text of theirs begins like this.
_HEADER: Final = "# gatehouse bundle v1: the SHA-256 of every file\n"
_LINE: Final = re.compile(r"([0-9a-f]{64})  (.+)")
_PATH: Final = re.compile(r"[ -\[\]-~]{1,400}")  # printable ASCII without the backslash, which sha256sum would escape
_LARGEST_BYTES: Final = 16 * 2**20


class BundleRefused(Exception):
    """A bundle that cannot be made, is not what was signed, or cannot be installed. One sentence for the operator."""


def inside(path: str) -> str:
    """The path, if it leads below the bundle and every tool reads it the same way; else `ValueError`."""
    parts = path.split("/")
    if not _PATH.fullmatch(path) or path != path.strip() or any(part in {"", ".", ".."} for part in parts):
        raise ValueError("not a path inside the bundle")
    return path


InsidePath = Annotated[str, AfterValidator(inside)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Build = Literal["cpu", "gpu"]
Place = Literal["engine", "candidate"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelEntry(_Model):
    """Weights of one model's engine, or of its candidate: `place` is the key in the Serve config file.

    `revision`: the digest that `gatehouse rollout register --kind model` gives them.
    """

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/\-]{0,127}$")]
    place: Place
    folder: InsidePath
    revision: Digest
    bytes: Count


class HeldEntry(_Model):
    """The revision that files must be. `root`: the file, or the folder all of which it is over, in the bundle."""

    kind: Kind
    target: str
    revision: Digest
    root: InsidePath


class NamedEntry(_Model):
    """A file that the configuration names. `setting`: the key below the configuration, or below the model `model`."""

    setting: Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+){0,3}$")]
    model: str | None = None
    path: InsidePath
    held: HeldEntry | None = None


class Manifest(_Model):
    """The file `bundle.json`. `config`: the Serve config file that the bundle is for; `glibc`: the oldest that will do.

    `named` is empty in bundles from before it was there: their configurations name nothing but what lies in `configs/`.
    `bytes` is the size of all files that are listed, without `bundle.json` and the list.
    """

    format: Literal["gatehouse.bundle/1"]
    version: str
    made_at_ms: Count
    build: Build
    python: Annotated[str, Field(pattern=r"^3\.\d+$")]
    machine: Literal["x86_64"]
    glibc: Annotated[str, Field(pattern=r"^2\.\d+$")]
    config: InsidePath
    models: list[ModelEntry]
    named: list[NamedEntry] = []
    overlays: list[str]
    images: list[str]
    added: list[InsidePath]
    bytes: Count


def held_revision(held: HeldEntry, sums: Mapping[str, tuple[int, str]]) -> str:
    """The revision of what a bundle has at `held.root`; `sums`: size and SHA-256 (hex) of its files by path."""
    prefix = f"{held.root}/"
    below = {held.root.rsplit("/", 1)[-1]: sums[held.root]} if held.root in sums else {
        path.removeprefix(prefix): each for path, each in sums.items() if path.startswith(prefix)
    }  # fmt: skip
    files = [FileSum(name, size, digest) for name, (size, digest) in below.items()]
    return revision_of_files(held.kind, held.target, files)


def sums_text(digests: Mapping[str, str]) -> bytes:
    """SHA256SUMS for path -> SHA-256 (hex). `BundleRefused` for a path that not every tool would read the same way."""
    for path in digests:
        try:
            inside(path)
        except ValueError:
            raise BundleRefused(
                f"{path!r} is no name for a file of a bundle: printable ASCII without a backslash only."
            ) from None
    lines = (f"{digest}  {path}\n" for path, digest in sorted(digests.items()))
    return (_HEADER + "".join(lines)).encode("ascii")


def read_sums(data: bytes) -> Mapping[str, str]:
    """Path -> SHA-256 (hex). `BundleRefused` for anything but what `sums_text` writes."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise BundleRefused(f"{SUMS_FILE} is not a list of checksums.") from None
    if not text.startswith(_HEADER) or not text.endswith("\n"):
        raise BundleRefused(f"{SUMS_FILE} is not the list of a bundle: its first line is another one.")
    found: dict[str, str] = {}
    for number, line in enumerate(text.removeprefix(_HEADER).splitlines(), 2):
        match = _LINE.fullmatch(line)
        try:
            path = inside(match[2]) if match else ""
        except ValueError:
            raise BundleRefused(f"line {number} of {SUMS_FILE} names a path that leaves the bundle.") from None
        if match is None or path in found or path in {SUMS_FILE, SIGNATURE_FILE}:
            raise BundleRefused(f"line {number} of {SUMS_FILE} is none of a list of checksums.")
        found[path] = match[1]
    if MANIFEST_FILE not in found:
        raise BundleRefused(f"{SUMS_FILE} does not name {MANIFEST_FILE}.")
    return found


def read_manifest(data: bytes) -> Manifest:
    """The manifest, or `BundleRefused`."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"])) or "its whole"
        raise BundleRefused(f"{MANIFEST_FILE} cannot be read: {where} is not what {FORMAT} has there.") from None


def read_small(path: Path) -> bytes:
    """A file that is read whole: the list, its signature, the manifest. `BundleRefused` above 16 MiB."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise BundleRefused(f"{path.name} is a link; a bundle has plain files only.")
        if not stat.S_ISREG(mode):  # a pipe would be waited for
            raise BundleRefused(f"{path.name} is no file; a bundle has plain files only.")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > _LARGEST_BYTES:
                raise BundleRefused(f"{path.name} is too large to be one of a bundle.")
            return file.read()
    except FileNotFoundError:
        raise BundleRefused(f"there is no {path.name}: this is no bundle, or not all of one.") from None
    except OSError as error:
        raise BundleRefused(f"{path.name} cannot be read: {error.strerror}.") from None
