"""What must lie on disk before engines start: the vocabulary, and the expanded demonstration checkpoints."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from deployments.engine.options import EngineSettings
from serve_app.config import DEMO_SOURCE, AppConfig, ConfigError, environment, is_embedded
from serve_app.demo.vocabulary import VocabularyUnavailable, ensure_vocabulary

Report: TypeAlias = Callable[[str, float], None]
"""A stage in words and how much of it is done, in [0, 1]."""


def _silent(stage: str, fraction: float) -> None:
    del stage, fraction


def vocabulary_dir(config: AppConfig) -> Path:
    """Where the o200k vocabulary lies, or will lie."""
    return Path(config.vocabulary_dir) if config.vocabulary_dir else config.state_path / "vocabulary"


def models_dir(config: AppConfig) -> Path:
    """Where expanded demonstration checkpoints lie."""
    return config.state_path / "models"


def candidate_of(model: str, revision: str) -> str:
    """Under which name `prepare` answers the source of a model's candidate."""
    return f"{model}:{revision}"


def prepare(config: AppConfig, report: Report = _silent) -> Mapping[str, str]:
    """Make vocabulary and checkpoints, whatever of them is missing; model id -> source for the engine.

    A candidate's source is under `candidate_of`. Raises `ConfigError` with one sentence when something is missing that
    cannot be made here.
    """
    try:
        vocabulary = ensure_vocabulary(vocabulary_dir(config), lambda line: report(line, 0.0), environment())
    except VocabularyUnavailable as error:
        raise ConfigError(str(error)) from None
    report("vocabulary", 1.0)
    sources: dict[str, str] = {}
    for model in config.models:
        for engine in model.engines:
            if isinstance(engine, EngineSettings):
                name = engine.model if engine is model.engine else candidate_of(engine.model, engine.revision)
                sources[name] = _source(engine, config, vocabulary, report)
    return sources


def _source(engine: EngineSettings, config: AppConfig, vocabulary: Path, report: Report) -> str:
    if is_embedded(engine.source):
        return _expand(engine.source.removeprefix(DEMO_SOURCE), config, vocabulary, report)
    folder = Path(engine.source)
    if folder.is_absolute() and not (folder / "config.json").is_file():
        raise ConfigError(f"model {engine.model}: there is no checkpoint in {engine.source}.")
    return engine.source


def _expand(name: str, config: AppConfig, vocabulary: Path, report: Report) -> str:
    # Imported late: this pulls in torch, which a cluster's head node without engines does not have.
    from serve_app.demo.checkpoint import WeightsDamaged, expand, is_ready
    from serve_app.demo.recipe import DEMO_MODELS, DemoName

    known: dict[str, DemoName] = {demo: demo for demo in DEMO_MODELS}
    if name not in known:
        raise ConfigError(f"there is no demonstration checkpoint '{name}'; there are {', '.join(DEMO_MODELS)}.")
    folder = models_dir(config)
    if is_ready(known[name], folder):
        report(f"{name} (cached)", 1.0)
        return str(folder / name)
    try:
        path = expand(known[name], folder, vocabulary, lambda stage, done: report(f"{name}: {stage}", done))
    except WeightsDamaged as error:
        raise ConfigError(str(error)) from None
    report(name, 1.0)
    return str(path)
