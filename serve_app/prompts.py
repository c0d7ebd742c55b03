"""The operator's instructions for models: read, held against their revision, and bounded, when the graph is built.

Every replica gets the text that was read then: a file that changes later changes nothing until the next start.
"""

import re
from pathlib import Path
from typing import Final

from deployments.errors import InvalidRequest
from deployments.ingress.prompting import Prompt
from deployments.ports import ModelId
from deployments.rollouts import NO_PROMPT, Artefact, Kind, file_sum, revision_of_files
from serve_app.config import AppConfig, ConfigError, PromptSettings, ServedModelConfig, find

MOST_BYTES: Final = 64 * 1024
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_CHARS_PER_TOKEN: Final = 4
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def prompts_of(config: AppConfig) -> dict[ModelId, tuple[Prompt, ...]]:
    """The instructions of each model that has some, the configured ones first; `ConfigError` for a bad file."""
    found: dict[ModelId, tuple[Prompt, ...]] = {}
    for model in config.models:
        if not model.prompts:
            continue
        texts = tuple(Prompt(each.revision, _checked(model, each)) for each in model.prompts)
        found[ModelId(model.engine.model)] = texts if model.prompt is not None else (Prompt(NO_PROMPT, ""), *texts)
    return found


def load_prompt(artefact: Artefact) -> str:
    """The text of an artefact, as it would be put in front of requests; `InvalidRequest` for what is none."""
    path = Path(artefact.path)
    try:
        return text_of(path / artefact.files[0].path if path.is_dir() else path)[0]
    except ValueError as error:
        raise InvalidRequest(f"{error}.", "path") from None


def text_of(path: Path) -> tuple[str, bytes]:
    """The text in a file, without blanks at its ends, and its bytes; `ValueError` says what is wrong with it."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path.name} has more than {MOST_BYTES} bytes")
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is not UTF-8 text") from None
    if not text:
        raise ValueError(f"{path.name} is empty")
    if _CONTROLS.search(text):
        raise ValueError(f"{path.name} has control characters")
    return text, data


def _checked(model: ServedModelConfig, settings: PromptSettings) -> str:
    name, path = model.engine.model, find(settings.path)
    try:
        text, data = text_of(path)
    except ValueError as error:
        raise ConfigError(f"the prompt of model {name}: {error}.") from None
    found = revision_of_files(Kind.PROMPT, name, [file_sum(path.name, data)])
    if _DIGEST.fullmatch(settings.revision) and settings.revision != found:
        raise ConfigError(f"the prompt of model {name}: {path.name} is not the revision {settings.revision[:12]}.")
    window = model.engine.max_model_len
    if window is not None and len(text) // _CHARS_PER_TOKEN > window // 2:
        raise ConfigError(f"the prompt of model {name}: {path.name} would take more than half of its window.")
    return text
