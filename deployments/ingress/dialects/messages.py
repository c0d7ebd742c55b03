"""Messages (Anthropic): read as a chat request, answered in content blocks.

The order of a reply is: thinking and text as the model says them, the notice about calls that were not released, the
released calls, `message_delta` with the stop reason and the usage, `message_stop`. Thinking is shown to those who asked
for `thinking`: everybody else reads the first block as the answer, as Anthropic's own examples do.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from deployments.errors import InvalidRequest
from deployments.ingress.dialects.messages_requests import MessagesRequest, ToolChoice, read_request
from deployments.ingress.dialects.messages_turns import chat_messages, chat_tools
from deployments.ingress.dialects.stream import DATA_AFTER_S, dump
from deployments.ingress.dialects.translated import TranslatedReply
from deployments.ingress.dialects.values import (
    Asked,
    End,
    Failure,
    Framing,
    ReplyFilter,
    Writer,
    callable_names,
    wanted_model,
)
from deployments.ports import EFFORTS, Dialect, Effort, JsonValue, ModelId, Released, Usage

PATH: Final = "/v1/chat/completions"
SIGNATURE: Final = "Z2F0ZWhvdXNl"
"""Closes every thinking block, because clients replay one and some refuse a block without. It proves nothing."""

_ANSWER: Final = frozenset({"max_tokens", "stream", "stop_sequences", "temperature", "top_p", "top_k"})
_STOP_REASON: Final = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the writer must know of the request: whether thinking is shown."""

    thinking: bool


class MessagesCodec:
    """The `messages` dialect. Implements `Codec`."""

    def read(self, body: Mapping[str, JsonValue]) -> Asked:
        """Parse a request body, or raise `InvalidRequest` naming the field."""
        request = read_request(body)
        if request.max_tokens is None:
            raise InvalidRequest(
                "Missing required parameter: 'max_tokens'.", "max_tokens", "missing_required_parameter"
            )
        return _asked(request)

    def engine_body(self, asked: Asked, model: ModelId, effort: Effort) -> bytes:
        """The bytes for the engine: the request as chat with model, effort and our own usage switch."""
        body: dict[str, JsonValue] = {**asked.body, "model": model, "reasoning_effort": effort.value}
        if asked.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return dump(body)

    def filter(self, asked: Asked, framing: Framing) -> ReplyFilter:
        """A fresh filter for one reply."""
        thinking = isinstance(asked.extra, _Wish) and asked.extra.thinking
        return TranslatedReply(MessagesWriter(framing, thinking), asked.stream, callable_names(asked))


def read_count(body: Mapping[str, JsonValue]) -> Asked:
    """A body of `/v1/messages/count_tokens`: the same request without what shapes the answer, which is ignored."""
    return _asked(read_request({name: value for name, value in body.items() if name not in _ANSWER}))


def _asked(request: MessagesRequest) -> Asked:
    conversation = chat_messages(request)
    messages = conversation.messages
    tools, dropped = chat_tools(request.tools or ())
    names = frozenset(_names(tools))
    body: dict[str, JsonValue] = {"messages": messages, **_limits(request)}
    if tools:
        body["tools"] = tools
    if request.tool_choice is not None:
        body |= _choice(request.tool_choice, names)
    schema = (request.output_config and request.output_config.format) or request.output_format
    if schema:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": schema.schema_, "strict": True},
        }
    none = request.tool_choice is not None and request.tool_choice.type == "none"
    return Asked(
        dialect=Dialect.MESSAGES,
        engine_path=PATH,
        body=body,
        model=wanted_model(request.model),
        requested_model=request.model or "auto",
        effort=_effort(request),
        stream=bool(request.stream),
        include_usage=False,
        choices=1,
        offered_tools=frozenset() if none else names,
        prompt_texts=tuple(_texts(messages, tools)),
        max_tokens=request.max_tokens,
        dropped_tools=dropped,
        outside=conversation.outside,
        failed=conversation.failed,
        extra=_Wish(request.thinking is not None and request.thinking.shown),
    )


def _limits(request: MessagesRequest) -> Mapping[str, JsonValue]:
    stop: list[JsonValue] = [*(request.stop_sequences or ())]
    fields: Mapping[str, JsonValue] = {
        "max_tokens": request.max_tokens,
        "stop": stop or None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _effort(request: MessagesRequest) -> Effort | None:
    """The effort that was asked for; None lets the router decide, which is what adaptive thinking means."""
    if request.output_config is not None and request.output_config.effort is not None:
        return EFFORTS[request.output_config.effort]
    return Effort.LOW if request.thinking is not None and not request.thinking.shown else None


def _choice(choice: ToolChoice, names: frozenset[str]) -> Mapping[str, JsonValue]:
    if choice.type in ("any", "tool") and not names:
        raise InvalidRequest("'tool_choice' needs a tool that can be called.", "tool_choice")
    if not names:
        return {}
    serial: dict[str, JsonValue] = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
    match choice.type:
        case "auto":
            return {"tool_choice": "auto", **serial}
        case "any":
            return {"tool_choice": "required", **serial}
        case "none":
            return {"tool_choice": "none"}
        case "tool":
            if choice.name not in names:
                raise InvalidRequest("'tool_choice.name' must be one of the tools.", "tool_choice.name")
            return {"tool_choice": {"type": "function", "function": {"name": choice.name}}, **serial}


def _names(tools: list[JsonValue]) -> Iterator[str]:
    for tool in cast(list[Mapping[str, Mapping[str, str]]], tools):
        yield tool["function"]["name"]


def _texts(messages: list[JsonValue], tools: list[JsonValue]) -> Iterator[str]:
    """What certainly reaches the model; replayed reasoning may not, so it is not counted."""
    for message in cast(list[Mapping[str, JsonValue]], messages):
        content = message["content"]
        if isinstance(content, str):
            yield content
        for call in cast(list[Mapping[str, Mapping[str, str]]], message.get("tool_calls") or []):
            yield call["function"]["arguments"]
    for tool in cast(list[Mapping[str, Mapping[str, JsonValue]]], tools):
        yield str(tool["function"].get("description") or "")
        yield json.dumps(tool["function"]["parameters"])


@dataclass(slots=True)
class _Block:
    """A block that is being written. `kind` is `text` or `thinking`, which is also the key of its content."""

    kind: str
    pieces: list[str] = field(default_factory=list[str])

    def opened(self) -> dict[str, JsonValue]:
        """The block as `content_block_start` shows it."""
        signed: dict[str, JsonValue] = {"signature": ""} if self.kind == "thinking" else {}
        return {"type": self.kind, self.kind: "", **signed}

    def whole(self) -> dict[str, JsonValue]:
        """The block as a message holds it."""
        signed: dict[str, JsonValue] = {"signature": SIGNATURE} if self.kind == "thinking" else {}
        return {"type": self.kind, self.kind: "".join(self.pieces), **signed}


class MessagesWriter:
    """Writes one reply. Implements `Writer`."""

    def __init__(self, framing: Framing, thinking: bool) -> None:
        """`thinking`: reasoning is shown; else it is left out."""
        self._framing = framing
        self._thinking = thinking
        self._begun = False
        self._closed: list[JsonValue] = []
        self._open: _Block | None = None
        self._final: Mapping[str, JsonValue] | None = None

    @property
    def final(self) -> Mapping[str, JsonValue] | None:
        """The message object, once `finish` was called."""
        return self._final

    def reasoning(self, text: str) -> bytes:
        """A piece of a thinking block, or nothing where thinking is not shown."""
        return self._begin() + self._piece("thinking", text) if self._thinking else b""

    def text(self, text: str) -> bytes:
        """A piece of a text block."""
        return self._begin() + self._piece("text", text)

    def finish(self, end: End) -> bytes:
        """The notice, the released calls and the end."""
        out = [self._begin()]
        if end.notice:
            # A block of its own: clients show one after the other. One that only kept the connection is free for it.
            if self._open is not None and self._open.pieces:
                out.append(self._close())
            out.append(self._piece("text", end.notice))
        out.append(self._close())
        out += [self._call(released) for released in end.released]
        stopped = end.finish == "stop" and end.stop_sequence is not None
        ending: dict[str, JsonValue] = {
            "stop_reason": "stop_sequence" if stopped else _STOP_REASON.get(end.finish, "end_turn"),
            "stop_sequence": end.stop_sequence if stopped else None,
        }
        extra: dict[str, JsonValue] = {"x_gatehouse": dict(end.extension)} if end.extension else {}
        usage = _usage(end.usage)
        out.append(_event("message_delta", {"delta": ending, "usage": usage, **extra}))
        out.append(_event("message_stop", {}))
        self._final = {**self._message(self._closed, usage), **ending, **extra}
        return b"".join(out)

    def keepalive(self, silent_s: float) -> bytes:
        """A ping at first; then an empty delta too, because Claude Code's idle timer does not count pings."""
        out = self._begin() + _event("ping", {})
        if silent_s < DATA_AFTER_S:
            return out
        if self._open is None:
            out += self._start("text")
        return out + self._delta("")

    def failed(self, failure: Failure) -> bytes:
        """The error event; no `message_stop` follows."""
        return b"event: error\ndata: " + failure.body + b"\n\n"

    def again(self) -> Writer:
        """A writer that goes on where keepalives have left the stream, and knows nothing else of this one."""
        writer = MessagesWriter(self._framing, self._thinking)
        writer._begun = self._begun
        if self._open is not None and not self._open.pieces and not self._closed:
            writer._open = self._open
        return writer

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        # What was read is not known yet: the figures are in `message_delta`, where they count.
        ending: dict[str, JsonValue] = {"stop_reason": None, "stop_sequence": None}
        return _event("message_start", {"message": {**self._message([], _usage(Usage())), **ending}})

    def _message(self, content: list[JsonValue], usage: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return {
            "id": f"msg_{self._framing.reply_id}",
            "type": "message",
            "role": "assistant",
            "model": self._framing.model,
            "content": content,
            "usage": usage,
        }

    def _piece(self, kind: str, text: str) -> bytes:
        out = b""
        if self._open is not None and self._open.kind != kind:
            out += self._close()
        if self._open is None:
            out += self._start(kind)
        return out + self._delta(text)

    def _start(self, kind: str) -> bytes:
        self._open = _Block(kind)
        return self._indexed("content_block_start", {"content_block": self._open.opened()})

    def _delta(self, text: str) -> bytes:
        block = cast(_Block, self._open)
        if text:
            block.pieces.append(text)
        return self._indexed("content_block_delta", {"delta": {"type": f"{block.kind}_delta", block.kind: text}})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        out = b""
        if self._open.kind == "thinking":
            out = self._indexed("content_block_delta", {"delta": {"type": "signature_delta", "signature": SIGNATURE}})
        out += self._indexed("content_block_stop", {})
        self._closed.append(self._open.whole())
        self._open = None
        return out

    def _call(self, released: Released) -> bytes:
        """A released call: one block, with its canonical arguments in one piece, as they were judged."""
        value, arguments = _input(released.arguments)
        head: dict[str, JsonValue] = {"type": "tool_use", "id": released.call.call_id, "name": released.call.name}
        out = b"".join(
            [
                self._indexed("content_block_start", {"content_block": {**head, "input": {}}}),
                self._indexed(
                    "content_block_delta", {"delta": {"type": "input_json_delta", "partial_json": arguments}}
                ),
                self._indexed("content_block_stop", {}),
            ]
        )
        self._closed.append({**head, "input": value})
        return out

    def _indexed(self, kind: str, fields: Mapping[str, JsonValue]) -> bytes:
        """An event of the block that comes after the closed ones."""
        return _event(kind, {"index": len(self._closed), **fields})


def _input(arguments: str) -> tuple[JsonValue, str]:
    """The input of a call, parsed and in its canonical form. The dialect knows objects only."""
    value = cast(JsonValue, json.loads(arguments))
    if isinstance(value, dict):
        return value, arguments
    return {"input": value}, f'{{"input":{arguments}}}'


def _usage(usage: Usage) -> dict[str, JsonValue]:
    """Anthropic counts what came from a cache apart from the input."""
    return {
        "input_tokens": max(0, usage.input_tokens - usage.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }


def _event(kind: str, fields: Mapping[str, JsonValue]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + dump({"type": kind, **fields}) + b"\n\n"
