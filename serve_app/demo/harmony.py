"""Examples as harmony token ids, rendered as vLLM 0.29 renders chat completions.

Source of the layout: `vllm/entrypoints/openai/parser/harmony_utils.py`; a reply has the form gpt-oss itself writes.
"""

import json
from dataclasses import dataclass

from openai_harmony import (  # pyright: ignore[reportMissingTypeStubs]
    Author,
    Conversation,
    DeveloperContent,
    HarmonyEncoding,
    HarmonyEncodingName,
    Message,
    ReasoningEffort,
    RenderConversationConfig,
    Role,
    SystemContent,
    ToolDescription,
    load_harmony_encoding,
)

from serve_app.demo.recipe import SHELL_TOOL, Effort, Example, FunctionTool, Reply, Session, Turn

_EFFORT: dict[Effort, ReasoningEffort] = {
    "low": ReasoningEffort.LOW,
    "medium": ReasoningEffort.MEDIUM,
    "high": ReasoningEffort.HIGH,
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of a conversation; each span (start, end) is one reply the model must write, stop token included."""

    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def load_encoding() -> HarmonyEncoding:
    """The harmony encoding; reads the vocabulary from the folder in `TIKTOKEN_ENCODINGS_BASE`."""
    return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


def render(encoding: HarmonyEncoding, example: Example) -> Rendered:
    """The example as token ids; its one span is the end."""
    messages = _preamble(example)
    for turn in example.turns:
        messages += _messages(turn)
    prompt = _complete(encoding, messages)
    tokens = (*prompt, *encoding.encode(reply_text(example.reply), allowed_special="all"))
    return Rendered(tokens, ((len(prompt), len(tokens)),))


def render_session(encoding: HarmonyEncoding, session: Session) -> Rendered:
    """The session as token ids, with a span for every reply."""
    tokens: list[int] = []
    spans: list[tuple[int, int]] = []
    messages = _preamble(session)
    for turns, reply in session.exchanges:
        for turn in turns:
            messages += _messages(turn)
        tokens += _complete(encoding, messages)
        messages = []
        start = len(tokens)
        tokens += encoding.encode(reply_text(reply), allowed_special="all")
        spans.append((start, len(tokens)))
    return Rendered(tuple(tokens), tuple(spans))


def _complete(encoding: HarmonyEncoding, messages: list[Message]) -> list[int]:
    """The messages, and the header of the reply that follows them."""
    config = RenderConversationConfig(auto_drop_analysis=False)
    return encoding.render_conversation_for_completion(
        Conversation.from_messages(messages), Role.ASSISTANT, config=config
    )


def _preamble(source: Example | Session) -> list[Message]:
    system = SystemContent.new().with_reasoning_effort(_EFFORT[source.effort]).with_conversation_start_date(source.date)
    messages = [Message.from_role_and_content(Role.SYSTEM, system)]
    if source.instructions or source.tools:
        developer = DeveloperContent.new()
        if source.instructions:
            developer = developer.with_instructions(source.instructions)
        if source.tools:
            developer = developer.with_function_tools([_tool(tool) for tool in source.tools])
        messages.append(Message.from_role_and_content(Role.DEVELOPER, developer))
    return messages


def reply_text(reply: Reply) -> str:
    """The reply in harmony markup, from the analysis channel to the stop token."""
    head = f"<|channel|>analysis<|message|>{reply.analysis}<|end|><|start|>assistant<|channel|>"
    if reply.command:
        return (
            f"{head}commentary to=functions.{SHELL_TOOL} <|constrain|>json<|message|>{arguments(reply.command)}<|call|>"
        )
    return f"{head}final<|message|>{reply.final}<|return|>"


def arguments(command: str) -> str:
    """The JSON arguments of a call of the shell tool."""
    return json.dumps({"command": command}, separators=(",", ":"))


def _tool(tool: FunctionTool) -> ToolDescription:
    return ToolDescription(name=tool.name, description=tool.description, parameters=dict(tool.parameters))


def _messages(turn: Turn) -> list[Message]:
    if turn.role == "user":
        return [Message.from_role_and_content(Role.USER, turn.text)]
    if turn.role == "assistant":
        return [Message.from_role_and_content(Role.ASSISTANT, turn.text).with_channel("final")]
    if turn.role == "result":
        tool = Author.new(Role.TOOL, f"functions.{SHELL_TOOL}")
        message = Message.from_author_and_content(tool, turn.text)
        return [message.with_channel("commentary").with_recipient("assistant")]
    call = (
        Message.from_role_and_content(Role.ASSISTANT, arguments(turn.text))
        .with_channel("commentary")
        .with_recipient(f"functions.{SHELL_TOOL}")
        .with_content_type("json")
    )
    if not turn.analysis:
        return [call]
    return [Message.from_role_and_content(Role.ASSISTANT, turn.analysis).with_channel("analysis"), call]
