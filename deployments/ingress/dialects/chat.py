"""Chat Completions: request parsing, and the filter that lets no tool call pass unjudged.

The streaming filter has a fast path: an event that holds none of the marker words cannot hold a call, an end or a
number we need, and goes out as the bytes it came in. Everything else is parsed. `tests/unit/ingress` proves that both
paths give the same result under any chunking.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import ValidationError

from deployments.errors import EngineFailed, InvalidRequest
from deployments.ingress.dialects.notices import held_objects, notices
from deployments.ingress.dialects.requests import DROPPED, ChatRequest, invalid
from deployments.ingress.dialects.sse import data_event
from deployments.ingress.dialects.stream import Observed, OpenAiStream, dump, finish_of, mended, usage_of
from deployments.ingress.dialects.upstream import UNREADABLE
from deployments.ingress.dialects.values import Asked, Emit, Framing, Judge, ReplyFilter, Step, wanted_model
from deployments.ports import EFFORTS, Dialect, Effort, JsonValue, ModelId, Released, ToolCall, Verdict

PATH = "/v1/chat/completions"
_ID_CHARS = 256  # of a call: with a longer one no dialect takes it back


class ChatCodec:
    """The `chat` dialect."""

    def read(self, body: Mapping[str, JsonValue]) -> Asked:
        """Parse a request body, or raise `InvalidRequest` naming the field."""
        try:
            request = ChatRequest.model_validate(body)
        except ValidationError as error:
            raise invalid(error) from None
        _check_tools(request)
        if request.top_logprobs is not None and not request.logprobs:
            raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", "top_logprobs")
        if request.stream_options is not None and not request.stream:
            raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", "stream_options")
        return Asked(
            dialect=Dialect.CHAT,
            engine_path=PATH,
            body=_with_reasoning(
                {name: value for name, value in body.items() if name not in DROPPED and value is not None}
            ),
            model=wanted_model(request.model),
            requested_model=request.model or "auto",
            effort=EFFORTS[request.reasoning_effort] if request.reasoning_effort else None,
            stream=bool(request.stream),
            include_usage=bool(request.stream_options and request.stream_options.include_usage),
            choices=request.n or 1,
            offered_tools=frozenset(
                tool.function.name
                for tool in request.tools or ()
                if tool.function is not None and request.tool_choice != "none"
            ),
            prompt_texts=tuple(_texts(request)),
            max_tokens=request.max_completion_tokens or request.max_tokens,
        )

    def engine_body(self, asked: Asked, model: ModelId, effort: Effort) -> bytes:
        """The bytes for the engine: the client's request with model, effort and our own usage switch."""
        body: dict[str, JsonValue] = {**asked.body, "model": model, "reasoning_effort": effort.value}
        if asked.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    def filter(self, asked: Asked, framing: Framing) -> ReplyFilter:
        """A fresh filter for one reply."""
        return ChatStream(asked.include_usage, framing) if asked.stream else ChatReply()


def _with_reasoning(body: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The body with replayed reasoning under the name that most engines read; vLLM 0.29 takes either."""
    messages = body.get("messages")
    if isinstance(messages, list):
        body["messages"] = [
            {**{name: value for name, value in each.items() if name != "reasoning"}, "reasoning_content": said}
            if isinstance(each, dict) and (said := each.get("reasoning")) and not each.get("reasoning_content")
            else each
            for each in messages
        ]
    return body


def _check_tools(request: ChatRequest) -> None:
    for index, tool in enumerate(request.tools or ()):
        if tool.type != "function":
            raise InvalidRequest(
                f"Tools of type '{tool.type[:64]}' are not supported here; use 'function'.",
                f"tools[{index}].type",
                "unsupported_tool",
            )
        if tool.function is None:
            raise InvalidRequest(
                f"Missing required parameter: 'tools[{index}].function'.",
                f"tools[{index}].function",
                "missing_required_parameter",
            )
    if request.tool_choice not in (None, "none") and not request.tools:
        raise InvalidRequest("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
    for index, message in enumerate(request.messages):
        parts = message.content if isinstance(message.content, list) else ()
        for number, part in enumerate(parts):
            if part.type not in ("text", "refusal") or (part.type == "text" and part.text is None):
                raise InvalidRequest(
                    f"Content of type '{part.type[:64]}' is not supported by this model; only text is.",
                    f"messages[{index}].content[{number}].type",
                )


def _texts(request: ChatRequest) -> list[str]:
    texts: list[str] = []
    for message in request.messages:
        if isinstance(message.content, str):
            texts.append(message.content)
        elif message.content is not None:
            texts += [part.text for part in message.content if part.text]
        texts += [call.function.arguments for call in message.tool_calls or ()]
    for tool in request.tools or ():
        if tool.function is not None:
            texts.append(tool.function.description or "")
            texts.append(json.dumps(tool.function.parameters or {}))
    return texts


@dataclass(slots=True)
class OpenCall:
    """A call whose pieces are still arriving."""

    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])
    broken: str | None = None


@dataclass(slots=True)
class _Choice:
    calls: dict[int, OpenCall] = field(default_factory=dict[int, OpenCall])
    finished: bool = False


class ChatStream(OpenAiStream):
    """Filter of a streamed reply (`chat.completion.chunk` events). Implements `ReplyFilter`."""

    def __init__(self, include_usage: bool, framing: Framing) -> None:
        super().__init__(include_usage)
        self._framing = framing
        self._choices: dict[int, _Choice] = {}
        self._judging: tuple[int, dict[str, Any], dict[str, Any]] | None = None
        self._calls: tuple[ToolCall, ...] = ()

    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """Write what the verdicts allow: notice first, then released calls, then the finish chunk."""
        if self._judging is None or len(verdicts) != len(self._calls):
            raise RuntimeError("resolve() without its Judge, or with another number of verdicts")
        index, chunk, choice = self._judging
        self._judging, self._calls, self._waiting = None, (), False
        text = notices(verdicts)
        if text:
            lead = "\n\n" if self._saw_text else ""
            self._emit(chunk, {"index": index, "delta": {"content": f"{lead}{text}"}, "finish_reason": None})
        released = [verdict for verdict in verdicts if isinstance(verdict, Released)]
        for number, verdict in enumerate(released):
            delta = {"tool_calls": [released_call(verdict, number)]}
            self._emit(chunk, {"index": index, "delta": delta, "finish_reason": None})
        held = held_objects(verdicts)
        reason = "tool_calls" if released else "stop"
        self._finish_choice(
            chunk,
            {**choice, "delta": {}, "finish_reason": reason},
            {"held": held} if held else {},
            released[-1].receipt if released else self._receipt,
        )

    def again(self) -> ReplyFilter:
        """A filter for another attempt."""
        return ChatStream(self._include_usage, self._framing)

    def _idle(self) -> bytes:
        choice: dict[str, JsonValue] = {"index": 0, "delta": {}, "finish_reason": None}
        return data_event(
            dump(
                {
                    "id": f"chatcmpl-{self._framing.reply_id}",
                    "object": "chat.completion.chunk",
                    "created": self._framing.created_s,
                    "model": self._framing.model,
                    "choices": [choice],  # not empty: callers look at the first one
                }
            )
        )

    def _unfinished(self) -> bool:
        return any(not choice.finished for choice in self._choices.values())

    def _choice(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        index = int(choice.get("index", 0))
        state = self._choices.setdefault(index, _Choice())
        if state.finished:
            raise EngineFailed("The model's answer went on after its end.")
        delta = cast(dict[str, Any], choice.get("delta") or {})
        pieces = cast(list[dict[str, Any]], delta.pop("tool_calls", None) or [])
        legacy = delta.pop("function_call", None)
        if legacy is not None:
            pieces = [*pieces, {"index": 0, "function": legacy}]
        for piece in pieces:
            collect(state.calls, piece)
        rename_reasoning(delta)
        spoke = bool(delta.get("content") or delta.get("reasoning_content"))
        self._saw_text |= spoke
        finish = finish_of(choice)
        if finish is None:
            if delta:
                self._emit(chunk, {**choice, "delta": delta})
            return
        state.finished = True
        if spoke:
            self._emit(chunk, {**choice, "delta": delta, "finish_reason": None})
            choice = {**choice, "logprobs": None}
        # A call that the length limit (or an abort) has cut is never released, whole as it may look.
        calls = tuple(closed(state.calls, index, bool(self._notes))) if finish in ("tool_calls", "stop") else ()
        if calls:
            self._judging, self._calls, self._waiting = (index, chunk, choice), calls, True
            self._out.append(Judge(calls))
        else:
            reason = "stop" if finish == "tool_calls" else str(finish)
            self._finish_choice(chunk, {**choice, "delta": {}, "finish_reason": reason}, {}, self._receipt)


class ChatReply(Observed):
    """Filter of a JSON reply (`chat.completion`). Implements `ReplyFilter`; nothing leaves before the body ended."""

    def __init__(self) -> None:
        super().__init__()
        self._buffer = bytearray()
        self._body: dict[str, Any] | None = None
        self._pending: deque[tuple[dict[str, Any], tuple[ToolCall, ...]]] = deque()
        self._judging: tuple[dict[str, Any], tuple[ToolCall, ...]] | None = None
        self._extra: dict[str, JsonValue] = {}
        self._written = False

    def feed(self, data: bytes) -> None:
        """Take engine bytes."""
        self._buffer += data

    def close(self) -> None:
        """The body is complete: parse it."""
        try:
            body = cast(dict[str, Any], json.loads(bytes(self._buffer)))
            choices = cast(list[dict[str, Any]], body["choices"])
            if not choices:
                raise ValueError("no choices")
            for choice in choices:
                self._choice(choice)
            usage = cast(dict[str, Any] | None, body.get("usage"))
            self._usage = usage_of(usage) if usage else None
        except UNREADABLE as error:
            raise EngineFailed("The model's answer could not be read.") from error
        self._body = body

    def again(self) -> ReplyFilter:
        """A filter for another attempt."""
        return ChatReply()

    def step(self) -> Step | None:
        """First every choice's calls, then the whole body."""
        if self._body is None or self._judging is not None or self._written:
            return None
        if self._pending:
            self._judging = self._pending.popleft()
            return Judge(self._judging[1])
        self._written = True
        self._finished = [str(choice.get("finish_reason")) for choice in self._body["choices"]]
        if self._receipt is not None and "audit" not in self._extra:
            self._extra["audit"] = {"index": self._receipt.index, "leaf": self._receipt.leaf_hash.hex()}
        if self._extra:
            self._body["x_gatehouse"] = self._extra
        return Emit(dump(self._body))

    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """Write the verdicts into the choice they belong to."""
        if self._judging is None or len(verdicts) != len(self._judging[1]):
            raise RuntimeError("resolve() without its Judge, or with another number of verdicts")
        choice, _ = self._judging
        self._judging = None
        message = cast(dict[str, Any], choice["message"])
        released = [verdict for verdict in verdicts if isinstance(verdict, Released)]
        text = notices(verdicts)
        if text:
            message["content"] = f"{message['content']}\n\n{text}" if message.get("content") else text
            self._extra["held"] = [*cast(list[JsonValue], self._extra.get("held", [])), *held_objects(verdicts)]
        if released:
            message["tool_calls"] = [released_call(verdict, None) for verdict in released]
            audit = released[-1].receipt
            self._extra["audit"] = {"index": audit.index, "leaf": audit.leaf_hash.hex()}
        choice["finish_reason"] = "tool_calls" if released else "stop"

    def _choice(self, choice: dict[str, Any]) -> None:
        message = cast(dict[str, Any], choice["message"])
        rename_reasoning(message)
        self._saw_text |= bool(message.get("content") or message.get("reasoning_content"))
        pieces = cast(list[dict[str, Any]], message.pop("tool_calls", None) or [])
        legacy = message.pop("function_call", None)
        if legacy is not None:
            pieces = [*pieces, {"function": legacy}]
        calls: dict[int, OpenCall] = {}
        for number, piece in enumerate(pieces):
            collect(calls, {**piece, "index": number})
        finish = finish_of(choice)
        done = closed(calls, int(choice.get("index", 0)), bool(self._notes))
        if done and finish in ("tool_calls", "stop"):
            self._pending.append((choice, tuple(done)))
        elif finish == "tool_calls":
            choice["finish_reason"] = "stop"


def collect(calls: dict[int, OpenCall], piece: Mapping[str, Any]) -> None:
    """Add a `tool_calls` delta (or a whole call) to the calls so far; contradictions mark the call as broken."""
    call = calls.setdefault(int(piece.get("index", 0)), OpenCall())
    function = cast(dict[str, Any], piece.get("function") or {})
    if piece.get("type") not in (None, "function"):
        call.broken = "call of an unknown type"
    call_id, name = piece.get("id"), function.get("name")
    if call_id:
        call.broken = "call id changed" if call.call_id and call.call_id != call_id else call.broken
        call.call_id = str(call_id)
    if name:
        call.broken = "name changed within a call" if call.name and call.name != name else call.broken
        call.name = str(name)
    arguments = function.get("arguments")
    if arguments is not None:
        if not isinstance(arguments, str):
            raise TypeError("arguments are not a string")
        call.arguments.append(arguments)


def closed(calls: Mapping[int, OpenCall], choice: int, recovered: bool) -> list[ToolCall]:
    """The calls of a choice, complete and in order, each under an id that a client can send back."""
    done: list[ToolCall] = []
    taken: set[str] = set()
    for index, call in sorted(calls.items()):
        call_id = mended(call.call_id)
        if not call_id or len(call_id) > _ID_CHARS or call_id in taken:
            call_id = f"call_{choice}_{index}"
        while call_id in taken:
            call_id += "_"
        taken.add(call_id)
        done.append(
            ToolCall(
                call_id=call_id,
                choice=choice,
                index=index,
                name=mended(call.name),
                arguments=mended("".join(call.arguments)),
                recovered=recovered or call.broken is not None,
            )
        )
    return done


def released_call(verdict: Released, index: int | None) -> dict[str, JsonValue]:
    """A released call in OpenAI's shape, with the canonical arguments; `index` only in streams."""
    shape: dict[str, JsonValue] = {} if index is None else {"index": index}
    return {
        **shape,
        "id": verdict.call.call_id,
        "type": "function",
        "function": {"name": verdict.call.name, "arguments": verdict.arguments},
    }


def rename_reasoning(delta: dict[str, Any]) -> None:
    """Spell `reasoning` (vLLM 0.29) as `reasoning_content`: that is what clients read."""
    if "reasoning" in delta:
        delta["reasoning_content"] = delta.pop("reasoning")
