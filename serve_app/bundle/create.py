"""Making a bundle: everything is gathered beside its place, listed, signed, and then gets its name."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deployments.rollouts import FileSum
from serve_app.backups.manifest import files_below
from serve_app.bundle.contents import Contents, Weights
from serve_app.bundle.layout import (
    FORMAT,
    IMAGES_FILE,
    INSTALL_FILE,
    MANIFEST_FILE,
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
    sums_text,
)
from serve_app.bundle.sbom import bill
from serve_app.bundle.verify import copy, digest_of, weights_revision
from serve_app.bundle.wheels import (
    GLIBC,
    MACHINE,
    PYTHON,
    Run,
    build_own,
    fetch,
    run,
    write_installer,
    write_requirements,
)
from serve_app.config import DEFAULT_STATE_DIR
from serve_app.demo.vocabulary import ENCODINGS_VARIABLE, VOCABULARY_FILE, VocabularyUnavailable, ensure_vocabulary
from serve_app.prepare import vocabulary_dir

_INSTALL = Path(__file__).with_name(INSTALL_FILE)


@dataclass(frozen=True, slots=True)
class Created:
    """A bundle: its manifest, and the SHA-256 (hex) of SHA256SUMS, which identifies it."""

    manifest: Manifest
    digest: str


def create(
    contents: Contents,
    target: Path,
    key: Ed25519PrivateKey | None,
    now_ms: int,
    environment: Mapping[str, str],
    *,
    wheels: Sequence[Path] = (),
    say: Callable[[str], None] = lambda _: None,
    start: Run = run,
) -> Created:
    """Write a bundle to the folder `target`, which must not exist; it appears whole or not at all.

    `wheels`: folders with wheels, asked beside what pip is configured with. `BundleRefused`, `OSError`.
    """
    if target.exists() or target.is_symlink():
        raise BundleRefused(f"{target} exists; a bundle overwrites nothing.")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.resolve().with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    work.mkdir(mode=0o755)
    try:
        created = _fill(contents, work, key, now_ms, environment, wheels, say, start)
        os.sync()
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return created


def _fill(
    contents: Contents,
    work: Path,
    key: Ed25519PrivateKey | None,
    now_ms: int,
    environment: Mapping[str, str],
    places: Sequence[Path],
    say: Callable[[str], None],
    start: Run,
) -> Created:
    digests: dict[str, str] = {}
    size = 0

    def take(source: Path, path: str) -> FileSum:
        nonlocal size
        digests[path], length = copy(source, work / path)
        size += length
        return FileSum(path, length, digests[path])

    version = _wheels(contents, work, environment, places, say, start)
    models = [_model(each, take) for each in contents.weights]
    for each in models:
        say(f"{each.folder}: {each.bytes} bytes, revision {each.revision}")
    for path, source in sorted(contents.files.items()):
        take(source, path)
    take(_INSTALL, INSTALL_FILE)
    _vocabulary(contents, work, environment, say)
    for overlay in contents.overlays:
        _write(work / RENDERED_DIR / f"{overlay.name}.yaml", overlay.rendered)
    if contents.images:
        _write(work / IMAGES_FILE, "".join(f"{each}\n" for each in contents.images))
    for path in files_below(work):
        if path not in digests:
            digests[path], length = digest_of(work / path)
            size += length
    manifest = Manifest(
        format=FORMAT,
        version=version,
        made_at_ms=now_ms,
        build=contents.build,
        python=PYTHON,
        machine=MACHINE,
        glibc=GLIBC,
        config=contents.config,
        models=models,
        named=[*contents.named],
        overlays=[each.name for each in contents.overlays],
        images=list(contents.images),
        added=list(contents.added),
        bytes=size,
    )
    made_at = datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    _write(work / SBOM_FILE, json.dumps(bill(work, digests, manifest, made_at), indent=1) + "\n")
    _write(work / MANIFEST_FILE, manifest.model_dump_json(indent=2) + "\n")
    for path in (SBOM_FILE, MANIFEST_FILE):
        digests[path], _ = digest_of(work / path)
    sums = sums_text(digests)
    (work / SUMS_FILE).write_bytes(sums)
    if key is not None:
        (work / SIGNATURE_FILE).write_bytes(key.sign(sums))
    return Created(manifest, hashlib.sha256(sums).hexdigest())


def _wheels(
    contents: Contents,
    work: Path,
    environment: Mapping[str, str],
    places: Sequence[Path],
    say: Callable[[str], None],
    start: Run,
) -> str:
    """Wheels and requirements; the version of our own."""
    locks, wheels, requirements = contents.root / "requirements", work / WHEELS_DIR, work / REQUIREMENTS_DIR
    wheels.mkdir()
    requirements.mkdir()
    say(f"fetching the wheels of the {contents.build} build")
    fetch(locks, contents.build, wheels, [each.resolve() for each in places], start, environment)
    own = build_own(contents.root, wheels, start, environment)
    write_requirements(locks, contents.build, own, requirements)
    write_installer(wheels, requirements, start, environment)
    say(f"{WHEELS_DIR}: {sum(1 for _ in wheels.iterdir())} files")
    return own.name.split("-")[1]


def _model(weights: Weights, take: Callable[[Path, str], FileSum]) -> ModelEntry:
    files: list[FileSum] = []
    for name in files_below(weights.source):
        taken = take(weights.source / name, f"{weights.folder}/{name}")
        files.append(FileSum(name, taken.size, taken.sha256))
    return ModelEntry(
        model=weights.model,
        place=weights.place,
        folder=weights.folder,
        revision=weights_revision(weights.model, tuple(files)),
        bytes=sum(each.size for each in files),
    )


def _vocabulary(contents: Contents, work: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """The vocabulary from whatever has it: this machine's copy first. Every start asks for it, whatever the models."""
    known = [Path(environment[ENCODINGS_VARIABLE])] if environment.get(ENCODINGS_VARIABLE) else []
    known += [contents.root / DEFAULT_STATE_DIR / "vocabulary", vocabulary_dir(contents.app)]
    here = [str(each) for each in known if (each / VOCABULARY_FILE).is_file()]
    try:
        ensure_vocabulary(
            work / VOCABULARY_DIR, say, {**environment, **({ENCODINGS_VARIABLE: here[0]} if here else {})}
        )
    except VocabularyUnavailable as error:
        raise BundleRefused(str(error)) from None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
