"""What a request has cost so far, while it is still being answered: who hangs up is charged for that, and no more.

The engine's own count comes with the last chunk of a reply, and a client that goes away before never lets it come. So
the bridge gives every request a `Tally`, as it does with the notes of `harmony.py`: whatever generates for the request
finds it in its context and adds its counters. They are the engine's own and are only read: no request asks for more
than it did, and no byte of a reply changes.
"""

from contextvars import ContextVar
from typing import Protocol

from deployments.ports import Usage


class Counting(Protocol):
    """The counters of one generation; they only grow, and stay readable when it has ended."""

    @property
    def prompt(self) -> str:
        """Names the prompt: several generations may answer the same one, which is read once."""
        ...

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt."""
        ...

    @property
    def cached_tokens(self) -> int:
        """How many of them were found in the cache; 0 until the prompt has been read."""
        ...

    @property
    def output_tokens(self) -> int:
        """Tokens generated so far."""
        ...


class Tally:
    """The generations of one request: one, or as many as it asks for prompts and choices."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[Counting] = []

    def add(self, part: Counting) -> None:
        """One more generation for this request."""
        self._parts.append(part)

    def read(self) -> Usage | None:
        """Tokens until now; None before the engine has taken the request. Reasoning is among the output."""
        parts = self._parts
        if not parts:
            return None
        if len(parts) == 1:  # the rule
            (part,) = parts
            return Usage(part.input_tokens, part.cached_tokens, part.output_tokens)
        readers: dict[str, Counting] = {}
        for part in parts:
            readers.setdefault(part.prompt, part)  # the first choice reads the prompt that the others find in the cache
        return Usage(
            input_tokens=sum(part.input_tokens for part in readers.values()),
            cached_tokens=sum(part.cached_tokens for part in readers.values()),
            output_tokens=sum(part.output_tokens for part in parts),
        )

    def clear(self) -> None:
        """Let go of the counters: tasks that outlive the request may hold its context."""
        self._parts.clear()


TALLY: ContextVar[Tally | None] = ContextVar("gatehouse_tally", default=None)
"""Of the request that is being answered; None where nobody counts it."""
