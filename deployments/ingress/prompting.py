"""The operator's instructions for a model: put in front of what a client says, seen by the engine alone.

They are added to the engine's copy of a request, when all else has been done with it: guardrails, the router, the
record and the store know what the client said. What a client asks to be filled in or continued is no conversation and
gets none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from deployments.ingress.dialects.values import Asked
from deployments.ports import Dialect, JsonValue, ModelId

PROMPTED: Final = frozenset({Dialect.CHAT, Dialect.RESPONSES, Dialect.MESSAGES})
"""Dialects of conversations."""

_INSTRUCTING: Final = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Instructions and their revision; no text where there are none."""

    revision: str
    text: str


class Prompts:
    """The instructions for each model that has some: those of the configuration first, then a candidate's."""

    def __init__(self, prompts: Mapping[ModelId, Sequence[Prompt]]) -> None:
        self._prompts = {model: tuple(each) for model, each in prompts.items() if each}

    def before(self, asked: Asked, model: ModelId, revision: str = "") -> Asked:
        """The request with the instructions of a revision in front; "", and an unknown one: the configured ones."""
        known = self._prompts.get(model)
        if known is None or asked.dialect not in PROMPTED:
            return asked
        text = next((each.text for each in known if each.revision == revision), known[0].text)
        messages = asked.body.get("messages")
        if not text or not isinstance(messages, list):
            return asked
        body = {**asked.body, "messages": _in_front(text, messages)}
        return replace(asked, body=body, prompt_texts=(text, *asked.prompt_texts))

    def most_chars(self, asked: Asked) -> int:
        """Of the longest instructions that the request may get, before it is known who answers it."""
        if asked.dialect not in PROMPTED:
            return 0
        of = self._prompts.values() if asked.model is None else (self._prompts.get(asked.model, ()),)
        return max((len(each.text) for known in of for each in known), default=0)


def _in_front(text: str, messages: Sequence[JsonValue]) -> list[JsonValue]:
    """The messages, the first of them with the instructions: many chat templates take one such message, at the top."""
    first = messages[0] if messages else None
    if not isinstance(first, dict) or first.get("role") not in _INSTRUCTING:
        return [{"role": "system", "content": text}, *messages]
    said = first.get("content")
    content: JsonValue = [{"type": "text", "text": f"{text}\n\n"}, *said] if isinstance(said, list) else text
    if isinstance(said, str) and said:
        content = f"{text}\n\n{said}"
    return [{**first, "content": content}, *messages[1:]]
