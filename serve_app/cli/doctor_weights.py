"""What `gatehouse doctor` reads of checkpoints: whether they are whole, how large, and of which revision.

Nothing here loads a weight. To tell a revision every byte of a checkpoint is read, as a rollout does when it begins.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Final, cast

from deployments.engine.options import EngineSettings
from deployments.errors import InvalidRequest
from deployments.rollout.artefacts import scan
from deployments.rollout.plan import revision_of
from deployments.rollouts import Artefact, Kind
from serve_app.cli.diagnosis import ModelState
from serve_app.cli.doctor_candidates import Candidate, RevisionState
from serve_app.config import AnyEngineSettings, AppConfig, ServedModelConfig

_INDEX: Final = "model.safetensors.index.json"
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
_WEIGHTS: Final = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_MOST_DIFFERENCES: Final = 8  # of settings: each of their subsets is tried
_LABELS: Final = frozenset({"revision", "source"})  # they differ by what a candidate is


def missing_file(folder: Path, engine: EngineSettings) -> str | None:
    """The first file that a checkpoint lacks, by name; None for one that is whole."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if engine.engine_args.get("load_format") == "dummy":
        return None
    if "tokenizer" not in engine.engine_args and not any((folder / name).is_file() for name in _TOKENIZERS):
        return _TOKENIZERS[0]
    index = folder / _INDEX
    if not index.is_file():
        there = (each for pattern in _WEIGHTS for each in folder.glob(pattern))
        return None if any(each.stat().st_size for each in there) else _WEIGHTS[0]
    try:
        index_of = cast("dict[str, dict[str, object]]", json.loads(index.read_text(encoding="utf-8")))
        shards = sorted({str(each) for each in index_of["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _INDEX
    for name in shards:
        shard = folder / name
        if not shard.is_file() or not shard.stat().st_size:
            return name
    return None


def size_of(folder: Path) -> int:
    """Bytes of the files directly in a folder, which is where an engine looks; 0 when there is none."""
    try:
        return sum(each.stat().st_size for each in folder.iterdir() if each.is_file())
    except OSError:
        return 0


def nearest(path: Path) -> Path:
    """The closest ancestor that exists."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def candidates(
    config: AppConfig, states: Mapping[str, ModelState], folders: Mapping[str, Path], read: bool
) -> tuple[Candidate, ...]:
    """The second revisions of a configuration. `folders`: checkpoints by the names of `states`; `read`: every byte."""
    return tuple(
        _candidate(model, model.candidate, states, folders, read)
        for model in config.models
        if model.candidate is not None
    )


def candidate_name(model: str) -> str:
    """How a model's candidate is called in a report, and in a bundle."""
    return f"{model}:candidate"


def _candidate(
    model: ServedModelConfig,
    engine: AnyEngineSettings,
    states: Mapping[str, ModelState],
    folders: Mapping[str, Path],
    read: bool,
) -> Candidate:
    name = candidate_name(engine.model)
    there = states.get(name, ModelState.READY)  # an engine without a checkpoint lacks none
    first, own = folders.get(engine.model), folders.get(name)
    why = ""
    if there in {ModelState.MISSING, ModelState.INCOMPLETE} or not read:
        revision = RevisionState.UNREAD
    elif there is not ModelState.READY or (own is None and isinstance(engine, EngineSettings)):
        revision = RevisionState.UNTOLD
    else:
        revision, why = _revision(model.engine, engine, first, own)
    return Candidate(
        model=engine.model,
        revision=revision,
        why=why,
        wanted_bytes=_memory(engine, own if there is ModelState.READY else first),
        missing_bytes=0 if there is not ModelState.MISSING or first is None else size_of(first),
        free_bytes=0 if own is None else shutil.disk_usage(nearest(own)).free,
    )


def _memory(engine: AnyEngineSettings, folder: Path | None) -> int:
    """Bytes of weights and of the cache that is set aside for all replicas that always run; 0 for no vLLM."""
    if not isinstance(engine, EngineSettings):
        return 0
    replicas = engine.scaling.min_replicas if engine.scaling is not None else engine.replicas or 1
    weights = 0 if folder is None else size_of(folder)
    return replicas * (weights + (engine.kv_cache_memory_bytes or 0))


def _revision(
    ours: AnyEngineSettings, other: AnyEngineSettings, first: Path | None, own: Path | None
) -> tuple[RevisionState, str]:
    """Whether the candidate is an artefact of the revision that it names; and why it can be none of any.

    An artefact's settings are not in the configuration. They are some of those in which candidate and engine differ, so
    each choice of them is tried.
    """
    given, before = other.model_dump(mode="json"), ours.model_dump(mode="json")
    differing = {name: value for name, value in given.items() if name not in _LABELS and before.get(name) != value}
    try:
        found = tuple(_artefacts(other.model, first, own))
        same = any(
            revision_of(replace(each, settings=json.dumps(settings))) == other.revision
            for settings in _choices(differing)
            for each in found
            if each.files or settings
        )
    except InvalidRequest as error:  # a link, or a file that cannot be read
        return RevisionState.REFUSED, error.public_message
    if same:
        return RevisionState.SAME, ""
    return RevisionState.UNTOLD if differing else RevisionState.OTHER, ""


def _artefacts(model: str, first: Path | None, own: Path | None) -> Iterator[Artefact]:
    """What a candidate may have been registered as: files of its own, or settings alone for the files of the engine."""
    if own is not None:
        weights = scan(Kind.MODEL, model, own)
        yield weights
        yield replace(weights, kind=Kind.ENGINE)
    if own is None or (first is not None and own.resolve() == first.resolve()):
        yield Artefact(Kind.ENGINE, model)


def _choices(differing: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every choice of some settings, none and all first."""
    names = sorted(differing)
    yield {}
    yield dict(differing)
    if len(names) <= _MOST_DIFFERENCES:
        some = chain.from_iterable(combinations(names, count) for count in range(1, len(names)))
        yield from ({name: differing[name] for name in chosen} for chosen in some)
