"""The Responses dialect (wire contract, section 10): items in, chat for the engine, items and their events out.

The request becomes a chat request in `responses_input.py` and `responses_tools.py`. The reply is written by
`ResponsesWriter`: one item after the other, each with its full sequence of events, and the tool calls last, next to the
terminal event, so that a client that retries a broken stream has executed none of them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from deployments.ingress.dialects.responses_input import failed_calls, read_input
from deployments.ingress.dialects.responses_requests import ResponsesRequest, TextFormat, read_request
from deployments.ingress.dialects.responses_tools import Named, Tools, custom_input, read_tools
from deployments.ingress.dialects.sse import data_event
from deployments.ingress.dialects.stream import dump
from deployments.ingress.dialects.translated import TranslatedReply
from deployments.ingress.dialects.values import (
    Asked,
    End,
    Failure,
    Framing,
    ReplyFilter,
    callable_names,
    wanted_model,
)
from deployments.ports import EFFORTS, Dialect, Effort, JsonValue, ModelId, Released, ResponseStatus, Usage

_PATH: Final = "/v1/chat/completions"
_COMPLETE: Final = frozenset({"stop", "tool_calls"})
_INCOMPLETE: Final[Mapping[str, JsonValue]] = {"length": "max_output_tokens", "content_filter": "content_filter"}
# Codex stops after one request on these, or waits; any other code means "try again" to it.
_ERRORS: Final = {
    "context_length_exceeded": "context_length_exceeded",
    "budget_exceeded": "insufficient_quota",
    "rate_limit_exceeded": "rate_limit_exceeded",
    "server_is_overloaded": "server_is_overloaded",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What the reply needs of its request: the fields to echo, and the tools' names as the client knows them."""

    echo: Mapping[str, JsonValue]
    summary: str | None
    known: Mapping[str, Named]


class ResponsesCodec:
    """The `responses` dialect."""

    def read(self, body: Mapping[str, JsonValue]) -> Asked:
        """Parse a request body, or raise `InvalidRequest` naming the field."""
        request = read_request(body)
        tools = read_tools(request)
        messages = read_input(request, tools)
        effort = request.reasoning.effort if request.reasoning else None
        return Asked(
            dialect=Dialect.RESPONSES,
            engine_path=_PATH,
            body=_chat(request, messages, tools),
            model=wanted_model(request.model),
            requested_model=request.model or "auto",
            effort=EFFORTS[effort] if effort else None,
            stream=bool(request.stream),
            include_usage=True,
            choices=1,
            offered_tools=frozenset() if tools.choice == "none" else frozenset(_names(tools)),
            prompt_texts=tuple(_texts(messages, tools)),
            max_tokens=request.max_output_tokens,
            dropped_tools=tools.dropped,
            failed=failed_calls(request),
            extra=Shape(_echo(request, body), request.reasoning.summary if request.reasoning else None, tools.known),
        )

    def engine_body(self, asked: Asked, model: ModelId, effort: Effort) -> bytes:
        """The bytes for the engine: the chat request with model, effort and our own usage switch."""
        body: dict[str, JsonValue] = {**asked.body, "model": model, "reasoning_effort": effort.value}
        if asked.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return dump(body)

    def filter(self, asked: Asked, framing: Framing) -> ReplyFilter:
        """A fresh filter for one reply."""
        return TranslatedReply(ResponsesWriter(_shape(asked), framing), asked.stream, callable_names(asked))


def snapshot(asked: Asked, framing: Framing, status: ResponseStatus) -> dict[str, JsonValue]:
    """The response object before its first item: what a background request is answered with."""
    return _response(_shape(asked), framing, status, [])


def _shape(asked: Asked) -> Shape:
    return cast(Shape, asked.extra)


def _chat(request: ResponsesRequest, messages: list[JsonValue], tools: Tools) -> dict[str, JsonValue]:
    body: dict[str, JsonValue] = {
        "messages": messages,
        "tools": [*tools.functions] or None,
        "tool_choice": tools.choice,
        "parallel_tool_calls": request.parallel_tool_calls if tools.functions else None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_output_tokens,
        "response_format": _response_format(request.text.format if request.text else None),
    }
    return {name: value for name, value in body.items() if value is not None}


def _response_format(wanted: TextFormat | None) -> JsonValue:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "json_object"}
    schema: dict[str, JsonValue] = {
        "name": wanted.name,
        "description": wanted.description,
        "schema": wanted.schema_,
        "strict": wanted.strict,
    }
    return {"type": "json_schema", "json_schema": {key: each for key, each in schema.items() if each is not None}}


def _names(tools: Tools) -> list[str]:
    return [str(cast(Mapping[str, JsonValue], tool["function"])["name"]) for tool in tools.functions]


def _texts(messages: list[JsonValue], tools: Tools) -> list[str]:
    texts: list[str] = []
    for message in cast(list[Mapping[str, JsonValue]], messages):
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        for part in cast(list[Mapping[str, str]], content if isinstance(content, list) else []):
            texts.append(part["text"])
        for call in cast(list[Mapping[str, Mapping[str, str]]], message.get("tool_calls") or []):
            texts.append(call["function"]["arguments"])
    for tool in tools.functions:
        function = cast(Mapping[str, JsonValue], tool["function"])
        texts.append(str(function.get("description") or ""))
        texts.append(json.dumps(function.get("parameters") or {}))
    return texts


def _echo(request: ResponsesRequest, body: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The fields of the response object that repeat the request, as it was sent."""
    tools = cast(list[JsonValue], body.get("tools") or [])
    text = cast(Mapping[str, JsonValue], body.get("text") or {})
    kinds = [tool.type for tool in request.tools or ()]
    offered = [tool for tool, kind in zip(tools, kinds, strict=True) if kind in ("function", "custom", "namespace")]
    verbosity: dict[str, JsonValue] = {"verbosity": text["verbosity"]} if text.get("verbosity") else {}
    return {
        "background": bool(request.background),
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": cast(JsonValue, request.metadata or {}),
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",  # there is one
        "store": request.store is not False,
        "temperature": request.temperature,
        "text": {"format": text.get("format") or {"type": "text"}, **verbosity},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": offered,
        "top_logprobs": 0,
        "top_p": request.top_p,
        "truncation": "disabled",  # nothing is left out, also when a client would allow it
        "user": request.user,
    }


def _response(
    shape: Shape, framing: Framing, status: ResponseStatus, output: list[JsonValue], **fields: JsonValue
) -> dict[str, JsonValue]:
    return {
        "id": f"resp_{framing.reply_id}",
        "object": "response",
        "created_at": framing.created_s,
        "status": status.value,
        "model": framing.model,
        "output": output,
        "error": None,
        "incomplete_details": None,
        "usage": None,
        "reasoning": {"effort": framing.effort.value, "summary": shape.summary},
        **shape.echo,
        **fields,
    }


def _usage(usage: Usage) -> JsonValue:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a streamed item is called: `item` in its object, `prefix` in its id, `part` in its content and events."""

    item: str
    prefix: str
    part: str


_MESSAGE: Final = _Kind("message", "msg", "output_text")
_REASONING: Final = _Kind("reasoning", "rs", "reasoning_text")
_SPOKEN: Final = frozenset({_MESSAGE.item, _REASONING.item})


@dataclass(slots=True)
class _Open:
    """A message or a reasoning that is being written, and its text so far."""

    kind: _Kind
    item_id: str
    pieces: list[str] = field(default_factory=list[str])

    def part(self, text: str) -> dict[str, JsonValue]:
        part: dict[str, JsonValue] = {"type": self.kind.part, "text": text}
        if self.kind is _MESSAGE:
            part |= {"annotations": [], "logprobs": []}
        return part

    def item(self, status: str) -> dict[str, JsonValue]:
        """The item with its text so far; one that has just begun has no content."""
        content: list[JsonValue] = [self.part("".join(self.pieces))] if self.pieces else []
        item: dict[str, JsonValue] = {"id": self.item_id, "type": self.kind.item, "status": status, "content": content}
        item |= {"role": "assistant"} if self.kind is _MESSAGE else {"summary": []}
        return item


class ResponsesWriter:
    """Writes one response. Implements `Writer`."""

    def __init__(self, shape: Shape, framing: Framing, sequence: int = 0) -> None:
        """`sequence` is the number of the next event; not 0 when an attempt before wrote keepalives."""
        self._shape = shape
        self._framing = framing
        self._sequence = sequence
        self._output: list[JsonValue] = []
        self._open: _Open | None = None
        self._final: Mapping[str, JsonValue] | None = None

    @property
    def final(self) -> Mapping[str, JsonValue] | None:
        """The response object, once `finish` was called."""
        return self._final

    def reasoning(self, text: str) -> bytes:
        """A piece of reasoning, not empty."""
        return self._begin() + self._say(_REASONING, text)

    def text(self, text: str) -> bytes:
        """A piece of the answer, not empty."""
        return self._begin() + self._say(_MESSAGE, text)

    def finish(self, end: End) -> bytes:
        """Close what is open; then the notice as a message of its own, the released calls, the terminal event."""
        complete = end.finish in _COMPLETE
        status = ResponseStatus.COMPLETED if complete else ResponseStatus.INCOMPLETE
        data = [self._begin(), self._close(status)]
        if end.notice:
            data += [self._say(_MESSAGE, end.notice), self._close(ResponseStatus.COMPLETED)]
        data += [self._call(released) for released in end.released]
        fields: dict[str, JsonValue] = {"usage": _usage(end.usage)}
        if not complete:
            fields["incomplete_details"] = {"reason": _INCOMPLETE.get(end.finish)}
        if end.extension:
            fields["x_gatehouse"] = dict(end.extension)
        self._final = self._response(status, self._output, **fields)
        data.append(self._event(f"response.{status.value}", response=dict(self._final)))
        return b"".join(data)

    def keepalive(self, silent_s: float) -> bytes:
        """`response.in_progress`: data, which is what clients' timers count, however short the silence is."""
        del silent_s
        return self._begin() or self._in_progress()

    def failed(self, failure: Failure) -> bytes:
        """`response.failed`, with what was written so far; an item that was open stays without its end.

        Calls are not repeated: their client has not seen the end that would let it run them.
        """
        error: JsonValue = {"code": _ERRORS.get(failure.code, "server_error"), "message": failure.message}
        rest: list[JsonValue] = [self._open.item(ResponseStatus.INCOMPLETE.value)] if self._open else []
        begun = self._begin()
        said = [item for item in self._output if isinstance(item, dict) and item["type"] in _SPOKEN]
        response = self._response(ResponseStatus.FAILED, [*said, *rest], error=error)
        return begun + self._event("response.failed", response=response)

    def again(self) -> "ResponsesWriter":
        """A writer for another attempt: what keepalives have begun is not begun twice."""
        return ResponsesWriter(self._shape, self._framing, self._sequence)

    def _begin(self) -> bytes:
        if self._sequence:
            return b""
        begun = self._response(ResponseStatus.IN_PROGRESS, [])
        return self._event("response.created", response=begun) + self._in_progress()

    def _in_progress(self) -> bytes:
        return self._event("response.in_progress", response=self._response(ResponseStatus.IN_PROGRESS, []))

    def _say(self, kind: _Kind, text: str) -> bytes:
        opened = b""
        if self._open is None or self._open.kind is not kind:
            opened = self._close(ResponseStatus.COMPLETED) + self._start(kind)
        item = cast(_Open, self._open)
        item.pieces.append(text)
        return opened + self._in_part(item, "delta", delta=text)

    def _start(self, kind: _Kind) -> bytes:
        self._open = item = _Open(kind, self._item_id(kind.prefix))
        return self._item("added", item.item(ResponseStatus.IN_PROGRESS.value)) + self._event(
            "response.content_part.added",
            item_id=item.item_id,
            output_index=len(self._output),
            content_index=0,
            part=item.part(""),
        )

    def _close(self, status: ResponseStatus) -> bytes:
        item = self._open
        if item is None:
            return b""
        text = "".join(item.pieces)
        whole = item.item(status.value)
        data = (
            self._in_part(item, "done", text=text)
            + self._event(
                "response.content_part.done",
                item_id=item.item_id,
                output_index=len(self._output),
                content_index=0,
                part=item.part(text),
            )
            + self._item("done", whole)
        )
        self._output.append(whole)
        self._open = None
        return data

    def _in_part(self, item: _Open, what: str, **fields: JsonValue) -> bytes:
        if item.kind is _MESSAGE:
            fields["logprobs"] = []
        return self._event(
            f"response.{item.kind.part}.{what}",
            item_id=item.item_id,
            output_index=len(self._output),
            content_index=0,
            **fields,
        )

    def _call(self, released: Released) -> bytes:
        """A released call with all its events, in the words in which the client offered the tool."""
        call = released.call
        known = self._shape.known.get(call.name, Named(call.name))
        where: dict[str, JsonValue] = {"namespace": known.namespace} if known.namespace is not None else {}
        item: dict[str, JsonValue] = {
            "id": self._item_id("ctc" if known.custom else "fc"),
            "type": "custom_tool_call" if known.custom else "function_call",
            "status": ResponseStatus.COMPLETED.value,
            "call_id": call.call_id,
            "name": known.name,
            **where,
        }
        key, events = ("input", "custom_tool_call_input") if known.custom else ("arguments", "function_call_arguments")
        value = custom_input(released.arguments) if known.custom else released.arguments
        place: dict[str, JsonValue] = {"item_id": item["id"], "output_index": len(self._output)}
        whole = item | {key: value}
        data = (
            self._item("added", item | {"status": ResponseStatus.IN_PROGRESS.value, key: ""})
            + self._event(f"response.{events}.delta", **place, delta=value)
            + self._event(f"response.{events}.done", **place, **{key: value})
            + self._item("done", whole)
        )
        self._output.append(whole)
        return data

    def _item(self, what: str, item: dict[str, JsonValue]) -> bytes:
        return self._event(f"response.output_item.{what}", output_index=len(self._output), item=item)

    def _item_id(self, prefix: str) -> str:
        return f"{prefix}_{self._framing.reply_id}{len(self._output):04x}"

    def _response(self, status: ResponseStatus, output: list[JsonValue], **fields: JsonValue) -> dict[str, JsonValue]:
        return _response(self._shape, self._framing, status, output, **fields)

    def _event(self, kind: str, **fields: JsonValue) -> bytes:
        payload: dict[str, JsonValue] = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return b"event: " + kind.encode() + b"\n" + data_event(dump(payload))
