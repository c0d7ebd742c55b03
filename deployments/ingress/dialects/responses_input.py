"""Input items of the Responses API as the messages of a chat request.

Items are finer than messages. What an assistant did in one go (reasoning, text, calls) arrives as several items and
becomes one message, which is what the engine wrote and what a client of the chat dialect would send back: the same
conversation has the same prefix in both dialects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from deployments.errors import InvalidRequest
from deployments.ingress.dialects.responses_requests import (
    CustomCallItem,
    FunctionCallItem,
    MessageItem,
    OutputItem,
    Part,
    ReasoningItem,
    ResponsesRequest,
)
from deployments.ingress.dialects.responses_tools import Tools, custom_arguments
from deployments.ports import JsonValue

_TEXT = ("input_text", "output_text", "text")
_OMITTED = {"input_image": "[image omitted]", "input_file": "[file omitted]"}


@dataclass(slots=True)
class _Assistant:
    """An assistant's message that is being put together."""

    reasoning: list[str] = field(default_factory=list[str])
    texts: list[str] = field(default_factory=list[str])
    calls: list[JsonValue] = field(default_factory=list[JsonValue])

    def message(self) -> dict[str, JsonValue]:
        message: dict[str, JsonValue] = {"role": "assistant"}
        if self.texts or not self.calls:
            message["content"] = "\n\n".join(self.texts)
        if self.reasoning:
            message["reasoning_content"] = "\n\n".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


def failed_calls(request: ResponsesRequest) -> dict[str, bool]:
    """Calls whose output says that it is not all there (`status: incomplete`); other states say nothing of them."""
    items = () if isinstance(request.input, str) else request.input
    return {item.call_id: True for item in items if isinstance(item, OutputItem) and item.status == "incomplete"}


def read_input(request: ResponsesRequest, tools: Tools) -> list[JsonValue]:
    """The messages, instructions first; or `InvalidRequest` for content that is no text and outputs of no call."""
    reader = _Reader(tools)
    if request.instructions:
        reader.messages.append({"role": "system", "content": request.instructions})
    if isinstance(request.input, str):
        reader.messages.append({"role": "user", "content": request.input})
    else:
        for index, item in enumerate(request.input):
            reader.item(item, f"input[{index}]")
    reader.flush()
    if not reader.messages:
        raise InvalidRequest("'input' must not be empty.", "input")
    return reader.messages


class _Reader:
    def __init__(self, tools: Tools) -> None:
        self.messages: list[JsonValue] = []
        self._tools = tools
        self._open: _Assistant | None = None
        self._called: set[str] = set()

    def item(
        self, item: MessageItem | ReasoningItem | FunctionCallItem | CustomCallItem | OutputItem, path: str
    ) -> None:
        match item:
            case MessageItem(role="assistant"):
                self._speaking().texts.append("".join(_texts(item.content, f"{path}.content")))
            case MessageItem():
                self.flush()
                self.messages.append({"role": item.role, "content": _content(item.content, f"{path}.content")})
            case ReasoningItem():
                text = _thought(item)
                if text:
                    self._speaking().reasoning.append(text)
            case FunctionCallItem():
                self._call(item, item.arguments)
            case CustomCallItem():
                self._call(item, custom_arguments(item.input))
            case OutputItem():
                self._output(item, path)

    def flush(self) -> None:
        """Whatever the assistant was doing, it is over."""
        if self._open is not None:
            self.messages.append(self._open.message())
            self._open = None

    def _speaking(self) -> _Assistant:
        """The open message, unless it has called already: calls end a message."""
        if self._open is not None and self._open.calls:
            self.flush()
        return self._acting()

    def _acting(self) -> _Assistant:
        self._open = self._open or _Assistant()
        return self._open

    def _call(self, item: FunctionCallItem | CustomCallItem, arguments: str) -> None:
        self._called.add(item.call_id)
        name = self._tools.engine_name(item.name, item.namespace)
        self._acting().calls.append(
            {"id": item.call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        )

    def _output(self, item: OutputItem, path: str) -> None:
        if item.call_id not in self._called:
            raise InvalidRequest(f"'{path}.call_id' is the id of no tool call before it in 'input'.", f"{path}.call_id")
        self.flush()
        content = item.output if isinstance(item.output, str) else "\n".join(_outputs(item.output, f"{path}.output"))
        self.messages.append({"role": "tool", "tool_call_id": item.call_id, "content": content})


def _content(content: str | Sequence[Part], path: str) -> JsonValue:
    texts = _texts(content, path)
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts] or ""


def _texts(content: str | Sequence[Part], path: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [_text(part, f"{path}[{number}]") for number, part in enumerate(content)]


def _text(part: Part, path: str) -> str:
    text = part.refusal if part.type == "refusal" else part.text if part.type in _TEXT else None
    if text is not None:
        return text
    if part.type in (*_TEXT, "refusal"):
        field_path = f"{path}.{'refusal' if part.type == 'refusal' else 'text'}"
        raise InvalidRequest(f"Missing required parameter: '{field_path}'.", field_path, "missing_required_parameter")
    raise InvalidRequest(
        f"Content of type '{part.type[:64]}' is not supported by this model; only text is.", f"{path}.type"
    )


def _outputs(parts: Sequence[Part], path: str) -> list[str]:
    """A tool's output: what is no text is named, because a tool's images are no reason to end an agent's work."""
    return [_OMITTED.get(part.type) or _text(part, f"{path}[{number}]") for number, part in enumerate(parts)]


def _thought(item: ReasoningItem) -> str:
    whole = "".join(part.text for part in item.content or () if part.text)
    return whole or "\n\n".join(part.text for part in item.summary or () if part.text)
