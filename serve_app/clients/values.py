"""What a client is configured from, and what comes out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

AUTO: Final = "auto"
SMALL_TIER: Final = "20b"
STRONG_TIER: Final = "120b"
DEFAULT_CONTEXT: Final = 65_536
"""Tokens assumed when no server can be asked: the smallest window of the profiles in docs/models.md.

A window that is assumed too small makes a client compact early; one too large breaks its turn.
"""

MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_MAX_OUTPUT: Final = 32_000
_MAX_MODELS: Final = 64


@dataclass(frozen=True, slots=True)
class ClientModel:
    """A model as clients see it. `context_window` is in tokens, prompt and answer together.

    `tier` is None for one that is reached by name alone; `fim`: it fills in the middle of a text.
    """

    name: str
    context_window: int
    tier: str | None = None
    fim: bool = False

    @property
    def output_tokens(self) -> int:
        """What a client should set aside for an answer: a quarter of the window, at most 32,000 tokens."""
        return min(_MAX_OUTPUT, self.context_window // 4)


@dataclass(frozen=True, slots=True)
class Setup:
    """One client's connection. `url` has neither `/v1` nor a slash at its end; `key_env` names a variable.

    `models` is never empty and holds both `model` and `small`, the one for titles and other background work.
    """

    url: str
    key_env: str
    model: ClientModel
    small: ClientModel
    models: tuple[ClientModel, ...]

    @property
    def base_url(self) -> str:
        """What an OpenAI client is given."""
        return f"{self.url}/v1"

    @property
    def strong(self) -> ClientModel:
        """The model for whoever asks for the best one by name; the chosen one where there is no strong tier."""
        return next((each for each in self.models if each.tier == STRONG_TIER), self.model)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file to write: its usual name and its text, which ends with a line feed."""

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A client's files, the one to print first, and what its user has to know: one sentence each.

    `alone` is for whoever gets the first file without the others.
    """

    files: tuple[ConfigFile, ...]
    hints: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()


class UnusableModels(Exception):
    """Models that no client can be configured for; the text is one sentence."""


def models_of(listing: object) -> tuple[ClientModel, ...]:
    """The models that generate text in a reply of `GET /v1/models`; entries that cannot be used are left out."""
    if not isinstance(listing, dict):
        return ()
    data = cast(Mapping[str, object], listing).get("data")
    if not isinstance(data, list):
        return ()
    found = (_model(each) for each in cast(Sequence[object], data)[:_MAX_MODELS])
    return tuple(each for each in found if each is not None)


def _model(card: object) -> ClientModel | None:
    if not isinstance(card, dict):
        return None
    fields = cast(Mapping[str, object], card)
    name, window = fields.get("id"), fields.get("context_window")
    tier, dialects = fields.get("tier"), fields.get("dialects")
    if not isinstance(name, str) or MODEL_NAME.fullmatch(name) is None:
        return None
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        return None
    if isinstance(dialects, list) and "chat" not in cast(list[object], dialects):
        return None
    return ClientModel(name, window, tier if isinstance(tier, str) else None, fields.get("fim") is True)


def assumed_models(context: int | None) -> tuple[ClientModel, ...]:
    """The models of the profiles, for when no server can be asked."""
    window = context or DEFAULT_CONTEXT
    return (
        ClientModel(AUTO, window, AUTO),
        ClientModel("gpt-oss-20b", window, SMALL_TIER),
        ClientModel("gpt-oss-120b", window, STRONG_TIER),
    )


def make_setup(
    url: str, key_env: str, models: Sequence[ClientModel], model: str, small: str | None, *, complete: bool
) -> Setup:
    """The connection with `model` and `small` found in `models`; the small one defaults to the 20b tier's.

    `complete`: `models` is what the server lists, so another name is a mistake and raises `UnusableModels`. Otherwise a
    name that is not among them is taken at its word, with the smallest window of all.
    """
    every = list(models)

    def named(name: str) -> ClientModel:
        for each in every:
            if each.name == name:
                return each
        if complete:
            known = ", ".join(each.name for each in every) or "none"
            raise UnusableModels(f"the key may not use a model '{name}'; it may use: {known}.")
        every.append(ClientModel(name, min(each.context_window for each in every)))
        return every[-1]

    chosen = named(model)
    base = next((each for each in every if each.tier == SMALL_TIER), chosen)
    background = base if small is None else named(small)
    return Setup(url, key_env, chosen, background, tuple(every))
