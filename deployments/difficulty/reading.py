"""From a parsed request body to what the router may look at. Never raises: an odd shape counts as absent."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

from deployments.ports import EFFORTS, Effort, JsonValue, Role, RouteRequest, Turn

MAX_TURNS: Final = 256
MAX_HEAD_CHARS: Final = 192_000
MAX_TAIL_CHARS: Final = 64_000
_MAX_TOOLS: Final = 512
_MAX_CALLS: Final = 64
_MAX_ARGUMENT_CHARS: Final = 16_000
_ROLES: Final[Mapping[str, Role]] = {
    "system": Role.SYSTEM,
    "developer": Role.DEVELOPER,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
    "function": Role.TOOL,
}
_TOOL_ROLES: Final = tuple(name for name, role in _ROLES.items() if role is Role.TOOL)
_USER: Final = Role.USER  # a member is looked up through a function, and this is asked for once per message


def read_chat(body: Mapping[str, JsonValue]) -> RouteRequest:
    """What the router sees of a chat completions body: the newest turns, the names of the tools, the wished effort.

    A message with an unknown role counts as the user's. Long texts keep their head and their tail. Third-party content
    is noticed in every message, also in those that are too old to be read.
    """
    messages = [message for message in _list(body.get("messages")) if isinstance(message, dict)]
    roles = [message.get("role") for message in messages]
    return RouteRequest(
        turns=tuple([_turn(message) for message in messages[-MAX_TURNS:]]),
        offered_tools=tuple(_tool_names(body)),
        requested_effort=_effort(body),
        untrusted_content=any(role in roles for role in _TOOL_ROLES),
    )


def read_completion(body: Mapping[str, JsonValue]) -> RouteRequest:
    """What the router sees of a completions body: the prompt as one user turn.

    Several prompts are read together; a prompt of token ids has no text and is not read.
    """
    prompt = body.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else [part for part in _list(prompt) if isinstance(part, str)]
    text = _cut("\n\n".join(texts))
    return RouteRequest(turns=(Turn(Role.USER, text),) if text else (), requested_effort=_effort(body))


def _turn(message: Mapping[str, JsonValue]) -> Turn:
    role = message.get("role")
    calls = tuple(_calls(message)) if "tool_calls" in message or "function_call" in message else ()
    return Turn(_ROLES.get(role, _USER) if isinstance(role, str) else _USER, _cut(_text(message.get("content"))), calls)


def _text(content: JsonValue) -> str:
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in _list(content):
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            if isinstance(text := part.get("text"), str):
                texts.append(text)
            if isinstance(refusal := part.get("refusal"), str):
                texts.append(refusal)
    return "\n".join(texts)


def _calls(message: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    calls = _list(message.get("tool_calls"))[-_MAX_CALLS:]
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    for function in (*functions, message.get("function_call")):
        if isinstance(function, dict):
            name, arguments = function.get("name"), function.get("arguments")
            yield (
                name if isinstance(name, str) else "",
                arguments[:_MAX_ARGUMENT_CHARS] if isinstance(arguments, str) else "",
            )


def _tool_names(body: Mapping[str, JsonValue]) -> Iterator[str]:
    for tool in (*_list(body.get("tools")), *_list(body.get("functions")))[:_MAX_TOOLS]:
        if isinstance(tool, dict):
            inner = tool.get("function")
            name = inner.get("name") if isinstance(inner, dict) else tool.get("name")
            if isinstance(name, str):
                yield name


def _effort(body: Mapping[str, JsonValue]) -> Effort | None:
    effort = body.get("reasoning_effort")
    if effort is None:
        reasoning = body.get("reasoning")
        effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    return EFFORTS.get(effort) if isinstance(effort, str) else None


def _list(value: JsonValue) -> Sequence[JsonValue]:
    return cast("Sequence[JsonValue]", value) if isinstance(value, list) else ()


def _cut(text: str) -> str:
    if len(text) <= MAX_HEAD_CHARS + MAX_TAIL_CHARS:
        return text
    return f"{text[:MAX_HEAD_CHARS]}\n{text[-MAX_TAIL_CHARS:]}"
