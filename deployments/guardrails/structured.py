"""Texts in JSON: arguments of tools. What is masked stays valid JSON. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from deployments.guardrails.look import Look
from deployments.guardrails.scan import Piece
from deployments.guardrails.secrets import Credential, looks_secret, telling
from deployments.guardrails.values import Action, placeholder

_UNREADABLE: Final = (ValueError, RecursionError)
Json: TypeAlias = "str | int | float | bool | None | list[Json] | _Pairs"


@dataclass(frozen=True, slots=True)
class _Pairs:
    """An object with all of its members, also those of the same name: readers differ in which one they take."""

    members: Sequence[tuple[str, "Json"]]


class _Blocked(Exception):
    """Something stands there that must not be said."""


def screen_json(text: str, look: Look) -> Piece:
    """JSON as it may go on; the same text when nothing in it is masked. What is no JSON is a text like any other.

    A number that is masked becomes a text. Names of members are looked at, too.
    """
    try:
        value = cast(Json, json.loads(text, object_pairs_hook=_Pairs))
    except _UNREADABLE:
        return look.screen(text)
    if isinstance(value, str | None | bool):
        return look.screen(text)
    screened = _Screened(look)
    try:
        masked = screened.value(value, "")
    except _Blocked:
        return Piece("", blocked=True)
    if not screened.changed:
        return Piece(text)
    return Piece(json.dumps(masked, ensure_ascii=False, separators=(",", ":")))


class _Screened:
    def __init__(self, look: Look) -> None:
        self._look = look
        self.changed = False

    def value(self, value: Json, name: str) -> object:
        """A value as it may go on, behind the name of its member."""
        match value:
            case str():
                return self._text(value, name)
            case bool() | None:
                return value
            case int() | float():
                said = str(value)
                masked = self._text(said, name)
                return value if masked == said else masked
            case list():
                return [self.value(each, name) for each in value]
            case _Pairs():
                return {self._text(each, ""): self.value(held, each) for each, held in value.members}

    def _text(self, text: str, name: str) -> str:
        piece = self._look.screen(text)
        action = self._look.actions.get(Credential.detector, Action.OFF)
        if piece.text == text and action is not Action.OFF and telling(name) and looks_secret(text, quoted=True):
            self._look.tally.add(Credential.detector, Credential.kind, action)
            piece = Piece(
                placeholder(Credential.kind) if action is Action.MASK else text, blocked=action is Action.BLOCK
            )
        if piece.blocked:
            raise _Blocked
        self.changed = self.changed or piece.text != text
        return piece.text
