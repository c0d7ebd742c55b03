"""A request's texts, wherever they stand in the one internal form of all dialects; the request without what is masked.

The form is the engine's request: messages, tools, prompts, inputs (ADR 15). Everything in it that is a text is looked
at, also under names that nobody here knows; left out are words of the protocol alone. Pure.
"""

from collections.abc import Callable, Mapping
from typing import Final

from deployments.guardrails.look import Look
from deployments.guardrails.structured import screen_json
from deployments.guardrails.values import Action, Detector, DetectorFailed
from deployments.ports import JsonValue

_NO_TEXTS: Final = frozenset({"model", "tool_choice", "stream_options", "reasoning_effort", "service_tier"})
_OF_MESSAGE: Final = frozenset({"role", "tool_call_id", "name"})
_OF_CALL: Final = frozenset({"id", "type", "index"})
_OF_PART: Final = frozenset({"type"})
_TOOL_ROLES: Final = frozenset({"tool", "function"})


class Blocked(Exception):
    """Something stands in the request that no model may be told."""


class BodyScreen:
    """Looks at one request. `suspicious` afterwards: other people's text in it tries to give orders."""

    def __init__(self, look: Look, injection: Action = Action.OFF, outside: bool = False) -> None:
        """`outside`: messages of the user may hold other people's text, too (the client says so)."""
        self._look = look
        self._injection = injection
        self._outside = outside
        self.suspicious = False

    def screen(self, body: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        """The request as it may go on; the very same when nothing is masked.

        Raises:
            Blocked: nothing of it may go on.
            GuardrailUnavailable: a detector could not look and had to.
        """
        changed: dict[str, JsonValue] = {}
        for name, value in body.items():
            if name in _NO_TEXTS:
                continue
            match name:
                case "messages" if isinstance(value, list):
                    new = self._list(value, self._message)
                case "prompt" | "input" | "tokens":
                    self._no_tokens(value)
                    new = self._any(value)
                case _:
                    new = self._any(value)
            if new is not value:
                changed[name] = new
        return {**body, **changed} if changed else body

    def _message(self, value: JsonValue) -> JsonValue:
        if not isinstance(value, dict):
            return self._any(value)
        role = value.get("role")
        others = role in _TOOL_ROLES or (self._outside and role == "user")
        changed: dict[str, JsonValue] = {}
        for name, held in value.items():
            if name in _OF_MESSAGE:
                continue
            if name == "content":
                if others and self._injection is not Action.OFF:
                    self._orders(held)
                new = self._any(held)
            elif name == "tool_calls" and isinstance(held, list):
                new = self._list(held, self._call)
            else:
                new = self._any(held)
            if new is not held:
                changed[name] = new
        return {**value, **changed} if changed else value

    def _call(self, value: JsonValue) -> JsonValue:
        if not isinstance(value, dict):
            return self._any(value)
        changed: dict[str, JsonValue] = {}
        for name, held in value.items():
            if name in _OF_CALL:
                continue
            new = self._function(held) if name == "function" else self._any(held)
            if new is not held:
                changed[name] = new
        return {**value, **changed} if changed else value

    def _function(self, value: JsonValue) -> JsonValue:
        if not isinstance(value, dict):
            return self._any(value)
        changed: dict[str, JsonValue] = {}
        for name, held in value.items():
            if name == "arguments" and isinstance(held, str):
                piece = screen_json(held, self._look)
                if piece.blocked:
                    raise Blocked
                new: JsonValue = piece.text if piece.text != held else held
            else:
                new = held if name == "name" else self._any(held)
            if new is not held:
                changed[name] = new
        return {**value, **changed} if changed else value

    def _any(self, value: JsonValue) -> JsonValue:
        """Every text of a value, whatever it is."""
        match value:
            case str():
                piece = self._look.screen(value)
                if piece.blocked:
                    raise Blocked
                return piece.text if piece.text != value else value
            case list():
                return self._list(value, self._any)
            case dict():
                changed: dict[str, JsonValue] = {}
                for name, held in value.items():
                    if name in _OF_PART and isinstance(held, str):
                        continue
                    new = self._any(held)
                    if new is not held:
                        changed[name] = new
                return {**value, **changed} if changed else value
            case _:
                return value

    def _list(self, values: list[JsonValue], screen: Callable[[JsonValue], JsonValue]) -> list[JsonValue]:
        new = [screen(each) for each in values]
        same = all(one is other for one, other in zip(new, values, strict=True))
        return values if same else new

    def _orders(self, content: JsonValue) -> None:
        """Whether other people's text gives orders."""
        parts = content if isinstance(content, list) else [content]
        texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
        for kind in self._look.orders("\n".join(text for text in texts if isinstance(text, str))):
            self._look.tally.add(Detector.INJECTION, kind, self._injection)
            self.suspicious = True
        if self.suspicious and self._injection is Action.BLOCK:
            raise Blocked

    def _no_tokens(self, value: JsonValue) -> None:
        """A prompt of token ids cannot be looked at."""
        items = value if isinstance(value, list) else []
        if any(isinstance(each, int | list) for each in items):
            for detector in {rule for rule, action in self._look.actions.items() if action is not Action.OFF}:
                self._look.failed(DetectorFailed(detector, "tokens"))
