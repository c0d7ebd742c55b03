"""From Anthropic's messages and tools to those of a chat request, the one internal form."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from deployments.errors import InvalidRequest
from deployments.ingress.dialects.messages_requests import (
    Block,
    ClientTool,
    DocumentBlock,
    DocumentSource,
    MessagesRequest,
    OtherBlock,
    RedactedBlock,
    SearchResultBlock,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from deployments.ports import JsonValue

# Claude Code's first system block: it changes from request to request, so it would cost every prefix cache its hit
# and every session its id.
_BILLING: Final = "x-anthropic-billing-header"

# Anthropic would run these. A model that is not told of them answers without; the names travel in a header.
_DROPPED: Final = re.compile(
    r"(web_search|web_fetch|code_execution|tool_search_tool_bm25|tool_search_tool_regex|advisor)(_\d{8})?",
    re.ASCII,  # they end in a header
)
_WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of a chat request, and what they cannot say.

    `failed` is `is_error` of results that have it, by the id of the call; `outside`: there is a search result in it.
    """

    messages: list[JsonValue]
    failed: Mapping[str, bool]
    outside: bool


def chat_messages(request: MessagesRequest) -> Conversation:
    """The messages of the chat request. Raises `InvalidRequest` naming the block that has no place in one.

    Results of tools go before the other text of their message, because that is where a chat expects them. A call
    without its result is refused, but for one in the last message: the engine could not place it.
    """
    turns = _Turns()
    if isinstance(request.system, str):
        # Some proxies join the system blocks; the header is a line of its own then.
        turns.system(request.system.partition("\n")[2] if request.system.startswith(_BILLING) else request.system)
    else:
        turns.system(_system_text(request.system or (), "system"))
    for index, message in enumerate(request.messages):
        where = f"messages[{index}].content"
        content = message.content
        blocks = [TextBlock(type="text", text=content)] if isinstance(content, str) else content
        match message.role:
            case "system":
                turns.system(_system_text(blocks, where))
            case "user":
                turns.user(blocks, where)
            case "assistant":
                turns.assistant(blocks, where)
    return turns.close()


def chat_tools(tools: Sequence[Tool]) -> tuple[list[JsonValue], tuple[str, ...]]:
    """The functions of the chat request, and the types of those that were left out.

    Raises `InvalidRequest` for a tool whose meaning lies in its type: it came without the schema that would explain it.
    """
    functions: list[JsonValue] = []
    dropped: list[str] = []
    for index, tool in enumerate(tools):
        if isinstance(tool, ClientTool):
            function: dict[str, JsonValue] = {"name": tool.name}
            if tool.description is not None:
                function["description"] = tool.description
            functions.append({"type": "function", "function": {**function, "parameters": tool.input_schema}})
        elif _DROPPED.fullmatch(tool.type):
            dropped.append(tool.type)
        else:
            param = f"tools[{index}].type"
            raise InvalidRequest(
                f"'{param}': tools of {_named(tool.type)} are not supported here; describe the tool with an "
                "'input_schema'.",
                param,
                "unsupported_tool",
            )
    return functions, tuple(dropped)


class _Turns:
    """The chat as it grows, message by message."""

    def __init__(self) -> None:
        self._out: list[JsonValue] = []
        self._users: list[JsonValue] = []  # wait until the results of the same run of user messages are placed
        self._open: dict[str, str] = {}  # calls without a result, and where they are
        self._answered = False
        self._spoken = False
        self._failed: dict[str, bool] = {}
        self._outside = False

    def system(self, text: str) -> None:
        """Text of the system, wherever it stands."""
        self._place_users()
        if text:
            self._out.append({"role": "system", "content": text})

    def user(self, blocks: Sequence[Block], where: str) -> None:
        """A message of the user: results first, then text."""
        texts: list[str] = []
        for number, block in enumerate(blocks):
            at = f"{where}[{number}]"
            self._outside |= isinstance(block, SearchResultBlock)
            if isinstance(block, ToolResultBlock):
                self._result(block, at)
            else:
                texts.append(_plain(block, at))
        text = "\n\n".join(each for each in texts if each)
        if text:
            self._users.append({"role": "user", "content": text})
        self._answered = True

    def assistant(self, blocks: Sequence[Block], where: str) -> None:
        """A message of the model: what it thought, said and called."""
        self._settle()
        thoughts: list[str] = []
        texts: list[str] = []
        calls: list[JsonValue] = []
        for number, block in enumerate(blocks):
            at = f"{where}[{number}]"
            match block:
                case TextBlock():
                    texts.append(block.text)
                case ThinkingBlock():
                    thoughts.append(block.thinking)
                case RedactedBlock():
                    pass
                case ToolUseBlock():
                    calls.append(self._call(block, at))
                case _:
                    raise _refused(block.type, at)
        text = "\n\n".join(each for each in texts if each)
        reasoning = "\n\n".join(each for each in thoughts if each)
        if not (text or reasoning or calls):
            return
        message: dict[str, JsonValue] = {"role": "assistant", "content": None if calls and not text else text}
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = calls
        self._say(message)

    def close(self) -> Conversation:
        """The whole chat."""
        self._settle()
        if not self._spoken:
            raise InvalidRequest("'messages' holds no text.", "messages")
        return Conversation(self._out, self._failed, self._outside)

    def _result(self, block: ToolResultBlock, at: str) -> None:
        if self._open.pop(block.tool_use_id, None) is None:
            param = f"{at}.tool_use_id"
            raise InvalidRequest(f"'{param}' does not name a 'tool_use' that waits for its result.", param)
        if block.is_error is not None:
            self._failed[block.tool_use_id] = block.is_error
        parts = block.content if isinstance(block.content, list) else []
        self._outside |= any(isinstance(part, SearchResultBlock) for part in parts)
        self._say({"role": "tool", "tool_call_id": block.tool_use_id, "content": _result_text(block, at)})

    def _call(self, block: ToolUseBlock, at: str) -> JsonValue:
        if block.id in self._open:
            raise InvalidRequest(f"'{at}.id' is the id of another 'tool_use' without a result.", f"{at}.id")
        self._open[block.id] = at
        arguments = json.dumps(block.input, ensure_ascii=False, separators=(",", ":"))
        return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}

    def _say(self, message: JsonValue) -> None:
        self._spoken = True
        self._out.append(message)

    def _place_users(self) -> None:
        for message in self._users:
            self._say(message)
        self._users = []

    def _settle(self) -> None:
        """A run of user messages is over: by now every call must have its result."""
        self._place_users()
        if self._answered and self._open:
            at = next(iter(self._open.values()))
            raise InvalidRequest(f"'{at}': a 'tool_use' needs its 'tool_result' in the next message.", at)
        self._answered = False


def _system_text(blocks: Sequence[Block], where: str) -> str:
    texts = [_plain(block, f"{where}[{number}]") for number, block in enumerate(blocks)]
    return "\n\n".join(text for text in texts if text and not text.startswith(_BILLING))


def _plain(block: Block, at: str) -> str:
    """The text of a block that is text at heart."""
    match block:
        case TextBlock():
            return block.text
        case SearchResultBlock():
            return "\n\n".join([f"{block.title}\n{block.source}", *(each.text for each in block.content)])
        case DocumentBlock():
            text = _document(block.source)
            if text is not None:
                return "\n\n".join(each for each in (block.title, block.context, text) if each)
        case _:
            pass
    raise _refused(block.type, at)


def _document(source: DocumentSource) -> str | None:
    """The words of a document; None when it is a file, or only the address of one."""
    match source.type, source.content:
        case "text", _:
            return source.data
        case "content", str() as text:
            return text
        case "content", list() as blocks:
            return "\n\n".join(block.text for block in blocks)
        case _:
            return None


def _result_text(block: ToolResultBlock, at: str) -> str:
    """The result in words.

    What no text model can see is named in its place. To refuse it would end the conversation, because a client replays
    every result on every turn.
    """
    if block.content is None or isinstance(block.content, str):
        text = block.content or ""
    else:
        text = "\n".join(_result_part(part, f"{at}.content[{number}]") for number, part in enumerate(block.content))
    return f"Error: {text}" if block.is_error and text[:5].lower() != "error" else text


def _result_part(part: Block, at: str) -> str:
    match part:
        case ToolReferenceBlock():
            return f"[tool {part.tool_name}]"
        case DocumentBlock() if _document(part.source) is None:
            return "[document omitted]"
        case OtherBlock() if part.type == "image":
            return "[image omitted]"
        case _:
            return _plain(part, at)


def _refused(kind: str, at: str) -> InvalidRequest:
    param = f"{at}.type"
    return InvalidRequest(f"'{param}': content of {_named(kind)} is not supported here; only text is.", param)


def _named(kind: str) -> str:
    """The client's word for a type, when it is one."""
    return f"type '{kind}'" if _WORD.fullmatch(kind) else "that type"
