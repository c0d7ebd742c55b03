"""What a dialect's filter and the journey say to each other. Sans-I/O: values only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from deployments.ports import Dialect, Effort, JsonValue, ModelId, Receipt, Released, ToolCall, Usage, Verdict


@dataclass(frozen=True, slots=True)
class Asked:
    """A request body after parsing, in the words the stages need.

    `body` is the engine's request but for model and effort: a chat request for every dialect that knows turns, which is
    the one internal form that routing, gate and sessions read. `prompt_texts` (and `prompt_ids`, the length of the
    longest prompt given as token ids) and `max_tokens` size the reservation and the window check. `model` is the
    client's wish, with "auto" and the empty string already turned into None. `dropped_tools` names what was left out
    because nothing here can run it. `batch_ids` counts the token ids of all prompts of a batch. `outside`: the request
    brings a text that its client found elsewhere. `failed` has the dialect's own flag of each result of a tool, by the
    id of the call. `extra` is for the codec's own filter; nobody else looks into it.
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
    batch_ids: int = 0
    dropped_tools: tuple[str, ...] = ()
    outside: bool = False
    failed: Mapping[str, bool] = field(default_factory=dict[str, bool])
    extra: object = None


@dataclass(frozen=True, slots=True)
class Framing:
    """What is known of a reply before the engine says a word. `reply_id` is 32 hex digits, unique per request."""

    reply_id: str
    model: ModelId
    created_s: int
    effort: Effort


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a reply broke off. `body` is the error object of the dialect, as it would have been sent with a status."""

    code: str
    message: str
    body: bytes


@dataclass(frozen=True, slots=True)
class End:
    """How a reply of one choice ended.

    `finish` is `stop`, `length`, `tool_calls` or `content_filter`, after the gate: `tool_calls` when `released` holds
    any. `notice` is what the reader is told of the calls that were not released, or empty. `extension` is the
    `x_gatehouse` object, or empty. `stop_sequence` is the stop string that ended the text.
    """

    finish: str
    released: tuple[Released, ...]
    notice: str
    usage: Usage
    extension: Mapping[str, JsonValue]
    stop_sequence: str | None = None


class Writer(Protocol):
    """Writes one reply of one choice in a dialect; see `translated.py`, which tells it what the engine says.

    Every method answers the bytes to send now, when the client asked for a stream; else they are not looked at, and
    `final` is the reply. No method sees the same text twice.
    """

    @property
    def final(self) -> Mapping[str, JsonValue] | None:
        """The whole reply, once `finish` was called."""
        ...

    def reasoning(self, text: str) -> bytes:
        """A piece of reasoning, not empty."""
        ...

    def text(self, text: str) -> bytes:
        """A piece of the answer, not empty."""
        ...

    def finish(self, end: End) -> bytes:
        """Close what is open, then the notice, then the released calls, then the terminal event."""
        ...

    def keepalive(self, silent_s: float) -> bytes:
        """What keeps client and proxies waiting after `silent_s` without a word; may be the first bytes of all."""
        ...

    def failed(self, failure: Failure) -> bytes:
        """The last event of a stream that broke off."""
        ...

    def again(self) -> "Writer":
        """A writer for another attempt, in place of one that wrote nothing but keepalives."""
        ...


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

    `keepalive` and `failed` may be called at any time between two steps; their bytes continue the stream.
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

    @property
    def held(self) -> int:
        """How many calls of the reply were not released."""
        ...

    @property
    def withheld(self) -> Sequence[str]:
        """Why something of the engine's reply stayed here, once for each, whatever the gate said.

        `leaked`: a call was written as text; `broken`: a call contradicts itself; `unknown_item`: it looks like a call
        and nobody knows its kind; `unknown_field`: nobody knows it, and it is no call; `truncated`: a call was cut.
        """
        ...

    @property
    def ended(self) -> bool:
        """True once the last event of a stream is written: nothing of the dialect may follow."""
        ...

    def repaired(self, notes: Sequence[str]) -> None:
        """The engine repaired malformed output of this reply: its calls are no longer trusted."""
        ...

    def receipt(self, receipt: Receipt | None) -> None:
        """The audit record of the routing decision, quoted in the reply's `x_gatehouse`."""
        ...

    def note(self, extension: Mapping[str, JsonValue]) -> None:
        """What else is said in the reply's `x_gatehouse`, of choices whose end is not written yet."""
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

    @property
    def final(self) -> Mapping[str, JsonValue] | None:
        """The whole reply for the store of responses; None before its end, and in dialects that store nothing."""
        ...

    def keepalive(self, silent_s: float) -> bytes:
        """What keeps client and proxies waiting after `silent_s` seconds without a word."""
        ...

    def failed(self, failure: Failure) -> bytes:
        """The last event of a stream that broke off; nothing that looks like an end may follow."""
        ...

    def again(self) -> "ReplyFilter":
        """A filter for another attempt at the same reply, in place of one that released nothing."""
        ...


class Codec(Protocol):
    """One wire dialect."""

    def read(self, body: Mapping[str, JsonValue]) -> Asked:
        """Parse a request body, or raise `InvalidRequest` naming the field."""
        ...

    def engine_body(self, asked: Asked, model: ModelId, effort: Effort) -> bytes:
        """The bytes for the engine that was chosen."""
        ...

    def filter(self, asked: Asked, framing: Framing) -> ReplyFilter:
        """A fresh filter for one reply."""
        ...


def callable_names(asked: Asked) -> frozenset[str]:
    """The tools that an engine is told of, also where the client forbids it to call any: text may still name them."""
    tools = asked.body.get("tools")
    functions = [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    return frozenset(name for name in names if isinstance(name, str))


def wanted_model(requested: str | None) -> ModelId | None:
    """The explicit model of a request; None when the router shall choose."""
    return None if requested is None or requested in ("", "auto") else ModelId(requested)
