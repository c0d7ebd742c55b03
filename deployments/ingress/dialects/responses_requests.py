"""The request body of `/v1/responses`, strictly typed; `read_request` is the way in.

As in `requests.py`: a wrong type or an unknown field is refused with the field's name. What OpenAI defines and nothing
here can do (`conversation`, `prompt`, log probabilities, hosted tools) is refused as unsupported; what changes nothing
is accepted. Items and tools may carry more keys than we read, because clients replay what servers once sent them.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from deployments.errors import InvalidRequest
from deployments.ingress.dialects.requests import Listed, StreamOptions, ToolName, invalid
from deployments.ports import JsonValue

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
_LOOSE = ConfigDict(extra="allow", strict=True, frozen=True)

CallId = Annotated[str, Field(min_length=1, max_length=256)]

_CALLS: Final = ("function_call", "custom_tool_call", "function_call_output", "custom_tool_call_output")
_ITEMS: Final = frozenset({"message", "reasoning", *_CALLS})
_TOOLS: Final = frozenset({"function", "custom", "namespace"})
# Nothing here can run them; a model that is not told of them answers without. The names travel in a header.
_DROPPED: Final = re.compile(
    r"web_search(_preview)?(_\d{4}_\d{2}_\d{2})?|code_interpreter|container|image_generation", re.ASCII
)
_UNSUPPORTED: Final = ("conversation", "prompt")


class Part(BaseModel):
    """One part of a content list."""

    model_config = _LOOSE
    type: str
    text: str | None = None
    refusal: str | None = None


class MessageItem(BaseModel):
    """A message of any role; `type` may be left out."""

    model_config = _LOOSE
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Listed[Part]


class ReasoningItem(BaseModel):
    """What a model thought in an earlier turn; `encrypted_content` is another server's secret and is not read."""

    model_config = _LOOSE
    type: Literal["reasoning"]
    content: Listed[Part] | None = None
    summary: Listed[Part] | None = None


class FunctionCallItem(BaseModel):
    """A replayed call of a function; `namespace` when the function is one of a namespace."""

    model_config = _LOOSE
    type: Literal["function_call"]
    call_id: CallId
    name: str
    arguments: str
    namespace: str | None = None


class CustomCallItem(BaseModel):
    """A replayed call of a custom tool, whose input is plain text."""

    model_config = _LOOSE
    type: Literal["custom_tool_call"]
    call_id: CallId
    name: str
    input: str
    namespace: str | None = None


class OutputItem(BaseModel):
    """What came of a call."""

    model_config = _LOOSE
    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: CallId
    output: str | Listed[Part]
    status: Any = None


class FunctionTool(BaseModel):
    """A function on offer, flat."""

    model_config = _LOOSE
    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class InputFormat(BaseModel):
    """What a custom tool's input has to look like; a grammar has a syntax and a definition."""

    model_config = _STRICT
    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class CustomTool(BaseModel):
    """A tool that takes free text."""

    model_config = _LOOSE
    type: Literal["custom"]
    name: ToolName
    description: str | None = None
    format: InputFormat | None = None


def _kind(value: Any) -> str:
    """The tag of an object that `_check_kinds` has seen; "=" keeps it out of the paths of error messages."""
    return f"={cast(Mapping[str, Any], value).get('type') or 'message'}"


Inner = Annotated[
    Annotated[FunctionTool, Tag("=function")] | Annotated[CustomTool, Tag("=custom")], Discriminator(_kind)
]


class NamespaceTool(BaseModel):
    """Tools under a common name."""

    model_config = _LOOSE
    type: Literal["namespace"]
    name: ToolName
    description: str | None = None
    tools: Listed[Inner]


class HostedTool(BaseModel):
    """A tool that a server would run itself, and that is left out here."""

    model_config = _LOOSE
    type: str


def _tool_kind(value: Any) -> str:
    kind = _kind(value)
    return "=hosted" if _DROPPED.fullmatch(kind[1:]) else kind


Item = Annotated[
    Annotated[MessageItem, Tag("=message")]
    | Annotated[ReasoningItem, Tag("=reasoning")]
    | Annotated[FunctionCallItem, Tag("=function_call")]
    | Annotated[CustomCallItem, Tag("=custom_tool_call")]
    | Annotated[OutputItem, Tag("=function_call_output")]
    | Annotated[OutputItem, Tag("=custom_tool_call_output")],
    Discriminator(_kind),
]
Offered = Annotated[
    Annotated[FunctionTool, Tag("=function")]
    | Annotated[CustomTool, Tag("=custom")]
    | Annotated[NamespaceTool, Tag("=namespace")]
    | Annotated[HostedTool, Tag("=hosted")],
    Discriminator(_tool_kind),
]


class NamedTool(BaseModel):
    """One tool of `allowed_tools`."""

    model_config = _LOOSE
    type: str
    name: str | None = None
    namespace: str | None = None


class ToolChoice(BaseModel):
    """`tool_choice` as an object: one named tool, or the tools that are allowed."""

    model_config = _LOOSE
    type: str
    name: str | None = None
    namespace: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: Listed[NamedTool] | None = None


class TextFormat(BaseModel):
    """`text.format`; name and schema are those of `json_schema`."""

    model_config = _STRICT
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class Text(BaseModel):
    """`text`; there is nothing that `verbosity` could set in our models."""

    model_config = _STRICT
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(BaseModel):
    """`reasoning`; the reasoning itself is always sent, a summary never."""

    model_config = _STRICT
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: str | None = None


Include = Literal[
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "message.output_text.logprobs",
]


class ResponsesRequest(BaseModel):
    """`POST /v1/responses`. By now `previous_response_id` is part of `input`, and only echoed."""

    model_config = _STRICT

    input: str | Listed[Item]
    model: Annotated[str, Field(max_length=256)] | None = None
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: Listed[Offered] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    include: Listed[Include] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    # of the store and the edge
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool | None = None
    # accepted; some are echoed, none changes the answer
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    client_metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    truncation: Literal["auto", "disabled"] | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None


def read_request(body: Mapping[str, JsonValue]) -> ResponsesRequest:
    """The parsed body, or `InvalidRequest` naming the field."""
    for name in _UNSUPPORTED:
        if body.get(name) is not None:
            raise InvalidRequest(f"'{name}' is not supported here.", name, "unsupported_parameter")
    _check_kinds(body)
    try:
        request = ResponsesRequest.model_validate({k: v for k, v in body.items() if k not in _UNSUPPORTED})
    except ValidationError as error:
        raise invalid(error) from None
    _check(request)
    return request


def _check_kinds(body: Mapping[str, JsonValue]) -> None:
    """Every item and every tool is an object of a type we know; pydantic then sees only those."""
    for index, item in enumerate(_listed(body, "input")):
        kind = _type_of(item, f"input[{index}]")
        if kind == "item_reference" or (isinstance(item, dict) and item.keys() == {"id"}):
            raise InvalidRequest(
                f"'input[{index}]' refers to a stored item; send the item itself, or use 'previous_response_id'.",
                f"input[{index}].type",
                "unsupported_parameter",
            )
        if kind not in _ITEMS and kind is not None:
            raise InvalidRequest(
                f"Items of type '{kind[:64]}' are not supported here.", f"input[{index}].type", "unsupported_parameter"
            )
    for index, tool in enumerate(_listed(body, "tools")):
        kind = _check_tool(tool, f"tools[{index}]", _TOOLS)
        if kind == "namespace" and isinstance(tool, dict):
            for number, inner in enumerate(_listed(tool, "tools")):
                _check_tool(inner, f"tools[{index}].tools[{number}]", _TOOLS - {"namespace"})


def _check_tool(tool: JsonValue, path: str, known: frozenset[str]) -> str:
    kind = _type_of(tool, path)
    if kind is None:
        raise InvalidRequest(
            f"Missing required parameter: '{path}.type'.", f"{path}.type", "missing_required_parameter"
        )
    if kind not in known and not (known is _TOOLS and _DROPPED.fullmatch(kind)):
        raise InvalidRequest(
            f"Tools of type '{kind[:64]}' are not supported here; use 'function' or 'custom'.",
            f"{path}.type",
            "unsupported_tool",
        )
    return kind


def _listed(holder: Mapping[str, JsonValue], name: str) -> list[JsonValue]:
    value = holder.get(name)
    return value if isinstance(value, list) else []


def _type_of(value: JsonValue, path: str) -> str | None:
    if not isinstance(value, dict):
        raise InvalidRequest(f"Invalid value for '{path}': input should be an object.", path)
    kind = value.get("type")
    if kind is not None and not isinstance(kind, str):
        raise InvalidRequest(f"Invalid value for '{path}.type': input should be a valid string.", f"{path}.type")
    return kind or None


def _check(request: ResponsesRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", "stream_options")
    if request.top_logprobs:
        raise InvalidRequest("'top_logprobs' is not supported here.", "top_logprobs", "unsupported_parameter")
    for index, each in enumerate(request.include or ()):
        if each == "message.output_text.logprobs":
            raise InvalidRequest(f"'{each}' is not supported here.", f"include[{index}]", "unsupported_parameter")
    if request.text is not None and request.text.format is not None:
        wanted = request.text.format
        for name, value in (("name", wanted.name), ("schema", wanted.schema_)):
            if wanted.type == "json_schema" and value is None:
                path = f"text.format.{name}"
                raise InvalidRequest(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
