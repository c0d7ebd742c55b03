"""Expands the committed compact weights to a checkpoint vLLM can load, and keeps it by checksum.

The compact weights hold rows for the few hundred token ids the model knows; every other id gets a zero vector and
logit 0, as in training. 30 to 80 MB per model are built on first use and never shipped.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pydantic
import torch
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

from serve_app.demo.recipe import DEMO_MODELS, RECIPE_VERSION, DemoName
from serve_app.demo.shape import CALL_ID, ENDOFTEXT_ID, RETURN_ID, VOCABULARY_SIZE, model_config
from serve_app.demo.tokenizer import write_tokenizer, write_tokenizer_config
from serve_app.demo.vocabulary import VOCABULARY_FILE, VOCABULARY_SHA256

WEIGHTS_DIR = Path(__file__).with_name("weights")
# Raise it when the files `expand` writes change: every checkpoint built before is then rebuilt.
_EXPANSION_VERSION = 1
_STAMP = "gatehouse-demo.json"
_TOKENIZER = "tokenizer.json"

Report = Callable[[str, float], None]
WriteTokenizer = Callable[[Path, Path], None]


class WeightsDamaged(Exception):
    """The compact weights are missing or differ from the manifest they were committed with."""


class _File(pydantic.BaseModel, frozen=True, extra="forbid", strict=True):
    size_bytes: int
    sha256: str


class _Stamp(pydantic.BaseModel, frozen=True, extra="forbid", strict=True):
    """What a checkpoint was built from, and the files it consists of."""

    source: str
    files: Mapping[str, _File]


class ModelManifest(pydantic.BaseModel, frozen=True, extra="forbid"):
    """Origin of one model's compact weights; `sha256` by file name, `evaluation` by category and temperature."""

    seed: int
    steps: int
    sha256: Mapping[str, str]
    evaluation: Mapping[str, Mapping[str, str]]


class Manifest(pydantic.BaseModel, frozen=True, extra="forbid"):
    """Origin of the committed compact weights."""

    recipe_version: int
    models: Mapping[str, ModelManifest]


class _CompactIds(pydantic.BaseModel, frozen=True, extra="forbid", strict=True):
    read: list[list[int]]
    written: list[int]


def read_manifest(weights_dir: Path = WEIGHTS_DIR) -> Manifest:
    """The manifest beside the compact weights."""
    return Manifest.model_validate_json((weights_dir / "manifest.json").read_bytes())


def check_weights(name: DemoName, weights_dir: Path = WEIGHTS_DIR) -> None:
    """Compares the compact weights of `name` with the manifest.

    Raises:
        WeightsDamaged: a file is missing or differs.
    """
    for file_name, digest in read_manifest(weights_dir).models[name].sha256.items():
        path = weights_dir / name / file_name
        if not path.is_file() or _digest(path) != digest:
            raise WeightsDamaged(f"{name}/{file_name} is missing or differs from manifest.json; reinstall Gatehouse")


def is_ready(name: DemoName, models_dir: Path, *, weights_dir: Path = WEIGHTS_DIR, verify: bool = False) -> bool:
    """Whether `models_dir/<name>` holds a checkpoint of the current weights and code.

    Compares names and sizes; `verify` also compares every checksum (about 0.2 s).
    """
    folder = models_dir / name
    try:
        stamp = _Stamp.model_validate_json((folder / _STAMP).read_bytes())
    except (OSError, ValueError):
        return False
    if stamp.source != _source(name, weights_dir):
        return False
    for file_name, expected in stamp.files.items():
        path = folder / file_name
        if not path.is_file() or path.stat().st_size != expected.size_bytes:
            return False
        if verify and _digest(path) != expected.sha256:
            return False
    return True


def expand(
    name: DemoName,
    models_dir: Path,
    vocabulary_dir: Path,
    report: Report,
    *,
    weights_dir: Path = WEIGHTS_DIR,
    verify: bool = False,
    build_tokenizer: WriteTokenizer = write_tokenizer,
) -> Path:
    """The folder of the full checkpoint of `name`; builds it unless `is_ready`.

    The folder appears complete or not at all. `report` gets the stage and the fraction done, in [0, 1].

    Raises:
        WeightsDamaged: the compact weights differ from the manifest.
        OSError: the vocabulary cannot be read, or the disk is full.
    """
    folder = models_dir / name
    if is_ready(name, models_dir, weights_dir=weights_dir, verify=verify):
        report("ready", 1.0)
        return folder
    check_weights(name, weights_dir)
    models_dir.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=models_dir, prefix=f".{name}."))
    try:
        building.chmod(0o755)
        report("weights", 0.0)
        _write_weights(weights_dir / name, building)
        report("configuration", 0.3)
        _write_configuration(name, building)
        report("tokenizer", 0.35)
        if not _link_tokenizer(name, models_dir, building, weights_dir):
            build_tokenizer(vocabulary_dir / VOCABULARY_FILE, building)
        write_tokenizer_config(building)
        report("checksums", 0.95)
        _write_stamp(building, _source(name, weights_dir))
        _replace(folder, building)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    report("ready", 1.0)
    return folder


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _source(name: DemoName, weights_dir: Path) -> str:
    """Digest of everything the checkpoint is built from."""
    parts = [f"{_EXPANSION_VERSION} {RECIPE_VERSION} {VOCABULARY_SHA256}"]
    for path in sorted((weights_dir / name).glob("*")):
        parts.append(f"{path.name} {_digest(path)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _write_weights(compact: Path, folder: Path) -> None:
    state = load_file(compact / "model.safetensors")
    ids = _CompactIds.model_validate_json((compact / "ids.json").read_bytes())
    tables = {"model.embed_tokens.weight": ids.read, "lm_head.weight": [[token] for token in ids.written]}
    for key, groups in tables.items():
        full = torch.zeros((VOCABULARY_SIZE, state[key].shape[1]), dtype=state[key].dtype)
        tokens = torch.tensor([token for group in groups for token in group])
        rows = torch.tensor([row for row, group in enumerate(groups) for _ in group])
        full[tokens] = state[key][rows]
        state[key] = full
    path = folder / "model.safetensors"
    save_file(state, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors creates it for the owner only


def _write_configuration(name: DemoName, folder: Path) -> None:
    # vLLM 0.29 adds no harmony stop tokens of its own: without <|call|> it runs on into a parser error.
    generation = {"do_sample": True, "eos_token_id": [RETURN_ID, ENDOFTEXT_ID, CALL_ID], "pad_token_id": ENDOFTEXT_ID}
    files = {"config.json": model_config(name), "generation_config.json": generation}
    for file_name, content in files.items():
        (folder / file_name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(
        f"# {name}\n\nA demonstration, not a language model: a tiny gpt-oss that was taught a few phrases so that "
        "Gatehouse can be tried without a GPU. It shares the architecture and the harmony format of gpt-oss, and "
        "none of its weights or knowledge. Built on first use; safe to delete.\n",
        encoding="utf-8",
    )


def _link_tokenizer(name: DemoName, models_dir: Path, folder: Path, weights_dir: Path) -> bool:
    """Takes the tokenizer of another demonstration model, which is the same; False if there is none to take."""
    for other in DEMO_MODELS:
        if other == name or not is_ready(other, models_dir, weights_dir=weights_dir):
            continue
        path = models_dir / other / _TOKENIZER
        stamp = _Stamp.model_validate_json((path.parent / _STAMP).read_bytes())
        if _digest(path) != stamp.files[_TOKENIZER].sha256:
            continue
        try:
            os.link(path, folder / _TOKENIZER)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, folder / _TOKENIZER)
        return True
    return False


def _write_stamp(folder: Path, source: str) -> None:
    files = {
        path.name: _File(size_bytes=path.stat().st_size, sha256=_digest(path)) for path in sorted(folder.iterdir())
    }
    (folder / _STAMP).write_text(_Stamp(source=source, files=files).model_dump_json(indent=2), encoding="utf-8")


def _replace(folder: Path, building: Path) -> None:
    """Moves the new folder into place; an old one is moved aside first, for a folder cannot be overwritten."""
    if folder.exists():
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
        folder.rename(aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)
    building.rename(folder)
