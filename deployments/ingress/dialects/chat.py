"""Chat Completions: request parsing, and the filter that lets no tool call pass unjudged.

The streaming filter has a fast path: an event that is known to hold one text and nothing else goes out as the bytes it
came in. Everything else is parsed, and only what is known goes on. `tests/unit/ingress` proves that both paths give the
same result under any chunking.
"""

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import ValidationError

from deployments.errors import EngineFailed, InvalidRequest
from deployments.ingress.dialects import shapes
from deployments.ingress.dialects.calls import OpenCall, closed, collect, released_call, why, withheld
from deployments.ingress.dialects.leaks import LeakScanner, Span
from deployments.ingress.dialects.notices import held_objects, notices
from deployments.ingress.dialects.requests import DROPPED, ChatRequest, invalid
from deployments.ingress.dialects.sse import data_event
from deployments.ingress.dialects.stream import (
    Observed,
    OpenAiStream,
    Spoken,
    dump,
    finish_of,
    quoted,
    usage_of,
)
from deployments.ingress.dialects.upstream import UNREADABLE
from deployments.ingress.dialects.values import (
    Asked,
    Emit,
    Framing,
    Judge,
    ReplyFilter,
    Step,
    callable_names,
    wanted_model,
)
from deployments.ports import EFFORTS, Dialect, Effort, JsonValue, ModelId, Released, ToolCall, Verdict

PATH = "/v1/chat/completions"
TEXTS = ("content", "reasoning_content", "refusal")
ENDS = frozenset({"tool_calls", "function_call", "stop"})
"""Ends of a choice whose calls are complete: what the limit (or an abort) has cut is never released, whole or not."""

_LEGACY = {"functions": "tools", "function_call": "tool_choice"}
"""What OpenAI has replaced, and by what: two ways to call would be two ways to check."""

_LOUD = re.compile(rb"[<\[=`~\\]")  # of a text in JSON: what a scanner has to see, and any escape


class ChatCodec:
    """The `chat` dialect."""

    def read(self, body: Mapping[str, JsonValue]) -> Asked:
        """Parse a request body, or raise `InvalidRequest` naming the field."""
        for old, new in _LEGACY.items():
            if body.get(old) is not None:
                raise InvalidRequest(f"'{old}' is not supported here; use '{new}'.", old, "unsupported_parameter")
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
        names = callable_names(asked)
        return ChatStream(asked.include_usage, framing, names) if asked.stream else ChatReply(names)


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
class _Choice:
    """What is known of a choice that is being streamed. `scanners` has one per text, when calls may leak into it."""

    calls: dict[int, OpenCall] = field(default_factory=dict[int, OpenCall])
    items: list[shapes.Item] = field(default_factory=list[shapes.Item])
    scanners: dict[str, LeakScanner] = field(default_factory=dict[str, LeakScanner])
    finished: bool = False
    spoke: bool = False

    def scanner(self, key: str, names: frozenset[str]) -> LeakScanner:
        """The one of a text."""
        return self.scanners.setdefault(key, LeakScanner(names))

    def spans(self) -> list[Span]:
        """The calls that were found in its texts."""
        return [span for scanner in self.scanners.values() for span in scanner.spans]


class ChatStream(OpenAiStream):
    """Filter of a streamed reply (`chat.completion.chunk` events). Implements `ReplyFilter`."""

    _keys = b"content|reasoning|reasoning_content"

    def __init__(self, include_usage: bool, framing: Framing, names: frozenset[str] = frozenset()) -> None:
        """`names`: the tools that the model knows; their calls are looked for in its texts."""
        super().__init__(include_usage)
        self._framing = framing
        self._names = names
        self._choices: dict[int, _Choice] = {}

    def again(self) -> ReplyFilter:
        """A filter for another attempt."""
        return ChatStream(self._include_usage, self._framing, self._names)

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

    def _said(self, choice: dict[str, Any]) -> dict[str, Any]:
        return cast(dict[str, Any], choice["delta"])

    def _begun(self, index: int) -> _Choice:
        state = self._choices.setdefault(index, _Choice())
        if state.finished:
            raise EngineFailed("The model's answer went on after its end.")
        return state

    def _spoke(self, spoken: Spoken) -> None:
        state = self._begun(spoken.index)
        event, key = spoken.event, spoken.key
        if self._names:
            scanner = state.scanner("content" if key == b"content" else "reasoning_content", self._names)
            if scanner.idle and _LOUD.search(spoken.raw) is None:
                scanner.skim(spoken.raw.decode())
            else:
                text = str(json.loads(b'"' + spoken.raw + b'"'))
                out = scanner.feed(text)
                if out != text:
                    if not out:
                        return
                    event = event[: spoken.start] + b'"' + key + b'":' + quoted(out) + event[spoken.end :]
        if key == b"reasoning":
            event = event[: spoken.start] + b'"reasoning_content"' + event[spoken.start + len(b'"reasoning"') :]
        spoke = bool(spoken.raw)
        state.spoke |= spoke
        self._saw_text |= spoke
        self._out.append(Emit(event))

    def _choice(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        state = self._begun(int(choice.get("index", 0)))
        delta = cast(dict[str, Any], choice.get("delta") or {})
        self._collect(state, delta)
        choice, items, dropped = shapes.known(choice, shapes.CHOICE)
        delta, more, unknown = shapes.known(delta, shapes.MESSAGE, message=True)
        state.items += [*items, *more, *shapes.texts(delta)]
        self._dropped(dropped + unknown)
        rename_reasoning(delta)
        finish = finish_of(choice)
        whole = self._scan(state, delta, finish is not None)
        spoke = any(delta.get(key) for key in TEXTS)
        state.spoke |= spoke
        self._saw_text |= spoke
        if not (whole and _tells_no_more(choice, delta, bool(self._names))):
            choice["logprobs"] = None
        if finish is None:
            if delta:
                self._emit(chunk, {**choice, "delta": delta})
            return
        state.finished = True
        if spoke:
            self._emit(chunk, {**choice, "delta": delta, "finish_reason": None})
            choice["logprobs"] = None
        items, self._items = [*state.items, *self._items], []
        strange = withheld(state.spans(), items, int(choice.get("index", 0)))
        calls = closed(state.calls, int(choice.get("index", 0)), bool(self._notes))
        self._withheld += why((*strange, *calls))
        if calls and finish not in ENDS:
            self._withheld += ["truncated"] * len(calls)
            calls = ()
        if calls:
            choice["logprobs"] = None
        self._judge(chunk, choice, strange, calls)

    def _collect(self, state: _Choice, delta: dict[str, Any]) -> None:
        """Take the pieces of calls out of a delta."""
        pieces = cast(list[dict[str, Any]], delta.pop("tool_calls", None) or [])
        legacy = delta.pop("function_call", None)
        if legacy is not None:
            pieces = [*pieces, {"index": 0, "function": legacy}]
        for piece in pieces:
            collect(state.calls, piece)

    def _scan(self, state: _Choice, delta: dict[str, Any], last: bool) -> bool:
        """Leave in a delta what may go out of its texts, with what was held back if it is the last one.

        False when it is not what came.
        """
        if not self._names:
            return True
        whole = True
        for key in TEXTS:
            text = delta.get(key)
            if not text and not (last and key in state.scanners):
                continue
            scanner = state.scanner(key, self._names)
            out = scanner.feed(text or "") + (scanner.end() if last else "")
            if out != (text or ""):
                whole = False
                if out:
                    delta[key] = out
                else:
                    delta.pop(key, None)
        return whole

    def _conclude(self, chunk: dict[str, Any], choice: dict[str, Any], verdicts: Sequence[Verdict]) -> None:
        """Notice first, then released calls, then the finish chunk."""
        index = int(choice.get("index", 0))
        text = notices(verdicts)
        if text:
            lead = "\n\n" if self._choices[index].spoke else ""
            self._emit(chunk, {"index": index, "delta": {"content": f"{lead}{text}"}, "finish_reason": None})
        released = [verdict for verdict in verdicts if isinstance(verdict, Released)]
        for number, verdict in enumerate(released):
            delta = {"tool_calls": [released_call(verdict, number)]}
            self._emit(chunk, {"index": index, "delta": delta, "finish_reason": None})
        held = held_objects(verdicts)
        self._finish_choice(
            chunk,
            {**choice, "delta": {}, "finish_reason": finish_after(str(choice["finish_reason"]), bool(released))},
            {"held": held} if held else {},
            released[-1].receipt if released else self._receipt,
        )


class ChatReply(Observed):
    """Filter of a JSON reply (`chat.completion`). Implements `ReplyFilter`; nothing leaves before the body ended."""

    def __init__(self, names: frozenset[str] = frozenset()) -> None:
        """`names`: the tools that the model knows; their calls are looked for in its texts."""
        super().__init__()
        self._names = names
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
            body, items, dropped = shapes.known(body, shapes.CHUNK)
            self._dropped(dropped)
            body["choices"] = [self._choice(choice, items if number == 0 else [])
                               for number, choice in enumerate(choices)]  # fmt: skip
            usage = cast(dict[str, Any] | None, body.get("usage"))
            self._usage = usage_of(usage) if usage else None
        except UNREADABLE as error:
            raise EngineFailed("The model's answer could not be read.") from error
        self._body = body

    def again(self) -> ReplyFilter:
        """A filter for another attempt."""
        return ChatReply(self._names)

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
        if self._extra or self._noted:
            self._body["x_gatehouse"] = {**self._noted, **self._extra}
        return Emit(dump(self._body))

    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """Write the verdicts into the choice they belong to."""
        if self._judging is None:
            raise RuntimeError("resolve() without its Judge")
        choice, calls = self._judging
        verdicts = self._lawful(calls, verdicts)
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
        choice["finish_reason"] = finish_after(str(choice["finish_reason"]), bool(released))

    def _choice(self, choice: dict[str, Any], items: list[shapes.Item]) -> dict[str, Any]:
        """The choice without its calls, which wait for their verdicts; `items` are unknown ones of the whole body."""
        choice, more, dropped = shapes.known(choice, shapes.CHOICE)
        finish = finish_of(choice) or "stop"
        message = cast(dict[str, Any], choice["message"])
        pieces = cast(list[dict[str, Any]], message.pop("tool_calls", None) or [])
        legacy = message.pop("function_call", None)
        if legacy is not None:
            pieces = [*pieces, {"function": legacy}]
        message, strange, unknown = shapes.known(message, shapes.MESSAGE, message=True)
        items = [*items, *more, *strange, *shapes.texts(message)]
        self._dropped(dropped + unknown)
        rename_reasoning(message)
        index = int(choice.get("index", 0))
        taken = withheld(self._scan(message), items, index)
        self._saw_text |= any(message.get(key) for key in TEXTS)
        calls: dict[int, OpenCall] = {}
        for number, piece in enumerate(pieces):
            collect(calls, {**piece, "index": number})
        done = closed(calls, index, bool(self._notes))
        self._withheld += why((*taken, *done))
        choice = {**choice, "message": message, "finish_reason": finish}
        if taken or done:
            choice["logprobs"] = None  # they spell every token, those of calls among them
        if finish not in ENDS:
            self._withheld += ["truncated"] * len(done)
            done = ()
        self._pending.extend((choice, batch) for batch in (taken, done) if batch)
        if not done:
            choice["finish_reason"] = finish_after(finish, released=False)
        return choice

    def _scan(self, message: dict[str, Any]) -> list[Span]:
        spans: list[Span] = []
        for key in TEXTS if self._names else ():
            text = message.get(key)
            if text:
                scanner = LeakScanner(self._names)
                message[key] = scanner.feed(text) + scanner.end()
                spans += scanner.spans
        return spans


def finish_after(finish: str, released: bool) -> str:
    """The finish reason that fits what was released; what ended in another way than with calls, did."""
    if released:
        return "tool_calls"
    return "stop" if finish in ("tool_calls", "function_call") else finish


def _tells_no_more(choice: dict[str, Any], delta: dict[str, Any], offers: bool) -> bool:
    """True when the log probabilities of a chunk spell its text and no token besides, as those of a call would be."""
    logprobs = choice.get("logprobs")
    if not logprobs or not offers:
        return True
    tokens = cast(list[dict[str, Any]], logprobs.get("content") or [])
    return "".join(str(token["token"]) for token in tokens) == "".join(delta.get(key) or "" for key in TEXTS)


def rename_reasoning(delta: dict[str, Any]) -> None:
    """Spell `reasoning` (vLLM 0.29) as `reasoning_content`: that is what clients read."""
    reasoning = delta.pop("reasoning", None)
    if reasoning is not None and not delta.get("reasoning_content"):
        delta["reasoning_content"] = reasoning
