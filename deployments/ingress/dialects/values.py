"""What a dialect's filter and the journey say to each other. Sans-I/O: values only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from deployments.ports import Dialect, Effort, JsonValue, ModelId, Receipt, ToolCall, Usage, Verdict


@dataclass(frozen=True, slots=True)
class Asked:
    """A request body after parsing, in the words the stages need.

    `body` is the engine's request but for model and effort. `prompt_texts` (and `prompt_ids`, the length of the
    longest prompt given as token ids) and `max_tokens` size the reservation and the window check. `model` is the
    client's wish, with "auto" and the empty string already turned into None.
    """

    dialect: Dialect
    engine_path: str
    body: Mapping[str, JsonValue]
    model: ModelId | None
    requested_model: str
    effort: Effort | None
    stream: bool
    include_usage: bool
    choices: int
    offered_tools: frozenset[str]
    prompt_texts: tuple[str, ...]
    max_tokens: int | None
    prompt_ids: int = 0


@dataclass(frozen=True, slots=True)
class Emit:
    """Bytes that may go to the client now."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Judge:
    """Complete calls of one choice; answer with `resolve` before the next `step`."""

    calls: tuple[ToolCall, ...]


Step: TypeAlias = Emit | Judge


class ReplyFilter(Protocol):
    """Turns engine bytes into client bytes, stopping at every tool call.

    Feed bytes, then call `step` until it answers None. After a `Judge`, call `resolve` with one verdict per call. When
    the engine's body has ended call `close`, then `step` again until None. Raises `EngineFailed` (or whatever the
    engine's own error maps to) when the reply is broken or incomplete; bytes already emitted stay valid.
    """

    @property
    def usage(self) -> Usage | None:
        """The engine's own count, once known."""
        ...

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """One per finished choice, as the client sees them, in order of finishing."""
        ...

    @property
    def saw_text(self) -> bool:
        """True when any text or reasoning went out."""
        ...

    def repaired(self, notes: Sequence[str]) -> None:
        """The engine repaired malformed output of this reply: its calls are no longer trusted."""
        ...

    def receipt(self, receipt: Receipt | None) -> None:
        """The audit record of the routing decision, quoted in the reply's `x_gatehouse`."""
        ...

    def feed(self, data: bytes) -> None:
        """Take engine bytes, cut anywhere."""
        ...

    def close(self) -> None:
        """The engine's body has ended."""
        ...

    def step(self) -> Step | None:
        """What to do next, or None: more bytes are needed."""
        ...

    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """The verdicts on the calls of the last `Judge`, in order."""
        ...


class Codec(Protocol):
    """One wire dialect."""

    def read(self, body: Mapping[str, JsonValue]) -> Asked:
        """Parse a request body, or raise `InvalidRequest` naming the field."""
        ...

    def engine_body(self, asked: Asked, model: ModelId, effort: Effort) -> bytes:
        """The bytes for the engine that was chosen."""
        ...

    def filter(self, asked: Asked) -> ReplyFilter:
        """A fresh filter for one reply."""
        ...


def wanted_model(requested: str | None) -> ModelId | None:
    """The explicit model of a request; None when the router shall choose."""
    return None if requested is None or requested in ("", "auto") else ModelId(requested)
